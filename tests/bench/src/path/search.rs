//! The highest rate at which nothing is lost.

use std::time::Duration;

use anyhow::Result;

use super::load::Trial;

/// How it is looked for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Search {
    /// How long each rate is tried.
    pub(super) time: Duration,
    /// Halvings.
    pub(super) steps: u32,
    /// Attempts at each rate: something else on the machine must not decide.
    pub(super) attempts: u32,
}

/// The best trial without loss, with what the caller measured along with it.
#[derive(Debug)]
pub(super) struct Found<T> {
    /// Packets per second, as sent and received.
    pub(super) rate: f64,
    pub(super) along: T,
}

impl Search {
    /// Begins with more than anything takes: what then arrives tells where to look. Then halves the interval. `None` when not
    /// even the lowest rate comes through.
    pub(super) fn run<T>(self, mut trial: impl FnMut(f64, Duration) -> Result<(Trial, T)>) -> Result<Option<Found<T>>> {
        let (flood, _) = trial(f64::from(FLOOD), self.time / 4)?;
        let arrived = flood.received as f64 / flood.time.as_secs_f64();
        let mut best: Option<Found<T>> = None;
        let (mut low, mut high) = (0.0, (1.5 * arrived).min(f64::from(FLOOD)));
        for _ in 0..self.steps {
            let rate = f64::midpoint(low, high);
            match self.attempt(rate, &mut trial)? {
                Some(found) => {
                    low = rate;
                    // The sender may not keep up; what it did is what counts.
                    if best.as_ref().is_none_or(|best| best.rate < found.rate) {
                        best = Some(found);
                    }
                }
                None => high = rate,
            }
        }
        Ok(best)
    }

    fn attempt<T>(
        self,
        rate: f64,
        trial: &mut impl FnMut(f64, Duration) -> Result<(Trial, T)>,
    ) -> Result<Option<Found<T>>> {
        for _ in 0..self.attempts {
            let (tried, along) = trial(rate, self.time)?;
            if tried.sent > 0 && tried.lost() == 0 {
                return Ok(Some(Found { rate: tried.rate(), along }));
            }
        }
        Ok(None)
    }
}

/// Packets per second that no path takes.
const FLOOD: u32 = 5_000_000;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const SEARCH: Search = Search { time: Duration::from_secs(1), steps: 9, attempts: 2 };

    /// A path that takes so many packets per second and loses what is above.
    fn path(takes: f64) -> impl FnMut(f64, Duration) -> Result<(Trial, u32)> {
        let mut trials = 0;
        move |rate, time| {
            trials += 1;
            let sent = rate.min(1e6) * time.as_secs_f64();
            let received = sent.min(takes * time.as_secs_f64());
            Ok((Trial { sent: sent as u64, received: received as u64, time, delays: Vec::new() }, trials))
        }
    }

    #[test]
    fn the_rate_is_found_from_below() {
        for takes in [1_000.0, 77_777.0, 400_000.0] {
            let found = SEARCH.run(path(takes)).unwrap().unwrap();
            assert!(found.rate <= takes && found.rate > 0.99 * takes, "{takes}: {found:?}");
            assert!(found.along > 1);
        }
    }

    #[test]
    fn one_bad_trial_does_not_decide_and_a_dead_path_has_no_rate() {
        let mut good = path(50_000.0);
        let mut spoils = 0;
        let found = SEARCH
            .run(|rate, time| {
                spoils += 1;
                let (mut trial, along) = good(rate, time)?;
                trial.received -= u64::from(spoils % 2 == 0);
                Ok((trial, along))
            })
            .unwrap()
            .unwrap();
        assert!(found.rate > 0.98 * 50_000.0, "{found:?}");
        assert!(SEARCH.run(path(0.0)).unwrap().is_none());
    }
}
