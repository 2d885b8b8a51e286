//! The check of a peer: signature, then certificate.

use std::sync::Arc;

use keyferry_crypto::x509::{Revocation, TrustStore};
use keyferry_crypto::{
    DigestSignature, Hash, Job, JobDone, KeyKind, PeerCheck, PeerError, Secret, SignatureForm, SigningKey,
};
use openssl::rsa::Rsa;

use super::*;

const HASH: &[u8] = &[7; 32];

/// The check of a peer with these certificates, that has signed [`HASH`] with this key.
fn check(anchor: &Certificate, certificates: &[&[u8]], key: &PKey<Private>, how: DigestSignature) -> PeerCheck {
    let key = SigningKey::from_pem(&key.private_key_to_pem_pkcs8().unwrap()).unwrap();
    PeerCheck {
        trust: Arc::new(TrustStore::new(vec![anchor.clone()], vec![], Revocation::IfKnown)),
        ocsp: Arc::new([]),
        wall: now(),
        kind: Some(KeyKind::EcP256),
        certificates: certificates.iter().map(|c| c.to_vec()).collect(),
        readings: [DigestSignature::EcdsaDigest, DigestSignature::EcdsaHashed(Hash::Sha256)]
            .map(|how| (SignatureForm::Digest(how), Secret::copy_from(HASH)))
            .into(),
        signature: key.sign_digest(how, HASH).unwrap(),
    }
}

#[test]
fn a_peer_signs_and_is_trusted() {
    let (root, sub, gm) = (Party::new("Root"), Party::new("Sub"), Party::new("gm1"));
    let (anchor, between, leaf) = (root.appoints(&root), root.appoints(&sub), sub.issues(&gm, plain));
    let stray = sub.issues(&Party::new("gm2"), plain);
    // An issuer's certificate with a key that is not taken.
    let small = {
        let mut b = X509::builder().unwrap();
        b.set_pubkey(&PKey::from_rsa(Rsa::generate(1024).unwrap()).unwrap()).unwrap();
        b.sign(&root.key, MessageDigest::sha256()).unwrap();
        b.build().to_der().unwrap()
    };
    let (digest, hashed) = (DigestSignature::EcdsaDigest, DigestSignature::EcdsaHashed(Hash::Sha256));
    let lists: [&[&[u8]]; 4] = [
        &[leaf.der(), between.der()],
        &[between.der(), leaf.der()],
        &[leaf.der(), between.der(), anchor.der(), stray.der()],
        &[leaf.der(), &small, b"junk", between.der()],
    ];
    for certificates in lists {
        for (how, reading) in [(digest, 0), (hashed, 1)] {
            let check = check(&anchor, certificates, &gm.key, how);
            let JobDone::CheckPeer(done) = Job::CheckPeer(Box::new(check)).run() else { panic!("another job") };
            let checked = done.unwrap();
            assert_eq!((checked.certificate, checked.reading), (leaf.clone(), reading));
        }
    }
    let run = |certificates: &[&[u8]], key| check(&anchor, certificates, key, digest).run();
    assert!(matches!(run(&[], &gm.key), Err(PeerError::NoCertificate)));
    assert!(matches!(run(&[b"junk"], &gm.key), Err(PeerError::NoCertificate)));
    assert!(matches!(run(&[leaf.der(), between.der()], &sub.key), Err(PeerError::Signature)));
    assert!(matches!(run(&[leaf.der()], &gm.key), Err(PeerError::Untrusted(_))));
    let mut other_kind = check(&anchor, &[leaf.der(), between.der()], &gm.key, digest);
    other_kind.kind = Some(KeyKind::Rsa);
    assert!(matches!(other_kind.run(), Err(PeerError::NoCertificate)));
    other_kind.kind = None;
    assert!(other_kind.run().is_ok(), "any kind will do");
}
