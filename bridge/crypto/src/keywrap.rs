//! AES key wrap with padding (RFC 5649), as G-IKEv2 uses it (RFC 9838 section 4.4.2.1.2).

use aes_kw::{KeyInit, KwpAes128, KwpAes192, KwpAes256};
use zeroize::Zeroizing;

use crate::error::CryptoError;
use crate::secret::Secret;

/// The longest key that is wrapped; G-IKEv2 asks for 256 octets.
const MAX_KEY: usize = 4096;

/// The cipher with its expanded key, which is wiped. (OpenSSL's key wrap does not use the processor's AES instructions.)
enum Kek {
    Aes128(KwpAes128),
    Aes192(KwpAes192),
    Aes256(KwpAes256),
}

impl Kek {
    fn new(key: &[u8]) -> Result<Self, CryptoError> {
        let made = match key.len() {
            16 => KwpAes128::new_from_slice(key).map(Kek::Aes128),
            24 => KwpAes192::new_from_slice(key).map(Kek::Aes192),
            _ => KwpAes256::new_from_slice(key).map(Kek::Aes256),
        };
        made.map_err(|_| CryptoError::Length("key encryption key"))
    }
}

/// Wraps a key of 1 to 4096 octets under a key encryption key of 16, 24 or 32.
///
/// # Errors
/// Other lengths.
pub fn wrap(kek: &[u8], key: &[u8]) -> Result<Vec<u8>, CryptoError> {
    if key.is_empty() || key.len() > MAX_KEY {
        return Err(CryptoError::Length("key"));
    }
    // Padding is what is zero already.
    let mut out = vec![0; key.len().next_multiple_of(8) + 8];
    let wrapped = match Kek::new(kek)? {
        Kek::Aes128(kwp) => kwp.wrap_key(key, &mut out).map(drop),
        Kek::Aes192(kwp) => kwp.wrap_key(key, &mut out).map(drop),
        Kek::Aes256(kwp) => kwp.wrap_key(key, &mut out).map(drop),
    };
    wrapped.map_err(|_| CryptoError::Length("key"))?;
    Ok(out)
}

/// Unwraps what [`wrap`] made.
///
/// # Errors
/// [`CryptoError::Unauthentic`] when it was wrapped under another key, or is no wrapped key at all; a wrong length.
pub fn unwrap(kek: &[u8], wrapped: &[u8]) -> Result<Secret, CryptoError> {
    if wrapped.len() < 16 || !wrapped.len().is_multiple_of(8) || wrapped.len() > MAX_KEY + 8 {
        return Err(CryptoError::Length("wrapped key"));
    }
    let mut out = Zeroizing::new(vec![0; wrapped.len() - 8]);
    let key = match Kek::new(kek)? {
        Kek::Aes128(kwp) => kwp.unwrap_key(wrapped, &mut out),
        Kek::Aes192(kwp) => kwp.unwrap_key(wrapped, &mut out),
        Kek::Aes256(kwp) => kwp.unwrap_key(wrapped, &mut out),
    };
    key.map(Secret::copy_from).map_err(|_| CryptoError::Unauthentic)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use openssl::cipher::Cipher;
    use openssl::cipher_ctx::{CipherCtx, CipherCtxFlags};

    use super::*;

    /// Both examples of RFC 5649 section 6.
    #[test]
    fn rfc_5649_examples() {
        let kek = hex::decode("5840df6e29b02af1ab493b705bf16ea1ae8338f4dcc176a8").unwrap();
        for (key, wrapped) in [
            (
                "c37b7e6492584340bed12207808941155068f738",
                "138bdeaa9b8fa7fc61f97742e72248ee5ae6ae5360d1ae6a5f54f373fa543b6a",
            ),
            ("466f7250617369", "afbeb0f07dfbf5419200f2ccb50bb24f"),
        ] {
            let key = hex::decode(key).unwrap();
            let ours = wrap(&kek, &key).unwrap();
            assert_eq!(hex::encode(&ours), wrapped);
            assert_eq!(unwrap(&kek, &ours).unwrap().expose(), key);
        }
    }

    #[test]
    fn openssl_wraps_alike() {
        let ciphers = [Cipher::aes_128_wrap_pad(), Cipher::aes_192_wrap_pad(), Cipher::aes_256_wrap_pad()];
        for (cipher, kek_len) in ciphers.into_iter().zip([16, 24, 32]) {
            let kek = vec![7; kek_len];
            for len in 1..70 {
                let key: Vec<u8> = (0..len).collect();
                let mut ctx = CipherCtx::new().unwrap();
                ctx.set_flags(CipherCtxFlags::FLAG_WRAP_ALLOW);
                ctx.encrypt_init(Some(cipher), Some(&kek), None).unwrap();
                let mut theirs = Vec::new();
                ctx.cipher_update_vec(&key, &mut theirs).unwrap();
                assert_eq!(wrap(&kek, &key).unwrap(), theirs);
            }
        }
    }

    #[test]
    fn lengths_round_trip_and_changes_are_noticed() {
        for kek_len in [16, 24, 32] {
            let kek = vec![5; kek_len];
            for len in [1, 7, 8, 9, 16, 20, 36, 256] {
                let key: Vec<u8> = (0..len).map(|i| i as u8).collect();
                let wrapped = wrap(&kek, &key).unwrap();
                assert_eq!(unwrap(&kek, &wrapped).unwrap().expose(), key);
                for i in 0..wrapped.len() {
                    let mut bad = wrapped.clone();
                    bad[i] ^= 0x80;
                    assert!(unwrap(&kek, &bad).is_err());
                }
                assert!(unwrap(&vec![6; kek_len], &wrapped).is_err());
            }
        }
        assert!(wrap(&[0; 16], &[]).is_err());
        assert!(wrap(&[0; 15], &[1]).is_err());
        assert!(unwrap(&[0; 16], &[0; 8]).is_err());
        assert!(unwrap(&[0; 16], &[0; 17]).is_err());
    }
}
