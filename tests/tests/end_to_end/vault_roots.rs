//! Issuers and roots that change in Vault while a mesh runs and calls go on.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::Value;
use watchword_tests::{MOUNT, Mesh, OfflineAuthority, Vault, openssl, run, wait_until};

use crate::load::{Load, mesh_file};
use crate::strangers::{TLS_CLIENT, address, on_the_switch};

/// A Vault whose leaves live for eight seconds, and a mesh with them.
fn mesh(vault: &Vault) -> Mesh {
    vault.role("mesh", &["max_ttl=8s"]).unwrap();
    let token = vault.token_file(&[]).unwrap();
    let auth = format!("{{tokenFile: {}}}", token.display());
    mesh_file(&vault.authority(&auth), 1).up().unwrap()
}

/// What a sidecar sends to whoever calls it, in order.
fn sent(mesh: &Mesh, replica: &str) -> String {
    let target = format!("{}:9000", address(mesh, replica, 0));
    let ask = [
        "openssl",
        "s_client",
        "-connect",
        &target,
        "-alpn",
        "watchword/1",
        "-showcerts",
    ];
    // It ends in an error, since we have no certificate.
    let said = on_the_switch(mesh, &ask).output().unwrap();
    let text = String::from_utf8_lossy(&said.stdout).into_owned();
    let mut chain = String::new();
    for piece in text.split("-----BEGIN CERTIFICATE-----").skip(1) {
        let body = piece.split("-----END").next().unwrap();
        chain += &format!("-----BEGIN CERTIFICATE-----{body}-----END CERTIFICATE-----\n");
    }
    chain
}

fn certificates(chain: &str) -> usize {
    chain.matches("BEGIN").count()
}

/// Whether OpenSSL takes the chain with this root alone, as any stranger would.
fn verifies(chain: &str, root: &str) -> bool {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("chain.pem"), chain).unwrap();
    fs::write(folder.path().join("root.pem"), root).unwrap();
    openssl(
        "verify -no-CApath -no-CAstore -CAfile root.pem -untrusted chain.pem chain.pem",
        folder.path(),
    )
    .is_ok_and(|said| said.contains("OK"))
}

fn told(mesh: &Mesh, what: &str) {
    mesh.output().wait_for(what, |line| line.contains(what)).unwrap();
}

fn bundle_file(mesh: &Mesh) -> String {
    fs::read_to_string(mesh.run_folder().unwrap().join("bundle.pem")).unwrap()
}

/// Calls without a pause while `change` goes on, and none may be lost.
fn while_calls_go_on(mesh: &Mesh, change: impl FnOnce()) {
    let over = AtomicBool::new(false);
    struct Over<'a>(&'a AtomicBool);
    impl Drop for Over<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    std::thread::scope(|scope| {
        let calls = scope.spawn(|| {
            let mut done = 0;
            while !over.load(Ordering::Relaxed) {
                done += Load::start(mesh, "orders", &["short", "2s", "2"]).done_without_loss(mesh);
            }
            done
        });
        {
            let _over = Over(&over);
            change();
        }
        assert!(calls.join().unwrap() > 20);
    });
}

#[test]
fn a_new_intermediate_of_the_same_root_is_used_at_once_and_no_call_is_lost() {
    let vault = Vault::start().unwrap();
    let mesh = mesh(&vault);
    let root = fs::read_to_string(vault.root_file()).unwrap();
    let bundle = bundle_file(&mesh);
    while_calls_go_on(&mesh, || {
        for name in ["second", "third"] {
            let issuer = vault.add_issuer(name, |request| vault.sign_by_root(request)).unwrap();
            vault.sign_by(&issuer).unwrap();
            let read = format!("{MOUNT}/issuer/{issuer}");
            let issuer = vault.run(&["read", "-field=certificate", &read]).unwrap();
            let body = issuer.lines().nth(1).unwrap().to_owned();
            for replica in ["orders-1", "web-1"] {
                wait_until("its leaf to be the new issuer's", || {
                    sent(&mesh, replica).contains(&body)
                })
                .unwrap();
                assert!(verifies(&sent(&mesh, replica), &root));
            }
        }
    });
    assert_eq!(bundle_file(&mesh), bundle);
    assert!(!mesh.output().text().contains("new roots are in force"));
}

