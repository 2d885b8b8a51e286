//! Signatures from the outside: what is signed, which keys are taken, what is refused.
#![allow(clippy::unwrap_used)]

use std::sync::LazyLock;

use keyferry_crypto::{
    CryptoError, DigestSignature, Hash, KeyKind, SignatureScheme, SigningKey, VerifyingKey, ecdsa_from_der,
    ecdsa_to_der,
};
use openssl::bn::BigNum;
use openssl::ec::{EcGroup, EcKey};
use openssl::nid::Nid;
use openssl::pkey::PKey;
use openssl::rsa::{Padding, Rsa};
use openssl::symm::Cipher;

const RSA: [SignatureScheme; 3] =
    [SignatureScheme::RsaPkcs1Sha256, SignatureScheme::RsaPkcs1Sha384, SignatureScheme::RsaPkcs1Sha512];

const ECDSA: [(KeyKind, SignatureScheme, usize); 3] = [
    (KeyKind::EcP256, SignatureScheme::EcdsaP256Sha256, 64),
    (KeyKind::EcP384, SignatureScheme::EcdsaP384Sha384, 96),
    (KeyKind::EcP521, SignatureScheme::EcdsaP521Sha512, 132),
];

fn hex(s: &str) -> Vec<u8> {
    hex::decode(s.split_whitespace().collect::<String>()).unwrap()
}

/// Made once: searching for primes is slow without optimization.
static KEY: LazyLock<SigningKey> = LazyLock::new(|| SigningKey::generate_rsa(2048).unwrap());

fn verifying() -> VerifyingKey {
    VerifyingKey::from_spki(&KEY.public_spki()).unwrap()
}

