//! UDP sockets that know where a datagram was sent to, and send from an address of choice.
//!
//! A gateway listens at wildcard addresses, but a reply must leave from the address that was asked, and a rekey
//! message is known by the multicast address it came to: both need IP_PKTINFO (ip(7)) and IPV6_PKTINFO (RFC 3542).

use std::io::{self, IoSlice, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use keyferry_model::drive::Transmit;
use keyferry_wire::NON_ESP_MARKER;
use nix::cmsg_space;
use nix::libc;
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, sendmsg, setsockopt, sockopt,
};
use socket2::{Domain, InterfaceIndexOrAddress, Protocol, Socket, Type};
use tokio::io::Interest;
use tokio::net::UdpSocket;
use tokio::sync::mpsc;

/// Asked for, in octets: a storm of registrations must find room.
const BUFFER: usize = 4 << 20;

/// Largest UDP payload.
const MAX_DATAGRAM: usize = 65_535;

/// A datagram as it arrived.
#[derive(Debug)]
pub(crate) struct Received {
    pub(crate) from: SocketAddr,
    /// Destination in its header, with the port of the socket.
    pub(crate) to: SocketAddr,
    pub(crate) bytes: Vec<u8>,
}

/// How multicast datagrams leave.
#[derive(Clone, Debug, Default)]
pub(crate) struct MulticastOut {
    /// Interface index; zero leaves it to the routes.
    pub(crate) interface: u32,
    /// Source addresses, at most one of each family.
    pub(crate) source: Vec<IpAddr>,
    /// TTL or hop limit; zero leaves it at the system's 1.
    pub(crate) ttl: u8,
}

/// A bound socket.
#[derive(Debug)]
pub(crate) struct Udp {
    socket: UdpSocket,
    local: SocketAddr,
    multicast: MulticastOut,
}

impl Udp {
    /// Binds to an address of this machine, or to all of one family.
    pub(crate) fn bind(local: SocketAddr, multicast: MulticastOut) -> io::Result<Self> {
        let socket = open(local)?;
        if multicast.ttl > 0 {
            match local {
                SocketAddr::V4(_) => socket.set_multicast_ttl_v4(u32::from(multicast.ttl))?,
                SocketAddr::V6(_) => socket.set_multicast_hops_v6(u32::from(multicast.ttl))?,
            }
        }
        Self::finish(socket, local, multicast)
    }

    /// Binds to a multicast address and joins it on an interface. Several processes may do so.
    pub(crate) fn join(group: SocketAddr, interface: u32) -> io::Result<Self> {
        let socket = open(group)?;
        socket.set_reuse_address(true)?;
        match group.ip() {
            IpAddr::V4(ip) => {
                socket.set_multicast_all_v4(false)?;
                socket.join_multicast_v4_n(&ip, &InterfaceIndexOrAddress::Index(interface))?;
            }
            IpAddr::V6(ip) => {
                socket.set_multicast_all_v6(false)?;
                socket.join_multicast_v6(&ip, interface)?;
            }
        }
        let scoped = match group {
            SocketAddr::V6(a) => SocketAddr::V6(SocketAddrV6::new(*a.ip(), a.port(), 0, interface)),
            SocketAddr::V4(_) => group,
        };
        Self::finish(socket, scoped, MulticastOut::default())
    }

    fn finish(socket: Socket, local: SocketAddr, multicast: MulticastOut) -> io::Result<Self> {
        socket.bind(&local.into())?;
        let local = socket.local_addr()?.as_socket().unwrap_or(local);
        Ok(Self { socket: UdpSocket::from_std(socket.into())?, local, multicast })
    }

    /// The address it is bound to.
    pub(crate) fn local(&self) -> SocketAddr {
        self.local
    }

    /// Waits for a datagram.
    pub(crate) async fn receive(&self, buffer: &mut [u8]) -> io::Result<Received> {
        self.socket.async_io(Interest::READABLE, || receive(&self.socket, self.local, buffer)).await
    }

    /// Sends a datagram, with its marker if it has one.
    pub(crate) async fn send(&self, transmit: &Transmit) -> io::Result<()> {
        self.socket.async_io(Interest::WRITABLE, || self.send_now(transmit)).await
    }

    /// Could it send there, and from there if that matters?
    pub(crate) fn can_send(&self, transmit: &Transmit) -> bool {
        let fits = |from: SocketAddr| {
            let any = self.local.ip().is_unspecified() || from.ip().is_unspecified();
            from.port() == self.local.port() && (any || from.ip() == self.local.ip())
        };
        !transmit.via.is_tcp() && self.local.is_ipv4() == transmit.to.is_ipv4() && transmit.from.is_none_or(fits)
    }

