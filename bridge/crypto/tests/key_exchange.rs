//! Key exchange from the outside: published vectors, hostile public values, jobs.
#![allow(clippy::unwrap_used)]

use keyferry_crypto::{
    AeadKey, CryptoError, IntegrityKey, Job, JobDone, KeGroup, KeyPair, Secret, SeededRandom, SigningKey, VerifyingKey,
};
use openssl::bn::{BigNum, BigNumContext};

const ECP: [KeGroup; 7] = [
    KeGroup::Ecp256,
    KeGroup::Ecp384,
    KeGroup::Ecp521,
    KeGroup::Brainpool224,
    KeGroup::Brainpool256,
    KeGroup::Brainpool384,
    KeGroup::Brainpool512,
];

const KEM: [KeGroup; 3] = [KeGroup::MlKem512, KeGroup::MlKem768, KeGroup::MlKem1024];

/// Groups whose sides do the same.
fn symmetric() -> impl Iterator<Item = KeGroup> {
    KeGroup::ALL.into_iter().filter(|g| !KEM.contains(g))
}

/// With these every value is a coordinate.
fn takes_anything(group: KeGroup) -> bool {
    matches!(group, KeGroup::X25519 | KeGroup::X448)
}

fn hex(s: &str) -> Vec<u8> {
    hex::decode(s.split_whitespace().collect::<String>()).unwrap()
}

fn refused(pair: &KeyPair, peer: &[u8]) -> bool {
    matches!(pair.agree(peer), Err(CryptoError::BadPublicValue))
}

/// RFC 5903, sections 8.1 and 8.2: the responder's side, both coordinates of both public values.
#[test]
fn rfc_5903_responder() {
    let cases = [
        (
            KeGroup::Ecp256,
            "C6EF9C5D 78AE012A 011164AC B397CE20 88685D8F 06BF9BE0 B283AB46 476BEE53",
            "D12DFB52 89C8D4F8 1208B702 70398C34 2296970A 0BCCB74C 736FC755 4494BF63
             56FBF3CA 366CC23E 8157854C 13C58D6A AC23F046 ADA30F83 53E74F33 039872AB",
            "DAD0B653 94221CF9 B051E1FE CA5787D0 98DFE637 FC90B9EF 945D0C37 72581180
             5271A046 1CDB8252 D61F1C45 6FA3E59A B1F45B33 ACCF5F58 389E0577 B8990BB3",
            "D6840F6B 42F6EDAF D13116E0 E1256520 2FEF8E9E CE7DCE03 812464D0 4B9442DE",
        ),
        (
            KeGroup::Ecp384,
            "41CB0779 B4BDB85D 47846725 FBEC3C94 30FAB46C C8DC5060 855CC9BD A0AA2942
             E0308312 916B8ED2 960E4BD5 5A7448FC",
            "E558DBEF 53EECDE3 D3FCCFC1 AEA08A89 A987475D 12FD950D 83CFA417 32BC509D
             0D1AC43A 0336DEF9 6FDA41D0 774A3571 DCFBEC7A ACF31964 72169E83 8430367F
             66EEBE3C 6E70C416 DD5F0C68 759DD1FF F83FA401 42209DFF 5EAAD96D B9E6386C",
            "667842D7 D180AC2C DE6F74F3 7551F557 55C7645C 20EF73E3 1634FE72 B4C55EE6
             DE3AC808 ACB4BDB4 C88732AE E95F41AA 9482ED1F C0EEB9CA FC498462 5CCFC23F
             65032149 E0E144AD A0241815 35A0F38E EB9FCFF3 C2C947DA E69B4C63 4573A81C",
            "11187331 C279962D 93D60424 3FD592CB 9D0A926F 422E4718 7521287E 7156C5C4
             D6031355 69B9E9D0 9CF5D4A2 70F59746",
        ),
    ];
    for (group, private, public, peer, shared) in cases {
        let pair = KeyPair::from_private(group, &hex(private)).unwrap();
        assert_eq!(pair.public(), hex(public));
        assert_eq!(pair.agree(&hex(peer)).unwrap().expose(), hex(shared));
    }
}

/// RFC 7748, section 6.1: the Diffie-Hellman example of Curve25519. Its private values serve as seeds, so this also
/// shows that an X25519 seed is the private value.
#[test]
fn rfc_7748_x25519() {
    let alice = hex("77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a");
    let bob = hex("5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb");
    let alice = KeyPair::from_seed(KeGroup::X25519, &alice).unwrap();
    let bob = KeyPair::from_seed(KeGroup::X25519, &bob).unwrap();
    assert_eq!(alice.public(), hex("8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a"));
    assert_eq!(bob.public(), hex("de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f"));
    let shared = hex("4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742");
    assert_eq!(alice.agree(bob.public()).unwrap().expose(), shared);
    assert_eq!(bob.agree(alice.public()).unwrap().expose(), shared);
}

