//! The head of one HTTP/1 request, line by line as it comes: only what says
//! where the body ends is understood here.
//!
//! Invariants: pure; a line is looked at once, however the bytes come.

use watchword_policy::header_names::{is_read_as, is_token};

use super::lines::Lines;
use crate::http::fault::{Fault, MARK};

/// The longest head: request line and header section, in bytes.
pub(in crate::http) const MAX_HEAD: usize = 64 * 1024;
/// Empty lines that may stand before a request (RFC 9112 section 2.2 asks for
/// one), for clients that send one behind a body.
const MAX_EMPTY: u8 = 2;

/// What is known of a head so far.
#[derive(Debug, Default)]
pub(super) struct Head {
    lines: Lines,
    empty: u8,
    version: Option<Version>,
    length: Option<u64>,
    chunked: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    Http10,
    Http11,
}

/// What follows a head.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Body {
    None,
    Sized(u64),
    Chunked,
}

impl Head {
    pub(super) fn is_empty(&self) -> bool {
        self.lines.read == 0
    }

    /// Reads on. The head's length once it is whole.
    pub(super) fn read(&mut self, bytes: &[u8]) -> Result<Option<usize>, Fault> {
        while let Some(line) = self.lines.next(bytes)? {
            if self.lines.read > MAX_HEAD {
                return Err(Fault::HeadTooLarge);
            }
            if self.version.is_none() {
                self.begin(line)?;
            } else if line.is_empty() {
                return Ok(Some(self.lines.read));
            } else {
                self.take(line)?;
            }
        }
        if bytes.len() > MAX_HEAD {
            return Err(Fault::HeadTooLarge);
        }
        Ok(None)
    }

    /// Of a head that is whole.
    pub(super) fn body(&self) -> Result<Body, Fault> {
        match (self.length, self.chunked) {
            (Some(_), true) => Err(Fault::BothLengths),
            (None, true) if self.version == Some(Version::Http10) => Err(Fault::TransferEncoding),
            (None, true) => Ok(Body::Chunked),
            (Some(length), false) => Ok(Body::Sized(length)),
            (None, false) => Ok(Body::None),
        }
    }

    fn begin(&mut self, line: &[u8]) -> Result<(), Fault> {
        if line.is_empty() {
            self.empty += 1;
            return if self.empty > MAX_EMPTY {
                Err(Fault::RequestLine)
            } else {
                Ok(())
            };
        }
        let mut parts = line.split(|byte| *byte == b' ');
        let (Some(method), Some(target), Some(version), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(Fault::RequestLine);
        };
        let is_visible = |byte: &u8| *byte > b' ' && *byte != 0x7f;
        if !is_token(method) || target.is_empty() || !target.iter().all(is_visible) {
            return Err(Fault::RequestLine);
        }
        self.version = Some(match version {
            b"HTTP/1.1" => Version::Http11,
            b"HTTP/1.0" => Version::Http10,
            other if other.starts_with(b"HTTP/") => return Err(Fault::Version),
            _ => return Err(Fault::RequestLine),
        });
        Ok(())
    }

    fn take(&mut self, line: &[u8]) -> Result<(), Fault> {
        let (name, value) = field(line)?;
        if !is_framing(name) {
            return Ok(());
        }
        if name.contains(&b'_') {
            // Some apps read it like the name with a hyphen.
            return Err(Fault::HeaderName);
        }
        if name.eq_ignore_ascii_case(b"content-length") {
            let length = content_length(value).ok_or(Fault::ContentLength)?;
            if self.length.replace(length).is_some() {
                return Err(Fault::ContentLength);
            }
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            if self.chunked || !value.eq_ignore_ascii_case(b"chunked") {
                return Err(Fault::TransferEncoding);
            }
            self.chunked = true;
        } else {
            return Err(Fault::ReservedHeader);
        }
        Ok(())
    }
}

/// Name and trimmed value of a header line (RFC 9112 section 5).
pub(super) fn field(line: &[u8]) -> Result<(&[u8], &[u8]), Fault> {
    if matches!(line.first(), Some(b' ' | b'\t')) {
        return Err(Fault::ObsFold);
    }
    let colon = line.iter().position(|byte| *byte == b':').ok_or(Fault::HeaderName)?;
    let (name, rest) = line.split_at(colon);
    if !is_token(name) {
        return Err(Fault::HeaderName);
    }
    let value = rest.get(1..).unwrap_or_default();
    if value.iter().any(|byte| byte.is_ascii_control() && *byte != b'\t') {
        return Err(Fault::HeaderValue);
    }
    Ok((name, value.trim_ascii()))
}

/// Whether a header has to do with where a message ends, or is our own mark:
/// `_` counts as `-`.
pub(super) fn is_framing(name: &[u8]) -> bool {
    ["content-length", "transfer-encoding", MARK]
        .iter()
        .any(|other| is_read_as(name, other))
}

/// Digits alone: no sign, no list (RFC 9110 section 8.6).
fn content_length(value: &[u8]) -> Option<u64> {
    let digits = !value.is_empty() && value.iter().all(u8::is_ascii_digit);
    let text = std::str::from_utf8(value)
        .ok()
        .filter(|_| digits && value.len() <= 18)?;
    text.parse().ok()
}
