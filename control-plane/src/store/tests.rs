//! The store: what is written stays, one writer at a time, nothing grows for ever.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::time::Duration;

use super::*;

fn token(expires_at: u64) -> Token {
    Token {
        id: "spiffe://example.org/web".into(),
        expires_at,
        used: None,
    }
}

fn lineage(not_after: u64) -> Lineage {
    let key = serde_json::from_str("\"k\"").unwrap();
    let current = IssuedSvid {
        serial: "ab".into(),
        not_after,
        key,
        chain: Vec::new(),
    };
    Lineage {
        id: "spiffe://example.org/web".into(),
        current: Some(current),
        pending: None,
        retired: [("old".to_owned(), not_after - 1)].into(),
        workloads: [("lent".to_owned(), not_after - 1)].into(),
        frozen: false,
    }
}

#[tokio::test]
async fn what_was_written_is_there_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state");
    let store = FileStore::open(&path).unwrap();
    let records = Records::new(Arc::new(store)).await.unwrap();
    let epoch = records
        .update(|state| {
            state.epoch += 1;
            state.tokens.insert("hash".into(), token(7));
            state.lineages.insert(3, lineage(9));
            state.epoch
        })
        .await
        .unwrap();
    assert_eq!(epoch, 1);
    let before = records.look(State::clone);
    drop(records);
    // The writer lets go of the folder when it is run next.
    let again = loop {
        match FileStore::open(&path) {
            Ok(store) => break store,
            Err(_) => tokio::task::yield_now().await,
        }
    };
    assert_eq!(again.read().await.unwrap().state, before);
    assert_eq!(before.changes(), None);
}

#[tokio::test]
async fn a_second_control_plane_is_kept_out() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state");
    let _first = FileStore::open(&path).unwrap();
    let message = FileStore::open(&path).unwrap_err().to_string();
    assert!(message.contains("in use by another control plane"), "{message}");
}

#[tokio::test]
async fn only_the_newest_version_is_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let store = FileStore::open(&folder.path().join("state")).unwrap();
    let of_epoch = |epoch| Changes {
        epoch,
        ..Changes::default()
    };
    store.compare_and_swap(0, of_epoch(1)).await.unwrap();
    let late = of_epoch(9);
    assert!(matches!(
        store.compare_and_swap(0, late).await,
        Err(StoreError::Conflict)
    ));
    assert_eq!(store.read().await.unwrap().state.epoch, 1);
}

#[derive(Debug)]
struct Contested(FileStore, std::sync::atomic::AtomicUsize);

#[tonic::async_trait]
impl Store for Contested {
    async fn read(&self) -> Result<Versioned, StoreError> {
        self.0.read().await
    }

    async fn compare_and_swap(&self, expected: u64, changes: Changes) -> Result<(), StoreError> {
        // Another writer comes first, three times.
        if self.1.fetch_add(1, std::sync::atomic::Ordering::SeqCst) < 3 {
            let theirs = self.0.read().await?;
            let next = Changes {
                epoch: theirs.state.epoch + 100,
                ..Changes::default()
            };
            self.0.compare_and_swap(theirs.version, next).await?;
        }
        self.0.compare_and_swap(expected, changes).await
    }
}

#[tokio::test]
async fn an_update_that_loses_a_race_is_made_again_on_the_newer_state() {
    let folder = tempfile::tempdir().unwrap();
    let store = FileStore::open(&folder.path().join("state")).unwrap();
    let records = Records::new(Arc::new(Contested(store, Default::default())))
        .await
        .unwrap();
    let seen = records
        .update(|state| {
            state.epoch += 1;
            state.epoch
        })
        .await
        .unwrap();
    assert_eq!(seen, 301);
}

#[tokio::test]
async fn updates_at_the_same_time_all_count() {
    let folder = tempfile::tempdir().unwrap();
    let records = Records::new(Arc::new(FileStore::open(&folder.path().join("state")).unwrap()))
        .await
        .unwrap();
    let tasks: Vec<_> = (0..40)
        .map(|_| {
            let records = records.clone();
            tokio::spawn(async move { records.update(|state| state.epoch += 1).await })
        })
        .collect();
    for task in tasks {
        task.await.unwrap().unwrap();
    }
    assert_eq!(records.look(|state| state.epoch), 40);
}

/// Writes when it is let, or fails.
#[derive(Debug)]
struct Slow {
    inner: FileStore,
    writes: std::sync::atomic::AtomicUsize,
    gate: tokio::sync::Semaphore,
    fails: bool,
}

impl Slow {
    fn new(folder: &std::path::Path, fails: bool) -> Arc<Self> {
        Arc::new(Self {
            inner: FileStore::open(&folder.join("state")).unwrap(),
            writes: Default::default(),
            gate: tokio::sync::Semaphore::new(0),
            fails,
        })
    }
}

