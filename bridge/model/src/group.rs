//! A group: policy, epochs, rekey SAs, members, ledger.

mod assurance;
mod change;
mod form;
mod in_band;
mod join;
mod newcomers;
mod persist;
mod rekey;
mod side;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use keyferry_crypto::Random;

pub(crate) use persist::{key_prefix, split_key};
pub(crate) use side::{ReplacedSa, Side};

use crate::capabilities::Capabilities;
use crate::epoch::Epoch;
use crate::id::{Identity, Protocol};
use crate::ledger::{Ack, Acknowledged, Ledger};
use crate::lkh::KeyTree;
use crate::member::Member;
use crate::members::Members;
use crate::plan::RekeyReason;
use crate::policy::GroupPolicy;
use crate::rekey_sa::{RekeySa, tree_key_len};
use crate::sender_id::SenderIdAllocator;
use crate::store::StoreOp;
use crate::time::Now;
use crate::view::{EpochView, GroupView, MemberState, MemberView, RekeySaView, RekeyView};

/// Members that leave within this time are excluded by one rekey, and those that ask for newer keys get them by one.
pub const LEAVE_BATCH: Duration = Duration::from_secs(5);

/// A group with its state. Every change leaves store operations behind, which must be durable before anything that
/// depends on the change leaves the machine.
#[derive(Debug)]
pub struct Group {
    policy: Arc<GroupPolicy>,
    generation: u64,
    /// Live epochs, oldest first. A replaced epoch expires when the last member has dropped it.
    epochs: Vec<Arc<Epoch>>,
    next_epoch: u64,
    next_rekey: u64,
    sides: BTreeMap<Protocol, Side>,
    sender_ids: SenderIdAllocator,
    members: Members,
    ledger: Ledger,
    exhausted: bool,
    /// The rekey that tells members what of the policy they do not know yet.
    pending: Option<RekeyReason>,
    /// Rekey SAs are to be replaced by a rekey at once: members may think that the present ones live longer than they do.
    keks_overdue: bool,
    leavers_due: Option<Duration>,
    /// When those who joined lately get traffic keys, by a rekey.
    newcomers_due: Option<Duration>,
    /// When members that have asked for newer keys get them, by a rekey.
    asked_due: Option<Duration>,
    /// The newest epoch that somebody was told.
    told_epoch: u64,
    state_changed: bool,
    given_changed: bool,
    /// Rekeys to be sent once more to members that have missed them.
    resend: Vec<(u64, Vec<Identity>)>,
    /// Hashes of the signing keys that are in the store.
    stored_signers: BTreeMap<Protocol, Vec<u8>>,
    ops: Vec<StoreOp>,
}

impl Group {
    /// A group without members, with its first epoch and rekey SAs.
    pub(crate) fn create(policy: Arc<GroupPolicy>, now: Now, rng: &mut dyn Random) -> Self {
        let mut group = Self {
            generation: 1,
            epochs: Vec::new(),
            next_epoch: 1,
            next_rekey: 1,
            sides: BTreeMap::new(),
            sender_ids: SenderIdAllocator::new(policy.sender_id_bits, 0),
            members: Members::default(),
            ledger: Ledger::default(),
            exhausted: false,
            pending: None,
            keks_overdue: false,
            leavers_due: None,
            newcomers_due: None,
            asked_due: None,
            told_epoch: 0,
            state_changed: false,
            given_changed: false,
            resend: Vec::new(),
            stored_signers: BTreeMap::new(),
            ops: Vec::new(),
            policy,
        };
        group.start_epoch(now.wall, now.wall, false, rng);
        for protocol in Protocol::ALL {
            group.start_side(protocol, now, rng);
        }
        group.prepare_sas(rng);
        group.store_sender_ids();
        group.store_state();
        group
    }

    /// The policy.
    #[must_use]
    pub fn policy(&self) -> &Arc<GroupPolicy> {
        &self.policy
    }

