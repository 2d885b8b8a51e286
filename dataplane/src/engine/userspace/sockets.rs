//! Raw sockets of IP protocol 50.

use std::io::{self, IoSliceMut, Read};
use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use nix::cmsg_space;
use nix::libc::{c_int, in6_pktinfo};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, SockaddrIn6, recvmsg, setsockopt, sockopt};
use socket2::{Domain, Protocol, Socket, Type};

use crate::frame::Frame;
use crate::packet::{ipv6, protocol};

/// Asked for, in octets; the kernel doubles it for its own use.
const BUFFER: usize = 8 << 20;

/// One socket for each IP version that the system has, for both directions.
pub(super) struct Sockets {
    v4: Socket,
    v6: Option<Socket>,
    index: u32,
}

/// What was read.
pub(super) enum Received {
    /// A packet, whole, in the frame.
    Packet,
    /// Something that did not fit or cannot be told from where it came.
    Unusable,
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

    /// Descriptors to wait for.
    pub(super) fn v4(&self) -> BorrowedFd<'_> {
        self.v4.as_fd()
    }

    /// Likewise.
    pub(super) fn v6(&self) -> Option<BorrowedFd<'_>> {
        self.v6.as_ref().map(AsFd::as_fd)
    }

    /// Sends a packet whose IP header is as it shall be on the wire; the kernel fills in an IPv4 identification of
    /// zero.
    pub(super) fn send(&self, packet: &[u8], destination: IpAddr) -> io::Result<()> {
        let (socket, to) = match destination {
            IpAddr::V4(_) => (&self.v4, SocketAddr::new(destination, 0)),
            IpAddr::V6(ip) => {
                let v6 = self.v6.as_ref().ok_or(io::ErrorKind::Unsupported)?;
                (v6, SocketAddr::V6(SocketAddrV6::new(ip, 0, 0, self.index)))
            }
        };
        socket.send_to(packet, &to.into()).map(|_| ())
    }

    /// Reads an IPv4 packet; the kernel gives its header too.
    pub(super) fn receive_v4(&self, frame: &mut Frame) -> io::Result<Received> {
        let len = (&self.v4).read(frame.space())?;
        frame.filled(len);
        Ok(Received::Packet)
    }

    /// Reads an IPv6 packet. The kernel keeps its header and tells addresses, hop limit and traffic class.
    pub(super) fn receive_v6(&self, frame: &mut Frame, control: &mut [u8]) -> io::Result<Received> {
        let v6 = self.v6.as_ref().ok_or(io::ErrorKind::Unsupported)?;
        let space = frame.space();
        let (_, payload) = space.split_at_mut(ipv6::HEADER_LEN);
        let mut parts = [IoSliceMut::new(payload)];
        let message = recvmsg::<SockaddrIn6>(v6.as_raw_fd(), &mut parts, Some(control), MsgFlags::MSG_DONTWAIT)?;
        let (mut destination, mut hop_limit, mut class) = (None, 0, 0);
        for part in message.cmsgs()? {
            if let ControlMessageOwned::Ipv6PacketInfo(info) = part {
                destination = Some(info.ipi6_addr.s6_addr.into());
            } else if let ControlMessageOwned::Ipv6HopLimit(limit) = part {
                hop_limit = u8::try_from(limit).unwrap_or(0);
            } else if let ControlMessageOwned::Ipv6TClass(value) = part {
                class = u8::try_from(value).unwrap_or(0);
            }
        }
        let (Some(destination), Some(from)) = (destination, message.address) else { return Ok(Received::Unusable) };
        if message.flags.contains(MsgFlags::MSG_TRUNC) {
            return Ok(Received::Unusable);
        }
        let len = ipv6::HEADER_LEN + message.bytes;
        frame.filled(len);
        let header = ipv6::Received { source: from.ip(), destination, class, hop_limit };
        ipv6::write_received(frame.packet_mut(), header, protocol::ESP);
        Ok(Received::Packet)
    }

    /// Room for what the kernel tells of an IPv6 packet.
    pub(super) fn control_buffer() -> Vec<u8> {
        cmsg_space!(in6_pktinfo, c_int, c_int)
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
