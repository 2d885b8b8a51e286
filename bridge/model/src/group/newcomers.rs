//! Backward access control (RFC 6407 section 7.4.2, RFC 9838 section 3): who joins reads nothing of before.
//!
//! ```text
//!  registration   a rekey SA, no traffic keys; from the first newcomer on others may gather
//!  rekey          1. over the rekey SA in use: that of the newcomers, for the others; where recordings are feared
//!                 2. over that one: traffic keys in place of those in use, for all
//! ```
//!
//! Members that are excluded meanwhile are left out between the two. Keys that were told to nobody yet need not be
//! replaced, so the first member waits for nothing. Who is rekeyed in band gets no rekey SA, so only traffic keys are to be
//! kept from it; without its IKE SA it is a member no more, and a newcomer when it returns.

use std::sync::Arc;

use keyferry_crypto::Random;

use super::side::NextSa;
use super::{Group, Side};
use crate::admission::{Offer, Refusal};
use crate::id::{Identity, Protocol};
use crate::member::Member;
use crate::plan::RekeyStep;
use crate::rekey_sa::RekeySa;
use crate::time::Now;
use crate::view::MemberState;

impl Group {
    /// The first epoch that a member may have the keys of, if it registers now.
    pub(super) fn first_epoch(&self, identity: &Identity) -> u64 {
        if self.policy.backward_access.is_none() {
            return 0;
        }
        if let Some(member) = self.members.get(identity).filter(|m| self.remains(m)) {
            return member.first_epoch;
        }
        let newest = self.epochs.last().map_or(0, |e| e.number);
        if newest > self.told_epoch { newest } else { self.next_epoch }
    }

    /// Is it a member, or one that has to register anew under the keys that came when it was told so?
    fn remains(&self, member: &Member) -> bool {
        let dismissed = |until: u64| {
            let mut since = self.ledger.entries.range(until..);
            since.next().is_some_and(|(id, _)| *id == until) && since.all(|(_, e)| e.epoch.is_none())
        };
        match member.state {
            MemberState::Active => true,
            MemberState::Left => member.until.is_some_and(dismissed),
            MemberState::Evicted => false,
        }
    }

    /// The rekey SA for a member that may have keys from this epoch on, and the last counter used under it.
    pub(super) fn rekey_sa_from(&self, side: &Side, first: u64, now: Now) -> Result<(Arc<RekeySa>, u32), Refusal> {
        if !self.policy.hides_rekeys() || side.carried.is_none_or(|oldest| oldest >= first) {
            return Ok((Arc::clone(&side.current), side.sent));
        }
        match &side.next {
            Some(next) if next.given => Ok((Arc::clone(&next.sa), 0)),
            Some(next) => Ok((Arc::new(next.sa.begun(now.wall, self.policy.kek_lifetime)), 0)),
            // The rekey that is due then prepares one.
            None => Err(Refusal::Stale),
        }
    }

    /// Notes what a member is told at its registration, and that it waits for the rest.
    pub(super) fn note_told(&mut self, protocol: Protocol, in_band: bool, offer: &Offer, now: Now) {
        if let Some(newest) = offer.epochs.last().map(|e| e.number).filter(|n| *n > self.told_epoch) {
            self.told_epoch = newest;
            if self.policy.backward_access.is_some() {
                // Whoever was offered it as a newcomer may not have it any more.
                self.generation += 1;
            }
            self.store_state();
        }
        let Some(access) = self.policy.backward_access else { return };
        let Some(side) = self.sides.get_mut(&protocol) else { return };
        let apart = !in_band && side.current.spi != offer.rekey.spi;
        if apart && side.next.as_ref().is_some_and(|n| !n.given) {
            side.next = Some(NextSa { sa: Arc::clone(&offer.rekey), given: true });
            self.store_state();
        }
        if (apart || offer.epochs.is_empty()) && self.newcomers_due.is_none() {
            self.newcomers_due = Some(now.wall + access.gathering);
            self.store_state();
        }
    }

    /// Takes everybody to the rekey SA that newcomers have.
    pub(super) fn welcome(&mut self, now: Now) -> Vec<Arc<RekeyStep>> {
        let keep = now.wall + self.policy.deactivation_delay + self.policy.ack_patience;
        let mut steps = Vec::new();
        for (protocol, side) in &mut self.sides {
            let Some(next) = side.next.take_if(|n| n.given) else { continue };
            if self.members.listening(*protocol) > 0 {
                steps.push(side.introduction(*protocol, &next.sa, &self.policy, now.wall));
            }
            let made_under = Arc::clone(&side.policy);
            side.replace(next.sa, &made_under, keep);
        }
        steps
    }

    /// Makes the rekey SAs that newcomers will get.
    pub(super) fn prepare_sas(&mut self, rng: &mut dyn Random) {
        let hides = self.policy.hides_rekeys();
        let mut changed = false;
        for (protocol, side) in &mut self.sides {
            if hides && side.next.is_none() {
                let sa = RekeySa::generate(*protocol, &side.policy, side.current.created, rng);
                side.next = sa.map(|sa| NextSa { sa: Arc::new(sa), given: false });
                changed = true;
            } else if !hides {
                changed |= side.next.take_if(|n| !n.given).is_some();
            }
        }
        if changed {
            self.store_state();
        }
    }
}
