//! What must survive a restart, as records under string keys. The store seals values; this crate only makes them.
//!
//! Keys look like paths: `group/NAME/state`, `group/NAME/member/IDENTITY`, `group/NAME/tree/gdoi/17`.

use keyferry_crypto::Secret;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, ZeroizeOnDrop};

/// A change to the store. Operations of one step belong into one transaction.
#[derive(Debug)]
pub enum StoreOp {
    /// Write or replace.
    Put(String, Secret),
    /// Remove; no error if there is none.
    Delete(String),
}

/// A stored record that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("record {key}: {why}")]
pub struct RecordError {
    /// Key of the record.
    pub key: String,
    /// What is wrong with it.
    pub why: String,
}

impl RecordError {
    pub(crate) fn new(key: &str, why: impl Into<String>) -> Self {
        Self { key: key.to_owned(), why: why.into() }
    }
}

pub(crate) fn put<T: Serialize>(key: String, value: &T) -> StoreOp {
    let bytes = serde_json::to_vec(value).expect("records have string keys and no failing serializers");
    StoreOp::Put(key, Secret::new(bytes))
}

pub(crate) fn get<T: DeserializeOwned>(key: &str, bytes: &Secret) -> Result<T, RecordError> {
    serde_json::from_slice(bytes.expose()).map_err(|e| RecordError::new(key, e.to_string()))
}

/// Key material on its way into or out of a record; zeroized when dropped.
#[derive(Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
#[serde(transparent)]
pub struct SecretRecord(Vec<u8>);

impl SecretRecord {
    /// A copy for a record.
    #[must_use]
    pub fn of(secret: &Secret) -> Self {
        Self(secret.expose().to_vec())
    }

    /// The octets themselves. Keep the borrow short.
    #[must_use]
    pub fn expose(&self) -> &[u8] {
        &self.0
    }

    pub(crate) fn into_secret(mut self) -> Secret {
        Secret::new(std::mem::take(&mut self.0))
    }
}
