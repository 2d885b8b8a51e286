//! ECDSA keys and values as octets.

use openssl::bn::{BigNum, BigNumContext, BigNumRef};
use openssl::ec::{Asn1Flag, EcGroup, EcKey, EcKeyRef, EcPoint, PointConversionForm};
use openssl::ecdsa::{EcdsaSig, EcdsaSigRef};
use openssl::nid::Nid;
use openssl::pkey::{HasPrivate, HasPublic, Public};

use super::KeyKind;
use crate::CryptoError;
use crate::der::{self, Malformed};
use crate::ke::{ecp, made};

const NOT_EC: CryptoError = CryptoError::SignatureKey("no ECDSA key");

impl KeyKind {
    fn curve(self) -> Result<Nid, CryptoError> {
        match self {
            KeyKind::Rsa | KeyKind::Ed25519 | KeyKind::Ed448 => Err(NOT_EC),
            KeyKind::EcP256 => Ok(Nid::X9_62_PRIME256V1),
            KeyKind::EcP384 => Ok(Nid::SECP384R1),
            KeyKind::EcP521 => Ok(Nid::SECP521R1),
        }
    }

    /// Octets of r and of s, and of a coordinate; zero for others.
    pub(super) const fn half(self) -> usize {
        match self {
            KeyKind::Rsa | KeyKind::Ed25519 | KeyKind::Ed448 => 0,
            KeyKind::EcP256 => 32,
            KeyKind::EcP384 => 48,
            KeyKind::EcP521 => 66,
        }
    }

    /// What stands in front of x and y in a SubjectPublicKeyInfo of this curve with an uncompressed point (RFC 5480,
    /// section 2), up to and with the octet that says so; empty for others.
    const fn spki_prefix(self) -> &'static [u8] {
        match self {
            KeyKind::Rsa | KeyKind::Ed25519 | KeyKind::Ed448 => b"",
            KeyKind::EcP256 => {
                b"\x30\x59\x30\x13\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07\x03\x42\x00\x04"
            }
            KeyKind::EcP384 => {
                b"\x30\x76\x30\x10\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x05\x2b\x81\x04\x00\x22\x03\x62\x00\x04"
            }
            KeyKind::EcP521 => {
                b"\x30\x81\x9b\x30\x10\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x05\x2b\x81\x04\x00\x23\x03\x81\x86\x00\x04"
            }
        }
    }
}

const CURVES: [KeyKind; 3] = [KeyKind::EcP256, KeyKind::EcP384, KeyKind::EcP521];

/// The curve of a key, if it is one of ours and goes by its name.
pub(super) fn kind<T: HasPublic>(key: &EcKeyRef<T>) -> Result<KeyKind, CryptoError> {
    let curve = key.group().curve_name().filter(|_| key.group().asn1_flag() == Asn1Flag::NAMED_CURVE);
    CURVES
        .into_iter()
        .find(|kind| kind.curve().ok() == curve)
        .ok_or(CryptoError::SignatureKey("an ECDSA key must be on the curve P-256, P-384 or P-521"))
}

/// The group of a kind of key, made once.
pub(super) fn group(kind: KeyKind) -> Result<&'static EcGroup, CryptoError> {
    let curve = match kind {
        KeyKind::Rsa | KeyKind::Ed25519 | KeyKind::Ed448 => return Err(NOT_EC),
        KeyKind::EcP256 => &ecp::P256,
        KeyKind::EcP384 => &ecp::P384,
        KeyKind::EcP521 => &ecp::P521,
    };
    Ok(made(curve)?.group())
}

/// The SubjectPublicKeyInfo of a key.
pub(super) fn spki<T: HasPublic>(kind: KeyKind, key: &EcKeyRef<T>) -> Result<Vec<u8>, CryptoError> {
    let form = PointConversionForm::UNCOMPRESSED;
    let point = key.public_key().to_bytes(key.group(), form, &mut *BigNumContext::new()?)?;
    let prefix = kind.spki_prefix();
    Ok([&prefix[..prefix.len().saturating_sub(1)], &point].concat())
}

/// Curve and coordinates of a SubjectPublicKeyInfo of ours.
pub(super) fn coordinates(spki: &[u8]) -> Option<(KeyKind, &[u8])> {
    CURVES.into_iter().find_map(|kind| Some((kind, spki.strip_prefix(kind.spki_prefix())?)))
}

