//! A replica's sidecar: interception installed, a join token handed over,
//! watched, started again with a new token when it dies. One whose certificate
//! has expired, since the control plane was away or the machine asleep, gets
//! another token.
//!
//! Invariant: a token travels through a pipe, and nowhere else.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::io::AsyncWriteExt as _;
use tokio::process::{Child, ChildStdin};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::bridge::Bridge;
use super::output::{Output, Prefix};
use super::plan::{Plan, Replica};
use super::process::{self, Backoff};
use super::render;
use super::stage::{Stage, StageWatch};
use super::supervise::Event;
use super::wholeness::Wholeness;
use crate::admin_client::Admin;
use crate::launcher;
use crate::launcher::enter::{Entry, Join};
use crate::launcher::privileges::Privileges;
use crate::launcher::program::Program;
use crate::launcher::user_namespace::SIDECAR_UID;
use crate::mesh_folder::write_private;
use crate::sidecar_client::{self, SidecarError};

/// Between two looks until it is ready, and afterwards.
const POLL: Duration = Duration::from_millis(50);
const READY_POLL: Duration = Duration::from_secs(1);
/// A line of /readyz that begins with this asks for another token.
const WANTS_TOKEN: &str = "join-token:";
/// From one token to the next: time to use it.
const BETWEEN_TOKENS: Duration = Duration::from_secs(5);
const INSTALL_PATIENCE: Duration = Duration::from_secs(15);

/// One replica's sidecar.
#[derive(Debug)]
pub(crate) struct Sidecar {
    /// The mesh.
    pub(crate) plan: Plan,
    /// The replica that it serves.
    pub(crate) replica: Replica,
    /// The holder of the replica's namespaces.
    pub(crate) holder: u32,
    /// From where it is seen as others see it.
    pub(crate) bridge: Bridge,
    /// Where its logs go.
    pub(crate) output: Output,
    /// Who is told how it fares.
    pub(crate) events: mpsc::Sender<Event>,
}

