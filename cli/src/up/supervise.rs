//! The supervisor: brings the mesh up in order, reports how its parts fare,
//! and takes it down in the opposite order.
//!
//! Invariants: apps start when every sidecar has been ready; they end before
//! any sidecar does, and the control plane ends last; whatever is cut short
//! here is ended by the kernel when this process namespace's first process
//! ends.

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use serde::{Deserialize, Serialize};
use tokio::process::ChildStdin;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::app::App;
use super::bridge::Bridge;
use super::control_plane;
use super::helpers::{self, Sockets};
use super::network::{self, Holder};
use super::output::{Output, Prefix};
use super::plan::Plan;
use super::process::GRACE;
use super::progress::Progress;
use super::sidecar::Sidecar;
use super::stage::{self, Stage, StageSender, StageWatch};
use crate::mesh_folder::MeshFolder;
use crate::record::{Record, RunningReplica};
use crate::say;

/// Where `up` leaves the [`Order`], in the mesh folder.
pub(crate) const ORDER_FILE: &str = "order.json";
/// How long a mesh may take until all of it is ready.
const START_PATIENCE: Duration = Duration::from_secs(30);
const EVENTS: usize = 256;

/// What `up` asks of the supervisor.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Order {
    /// What to run.
    pub(crate) plan: Plan,
    /// The process id of `up`.
    pub(crate) up_pid: u32,
}

/// What the mesh's parts tell the supervisor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// A replica's sidecar is ready, with its process id as /proc shows it.
    SidecarReady {
        /// The replica.
        name: String,
        /// The sidecar.
        pid: Option<u32>,
    },
    /// A replica's sidecar ended, or could not be started.
    SidecarGone {
        /// The replica.
        name: String,
        /// How.
        reason: String,
    },
    /// What is wrong with a replica's interception now.
    Interception {
        /// The replica.
        name: String,
        /// In a sentence; nothing when it is whole again.
        trouble: Option<String>,
    },
    /// A replica's program runs, and listens if it has to.
    AppReady {
        /// The replica.
        name: String,
    },
    /// A part is not ready yet.
    Waits {
        /// The part, in words.
        name: String,
        /// Why.
        reason: String,
    },
    /// A program cannot be started at all.
    CannotStart {
        /// The service, the program and the reason.
        message: String,
    },
    /// Namespaces are gone.
    HolderGone {
        /// Whose.
        name: String,
    },
}

