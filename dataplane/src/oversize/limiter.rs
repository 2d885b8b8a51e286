//! How often messages go out that packets of others cause (RFC 4443 section 2.4, rule f).

use std::time::Duration;

/// On average, at most one in this time.
const EACH: Duration = Duration::from_millis(10);
/// At once, at most so many.
const BURST: u32 = 50;

/// A token bucket.
#[derive(Debug, Default)]
pub(crate) struct Limiter {
    /// When all tokens are back.
    full_at: Duration,
}

impl Limiter {
    /// May one more go out?
    pub(crate) fn admits(&mut self, now: Duration) -> bool {
        let next = self.full_at.max(now) + EACH;
        let fits = next <= now + EACH * BURST;
        if fits {
            self.full_at = next;
        }
        fits
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_admitted_and_then_one_at_a_time() {
        let mut limiter = Limiter::default();
        let mut admitted = |at: u64| (0..1_000).filter(|_| limiter.admits(Duration::from_millis(at))).count();
        assert_eq!([admitted(0), admitted(9), admitted(10), admitted(35)], [50, 0, 1, 2]);
        assert_eq!([admitted(10_000), admitted(10_000)], [50, 0]);
        // A clock that stands still or goes back admits nothing.
        assert_eq!(admitted(9_000), 0);
    }
}
