//! Control operations: what is asked for, planned, told to the kernel and read back.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use keyferry_crypto::{Integrity, Secret};
use keyferry_model::policy::{EspMode, EspTransform, SaDirection, Selector, SequenceNumbers};
use keyferry_model::time::{Deadline, Now};
use keyferry_model::update::{GroupUpdate, NewSa};
use nix::errno::Errno;

use super::counters::HostCounters;
use super::explain;
use super::message::{
    Action, Direction, KnownPolicy, KnownState, NewState, Numbers, Policy, Scope, StateKey, unspecified,
};
use super::plan::{Ground, Policies, Step, UNKNOWN, steps};
use super::socket::{Xfrm, has_offload};
use super::states::{Placed, States, read_last};
use super::suitable::{Rules, refusal, scope_of};
use crate::engine::EngineStatus;
use crate::engine::joins::Joins;
use crate::key_log::KeyLog;
use crate::replay::width_of;
use crate::sa::Sa;
use crate::sad::{ApplyError, Explanation, Flow, Sad, Unsuitable};

/// How often counters are read and policies looked at.
const REFRESH: Duration = Duration::from_secs(5);

/// Pause before what failed is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// SPI of an SA that cannot be had, and why.
type Refused = (u32, String);

/// What is installed, what shall be, and the ways between.
pub(super) struct Control {
    sad: Sad,
    joins: Joins,
    xfrm: Xfrm,
    ground: Ground,
    rules: Rules,
    index: u32,
    groups: Vec<IpAddr>,
    states: States,
    /// States that somebody else has removed.
    lost: BTreeSet<u32>,
    /// States that could not be removed, with the SA that their numbers belong to, if it was installed.
    condemned: BTreeMap<StateKey, Option<Arc<Sa>>>,
    policies: Policies,
    host: HostCounters,
    clock: Duration,
    refreshed: Duration,
    /// What failed last, and when it is tried again.
    problem: Option<(String, Duration)>,
}

impl Control {
    pub(super) fn new(
        sad: Sad,
        joins: Joins,
        xfrm: Xfrm,
        ground: Ground,
        rules: Rules,
        (index, groups): (u32, Vec<IpAddr>),
    ) -> Self {
        Self {
            sad,
            joins,
            xfrm,
            ground,
            rules,
            index,
            groups,
            states: States::default(),
            lost: BTreeSet::new(),
            condemned: BTreeMap::new(),
            policies: Policies::new(),
            host: HostCounters::open(),
            clock: Duration::ZERO,
            refreshed: Duration::ZERO,
            problem: None,
        }
    }

    /// Takes over what was left by an engine of this name that ended without a word. Its policies become such that block, until the group
    /// has said what it protects.
    pub(super) fn begin(&mut self) -> io::Result<()> {
        let label = self.ground.label;
        let mut held = Vec::new();
        for known in self.xfrm.policies()? {
            let Some(direction) = known.direction.filter(|_| is_ours(&known, label)) else { continue };
            let network = |(address, prefix)| Selector { address, prefix, protocol: 0, port: 0 };
            let (any, destination) = (unspecified(known.scope.destination.0), network(known.scope.destination));
            held.push((network((any, 0)), destination));
            self.policies.insert((direction, known.scope), UNKNOWN);
        }
        self.sad.hold(&held);
        let left = self.xfrm.states()?.into_iter().filter(|state| label.is_ours(state.reqid));
        let left: Vec<StateKey> = left.map(|state| state.key).collect();
        self.settle();
        if let Some((problem, _)) = self.problem.take() {
            return Err(io::Error::other(problem));
        }
        // One that cannot be removed keeps none of the others.
        let removed: Vec<_> = left.into_iter().map(|key| self.xfrm.delete_state(key)).collect();
        removed.into_iter().collect()
    }

