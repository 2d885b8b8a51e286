//! HMACs of the packets of a burst (RFC 2404, RFC 4868): side by side where the processor can and there are enough, else one after the
//! other.

use arrayvec::ArrayVec;
use keyferry_crypto::{Integrity, IntegrityKey, ct_eq};

use super::lanes::hmac::{HmacLanes, Message};
use super::{Job, MAX_ICV, split_icv};
use crate::burst::BURST;

/// An integrity key.
pub(super) struct BurstMac {
    key: IntegrityKey,
    lanes: Option<HmacLanes>,
}

impl BurstMac {
    pub(super) fn new(integrity: Integrity, key: &[u8]) -> Self {
        Self { key: IntegrityKey::new(integrity, key), lanes: HmacLanes::new(integrity, key) }
    }

    /// Octets of an ICV.
    pub(super) fn icv_len(&self) -> usize {
        self.key.algorithm().icv_len()
    }

    /// [`Transform::library`](super::Transform::library): the one name where packets go one after the other, else the other.
    pub(super) fn library(&self, alone: &'static str, side_by_side: &'static str) -> &'static str {
        if self.lanes.is_some() { side_by_side } else { alone }
    }

    /// What has lanes for so many packets.
    fn lanes(&self, packets: usize) -> Option<&HmacLanes> {
        self.lanes.as_ref().filter(|lanes| packets >= lanes.enough())
    }

    /// Computes the ICVs of those of at most a burst's jobs that are done.
    pub(super) fn seal(&self, burst: &mut [Job<'_>]) {
        let lanes = self.lanes(burst.len());
        let done = burst.iter_mut().filter(|job| job.done).map(|job| split_icv(job.esp, self.icv_len()));
        if let Some(lanes) = lanes {
            let mut messages: ArrayVec<_, BURST> = done.map(|(octets, mac)| Message { octets, mac }).collect();
            return lanes.compute(&mut messages);
        }
        for (protected, icv) in done {
            self.key.compute_into(&[protected], icv);
        }
    }

    /// Compares the ICVs of at most a burst's jobs: authentic ones are done, others are not.
    pub(super) fn verify(&self, burst: &mut [Job<'_>]) {
        let lanes = self.lanes(burst.len());
        let parts = burst.iter_mut().map(|job| (split_icv(job.esp, self.icv_len()), &mut job.done));
        if let Some(lanes) = lanes {
            let mut computed = [[0; MAX_ICV]; BURST];
            let mut verdicts: ArrayVec<_, BURST> = ArrayVec::new();
            let mut messages: ArrayVec<_, BURST> = ArrayVec::new();
            for (((octets, icv), done), mac) in parts.zip(&mut computed) {
                messages.push(Message { octets, mac: &mut mac[..self.icv_len()] });
                verdicts.push((icv, done));
            }
            lanes.compute(&mut messages);
            drop(messages);
            for ((icv, done), computed) in verdicts.into_iter().zip(&computed) {
                *done = ct_eq(icv, &computed[..self.icv_len()]);
            }
            return;
        }
        for ((protected, icv), done) in parts {
            *done = self.key.verify(&[protected], icv);
        }
    }
}
