//! SHA-1 (FIPS 180-4 section 6.1), for old fleets.

use pulp::x86::V4;
use pulp::{NullaryFnOnce, u32x16};

use super::super::hash::{BLOCK_WORDS, Blocks, STATE_WORDS};
use super::{Words, sixteen};

/// One block of each lane. The last three words of the state are nobody's.
pub(super) struct Compression<'c> {
    pub(super) simd: V4,
    pub(super) state: [u32x16; STATE_WORDS],
    pub(super) blocks: Blocks<'c>,
}

impl NullaryFnOnce for Compression<'_> {
    type Output = [u32x16; STATE_WORDS];

    #[inline(always)]
    fn call(self) -> [u32x16; STATE_WORDS] {
        let Self { simd, mut state, blocks } = self;
        let mut words = u32x16::read(simd, blocks);
        sixteen_rounds::<0>(simd, &mut state, &mut words);
        sixteen_rounds::<16>(simd, &mut state, &mut words);
        sixteen_rounds::<32>(simd, &mut state, &mut words);
        sixteen_rounds::<48>(simd, &mut state, &mut words);
        sixteen_rounds::<64>(simd, &mut state, &mut words);
        for (word, before) in state.iter_mut().zip(self.state) {
            *word = word.add(simd, before);
        }
        state
    }
}

#[inline(always)]
fn sixteen_rounds<const FROM: usize>(simd: V4, state: &mut [u32x16; STATE_WORDS], words: &mut [u32x16; BLOCK_WORDS]) {
    sixteen!(round::<FROM>(simd, state, words));
}

/// One round of eighty, in which twenty each have one function and one constant (FIPS 180-4 sections 4.1.1 and 4.2.1). Where
/// there are sixteen more, the word that was used becomes the one of sixteen rounds later.
#[inline(always)]
fn round<const FROM: usize, const AT: usize>(
    simd: V4,
    state: &mut [u32x16; STATE_WORDS],
    words: &mut [u32x16; BLOCK_WORDS],
) {
    let [a, b, c, d, e, ..] = *state;
    let (mixed, constant) = match const { (FROM + AT) / 20 } {
        0 => (b.choose(simd, c, d), 0x5a82_7999),
        1 => (b.xor(simd, c, d), 0x6ed9_eba1),
        2 => (b.majority(simd, c, d), 0x8f1b_bcdc),
        _ => (b.xor(simd, c, d), 0xca62_c1d6),
    };
    let input = e.add(simd, words[AT].add(simd, u32x16::all(constant)));
    let next = a.rotate::<27>(simd).add(simd, mixed).add(simd, input);
    (state[0], state[1], state[2], state[3], state[4]) = (next, a, b.rotate::<2>(simd), c, d);
    if FROM < 64 {
        let near =
            words[(AT + 13) % BLOCK_WORDS].xor(simd, words[(AT + 8) % BLOCK_WORDS], words[(AT + 2) % BLOCK_WORDS]);
        words[AT] = near.xor(simd, words[AT], u32x16::all(0)).rotate::<31>(simd);
    }
}
