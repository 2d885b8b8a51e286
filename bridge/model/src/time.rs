//! Time as it is passed in.

use std::time::Duration;

/// The present, stamped by whoever owns the clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// Monotonic time since an arbitrary origin. Timers of exchanges use it.
    pub mono: Duration,
    /// Time since the Unix epoch. Whatever must survive a restart (lifetimes, activation) uses it.
    pub wall: Duration,
}

impl Now {
    /// The monotonic instant at which the wall clock will show `wall`, or now if that has passed.
    #[must_use]
    pub fn mono_of(&self, wall: Duration) -> Duration {
        self.mono + wall.saturating_sub(self.wall)
    }
}

/// When a machine wants to be woken, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deadline {
    /// Monotonic instant, comparable with [`Now::mono`].
    pub at: Duration,
    /// What is due then, for logs.
    pub reason: &'static str,
}

impl Deadline {
    /// The earlier of two optional deadlines.
    #[must_use]
    pub fn earlier(a: Option<Self>, b: Option<Self>) -> Option<Self> {
        match (a, b) {
            (Some(a), Some(b)) => Some(if a.at <= b.at { a } else { b }),
            (a, b) => a.or(b),
        }
    }
}
