//! Signature algorithms by their AlgorithmIdentifiers (RFC 7427, RFC 8420): which forms are read, and that none passes for
//! another.
#![allow(clippy::unwrap_used)]

use keyferry_crypto::{CryptoError, Hash, KeyKind, SignatureAlgorithm, SignatureForm, SigningKey, VerifyingKey};
use openssl::hash::MessageDigest;
use openssl::pkey::PKey;
use openssl::rsa::{Padding, Rsa};
use openssl::sign::{RsaPssSaltlen, Signer, Verifier};

const HASHES: [Hash; 3] = [Hash::Sha256, Hash::Sha384, Hash::Sha512];

fn hex(s: &str) -> Vec<u8> {
    hex::decode(s.split_whitespace().collect::<String>()).unwrap()
}

fn all() -> Vec<SignatureAlgorithm> {
    let hashed =
        HASHES.map(|h| [SignatureAlgorithm::RsaPkcs1(h), SignatureAlgorithm::RsaPss(h), SignatureAlgorithm::Ecdsa(h)]);
    let weak = [SignatureAlgorithm::RsaPkcs1(Hash::Sha1), SignatureAlgorithm::Ecdsa(Hash::Sha1)];
    hashed.into_iter().flatten().chain(weak).chain([SignatureAlgorithm::Ed25519, SignatureAlgorithm::Ed448]).collect()
}

/// RFC 7427, appendices A.1, A.3 and A.4; RFC 8420, appendix A.
#[test]
fn the_objects_of_the_appendices() {
    let objects = [
        ("300d 0609 2a86 4886 f70d 0101 0505 00", SignatureAlgorithm::RsaPkcs1(Hash::Sha1)),
        ("300d 0609 2a86 4886 f70d 0101 0b05 00", SignatureAlgorithm::RsaPkcs1(Hash::Sha256)),
        ("300d 0609 2a86 4886 f70d 0101 0c05 00", SignatureAlgorithm::RsaPkcs1(Hash::Sha384)),
        ("300d 0609 2a86 4886 f70d 0101 0d05 00", SignatureAlgorithm::RsaPkcs1(Hash::Sha512)),
        ("3009 0607 2a86 48ce 3d04 01", SignatureAlgorithm::Ecdsa(Hash::Sha1)),
        ("300a 0608 2a86 48ce 3d04 0302", SignatureAlgorithm::Ecdsa(Hash::Sha256)),
        ("300a 0608 2a86 48ce 3d04 0303", SignatureAlgorithm::Ecdsa(Hash::Sha384)),
        ("300a 0608 2a86 48ce 3d04 0304", SignatureAlgorithm::Ecdsa(Hash::Sha512)),
        (
            "3046 0609 2a86 4886 f70d 0101 0a30 39a0 0f30 0d06 0960 8648 0165 0304 0201 0500
             a11c 301a 0609 2a86 4886 f70d 0101 0830 0d06 0960 8648 0165 0304 0201 0500 a203
             0201 20a3 0302 0101",
            SignatureAlgorithm::RsaPss(Hash::Sha256),
        ),
        ("3005 0603 2b65 70", SignatureAlgorithm::Ed25519),
        ("3005 0603 2b65 71", SignatureAlgorithm::Ed448),
    ];
    for (der, algorithm) in objects {
        assert_eq!(algorithm.to_der(), hex(der), "{algorithm:?}");
        assert_eq!(SignatureAlgorithm::from_der(&hex(der)), Some(algorithm));
    }
    for algorithm in all() {
        let der = algorithm.to_der();
        assert_eq!(SignatureAlgorithm::from_der(&der), Some(algorithm));
        for len in 0..der.len() {
            assert_eq!(SignatureAlgorithm::from_der(&der[..len]), None, "{algorithm:?}, {len} octets");
        }
        assert_eq!(SignatureAlgorithm::from_der(&[&der[..], &[0]].concat()), None, "{algorithm:?}, an octet behind");
        assert_eq!(algorithm.is_weak(), algorithm.hash() == Some(Hash::Sha1));
    }
}