    fn start_side(&mut self, protocol: Protocol, now: Now, rng: &mut dyn Random) {
        let sa = RekeySa::generate(protocol, &self.policy, now.wall, rng);
        if let (Some(sa), Some(key_len)) = (sa, tree_key_len(protocol, &self.policy)) {
            let tree = KeyTree::new(self.policy.capacity, key_len);
            self.sides.insert(protocol, Side::new(sa, Arc::clone(&self.policy), tree));
            self.store_signer(protocol);
        }
    }

    /// A new epoch; `promised` if its SPIs are those that members know already.
    fn start_epoch(
        &mut self,
        announced: Duration,
        activates: Duration,
        promised: bool,
        rng: &mut dyn Random,
    ) -> Arc<Epoch> {
        let taken = |spi| self.epochs.iter().any(|e| e.uses(spi));
        let epoch = Epoch::generate(self.next_epoch, &self.policy, announced, activates, &taken, rng);
        let epoch = Arc::new(epoch.called_after(self.epochs.last().filter(|_| promised).map(|e| &**e), &taken));
        self.next_epoch += 1;
        self.epochs.push(Arc::clone(&epoch));
        epoch
    }

    pub(crate) fn side(&self, protocol: Protocol) -> Option<&Side> {
        self.sides.get(&protocol)
    }

    /// SPIs of all rekey SAs.
    pub(crate) fn spis(&self) -> impl Iterator<Item = (Protocol, [u8; 16])> {
        self.sides.iter().flat_map(|(protocol, side)| side.sas().map(|at| (*protocol, at.sa.spi)))
    }

    pub(crate) fn member(&self, identity: &Identity) -> Option<&Member> {
        self.members.get(identity)
    }

    /// Active members of a protocol.
    pub(crate) fn active(&self, protocol: Protocol) -> impl Iterator<Item = &Member> {
        self.members.active(protocol)
    }

    /// Members that a rekey is for.
    pub(crate) fn receivers(&self, protocol: Protocol, rekey: u64) -> impl Iterator<Item = &Member> {
        let told = move |m: &&Member| m.is_active(protocol) || (m.protocol == protocol && m.until == Some(rekey));
        self.members.iter().filter(move |m| told(m) && !m.in_band)
    }

    /// Members of a protocol that registered from this address and may acknowledge something.
    pub(crate) fn members_at(&self, protocol: Protocol, ip: IpAddr) -> impl Iterator<Item = &Member> {
        self.members.at(protocol, ip)
    }

    /// Notes a verified acknowledgement; `false` if it is a repeat or none was awaited.
    pub(crate) fn acknowledge(
        &mut self,
        protocol: Protocol,
        spi: &[u8; 16],
        counter: u32,
        identity: &Identity,
        now: Now,
    ) -> bool {
        let Some(member) = self.members.get(identity).filter(|m| m.listens(protocol)) else { return false };
        let Acknowledged::Rekey(id, ack) = self.ledger.acknowledge(protocol, spi, counter, member, now.wall) else {
            return false;
        };
        // With the KEK alone every member can speak for every other (RFC 8263 section 7.1).
        let proven = protocol == Protocol::Gikev2 || self.ledger.entries.get(&id).is_some_and(|e| e.by_leaf);
        self.note_ack(id, identity, ack, proven);
        true
    }

    fn note_ack(&mut self, id: u64, identity: &Identity, ack: Ack, proven: bool) {
        self.store_ack(id, identity, ack);
        self.members.note(identity, |m| {
            m.acknowledged += 1;
            m.missed = 0;
            m.answers |= proven;
            m.latency = Some(ack.latency);
        });
        self.store_member(identity);
    }

    /// Is an acknowledgement of this message by this member of use?
    pub(crate) fn awaits_ack(&self, protocol: Protocol, spi: &[u8; 16], counter: u32, identity: &Identity) -> bool {
        self.members.get(identity).is_some_and(|m| self.ledger.awaits(protocol, spi, counter, m))
    }

