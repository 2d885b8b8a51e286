//! Secrets and the cryptographic primitives that Keyferry names, over OpenSSL.
//!
//! Algorithms have names here, not numbers: AES-CBC is 7 in IKEv1 phase 1, 3 as a GDOI KEK and 12 in IKEv2, and each
//! protocol crate keeps its own registry. Randomness is passed in as [`Random`]; the exceptions are
//! [`SigningKey::generate_rsa`], [`SigningKey::generate_ec`], [`SigningKey::generate_edwards`], and signatures by ECDSA and
//! RSASSA-PSS, which use OpenSSL's generator.

mod aead;
mod cipher;
mod der;
mod error;
mod hash;
mod integrity;
mod job;
mod ke;
pub mod keywrap;
mod peer;
mod prf;
mod random;
mod secret;
mod signature;
pub mod x509;

pub use aead::{Aead, AeadKey, AeadMode};
pub use cipher::{AesCtr, BlockCipher};
pub use error::CryptoError;
pub use hash::Hash;
pub use integrity::{Integrity, IntegrityKey};
pub use job::{Job, JobDone, ToSign};
pub use ke::{KeGroup, KeyPair};
pub use peer::{CheckedPeer, PeerCheck, PeerError};
pub use prf::{Prf, PrfKey};
pub use random::{Random, SeededRandom};
pub use secret::{Secret, ct_eq};
pub use signature::{
    DigestSignature, KeyKind, SignatureAlgorithm, SignatureForm, SignatureScheme, SigningKey, VerifyingKey,
    ecdsa_from_der, ecdsa_to_der,
};
