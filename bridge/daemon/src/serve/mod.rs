//! `keyferry serve`: the key server on real sockets, over the store.
//!
//! ```text
//!  TCP connections, bounded, too --+
//!  UDP sockets --(bounded queue)--+                            +--> store: one durable commit per round
//!  control socket ----------------+--> Round: the task that ---+--> then UDP, in order
//!  finished jobs -----------------+    owns the Gateway        +--> job pool (public-key work)
//!  timers, signals ---------------+                            +--> replies on the control socket
//! ```
//!
//! One round takes everything that waits (group commit), writes what must not repeat, and only then sends.

mod connections;
mod jobs;
mod reload;
mod round;
mod signing;

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use anyhow::Context;
use keyferry_gateway::{Gateway, GatewaySettings};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use crate::config::GatewayConfig;
use crate::control;
use crate::keylog::FileKeyLog;
use crate::metrics;
use crate::random::{Clock, OsRandom};
use crate::store::{MasterKeySource, Store};
use crate::tcp::{Listener, Shared};
use crate::trust;
use crate::udp::{MulticastOut, Udp, pump};

use connections::Connections;
use jobs::Jobs;
use reload::{Reloading, Source};
use round::Round;
use signing::SigningKeys;

/// Datagrams that may wait for a round.
const QUEUE: usize = 8192;

/// Messages out of connections that may wait; the others wait in their connections.
const STREAM_QUEUE: usize = 256;

/// Runs a gateway until it is told to stop.
///
/// # Errors
/// It cannot start, or its store fails while it runs.
pub fn run(config: GatewayConfig, file: &Path) -> anyhow::Result<()> {
    let credentials_directory = std::env::var_os("CREDENTIALS_DIRECTORY").map(std::path::PathBuf::from);
    let key = MasterKeySource::find(&config.master_key, credentials_directory.as_deref());
    let (mut store, mut records) = Store::open(&config.store, &key, &mut OsRandom)?;
    let mut keys = SigningKeys::take(&mut records)?;
    let groups = keys.policies(&config, &mut store)?;
    let clock = Clock::new();
    let settings = GatewaySettings {
        credentials: Arc::new(config.credentials.clone()),
        groups,
        identity: config.identity.clone(),
        idle_ike_sa: config.idle,
        aggressive: config.phase1.aggressive,
        danger_weak_phase1: config.phase1.danger_weak,
        phase1_lifetime: config.life.lifetime,
        dpd: config.life.dpd,
        fragment_size: config.life.fragment_size,
        ike: config.life.ike,
        ike2: config.ike2.clone(),
        connections: config.connections,
    };
    let gateway = Gateway::new(settings, records, clock.now(), &mut OsRandom)
        .with_context(|| format!("{}: the store cannot be used", config.store.display()))?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .max_blocking_threads(jobs::parallelism() + 4)
        .enable_all()
        .build()
        .context("no runtime")?;
    let source = Source { file: file.to_owned(), keys };
    runtime.block_on(serve(config, source, gateway, store, clock))
}

