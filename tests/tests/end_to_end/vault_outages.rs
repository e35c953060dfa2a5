//! Vault is away, unwell, or lets nobody in: nothing is lost, and it heals by
//! itself.
//!
//! Certificates live so short in these meshes that each is renewed several
//! times while Vault is away or soon after: who isn't renewed in time loses
//! calls.

use std::fs;
use std::time::{Duration, Instant};

use watchword_tests::{Administrator, Cluster, Fault, FaultyWay, Mesh, MeshFile, Stopped, Vault, wait_until};

use crate::load::{Load, SERVER};
use crate::tunnels::generation;
use crate::vault::{app_role, assert_signed_once, issued};

const SERVICES: &str = "web: {run: [sleep, infinity]}\n\
                        orders: {run: [python3, server.py, '9000', orders], ports: {9000: tcp}, healthy: {port: 9000}}";
const POLICIES: &str = "name: orders\nservice: spiffe://example.org/orders\n\
                        allow: [{name: web calls, from: [spiffe://example.org/web]}]\n";
/// What the role gives.
const TTL: Duration = Duration::from_secs(20);

fn mesh_file(authority: &str) -> MeshFile {
    let file = MeshFile::with(authority, SERVICES, POLICIES).unwrap();
    file.write("server.py", SERVER).unwrap();
    file
}

/// Such a mesh with a load on it, of certificates that live for [`TTL`].
struct Trial {
    mesh: Mesh,
    load: Load,
}

impl Trial {
    fn start(vault: &Administrator, authority: &str) -> Self {
        Self::with_certificates_of(TTL, vault, authority)
    }

    fn with_certificates_of(ttl: Duration, vault: &Administrator, authority: &str) -> Self {
        vault.role("mesh", &[&format!("max_ttl={}s", ttl.as_secs())]).unwrap();
        let mesh = mesh_file(authority).up().unwrap();
        let load = Load::until_asked(&mesh, "orders", "2");
        Self { mesh, load }
    }

    fn generations(&self) -> [u64; 2] {
        ["web-1", "orders-1"].map(|replica| generation(&self.mesh, replica))
    }

    /// The control plane's own certificate, by its log.
    fn own_renewals(&self) -> usize {
        let text = self.mesh.output().text();
        text.matches("the control plane has a new certificate").count()
    }

    /// Everybody's next certificate.
    fn wait_for_renewals(&self, why: &str) {
        let (before, own) = (self.generations(), self.own_renewals());
        let what = format!("a renewal of everybody {why}");
        wait_until(&what, || {
            let now = self.generations();
            (0..2).all(|at| now[at] > before[at]) && self.own_renewals() > own
        })
        .unwrap_or_else(|error| panic!("{error}\n{}", self.mesh.output().text()));
    }

    fn wait_for_line(&self, text: &str) {
        let found = self.mesh.output().wait_for(text, |line| line.contains(text));
        found.unwrap();
    }

    /// Ends the load: nothing of it may have been lost.
    fn end(self, vault: &Administrator) -> Mesh {
        let done = self.load.done_without_loss(&self.mesh);
        assert!(done > 200, "{done} calls");
        assert_signed_once(vault, &self.mesh);
        assert!(issued(&self.mesh).len() > 5);
        self.mesh
    }
}

#[allow(clippy::disallowed_methods, reason = "being away for so long is what is tested")]
fn be_away_for(long: Duration) {
    std::thread::sleep(long);
}

#[test]
fn a_vault_that_is_sealed_for_a_third_of_a_lifetime_costs_no_call() {
    let vault = Vault::start().unwrap();
    let trial = Trial::start(&vault, &vault.authority(&app_role(&vault)));
    let began = Instant::now();
    vault.seal().unwrap();
    trial.wait_for_line("503: Vault is sealed");
    be_away_for((TTL * 3 / 10).saturating_sub(began.elapsed()));
    vault.unseal().unwrap();
    trial.wait_for_renewals("after the unsealing");
    trial.end(&vault);
}

#[test]
fn a_revoked_token_costs_no_call_when_the_token_file_is_replaced() {
    let vault = Vault::start().unwrap();
    let token = vault.token_file(&[]).unwrap();
    let auth = format!("{{tokenFile: {}}}", token.display());
    let trial = Trial::start(&vault, &vault.authority(&auth));
    let old = fs::read_to_string(&token).unwrap();
    vault.run(&["token", "revoke", old.trim()]).unwrap();
    trial.wait_for_line("it refuses the token, and the token file holds no other");
    vault.token_file(&[]).unwrap();
    trial.wait_for_renewals("with the new token");
    trial.end(&vault);
}

/// What is revoked heals by a new login; what is destroyed, by a new secret ID
/// in its file.
#[test]
fn a_revoked_login_and_then_a_replaced_app_role_secret_cost_no_call() {
    let vault = Vault::start().unwrap();
    let auth = app_role(&vault);
    let secret_id = vault.folder().join("secret-id");
    let trial = Trial::start(&vault, &vault.authority(&auth));
    let revoke = ["lease", "revoke", "-force", "-prefix", "auth/approle/login"];
    vault.run(&revoke).unwrap();
    trial.wait_for_renewals("with a token of a new login");

    let old = format!("secret_id={}", fs::read_to_string(&secret_id).unwrap().trim());
    vault
        .run(&["write", "auth/approle/role/mesh/secret-id/destroy", &old])
        .unwrap();
    vault.run(&revoke).unwrap();
    trial.wait_for_line("can't log in to Vault by AppRole");
    let new = vault
        .run(&["write", "-f", "-field=secret_id", "auth/approle/role/mesh/secret-id"])
        .unwrap();
    vault.write("secret-id", &new).unwrap();
    trial.wait_for_renewals("with the new secret ID");
    let mesh = trial.end(&vault);
    let log = mesh.output().text();
    assert!(!log.contains(new.trim()) && !log.contains(old.trim_start_matches("secret_id=")));
}

