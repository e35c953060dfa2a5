//! Where the socket may lie, and what it may replace.
#![allow(clippy::unwrap_used)]

use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;

use watchword_daemon::MAX_SOCKET_PATH;

use super::*;

/// A folder of ours with this mode, and the path of a socket in it.
fn place(mode: u32) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(mode)).unwrap();
    let path = folder.path().join("workload.sock");
    (folder, path)
}

fn refusal(path: &Path) -> String {
    format!("{:#}", bind(path).unwrap_err())
}

#[tokio::test]
async fn everybody_may_connect_and_nobody_else_may_write_to_the_folder() {
    for mode in [0o700, 0o755, 0o711, 0o1755] {
        let (_folder, path) = place(mode);
        let _listener = bind(&path).unwrap();
        let bound = fs::metadata(&path).unwrap();
        assert!(bound.file_type().is_socket() && bound.mode() & 0o7777 == 0o666);
        UnixStream::connect(&path).await.unwrap();
    }
    for mode in [0o777, 0o1777, 0o775, 0o757, 0o720, 0o702] {
        let (folder, path) = place(mode);
        let message = refusal(&path);
        let folder = folder.path().display();
        assert_eq!(
            message,
            format!(
                "the workload socket's folder {folder} may be written to by others (mode {mode:o}), who could put \
                 another socket there: chmod go-w {folder}"
            )
        );
        assert!(!path.exists());
    }
}

#[tokio::test]
async fn a_folder_that_is_not_there_or_is_none_is_named() {
    let (folder, _) = place(0o755);
    let missing = folder.path().join("missing");
    let file = folder.path().join("file");
    fs::write(&file, "").unwrap();
    let message = refusal(&missing.join("workload.sock"));
    assert!(
        message.contains(&format!("{} can't be looked at", missing.display())),
        "{message}"
    );
    let message = refusal(&file.join("workload.sock"));
    assert!(message.contains(&*file.to_string_lossy()), "{message}");
}

#[tokio::test]
async fn the_longest_path_is_taken_and_a_longer_one_refused() {
    let (folder, _) = place(0o755);
    let room = MAX_SOCKET_PATH - folder.path().as_os_str().len() - 1;
    drop(bind(&folder.path().join("s".repeat(room))).unwrap());
    let long = folder.path().join("s".repeat(room + 1));
    assert_eq!(
        refusal(&long),
        format!(
            "the workload socket's path {} is longer than 107 bytes: choose a shorter one, by `workloadApi.socket`",
            long.display()
        )
    );
}

#[tokio::test]
async fn a_socket_that_is_served_is_left_alone_and_one_that_was_left_behind_is_replaced() {
    let (_folder, path) = place(0o755);
    let first = bind(&path).unwrap();
    let message = refusal(&path);
    assert!(message.starts_with("another process serves "), "{message}");
    let connects = async || UnixStream::connect(&path).await.is_ok();
    assert!(connects().await);
    drop(first);
    assert!(path.exists() && !connects().await);
    let _second = bind(&path).unwrap();
    assert!(connects().await);
}

#[tokio::test]
async fn what_is_no_socket_of_ours_is_kept_and_named() {
    let (folder, path) = place(0o755);
    let is_named = |what: &str| {
        let message = refusal(&path);
        assert!(
            message.starts_with(&format!("{} is there already", path.display())),
            "{message}"
        );
        assert!(message.contains(what), "{message}");
    };
    fs::write(&path, "precious").unwrap();
    is_named("no socket");
    assert_eq!(fs::read(&path).unwrap(), b"precious");

    fs::remove_file(&path).unwrap();
    std::os::unix::fs::symlink(folder.path().join("elsewhere"), &path).unwrap();
    is_named("no socket");
    assert!(fs::symlink_metadata(&path).unwrap().is_symlink());

    fs::remove_file(&path).unwrap();
    let theirs = UnixDatagram::bind(&path).unwrap();
    is_named("can't be told");
    UnixDatagram::unbound().unwrap().send_to(b"still there", &path).unwrap();
    assert_eq!(theirs.recv(&mut [0; 16]).unwrap(), 11);
}

#[test]
fn one_user_has_so_many_connections_and_others_are_not_kept_from_theirs() {
    let places = Places::default();
    let mut taken: Vec<_> = (0..MAX_CONNECTIONS_OF_USER).map(|_| places.take(7).unwrap()).collect();
    assert!(places.take(7).is_none());
    assert!(places.take(8).is_some());
    taken.pop();
    taken.push(places.take(7).unwrap());
    drop(taken);
    assert!(places.0.lock().unwrap().is_empty());
}
