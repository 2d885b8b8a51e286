//! Revocation lists and OCSP answers.

use std::collections::BTreeMap;

use keyferry_crypto::x509::{Crl, OcspAnswer, Revocation, TrustStore};
use openssl::x509::extension::{BasicConstraints, KeyUsage};
use openssl::x509::{X509Crl, X509CrlBuilder, X509RevokedBuilder};

use super::*;

/// A list of these serial numbers, from one time to another.
fn list(by: &Party, revoked: &[&Party], from: i64, to: i64, more: impl FnOnce(&mut X509CrlBuilder)) -> X509Crl {
    signed(by, revoked, (from, to), MessageDigest::sha256(), more)
}

fn signed(
    by: &Party,
    revoked: &[&Party],
    (from, to): (i64, i64),
    digest: MessageDigest,
    more: impl FnOnce(&mut X509CrlBuilder),
) -> X509Crl {
    let mut builder = X509CrlBuilder::new().unwrap();
    builder.set_issuer_name(&by.x509_name()).unwrap();
    builder.set_last_update(&Asn1Time::from_unix(from).unwrap()).unwrap();
    builder.set_next_update(&Asn1Time::from_unix(to).unwrap()).unwrap();
    for party in revoked {
        let mut entry = X509RevokedBuilder::new().unwrap();
        entry.set_serial_number(&serial(&party.name)).unwrap();
        entry.set_revocation_date(&Asn1Time::from_unix(from - DAY).unwrap()).unwrap();
        builder.add_revoked(entry.build()).unwrap();
    }
    // Every list has to have these (RFC 5280, section 5.2): Authority Key Identifier and CRL Number.
    for (kind, value) in [("2.5.29.35", &b"\x30\x03\x80\x01\x01"[..]), ("2.5.29.20", b"\x02\x01\x01")] {
        builder.append_extension(extension(kind, false, value)).unwrap();
    }
    more(&mut builder);
    builder.sign(&by.key, digest).unwrap();
    builder.build().unwrap()
}

fn crl(by: &Party, revoked: &[&Party], from: i64, to: i64) -> Crl {
    let der = list(by, revoked, from, to, |_| {}).to_der().unwrap();
    Crl::all_from_pem_or_der(&der).unwrap().remove(0)
}

const POLICIES: [Revocation; 3] = [Revocation::Ignore, Revocation::IfKnown, Revocation::Require];

/// Faults under the three policies.
fn faults(anchor: &Certificate, crls: &[Crl], leaf: &Certificate, between: &[Certificate]) -> [Option<Fault>; 3] {
    POLICIES.map(|policy| {
        let store = TrustStore::new(vec![anchor.clone()], crls.to_vec(), policy);
        fault(store.check(leaf, between, now(), &[]))
    })
}

#[test]
fn lists_decide_as_the_policy_says() {
    let (root, other) = (Party::new("Root"), Party::new("Other"));
    let (gm, gone) = (Party::new("gm1"), Party::new("gm2"));
    let anchor = root.appoints(&root);
    let (good, bad) = (root.issues(&gm, plain), root.issues(&gone, plain));
    let current = crl(&root, &[&gone], NOW - DAY, NOW + DAY);
    let expired = crl(&root, &[&gone], NOW - 3 * DAY, NOW - DAY);
    let future = crl(&root, &[], NOW + DAY, NOW + 2 * DAY);
    let unknown = Some(Fault::RevocationUnknown);
    let (revoked, stale) = (Some(Fault::Revoked), Some(Fault::StaleCrl));
    let cases = [
        (vec![], &good, [None, None, unknown]),
        (vec![current.clone()], &good, [None, None, None]),
        (vec![current.clone()], &bad, [None, revoked, revoked]),
        (vec![expired.clone()], &good, [None, stale, stale]),
        // Who was revoked once stays so.
        (vec![expired.clone()], &bad, [None, revoked, revoked]),
        (vec![expired.clone(), crl(&root, &[], NOW - DAY, NOW + DAY)], &bad, [None, revoked, revoked]),
        (vec![expired, current.clone()], &good, [None, None, None]),
        (vec![future], &good, [None, stale, stale]),
        // Of another CA, and of one that only calls itself so.
        (vec![crl(&other, &[&gm], NOW - DAY, NOW + DAY)], &good, [None, None, unknown]),
        (vec![crl(&Party::new("Root"), &[&gm], NOW - DAY, NOW + DAY)], &good, [None, None, unknown]),
    ];
    for (at, (crls, leaf, expected)) in cases.into_iter().enumerate() {
        assert_eq!(faults(&anchor, &crls, leaf, &[]), expected, "case {at}");
    }
    assert_eq!(
        (current.issuer().to_string().as_str(), current.next_update()),
        ("CN=Root,O=Example", Some(at(NOW + DAY)))
    );
}

