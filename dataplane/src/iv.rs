//! Unpredictable IVs for CBC (RFC 3602 section 3).

use aws_lc_rs::cipher::{AES_256, EncryptingKey, EncryptionContext, UnboundCipherKey};
use keyferry_crypto::{CryptoError, Random};
use zeroize::Zeroizing;

const BLOCK: usize = 16;
const KEY: usize = 32;
const IVS: usize = 64;
const POOL: usize = KEY + IVS * BLOCK;

/// A worker's own source of IVs, so that no lock and no system call stands in the way of a packet.
///
/// AES-256 in counter mode under a secret key makes 64 IVs at a time, and in front of them the key of the next 64, which
/// takes the place of its own: a key is used once, and earlier IVs cannot be computed from a later state. Whoever does not
/// know the state cannot tell the next IV from a random one, whatever packets they have chosen or seen.
pub struct IvSource {
    /// Key of the next refill, then the IVs.
    pool: Box<Zeroizing<[u8; POOL]>>,
    used: usize,
}

impl IvSource {
    /// Seeds a source. It draws from `rng` only here.
    #[must_use]
    pub fn new(rng: &mut dyn Random) -> Self {
        let mut pool = Box::new(Zeroizing::new([0; POOL]));
        rng.fill(&mut pool[..KEY]);
        Self { pool, used: IVS }
    }

    /// The next IV.
    #[inline]
    pub(crate) fn next(&mut self) -> Result<[u8; BLOCK], CryptoError> {
        if self.used >= IVS {
            self.refill()?;
        }
        let (_, ivs) = self.pool.split_at(KEY);
        let iv = ivs.as_chunks().0.get(self.used).copied().ok_or(CryptoError::NotDone)?;
        self.used += 1;
        Ok(iv)
    }

    #[cold]
    fn refill(&mut self) -> Result<(), CryptoError> {
        let mut own = Zeroizing::new([0; KEY]);
        own.copy_from_slice(&self.pool[..KEY]);
        let key = UnboundCipherKey::new(&AES_256, &own[..]).and_then(EncryptingKey::ctr);
        let key = key.map_err(|_| CryptoError::Length("key"))?;
        // What is added to zeros is the key stream.
        self.pool.fill(0);
        let from_zero = EncryptionContext::Iv128([0; BLOCK].into());
        if key.less_safe_encrypt(&mut self.pool[..], from_zero).is_err() {
            self.pool[..KEY].copy_from_slice(&own[..]);
            return Err(CryptoError::NotDone);
        }
        self.used = 0;
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::collections::BTreeSet;

    use keyferry_crypto::{BlockCipher, SeededRandom};

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

    /// AES-256 of counters 0 and 1 is the next key, of those that follow the IVs: OpenSSL says the same.
    #[test]
    fn ivs_are_a_key_stream_whose_key_is_its_own_successor() {
        let mut rng = SeededRandom::new(7);
        let mut key = [0; KEY];
        rng.fill(&mut key);
        let mut source = IvSource::new(&mut SeededRandom::new(7));
        for _ in 0..3 {
            let stream = (0..POOL / BLOCK).flat_map(|counter| {
                let mut block = u128::try_from(counter).unwrap().to_be_bytes();
                // One block of CBC after a block of zeros is the cipher alone.
                BlockCipher::Aes256Cbc.encrypt(&key, &[0; BLOCK], &mut block).unwrap();
                block
            });
            let stream: Vec<u8> = stream.collect();
            let (next, ivs) = stream.split_at(KEY);
            for iv in ivs.chunks(BLOCK) {
                assert_eq!(source.next().unwrap(), iv);
            }
            key.copy_from_slice(next);
        }
    }
}