impl Sidecar {
    /// Runs it until the mesh ends.
    pub(crate) async fn keep(self, stage: StageWatch) {
        let stop = || stage.reached(Stage::StopSidecars);
        let mut backoff = Backoff::new(Duration::from_millis(250));
        let mut installed = false;
        loop {
            backoff.starting();
            let launch = async {
                if !installed {
                    self.install().await?;
                }
                self.launch().await
            };
            let launched = tokio::select! {
                launched = launch => launched,
                () = stop() => return,
            };
            installed |= launched.is_ok();
            let trouble = match launched {
                Ok((mut child, pipe)) => match process::wait_or_stop(&mut child, stop(), self.attend(pipe)).await {
                    Some(status) => format!("ended with {}", process::describe_end(status)),
                    None => return,
                },
                Err(error) => format!("cannot start: {error:#}"),
            };
            let pause = backoff.pause();
            let name = &self.replica.name;
            self.output
                .warn(&format!("the sidecar of {name} {trouble}; trying again in {pause:?}"))
                .await;
            self.tell(Event::SidecarGone {
                name: name.clone(),
                reason: trouble,
            })
            .await;
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = stop() => return,
            }
        }
    }

    /// Writes the configuration, and puts the rules into the replica's
    /// network, with all rights that takes.
    async fn install(&self) -> anyhow::Result<()> {
        let config = serde_json::to_string_pretty(&render::sidecar(&self.plan, &self.replica))?;
        write_private(&self.config(), &config)?;
        if self.plan.root {
            std::os::unix::fs::chown(self.config(), Some(SIDECAR_UID), Some(SIDECAR_UID))?;
        }
        if self.replica.is_foreign {
            return Ok(());
        }
        let mut command = self.command(&["intercept", "install"], Privileges::Keep)?;
        command.stdin(Stdio::null());
        let mut child = process::spawn(command, &self.output, &self.prefix())?;
        let status = tokio::time::timeout(INSTALL_PATIENCE, child.wait())
            .await
            .context("`watchword-proxy intercept install` does not end")??;
        if !status.success() {
            bail!(
                "`watchword-proxy intercept install` ended with {}",
                process::describe(status)
            );
        }
        Ok(())
    }

    async fn launch(&self) -> anyhow::Result<(Child, Option<ChildStdin>)> {
        let token = self.token().await?;
        let mut command = self.command(&["run"], self.plan.sidecars_privileges(&["CAP_NET_ADMIN"]))?;
        command.stdin(Stdio::piped());
        let mut child = process::spawn(command, &self.output, &self.prefix())?;
        let mut pipe = child.stdin.take();
        hand_over(&mut pipe, &token).await;
        Ok((child, pipe))
    }

    async fn token(&self) -> anyhow::Result<String> {
        let admin = Admin::new(&self.plan.admin_socket());
        Ok(admin.create_token(&self.replica.spiffe_id).await?.token)
    }

    /// Tells when it is ready and why it is not, and hands over tokens, for as
    /// long as it runs.
    async fn attend(&self, mut pipe: Option<ChildStdin>) {
        let socket = self.replica.sidecar_socket(&self.plan.folder);
        let mut whole = Wholeness::new(&self.bridge, &self.plan, &self.replica);
        let mut ready = false;
        let mut last = String::new();
        let mut next_token = Instant::now() + BETWEEN_TOKENS;
        loop {
            let reason = match sidecar_client::unready(&socket).await {
                // Only one that runs can be looked at.
                Ok(unready) => match self.look(&mut whole).await {
                    Ok(Some(trouble)) => trouble,
                    Ok(None) => unready.map_or_else(String::new, |reason| format!("not ready: {reason}")),
                    Err(error) => error.to_string(),
                },
                Err(error) => error.to_string(),
            };
            if reason.is_empty() && !ready {
                ready = true;
                self.announce().await;
            }
            if reason.contains(WANTS_TOKEN) && Instant::now() >= next_token {
                next_token = Instant::now() + BETWEEN_TOKENS;
                self.replace_token(&mut pipe).await;
            }
            if reason != last {
                last.clone_from(&reason);
                self.tell_reason(reason).await;
            }
            tokio::time::sleep(if ready { READY_POLL } else { POLL }).await;
        }
    }

    /// What is wrong with its interception. News of that are told at once.
    async fn look(&self, whole: &mut Wholeness) -> Result<Option<String>, SidecarError> {
        let before = whole.known().map(str::to_owned);
        let trouble = whole.trouble().await?.map(str::to_owned);
        if trouble != before {
            let name = self.replica.name.clone();
            let message = match &trouble {
                Some(trouble) => trouble.clone(),
                None => format!("calls to {name} reach its sidecar again"),
            };
            self.output.warn(&message).await;
            let trouble = trouble.clone();
            self.tell(Event::Interception { name, trouble }).await;
        }
        Ok(trouble)
    }

    async fn replace_token(&self, pipe: &mut Option<ChildStdin>) {
        let name = &self.replica.name;
        let message = match self.token().await {
            Ok(token) => {
                hand_over(pipe, &token).await;
                format!("the sidecar of {name} has no valid certificate: it gets a new join token")
            }
            Err(error) => format!("the sidecar of {name} needs a new join token: {error:#}"),
        };
        self.output.warn(&message).await;
    }

    async fn announce(&self) {
        let name = self.replica.name.clone();
        let pid = std::fs::read_to_string(self.pid_file())
            .ok()
            .and_then(|text| text.trim().parse().ok());
        self.tell(Event::SidecarReady { name, pid }).await;
    }

    async fn tell_reason(&self, reason: String) {
        if !reason.is_empty() {
            let name = format!("the sidecar of {}", self.replica.name);
            self.tell(Event::Waits { name, reason }).await;
        }
    }

    fn command(&self, subcommand: &[&str], privileges: Privileges) -> anyhow::Result<std::process::Command> {
        let mut line = vec![self.plan.tools.proxy.display().to_string()];
        line.extend(subcommand.iter().map(|&word| word.to_owned()));
        line.extend(["--config".to_owned(), self.config().display().to_string()]);
        let entry = Entry {
            holder: self.holder,
            join: Join::Network,
            program: Program {
                command: line,
                directories: Vec::new(),
                privileges,
                reports: false,
                pid_file: Some(self.pid_file()),
            },
        };
        let mut command = launcher::command_with("enter", &entry)?;
        process::daemon_environment(&mut command);
        Ok(command)
    }

    /// Beside the sidecar's own folder, not in it: what root writes must not
    /// go where the sidecar could have put a link.
    fn config(&self) -> PathBuf {
        self.plan.folder.join(format!("{}.json", self.replica.name))
    }

    fn pid_file(&self) -> PathBuf {
        self.plan.folder.join(format!("{}.pid", self.replica.name))
    }

    fn prefix(&self) -> Prefix {
        Prefix::daemon(&format!("{} sidecar", self.replica.name))
    }

    async fn tell(&self, event: Event) {
        let _ = self.events.send(event).await;
    }
}

async fn hand_over(pipe: &mut Option<ChildStdin>, token: &str) {
    if let Some(pipe) = pipe {
        // It may have died already: then its end says more than this.
        let _ = pipe.write_all(format!("{token}\n").as_bytes()).await;
    }
}
