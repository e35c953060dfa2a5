//! The machine as it looks in a mount namespace of its own, where something is
//! missing: files hidden, file systems full.

use std::ffi::OsStr;
use std::process::Command;

use nix::unistd::{getgid, getuid};

/// Runs `$@` after the changes, by `$by`; an ordinary user goes back to being one.
const ROOT: &str = "exec $by \"$@\"";
const USER: &str = "exec $by unshare --user --map-user=\"$user\" --map-group=\"$group\" -- \"$@\"";

/// `program` on a machine that the shell commands `changes` have changed before,
/// for it and its children alone.
pub fn altered(changes: &str, program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new("unshare");
    let last = if crate::is_root() {
        ROOT
    } else {
        command.args(["--user", "--map-root-user"]);
        USER
    };
    command
        .args(["--mount", "--", "sh", "-euc", &format!("by=\n{changes}\n{last}"), "sh"])
        .arg(program)
        .env("user", getuid().to_string())
        .env("group", getgid().to_string());
    command
}

/// Commands that take IPv6 away, as a kernel that was booted with
/// `ipv6.disable=1` does: its sockets are refused with EAFNOSUPPORT.
#[must_use]
pub fn without_ipv6() -> String {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/src/without_ipv6.py");
    format!("by='python3 {script}'")
}

/// Commands that hide programs of these names, wherever they are looked for.
#[must_use]
pub fn without(programs: &[&str]) -> String {
    let hide = |program: &&str| {
        format!(
            "for folder in /usr/local/sbin /usr/local/bin /usr/sbin /usr/bin /sbin /bin; do \
             if [ -f \"$folder/{program}\" ]; then mount --bind /dev/null \"$folder/{program}\"; fi; done\n"
        )
    };
    programs.iter().map(hide).collect()
}
