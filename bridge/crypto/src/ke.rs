//! Key exchange: MODP (RFC 2409, RFC 3526, RFC 5114), ECP (RFC 5903) and X25519 (RFC 8031).

pub(crate) mod ecp;
mod modp;

use openssl::bn::{BigNum, BigNumContext, BigNumRef};
use openssl::derive::Deriver;
use openssl::pkey::{Id, PKey, Private};

use crate::error::CryptoError;
use crate::random::Random;
use crate::secret::{Secret, ct_eq};

/// A key exchange group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum KeGroup {
    /// 1024-bit MODP, group 2. Within reach of whoever has the means of a state.
    Modp1024,
    /// 1536-bit MODP, group 5.
    Modp1536,
    /// 2048-bit MODP, group 14.
    Modp2048,
    /// 3072-bit MODP, group 15.
    Modp3072,
    /// 4096-bit MODP, group 16.
    Modp4096,
    /// NIST P-256, group 19.
    Ecp256,
    /// NIST P-384, group 20.
    Ecp384,
    /// NIST P-521, group 21.
    Ecp521,
    /// 2048-bit MODP with a subgroup of 256 bits, group 24. Where its numbers come from was never published.
    Modp2048s256,
    /// Curve25519, group 31.
    X25519,
}

impl KeGroup {
    /// Octets of a public value on the wire.
    #[must_use]
    pub fn public_len(self) -> usize {
        match self {
            KeGroup::Modp1024 => 128,
            KeGroup::Modp1536 => 192,
            KeGroup::Modp2048 | KeGroup::Modp2048s256 => 256,
            KeGroup::Modp3072 => 384,
            KeGroup::Modp4096 => 512,
            KeGroup::Ecp256 => 64,
            KeGroup::Ecp384 => 96,
            KeGroup::Ecp521 => 132,
            KeGroup::X25519 => 32,
        }
    }

    /// Random octets that [`KeyPair::from_seed`] wants: enough that reducing them favours no private value.
    #[must_use]
    pub fn seed_len(self) -> usize {
        match self {
            // Twice the strength of the group, and some: the exponents of RFC 7919 appendix A, in whole octets; below
            // 2048 bits in the same proportion (RFC 3526 section 8).
            KeGroup::Modp1024 => 21,
            KeGroup::Modp1536 => 25,
            KeGroup::Modp2048 => 29,
            KeGroup::Modp3072 => 35,
            KeGroup::Modp4096 => 41,
            // The order of the subgroup, and 128 bits.
            KeGroup::Ecp256 | KeGroup::Modp2048s256 => 48,
            KeGroup::Ecp384 => 64,
            KeGroup::Ecp521 => 82,
            KeGroup::X25519 => 32,
        }
    }

    /// Is it so weak that only a configuration which says so may allow it? RFC 8247 section 2.4 wants none of these.
    #[must_use]
    pub fn is_weak(self) -> bool {
        matches!(self, KeGroup::Modp1024 | KeGroup::Modp1536 | KeGroup::Modp2048s256)
    }

    fn kind(self) -> Result<Kind, CryptoError> {
        if let Some(group) = modp::group(self)? {
            return Ok(Kind::Modp(group));
        }
        Ok(ecp::curve(self)?.map_or(Kind::X25519, Kind::Ecp))
    }
}

