//! Selectors of traffic, and the identities inside SA KEK and SA TEK.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use keyferry_model::policy::Selector;

use crate::identity;
use crate::wire::endpoint::Endpoint;
use crate::wire::registry::IdType;

/// The octets of an identity inside SA KEK or SA TEK, kept apart from the [`Endpoint`] that borrows them.
#[derive(Debug)]
pub(crate) struct Named {
    kind: IdType,
    port: u16,
    data: Vec<u8>,
}

impl Named {
    /// A host with a port.
    pub(crate) fn host(address: SocketAddr) -> Self {
        let (kind, data) = match address.ip() {
            IpAddr::V4(a) => (IdType::IPV4_ADDR, a.octets().to_vec()),
            IpAddr::V6(a) => (IdType::IPV6_ADDR, a.octets().to_vec()),
        };
        Self { kind, port: address.port(), data }
    }

    /// One side of the traffic: a single address as such, everything else as a subnet.
    pub(crate) fn selector(s: &Selector) -> Self {
        if s.prefix == host_prefix(s.address) {
            return Self::host(SocketAddr::new(s.address, s.port));
        }
        let (kind, data) = match s.address {
            IpAddr::V4(a) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(s.prefix)).unwrap_or(0);
                (IdType::IPV4_ADDR_SUBNET, [a.octets(), mask.to_be_bytes()].concat())
            }
            IpAddr::V6(a) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(s.prefix)).unwrap_or(0);
                (IdType::IPV6_ADDR_SUBNET, [a.octets(), mask.to_be_bytes()].concat())
            }
        };
        Self { kind, port: s.port, data }
    }

    pub(crate) fn endpoint(&self) -> Endpoint<'_> {
        Endpoint::new(self.kind, self.port, &self.data)
    }
}

fn host_prefix(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(_) => 32,
        IpAddr::V6(_) => 128,
    }
}

/// An address of the other's family that stands for none.
pub(crate) fn unspecified(like: IpAddr) -> IpAddr {
    match like {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    }
}

/// The destination of pushes; `None` when it says nothing.
pub(crate) fn destination(endpoint: &Endpoint<'_>) -> Option<SocketAddr> {
    let ip = identity::address(endpoint.data).filter(|ip| !ip.is_unspecified() && endpoint.port != 0)?;
    matches!(endpoint.kind, IdType::IPV4_ADDR | IdType::IPV6_ADDR).then(|| SocketAddr::new(ip, endpoint.port))
}

/// The selector of one side; zeros of any length stand for any address of the family of `like`.
pub(crate) fn selector(endpoint: &Endpoint<'_>, protocol: u8, like: Option<IpAddr>) -> Option<Selector> {
    if let Some(like) = like.filter(|_| endpoint.data.iter().all(|b| *b == 0)) {
        return Some(Selector { address: unspecified(like), prefix: 0, protocol, port: endpoint.port });
    }
    let (address, prefix) = match endpoint.kind {
        IdType::IPV4_ADDR | IdType::IPV6_ADDR => {
            let ip = identity::address(endpoint.data)?;
            (ip, host_prefix(ip))
        }
        IdType::IPV4_ADDR_SUBNET | IdType::IPV6_ADDR_SUBNET => {
            let (net, mask) = halves(endpoint.data)?;
            let prefix = contiguous(mask)?;
            (net, prefix)
        }
        IdType::IPV4_ADDR_RANGE | IdType::IPV6_ADDR_RANGE => network_of_range(endpoint.data)?,
        _ => return None,
    };
    let selector = Selector { address, prefix, protocol, port: endpoint.port };
    (selector.range().0 == address).then_some(selector)
}

fn halves(data: &[u8]) -> Option<(IpAddr, IpAddr)> {
    let (a, b) = data.split_at_checked(data.len() / 2)?;
    Some((identity::address(a)?, identity::address(b)?))
}

fn bits(ip: IpAddr) -> (u128, u8) {
    match ip {
        // To the left, so that both families count from the first bit.
        IpAddr::V4(a) => (u128::from(u32::from(a)) << 96, 32),
        IpAddr::V6(a) => (u128::from(a), 128),
    }
}

fn contiguous(mask: IpAddr) -> Option<u8> {
    let (value, width) = bits(mask);
    let ones = value.leading_ones();
    (value.count_ones() == ones).then_some(ones).and_then(|n| u8::try_from(n).ok()).filter(|n| *n <= width)
}

/// A range that is exactly one network; others have no selector here.
fn network_of_range(data: &[u8]) -> Option<(IpAddr, u8)> {
    let (first, last) = halves(data)?;
    let (a, width) = bits(first);
    let (b, _) = bits(last);
    let prefix = u8::try_from((a ^ b).leading_zeros()).ok()?.min(width);
    let net = Selector { address: first, prefix, protocol: 0, port: 0 };
    (net.range() == (first, last)).then_some((first, prefix))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn sel(net: &str, prefix: u8) -> Selector {
        Selector { address: net.parse().unwrap(), prefix, protocol: 17, port: 5000 }
    }

    #[test]
    fn selectors_survive_the_wire() {
        for s in [sel("10.0.0.0", 8), sel("239.192.0.1", 32), sel("2001:db8::", 32), sel("ff15::1", 128)] {
            assert_eq!(selector(&Named::selector(&s).endpoint(), 17, None), Some(s));
        }
        for s in [sel("0.0.0.0", 0), sel("::", 0)] {
            assert_eq!(selector(&Named::selector(&s).endpoint(), 17, Some(s.address)), Some(s));
        }
    }

    #[test]
    fn any_source_comes_in_many_lengths() {
        let like = "239.192.0.1".parse().unwrap();
        for len in [0, 3, 4, 8] {
            let e = Endpoint::new(IdType::IPV4_ADDR, 0, &[0; 8][..len]);
            assert_eq!(selector(&e, 0, Some(like)).map(|s| s.prefix), Some(0));
        }
    }

    #[test]
    fn ranges_must_be_networks_and_masks_without_holes() {
        let range = |data: &'static [u8]| selector(&Endpoint::new(IdType::IPV4_ADDR_RANGE, 0, data), 0, None);
        assert_eq!(range(&[10, 0, 0, 0, 10, 0, 0, 255]).map(|s| s.prefix), Some(24));
        assert_eq!(range(&[10, 0, 0, 1, 10, 0, 0, 255]), None);
        assert_eq!(range(&[10, 0, 1, 0, 10, 0, 0, 255]), None);
        let net = |data: &'static [u8]| selector(&Endpoint::new(IdType::IPV4_ADDR_SUBNET, 0, data), 0, None);
        assert_eq!(net(&[10, 0, 0, 0, 255, 0, 255, 0]), None);
        assert_eq!(net(&[10, 0, 0, 1, 255, 255, 255, 0]), None, "host bits");
    }
}
