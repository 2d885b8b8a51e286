//! Datagrams put together are what they were once they are cut up again, and nothing else is put together.

use proptest::prelude::*;

use super::fuzzing;
use super::join::Joined;
use super::split::{Split, addresses};
use super::vnet::{self, HEADER_LEN, VnetHeader};
use crate::burst::BURST;
use crate::frame::Frame;
use crate::packet::{ipv4, ipv6, protocol};

/// A datagram from a port, with an identification in IPv4.
fn datagram(version: u8, port: u16, number: u16, payload: &[u8]) -> Vec<u8> {
    let udp_len = u16::try_from(8 + payload.len()).unwrap();
    let udp = [&port.to_be_bytes()[..], &[0x13, 0x89], &udp_len.to_be_bytes(), &[0, 0], payload].concat();
    let ip = if version == 4 {
        let mut ip = vec![0x45, 0x20, 0, 0, 0, 0, 0, 0, 9, protocol::UDP, 0, 0, 10, 0, 0, 1, 239, 192, 0, 1];
        ip[4..6].copy_from_slice(&number.to_be_bytes());
        ip
    } else {
        let mut ip = vec![0; ipv6::HEADER_LEN];
        (ip[0], ip[6], ip[7], ip[8], ip[23], ip[24], ip[39]) = (0x62, protocol::UDP, 9, 0xfd, 1, 0xff, 1);
        ip[4..6].copy_from_slice(&udp_len.to_be_bytes());
        ip
    };
    let at = ip.len();
    let mut packet = [ip, udp].concat();
    if version == 4 {
        ipv4::rewrite(&mut packet, 20, protocol::UDP);
    }
    let sum = ipv4::transport_checksum(addresses(&packet, version == 4), protocol::UDP, &packet[at..]);
    packet[at + 6..at + 8].copy_from_slice(&vnet::for_field(sum, vnet::CHECKSUM_IN_UDP).to_be_bytes());
    packet
}

fn cut(octets: &[u8], header: VnetHeader) -> Vec<Vec<u8>> {
    fuzzing::cut(octets, header).unwrap_or_else(|| panic!("{header:?} is not sound"))
}

/// Flows of a burst, each as the host has it, and how many there were.
fn pass(packets: &[Vec<u8>]) -> (Vec<Vec<u8>>, usize) {
    let joined = Joined::new(packets.iter().map(Vec::as_slice));
    (fuzzing::written(packets), joined.flows().count())
}

#[test]
fn datagrams_of_a_flow_go_together_and_come_apart_as_they_were() {
    for version in [4, 6] {
        for (len, last) in [(1, 1), (1_000, 1), (1_000, 999), (1_023, 1_023), (7, 5)] {
            let payload = |number: u8, len: usize| vec![number; len];
            let mut packets: Vec<_> =
                (0..BURST as u8).map(|n| datagram(version, 7, 0xfff0 + u16::from(n % 16), &payload(n, len))).collect();
            packets.truncate(16);
            packets[15] = datagram(version, 7, 0xffff, &payload(9, last));
            assert_eq!(pass(&packets), (packets, 1), "IPv{version} {len} {last}");
        }
    }
}

#[test]
fn the_largest_whole_is_no_larger_than_a_packet_can_be() {
    for version in [4, 6] {
        let packets: Vec<_> =
            (0..BURST as u16).map(|n| datagram(version, 7, n, &vec![n.to_be_bytes()[1]; 1_400])).collect();
        let (all, flows) = pass(&packets);
        assert_eq!((all, flows), (packets, 2));
    }
}

#[test]
fn flows_are_kept_apart_and_in_order() {
    let packets: Vec<_> =
        (0..60u16).map(|n| datagram(if n % 2 == 0 { 4 } else { 6 }, n % 6, n / 6, &[n.to_be_bytes()[1]; 50])).collect();
    let (all, flows) = pass(&packets);
    assert_eq!(flows, 6);
    for port in 0..6u16 {
        let of = |packet: &&Vec<u8>| packet[if packet[0] >> 4 == 4 { 20 } else { 40 }..][..2] == port.to_be_bytes();
        assert!(all.iter().filter(of).eq(packets.iter().filter(of)), "port {port}");
    }
}

