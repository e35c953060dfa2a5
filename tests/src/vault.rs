//! A real Vault: a dev server on loopback with TLS, an offline-like root, an
//! intermediate that signs, and an audit log. A cluster of three is in
//! `cluster`, what breaks the way to it in `fault`.
//!
//! Invariant: no server outlives the thread that started it, even when a test
//! is killed.

mod cluster;
mod fault;

use std::fs;
use std::net::TcpListener;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, Result, anyhow, ensure};
use serde_json::Value;
use tempfile::TempDir;

use crate::output::{Output, wait_until};
use crate::programs::run;
pub use cluster::Cluster;
pub use fault::{Fault, FaultyWay};

/// Where the PKI engine is mounted: a path of two parts.
pub const MOUNT: &str = "team/pki_int";
/// What the control plane may do.
const POLICY: &str = r#"path "team/pki_int/sign/*" { capabilities = ["update"] }"#;
/// A role that is as it should be.
const GOOD_ROLE: &[&str] = &[
    "allowed_uri_sans=spiffe://example.org/*",
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
pub struct Vault {
    administrator: Administrator,
    child: Child,
    unseal_key: String,
}

/// Who may do everything in a Vault, of one server or several.
pub struct Administrator {
    folder: TempDir,
    program: PathBuf,
    addresses: Vec<String>,
    /// Which of them the administrator calls.
    called: AtomicUsize,
    ca_file: PathBuf,
    token: String,
    audit_files: Vec<PathBuf>,
}

impl Deref for Vault {
    type Target = Administrator;

    fn deref(&self) -> &Administrator {
        &self.administrator
    }
}

/// `vault server`, which ends with the thread that starts it.
fn server(program: &Path) -> Command {
    let mut command = Command::new("setpriv");
    command
        .args(["--pdeathsig", "KILL", "--"])
        .arg(program)
        .arg("server")
        .stdin(Stdio::null());
    command
}

/// The program, by `scripts/vault`; found or built once per process.
///
/// # Errors
/// With what the script says.
pub fn vault_program() -> Result<PathBuf> {
    static FOUND: OnceLock<std::result::Result<PathBuf, String>> = OnceLock::new();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/vault");
    let find = || {
        let found = run(&mut Command::new(&script)).map_err(|error| format!("{error:#}"))?;
        Ok(PathBuf::from(found.trim()))
    };
    FOUND
        .get_or_init(find)
        .clone()
        .map_err(|why| anyhow!("no Vault; `scripts/vault` builds one: {why}"))
}

impl Vault {
    /// Starts one with a root, an intermediate, the role `mesh`, AppRole, a
    /// policy `mesh` and an audit log.
    ///
    /// # Errors
    /// When it can't be found, started or set up.
    pub fn start() -> Result<Self> {
        Self::start_with(&[])
    }

    /// [`Vault::start`] with more options of `vault server -dev`.
    ///
    /// # Errors
    /// When it can't be found, started or set up.
    pub fn start_with(more: &[&str]) -> Result<Self> {
        let vault = Self::start_empty(more)?;
        let audit = format!("file_path={}", vault.folder.path().join("audit.log").display());
        vault.set_up(&audit)?;
        Ok(vault)
    }

    /// [`Vault::start_with`] with nothing set up.
    ///
    /// # Errors
    /// When it can't be found or started.
    pub fn start_empty(more: &[&str]) -> Result<Self> {
        let program = vault_program()?;
        let folder = tempfile::Builder::new().prefix("watchword-vault-").tempdir()?;
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let token = format!("root-{}-{port}", std::process::id());
        let mut child = server(&program)
            .args(["-dev", "-dev-tls", "-dev-no-store-token"])
            .arg(format!("-dev-tls-cert-dir={}", folder.path().display()))
            .arg(format!("-dev-root-token-id={token}"))
            .arg(format!("-dev-listen-address=127.0.0.1:{port}"))
            .args(more)
            .env("HOME", folder.path())
            .env("VAULT_DISABLE_MLOCK", "1")
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| program.display().to_string())?;
        let output = Output::of(&mut child);
        let mut vault = Self {
            administrator: Administrator {
                addresses: vec![format!("https://127.0.0.1:{port}")],
                called: AtomicUsize::new(0),
                ca_file: folder.path().join("vault-ca.pem"),
                audit_files: vec![folder.path().join("audit.log")],
                folder,
                program,
                token,
            },
            child,
            unseal_key: String::new(),
        };
        output.wait_for("Vault to start", |line| line.starts_with("Root Token:"))?;
        let text = output.text();
        let key = text.lines().find_map(|line| line.strip_prefix("Unseal Key:"));
        vault.unseal_key = key.context("Vault prints its unseal key")?.trim().to_owned();
        Ok(vault)
    }

    /// Seals it: it signs nothing until [`Vault::unseal`].
    ///
    /// # Errors
    /// When it can't be sealed.
    pub fn seal(&self) -> Result<()> {
        self.run(&["operator", "seal"]).map(|_| ())
    }

    /// Unseals it.
    ///
    /// # Errors
    /// When it can't be unsealed.
    pub fn unseal(&self) -> Result<()> {
        self.run(&["operator", "unseal", &self.unseal_key])?;
        wait_until("Vault to be unsealed", || self.run(&["token", "lookup"]).is_ok())
    }
}

