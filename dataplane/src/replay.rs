//! Replay windows, one for each sender of an SA (RFC 4303 section 3.4.3; for several senders RFC 5374 section 4.2.1).

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Narrowest window, in packets.
pub const MIN_WINDOW: u32 = 64;
/// Widest window, in packets.
pub const MAX_WINDOW: u32 = 4_096;
/// Senders that one SA keeps windows for.
pub const MAX_SENDERS: usize = 1_024;

const BITS: u32 = 64;
const SHARDS: usize = 16;

/// One sender's window: the highest number seen, and which of those behind it were seen.
///
/// The bits are a ring of words with at least one word more than the window, so that moving on clears whole words. Their
/// number is a power of two.
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
        let width = width_of(width);
        let words = vec![0; (width as usize / BITS as usize + 1).next_power_of_two()].into_boxed_slice();
        Self { top: 0, width, words }
    }

    /// A window in which all numbers up to one count as seen.
    fn behind(width: u32, floor: u32) -> Self {
        let mut window = Self::new(width);
        if floor > 0 {
            window.top = floor;
            window.words.fill(u64::MAX);
            let (word, bit) = window.place(floor);
            window.words[word] = bit | (bit - 1);
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
            let words = u32::try_from(self.words.len()).unwrap_or(u32::MAX);
            let (old, new) = (self.top / BITS, sequence / BITS);
            for entered in 1..=(new - old).min(words) {
                self.words[((old + entered) & (words - 1)) as usize] = 0;
            }
            self.top = sequence;
        }
        let (word, bit) = self.place(sequence);
        self.words[word] |= bit;
        true
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

/// Who a window belongs to: the source address where a packet inside has one, and the sender ID where the SA's IVs carry one.
///
/// The sender ID keeps a member apart from its own past: one that restarts comes back with a new ID and with sequence
/// numbers from 1, and a window by address alone would take those for replays.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Sender {
    pub(crate) source: Option<IpAddr>,
    pub(crate) id: Option<u32>,
}

/// What a table says of a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Go on.
    Fresh,
    /// Seen before, or too old to tell.
    Replayed,
    /// The sender has no window and there is none left.
    Full,
}

/// The windows of an SA.
///
/// Only authenticated packets create or move a window, so strangers cannot fill the table; but in transport mode without
/// sender IDs, whose sources nothing authenticates, they can by repeating packets from other addresses. Once [`MAX_SENDERS`] have
/// one, packets of further senders are dropped: letting them pass without a window would let them be replayed without
/// limit, and giving them the window of a quiet sender would let that one's packets be replayed. The next epoch begins
/// with an empty table.
#[derive(Debug)]
pub(crate) struct Windows {
    width: u32,
    /// Where the windows of further senders begin: somebody else has taken numbers up to here, whoever sent them.
    floor: AtomicU32,
    senders: AtomicUsize,
    shards: [Mutex<BTreeMap<Sender, Window>>; SHARDS],
}

impl Windows {
    pub(crate) fn new(width: u32) -> Self {
        Self { width, floor: AtomicU32::new(0), senders: AtomicUsize::new(0), shards: Default::default() }
    }

    /// Somebody else has taken numbers up to this one. Senders that have a window keep it.
    pub(crate) fn raise(&self, floor: u32) {
        self.floor.fetch_max(floor, Ordering::Relaxed);
    }

    /// Up to where numbers count as seen of senders without a window.
    pub(crate) fn floor(&self) -> u32 {
        self.floor.load(Ordering::Relaxed)
    }

    /// Starts a visit, for one or more packets.
    pub(crate) fn visit(&self) -> Visit<'_> {
        Visit { windows: self, held: None }
    }

    /// Senders that have a window.
    pub(crate) fn senders(&self) -> usize {
        self.senders.load(Ordering::Relaxed)
    }
}

/// Looks at windows and moves them. Packets of the same sender, one after the other, find them held; give it up before
/// anything that takes time.
pub(crate) struct Visit<'w> {
    windows: &'w Windows,
    /// Which shard, and its lock.
    held: Option<(usize, MutexGuard<'w, BTreeMap<Sender, Window>>)>,
}

impl<'w> Visit<'w> {
    /// Before authentication: is it worth the work? Changes nothing.
    pub(crate) fn check(&mut self, sender: Sender, sequence: u32) -> Verdict {
        let windows = self.windows;
        match self.shard(sender).get(&sender) {
            Some(window) if window.is_fresh(sequence) => Verdict::Fresh,
            Some(_) => Verdict::Replayed,
            None if sequence <= windows.floor() => Verdict::Replayed,
            None if windows.senders.load(Ordering::Relaxed) >= MAX_SENDERS => Verdict::Full,
            None => Verdict::Fresh,
        }
    }

