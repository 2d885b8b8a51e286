//! Public keys.

use std::fmt;

use openssl::bn::BigNum;
use openssl::pkey::Public;
use openssl::rsa::Rsa;

use super::{
    DigestSignature, EXPONENT_BITS, Key, KeyKind, RSA_BITS, SignatureAlgorithm, SignatureForm, SignatureScheme, ecdsa,
    ecdsa_digest, edwards, rsa,
};
use crate::CryptoError;
use crate::der::{self, tag};

/// A public key with which signatures are checked.
pub struct VerifyingKey {
    key: Key<Public>,
    spki: Vec<u8>,
}

impl VerifyingKey {
    /// Reads a DER SubjectPublicKeyInfo (RFC 5280, section 4.1), as a peer sent it.
    ///
    /// # Errors
    ///
    /// [`CryptoError::SignatureKey`] unless it is exactly one key in DER: RSA of 2048 to 8192 bits with an odd exponent of
    /// 2 to 64 bits, an uncompressed point of P-256, P-384 or P-521 (RFC 5480), Ed25519 or Ed448 (RFC 8410).
    pub fn from_spki(spki: &[u8]) -> Result<Self, CryptoError> {
        if let Some((kind, coordinates)) = ecdsa::coordinates(spki) {
            let key = Key::Ec(kind, ecdsa::public(kind, coordinates)?);
            return Ok(Self { key, spki: spki.to_vec() });
        }
        if let Some(key) = edwards::public(spki) {
            let (kind, key) = key?;
            return Ok(Self { key: Key::Edwards(kind, key), spki: spki.to_vec() });
        }
        let mut fields = der::only_sequence(spki)?;
        if fields.whole_sequence()? != RSA_ENCRYPTION {
            return Err(CryptoError::SignatureKey("neither RSA, ECDSA on P-256, P-384 or P-521, Ed25519 nor Ed448"));
        }
        let key = rsa_public(fields.octet_bits()?)?;
        fields.end()?;
        Ok(Self { key: Key::Rsa(key), spki: spki.to_vec() })
    }

    /// Reads a DER RSAPublicKey (RFC 8017, appendix A.1.1), as some key servers send it.
    ///
    /// # Errors
    ///
    /// [`CryptoError::SignatureKey`] unless it is exactly one, with the bounds of [`from_spki`](Self::from_spki).
    pub fn from_pkcs1_der(octets: &[u8]) -> Result<Self, CryptoError> {
        let key = Key::Rsa(rsa_public(octets)?);
        let bits = der::encode(tag::BIT_STRING, &[&[0], octets]);
        Ok(Self { key, spki: der::encode(tag::SEQUENCE, &[RSA_ENCRYPTION, &bits]) })
    }

    /// Makes a key of a point of a curve: x and y, with the octet 4 in front or without it.
    ///
    /// # Errors
    ///
    /// [`CryptoError::SignatureKey`] if it is no such point, or for kinds without a curve of ECDSA.
    pub fn from_ec_point(kind: KeyKind, point: &[u8]) -> Result<Self, CryptoError> {
        let coordinates = match point {
            [4, rest @ ..] if rest.len() == 2 * kind.half() => rest,
            all => all,
        };
        let key = ecdsa::public(kind, coordinates)?;
        let spki = ecdsa::spki(kind, &key)?;
        Ok(Self { key: Key::Ec(kind, key), spki })
    }

    /// The key as SubjectPublicKeyInfo.
    pub fn spki(&self) -> &[u8] {
        &self.spki
    }

    /// What it is for.
    pub fn kind(&self) -> KeyKind {
        self.key.kind()
    }

    /// Octets of a signature: those of the RSA modulus, or of both halves.
    pub fn signature_len(&self) -> usize {
        self.key.signature_len()
    }