    /// Drops what has run its time and says which rekey is due, if any.
    pub(crate) fn expire(&mut self, now: Now) -> Option<RekeyReason> {
        let mut changed = false;
        // The newest epoch stays until a rekey replaces it, which is due before it expires.
        while self.epochs.len() > 1 && self.epochs.first().is_some_and(|e| e.expires <= now.wall) {
            self.epochs.remove(0);
            self.generation += 1;
            changed = true;
        }
        for side in self.sides.values_mut() {
            changed |= side.expire(now.wall);
        }
        if changed {
            self.store_state();
        }
        while let Some((id, _)) = self.ledger.closes(self.policy.ack_patience).filter(|(_, at)| *at <= now.wall) {
            self.close(id, now);
        }
        if self.exhausted {
            Some(RekeyReason::Reset)
        } else if self.pending.is_some() {
            self.pending
        } else if self.leavers_due.is_some_and(|at| at <= now.wall) {
            Some(RekeyReason::Eviction)
        } else if self.newcomers_due.is_some_and(|at| at <= now.wall) {
            Some(RekeyReason::Joining)
        } else if self.asked_due.is_some_and(|at| at <= now.wall) {
            Some(RekeyReason::Asked)
        } else {
            let due = self.keks_overdue || self.lifetime_rekey_at() <= now.wall;
            let due = due.then_some(RekeyReason::Lifetime);
            due.or_else(|| self.report_is_due(now).then_some(RekeyReason::Assurance))
        }
    }

    /// Wants a rekey at once that replaces the rekey SAs too: what was told of the present ones came late.
    pub(crate) fn hasten(&mut self) {
        self.keks_overdue = true;
    }

    /// Rekeys to be sent once more, and the addresses of the members that have missed them and are members still.
    pub(crate) fn take_resends(&mut self) -> Vec<(u64, Protocol, Vec<SocketAddr>)> {
        let mut resends = Vec::new();
        for (id, missing) in std::mem::take(&mut self.resend) {
            for protocol in Protocol::ALL {
                let members = missing.iter().filter_map(|i| self.members.get(i));
                let to: Vec<_> = members.filter(|m| m.is_active(protocol) && !m.in_band).map(|m| m.address).collect();
                if !to.is_empty() {
                    resends.push((id, protocol, to));
                }
            }
        }
        resends
    }

    /// When [`expire`](Self::expire) is wanted next, on the wall clock.
    pub(crate) fn wake_at(&self, now: Now) -> Duration {
        if self.exhausted || self.pending.is_some() || self.keks_overdue || self.report_is_due(now) {
            return Duration::ZERO;
        }
        let retiring = self.epochs.len().checked_sub(2).and(self.epochs.first()).map(|e| e.expires);
        let replaced = self.sides.values().flat_map(|s| s.replaced.iter().map(|r| r.until));
        let closing = self.ledger.closes(self.policy.ack_patience).map(|(_, at)| at);
        [retiring, closing, self.leavers_due, self.newcomers_due, self.asked_due]
            .into_iter()
            .flatten()
            .chain(replaced)
            .fold(self.lifetime_rekey_at(), Duration::min)
    }

    /// When keys must be replaced: a margin before the newest epoch or a rekey SA expires.
    fn lifetime_rekey_at(&self) -> Duration {
        let epoch = self.epochs.last().map(|e| e.expires.saturating_sub(self.policy.rekey_margin));
        let keks = self.sides.values().map(|s| s.current.expires.saturating_sub(self.policy.kek_margin()));
        epoch.into_iter().chain(keks).min().unwrap_or(Duration::MAX)
    }

