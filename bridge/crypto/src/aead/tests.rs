use super::*;

fn hex(s: &str) -> Vec<u8> {
    hex::decode(s).unwrap()
}

fn repeated(algorithm: Aead, octet: u8) -> Vec<u8> {
    vec![octet; algorithm.nonce_len()]
}

fn named(name: &str) -> Aead {
    let mode = |a: &Aead| match a.mode() {
        AeadMode::Gcm => "gcm",
        AeadMode::Ccm => "ccm",
        AeadMode::ChaCha20Poly1305 => "chacha20poly1305",
    };
    let full = |a: &Aead| format!("{}-{}-{}", mode(a), a.key_len(), a.icv_len());
    Aead::ALL.into_iter().find(|a| full(a) == name).unwrap()
}

/// Known answers of tests/vectors/aead.py.
#[test]
fn sealed_messages_are_those_computed_elsewhere() {
    let mut seen = Vec::new();
    for line in include_str!("../../tests/vectors/aead.txt").lines() {
        let fields: Vec<&str> = line.split(' ').collect();
        let [name, key, iv, aad, plain, sealed, tag] = fields[..] else { panic!("malformed line: {line}") };
        let algorithm = named(name);
        seen.push(algorithm);
        let aad = if aad == "-" { Vec::new() } else { hex(aad) };
        let key = AeadKey::new(algorithm, &hex(key)).unwrap();
        let nonce = hex(iv);
        let (mut data, mut icv) = (hex(plain), vec![0; algorithm.icv_len()]);
        key.seal(&nonce, &aad, &mut data, &mut icv).unwrap();
        assert_eq!((hex::encode(&data), hex::encode(&icv)), (sealed.to_owned(), tag.to_owned()), "{name}");
        key.open(&nonce, &aad, &mut data, &icv).unwrap();
        assert_eq!(data, hex(plain));
    }
    assert!(Aead::ALL.iter().all(|a| seen.contains(a)));
}

/// Test case 4 of McGrew and Viega, "The Galois/Counter Mode of Operation", appendix B.
#[test]
fn gcm_test_case_4() {
    let key = AeadKey::new(Aead::Aes128Gcm16, &hex("feffe9928665731c6d6a8f9467308308")).unwrap();
    let nonce = hex("cafebabefacedbaddecaf888");
    let aad = hex("feedfacedeadbeeffeedfacedeadbeefabaddad2");
    let plain = hex(
        "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a721c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b39",
    );
    let mut data = plain.clone();
    let mut tag = [0; 16];
    key.seal(&nonce, &aad, &mut data, &mut tag).unwrap();
    assert_eq!(
        hex::encode(&data),
        "42831ec2217774244b7221b784d0d49ce3aa212f2c02a4e035c17e2329aca12e21d514b25466931c7d8f6a5aac84aa051ba30b396a0aac973d58e091"
    );
    assert_eq!(hex::encode(tag), "5bc94fbc3221a5db94fae95ae7121a47");
    key.open(&nonce, &aad, &mut data, &tag).unwrap();
    assert_eq!(data, plain);
}

#[test]
fn a_forgery_leaves_no_plaintext_and_the_key_still_works() {
    for alg in Aead::ALL {
        let key = AeadKey::new(alg, &vec![9; alg.key_len()]).unwrap();
        let mut sealed = b"attack at dawn".to_vec();
        let mut tag = vec![0; alg.icv_len()];
        let (one, two) = (repeated(alg, 1), repeated(alg, 2));
        key.seal(&one, b"aad", &mut sealed, &mut tag).unwrap();
        for at in 0..sealed.len() {
            let mut forged = sealed.clone();
            forged[at] ^= 1;
            assert!(matches!(key.open(&one, b"aad", &mut forged, &tag), Err(CryptoError::Unauthentic)), "{alg:?}");
            assert_eq!(forged, vec![0; 14]);
        }
        for at in 0..tag.len() {
            let mut forged = tag.clone();
            forged[at] ^= 0x80;
            assert!(key.open(&one, b"aad", &mut sealed.clone(), &forged).is_err());
        }
        assert!(key.open(&one, b"add", &mut sealed.clone(), &tag).is_err());
        assert!(key.open(&two, b"aad", &mut sealed.clone(), &tag).is_err());
        key.open(&one, b"aad", &mut sealed, &tag).unwrap();
        assert_eq!(sealed, b"attack at dawn");
        assert!(AeadKey::new(alg, &[0; 7]).is_err());
    }
}

#[test]
fn lengths_are_those_of_the_algorithm() {
    for alg in Aead::ALL {
        let key = AeadKey::new(alg, &vec![9; alg.key_len()]).unwrap();
        let good = repeated(alg, 1);
        for len in [0, alg.icv_len() - 1, alg.icv_len() + 1] {
            assert!(matches!(key.seal(&good, &[], &mut [1], &mut vec![0; len]), Err(CryptoError::Length("tag"))));
            assert!(matches!(key.open(&good, &[], &mut [1], &vec![0; len]), Err(CryptoError::Length("tag"))));
        }
        let other = if alg.mode() == AeadMode::Ccm { Aead::Aes128Gcm16 } else { Aead::Aes128Ccm16 };
        let nonce = repeated(other, 1);
        let mut tag = vec![0; alg.icv_len()];
        assert!(matches!(key.seal(&nonce, &[], &mut [1], &mut tag), Err(CryptoError::Length("nonce"))));
        let mut buffer = [0; Aead::MAX_NONCE];
        assert_eq!(
            alg.nonce(&vec![7; alg.salt_len()], &[1; 8], &mut buffer).unwrap()[alg.salt_len() - 1..][..2],
            [7, 1]
        );
        assert!(alg.nonce(&vec![0; alg.salt_len() + 1], &[0; 8], &mut buffer).is_err());
    }
}

#[test]
fn empty_data_has_a_tag() {
    let key = AeadKey::new(Aead::Aes256Gcm16, &[0; 32]).unwrap();
    let mut tag = [0; 16];
    let zero = repeated(Aead::Aes256Gcm16, 0);
    key.seal(&zero, &[], &mut [], &mut tag).unwrap();
    // Test case 13 of the same paper.
    assert_eq!(hex::encode(tag), "530f8afbc74536b9a963b4f1c4cb738b");
    key.open(&zero, &[], &mut [], &tag).unwrap();
    for alg in Aead::ALL {
        let key = AeadKey::new(alg, &vec![3; alg.key_len()]).unwrap();
        let (nonce, mut tag) = (repeated(alg, 4), vec![0; alg.icv_len()]);
        key.seal(&nonce, b"aad", &mut [], &mut tag).unwrap();
        key.open(&nonce, b"aad", &mut [], &tag).unwrap();
        assert!(key.open(&nonce, b"add", &mut [], &tag).is_err(), "{alg:?}");
    }
}
