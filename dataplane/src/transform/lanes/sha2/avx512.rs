//! The compression of SHA-2 (FIPS 180-4 section 6) with AVX-512: each register holds one word of all lanes.
//!
//! What is not inlined into [`Vectorize::call`](NullaryFnOnce::call) would be compiled without AVX-512, and then every instruction would be
//! a call. Hence loops here instead of closures, and `inline(always)` throughout.

use std::arch::x86_64::__m512i;

use pulp::bytemuck::Pod;
use pulp::x86::V4;
use pulp::{NullaryFnOnce, cast, u32x16, u64x8};

use super::{BLOCK, Blocks, STATE, upper_half};

/// A processor that has what it takes.
#[derive(Clone, Copy)]
pub(in crate::transform::lanes) struct Lanes(V4);

impl Lanes {
    /// `None` if the processor lacks something.
    pub(in crate::transform::lanes) fn new() -> Option<Self> {
        V4::try_new().map(Self)
    }

    pub(super) fn sha256(self, state: &mut [[u32; 16]; STATE], blocks: Blocks<'_>) {
        let rounds = SHA256.as_chunks().0;
        *state = cast(self.0.vectorize(Compression::<u32x16> { simd: self.0, state: cast(*state), blocks, rounds }));
    }

    pub(super) fn sha512(self, state: &mut [[u64; 8]; STATE], blocks: Blocks<'_>) {
        let rounds = SHA512.as_chunks().0;
        *state = cast(self.0.vectorize(Compression::<u64x8> { simd: self.0, state: cast(*state), blocks, rounds }));
    }
}

/// One word of each lane, with the functions of FIPS 180-4 section 4.1.
trait Words: Pod {
    type Word: Copy + 'static;
    /// The same word for all lanes.
    fn all(word: Self::Word) -> Self;
    fn add(self, simd: V4, other: Self) -> Self;
    fn choose(self, simd: V4, yes: Self, no: Self) -> Self;
    fn majority(self, simd: V4, b: Self, c: Self) -> Self;
    /// Three times itself, rotated to the right so far, added bit by bit.
    fn rotated<const A: i32, const B: i32, const C: i32>(self, simd: V4) -> Self;
    /// Likewise, but the last is shifted.
    fn rotated_and_shifted<const A: i32, const B: i32, const C: u32>(self, simd: V4) -> Self;
    fn big_sigma_0(self, simd: V4) -> Self;
    fn big_sigma_1(self, simd: V4) -> Self;
    fn small_sigma_0(self, simd: V4) -> Self;
    fn small_sigma_1(self, simd: V4) -> Self;
    /// Turns blocks that stand one behind the other into their words.
    fn words(simd: V4, blocks: [Self; BLOCK]) -> [Self; BLOCK];
}

struct Compression<'c, W: Words> {
    simd: V4,
    state: [W; STATE],
    blocks: Blocks<'c>,
    rounds: &'c [[W::Word; BLOCK]],
}

impl<W: Words> NullaryFnOnce for Compression<'_, W> {
    type Output = [W; STATE];

    #[inline(always)]
    fn call(self) -> [W; STATE] {
        let Self { simd, mut state, blocks, rounds } = self;
        let mut words = [W::zeroed(); BLOCK];
        for (words, part) in words.iter_mut().zip(blocks) {
            *words = cast(*part);
        }
        words = W::words(simd, words);
        let before = state;
        if let [all @ .., last] = rounds {
            for constants in all {
                sixteen_rounds(simd, &mut state, &mut words, constants, true);
            }
            sixteen_rounds(simd, &mut state, &mut words, last, false);
        }
        for (word, before) in state.iter_mut().zip(before) {
            *word = word.add(simd, before);
        }
        state
    }
}

/// Sixteen rounds, after which every variable is again where it was.
#[inline(always)]
fn sixteen_rounds<W: Words>(
    simd: V4,
    state: &mut [W; STATE],
    words: &mut [W; BLOCK],
    constants: &[W::Word; BLOCK],
    more: bool,
) {
    round::<W, 0>(simd, state, words, constants, more);
    round::<W, 1>(simd, state, words, constants, more);
    round::<W, 2>(simd, state, words, constants, more);
    round::<W, 3>(simd, state, words, constants, more);
    round::<W, 4>(simd, state, words, constants, more);
    round::<W, 5>(simd, state, words, constants, more);
    round::<W, 6>(simd, state, words, constants, more);
    round::<W, 7>(simd, state, words, constants, more);
    round::<W, 8>(simd, state, words, constants, more);
    round::<W, 9>(simd, state, words, constants, more);
    round::<W, 10>(simd, state, words, constants, more);
    round::<W, 11>(simd, state, words, constants, more);
    round::<W, 12>(simd, state, words, constants, more);
    round::<W, 13>(simd, state, words, constants, more);
    round::<W, 14>(simd, state, words, constants, more);
    round::<W, 15>(simd, state, words, constants, more);
}

