//! The way of a group's traffic: an engine, and where it has a TUN device the routes that lead into it.
//!
//! `auto` begins with the kernel's ESP where the system has it, and goes over to the user-space engine with the first keys that
//! the kernel must not or cannot have. It never comes back, since applications have joined the groups on the other device by then.
//!
//! What new keys protect is routed and guarded before they are used, and what the group's policy names no more until its roll-over is over.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::num::{NonZeroU8, NonZeroU32};
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, bail};
use dataplane::engine::userspace::MAX_OVERHEAD;
use dataplane::engine::{Engine, EngineConfig, Kernel, KernelConfig, KeysOnly, Userspace, Wire};
use dataplane::{ApplyError, KeyLog, LocalPolicy, Sizes, Unsuitable};
use keyferry_model::time::Now;
use keyferry_model::tunnel::Tunnel;
use keyferry_model::update::GroupUpdate;
use rtnetlink::Handle;

use super::guard::{Guard, Line};
use super::local;
use super::network::{self, Place, Routes, multicast};
use crate::config::{EngineChoice, GuardChoice, MemberConfig, MemberGroup};
use crate::keylog::FileKeyLog;

/// Where names of kernel engines are taken. One place for all members, or they would not see each other.
const KERNEL_NAMES: &str = "/run/keyferry";

/// An engine and what leads to it.
pub(super) struct Plane {
    pub(super) engine: Box<dyn Engine>,
    /// Into the TUN device.
    routes: Option<Routes>,
    /// Keeps clear packets away that go past the device.
    guard: Option<Guard>,
    /// Are new policies routed into the device?
    follows: bool,
    /// What takes the engine's place when it gives an update back.
    spare: Option<Spare>,
    /// Networks that are protected whatever the group says.
    protect: Vec<(IpAddr, u8)>,
    /// What the group protects, as far as routes and guard are about it.
    named: Arc<[Line]>,
    /// Where rekeys come, in clear.
    clear: BTreeSet<SocketAddr>,
    /// Why the kernel's ESP was not taken, where it might have been.
    pub(super) declined: Option<String>,
}

/// What engines are made of.
pub(super) struct Surroundings<'a> {
    pub(super) config: &'a MemberConfig,
    pub(super) place: &'a Place,
    pub(super) handle: &'a Handle,
    pub(super) key_log: Option<&'a FileKeyLog>,
}

/// A user-space engine that can be started at any time.
struct Spare {
    tun: String,
    place: Place,
    handle: Handle,
    mtu: Option<u16>,
    path_mtu: Option<u16>,
    sizes: Sizes,
    queues: NonZeroU8,
    offloads: bool,
    receivers: NonZeroU8,
    wire: Wire,
    guard: GuardChoice,
    dummies: Option<NonZeroU32>,
    local: LocalPolicy,
    protect: Vec<(IpAddr, u8)>,
    join: Vec<IpAddr>,
    receive_only: bool,
    tunnel: Tunnel,
    key_log: Option<FileKeyLog>,
}

impl Plane {
    /// Starts the engine that the configuration names.
    pub(super) async fn open(tun: &str, group: &MemberGroup, around: &Surroundings<'_>) -> anyhow::Result<Self> {
        let spare = Spare::new(tun, group, around);
        let plane = match group.engine {
            EngineChoice::Auto => match Kernel::start(spare.kernel(true)) {
                Ok(engine) => Self { spare: Some(spare), ..Self::of(Box::new(engine)) },
                Err(error) => {
                    let declined = Some(error.to_string());
                    Self { declined, ..Self::userspace(&spare, around).await? }
                }
            },
            EngineChoice::Kernel => {
                Self::of(Box::new(Kernel::start(spare.kernel(false)).context("engine = \"kernel\"")?))
            }
            EngineChoice::Userspace => Self::userspace(&spare, around).await?,
            EngineChoice::None => Self::of(Box::new(KeysOnly::new(spare.tunnel, boxed(spare.key_log.as_ref())))),
        };
        if plane.routes.is_none() {
            Guard::clear_away(tun);
        }
        let status = plane.engine.status();
        tracing::info!(group = %group.id, engine = status.engine, tun = status.tun, why = plane.declined, "engine is up");
        Ok(plane)
    }

