//! One certificate (RFC 5280, section 4.1).
//!
//! ```text
//! Certificate ::= SEQUENCE {
//!   tbsCertificate SEQUENCE {
//!     version [0], serialNumber, signature, issuer, validity, subject, subjectPublicKeyInfo,
//!     issuerUniqueID [1], subjectUniqueID [2], extensions [3] },
//!   signatureAlgorithm, signatureValue BIT STRING }
//! ```

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use super::extensions::Extensions;
use super::time::time;
use super::{CertificateError, DistinguishedName, MAX_CERTIFICATE, pem};
use crate::der::{self, Reader, tag};
use crate::signature::{SignatureAlgorithm, VerifyingKey};

/// A certificate. Copies share it.
#[derive(Clone)]
pub struct Certificate(Arc<Fields>);

struct Fields {
    der: Vec<u8>,
    signed: Signed,
    serial: Vec<u8>,
    issuer: DistinguishedName,
    not_before: Duration,
    not_after: Duration,
    subject: DistinguishedName,
    key: Arc<VerifyingKey>,
    extensions: Extensions,
}

/// A name that stands beside the subject.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AltName {
    /// iPAddress.
    Ip(IpAddr),
    /// dNSName.
    Dns(String),
    /// rfc822Name.
    Email(String),
    /// directoryName.
    Dn(DistinguishedName),
}

impl Certificate {
    /// Reads DER, as a peer sent it.
    ///
    /// # Errors
    /// It is too large, is no certificate of version 3 (or of an older one, without extensions), or its key is none that
    /// [`VerifyingKey::from_spki`] takes.
    pub fn from_der(octets: &[u8]) -> Result<Self, CertificateError> {
        if octets.len() > MAX_CERTIFICATE {
            return Err(CertificateError::TooLarge);
        }
        let (mut tbs, signed) = Signed::read(octets)?;
        if let Some(version) = tbs.optional(tag::constructed(0))? {
            let mut inner = Reader::new(version.body);
            // v1 is 0, and not written.
            if !matches!(inner.unsigned()?, [] | [1 | 2]) {
                return Err(CertificateError::Malformed("an unknown version"));
            }
            inner.end()?;
        }
        let serial = tbs.integer()?.to_vec();
        if tbs.whole_sequence()? != signed.algorithm {
            return Err(CertificateError::Malformed("two signature algorithms"));
        }
        let issuer = DistinguishedName::read(tbs.whole_sequence()?)?;
        let mut validity = tbs.sequence()?;
        let (not_before, not_after) = (time(validity.value()?)?, time(validity.value()?)?);
        validity.end()?;
        let subject = DistinguishedName::read(tbs.whole_sequence()?)?;
        let key = Arc::new(VerifyingKey::from_spki(tbs.whole_sequence()?)?);
        tbs.optional(tag::primitive(1))?;
        tbs.optional(tag::primitive(2))?;
        let extensions = match tbs.optional(tag::constructed(3))? {
            Some(all) => Extensions::read(der::only_sequence(all.body)?)?,
            None => Extensions::default(),
        };
        tbs.end()?;
        let der = octets.to_vec();
        let fields = Fields { der, signed, serial, issuer, not_before, not_after, subject, key, extensions };
        Ok(Self(Arc::new(fields)))
    }

    /// Reads all certificates of a PEM file, in order.
    ///
    /// # Errors
    /// One of them cannot be read, or there is none.
    pub fn all_from_pem(octets: &[u8]) -> Result<Vec<Self>, CertificateError> {
        let blocks = pem::blocks(octets, "CERTIFICATE").ok_or(CertificateError::Malformed("broken PEM"))?;
        if blocks.is_empty() {
            return Err(CertificateError::Malformed("no certificate in PEM"));
        }
        blocks.iter().map(|block| Self::from_der(block)).collect()
    }

    /// The octets it was read from.
    #[must_use]
    pub fn der(&self) -> &[u8] {
        &self.0.der
    }

    /// Whose it is.
    #[must_use]
    pub fn subject(&self) -> &DistinguishedName {
        &self.0.subject
    }

    /// Who has issued it.
    #[must_use]
    pub fn issuer(&self) -> &DistinguishedName {
        &self.0.issuer
    }

    /// The names that stand beside the subject.
    #[must_use]
    pub fn names(&self) -> &[AltName] {
        &self.0.extensions.names
    }

    /// The key.
    #[must_use]
    pub fn public_key(&self) -> Arc<VerifyingKey> {
        Arc::clone(&self.0.key)
    }

    /// From when on it is valid, since the epoch.
    #[must_use]
    pub fn not_before(&self) -> Duration {
        self.0.not_before
    }

    /// Until when it is valid, since the epoch.
    #[must_use]
    pub fn not_after(&self) -> Duration {
        self.0.not_after
    }

    /// Is it a CA's?
    #[must_use]
    pub fn is_ca(&self) -> bool {
        self.0.extensions.ca.is_some()
    }

    /// The serial number, two's complement.
    pub(super) fn serial(&self) -> &[u8] {
        &self.0.serial
    }

    pub(super) fn extensions(&self) -> &Extensions {
        &self.0.extensions
    }

    pub(super) fn signed(&self) -> &Signed {
        &self.0.signed
    }

    pub(super) fn key(&self) -> &VerifyingKey {
        &self.0.key
    }
}

impl PartialEq for Certificate {
    fn eq(&self, other: &Self) -> bool {
        self.0.der == other.0.der
    }
}

impl Eq for Certificate {}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Certificate({})", self.0.subject)
    }
}

/// What is signed, by which algorithm, and the signature: the frame of certificates, revocation lists and OCSP answers.
pub(super) struct Signed {
    /// The octets that are signed.
    pub(super) content: Vec<u8>,
    /// DER AlgorithmIdentifier.
    pub(super) algorithm: Vec<u8>,
    pub(super) value: Vec<u8>,
}

impl Signed {
    /// SEQUENCE { content SEQUENCE, algorithm, value BIT STRING }; also returns the fields of the content.
    pub(super) fn read(octets: &[u8]) -> Result<(Reader<'_>, Self), CertificateError> {
        let mut fields = der::only_sequence(octets)?;
        let (content, signed) = Self::read_fields(&mut fields)?;
        fields.end()?;
        Ok((content, signed))
    }

    /// As [`read`](Self::read), from a SEQUENCE in which more may follow.
    pub(super) fn read_fields<'a>(fields: &mut Reader<'a>) -> Result<(Reader<'a>, Self), CertificateError> {
        let content = fields.whole_sequence()?;
        let algorithm = fields.whole_sequence()?.to_vec();
        let value = fields.octet_bits()?.to_vec();
        Ok((der::only_sequence(content)?, Self { content: content.to_vec(), algorithm, value }))
    }

    /// Is the algorithm taken?
    pub(super) fn has_known_algorithm(&self) -> bool {
        self.known().is_some()
    }

    fn known(&self) -> Option<SignatureAlgorithm> {
        SignatureAlgorithm::from_der(&self.algorithm).filter(|a| !a.is_weak())
    }

    /// Is it signed by this key? `None` if the algorithm is not taken.
    pub(super) fn verify(&self, key: &VerifyingKey) -> Option<bool> {
        Some(key.verify_named(self.known()?, &self.content, &self.value))
    }
}
