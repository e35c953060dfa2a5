//! The namespaces of a mesh, joined by a switch.
//!
//! Invariant: nothing has a name outside of the mesh; all of it ends with the
//! holders.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::{Child, ChildStdin, Command};

use super::plan::{Plan, Replica};
use super::{render, run_dir};
use crate::launcher::enter::{Entry, Join};
use crate::launcher::hold::{Held, View};
use crate::launcher::privileges::Privileges;
use crate::launcher::program::Program;
use crate::launcher::{self};

const PATIENCE: Duration = Duration::from_secs(10);

/// A process that keeps namespaces alive.
#[derive(Debug)]
pub(crate) struct Holder {
    /// As /proc shows it.
    pub(crate) pid: u32,
    /// What could not be done, but is no reason to stop.
    pub(crate) warnings: Vec<String>,
    /// Closing it ends the holder.
    pub(crate) pipe: ChildStdin,
    /// Its parent's handle, which ends with it.
    pub(crate) child: Child,
}

/// Starts the switch's holder.
pub(crate) async fn hold_switch() -> anyhow::Result<Holder> {
    // Where the machine has them (they come with Docker and kube-proxy), each
    // packet would pass the rules for IP of a namespace that has none.
    let settings = ["iptables", "ip6tables", "arptables"]
        .map(|tables| PathBuf::from(format!("/proc/sys/net/bridge/bridge-nf-call-{tables}")))
        .into_iter()
        .filter(|file| file.exists())
        .map(|file| (file, "0".to_owned()))
        .collect();
    hold(&View {
        hostname: "switch".to_owned(),
        files: Vec::new(),
        hidden: Vec::new(),
        shown: Vec::new(),
        settings,
    })
    .await
    .context("cannot make the switch's namespaces")
}

/// Starts a replica's holder.
pub(crate) async fn hold_replica(plan: &Plan, replica: &Replica) -> anyhow::Result<Holder> {
    let name = &replica.name;
    run_dir::make(plan, replica).with_context(|| format!("cannot make the folders of {name}'s sidecar"))?;
    hold(&view(plan, replica)?)
        .await
        .with_context(|| format!("cannot make the namespaces of {name}"))
}

/// Joins the replicas to the switch and gives them their addresses.
pub(crate) async fn connect(plan: &Plan, switch: u32, holders: &[u32]) -> anyhow::Result<()> {
    ip(plan, switch, &render::switch_links(plan, holders))
        .await
        .context("cannot build the switch")?;
    for (replica, holder) in plan.members().zip(holders) {
        ip(plan, *holder, &render::replica_links(replica))
            .await
            .with_context(|| format!("cannot give {} its addresses", replica.name))?;
    }
    Ok(())
}

fn view(plan: &Plan, replica: &Replica) -> anyhow::Result<View> {
    let file = |suffix: &str, text: &str| -> anyhow::Result<PathBuf> {
        let path = plan.folder.join(format!("{}.{suffix}", replica.name));
        write_public(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(path)
    };
    let ipv4 = |name: &str| PathBuf::from(format!("/proc/sys/net/ipv4/{name}"));
    let mut settings = vec![
        (ipv4("ip_unprivileged_port_start"), "0".to_owned()),
        // A switch in memory loses nothing: what paces (BBR) costs much here and
        // gains nothing (docs/decisions/0021).
        (ipv4("tcp_congestion_control"), "reno".to_owned()),
    ];
    if plan.ipv6 {
        // Distributions switch IPv6 off in new namespaces along with the machine's.
        for scope in ["all", "default"] {
            settings.push((
                PathBuf::from(format!("/proc/sys/net/ipv6/conf/{scope}/disable_ipv6")),
                "0".to_owned(),
            ));
        }
    }
    Ok(View {
        hostname: replica.name.clone(),
        files: vec![
            (
                file("hosts", &render::hosts(plan, replica))?,
                PathBuf::from("/etc/hosts"),
            ),
            (file("resolv", render::resolver())?, PathBuf::from("/etc/resolv.conf")),
            (file("gai", render::address_order())?, PathBuf::from("/etc/gai.conf")),
        ],
        // nscd answers from the machine's hosts file, not from the replica's.
        hidden: vec![PathBuf::from("/run/nscd")],
        // Everything else of the mesh's folders is hidden by that.
        shown: [&plan.workload_folder, &plan.base]
            .into_iter()
            .map(|place| (replica.shown_dir(&plan.folder), place.clone()))
            .collect::<BTreeSet<_>>()
            .into_iter()
            .collect(),
        settings,
    })
}

async fn hold(view: &View) -> anyhow::Result<Holder> {
    let mut command = Command::from(launcher::command_with("hold", view)?);
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    let mut child = command.spawn()?;
    let (Some(pipe), Some(stdout), Some(mut stderr)) = (child.stdin.take(), child.stdout.take(), child.stderr.take())
    else {
        bail!("the launcher has no pipes");
    };
    let mut line = String::new();
    tokio::time::timeout(PATIENCE, BufReader::new(stdout).take(64 * 1024).read_line(&mut line))
        .await
        .context("the launcher does not answer")??;
    if line.is_empty() {
        let mut said = String::new();
        let _ = tokio::time::timeout(PATIENCE, (&mut stderr).take(4096).read_to_string(&mut said)).await;
        bail!("{}", said.trim().trim_start_matches("error: "));
    }
    let held: Held = serde_json::from_str(&line)?;
    Ok(Holder {
        pid: held.pid,
        warnings: held.warnings,
        pipe,
        child,
    })
}

async fn ip(plan: &Plan, holder: u32, batch: &str) -> anyhow::Result<()> {
    let entry = Entry {
        holder,
        join: Join::Network,
        program: Program {
            command: vec![plan.tools.ip.display().to_string(), "-batch".to_owned(), "-".to_owned()],
            directories: Vec::new(),
            privileges: Privileges::Keep,
            reports: false,
            pid_file: None,
        },
    };
    let mut command = Command::from(launcher::command_with("enter", &entry)?);
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    let mut child = command.spawn()?;
    let run = async {
        if let Some(mut pipe) = child.stdin.take() {
            pipe.write_all(batch.as_bytes()).await?;
        }
        child.wait_with_output().await
    };
    let output = tokio::time::timeout(PATIENCE, run)
        .await
        .context("`ip` does not end")??;
    if !output.status.success() {
        bail!("`ip -batch`: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

/// The app reads it, whoever it runs as.
fn write_public(path: &std::path::Path, text: &str) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    let mut file = std::fs::File::create(path)?;
    file.set_permissions(std::fs::Permissions::from_mode(0o644))?;
    file.write_all(text.as_bytes())
}
