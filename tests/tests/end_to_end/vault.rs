//! A mesh whose certificates a real Vault signs.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};

use crate::apps::{curl, mesh_file_with};
use watchword_tests::{Administrator, Mesh, Vault, keys, wait_until};

/// Of all lines of the log that say so.
pub(crate) fn issued(mesh: &Mesh) -> Vec<String> {
    let text = mesh.output().text();
    let lines = text
        .lines()
        .filter(|line| line.contains("issued") && line.contains("serial="));
    lines
        .filter_map(|line| line.split("serial=").nth(1)?.split_whitespace().next())
        .map(|serial| serial.trim_matches('"').to_owned())
        .collect()
}

/// The mesh file's `auth`, with the files of a new AppRole.
pub(crate) fn app_role(vault: &Administrator) -> String {
    let (role_id, secret_id) = vault.app_role(&[]).unwrap();
    format!(
        "{{appRole: {{roleIdFile: {}, secretIdFile: {}}}}}",
        role_id.display(),
        secret_id.display()
    )
}

/// Every leaf that the mesh issued stands in Vault's audit log, once.
pub(crate) fn assert_signed_once(vault: &Administrator, mesh: &Mesh) {
    // In this order: Vault signs before the mesh tells it.
    let issued = issued(mesh);
    let signed = vault.signed().unwrap();
    for serial in &issued {
        assert_eq!(signed.iter().filter(|found| *found == serial).count(), 1, "{serial}");
    }
}

#[test]
fn vault_signs_every_leaf_and_may_be_sealed_for_a_while() {
    let vault = Vault::start().unwrap();
    // The mesh asks for an hour, which it is told about.
    vault.role("mesh", &["max_ttl=20s"]).unwrap();
    let (role_id, secret_id) = vault.app_role(&[]).unwrap();
    let auth = format!(
        "{{appRole: {{roleIdFile: {}, secretIdFile: {}}}}}",
        role_id.display(),
        secret_id.display()
    );
    let mesh = mesh_file_with(&vault.authority(&auth)).up().unwrap();
    let call = || mesh.exec_ok("web", &curl(&["http://orders:8080/"])).unwrap();
    call();
    mesh.output()
        .wait_for("why certificates are short", |line| {
            line.contains("Vault shortens certificates") && line.contains("asked_s=3600")
        })
        .unwrap();
    // Not by `wait_for`, which holds the log that `issued` reads.
    wait_until("a renewal", || issued(&mesh).len() > 5).unwrap();

    vault.seal().unwrap();
    mesh.output()
        .wait_for("a renewal that fails", |line| {
            line.contains("not issued") && line.contains("503: Vault is sealed")
        })
        .unwrap();
    call();
    vault.unseal().unwrap();
    let before = issued(&mesh).len();
    wait_until("renewals after the unsealing", || {
        call();
        issued(&mesh).len() > before + 4
    })
    .unwrap_or_else(|error| panic!("{error}\n{}", mesh.output().text()));

    assert_signed_once(&vault, &mesh);
    let found = keys::files_below(&mesh.run_folder().unwrap()).unwrap();
    assert!(found.len() > 3, "{found:?}");
    let secrets = [&role_id, &secret_id].map(|file| fs::read_to_string(file).unwrap().trim().to_owned());
    for file in found {
        let bytes = fs::read(&file).unwrap();
        let text = String::from_utf8_lossy(&bytes);
        assert!(
            !secrets.iter().any(|secret| text.contains(secret)),
            "{}",
            file.display()
        );
    }
    let log = mesh.output().text();
    assert!(!log.contains("hvs.") && !secrets.iter().any(|secret| log.contains(secret)));
}

const PAGE: &str = include_str!("../../../docs/vault.md");

fn shown(heading: &str, kind: &str) -> &'static str {
    watchword_tests::shown(PAGE, heading, kind).unwrap()
}

/// PEM: an authority, and a certificate of it with its key.
fn client_of_an_authority() -> [String; 3] {
    let mut root = CertificateParams::default();
    root.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let root_key = KeyPair::generate().unwrap();
    let authority = root.self_signed(&root_key).unwrap().pem();
    let mut client = CertificateParams::default();
    client.distinguished_name.push(DnType::CommonName, "control-plane");
    client.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    let key = KeyPair::generate().unwrap();
    let certificate = client.signed_by(&key, &Issuer::new(root, root_key)).unwrap();
    [authority, certificate.pem(), key.serialize_pem()]
}

#[test]
fn the_commands_of_the_vault_page_make_a_vault_that_signs_for_a_mesh() {
    let vault = Vault::start_empty(&[]).unwrap();
    let addresses = "[https://vault-1.example.org:8200, https://vault-2.example.org:8200]";
    let set_up = "## Setting it up";
    let authority = shown(set_up, "yaml");
    assert!(
        authority.contains(addresses) && authority.contains("vault-ca.pem"),
        "{authority}"
    );
    let authority = authority
        .replace(addresses, &format!("[{}]", vault.address()))
        .replace("vault-ca.pem", &vault.ca_file().display().to_string());
    let file = mesh_file_with(&authority);
    vault.run_script(shown(set_up, "sh"), file.folder()).unwrap();
    let role = "auth/approle/role/watchword";
    let role_id = vault
        .run(&["read", "-field=role_id", &format!("{role}/role-id")])
        .unwrap();
    let secret_id = ["write", "-f", "-field=secret_id", &format!("{role}/secret-id")];
    file.write("role-id", &role_id).unwrap();
    file.write("secret-id", &vault.run(&secret_id).unwrap()).unwrap();
    let mesh = file.up().unwrap();
    mesh.exec_ok("web", &curl(&["http://orders:8080/"])).unwrap();
    assert_eq!(mesh.status().unwrap()["control_plane"]["authority"], "vault");
    drop(mesh);

    // The same mesh, by the page's other login.
    let login = "### Login by certificate";
    let app_role = "    auth: {appRole: {roleIdFile: role-id, secretIdFile: secret-id}}\n";
    assert!(authority.contains(app_role), "{authority}");
    let file = mesh_file_with(&authority.replace(app_role, shown(login, "yaml")));
    let [authority, certificate, key] = client_of_an_authority();
    file.write(
        "root.pem",
        &vault.run(&["read", "-field=certificate", "root/cert/ca"]).unwrap(),
    )
    .unwrap();
    file.write("clients-ca.pem", &authority).unwrap();
    file.write("client.pem", &certificate).unwrap();
    let key = file.write("client.key", &key).unwrap();
    fs::set_permissions(key, fs::Permissions::from_mode(0o600)).unwrap();
    vault.run_script(shown(login, "sh"), file.folder()).unwrap();
    let mesh = file.up().unwrap();
    mesh.exec_ok("web", &curl(&["http://orders:8080/"])).unwrap();
}
