//! CPU time of this thread, and medians of it.

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

/// CPU time that this thread has used so far. What else the machine does meanwhile is not in it, but for cold caches.
pub(crate) fn now() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map(Duration::from).expect("every Linux has this clock")
}

/// CPU time of `work`, and what came of it.
pub(crate) fn of<T>(work: impl FnOnce() -> T) -> (Duration, T) {
    let start = now();
    let result = work();
    (now() - start, result)
}

/// Samples of one quantity, in microseconds.
#[derive(Debug, Default)]
pub(crate) struct Samples(Vec<f64>);

impl Samples {
    /// Adds a sample: the time that `n` operations took together.
    pub(crate) fn add(&mut self, time: Duration, n: usize) {
        self.0.push(time.as_secs_f64() * 1e6 / n.max(1) as f64);
    }

    /// The median.
    pub(crate) fn median(&self) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        match sorted.len() {
            0 => 0.0,
            n if n % 2 == 1 => sorted[n / 2],
            n => f64::midpoint(sorted[n / 2 - 1], sorted[n / 2]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_stand_in_the_middle() {
        let mut samples = Samples::default();
        for us in [9, 1, 5] {
            samples.add(Duration::from_micros(us * 2), 2);
        }
        assert!((samples.median() - 5.0).abs() < 1e-9);
        samples.add(Duration::from_micros(7), 1);
        assert!((samples.median() - 6.0).abs() < 1e-9);
    }
}
