//! IPv6 headers and the extension headers in front of an upper layer (RFC 8200).
//!
//! ```text
//! |Version| Traffic Class |           Flow Label                  |
//! |         Payload Length        |  Next Header  |   Hop Limit   |
//! |                   Source Address (16 octets)                  |
//! |                Destination Address (16 octets)                |
//! ```

use std::net::IpAddr;

use super::{HeaderError, Headers, IpVersion, TUNNEL_HOPS, address6, be16, ports};
use crate::tunnel::Outer;

/// Octets of the fixed header.
pub const HEADER_LEN: usize = 40;
/// What every link takes.
pub(crate) const MIN_MTU: usize = 1_280;
/// Octets of a Fragment header.
pub(crate) const FRAGMENT_HEADER_LEN: usize = 8;
/// Largest packet that is no jumbogram.
pub const MAX_TOTAL: usize = HEADER_LEN + 65_535;

/// A header that says nothing.
pub(crate) const BLANK: [u8; HEADER_LEN] = {
    let mut header = [0; HEADER_LEN];
    header[0] = 0x60;
    header
};

const PAYLOAD_LENGTH: usize = 4;
pub(crate) const NEXT_HEADER: usize = 6;
const HOP_LIMIT: usize = 7;
pub(crate) const SOURCE: usize = 8;
pub(crate) const DESTINATION: usize = 24;
const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const DESTINATION_OPTIONS: u8 = 60;
const MAX_EXTENSIONS: usize = 16;

pub(super) fn read(packet: &[u8], headers: &mut Headers) -> Result<(), HeaderError> {
    let fixed = packet.first_chunk::<HEADER_LEN>().ok_or(HeaderError::Truncated)?;
    let payload = be16(packet, PAYLOAD_LENGTH).ok_or(HeaderError::Truncated)?;
    let total = HEADER_LEN + usize::from(payload);
    let packet = packet.get(..total).ok_or(HeaderError::Truncated)?;

    let (mut at, mut named_at, mut next) = (HEADER_LEN, NEXT_HEADER, fixed[NEXT_HEADER]);
    let (mut split, mut split_named_at, mut split_protocol) = (at, named_at, next);
    let (mut fragment, mut hidden) = (false, false);
    for walked in 0.. {
        if walked == MAX_EXTENSIONS {
            return Err(HeaderError::TooManyHeaders);
        }
        let len = match next {
            HOP_BY_HOP | ROUTING | DESTINATION_OPTIONS => {
                (usize::from(*packet.get(at + 1).ok_or(HeaderError::Truncated)?) + 1) * 8
            }
            FRAGMENT => {
                let offset = be16(packet, at + 2).ok_or(HeaderError::Truncated)?;
                fragment = true;
                hidden = offset & 0xfff8 != 0;
                FRAGMENT_HEADER_LEN
            }
            _ => break,
        };
        if packet.len() < at + len {
            return Err(HeaderError::Truncated);
        }
        let stays_outside = matches!(next, HOP_BY_HOP | ROUTING);
        (named_at, next, at) = (at, packet[at], at + len);
        if stays_outside {
            (split, split_named_at, split_protocol) = (at, named_at, next);
        }
        if hidden {
            break;
        }
    }
    *headers = Headers {
        version: IpVersion::V6,
        source: address6(fixed, SOURCE)?,
        destination: address6(fixed, DESTINATION)?,
        total,
        split,
        split_named_at,
        split_protocol,
        upper_at: at,
        upper_named_at: named_at,
        upper: next,
        ports: if hidden { None } else { ports(next, packet.get(at..).unwrap_or_default()) },
        fragment,
    };
    Ok(())
}

/// Octets of a packet that comes from a link, where padding may follow it. `None` if its length is wrong.
#[inline]
pub(super) fn arrived(packet: &[u8]) -> Option<usize> {
    let total = HEADER_LEN + usize::from(be16(packet, PAYLOAD_LENGTH)?);
    (total <= packet.len()).then_some(total)
}

/// Writes the outer header of tunnel mode over the first [`HEADER_LEN`] octets of `packet`: DS and ECN of the inner one
/// (RFC 4301 section 5.1.2.2), the addresses that `outer` does not name (RFC 5374 section 3.1), and with the destination
/// the hop limit. The flow label is zero, as a gateway must not copy it.
pub(crate) fn write_outer(packet: &mut [u8], inner: &[u8; HEADER_LEN], outer: Outer, protocol: u8) {
    if let Some(header) = packet.first_chunk_mut::<HEADER_LEN>() {
        *header = *inner;
        header[1] &= 0xf0;
        header[2..4].fill(0);
        for (at, address) in [(SOURCE, outer.source), (DESTINATION, outer.destination)] {
            if let Some(IpAddr::V6(address)) = address {
                header[at..at + 16].copy_from_slice(&address.octets());
            }
        }
        if outer.destination.is_some() {
            header[HOP_LIMIT] = TUNNEL_HOPS;
        }
    }
    rewrite(packet, NEXT_HEADER, protocol);
}

/// Sets the payload length, and the next header octet at `named_at`.
pub(crate) fn rewrite(packet: &mut [u8], named_at: usize, protocol: u8) {
    let payload = u16::try_from(packet.len().saturating_sub(HEADER_LEN)).unwrap_or(u16::MAX);
    if let Some(field) = packet.get_mut(PAYLOAD_LENGTH..PAYLOAD_LENGTH + 2) {
        field.copy_from_slice(&payload.to_be_bytes());
    }
    if let Some(named) = packet.get_mut(named_at) {
        *named = protocol;
    }
}

