//! The way of a group's traffic: an engine, and where it has a TUN device the routes that lead into it.
//!
//! `auto` begins with the kernel's ESP where the system has it, and goes over to the user-space engine with the first keys that
//! the kernel must not or cannot have. It never comes back, since applications have joined the groups on the other device by then.
//!
//! Nothing of new keys is used before what they protect is guarded, and the guard's rules are loaded beside everything else: an update may have to
//! wait, and is finished by the news of it. What brings no keys waits for nothing: keys that are to go do so in any case.
//! What a group's policy names no more is routed and guarded until its roll-over is over.

use std::collections::{BTreeSet, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::num::{NonZeroU8, NonZeroU32};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use dataplane::engine::userspace::MAX_OVERHEAD;
use dataplane::engine::{Engine, EngineConfig, Kernel, KernelConfig, KeysOnly, Userspace, Wire};
use dataplane::{ApplyError, KeyLog, LocalPolicy, Sizes, Unsuitable, are_sound};
use keyferry_model::time::{Deadline, Now};
use keyferry_model::tunnel::Tunnel;
use keyferry_model::update::{GroupUpdate, Removal};
use rtnetlink::Handle;
use tokio::task::JoinHandle;

use super::guard::{Desk, Guard, Line, News};
use super::local;
use super::network::{self, Place, Routes, multicast};
use crate::config::{EngineChoice, GuardChoice, MemberConfig, MemberGroup};
use crate::control::GuardStatus;
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
    /// Is all of that routed, and nothing else?
    is_routed: bool,
    /// What it protects and keys were refused for, for want of the guard.
    lacking: HashSet<Line>,
    /// What waits for the guard, and since when.
    waiting: Option<(Waiting, Duration)>,
    /// The guard of an engine that could not take over, on its way out.
    closing: Option<JoinHandle<()>>,
    /// Where rekeys come, in clear.
    clear: BTreeSet<SocketAddr>,
    /// Why the kernel's ESP was not taken, where it might have been.
    pub(super) declined: Option<String>,
}

/// What is done when the guard's rules are loaded.
enum Waiting {
    /// New keys, if they are wanted still, and what is the matter with their routes.
    Apply(Option<GroupUpdate>, Option<String>),
    GoOver(Box<Successor>),
}

/// The user-space engine that takes over with the keys that the kernel refused.
struct Successor {
    engine: Userspace,
    routes: Routes,
    guard: Option<Guard>,
    refused: Unsuitable,
    /// Are the keys wanted still?
    wanted: bool,
}

/// What has become of an update. A problem that keeps nobody from the keys is told.
pub(super) type Outcome = Result<Option<String>, String>;

