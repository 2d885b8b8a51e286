//! Integrity algorithms: HMAC, truncated (RFC 2404, RFC 4868).

use crate::hash::{Hash, Hmac, MAX_HASH};
use crate::secret::ct_eq;
use serde::{Deserialize, Serialize};

/// An integrity algorithm of IKEv2 and ESP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Integrity {
    /// HMAC-SHA1-96 (RFC 2404); for old fleets.
    HmacSha1_96,
    /// HMAC-SHA2-256-128.
    HmacSha256_128,
    /// HMAC-SHA2-384-192.
    HmacSha384_192,
    /// HMAC-SHA2-512-256.
    HmacSha512_256,
}

impl Integrity {
    /// All there are, the weakest first.
    pub const ALL: [Integrity; 4] =
        [Integrity::HmacSha1_96, Integrity::HmacSha256_128, Integrity::HmacSha384_192, Integrity::HmacSha512_256];

    /// Is it so weak that only a configuration which says so may choose it for traffic? Nobody breaks HMAC-SHA1, but RFC 8221
    /// section 6 has it on its way out.
    #[must_use]
    pub fn is_weak(self) -> bool {
        matches!(self, Integrity::HmacSha1_96)
    }

    fn hash(self) -> Hash {
        match self {
            Integrity::HmacSha1_96 => Hash::Sha1,
            Integrity::HmacSha256_128 => Hash::Sha256,
            Integrity::HmacSha384_192 => Hash::Sha384,
            Integrity::HmacSha512_256 => Hash::Sha512,
        }
    }

    /// Octets of key.
    #[must_use]
    pub fn key_len(self) -> usize {
        self.hash().len()
    }

    /// Octets of integrity check value.
    #[must_use]
    pub fn icv_len(self) -> usize {
        match self {
            Integrity::HmacSha1_96 => 12,
            Integrity::HmacSha256_128 => 16,
            Integrity::HmacSha384_192 => 24,
            Integrity::HmacSha512_256 => 32,
        }
    }

    /// The check value of the parts.
    #[must_use]
    pub fn compute(self, key: &[u8], parts: &[&[u8]]) -> Vec<u8> {
        let mut out = vec![0; self.icv_len()];
        IntegrityKey::new(self, key).compute_into(parts, &mut out);
        out
    }

    /// Checks a value in constant time.
    #[must_use]
    pub fn verify(self, key: &[u8], parts: &[&[u8]], icv: &[u8]) -> bool {
        IntegrityKey::new(self, key).verify(parts, icv)
    }
}

/// An integrity algorithm with its key, prepared once for many packets.
pub struct IntegrityKey {
    algorithm: Integrity,
    hmac: Hmac,
}

impl IntegrityKey {
    /// Prepares a key.
    #[must_use]
    pub fn new(algorithm: Integrity, key: &[u8]) -> Self {
        Self { algorithm, hmac: Hmac::new(algorithm.hash(), key) }
    }

    /// The algorithm.
    #[must_use]
    pub fn algorithm(&self) -> Integrity {
        self.algorithm
    }

    /// Writes the check value of the parts.
    ///
    /// # Panics
    /// If `out` is not as long as the algorithm's check value.
    pub fn compute_into(&self, parts: &[&[u8]], out: &mut [u8]) {
        assert_eq!(out.len(), self.algorithm.icv_len(), "room for the check value");
        let mut full = [0; MAX_HASH];
        self.hmac.compute(parts, &mut full);
        out.copy_from_slice(&full[..self.algorithm.icv_len()]);
    }

    /// Checks a value in constant time.
    #[must_use]
    pub fn verify(&self, parts: &[&[u8]], icv: &[u8]) -> bool {
        let mut full = [0; MAX_HASH];
        self.hmac.compute(parts, &mut full);
        ct_eq(&full[..self.algorithm.icv_len()], icv)
    }
}

impl std::fmt::Debug for IntegrityKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "IntegrityKey({:?})", self.algorithm)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// RFC 4868 section 2.7.2.1, test case AUTH256-1 (20 octets of 0x0b would be PRF; here the key is 32 octets).
    #[test]
    fn rfc_4868_auth256_1() {
        let icv = Integrity::HmacSha256_128.compute(&[0x0b; 32], &[b"Hi There"]);
        assert_eq!(hex::encode(&icv), "198a607eb44bfbc69903a0f1cf2bbdc5");
        assert!(Integrity::HmacSha256_128.verify(&[0x0b; 32], &[b"Hi ", b"There"], &icv));
    }

    #[test]
    fn any_change_is_noticed() {
        for alg in Integrity::ALL {
            let key = vec![7; alg.key_len()];
            let mut icv = alg.compute(&key, &[b"data"]);
            assert_eq!(icv.len(), alg.icv_len());
            assert!(!alg.verify(&key, &[b"date"], &icv));
            assert!(!alg.verify(&key, &[b"data"], &icv[1..]));
            icv[0] ^= 1;
            assert!(!alg.verify(&key, &[b"data"], &icv));
        }
    }
}
