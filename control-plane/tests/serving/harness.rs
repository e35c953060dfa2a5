//! A control plane in this process, on sockets in a temporary folder, and
//! workloads that call it as a sidecar would.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use hyper_util::rt::TokioIo;
use rcgen::{CertificateParams, DistinguishedName, KeyPair, SanType};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Status, Streaming};
use watchword_control_plane::mesh_file::{AuthorityChoice, LoadedPolicies, MeshFile};
use watchword_control_plane::{ControlPlane, LoadedMesh, MeshWatch, Process, RunError};
use watchword_daemon::{Clock, ManualClock, Metrics, Readiness, Shutdown, SystemClock};
use watchword_identity::{Bundle, SpiffeId, Svid, TrustDomain};
use watchword_mtls::{ControlClient, Credentials, Now};
use watchword_policy::Policy;
use watchword_proto::admin::{AdminClient, CreateTokenRequest, StatusRequest, StatusResponse};
use watchword_proto::control::attest_request::Evidence;
use watchword_proto::control::{
    AttestRequest, DiscoveryClient, Hello, IdentityClient, IssueResponse, RenewRequest, SnapshotUpdate,
    SubscribeRequest, subscribe_request,
};
use watchword_proto::{bundle_from_proto, policies_from_proto};

pub(crate) const HOUR: Duration = Duration::from_secs(3600);

pub(crate) const MESH: &str = r#"{
  "trustDomain": "example.org",
  "meshRanges": ["10.20.0.0/16"], "registry": [{"id": "spiffe://example.org/batch"}],
  "services": {
    "web": {"ports": {"8080": "http"}, "endpoints": ["10.20.0.11:8080"], "virtualAddresses": ["10.96.0.10"]},
    "orders": {"ports": {"8080": "http", "5432": "tcp"}, "endpoints": ["10.20.0.21:8080", "10.20.0.21:5432"]}
  }
}"#;

pub(crate) fn id(path: &str) -> SpiffeId {
    SpiffeId::new(format!("spiffe://example.org{path}")).unwrap()
}

/// Where a control plane has its folders, over several starts.
pub(crate) struct Place {
    folder: tempfile::TempDir,
    pub(crate) clock: Arc<ManualClock>,
    /// One that has a clock of its own: then the machine's counts.
    elsewhere: Option<AuthorityChoice>,
}

impl Place {
    pub(crate) fn new() -> Self {
        let moment = SystemTime::UNIX_EPOCH + Duration::from_secs(1_900_000_000);
        Self {
            folder: tempfile::tempdir().unwrap(),
            clock: Arc::new(ManualClock::new(moment)),
            elsewhere: None,
        }
    }

    #[allow(dead_code, reason = "for tests/vault_roots.rs")]
    pub(crate) fn with_authority(authority: AuthorityChoice) -> Self {
        Self {
            elsewhere: Some(authority),
            ..Self::new()
        }
    }

    pub(crate) fn run_folder(&self) -> PathBuf {
        self.folder.path().join("run")
    }

    pub(crate) fn mesh(&self) -> MeshFile {
        self.placed(MeshFile::parse("mesh.yaml", MESH, Path::new("/")).unwrap())
    }

    /// With its folders here.
    pub(crate) fn placed(&self, mut mesh: MeshFile) -> MeshFile {
        mesh.state_dir = Some(self.folder.path().join("state"));
        mesh.run_dir = Some(self.run_folder());
        if let Some(authority) = &self.elsewhere {
            mesh.authority = authority.clone();
        }
        // Any free ports, which a file can't ask for.
        mesh.listen = Some(([127, 0, 0, 1], 0).into());
        mesh.health_listen = Some(([127, 0, 0, 1], 0).into());
        mesh
    }

    pub(crate) async fn start(&self, policies: Vec<Policy>) -> Result<Plane, RunError> {
        let policies = LoadedPolicies {
            policies,
            warnings: Vec::new(),
        };
        let loaded = LoadedMesh {
            mesh: self.mesh(),
            policies,
            partners: Bundle::default(),
        };
        self.start_with(loaded, None).await
    }

