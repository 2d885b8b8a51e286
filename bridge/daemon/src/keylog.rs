//! Keys for Wireshark, written into a directory as Wireshark's own files.
//!
//! `WIRESHARK_CONFIG_DIR=DIR tshark -r capture` decrypts with them. Whoever reads them reads everything, so the
//! directory is for this user alone, and nothing is written unless the configuration says so.

use std::fs::{DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Writes lines into files named as Wireshark's tables.
#[derive(Clone, Debug)]
pub(crate) struct FileKeyLog {
    directory: PathBuf,
}

impl FileKeyLog {
    /// Opens a directory, making it if need be.
    pub(crate) fn open(directory: &Path) -> io::Result<Self> {
        DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
        tracing::warn!(directory = %directory.display(), "KEYS ARE BEING LOGGED: whoever reads them reads everything");
        Ok(Self { directory: directory.to_owned() })
    }

    fn append(&self, table: &str, line: &str) {
        let file = self.directory.join(table);
        let opened = OpenOptions::new().append(true).create(true).mode(0o600).open(&file);
        // One write: several processes may log into one directory.
        if let Err(error) = opened.and_then(|mut f| f.write_all(format!("{line}\n").as_bytes())) {
            tracing::error!(file = %file.display(), %error, "key not logged");
        }
    }
}

impl gdoi::KeyLog for FileKeyLog {
    fn log(&mut self, table: &'static str, line: &str) {
        self.append(table, line);
    }
}

impl gikev2::KeyLog for FileKeyLog {
    fn log(&mut self, table: &'static str, line: &str) {
        self.append(table, line);
    }
}

impl dataplane::KeyLog for FileKeyLog {
    fn log(&mut self, table: &'static str, line: &str) {
        self.append(table, line);
    }
}
