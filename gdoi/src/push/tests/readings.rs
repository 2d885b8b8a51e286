//! Readings of RFC 6407 in which a key server may send its pushes, each taken, noticed and remembered.

use keyferry_crypto::{BlockCipher, KeyKind, SignatureScheme};
use keyferry_model::reading::{Reading, Readings};

use super::key_server::{KeyServer, delete, give, kd, sa, seq, signer};
use crate::policy::take::signature_key;
use crate::reject::Reject;
use crate::wire::registry::{Doi, payload};

fn only(reading: Reading) -> Readings {
    Readings::from_iter([reading])
}

/// A push that brings a data SA. A vendor ID of one octet makes padding necessary.
fn data(n: u32) -> Vec<super::key_server::Body> {
    vec![seq(n), (payload::VENDOR_ID, vec![7]), sa(None, None, &[0x1000 + n]), kd(None, &[0x1000 + n])]
}

#[test]
fn signatures_may_cover_header_and_payloads_in_many_ways() {
    let coverage =
        [Reading::SigNul, Reading::SigUnpaddedLength, Reading::SigClearFlags, Reading::SigHashedTwice, Reading::SigRaw];
    for scheme in [
        SignatureScheme::RsaPkcs1Sha256,
        SignatureScheme::RsaPkcs1Sha512,
        SignatureScheme::EcdsaP256Sha256,
        SignatureScheme::EcdsaP384Sha384,
        SignatureScheme::EcdsaP521Sha512,
    ] {
        let server = KeyServer::new(3, BlockCipher::Aes128Cbc, scheme);
        for bits in 0..1u8 << coverage.len() {
            let sends: Readings =
                coverage.into_iter().enumerate().filter(|(i, _)| bits & (1 << i) != 0).map(|(_, r)| r).collect();
            let raw = sends.has(Reading::SigRaw);
            if raw && (sends.has(Reading::SigHashedTwice) || scheme.kind() != KeyKind::Rsa) {
                continue;
            }
            let mut member = server.member(0);
            assert!(give(&mut member, &server.push(&data(1), sends)).is_ok(), "{scheme:?} {sends}");
            assert_eq!(member.readings(), sends);
            // The next one too, and one in the usual reading.
            assert!(give(&mut member, &server.push(&data(2), sends)).is_ok(), "{scheme:?} {sends}");
            assert!(give(&mut member, &server.push(&data(3), Readings::NONE)).is_ok(), "{scheme:?} {sends}");
        }
    }
}

#[test]
fn the_iv_of_a_push_may_be_zero() {
    for cipher in [BlockCipher::Aes128Cbc, BlockCipher::Aes256Cbc, BlockCipher::TripleDesCbc] {
        let server = KeyServer::new(3, cipher, SignatureScheme::RsaPkcs1Sha256);
        let mut member = server.member(0);
        for n in 1..4 {
            assert!(give(&mut member, &server.push(&data(n), only(Reading::ZeroIv))).is_ok(), "{cipher:?}");
        }
        assert_eq!(member.readings(), only(Reading::ZeroIv));
    }
}

#[test]
fn the_iv_of_a_push_may_stand_in_front_of_it() {
    for cipher in [BlockCipher::Aes128Cbc, BlockCipher::Aes256Cbc, BlockCipher::TripleDesCbc] {
        let server = KeyServer::new(3, cipher, SignatureScheme::RsaPkcs1Sha256);
        let mut member = server.member(0);
        for n in 1..4u8 {
            let iv = vec![0x90 + n; cipher.block_len()];
            let push = server.push_with_iv(&data(n.into()), &iv, true);
            assert!(give(&mut member, &push).is_ok(), "{cipher:?}");
        }
        assert_eq!(member.readings(), only(Reading::PrefixedIv));
    }
}

#[test]
fn the_iv_of_a_push_may_be_the_last_block_of_the_one_before() {
    for cipher in [BlockCipher::Aes128Cbc, BlockCipher::Aes256Cbc, BlockCipher::TripleDesCbc] {
        let server = KeyServer::new(3, cipher, SignatureScheme::RsaPkcs1Sha256);
        let mut member = server.member(0);
        let mut push = server.push(&data(1), Readings::NONE);
        assert!(give(&mut member, &push).is_ok());
        for n in 2..5 {
            push = server.push_with_iv(&data(n), &push[push.len() - cipher.block_len()..], false);
            assert!(give(&mut member, &push).is_ok(), "{cipher:?}");
        }
        assert_eq!(member.readings(), only(Reading::ChainedIv));
    }
}

