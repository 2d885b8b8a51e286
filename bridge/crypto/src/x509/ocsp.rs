//! OCSP answers (RFC 6960, section 4.2).

use std::time::Duration;

use super::certificate::{Certificate, Signed};
use super::crl::Standing;
use super::time::time;
use super::{CertificateError, MAX_CERTIFICATE, MAX_CHAIN};
use crate::Hash;
use crate::der::{self, Reader, tag};

/// An OCSP answer as it was received. It proves nothing before its signature is checked.
pub struct OcspAnswer {
    signed: Signed,
    about: Vec<About>,
    certificates: Vec<Certificate>,
}

/// What an answer says about one certificate.
struct About {
    hash: Hash,
    issuer_name: Vec<u8>,
    issuer_key: Vec<u8>,
    serial: Vec<u8>,
    standing: Standing,
    this_update: Duration,
    next_update: Option<Duration>,
}

/// How long an answer that names no next one is taken.
const DAY: Duration = Duration::from_secs(86_400);

impl OcspAnswer {
    /// Reads a DER OCSPResponse.
    ///
    /// # Errors
    /// It cannot be read, is too large, or says that the responder has no answer.
    pub fn from_der(octets: &[u8]) -> Result<Self, CertificateError> {
        // id-pkix-ocsp-basic
        const BASIC: &[u8] = b"\x2b\x06\x01\x05\x05\x07\x30\x01\x01";
        if octets.len() > 2 * MAX_CERTIFICATE {
            return Err(CertificateError::TooLarge);
        }
        // OCSPResponse ::= SEQUENCE { responseStatus, responseBytes [0] { responseType, response OCTET STRING } }
        let mut response = der::only_sequence(octets)?;
        if response.expect(tag::ENUMERATED)? != [0] {
            return Err(CertificateError::Malformed("the responder has no answer"));
        }
        let mut bytes = der::only_sequence(response.expect(tag::constructed(0))?)?;
        response.end()?;
        if bytes.expect(tag::OID)? != BASIC {
            return Err(CertificateError::Malformed("an unknown kind of OCSP answer"));
        }
        // BasicOCSPResponse ::= SEQUENCE { tbsResponseData, signatureAlgorithm, signature, certs [0] }
        let mut basic = der::only_sequence(bytes.expect(tag::OCTET_STRING)?)?;
        bytes.end()?;
        let (mut data, signed) = Signed::read_fields(&mut basic)?;
        let mut certificates = Vec::new();
        if let Some(all) = basic.optional(tag::constructed(0))? {
            let mut all = der::only_sequence(all.body)?;
            while !all.is_empty() {
                certificates.push(Certificate::from_der(all.whole_sequence()?)?);
                if certificates.len() > MAX_CHAIN {
                    return Err(CertificateError::TooLarge);
                }
            }
        }
        basic.end()?;
        // ResponseData ::= SEQUENCE { version [0], responderID [1] or [2], producedAt, responses, responseExtensions [1] }
        data.optional(tag::constructed(0))?;
        if data.optional(tag::constructed(1))?.is_none() {
            data.expect(tag::constructed(2))?;
        }
        time(data.value()?)?;
        let mut responses = data.sequence()?;
        let mut about = Vec::new();
        while !responses.is_empty() {
            about.extend(single(responses.sequence()?)?);
        }
        Ok(Self { signed, about, certificates })
    }

    /// What the answer says about a certificate of this issuer, if the issuer has signed it, or somebody whom the issuer
    /// has made a responder (section 4.2.2.2) and not revoked since, as far as lists tell.
    pub(super) fn standing(
        &self,
        certificate: &Certificate,
        issuer: &Certificate,
        wall: Duration,
        revoked: &dyn Fn(&Certificate) -> bool,
    ) -> Standing {
        let about = self.about.iter().find(|about| about.is(certificate, issuer));
        let Some(about) = about.filter(|_| self.is_by(issuer, wall, revoked)) else { return Standing::Unknown };
        let until = about.next_update.unwrap_or(about.this_update + DAY);
        if about.standing != Standing::Revoked && (about.this_update > wall || until <= wall) {
            return Standing::Stale;
        }
        about.standing
    }

