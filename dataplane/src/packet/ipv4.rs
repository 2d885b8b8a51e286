//! IPv4 headers (RFC 791), options included.
//!
//! ```text
//! |Version|  IHL  |   DS and ECN  |          Total Length         |
//! |         Identification        |Flags|      Fragment Offset    |
//! |  Time to Live |    Protocol   |         Header Checksum       |
//! |                       Source Address                          |
//! |                    Destination Address                        |
//! |                    Options                    |    Padding    |
//! ```

use std::net::IpAddr;

use super::{HeaderError, Headers, IpVersion, TUNNEL_HOPS, address4, be16, ports};
use crate::sizes::DontFragment;
use crate::tunnel::Outer;

/// Octets of a header without options.
pub const HEADER_LEN: usize = 20;
/// Largest packet.
pub const MAX_TOTAL: usize = 65_535;
/// What every link takes.
pub(crate) const MIN_MTU: usize = 68;

/// A header that says nothing.
pub(crate) const BLANK: [u8; HEADER_LEN] = {
    let mut header = [0; HEADER_LEN];
    header[0] = 0x45;
    header
};

const TOS: usize = 1;
const TOTAL: usize = 2;
const IDENTIFICATION: usize = 4;
pub(crate) const FLAGS: usize = 6;
const TTL: usize = 8;
pub(crate) const PROTOCOL: usize = 9;
const CHECKSUM: usize = 10;
pub(crate) const SOURCE: usize = 12;
pub(crate) const DESTINATION: usize = 16;
const DONT_FRAGMENT: u8 = 0x40;
pub(crate) const MORE_FRAGMENTS: u16 = 0x2000;
pub(crate) const OFFSET: u16 = 0x1fff;

#[inline]
pub(super) fn read(packet: &[u8], headers: &mut Headers) -> Result<(), HeaderError> {
    let fixed = packet.first_chunk::<HEADER_LEN>().ok_or(HeaderError::Truncated)?;
    let header_len = usize::from(fixed[0] & 0x0f) * 4;
    let total = usize::from(u16::from_be_bytes([fixed[TOTAL], fixed[TOTAL + 1]]));
    if header_len < HEADER_LEN || total < header_len {
        return Err(HeaderError::Length);
    }
    let payload = packet.get(header_len..total).ok_or(HeaderError::Truncated)?;
    let fragmentation = u16::from_be_bytes([fixed[FLAGS], fixed[FLAGS + 1]]);
    let (more, offset) = (fragmentation & MORE_FRAGMENTS != 0, fragmentation & OFFSET);
    let upper = fixed[PROTOCOL];
    *headers = Headers {
        version: IpVersion::V4,
        source: address4(fixed, SOURCE)?,
        destination: address4(fixed, DESTINATION)?,
        total,
        split: header_len,
        split_named_at: PROTOCOL,
        split_protocol: upper,
        upper_at: header_len,
        upper_named_at: PROTOCOL,
        upper,
        ports: if offset == 0 { ports(upper, payload) } else { None },
        fragment: more || offset != 0,
    };
    Ok(())
}

/// Octets of a packet that comes from a link, where padding may follow it. `None` if lengths or checksum are wrong (RFC 1122 section 3.2.1.2).
#[inline]
pub(super) fn arrived(packet: &[u8]) -> Option<usize> {
    let fixed = packet.first_chunk::<HEADER_LEN>()?;
    let header_len = usize::from(fixed[0] & 0x0f) * 4;
    let total = usize::from(u16::from_be_bytes([fixed[TOTAL], fixed[TOTAL + 1]]));
    let sound = header_len >= HEADER_LEN && (header_len..=packet.len()).contains(&total);
    (sound && checksum(&packet[..header_len]) == 0).then_some(total)
}