    /// After authentication: marks the number.
    pub(crate) fn mark(&mut self, sender: Sender, sequence: u32) -> Verdict {
        let windows = self.windows;
        let shard = self.shard(sender);
        if let Some(window) = shard.get_mut(&sender) {
            return if window.mark(sequence) { Verdict::Fresh } else { Verdict::Replayed };
        }
        let floor = windows.floor();
        if sequence <= floor {
            return Verdict::Replayed;
        }
        let room = |n: usize| (n < MAX_SENDERS).then_some(n + 1);
        if windows.senders.fetch_update(Ordering::Relaxed, Ordering::Relaxed, room).is_err() {
            return Verdict::Full;
        }
        let mut window = Window::behind(windows.width, floor);
        window.mark(sequence);
        shard.insert(sender, window);
        Verdict::Fresh
    }

    fn shard(&mut self, sender: Sender) -> &mut BTreeMap<Sender, Window> {
        let last = match sender.source {
            Some(IpAddr::V4(ip)) => ip.octets()[3],
            Some(IpAddr::V6(ip)) => ip.octets()[15],
            None => sender.id.unwrap_or(0).to_be_bytes()[3],
        };
        let at = usize::from(last) % SHARDS;
        if self.held.as_ref().is_none_or(|(held, _)| *held != at) {
            // Never two locks at a time.
            self.held = None;
        }
        let lock = || {
            // No operation under the lock panics half way, so a poisoned table is a whole one.
            (at, self.windows.shards[at].lock().unwrap_or_else(PoisonError::into_inner))
        };
        &mut self.held.get_or_insert_with(lock).1
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::net::Ipv4Addr;

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
            width in 1u32..5_000,
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

    #[test]
    fn a_full_table_lets_nobody_new_in() {
        let windows = Windows::new(64);
        let sender = |n: u32| Sender { source: Some(IpAddr::V4(Ipv4Addr::from(n))), id: None };
        for n in 0..1_024 {
            assert_eq!(windows.visit().mark(sender(n), 1), Verdict::Fresh);
        }
        assert_eq!(windows.visit().mark(sender(5_000), 1), Verdict::Full);
        assert_eq!(windows.visit().check(sender(5_000), 1), Verdict::Full);
        assert_eq!(windows.visit().mark(sender(3), 1), Verdict::Replayed);
        assert_eq!(windows.visit().mark(sender(3), 2), Verdict::Fresh);
        assert_eq!(windows.senders(), MAX_SENDERS);
    }

    #[test]
    fn what_another_engine_has_taken_is_taken() {
        for floor in [0u32, 1, 63, 64, 100, 127, 128, 5_000] {
            let windows = Windows::new(64);
            windows.raise(floor);
            let sender = Sender { source: Some(IpAddr::V4(Ipv4Addr::LOCALHOST)), id: None };
            assert_eq!(windows.visit().check(sender, floor), Verdict::Replayed);
            assert_eq!(windows.visit().mark(sender, floor), Verdict::Replayed);
            assert_eq!(windows.senders(), 0);
            // From the middle outwards: all above is fresh once, all below never.
            assert_eq!(windows.visit().mark(sender, floor + 40), Verdict::Fresh);
            for sequence in floor.saturating_sub(70)..floor + 100 {
                let fresh = sequence > floor && sequence != floor + 40;
                let verdict = if fresh { Verdict::Fresh } else { Verdict::Replayed };
                assert_eq!(windows.visit().mark(sender, sequence), verdict, "{sequence} above {floor}");
                assert_eq!(windows.visit().check(sender, sequence), Verdict::Replayed);
            }
        }
    }

    #[test]
    fn senders_with_one_address_are_told_apart_by_their_id() {
        let windows = Windows::new(64);
        let sender = |id| Sender { source: Some(IpAddr::V4(Ipv4Addr::LOCALHOST)), id: Some(id) };
        assert_eq!(windows.visit().mark(sender(1), 900), Verdict::Fresh);
        assert_eq!(windows.visit().mark(sender(2), 1), Verdict::Fresh);
        assert_eq!(windows.visit().check(sender(1), 900), Verdict::Replayed);
        assert_eq!(windows.visit().check(sender(1), 0), Verdict::Replayed);
    }
}
