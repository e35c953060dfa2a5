//! The composition root: builds every part once, connects them, and waits for
//! the wish to stop.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::net::{TcpListener, UnixListener};
use tokio::task::JoinSet;
use watchword_daemon::{Clock, Metrics, Pages, Readiness, Shutdown, SystemClock, prepare_process, serve_pages};
use watchword_mtls::{Credentials, Now};

use crate::address::Address;
use crate::admin::{self, Shown};
use crate::canary::{self, Canary};
use crate::collector;
use crate::config::{Config, LoopProtection, PROXY_UID, Role};
use crate::connection::Connections;
use crate::control::bundles::Bundles;
use crate::control::discovery::Follower;
use crate::control::for_workloads::WorkloadIssuer;
use crate::control::freshness::Freshness;
use crate::control::identity::{IdentityKeeper, RenewalTrouble};
use crate::control::{ControlPlane, TokenSource};
use crate::dial::Dialler;
use crate::egress::Way;
use crate::handshakes::Handshakes;
use crate::http::app_pool::AppPool;
use crate::live_tunnels::LiveTunnels;
use crate::mesh::{Mesh, Parts};
use crate::plaintext_room::PlaintextRoom;
use crate::snapshots::Snapshots;
use crate::telemetry::{self, Telemetry};
use crate::tunnels::{Means, Tunnels};
use crate::worker::{self, Listeners, Worker};
use crate::workload_socket::{self, ToldApartBy};
use crate::workloads::{self, Entitled, Workloads};

/// Runs the sidecar until SIGTERM or SIGINT.
///
/// # Errors
/// When it can't start: a taken port, a missing right, a folder that can't be
/// written. What goes wrong later is logged and mended.
pub fn run(config: Config) -> Result<()> {
    prepare_process();
    // Before the runtime: a token that does not come must not keep it waiting.
    let token = TokenSource::new(config.attestation.token_file.clone().unwrap_or_default());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(Box::pin(serve(Arc::new(config), token)))
}

async fn serve(config: Arc<Config>, token: TokenSource) -> Result<()> {
    let metrics = Metrics::new()?;
    let readiness = Readiness::default();
    let workload_socket = bind_workload_socket(&config)?;
    let mesh = build_mesh(&config, &metrics).await?;
    let workers = match config.role {
        Role::Sidecar => start_workers(&config, &mesh)?,
        Role::Agent => Vec::new(),
    };
    let mut tasks = JoinSet::new();
    watch_canary(&config, &mesh, &readiness, &mut tasks);
    serve_admin(&config, &mesh, &readiness, &metrics, &mut tasks).await?;
    let given = &config.control_plane;
    let control_plane = ControlPlane::new(given.address.clone(), given.id.0.clone(), mesh.dialler);
    if let Some(listener) = workload_socket {
        serve_workloads(&config, listener, &control_plane, &mesh, &mut tasks);
    }
    let freshness = Freshness::default();
    telemetry::observe(&metrics.meter(), mesh.credentials.clone(), freshness.clone());
    follow_control_plane(
        (&config, token),
        (control_plane, freshness),
        &mesh,
        &readiness,
        &mut tasks,
    );
    say_started(&config);
    mesh.shutdown.requested().await;
    tracing::info!("stopping");
    for worker in workers {
        // A worker ends by itself after its drain.
        let joined = tokio::task::spawn_blocking(move || worker.join()).await?;
        joined.map_err(|_| anyhow::anyhow!("a worker panicked"))??;
    }
    mesh.traces.flush().await;
    Ok(())
}

/// Everything that connections need, with nothing received yet.
async fn build_mesh(config: &Config, metrics: &Metrics) -> Result<Mesh> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let telemetry = Telemetry::new(&metrics.meter());
    let now = Arc::clone(&clock);
    let means = Means {
        credentials: Credentials::new(Now::new(move || now.now())),
        dialler: dialler(config).await?,
        clock: Arc::clone(&clock),
        telemetry: telemetry.clone(),
    };
    let traces = collector::traces(
        config.tracing.as_ref(),
        means.dialler,
        Arc::clone(&clock),
        (metrics.meter(), instance_name()),
    );
    Ok(Mesh::new(Parts {
        credentials: means.credentials.clone(),
        trouble: RenewalTrouble::default(),
        snapshots: Arc::new(Snapshots::new()),
        connections: Connections::new(Arc::clone(&clock), telemetry),
        dialler: means.dialler,
        egress: egress_way(config),
        clock,
        handshakes: Handshakes::default(),
        tunnels: Tunnels::new(means),
        app_pool: AppPool::default(),
        used_sockets: Arc::default(),
        carriers: Arc::default(),
        loads: Arc::default(),
        traces,
        canary: Canary::new(),
        live_tunnels: LiveTunnels::default(),
        plaintext_room: PlaintextRoom::default(),
        shutdown: Shutdown::on_signals()?,
        drain: Duration::from_secs(config.drain_seconds.into()),
    }))
}

fn watch_canary(config: &Config, mesh: &Mesh, readiness: &Readiness, tasks: &mut JoinSet<()>) {
    if let Some(first) = config.interception.canary.first() {
        let blocker = readiness.blocker("interception", canary::unreached(*first));
        let families = config.interception.canary.clone();
        tasks.spawn(mesh.canary.clone().watch(families, blocker));
    }
}

fn say_started(config: &Config) {
    match config.role {
        Role::Sidecar => tracing::info!(workers = config.workers, "sidecar started"),
        Role::Agent => tracing::info!("agent started"),
    }
}

