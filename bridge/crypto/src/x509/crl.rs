//! Certificate revocation lists (RFC 5280, section 5).

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use super::certificate::{Certificate, Signed};
use super::extensions::{self, oid};
use super::time::time;
use super::{CertificateError, DistinguishedName, pem};
use crate::der::{self, Reader, tag};

/// A complete revocation list of one issuer. Copies share it.
#[derive(Clone)]
pub struct Crl(Arc<Fields>);

struct Fields {
    signed: Signed,
    issuer: DistinguishedName,
    this_update: Duration,
    next_update: Option<Duration>,
    revoked: BTreeSet<Vec<u8>>,
    scope: Scope,
}

/// Which certificates of its issuer a list is about (section 5.2.5).
#[derive(Default)]
struct Scope {
    kind: Kind,
    /// Those that name one of these distribution points; all of them if there is none.
    points: Option<Vec<Vec<u8>>>,
}

#[derive(Clone, Copy, Default)]
enum Kind {
    #[default]
    All,
    Users,
    Cas,
}

impl Scope {
    fn holds(&self, certificate: &Certificate) -> bool {
        let named = &certificate.extensions().distribution_points;
        let kind = match self.kind {
            Kind::All => true,
            Kind::Users => !certificate.is_ca(),
            Kind::Cas => certificate.is_ca(),
        };
        kind && self.points.as_ref().is_none_or(|points| points.iter().any(|point| named.contains(point)))
    }
}

/// What a list says about a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// Not of this issuer, not about such certificates, or not signed by that key.
    Unknown,
    /// The list is out of date, or of the future, and does not call it revoked.
    Stale,
    Good,
    Revoked,
}

impl Crl {
    /// Reads the lists of a file: PEM, or one in DER.
    ///
    /// # Errors
    /// One of them cannot be read, there is none, or one is of a kind that is not taken: a delta, one of several issuers, one
    /// of some reasons only.
    pub fn all_from_pem_or_der(octets: &[u8]) -> Result<Vec<Self>, CertificateError> {
        if octets.first() == Some(&tag::SEQUENCE) {
            return Ok(vec![Self::from_der(octets)?]);
        }
        let blocks = pem::blocks(octets, "X509 CRL").ok_or(CertificateError::Malformed("broken PEM"))?;
        if blocks.is_empty() {
            return Err(CertificateError::Malformed("no revocation list, neither PEM nor DER"));
        }
        blocks.iter().map(|block| Self::from_der(block)).collect()
    }

    fn from_der(octets: &[u8]) -> Result<Self, CertificateError> {
        let (mut list, signed) = Signed::read(octets)?;
        // Version 2 is 1 (section 5.1.2.1); version 1 is not written.
        if list.optional(tag::INTEGER)?.is_some_and(|v| v.body != [1]) {
            return Err(CertificateError::Malformed("an unknown version"));
        }
        if list.whole_sequence()? != signed.algorithm {
            return Err(CertificateError::Malformed("two signature algorithms"));
        }
        let issuer = DistinguishedName::read(list.whole_sequence()?)?;
        let this_update = time(list.value()?)?;
        let mut next_update = None;
        for kind in [tag::UTC_TIME, tag::GENERALIZED_TIME] {
            if let Some(value) = list.optional(kind)? {
                next_update = Some(time(value)?);
            }
        }
        let mut revoked = BTreeSet::new();
        if let Some(entries) = list.optional(tag::SEQUENCE)? {
            let mut entries = Reader::new(entries.body);
            while !entries.is_empty() {
                revoked.insert(entry(entries.sequence()?)?);
            }
        }
        let mut scope = Scope::default();
        if let Some(all) = list.optional(tag::constructed(0))? {
            for extension in extensions::list(der::only_sequence(all.body)?)? {
                match extension.oid {
                    oid::ISSUING_DISTRIBUTION_POINT => scope = distribution(extension.value)?,
                    oid::DELTA_CRL => return Err(CertificateError::Malformed("a delta of a revocation list")),
                    _ if extension.critical => return Err(UNKNOWN),
                    _ => {}
                }
            }
        }
        list.end()?;
        Ok(Self(Arc::new(Fields { signed, issuer, this_update, next_update, revoked, scope })))
    }

    /// Whose list it is.
    #[must_use]
    pub fn issuer(&self) -> &DistinguishedName {
        &self.0.issuer
    }