    fn of(engine: Box<dyn Engine>) -> Self {
        Self {
            engine,
            routes: None,
            guard: None,
            follows: false,
            spare: None,
            protect: Vec::new(),
            named: Arc::new([]),
            clear: BTreeSet::new(),
            declined: None,
        }
    }

    async fn userspace(spare: &Spare, around: &Surroundings<'_>) -> anyhow::Result<Self> {
        let (engine, routes, guard) = spare.start().await?;
        let (follows, protect) = (around.config.routes, spare.protect.clone());
        Ok(Self { routes: Some(routes), guard, follows, protect, ..Self::of(Box::new(engine)) })
    }

    /// New keys: what they protect is routed into the TUN device first, so that nothing of it leaves in clear. A route that
    /// cannot be made is told.
    ///
    /// # Errors
    /// The engine refuses the keys; nothing of them is used.
    pub(super) async fn update(&mut self, update: GroupUpdate, now: Now) -> Result<Option<String>, String> {
        let mut problem = None;
        if let Some(routes) = self.routes.as_mut().filter(|_| self.follows) {
            for (network, prefix) in lines(&update).filter_map(|(_, to)| multicast(&to)) {
                if let Err(error) = routes.add(network, prefix).await {
                    problem = Some(format!("{error:#}"));
                }
            }
        }
        if let Some(guard) = &mut self.guard {
            guard.extend(lines(&update)).map_err(|error| format!("{error:#}"))?;
        }
        match self.engine.apply(update, now) {
            Err(ApplyError::Unsuitable(refused)) if self.spare.is_some() => self.go_over(*refused, now).await,
            applied => {
                self.follow().await;
                applied.map(|()| problem).map_err(|error| error.to_string())
            }
        }
    }

    /// Does what is due.
    pub(super) async fn expire(&mut self, now: Now) {
        self.engine.expire(now);
        self.follow().await;
    }

    /// Routes and guards what the group protects, and nothing else.
    async fn follow(&mut self) {
        let named = self.engine.named();
        if self.named == named {
            return;
        }
        if let Some(guard) = &mut self.guard {
            guard.follow(&named);
        }
        if let Some(routes) = &mut self.routes {
            let networks = named.iter().filter_map(|(_, to)| multicast(to));
            routes.keep(&networks.chain(self.protect.iter().copied()).collect()).await;
        }
        self.named = named;
    }

    /// The user-space engine takes the place of the kernel's, with its SAs. In between packets are dropped, and at no time are
    /// they neither blocked by the kernel nor routed into the TUN device.
    async fn go_over(&mut self, refused: Unsuitable, now: Now) -> Result<Option<String>, String> {
        let Some(spare) = &self.spare else { return Err(refused.to_string()) };
        let named = self.engine.named();
        let fails = |error: anyhow::Error| format!("{refused}, and userspace cannot take over: {error:#}");
        let (engine, mut routes, mut guard) = spare.start().await.map_err(fails)?;
        for (network, prefix) in named.iter().filter_map(|(_, to)| multicast(to)) {
            if let Err(error) = routes.add(network, prefix).await {
                engine.stop();
                return Err(fails(error));
            }
        }
        if let Some(Err(error)) = guard.as_mut().map(|guard| guard.take_over(&named, &self.clear)) {
            engine.stop();
            return Err(fails(error));
        }
        if let Some(sad) = self.engine.hand_over() {
            engine.adopt(sad);
        }
        std::mem::replace(&mut self.engine, Box::new(engine)).stop();
        self.protect = self.spare.take().map(|spare| spare.protect).unwrap_or_default();
        (self.routes, self.guard, self.follows) = (Some(routes), guard, true);
        tracing::warn!(why = %refused, "the kernel's ESP is not for these keys: userspace takes over");
        self.declined = Some(refused.to_string());
        let applied = self.engine.apply(refused.update, now).map(|()| None).map_err(|error| error.to_string());
        self.follow().await;
        applied
    }

    /// Rekeys come to this address, in clear.
    pub(super) fn leave_clear(&mut self, address: SocketAddr) {
        self.engine.leave_clear(address);
        self.clear.insert(address);
        if let Some(guard) = &mut self.guard {
            guard.leave_clear(address);
        }
    }

