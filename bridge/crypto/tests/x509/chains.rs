//! Chains without revocation.

use keyferry_crypto::x509::{AltName, Revocation, TrustStore};
use keyferry_crypto::{CryptoError, KeyKind};
use openssl::rsa::Rsa;
use openssl::stack::Stack;
use openssl::x509::X509StoreContext;
use openssl::x509::extension::{ExtendedKeyUsage, SubjectAlternativeName};
use openssl::x509::store::X509StoreBuilder;
use openssl::x509::verify::X509VerifyParam;

use super::*;

fn store(anchors: &[&Certificate]) -> TrustStore {
    TrustStore::new(anchors.iter().map(|c| (*c).clone()).collect(), Vec::new(), Revocation::IfKnown)
}

/// What OpenSSL says about the same chain.
fn openssl_takes(anchor: &Certificate, leaf: &Certificate, between: &[Certificate], wall: i64) -> bool {
    let read = |c: &Certificate| X509::from_der(c.der()).unwrap();
    let mut builder = X509StoreBuilder::new().unwrap();
    builder.add_cert(read(anchor)).unwrap();
    let mut param = X509VerifyParam::new().unwrap();
    param.set_time(wall);
    builder.set_param(&param).unwrap();
    let mut chain = Stack::new().unwrap();
    between.iter().for_each(|c| chain.push(read(c)).unwrap());
    let mut ctx = X509StoreContext::new().unwrap();
    ctx.init(&builder.build(), &read(leaf), &chain, |ctx| ctx.verify_cert()).unwrap()
}

/// Ours and OpenSSL's verdict, which must be the same.
fn verdict(anchor: &Certificate, leaf: &Certificate, between: &[Certificate], wall: i64) -> Option<Fault> {
    let ours = fault(store(&[anchor]).check(leaf, between, at(wall), &[]));
    assert_eq!(ours.is_none(), openssl_takes(anchor, leaf, between, wall), "{ours:?}");
    ours
}

#[test]
fn a_chain_leads_to_an_anchor() {
    let (root, sub, gm) = (Party::new("Root"), Party::new("Sub"), Party::new("gm1"));
    let (anchor, between, leaf) = (root.appoints(&root), root.appoints(&sub), sub.issues(&gm, plain));
    assert_eq!(verdict(&anchor, &leaf, std::slice::from_ref(&between), NOW), None);
    assert_eq!(verdict(&anchor, &leaf, &[], NOW), Some(Fault::NoIssuer));
    // Some send the anchor too, and in any order.
    assert_eq!(verdict(&anchor, &leaf, &[anchor.clone(), between.clone()], NOW), None);
    // An anchor need not be a root.
    assert_eq!(fault(store(&[&between]).check(&leaf, &[], now(), &[])), None);
    assert_eq!(store(&[&anchor]).anchor_names().map(ToString::to_string).collect::<Vec<_>>(), ["CN=Root,O=Example"]);
    // A self-signed certificate is trusted if it is an anchor itself.
    let own = gm.issues(&gm, plain);
    assert_eq!(fault(store(&[&anchor]).check(&own, &[], now(), &[])), Some(Fault::NoIssuer));
    assert_eq!(fault(store(&[&anchor, &own]).check(&own, &[], now(), &[])), None);
    assert_eq!(fault(store(&[]).check(&leaf, &[between, anchor], now(), &[])), Some(Fault::NoIssuer));
}