#[tonic::async_trait]
impl Store for Slow {
    async fn read(&self) -> Result<Versioned, StoreError> {
        self.inner.read().await
    }

    async fn compare_and_swap(&self, expected: u64, changes: Changes) -> Result<(), StoreError> {
        self.writes.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        self.gate.acquire().await.unwrap().forget();
        if self.fails {
            return Err(StoreError::Stopping);
        }
        self.inner.compare_and_swap(expected, changes).await
    }
}

#[tokio::test]
async fn what_comes_during_a_write_is_written_together_and_each_gets_its_own_answer() {
    let folder = tempfile::tempdir().unwrap();
    let store = Slow::new(folder.path(), false);
    let records = Records::new(Arc::clone(&store) as Arc<dyn Store>).await.unwrap();
    let update = || {
        let records = records.clone();
        tokio::spawn(async move {
            let count = |state: &mut State| {
                state.epoch += 1;
                state.epoch
            };
            records.update(count).await
        })
    };
    let first = update();
    while store.writes.load(std::sync::atomic::Ordering::SeqCst) == 0 {
        tokio::task::yield_now().await;
    }
    let others: Vec<_> = (0..100).map(|_| update()).collect();
    // All of them run up to where they wait: this runtime has one thread.
    for _ in 0..1_000 {
        tokio::task::yield_now().await;
    }
    store.gate.add_permits(2);
    assert_eq!(first.await.unwrap().unwrap(), 1);
    let mut answers = Vec::new();
    for other in others {
        answers.push(other.await.unwrap().unwrap());
    }
    answers.sort_unstable();
    assert_eq!(answers, (2..=101).collect::<Vec<_>>());
    assert_eq!(store.writes.load(std::sync::atomic::Ordering::SeqCst), 2);
    assert_eq!(records.look(|state| state.epoch), 101);
}

#[tokio::test]
async fn a_write_that_fails_changes_nothing_for_anybody_and_the_next_one_is_tried() {
    let folder = tempfile::tempdir().unwrap();
    let store = Slow::new(folder.path(), true);
    store.gate.add_permits(10);
    let records = Records::new(Arc::clone(&store) as Arc<dyn Store>).await.unwrap();
    for _ in 0..2 {
        let update = || records.update(|state| state.epoch += 1);
        let (one, other) = tokio::join!(update(), update());
        assert!(one.is_err() && other.is_err());
    }
    assert_eq!(records.look(|state| state.epoch), 0);
}

#[tokio::test]
async fn a_damaged_file_is_named_and_not_overwritten() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state");
    drop(FileStore::open(&path).unwrap());
    let whole = fs::read(path.join("state.redb")).unwrap();
    let mut scrambled = whole.clone();
    scrambled[..64].fill(0x5a);
    for damage in [b"{}".to_vec(), Vec::new(), whole[..whole.len() / 2].to_vec(), scrambled] {
        crate::state_folder::write_atomic(&path.join("state.redb"), &damage, 0o600).unwrap();
        let message = FileStore::open(&path).unwrap_err().to_string();
        assert!(message.contains("state.redb can't be read"), "{message}");
        assert_eq!(fs::read(path.join("state.redb")).unwrap(), damage);
    }
}

#[test]
fn what_is_over_is_forgotten_in_time() {
    let mut state = State::default();
    state.tokens.insert("a".into(), token(1000));
    state.lineages.insert(1, lineage(1000));
    let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
    state.sweep(at(999));
    assert_eq!((state.tokens.len(), state.lineages.len()), (1, 1));
    assert_eq!(state.lineages[&1].retired.len(), 1);
    state.sweep(at(1000));
    assert!(state.lineages[&1].retired.is_empty());
    state.sweep(at(1001));
    assert_eq!((state.tokens.len(), state.lineages.len()), (1, 0));
    state.sweep(at(1001 + 24 * 3600));
    assert!(state.tokens.is_empty());
}

/// As versions before workloads wrote a lineage.
const OLD_LINEAGE: &str = r#"{"id":"spiffe://example.org/web","current":{"serial":"ab","notAfter":9,"key":"k","chain":[]},"pending":null,"retired":{"old":8},"frozen":false}"#;

#[test]
fn records_from_before_workloads_are_read_and_written_as_they_were() {
    let old = Lineage {
        workloads: Default::default(),
        ..lineage(9)
    };
    assert_eq!(serde_json::from_str::<Lineage>(OLD_LINEAGE).unwrap(), old);
    // Who goes back to such a version can, as long as no workload asked.
    assert_eq!(serde_json::to_string(&old).unwrap(), OLD_LINEAGE);
    let new = serde_json::to_string(&lineage(9)).unwrap();
    assert_eq!(serde_json::from_str::<Lineage>(&new).unwrap(), lineage(9));
}
