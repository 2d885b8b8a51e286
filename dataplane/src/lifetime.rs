//! Lifetimes in octets (RFC 4301 section 4.4.2.1).
//!
//! A group SA serves both directions and all senders, so a member counts what it protects and what it opens together.
//! What counts is what the cipher works on, padding included. What is not authentic does not count, nor does what was seen
//! before or is outside of the selectors, nor a dummy that comes, which no window keeps from being seen again: strangers
//! could otherwise end an SA. Members see different packets and so end an SA at different times; key servers replace it
//! before.

use std::sync::atomic::{AtomicU64, Ordering};

/// Octets of an SA that are used. They outlive its removal, as its numbers do.
#[derive(Debug, Default)]
pub(crate) struct Used(AtomicU64);

impl Used {
    /// Uses octets, unless they are more than is left.
    pub(crate) fn spend(&self, octets: usize, limit: u64) -> bool {
        let spent = |used: u64| used.checked_add(octets as u64).filter(|used| *used <= limit);
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, spent).is_ok()
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Is it time for new keys, with an eighth of the octets left?
pub(crate) fn is_running_out(used: u64, limit: u64) -> bool {
    limit.saturating_sub(used) <= limit / 8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_octet_beyond_the_limit_is_used() {
        let used = Used::default();
        assert!(used.spend(60, 100) && !used.spend(41, 100) && used.spend(40, 100) && !used.spend(1, 100));
        assert_eq!((used.get(), used.spend(usize::MAX, u64::MAX)), (100, false));
    }

    #[test]
    fn the_end_is_told_in_time() {
        for (used, running_out) in [(0, false), (874, false), (875, true), (1_000, true), (2_000, true)] {
            assert_eq!(is_running_out(used, 1_000), running_out, "{used}");
        }
    }
}