#[test]
fn a_certificate_is_read() {
    let (root, gm) = (Party::new("Root"), Party::new("gm1"));
    let leaf = root.issues(&gm, |b| {
        let mut names = SubjectAlternativeName::new();
        names
            .dns("gm1.example.net")
            .email("gm1@example.net")
            .ip("192.0.2.1")
            .ip("2001:db8::1")
            .uri("https://example.net");
        let names = names.build(&b.x509v3_context(None, None)).unwrap();
        b.append_extension(names).unwrap();
    });
    assert_eq!(*leaf.subject(), DistinguishedName::parse("cn=GM1, o=example").unwrap());
    assert_eq!((leaf.issuer().to_string().as_str(), leaf.is_ca()), ("CN=Root,O=Example", false));
    assert_eq!((leaf.not_before(), leaf.not_after()), (at(NOW - 10 * DAY), at(NOW + 10 * DAY)));
    assert_eq!(leaf.public_key().kind(), KeyKind::EcP256);
    assert_eq!(leaf.public_key().spki(), gm.key.public_key_to_der().unwrap());
    assert_eq!(
        leaf.names(),
        [
            AltName::Dns("gm1.example.net".to_owned()),
            AltName::Email("gm1@example.net".to_owned()),
            AltName::Ip("192.0.2.1".parse().unwrap()),
            AltName::Ip("2001:db8::1".parse().unwrap()),
        ]
    );
    let pem = X509::from_der(leaf.der()).unwrap().to_pem().unwrap();
    let text = [b"comment\n", &pem[..], b"\r\n", &pem[..]].concat();
    assert_eq!(Certificate::all_from_pem(&text).unwrap(), [leaf.clone(), leaf.clone()]);
    assert!(Certificate::all_from_pem(b"").is_err());
    assert!(Certificate::all_from_pem(b"-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n").is_err());
    assert!(Certificate::all_from_pem(&pem[..pem.len() / 2]).is_err());
    assert_eq!(format!("{leaf:?}"), "Certificate(CN=gm1,O=Example)");
}

#[test]
fn times_are_kept() {
    let (root, sub, gm) = (Party::new("Root"), Party::new("Sub"), Party::new("gm1"));
    let anchor = root.issues(&root, |b| {
        ca(b);
        valid(b, NOW - 90 * DAY, NOW + 90 * DAY);
    });
    let between = root.issues(&sub, |b| {
        ca(b);
        valid(b, NOW - 30 * DAY, NOW + 5 * DAY);
    });
    let leaf = sub.issues(&gm, |b| valid(b, NOW - 20 * DAY, NOW + 20 * DAY));
    for (wall, expected) in [
        (NOW, None),
        (NOW - 21 * DAY, Some(Fault::NotYetValid)),
        (NOW + 21 * DAY, Some(Fault::Expired)),
        // The CA's time is over before the leaf's.
        (NOW + 6 * DAY, Some(Fault::Expired)),
    ] {
        assert_eq!(verdict(&anchor, &leaf, std::slice::from_ref(&between), wall), expected);
    }
    let old = root.issues(&root, |b| {
        ca(b);
        valid(b, NOW - 90 * DAY, NOW - DAY);
    });
    let direct = root.issues(&gm, plain);
    assert_eq!(verdict(&old, &direct, &[], NOW), Some(Fault::Expired));
}

#[test]
fn only_who_may_issues() {
    let (root, sub, gm) = (Party::new("Root"), Party::new("Sub"), Party::new("gm1"));
    let anchor = root.appoints(&root);
    let leaf = sub.issues(&gm, plain);
    // A member issues certificates; a CA whose key may not sign any.
    let not_ca = root.issues(&sub, plain);
    assert_eq!(verdict(&anchor, &leaf, &[not_ca], NOW), Some(Fault::NotCa));
    let not_ca = root.issues(&sub, |b| {
        b.append_extension(BasicConstraints::new().critical().build().unwrap()).unwrap();
    });
    assert_eq!(verdict(&anchor, &leaf, &[not_ca], NOW), Some(Fault::NotCa));
    let no_usage = root.issues(&sub, |b| {
        b.append_extension(BasicConstraints::new().critical().ca().build().unwrap()).unwrap();
        b.append_extension(KeyUsage::new().critical().digital_signature().build().unwrap()).unwrap();
    });
    assert_eq!(verdict(&anchor, &leaf, &[no_usage], NOW), Some(Fault::Usage));
    // The right name, another key.
    let impostor = Party::new("Root");
    assert_eq!(verdict(&anchor, &impostor.issues(&gm, plain), &[], NOW), Some(Fault::NoIssuer));
    assert_eq!(verdict(&anchor, &leaf, &[impostor.appoints(&sub)], NOW), Some(Fault::NoIssuer));
    // With the true one beside it the chain is found, where OpenSSL goes by the name alone.
    let both = [impostor.appoints(&sub), root.appoints(&sub)];
    assert_eq!(fault(store(&[&anchor]).check(&leaf, &both, now(), &[])), None);
}

