//! AEAD: AES-GCM (RFC 4106), AES-CCM (RFC 4309) and ChaCha20-Poly1305 (RFC 7634), in IKE as RFC 5282 says.
//!
//! All of them have a nonce of a salt, which belongs to the keying material, and an explicit IV of 8 octets.

use serde::{Deserialize, Serialize};
use std::sync::{Mutex, TryLockError};

use openssl::cipher::{Cipher, CipherRef};
use openssl::cipher_ctx::CipherCtx;
use zeroize::Zeroize;

use crate::error::CryptoError;
use crate::secret::Secret;

/// An AEAD algorithm. The number at the end is that of the octets of its tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Aead {
    /// AES-128-GCM, 16 octets of tag.
    Aes128Gcm16,
    /// AES-192-GCM, 16 octets of tag.
    Aes192Gcm16,
    /// AES-256-GCM, 16 octets of tag.
    Aes256Gcm16,
    /// AES-128-GCM, 12 octets of tag.
    Aes128Gcm12,
    /// AES-192-GCM, 12 octets of tag.
    Aes192Gcm12,
    /// AES-256-GCM, 12 octets of tag.
    Aes256Gcm12,
    /// AES-128-GCM, 8 octets of tag.
    Aes128Gcm8,
    /// AES-192-GCM, 8 octets of tag.
    Aes192Gcm8,
    /// AES-256-GCM, 8 octets of tag.
    Aes256Gcm8,
    /// AES-128-CCM, 16 octets of tag.
    Aes128Ccm16,
    /// AES-192-CCM, 16 octets of tag.
    Aes192Ccm16,
    /// AES-256-CCM, 16 octets of tag.
    Aes256Ccm16,
    /// AES-128-CCM, 12 octets of tag.
    Aes128Ccm12,
    /// AES-192-CCM, 12 octets of tag.
    Aes192Ccm12,
    /// AES-256-CCM, 12 octets of tag.
    Aes256Ccm12,
    /// AES-128-CCM, 8 octets of tag.
    Aes128Ccm8,
    /// AES-192-CCM, 8 octets of tag.
    Aes192Ccm8,
    /// AES-256-CCM, 8 octets of tag.
    Aes256Ccm8,
    /// ChaCha20-Poly1305, 16 octets of tag.
    ChaCha20Poly1305,
}

/// How an AEAD encrypts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AeadMode {
    /// AES in Galois/Counter Mode.
    Gcm,
    /// AES in counter mode with CBC-MAC.
    Ccm,
    /// ChaCha20 with Poly1305.
    ChaCha20Poly1305,
}

impl Aead {
    /// Octets of explicit IV in a message.
    pub const IV: usize = 8;
    /// Octets of the longest nonce.
    pub const MAX_NONCE: usize = 12;
    /// Octets of the longest tag.
    pub const MAX_ICV: usize = 16;
    /// All there are.
    pub const ALL: [Aead; 19] = [
        Aead::Aes128Gcm16,
        Aead::Aes192Gcm16,
        Aead::Aes256Gcm16,
        Aead::Aes128Gcm12,
        Aead::Aes192Gcm12,
        Aead::Aes256Gcm12,
        Aead::Aes128Gcm8,
        Aead::Aes192Gcm8,
        Aead::Aes256Gcm8,
        Aead::Aes128Ccm16,
        Aead::Aes192Ccm16,
        Aead::Aes256Ccm16,
        Aead::Aes128Ccm12,
        Aead::Aes192Ccm12,
        Aead::Aes256Ccm12,
        Aead::Aes128Ccm8,
        Aead::Aes192Ccm8,
        Aead::Aes256Ccm8,
        Aead::ChaCha20Poly1305,
    ];

