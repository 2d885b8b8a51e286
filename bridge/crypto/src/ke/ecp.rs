//! Scalar multiplication on the curves of NIST and Brainpool.
//!
//! Points are multiplied directly: EC keys of OpenSSL check what they are given several times over, each time for the
//! price of a multiplication, where the cofactor of 1 makes lying on the curve the whole check (RFC 6989 section 2.3).

use std::sync::LazyLock;

use openssl::bn::{BigNum, BigNumContext, BigNumRef};
use openssl::ec::{EcGroup, EcGroupRef, EcPoint, PointConversionForm};
use openssl::error::ErrorStack;
use openssl::nid::Nid;

use super::{Made, padded};
use crate::error::CryptoError;
use crate::secret::Secret;

/// A curve, made once.
pub(crate) struct Curve {
    group: EcGroup,
    largest_private: BigNum,
    /// Octets of a coordinate.
    half: usize,
}

pub(crate) static P256: Made<Curve> = LazyLock::new(|| Curve::new(32, Nid::X9_62_PRIME256V1));
pub(crate) static P384: Made<Curve> = LazyLock::new(|| Curve::new(48, Nid::SECP384R1));
pub(crate) static P521: Made<Curve> = LazyLock::new(|| Curve::new(66, Nid::SECP521R1));
pub(super) static BRAINPOOL_P224R1: Made<Curve> = LazyLock::new(|| Curve::new(28, Nid::BRAINPOOL_P224R1));
pub(super) static BRAINPOOL_P256R1: Made<Curve> = LazyLock::new(|| Curve::new(32, Nid::BRAINPOOL_P256R1));
pub(super) static BRAINPOOL_P384R1: Made<Curve> = LazyLock::new(|| Curve::new(48, Nid::BRAINPOOL_P384R1));
pub(super) static BRAINPOOL_P512R1: Made<Curve> = LazyLock::new(|| Curve::new(64, Nid::BRAINPOOL_P512R1));

impl Curve {
    fn new(half: usize, nid: Nid) -> Result<Self, ErrorStack> {
        let group = EcGroup::from_curve_name(nid)?;
        let mut largest_private = BigNum::new()?;
        group.order(&mut largest_private, &mut *BigNumContext::new()?)?;
        largest_private.sub_word(1)?;
        Ok(Self { group, largest_private, half })
    }

    pub(crate) fn group(&self) -> &EcGroup {
        &self.group
    }

    /// The order less one.
    pub(super) fn largest_private(&self) -> &BigNumRef {
        &self.largest_private
    }

    /// The public value of a scalar: x and y (RFC 5903 section 7, RFC 6954 section 2).
    pub(super) fn public(&self, scalar: &BigNumRef) -> Result<Vec<u8>, CryptoError> {
        if scalar.num_bits() == 0 || *scalar > *self.largest_private {
            return Err(CryptoError::BadKey("not a scalar of the curve"));
        }
        let mut ctx = BigNumContext::new_secure()?;
        let mut point = EcPoint::new(&self.group)?;
        point.mul_generator2(&self.group, scalar, &mut ctx)?;
        let mut octets = point.to_bytes(&self.group, PointConversionForm::UNCOMPRESSED, &mut ctx)?;
        octets.remove(0);
        Ok(octets)
    }

    /// The shared secret: x.
    pub(super) fn agree(&self, scalar: &BigNumRef, peer: &[u8]) -> Result<Secret, CryptoError> {
        let mut ctx = BigNumContext::new_secure()?;
        let uncompressed = [&[4], peer].concat();
        // Refuses coordinates beyond the prime, and points that are not on the curve.
        let peer =
            EcPoint::from_bytes(&self.group, &uncompressed, &mut ctx).map_err(|_| CryptoError::BadPublicValue)?;
        let mut point = EcPoint::new(&self.group)?;
        point.mul2(&self.group, &peer, scalar, &mut ctx)?;
        let (mut x, mut y) = (BigNum::new_secure()?, BigNum::new_secure()?);
        let told = point.affine_coordinates(&self.group, &mut x, &mut y, &mut ctx);
        overwrite(&mut point, &self.group, &mut ctx)?;
        told?;
        padded(&x, self.half).map(Secret::new)
    }
}

/// Puts a point that everybody knows over one that is secret, which would be left behind in freed memory.
fn overwrite(point: &mut EcPoint, group: &EcGroupRef, ctx: &mut BigNumContext) -> Result<(), ErrorStack> {
    let generator = group.generator_opt().ok_or_else(ErrorStack::get)?;
    point.add(group, generator, generator, ctx)
}
