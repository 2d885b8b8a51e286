//! Unpredictable IVs for CBC (RFC 3602 section 3).

use keyferry_crypto::{BlockCipher, CryptoError, Random};
use zeroize::Zeroizing;

const BLOCK: usize = 16;
const KEY: usize = 32;
const IVS: usize = 64;
const POOL: usize = KEY + BLOCK + IVS * BLOCK;

/// A worker's own source of IVs, so that no lock and no system call stands in the way of a packet.
///
/// AES-256 in output feedback under a secret key and block makes 64 IVs at a time, and with them the key and block of
/// the next 64, so that earlier IVs cannot be computed from a later state. Whoever does not know the state cannot tell
/// the next IV from a random one, whatever packets they have chosen or seen.
pub struct IvSource {
    /// Key and block of the next refill, then the IVs.
    pool: Box<Zeroizing<[u8; POOL]>>,
    used: usize,
}

impl IvSource {
    /// Seeds a source. It draws from `rng` only here.
    #[must_use]
    pub fn new(rng: &mut dyn Random) -> Self {
        let mut pool = Box::new(Zeroizing::new([0; POOL]));
        rng.fill(&mut pool[..KEY + BLOCK]);
        Self { pool, used: IVS }
    }

    /// The next IV.
    pub(crate) fn next(&mut self) -> Result<[u8; BLOCK], CryptoError> {
        if self.used == IVS {
            self.refill()?;
        }
        let at = KEY + BLOCK + self.used * BLOCK;
        self.used += 1;
        let mut iv = [0; BLOCK];
        iv.copy_from_slice(&self.pool[at..at + BLOCK]);
        Ok(iv)
    }

    fn refill(&mut self) -> Result<(), CryptoError> {
        let mut key = Zeroizing::new([0; KEY]);
        let mut block = Zeroizing::new([0; BLOCK]);
        key.copy_from_slice(&self.pool[..KEY]);
        block.copy_from_slice(&self.pool[KEY..KEY + BLOCK]);
        // Zeros encrypted in CBC are output feedback: each block is the encryption of the one before.
        self.pool.fill(0);
        BlockCipher::Aes256Cbc.encrypt(&key[..], &block[..], &mut self.pool[..])?;
        self.used = 0;
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::collections::BTreeSet;

    use keyferry_crypto::SeededRandom;

    use super::*;

    #[test]
    fn ivs_do_not_repeat_and_differ_between_workers() {
        let mut rng = SeededRandom::new(1);
        let (mut a, mut b) = (IvSource::new(&mut rng), IvSource::new(&mut rng));
        let mut seen = BTreeSet::new();
        for _ in 0..1_000 {
            assert!(seen.insert(a.next().unwrap()));
            assert!(seen.insert(b.next().unwrap()));
        }
    }
}
