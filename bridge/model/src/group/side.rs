//! One protocol's half of a group, and the messages it makes of a plan.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use keyferry_crypto::Secret;

use crate::epoch::Epoch;
use crate::id::{Identity, Protocol};
use crate::lkh::{KeyTree, TreeUpdate};
use crate::member::Member;
use crate::plan::{Deletion, NewRekeySa, RekeyStep};
use crate::policy::GroupPolicy;
use crate::rekey_sa::RekeySa;
use crate::stream::StreamStep;

/// One protocol's half of a group.
#[derive(Debug)]
pub(crate) struct Side {
    pub(crate) current: Arc<RekeySa>,
    /// The policy under which that SA was made.
    pub(crate) policy: Arc<GroupPolicy>,
    /// Messages sent under the current SA: the last GDOI SEQ, the next G-IKEv2 message ID.
    pub(crate) sent: u32,
    /// The oldest epoch whose keys were sent under the current SA.
    pub(crate) carried: Option<u64>,
    /// The SA that newcomers get who must not read what was sent under the current one.
    pub(super) next: Option<NextSa>,
    /// Replaced SAs whose messages may still be acknowledged, and until when.
    pub(crate) replaced: Vec<ReplacedSa>,
    pub(crate) tree: KeyTree,
    /// The tree from before all had to register anew: its leaves prove acknowledgements as long as replaced SAs are kept.
    pub(crate) former: Option<KeyTree>,
    /// Leaves of members that left, moved or were evicted, to be excluded with the next change of the rekey SA.
    pub(crate) stale: BTreeSet<u32>,
    /// The same of members without a leaf.
    pub(crate) outsiders: BTreeSet<Identity>,
}

/// A rekey SA under which nothing was sent.
#[derive(Debug)]
pub(super) struct NextSa {
    pub(super) sa: Arc<RekeySa>,
    /// Newcomers have it. Until then its life has not begun.
    pub(super) given: bool,
}

/// A rekey SA that has been replaced.
#[derive(Debug)]
pub(crate) struct ReplacedSa {
    pub(crate) sa: Arc<RekeySa>,
    pub(crate) policy: Arc<GroupPolicy>,
    pub(crate) sent: u32,
    pub(crate) until: Duration,
}

/// A rekey SA as acknowledgements name it.
#[derive(Debug)]
pub(crate) struct SaAt<'a> {
    pub(crate) sa: &'a Arc<RekeySa>,
    pub(crate) policy: &'a Arc<GroupPolicy>,
    pub(crate) sent: u32,
}

/// What all messages of one plan have in common.
pub(super) struct Content {
    pub(super) epoch: Arc<Epoch>,
    pub(super) delete: Deletion,
    pub(super) delete_streams: Vec<u32>,
    pub(super) activation_delay: Duration,
    pub(super) deactivation_delay: Duration,
    pub(super) counted_from: Duration,
    /// Replaced rekey SAs are kept until then.
    pub(super) keep: Duration,
}

impl Side {
    pub(super) fn new(sa: RekeySa, policy: Arc<GroupPolicy>, tree: KeyTree) -> Self {
        Self {
            current: Arc::new(sa),
            policy,
            sent: 0,
            carried: None,
            next: None,
            replaced: Vec::new(),
            tree,
            former: None,
            stale: BTreeSet::new(),
            outsiders: BTreeSet::new(),
        }
    }