/// The outer header of tunnel mode for packets of one flow, in words up to the identification and DF, up to the checksum, and
/// the addresses.
///
/// DS, ECN and, if it is to be copied, DF come from the inner header (RFC 4301 section 5.1.2.1), as do the addresses that are
/// not named (RFC 5374 section 3.1), and with the destination the TTL: the group's multicast scope is then the inner packet's.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OuterHeader {
    /// What is taken over of the inner header's words.
    kept: (u64, u32),
    /// And what is set in them.
    set: (u64, u32),
    addresses: u64,
    /// Of the addresses, for the checksum.
    sum: u64,
}

impl OuterHeader {
    /// For packets between these addresses, where `outer` names no others.
    pub(crate) fn new(source: IpAddr, destination: IpAddr, outer: Outer, protocol: u8) -> Self {
        let address = |given: Option<IpAddr>, inside: IpAddr| match given.filter(IpAddr::is_ipv4).unwrap_or(inside) {
            IpAddr::V4(address) => u64::from(u32::from(address)),
            IpAddr::V6(_) => 0,
        };
        let (source, destination) = (address(outer.source, source), address(outer.destination, destination));
        let (keep, set) = match outer.dont_fragment {
            DontFragment::Copy => (DONT_FRAGMENT, 0),
            DontFragment::Clear => (0, 0),
            DontFragment::Set => (0, DONT_FRAGMENT),
        };
        let (keep_hops, hops) = if outer.destination.is_some() { (0, TUNNEL_HOPS) } else { (u8::MAX, 0) };
        Self {
            kept: (u64::from_be_bytes([0, u8::MAX, 0, 0, 0, 0, keep, 0]), u32::from_be_bytes([keep_hops, 0, 0, 0])),
            set: (u64::from_be_bytes([0x45, 0, 0, 0, 0, 0, set, 0]), u32::from_be_bytes([hops, protocol, 0, 0])),
            addresses: source << 32 | destination,
            sum: source + destination,
        }
    }

    /// Writes it for a packet of `total` octets. The identification is given when it is sent.
    #[inline]
    pub(crate) fn write(&self, header: &mut [u8; HEADER_LEN], inner: &[u8; HEADER_LEN], total: usize) {
        let total = u64::from(u16::try_from(total).unwrap_or(u16::MAX));
        let word = |at: usize| u32::from_be_bytes(inner.as_chunks().0[at]);
        let first = (u64::from(word(0)) << 32 | u64::from(word(1))) & self.kept.0 | self.set.0 | total << 32;
        let second = word(2) & self.kept.1 | self.set.1;
        // Summed up before it is in memory, where reading it back at once would stall.
        let sum = fold(self.sum + (first >> 32) + (first & 0xffff_ffff) + u64::from(second));
        header[..TTL].copy_from_slice(&first.to_be_bytes());
        header[TTL..SOURCE].copy_from_slice(&(second | u32::from(sum)).to_be_bytes());
        header[SOURCE..].copy_from_slice(&self.addresses.to_be_bytes());
    }
}

/// Sets protocol and total length of a packet whose header has `header_len` octets, and its checksum.
pub(crate) fn rewrite(packet: &mut [u8], header_len: usize, protocol: u8) {
    let total = u16::try_from(packet.len()).unwrap_or(u16::MAX);
    if let Some(header) = packet.get_mut(..header_len.max(HEADER_LEN)) {
        header[TOTAL..TOTAL + 2].copy_from_slice(&total.to_be_bytes());
        header[PROTOCOL] = protocol;
        refresh_checksum(header);
    }
}

/// Must it not be fragmented?
pub(crate) fn dont_fragment(header: &[u8]) -> bool {
    header.get(FLAGS).is_some_and(|flags| flags & DONT_FRAGMENT != 0)
}

/// Where a fragment belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) identification: u16,
    /// In octets.
    pub(crate) offset: usize,
    pub(crate) more: bool,
}

/// Reads where a packet belongs; one that is whole is the only one of its kind.
pub(crate) fn place(header: &[u8]) -> Option<Place> {
    let (identification, fragmentation) = (be16(header, IDENTIFICATION)?, be16(header, FLAGS)?);
    let offset = usize::from(fragmentation & OFFSET) * 8;
    Some(Place { identification, offset, more: fragmentation & MORE_FRAGMENTS != 0 })
}

