//! A cipher, then a MAC over everything in front of the ICV: AES-CBC (RFC 3602) with HMAC (RFC 2404, RFC 4868).

use aws_lc_rs::cipher::{
    AES_128, AES_192, AES_256, Algorithm, DecryptingKey, DecryptionContext, EncryptingKey, EncryptionContext,
    UnboundCipherKey,
};
use keyferry_crypto::{CryptoError, Integrity, IntegrityKey};

use super::{HEADER_LEN, IvSource, Layout, Single};

const BLOCK: usize = 16;

/// AES-CBC with HMAC. Its IVs are unpredictable.
pub(super) struct CbcHmac {
    encrypting: EncryptingKey,
    decrypting: DecryptingKey,
    mac: IntegrityKey,
}

impl CbcHmac {
    pub(super) fn new(key: &[u8], integrity: Integrity, mac: &[u8]) -> Result<Self, CryptoError> {
        let algorithm = aes(key.len())?;
        let key = || UnboundCipherKey::new(algorithm, key).map_err(|_| CryptoError::Length("key"));
        Ok(Self {
            encrypting: EncryptingKey::cbc(key()?).map_err(|_| CryptoError::Length("key"))?,
            decrypting: DecryptingKey::cbc(key()?).map_err(|_| CryptoError::Length("key"))?,
            mac: IntegrityKey::new(integrity, mac),
        })
    }
}

impl Single for CbcHmac {
    const LIBRARY: &'static str = "AWS-LC and OpenSSL";

    fn layout(&self) -> Layout {
        Layout { iv: BLOCK, block: BLOCK, icv: self.mac.algorithm().icv_len() }
    }

    fn seal(&self, esp: &mut [u8], _: Option<u64>, ivs: &mut IvSource) -> Result<(), CryptoError> {
        let iv = ivs.next()?;
        let icv_at = esp.len().saturating_sub(self.mac.algorithm().icv_len());
        let (protected, icv) = esp.split_at_mut(icv_at);
        let (field, body) = parts(protected)?;
        *field = iv;
        self.encrypting
            .less_safe_encrypt(body, EncryptionContext::Iv128(iv.into()))
            .map_err(|_| CryptoError::Length("data"))?;
        self.mac.compute_into(&[protected], icv);
        Ok(())
    }

    fn open(&self, esp: &mut [u8]) -> Result<(), CryptoError> {
        let icv_at = esp.len().saturating_sub(self.mac.algorithm().icv_len());
        let (protected, icv) = esp.split_at_mut(icv_at);
        if !self.mac.verify(&[protected], icv) {
            return Err(CryptoError::Unauthentic);
        }
        let (iv, body) = parts(protected)?;
        self.decrypting
            .decrypt(body, DecryptionContext::Iv128((&*iv).into()))
            .map_err(|_| CryptoError::Length("data"))?;
        Ok(())
    }
}

/// The IV and what stands behind it.
fn parts(protected: &mut [u8]) -> Result<(&mut [u8; BLOCK], &mut [u8]), CryptoError> {
    let esp = protected.get_mut(HEADER_LEN..).ok_or(CryptoError::Unauthentic)?;
    esp.split_first_chunk_mut().ok_or(CryptoError::Unauthentic)
}

pub(super) fn aes(key_len: usize) -> Result<&'static Algorithm, CryptoError> {
    match key_len {
        16 => Ok(&AES_128),
        24 => Ok(&AES_192),
        32 => Ok(&AES_256),
        _ => Err(CryptoError::Length("key")),
    }
}