#[test]
fn lists_of_every_issuer_in_the_chain_count() {
    let (root, sub, gm) = (Party::new("Root"), Party::new("Sub"), Party::new("gm1"));
    let (anchor, between, leaf) = (root.appoints(&root), root.appoints(&sub), sub.issues(&gm, plain));
    let chain = [between];
    let span = (NOW - DAY, NOW + DAY);
    let of = |by, revoked: &[&Party]| crl(by, revoked, span.0, span.1);
    let unknown = Some(Fault::RevocationUnknown);
    let revoked = Some(Fault::Revoked);
    assert_eq!(faults(&anchor, &[of(&root, &[]), of(&sub, &[])], &leaf, &chain), [None; 3]);
    assert_eq!(faults(&anchor, &[of(&root, &[])], &leaf, &chain), [None, None, unknown]);
    assert_eq!(faults(&anchor, &[of(&sub, &[])], &leaf, &chain), [None, None, unknown]);
    assert_eq!(faults(&anchor, &[of(&root, &[&sub]), of(&sub, &[])], &leaf, &chain), [None, revoked, revoked]);
    assert_eq!(faults(&anchor, &[of(&root, &[]), of(&sub, &[&gm])], &leaf, &chain), [None, revoked, revoked]);
    // A list signed with a key that may not sign lists.
    let between = root.issues(&sub, |b| {
        b.append_extension(BasicConstraints::new().critical().ca().build().unwrap()).unwrap();
        b.append_extension(KeyUsage::new().critical().key_cert_sign().build().unwrap()).unwrap();
    });
    let stale = Some(Fault::StaleCrl);
    assert_eq!(faults(&anchor, &[of(&sub, &[&gm])], &leaf, &[between]), [None, stale, stale]);
}

/// A list that cannot be verified lets nobody in, and is worth a word; one by a namesake with another key only that.
#[test]
fn lists_that_cannot_be_verified_are_not_passed_over() {
    let (root, gm) = (Party::new("Root"), Party::new("gm1"));
    let (anchor, leaf) = (root.appoints(&root), root.issues(&gm, plain));
    let unused = |anchor: &Certificate, list: &Crl| {
        let store = TrustStore::new(vec![anchor.clone()], vec![list.clone()], Revocation::IfKnown);
        store.unverified().into_iter().map(|(_, why)| why).collect::<Vec<_>>()
    };
    let (stale, unknown) = (Some(Fault::StaleCrl), Some(Fault::RevocationUnknown));
    let span = (NOW - DAY, NOW + DAY);
    let sha1 = signed(&root, &[&gm], span, MessageDigest::sha1(), |_| {}).to_der().unwrap();
    let sha1 = Crl::all_from_pem_or_der(&sha1).unwrap().remove(0);
    let current = crl(&root, &[], span.0, span.1);
    assert_eq!(faults(&anchor, std::slice::from_ref(&sha1), &leaf, &[]), [None, stale, stale]);
    assert_eq!(unused(&anchor, &sha1), ["is signed by an algorithm that is not taken"]);
    assert_eq!(faults(&anchor, &[sha1, current.clone()], &leaf, &[]), [None; 3], "one that counts says so");
    assert!(unused(&anchor, &current).is_empty());
    let mute = root.issues(&root, |b| {
        b.append_extension(BasicConstraints::new().critical().ca().build().unwrap()).unwrap();
        b.append_extension(KeyUsage::new().critical().key_cert_sign().build().unwrap()).unwrap();
    });
    assert_eq!(faults(&mute, std::slice::from_ref(&current), &leaf, &[]), [None, stale, stale]);
    assert_eq!(unused(&mute, &current), ["is not signed by an anchor that may sign it"]);
    let namesake = crl(&Party::new("Root"), &[&gm], span.0, span.1);
    assert_eq!(faults(&anchor, std::slice::from_ref(&namesake), &leaf, &[]), [None, None, unknown]);
    assert_eq!(unused(&anchor, &namesake), ["is not signed by an anchor that may sign it"]);
}

