//! `keyferry member`: a group member with real sockets, a TUN device and routes.
//!
//! ```text
//!  UDP 848, multicast rekeys --+                          +--> UDP
//!  control socket -------------+--> Runner: one machine, --+--> engine (TUN <-> ESP, threads of its own)
//!  timers, signals ------------+    two during a move     +--> routes into the TUN device
//! ```
//!
//! A move runs the other protocol's machine beside the present one. Both see only datagrams of their own protocol; keys
//! come from either; when the new one has registered, the old one goes quietly.

mod listening;
mod machine;
mod network;
mod runner;
mod stream_keys;

use std::sync::Arc;

use anyhow::{Context, bail};
use dataplane::engine::userspace::MAX_OVERHEAD;
use dataplane::engine::{EngineConfig, Userspace};
use keyferry_model::id::Identity;
use keyferry_model::settings::MemberAuth;
use keyferry_model::tunnel::Tunnel;
use tokio::signal::unix::{SignalKind, signal};

use crate::config::MemberConfig;
use crate::control;
use crate::keylog::FileKeyLog;
use crate::random::Clock;
use crate::trust;
use crate::udp::{MulticastOut, Udp};

use listening::Listening;
use network::Routes;
use runner::{Parts, Runner};

/// Runs a member until it is told to stop.
///
/// # Errors
/// It cannot start: no address, no privilege, a socket or device that is in use.
pub fn run(config: MemberConfig) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    runtime.context("no runtime")?.block_on(member(config))
}

async fn member(mut config: MemberConfig) -> anyhow::Result<()> {
    let gateway = config.gateways.first().context("no gateway is configured")?.address;
    let place = network::place(gateway, config.address, config.interface.as_deref())?;
    let key_log = match &config.key_log {
        Some(directory) => Some(FileKeyLog::open(directory).with_context(|| directory.display().to_string())?),
        None => None,
    };
    let (connection, handle, _) = rtnetlink::new_connection().context("no netlink socket")?;
    tokio::spawn(connection);

    let local = std::net::SocketAddr::new(place.address, config.port);
    let socket = Udp::bind(local, MulticastOut::default()).with_context(|| {
        format!("cannot bind to {local} (the port may be taken, or privileged: ss -lunp shows; port in [member])")
    })?;
    let (mut listening, mut datagrams) = Listening::new(Arc::new(socket), place.index);
    if let Some(port) = config.life.nat_port {
        let opened = listening.open_nat_port(port);
        config.life.nat_port =
            Some(opened.with_context(|| format!("no socket at {} for NAT traversal", place.address))?);
    }

    let mtu = match config.mtu {
        Some(mtu) => mtu,
        None => {
            let room = u32::try_from(MAX_OVERHEAD).unwrap_or(u32::MAX);
            let mtu = network::mtu(&handle, &place.interface).await?.saturating_sub(room);
            u16::try_from(mtu.min(9000)).unwrap_or(1400)
        }
    };
    if mtu < 576 {
        bail!("the MTU of {} leaves no room for ESP: set mtu in [member]", place.interface);
    }
    let mut engine = EngineConfig::new(&config.tun, &place.interface, mtu);
    engine.groups = config.join.clone();
    engine.receive_only = config.sender_ids == 0;
    engine.tunnel = Tunnel { local: Some(place.address), remote: config.traffic.tunnel_destination };
    engine.key_log = key_log.clone().map(|log| Box::new(log) as Box<dyn dataplane::KeyLog + Send>);
    let engine = Userspace::start(engine).with_context(|| {
        format!("the TUN device {} cannot be made (it needs /dev/net/tun, CAP_NET_ADMIN and CAP_NET_RAW)", config.tun)
    })?;
    network::relax_source_checks(&config.tun)?;
    let mut routes = Routes::open(handle, &config.tun, place.address)?;
    for (network, prefix) in &config.protect {
        routes.add(*network, *prefix).await?;
    }

    let (server, mut calls) = control::Server::start(&config.socket)
        .with_context(|| format!("{}: the control socket cannot be made", config.socket.display()))?;
    let address = Identity::from_ip(place.address);
    let identity = config.identity.clone().unwrap_or_else(|| match &config.auth {
        MemberAuth::Psk(_) => address,
        MemberAuth::Certificate(auth) => auth.own.identity(address),
    });
    let mut trust = trust::watch(config.trust.clone())?;
    tracing::info!(%gateway, group = %config.group, %identity, interface = %place.interface,
        tun = %config.tun, mtu, "member starts");
    let parts = Parts { config, identity, clock: Clock::new(), engine, routes, listening, key_log };
    let mut runner = Runner::new(parts);
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    runner.start().await;
    if let Err(error) = sd_notify::notify(&[sd_notify::NotifyState::Ready]) {
        tracing::debug!(%error, "service manager not told");
    }
    loop {
        tokio::select! {
            Some(datagram) = datagrams.recv() => runner.receive(&datagram).await,
            Some(call) = calls.recv() => runner.call(call).await,
            () = runner.sleep() => runner.expire().await,
            Some(fresh) = trust.recv() => runner.set_trust(&fresh),
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
        }
    }
    runner.end(&mut datagrams).await;
    drop(server);
    tracing::info!("member ends; TUN device and routes are gone");
    Ok(())
}
