//! Signatures in AUTH: which method and algorithm we sign with, and which we take (RFC 7296 section 3.8, RFC 7427, RFC 8420,
//! RFC 4754).
//!
//! Both sides announce the hashes they take in IKE_SA_INIT. Whoever does knows method 14, which then is the only one; for
//! whoever does not, the method follows from the key: 1, 9, 10 or 11.

use keyferry_crypto::{Hash, KeyKind, SignatureAlgorithm, SignatureForm, SignatureScheme};
use keyferry_wire::{Decode, Encode};

use crate::reject::Reject;
use crate::wire::auth::{Auth, SignatureData};
use crate::wire::message::Payloads;
use crate::wire::notify::Notify;
use crate::wire::registry::{AuthMethod, HashAlgorithm, NotifyType};

/// Hashes that we take, best first. SHA-1 is none of them.
const HASHES: [(Hash, HashAlgorithm); 3] = [
    (Hash::Sha256, HashAlgorithm::SHA2_256),
    (Hash::Sha384, HashAlgorithm::SHA2_384),
    (Hash::Sha512, HashAlgorithm::SHA2_512),
];

/// What a peer said of the hashes it takes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Announced {
    /// Did it say anything at all?
    said: bool,
    /// Those of [`HASHES`] that it named.
    hashes: Vec<Hash>,
    /// It takes algorithms that hash for themselves.
    identity: bool,
}

/// SIGNATURE_HASH_ALGORITHMS of ours.
pub(crate) fn announcement() -> Notify<'static> {
    let all = HASHES.iter().map(|(_, number)| *number).chain([HashAlgorithm::IDENTITY]);
    Notify::new(NotifyType::SIGNATURE_HASH_ALGORITHMS, all.flat_map(|n| n.0.to_be_bytes()).collect::<Vec<u8>>())
}

impl Announced {
    /// Reads it out of an IKE_SA_INIT message. Nothing protects that, but AUTH covers it.
    pub(crate) fn read(payloads: &Payloads<'_>) -> Result<Self, Reject> {
        let Some(notify) = payloads.notify(NotifyType::SIGNATURE_HASH_ALGORITHMS) else { return Ok(Self::default()) };
        let (pairs, rest) = notify.data.as_chunks::<2>();
        if !rest.is_empty() {
            return Err(Reject::Malformed("hash algorithms have two octets"));
        }
        let has = |number: HashAlgorithm| pairs.iter().any(|pair| u16::from_be_bytes(*pair) == number.0);
        let hashes = HASHES.iter().filter(|(_, number)| has(*number)).map(|(hash, _)| *hash).collect();
        Ok(Self { said: true, hashes, identity: has(HashAlgorithm::IDENTITY) })
    }

    /// Does the peer know method 14?
    pub(crate) fn knows_digital_signatures(&self) -> bool {
        self.said
    }
}

/// How we sign.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Way {
    pub(crate) method: AuthMethod,
    pub(crate) form: SignatureForm,
}

/// Which padding RSA signatures of method 14 have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Padding {
    /// RSASSA-PSS, which every peer should know (RFC 8247 section 3.2).
    #[default]
    Pss,
    /// RSASSA-PKCS1-v1_5, for peers that use it themselves.
    Pkcs1,
}

