//! Hash functions (FIPS 180-4).

use openssl::sha::{Sha1, Sha256, Sha384, Sha512};
use serde::{Deserialize, Serialize};
use zeroize::Zeroize;

/// A hash function.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Hash {
    /// SHA-1. Only where a peer knows nothing better; within HMAC it is not broken.
    Sha1,
    /// SHA2-256.
    Sha256,
    /// SHA2-384.
    Sha384,
    /// SHA2-512.
    Sha512,
}

impl Hash {
    /// Octets of output.
    #[must_use]
    pub fn len(self) -> usize {
        match self {
            Hash::Sha1 => 20,
            Hash::Sha256 => 32,
            Hash::Sha384 => 48,
            Hash::Sha512 => 64,
        }
    }

    /// Never: every hash has output. There because [`len`](Self::len) is.
    #[must_use]
    pub fn is_empty(self) -> bool {
        false
    }

    /// Octets of a block, which HMAC pads its key to.
    #[must_use]
    pub fn block_len(self) -> usize {
        match self {
            Hash::Sha1 | Hash::Sha256 => 64,
            Hash::Sha384 | Hash::Sha512 => 128,
        }
    }

    /// The hash of the parts, one after the other.
    #[must_use]
    pub fn digest(self, parts: &[&[u8]]) -> Vec<u8> {
        let mut state = HashState::new(self);
        parts.iter().for_each(|p| state.update(p));
        let mut out = [0; MAX_HASH];
        let len = state.finish(&mut out);
        out[..len].to_vec()
    }
}

/// Octets of the longest hash.
pub(crate) const MAX_HASH: usize = 64;

/// A running hash that can be copied in the middle, without allocation.
#[derive(Clone)]
pub(crate) enum HashState {
    Sha1(Sha1),
    Sha256(Sha256),
    Sha384(Sha384),
    Sha512(Sha512),
}

impl HashState {
    pub(crate) fn new(hash: Hash) -> Self {
        match hash {
            Hash::Sha1 => HashState::Sha1(Sha1::new()),
            Hash::Sha256 => HashState::Sha256(Sha256::new()),
            Hash::Sha384 => HashState::Sha384(Sha384::new()),
            Hash::Sha512 => HashState::Sha512(Sha512::new()),
        }
    }

    pub(crate) fn update(&mut self, data: &[u8]) {
        match self {
            HashState::Sha1(s) => s.update(data),
            HashState::Sha256(s) => s.update(data),
            HashState::Sha384(s) => s.update(data),
            HashState::Sha512(s) => s.update(data),
        }
    }

    /// Writes the hash to the front of `out` and returns its length.
    pub(crate) fn finish(self, out: &mut [u8; MAX_HASH]) -> usize {
        let mut put = |digest: &[u8]| {
            out[..digest.len()].copy_from_slice(digest);
            digest.len()
        };
        match self {
            HashState::Sha1(s) => put(&s.finish()),
            HashState::Sha256(s) => put(&s.finish()),
            HashState::Sha384(s) => put(&s.finish()),
            HashState::Sha512(s) => put(&s.finish()),
        }
    }
}

/// A keyed HMAC (RFC 2104), prepared once and run many times.
#[derive(Clone)]
pub(crate) struct Hmac {
    inner: HashState,
    outer: HashState,
}

impl Hmac {
    pub(crate) fn new(hash: Hash, key: &[u8]) -> Self {
        let mut block = zeroize::Zeroizing::new([0u8; 128]);
        if key.len() > hash.block_len() {
            let digest = zeroize::Zeroizing::new(hash.digest(&[key]));
            block[..digest.len()].copy_from_slice(&digest);
        } else {
            block[..key.len()].copy_from_slice(key);
        }
        let block = &mut block[..hash.block_len()];
        let mut keyed = |pad: u8| {
            let mut state = HashState::new(hash);
            block.iter_mut().for_each(|b| *b ^= pad);
            state.update(block);
            state
        };
        // The second pad goes over the first, which is taken off with it.
        Self { inner: keyed(0x36), outer: keyed(0x36 ^ 0x5c) }
    }

    /// Writes the MAC of the parts to the front of `out` and returns its length.
    pub(crate) fn compute(&self, parts: &[&[u8]], out: &mut [u8; MAX_HASH]) -> usize {
        let mut inner = self.inner.clone();
        parts.iter().for_each(|p| inner.update(p));
        let mut digest = [0; MAX_HASH];
        let len = inner.finish(&mut digest);
        let mut outer = self.outer.clone();
        outer.update(&digest[..len]);
        digest.zeroize();
        outer.finish(out)
    }
}

impl Drop for Hmac {
    /// Overwrites the states, which are as good as the key, with the largest there is. `black_box` keeps the stores from being optimized away.
    fn drop(&mut self) {
        self.inner = HashState::new(Hash::Sha512);
        self.outer = HashState::new(Hash::Sha512);
        std::hint::black_box((&mut self.inner, &mut self.outer));
    }
}
