//! The messages by which peers prove who they are: reading them, and making them.

use std::sync::Arc;
use std::time::Duration;

use keyferry_crypto::{DigestSignature, KeyKind, PeerCheck, Secret, SignatureForm};
use keyferry_model::credentials::{OwnCertificate, Trust};
use keyferry_model::id::Identity;
use keyferry_model::reading::{Reading, Readings};
use keyferry_wire::{Decode, RawPayload};

use super::method::Method;
use crate::identity;
use crate::message::Payloads;
use crate::reject::Reject;
use crate::wire::cert::{Cert, CertRequest};
use crate::wire::id::Id;
use crate::wire::notification::Notification;
use crate::wire::opaque::{Hash, Sig};
use crate::wire::registry::{CertEncoding, NotifyType, payload};
use crate::wire::rules;

/// Certificates taken from one message; chains are shorter.
const MAX_CERTIFICATES: usize = 8;

/// Their octets altogether; they are kept until the check has its turn.
const MAX_CERTIFICATE_OCTETS: usize = 32 * 1024;

/// Requests for certificates sent; those who want more names leave them out.
const MAX_REQUESTS: usize = 16;

/// What the other side proves itself with, not checked yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Evidence<'a> {
    /// HASH_I or HASH_R.
    Hash(&'a [u8]),
    /// A signature over it, and certificates.
    Signature { signature: &'a [u8], certificates: Vec<&'a [u8]> },
}