    /// Removes everything that was installed.
    pub(super) fn end(&mut self) {
        let mut states: BTreeSet<StateKey> = self.states.0.values().flat_map(Placed::keys).collect();
        states.extend(std::mem::take(&mut self.condemned).into_keys());
        self.states.0.clear();
        let gone = states.into_iter().map(|key| self.remove_own(key, None)).collect::<Vec<_>>();
        let policies = std::mem::take(&mut self.policies).into_keys();
        let gone = gone.into_iter().chain(policies.map(|key| self.xfrm.delete_policy(key)).collect::<Vec<_>>());
        for error in gone.filter_map(Result::err) {
            tracing::debug!(%error, "a state or policy was gone already, or stays");
        }
    }

    /// Applies an update, as a whole or not at all.
    pub(super) fn apply(&mut self, update: GroupUpdate, now: Now) -> Result<(), ApplyError> {
        // What is to be protected leaves no more in clear, even if its keys are refused.
        self.sad
            .hold(&update.install.iter().map(|new| (new.policy.source, new.policy.destination)).collect::<Vec<_>>());
        self.expire(now);
        self.sad.check(&update)?;
        let added = match self.check(&update).and_then(|()| self.add_states(&update.install)) {
            Ok(added) => added,
            Err((spi, why)) => return Err(ApplyError::Unsuitable(Box::new(Unsuitable { spi, why, update }))),
        };
        if let Err(error) = self.sad.apply(update, now) {
            added.iter().for_each(|(spi, at)| self.remove_states(*spi, at));
            return Err(error);
        }
        let sas: BTreeMap<u32, _> = self.sad.installed().map(|(sa, _)| (sa.spi, sa)).collect();
        for (spi, at) in added {
            self.lost.remove(&spi);
            if let Some(sa) = sas.get(&spi) {
                self.states.0.insert(spi, Placed::new((*sa).clone(), at));
            }
        }
        self.settle();
        Ok(())
    }

    pub(super) fn flush(&mut self) {
        self.sad.flush();
        self.settle();
    }

    pub(super) fn expire(&mut self, now: Now) {
        self.clock = self.clock.max(now.mono);
        self.sad.expire(now);
        if self.clock >= self.refreshed + REFRESH {
            self.refresh();
        }
        self.settle();
    }

    pub(super) fn deadline(&self) -> Option<Deadline> {
        let again = self.problem.as_ref().map(|(_, at)| Deadline { at: *at, reason: "the kernel is told again" });
        let refresh = Deadline { at: self.refreshed + REFRESH, reason: "the kernel's counters are read" };
        let refresh = (!self.policies.is_empty()).then_some(refresh);
        Deadline::earlier(self.sad.deadline(), Deadline::earlier(again, refresh))
    }

    pub(super) fn needs_rekey(&self) -> bool {
        !self.lost.is_empty() || self.sad.needs_rekey()
    }

    pub(super) fn leave_clear(&mut self, address: SocketAddr) {
        if self.ground.clear.insert(address) {
            self.settle();
        }
    }

    /// Gives the keys of SAs installed from now on to a log, or to nobody any more.
    pub(super) fn set_key_log(&mut self, log: Option<Box<dyn KeyLog + Send>>) {
        match log {
            Some(log) => self.sad.set_key_log(log),
            None => self.sad.end_key_log(),
        }
    }

    /// Gives the SAs away, with what was used and seen of their numbers; what they protected is blocked.
    pub(super) fn hand_over(&mut self) -> Sad {
        let sad = std::mem::take(&mut self.sad);
        self.sad.hold(&sad.named());
        self.settle();
        sad
    }

    pub(super) fn hold(&mut self, lines: &[(Selector, Selector)]) {
        self.sad.hold(lines);
        self.settle();
    }

    pub(super) fn purposes(&self) -> Vec<(u32, (Selector, Selector))> {
        self.sad.purposes()
    }

    pub(super) fn named(&self) -> Arc<[(Selector, Selector)]> {
        self.sad.named()
    }

