//! Three Vault servers with one Raft log, which unseal themselves by the
//! transit engine of a fourth.
//!
//! Invariant: nodes are numbered from 0, and keep their ports and their data
//! when they are started again.

use std::fs::{self, File};
use std::net::TcpListener;
use std::ops::Deref;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, Result};
use nix::unistd::Pid;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use serde_json::Value;

use super::{Administrator, Vault, server, vault_program};
use crate::output::wait_until;
use crate::programs::run;

const NODES: usize = 3;
const CA_FILE: &str = "vault-ca.pem";
const CERTIFICATE_FILE: &str = "vault-cert.pem";
const KEY_FILE: &str = "vault-key.pem";

/// A cluster of Vault. Dropped, it ends.
pub struct Cluster {
    administrator: Administrator,
    nodes: Vec<Option<Child>>,
    // Ends after the nodes.
    _unsealer: Vault,
}

impl Deref for Cluster {
    type Target = Administrator;

    fn deref(&self) -> &Administrator {
        &self.administrator
    }
}

impl Cluster {
    /// Starts one that is set up as [`Vault::start`] does it.
    ///
    /// # Errors
    /// When it can't be started or set up, with the end of the nodes' logs.
    pub fn start() -> Result<Self> {
        let unsealer = Vault::start_empty(&[])?;
        unsealer.run(&["secrets", "enable", "transit"])?;
        unsealer.run(&["write", "-f", "transit/keys/unseal"])?;
        let folder = tempfile::Builder::new().prefix("watchword-vault-").tempdir()?;
        write_certificates(folder.path())?;
        let ports = free_ports(2 * NODES)?;
        let (api, internal) = ports.split_at(NODES);
        for node in 0..NODES {
            let home = folder.path().join(node.to_string());
            fs::create_dir_all(home.join("raft"))?;
            let text = configuration(folder.path(), node, api, internal, &unsealer);
            fs::write(home.join("vault.hcl"), text)?;
        }
        let mut cluster = Self {
            administrator: Administrator {
                program: vault_program()?,
                addresses: api.iter().map(|port| format!("https://127.0.0.1:{port}")).collect(),
                called: AtomicUsize::new(0),
                ca_file: folder.path().join(CA_FILE),
                token: String::new(),
                audit_files: (0..NODES).map(|node| audit_file(folder.path(), node)).collect(),
                folder,
            },
            nodes: (0..NODES).map(|_| None).collect(),
            _unsealer: unsealer,
        };
        cluster.come_up().with_context(|| cluster.logs())?;
        Ok(cluster)
    }

    fn come_up(&mut self) -> Result<()> {
        for node in 0..NODES {
            self.restart(node)?;
        }
        wait_until("the first node to answer", || self.ask(0, "sys/seal-status").is_ok())?;
        let init = [
            "operator",
            "init",
            "-format=json",
            "-recovery-shares=1",
            "-recovery-threshold=1",
        ];
        let said: Value = serde_json::from_str(&self.run(&init)?)?;
        said["root_token"]
            .as_str()
            .context("init gives a token")?
            .clone_into(&mut self.administrator.token);
        self.wait_for_active()?;
        // Ten seconds otherwise until a node that has joined may vote.
        wait_until("the autopilot to listen", || {
            let hurry = [
                "operator",
                "raft",
                "autopilot",
                "set-config",
                "-server-stabilization-time=1s",
            ];
            self.run(&hurry).is_ok()
        })?;
        self.wait_for_voters()?;
        self.set_up("file_path=audit.log")
    }

    /// Starts a node that does not run. It unseals itself.
    ///
    /// # Errors
    /// When it can't be started.
    pub fn restart(&mut self, node: usize) -> Result<()> {
        let home = self.folder.path().join(node.to_string());
        let log = File::options().create(true).append(true).open(home.join("log"))?;
        let child = server(&self.program)
            .args(["-config", "vault.hcl"])
            .current_dir(&home)
            .env("HOME", &home)
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        self.nodes[node] = Some(child);
        Ok(())
    }

    /// Kills a node.
    ///
    /// # Errors
    /// When it does not run.
    pub fn kill(&mut self, node: usize) -> Result<()> {
        let mut child = self.nodes[node].take().context("it does not run")?;
        child.kill()?;
        child.wait()?;
        Ok(())
    }

    /// The process ID of a node.
    ///
    /// # Errors
    /// When it does not run.
    pub fn pid(&self, node: usize) -> Result<Pid> {
        let child = self.nodes[node].as_ref().context("it does not run")?;
        Ok(Pid::from_raw(i32::try_from(child.id())?))
    }

    /// The node that is active, by its own word; none during an election.
    pub fn active(&self) -> Option<usize> {
        (0..NODES).find(|node| {
            self.ask(*node, "sys/leader")
                .is_ok_and(|answer| answer["is_self"] == true)
        })
    }

    /// Waits for an active node, which the administrator calls from then on.
    ///
    /// # Errors
    /// When none becomes active.
    pub fn wait_for_active(&self) -> Result<usize> {
        let mut active = None;
        wait_until("a node to be active", || {
            active = self.active();
            active.is_some()
        })?;
        let active = active.context("a node is active")?;
        self.called.store(active, Ordering::Relaxed);
        Ok(active)
    }

