//! The states that were installed, and what is read back of them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::message::{KnownState, StateKey};
use crate::drops::DropReason;
use crate::sa::Sa;

/// An SA's states.
pub(super) struct Placed {
    pub(super) sa: Arc<Sa>,
    /// One for each address to which packets of it go.
    pub(super) at: BTreeSet<IpAddr>,
    before: Before,
    /// Does a device decrypt what comes by it?
    offloaded: bool,
}

/// What had been counted when the states were installed.
struct Before {
    sent: u32,
    sealed: (u64, u64),
    opened: (u64, u64),
    both: u64,
    replayed: u64,
    forged: u64,
}

impl Placed {
    pub(super) fn new(sa: Arc<Sa>, at: BTreeSet<IpAddr>) -> Self {
        let state = &sa.state;
        let before = Before {
            sent: state.numbers.used(false).0,
            sealed: state.sealed.get(),
            opened: state.opened.get(),
            both: state.octets_both.load(Ordering::Relaxed),
            replayed: state.drops.get(DropReason::InStateSeqError),
            forged: state.drops.get(DropReason::InStateProtoError),
        };
        Self { sa, at, before, offloaded: false }
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = StateKey> {
        let spi = self.sa.spi;
        self.at.iter().map(move |destination| StateKey { destination: *destination, spi })
    }

    /// Takes over what the kernel has counted. It counts packets of both ways together, but a number for each packet sent.
    pub(super) fn read(&mut self, known: &[KnownState]) {
        let (state, before) = (&self.sa.state, &self.before);
        let sum = |of: fn(&KnownState) -> u64| known.iter().map(of).sum::<u64>();
        let sent = known.iter().map(|state| state.sent).max().unwrap_or(0);
        let (packets, octets) = (sum(|state| state.packets), sum(|state| state.octets));
        let sealed = u64::from(sent.saturating_sub(before.sent));
        let opened = packets.saturating_sub(sealed);
        state.numbers.reach(sent);
        if let (Some(windows), Some(seen)) = (&state.windows, known.iter().map(|state| state.seen).max()) {
            windows.raise(seen);
        }
        let (sealed_octets, opened_octets, both) = match (sealed, opened) {
            (_, 0) => (octets, 0, 0),
            (0, _) => (0, octets, 0),
            (_, _) => (0, 0, octets),
        };
        state.sealed.set(before.sealed.0 + sealed, before.sealed.1 + sealed_octets);
        state.opened.set(before.opened.0 + opened, before.opened.1 + opened_octets);
        state.octets_both.store(before.both + both, Ordering::Relaxed);
        state.drops.set(DropReason::InStateSeqError, before.replayed + sum(|state| state.replayed.into()));
        state.drops.set(DropReason::InStateProtoError, before.forged + sum(|state| state.forged.into()));
        self.offloaded = known.iter().any(|state| state.offloaded);
    }
}

/// All of them, by SPI.
#[derive(Default)]
pub(super) struct States(pub(super) BTreeMap<u32, Placed>);

impl States {
    /// Takes over what the kernel has counted, and gives the SPIs of those that are there no more.
    pub(super) fn read(&mut self, known: &[KnownState]) -> Vec<u32> {
        let by_key: BTreeMap<StateKey, &KnownState> = known.iter().map(|state| (state.key, state)).collect();
        let mut lost = Vec::new();
        for (spi, placed) in &mut self.0 {
            let found: Vec<KnownState> = placed.keys().filter_map(|key| by_key.get(&key).copied().copied()).collect();
            if found.len() < placed.at.len() {
                lost.push(*spi);
            } else {
                placed.read(&found);
            }
        }
        lost
    }

    /// SPIs of those by which a device decrypts what comes.
    pub(super) fn offloaded(&self) -> Vec<String> {
        self.0.values().filter(|placed| placed.offloaded).map(|placed| format!("{:#010x}", placed.sa.spi)).collect()
    }
}
