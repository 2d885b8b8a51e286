//! Public-key work, away from the task that owns the gateway.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

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
    waiting: Arc<AtomicUsize>,
    results: mpsc::UnboundedSender<Finished>,
}

impl Jobs {
    pub(super) fn new() -> (Self, mpsc::UnboundedReceiver<Finished>) {
        let (results, receiver) = mpsc::unbounded_channel();
        let pool =
            Self { slots: Arc::new(Semaphore::new(parallelism())), waiting: Arc::new(AtomicUsize::new(0)), results };
        (pool, receiver)
    }

    /// Runs a job when there is a processor for it; `false` if too many wait. Its exchange times out then.
    pub(super) fn submit(&self, id: JobId, job: Job) -> bool {
        if self.waiting.fetch_add(1, Ordering::Relaxed) >= MAX_WAITING {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
            return false;
        }
        let (slots, waiting, results) = (Arc::clone(&self.slots), Arc::clone(&self.waiting), self.results.clone());
        tokio::spawn(async move {
            let slot = slots.acquire_owned().await;
            let done = tokio::task::spawn_blocking(move || job.run()).await;
            drop(slot);
            waiting.fetch_sub(1, Ordering::Relaxed);
            match done {
                // Nobody waits for it when the gateway has ended.
                Ok(done) => drop(results.send((id, done))),
                Err(error) => tracing::error!(%error, "a job came to nothing"),
            }
        });
        true
    }
}