/// What engines are made of.
pub(super) struct Surroundings<'a> {
    pub(super) config: &'a MemberConfig,
    pub(super) place: &'a Place,
    pub(super) handle: &'a Handle,
    pub(super) key_log: Option<&'a FileKeyLog>,
    pub(super) desk: Desk,
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
    desk: Desk,
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
            Guard::clear_away(tun, &around.desk.nft).await;
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
            is_routed: true,
            lacking: HashSet::new(),
            waiting: None,
            closing: None,
            clear: BTreeSet::new(),
            declined: None,
        }
    }

    async fn userspace(spare: &Spare, around: &Surroundings<'_>) -> anyhow::Result<Self> {
        let (engine, routes, mut guard) = spare.start().await?;
        if let Some(guard) = &mut guard {
            guard.stand().await.map_err(anyhow::Error::msg).context("guard = \"required\"")?;
        } else {
            Guard::clear_away(&spare.tun, &around.desk.nft).await;
        }
        let follows = around.config.routes;
        let protect = spare.protect.clone();
        Ok(Self { routes: Some(routes), guard, follows, protect, ..Self::of(Box::new(engine)) })
    }

    /// New keys: what they protect is routed into the TUN device and guarded first, so that nothing of it leaves in clear. A route that
    /// cannot be made is told. `None` is told later, by [`Self::take`]; until then there must be no other update.
    /// One without keys is never told later.
    ///
    /// # Errors
    /// The keys are refused; nothing of them is used.
    pub(super) async fn update(&mut self, update: GroupUpdate, now: Now) -> Option<Outcome> {
        if update.install.is_empty() {
            return self.apply(update, None, now).await;
        }
        let mut problem = None;
        if let Some(routes) = self.routes.as_mut().filter(|_| self.follows) {
            for (network, prefix) in lines(&update).filter_map(|(_, to)| multicast(&to)) {
                if let Err(error) = routes.add(network, prefix).await {
                    problem = Some(format!("{error:#}"));
                }
            }
        }
        if let Some(guard) = &mut self.guard {
            guard.extend(lines(&update));
            if guard.is_busy() {
                self.waiting = Some((Waiting::Apply(Some(update), problem), now.mono));
                return None;
            }
        }
        self.apply(update, problem, now).await
    }

    /// What an update is about is guarded, as far as it can be.
    async fn apply(&mut self, update: GroupUpdate, problem: Option<String>, now: Now) -> Option<Outcome> {
        let failure = self.guard.as_ref().and_then(Guard::failure).filter(|_| !update.install.is_empty());
        if let Some(why) = failure.map(str::to_owned) {
            self.refuse(&update, now);
            self.lacking.extend(lines(&update).filter(are_sound));
            self.follow().await;
            return Some(Err(why));
        }
        match update.remove {
            // It tells the whole policy.
            Removal::All => self.lacking.clear(),
            Removal::Spis(_) => {
                for line in lines(&update) {
                    self.lacking.remove(&line);
                }
            }
        }
        match self.engine.apply(update, now) {
            Err(ApplyError::Unsuitable(refused)) if self.spare.is_some() => return self.go_over(*refused, now).await,
            applied => {
                self.follow().await;
                Some(applied.map(|()| problem).map_err(|error| error.to_string()))
            }
        }
    }

    /// The keys of an update are not used. What they are for is protected all the same, and what is to go does, but for what
    /// they were to take the place of.
    fn refuse(&self, update: &GroupUpdate, now: Now) {
        self.engine.hold(&lines(update).collect::<Vec<_>>());
        let refused: HashSet<Line> = lines(update).collect();
        let is_removed = |spi: u32| match &update.remove {
            Removal::Spis(spis) => spis.contains(&spi),
            Removal::All => update.install.iter().all(|sa| sa.spi != spi),
        };
        let there = self.engine.purposes().into_iter();
        let gone = there.filter(|(spi, line)| is_removed(*spi) && !refused.contains(line)).map(|(spi, _)| spi);
        self.remove(Removal::Spis(gone.collect()), update, now);
    }

    /// What an update removes that has to wait goes at once. It comes in its turn all the same: what waits before it may bring
    /// what it removes.
    pub(super) fn remove_early(&self, update: &GroupUpdate, now: Now) {
        self.remove(update.remove.clone(), update, now);
    }

    /// Has SAs go in the times of an update.
    fn remove(&self, remove: Removal, update: &GroupUpdate, now: Now) {
        let (activation_delay, deactivation_delay) = (update.activation_delay, update.deactivation_delay);
        let removal =
            GroupUpdate { install: Vec::new(), remove, sender_ids: None, activation_delay, deactivation_delay };
        if let Err(error) = self.engine.apply(removal, now) {
            tracing::error!(%error, "data SAs cannot be removed");
        }
    }

    /// Somebody has named these lines, and their keys are not to come.
    pub(super) async fn hold(&mut self, lines: &[Line]) {
        self.engine.hold(lines);
        self.follow().await;
    }

    /// Everything is gone at once. The keys that wait are another matter: [`Self::void`].
    pub(super) fn flush(&mut self) {
        self.engine.flush();
        self.lacking.clear();
    }

    /// Something of the guard has ended. An update that has waited for it is told of then.
    pub(super) async fn take(&mut self, news: News, now: Now) -> Option<Outcome> {
        let successors =
            if let Some((Waiting::GoOver(successor), _)) = &mut self.waiting { successor.guard.as_mut() } else { None };
        let guard = successors.or(self.guard.as_mut())?;
        guard.take(news);
        if guard.is_busy() {
            return None;
        }
        let (waiting, since) = self.waiting.take()?;
        let waited = Duration::from_secs(now.mono.saturating_sub(since).as_secs());
        match waiting {
            Waiting::Apply(Some(mut update), problem) => {
                count_from_before(&mut update, waited);
                self.apply(update, problem, now).await
            }
            Waiting::Apply(None, problem) => {
                self.follow().await;
                Some(Ok(problem))
            }
            Waiting::GoOver(mut successor) => {
                count_from_before(&mut successor.refused.update, waited);
                Some(self.succeed(*successor, now).await)
            }
        }
    }

    /// The keys that wait are not to come. What they were for is protected on, and they are told of all the same.
    pub(super) fn void(&mut self) {
        match &mut self.waiting {
            Some((Waiting::Apply(update, _), _)) => {
                if let Some(update) = update.take() {
                    self.engine.hold(&lines(&update).collect::<Vec<_>>());
                }
            }
            // The kernel engine has held what it refused.
            Some((Waiting::GoOver(successor), _)) => {
                successor.refused.update.install.clear();
                successor.wanted = false;
            }
            None => {}
        }
    }

    /// Routes and guards what the group protects, and nothing else. What waits is not known to the engine yet.
    async fn follow(&mut self) {
        let named = self.engine.named();
        if self.waiting.is_some() || self.named == named && self.is_routed {
            return;
        }
        if let Some(guard) = self.guard.as_mut().filter(|_| self.named != named) {
            guard.follow(&named);
        }
        if let Some(routes) = &mut self.routes {
            let networks: BTreeSet<(IpAddr, u8)> = named.iter().filter_map(|(_, to)| multicast(to)).collect();
            let mut routed = routes.keep(&networks.iter().chain(&self.protect).copied().collect()).await;
            for (network, prefix) in networks.into_iter().filter(|_| self.follows) {
                routed = routed.and(routes.add(network, prefix).await);
            }
            if let (Err(error), true) = (&routed, self.is_routed) {
                tracing::warn!("{error:#}, and this is tried again");
            }
            self.is_routed = routed.is_ok();
        }
        let still: HashSet<Line> = named.iter().copied().collect();
        self.lacking.retain(|line| still.contains(line));
        self.named = named;
    }

    /// Does what is due.
    pub(super) async fn expire(&mut self, now: Now) {
        self.engine.expire(now);
        self.follow().await;
        if let Some(guard) = &mut self.guard {
            guard.expire(now);
        }
    }

    /// When [`Self::expire`] is wanted next.
    pub(super) fn deadline(&self) -> Option<Deadline> {
        Deadline::earlier(self.engine.deadline(), self.guard.as_ref().map(Guard::deadline))
    }

    /// The user-space engine is to take the place of the kernel's, with its SAs. In between packets are dropped, and at no time are
    /// they neither blocked by the kernel nor routed into the TUN device.
    async fn go_over(&mut self, refused: Unsuitable, now: Now) -> Option<Outcome> {
        let spare = self.spare.as_ref()?;
        let (engine, routes, mut guard) = match spare.start().await {
            Ok(started) => started,
            Err(error) => {
                self.refuse(&refused.update, now);
                return Some(Err(cannot(&refused, &format!("{error:#}"))));
            }
        };
        if let Some(guard) = &mut guard {
            // Of one that could not take over before.
            guard.take_over(&self.engine.named(), &self.clear, self.closing.take());
        }
        let successor = Successor { engine, routes, guard, refused, wanted: true };
        if successor.guard.as_ref().is_some_and(Guard::is_busy) {
            self.waiting = Some((Waiting::GoOver(Box::new(successor)), now.mono));
            return None;
        }
        Some(self.succeed(successor, now).await)
    }

    /// The guard of the engine that takes over has been waited for. Routes, which too keep packets from the kernel's ESP, are made now.
    async fn succeed(&mut self, successor: Successor, now: Now) -> Outcome {
        let Successor { engine, mut routes, guard, refused, wanted } = successor;
        let mut failure = guard.as_ref().and_then(Guard::failure).map(str::to_owned);
        if failure.is_none() {
            for (network, prefix) in self.engine.named().iter().filter_map(|(_, to)| multicast(to)) {
                let routed = routes.add(network, prefix).await;
                failure = failure.or(routed.err().map(|error| format!("{error:#}")));
            }
        }
        if let Some(why) = failure {
            engine.stop();
            // It would drop what the kernel has opened.
            self.closing = guard.map(|guard| tokio::spawn(guard.close()));
            if wanted {
                self.refuse(&refused.update, now);
                self.lacking.extend(lines(&refused.update).filter(are_sound));
            }
            return Err(cannot(&refused, &why));
        }
        if let Some(sad) = self.engine.hand_over() {
            engine.adopt(sad);
        }
        std::mem::replace(&mut self.engine, Box::new(engine)).stop();
        self.protect = self.spare.take().map(|spare| spare.protect).unwrap_or_default();
        (self.routes, self.guard, self.follows) = (Some(routes), guard, true);
        self.named = Arc::new([]);
        tracing::warn!(why = %refused, "the kernel's ESP is not for these keys: userspace takes over");
        self.declined = Some(refused.to_string());
        let applied = match wanted {
            true => self.engine.apply(refused.update, now).map(|()| None).map_err(|error| error.to_string()),
            false => Ok(None),
        };
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
        if let Some((Waiting::GoOver(successor), _)) = &mut self.waiting
            && let Some(guard) = &mut successor.guard
        {
            guard.leave_clear(address);
        }
    }

    /// Why nothing keeps clear packets away that go past the TUN device, where something should.
    pub(super) fn unguarded(&self) -> Option<&str> {
        self.guard.as_ref()?.problem()
    }

    /// Are new keys needed: because numbers run out, or because there is a guard for them now?
    pub(super) fn needs_keys(&self) -> bool {
        let guarded = || self.guard.as_ref().is_none_or(|guard| !guard.is_busy() && guard.failure().is_none());
        self.engine.needs_rekey() || !self.lacking.is_empty() && guarded()
    }

    /// What keeps them away.
    pub(super) fn guard(&self) -> Option<GuardStatus> {
        self.guard.as_ref().map(Guard::status)
    }

    /// Ends it: nothing is left behind.
    pub(super) async fn end(mut self) {
        self.engine.stop();
        let successor = match self.waiting.take() {
            Some((Waiting::GoOver(successor), _)) => {
                successor.engine.stop();
                successor.guard
            }
            Some((Waiting::Apply(..), _)) | None => None,
        };
        for guard in self.guard.into_iter().chain(successor) {
            guard.close().await;
        }
        if let Some(closing) = self.closing {
            drop(closing.await);
        }
    }
}

