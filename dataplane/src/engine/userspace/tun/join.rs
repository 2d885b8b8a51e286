//! Datagrams of a flow, put together so that the host takes them in one.
//!
//! Only UDP over IPv4 without options or fragments, and over IPv6 without extension headers; the headers must be alike but
//! for lengths, checksums and identification. All payloads are of one length, but the last may be shorter.

use std::io::IoSlice;

use arrayvec::ArrayVec;

use super::split::addresses;
use super::vnet::VnetHeader;
use crate::burst::{BURST, Members};
use crate::packet::{ipv4, ipv6, protocol};

/// Headers and payloads.
pub(super) const MOST_PARTS: usize = 1 + BURST;
const UDP_HEADER: usize = 8;
const MOST_HEADERS: usize = ipv6::HEADER_LEN + UDP_HEADER;

/// A burst of packets, flow by flow.
pub(super) struct Joined<'p> {
    packets: ArrayVec<&'p [u8], BURST>,
    groups: ArrayVec<Group, BURST>,
}

/// Packets that can go together.
struct Group {
    members: Members,
    first: usize,
    last: usize,
    /// Octets of the IP header; none where a packet has to go alone.
    ip: Option<usize>,
    /// Octets of each payload but the last, and of all.
    payload: usize,
    total: usize,
    closed: bool,
}

impl<'p> Joined<'p> {
    /// Of up to a burst. A flow's packets keep their order; flows may overtake one another.
    pub(super) fn new(packets: impl Iterator<Item = &'p [u8]>) -> Self {
        let mut joined = Self { packets: packets.take(BURST).collect(), groups: ArrayVec::new() };
        for at in 0..joined.packets.len() {
            joined.place(at);
        }
        joined
    }

    fn place(&mut self, at: usize) {
        let packet = self.packets[at];
        let ip = datagram(packet);
        let payload = ip.map_or(0, |ip| packet.len() - ip - UDP_HEADER);
        match ip {
            Some(ip) => {
                let packets = &self.packets;
                let mut groups = self.groups.iter_mut().rev();
                // One that is not alike is not overtaken either: routers may have marked it for congestion.
                if let Some(group) =
                    groups.find(|group| group.ip == Some(ip) && is_one_flow(packets[group.first], packet))
                {
                    let fits = !group.closed
                        && alike(packets[group.first], packet)
                        && payload <= group.payload
                        && ip + UDP_HEADER + group.total + payload <= ipv4::MAX_TOTAL
                        && ipv4::follows(packets[group.last], packet);
                    if fits {
                        group.members = group.members.with(Members::only(at));
                        group.last = at;
                        group.total += payload;
                        group.closed = payload < group.payload;
                        return;
                    }
                    group.closed = true;
                }
            }
            // It may be of any flow, whose order it keeps.
            None => self.groups.iter_mut().for_each(|group| group.closed = true),
        }
        let members = Members::only(at);
        self.groups.push(Group { members, first: at, last: at, ip, payload, total: payload, closed: ip.is_none() });
    }

    pub(super) fn flows(&self) -> impl Iterator<Item = Flow<'_, 'p>> {
        self.groups.iter().map(|group| Flow { packets: &self.packets, group })
    }
}

/// Packets of one flow, one behind the other.
pub(super) struct Flow<'j, 'p> {
    packets: &'j [&'p [u8]],
    group: &'j Group,
}

