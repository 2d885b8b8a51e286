//! Sealing of values: AES-256-GCM under a key of each value's own.
//!
//! ```text
//!  salt (32, random) | ciphertext | tag (16)
//!  key = HMAC-SHA256(master key, "keyferry store value" | salt), nonce = 0, associated data = name of the record
//! ```
//!
//! A salt is never used twice, so neither is a key, and the nonce may stay zero. The name binds a value to its record:
//! two of them cannot be exchanged.

use keyferry_crypto::{Aead, AeadKey, CryptoError, Prf, Random, Secret};
use zeroize::Zeroize;

const SALT: usize = 32;
const TAG: usize = 16;
const NONCE: [u8; 12] = [0; 12];

/// The master key.
#[derive(Debug)]
pub(super) struct MasterKey(pub(super) Secret);

/// Octets of the master key.
pub(super) const KEY_LEN: usize = 32;

impl MasterKey {
    fn derive(&self, salt: &[u8]) -> Result<AeadKey, CryptoError> {
        let key = Prf::HmacSha256.compute(self.0.expose(), &[b"keyferry store value", salt]);
        AeadKey::new(Aead::Aes256Gcm16, key.expose())
    }

    /// Seals a value for a record.
    pub(super) fn seal(&self, name: &str, value: &[u8], rng: &mut dyn Random) -> Result<Vec<u8>, CryptoError> {
        let mut sealed = vec![0; SALT + value.len() + TAG];
        rng.fill(&mut sealed[..SALT]);
        let key = self.derive(&sealed[..SALT])?;
        let body = &mut sealed[SALT..SALT + value.len()];
        body.copy_from_slice(value);
        let mut tag = [0; TAG];
        if let Err(e) = key.seal(&NONCE, name.as_bytes(), body, &mut tag) {
            sealed.zeroize();
            return Err(e);
        }
        sealed[SALT + value.len()..].copy_from_slice(&tag);
        Ok(sealed)
    }

    /// Opens the value of a record; `None` if it was not sealed for this record under this key.
    pub(super) fn open(&self, name: &str, sealed: &[u8]) -> Option<Secret> {
        let (salt, rest) = sealed.split_at_checked(SALT)?;
        let (body, tag) = rest.split_at_checked(rest.len().checked_sub(TAG)?)?;
        let key = self.derive(salt).ok()?;
        let mut body = body.to_vec();
        match key.open(&NONCE, name.as_bytes(), &mut body, tag) {
            Ok(()) => Some(Secret::new(body)),
            Err(_) => {
                body.zeroize();
                None
            }
        }
    }
}