/// One round. Instead of moving the variables on, each takes the place before its own in the next round. With `more`, the word that
/// was used becomes the one that comes sixteen rounds later.
#[inline(always)]
fn round<W: Words, const AT: usize>(
    simd: V4,
    state: &mut [W; STATE],
    words: &mut [W; BLOCK],
    constants: &[W::Word; BLOCK],
    more: bool,
) {
    let [a, b, c, d, e, f, g, h] = const {
        let mut places = [0; STATE];
        let mut at = 0;
        while at < STATE {
            places[at] = (at + BLOCK - AT) % STATE;
            at += 1;
        }
        places
    };
    let chosen = state[e].choose(simd, state[f], state[g]);
    let input = state[h].add(simd, words[AT].add(simd, W::all(constants[AT])));
    let first = input.add(simd, state[e].big_sigma_1(simd).add(simd, chosen));
    let second = state[a].big_sigma_0(simd).add(simd, state[a].majority(simd, state[b], state[c]));
    state[d] = state[d].add(simd, first);
    state[h] = first.add(simd, second);
    if more {
        let near = words[AT].add(simd, words[(AT + 1) % BLOCK].small_sigma_0(simd));
        let far = words[(AT + 9) % BLOCK].add(simd, words[(AT + 14) % BLOCK].small_sigma_1(simd));
        words[AT] = near.add(simd, far);
    }
}

/// The table of a function of three bits, for the instruction that takes one (`vpternlog`): what it is of 000, 001, ... 111 from the
/// lowest bit on.
const XOR: i32 = 0b1001_0110;
const CHOOSE: i32 = 0b1100_1010;
const MAJORITY: i32 = 0b1110_1000;

/// [`Words`] but for what a hash has of its own.
macro_rules! with_instructions {
    ($word:ty, $lanes:literal, $add:ident, $three:ident, $rotate:ident, $shift:ident) => {
        type Word = $word;

        #[inline(always)]
        fn all(word: $word) -> Self {
            cast([word; $lanes])
        }

        #[inline(always)]
        fn add(self, simd: V4, other: Self) -> Self {
            cast(simd.avx512f.$add(cast(self), cast(other)))
        }

        #[inline(always)]
        fn choose(self, simd: V4, yes: Self, no: Self) -> Self {
            cast(simd.avx512f.$three::<CHOOSE>(cast(self), cast(yes), cast(no)))
        }

        #[inline(always)]
        fn majority(self, simd: V4, b: Self, c: Self) -> Self {
            cast(simd.avx512f.$three::<MAJORITY>(cast(self), cast(b), cast(c)))
        }

        #[inline(always)]
        fn rotated<const A: i32, const B: i32, const C: i32>(self, V4 { avx512f, .. }: V4) -> Self {
            let (a, b) = (avx512f.$rotate::<A>(cast(self)), avx512f.$rotate::<B>(cast(self)));
            cast(avx512f.$three::<XOR>(a, b, avx512f.$rotate::<C>(cast(self))))
        }

        #[inline(always)]
        fn rotated_and_shifted<const A: i32, const B: i32, const C: u32>(self, V4 { avx512f, .. }: V4) -> Self {
            let (a, b) = (avx512f.$rotate::<A>(cast(self)), avx512f.$rotate::<B>(cast(self)));
            cast(avx512f.$three::<XOR>(a, b, avx512f.$shift::<C>(cast(self))))
        }
    };
}

impl Words for u32x16 {
    with_instructions!(u32, 16, _mm512_add_epi32, _mm512_ternarylogic_epi32, _mm512_ror_epi32, _mm512_srli_epi32);

    #[inline(always)]
    fn big_sigma_0(self, simd: V4) -> Self {
        self.rotated::<2, 13, 22>(simd)
    }

    #[inline(always)]
    fn big_sigma_1(self, simd: V4) -> Self {
        self.rotated::<6, 11, 25>(simd)
    }

    #[inline(always)]
    fn small_sigma_0(self, simd: V4) -> Self {
        self.rotated_and_shifted::<7, 18, 3>(simd)
    }

    #[inline(always)]
    fn small_sigma_1(self, simd: V4) -> Self {
        self.rotated_and_shifted::<17, 19, 10>(simd)
    }

