//! The check of a peer that authenticates by certificate: its signature, then its certificate.

use std::sync::Arc;
use std::time::Duration;

use crate::secret::Secret;
use crate::signature::{KeyKind, SignatureForm};
use crate::x509::{Certificate, CertificateError, OcspAnswer, TrustStore};

/// What a peer proves itself with, and what it is held against.
#[derive(Debug)]
pub struct PeerCheck {
    /// Anchors and revocation.
    pub trust: Arc<TrustStore>,
    /// Answers of OCSP responders.
    pub ocsp: Arc<[OcspAnswer]>,
    /// The time by the wall clock, since 1970.
    pub wall: Duration,
    /// The kind of key, if one was agreed on.
    pub kind: Option<KeyKind>,
    /// DER of certificates as the peer sent them.
    pub certificates: Vec<Vec<u8>>,
    /// Ways to sign that are taken, with what is signed; the likely one first.
    pub readings: Vec<(SignatureForm, Secret)>,
    /// The signature.
    pub signature: Vec<u8>,
}

/// A peer that has signed, with a certificate that is trusted.
#[derive(Debug)]
pub struct CheckedPeer {
    /// Its certificate.
    pub certificate: Certificate,
    /// Which of the readings the signature is of.
    pub reading: usize,
}

/// Why a peer is not what it claims.
#[derive(Debug, thiserror::Error)]
pub enum PeerError {
    /// There is no certificate that can be read, with a key of the kind agreed on.
    #[error("no certificate of use")]
    NoCertificate,
    /// The signature is not by the certificate's key: somebody else may have altered the message.
    #[error("wrong signature")]
    Signature,
    /// The peer has signed, but its certificate is not trusted.
    #[error("certificate: {0}")]
    Untrusted(CertificateError),
    /// The check was not done.
    #[error("not done")]
    NotDone,
}

impl PeerCheck {
    /// Checks. The signature comes first, because only what is signed is known to be the peer's.
    ///
    /// # Errors
    /// What is wrong.
    pub fn run(&self) -> Result<CheckedPeer, PeerError> {
        // What cannot be read is left out: some send issuers that are of no use here beside those that are.
        let mut chain: Vec<Certificate> =
            self.certificates.iter().filter_map(|der| Certificate::from_der(der).ok()).collect();
        // The peer's own comes first by custom; certainly it is none that issued another.
        let issues = |c: &Certificate| chain.iter().any(|other| other.issuer() == c.subject());
        let own = chain.iter().position(|c| !issues(c)).unwrap_or(0);
        if own >= chain.len() {
            return Err(PeerError::NoCertificate);
        }
        let certificate = chain.remove(own);
        let key = certificate.public_key();
        if self.kind.is_some_and(|kind| key.kind() != kind) {
            return Err(PeerError::NoCertificate);
        }
        let signed = |(how, octets): &(SignatureForm, Secret)| key.verify_form(*how, octets.expose(), &self.signature);
        let reading = self.readings.iter().position(signed).ok_or(PeerError::Signature)?;
        self.trust.check(&certificate, &chain, self.wall, &self.ocsp).map_err(PeerError::Untrusted)?;
        Ok(CheckedPeer { certificate, reading })
    }
}
