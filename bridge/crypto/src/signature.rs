//! RSA signatures (RFC 8017, section 8.2), named as in RFC 7427.

use std::fmt;

use openssl::hash::MessageDigest;
use openssl::pkey::{Id, PKey, Private, Public};
use openssl::rsa::Rsa;
use openssl::sign::{Signer, Verifier};

use crate::{CryptoError, Hash, Secret};

/// Bits an RSA modulus may have. Above, verifying costs whoever checks too much.
const RSA_BITS: std::ops::RangeInclusive<u32> = 2048..=8192;

/// Most bits of an RSA public exponent: real ones have 17, and long ones make verifying slow.
const EXPONENT_BITS: i32 = 64;

/// A signature algorithm with its hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum SignatureScheme {
    /// RSASSA-PKCS1-v1_5 (RFC 8017, section 8.2) with SHA-256.
    RsaPkcs1Sha256,
    /// RSASSA-PKCS1-v1_5 with SHA-384.
    RsaPkcs1Sha384,
    /// RSASSA-PKCS1-v1_5 with SHA-512.
    RsaPkcs1Sha512,
}

impl SignatureScheme {
    const ALL: [Self; 3] = [Self::RsaPkcs1Sha256, Self::RsaPkcs1Sha384, Self::RsaPkcs1Sha512];

    /// The hash of the message that is signed.
    pub const fn hash(self) -> Hash {
        match self {
            Self::RsaPkcs1Sha256 => Hash::Sha256,
            Self::RsaPkcs1Sha384 => Hash::Sha384,
            Self::RsaPkcs1Sha512 => Hash::Sha512,
        }
    }

    /// The DER AlgorithmIdentifier that names the scheme (RFC 7427, appendix A.1).
    pub const fn algorithm_identifier(self) -> &'static [u8] {
        // SEQUENCE { OID 1.2.840.113549.1.1.{11,12,13}, NULL }
        match self {
            Self::RsaPkcs1Sha256 => b"\x30\x0d\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x0b\x05\x00",
            Self::RsaPkcs1Sha384 => b"\x30\x0d\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x0c\x05\x00",
            Self::RsaPkcs1Sha512 => b"\x30\x0d\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x0d\x05\x00",
        }
    }

    /// The scheme that a DER AlgorithmIdentifier names, if it is one of these.
    pub fn from_algorithm_identifier(der: &[u8]) -> Option<Self> {
        Self::ALL.into_iter().find(|scheme| scheme.algorithm_identifier() == der)
    }

    fn digest(self) -> MessageDigest {
        match self {
            Self::RsaPkcs1Sha256 => MessageDigest::sha256(),
            Self::RsaPkcs1Sha384 => MessageDigest::sha384(),
            Self::RsaPkcs1Sha512 => MessageDigest::sha512(),
        }
    }
}

/// A private RSA key with which a key server signs its rekey messages.
pub struct SigningKey {
    key: PKey<Private>,
    pem: Secret,
    spki: Vec<u8>,
}

impl SigningKey {
    /// Makes a new key of 2048 to 8192 bits. The primes come from OpenSSL's own generator.
    ///
    /// # Errors
    ///
    /// [`CryptoError::SignatureKey`] for another size; [`CryptoError::OpenSsl`].
    pub fn generate_rsa(bits: u32) -> Result<Self, CryptoError> {
        if !RSA_BITS.contains(&bits) {
            return Err(CryptoError::SignatureKey("an RSA key must have 2048 to 8192 bits"));
        }
        Self::new(PKey::from_rsa(Rsa::generate(bits)?)?)
    }

    /// Reads an unencrypted PEM, PKCS #8 or PKCS #1.
    ///
    /// # Errors
    ///
    /// [`CryptoError::SignatureKey`] if it is none, is encrypted, or is not a consistent RSA key of 2048 to 8192 bits.
    pub fn from_pem(pem: &[u8]) -> Result<Self, CryptoError> {
        // An empty passphrase by callback: without one OpenSSL would ask at the terminal.
        let key = PKey::private_key_from_pem_callback(pem, |_| Ok(0))
            .map_err(|_| CryptoError::SignatureKey("no unencrypted private key in PEM"))?;
        check_rsa(&key)?;
        if !key.rsa()?.check_key().unwrap_or(false) {
            return Err(CryptoError::SignatureKey("the parts of the RSA key do not fit together"));
        }
        Self::new(key)
    }