    /// Whether `sig` is a signature of the parts, one after the other. Whatever goes wrong means no.
    pub fn verify(&self, scheme: SignatureScheme, parts: &[&[u8]], sig: &[u8]) -> bool {
        if sig.len() != self.signature_len() || scheme.kind() != self.kind() {
            return false;
        }
        match &self.key {
            Key::Rsa(key) => {
                let hash = scheme.hash();
                rsa::verify(key, rsa::Encoding::Pkcs1(hash), &hash.digest(parts), sig)
            }
            Key::Ec(kind, key) => ecdsa::verify(*kind, key, &scheme.hash().digest(parts), sig),
            // No scheme is of its kind.
            Key::Edwards(..) => false,
        }
    }

    /// Whether `sig` is a signature by an algorithm as its AlgorithmIdentifier names it: ECDSA values are DER, and any curve
    /// goes with any hash. Whatever goes wrong means no.
    pub fn verify_named(&self, algorithm: SignatureAlgorithm, content: &[u8], sig: &[u8]) -> bool {
        match (&self.key, algorithm) {
            (Key::Rsa(key), algorithm) => rsa::Encoding::of_named(algorithm)
                .is_some_and(|(encoding, hash)| rsa::verify(key, encoding, &hash.digest(&[content]), sig)),
            (Key::Ec(kind, key), SignatureAlgorithm::Ecdsa(hash)) => {
                ecdsa::verify_der(*kind, key, &hash.digest(&[content]), sig)
            }
            (Key::Edwards(kind, key), algorithm) => {
                algorithm.is_for(*kind) && sig.len() == self.signature_len() && edwards::verify(key, content, sig)
            }
            _ => false,
        }
    }

    /// Whether `sig` is a signature in a form of IKE. Whatever goes wrong means no.
    pub fn verify_form(&self, form: SignatureForm, octets: &[u8], sig: &[u8]) -> bool {
        match form {
            SignatureForm::Digest(how) => self.verify_digest(how, octets, sig),
            SignatureForm::Scheme(scheme) => self.verify(scheme, &[octets], sig),
            SignatureForm::Algorithm(algorithm) => self.verify_named(algorithm, octets, sig),
        }
    }

    /// Whether `sig` is a signature of a hash, made the way IKEv1 does. Whatever goes wrong means no.
    pub fn verify_digest(&self, how: DigestSignature, octets: &[u8], sig: &[u8]) -> bool {
        if sig.len() != self.signature_len() {
            return false;
        }
        match &self.key {
            Key::Rsa(key) => rsa::Encoding::of_digest(how).is_some_and(|e| rsa::verify(key, e, octets, sig)),
            Key::Ec(kind, key) => {
                ecdsa_digest(how, octets).is_some_and(|digest| ecdsa::verify(*kind, key, &digest, sig))
            }
            Key::Edwards(..) => false,
        }
    }
}

/// AlgorithmIdentifier of RSA keys: SEQUENCE { OID 1.2.840.113549.1.1.1, NULL }.
const RSA_ENCRYPTION: &[u8] = b"\x30\x0d\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x01\x05\x00";

/// RSAPublicKey ::= SEQUENCE { modulus INTEGER, publicExponent INTEGER }
fn rsa_public(octets: &[u8]) -> Result<Rsa<Public>, CryptoError> {
    let mut fields = der::only_sequence(octets)?;
    let (n, e) = (BigNum::from_slice(fields.unsigned()?)?, BigNum::from_slice(fields.unsigned()?)?);
    fields.end()?;
    if !u32::try_from(n.num_bits()).is_ok_and(|bits| RSA_BITS.contains(&bits)) {
        return Err(CryptoError::SignatureKey("an RSA key must have 2048 to 8192 bits"));
    }
    if !e.is_odd() || !(2..=EXPONENT_BITS).contains(&e.num_bits()) {
        return Err(CryptoError::SignatureKey("the RSA exponent is unreasonable"));
    }
    if !n.is_odd() {
        return Err(CryptoError::SignatureKey("the RSA modulus is even"));
    }
    Ok(Rsa::from_public_components(n, e)?)
}

impl fmt::Debug for VerifyingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.key {
            Key::Rsa(key) => write!(f, "VerifyingKey(RSA, {} bits)", key.n().num_bits()),
            Key::Ec(kind, _) | Key::Edwards(kind, _) => write!(f, "VerifyingKey({kind:?})"),
        }
    }
}
