//! Private keys.

use std::fmt;

use openssl::ec::EcKey;
use openssl::pkey::{Id, PKey, Private};
use openssl::rsa::Rsa;

use super::{
    DigestSignature, Key, KeyKind, OTHER_KIND, RSA_BITS, SignatureAlgorithm, SignatureForm, SignatureScheme, check_rsa,
    ecdsa, ecdsa_digest, edwards, rsa,
};
use crate::{CryptoError, Secret};

/// A private key: a key server's for its rekey messages, or anybody's for phase 1.
pub struct SigningKey {
    key: Key<Private>,
    pem: Secret,
    pub(super) spki: Vec<u8>,
}

impl SigningKey {
    /// Makes a new RSA key of 2048 to 8192 bits. The primes come from OpenSSL's own generator.
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

    /// Makes a new ECDSA key, with OpenSSL's own generator.
    ///
    /// # Errors
    ///
    /// [`CryptoError::SignatureKey`] for other kinds; [`CryptoError::OpenSsl`].
    pub fn generate_ec(kind: KeyKind) -> Result<Self, CryptoError> {
        Self::new(PKey::from_ec_key(EcKey::generate(ecdsa::group(kind)?)?)?)
    }

    /// Makes a new Ed25519 or Ed448 key, with OpenSSL's own generator.
    ///
    /// # Errors
    ///
    /// [`CryptoError::SignatureKey`] for other kinds; [`CryptoError::OpenSsl`].
    pub fn generate_edwards(kind: KeyKind) -> Result<Self, CryptoError> {
        Self::new(edwards::generate(kind)?)
    }

    /// Reads an unencrypted PEM: PKCS #8, PKCS #1, or an EC key by itself (RFC 5915).
    ///
    /// # Errors
    ///
    /// [`CryptoError::SignatureKey`] if it is none, is encrypted, or is not a consistent RSA key of 2048 to 8192 bits,
    /// ECDSA key on P-256, P-384 or P-521, Ed25519 or Ed448 key.
    pub fn from_pem(pem: &[u8]) -> Result<Self, CryptoError> {
        // An empty passphrase by callback: without one OpenSSL would ask at the terminal.
        let key = PKey::private_key_from_pem_callback(pem, |_| Ok(0))
            .map_err(|_| CryptoError::SignatureKey("no unencrypted private key in PEM"))?;
        if key.id() == Id::EC {
            key.ec_key()?
                .check_key()
                .map_err(|_| CryptoError::SignatureKey("the parts of the ECDSA key do not fit together"))?;
        } else if edwards::kind(&key).is_none() {
            check_rsa(&key)?;
            if !key.rsa()?.check_key().unwrap_or(false) {
                return Err(CryptoError::SignatureKey("the parts of the RSA key do not fit together"));
            }
        }
        Self::new(key)
    }

    fn new(key: PKey<Private>) -> Result<Self, CryptoError> {
        let pem = Secret::new(key.private_key_to_pem_pkcs8()?);
        if let Some(kind) = edwards::kind(&key) {
            let spki = key.public_key_to_der()?;
            return Ok(Self { key: Key::Edwards(kind, key), pem, spki });
        }
        if key.id() != Id::EC {
            let spki = key.public_key_to_der()?;
            return Ok(Self { key: Key::Rsa(key.rsa()?), pem, spki });
        }
        let key = key.ec_key()?;
        let kind = ecdsa::kind(&key)?;
        let spki = ecdsa::spki(kind, &key)?;
        Ok(Self { key: Key::Ec(kind, key), pem, spki })
    }

    /// The key as unencrypted PEM (PKCS #8).
    pub fn to_pem(&self) -> Secret {
        self.pem.duplicate()
    }

    /// The public key as DER SubjectPublicKeyInfo (RFC 5280, section 4.1).
    pub fn public_spki(&self) -> Vec<u8> {
        self.spki.clone()
    }

