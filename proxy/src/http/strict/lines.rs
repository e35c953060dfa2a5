//! Lines of HTTP/1 that end with CRLF, as they come.
//!
//! Invariants: pure; a byte is looked at once, however the bytes come.

use crate::http::fault::Fault;

/// How far a section of header lines was looked at.
#[derive(Debug, Default)]
pub(super) struct Lines {
    /// Bytes of whole lines.
    pub(super) read: usize,
    /// Bytes behind them without any line's end: not looked at again, or a
    /// head that comes byte by byte would cost its square.
    plain: usize,
}

impl Lines {
    /// The next whole line of `bytes`, without its CRLF.
    pub(super) fn next<'b>(&mut self, bytes: &'b [u8]) -> Result<Option<&'b [u8]>, Fault> {
        let line = bytes.get(self.read..).unwrap_or_default();
        let fresh = line.get(self.plain..).unwrap_or_default();
        let Some(rest) = first_line(fresh)? else {
            let waits = usize::from(fresh.last() == Some(&b'\r'));
            self.plain = line.len() - waits;
            return Ok(None);
        };
        let line = line.get(..self.plain + rest.len());
        self.read += self.plain + rest.len() + 2;
        self.plain = 0;
        Ok(line)
    }
}

/// The first line of `bytes`, which ends with CRLF and holds neither alone.
pub(super) fn first_line(bytes: &[u8]) -> Result<Option<&[u8]>, Fault> {
    for (at, byte) in bytes.iter().enumerate() {
        match byte {
            b'\n' => return Err(Fault::BareLf),
            b'\r' => match bytes.get(at + 1) {
                Some(b'\n') => return Ok(bytes.get(..at)),
                Some(_) => return Err(Fault::BareCr),
                None => return Ok(None),
            },
            _ => {}
        }
    }
    Ok(None)
}
