//! Raw sockets of IP protocol 50, and what the interface takes.

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsFd, BorrowedFd};

use nix::sys::socket::{getsockopt, setsockopt, sockopt};
use socket2::{Domain, Protocol, Socket, Type};

use crate::packet::protocol;

/// Asked for, in octets; the kernel doubles it for its own use.
const BUFFER: usize = 8 << 20;

/// One socket for each IP version that the system has, for both directions.
pub(super) struct Sockets {
    v4: Socket,
    v6: Option<Socket>,
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
    /// Opens sockets bound to an interface. IPv6 is left out where the system has none.
    pub(super) fn open(interface: &str, index: u32) -> io::Result<Self> {
        let v4 = raw(Domain::IPV4, interface)?;
        v4.set_header_included_v4(true)?;
        v4.set_multicast_loop_v4(false)?;
        let v6 = match raw(Domain::IPV6, interface) {
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
        Ok(Self { v4, v6, index })
    }

    /// For IPv4: what is sent brings its header along, and so does what is received.
    pub(super) fn v4(&self) -> BorrowedFd<'_> {
        self.v4.as_fd()
    }

    /// For IPv6: only what is sent brings its header along.
    pub(super) fn v6(&self) -> Option<BorrowedFd<'_>> {
        self.v6.as_ref().map(AsFd::as_fd)
    }

    /// The interface that they are bound to.
    pub(super) fn index(&self) -> u32 {
        self.index
    }
}

fn raw(domain: Domain, interface: &str) -> io::Result<Socket> {
    let socket = Socket::new(domain, Type::RAW, Some(Protocol::from(i32::from(protocol::ESP))))?;
    socket.bind_device(Some(interface.as_bytes()))?;
    socket.set_nonblocking(true)?;
    enlarge(&socket);
    Ok(socket)
}

/// Larger buffers take bursts; without the privilege the system's limit has to do.
fn enlarge(socket: &Socket) {
    if setsockopt(socket, sockopt::RcvBufForce, &BUFFER).is_err()
        && let Err(error) = socket.set_recv_buffer_size(BUFFER)
    {
        tracing::debug!(%error, "receive buffer stays as it is");
    }
    if let Err(error) = socket.set_send_buffer_size(BUFFER) {
        tracing::debug!(%error, "send buffer stays as it is");
    }
}