impl Way {
    /// How to sign with a key of this kind, so that the peer can check it; `None` if it cannot.
    pub(crate) fn of(kind: KeyKind, peer: &Announced, padding: Padding, danger_sha1: bool) -> Option<Self> {
        let older = |method, scheme| Some(Self { method, form: SignatureForm::Scheme(scheme) });
        if !peer.said {
            return match kind {
                // RFC 7296 section 3.8 has SHA-1 as the usual hash, and others where they are known to be taken.
                KeyKind::Rsa if danger_sha1 => older(AuthMethod::RSA, SignatureScheme::RsaPkcs1Sha1),
                KeyKind::Rsa => older(AuthMethod::RSA, SignatureScheme::RsaPkcs1Sha256),
                KeyKind::EcP256 => older(AuthMethod::ECDSA_256, SignatureScheme::EcdsaP256Sha256),
                KeyKind::EcP384 => older(AuthMethod::ECDSA_384, SignatureScheme::EcdsaP384Sha384),
                KeyKind::EcP521 => older(AuthMethod::ECDSA_521, SignatureScheme::EcdsaP521Sha512),
                KeyKind::Ed25519 | KeyKind::Ed448 => None,
            };
        }
        // The hash of the key's strength, else the strongest.
        let hash = |wanted: Hash| peer.hashes.iter().find(|h| **h == wanted).or(peer.hashes.last()).copied();
        let algorithm = match (kind, padding) {
            (KeyKind::Rsa, Padding::Pss) => SignatureAlgorithm::RsaPss(hash(Hash::Sha256)?),
            (KeyKind::Rsa, Padding::Pkcs1) => SignatureAlgorithm::RsaPkcs1(hash(Hash::Sha256)?),
            (KeyKind::EcP256, _) => SignatureAlgorithm::Ecdsa(hash(Hash::Sha256)?),
            (KeyKind::EcP384, _) => SignatureAlgorithm::Ecdsa(hash(Hash::Sha384)?),
            (KeyKind::EcP521, _) => SignatureAlgorithm::Ecdsa(hash(Hash::Sha512)?),
            (KeyKind::Ed25519, _) if peer.identity => SignatureAlgorithm::Ed25519,
            (KeyKind::Ed448, _) if peer.identity => SignatureAlgorithm::Ed448,
            (KeyKind::Ed25519 | KeyKind::Ed448, _) => return None,
        };
        Some(Self { method: AuthMethod::DIGITAL_SIGNATURE, form: SignatureForm::Algorithm(algorithm) })
    }

    /// The AUTH payload with a signature made this way.
    pub(crate) fn auth(self, signature: &[u8]) -> Auth<'static> {
        let data = match self.form {
            SignatureForm::Algorithm(algorithm) => {
                SignatureData { algorithm: &algorithm.to_der(), value: signature }.to_vec()
            }
            SignatureForm::Scheme(_) | SignatureForm::Digest(_) => signature.to_vec(),
        };
        Auth { method: self.method, data: data.into() }
    }
}

/// A signature of the peer, not checked yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Signed<'a> {
    /// The forms that it may have.
    pub(crate) forms: Vec<SignatureForm>,
    pub(crate) value: &'a [u8],
}

impl<'a> Signed<'a> {
    /// Reads AUTH of a peer that announced so. Method 14 is for those that know it, who use no other (RFC 7427 section 3),
    /// and a hash that we did not announce is not taken.
    pub(crate) fn read(auth: &'a Auth<'a>, peer: &Announced, danger_sha1: bool) -> Result<Self, Reject> {
        const METHOD: Reject = Reject::Unauthenticated("an authentication method that is not taken here");
        const OBJECT: Reject = Reject::Unauthenticated("a signature algorithm that is not taken");
        let older = |schemes: &[SignatureScheme]| {
            let forms = schemes.iter().map(|scheme| SignatureForm::Scheme(*scheme)).collect();
            if peer.said { Err(METHOD) } else { Ok(Self { forms, value: &auth.data }) }
        };
        match auth.method {
            AuthMethod::DIGITAL_SIGNATURE if peer.said => {
                let data = SignatureData::exact(&auth.data).map_err(|_| OBJECT)?;
                let algorithm = SignatureAlgorithm::from_der(data.algorithm).filter(|a| !a.is_weak());
                let algorithm = algorithm.ok_or(OBJECT)?;
                Ok(Self { forms: vec![SignatureForm::Algorithm(algorithm)], value: data.value })
            }
            AuthMethod::RSA => {
                let mut schemes = vec![
                    SignatureScheme::RsaPkcs1Sha256,
                    SignatureScheme::RsaPkcs1Sha384,
                    SignatureScheme::RsaPkcs1Sha512,
                ];
                schemes.extend(danger_sha1.then_some(SignatureScheme::RsaPkcs1Sha1));
                older(&schemes)
            }
            AuthMethod::ECDSA_256 => older(&[SignatureScheme::EcdsaP256Sha256]),
            AuthMethod::ECDSA_384 => older(&[SignatureScheme::EcdsaP384Sha384]),
            AuthMethod::ECDSA_521 => older(&[SignatureScheme::EcdsaP521Sha512]),
            _ => Err(METHOD),
        }
    }

    /// The padding to answer with.
    pub(crate) fn padding(&self) -> Padding {
        match self.forms.first() {
            Some(SignatureForm::Algorithm(SignatureAlgorithm::RsaPkcs1(_))) => Padding::Pkcs1,
            Some(SignatureForm::Algorithm(_) | SignatureForm::Scheme(_) | SignatureForm::Digest(_)) | None => {
                Padding::Pss
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