/// RFC 5280, section 5.2.5: lists about users or CAs only are that; others that are not whole are refused.
#[test]
fn partial_lists_are_known_for_what_they_are() {
    let (root, gm) = (Party::new("Root"), Party::new("gm1"));
    let (anchor, leaf) = (root.appoints(&root), root.issues(&gm, plain));
    let with = |kind: &str, critical, value: &str| {
        let extension = extension(kind, critical, &hex::decode(value).unwrap());
        let list = list(&root, &[&gm], NOW - DAY, NOW + DAY, |b| b.append_extension(extension).unwrap());
        Crl::all_from_pem_or_der(&list.to_der().unwrap())
    };
    let users = with("2.5.29.28", true, "30038101ff").unwrap();
    assert_eq!(faults(&anchor, &users, &leaf, &[])[1], Some(Fault::Revoked));
    let cas = with("2.5.29.28", true, "30038201ff").unwrap();
    assert_eq!(faults(&anchor, &cas, &leaf, &[])[1], None);
    assert_eq!(faults(&anchor, &cas, &leaf, &[])[2], Some(Fault::RevocationUnknown));
    // A list of one distribution point, the URI "a", is about those who name it.
    let point = with("2.5.29.28", true, "3007a005a003860161").unwrap();
    assert_eq!(faults(&anchor, &point, &leaf, &[])[1..], [None, Some(Fault::RevocationUnknown)]);
    let names = |value: &[u8]| root.issues(&gm, |b| b.append_extension(extension("2.5.29.31", false, value)).unwrap());
    let here = names(b"\x30\x09\x30\x07\xa0\x05\xa0\x03\x86\x01a");
    assert_eq!(faults(&anchor, &point, &here, &[])[1], Some(Fault::Revoked));
    let elsewhere = names(b"\x30\x09\x30\x07\xa0\x05\xa0\x03\x86\x01b");
    assert_eq!(faults(&anchor, &point, &elsewhere, &[])[1], None);
    // For some reasons only (reasons [1]): nothing that a whole list could be.
    let some = names(b"\x30\x0d\x30\x0b\xa0\x05\xa0\x03\x86\x01a\x81\x02\x07\x80");
    assert_eq!(faults(&anchor, &point, &some, &[])[1], None);
    for (kind, value) in [
        ("2.5.29.28", "3004a002a100"),
        ("2.5.29.28", "30038401ff"),
        ("2.5.29.28", "300483020780"),
        ("2.5.29.27", "020101"),
        ("1.2.3.4.5", "0500"),
    ] {
        assert!(with(kind, true, value).is_err(), "{kind} {value}");
    }
    assert!(with("1.2.3.4.5", false, "0500").is_ok());
}

#[test]
fn lists_are_read_from_pem_and_der() {
    let root = Party::new("Root");
    let list = list(&root, &[], NOW - DAY, NOW + DAY, |_| {});
    let (der, pem) = (list.to_der().unwrap(), list.to_pem().unwrap());
    assert_eq!(Crl::all_from_pem_or_der(&der).unwrap().len(), 1);
    assert_eq!(Crl::all_from_pem_or_der(&[&pem[..], &pem[..]].concat()).unwrap().len(), 2);
    for len in 0..der.len() {
        assert!(Crl::all_from_pem_or_der(&der[..len]).is_err(), "{len} octets");
    }
    assert!(Crl::all_from_pem_or_der(&[&der[..], &[0]].concat()).is_err());
    assert!(Crl::all_from_pem_or_der(b"-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n").is_err());
}

