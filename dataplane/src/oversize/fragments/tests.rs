use proptest::prelude::*;

use super::*;
use crate::packet::protocol;

#[path = "../../../tests/support/reassembly.rs"]
mod reassembly;

/// Every fragment, each in a frame of just the MTU.
fn cut(packet: &[u8], mtu: usize, identification: u32) -> Option<Vec<Vec<u8>>> {
    let headers = Headers::parse(packet).unwrap();
    let mut fragments = Fragments::new(packet, &headers, mtu, identification)?;
    let mut frame = Frame::new(mtu);
    let mut all = Vec::new();
    while fragments.next_into(&mut frame) {
        all.push(frame.packet().to_vec());
    }
    Some(all)
}

/// An IPv4 packet with options, and what they are behind the first fragment.
fn v4(options: &[u8], payload: &[u8]) -> Vec<u8> {
    let header_len = 20 + options.len();
    let mut packet = vec![0x45, 0x28, 0, 0, 0x12, 0x34, 0, 0, 9, protocol::UDP, 0, 0, 10, 0, 0, 1, 239, 192, 0, 1];
    packet[0] = 0x40 | u8::try_from(header_len / 4).unwrap();
    packet.extend(options);
    packet.extend(payload);
    ipv4::rewrite(&mut packet, header_len, protocol::UDP);
    packet
}

/// An IPv6 packet with hop-by-hop options, which stay in front of the Fragment header, or without.
fn v6(hop_by_hop: bool, payload: &[u8]) -> (Vec<u8>, usize, usize) {
    let mut packet = vec![0x60, 0, 0, 0, 0, 0, protocol::ESP, 9];
    packet.extend([0xfd; 16]);
    packet.extend([0xff; 16]);
    let (at, named_at) = if hop_by_hop { (48, 40) } else { (40, 6) };
    if hop_by_hop {
        packet[6] = 0;
        packet.extend([protocol::ESP, 0, 5, 2, 0, 0, 1, 0]);
    }
    packet.extend(payload);
    ipv6::rewrite(&mut packet, named_at, protocol::ESP);
    (packet, at, named_at)
}

fn payload(len: usize) -> Vec<u8> {
    (0..len).map(|n| n.to_le_bytes()[0] ^ n.to_le_bytes()[1]).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn ipv4_fragments_are_the_packet(len in 1usize..9_000, mtu in 68usize..3_000, options in 0usize..=10) {
        let options: Vec<u8> = [0x94, 4, 0, 0].into_iter().cycle().take(options * 4).collect();
        let packet = v4(&options, &payload(len));
        let fragments = cut(&packet, mtu, 7).unwrap();
        prop_assert!(fragments.iter().all(|fragment| fragment.len() <= mtu));
        prop_assert_eq!(reassembly::v4(&fragments), packet);
    }

    #[test]
    fn ipv6_fragments_are_the_packet(len in 1usize..9_000, mtu in 68usize..3_000, hop_by_hop in any::<bool>()) {
        let (packet, at, named_at) = v6(hop_by_hop, &payload(len));
        let fragments = cut(&packet, mtu, 0xdead_beef).unwrap();
        prop_assert!(fragments.iter().all(|fragment| fragment.len() <= mtu));
        prop_assert_eq!(&fragments[0][at + 4..at + 8], [0xde, 0xad, 0xbe, 0xef]);
        prop_assert_eq!(reassembly::v6(&fragments, at, named_at), packet);
    }

    /// Fragments of fragments, as on a path whose links become narrower.
    #[test]
    fn ipv4_fragments_can_be_cut_again(len in 1usize..9_000, wide in 300usize..3_000, narrow in 68usize..300) {
        let packet = v4(&[], &payload(len));
        let twice: Vec<_> =
            cut(&packet, wide, 7).unwrap().iter().flat_map(|fragment| cut(fragment, narrow, 9).unwrap()).collect();
        prop_assert!(twice.iter().all(|fragment| fragment.len() <= narrow));
        prop_assert_eq!(reassembly::v4(&twice), packet);
    }

    #[test]
    fn whatever_the_options_no_fragment_is_malformed(options in proptest::collection::vec(any::<u8>(), 0..=40)) {
        let mut options = options;
        options.truncate(options.len() & !3);
        let packet = v4(&options, &payload(500));
        for fragment in cut(&packet, 100, 7).unwrap() {
            let headers = Headers::parse(&fragment).unwrap();
            prop_assert!(headers.fragment && headers.total == fragment.len() && fragment.len() <= 100);
        }
    }
}

#[test]
fn options_are_repeated_if_they_are_to_be_copied() {
    // Record route (not copied), no operation, router alert (copied), security (copied), end.
    let options = [7, 7, 4, 0, 0, 0, 0, 1, 0x94, 4, 0, 0, 0x82, 3, 9, 0];
    let fragments = cut(&v4(&options, &payload(100)), 68, 7).unwrap();
    assert_eq!(fragments[0][..1], [0x49]);
    assert_eq!(fragments[0][20..36], options);
    for fragment in &fragments[1..] {
        assert_eq!(fragment[..1], [0x47]);
        assert_eq!(fragment[20..28], [0x94, 4, 0, 0, 0x82, 3, 9, 0]);
    }
}

#[test]
fn identifications_that_mean_nothing_are_replaced() {
    let identification = |packet: &[u8]| {
        let fragments = cut(packet, 300, 0x0005_0000).unwrap();
        u16::from_be_bytes([fragments[1][4], fragments[1][5]])
    };
    let mut packet = v4(&[], &payload(600));
    assert_eq!(identification(&packet), 0x1234);
    // One with DF need not be unique, unless it is a fragment.
    packet[6] = 0x40;
    assert_eq!(identification(&packet), 6);
    packet[6] = 0x60;
    assert_eq!(identification(&packet), 0x1234);
    packet[4..8].fill(0);
    assert_eq!(identification(&packet), 6);
}

/// A fragment that reaches beyond the longest packet is of none, and its end must not come to stand at the front of another.
#[test]
fn no_fragment_wraps() {
    for (offset, cut_up) in [(8_000u16, true), (8_140, false), (8_191, false)] {
        let mut packet = v4(&[], &payload(600));
        packet[6..8].copy_from_slice(&offset.to_be_bytes());
        ipv4::rewrite(&mut packet, 20, 17);
        assert_eq!(cut(&packet, 576, 1).is_some(), cut_up, "{offset}");
    }
}

#[test]
fn links_without_room_for_payload_get_nothing() {
    let headers = |packet: &[u8]| Headers::parse(packet).unwrap();
    let packet = v4(&[0x94, 4, 0, 0], &payload(100));
    assert!(Fragments::new(&packet, &headers(&packet), 31, 7).is_none());
    assert!(Fragments::new(&packet, &headers(&packet), 32, 7).is_some());
    let (packet, ..) = v6(false, &payload(100));
    assert!(Fragments::new(&packet, &headers(&packet), 55, 7).is_none());
    assert!(Fragments::new(&packet, &headers(&packet), 56, 7).is_some());
}

#[test]
fn identifications_of_neighbours_differ_and_none_is_zero() {
    for around in [0, 0xffff, 0x1_0000, 0xffff_0000, u32::MAX - 3] {
        for identification in around..around + 3 {
            assert_ne!(low(identification), low(identification + 1), "{identification:#x}");
            assert_ne!(low(identification), 0);
        }
    }
}
