//! What the kernel gives: namespaces, redirection, IPv6. Where no file tells,
//! it is tried.

use std::net::{Ipv6Addr, UdpSocket};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use nix::errno::Errno;
use serde_json::json;

use super::programs::search_path;
use super::{Finding, State};

/// From here on one table of nftables redirects both IP families.
const OLDEST: (u32, u32) = (5, 2);
const FAMILIES: &str = "/proc/net/if_inet6";

/// Whether it is new enough.
pub(super) fn version() -> Finding {
    let text = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    judge_version(text.trim())
}

fn judge_version(text: &str) -> Finding {
    const CHECK: &str = "kernel";
    let mut numbers = text.split(|c: char| !c.is_ascii_digit()).map(str::parse::<u32>);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) if (major, minor) >= OLDEST => Finding::good(CHECK, format!("Linux {text}")),
        (Some(Ok(_)), Some(Ok(_))) => Finding::missing(
            CHECK,
            format!("Linux {text} is older than {}.{}", OLDEST.0, OLDEST.1),
            "install a newer kernel, such as your distribution's current one",
        ),
        _ => Finding::bad(
            CHECK,
            State::Unknown,
            format!("its version is not told: {text:?}"),
            "`uname -r` should say it",
        ),
    }
}

/// Whether the kernel has IPv6 at all, and lets us have it: a sandbox may show
/// the file and refuse the sockets.
pub(crate) fn has_ipv6() -> bool {
    let is_refused = |error: &std::io::Error| error.raw_os_error() == Some(Errno::EAFNOSUPPORT as i32);
    let tried = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0));
    Path::new(FAMILIES).exists() && !tried.is_err_and(|error| is_refused(&error))
}

/// A mesh does without.
pub(super) fn ipv6() -> Finding {
    const CHECK: &str = "IPv6";
    match has_ipv6() {
        true => Finding::good(CHECK, "the kernel has it"),
        false => Finding::bad(
            CHECK,
            State::Warning,
            "this kernel has no IPv6, so the mesh has IPv4 alone",
            "`sudo modprobe ipv6`, or boot without `ipv6.disable=1`",
        ),
    }
}

/// Tries the namespaces and mounts that a mesh needs.
pub(super) fn namespaces(root: bool) -> Finding {
    const CHECK: &str = "namespaces";
    match probe(None) {
        Ok(()) if root => Finding::good(CHECK, "root makes them"),
        Ok(()) => Finding::good(CHECK, "you make them without root"),
        Err(said) => {
            let setting = |file: &str| std::fs::read_to_string(format!("/proc/sys/{file}")).ok();
            let (seen, mend) = advice(root, &said, setting);
            Finding::missing(CHECK, seen, mend)
        }
    }
}

/// Tries the redirect rules, with the program that will install them.
pub(super) fn interception(proxy: &Path) -> Finding {
    const CHECK: &str = "interception";
    match probe(Some(proxy)) {
        Ok(()) => Finding::good(CHECK, "the kernel takes the redirect rules, for IPv4 and IPv6"),
        Err(said) => Finding::missing(
            CHECK,
            format!("the redirect rules can't be installed ({said})"),
            "`sudo modprobe -a nf_tables nft_chain_nat nft_redir nft_fib_inet nft_reject_inet nft_ct`, or use a kernel \
             that has them",
        ),
    }
}

/// In words, what a child that tries it complains of.
fn probe(proxy: Option<&Path>) -> Result<(), String> {
    let mut command = Command::new("/proc/self/exe");
    command.args(["internal", "probe", "--"]).env("PATH", search_path());
    if let Some(proxy) = proxy {
        command
            .arg(proxy)
            .args(["intercept", "install", "--config", "/dev/stdin"]);
    }
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    let mut run = || -> std::io::Result<Output> {
        let mut child = command.spawn()?;
        if let Some(mut pipe) = child.stdin.take() {
            // It may end without reading.
            let _ = std::io::Write::write_all(&mut pipe, smallest_sidecar().as_bytes());
        }
        child.wait_with_output()
    };
    let output = run().map_err(|error| format!("cannot start a process: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(said.trim().trim_start_matches("error: ").to_owned())
}

/// The configuration of a sidecar like those of `up`, as far as its rules go.
fn smallest_sidecar() -> String {
    let nowhere = "/nonexistent";
    json!({
        "controlPlane": {
            "address": format!("unix:{nowhere}"),
            "id": "spiffe://example.org/watchword/control-plane",
            "bundleFile": nowhere,
        },
        "attestation": {"tokenFile": nowhere},
        "interception": {"scope": "namespace", "loopProtection": "mark"},
    })
    .to_string()
}

/// What is seen, and what mends it.
fn advice(root: bool, said: &str, setting: impl Fn(&str) -> Option<String>) -> (String, String) {
    let is = |file: &str, value: &str| setting(file).is_some_and(|found| found.trim() == value);
    if root {
        return (
            format!("this machine refuses namespaces to root ({said})"),
            "in a container, start it with `--privileged` or `--cap-add SYS_ADMIN --cap-add NET_ADMIN --security-opt \
             seccomp=unconfined --security-opt apparmor=unconfined`"
                .to_owned(),
        );
    }
    let (why, mend) = if is("user/max_user_namespaces", "0") {
        (
            ": user.max_user_namespaces is 0",
            "`sudo sysctl user.max_user_namespaces=15000`",
        )
    } else if is("kernel/unprivileged_userns_clone", "0") {
        (
            ": this kernel keeps them for root",
            "`sudo sysctl kernel.unprivileged_userns_clone=1`",
        )
    } else if is("kernel/apparmor_restrict_unprivileged_userns", "1") {
        (
            ": AppArmor keeps them for root",
            "`sudo sysctl kernel.apparmor_restrict_unprivileged_userns=0`",
        )
    } else if said.contains("No space left on device") {
        (
            ": there are as many as it allows",
            "`sudo sysctl user.max_user_namespaces=15000 user.max_net_namespaces=15000 user.max_mnt_namespaces=15000`",
        )
    } else {
        (
            "",
            "look whether a container or a security module forbids user namespaces, or use root",
        )
    };
    let seen = format!("this machine refuses user namespaces to you ({said}){why}");
    (seen, mend.to_owned())
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
            let (seen, mend) = advice(false, "cannot x", |asked| (asked == file).then(|| value.to_owned()));
            assert!(seen.contains("cannot x") && mend.contains(cure), "{seen}: {mend}");
        }
        assert!(advice(true, "no", |_| None).1.contains("--privileged"));
        let full = "cannot make a user namespace: No space left on device (os error 28)";
        assert!(advice(false, full, |_| None).1.contains("max_net_namespaces"));
    }

    #[test]
    fn old_kernels_are_missing_what_a_mesh_needs() {
        for (text, state) in [
            ("6.18.44-fc", State::Good),
            ("5.2.0", State::Good),
            ("5.1.21-generic", State::Missing),
            ("4.18.0-553.el8", State::Missing),
            ("", State::Unknown),
            ("Linux", State::Unknown),
        ] {
            assert_eq!(judge_version(text).state, state, "{text}");
        }
    }
}