    /// Why nothing keeps clear packets away that go past the TUN device, where something should.
    pub(super) fn unguarded(&self) -> Option<&str> {
        self.guard.as_ref()?.problem()
    }
}

/// What an update names, source and destination.
fn lines(update: &GroupUpdate) -> impl Iterator<Item = Line> {
    update.install.iter().map(|sa| (sa.policy.source, sa.policy.destination))
}

impl Spare {
    fn new(tun: &str, group: &MemberGroup, around: &Surroundings<'_>) -> Self {
        let config = around.config;
        Self {
            tun: tun.to_owned(),
            place: around.place.clone(),
            handle: around.handle.clone(),
            mtu: config.mtu,
            path_mtu: config.path_mtu,
            sizes: config.sizes.clone(),
            queues: config.queues,
            offloads: config.tun_offloads,
            receivers: config.receive_threads,
            wire: config.wire,
            guard: config.guard,
            dummies: config.dummies,
            local: local::policy(group, &config.traffic.accept),
            protect: group.protect.clone(),
            join: group.join.clone(),
            receive_only: config.sender_ids == 0,
            tunnel: Tunnel { local: Some(around.place.address), remote: config.traffic.tunnel_destination },
            key_log: around.key_log.cloned(),
        }
    }

    /// For the kernel in its place.
    fn kernel(&self, strict: bool) -> KernelConfig {
        KernelConfig {
            name: self.tun.clone(),
            names: PathBuf::from(KERNEL_NAMES),
            interface: self.place.interface.clone(),
            networks: self.protect.clone(),
            groups: self.join.clone(),
            receive_only: self.receive_only,
            tunnel: self.tunnel,
            sizes: self.sizes.clone(),
            strict,
            key_log: boxed(self.key_log.as_ref()),
        }
    }

    /// Makes the TUN device, routes what is protected from the start into it, and keeps it from going past.
    async fn start(&self) -> anyhow::Result<(Userspace, Routes, Option<Guard>)> {
        let (tun, interface) = (self.tun.as_str(), self.place.interface.as_str());
        let mtu = match self.mtu {
            Some(mtu) => mtu,
            None => {
                let room = u32::try_from(MAX_OVERHEAD).unwrap_or(u32::MAX);
                let link = network::mtu(&self.handle, interface).await?;
                let mtu = link.min(self.path_mtu.map_or(link, u32::from)).saturating_sub(room);
                u16::try_from(mtu.min(9000)).unwrap_or(1400)
            }
        };
        if mtu < 576 {
            bail!("the MTU of {interface} leaves no room for ESP: set mtu in [member]");
        }
        let mut engine = EngineConfig::new(tun, interface, mtu);
        engine.queues = self.queues;
        engine.offloads = self.offloads;
        engine.receivers = self.receivers;
        engine.wire = self.wire;
        engine.dummies = self.dummies;
        engine.local = self.local.clone();
        engine.groups = self.join.clone();
        engine.receive_only = self.receive_only;
        engine.tunnel = self.tunnel;
        (engine.path_mtu, engine.sizes) = (self.path_mtu, self.sizes.clone());
        engine.key_log = boxed(self.key_log.as_ref());
        let engine = Userspace::start(engine).with_context(|| {
            format!("the TUN device {tun} cannot be made (it needs /dev/net/tun, CAP_NET_ADMIN and CAP_NET_RAW)")
        })?;
        network::relax_source_checks(tun)?;
        let mut routes = Routes::open(self.handle.clone(), tun, self.place.address)?;
        for (network, prefix) in &self.protect {
            routes.add(*network, *prefix).await?;
        }
        let guard = Guard::open(self.guard, (tun, self.place.index), &self.local, &self.protect)?;
        tracing::info!(%tun, mtu, "TUN device is up");
        Ok((engine, routes, guard))
    }
}

fn boxed(log: Option<&FileKeyLog>) -> Option<Box<dyn KeyLog + Send>> {
    log.cloned().map(|log| Box::new(log) as Box<dyn KeyLog + Send>)
}