    /// How it encrypts, octets of its key, octets of its tag.
    fn parts(self) -> (AeadMode, usize, usize) {
        match self {
            Aead::Aes128Gcm16 => (AeadMode::Gcm, 16, 16),
            Aead::Aes192Gcm16 => (AeadMode::Gcm, 24, 16),
            Aead::Aes256Gcm16 => (AeadMode::Gcm, 32, 16),
            Aead::Aes128Gcm12 => (AeadMode::Gcm, 16, 12),
            Aead::Aes192Gcm12 => (AeadMode::Gcm, 24, 12),
            Aead::Aes256Gcm12 => (AeadMode::Gcm, 32, 12),
            Aead::Aes128Gcm8 => (AeadMode::Gcm, 16, 8),
            Aead::Aes192Gcm8 => (AeadMode::Gcm, 24, 8),
            Aead::Aes256Gcm8 => (AeadMode::Gcm, 32, 8),
            Aead::Aes128Ccm16 => (AeadMode::Ccm, 16, 16),
            Aead::Aes192Ccm16 => (AeadMode::Ccm, 24, 16),
            Aead::Aes256Ccm16 => (AeadMode::Ccm, 32, 16),
            Aead::Aes128Ccm12 => (AeadMode::Ccm, 16, 12),
            Aead::Aes192Ccm12 => (AeadMode::Ccm, 24, 12),
            Aead::Aes256Ccm12 => (AeadMode::Ccm, 32, 12),
            Aead::Aes128Ccm8 => (AeadMode::Ccm, 16, 8),
            Aead::Aes192Ccm8 => (AeadMode::Ccm, 24, 8),
            Aead::Aes256Ccm8 => (AeadMode::Ccm, 32, 8),
            Aead::ChaCha20Poly1305 => (AeadMode::ChaCha20Poly1305, 32, 16),
        }
    }

    /// How it encrypts.
    #[must_use]
    pub fn mode(self) -> AeadMode {
        self.parts().0
    }

    /// Octets of key, without the salt.
    #[must_use]
    pub fn key_len(self) -> usize {
        self.parts().1
    }

    /// Octets of tag.
    #[must_use]
    pub fn icv_len(self) -> usize {
        self.parts().2
    }

    /// Octets of salt that follow the key in keying material: 4 for GCM (RFC 4106 section 8.1) and ChaCha20-Poly1305
    /// (RFC 7634 section 2), 3 for CCM (RFC 4309 section 7.1).
    #[must_use]
    pub fn salt_len(self) -> usize {
        match self.mode() {
            AeadMode::Gcm | AeadMode::ChaCha20Poly1305 => 4,
            AeadMode::Ccm => 3,
        }
    }

    /// Octets of nonce: salt and IV.
    #[must_use]
    pub fn nonce_len(self) -> usize {
        self.salt_len() + Self::IV
    }

    /// The nonce of a message, put together in a buffer: salt, then IV.
    ///
    /// # Errors
    /// A salt of the wrong length.
    pub fn nonce<'b>(
        self,
        salt: &[u8],
        iv: &[u8; Self::IV],
        buffer: &'b mut [u8; Self::MAX_NONCE],
    ) -> Result<&'b [u8], CryptoError> {
        if salt.len() != self.salt_len() {
            return Err(CryptoError::Length("salt"));
        }
        let nonce = &mut buffer[..self.nonce_len()];
        nonce[..salt.len()].copy_from_slice(salt);
        nonce[salt.len()..].copy_from_slice(iv);
        Ok(nonce)
    }

    /// Is its tag so short that only a configuration which says so may allow it?
    #[must_use]
    pub fn is_weak(self) -> bool {
        self.icv_len() < 12
    }

    fn openssl(self) -> &'static CipherRef {
        let (mode, key, _) = self.parts();
        match (mode, key) {
            (AeadMode::ChaCha20Poly1305, _) => Cipher::chacha20_poly1305(),
            (AeadMode::Gcm, 16) => Cipher::aes_128_gcm(),
            (AeadMode::Gcm, 24) => Cipher::aes_192_gcm(),
            (AeadMode::Gcm, _) => Cipher::aes_256_gcm(),
            (AeadMode::Ccm, 16) => Cipher::aes_128_ccm(),
            (AeadMode::Ccm, 24) => Cipher::aes_192_ccm(),
            (AeadMode::Ccm, _) => Cipher::aes_256_ccm(),
        }
    }
}