/// PSS says its hash, its mask by that hash and its salt of that length, or it is not taken.
#[test]
fn pss_parameters_must_fit_together() {
    let hash = |last: &str| format!("300d06096086480165030402{last}0500");
    let short = |last: &str| format!("300b06096086480165030402{last}");
    let params = |parts: &[String]| {
        let body = parts.concat();
        let params = format!("30{:02x}{body}", body.len() / 2);
        let all = format!("06092a864886f70d01010a{params}");
        hex(&format!("30{:02x}{all}", all.len() / 2))
    };
    let digest = |algorithm: &str| format!("a0{:02x}{algorithm}", algorithm.len() / 2);
    let mask_by = |oid: &str, algorithm: &str| {
        let body = format!("{oid}{algorithm}");
        format!("a1{:02x}30{:02x}{body}", body.len() / 2 + 2, body.len() / 2)
    };
    let mask = |algorithm: &str| mask_by("06092a864886f70d010108", algorithm);
    let salt = |octets: u8| format!("a2030201{octets:02x}");
    let trailer = |n: u8| format!("a3030201{n:02x}");
    let [sha256, sha384] = ["01", "02"].map(hash);
    let read = |parts: &[String]| SignatureAlgorithm::from_der(&params(parts));
    let good = Some(SignatureAlgorithm::RsaPss(Hash::Sha256));
    assert_eq!(read(&[digest(&sha256), mask(&sha256), salt(32)]), good, "as DER has it");
    assert_eq!(read(&[digest(&sha256), mask(&sha256), salt(32), trailer(1)]), good, "as RFC 7427 has it");
    assert_eq!(read(&[digest(&short("01")), mask(&short("01")), salt(32)]), good, "without NULL");
    let sha1 = "300906052b0e03021a0500";
    let bad: [&[String]; 14] = [
        &[],
        &[digest(sha1), mask(sha1), salt(20), trailer(1)],
        &[digest(&sha256)],
        &[digest(&sha256), mask(&sha256)],
        &[digest(&sha256), salt(32)],
        &[mask(&sha256), salt(32)],
        &[digest(&sha256), mask(&sha384), salt(32)],
        &[digest(&sha384), mask(&sha256), salt(48)],
        &[digest(&sha256), mask(&sha256), salt(20)],
        &[digest(&sha256), mask(&sha256), salt(0)],
        &[digest(&sha256), mask(&sha256), "a20402020020".into()],
        &[digest(&sha256), mask(&sha256), salt(32), trailer(2)],
        &[digest(&sha256), mask(&sha256), salt(32), trailer(1), trailer(1)],
        &[digest(&sha256), mask_by("06092a864886f70d010109", &sha256), salt(32)],
    ];
    for parts in bad {
        assert_eq!(read(parts), None, "{parts:?}");
    }
    // Without parameters, and with PKCS #1's.
    assert_eq!(SignatureAlgorithm::from_der(&hex("300b06092a864886f70d01010a")), None);
    assert_eq!(SignatureAlgorithm::from_der(&hex("300d06092a864886f70d01010a0500")), None);
}

#[test]
fn other_objects_are_not_taken() {
    assert_eq!(
        SignatureAlgorithm::from_der(&hex("300b06092a864886f70d01010b")),
        Some(SignatureAlgorithm::RsaPkcs1(Hash::Sha256)),
        "PKCS #1 without NULL"
    );
    for der in [
        "",
        "3000",
        "300d06092a864886f70d0101040500",
        "300d06092a864886f70d0101010500",
        "300e06092a864886f70d01010b050100",
        "300d06092a864886f70d01010b3000",
        "300c06082a8648ce3d0403020500",
        "300a06082a8648ce3d040301",
        "300706032b65700500",
        "300506032b656f",
    ] {
        assert_eq!(SignatureAlgorithm::from_der(&hex(der)), None, "{der}");
    }
}