/// Makes a whole packet, with a header of `header_len` octets, of what had one of a fragment.
pub(crate) fn write_whole(packet: &mut [u8], header_len: usize) {
    if let Some(header) = packet.first_chunk_mut::<HEADER_LEN>() {
        header[FLAGS..FLAGS + 2].fill(0);
        let protocol = header[PROTOCOL];
        rewrite(packet, header_len, protocol);
    }
}

/// Makes a fragment of a packet with a header of `header_len` octets, whose length becomes the total length. DF goes.
pub(crate) fn write_fragment(packet: &mut [u8], header_len: usize, place: Place) {
    let Some(header) = packet.get_mut(..header_len.max(HEADER_LEN)) else { return };
    let offset = u16::try_from(place.offset / 8).unwrap_or(OFFSET) & OFFSET;
    let more = if place.more { MORE_FRAGMENTS } else { 0 };
    header[0] = 0x40 | u8::try_from(header_len / 4).unwrap_or(0x0f);
    header[IDENTIFICATION..IDENTIFICATION + 2].copy_from_slice(&place.identification.to_be_bytes());
    header[FLAGS..FLAGS + 2].copy_from_slice(&(more | offset).to_be_bytes());
    let protocol = header[PROTOCOL];
    rewrite(packet, header_len, protocol);
}

/// Two bits of congestion notification.
pub(crate) fn ecn(header: &[u8]) -> u8 {
    header.get(TOS).map_or(0, |tos| tos & 0x03)
}

/// Sets them and corrects the checksum.
pub(crate) fn set_ecn(packet: &mut [u8], header_len: usize, ecn: u8) {
    if let Some(header) = packet.get_mut(..header_len.max(HEADER_LEN)) {
        header[TOS] = header[TOS] & !0x03 | ecn;
        refresh_checksum(header);
    }
}

/// Gives an identification to a header that has none and needs one, for the packet may be fragmented on its way (RFC 6864
/// section 4); those of fragments stay. The checksum follows as in RFC 1624.
pub(crate) fn identify(header: &mut [u8], next: impl FnOnce() -> u16) {
    if header.len() >= HEADER_LEN
        && header[IDENTIFICATION..IDENTIFICATION + 2] == [0, 0]
        && header[FLAGS..FLAGS + 2] == [0, 0]
    {
        let number = next();
        let sum = !u16::from_be_bytes([header[CHECKSUM], header[CHECKSUM + 1]]);
        header[IDENTIFICATION..IDENTIFICATION + 2].copy_from_slice(&number.to_be_bytes());
        header[CHECKSUM..CHECKSUM + 2].copy_from_slice(&fold(u64::from(sum) + u64::from(number)).to_be_bytes());
    }
}

fn refresh_checksum(header: &mut [u8]) {
    header[CHECKSUM..CHECKSUM + 2].fill(0);
    let sum = checksum(header);
    header[CHECKSUM..CHECKSUM + 2].copy_from_slice(&sum.to_be_bytes());
}

/// The Internet checksum (RFC 1071) over a header; zero when it already holds a correct one.
#[must_use]
pub fn checksum(header: &[u8]) -> u16 {
    // Ones' complement addition is the same in wider words, folded at the end, and with octets swapped (RFC 1071 section 2).
    let halves = |words: [u8; 8]| {
        let words = u64::from_ne_bytes(words);
        (words >> 32) + (words & u64::from(u32::MAX))
    };
    let (words, rest) = header.as_chunks::<8>();
    let mut last = [0; 8];
    last[..rest.len()].copy_from_slice(rest);
    let sum: u64 = words.iter().map(|words| halves(*words)).sum();
    u16::from_be(fold(sum + halves(last)))
}