#[test]
fn a_root_is_replaced_in_two_steps_and_no_call_is_lost() {
    let vault = Vault::start().unwrap();
    vault.role("long", &[]).unwrap();
    let mesh = mesh(&vault);
    let old = fs::read_to_string(vault.root_file()).unwrap();
    // Three tiers: the keys of root and intermediate are gone before the first leaf.
    let offline = OfflineAuthority::root("new root").unwrap();
    let intermediate = offline.intermediate("new intermediate").unwrap();
    let new = offline.certificate().unwrap();
    let issuer = vault
        .add_issuer("new issuing", |request| {
            Ok(intermediate.sign(request)? + &intermediate.certificate()?)
        })
        .unwrap();
    drop((offline, intermediate));
    let mut stranger = String::new();

    while_calls_go_on(&mesh, || {
        vault.write("root.pem", &[old.as_str(), "\n", &new].concat()).unwrap();
        told(&mesh, "new roots are in force");
        wait_until("both roots in bundle.pem", || certificates(&bundle_file(&mesh)) == 2).unwrap();

        let before = vault.sign_by(&issuer).unwrap();
        for replica in ["orders-1", "web-1"] {
            wait_until("a chain that the new root alone vouches for", || {
                let chain = sent(&mesh, replica);
                certificates(&chain) == 3 && verifies(&chain, &new) && !verifies(&chain, &old)
            })
            .unwrap_or_else(|error| panic!("{error}\n{}", mesh.output().text()));
        }
        stranger = certificate_by(&vault, &before);

        vault.write("root.pem", &new).unwrap();
        mesh.output()
            .wait_for("the old root to be gone", |line| {
                line.contains("new roots are in force") && line.contains("removed=1")
            })
            .unwrap();
        wait_until("one root in bundle.pem", || certificates(&bundle_file(&mesh)) == 1).unwrap();
        wait_until("all proxies to have taken it", || acknowledged(&mesh, "bundle") >= 3).unwrap();
        for replica in ["orders-1", "web-1"] {
            let chain = sent(&mesh, replica);
            wait_until("one more certificate", || {
                let next = sent(&mesh, replica);
                !next.is_empty() && next != chain
            })
            .unwrap();
        }
    });

    let file = mesh.file().write("stranger.pem", &stranger).unwrap();
    let (target, file) = (address(&mesh, "orders-1", 0), file.display().to_string());
    let client = ["python3", "-c", TLS_CLIENT, &target, "9000", "watchword/1", &file];
    let printed = run(&mut on_the_switch(&mesh, &client)).unwrap();
    assert!(
        printed.starts_with("REFUSED") || printed.starts_with("ANSWER b''"),
        "{printed}"
    );
    told(&mesh, "reason=untrusted-issuer");
    assert!(!mesh.output().text().contains("not acknowledged"));
}

/// A good leaf of `web`'s with its key, by an issuer of Vault's.
fn certificate_by(vault: &Vault, issuer: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    let words = "req -new -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout key.pem -subj /CN=web";
    let request = format!("csr={}", openssl(words, folder.path()).unwrap());
    let path = format!("{MOUNT}/issuer/{issuer}/sign/long");
    let sign = [
        "write",
        "-format=json",
        &path,
        &request,
        "uri_sans=spiffe://example.org/web",
        "ttl=1h",
    ];
    let answer: Value = serde_json::from_str(&vault.run(&sign).unwrap()).unwrap();
    let text = |name: &str| answer["data"][name].as_str().unwrap().to_owned() + "\n";
    let key = fs::read_to_string(folder.path().join("key.pem")).unwrap();
    text("certificate") + &text("issuing_ca") + &key
}

/// The oldest version that a proxy acknowledged last.
fn acknowledged(mesh: &Mesh, kind: &str) -> u64 {
    let text = mesh.output().text();
    let of = |name: &str| {
        let lines = text.lines().filter(|line| {
            line.contains("snapshot in force") && line.contains(&format!("kind={kind}")) && line.contains(name)
        });
        let versions = lines.filter_map(|line| line.split("version=").nth(1)?.split_whitespace().next()?.parse().ok());
        versions.max().unwrap_or_default()
    };
    ["orders-1", "web-1"].map(of).into_iter().min().unwrap_or_default()
}

#[test]
fn a_bad_root_file_changes_nothing_and_is_told_once_with_what_to_do() {
    let vault = Vault::start().unwrap();
    let mesh = mesh(&vault);
    let good = fs::read_to_string(vault.root_file()).unwrap();
    let bundle = bundle_file(&mesh);
    let other = OfflineAuthority::root("other").unwrap().certificate().unwrap();
    let refused = |what: &str| {
        mesh.output()
            .wait_for(what, |line| {
                line.contains("rootFile is not taken over") && line.contains(what)
            })
            .unwrap();
    };
    vault.write("root.pem", "no certificate\n").unwrap();
    refused("has no root");
    vault.write("root.pem", &other).unwrap();
    refused("put the old and the new roots into it first");
    fs::remove_file(vault.root_file()).unwrap();
    refused("No such file");
    Load::start(&mesh, "orders", &["short", "20", "2"]).done_without_loss(&mesh);
    vault
        .write("root.pem", &[good.as_str(), "\n", &other].concat())
        .unwrap();
    told(&mesh, "new roots are in force");
    assert_eq!(mesh.output().text().matches("rootFile is not taken over").count(), 3);
    wait_until("bundle.pem", || bundle_file(&mesh) != bundle).unwrap();
}