/// Known answers of vectors/named.py. A signature is by its algorithm and by no other.
#[test]
fn signatures_of_another_implementation_verify() {
    let mut seen = 0;
    for line in include_str!("vectors/named.txt").lines() {
        let (name, values) = line.split_once(' ').unwrap();
        let [der, spki, octets, value] = values.split(' ').map(hex).collect::<Vec<_>>().try_into().unwrap();
        let key = VerifyingKey::from_spki(&spki).unwrap();
        let algorithm = SignatureAlgorithm::from_der(&der);
        if name.starts_with("pss-salt") {
            assert_eq!(algorithm, None, "a salt of another length");
            assert!(!all().into_iter().any(|a| key.verify_named(a, &octets, &value)), "{name}");
            continue;
        }
        let algorithm = algorithm.unwrap();
        assert!(algorithm.is_for(key.kind()), "{name}");
        for other in all() {
            assert_eq!(key.verify_named(other, &octets, &value), other == algorithm, "{name} as {other:?}");
            let form = SignatureForm::Algorithm(other);
            assert_eq!(key.verify_form(form, &octets, &value), other == algorithm, "{name} as {other:?}");
        }
        assert!(!key.verify_named(algorithm, &octets[1..], &value) && !key.verify_named(algorithm, &[], &value));
        let cut = [&value[1..], &value[..value.len() - 1], &[], &[&value[..], &[0]].concat()];
        assert!(!cut.into_iter().any(|cut| key.verify_named(algorithm, &octets, cut)), "{name}");
        for at in [0, value.len() / 2, value.len() - 1] {
            let mut bad = value.clone();
            bad[at] ^= 1;
            assert!(!key.verify_named(algorithm, &octets, &bad), "{name}: octet {at}");
        }
        seen += 1;
    }
    assert_eq!(seen, 17);
}

/// The encodings are ours, the other side OpenSSL's; the bits of the modulus decide where an encoding for PSS begins.
#[test]
fn openssl_and_we_verify_each_other() {
    let digests = [
        (Hash::Sha256, MessageDigest::sha256()),
        (Hash::Sha384, MessageDigest::sha384()),
        (Hash::Sha512, MessageDigest::sha512()),
    ];
    for bits in [2048, 2049, 2050, 2055] {
        let key = PKey::from_rsa(Rsa::generate(bits).unwrap()).unwrap();
        let ours = SigningKey::from_pem(&key.private_key_to_pem_pkcs8().unwrap()).unwrap();
        let verifying = VerifyingKey::from_spki(&ours.public_spki()).unwrap();
        for (hash, digest) in digests {
            for algorithm in [SignatureAlgorithm::RsaPkcs1(hash), SignatureAlgorithm::RsaPss(hash)] {
                let pss = matches!(algorithm, SignatureAlgorithm::RsaPss(_));
                let mut verifier = Verifier::new(digest, &key).unwrap();
                let mut signer = Signer::new(digest, &key).unwrap();
                if pss {
                    verifier.set_rsa_padding(Padding::PKCS1_PSS).unwrap();
                    verifier.set_rsa_pss_saltlen(RsaPssSaltlen::DIGEST_LENGTH).unwrap();
                    signer.set_rsa_padding(Padding::PKCS1_PSS).unwrap();
                    signer.set_rsa_pss_saltlen(RsaPssSaltlen::DIGEST_LENGTH).unwrap();
                }
                let value = ours.sign_named(algorithm, b"octets").unwrap();
                assert!(verifier.verify_oneshot(&value, b"octets").unwrap(), "{bits} {algorithm:?}");
                assert_eq!(pss, value != ours.sign_named(algorithm, b"octets").unwrap(), "PSS has a salt");
                let theirs = signer.sign_oneshot_to_vec(b"octets").unwrap();
                assert!(verifying.verify_named(algorithm, b"octets", &theirs), "{bits} {algorithm:?}");
            }
        }
    }
}

