//! What private and public keys have in common.

use openssl::ec::EcKey;
use openssl::pkey::{HasPublic, PKey};
use openssl::rsa::Rsa;

use super::{KeyKind, edwards};

/// A key by its kind, private or public.
pub(super) enum Key<T> {
    Rsa(Rsa<T>),
    Ec(KeyKind, EcKey<T>),
    Edwards(KeyKind, PKey<T>),
}

impl<T: HasPublic> Key<T> {
    pub(super) fn kind(&self) -> KeyKind {
        match self {
            Key::Rsa(_) => KeyKind::Rsa,
            Key::Ec(kind, _) | Key::Edwards(kind, _) => *kind,
        }
    }

    /// Octets of a signature: those of the RSA modulus, or of both halves.
    pub(super) fn signature_len(&self) -> usize {
        match self {
            Key::Rsa(key) => key.size() as usize,
            Key::Ec(kind, _) => 2 * kind.half(),
            Key::Edwards(kind, _) => edwards::signature_len(*kind),
        }
    }
}
