//! Protected packets to the network, a burst to a system call.

use std::array;
use std::io::IoSlice;
use std::net::{IpAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::BorrowedFd;

use arrayvec::ArrayVec;
use rustix::io::Errno;
use rustix::net::{MMsgHdr, SendAncillaryBuffer, SendFlags, SocketAddrAny, sendmmsg};

use super::link::Link;
use super::sockets::{Raw, Sockets};
use crate::burst::BURST;
use crate::packet;

/// A packet in one or two parts, and where it goes; frames say that themselves.
struct Outgoing<'p, const PARTS: usize> {
    to: Option<SocketAddrAny>,
    parts: [IoSlice<'p>; PARTS],
}

/// Packets that the network did not take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Unsent {
    /// The interface's MTU is smaller.
    pub(super) too_big: usize,
    /// For another reason.
    pub(super) failed: usize,
}

/// Sends up to a burst of packets whose IP headers are as they shall be on the wire, but for an IPv4 identification that
/// is missing: to groups as frames where the link allows it, to others through raw sockets. Packets that go the same way
/// keep their order.
pub(super) fn send<'p>(sockets: &Sockets, packets: impl Iterator<Item = &'p [u8]>) -> Unsent {
    let (mut frames, mut v4, mut v6) =
        (ArrayVec::<_, BURST>::new(), ArrayVec::<_, BURST>::new(), ArrayVec::<_, BURST>::new());
    let mut unsent = Unsent::default();
    for packet in packets.take(BURST) {
        let Some(destination) = packet::destination(packet) else {
            unsent.failed += 1;
            continue;
        };
        if let Some(frame) = sockets.link().and_then(|link| link.frame(packet, destination)) {
            frames.push(frame);
            continue;
        }
        let parts = [IoSlice::new(packet)];
        match destination {
            IpAddr::V4(ip) => v4.push(Outgoing { to: Some(SocketAddrV4::new(ip, 0).into()), parts }),
            IpAddr::V6(ip) => {
                v6.push(Outgoing { to: Some(SocketAddrV6::new(ip, 0, 0, sockets.index()).into()), parts });
            }
        }
    }
    let frames: ArrayVec<_, BURST> = frames.iter().map(|frame| Outgoing { to: None, parts: frame.parts() }).collect();
    send_all(sockets.link().map(Link::socket), &frames, &mut unsent);
    let raw = sockets.raw().first();
    send_all(raw.map(Raw::v4), &v4, &mut unsent);
    send_all(raw.and_then(Raw::v6), &v6, &mut unsent);
    unsent
}

/// Sends through one socket, if there is one, beginning anew behind each packet that is not taken.
fn send_all<const PARTS: usize>(socket: Option<BorrowedFd<'_>>, packets: &[Outgoing<'_, PARTS>], unsent: &mut Unsent) {
    if packets.is_empty() {
        return;
    }
    let Some(socket) = socket else {
        unsent.failed += packets.len();
        return;
    };
    let mut controls: [_; BURST] = array::from_fn(|_| SendAncillaryBuffer::default());
    let mut messages: ArrayVec<_, BURST> = packets
        .iter()
        .zip(&mut controls)
        .map(|(packet, control)| match &packet.to {
            Some(to) => MMsgHdr::new_with_addr(to, &packet.parts, control),
            None => MMsgHdr::new(&packet.parts, control),
        })
        .collect();
    let mut at = 0;
    while at < messages.len() {
        // An error is the first packet's; one of a later packet ends the call, and shows when that packet comes first.
        match sendmmsg(socket, &mut messages[at..], SendFlags::DONTWAIT) {
            Ok(sent) => at += sent,
            Err(Errno::INTR) => {}
            Err(error) => {
                tracing::debug!(%error, to = ?packets[at].to, "not sent");
                if error == Errno::MSGSIZE {
                    unsent.too_big += 1;
                } else {
                    unsent.failed += 1;
                }
                at += 1;
            }
        }
    }
}
