//! HMAC (RFC 2104) of several messages at once.
//!
//! Each lane has one message, block after block; when it ends, the next message takes the lane. When there are too few left, each goes on
//! alone from where it is.
//!
//! ```text
//! lane 1   message 1: block, block, last, outer | message 4: block, ...
//! lane 2   message 2: block, last, outer | message 5: ...
//! lane 3   message 3: last, outer | message 6: block, block, ...
//! ```

use arrayvec::ArrayVec;
use keyferry_crypto::Integrity;
use zeroize::Zeroizing;

use super::Lanes;
use super::hash::{self, Hash, Part, STATE, Sha1, Sha256, Sha512, State, States, Word};

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
            Integrity::HmacSha1_96 => Key::Sha1(Pads::new(lanes, hash::SHA1, 20, key)?),
            Integrity::HmacSha256_128 => Key::Sha256(Pads::new(lanes, hash::SHA256, 32, key)?),
            Integrity::HmacSha384_192 => Key::Sha512(Pads::new(lanes, hash::SHA384, 48, key)?),
            Integrity::HmacSha512_256 => Key::Sha512(Pads::new(lanes, hash::SHA512, 64, key)?),
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
        let mut states = Zeroizing::new([<H::Word as Word>::Row::default(); STATE]);
        let mut waiting = messages.iter_mut();
        let mut lanes: ArrayVec<Lane<'_, H>, MAX_LANES> = ArrayVec::new();
        for (at, message) in waiting.by_ref().take(H::Word::LANES).enumerate() {
            lanes.push(Lane::new(message));
            put::<H>(&mut states, at, &self.inner);
        }
        while lanes.len() >= H::ENOUGH {
            let mut blocks = [&[0; _]; _];
            for (place, part) in blocks.iter_mut().zip(lanes.iter().flat_map(Lane::block)) {
                *place = part;
            }
            H::side_by_side(self.lanes, &mut states, blocks);
            // From the last on, for where a lane ends without a message to follow, the last one moves.
            for at in (0..lanes.len()).rev() {
                if lanes[at].go_on(1) {
                    continue;
                }
                if self.end(&mut lanes[at], &take::<H>(&states, at)) {
                    put::<H>(&mut states, at, &self.outer);
                } else if let Some(message) = waiting.next() {
                    lanes[at] = Lane::new(message);
                    put::<H>(&mut states, at, &self.inner);
                } else {
                    let last = take::<H>(&states, lanes.len() - 1);
                    put::<H>(&mut states, at, &last);
                    lanes.swap_remove(at);
                }
            }
        }
        for (at, lane) in lanes.iter_mut().enumerate() {
            self.alone(lane, take::<H>(&states, at));
        }
        for message in waiting {
            self.alone(&mut Lane::new(message), self.inner.clone());
        }
    }

    fn alone(&self, lane: &mut Lane<'_, H>, mut state: Zeroizing<State<H>>) {
        loop {
            let (whole, count) = lane.whole();
            H::alone(&mut state, whole);
            lane.go_on(count);
            let (padded, count) = lane.padded();
            H::alone(&mut state, padded);
            lane.go_on(count);
            if !self.end(lane, &state) {
                return;
            }
            state = self.outer.clone();
        }
    }

    /// At a lane's last block: is the outer hash still to come?
    fn end(&self, lane: &mut Lane<'_, H>, state: &State<H>) -> bool {
        let mut digest = [0; MAX_DIGEST];
        for (word, octets) in state.iter().zip(digest.chunks_exact_mut(size_of::<H::Word>())) {
            word.write(octets);
        }
        if lane.outer {
            lane.mac.copy_from_slice(&digest[..lane.mac.len()]);
            return false;
        }
        lane.begin_outer(&digest[..self.digest]);
        true
    }
}

/// What one lane is at: whole blocks of its message, then one or two with what is left and the padding.
struct Lane<'m, H> {
    octets: &'m [u8],
    padded: [u8; 2 * MAX_BLOCK],
    /// Blocks that were worked up, and those that there are.
    done: usize,
    blocks: usize,
    outer: bool,
    mac: &'m mut [u8],
    hash: std::marker::PhantomData<H>,
}

impl<'m, H: Hash> Lane<'m, H> {
    fn new(message: &'m mut Message<'_>) -> Self {
        let mut lane = Self {
            octets: message.octets,
            padded: [0; 2 * MAX_BLOCK],
            done: 0,
            blocks: 0,
            outer: false,
            mac: message.mac,
            hash: std::marker::PhantomData,
        };
        lane.pad(message.octets);
        lane
    }

    /// The outer hash is over the digest of the inner one.
    fn begin_outer(&mut self, digest: &[u8]) {
        self.octets = &[];
        self.outer = true;
        self.pad(digest);
    }

    /// Has the last blocks padded (FIPS 180-4 section 5.1). The pad of the key went before as a block.
    fn pad(&mut self, octets: &[u8]) {
        let (whole, rest) = (octets.len() / H::BLOCK, &octets[octets.len() - octets.len() % H::BLOCK..]);
        let blocks = if rest.len() + 1 + H::LENGTH > H::BLOCK { 2 } else { 1 };
        let bits = (H::BLOCK + octets.len()) as u64 * 8;
        let (padded, _) = self.padded.split_at_mut(blocks * H::BLOCK);
        padded.fill(0);
        padded[..rest.len()].copy_from_slice(rest);
        padded[rest.len()] = 0x80;
        let end = padded.len();
        padded[end - size_of_val(&bits)..].copy_from_slice(&bits.to_be_bytes());
        (self.done, self.blocks) = (0, whole + blocks);
    }

    /// Octets of the message in whole blocks.
    fn in_blocks(&self) -> usize {
        self.octets.len() - self.octets.len() % H::BLOCK
    }

    /// Whole blocks of the message that are not done, and how many.
    fn whole(&self) -> (&[u8], usize) {
        let blocks = self.octets.get(self.done * H::BLOCK..self.in_blocks()).unwrap_or_default();
        (blocks, blocks.len() / H::BLOCK)
    }

    /// Padded blocks that are not done, and how many. There are no others.
    fn padded(&self) -> (&[u8], usize) {
        let left = self.blocks - self.done;
        let all = (self.blocks - self.in_blocks() / H::BLOCK) * H::BLOCK;
        (&self.padded[all - left * H::BLOCK..all], left)
    }

    /// The next block.
    fn block(&self) -> &[Part] {
        let (whole, count) = self.whole();
        let from = if count == 0 { self.padded().0 } else { whole };
        from[..H::BLOCK].as_chunks().0
    }

    /// Some blocks are done: is one left?
    fn go_on(&mut self, blocks: usize) -> bool {
        self.done += blocks;
        self.done < self.blocks
    }
}

/// The state of one lane.
fn take<H: Hash>(states: &States<H>, lane: usize) -> Zeroizing<State<H>> {
    let mut state = Zeroizing::new([H::Word::default(); STATE]);
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

    fn integrity() -> impl Strategy<Value = Integrity> {
        prop_oneof![Just(Integrity::HmacSha256_128), Just(Integrity::HmacSha384_192), Just(Integrity::HmacSha512_256)]
    }

    proptest! {
        /// Whatever the lengths of the messages, and however many there are, each has the MAC that OpenSSL gives it.
        #[test]
        fn lanes_are_messages_alone(
            integrity in integrity(),
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
