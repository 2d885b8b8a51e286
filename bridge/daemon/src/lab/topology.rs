//! The lab's network: one bridge, and on it the gateway and each member, each in a namespace of its own.

use std::net::IpAddr;

use anyhow::Context;

use super::link;
use super::netns::Namespace;
use super::plan::Plan;

/// The segment, in the namespace of the lab itself.
pub(super) const BRIDGE: &str = "segment";
/// Name of the interface on the segment, in each namespace.
pub(super) const INTERFACE: &str = "eth0";

/// The running network. Gone when dropped.
#[derive(Debug)]
pub(super) struct Topology {
    /// The gateway's namespace.
    pub gateway: Namespace,
    /// The members', in the plan's order.
    pub members: Vec<Namespace>,
}

impl Topology {
    /// Builds it around the calling thread's namespace, which becomes the segment's.
    pub(super) fn build(plan: &Plan) -> anyhow::Result<Self> {
        link::tune_namespace();
        link::netlink(async |handle| link::create_bridge(&handle, BRIDGE).await)?;
        let gateway = host("gateway", GATEWAY_PORT, plan.gateway, plan.prefix)?;
        let members = plan.members.iter().map(|m| host(&m.name, &port(m.number), m.address, plan.prefix));
        Ok(Self { gateway, members: members.collect::<anyhow::Result<_>>()? })
    }

    /// Cuts, or restores, what runs between the gateway and one member, and nothing else: both ports are isolated, and
    /// isolated ports hear each other no more.
    pub(super) fn cut_off(&self, member: u16, cut: bool) -> anyhow::Result<()> {
        link::netlink(async |handle| {
            link::isolate_port(&handle, GATEWAY_PORT, cut).await?;
            link::isolate_port(&handle, &port(member), cut).await
        })
    }
}

const GATEWAY_PORT: &str = "port-gw";

fn port(member: u16) -> String {
    format!("port-{member}")
}

fn host(name: &str, port: &str, address: IpAddr, prefix: u8) -> anyhow::Result<Namespace> {
    let namespace = Namespace::new(name)?;
    let (plug, into) = (format!("plug-{port}"), namespace.raw_fd());
    link::netlink(async |handle| link::lay_cable(&handle, BRIDGE, port, &plug, into).await)?;
    namespace
        .run(move || {
            link::tune_namespace();
            link::netlink(async |handle| link::plug_in(&handle, &plug, INTERFACE, address, prefix).await)
        })?
        .with_context(|| format!("building the namespace of {name}"))?;
    Ok(namespace)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::net::{SocketAddr, UdpSocket};
    use std::time::Duration;

    use clap::Parser;

    use super::*;
    use crate::lab::args::Args;

    /// Sends from one namespace to another until something arrives, for a second at most.
    fn reaches(from: &Namespace, to: &Namespace, address: IpAddr) -> bool {
        let at = SocketAddr::new(address, 7_000);
        let receiver = to.run(move || UdpSocket::bind(at)).unwrap().unwrap();
        receiver.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        let unspecified: IpAddr = if address.is_ipv4() { "0.0.0.0" } else { "::" }.parse().unwrap();
        let sender = from.run(move || UdpSocket::bind(SocketAddr::new(unspecified, 0))).unwrap().unwrap();
        (0..10).any(|_| {
            drop(sender.send_to(b"x", at));
            receiver.recv(&mut [0; 8]).is_ok()
        })
    }

    #[test]
    fn hosts_reach_each_other_until_they_are_cut_off() {
        for line in [vec!["lab", "--gdoi", "1", "--gikev2", "1"], vec!["lab", "--gdoi", "1", "--gikev2", "1", "--ipv6"]]
        {
            // A namespace of its own for each: the kernel takes its time to clear away what is in one that is gone.
            let Ok(segment) = Namespace::new("segment") else {
                eprintln!("not run: namespaces take root");
                return;
            };
            let plan = Plan::new(&Args::try_parse_from(line).unwrap());
            let p = plan.clone();
            let topology = segment.run(move || Topology::build(&p)).unwrap().unwrap();
            let [first, second] = &topology.members[..] else { panic!("two members") };
            let address = plan.members[1].address;
            assert!(reaches(first, &topology.gateway, plan.gateway));
            assert!(reaches(first, second, address));
            let topology = segment.run(move || topology.cut_off(1, true).map(|()| topology)).unwrap().unwrap();
            let [first, second] = &topology.members[..] else { panic!("two members") };
            assert!(!reaches(first, &topology.gateway, plan.gateway));
            assert!(reaches(first, second, address), "others are not cut off");
            let topology = segment.run(move || topology.cut_off(1, false).map(|()| topology)).unwrap().unwrap();
            assert!(reaches(&topology.members[0], &topology.gateway, plan.gateway));
        }
    }
}
