//! The embedded store: records sealed under a master key, in one redb file.
//!
//! ```text
//!  table "keyferry"  "format" -> 1 (little endian, 8 octets), not sealed: any version can read it
//!  table "records"   "census"      -> sealed: commits so far, number of records
//!                    "r/" + key    -> sealed: a record of the model or the daemon
//! ```
//!
//! What a start must not overlook: another program's file, a later format, another master key, a file that was cut, a
//! file with damage, records that are gone. All of that is found before a single octet is written (see `backend`).
//! What must not repeat after a crash is durable when [`Store::commit`] returns: each commit is made twice, so that both
//! of redb's commit slots hold it and damage to one of them cannot take the store back in time.

mod backend;
mod error;
mod master_key;
mod seal;

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use keyferry_crypto::{Random, Secret};
use keyferry_model::store::StoreOp;
use redb::{Builder, Database, ReadableDatabase, ReadableTable, ReadableTableMetadata, TableDefinition};

pub use error::StoreError;
pub use master_key::{CREDENTIAL, MasterKeySource};

use backend::Backend;
use master_key::beside;
pub(crate) use master_key::make_parent;
use seal::MasterKey;

/// The format this version writes.
const FORMAT: u64 = 1;

const FORMATS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("keyferry");
const RECORDS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("records");
const CENSUS: &str = "census";
const PREFIX: &str = "r/";

/// Memory that redb may use to cache the file, in octets.
const CACHE: usize = 16 << 20;

/// An open store. One process at a time has it.
pub struct Store {
    file: PathBuf,
    db: Database,
    key: MasterKey,
    commits: u64,
    stopped: bool,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").field("file", &self.file).field("commits", &self.commits).finish_non_exhaustive()
    }
}

impl Store {
    /// Opens a store, or makes one where there is no file, and returns all its records.
    ///
    /// # Errors
    /// Whatever makes it unusable. An existing file is left as it is then.
    pub fn open(
        file: &Path,
        key: &MasterKeySource,
        rng: &mut dyn Random,
    ) -> Result<(Self, Vec<(String, Secret)>), StoreError> {
        let exists = file.try_exists().map_err(|e| StoreError::io(file, e))?;
        let master = if exists { key.read(file)? } else { key.read_or_make(rng)? };
        if !exists {
            make(file, &master, rng)?;
        }
        let opened = open_locked(file)?;
        if opened.metadata().map_err(|e| StoreError::io(file, e))?.len() == 0 {
            return Err(StoreError::damaged(file, "the file is empty"));
        }
        // redb is careful, but a file can lie in ways it takes for its own mistake and panics.
        let result = quietly(|| try_open(file, opened, master, &key.file));
        result.unwrap_or_else(|| Err(StoreError::damaged(file, "its structure makes no sense")))
    }

    /// Makes changes durable, all of them or none.
    ///
    /// # Errors
    /// The disk is full or fails. The store takes no more changes then: what is on disk is what the last successful
    /// commit left.
    pub fn commit(&mut self, ops: &[StoreOp], rng: &mut dyn Random) -> Result<(), StoreError> {
        if self.stopped {
            return Err(StoreError::Stopped(self.file.clone()));
        }
        let result = self.write(ops, rng).and_then(|()| self.write(&[], rng));
        self.stopped = result.is_err();
        result
    }

