//! The network around a member: which address and interface it uses, and the routes that lead into its TUN device.
//!
//! The device itself belongs to the data plane's engine; it vanishes with the engine, and the routes with it.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use anyhow::{Context, anyhow, bail};
use futures::TryStreamExt;
use keyferry_model::policy::Selector;
use nix::errno::Errno;
use nix::ifaddrs::getifaddrs;
use nix::net::if_::if_nametoindex;
use nix::sys::socket::{SockaddrLike, SockaddrStorage};
use rtnetlink::packet_route::link::LinkAttribute;
use rtnetlink::packet_route::route::{RouteMessage, RouteScope, RouteType};
use rtnetlink::{Error, Handle, RouteMessageBuilder};

/// RT_TABLE_LOCAL of rtnetlink(7), in which Linux looks for IPv6 multicast first.
const LOCAL_TABLE: u32 = 255;

/// Metric of our IPv6 multicast routes: before the kernel's own of ff00::/8, which have 256.
const METRIC: u32 = 64;

/// Where a member is in the network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) address: IpAddr,
    pub(super) interface: String,
    pub(super) index: u32,
}

/// Finds address and interface, as configured or as the routes to the gateway say.
pub(super) fn place(gateway: SocketAddr, address: Option<IpAddr>, interface: Option<&str>) -> anyhow::Result<Place> {
    let address = match address {
        Some(address) => address,
        None => route_source(gateway).with_context(|| {
            format!("there is no route to the gateway {gateway}: set the network up first, or address in [member]")
        })?,
    };
    let interface = match interface {
        Some(name) => name.to_owned(),
        None => interface_of(address)?,
    };
    let index = if_nametoindex(interface.as_str())
        .with_context(|| format!("interface {interface}: see ip link for the names there are"))?;
    Ok(Place { address, interface, index })
}