/// Known answers of vectors/modp.py, which computes the primes from pi, of RFC 5114 appendix A.3 (group 24), and of
/// vectors/curves.py.
#[test]
fn known_answers() {
    let vectors =
        [include_str!("vectors/modp.txt"), include_str!("vectors/rfc5114_a3.txt"), include_str!("vectors/curves.txt")];
    let vectors = vectors.concat();
    let mut seen = 0;
    for line in vectors.lines() {
        let (number, values) = line.split_once(' ').unwrap();
        let group = match number {
            "2" => KeGroup::Modp1024,
            "5" => KeGroup::Modp1536,
            "14" => KeGroup::Modp2048,
            "15" => KeGroup::Modp3072,
            "16" => KeGroup::Modp4096,
            "17" => KeGroup::Modp6144,
            "18" => KeGroup::Modp8192,
            "24" => KeGroup::Modp2048s256,
            "27" => KeGroup::Brainpool224,
            "28" => KeGroup::Brainpool256,
            "29" => KeGroup::Brainpool384,
            "30" => KeGroup::Brainpool512,
            "32" => KeGroup::X448,
            other => panic!("group {other}"),
        };
        let [a, b, public_a, public_b, shared] = values.split(' ').map(hex).collect::<Vec<_>>().try_into().unwrap();
        let (a, b) = (KeyPair::from_private(group, &a).unwrap(), KeyPair::from_private(group, &b).unwrap());
        assert_eq!((a.public(), b.public()), (&public_a[..], &public_b[..]));
        assert_eq!(a.agree(&public_b).unwrap().expose(), shared);
        assert_eq!(b.agree(&public_a).unwrap().expose(), shared);
        seen += 1;
    }
    assert_eq!(seen, 13);
}

/// Known answers of vectors/mlkem.py: FIPS 203 written out, and OpenSSL's agreement for 768 and 1024.
#[test]
fn ml_kem_known_answers() {
    let mut seen = 0;
    for line in include_str!("vectors/mlkem.txt").lines() {
        let (number, values) = line.split_once(' ').unwrap();
        let group = match number {
            "35" => KeGroup::MlKem512,
            "36" => KeGroup::MlKem768,
            "37" => KeGroup::MlKem1024,
            other => panic!("method {other}"),
        };
        let [seed, message, key, ciphertext, shared, rejected] =
            values.split(' ').map(hex).collect::<Vec<_>>().try_into().unwrap();
        let pair = KeyPair::from_seed(group, &seed).unwrap();
        assert_eq!(pair.public(), key);
        assert_eq!((key.len(), ciphertext.len()), (group.public_len(), group.answer_len()));
        let drawn = [&message[..], &[0; 32]].concat();
        let (answered, secret) = group.answer(&drawn, &key).unwrap();
        assert_eq!((&answered, secret.expose()), (&ciphertext, &shared[..]));
        assert_eq!(pair.agree(&ciphertext).unwrap().expose(), shared);
        // What was not made for this key leads to a secret that only its holder knows, and to no error.
        let mut changed = ciphertext.clone();
        changed[0] ^= 1;
        assert_eq!(pair.agree(&changed).unwrap().expose(), rejected);
        seen += 1;
    }
    assert_eq!(seen, 9);
}

/// FIPS 203 section 7.2: coefficients must be reduced, or the encapsulation key is none.
#[test]
fn ml_kem_keys_out_of_form_are_refused() {
    for group in KEM {
        let pair = KeyPair::generate(group, &mut SeededRandom::new(8)).unwrap();
        let seed = vec![7; group.seed_len()];
        assert!(group.answer(&seed, pair.public()).is_ok());
        let mut key = pair.public().to_vec();
        // The first coefficient becomes 3329.
        (key[0], key[1]) = (0x01, key[1] & 0xf0 | 0x0d);
        assert!(matches!(group.answer(&seed, &key), Err(CryptoError::BadPublicValue)));
        for len in [0, key.len() - 1, key.len() + 1] {
            assert!(matches!(group.answer(&seed, &vec![0; len]), Err(CryptoError::BadPublicValue)));
            assert!(refused(&pair, &vec![0; len]));
        }
        assert!(group.answer(&seed[..8], pair.public()).is_err(), "a short seed");
    }
}

