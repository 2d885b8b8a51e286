//! Randomness and time from the operating system. Nothing below this crate reads either on its own.

use std::time::{Duration, Instant, SystemTime};

use keyferry_crypto::Random;
use keyferry_model::time::Now;

/// The operating system's generator.
#[derive(Clone, Copy, Debug, Default)]
pub struct OsRandom;

impl Random for OsRandom {
    fn fill(&mut self, out: &mut [u8]) {
        getrandom::fill(out).expect("the kernel's generator works once it is seeded, and blocks until then");
    }
}

/// The clocks of this process.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    origin: Instant,
}

impl Clock {
    /// A clock whose monotonic time begins now.
    #[must_use]
    #[allow(clippy::new_without_default, reason = "a default clock would hide that time is read")]
    pub fn new() -> Self {
        Self { origin: Instant::now() }
    }

    /// The present.
    #[must_use]
    pub fn now(&self) -> Now {
        let wall = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
        Now { mono: self.origin.elapsed(), wall }
    }

    /// The instant of a monotonic time, for timers.
    #[must_use]
    pub fn instant(&self, mono: Duration) -> Instant {
        self.origin.checked_add(mono).unwrap_or_else(|| self.origin + Duration::from_secs(86_400 * 365))
    }
}
