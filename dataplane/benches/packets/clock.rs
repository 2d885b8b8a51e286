//! Times of short things on a machine that does other things, too.

use std::time::Instant;

/// How long and how often is measured.
pub(crate) struct Clock {
    rounds: usize,
    calls: u32,
}

impl Clock {
    pub(crate) fn new(quick: bool) -> Self {
        if quick { Self { rounds: 5, calls: 20 } } else { Self { rounds: 60, calls: 60 } }
    }

    /// Rounds of which the best counts.
    pub(crate) fn rounds(&self) -> usize {
        self.rounds
    }

    /// Nanoseconds of one call, by the best round.
    pub(crate) fn per_call(&self, mut call: impl FnMut()) -> f64 {
        call();
        let round = |_| {
            let calls = || {
                for _ in 0..self.calls {
                    call();
                }
            };
            self.once(calls) / f64::from(self.calls)
        };
        (0..self.rounds).map(round).fold(f64::MAX, f64::min)
    }

    /// Nanoseconds of one call.
    #[allow(clippy::disallowed_methods, reason = "a benchmark measures time")]
    pub(crate) fn once(&self, call: impl FnOnce()) -> f64 {
        let start = Instant::now();
        call();
        start.elapsed().as_secs_f64() * 1e9
    }
}
