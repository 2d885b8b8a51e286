//! Why a store cannot be used, with what to do.

use std::io;
use std::path::{Path, PathBuf};

/// A store or master key that cannot be used. Nothing has been overwritten.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A task that wrote to the store came to an unexpected end.
    #[error("writing to the store came to an unexpected end: nothing is sent that may not be durable; start anew")]
    Lost,
    /// Another process has the store open.
    #[error("{0}: another process has it open: stop that one, or give this one a store of its own")]
    Locked(PathBuf),
    /// The file is no store of ours.
    #[error("{0}: this is no store of keyferry's: name another file, or move this one away")]
    Foreign(PathBuf),
    /// A later version made it.
    #[error("{file}: a later keyferry made it (format {format}): use that version")]
    Newer {
        /// The store.
        file: PathBuf,
        /// Its format.
        format: u64,
    },
    /// It was ours once.
    #[error(
        "{file}: the store is damaged ({what}): restore a backup together with its master key; without one, \
        move the file away and let all members register anew"
    )]
    Damaged {
        /// The store.
        file: PathBuf,
        /// How that was found.
        what: String,
    },
    /// The master key does not open it.
    #[error("{file}: the master key {key} does not belong to this store: give it the key it was made with")]
    WrongKey {
        /// The store.
        file: PathBuf,
        /// The key file.
        key: PathBuf,
    },
    /// There is a store but no master key.
    #[error(
        "{key}: there is no master key for the store {file}: put the key back; without it, move the store away \
        and let all members register anew"
    )]
    NoKey {
        /// The store.
        file: PathBuf,
        /// Where the key should be.
        key: PathBuf,
    },
    /// Others may read the master key.
    #[error("{file}: mode {mode:03o} lets others use the master key: run chmod 600 {file}")]
    Exposed {
        /// The key file.
        file: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// The master key's file holds something else.
    #[error("{0}: this is no master key, which is 64 hexadecimal digits: put the right file there")]
    NoMasterKey(PathBuf),
    /// The disk is full.
    #[error("{0}: the disk is full: make room and start again; nothing has been lost")]
    Full(PathBuf),
    /// Anything else that the system reports.
    #[error("{file}: {error}: see that the file and its directory can be written by this user")]
    Io {
        /// The file.
        file: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// An earlier write failed.
    #[error("{0}: an earlier write failed: start again when its cause is removed")]
    Stopped(PathBuf),
}

impl StoreError {
    pub(super) fn io(file: &Path, error: io::Error) -> Self {
        let full = [io::ErrorKind::StorageFull, io::ErrorKind::QuotaExceeded, io::ErrorKind::FileTooLarge];
        match full.contains(&error.kind()) {
            true => StoreError::Full(file.to_owned()),
            false => StoreError::Io { file: file.to_owned(), error },
        }
    }

    pub(super) fn damaged(file: &Path, what: impl ToString) -> Self {
        StoreError::Damaged { file: file.to_owned(), what: what.to_string().replace('\n', " ") }
    }

    /// What redb reports.
    pub(super) fn redb(file: &Path, error: impl Into<redb::Error>) -> Self {
        let error = error.into();
        if let redb::Error::Io(e) = error {
            return match e.kind() == io::ErrorKind::UnexpectedEof {
                true => Self::damaged(file, "the file is cut short"),
                false if e.kind() == io::ErrorKind::InvalidData => StoreError::Foreign(file.to_owned()),
                false => Self::io(file, e),
            };
        }
        match matches!(error, redb::Error::PreviousIo) {
            true => StoreError::Stopped(file.to_owned()),
            false => Self::damaged(file, error),
        }
    }
}