    pub(super) fn status(&mut self, interface: &str) -> EngineStatus {
        self.refresh();
        let others = self.host.tell(self.sad.drop_counters());
        let mut sad = self.sad.status();
        sad.drops.extend(&others);
        sad.drops_without_sa.extend(&others);
        EngineStatus {
            engine: "kernel",
            tun: None,
            interface: Some(interface.to_owned()),
            joined: self.joins.joined(),
            early: Vec::new(),
            refused: self.joins.refused(),
            problem: self.problem.as_ref().map(|(problem, _)| problem.clone()),
            offloaded: self.states.offloaded(),
            sad,
        }
    }

    /// What would become of a packet by what is installed.
    pub(super) fn explain(&mut self, flow: &Flow) -> Option<Explanation> {
        self.refresh();
        let mut policies = self.policies.clone();
        // What several engines let pass, one of them has the policy of.
        let passing = self.ground.policies(&self.sad).into_iter().filter(|(_, policy)| policy.action == Action::Pass);
        passing.for_each(|(key, policy)| {
            policies.entry(key).or_insert(policy);
        });
        explain::explain(flow, &self.sad, &policies, &self.lost)
    }

    /// Would the kernel do something of it unsafely or not at all?
    fn check(&mut self, update: &GroupUpdate) -> Result<(), Refused> {
        let mut modes: BTreeSet<bool> = BTreeSet::new();
        let mut add_mode = |mode: EspMode| {
            modes.insert(mode == EspMode::Tunnel);
            modes.len() > 1
        };
        self.sad.installed().for_each(|(sa, _)| {
            add_mode(sa.policy.mode);
        });
        for new in &update.install {
            let unsuitable = |why: &str| Err((new.spi, why.to_owned()));
            let addresses = self.ground.addresses(&new.policy, SaDirection::ReceiverOnly).len();
            if let Some(why) = refusal(&new.policy, new.direction, addresses, self.rules) {
                return unsuitable(why);
            }
            if add_mode(new.policy.mode) {
                return unsuitable("the group turns from one of transport and tunnel mode to the other");
            }
            // A state of which a device opens what comes must not send: its packets would leave as they are.
            if self.sad.direction(new.spi).is_some_and(|d| self.ways(d) != self.ways(new.direction)) {
                return unsuitable("an SA that is there changes its direction");
            }
            for key in self.ground.keys_of(&new.policy) {
                if self.policies.contains_key(&key) {
                    continue;
                }
                match self.xfrm.policy(key) {
                    Ok(None) => {}
                    Ok(Some(_)) => return unsuitable("somebody else's XFRM policy is about the same packets"),
                    Err(error) => return unsuitable(&error.to_string()),
                }
            }
        }
        Ok(())
    }

    /// Installs the states of SAs that have none, all or none of them.
    fn add_states(&mut self, install: &[NewSa]) -> Result<Vec<(u32, BTreeSet<IpAddr>)>, Refused> {
        let mut added: Vec<(u32, BTreeSet<IpAddr>)> = Vec::new();
        let device = self.device(install);
        for new in install {
            let there = self.states.0.contains_key(&new.spi) && !self.lost.contains(&new.spi);
            if there || added.iter().any(|(spi, _)| *spi == new.spi) {
                continue;
            }
            if self.lost.contains(&new.spi) {
                // Of several states some may be left. None is installed anew before all have told their numbers.
                let left = self.states.0.get(&new.spi).map(|placed| placed.at.clone()).unwrap_or_default();
                self.remove_states(new.spi, &left);
            }
            let addresses = self.ground.addresses(&new.policy, new.direction);
            added.push((new.spi, BTreeSet::new()));
            for destination in addresses {
                let key = StateKey { destination, spi: new.spi };
                match self.add_state(new, key, device) {
                    Ok(()) => added.last_mut().into_iter().for_each(|(_, at)| {
                        at.insert(destination);
                    }),
                    Err(error) => {
                        added.iter().for_each(|(spi, at)| self.remove_states(*spi, at));
                        return Err((new.spi, error.to_string()));
                    }
                }
            }
        }
        Ok(added)
    }

