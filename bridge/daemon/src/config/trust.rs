//! Files that say whom to trust. They are read at the start, and again when they have changed.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use keyferry_crypto::x509::{Certificate, Crl, OcspAnswer, Revocation, TrustStore};
use keyferry_model::credentials::Trust;

use super::certificates::{Doubt, MAX_CERTIFICATES};
use super::secrets;

/// Longest file of revocation lists, in octets.
const MAX_LISTS: u64 = 64 << 20;

/// Most files of a directory.
const MAX_FILES: usize = 10_000;

/// Names of files and directories, and what is to be made of them.
#[derive(Clone, Debug)]
pub struct TrustFiles {
    /// Anchors, in PEM.
    pub(super) anchors: Vec<PathBuf>,
    /// Revocation lists, in PEM or DER.
    pub(super) lists: Vec<PathBuf>,
    /// OCSP answers, in DER.
    pub(super) answers: Vec<PathBuf>,
    pub(super) revocation: Revocation,
    pub(super) reload: Duration,
}

/// How the files looked when they were read: a file that is written or comes or goes changes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stamp(BTreeMap<PathBuf, Option<(SystemTime, u64)>>);

impl TrustFiles {
    /// How often to look whether they have changed.
    #[must_use]
    pub fn reload(&self) -> Duration {
        self.reload
    }

    /// How the files look now.
    #[must_use]
    pub fn stamp(&self) -> Stamp {
        let named = self.anchors.iter().chain(&self.lists).chain(&self.answers);
        let all = named.flat_map(|path| files(path).unwrap_or_else(|_| vec![path.clone()]));
        let look = |path: &PathBuf| path.metadata().and_then(|m| Ok((m.modified()?, m.len()))).ok();
        Stamp(all.map(|path| (path.clone(), look(&path))).collect())
    }

    /// Reads them, and says what is worth a word.
    ///
    /// # Errors
    /// One of them cannot be read or is not what it ought to be.
    pub fn load(&self, wall: Duration) -> Result<(Trust, Vec<Doubt>), Doubt> {
        let mut doubts = Vec::new();
        let mut doubt = |key, what: String, remedy: &str| doubts.push(Doubt { key, what, remedy: remedy.to_owned() });
        let mut anchors: Vec<Certificate> = Vec::new();
        for anchor in read("trust", &self.anchors, MAX_CERTIFICATES, Certificate::all_from_pem)? {
            if anchor.not_after() < wall {
                doubt("trust", format!("the certificate of {} has expired", anchor.subject()), "name a new one");
            }
            if !anchors.contains(&anchor) {
                anchors.push(anchor);
            }
        }
        if anchors.is_empty() {
            let (what, remedy) = ("there is no certificate in it".to_owned(), "name a PEM file of a CA".to_owned());
            return Err(Doubt { key: "trust", what, remedy });
        }
        let lists = read("crl", &self.lists, MAX_LISTS, Crl::all_from_pem_or_der)?;
        for list in &lists {
            if list.next_update().is_some_and(|next| next <= wall) {
                let what = format!("the revocation list of {} is out of date: its members are refused", list.issuer());
                doubt("crl", what, "fetch the present one");
            }
        }
        let answers =
            read("ocsp", &self.answers, MAX_CERTIFICATES, |octets| OcspAnswer::from_der(octets).map(|a| vec![a]))?;
        if self.revocation == Revocation::Require && lists.is_empty() && answers.is_empty() {
            let what = "\"require\" without a revocation list or OCSP answer refuses everybody";
            doubt("revocation", what.to_owned(), "add crl = [\"FILE\"]");
        }
        let store = Arc::new(TrustStore::new(anchors, lists, self.revocation));
        for (list, why) in store.unverified() {
            let what = format!("the revocation list of {} {why}", list.issuer());
            doubt("crl", what, "fetch one that its CA has signed with its present key, by SHA-256 or better");
        }
        Ok((Trust { store, ocsp: answers.into() }, doubts))
    }
}

/// All that the files of a key hold.
fn read<T, E: std::fmt::Display>(
    key: &'static str,
    paths: &[PathBuf],
    most: u64,
    parse: impl Fn(&[u8]) -> Result<Vec<T>, E>,
) -> Result<Vec<T>, Doubt> {
    let fault = |what: String| {
        let remedy = match key {
            "trust" => "name PEM files of CA certificates, or directories that hold nothing else",
            "crl" => "name revocation lists in PEM or DER, or directories that hold nothing else",
            _ => "name OCSP answers in DER, or directories that hold nothing else",
        };
        Doubt { key, what, remedy: remedy.to_owned() }
    };
    let mut all = Vec::new();
    for path in paths {
        for file in files(path).map_err(|e| fault(format!("{}: {e}", path.display())))? {
            let octets = secrets::read_open(&file, most).map_err(fault)?;
            all.extend(parse(&octets).map_err(|e| fault(format!("{}: {e}", file.display())))?);
        }
    }
    Ok(all)
}

/// The file itself, or the files of a directory in order of their names; hidden ones and directories within are left out.
fn files(path: &Path) -> std::io::Result<Vec<PathBuf>> {
    if !path.metadata()?.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut found = Vec::new();
    for entry in path.read_dir()? {
        let entry = entry?;
        let hidden = entry.file_name().as_encoded_bytes().starts_with(b".");
        // A link counts as what it leads to.
        if !hidden && entry.path().is_file() {
            found.push(entry.path());
        }
        if found.len() > MAX_FILES {
            return Err(std::io::Error::other("there are too many files in it"));
        }
    }
    found.sort();
    Ok(found)
}
