//! Replay windows, one for each sender of an SA (RFC 4303 section 3.4.3; for several senders RFC 5374 section 4.2.1).
//!
//! Whose window a packet counts in must follow from what is authentic in it, and be the same whenever it comes again.
//!
//! - Where IVs name their sender (RFC 6054) that is the *sender ID*. A member numbers all that it sends under an SA by one counter,
//!   whatever host it comes from; one with several IDs uses one after the other, or counts for each (RFC 9838 section 2.5.1: one for each
//!   encryption module). One that restarts comes back with a new ID and with numbers from 1, which a window by address would take
//!   for replays. In a tunnel that preserves the source a window is for one *strand* of an ID, the hosts whose addresses have one hash of
//!   [`Strand::COUNT`]: they have multicast trees and receiving threads of their own, so what one host sends may come much later than
//!   what another does that is behind it in number. A strand tells no less than a window for the whole ID would: its numbers are some
//!   of the same counter's. And however many addresses somebody behind a member makes up, that member has no more windows.
//! - Without sender IDs it is the *source*, that of the packet inside in tunnel mode. In transport mode nothing authenticates it.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use hashbrown::HashTable;
use keyferry_crypto::Secret;

mod sender;
mod window;

use sender::Mixer;
pub(crate) use sender::{Sender, Strand};
pub(crate) use window::width_of;
use window::words_of;
pub use window::{MAX_WINDOW, MIN_WINDOW, Window};

/// Octets that the windows of one SA may take: room for 233,016 windows of 64 packets, 131,072 of 1,024 or 52,428 of 4,096. Where each
/// source has one that is so many hosts; where there are sender IDs it is at least 9,709, 5,461 or 2,184 members with hosts in all
/// strands, while the largest fleets have 8,000 members, most of which receive alone or for few hosts. The few epochs that are kept at a
/// time are within what a small machine has.
pub const WINDOWS_OCTETS: usize = 32 << 20;

/// Tables, each with its lock, so that threads seldom meet, and so many that none is large: to grow one that is as full as it gets
/// takes a few microseconds.
const SHARDS: usize = 256;

/// Octets of a window with so many words, in a table that has just grown, and with what an allocator needs for itself.
fn octets_of(words: usize) -> usize {
    const ENTRY: usize = size_of::<(Sender, Window)>() + 1;
    const ALLOCATOR: usize = 16;
    ENTRY * 16 / 7 + (words * size_of::<u64>() + ALLOCATOR).max(2 * ALLOCATOR)
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

type Shard = HashTable<(Sender, Window)>;

/// The windows of an SA.
///
/// A look-up costs the same however many there are, and has no memory allocated for a sender that is known.
///
/// Only authenticated packets create or move a window, so strangers cannot fill the table; but in transport mode without sender IDs,
/// whose sources nothing authenticates, they can by repeating packets from other addresses. Once there is no room, packets of further
/// senders are dropped: letting them pass without a window would let them be replayed without limit, and giving them the window of a
/// quiet sender would let that one's packets be replayed. The next epoch begins with an empty table.
#[derive(Debug)]
pub(crate) struct Windows {
    width: u32,
    /// Senders that there is room for.
    most: usize,
    /// Where the windows of further senders begin: somebody else has taken numbers up to here, whoever sent them.
    floor: AtomicU32,
    senders: AtomicUsize,
    /// Was it told that there is no room any more?
    told: AtomicBool,
    mixer: Mixer,
    shards: Box<[Mutex<Shard>]>,
}

impl Windows {
    /// Windows of `width` packets for the SA with this keying material.
    pub(crate) fn new(width: u32, keymat: &Secret) -> Self {
        Self {
            width,
            most: WINDOWS_OCTETS / octets_of(words_of(width)),
            floor: AtomicU32::new(0),
            senders: AtomicUsize::new(0),
            told: AtomicBool::new(false),
            mixer: Mixer::new(keymat),
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
        }
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

    /// Windows that there are.
    pub(crate) fn senders(&self) -> usize {
        self.senders.load(Ordering::Relaxed)
    }

    /// Windows that there can be.
    pub(crate) fn most(&self) -> usize {
        self.most
    }

    /// Has the last window been taken since this was asked? True once.
    pub(crate) fn have_run_out(&self) -> bool {
        self.is_full() && !self.told.swap(true, Ordering::Relaxed)
    }

    /// Gives a window to the sender that was looked for, which has none, for an authentic packet.
    #[cold]
    fn admit(&self, held: &mut Held<'_>, sequence: u32) -> Verdict {
        let floor = self.floor();
        if sequence <= floor {
            return Verdict::Replayed;
        }
        let room = |n: usize| (n < self.most).then_some(n + 1);
        if self.senders.fetch_update(Ordering::Relaxed, Ordering::Relaxed, room).is_err() {
            return Verdict::Full;
        }
        let mut window = Window::behind(self.width, floor);
        window.mark(sequence);
        let hash = |(of, _): &(Sender, Window)| spread(self.mixer.hash(*of));
        held.place = Some(held.shard.insert_unique(spread(held.hash), (held.last, window), hash).bucket_index());
        Verdict::Fresh
    }

    fn is_full(&self) -> bool {
        self.senders() >= self.most
    }
}

/// Looks at windows and moves them. Packets of the same sender, one after the other, find its window held; give the visit up
/// before anything that takes time.
pub(crate) struct Visit<'w> {
    windows: &'w Windows,
    held: Option<Held<'w>>,
}

/// A shard that is locked, and who was looked for in it last.
struct Held<'w> {
    at: usize,
    shard: MutexGuard<'w, Shard>,
    last: Sender,
    hash: u32,
    /// Where that sender's window is, if it has one. It stays there until another is made.
    place: Option<usize>,
}