    /// Does an SA receive, and send?
    fn ways(&self, direction: SaDirection) -> (bool, bool) {
        (direction.receives(), direction.sends() && !self.rules.receive_only)
    }

    /// The device that is asked to do the cryptography of those SAs which only receive, if it can.
    ///
    /// None is asked to do it for what is sent: the kernel gives packets to a group back to the host's own applications before the
    /// device has encrypted them, and drops them then. It does the same, without any device, once it has loaded what devices need
    /// (esp4_offload, esp6_offload), which asking makes it do; so only a device is asked that can.
    fn device(&self, install: &[NewSa]) -> Option<u32> {
        let can = || match has_offload(self.index) {
            Ok(can) => can,
            Err(error) => {
                tracing::debug!(%error, "the kernel does not tell what the device can do");
                false
            }
        };
        (install.iter().any(|new| self.ways(new.direction) == (true, false)) && can()).then_some(self.index)
    }

    /// Installs a state.
    fn add_state(&mut self, new: &NewSa, key: StateKey, device: Option<u32>) -> io::Result<()> {
        if self.condemned.contains_key(&key) {
            return Err(io::Error::other(format!("a state of before cannot be removed at {}", key.destination)));
        }
        let policy = &new.policy;
        let known = self.sad.installed().find(|(sa, _)| sa.spi == new.spi).map(|(sa, _)| &*sa.state);
        let known = known.or_else(|| self.sad.remembered(&new.keymat));
        let numbers = known.map_or_else(Numbers::default, |state| Numbers {
            sent: state.numbers.used(false).0,
            seen: state.windows.as_ref().map_or(0, |windows| windows.floor()),
        });
        let windowed = new.direction.receives() && policy.sequence == SequenceNumbers::Sequential;
        let window = Some(policy.replay_window).filter(|window| windowed && *window > 0);
        let state = NewState {
            key,
            source: self.ground.outer_source(policy),
            reqid: self.ground.label.of_state(new.direction),
            mode: policy.mode,
            scope: scope_of(policy).ok_or(io::ErrorKind::InvalidInput)?,
            transform: policy.transform,
            keymat: new.keymat.expose(),
            lifetime: new.lifetime,
            window: window.map_or(0, width_of),
            numbers,
            offload: device.filter(|_| self.ways(new.direction) == (true, false)),
        };
        let added = self.xfrm.add_state(&state);
        // The device may not want this SA, by its transform or for want of room.
        let added = added.or_else(|error| match state.offload {
            Some(_) => self.xfrm.add_state(&NewState { offload: None, ..state }),
            None => Err(error),
        });
        added.map_err(|error| match error.raw_os_error().map(Errno::from_raw) {
            Some(Errno::EEXIST) => {
                io::Error::other(format!("somebody else's state has this SPI at {}", key.destination))
            }
            Some(Errno::ENOSYS) => io::Error::other("the kernel lacks an algorithm of the transform"),
            _ => in_words(&error, "the kernel has no ESP for this IP version (modules esp4, esp6)"),
        })
    }

    /// Removes states. Those that the kernel keeps are removed later.
    fn remove_states(&mut self, spi: u32, at: &BTreeSet<IpAddr>) {
        let sa = self.states.0.get(&spi).map(|placed| placed.sa.clone());
        for destination in at {
            let key = StateKey { destination: *destination, spi };
            if let Err(error) = self.remove_own(key, sa.as_deref()) {
                let why = irremovable(&error);
                tracing::error!(%why, spi = format_args!("{spi:#010x}"), "the kernel does not do what it is told");
                self.condemned.insert(key, sa.clone());
                self.problem = Some((why, self.clock + RETRY));
            }
        }
    }

    /// Removes a state, if it is there, and takes over its numbers. Where ours is gone, another's may have taken its
    /// place.
    fn remove_own(&mut self, key: StateKey, sa: Option<&Sa>) -> io::Result<()> {
        let known = self.xfrm.state(key)?;
        let Some(known) = known.filter(|known| self.ground.label.is_ours(known.reqid)) else {
            tracing::debug!(spi = format_args!("{:#010x}", key.spi), "a state was gone already");
            return Ok(());
        };
        if let Some(sa) = sa {
            read_last(sa, &known);
        }
        self.xfrm.delete_state(key)
    }

