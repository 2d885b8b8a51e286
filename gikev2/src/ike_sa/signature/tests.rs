use super::*;
use keyferry_crypto::SigningKey;
use keyferry_wire::ChainWriter;

use crate::wire::registry::PayloadKind;
use crate::wire::rules;

const KINDS: [KeyKind; 6] =
    [KeyKind::Rsa, KeyKind::EcP256, KeyKind::EcP384, KeyKind::EcP521, KeyKind::Ed25519, KeyKind::Ed448];

/// What is read out of an IKE_SA_INIT message with this notify.
fn announced(notify: Option<&Notify<'_>>) -> Result<Announced, Reject> {
    let mut chain = ChainWriter::new();
    if let Some(notify) = notify {
        chain.push(PayloadKind::NOTIFY.0, &notify.to_vec());
    }
    let (first, bytes) = chain.finish().unwrap();
    Announced::read(&Payloads::parse(first, &bytes, rules::INIT_RESPONSE).unwrap())
}

fn of(numbers: &[u16]) -> Announced {
    let data: Vec<u8> = numbers.iter().flat_map(|n| n.to_be_bytes()).collect();
    announced(Some(&Notify::new(NotifyType::SIGNATURE_HASH_ALGORITHMS, data))).unwrap()
}

fn algorithm(kind: KeyKind, peer: &Announced) -> Option<SignatureAlgorithm> {
    let way = Way::of(kind, peer, Padding::Pss, true)?;
    assert_eq!(way.method, AuthMethod::DIGITAL_SIGNATURE);
    match way.form {
        SignatureForm::Algorithm(algorithm) => Some(algorithm),
        SignatureForm::Scheme(_) | SignatureForm::Digest(_) => panic!("{way:?}"),
    }
}

/// RFC 7427 section 4, RFC 8420 section 3: numbers 2, 3, 4 and 5.
#[test]
fn the_hashes_that_we_take_are_announced() {
    let notify = announcement();
    assert_eq!(notify.to_vec(), hex::decode("0000402f0002000300040005").unwrap());
    let all = announced(Some(&notify)).unwrap();
    assert_eq!(all, Announced { said: true, hashes: vec![Hash::Sha256, Hash::Sha384, Hash::Sha512], identity: true });
    assert_eq!(announced(None).unwrap(), Announced::default());
    let odd = Notify::new(NotifyType::SIGNATURE_HASH_ALGORITHMS, vec![0, 2, 0]);
    assert!(announced(Some(&odd)).is_err());
}

#[test]
fn we_sign_so_that_the_peer_can_check() {
    use SignatureAlgorithm::{Ecdsa, Ed448, Ed25519, RsaPss};
    let all = of(&[1, 2, 3, 4, 5, 99]);
    let own = [RsaPss(Hash::Sha256), Ecdsa(Hash::Sha256), Ecdsa(Hash::Sha384), Ecdsa(Hash::Sha512), Ed25519, Ed448];
    assert_eq!(KINDS.map(|kind| algorithm(kind, &all)), own.map(Some));
    let only_384 = of(&[3]);
    let [rsa, p256, p384, p521, ed25519, ed448] = KINDS.map(|kind| algorithm(kind, &only_384));
    assert_eq!(rsa, Some(RsaPss(Hash::Sha384)));
    assert_eq!([p256, p384, p521], [Some(Ecdsa(Hash::Sha384)); 3]);
    assert_eq!([ed25519, ed448], [None; 2], "the identity was not announced");
    // SHA-1 alone, or nothing known, is nothing.
    for none in [of(&[1]), of(&[]), of(&[99])] {
        assert_eq!(KINDS.map(|kind| Way::of(kind, &none, Padding::Pss, true)), [None; 6]);
    }
    let pkcs1 = Way::of(KeyKind::Rsa, &all, Padding::Pkcs1, false).unwrap();
    assert_eq!(pkcs1.form, SignatureForm::Algorithm(SignatureAlgorithm::RsaPkcs1(Hash::Sha256)));
}

/// RFC 7296 section 3.8, RFC 4754 section 3.
#[test]
fn older_peers_get_the_method_of_the_key() {
    let older = Announced::default();
    let ways = KINDS.map(|kind| Way::of(kind, &older, Padding::Pss, false));
    let numbers = ways.map(|way| way.map(|w| w.method.0));
    assert_eq!(numbers, [Some(1), Some(9), Some(10), Some(11), None, None]);
    let rsa = |danger| Way::of(KeyKind::Rsa, &older, Padding::Pss, danger).unwrap().form;
    assert_eq!(rsa(false), SignatureForm::Scheme(SignatureScheme::RsaPkcs1Sha256));
    assert_eq!(rsa(true), SignatureForm::Scheme(SignatureScheme::RsaPkcs1Sha1));
}

