use proptest::prelude::*;

use super::super::Fragments;
use super::*;
use crate::frame::Frame;
use crate::packet::protocol;

fn packet(v6: bool, host: u8, identification: u8, len: usize) -> Vec<u8> {
    let payload: Vec<u8> = (0..len).map(|n| n.to_le_bytes()[0] ^ n.to_le_bytes()[1] ^ host).collect();
    if v6 {
        let mut packet = vec![0x60, 0, 0, 0, 0, 0, protocol::UDP, 9];
        packet.extend([0xfd; 15].into_iter().chain([host]).chain([0xff; 16]));
        packet.extend(payload);
        ipv6::rewrite(&mut packet, 6, protocol::UDP);
        packet
    } else {
        let mut packet =
            vec![0x45, 0, 0, 0, 0, identification, 0, 0, 9, protocol::UDP, 0, 0, 10, 0, 0, host, 239, 192, 0, 1];
        packet.extend(payload);
        ipv4::rewrite(&mut packet, 20, protocol::UDP);
        packet
    }
}

fn cut(packet: &[u8], mtu: usize, identification: u32) -> Vec<Vec<u8>> {
    let headers = Headers::parse(packet).unwrap();
    let mut fragments = Fragments::new(packet, &headers, mtu, identification).unwrap();
    let mut frame = Frame::new(mtu);
    std::iter::from_fn(|| fragments.next_into(&mut frame).then(|| frame.packet().to_vec())).collect()
}

fn add(reassembly: &mut Reassembly, fragment: &[u8], seconds: u64) -> Added {
    reassembly.add(fragment, &Headers::parse(fragment).unwrap(), Duration::from_secs(seconds))
}

const KEPT: Added = Added { whole: None, lost: 0 };

fn lost(lost: usize) -> Added {
    Added { whole: None, lost }
}

proptest! {
    #[test]
    fn packets_come_back_in_any_order_and_through_each_other(
        lens in proptest::collection::vec((any::<bool>(), 200usize..9_000), 1..5),
        mtu in 100usize..1_500,
        keys in proptest::collection::vec(any::<u32>(), 400),
    ) {
        let packets: Vec<_> = (1u8..).zip(lens).map(|(n, (v6, len))| packet(v6, n % 2, n, len)).collect();
        let mut wire: Vec<_> = (0u32..).zip(&packets).flat_map(|(n, packet)| cut(packet, mtu, n)).collect();
        // Packets of more fragments than are taken are not of interest here.
        prop_assume!(packets.iter().all(|packet| packet.len() / (mtu - 56) < PARTS - 1));
        let mut keys = keys.into_iter().cycle();
        wire.sort_by_cached_key(|_| keys.next());
        let mut reassembly = Reassembly::default();
        let mut whole = Vec::new();
        for fragment in &wire {
            let added = add(&mut reassembly, fragment, 0);
            prop_assert_eq!(added.lost, 0);
            whole.extend(added.whole);
        }
        whole.sort();
        let mut packets = packets;
        packets.sort();
        prop_assert_eq!(whole, packets);
        prop_assert!(reassembly.packets.is_empty());
    }

    /// No octets make it panic, keep more than it may, or give what is no sound packet.
    #[test]
    fn noise_is_survived(
        changes in proptest::collection::vec((any::<bool>(), 0usize..60, any::<u8>(), 0usize..4), 1..200),
    ) {
        let mut reassembly = Reassembly::default();
        let (mut given, mut lost) = (0, 0);
        for (v6, at, octet, which) in changes {
            let mut fragment = cut(&packet(v6, 1, 1, 1_000), 300, 7).swap_remove(which.min(3));
            fragment[at] = octet;
            let Ok(headers) = Headers::parse(&fragment) else { continue };
            let added = reassembly.add(&fragment, &headers, Duration::ZERO);
            given += 1;
            lost += added.lost;
            if let Some(whole) = added.whole {
                prop_assert_eq!(Headers::parse(&whole).unwrap().total, whole.len());
            }
            prop_assert!(reassembly.packets.len() <= PACKETS && lost <= given);
        }
    }
}