    /// Brings the kernel to what shall be: policies first, then states that are needed no more, then memberships.
    fn settle(&mut self) {
        let mut failed = None;
        for step in steps(&self.policies, &self.ground.policies(&self.sad)) {
            if let Err(error) = self.take(step) {
                failed = failed.or(Some(error.to_string()));
            }
        }
        for (key, sa) in std::mem::take(&mut self.condemned) {
            if let Err(error) = self.remove_own(key, sa.as_deref()) {
                self.condemned.insert(key, sa);
                failed = failed.or(Some(irremovable(&error)));
            }
        }
        let present: BTreeSet<u32> = self.sad.installed().map(|(sa, _)| sa.spi).collect();
        let gone: Vec<u32> = self.states.0.keys().copied().filter(|spi| !present.contains(spi)).collect();
        for spi in gone {
            let Some(placed) = self.states.0.remove(&spi) else { continue };
            self.lost.remove(&spi);
            if let Err(error) = self.retire(placed) {
                failed = failed.or(Some(irremovable(&error)));
            }
        }
        let mut wanted = self.sad.destinations();
        wanted.extend(&self.groups);
        self.joins.set(&wanted);
        match (&failed, &self.problem) {
            (Some(why), before) if before.as_ref().is_none_or(|(before, _)| before != why) => {
                tracing::error!(%why, "the kernel does not do what it is told");
            }
            (_, _) => {}
        }
        self.problem = failed.map(|why| (why, self.clock + RETRY));
    }

    /// Reads an SA's states for the last time and removes them. Where one of ours is gone, another's may have taken its
    /// place. One that the kernel does not tell of or remove keeps none of the others, and is removed later.
    fn retire(&mut self, mut placed: Placed) -> io::Result<()> {
        let (mut ours, mut failed): (Vec<KnownState>, _) = (Vec::new(), Ok(()));
        for key in placed.keys() {
            match self.xfrm.state(key) {
                Ok(known) => ours.extend(known.filter(|state| self.ground.label.is_ours(state.reqid))),
                Err(error) => {
                    self.condemned.insert(key, Some(placed.sa.clone()));
                    failed = failed.and(Err(error));
                }
            }
        }
        if !placed.read(&ours) {
            tracing::debug!(spi = format_args!("{:#010x}", placed.sa.spi), "a state is gone, or not told of");
        }
        for state in ours {
            read_last(&placed.sa, &state);
            if let Err(error) = self.xfrm.delete_state(state.key) {
                self.condemned.insert(state.key, Some(placed.sa.clone()));
                failed = failed.and(Err(error));
            }
        }
        failed
    }

    fn take(&mut self, step: Step) -> io::Result<()> {
        let label = self.ground.label.reqid;
        match step {
            Step::Add(key, policy) => match self.xfrm.add_policy(key, &policy, label) {
                Ok(()) => self.policies.insert(key, policy),
                // Another engine of ours lets them pass, too.
                Err(error) if is_there(&error) && policy.action == Action::Pass => return Ok(()),
                Err(error) if is_there(&error) => {
                    return Err(io::Error::other("somebody else's XFRM policy is about the same packets"));
                }
                Err(error) => return Err(error),
            },
            Step::Replace(key, policy) => {
                self.xfrm.replace_policy(key, &policy, label)?;
                self.policies.insert(key, policy)
            }
            Step::Remove(key) => {
                match self.xfrm.delete_policy(key) {
                    Err(error) if error.raw_os_error() != Some(Errno::ENOENT as i32) => return Err(error),
                    Ok(()) | Err(_) => {}
                }
                self.policies.remove(&key)
            }
        };
        Ok(())
    }

