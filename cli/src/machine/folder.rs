//! The file system that mesh folders lie in: whether there is room, and whether
//! it may be written to.

use std::path::{Path, PathBuf};

use nix::sys::statvfs::{Statvfs, statvfs};
use nix::unistd::{AccessFlags, access};

use super::{Finding, State};

const CHECK: &str = "room";
const MIB: u64 = 1 << 20;
/// Less than this, and a small mesh does not start.
const LEAST: u64 = 8 * MIB;
/// Of a mesh that runs for long.
const ENOUGH: u64 = 64 * MIB;

/// Of the folder that meshes have their folders in, there or not.
pub(super) fn room(base: &Path) -> Finding {
    let folder = existing(base);
    let place = folder.display();
    if let Err(error) = access(&folder, AccessFlags::W_OK | AccessFlags::X_OK) {
        return Finding::missing(
            CHECK,
            format!("you can't write to {place}, where the folders of meshes lie ({error})"),
            elsewhere(),
        );
    }
    match statvfs(&folder) {
        Ok(found) => judge(&folder, left(&found)),
        Err(error) => Finding::bad(
            CHECK,
            State::Unknown,
            format!("the file system of {place} does not say how full it is ({error})"),
            format!("`df -h {place}`"),
        ),
    }
}

/// Free bytes, and whether files can be made.
fn left(found: &Statvfs) -> (u64, bool) {
    let bytes = found.blocks_available().saturating_mul(found.fragment_size());
    // Some file systems have no fixed number of files.
    (bytes, found.files() == 0 || found.files_available() > 64)
}

fn judge(folder: &Path, (bytes, files): (u64, bool)) -> Finding {
    let place = folder.display();
    let free = || format!("free some (`df -h {place}` shows how full it is), or {}", elsewhere());
    if !files {
        return Finding::missing(
            CHECK,
            format!("the file system of {place} can hold no more files"),
            format!(
                "remove some (`df -i {place}` shows how many there are), or {}",
                elsewhere()
            ),
        );
    }
    let seen = format!("{} MiB are left in the file system of {place}", bytes / MIB);
    match bytes {
        ENOUGH.. => Finding::good(CHECK, seen),
        LEAST..ENOUGH => Finding::bad(CHECK, State::Warning, format!("only {seen}"), free()),
        _ => Finding::missing(
            CHECK,
            format!("only {seen}, and a mesh needs {} MiB", LEAST / MIB),
            free(),
        ),
    }
}

/// Root's meshes lie in one place.
fn elsewhere() -> &'static str {
    if nix::unistd::geteuid().is_root() {
        "mount a larger file system there"
    } else {
        "set XDG_RUNTIME_DIR to a folder of yours that has room"
    }
}

fn existing(folder: &Path) -> PathBuf {
    let found = folder.ancestors().find(|folder| folder.exists());
    found.unwrap_or(Path::new("/")).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn little_room_is_a_warning_and_none_is_missing() {
        let folder = Path::new("/run");
        for (left, state) in [
            ((ENOUGH, true), State::Good),
            ((ENOUGH - 1, true), State::Warning),
            ((LEAST - 1, true), State::Missing),
            ((0, true), State::Missing),
            ((ENOUGH, false), State::Missing),
        ] {
            let found = judge(folder, left);
            assert_eq!(found.state, state, "{found}");
            assert!(state == State::Good || found.to_string().contains("`df -"), "{found}");
        }
    }

    #[test]
    fn the_nearest_folder_that_exists_is_looked_at() {
        assert_eq!(existing(Path::new("/nonexistent/a/b")), Path::new("/"));
        assert_eq!(existing(Path::new("/proc/nonexistent/b")), Path::new("/proc"));
    }
}
