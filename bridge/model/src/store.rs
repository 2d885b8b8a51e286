//! What must survive a restart, as records under string keys. The store seals values; this crate only makes them.
//!
//! Keys look like paths: `group/NAME/state`, `group/NAME/member/IDENTITY`, `group/NAME/tree/gdoi/17`.

use std::io::{self, Write};

use keyferry_crypto::Secret;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

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
    StoreOp::Put(key, record(value))
}

/// A value as a record. Nothing of it stays behind in memory.
///
/// # Panics
/// If the value has a serializer that fails, or keys that are no text.
#[must_use]
pub fn record<T: Serialize>(value: &T) -> Secret {
    let mut writer = Wiping(Zeroizing::new(Vec::with_capacity(256)));
    serde_json::to_writer(&mut writer, value).expect("records have text as keys and no failing serializers");
    Secret::new(std::mem::take(&mut writer.0))
}

/// A buffer that wipes its old place when it moves to a larger one.
struct Wiping(Zeroizing<Vec<u8>>);

impl Write for Wiping {
    fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
        let wanted = self.0.len() + octets.len();
        if wanted > self.0.capacity() {
            let mut larger = Zeroizing::new(Vec::with_capacity(wanted.max(2 * self.0.capacity())));
            larger.extend_from_slice(&self.0);
            // The smaller one is wiped, over all of its capacity, as it is dropped.
            self.0 = larger;
        }
        self.0.extend_from_slice(octets);
        Ok(octets.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn records_of_any_length_come_back() {
        for len in [0, 1, 100, 255, 256, 257, 5_000] {
            let value = SecretRecord((0..len).map(|n| (n % 251) as u8).collect());
            let bytes = record(&value);
            assert_eq!(bytes.expose(), serde_json::to_vec(&value).unwrap());
            assert_eq!(get::<SecretRecord>("key", &bytes).unwrap().expose(), value.expose());
        }
    }

    #[test]
    fn a_buffer_never_grows_in_its_place() {
        let mut writer = Wiping(Zeroizing::new(Vec::with_capacity(4)));
        for _ in 0..100 {
            let (place, room) = (writer.0.as_ptr(), writer.0.capacity() - writer.0.len());
            writer.write_all(&[7; 3]).unwrap();
            // What was not moved was there; what was moved was moved by us, before the vector would have.
            assert!(room < 3 || writer.0.as_ptr() == place);
        }
        assert_eq!(*writer.0, [7; 300]);
    }
}
