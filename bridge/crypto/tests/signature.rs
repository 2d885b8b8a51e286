//! Signatures from the outside: what is signed, which keys are taken, what is refused.
#![allow(clippy::unwrap_used)]

use std::sync::LazyLock;

use keyferry_crypto::{CryptoError, SignatureScheme, SigningKey, VerifyingKey};
use openssl::bn::BigNum;
use openssl::ec::{EcGroup, EcKey};
use openssl::nid::Nid;
use openssl::pkey::PKey;
use openssl::rsa::{Padding, Rsa};
use openssl::symm::Cipher;

const ALL: [SignatureScheme; 3] =
    [SignatureScheme::RsaPkcs1Sha256, SignatureScheme::RsaPkcs1Sha384, SignatureScheme::RsaPkcs1Sha512];

/// Made once: searching for primes is slow without optimization.
static KEY: LazyLock<SigningKey> = LazyLock::new(|| SigningKey::generate_rsa(2048).unwrap());

fn verifying() -> VerifyingKey {
    VerifyingKey::from_spki(&KEY.public_spki()).unwrap()
}

#[test]
fn signed_in_parts_verifies_as_a_whole() {
    let verifying = verifying();
    for scheme in ALL {
        let sig = KEY.sign(scheme, &[b"one", b"", b"two"]).unwrap();
        assert_eq!((sig.len(), KEY.signature_len(), verifying.signature_len()), (256, 256, 256));
        assert!(verifying.verify(scheme, &[b"onetwo"], &sig));
        assert!(verifying.verify(scheme, &[b"on", b"etwo"], &sig));
        assert!(!verifying.verify(scheme, &[b"onetwo."], &sig));
        assert!(!verifying.verify(scheme, &[], &sig));
        for other in ALL.into_iter().filter(|other| *other != scheme) {
            assert!(!verifying.verify(other, &[b"onetwo"], &sig));
        }
    }
}

#[test]
fn altered_signatures_are_refused() {
    let verifying = verifying();
    let scheme = SignatureScheme::RsaPkcs1Sha256;
    let sig = KEY.sign(scheme, &[b"data"]).unwrap();
    for at in 0..sig.len() {
        let mut bad = sig.clone();
        bad[at] ^= 1;
        assert!(!verifying.verify(scheme, &[b"data"], &bad), "octet {at}");
    }
    for bad in [&[][..], &sig[1..], &sig[..255], &[&[0], &sig[..]].concat(), &[0; 256], &[0xff; 256]] {
        assert!(!verifying.verify(scheme, &[b"data"], bad));
    }
    let other = SigningKey::generate_rsa(2048).unwrap();
    assert!(!VerifyingKey::from_spki(&other.public_spki()).unwrap().verify(scheme, &[b"data"], &sig));
}

/// RFC 8017, section 9.2, taken apart by hand: 00 01 FF .. FF 00, then the DigestInfo, whose AlgorithmIdentifier is
/// that of the hash (notes to section 9.2).
#[test]
fn the_encoded_message_is_that_of_pkcs_1() {
    let public = Rsa::public_key_from_der(&KEY.public_spki()).unwrap();
    let hashes = ["01", "02", "03"];
    for (scheme, number) in ALL.into_iter().zip(hashes) {
        let sig = KEY.sign(scheme, &[b"message"]).unwrap();
        let mut encoded = vec![0; 256];
        public.public_decrypt(&sig, &mut encoded, Padding::NONE).unwrap();
        let len = scheme.hash().len();
        let info = format!("30{:02x}300d06096086480165030402{number}050004{len:02x}", len + 17);
        let mut expected = vec![0xff; 256 - len - 19 - 1];
        expected[..2].copy_from_slice(&[0, 1]);
        expected.push(0);
        expected.extend(hex::decode(info).unwrap());
        expected.extend(scheme.hash().digest(&[b"message"]));
        assert_eq!(encoded, expected);
    }
}

/// RFC 7427, appendix A.1.
#[test]
fn algorithm_identifiers_name_the_schemes() {
    let named = ["0b", "0c", "0d"].map(|last| hex::decode(format!("300d06092a864886f70d0101{last}0500")).unwrap());
    for (scheme, der) in ALL.into_iter().zip(named) {
        assert_eq!(scheme.algorithm_identifier(), der);
        assert_eq!(SignatureScheme::from_algorithm_identifier(&der), Some(scheme));
        assert_eq!(SignatureScheme::from_algorithm_identifier(&der[..14]), None);
        assert_eq!(SignatureScheme::from_algorithm_identifier(&[&der[..], &[0]].concat()), None);
    }
    // RSA with SHA-1.
    let sha1 = hex::decode("300d06092a864886f70d0101050500").unwrap();
    assert_eq!(SignatureScheme::from_algorithm_identifier(&sha1), None);
    assert_eq!(SignatureScheme::from_algorithm_identifier(&[]), None);
}

