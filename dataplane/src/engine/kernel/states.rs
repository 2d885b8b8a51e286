//! The states that were installed, and what is read back of them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::message::{KnownState, StateKey};
use crate::drops::DropReason;
use crate::sa::Sa;

/// Sequence numbers left out when a state is removed: packets that are on their way then may take some after it was
/// read for the last time.
pub(super) const ON_THEIR_WAY: u32 = 1_024;

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

    /// Takes over what the kernel has counted, and says whether all states are there. It counts packets of both ways
    /// together, but a number for each packet sent. Where states are missing only numbers are taken over: the counts of
    /// the others are too low.
    pub(super) fn read(&mut self, known: &[KnownState]) -> bool {
        known.iter().for_each(|known| raise(&self.sa, known.sent, known.seen));
        if known.len() < self.at.len() {
            return false;
        }
        let (state, before) = (&self.sa.state, &self.before);
        let sum = |of: fn(&KnownState) -> u64| known.iter().map(of).sum::<u64>();
        let sent = known.iter().map(|state| state.sent).max().unwrap_or(0);
        let (packets, octets) = (sum(|state| state.packets), sum(|state| state.octets));
        let sealed = u64::from(sent.saturating_sub(before.sent));
        let opened = packets.saturating_sub(sealed);
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
        true
    }
}

/// Takes over the numbers of a state that is removed next.
pub(super) fn read_last(sa: &Sa, known: &KnownState) {
    let margin = if known.sent > 0 { ON_THEIR_WAY } else { 0 };
    raise(sa, known.sent.saturating_add(margin), known.seen);
}

/// Numbers up to these are not sent again, nor taken from senders that have no window yet.
fn raise(sa: &Sa, sent: u32, seen: u32) {
    sa.state.numbers.reach(sent);
    if let Some(windows) = &sa.state.windows {
        windows.raise(seen);
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
            if !placed.read(&found) {
                lost.push(*spi);
            }
        }
        lost
    }

    /// SPIs of those by which a device decrypts what comes.
    pub(super) fn offloaded(&self) -> Vec<String> {
        self.0.values().filter(|placed| placed.offloaded).map(|placed| format!("{:#010x}", placed.sa.spi)).collect()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use keyferry_model::policy::{EspMode, SaDirection, SequenceNumbers, TrafficPolicy};

    use super::*;
    use crate::engine::kernel::testing::{GROUP, at, ip, policy, sa, side, update};
    use crate::sad::Sad;

    const PLACES: [&str; 2] = [GROUP, "10.9.0.1"];

    /// An SA with a replay window and two states.
    fn placed() -> Placed {
        let policy = TrafficPolicy {
            source: side("10.9.0.7", 32),
            sequence: SequenceNumbers::Sequential,
            replay_window: 128,
            ..policy(GROUP, EspMode::Transport)
        };
        let mut sad = Sad::new();
        sad.apply(update(vec![sa(0x1001, &policy, SaDirection::Symmetric)], &[]), at(0)).unwrap();
        let sa = sad.installed().next().unwrap().0.clone();
        Placed::new(sa, PLACES.map(ip).into())
    }

    fn known(place: &str, sent: u32, seen: u32) -> KnownState {
        KnownState {
            key: StateKey { destination: ip(place), spi: 0x1001 },
            reqid: 2,
            octets: 1_000,
            packets: 10,
            replayed: 0,
            forged: 0,
            sent,
            seen,
            offloaded: false,
        }
    }

    /// What was used and seen of numbers.
    fn numbers(sa: &Sa) -> (u32, u32) {
        (sa.state.numbers.used(false).0, sa.state.windows.as_ref().unwrap().floor())
    }

    #[test]
    fn states_that_are_left_tell_their_numbers() {
        let mut states = States::default();
        let placed = placed();
        let sa = placed.sa.clone();
        states.0.insert(0x1001, placed);
        assert!(states.read(&[known(PLACES[0], 10, 0), known(PLACES[1], 0, 10)]).is_empty());
        assert_eq!((numbers(&sa), sa.state.sealed.get().0, sa.state.opened.get().0), ((10, 10), 10, 10));
        assert_eq!(states.read(&[known(PLACES[0], 70, 0)]), [0x1001]);
        assert_eq!(numbers(&sa), (70, 10));
        assert_eq!(states.read(&[known(PLACES[1], 0, 80)]), [0x1001]);
        assert_eq!(numbers(&sa), (70, 80));
        assert_eq!(states.read(&[]), [0x1001]);
        let counted = (sa.state.sealed.get().0, sa.state.opened.get().0);
        assert_eq!((numbers(&sa), counted), ((70, 80), (10, 10)), "nothing goes back");
    }

    #[test]
    fn packets_on_their_way_have_numbers_when_a_state_is_removed() {
        let sa = placed().sa;
        read_last(&sa, &known(PLACES[1], 0, 80));
        assert_eq!(numbers(&sa), (0, 80), "it has sent nothing");
        read_last(&sa, &known(PLACES[0], 70, 0));
        assert_eq!(numbers(&sa), (70 + ON_THEIR_WAY, 80));
        read_last(&sa, &known(PLACES[0], u32::MAX - 1, 0));
        assert_eq!(numbers(&sa).0, u32::MAX);
    }
}
