//! What a rekey SA was made for, as it is stored: enough to send under it after the configuration has changed.

use std::sync::Arc;

use keyferry_crypto::{BlockCipher, Hash, SignatureAlgorithm, SignatureScheme, SigningKey};
use serde::{Deserialize, Serialize};

use crate::id::Protocol;
use crate::policy::{
    AckType, GdoiRekey, Gikev2Rekey, GroupPolicy, KekManagement, RekeyAuthentication, RekeyProtection, RekeyTransport,
};

/// How a signature is made, and by which key: the hash of its public half.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Signing {
    scheme: Way,
    key: Vec<u8>,
}

/// A way to sign.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
enum Way {
    Scheme(SignatureScheme),
    /// One that is no scheme, by its AlgorithmIdentifier.
    Algorithm(Vec<u8>),
}

impl Signing {
    fn of(scheme: SignatureScheme, key: &SigningKey) -> Self {
        Self { scheme: Way::Scheme(scheme), key: key_hash(key) }
    }

    fn named(algorithm: SignatureAlgorithm, key: &SigningKey) -> Self {
        let der = algorithm.to_der();
        let scheme = SignatureScheme::from_algorithm_identifier(&der);
        Self { scheme: scheme.map_or_else(|| Way::Algorithm(der.into_owned()), Way::Scheme), key: key_hash(key) }
    }

    fn scheme(&self) -> Option<SignatureScheme> {
        match &self.scheme {
            Way::Scheme(scheme) => Some(*scheme),
            Way::Algorithm(_) => None,
        }
    }

    fn algorithm(&self) -> Option<SignatureAlgorithm> {
        match &self.scheme {
            Way::Scheme(scheme) => SignatureAlgorithm::from_der(scheme.algorithm_identifier()),
            Way::Algorithm(der) => SignatureAlgorithm::from_der(der),
        }
    }
}

/// The hash that names a signing key.
pub(super) fn key_hash(key: &SigningKey) -> Vec<u8> {
    Hash::Sha256.digest(&[&key.public_spki()])
}

/// The part of a policy that a rekey SA stands for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Form {
    Gdoi {
        cipher: BlockCipher,
        transport: RekeyTransport,
        signing: Signing,
        ack: Option<AckType>,
        management: KekManagement,
    },
    Gikev2 {
        protection: RekeyProtection,
        wrap_key_len: usize,
        transport: RekeyTransport,
        signing: Option<Signing>,
    },
}

impl Form {
    /// `None` if the policy does not serve the protocol.
    pub(super) fn of(policy: &GroupPolicy, protocol: Protocol) -> Option<Self> {
        match protocol {
            Protocol::Gdoi => policy.gdoi.as_ref().map(|g| Form::Gdoi {
                cipher: g.cipher,
                transport: g.transport,
                signing: Signing::of(g.scheme, &g.signer),
                ack: g.ack,
                management: g.management,
            }),
            Protocol::Gikev2 => policy.gikev2.as_ref().map(|g| Form::Gikev2 {
                protection: g.protection,
                wrap_key_len: g.wrap_key_len,
                transport: g.transport,
                signing: match &g.authentication {
                    RekeyAuthentication::Implicit => None,
                    RekeyAuthentication::Signature(key, algorithm) => Some(Signing::named(*algorithm, key)),
                },
            }),
        }
    }

    /// The hash of the key that signs, if any does.
    pub(super) fn signer(&self) -> Option<&[u8]> {
        match self {
            Form::Gdoi { signing, .. } => Some(&signing.key),
            Form::Gikev2 { signing, .. } => signing.as_ref().map(|s| s.key.as_slice()),
        }
    }

    /// Do keys of one tree serve for the other?
    pub(super) fn shares_tree(&self, other: &Self) -> bool {
        match (self, other) {
            (
                Form::Gdoi { cipher, management, .. },
                Form::Gdoi { cipher: other_cipher, management: other_management, .. },
            ) => (cipher, management) == (other_cipher, other_management),
            (Form::Gikev2 { wrap_key_len, .. }, Form::Gikev2 { wrap_key_len: other, .. }) => wrap_key_len == other,
            (Form::Gdoi { .. }, Form::Gikev2 { .. }) | (Form::Gikev2 { .. }, Form::Gdoi { .. }) => false,
        }
    }

    /// Can a message under a rekey SA of this form bring one of the other? G-IKEv2 tells how rekeys are authenticated at a
    /// registration only (RFC 9838 section 4.4.2.1.1); another key that does so is told in a rekey (section 2.4.1).
    pub(super) fn can_bring(&self, other: &Self) -> bool {
        match (self, other) {
            (Form::Gikev2 { signing, .. }, Form::Gikev2 { signing: other, .. }) => {
                signing.as_ref().map(|s| &s.scheme) == other.as_ref().map(|s| &s.scheme)
            }
            (Form::Gdoi { .. }, Form::Gdoi { .. }) => true,
            (Form::Gdoi { .. }, Form::Gikev2 { .. }) | (Form::Gikev2 { .. }, Form::Gdoi { .. }) => false,
        }
    }

    /// The policy that this is of: the present one but for what is said here. `signer` is the key that signs, where it is
    /// not the present one. `None` if the present policy does not serve the protocol.
    pub(super) fn policy(
        &self,
        present: &Arc<GroupPolicy>,
        signer: Option<Arc<SigningKey>>,
    ) -> Option<Arc<GroupPolicy>> {
        let mut policy = GroupPolicy::clone(present);
        match self {
            Form::Gdoi { cipher, transport, signing, ack, management } => {
                let present = present.gdoi.clone()?;
                policy.gdoi = Some(GdoiRekey {
                    cipher: *cipher,
                    transport: *transport,
                    scheme: signing.scheme()?,
                    signer: signer.unwrap_or_else(|| Arc::clone(&present.signer)),
                    ack: *ack,
                    management: *management,
                    ..present
                });
            }
            Form::Gikev2 { protection, wrap_key_len, transport, signing } => {
                let present = present.gikev2.clone()?;
                let present_key = match &present.authentication {
                    RekeyAuthentication::Signature(key, _) => Some(Arc::clone(key)),
                    RekeyAuthentication::Implicit => None,
                };
                let authentication = match (signing, signer.or(present_key)) {
                    (None, _) => RekeyAuthentication::Implicit,
                    (Some(signing), Some(key)) => RekeyAuthentication::Signature(key, signing.algorithm()?),
                    (Some(_), None) => return None,
                };
                policy.gikev2 = Some(Gikev2Rekey {
                    protection: *protection,
                    wrap_key_len: *wrap_key_len,
                    transport: *transport,
                    authentication,
                    ..present
                });
            }
        }
        Some(Arc::new(policy))
    }
}

/// The key that signs rekeys of a protocol.
pub(super) fn signer(policy: &GroupPolicy, protocol: Protocol) -> Option<&Arc<SigningKey>> {
    match protocol {
        Protocol::Gdoi => policy.gdoi.as_ref().map(|g| &g.signer),
        Protocol::Gikev2 => match policy.gikev2.as_ref().map(|g| &g.authentication) {
            Some(RekeyAuthentication::Signature(key, _)) => Some(key),
            Some(RekeyAuthentication::Implicit) | None => None,
        },
    }
}