/// What a group computes with.
enum Kind {
    Modp(&'static modp::Group),
    Ecp(&'static ecp::Curve),
    X25519,
}

/// An ephemeral key pair.
pub struct KeyPair {
    group: KeGroup,
    public: Vec<u8>,
    private: PrivateValue,
}

enum PrivateValue {
    /// An exponent.
    Modp(&'static modp::Group, BigNum),
    /// A scalar.
    Ecp(&'static ecp::Curve, BigNum),
    /// An X25519 key.
    X25519(PKey<Private>),
}

impl KeyPair {
    /// Draws a key pair.
    ///
    /// # Errors
    /// OpenSSL refused.
    pub fn generate(group: KeGroup, rng: &mut dyn Random) -> Result<Self, CryptoError> {
        let seed = Secret::random(group.seed_len(), rng);
        Self::from_seed(group, seed.expose())
    }

    /// Makes a key pair of [`KeGroup::seed_len`] random octets.
    ///
    /// # Errors
    /// A wrong length, or OpenSSL refused.
    pub fn from_seed(group: KeGroup, seed: &[u8]) -> Result<Self, CryptoError> {
        if seed.len() != group.seed_len() {
            return Err(CryptoError::Length("seed"));
        }
        let largest = match group.kind()? {
            Kind::Modp(modp) => modp.largest_private(),
            Kind::Ecp(curve) => Some(curve.largest_private()),
            Kind::X25519 => None,
        };
        let Some(largest) = largest else { return Self::from_private(group, seed) };
        // From 1 to the order less one: the seed is so much longer than the order that the bias is below 2^-128.
        let mut wide = BigNum::new_secure()?;
        wide.copy_from_slice(seed)?;
        let mut value = BigNum::new_secure()?;
        value.nnmod(&wide, largest, &mut *BigNumContext::new_secure()?)?;
        value.add_word(1)?;
        Self::from_number(group, value)
    }

    /// Makes a key pair of a private value: an exponent, a scalar, or the octets of an X25519 key.
    ///
    /// # Errors
    /// A value that is none.
    pub fn from_private(group: KeGroup, value: &[u8]) -> Result<Self, CryptoError> {
        if matches!(group.kind()?, Kind::X25519) {
            let key = PKey::private_key_from_raw_bytes(value, Id::X25519)?;
            return Ok(Self { group, public: key.raw_public_key()?, private: PrivateValue::X25519(key) });
        }
        let mut number = BigNum::new_secure()?;
        number.copy_from_slice(value)?;
        Self::from_number(group, number)
    }

    fn from_number(group: KeGroup, mut value: BigNum) -> Result<Self, CryptoError> {
        value.set_const_time();
        let (public, private) = match group.kind()? {
            Kind::Modp(modp) => (modp.public(&value)?, PrivateValue::Modp(modp, value)),
            Kind::Ecp(curve) => (curve.public(&value)?, PrivateValue::Ecp(curve, value)),
            Kind::X25519 => return Err(CryptoError::BadKey("no number")),
        };
        Ok(Self { group, public, private })
    }

    /// The group.
    #[must_use]
    pub fn group(&self) -> KeGroup {
        self.group
    }

    /// The public value as on the wire: MODP padded to the prime's length, ECP as x and y, X25519 as it is.
    #[must_use]
    pub fn public(&self) -> &[u8] {
        &self.public
    }

    /// The shared secret: MODP padded to the prime's length, ECP the x coordinate (RFC 5903 section 7).
    ///
    /// # Errors
    /// [`CryptoError::BadPublicValue`] if the peer's value has the wrong length, is not in the group, or is one of those that
    /// give the secret away.
    pub fn agree(&self, peer: &[u8]) -> Result<Secret, CryptoError> {
        if peer.len() != self.group.public_len() {
            return Err(CryptoError::BadPublicValue);
        }
        match &self.private {
            PrivateValue::Modp(group, exponent) => group.agree(exponent, peer),
            PrivateValue::Ecp(curve, scalar) => curve.agree(scalar, peer),
            PrivateValue::X25519(key) => x25519(key, peer),
        }
    }
}

fn x25519(key: &PKey<Private>, peer: &[u8]) -> Result<Secret, CryptoError> {
    let peer = PKey::public_key_from_raw_bytes(peer, Id::X25519).map_err(|_| CryptoError::BadPublicValue)?;
    let mut deriver = Deriver::new(key)?;
    deriver.set_peer(&peer).map_err(|_| CryptoError::BadPublicValue)?;
    let shared = Secret::new(deriver.derive_to_vec().map_err(|_| CryptoError::BadPublicValue)?);
    // RFC 7748 section 6.1: a point of small order gives zeros.
    if ct_eq(shared.expose(), &[0; 32]) {
        return Err(CryptoError::BadPublicValue);
    }
    Ok(shared)
}

/// A number as octets of a fixed length.
fn padded(number: &BigNumRef, len: usize) -> Result<Vec<u8>, CryptoError> {
    let len = i32::try_from(len).map_err(|_| CryptoError::Length("number"))?;
    Ok(number.to_vec_padded(len)?)
}

impl std::fmt::Debug for KeyPair {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "KeyPair({:?})", self.group)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
