//! AES-GCM with 16 octets of tag (RFC 4106, RFC 5282).

use serde::{Deserialize, Serialize};
use std::sync::{Mutex, TryLockError};

use openssl::cipher::{Cipher, CipherRef};
use openssl::cipher_ctx::CipherCtx;
use zeroize::Zeroize;

use crate::error::CryptoError;
use crate::secret::Secret;

/// An AEAD algorithm.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Aead {
    /// AES-128-GCM, 16 octets of tag.
    Aes128Gcm16,
    /// AES-192-GCM, 16 octets of tag.
    Aes192Gcm16,
    /// AES-256-GCM, 16 octets of tag.
    Aes256Gcm16,
}

impl Aead {
    /// Octets of salt that follow the key in keying material.
    pub const SALT: usize = 4;
    /// Octets of explicit IV in a message.
    pub const IV: usize = 8;
    /// Octets of nonce: salt and IV.
    pub const NONCE: usize = 12;
    /// Octets of tag.
    pub const ICV: usize = 16;

    /// Octets of key, without the salt.
    #[must_use]
    pub fn key_len(self) -> usize {
        match self {
            Aead::Aes128Gcm16 => 16,
            Aead::Aes192Gcm16 => 24,
            Aead::Aes256Gcm16 => 32,
        }
    }

    fn openssl(self) -> &'static CipherRef {
        match self {
            Aead::Aes128Gcm16 => Cipher::aes_128_gcm(),
            Aead::Aes192Gcm16 => Cipher::aes_192_gcm(),
            Aead::Aes256Gcm16 => Cipher::aes_256_gcm(),
        }
    }
}

/// An AEAD with its key, prepared once for many messages.
///
/// Contexts with the expanded key are kept for one user at a time; a second one at the same moment expands it anew.
pub struct AeadKey {
    algorithm: Aead,
    key: Secret,
    sealer: Mutex<CipherCtx>,
    opener: Mutex<CipherCtx>,
}

impl AeadKey {
    /// Prepares a key, without salt.
    ///
    /// # Errors
    /// A wrong key length.
    pub fn new(algorithm: Aead, key: &[u8]) -> Result<Self, CryptoError> {
        if key.len() != algorithm.key_len() {
            return Err(CryptoError::Length("key"));
        }
        let sealer = Mutex::new(sealer(algorithm, key)?);
        let opener = Mutex::new(opener(algorithm, key)?);
        Ok(Self { algorithm, key: Secret::copy_from(key), sealer, opener })
    }

    /// The algorithm.
    #[must_use]
    pub fn algorithm(&self) -> Aead {
        self.algorithm
    }

    /// Encrypts in place and writes the tag. The caller answers for the nonce: never twice under this key.
    ///
    /// # Errors
    /// OpenSSL refused.
    pub fn seal(
        &self,
        nonce: &[u8; Aead::NONCE],
        aad: &[u8],
        data: &mut [u8],
        tag: &mut [u8; Aead::ICV],
    ) -> Result<(), CryptoError> {
        let run = |ctx: &mut CipherCtx| {
            ctx.encrypt_init(None, None, Some(nonce))?;
            update(ctx, aad, data)?;
            ctx.cipher_final(&mut [])?;
            ctx.tag(tag)?;
            Ok(())
        };
        with(&self.sealer, || sealer(self.algorithm, self.key.expose()), run)
    }

    /// Decrypts in place. If the tag does not verify, `data` is zeroed.
    ///
    /// # Errors
    /// [`CryptoError::Unauthentic`], or OpenSSL refused.
    pub fn open(
        &self,
        nonce: &[u8; Aead::NONCE],
        aad: &[u8],
        data: &mut [u8],
        tag: &[u8; Aead::ICV],
    ) -> Result<(), CryptoError> {
        let run = |ctx: &mut CipherCtx| {
            ctx.decrypt_init(None, None, Some(nonce))?;
            ctx.set_tag(tag)?;
            update(ctx, aad, data)?;
            ctx.cipher_final(&mut []).map_err(|_| CryptoError::Unauthentic)?;
            Ok(())
        };
        let opened = with(&self.opener, || opener(self.algorithm, self.key.expose()), run);
        if opened.is_err() {
            data.zeroize();
        }
        opened
    }
}

impl std::fmt::Debug for AeadKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "AeadKey({:?})", self.algorithm)
    }
}