/// Where a fragment belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// What the Fragment header names.
    pub(crate) next: u8,
    /// In octets.
    pub(crate) offset: usize,
    pub(crate) more: bool,
    pub(crate) identification: u32,
}

/// Reads the Fragment header, if it stands where transport mode divides a packet: nothing that stays outside is behind it.
pub(crate) fn place(packet: &[u8], headers: &Headers) -> Option<Place> {
    let header = packet.get(headers.split..)?.first_chunk::<FRAGMENT_HEADER_LEN>()?;
    let word = u16::from_be_bytes([header[2], header[3]]);
    let identification = u32::from_be_bytes([header[4], header[5], header[6], header[7]]);
    let place = Place { next: header[0], offset: usize::from(word & 0xfff8), more: word & 1 != 0, identification };
    (headers.split_protocol == FRAGMENT).then_some(place)
}

/// Writes the Fragment header at `at`, and the payload length; the octet at `named_at` names it.
pub(crate) fn write_fragment(packet: &mut [u8], at: usize, named_at: usize, place: Place) {
    if let Some(header) = packet.get_mut(at..).and_then(|rest| rest.first_chunk_mut::<FRAGMENT_HEADER_LEN>()) {
        let offset = u16::try_from(place.offset).unwrap_or(u16::MAX) & 0xfff8;
        header[..2].copy_from_slice(&[place.next, 0]);
        header[2..4].copy_from_slice(&(offset | u16::from(place.more)).to_be_bytes());
        header[4..].copy_from_slice(&place.identification.to_be_bytes());
    }
    rewrite(packet, named_at, FRAGMENT);
}

/// Two bits of congestion notification.
pub(crate) fn ecn(header: &[u8]) -> u8 {
    header.get(1).map_or(0, |b| (b >> 4) & 0x03)
}

/// Sets them.
pub(crate) fn set_ecn(packet: &mut [u8], ecn: u8) {
    if let Some(b) = packet.get_mut(1) {
        *b = *b & !0x30 | ecn << 4;
    }
}

/// What the kernel says of a packet whose header it keeps for itself (RFC 3542).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Received {
    /// Source address.
    pub(crate) source: std::net::Ipv6Addr,
    /// Destination address.
    pub(crate) destination: std::net::Ipv6Addr,
    /// Traffic class.
    pub(crate) class: u8,
    /// Hop limit.
    pub(crate) hop_limit: u8,
}

/// Writes a header in front of a payload that came without one.
pub(crate) fn write_received(packet: &mut [u8], from: Received, protocol: u8) {
    if let Some(header) = packet.first_chunk_mut::<HEADER_LEN>() {
        header.fill(0);
        header[0] = 0x60 | (from.class >> 4);
        header[1] = from.class << 4;
        header[HOP_LIMIT] = from.hop_limit;
        header[SOURCE..DESTINATION].copy_from_slice(&from.source.octets());
        header[DESTINATION..HEADER_LEN].copy_from_slice(&from.destination.octets());
    }
    rewrite(packet, NEXT_HEADER, protocol);
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::protocol::{ESP, UDP};
    use super::*;

    fn parse(packet: &[u8]) -> Result<Headers, HeaderError> {
        let mut headers = Headers::NONE;
        read(packet, &mut headers).map(|()| headers)
    }

    fn packet(next: u8, rest: &[u8]) -> Vec<u8> {
        let mut p = vec![0u8; HEADER_LEN];
        p[0] = 0x60;
        p[NEXT_HEADER] = next;
        p.extend_from_slice(rest);
        rewrite(&mut p, NEXT_HEADER, next);
        p
    }

    fn extension(next: u8) -> [u8; 8] {
        [next, 0, 1, 4, 0, 0, 0, 0]
    }

    #[test]
    fn esp_goes_behind_hop_by_hop_and_routing_but_before_destination_options() {
        let mut rest = extension(DESTINATION_OPTIONS).to_vec();
        rest.extend(extension(ROUTING));
        rest.extend(extension(DESTINATION_OPTIONS));
        rest.extend(extension(UDP));
        rest.extend([0, 7, 0, 9, 0, 8, 0, 0]);
        let h = parse(&packet(HOP_BY_HOP, &rest)).unwrap();
        assert_eq!((h.split, h.split_protocol), (HEADER_LEN + 24, DESTINATION_OPTIONS));
        assert_eq!((h.upper_at, h.upper, h.ports), (HEADER_LEN + 32, UDP, Some((7, 9))));
    }

    #[test]
    fn chains_without_end_are_refused() {
        let rest: Vec<u8> = (0..40).flat_map(|_| extension(DESTINATION_OPTIONS)).collect();
        assert_eq!(parse(&packet(DESTINATION_OPTIONS, &rest)), Err(HeaderError::TooManyHeaders));
        assert_eq!(parse(&packet(HOP_BY_HOP, &[ESP, 200])), Err(HeaderError::Truncated));
    }

    #[test]
    fn a_later_fragment_shows_no_ports() {
        let h = parse(&packet(FRAGMENT, &[UDP, 0, 0, 9, 0, 0, 0, 1, 0, 7, 0, 9])).unwrap();
        assert_eq!((h.fragment, h.ports, h.upper), (true, None, UDP));
    }
}
