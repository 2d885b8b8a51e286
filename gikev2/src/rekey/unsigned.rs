//! A GSA_REKEY that is made but for its signature, and so neither encrypted nor sent.
//!
//! It can be stored: what a plan has decided must reach the members, whatever happens before the signature is there.

use std::sync::Arc;

use keyferry_crypto::{CryptoError, Random, Secret, SignatureAlgorithm, SignatureForm, SigningKey, ToSign};
use keyferry_model::policy::RekeyProtection;
use keyferry_model::store::SecretRecord;
use keyferry_wire::Header;
use serde::{Deserialize, Serialize};

use super::render::RenderError;
use super::signature::chunk_a;
use crate::wire::sk::SkKeys;

/// The length that a header without a body says.
#[allow(clippy::cast_possible_truncation)]
pub(super) const HEADER_ALONE: u32 = Header::LEN as u32;

/// A message that waits for its signature.
#[derive(Serialize, Deserialize)]
pub struct Unsigned {
    pub(super) header: Vec<u8>,
    /// Kind of the first payload.
    pub(super) first: u8,
    /// The payloads. The value of a signature is zeros, and stands last.
    pub(super) inner: SecretRecord,
    pub(super) signing: Option<Signing>,
    pub(super) protection: RekeyProtection,
    /// GSK_e and GSK_a.
    pub(super) keymat: SecretRecord,
    /// See [`SkKeys::seal`].
    pub(super) unique: u64,
    /// The most octets of a datagram.
    pub(super) limit: Option<usize>,
}

/// How a message is signed.
#[derive(Serialize, Deserialize)]
pub(super) struct Signing {
    /// The key in PEM: it may have been replaced when the record is read.
    pem: SecretRecord,
    /// AlgorithmIdentifier.
    algorithm: Vec<u8>,
    /// Octets of the value.
    len: usize,
    /// The key, where it is still at hand.
    #[serde(skip)]
    key: Option<Arc<SigningKey>>,
}

impl Signing {
    pub(super) fn new(key: &Arc<SigningKey>, algorithm: SignatureAlgorithm, len: usize) -> Self {
        let pem = SecretRecord::of(&key.to_pem());
        Self { pem, algorithm: algorithm.to_der().into_owned(), len, key: Some(Arc::clone(key)) }
    }
}

impl Unsigned {
    fn header(&self) -> Result<Header, RenderError> {
        Header::decode(&self.header).map(|(header, _)| header).map_err(|_| RenderError::NotPrepared)
    }

    /// The signature to make; `None` if it has none.
    ///
    /// # Errors
    /// A record that is none of ours.
    pub fn to_sign(&self) -> Result<Option<ToSign>, RenderError> {
        let Some(signing) = &self.signing else { return Ok(None) };
        let key = match &signing.key {
            Some(key) => Arc::clone(key),
            None => Arc::new(SigningKey::from_pem(signing.pem.expose())?),
        };
        let algorithm = SignatureAlgorithm::from_der(&signing.algorithm).ok_or(RenderError::NotPrepared)?;
        let inner = self.inner.expose();
        let a = chunk_a(&self.header()?, self.first, 0, inner.len());
        let octets = Secret::new([&a, inner].concat());
        Ok(Some(ToSign { key, how: SignatureForm::Algorithm(algorithm), octets, len: signing.len }))
    }

    /// The message, encrypted; in fragments it is their datagrams one after the other, see [`datagrams`](super::datagrams).
    ///
    /// # Errors
    /// A signature that is not the one to make; or the message cannot be encrypted.
    pub fn finish(&self, signature: Option<&[u8]>, rng: &mut dyn Random) -> Result<Vec<u8>, RenderError> {
        let inner = self.inner.expose();
        let len = self.signing.as_ref().map_or(0, |s| s.len);
        let value = signature.unwrap_or_default();
        let at = inner.len().checked_sub(len).filter(|_| value.len() == len).ok_or(RenderError::NotPrepared)?;
        let inner = Secret::new([&inner[..at], value].concat());
        let (e, _) = self.protection.key_lens();
        let (encryption, integrity) =
            self.keymat.expose().split_at_checked(e).ok_or(CryptoError::Length("keying material"))?;
        let keys = SkKeys::new(self.protection, encryption, integrity)?;
        let limit = self.limit.unwrap_or(usize::MAX);
        Ok(keys.seal_within(limit, &self.header()?, self.first, inner.expose(), self.unique, rng)?.0)
    }
}
