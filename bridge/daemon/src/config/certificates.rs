//! Certificates: our own, whose we trust, and what is revoked.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use keyferry_crypto::SigningKey;
use keyferry_crypto::x509::{Certificate, MAX_CHAIN, Revocation};
use keyferry_model::credentials::{OwnCertificate, Trust};

use super::secrets::{self, Faulty};
use super::section::Section;
use super::trust::TrustFiles;
use crate::random::Clock;

/// What a `[gateway]` or `[member]` table says about certificates.
#[derive(Debug, Default)]
pub struct Certificates {
    /// Our own, best first.
    pub own: Vec<OwnCertificate>,
    /// What certificates of peers are held against.
    pub trust: Option<Trust>,
    /// The files that it came from, which may change.
    pub files: Option<TrustFiles>,
}

/// Longest file of a private key, in octets.
const MAX_KEY: u64 = 64 << 10;

/// Longest file of certificates, in octets.
pub(super) const MAX_CERTIFICATES: u64 = 4 << 20;

/// How long before its end a certificate of our own is worth a word.
const SOON: Duration = Duration::from_secs(14 * 86_400);

const MINUTE: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(86_400);

const REVOCATION: &[(&str, Revocation)] =
    &[("ignore", Revocation::Ignore), ("if-known", Revocation::IfKnown), ("require", Revocation::Require)];

/// Reads the keys about certificates of a table. Where one side proves itself otherwise, only ours or only the trust in others
/// may be there.
pub(super) fn read(section: &mut Section<'_>, one_sided: bool) -> Certificates {
    let wall = Clock::new().now().wall;
    let ours = section.has("certificate") || section.has("private_key");
    let own = own(section, wall);
    let files = TrustFiles {
        anchors: section.paths("trust").unwrap_or_default(),
        lists: section.paths("crl").unwrap_or_default(),
        answers: ocsp(section),
        revocation: section.choice("revocation", REVOCATION, Revocation::IfKnown),
        reload: section.duration("crl_reload", Duration::from_secs(1)..=DAY, MINUTE),
    };
    if files.anchors.is_empty() {
        for (key, paths) in [("crl", &files.lists), ("ocsp", &files.answers)] {
            if !paths.is_empty() {
                section.error(
                    key,
                    "stands without trust, so that nobody's certificate is taken",
                    "add trust = [\"FILE\"]",
                );
            }
        }
        if !own.is_empty() && !one_sided {
            section.error(
                "certificate",
                "stands without trust, so that no peer can prove itself in turn",
                "add trust = [\"FILE\"] with the certificates of the CAs that issue for the peers",
            );
        }
        return Certificates { own, trust: None, files: None };
    }
    if !ours && !one_sided {
        section.error(
            "trust",
            "stands without a certificate of our own, with which we would prove ourselves in turn",
            "add certificate = \"FILE\" and private_key = \"FILE\"",
        );
    }
    match files.load(wall) {
        Ok((trust, doubts)) => {
            doubts.into_iter().for_each(|doubt| section.warning(doubt.key, doubt.what, doubt.remedy));
            Certificates { own, trust: Some(trust), files: Some(files) }
        }
        Err(fault) => {
            section.error(fault.key, fault.what, fault.remedy);
            Certificates { own, trust: None, files: None }
        }
    }
}

/// Files of OCSP answers, as something else fetches them.
fn ocsp(section: &mut Section<'_>) -> Vec<std::path::PathBuf> {
    let Some(texts) = section.texts("ocsp") else { return Vec::new() };
    match texts.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["off"] => Vec::new(),
        ["http" | "staple"] => {
            section.error(
                "ocsp",
                format!("{:?} is not there: answers are neither fetched nor taken from peers", texts[0]),
                "fetch answers with: openssl ocsp -respout FILE, and name the files or their directory; or use crl",
            );
            Vec::new()
        }
        _ => texts.iter().map(|text| section.document().directory().join(text)).collect(),
    }
}

/// Our certificates with their keys.
fn own(section: &mut Section<'_>, wall: Duration) -> Vec<OwnCertificate> {
    let chains = section.paths("certificate").unwrap_or_default();
    let keys = section.paths("private_key").unwrap_or_default();
    if chains.len() != keys.len() {
        let (key, what) = match (chains.is_empty(), keys.is_empty()) {
            (true, _) => ("private_key", "stands without certificate".to_owned()),
            (_, true) => ("certificate", "stands without private_key".to_owned()),
            _ => ("private_key", format!("names {} files, and certificate {}", keys.len(), chains.len())),
        };
        section.error(key, what, "name for each certificate its private key, in the same order");
        return Vec::new();
    }
    let mut all: Vec<OwnCertificate> = Vec::new();
    for (chain, key) in chains.iter().zip(&keys) {
        let chain = read_chain(section, chain, wall);
        let key = match read_key(key) {
            Ok(key) => Some(key),
            Err((what, remedy)) => {
                section.error("private_key", what, remedy);
                None
            }
        };
        let (Some(chain), Some(key)) = (chain, key) else { continue };
        let Some(leaf) = chain.first() else { continue };
        if leaf.public_key().spki() != key.public_spki() {
            let what = format!("is not the key of the certificate of {}", leaf.subject());
            section.error("private_key", what, "name the key that the certificate was issued for");
        } else if all.iter().any(|other| other.leaf() == Some(leaf)) {
            section.error("certificate", format!("names that of {} twice", leaf.subject()), "name each one once");
        } else {
            all.push(OwnCertificate { chain, key: Arc::new(key) });
        }
    }
    all
}

