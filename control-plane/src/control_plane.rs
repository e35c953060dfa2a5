//! The composition root: builds every part, starts it, and takes it down.
//!
//! Invariant: nothing listens before the control plane has a certificate of
//! its own and everything that it answers with; but for its health, which says
//! what it waits for.

mod core;
mod follow;
mod follow_roots;
mod listeners;
mod partners;

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use watchword_daemon::{Clock, Metrics, Pages, Readiness, Shutdown, serve_pages};
use watchword_identity::{Bundle, TrustDomain};

use self::core::Core;
use crate::api::{
    ACCEPT_QUEUE, AdminApi, ControlListener, DiscoveryApi, Doorkeeper, IdentityApi, SocketError, accept_admin,
    accept_control, serve_admin, serve_control,
};
use crate::authority::{EmbeddedError, VaultError};
use crate::enrolment::Enrolment;
use crate::mesh_file::MeshFile;
use crate::mesh_watch::{LoadedMesh, MeshWatch};
use crate::own_identity::OwnIdentityError;
use crate::snapshots::Snapshots;
use crate::state_folder::{FolderError, FolderLock, PUBLIC, lock, open_public, write_atomic};
use crate::store::StoreError;
use follow::follow;
use follow_roots::RootFollower;
use listeners::{ADMIN_SOCKET, CONTROL_SOCKET, Listeners, open_health};

const DEFAULT_RUN_FOLDER: &str = "/run/watchword";
const BUNDLE: &str = "bundle.pem";
const RUN_LOCK: &str = "control-plane.lock";
/// Between two rounds of forgetting what is over.
const HOUSEKEEPING: Duration = Duration::from_secs(60);
/// From the wish to stop to the end, whatever callers do.
const STOP_DEADLINE: Duration = Duration::from_secs(4);