    /// With the roots of other trust domains, too. Where there is a watch its
    /// changes are taken over.
    pub(crate) async fn start_with(&self, loaded: LoadedMesh, watch: Option<MeshWatch>) -> Result<Plane, RunError> {
        let clock: Arc<dyn Clock> = match self.elsewhere {
            Some(_) => Arc::new(SystemClock),
            None => self.clock.clone(),
        };
        let process = Process {
            clock: Arc::clone(&clock),
            metrics: Metrics::new().unwrap(),
            readiness: Readiness::default(),
            shutdown: Shutdown::default(),
        };
        let mut plane = Box::pin(ControlPlane::start(&loaded, &process)).await?;
        if let Some(watch) = watch {
            plane.follow(watch, loaded.mesh);
        }
        assert!(process.readiness.reasons().is_empty());
        Ok(Plane {
            control: plane.control_socket(),
            admin: plane.admin_socket(),
            tcp: plane.listens_on().unwrap(),
            health: plane.health_on().unwrap(),
            bundle_file: self.run_folder().join("bundle.pem"),
            now: Now::new(move || clock.now()),
            process,
            running: tokio::spawn(plane.run()),
        })
    }
}

/// A control plane that is running.
pub(crate) struct Plane {
    pub(crate) control: PathBuf,
    pub(crate) admin: PathBuf,
    pub(crate) tcp: std::net::SocketAddr,
    pub(crate) health: std::net::SocketAddr,
    pub(crate) process: Process,
    pub(crate) running: JoinHandle<Result<(), RunError>>,
    bundle_file: PathBuf,
    now: Now,
}

impl Plane {
    pub(crate) async fn stop(self) {
        self.process.shutdown.request();
        self.running.await.unwrap().unwrap();
    }

    pub(crate) fn bundle(&self) -> Bundle {
        let pem = std::fs::read(&self.bundle_file).unwrap();
        Bundle::from_pem(TrustDomain::new("example.org").unwrap(), &pem).unwrap()
    }

    pub(crate) fn metrics(&self) -> String {
        self.process.metrics.render().unwrap()
    }

    pub(crate) async fn channel(&self, client: ControlClient) -> Channel {
        self.try_channel(client, &id("/watchword/control-plane")).await.unwrap()
    }

    pub(crate) async fn try_channel(
        &self,
        client: ControlClient,
        expected: &SpiffeId,
    ) -> Result<Channel, tonic::transport::Error> {
        let (path, expected) = (self.control.clone(), expected.clone());
        let connect = tower::service_fn(move |_| {
            let (client, path, expected) = (client.clone(), path.clone(), expected.clone());
            async move {
                let stream = UnixStream::connect(path).await?;
                let stream = client.connect(stream, &expected).await.map_err(std::io::Error::other)?;
                Ok::<_, std::io::Error>(TokioIo::new(stream))
            }
        });
        Endpoint::from_static("http://control-plane")
            .connect_with_connector(connect)
            .await
    }

    pub(crate) fn anonymous(&self) -> ControlClient {
        ControlClient::anonymous(self.bundle(), self.now.clone()).unwrap()
    }

    pub(crate) async fn token(&self, path: &str) -> Result<String, Status> {
        let request = CreateTokenRequest {
            spiffe_id: id(path).to_string(),
        };
        Ok(self.admin().await.create_token(request).await?.into_inner().token)
    }

    pub(crate) async fn status(&self) -> StatusResponse {
        self.admin().await.status(StatusRequest {}).await.unwrap().into_inner()
    }

    async fn admin(&self) -> AdminClient<Channel> {
        let path = self.admin.clone();
        let connect = tower::service_fn(move |_| {
            let path = path.clone();
            async move { UnixStream::connect(path).await.map(TokioIo::new) }
        });
        AdminClient::new(
            Endpoint::from_static("http://admin")
                .connect_with_connector(connect)
                .await
                .unwrap(),
        )
    }

    pub(crate) async fn attest(&self, csr: Vec<u8>, token: &str) -> Result<IssueResponse, Status> {
        let request = AttestRequest {
            csr,
            evidence: Some(Evidence::JoinToken(token.into())),
        };
        let channel = self.channel(self.anonymous()).await;
        Ok(IdentityClient::new(channel).attest(request).await?.into_inner())
    }

    /// Attests a new workload with a new token.
    pub(crate) async fn workload(&self, path: &str) -> Workload {
        let token = self.token(path).await.unwrap();
        let key = Key::new();
        let answer = self.attest(key.csr(path), &token).await.unwrap();
        self.hold(key, answer)
    }