    fn new(key: PKey<Private>) -> Result<Self, CryptoError> {
        let pem = Secret::new(key.private_key_to_pem_pkcs8()?);
        let spki = key.public_key_to_der()?;
        Ok(Self { key, pem, spki })
    }

    /// The key as unencrypted PEM (PKCS #8).
    pub fn to_pem(&self) -> Secret {
        self.pem.duplicate()
    }

    /// The public key as DER SubjectPublicKeyInfo (RFC 5280, section 4.1).
    pub fn public_spki(&self) -> Vec<u8> {
        self.spki.clone()
    }

    /// Octets of a signature: those of the modulus.
    pub fn signature_len(&self) -> usize {
        self.key.size()
    }

    /// Signs the parts, one after the other.
    ///
    /// # Errors
    ///
    /// [`CryptoError::OpenSsl`].
    pub fn sign(&self, scheme: SignatureScheme, parts: &[&[u8]]) -> Result<Vec<u8>, CryptoError> {
        let mut signer = Signer::new(scheme.digest(), &self.key)?;
        for part in parts {
            signer.update(part)?;
        }
        Ok(signer.sign_to_vec()?)
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey(RSA, {} bits)", self.key.bits())
    }
}

/// A public RSA key with which a member checks rekey messages.
pub struct VerifyingKey {
    key: PKey<Public>,
    spki: Vec<u8>,
}

impl VerifyingKey {
    /// Reads a DER SubjectPublicKeyInfo (RFC 5280, section 4.1), as a peer sent it.
    ///
    /// # Errors
    ///
    /// [`CryptoError::SignatureKey`] unless it is exactly one RSA key in DER, of 2048 to 8192 bits, with an odd
    /// exponent of 2 to 64 bits.
    pub fn from_spki(spki: &[u8]) -> Result<Self, CryptoError> {
        let key = PKey::public_key_from_der(spki)
            .map_err(|_| CryptoError::SignatureKey("no SubjectPublicKeyInfo of a known algorithm"))?;
        check_rsa(&key)?;
        if key.public_key_to_der()? != spki {
            return Err(CryptoError::SignatureKey("the SubjectPublicKeyInfo is not plain DER"));
        }
        let rsa = key.rsa()?;
        if !rsa.e().is_odd() || !(2..=EXPONENT_BITS).contains(&rsa.e().num_bits()) {
            return Err(CryptoError::SignatureKey("the RSA exponent is unreasonable"));
        }
        if !rsa.n().is_odd() {
            return Err(CryptoError::SignatureKey("the RSA modulus is even"));
        }
        Ok(Self { key, spki: spki.to_vec() })
    }

    /// The key as it was read.
    pub fn spki(&self) -> &[u8] {
        &self.spki
    }

    /// Octets of a signature: those of the modulus.
    pub fn signature_len(&self) -> usize {
        self.key.size()
    }

    /// Whether `sig` is a signature of the parts, one after the other. Whatever goes wrong means no.
    pub fn verify(&self, scheme: SignatureScheme, parts: &[&[u8]], sig: &[u8]) -> bool {
        let check = || {
            let mut verifier = Verifier::new(scheme.digest(), &self.key)?;
            for part in parts {
                verifier.update(part)?;
            }
            verifier.verify(sig)
        };
        sig.len() == self.signature_len() && check().unwrap_or(false)
    }
}

impl fmt::Debug for VerifyingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "VerifyingKey(RSA, {} bits)", self.key.bits())
    }
}

fn check_rsa<T: openssl::pkey::HasPublic>(key: &PKey<T>) -> Result<(), CryptoError> {
    if key.id() != Id::RSA {
        return Err(CryptoError::SignatureKey("not an RSA key"));
    }
    if !RSA_BITS.contains(&key.bits()) {
        return Err(CryptoError::SignatureKey("an RSA key must have 2048 to 8192 bits"));
    }
    Ok(())
}
