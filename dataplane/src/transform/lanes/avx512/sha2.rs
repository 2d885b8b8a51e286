//! SHA-2 (FIPS 180-4 section 6).

use pulp::x86::V4;
use pulp::{NullaryFnOnce, u32x16, u64x8};

use super::super::hash::{BLOCK_WORDS, Blocks, STATE_WORDS, upper_half};
use super::{Words, sixteen};

/// What a hash of this family has of its own (FIPS 180-4 section 4).
trait Sha2: Words {
    /// The constants of sixteen rounds each.
    const ROUNDS: &[[Self::Word; BLOCK_WORDS]];
    fn big_sigma_0(self, simd: V4) -> Self;
    fn big_sigma_1(self, simd: V4) -> Self;
    fn small_sigma_0(self, simd: V4) -> Self;
    fn small_sigma_1(self, simd: V4) -> Self;
}

/// One block of each lane.
pub(super) struct Compression<'c, W> {
    pub(super) simd: V4,
    pub(super) state: [W; STATE_WORDS],
    pub(super) blocks: Blocks<'c>,
}

impl<W: Sha2> NullaryFnOnce for Compression<'_, W> {
    type Output = [W; STATE_WORDS];

    #[inline(always)]
    fn call(self) -> [W; STATE_WORDS] {
        let Self { simd, mut state, blocks } = self;
        let mut words = W::read(simd, blocks);
        if let [all @ .., last] = W::ROUNDS {
            for constants in all {
                sixteen!(round::<W>(simd, &mut state, &mut words, constants, true));
            }
            sixteen!(round::<W>(simd, &mut state, &mut words, last, false));
        }
        for (word, before) in state.iter_mut().zip(self.state) {
            *word = word.add(simd, before);
        }
        state
    }
}

/// One round. Instead of moving the variables on, each takes the place before its own in the next round, so that after
/// sixteen all are where they were. With `more`, the word that was used becomes the one of sixteen rounds later.
#[inline(always)]
fn round<W: Sha2, const AT: usize>(
    simd: V4,
    state: &mut [W; STATE_WORDS],
    words: &mut [W; BLOCK_WORDS],
    constants: &[W::Word; BLOCK_WORDS],
    more: bool,
) {
    let [a, b, c, d, e, f, g, h] = const {
        let mut places = [0; STATE_WORDS];
        let mut at = 0;
        while at < STATE_WORDS {
            places[at] = (at + BLOCK_WORDS - AT) % STATE_WORDS;
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
        let near = words[AT].add(simd, words[(AT + 1) % BLOCK_WORDS].small_sigma_0(simd));
        let far = words[(AT + 9) % BLOCK_WORDS].add(simd, words[(AT + 14) % BLOCK_WORDS].small_sigma_1(simd));
        words[AT] = near.add(simd, far);
    }
}

impl Sha2 for u32x16 {
    const ROUNDS: &[[Self::Word; BLOCK_WORDS]] = ROUNDS_SHA256.as_chunks().0;

    #[inline(always)]
    fn big_sigma_0(self, simd: V4) -> Self {
        self.rotate::<2>(simd).xor(simd, self.rotate::<13>(simd), self.rotate::<22>(simd))
    }

    #[inline(always)]
    fn big_sigma_1(self, simd: V4) -> Self {
        self.rotate::<6>(simd).xor(simd, self.rotate::<11>(simd), self.rotate::<25>(simd))
    }

    #[inline(always)]
    fn small_sigma_0(self, simd: V4) -> Self {
        self.rotate::<7>(simd).xor(simd, self.rotate::<18>(simd), self.shift::<3>(simd))
    }

    #[inline(always)]
    fn small_sigma_1(self, simd: V4) -> Self {
        self.rotate::<17>(simd).xor(simd, self.rotate::<19>(simd), self.shift::<10>(simd))
    }
}

impl Sha2 for u64x8 {
    const ROUNDS: &[[Self::Word; BLOCK_WORDS]] = ROUNDS_SHA512.as_chunks().0;

    #[inline(always)]
    fn big_sigma_0(self, simd: V4) -> Self {
        self.rotate::<28>(simd).xor(simd, self.rotate::<34>(simd), self.rotate::<39>(simd))
    }

    #[inline(always)]
    fn big_sigma_1(self, simd: V4) -> Self {
        self.rotate::<14>(simd).xor(simd, self.rotate::<18>(simd), self.rotate::<41>(simd))
    }

    #[inline(always)]
    fn small_sigma_0(self, simd: V4) -> Self {
        self.rotate::<1>(simd).xor(simd, self.rotate::<8>(simd), self.shift::<7>(simd))
    }

    #[inline(always)]
    fn small_sigma_1(self, simd: V4) -> Self {
        self.rotate::<19>(simd).xor(simd, self.rotate::<61>(simd), self.shift::<6>(simd))
    }
}

/// The constants of SHA-256 (FIPS 180-4 section 4.2.2): the upper halves of the first of SHA-512's.
const ROUNDS_SHA256: [u32; 64] = {
    let mut constants = [0; 64];
    let mut at = 0;
    while at < constants.len() {
        constants[at] = upper_half(ROUNDS_SHA512[at]);
        at += 1;
    }
    constants
};

/// The constants of SHA-384 and SHA-512 (FIPS 180-4 section 4.2.3): the first bits behind the points of the cube roots of
/// the first eighty primes.
const ROUNDS_SHA512: [u64; 80] = [
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