impl<'w> Visit<'w> {
    /// Before authentication: is it worth the work? Changes nothing.
    #[inline]
    pub(crate) fn check(&mut self, sender: Sender, sequence: u32) -> Verdict {
        let windows = self.windows;
        let held = self.look_for(sender);
        match held.place.and_then(|place| held.shard.get_bucket(place)) {
            Some((_, window)) if window.is_fresh(sequence) => Verdict::Fresh,
            Some(_) => Verdict::Replayed,
            None if sequence <= windows.floor() => Verdict::Replayed,
            None if windows.is_full() => Verdict::Full,
            None => Verdict::Fresh,
        }
    }

    /// After authentication: marks the number.
    #[inline]
    pub(crate) fn mark(&mut self, sender: Sender, sequence: u32) -> Verdict {
        let windows = self.windows;
        let held = self.look_for(sender);
        if let Some((_, window)) = held.place.and_then(|place| held.shard.get_bucket_mut(place)) {
            return if window.mark(sequence) { Verdict::Fresh } else { Verdict::Replayed };
        }
        windows.admit(held, sequence)
    }

    /// Locks the shard of a sender and finds its window, unless that is where the visit is.
    #[inline]
    fn look_for(&mut self, sender: Sender) -> &mut Held<'w> {
        if self.held.as_ref().is_none_or(|held| held.last != sender) {
            self.go_to(sender);
        }
        self.held.as_mut().expect("it has gone there")
    }

    fn go_to(&mut self, sender: Sender) {
        let hash = self.windows.mixer.hash(sender);
        // By bits that the table itself has least use for.
        let at = (hash >> 16) as usize % SHARDS;
        let place = |shard: &Shard| shard.find_bucket_index(spread(hash), |(of, _)| *of == sender);
        match &mut self.held {
            Some(held) if held.at == at => {
                (held.last, held.hash, held.place) = (sender, hash, place(&held.shard));
            }
            held => {
                // Never two locks at a time.
                *held = None;
                // No operation under the lock panics half way, so a poisoned table is a whole one.
                let shard = self.windows.shards[at].lock().unwrap_or_else(PoisonError::into_inner);
                let place = place(&shard);
                *held = Some(Held { at, shard, last: sender, hash, place });
            }
        }
    }
}

/// A table takes its places from the lower bits, and what tells entries of one place apart from the upper.
#[inline]
fn spread(hash: u32) -> u64 {
    u64::from(hash) << 32 | u64::from(hash)
}

#[cfg(test)]
mod tests;
