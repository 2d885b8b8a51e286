//! The header in front of packets with offloads (virtio 1.2 section 5.1.6; of a TUN device, in the host's byte order).
//!
//! ```text
//! | flags (1) | kind (1) | header length (2) | segment size (2) | checksum from (2) | checksum at (2) |
//! ```

use crate::packet::ipv4;

pub(super) const HEADER_LEN: usize = 10;

/// The checksum field holds the sum of the pseudo-header; the rest is to be added.
const NEEDS_CHECKSUM: u8 = 1;

/// What is segmented.
pub(super) const TCP4: u8 = 1;
pub(super) const TCP6: u8 = 4;
pub(super) const UDP: u8 = 5;
/// A flag about TCP's congestion notification.
pub(super) const ECN: u8 = 0x80;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct VnetHeader {
    flags: u8,
    kind: u8,
    header_len: u16,
    pub(super) segment: u16,
    checksum_from: u16,
    checksum_at: u16,
}

impl VnetHeader {
    /// Of datagrams that are put together: octets of their headers, and of the payload of each.
    pub(super) fn of_datagrams(ip: u16, udp: u16, segment: u16) -> Self {
        Self {
            flags: NEEDS_CHECKSUM,
            kind: UDP,
            header_len: ip + udp,
            segment,
            checksum_from: ip,
            checksum_at: CHECKSUM_IN_UDP,
        }
    }

    pub(super) fn decode(octets: &[u8; HEADER_LEN]) -> Self {
        let [flags, kind, a, b, c, d, e, f, g, h] = *octets;
        let number = |first, second| u16::from_ne_bytes([first, second]);
        Self {
            flags,
            kind,
            header_len: number(a, b),
            segment: number(c, d),
            checksum_from: number(e, f),
            checksum_at: number(g, h),
        }
    }

    pub(super) fn encode(self) -> [u8; HEADER_LEN] {
        let mut octets = [self.flags, self.kind, 0, 0, 0, 0, 0, 0, 0, 0];
        let numbers = [self.header_len, self.segment, self.checksum_from, self.checksum_at];
        for (field, number) in octets[2..].as_chunks_mut::<2>().0.iter_mut().zip(numbers) {
            *field = number.to_ne_bytes();
        }
        octets
    }

    pub(super) fn is_segmented(self) -> bool {
        self.kind != 0
    }

    /// What is segmented, and where its header begins.
    pub(super) fn segmented(self) -> Option<(u8, usize)> {
        let sound = self.flags & NEEDS_CHECKSUM != 0 && self.segment > 0;
        sound.then_some((self.kind & !ECN, usize::from(self.checksum_from)))
    }

    /// Completes the checksum of a packet. False, if there is no room for one where the header says.
    pub(super) fn complete(self, packet: &mut [u8]) -> bool {
        if self.flags & NEEDS_CHECKSUM == 0 {
            return true;
        }
        let at = usize::from(self.checksum_at);
        let Some(covered) = packet.get_mut(usize::from(self.checksum_from)..) else { return false };
        let sum = ipv4::checksum(covered);
        let Some(field) = covered.get_mut(at..at + 2) else { return false };
        field.copy_from_slice(&for_field(sum, self.checksum_at).to_be_bytes());
        true
    }
}

pub(super) const CHECKSUM_IN_UDP: u16 = 6;
pub(super) const CHECKSUM_IN_TCP: u16 = 16;

/// A sum as its field bears it: in UDP zero stands for none (RFC 768).
pub(super) fn for_field(sum: u16, checksum_at: u16) -> u16 {
    if sum == 0 && checksum_at == CHECKSUM_IN_UDP { u16::MAX } else { sum }
}
