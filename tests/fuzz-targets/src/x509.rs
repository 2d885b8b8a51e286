//! Certificates and what stands beside them, as strangers send them and files hold them.

use std::sync::LazyLock;
use std::time::Duration;

use keyferry_crypto::x509::{AltName, Certificate, Crl, DistinguishedName, OcspAnswer, Revocation, TrustStore};

/// Certificates of a CA and of two members, which the corpus holds too.
const CA: &[u8] = include_bytes!("../../fuzz/corpus/x509/ca");
const LEAF: &[u8] = include_bytes!("../../fuzz/corpus/x509/leaf");
const NEIGHBOUR: &[u8] = include_bytes!("../../fuzz/corpus/x509/neighbour");

/// When both are valid.
const NOW: Duration = Duration::from_secs(1_800_000_000);

static KNOWN: LazyLock<[Certificate; 3]> = LazyLock::new(|| {
    let read = |octets: &[u8]| Certificate::from_der(&octets[1..]).expect("the corpus holds certificates");
    [CA, LEAF, NEIGHBOUR].map(read)
});

/// One octet says what follows.
pub fn target(data: &[u8]) {
    let Some((which, octets)) = data.split_first() else { return };
    match which {
        0 => certificate(octets),
        1 => revocation_list(octets),
        2 => answer(octets),
        3 => {
            if let Ok(name) = DistinguishedName::from_der(octets) {
                assert_eq!(name.der(), octets);
                reads_back(&name);
            }
        }
        4 => {
            let Some(name) = std::str::from_utf8(octets).ok().and_then(|t| DistinguishedName::parse(t).ok()) else {
                return;
            };
            assert_eq!(DistinguishedName::from_der(name.der()).ok().as_ref(), Some(&name));
            reads_back(&name);
        }
        _ => {
            let read = Certificate::all_from_pem(octets).into_iter().flatten();
            read.for_each(|c| certificate(c.der()));
        }
    }
}

/// A name that is shown is the name that is meant.
fn reads_back(name: &DistinguishedName) {
    let text = name.to_string();
    assert!(!text.chars().any(char::is_control), "{text:?}");
    let again = DistinguishedName::parse(&text);
    assert_eq!(again.as_ref().map(|again| (again, again.to_string())), Ok((name, text)));
}

fn certificate(octets: &[u8]) {
    let Ok(certificate) = Certificate::from_der(octets) else { return };
    assert_eq!(certificate.der(), octets);
    reads_back(certificate.subject());
    for name in certificate.names() {
        match name {
            AltName::Dns(text) | AltName::Email(text) => assert!(text.bytes().all(|b| b.is_ascii_graphic())),
            AltName::Dn(name) => reads_back(name),
            AltName::Ip(_) => {}
        }
    }
    let [ca, leaf, _] = &*KNOWN;
    let store = TrustStore::new(vec![ca.clone()], vec![], Revocation::IfKnown);
    let known = KNOWN.contains(&certificate);
    assert_eq!(store.check(&certificate, &[], NOW, &[]).is_ok(), known, "only what the CA has issued is trusted");
    assert!(
        store.check(leaf, std::slice::from_ref(&certificate), NOW, &[]).is_ok(),
        "a stray certificate does no harm"
    );
    if certificate == *leaf {
        return;
    }
    let strange = TrustStore::new(vec![certificate], vec![], Revocation::Require);
    assert!(strange.check(leaf, &[], NOW, &[]).is_err(), "nothing tells that it is not revoked");
}

fn revocation_list(octets: &[u8]) {
    let Ok(lists) = Crl::all_from_pem_or_der(octets) else { return };
    let [ca, leaf, _] = &*KNOWN;
    lists.iter().for_each(|list| reads_back(list.issuer()));
    let store = TrustStore::new(vec![ca.clone()], lists, Revocation::IfKnown);
    assert!(store.check(leaf, &[], NOW, &[]).is_ok(), "a list that the CA has not signed says nothing");
}

fn answer(octets: &[u8]) {
    let Ok(answer) = OcspAnswer::from_der(octets) else { return };
    let [ca, leaf, neighbour] = &*KNOWN;
    let store = TrustStore::new(vec![ca.clone()], vec![], Revocation::Require);
    let about_another = store.check(neighbour, &[], NOW, std::slice::from_ref(&answer));
    assert!(about_another.is_err(), "every answer of the corpus is about one member");
    drop(store.check(leaf, &[], NOW, &[answer]));
}