fn egress_way(config: &Config) -> Way {
    match config.egress.as_ref().map(|egress| &egress.gateway) {
        Some(Address::Unix(path)) => Way::Gateway(Arc::new(path.clone())),
        Some(Address::Tcp(_)) | None => Way::Direct,
    }
}

fn start_workers(config: &Config, mesh: &Mesh) -> Result<Vec<Worker>> {
    let listeners = Listeners::bind()?;
    let start = |index| worker::start(index, listeners.share()?, mesh, mesh.shutdown.clone());
    let workers: std::io::Result<Vec<_>> = (0..config.workers).map(start).collect();
    Ok(workers?)
}

fn bind_workload_socket(config: &Config) -> Result<Option<UnixListener>> {
    std::fs::create_dir_all(&config.run_dir).with_context(|| config.run_dir.display().to_string())?;
    config
        .workload_socket()
        .map(|path| workload_socket::bind(&path))
        .transpose()
}

/// An agent serves programs of a whole machine, a sidecar those of one workload.
fn serve_workloads(
    config: &Config,
    listener: UnixListener,
    control_plane: &ControlPlane,
    mesh: &Mesh,
    tasks: &mut JoinSet<()>,
) {
    let callers = config.workload_api.iter().flat_map(|api| api.callers.clone());
    let workloads = Workloads::new(workloads::Means {
        entitled: Entitled::new(callers.collect()),
        issuer: WorkloadIssuer {
            control_plane: control_plane.clone(),
            credentials: mesh.credentials.clone(),
        },
        credentials: mesh.credentials.clone(),
        clock: Arc::clone(&mesh.clock),
        telemetry: mesh.connections.telemetry().clone(),
    });
    let told_apart_by = match config.role {
        Role::Sidecar => ToldApartBy::User,
        Role::Agent => ToldApartBy::Process,
    };
    tasks.spawn(workload_socket::serve(listener, workloads, told_apart_by));
}

async fn dialler(config: &Config) -> Result<Dialler> {
    if config.role == Role::Agent {
        return Ok(Dialler::not_captured());
    }
    if config.interception.loop_protection == LoopProtection::Uid {
        let uid = nix::unistd::geteuid();
        anyhow::ensure!(
            uid.as_raw() == PROXY_UID,
            "interception.loopProtection: uid needs the proxy to run as uid {PROXY_UID}, but it runs as {uid}; \
             start it with that uid, or use loopProtection: mark"
        );
    }
    Dialler::new(&config.interception).await
}

async fn serve_admin(
    config: &Arc<Config>,
    mesh: &Mesh,
    readiness: &Readiness,
    metrics: &Metrics,
    tasks: &mut JoinSet<()>,
) -> Result<()> {
    let socket = admin::bind(&config.run_dir)?;
    let pages = Arc::new(admin::pages(Shown {
        config: Arc::clone(config),
        readiness: readiness.clone(),
        metrics: metrics.clone(),
        credentials: mesh.credentials.clone(),
        trouble: mesh.trouble.clone(),
        connections: mesh.connections.clone(),
        snapshots: Arc::clone(&mesh.snapshots),
        canary: mesh.canary.clone(),
    }));
    let socket = Arc::new(socket);
    tasks.spawn(serve_pages(pages, move || {
        let socket = Arc::clone(&socket);
        async move { socket.accept().await.map(|(stream, _)| stream) }
    }));
    let health = Arc::new(bind_health(config.health_listen()).await?);
    let pages = Arc::new(Pages::of_daemon(readiness.clone(), metrics.clone()));
    tasks.spawn(serve_pages(pages, move || {
        let health = Arc::clone(&health);
        async move { health.accept().await.map(|(stream, _)| stream) }
    }));
    Ok(())
}

/// Every IPv6 address means every IPv4 one where there is no IPv6.
async fn bind_health(address: SocketAddr) -> Result<TcpListener> {
    match TcpListener::bind(address).await {
        Ok(listener) => Ok(listener),
        Err(_) if address.is_ipv6() && address.ip().is_unspecified() => {
            let address = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), address.port());
            TcpListener::bind(address)
                .await
                .with_context(|| format!("can't listen on {address}"))
        }
        Err(error) => Err(error).with_context(|| format!("can't listen on {address}")),
    }
}

fn follow_control_plane(
    (config, token): (&Config, TokenSource),
    (control_plane, freshness): (ControlPlane, Freshness),
    mesh: &Mesh,
    readiness: &Readiness,
    tasks: &mut JoinSet<()>,
) {
    let bundles = Bundles::new(mesh.credentials.clone());
    let keeper = IdentityKeeper {
        control_plane: control_plane.clone(),
        bundle_file: config.control_plane.bundle_file.clone(),
        token,
        credentials: mesh.credentials.clone(),
        bundles: bundles.clone(),
        clock: Arc::clone(&mesh.clock),
        connections: mesh.connections.clone(),
        blocker: readiness.blocker("identity", "no certificate yet"),
        trouble: mesh.trouble.clone(),
        token_blocker: readiness.blocker("join-token", "not read yet"),
    };
    tasks.spawn(keeper.keep());
    let follower = Follower {
        control_plane,
        credentials: mesh.credentials.clone(),
        bundles,
        snapshots: Arc::clone(&mesh.snapshots),
        clock: Arc::clone(&mesh.clock),
        telemetry: mesh.connections.telemetry().clone(),
        freshness,
        instance: instance_name(),
        policies_blocker: readiness.blocker("policies", "none received yet"),
        directory_blocker: readiness.blocker("directory", "none received yet"),
    };
    tasks.spawn(follower.follow());
}

/// For people: which of several processes of one SPIFFE ID this is.
fn instance_name() -> String {
    let host = nix::unistd::gethostname()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default();
    format!("{host}/{}", std::process::id())
}
