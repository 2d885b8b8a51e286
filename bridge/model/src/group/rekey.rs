//! Planning a rekey.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use keyferry_crypto::Random;

use super::Group;
use super::form::Form;
use super::side::Content;
use crate::epoch::{DataSa, Epoch};
use crate::id::{Identity, Protocol};
use crate::ledger::Entry;
use crate::plan::{Deletion, RekeyPlan, RekeyReason, RekeyStep};
use crate::policy::AckType;
use crate::rekey_sa::{RekeySa, tree_key_len};
use crate::sender_id::SenderIdAllocator;
use crate::stream::StreamSa;
use crate::time::Now;
use crate::view::MemberState;

/// Octets of tree keys in one message: far less than a datagram holds, for of each fragment of it one loss is enough.
const MAX_UPDATE: usize = 32 * 1024;

/// A rekey SA under which so many messages have been sent is replaced with the next: numbers must not run out.
const MAX_SENT: u32 = 1 << 31;

/// Whom a rekey leaves out, and what it cannot put off.
#[derive(Clone, Copy)]
struct Urgent {
    /// Whoever is no member any more is excluded.
    exclude: bool,
    /// Rekey SAs are replaced.
    keks: bool,
}

impl Group {
    /// Decides a rekey: a new epoch, and new rekey SAs where members are excluded, the policy has changed, or a rekey SA is
    /// about to expire.
    ///
    /// `evict` are members to exclude; they stay known as evicted. Protocols nobody speaks get no messages.
    pub(crate) fn rekey(
        &mut self,
        reason: RekeyReason,
        evict: &[Identity],
        now: Now,
        rng: &mut dyn Random,
    ) -> Arc<RekeyPlan> {
        if reason == RekeyReason::Assurance {
            let asked = self.asked_acks();
            let plan = self.report_delivery(now);
            self.enter_into_ledger(&plan, None, &asked, now);
            self.store_state();
            return Arc::new(plan);
        }
        let before = self.before_rekey();
        for identity in evict {
            self.mark_evicted(identity);
        }
        let reason = match self.pending {
            Some(RekeyReason::Reset) => RekeyReason::Reset,
            Some(_) | None => reason,
        };
        let mut exclude = false;
        // Whoever left is excluded by the next rekey, and a new policy told by it, whatever its reason: unless it brings no
        // traffic keys.
        if reason != RekeyReason::DeleteKek {
            let unlisted = self.dismiss_unlisted();
            exclude = self.leavers_due.take().is_some() || reason == RekeyReason::Eviction || unlisted;
            self.pending = None;
        }
        (self.newcomers_due, self.asked_due) = (None, None);
        self.generation += 1;
        // Whoever is deleted is told so, and is a member until then.
        let fragment_size = self.fragment_size();
        let urgent = Urgent { exclude, keks: std::mem::take(&mut self.keks_overdue) };
        let asked = self.asked_acks();
        let first_new = self.next_epoch;
        let mut steps = self.welcome(now);
        steps.extend(self.align_sides(now, rng));
        steps.extend(match reason {
            RekeyReason::Reset => self.reset(now, rng),
            RekeyReason::DeleteKek => self.restart_all(&Deletion::RekeySa, now, rng),
            RekeyReason::Lifetime
            | RekeyReason::Operator
            | RekeyReason::Eviction
            | RekeyReason::Joining
            | RekeyReason::Asked
            | RekeyReason::Policy
            | RekeyReason::Assurance
            | RekeyReason::DeleteTeks => self.replace_keys(reason, urgent, now, rng),
        });
        let in_band = self.in_band_step(before, reason);
        self.prepare_sas(rng);
        let (id, policy) = (self.take_rekey_id(), Arc::clone(&self.policy));
        let plan = RekeyPlan { id, reason, policy, steps, fragment_size, in_band };
        self.told_epoch = self.told_epoch.max(plan.told_epoch().unwrap_or(0));
        let epoch = self.epochs.last().map_or(0, |e| e.number);
        tracing::info!(group = %self.policy.name, rekey = plan.id, ?reason, epoch, messages = plan.steps.len(),
            "rekey planned");
        let made = Some(epoch).filter(|number| *number >= first_new);
        self.enter_into_ledger(&plan, made, &asked, now);
        if reason == RekeyReason::DeleteKek {
            self.compare();
        }
        self.store_state();
        Arc::new(plan)
    }

