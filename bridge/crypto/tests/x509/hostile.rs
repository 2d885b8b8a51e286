//! What a stranger may send.

use keyferry_crypto::x509::{MAX_CERTIFICATE, Revocation, TrustStore};
use openssl::x509::extension::SubjectAlternativeName;

use super::*;

fn pair() -> (Certificate, Certificate) {
    let (root, gm) = (Party::new("Root"), Party::new("gm1"));
    let leaf = root.issues(&gm, |b| {
        let names =
            SubjectAlternativeName::new().dns("gm1").ip("192.0.2.1").build(&b.x509v3_context(None, None)).unwrap();
        b.append_extension(names).unwrap();
        b.append_extension(KeyUsage::new().critical().digital_signature().build().unwrap()).unwrap();
    });
    (root.appoints(&root), leaf)
}

#[test]
fn no_altered_certificate_is_trusted() {
    let (anchor, leaf) = pair();
    let store = TrustStore::new(vec![anchor], vec![], Revocation::IfKnown);
    assert!(store.check(&leaf, &[], now(), &[]).is_ok());
    for at in 0..leaf.der().len() {
        assert!(Certificate::from_der(&leaf.der()[..at]).is_err(), "cut at {at}");
        for bit in 0..8 {
            let mut bad = leaf.der().to_vec();
            bad[at] ^= 1 << bit;
            if let Ok(bad) = Certificate::from_der(&bad) {
                assert!(store.check(&bad, &[], now(), &[]).is_err(), "octet {at}, bit {bit}");
            }
        }
    }
    assert!(Certificate::from_der(&[leaf.der(), &[0]].concat()).is_err());
    assert!(matches!(Certificate::from_der(&vec![0x30; MAX_CERTIFICATE + 1]), Err(CertificateError::TooLarge)));
}

/// Certificates of one name, all of them issuers of each other, ask for a number of signatures that grows with their
/// factorial; a few are checked and no more.
#[test]
fn certificates_that_name_each_other_cost_little() {
    let root = Party::new("Root");
    let twins: Vec<Party> = (0..8).map(|_| Party::new("Twin")).collect();
    let ring: Vec<Certificate> = twins.iter().map(|twin| twins[0].appoints(twin)).take(7).collect();
    let leaf = twins[7].issues(&Party::new("gm1"), plain);
    let store = TrustStore::new(vec![root.appoints(&root)], vec![], Revocation::IfKnown);
    assert!(store.check(&leaf, &ring, now(), &[]).is_err());
    // Each has truly issued the next, so that every one has to be looked at.
    let twin = Party::new("Twin");
    let ring: Vec<Certificate> = (0..7)
        .map(|n| {
            twin.issues(&twin, |b| {
                ca(b);
                valid(b, NOW - DAY - n, NOW + DAY);
            })
        })
        .collect();
    let leaf = twin.issues(&Party::new("gm1"), plain);
    assert!(matches!(store.check(&leaf, &ring, now(), &[]), Err(CertificateError::TooLarge)));
}

#[test]
fn names_with_hidden_characters_are_refused() {
    let (root, gm) = (Party::new("Root"), Party::new("gm1"));
    let leaf = root.issues(&gm, |b| {
        let names = SubjectAlternativeName::new().dns("gm1.example.net").build(&b.x509v3_context(None, None)).unwrap();
        b.append_extension(names).unwrap();
    });
    let at = leaf.der().windows(15).position(|w| w == b"gm1.example.net").unwrap();
    for octet in [0, b'\n', b' ', 0x7f, 0xff] {
        let mut bad = leaf.der().to_vec();
        bad[at + 3] = octet;
        assert!(matches!(Certificate::from_der(&bad), Err(CertificateError::Malformed(_))));
    }
}