    #[inline(always)]
    fn words(V4 { avx512f, avx512bw, .. }: V4, blocks: [Self; BLOCK]) -> [Self; BLOCK] {
        let order = cast([[3u8, 2, 1, 0, 7, 6, 5, 4, 11, 10, 9, 8, 15, 14, 13, 12]; 4]);
        // Of each quarter of a register, which is four words of a lane, the words that have the same place.
        let mut pairs: [__m512i; BLOCK] = cast(blocks);
        for at in (0..BLOCK).step_by(2) {
            let a = avx512bw._mm512_shuffle_epi8(pairs[at], order);
            let b = avx512bw._mm512_shuffle_epi8(pairs[at + 1], order);
            pairs[at] = avx512f._mm512_unpacklo_epi32(a, b);
            pairs[at + 1] = avx512f._mm512_unpackhi_epi32(a, b);
        }
        let mut quads = pairs;
        for at in (0..BLOCK).step_by(4) {
            quads[at] = avx512f._mm512_unpacklo_epi64(pairs[at], pairs[at + 2]);
            quads[at + 1] = avx512f._mm512_unpackhi_epi64(pairs[at], pairs[at + 2]);
            quads[at + 2] = avx512f._mm512_unpacklo_epi64(pairs[at + 1], pairs[at + 3]);
            quads[at + 3] = avx512f._mm512_unpackhi_epi64(pairs[at + 1], pairs[at + 3]);
        }
        // Then the same quarter of all.
        let mut words = quads;
        for at in 0..4 {
            let [a, b, c, d] = [quads[at], quads[at + 4], quads[at + 8], quads[at + 12]];
            let (ab, cd) = (avx512f._mm512_shuffle_i32x4::<EVEN>(a, b), avx512f._mm512_shuffle_i32x4::<EVEN>(c, d));
            words[at] = avx512f._mm512_shuffle_i32x4::<EVEN>(ab, cd);
            words[at + 8] = avx512f._mm512_shuffle_i32x4::<ODD>(ab, cd);
            let (ab, cd) = (avx512f._mm512_shuffle_i32x4::<ODD>(a, b), avx512f._mm512_shuffle_i32x4::<ODD>(c, d));
            words[at + 4] = avx512f._mm512_shuffle_i32x4::<EVEN>(ab, cd);
            words[at + 12] = avx512f._mm512_shuffle_i32x4::<ODD>(ab, cd);
        }
        cast(words)
    }
}

impl Words for u64x8 {
    with_instructions!(u64, 8, _mm512_add_epi64, _mm512_ternarylogic_epi64, _mm512_ror_epi64, _mm512_srli_epi64);

    #[inline(always)]
    fn big_sigma_0(self, simd: V4) -> Self {
        self.rotated::<28, 34, 39>(simd)
    }

    #[inline(always)]
    fn big_sigma_1(self, simd: V4) -> Self {
        self.rotated::<14, 18, 41>(simd)
    }

    #[inline(always)]
    fn small_sigma_0(self, simd: V4) -> Self {
        self.rotated_and_shifted::<1, 8, 7>(simd)
    }

    #[inline(always)]
    fn small_sigma_1(self, simd: V4) -> Self {
        self.rotated_and_shifted::<19, 61, 6>(simd)
    }

    /// A block takes two registers.
    #[inline(always)]
    fn words(V4 { avx512f, avx512bw, .. }: V4, blocks: [Self; BLOCK]) -> [Self; BLOCK] {
        let order = cast([[7u8, 6, 5, 4, 3, 2, 1, 0, 15, 14, 13, 12, 11, 10, 9, 8]; 4]);
        // Of each quarter of a register, which is two words of a lane, the words that have the same place.
        let mut pairs: [__m512i; BLOCK] = cast(blocks);
        for at in [0, 1, 4, 5, 8, 9, 12, 13] {
            let a = avx512bw._mm512_shuffle_epi8(pairs[at], order);
            let b = avx512bw._mm512_shuffle_epi8(pairs[at + 2], order);
            pairs[at] = avx512f._mm512_unpacklo_epi64(a, b);
            pairs[at + 2] = avx512f._mm512_unpackhi_epi64(a, b);
        }
        // Then the same quarter of all.
        let mut words = pairs;
        for half in 0..2 {
            for at in 0..2 {
                let from = half + 2 * at;
                let [a, b, c, d] = [pairs[from], pairs[from + 4], pairs[from + 8], pairs[from + 12]];
                let to = 8 * half + at;
                let (ab, cd) = (avx512f._mm512_shuffle_i64x2::<EVEN>(a, b), avx512f._mm512_shuffle_i64x2::<EVEN>(c, d));
                words[to] = avx512f._mm512_shuffle_i64x2::<EVEN>(ab, cd);
                words[to + 4] = avx512f._mm512_shuffle_i64x2::<ODD>(ab, cd);
                let (ab, cd) = (avx512f._mm512_shuffle_i64x2::<ODD>(a, b), avx512f._mm512_shuffle_i64x2::<ODD>(c, d));
                words[to + 2] = avx512f._mm512_shuffle_i64x2::<EVEN>(ab, cd);
                words[to + 6] = avx512f._mm512_shuffle_i64x2::<ODD>(ab, cd);
            }
        }
        cast(words)
    }
}