/// Two datagrams, the second one changed.
#[test]
fn datagrams_that_are_marked_for_congestion_are_not_overtaken() {
    let mut packets: Vec<_> = (0..12u16).map(|n| datagram(6, 5_000, n, &[n.to_be_bytes()[1]; 50])).collect();
    for marked in [3, 4, 7] {
        packets[marked][1] |= 0x30;
    }
    let (all, flows) = pass(&packets);
    assert_eq!(all, packets);
    assert_eq!(flows, 5);
}

fn two(version: u8, change: impl FnOnce(&mut Vec<u8>)) -> [Vec<u8>; 2] {
    let mut packets = [1, 2].map(|n| datagram(version, 7, n, &[8; 40]));
    change(&mut packets[1]);
    packets
}

#[test]
fn what_differs_goes_alone_and_unchanged() {
    let fresh = |packet: &mut Vec<u8>| {
        let protocol = packet[9];
        ipv4::rewrite(packet, 20, protocol);
    };
    type Change = fn(&mut Vec<u8>);
    let four: [Change; 8] = [
        |p| p[1] = 0x28,
        |p| p[5] = 9,
        |p| p[6] = 0x40,
        |p| p[6] = 0x20,
        |p| p[7] = 1,
        |p| p[8] = 8,
        |p| p[9] = protocol::DCCP,
        |p| p[15] = 2,
    ];
    let packets = four.map(|change| {
        two(4, |packet| {
            change(packet);
            fresh(packet);
        })
    });
    let six: [Change; 5] = [|p| p[1] = 1, |p| p[7] = 8, |p| p[23] = 2, |p| p[6] = 60, |p| p[41] = 1];
    for packets in packets.into_iter().chain(six.map(|change| two(6, change))) {
        let (all, flows) = pass(&packets);
        assert_eq!(flows, 2, "{packets:?}");
        assert_eq!(all, packets);
    }
    // Alike, but one is not what its checksum says: the host is to see that.
    for version in [4, 6] {
        let packets = two(version, |packet| *packet.last_mut().unwrap() ^= 1);
        assert_eq!(pass(&packets), (packets.to_vec(), 1));
    }
    // Nor is an IPv4 header mended.
    for at in [10, 11] {
        let packets = two(4, |packet| packet[at] ^= 1);
        assert_eq!(pass(&packets), (packets.to_vec(), 1));
    }
    // IPv6 knows no datagrams without a checksum.
    let packets = two(6, |packet| packet[46..48].fill(0));
    assert_eq!(pass(&packets).0, packets);
}

#[test]
fn ipv4_datagrams_without_checksum_get_one_together() {
    let whole = two(4, |_| {});
    let mut bare = whole.clone();
    bare.iter_mut().for_each(|packet| packet[26..28].fill(0));
    assert_eq!(pass(&bare), (whole.to_vec(), 1));
    assert_eq!(pass(&bare[..1]).0, bare[..1]);
}

#[test]
fn a_shorter_one_is_the_last_and_a_longer_one_the_first() {
    let packets: Vec<_> =
        [50, 50, 20, 20, 60, 60].into_iter().zip(0..).map(|(len, n)| datagram(4, 7, n, &vec![1; len])).collect();
    assert_eq!(pass(&packets), (packets, 3));
}

/// A large segment as the host gives it: the checksum field has the sum of the pseudo-header.
fn tcp(version: u8, flags: u8, options: usize, payload: &[u8]) -> (Vec<u8>, VnetHeader) {
    let own = 20 + options;
    let mut upper = vec![0; own];
    upper[..8].copy_from_slice(&[0, 7, 0, 80, 0xff, 0xff, 0xff, 0xf0]);
    (upper[12], upper[13]) = (u8::try_from(own / 4).unwrap() << 4, flags);
    upper.extend(payload);
    let mut packet = datagram(version, 7, 5, &[]);
    let ip = if version == 4 { 20 } else { 40 };
    packet.truncate(ip);
    packet[if version == 4 { 9 } else { 6 }] = protocol::TCP;
    let sum = !ipv4::transport_sum(addresses(&packet, version == 4), protocol::TCP, upper.len());
    upper[16..18].copy_from_slice(&sum.to_be_bytes());
    packet.extend(upper);
    if version == 4 {
        ipv4::rewrite(&mut packet, 20, protocol::TCP);
    } else {
        ipv6::rewrite(&mut packet, ipv6::NEXT_HEADER, protocol::TCP);
    }
    let kind = if version == 4 { vnet::TCP4 } else { vnet::TCP6 };
    (packet, header([1, kind | vnet::ECN], [0, 1_000, u16::try_from(ip).unwrap(), 16]))
}

