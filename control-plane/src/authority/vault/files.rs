//! Files of secrets: read whole, within bounds, and known again when they
//! change.
//!
//! Invariants: what was read is wiped from memory when it is dropped, and no
//! error quotes it.

use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use zeroize::Zeroizing;

use super::error::CallError;
use super::secret::Secret;

const MAX_SECRET_FILE: u64 = 64 * 1024;
/// Permissions that a file with a private key must not have: others may do
/// nothing, and the group may read it, as with what Kubernetes mounts.
const TOO_OPEN: u32 = 0o037;

/// Which content of a file it was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct FileState(u64, u64, u64, i64, i64);

impl From<&Metadata> for FileState {
    fn from(found: &Metadata) -> Self {
        Self(
            found.dev(),
            found.ino(),
            found.size(),
            found.ctime(),
            found.ctime_nsec(),
        )
    }
}

pub(super) fn file_state(file: &Path) -> Option<FileState> {
    Some(FileState::from(&std::fs::metadata(file).ok()?))
}

/// The secret in a file, without the white space around it.
pub(super) fn read_secret(file: &Path) -> Result<(FileState, Secret), CallError> {
    let problem = |why: &str| CallError::Unavailable(format!("{}: {why}", file.display()));
    let state = file_state(file).ok_or_else(|| problem("it is not there, or can't be looked at"))?;
    let found = std::fs::metadata(file).map_err(|error| problem(&error.to_string()))?;
    if !found.is_file() || found.size() > MAX_SECRET_FILE {
        return Err(problem("not a file with a secret in it"));
    }
    let text = std::fs::read_to_string(file).map_err(|error| problem(&error.to_string()))?;
    let text = Zeroizing::new(text);
    let secret = Zeroizing::new(text.trim().to_owned());
    if secret.is_empty() {
        return Err(problem("it is empty"));
    }
    Ok((state, Secret::new(secret)))
}

/// A certificate's file, or with `private` a key's, which nobody else may read.
pub(super) fn read_pem(file: &Path, private: bool) -> Result<Zeroizing<Vec<u8>>, String> {
    let problem = |why: String| format!("{}: {why}", file.display());
    let read = || -> io::Result<Result<Zeroizing<Vec<u8>>, String>> {
        let mut opened = File::open(file)?;
        let found = opened.metadata()?;
        if !found.is_file() || found.size() > MAX_SECRET_FILE {
            return Ok(Err("not a file with PEM in it".into()));
        }
        let mode = found.mode() & 0o7777;
        if private && mode & TOO_OPEN != 0 {
            return Ok(Err(format!(
                "its mode is {mode:04o}, so that others than its owner and group can get at the key: make it 0600 or 0640"
            )));
        }
        // With room for all of it, so that no copy of a key stays behind.
        let mut content = Zeroizing::new(Vec::with_capacity(
            usize::try_from(found.size()).unwrap_or_default() + 1,
        ));
        (&mut opened).take(MAX_SECRET_FILE).read_to_end(&mut content)?;
        Ok(Ok(content))
    };
    read().map_err(|error| problem(error.to_string()))?.map_err(problem)
}
