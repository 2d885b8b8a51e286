//! What tests and fuzzers need of the inside: both sides of a TUN device without one.

use super::join::{Flow, Joined};
use super::split::Split;
use super::vnet::{HEADER_LEN, VnetHeader};
use crate::frame::Frame;

const CAPACITY: usize = 65_575;

/// What the host has of packets that are written as one burst: what was put together it cuts up again.
pub(crate) fn written(packets: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let joined = Joined::new(packets.iter().map(Vec::as_slice));
    joined.flows().flat_map(|flow| taken(&flow)).collect()
}

/// The packets in what the host gives behind such a header. `None` if it is not sound.
pub(crate) fn read(header: [u8; HEADER_LEN], octets: &[u8]) -> Option<Vec<Vec<u8>>> {
    let header = VnetHeader::decode(&header);
    if header.is_segmented() {
        return cut(octets, header);
    }
    let mut packet = octets.to_vec();
    header.complete(&mut packet).then(|| vec![packet])
}

fn taken(flow: &Flow<'_, '_>) -> Vec<Vec<u8>> {
    let Some(whole) = flow.whole() else { return flow.packets().map(<[u8]>::to_vec).collect() };
    let octets: Vec<u8> = whole.parts().iter().flat_map(|part| part.iter().copied()).collect();
    read(whole.header().encode(), &octets).expect("what is put together can be taken apart")
}

/// Cuts up several packets in one.
pub(super) fn cut(octets: &[u8], header: VnetHeader) -> Option<Vec<Vec<u8>>> {
    let mut whole = Frame::new(CAPACITY);
    whole.space().get_mut(..octets.len())?.copy_from_slice(octets);
    whole.filled(octets.len());
    let mut split = Split::new(whole, header).ok()?;
    let mut packets = Vec::new();
    let mut frame = Frame::new(CAPACITY);
    while !split.is_done() {
        split.next(&mut frame);
        packets.push(frame.packet().to_vec());
    }
    Some(packets)
}