/// Answers of vectors/ocsp.py.
#[test]
fn ocsp_answers_count_if_the_issuer_stands_behind_them() {
    let read = |line: &'static str| line.split_once(' ').map(|(name, der)| (name, hex::decode(der).unwrap())).unwrap();
    let all: BTreeMap<&str, Vec<u8>> = include_str!("../vectors/ocsp.txt").lines().map(read).collect();
    let certificate = |name| Certificate::from_der(&all[name]).unwrap();
    let (ca, leaf, neighbour) = (certificate("ca"), certificate("leaf"), certificate("neighbour"));
    let store = |policy| TrustStore::new(vec![ca.clone()], vec![], policy);
    let (unknown, revoked, stale) = (Some(Fault::RevocationUnknown), Some(Fault::Revoked), Some(Fault::StaleCrl));
    for (name, expected) in [
        ("good-by-ca", [None, None, None]),
        ("good-by-responder", [None, None, None]),
        ("good-for-a-day", [None, None, None]),
        ("revoked", [None, revoked, revoked]),
        ("revoked-long-ago", [None, revoked, revoked]),
        ("unknown", [None, None, unknown]),
        ("stale", [None, stale, stale]),
        ("stale-after-a-day", [None, stale, stale]),
        ("of-the-future", [None, stale, stale]),
        ("by-an-expired-responder", [None, None, unknown]),
        ("by-no-responder", [None, None, unknown]),
        ("by-a-stranger", [None, None, unknown]),
        ("by-the-leaf", [None, None, unknown]),
    ] {
        let faults = POLICIES
            .map(|policy| fault(store(policy).check(&leaf, &[], now(), &[OcspAnswer::from_der(&all[name]).unwrap()])));
        assert_eq!(faults, expected, "{name}");
        let answer = OcspAnswer::from_der(&all[name]).unwrap();
        // Whoever says revoked is reason enough to ask again, where that is looked at.
        let listed = |policy| store(policy).is_listed(&leaf, std::slice::from_ref(&answer));
        assert_eq!(POLICIES.map(listed), [false, name.starts_with("revoked"), name.starts_with("revoked")], "{name}");
        assert!(!store(Revocation::Require).is_listed(&neighbour, std::slice::from_ref(&answer)), "{name}");
        assert_eq!(fault(store(Revocation::Require).check(&neighbour, &[], now(), &[answer])), unknown, "{name}");
    }
    // The responder is on a list of the CA, so nobody believes it that the leaf is revoked.
    let lists = Crl::all_from_pem_or_der(&all["list-of-the-responder"]).unwrap();
    let listed = TrustStore::new(vec![ca.clone()], lists, Revocation::Require);
    let answer = |name| [OcspAnswer::from_der(&all[name]).unwrap()];
    assert_eq!(fault(listed.check(&leaf, &[], now(), &answer("revoked"))), None);
    assert!(matches!(OcspAnswer::from_der(&all["try-later"]), Err(CertificateError::Malformed(_))));
    for name in ["good-by-ca", "good-by-responder"] {
        for at in 0..all[name].len() {
            let mut bad = all[name].clone();
            bad[at] ^= 1;
            let Ok(answer) = OcspAnswer::from_der(&bad) else { continue };
            let verdict = fault(store(Revocation::Require).check(&leaf, &[], now(), &[answer]));
            // What stands around the signed part may change: the certificate's own signature, for one.
            assert!(verdict.is_none() || verdict == unknown || verdict == stale, "octet {at}: {verdict:?}");
            assert!(OcspAnswer::from_der(&all[name][..at]).is_err());
        }
    }
}
