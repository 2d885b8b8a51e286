//! Packets that are worked upon together fare as they do one by one.
#![allow(clippy::unwrap_used)]

mod support;

use dataplane::{BURST, DropReason};
use keyferry_model::policy::{EspMode, EspTransform, SequenceNumbers, TrafficPolicy};
use keyferry_model::update::NewSa;
use proptest::prelude::*;
use support::*;

const GROUPS: [&str; 4] = ["239.192.0.1", "239.192.0.2", "ff15::1", "ff15::2"];

/// Four SAs: two transforms, two IP versions, with replay windows.
fn sas(mode: EspMode) -> Vec<NewSa> {
    let transforms: [EspTransform; 4] = [GCM, CBC, CBC, GCM];
    let sa = |(at, (transform, group)): (u32, (EspTransform, &str))| {
        let policy = TrafficPolicy {
            sequence: SequenceNumbers::Sequential,
            replay_window: 128,
            ..policy(transform, mode, group)
        };
        new_sa(0x1000 + at, &policy, u64::from(at) + 1)
    };
    (0..).zip(transforms.into_iter().zip(GROUPS)).map(sa).collect()
}

fn member(id: u32, mode: EspMode) -> Member {
    let mut member = Member::new(u64::from(id));
    member.sad.apply(registration(sas(mode), ids(&[id])), at(0)).unwrap();
    member
}

/// What can come out of the TUN device: packets for the groups, for others, and noise.
fn plain() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        12 => (1u8..4, 0..GROUPS.len(), 0usize..300).prop_map(|(host, group, len)| udp(host, GROUPS[group], &vec![7; len])),
        1 => (1u8..4, 0usize..40).prop_map(|(host, len)| udp(host, "239.9.9.9", &vec![7; len])),
        1 => proptest::collection::vec(any::<u8>(), 0..60),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_burst_is_sealed_and_opened_like_its_packets_one_by_one(
        packets in proptest::collection::vec(plain(), 0..2 * BURST + 9),
        damaged in proptest::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>()), 0..6),
        repeated in proptest::collection::vec(any::<prop::sample::Index>(), 0..6),
        tunnel in any::<bool>(),
    ) {
        let mode = if tunnel { EspMode::Tunnel } else { EspMode::Transport };
        let (mut alice, mut alone) = (member(1, mode), member(1, mode));
        let sealed = alice.seal_all(&packets);
        prop_assert_eq!(sealed.len(), packets.len());
        for (packet, together) in packets.iter().zip(&sealed) {
            let single = alone.seal(packet);
            // IVs of CBC are drawn in another order.
            prop_assert_eq!(single.as_ref().map(Vec::len), together.as_ref().map(Vec::len));
            if let (Ok(single), Ok(together)) = (single, together) {
                let at = esp_at(&single);
                prop_assert_eq!(&single[..at + 8], &together[..at + 8], "headers, SPI and number");
            }
        }

        let mut wire: Vec<Vec<u8>> = sealed.into_iter().flatten().collect();
        if !wire.is_empty() {
            for index in repeated {
                let again = index.get(&wire).clone();
                wire.push(again);
            }
            for (packet, octet) in damaged {
                let packet = packet.index(wire.len());
                let octet = octet.index(wire[packet].len());
                wire[packet][octet] ^= 1;
            }
        }
        let (bob, alone) = (member(2, mode), member(2, mode));
        let opened = bob.open_all(&wire);
        for (packet, together) in wire.iter().zip(&opened) {
            let single = alone.open(packet);
            // Of a copy in the same burst the cipher may say first what one by one the window says.
            prop_assert_eq!(single.as_ref().ok(), together.as_ref().ok());
        }
        let dropped = |member: &Member| member.sad.status().drops.values().sum::<u64>();
        prop_assert_eq!(dropped(&bob), dropped(&alone));
        // For the same reason drops are compared by their number alone.
        let sas = |member: &Member| {
            let mut sas = member.sad.status().sas;
            sas.iter_mut().for_each(|sa| sa.drops = [("any", sa.drops.values().sum())].into());
            sas
        };
        prop_assert_eq!(sas(&bob), sas(&alone));
    }
}

#[test]
fn a_copy_in_the_same_burst_is_dropped() {
    let (mut alice, bob) = (member(1, EspMode::Tunnel), member(2, EspMode::Tunnel));
    let sealed = alice.seal(&udp(1, GROUPS[0], b"once")).unwrap();
    let fates = bob.open_all(&vec![sealed; 70]);
    assert!(fates[0].is_ok());
    assert!(fates[1..].iter().all(|fate| *fate == Err(DropReason::InStateSeqError)));
    assert_eq!(bob.drops(DropReason::InStateSeqError), 69);
}
