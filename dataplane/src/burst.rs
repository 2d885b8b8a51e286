//! Packets that are worked upon together.

use crate::drops::DropReason;

/// Packets that are looked at together; more are taken in turns.
pub const BURST: usize = 64;

/// What became of a packet.
pub type Fate<T> = Result<T, DropReason>;

/// Some packets of a burst, each by a bit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Members(u64);

// One bit for each.
const _: () = assert!(BURST == u64::BITS as usize);

impl Members {
    /// Those that `is_one` says.
    pub(crate) fn which(len: usize, mut is_one: impl FnMut(usize) -> bool) -> Self {
        (0..len.min(BURST)).filter(|at| is_one(*at)).fold(Self(0), |Self(bits), at| Self(bits | 1 << at))
    }

    /// One place alone.
    pub(crate) fn only(at: usize) -> Self {
        Self(1u64.checked_shl(u32::try_from(at).unwrap_or(u32::MAX)).unwrap_or(0))
    }

    pub(crate) fn len(self) -> u32 {
        self.0.count_ones()
    }

    /// The first `count` of them.
    pub(crate) fn take(self, count: u32) -> Self {
        if count >= self.len() {
            return self;
        }
        self.iter().take(count as usize).fold(Self(0), |Self(bits), at| Self(bits | Self::only(at).0))
    }

    pub(crate) fn is_empty(self) -> bool {
        self.0 == 0
    }

    pub(crate) fn contains(self, at: usize) -> bool {
        self.0.checked_shr(u32::try_from(at).unwrap_or(u32::MAX)).unwrap_or(0) & 1 == 1
    }

    /// The lowest place.
    pub(crate) fn first(self) -> Option<usize> {
        (self.0 != 0).then_some(self.0.trailing_zeros() as usize)
    }

    pub(crate) fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    pub(crate) fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    pub(crate) fn remove(&mut self, at: usize) {
        *self = self.without(Self::only(at));
    }

    /// Places in order.
    pub(crate) fn iter(self) -> impl Iterator<Item = usize> {
        let mut left = self;
        std::iter::from_fn(move || {
            let at = left.first()?;
            left.0 &= left.0 - 1;
            Some(at)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_told_apart() {
        let odd = Members::which(64, |at| at % 2 == 1);
        assert_eq!((odd.iter().count(), odd.first()), (32, Some(1)));
        assert!(odd.contains(63) && !odd.contains(64) && !odd.contains(0));
        assert_eq!(odd.take(2).iter().collect::<Vec<_>>(), [1, 3]);
        assert_eq!((odd.take(99), odd.len()), (odd, 32));
        assert!(odd.without(odd).is_empty());
        let mut fewer = odd;
        fewer.remove(1);
        fewer.remove(200);
        assert_eq!(fewer.first(), Some(3));
        assert_eq!(Members::which(3, |_| true).iter().collect::<Vec<_>>(), [0, 1, 2]);
    }
}