    fn write(&mut self, ops: &[StoreOp], rng: &mut dyn Random) -> Result<(), StoreError> {
        let file = &self.file;
        let redb = |e: redb::Error| StoreError::redb(file, e);
        let seal = |name: &str, value: &[u8], rng: &mut dyn Random| {
            self.key
                .seal(name, value, rng)
                .map_err(|e| StoreError::Io { file: file.clone(), error: io::Error::other(e) })
        };
        let write = self.db.begin_write().map_err(|e| redb(e.into()))?;
        {
            let mut records = write.open_table(RECORDS).map_err(|e| redb(e.into()))?;
            for op in ops {
                match op {
                    StoreOp::Put(key, value) => {
                        let name = format!("{PREFIX}{key}");
                        let sealed = seal(&name, value.expose(), rng)?;
                        records.insert(name.as_str(), sealed.as_slice()).map_err(|e| redb(e.into()))?;
                    }
                    StoreOp::Delete(key) => {
                        records.remove(format!("{PREFIX}{key}").as_str()).map_err(|e| redb(e.into()))?;
                    }
                }
            }
            // The census counts itself, too, from the first commit on.
            let there = records.get(CENSUS).map_err(|e| redb(e.into()))?.is_some();
            let count = records.len().map_err(|e| redb(e.into()))? + u64::from(!there);
            let census = seal(CENSUS, &census(self.commits + 1, count), rng)?;
            records.insert(CENSUS, census.as_slice()).map_err(|e| redb(e.into()))?;
        }
        write.commit().map_err(|e| redb(e.into()))?;
        self.commits += 1;
        Ok(())
    }
}

fn census(commits: u64, records: u64) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&commits.to_le_bytes());
    bytes[8..].copy_from_slice(&records.to_le_bytes());
    bytes
}

/// Opens a file for this process alone.
fn open_locked(file: &Path) -> Result<File, StoreError> {
    let opened = OpenOptions::new().read(true).write(true).open(file).map_err(|e| StoreError::io(file, e))?;
    lock(file, opened)
}

fn lock(file: &Path, opened: File) -> Result<File, StoreError> {
    match opened.try_lock() {
        Ok(()) => Ok(opened),
        Err(TryLockError::WouldBlock) => Err(StoreError::Locked(file.to_owned())),
        Err(TryLockError::Error(e)) => Err(StoreError::io(file, e)),
    }
}

/// Makes an empty store. It appears whole or not at all, and never replaces a file.
fn make(file: &Path, key: &MasterKey, rng: &mut dyn Random) -> Result<(), StoreError> {
    let io = |e| StoreError::io(file, e);
    let directory = make_parent(file).map_err(io)?;
    let fresh = beside(file, ".new");
    let opened = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(&fresh);
    let opened = lock(&fresh, opened.map_err(io)?)?;
    // What an interrupted first start may have left.
    opened.set_len(0).map_err(io)?;
    let made = fill(file, opened, key, rng).and_then(|()| std::fs::hard_link(&fresh, file).map_err(io));
    std::fs::remove_file(&fresh).map_err(io)?;
    made?;
    File::open(directory).and_then(|d| d.sync_all()).map_err(io)
}

fn fill(file: &Path, opened: File, key: &MasterKey, rng: &mut dyn Random) -> Result<(), StoreError> {
    let backend = Backend::new(opened).map_err(|e| StoreError::io(file, e))?;
    backend.accept().map_err(|e| StoreError::io(file, e))?;
    let db = Builder::new().set_cache_size(CACHE).create_with_backend(backend);
    let db = db.map_err(|e| StoreError::redb(file, e))?;
    let write = db.begin_write().map_err(|e| StoreError::redb(file, e))?;
    {
        let mut formats = write.open_table(FORMATS).map_err(|e| StoreError::redb(file, e))?;
        let inserted = formats.insert("format", FORMAT.to_le_bytes().as_slice()).map(|_| ());
        inserted.map_err(|e| StoreError::redb(file, e))?;
    }
    write.commit().map_err(|e| StoreError::redb(file, e))?;
    let key = MasterKey(key.0.duplicate());
    let mut store = Store { file: file.to_owned(), db, key, commits: 0, stopped: false };
    store.commit(&[], rng)
}

