#![allow(clippy::unwrap_used, clippy::panic)]

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::time::Duration;

use super::*;
use crate::stillness::{LOOK_AGAIN, STANDS_STILL};
use crate::testing::root;

const MESH: &str =
    "trustDomain: example.org\npolicies: [policies]\nservices: {web: {ports: {80: http}, endpoints: []}}\n";
const POLICY: &str = "name: NAME\nservice: spiffe://example.org/web\nallow: [{from: [spiffe://example.org/web]}]\n";
/// In the time of the test's clock.
const LONG: Duration = Duration::from_secs(60);

fn policy(name: &str) -> String {
    POLICY.replace("NAME", name)
}

/// As a careful editor does: a new file is renamed over the old one.
fn replace(folder: &Path, name: &str, text: &str) {
    crate::state_folder::write_atomic(&folder.join(name), text.as_bytes(), 0o644).unwrap();
}

/// A mesh with one policy, `one`, in `policies/a.yaml`, seen and at rest.
async fn begin() -> (tempfile::TempDir, MeshWatch) {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("policies")).unwrap();
    replace(folder.path(), "mesh.yaml", MESH);
    replace(folder.path(), "policies/a.yaml", &policy("one"));
    let watch = load(&folder.path().join("mesh.yaml"), &["one"]).await;
    (folder, watch)
}

async fn load(path: &Path, names: &[&str]) -> MeshWatch {
    let (loaded, mut watch) = MeshWatch::load(path).unwrap();
    assert_eq!(names_of(loaded), names);
    nothing_new(&mut watch).await;
    watch
}

fn names_of(loaded: LoadedMesh) -> Vec<String> {
    loaded.policies.policies.into_iter().map(|policy| policy.name).collect()
}

async fn names(watch: &mut MeshWatch) -> Vec<String> {
    names_of(outcome(watch).await.unwrap())
}

async fn mistakes(watch: &mut MeshWatch) -> Vec<String> {
    let mistakes = outcome(watch).await.unwrap_err();
    mistakes.iter().map(ToString::to_string).collect()
}

async fn outcome(watch: &mut MeshWatch) -> Outcome {
    tokio::time::timeout(LONG, watch.changed()).await.unwrap()
}