/// The checksum of a TCP segment or UDP datagram behind the addresses of its IP header (RFC 9293 section 3.1, RFC 8200
/// section 8.1); zero when it already holds a correct one.
#[must_use]
pub(crate) fn transport_checksum(addresses: &[u8], protocol: u8, segment: &[u8]) -> u16 {
    let pseudo = !transport_sum(addresses, protocol, segment.len());
    fold(u64::from(pseudo) + u64::from(!checksum(segment)))
}

/// The checksum of a pseudo-header alone.
pub(crate) fn transport_sum(addresses: &[u8], protocol: u8, len: usize) -> u16 {
    fold(u64::from(!checksum(addresses)) + u64::from(protocol) + len as u64)
}

/// Has `b` the identification that segments of one packet would have, `a` in front of it? Those of packets that are never
/// fragmented mean nothing (RFC 6864), and IPv6 packets have none.
pub(crate) fn follows(a: &[u8], b: &[u8]) -> bool {
    let number = |packet: &[u8]| match packet.get(..HEADER_LEN) {
        Some(header) if header[0] >> 4 == 4 && header[FLAGS] & DONT_FRAGMENT == 0 => {
            Some(u16::from_be_bytes([header[IDENTIFICATION], header[IDENTIFICATION + 1]]))
        }
        _ => None,
    };
    number(a).map(|number| number.wrapping_add(1)) == number(b)
}

/// Adds to the identification. The checksum is refreshed afterwards.
pub(crate) fn count_on(packet: &mut [u8], by: u16) {
    if let Some(field) = packet.get_mut(IDENTIFICATION..).and_then(<[u8]>::first_chunk_mut::<2>) {
        *field = u16::from_be_bytes(*field).wrapping_add(by).to_be_bytes();
    }
}

/// Sets the total length in a header without options.
pub(crate) fn lengthen(header: &mut [u8], total: usize) {
    if let Some(header) = header.get_mut(..HEADER_LEN) {
        header[TOTAL..TOTAL + 2].copy_from_slice(&u16::try_from(total).unwrap_or(u16::MAX).to_be_bytes());
        refresh_checksum(header);
    }
}

