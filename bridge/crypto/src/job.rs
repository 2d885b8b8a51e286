//! Public-key work that an endpoint hands out and takes back.

use std::sync::Arc;

use crate::error::CryptoError;
use crate::ke::{KeGroup, KeyPair};
use crate::peer::{CheckedPeer, PeerCheck, PeerError};
use crate::secret::Secret;
use crate::signature::{SignatureForm, SigningKey};

/// Work that may run anywhere.
#[derive(Debug)]
pub enum Job {
    /// A responder's part of a key exchange.
    KeyExchange {
        /// The group.
        group: KeGroup,
        /// [`KeGroup::seed_len`] random octets that the private value is made of.
        private: Secret,
        /// The peer's public value.
        peer: Vec<u8>,
    },
    /// Make a key pair, for an exchange that we begin.
    KeyPair {
        /// The group.
        group: KeGroup,
        /// [`KeGroup::seed_len`] random octets that the private value is made of.
        private: Secret,
    },
    /// Agree with the peer's public value, by a key pair made before.
    Agree {
        /// Ours.
        pair: Box<KeyPair>,
        /// The peer's public value.
        peer: Vec<u8>,
    },
    /// Check a peer's signature and certificate.
    CheckPeer(Box<PeerCheck>),
    /// Sign.
    Sign {
        /// Our key.
        key: Arc<SigningKey>,
        /// The way to sign.
        how: SignatureForm,
        /// What is signed.
        octets: Secret,
    },
}

/// What came of a [`Job`].
#[derive(Debug)]
pub enum JobDone {
    /// Our public value and the shared secret.
    KeyExchange(Result<(Vec<u8>, Secret), CryptoError>),
    /// The key pair.
    KeyPair(Result<Box<KeyPair>, CryptoError>),
    /// The shared secret.
    Agree(Result<Secret, CryptoError>),
    /// The peer's certificate.
    CheckPeer(Result<CheckedPeer, PeerError>),
    /// The signature.
    Sign(Result<Vec<u8>, CryptoError>),
}

impl Job {
    /// What to hand back where the work cannot be done.
    #[must_use]
    pub fn not_done(&self) -> JobDone {
        match self {
            Job::KeyExchange { .. } => JobDone::KeyExchange(Err(CryptoError::NotDone)),
            Job::KeyPair { .. } => JobDone::KeyPair(Err(CryptoError::NotDone)),
            Job::Agree { .. } => JobDone::Agree(Err(CryptoError::NotDone)),
            Job::CheckPeer(_) => JobDone::CheckPeer(Err(PeerError::NotDone)),
            Job::Sign { .. } => JobDone::Sign(Err(CryptoError::NotDone)),
        }
    }

    /// Does the work.
    #[must_use]
    pub fn run(self) -> JobDone {
        match self {
            Job::KeyExchange { group, private, peer } => JobDone::KeyExchange(group.answer(private.expose(), &peer)),
            Job::KeyPair { group, private } => {
                JobDone::KeyPair(KeyPair::from_seed(group, private.expose()).map(Box::new))
            }
            Job::Agree { pair, peer } => JobDone::Agree(pair.agree(&peer)),
            Job::CheckPeer(check) => JobDone::CheckPeer(check.run()),
            Job::Sign { key, how, octets } => JobDone::Sign(key.sign_form(how, octets.expose())),
        }
    }
}