/// Why the control plane does not start, or why it ended.
#[derive(Debug, Error)]
pub enum RunError {
    /// A file or folder.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// The state.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The authority.
    #[error(transparent)]
    Authority(#[from] EmbeddedError),
    /// Vault as the authority.
    #[error("Vault can't be the authority: {0}")]
    Vault(#[from] VaultError),
    /// Our own certificate.
    #[error("the control plane gets no certificate of its own: {0}")]
    OwnIdentity(#[from] OwnIdentityError),
    /// A Unix socket.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// A TCP address.
    #[error("can't listen on {address}: {problem}{}", taken(*.address, .problem))]
    Listen {
        /// Which.
        address: SocketAddr,
        /// The system's answer.
        problem: io::Error,
    },
    /// Serving as a whole.
    #[error("serving failed: {0}")]
    Serve(#[from] tonic::transport::Error),
    /// The end came first.
    #[error("it was told to stop before it was ready")]
    Stopped,
    /// A part ended that should run for ever.
    #[error("a part of the control plane ended: {0}")]
    Part(String),
}

/// What the process gives to the control plane.
#[derive(Clone)]
pub struct Process {
    /// Tells the time.
    pub clock: Arc<dyn Clock>,
    /// Where instruments are made.
    pub metrics: Metrics,
    /// Blocked until everything listens.
    pub readiness: Readiness,
    /// Ends everything.
    pub shutdown: Shutdown,
}

/// A control plane that is running.
pub struct ControlPlane {
    parts: JoinSet<Result<(), RunError>>,
    /// How many of the parts don't end by themselves.
    for_ever: usize,
    enrolment: Arc<Enrolment>,
    snapshots: Snapshots,
    shutdown: Shutdown,
    run_folder: PathBuf,
    listens_on: Option<SocketAddr>,
    health_on: Option<SocketAddr>,
    _lock: FolderLock,
}

impl ControlPlane {
    /// Starts everything that a mesh file describes. When this returns, all of
    /// it can be called.
    ///
    /// # Errors
    /// See [`RunError`].
    pub async fn start(loaded: &LoadedMesh, process: &Process) -> Result<Self, RunError> {
        let mesh = &loaded.mesh;
        let blocker = process.readiness.blocker("control-plane", "starting");
        let run_folder = mesh.run_dir.clone().unwrap_or_else(|| DEFAULT_RUN_FOLDER.into());
        open_public(&run_folder)?;
        let held = lock(&run_folder, RUN_LOCK)?;
        let core = Core::build(loaded, process).await?;
        let mut parts = JoinSet::new();
        let health = open_health(mesh).await?;
        let health_on = health.as_ref().and_then(|listener| listener.local_addr().ok());
        if let Some(listener) = health {
            parts.spawn(show_health(listener, process));
        }
        let renew_at = tokio::select! {
            biased;
            () = process.shutdown.requested() => return Err(RunError::Stopped),
            obtained = core.own.obtain(&blocker) => obtained?,
        };
        write_bundle(&run_folder, &core.enrolment.issuer.bundle(), &core.domain)?;
        let listeners = Listeners::open(mesh, &run_folder).await?;
        let mut plane = Self {
            parts,
            for_ever: 2 + usize::from(health_on.is_some()),
            enrolment: Arc::clone(&core.enrolment),
            snapshots: core.snapshots.clone(),
            shutdown: process.shutdown.clone(),
            listens_on: listeners.tcp.as_ref().and_then(|listener| listener.local_addr().ok()),
            health_on,
            run_folder,
            _lock: held,
        };
        let own = core.own.clone();
        plane.parts.spawn(async move {
            own.keep(renew_at).await;
            Ok(())
        });
        plane.parts.spawn(keep_house(Arc::clone(&core.enrolment)));
        plane.follow_roots(&core);
        plane.serve(core, listeners, process);
        blocker.clear();
        plane.say_ready();
        Ok(plane)
    }

    /// Where roots may change.
    fn follow_roots(&mut self, core: &Core) {
        let Some(roots) = core.enrolment.issuer.authority().root_file() else {
            return;
        };
        let follower = RootFollower {
            roots,
            new_roots: Arc::clone(&core.new_roots),
            snapshots: core.snapshots.clone(),
            own: core.own.clone(),
            run_folder: self.run_folder.clone(),
        };
        self.for_ever += 1;
        self.parts.spawn(async move {
            follower.follow().await;
            Ok(())
        });
    }

    fn serve(&mut self, core: Core, listeners: Listeners, process: &Process) {
        let shutdown = &process.shutdown;
        let doorkeeper = Doorkeeper::new(core.own.credentials, Arc::clone(&process.clock), core.metrics);
        let (sender, accepted) = mpsc::channel(ACCEPT_QUEUE);
        let control = std::iter::once(ControlListener::Unix(listeners.control));
        for listener in control.chain(listeners.tcp.map(ControlListener::Tcp)) {
            let accept = accept_control(listener, doorkeeper.clone(), sender.clone(), shutdown.clone());
            self.parts.spawn(async move {
                accept.await;
                Ok(())
            });
        }
        let identity = IdentityApi::new(Arc::clone(&core.enrolment), core.snapshots.clone(), core.epoch);
        let discovery = DiscoveryApi {
            enrolment: Arc::clone(&core.enrolment),
            snapshots: core.snapshots,
            subscribers: core.subscribers.clone(),
            epoch: core.epoch,
            shutdown: shutdown.clone(),
        };
        let stop = shutdown.clone();
        self.parts
            .spawn(async move { Ok(serve_control(identity, discovery, accepted, stop).await?) });
        let (sender, accepted) = mpsc::channel(ACCEPT_QUEUE);
        let accept = accept_admin(listeners.admin, sender, shutdown.clone());
        self.parts.spawn(async move {
            accept.await;
            Ok(())
        });
        let admin = AdminApi {
            enrolment: core.enrolment,
            subscribers: core.subscribers,
            trust_domain: core.domain,
            epoch: core.epoch,
        };
        let stop = shutdown.clone();
        self.parts
            .spawn(async move { Ok(serve_admin(admin, accepted, stop).await?) });
    }

    fn say_ready(&self) {
        let shown = |address: Option<SocketAddr>| address.map_or_else(|| "-".to_owned(), |address| address.to_string());
        tracing::info!(
            socket = %self.control_socket().display(),
            admin = %self.admin_socket().display(),
            bundle = %self.run_folder.join(BUNDLE).display(),
            listen = shown(self.listens_on),
            health = shown(self.health_on),
            "control plane ready"
        );
    }

    /// Takes over what changes in the mesh file, its policies and its trust
    /// bundles say of services, policies, the registry and other trust domains,
    /// while it runs. Connections and certificates stay.
    pub fn follow(&mut self, watch: MeshWatch, first: MeshFile) {
        let (enrolment, snapshots) = (Arc::clone(&self.enrolment), self.snapshots.clone());
        self.for_ever += 1;
        self.parts.spawn(async move {
            follow(watch, first, enrolment, snapshots).await;
            Ok(())
        });
    }

    /// Where proxies on this machine call.
    pub fn control_socket(&self) -> PathBuf {
        self.run_folder.join(CONTROL_SOCKET)
    }

    /// Where people on this machine call.
    pub fn admin_socket(&self) -> PathBuf {
        self.run_folder.join(ADMIN_SOCKET)
    }

    /// Where proxies elsewhere call, if they may.
    pub fn listens_on(&self) -> Option<SocketAddr> {
        self.listens_on
    }

    /// Where health and metrics are shown, if they are.
    pub fn health_on(&self) -> Option<SocketAddr> {
        self.health_on
    }

    /// Runs until shutdown is asked for, then lets calls finish, but not for
    /// longer than four seconds.
    ///
    /// # Errors
    /// When a part ends that should not.
    pub async fn run(mut self) -> Result<(), RunError> {
        let shutdown = self.shutdown.clone();
        let ended = tokio::select! {
            () = shutdown.requested() => None,
            ended = self.parts.join_next() => ended,
        };
        let result = match ended {
            None => Ok(()),
            Some(Ok(Err(error))) => Err(error),
            // Parts see the wish at their own time, some before this one does.
            Some(Ok(Ok(()))) if is_requested(&shutdown).await => Ok(()),
            Some(Ok(Ok(()))) => Err(RunError::Part("it returned".into())),
            Some(Err(error)) => Err(RunError::Part(error.to_string())),
        };
        shutdown.request();
        // Some parts run for ever: they are cut when the servers are done.
        let _ = tokio::time::timeout(STOP_DEADLINE, self.servers_done()).await;
        self.parts.shutdown().await;
        tracing::info!("control plane stopped");
        result
    }

    async fn servers_done(&mut self) {
        while self.parts.len() > self.for_ever {
            if self.parts.join_next().await.is_none() {
                return;
            }
        }
    }
}

/// Who has it is not told by the system's answer.
fn taken(address: SocketAddr, problem: &io::Error) -> String {
    match problem.kind() {
        io::ErrorKind::AddrInUse => format!(
            " (`ss -ltnp 'sport = :{}'` shows by whom; stop it, or choose another port)",
            address.port()
        ),
        _ => String::new(),
    }
}

/// For ever.
fn show_health(listener: TcpListener, process: &Process) -> impl Future<Output = Result<(), RunError>> + use<> {
    let pages = Arc::new(Pages::of_daemon(process.readiness.clone(), process.metrics.clone()));
    let listener = Arc::new(listener);
    async move {
        let accept = || {
            let listener = Arc::clone(&listener);
            async move { listener.accept().await.map(|(stream, _)| stream) }
        };
        serve_pages(pages, accept).await;
        Ok(())
    }
}

async fn is_requested(shutdown: &Shutdown) -> bool {
    tokio::time::timeout(Duration::ZERO, shutdown.requested()).await.is_ok()
}

/// The own roots, for proxies that are to find out whom they talk to: no other
/// trust domain has a say in who is our control plane.
fn write_bundle(run_folder: &Path, bundle: &Bundle, domain: &TrustDomain) -> Result<(), RunError> {
    let roots = bundle.roots(domain).iter();
    let pem: String = roots.map(|root| crate::pem::certificate(root.certificate())).collect();
    Ok(write_atomic(&run_folder.join(BUNDLE), pem.as_bytes(), PUBLIC)?)
}

async fn keep_house(enrolment: Arc<Enrolment>) -> Result<(), RunError> {
    loop {
        let now = enrolment.clock.now();
        if let Err(error) = enrolment.records.update(move |state| state.sweep(now)).await {
            tracing::error!(%error, "the state can't be swept");
        }
        if let Err(error) = enrolment.issuer.authority().maintain(now).await {
            tracing::error!(%error, "the authority can't be maintained");
        }
        tokio::time::sleep(HOUSEKEEPING).await;
    }
}
