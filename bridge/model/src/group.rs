//! A group: policy, epochs, rekey SAs, members, ledger.

mod assurance;
mod join;
mod persist;
mod rekey;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use keyferry_crypto::Random;

pub(crate) use persist::key_prefix;

use crate::epoch::Epoch;
use crate::id::{Identity, Protocol};
use crate::ledger::{Acknowledged, Ledger};
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

/// Members that leave within this time are excluded by one rekey.
pub const LEAVE_BATCH: Duration = Duration::from_secs(5);

/// One protocol's half of a group.
#[derive(Debug)]
pub(crate) struct Side {
    pub(crate) current: Arc<RekeySa>,
    /// Messages sent under the current SA: the last GDOI SEQ, the next G-IKEv2 message ID.
    pub(crate) sent: u32,
    /// Replaced SAs whose messages may still be acknowledged, and until when.
    pub(crate) replaced: Vec<ReplacedSa>,
    pub(crate) tree: KeyTree,
    /// Leaves of members that left, moved or were evicted, to be excluded with the next change of the rekey SA.
    pub(crate) stale: BTreeSet<u32>,
}

impl Side {
    /// The rekey SAs whose messages may be acknowledged, with the messages sent under each.
    pub(crate) fn sas(&self) -> impl Iterator<Item = (&Arc<RekeySa>, u32)> {
        std::iter::once((&self.current, self.sent)).chain(self.replaced.iter().map(|r| (&r.sa, r.sent)))
    }
}

/// A rekey SA that has been replaced.
#[derive(Debug)]
pub(crate) struct ReplacedSa {
    pub(crate) sa: Arc<RekeySa>,
    pub(crate) sent: u32,
    pub(crate) until: Duration,
}

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
    leavers_due: Option<Duration>,
    state_changed: bool,
    given_changed: bool,
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
            leavers_due: None,
            state_changed: false,
            given_changed: false,
            ops: Vec::new(),
            policy,
        };
        group.start_epoch(now.wall, now.wall, rng);
        for protocol in Protocol::ALL {
            group.start_side(protocol, now, rng);
        }
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
            let side = Side { current: Arc::new(sa), sent: 0, replaced: Vec::new(), tree, stale: BTreeSet::new() };
            self.sides.insert(protocol, side);
        }
    }

    fn start_epoch(&mut self, announced: Duration, activates: Duration, rng: &mut dyn Random) -> Arc<Epoch> {
        let taken = |spi| self.epochs.iter().any(|e| e.uses(spi));
        let epoch = Epoch::generate(self.next_epoch, &self.policy, announced, activates, &taken, rng);
        let epoch = Arc::new(epoch);
        self.next_epoch += 1;
        self.epochs.push(Arc::clone(&epoch));
        epoch
    }

    pub(crate) fn side(&self, protocol: Protocol) -> Option<&Side> {
        self.sides.get(&protocol)
    }

    /// SPIs of all rekey SAs.
    pub(crate) fn spis(&self) -> impl Iterator<Item = (Protocol, [u8; 16])> {
        self.sides.iter().flat_map(|(protocol, side)| side.sas().map(|(sa, _)| (*protocol, sa.spi)))
    }

    pub(crate) fn member(&self, identity: &Identity) -> Option<&Member> {
        self.members.get(identity)
    }

    /// Active members of a protocol.
    pub(crate) fn active(&self, protocol: Protocol) -> impl Iterator<Item = &Member> {
        self.members.active(protocol)
    }

    /// Active members of a protocol that registered from this address.
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
        let Some(member) = self.members.get(identity).filter(|m| m.is_active(protocol)) else { return false };
        let Acknowledged::Rekey(id, ack) = self.ledger.acknowledge(protocol, spi, counter, member, now.wall) else {
            return false;
        };
        self.store_ack(id, identity, ack);
        self.members.note(identity, |m| {
            m.acknowledged += 1;
            m.missed = 0;
            m.latency = Some(ack.latency);
        });
        self.store_member(identity);
        true
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
            let before = side.replaced.len();
            side.replaced.retain(|r| r.until > now.wall);
            changed |= side.replaced.len() != before;
        }
        if changed {
            self.store_state();
        }
        while let Some((id, _)) = self.ledger.closes(self.policy.ack_patience).filter(|(_, at)| *at <= now.wall) {
            self.close(id);
        }
        if self.exhausted {
            Some(RekeyReason::Reset)
        } else if self.leavers_due.is_some_and(|at| at <= now.wall) {
            Some(RekeyReason::Eviction)
        } else {
            let due = (self.lifetime_rekey_at() <= now.wall).then_some(RekeyReason::Lifetime);
            due.or_else(|| self.report_is_due(now).then_some(RekeyReason::Assurance))
        }
    }

    /// When [`expire`](Self::expire) is wanted next, on the wall clock.
    pub(crate) fn wake_at(&self, now: Now) -> Duration {
        if self.exhausted || self.report_is_due(now) {
            return Duration::ZERO;
        }
        let retiring = self.epochs.len().checked_sub(2).and(self.epochs.first()).map(|e| e.expires);
        let replaced = self.sides.values().flat_map(|s| s.replaced.iter().map(|r| r.until));
        let closing = self.ledger.closes(self.policy.ack_patience).map(|(_, at)| at);
        [retiring, closing, self.leavers_due]
            .into_iter()
            .flatten()
            .chain(replaced)
            .fold(self.lifetime_rekey_at(), Duration::min)
    }

    /// When keys must be replaced: a margin before the newest epoch or a rekey SA expires.
    fn lifetime_rekey_at(&self) -> Duration {
        let epoch = self.epochs.last().map(|e| e.expires);
        let keks = self.sides.values().map(|s| s.current.expires);
        let first = epoch.into_iter().chain(keks).min().unwrap_or(Duration::MAX);
        first.saturating_sub(self.policy.rekey_margin)
    }

    /// The time to acknowledge a rekey has passed: whoever is missing has missed it.
    fn close(&mut self, id: u64) {
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
        for identity in missing {
            self.members.note(&identity, |m| m.missed += 1);
            self.store_member(&identity);
        }
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
            next_rekey_in: self.lifetime_rekey_at().saturating_sub(now.wall).as_secs(),
        }
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

    /// Lets an evicted member register again; `false` if it is not an evicted member.
    pub(crate) fn readmit(&mut self, identity: &Identity) -> bool {
        if !self.members.get(identity).is_some_and(|m| m.state == MemberState::Evicted) {
            return false;
        }
        self.members.set_state(identity, MemberState::Left);
        self.store_member(identity);
        true
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
