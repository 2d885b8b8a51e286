//! Sockets towards the network: raw ones of IP protocol 50, and where it can be one for whole frames; and what the
//! interface takes.

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::num::NonZeroU8;
use std::os::fd::{AsFd, BorrowedFd};

use nix::sys::socket::{getsockopt, setsockopt, sockopt};
use nix::{getsockopt_impl, libc, sockopt_impl};
use socket2::{Domain, Protocol, Socket, Type};

use super::Wire;
use super::link::Link;
use super::share::Share;
use crate::packet::{IpVersion, protocol};

/// Asked for, in octets; the kernel doubles it for its own use.
const BUFFER: usize = 8 << 20;
/// More packets than a receive buffer of the system's default size holds.
const MOST_QUEUED: usize = 1 << 16;

/// Sockets bound to an interface.
pub(super) struct Sockets {
    link: Option<Link>,
    /// One for each share, or none.
    taps: Vec<Socket>,
    raw: Vec<Raw>,
    index: u32,
}

/// Tells how large an IP packet an interface takes.
pub(super) struct Gauge {
    /// Nothing is sent by it.
    socket: Socket,
    limit: u32,
}

impl Gauge {
    /// With a limit where it is known that the path takes less.
    pub(super) fn open(interface: &str, limit: Option<u16>) -> io::Result<Self> {
        let socket = Socket::new(Domain::IPV4, Type::DGRAM, None)?;
        socket.bind_device(Some(interface.as_bytes()))?;
        Ok(Self { socket, limit: limit.map_or(u32::MAX, u32::from) })
    }

    /// What it takes at this time; an interface that is down does not tell.
    pub(super) fn read(&self) -> io::Result<u32> {
        // A group of the link itself needs no route, so the socket's MTU is the interface's.
        self.socket.connect(&SocketAddrV4::new(Ipv4Addr::new(224, 0, 0, 1), 9).into())?;
        let mtu = getsockopt(&self.socket, sockopt::IpMtu)?;
        u32::try_from(mtu).map(|mtu| mtu.min(self.limit)).map_err(|_| io::ErrorKind::InvalidData.into())
    }
}

impl Sockets {
    /// Opens them, and as many raw ones as there are threads that receive. Those for frames are left out where they
    /// cannot be had.
    pub(super) fn open(interface: &str, index: u32, wire: Wire, receivers: NonZeroU8) -> io::Result<Self> {
        let sending = || usable(Link::open(interface)).map(|link| (link, Vec::new()));
        let (link, taps) = match wire {
            Wire::Auto => sending(),
            Wire::Link => usable(Link::with_taps(interface, receivers)).or_else(sending),
            Wire::Raw => None,
        }
        .unzip();
        let taps = taps.unwrap_or_default();
        let raw = Share::all(receivers).map(|share| Raw::open(interface, index, share)).collect::<io::Result<_>>()?;
        Ok(Self { link, taps, raw, index })
    }

    /// For what goes to groups, if the interface is an Ethernet.
    pub(super) fn link(&self) -> Option<&Link> {
        self.link.as_ref()
    }

    /// Packet sockets of each share, for what is taken ahead of the IP stack. They refuse all until told otherwise.
    pub(super) fn taps(&self) -> &[Socket] {
        &self.taps
    }

    /// To receive by, and to send by the first of them.
    pub(super) fn raw(&self) -> &[Raw] {
        &self.raw
    }

    /// The interface that they are bound to.
    pub(super) fn index(&self) -> u32 {
        self.index
    }

    /// Packets that did not fit the receive buffers, since the sockets were made.
    pub(super) fn unread(&self) -> u64 {
        let raw = self.raw.iter().flat_map(|raw| [Some(&raw.v4), raw.v6.as_ref()]).flatten();
        raw.chain(&self.taps).map(unread).sum()
    }
}

sockopt_impl!(
    /// What a socket holds in memory, and last what was dropped for want of it (`enum` of `SK_MEMINFO_VARS` in
    /// `include/uapi/linux/sock_diag.h`).
    Memory,
    GetOnly,
    libc::SOL_SOCKET,
    libc::SO_MEMINFO,
    [u32; 9]
);

/// Packets that one socket had no room for; none where the kernel does not tell (before Linux 4.12).
pub(super) fn unread(socket: &Socket) -> u64 {
    getsockopt(socket, Memory).map_or(0, |[.., dropped]| u64::from(dropped))
}

/// What is there of sockets that can be done without.
fn usable<T>(opened: io::Result<Option<T>>) -> Option<T> {
    opened.unwrap_or_else(|error| {
        tracing::info!(%error, "frames are not sent, or not taken, here");
        None
    })
}

/// A socket for each IP version that the system has.
pub(super) struct Raw {
    v4: Socket,
    v6: Option<Socket>,
}

impl Raw {
    fn open(interface: &str, index: u32, share: Share) -> io::Result<Self> {
        let v4 = raw(IpVersion::V4, interface, share)?;
        v4.set_header_included_v4(true)?;
        v4.set_multicast_loop_v4(false)?;
        let v6 = match raw(IpVersion::V6, interface, share) {
            Ok(v6) => {
                v6.set_header_included_v6(true)?;
                v6.set_multicast_loop_v6(false)?;
                v6.set_multicast_if_v6(index)?;
                setsockopt(&v6, sockopt::Ipv6RecvPacketInfo, &true)?;
                setsockopt(&v6, sockopt::Ipv6RecvHopLimit, &true)?;
                setsockopt(&v6, sockopt::Ipv6RecvTClass, &true)?;
                Some(v6)
            }
            Err(error) => {
                tracing::info!(%error, "no IPv6 here");
                None
            }
        };
        Ok(Self { v4, v6 })
    }

    /// For IPv4: what is sent brings its header along, and so does what is received.
    pub(super) fn v4(&self) -> BorrowedFd<'_> {
        self.v4.as_fd()
    }

    /// For IPv6: only what is sent brings its header along.
    pub(super) fn v6(&self) -> Option<BorrowedFd<'_>> {
        self.v6.as_ref().map(AsFd::as_fd)
    }
}

fn raw(version: IpVersion, interface: &str, share: Share) -> io::Result<Socket> {
    let domain = match version {
        IpVersion::V4 => Domain::IPV4,
        IpVersion::V6 => Domain::IPV6,
    };
    let socket = Socket::new(domain, Type::RAW, Some(Protocol::from(i32::from(protocol::ESP))))?;
    socket.set_nonblocking(true)?;
    socket.bind_device(Some(interface.as_bytes()))?;
    if let Some(filter) = share.filter(version) {
        socket.attach_filter(&filter)?;
    }
    drain(&socket);
    enlarge(&socket);
    Ok(socket)
}

/// A socket receives from its first moment on, from any interface and whatever the share.
pub(super) fn drain(socket: &Socket) {
    let _ = (0..MOST_QUEUED).try_for_each(|_| socket.recv(&mut []).map(drop));
}

/// Larger buffers take bursts; without the privilege the system's limit has to do.
pub(super) fn enlarge(socket: &Socket) {
    if setsockopt(socket, sockopt::RcvBufForce, &BUFFER).is_err()
        && let Err(error) = socket.set_recv_buffer_size(BUFFER)
    {
        tracing::debug!(%error, "receive buffer stays as it is");
    }
    enlarge_sending(socket);
}

pub(super) fn enlarge_sending(socket: &Socket) {
    if setsockopt(socket, sockopt::SndBufForce, &BUFFER).is_err()
        && let Err(error) = socket.set_send_buffer_size(BUFFER)
    {
        tracing::debug!(%error, "send buffer stays as it is");
    }
}
