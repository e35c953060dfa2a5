//! What a machine lacks: `doctor` and `up` say it alike, in one sentence with
//! the command that mends it.

use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Output};

use serde_json::Value;
use watchword_tests::{MeshFile, Vault, altered, binary, without, without_ipv6};

use super::watchword;
use crate::apps::{POLICIES, complaint, curl, mesh, mesh_file, mesh_file_with};

fn doctor(changes: &str) -> Output {
    let mut doctor = altered(changes, binary("watchword").unwrap());
    doctor.args(["doctor", "-o", "json"]).output().unwrap()
}

fn findings(finished: &Output) -> Vec<Value> {
    let told: Value = serde_json::from_slice(&finished.stdout).unwrap();
    assert_eq!(told["ok"], finished.status.success());
    told["findings"].as_array().unwrap().clone()
}

/// Both say `seen` and `mend`, and neither starts anything.
fn both_say(changes: &str, seen: &str, mend: &str) {
    let finished = doctor(changes);
    assert_eq!(finished.status.code(), Some(1), "{finished:?}");
    let found = findings(&finished);
    let says = |finding: &&Value| {
        let text = |key: &str| finding[key].as_str().unwrap_or_default();
        finding["state"] == "missing" && text("seen").contains(seen) && text("mend").contains(mend)
    };
    assert_eq!(found.iter().filter(says).count(), 1, "{seen}: {mend}\n{found:#?}");
    let finished = mesh_file().on_machine(changes.to_owned()).up_to_its_end().unwrap();
    assert_eq!(finished.status.code(), Some(1));
    let said = complaint(&finished);
    let is_told = |line: &str| line.starts_with("error: ") && line.contains(seen) && line.contains(mend);
    assert_eq!(said.lines().filter(|line| is_told(line)).count(), 1, "{said}");
    assert!(finished.stdout.is_empty(), "{finished:?}");
}

#[test]
fn doctor_says_that_a_mesh_can_start_where_it_can() {
    let finished = doctor("");
    assert!(finished.status.success(), "{finished:?}");
    let found = findings(&finished);
    for check in ["kernel", "namespaces", "ip", "interception", "IPv6", "clock", "room"] {
        let finding = found.iter().find(|finding| finding["check"] == check).unwrap();
        assert_ne!(finding["state"], "missing", "{finding}");
        assert!(!finding["seen"].as_str().unwrap().is_empty());
    }
    let table = watchword_tests::run(watchword().arg("doctor")).unwrap();
    assert!(table.ends_with("a mesh can start here\n"), "{table}");
}

#[test]
fn a_missing_program_is_named_with_its_package() {
    both_say(&without(&["ip"]), "`ip` is not installed", "`apt-get install iproute2`");
    both_say(
        &without(&["nft", "iptables", "iptables-restore"]),
        "`nft` is not installed, and neither are `iptables` and `ip6tables`",
        "`apt-get install nftables`",
    );
}

#[test]
fn without_ipv6_a_mesh_has_ipv4_alone_and_doctor_says_so() {
    let found = findings(&doctor(&without_ipv6()));
    let ipv6 = found.iter().find(|finding| finding["check"] == "IPv6").unwrap();
    assert_eq!(ipv6["state"], "warning", "{ipv6}");
    assert!(
        ipv6["mend"].as_str().unwrap().contains("`sudo modprobe ipv6`"),
        "{ipv6}"
    );
    let services = "\
web: {run: [sleep, infinity]}
orders: {run: [python3, -m, http.server, '8080', --bind, 0.0.0.0], ports: {8080: http}, healthy: {port: 8080}}
";
    let file = MeshFile::new(services, POLICIES).unwrap();
    let mesh = file.on_machine(without_ipv6()).up().unwrap();
    let said = mesh.output().text();
    let ready = said.lines().find(|line| line.contains("orders is ready")).unwrap();
    assert!(ready.contains("10.87.0.") && !ready.contains("fd87"), "{ready}");
    mesh.exec_ok("web", &curl(&["-f", "http://orders:8080/"])).unwrap();
}

