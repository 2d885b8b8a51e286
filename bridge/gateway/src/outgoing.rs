//! Rekey messages on their way: bitwise identical copies, sent several times, and again after a restart.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use keyferry_crypto::Secret;
use keyferry_model::drive::{Outbox, Transmit};
use keyferry_model::policy::Retransmit;
use keyferry_model::store::StoreOp;
use keyferry_model::time::{Deadline, Now};
use serde::{Deserialize, Serialize};

/// What all keys of these records begin with.
pub(crate) const PREFIX: &str = "outgoing/";

/// One protocol's messages of one rekey.
#[derive(Serialize, Deserialize)]
struct Batch {
    /// Messages in their order, encrypted.
    messages: Vec<Vec<u8>>,
    /// A multicast address, or the members'.
    to: Vec<SocketAddr>,
    /// Copies still to be sent.
    left: u16,
    interval: Duration,
    /// When the next copy is due, monotonic; after a restart, at once.
    #[serde(skip)]
    due: Duration,
}

/// All batches that are not finished.
#[derive(Default)]
pub(crate) struct Outgoing {
    batches: BTreeMap<String, Batch>,
}

impl Outgoing {
    /// Takes up what the last run has not finished: a member that missed it before the crash gets it now.
    pub(crate) fn load(records: &BTreeMap<String, Secret>) -> Result<Self, (String, serde_json::Error)> {
        let mut batches = BTreeMap::new();
        for (key, bytes) in records.range(PREFIX.to_owned()..).take_while(|(k, _)| k.starts_with(PREFIX)) {
            let batch = serde_json::from_slice(bytes.expose()).map_err(|e| (key.clone(), e))?;
            batches.insert(key.clone(), batch);
        }
        Ok(Self { batches })
    }

    /// Takes messages, whose first copies go with the next [`expire`](Self::expire). The operation returned belongs into
    /// the transaction that stores the plan: a plan without its messages would cut members off.
    #[must_use]
    pub(crate) fn add(
        &mut self,
        name: &str,
        messages: Vec<Vec<u8>>,
        to: Vec<SocketAddr>,
        retransmit: Retransmit,
        now: Now,
    ) -> StoreOp {
        let key = format!("{PREFIX}{name}");
        let left = u16::from(retransmit.copies) + 1;
        let batch = Batch { messages, to, left, interval: retransmit.interval, due: now.mono };
        let bytes = serde_json::to_vec(&batch).expect("a batch has no failing serializers");
        self.batches.insert(key.clone(), batch);
        StoreOp::Put(key, Secret::new(bytes))
    }

    /// Sends the copies that are due.
    pub(crate) fn expire(&mut self, now: Now, out: &mut Outbox) {
        for batch in self.batches.values_mut().filter(|b| b.due <= now.mono) {
            for to in &batch.to {
                for bytes in &batch.messages {
                    out.send(Transmit { from: None, to: *to, marker: false, bytes: bytes.clone() });
                }
            }
            batch.left = batch.left.saturating_sub(1);
            batch.due = now.mono + batch.interval;
        }
        let done: Vec<String> = self.batches.iter().filter(|(_, b)| b.left == 0).map(|(k, _)| k.clone()).collect();
        for key in &done {
            self.batches.remove(key);
        }
        out.persist(done.into_iter().map(StoreOp::Delete).collect());
    }

    pub(crate) fn deadline(&self) -> Option<Deadline> {
        let at = self.batches.values().map(|b| b.due).min()?;
        Some(Deadline { at, reason: "copy of a rekey message" })
    }
}
