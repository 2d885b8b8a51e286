//! Certificates of `tests/vectors/pki`.

use std::path::PathBuf;
use std::sync::Arc;

use gdoi::ServerConfig;
use keyferry_crypto::SigningKey;
use keyferry_crypto::x509::{Certificate, Revocation, TrustStore};
use keyferry_model::credentials::{Credentials, OwnCertificate, Peer, Proof, Trust};
use keyferry_model::id::Identity;
use keyferry_model::reading::Readings;
use keyferry_model::settings::{CertificateAuth, MemberAuth, MemberSettings};

use super::{Setup, settings};

/// Kinds of keys for which there are certificates.
pub const KINDS: [&str; 4] = ["rsa", "p256", "p384", "p521"];

fn read(file: &str) -> Vec<u8> {
    std::fs::read(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/pki").join(file)).unwrap()
}

/// Certificate and key by name, as `gm10-rsa`.
pub fn own(name: &str) -> OwnCertificate {
    let chain = Certificate::all_from_pem(&read(&format!("{name}.pem"))).unwrap();
    OwnCertificate { chain, key: Arc::new(SigningKey::from_pem(&read(&format!("{name}.key"))).unwrap()) }
}

/// Trust in `root` or `other-root`.
pub fn trust(root: &str) -> Trust {
    let anchors = Certificate::all_from_pem(&read(&format!("{root}.pem"))).unwrap();
    Trust { store: Arc::new(TrustStore::new(anchors, Vec::new(), Revocation::IfKnown)), ocsp: Arc::new([]) }
}

/// A peer that authenticates by certificate.
pub fn certified(identity: Option<&str>, subject: Option<&str>) -> Peer {
    let subject = subject.map(|s| keyferry_crypto::x509::DistinguishedName::parse(s).unwrap());
    Peer {
        identity: identity.map(|i| i.parse().unwrap()),
        address: None,
        proof: Proof::Certificate { subject },
        sends: Readings::NONE,
    }
}

/// A server that shows these certificates and takes certificates of these peers.
pub fn certify(config: &mut ServerConfig, own_names: &[&str], peers: Vec<Peer>) {
    let own = own_names.iter().map(|n| own(n)).collect();
    config.credentials = Arc::new(Credentials::new(peers).with_own(own).with_trust(trust("root")));
}

/// Settings of member 10 with a certificate.
pub fn with_certificate(setup: Setup, name: &str) -> MemberSettings {
    let auth = CertificateAuth { own: own(name), others: Vec::new(), trust: trust("root"), gateway_subject: None };
    MemberSettings { auth: MemberAuth::Certificate(Box::new(auth)), ..settings(setup, 10) }
}

/// The address that member 10 has, and its certificate names.
pub fn address() -> Identity {
    "10.84.0.10".parse().unwrap()
}
