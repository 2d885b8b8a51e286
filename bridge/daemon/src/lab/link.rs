//! What the lab asks of the kernel's links: a bridge, cables, addresses. By rtnetlink, since a fresh machine has no `ip`.

use std::fs;
use std::net::IpAddr;
use std::os::fd::RawFd;

use anyhow::{Context, anyhow};
use futures::TryStreamExt;
use rtnetlink::packet_route::address::AddressHeaderFlags;
use rtnetlink::{Handle, LinkBridge, LinkBridgePort, LinkUnspec, LinkVeth};

/// Packets a link queues before it drops; ample, since a drop of ours would count as a loss of the group's.
const QUEUE: u32 = 20_000;

/// Runs netlink requests in the namespace of the calling thread.
pub(super) fn netlink<T, F: Future<Output = anyhow::Result<T>>>(
    requests: impl FnOnce(Handle) -> F,
) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    runtime.block_on(async {
        let (connection, handle, _) = rtnetlink::new_connection().context("no netlink socket")?;
        tokio::spawn(connection);
        requests(handle).await
    })
}

/// Index of a link.
pub(super) async fn index(handle: &Handle, name: &str) -> anyhow::Result<u32> {
    let found = handle.link().get().match_name(name.to_owned()).execute().try_next().await;
    let link = found.with_context(|| format!("looking for {name}"))?.ok_or_else(|| anyhow!("there is no {name}"))?;
    Ok(link.header.index)
}

/// Makes the segment: a bridge that floods multicast to all ports, and whose own interface hears everything.
pub(super) async fn create_bridge(handle: &Handle, name: &str) -> anyhow::Result<()> {
    let bridge = LinkBridge::new(name).mcast_snooping(false).forward_delay(0).build();
    handle.link().add(bridge).execute().await.context("the kernel makes no bridge (module `bridge`)")?;
    let index = index(handle, name).await?;
    let loud = LinkUnspec::new_with_index(index).promiscuous(true).up().build();
    handle.link().set(loud).execute().await.context("setting the bridge up")
}

/// Lays a cable: `port` stays here, on the bridge; `plug` goes into the namespace.
pub(super) async fn lay_cable(
    handle: &Handle,
    bridge: &str,
    port: &str,
    plug: &str,
    into: RawFd,
) -> anyhow::Result<()> {
    let pair = LinkVeth::new(port, plug).txqueuelen(QUEUE).build();
    handle.link().add(pair).execute().await.context("the kernel makes no cable (module `veth`)")?;
    let bridge = index(handle, bridge).await?;
    let here = LinkUnspec::new_with_index(index(handle, port).await?).controller(bridge).up().build();
    handle.link().set(here).execute().await.with_context(|| format!("plugging {port} into the bridge"))?;
    let there = LinkUnspec::new_with_index(index(handle, plug).await?).setns_by_fd(into).build();
    handle.link().set(there).execute().await.with_context(|| format!("moving {plug} into its namespace"))
}

/// Names the plug and gives it an address that is usable at once; sets the loopback up.
pub(super) async fn plug_in(
    handle: &Handle,
    plug: &str,
    name: &str,
    address: IpAddr,
    prefix: u8,
) -> anyhow::Result<()> {
    let lo = LinkUnspec::new_with_index(index(handle, "lo").await?).up().build();
    handle.link().set(lo).execute().await.context("setting the loopback up")?;
    let index = index(handle, plug).await?;
    let named = LinkUnspec::new_with_index(index).name(name).build();
    handle.link().set(named).execute().await.context("naming the interface")?;
    let up = LinkUnspec::new_with_index(index).up().build();
    handle.link().set(up).execute().await.context("setting the interface up")?;
    let mut add = handle.address().add(index, address, prefix);
    if address.is_ipv6() {
        add.message_mut().header.flags |= AddressHeaderFlags::Nodad;
    }
    add.execute().await.with_context(|| format!("giving {name} the address {address}"))
}

/// Isolated ports of a bridge hear all others but no isolated one: isolating two cuts what runs between them.
pub(super) async fn isolate_port(handle: &Handle, port: &str, isolated: bool) -> anyhow::Result<()> {
    let message = LinkBridgePort::new(index(handle, port).await?).isolated(isolated).build();
    handle.link().set_port(message).execute().await.with_context(|| format!("isolating {port}"))
}

/// Lengthens the queue of an interface.
pub(super) async fn lengthen_queue(handle: &Handle, name: &str) -> anyhow::Result<()> {
    let message = LinkUnspec::new_with_index(index(handle, name).await?).txqueuelen(QUEUE).build();
    handle.link().set(message).execute().await.with_context(|| format!("lengthening the queue of {name}"))
}

/// Network settings of the calling thread's namespace. Distributions differ in their defaults; where /proc/sys is not
/// writable (some containers) the defaults stay.
pub(super) fn tune_namespace() {
    const SETTINGS: [(&str, &str); 8] = [
        ("ipv4/conf/all/rp_filter", "0"),
        ("ipv4/conf/default/rp_filter", "0"),
        ("ipv6/conf/all/disable_ipv6", "0"),
        ("ipv6/conf/default/disable_ipv6", "0"),
        ("ipv6/conf/default/accept_dad", "0"),
        ("ipv6/conf/default/accept_ra", "0"),
        ("ipv6/conf/default/router_solicitations", "0"),
        ("ipv4/igmp_max_memberships", "100"),
    ];
    for (name, value) in SETTINGS {
        drop(fs::write(format!("/proc/sys/net/{name}"), value));
    }
}