impl Administrator {
    fn set_up(&self, audit: &str) -> Result<()> {
        self.run(&["audit", "enable", "file", audit])?;
        self.run(&["secrets", "enable", "-path=root", "-max-lease-ttl=87600h", "pki"])?;
        let root = "root/root/generate/internal";
        let root = self.run(&[
            "write",
            "-field=certificate",
            root,
            "common_name=root",
            "key_type=ec",
            "ttl=87600h",
        ])?;
        fs::write(self.root_file(), root)?;
        let path = format!("-path={MOUNT}");
        let shown = "-audit-non-hmac-response-keys=serial_number";
        self.run(&["secrets", "enable", &path, "-max-lease-ttl=43800h", shown, "pki"])?;
        let generate = format!("{MOUNT}/intermediate/generate/internal");
        let csr = self.run(&[
            "write",
            "-field=csr",
            &generate,
            "common_name=intermediate",
            "key_type=ec",
        ])?;
        let sign = "root/root/sign-intermediate";
        let csr = format!("csr={csr}");
        let signed = self.run(&["write", "-field=certificate", sign, &csr, "ttl=43800h"])?;
        let set = format!("{MOUNT}/intermediate/set-signed");
        self.run(&["write", &set, &format!("certificate={signed}")])?;
        self.role("mesh", &[])?;
        let policy = self.folder.path().join("mesh.hcl");
        fs::write(&policy, POLICY)?;
        self.run(&["policy", "write", "mesh", &policy.display().to_string()])?;
        self.run(&["auth", "enable", "approle"])?;
        Ok(())
    }

    /// Writes a role that is like [`GOOD_ROLE`] but for `changes`.
    ///
    /// # Errors
    /// When Vault refuses.
    pub fn role(&self, name: &str, changes: &[&str]) -> Result<()> {
        let path = format!("{MOUNT}/roles/{name}");
        let key = |text: &str| text.split('=').next().unwrap_or_default().to_owned();
        let kept = GOOD_ROLE
            .iter()
            .filter(|good| changes.iter().all(|change| key(change) != key(good)));
        let arguments: Vec<&str> = ["write", path.as_str()]
            .into_iter()
            .chain(kept.copied())
            .chain(changes.iter().copied())
            .collect();
        self.run(&arguments).map(|_| ())
    }

    /// A token for the control plane, in a file; `more` are options of
    /// `vault token create`.
    ///
    /// # Errors
    /// When Vault refuses, or the file can't be written.
    pub fn token_file(&self, more: &[&str]) -> Result<PathBuf> {
        let arguments = [&["token", "create", "-policy=mesh", "-field=token"], more].concat();
        self.write("token", &self.run(&arguments)?)
    }