/// An AEAD with its key, prepared once for many messages.
///
/// Contexts with the expanded key are made when they are first needed, for many keys are for one direction alone, and kept for
/// one user at a time; a second one at the same moment expands it anew.
pub struct AeadKey {
    algorithm: Aead,
    key: Secret,
    sealer: Mutex<Option<CipherCtx>>,
    opener: Mutex<Option<CipherCtx>>,
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
        Ok(Self { algorithm, key: Secret::copy_from(key), sealer: Mutex::default(), opener: Mutex::default() })
    }

    /// The algorithm.
    #[must_use]
    pub fn algorithm(&self) -> Aead {
        self.algorithm
    }

    /// Encrypts in place and writes the tag. The caller answers for the nonce: never twice under this key.
    ///
    /// # Errors
    /// A nonce or tag of the wrong length, or OpenSSL refused.
    pub fn seal(&self, nonce: &[u8], aad: &[u8], data: &mut [u8], tag: &mut [u8]) -> Result<(), CryptoError> {
        self.check(nonce, tag)?;
        let run = |ctx: &mut CipherCtx| {
            ctx.encrypt_init(None, None, Some(nonce))?;
            self.update(ctx, aad, data)?;
            if self.algorithm.mode() != AeadMode::Ccm {
                ctx.cipher_final(&mut [])?;
            }
            ctx.tag(tag)?;
            Ok(())
        };
        with(&self.sealer, || sealer(self.algorithm, self.key.expose()), run)
    }

    /// Decrypts in place. If the tag does not verify, `data` is zeroed.
    ///
    /// # Errors
    /// [`CryptoError::Unauthentic`], a nonce or tag of the wrong length, or OpenSSL refused.
    pub fn open(&self, nonce: &[u8], aad: &[u8], data: &mut [u8], tag: &[u8]) -> Result<(), CryptoError> {
        self.check(nonce, tag)?;
        let run = |ctx: &mut CipherCtx| {
            ctx.decrypt_init(None, None, Some(nonce))?;
            ctx.set_tag(tag)?;
            if self.algorithm.mode() == AeadMode::Ccm {
                // Here it is the data, not the end of them, that brings the verdict.
                return self.update(ctx, aad, data).map_err(|_| CryptoError::Unauthentic);
            }
            self.update(ctx, aad, data)?;
            ctx.cipher_final(&mut []).map_err(|_| CryptoError::Unauthentic)?;
            Ok(())
        };
        let opened = with(&self.opener, || opener(self.algorithm, self.key.expose()), run);
        if opened.is_err() {
            data.zeroize();
        }
        opened
    }

    fn check(&self, nonce: &[u8], tag: &[u8]) -> Result<(), CryptoError> {
        if nonce.len() != self.algorithm.nonce_len() {
            return Err(CryptoError::Length("nonce"));
        }
        if tag.len() != self.algorithm.icv_len() {
            return Err(CryptoError::Length("tag"));
        }
        Ok(())
    }

    fn update(&self, ctx: &mut CipherCtx, aad: &[u8], data: &mut [u8]) -> Result<(), CryptoError> {
        let len = data.len();
        let ccm = self.algorithm.mode() == AeadMode::Ccm;
        if ccm {
            // The length is part of what CCM authenticates first.
            ctx.set_data_len(len)?;
        }
        if !aad.is_empty() {
            ctx.cipher_update(aad, None)?;
        }
        if len > 0 || ccm {
            ctx.cipher_update_inplace(data, len)?;
        }
        Ok(())
    }
}

impl std::fmt::Debug for AeadKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "AeadKey({:?})", self.algorithm)
    }
}

fn sealer(algorithm: Aead, key: &[u8]) -> Result<CipherCtx, CryptoError> {
    let mut ctx = CipherCtx::new()?;
    ctx.encrypt_init(Some(algorithm.openssl()), None, None)?;
    lengths(algorithm, &mut ctx)?;
    ctx.encrypt_init(None, Some(key), None)?;
    Ok(ctx)
}

fn opener(algorithm: Aead, key: &[u8]) -> Result<CipherCtx, CryptoError> {
    let mut ctx = CipherCtx::new()?;
    ctx.decrypt_init(Some(algorithm.openssl()), None, None)?;
    lengths(algorithm, &mut ctx)?;
    ctx.decrypt_init(None, Some(key), None)?;
    Ok(ctx)
}

/// CCM wants to know both lengths before the key.
fn lengths(algorithm: Aead, ctx: &mut CipherCtx) -> Result<(), CryptoError> {
    if algorithm.mode() == AeadMode::Ccm {
        ctx.set_iv_length(algorithm.nonce_len())?;
        ctx.set_tag_length(algorithm.icv_len())?;
    }
    Ok(())
}

/// Runs with the kept context if it is free (and no panic left it half done), otherwise with a fresh one.
fn with(
    kept: &Mutex<Option<CipherCtx>>,
    fresh: impl FnOnce() -> Result<CipherCtx, CryptoError>,
    run: impl FnOnce(&mut CipherCtx) -> Result<(), CryptoError>,
) -> Result<(), CryptoError> {
    match kept.try_lock() {
        Ok(mut kept) => match &mut *kept {
            Some(ctx) => run(ctx),
            none => run(none.insert(fresh()?)),
        },
        Err(TryLockError::WouldBlock | TryLockError::Poisoned(_)) => run(&mut fresh()?),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
