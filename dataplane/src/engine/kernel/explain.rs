//! What would become of a packet, told from what the kernel was given. It is not asked, and what others have installed is
//! not looked at.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::message::{Action, Direction, Template};
use super::plan::{Policies, UNKNOWN, decides};
use crate::drops::DropReason;
use crate::packet::Headers;
use crate::sa::Sa;
use crate::sad::{Explanation, Flow, Sad, Tried, spi};
use crate::seal::{self, Bounds};
use crate::status::PolicyStatus;

/// The kernel's counter of packets whose policy names a state that is not there.
const NO_STATES: &str = "OutNoStates";

/// The kernel makes packets no longer than they must be, and what is too large for the link is known to its routes.
const UNBOUNDED: Bounds = Bounds { limit: usize::MAX, mtu: 0 };

/// Explains by the SAs of a SAD, of which the states of some are `lost`, and by policies. `None` if there can be no such packet.
pub(super) fn explain(flow: &Flow, sad: &Sad, policies: &Policies, lost: &BTreeSet<u32>) -> Option<Explanation> {
    let headers = flow.headers()?;
    let mut told = Explanation::default();
    match decides(policies, Direction::Out, &headers) {
        None => (told.clear, told.why) = (true, Some("no policy of this group is about it")),
        Some(policy) if *policy == UNKNOWN => {
            told.why = Some("somebody else has changed the policy, which is put right")
        }
        Some(policy) => match policy.action {
            Action::Pass => (told.clear, told.why) = (true, Some("the network must see memberships (IGMP, MLD)")),
            Action::Block => {
                told.dropped = Some(DropReason::OutPolBlock.name());
                told.why = Some("no line of the policy has keys for it");
            }
            Action::Protect(template) => told.sent_by(template, sad, lost, &headers),
        },
    }
    let protects = |policy: &_| matches!(policy, Action::Protect(_));
    if decides(policies, Direction::In, &headers).is_some_and(|policy| protects(&policy.action)) {
        let receiving = sad.installed().filter(|(_, direction)| direction.receives()).map(|(sa, _)| sa);
        told.opened_by = receiving.filter(|sa| !lost.contains(&sa.spi) && sa.covers(&headers)).map(spi).collect();
        told.opened_by.sort_unstable();
    }
    Some(told)
}

impl Explanation {
    /// The policy names one state, and the kernel tries no other.
    fn sent_by(&mut self, template: Template, sad: &Sad, lost: &BTreeSet<u32>, headers: &Headers) {
        let named = |sa: &&Arc<Sa>| sa.spi == template.spi;
        let Some(sa) = sad.installed().map(|(sa, _)| sa).find(named) else {
            self.dropped = Some(NO_STATES);
            return;
        };
        self.policy = Some(PolicyStatus::of(&sa.policy));
        let outcome = match lost.contains(&sa.spi) {
            true => Err(NO_STATES),
            false => seal::would_seal(sa, headers, &[], UNBOUNDED).map_err(DropReason::name),
        };
        self.tried.push(Tried { spi: spi(sa), octets: outcome.ok(), refused: outcome.err() });
        self.dropped = outcome.err();
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
