//! Reads a file that a person wrote, with a bound on its size.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

use watchword_policy::Diagnostic;
use watchword_policy::diagnostic::Position;
use watchword_policy::document::{MAX_FILE_BYTES, too_large};

/// The text of a file.
///
/// # Errors
/// It is not there, not readable, not a file, not UTF-8, or too large.
pub fn read(path: &Path) -> Result<String, Diagnostic> {
    let name = path.display().to_string();
    let bytes = read_bytes(path, MAX_FILE_BYTES)?.ok_or_else(|| too_large(&name))?;
    String::from_utf8(bytes).map_err(|_| unreadable(&name, "it is not UTF-8 text"))
}

/// The bytes of a file; nothing if it has more than `most`.
///
/// # Errors
/// It is not there, not readable, or not a file.
pub(super) fn read_bytes(path: &Path, most: u64) -> Result<Option<Vec<u8>>, Diagnostic> {
    let name = path.display().to_string();
    let failed = |error: io::Error| unreadable(&name, &error.to_string());
    // Opening a FIFO would wait for its writer for ever.
    if !std::fs::metadata(path).map_err(failed)?.is_file() {
        return Err(unreadable(&name, "it is not a regular file"));
    }
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(failed)?;
    file.take(most + 1).read_to_end(&mut bytes).map_err(failed)?;
    Ok((bytes.len() as u64 <= most).then_some(bytes))
}

fn unreadable(name: &str, why: &str) -> Diagnostic {
    Diagnostic::error(name, Position::START, format!("the file can't be read: {why}"))
}
