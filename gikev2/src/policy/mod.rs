//! Where wire types end: group policy, identities and keys, to and from the model.

pub(crate) mod from_wire;
pub(crate) mod gateway;
pub(crate) mod identity;
pub(crate) mod sag;
pub(crate) mod to_wire;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use keyferry_model::policy::Selector;

use crate::wire::ts::TrafficSelector;

/// IP protocol number of UDP.
pub(crate) const UDP: u8 = 17;

/// A selector as ranges.
pub(crate) fn to_ranges(s: &Selector) -> TrafficSelector {
    let (first, last) = s.range();
    let ports = if s.port == 0 { (0, u16::MAX) } else { (s.port, s.port) };
    TrafficSelector { protocol: s.protocol, ports, first, last }
}

/// Ranges as a selector; `None` unless the addresses are a network, and the ports one or all.
pub(crate) fn from_ranges(ts: &TrafficSelector) -> Option<Selector> {
    let port = match ts.ports {
        (0, u16::MAX) => 0,
        (first, last) if first == last && first != 0 => first,
        _ => return None,
    };
    let (bits, first, last) = match (ts.first, ts.last) {
        (IpAddr::V4(a), IpAddr::V4(b)) => (32, u128::from(u32::from(a)), u128::from(u32::from(b))),
        (IpAddr::V6(a), IpAddr::V6(b)) => (128, u128::from(a), u128::from(b)),
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => return None,
    };
    // A network: the bits in which the ends differ are the lowest ones, zero in the first and one in the last.
    let host = first ^ last;
    if host & host.wrapping_add(1) != 0 || first & host != 0 {
        return None;
    }
    let prefix = u8::try_from(bits - (128 - host.leading_zeros())).ok()?;
    Some(Selector { address: ts.first, prefix, protocol: ts.protocol, port })
}

/// Any address of the family, any UDP port.
pub(crate) fn any_udp(like: IpAddr) -> TrafficSelector {
    let (first, last) = match like {
        IpAddr::V4(_) => (IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V4(Ipv4Addr::BROADCAST)),
        IpAddr::V6(_) => (IpAddr::V6(Ipv6Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::from(u128::MAX))),
    };
    TrafficSelector { protocol: UDP, ports: (0, u16::MAX), first, last }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn selector(address: &str, prefix: u8, port: u16) -> Selector {
        Selector { address: address.parse().unwrap(), prefix, protocol: UDP, port }
    }

    #[test]
    fn selectors_survive_their_ranges() {
        for s in [
            selector("0.0.0.0", 0, 0),
            selector("10.1.0.0", 16, 5),
            selector("239.0.0.1", 32, 0),
            selector("::", 0, 0),
            selector("ff15::1", 128, 500),
            selector("2001:db8::", 32, 0),
        ] {
            assert_eq!(from_ranges(&to_ranges(&s)), Some(s));
        }
    }

    #[test]
    fn ranges_that_are_no_network_are_refused() {
        let ts = |a: &str, b: &str, ports| TrafficSelector {
            protocol: 0,
            ports,
            first: a.parse().unwrap(),
            last: b.parse().unwrap(),
        };
        assert_eq!(from_ranges(&ts("10.0.0.1", "10.0.0.2", (0, u16::MAX))), None);
        assert_eq!(from_ranges(&ts("10.0.0.1", "10.0.0.4", (0, u16::MAX))), None);
        assert_eq!(from_ranges(&ts("10.0.0.1", "10.0.0.1", (5, 6))), None);
        assert_eq!(from_ranges(&ts("10.0.0.1", "10.0.0.1", (u16::MAX, 0))), None);
    }
}
