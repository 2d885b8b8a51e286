//! IP packets as ESP sees them: addresses, where the headers end, what the selectors look at.
//!
//! Nothing here trusts a length it has not checked, and nothing panics, whatever the octets.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

pub mod esp;
pub mod ipv4;
pub mod ipv6;

/// IP protocol numbers that the data plane acts upon.
pub mod protocol {
    /// ICMP.
    pub const ICMP: u8 = 1;
    /// IPv4 inside (tunnel mode).
    pub const IPV4: u8 = 4;
    /// TCP.
    pub const TCP: u8 = 6;
    /// UDP.
    pub const UDP: u8 = 17;
    /// DCCP.
    pub const DCCP: u8 = 33;
    /// IPv6 inside (tunnel mode).
    pub const IPV6: u8 = 41;
    /// ESP.
    pub const ESP: u8 = 50;
    /// ICMPv6.
    pub const ICMPV6: u8 = 58;
    /// No next header: a dummy packet (RFC 4303 section 2.6).
    pub const NONE: u8 = 59;
    /// SCTP.
    pub const SCTP: u8 = 132;
    /// UDP-Lite.
    pub const UDP_LITE: u8 = 136;

    /// A protocol as people are told it: those with a name by that, others by number.
    #[must_use]
    pub fn name(protocol: u8) -> String {
        let name = match protocol {
            ICMP => "icmp",
            TCP => "tcp",
            UDP => "udp",
            ESP => "esp",
            ICMPV6 => "icmpv6",
            SCTP => "sctp",
            other => return format!("protocol {other}"),
        };
        name.to_owned()
    }
}

/// TTL or hop limit of a tunnel whose destination is not the packet's (RFC 4301 section 5.1.2.1 leaves it to the gateway).
const TUNNEL_HOPS: u8 = 64;

/// Why octets are no IP packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// Shorter than its headers or lengths promise.
    #[error("truncated")]
    Truncated,
    /// Neither IPv4 nor IPv6.
    #[error("unknown IP version")]
    Version,
    /// A length field that cannot be.
    #[error("impossible length")]
    Length,
    /// More extension headers than any honest packet has.
    #[error("too many extension headers")]
    TooManyHeaders,
}

/// IP versions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum IpVersion {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl IpVersion {
    /// The version of an address.
    #[must_use]
    pub fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }

    /// The protocol number that announces a packet of this version inside another.
    #[must_use]
    pub fn as_protocol(self) -> u8 {
        match self {
            IpVersion::V4 => protocol::IPV4,
            IpVersion::V6 => protocol::IPV6,
        }
    }

    /// Octets of a header without options or extensions.
    #[must_use]
    pub fn header_len(self) -> usize {
        match self {
            IpVersion::V4 => ipv4::HEADER_LEN,
            IpVersion::V6 => ipv6::HEADER_LEN,
        }
    }
}

/// Where a packet goes, if it has an IP header.
#[must_use]
pub fn destination(packet: &[u8]) -> Option<IpAddr> {
    match packet.first()? >> 4 {
        4 => address4(packet, ipv4::DESTINATION).ok(),
        6 => address6(packet, ipv6::DESTINATION).ok(),
        _ => None,
    }
}

/// Octets of an IP packet that comes from a link, where padding may follow it, as the host's IP stack would look at it. `None` if there is no
/// such packet, lengths lie, or the checksum is wrong that IPv4 has.
#[inline]
pub(crate) fn arrived(packet: &[u8]) -> Option<usize> {
    match packet.first()? >> 4 {
        4 => ipv4::arrived(packet),
        6 => ipv6::arrived(packet),
        _ => None,
    }
}

/// What ESP and the selectors need to know of an IP packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Headers {
    /// Version.
    pub version: IpVersion,
    /// Source address.
    pub source: IpAddr,
    /// Destination address.
    pub destination: IpAddr,
    /// Octets of the packet as its header says; never more than there are.
    pub total: usize,
    /// Where ESP goes in transport mode (RFC 4303 section 3.1.1): behind the IPv4 options, or behind the IPv6
    /// hop-by-hop and routing headers, in front of destination options meant for the receiver.
    pub split: usize,
    /// The octet that names what stands at `split`.
    pub split_named_at: usize,
    /// What stands at `split`.
    pub split_protocol: u8,
    /// Where the upper layer begins, behind all extension headers.
    pub upper_at: usize,
    /// The octet that names the upper layer.
    pub upper_named_at: usize,
    /// The upper layer's protocol.
    pub upper: u8,
    /// Source and destination port, of protocols that have them and unless a fragmentation hides them.
    pub ports: Option<(u16, u16)>,
    /// Is it a fragment?
    pub fragment: bool,
}

impl Headers {
    /// Of no packet; what a place holds before [`Headers::read`].
    pub(crate) const NONE: Self = Self {
        version: IpVersion::V4,
        source: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        destination: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        total: 0,
        split: 0,
        split_named_at: 0,
        split_protocol: 0,
        upper_at: 0,
        upper_named_at: 0,
        upper: 0,
        ports: None,
        fragment: false,
    };

    /// Reads the headers of a packet. Octets behind the length that the header gives are ignored.
    pub fn parse(packet: &[u8]) -> Result<Self, HeaderError> {
        let mut headers = Self::NONE;
        headers.read(packet)?;
        Ok(headers)
    }

