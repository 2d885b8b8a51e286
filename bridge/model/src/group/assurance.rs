//! Key delivery assurance (RFC 8052 section 2.2.4.2): how many members have the keys of an epoch before it is used.
//!
//! ```text
//!  rekey ----------> epoch announced, used after the activation delay
//!     acknowledgements come in; everybody has answered, or the time to answer has passed
//!  report ---------> SA_KDA: publishers decide whether to use the new keys
//! ```
//!
//! Whoever registers meanwhile is told how far it is at that time.

use std::sync::Arc;

use super::Group;
use crate::epoch::Epoch;
use crate::id::Protocol;
use crate::ledger::Entry;
use crate::plan::{Deletion, RekeyPlan, RekeyReason, RekeyStep};
use crate::stream::{DeliveryReport, StreamStep};
use crate::time::Now;

impl Group {
    /// The newest epoch, if its delivery is of interest: somebody wants to know, and it is not used yet.
    fn pending(&self, now: Now) -> Option<&Arc<Epoch>> {
        let asked = self.policy.streams.iter().any(|s| s.delivery_assurance);
        self.epochs.last().filter(|e| asked && e.activates > now.wall)
    }

    /// The rekey that brought an epoch.
    fn announcement(&self, epoch: &Epoch) -> Option<&Entry> {
        self.ledger.entries.values().rev().find(|e| e.epoch == Some(epoch.number))
    }

    /// How many members of a hundred have the keys of the newest epoch, if that is of interest and can be known. Who registered
    /// after it was announced has them, who was there before says so by an acknowledgement.
    pub(super) fn delivered(&self, now: Now) -> Option<u8> {
        let entry = self.announcement(self.pending(now)?).filter(|e| !e.awaited.is_empty())?;
        let all = self.members.count(Protocol::Gdoi);
        let waiting = self.members.active(Protocol::Gdoi).filter(|m| Some(m.first_epoch) > entry.epoch).count();
        let have = all.saturating_sub(entry.unproven(&self.members)).saturating_sub(waiting);
        (have * 100).checked_div(all).and_then(|percent| u8::try_from(percent).ok())
    }

    /// Is the time come to report? Once per epoch, when the answers are in.
    pub(super) fn report_is_due(&self, now: Now) -> bool {
        let Some(entry) = self.pending(now).and_then(|epoch| self.announcement(epoch)) else { return false };
        let answered = entry.missing.is_some() || entry.acks.len() >= entry.expected;
        let reported = || self.ledger.entries.range(entry.id..).any(|(_, e)| e.reason == RekeyReason::Assurance);
        answered && !entry.awaited.is_empty() && !reported()
    }

    /// One message to the members of GDOI, under the rekey SA there is; keys do not change.
    pub(super) fn report_delivery(&mut self, now: Now) -> RekeyPlan {
        let policy = Arc::clone(&self.policy);
        let report = self.pending(now).cloned().zip(self.delivered(now));
        let mut steps = Vec::new();
        if let (Some((epoch, delivered)), Some(side)) = (report, self.sides.get_mut(&Protocol::Gdoi)) {
            tracing::info!(group = %policy.name, epoch = epoch.number, delivered, "delivery of keys reported");
            side.carried.get_or_insert(epoch.number);
            steps.push(Arc::new(RekeyStep {
                protocol: Protocol::Gdoi,
                over: Arc::clone(&side.current),
                policy: Arc::clone(&side.policy),
                counter: side.take_counter(Protocol::Gdoi),
                new_rekey: None,
                new_epoch: None,
                delete: Deletion::Spis(Vec::new()),
                activation_delay: epoch.activates.saturating_sub(now.wall),
                deactivation_delay: policy.deactivation_delay,
                counted_from: now.wall + policy.last_copy(),
                streams: StreamStep { delete: Vec::new(), report: Some(DeliveryReport { epoch, delivered }) },
            }));
        }
        let (id, reason) = (self.take_rekey_id(), RekeyReason::Assurance);
        RekeyPlan { id, reason, policy, steps, fragment_size: None, in_band: None }
    }
}
