//! Queues of a TUN device, which give and take one packet to a system call, or with segmentation offloads several packets of
//! one flow.
//!
//! With offloads each read and write begins with a [`VnetHeader`]. The host then leaves the cutting up of what an
//! application sends at once (UDP_SEGMENT, TCP) to us, and the last step of checksums; and it takes datagrams of a flow
//! that are put together, as a network card with receive offload would give them.

use std::io::{self, IoSlice, IoSliceMut};
use std::num::NonZeroU8;
use std::os::fd::{AsFd, BorrowedFd};

use arrayvec::ArrayVec;
use nix::net::if_::if_nametoindex;
use rustix::io::{readv, writev};
use tun_rs::{DeviceBuilder, SyncDevice};

use super::QUEUED;
use crate::frame::Frame;

#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod join;
mod split;
mod vnet;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;

use join::Joined;
use split::Split;
use vnet::{HEADER_LEN, VnetHeader};

/// One queue of a device.
pub(super) struct Tun {
    device: SyncDevice,
    offloads: bool,
}

/// Makes the device, and gives its queues, of which there is one at least.
pub(super) fn open(name: &str, mtu: u16, queues: NonZeroU8, offloads: bool) -> io::Result<Vec<Tun>> {
    let several = queues > NonZeroU8::MIN;
    // The kernel lets one process have a device with one queue. To one with several it would add ours, and divide the
    // packets between us and whoever made it.
    if several && if_nametoindex(name).is_ok() {
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, format!("there is a device {name}")));
    }
    let first = DeviceBuilder::new()
        .name(name)
        .mtu(mtu)
        .with(|device| {
            device.multi_queue(several).offload(offloads).tx_queue_len(QUEUED);
        })
        .build_sync()?;
    let mut devices = (1..queues.get()).map(|_| first.try_clone()).collect::<io::Result<Vec<_>>>()?;
    devices.push(first);
    devices.into_iter().map(|device| device.set_nonblocking(true).map(|()| Tun { device, offloads })).collect()
}

impl AsFd for Tun {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.device.as_fd()
    }
}

impl Tun {
    /// Writes one packet.
    pub(super) fn write(&self, packet: &[u8]) -> io::Result<()> {
        if self.offloads {
            self.write_parts(VnetHeader::default(), &[IoSlice::new(packet)])
        } else {
            self.device.send(packet).map(drop)
        }
    }

    /// Writes packets, those of a flow together where it can be. Gives how many were not taken.
    pub(super) fn write_burst<'p>(&self, packets: impl Iterator<Item = &'p [u8]>) -> usize {
        if !self.offloads || !self.device.udp_gso() {
            return packets.filter(|packet| self.write(packet).is_err()).count();
        }
        let joined = Joined::new(packets);
        let mut refused = 0;
        for flow in joined.flows() {
            match flow.whole() {
                Some(whole) if self.write_parts(whole.header(), &whole.parts()).is_ok() => {}
                // Each by itself, also where the kernel does not want them together.
                Some(_) | None => refused += flow.packets().filter(|packet| self.write(packet).is_err()).count(),
            }
        }
        refused
    }

    fn write_parts(&self, header: VnetHeader, parts: &[IoSlice<'_>]) -> io::Result<()> {
        let header = header.encode();
        let all: ArrayVec<_, { 1 + join::MOST_PARTS }> =
            [IoSlice::new(&header)].into_iter().chain(parts.iter().copied()).collect();
        writev(self, &all)?;
        Ok(())
    }

    /// Reads one packet, or several in one, behind its header.
    fn read(&self, frame: &mut Frame) -> io::Result<VnetHeader> {
        let mut header = [0; HEADER_LEN];
        let read = readv(self, &mut [IoSliceMut::new(&mut header), IoSliceMut::new(frame.space())])?;
        frame.filled(read.saturating_sub(HEADER_LEN));
        Ok(VnetHeader::decode(&header))
    }
}

/// Reads a queue.
pub(super) struct Reader<'t> {
    tun: &'t Tun,
    /// Several packets in one, of which some are still to be given.
    split: Option<Split>,
    spare: Option<Frame>,
}

/// What a read brought.
pub(super) struct Gathered {
    /// Packets, in as many frames from the front.
    pub(super) packets: usize,
    /// Others, which were not sound.
    pub(super) unusable: usize,
    /// What ended it, if not that all frames are full.
    pub(super) end: Option<io::Error>,
}

impl<'t> Reader<'t> {
    /// With a frame as large as those that will be filled.
    pub(super) fn new(tun: &'t Tun, spare: Frame) -> Self {
        Self { tun, split: None, spare: Some(spare) }
    }

    /// Is there something to be given though the queue may be empty?
    pub(super) fn has_more(&self) -> bool {
        self.split.is_some()
    }

    /// Fills frames from the front until all are full or there is nothing to read.
    pub(super) fn gather(&mut self, frames: &mut [Frame]) -> Gathered {
        let (mut packets, mut unusable) = (0, 0);
        while let Some(frame) = frames.get_mut(packets) {
            match self.next(frame) {
                Ok(true) => packets += 1,
                Ok(false) => unusable += 1,
                Err(error) => return Gathered { packets, unusable, end: Some(error) },
            }
        }
        Gathered { packets, unusable, end: None }
    }

    /// Fills a frame. False if what was read is of no use.
    fn next(&mut self, frame: &mut Frame) -> io::Result<bool> {
        if let Some(split) = &mut self.split {
            split.next(frame);
            if split.is_done() {
                self.spare = self.split.take().map(Split::into_frame);
            }
            return Ok(true);
        }
        if !self.tun.offloads {
            let len = self.tun.device.recv(frame.space())?;
            frame.filled(len);
            return Ok(true);
        }
        let header = self.tun.read(frame)?;
        if !header.is_segmented() {
            return Ok(header.complete(frame.packet_mut()));
        }
        let Some(mut whole) = self.spare.take() else { return Ok(false) };
        std::mem::swap(&mut whole, frame);
        match Split::new(whole, header) {
            Ok(mut split) => {
                split.next(frame);
                if split.is_done() {
                    self.spare = Some(split.into_frame())
                } else {
                    self.split = Some(split)
                }
                Ok(true)
            }
            Err(whole) => {
                self.spare = Some(whole);
                Ok(false)
            }
        }
    }
}
