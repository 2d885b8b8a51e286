//! Epochs: one set of traffic keys, handed out by both protocols alike.

use std::sync::Arc;
use std::time::Duration;

use keyferry_crypto::{Random, Secret};
use serde::{Deserialize, Serialize};

use crate::policy::{GroupPolicy, TrafficPolicy};
use crate::store::SecretRecord;

/// A data SA as the key server knows it.
#[derive(Debug)]
pub struct DataSa {
    /// SPI; at least 256, unique within the group.
    pub spi: u32,
    /// The policy line it protects.
    pub policy: Arc<TrafficPolicy>,
    /// Keying material, encryption key (with salt) then integrity key.
    pub keymat: Secret,
}

/// One generation of traffic keys. All times are wall clock.
#[derive(Debug)]
pub struct Epoch {
    /// Counts up from 1.
    pub number: u64,
    /// One SA per line of the traffic policy, in its order.
    pub sas: Vec<DataSa>,
    /// When it was announced.
    pub announced: Duration,
    /// When senders switch to it.
    pub activates: Duration,
    /// When its keys must not be used any more.
    pub expires: Duration,
}

impl Epoch {
    /// Draws keys and SPIs. `taken` says which SPIs are in use.
    pub fn generate(
        number: u64,
        policy: &GroupPolicy,
        announced: Duration,
        activates: Duration,
        taken: &dyn Fn(u32) -> bool,
        rng: &mut dyn Random,
    ) -> Self {
        let mut sas: Vec<DataSa> = Vec::with_capacity(policy.traffic.len());
        for line in &policy.traffic {
            let spi = loop {
                let spi = rng.u32();
                // RFC 4303 section 2.1 reserves 0 to 255.
                if spi >= 256 && !taken(spi) && sas.iter().all(|sa| sa.spi != spi) {
                    break spi;
                }
            };
            let keymat = Secret::random(line.transform.keymat_len(), rng);
            sas.push(DataSa { spi, policy: Arc::clone(line), keymat });
        }
        Self { number, sas, announced, activates, expires: activates + policy.tek_lifetime }
    }

    /// SPIs, in the order of the policy lines.
    #[must_use]
    pub fn spis(&self) -> Vec<u32> {
        self.sas.iter().map(|sa| sa.spi).collect()
    }

    /// What is left of its life.
    #[must_use]
    pub fn remaining(&self, wall: Duration) -> Duration {
        self.expires.saturating_sub(wall)
    }

    pub(crate) fn to_record(&self) -> EpochRecord {
        EpochRecord {
            number: self.number,
            sas: self.sas.iter().map(|sa| (sa.spi, SecretRecord::of(&sa.keymat))).collect(),
            announced: self.announced,
            activates: self.activates,
            expires: self.expires,
        }
    }

    /// `None` when the stored SAs do not fit the policy lines any more.
    pub(crate) fn from_record(record: EpochRecord, policy: &GroupPolicy) -> Option<Self> {
        if record.sas.len() != policy.traffic.len() {
            return None;
        }
        let sas = record
            .sas
            .into_iter()
            .zip(&policy.traffic)
            .map(|((spi, keymat), line)| {
                let keymat = keymat.into_secret();
                (keymat.len() == line.transform.keymat_len()).then(|| DataSa { spi, policy: Arc::clone(line), keymat })
            })
            .collect::<Option<Vec<_>>>()?;
        Some(Self {
            number: record.number,
            sas,
            announced: record.announced,
            activates: record.activates,
            expires: record.expires,
        })
    }
}

/// An epoch as it is stored.
#[derive(Serialize, Deserialize)]
pub(crate) struct EpochRecord {
    number: u64,
    sas: Vec<(u32, SecretRecord)>,
    announced: Duration,
    activates: Duration,
    expires: Duration,
}