/// Which quarters of two registers a shuffle takes: the first and the third of both, or the second and the fourth.
const EVEN: i32 = 0b10_00_10_00;
const ODD: i32 = 0b11_01_11_01;

/// The constants of SHA-256 (FIPS 180-4 section 4.2.2): the upper halves of the first of SHA-512's.
const SHA256: [u32; 64] = {
    let mut constants = [0; 64];
    let mut at = 0;
    while at < constants.len() {
        constants[at] = upper_half(SHA512[at]);
        at += 1;
    }
    constants
};

/// The constants of SHA-384 and SHA-512 (FIPS 180-4 section 4.2.3): the first bits behind the points of the cube roots of the first eighty
/// primes.
const SHA512: [u64; 80] = [
    0x428a_2f98_d728_ae22,
    0x7137_4491_23ef_65cd,
    0xb5c0_fbcf_ec4d_3b2f,
    0xe9b5_dba5_8189_dbbc,
    0x3956_c25b_f348_b538,
    0x59f1_11f1_b605_d019,
    0x923f_82a4_af19_4f9b,
    0xab1c_5ed5_da6d_8118,
    0xd807_aa98_a303_0242,
    0x1283_5b01_4570_6fbe,
    0x2431_85be_4ee4_b28c,
    0x550c_7dc3_d5ff_b4e2,
    0x72be_5d74_f27b_896f,
    0x80de_b1fe_3b16_96b1,
    0x9bdc_06a7_25c7_1235,
    0xc19b_f174_cf69_2694,
    0xe49b_69c1_9ef1_4ad2,
    0xefbe_4786_384f_25e3,
    0x0fc1_9dc6_8b8c_d5b5,
    0x240c_a1cc_77ac_9c65,
    0x2de9_2c6f_592b_0275,
    0x4a74_84aa_6ea6_e483,
    0x5cb0_a9dc_bd41_fbd4,
    0x76f9_88da_8311_53b5,
    0x983e_5152_ee66_dfab,
    0xa831_c66d_2db4_3210,
    0xb003_27c8_98fb_213f,
    0xbf59_7fc7_beef_0ee4,
    0xc6e0_0bf3_3da8_8fc2,
    0xd5a7_9147_930a_a725,
    0x06ca_6351_e003_826f,
    0x1429_2967_0a0e_6e70,
    0x27b7_0a85_46d2_2ffc,
    0x2e1b_2138_5c26_c926,
    0x4d2c_6dfc_5ac4_2aed,
    0x5338_0d13_9d95_b3df,
    0x650a_7354_8baf_63de,
    0x766a_0abb_3c77_b2a8,
    0x81c2_c92e_47ed_aee6,
    0x9272_2c85_1482_353b,
    0xa2bf_e8a1_4cf1_0364,
    0xa81a_664b_bc42_3001,
    0xc24b_8b70_d0f8_9791,
    0xc76c_51a3_0654_be30,
    0xd192_e819_d6ef_5218,
    0xd699_0624_5565_a910,
    0xf40e_3585_5771_202a,
    0x106a_a070_32bb_d1b8,
    0x19a4_c116_b8d2_d0c8,
    0x1e37_6c08_5141_ab53,
    0x2748_774c_df8e_eb99,
    0x34b0_bcb5_e19b_48a8,
    0x391c_0cb3_c5c9_5a63,
    0x4ed8_aa4a_e341_8acb,
    0x5b9c_ca4f_7763_e373,
    0x682e_6ff3_d6b2_b8a3,
    0x748f_82ee_5def_b2fc,
    0x78a5_636f_4317_2f60,
    0x84c8_7814_a1f0_ab72,
    0x8cc7_0208_1a64_39ec,
    0x90be_fffa_2363_1e28,
    0xa450_6ceb_de82_bde9,
    0xbef9_a3f7_b2c6_7915,
    0xc671_78f2_e372_532b,
    0xca27_3ece_ea26_619c,
    0xd186_b8c7_21c0_c207,
    0xeada_7dd6_cde0_eb1e,
    0xf57d_4f7f_ee6e_d178,
    0x06f0_67aa_7217_6fba,
    0x0a63_7dc5_a2c8_98a6,
    0x113f_9804_bef9_0dae,
    0x1b71_0b35_131c_471b,
    0x28db_77f5_2304_7d84,
    0x32ca_ab7b_40c7_2493,
    0x3c9e_be0a_15c9_bebc,
    0x431d_67c4_9c10_0d4c,
    0x4cc5_d4be_cb3e_42b6,
    0x597f_299c_fc65_7e2a,
    0x5fcb_6fab_3ad6_faec,
    0x6c44_198c_4a47_5817,
];