    /// How long an IP packet of GSA_REKEY may be, if all who are to read it take fragments (RFC 9838 section 2.4.1.2).
    fn fragment_size(&self) -> Option<usize> {
        let wanted = self.policy.gikev2.as_ref().and_then(|g| g.options.fragment_size);
        wanted.filter(|_| self.members.take_fragments())
    }

    /// Evicts a member, and with it whoever has the same key under another name.
    pub(super) fn mark_evicted(&mut self, identity: &Identity) {
        for name in self.names_in_state(identity, MemberState::Active) {
            if name != *identity {
                tracing::warn!(group = %self.policy.name, member = %name, with = %identity,
                    "member is evicted: it has the key of one that is");
            }
            self.drop_member(&name, MemberState::Evicted);
        }
    }

    /// This member, and others in a certain state that have the same key.
    pub(super) fn names_in_state(&self, identity: &Identity, state: MemberState) -> BTreeSet<Identity> {
        let holder = self.members.get(identity).and_then(|m| m.holder.as_ref());
        let others = holder.into_iter().flat_map(|h| self.members.with_key(h)).filter(|m| m.state == state);
        others.map(|m| m.identity.clone()).chain([identity.clone()]).collect()
    }

    /// A member is one no more; what it knew is changed with the next exclusion.
    pub(super) fn drop_member(&mut self, identity: &Identity, state: MemberState) {
        if let Some(member) = self.members.get(identity).filter(|m| m.state == MemberState::Active).cloned() {
            self.make_stale(&member);
        }
        self.members.set_state(identity, state, None);
        self.store_member(identity);
    }

    fn replace_keys(
        &mut self,
        reason: RekeyReason,
        urgent: Urgent,
        now: Now,
        rng: &mut dyn Random,
    ) -> Vec<Arc<RekeyStep>> {
        let policy = Arc::clone(&self.policy);
        let at_once = reason == RekeyReason::DeleteTeks;
        let (activation_delay, deactivation_delay) = if at_once {
            <(Duration, Duration)>::default()
        } else {
            (policy.activation_delay, policy.deactivation_delay)
        };
        let replaced = self.epochs.last().map(|e| e.spis()).unwrap_or_default();
        let replaced_streams = self.epochs.last().map(|e| e.stream_spis()).unwrap_or_default();
        self.retire_epochs(now.wall + deactivation_delay + policy.last_copy());
        let content = Content {
            // Who is excluded knows what was to come, and could make others believe that it has.
            epoch: self.start_epoch(now.wall, now.wall + activation_delay, !urgent.exclude, rng),
            delete: if at_once { Deletion::DataSas } else { Deletion::Spis(replaced) },
            delete_streams: if at_once { Vec::new() } else { replaced_streams },
            activation_delay,
            deactivation_delay,
            counted_from: now.wall + policy.last_copy(),
            keep: now.wall + policy.deactivation_delay + policy.ack_patience,
        };
        let mut steps = Vec::new();
        for protocol in Protocol::ALL {
            steps.extend(self.replace_side_keys(protocol, urgent, &content, now, rng));
        }
        steps
    }

