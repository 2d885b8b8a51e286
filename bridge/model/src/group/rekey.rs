//! Planning a rekey.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use keyferry_crypto::Random;

use super::{Group, ReplacedSa, Side};
use crate::epoch::{DataSa, Epoch};
use crate::id::{Identity, Protocol};
use crate::ledger::Entry;
use crate::lkh::TreeUpdate;
use crate::plan::{NewRekeySa, RekeyPlan, RekeyReason, RekeyStep};
use crate::rekey_sa::RekeySa;
use crate::sender_id::SenderIdAllocator;
use crate::stream::{StreamSa, StreamStep};
use crate::time::Now;
use crate::view::MemberState;

/// Octets of tree keys in one message: far less than a datagram holds, for of each fragment of it one loss is enough.
const MAX_UPDATE: usize = 32 * 1024;

/// A rekey SA under which so many messages have been sent is replaced with the next: numbers must not run out.
const MAX_SENT: u32 = 1 << 31;

/// What all messages of one plan have in common.
struct Content {
    epoch: Arc<Epoch>,
    delete: Vec<u32>,
    delete_streams: Vec<u32>,
    activation_delay: Duration,
    deactivation_delay: Duration,
    planned: Duration,
}

impl Group {
    /// Decides a rekey: a new epoch, and new rekey SAs where members are excluded or a rekey SA is about to expire.
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
            let plan = self.report_delivery(now);
            self.enter_into_ledger(&plan, now);
            self.store_state();
            return Arc::new(plan);
        }
        for identity in evict {
            self.mark_evicted(identity);
        }
        // Whoever left is excluded by the next rekey, whatever its reason.
        let exclude = self.leavers_due.take().is_some() || reason == RekeyReason::Eviction;
        self.generation += 1;
        let plan = if reason == RekeyReason::Reset {
            self.reset(now, rng)
        } else {
            self.replace_keys(reason, exclude, now, rng)
        };
        self.enter_into_ledger(&plan, now);
        self.store_state();
        Arc::new(plan)
    }

    fn mark_evicted(&mut self, identity: &Identity) {
        if let Some(member) = self.members.get(identity).filter(|m| m.state == MemberState::Active) {
            self.make_stale(member.protocol, member.leaf);
        }
        self.members.set_state(identity, MemberState::Evicted);
        self.store_member(identity);
    }

    fn replace_keys(&mut self, reason: RekeyReason, exclude: bool, now: Now, rng: &mut dyn Random) -> RekeyPlan {
        let policy = Arc::clone(&self.policy);
        let delete = self.epochs.last().map(|e| e.spis()).unwrap_or_default();
        let delete_streams = self.epochs.last().map(|e| e.stream_spis()).unwrap_or_default();
        self.retire_epochs(now);
        let epoch = self.start_epoch(now.wall, now.wall + policy.activation_delay, rng);
        let content = Content {
            epoch,
            delete,
            delete_streams,
            activation_delay: policy.activation_delay,
            deactivation_delay: policy.deactivation_delay,
            planned: now.wall,
        };
        let mut steps = Vec::new();
        for protocol in Protocol::ALL {
            let listening = self.members.count(protocol) > 0;
            let Some(side) = self.sides.get_mut(&protocol) else { continue };
            let due = side.current.remaining(now.wall) <= policy.rekey_margin * 2 || side.sent >= MAX_SENT;
            let leaves = if exclude || due { std::mem::take(&mut side.stale) } else { BTreeSet::new() };
            let mut exclusions = Vec::new();
            for batch in side
                .tree
                .batches(&Vec::from_iter(leaves), MAX_UPDATE, |depth| wrap_cost(protocol, &side.current, depth))
            {
                let tree = side.tree.evict(&batch, rng);
                exclusions.extend(RekeySa::generate(protocol, &policy, now.wall, rng).map(|sa| (Arc::new(sa), tree)));
            }
            let keep = now.wall + policy.deactivation_delay + policy.ack_patience;
            if exclusions.is_empty() {
                let new = if due { RekeySa::generate(protocol, &policy, now.wall, rng) } else { None };
                steps.extend(side.announce(protocol, new.map(Arc::new), listening, keep, &content));
            } else {
                steps.extend(side.exclude(protocol, exclusions, listening, keep, &content));
            }
        }
        let id = self.take_rekey_id();
        tracing::info!(group = %policy.name, rekey = id, ?reason, epoch = content.epoch.number, messages = steps.len(),
            "rekey planned");
        RekeyPlan { id, reason, policy, steps }
    }

    /// Starts over: new keys for everything, sender IDs from 0, and everybody registers anew (RFC 6407 section 3.5,
    /// RFC 9838 section 2.5.1). IDs given out before are only good for keys that nobody may use any more.
    fn reset(&mut self, now: Now, rng: &mut dyn Random) -> RekeyPlan {
        let policy = Arc::clone(&self.policy);
        let mut steps = Vec::new();
        for protocol in Protocol::ALL {
            let listening = self.members.count(protocol) > 0;
            let Some(side) = self.sides.get_mut(&protocol) else { continue };
            if listening {
                let counter = side.take_counter(protocol);
                steps.push(Arc::new(RekeyStep {
                    protocol,
                    over: Arc::clone(&side.current),
                    counter,
                    new_rekey: None,
                    new_epoch: None,
                    delete: Vec::new(),
                    delete_all: true,
                    activation_delay: Duration::ZERO,
                    deactivation_delay: Duration::ZERO,
                    planned: now.wall,
                    streams: StreamStep::default(),
                }));
            }
            let active = self.members.active(protocol).map(|m| m.leaf);
            let leaves: Vec<u32> = active.chain(side.stale.iter().copied()).collect();
            side.tree.evict(&leaves, rng);
            side.stale.clear();
            if let Some(sa) = RekeySa::generate(protocol, &policy, now.wall, rng) {
                side.replace(Arc::new(sa), now.wall + policy.ack_patience);
            }
        }
        let members: usize = Protocol::ALL.map(|p| self.dismiss(p)).into_iter().sum();
        self.epochs.clear();
        self.start_epoch(now.wall, now.wall, rng);
        self.sender_ids = SenderIdAllocator::new(policy.sender_id_bits, 0);
        self.exhausted = false;
        self.store_sender_ids();
        let id = self.take_rekey_id();
        tracing::warn!(group = %policy.name, rekey = id, members, "group reset: all members register anew");
        RekeyPlan { id, reason: RekeyReason::Reset, policy, steps }
    }

    pub(super) fn take_rekey_id(&mut self) -> u64 {
        let id = self.next_rekey;
        self.next_rekey += 1;
        id
    }

    /// Replaced epochs live until the last member, which may get the last copy, has dropped them.
    fn retire_epochs(&mut self, now: Now) {
        let repeats = self.policy.retransmit.interval * u32::from(self.policy.retransmit.copies);
        let end = now.wall + self.policy.deactivation_delay + repeats;
        for epoch in &mut self.epochs {
            if epoch.expires > end {
                let sas = epoch.sas.iter().map(|sa| DataSa {
                    spi: sa.spi,
                    policy: Arc::clone(&sa.policy),
                    keymat: sa.keymat.duplicate(),
                });
                let streams = epoch.streams.iter().map(StreamSa::duplicate);
                *epoch = Arc::new(Epoch { sas: sas.collect(), streams: streams.collect(), expires: end, ..**epoch });
            }
        }
    }

    fn enter_into_ledger(&mut self, plan: &RekeyPlan, now: Now) {
        let mut awaited = Vec::new();
        let asks = self.policy.gdoi.as_ref().is_some_and(|g| g.ack.is_some());
        if let Some(last) = plan.steps.iter().rfind(|s| s.protocol == Protocol::Gdoi && asks) {
            awaited.push((Protocol::Gdoi, last.over.spi, last.counter));
        }
        let expected = awaited.iter().map(|(p, ..)| self.members.count(*p)).sum();
        let entry = Entry {
            id: plan.id,
            reason: plan.reason,
            at: now.wall,
            epoch: plan.steps.iter().find_map(|s| s.new_epoch.as_ref()).map(|e| e.number),
            awaited,
            expected,
            missing: None,
            acks: std::collections::BTreeMap::new(),
        };
        for forgotten in self.ledger.add(entry) {
            self.forget_entry(&forgotten);
        }
        self.store_entry(plan.id);
    }
}