    /// Files of a role ID and a secret ID; `more` are parameters of the role.
    ///
    /// # Errors
    /// When Vault refuses, or the files can't be written.
    pub fn app_role(&self, more: &[&str]) -> Result<(PathBuf, PathBuf)> {
        let role = [&["write", "auth/approle/role/mesh", "token_policies=mesh"], more].concat();
        self.run(&role)?;
        let role_id = self.run(&["read", "-field=role_id", "auth/approle/role/mesh/role-id"])?;
        let secret_id = self.run(&["write", "-f", "-field=secret_id", "auth/approle/role/mesh/secret-id"])?;
        Ok((self.write("role-id", &role_id)?, self.write("secret-id", &secret_id)?))
    }

    /// Writes a file beside Vault's own, in one step.
    ///
    /// # Errors
    /// When it can't be written.
    pub fn write(&self, name: &str, text: &str) -> Result<PathBuf> {
        let path = self.folder.path().join(name);
        let new = self.folder.path().join(format!("{name}.new"));
        fs::write(&new, text)?;
        fs::rename(&new, &path)?;
        Ok(path)
    }

    /// Runs `vault` as its administrator, and returns what it printed.
    ///
    /// # Errors
    /// When it fails, with what it said.
    pub fn run(&self, arguments: &[&str]) -> Result<String> {
        let mut command = Command::new(&self.program);
        run(self.administer(command.args(arguments)))
    }

    /// Runs a shell script that calls `vault`, as its administrator, in a folder.
    ///
    /// # Errors
    /// When a command of it fails, with what it said.
    pub fn run_script(&self, script: &str, folder: &Path) -> Result<String> {
        let programs = self.folder.path().join("bin");
        fs::create_dir_all(&programs)?;
        let link = programs.join("vault");
        if !link.exists() {
            std::os::unix::fs::symlink(&self.program, link)?;
        }
        let path = format!("{}:{}", programs.display(), std::env::var("PATH")?);
        let mut command = Command::new("sh");
        command.args(["-ec", script]).current_dir(folder).env("PATH", path);
        run(self.administer(&mut command))
    }