#[test]
fn a_key_survives_its_pem() {
    let pem = KEY.to_pem();
    assert!(pem.expose().starts_with(b"-----BEGIN PRIVATE KEY-----"));
    let read = SigningKey::from_pem(pem.expose()).unwrap();
    assert_eq!(read.public_spki(), KEY.public_spki());
    let scheme = SignatureScheme::RsaPkcs1Sha256;
    assert_eq!(read.sign(scheme, &[b"data"]).unwrap(), KEY.sign(scheme, &[b"data"]).unwrap());
    // PKCS #1 is read too.
    let rsa = Rsa::private_key_from_pem(pem.expose()).unwrap();
    let pkcs1 = rsa.private_key_to_pem().unwrap();
    assert_eq!(SigningKey::from_pem(&pkcs1).unwrap().public_spki(), KEY.public_spki());
    assert_eq!(format!("{read:?}"), "SigningKey(RSA, 2048 bits)");
    assert_eq!(format!("{:?}", verifying()), "VerifyingKey(RSA, 2048 bits)");
    assert_eq!(verifying().spki(), KEY.public_spki());
}

#[test]
fn unusable_private_keys_are_refused() {
    let refused = |pem: &[u8]| matches!(SigningKey::from_pem(pem), Err(CryptoError::SignatureKey(_)));
    assert!(refused(b""));
    assert!(refused(b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"));
    assert!(refused(&PKey::from_rsa(Rsa::generate(1024).unwrap()).unwrap().private_key_to_pem_pkcs8().unwrap()));
    let curve = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1).unwrap();
    let ec = PKey::from_ec_key(EcKey::generate(&curve).unwrap()).unwrap();
    assert!(refused(&ec.private_key_to_pem_pkcs8().unwrap()));
    // Encrypted: refused at once, where OpenSSL left alone would ask at the terminal.
    let rsa = PKey::private_key_from_pem(KEY.to_pem().expose()).unwrap();
    assert!(refused(&rsa.private_key_to_pem_pkcs8_passphrase(Cipher::aes_128_cbc(), b"passphrase").unwrap()));
    for bits in [0, 1024, 2047, 8193, u32::MAX] {
        assert!(matches!(SigningKey::generate_rsa(bits), Err(CryptoError::SignatureKey(_))));
    }
}

#[test]
fn unusable_public_keys_are_refused() {
    let refused = |spki: &[u8]| matches!(VerifyingKey::from_spki(spki), Err(CryptoError::SignatureKey(_)));
    let good = KEY.public_spki();
    for len in 0..good.len() {
        assert!(refused(&good[..len]), "{len} octets");
    }
    assert!(refused(&[&good[..], &[0]].concat()), "an octet behind");
    let curve = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1).unwrap();
    let ec = PKey::from_ec_key(EcKey::generate(&curve).unwrap()).unwrap();
    assert!(refused(&ec.public_key_to_der().unwrap()), "another algorithm");

    // A number of so many bits, odd or even, stands in for a modulus.
    let spki = |bits: i32, odd: bool, exponent: BigNum| {
        let mut modulus = BigNum::new().unwrap();
        modulus.set_bit(bits - 1).unwrap();
        modulus.add_word(u32::from(odd)).unwrap();
        Rsa::from_public_components(modulus, exponent).unwrap().public_key_to_der().unwrap()
    };
    let number = |v: u32| BigNum::from_u32(v).unwrap();
    assert!(VerifyingKey::from_spki(&spki(2048, true, number(65_537))).is_ok());
    assert!(VerifyingKey::from_spki(&spki(8192, true, number(3))).is_ok());
    assert!(refused(&spki(2047, true, number(65_537))), "too short");
    assert!(refused(&spki(8193, true, number(65_537))), "too long");
    assert!(refused(&spki(2048, false, number(65_537))), "even modulus");
    for exponent in [0, 1, 2, 65_536] {
        assert!(refused(&spki(2048, true, number(exponent))), "exponent {exponent}");
    }
    assert!(refused(&spki(2048, true, BigNum::from_slice(&[0xff; 9]).unwrap())), "long exponent");
}
