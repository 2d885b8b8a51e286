//! Published vectors of AES in its two modes, and what must hold for every use. Each vector names its source.
#![allow(clippy::unwrap_used)]

use std::thread;

use keyferry_crypto::{Aead, AeadKey, BlockCipher, CryptoError};
use proptest::prelude::*;

fn hex(s: &str) -> Vec<u8> {
    hex::decode(s.split_whitespace().collect::<String>()).unwrap()
}

/// Plaintext of the CBC examples in NIST SP 800-38A, appendix F.2.
const NIST_PLAIN: &str = "6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e51
                          30c81c46a35ce411e5fbc1191a0a52eff69f2445df4f9b17ad2b417be66c3710";

/// Cipher, key, IV, plaintext, ciphertext: RFC 3602, section 4, cases 1 to 4 (AES-128); NIST SP 800-38A, appendices
/// F.2.3 and F.2.5 (AES-192, AES-256).
const CBC: [(BlockCipher, &str, &str, &str, &str); 6] = [
    (
        BlockCipher::Aes128Cbc,
        "06a9214036b8a15b512e03d534120006",
        "3dafba429d9eb430b422da802c9fac41",
        // "Single block msg"
        "53696e676c6520626c6f636b206d7367",
        "e353779c1079aeb82708942dbe77181a",
    ),
    (
        BlockCipher::Aes128Cbc,
        "c286696d887c9aa0611bbb3e2025a45a",
        "562e17996d093d28ddb3ba695a2e6f58",
        "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f",
        "d296cd94c2cccf8a3a863028b5e1dc0a7586602d253cfff91b8266bea6d61ab1",
    ),
    (
        BlockCipher::Aes128Cbc,
        "6c3ea0477630ce21a2ce334aa746c2cd",
        "c782dc4c098c66cbd9cd27d825682c81",
        // "This is a 48-byte message (exactly 3 AES blocks)"
        "5468697320697320612034382d62797465206d65737361676520286578616374
         6c7920332041455320626c6f636b7329",
        "d0a02b3836451753d493665d33f0e8862dea54cdb293abc7506939276772f8d5
         021c19216bad525c8579695d83ba2684",
    ),
    (
        BlockCipher::Aes128Cbc,
        "56e47a38c5598974bc46903dba290349",
        "8ce82eefbea0da3c44699ed7db51b7d9",
        "a0a1a2a3a4a5a6a7a8a9aaabacadaeafb0b1b2b3b4b5b6b7b8b9babbbcbdbebf
         c0c1c2c3c4c5c6c7c8c9cacbcccdcecfd0d1d2d3d4d5d6d7d8d9dadbdcdddedf",
        "c30e32ffedc0774e6aff6af0869f71aa0f3af07a9a31a9c684db207eb0ef8e4e
         35907aa632c3ffdf868bb7b29d3d46ad83ce9f9a102ee99d49a53e87f4c3da55",
    ),
    (
        BlockCipher::Aes192Cbc,
        "8e73b0f7da0e6452c810f32b809079e562f8ead2522c6b7b",
        "000102030405060708090a0b0c0d0e0f",
        NIST_PLAIN,
        "4f021db243bc633d7178183a9fa071e8b4d9ada9ad7dedf4e5e738763f69145a
         571b242012fb7ae07fa9baac3df102e008b0e27988598881d920a9e64f5615cd",
    ),
    (
        BlockCipher::Aes256Cbc,
        "603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4",
        "000102030405060708090a0b0c0d0e0f",
        NIST_PLAIN,
        "f58c4c04d6e5f1ba779eabfb5f7bfbd69cfc4e967edb808d679f777bc6702c7d
         39f23369a9d9bacfa530e26304231461b2eb05e2c39be9fcda6c19078c6a9d1b",
    ),
];

#[test]
fn aes_cbc() {
    for (cipher, key, iv, plain, encrypted) in CBC {
        let (key, iv, plain) = (hex(key), hex(iv), hex(plain));
        let mut data = plain.clone();
        cipher.encrypt(&key, &iv, &mut data).unwrap();
        assert_eq!(data, hex(encrypted));
        cipher.decrypt(&key, &iv, &mut data).unwrap();
        assert_eq!(data, plain);
    }
}

/// Known answers of vectors/triple_des.py.
#[test]
fn triple_des_cbc() {
    for line in include_str!("vectors/triple_des.txt").lines() {
        let [key, iv, plain, encrypted] = line.split(' ').map(hex).collect::<Vec<_>>().try_into().unwrap();
        let mut data = plain.clone();
        BlockCipher::TripleDesCbc.encrypt(&key, &iv, &mut data).unwrap();
        assert_eq!(data, encrypted);
        BlockCipher::TripleDesCbc.decrypt(&key, &iv, &mut data).unwrap();
        assert_eq!(data, plain);
    }
}