    /// Waits until all nodes vote and are unsealed.
    ///
    /// # Errors
    /// When they don't.
    pub fn wait_for_voters(&self) -> Result<()> {
        wait_until("all nodes to be unsealed", || {
            (0..NODES).all(|node| {
                self.ask(node, "sys/seal-status")
                    .is_ok_and(|answer| answer["sealed"] == false)
            })
        })?;
        wait_until("all nodes to vote", || self.voters().is_ok_and(|count| count == NODES))
    }

    fn voters(&self) -> Result<usize> {
        let said: Value = serde_json::from_str(&self.run(&["operator", "raft", "list-peers", "-format=json"])?)?;
        let peers = said["data"]["config"]["servers"]
            .as_array()
            .context("a list of peers")?;
        Ok(peers.iter().filter(|peer| peer["voter"] == true).count())
    }

    /// Serials of the leaves that one node signed.
    ///
    /// # Errors
    /// When its audit log can't be read.
    pub fn signed_by(&self, node: usize) -> Result<Vec<String>> {
        super::signed_in(&audit_file(self.folder.path(), node))
    }

    /// What a node answers without a login.
    fn ask(&self, node: usize, path: &str) -> Result<Value> {
        let mut curl = Command::new("curl");
        curl.args([
            "--silent",
            "--show-error",
            "--max-time",
            "2",
            "--noproxy",
            "*",
            "--cacert",
        ])
        .arg(&self.ca_file)
        .arg(format!("{}/v1/{path}", self.addresses[node]))
        .stderr(Stdio::null());
        Ok(serde_json::from_str(&run(&mut curl)?)?)
    }

    /// The ends of the nodes' logs.
    pub fn logs(&self) -> String {
        let end = |node: usize| {
            let text = fs::read_to_string(self.folder.path().join(format!("{node}/log"))).unwrap_or_default();
            let lines: Vec<_> = text.lines().collect();
            format!(
                "--- node {node}:\n{}\n",
                lines[lines.len().saturating_sub(30)..].join("\n")
            )
        };
        (0..NODES).map(end).collect()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for node in 0..NODES {
            let _ = self.kill(node);
        }
    }
}

fn audit_file(folder: &Path, node: usize) -> std::path::PathBuf {
    folder.join(format!("{node}/audit.log"))
}

fn configuration(folder: &Path, node: usize, api: &[u16], internal: &[u16], unsealer: &Vault) -> String {
    let folder = folder.display();
    let join = |port: &u16| {
        format!(
            "  retry_join {{\n    leader_api_addr = \"https://127.0.0.1:{port}\"\n    \
             leader_ca_cert_file = \"{folder}/{CA_FILE}\"\n  }}\n"
        )
    };
    let join: String = api.iter().map(join).collect();
    let (port, cluster_port) = (api[node], internal[node]);
    format!(
        r#"storage "raft" {{
  path = "{folder}/{node}/raft"
  node_id = "{node}"
  performance_multiplier = 1
{join}}}
listener "tcp" {{
  address = "127.0.0.1:{port}"
  cluster_address = "127.0.0.1:{cluster_port}"
  tls_cert_file = "{folder}/{CERTIFICATE_FILE}"
  tls_key_file = "{folder}/{KEY_FILE}"
}}
seal "transit" {{
  address = "{unsealer}"
  token = "{token}"
  disable_renewal = "true"
  key_name = "unseal"
  mount_path = "transit/"
  tls_ca_cert = "{unsealer_ca}"
}}
api_addr = "https://127.0.0.1:{port}"
cluster_addr = "https://127.0.0.1:{cluster_port}"
disable_mlock = true
"#,
        unsealer = unsealer.address(),
        token = unsealer.token,
        unsealer_ca = unsealer.ca_file.display(),
    )
}

/// Chosen by the kernel, all different.
fn free_ports(count: usize) -> Result<Vec<u16>> {
    let held = (0..count).map(|_| TcpListener::bind("127.0.0.1:0"));
    let held: Vec<_> = held.collect::<std::io::Result<_>>()?;
    held.iter().map(|listener| Ok(listener.local_addr()?.port())).collect()
}

fn write_certificates(folder: &Path) -> Result<()> {
    let mut ca = CertificateParams::default();
    ca.distinguished_name
        .push(DnType::CommonName, "the CA of Vault's own TLS");
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    ca.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let ca_key = KeyPair::generate()?;
    fs::write(folder.join(CA_FILE), ca.self_signed(&ca_key)?.pem())?;
    let key = KeyPair::generate()?;
    let leaf = CertificateParams::new(["127.0.0.1".to_owned()])?;
    let leaf = leaf.signed_by(&key, &Issuer::new(ca, ca_key))?;
    fs::write(folder.join(CERTIFICATE_FILE), leaf.pem())?;
    fs::write(folder.join(KEY_FILE), key.serialize_pem())?;
    Ok(())
}
