//! HMACs of the packets of a burst (RFC 2404, RFC 4868): side by side where the processor can and there are enough, else one
//! after the other.

use arrayvec::ArrayVec;
use keyferry_crypto::{CryptoError, Integrity, IntegrityKey, ct_eq};

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

    /// [`Transform::library`](super::Transform::library): the second where the processor has lanes for hashes, else the first.
    pub(super) fn library(&self, alone: &'static str, side_by_side: &'static str) -> &'static str {
        if self.lanes.is_some() { side_by_side } else { alone }
    }

    /// The lanes, if they pay for so many packets.
    fn lanes(&self, packets: usize) -> Option<&HmacLanes> {
        self.lanes.as_ref().filter(|lanes| packets >= lanes.enough())
    }

    /// Encrypts packets by `encrypt`, a burst at a time, and gives those that it could their ICVs.
    pub(super) fn seal<'p>(&self, jobs: &mut [Job<'p>], mut encrypt: impl FnMut(&mut [Job<'p>])) {
        for burst in jobs.chunks_mut(BURST) {
            encrypt(burst);
            self.compute(burst);
        }
    }

    /// Has those packets decrypted whose ICVs are right.
    pub(super) fn open(&self, jobs: &mut [Job<'_>], decrypt: impl Fn(&mut [u8]) -> Result<(), CryptoError>) {
        for burst in jobs.chunks_mut(BURST) {
            self.verify(burst);
            for job in burst.iter_mut().filter(|job| job.done) {
                job.done = decrypt(job.esp).is_ok();
            }
        }
    }

    /// Computes the ICVs of those jobs of a burst that are done.
    fn compute(&self, burst: &mut [Job<'_>]) {
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

    /// Compares the ICVs of a burst's jobs: authentic ones are done, others are not.
    fn verify(&self, burst: &mut [Job<'_>]) {
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What becomes of a packet on its way.
    #[derive(Clone, Copy, Debug, PartialEq)]
    enum Harm {
        None,
        /// It could not be encrypted.
        NotDone,
        /// This octet, counted round, is changed.
        Changed(usize),
        /// Only so many octets are left.
        Cut(usize),
    }

    fn harm() -> impl Strategy<Value = Harm> {
        prop_oneof![
            4 => Just(Harm::None),
            1 => Just(Harm::NotDone),
            2 => any::<usize>().prop_map(Harm::Changed),
            1 => (0..40usize).prop_map(Harm::Cut),
        ]
    }

    proptest! {
        /// However many packets there are, each has the ICV that OpenSSL gives it, and those are opened that nobody touched.
        #[test]
        fn what_nobody_touched_is_authentic(
            integrity in prop::sample::select(&Integrity::ALL[..]),
            packets in prop::collection::vec((prop::collection::vec(any::<u8>(), 40..300), harm()), 0..150),
        ) {
            let key = vec![7; integrity.key_len()];
            let (mac, usual) = (BurstMac::new(integrity, &key), IntegrityKey::new(integrity, &key));
            let mut sealed: Vec<Vec<u8>> = packets.iter().map(|(octets, _)| octets.clone()).collect();
            let mut jobs: Vec<_> = sealed.iter_mut().map(|esp| Job::new(esp, None)).collect();
            let mut harms = packets.iter().map(|(_, harm)| *harm);
            mac.seal(&mut jobs, |burst| {
                for (job, harm) in burst.iter_mut().zip(&mut harms) {
                    job.done = harm != Harm::NotDone;
                }
            });
            for (esp, (octets, harm)) in sealed.iter_mut().zip(&packets) {
                let (protected, icv) = split_icv(esp, mac.icv_len());
                prop_assert_eq!(usual.verify(&[protected], icv), *harm != Harm::NotDone);
                prop_assert_eq!(&*protected, &octets[..protected.len()]);
                let len = esp.len();
                match *harm {
                    Harm::None | Harm::NotDone => {}
                    Harm::Changed(at) => esp[at % len] ^= 1,
                    Harm::Cut(left) => esp.truncate(left),
                }
            }
            let arrived = sealed.clone();
            let mut jobs: Vec<_> = sealed.iter_mut().map(|esp| Job::new(esp, None)).collect();
            // Decrypting shows which were: they become zeros.
            mac.open(&mut jobs, |esp| {
                esp.fill(0);
                Ok(())
            });
            for ((job, arrived), (_, harm)) in jobs.iter().zip(&arrived).zip(&packets) {
                prop_assert_eq!(job.done, *harm == Harm::None);
                prop_assert_eq!(&*job.esp, &*if job.done { vec![0; arrived.len()] } else { arrived.clone() });
            }
        }
    }
}
