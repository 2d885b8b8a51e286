//! The policies and SAs of one group member, and their roll-over (RFC 5374 section 4.2.1, RFC 9838 section 4.4.3.1.1).
//!
//! ```text
//!   installed            activates (ATD)        leaves (DTD)
//!      |--- receives --------|-- receives and ------|
//!      |    (sends only when |   sends, until its   |  gone: neither
//!      |    there is no      |   successor is       |  sends nor receives
//!      |    other)           |   active             |
//! ```
//!
//! A sender takes the first policy line that matches and has an active SA; then one whose SA is being removed; then one
//! whose SA is not yet active, for then there is no other. Of SAs with the same selectors the newest active one sends.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use keyferry_crypto::{CryptoError, Secret};
use keyferry_model::policy::{SaDirection, Selector, TrafficPolicy};
use keyferry_model::time::{Deadline, Now};
use keyferry_model::tunnel::Tunnel;
use keyferry_model::update::{GroupUpdate, NewSa, Removal, SenderIds};

use crate::drops::DropCounters;
use crate::key_log::{self, KeyLog};
use crate::local::{LocalPolicy, Rules, Selectors, WithoutKeys};
use crate::sa::{Fingerprint, Sa, SaState};
use crate::sizes::{Link, Sizes};
use crate::status::{SaStatus, SadStatus};
use crate::trace::Tap;

mod check;
mod explain;
mod named;
mod picture;
mod snapshot;
#[cfg(test)]
mod tests;

pub use check::are_sound;
pub(crate) use explain::spi;
pub use explain::{Explanation, Flow, Tried};
use named::Named;
pub(crate) use snapshot::Line;
pub use snapshot::{Sealed, Snapshot};

/// SAs that can be installed at a time.
pub const MAX_SAS: usize = 16_384;
/// SAs that are gone whose numbers and windows are kept, for the case that they come back.
const MAX_MEMORIES: usize = 256;
/// How long beyond an SA's lifetime, which a key server may think longer than this member does.
const MEMORY: Duration = Duration::from_secs(300);

/// Why an update was refused. Nothing of it is then applied.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// SPIs below 256 are reserved (RFC 4303 section 2.1).
    #[error("SPI {0:#010x} is reserved")]
    ReservedSpi(u32),
    /// Keying material of the wrong length for the transform.
    #[error("SPI {0:#010x}: keying material has {1} octets instead of {2}")]
    Keymat(u32, usize, usize),
    /// Selectors that cannot be: a prefix too long, or two IP versions.
    #[error("SPI {0:#010x}: impossible selectors")]
    Selectors(u32),
    /// The SPI stands for other keys, or for the same keys in another mode or transform.
    #[error("SPI {0:#010x} is in use for another SA")]
    SpiConflict(u32),
    /// The keying material is another SA's. Two SAs with one key could repeat a nonce.
    #[error("SPI {0:#010x}: the keying material belongs to another SA")]
    KeyReused(u32),
    /// Sender IDs that do not fit into their width, repeat, or have an impossible width.
    #[error("impossible sender IDs")]
    SenderIds,
    /// More than [`MAX_SAS`].
    #[error("too many SAs")]
    TooMany,
    /// A tunnel that does not preserve all addresses, and none is known to stand in their place.
    #[error("SPI {0:#010x}: there is no address for the outer header of its tunnel")]
    Tunnel(u32),
    /// The keys could not be prepared.
    #[error("SPI {0:#010x}: {1}")]
    Crypto(u32, CryptoError),
    /// The engine in use cannot do this, or not safely; another may.
    #[error("{0}")]
    Unsuitable(Box<Unsuitable>),
}

/// An update that an engine gives back.
#[derive(Debug, thiserror::Error)]
#[error("SPI {spi:#010x}: {why}")]
pub struct Unsuitable {
    /// SPI of the SA that it cannot have.
    pub spi: u32,
    /// What is in the way.
    pub why: String,
    /// The update as it came, for another engine.
    pub update: GroupUpdate,
}