fn sealer(algorithm: Aead, key: &[u8]) -> Result<CipherCtx, CryptoError> {
    let mut ctx = CipherCtx::new()?;
    ctx.encrypt_init(Some(algorithm.openssl()), Some(key), None)?;
    Ok(ctx)
}

fn opener(algorithm: Aead, key: &[u8]) -> Result<CipherCtx, CryptoError> {
    let mut ctx = CipherCtx::new()?;
    ctx.decrypt_init(Some(algorithm.openssl()), Some(key), None)?;
    Ok(ctx)
}

fn update(ctx: &mut CipherCtx, aad: &[u8], data: &mut [u8]) -> Result<(), CryptoError> {
    if !aad.is_empty() {
        ctx.cipher_update(aad, None)?;
    }
    let len = data.len();
    if len > 0 {
        ctx.cipher_update_inplace(data, len)?;
    }
    Ok(())
}

/// Runs with the kept context if it is free (and no panic left it half done), otherwise with a fresh one.
fn with(
    kept: &Mutex<CipherCtx>,
    fresh: impl FnOnce() -> Result<CipherCtx, CryptoError>,
    run: impl FnOnce(&mut CipherCtx) -> Result<(), CryptoError>,
) -> Result<(), CryptoError> {
    match kept.try_lock() {
        Ok(mut ctx) => run(&mut ctx),
        Err(TryLockError::WouldBlock | TryLockError::Poisoned(_)) => run(&mut fresh()?),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn hex(s: &str) -> Vec<u8> {
        hex::decode(s).unwrap()
    }

    /// Test case 4 of McGrew and Viega, "The Galois/Counter Mode of Operation", appendix B.
    #[test]
    fn gcm_test_case_4() {
        let key = AeadKey::new(Aead::Aes128Gcm16, &hex("feffe9928665731c6d6a8f9467308308")).unwrap();
        let nonce: [u8; 12] = hex("cafebabefacedbaddecaf888").try_into().unwrap();
        let aad = hex("feedfacedeadbeeffeedfacedeadbeefabaddad2");
        let plain = hex(
            "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a721c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b39",
        );
        let mut data = plain.clone();
        let mut tag = [0; 16];
        key.seal(&nonce, &aad, &mut data, &mut tag).unwrap();
        assert_eq!(
            hex::encode(&data),
            "42831ec2217774244b7221b784d0d49ce3aa212f2c02a4e035c17e2329aca12e21d514b25466931c7d8f6a5aac84aa051ba30b396a0aac973d58e091"
        );
        assert_eq!(hex::encode(tag), "5bc94fbc3221a5db94fae95ae7121a47");
        key.open(&nonce, &aad, &mut data, &tag).unwrap();
        assert_eq!(data, plain);
    }

    #[test]
    fn a_forgery_leaves_no_plaintext_and_the_key_still_works() {
        for alg in [Aead::Aes128Gcm16, Aead::Aes192Gcm16, Aead::Aes256Gcm16] {
            let key = AeadKey::new(alg, &vec![9; alg.key_len()]).unwrap();
            let mut sealed = b"attack at dawn".to_vec();
            let mut tag = [0; 16];
            key.seal(&[1; 12], b"aad", &mut sealed, &mut tag).unwrap();
            let mut forged = sealed.clone();
            forged[3] ^= 1;
            assert!(matches!(key.open(&[1; 12], b"aad", &mut forged, &tag), Err(CryptoError::Unauthentic)));
            assert_eq!(forged, vec![0; 14]);
            assert!(key.open(&[1; 12], b"add", &mut sealed.clone(), &tag).is_err());
            assert!(key.open(&[2; 12], b"aad", &mut sealed.clone(), &tag).is_err());
            key.open(&[1; 12], b"aad", &mut sealed, &tag).unwrap();
            assert_eq!(sealed, b"attack at dawn");
            assert!(AeadKey::new(alg, &[0; 7]).is_err());
        }
    }

    #[test]
    fn empty_data_has_a_tag() {
        let key = AeadKey::new(Aead::Aes256Gcm16, &[0; 32]).unwrap();
        let mut tag = [0; 16];
        key.seal(&[0; 12], &[], &mut [], &mut tag).unwrap();
        // Test case 13 of the same paper.
        assert_eq!(hex::encode(tag), "530f8afbc74536b9a963b4f1c4cb738b");
        key.open(&[0; 12], &[], &mut [], &tag).unwrap();
    }
}
