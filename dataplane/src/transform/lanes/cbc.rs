//! AES-CBC of several packets at once.
//!
//! Each block of CBC waits for the one before it (RFC 3602 section 2), so that one packet alone leaves a processor's AES instructions idle
//! most of the time. Blocks of different packets wait for nobody: they go through the cipher side by side, as many as it takes at
//! once.
//!
//! ```text
//! packet 1   block 1   block 2   block 3  ->
//! packet 2   block 1   block 2   block 3  ->
//! packet 3   block 1   block 2               (shorter: its lane ends)
//!            step 1    step 2    step 3
//! ```

use std::cmp::Reverse;

use aes::cipher::consts::U16;
use aes::cipher::typenum::Unsigned;
use aes::cipher::{
    Array, Block, BlockCipherEncBackend, BlockCipherEncClosure, BlockCipherEncrypt, BlockSizeUser, KeyInit, ParBlocks,
};
use aes::{Aes128Enc, Aes192Enc, Aes256Enc};
use keyferry_crypto::CryptoError;

pub(in crate::transform) const BLOCK: usize = 16;

/// One packet to encrypt in place.
pub(in crate::transform) struct Lane<'p> {
    pub(in crate::transform) iv: [u8; BLOCK],
    pub(in crate::transform) blocks: &'p mut [[u8; BLOCK]],
}

/// An AES key for encryption.
pub(in crate::transform) enum Encrypting {
    Aes128(Aes128Enc),
    Aes192(Aes192Enc),
    Aes256(Aes256Enc),
}

impl Encrypting {
    pub(in crate::transform) fn new(key: &[u8]) -> Result<Self, CryptoError> {
        let cipher = match key.len() {
            16 => Aes128Enc::new_from_slice(key).map(Self::Aes128),
            24 => Aes192Enc::new_from_slice(key).map(Self::Aes192),
            _ => Aes256Enc::new_from_slice(key).map(Self::Aes256),
        };
        cipher.map_err(|_| CryptoError::Length("key"))
    }

    /// Encrypts packets, and changes the order of the lanes.
    pub(in crate::transform) fn cbc(&self, lanes: &mut [Lane<'_>]) {
        lanes.sort_unstable_by_key(|lane| Reverse(lane.blocks.len()));
        let work = Work { lanes };
        match self {
            Self::Aes128(cipher) => cipher.encrypt_with_backend(work),
            Self::Aes192(cipher) => cipher.encrypt_with_backend(work),
            Self::Aes256(cipher) => cipher.encrypt_with_backend(work),
        }
    }
}

/// Lanes, the longest first.
struct Work<'w, 'p> {
    lanes: &'w mut [Lane<'p>],
}

impl BlockSizeUser for Work<'_, '_> {
    type BlockSize = U16;
}

impl BlockCipherEncClosure for Work<'_, '_> {
    #[inline(always)]
    fn call<B: BlockCipherEncBackend<BlockSize = U16>>(self, backend: &B) {
        for lanes in self.lanes.chunks_mut(B::ParBlocksSize::USIZE) {
            side_by_side(backend, lanes);
        }
    }
}

/// Encrypts no more lanes than the cipher takes blocks at once.
#[inline(always)]
fn side_by_side<B: BlockCipherEncBackend<BlockSize = U16>>(backend: &B, lanes: &mut [Lane<'_>]) {
    let width = B::ParBlocksSize::USIZE;
    // The last block of each lane that is encrypted.
    let mut last: ParBlocks<B> = Array::default();
    for (last, lane) in last.iter_mut().zip(lanes.iter()) {
        last.0 = lane.iv;
    }
    let mut step = 0;
    let mut active = lanes;
    while let Some(shortest) = active.last().map(|lane| lane.blocks.len()) {
        if let ([lane], [last, ..]) = (&mut *active, &last[..]) {
            return alone(backend, *last, &mut lane.blocks[step..]);
        }
        while step < shortest {
            let count = active.len();
            for (last, lane) in last.iter_mut().zip(active.iter()) {
                *last = xor(last.0, lane.blocks[step]).into();
            }
            // Few blocks overlap in the processor anyway, and a whole round for them costs what it costs for all.
            if count * 4 >= width {
                backend.encrypt_par_blocks((&mut last).into());
            } else {
                last.iter_mut().take(count).for_each(|block| backend.encrypt_block(block.into()));
            }
            for (last, lane) in last.iter().zip(active.iter_mut()) {
                lane.blocks[step] = last.0;
            }
            step += 1;
        }
        let left = active.iter().take_while(|lane| lane.blocks.len() > step).count();
        active = &mut active[..left];
    }
}

/// The last lane that there is; nothing but its own blocks keeps it waiting.
#[inline(always)]
fn alone<B: BlockCipherEncBackend<BlockSize = U16>>(backend: &B, mut last: Block<B>, blocks: &mut [[u8; BLOCK]]) {
    for block in blocks {
        last = xor(last.0, *block).into();
        backend.encrypt_block((&mut last).into());
        *block = last.0;
    }
}

#[inline(always)]
fn xor(a: [u8; BLOCK], b: [u8; BLOCK]) -> [u8; BLOCK] {
    std::array::from_fn(|at| a[at] ^ b[at])
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use keyferry_crypto::BlockCipher;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Whatever the lengths of the packets, and however many there are, each is what OpenSSL makes of it alone.
        #[test]
        fn lanes_are_packets_alone(
            key in prop_oneof![any::<[u8; 16]>().prop_map(Vec::from), any::<[u8; 24]>().prop_map(Vec::from), any::<[u8; 32]>().prop_map(Vec::from)],
            packets in prop::collection::vec((any::<[u8; BLOCK]>(), prop::collection::vec(any::<[u8; BLOCK]>(), 0..12)), 0..150),
        ) {
            let cipher = match key.len() {
                16 => BlockCipher::Aes128Cbc,
                24 => BlockCipher::Aes192Cbc,
                _ => BlockCipher::Aes256Cbc,
            };
            let mut encrypted = packets.clone();
            let mut lanes: Vec<_> = encrypted.iter_mut().map(|(iv, blocks)| Lane { iv: *iv, blocks }).collect();
            Encrypting::new(&key).unwrap().cbc(&mut lanes);
            for ((iv, plain), (_, sealed)) in packets.iter().zip(&encrypted) {
                let mut alone = plain.concat();
                if !alone.is_empty() {
                    cipher.encrypt(&key, iv, &mut alone).unwrap();
                }
                prop_assert_eq!(alone, sealed.concat());
            }
        }
    }
}
