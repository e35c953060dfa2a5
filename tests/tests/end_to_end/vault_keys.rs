//! Where private keys are, and where they are not: with Vault as the
//! authority in no file that belongs to the mesh.

use watchword_tests::{Mesh, Vault, keys};

use crate::apps::{curl, mesh, mesh_file_with};
use crate::vault::app_role;

/// The control plane and all sidecars.
fn daemons(mesh: &Mesh) -> Vec<i64> {
    let record = mesh.record().unwrap();
    let replicas = record["replicas"].as_array().unwrap();
    let sidecars = replicas.iter().map(|replica| replica["proxyPid"].as_i64().unwrap());
    sidecars
        .chain([i64::from(mesh.control_plane().unwrap().as_raw())])
        .collect()
}

/// The control plane's own key is among those that are in memory only.
#[test]
fn no_file_of_the_mesh_and_none_that_a_daemon_has_open_holds_a_private_key_when_vault_signs() {
    let vault = Vault::start().unwrap();
    let mesh = mesh_file_with(&vault.authority(&app_role(&vault))).up().unwrap();
    mesh.exec_ok("web", &curl(&["http://orders:8080/"])).unwrap();
    let run_folder = mesh.run_folder().unwrap();
    assert_eq!(keys::keys_below(&run_folder).unwrap(), []);
    assert_eq!(keys::keys_below(mesh.file().folder()).unwrap(), []);
    assert!(
        run_folder.join("state").is_dir(),
        "the state is not where it was looked for"
    );

    let pids = daemons(&mesh);
    assert_eq!(pids.len(), 4);
    let opened = keys::opened_by(Some(&mesh), &pids).unwrap();
    assert_eq!(opened.unreadable, [""; 0]);
    for program in ["watchword-proxy", "watchword-control-plane", "libc.so.6"] {
        let is_seen = opened.files.keys().any(|file| file.ends_with(program));
        assert!(is_seen, "{program} is mapped, and was not looked at: {opened:#?}");
    }
    assert!(opened.files.values().all(Option::is_none), "{opened:#?}");
}

/// Shows that the search can fail: the embedded authority keeps its keys in
/// files, and a file that a process has open is looked into.
#[test]
fn the_search_for_keys_finds_those_of_the_embedded_authority_and_open_ones() {
    let mesh = mesh();
    let found = keys::keys_below(&mesh.run_folder().unwrap()).unwrap();
    let names: Vec<_> = found
        .iter()
        .map(|(file, kind)| (file.file_name().unwrap().to_str().unwrap(), *kind))
        .collect();
    assert!(names.contains(&("root-key.pem", "PEM")), "{names:?}");
    assert!(names.contains(&("intermediate.pem", "PEM")), "{names:?}");

    let planted = mesh.file().folder().join("planted.der");
    std::fs::write(&planted, rcgen::KeyPair::generate().unwrap().serialize_der()).unwrap();
    let held = std::fs::File::open(&planted).unwrap();
    // By its descriptor alone: the name is gone.
    std::fs::remove_file(&planted).unwrap();
    let opened = keys::opened_by(None, &[i64::from(std::process::id())]).unwrap();
    drop(held);
    let planted = opened.files.iter().find(|(file, _)| file.contains("planted.der"));
    assert_eq!(planted.unwrap().1, &Some("PKCS#8 of P-256"));
}
