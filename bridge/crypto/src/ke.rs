//! Key exchange: MODP (RFC 2409, RFC 3526, RFC 5114), ECP (RFC 5903, RFC 6954), X25519 and X448 (RFC 8031), and ML-KEM
//! (FIPS 203), which encapsulates keys.

pub(crate) mod ecp;
mod mlkem;
mod modp;
mod xdh;

use std::sync::LazyLock;

use openssl::bn::{BigNum, BigNumContext, BigNumRef};
use openssl::error::ErrorStack;
use openssl::pkey::{Id, PKey, Private};

use crate::error::CryptoError;
use crate::random::Random;
use crate::secret::Secret;

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
    /// 6144-bit MODP, group 17.
    Modp6144,
    /// 8192-bit MODP, group 18.
    Modp8192,
    /// NIST P-256, group 19.
    Ecp256,
    /// NIST P-384, group 20.
    Ecp384,
    /// NIST P-521, group 21.
    Ecp521,
    /// 2048-bit MODP with a subgroup of 256 bits, group 24. Where its numbers come from was never published.
    Modp2048s256,
    /// Brainpool P224r1, group 27.
    Brainpool224,
    /// Brainpool P256r1, group 28.
    Brainpool256,
    /// Brainpool P384r1, group 29.
    Brainpool384,
    /// Brainpool P512r1, group 30.
    Brainpool512,
    /// Curve25519, group 31.
    X25519,
    /// Curve448, group 32.
    X448,
    /// ML-KEM-512, method 35.
    MlKem512,
    /// ML-KEM-768, method 36.
    MlKem768,
    /// ML-KEM-1024, method 37.
    MlKem1024,
}

impl KeGroup {
    /// All there are.
    pub const ALL: [KeGroup; 20] = [
        KeGroup::Modp1024,
        KeGroup::Modp1536,
        KeGroup::Modp2048,
        KeGroup::Modp3072,
        KeGroup::Modp4096,
        KeGroup::Modp6144,
        KeGroup::Modp8192,
        KeGroup::Modp2048s256,
        KeGroup::Ecp256,
        KeGroup::Ecp384,
        KeGroup::Ecp521,
        KeGroup::Brainpool224,
        KeGroup::Brainpool256,
        KeGroup::Brainpool384,
        KeGroup::Brainpool512,
        KeGroup::X25519,
        KeGroup::X448,
        KeGroup::MlKem512,
        KeGroup::MlKem768,
        KeGroup::MlKem1024,
    ];

    /// Octets of the initiator's public value on the wire, and of the responder's unless
    /// [`answer_len`](Self::answer_len) says otherwise.
    #[must_use]
    pub fn public_len(self) -> usize {
        match self {
            KeGroup::Modp1024 => 128,
            KeGroup::Modp1536 => 192,
            KeGroup::Modp2048 | KeGroup::Modp2048s256 => 256,
            KeGroup::Modp3072 => 384,
            KeGroup::Modp4096 => 512,
            KeGroup::Modp6144 => 768,
            KeGroup::Modp8192 => 1024,
            KeGroup::Brainpool224 => 56,
            KeGroup::Ecp256 | KeGroup::Brainpool256 => 64,
            KeGroup::Ecp384 | KeGroup::Brainpool384 => 96,
            KeGroup::Ecp521 => 132,
            KeGroup::Brainpool512 => 128,
            KeGroup::X25519 => 32,
            KeGroup::X448 => 56,
            KeGroup::MlKem512 => 800,
            KeGroup::MlKem768 => 1184,
            KeGroup::MlKem1024 => 1568,
        }
    }

    /// Octets of the responder's public value on the wire.
    #[must_use]
    pub fn answer_len(self) -> usize {
        match self.family() {
            Family::Kem(mlkem::Set::MlKem512) => 768,
            Family::Kem(mlkem::Set::MlKem768) => 1088,
            Family::Kem(mlkem::Set::MlKem1024) => 1568,
            Family::Modp(_) | Family::Ecp(_) | Family::Xdh(_) => self.public_len(),
        }
    }

