//! Both implementations of a transform, held against each other. Vectors are in `transform.rs`, for both.

use keyferry_crypto::{Random, SeededRandom};
use proptest::prelude::*;
use proptest::sample::{Index, select};

use super::super::prepare_usual;
use super::*;

/// What the library is used for.
fn transforms() -> Vec<EspTransform> {
    let combined = Aead::ALL.into_iter().filter(|aead| aead.mode() != AeadMode::Ccm);
    let mut all: Vec<_> = combined.map(EspTransform::Aead).collect();
    all.extend([Aead::Aes128Gcm16, Aead::Aes192Gcm16, Aead::Aes256Gcm16].map(EspTransform::Gmac));
    for mac in Integrity::ALL {
        let ciphers = [BlockCipher::Aes128Cbc, BlockCipher::Aes192Cbc, BlockCipher::Aes256Cbc];
        all.extend(ciphers.map(|cipher| EspTransform::CbcHmac(cipher, mac)));
        all.extend(AesCtr::ALL.map(|cipher| EspTransform::CtrHmac(cipher, mac)));
        all.push(EspTransform::NullHmac(mac));
    }
    all
}

/// The usual implementation and the library's. On a processor that lacks what the library needs there is nothing to test.
fn both(transform: EspTransform) -> Option<(Box<dyn Transform>, Box<dyn Transform>)> {
    let mut keymat = vec![0; transform.keymat_len()];
    SeededRandom::new(7).fill(&mut keymat);
    let usual = || prepare_usual(transform, &keymat).unwrap();
    prepare_from(transform, &keymat, usual(), |_| 0).ok().map(|other| (usual(), other))
}

fn ivs() -> IvSource {
    IvSource::new(&mut SeededRandom::new(1))
}

fn sealed(keys: &dyn Transform, packets: &[Vec<u8>], counters: bool) -> Vec<Vec<u8>> {
    let mut packets = packets.to_vec();
    let number = |at: usize| counters.then_some(0x0100_0000_0000_0000 + at as u64);
    let mut jobs: Vec<Job<'_>> = packets.iter_mut().enumerate().map(|(at, p)| Job::new(p, number(at))).collect();
    keys.seal(&mut jobs, &mut ivs());
    assert!(jobs.iter().all(|job| job.done));
    packets
}

/// What became of each packet, and its octets in front of the ICV where it is authentic.
fn opened(keys: &dyn Transform, packets: &[Vec<u8>]) -> Vec<Option<Vec<u8>>> {
    let mut packets = packets.to_vec();
    let mut jobs: Vec<Job<'_>> = packets.iter_mut().map(|p| Job::new(p, None)).collect();
    keys.open(&mut jobs);
    let done: Vec<bool> = jobs.iter().map(|job| job.done).collect();
    let icv = keys.layout().icv;
    packets.into_iter().zip(done).map(|(p, done)| done.then(|| p[..p.len() - icv].to_vec())).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn both_implementations_do_the_same(
        transform in select(transforms()),
        lengths in proptest::collection::vec(prop_oneof![8 => 1usize..40, 2 => 40usize..600, 1 => 600usize..4_000], 1..BURST + 9),
        seed in any::<u64>(),
        flips in proptest::collection::vec((any::<Index>(), any::<Index>(), 0..8u32), 0..6),
    ) {
        let Some((usual, other)) = both(transform) else { return Ok(()) };
        let layout = usual.layout();
        prop_assert_eq!(layout, other.layout());
        let mut random = SeededRandom::new(seed);
        let packets: Vec<Vec<u8>> = lengths.into_iter().map(|blocks| {
            // Up to 16,000 octets, whole blocks for CBC.
            let mut packet = vec![0; layout.body() + blocks * layout.block.max(4) + layout.icv];
            random.fill(&mut packet);
            packet
        }).collect();
        let counters = transform.is_counter_mode();
        let (mut by_usual, by_other) = (sealed(&*usual, &packets, counters), sealed(&*other, &packets, counters));
        prop_assert!(by_usual == by_other, "IVs of CBC come from the same source in the same order");

        for (packet, octet, bit) in flips {
            let packet = packet.index(by_usual.len());
            let octet = octet.index(by_usual[packet].len());
            by_usual[packet][octet] ^= 1 << bit;
        }
        let (a, b) = (opened(&*usual, &by_usual), opened(&*other, &by_usual));
        prop_assert!(a == b);
        let untouched = by_usual.iter().zip(&by_other).map(|(now, before)| now == before);
        prop_assert!(a.iter().map(Option::is_some).eq(untouched));
    }
}

#[test]
fn what_is_not_authentic_is_not_readable() {
    for transform in transforms() {
        let Some((_, other)) = both(transform) else { return };
        let layout = other.layout();
        let clear = vec![0x5a; layout.body() + 64 + layout.icv];
        let mut forged = sealed(&*other, std::slice::from_ref(&clear), transform.is_counter_mode()).remove(0);
        let last = forged.len() - 1;
        forged[last] ^= 1;
        let before = forged.clone();
        let mut job = [Job::new(&mut forged, None)];
        other.open(&mut job);
        assert!(!job[0].done);
        let body = layout.body()..last + 1 - layout.icv;
        let readable_before = before[body.clone()] == clear[body.clone()];
        assert!(readable_before || forged[body.clone()] != clear[body], "{transform:?}");
    }
}

#[test]
fn the_library_is_used_where_it_can_be() {
    let can = Manager::new().is_some();
    for transform in transforms() {
        let keymat = vec![7; transform.keymat_len()];
        let keys = super::super::prepare(transform, &keymat).unwrap();
        assert_eq!(keys.library() == "IPsec-MB", can, "{transform:?}");
    }
    let ccm = EspTransform::Aead(Aead::Aes128Ccm16);
    assert_eq!(super::super::prepare(ccm, &vec![7; ccm.keymat_len()]).unwrap().library(), "OpenSSL");
}
