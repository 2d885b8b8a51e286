//! Protected packets to the network, a burst to a system call.

use std::array;
use std::io::IoSlice;
use std::net::{IpAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::BorrowedFd;
use std::slice;

use arrayvec::ArrayVec;
use rustix::io::Errno;
use rustix::net::{MMsgHdr, SendAncillaryBuffer, SendFlags, SocketAddrAny, sendmmsg};

use super::sockets::Sockets;
use crate::burst::BURST;
use crate::packet;

/// A packet, and where it goes.
struct Outgoing<'p> {
    to: SocketAddrAny,
    part: IoSlice<'p>,
}

/// Packets that the network did not take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Unsent {
    /// The interface's MTU is smaller.
    pub(super) too_big: usize,
    /// For another reason.
    pub(super) failed: usize,
}

/// Sends up to a burst of packets whose IP headers are as they shall be on the wire; the kernel fills in an IPv4
/// identification of zero. Those of one IP version keep their order.
pub(super) fn send<'p>(sockets: &Sockets, packets: impl Iterator<Item = &'p [u8]>) -> Unsent {
    let (mut v4, mut v6) = (ArrayVec::<_, BURST>::new(), ArrayVec::<_, BURST>::new());
    let mut unsent = Unsent::default();
    for packet in packets.take(BURST) {
        let part = IoSlice::new(packet);
        match packet::destination(packet) {
            Some(IpAddr::V4(ip)) => v4.push(Outgoing { to: SocketAddrV4::new(ip, 0).into(), part }),
            Some(IpAddr::V6(ip)) => {
                v6.push(Outgoing { to: SocketAddrV6::new(ip, 0, 0, sockets.index()).into(), part });
            }
            None => unsent.failed += 1,
        }
    }
    send_all(sockets.v4(), &v4, &mut unsent);
    match sockets.v6() {
        Some(socket) => send_all(socket, &v6, &mut unsent),
        None => unsent.failed += v6.len(),
    }
    unsent
}

/// Sends through one socket, beginning anew behind each packet that is not taken.
fn send_all(socket: BorrowedFd<'_>, packets: &[Outgoing<'_>], unsent: &mut Unsent) {
    let mut controls: [_; BURST] = array::from_fn(|_| SendAncillaryBuffer::default());
    let mut messages: ArrayVec<_, BURST> = packets
        .iter()
        .zip(&mut controls)
        .map(|(packet, control)| MMsgHdr::new_with_addr(&packet.to, slice::from_ref(&packet.part), control))
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