    /// Random octets that [`KeyPair::from_seed`] and [`answer`](Self::answer) want: enough that reducing them favours no private value.
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
            KeGroup::Modp6144 => 47,
            KeGroup::Modp8192 => 50,
            // The order of the subgroup, and 128 bits.
            KeGroup::Brainpool224 => 44,
            KeGroup::Ecp256 | KeGroup::Brainpool256 | KeGroup::Modp2048s256 => 48,
            KeGroup::Ecp384 | KeGroup::Brainpool384 => 64,
            KeGroup::Brainpool512 => 80,
            KeGroup::Ecp521 => 82,
            KeGroup::X25519 => 32,
            KeGroup::X448 => 56,
            KeGroup::MlKem512 | KeGroup::MlKem768 | KeGroup::MlKem1024 => mlkem::SEED,
        }
    }

    /// Is it so weak that only a configuration which says so may allow it? RFC 8247 section 2.4 wants none of these.
    #[must_use]
    pub fn is_weak(self) -> bool {
        matches!(self, KeGroup::Modp1024 | KeGroup::Modp1536 | KeGroup::Modp2048s256)
    }

    /// Does it withstand quantum computers?
    #[must_use]
    pub fn is_quantum_safe(self) -> bool {
        matches!(self.family(), Family::Kem(_))
    }

    /// A responder's part of a key exchange, of [`seed_len`](Self::seed_len) random octets: its public value and the shared
    /// secret.
    ///
    /// # Errors
    /// [`CryptoError::BadPublicValue`] as with [`KeyPair::agree`]; a seed of the wrong length, or OpenSSL refused.
    pub fn answer(self, seed: &[u8], peer: &[u8]) -> Result<(Vec<u8>, Secret), CryptoError> {
        if peer.len() != self.public_len() {
            return Err(CryptoError::BadPublicValue);
        }
        if let Family::Kem(set) = self.family() {
            return mlkem::encapsulate(set, seed, peer);
        }
        let pair = KeyPair::from_seed(self, seed)?;
        let shared = pair.agree(peer)?;
        Ok((pair.public, shared))
    }

    fn family(self) -> Family {
        match self {
            KeGroup::Modp1024 => Family::Modp(&modp::MODP_1024),
            KeGroup::Modp1536 => Family::Modp(&modp::MODP_1536),
            KeGroup::Modp2048 => Family::Modp(&modp::MODP_2048),
            KeGroup::Modp3072 => Family::Modp(&modp::MODP_3072),
            KeGroup::Modp4096 => Family::Modp(&modp::MODP_4096),
            KeGroup::Modp6144 => Family::Modp(&modp::MODP_6144),
            KeGroup::Modp8192 => Family::Modp(&modp::MODP_8192),
            KeGroup::Modp2048s256 => Family::Modp(&modp::MODP_2048_256),
            KeGroup::Ecp256 => Family::Ecp(&ecp::P256),
            KeGroup::Ecp384 => Family::Ecp(&ecp::P384),
            KeGroup::Ecp521 => Family::Ecp(&ecp::P521),
            KeGroup::Brainpool224 => Family::Ecp(&ecp::BRAINPOOL_P224R1),
            KeGroup::Brainpool256 => Family::Ecp(&ecp::BRAINPOOL_P256R1),
            KeGroup::Brainpool384 => Family::Ecp(&ecp::BRAINPOOL_P384R1),
            KeGroup::Brainpool512 => Family::Ecp(&ecp::BRAINPOOL_P512R1),
            KeGroup::X25519 => Family::Xdh(Id::X25519),
            KeGroup::X448 => Family::Xdh(Id::X448),
            KeGroup::MlKem512 => Family::Kem(mlkem::Set::MlKem512),
            KeGroup::MlKem768 => Family::Kem(mlkem::Set::MlKem768),
            KeGroup::MlKem1024 => Family::Kem(mlkem::Set::MlKem1024),
        }
    }
}