/// SAD and policy database of one group member.
///
/// Control operations change it and publish a new [`Snapshot`], which workers use.
pub struct Sad {
    /// Oldest first.
    entries: Vec<Entry>,
    /// Selectors of the policy lines, in the order in which they are tried.
    lines: Vec<Selectors>,
    /// All that the group has said it protects, with keys and without.
    named: Named,
    local: Option<Arc<Rules>>,
    memories: Vec<Memory>,
    sender_ids: Option<SenderIds>,
    drops: Arc<DropCounters>,
    /// What SAs had dropped of which nothing is remembered any more.
    ended: DropCounters,
    snapshot: Arc<Snapshot>,
    /// The latest time heard of.
    clock: Duration,
    key_log: Option<Box<dyn KeyLog + Send>>,
    tap: Option<Arc<Tap>>,
    receives_only: bool,
    tunnel: Tunnel,
    sizes: Sizes,
    link: Arc<Link>,
}

/// An installed SA and its times, all monotonic.
struct Entry {
    sa: Arc<Sa>,
    direction: SaDirection,
    activates: Duration,
    expires: Duration,
    /// When a removal takes effect for senders that have another SA.
    stops_sending: Option<Duration>,
    /// When a removal takes effect.
    leaves: Option<Duration>,
}

impl Entry {
    fn selectors(&self) -> Selectors {
        (self.sa.policy.source, self.sa.policy.destination)
    }

    fn is_active(&self, at: Duration) -> bool {
        self.activates <= at
    }

    fn is_demoted(&self, at: Duration) -> bool {
        self.stops_sending.is_some_and(|stops| stops <= at)
    }

    fn ends(&self) -> Duration {
        self.leaves.map_or(self.expires, |leaves| leaves.min(self.expires))
    }

    fn remove_at(&mut self, stops_sending: Duration, leaves: Duration) {
        self.stops_sending = Some(self.stops_sending.map_or(stops_sending, |s| s.min(stops_sending)));
        self.leaves = Some(self.leaves.map_or(leaves, |l| l.min(leaves)));
    }
}

/// What an SA that is gone has used and seen, without its keys.
struct Memory {
    spi: u32,
    fingerprint: Fingerprint,
    state: Arc<SaState>,
    until: Duration,
}

impl Default for Sad {
    fn default() -> Self {
        Self::new()
    }
}

impl Sad {
    /// An empty SAD, under which every packet is dropped.
    #[must_use]
    pub fn new() -> Self {
        let drops = Arc::new(DropCounters::default());
        let link = Arc::new(Link::new());
        let snapshot = Snapshot::new(Vec::new(), Vec::new(), None, Arc::clone(&drops), Arc::clone(&link));
        let snapshot = Arc::new(snapshot);
        Self {
            entries: Vec::new(),
            lines: Vec::new(),
            named: Named::expected(Vec::new()),
            local: None,
            memories: Vec::new(),
            sender_ids: None,
            drops,
            ended: DropCounters::default(),
            snapshot,
            clock: Duration::ZERO,
            key_log: None,
            tap: None,
            receives_only: false,
            tunnel: Tunnel::default(),
            sizes: Sizes::default(),
            link,
        }
    }

    /// A SAD that installs inbound SAs only: for a member that did not register as a sender, which must not send whatever the
    /// transform (RFC 9838 section 2.3.3).
    #[must_use]
    pub fn receive_only() -> Self {
        Self { receives_only: true, ..Self::new() }
    }

    /// Says where tunnels begin and end whose outer headers do not repeat all addresses, for SAs installed from now on.
    pub fn set_tunnel(&mut self, tunnel: Tunnel) {
        self.tunnel = tunnel;
    }

    /// Says what is done about the sizes of packets, for SAs installed from now on.
    pub fn set_sizes(&mut self, sizes: Sizes) {
        self.sizes = sizes;
    }

