//! Block ciphers in CBC mode, without padding: AES (RFC 3602) and Triple DES (RFC 2451); and the names of AES in counter mode
//! (RFC 3686), which the data plane does by itself.

use openssl::cipher::{Cipher, CipherRef};
use openssl::cipher_ctx::CipherCtx;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::error::CryptoError;

/// A block cipher in CBC mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum BlockCipher {
    /// Triple DES with three keys. Only for peers that know nothing better: its block of 8 octets gives plaintext away
    /// after some gigabytes under one key.
    TripleDesCbc,
    /// AES-128-CBC.
    Aes128Cbc,
    /// AES-192-CBC.
    Aes192Cbc,
    /// AES-256-CBC.
    Aes256Cbc,
}

impl BlockCipher {
    /// Octets of the longest block.
    pub const MAX_BLOCK: usize = 16;

    /// Octets of a block, and of an IV.
    #[must_use]
    pub fn block_len(self) -> usize {
        match self {
            BlockCipher::TripleDesCbc => 8,
            BlockCipher::Aes128Cbc | BlockCipher::Aes192Cbc | BlockCipher::Aes256Cbc => 16,
        }
    }

    /// Is it so weak that only a configuration which says so may allow it?
    #[must_use]
    pub fn is_weak(self) -> bool {
        matches!(self, BlockCipher::TripleDesCbc)
    }

    /// Octets of key.
    #[must_use]
    pub fn key_len(self) -> usize {
        match self {
            BlockCipher::Aes128Cbc => 16,
            BlockCipher::Aes192Cbc | BlockCipher::TripleDesCbc => 24,
            BlockCipher::Aes256Cbc => 32,
        }
    }

    /// Encrypts in place.
    ///
    /// # Errors
    /// A wrong length of the key or IV, or data that is not whole blocks.
    pub fn encrypt(self, key: &[u8], iv: &[u8], data: &mut [u8]) -> Result<(), CryptoError> {
        self.run(key, iv, data, true)
    }

    /// Decrypts in place.
    ///
    /// # Errors
    /// A wrong length of the key or IV, or data that is not whole blocks.
    pub fn decrypt(self, key: &[u8], iv: &[u8], data: &mut [u8]) -> Result<(), CryptoError> {
        self.run(key, iv, data, false)
    }

    fn run(self, key: &[u8], iv: &[u8], data: &mut [u8], encrypt: bool) -> Result<(), CryptoError> {
        if key.len() != self.key_len() {
            return Err(CryptoError::Length("key"));
        }
        if iv.len() != self.block_len() {
            return Err(CryptoError::Length("IV"));
        }
        if !data.len().is_multiple_of(self.block_len()) {
            return Err(CryptoError::Length("data"));
        }
        let mut ctx = CipherCtx::new()?;
        if encrypt {
            ctx.encrypt_init(Some(self.openssl()), Some(key), Some(iv))?;
        } else {
            ctx.decrypt_init(Some(self.openssl()), Some(key), Some(iv))?;
        }
        ctx.set_padding(false);
        // OpenSSL wants room for a block more than it is given; chunks keep that off the heap.
        let mut out = Zeroizing::new([0u8; CHUNK + 2 * Self::MAX_BLOCK]);
        for chunk in data.chunks_mut(CHUNK) {
            let written = ctx.cipher_update(chunk, Some(&mut out[..]))?;
            if written != chunk.len() {
                return Err(CryptoError::Length("data"));
            }
            chunk.copy_from_slice(&out[..written]);
        }
        Ok(())
    }

    fn openssl(self) -> &'static CipherRef {
        match self {
            BlockCipher::TripleDesCbc => Cipher::des_ede3_cbc(),
            BlockCipher::Aes128Cbc => Cipher::aes_128_cbc(),
            BlockCipher::Aes192Cbc => Cipher::aes_192_cbc(),
            BlockCipher::Aes256Cbc => Cipher::aes_256_cbc(),
        }
    }
}

/// AES in counter mode as ESP has it: a nonce that belongs to the keying material, an IV and a counter of blocks make what is
/// encrypted (RFC 3686, section 4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum AesCtr {
    /// AES-128-CTR.
    Aes128Ctr,
    /// AES-192-CTR.
    Aes192Ctr,
    /// AES-256-CTR.
    Aes256Ctr,
}

impl AesCtr {
    /// All there are.
    pub const ALL: [AesCtr; 3] = [AesCtr::Aes128Ctr, AesCtr::Aes192Ctr, AesCtr::Aes256Ctr];
    /// Octets of nonce, behind the key in keying material (RFC 3686 section 5.1).
    pub const NONCE: usize = 4;
    /// Octets of IV in a packet.
    pub const IV: usize = 8;

    /// Octets of key, without the nonce.
    #[must_use]
    pub fn key_len(self) -> usize {
        match self {
            AesCtr::Aes128Ctr => 16,
            AesCtr::Aes192Ctr => 24,
            AesCtr::Aes256Ctr => 32,
        }
    }
}

/// Octets that are processed at a time.
const CHUNK: usize = 2048;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// RFC 3602 section 4, case 2.
    #[test]
    fn rfc_3602_case_2() {
        let key = hex::decode("c286696d887c9aa0611bbb3e2025a45a").unwrap();
        let iv = hex::decode("562e17996d093d28ddb3ba695a2e6f58").unwrap();
        let plain: Vec<u8> = (0..32).collect();
        let mut data = plain.clone();
        BlockCipher::Aes128Cbc.encrypt(&key, &iv, &mut data).unwrap();
        assert_eq!(hex::encode(&data), "d296cd94c2cccf8a3a863028b5e1dc0a7586602d253cfff91b8266bea6d61ab1");
        BlockCipher::Aes128Cbc.decrypt(&key, &iv, &mut data).unwrap();
        assert_eq!(data, plain);
    }

    #[test]
    fn long_data_and_every_key_length() {
        for cipher in
            [BlockCipher::TripleDesCbc, BlockCipher::Aes128Cbc, BlockCipher::Aes192Cbc, BlockCipher::Aes256Cbc]
        {
            let key: Vec<u8> = (0..24u8).chain(0..8).take(cipher.key_len()).collect();
            let iv = vec![1; cipher.block_len()];
            let plain: Vec<u8> = (0..9008u32).map(|i| (i % 251) as u8).collect();
            let mut data = plain.clone();
            cipher.encrypt(&key, &iv, &mut data).unwrap();
            assert_ne!(data, plain);
            cipher.decrypt(&key, &iv, &mut data).unwrap();
            assert_eq!(data, plain);
            assert!(cipher.encrypt(&key[1..], &iv, &mut data).is_err());
            assert!(cipher.encrypt(&key, &iv[1..], &mut data).is_err());
            assert!(cipher.encrypt(&key, &[1; 24], &mut data).is_err());
            assert!(cipher.decrypt(&key, &iv, &mut data[1..]).is_err());
            cipher.encrypt(&key, &iv, &mut []).unwrap();
        }
    }
}
