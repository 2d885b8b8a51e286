//! SHA-2 (FIPS 180-4) of one block for each of several messages at once, and of one message alone.

use zeroize::Zeroize;

#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(not(target_arch = "x86_64"))]
mod none;

#[cfg(target_arch = "x86_64")]
pub(super) use avx512::Lanes;
#[cfg(not(target_arch = "x86_64"))]
pub(super) use none::Lanes;

/// Words of the state between two blocks.
pub(super) const STATE: usize = 8;
/// Words of a block.
const BLOCK: usize = 16;

/// Part of a block, as much as a register holds: one block of SHA-256, half a block of SHA-512.
pub(super) type Part = [u8; 64];
/// A block of each lane, one behind the other.
pub(super) type Blocks<'b> = [&'b Part; 16];

/// The word of a hash of this family, which tells it from the others: 32 bits of SHA-256, 64 of SHA-384 and SHA-512.
pub(super) trait Word: Copy + Default + Zeroize + 'static {
    /// This word of all lanes.
    type Row: AsRef<[Self]> + AsMut<[Self]> + Copy + Default + Zeroize;
    /// Lanes.
    const LANES: usize;
    /// Lanes from which on it pays to work on all of them at once: half of them, about.
    const ENOUGH: usize;
    /// Octets of a block.
    const BLOCK: usize = BLOCK * size_of::<Self>();
    /// Octets in which padding tells a message's length (FIPS 180-4 section 5.1).
    const LENGTH: usize = 2 * size_of::<Self>();

    /// Works up whole blocks of one message.
    fn alone(state: &mut [Self; STATE], blocks: &[u8]);

    /// Works up one block of each lane.
    fn side_by_side(lanes: Lanes, state: &mut [Self::Row; STATE], blocks: Blocks<'_>);

    /// Writes a word, the most significant octet first.
    fn write(self, to: &mut [u8]);
}

impl Word for u32 {
    type Row = [u32; 16];
    const LANES: usize = 16;
    const ENOUGH: usize = 10;

    fn alone(state: &mut [u32; STATE], blocks: &[u8]) {
        sha2::block_api::compress256(state, blocks.as_chunks().0);
    }

    fn side_by_side(lanes: Lanes, state: &mut [[u32; 16]; STATE], blocks: Blocks<'_>) {
        lanes.sha256(state, blocks);
    }

    fn write(self, to: &mut [u8]) {
        to.copy_from_slice(&self.to_be_bytes());
    }
}

impl Word for u64 {
    type Row = [u64; 8];
    const LANES: usize = 8;
    const ENOUGH: usize = 4;

    fn alone(state: &mut [u64; STATE], blocks: &[u8]) {
        sha2::block_api::compress512(state, blocks.as_chunks().0);
    }

    fn side_by_side(lanes: Lanes, state: &mut [[u64; 8]; STATE], blocks: Blocks<'_>) {
        lanes.sha512(state, blocks);
    }

    fn write(self, to: &mut [u8]) {
        to.copy_from_slice(&self.to_be_bytes());
    }
}

/// What SHA-256 begins with (FIPS 180-4 section 5.3.3): the upper halves of what SHA-512 does.
pub(super) const SHA256: [u32; STATE] = {
    let mut words = [0; STATE];
    let mut at = 0;
    while at < STATE {
        words[at] = upper_half(SHA512[at]);
        at += 1;
    }
    words
};

/// What SHA-512 begins with (FIPS 180-4 section 5.3.5): the first bits behind the points of the square roots of the first eight primes.
pub(super) const SHA512: [u64; STATE] = [
    0x6a09_e667_f3bc_c908,
    0xbb67_ae85_84ca_a73b,
    0x3c6e_f372_fe94_f82b,
    0xa54f_f53a_5f1d_36f1,
    0x510e_527f_ade6_82d1,
    0x9b05_688c_2b3e_6c1f,
    0x1f83_d9ab_fb41_bd6b,
    0x5be0_cd19_137e_2179,
];

/// What SHA-384 begins with (FIPS 180-4 section 5.3.4): likewise of the next eight primes.
pub(super) const SHA384: [u64; STATE] = [
    0xcbbb_9d5d_c105_9ed8,
    0x629a_292a_367c_d507,
    0x9159_015a_3070_dd17,
    0x152f_ecd8_f70e_5939,
    0x6733_2667_ffc0_0b31,
    0x8eb4_4a87_6858_1511,
    0xdb0c_2e0d_64f9_8fa7,
    0x47b5_481d_befa_4fa4,
];

const fn upper_half(word: u64) -> u32 {
    (word >> 32) as u32
}
