//! Keys for Wireshark, written into a directory as Wireshark's own files.
//!
//! `WIRESHARK_CONFIG_DIR=DIR tshark -r capture` decrypts with them. Whoever reads them reads everything, so the
//! directory is for this user alone, and nothing is written unless the configuration or `keyferry key-log` says so.

use std::fs::{DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
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

    /// The same in a directory that is this user's alone, whoever has asked for it.
    ///
    /// # Errors
    /// Others may look into it or put something there, or it is none.
    pub(crate) fn open_private(directory: &Path) -> io::Result<Self> {
        if !directory.is_absolute() {
            return Err(io::Error::other("it is no absolute path"));
        }
        DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
        let meta = std::fs::symlink_metadata(directory)?;
        if !meta.is_dir() {
            return Err(io::Error::other("it is no directory"));
        }
        if meta.uid() != nix::unistd::geteuid().as_raw() || meta.mode() & 0o077 != 0 {
            return Err(io::Error::other("it must belong to the user that runs this process, with mode 0700"));
        }
        Self::open(directory)
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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn keys_go_where_nobody_else_looks() {
        let dir = tempfile::tempdir().unwrap();
        let fresh = dir.path().join("deep/keys");
        FileKeyLog::open_private(&fresh).unwrap().append("esp_sa", "line");
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&fresh), mode(&fresh.join("esp_sa"))), (0o700, 0o600));
        assert_eq!(std::fs::read_to_string(fresh.join("esp_sa")).unwrap(), "line\n");
        // There already, and as it should be.
        FileKeyLog::open_private(&fresh).unwrap().append("esp_sa", "another");
        assert_eq!(std::fs::read_to_string(fresh.join("esp_sa")).unwrap(), "line\nanother\n");

        let open = dir.path().join("open");
        std::fs::create_dir(&open).unwrap();
        std::fs::set_permissions(&open, std::fs::Permissions::from_mode(0o750)).unwrap();
        std::os::unix::fs::symlink(&fresh, dir.path().join("link")).unwrap();
        std::fs::write(dir.path().join("file"), "").unwrap();
        for refused in ["open", "link", "file"] {
            assert!(FileKeyLog::open_private(&dir.path().join(refused)).is_err(), "{refused}");
        }
        assert!(FileKeyLog::open_private(Path::new("relative")).is_err());
        assert!(!Path::new("relative").exists());
    }
}
