//! Protected packets from the network, a burst to a system call.

use std::array;
use std::io::{self, IoSliceMut};
use std::os::fd::{AsRawFd, BorrowedFd};

use arrayvec::ArrayVec;
use nix::cmsg_space;
use nix::libc::{c_int, in6_pktinfo};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, MultiHeaders, RecvMsg, SockaddrIn6, SockaddrLike, recvmmsg};

use super::link;
use crate::burst::BURST;
use crate::frame::Frame;
use crate::packet::{self, ipv6, protocol};

/// What a read brought.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Gathered {
    /// Packets, whole, in as many frames from the front.
    pub(super) packets: usize,
    /// Others, which did not fit or of which it is not known from where they came.
    pub(super) unusable: usize,
    /// Others, which the host's IP stack would not have handed on: lengths or checksum are wrong.
    pub(super) unsound: usize,
}

/// Reads a burst of packets from a socket that does not block.
pub(super) trait Receive {
    /// Fills frames from the front.
    fn receive(&mut self, socket: BorrowedFd<'_>, frames: &mut [Frame]) -> io::Result<Gathered>;
}

/// Reads IPv4 packets; the kernel gives their headers too.
pub(super) struct ReceiveV4(MultiHeaders<()>);

impl ReceiveV4 {
    pub(super) fn new() -> Self {
        Self(MultiHeaders::preallocate(BURST, None))
    }
}

impl Receive for ReceiveV4 {
    fn receive(&mut self, socket: BorrowedFd<'_>, frames: &mut [Frame]) -> io::Result<Gathered> {
        let read = read(socket, &mut self.0, frames, 0, |message| whole(message).then_some(message.bytes))?;
        Ok(settle(frames, read, Frame::filled))
    }
}

/// Reads IPv6 packets. The kernel keeps their headers and tells addresses, hop limits and traffic classes.
pub(super) struct ReceiveV6(MultiHeaders<SockaddrIn6>);

impl ReceiveV6 {
    pub(super) fn new() -> Self {
        Self(MultiHeaders::preallocate(BURST, Some(cmsg_space!(in6_pktinfo, c_int, c_int))))
    }
}

impl Receive for ReceiveV6 {
    fn receive(&mut self, socket: BorrowedFd<'_>, frames: &mut [Frame]) -> io::Result<Gathered> {
        let read = read(socket, &mut self.0, frames, ipv6::HEADER_LEN, |message| {
            Some((header(message)?, message.bytes)).filter(|_| whole(message))
        })?;
        let gathered = settle(frames, read, |frame, (header, len)| {
            frame.filled(ipv6::HEADER_LEN + len);
            ipv6::write_received(frame.packet_mut(), header, protocol::ESP);
        });
        if gathered.unusable > 0 {
            // The kernel shortens the room for control messages to what it has used, and `recvmmsg` leaves it so: a
            // message that came with fewer of them would spoil its place for all that follow.
            *self = Self::new();
        }
        Ok(gathered)
    }
}

/// Reads up to a burst, each packet from `offset` of its frame's space on, and gives what `look` sees in each.
fn read<S: SockaddrLike + Copy, T>(
    socket: BorrowedFd<'_>,
    headers: &mut MultiHeaders<S>,
    frames: &mut [Frame],
    offset: usize,
    look: impl Fn(&RecvMsg<'_, '_, S>) -> Option<T>,
) -> io::Result<ArrayVec<Option<T>, BURST>> {
    let places = frames.len().min(BURST);
    let mut spaces = frames.iter_mut().map(|frame| &mut frame.space()[offset..]);
    let mut parts: [_; BURST] = array::from_fn(|_| [IoSliceMut::new(spaces.next().unwrap_or_default())]);
    let parts = parts.iter_mut().take(places);
    let messages = recvmmsg(socket.as_raw_fd(), headers, parts, MsgFlags::MSG_DONTWAIT, None)?;
    Ok(messages.map(|message| look(&message)).collect())
}

/// Brings the usable packets to the front, where `fill` says what is in their frames.
fn settle<T>(frames: &mut [Frame], read: ArrayVec<Option<T>, BURST>, mut fill: impl FnMut(&mut Frame, T)) -> Gathered {
    let mut gathered = Gathered::default();
    for (at, seen) in read.into_iter().enumerate() {
        match seen {
            Some(seen) => {
                fill(&mut frames[at], seen);
                frames.swap(gathered.packets, at);
                gathered.packets += 1;
            }
            None => gathered.unusable += 1,
        }
    }
    gathered
}

fn whole<S>(message: &RecvMsg<'_, '_, S>) -> bool {
    !message.flags.intersects(MsgFlags::MSG_TRUNC | MsgFlags::MSG_CTRUNC)
}

/// Reads frames from the link, and gives the packets in them.
pub(super) struct ReceiveLink(ReceiveV4);

impl ReceiveLink {
    pub(super) fn new() -> Self {
        Self(ReceiveV4::new())
    }
}

impl Receive for ReceiveLink {
    fn receive(&mut self, socket: BorrowedFd<'_>, frames: &mut [Frame]) -> io::Result<Gathered> {
        // Headers come along here, too: the frame's, in front of the packet's.
        let mut gathered = self.0.receive(socket, frames)?;
        let mut sound = 0;
        for at in 0..gathered.packets {
            let packet = frames[at].packet().get(link::HEADER..).unwrap_or_default();
            if let Some(len) = packet::arrived(packet) {
                frames[at].narrow(link::HEADER, len);
                frames.swap(sound, at);
                sound += 1;
            }
        }
        gathered.unsound = gathered.packets - sound;
        gathered.packets = sound;
        Ok(gathered)
    }
}

/// What the header of an IPv6 packet said, if the kernel tells all of it.
fn header(message: &RecvMsg<'_, '_, SockaddrIn6>) -> Option<ipv6::Received> {
    let (mut destination, mut hop_limit, mut class) = (None, None, None);
    for part in message.cmsgs().ok()? {
        if let ControlMessageOwned::Ipv6PacketInfo(info) = part {
            destination = Some(info.ipi6_addr.s6_addr.into());
        } else if let ControlMessageOwned::Ipv6HopLimit(limit) = part {
            hop_limit = u8::try_from(limit).ok();
        } else if let ControlMessageOwned::Ipv6TClass(value) = part {
            class = u8::try_from(value).ok();
        }
    }
    let source = message.address?.ip();
    Some(ipv6::Received { source, destination: destination?, class: class?, hop_limit: hop_limit? })
}
