//! One window: which numbers of a sender were seen.

/// Narrowest window, in packets.
pub const MIN_WINDOW: u32 = 64;
/// Widest window, in packets.
pub const MAX_WINDOW: u32 = 4_096;

const BITS: u32 = 64;

/// One sender's window: the highest number seen, and which of those behind it were seen.
///
/// The bits are a ring that is no larger than it must be: the width, or the next power of two. It has its size from the beginning: a
/// window that grew with what is seen would have packets of known senders wait for memory, or find none.
#[derive(Debug)]
pub struct Window {
    top: u32,
    width: u32,
    words: Box<[u64]>,
}

impl Window {
    /// A window of `width` packets, rounded up to a multiple of 64 and kept between [`MIN_WINDOW`] and [`MAX_WINDOW`].
    #[must_use]
    pub fn new(width: u32) -> Self {
        Self { top: 0, width: width_of(width), words: vec![0; words_of(width)].into_boxed_slice() }
    }

    /// A window in which all numbers up to one count as seen.
    pub(super) fn behind(width: u32, floor: u32) -> Self {
        let mut window = Self::new(width);
        if floor > 0 {
            window.top = floor;
            window.words.fill(u64::MAX);
        }
        window
    }

    /// Is the number one that was not seen and could still be told from one that was?
    #[must_use]
    pub fn is_fresh(&self, sequence: u32) -> bool {
        if sequence == 0 {
            return false;
        }
        if sequence > self.top {
            return true;
        }
        let (word, bit) = self.place(sequence);
        self.top - sequence < self.width && self.words[word] & bit == 0
    }

    /// Marks a number as seen. False, and no change, when it is not fresh.
    pub fn mark(&mut self, sequence: u32) -> bool {
        if !self.is_fresh(sequence) {
            return false;
        }
        if sequence > self.top {
            self.enter(self.top + 1, sequence);
            self.top = sequence;
        }
        let (word, bit) = self.place(sequence);
        self.words[word] |= bit;
        true
    }

    /// Numbers from `first` to `last`, none of which was seen, take the places of those that leave the ring.
    fn enter(&mut self, first: u32, last: u32) {
        if (last - first) as usize >= self.words.len() * BITS as usize {
            self.words.fill(0);
            return;
        }
        let mut first = first;
        loop {
            let end = (first | (BITS - 1)).min(last);
            let bits = u64::MAX >> (BITS - 1 - (end - first)) << (first % BITS);
            let (word, _) = self.place(first);
            self.words[word] &= !bits;
            if end == last {
                return;
            }
            first = end + 1;
        }
    }

    fn place(&self, sequence: u32) -> (usize, u64) {
        let word = (sequence / BITS) as usize & (self.words.len() - 1);
        (word, 1 << (sequence % BITS))
    }
}

/// How wide a window is in which so many packets shall be.
pub(crate) fn width_of(packets: u32) -> u32 {
    packets.clamp(MIN_WINDOW, MAX_WINDOW).next_multiple_of(BITS)
}

/// Words of the ring of such a window: a power of two.
pub(super) fn words_of(packets: u32) -> usize {
    (width_of(packets).next_power_of_two() / BITS) as usize
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    /// What a window should do, written for clarity: remember everything.
    #[derive(Default)]
    struct Reference {
        seen: BTreeSet<u32>,
    }

    impl Reference {
        fn mark(&mut self, sequence: u32, width: u32) -> bool {
            let top = self.seen.last().copied().unwrap_or(0);
            let fresh = sequence != 0 && (sequence > top || top - sequence < width) && !self.seen.contains(&sequence);
            if fresh {
                self.seen.insert(sequence);
            }
            fresh
        }
    }

    proptest! {
        #[test]
        fn windows_agree_with_the_reference(
            width in prop_oneof![1u32..5_000, Just(64), Just(128), Just(1_024), Just(4_096)],
            steps in proptest::collection::vec(prop_oneof![
                8 => (-80i64..80).prop_map(Some),
                2 => (-6_000i64..6_000).prop_map(Some),
                1 => Just(None),
            ], 1..400),
        ) {
            let mut window = Window::new(width);
            let mut reference = Reference::default();
            let rounded = width.clamp(MIN_WINDOW, MAX_WINDOW).next_multiple_of(64);
            let mut at = 1i64;
            for step in steps {
                at = step.map_or(i64::from(u32::MAX), |d| (at + d).clamp(0, i64::from(u32::MAX)));
                let sequence = u32::try_from(at).unwrap_or(0);
                prop_assert_eq!(window.mark(sequence), reference.mark(sequence, rounded), "sequence {}", sequence);
                prop_assert!(!window.is_fresh(sequence));
            }
        }
    }

    /// Every step ahead, from every place of a word: what lies between is fresh once, what left the window never.
    #[test]
    fn windows_move_on_by_any_number() {
        for width in [64, 192, 256] {
            for start in 1..=64 {
                for ahead in 1..300 {
                    let mut window = Window::new(width);
                    (1..=start).for_each(|sequence| assert!(window.mark(sequence)));
                    assert!(window.mark(start + ahead));
                    for sequence in (1..start + ahead).rev() {
                        let fresh = sequence > start && start + ahead - sequence < width;
                        assert_eq!(window.mark(sequence), fresh, "{sequence} of {start} and {ahead}");
                    }
                }
            }
        }
    }
}
