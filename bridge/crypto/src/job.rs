//! Public-key work that an endpoint hands out and takes back.

use crate::error::CryptoError;
use crate::ke::{KeGroup, KeyPair};
use crate::secret::Secret;

/// Work that may run anywhere.
#[derive(Debug)]
pub enum Job {
    /// Make a key pair and agree with the peer's public value.
    KeyExchange {
        /// The group.
        group: KeGroup,
        /// [`KeGroup::seed_len`] random octets that the private value is made of.
        private: Secret,
        /// The peer's public value.
        peer: Vec<u8>,
    },
}

/// What came of a [`Job`].
#[derive(Debug)]
pub enum JobDone {
    /// Our public value and the shared secret.
    KeyExchange(Result<(Vec<u8>, Secret), CryptoError>),
}

impl Job {
    /// Does the work.
    #[must_use]
    pub fn run(self) -> JobDone {
        match self {
            Job::KeyExchange { group, private, peer } => JobDone::KeyExchange(
                KeyPair::from_seed(group, private.expose())
                    .and_then(|pair| pair.agree(&peer).map(|shared| (pair.public().to_vec(), shared))),
            ),
        }
    }
}
