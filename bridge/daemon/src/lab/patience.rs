//! Waiting that a Ctrl-C ends.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::anyhow;
use nix::sys::signal::{SigSet, Signal};

/// The user wants it to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("interrupted")]
pub(super) struct Interrupted;

/// Knows whether the user wants it to end.
#[derive(Clone, Debug, Default)]
pub(super) struct Patience {
    interrupted: Arc<(Mutex<bool>, Condvar)>,
}

impl Patience {
    /// Takes SIGINT, SIGTERM and SIGHUP over. To be called before other threads exist, which are then spared them.
    pub(super) fn over_signals() -> anyhow::Result<Self> {
        let patience = Self::default();
        let signals = SigSet::from_iter([Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP]);
        signals.thread_block()?;
        let p = patience.clone();
        thread::Builder::new().name("signals".into()).spawn(move || {
            while signals.wait().is_ok() {
                p.interrupt()
            }
        })?;
        Ok(patience)
    }

    fn interrupt(&self) {
        let (flag, wake) = &*self.interrupted;
        *flag.lock().unwrap_or_else(PoisonError::into_inner) = true;
        wake.notify_all();
    }

    /// Waits.
    pub(super) fn pause(&self, time: Duration) -> Result<(), Interrupted> {
        let (flag, wake) = &*self.interrupted;
        let guard = flag.lock().unwrap_or_else(PoisonError::into_inner);
        let (guard, _) = wake.wait_timeout_while(guard, time, |hit| !*hit).unwrap_or_else(PoisonError::into_inner);
        if *guard { Err(Interrupted) } else { Ok(()) }
    }

    /// Waits until an instant, not at all if it has passed.
    pub(super) fn pause_until(&self, instant: Instant) -> Result<(), Interrupted> {
        self.pause(instant.saturating_duration_since(Instant::now()))
    }

    /// Waits for as long as the user lets it.
    pub(super) fn forever(&self) {
        while self.pause(Duration::from_secs(3600)).is_ok() {}
    }

    /// Asks again and again until there is an answer. An error of the question counts as "not yet"; the last one is told
    /// when time is up.
    pub(super) fn until<T>(
        &self,
        what: &str,
        limit: Duration,
        mut question: impl FnMut() -> anyhow::Result<Option<T>>,
    ) -> anyhow::Result<T> {
        let end = Instant::now() + limit;
        loop {
            let answer = question();
            if let Ok(Some(answer)) = answer {
                return Ok(answer);
            }
            if Instant::now() >= end {
                let seconds = limit.as_secs_f64();
                let text = format!("{what}: not within {seconds} s");
                return Err(match answer {
                    Err(error) => error.context(text),
                    Ok(_) => anyhow!(text),
                });
            }
            self.pause(Duration::from_millis(50))?;
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn waiting_ends_with_an_answer_with_time_or_with_the_user() {
        let patience = Patience::default();
        let mut asked = 0;
        let counted = patience.until("counting", Duration::from_secs(5), || {
            asked += 1;
            Ok((asked == 2).then_some(asked))
        });
        assert_eq!(counted.unwrap(), 2);
        let never = patience.until::<()>("never", Duration::ZERO, || Ok(None)).unwrap_err();
        assert_eq!(never.to_string(), "never: not within 0 s");
        patience.interrupt();
        assert_eq!(patience.pause(Duration::from_secs(3600)), Err(Interrupted));
        let error = patience.until::<()>("x", Duration::from_secs(3600), || Ok(None)).unwrap_err();
        assert!(error.is::<Interrupted>());
        patience.forever();
    }
}
