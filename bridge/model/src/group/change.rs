//! A policy that changes while the group runs, or between two runs.

use std::sync::Arc;

use keyferry_crypto::Random;

use super::Group;
use super::form::Form;
use crate::epoch::Epoch;
use crate::id::{Identity, Protocol};
use crate::plan::{Deletion, RekeyReason, RekeyStep};
use crate::policy::{Authorization, EspMode, GroupPolicy, TrafficPolicy};
use crate::store::StoreOp;
use crate::time::Now;
use crate::view::MemberState;

impl Group {
    /// Goes on under another policy; `true` if members have to be told, by a rekey that is due at once then.
    ///
    /// Epochs keep the lines they were made with until they go, and rekey SAs their protection.
    pub(crate) fn change_policy(&mut self, policy: Arc<GroupPolicy>, rng: &mut dyn Random) -> bool {
        self.policy = policy;
        self.prepare_sas(rng);
        for side in self.sides.values_mut() {
            side.tree.set_capacity(self.policy.capacity);
        }
        self.generation += 1;
        self.store_state();
        self.compare();
        self.pending.is_some()
    }

    /// Notes what of the policy members do not know yet.
    pub(super) fn compare(&mut self) {
        self.pending = self.news();
    }

    fn news(&self) -> Option<RekeyReason> {
        let newest = self.epochs.last()?;
        let needs = self.policy.needs_sender_ids();
        // A sender ID of another width would not be unique among those there are, and a sender without any could not send.
        let renumbered = needs && (self.sender_ids.bits() != self.policy.sender_id_bits || !newest.needs_sender_ids());
        if renumbered || self.roles_change(newest) || self.leaves_transport_mode(newest) {
            // Also without members: no other rekey begins to count anew.
            return Some(RekeyReason::Reset);
        }
        let side = |p: &Protocol| {
            let side = self.sides.get(p);
            let same_form = Form::of(&self.policy, *p) == side.and_then(|s| Form::of(&s.policy, *p));
            let same_life = side.is_none_or(|s| s.current.expires - s.current.created == self.policy.kek_lifetime);
            same_form && same_life
        };
        let told = newest.fits(&self.policy) && Protocol::ALL.iter().all(side) && self.unlisted().next().is_none();
        (!told).then_some(RekeyReason::Policy)
    }

    /// Is a line to be sent by others than before? A member learns at its registration alone which way its SAs go: one
    /// push for all cannot tell it (RFC 6407 section 5.5.1.1.2).
    fn roles_change(&self, newest: &Epoch) -> bool {
        let same = |a: &TrafficPolicy, b: &TrafficPolicy| a.source == b.source && a.destination == b.destination;
        self.policy.traffic.iter().any(|line| {
            let before = newest.sas.iter().find(|sa| same(&sa.policy, line));
            before.and_then(|sa| sa.policy.only_sender.as_ref()) != line.only_sender.as_ref()
        })
    }

    /// Do SAs turn from transport to tunnel mode for members to whom no rekey can tell it? One of G-IKEv2 without
    /// USE_TRANSPORT_MODE changes nothing (RFC 9838 section 2.3.4, reading 17).
    fn leaves_transport_mode(&self, newest: &Epoch) -> bool {
        let transport = newest.sas.iter().any(|sa| sa.policy.mode == EspMode::Transport);
        transport && self.policy.mode() == EspMode::Tunnel && self.policy.gikev2.is_some()
    }

    /// Members that may not join any more, and those that would be if their KEK had not been deleted.
    fn unlisted(&self) -> impl Iterator<Item = &Identity> {
        let listed = |identity: &Identity| match &self.policy.authorization {
            Authorization::Authenticated => true,
            Authorization::Listed(list) => list.contains(identity),
        };
        let keyed = self.members.iter().filter(|m| m.is_active(m.protocol) || self.holds_traffic_keys(m));
        keyed.map(|m| &m.identity).filter(move |i| !listed(i))
    }

    /// Takes those out that may not be members any more; `true` if there were any.
    pub(super) fn dismiss_unlisted(&mut self) -> bool {
        if self.pending.is_none() {
            return false;
        }
        let unlisted: Vec<Identity> = self.unlisted().cloned().collect();
        for identity in &unlisted {
            tracing::info!(group = %self.policy.name, member = %identity, "member may not join any more");
            self.drop_member(identity, MemberState::Left);
        }
        !unlisted.is_empty()
    }

    /// Starts what the policy serves now, and ends what it no longer does.
    pub(super) fn align_sides(&mut self, now: Now, rng: &mut dyn Random) -> Vec<Arc<RekeyStep>> {
        let mut steps = Vec::new();
        for protocol in Protocol::ALL {
            let served = Form::of(&self.policy, protocol).is_some();
            if served && !self.sides.contains_key(&protocol) {
                // Whoever was a member before has keys of a tree that is gone.
                self.dismiss(protocol);
                self.start_side(protocol, now, rng);
                self.store_sender_ids();
            }
            if !served && self.sides.contains_key(&protocol) {
                steps.extend(self.restart_side(protocol, Deletion::Everything, now, rng));
                if let Some(mut side) = self.sides.remove(&protocol) {
                    let gone = side.tree.take_changes();
                    let keys = gone.into_iter().map(|(n, _)| self.key(&format!("tree/{protocol}/{n}")));
                    let ops: Vec<StoreOp> = keys.map(StoreOp::Delete).collect();
                    self.ops.extend(ops);
                }
            }
        }
        steps
    }
}
