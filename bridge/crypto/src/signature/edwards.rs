//! Ed25519 and Ed448 (RFC 8032) with keys as RFC 8410 writes them.

use openssl::pkey::{HasPrivate, HasPublic, Id, PKey, PKeyRef, Private, Public};
use openssl::sign::{Signer, Verifier};

use super::KeyKind;
use crate::CryptoError;

/// The kinds, what stands in front of the key in their SubjectPublicKeyInfo, octets of a key and of a signature.
const KINDS: [(KeyKind, Id, &[u8], usize, usize); 2] = [
    (KeyKind::Ed25519, Id::ED25519, b"\x30\x2a\x30\x05\x06\x03\x2b\x65\x70\x03\x21\x00", 32, 64),
    (KeyKind::Ed448, Id::ED448, b"\x30\x43\x30\x05\x06\x03\x2b\x65\x71\x03\x3a\x00", 57, 114),
];

/// The kind of a private key, if it is one of these.
pub(super) fn kind(key: &PKeyRef<Private>) -> Option<KeyKind> {
    KINDS.into_iter().find(|(_, id, ..)| *id == key.id()).map(|(kind, ..)| kind)
}

/// Makes a new key.
pub(super) fn generate(kind: KeyKind) -> Result<PKey<Private>, CryptoError> {
    match kind {
        KeyKind::Ed25519 => Ok(PKey::generate_ed25519()?),
        KeyKind::Ed448 => Ok(PKey::generate_ed448()?),
        KeyKind::Rsa | KeyKind::EcP256 | KeyKind::EcP384 | KeyKind::EcP521 => {
            Err(CryptoError::SignatureKey("neither Ed25519 nor Ed448"))
        }
    }
}

/// The key of a SubjectPublicKeyInfo; `None` if it is of another algorithm.
pub(super) fn public(spki: &[u8]) -> Option<Result<(KeyKind, PKey<Public>), CryptoError>> {
    let (kind, id, _, len, octets) = KINDS
        .into_iter()
        .find_map(|(kind, id, prefix, len, _)| Some((kind, id, prefix, len, spki.strip_prefix(prefix)?)))?;
    if octets.len() != len {
        return Some(Err(CryptoError::SignatureKey("an Edwards key of another length")));
    }
    Some(PKey::public_key_from_raw_bytes(octets, id).map(|key| (kind, key)).map_err(CryptoError::from))
}

/// Octets of a signature; zero for other kinds.
pub(super) fn signature_len(kind: KeyKind) -> usize {
    KINDS.into_iter().find(|(k, ..)| *k == kind).map_or(0, |(.., len)| len)
}

/// Signs; the same octets give the same signature.
pub(super) fn sign<T: HasPrivate>(key: &PKeyRef<T>, octets: &[u8]) -> Result<Vec<u8>, CryptoError> {
    Ok(Signer::new_without_digest(key)?.sign_oneshot_to_vec(octets)?)
}

/// Is this a signature? Whatever goes wrong means no.
pub(super) fn verify<T: HasPublic>(key: &PKeyRef<T>, octets: &[u8], value: &[u8]) -> bool {
    Verifier::new_without_digest(key).and_then(|mut v| v.verify_oneshot(value, octets)).unwrap_or(false)
}
