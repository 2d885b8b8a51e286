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

/// Sends up to a burst of packets whose IP headers are as they shall be on the wire; the kernel fills in an IPv4
/// identification of zero. Those of one IP version keep their order. Gives how many the network did not take.
pub(super) fn send<'p>(sockets: &Sockets, packets: impl Iterator<Item = &'p [u8]>) -> usize {
    let (mut v4, mut v6) = (ArrayVec::<_, BURST>::new(), ArrayVec::<_, BURST>::new());
    let mut failed = 0;
    for packet in packets.take(BURST) {
        let part = IoSlice::new(packet);
        match packet::destination(packet) {
            Some(IpAddr::V4(ip)) => v4.push(Outgoing { to: SocketAddrV4::new(ip, 0).into(), part }),
            Some(IpAddr::V6(ip)) => {
                v6.push(Outgoing { to: SocketAddrV6::new(ip, 0, 0, sockets.index()).into(), part });
            }
            None => failed += 1,
        }
    }
    failed += send_all(sockets.v4(), &v4);
    failed += sockets.v6().map_or(v6.len(), |socket| send_all(socket, &v6));
    failed
}

/// Sends through one socket, beginning anew behind each packet that is not taken.
fn send_all(socket: BorrowedFd<'_>, packets: &[Outgoing<'_>]) -> usize {
    let mut controls: [_; BURST] = array::from_fn(|_| SendAncillaryBuffer::default());
    let mut messages: ArrayVec<_, BURST> = packets
        .iter()
        .zip(&mut controls)
        .map(|(packet, control)| MMsgHdr::new_with_addr(&packet.to, slice::from_ref(&packet.part), control))
        .collect();
    let (mut at, mut failed) = (0, 0);
    while at < messages.len() {
        // An error is the first packet's; one of a later packet ends the call, and shows when that packet comes first.
        match sendmmsg(socket, &mut messages[at..], SendFlags::DONTWAIT) {
            Ok(sent) => at += sent,
            Err(Errno::INTR) => {}
            Err(error) => {
                tracing::debug!(%error, to = ?packets[at].to, "not sent");
                failed += 1;
                at += 1;
            }
        }
    }
    failed
}