/// Runs the mesh in `folder` until SIGTERM. Exit status 0 when it was asked to
/// end, else 1.
pub(crate) fn supervise(folder: &Path) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            say::error(format!("cannot start: {error}"));
            return ExitCode::FAILURE;
        }
    };
    let (output, writer) = Output::start();
    let result = runtime.block_on(async {
        let result = run(folder, output).await;
        // Programs' last words are still on their way through the pipes.
        writer.finish(Duration::from_secs(1)).await;
        result
    });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say::error(format!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

async fn run(folder: &Path, output: Output) -> anyhow::Result<()> {
    let mut asked = Asked::new()?;
    let _folder = MeshFolder::join(folder)?;
    let text = std::fs::read_to_string(folder.join(ORDER_FILE)).context("cannot read what to run")?;
    let order: Order = serde_json::from_str(&text).context("cannot read what to run")?;
    let mut mesh = Mesh::new(order, output.clone());
    let started = tokio::select! {
        biased;
        () = asked.wait() => None,
        started = tokio::time::timeout(START_PATIENCE, mesh.start()) => Some(started),
    };
    let result = match started {
        None => Ok(()),
        Some(Ok(Ok(()))) => {
            tokio::select! {
                biased;
                () = asked.wait() => Ok(()),
                error = mesh.attend() => Err(error),
            }
        }
        Some(Ok(Err(error))) => Err(error),
        Some(Err(_)) => Err(anyhow!(
            "the mesh was not ready within {} s: {}",
            START_PATIENCE.as_secs(),
            mesh.progress.missing()
        )),
    };
    if result.is_ok() {
        output.say(&format!("mesh {} is stopping", mesh.order.plan.name)).await;
    }
    mesh.take_down().await;
    result
}

/// The signals that ask for the end.
struct Asked {
    terminate: Signal,
    interrupt: Signal,
}

impl Asked {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    async fn wait(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

struct Mesh {
    order: Order,
    output: Output,
    progress: Progress,
    record: Option<Record>,
    stage: StageSender,
    watch: StageWatch,
    sender: mpsc::Sender<Event>,
    events: mpsc::Receiver<Event>,
    // Open pipes keep the holders alive.
    pipes: Vec<ChildStdin>,
    holders: JoinSet<()>,
    control_plane: JoinSet<()>,
    sidecars: JoinSet<()>,
    apps: JoinSet<()>,
}

impl Mesh {
    fn new(order: Order, output: Output) -> Self {
        let (stage, watch) = stage::channel();
        let (sender, events) = mpsc::channel(EVENTS);
        Self {
            progress: Progress::new(&order.plan),
            order,
            output,
            record: None,
            stage,
            watch,
            sender,
            events,
            pipes: Vec::new(),
            holders: JoinSet::new(),
            control_plane: JoinSet::new(),
            sidecars: JoinSet::new(),
            apps: JoinSet::new(),
        }
    }

    /// Returns when everything is ready. May be dropped at any point: then
    /// [`Self::take_down`] ends what has started.
    async fn start(&mut self) -> anyhow::Result<()> {
        let sockets = helpers::bind(&self.order.plan)?;
        let (switch, holders) = self.make_network().await?;
        let bridge = Bridge::join(switch).await?;
        self.progress
            .now("the control plane has not answered; its log says what it waits for, and `watchword doctor --mesh-file FILE` what is wrong with a Vault");
        let control_plane = control_plane::start(&self.order.plan, &self.output).await?;
        self.control_plane.spawn(control_plane.keep(self.watch.clone()));
        self.start_members(&holders, &bridge);
        self.start_helpers(sockets, &holders);
        while !self.progress.sidecars_ready() {
            self.next_event().await?;
        }
        self.stage.advance(Stage::Apps);
        while !self.progress.all_ready() {
            self.next_event().await?;
        }
        for port in self.order.plan.publisher.iter().flat_map(|publisher| &publisher.ports) {
            let message = format!("{} is published at {}", port.service, port.listen);
            self.output.say(&message).await;
        }
        let message = format!("mesh {} is ready", self.order.plan.name);
        self.output.say(&message).await;
        Ok(())
    }

    /// The holders of the switch and of the replicas.
    async fn make_network(&mut self) -> anyhow::Result<(u32, Vec<u32>)> {
        self.progress.now("the network is being made");
        let plan = self.order.plan.clone();
        let switch = network::hold_switch().await?;
        let switch_pid = switch.pid;
        self.adopt("the switch", switch).await;
        let mut holders = Vec::new();
        for replica in plan.members() {
            let holder = network::hold_replica(&plan, replica).await?;
            holders.push(holder.pid);
            self.adopt(&replica.name, holder).await;
        }
        network::connect(&plan, switch_pid, &holders).await?;
        let record = Record::new(&plan, self.order.up_pid, switch_pid, &holders);
        record.store(&plan.folder)?;
        self.record = Some(record);
        Ok((switch_pid, holders))
    }

    async fn adopt(&mut self, name: &str, holder: Holder) {
        for warning in &holder.warnings {
            self.output.warn(&format!("{name}: {warning}")).await;
        }
        self.pipes.push(holder.pipe);
        let (mut child, events, name) = (holder.child, self.sender.clone(), name.to_owned());
        self.holders.spawn(async move {
            let _ = child.wait().await;
            let _ = events.send(Event::HolderGone { name }).await;
        });
    }

    fn start_members(&mut self, holders: &[u32], bridge: &Bridge) {
        let plan = &self.order.plan;
        for (index, (replica, holder)) in plan.members().zip(holders).enumerate() {
            let sidecar = Sidecar {
                plan: plan.clone(),
                replica: replica.clone(),
                holder: *holder,
                bridge: bridge.clone(),
                output: self.output.clone(),
                events: self.sender.clone(),
            };
            self.sidecars.spawn(sidecar.keep(self.watch.clone()));
            // The publisher has none.
            if replica.command.is_empty() {
                continue;
            }
            let app = App {
                replica: replica.clone(),
                holder: *holder,
                output: self.output.clone(),
                prefix: Prefix::app(&replica.name, index),
                events: self.sender.clone(),
            };
            self.apps.spawn(app.keep(self.watch.clone()));
        }
    }

    fn start_helpers(&mut self, sockets: Sockets, holders: &[u32]) {
        let plan = &self.order.plan;
        let publisher = plan.publisher.as_ref().and(holders.last()).copied();
        let (published, egress) = sockets.helpers(plan, publisher, &self.output);
        for helper in published {
            let stages = (Stage::Apps, Stage::StopApps);
            self.apps.spawn(helper.keep(self.watch.clone(), stages));
        }
        if let Some(helper) = egress {
            let stages = (Stage::Sidecars, Stage::StopSidecars);
            self.sidecars.spawn(helper.keep(self.watch.clone(), stages));
        }
    }

    /// Goes on until the mesh cannot.
    async fn attend(&mut self) -> anyhow::Error {
        loop {
            match self.next_event().await {
                Ok(()) => {}
                Err(error) => return error,
            }
        }
    }

    async fn next_event(&mut self) -> anyhow::Result<()> {
        // We hold a sender ourselves, so there is always a next one.
        let Some(event) = self.events.recv().await else {
            bail!("the mesh's parts are gone");
        };
        match event {
            Event::CannotStart { message } if !self.progress.all_ready() => bail!("{message}"),
            Event::CannotStart { message } => self.output.warn(&message).await,
            Event::HolderGone { name } => bail!("the namespaces of {name} are gone"),
            Event::Waits { name, reason } => self.progress.waits(&name, &reason),
            Event::SidecarReady { name, pid } => {
                self.note(&name, |replica| replica.proxy_pid = pid).await;
                self.progress.sidecar_ready(&name);
            }
            Event::Interception { name, trouble } => self.note(&name, |replica| replica.trouble = trouble).await,
            Event::SidecarGone { name, reason } => {
                self.note(&name, |replica| {
                    replica.proxy_pid = None;
                    replica.trouble = None;
                })
                .await;
                self.progress.waits(&format!("the sidecar of {name}"), &reason);
            }
            Event::AppReady { name } => {
                if let Some(line) = self.progress.app_ready(&name) {
                    self.output.say(&line).await;
                }
            }
        }
        Ok(())
    }

    async fn note(&mut self, name: &str, change: impl FnOnce(&mut RunningReplica)) {
        let Some(record) = &mut self.record else { return };
        if let Some(replica) = record.replicas.iter_mut().find(|replica| replica.replica.name == name) {
            change(replica);
        }
        if let Err(error) = record.store(&self.order.plan.folder) {
            self.output.warn(&error.to_string()).await;
        }
    }

    async fn take_down(mut self) {
        // Nobody reads events from here on: those who tell must not wait.
        drop(self.events);
        for (stage, tasks) in [
            (Stage::StopApps, &mut self.apps),
            (Stage::StopSidecars, &mut self.sidecars),
            (Stage::StopControlPlane, &mut self.control_plane),
        ] {
            self.stage.advance(stage);
            let all = async { while tasks.join_next().await.is_some() {} };
            // A little more than the patience of each task with its program.
            let _ = tokio::time::timeout(GRACE + Duration::from_secs(1), all).await;
        }
    }
}
