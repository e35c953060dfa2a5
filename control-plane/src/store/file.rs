//! The state in one local database file, for one control plane.
//!
//! Invariants: the folder is locked while the store lives, so that nobody
//! else writes. After a write that failed, the file says what is true.

use std::fmt::Display;
use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use redb::{Builder, Database, ReadTransaction, ReadableDatabase, ReadableTable, TableDefinition};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Changes, State, Store, StoreError, Versioned};
use crate::state_folder::{FolderError, FolderLock, PRIVATE, lock, look_at_private, open_private, rename};

const FILE: &str = "state.redb";
const LOCK: &str = "lock";
/// Of the tables' layout.
const FORMAT: u64 = 1;
/// In bytes. Everything is in memory anyway.
const CACHE: usize = 1024 * 1024;

const NUMBERS: TableDefinition<'_, &str, u64> = TableDefinition::new("numbers");
/// Values are JSON.
const TOKENS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("tokens");
/// Values are JSON.
const LINEAGES: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("lineages");

/// A store in `state.redb` of a private folder.
#[derive(Debug)]
pub struct FileStore {
    content: Arc<Mutex<Content>>,
    _lock: FolderLock,
}

#[derive(Debug)]
struct Content {
    path: PathBuf,
    /// Closed after a failed write: nobody knows what that has left.
    database: Option<Database>,
}

impl FileStore {
    /// Opens the store in `folder`, and takes the folder for this process.
    ///
    /// # Errors
    /// When another process has it, or the file can't be read.
    pub fn open(folder: &Path) -> Result<Self, StoreError> {
        open_private(folder)?;
        let held = lock(folder, LOCK)?;
        let path = folder.join(FILE);
        if look_at_private(&path)?.is_none() {
            make(&path)?;
        }
        let database = open(&path)?;
        // A file that can't be read is told at once.
        read(&database, &path)?;
        let content = Content {
            path,
            database: Some(database),
        };
        Ok(Self {
            content: Arc::new(Mutex::new(content)),
            _lock: held,
        })
    }
}

/// An empty database under its name, all at once.
fn make(path: &Path) -> Result<(), StoreError> {
    let temporary = path.with_extension("redb.new");
    // Left over from a crash.
    let _ = std::fs::remove_file(&temporary);
    let opened = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(PRIVATE)
        .open(&temporary);
    drop(opened.map_err(FolderError::io("can't make", &temporary))?);
    let database = Builder::new().set_cache_size(CACHE).create(&temporary);
    let database = database.map_err(failure(&temporary, "can't make"))?;
    write(&database, 0, &Changes::default()).map_err(failure(&temporary, "can't write"))?;
    drop(database);
    Ok(rename(&temporary, path)?)
}

fn open(path: &Path) -> Result<Database, StoreError> {
    if look_at_private(path)? == Some(0) {
        return Err(corrupt(path, "it is empty"));
    }
    let database = Builder::new().set_cache_size(CACHE).open(path);
    database.map_err(failure(path, "can't open"))
}

fn read(database: &Database, path: &Path) -> Result<Versioned, StoreError> {
    let failed = || failure::<redb::Error>(path, "can't read");
    let transaction = database.begin_read().map_err(|error| failed()(error.into()))?;
    let numbers = transaction
        .open_table(NUMBERS)
        .map_err(|error| failed()(error.into()))?;
    let number = |name: &str| match numbers.get(name) {
        Ok(Some(number)) => Ok(number.value()),
        Ok(None) => Err(corrupt(path, format!("it has no number `{name}`"))),
        Err(error) => Err(failed()(error.into())),
    };
    let format = number("format")?;
    if format != FORMAT {
        return Err(corrupt(
            path,
            format!("its format is {format}, this build writes {FORMAT}"),
        ));
    }
    let tokens = transaction.open_table(TOKENS).map_err(|error| failed()(error.into()))?;
    let tokens = tokens.iter().map_err(|error| failed()(error.into()))?.map(|entry| {
        let (key, value) = entry.map_err(|error| failed()(error.into()))?;
        Ok((key.value().into(), parse(value.value(), path)?))
    });
    let lineages = transaction
        .open_table(LINEAGES)
        .map_err(|error| failed()(error.into()))?;
    let lineages = lineages.iter().map_err(|error| failed()(error.into()))?.map(|entry| {
        let (key, value) = entry.map_err(|error| failed()(error.into()))?;
        Ok((key.value(), parse(value.value(), path)?))
    });
    let (tokens, lineages) = (
        tokens.collect::<Result<_, StoreError>>()?,
        lineages.collect::<Result<_, StoreError>>()?,
    );
    Ok(Versioned {
        version: number("version")?,
        state: State::kept(number("epoch")?, number("next_lineage")?, tokens, lineages),
    })
}