    /// What it is for.
    pub fn kind(&self) -> KeyKind {
        self.key.kind()
    }

    /// Octets of a signature: those of the RSA modulus, or of both halves.
    pub fn signature_len(&self) -> usize {
        self.key.signature_len()
    }

    /// Signs the parts, one after the other. ECDSA gives r and s of fixed length (RFC 4754 section 7) and draws a number
    /// from OpenSSL's generator, so that no two signatures are the same; RSA's are.
    ///
    /// # Errors
    ///
    /// [`CryptoError::SignatureKey`] if the scheme is for another kind of key; [`CryptoError::OpenSsl`].
    pub fn sign(&self, scheme: SignatureScheme, parts: &[&[u8]]) -> Result<Vec<u8>, CryptoError> {
        if scheme.kind() != self.kind() {
            return Err(OTHER_KIND);
        }
        match &self.key {
            Key::Rsa(key) => {
                let hash = scheme.hash();
                rsa::sign(key, rsa::Encoding::Pkcs1(hash), &hash.digest(parts))
            }
            Key::Ec(kind, key) => ecdsa::sign(*kind, key, &scheme.hash().digest(parts)),
            // No scheme is of its kind.
            Key::Edwards(..) => Err(OTHER_KIND),
        }
    }

    /// Signs as the algorithm says that an AlgorithmIdentifier names; ECDSA values are DER.
    ///
    /// # Errors
    ///
    /// [`CryptoError::SignatureKey`] if the algorithm is for another kind of key; [`CryptoError::OpenSsl`].
    pub fn sign_named(&self, algorithm: SignatureAlgorithm, octets: &[u8]) -> Result<Vec<u8>, CryptoError> {
        match (&self.key, algorithm) {
            (Key::Rsa(key), algorithm) => {
                let (encoding, hash) = rsa::Encoding::of_named(algorithm).ok_or(OTHER_KIND)?;
                rsa::sign(key, encoding, &hash.digest(&[octets]))
            }
            (Key::Ec(_, key), SignatureAlgorithm::Ecdsa(hash)) => ecdsa::sign_der(key, &hash.digest(&[octets])),
            (Key::Edwards(kind, key), algorithm) if algorithm.is_for(*kind) => edwards::sign(key, octets),
            _ => Err(OTHER_KIND),
        }
    }

    /// Signs in a form of IKE.
    ///
    /// # Errors
    ///
    /// [`CryptoError::SignatureKey`] if the form is for another kind of key; [`CryptoError::OpenSsl`].
    pub fn sign_form(&self, form: SignatureForm, octets: &[u8]) -> Result<Vec<u8>, CryptoError> {
        match form {
            SignatureForm::Digest(how) => self.sign_digest(how, octets),
            SignatureForm::Scheme(scheme) => self.sign(scheme, &[octets]),
            SignatureForm::Algorithm(algorithm) => self.sign_named(algorithm, octets),
        }
    }

    /// Signs a hash the way IKEv1 does.
    ///
    /// # Errors
    ///
    /// [`CryptoError::SignatureKey`] if the way is for another kind of key, or the octets have not the length of the hash that
    /// they are called; [`CryptoError::OpenSsl`].
    pub fn sign_digest(&self, how: DigestSignature, octets: &[u8]) -> Result<Vec<u8>, CryptoError> {
        match &self.key {
            Key::Rsa(key) => rsa::sign(key, rsa::Encoding::of_digest(how).ok_or(OTHER_KIND)?, octets),
            Key::Ec(kind, key) => ecdsa::sign(*kind, key, &ecdsa_digest(how, octets).ok_or(OTHER_KIND)?),
            Key::Edwards(..) => Err(OTHER_KIND),
        }
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.key {
            Key::Rsa(key) => write!(f, "SigningKey(RSA, {} bits)", key.n().num_bits()),
            Key::Ec(kind, _) | Key::Edwards(kind, _) => write!(f, "SigningKey({kind:?})"),
        }
    }
}
