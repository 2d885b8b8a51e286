//! Who is who in the lab: names, addresses, ports.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use keyferry_model::id::Protocol;

use super::args::Args;

/// UDP port of the key server, and of multicast rekeys.
pub(super) const IKE_PORT: u16 = 848;
/// UDP port of the applications.
pub(super) const APP_PORT: u16 = 5848;
/// Name of the group in the gateway's configuration.
pub(super) const GROUP_NAME: &str = "lab";
/// Identity of the group, a number of four octets (ID_KEY_ID).
pub(super) const GROUP_NUMBER: u32 = 8400;

/// A member to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct MemberPlan {
    /// Counts from 1; the application's sender number too.
    pub number: u16,
    /// Name for people.
    pub name: String,
    /// Identity it authenticates with, as configured.
    pub identity: String,
    /// The protocol it starts with.
    pub protocol: Protocol,
    /// Address on the segment.
    pub address: IpAddr,
}

/// Addresses of everything.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    /// The gateway.
    pub gateway: IpAddr,
    /// Prefix length of the segment.
    pub prefix: u8,
    /// Where the applications' traffic goes.
    pub traffic: IpAddr,
    /// Where rekey messages go.
    pub rekey: IpAddr,
    /// Members, GDOI's first.
    pub members: Vec<MemberPlan>,
}

impl Plan {
    /// Lays out what the arguments ask for.
    pub(super) fn new(args: &Args) -> Self {
        let host = |n: u16| match args.ipv6 {
            // Decimal digits on purpose: fd84::11 reads like 10.84.0.11.
            true => IpAddr::V6(Ipv6Addr::new(0xfd84, 0, 0, 0, 0, 0, 0, decimal_as_hex(n))),
            false => IpAddr::V4(Ipv4Addr::new(10, 84, (n >> 8) as u8, (n & 0xff) as u8)),
        };
        let member = |number: u16| MemberPlan {
            number,
            name: format!("gm{number}"),
            identity: format!("gm{number}.lab.example"),
            protocol: if number <= args.gdoi { Protocol::Gdoi } else { Protocol::Gikev2 },
            address: host(10 + number),
        };
        let (traffic, rekey) = match args.ipv6 {
            true => (
                IpAddr::V6(Ipv6Addr::new(0xff15, 0, 0, 0, 0, 0, 0xc000, 1)),
                IpAddr::V6(Ipv6Addr::new(0xff15, 0, 0, 0, 0, 0, 0xc000, 0x848)),
            ),
            false => (IpAddr::V4(Ipv4Addr::new(239, 192, 0, 1)), IpAddr::V4(Ipv4Addr::new(239, 192, 84, 8))),
        };
        Self {
            gateway: host(1),
            prefix: if args.ipv6 { 64 } else { 24 },
            traffic,
            rekey,
            members: (1..=args.members()).map(member).collect(),
        }
    }

    /// Does a member acknowledge rekeys of G-IKEv2, by our extension? All but the last one do, so that both kinds are there.
    pub(super) fn acknowledges(&self, member: &MemberPlan) -> bool {
        self.members.last() != Some(member)
    }

    /// Where members find the gateway.
    pub(super) fn gateway_socket(&self) -> SocketAddr {
        SocketAddr::new(self.gateway, IKE_PORT)
    }

    /// Where the applications send.
    pub(super) fn traffic_socket(&self) -> SocketAddr {
        SocketAddr::new(self.traffic, APP_PORT)
    }
}

fn decimal_as_hex(n: u16) -> u16 {
    (0..4).map(|i| (n / 10_u16.pow(i) % 10) << (4 * i)).sum()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use clap::Parser;

    use super::*;

    #[test]
    fn addresses_are_distinct_and_of_one_family() {
        for line in
            [vec!["lab", "--gdoi", "20", "--gikev2", "30"], vec!["lab", "--gdoi", "20", "--gikev2", "30", "--ipv6"]]
        {
            let args = Args::try_parse_from(line).unwrap();
            let plan = Plan::new(&args);
            let mut all: Vec<IpAddr> = plan.members.iter().map(|m| m.address).collect();
            all.extend([plan.gateway, plan.traffic, plan.rekey]);
            assert!(all.iter().all(|a| a.is_ipv6() == args.ipv6));
            all.sort();
            all.dedup();
            assert_eq!(all.len(), 53);
            assert_eq!(plan.members.iter().filter(|m| m.protocol == Protocol::Gdoi).count(), 20);
        }
    }

    #[test]
    fn addresses_of_both_families_read_alike() {
        let plan = Plan::new(&Args::try_parse_from(["lab", "--ipv6"]).unwrap());
        assert_eq!(plan.gateway.to_string(), "fd84::1");
        assert_eq!(plan.members[0].address.to_string(), "fd84::11");
        assert_eq!(plan.traffic.to_string(), "ff15::c000:1");
        let plan = Plan::new(&Args::try_parse_from(["lab"]).unwrap());
        assert_eq!(plan.members[3].address.to_string(), "10.84.0.14");
    }
}
