//! Randomness as it is passed in.

use crate::hash::Hash;

/// A source of random octets, fit for keys.
pub trait Random {
    /// Fills a buffer.
    fn fill(&mut self, out: &mut [u8]);

    /// A random number.
    fn u32(&mut self) -> u32 {
        let mut b = [0; 4];
        self.fill(&mut b);
        u32::from_be_bytes(b)
    }

    /// A random number.
    fn u64(&mut self) -> u64 {
        let mut b = [0; 8];
        self.fill(&mut b);
        u64::from_be_bytes(b)
    }

    /// A random number below `n`, each as likely as the next; 0 if `n` is 0.
    fn below(&mut self, n: u64) -> u64 {
        if n == 0 {
            return 0;
        }
        // Numbers at or above the largest multiple of n would favour small results.
        let limit = u64::MAX - u64::MAX % n;
        loop {
            let v = self.u64();
            if v < limit {
                return v % n;
            }
        }
    }

    /// Random octets.
    fn array<const N: usize>(&mut self) -> [u8; N]
    where
        Self: Sized,
    {
        let mut out = [0; N];
        self.fill(&mut out);
        out
    }
}

/// A generator for tests and simulations: everything follows from the seed, so nothing it gives is secret.
#[derive(Clone, Debug)]
pub struct SeededRandom {
    seed: u64,
    counter: u64,
    block: Vec<u8>,
}

impl SeededRandom {
    /// A generator that always gives the same octets for the same seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self { seed, counter: 0, block: Vec::new() }
    }
}

impl Random for SeededRandom {
    fn fill(&mut self, out: &mut [u8]) {
        for octet in out {
            if self.block.is_empty() {
                self.block = Hash::Sha256.digest(&[&self.seed.to_be_bytes(), &self.counter.to_be_bytes()]);
                self.counter += 1;
            }
            *octet = self.block.pop().unwrap_or_default();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_repeats_and_seeds_differ() {
        let draw = |seed| SeededRandom::new(seed).array::<80>();
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
    }

    #[test]
    fn below_stays_below_and_reaches_everything() {
        let mut rng = SeededRandom::new(3);
        let mut seen = [false; 5];
        for _ in 0..200 {
            let v = rng.below(5);
            seen[usize::try_from(v).unwrap_or(99)] = true;
        }
        assert_eq!(seen, [true; 5]);
        assert_eq!((rng.below(0), rng.below(1)), (0, 0));
    }
}
