//! Traffic selector (RFC 7296 section 3.13.1), as a part of a GSA policy (RFC 9838 section 4.4.2).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use keyferry_wire::{Decode, Encode, Parsed};
use nom::bytes::complete::take;
use nom::number::complete::{be_u8, be_u16, be_u32, be_u128};

use super::fail;
use super::registry::TsType;

/// Ranges of addresses and ports.
///
/// ```text
///  +-----------+-------------+-------------------------+
///  |  TS Type  | IP Protocol |    Selector Length      |
///  +-----------+-------------+-------------------------+
///  |       Start Port        |        End Port         |
///  +-------------------------+-------------------------+
///  ~ Starting Address, then Ending Address             ~
///  +---------------------------------------------------+
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TrafficSelector {
    /// IP protocol, zero is any.
    pub protocol: u8,
    /// First and last port.
    pub ports: (u16, u16),
    /// First address.
    pub first: IpAddr,
    /// Last address, of the same family.
    pub last: IpAddr,
}

impl<'a> Decode<'a> for TrafficSelector {
    fn decode(input: &'a [u8]) -> Parsed<'a, Self> {
        let (rest, kind) = be_u8(input)?;
        let (rest, protocol) = be_u8(rest)?;
        let (rest, length) = be_u16(rest)?;
        if length < 8 {
            return fail(input);
        }
        let (after, body) = take(length - 4)(rest)?;
        let (body, first_port) = be_u16(body)?;
        let (body, last_port) = be_u16(body)?;
        let (body, first, last) = match TsType(kind) {
            TsType::IPV4_ADDR_RANGE => {
                let (body, first) = be_u32(body)?;
                let (body, last) = be_u32(body)?;
                (body, IpAddr::V4(Ipv4Addr::from(first)), IpAddr::V4(Ipv4Addr::from(last)))
            }
            TsType::IPV6_ADDR_RANGE => {
                let (body, first) = be_u128(body)?;
                let (body, last) = be_u128(body)?;
                (body, IpAddr::V6(Ipv6Addr::from(first)), IpAddr::V6(Ipv6Addr::from(last)))
            }
            _ => return fail(input),
        };
        if !body.is_empty() || first > last {
            return fail(input);
        }
        Ok((after, Self { protocol, ports: (first_port, last_port), first, last }))
    }
}

impl Encode for TrafficSelector {
    fn encode(&self, out: &mut Vec<u8>) {
        let (kind, length): (_, u16) = match self.first {
            IpAddr::V4(_) => (TsType::IPV4_ADDR_RANGE, 16),
            IpAddr::V6(_) => (TsType::IPV6_ADDR_RANGE, 40),
        };
        out.extend([kind.0, self.protocol]);
        out.extend(length.to_be_bytes());
        out.extend(self.ports.0.to_be_bytes());
        out.extend(self.ports.1.to_be_bytes());
        for address in [self.first, self.last] {
            match address {
                IpAddr::V4(a) => out.extend(a.octets()),
                IpAddr::V6(a) => out.extend(a.octets()),
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::wire::testing::{bytes_round_trip, value_round_trip};

    #[test]
    fn round_trips() {
        value_round_trip(&TrafficSelector {
            protocol: 17,
            ports: (848, 848),
            first: "ff15::1".parse().unwrap(),
            last: "ff15::1".parse().unwrap(),
        });
        bytes_round_trip::<TrafficSelector>("07000010 0000ffff 00000000 ffffffff");
    }

    #[test]
    fn nonsense_is_refused() {
        for broken in
            ["07000008 0000ffff", "07000014 0000ffff 00000000 ffffffff 00000000", "09000010 0000ffff 0000000000000000"]
        {
            let bytes = hex::decode(broken.replace(' ', "")).unwrap();
            assert!(TrafficSelector::exact(&bytes).is_err(), "{broken}");
        }
        // The last address is before the first.
        assert!(TrafficSelector::exact(&hex::decode("070000100000ffff0a0000020a000001").unwrap()).is_err());
    }
}
