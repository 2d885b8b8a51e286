//! Compression functions with AVX-512: each register holds one word of all lanes.
//!
//! What is not inlined into [`NullaryFnOnce::call`](pulp::NullaryFnOnce::call) would be compiled without AVX-512, and then
//! every instruction would be a call. Hence loops here instead of closures, and `inline(always)` throughout.

use std::arch::x86_64::__m512i;

use pulp::bytemuck::Pod;
use pulp::x86::V4;
use pulp::{cast, u32x16, u64x8};

use super::hash::{BLOCK_WORDS, Blocks, STATE_WORDS};

mod sha1;
mod sha2;

/// A processor that has what it takes.
#[derive(Clone, Copy)]
pub(super) struct Lanes(V4);

impl Lanes {
    /// `None` if the processor lacks something.
    pub(super) fn new() -> Option<Self> {
        V4::try_new().map(Self)
    }

    pub(super) fn sha1(self, state: &mut [[u32; 16]; STATE_WORDS], blocks: Blocks<'_>) {
        *state = cast(self.0.vectorize(sha1::Compression { simd: self.0, state: cast(*state), blocks }));
    }

    pub(super) fn sha256(self, state: &mut [[u32; 16]; STATE_WORDS], blocks: Blocks<'_>) {
        *state = cast(self.0.vectorize(sha2::Compression::<u32x16> { simd: self.0, state: cast(*state), blocks }));
    }

    pub(super) fn sha512(self, state: &mut [[u64; 8]; STATE_WORDS], blocks: Blocks<'_>) {
        *state = cast(self.0.vectorize(sha2::Compression::<u64x8> { simd: self.0, state: cast(*state), blocks }));
    }
}

/// One word of each lane.
trait Words: Pod {
    type Word: Copy + 'static;
    /// The same word for all lanes.
    fn all(word: Self::Word) -> Self;
    fn add(self, simd: V4, other: Self) -> Self;
    /// Bits of the one or the other, as one's own say.
    fn choose(self, simd: V4, yes: Self, no: Self) -> Self;
    /// Bits that most have.
    fn majority(self, simd: V4, b: Self, c: Self) -> Self;
    /// Bits that one or all have.
    fn xor(self, simd: V4, b: Self, c: Self) -> Self;
    /// Rotates to the right.
    fn rotate<const BY: i32>(self, simd: V4) -> Self;
    /// Shifts to the right.
    fn shift<const BY: u32>(self, simd: V4) -> Self;
    /// Turns a block of each lane, as they stand in memory, into words.
    fn words(simd: V4, blocks: [Self; BLOCK_WORDS]) -> [Self; BLOCK_WORDS];

    /// The words of a block of each lane.
    #[inline(always)]
    fn read(simd: V4, blocks: Blocks<'_>) -> [Self; BLOCK_WORDS] {
        let mut words = [Self::zeroed(); BLOCK_WORDS];
        for (words, part) in words.iter_mut().zip(blocks) {
            *words = cast(*part);
        }
        Self::words(simd, words)
    }
}

/// Does something for each word of a block, whose number is the last parameter.
macro_rules! sixteen {
    ($round:ident::<$($of:tt),*> $arguments:tt) => {
        $round::<$($of,)* 0> $arguments;
        $round::<$($of,)* 1> $arguments;
        $round::<$($of,)* 2> $arguments;
        $round::<$($of,)* 3> $arguments;
        $round::<$($of,)* 4> $arguments;
        $round::<$($of,)* 5> $arguments;
        $round::<$($of,)* 6> $arguments;
        $round::<$($of,)* 7> $arguments;
        $round::<$($of,)* 8> $arguments;
        $round::<$($of,)* 9> $arguments;
        $round::<$($of,)* 10> $arguments;
        $round::<$($of,)* 11> $arguments;
        $round::<$($of,)* 12> $arguments;
        $round::<$($of,)* 13> $arguments;
        $round::<$($of,)* 14> $arguments;
        $round::<$($of,)* 15> $arguments;
    };
}
use sixteen;

/// The table of a function of three bits, for the instruction that takes one (`vpternlog`): what it is of 000, 001, ... 111
/// from the lowest bit on.
const XOR: i32 = 0b1001_0110;
const CHOOSE: i32 = 0b1100_1010;
const MAJORITY: i32 = 0b1110_1000;

/// [`Words`], but for how they are read.
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
        fn xor(self, simd: V4, b: Self, c: Self) -> Self {
            cast(simd.avx512f.$three::<XOR>(cast(self), cast(b), cast(c)))
        }

        #[inline(always)]
        fn rotate<const BY: i32>(self, simd: V4) -> Self {
            cast(simd.avx512f.$rotate::<BY>(cast(self)))
        }

        #[inline(always)]
        fn shift<const BY: u32>(self, simd: V4) -> Self {
            cast(simd.avx512f.$shift::<BY>(cast(self)))
        }
    };
}

impl Words for u32x16 {
    with_instructions!(u32, 16, _mm512_add_epi32, _mm512_ternarylogic_epi32, _mm512_ror_epi32, _mm512_srli_epi32);

    #[inline(always)]
    fn words(V4 { avx512f, avx512bw, .. }: V4, blocks: [Self; BLOCK_WORDS]) -> [Self; BLOCK_WORDS] {
        let order = cast([[3u8, 2, 1, 0, 7, 6, 5, 4, 11, 10, 9, 8, 15, 14, 13, 12]; 4]);
        // Of each quarter of a register, which is four words of a lane, the words that have the same place.
        let mut pairs: [__m512i; BLOCK_WORDS] = cast(blocks);
        for at in (0..BLOCK_WORDS).step_by(2) {
            let a = avx512bw._mm512_shuffle_epi8(pairs[at], order);
            let b = avx512bw._mm512_shuffle_epi8(pairs[at + 1], order);
            pairs[at] = avx512f._mm512_unpacklo_epi32(a, b);
            pairs[at + 1] = avx512f._mm512_unpackhi_epi32(a, b);
        }
        let mut quads = pairs;
        for at in (0..BLOCK_WORDS).step_by(4) {
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

    /// A block takes two registers.
    #[inline(always)]
    fn words(V4 { avx512f, avx512bw, .. }: V4, blocks: [Self; BLOCK_WORDS]) -> [Self; BLOCK_WORDS] {
        let order = cast([[7u8, 6, 5, 4, 3, 2, 1, 0, 15, 14, 13, 12, 11, 10, 9, 8]; 4]);
        // Of each quarter of a register, which is two words of a lane, the words that have the same place.
        let mut pairs: [__m512i; BLOCK_WORDS] = cast(blocks);
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
