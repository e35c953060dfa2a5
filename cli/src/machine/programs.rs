//! The programs that a mesh is made of: system programs, and our own beside
//! this one.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::Finding;
use crate::up::plan::Tools;

/// Of this program, and of those beside it.
const VERSION: &str = env!("CARGO_PKG_VERSION");
/// System folders that an ordinary user's PATH often lacks.
const SYSTEM_FOLDERS: [&str; 3] = ["/usr/sbin", "/sbin", "/usr/local/sbin"];

/// What the sidecars use where there is no nft.
const STAND_IN: [&str; 4] = ["iptables", "iptables-restore", "ip6tables", "ip6tables-restore"];

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

/// Whether the program of `run` can be executed, in that working directory; in
/// words why not.
pub(crate) fn find_program(run: &[String], directory: &Path) -> Result<PathBuf, String> {
    let name = run.first().map_or("", String::as_str);
    if !name.contains('/') {
        let found = look_for(&search_path(), name);
        return found.ok_or_else(|| format!("no folder of PATH has the program `{name}`"));
    }
    let path = directory.join(name);
    match path.metadata() {
        Ok(found) if !is_executable(&found) => Err(format!("{} is no executable file", path.display())),
        Ok(_) => Ok(path),
        Err(error) => Err(format!("{}: {error}", path.display())),
    }
}

/// Finds every program that a mesh needs; all of them, or what is missing.
pub(super) fn find() -> (Vec<Finding>, Option<Tools>) {
    let path = search_path();
    let (ip_found, ip) = ip(&path);
    let (proxy_found, proxy) = sibling("watchword-proxy");
    let (plane_found, control_plane) = sibling("watchword-control-plane");
    let redirect_found = redirect(&path);
    // The sidecars look for it themselves.
    let redirects = redirect_found.mend.is_none();
    let tools = match (ip, proxy, control_plane) {
        (Some(ip), Some(proxy), Some(control_plane)) if redirects => Some(Tools {
            ip,
            proxy,
            control_plane,
        }),
        _ => None,
    };
    (vec![ip_found, redirect_found, proxy_found, plane_found], tools)
}

fn ip(path: &OsString) -> (Finding, Option<PathBuf>) {
    const CHECK: &str = "ip";
    let found = look_for(path, "ip");
    let finding = match &found {
        Some(program) => Finding::good(CHECK, program.display().to_string()),
        None => not_installed(CHECK, "`ip` is not installed", "iproute2"),
    };
    (finding, found)
}

/// What puts redirect rules in force.
fn redirect(path: &OsString) -> Finding {
    const CHECK: &str = "nft";
    if let Some(program) = look_for(path, "nft") {
        return Finding::good(CHECK, program.display().to_string());
    }
    match look_for_all(path, STAND_IN) {
        Some(_) => Finding::good(
            CHECK,
            "it is missing, so `iptables` and `ip6tables` install the redirect rules",
        ),
        None => not_installed(
            CHECK,
            "`nft` is not installed, and neither are `iptables` and `ip6tables`, which could stand in for it",
            "nftables",
        ),
    }
}

fn not_installed(check: &'static str, seen: &str, package: &str) -> Finding {
    let mend = format!("`apt-get install {package}` (or your system's package of that name)");
    Finding::missing(check, seen, mend)
}

fn look_for_all(path: &OsString, programs: [&str; 4]) -> Option<Vec<PathBuf>> {
    programs.iter().map(|program| look_for(path, program)).collect()
}

fn is_executable(found: &std::fs::Metadata) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    found.is_file() && found.permissions().mode() & 0o111 != 0
}

fn look_for(path: &OsString, program: &str) -> Option<PathBuf> {
    let executable = |file: &PathBuf| file.metadata().is_ok_and(|found| is_executable(&found));
    std::env::split_paths(path)
        .filter(|folder| folder.is_absolute())
        .map(|folder| folder.join(program))
        .find(executable)
}

fn sibling(name: &'static str) -> (Finding, Option<PathBuf>) {
    let own = std::env::current_exe().unwrap_or_default();
    let path = own.with_file_name(name);
    let build = "build all programs together: `cargo build --release`";
    let finding = match version(&path) {
        Ok(version) if version == VERSION => Finding::good(name, format!("{version}, {}", path.display())),
        Ok(other) => Finding::missing(
            name,
            format!("{} is of version {other}, and `watchword` of {VERSION}", path.display()),
            build,
        ),
        Err(problem) => Finding::missing(
            name,
            format!(
                "{} is missing beside `watchword`, or can't be run ({problem})",
                path.display()
            ),
            build,
        ),
    };
    let found = finding.mend.is_none();
    (finding, found.then_some(path))
}

/// What a program of ours says of itself.
fn version(program: &Path) -> std::io::Result<String> {
    let output = Command::new(program).arg("--version").stdin(Stdio::null()).output()?;
    let said = String::from_utf8_lossy(&output.stdout);
    let version = said.split_whitespace().nth(1).unwrap_or("none that it tells");
    Ok(version.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn system_folders_are_searched_last() {
        let path = search_path();
        let folders: Vec<_> = std::env::split_paths(&path).collect();
        assert!(folders.contains(&PathBuf::from("/usr/sbin")));
        assert_eq!(look_for(&path, "no-such-program-at-all"), None);
        assert!(look_for(&path, "sh").is_some());
    }

    #[test]
    fn what_is_missing_comes_with_its_package() {
        let nowhere = OsString::from("/nonexistent");
        let missing = [ip(&nowhere).0, redirect(&nowhere)].map(|finding| finding.to_string());
        let expected = [
            "`ip` is not installed: `apt-get install iproute2` (or your system's package of that name)",
            "`nft` is not installed, and neither are `iptables` and `ip6tables`, which could stand in for it: `apt-get \
             install nftables` (or your system's package of that name)",
        ];
        assert_eq!(missing, expected);
    }
}
