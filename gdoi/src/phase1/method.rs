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

    /// Its number.
    pub(crate) fn number(self) -> u16 {
        match self {
            Method::PreSharedKey => phase1::PRE_SHARED_KEY,
            Method::Signature(KeyKind::Rsa) => phase1::RSA_SIGNATURES,
            Method::Signature(KeyKind::EcP256) => phase1::ECDSA_256,
            Method::Signature(KeyKind::EcP384) => phase1::ECDSA_384,
            Method::Signature(KeyKind::EcP521) => phase1::ECDSA_521,
        }
    }
}

/// The ways to sign that are taken, and first the one that we use. RSA signs the hash itself (RFC 2409 section 5.1), and
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
    };
    let mut hmacs = vec![curve, suite.hash];
    hmacs.dedup();
    let ways = [DigestSignature::EcdsaDigest, DigestSignature::EcdsaHashed(curve)];
    ways.into_iter().flat_map(|how| hmacs.iter().map(move |&hmac| Reading { hmac, how })).collect()
}
