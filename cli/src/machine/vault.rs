//! Vault, as a mesh file names it: whether each address answers, vouched for by
//! the pinned authorities, unsealed, and by a clock like ours.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use watchword_control_plane::authority::{VaultHealth, ask_health};
use watchword_control_plane::mesh_file::{VaultAddress, VaultSettings};
use watchword_daemon::{Clock as _, SystemClock};

use super::{Finding, State};

const CHECK: &str = "Vault";
const CLOCKS: &str = "Vault's clock";
/// Vault dates certificates back by this much.
const TOO_FAR: Duration = Duration::from_secs(30);
const FAR: Duration = Duration::from_secs(3);

/// Asks every address.
pub(crate) async fn ask(settings: &VaultSettings) -> Vec<Finding> {
    let answers = match ask_health(settings).await {
        Ok(answers) => answers,
        Err(problem) => {
            let mend = "put right the files that `authority.vault` names";
            return vec![Finding::missing(CHECK, problem, mend)];
        }
    };
    let now = SystemClock.now();
    let clock = answers
        .iter()
        .find_map(|(_, answer)| answer.as_ref().ok())
        .map(|health| compare(now, health));
    judge(&answers).into_iter().chain(clock).collect()
}

/// One address that works is enough for a mesh.
fn judge(answers: &[(VaultAddress, Result<VaultHealth, String>)]) -> Vec<Finding> {
    let works = |answer: &Result<VaultHealth, String>| answer.as_ref().is_ok_and(|it| it.initialized && !it.sealed);
    let state = match answers.iter().any(|(_, answer)| works(answer)) {
        true => State::Warning,
        false => State::Missing,
    };
    let findings = answers.iter().map(|(address, answer)| match answer {
        Ok(health) if works(answer) => {
            let standby = if health.standby { ", a standby" } else { "" };
            Finding::good(
                CHECK,
                format!("{address} answers: {}{standby}, unsealed", health.version),
            )
        }
        Ok(health) if !health.initialized => Finding::bad(
            CHECK,
            state,
            format!("{address} answers, and was never initialised"),
            format!("`vault operator init -address={address}`"),
        ),
        Ok(_) => Finding::bad(
            CHECK,
            state,
            format!("{address} is sealed"),
            format!("`vault operator unseal -address={address}`"),
        ),
        Err(problem) => Finding::bad(CHECK, state, format!("{address}: {problem}"), cure(address, problem)),
    });
    findings.collect()
}

fn cure(address: &VaultAddress, problem: &str) -> String {
    let place = address.authority();
    if problem.contains("failed to lookup") {
        format!(
            "look whether the name is right and known here: `getent hosts {}`",
            address.host
        )
    } else if problem.contains("can't connect") || problem.contains("no answer") {
        format!("look whether Vault runs, and whether a firewall is between: `curl -k {address}/v1/sys/health`")
    } else if address.tls {
        format!("look who vouches for it, and put that into `caFile`: `watchword cert view {place}`")
    } else {
        "does it want TLS? Then write `https://` in `addresses`".to_owned()
    }
}

fn compare(now: SystemTime, health: &VaultHealth) -> Finding {
    let theirs = UNIX_EPOCH + Duration::from_secs(health.server_time_utc);
    let (apart, side) = match now.duration_since(theirs) {
        Ok(apart) => (apart, "behind"),
        Err(error) => (error.duration(), "ahead of"),
    };
    let seen = format!("it is {} s {side} this machine's", apart.as_secs());
    let mend = "let both machines be kept by NTP: `sudo timedatectl set-ntp true`";
    if apart >= TOO_FAR {
        Finding::missing(CLOCKS, seen, mend)
    } else if apart >= FAR {
        Finding::bad(CLOCKS, State::Warning, seen, mend)
    } else {
        Finding::good(CLOCKS, "it says the same as this machine's")
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::indexing_slicing)]

    use super::*;

    fn address() -> VaultAddress {
        VaultAddress {
            tls: true,
            host: "vault.example".to_owned(),
            port: 8200,
        }
    }

    fn health(sealed: bool) -> VaultHealth {
        VaultHealth {
            initialized: true,
            sealed,
            standby: false,
            version: "1.21.0".to_owned(),
            server_time_utc: 1_000,
        }
    }

    #[test]
    fn one_address_that_works_is_enough() {
        let (good, sealed) = ((address(), Ok(health(false))), (address(), Ok(health(true))));
        let away = (address(), Err("can't connect: refused".to_owned()));
        let states = |answers: &[_]| judge(answers).iter().map(|f| f.state).collect::<Vec<_>>();
        assert_eq!(states(&[good, away.clone()]), [State::Good, State::Warning]);
        assert_eq!(states(&[sealed.clone(), away]), [State::Missing, State::Missing]);
        let said = judge(&[sealed])[0].to_string();
        assert_eq!(
            said,
            "https://vault.example:8200 is sealed: `vault operator unseal -address=https://vault.example:8200`"
        );
    }

    #[test]
    fn each_trouble_has_a_command() {
        for (problem, command) in [
            (
                "can't connect: failed to lookup address information",
                "`getent hosts vault.example`",
            ),
            (
                "can't connect: refused",
                "`curl -k https://vault.example:8200/v1/sys/health`",
            ),
            ("UnknownIssuer", "`watchword cert view vault.example:8200`"),
        ] {
            assert!(cure(&address(), problem).contains(command), "{problem}");
        }
    }

    #[test]
    fn clocks_that_are_apart_are_told() {
        let at = |seconds| compare(UNIX_EPOCH + Duration::from_secs(seconds), &health(false));
        assert_eq!(at(1_001).state, State::Good);
        assert_eq!(at(1_010).state, State::Warning);
        assert_eq!(at(900).state, State::Missing);
        assert_eq!(at(900).seen, "it is 100 s ahead of this machine's");
    }
}
