//! The state table of docs/wire.md as a value: what may be sent and received
//! when, and what follows from it.
//!
//! Invariants: every frame that a tunnel sends or receives goes through here
//! first; what the table does not list is a violation; two honest machines
//! never see one, whatever crosses. Must not know: bytes, sockets, time.

mod verdict;

use crate::frame::{Header, Type};

pub use verdict::{Farewell, Misuse, Verdict, Violation};

/// DATA that is thrown away after one's own RESET, DENIED or REFUSED before
/// the tunnel is aborted, in bytes.
pub const DISCARD_LIMIT: usize = 256 * 1024;
/// VOUCH frames that a server answers on one tunnel.
pub const VOUCH_LIMIT: u8 = 10;

/// Which end of the tunnel this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Opens streams.
    Client,
    /// Serves them.
    Server,
}

/// Where the latest stream stands. The states of the table, and the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// No stream is open; both sides have sent and received an END.
    Idle,
    /// OPEN was sent or received, OPENED was not. `fin`: the client's FIN was.
    Opening {
        /// The client has already ended its half.
        fin: bool,
    },
    /// Both halves are open.
    Open,
    /// Our half has ended by FIN.
    FinSent,
    /// The peer's half has ended by FIN.
    FinReceived,
    /// Our half has ended by RESET, DENIED or REFUSED; DATA is thrown away.
    Discard {
        /// DATA bytes so far.
        thrown: usize,
    },
    /// Nothing is sent, everything is dropped.
    Closed,
}

/// One end of a tunnel.
#[derive(Debug, Clone)]
pub struct Machine {
    role: Role,
    phase: Phase,
    latest: u32,
    /// The number in the last GOAWAY that a server sent or a client received.
    served_up_to: Option<u32>,
    vouch_unanswered: bool,
    vouches: u8,
}

impl Machine {
    /// The end that opens streams.
    #[must_use]
    pub fn client() -> Self {
        Self::new(Role::Client)
    }

    /// The end that serves streams.
    #[must_use]
    pub fn server() -> Self {
        Self::new(Role::Server)
    }

    /// Where the latest stream stands.
    #[must_use]
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// Which end of the tunnel this is.
    #[must_use]
    pub fn role(&self) -> Role {
        self.role
    }

    /// The latest stream's number; 0 before the first.
    #[must_use]
    pub fn latest(&self) -> u32 {
        self.latest
    }

    /// Whether a further stream can be opened or served after this one.
    #[must_use]
    pub fn may_go_on(&self) -> bool {
        self.phase != Phase::Closed && self.served_up_to.is_none() && self.latest < u32::MAX
    }

    /// Whether this end, a server, has said GOAWAY.
    #[must_use]
    pub fn has_said_goaway(&self) -> bool {
        self.role == Role::Server && self.served_up_to.is_some()
    }

    /// Notes that a frame of the latest stream is sent (OPEN: of the next
    /// one), and returns the stream's number. GOAWAY: see
    /// [`say_goaway`](Self::say_goaway).
    ///
    /// # Errors
    /// The table does not allow it now.
    pub fn send(&mut self, kind: Type) -> Result<u32, Misuse> {
        let misuse = Misuse {
            kind,
            phase: self.phase,
        };
        if !sends(self.role, kind) || kind == Type::Goaway {
            return Err(misuse);
        }
        self.phase = match (self.phase, kind) {
            (Phase::Idle, Type::Open) if self.may_go_on() && !self.vouch_unanswered => {
                self.latest += 1;
                Phase::Opening { fin: false }
            }
            (Phase::Idle, Type::Vouch) if !self.vouch_unanswered && self.vouches < VOUCH_LIMIT => {
                self.vouch_unanswered = true;
                self.vouches += 1;
                return Ok(0);
            }
            (Phase::Idle, Type::Vouched) if self.vouch_unanswered => {
                self.vouch_unanswered = false;
                return Ok(0);
            }
            (phase, _) => self.send_of_stream(phase, kind).ok_or(misuse)?,
        };
        Ok(self.latest)
    }

