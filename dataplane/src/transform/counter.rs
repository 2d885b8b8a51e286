//! AES in counter mode (RFC 3686), then a MAC over everything in front of the ICV (RFC 2404, RFC 4868).
//!
//! ```text
//! | SPI | sequence number | IV | ciphertext | ICV |
//!                         |<-->|<---------->|      first counter block = nonce, IV, 1
//! ```

use aws_lc_rs::cipher::{EncryptingKey, EncryptionContext, UnboundCipherKey};
use keyferry_crypto::{AesCtr, CryptoError, Integrity, IntegrityKey};
use zeroize::Zeroizing;

use super::separate::aes;
use super::{HEADER_LEN, IvSource, Layout, Single, split_icv};

/// AES-CTR with HMAC. That an IV is used once under the key is up to [`Numbers`](crate::nonce::Numbers).
pub(super) struct CtrHmac {
    key: EncryptingKey,
    nonce: Zeroizing<[u8; AesCtr::NONCE]>,
    mac: IntegrityKey,
}

impl CtrHmac {
    pub(super) fn new(key: &[u8], nonce: &[u8], integrity: Integrity, mac: &[u8]) -> Result<Self, CryptoError> {
        let key = UnboundCipherKey::new(aes(key.len())?, key).map_err(|_| CryptoError::Length("key"))?;
        Ok(Self {
            key: EncryptingKey::ctr(key).map_err(|_| CryptoError::Length("key"))?,
            nonce: Zeroizing::new(nonce.try_into().map_err(|_| CryptoError::Length("nonce"))?),
            mac: IntegrityKey::new(integrity, mac),
        })
    }

    /// Encrypts, or decrypts, which is the same.
    fn apply(&self, iv: [u8; AesCtr::IV], body: &mut [u8]) -> Result<(), CryptoError> {
        let mut block = [0; 16];
        block[..AesCtr::NONCE].copy_from_slice(&self.nonce[..]);
        block[AesCtr::NONCE..AesCtr::NONCE + AesCtr::IV].copy_from_slice(&iv);
        block[15] = 1;
        let context = EncryptionContext::Iv128(block.into());
        self.key.less_safe_encrypt(body, context).map(drop).map_err(|_| CryptoError::Length("data"))
    }
}

impl Single for CtrHmac {
    const LIBRARY: &'static str = "AWS-LC and OpenSSL";

    fn layout(&self) -> Layout {
        Layout { iv: AesCtr::IV, block: 4, icv: self.mac.algorithm().icv_len() }
    }

    fn seal(&self, esp: &mut [u8], iv: Option<u64>, _: &mut IvSource) -> Result<(), CryptoError> {
        let iv = iv.ok_or(CryptoError::Unauthentic)?.to_be_bytes();
        let (protected, icv) = split_icv(esp, self.mac.algorithm().icv_len());
        let (field, body) = parts(protected)?;
        *field = iv;
        self.apply(iv, body)?;
        self.mac.compute_into(&[protected], icv);
        Ok(())
    }

    fn open(&self, esp: &mut [u8]) -> Result<(), CryptoError> {
        let (protected, icv) = split_icv(esp, self.mac.algorithm().icv_len());
        if !self.mac.verify(&[protected], icv) {
            return Err(CryptoError::Unauthentic);
        }
        let (iv, body) = parts(protected)?;
        self.apply(*iv, body)
    }
}

/// The IV and what stands behind it.
fn parts(protected: &mut [u8]) -> Result<(&mut [u8; AesCtr::IV], &mut [u8]), CryptoError> {
    let esp = protected.get_mut(HEADER_LEN..).ok_or(CryptoError::Unauthentic)?;
    esp.split_first_chunk_mut().ok_or(CryptoError::Unauthentic)
}
