//! Key exchange: MODP (RFC 3526), ECP (RFC 5903) and X25519 (RFC 8031).

use openssl::bn::{BigNum, BigNumContext};
use openssl::derive::Deriver;
use openssl::ec::{EcGroup, EcKey, EcPoint};
use openssl::nid::Nid;
use openssl::pkey::{Id, PKey, Private};

use crate::error::CryptoError;
use crate::random::Random;
use crate::secret::{Secret, ct_eq};

/// A key exchange group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum KeGroup {
    /// 2048-bit MODP, group 14.
    Modp2048,
    /// NIST P-256, group 19.
    Ecp256,
    /// NIST P-384, group 20.
    Ecp384,
    /// Curve25519, group 31.
    X25519,
}

impl KeGroup {
    /// Octets of a public value on the wire.
    #[must_use]
    pub fn public_len(self) -> usize {
        match self {
            KeGroup::Modp2048 => 256,
            KeGroup::Ecp256 => 64,
            KeGroup::Ecp384 => 96,
            KeGroup::X25519 => 32,
        }
    }

    /// Random octets that [`KeyPair::from_seed`] wants: enough that reducing them favours no private value.
    #[must_use]
    pub fn seed_len(self) -> usize {
        match self {
            // Twice the strength of the group, and some.
            KeGroup::Modp2048 => 40,
            KeGroup::Ecp256 => 48,
            KeGroup::Ecp384 => 64,
            KeGroup::X25519 => 32,
        }
    }

    fn curve(self) -> Option<Nid> {
        match self {
            KeGroup::Modp2048 | KeGroup::X25519 => None,
            KeGroup::Ecp256 => Some(Nid::X9_62_PRIME256V1),
            KeGroup::Ecp384 => Some(Nid::SECP384R1),
        }
    }
}

/// An ephemeral key pair.
pub struct KeyPair {
    group: KeGroup,
    public: Vec<u8>,
    private: PrivateValue,
}

enum PrivateValue {
    /// The exponent.
    Modp(Secret),
    /// An EC or X25519 key.
    Key(PKey<Private>),
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
        let Some(curve) = group.curve() else { return Self::from_private(group, seed) };
        // A scalar from 1 to n - 1: the seed is so much longer than n that the bias is below 2^-128.
        let order = {
            let mut n = BigNum::new()?;
            EcGroup::from_curve_name(curve)?.order(&mut n, &mut *BigNumContext::new_secure()?)?;
            n.sub_word(1)?;
            n
        };
        let mut wide = BigNum::new_secure()?;
        wide.copy_from_slice(seed)?;
        let mut scalar = BigNum::new_secure()?;
        scalar.nnmod(&wide, &order, &mut *BigNumContext::new_secure()?)?;
        scalar.add_word(1)?;
        wide.clear();
        let bytes = Secret::new(scalar.to_vec());
        scalar.clear();
        Self::from_private(group, bytes.expose())
    }

    /// Makes a key pair of a private value: an exponent, a scalar, or the octets of an X25519 key.
    ///
    /// # Errors
    /// A value that is none.
    pub fn from_private(group: KeGroup, value: &[u8]) -> Result<Self, CryptoError> {
        match group {
            KeGroup::Modp2048 => {
                let mut generator = BigNum::new()?;
                generator.add_word(2)?;
                let public = power(&generator, value)?;
                Ok(Self { group, public, private: PrivateValue::Modp(Secret::copy_from(value)) })
            }
            KeGroup::Ecp256 | KeGroup::Ecp384 => ec_pair(group, value),
            KeGroup::X25519 => {
                let key = PKey::private_key_from_raw_bytes(value, Id::X25519)?;
                Ok(Self { group, public: key.raw_public_key()?, private: PrivateValue::Key(key) })
            }
        }
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
            PrivateValue::Modp(exponent) => {
                let value = BigNum::from_slice(peer)?;
                let mut largest = BigNum::get_rfc3526_prime_2048()?;
                largest.sub_word(2)?;
                if value.num_bits() < 2 || value > largest {
                    return Err(CryptoError::BadPublicValue);
                }
                power(&value, exponent.expose()).map(Secret::new)
            }
            PrivateValue::Key(key) => {
                let peer = self.peer_key(peer).map_err(|_| CryptoError::BadPublicValue)?;
                let mut deriver = Deriver::new(key)?;
                deriver.set_peer(&peer).map_err(|_| CryptoError::BadPublicValue)?;
                let shared = Secret::new(deriver.derive_to_vec().map_err(|_| CryptoError::BadPublicValue)?);
                // RFC 7748 section 6.1: a point of small order gives zeros.
                if ct_eq(shared.expose(), &vec![0; shared.len()]) {
                    return Err(CryptoError::BadPublicValue);
                }
                Ok(shared)
            }
        }
    }

    fn peer_key(&self, peer: &[u8]) -> Result<PKey<openssl::pkey::Public>, CryptoError> {
        let Some(curve) = self.group.curve() else {
            return Ok(PKey::public_key_from_raw_bytes(peer, Id::X25519)?);
        };
        let group = EcGroup::from_curve_name(curve)?;
        let (x, y) = peer.split_at(peer.len() / 2);
        let (x, y) = (BigNum::from_slice(x)?, BigNum::from_slice(y)?);
        // Fails for a point that is not on the curve; cofactor 1 makes that the whole check.
        let key = EcKey::from_public_key_affine_coordinates(&group, &x, &y)?;
        key.check_key()?;
        Ok(PKey::from_ec_key(key)?)
    }
}

impl std::fmt::Debug for KeyPair {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "KeyPair({:?})", self.group)
    }
}

/// base ^ exponent modulo the prime of group 14, padded to its length.
fn power(base: &BigNum, exponent: &[u8]) -> Result<Vec<u8>, CryptoError> {
    let prime = BigNum::get_rfc3526_prime_2048()?;
    let mut e = BigNum::new_secure()?;
    e.copy_from_slice(exponent)?;
    e.set_const_time();
    let mut result = BigNum::new()?;
    result.mod_exp(base, &e, &prime, &mut *BigNumContext::new_secure()?)?;
    e.clear();
    let out = result.to_vec_padded(prime.num_bytes())?;
    result.clear();
    Ok(out)
}

fn ec_pair(group: KeGroup, scalar: &[u8]) -> Result<KeyPair, CryptoError> {
    let curve = group.curve().ok_or(CryptoError::BadKey("no curve"))?;
    let ec = EcGroup::from_curve_name(curve)?;
    let mut ctx = BigNumContext::new_secure()?;
    let mut k = BigNum::new_secure()?;
    k.copy_from_slice(scalar)?;
    let mut point = EcPoint::new(&ec)?;
    point.mul_generator2(&ec, &k, &mut ctx)?;
    let key = EcKey::from_private_components(&ec, &k, &point)?;
    key.check_key().map_err(|_| CryptoError::BadKey("not a scalar of the curve"))?;
    k.clear();
    let (mut x, mut y) = (BigNum::new()?, BigNum::new()?);
    point.affine_coordinates(&ec, &mut x, &mut y, &mut ctx)?;
    let half = i32::try_from(group.public_len() / 2).map_err(|_| CryptoError::Length("coordinate"))?;
    let mut public = x.to_vec_padded(half)?;
    public.extend(y.to_vec_padded(half)?);
    Ok(KeyPair { group, public, private: PrivateValue::Key(PKey::from_ec_key(key)?) })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