/// RFC 6989, section 2.2: group 24 has subgroups whose members would tell bits of an exponent, and 2 is in none that is ours.
#[test]
fn values_outside_the_subgroup_of_group_24_are_refused() {
    let pair = KeyPair::generate(KeGroup::Modp2048s256, &mut SeededRandom::new(8)).unwrap();
    let peer = KeyPair::generate(KeGroup::Modp2048s256, &mut SeededRandom::new(9)).unwrap();
    assert!(pair.agree(peer.public()).is_ok());
    let mut two = vec![0; 256];
    two[255] = 2;
    assert!(refused(&pair, &two));
    // A member times -1, the member of order 2.
    let prime = openssl::dh::Dh::get_2048_256().unwrap().prime_p().to_owned().unwrap();
    let negative = &prime - &BigNum::from_slice(peer.public()).unwrap();
    assert!(refused(&pair, &negative.to_vec_padded(256).unwrap()));
}

#[test]
fn weak_groups_say_so() {
    let weak: Vec<KeGroup> = KeGroup::ALL.into_iter().filter(|g| g.is_weak()).collect();
    assert_eq!(weak, [KeGroup::Modp1024, KeGroup::Modp1536, KeGroup::Modp2048s256]);
}

/// MODP against plain exponentiation (RFC 3526, section 3: generator 2), padded on both the way out and in.
#[test]
fn modp_is_exponentiation_padded() {
    let prime = BigNum::get_rfc3526_prime_2048().unwrap();
    let mut ctx = BigNumContext::new().unwrap();
    let pair = KeyPair::from_private(KeGroup::Modp2048, &[3]).unwrap();
    let mut eight = vec![0; 256];
    eight[255] = 8;
    assert_eq!(pair.public(), eight);
    let peer = KeyPair::generate(KeGroup::Modp2048, &mut SeededRandom::new(5)).unwrap();
    let mut cube = BigNum::new().unwrap();
    let base = BigNum::from_slice(peer.public()).unwrap();
    cube.mod_exp(&base, &BigNum::from_u32(3).unwrap(), &prime, &mut ctx).unwrap();
    assert_eq!(pair.agree(peer.public()).unwrap().expose(), cube.to_vec_padded(256).unwrap());
    assert_eq!(peer.agree(&eight).unwrap().expose(), pair.agree(peer.public()).unwrap().expose());
    let mut two = vec![0; 256];
    two[255] = 2;
    assert_eq!(pair.agree(&two).unwrap().expose(), eight);
}

/// RFC 6989, section 2.1: only values strictly between 1 and p-1.
#[test]
fn modp_values_out_of_range_are_refused() {
    let pair = KeyPair::generate(KeGroup::Modp2048, &mut SeededRandom::new(1)).unwrap();
    let prime = BigNum::get_rfc3526_prime_2048().unwrap();
    let near = |offset: i32| {
        let offset = BigNum::from_dec_str(&offset.to_string()).unwrap();
        (&prime + &offset).to_vec_padded(256).unwrap()
    };
    let mut one = vec![0; 256];
    one[255] = 1;
    for bad in [vec![0; 256], one, near(-1), near(0), near(1), near(2), vec![0xff; 256]] {
        assert!(refused(&pair, &bad));
    }
    assert!(pair.agree(&near(-2)).is_ok());
}

/// RFC 6989, section 2.3: only points of the curve, in the one form there is.
#[test]
fn ecp_values_off_the_curve_are_refused() {
    let mut rng = SeededRandom::new(2);
    for group in ECP {
        let pair = KeyPair::generate(group, &mut rng).unwrap();
        let good = KeyPair::generate(group, &mut rng).unwrap().public().to_vec();
        assert!(pair.agree(&good).is_ok());
        for at in [0, good.len() / 2 - 1, good.len() / 2, good.len() - 1] {
            let mut bad = good.clone();
            bad[at] ^= 1;
            assert!(refused(&pair, &bad), "{group:?} octet {at}");
        }
        let swapped = [&good[good.len() / 2..], &good[..good.len() / 2]].concat();
        assert!(refused(&pair, &swapped));
        assert!(refused(&pair, &vec![0; good.len()]));
        assert!(refused(&pair, &vec![0xff; good.len()]));
        // As other protocols write points: with a leading octet for the form, or compressed.
        assert!(refused(&pair, &[&[4], &good[..]].concat()));
        assert!(refused(&pair, &[&[2], &good[..good.len() / 2]].concat()));
    }
}

