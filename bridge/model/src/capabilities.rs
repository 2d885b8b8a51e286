//! What a G-IKEv2 member says that it can do (SAg, RFC 9838 section 2.3.3), kept for the day when all can do better.

use serde::{Deserialize, Serialize};

use crate::policy::{EspTransform, RekeyProtection};

/// What a member can do. Dependencies between algorithms, which it may tell too, are looked at when it registers, and not kept.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capabilities {
    /// Protection of traffic.
    pub traffic: Vec<EspTransform>,
    /// Protection of a Rekey SA.
    pub rekey: Vec<RekeyProtection>,
    /// Octets of key wrap keys.
    pub wrap_key_lens: Vec<usize>,
    /// Rekeys that nobody signs.
    pub implicit: bool,
    /// Signed rekeys.
    pub signed: bool,
}

impl Capabilities {
    /// What both can do.
    #[must_use]
    pub fn common(&self, other: &Self) -> Self {
        fn both<T: Copy + PartialEq>(a: &[T], b: &[T]) -> Vec<T> {
            a.iter().copied().filter(|x| b.contains(x)).collect()
        }
        Self {
            traffic: both(&self.traffic, &other.traffic),
            rekey: both(&self.rekey, &other.rekey),
            wrap_key_lens: both(&self.wrap_key_lens, &other.wrap_key_lens),
            implicit: self.implicit && other.implicit,
            signed: self.signed && other.signed,
        }
    }
}

#[cfg(test)]
mod tests {
    use keyferry_crypto::Aead;

    use super::*;

    #[test]
    fn what_all_can_do_is_what_each_can_do() {
        let gcm = [Aead::Aes128Gcm16, Aead::Aes192Gcm16, Aead::Aes256Gcm16].map(EspTransform::Aead);
        let a = Capabilities {
            traffic: gcm.to_vec(),
            wrap_key_lens: vec![16, 32],
            signed: true,
            ..Capabilities::default()
        };
        let b = Capabilities {
            traffic: gcm[1..].to_vec(),
            wrap_key_lens: vec![32],
            implicit: true,
            signed: true,
            ..Capabilities::default()
        };
        let common = a.common(&b);
        assert_eq!(common, b.common(&a));
        assert_eq!((common.traffic.as_slice(), common.wrap_key_lens.as_slice()), (&gcm[1..], &[32][..]));
        assert!(common.signed && !common.implicit);
    }
}
