//! What the machine must have before a mesh can start, each with the command
//! that mends its absence.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use super::plan::Tools;

/// What is missing.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Missing {
    /// A system program.
    #[error("`{program}` is not installed: `apt-get install {package}` (or your system's package of that name)")]
    Program {
        /// Its name.
        program: &'static str,
        /// The package that has it in Debian and its children.
        package: &'static str,
    },
    /// One of our own programs.
    #[error("{path} is missing: it belongs beside `watchword`; build it with `cargo build --release`")]
    Sibling {
        /// Where it should be.
        path: PathBuf,
    },
    /// The kernel refuses namespaces.
    #[error("{0}")]
    Namespaces(String),
}

/// System folders that an ordinary user's PATH often lacks.
const SYSTEM_FOLDERS: [&str; 3] = ["/usr/sbin", "/sbin", "/usr/local/sbin"];

/// PATH with the folders that hold `ip` and `nft` at its end.
pub(crate) fn search_path() -> OsString {
    let path = std::env::var_os("PATH").unwrap_or_else(|| OsString::from("/usr/local/bin:/usr/bin:/bin"));
    let mut folders: Vec<PathBuf> = std::env::split_paths(&path).collect();
    for folder in SYSTEM_FOLDERS.map(PathBuf::from) {
        if !folders.contains(&folder) {
            folders.push(folder);
        }
    }
    std::env::join_paths(folders).unwrap_or(path)
}

/// Finds every program that a mesh needs.
pub(crate) fn tools() -> Result<Tools, Missing> {
    let path = search_path();
    let find = |program, package| look_for(&path, program).ok_or(Missing::Program { program, package });
    let ip = find("ip", "iproute2")?;
    // The sidecars run it themselves.
    find("nft", "nftables")?;
    Ok(Tools {
        ip,
        proxy: sibling("watchword-proxy")?,
        control_plane: sibling("watchword-control-plane")?,
    })
}

/// Whether the kernel has IPv6 at all.
pub(crate) fn has_ipv6() -> bool {
    Path::new("/proc/net/if_inet6").exists()
}

/// Tries the namespaces and mounts that a mesh needs.
pub(crate) fn check_namespaces(root: bool) -> Result<(), Missing> {
    let output = std::process::Command::new("/proc/self/exe")
        .args(["internal", "probe"])
        .stdin(Stdio::null())
        .output()
        .map_err(|error| Missing::Namespaces(format!("cannot start a process: {error}")))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let said = said.trim().trim_start_matches("error: ");
    let setting = |file: &str| std::fs::read_to_string(format!("/proc/sys/{file}")).ok();
    Err(Missing::Namespaces(advice(root, said, setting)))
}

fn advice(root: bool, said: &str, setting: impl Fn(&str) -> Option<String>) -> String {
    let is = |file: &str, value: &str| setting(file).is_some_and(|found| found.trim() == value);
    if root {
        return format!(
            "this machine refuses namespaces to root: {said}; in a container, start it with `--privileged` or `--cap-add SYS_ADMIN --cap-add NET_ADMIN --security-opt seccomp=unconfined --security-opt apparmor=unconfined`"
        );
    }
    let mend = if is("user/max_user_namespaces", "0") {
        "user.max_user_namespaces is 0: `sudo sysctl user.max_user_namespaces=15000`"
    } else if is("kernel/unprivileged_userns_clone", "0") {
        "this kernel keeps user namespaces for root: `sudo sysctl kernel.unprivileged_userns_clone=1`"
    } else if is("kernel/apparmor_restrict_unprivileged_userns", "1") {
        "AppArmor keeps user namespaces for root: `sudo sysctl kernel.apparmor_restrict_unprivileged_userns=0`"
    } else {
        "look whether a container or a security module forbids user namespaces, or use root"
    };
    format!("this machine refuses user namespaces to you ({said}): {mend}")
}

fn look_for(path: &OsString, program: &str) -> Option<PathBuf> {
    use std::os::unix::fs::PermissionsExt as _;
    let executable = |file: &PathBuf| {
        std::fs::metadata(file).is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
    };
    std::env::split_paths(path)
        .filter(|folder| folder.is_absolute())
        .map(|folder| folder.join(program))
        .find(executable)
}

fn sibling(name: &str) -> Result<PathBuf, Missing> {
    let own = std::env::current_exe().unwrap_or_default();
    let path = own.with_file_name(name);
    match path.is_file() {
        true => Ok(path),
        false => Err(Missing::Sibling { path }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_cause_has_its_own_cure() {
        for (file, value, cure) in [
            (
                "user/max_user_namespaces",
                "0\n",
                "sysctl user.max_user_namespaces=15000",
            ),
            (
                "kernel/unprivileged_userns_clone",
                "0",
                "kernel.unprivileged_userns_clone=1",
            ),
            (
                "kernel/apparmor_restrict_unprivileged_userns",
                "1\n",
                "apparmor_restrict_unprivileged_userns=0",
            ),
            ("other", "0", "or use root"),
        ] {
            let text = advice(false, "cannot x", |asked| (asked == file).then(|| value.to_owned()));
            assert!(text.contains(cure) && text.contains("cannot x"), "{text}");
        }
        assert!(advice(true, "no", |_| None).contains("--privileged"));
    }

    #[test]
    fn system_folders_are_searched_last() {
        let path = search_path();
        let folders: Vec<_> = std::env::split_paths(&path).collect();
        assert!(folders.contains(&PathBuf::from("/usr/sbin")));
        assert_eq!(look_for(&path, "no-such-program-at-all"), None);
        assert!(look_for(&path, "sh").is_some());
    }
}