/// Opens on trial, looks at everything, and only then lets redb write.
fn try_open(
    file: &Path,
    opened: File,
    key: MasterKey,
    key_file: &Path,
) -> Result<(Store, Vec<(String, Secret)>), StoreError> {
    let backend = Backend::new(opened).map_err(|e| StoreError::io(file, e))?;
    let db = Builder::new().set_cache_size(CACHE).create_with_backend(backend.clone());
    let mut db = db.map_err(|e| StoreError::redb(file, e))?;
    check_format(file, &db)?;
    let whole = db.check_integrity().map_err(|e| StoreError::redb(file, e))?;
    if !whole {
        return Err(StoreError::damaged(file, "checksums do not fit"));
    }
    let (commits, records) = read_all(file, &db, &key, key_file)?;
    backend.accept().map_err(|e| StoreError::io(file, e))?;
    Ok((Store { file: file.to_owned(), db, key, commits, stopped: false }, records))
}

fn check_format(file: &Path, db: &Database) -> Result<(), StoreError> {
    let read = db.begin_read().map_err(|e| StoreError::redb(file, e))?;
    let formats = match read.open_table(FORMATS) {
        Ok(table) => table,
        Err(redb::TableError::Storage(e)) => return Err(StoreError::redb(file, e)),
        Err(_) => return Err(StoreError::Foreign(file.to_owned())),
    };
    let format = formats.get("format").map_err(|e| StoreError::redb(file, e))?;
    let format = format.and_then(|f| f.value().try_into().ok()).map(u64::from_le_bytes);
    match format {
        Some(FORMAT) => Ok(()),
        Some(format) => Err(StoreError::Newer { file: file.to_owned(), format }),
        None => Err(StoreError::Foreign(file.to_owned())),
    }
}

/// The number of commits, and all records.
fn read_all(
    file: &Path,
    db: &Database,
    key: &MasterKey,
    key_file: &Path,
) -> Result<(u64, Vec<(String, Secret)>), StoreError> {
    let read = db.begin_read().map_err(|e| StoreError::redb(file, e))?;
    let table = read.open_table(RECORDS).map_err(|e| StoreError::redb(file, e))?;
    let mut records = Vec::new();
    let mut commits = None;
    let (mut count, mut unreadable) = (0, Vec::new());
    for entry in table.iter().map_err(|e| StoreError::redb(file, e))? {
        let (name, sealed) = entry.map_err(|e| StoreError::redb(file, e))?;
        let name = name.value();
        count += 1;
        match (key.open(name, sealed.value()), name.strip_prefix(PREFIX)) {
            (Some(value), Some(key)) => records.push((key.to_owned(), value)),
            (Some(value), None) if name == CENSUS => commits = Some(value),
            (Some(_), None) => return Err(StoreError::damaged(file, format!("what is {name}?"))),
            (None, _) => unreadable.push(name.to_owned()),
        }
    }
    // A wrong key opens nothing; damage leaves the rest readable.
    if unreadable.len() == count && count > 0 {
        return Err(StoreError::WrongKey { file: file.to_owned(), key: key_file.to_owned() });
    }
    if let Some(name) = unreadable.first() {
        return Err(StoreError::damaged(file, format!("{} records cannot be opened, {name} first", unreadable.len())));
    }
    let commits = commits.and_then(|c| <[u8; 16]>::try_from(c.expose()).ok());
    let Some(commits) = commits else { return Err(StoreError::damaged(file, "the census is missing")) };
    let number = u64::from_le_bytes(commits[..8].try_into().expect("eight of sixteen octets"));
    if commits != census(number, count as u64) {
        return Err(StoreError::damaged(file, format!("{count} records are not as many as were written")));
    }
    Ok((number, records))
}

/// Runs something that may panic, without the message of the panic; `None` if it did.
fn quietly<T>(work: impl FnOnce() -> T) -> Option<T> {
    use std::cell::Cell;
    use std::sync::Once;
    thread_local!(static QUIET: Cell<bool> = const { Cell::new(false) });
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if !QUIET.get() {
                before(info);
            }
        }));
    });
    QUIET.set(true);
    let result = catch_unwind(AssertUnwindSafe(work));
    QUIET.set(false);
    result.ok()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
