//! Certificates of `pki`, which `pki.py` made.

use std::path::PathBuf;
use std::sync::Arc;

use keyferry_crypto::SigningKey;
use keyferry_crypto::x509::{Certificate, Crl, DistinguishedName, Revocation, TrustStore};
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