/// The number starts anew with the push that brings a new KEK, where it should go on under the old one.
#[test]
fn the_push_with_a_new_kek_may_have_number_one() {
    let (old, new) = (KeyServer::usual(3), KeyServer::usual(4));
    let mut member = old.member(7);
    let spki = new.signer.public_spki();
    let push = old.push(&[seq(1), sa(Some(&new), None, &[]), kd(Some((&new, Some(&spki))), &[])], Readings::NONE);
    assert!(give(&mut member, &push).is_ok());
    assert_eq!(member.newest(), Some((&new.spi, 0)));
    assert_eq!(member.readings(), only(Reading::SeqOneWithKek));
    // It cannot come again, whatever it is changed into, nor can an older one.
    assert!(matches!(give(&mut member, &push), Err(Reject::Replayed)));
    let third = KeyServer::usual(5);
    let late = [seq(1), sa(Some(&third), None, &[]), kd(Some((&third, Some(&spki))), &[])];
    assert!(matches!(give(&mut member, &old.push(&late, Readings::NONE)), Err(Reject::Replayed)));
    // Without a new KEK the number is an old one.
    assert!(give(&mut member, &new.push(&data(1), Readings::NONE)).is_ok());
    assert!(matches!(give(&mut member, &new.push(&data(1), only(Reading::SigNul))), Err(Reject::Replayed)));
}

#[test]
fn signature_keys_come_in_many_forms() {
    let old = KeyServer::usual(3);
    let bring = |new: &KeyServer, key: Option<&[u8]>| {
        let mut member = old.member(0);
        let push = old.push(&[seq(1), sa(Some(new), None, &[]), kd(Some((new, key)), &[])], Readings::NONE);
        give(&mut member, &push).map(|_| (give(&mut member, &new.push(&data(1), Readings::NONE)).is_ok(), member))
    };
    for scheme in [
        SignatureScheme::RsaPkcs1Sha256,
        SignatureScheme::EcdsaP256Sha256,
        SignatureScheme::EcdsaP384Sha384,
        SignatureScheme::EcdsaP521Sha512,
    ] {
        let new = KeyServer::new(4, BlockCipher::Aes128Cbc, scheme);
        let spki = new.signer.public_spki();
        let (followed, member) = bring(&new, Some(&spki)).unwrap();
        assert_eq!((followed, member.readings()), (true, Readings::NONE), "{scheme:?}");
        // The bit string at the end of a SubjectPublicKeyInfo is the PKCS #1 key, or the point.
        let (reading, forms) = match scheme.kind() {
            KeyKind::Rsa => (Reading::SigKeyPkcs1, vec![spki[24..].to_vec()]),
            KeyKind::Ed25519 | KeyKind::Ed448 => panic!("GDOI has no such keys"),
            KeyKind::EcP256 | KeyKind::EcP384 | KeyKind::EcP521 => {
                let point = spki[spki.len() - 1 - new.signer.signature_len()..].to_vec();
                (Reading::SigKeyPoint, vec![point[1..].to_vec(), point])
            }
        };
        for form in forms {
            let (followed, member) = bring(&new, Some(&form)).unwrap();
            assert_eq!((followed, member.readings()), (true, only(reading)), "{scheme:?}");
        }
    }
}

#[test]
fn a_new_kek_may_keep_the_signature_key() {
    let (old, new) = (KeyServer::usual(3), KeyServer::usual(4));
    let mut member = old.member(0);
    let push = old.push(&[seq(1), sa(Some(&new), None, &[]), kd(Some((&new, None)), &[])], Readings::NONE);
    assert!(give(&mut member, &push).is_ok());
    assert!(give(&mut member, &new.push(&data(1), Readings::NONE)).is_ok());
    assert_eq!(member.readings(), only(Reading::SigKeyKept));
    // But not for another algorithm, to which it does not belong.
    let other = KeyServer::new(5, BlockCipher::Aes128Cbc, SignatureScheme::EcdsaP256Sha256);
    let push = new.push(&[seq(2), sa(Some(&other), None, &[]), kd(Some((&other, None)), &[])], Readings::NONE);
    assert!(give(&mut member, &push).is_err());
}

