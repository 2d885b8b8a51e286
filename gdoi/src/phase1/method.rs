//! How the peers of a phase 1 authenticate.

use keyferry_crypto::{DigestSignature, Hash, KeyKind};

use super::suite::Suite;
use crate::wire::registry::phase1;

/// Authentication method (RFC 2409 appendix A, RFC 4754).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Method {
    /// Whoever has the key is the peer.
    PreSharedKey,
    /// Signatures with the key of a certificate.
    Signature(KeyKind),
}

/// One way to sign HASH_I or HASH_R: which HMAC makes the hash, and what becomes of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Reading {
    pub(crate) hmac: Hash,
    pub(crate) how: DigestSignature,
}

impl Method {
    pub(crate) const ALL: [Method; 5] = [
        Method::PreSharedKey,
        Method::Signature(KeyKind::Rsa),
        Method::Signature(KeyKind::EcP256),
        Method::Signature(KeyKind::EcP384),
        Method::Signature(KeyKind::EcP521),
    ];

    /// Its number; `None` for keys that IKEv1 has no method for.
    pub(crate) fn number(self) -> Option<u16> {
        match self {
            Method::PreSharedKey => Some(phase1::PRE_SHARED_KEY),
            Method::Signature(KeyKind::Rsa) => Some(phase1::RSA_SIGNATURES),
            Method::Signature(KeyKind::EcP256) => Some(phase1::ECDSA_256),
            Method::Signature(KeyKind::EcP384) => Some(phase1::ECDSA_384),
            Method::Signature(KeyKind::EcP521) => Some(phase1::ECDSA_521),
            Method::Signature(KeyKind::Ed25519 | KeyKind::Ed448) => None,
        }
    }
}

/// The ways to sign that are taken, and first the one that we use; none without a [method](Method::number). RSA signs the hash itself (RFC 2409 section 5.1), and
/// some put it into a DigestInfo. ECDSA is bound to the hash of its curve, so that one's HMAC makes HASH_I and HASH_R,
/// which is then what is signed (RFC 4754 section 4 with RFC 2409 section 5.1); others keep the negotiated hash there, or hash
/// once more.
pub(crate) fn readings(suite: Suite, kind: KeyKind) -> Vec<Reading> {
    let curve = match kind {
        KeyKind::Rsa => {
            let reading = |how| Reading { hmac: suite.hash, how };
            return vec![reading(DigestSignature::RsaRaw), reading(DigestSignature::RsaDigestInfo(suite.hash))];
        }
        KeyKind::EcP256 => Hash::Sha256,
        KeyKind::EcP384 => Hash::Sha384,
        KeyKind::EcP521 => Hash::Sha512,
        KeyKind::Ed25519 | KeyKind::Ed448 => return Vec::new(),
    };
    let mut hmacs = vec![curve, suite.hash];
    hmacs.dedup();
    let ways = [DigestSignature::EcdsaDigest, DigestSignature::EcdsaHashed(curve)];
    ways.into_iter().flat_map(|how| hmacs.iter().map(move |&hmac| Reading { hmac, how })).collect()
}