/// The checksum that a sum of 16- or 32-bit words comes to.
#[inline]
#[allow(clippy::cast_possible_truncation, reason = "the halves of a word")]
fn fold(sum: u64) -> u16 {
    // What is carried out of either half comes in at the other end.
    let (sum, carry) = (sum as u32).overflowing_add((sum >> 32) as u32);
    let sum = sum.wrapping_add(u32::from(carry));
    let (sum, carry) = sum.overflowing_add(sum.rotate_left(16));
    !((sum.wrapping_add(u32::from(carry)) >> 16) as u16)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn parse(packet: &[u8]) -> Result<Headers, HeaderError> {
        let mut headers = Headers::NONE;
        read(packet, &mut headers).map(|()| headers)
    }

    // A header with its checksum, from the worked example in the encyclopaedic article on the IPv4 header checksum.
    const HEADER: &str = "45000073000040004011b861c0a80001c0a800c7";

    #[test]
    fn the_checksum_of_a_known_header() {
        let mut header = hex::decode(HEADER).unwrap();
        assert_eq!(checksum(&header), 0);
        header[CHECKSUM..CHECKSUM + 2].fill(0);
        assert_eq!(checksum(&header), 0xb861);
    }

    #[test]
    fn the_checksum_is_that_of_a_plain_addition() {
        for len in 0..64u8 {
            let header: Vec<u8> = (0..len).map(|n| n.wrapping_mul(151) | 0x80).collect();
            let mut sum = 0u32;
            for pair in header.chunks(2) {
                sum += u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]));
                sum = (sum & 0xffff) + (sum >> 16);
            }
            assert_eq!(u32::from(!checksum(&header)), sum, "{len} octets");
        }
        assert_eq!(checksum(&[0xff; 20]), 0);
    }

    #[test]
    fn an_outer_header_repeats_what_it_must_and_has_its_checksum() {
        let mut inner = *hex::decode(HEADER).unwrap().first_chunk().unwrap();
        let named = |address: &str| Some(address.parse().unwrap());
        let tunnel = Outer { source: named("192.0.2.1"), destination: named("255.255.255.255"), ..Outer::default() };
        let set = Outer { dont_fragment: DontFragment::Set, ..Outer::default() };
        let clear = Outer { dont_fragment: DontFragment::Clear, ..tunnel };
        for outer in [Outer::default(), tunnel, set, clear] {
            for (tos, df, ttl) in [(0, 0, 1), (0xbb, DONT_FRAGMENT, 0xff), (0xff, DONT_FRAGMENT, 3)] {
                (inner[TOS], inner[FLAGS], inner[TTL]) = (tos, df, ttl);
                for total in [40, 1_500, 0xffff] {
                    let headers = Headers { total, ..parse_header(&inner) };
                    let template = OuterHeader::new(headers.source, headers.destination, outer, 50);
                    let mut header = [0x5a; HEADER_LEN];
                    template.write(&mut header, &inner, total);
                    assert_eq!((header[0], header[TOS], header[PROTOCOL], checksum(&header)), (0x45, tos, 50, 0));
                    assert_eq!(be16(&header, TOTAL).map(usize::from), Some(total));
                    let df = match outer.dont_fragment {
                        DontFragment::Copy => df,
                        DontFragment::Clear => 0,
                        DontFragment::Set => DONT_FRAGMENT,
                    };
                    assert_eq!(header[IDENTIFICATION..TTL], [0, 0, df, 0]);
                    assert_eq!(header[TTL], if outer.destination.is_some() { TUNNEL_HOPS } else { ttl });
                    let read = parse_header(&header);
                    assert_eq!(read.source, outer.source.unwrap_or(headers.source));
                    assert_eq!(read.destination, outer.destination.unwrap_or(headers.destination));
                }
            }
        }
    }

    fn parse_header(header: &[u8; HEADER_LEN]) -> Headers {
        let total = usize::from(be16(header, TOTAL).unwrap());
        let mut packet = header.to_vec();
        packet.resize(total, 0);
        parse(&packet).unwrap()
    }

    #[test]
    fn only_what_can_be_fragmented_and_has_no_identification_gets_one() {
        for (number, flags, given) in [(0, 0, true), (0, 0x40, false), (0, 0x20, false), (7, 0, false)] {
            for next in [1, 0x8000, 0xfffe, 0xffff] {
                let mut header = hex::decode(HEADER).unwrap();
                (header[IDENTIFICATION + 1], header[FLAGS]) = (number, flags);
                refresh_checksum(&mut header);
                let before = header.clone();
                identify(&mut header, || next);
                assert_eq!(header != before, given);
                assert_eq!(given, header[IDENTIFICATION..IDENTIFICATION + 2] == next.to_be_bytes());
                assert_eq!(checksum(&header), 0);
            }
        }
        identify(&mut [], || unreachable!());
    }

    #[test]
    fn lengths_that_lie_are_refused() {
        let mut packet = hex::decode(HEADER).unwrap();
        assert_eq!(parse(&packet), Err(HeaderError::Truncated));
        packet.resize(0x73, 0);
        assert_eq!(parse(&packet).unwrap().total, 0x73);
        packet[0] = 0x44;
        assert_eq!(parse(&packet), Err(HeaderError::Length));
        packet[0] = 0x4f;
        packet[TOTAL + 1] = 40;
        assert_eq!(parse(&packet), Err(HeaderError::Length));
        assert_eq!(parse(&packet[..19]), Err(HeaderError::Truncated));
    }

    #[test]
    fn a_later_fragment_shows_no_ports() {
        let mut packet = hex::decode(HEADER).unwrap();
        packet.resize(0x73, 7);
        assert_eq!(parse(&packet).unwrap().ports, Some((0x0707, 0x0707)));
        packet[FLAGS + 1] = 1;
        let headers = parse(&packet).unwrap();
        assert_eq!((headers.ports, headers.fragment), (None, true));
    }
}