    /// [`Headers::parse`] into its place: copying headers that were only just written is dear.
    #[inline]
    pub(crate) fn read(&mut self, packet: &[u8]) -> Result<(), HeaderError> {
        match packet.first().map(|b| b >> 4) {
            None => Err(HeaderError::Truncated),
            Some(4) => ipv4::read(packet, self),
            Some(6) => ipv6::read(packet, self),
            Some(_) => Err(HeaderError::Version),
        }
    }
}

impl Headers {
    /// Do selectors see both packets alike?
    pub(crate) fn is_same_flow(&self, other: &Self) -> bool {
        let flow = |headers: &Self| (headers.ports, headers.upper);
        flow(self) == flow(other) && self.source == other.source && self.destination == other.destination
    }
}

/// What tells flows of plain IPv4 packets apart: packets that have this in common have the same headers but for their length.
///
/// Packets come in runs of one flow, and this is cheaper to read than headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Flow {
    /// Protocol and source address.
    from: u64,
    /// Destination address and ports.
    to: u64,
}

impl Flow {
    /// The flow of a whole packet without options, and its length; `None` for all others, sound or not.
    #[inline]
    pub(crate) fn of(packet: &[u8]) -> Option<(Self, usize)> {
        const WORD: usize = size_of::<u64>();
        // Version and header length; more fragments and fragment offset.
        const FIRST: u64 = u64::from_ne_bytes([0xff, 0, 0, 0, 0, 0, 0x3f, 0xff]);
        const PLAIN: u64 = u64::from_ne_bytes([0x45, 0, 0, 0, 0, 0, 0, 0]);
        const FROM: u64 = u64::from_ne_bytes([0, 0xff, 0, 0, 0xff, 0xff, 0xff, 0xff]);

        let octets = packet.first_chunk::<{ ipv4::HEADER_LEN + 4 }>()?;
        let [first, from, to] = [0, 1, 2].map(|at| u64::from_ne_bytes(octets.as_chunks::<WORD>().0[at]));
        let total = usize::from(u16::from_be_bytes([octets[2], octets[3]]));
        if first & FIRST != PLAIN || !(octets.len()..=packet.len()).contains(&total) {
            return None;
        }
        Some((Self { from: from & FROM, to }, total))
    }

    /// A number of which the leftmost bits differ with the flow, mostly.
    #[inline]
    pub(crate) fn hash(self) -> u64 {
        (self.from ^ self.to.rotate_left(32)).wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }
}

/// Ports, if the protocol has them and both are there.
#[inline]
fn ports(upper: u8, payload: &[u8]) -> Option<(u16, u16)> {
    match upper {
        protocol::TCP | protocol::UDP | protocol::DCCP | protocol::SCTP | protocol::UDP_LITE => {
            Some((be16(payload, 0)?, be16(payload, 2)?))
        }
        _ => None,
    }
}

/// Octets of a UDP datagram as its header says, which stands at the front.
pub(crate) fn udp_len(payload: &[u8]) -> Option<usize> {
    const LENGTH: usize = 4;
    const HEADER_LEN: usize = 8;
    be16(payload, LENGTH).map(usize::from).filter(|len| *len >= HEADER_LEN)
}

#[inline]
fn be16(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk::<2>().map(|b| u16::from_be_bytes(*b))
}

#[inline]
fn address4(bytes: &[u8], at: usize) -> Result<IpAddr, HeaderError> {
    let octets = bytes.get(at..).and_then(|b| b.first_chunk::<4>()).ok_or(HeaderError::Truncated)?;
    Ok(IpAddr::V4(Ipv4Addr::from(*octets)))
}

fn address6(bytes: &[u8], at: usize) -> Result<IpAddr, HeaderError> {
    let octets = bytes.get(at..).and_then(|b| b.first_chunk::<16>()).ok_or(HeaderError::Truncated)?;
    Ok(IpAddr::V6(Ipv6Addr::from(*octets)))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Each octet of a sound packet is now and then another.
        #[test]
        fn packets_of_one_flow_have_the_same_headers_but_for_the_length(
            mut octets in proptest::collection::vec(any::<u8>(), 0..60),
            upper in prop_oneof![Just(protocol::UDP), Just(protocol::TCP), any::<u8>()],
            changed in proptest::collection::vec((0usize..28, any::<u8>()), 0..3),
            cut in 0usize..40,
        ) {
            let total = octets.len();
            if let Some(fixed) = octets.first_chunk_mut::<{ ipv4::HEADER_LEN }>() {
                (fixed[0], fixed[2], fixed[3], fixed[6], fixed[7], fixed[9]) = (0x45, 0, total as u8, 0x40, 0, upper);
            }
            let mut other = octets[..total.saturating_sub(cut)].to_vec();
            if let Some(length) = other.get_mut(3) {
                *length = length.wrapping_sub(cut as u8);
            }
            for (at, octet) in changed {
                other.get_mut(at).into_iter().for_each(|at| *at = octet);
            }
            if let (Some((a, total_a)), Some((b, total_b))) = (Flow::of(&octets), Flow::of(&other)) {
                let (of_a, of_b) = (Headers::parse(&octets).unwrap(), Headers::parse(&other).unwrap());
                prop_assert_eq!((of_a.total, of_b.total), (total_a, total_b));
                let alike = Headers { total: total_b, ..of_a } == of_b;
                // What has no ports is told apart by more than it must be.
                let right = if a == b { alike } else { !alike || of_a.ports.is_none() };
                prop_assert!(right, "{:?} {:?}", of_a, of_b);
            }
            prop_assert!(Flow::of(&octets).is_none() || Headers::parse(&octets).is_ok());
        }
    }
}
