//! Epochs: one set of traffic keys, handed out by both protocols alike.

use std::sync::Arc;
use std::time::Duration;

use keyferry_crypto::{Random, Secret};
use serde::{Deserialize, Serialize};

use crate::policy::{GroupPolicy, TrafficPolicy};
use crate::store::SecretRecord;
use crate::stream::{StreamPolicy, StreamSa};

/// A data SA as the key server knows it.
#[derive(Debug)]
pub struct DataSa {
    /// SPI; at least 256, unique within the group.
    pub spi: u32,
    /// The policy line it protects.
    pub policy: Arc<TrafficPolicy>,
    /// Keying material, encryption key (with salt) then integrity key.
    pub keymat: Secret,
    /// What the SA that replaces it is to be called, if members are told that (GSA_NEXT_SPI).
    pub next_spi: Option<u32>,
}

/// One generation of traffic keys. All times are wall clock.
#[derive(Debug)]
pub struct Epoch {
    /// Counts up from 1.
    pub number: u64,
    /// One SA per line of the traffic policy, in its order.
    pub sas: Vec<DataSa>,
    /// One SA per stream, in the policy's order.
    pub streams: Vec<StreamSa>,
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
        // Keys are told by their SPI alone, so data SAs and streams share one space of numbers.
        let mut drawn: Vec<u32> = Vec::with_capacity(policy.traffic.len() + policy.streams.len());
        let mut draw = |rng: &mut dyn Random| loop {
            let spi = rng.u32();
            // RFC 4303 section 2.1 reserves 0 to 255.
            if spi >= 256 && !taken(spi) && !drawn.contains(&spi) {
                drawn.push(spi);
                break spi;
            }
        };
        let mut sas: Vec<DataSa> = Vec::with_capacity(policy.traffic.len());
        for line in &policy.traffic {
            let spi = draw(rng);
            let keymat = Secret::random(line.transform.keymat_len(), rng);
            let next_spi = policy.tells_next_spis().then(|| draw(rng));
            sas.push(DataSa { spi, policy: Arc::clone(line), keymat, next_spi });
        }
        let streams = policy.streams.iter().map(|stream| StreamSa::generate(draw(rng), stream, rng)).collect();
        Self { number, sas, streams, announced, activates, expires: activates + policy.tek_lifetime }
    }

    /// The same under the SPIs that members know already from the epoch before, as far as nothing else has them.
    pub(crate) fn called_after(mut self, before: Option<&Epoch>, taken: &dyn Fn(u32) -> bool) -> Self {
        for at in 0..self.sas.len() {
            let same = before.and_then(|b| b.sas.iter().find(|sa| sa.policy == self.sas[at].policy));
            let promised = same.and_then(|sa| sa.next_spi);
            if let Some(spi) = promised.filter(|spi| !taken(*spi) && !self.uses(*spi)) {
                self.sas[at].spi = spi;
            }
        }
        self
    }

    /// SPIs, in the order of the policy lines.
    #[must_use]
    pub fn spis(&self) -> Vec<u32> {
        self.sas.iter().map(|sa| sa.spi).collect()
    }

    /// SPIs of the streams, in their order.
    #[must_use]
    pub fn stream_spis(&self) -> Vec<u32> {
        self.streams.iter().map(|sa| sa.spi).collect()
    }

    /// Is the SPI that of one of its SAs, of whichever kind?
    pub(crate) fn uses(&self, spi: u32) -> bool {
        self.sas.iter().any(|sa| sa.spi == spi) || self.streams.iter().any(|sa| sa.spi == spi)
    }

    /// What is left of its life.
    #[must_use]
    pub fn remaining(&self, wall: Duration) -> Duration {
        self.expires.saturating_sub(wall)
    }

    pub(crate) fn to_record(&self) -> EpochRecord {
        EpochRecord {
            number: self.number,
            sas: self.sas.iter().map(|sa| (sa.spi, (*sa.policy).clone(), SecretRecord::of(&sa.keymat))).collect(),
            streams: self
                .streams
                .iter()
                .map(|sa| (sa.spi, (*sa.policy).clone(), SecretRecord::of(&sa.keymat)))
                .collect(),
            next: self.sas.iter().map(|sa| sa.next_spi).collect(),
            announced: self.announced,
            activates: self.activates,
            expires: self.expires,
        }
    }

    /// Its lines are those it was made with; ones that are still in the policy are shared with it. `None` when a key does
    /// not fit its line.
    pub(crate) fn from_record(record: EpochRecord, policy: &GroupPolicy) -> Option<Self> {
        let shared = |line: TrafficPolicy| {
            policy.traffic.iter().find(|l| ***l == line).map_or_else(|| Arc::new(line), Arc::clone)
        };
        let shared_stream = |line: StreamPolicy| {
            policy.streams.iter().find(|l| ***l == line).map_or_else(|| Arc::new(line), Arc::clone)
        };
        let next = record.next.into_iter().chain(std::iter::repeat(None));
        let sas = record
            .sas
            .into_iter()
            .zip(next)
            .map(|((spi, line, keymat), next_spi)| {
                let keymat = keymat.into_secret();
                let fits = keymat.len() == line.transform.keymat_len();
                fits.then(|| DataSa { spi, policy: shared(line), keymat, next_spi })
            })
            .collect::<Option<Vec<_>>>()?;
        let streams = record
            .streams
            .into_iter()
            .map(|(spi, stream, keymat)| StreamSa::restore(spi, &shared_stream(stream), keymat.into_secret()))
            .collect::<Option<Vec<_>>>()?;
        Some(Self {
            number: record.number,
            sas,
            streams,
            announced: record.announced,
            activates: record.activates,
            expires: record.expires,
        })
    }

    /// Is it what this policy would make, apart from keys and times?
    pub(crate) fn fits(&self, policy: &GroupPolicy) -> bool {
        self.expires.saturating_sub(self.activates) == policy.tek_lifetime
            && self.sas.iter().map(|sa| &*sa.policy).eq(policy.traffic.iter().map(|line| &**line))
            && self.streams.iter().map(|sa| &*sa.policy).eq(policy.streams.iter().map(|line| &**line))
    }

    /// Do its senders need sender IDs?
    pub(crate) fn needs_sender_ids(&self) -> bool {
        self.sas.iter().any(|sa| sa.policy.transform.is_counter_mode())
            || self.streams.iter().any(|sa| sa.policy.needs_sender_ids())
    }
}

/// An epoch as it is stored.
#[derive(Serialize, Deserialize)]
pub(crate) struct EpochRecord {
    number: u64,
    sas: Vec<(u32, TrafficPolicy, SecretRecord)>,
    #[serde(default)]
    next: Vec<Option<u32>>,
    #[serde(default)]
    streams: Vec<(u32, StreamPolicy, SecretRecord)>,
    announced: Duration,
    activates: Duration,
    expires: Duration,
}