#[test]
fn a_full_disk_is_named_with_what_shows_it() {
    let full = "mount -t tmpfs -o size=1m,mode=0755 none /run\n\
                export XDG_RUNTIME_DIR=/run\n";
    both_say(full, "a mesh needs 8 MiB", "`df -h /run` shows how full it is");
}

#[test]
fn user_namespaces_that_are_switched_off_are_named_with_the_setting() {
    // Root of a user namespace is nobody special, and stays who it is.
    let in_namespace = |arguments: &[&str]| {
        let script = "echo 0 > /proc/sys/user/max_user_namespaces; exec \"$@\"";
        let mut command = Command::new("unshare");
        command
            .args(["--user", "--map-root-user", "--", "sh", "-euc", script, "sh"])
            .arg(binary("watchword").unwrap())
            .args(arguments);
        command.output().unwrap()
    };
    let file = mesh_file();
    let path = file.folder().join("mesh.yaml");
    let doctor = in_namespace(&["doctor"]);
    assert_eq!(doctor.status.code(), Some(1));
    for said in [
        String::from_utf8_lossy(&doctor.stdout).into_owned(),
        complaint(&in_namespace(&["up", path.to_str().unwrap()])),
    ] {
        assert!(
            said.contains("refuses user namespaces to you")
                && said.contains("`sudo sysctl user.max_user_namespaces=15000`"),
            "{said}"
        );
    }
}

#[test]
fn a_second_mesh_of_the_same_name_is_told_how_to_stop_the_first() {
    let mesh = mesh();
    let kill = format!("`kill {}`", mesh.pid());
    let said = complaint(&mesh.file().up_to_its_end().unwrap());
    assert!(
        said.contains(&format!("a mesh named `{}` is running", mesh.file().name())) && said.contains(&kill),
        "{said}"
    );
    let file = mesh.file().folder().join("mesh.yaml");
    let doctor = watchword().args(["doctor", "--mesh-file"]).arg(file).output().unwrap();
    assert_eq!(doctor.status.code(), Some(1));
    let said = String::from_utf8_lossy(&doctor.stdout).into_owned();
    assert!(said.contains(&kill), "{said}");
}

#[test]
fn doctor_tells_mistakes_of_a_mesh_file_and_what_its_vault_lacks() {
    let file = mesh_file();
    let look = |top: &str| {
        file.write(
            "other.yaml",
            &format!("trustDomain: example.org\nservices: {{}}\n{top}\n"),
        )
        .unwrap();
        let mut doctor = watchword();
        doctor.args(["doctor", "-o", "json", "--mesh-file"]);
        findings(&doctor.arg(file.folder().join("other.yaml")).output().unwrap())
    };
    let missing = |found: &[Value], seen: &str, mend: &str| {
        let text = serde_json::to_string(found).unwrap();
        let one = found.iter().any(|finding| {
            let text = |key: &str| finding[key].as_str().unwrap_or_default();
            finding["state"] == "missing" && text("seen").contains(seen) && text("mend").contains(mend)
        });
        assert!(one, "{seen}: {mend}\n{text}");
    };
    missing(&look("mod: strict"), "other.yaml:3:1: error", "docs/mesh-file.md");
    std::fs::write(file.folder().join("root.pem"), "").unwrap();
    let vault = |address: &str| {
        format!(
            "authority: {{vault: {{addresses: ['{address}'], caFile: root.pem, rootFile: root.pem, role: mesh, \
             auth: {{tokenFile: token}}}}}}"
        )
    };
    let nobody = "https://vault.invalid:8200";
    let no_authority = look(&vault(nobody));
    missing(&no_authority, "root.pem", "`authority.vault`");
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::default();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    std::fs::write(file.folder().join("root.pem"), params.self_signed(&key).unwrap().pem()).unwrap();
    missing(&look(&vault(nobody)), "vault.invalid", "`getent hosts vault.invalid`");
    missing(
        &look(&vault("https://127.0.0.1:1")),
        "can't connect",
        "`curl -k https://127.0.0.1:1/v1/sys/health`",
    );
}