    /// Reads counters, and looks whether somebody else has changed or removed what is ours.
    fn refresh(&mut self) {
        self.refreshed = self.clock;
        match self.xfrm.states() {
            Ok(mut known) => {
                known.retain(|state| self.ground.label.is_ours(state.reqid));
                let lost = self.states.read(&known);
                for spi in lost.iter().filter(|spi| !self.lost.contains(spi)) {
                    tracing::error!(spi = format_args!("{spi:#010x}"), "somebody else has removed a state");
                }
                self.lost = lost.into_iter().collect();
            }
            Err(error) => tracing::error!(%error, "states cannot be read"),
        }
        match self.xfrm.policies() {
            Ok(known) => self.compare(&known),
            Err(error) => tracing::error!(%error, "policies cannot be read"),
        }
    }

    fn compare(&mut self, known: &[KnownPolicy]) {
        let there: BTreeMap<(Direction, Scope), &KnownPolicy> =
            known.iter().filter_map(|known| Some(((known.direction?, known.scope), known))).collect();
        let mut changed = 0;
        self.policies.retain(|key, policy| match there.get(key) {
            Some(known) if is(known, policy) => true,
            Some(_) => {
                changed += 1;
                *policy = UNKNOWN;
                true
            }
            None => {
                changed += 1;
                false
            }
        });
        if changed > 0 {
            tracing::error!(changed, "somebody else has changed policies: they are installed anew");
        }
    }
}

/// Does the kernel have this policy?
fn is(known: &KnownPolicy, policy: &Policy) -> bool {
    let same = match policy.action {
        Action::Pass => !known.blocks && known.reqid.is_none(),
        Action::Block => known.blocks,
        Action::Protect(template) => {
            !known.blocks && known.reqid == Some(template.reqid) && known.spi == Some(template.spi)
        }
    };
    same && known.priority == policy.priority
}

fn is_ours(known: &KnownPolicy, label: super::plan::Label) -> bool {
    match known.reqid {
        Some(reqid) => label.is_ours(reqid),
        None => !known.blocks && known.priority == label.pass,
    }
}

fn is_there(error: &io::Error) -> bool {
    error.raw_os_error() == Some(Errno::EEXIST as i32)
}

/// Tries to install a state that no packet belongs to, and removes it.
pub(super) fn probe(xfrm: &mut Xfrm) -> io::Result<()> {
    // TEST-NET-1 of RFC 5737.
    let destination = Ipv4Addr::new(192, 0, 2, 1).into();
    let any = unspecified(destination);
    let keymat = Secret::new(vec![0; Integrity::HmacSha256_128.key_len()]);
    let state = NewState {
        key: StateKey { destination, spi: 0x4b46_0000 | std::process::id() & 0xffff },
        source: any,
        reqid: 0,
        mode: EspMode::Transport,
        scope: Scope { source: (any, 0), destination: (any, 0), protocol: 0, ports: (None, None) },
        transform: EspTransform::NullHmac(Integrity::HmacSha256_128),
        keymat: keymat.expose(),
        lifetime: Duration::from_secs(1),
        window: 0,
        numbers: Numbers::default(),
        offload: None,
    };
    match xfrm.add_state(&state) {
        Ok(()) => xfrm.delete_state(state.key),
        Err(error) if is_there(&error) => Ok(()),
        Err(error) => Err(in_words(&error, "the kernel has no ESP (module esp4, CONFIG_INET_ESP)")),
    }
}

fn irremovable(error: &io::Error) -> String {
    format!("a state cannot be removed: {error}")
}

/// An error in words, with what it means where a protocol is not supported.
pub(super) fn in_words(error: &io::Error, unsupported: &str) -> io::Error {
    let words = match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::EPROTONOSUPPORT | Errno::EAFNOSUPPORT) => unsupported.to_owned(),
        Some(Errno::EPERM) => "the kernel's XFRM needs CAP_NET_ADMIN".to_owned(),
        _ => format!("the kernel does not take it: {error}"),
    };
    io::Error::new(error.kind(), words)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
