//! Public-key work, away from the task that owns the gateway.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use keyferry_crypto::{Job, JobDone};
use keyferry_model::drive::JobId;
use tokio::sync::{Semaphore, mpsc};

/// Jobs that may wait. The endpoints' limits on half-open exchanges keep far below it.
const MAX_WAITING: usize = 16_384;

/// Jobs at one time: as many as there are processors.
pub(super) fn parallelism() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

/// A finished job.
pub(super) type Finished = (JobId, JobDone);

/// A bounded pool.
#[derive(Debug)]
pub(super) struct Jobs {
    slots: Arc<Semaphore>,
    /// For urgent jobs, which wait for no others; rekeys bound their number.
    urgent: Arc<Semaphore>,
    waiting: Arc<Waiting>,
    results: mpsc::UnboundedSender<Finished>,
}

/// The jobs that wait for a processor and are still wanted.
#[derive(Debug, Default)]
struct Waiting(Mutex<BTreeSet<JobId>>);

impl Waiting {
    fn ids(&self) -> MutexGuard<'_, BTreeSet<JobId>> {
        // A set of numbers is whole even if somebody panicked over it.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Jobs {
    pub(super) fn new() -> (Self, mpsc::UnboundedReceiver<Finished>) {
        Self::with_slots(parallelism())
    }

    fn with_slots(slots: usize) -> (Self, mpsc::UnboundedReceiver<Finished>) {
        let (results, receiver) = mpsc::unbounded_channel();
        let (slots, urgent) = (Arc::new(Semaphore::new(slots)), Arc::new(Semaphore::new(parallelism())));
        (Self { slots, urgent, waiting: Arc::default(), results }, receiver)
    }

    /// Runs a job when there is a processor for it.
    ///
    /// # Errors
    /// Too many wait: what to tell the gateway instead of a result.
    pub(super) fn submit(&self, id: JobId, job: Job) -> Result<(), JobDone> {
        let mut ids = self.waiting.ids();
        let urgent = job.is_urgent();
        if ids.len() >= MAX_WAITING && !urgent {
            return Err(job.not_done());
        }
        ids.insert(id);
        drop(ids);
        let slots = Arc::clone(if urgent { &self.urgent } else { &self.slots });
        let (waiting, results) = (Arc::clone(&self.waiting), self.results.clone());
        tokio::spawn(async move {
            let _slot = slots.acquire_owned().await;
            if !waiting.ids().remove(&id) {
                return;
            }
            let failed = job.not_done();
            let done = tokio::task::spawn_blocking(move || job.run()).await.unwrap_or_else(|error| {
                tracing::error!(%error, "a job came to nothing");
                failed
            });
            // Nobody waits for it when the gateway has ended.
            drop(results.send((id, done)));
        });
        Ok(())
    }

    /// Gives a job up that has not begun; one that has is of no use, but goes on.
    pub(super) fn cancel(&self, id: JobId) {
        self.waiting.ids().remove(&id);
    }
}

#[cfg(test)]
mod tests {
    use keyferry_crypto::{
        CryptoError, KeGroup, KeyKind, Secret, SignatureAlgorithm, SignatureForm, SigningKey, ToSign,
    };

    use super::*;

    fn job() -> Job {
        let group = KeGroup::Ecp256;
        Job::KeyExchange { group, private: Secret::new(vec![7; group.seed_len()]), peer: vec![0; group.public_len()] }
    }

    #[tokio::test]
    async fn jobs_given_up_while_they_wait_are_not_run() {
        let (jobs, mut results) = Jobs::with_slots(0);
        for id in [1, 2, 3] {
            jobs.submit(JobId(id), job()).unwrap();
        }
        jobs.cancel(JobId(2));
        jobs.slots.add_permits(1);
        let mut done = Vec::new();
        for _ in 0..2 {
            done.push(results.recv().await.unwrap().0);
        }
        done.sort();
        assert_eq!(done, [JobId(1), JobId(3)]);
        drop(jobs);
        assert!(results.recv().await.is_none(), "nothing else comes");
    }

    /// However many peers register.
    #[tokio::test]
    async fn a_rekey_waits_for_no_registrations() {
        let (jobs, mut results) = Jobs::with_slots(0);
        for id in 0..MAX_WAITING {
            jobs.submit(JobId(u64::try_from(id).unwrap()), job()).unwrap();
        }
        let key = Arc::new(SigningKey::generate_edwards(KeyKind::Ed25519).unwrap());
        let how = SignatureForm::Algorithm(SignatureAlgorithm::Ed25519);
        let message = ToSign { key, how, octets: Secret::copy_from(b"octets"), len: 64 };
        jobs.submit(JobId(u64::MAX), Job::SignMessage(message)).unwrap();
        let (id, done) = results.recv().await.unwrap();
        assert!(id == JobId(u64::MAX) && matches!(done, JobDone::Sign(Ok(_))));
    }

    #[tokio::test]
    async fn a_job_too_many_is_refused_with_its_failure() {
        let (jobs, _results) = Jobs::with_slots(0);
        for id in 0..MAX_WAITING {
            jobs.submit(JobId(u64::try_from(id).unwrap()), job()).unwrap();
        }
        let refused = jobs.submit(JobId(u64::MAX), job());
        assert!(matches!(refused, Err(JobDone::KeyExchange(Err(CryptoError::NotDone)))), "{refused:?}");
        jobs.cancel(JobId(0));
        assert!(jobs.submit(JobId(u64::MAX), job()).is_ok(), "there is room again");
    }
}
