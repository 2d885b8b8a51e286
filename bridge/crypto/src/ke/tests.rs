use super::*;
use crate::random::SeededRandom;

/// MODP, ECP, X25519 and X448: both sides do the same.
fn symmetric() -> impl Iterator<Item = KeGroup> {
    KeGroup::ALL.into_iter().filter(|g| !g.is_quantum_safe())
}

fn hex(s: &str) -> Vec<u8> {
    hex::decode(s.replace([' ', '\n'], "")).unwrap()
}

#[test]
fn both_sides_agree() {
    let mut rng = SeededRandom::new(1);
    for group in symmetric() {
        let (a, b) = (KeyPair::generate(group, &mut rng).unwrap(), KeyPair::generate(group, &mut rng).unwrap());
        assert_eq!(a.public().len(), group.public_len());
        let shared = a.agree(b.public()).unwrap();
        assert!(shared.ct_eq(b.agree(a.public()).unwrap().expose()));
        let half = matches!(group.family(), Family::Ecp(_));
        assert_eq!(shared.len(), if half { group.public_len() / 2 } else { group.public_len() });
    }
}

/// RFC 5903 section 8.1.
#[test]
fn rfc_5903_ecp_256() {
    let i = hex("C88F01F510D9AC3F70A292DAA2316DE544E9AAB8AFE84049C62A9C57862D1433");
    let r = hex("C6EF9C5D78AE012A011164ACB397CE2088685D8F06BF9BE0B283AB46476BEE53");
    let i = KeyPair::from_private(KeGroup::Ecp256, &i).unwrap();
    let r = KeyPair::from_private(KeGroup::Ecp256, &r).unwrap();
    let gi = "DAD0B65394221CF9B051E1FECA5787D098DFE637FC90B9EF945D0C3772581180
              5271A0461CDB8252D61F1C456FA3E59AB1F45B33ACCF5F58389E0577B8990BB3";
    assert_eq!(i.public(), hex(gi));
    let shared = hex("D6840F6B42F6EDAFD13116E0E12565202FEF8E9ECE7DCE03812464D04B9442DE");
    assert_eq!(i.agree(r.public()).unwrap().expose(), shared);
}

/// RFC 5903 section 8.2.
#[test]
fn rfc_5903_ecp_384() {
    let i = hex("099F3C7034D4A2C699884D73A375A67F7624EF7C6B3C0F160647B67414DCE655E35B538041E649EE3FAEF896783AB194");
    let r = hex("41CB0779B4BDB85D47846725FBEC3C9430FAB46CC8DC5060855CC9BDA0AA2942E0308312916B8ED2960E4BD55A7448FC");
    let i = KeyPair::from_private(KeGroup::Ecp384, &i).unwrap();
    let r = KeyPair::from_private(KeGroup::Ecp384, &r).unwrap();
    let shared =
        hex("11187331C279962D93D604243FD592CB9D0A926F422E47187521287E7156C5C4D603135569B9E9D09CF5D4A270F59746");
    assert_eq!(i.agree(r.public()).unwrap().expose(), shared);
}

