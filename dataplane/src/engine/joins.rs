//! Membership of the multicast groups whose ESP packets are to be received.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, Ipv4Addr};

use socket2::{Domain, InterfaceIndexOrAddress, Socket, Type};

/// Sockets for IPv4, each of which the kernel lets join 20 groups by default (`igmp_max_memberships`). All are opened
/// at the start, so that they are in the engine's network namespace.
const SOCKETS_V4: usize = 16;

/// Groups joined on one interface, by sockets that receive nothing themselves.
pub(super) struct Joins {
    index: u32,
    v4: Vec<Socket>,
    v6: Option<Socket>,
    /// By which of the IPv4 sockets a group was joined; zero for IPv6.
    joined: BTreeMap<IpAddr, usize>,
    refused: BTreeMap<IpAddr, String>,
}

impl Joins {
    pub(super) fn open(index: u32) -> io::Result<Self> {
        let v4 = (0..SOCKETS_V4).map(|_| Socket::new(Domain::IPV4, Type::DGRAM, None)).collect::<io::Result<_>>()?;
        let v6 = Socket::new(Domain::IPV6, Type::DGRAM, None).ok();
        Ok(Self { index, v4, v6, joined: BTreeMap::new(), refused: BTreeMap::new() })
    }

    /// Joins the multicast addresses among `wanted`, and leaves all others.
    pub(super) fn set(&mut self, wanted: &[IpAddr]) {
        let wanted: BTreeSet<IpAddr> = wanted.iter().copied().filter(IpAddr::is_multicast).collect();
        let gone: Vec<IpAddr> = self.joined.keys().filter(|ip| !wanted.contains(ip)).copied().collect();
        for ip in gone {
            self.leave(ip);
        }
        self.refused.retain(|ip, _| wanted.contains(ip));
        for ip in wanted {
            if !self.joined.contains_key(&ip) {
                self.join(ip);
            }
        }
    }

    pub(super) fn joined(&self) -> Vec<IpAddr> {
        self.joined.keys().copied().collect()
    }

    pub(super) fn refused(&self) -> BTreeMap<IpAddr, String> {
        self.refused.clone()
    }

    fn join(&mut self, ip: IpAddr) {
        let result = match ip {
            IpAddr::V4(group) => self.join_v4(group),
            IpAddr::V6(group) => match &self.v6 {
                Some(socket) => socket.join_multicast_v6(&group, self.index).map(|()| 0),
                None => Err(io::ErrorKind::Unsupported.into()),
            },
        };
        match result {
            Ok(at) => {
                self.refused.remove(&ip);
                self.joined.insert(ip, at);
            }
            Err(error) => {
                if self.refused.insert(ip, error.to_string()).is_none() {
                    tracing::warn!(group = %ip, %error, "multicast group cannot be joined");
                }
            }
        }
    }

    /// With the first socket that the kernel allows another group.
    fn join_v4(&self, group: Ipv4Addr) -> io::Result<usize> {
        let mut refused = io::Error::from(io::ErrorKind::Unsupported);
        for (at, socket) in self.v4.iter().enumerate() {
            match socket.join_multicast_v4_n(&group, &InterfaceIndexOrAddress::Index(self.index)) {
                Ok(()) => return Ok(at),
                Err(error) => refused = error,
            }
        }
        Err(refused)
    }

    fn leave(&mut self, ip: IpAddr) {
        let Some(at) = self.joined.remove(&ip) else { return };
        let result = match (ip, self.v4.get(at), &self.v6) {
            (IpAddr::V4(group), Some(socket), _) => {
                socket.leave_multicast_v4_n(&group, &InterfaceIndexOrAddress::Index(self.index))
            }
            (IpAddr::V6(group), _, Some(socket)) => socket.leave_multicast_v6(&group, self.index),
            (IpAddr::V4(_), None, _) | (IpAddr::V6(_), _, None) => Ok(()),
        };
        if let Err(error) = result {
            tracing::debug!(group = %ip, %error, "multicast group cannot be left");
        }
    }
}