/// What an update names, source and destination.
pub(super) fn lines(update: &GroupUpdate) -> impl Iterator<Item = Line> {
    update.install.iter().map(|sa| (sa.policy.source, sa.policy.destination))
}

/// The times of an update count from when it came, since those of the other members do. They are whole seconds.
fn count_from_before(update: &mut GroupUpdate, waited: Duration) {
    let times = [&mut update.activation_delay, &mut update.deactivation_delay].into_iter();
    for time in times.chain(update.install.iter_mut().map(|sa| &mut sa.lifetime)) {
        *time = time.saturating_sub(waited);
    }
}

fn cannot(refused: &Unsuitable, why: &str) -> String {
    format!("{refused}, and userspace cannot take over: {why}")
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
            desk: around.desk.clone(),
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

    /// Makes the TUN device, and routes what is protected from the start into it. What keeps it from going past is still to be put up.
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
        let guard = Guard::new(self.guard, (tun, self.place.index), &self.local, &self.protect, self.desk.clone());
        tracing::info!(%tun, mtu, "TUN device is up");
        Ok((engine, routes, guard))
    }
}

fn boxed(log: Option<&FileKeyLog>) -> Option<Box<dyn KeyLog + Send>> {
    log.cloned().map(|log| Box::new(log) as Box<dyn KeyLog + Send>)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(super) mod tests;
