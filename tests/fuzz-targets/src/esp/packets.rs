//! IP packets by a script's octets.

use std::net::IpAddr;

use dataplane::packet::{ipv4, ipv6, protocol};
use keyferry_model::policy::EspMode;

use crate::script::Script;

/// Hop-by-hop options, routing, a fragment, destination options (RFC 8200 section 4).
const EXTENSIONS: [u8; 4] = [0, 43, 44, 60];
/// What may be said to be inside.
const UPPER: [u8; 6] = [protocol::UDP, protocol::IPV4, protocol::IPV6, protocol::ESP, protocol::NONE, protocol::TCP];

/// A packet to a group with sound lengths, with options or extension headers in front of the upper layer.
pub(crate) fn plain(group: IpAddr, script: &mut Script<'_>) -> Vec<u8> {
    let (host, class, upper) = (script.octet(), script.octet(), UPPER[script.below(UPPER.len())]);
    let mut packet = match group {
        IpAddr::V4(group) => {
            let options = 4 * script.below(4);
            let words = u8::try_from((ipv4::HEADER_LEN + options) / 4).unwrap_or(0);
            let mut packet = vec![0x40 | words, class, 0, 0, 0, 0, script.octet(), 0, 17, upper, 0, 0, 10, 0, 0, host];
            packet.extend(group.octets());
            packet.resize(ipv4::HEADER_LEN + options, 1);
            packet
        }
        IpAddr::V6(group) => {
            let mut packet = vec![0x60 | class >> 4, class << 4, 0, 0, 0, 0, upper, 17];
            packet.extend([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, host]);
            packet.extend(group.octets());
            let mut named_at = 6;
            for _ in 0..script.below(4) {
                packet[named_at] = EXTENSIONS[script.below(EXTENSIONS.len())];
                named_at = packet.len();
                let length = script.octet() % 3;
                let units = if packet[named_at - 1] == 44 { 0 } else { length };
                packet.extend([upper, units]);
                packet.resize(named_at + 8 * (1 + usize::from(units)), 0);
            }
            packet
        }
    };
    let n = usize::from(script.octet());
    packet.extend_from_slice(script.take(n));
    let (at, counted) = if group.is_ipv4() { (2, packet.len()) } else { (4, packet.len() - ipv6::HEADER_LEN) };
    packet[at..at + 2].copy_from_slice(&u16::try_from(counted).unwrap_or(u16::MAX).to_be_bytes());
    packet
}

/// Is what came out what went in? In transport mode an IPv4 header gets its checksum anew.
pub(super) fn are_alike(out: &[u8], plain: &[u8], mode: EspMode) -> bool {
    let masked = |packet: &[u8]| {
        let mut packet = packet.to_vec();
        if mode == EspMode::Transport && packet.first().is_some_and(|first| first >> 4 == 4) {
            packet[10..12].fill(0);
        }
        packet
    };
    masked(out) == masked(plain)
}

/// A packet as somebody on the path sends it on: an octet changed or several, cut, longer, with octets in between, or
/// under the header of another one.
pub(super) fn change(packet: &[u8], other: &[u8], script: &mut Script<'_>) -> Vec<u8> {
    let mut packet = packet.to_vec();
    let op = script.octet();
    let at = script.below(packet.len() + 1);
    match op % 6 {
        0 => packet.iter_mut().skip(at).take(1).for_each(|octet| *octet ^= script.octet().max(1)),
        1 => packet.truncate(at),
        2 => packet.resize(packet.len() + at, script.octet()),
        3 => packet.iter_mut().skip(at).zip(script.take(4)).for_each(|(octet, new)| *octet = *new),
        4 => {
            let n = usize::from(script.octet() % 32);
            packet.splice(at..at, script.take(n).iter().copied());
        }
        _ => packet.iter_mut().zip(other).take(at).for_each(|(octet, new)| *octet = *new),
    }
    if op >= 128 {
        repair_length(&mut packet);
    }
    packet
}

fn repair_length(packet: &mut [u8]) {
    let (at, header) = match packet.first().map(|first| first >> 4) {
        Some(4) => (2, 0),
        Some(6) => (4, ipv6::HEADER_LEN),
        _ => return,
    };
    let counted = u16::try_from(packet.len().saturating_sub(header)).unwrap_or(u16::MAX);
    if let Some(field) = packet.get_mut(at..at + 2) {
        field.copy_from_slice(&counted.to_be_bytes());
    }
}
