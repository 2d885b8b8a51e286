//! HMAC (RFC 2104) of several messages at once.
//!
//! Each lane has one message, block after block; when it ends, the next message takes the lane. When there are too few
//! left, each goes on alone from where it is.
//!
//! ```text
//! lane 1   message 1: block, block, last, outer | message 4: block, ...
//! lane 2   message 2: block, last, outer | message 5: ...
//! lane 3   message 3: last, outer | message 6: block, block, ...
//! ```

use std::ops::Range;

use arrayvec::ArrayVec;
use keyferry_crypto::Integrity;
use zeroize::Zeroizing;

use super::Lanes;
use super::hash::{self, Hash, Part, STATE_WORDS, Sha1, Sha256, Sha512, State, States, Word};

/// The most lanes of any hash, and octets of the longest block and digest.
const MAX_LANES: usize = 16;
const MAX_BLOCK: usize = 128;
const MAX_DIGEST: usize = 64;

/// A message and where its MAC goes, which is cut off to the room there is, a digest at most.
pub(in crate::transform) struct Message<'m> {
    pub(in crate::transform) octets: &'m [u8],
    pub(in crate::transform) mac: &'m mut [u8],
}

/// A key for messages side by side.
pub(in crate::transform) struct HmacLanes(Key);

enum Key {
    Sha1(Pads<Sha1>),
    Sha256(Pads<Sha256>),
    /// And SHA-384.
    Sha512(Pads<Sha512>),
}

impl HmacLanes {
    /// `None` if the processor lacks what it takes.
    pub(in crate::transform) fn new(integrity: Integrity, key: &[u8]) -> Option<Self> {
        let lanes = Lanes::new()?;
        let key = match integrity {
            Integrity::HmacSha1_96 => Key::Sha1(Pads::new(lanes, hash::INITIAL_SHA1, 20, key)?),
            Integrity::HmacSha256_128 => Key::Sha256(Pads::new(lanes, hash::INITIAL_SHA256, 32, key)?),
            Integrity::HmacSha384_192 => Key::Sha512(Pads::new(lanes, hash::INITIAL_SHA384, 48, key)?),
            Integrity::HmacSha512_256 => Key::Sha512(Pads::new(lanes, hash::INITIAL_SHA512, 64, key)?),
        };
        Some(Self(key))
    }

    /// Messages from which on it pays: with fewer, one after the other is faster.
    pub(in crate::transform) fn enough(&self) -> usize {
        match &self.0 {
            Key::Sha1(_) => Sha1::ENOUGH,
            Key::Sha256(_) => Sha256::ENOUGH,
            Key::Sha512(_) => Sha512::ENOUGH,
        }
    }

    /// Computes MACs.
    pub(in crate::transform) fn compute(&self, messages: &mut [Message<'_>]) {
        match &self.0 {
            Key::Sha1(pads) => pads.compute(messages),
            Key::Sha256(pads) => pads.compute(messages),
            Key::Sha512(pads) => pads.compute(messages),
        }
    }
}

/// A key: the states behind its two pads, and how to go on from there.
struct Pads<H: Hash> {
    lanes: Lanes,
    inner: Zeroizing<State<H>>,
    outer: Zeroizing<State<H>>,
    /// Octets of digest.
    digest: usize,
}

impl<H: Hash> Pads<H> {
    /// `None` if the key is longer than a block, which would have to be hashed first and no key of ESP is.
    fn new(lanes: Lanes, initial: State<H>, digest: usize, key: &[u8]) -> Option<Self> {
        let behind = |pad: u8| {
            let mut block = Zeroizing::new([pad; MAX_BLOCK]);
            let block = &mut block[..H::BLOCK];
            block.get_mut(..key.len())?.iter_mut().zip(key).for_each(|(octet, key)| *octet ^= key);
            let mut state = Zeroizing::new(initial);
            H::alone(&mut state, block);
            Some(state)
        };
        Some(Self { lanes, inner: behind(0x36)?, outer: behind(0x5c)?, digest })
    }

