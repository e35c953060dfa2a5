//! Reads a file that a person wrote, with a bound on its size.

use std::fs::File;
use std::io::Read as _;
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
    let unreadable = |why: String| Diagnostic::error(&name, Position::START, format!("the file can't be read: {why}"));
    // Opening a FIFO would wait for its writer for ever.
    let metadata = std::fs::metadata(path).map_err(|error| unreadable(error.to_string()))?;
    if !metadata.is_file() {
        return Err(unreadable("it is not a regular file".to_owned()));
    }
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(|error| unreadable(error.to_string()))?;
    file.take(MAX_FILE_BYTES + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| unreadable(error.to_string()))?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(too_large(&name));
    }
    String::from_utf8(bytes).map_err(|_| unreadable("it is not UTF-8 text".to_owned()))
}