/// McGrew and Viega, "The Galois/Counter Mode of Operation (GCM)", appendix B, to which RFC 4106, section 9 refers:
/// test cases 4, 10 and 16, one for each key length.
#[test]
fn aes_gcm() {
    let nonce = hex("cafebabefacedbaddecaf888");
    let aad = hex("feedfacedeadbeeffeedfacedeadbeefabaddad2");
    let plain = hex("d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a72
                     1c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b39");
    let key = hex("feffe9928665731c6d6a8f9467308308feffe9928665731c6d6a8f9467308308");
    let cases = [
        (
            Aead::Aes128Gcm16,
            "42831ec2217774244b7221b784d0d49ce3aa212f2c02a4e035c17e2329aca12e
             21d514b25466931c7d8f6a5aac84aa051ba30b396a0aac973d58e091",
            "5bc94fbc3221a5db94fae95ae7121a47",
        ),
        (
            Aead::Aes192Gcm16,
            "3980ca0b3c00e841eb06fac4872a2757859e1ceaa6efd984628593b40ca1e19c
             7d773d00c144c525ac619d18c84a3f4718e2448b2fe324d9ccda2710",
            "2519498e80f1478f37ba55bd6d27618c",
        ),
        (
            Aead::Aes256Gcm16,
            "522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa
             8cb08e48590dbb3da7b08b1056828838c5f61e6393ba7a0abcc9f662",
            "76fc6ece0f4e1768cddf8853bb2d551b",
        ),
    ];
    for (alg, encrypted, icv) in cases {
        let key = AeadKey::new(alg, &key[..alg.key_len()]).unwrap();
        // Twice, since the second use finds the context that the first one left behind.
        for _ in 0..2 {
            let (mut data, mut tag) = (plain.clone(), [0; 16]);
            key.seal(&nonce, &aad, &mut data, &mut tag).unwrap();
            assert_eq!((&data, tag.to_vec()), (&hex(encrypted), hex(icv)), "{alg:?}");
            key.open(&nonce, &aad, &mut data, &tag).unwrap();
            assert_eq!(data, plain);
        }
    }
}

/// One key serves many threads at once, some of which find its kept context taken.
#[test]
fn an_aead_key_is_shared_by_threads() {
    let key = AeadKey::new(Aead::Aes128Gcm16, &[5; 16]).unwrap();
    thread::scope(|scope| {
        for worker in 0..4u8 {
            let key = &key;
            scope.spawn(move || {
                for count in 0..500u16 {
                    let mut nonce = [worker; 12];
                    nonce[10..].copy_from_slice(&count.to_be_bytes());
                    let plain = [worker; 100];
                    let (mut data, mut tag) = (plain, [0; 16]);
                    key.seal(&nonce, b"aad", &mut data, &mut tag).unwrap();
                    assert_ne!(data, plain);
                    key.open(&nonce, b"aad", &mut data, &tag).unwrap();
                    assert_eq!(data, plain);
                }
            });
        }
    });
}

proptest! {
    #[test]
    fn cbc_takes_any_whole_blocks(plain in prop::collection::vec(any::<u8>(), 0..5000), key: [u8; 32], iv: [u8; 16]) {
        for cipher in [BlockCipher::TripleDesCbc, BlockCipher::Aes128Cbc, BlockCipher::Aes192Cbc, BlockCipher::Aes256Cbc] {
            let key = &key[..cipher.key_len()];
            let mut data = plain.clone();
            let iv = &iv[..cipher.block_len()];
            if plain.len() % cipher.block_len() == 0 {
                cipher.encrypt(key, iv, &mut data).unwrap();
                cipher.decrypt(key, iv, &mut data).unwrap();
            } else {
                prop_assert!(cipher.encrypt(key, iv, &mut data).is_err());
                prop_assert!(cipher.decrypt(key, iv, &mut data).is_err());
            }
            prop_assert_eq!(&data, &plain);
        }
    }

    #[test]
    fn an_altered_bit_anywhere_is_noticed_and_no_plaintext_stays(
        plain in prop::collection::vec(any::<u8>(), 1..200), aad in prop::collection::vec(any::<u8>(), 1..20),
        key: [u8; 32], nonce: [u8; 12], at: prop::sample::Index, bit in 0..8u8,
    ) {
        let key = AeadKey::new(Aead::Aes256Gcm16, &key).unwrap();
        let (mut sealed, mut tag) = (plain.clone(), [0; 16]);
        key.seal(&nonce, &aad, &mut sealed, &mut tag).unwrap();
        let (mut nonce2, mut aad2, mut data, mut tag2) = (nonce, aad.clone(), sealed.clone(), tag);
        let mut places: Vec<&mut u8> =
            nonce2.iter_mut().chain(&mut aad2).chain(&mut data).chain(&mut tag2).collect();
        let at = at.index(places.len());
        *places[at] ^= 1 << bit;
        let opened = key.open(&nonce2, &aad2, &mut data, &tag2);
        prop_assert!(matches!(opened, Err(CryptoError::Unauthentic)));
        prop_assert!(data.iter().all(|octet| *octet == 0));
        key.open(&nonce, &aad, &mut sealed, &tag).unwrap();
        prop_assert_eq!(sealed, plain);
    }
}