    /// The time to acknowledge a rekey has passed: whoever is missing has missed it.
    fn close(&mut self, id: u64, now: Now) {
        let Some(entry) = self.ledger.entries.get_mut(&id) else { return };
        let missing: Vec<Identity> = entry.missing(&self.members).cloned().collect();
        entry.missing = Some(missing.iter().cloned().collect());
        let expected = entry.expected;
        if !missing.is_empty() {
            let names: Vec<String> = missing.iter().map(Identity::to_string).collect();
            tracing::warn!(group = %self.policy.name, rekey = id, expected, missing = %names.join(" "),
                "members did not acknowledge a rekey");
        }
        self.store_entry(id);
        for identity in &missing {
            self.members.note(identity, |m| m.missed += 1);
            self.store_member(identity);
        }
        if self.policy.ack_resend && !missing.is_empty() {
            self.resend.push((id, missing.clone()));
        }
        self.evict_silent(&missing, now);
    }

    /// Evicts those who have missed too many rekeys and did acknowledge before.
    fn evict_silent(&mut self, missing: &[Identity], now: Now) {
        let Some(most) = self.policy.evict_after_misses else { return };
        let silent = |m: &Member| m.state == MemberState::Active && m.answers && m.missed >= u64::from(most);
        let gone: Vec<&Identity> = missing.iter().filter(|i| self.members.get(i).is_some_and(silent)).collect();
        for identity in gone {
            tracing::warn!(group = %self.policy.name, member = %identity, misses = most,
                "member is evicted: it stopped acknowledging rekeys");
            self.mark_evicted(identity);
            self.leavers_due = Some(now.wall);
        }
        self.store_state();
    }

    /// The group at a glance.
    #[must_use]
    pub fn view(&self, now: Now) -> GroupView {
        let newest = self.epochs.last().map_or(0, |e| e.number);
        let active = self.epochs.iter().rev().find(|e| e.activates <= now.wall).map_or(0, |e| e.number);
        GroupView {
            name: self.policy.name.clone(),
            ids: self.policy.ids.clone(),
            gdoi_members: self.members.count(Protocol::Gdoi),
            gikev2_members: self.members.count(Protocol::Gikev2),
            epochs: self
                .epochs
                .iter()
                .map(|e| EpochView {
                    number: e.number,
                    spis: e.spis().iter().chain(&e.stream_spis()).map(|spi| format!("0x{spi:08x}")).collect(),
                    active: e.number == active,
                    replaced: e.number != newest,
                    remaining: e.remaining(now.wall).as_secs(),
                })
                .collect(),
            rekey_sas: self
                .sides
                .iter()
                .map(|(protocol, s)| RekeySaView {
                    protocol: *protocol,
                    spi: s.current.spi.iter().map(|b| format!("{b:02x}")).collect(),
                    sent: s.sent,
                    remaining: s.current.remaining(now.wall).as_secs(),
                })
                .collect(),
            next_sender_id: self.sender_ids.next(),
            sender_ids_left: self.sender_ids.left(),
            rekeys: self.next_rekey - 1,
            last_rekey: self.ledger.last_view(),
            next_rekey_in: self.lifetime_rekey_at().saturating_sub(now.wall).as_secs(),
            common: self.common_capabilities(),
        }
    }

    /// What all members of G-IKEv2 can do; `None` if there is none, or one has not said.
    fn common_capabilities(&self) -> Option<Capabilities> {
        let mut told = self.members.active(Protocol::Gikev2).map(|m| m.capabilities.as_ref());
        let first = told.next()??.clone();
        told.try_fold(first, |common, next| Some(common.common(next?)))
    }

    /// The members, present and past.
    #[must_use]
    pub fn member_views(&self) -> Vec<MemberView> {
        self.members.iter().map(Member::view).collect()
    }

    /// The last rekeys, oldest first.
    #[must_use]
    pub fn rekey_views(&self) -> Vec<RekeyView> {
        self.ledger.views(&self.members)
    }

    /// Lets an evicted member register again, under whatever name it was evicted; `false` if it is not an evicted member.
    pub(crate) fn readmit(&mut self, identity: &Identity) -> bool {
        if !self.members.get(identity).is_some_and(|m| m.state == MemberState::Evicted) {
            return false;
        }
        for identity in self.names_in_state(identity, MemberState::Evicted) {
            self.members.set_state(&identity, MemberState::Left, None);
            self.store_member(&identity);
        }
        true
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
