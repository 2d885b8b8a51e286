//! Several packets in one, as the host gives them: cut up as a network card would.

use super::vnet::{self, VnetHeader};
use crate::frame::Frame;
use crate::packet::{ipv4, ipv6, protocol};

/// Final segment's flags of TCP: FIN and PSH; and the first one's: CWR.
const LAST_ONLY: u8 = 0x09;
const FIRST_ONLY: u8 = 0x80;
const TCP_SEQUENCE: usize = 4;
const TCP_OFFSET: usize = 12;
const TCP_FLAGS: usize = 13;
const TCP_HEADER: usize = 20;
const UDP_LENGTH: usize = 4;
const UDP_HEADER: usize = 8;

/// A large packet of which packets are being made.
pub(super) struct Split {
    whole: Frame,
    /// Octets of the IP header, and of it and the next.
    ip: usize,
    headers: usize,
    version4: bool,
    tcp: bool,
    segment: usize,
    /// Where the next payload begins, and how many there were.
    at: usize,
    number: u16,
}

impl Split {
    /// Gives the frame back if what the headers say cannot be.
    pub(super) fn new(whole: Frame, header: VnetHeader) -> Result<Self, Frame> {
        match shape(whole.packet(), header) {
            Some((ip, headers, version4, tcp)) => Ok(Self {
                whole,
                ip,
                headers,
                version4,
                tcp,
                segment: usize::from(header.segment),
                at: headers,
                number: 0,
            }),
            None => Err(whole),
        }
    }

    pub(super) fn is_done(&self) -> bool {
        self.at >= self.whole.packet().len()
    }

    pub(super) fn into_frame(self) -> Frame {
        self.whole
    }

    /// Makes the next packet, which is empty when there is none left or it does not fit.
    pub(super) fn next(&mut self, frame: &mut Frame) {
        let whole = self.whole.packet();
        let from = self.at.min(whole.len());
        let to = (from + self.segment).min(whole.len());
        let len = self.headers + (to - from);
        self.at = to;
        let number = self.number;
        self.number = number.wrapping_add(1);
        let (first, last) = (number == 0, to == whole.len());
        let Some(space) = frame.space().get_mut(..len) else { return frame.filled(0) };
        space[..self.headers].copy_from_slice(&whole[..self.headers]);
        space[self.headers..].copy_from_slice(&whole[from..to]);
        let upper = self.ip;
        let protocol = if self.tcp { protocol::TCP } else { protocol::UDP };
        if self.version4 {
            ipv4::count_on(space, number);
            ipv4::rewrite(space, self.ip, protocol);
        } else {
            ipv6::rewrite(space, ipv6::NEXT_HEADER, space[ipv6::NEXT_HEADER]);
        }
        if self.tcp {
            let done = u32::try_from(from - self.headers).unwrap_or(u32::MAX);
            let sequence = upper + TCP_SEQUENCE;
            if let Some(field) = space.get_mut(sequence..).and_then(<[u8]>::first_chunk_mut::<4>) {
                *field = u32::from_be_bytes(*field).wrapping_add(done).to_be_bytes();
            }
            let flags = &mut space[upper + TCP_FLAGS];
            *flags &= if last { u8::MAX } else { !LAST_ONLY };
            *flags &= if first { u8::MAX } else { !FIRST_ONLY };
        } else {
            let length = u16::try_from(len - upper).unwrap_or(u16::MAX);
            space[upper + UDP_LENGTH..upper + UDP_LENGTH + 2].copy_from_slice(&length.to_be_bytes());
        }
        let checksum_at = if self.tcp { vnet::CHECKSUM_IN_TCP } else { vnet::CHECKSUM_IN_UDP };
        let field = upper + usize::from(checksum_at);
        space[field..field + 2].fill(0);
        let sum = ipv4::transport_checksum(addresses(space, self.version4), protocol, &space[upper..]);
        space[field..field + 2].copy_from_slice(&vnet::for_field(sum, checksum_at).to_be_bytes());
        frame.filled(len);
    }
}

/// Source and destination.
pub(super) fn addresses(packet: &[u8], version4: bool) -> &[u8] {
    if version4 { &packet[12..20] } else { &packet[8..40] }
}

/// Octets of the IP header, and of it and the next; is it IPv4, and TCP?
fn shape(packet: &[u8], header: VnetHeader) -> Option<(usize, usize, bool, bool)> {
    let (kind, ip) = header.segmented()?;
    let version4 = packet.first()? >> 4 == 4;
    let least = if version4 { ipv4::HEADER_LEN } else { ipv6::HEADER_LEN };
    let tcp = match (kind, version4) {
        (vnet::TCP4, true) | (vnet::TCP6, false) => true,
        (vnet::UDP, _) => false,
        _ => return None,
    };
    let sound = if version4 { usize::from(packet[0] & 0x0f) * 4 == ip } else { ip >= least };
    let upper = packet.get(ip..)?;
    let own = if tcp { usize::from(upper.get(TCP_OFFSET)? >> 4) * 4 } else { UDP_HEADER };
    let least_own = if tcp { TCP_HEADER } else { UDP_HEADER };
    (sound && ip >= least && own >= least_own && upper.len() > own).then_some((ip, ip + own, version4, tcp))
}
