//! Exponentiation modulo a prime.

use std::sync::LazyLock;

use openssl::bn::{BigNum, BigNumContext, BigNumRef};
use openssl::dh::Dh;
use openssl::error::ErrorStack;

use super::{Made, padded};
use crate::error::CryptoError;
use crate::secret::Secret;

/// Numbers of a group, made once.
pub(super) struct Group {
    prime: BigNum,
    /// p - 2, the largest public value that is taken.
    largest: BigNum,
    generator: BigNum,
    subgroup: Option<Subgroup>,
    len: usize,
}

/// The generator's subgroup where it is much smaller than the group, so that peers must show to be inside.
struct Subgroup {
    order: BigNum,
    largest_private: BigNum,
}

// Primes that are safe: (p - 1) / 2 is prime too.
pub(super) static MODP_1024: Made<Group> = LazyLock::new(|| Group::safe(128, BigNum::get_rfc2409_prime_1024()?));
pub(super) static MODP_1536: Made<Group> = LazyLock::new(|| Group::safe(192, BigNum::get_rfc3526_prime_1536()?));
pub(super) static MODP_2048: Made<Group> = LazyLock::new(|| Group::safe(256, BigNum::get_rfc3526_prime_2048()?));
pub(super) static MODP_3072: Made<Group> = LazyLock::new(|| Group::safe(384, BigNum::get_rfc3526_prime_3072()?));
pub(super) static MODP_4096: Made<Group> = LazyLock::new(|| Group::safe(512, BigNum::get_rfc3526_prime_4096()?));
pub(super) static MODP_6144: Made<Group> = LazyLock::new(|| Group::safe(768, BigNum::get_rfc3526_prime_6144()?));
pub(super) static MODP_8192: Made<Group> = LazyLock::new(|| Group::safe(1024, BigNum::get_rfc3526_prime_8192()?));

pub(super) static MODP_2048_256: Made<Group> = LazyLock::new(Group::rfc_5114_section_2_3);

impl Group {
    fn safe(len: usize, prime: BigNum) -> Result<Self, ErrorStack> {
        Self::new(len, prime, BigNum::from_u32(2)?, None)
    }

    fn rfc_5114_section_2_3() -> Result<Self, ErrorStack> {
        let numbers = Dh::get_2048_256()?;
        let order = numbers.prime_q().ok_or_else(ErrorStack::get)?.to_owned()?;
        let mut largest_private = order.to_owned()?;
        largest_private.sub_word(1)?;
        let subgroup = Subgroup { order, largest_private };
        Self::new(256, numbers.prime_p().to_owned()?, numbers.generator().to_owned()?, Some(subgroup))
    }

    fn new(len: usize, prime: BigNum, generator: BigNum, subgroup: Option<Subgroup>) -> Result<Self, ErrorStack> {
        let mut largest = prime.to_owned()?;
        largest.sub_word(2)?;
        Ok(Self { prime, largest, generator, subgroup, len })
    }

    /// The largest private value that is told from smaller ones, where that is not a matter of the exponent's length.
    pub(super) fn largest_private(&self) -> Option<&BigNumRef> {
        self.subgroup.as_ref().map(|s| &*s.largest_private)
    }

    /// The public value of an exponent.
    pub(super) fn public(&self, exponent: &BigNumRef) -> Result<Vec<u8>, CryptoError> {
        padded(&*self.power(&self.generator, exponent)?, self.len)
    }

    /// The shared secret (RFC 2409 section 5: padded to the prime's length). The peer's value must lie strictly between
    /// 1 and p - 1, and in the subgroup where there is a small one (RFC 6989 sections 2.1 and 2.2).
    pub(super) fn agree(&self, exponent: &BigNumRef, peer: &[u8]) -> Result<Secret, CryptoError> {
        let value = BigNum::from_slice(peer)?;
        if value.num_bits() < 2 || value > self.largest {
            return Err(CryptoError::BadPublicValue);
        }
        if let Some(subgroup) = &self.subgroup
            && self.power(&value, &subgroup.order)?.num_bits() != 1
        {
            return Err(CryptoError::BadPublicValue);
        }
        padded(&*self.power(&value, exponent)?, self.len).map(Secret::new)
    }

    /// base ^ exponent, in constant time if the exponent says so.
    fn power(&self, base: &BigNumRef, exponent: &BigNumRef) -> Result<BigNum, CryptoError> {
        let mut result = BigNum::new_secure()?;
        result.mod_exp(base, exponent, &self.prime, &mut *BigNumContext::new_secure()?)?;
        Ok(result)
    }
}
