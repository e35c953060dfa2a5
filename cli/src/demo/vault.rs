//! A Vault of the demo's own: a dev server on loopback, with a root, an
//! intermediate that signs for the mesh, and an audit log.
//!
//! Invariants: it ends with the demo, however that ends; its secrets lie in a
//! folder that only its owner can enter, and go with it; docs/vault.md sets up
//! a lasting one in the same way.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use serde_json::json;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};

use crate::machine;

const PATIENCE: Duration = Duration::from_secs(20);
const MOUNT: &str = "pki_int";
const POLICY: &str = r#"path "pki_int/sign/mesh" { capabilities = ["update"] }"#;
const ROLE: [&str; 10] = [
    "require_cn=false",
    "use_csr_common_name=false",
    "use_csr_sans=false",
    "allow_localhost=false",
    "key_type=ec",
    "key_bits=256",
    "key_usage=DigitalSignature",
    "basic_constraints_valid_for_non_ca=true",
    "no_store=true",
    "max_ttl=24h",
];

/// A running Vault. Dropped, it ends.
#[derive(Debug)]
pub(super) struct Vault {
    program: PathBuf,
    folder: TempDir,
    address: String,
    token: String,
    _child: Child,
}

/// `given`, or what VAULT_BIN names, or the `vault` of the PATH.
pub(super) fn find(given: Option<&Path>) -> anyhow::Result<PathBuf> {
    let given = given.map(|program| program.as_os_str().to_owned());
    let named = given
        .or_else(|| std::env::var_os("VAULT_BIN"))
        .unwrap_or_else(|| "vault".into());
    let run = [named.to_string_lossy().into_owned()];
    machine::find_program(&run, Path::new("")).ok().context(
        "no Vault was found: install it (https://developer.hashicorp.com/vault/install), or give its program: `--vault=PATH`",
    )
}

impl Vault {
    /// Starts one, and sets it up to sign for `trust_domain`.
    pub(super) async fn start(program: PathBuf, trust_domain: &str) -> anyhow::Result<Self> {
        let folder = tempfile::Builder::new().prefix("watchword-vault-").tempdir()?;
        let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let token = format!("demo-{:032x}", fastrand::u128(..));
        let mut child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "--"])
            .arg(&program)
            .args(["server", "-dev", "-dev-tls", "-dev-no-store-token"])
            .arg(format!("-dev-tls-cert-dir={}", folder.path().display()))
            .arg(format!("-dev-listen-address=127.0.0.1:{port}"))
            .env("VAULT_DEV_ROOT_TOKEN_ID", &token)
            .env("VAULT_DISABLE_MLOCK", "1")
            .env("HOME", folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("cannot start {}", program.display()))?;
        let stdout = child.stdout.take().context("no pipe")?;
        wait_for_root_token(stdout).await?;
        let vault = Self {
            program,
            folder,
            address: format!("https://127.0.0.1:{port}"),
            token,
            _child: child,
        };
        vault.set_up(trust_domain).await.context("cannot set up Vault")?;
        Ok(vault)
    }

    /// The mesh file's `authority`.
    pub(super) fn authority(&self) -> serde_json::Value {
        json!({"vault": {
            "addresses": [self.address],
            "caFile": self.ca_file(),
            "mount": MOUNT,
            "role": "mesh",
            "rootFile": self.file("root.pem"),
            "auth": {"tokenFile": self.file("token")},
        }})
    }

    /// Whether the audit log has an answer with this serial, in hexadecimal.
    pub(super) fn has_signed(&self, serial: &str) -> anyhow::Result<bool> {
        let log = fs::read_to_string(self.file("audit.log"))?;
        let pairs: Vec<String> = serial
            .as_bytes()
            .chunks(2)
            .map(|pair| String::from_utf8_lossy(pair).into())
            .collect();
        Ok(log.contains(&format!("\"serial_number\":\"{}\"", pairs.join(":"))))
    }

    async fn set_up(&self, trust_domain: &str) -> anyhow::Result<()> {
        let audit = format!("file_path={}", self.file("audit.log").display());
        self.run(&["audit", "enable", "file", &audit]).await?;
        self.run(&["secrets", "enable", "-path=root", "pki"]).await?;
        let root = [
            "write",
            "-field=certificate",
            "root/root/generate/internal",
            "common_name=root",
            "key_type=ec",
        ];
        fs::write(self.file("root.pem"), self.run(&root).await?)?;
        let shown = "-audit-non-hmac-response-keys=serial_number";
        self.run(&["secrets", "enable", "-path=pki_int", shown, "pki"]).await?;
        let generate = "pki_int/intermediate/generate/internal";
        let csr = self
            .run(&[
                "write",
                "-field=csr",
                generate,
                "common_name=intermediate",
                "key_type=ec",
            ])
            .await?;
        let sign = [
            "write",
            "-field=certificate",
            "root/root/sign-intermediate",
            &format!("csr={csr}"),
        ];
        let signed = format!("certificate={}", self.run(&sign).await?);
        self.run(&["write", "pki_int/intermediate/set-signed", &signed]).await?;
        let ids = format!("allowed_uri_sans=spiffe://{trust_domain}/*");
        self.run(&[&["write", "pki_int/roles/mesh", &ids], &ROLE[..]].concat())
            .await?;
        let policy = self.file("mesh.hcl");
        fs::write(&policy, POLICY)?;
        self.run(&["policy", "write", "mesh", &policy.display().to_string()])
            .await?;
        let token = self.run(&["token", "create", "-policy=mesh", "-field=token"]).await?;
        fs::write(self.file("token"), token)?;
        Ok(())
    }

    async fn run(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let mut command = Command::new(&self.program);
        command
            .args(arguments)
            .env("HOME", self.folder.path())
            .env("VAULT_ADDR", &self.address)
            .env("VAULT_CACERT", self.ca_file())
            .env("VAULT_TOKEN", &self.token)
            .stdin(Stdio::null())
            .kill_on_drop(true);
        let finished = tokio::time::timeout(PATIENCE, command.output()).await;
        let finished = finished.context("`vault` does not end")??;
        let said = String::from_utf8_lossy(&finished.stderr);
        ensure!(
            finished.status.success(),
            "`vault {}`: {}",
            arguments.join(" "),
            said.trim()
        );
        Ok(String::from_utf8_lossy(&finished.stdout).trim().to_owned())
    }

    fn ca_file(&self) -> PathBuf {
        self.file("vault-ca.pem")
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

/// The last thing that a dev server says of its start; what follows is read
/// away, or it would stand still.
async fn wait_for_root_token(stdout: tokio::process::ChildStdout) -> anyhow::Result<()> {
    let mut lines = BufReader::new(stdout).lines();
    let started = async {
        while let Some(line) = lines.next_line().await? {
            if line.starts_with("Root Token:") {
                return Ok(());
            }
        }
        bail!("Vault ended before it had started")
    };
    tokio::time::timeout(PATIENCE, started)
        .await
        .context("Vault does not start")??;
    tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
    Ok(())
}