    /// Does it call a certificate of this serial number and of an issuer of this name revoked, whoever has made it?
    pub(super) fn lists(&self, certificate: &Certificate) -> bool {
        let named = |about: &About| {
            about.serial == certificate.serial()
                && about.issuer_name == about.hash.digest(&[certificate.issuer().der()])
        };
        self.about.iter().any(|about| about.standing == Standing::Revoked && named(about))
    }

    fn is_by(&self, issuer: &Certificate, wall: Duration, revoked: &dyn Fn(&Certificate) -> bool) -> bool {
        let by = |key| self.signed.verify(key) == Some(true);
        let responder = |c: &&Certificate| {
            c.extensions().extended.is_some_and(|usage| usage.ocsp)
                && c.extensions().key_usage.is_none_or(|usage| usage.signs())
                && !c.extensions().unknown
                && (c.not_before()..=c.not_after()).contains(&wall)
                && c.issuer() == issuer.subject()
                && !revoked(c)
        };
        by(issuer.key())
            || self
                .certificates
                .iter()
                .filter(responder)
                .any(|c| by(c.key()) && c.signed().verify(issuer.key()) == Some(true))
    }
}

impl About {
    fn is(&self, certificate: &Certificate, issuer: &Certificate) -> bool {
        self.serial == certificate.serial()
            && self.issuer_name == self.hash.digest(&[certificate.issuer().der()])
            && key_octets(issuer).is_some_and(|key| self.issuer_key == self.hash.digest(&[key]))
    }
}

/// The key as in the BIT STRING of its SubjectPublicKeyInfo, which is what a certificate ID hashes.
fn key_octets(certificate: &Certificate) -> Option<&[u8]> {
    let mut spki = der::only_sequence(certificate.key().spki()).ok()?;
    spki.sequence().ok()?;
    spki.octet_bits().ok()
}

/// SingleResponse ::= SEQUENCE { certID { hashAlgorithm, issuerNameHash, issuerKeyHash, serialNumber },
/// certStatus good [0], revoked [1] or unknown [2], thisUpdate, nextUpdate [0], singleExtensions [1] }.
/// `None` if the ID is made with a hash that is not known.
fn single(mut fields: Reader<'_>) -> Result<Option<About>, CertificateError> {
    let mut id = fields.sequence()?;
    let hash = match id.sequence()?.expect(tag::OID)? {
        b"\x2b\x0e\x03\x02\x1a" => Some(Hash::Sha1),
        b"\x60\x86\x48\x01\x65\x03\x04\x02\x01" => Some(Hash::Sha256),
        b"\x60\x86\x48\x01\x65\x03\x04\x02\x02" => Some(Hash::Sha384),
        b"\x60\x86\x48\x01\x65\x03\x04\x02\x03" => Some(Hash::Sha512),
        _ => None,
    };
    let issuer_name = id.expect(tag::OCTET_STRING)?.to_vec();
    let issuer_key = id.expect(tag::OCTET_STRING)?.to_vec();
    let serial = id.integer()?.to_vec();
    id.end()?;
    const GOOD: u8 = tag::primitive(0);
    const REVOKED: u8 = tag::constructed(1);
    let standing = match fields.value()?.tag {
        GOOD => Standing::Good,
        REVOKED => Standing::Revoked,
        _ => Standing::Unknown,
    };
    let this_update = time(fields.value()?)?;
    let mut next_update = None;
    if let Some(next) = fields.optional(tag::constructed(0))? {
        let mut inner = Reader::new(next.body);
        next_update = Some(time(inner.value()?)?);
        inner.end()?;
    }
    let about = |hash| About { hash, issuer_name, issuer_key, serial, standing, this_update, next_update };
    Ok(hash.map(about))
}

impl std::fmt::Debug for OcspAnswer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "OcspAnswer({} certificates)", self.about.len())
    }
}
