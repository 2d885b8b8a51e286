//! X25519 and X448 (RFC 7748).

use openssl::derive::Deriver;
use openssl::pkey::{PKey, Private};

use crate::error::CryptoError;
use crate::secret::Secret;

pub(super) fn agree(key: &PKey<Private>, peer: &[u8]) -> Result<Secret, CryptoError> {
    let peer = PKey::public_key_from_raw_bytes(peer, key.id()).map_err(|_| CryptoError::BadPublicValue)?;
    let mut deriver = Deriver::new(key)?;
    deriver.set_peer(&peer).map_err(|_| CryptoError::BadPublicValue)?;
    let shared = Secret::new(deriver.derive_to_vec().map_err(|_| CryptoError::BadPublicValue)?);
    // RFC 7748 section 6: a point of small order gives zeros.
    if shared.ct_eq(&vec![0; shared.len()]) {
        return Err(CryptoError::BadPublicValue);
    }
    Ok(shared)
}