fn number(transaction: &ReadTransaction, name: &str, path: &Path) -> Result<u64, StoreError> {
    let look = || {
        let numbers = transaction.open_table(NUMBERS)?;
        Ok::<_, redb::Error>(numbers.get(name)?.map(|number| number.value()))
    };
    look()
        .map_err(failure(path, "can't read"))?
        .ok_or_else(|| corrupt(path, format!("it has no number `{name}`")))
}

fn version(database: &Database, path: &Path) -> Result<u64, StoreError> {
    let transaction = database.begin_read().map_err(failure(path, "can't read"))?;
    number(&transaction, "version", path)
}

fn parse<T: DeserializeOwned>(json: &[u8], path: &Path) -> Result<T, StoreError> {
    serde_json::from_slice(json).map_err(|error| corrupt(path, error))
}

/// The changes that make `version`, durably.
fn write(database: &Database, version: u64, changes: &Changes) -> Result<(), redb::Error> {
    let transaction = database.begin_write()?;
    {
        let mut numbers = transaction.open_table(NUMBERS)?;
        for (name, number) in [
            ("format", FORMAT),
            ("version", version),
            ("epoch", changes.epoch),
            ("next_lineage", changes.next_lineage),
        ] {
            numbers.insert(name, number)?;
        }
        let mut tokens = transaction.open_table(TOKENS)?;
        for (key, token) in &changes.tokens {
            match token {
                Some(token) => tokens.insert(key.as_ref(), json(token)?.as_slice())?,
                None => tokens.remove(key.as_ref())?,
            };
        }
        let mut lineages = transaction.open_table(LINEAGES)?;
        for (key, lineage) in &changes.lineages {
            match lineage {
                Some(lineage) => lineages.insert(key, json(lineage)?.as_slice())?,
                None => lineages.remove(key)?,
            };
        }
    }
    transaction.commit()?;
    Ok(())
}

fn json<T: Serialize>(value: &T) -> Result<Vec<u8>, redb::Error> {
    serde_json::to_vec(value).map_err(|error| redb::Error::Io(error.into()))
}

fn corrupt(path: &Path, problem: impl Display) -> StoreError {
    StoreError::Corrupt {
        path: path.display().to_string(),
        problem: problem.to_string(),
    }
}

/// The system's refusals are told from what is wrong with the content.
fn failure<E: Into<redb::Error>>(path: &Path, what: &'static str) -> impl FnOnce(E) -> StoreError {
    move |error| match error.into() {
        redb::Error::Io(error) if error.kind() != std::io::ErrorKind::InvalidData => {
            FolderError::io(what, path)(error).into()
        }
        error => corrupt(path, error),
    }
}

impl Content {
    fn with<T>(&mut self, call: impl FnOnce(&Database, &Path) -> Result<T, StoreError>) -> Result<T, StoreError> {
        let database = match self.database.take() {
            Some(database) => database,
            None => open(&self.path)?,
        };
        let result = call(&database, &self.path);
        if matches!(result, Ok(_) | Err(StoreError::Conflict)) {
            self.database = Some(database);
        }
        result
    }
}

impl FileStore {
    /// Syncing a file blocks. It is finished even when its caller is gone.
    async fn with<T: Send + 'static>(
        &self,
        call: impl FnOnce(&Database, &Path) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let content = Arc::clone(&self.content);
        let blocking = move || content.lock().unwrap_or_else(PoisonError::into_inner).with(call);
        let task = tokio::task::spawn_blocking(blocking);
        task.await.map_err(|_| StoreError::Stopping)?
    }
}

#[tonic::async_trait]
impl Store for FileStore {
    async fn read(&self) -> Result<Versioned, StoreError> {
        self.with(read).await
    }

    async fn compare_and_swap(&self, expected: u64, changes: Changes) -> Result<(), StoreError> {
        self.with(move |database, path| {
            if version(database, path)? != expected {
                return Err(StoreError::Conflict);
            }
            write(database, expected + 1, &changes).map_err(failure(path, "can't write"))
        })
        .await
    }
}
