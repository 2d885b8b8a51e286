//! Certificates in IKE_SA_INIT and in AUTH: asking for them, showing ours, taking the peer's (RFC 7296 sections 3.6 and 3.7).

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use keyferry_crypto::x509::Certificate;
use keyferry_crypto::{Hash, PeerCheck, Secret};
use keyferry_model::credentials::{OwnCertificate, Trust};
use keyferry_wire::{ChainWriter, Encode};

use super::signature::Signed;
use crate::reject::Reject;
use crate::wire::cert::{Cert, CertRequest};
use crate::wire::message::Payloads;
use crate::wire::registry::{CertEncoding, PayloadKind};

/// Certificates taken from one message; chains are shorter.
const MAX_CERTIFICATES: usize = 8;

/// Their octets altogether; they are kept until the check has its turn.
const MAX_CERTIFICATE_OCTETS: usize = 32 * 1024;

/// Authorities that we name. Those who trust more leave all of them out: the peer then shows what it has.
const MAX_AUTHORITIES: usize = 16;

/// What names a CA in a request: SHA-1 of its key, which nothing rests upon.
fn authority(ca: &Certificate) -> Vec<u8> {
    Hash::Sha1.digest(&[ca.public_key().spki()])
}

/// The body of a request for certificates that lead to our anchors.
pub(crate) fn request(trust: &Trust) -> Option<Vec<u8>> {
    let anchors = trust.store.anchors();
    (1..=MAX_AUTHORITIES).contains(&anchors.len()).then(|| {
        let authorities = anchors.iter().flat_map(authority).collect();
        CertRequest { encoding: CertEncoding::X509_SIGNATURE, authorities: Cow::Owned(authorities) }.to_vec()
    })
}

/// Shows a certificate of ours, then those of its issuers.
pub(crate) fn put(own: &OwnCertificate, chain: &mut ChainWriter) {
    for certificate in &own.chain {
        let cert = Cert { encoding: CertEncoding::X509_SIGNATURE, data: Cow::Borrowed(certificate.der()) };
        chain.push(PayloadKind::CERT.0, &cert.to_vec());
    }
}

/// The certificates that a peer shows. What is of another encoding is passed over: hashes and URLs, which nobody here asked
/// for and nobody follows, and revocation lists, which are read from files.
pub(crate) fn shown<'a>(payloads: &Payloads<'a>) -> Result<Vec<Cow<'a, [u8]>>, Reject> {
    let certs: Vec<Cert<'a>> = payloads.all(PayloadKind::CERT)?;
    let x509 = certs.into_iter().filter(|cert| cert.encoding == CertEncoding::X509_SIGNATURE);
    let shown: Vec<Cow<'a, [u8]>> = x509.take(MAX_CERTIFICATES).map(|cert| cert.data).collect();
    match shown.iter().map(|data| data.len()).sum() {
        0 => Err(Reject::Unauthenticated("no X.509 certificate for signatures")),
        1..=MAX_CERTIFICATE_OCTETS => Ok(shown),
        _ => Err(Reject::Unauthenticated("certificates too long")),
    }
}

/// The work of checking a signature over `octets`, and the certificate of whoever made it.
pub(crate) fn check(
    trust: &Trust,
    wall: Duration,
    certificates: &[Cow<'_, [u8]>],
    signed: &Signed<'_>,
    octets: &Secret,
) -> PeerCheck {
    PeerCheck {
        trust: Arc::clone(&trust.store),
        ocsp: Arc::clone(&trust.ocsp),
        wall,
        kind: None,
        certificates: certificates.iter().map(|c| c.to_vec()).collect(),
        readings: signed.forms.iter().map(|form| (*form, octets.duplicate())).collect(),
        signature: signed.value.to_vec(),
    }
}

/// The authorities whose certificates a peer takes.
#[derive(Clone, Debug, Default)]
pub(crate) struct Wanted {
    authorities: Vec<Vec<u8>>,
}

impl Wanted {
    /// Reads the requests in a message.
    pub(crate) fn read(payloads: &Payloads<'_>) -> Result<Self, Reject> {
        let requests: Vec<CertRequest<'_>> = payloads.all(PayloadKind::CERTREQ)?;
        let mut authorities = Vec::new();
        for request in requests.iter().filter(|r| r.encoding == CertEncoding::X509_SIGNATURE) {
            let names = request.authorities.chunks_exact(CertRequest::AUTHORITY);
            if !names.remainder().is_empty() {
                return Err(Reject::Malformed("an authority has 20 octets"));
            }
            authorities.extend(names.map(<[u8]>::to_vec));
        }
        Ok(Self { authorities })
    }

    /// Which of our certificates to show: the first that leads to an authority asked for, else the first that may, else the
    /// first. `trust` tells the keys of CAs whose certificates do not stand in our chains.
    pub(crate) fn choose<'a, O: AsRef<OwnCertificate>>(
        &self,
        own: impl Iterator<Item = &'a O>,
        trust: Option<&Trust>,
    ) -> Option<&'a O> {
        own.min_by_key(|own| self.fit(own.as_ref(), trust))
    }

    fn fit(&self, own: &OwnCertificate, trust: Option<&Trust>) -> Fit {
        let asked = |ca: &Certificate| self.authorities.contains(&authority(ca));
        let Some(last) = own.chain.last().filter(|_| !self.authorities.is_empty()) else { return Fit::Leads };
        let anchors = trust.map_or(&[][..], |trust| trust.store.anchors());
        let mut above = anchors.iter().filter(|ca| ca.subject() == last.issuer());
        if own.chain.iter().any(asked) || above.clone().any(asked) {
            Fit::Leads
        } else if above.next().is_none() && last.issuer() != last.subject() {
            Fit::Unknown
        } else {
            Fit::Elsewhere
        }
    }
}

/// How a certificate of ours goes with the authorities that are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Fit {
    /// It leads to one of them.
    Leads,
    /// It ends under a CA whose key we do not have: that may be one of them.
    Unknown,
    /// It leads to another.
    Elsewhere,
}