fn header([flags, kind]: [u8; 2], numbers: [u16; 4]) -> VnetHeader {
    let mut octets = [flags, kind, 0, 0, 0, 0, 0, 0, 0, 0];
    for (field, number) in octets[2..].chunks_mut(2).zip(numbers) {
        field.copy_from_slice(&number.to_ne_bytes());
    }
    VnetHeader::decode(&octets)
}

#[test]
fn tcp_is_cut_up_as_a_network_card_does() {
    let payload: Vec<u8> = (0..2_500u32).map(|n| n.to_be_bytes()[3]).collect();
    for (version, options) in [(4, 0), (4, 12), (6, 12)] {
        // CWR, ACK, PSH and FIN.
        let (whole, header) = tcp(version, 0x99, options, &payload);
        let ip = if version == 4 { 20 } else { 40 };
        let packets = cut(&whole, header);
        let upper: Vec<_> = packets.iter().map(|packet| &packet[ip..]).collect();
        assert_eq!(upper.iter().map(|u| u.len() - 20 - options).collect::<Vec<_>>(), [1_000, 1_000, 500]);
        assert_eq!(upper.iter().flat_map(|u| &u[20 + options..]).copied().collect::<Vec<_>>(), payload);
        assert_eq!(upper.iter().map(|u| u[13]).collect::<Vec<_>>(), [0x90, 0x10, 0x19]);
        let sequences = [[0xff, 0xff, 0xff, 0xf0], [0, 0, 0x03, 0xd8], [0, 0, 0x07, 0xc0]];
        assert!(upper.iter().map(|u| &u[4..8]).eq(sequences.iter().map(|s| &s[..])));
        for (packet, n) in packets.iter().zip(5u8..) {
            assert_eq!(ipv4::transport_checksum(addresses(packet, version == 4), protocol::TCP, &packet[ip..]), 0);
            let (len, counted) = if version == 4 { (packet.len(), 2) } else { (packet.len() - 40, 4) };
            assert_eq!(packet[counted..counted + 2], u16::try_from(len).unwrap().to_be_bytes());
            assert!(version == 6 || ipv4::checksum(&packet[..20]) == 0 && packet[4..6] == [0, n]);
        }
    }
}

#[test]
fn a_checksum_left_to_us_is_completed() {
    for version in [4, 6] {
        let whole = datagram(version, 7, 1, &[0xab; 33]);
        let ip = if version == 4 { 20 } else { 40 };
        let mut packet = whole.clone();
        let sum = !ipv4::transport_sum(addresses(&packet, version == 4), protocol::UDP, 41);
        packet[ip + 6..ip + 8].copy_from_slice(&sum.to_be_bytes());
        assert!(header([1, 0], [0, 0, u16::try_from(ip).unwrap(), 6]).complete(&mut packet));
        assert_eq!(packet, whole);
        assert!(header([0, 0], [0; 4]).complete(&mut packet));
        assert_eq!(packet, whole);
    }
}

proptest! {
    #[test]
    fn no_header_makes_it_panic(octets in any::<[u8; HEADER_LEN]>(), start in 0u16..64, packet in proptest::collection::vec(any::<u8>(), 0..200)) {
        let mut decoded = VnetHeader::decode(&octets);
        prop_assert_eq!(decoded.encode(), octets);
        decoded.complete(&mut packet.clone());
        for kind in [vnet::TCP4, vnet::TCP6, vnet::UDP] {
            for first in [0x45, 0x46, 0x60] {
                let mut packet = packet.clone();
                if let Some(octet) = packet.first_mut() {
                    *octet = first;
                }
                decoded = header([1, kind], [0, u16::from(octets[0]), start, 6]);
                if let Ok(mut split) = Split::new(Frame::holding(&packet), decoded) {
                    let mut frame = Frame::new(300);
                    while !split.is_done() {
                        split.next(&mut frame);
                        prop_assert!(!frame.packet().is_empty());
                    }
                }
            }
        }
        let joined = Joined::new([packet.as_slice(), &packet].into_iter());
        let all: usize = joined.flows().map(|flow| flow.packets().count()).sum();
        prop_assert_eq!(all, 2);
        joined.flows().for_each(|flow| drop(flow.whole()));
    }
}