/// RFC 8031, section 2, by RFC 7748, section 6.1: a result of zeros. These are all values of small order, as listed at
/// <https://cr.yp.to/ecdh.html#validate>, and two of them with the bit set that X25519 ignores.
#[test]
fn x25519_values_of_small_order_are_refused() {
    let pair = KeyPair::generate(KeGroup::X25519, &mut SeededRandom::new(3)).unwrap();
    for bad in [
        "0000000000000000000000000000000000000000000000000000000000000000",
        "0100000000000000000000000000000000000000000000000000000000000000",
        "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
        "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
        "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "0000000000000000000000000000000000000000000000000000000000000080",
        "0100000000000000000000000000000000000000000000000000000000000080",
    ] {
        assert!(refused(&pair, &hex(bad)), "{bad}");
    }
}

#[test]
fn values_of_a_wrong_length_are_refused() {
    let mut rng = SeededRandom::new(4);
    for group in symmetric() {
        let pair = KeyPair::generate(group, &mut rng).unwrap();
        let good = KeyPair::generate(group, &mut rng).unwrap().public().to_vec();
        assert!(refused(&pair, &good[1..]));
        assert!(refused(&pair, &good[..good.len() - 1]));
        assert!(refused(&pair, &[&[0], &good[..]].concat()));
        assert!(refused(&pair, &[&good[..], &[0]].concat()));
        assert!(refused(&pair, &[]));
    }
}

#[test]
fn generation_draws_from_the_generator_alone() {
    for group in KeGroup::ALL {
        let draw = |seed| KeyPair::generate(group, &mut SeededRandom::new(seed)).unwrap().public().to_vec();
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
        let seed = Secret::random(group.seed_len(), &mut SeededRandom::new(1));
        assert_eq!(KeyPair::from_seed(group, seed.expose()).unwrap().public(), draw(1));
        // No seed makes a scalar of 0 or the order, which would have no public value.
        for extreme in [0x00, 0xff] {
            assert!(KeyPair::from_seed(group, &vec![extreme; group.seed_len()]).is_ok());
        }
    }
}

#[test]
fn a_job_does_both_halves() {
    for group in KeGroup::ALL {
        let peer = KeyPair::generate(group, &mut SeededRandom::new(6)).unwrap();
        let private = Secret::random(group.seed_len(), &mut SeededRandom::new(7));
        let job = Job::KeyExchange { group, private: private.duplicate(), peer: peer.public().to_vec() };
        let JobDone::KeyExchange(done) = job.run() else { panic!("another job") };
        let (public, shared) = done.unwrap();
        if !KEM.contains(&group) {
            assert_eq!(public, KeyPair::from_seed(group, private.expose()).unwrap().public());
        }
        assert_eq!(public.len(), group.answer_len());
        assert!(shared.ct_eq(peer.agree(&public).unwrap().expose()));

        // No point, a member of no group, an encapsulation key of coefficients that are not reduced.
        let job = Job::KeyExchange { group, private, peer: vec![0xff; group.public_len()] };
        let JobDone::KeyExchange(done) = job.run() else { panic!("another job") };
        assert_eq!(matches!(done, Err(CryptoError::BadPublicValue)), !takes_anything(group), "{group:?}");
    }
}

/// For whoever begins an exchange: a key pair first, what the peer answers later.
#[test]
fn two_jobs_do_a_half_each() {
    for group in KeGroup::ALL {
        let private = Secret::random(group.seed_len(), &mut SeededRandom::new(7));
        let JobDone::KeyPair(pair) = (Job::KeyPair { group, private }).run() else { panic!("another job") };
        let pair = pair.unwrap();
        let seed = Secret::random(group.seed_len(), &mut SeededRandom::new(6));
        let (peer, expected) = group.answer(seed.expose(), pair.public()).unwrap();
        let JobDone::Agree(shared) = (Job::Agree { pair, peer }).run() else { panic!("another job") };
        assert!(shared.unwrap().ct_eq(expected.expose()));
    }
}

/// What prints a job or a key prints no key.
#[test]
fn debug_tells_no_secret() {
    let private = Secret::copy_from(&[0xab; 32]);
    let job = Job::KeyExchange { group: KeGroup::X25519, private, peer: vec![] };
    assert!(format!("{job:?}").contains("Secret(32 octets)"));
    let pair = KeyPair::from_seed(KeGroup::X25519, &[0xab; 32]).unwrap();
    assert_eq!(format!("{pair:?}"), "KeyPair(X25519)");
}

#[test]
fn everything_may_go_to_another_thread() {
    fn shared<T: Send + Sync>() {}
    shared::<Secret>();
    shared::<KeyPair>();
    shared::<Job>();
    shared::<JobDone>();
    shared::<AeadKey>();
    shared::<IntegrityKey>();
    shared::<SigningKey>();
    shared::<VerifyingKey>();
    shared::<CryptoError>();
}
