//! Published vectors of the hashes, of HMAC in its two roles, and of prf+. Each test names its source.
#![allow(clippy::unwrap_used)]

use keyferry_crypto::{Hash, Integrity, IntegrityKey, Prf};

fn hex(s: &str) -> Vec<u8> {
    hex::decode(s.split_whitespace().collect::<String>()).unwrap()
}

/// FIPS 180-4 example values (NIST, "Examples with Intermediate Values"): the message "abc".
#[test]
fn fips_180_4_digests() {
    let cases = [
        (Hash::Sha1, "a9993e364706816aba3e25717850c26c9cd0d89d"),
        (Hash::Sha256, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"),
        (
            Hash::Sha384,
            "cb00753f45a35e8bb5a03d699ac65007272c32ab0eded1631a8b605a43ff5bed 8086072ba1e7cc2358baeca134c825a7",
        ),
        (
            Hash::Sha512,
            "ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a
             2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e2a9ac94fa54ca49f",
        ),
    ];
    for (hash, digest) in cases {
        assert_eq!(hash.digest(&[b"abc"]), hex(digest));
        assert_eq!(hash.digest(&[b"a", b"", b"bc"]), hex(digest));
        assert_eq!(hash.digest(&[]).len(), hash.len());
    }
}

/// RFC 4231, sections 4.2 to 4.8: all seven test cases for the three hashes in use.
#[test]
fn rfc_4231_hmac() {
    // Key, data, HMAC-SHA-256, HMAC-SHA-384, HMAC-SHA-512. Case 5 gives the leftmost 128 bits.
    let cases = [
        (
            "0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b",
            "4869205468657265",
            "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7",
            "afd03944d84895626b0825f4ab46907f15f9dadbe4101ec682aa034c7cebc59cfaea9ea9076ede7f4af152e8b2fa9cb6",
            "87aa7cdea5ef619d4ff0b4241a1d6cb02379f4e2ce4ec2787ad0b30545e17cdedaa833b7d6b8a702038b274eaea3f4e4
             be9d914eeb61f1702e696c203a126854",
        ),
        (
            "4a656665",
            "7768617420646f2079612077616e7420666f72206e6f7468696e673f",
            "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843",
            "af45d2e376484031617f78d2b58a6b1b9c7ef464f5a01b47e42ec3736322445e8e2240ca5e69e2c78b3239ecfab21649",
            "164b7a7bfcf819e2e395fbe73b56e0a387bd64222e831fd610270cd7ea2505549758bf75c05a994a6d034f65f8f0e6fd
             caeab1a34d4a6b4b636e070a38bce737",
        ),
        (
            "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
            "dddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddd
             dddd",
            "773ea91e36800e46854db8ebd09181a72959098b3ef8c122d9635514ced565fe",
            "88062608d3e6ad8a0aa2ace014c8a86f0aa635d947ac9febe83ef4e55966144b2a5ab39dc13814b94e3ab6e101a34f27",
            "fa73b0089d56a284efb0f0756c890be9b1b5dbdd8ee81a3655f83e33b2279d39bf3e848279a722c806b485a47e67c807
             b946a337bee8942674278859e13292fb",
        ),
        (
            "0102030405060708090a0b0c0d0e0f10111213141516171819",
            "cdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcd
             cdcd",
            "82558a389a443c0ea4cc819899f2083a85f0faa3e578f8077a2e3ff46729665b",
            "3e8a69b7783c25851933ab6290af6ca77a9981480850009cc5577c6e1f573b4e6801dd23c4a7d679ccf8a386c674cffb",
            "b0ba465637458c6990e5a8c5f61d4af7e576d97ff94b872de76f8050361ee3dba91ca5c11aa25eb4d679275cc5788063
             a5f19741120c4f2de2adebeb10a298dd",
        ),
        (
            "0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c",
            "546573742057697468205472756e636174696f6e",
            "a3b6167473100ee06e0c796c2955552b",
            "3abf34c3503b2a23a46efc619baef897",
            "415fad6271580a531d4179bc891d87a6",
        ),
        (
            "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa
             aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa
             aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
            "54657374205573696e67204c6172676572205468616e20426c6f636b2d53697a65204b6579202d2048617368204b6579
             204669727374",
            "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54",
            "4ece084485813e9088d2c63a041bc5b44f9ef1012a2b588f3cd11f05033ac4c60c2ef6ab4030fe8296248df163f44952",
            "80b24263c7c1a3ebb71493c1dd7be8b49b46d1f41b4aeec1121b013783f8f3526b56d037e05f2598bd0fd2215d6a1e52
             95e64f73f63f0aec8b915a985d786598",
        ),
        (
            "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa
             aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa
             aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
            "5468697320697320612074657374207573696e672061206c6172676572207468616e20626c6f636b2d73697a65206b65
             7920616e642061206c6172676572207468616e20626c6f636b2d73697a6520646174612e20546865206b6579206e6565
             647320746f20626520686173686564206265666f7265206265696e6720757365642062792074686520484d414320616c
             676f726974686d2e",
            "9b09ffa71b942fcb27635fbcd5b0e944bfdc63644f0713938a7f51535c3a35e2",
            "6617178e941f020d351e2f254e8fd32c602420feb0b8fb9adccebb82461e99c5a678cc31e799176d3860e6110c46523e",
            "e37b6a775dc87dbaa4dfa9f96e5e3ffddebd71f8867289865df5a32d20cdc944b6022cac3c4982b10d5eeb55c3e4de15
             134676fb6de0446065c97440fa8c6a58",
        ),
    ];
    for (key, data, sha256, sha384, sha512) in cases {
        let (key, data) = (hex(key), hex(data));
        for (prf, mac) in [(Prf::HmacSha256, sha256), (Prf::HmacSha384, sha384), (Prf::HmacSha512, sha512)] {
            let (whole, split) = (prf.compute(&key, &[&data]), prf.compute(&key, &[&data[..3], &[], &data[3..]]));
            assert!(whole.ct_eq(split.expose()));
            assert_eq!(whole.len(), prf.output_len());
            let mac = hex(mac);
            assert_eq!(whole.expose()[..mac.len()], mac);
        }
    }
}

/// RFC 2202, section 3: test cases 1, 3 and 6 of HMAC-SHA-1, and case 5 truncated to 96 bits.
#[test]
fn rfc_2202_hmac_sha1() {
    let sha1 = |key: &[u8], data: &[u8]| Prf::HmacSha1.compute(key, &[data]).expose().to_vec();
    assert_eq!(sha1(&[0x0b; 20], b"Hi There"), hex("b617318655057264e28bc0b6fb378c8ef146be00"));
    assert_eq!(sha1(&[0xaa; 20], &[0xdd; 50]), hex("125d7342b9ac11cd91a39af48aa17b4f63f175d3"));
    let long = b"Test Using Larger Than Block-Size Key - Hash Key First";
    assert_eq!(sha1(&[0xaa; 80], long), hex("aa4ae5e15272d00e95705637ce8a3b55ed402112"));
    let icv = Integrity::HmacSha1_96.compute(&[0x0c; 20], &[b"Test With Truncation"]);
    assert_eq!(icv, hex("4c1a03424b55e07fe7f27be1"));
}

/// RFC 4868, section 2.7.2: the first two test cases of each authenticator.
#[test]
fn rfc_4868_authenticators() {
    let cases = [
        (Integrity::HmacSha256_128, "198a607eb44bfbc69903a0f1cf2bbdc5", "167f928588c5cc2eef8e3093caa0e87c"),
        (
            Integrity::HmacSha384_192,
            "b6a8d5636f5c6a7224f9977dcf7ee6c7fb6d0c48cbdee973",
            "2c7353974f1842fd66d53c452ca42122b28c0b594cfb184d",
        ),
        (
            Integrity::HmacSha512_256,
            "637edc6e01dce7e6742a99451aae82df23da3e92439e590e43e761b33e910fb8",
            "cb370917ae8a7ce28cfd1d8f4705d6141c173b2a9362c15df235dfb251b15454",
        ),
    ];
    for (alg, first, second) in cases {
        let question: &[u8] = b"what do ya want for nothing?";
        let keys = (vec![0x0b; alg.key_len()], b"Jefe".repeat(alg.key_len() / 4));
        for (key, data, icv) in [(keys.0, &b"Hi There"[..], first), (keys.1, question, second)] {
            let prepared = IntegrityKey::new(alg, &key);
            let mut out = vec![0; alg.icv_len()];
            prepared.compute_into(&[&data[..2], &data[2..]], &mut out);
            assert_eq!(out, hex(icv));
            assert!(prepared.verify(&[data], &out));
            assert!(!prepared.verify(&[data], &out[..out.len() - 1]));
            assert!(!prepared.verify(&[data, b"x"], &out));
            assert_eq!(alg.compute(&key, &[data]), out);
        }
    }
}

/// prf+ (RFC 7296, section 2.13) has no published vectors; these come from a few lines of Python over its `hmac`.
#[test]
fn prf_plus_against_python() {
    let key: Vec<u8> = (0..32).collect();
    let cases = [
        (
            Prf::HmacSha1,
            "73e9d69430a4565a58240b9e469caa618f50777cfbee0906574170acfddfe40249297029a0929d765f4e86be4a95ba49
             ab1b",
        ),
        (
            Prf::HmacSha256,
            "d167110a97b3bc59ef039721244062302c74308ab43ff7cdfbed1897d4f06962459da1f337e6342dbb80885af917d4b9
             42fd27871ae16bb1d760a750dd5709f05b05eda565d2f534e3f5e98803aa91e7377f0dfaeb92761add2e2afc28c06b7b
             9bc6b831",
        ),
        (
            Prf::HmacSha384,
            "23294fecedd36594c16ffe0f4666430eefd846272c86830f50a4eaa3e82cb6b0a5593dfde6989d30ea4a1bbe61c4456e
             d8ee20344678b8c76a85c2ce4a0b551122e3449b1e2eda426e1440ca621ec7ed07bae66b0bfcb3c15c62edcec9657ece
             71a0856e",
        ),
        (
            Prf::HmacSha512,
            "28093cc37cd1a11b456e505976ac50313a564990cc5265130b926b7c21790402e603d88e47e8882f72f0fa5062570f80
             bbe647fface6bd4a2f408095b26b4a49d45a8b1a7f46365a4bcd79ebb39e00cb1373e66a3e9f6be7a1c328e27ca61aff
             5e97f1ba8ab4a205f559626366efea314ff714e54ef97e0402b774a86620e46ffb9a",
        ),
    ];
    for (prf, expanded) in cases {
        let expanded = hex(expanded);
        for len in [1, prf.output_len(), prf.output_len() + 1, expanded.len()] {
            let got = prf.expand(&key, &[b"nonce-i ", b"nonce-r ", b"spi-i spi-r"], len);
            assert_eq!(got.expose(), &expanded[..len], "{prf:?}");
        }
    }
    // All 255 blocks, by their SHA-256.
    let all = Prf::HmacSha256.expand(&key, &[b"nonce-i nonce-r spi-i spi-r"], 255 * 32);
    let digest = "78deba99b49fd12a8e329dff67d3e62b678ca8ced7d73e14d68afac1879489fe";
    assert_eq!(Hash::Sha256.digest(&[all.expose()]), hex(digest));
}

#[test]
#[should_panic(expected = "prf+")]
fn prf_plus_ends_after_255_blocks() {
    let _ = Prf::HmacSha256.expand(b"key", &[], 255 * 32 + 1);
}