    /// Says where the identifications of fragmented packets begin; anybody who can foretell them can spoil the fragments.
    pub fn set_identification(&mut self, start: u32) {
        self.link.set_identification(start);
    }

    /// Sets the member's own policy. To be called before anything is applied.
    pub fn set_local_policy(&mut self, policy: LocalPolicy) {
        self.local = Rules::new(&policy).map(Arc::new);
        if let WithoutKeys::Clear(expected) = policy.without_keys {
            self.named = Named::expected(expected);
        }
        self.publish();
    }

    /// Goes on with the local policy of another SAD, whose place this one takes, and with what it has counted.
    pub(crate) fn inherit_local_policy(&mut self, from: &Self) {
        self.local.clone_from(&from.local);
        if !self.named.is_told() {
            self.named.clone_from(&from.named);
        }
        self.publish();
    }

    /// Gives the keys of SAs installed from now on to a log. Off unless called.
    pub fn set_key_log(&mut self, log: Box<dyn KeyLog + Send>) {
        self.key_log = Some(log);
    }

    /// Gives keys to nobody any more.
    pub fn end_key_log(&mut self) {
        self.key_log = None;
    }

    /// Has a tap take note of packets from now on, or nobody any more.
    pub fn set_tap(&mut self, tap: Option<Arc<Tap>>) {
        self.tap = tap;
        self.publish();
    }

