//! Sidecars with several threads that carry traffic.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use watchword_tests::{Mesh, MeshFile, binary};

use crate::load::{Load, mesh_file};
use crate::strangers::replica;
use crate::tunnels::assert_restart_loses_nothing;

/// Sidecars get two workers, which no mesh file asks for.
const TWO_WORKERS: &str = r#"#!/bin/sh
set -eu
if [ "$1 ${2:-}" = "run --config" ]; then
    with=$(mktemp -p "FOLDER/configs")
    sed '1s/{/{"workers": 2,/' "$3" >"$with"
    set -- run --config "$with"
fi
exec "FOLDER/proxy" "$@"
"#;

/// Where the proxy is one that asks for them.
fn with_two_workers(file: MeshFile) -> Mesh {
    let proxy = binary("watchword-proxy").unwrap();
    file.open_folder("configs").unwrap();
    fs::copy(&proxy, file.folder().join("proxy")).unwrap();
    let script = TWO_WORKERS.replace("FOLDER", &file.folder().display().to_string());
    let wrapper = file.write("two-workers", &script).unwrap();
    fs::set_permissions(&wrapper, fs::Permissions::from_mode(0o755)).unwrap();
    let changes = format!("mount --bind {} {}\n", wrapper.display(), proxy.display());
    file.on_machine(changes).up().unwrap()
}

/// Nanoseconds of CPU of each worker so far.
fn spent(mesh: &Mesh, name: &str) -> BTreeMap<String, u64> {
    let pid = replica(mesh, name)["proxyPid"].as_i64().unwrap();
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    // A thread that ends meanwhile is none of them.
    let read = |task: &fs::DirEntry, file: &str| fs::read_to_string(task.path().join(file)).ok();
    let workers = tasks.flatten().filter_map(|task| {
        let name = read(&task, "comm")?;
        let nanoseconds = read(&task, "schedstat")?.split(' ').next()?.parse().ok()?;
        Some((name.trim().to_owned(), nanoseconds))
    });
    workers.filter(|(name, _)| name.starts_with("worker-")).collect()
}

#[test]
fn connections_are_spread_over_the_workers_of_a_sidecar() {
    let mesh = with_two_workers(mesh_file("", 1));
    let before = spent(&mesh, "web-1");
    assert_eq!(before.keys().collect::<Vec<_>>(), ["worker-0", "worker-1"]);
    let done = Load::start(&mesh, "orders", &["short", "1000", "8"]).done_without_loss(&mesh);
    assert_eq!(done, 1_000);
    let after = spent(&mesh, "web-1");
    let carried: Vec<_> = after.iter().map(|(name, spent)| spent - before[name]).collect();
    // Whoever is free has the next: half of them each, more or less.
    let least = carried.iter().min().unwrap();
    assert!(least * 10 > carried.iter().sum(), "{carried:?}");
}

#[test]
fn a_sidecar_with_two_workers_that_is_restarted_in_order_loses_nothing() {
    assert_restart_loses_nothing(&with_two_workers(mesh_file("", 2)));
}
