//! What the host's kernel and an engine say to each other: packets of a TUN device with its offloads, and XFRM's netlink.

use dataplane::fuzzing;
use dataplane::packet::{ipv4, ipv6, protocol};

use crate::script::Script;

/// As many packets as go in one burst.
const PACKETS: usize = 64;
/// Of a netlink message.
const SHORTEST: usize = 16;

/// The first octet says what it is: an answer of XFRM, packets with their header from a TUN device, or a script of packets to one.
pub fn target(data: &[u8]) {
    let Some((which, rest)) = data.split_first() else { return };
    match which % 3 {
        0 => assert!(fuzzing::told(rest) <= rest.len() / SHORTEST),
        1 => {
            let Some((header, octets)) = rest.split_first_chunk() else { return };
            let packets = fuzzing::read(*header, octets).unwrap_or_default();
            assert!(packets.len() <= octets.len().max(1) && packets.iter().all(|packet| packet.len() <= octets.len()));
        }
        _ => write(&mut Script::new(rest)),
    }
}

/// The host has what is written, each packet once.
fn write(script: &mut Script<'_>) {
    let mut packets: Vec<Vec<u8>> = Vec::new();
    while let Some(op) = script.more().filter(|_| packets.len() < PACKETS) {
        packets.push(match op % 8 {
            0 => {
                let n = usize::from(script.octet());
                script.take(n).to_vec()
            }
            1 => {
                let mut packet = packets.last().cloned().unwrap_or_default();
                let at = script.below(packet.len());
                let mask = script.octet();
                packet.iter_mut().skip(at).take(1).for_each(|octet| *octet ^= mask);
                packet
            }
            _ => datagram(op & 8 == 0, script),
        });
    }
    let mut missing = packets.clone();
    let mut take = |packet: &[u8]| missing.iter().position(|one| one == packet).map(|at| missing.swap_remove(at));
    let others: Vec<Vec<u8>> = fuzzing::written(&packets).into_iter().filter(|packet| take(packet).is_none()).collect();
    // Of IPv4 some get the checksum that they came without.
    for mut packet in others {
        packet[ipv4::HEADER_LEN + 6..ipv4::HEADER_LEN + 8].fill(0);
        assert!(take(&packet).is_some(), "nobody wrote {packet:02x?}");
    }
    assert_eq!(missing, Vec::<Vec<u8>>::new(), "lost");
}

/// A datagram of one of a few flows, with its checksums.
fn datagram(version4: bool, script: &mut Script<'_>) -> Vec<u8> {
    let (port, number) = (script.octet() % 3, script.octet());
    let payload = vec![script.octet(); script.below(64)];
    let length = u16::try_from(8 + payload.len()).expect("a short payload").to_be_bytes();
    let udp = [&[0, port, 0x13, 0x89][..], &length, &[0, 0], &payload].concat();
    let mut packet = if version4 {
        let mut packet =
            vec![0x45, 0, 0, 28 + length[1] - 8, 0, number, 0, 0, 9, protocol::UDP, 0, 0, 10, 0, 0, 1, 239, 192, 0, 1];
        let sum = ipv4::checksum(&packet);
        packet[10..12].copy_from_slice(&sum.to_be_bytes());
        packet
    } else {
        let mut packet = vec![0; ipv6::HEADER_LEN];
        (packet[0], packet[5], packet[6], packet[7]) = (0x60, length[1], protocol::UDP, 9);
        (packet[8], packet[23], packet[24], packet[39]) = (0xfd, 1, 0xff, 1);
        packet
    };
    let at = packet.len();
    let addresses = if version4 { 12..20 } else { 8..40 };
    let sum = ipv4::checksum(&[&packet[addresses], &[0, protocol::UDP], &length, &udp].concat());
    packet.extend(udp);
    packet[at + 6..at + 8].copy_from_slice(&if sum == 0 { u16::MAX } else { sum }.to_be_bytes());
    packet
}