    fn compute(&self, messages: &mut [Message<'_>]) {
        const { assert!(H::ENOUGH > 0 && H::ENOUGH <= H::Word::LANES) };
        let mut states = Zeroizing::new([<H::Word as Word>::Row::default(); STATE_WORDS]);
        let mut waiting = messages.iter_mut();
        let mut active: ArrayVec<Lane<'_>, MAX_LANES> = ArrayVec::new();
        for (at, message) in waiting.by_ref().take(H::Word::LANES).enumerate() {
            active.push(Lane::new::<H>(message));
            put::<H>(&mut states, at, &self.inner);
        }
        // Lanes become fewer only when no message is waiting.
        while active.len() >= H::ENOUGH {
            let mut blocks = [&[0; _]; _];
            for (place, part) in blocks.iter_mut().zip(active.iter().flat_map(Lane::block::<H>)) {
                *place = part;
            }
            H::side_by_side(self.lanes, &mut states, blocks);
            // From the last on, for where a lane ends without a message to follow, the last one moves.
            for at in (0..active.len()).rev() {
                if active[at].go_on::<H>() {
                    continue;
                }
                if self.end(&mut active[at], &take::<H>(&states, at)) {
                    put::<H>(&mut states, at, &self.outer);
                } else if let Some(message) = waiting.next() {
                    active[at] = Lane::new::<H>(message);
                    put::<H>(&mut states, at, &self.inner);
                } else {
                    let last = take::<H>(&states, active.len() - 1);
                    put::<H>(&mut states, at, &last);
                    active.swap_remove(at);
                }
            }
        }
        for (at, lane) in active.iter_mut().enumerate() {
            self.alone(lane, take::<H>(&states, at));
        }
    }

    /// Goes on with one lane to its end.
    fn alone(&self, lane: &mut Lane<'_>, mut state: Zeroizing<State<H>>) {
        loop {
            H::alone(&mut state, lane.whole);
            H::alone(&mut state, &lane.padded[lane.rest.clone()]);
            if !self.end(lane, &state) {
                return;
            }
            state = self.outer.clone();
        }
    }

    /// Behind a lane's last block: is the outer hash still to come?
    fn end(&self, lane: &mut Lane<'_>, state: &State<H>) -> bool {
        let mut digest = [0; MAX_DIGEST];
        for (word, octets) in state.iter().zip(digest.chunks_exact_mut(size_of::<H::Word>())) {
            word.write(octets);
        }
        let digest = &digest[..self.digest];
        if lane.outer {
            lane.mac.copy_from_slice(&digest[..lane.mac.len()]);
            return false;
        }
        (lane.whole, lane.outer) = (&[], true);
        lane.pad::<H>(digest);
        true
    }
}

/// What one lane has still to do: whole blocks of its message, then one or two with what is left of it and the padding.
struct Lane<'m> {
    whole: &'m [u8],
    padded: [u8; 2 * MAX_BLOCK],
    /// Where in `padded`.
    rest: Range<usize>,
    /// Is it the outer hash already?
    outer: bool,
    mac: &'m mut [u8],
}

impl<'m> Lane<'m> {
    fn new<H: Hash>(message: &'m mut Message<'_>) -> Self {
        let (whole, rest) = message.octets.split_at(message.octets.len() - message.octets.len() % H::BLOCK);
        let mut lane = Self { whole, padded: [0; 2 * MAX_BLOCK], rest: 0..0, outer: false, mac: message.mac };
        lane.pad::<H>(rest);
        lane
    }

    /// Has a message's last octets padded (FIPS 180-4 section 5.1). In front of it went the pad of the key, a block.
    fn pad<H: Hash>(&mut self, octets: &[u8]) {
        let end = (octets.len() + 1 + H::LENGTH).next_multiple_of(H::BLOCK);
        let bits = (H::BLOCK + self.whole.len() + octets.len()) as u64 * 8;
        let padded = &mut self.padded[..end];
        padded.fill(0);
        padded[..octets.len()].copy_from_slice(octets);
        padded[octets.len()] = 0x80;
        padded[end - size_of_val(&bits)..].copy_from_slice(&bits.to_be_bytes());
        self.rest = 0..end;
    }

    /// The next block.
    fn block<H: Hash>(&self) -> &[Part] {
        let from = if self.whole.is_empty() { &self.padded[self.rest.clone()] } else { self.whole };
        from[..H::BLOCK].as_chunks().0
    }

    /// That is done: is one left?
    fn go_on<H: Hash>(&mut self) -> bool {
        match self.whole.split_at_checked(H::BLOCK) {
            Some((_, left)) => self.whole = left,
            None => self.rest.start += H::BLOCK,
        }
        !self.rest.is_empty()
    }
}

/// The state of one lane.
fn take<H: Hash>(states: &States<H>, lane: usize) -> Zeroizing<State<H>> {
    let mut state = Zeroizing::new([H::Word::default(); STATE_WORDS]);
    for (word, row) in state.iter_mut().zip(states) {
        *word = row.as_ref()[lane];
    }
    state
}

/// Gives a lane its state.
fn put<H: Hash>(states: &mut States<H>, lane: usize, state: &State<H>) {
    for (row, word) in states.iter_mut().zip(state) {
        row.as_mut()[lane] = *word;
    }
}

#[cfg(test)]
mod tests {
    use keyferry_crypto::IntegrityKey;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Whatever the lengths of the messages, and however many there are, each has the MAC that OpenSSL gives it.
        #[test]
        fn lanes_are_messages_alone(
            integrity in prop::sample::select(&Integrity::ALL[..]),
            key in prop::array::uniform32(any::<u8>()),
            messages in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..600), 0..80),
        ) {
            let key = &[key, key].concat()[..integrity.key_len()];
            let usual = IntegrityKey::new(integrity, key);
            let Some(lanes) = HmacLanes::new(integrity, key) else {
                eprintln!("skipped: the processor lacks AVX-512");
                return Ok(());
            };
            let mut macs = vec![[0; 32]; messages.len()];
            let mut together: Vec<_> = messages
                .iter()
                .zip(&mut macs)
                .map(|(octets, mac)| Message { octets, mac: &mut mac[..integrity.icv_len()] })
                .collect();
            lanes.compute(&mut together);
            for (message, mac) in messages.iter().zip(&macs) {
                prop_assert!(usual.verify(&[message], &mac[..integrity.icv_len()]), "{} octets", message.len());
            }
        }
    }
}
