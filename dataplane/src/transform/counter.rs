//! AES in counter mode (RFC 3686), then a MAC over everything in front of the ICV (RFC 2404, RFC 4868).
//!
//! ```text
//! | SPI | sequence number | IV | ciphertext | ICV |
//!                         |<-->|<---------->|      first counter block = nonce, IV, 1
//! ```

use aws_lc_rs::cipher::{EncryptingKey, EncryptionContext, UnboundCipherKey};
use keyferry_crypto::{AesCtr, CryptoError, Integrity};
use zeroize::Zeroizing;

use super::mac::BurstMac;
use super::separate::{aes, parts};
use super::{IvSource, Job, Layout, Transform, split_icv};

/// AES-CTR with HMAC. That an IV is used once under the key is up to [`Numbers`](crate::nonce::Numbers).
pub(super) struct CtrHmac {
    key: EncryptingKey,
    nonce: Zeroizing<[u8; AesCtr::NONCE]>,
    mac: BurstMac,
}

impl CtrHmac {
    pub(super) fn new(key: &[u8], nonce: &[u8], integrity: Integrity, mac: &[u8]) -> Result<Self, CryptoError> {
        let key = UnboundCipherKey::new(aes(key.len())?, key).map_err(|_| CryptoError::Length("key"))?;
        Ok(Self {
            key: EncryptingKey::ctr(key).map_err(|_| CryptoError::Length("key"))?,
            nonce: Zeroizing::new(nonce.try_into().map_err(|_| CryptoError::Length("nonce"))?),
            mac: BurstMac::new(integrity, mac),
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

    /// Encrypts under an IV, which is written in front of the body.
    fn encrypt(&self, esp: &mut [u8], iv: Option<u64>) -> Result<(), CryptoError> {
        let iv = iv.ok_or(CryptoError::Unauthentic)?.to_be_bytes();
        let (field, body) = parts(split_icv(esp, self.mac.icv_len()).0)?;
        *field = iv;
        self.apply(iv, body)
    }

    fn decrypt(&self, esp: &mut [u8]) -> Result<(), CryptoError> {
        let (iv, body) = parts(split_icv(esp, self.mac.icv_len()).0)?;
        self.apply(*iv, body)
    }
}

impl Transform for CtrHmac {
    fn layout(&self) -> Layout {
        Layout { iv: AesCtr::IV, block: 4, icv: self.mac.icv_len() }
    }

    fn library(&self) -> &'static str {
        self.mac.library("AWS-LC and OpenSSL", "AWS-LC, OpenSSL and RustCrypto; hashes side by side")
    }

    fn seal(&self, burst: &mut [Job<'_>], _: &mut IvSource) {
        self.mac.seal(burst, |burst| {
            for job in burst {
                job.done = self.encrypt(job.esp, job.iv).is_ok();
            }
        });
    }

    fn open(&self, burst: &mut [Job<'_>]) {
        self.mac.open(burst, |esp| self.decrypt(esp));
    }
}