async fn nothing_new(watch: &mut MeshWatch) {
    if let Ok(outcome) = tokio::time::timeout(LONG, watch.changed()).await {
        panic!("{outcome:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn each_change_is_seen_and_a_mistake_is_told_once() {
    let (folder, mut watch) = begin().await;
    let folder = folder.path();
    replace(folder, "policies/b.yaml", &policy("two"));
    assert_eq!(names(&mut watch).await, ["one", "two"]);
    replace(folder, "policies/a.yaml", &policy("three"));
    assert_eq!(names(&mut watch).await, ["three", "two"]);
    replace(folder, "policies/a.yaml", "name: a\nservice: [");
    let told = mistakes(&mut watch).await;
    assert_eq!(told.len(), 1);
    assert!(told[0].contains("policies/a.yaml:2:"), "{told:?}");
    nothing_new(&mut watch).await;
    fs::remove_file(folder.join("policies/a.yaml")).unwrap();
    assert_eq!(names(&mut watch).await, ["two"]);
    replace(folder, "mesh.yaml", "nonsense");
    mistakes(&mut watch).await;
    fs::rename(folder.join("policies"), folder.join("rules")).unwrap();
    replace(folder, "mesh.yaml", &MESH.replace("[policies]", "[rules]"));
    assert_eq!(names(&mut watch).await, ["two"]);
    nothing_new(&mut watch).await;
}

#[tokio::test(start_paused = true)]
async fn what_was_good_before_is_told_again_after_a_mistake() {
    let (folder, mut watch) = begin().await;
    replace(folder.path(), "policies/a.yaml", "name: [");
    mistakes(&mut watch).await;
    replace(folder.path(), "policies/a.yaml", &policy("one"));
    assert_eq!(names(&mut watch).await, ["one"]);
}

/// A version of a mounted ConfigMap, and the links that show it, as the
/// kubelet makes them.
struct Mount<'a>(&'a Path);

impl Mount<'_> {
    fn first(&self, version: &str, files: &[(&str, &str)]) {
        self.make(version, files);
        symlink(version, self.0.join("..data")).unwrap();
        for (name, _) in files {
            symlink(format!("..data/{name}"), self.0.join(name)).unwrap();
        }
    }

    fn switch(&self, version: &str, files: &[(&str, &str)]) {
        self.make(version, files);
        let old = fs::read_link(self.0.join("..data")).unwrap();
        symlink(version, self.0.join("..data_tmp")).unwrap();
        fs::rename(self.0.join("..data_tmp"), self.0.join("..data")).unwrap();
        fs::remove_dir_all(self.0.join(old)).unwrap();
    }

    fn make(&self, version: &str, files: &[(&str, &str)]) {
        fs::create_dir(self.0.join(version)).unwrap();
        for (name, text) in files {
            fs::write(self.0.join(version).join(name), text).unwrap();
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_mounted_config_map_of_policies_is_read_once_and_its_switch_is_seen() {
    let folder = tempfile::tempdir().unwrap();
    let mount = folder.path().join("policies");
    fs::create_dir(&mount).unwrap();
    replace(folder.path(), "mesh.yaml", MESH);
    Mount(&mount).first("..2026_11_01", &[("a.yaml", &policy("one"))]);
    // Read as `..data/a.yaml` as well, its name would be there twice: an error.
    let mut watch = load(&folder.path().join("mesh.yaml"), &["one"]).await;
    Mount(&mount).switch("..2026_11_02", &[("a.yaml", &policy("two"))]);
    assert_eq!(names(&mut watch).await, ["two"]);
    Mount(&mount).switch("..2026_11_03", &[("a.yaml", "name: [")]);
    let told = mistakes(&mut watch).await;
    assert!(told[0].contains("policies/a.yaml:1:"), "{told:?}");
    Mount(&mount).switch("..2026_11_04", &[("a.yaml", &policy("six"))]);
    assert_eq!(names(&mut watch).await, ["six"]);
    nothing_new(&mut watch).await;
}

#[tokio::test(start_paused = true)]
async fn a_mounted_mesh_file_is_followed_with_the_policies_beside_it() {
    let folder = tempfile::tempdir().unwrap();
    let mesh = MESH.replace("[policies]", "[web.yaml]");
    let mount = Mount(folder.path());
    mount.first("..1", &[("mesh.yaml", &mesh), ("web.yaml", &policy("one"))]);
    let mut watch = load(&folder.path().join("mesh.yaml"), &["one"]).await;
    let other = mesh.replace("80:", "81:");
    mount.switch("..2", &[("mesh.yaml", &other), ("web.yaml", &policy("two"))]);
    let loaded = outcome(&mut watch).await.unwrap();
    assert!(loaded.mesh.services["web"].ports.contains_key(&81));
    assert_eq!(names_of(loaded), ["two"]);
}

#[tokio::test(start_paused = true)]
async fn a_file_of_the_same_size_and_time_that_replaces_another_is_seen() {
    let (folder, mut watch) = begin().await;
    let path = folder.path().join("policies/a.yaml");
    let time = fs::metadata(&path).unwrap().modified().unwrap();
    let other = folder.path().join("other");
    fs::write(&other, policy("two")).unwrap();
    fs::File::open(&other).unwrap().set_modified(time).unwrap();
    fs::rename(&other, &path).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().modified().unwrap(), time);
    assert_eq!(names(&mut watch).await, ["two"]);
    // In place, too, as `rsync --inplace --times` does.
    let mut file = fs::File::options().write(true).open(&path).unwrap();
    file.write_all(policy("six").as_bytes()).unwrap();
    file.set_modified(time).unwrap();
    assert_eq!(names(&mut watch).await, ["six"]);
}

#[tokio::test(start_paused = true)]
async fn temporary_files_of_an_editor_are_no_change() {
    let (folder, mut watch) = begin().await;
    let policies = folder.path().join("policies");
    for name in [".a.yaml.swp", "a.yaml~", "4913", "#a.yaml#", ".#a.yaml", "a.yaml.new"] {
        fs::write(policies.join(name), "name: [").unwrap();
        nothing_new(&mut watch).await;
    }
    replace(folder.path(), "policies/a.yaml", "name: [");
    mistakes(&mut watch).await;
    fs::remove_file(policies.join("4913")).unwrap();
    nothing_new(&mut watch).await;
}

#[tokio::test(start_paused = true)]
async fn a_half_written_file_is_waited_for() {
    let (folder, mut watch) = begin().await;
    let path = folder.path().join("policies/a.yaml");
    let whole = policy("two");
    let writer = async {
        let mut file = fs::File::create(&path).unwrap();
        for piece in whole.as_bytes().chunks(whole.len() / 12) {
            file.write_all(piece).unwrap();
            tokio::time::sleep(STANDS_STILL / 2).await;
        }
    };
    let (names, ()) = tokio::join!(names(&mut watch), writer);
    assert_eq!(names, ["two"]);
    nothing_new(&mut watch).await;
}

#[tokio::test(start_paused = true)]
async fn a_file_that_was_told_half_written_is_told_when_it_is_whole() {
    let (folder, mut watch) = begin().await;
    let path = folder.path().join("policies/a.yaml");
    let whole = policy("two");
    let mut file = fs::File::create(&path).unwrap();
    file.write_all(&whole.as_bytes()[..30]).unwrap();
    mistakes(&mut watch).await;
    file.write_all(&whole.as_bytes()[30..]).unwrap();
    assert_eq!(names(&mut watch).await, ["two"]);
}

#[tokio::test(start_paused = true)]
async fn what_is_written_right_after_the_first_load_is_seen() {
    let (folder, _) = begin().await;
    let path = folder.path().join("mesh.yaml");
    let (_, mut watch) = MeshWatch::load(&path).unwrap();
    // In place and of the same size, perhaps within one step of the clock.
    fs::write(folder.path().join("policies/a.yaml"), policy("two")).unwrap();
    assert_eq!(names(&mut watch).await, ["two"]);
}

#[tokio::test(start_paused = true)]
async fn a_change_while_it_is_read_is_not_taken_for_what_was_seen() {
    let (folder, mut watch) = begin().await;
    let seen = watch.stillness.seen.clone();
    replace(folder.path(), "policies/a.yaml", "name: [");
    // As if it had changed after the look.
    watch.stillness.seen = seen;
    assert!(watch.read().await.is_none());
    assert!(!watch.stillness.is_settled());
    mistakes(&mut watch).await;
}

#[tokio::test(start_paused = true)]
async fn what_never_stands_still_is_read_in_the_end() {
    let (folder, mut watch) = begin().await;
    let restless = async {
        for round in 0.. {
            // Whole at each moment: what is read in the end may be any of them.
            let text = format!("{}# {}\n", policy("two"), "x".repeat(round % 50));
            replace(folder.path(), "policies/a.yaml", &text);
            tokio::time::sleep(STANDS_STILL / 3).await;
        }
    };
    tokio::select! {
        names = names(&mut watch) => assert_eq!(names, ["two"]),
        () = restless => {}
    }
}

#[tokio::test(start_paused = true)]
async fn a_folder_that_is_away_for_a_moment_is_waited_for() {
    let (folder, mut watch) = begin().await;
    let (here, away) = (folder.path().join("policies"), folder.path().join("away"));
    let mover = async {
        tokio::time::sleep(LOOK_AGAIN - STANDS_STILL / 2).await;
        fs::rename(&here, &away).unwrap();
        tokio::time::sleep(STANDS_STILL).await;
        fs::rename(&away, &here).unwrap();
        tokio::time::sleep(LONG).await;
    };
    tokio::select! {
        outcome = watch.changed() => panic!("{outcome:?}"),
        () = mover => {}
    }
    // For longer it is a mistake, and its return is news.
    fs::rename(&here, &away).unwrap();
    let told = mistakes(&mut watch).await;
    assert!(told[0].contains("policies` can't be found"), "{told:?}");
    fs::rename(&away, &here).unwrap();
    assert_eq!(names(&mut watch).await, ["one"]);
}

#[tokio::test(start_paused = true)]
async fn a_folder_that_the_mesh_file_names_before_it_is_there_is_seen_when_it_comes() {
    let (folder, mut watch) = begin().await;
    let folder = folder.path();
    replace(folder, "mesh.yaml", &MESH.replace("[policies]", "[policies, more]"));
    mistakes(&mut watch).await;
    let made = folder.join("made");
    fs::create_dir(&made).unwrap();
    fs::write(made.join("b.yaml"), policy("two")).unwrap();
    fs::rename(&made, folder.join("more")).unwrap();
    assert_eq!(names(&mut watch).await, ["one", "two"]);
}

#[tokio::test(start_paused = true)]
async fn changed_rights_are_a_change() {
    let (folder, mut watch) = begin().await;
    let path = folder.path().join("policies/a.yaml");
    let before = watch.stillness.seen.clone();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    // Root reads it all the same, so it is the look that shows it.
    assert_ne!(watch.files.look(), before);
    nothing_new(&mut watch).await;
}

/// How many roots each of the other trust domains has.
fn partners(loaded: &LoadedMesh) -> Vec<(String, usize)> {
    let partners = loaded.partners.iter();
    partners
        .map(|(domain, roots)| (domain.to_string(), roots.len()))
        .collect()
}

fn partner(name: &str, roots: usize) -> Vec<(String, usize)> {
    vec![(name.to_owned(), roots)]
}

#[tokio::test(start_paused = true)]
async fn trust_bundles_are_followed_and_a_bad_one_is_told_once() {
    let (folder, mut watch) = begin().await;
    let folder = folder.path();
    let (first, second) = (root().pem(), root().pem());
    // Named before it is there.
    replace(
        folder,
        "mesh.yaml",
        &format!("{MESH}trustBundles: {{partner.example: partner.pem}}\n"),
    );
    let told = mistakes(&mut watch).await;
    assert!(
        told[0].contains("mesh.yaml:4:33: error:") && told[0].contains("partner.pem` can't be found"),
        "{told:?}"
    );
    replace(folder, "partner.pem", &first);
    assert_eq!(
        partners(&outcome(&mut watch).await.unwrap()),
        partner("partner.example", 1)
    );
    replace(folder, "partner.pem", &format!("{first}{second}"));
    assert_eq!(
        partners(&outcome(&mut watch).await.unwrap()),
        partner("partner.example", 2)
    );
    replace(folder, "partner.pem", "-----BEGIN CERTIFICATE-----");
    let told = mistakes(&mut watch).await;
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(
        told[0].contains("partner.pem:1:1: error:") && told[0].contains("put that trust domain's root"),
        "{told:?}"
    );
    nothing_new(&mut watch).await;
    // Mistakes of policies do not hide behind it.
    replace(folder, "policies/a.yaml", "name: [");
    assert_eq!(mistakes(&mut watch).await.len(), 2);
    replace(folder, "policies/a.yaml", &policy("two"));
    assert_eq!(mistakes(&mut watch).await.len(), 1);
    replace(folder, "partner.pem", &second);
    let loaded = outcome(&mut watch).await.unwrap();
    assert_eq!(partners(&loaded), partner("partner.example", 1));
    assert_eq!(names_of(loaded), ["two"]);
    fs::remove_file(folder.join("partner.pem")).unwrap();
    mistakes(&mut watch).await;
    replace(folder, "mesh.yaml", MESH);
    assert_eq!(partners(&outcome(&mut watch).await.unwrap()), []);
    nothing_new(&mut watch).await;
}
