//! Pseudorandom functions.

use zeroize::Zeroize;

use crate::hash::{Hash, Hmac, MAX_HASH};
use crate::secret::{Secret, ct_eq};

/// HMAC as a PRF (RFC 2104, RFC 4868).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Prf {
    /// PRF_HMAC_SHA1.
    HmacSha1,
    /// PRF_HMAC_SHA2_256.
    HmacSha256,
    /// PRF_HMAC_SHA2_384.
    HmacSha384,
    /// PRF_HMAC_SHA2_512.
    HmacSha512,
}

impl Prf {
    /// The PRF over this hash.
    #[must_use]
    pub fn from_hash(hash: Hash) -> Self {
        match hash {
            Hash::Sha1 => Prf::HmacSha1,
            Hash::Sha256 => Prf::HmacSha256,
            Hash::Sha384 => Prf::HmacSha384,
            Hash::Sha512 => Prf::HmacSha512,
        }
    }

    /// The hash under it.
    #[must_use]
    pub fn hash(self) -> Hash {
        match self {
            Prf::HmacSha1 => Hash::Sha1,
            Prf::HmacSha256 => Hash::Sha256,
            Prf::HmacSha384 => Hash::Sha384,
            Prf::HmacSha512 => Hash::Sha512,
        }
    }

    /// Octets of output, which is also the preferred key length.
    #[must_use]
    pub fn output_len(self) -> usize {
        self.hash().len()
    }

    /// prf(key, parts one after the other).
    #[must_use]
    pub fn compute(self, key: &[u8], parts: &[&[u8]]) -> Secret {
        run(&Hmac::new(self.hash(), key), parts)
    }

    /// prf+ (RFC 7296 section 2.13): `len` octets, at most 255 times the output length.
    ///
    /// # Panics
    /// If more octets are asked for than prf+ can give.
    #[must_use]
    pub fn expand(self, key: &[u8], seed: &[&[u8]], len: usize) -> Secret {
        assert!(len <= 255 * self.output_len(), "prf+ gives at most 255 blocks");
        let hmac = Hmac::new(self.hash(), key);
        let mut out = Vec::with_capacity(len + self.output_len());
        let mut last = Secret::new(Vec::new());
        let mut counter = 1u8;
        while out.len() < len {
            let number = [counter];
            let parts: Vec<&[u8]> =
                std::iter::once(last.expose()).chain(seed.iter().copied()).chain([&number[..]]).collect();
            last = run(&hmac, &parts);
            out.extend(last.expose());
            counter = counter.wrapping_add(1);
        }
        out[len..].zeroize();
        out.truncate(len);
        Secret::new(out)
    }
}

/// A PRF with its key, prepared once for many computations.
pub struct PrfKey(Hmac);

impl PrfKey {
    /// Prepares a key.
    #[must_use]
    pub fn new(prf: Prf, key: &[u8]) -> Self {
        Self(Hmac::new(prf.hash(), key))
    }

    /// Is this prf(key, parts one after the other)? Compared in constant time.
    #[must_use]
    pub fn verify(&self, parts: &[&[u8]], output: &[u8]) -> bool {
        let mut expected = [0; MAX_HASH];
        let len = self.0.compute(parts, &mut expected);
        let good = ct_eq(&expected[..len], output);
        expected.zeroize();
        good
    }
}

impl std::fmt::Debug for PrfKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("PrfKey")
    }
}

fn run(hmac: &Hmac, parts: &[&[u8]]) -> Secret {
    let mut out = [0; MAX_HASH];
    let len = hmac.compute(parts, &mut out);
    let secret = Secret::copy_from(&out[..len]);
    out.zeroize();
    secret
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn hex(s: &str) -> Vec<u8> {
        hex::decode(s.replace(' ', "")).unwrap()
    }

    #[test]
    fn rfc_4231_test_case_2() {
        let (key, data) = (b"Jefe", b"what do ya want for nothing?");
        let sha256 = "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843";
        let sha384 = "af45d2e376484031617f78d2b58a6b1b9c7ef464f5a01b47e42ec3736322445e8e2240ca5e69e2c78b3239ecfab21649";
        let sha512 = "164b7a7bfcf819e2e395fbe73b56e0a387bd64222e831fd610270cd7ea2505549758bf75c05a994a6d034f65f8f0e6fdcaeab1a34d4a6b4b636e070a38bce737";
        assert_eq!(Prf::HmacSha256.compute(key, &[data]).expose(), hex(sha256));
        assert_eq!(Prf::HmacSha384.compute(key, &[&data[..5], &data[5..]]).expose(), hex(sha384));
        assert_eq!(Prf::HmacSha512.compute(key, &[data]).expose(), hex(sha512));
    }

    #[test]
    fn rfc_4231_test_case_6_hashes_a_long_key() {
        let data = b"Test Using Larger Than Block-Size Key - Hash Key First";
        let sha256 = "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54";
        assert_eq!(Prf::HmacSha256.compute(&[0xaa; 131], &[data]).expose(), hex(sha256));
    }

    #[test]
    fn a_prepared_key_gives_the_same() {
        for prf in [Prf::HmacSha1, Prf::HmacSha256, Prf::HmacSha384, Prf::HmacSha512] {
            let output = prf.compute(b"key", &[b"data"]);
            let key = PrfKey::new(prf, b"key");
            assert!(key.verify(&[b"da", b"ta"], output.expose()));
            assert!(!key.verify(&[b"date"], output.expose()));
            assert!(!key.verify(&[b"data"], &output.expose()[1..]));
        }
    }

    #[test]
    fn rfc_2202_test_case_2() {
        let sha1 = "effcdf6ae5eb2fa2d27416d5f184df9c259a7c79";
        assert_eq!(Prf::HmacSha1.compute(b"Jefe", &[b"what do ya want for nothing?"]).expose(), hex(sha1));
    }

    /// prf+ as RFC 7296 section 2.13 writes it out, block by block.
    #[test]
    fn prf_plus_is_a_chain_of_prfs() {
        let p = Prf::HmacSha256;
        let t1 = p.compute(b"key", &[b"seed", &[1]]);
        let t2 = p.compute(b"key", &[t1.expose(), b"seed", &[2]]);
        let t3 = p.compute(b"key", &[t2.expose(), b"seed", &[3]]);
        let all = [t1.expose(), t2.expose(), t3.expose()].concat();
        assert_eq!(p.expand(b"key", &[b"se", b"ed"], 70).expose(), &all[..70]);
        assert!(p.expand(b"key", &[b"seed"], 0).is_empty());
    }
}