impl Side {
    /// The counter of the next message; never the same twice under one rekey SA.
    pub(super) fn take_counter(&mut self, protocol: Protocol) -> u32 {
        self.sent = self.sent.checked_add(1).expect("a rekey SA expires long before 2^32 messages");
        match protocol {
            // SEQ of the first push is 1 (RFC 6407 section 4.3), the first message ID is 0 (RFC 9838 section 2.4.1.3).
            Protocol::Gdoi => self.sent,
            Protocol::Gikev2 => self.sent - 1,
        }
    }

    fn replace(&mut self, new: Arc<RekeySa>, until: Duration) {
        let sa = std::mem::replace(&mut self.current, new);
        self.replaced.push(ReplacedSa { sa, sent: self.sent, until });
        self.sent = 0;
    }

    fn step(
        &mut self,
        protocol: Protocol,
        new_rekey: Option<NewRekeySa>,
        with_epoch: bool,
        content: &Content,
    ) -> Arc<RekeyStep> {
        Arc::new(RekeyStep {
            protocol,
            over: Arc::clone(&self.current),
            counter: self.take_counter(protocol),
            new_rekey,
            new_epoch: with_epoch.then(|| Arc::clone(&content.epoch)),
            delete: if with_epoch { content.delete.clone() } else { Vec::new() },
            delete_all: false,
            activation_delay: content.activation_delay,
            deactivation_delay: content.deactivation_delay,
            planned: content.planned,
            streams: StreamStep {
                delete: if with_epoch { content.delete_streams.clone() } else { Vec::new() },
                report: None,
            },
        })
    }

    /// The new epoch, and a new rekey SA if there is one, for all who listen.
    fn announce(
        &mut self,
        protocol: Protocol,
        new: Option<Arc<RekeySa>>,
        listening: bool,
        keep: Duration,
        content: &Content,
    ) -> Vec<Arc<RekeyStep>> {
        let told = new.clone().map(|sa| NewRekeySa { sa, tree: None });
        let step = listening.then(|| self.step(protocol, told, true, content));
        new.into_iter().for_each(|sa| self.replace(sa, keep));
        step.into_iter().collect()
    }

    /// One rekey SA after the other, each of which excludes some more, and at last the new epoch.
    fn exclude(
        &mut self,
        protocol: Protocol,
        exclusions: Vec<(Arc<RekeySa>, TreeUpdate)>,
        listening: bool,
        keep: Duration,
        content: &Content,
    ) -> Vec<Arc<RekeyStep>> {
        let mut steps = Vec::new();
        for (sa, tree) in exclusions {
            if listening {
                let told = NewRekeySa { sa: Arc::clone(&sa), tree: Some(tree) };
                steps.push(self.step(protocol, Some(told), false, content));
            }
            self.replace(sa, keep);
        }
        if listening {
            steps.push(self.step(protocol, None, true, content));
        }
        steps
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