    fn send_now(&self, transmit: &Transmit) -> io::Result<()> {
        let marker: &[u8] = if transmit.via.is_marked_udp() { &NON_ESP_MARKER } else { &[] };
        let parts = [IoSlice::new(marker), IoSlice::new(&transmit.bytes)];
        let to = SockaddrStorage::from(transmit.to);
        let multicast = transmit.to.ip().is_multicast();
        let chosen = transmit.from.map(|f| f.ip()).filter(|ip| !ip.is_unspecified() && !ip.is_multicast());
        let configured = || self.multicast.source.iter().copied().find(|s| s.is_ipv4() == transmit.to.is_ipv4());
        let source = chosen.or_else(|| if multicast { configured() } else { None });
        let interface = if multicast { self.multicast.interface } else { scope(transmit.from) };
        let (v4, v6);
        let control = match (self.local, source) {
            _ if source.is_none() && interface == 0 => None,
            (SocketAddr::V4(_), source) => {
                let source = source.and_then(ipv4).unwrap_or(Ipv4Addr::UNSPECIFIED);
                v4 = libc::in_pktinfo {
                    ipi_ifindex: i32::try_from(interface).unwrap_or(0),
                    ipi_spec_dst: libc::in_addr { s_addr: u32::from(source).to_be() },
                    ipi_addr: libc::in_addr { s_addr: 0 },
                };
                Some(ControlMessage::Ipv4PacketInfo(&v4))
            }
            (SocketAddr::V6(_), source) => {
                let source = source.and_then(ipv6).unwrap_or(Ipv6Addr::UNSPECIFIED);
                v6 = libc::in6_pktinfo {
                    ipi6_addr: libc::in6_addr { s6_addr: source.octets() },
                    ipi6_ifindex: interface,
                };
                Some(ControlMessage::Ipv6PacketInfo(&v6))
            }
        };
        sendmsg(self.socket.as_raw_fd(), &parts, control.as_slice(), MsgFlags::MSG_DONTWAIT, Some(&to))?;
        Ok(())
    }
}

fn open(local: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(local), Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_nonblocking(true)?;
    match local {
        SocketAddr::V4(_) => setsockopt(&socket, sockopt::Ipv4PacketInfo, &true)?,
        SocketAddr::V6(_) => {
            socket.set_only_v6(true)?;
            setsockopt(&socket, sockopt::Ipv6RecvPacketInfo, &true)?;
        }
    }
    // Without the privilege the system's limit has to do.
    if setsockopt(&socket, sockopt::RcvBufForce, &BUFFER).is_err() {
        socket.set_recv_buffer_size(BUFFER)?;
    }
    Ok(socket)
}

fn receive(socket: &UdpSocket, local: SocketAddr, buffer: &mut [u8]) -> io::Result<Received> {
    let mut control = cmsg_space!(libc::in6_pktinfo);
    let (len, from, to) = {
        let mut parts = [IoSliceMut::new(buffer)];
        let flags = MsgFlags::MSG_DONTWAIT;
        let message = recvmsg::<SockaddrStorage>(socket.as_raw_fd(), &mut parts, Some(&mut control), flags)?;
        let from = message.address.as_ref().and_then(address);
        let mut to = local;
        for part in message.cmsgs()? {
            if let ControlMessageOwned::Ipv4PacketInfo(info) = part {
                to.set_ip(IpAddr::V4(u32::from_be(info.ipi_addr.s_addr).into()));
            } else if let ControlMessageOwned::Ipv6PacketInfo(info) = part {
                let ip = Ipv6Addr::from(info.ipi6_addr.s6_addr);
                let scope = if ip.is_unicast_link_local() { info.ipi6_ifindex } else { 0 };
                to = SocketAddr::V6(SocketAddrV6::new(ip, local.port(), 0, scope));
            }
        }
        (message.bytes, from, to)
    };
    let from = from.ok_or(io::ErrorKind::InvalidData)?;
    Ok(Received { from, to, bytes: buffer[..len].to_vec() })
}

fn address(storage: &SockaddrStorage) -> Option<SocketAddr> {
    let v4 = storage.as_sockaddr_in().map(|a| SocketAddr::V4((*a).into()));
    v4.or_else(|| storage.as_sockaddr_in6().map(|a| SocketAddr::V6((*a).into())))
}

fn ipv4(ip: IpAddr) -> Option<Ipv4Addr> {
    if let IpAddr::V4(ip) = ip { Some(ip) } else { None }
}