/// RFC 5903 section 8.3.
#[test]
fn rfc_5903_ecp_521() {
    let i =
        hex("0037ADE9319A89F4DABDB3EF411AACCCA5123C61ACAB57B5393DCE47608172A095AA85A30FE1C2952C6771D937BA9777F5957B26
                 39BAB072462F68C27A57382D4A52");
    let r =
        hex("0145BA99A847AF43793FDD0E872E7CDFA16BE30FDC780F97BCCC3F078380201E9C677D600B343757A3BDBF2A3163E4C2F869CCA7
                 458AA4A4EFFC311F5CB151685EB9");
    let i = KeyPair::from_private(KeGroup::Ecp521, &i).unwrap();
    let r = KeyPair::from_private(KeGroup::Ecp521, &r).unwrap();
    let gr = "00D0B3975AC4B799F5BEA16D5E13E9AF971D5E9B984C9F39728B5E5739735A219B97C356436ADC6E95BB0352F6BE64A6C2912D4E
              F2D0433CED2B6171640012D9460F015C68226383956E3BD066E797B623C27CE0EAC2F551A10C2C724D9852077B87220B6536C5C4
              08A1D2AEBB8E86D678AE49CB57091F4732296579AB44FCD17F0FC56A";
    assert_eq!(r.public(), hex(gr));
    let shared = hex("01144C7D79AE6956BC8EDB8E7C787C4521CB086FA64407F97894E5E6B2D79B04D1427E73CA4BAA240A34786859810C06
                      B3C715A3A8CC3151F2BEE417996D19F3DDEA");
    assert_eq!(i.agree(r.public()).unwrap().expose(), shared);
}

/// RFC 8031 appendix A.
#[test]
fn rfc_8031_x25519() {
    let i = hex("701fb4308655b476b6789b7325f9ea8cddd16a58533ff6d9e60009464a5f9d54");
    let r = hex("0854645253290d60ddadd0e030bacd9e5501efdc220755a1e978f1b839a05648");
    let i = KeyPair::from_private(KeGroup::X25519, &i).unwrap();
    let r = KeyPair::from_private(KeGroup::X25519, &r).unwrap();
    assert_eq!(i.public(), hex("48d5ddd4061257ba166fa3f9bbdb74f1a4e81c089384fa77f790709f0dfbc766"));
    assert_eq!(r.public(), hex("0be7c1f5aad87d7e448662673298a443478b859745179eaf564c79c0ef6eee25"));
    let shared = hex("c74950607a12327f3204d94b6825bfb068b7f8319a9e3708ed3d43ce8130c950");
    assert_eq!(i.agree(r.public()).unwrap().expose(), shared);
}

#[test]
fn bad_public_values_are_refused() {
    let mut rng = SeededRandom::new(2);
    for group in symmetric() {
        let pair = KeyPair::generate(group, &mut rng).unwrap();
        assert!(pair.agree(&[]).is_err());
        assert!(pair.agree(&vec![0; group.public_len()]).is_err(), "{group:?}: zero");
        assert!(pair.agree(&vec![1; group.public_len() + 1]).is_err());
    }
    let modp = KeyPair::generate(KeGroup::Modp2048, &mut rng).unwrap();
    let mut value = vec![0; 256];
    value[255] = 1;
    assert!(modp.agree(&value).is_err(), "one");
    let p = BigNum::get_rfc3526_prime_2048().unwrap();
    for less in 0..2 {
        let mut v = BigNum::get_rfc3526_prime_2048().unwrap();
        v.sub_word(less).unwrap();
        assert!(modp.agree(&v.to_vec_padded(p.num_bytes()).unwrap()).is_err(), "p - {less}");
    }
    assert!(modp.agree(&[0xff; 256]).is_err(), "beyond p");
    for group in [KeGroup::Ecp256, KeGroup::Ecp384, KeGroup::Ecp521] {
        let pair = KeyPair::generate(group, &mut rng).unwrap();
        let mut off = KeyPair::generate(group, &mut rng).unwrap().public().to_vec();
        *off.last_mut().unwrap() ^= 1;
        assert!(pair.agree(&off).is_err(), "off the curve");
    }
    let x = KeyPair::generate(KeGroup::X25519, &mut rng).unwrap();
    let mut one = [0; 32];
    one[0] = 1;
    assert!(x.agree(&one).is_err(), "small order");
}

#[test]
fn seeds_decide() {
    for group in KeGroup::ALL {
        let seed = vec![7; group.seed_len()];
        let (a, b) = (KeyPair::from_seed(group, &seed).unwrap(), KeyPair::from_seed(group, &seed).unwrap());
        assert_eq!(a.public(), b.public());
        assert!(KeyPair::from_seed(group, &seed[1..]).is_err());
    }
}
