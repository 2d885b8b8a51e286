//! Members that are rekeyed over the IKE SA they registered by (RFC 9838 section 2.4.2).
//!
//! They have no Rekey SA and no leaf of the key tree, so excluding one is a matter of not telling it the next epoch. Who loses
//! its IKE SA is a member no more (section 2.3.3), and registers anew.

use std::sync::Arc;
use std::time::Duration;

use super::{Group, LEAVE_BATCH};
use crate::admission::{JoinRequest, Refusal};
use crate::epoch::Epoch;
use crate::id::Protocol;
use crate::member::Member;
use crate::plan::{Deletion, InBandStep, InBandTo, RekeyReason};
use crate::policy::InBand;
use crate::time::Now;
use crate::view::MemberState;

/// How things stood before a rekey.
pub(super) struct Before {
    members: Vec<InBandTo>,
    epoch: Option<Arc<Epoch>>,
}

impl Group {
    /// Is who asks to join rekeyed in band?
    pub(super) fn wants_in_band(&self, request: JoinRequest<'_>) -> Result<bool, Refusal> {
        let policy = self.policy.gikev2.as_ref().filter(|_| request.protocol == Protocol::Gikev2);
        let (Some(policy), Some(asked)) = (policy, request.gikev2) else { return Ok(false) };
        let in_band = policy.options.in_band;
        match in_band.covers(request.sender_ids.is_some()) {
            // GSA_INBAND_REKEY names no group, so an IKE SA carries one (reading 32).
            true if asked.shared && in_band == InBand::Everybody => Err(Refusal::SharedIkeSa),
            covered => Ok(covered && !asked.shared),
        }
    }

    fn in_band_members(&self) -> Vec<InBandTo> {
        let of = |m: &Member| InBandTo { identity: m.identity.clone(), registration: m.registrations };
        self.members.in_band().map(of).collect()
    }

    pub(super) fn before_rekey(&self) -> Before {
        Before { members: self.in_band_members(), epoch: self.epochs.last().map(Arc::clone) }
    }

    /// What a rekey that has changed everything already tells in band, if there is anybody to be told.
    pub(super) fn in_band_step(&self, before: Before, reason: RekeyReason) -> Option<Arc<InBandStep>> {
        if before.members.is_empty() {
            return None;
        }
        let stays = |to: &InBandTo| {
            let member = self.members.get(&to.identity).filter(|m| m.is_active(Protocol::Gikev2) && m.in_band);
            member.is_some_and(|m| m.registrations == to.registration)
        };
        let (members, excluded) = before.members.into_iter().partition(stays);
        let number = |e: &Arc<Epoch>| e.number;
        let epoch = self.epochs.last().filter(|e| before.epoch.as_ref().map(number) != Some(e.number)).map(Arc::clone);
        let at_once = reason == RekeyReason::DeleteTeks;
        let replaced = before.epoch.filter(|_| epoch.is_some()).map(|e| e.spis()).unwrap_or_default();
        let delay = |d| if at_once { Duration::ZERO } else { d };
        Some(Arc::new(InBandStep {
            members,
            excluded,
            epoch,
            delete: if at_once { Deletion::DataSas } else { Deletion::Spis(replaced) },
            activation_delay: delay(self.policy.activation_delay),
            deactivation_delay: delay(self.policy.deactivation_delay),
        }))
    }

    /// Notes that a member has answered what it was told in band; `false` if it has before, or was not told it.
    pub(crate) fn acknowledge_in_band(&mut self, rekey: u64, to: &InBandTo, now: Now) -> bool {
        let member = self.members.get(&to.identity).filter(|m| m.registrations == to.registration);
        let Some(ack) = member.and_then(|m| self.ledger.acknowledge_in_band(rekey, m, now.wall)) else { return false };
        self.note_ack(rekey, &to.identity, ack, true);
        true
    }

    /// The IKE SA of a member that is rekeyed over it is gone. `false` if it has registered since, or is no member.
    pub(crate) fn lose(&mut self, to: &InBandTo, now: Now) -> bool {
        let member = self.members.get(&to.identity).filter(|m| m.is_active(Protocol::Gikev2) && m.in_band);
        if member.is_none_or(|m| m.registrations != to.registration) {
            return false;
        }
        tracing::info!(group = %self.policy.name, member = %to.identity, "member has lost its IKE SA: it must register anew");
        self.members.set_state(&to.identity, MemberState::Left, None);
        self.store_member(&to.identity);
        self.exclude_former_listeners(now);
        true
    }

    /// Who followed the rekey messages before it was rekeyed in band reads them still, and must not as a member no more.
    fn exclude_former_listeners(&mut self, now: Now) {
        if self.sides.values().any(|s| !s.stale.is_empty() || !s.outsiders.is_empty()) {
            self.leavers_due.get_or_insert(now.wall + LEAVE_BATCH);
            self.store_state();
        }
    }

    /// IKE SAs do not outlive the process: whoever was rekeyed over one registers anew.
    pub(super) fn lose_all(&mut self, now: Now) {
        let lost = self.in_band_members();
        for to in &lost {
            self.members.set_state(&to.identity, MemberState::Left, None);
            self.store_member(&to.identity);
        }
        if !lost.is_empty() {
            self.exclude_former_listeners(now);
        }
    }
}
