//! A replica's sidecar: interception installed, a join token handed over,
//! watched until it is ready, started again with a new token when it dies.
//!
//! Invariant: the token travels through a pipe, and nowhere else.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::io::AsyncWriteExt as _;
use tokio::process::Child;
use tokio::sync::mpsc;

use super::output::{Output, Prefix};
use super::plan::{Plan, Replica};
use super::process::{self, Backoff};
use super::render;
use super::stage::{Stage, StageWatch};
use super::supervise::Event;
use crate::admin_client::Admin;
use crate::launcher;
use crate::launcher::enter::{Entry, Join};
use crate::launcher::privileges::Privileges;
use crate::launcher::program::Program;
use crate::launcher::user_namespace::SIDECAR_UID;
use crate::mesh_folder::write_private;
use crate::sidecar_client;

const POLL: Duration = Duration::from_millis(50);
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
                Ok(mut child) => match process::wait_or_stop(&mut child, stop(), self.announce()).await {
                    Some(status) => format!(
                        "ended with {}",
                        status.map_or_else(|e| e.to_string(), process::describe)
                    ),
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
        self.make_run_dir().context("cannot make its folder")?;
        let config = serde_json::to_string_pretty(&render::sidecar(&self.plan, &self.replica))?;
        write_private(&self.config(), &config)?;
        if self.plan.root {
            std::os::unix::fs::chown(self.config(), Some(SIDECAR_UID), Some(SIDECAR_UID))?;
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

    async fn launch(&self) -> anyhow::Result<Child> {
        let token = Admin::new(&self.plan.admin_socket())
            .create_token(&self.replica.spiffe_id)
            .await?;
        let capabilities = vec!["CAP_NET_ADMIN".to_owned()];
        let privileges = if self.plan.root {
            Privileges::User {
                uid: SIDECAR_UID,
                gid: SIDECAR_UID,
                name: None,
                capabilities,
            }
        } else {
            Privileges::Only { capabilities }
        };
        let mut command = self.command(&["run"], privileges)?;
        command.stdin(Stdio::piped());
        let mut child = process::spawn(command, &self.output, &self.prefix())?;
        if let Some(mut pipe) = child.stdin.take() {
            let line = format!("{}\n", token.token);
            // It may have died already: then its end says more than this.
            let _ = pipe.write_all(line.as_bytes()).await;
        }
        Ok(child)
    }

    /// Tells when it is ready, and why it is not.
    async fn announce(&self) {
        let socket = self.replica.sidecar_socket(&self.plan.folder);
        let name = self.replica.name.clone();
        let mut last = String::new();
        loop {
            let reason = match sidecar_client::unready(&socket).await {
                Ok(None) => break,
                Ok(Some(reason)) => format!("not ready: {reason}"),
                Err(error) => error.to_string(),
            };
            if reason != last {
                last.clone_from(&reason);
                self.tell(Event::Waits {
                    name: format!("the sidecar of {name}"),
                    reason,
                })
                .await;
            }
            tokio::time::sleep(POLL).await;
        }
        let pid = std::fs::read_to_string(self.pid_file())
            .ok()
            .and_then(|text| text.trim().parse().ok());
        self.tell(Event::SidecarReady { name, pid }).await;
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

    fn make_run_dir(&self) -> std::io::Result<()> {
        use std::os::unix::fs::DirBuilderExt as _;
        let folder = self.replica.run_dir(&self.plan.folder);
        match std::fs::DirBuilder::new().mode(0o700).create(&folder) {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        if self.plan.root {
            std::os::unix::fs::chown(&folder, Some(SIDECAR_UID), Some(SIDECAR_UID))?;
        }
        Ok(())
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