    /// Notes that GOAWAY is sent. `served`: a server's promise that no stream
    /// above it was or will be served; a client's means nothing.
    ///
    /// # Errors
    /// The tunnel is closed, or the promise is false or rises.
    pub fn say_goaway(&mut self, served: u32) -> Result<(), Misuse> {
        let misuse = Misuse {
            kind: Type::Goaway,
            phase: self.phase,
        };
        if self.phase == Phase::Closed {
            return Err(misuse);
        }
        if self.role == Role::Client {
            self.phase = Phase::Closed;
            return Ok(());
        }
        if self.served_up_to.is_some_and(|before| served > before) {
            return Err(misuse);
        }
        if served < self.latest {
            match self.phase {
                Phase::Opening { .. } if served == self.latest - 1 => self.phase = Phase::Idle,
                _ => return Err(misuse),
            }
        }
        self.served_up_to = Some(served);
        Ok(())
    }

    /// Judges a frame that was received, by its header.
    ///
    /// # Errors
    /// The peer broke the protocol, or sent more than is thrown away.
    pub fn receive(&mut self, header: Header) -> Result<Verdict, Violation> {
        let Header { kind, length, stream } = header;
        if self.phase == Phase::Closed || self.is_not_served(stream) {
            return Ok(Verdict::Drop);
        }
        if !sends(self.role.other(), kind) {
            return Err(Violation::WrongSide(kind));
        }
        if kind.is_of_tunnel() {
            return self.receive_of_tunnel(kind);
        }
        if kind == Type::Open {
            return self.receive_open(stream);
        }
        if stream < self.latest {
            return Ok(Verdict::Drop);
        }
        if stream > self.latest {
            let latest = self.latest;
            return Err(Violation::UnknownStream { kind, stream, latest });
        }
        self.receive_of_stream(kind, length)
    }

    /// Judges the number in a GOAWAY that [`receive`](Self::receive) let in.
    ///
    /// # Errors
    /// The server takes back what it has served, or raises its number.
    pub fn goaway(&mut self, served: u32) -> Result<Farewell, Violation> {
        if self.role == Role::Server {
            self.phase = Phase::Closed;
            return Ok(Farewell::Close);
        }
        if self.served_up_to.is_some_and(|before| served > before) {
            return Err(Violation::BadGoaway(served));
        }
        self.served_up_to = Some(served);
        let below = served < self.latest;
        let farewell = match self.phase {
            Phase::Idle | Phase::Closed => Farewell::Close,
            Phase::Opening { .. } if below => Farewell::Replay,
            Phase::Discard { .. } if below => Farewell::Close,
            _ if below => return Err(Violation::BadGoaway(served)),
            _ => return Ok(Farewell::AfterStream),
        };
        self.phase = Phase::Closed;
        Ok(farewell)
    }

    /// The connection is gone or given up: nothing is sent or taken any more.
    pub fn close(&mut self) {
        self.phase = Phase::Closed;
    }

    fn new(role: Role) -> Self {
        Self {
            role,
            phase: Phase::Idle,
            latest: 0,
            served_up_to: None,
            vouch_unanswered: false,
            vouches: 0,
        }
    }

    /// After its GOAWAY n a server drops every frame above n unread.
    fn is_not_served(&self, stream: u32) -> bool {
        self.role == Role::Server && self.served_up_to.is_some_and(|served| stream > served)
    }

    fn send_of_stream(&self, phase: Phase, kind: Type) -> Option<Phase> {
        let client = self.role == Role::Client;
        Some(match (phase, kind) {
            (Phase::Opening { fin: false }, Type::Data) if client => phase,
            (Phase::Opening { fin: false }, Type::Fin) if client => Phase::Opening { fin: true },
            (Phase::Opening { .. }, Type::Reset) if client => Phase::Discard { thrown: 0 },
            (Phase::Opening { fin: false }, Type::Opened) => Phase::Open,
            (Phase::Opening { fin: true }, Type::Opened) => Phase::FinReceived,
            (Phase::Opening { fin: false }, Type::Denied | Type::Refused | Type::Reset) => Phase::Discard { thrown: 0 },
            (Phase::Opening { fin: true }, Type::Denied | Type::Refused | Type::Reset) => Phase::Idle,
            (Phase::Open | Phase::FinReceived, Type::Data) => phase,
            (Phase::Open, Type::Fin) => Phase::FinSent,
            (Phase::Open | Phase::FinSent, Type::Reset) => Phase::Discard { thrown: 0 },
            (Phase::FinReceived, Type::Fin | Type::Reset) => Phase::Idle,
            _ => return None,
        })
    }

