//! A push with known keys, from an independent computation.
#![allow(clippy::unwrap_used)]

mod hostile;
mod key_server;
mod order;
mod readings;

use std::time::Duration;

use keyferry_crypto::{BlockCipher, Secret, SignatureScheme};
use keyferry_model::policy::AckType;
use keyferry_model::reading::Readings;
use keyferry_model::time::Now;
use keyferry_model::update::Removal;
use keyferry_wire::Header;

use super::member::{Group, Verdict};
use crate::policy::take::{RekeyPolicy, Taking, signature_key};
use crate::policy::tree::Tree;
use crate::pull::member::{NewRekey, Registration};
use crate::reject::Reject;

const NOW: Now = Now { mono: Duration::from_secs(1), wall: Duration::from_secs(1_800_000_000) };

/// The SubjectPublicKeyInfo and the message of tests/vectors/groupkey.py.
fn vector() -> (Vec<u8>, Vec<u8>) {
    let mut lines = include_str!("../../tests/vectors/push.txt").lines().skip(1).map(|line| hex::decode(line).unwrap());
    (lines.next().unwrap(), lines.next().unwrap())
}

fn group(seq: u32) -> Group {
    let keymat = [[0x41; 16], [0x42; 16]].concat();
    group_with(seq, BlockCipher::Aes128Cbc, SignatureScheme::RsaPkcs1Sha256, &keymat, &vector().0)
}

fn group_with(seq: u32, cipher: BlockCipher, scheme: SignatureScheme, keymat: &[u8], spki: &[u8]) -> Group {
    let policy = RekeyPolicy {
        spi: std::array::from_fn(|i| u8::try_from(i).unwrap() + 0x30),
        cipher,
        scheme,
        lifetime: None,
        ack: Some(AckType::Kek(keyferry_crypto::Hash::Sha256)),
        destination: None,
    };
    let verifier = signature_key(spki, scheme).unwrap().0;
    let rekey = NewRekey { policy, keymat: Secret::copy_from(keymat), verifier, seq };
    let mut registration = Registration {
        rekey: Some(rekey),
        tree: Tree::default(),
        data: Vec::new(),
        streams: Vec::new(),
        sender_ids: None,
        activation_delay: Duration::ZERO,
        deactivation_delay: Duration::ZERO,
        readings: Readings::NONE,
    };
    Group::register(&mut registration, None, NOW).0
}

fn verify(group: &mut Group, datagram: &[u8]) -> Result<Verdict, Reject> {
    group.verify(&Header::decode(datagram).unwrap().0, datagram)
}

#[test]
fn a_push_of_an_independent_computation_is_taken() {
    let (_, message) = vector();
    let mut group = group(4);
    let Verdict::Push(push) = verify(&mut group, &message).unwrap() else { panic!("no new push") };
    let applied = group
        .apply(&push, &message, Taking { sender: true, ..Taking::default() }, "10.84.0.11".parse().unwrap(), NOW)
        .unwrap();
    assert_eq!((applied.seq, applied.excluded), (5, false));
    let update = applied.update.unwrap();
    let [data] = update.install.as_slice() else { panic!("one data SA") };
    assert_eq!((data.spi, data.keymat.expose()), (0x1002, [0x52; 20].as_slice()));
    assert_eq!(update.remove, Removal::Spis(vec![0x1001]));
    let delays = (update.activation_delay, update.deactivation_delay);
    assert_eq!(delays, (Duration::from_secs(5), Duration::from_secs(15)));
    assert!(applied.ack.is_some());
    assert!(matches!(verify(&mut group, &message), Ok(Verdict::Repeat(Some(_)))));
}

#[test]
fn every_changed_octet_of_a_push_is_noticed() {
    let (_, message) = vector();
    let mut group = group(4);
    for at in (16..24).chain(28..message.len()) {
        let mut changed = message.clone();
        changed[at] ^= 1;
        // The version is looked at before.
        assert!(verify(&mut group, &changed).is_err(), "octet {at}");
    }
}

#[test]
fn a_push_with_a_number_of_before_is_refused_before_its_signature_is_looked_at() {
    assert!(matches!(verify(&mut group(6), &vector().1), Err(Reject::Replayed)));
}

/// Every signature, every KEK and readings other than ours, each computed elsewhere.
#[test]
fn pushes_of_an_independent_computation_are_taken_in_every_reading() {
    let mut count = 0;
    for line in include_str!("../../tests/vectors/pushes.txt").lines() {
        let [scheme, cipher, reading, keymat, spki, message] = line.split(' ').collect::<Vec<_>>()[..] else {
            panic!("six fields")
        };
        let octets = |text| hex::decode(text).unwrap();
        let scheme = match scheme {
            "rsa-sha1" => SignatureScheme::RsaPkcs1Sha1,
            "rsa-sha2-256" => SignatureScheme::RsaPkcs1Sha256,
            "rsa-sha2-384" => SignatureScheme::RsaPkcs1Sha384,
            "rsa-sha2-512" => SignatureScheme::RsaPkcs1Sha512,
            "ecdsa-p256" => SignatureScheme::EcdsaP256Sha256,
            "ecdsa-p384" => SignatureScheme::EcdsaP384Sha384,
            "ecdsa-p521" => SignatureScheme::EcdsaP521Sha512,
            other => panic!("{other}"),
        };
        let cipher = match cipher {
            "3des" => BlockCipher::TripleDesCbc,
            "aes-128" => BlockCipher::Aes128Cbc,
            "aes-192" => BlockCipher::Aes192Cbc,
            "aes-256" => BlockCipher::Aes256Cbc,
            other => panic!("{other}"),
        };
        let message = octets(message);
        let mut group = group_with(4, cipher, scheme, &octets(keymat), &octets(spki));
        let Ok(Verdict::Push(push)) = verify(&mut group, &message) else { panic!("{scheme:?} {cipher:?} {reading}") };
        let taking = Taking { sender: true, ..Taking::default() };
        let applied = group.apply(&push, &message, taking, "10.84.0.11".parse().unwrap(), NOW).unwrap();
        assert_eq!(applied.update.unwrap().install[0].spi, 0x1002);
        let expected: Readings = reading.parse().into_iter().collect();
        assert_eq!((group.readings(), expected.is_empty()), (expected, reading == "usual"), "{scheme:?} {reading}");
        count += 1;
    }
    assert_eq!(count, 21);
}