    fn replace_side_keys(
        &mut self,
        protocol: Protocol,
        urgent: Urgent,
        content: &Content,
        now: Now,
        rng: &mut dyn Random,
    ) -> Vec<Arc<RekeyStep>> {
        let policy = Arc::clone(&self.policy);
        let Some(side) = self.sides.get(&protocol) else { return Vec::new() };
        let strangers = side.outsiders.iter().any(|i| !self.members.get(i).is_some_and(|m| m.is_active(m.protocol)));
        let (before, after) = (Form::of(&side.policy, protocol), Form::of(&policy, protocol));
        let told = before.as_ref().zip(after.as_ref()).is_some_and(|(b, a)| b.can_bring(a));
        let shares_tree = before.zip(after).is_some_and(|(b, a)| b.shares_tree(&a));
        // With the tree it would be forgotten who is to be excluded still.
        let unfinished = !shares_tree && side.stale.len() + side.outsiders.len() > 0;
        if !told || unfinished || (urgent.exclude && strangers && !side.policy.has_tree(protocol)) {
            // What cannot be told, or not kept from somebody who has the KEK, is not told: who stays registers anew.
            return self.restart_side(protocol, Deletion::Everything, now, rng).into_iter().collect();
        }
        if !shares_tree {
            self.forget_leaves(protocol);
        }
        let listening = self.members.listening(protocol) > 0;
        let changed =
            Form::of(&policy, protocol) != self.sides.get(&protocol).and_then(|s| Form::of(&s.policy, protocol));
        let Some(side) = self.sides.get_mut(&protocol) else { return Vec::new() };
        let lifetime = side.current.expires.saturating_sub(side.current.created);
        let due = urgent.keks
            || changed
            || (!listening && policy.hides_rekeys())
            || lifetime != policy.kek_lifetime
            || side.sent >= MAX_SENT
            || side.current.remaining(now.wall) <= policy.kek_margin().max(policy.rekey_margin * 2);
        let mut exclusions = Vec::new();
        if policy.has_tree(protocol) && (urgent.exclude || due) {
            let leaves = Vec::from_iter(std::mem::take(&mut side.stale));
            let cost = |depth| wrap_cost(protocol, &side.current, depth);
            let mut batches = side.tree.batches(&leaves, MAX_UPDATE, cost);
            if batches.is_empty() && !side.outsiders.is_empty() {
                // They have no leaf, so whatever is sent along the tree is not for them.
                batches.push(Vec::new());
            }
            side.outsiders.clear();
            for batch in batches {
                let tree = side.tree.evict(&batch, rng);
                exclusions.extend(RekeySa::generate(protocol, &policy, now.wall, rng).map(|sa| (Arc::new(sa), tree)));
            }
        }
        let steps = if exclusions.is_empty() {
            let new = if due { RekeySa::generate(protocol, &policy, now.wall, rng) } else { None };
            let new = new.map(|sa| sa.called(side.current.next_spi.filter(|_| !urgent.exclude)));
            side.announce(protocol, new.map(Arc::new), &policy, listening, content)
        } else {
            side.exclude(protocol, exclusions, &policy, listening, content)
        };
        self.store_signer(protocol);
        steps
    }

    /// The keys of a protocol's tree are of no use any more: members stay, and get a leaf when they register next. What they
    /// proved with the old one says nothing of what they can prove until then.
    fn forget_leaves(&mut self, protocol: Protocol) {
        let Some(side) = self.sides.get_mut(&protocol) else { return };
        let len = tree_key_len(protocol, &self.policy).unwrap_or_else(|| side.tree.key_len());
        side.former = Some(side.tree.restart(len));
        side.stale.clear();
        let with_leaf = self.members.active(protocol).filter(|m| !m.in_band);
        let members: Vec<Identity> = with_leaf.map(|m| m.identity.clone()).collect();
        for identity in members {
            self.members.note(&identity, |m| (m.leaf, m.answers, m.missed) = (None, false, 0));
            self.store_member(&identity);
        }
    }

    /// Deletes a protocol's rekey SA, with everything or without: its members register anew, under keys that nobody has yet.
    pub(super) fn restart_side(
        &mut self,
        protocol: Protocol,
        delete: Deletion,
        now: Now,
        rng: &mut dyn Random,
    ) -> Option<Arc<RekeyStep>> {
        let policy = Arc::clone(&self.policy);
        let listening = self.members.listening(protocol) > 0;
        let side = self.sides.get_mut(&protocol)?;
        let step = listening.then(|| side.deletion(protocol, delete, now.wall));
        let len = tree_key_len(protocol, &policy).unwrap_or_else(|| side.tree.key_len());
        side.former = Some(side.tree.restart(len));
        side.stale.clear();
        side.outsiders.clear();
        if let Some(sa) = RekeySa::generate(protocol, &policy, now.wall, rng) {
            // Those who get the message may acknowledge it (RFC 8263 section 6).
            side.replace(Arc::new(sa), &policy, now.wall + policy.ack_patience);
        }
        let members = self.dismiss(protocol);
        self.store_signer(protocol);
        if members > 0 {
            tracing::warn!(group = %policy.name, %protocol, members, "members register anew");
        }
        step
    }