#[test]
fn overlaps_spoil_the_packet_and_copies_do_not() {
    for v6 in [false, true] {
        let fragments = cut(&packet(v6, 1, 1, 1_000), 500, 7);
        let mut reassembly = Reassembly::default();
        assert_eq!(add(&mut reassembly, &fragments[0], 0), KEPT);
        assert_eq!(add(&mut reassembly, &fragments[0], 0), lost(1), "a copy");
        // The second one, eight octets too early.
        let mut early = fragments[1].clone();
        early[if v6 { 43 } else { 7 }] -= if v6 { 8 } else { 1 };
        assert_eq!(add(&mut reassembly, &early, 0), lost(2), "an overlap");
        // Then a new packet begins.
        assert_eq!(add(&mut reassembly, &fragments[1], 0), KEPT);
        assert_eq!(add(&mut reassembly, &fragments[2], 0), KEPT);
        let whole = add(&mut reassembly, &fragments[0], 0).whole.unwrap();
        assert_eq!(whole, packet(v6, 1, 1, 1_000));
    }
}

#[test]
fn ends_that_differ_spoil_the_packet() {
    let fragments = cut(&packet(false, 1, 1, 1_000), 500, 7);
    let last = fragments.last().unwrap();
    let mut further = last.clone();
    further[7] += 16;
    for (first, second) in [(last, &further), (&further, last)] {
        let mut reassembly = Reassembly::default();
        assert_eq!((add(&mut reassembly, first, 0), add(&mut reassembly, second, 0)), (KEPT, lost(2)));
    }
    // More behind the end.
    further[6] |= 0x20;
    further.truncate(20 + (further.len() - 20) / 8 * 8);
    ipv4::rewrite(&mut further, 20, protocol::UDP);
    for (first, second) in [(last, &further), (&further, last)] {
        let mut reassembly = Reassembly::default();
        assert_eq!((add(&mut reassembly, first, 0), add(&mut reassembly, second, 0)), (KEPT, lost(2)));
    }
}

#[test]
fn impossible_fragments_are_not_kept() {
    let mut reassembly = Reassembly::default();
    let first = cut(&packet(false, 1, 1, 1_000), 500, 7).swap_remove(0);
    let mut odd = first.clone();
    odd.pop();
    ipv4::rewrite(&mut odd, 20, protocol::UDP);
    let mut far = first.clone();
    far[6..8].copy_from_slice(&[0x3f, 0xff]);
    let mut empty = first;
    empty.truncate(20);
    ipv4::rewrite(&mut empty, 20, protocol::UDP);
    for fragment in [odd, far, empty] {
        assert_eq!(add(&mut reassembly, &fragment, 0), lost(1));
    }
    assert!(reassembly.packets.is_empty());
}

#[test]
fn what_is_kept_is_bounded_and_forgotten() {
    let mut reassembly = Reassembly::default();
    let first = |host, identification| cut(&packet(false, host, identification, 1_000), 500, 7).swap_remove(0);
    for n in 1..=8 {
        assert_eq!(add(&mut reassembly, &first(1, n), 0), KEPT);
    }
    assert_eq!(add(&mut reassembly, &first(1, 9), 0), lost(1), "the oldest of that sender");
    for (host, n) in (2..=4).flat_map(|host| (1..=8).map(move |n| (host, n))) {
        assert_eq!(add(&mut reassembly, &first(host, n), 1), KEPT);
    }
    assert_eq!(reassembly.packets.len(), PACKETS);
    assert_eq!(add(&mut reassembly, &first(9, 1), 1), lost(1), "the oldest of all");
    assert_eq!(add(&mut reassembly, &first(9, 2), 5), lost(7), "those that waited for five seconds");
    assert_eq!(add(&mut reassembly, &first(9, 3), 100), lost(26));
    assert_eq!(reassembly.packets.len(), 1);
}
