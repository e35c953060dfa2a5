//! A mesh whose control plane shows Vault a certificate.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::apps::{curl, mesh_file_with};
use watchword_tests::{Mesh, Vault};

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

fn wait_for(mesh: &Mesh, parts: &[&str]) {
    let wanted = |line: &str| parts.iter().all(|part| line.contains(part));
    mesh.output().wait_for(&format!("{parts:?}"), wanted).unwrap();
}

#[test]
fn a_mesh_logs_in_by_certificate_and_bad_files_after_it_are_told_without_the_key() {
    let vault = Vault::start().unwrap();
    let client = rcgen::generate_simple_self_signed(vec!["control-plane".into()]).unwrap();
    vault.certificate_login(&client.cert.pem(), &[]).unwrap();
    // Renewed often, so that the files are looked at often.
    vault.role("mesh", &["max_ttl=10s"]).unwrap();
    let certificate = vault.write("client.pem", &client.cert.pem()).unwrap();
    let key_text = client.signing_key.serialize_pem();
    let key = vault.write("client.key", &key_text).unwrap();
    set_mode(&key, 0o600);
    let files = format!("certFile: {}, keyFile: {}", certificate.display(), key.display());
    let mesh = mesh_file_with(&vault.authority(&format!("{{certificate: {{role: mesh}}}}, {files}")))
        .up()
        .unwrap();
    wait_for(&mesh, &["logged in to Vault", "certificate"]);

    set_mode(&key, 0o604);
    wait_for(&mesh, &["client.key: its mode is 0604", "the_one_before_serves=true"]);
    // The first two lines as one: a parser of PEM quotes it, as a list of numbers.
    vault.write("client.pem", &key_text.replacen("-----\n", "", 1)).unwrap();
    set_mode(&key, 0o600);
    wait_for(
        &mesh,
        &["client.pem: no certificate in PEM", "the_one_before_serves=true"],
    );
    vault.write("client.pem", &client.cert.pem()).unwrap();
    wait_for(&mesh, &["Vault is shown a new certificate"]);
    mesh.exec_ok("web", &curl(&["http://orders:8080/"])).unwrap();

    let log = mesh.output().text();
    assert!(!log.contains("hvs."), "{log}");
    for line in key_text.lines() {
        let numbers = format!("{:?}", line.as_bytes());
        let numbers = numbers.trim_matches(['[', ']']);
        assert!(!log.contains(line) && !log.contains(numbers), "{log}");
    }
}