#[test]
fn doctor_looks_for_the_programs_of_a_mesh_file_and_the_ports_that_it_publishes() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let services = format!(
        "web: {{run: [./web.sh], ports: {{8080: http}}, publish: {{8080: '{address}'}}}}\n\
         db: {{run: [no-such-database]}}\nlab: {{run: [sleep, infinity]}}\n"
    );
    let file = MeshFile::new(&services, "").unwrap();
    let script = file.write("web.sh", "#!/bin/sh\nexec sleep infinity\n").unwrap();
    let look = || {
        let mut doctor = watchword();
        doctor.args(["doctor", "-o", "json", "--mesh-file"]);
        let finished = doctor.arg(file.folder().join("mesh.yaml")).output().unwrap();
        let missing = |finding: &Value| finding["state"] == "missing";
        let found = findings(&finished).into_iter().filter(missing);
        found
            .map(|finding| finding["seen"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    let [database, script_found, port] = <[String; 3]>::try_from(look()).unwrap();
    assert_eq!(database, "db: no folder of PATH has the program `no-such-database`");
    let shown = file.folder().join("./web.sh");
    assert_eq!(script_found, format!("web: {} is no executable file", shown.display()));
    assert!(
        port.contains("web can't be published") && port.contains("ss -ltnp"),
        "{port}"
    );
    drop(taken);
    std::fs::set_permissions(&script, PermissionsExt::from_mode(0o755)).unwrap();
    assert_eq!(look(), [database]);
}

#[test]
fn doctor_asks_vault_whether_it_is_sealed_and_what_time_it_is() {
    let vault = Vault::start().unwrap();
    let (role_id, secret_id) = vault.app_role(&[]).unwrap();
    let auth = format!(
        "{{appRole: {{roleIdFile: {}, secretIdFile: {}}}}}",
        role_id.display(),
        secret_id.display()
    );
    let file = mesh_file_with(&vault.authority(&auth));
    let look = || {
        let mut doctor = watchword();
        doctor.args(["doctor", "-o", "json", "--mesh-file"]);
        findings(&doctor.arg(file.folder().join("mesh.yaml")).output().unwrap())
    };
    let of = |found: &[Value], check: &str| found.iter().find(|it| it["check"] == check).unwrap().clone();
    let found = look();
    assert_eq!(of(&found, "Vault")["state"], "good", "{found:#?}");
    assert_eq!(of(&found, "Vault's clock")["state"], "good", "{found:#?}");
    vault.seal().unwrap();
    let sealed = of(&look(), "Vault");
    assert_eq!(sealed["state"], "missing");
    let mend = format!("`vault operator unseal -address={}`", vault.address());
    assert_eq!(sealed["mend"], mend, "{sealed}");
}

/// Runs a command on a terminal of its own, and prints what arrives there.
const ON_A_TERMINAL: &str = r#"
import os, pty, sys
pid, terminal = pty.fork()
if pid == 0:
    os.execvp(sys.argv[1], sys.argv[1:])
said = b""
try:
    while data := os.read(terminal, 4096):
        said += data
except OSError:
    pass
os.waitpid(pid, 0)
sys.stdout.buffer.write(said)
"#;

#[test]
fn a_terminal_without_colour_gets_none() {
    let on_terminal = |terminal: &str, no_colour: &str| {
        let mut command = Command::new("python3");
        command.args(["-c", ON_A_TERMINAL]);
        command.arg(binary("watchword").unwrap()).arg("doctor");
        // Machines that run tests set these, and each of them asks for colour.
        for asks_for_colour in ["CI", "CLICOLOR", "CLICOLOR_FORCE"] {
            command.env_remove(asks_for_colour);
        }
        watchword_tests::run(command.env("TERM", terminal).env("NO_COLOR", no_colour)).unwrap()
    };
    assert!(
        on_terminal("xterm", "").contains('\u{1b}'),
        "the test must be able to fail"
    );
    for (terminal, no_colour) in [("dumb", ""), ("xterm", "1")] {
        let said = on_terminal(terminal, no_colour);
        assert!(said.contains("good") && !said.contains('\u{1b}'), "{said}");
    }
}