    /// What workers use until the next change.
    #[must_use]
    pub fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(&self.snapshot)
    }

    /// Applies an update, as a whole or not at all.
    ///
    /// An SA whose SPI is there with the same keys is left as it is: numbers, windows, and a removal that is under way. It may
    /// be told to go another way from now on. New sender IDs apply to it too. An SA that is gone and comes back soon goes on with its numbers and windows.
    pub fn apply(&mut self, update: GroupUpdate, now: Now) -> Result<(), ApplyError> {
        // What has ended is gone before it could be taken for an SA that is there.
        self.expire(now);
        self.check(&update)?;
        let GroupUpdate { install, remove, sender_ids, activation_delay, deactivation_delay } = update;
        let width = sender_ids.as_ref().or(self.sender_ids.as_ref()).map(|ids| ids.bits);
        let named: BTreeMap<u32, usize> = install.iter().enumerate().rev().map(|(at, new)| (new.spi, at)).collect();
        let directions: BTreeMap<u32, SaDirection> = install.iter().map(|new| (new.spi, new.direction)).collect();
        let order: Vec<Selectors> = install.iter().map(|new| (new.policy.source, new.policy.destination)).collect();
        let mut known: BTreeSet<u32> = self.entries.iter().map(|entry| entry.sa.spi).collect();
        let mut fresh: Vec<(NewSa, Sa)> = Vec::new();
        for new in install {
            if known.insert(new.spi) {
                let sa = self.prepare(&new, width).map_err(|e| ApplyError::Crypto(new.spi, e))?;
                fresh.push((new, sa));
            }
        }

        let mut replaced: HashSet<Selectors> = HashSet::new();
        let leaving: BTreeSet<u32> = match &remove {
            Removal::Spis(spis) => spis.iter().copied().collect(),
            Removal::All => BTreeSet::new(),
        };

        // Nothing fails from here on.
        let (activates, leaves) = (self.clock + activation_delay, self.clock + deactivation_delay);
        for entry in &mut self.entries {
            entry.direction = directions.get(&entry.sa.spi).copied().unwrap_or(entry.direction);
            let removed = match &remove {
                Removal::Spis(_) => leaving.contains(&entry.sa.spi),
                Removal::All => !named.contains_key(&entry.sa.spi),
            };
            if removed {
                entry.remove_at(activates, leaves);
                replaced.insert(entry.selectors());
            }
        }
        if let Some(ids) = sender_ids {
            for entry in &self.entries {
                entry.sa.state.numbers.set_sender_ids(Some(&ids));
            }
            self.sender_ids = Some(ids);
        }
        self.tell(&order, &replaced, matches!(remove, Removal::All), leaves);
        self.reorder(order);
        // The update lists oldest first: one that was there already and is listed behind a new one is the newer. Places of
        // new ones grow, so where they go grows with them.
        let mut highest = None;
        let raise = |entry: &Entry| {
            highest = highest.max(named.get(&entry.sa.spi));
            highest
        };
        let reached: Vec<Option<&usize>> = self.entries.iter().map(raise).collect();
        let mut before = std::mem::take(&mut self.entries).into_iter().enumerate().peekable();
        for (new, sa) in fresh {
            let goes_to = reached.partition_point(|reached| *reached <= named.get(&new.spi));
            while let Some((_, entry)) = before.next_if(|(at, _)| *at < goes_to) {
                self.entries.push(entry);
            }
            let entry = self.install(new, sa, activates);
            self.entries.push(entry);
        }
        self.entries.extend(before.map(|(_, entry)| entry));
        self.sweep();
        Ok(())
    }

    /// What the group protects, by the selectors of its policy: all that it has named, with keys or without, until another policy that does not
    /// name it has rolled over.
    #[must_use]
    pub fn named(&self) -> Arc<[(Selector, Selector)]> {
        self.named.list()
    }

    /// The group has named these lines, source and destination, and their keys are refused: nothing is sent in clear, but where that was
    /// chosen.
    pub(crate) fn hold(&mut self, lines: &[Selectors]) {
        let open = self.local.as_ref().is_some_and(|rules| rules.is_open());
        if !lines.is_empty() && !open {
            self.named.hold(lines);
            self.publish();
        }
    }

    /// Removes everything at once: SAs, policies, sender IDs. Until the next update nothing is protected or opened any more,
    /// even by workers that still hold an older snapshot, and only the local policy lets anything pass.
    pub fn flush(&mut self) {
        for entry in std::mem::take(&mut self.entries) {
            self.forget(entry, "flushed");
        }
        self.lines.clear();
        self.sender_ids = None;
        self.publish();
    }

    /// Does what is due: activations, removals, ends of lifetimes.
    pub fn expire(&mut self, now: Now) {
        self.clock = self.clock.max(now.mono);
        self.entries.iter().for_each(|entry| entry.sa.tell_of_full_windows());
        self.sweep();
    }

    /// When [`Sad::expire`] is wanted next.
    #[must_use]
    pub fn deadline(&self) -> Option<Deadline> {
        let mut next = None;
        for entry in self.entries.iter().rev() {
            let times = [
                (Some(entry.activates), "data SA activates"),
                (entry.stops_sending, "data SA gives way"),
                (entry.leaves, "data SA leaves"),
                (Some(entry.expires), "data SA expires"),
            ];
            for (at, reason) in times {
                let due = at.filter(|at| *at > self.clock).map(|at| Deadline { at, reason });
                next = Deadline::earlier(next, due);
            }
        }
        let withdrawn = self.named.deadline().map(|at| Deadline { at, reason: "a policy ends" });
        Deadline::earlier(next, withdrawn)
    }

    /// Is an SA running out of sequence numbers, IVs or octets, and no other there to take its place? New keys, or new sender
    /// IDs, are then wanted.
    #[must_use]
    pub fn needs_rekey(&self) -> bool {
        let mut newest = self.snapshot.newest_sending();
        newest.any(|sa| sa.state.numbers.used(sa.is_counter_mode()).1) || self.octets_run_out()
    }

    /// Leaves the SAs that are there only so many sequence numbers and IVs.
    #[cfg(feature = "skip-numbers")]
    pub fn leave_numbers(&self, sequence_numbers: u32, ivs: u32) {
        self.entries.iter().for_each(|entry| entry.sa.state.numbers.leave(sequence_numbers, ivs));
    }

    fn octets_run_out(&self) -> bool {
        self.entries.iter().enumerate().any(|(at, entry)| {
            let replaced = || self.entries[at + 1..].iter().any(|newer| newer.selectors() == entry.selectors());
            entry.leaves.is_none() && entry.sa.is_running_out() && !replaced()
        })
    }

    /// Single addresses to which packets come that are to be opened, each once.
    #[must_use]
    pub fn destinations(&self) -> Vec<IpAddr> {
        let mut single: Vec<IpAddr> = self.inbound().filter_map(|entry| entry.sa.comes_to()).collect();
        single.sort_unstable();
        single.dedup();
        single
    }

    /// SAs and counters, for people and monitoring.
    #[must_use]
    pub fn status(&self) -> SadStatus {
        let sending: BTreeSet<u32> = self.sending().map(|sa| sa.spi).collect();
        let of = |entry: &Entry| {
            let remaining = entry.ends().saturating_sub(self.clock);
            let (sends, leaving) = (sending.contains(&entry.sa.spi), entry.leaves.is_some());
            SaStatus::of(&entry.sa, entry.direction, sends, leaving, remaining)
        };
        let ended = DropCounters::default();
        ended.add(&self.ended);
        self.memories.iter().for_each(|memory| ended.add(&memory.state.drops));
        let with_sa = DropCounters::default();
        with_sa.add(&ended);
        self.entries.iter().for_each(|entry| with_sa.add(&entry.sa.state.drops));
        SadStatus {
            sas: self.entries.iter().map(of).collect(),
            sender_ids: self.sender_ids.as_ref().map_or_else(Vec::new, |ids| ids.ids.clone()),
            needs_rekey: self.needs_rekey(),
            drops: self.drops.by_name(),
            drops_without_sa: self.drops.without(&with_sa).counted(),
            drops_of_ended_sas: ended.counted(),
            rules: self.local.as_ref().map_or_else(Vec::new, |rules| rules.status()),
            clear_without_keys: self.local.as_ref().map_or(0, |rules| rules.sent_without_keys()),
        }
    }

    /// All SAs and where they go, oldest first, for an engine that keeps no snapshot.
    pub(crate) fn installed(&self) -> impl Iterator<Item = (&Arc<Sa>, SaDirection)> {
        self.entries.iter().map(|entry| (&entry.sa, entry.direction))
    }

    /// What each SA is for, source and destination, by its SPI.
    pub(crate) fn purposes(&self) -> Vec<(u32, Selectors)> {
        self.entries.iter().map(|entry| (entry.sa.spi, entry.selectors())).collect()
    }

    /// Which way an SA goes, if it is there.
    pub(crate) fn direction(&self, spi: u32) -> Option<SaDirection> {
        self.entries.iter().find(|entry| entry.sa.spi == spi).map(|entry| entry.direction)
    }

    /// The SAs of each line that sends, in the order in which a sender tries lines and SAs.
    pub(crate) fn sending_lines(&self) -> impl Iterator<Item = &[Arc<Sa>]> {
        self.snapshot.sending_lines()
    }

    /// What is remembered of an SA with this key that was removed.
    pub(crate) fn remembered(&self, keymat: &Secret) -> Option<&SaState> {
        let fingerprint = Fingerprint::of(keymat);
        self.memories.iter().find(|memory| memory.fingerprint == fingerprint).map(|memory| &*memory.state)
    }

    /// Counters of what was dropped.
    pub(crate) fn drop_counters(&self) -> &DropCounters {
        &self.drops
    }

    fn sending(&self) -> impl Iterator<Item = &Sa> {
        self.snapshot.sending()
    }

    /// Takes an SA into use.
    fn install(&mut self, new: NewSa, sa: Sa, activates: Duration) -> Entry {
        self.memories.retain(|memory| memory.fingerprint != sa.fingerprint);
        sa.state.numbers.set_sender_ids(self.sender_ids.as_ref());
        if let Some(log) = &mut self.key_log
            && let Some(line) = key_log::esp_sa_line(&new)
        {
            log.log(key_log::TABLE, &line);
        }
        tracing::info!(spi = format_args!("{:#010x}", new.spi), lifetime = ?new.lifetime, "data SA installed");
        let expires = self.clock.saturating_add(new.lifetime);
        Entry { sa: Arc::new(sa), direction: new.direction, activates, expires, stops_sending: None, leaves: None }
    }

    /// Makes an SA, with what is remembered of it.
    fn prepare(&self, new: &NewSa, width: Option<u8>) -> Result<Sa, CryptoError> {
        let fingerprint = Fingerprint::of(&new.keymat);
        let remembered = self.memories.iter().find(|memory| memory.fingerprint == fingerprint);
        let state = match remembered {
            Some(memory) => Arc::clone(&memory.state),
            None => Arc::new(SaState::new(&new.policy, width, &new.keymat)),
        };
        Sa::new(new.spi, Arc::clone(&new.policy), &new.keymat, state, self.tunnel, self.sizes.clone())
    }

    /// What may open packets.
    fn inbound(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter().filter(|entry| entry.direction.receives())
    }

    /// The order of policy lines is that of the last update that named all of those that stay.
    fn reorder(&mut self, update: Vec<Selectors>) {
        let named: HashSet<Selectors> = update.iter().copied().collect();
        let mut staying = self.entries.iter().filter(|entry| entry.leaves.is_none()).map(Entry::selectors);
        let names_all = staying.all(|line| named.contains(&line));
        let (first, second) = if names_all { (&update, &self.lines) } else { (&self.lines, &update) };
        let mut placed = HashSet::new();
        self.lines = first.iter().chain(second).copied().filter(|line| placed.insert(*line)).collect();
    }

    /// What the group protects does not end with its keys, but with a policy that names others. Of one that has SAs left, these are `replaced`
    /// in part alone.
    fn tell(&mut self, order: &[Selectors], replaced: &HashSet<Selectors>, anew: bool, leaves: Duration) {
        if order.is_empty() {
            return;
        }
        let staying = self.entries.iter().filter(|entry| entry.leaves.is_none()).map(Entry::selectors);
        let staying: HashSet<Selectors> = staying.collect();
        self.named.tell(order, |line| anew || replaced.contains(line) && !staying.contains(line), leaves);
    }

    /// Drops what has ended and publishes what is left.
    fn sweep(&mut self) {
        let clock = self.clock;
        let (ended, left) = std::mem::take(&mut self.entries).into_iter().partition(|entry| entry.ends() <= clock);
        self.entries = left;
        self.named.expire(clock);
        for entry in ended {
            let why = if entry.expires <= clock { "expired" } else { "removed" };
            self.forget(entry, why);
        }
        let (lasting, over) = std::mem::take(&mut self.memories).into_iter().partition(|memory| memory.until > clock);
        self.memories = lasting;
        over.iter().for_each(|memory: &Memory| self.ended.add(&memory.state.drops));
        let used: HashSet<Selectors> = self.entries.iter().map(Entry::selectors).collect();
        self.lines.retain(|line| used.contains(line));
        self.publish();
    }

    /// Ends an SA; its keys go when the last worker lets go of them.
    fn forget(&mut self, entry: Entry, why: &'static str) {
        entry.sa.revoke();
        tracing::info!(spi = format_args!("{:#010x}", entry.sa.spi), why, "data SA gone");
        let until = entry.expires.saturating_add(MEMORY);
        if until <= self.clock {
            self.ended.add(&entry.sa.state.drops);
            return;
        }
        if self.memories.len() == MAX_MEMORIES
            && let Some((at, _)) = self.memories.iter().enumerate().min_by_key(|(_, memory)| memory.until)
        {
            let forgotten = self.memories.swap_remove(at);
            self.ended.add(&forgotten.state.drops);
        }
        let sa = entry.sa;
        self.memories.push(Memory { spi: sa.spi, fingerprint: sa.fingerprint, state: Arc::clone(&sa.state), until });
    }
}
