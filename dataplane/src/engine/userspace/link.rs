//! What goes to multicast groups, as whole Ethernet frames past the host's IP stack.
//!
//! ```text
//! | group's address (6) | interface's address (6) | type (2) | IP packet
//! ```
//!
//! This takes little more than half of the processor time that raw sockets take. A group's Ethernet address follows from
//! its IP address (RFC 1112 section 6.4, RFC 2464 section 7), so nothing has to be asked of anybody; other destinations,
//! and other links, are the raw sockets' business. Traffic control and packet captures see the frames; packet filters of
//! the IP stack do not.
//!
//! The same socket can take packets to groups from the link: the kernel shows nobody what he sends himself. So what is
//! sent costs no copy where there is one socket that takes; with several, each of the others is offered one.

use std::io::{self, IoSlice};
use std::iter;
use std::net::IpAddr;
use std::num::NonZeroU8;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::atomic::{AtomicU16, Ordering};

use arrayvec::ArrayVec;
use nix::ifaddrs::getifaddrs;
use nix::libc::{ARPHRD_ETHER, ETH_P_ALL};
use nix::sys::socket::{LinkAddr, bind};
use socket2::{Domain, Protocol, Socket, Type};

use super::{early, sockets};
use crate::packet::ipv4;

const ADDRESS: usize = 6;
/// Octets of a frame in front of the packet.
pub(super) const HEADER: usize = 14;
/// A frame's own octets and those of an IPv4 header that stand in place of the packet's.
const HEAD: usize = HEADER + ipv4::HEADER_LEN;

/// An Ethernet interface.
pub(super) struct Link {
    socket: Socket,
    source: [u8; ADDRESS],
    identification: AtomicU16,
}

impl Link {
    /// `None` if the interface is no Ethernet. Its address is that of now.
    pub(super) fn open(interface: &str) -> io::Result<Option<Self>> {
        // Of no protocol: it receives nothing.
        Self::of_protocol(0, interface)
    }

    /// One that can receive too, and as many more of its kind as there are other shares.
    pub(super) fn with_taps(interface: &str, receivers: NonZeroU8) -> io::Result<Option<(Self, Vec<Socket>)>> {
        let all = i32::from(u16::try_from(ETH_P_ALL).unwrap_or(0).to_be());
        let Some(link) = Self::of_protocol(all, interface)? else { return Ok(None) };
        let others = (1..receivers.get()).map(|_| Self::of_protocol(all, interface));
        let others: Option<Vec<Self>> = others.collect::<io::Result<_>>()?;
        let Some(others) = others else { return Ok(None) };
        let taps = iter::once(link.socket.try_clone()).chain(others.into_iter().map(|other| Ok(other.socket)));
        let taps = taps.collect::<io::Result<_>>()?;
        Ok(Some((link, taps)))
    }

    fn of_protocol(protocol: i32, interface: &str) -> io::Result<Option<Self>> {
        let of_link = |address: &LinkAddr| address.hatype() == ARPHRD_ETHER && address.halen() == ADDRESS;
        let link = getifaddrs()?
            .filter(|entry| entry.interface_name == interface)
            .find_map(|entry| entry.address?.as_link_addr().copied().filter(of_link));
        let Some((link, source)) = link.and_then(|link| Some((link, link.addr()?))) else { return Ok(None) };
        let socket = Socket::new(Domain::PACKET, Type::RAW, Some(Protocol::from(protocol)))?;
        socket.set_nonblocking(true)?;
        if protocol == 0 {
            sockets::enlarge_sending(&socket);
        } else {
            socket.attach_filter(&early::refuse())?;
            sockets::enlarge(&socket);
        }
        bind(socket.as_raw_fd(), &link)?;
        // It was everybody's for a moment.
        sockets::drain(&socket);
        let mut first = [0; 2];
        getrandom::fill(&mut first).map_err(io::Error::other)?;
        Ok(Some(Self { socket, source, identification: AtomicU16::new(u16::from_ne_bytes(first)) }))
    }

    pub(super) fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// The frame of a packet, if its destination is a group.
    pub(super) fn frame<'p>(&self, packet: &'p [u8], destination: IpAddr) -> Option<LinkFrame<'p>> {
        if !destination.is_multicast() {
            return None;
        }
        let (group, kind, replaced) = match destination {
            IpAddr::V4(ip) => {
                let [_, b, c, d] = ip.octets();
                ([1, 0, 0x5e, b & 0x7f, c, d], [0x08, 0x00], ipv4::HEADER_LEN)
            }
            IpAddr::V6(ip) => {
                let [.., a, b, c, d] = ip.octets();
                ([0x33, 0x33, a, b, c, d], [0x86, 0xdd], 0)
            }
        };
        let (header, rest) = packet.split_at_checked(replaced)?;
        let mut head: ArrayVec<u8, HEAD> = group.into_iter().chain(self.source).chain(kind).collect();
        head.try_extend_from_slice(header).ok()?;
        ipv4::identify(&mut head[HEADER..], || self.identification.fetch_add(1, Ordering::Relaxed));
        Some(LinkFrame { head, rest })
    }
}

/// A frame in two parts.
pub(super) struct LinkFrame<'p> {
    head: ArrayVec<u8, HEAD>,
    rest: &'p [u8],
}

impl LinkFrame<'_> {
    pub(super) fn parts(&self) -> [IoSlice<'_>; 2] {
        [IoSlice::new(&self.head), IoSlice::new(self.rest)]
    }
}