impl<'j, 'p> Flow<'j, 'p> {
    pub(super) fn packets(&self) -> impl Iterator<Item = &'p [u8]> + use<'j, 'p> {
        let packets = self.packets;
        self.group.members.iter().map(|at| packets[at])
    }

    /// The packets as one, if there are several. Their checksums are lost in it, so none may be wrong.
    pub(super) fn whole(&self) -> Option<Whole<'p>> {
        let ip = self.group.ip.filter(|_| self.group.members.len() > 1)?;
        let version4 = ip == ipv4::HEADER_LEN;
        if !self.packets().all(|packet| is_intact(packet, ip, version4)) {
            return None;
        }
        let mut headers = ArrayVec::new();
        headers.try_extend_from_slice(self.packets[self.group.first].get(..ip + UDP_HEADER)?).ok()?;
        let udp = UDP_HEADER + self.group.total;
        if version4 {
            ipv4::lengthen(&mut headers, ip + udp);
        } else {
            headers[4..6].copy_from_slice(&u16::try_from(udp).ok()?.to_be_bytes());
        }
        let length = u16::try_from(udp).ok()?;
        headers[ip + 4..ip + 6].copy_from_slice(&length.to_be_bytes());
        // The sum of the pseudo-header, to which the host adds the rest.
        let sum = !ipv4::transport_sum(addresses(&headers, version4), protocol::UDP, udp);
        headers[ip + 6..ip + 8].copy_from_slice(&sum.to_be_bytes());
        let payloads = self.packets().map(|packet| &packet[ip + UDP_HEADER..]).collect();
        let header = VnetHeader::of_datagrams(
            u16::try_from(ip).ok()?,
            u16::try_from(UDP_HEADER).ok()?,
            u16::try_from(self.group.payload).ok()?,
        );
        Some(Whole { header, headers, payloads })
    }
}

/// What is written at once.
pub(super) struct Whole<'p> {
    header: VnetHeader,
    headers: ArrayVec<u8, MOST_HEADERS>,
    payloads: ArrayVec<&'p [u8], BURST>,
}

impl Whole<'_> {
    pub(super) fn header(&self) -> VnetHeader {
        self.header
    }

    pub(super) fn parts(&self) -> ArrayVec<IoSlice<'_>, MOST_PARTS> {
        [self.headers.as_slice()].into_iter().chain(self.payloads.iter().copied()).map(IoSlice::new).collect()
    }
}

/// Octets of the IP header in front of a datagram that can be put together with others: a whole one, with a payload.
fn datagram(packet: &[u8]) -> Option<usize> {
    let first = *packet.first()?;
    let (ip, total, next) = match first >> 4 {
        4 => {
            let fixed = packet.first_chunk::<{ ipv4::HEADER_LEN }>()?;
            let unfragmented = fixed[6] & 0xbf == 0 && fixed[7] == 0;
            let total = usize::from(u16::from_be_bytes([fixed[2], fixed[3]]));
            (ipv4::HEADER_LEN, Some(total).filter(|_| first == 0x45 && unfragmented)?, fixed[9])
        }
        6 => {
            let fixed = packet.first_chunk::<{ ipv6::HEADER_LEN }>()?;
            let payload = usize::from(u16::from_be_bytes([fixed[4], fixed[5]]));
            (ipv6::HEADER_LEN, ipv6::HEADER_LEN + payload, fixed[ipv6::NEXT_HEADER])
        }
        _ => return None,
    };
    let udp = packet.get(ip..)?.first_chunk::<UDP_HEADER>()?;
    let length = usize::from(u16::from_be_bytes([udp[4], udp[5]]));
    let whole = next == protocol::UDP && total == packet.len() && ip + length == total && length > UDP_HEADER;
    whole.then_some(ip)
}

/// Have two datagrams of one version the same addresses and ports?
fn is_one_flow(a: &[u8], b: &[u8]) -> bool {
    let same = |from: usize, to: usize| a.get(from..to) == b.get(from..to);
    match a.first().map(|first| first >> 4) {
        Some(4) => same(ipv4::SOURCE, ipv4::HEADER_LEN + 4),
        _ => same(ipv6::SOURCE, ipv6::HEADER_LEN + 4),
    }
}

/// Have two datagrams the same headers, but for what is each one's own?
fn alike(a: &[u8], b: &[u8]) -> bool {
    let same = |from: usize, to: usize| a.get(from..to) == b.get(from..to);
    match a.first().map(|first| first >> 4) {
        Some(4) => same(0, 2) && same(6, 10) && same(12, 24),
        _ => same(0, 4) && same(6, 44),
    }
}

/// Are the checksums of a datagram right, or in UDP of IPv4 not there?
fn is_intact(packet: &[u8], ip: usize, version4: bool) -> bool {
    let (header, udp) = packet.split_at(ip);
    if version4 && ipv4::checksum(header) != 0 {
        return false;
    }
    (version4 && udp[6..8] == [0, 0])
        || ipv4::transport_checksum(addresses(packet, version4), protocol::UDP, udp) == 0 && udp[6..8] != [0, 0]
}