#[test]
fn a_key_of_another_kind_than_the_algorithms_is_refused() {
    let old = KeyServer::usual(3);
    for (scheme, key) in [
        (SignatureScheme::RsaPkcs1Sha256, KeyKind::EcP256),
        (SignatureScheme::EcdsaP256Sha256, KeyKind::Rsa),
        (SignatureScheme::EcdsaP256Sha256, KeyKind::EcP384),
    ] {
        let mut member = old.member(0);
        let new = KeyServer::new(4, BlockCipher::Aes128Cbc, scheme);
        let spki = signer(key).public_spki();
        let push = old.push(&[seq(1), sa(Some(&new), None, &[]), kd(Some((&new, Some(&spki))), &[])], Readings::NONE);
        assert!(give(&mut member, &push).is_err(), "{scheme:?} {key:?}");
        assert_eq!(member.newest().map(|(spi, _)| *spi), Some(old.spi));
    }
}

#[test]
fn deletes_may_bear_the_numbers_of_rfc_2407() {
    let server = KeyServer::usual(3);
    for (doi, protocol) in [(Doi::GDOI, 3), (Doi::IPSEC, 3)] {
        let mut member = server.member(0);
        let push = server.push(&[seq(1), delete(doi, protocol, 4, &[0, 0, 0x10, 1])], Readings::NONE);
        let applied = give(&mut member, &push).unwrap();
        let removed = applied.update.unwrap().remove;
        assert_eq!(removed, keyferry_model::update::Removal::Spis(vec![0x1001]));
        assert_eq!(member.readings(), only(Reading::IpsecDeletes));
    }
}

/// Whether the IV of a key in an update array is encrypted, and whose IV encrypts, shows only when the next push opens.
#[test]
fn keys_of_the_tree_may_be_wrapped_in_many_ways() {
    for cipher in [BlockCipher::Aes128Cbc, BlockCipher::Aes192Cbc, BlockCipher::Aes256Cbc, BlockCipher::TripleDesCbc] {
        for reading in [None, Some(Reading::LkhEncryptedIv), Some(Reading::LkhParentIv)] {
            let scheme = SignatureScheme::EcdsaP256Sha256;
            let (old, new, third) = (
                KeyServer::new(3, cipher, scheme),
                KeyServer::new(4, cipher, scheme),
                KeyServer::new(5, cipher, scheme),
            );
            let leaf: Vec<u8> = (0..).map(|i: u8| i ^ 0x66).take(old.keymat.len()).collect();
            let mut member = old.member_of_tree(&leaf);
            for (over, next, n) in [(&old, &new, 1), (&new, &third, 2)] {
                let push =
                    over.push(&[seq(n), sa(Some(next), None, &[]), next.wrapped(reading, &leaf)], Readings::NONE);
                assert!(give(&mut member, &push).is_ok(), "{cipher:?} {reading:?}");
                let push = next.push(&data(1), Readings::NONE);
                assert!(give(&mut member, &push).is_ok(), "{cipher:?} {reading:?}");
            }
            assert_eq!(member.readings(), reading.into_iter().collect(), "{cipher:?}");
        }
    }
}

/// The certificate of tests/vectors/groupkey.py.
#[test]
fn a_signature_key_may_be_a_certificate() {
    let lines: Vec<Vec<u8>> =
        include_str!("../../../tests/vectors/certificate.txt").lines().map(|l| hex::decode(l).unwrap()).collect();
    let [spki, certificate] = lines.as_slice() else { panic!("two lines") };
    let (key, form) = signature_key(certificate, SignatureScheme::RsaPkcs1Sha256).unwrap();
    assert_eq!((key.spki(), form), (spki.as_slice(), only(Reading::SigKeyCertificate)));
    assert!(signature_key(certificate, SignatureScheme::EcdsaP256Sha256).is_err());
}
