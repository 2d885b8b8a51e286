//! Hashes: one block for each of several messages at once, and blocks of one message alone.

use zeroize::{Zeroize, Zeroizing};

use super::Lanes;

/// Words of the state between two blocks, at most.
pub(super) const STATE_WORDS: usize = 8;
/// Words of a block.
pub(super) const BLOCK_WORDS: usize = 16;

/// Part of a block, as much as a register holds: a block of 32-bit words, half a block of 64-bit ones.
pub(super) type Part = [u8; 64];
/// A block of each lane, one behind the other.
pub(super) type Blocks<'b> = [&'b Part; 16];
/// The state of one message.
pub(super) type State<H> = [<H as Hash>::Word; STATE_WORDS];
/// The state of each lane.
pub(super) type States<H> = [<<H as Hash>::Word as Word>::Row; STATE_WORDS];

/// A word of 32 or 64 bits.
pub(super) trait Word: Copy + Default + Zeroize {
    /// This word of all lanes.
    type Row: AsRef<[Self]> + AsMut<[Self]> + Copy + Default + Zeroize;
    /// Lanes.
    const LANES: usize;

    /// Writes it, the most significant octet first.
    fn write(self, to: &mut [u8]);
}

impl Word for u32 {
    type Row = [u32; 16];
    const LANES: usize = 16;

    fn write(self, to: &mut [u8]) {
        to.copy_from_slice(&self.to_be_bytes());
    }
}

impl Word for u64 {
    type Row = [u64; 8];
    const LANES: usize = 8;

    fn write(self, to: &mut [u8]) {
        to.copy_from_slice(&self.to_be_bytes());
    }
}

/// A hash of FIPS 180-4.
pub(super) trait Hash {
    type Word: Word;
    /// Octets of a block.
    const BLOCK: usize = BLOCK_WORDS * size_of::<Self::Word>();
    /// Octets in which padding tells a message's length (section 5.1).
    const LENGTH: usize = 2 * size_of::<Self::Word>();
    /// Lanes from which on it pays to work on all of them at once, as measured beside one message alone with the processor's
    /// instructions for SHA-1 and SHA-256. Without those fewer would do.
    const ENOUGH: usize;

    /// Works up whole blocks of one message.
    fn alone(state: &mut State<Self>, blocks: &[u8]);
    /// Works up one block of each lane.
    fn side_by_side(lanes: Lanes, states: &mut States<Self>, blocks: Blocks<'_>);
}

/// SHA-1, for old fleets. The last three words of its state are nobody's.
pub(super) struct Sha1;

impl Hash for Sha1 {
    type Word = u32;
    const ENOUGH: usize = 8;

    fn alone([a, b, c, d, e, ..]: &mut State<Self>, blocks: &[u8]) {
        let mut state = Zeroizing::new([*a, *b, *c, *d, *e]);
        sha1::block_api::compress(&mut state, blocks.as_chunks().0);
        [*a, *b, *c, *d, *e] = *state;
    }

    fn side_by_side(lanes: Lanes, states: &mut States<Self>, blocks: Blocks<'_>) {
        lanes.sha1(states, blocks);
    }
}

/// SHA-256.
pub(super) struct Sha256;

impl Hash for Sha256 {
    type Word = u32;
    const ENOUGH: usize = 10;

    fn alone(state: &mut State<Self>, blocks: &[u8]) {
        sha2::block_api::compress256(state, blocks.as_chunks().0);
    }

    fn side_by_side(lanes: Lanes, states: &mut States<Self>, blocks: Blocks<'_>) {
        lanes.sha256(states, blocks);
    }
}

/// SHA-384 and SHA-512, which begin with different states.
pub(super) struct Sha512;

impl Hash for Sha512 {
    type Word = u64;
    const ENOUGH: usize = 4;

    fn alone(state: &mut State<Self>, blocks: &[u8]) {
        sha2::block_api::compress512(state, blocks.as_chunks().0);
    }

    fn side_by_side(lanes: Lanes, states: &mut States<Self>, blocks: Blocks<'_>) {
        lanes.sha512(states, blocks);
    }
}

/// What SHA-1 begins with (section 5.3.1).
pub(super) const INITIAL_SHA1: State<Sha1> = [0x6745_2301, 0xefcd_ab89, 0x98ba_dcfe, 0x1032_5476, 0xc3d2_e1f0, 0, 0, 0];

/// What SHA-256 begins with (section 5.3.3): the upper halves of what SHA-512 does.
pub(super) const INITIAL_SHA256: State<Sha256> = {
    let mut words = [0; STATE_WORDS];
    let mut at = 0;
    while at < STATE_WORDS {
        words[at] = upper_half(INITIAL_SHA512[at]);
        at += 1;
    }
    words
};

/// What SHA-512 begins with (section 5.3.5): the first bits behind the points of the square roots of the first eight primes.
pub(super) const INITIAL_SHA512: State<Sha512> = [
    0x6a09_e667_f3bc_c908,
    0xbb67_ae85_84ca_a73b,
    0x3c6e_f372_fe94_f82b,
    0xa54f_f53a_5f1d_36f1,
    0x510e_527f_ade6_82d1,
    0x9b05_688c_2b3e_6c1f,
    0x1f83_d9ab_fb41_bd6b,
    0x5be0_cd19_137e_2179,
];

/// What SHA-384 begins with (section 5.3.4): likewise of the next eight primes.
pub(super) const INITIAL_SHA384: State<Sha512> = [
    0xcbbb_9d5d_c105_9ed8,
    0x629a_292a_367c_d507,
    0x9159_015a_3070_dd17,
    0x152f_ecd8_f70e_5939,
    0x6733_2667_ffc0_0b31,
    0x8eb4_4a87_6858_1511,
    0xdb0c_2e0d_64f9_8fa7,
    0x47b5_481d_befa_4fa4,
];

/// The upper half of a word.
pub(super) const fn upper_half(word: u64) -> u32 {
    (word >> 32) as u32
}