    fn administer<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        command
            .env("HOME", self.folder.path())
            .env("VAULT_ADDR", self.address())
            .env("VAULT_CACERT", self.ca_file())
            .env("VAULT_TOKEN", &self.token)
    }

    /// `https://…`.
    pub fn address(&self) -> String {
        let called = self.called.load(Ordering::Relaxed);
        self.addresses.get(called).cloned().unwrap_or_default()
    }

    /// What vouches for its own certificate.
    pub fn ca_file(&self) -> PathBuf {
        self.ca_file.clone()
    }

    /// The root's certificate.
    pub fn root_file(&self) -> PathBuf {
        self.folder.path().join("root.pem")
    }

    /// The files of all its secrets.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The serials of all leaves that the audit log says were signed, in
    /// hexadecimal without colons.
    ///
    /// # Errors
    /// When the log can't be read.
    pub fn signed(&self) -> Result<Vec<String>> {
        let mut serials = Vec::new();
        for file in &self.audit_files {
            serials.extend(signed_in(file)?);
        }
        Ok(serials)
    }

    /// The mesh file's `authority`, in one line; `auth` is the YAML of that key.
    pub fn authority(&self, auth: &str) -> String {
        format!(
            "authority: {{vault: {{addresses: ['{}'], caFile: {}, mount: {MOUNT}, role: mesh, rootFile: {}, auth: {auth}}}}}",
            self.addresses.join("', '"),
            self.ca_file().display(),
            self.root_file().display()
        )
    }

    /// Checks a chain with OpenSSL against the root alone.
    ///
    /// # Errors
    /// When OpenSSL does not accept it.
    pub fn verify_by_openssl(&self, chain: &Path) -> Result<()> {
        let mut openssl = Command::new("openssl");
        openssl.arg("verify").arg("-CAfile").arg(self.root_file());
        openssl.arg("-untrusted").arg(chain).arg(chain);
        let said = run(&mut openssl)?;
        ensure!(said.contains("OK"), "{said}");
        Ok(())
    }

    /// One more issuing authority in the mount, whose key never leaves Vault.
    /// `sign` makes of its request the PEM that is imported, its own
    /// certificate first. Returns its ID: it signs nothing yet.
    ///
    /// # Errors
    /// When Vault refuses.
    pub fn add_issuer(&self, name: &str, sign: impl FnOnce(&str) -> Result<String>) -> Result<String> {
        let generate = format!("{MOUNT}/intermediate/generate/internal");
        let name = format!("common_name={name}");
        let request = self.run(&["write", "-field=csr", &generate, &name, "key_type=ec"])?;
        let chain = format!("certificate={}", sign(&request)?);
        let set = format!("{MOUNT}/intermediate/set-signed");
        let answer: Value = serde_json::from_str(&self.run(&["write", "-format=json", &set, &chain])?)?;
        let keys = answer["data"]["mapping"]
            .as_object()
            .context("issuers with their keys")?;
        let with_key = keys
            .iter()
            .find(|(_, key)| key.as_str().is_some_and(|key| !key.is_empty()));
        Ok(with_key.context("an issuer with a key")?.0.clone())
    }

    /// Has this issuer sign from now on. Returns the ID of the one before.
    ///
    /// # Errors
    /// When Vault refuses.
    pub fn sign_by(&self, issuer: &str) -> Result<String> {
        let config = format!("{MOUNT}/config/issuers");
        let before = self.run(&["read", "-field=default", &config])?;
        self.run(&["write", &config, &format!("default={issuer}")])?;
        Ok(before.trim().to_owned())
    }

    /// As an operator has the root of this Vault sign an authority's request.
    ///
    /// # Errors
    /// When Vault refuses.
    pub fn sign_by_root(&self, request: &str) -> Result<String> {
        let request = format!("csr={request}");
        self.run(&[
            "write",
            "-field=certificate",
            "root/root/sign-intermediate",
            &request,
            "ttl=43800h",
        ])
    }

    /// Lets whoever shows a certificate of `authority` (PEM) log in with the
    /// policy `mesh`; `more` are parameters of the role `mesh` of `auth/cert`.
    ///
    /// # Errors
    /// When Vault refuses.
    pub fn certificate_login(&self, authority: &str, more: &[&str]) -> Result<()> {
        self.run(&["auth", "enable", "cert"])?;
        let certificate = format!("certificate={authority}");
        let role = ["write", "auth/cert/certs/mesh", "token_policies=mesh", &certificate];
        self.run(&[&role, more].concat()).map(|_| ())
    }

    /// How often a path was called and answered, by the audit log.
    ///
    /// # Errors
    /// When the log can't be read.
    pub fn answers(&self, path: &str) -> Result<usize> {
        let mut count = 0;
        for file in &self.audit_files {
            for line in fs::read_to_string(file)?.lines() {
                let line: Value = serde_json::from_str(line)?;
                let is_answer = line["type"] == "response" && line["request"]["path"] == path;
                count += usize::from(is_answer);
            }
        }
        Ok(count)
    }
}

impl Drop for Vault {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// One line may still be in the writing.
fn signed_in(audit: &Path) -> Result<Vec<String>> {
    let mut serials = Vec::new();
    // A server that never was active has none.
    let text = fs::read_to_string(audit).unwrap_or_default();
    for line in text.split_inclusive('\n').filter(|line| line.ends_with('\n')) {
        let line: Value = serde_json::from_str(line)?;
        let path = line["request"]["path"].as_str().unwrap_or_default();
        let data = &line["response"]["data"];
        // A refusal is told within the data.
        let is_signed = line["error"].is_null() && data["error"].is_null();
        if line["type"] == "response" && path.starts_with(&format!("{MOUNT}/sign/")) && is_signed {
            let serial = data["serial_number"].as_str();
            serials.push(serial.context("a response has a serial")?.replace(':', ""));
        }
    }
    Ok(serials)
}
