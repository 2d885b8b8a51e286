//! The engine's way without cryptography: headers and room for what ESP adds, and nothing else.

use dataplane::engine::userspace::Passage;
use dataplane::packet::ipv4;
use dataplane::{DropReason, Fate, Frame, IvSource, Sealed};

const IPV4: usize = 20;
const ESP: u8 = 50;

/// Puts an IPv4 header in front and as many octets between and behind as ESP in a tunnel would, so that packets on the wire
/// are as long. Nothing is written into them, no SA is looked up, no number counted.
pub(super) struct Bare {
    /// SPI, sequence number and IV.
    pub(super) front: usize,
    /// To a multiple of which the cipher fills up.
    pub(super) block: usize,
    pub(super) icv: usize,
}

impl Bare {
    fn wrap(&self, frame: &mut Frame) -> Fate<Sealed> {
        let packet = frame.packet();
        let header = *packet.first_chunk::<IPV4>().filter(|h| h[0] == 0x45).ok_or(DropReason::OutHdrError)?;
        let len = packet.len();
        let back = (len + 2).next_multiple_of(self.block) - len + self.icv;
        let packet = frame.wrap(len, IPV4 + self.front, back).ok_or(DropReason::OutError)?;
        let total = u16::try_from(packet.len()).map_err(|_| DropReason::OutError)?;
        packet[..IPV4].copy_from_slice(&header);
        packet[2..4].copy_from_slice(&total.to_be_bytes());
        packet[9] = ESP;
        packet[10..12].fill(0);
        let sum = ipv4::checksum(&packet[..IPV4]);
        packet[10..12].copy_from_slice(&sum.to_be_bytes());
        Ok(Sealed { spi: 0, sequence: 0 })
    }

    fn unwrap(&self, frame: &mut Frame) -> Fate<u32> {
        let inner = frame.packet().get(IPV4 + self.front..).and_then(|inner| inner.first_chunk::<4>());
        let [_, _, high, low] = *inner.ok_or(DropReason::InHdrError)?;
        frame.narrow(IPV4 + self.front, usize::from(u16::from_be_bytes([high, low])));
        Ok(0)
    }
}

impl Passage for Bare {
    fn outbound(&self, frames: &mut [Frame], _: &mut IvSource, fates: &mut Vec<Fate<Sealed>>) {
        fates.clear();
        fates.extend(frames.iter_mut().map(|frame| self.wrap(frame)));
    }

    fn inbound(&self, frames: &mut [Frame], fates: &mut Vec<Fate<u32>>) {
        fates.clear();
        fates.extend(frames.iter_mut().map(|frame| self.unwrap(frame)));
    }

    fn count_drops(&self, _: DropReason, _: usize) {}
}