/// Each part of an encoding for PSS counts, and so does each of the octets that PKCS #1 pads with.
#[test]
fn encodings_with_anything_wrong_are_refused() {
    let key = Rsa::generate(2049).unwrap();
    let pem = PKey::from_rsa(key.clone()).unwrap().private_key_to_pem_pkcs8().unwrap();
    let ours = SigningKey::from_pem(&pem).unwrap();
    let verifying = VerifyingKey::from_spki(&ours.public_spki()).unwrap();
    for algorithm in [SignatureAlgorithm::RsaPss(Hash::Sha256), SignatureAlgorithm::RsaPkcs1(Hash::Sha256)] {
        let value = ours.sign_named(algorithm, b"octets").unwrap();
        let mut encoded = vec![0; value.len()];
        key.public_decrypt(&value, &mut encoded, Padding::NONE).unwrap();
        let signed = |encoded: &[u8]| {
            let mut value = vec![0; encoded.len()];
            // Not every number is below the modulus.
            key.private_encrypt(encoded, &mut value, Padding::NONE).ok().map(|_| value)
        };
        assert!(verifying.verify_named(algorithm, b"octets", &signed(&encoded).unwrap()));
        let mut tried = 0;
        for at in 0..encoded.len() {
            let mut bad = encoded.clone();
            bad[at] ^= 1;
            let Some(value) = signed(&bad) else { continue };
            tried += 1;
            assert!(!verifying.verify_named(algorithm, b"octets", &value), "{algorithm:?}: octet {at}");
        }
        assert!(tried > 250);
    }
}

#[test]
fn keys_sign_as_they_are_asked_to() {
    let keys = [
        SigningKey::generate_rsa(2048).unwrap(),
        SigningKey::generate_ec(KeyKind::EcP256).unwrap(),
        SigningKey::generate_ec(KeyKind::EcP521).unwrap(),
        SigningKey::generate_edwards(KeyKind::Ed25519).unwrap(),
        SigningKey::generate_edwards(KeyKind::Ed448).unwrap(),
    ];
    for key in &keys {
        let verifying = VerifyingKey::from_spki(&key.public_spki()).unwrap();
        assert_eq!((verifying.kind(), verifying.signature_len()), (key.kind(), key.signature_len()));
        for algorithm in all() {
            let signed = key.sign_named(algorithm, b"octets");
            if !algorithm.is_for(key.kind()) {
                assert!(matches!(signed, Err(CryptoError::SignatureKey(_))), "{key:?} {algorithm:?}");
                continue;
            }
            let value = signed.unwrap();
            assert!(verifying.verify_named(algorithm, b"octets", &value), "{key:?} {algorithm:?}");
            let others = keys.iter().filter(|other| other.public_spki() != key.public_spki());
            for other in others.map(|k| VerifyingKey::from_spki(&k.public_spki()).unwrap()) {
                assert!(!other.verify_named(algorithm, b"octets", &value));
            }
        }
    }
    assert!(SigningKey::generate_edwards(KeyKind::EcP256).is_err());
    assert!(SigningKey::generate_ec(KeyKind::Ed25519).is_err());
}

#[test]
fn edwards_keys_survive_their_pem_and_are_read_strictly() {
    for kind in [KeyKind::Ed25519, KeyKind::Ed448] {
        let key = SigningKey::generate_edwards(kind).unwrap();
        let read = SigningKey::from_pem(key.to_pem().expose()).unwrap();
        assert_eq!((read.kind(), read.public_spki()), (kind, key.public_spki()));
        assert_eq!(format!("{read:?}"), format!("SigningKey({kind:?})"));
        let spki = key.public_spki();
        let verifying = VerifyingKey::from_spki(&spki).unwrap();
        assert_eq!(format!("{verifying:?}"), format!("VerifyingKey({kind:?})"));
        for len in 0..spki.len() {
            assert!(VerifyingKey::from_spki(&spki[..len]).is_err(), "{len} octets");
        }
        assert!(VerifyingKey::from_spki(&[&spki[..], &[0]].concat()).is_err(), "an octet behind");
    }
    // Keys to agree with are no keys to sign with.
    let x25519 = PKey::generate_x25519().unwrap();
    assert!(matches!(
        SigningKey::from_pem(&x25519.private_key_to_pem_pkcs8().unwrap()),
        Err(CryptoError::SignatureKey(_))
    ));
    assert!(VerifyingKey::from_spki(&x25519.public_key_to_der().unwrap()).is_err());
}