fn ipv6(ip: IpAddr) -> Option<Ipv6Addr> {
    if let IpAddr::V6(ip) = ip { Some(ip) } else { None }
}

fn scope(from: Option<SocketAddr>) -> u32 {
    if let Some(SocketAddr::V6(a)) = from { a.scope_id() } else { 0 }
}

/// Receives from a socket until the receiver of the queue is gone. What finds the queue full is dropped and counted:
/// peers send again.
pub(crate) fn pump(
    socket: Arc<Udp>,
    queue: mpsc::Sender<Received>,
    overrun: Arc<AtomicU64>,
) -> tokio::task::JoinHandle<()> {
    tokio::spawn(async move {
        let mut buffer = vec![0; MAX_DATAGRAM];
        while !queue.is_closed() {
            match socket.receive(&mut buffer).await {
                Ok(received) => {
                    if let Err(mpsc::error::TrySendError::Full(_)) = queue.try_send(received) {
                        overrun.fetch_add(1, Ordering::Relaxed);
                    }
                }
                Err(error) => {
                    tracing::debug!(%error, local = %socket.local(), "not received");
                    tokio::time::sleep(std::time::Duration::from_millis(10)).await;
                }
            }
        }
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use keyferry_model::drive::Via;

    use super::*;

    async fn echo(listen: &str, asked: &str) {
        let server = Udp::bind(listen.parse().unwrap(), MulticastOut::default()).unwrap();
        let client = Udp::bind(SocketAddr::new(asked.parse().unwrap(), 0), MulticastOut::default()).unwrap();
        let to = SocketAddr::new(asked.parse().unwrap(), server.local().port());
        client.send(&Transmit { from: None, to, via: Via::MarkedUdp, bytes: b"ping".to_vec() }).await.unwrap();
        let mut buffer = [0; 100];
        let got = server.receive(&mut buffer).await.unwrap();
        assert_eq!((got.from, got.to, &got.bytes[..]), (client.local(), to, &b"\0\0\0\0ping"[..]));
        let reply = Transmit { from: Some(got.to), to: got.from, via: Via::Udp, bytes: b"pong".to_vec() };
        assert!(server.can_send(&reply));
        server.send(&reply).await.unwrap();
        let got = client.receive(&mut buffer).await.unwrap();
        assert_eq!((got.from, &got.bytes[..]), (to, &b"pong"[..]));
    }

    #[tokio::test]
    async fn replies_leave_from_the_address_that_was_asked() {
        echo("0.0.0.0:0", "127.0.0.9").await;
        echo("127.0.0.1:0", "127.0.0.1").await;
    }

    #[tokio::test]
    async fn ipv6_works_likewise_where_there_is_any() {
        if Udp::bind("[::1]:0".parse().unwrap(), MulticastOut::default()).is_ok() {
            echo("[::]:0", "::1").await;
        }
    }

    /// A push of a hundred policies is far longer than a frame: the network takes it apart, and it arrives whole.
    #[tokio::test]
    async fn the_longest_datagrams_arrive_whole() {
        let server = Udp::bind("127.0.0.1:0".parse().unwrap(), MulticastOut::default()).unwrap();
        let client = Udp::bind("127.0.0.1:0".parse().unwrap(), MulticastOut::default()).unwrap();
        let to = server.local();
        let (queue, mut arrived) = mpsc::channel(2);
        let task = pump(Arc::new(server), queue, Arc::default());
        for len in [9000, 65_507] {
            let bytes: Vec<u8> = (0..len).map(|i: u32| i.to_le_bytes()[0]).collect();
            client.send(&Transmit { from: None, to, via: Via::Udp, bytes: bytes.clone() }).await.unwrap();
            assert_eq!(arrived.recv().await.unwrap().bytes, bytes);
        }
        task.abort();
    }

    #[tokio::test]
    async fn multicast_arrives_with_its_address_known() {
        let lo = nix::net::if_::if_nametoindex("lo").unwrap();
        let group = Udp::join("239.192.77.1:0".parse().unwrap(), lo).unwrap();
        let out = MulticastOut { interface: lo, source: vec!["127.0.0.3".parse().unwrap()], ttl: 1 };
        let sender = Udp::bind("0.0.0.0:0".parse().unwrap(), out).unwrap();
        let transmit = Transmit { from: None, to: group.local(), via: Via::Udp, bytes: b"rekey".to_vec() };
        sender.send(&transmit).await.unwrap();
        let mut buffer = [0; 100];
        let got = group.receive(&mut buffer).await.unwrap();
        assert_eq!((got.to, got.from.ip()), (group.local(), "127.0.0.3".parse::<IpAddr>().unwrap()));
    }
}
