//! Combined modes: AES-GCM (RFC 4106), AES-CCM (RFC 4309), ChaCha20-Poly1305 (RFC 7634).
//!
//! ```text
//! | SPI | sequence number | IV | ciphertext | ICV |
//! |<- authenticated only ->|    |<---------->|      nonce = salt, IV
//! ```

use aws_lc_rs::aead::{
    AES_128_GCM, AES_192_GCM, AES_256_GCM, Aad, Algorithm, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey,
};
use keyferry_crypto::{Aead, AeadKey, AeadMode, CryptoError, Secret};
use zeroize::Zeroizing;

use super::{HEADER_LEN, IvSource, Layout, Single, split_icv};

const SALT: usize = 4;

/// A key of AWS-LC's with the salt of its nonces.
pub(super) struct Salted {
    pub(super) key: LessSafeKey,
    salt: Zeroizing<[u8; SALT]>,
}

impl Salted {
    pub(super) fn new(algorithm: &'static Algorithm, key: &[u8], salt: &[u8]) -> Result<Self, CryptoError> {
        let key = UnboundKey::new(algorithm, key).map_err(|_| CryptoError::Length("key"))?;
        let salt = salt.try_into().map_err(|_| CryptoError::Length("salt"))?;
        Ok(Self { key: LessSafeKey::new(key), salt: Zeroizing::new(salt) })
    }

    /// The nonce of a packet. That its IV is used once under the key is up to [`Numbers`](crate::nonce::Numbers).
    pub(super) fn nonce(&self, iv: [u8; Aead::IV]) -> Nonce {
        let mut nonce = [0; NONCE_LEN];
        nonce[..SALT].copy_from_slice(&self.salt[..]);
        nonce[SALT..].copy_from_slice(&iv);
        Nonce::assume_unique_for_key(nonce)
    }
}

/// AWS-LC's name of an algorithm, if it has it.
pub(super) fn by_aws_lc(aead: Aead) -> Option<&'static Algorithm> {
    match (aead.mode(), aead.key_len(), aead.icv_len()) {
        (AeadMode::Gcm, 16, 16) => Some(&AES_128_GCM),
        (AeadMode::Gcm, 24, 16) => Some(&AES_192_GCM),
        (AeadMode::Gcm, 32, 16) => Some(&AES_256_GCM),
        (AeadMode::ChaCha20Poly1305, _, 16) => Some(&CHACHA20_POLY1305),
        (AeadMode::Gcm | AeadMode::Ccm | AeadMode::ChaCha20Poly1305, _, _) => None,
    }
}

/// With an ICV of 16 octets, by AWS-LC: a third of what OpenSSL's general interface takes for short packets.
pub(super) struct Fast(Salted);

impl Fast {
    pub(super) fn new(algorithm: &'static Algorithm, key: &[u8], salt: &[u8]) -> Result<Self, CryptoError> {
        Salted::new(algorithm, key, salt).map(Self)
    }

    fn key(&self) -> &LessSafeKey {
        &self.0.key
    }
}

impl Single for Fast {
    const LIBRARY: &'static str = "AWS-LC";

    fn layout(&self) -> Layout {
        Layout { iv: Aead::IV, block: 4, icv: self.key().algorithm().tag_len() }
    }

    #[inline]
    fn seal(&self, esp: &mut [u8], iv: Option<u64>, _: &mut IvSource) -> Result<(), CryptoError> {
        let iv = iv.ok_or(CryptoError::Unauthentic)?.to_be_bytes();
        let (protected, icv) = split_icv(esp, self.key().algorithm().tag_len());
        let (header, body) = parts(protected, Some(iv))?;
        // The ICV is written where it belongs.
        self.key()
            .seal_in_place_scatter(self.0.nonce(iv), Aad::from(header), body, &[], icv)
            .map_err(|_| CryptoError::Unauthentic)
    }

    fn open(&self, esp: &mut [u8]) -> Result<(), CryptoError> {
        let iv = iv_of(esp)?;
        let (protected, icv) = split_icv(esp, self.key().algorithm().tag_len());
        let (header, body) = parts(protected, None)?;
        if self.key().open_in_place_separate_tag(self.0.nonce(iv), Aad::from(header), icv, body).is_err() {
            // The library does so, too, but does not promise it.
            body.fill(0);
            return Err(CryptoError::Unauthentic);
        }
        Ok(())
    }
}

/// With any ICV, by OpenSSL.
pub(super) struct Any {
    key: AeadKey,
    /// As secret as the key.
    salt: Secret,
}

impl Any {
    pub(super) fn new(aead: Aead, key: &[u8], salt: &[u8]) -> Result<Self, CryptoError> {
        Ok(Self { key: AeadKey::new(aead, key)?, salt: Secret::copy_from(salt) })
    }
}

impl Single for Any {
    const LIBRARY: &'static str = "OpenSSL";

    fn layout(&self) -> Layout {
        Layout { iv: Aead::IV, block: 4, icv: self.key.algorithm().icv_len() }
    }

    fn seal(&self, esp: &mut [u8], iv: Option<u64>, _: &mut IvSource) -> Result<(), CryptoError> {
        let iv = iv.ok_or(CryptoError::Unauthentic)?.to_be_bytes();
        let (protected, icv) = split_icv(esp, self.key.algorithm().icv_len());
        let (header, body) = parts(protected, Some(iv))?;
        let mut buffer = [0; Aead::MAX_NONCE];
        let nonce = self.key.algorithm().nonce(self.salt.expose(), &iv, &mut buffer)?;
        self.key.seal(nonce, header, body, icv)
    }

    fn open(&self, esp: &mut [u8]) -> Result<(), CryptoError> {
        let iv = iv_of(esp)?;
        let (protected, icv) = split_icv(esp, self.key.algorithm().icv_len());
        let (header, body) = parts(protected, None)?;
        let mut buffer = [0; Aead::MAX_NONCE];
        let nonce = self.key.algorithm().nonce(self.salt.expose(), &iv, &mut buffer)?;
        self.key.open(nonce, header, body, icv)
    }
}

/// SPI and sequence number, and what stands behind the IV, which is written if one is given.
fn parts(esp: &mut [u8], iv: Option<[u8; Aead::IV]>) -> Result<(&[u8; HEADER_LEN], &mut [u8]), CryptoError> {
    let (header, rest) = esp.split_first_chunk_mut::<HEADER_LEN>().ok_or(CryptoError::Unauthentic)?;
    let (field, body) = rest.split_first_chunk_mut::<{ Aead::IV }>().ok_or(CryptoError::Unauthentic)?;
    if let Some(iv) = iv {
        *field = iv;
    }
    Ok((header, body))
}

fn iv_of(esp: &[u8]) -> Result<[u8; Aead::IV], CryptoError> {
    esp.get(HEADER_LEN..).and_then(|b| b.first_chunk()).copied().ok_or(CryptoError::Unauthentic)
}
