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
    #[inline]
    pub(crate) fn which(len: usize, mut is_one: impl FnMut(usize) -> bool) -> Self {
        (0..len.min(BURST)).fold(Self(0), |Self(bits), at| Self(bits | u64::from(is_one(at)) << at))
    }

    /// One place alone.
    #[inline]
    pub(crate) fn only(at: usize) -> Self {
        Self(if at < BURST { 1 << at } else { 0 })
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

    #[inline]
    pub(crate) fn contains(self, at: usize) -> bool {
        at < BURST && self.0 >> at & 1 == 1
    }

    /// Those of the things in places from 0 that are members.
    #[inline]
    pub(crate) fn of<T>(self, things: impl IntoIterator<Item = T>) -> impl Iterator<Item = T> {
        let mut left = self.0;
        things.into_iter().filter(move |_| {
            let is_one = left & 1 == 1;
            left >>= 1;
            is_one
        })
    }

    /// The lowest place.
    pub(crate) fn first(self) -> Option<usize> {
        (self.0 != 0).then_some(self.0.trailing_zeros() as usize)
    }

    pub(crate) fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Those in front of all of the others.
    #[inline]
    pub(crate) fn before(self, others: Self) -> Self {
        let first = others.0 & others.0.wrapping_neg();
        Self(self.0 & first.wrapping_sub(1))
    }

    pub(crate) fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    pub(crate) fn remove(&mut self, at: usize) {
        *self = self.without(Self::only(at));
    }

    /// Places in order.
    #[inline]
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
        assert_eq!(odd.take(2).of(10..).take(2).collect::<Vec<_>>(), [11, 13]);
        assert_eq!(odd.of(0..99).count(), 32);
        assert_eq!(odd.before(odd.without(odd.take(3))).iter().collect::<Vec<_>>(), [1, 3, 5]);
        assert_eq!((odd.before(Members::default()), odd.before(Members::only(1)).len()), (odd, 0));
        assert_eq!((odd.take(99), odd.len()), (odd, 32));
        assert!(odd.without(odd).is_empty());
        let mut fewer = odd;
        fewer.remove(1);
        fewer.remove(200);
        assert_eq!(fewer.first(), Some(3));
        assert_eq!(Members::which(3, |_| true).iter().collect::<Vec<_>>(), [0, 1, 2]);
    }
}