#[test]
fn path_lengths_are_kept() {
    let parties: Vec<Party> = (0..10).map(|n| Party::new(&format!("CA {n}"))).collect();
    let gm = Party::new("gm1");
    let limited = |most| {
        parties[0].issues(&parties[0], |b| {
            b.append_extension(BasicConstraints::new().critical().ca().pathlen(most).build().unwrap()).unwrap();
        })
    };
    let chain: Vec<Certificate> = parties.windows(2).map(|w| w[0].appoints(&w[1])).collect();
    for (most, cas, expected) in
        [(0, 0, None), (0, 1, Some(Fault::PathLength)), (1, 1, None), (1, 2, Some(Fault::PathLength)), (2, 2, None)]
    {
        let leaf = parties[cas].issues(&gm, plain);
        assert_eq!(verdict(&limited(most), &leaf, &chain[..cas], NOW), expected, "{most}, {cas}");
    }
    // Our own bound: eight certificates with leaf and anchor.
    let anchor = parties[0].appoints(&parties[0]);
    let check = |cas: usize| store(&[&anchor]).check(&parties[cas].issues(&gm, plain), &chain[..cas], now(), &[]);
    assert!(check(6).is_ok());
    assert_eq!(fault(check(7)), Some(Fault::PathLength));
    assert!(matches!(check(8), Err(CertificateError::TooLarge)));
}

/// RFC 4945, sections 5.1.3.2 and 5.1.3.12.
#[test]
fn the_key_must_be_for_ike() {
    let (root, gm) = (Party::new("Root"), Party::new("gm1"));
    let anchor = root.appoints(&root);
    let check =
        |more: &dyn Fn(&mut X509Builder)| fault(store(&[&anchor]).check(&root.issues(&gm, more), &[], now(), &[]));
    let usage = |usage: &KeyUsage| {
        let extension = usage.build().unwrap();
        check(&|b: &mut X509Builder| b.append_extension2(&extension).unwrap())
    };
    assert_eq!(usage(KeyUsage::new().digital_signature()), None);
    assert_eq!(usage(KeyUsage::new().critical().non_repudiation()), None);
    assert_eq!(usage(KeyUsage::new().digital_signature().key_encipherment()), None);
    assert_eq!(usage(KeyUsage::new().key_encipherment()), Some(Fault::Usage));
    assert_eq!(usage(KeyUsage::new().key_cert_sign().crl_sign()), Some(Fault::Usage));
    let extended = |oids: &[&str]| {
        let mut usage = ExtendedKeyUsage::new();
        oids.iter().for_each(|oid| {
            usage.other(oid);
        });
        let extension = usage.build().unwrap();
        check(&|b: &mut X509Builder| b.append_extension2(&extension).unwrap())
    };
    assert_eq!(extended(&["1.3.6.1.5.5.7.3.17"]), None);
    assert_eq!(extended(&["1.3.6.1.5.5.7.3.1", "1.3.6.1.5.5.7.3.17"]), None);
    assert_eq!(extended(&["2.5.29.37.0"]), None);
    assert_eq!(extended(&["1.3.6.1.5.5.8.2.2"]), None);
    assert_eq!(extended(&["1.3.6.1.5.5.7.3.1", "1.3.6.1.5.5.7.3.2"]), Some(Fault::Usage));
}

