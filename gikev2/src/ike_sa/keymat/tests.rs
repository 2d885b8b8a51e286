//! Known answers, computed apart from this code: Python's `hmac` and `hashlib`, with prf+ written out from RFC 7296
//! section 2.13 (T1 = prf(K, S | 1), Tn = prf(K, Tn-1 | S | n)), over
//! Ni = 00..1f, Nr = 64..83, g^ir = 32 octets of 55, SPIi = 0102030405060708, SPIr = 1112131415161718.

use keyferry_crypto::{Aead, BlockCipher, Integrity, KeGroup};

use super::*;
use crate::algorithms::{KeyWrap, Protection};

struct Known {
    suite: Suite,
    /// SK_ai, SK_ar, SK_ei, SK_er, SK_pi, SK_pr, GSK_w.
    keys: [&'static str; 7],
}

fn suite(protection: Protection, prf: Prf, wrap: KeyWrap) -> Suite {
    Suite { protection, prf, group: KeGroup::X25519, key_wrap: Some(wrap), additional: Default::default() }
}

fn known() -> [Known; 3] {
    [
        Known {
            suite: suite(Protection::Aead(Aead::Aes128Gcm16), Prf::HmacSha256, KeyWrap::Aes128),
            keys: [
                "",
                "",
                "d77b992bb6beff666610569fab75f383a2d2d13f",
                "19aaf31bcc9d2e7cc8bbef7852cacde29a15b40b",
                "5705d136b518b22a392139bf8fe43c0ca3349f029e4b7034c42b3186fb13403f",
                "f890a98819b1e680625fb35323a74cf1ec1260123a2cc7fda7603726fc51cc99",
                "8dd46635e1244d3871f874d896db7ecd",
            ],
        },
        Known {
            suite: suite(
                Protection::CbcHmac(BlockCipher::Aes256Cbc, Integrity::HmacSha256_128),
                Prf::HmacSha384,
                KeyWrap::Aes256,
            ),
            keys: [
                "be7ee0ab79030ace39152d545d23f5ba40caf28af4faa003a004381a24bbc425",
                "9d7cb4cb5ec8d8e4093570645ab96a5d7f33cb763f429537e5b36e2aa0b3ce24",
                "ca7ac35351ba08133804050b2477fd1bcec2f1b9b70def26a8c522bbdbea6a2f",
                "ae7672b7ff5d89f1973bb4c12dcb4a2d68c78c1df0b021a571655ed277b87b8f",
                "577827ff3afd22a0f1a8ac9efe0f5d9f88edc216f50fbc261b81af4a430882684df85a2a8c3607d1078c49de1897428b",
                "efa89c9381661fbd85e2d22c1418a2960cc5cfe942f5308e82e8db9367c39be966c20cb63c4fe42b9573c7d32abd53fa",
                "b907c70dfbcdf488b50015c24e8adf6053845e1f6b0a34d284fb7652b97dd6a7",
            ],
        },
        Known {
            suite: suite(Protection::Aead(Aead::Aes256Gcm16), Prf::HmacSha512, KeyWrap::Aes192),
            keys: [
                "",
                "",
                "e7e75b39c7cd6c584594dd0cca35269d2df7596dbca75c8d318db75128a98c02e43729d2",
                "58a24aff773d97ca635bd8d886336c07b052199265e9159afa1b086664af6ea55ce5cf8f",
                "3d42de0be7491ae2ecb22ed7c29af5229502a63728ce8e9f08e76ca14af4eb81\
                 076d9cc3b08ceccc02b33bfe53aca2a5edfb2aca94a6af061e50d0d52d6f6201",
                "b924ccedaa0f0dbfa7f1b73d04cf1dbab3ed9d93eefa416e998773c9f82b6906\
                 c76554d8427ad154d9f7db5570a72729a09402bd6aef22406c29d8aa51c9c731",
                "a36ae38839338e9dcd2570ae51d1968b02e8bb0453e6f87b",
            ],
        },
    ]
}

#[test]
fn keys_are_those_computed_elsewhere() {
    let (nonce_i, nonce_r): (Vec<u8>, Vec<u8>) = ((0..32).collect(), (100..132).collect());
    let shared = Secret::new(vec![0x55; 32]);
    let (spi_i, spi_r) = ([1, 2, 3, 4, 5, 6, 7, 8], [0x11, 0x12, 0x13, 0x14, 0x15, 0x16, 0x17, 0x18]);
    for Known { suite, keys } in known() {
        let k = Skeyseed::derive(suite, &nonce_i, &nonce_r, &shared).expand(&spi_i, &spi_r);
        let wrap = k.wrap.unwrap();
        let all = [&k.initiator.1, &k.responder.1, &k.initiator.0, &k.responder.0, &k.proof.0, &k.proof.1, &wrap];
        assert_eq!(all.map(|s| hex::encode(s.expose())), keys);
    }
}

/// SK_d of the first suite's keys, then Ni = c8..e7, Nr = 32..51, g^ir = 32 octets of 66, SPIi all 21, SPIr all 31: the old
/// PRF makes SKEYSEED, the new one all that follows (RFC 7296 section 2.18).
#[test]
fn keys_of_a_rekey_are_those_computed_elsewhere() {
    let (nonce_i, nonce_r): (Vec<u8>, Vec<u8>) = ((0..32).collect(), (100..132).collect());
    let [old, new, _] = known().map(|k| k.suite);
    let (spi_i, spi_r) = ([1, 2, 3, 4, 5, 6, 7, 8], [0x11, 0x12, 0x13, 0x14, 0x15, 0x16, 0x17, 0x18]);
    let first = Skeyseed::derive(old, &nonce_i, &nonce_r, &Secret::new(vec![0x55; 32])).expand(&spi_i, &spi_r);
    let (nonce_i, nonce_r): (Vec<u8>, Vec<u8>) = ((200..232).collect(), (50..82).collect());
    let shared = Secret::new(vec![0x66; 32]);
    let seed = Skeyseed::rekey(old.prf, &first.derive, new, &nonce_i, &nonce_r, &shared);
    let k = seed.expand(&[0x21; 8], &[0x31; 8]);
    let wrap = k.wrap.unwrap();
    let keys = [
        "5908183d16b624ab992e5c573ceff2a2d1062a04b55fea35b09cce1dec38cb01",
        "3e1c71780334c80d4733705440db2902ae85bd512ba321cc1e3e41b33f8472e2",
        "edc47761e98525b3cbc4ca37facc0d24fed5ddffa6e9e2b492e2b83287b6cae9",
        "fc8a151ab89f7074d0e0f9ebf10635a4d66eeab23f9e310df260083e9ea46618",
        "12f02dbc3dfee7c5c44c02853be7bde8d197d2b1d15dd184efa25856ebe8e1df",
    ];
    let all = [&k.initiator.1, &k.responder.1, &k.initiator.0, &k.responder.0, &wrap];
    assert_eq!(all.map(|s| hex::encode(s.expose())), keys);
}

/// The same with two more key exchanges, whose secrets are 32 octets of 77 and 48 of 88 (RFC 9370 section 2.2.4).
#[test]
fn keys_of_a_rekey_with_more_key_exchanges_are_those_computed_elsewhere() {
    let (nonce_i, nonce_r): (Vec<u8>, Vec<u8>) = ((0..32).collect(), (100..132).collect());
    let [old, new, _] = known().map(|k| k.suite);
    let (spi_i, spi_r) = ([1, 2, 3, 4, 5, 6, 7, 8], [0x11, 0x12, 0x13, 0x14, 0x15, 0x16, 0x17, 0x18]);
    let first = Skeyseed::derive(old, &nonce_i, &nonce_r, &Secret::new(vec![0x55; 32])).expand(&spi_i, &spi_r);
    let (nonce_i, nonce_r): (Vec<u8>, Vec<u8>) = ((200..232).collect(), (50..82).collect());
    let (shared, more) = (Secret::new(vec![0x66; 32]), [Secret::new(vec![0x77; 32]), Secret::new(vec![0x88; 48])]);
    let seed = Skeyseed::replace(old.prf, &first.derive, new, (&nonce_i, &nonce_r), (&shared, &more));
    let k = seed.expand(&[0x21; 8], &[0x31; 8]);
    let wrap = k.wrap.unwrap();
    let keys = [
        "dd00570663ac707d89135f2034e5e581a06480a44869ac3918c7fdf1f7f2ce32",
        "d710f27bb295c7ecf7da32ce1bb5677d286c5e5f6ef8f8dd8dac105f3c59581d",
        "b245fc5790a3b2a14311dbb29546baa699e25c4a9c33b7bff76e27d867471594",
        "9d6bc46e25319569ea8807de5bdbc23dbd6eac2a829d333e62d7aaf04c7b53ed",
        "8ca3dada4b638676a3034ef3ff11192ace1b2666e6e6dfb09d9833f5629082c7",
    ];
    let all = [&k.initiator.1, &k.responder.1, &k.initiator.0, &k.responder.0, &wrap];
    assert_eq!(all.map(|s| hex::encode(s.expose())), keys);
}

/// After an additional key exchange whose secret is 32 octets of 66 (RFC 9370 section 2.2.2).
#[test]
fn keys_after_an_additional_key_exchange_are_those_computed_elsewhere() {
    let (nonce_i, nonce_r): (Vec<u8>, Vec<u8>) = ((0..32).collect(), (100..132).collect());
    let (spi_i, spi_r) = ([1, 2, 3, 4, 5, 6, 7, 8], [0x11, 0x12, 0x13, 0x14, 0x15, 0x16, 0x17, 0x18]);
    let suite = known()[0].suite;
    let first = Skeyseed::derive(suite, &nonce_i, &nonce_r, &Secret::new(vec![0x55; 32])).expand(&spi_i, &spi_r);
    let shared = Secret::new(vec![0x66; 32]);
    let k = Skeyseed::rekey(suite.prf, &first.derive, suite, &nonce_i, &nonce_r, &shared).expand(&spi_i, &spi_r);
    let all = [&k.initiator.0, &k.responder.0, &k.proof.0, &k.proof.1, k.wrap.as_ref().unwrap()];
    let keys = [
        "46762ca8e8ad81c55cfcdbc018588f6409058d67",
        "28f12a07a8c7fed54e04bcd9e9eae5e9c58bf650",
        "de9a8e54582331e40b91e67e487a0cad933cb7a3ba5b42249f5d8632e5a844de",
        "53277b8bbba6b5a3f766775e945e27c2e5c0839628d047c6fc4a716eb40e2c99",
        "de59c2236610a165e311c6a75917f821",
    ];
    assert_eq!(all.map(|s| hex::encode(s.expose())), keys);
}

/// SK_d, SK_pi and SK_pr of the first suite with a PPK (RFC 8784 section 3).
#[test]
fn keys_with_a_ppk_are_those_computed_elsewhere() {
    let (nonce_i, nonce_r): (Vec<u8>, Vec<u8>) = ((0..32).collect(), (100..132).collect());
    let (spi_i, spi_r) = ([1, 2, 3, 4, 5, 6, 7, 8], [0x11, 0x12, 0x13, 0x14, 0x15, 0x16, 0x17, 0x18]);
    let suite = known()[0].suite;
    let k = Skeyseed::derive(suite, &nonce_i, &nonce_r, &Secret::new(vec![0x55; 32])).expand(&spi_i, &spi_r);
    let ppk = Secret::copy_from(b"postquantum preshared key");
    let stirred = [&k.derive, &k.proof.0, &k.proof.1].map(|key| stir(suite.prf, &ppk, key));
    let keys = [
        "884705402531e36c10532754dad366db560edc02b997eb09aa0d39c2a3905031",
        "94e7b1303263ea56d6f6f2ed9ce8b2ba7ea18ec67b79fa6dec04006c6d5cb9aa",
        "395a24fa31b80fab24cf7ca01af2cf34f05ed963e766d5c023340c53aa9890eb",
    ];
    assert_eq!(stirred.map(|s| hex::encode(s.expose())), keys);
}

#[test]
fn without_a_key_wrap_algorithm_there_is_no_key_wrap_key() {
    let suite = Suite { key_wrap: None, ..known()[0].suite };
    let keys = Skeyseed::derive(suite, &[1; 16], &[2; 16], &Secret::new(vec![3; 32])).expand(&[1; 8], &[2; 8]);
    assert!(keys.wrap.is_none());
}

/// SK_d of the ticket = 32 octets of 66 (RFC 5723 section 5.1).
#[test]
fn keys_of_a_resumed_sa_are_those_computed_elsewhere() {
    let (nonce_i, nonce_r): (Vec<u8>, Vec<u8>) = ((0..32).collect(), (100..132).collect());
    let suite = known()[0].suite;
    let seed = Skeyseed::resume(suite, &Secret::new(vec![0x66; 32]), &nonce_i, &nonce_r);
    let keys = seed.expand(&[1, 2, 3, 4, 5, 6, 7, 8], &[0x11, 0x12, 0x13, 0x14, 0x15, 0x16, 0x17, 0x18]);
    assert_eq!(hex::encode(keys.derive.expose()), "fac80aec97abccac4f3bc9660f0d46b350293373210941064c15ad6be85e2d3c");
    assert_eq!(hex::encode(keys.initiator.0.expose()), "60d31e76adf73ad393259260ce7db2a7ccc17b21");
    assert_eq!(hex::encode(keys.proof.1.expose()), "b0f395104687e362b6582e516b5eb5592fe0dc30d94667de6749141f5df7e263");
    assert_eq!(hex::encode(keys.wrap.unwrap().expose()), "72c9c8f1ae6ff6e96377d9c028bca1e5");
}
