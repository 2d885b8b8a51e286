//! `keyferry member`: a group member with real sockets, an engine of the data plane and routes.
//!
//! ```text
//!  UDP 848, multicast rekeys --+                          +--> UDP
//!  TCP, where it is wanted ----+                          +--> TCP
//!  control socket -------------+--> Runner: one machine, --+--> engine (TUN <-> ESP, threads of its own)
//!  timers, signals ------------+    two during a move     +--> routes into the TUN device
//!  news of guards -------------+                          +--> guard: packet filter (nft, beside everything else)
//! ```
//!
//! A move runs the other protocol's machine beside the present one. Both see only datagrams of their own protocol; keys
//! come from either; when the new one has registered, the old one goes quietly.

mod connections;
mod guard;
mod joined;
mod key_logging;
mod listening;
mod local;
mod machine;
mod network;
mod nft;
mod plane;
mod runner;
mod stream_keys;
mod trace;

use std::sync::Arc;

use anyhow::Context;
use keyferry_model::id::Identity;
use keyferry_model::settings::OneSide;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use crate::config::MemberConfig;
use crate::control;
use crate::keylog::FileKeyLog;
use crate::metrics;
use crate::random::Clock;
use crate::trust;
use crate::udp::{MulticastOut, Udp};

use connections::Connections;
use guard::Desk;
use joined::Joined;
use listening::Listening;
use nft::Nft;
use plane::Surroundings;
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
        config.ike.nat_port = config.life.nat_port;
    }

    let (news, mut guards) = mpsc::unbounded_channel();
    let mut joined = Vec::with_capacity(config.groups.len());
    for (at, group) in config.groups.iter().enumerate() {
        let desk = Desk { nft: Nft::find(), group: at, news: news.clone() };
        let around = Surroundings { config: &config, place: &place, handle: &handle, key_log: key_log.as_ref(), desk };
        joined.push(Joined::open(group, &around).await?);
    }

    let (server, mut calls) = control::Server::start(&config.socket)
        .with_context(|| format!("{}: the control socket cannot be made", config.socket.display()))?;
    let metrics = metrics::offer(config.metrics, server.calls()).await?;
    let address = Identity::from_ip(place.address);
    let identity = config.identity.clone().unwrap_or_else(|| match config.auth.ours() {
        OneSide::Psk(_) => address,
        OneSide::Certificate(own) => own.identity(address),
    });
    let mut trust = trust::watch(config.trust.clone())?;
    tracing::info!(%gateway, groups = joined.len(), %identity, interface = %place.interface, "member starts");
    let (connections, mut streams) = Connections::new();
    let parts = Parts { config, identity, clock: Clock::new(), joined, listening, connections, key_log };
    let mut runner = Runner::new(parts);
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    runner.start().await;
    if let Err(error) = sd_notify::notify(&[sd_notify::NotifyState::Ready]) {
        tracing::debug!(%error, "service manager not told");
    }
    loop {
        tokio::select! {
            Some(datagram) = datagrams.recv() => runner.receive(&datagram).await,
            Some(event) = streams.recv() => runner.stream(event).await,
            Some(finished) = guards.recv() => runner.guarded(finished).await,
            Some(call) = calls.recv() => runner.call(call).await,
            () = runner.sleep() => runner.expire().await,
            Some(fresh) = trust.recv() => runner.set_trust(&fresh),
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
        }
    }
    runner.end(&mut datagrams, &mut streams, &mut guards).await;
    drop((server, metrics));
    tracing::info!("member ends; TUN devices and routes are gone");
    Ok(())
}
