//! Frames: `type u8 | length u24 | stream u32 | payload`, big-endian.
//!
//! Invariants: a header that breaks a limit is refused before one byte of its
//! payload is read, so no length field makes anyone allocate; payloads of
//! DATA, VOUCH and VOUCHED are handed on in pieces as they arrive, all others
//! whole. Must not know: which frame is legal when (`machine`), sockets, time.

/// Bytes of a frame's header.
pub const HEADER: usize = 8;
/// The most payload bytes of one DATA frame: with its header, one full TLS
/// record of 16,384 bytes (RFC 8446, section 5.1).
pub const MAX_DATA: usize = 16_376;
/// The most payload bytes of VOUCH and VOUCHED.
pub const MAX_VOUCH: usize = 64 * 1024;
/// The most payload bytes of every other frame.
pub const MAX_CONTROL: usize = 4 * 1024;

/// What a frame is. The numbers are those on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Type {
    /// A new stream, from the client.
    Open = 1,
    /// The app has accepted, from the server.
    Opened = 2,
    /// Policy says no, from the server.
    Denied = 3,
    /// The app could not be reached, from the server.
    Refused = 4,
    /// The stream's bytes.
    Data = 5,
    /// Half-close.
    Fin = 6,
    /// The app reset its connection, or it was cut.
    Reset = 7,
    /// No further streams.
    Goaway = 8,
    /// The client speaks for older tunnels.
    Vouch = 9,
    /// The server's answer to VOUCH.
    Vouched = 10,
}

impl Type {
    /// All types, in the order of their numbers.
    pub const ALL: [Self; 10] = [
        Self::Open,
        Self::Opened,
        Self::Denied,
        Self::Refused,
        Self::Data,
        Self::Fin,
        Self::Reset,
        Self::Goaway,
        Self::Vouch,
        Self::Vouched,
    ];

    /// The frame's name in logs.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Open => "OPEN",
            Self::Opened => "OPENED",
            Self::Denied => "DENIED",
            Self::Refused => "REFUSED",
            Self::Data => "DATA",
            Self::Fin => "FIN",
            Self::Reset => "RESET",
            Self::Goaway => "GOAWAY",
            Self::Vouch => "VOUCH",
            Self::Vouched => "VOUCHED",
        }
    }

    /// The most payload bytes that this frame may have.
    #[must_use]
    pub fn limit(self) -> usize {
        match self {
            Self::Data => MAX_DATA,
            Self::Vouch | Self::Vouched => MAX_VOUCH,
            Self::Open | Self::Opened | Self::Denied | Self::Refused | Self::Fin | Self::Reset | Self::Goaway => {
                MAX_CONTROL
            }
        }
    }

    /// Whether it belongs to the tunnel (stream 0) rather than to a stream.
    #[must_use]
    pub fn is_of_tunnel(self) -> bool {
        matches!(self, Self::Goaway | Self::Vouch | Self::Vouched)
    }

    /// Whether its payload is handed on in pieces.
    fn is_in_pieces(self) -> bool {
        matches!(self, Self::Data | Self::Vouch | Self::Vouched)
    }

    fn from_wire(number: u8) -> Option<Self> {
        Self::ALL.get(usize::from(number).checked_sub(1)?).copied()
    }
}

/// A frame's header. One that was decoded is within all limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// What the frame is.
    pub kind: Type,
    /// Payload bytes.
    pub length: usize,
    /// 0 for the tunnel's own frames.
    pub stream: u32,
}

/// Why bytes are not a frame. The tunnel ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The type is not 1 to 10.
    #[error("unknown frame type {0}: the peer does not speak watchword/1")]
    UnknownType(u8),
    /// More payload than this type may have.
    #[error("{} of {length} bytes: at most {} are allowed", .kind.name(), .kind.limit())]
    TooLong {
        /// Of the frame.
        kind: Type,
        /// What the header claims.
        length: usize,
    },
    /// DATA without a byte.
    #[error("DATA without a byte")]
    EmptyData,
    /// A stream's frame on stream 0, or the other way round.
    #[error("{} on stream {stream}", .kind.name())]
    WrongStream {
        /// Of the frame.
        kind: Type,
        /// What the header claims.
        stream: u32,
    },
}