    /// The rekey SAs whose messages may be acknowledged, the current one first.
    pub(crate) fn sas(&self) -> impl Iterator<Item = SaAt<'_>> {
        let current = SaAt { sa: &self.current, policy: &self.policy, sent: self.sent };
        let replaced = self.replaced.iter().map(|r| SaAt { sa: &r.sa, policy: &r.policy, sent: r.sent });
        std::iter::once(current).chain(replaced)
    }

    /// The key of a member's leaf, in this tree or the one before.
    pub(crate) fn leaf_key(&self, member: &Member) -> Option<&Secret> {
        let tree = if member.until.is_some() { self.former.as_ref()? } else { &self.tree };
        tree.leaf(member.leaf?)
    }

    /// The handle of that key.
    pub(crate) fn leaf_id(&self, member: &Member) -> Option<u32> {
        let tree = if member.until.is_some() { self.former.as_ref()? } else { &self.tree };
        tree.leaf_handle(member.leaf?)
    }

    /// Drops replaced SAs whose time has passed; `true` if there were any.
    pub(super) fn expire(&mut self, wall: Duration) -> bool {
        let before = self.replaced.len();
        self.replaced.retain(|r| r.until > wall);
        if self.replaced.is_empty() {
            self.former = None;
        }
        self.replaced.len() != before
    }

    /// The counter of the next message; never the same twice under one rekey SA.
    pub(super) fn take_counter(&mut self, protocol: Protocol) -> u32 {
        self.sent = self.sent.checked_add(1).expect("a rekey SA expires long before 2^32 messages");
        match protocol {
            // SEQ of the first push is 1 (RFC 6407 section 4.3), the first message ID is 0 (RFC 9838 section 2.4.1.3).
            Protocol::Gdoi => self.sent,
            Protocol::Gikev2 => self.sent - 1,
        }
    }

    /// Goes on under a new rekey SA, made under `policy`.
    pub(super) fn replace(&mut self, new: Arc<RekeySa>, policy: &Arc<GroupPolicy>, until: Duration) {
        let sa = std::mem::replace(&mut self.current, new);
        let policy = std::mem::replace(&mut self.policy, Arc::clone(policy));
        self.replaced.push(ReplacedSa { sa, policy, sent: self.sent, until });
        (self.sent, self.carried, self.next) = (0, None, None);
    }

    fn step(
        &mut self,
        protocol: Protocol,
        new_rekey: Option<NewRekeySa>,
        with_epoch: bool,
        content: &Content,
    ) -> Arc<RekeyStep> {
        if with_epoch {
            self.carried.get_or_insert(content.epoch.number);
        }
        Arc::new(RekeyStep {
            protocol,
            over: Arc::clone(&self.current),
            policy: Arc::clone(&self.policy),
            counter: self.take_counter(protocol),
            new_rekey,
            new_epoch: with_epoch.then(|| Arc::clone(&content.epoch)),
            delete: if with_epoch { content.delete.clone() } else { Deletion::Spis(Vec::new()) },
            activation_delay: content.activation_delay,
            deactivation_delay: content.deactivation_delay,
            counted_from: content.counted_from,
            streams: StreamStep {
                delete: if with_epoch { content.delete_streams.clone() } else { Vec::new() },
                report: None,
            },
        })
    }

    /// A message that deletes and brings nothing.
    pub(super) fn deletion(&mut self, protocol: Protocol, delete: Deletion, wall: Duration) -> Arc<RekeyStep> {
        Arc::new(RekeyStep {
            protocol,
            over: Arc::clone(&self.current),
            policy: Arc::clone(&self.policy),
            counter: self.take_counter(protocol),
            new_rekey: None,
            new_epoch: None,
            delete,
            activation_delay: Duration::ZERO,
            deactivation_delay: Duration::ZERO,
            counted_from: wall,
            streams: StreamStep::default(),
        })
    }

    /// A message that brings the rekey SA that newcomers have, and nothing else. It is made as the present one is.
    pub(super) fn introduction(
        &mut self,
        protocol: Protocol,
        sa: &Arc<RekeySa>,
        policy: &GroupPolicy,
        wall: Duration,
    ) -> Arc<RekeyStep> {
        let made_under = Arc::clone(&self.policy);
        Arc::new(RekeyStep {
            protocol,
            over: Arc::clone(&self.current),
            policy: Arc::clone(&self.policy),
            counter: self.take_counter(protocol),
            new_rekey: Some(NewRekeySa { sa: Arc::clone(sa), made_under, tree: None }),
            new_epoch: None,
            delete: Deletion::Spis(Vec::new()),
            activation_delay: policy.activation_delay,
            deactivation_delay: policy.deactivation_delay,
            counted_from: wall + policy.last_copy(),
            streams: StreamStep::default(),
        })
    }

    /// The new epoch, and a new rekey SA if there is one, for all who listen.
    pub(super) fn announce(
        &mut self,
        protocol: Protocol,
        new: Option<Arc<RekeySa>>,
        policy: &Arc<GroupPolicy>,
        listening: bool,
        content: &Content,
    ) -> Vec<Arc<RekeyStep>> {
        let told = new.clone().map(|sa| NewRekeySa { sa, made_under: Arc::clone(policy), tree: None });
        let step = listening.then(|| self.step(protocol, told, true, content));
        new.into_iter().for_each(|sa| self.replace(sa, policy, content.keep));
        step.into_iter().collect()
    }

    /// One rekey SA after the other, each of which excludes some more, and at last the new epoch.
    pub(super) fn exclude(
        &mut self,
        protocol: Protocol,
        exclusions: Vec<(Arc<RekeySa>, TreeUpdate)>,
        policy: &Arc<GroupPolicy>,
        listening: bool,
        content: &Content,
    ) -> Vec<Arc<RekeyStep>> {
        let mut steps = Vec::new();
        for (sa, tree) in exclusions {
            if listening {
                let told = NewRekeySa { sa: Arc::clone(&sa), made_under: Arc::clone(policy), tree: Some(tree) };
                steps.push(self.step(protocol, Some(told), false, content));
            }
            self.replace(sa, policy, content.keep);
        }
        if listening {
            steps.push(self.step(protocol, None, true, content));
        }
        steps
    }
}
