//! How the peers of a phase 1 authenticate.

use keyferry_crypto::{DigestSignature, Hash, KeyKind};
use keyferry_model::reading::{Reading, Readings};

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
pub(crate) struct Way {
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

/// The readings that say how HASH_I and HASH_R are signed.
const OF_SIGNATURES: [Reading; 3] = [Reading::RsaDigestInfo, Reading::EcdsaNegotiatedHash, Reading::EcdsaHashedTwice];

impl Way {
    /// The way to sign in these readings; none without a [method](Method::number). RSA signs the hash itself (RFC 2409 section 5.1), and some put it into a DigestInfo.
    /// ECDSA is bound to the hash of its curve, so that one's HMAC makes HASH_I and HASH_R, which is then what is signed (RFC
    /// 4754 section 4 with RFC 2409 section 5.1); others keep the negotiated hash there, or hash once more.
    pub(crate) fn of(suite: Suite, kind: KeyKind, readings: Readings) -> Option<Self> {
        let curve = match kind {
            KeyKind::Rsa if readings.has(Reading::RsaDigestInfo) => {
                return Some(Self { hmac: suite.hash, how: DigestSignature::RsaDigestInfo(suite.hash) });
            }
            KeyKind::Rsa => return Some(Self { hmac: suite.hash, how: DigestSignature::RsaRaw }),
            KeyKind::EcP256 => Hash::Sha256,
            KeyKind::EcP384 => Hash::Sha384,
            KeyKind::EcP521 => Hash::Sha512,
            KeyKind::Ed25519 | KeyKind::Ed448 => return None,
        };
        let twice = readings.has(Reading::EcdsaHashedTwice);
        let how = if twice { DigestSignature::EcdsaHashed(curve) } else { DigestSignature::EcdsaDigest };
        let hmac = if readings.has(Reading::EcdsaNegotiatedHash) { suite.hash } else { curve };
        Some(Self { hmac, how })
    }
}

/// The ways to sign that are taken, each with the readings that it is of: first the one that a peer was seen to use.
pub(crate) fn ways(suite: Suite, kind: KeyKind, seen: Readings) -> Vec<(Readings, Way)> {
    let mut ways: Vec<(Readings, Way)> = Vec::new();
    // Every combination, smaller ones first: those that say nothing of this kind of key come to a way that is there already.
    for n in 0..1u8 << OF_SIGNATURES.len() {
        let chosen = OF_SIGNATURES.into_iter().enumerate().filter(|(i, _)| n >> i & 1 == 1);
        let readings: Readings = chosen.map(|(_, reading)| reading).collect();
        let new = Way::of(suite, kind, readings).filter(|way| ways.iter().all(|(_, known)| known != way));
        ways.extend(new.map(|way| (readings, way)));
    }
    let likely = Way::of(suite, kind, seen);
    // The others keep their order.
    ways.sort_by_key(|(_, way)| Some(*way) != likely);
    ways
}
