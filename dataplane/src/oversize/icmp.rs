//! Telling a sender that its packet is too large: ICMP "fragmentation needed" (RFC 792, RFC 1191 section 4) and ICMPv6
//! "packet too big" (RFC 4443 section 3.2).
//!
//! ```text
//! |     Type      |     Code      |          Checksum             |
//! |    unused (IPv4)              |  MTU (IPv4: the last 16 bits) |
//! |          as much of the packet as there is room for           |
//! ```

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use arrayvec::ArrayVec;

use crate::packet::ipv4::checksum;
use crate::packet::{Headers, IpVersion, ipv4, ipv6, protocol};

/// The longest message; RFC 1812 section 4.3.2.3 has at most 576 octets for IPv4.
const MAX_V4: usize = 576;
const MAX_V6: usize = ipv6::MIN_MTU;
const HEADER_LEN: usize = 8;
const HOPS: u8 = 64;

/// Whom ICMP messages about IPv4 packets come from: the dummy address of RFC 7600 section 4.8, for nodes that have no address
/// of their own. The host does not take one of its own addresses as the source of what comes in by a device.
const NOBODY: Ipv4Addr = Ipv4Addr::new(192, 0, 0, 8);

/// A message.
pub(crate) type Message = ArrayVec<u8, MAX_V6>;

/// What its sender may be told to send instead, if anything helps: what `room` leaves, and no less than every link must take
/// (RFC 791 section 3.2, RFC 8201 section 4).
pub(crate) fn next_hop(packet: &[u8], headers: &Headers, room: usize) -> Option<usize> {
    let least = match headers.version {
        IpVersion::V4 => ipv4::MIN_MTU,
        IpVersion::V6 => ipv6::MIN_MTU,
    };
    let mtu = room.max(least);
    (mtu < headers.total && may_be_answered(packet, headers)).then_some(mtu)
}

/// The message about a packet, if there is an address that it can come from.
pub(crate) fn too_big(
    packet: &[u8],
    headers: &Headers,
    mtu: usize,
    own_address: impl FnOnce() -> Option<Ipv6Addr>,
) -> Option<Message> {
    let packet = packet.get(..headers.total)?;
    let mtu = u32::try_from(mtu).ok()?;
    match (headers.source, headers.version) {
        (IpAddr::V4(to), IpVersion::V4) => Some(v4(packet, to, mtu)),
        (IpAddr::V6(to), IpVersion::V6) => Some(v6(packet, own_address()?, to, mtu)),
        _ => None,
    }
}

/// May a packet be answered by an error (RFC 1122 section 3.2.2, RFC 4443 section 2.4, rule e)? Of those to a group, IPv6's
/// alone: an IPv4 packet with DF to a group that is too large vanishes.
fn may_be_answered(packet: &[u8], headers: &Headers) -> bool {
    let kind = packet.get(headers.upper_at).copied();
    match (headers.source, headers.destination) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let one_host = !from.is_multicast()
                && !from.is_broadcast()
                && !from.is_loopback()
                && from.octets()[0] != 0
                && from.octets()[0] < 240;
            let is_error = headers.upper == protocol::ICMP && matches!(kind, Some(3 | 4 | 5 | 11 | 12) | None);
            let later = ipv4::place(packet).is_none_or(|place| place.offset != 0);
            one_host && !to.is_multicast() && !to.is_broadcast() && !later && !is_error
        }
        (IpAddr::V6(from), IpAddr::V6(_)) => {
            // What a later fragment is of is not to be seen.
            let is_error =
                headers.upper == protocol::ICMPV6 && (headers.fragment || !matches!(kind, Some(128..=136 | 138..=255)));
            !from.is_multicast() && !from.is_unspecified() && !from.is_loopback() && !is_error
        }
        _ => false,
    }
}

fn v4(packet: &[u8], to: Ipv4Addr, mtu: u32) -> Message {
    let quoted = &packet[..packet.len().min(MAX_V4 - ipv4::HEADER_LEN - HEADER_LEN)];
    let mut message = Message::new();
    message.extend([0x45, 0xc0, 0, 0, 0, 0, 0, 0, HOPS, protocol::ICMP, 0, 0]);
    message.extend(NOBODY.octets());
    message.extend(to.octets());
    message.extend([3, 4, 0, 0]);
    message.extend(mtu.min(0xffff).to_be_bytes());
    message.extend(quoted.iter().copied());
    ipv4::rewrite(&mut message, ipv4::HEADER_LEN, protocol::ICMP);
    let sum = checksum(&message[ipv4::HEADER_LEN..]);
    message[ipv4::HEADER_LEN + 2..][..2].copy_from_slice(&sum.to_be_bytes());
    message
}

fn v6(packet: &[u8], from: Ipv6Addr, to: Ipv6Addr, mtu: u32) -> Message {
    let quoted = &packet[..packet.len().min(MAX_V6 - ipv6::HEADER_LEN - HEADER_LEN)];
    let mut message = Message::new();
    message.extend([0x60, 0, 0, 0, 0, 0, protocol::ICMPV6, HOPS]);
    message.extend(from.octets());
    message.extend(to.octets());
    message.extend([2, 0, 0, 0]);
    message.extend(mtu.to_be_bytes());
    message.extend(quoted.iter().copied());
    ipv6::rewrite(&mut message, ipv6::NEXT_HEADER, protocol::ICMPV6);
    // The pseudo-header (RFC 8200 section 8.1): addresses, length, next header.
    let (addresses, body) = message[8..].split_at(32);
    let mut summed: ArrayVec<u8, { MAX_V6 + 40 }> = addresses.iter().copied().collect();
    summed.extend(u32::try_from(body.len()).unwrap_or(u32::MAX).to_be_bytes());
    summed.extend([0, 0, 0, protocol::ICMPV6]);
    summed.extend(body.iter().copied());
    let sum = checksum(&summed);
    message[ipv6::HEADER_LEN + 2..][..2].copy_from_slice(&sum.to_be_bytes());
    message
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