    fn receive_of_tunnel(&mut self, kind: Type) -> Result<Verdict, Violation> {
        match (self.phase, kind) {
            (_, Type::Goaway) => Ok(Verdict::Goaway),
            (Phase::Idle, Type::Vouch) if !self.vouch_unanswered => {
                if self.vouches == VOUCH_LIMIT {
                    return Err(Violation::TooManyVouches);
                }
                self.vouches += 1;
                self.vouch_unanswered = true;
                Ok(Verdict::Vouch)
            }
            (Phase::Idle, Type::Vouched) if self.vouch_unanswered => {
                self.vouch_unanswered = false;
                Ok(Verdict::Vouched)
            }
            (phase, kind) => Err(Violation::OutOfTurn { kind, phase }),
        }
    }

    fn receive_open(&mut self, stream: u32) -> Result<Verdict, Violation> {
        let kind = Type::Open;
        let phase = self.phase;
        if phase != Phase::Idle || self.vouch_unanswered {
            return Err(Violation::OutOfTurn { kind, phase });
        }
        let latest = self.latest;
        if Some(stream) != latest.checked_add(1) {
            return Err(Violation::UnknownStream { kind, stream, latest });
        }
        self.latest = stream;
        self.phase = Phase::Opening { fin: false };
        Ok(Verdict::Open)
    }

    fn receive_of_stream(&mut self, kind: Type, length: usize) -> Result<Verdict, Violation> {
        let phase = self.phase;
        let client = self.role == Role::Client;
        let (next, verdict) = match (phase, kind) {
            (Phase::Idle, Type::Reset) => (phase, Verdict::Drop),
            (Phase::Opening { fin }, _) if client => match kind {
                Type::Opened => (if fin { Phase::FinSent } else { Phase::Open }, Verdict::Opened),
                Type::Denied => (Phase::Idle, Verdict::Denied { answer: !fin }),
                Type::Refused => (Phase::Idle, Verdict::Refused { answer: !fin }),
                Type::Reset => (Phase::Idle, Verdict::Reset { answer: !fin }),
                _ => return Err(Violation::OutOfTurn { kind, phase }),
            },
            (Phase::Opening { fin: false }, Type::Data) => (phase, Verdict::Data),
            (Phase::Opening { fin: false }, Type::Fin) => (Phase::Opening { fin: true }, Verdict::Fin),
            (Phase::Opening { .. }, Type::Reset) => (Phase::Idle, Verdict::Reset { answer: true }),
            (Phase::Open | Phase::FinSent, Type::Data) => (phase, Verdict::Data),
            (Phase::Open, Type::Fin) => (Phase::FinReceived, Verdict::Fin),
            (Phase::FinSent, Type::Fin) => (Phase::Idle, Verdict::Fin),
            (Phase::Open | Phase::FinReceived, Type::Reset) => (Phase::Idle, Verdict::Reset { answer: true }),
            (Phase::FinSent, Type::Reset) => (Phase::Idle, Verdict::Reset { answer: false }),
            (Phase::Discard { thrown }, Type::Data) => {
                let thrown = thrown + length;
                if thrown > DISCARD_LIMIT {
                    return Err(Violation::TooMuchAfterEnd);
                }
                (Phase::Discard { thrown }, Verdict::Drop)
            }
            (Phase::Discard { .. }, Type::Opened) => (phase, Verdict::Drop),
            (Phase::Discard { .. }, Type::Fin | Type::Reset | Type::Denied | Type::Refused) => {
                (Phase::Idle, Verdict::Drop)
            }
            _ => return Err(Violation::OutOfTurn { kind, phase }),
        };
        self.phase = next;
        Ok(verdict)
    }
}

impl Role {
    fn other(self) -> Self {
        match self {
            Self::Client => Self::Server,
            Self::Server => Self::Client,
        }
    }
}

/// Whether this side ever sends this frame.
fn sends(role: Role, kind: Type) -> bool {
    match kind {
        Type::Open | Type::Vouch => role == Role::Client,
        Type::Opened | Type::Denied | Type::Refused | Type::Vouched => role == Role::Server,
        Type::Data | Type::Fin | Type::Reset | Type::Goaway => true,
    }
}

#[cfg(test)]
mod tests;