    /// When the next one is due, since the epoch; without it the list never is out of date.
    #[must_use]
    pub fn next_update(&self) -> Option<Duration> {
        self.0.next_update
    }

    /// Is the list signed by this CA, which may sign some?
    pub(super) fn is_by(&self, issuer: &Certificate) -> bool {
        self.0.issuer == *issuer.subject()
            && issuer.extensions().key_usage.is_none_or(|usage| usage.signs_crls())
            && self.0.signed.verify(issuer.key()) == Some(true)
    }

    /// Is it signed by an algorithm that is taken?
    pub(super) fn has_known_signature(&self) -> bool {
        self.0.signed.has_known_algorithm()
    }

    /// Does it bear the name of this certificate's issuer, and is it about such certificates?
    pub(super) fn is_of(&self, certificate: &Certificate) -> bool {
        self.0.issuer == *certificate.issuer() && self.0.scope.holds(certificate)
    }

    /// May it be this CA's, but cannot count: by its algorithm, or because the CA has signed it and may not?
    pub(super) fn is_unusable_by(&self, issuer: &Certificate) -> bool {
        match self.0.signed.verify(issuer.key()) {
            None => true,
            Some(signed) => signed && !issuer.extensions().key_usage.is_none_or(|usage| usage.signs_crls()),
        }
    }

    /// Is it revoked by this list, whatever the time?
    pub(super) fn lists(&self, certificate: &Certificate) -> bool {
        self.is_of(certificate) && self.0.revoked.contains(certificate.serial())
    }

    /// What the list says about a certificate of its issuer. Revoked stays revoked in an old list.
    pub(super) fn standing(&self, certificate: &Certificate, wall: Duration) -> Standing {
        if !self.is_of(certificate) {
            return Standing::Unknown;
        }
        if self.lists(certificate) {
            return Standing::Revoked;
        }
        let current = self.0.this_update <= wall && self.0.next_update.is_none_or(|next| wall < next);
        if current { Standing::Good } else { Standing::Stale }
    }
}

impl std::fmt::Debug for Crl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Crl({}, {} revoked)", self.0.issuer, self.0.revoked.len())
    }
}

const UNKNOWN: CertificateError =
    CertificateError::Malformed("a revocation list with a critical extension that is unknown");

/// SEQUENCE { userCertificate INTEGER, revocationDate, crlEntryExtensions OPTIONAL }: the serial number. Whatever the
/// reason, whoever is on the list is revoked.
fn entry(mut fields: Reader<'_>) -> Result<Vec<u8>, CertificateError> {
    let serial = fields.integer()?.to_vec();
    time(fields.value()?)?;
    if !fields.is_empty() {
        for extension in extensions::list(fields.sequence()?)? {
            // An entry of another issuer (section 5.3.3); others say more about the revocation, even critical ones.
            if extension.oid == oid::CERTIFICATE_ISSUER {
                return Err(CertificateError::Malformed("a revocation list of several issuers"));
            }
        }
    }
    fields.end()?;
    Ok(serial)
}

/// IssuingDistributionPoint ::= SEQUENCE { distributionPoint [0], onlyContainsUserCerts [1], onlyContainsCACerts [2],
/// onlySomeReasons [3], indirectCRL [4], onlyContainsAttributeCerts [5] }
fn distribution(value: &[u8]) -> Result<Scope, CertificateError> {
    const PARTIAL: CertificateError = CertificateError::Malformed("a partial or indirect revocation list");
    let mut fields = der::only_sequence(value)?;
    let mut scope = Scope::default();
    if let Some(point) = fields.optional(tag::constructed(0))? {
        // A name relative to the issuer's is written by nobody.
        let names = extensions::point_names(point.body)?;
        scope.points = Some(names).filter(|names| !names.is_empty());
        if scope.points.is_none() {
            return Err(PARTIAL);
        }
    }
    while !fields.is_empty() {
        let field = fields.value()?;
        let set = match field.body {
            [0] => false,
            [0xff] => true,
            _ => return Err(PARTIAL),
        };
        match (field.tag, set) {
            (_, false) => {}
            (kind, true) if kind == tag::primitive(1) => scope.kind = Kind::Users,
            (kind, true) if kind == tag::primitive(2) => scope.kind = Kind::Cas,
            _ => return Err(PARTIAL),
        }
    }
    Ok(scope)
}
