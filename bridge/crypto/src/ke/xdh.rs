//! X25519 and X448 (RFC 7748).

use openssl::derive::Deriver;
use openssl::pkey::{Id, PKey, Private};

use super::KeGroup;
use crate::error::CryptoError;
use crate::secret::Secret;

/// OpenSSL's name of the function; `None` if the group is none of the two.
pub(super) fn function(group: KeGroup) -> Option<Id> {
    match group {
        KeGroup::X25519 => Some(Id::X25519),
        KeGroup::X448 => Some(Id::X448),
        KeGroup::Modp1024
        | KeGroup::Modp1536
        | KeGroup::Modp2048
        | KeGroup::Modp3072
        | KeGroup::Modp4096
        | KeGroup::Modp6144
        | KeGroup::Modp8192
        | KeGroup::Modp2048s256
        | KeGroup::Ecp256
        | KeGroup::Ecp384
        | KeGroup::Ecp521
        | KeGroup::Brainpool224
        | KeGroup::Brainpool256
        | KeGroup::Brainpool384
        | KeGroup::Brainpool512
        | KeGroup::MlKem512
        | KeGroup::MlKem768
        | KeGroup::MlKem1024 => None,
    }
}

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
