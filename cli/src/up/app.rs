//! A replica's program: started inside the replica, watched until it
//! listens, started again when it ends.

use std::collections::BTreeSet;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::Stdio;
use std::time::Duration;

use anyhow::Context as _;
use tokio::io::AsyncReadExt as _;
use tokio::process::Child;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::listening::{Listening, listeners};
use super::output::{Output, Prefix};
use super::plan::Replica;
use super::process::{self, Backoff};
use super::stage::{Stage, StageWatch};
use super::supervise::Event;
use crate::launcher;
use crate::launcher::enter::{Entry, Join};
use crate::launcher::program::Program;

const SHORTEST_POLL: Duration = Duration::from_millis(25);
const LONGEST_POLL: Duration = Duration::from_millis(400);
const LAUNCH_PATIENCE: Duration = Duration::from_secs(10);
const MAX_MESSAGE: u64 = 4096;
/// A program may open one port after the other.
const PATIENCE_WITH_PORTS: Duration = Duration::from_secs(3);

/// One replica's program.
#[derive(Debug)]
pub(crate) struct App {
    /// What to run.
    pub(crate) replica: Replica,
    /// The holder of the replica's namespaces.
    pub(crate) holder: u32,
    /// Where its output goes.
    pub(crate) output: Output,
    /// What stands before its lines.
    pub(crate) prefix: Prefix,
    /// Who is told how it fares.
    pub(crate) events: mpsc::Sender<Event>,
}

/// How one run of the program went.
enum Run {
    Asked,
    Ended(String),
    NotStarted(String),
}

impl App {
    /// Runs it from [`Stage::Apps`] on until the mesh ends.
    pub(crate) async fn keep(self, stage: StageWatch) {
        stage.reached(Stage::Apps).await;
        let mut backoff = Backoff::new(Duration::from_secs(1));
        loop {
            backoff.starting();
            let run = self.run_once(&stage).await;
            let pause = backoff.pause();
            let news = async {
                match run {
                    Run::Asked => std::future::pending().await,
                    Run::Ended(how) => self.report_end(&how, pause).await,
                    Run::NotStarted(why) => {
                        let message = format!("service {}: {why}", self.replica.service);
                        self.tell(Event::CannotStart { message }).await;
                    }
                }
                tokio::time::sleep(pause).await;
            };
            tokio::select! {
                biased;
                // When everything ends, it is no news that this did.
                () = stage.reached(Stage::StopApps) => return,
                () = news => {}
            }
        }
    }

    async fn report_end(&self, how: &str, pause: Duration) {
        let name = &self.replica.name;
        let reason = format!("it ended with {how}");
        self.tell(Event::Waits {
            name: name.clone(),
            reason,
        })
        .await;
        let message = format!("{name} ended with {how}; starting it again in {} s", pause.as_secs());
        self.output.warn(&message).await;
    }

    async fn run_once(&self, stage: &StageWatch) -> Run {
        let stop = || stage.reached(Stage::StopApps);
        // The sidecar's, that is.
        let taken: BTreeSet<u16> = listeners(self.holder).into_keys().collect();
        let launched = tokio::select! {
            launched = self.launch() => launched,
            () = stop() => return Run::Asked,
        };
        let mut child = match launched {
            Ok(child) => child,
            Err(error) => return Run::NotStarted(format!("{error:#}")),
        };
        match process::wait_or_stop(&mut child, stop(), self.announce(&taken)).await {
            None => Run::Asked,
            Some(status) => Run::Ended(process::describe_end(status)),
        }
    }

    /// Starts the program, and waits until it is really executed.
    async fn launch(&self) -> anyhow::Result<Child> {
        let entry = Entry {
            holder: self.holder,
            join: Join::Everything,
            program: Program {
                command: self.replica.command.clone(),
                directories: vec![self.replica.directory.clone()],
                privileges: self.replica.privileges.clone(),
                reports: true,
                pid_file: None,
            },
        };
        let (ours, theirs) = UnixStream::pair()?;
        let mut command = launcher::command_with("enter", &entry)?;
        command
            .envs(&self.replica.environment)
            .stdin(Stdio::from(OwnedFd::from(theirs)));
        // Also closes our copy of its end, once the command is dropped in there.
        let child = process::spawn(command, &self.output, &self.prefix)?;
        ours.set_nonblocking(true)?;
        let channel = tokio::net::UnixStream::from_std(ours)?;
        let mut message = String::new();
        tokio::time::timeout(LAUNCH_PATIENCE, channel.take(MAX_MESSAGE).read_to_string(&mut message))
            .await
            .context("the launcher does not answer")??;
        if message.is_empty() {
            Ok(child)
        } else {
            Err(anyhow::anyhow!(message))
        }
    }

    /// Tells when it listens, if it has to. Ports that were `taken` before it
    /// started are not its own.
    async fn announce(&self, taken: &BTreeSet<u16>) {
        let name = &self.replica.name;
        if let Some(port) = self.replica.healthy {
            let began = Instant::now();
            // The kernel walks large tables for each look: look less and less often.
            let mut pause = SHORTEST_POLL;
            let (mut told, mut warned) = (None, None);
            loop {
                let found = listeners(self.holder);
                if found.get(&port) == Some(&Listening::Everywhere) {
                    break;
                }
                let others: Vec<_> = found.keys().filter(|port| !taken.contains(port)).collect();
                let (reason, is_mistake) = match (found.get(&port), others.first()) {
                    (Some(_), _) => (
                        format!(
                            "its port {port} listens on loopback alone, where nobody else reaches it: let it listen \
                             on 0.0.0.0 or [::]"
                        ),
                        true,
                    ),
                    (None, Some(other)) => (
                        format!(
                            "nothing listens on its port {port} yet, but on {other}: `healthy: {{port: {other}}}` in \
                             the mesh file would be that"
                        ),
                        began.elapsed() > PATIENCE_WITH_PORTS,
                    ),
                    (None, None) => (format!("nothing listens on its port {port} yet"), false),
                };
                if is_mistake && warned.as_ref() != Some(&reason) {
                    self.output.warn(&format!("{name}: {reason}")).await;
                    warned = Some(reason.clone());
                }
                if told.as_ref() != Some(&reason) {
                    told = Some(reason.clone());
                    let name = name.clone();
                    self.tell(Event::Waits { name, reason }).await;
                }
                tokio::time::sleep(pause).await;
                pause = pause.saturating_mul(2).min(LONGEST_POLL);
            }
        }
        self.tell(Event::AppReady { name: name.clone() }).await;
    }

    async fn tell(&self, event: Event) {
        let _ = self.events.send(event).await;
    }
}