#[test]
fn extensions_that_are_not_understood_are_refused_where_they_matter() {
    let (root, sub, gm) = (Party::new("Root"), Party::new("Sub"), Party::new("gm1"));
    let anchor = root.appoints(&root);
    // An extension of nobody, critical and not.
    let with =
        |critical| root.issues(&gm, |b| b.append_extension(extension("1.2.3.4.5", critical, b"\x05\x00")).unwrap());
    assert_eq!(verdict(&anchor, &with(false), &[], NOW), None);
    assert_eq!(verdict(&anchor, &with(true), &[], NOW), Some(Fault::Extension));
    // Policies, critical: any will do (certificatePolicies), but what constrains them is refused (policyConstraints).
    for (kind, value, expected) in [
        ("2.5.29.32", &b"\x30\x07\x30\x05\x06\x03\x2a\x03\x04"[..], None),
        ("2.5.29.36", b"\x30\x03\x80\x01\x00", Some(Fault::Extension)),
        ("2.5.29.54", b"\x02\x01\x00", Some(Fault::Extension)),
    ] {
        let leaf = root.issues(&gm, |b| b.append_extension(extension(kind, true, value)).unwrap());
        assert_eq!(fault(store(&[&anchor]).check(&leaf, &[], now(), &[])), expected, "{kind}");
    }
    let constrained = root.issues(&sub, |b| {
        ca(b);
        // Permitted: the DNS name "a".
        b.append_extension(extension("2.5.29.30", true, b"\x30\x07\xa0\x05\x30\x03\x82\x01a")).unwrap();
    });
    let leaf = sub.issues(&gm, plain);
    assert_eq!(fault(store(&[&anchor]).check(&leaf, &[constrained], now(), &[])), Some(Fault::Extension));
}

#[test]
fn weak_keys_and_signatures_are_refused() {
    let (root, gm) = (Party::new("Root"), Party::new("gm1"));
    let anchor = root.appoints(&root);
    let sha1 = root.signs(&gm, MessageDigest::sha1(), plain);
    assert_eq!(fault(store(&[&anchor]).check(&sha1, &[], now(), &[])), Some(Fault::WeakSignature));
    let rsa = |bits| PKey::from_rsa(Rsa::generate(bits).unwrap()).unwrap();
    let name = root.x509_name();
    let der = |key: &PKey<Private>, by: &PKey<Private>, digest| {
        let mut b = X509::builder().unwrap();
        b.set_version(2).unwrap();
        b.set_subject_name(&name).unwrap();
        b.set_issuer_name(&name).unwrap();
        b.set_pubkey(key).unwrap();
        valid(&mut b, NOW - DAY, NOW + DAY);
        b.sign(by, digest).unwrap();
        b.build().to_der().unwrap()
    };
    let small = der(&rsa(1024), &root.key, MessageDigest::sha256());
    assert!(matches!(Certificate::from_der(&small), Err(CertificateError::Key(CryptoError::SignatureKey(_)))));
    // Other sizes, hashes and curves are taken: an RSA root, a P-521 CA, and SHA-512 under a P-256 key.
    let root = Party { name: "CN=RSA Root".to_owned(), key: rsa(2048) };
    let sub = Party { name: "CN=Sub".to_owned(), key: ec(Nid::SECP521R1) };
    let anchor = root.signs(&root, MessageDigest::sha384(), ca);
    let between = root.signs(&sub, MessageDigest::sha512(), ca);
    let leaf = sub.signs(&gm, MessageDigest::sha256(), plain);
    assert_eq!(verdict(&anchor, &leaf, &[between], NOW), None);
    let root = Party { name: "CN=Edwards Root".to_owned(), key: PKey::generate_ed25519().unwrap() };
    let sub = Party { name: "CN=Sub".to_owned(), key: PKey::generate_ed448().unwrap() };
    let (anchor, between) = [&root, &sub].map(|whom| root.signs(whom, MessageDigest::null(), ca)).into();
    assert_eq!(verdict(&anchor, &sub.signs(&gm, MessageDigest::null(), plain), &[between], NOW), None);
    let root = Party { name: "CN=RSA Root".to_owned(), key: rsa(2048) };
    let anchor = root.signs(&root, MessageDigest::sha384(), ca);
    let sha1_rsa = root.signs(&gm, MessageDigest::sha1(), plain);
    assert_eq!(fault(store(&[&anchor]).check(&sha1_rsa, &[], now(), &[])), Some(Fault::WeakSignature));
}