impl<'a> Evidence<'a> {
    /// Finds it among the payloads of a message.
    pub(crate) fn read(payloads: &[RawPayload<'a>], method: Method) -> Result<Self, Reject> {
        const MISSING: Reject = Reject::Unauthenticated("no hash or signature of the method agreed on");
        match method {
            Method::PreSharedKey => rules::body(payloads, payload::HASH).map(Evidence::Hash).ok_or(MISSING),
            Method::Signature(_) => {
                let signature = rules::body(payloads, payload::SIG).ok_or(MISSING)?;
                let mut certificates = Vec::new();
                for body in rules::bodies(payloads, payload::CERT) {
                    let cert = Cert::exact(body)?;
                    // Revocation lists are read from files; what else there is nobody asked for.
                    if cert.encoding == CertEncoding::X509_SIGNATURE && certificates.len() < MAX_CERTIFICATES {
                        certificates.push(cert.data);
                    }
                }
                if certificates.iter().map(|c| c.len()).sum::<usize>() > MAX_CERTIFICATE_OCTETS {
                    return Err(Reject::Unauthenticated("certificates too long"));
                }
                if certificates.is_empty() {
                    const WHAT: &str = "no X.509 certificate for signatures";
                    return Err(Reject::Unacceptable(WHAT, NotifyType::CERT_TYPE_UNSUPPORTED));
                }
                Ok(Evidence::Signature { signature, certificates })
            }
        }
    }
}

/// Is there an INITIAL-CONTACT among the payloads? Neither hash nor signature covers it, the encryption hides it.
pub(crate) fn initial_contact(payloads: &[RawPayload<'_>]) -> bool {
    let notifications = rules::bodies(payloads, payload::NOTIFICATION).filter_map(|n| Notification::exact(n).ok());
    notifications.into_iter().any(|n| n.kind == NotifyType::INITIAL_CONTACT)
}

/// The identity in the body of an ID payload.
pub(crate) fn identity(body: &[u8]) -> Result<Identity, Reject> {
    let id = Id::exact(body)?;
    let refused = |what| Reject::Unacceptable(what, NotifyType::INVALID_ID_INFORMATION);
    if !id.fits_phase1() {
        return Err(refused("protocol or port of the identity"));
    }
    identity::to_identity(&id).ok_or(refused("type or form of the identity"))
}

/// Protocol and port of an identity in these readings; without a port where translators are looked for (RFC 3947 section 4).
pub(crate) fn id_port(readings: Readings, nat_traversal: bool) -> (u8, u16) {
    let (protocol, port) = ID_PORTS.into_iter().find(|(r, ..)| readings.has(*r)).map_or((0, 0), |(_, id)| id);
    (protocol, if nat_traversal { 0 } else { port })
}

/// The readings that protocol and port of an identity are of.
pub(crate) fn id_readings(body: &[u8]) -> Readings {
    let seen = Id::exact(body).map(|id| (id.protocol, id.port));
    ID_PORTS.into_iter().filter(|(_, id)| seen.as_ref() == Ok(id)).map(|(reading, _)| reading).collect()
}

const UDP: u8 = 17;

const ID_PORTS: [(Reading, (u8, u16)); 3] =
    [(Reading::IdUdp, (UDP, 0)), (Reading::IdUdp500, (UDP, 500)), (Reading::IdUdp848, (UDP, 848))];

/// The work of checking a signature: `readings` are the ways in which it may have been made.
pub(crate) fn check(
    trust: &Trust,
    wall: Duration,
    kind: KeyKind,
    certificates: &[&[u8]],
    readings: Vec<(DigestSignature, Secret)>,
    signature: &[u8],
) -> PeerCheck {
    PeerCheck {
        trust: Arc::clone(&trust.store),
        ocsp: Arc::clone(&trust.ocsp),
        wall,
        kind: Some(kind),
        certificates: certificates.iter().map(|c| c.to_vec()).collect(),
        readings: readings.into_iter().map(|(how, octets)| (SignatureForm::Digest(how), octets)).collect(),
        signature: signature.to_vec(),
    }
}

/// Our own evidence.
pub(crate) enum Own<'a> {
    Hash(&'a Secret),
    Signature { signature: &'a [u8], chain: Option<&'a OwnCertificate> },
}

impl Own<'_> {
    /// Appends it.
    pub(crate) fn put(&self, mut payloads: Payloads) -> Payloads {
        match self {
            Own::Hash(hash) => payloads.with(payload::HASH, &Hash(hash.expose())),
            Own::Signature { signature, chain } => {
                for certificate in chain.iter().flat_map(|own| &own.chain) {
                    let cert = Cert { encoding: CertEncoding::X509_SIGNATURE, data: certificate.der() };
                    payloads = payloads.with(payload::CERT, &cert);
                }
                payloads.with(payload::SIG, &Sig(signature))
            }
        }
    }
}

/// The body of an ID payload of ours as a payload.
pub(crate) fn id_payload(payloads: Payloads, id: &[u8]) -> Payloads {
    payloads.with_body(payload::ID, Secret::copy_from(id))
}

/// Asks for certificates: for those that lead to our anchors, or for any.
pub(crate) fn request_certificates(mut payloads: Payloads, trust: &Trust) -> Payloads {
    let encoding = CertEncoding::X509_SIGNATURE;
    let names = trust.store.anchor_names();
    if !(1..=MAX_REQUESTS).contains(&trust.store.anchor_names().count()) {
        return payloads.with(payload::CERT_REQUEST, &CertRequest { encoding, authority: &[] });
    }
    for name in names {
        payloads = payloads.with(payload::CERT_REQUEST, &CertRequest { encoding, authority: name.der() });
    }
    payloads
}

/// The certificates that a peer asks for.
#[derive(Debug, Default)]
pub(crate) struct Wanted {
    /// Does it ask for X.509 certificates at all?
    pub(crate) any: bool,
    authorities: Vec<Vec<u8>>,
}

impl Wanted {
    /// Reads the requests in a message.
    pub(crate) fn read(payloads: &[RawPayload<'_>]) -> Result<Self, Reject> {
        let mut wanted = Self::default();
        for body in rules::bodies(payloads, payload::CERT_REQUEST) {
            let request = CertRequest::exact(body)?;
            if request.encoding == CertEncoding::X509_SIGNATURE {
                wanted.any = true;
                wanted.authorities.extend((!request.authority.is_empty()).then(|| request.authority.to_vec()));
            }
        }
        Ok(wanted)
    }

    /// Which of our certificates to show: the first that an authority asked for has issued, or stands above; else the first.
    pub(crate) fn choose<'a>(
        &self,
        own: impl Iterator<Item = &'a Arc<OwnCertificate>>,
    ) -> Option<&'a Arc<OwnCertificate>> {
        let issued = |own: &OwnCertificate| {
            own.chain.iter().any(|c| self.authorities.iter().any(|name| name == c.issuer().der()))
        };
        let mut own = own.peekable();
        let first = own.peek().copied();
        own.find(|own| issued(own)).or(first)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn certificates_beyond_what_is_kept_are_refused() {
        let cert = |len: usize| {
            let mut body = vec![0x5a; len + 1];
            body[0] = 4;
            body
        };
        let half = MAX_CERTIFICATE_OCTETS / 2;
        for (lengths, taken) in [([half, half], true), ([half, half + 1], false)] {
            let bodies = lengths.map(cert);
            let raw = |kind, body| RawPayload { kind, next: 0, flags: 0, body, at: 0 };
            let payloads =
                [raw(payload::CERT, &bodies[0]), raw(payload::CERT, &bodies[1]), raw(payload::SIG, &[1; 64])];
            let found = Evidence::read(&payloads, Method::Signature(KeyKind::EcP256));
            assert_eq!(found.is_ok(), taken, "{lengths:?}");
        }
    }
}
