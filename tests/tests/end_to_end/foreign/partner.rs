//! A partner: another trust domain, with a control plane and roots of its own.

use std::process::Command;

use watchword_tests::{Agent, Mesh, MeshFile};

use super::{printed, run};
use crate::apps::{SERVER, complaint};
use crate::workload_api::Watch;

/// Calls from `guest`, which is in this mesh's network, but may have another
/// mesh's identity.
const SERVICES: &str = "\
web: {run: [python3, server.py, '8080', web], ports: {8080: http}, healthy: {port: 8080}}
guest: {run: [sleep, infinity], peer: mtls}
";
const POLICIES: &str = "\
name: web
service: spiffe://example.org/web
allow:
  - {name: the partner orders, from: [spiffe://partner.example/shop], ports: [8080], http: [{paths: [/orders]}]}
";
const PARTNERS: &str = "name: web\nservice: spiffe://partner.example/web\nallow: []\n";
const REGISTRY: &str = "registry: [{id: spiffe://partner.example/shop}, {id: spiffe://partner.example/office}]";

fn bundle(mesh: &Mesh) -> String {
    std::fs::read_to_string(mesh.run_folder().unwrap().join("bundle.pem")).unwrap()
}

/// Somebody's root, to stand where a partner's will.
fn placeholder(file: &MeshFile) {
    let pem = file.folder().join("partner.pem");
    let mut openssl = Command::new("openssl");
    openssl
        .args([
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            "-keyout",
            "/dev/null",
        ])
        .args(["-subj", "/CN=nobody", "-days", "1", "-out"])
        .arg(pem);
    watchword_tests::run(&mut openssl).unwrap();
}

/// This mesh, which trusts the partner that it returns, as soon as it has
/// heard of its roots; and the other way round.
fn meshes() -> (Mesh, Mesh) {
    let ours = MeshFile::with("trustBundles: {partner.example: partner.pem}", SERVICES, POLICIES).unwrap();
    ours.write("server.py", SERVER).unwrap();
    ours.lend("spiffe-go").unwrap();
    placeholder(&ours);
    let top = format!("trustBundles: {{example.org: partner.pem}}\n{REGISTRY}");
    let theirs = MeshFile::of_domain("partner.example", &top, "web: {run: [sleep, infinity]}\n", PARTNERS).unwrap();
    placeholder(&theirs);
    let (ours, theirs) = (ours.up().unwrap(), theirs.up().unwrap());
    for (mesh, partner) in [(&ours, &theirs), (&theirs, &ours)] {
        mesh.file().write("partner.pem", &bundle(partner)).unwrap();
        mesh.output()
            .wait_for("the partner's roots", |line| {
                line.starts_with("web-1 sidecar")
                    && line.contains("snapshot in force")
                    && line.contains("kind=bundle")
                    && line.contains("version=2")
            })
            .unwrap();
    }
    (ours, theirs)
}

/// Calls as `id` of the partner's.
fn call(ours: &Mesh, agent: &Agent, path: &str) -> std::process::Output {
    let endpoint = format!("SPIFFE_ENDPOINT_SOCKET={}", agent.endpoint());
    let url = format!("https://web:8080{path}");
    run(
        ours,
        "guest",
        &[
            "env",
            &endpoint,
            "./spiffe-go",
            "call",
            &url,
            "spiffe://example.org/web",
        ],
    )
}

#[test]
fn a_partners_workload_calls_under_our_policies_and_is_not_told_their_names() {
    let (ours, theirs) = meshes();
    let any = "[{uid: any}]";
    let shop = Agent::start(&theirs, "spiffe://partner.example/shop", any).unwrap();
    shop.show_to_others().unwrap();
    assert_eq!(printed(&call(&ours, &shop, "/orders")).trim(), "hello from web /orders");
    let office = Agent::start(&theirs, "spiffe://partner.example/office", any).unwrap();
    office.show_to_others().unwrap();
    for (agent, path) in [(&shop, "/secrets"), (&office, "/orders")] {
        let denied = complaint(&call(&ours, agent, path));
        assert!(denied.contains("403") && !denied.contains("partner orders"), "{denied}");
        assert!(!denied.contains("\"web\""), "{denied}");
    }
    ours.output()
        .wait_for("the denial in our log", |line| {
            line.contains("client_id=spiffe://partner.example/office") && line.contains("decision=deny")
        })
        .unwrap();
}

#[test]
fn a_change_of_a_partners_roots_is_pushed_to_programs_without_a_new_certificate() {
    let (ours, _theirs) = meshes();
    let program = ours.file().folder().join("spiffe-go");
    let watch = Watch::start(
        ours.exec_command("guest", &[program.to_str().unwrap(), "watch"])
            .unwrap(),
    );
    let before = watch.updates(1);
    assert_eq!(
        before[0]["trustDomains"],
        serde_json::json!(["example.org", "partner.example"])
    );
    placeholder(ours.file());
    assert_eq!(watch.updates(2)[1], before[0]);
}

#[test]
fn a_partner_whose_roots_are_taken_away_is_cut_off_and_our_own_calls_go_on() {
    let (ours, theirs) = meshes();
    let shop = Agent::start(&theirs, "spiffe://partner.example/shop", "[{uid: any}]").unwrap();
    shop.show_to_others().unwrap();
    assert_eq!(printed(&call(&ours, &shop, "/orders")).trim(), "hello from web /orders");
    placeholder(ours.file());
    ours.output()
        .wait_for("other roots", |line| {
            line.starts_with("web-1 sidecar")
                && line.contains("snapshot in force")
                && line.contains("kind=bundle")
                && line.contains("version=3")
        })
        .unwrap();
    watchword_tests::wait_until("the refusal", || !call(&ours, &shop, "/orders").status.success()).unwrap();
    ours.output()
        .wait_for("why", |line| line.contains("reason=untrusted-issuer"))
        .unwrap();
}