async fn serve(
    config: GatewayConfig,
    source: Source,
    mut gateway: Gateway,
    store: Store,
    clock: Clock,
) -> anyhow::Result<()> {
    if let Some(directory) = &config.key_log {
        let log = FileKeyLog::open(directory).with_context(|| directory.display().to_string())?;
        gateway.set_key_log(Box::new(log.clone()), Box::new(log));
    }
    let sockets = bind(&config)?;
    let (queue, mut datagrams) = mpsc::channel(QUEUE);
    let overrun = Arc::new(AtomicU64::new(0));
    for socket in &sockets {
        pump(Arc::clone(socket), queue.clone(), Arc::clone(&overrun));
    }
    let (queue, mut streams) = mpsc::channel(STREAM_QUEUE);
    let listeners = bind_tcp(&config)?;
    let connections = Connections::new(listeners.iter().map(Listener::local).collect());
    let shared = Shared::new(config.connections.total, queue.clone());
    listeners.into_iter().for_each(|listener| drop(listener.run(shared.clone())));
    let (server, mut calls) = control::Server::start(&config.socket)
        .with_context(|| format!("{}: the control socket cannot be made", config.socket.display()))?;
    let metrics = metrics::offer(config.metrics, server.calls()).await?;
    let (jobs, mut results) = Jobs::new();
    let groups = config.groups.len();
    let mut trust = trust::watch(config.trust.clone())?;
    let mut round =
        Round::new(gateway, store, clock, (sockets, connections), jobs, overrun, Reloading::new(config, source));
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let mut hangup = signal(SignalKind::hangup())?;
    // What was on its way when the last process ended goes on before anything new is taken.
    round.expire();
    round.settle().await?;
    tracing::info!(listen = ?round.listen(), listen_tcp = ?round.listen_tcp(), groups, "gateway serves");
    notify(sd_notify::NotifyState::Ready);
    loop {
        tokio::select! {
            Some(datagram) = datagrams.recv() => round.datagrams(datagram, &mut datagrams),
            Some(event) = streams.recv() => round.streams(event, &mut streams),
            Some((id, done)) = results.recv() => round.complete(id, done, &mut results),
            Some(call) = calls.recv() => round.call(call),
            () = round.sleep() => round.expire(),
            Some(fresh) = trust.recv() => round.set_trust(fresh),
            _ = hangup.recv() => round.hangup(),
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
        }
        round.settle().await?;
    }
    notify(sd_notify::NotifyState::Stopping);
    drop((server, metrics));
    tracing::info!("gateway ends; members keep their keys, and it goes on from its store");
    Ok(())
}

fn bind(config: &GatewayConfig) -> anyhow::Result<Vec<Arc<Udp>>> {
    let interface = match &config.rekey.interface {
        None => 0,
        Some(name) => nix::net::if_::if_nametoindex(name.as_str())
            .with_context(|| format!("rekey_interface {name}: see ip link for the names there are"))?,
    };
    let multicast = MulticastOut { interface, source: config.rekey.source.clone(), ttl: config.rekey.ttl };
    let mut sockets = Vec::new();
    for address in &config.listen {
        match Udp::bind(*address, multicast.clone()) {
            Ok(socket) => sockets.push(Arc::new(socket)),
            // Not configured by hand: a machine without IPv6, or with another IKE at 4500, is no reason to stop.
            Err(error)
                if (address.is_ipv6() || address.port() == gdoi::NAT_PORT)
                    && address.ip().is_unspecified()
                    && config.listen.len() > 1 =>
            {
                tracing::warn!(%address, %error, "not listening there");
            }
            Err(error) => return Err(cannot_listen(error, *address, "listen")),
        }
    }
    Ok(sockets)
}

fn bind_tcp(config: &GatewayConfig) -> anyhow::Result<Vec<Listener>> {
    let bind = |a: &SocketAddr| Listener::bind(*a).map_err(|error| cannot_listen(error, *a, "listen_tcp"));
    config.listen_tcp.iter().map(bind).collect()
}

fn cannot_listen(error: std::io::Error, address: SocketAddr, key: &str) -> anyhow::Error {
    let kind = error.kind();
    let remedy = if kind == ErrorKind::AddrInUse {
        "another process has the port: ss -ltunp shows which".to_owned()
    } else if kind == ErrorKind::PermissionDenied {
        "ports below 1024 need root, or CAP_NET_BIND_SERVICE from the service manager".to_owned()
    } else {
        format!("correct {key} in [gateway]: it names addresses of this machine")
    };
    anyhow::Error::new(error).context(format!("cannot listen at {address} ({remedy})"))
}

/// Tells the service manager, if there is one.
fn notify(state: sd_notify::NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(&[state]) {
        tracing::debug!(%error, "service manager not told");
    }
}
