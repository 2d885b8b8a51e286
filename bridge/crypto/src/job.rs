//! Public-key work that an endpoint hands out and takes back.

use std::sync::Arc;

use crate::error::CryptoError;
use crate::ke::{KeGroup, KeyPair};
use crate::peer::{CheckedPeer, PeerCheck, PeerError};
use crate::secret::Secret;
use crate::signature::{SignatureForm, SigningKey};

/// Times that an ECDSA signature is made anew until its DER has the length that it was prepared for. Each fits with a
/// probability of more than a half.
const TRIES: usize = 128;

/// A signature that a message is prepared for.
#[derive(Debug)]
pub struct ToSign {
    /// Our key.
    pub key: Arc<SigningKey>,
    /// The way to sign.
    pub how: SignatureForm,
    /// What is signed.
    pub octets: Secret,
    /// Octets that the signature is to have.
    pub len: usize,
}

impl ToSign {
    /// Signs.
    ///
    /// # Errors
    /// The key does not fit, or no signature got the length.
    pub fn sign(&self) -> Result<Vec<u8>, CryptoError> {
        for _ in 0..TRIES {
            let value = self.key.sign_form(self.how, self.octets.expose())?;
            if value.len() == self.len {
                return Ok(value);
            }
        }
        Err(CryptoError::Length("signature"))
    }
}

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
    /// Sign a message that is made but for that.
    SignMessage(ToSign),
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
    /// Does a whole group wait for it? No storm of registrations is to delay that.
    #[must_use]
    pub fn is_urgent(&self) -> bool {
        matches!(self, Job::SignMessage(_))
    }

    /// What to hand back where the work cannot be done.
    #[must_use]
    pub fn not_done(&self) -> JobDone {
        match self {
            Job::KeyExchange { .. } => JobDone::KeyExchange(Err(CryptoError::NotDone)),
            Job::KeyPair { .. } => JobDone::KeyPair(Err(CryptoError::NotDone)),
            Job::Agree { .. } => JobDone::Agree(Err(CryptoError::NotDone)),
            Job::CheckPeer(_) => JobDone::CheckPeer(Err(PeerError::NotDone)),
            Job::Sign { .. } | Job::SignMessage(_) => JobDone::Sign(Err(CryptoError::NotDone)),
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
            Job::SignMessage(message) => JobDone::Sign(message.sign()),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::hash::Hash;
    use crate::signature::{KeyKind, SignatureAlgorithm};

    /// DER of ECDSA values has no fixed length.
    #[test]
    fn a_signature_has_the_length_that_was_prepared_for() {
        let key = Arc::new(SigningKey::generate_ec(KeyKind::EcP256).unwrap());
        let how = SignatureForm::Algorithm(SignatureAlgorithm::Ecdsa(Hash::Sha256));
        let job = |len| ToSign { key: Arc::clone(&key), how, octets: Secret::copy_from(b"octets"), len };
        for len in [70, 71, 72] {
            let job = Job::SignMessage(job(len));
            assert!(job.is_urgent());
            let JobDone::Sign(Ok(value)) = job.run() else { panic!("no signature") };
            assert_eq!(value.len(), len);
        }
        assert!(job(80).sign().is_err());
    }
}
