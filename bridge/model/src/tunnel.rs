//! The ends of tunnels whose outer headers do not repeat all addresses of the packet inside (RFC 5374 section 3.1).

use std::net::IpAddr;

use crate::policy::{AddressPreservation, Selector};

/// This member's end of such tunnels, and the other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tunnel {
    /// Our own address: the outer source where the packet's is not preserved.
    pub local: Option<IpAddr>,
    /// The outer destination where the packet's is not preserved: a multicast address that all members have in common, or
    /// the one gateway on the other side. No key server has a way to tell it.
    pub remote: Option<IpAddr>,
}

impl Tunnel {
    /// Is everything known that a tunnel with this destination needs? Both headers are of one IP version.
    #[must_use]
    pub fn suffices(self, preserved: AddressPreservation, destination: &Selector) -> bool {
        let fits = |ip: Option<IpAddr>| ip.is_some_and(|ip| ip.is_ipv4() == destination.address.is_ipv4());
        (preserved.keeps_source() || fits(self.local)) && (preserved.keeps_destination() || fits(self.remote))
    }

    /// Do tunnels end here that come to this address?
    #[must_use]
    pub fn ends_at(self, ip: IpAddr) -> bool {
        self.local == Some(ip) || (ip.is_multicast() && self.remote == Some(ip))
    }
}