    pub(super) fn restart_all(&mut self, delete: &Deletion, now: Now, rng: &mut dyn Random) -> Vec<Arc<RekeyStep>> {
        Protocol::ALL.into_iter().filter_map(|p| self.restart_side(p, delete.clone(), now, rng)).collect()
    }

    /// Starts over: new keys for everything, sender IDs from 0, and everybody registers anew (RFC 6407 section 3.5,
    /// RFC 9838 section 2.5.1). IDs given out before are only good for keys that nobody may use any more.
    fn reset(&mut self, now: Now, rng: &mut dyn Random) -> Vec<Arc<RekeyStep>> {
        let steps = self.restart_all(&Deletion::Everything, now, rng);
        self.epochs.clear();
        self.start_epoch(now.wall, now.wall, false, rng);
        self.sender_ids = SenderIdAllocator::new(self.policy.sender_id_bits, 0);
        self.exhausted = false;
        self.store_sender_ids();
        steps
    }

    pub(super) fn take_rekey_id(&mut self) -> u64 {
        let id = self.next_rekey;
        self.next_rekey += 1;
        id
    }

    /// Replaced epochs live until the last member, which may get the last copy, has dropped them.
    fn retire_epochs(&mut self, end: Duration) {
        for epoch in &mut self.epochs {
            if epoch.expires > end {
                let sas = epoch.sas.iter().map(|sa| DataSa {
                    spi: sa.spi,
                    policy: Arc::clone(&sa.policy),
                    keymat: sa.keymat.duplicate(),
                    next_spi: sa.next_spi,
                });
                let streams = epoch.streams.iter().map(StreamSa::duplicate);
                *epoch = Arc::new(Epoch { sas: sas.collect(), streams: streams.collect(), expires: end, ..**epoch });
            }
        }
    }

    /// The acknowledgements members may give to a rekey that is planned now: as the rekey SA there is asks, or the policy.
    fn asked_acks(&self) -> BTreeSet<AckType> {
        let side = self.sides.get(&Protocol::Gdoi);
        let policies = side.into_iter().flat_map(|s| [&s.policy, &self.policy]);
        policies.filter_map(|p| p.gdoi.as_ref()?.ack).collect()
    }

    fn enter_into_ledger(&mut self, plan: &RekeyPlan, epoch: Option<u64>, asked: &BTreeSet<AckType>, now: Now) {
        let last = plan.steps.iter().rfind(|s| s.protocol == Protocol::Gdoi).filter(|_| !asked.is_empty());
        let acks = |s: &&Arc<RekeyStep>| s.policy.gikev2.as_ref().is_some_and(|g| g.options.ack);
        let last_gikev2 = plan.steps.iter().rfind(|s| s.protocol == Protocol::Gikev2).filter(acks);
        let awaited: Vec<_> =
            last.into_iter().chain(last_gikev2).map(|s| (s.protocol, s.over.spi, s.counter)).collect();
        let in_band = plan.in_band.iter().flat_map(|s| &s.members).map(|to| to.identity.clone());
        let mut entry = Entry {
            id: plan.id,
            reason: plan.reason,
            at: now.wall,
            epoch,
            expected: 0,
            by_leaf: asked.iter().all(|a| matches!(a, AckType::Lkh(_))),
            in_band: in_band.collect(),
            open_since: None,
            awaited,
            missing: None,
            acks: BTreeMap::new(),
        };
        entry.expected = entry.count_expected(&self.members);
        for forgotten in self.ledger.add(entry) {
            self.forget_entry(&forgotten);
        }
        self.store_entry(plan.id);
    }
}

/// Octets that wrap the key of a node at this depth under one of its children.
fn wrap_cost(protocol: Protocol, sa: &RekeySa, depth: u32) -> usize {
    match protocol {
        // An array up to the KEK: its attribute and head, then for each key a head and the key (RFC 6407 section 5.6.3.2).
        Protocol::Gdoi => 16 + (depth as usize + 1) * (16 + sa.keymat.len()),
        // Attribute, IDs, and key wrap's eight octets, for both children (RFC 9838 section 4.5.4).
        Protocol::Gikev2 => 2 * (24 + sa.keymat.len()),
    }
}