/// A certificate and those of its issuers, in order.
fn read_chain(section: &Section<'_>, path: &std::path::Path, wall: Duration) -> Option<Vec<Certificate>> {
    let name = path.display();
    let refuse = |what: String, remedy: &str| {
        section.error("certificate", what, remedy);
        None
    };
    let octets = match secrets::read_open(path, MAX_CERTIFICATES) {
        Ok(octets) => octets,
        Err(what) => return refuse(what, "name a PEM file of certificates that this user may read"),
    };
    let chain = match Certificate::all_from_pem(&octets) {
        Ok(chain) => chain,
        Err(error) => return refuse(format!("{name}: {error}"), "name a PEM file: our certificate, then its issuers'"),
    };
    if chain.len() >= MAX_CHAIN {
        return refuse(format!("{name} has {} certificates", chain.len()), "keep ours and those of its issuers");
    }
    for pair in chain.windows(2) {
        if pair[0].issuer() != pair[1].subject() {
            let what = format!("{name}: {} is followed by {}, not by its issuer", pair[0].subject(), pair[1].subject());
            return refuse(what, "put our certificate first, then that of its issuer, and so on");
        }
    }
    let leaf = chain.first()?;
    if let Some((what, remedy)) = age(leaf, wall) {
        section.warning("certificate", format!("{name}: the certificate of {} {what}", leaf.subject()), remedy);
    }
    Some(chain)
}

/// What is to be said about the time of a certificate.
fn age(certificate: &Certificate, wall: Duration) -> Option<(String, &'static str)> {
    let days = |d: Duration| d.as_secs() / DAY.as_secs();
    let (from, to) = (certificate.not_before(), certificate.not_after());
    if wall > to {
        let what = format!("expired {} days ago: peers refuse it", days(wall - to));
        Some((what, "have a new one issued, or set the clock"))
    } else if wall < from {
        Some((format!("is valid in {} days only: peers refuse it", days(from - wall)), "wait, or set the clock"))
    } else if to - wall < SOON {
        Some((format!("expires in {} days", days(to - wall)), "have a new one issued"))
    } else {
        None
    }
}

fn read_key(path: &std::path::Path) -> Result<SigningKey, Faulty> {
    let name = path.display();
    let make =
        format!("make one with: (umask 077; openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 > {name})");
    let pem = secrets::read_private(path, MAX_KEY, make)?;
    SigningKey::from_pem(pem.expose()).map_err(|error| {
        let remedy = "name a PEM file with an RSA, ECDSA or Edwards key; openssl pkey takes a passphrase off";
        (format!("{name}: {error}"), remedy.to_owned())
    })
}

impl Certificates {
    /// Says so if who a member is depends on which of its certificates it shows.
    pub(super) fn check_one_identity(&self, section: &Section<'_>, identity: Option<&keyferry_model::id::Identity>) {
        let subject = |own: &OwnCertificate| own.leaf().map(|leaf| leaf.subject().clone());
        if identity.is_none() && self.own.iter().any(|own| subject(own) != self.own.first().and_then(subject)) {
            let what = "names certificates with different subjects, which are not one identity";
            section.error("certificate", what, "add identity, as one that all of them name");
        }
    }

    /// Says so if a configured identity is none that a certificate of ours names.
    pub(super) fn check_identity(&self, section: &Section<'_>, identity: Option<&keyferry_model::id::Identity>) {
        let Some(identity) = identity else { return };
        for leaf in self.own.iter().filter_map(OwnCertificate::leaf) {
            if !keyferry_model::credentials::names(leaf, identity) {
                let what =
                    format!("the certificate of {} does not name {identity}: peers may refuse it", leaf.subject());
                section.warning("identity", what, "use its subject (dn:...) or one of its alternative names");
            }
        }
    }
}

/// Something that is worth a word, at a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Doubt {
    /// The key.
    pub key: &'static str,
    /// What.
    pub what: String,
    /// What to do.
    pub remedy: String,
}

impl fmt::Display for Doubt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: {}", self.key, self.what, self.remedy)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