#[test]
fn what_we_sign_reads_back() {
    let keys = [
        SigningKey::generate_rsa(2048).unwrap(),
        SigningKey::generate_ec(KeyKind::EcP256).unwrap(),
        SigningKey::generate_ec(KeyKind::EcP521).unwrap(),
        SigningKey::generate_edwards(KeyKind::Ed25519).unwrap(),
    ];
    for (key, padding) in keys.iter().flat_map(|key| [(key, Padding::Pss), (key, Padding::Pkcs1)]) {
        for peer in [of(&[2, 3, 4, 5]), Announced::default()] {
            let Some(way) = Way::of(key.kind(), &peer, padding, false) else { continue };
            let auth = way.auth(&key.sign_form(way.form, b"octets").unwrap());
            let signed = Signed::read(&auth, &peer, false).unwrap();
            let verifying = keyferry_crypto::VerifyingKey::from_spki(&key.public_spki()).unwrap();
            let reading = signed.forms.iter().position(|form| verifying.verify_form(*form, b"octets", signed.value));
            assert_eq!(reading, Some(0), "{way:?}");
            if peer.said && key.kind() == KeyKind::Rsa {
                assert_eq!(signed.padding(), padding);
            }
        }
    }
}

/// RFC 7427 section 3: a peer that knows method 14 uses no other, and one that does not cannot use it.
#[test]
fn methods_are_those_of_the_announcement() {
    let value = [7; 64];
    let data = |algorithm: &[u8]| SignatureData { algorithm, value: &value }.to_vec();
    let auth = |method, data: Vec<u8>| Auth { method, data: data.into() };
    let digital = |algorithm: &[u8]| auth(AuthMethod::DIGITAL_SIGNATURE, data(algorithm));
    let ecdsa = SignatureAlgorithm::Ecdsa(Hash::Sha256).to_der();
    let (knows, older) = (of(&[2, 5]), Announced::default());
    assert!(Signed::read(&digital(&ecdsa), &knows, true).is_ok());
    assert!(Signed::read(&digital(&ecdsa), &older, true).is_err());
    for method in [AuthMethod::RSA, AuthMethod::ECDSA_256, AuthMethod::ECDSA_384, AuthMethod::ECDSA_521] {
        assert!(Signed::read(&auth(method, value.to_vec()), &older, true).is_ok());
        assert!(Signed::read(&auth(method, value.to_vec()), &knows, true).is_err(), "{method:?}");
    }
    // DSS, NULL, and what nobody knows.
    for method in [AuthMethod(0), AuthMethod(3), AuthMethod(12), AuthMethod(13), AuthMethod(200)] {
        assert!(Signed::read(&auth(method, value.to_vec()), &knows, true).is_err());
        assert!(Signed::read(&auth(method, value.to_vec()), &older, true).is_err());
    }
    let with_sha1 = Signed::read(&auth(AuthMethod::RSA, value.to_vec()), &older, true).map(|s| s.forms.len());
    let without = Signed::read(&auth(AuthMethod::RSA, value.to_vec()), &older, false).map(|s| s.forms.len());
    assert_eq!((with_sha1.unwrap(), without.unwrap()), (4, 3));
}

/// Hashes that were not announced, objects cut short or with something behind them, and lengths that lie.
#[test]
fn objects_that_are_not_taken() {
    let knows = of(&[1, 2, 3, 4, 5]);
    let read = |data: Vec<u8>| {
        let auth = Auth { method: AuthMethod::DIGITAL_SIGNATURE, data: data.into() };
        Signed::read(&auth, &knows, true).map(|s| s.forms)
    };
    let good = SignatureAlgorithm::RsaPss(Hash::Sha256).to_der();
    let object = |algorithm: &[u8]| SignatureData { algorithm, value: &[7; 256] }.to_vec();
    assert!(read(object(&good)).is_ok());
    for weak in [SignatureAlgorithm::RsaPkcs1(Hash::Sha1), SignatureAlgorithm::Ecdsa(Hash::Sha1)] {
        assert!(read(object(&weak.to_der())).is_err());
    }
    for len in 0..good.len() {
        assert!(read(object(&good[..len])).is_err(), "{len} octets");
    }
    assert!(read(object(&[&good[..], &[5, 0]].concat())).is_err(), "garbage within the object");
    let mut short = object(&good);
    short[0] -= 1;
    assert!(read(short).is_err());
    let mut long = object(&good);
    long[0] += 1;
    assert!(read(long).is_err());
    assert!(read(vec![]).is_err() && read(vec![0]).is_err() && read(vec![255, 0x30]).is_err());
    // Every such refusal is one and the same to the peer.
    let refusals = [read(vec![]), read(object(&[]))].map(|r| r.unwrap_err().notify());
    assert_eq!(refusals, [None, None]);
}
