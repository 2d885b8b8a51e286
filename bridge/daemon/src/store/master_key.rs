//! Where the master key comes from: the service manager, or a file that is made at the first start.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use keyferry_crypto::{Random, Secret};
use zeroize::Zeroizing;

use super::error::StoreError;
use super::seal::{KEY_LEN, MasterKey};

/// Name of the credential by which a service manager hands over the key (systemd's `LoadCredential=`).
pub const CREDENTIAL: &str = "keyferry-master-key";

/// Where the master key is looked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MasterKeySource {
    /// Its file.
    pub file: PathBuf,
    /// Does a service manager own it? Then it is never made here, and who may read it is the manager's business.
    pub managed: bool,
}

impl MasterKeySource {
    /// The credential if the service manager gave one, else the configured file.
    #[must_use]
    pub fn find(configured: &Path, credentials_directory: Option<&Path>) -> Self {
        match credentials_directory.map(|d| d.join(CREDENTIAL)).filter(|f| f.exists()) {
            Some(file) => Self { file, managed: true },
            None => Self { file: configured.to_owned(), managed: false },
        }
    }

    /// Reads the key of a store that exists.
    pub(super) fn read(&self, store: &Path) -> Result<MasterKey, StoreError> {
        match self.try_read()? {
            Some(key) => Ok(key),
            None => Err(StoreError::NoKey { file: store.to_owned(), key: self.file.clone() }),
        }
    }

    /// Reads the key for a store that is about to be made, making it if there is none.
    pub(super) fn read_or_make(&self, rng: &mut dyn Random) -> Result<MasterKey, StoreError> {
        if let Some(key) = self.try_read()? {
            return Ok(key);
        }
        self.make(rng).map_err(|e| StoreError::io(&self.file, e))?;
        // Read back: if two processes start at once, both use the key that was first.
        self.try_read()?.ok_or_else(|| StoreError::io(&self.file, io::ErrorKind::NotFound.into()))
    }

    fn try_read(&self) -> Result<Option<MasterKey>, StoreError> {
        let file = match File::open(&self.file) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(StoreError::io(&self.file, e)),
        };
        let mode = file.metadata().map_err(|e| StoreError::io(&self.file, e))?.mode();
        if !self.managed && mode & 0o077 != 0 {
            return Err(StoreError::Exposed { file: self.file.clone(), mode: mode & 0o777 });
        }
        let mut text = Zeroizing::new(Vec::with_capacity(128));
        file.take(128).read_to_end(&mut text).map_err(|e| StoreError::io(&self.file, e))?;
        match decode(&text) {
            Some(key) => Ok(Some(MasterKey(key))),
            None => Err(StoreError::NoMasterKey(self.file.clone())),
        }
    }

    /// The file appears whole or not at all, and never replaces another.
    fn make(&self, rng: &mut dyn Random) -> io::Result<()> {
        let directory = make_parent(&self.file)?;
        let mut key = Zeroizing::new([0; KEY_LEN]);
        rng.fill(&mut *key);
        let mut text = Zeroizing::new(String::with_capacity(2 * KEY_LEN + 1));
        for byte in key.iter() {
            text.push(char::from_digit(u32::from(byte >> 4), 16).unwrap_or('0'));
            text.push(char::from_digit(u32::from(byte & 15), 16).unwrap_or('0'));
        }
        text.push('\n');
        let fresh = beside(&self.file, &format!(".{}.new", std::process::id()));
        let _ = std::fs::remove_file(&fresh);
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&fresh)?;
        let written = file.write_all(text.as_bytes()).and_then(|()| file.sync_all());
        let linked = written.and_then(|()| std::fs::hard_link(&fresh, &self.file));
        std::fs::remove_file(&fresh)?;
        match linked {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => Err(e),
            Ok(()) | Err(_) => File::open(directory)?.sync_all(),
        }
    }
}

/// 64 hexadecimal digits, with white space around them.
fn decode(text: &[u8]) -> Option<Secret> {
    let digits = text.trim_ascii();
    if digits.len() != 2 * KEY_LEN {
        return None;
    }
    let nibble = |b: u8| char::from(b).to_digit(16).and_then(|d| u8::try_from(d).ok());
    let mut key = Zeroizing::new(Vec::with_capacity(KEY_LEN));
    for pair in digits.chunks_exact(2) {
        key.push(nibble(pair[0])? << 4 | nibble(pair[1])?);
    }
    Some(Secret::new(std::mem::take(&mut *key)))
}

/// Makes the directory of a file for this user alone, if it is not there; returns it.
pub(crate) fn make_parent(file: &Path) -> io::Result<&Path> {
    let directory = match file.parent() {
        Some(d) if !d.as_os_str().is_empty() => d,
        Some(_) | None => Path::new("."),
    };
    DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    Ok(directory)
}

/// A name beside a file.
pub(super) fn beside(file: &Path, suffix: &str) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}