impl Header {
    /// The header as it goes over the wire. `length` must be within the
    /// type's limit; more is cut off to 24 bits, which the peer refuses.
    #[must_use]
    pub fn encode(&self) -> [u8; HEADER] {
        let [_, a, b, c] = u32::try_from(self.length).unwrap_or(u32::MAX).to_be_bytes();
        let [d, e, f, g] = self.stream.to_be_bytes();
        [self.kind as u8, a, b, c, d, e, f, g]
    }

    /// Reads a header and checks every limit.
    ///
    /// # Errors
    /// The bytes are not a frame of watchword/1.
    pub fn decode(bytes: [u8; HEADER]) -> Result<Self, FrameError> {
        let [number, a, b, c, d, e, f, g] = bytes;
        let kind = Type::from_wire(number).ok_or(FrameError::UnknownType(number))?;
        let length = u32::from_be_bytes([0, a, b, c]) as usize;
        let stream = u32::from_be_bytes([d, e, f, g]);
        if length > kind.limit() {
            return Err(FrameError::TooLong { kind, length });
        }
        if kind == Type::Data && length == 0 {
            return Err(FrameError::EmptyData);
        }
        if kind.is_of_tunnel() != (stream == 0) {
            return Err(FrameError::WrongStream { kind, stream });
        }
        Ok(Self { kind, length, stream })
    }
}

/// What the decoder found at the start of its input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// A whole control frame: `HEADER` bytes, then `length` of payload.
    Whole(Header),
    /// The header of a frame whose payload comes in pieces: `HEADER` bytes.
    Begin(Header),
    /// This many bytes of the payload that was begun.
    Piece(usize),
    /// The input ends within a frame, or is empty; a whole one, or the next
    /// step, needs this many bytes from the start of the input.
    Need(usize),
}

impl Step {
    /// Bytes of the input that the step used up, header included.
    #[must_use]
    pub fn used(self) -> usize {
        match self {
            Self::Whole(header) => HEADER + header.length,
            Self::Begin(_) => HEADER,
            Self::Piece(bytes) => bytes,
            Self::Need(_) => 0,
        }
    }
}

/// Cuts a byte stream into frames, wherever its pieces end.
#[derive(Debug, Default)]
pub struct Decoder {
    /// What is still to come of a payload that is handed on in pieces.
    left: usize,
}

impl Decoder {
    /// Looks at `input`, which starts where the last step's
    /// [`used`](Step::used) bytes ended. `Need` leaves the decoder unchanged.
    ///
    /// # Errors
    /// The bytes are not a frame; the decoder must not be used again.
    pub fn step(&mut self, input: &[u8]) -> Result<Step, FrameError> {
        if self.left > 0 {
            if input.is_empty() {
                return Ok(Step::Need(1));
            }
            let piece = self.left.min(input.len());
            self.left -= piece;
            return Ok(Step::Piece(piece));
        }
        let Some(bytes) = input.first_chunk::<HEADER>() else {
            return Ok(Step::Need(HEADER));
        };
        let header = Header::decode(*bytes)?;
        if header.kind.is_in_pieces() {
            self.left = header.length;
            return Ok(Step::Begin(header));
        }
        let whole = HEADER + header.length;
        Ok(if input.len() < whole {
            Step::Need(whole)
        } else {
            Step::Whole(header)
        })
    }

    /// Whether a frame was begun whose payload has not come yet.
    #[must_use]
    pub fn is_within_payload(&self) -> bool {
        self.left > 0
    }
}

#[cfg(test)]
mod tests;
