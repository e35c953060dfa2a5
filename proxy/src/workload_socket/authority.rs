//! Lets clients in whose `:authority` is the path of the socket.
//!
//! gRPC's C core (C++, Python, Ruby) and its Java name the socket's path there,
//! escaped or not, when they call over a Unix socket. That is no authority
//! (RFC 3986 section 3.2), and our HTTP/2 library ends each such call with
//! PROTOCOL_ERROR (hyperium/h2 #487, grpc/grpc #38142). Nobody reads it here:
//! what may not stand in it is replaced, byte by byte, on its way to the library.
//!
//! Invariants: no byte is added or taken away, so frames keep their lengths,
//! and both sides' header tables the sizes of their entries; what is not such a
//! header passes as it is, valid or not. Pure.

/// HTTP/2 (RFC 9113): what a client says first, and the size of a frame's head.
const PREFACE: usize = 24;
const FRAME_HEAD: usize = 9;
const HEADERS: u8 = 1;
const CONTINUATION: u8 = 9;
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;
const PRIORITY_FIELDS: usize = 5;
/// `:authority` in HPACK's static table (RFC 7541 appendix A).
const AUTHORITY: u64 = 1;
/// As the C core spells it out, in spite of that table.
const AUTHORITY_NAME: &[u8] = b":authority";
/// More bits than any number that makes sense in a header block.
const MAX_SHIFT: u32 = 28;

/// Follows what a client sends on one connection.
#[derive(Debug)]
pub(super) struct Authority {
    at: At,
    block: Block,
}

/// Where in the sequence of frames.
#[derive(Debug)]
enum At {
    Skipping {
        left: usize,
    },
    Head {
        bytes: [u8; FRAME_HEAD],
        have: usize,
    },
    /// The length of the padding comes before everything else.
    PadLength {
        left: usize,
        priority: usize,
    },
    Priority {
        left: usize,
        fields: usize,
        padding: usize,
    },
    Block {
        left: usize,
        padding: usize,
    },
}

impl Default for Authority {
    fn default() -> Self {
        Self {
            at: At::Skipping { left: PREFACE },
            block: Block::Start,
        }
    }
}

impl Authority {
    /// Goes over the next bytes, however they were cut.
    pub(super) fn mend(&mut self, bytes: &mut [u8]) {
        let mut rest = bytes;
        while !rest.is_empty() {
            let taken = self.mend_some(rest);
            rest = rest.get_mut(taken..).unwrap_or_default();
        }
    }

    /// At least one byte; how many.
    fn mend_some(&mut self, bytes: &mut [u8]) -> usize {
        let Some(&first) = bytes.first() else {
            return 0;
        };
        match &mut self.at {
            At::Skipping { left } => {
                let taken = bytes.len().min(*left).max(1);
                *left = left.saturating_sub(taken);
                if *left == 0 {
                    self.at = next_frame();
                }
                taken
            }
            At::Head { bytes: head, have } => {
                if let Some(place) = head.get_mut(*have) {
                    *place = first;
                }
                *have += 1;
                if *have == FRAME_HEAD {
                    let head = *head;
                    self.at = self.begin(head);
                }
                1
            }
            At::PadLength { left, priority } => {
                self.at = after_padding(left.saturating_sub(1), *priority, usize::from(first));
                1
            }
            At::Priority { left, fields, padding } => {
                *fields -= 1;
                *left = left.saturating_sub(1);
                if *fields == 0 {
                    self.at = block(*left, *padding);
                }
                1
            }
            At::Block { left, padding } => {
                let taken = bytes.len().min(*left);
                for byte in bytes.iter_mut().take(taken) {
                    self.block.step(byte);
                }
                *left -= taken;
                if *left == 0 {
                    self.at = skip(*padding);
                }
                taken
            }
        }
    }

    fn begin(&mut self, head: [u8; FRAME_HEAD]) -> At {
        let [a, b, c, kind, flags, ..] = head;
        let length = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
        match kind {
            HEADERS => {
                self.block = Block::Start;
                let priority = if flags & PRIORITY == 0 { 0 } else { PRIORITY_FIELDS };
                match (flags & PADDED, length) {
                    (0, _) | (_, 0) => after_padding(length, priority, 0),
                    _ => At::PadLength { left: length, priority },
                }
            }
            CONTINUATION => block(length, 0),
            _ => skip(length),
        }
    }
}

fn next_frame() -> At {
    At::Head {
        bytes: [0; FRAME_HEAD],
        have: 0,
    }
}