/// What a group computes with.
enum Family {
    Modp(&'static Made<modp::Group>),
    Ecp(&'static Made<ecp::Curve>),
    Xdh(Id),
    Kem(mlkem::Set),
}

/// Numbers of a group, made when they are first needed.
pub(crate) type Made<T> = LazyLock<Result<T, ErrorStack>>;

pub(crate) fn made<T>(numbers: &'static Made<T>) -> Result<&'static T, CryptoError> {
    numbers.as_ref().map_err(|e| e.clone().into())
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
    /// An X25519 or X448 key.
    Xdh(PKey<Private>),
    /// A decapsulation key.
    Kem(mlkem::Private),
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
        let largest = match group.family() {
            Family::Modp(modp) => made(modp)?.largest_private(),
            Family::Ecp(curve) => Some(made(curve)?.largest_private()),
            Family::Xdh(_) | Family::Kem(_) => None,
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

    /// Makes a key pair of a private value: an exponent, a scalar, the octets of an X25519 or X448 key, or the seed of an
    /// ML-KEM key.
    ///
    /// # Errors
    /// A value that is none.
    pub fn from_private(group: KeGroup, value: &[u8]) -> Result<Self, CryptoError> {
        match group.family() {
            Family::Modp(_) | Family::Ecp(_) => {
                let mut number = BigNum::new_secure()?;
                number.copy_from_slice(value)?;
                Self::from_number(group, number)
            }
            Family::Xdh(id) => {
                let key = PKey::private_key_from_raw_bytes(value, id)?;
                Ok(Self { group, public: key.raw_public_key()?, private: PrivateValue::Xdh(key) })
            }
            Family::Kem(set) => {
                let (public, key) = mlkem::key_pair(set, value)?;
                Ok(Self { group, public, private: PrivateValue::Kem(key) })
            }
        }
    }

    fn from_number(group: KeGroup, mut value: BigNum) -> Result<Self, CryptoError> {
        value.set_const_time();
        let (public, private) = match group.family() {
            Family::Modp(modp) => (made(modp)?.public(&value)?, PrivateValue::Modp(made(modp)?, value)),
            Family::Ecp(curve) => (made(curve)?.public(&value)?, PrivateValue::Ecp(made(curve)?, value)),
            Family::Xdh(_) | Family::Kem(_) => return Err(CryptoError::BadKey("no number")),
        };
        Ok(Self { group, public, private })
    }

    /// The group.
    #[must_use]
    pub fn group(&self) -> KeGroup {
        self.group
    }

    /// The public value as on the wire: MODP padded to the prime's length, ECP as x and y, X25519 and X448 as they are,
    /// ML-KEM the encapsulation key.
    #[must_use]
    pub fn public(&self) -> &[u8] {
        &self.public
    }

    /// The shared secret: MODP padded to the prime's length, ECP the x coordinate (RFC 5903 section 7). This is the whole of
    /// an initiator's part; for a responder there is [`KeGroup::answer`].
    ///
    /// # Errors
    /// [`CryptoError::BadPublicValue`] if the peer's value has the wrong length, is not in the group, or is one of those that
    /// give the secret away.
    pub fn agree(&self, peer: &[u8]) -> Result<Secret, CryptoError> {
        if peer.len() != self.group.answer_len() {
            return Err(CryptoError::BadPublicValue);
        }
        match &self.private {
            PrivateValue::Modp(group, exponent) => group.agree(exponent, peer),
            PrivateValue::Ecp(curve, scalar) => curve.agree(scalar, peer),
            PrivateValue::Xdh(key) => xdh::agree(key, peer),
            PrivateValue::Kem(key) => key.decapsulate(peer),
        }
    }
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
