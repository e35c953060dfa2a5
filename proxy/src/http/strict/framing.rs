//! Where the requests of an HTTP/1 connection begin and end, told without any
//! leniency, before the HTTP library sees a byte.
//!
//! Request smuggling lives where two readers see different requests in the same
//! bytes. The library reads by RFC 9112 with its tolerances (a bare LF ends a
//! line, Transfer-Encoding overrides Content-Length); here those are faults.
//! What passes has one reading only.
//!
//! Invariants: pure; however the bytes are cut into pieces, the same ones
//! pass; nothing of a request passes before its whole head is judged.

use super::head::{Body, Head, field, is_framing};
use super::lines::{Lines, first_line};
use crate::http::fault::Fault;

/// The longest line that begins a chunk, and the longest trailer section.
const MAX_CHUNK_LINE: usize = 256;
const MAX_TRAILERS: usize = 16 * 1024;

/// Judges the bytes of one connection, in their order.
#[derive(Debug, Default)]
pub(crate) struct Framing {
    state: State,
}

#[derive(Debug)]
enum State {
    Head(Head),
    /// So many bytes of a body are to come.
    Sized(u64),
    ChunkLine,
    ChunkData(u64),
    /// The CRLF behind a chunk's data.
    ChunkEnd,
    Trailers(Lines),
}

impl Default for State {
    fn default() -> Self {
        Self::Head(Head::default())
    }
}

impl Framing {
    /// Of `bytes`, which begin where the last call's passed bytes ended: how
    /// many may pass. 0: more are needed first.
    pub(crate) fn judge(&mut self, bytes: &[u8]) -> Result<usize, Fault> {
        match &mut self.state {
            State::Head(head) => match head.read(bytes)? {
                Some(length) => {
                    self.state = match head.body()? {
                        Body::None | Body::Sized(0) => State::default(),
                        Body::Sized(length) => State::Sized(length),
                        Body::Chunked => State::ChunkLine,
                    };
                    Ok(length)
                }
                None => Ok(0),
            },
            State::Sized(left) => {
                let (passed, over) = counted(left, bytes);
                if over {
                    self.state = State::default();
                }
                Ok(passed)
            }
            State::ChunkLine => self.chunk_line(bytes),
            State::ChunkData(left) => {
                let (passed, over) = counted(left, bytes);
                if over {
                    self.state = State::ChunkEnd;
                }
                Ok(passed)
            }
            State::ChunkEnd => match bytes {
                [b'\r', b'\n', ..] => {
                    self.state = State::ChunkLine;
                    Ok(2)
                }
                [] | [b'\r'] => Ok(0),
                _ => Err(Fault::Chunk),
            },
            State::Trailers(lines) => match read_trailers(lines, bytes)? {
                Some(length) => {
                    self.state = State::default();
                    Ok(length)
                }
                None => Ok(0),
            },
        }
    }

    /// Whether the next byte begins a request: nothing is under way.
    pub(crate) fn is_between_requests(&self) -> bool {
        matches!(&self.state, State::Head(head) if head.is_empty())
    }

    /// Whether the next bytes belong to a head.
    pub(crate) fn is_in_head(&self) -> bool {
        matches!(self.state, State::Head(_))
    }

    /// Bytes of a body that may pass unseen; the caller says how many did.
    pub(crate) fn sized(&self) -> Option<u64> {
        match self.state {
            State::Sized(left) => Some(left),
            _ => None,
        }
    }

    /// So many bytes of [`Self::sized`] have passed.
    pub(crate) fn passed_unseen(&mut self, count: usize) {
        if let State::Sized(left) = &mut self.state {
            *left = left.saturating_sub(count as u64);
            if *left == 0 {
                self.state = State::default();
            }
        }
    }

    fn chunk_line(&mut self, bytes: &[u8]) -> Result<usize, Fault> {
        let Some(line) = first_line(bytes)? else {
            return if bytes.len() > MAX_CHUNK_LINE {
                Err(Fault::Chunk)
            } else {
                Ok(0)
            };
        };
        if line.len() > MAX_CHUNK_LINE {
            return Err(Fault::Chunk);
        }
        let size = chunk_size(line).ok_or(Fault::Chunk)?;
        self.state = match size {
            0 => State::Trailers(Lines::default()),
            size => State::ChunkData(size),
        };
        Ok(line.len() + 2)
    }
}

/// The length of the trailer section once it is whole.
fn read_trailers(lines: &mut Lines, bytes: &[u8]) -> Result<Option<usize>, Fault> {
    while let Some(line) = lines.next(bytes)? {
        if line.is_empty() {
            return Ok(Some(lines.read));
        }
        let (name, _) = field(line)?;
        if is_framing(name) {
            return Err(Fault::Trailer);
        }
    }
    if bytes.len() > MAX_TRAILERS {
        return Err(Fault::Trailer);
    }
    Ok(None)
}

/// Counts `bytes` against what is left; whether nothing is.
fn counted(left: &mut u64, bytes: &[u8]) -> (usize, bool) {
    let passed = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len());
    *left -= passed as u64;
    (passed, *left == 0)
}

/// RFC 9112 section 7.1: hexadecimal digits, and extensions that mean nothing
/// to us.
fn chunk_size(line: &[u8]) -> Option<u64> {
    let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
    let (size, rest) = line.split_at(digits);
    let extension = rest.first().is_none_or(|first| *first == b';');
    let plain = rest.iter().all(|byte| *byte == b'\t' || !byte.is_ascii_control());
    if !extension || !plain || !(1..=15).contains(&digits) {
        return None;
    }
    u64::from_str_radix(std::str::from_utf8(size).ok()?, 16).ok()
}

#[cfg(test)]
mod tests;