/// The address that the system would send from. Nothing is sent.
fn route_source(gateway: SocketAddr) -> io::Result<IpAddr> {
    let any = match gateway {
        SocketAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        SocketAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    let socket = UdpSocket::bind((any, 0))?;
    socket.connect(gateway)?;
    Ok(socket.local_addr()?.ip())
}

fn interface_of(address: IpAddr) -> anyhow::Result<String> {
    let has = |a: &SockaddrStorage| {
        let v4 = a.as_sockaddr_in().map(|a| IpAddr::V4(a.ip()));
        v4.or_else(|| a.as_sockaddr_in6().map(|a| IpAddr::V6(a.ip()))) == Some(address)
    };
    let mut all = getifaddrs().context("interfaces cannot be listed")?;
    all.find(|i| i.address.as_ref().is_some_and(|a| a.family().is_some() && has(a)))
        .map(|i| i.interface_name)
        .ok_or_else(|| anyhow!("no interface has the address {address}: correct address or interface in [member]"))
}

/// Routes into the TUN device.
pub(super) struct Routes {
    handle: Handle,
    tun: String,
    index: u32,
    source: IpAddr,
    /// Networks that are routed.
    there: BTreeSet<(IpAddr, u8)>,
}

impl Routes {
    /// To be called when the TUN device is up. Its packets keep `source` as their source address.
    pub(super) fn open(handle: Handle, tun: &str, source: IpAddr) -> anyhow::Result<Self> {
        let index = if_nametoindex(tun).with_context(|| format!("TUN device {tun}"))?;
        Ok(Self { handle, tun: tun.to_owned(), index, source, there: BTreeSet::new() })
    }

    /// Routes a multicast network into the device, if it is not routed yet.
    pub(super) async fn add(&mut self, network: IpAddr, prefix: u8) -> anyhow::Result<()> {
        if self.there.contains(&(network, prefix)) {
            return Ok(());
        }
        let message = self.route(network, prefix);
        let added = self.handle.route().add(message).replace().execute().await;
        added.with_context(|| {
            format!("no route for {network}/{prefix} into {}: this needs CAP_NET_ADMIN, or routes = false", self.tun)
        })?;
        tracing::info!(network = %format!("{network}/{prefix}"), tun = %self.tun, "routed into the TUN device");
        self.there.insert((network, prefix));
        Ok(())
    }

    /// Takes back the routes of networks that are not to be `kept`. One that cannot be taken back is there still.
    ///
    /// # Errors
    /// Why the last of those could not be.
    pub(super) async fn keep(&mut self, kept: &BTreeSet<(IpAddr, u8)>) -> anyhow::Result<()> {
        let mut stays = Ok(());
        let surplus: Vec<(IpAddr, u8)> = self.there.difference(kept).copied().collect();
        for (network, prefix) in surplus {
            let route = self.route(network, prefix);
            let name = format!("{network}/{prefix}");
            match self.handle.route().del(route).execute().await {
                Ok(()) => tracing::info!(network = %name, tun = %self.tun, "routed into the TUN device no more"),
                Err(error) if is_absence(&error) => tracing::debug!(network = %name, "a route was gone already"),
                Err(error) => {
                    stays = Err(error).with_context(|| format!("the route for {name} into {} stays", self.tun));
                    continue;
                }
            }
            self.there.remove(&(network, prefix));
        }
        stays
    }

    fn route(&self, network: IpAddr, prefix: u8) -> RouteMessage {
        match (network, self.source) {
            (IpAddr::V4(net), IpAddr::V4(source)) => RouteMessageBuilder::<Ipv4Addr>::new()
                .destination_prefix(net, prefix)
                .output_interface(self.index)
                .pref_source(source)
                .scope(RouteScope::Link)
                .build(),
            (IpAddr::V4(net), IpAddr::V6(_)) => RouteMessageBuilder::<Ipv4Addr>::new()
                .destination_prefix(net, prefix)
                .output_interface(self.index)
                .scope(RouteScope::Link)
                .build(),
            (IpAddr::V6(net), source) => {
                let route = RouteMessageBuilder::<Ipv6Addr>::new()
                    .destination_prefix(net, prefix)
                    .output_interface(self.index)
                    .kind(RouteType::Multicast)
                    .table_id(LOCAL_TABLE)
                    .priority(METRIC);
                match source {
                    IpAddr::V6(source) => route.pref_source(source).build(),
                    IpAddr::V4(_) => route.build(),
                }
            }
        }
    }
}

/// Says the kernel that there is no such route?
fn is_absence(error: &Error) -> bool {
    matches!(error, Error::NetlinkError(error) if error.raw_code() == -(Errno::ESRCH as i32))
}

/// The multicast addresses that a line of the group's policy is about, if its destination is among them. Others are the
/// operator's business: the packets that the engine sends go to those same addresses.
pub(super) fn multicast(destination: &Selector) -> Option<(IpAddr, u8)> {
    let all = if destination.address.is_ipv4() { 4 } else { 8 };
    let within = Selector { prefix: destination.prefix.max(all), ..*destination };
    destination.address.is_multicast().then(|| (within.range().0, within.prefix))
}

/// The MTU of an interface.
pub(super) async fn mtu(handle: &Handle, interface: &str) -> anyhow::Result<u32> {
    let mut links = handle.link().get().match_name(interface.to_owned()).execute();
    let link = links.try_next().await.with_context(|| format!("interface {interface}"))?;
    let attributes = link.map(|l| l.attributes).unwrap_or_default();
    let mtu = attributes.into_iter().find_map(|a| if let LinkAttribute::Mtu(mtu) = a { Some(mtu) } else { None });
    mtu.ok_or_else(|| anyhow!("interface {interface} has no MTU"))
}

/// Lets the TUN device hand up packets whose sources are reached by another interface, as those of all other members are.
///
/// Linux takes the stricter of the setting for all interfaces and that of the device. Zero is best; where strict checks are
/// set for all, the loose kind of the device wins over them.
pub(super) fn relax_source_checks(tun: &str) -> anyhow::Result<()> {
    let path = |name: &str| format!("/proc/sys/net/ipv4/conf/{name}/rp_filter");
    let read = |name: &str| -> io::Result<u8> {
        let text = std::fs::read_to_string(path(name))?;
        text.trim().parse().map_err(|_| io::ErrorKind::InvalidData.into())
    };
    let all = read("all").context("rp_filter")?;
    let wanted = if all == 0 { 0 } else { 2 };
    if read(tun).ok() == Some(wanted) {
        return Ok(());
    }
    if let Err(error) = std::fs::write(path(tun), wanted.to_string()) {
        bail!(
            "{}: {error}: packets of other members would be dropped; run: sysctl net.ipv4.conf.{tun}.rp_filter={wanted}",
            path(tun)
        );
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(super) mod tests {
    use rtnetlink::packet_core::ErrorMessage;

    use super::*;

    /// Routes to networks, with nobody behind them who could change anything.
    pub(in crate::member) fn stuck(there: &[(IpAddr, u8)]) -> Routes {
        let (_, handle, _) = rtnetlink::new_connection().unwrap();
        let source = Ipv4Addr::LOCALHOST.into();
        Routes { there: there.iter().copied().collect(), ..Routes::open(handle, "lo", source).unwrap() }
    }

    #[tokio::test]
    async fn a_route_is_gone_when_the_kernel_has_said_so() {
        let network = ("239.192.0.1".parse().unwrap(), 32);
        let mut routes = stuck(&[network]);
        routes.keep(&BTreeSet::from([network])).await.unwrap();
        for _ in 0..2 {
            let stays = routes.keep(&BTreeSet::new()).await.unwrap_err().to_string();
            assert_eq!(stays, "the route for 239.192.0.1/32 into lo stays");
        }
        let told = |code| {
            let mut message = ErrorMessage::default();
            message.code = std::num::NonZeroI32::new(code);
            Error::NetlinkError(message)
        };
        assert!(is_absence(&told(-3)));
        assert!(!is_absence(&told(-1)) && !is_absence(&Error::RequestFailed));
    }
}