    /// What a sidecar holds after an answer.
    pub(crate) fn hold(&self, key: Key, answer: IssueResponse) -> Workload {
        let chain = answer.chain.into_iter().map(CertificateDer::from).collect();
        let svid = Svid::from_chain(chain).unwrap();
        let credentials = Credentials::new(self.now.clone());
        let bundle = bundle_from_proto(answer.bundle.unwrap()).unwrap();
        credentials.publish(&svid, &key.private(), bundle).unwrap();
        Workload { svid, credentials }
    }

    pub(crate) async fn renew(&self, workload: &Workload, csr: Vec<u8>) -> Result<IssueResponse, Status> {
        let channel = self.channel(workload.credentials.control_client().unwrap()).await;
        Ok(IdentityClient::new(channel)
            .renew(RenewRequest { csr })
            .await?
            .into_inner())
    }

    pub(crate) async fn subscribe(&self, workload: &Workload) -> Result<Subscriber, Status> {
        let channel = self.channel(workload.credentials.control_client().unwrap()).await;
        let (answers, outgoing) = mpsc::channel(8);
        let updates = DiscoveryClient::new(channel)
            .subscribe(ReceiverStream::new(outgoing))
            .await?
            .into_inner();
        Ok(Subscriber { answers, updates })
    }
}

pub(crate) struct Key(KeyPair);

impl Key {
    pub(crate) fn new() -> Self {
        Self(KeyPair::generate().unwrap())
    }

    pub(crate) fn csr(&self, path: &str) -> Vec<u8> {
        self.csr_with(path, |_| {})
    }

    pub(crate) fn csr_with(&self, path: &str, change: impl FnOnce(&mut CertificateParams)) -> Vec<u8> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = vec![SanType::URI(id(path).to_string().try_into().unwrap())];
        change(&mut params);
        params.serialize_request(&self.0).unwrap().der().to_vec()
    }

    fn private(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::try_from(self.0.serialize_der()).unwrap()
    }
}

pub(crate) struct Workload {
    pub(crate) svid: Svid,
    pub(crate) credentials: Credentials,
}

impl Workload {
    /// Whom it trusts.
    #[allow(dead_code, reason = "for tests/vault_roots.rs")]
    pub(crate) fn bundle(&self) -> Bundle {
        self.credentials.current().unwrap().bundle().as_ref().clone()
    }
}

/// The proxy's end of a Discovery stream.
pub(crate) struct Subscriber {
    pub(crate) answers: mpsc::Sender<SubscribeRequest>,
    pub(crate) updates: Streaming<SnapshotUpdate>,
}

impl Subscriber {
    pub(crate) async fn send(&self, message: subscribe_request::Message) {
        self.answers
            .send(SubscribeRequest { message: Some(message) })
            .await
            .unwrap();
    }

    pub(crate) async fn hello(&self) {
        self.send(subscribe_request::Message::Hello(Hello {
            instance: "test".into(),
            policy_schema: 1,
        }))
        .await;
    }

    pub(crate) async fn next(&mut self) -> SnapshotUpdate {
        let update = tokio::time::timeout(Duration::from_secs(60), self.updates.message());
        // Far above what it takes.
        update.await.unwrap().unwrap().unwrap()
    }

    /// How the stream ends.
    pub(crate) async fn end(mut self) -> Status {
        loop {
            match self.updates.message().await {
                Ok(Some(_)) => {}
                Ok(None) => unreachable!("the control plane ends a stream with a reason"),
                Err(status) => return status,
            }
        }
    }
}

/// The label of a refusal.
pub(crate) fn reason(status: &Status) -> String {
    let reason = status.metadata().get("watchword-reason");
    reason
        .map(|reason| reason.to_str().unwrap().to_owned())
        .unwrap_or_else(|| format!("none: {status}"))
}

pub(crate) fn policy_names(update: SnapshotUpdate) -> Vec<String> {
    let Some(watchword_proto::control::snapshot_update::Resource::Policies(policies)) = update.resource else {
        unreachable!("policies were expected");
    };
    policies_from_proto(policies)
        .unwrap()
        .policies
        .into_iter()
        .map(|policy| policy.name)
        .collect()
}
