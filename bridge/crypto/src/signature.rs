//! Signatures: RSA (RFC 8017), ECDSA as IKE carries it (RFC 4754), Ed25519 and Ed448 (RFC 8032), named as in RFC 7427.

mod algorithm;
mod ecdsa;
mod edwards;
mod key;
mod rsa;
mod signing;
mod spki;
mod verifying;

pub use algorithm::SignatureAlgorithm;
pub use ecdsa::{ecdsa_from_der, ecdsa_to_der};
use key::Key;
pub use signing::SigningKey;
pub use verifying::VerifyingKey;

use openssl::pkey::{Id, PKey, Private};
use serde::{Deserialize, Serialize};

use crate::{CryptoError, Hash};

/// Bits an RSA modulus may have. Above, verifying costs whoever checks too much.
const RSA_BITS: std::ops::RangeInclusive<u32> = 2048..=8192;

/// Most bits of an RSA public exponent: real ones have 17, and long ones make verifying slow.
const EXPONENT_BITS: i32 = 64;

/// What a signature key is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum KeyKind {
    /// RSA.
    Rsa,
    /// ECDSA on P-256.
    EcP256,
    /// ECDSA on P-384.
    EcP384,
    /// ECDSA on P-521.
    EcP521,
    /// Ed25519.
    Ed25519,
    /// Ed448.
    Ed448,
}

/// A signature algorithm with its hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum SignatureScheme {
    /// RSASSA-PKCS1-v1_5 (RFC 8017, section 8.2) with SHA-1. Only for peers that know nothing better.
    RsaPkcs1Sha1,
    /// RSASSA-PKCS1-v1_5 with SHA-256.
    RsaPkcs1Sha256,
    /// RSASSA-PKCS1-v1_5 with SHA-384.
    RsaPkcs1Sha384,
    /// RSASSA-PKCS1-v1_5 with SHA-512.
    RsaPkcs1Sha512,
    /// ECDSA on P-256 with SHA-256 (RFC 4754).
    EcdsaP256Sha256,
    /// ECDSA on P-384 with SHA-384.
    EcdsaP384Sha384,
    /// ECDSA on P-521 with SHA-512.
    EcdsaP521Sha512,
}

impl SignatureScheme {
    /// All there are.
    pub const ALL: [Self; 7] = [
        Self::RsaPkcs1Sha1,
        Self::RsaPkcs1Sha256,
        Self::RsaPkcs1Sha384,
        Self::RsaPkcs1Sha512,
        Self::EcdsaP256Sha256,
        Self::EcdsaP384Sha384,
        Self::EcdsaP521Sha512,
    ];

    /// The hash of the message that is signed.
    pub const fn hash(self) -> Hash {
        match self {
            Self::RsaPkcs1Sha1 => Hash::Sha1,
            Self::RsaPkcs1Sha256 | Self::EcdsaP256Sha256 => Hash::Sha256,
            Self::RsaPkcs1Sha384 | Self::EcdsaP384Sha384 => Hash::Sha384,
            Self::RsaPkcs1Sha512 | Self::EcdsaP521Sha512 => Hash::Sha512,
        }
    }

    /// The kind of key it takes.
    pub const fn kind(self) -> KeyKind {
        match self {
            Self::RsaPkcs1Sha1 | Self::RsaPkcs1Sha256 | Self::RsaPkcs1Sha384 | Self::RsaPkcs1Sha512 => KeyKind::Rsa,
            Self::EcdsaP256Sha256 => KeyKind::EcP256,
            Self::EcdsaP384Sha384 => KeyKind::EcP384,
            Self::EcdsaP521Sha512 => KeyKind::EcP521,
        }
    }

    /// Is it so weak that only a configuration which says so may allow it?
    pub const fn is_weak(self) -> bool {
        matches!(self, Self::RsaPkcs1Sha1)
    }

    /// The DER AlgorithmIdentifier that names the scheme (RFC 7427, appendices A.1 and A.3). An ECDSA value beside it is
    /// DER too: see [`ecdsa_to_der`].
    pub const fn algorithm_identifier(self) -> &'static [u8] {
        match self {
            // SEQUENCE { OID 1.2.840.113549.1.1.{5,11,12,13}, NULL }
            Self::RsaPkcs1Sha1 => b"\x30\x0d\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x05\x05\x00",
            Self::RsaPkcs1Sha256 => b"\x30\x0d\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x0b\x05\x00",
            Self::RsaPkcs1Sha384 => b"\x30\x0d\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x0c\x05\x00",
            Self::RsaPkcs1Sha512 => b"\x30\x0d\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x0d\x05\x00",
            // SEQUENCE { OID 1.2.840.10045.4.3.{2,3,4} }
            Self::EcdsaP256Sha256 => b"\x30\x0a\x06\x08\x2a\x86\x48\xce\x3d\x04\x03\x02",
            Self::EcdsaP384Sha384 => b"\x30\x0a\x06\x08\x2a\x86\x48\xce\x3d\x04\x03\x03",
            Self::EcdsaP521Sha512 => b"\x30\x0a\x06\x08\x2a\x86\x48\xce\x3d\x04\x03\x04",
        }
    }

    /// The scheme that a DER AlgorithmIdentifier names, if it is one of these. Of ECDSA it names the hash; the curve that
    /// goes with it here is the one of the same strength.
    pub fn from_algorithm_identifier(der: &[u8]) -> Option<Self> {
        Self::ALL.into_iter().find(|scheme| scheme.algorithm_identifier() == der)
    }
}

/// How IKEv1 makes a signature over a hash that its PRF has computed (RFC 2409 section 5.1, RFC 4754 section 3). The texts
/// can be read in more than one way, and peers do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DigestSignature {
    /// RSA with PKCS #1 padding of type 1 around the octets themselves, as RFC 2409 wants it.
    RsaRaw,
    /// RSA with PKCS #1 padding around a DigestInfo that calls the octets a value of this hash.
    RsaDigestInfo(Hash),
    /// ECDSA that takes the octets for the hash of the message.
    EcdsaDigest,
    /// ECDSA that hashes the octets again.
    EcdsaHashed(Hash),
}

/// How a peer signs in IKE.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SignatureForm {
    /// IKEv1: over a hash.
    Digest(DigestSignature),
    /// IKEv2 with a method that names kind of key and hash: ECDSA values are r and s of fixed length (RFC 4754).
    Scheme(SignatureScheme),
    /// IKEv2 with method 14: ECDSA values are DER (RFC 7427).
    Algorithm(SignatureAlgorithm),
}

/// Octets that an ECDSA key signs.
fn ecdsa_digest(how: DigestSignature, octets: &[u8]) -> Option<Vec<u8>> {
    match how {
        DigestSignature::EcdsaDigest => Some(octets.to_vec()),
        DigestSignature::EcdsaHashed(hash) => Some(hash.digest(&[octets])),
        DigestSignature::RsaRaw | DigestSignature::RsaDigestInfo(_) => None,
    }
}

const OTHER_KIND: CryptoError = CryptoError::SignatureKey("the scheme is for another kind of key");

fn check_rsa(key: &PKey<Private>) -> Result<(), CryptoError> {
    if key.id() != Id::RSA {
        return Err(CryptoError::SignatureKey("neither an RSA nor an ECDSA nor an Edwards key"));
    }
    if !RSA_BITS.contains(&key.bits()) {
        return Err(CryptoError::SignatureKey("an RSA key must have 2048 to 8192 bits"));
    }
    Ok(())
}