#[test]
fn signed_in_parts_verifies_as_a_whole() {
    let verifying = verifying();
    for scheme in RSA {
        let sig = KEY.sign(scheme, &[b"one", b"", b"two"]).unwrap();
        assert_eq!((sig.len(), KEY.signature_len(), verifying.signature_len()), (256, 256, 256));
        assert!(verifying.verify(scheme, &[b"onetwo"], &sig));
        assert!(verifying.verify(scheme, &[b"on", b"etwo"], &sig));
        assert!(!verifying.verify(scheme, &[b"onetwo."], &sig));
        assert!(!verifying.verify(scheme, &[], &sig));
        for other in RSA.into_iter().filter(|other| *other != scheme) {
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
    for (scheme, number) in RSA.into_iter().zip(hashes) {
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

/// RFC 7427, appendices A.1 and A.3.
#[test]
fn algorithm_identifiers_name_the_schemes() {
    let named = ["0b", "0c", "0d"].map(|last| hex::decode(format!("300d06092a864886f70d0101{last}0500")).unwrap());
    for (scheme, der) in RSA.into_iter().zip(named) {
        assert_eq!(scheme.algorithm_identifier(), der);
        assert_eq!(SignatureScheme::from_algorithm_identifier(&der), Some(scheme));
        assert_eq!(SignatureScheme::from_algorithm_identifier(&der[..14]), None);
        assert_eq!(SignatureScheme::from_algorithm_identifier(&[&der[..], &[0]].concat()), None);
    }
    for (der, scheme) in [
        ("300d06092a864886f70d0101050500", SignatureScheme::RsaPkcs1Sha1),
        ("300a06082a8648ce3d040302", SignatureScheme::EcdsaP256Sha256),
        ("300a06082a8648ce3d040303", SignatureScheme::EcdsaP384Sha384),
        ("300a06082a8648ce3d040304", SignatureScheme::EcdsaP521Sha512),
    ] {
        assert_eq!(scheme.algorithm_identifier(), hex(der));
        assert_eq!(SignatureScheme::from_algorithm_identifier(&hex(der)), Some(scheme));
        assert_eq!(scheme.is_weak(), scheme == SignatureScheme::RsaPkcs1Sha1);
    }
    // RSA with MD5.
    assert_eq!(SignatureScheme::from_algorithm_identifier(&hex("300d06092a864886f70d0101040500")), None);
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
    let curve = EcGroup::from_curve_name(Nid::SECP256K1).unwrap();
    let ec = PKey::from_ec_key(EcKey::generate(&curve).unwrap()).unwrap();
    assert!(refused(&ec.private_key_to_pem_pkcs8().unwrap()), "another curve");
    let x25519 = PKey::generate_x25519().unwrap();
    assert!(refused(&x25519.private_key_to_pem_pkcs8().unwrap()), "another algorithm");
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
    let curve = EcGroup::from_curve_name(Nid::SECP256K1).unwrap();
    let ec = PKey::from_ec_key(EcKey::generate(&curve).unwrap()).unwrap();
    assert!(refused(&ec.public_key_to_der().unwrap()), "another curve");
    assert!(refused(&PKey::generate_x25519().unwrap().public_key_to_der().unwrap()), "another algorithm");

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

/// Known answers of vectors/signatures.py: schemes, and signatures over a hash as IKEv1 makes them.
#[test]
fn signatures_of_another_implementation_verify() {
    enum Way {
        Scheme(SignatureScheme),
        Digest(DigestSignature),
    }
    use DigestSignature::{EcdsaDigest, EcdsaHashed, RsaDigestInfo, RsaRaw};
    let mut seen = 0;
    for line in include_str!("vectors/signatures.txt").lines() {
        let (name, values) = line.split_once(' ').unwrap();
        let [spki, octets, value] = values.split(' ').map(hex).collect::<Vec<_>>().try_into().unwrap();
        let way = match name {
            "rsa-sha1" => Way::Scheme(SignatureScheme::RsaPkcs1Sha1),
            "rsa-sha256" => Way::Scheme(SignatureScheme::RsaPkcs1Sha256),
            "rsa-sha384" => Way::Scheme(SignatureScheme::RsaPkcs1Sha384),
            "rsa-sha512" => Way::Scheme(SignatureScheme::RsaPkcs1Sha512),
            "rsa-raw" => Way::Digest(RsaRaw),
            "rsa-info-sha1" => Way::Digest(RsaDigestInfo(Hash::Sha1)),
            "rsa-info-sha256" => Way::Digest(RsaDigestInfo(Hash::Sha256)),
            "ecdsa-p256" => Way::Scheme(SignatureScheme::EcdsaP256Sha256),
            "ecdsa-p384" => Way::Scheme(SignatureScheme::EcdsaP384Sha384),
            "ecdsa-p521" => Way::Scheme(SignatureScheme::EcdsaP521Sha512),
            "ecdsa-p256-digest" | "ecdsa-p384-digest" | "ecdsa-p521-digest" => Way::Digest(EcdsaDigest),
            "ecdsa-p256-hashed" => Way::Digest(EcdsaHashed(Hash::Sha256)),
            "ecdsa-p384-hashed" => Way::Digest(EcdsaHashed(Hash::Sha384)),
            "ecdsa-p521-hashed" => Way::Digest(EcdsaHashed(Hash::Sha512)),
            other => panic!("way {other}"),
        };
        let key = VerifyingKey::from_spki(&spki).unwrap();
        let good = |octets: &[u8], value: &[u8]| match way {
            Way::Scheme(scheme) => key.verify(scheme, &[octets], value),
            Way::Digest(how) => key.verify_digest(how, octets, value),
        };
        assert!(good(&octets, &value), "{name}");
        assert!(!good(&octets[1..], &value) && !good(&octets, &value[1..]) && !good(&[], &value), "{name}");
        for at in [0, value.len() / 2, value.len() - 1] {
            let mut bad = value.clone();
            bad[at] ^= 1;
            assert!(!good(&octets, &bad), "{name}: octet {at}");
        }
        seen += 1;
    }
    assert_eq!(seen, 17);
}

/// RFC 4754, section 8: "abc" under ECDSA-256, -384 and -521, with keys that stand as coordinates there.
#[test]
fn rfc_4754() {
    let cases = [
        (
            KeyKind::EcP256,
            SignatureScheme::EcdsaP256Sha256,
            "2442A5CC 0ECD015F A3CA31DC 8E2BBC70 BF42D60C BCA20085 E0822CB0 4235E970
             6FC98BD7 E50211A4 A27102FA 3549DF79 EBCB4BF2 46B80945 CDDFE7D5 09BBFD7D",
            "CB28E099 9B9C7715 FD0A80D8 E47A7707 9716CBBF 917DD72E 97566EA1 C066957C
             86FA3BB4 E26CAD5B F90B7F81 899256CE 7594BB1E A0C89212 748BFF3B 3D5B0315",
        ),
        (
            KeyKind::EcP384,
            SignatureScheme::EcdsaP384Sha384,
            "96281BF8 DD5E0525 CA049C04 8D345D30 82968D10 FEDF5C5A CA0C64E6 465A97EA
             5CE10C9D FEC21797 41571072 1F437922
             447688BA 94708EB6 E2E4D59F 6AB6D7ED FF9301D2 49FE49C3 3096655F 5D502FAD
             3D383B91 C5E7EDAA 2B714CC9 9D5743CA",
            "FB017B91 4E291494 32D8BAC2 9A514640 B46F53DD AB2C6994 8084E293 0F1C8F7E
             08E07C9C 63F2D21A 07DCB56A 6AF56EB3
             B263A130 5E057F98 4D38726A 1B468741 09F417BC A112674C 528262A4 0A629AF1
             CBB9F516 CE0FA7D2 FF630863 A00E8B9F",
        ),
        (
            KeyKind::EcP521,
            SignatureScheme::EcdsaP521Sha512,
            "0151518F 1AF0F563 517EDD54 85190DF9 5A4BF57B 5CBA4CF2 A9A3F647 4725A35F
             7AFE0A6D DEB8BEDB CD6A197E 592D4018 8901CECD 650699C9 B5E456AE A5ADD190 52A8
             006F3B14 2EA1BFFF 7E2837AD 44C9E4FF 6D2D34C7 3184BBAD 90026DD5 E6E85317
             D9DF45CA D7803C6C 20035B2F 3FF63AFF 4E1BA64D 1C077577 DA3F4286 C58F0AEA E643",
            "0154FD38 36AF92D0 DCA57DD5 341D3053 988534FD E8318FC6 AAAAB68E 2E6F4339
             B19F2F28 1A7E0B22 C269D93C F8794A92 78880ED7 DBB8D936 2CAEACEE 54432055 2251
             017705A7 030290D1 CEB605A9 A1BB03FF 9CDD521E 87A696EC 926C8C10 C8362DF4
             97536710 1F67D1CF 9BCCBF2F 3D239534 FA509E70 AAC851AE 01AAC68D 62F86647 2660",
        ),
    ];
    for (kind, scheme, point, value) in cases {
        let key = VerifyingKey::from_ec_point(kind, &hex(point)).unwrap();
        assert!(key.verify(scheme, &[b"a", b"bc"], &hex(value)));
        let uncompressed = [&[4], &hex(point)[..]].concat();
        assert_eq!(VerifyingKey::from_ec_point(kind, &uncompressed).unwrap().spki(), key.spki());
        assert_eq!(VerifyingKey::from_spki(key.spki()).unwrap().kind(), kind);
        let der = ecdsa_to_der(kind, &hex(value)).unwrap();
        assert_eq!(ecdsa_from_der(kind, &der).unwrap(), hex(value));
    }
}

#[test]
fn ecdsa_keys_sign_and_survive_their_pem() {
    for (kind, scheme, len) in ECDSA {
        let key = SigningKey::generate_ec(kind).unwrap();
        let read = SigningKey::from_pem(key.to_pem().expose()).unwrap();
        assert_eq!((read.kind(), read.public_spki(), read.signature_len()), (kind, key.public_spki(), len));
        let verifying = VerifyingKey::from_spki(&key.public_spki()).unwrap();
        assert_eq!((verifying.kind(), verifying.signature_len()), (kind, len));
        let value = read.sign(scheme, &[b"one", b"two"]).unwrap();
        assert_eq!(value.len(), len);
        assert!(verifying.verify(scheme, &[b"onetwo"], &value));
        assert!(!verifying.verify(scheme, &[b"onetwo."], &value));
        assert!(!verifying.verify(scheme, &[b"onetwo"], &vec![0; len]), "zeros");
        for (other_kind, other, _) in ECDSA.into_iter().filter(|(k, ..)| *k != kind) {
            assert!(!verifying.verify(other, &[b"onetwo"], &value));
            assert!(matches!(read.sign(other, &[b"x"]), Err(CryptoError::SignatureKey(_))), "{other_kind:?}");
        }
        assert!(matches!(KEY.sign(scheme, &[b"x"]), Err(CryptoError::SignatureKey(_))));
        assert!(matches!(read.sign(RSA[0], &[b"x"]), Err(CryptoError::SignatureKey(_))));
        // As openssl(1) writes EC keys without PKCS #8.
        let pkey = PKey::private_key_from_pem(key.to_pem().expose()).unwrap();
        let sec1 = pkey.ec_key().unwrap().private_key_to_pem().unwrap();
        assert_eq!(SigningKey::from_pem(&sec1).unwrap().public_spki(), key.public_spki());
        assert_eq!(format!("{key:?} {verifying:?}"), format!("SigningKey({kind:?}) VerifyingKey({kind:?})"));
    }
    assert!(SigningKey::generate_ec(KeyKind::Rsa).is_err());
}

/// RFC 2409 section 5.1 and RFC 4754 section 3 in both readings each: made one way they do not pass for the other.
#[test]
fn signatures_over_a_hash_tell_their_ways_apart() {
    use DigestSignature::{EcdsaDigest, EcdsaHashed, RsaDigestInfo, RsaRaw};
    let hash = Hash::Sha256.digest(&[b"HASH_I"]);
    let ec = SigningKey::generate_ec(KeyKind::EcP256).unwrap();
    let ways = [RsaRaw, RsaDigestInfo(Hash::Sha256), EcdsaDigest, EcdsaHashed(Hash::Sha256), EcdsaHashed(Hash::Sha1)];
    for how in ways {
        let (own, other) = if matches!(how, RsaRaw | RsaDigestInfo(_)) { (&*KEY, &ec) } else { (&ec, &*KEY) };
        assert!(matches!(other.sign_digest(how, &hash), Err(CryptoError::SignatureKey(_))));
        let value = own.sign_digest(how, &hash).unwrap();
        let key = VerifyingKey::from_spki(&own.public_spki()).unwrap();
        for read in ways {
            assert_eq!(key.verify_digest(read, &hash, &value), read == how, "made {how:?}, read {read:?}");
        }
        assert!(!key.verify_digest(how, &hash[1..], &value));
        assert!(!VerifyingKey::from_spki(&other.public_spki()).unwrap().verify_digest(how, &hash, &value));
    }
    // A DigestInfo calls octets the value of a hash, so their length must be right.
    assert!(KEY.sign_digest(RsaDigestInfo(Hash::Sha1), &hash).is_err());
    // More than a modulus holds.
    assert!(KEY.sign_digest(RsaRaw, &[1; 250]).is_err());
    assert!(KEY.sign_digest(RsaRaw, &Hash::Sha1.digest(&[b"a"])).is_ok());
}

#[test]
fn unusable_ec_keys_are_refused() {
    let refused = |spki: &[u8]| matches!(VerifyingKey::from_spki(spki), Err(CryptoError::SignatureKey(_)));
    for (kind, ..) in ECDSA {
        let good = SigningKey::generate_ec(kind).unwrap().public_spki();
        for len in 0..good.len() {
            assert!(refused(&good[..len]), "{len} octets");
        }
        assert!(refused(&[&good[..], &[0]].concat()), "an octet behind");
        let mut off = good.clone();
        *off.last_mut().unwrap() ^= 1;
        assert!(refused(&off), "off the curve");
        for wrong in [&[][..], &[0; 64], &[4; 65], &[0; 132], &good] {
            assert!(VerifyingKey::from_ec_point(kind, wrong).is_err());
        }
        // The same point, but the curve written out in numbers.
        let pkey = PKey::public_key_from_der(&good).unwrap();
        let mut curve = EcGroup::from_curve_name(pkey.ec_key().unwrap().group().curve_name().unwrap()).unwrap();
        curve.set_asn1_flag(openssl::ec::Asn1Flag::EXPLICIT_CURVE);
        let point = pkey.ec_key().unwrap();
        let explicit = EcKey::from_public_key(&curve, point.public_key()).unwrap().public_key_to_der().unwrap();
        assert!(explicit.len() > good.len() && refused(&explicit));
        let private = EcKey::generate(&curve).unwrap().private_key_to_pem().unwrap();
        assert!(matches!(SigningKey::from_pem(&private), Err(CryptoError::SignatureKey(_))));
    }
    assert!(VerifyingKey::from_ec_point(KeyKind::Rsa, &[]).is_err());
}

/// RFC 8017, appendix A.1.1.
#[test]
fn rsa_keys_by_themselves_are_read() {
    let spki = KEY.public_spki();
    let pkcs1 = Rsa::public_key_from_der(&spki).unwrap().public_key_to_der_pkcs1().unwrap();
    assert_eq!(VerifyingKey::from_pkcs1_der(&pkcs1).unwrap().spki(), spki);
    for len in 0..pkcs1.len() {
        assert!(VerifyingKey::from_pkcs1_der(&pkcs1[..len]).is_err(), "{len} octets");
    }
    assert!(VerifyingKey::from_pkcs1_der(&[&pkcs1[..], &[0]].concat()).is_err());
    assert!(VerifyingKey::from_pkcs1_der(&spki).is_err());
    let small = Rsa::generate(1024).unwrap().public_key_to_der_pkcs1().unwrap();
    assert!(VerifyingKey::from_pkcs1_der(&small).is_err());
}

#[test]
fn ecdsa_values_of_another_form_are_refused() {
    let kind = KeyKind::EcP256;
    for len in [0, 63, 65, 96] {
        assert!(ecdsa_to_der(kind, &vec![1; len]).is_err());
    }
    assert!(ecdsa_to_der(KeyKind::Rsa, &[]).is_err());
    let der = ecdsa_to_der(kind, &[0x80; 64]).unwrap();
    assert!(ecdsa_from_der(kind, &der).is_ok());
    assert!(ecdsa_from_der(KeyKind::Rsa, &der).is_err());
    for len in 0..der.len() {
        assert!(ecdsa_from_der(kind, &der[..len]).is_err());
    }
    assert!(ecdsa_from_der(kind, &[&der[..], &[0]].concat()).is_err(), "an octet behind");
    assert!(ecdsa_from_der(kind, &ecdsa_to_der(KeyKind::EcP384, &[0x80; 96]).unwrap()).is_err(), "too long");
    assert!(ecdsa_from_der(kind, &hex("3006020101 0201ff")).is_err(), "negative");
    assert!(ecdsa_from_der(kind, &hex("3007 020101 02020001")).is_err(), "a zero in front");
}
