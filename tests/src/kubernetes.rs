//! A real Kubernetes API server over etcd, both on loopback, with a namespace
//! `mesh`, and Vault's Kubernetes login against it.
//!
//! Invariant: nothing of it outlives its value, plugins of Vault included.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, anyhow, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::docs::shown;
use crate::output::{Output, wait_until};
use crate::programs::run;
use crate::vault::Vault;

const SERVICE_ACCOUNTS: &str = "/api/v1/namespaces/mesh/serviceaccounts";
const PAGE: &str = include_str!("../../docs/vault.md");
const SECTION: &str = "### Login by a Kubernetes service account";
const PLUGIN: &str = "vault-plugin-auth-kubernetes";

/// A running API server. Dropped, it ends.
pub struct Kubernetes {
    folder: TempDir,
    // The API server first: without etcd it would not end.
    children: Vec<Child>,
    port: u16,
}

impl Kubernetes {
    /// Starts one.
    ///
    /// # Errors
    /// When a program can't be found or started.
    pub fn start() -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("watchword-kubernetes-").tempdir()?;
        let mut kubernetes = Self {
            folder,
            children: Vec::new(),
            port: free_port()?,
        };
        let etcd = kubernetes.start_etcd()?;
        kubernetes.start_server(&etcd)?;
        let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "mesh"}});
        kubernetes.call("POST", "/api/v1/namespaces", Some(&namespace))?;
        fs::create_dir(kubernetes.plugins())?;
        fs::copy(script("vault-kubernetes-plugin")?, kubernetes.plugins().join(PLUGIN))?;
        Ok(kubernetes)
    }

    fn start_etcd(&mut self) -> Result<String> {
        let client = format!("http://127.0.0.1:{}", free_port()?);
        let peer = format!("http://127.0.0.1:{}", free_port()?);
        let mut etcd = Command::new("etcd");
        etcd.arg(format!("--data-dir={}", self.path("etcd").display()))
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &format!("default={peer}")])
            .args(["--unsafe-no-fsync", "--logger=zap", "--log-level=warn"]);
        self.spawn(&mut etcd).context("etcd is Debian's package etcd-server")?;
        Ok(client)
    }

    fn start_server(&mut self, etcd: &str) -> Result<()> {
        let (key, public) = (self.path("sa.key"), self.path("sa.pub"));
        run(Command::new("openssl").args(["genrsa", "-out"]).arg(&key).arg("2048"))?;
        let mut openssl = Command::new("openssl");
        run(openssl
            .arg("rsa")
            .arg("-in")
            .arg(&key)
            .args(["-pubout", "-out"])
            .arg(&public))?;
        let token = format!("administrator-{}-{}", std::process::id(), self.port);
        let tokens = self.write("tokens.csv", &format!("{token},admin,1,\"system:masters\"\n"))?;
        self.write("header", &format!("Authorization: Bearer {token}\n"))?;
        let issuer = "https://kubernetes.default.svc";
        let mut server = Command::new(script("kube-apiserver")?);
        server
            .arg(format!("--etcd-servers={etcd}"))
            .args(["--bind-address=127.0.0.1", "--advertise-address=127.0.0.1"])
            .arg(format!("--secure-port={}", self.port))
            .arg(format!("--cert-dir={}", self.path("certificates").display()))
            .arg(format!("--service-account-key-file={}", public.display()))
            .arg(format!("--service-account-signing-key-file={}", key.display()))
            .arg(format!("--service-account-issuer={issuer}"))
            .arg(format!("--api-audiences={issuer}"))
            .arg(format!("--token-auth-file={}", tokens.display()))
            .args(["--authorization-mode=RBAC", "--service-cluster-ip-range=10.96.0.0/24"])
            .args([
                "--disable-admission-plugins=ServiceAccount",
                "--endpoint-reconciler-type=none",
            ])
            .arg("--anonymous-auth=false");
        let output = self.spawn(&mut server)?;
        // Its roles are made a moment after it says that it is ready.
        let role = "/apis/rbac.authorization.k8s.io/v1/clusterroles/system:auth-delegator";
        let ready = || self.call("GET", "/readyz", None).is_ok() && self.call("GET", role, None).is_ok();
        wait_until("the API server to be ready", ready).with_context(|| output.text())
    }

    fn spawn(&mut self, command: &mut Command) -> Result<Output> {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("{command:?}"))?;
        let output = Output::default();
        let stderr = child.stderr.take();
        self.children.insert(0, child);
        output.follow(stderr.context("stderr is piped")?);
        Ok(output)
    }

    /// Calls the API as its administrator.
    fn call(&self, method: &str, path: &str, body: Option<&Value>) -> Result<String> {
        let mut curl = Command::new("curl");
        curl.args([
            "--silent",
            "--show-error",
            "--fail-with-body",
            "--max-time",
            "20",
            "--noproxy",
            "*",
        ])
        .args(["--request", method, "--header"])
        .arg(format!("@{}", self.path("header").display()))
        .arg("--cacert")
        .arg(self.certificate_file());
        if let Some(body) = body {
            curl.args(["--header", "Content-Type: application/json", "--data"])
                .arg(body.to_string());
        }
        run(curl.arg(format!("{}{path}", self.address())))
    }

    /// Makes a service account.
    ///
    /// # Errors
    /// When the API server refuses.
    pub fn service_account(&self, name: &str) -> Result<()> {
        let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name}});
        self.call("POST", SERVICE_ACCOUNTS, Some(&account)).map(|_| ())
    }

    /// Deletes one: its tokens are worth nothing from then on.
    ///
    /// # Errors
    /// When the API server refuses.
    pub fn delete_service_account(&self, name: &str) -> Result<()> {
        self.call("DELETE", &format!("{SERVICE_ACCOUNTS}/{name}"), None)
            .map(|_| ())
    }

    /// A token, by TokenRequest. `bound_to` is a secret: deleted, it takes the token with it.
    ///
    /// # Errors
    /// When the API server refuses.
    pub fn token(&self, account: &str, audience: &str, bound_to: Option<&str>) -> Result<String> {
        let mut spec = json!({"audiences": [audience], "expirationSeconds": 3600});
        if let Some(secret) = bound_to {
            spec["boundObjectRef"] = json!({"apiVersion": "v1", "kind": "Secret", "name": secret});
        }
        let request = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec});
        let answer = self.call("POST", &format!("{SERVICE_ACCOUNTS}/{account}/token"), Some(&request))?;
        let answer: Value = serde_json::from_str(&answer)?;
        let token = answer["status"]["token"].as_str().context("an answer has a token")?;
        Ok(token.to_owned())
    }

    /// Waits until the API server takes a token for `vault` no more: what it
    /// found good it takes for good for ten more seconds.
    ///
    /// # Errors
    /// When it goes on taking it.
    pub fn wait_until_refused(&self, token: &str) -> Result<()> {
        let review = json!({
            "apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview",
            "spec": {"token": token, "audiences": ["vault"]},
        });
        wait_until("the token to be refused", || {
            let answer = self.call("POST", "/apis/authentication.k8s.io/v1/tokenreviews", Some(&review));
            answer.is_ok_and(|answer| {
                let answer: Value = serde_json::from_str(&answer).unwrap_or_default();
                answer["status"].is_object() && answer["status"]["authenticated"] != true
            })
        })
    }

    /// Makes a secret, for tokens to be bound to.
    ///
    /// # Errors
    /// When the API server refuses.
    pub fn secret(&self, name: &str) -> Result<()> {
        let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}});
        self.call("POST", "/api/v1/namespaces/mesh/secrets", Some(&secret))
            .map(|_| ())
    }

    /// Deletes it.
    ///
    /// # Errors
    /// When the API server refuses.
    pub fn delete_secret(&self, name: &str) -> Result<()> {
        let path = format!("/api/v1/namespaces/mesh/secrets/{name}");
        self.call("DELETE", &path, None).map(|_| ())
    }

    /// A Vault whose role `mesh` of `auth/kubernetes` is bound to the service
    /// account `control-plane` and the audience `vault`.
    ///
    /// # Errors
    /// When it can't be started or set up.
    pub fn vault(&self) -> Result<Vault> {
        let vault = Vault::start_with(&[&format!("-dev-plugin-dir={}", self.plugins().display())])?;
        self.service_account("reviewer")?;
        self.call(
            "POST",
            "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings",
            Some(&json!({
                "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
                "metadata": {"name": "reviewer"},
                "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "system:auth-delegator"},
                "subjects": [{"kind": "ServiceAccount", "name": "reviewer", "namespace": "mesh"}],
            })),
        )?;
        let reviewer = self.token("reviewer", "https://kubernetes.default.svc", None)?;
        vault.write("reviewer-token", &reviewer)?;
        fs::copy(self.certificate_file(), vault.folder().join("kubernetes-ca.pem"))?;
        vault.run_script(&self.set_up_as_shown()?, vault.folder())?;
        Ok(vault)
    }

    /// The commands of docs/vault.md, for this server, a role and a policy of the
    /// tests, and a plugin that is not part of Vault here.
    fn set_up_as_shown(&self) -> Result<String> {
        let mut script = shown(PAGE, SECTION, "sh")?.to_owned();
        for (shown, ours) in [
            ("enable kubernetes", format!("enable -path=kubernetes {PLUGIN}")),
            ("https://kubernetes.example.org:6443", self.address()),
            ("kubernetes/role/watchword", "kubernetes/role/mesh".to_owned()),
            ("token_policies=watchword", "token_policies=mesh".to_owned()),
        ] {
            ensure!(script.contains(shown), "docs/vault.md shows no {shown:?}: {script}");
            script = script.replace(shown, &ours);
        }
        Ok(script)
    }

    fn address(&self) -> String {
        format!("https://127.0.0.1:{}", self.port)
    }

    fn certificate_file(&self) -> PathBuf {
        self.path("certificates/apiserver.crt")
    }

    fn plugins(&self) -> PathBuf {
        self.path("plugins")
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, text: &str) -> Result<PathBuf> {
        fs::write(self.path(name), text)?;
        Ok(self.path(name))
    }

    /// Vault's plugins outlive a Vault that is killed.
    fn end_plugins(&self) {
        let plugin = self.plugins().join(PLUGIN);
        let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
        for process in
            processes.filter(|process| fs::read_link(process.path().join("exe")).is_ok_and(|exe| exe == plugin))
        {
            if let Ok(pid) = process.file_name().to_string_lossy().parse() {
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
        }
    }
}

impl Drop for Kubernetes {
    fn drop(&mut self) {
        self.end_plugins();
        for child in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// The program whose path a script prints.
fn script(name: &str) -> Result<PathBuf> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts").join(name);
    let found = run(&mut Command::new(script)).map_err(|why| anyhow!("no program by scripts/{name}: {why:#}"))?;
    Ok(PathBuf::from(found.trim()))
}