/// The public key with these coordinates: x and y.
pub(super) fn public(kind: KeyKind, coordinates: &[u8]) -> Result<EcKey<Public>, CryptoError> {
    if coordinates.is_empty() || coordinates.len() != 2 * kind.half() {
        return Err(CryptoError::SignatureKey("not a point of the curve"));
    }
    let group = group(kind)?;
    // Fails for a point that is not on the curve; cofactor 1 makes that the whole check.
    let point = EcPoint::from_bytes(group, &[&[4], coordinates].concat(), &mut *BigNumContext::new()?)
        .map_err(|_| CryptoError::SignatureKey("not a point of the curve"))?;
    Ok(EcKey::from_public_key(group, &point)?)
}

/// r and s of fixed length, one after the other (RFC 4754 section 7).
pub(super) fn sign<T: HasPrivate>(kind: KeyKind, key: &EcKeyRef<T>, digest: &[u8]) -> Result<Vec<u8>, CryptoError> {
    fixed(kind, &*EcdsaSig::sign(digest, key)?)
}

/// Is this a signature? Whatever goes wrong means no.
pub(super) fn verify<T: HasPublic>(kind: KeyKind, key: &EcKeyRef<T>, digest: &[u8], value: &[u8]) -> bool {
    parse(kind, value).is_ok_and(|value| value.verify(digest, key).unwrap_or(false))
}

/// The same as DER.
pub(super) fn sign_der<T: HasPrivate>(key: &EcKeyRef<T>, digest: &[u8]) -> Result<Vec<u8>, CryptoError> {
    Ok(EcdsaSig::sign(digest, key)?.to_der()?)
}

/// Is this a signature, in DER? Whatever goes wrong means no.
pub(super) fn verify_der<T: HasPublic>(kind: KeyKind, key: &EcKeyRef<T>, digest: &[u8], der: &[u8]) -> bool {
    parse_der(kind, der).is_ok_and(|value| value.verify(digest, key).unwrap_or(false))
}

/// An ECDSA value of r and s as the DER that RFC 7427 and certificates carry: SEQUENCE { r INTEGER, s INTEGER }.
///
/// # Errors
/// [`CryptoError::Length`] if it has not the length of two numbers of the curve.
pub fn ecdsa_to_der(kind: KeyKind, value: &[u8]) -> Result<Vec<u8>, CryptoError> {
    Ok(parse(kind, value)?.to_der()?)
}

/// Back from DER to r and s of fixed length.
///
/// # Errors
/// [`CryptoError::Length`] if the numbers are too long for the curve, negative, or not in plain DER.
pub fn ecdsa_from_der(kind: KeyKind, der: &[u8]) -> Result<Vec<u8>, CryptoError> {
    fixed(kind, &*parse_der(kind, der)?)
}

fn parse_der(kind: KeyKind, octets: &[u8]) -> Result<EcdsaSig, CryptoError> {
    const NO_VALUE: CryptoError = CryptoError::Length("ECDSA value");
    let numbers = |octets| -> Result<_, Malformed> {
        let mut fields = der::only_sequence(octets)?;
        let (r, s) = (fields.unsigned()?, fields.unsigned()?);
        fields.end()?;
        Ok((r, s))
    };
    let (r, s) = numbers(octets).map_err(|_| NO_VALUE)?;
    if r.len().max(s.len()) > kind.half() {
        return Err(NO_VALUE);
    }
    Ok(EcdsaSig::from_private_components(BigNum::from_slice(r)?, BigNum::from_slice(s)?)?)
}

fn parse(kind: KeyKind, value: &[u8]) -> Result<EcdsaSig, CryptoError> {
    if value.is_empty() || value.len() != 2 * kind.half() {
        return Err(CryptoError::Length("ECDSA value"));
    }
    let (r, s) = value.split_at(kind.half());
    Ok(EcdsaSig::from_private_components(BigNum::from_slice(r)?, BigNum::from_slice(s)?)?)
}

fn fixed(kind: KeyKind, value: &EcdsaSigRef) -> Result<Vec<u8>, CryptoError> {
    let half = i32::try_from(kind.half()).map_err(|_| CryptoError::Length("ECDSA value"))?;
    let padded = |number: &BigNumRef| number.to_vec_padded(half).map_err(|_| CryptoError::Length("ECDSA value"));
    Ok([padded(value.r())?, padded(value.s())?].concat())
}
