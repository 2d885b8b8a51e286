//! Octets that must not leak.

use std::fmt;

use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::random::Random;

/// Secret octets: zeroized when dropped, never printed, copied only on purpose.
#[derive(Zeroize, ZeroizeOnDrop)]
pub struct Secret(Vec<u8>);

impl Secret {
    /// Takes over a buffer, which must not have been reallocated while it held the secret.
    #[must_use]
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }

    /// Copies from somewhere the caller zeroizes.
    #[must_use]
    pub fn copy_from(bytes: &[u8]) -> Self {
        Self(bytes.to_vec())
    }

    /// Draws `len` octets.
    pub fn random(len: usize, rng: &mut dyn Random) -> Self {
        let mut bytes = vec![0; len];
        rng.fill(&mut bytes);
        Self(bytes)
    }

    /// The octets themselves. Keep the borrow short.
    #[must_use]
    pub fn expose(&self) -> &[u8] {
        &self.0
    }

    /// Length in octets.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Is it empty?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// A second copy. The only way to get one.
    #[must_use]
    pub fn duplicate(&self) -> Self {
        Self(self.0.clone())
    }

    /// Compares in time that depends on the length alone.
    #[must_use]
    pub fn ct_eq(&self, other: &[u8]) -> bool {
        ct_eq(&self.0, other)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secret({} octets)", self.0.len())
    }
}

/// Compares octets in time that depends on their lengths alone; of different lengths they are unequal.
#[must_use]
pub fn ct_eq(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && openssl::memcmp::eq(a, b)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_shows_the_length_only() {
        assert_eq!(format!("{:?}", Secret::copy_from(b"hunter2")), "Secret(7 octets)");
    }

    #[test]
    fn comparison() {
        assert!(ct_eq(b"abc", b"abc") && ct_eq(b"", b""));
        assert!(!ct_eq(b"abc", b"abd") && !ct_eq(b"abc", b"ab"));
        assert!(Secret::copy_from(b"abc").duplicate().ct_eq(b"abc"));
    }
}
