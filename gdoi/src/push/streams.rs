//! A member's IEC 61850 streams: which there are, and when the newest of each runs out.

use std::time::Duration;

use keyferry_model::oid::OidName;
use keyferry_model::time::Now;
use keyferry_model::update::{NewStream, Removal, StreamUpdate};

use super::content::Deletes;

/// The most streams remembered: those of a few epochs of the largest policy.
const MAX_STREAMS: usize = 1024;

#[derive(Debug)]
struct Stream {
    spi: u32,
    name: OidName,
    /// Monotonic.
    expires: Duration,
    lifetime: Duration,
}

/// Streams that have been installed and not been removed, oldest first.
#[derive(Debug, Default)]
pub(crate) struct Streams(Vec<Stream>);

impl Streams {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn knows(&self, spi: u32) -> bool {
        self.0.iter().any(|s| s.spi == spi)
    }

    /// Adds what is installed, and forgets replaced keys that have run out. One told again is as new as it says.
    pub(crate) fn note(&mut self, install: &[NewStream], now: Now) {
        let replaced = |s: &Stream| install.iter().any(|new| new.name == s.name) && s.expires <= now.mono;
        self.0.retain(|s| !replaced(s) && install.iter().all(|new| new.spi != s.spi));
        self.0.extend(install.iter().map(|new| Stream {
            spi: new.spi,
            name: new.name.clone(),
            expires: new.lifetime.map_or(Duration::MAX, |l| now.mono + l),
            lifetime: new.lifetime.unwrap_or(Duration::MAX),
        }));
        self.0.drain(..self.0.len().saturating_sub(MAX_STREAMS));
    }

    /// Without those that were the newest there is nothing to run out.
    pub(crate) fn forget(&mut self, deletes: &Deletes) {
        self.0.retain(|s| !deletes.all_streams && !deletes.streams.contains(&s.spi));
    }

    /// When the first stream is left without keys (monotonic), and how long those had to live.
    pub(crate) fn run_out(&self) -> (Duration, Duration) {
        let newest = |i: usize| self.0[i + 1..].iter().all(|later| later.name != self.0[i].name);
        let ends = (0..self.0.len()).filter(|i| newest(*i)).map(|i| (self.0[i].expires, self.0[i].lifetime));
        ends.min().unwrap_or((Duration::MAX, Duration::MAX))
    }
}

/// What a push does to streams, if anything.
pub(crate) fn update(
    install: Vec<NewStream>,
    deletes: &mut Deletes,
    deactivation_delay: Duration,
) -> Option<StreamUpdate> {
    let remove = if deletes.all_streams { Removal::All } else { Removal::Spis(std::mem::take(&mut deletes.streams)) };
    let nothing = install.is_empty() && remove == Removal::Spis(Vec::new());
    (!nothing).then_some(StreamUpdate { install, remove, deactivation_delay, sender_ids: None })
}
