//! Certificates of `pki`, which `pki.py` made.

use std::path::PathBuf;
use std::sync::Arc;

use keyferry_crypto::x509::{Certificate, Crl, DistinguishedName, OcspAnswer, Revocation, TrustStore};
use keyferry_crypto::{Hash, SigningKey};
use keyferry_model::credentials::{Credentials, OwnCertificate, Peer, Proof, Trust};
use keyferry_model::reading::Readings;
use keyferry_model::settings::{CertificateAuth, MemberAuth};

use crate::ServerConfig;

/// Kinds of keys for which there are certificates.
pub(super) const KINDS: [&str; 6] = ["rsa", "p256", "p384", "p521", "ed25519", "ed448"];

fn read(file: &str) -> Vec<u8> {
    std::fs::read(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src/tests/pki").join(file)).unwrap()
}

/// Certificate and key by name, as `gm1-rsa`.
pub(super) fn own(name: &str) -> OwnCertificate {
    let chain = Certificate::all_from_pem(&read(&format!("{name}.pem"))).unwrap();
    OwnCertificate { chain, key: Arc::new(SigningKey::from_pem(&read(&format!("{name}.key"))).unwrap()) }
}

/// The lists of `crl.pem`.
pub(super) fn crls() -> Vec<Crl> {
    Crl::all_from_pem_or_der(&read("crl.pem")).unwrap()
}

/// Trust in `root` or `other-root`, without what `crl.pem` revokes.
pub(super) fn trust(root: &str) -> Trust {
    let anchors = Certificate::all_from_pem(&read(&format!("{root}.pem"))).unwrap();
    Trust { store: Arc::new(TrustStore::new(anchors, crls(), Revocation::IfKnown)), ocsp: Arc::new([]) }
}

/// A peer that authenticates by certificate.
pub(super) fn certified(identity: Option<&str>, subject: Option<&str>) -> Peer {
    let subject = subject.map(|s| DistinguishedName::parse(s).unwrap());
    Peer {
        identity: identity.map(|i| i.parse().unwrap()),
        address: None,
        sends: Readings::NONE,
        proof: Proof::Certificate { subject },
    }
}

/// A key server that shows these certificates and takes those of these peers.
pub(super) fn config(own_names: &[&str], peers: Vec<Peer>) -> ServerConfig {
    let own = own_names.iter().map(|n| own(n)).collect();
    let credentials = Credentials::new(peers).with_own(own).with_trust(trust("root"));
    ServerConfig::new(Arc::new(credentials))
}

/// A member's certificate, and trust in `root`.
pub(super) fn auth(own: OwnCertificate) -> MemberAuth {
    MemberAuth::Certificate(Box::new(CertificateAuth {
        own,
        others: Vec::new(),
        trust: trust("root"),
        gateway_subject: None,
    }))
}

fn der(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let body = parts.concat();
    let [high, low] = u16::try_from(body.len()).unwrap().to_be_bytes();
    let len = match (high, low) {
        (0, ..0x80) => vec![low],
        (0, _) => vec![0x81, low],
        _ => vec![0x82, high, low],
    };
    [&[tag], &len[..], &body].concat()
}

/// What an OCSP responder would say of a revoked certificate (RFC 6960 section 4.2.1), with a signature that is none.
pub(super) fn answered_revoked(certificate: &Certificate) -> OcspAnswer {
    const SHA256: &[u8] = b"\x06\x09\x60\x86\x48\x01\x65\x03\x04\x02\x01";
    const BASIC: &[u8] = b"\x06\x09\x2b\x06\x01\x05\x05\x07\x30\x01\x01";
    const ECDSA: &[u8] = b"\x06\x08\x2a\x86\x48\xce\x3d\x04\x03\x02";
    // Version, then the serial number.
    let octets = certificate.der();
    let at = octets.windows(6).position(|w| w == [0xa0, 3, 2, 1, 2, 2]).unwrap() + 5;
    let serial = &octets[at..at + 2 + usize::from(octets[at + 1])];
    let name = der(4, &[&Hash::Sha256.digest(&[certificate.issuer().der()])]);
    let id = der(0x30, &[&der(0x30, &[SHA256]), &name, &der(4, &[&[7; 32]]), serial]);
    let time = der(0x18, &[b"20230601000000Z"]);
    let single = der(0x30, &[&id, &der(0xa1, &[&time]), &time]);
    let data = der(0x30, &[&der(0xa2, &[&der(4, &[&[7; 20]])]), &time, &der(0x30, &[&single])]);
    let basic = der(0x30, &[&data, &der(0x30, &[ECDSA]), &der(3, &[&[0; 65]])]);
    let bytes = der(0xa0, &[&der(0x30, &[BASIC, &der(4, &[&basic])])]);
    OcspAnswer::from_der(&der(0x30, &[&[0x0a, 1, 0], &bytes])).unwrap()
}