/// How much may be said and tried in a second by three that need certificates.
const MOST_PER_SECOND: f64 = 15.0;

#[test]
fn a_way_to_vault_that_breaks_in_every_manner_costs_no_call_and_heats_no_log() {
    let vault = Vault::start().unwrap();
    let port = vault.address().rsplit(':').next().unwrap().parse().unwrap();
    let way = FaultyWay::to(port).unwrap();
    let authority = vault
        .authority(&app_role(&vault))
        .replace(&vault.address(), &way.address());
    let trial = Trial::start(&vault, &authority);
    let began = Instant::now();
    let (before, connected) = (warnings(&trial.mesh).len(), way.connections());
    let healed = || trial.mesh.output().text().matches("Vault answers again").count();
    let faults = [
        (Fault::Refuse, "why=can't connect"),
        // In the handshake, then in the answer.
        (Fault::ResetAfter(100), ""),
        (Fault::ResetAfter(2500), ""),
        (Fault::Delay(Duration::from_secs(60)), "why=no answer within 3 s"),
        (Fault::Silence, "why=no answer within 3 s"),
    ];
    for (fault, reason) in faults {
        let (said, before) = (warnings(&trial.mesh).len(), healed());
        way.set(fault).unwrap();
        let is_it = |line: &String| line.contains("Vault can't be used") && line.contains(reason);
        wait_until("the log to name the fault", || {
            warnings(&trial.mesh)[said..].iter().any(is_it)
        })
        .unwrap_or_else(|error| panic!("{error}: {fault:?}\n{}", trial.mesh.output().text()));
        way.set(Fault::None).unwrap();
        wait_until("Vault to be called again", || healed() > before)
            .unwrap_or_else(|error| panic!("{error}: {fault:?}\n{}", trial.mesh.output().text()));
    }
    let seconds = began.elapsed().as_secs_f64();
    let said = (warnings(&trial.mesh).len() - before) as f64 / seconds;
    let tried = (way.connections() - connected) as f64 / seconds;
    assert!(
        said < MOST_PER_SECOND && tried < MOST_PER_SECOND,
        "{said} lines, {tried} connections a second"
    );
    trial.wait_for_renewals("after all faults");
    trial.end(&vault);
}

fn warnings(mesh: &Mesh) -> Vec<String> {
    let text = mesh.output().text();
    let lines = text
        .lines()
        .filter(|line| line.contains("WARN") || line.contains("ERROR"));
    lines.map(str::to_owned).collect()
}

/// Nothing gives up: whoever starts a mesh while Vault is away sees what it
/// waits for, and need not start it again.
#[test]
fn a_mesh_that_starts_while_vault_is_sealed_says_so_and_is_ready_when_it_is_unsealed() {
    let vault = Vault::start().unwrap();
    let auth = app_role(&vault);
    vault.seal().unwrap();
    let file = mesh_file(&vault.authority(&auth));
    let ready = format!("mesh {} is ready", file.name());
    let mesh = file.start().unwrap();
    let waits = |line: &str| line.contains("waits for its first certificate") && line.contains("503: Vault is sealed");
    mesh.output().wait_for("the reason", waits).unwrap();
    vault.unseal().unwrap();
    mesh.output()
        .wait_for("the mesh", |line| line.contains(&ready))
        .unwrap();
    let load = Load::until_asked(&mesh, "orders", "1");
    assert!(load.done_without_loss(&mesh) < 50);
    assert_signed_once(&vault, &mesh);
}

/// Killed, it is away at once; stopped, it is silent, and so are those that
/// forward to it, until they notice.
#[test]
fn the_active_node_of_three_is_killed_and_the_next_one_stopped_and_no_call_is_lost() {
    let mut cluster = Cluster::start().unwrap();
    // Vault's own election takes up to a quarter of that, where disks are slow.
    let trial = Trial::with_certificates_of(2 * TTL, &cluster, &cluster.authority(&app_role(&cluster)));
    let first = cluster.wait_for_active().unwrap();
    assert!(!cluster.signed_by(first).unwrap().is_empty());
    cluster.kill(first).unwrap();
    let second = cluster.wait_for_active().unwrap();
    assert_ne!(first, second);
    trial.wait_for_renewals("by the new active node");
    assert!(!cluster.signed_by(second).unwrap().is_empty());

    cluster.restart(first).unwrap();
    cluster
        .wait_for_voters()
        .unwrap_or_else(|error| panic!("{error}\n{}", cluster.logs()));
    let before = cluster.signed().unwrap().len() - cluster.signed_by(second).unwrap().len();
    let stopped = Stopped::stop(cluster.pid(second).unwrap()).unwrap();
    let third = cluster.wait_for_active().unwrap();
    assert_ne!(second, third);
    trial.wait_for_renewals("while the second node is silent");
    drop(stopped);
    let now = cluster.signed().unwrap().len() - cluster.signed_by(second).unwrap().len();
    assert!(now >= before + 3, "others than the stopped one signed");
    trial.end(&cluster);
}