fn skip(left: usize) -> At {
    match left {
        0 => next_frame(),
        _ => At::Skipping { left },
    }
}

fn after_padding(left: usize, priority: usize, padding: usize) -> At {
    match priority {
        fields if fields > 0 && left >= fields => At::Priority { left, fields, padding },
        _ => block(left, padding),
    }
}

/// `left` counts the padding, too.
fn block(left: usize, padding: usize) -> At {
    match left.checked_sub(padding) {
        Some(fields) if fields > 0 => At::Block { left: fields, padding },
        _ => skip(left),
    }
}

/// Where in a header block (RFC 7541 section 6).
#[derive(Debug)]
enum Block {
    Start,
    /// The rest of a number (section 5.1).
    Number {
        value: u64,
        shift: u32,
        then: Then,
    },
    /// The head of a text (section 5.2).
    Length {
        of: Text,
    },
    Text {
        left: u64,
        of: Text,
        is_coded: bool,
    },
    /// It makes no sense; the library will say so.
    Lost,
}

#[derive(Clone, Copy, Debug)]
enum Then {
    /// An index alone, or a size.
    Next,
    /// The index of a name; without one the name follows.
    Literal,
    /// The length of a text.
    Text { of: Text, is_coded: bool },
}

#[derive(Clone, Copy, Debug)]
enum Text {
    /// So many bytes are those of `:authority` so far; none when others came.
    Name {
        same: Option<usize>,
    },
    Value {
        is_authority: bool,
    },
}

const NAME: Text = Text::Name { same: Some(0) };

impl Block {
    fn step(&mut self, byte: &mut u8) {
        *self = match std::mem::replace(self, Self::Lost) {
            Self::Start => match *byte {
                indexed @ 0x80.. => number(indexed, 7, Then::Next),
                added @ 0x40..0x80 => number(added, 6, Then::Literal),
                size @ 0x20..0x40 => number(size, 5, Then::Next),
                literal => number(literal, 4, Then::Literal),
            },
            Self::Number { shift, .. } if shift > MAX_SHIFT => Self::Lost,
            Self::Number { value, shift, then } => {
                let value = value + (u64::from(*byte & 0x7f) << shift);
                match *byte & 0x80 {
                    0 => after(value, then),
                    _ => Self::Number {
                        value,
                        shift: shift + 7,
                        then,
                    },
                }
            }
            Self::Length { of } => number(
                *byte,
                7,
                Then::Text {
                    of,
                    is_coded: *byte & 0x80 != 0,
                },
            ),
            Self::Text { left, of, is_coded } => {
                if matches!(of, Text::Value { is_authority: true }) && !is_coded && !may_stand_in_authority(*byte) {
                    *byte = b'-';
                }
                text(left - 1, of.followed_by(*byte, is_coded), is_coded)
            }
            Self::Lost => Self::Lost,
        };
    }
}

impl Text {
    fn followed_by(self, byte: u8, is_coded: bool) -> Self {
        match self {
            Self::Name { same } => Self::Name {
                same: same
                    .filter(|at| !is_coded && AUTHORITY_NAME.get(*at) == Some(&byte))
                    .map(|at| at + 1),
            },
            value @ Self::Value { .. } => value,
        }
    }
}

/// A number whose first byte this is, in so many low bits.
fn number(first: u8, bits: u32, then: Then) -> Block {
    let most = (1 << bits) - 1;
    match u64::from(first) & most {
        value if value == most => Block::Number { value, shift: 0, then },
        value => after(value, then),
    }
}

fn after(value: u64, then: Then) -> Block {
    match then {
        Then::Next => Block::Start,
        Then::Literal if value == 0 => Block::Length { of: NAME },
        Then::Literal => Block::Length {
            of: Text::Value {
                is_authority: value == AUTHORITY,
            },
        },
        Then::Text { of, is_coded } => text(value, of, is_coded),
    }
}

fn text(left: u64, of: Text, is_coded: bool) -> Block {
    match (left, of) {
        (0, Text::Name { same }) => Block::Length {
            of: Text::Value {
                is_authority: same == Some(AUTHORITY_NAME.len()),
            },
        },
        (0, Text::Value { .. }) => Block::Start,
        _ => Block::Text { left, of, is_coded },
    }
}

/// Of a host and a port (RFC 3986 section 3.2.2), without escapes.
fn may_stand_in_authority(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~:[]".contains(&byte)
}

#[cfg(test)]
mod tests;
