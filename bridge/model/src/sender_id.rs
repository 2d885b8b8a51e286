//! Sender IDs (RFC 6054): one allocator for both protocols of a group.

/// Hands out sender IDs in sequence, beginning with 0, and never one twice (RFC 6407 section 3.5, RFC 9838 section 2.5.1).
///
/// The next value is stored before an ID leaves the machine, so a crash loses IDs rather than repeating them.
#[derive(Debug)]
pub(crate) struct SenderIdAllocator {
    bits: u8,
    limit: u64,
    next: u64,
}

impl SenderIdAllocator {
    /// An allocator for IDs of `bits` bits (at most 32) that continues at `next`.
    pub(crate) fn new(bits: u8, next: u64) -> Self {
        Self { bits, limit: 1 << bits.min(32), next }
    }

    /// Takes `count` fresh IDs, or none at all if there are not as many left.
    pub(crate) fn take(&mut self, count: u32) -> Option<Vec<u32>> {
        let end = self.next.checked_add(u64::from(count)).filter(|end| *end <= self.limit)?;
        let ids = (self.next..end).map(|id| u32::try_from(id).expect("limit is at most 2^32")).collect();
        self.next = end;
        Some(ids)
    }

    /// The ID that is given next.
    pub(crate) fn next(&self) -> u64 {
        self.next
    }

    /// The width of an ID.
    pub(crate) fn bits(&self) -> u8 {
        self.bits
    }

    /// IDs there are in all.
    pub(crate) fn limit(&self) -> u64 {
        self.limit
    }

    /// IDs left.
    pub(crate) fn left(&self) -> u64 {
        self.limit.saturating_sub(self.next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_given_once_and_then_no_more() {
        let mut a = SenderIdAllocator::new(2, 0);
        assert_eq!(a.take(1), Some(vec![0]));
        assert_eq!(a.take(2), Some(vec![1, 2]));
        assert_eq!(a.take(2), None);
        assert_eq!(a.take(1), Some(vec![3]));
        assert_eq!((a.take(1), a.left()), (None, 0));
    }

    #[test]
    fn the_widest_allocator_does_not_overflow() {
        let mut a = SenderIdAllocator::new(32, u64::from(u32::MAX));
        assert_eq!(a.take(1), Some(vec![u32::MAX]));
        assert_eq!(a.take(1), None);
    }
}
