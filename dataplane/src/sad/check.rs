//! What an update must be before anything of it is applied.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use keyferry_model::policy::EspMode;

use super::{
    ApplyError, Fingerprint, GroupUpdate, IpAddr, MAX_SAS, NewSa, Sa, Sad, Secret, Selector, SenderIds, TrafficPolicy,
};

/// Sender IDs that one member can have.
const MAX_SENDER_IDS: usize = 4_096;

impl Sad {
    /// Checks an update without changing anything.
    pub(crate) fn check(&self, update: &GroupUpdate) -> Result<(), ApplyError> {
        if update.sender_ids.as_ref().is_some_and(|ids| !are_possible(ids)) {
            return Err(ApplyError::SenderIds);
        }
        let mut seen = Seen::default();
        for entry in &self.entries {
            seen.add(entry.sa.spi, entry.sa.fingerprint);
        }
        let installed: HashMap<u32, &Arc<Sa>> = self.entries.iter().map(|entry| (entry.sa.spi, &entry.sa)).collect();
        let mut added = 0;
        for new in &update.install {
            check_alone(new)?;
            let preserved = new.policy.preservation;
            if new.policy.mode == EspMode::Tunnel && !self.tunnel.suffices(preserved, &new.policy.destination) {
                return Err(ApplyError::Tunnel(new.spi));
            }
            let fingerprint = Fingerprint::of(&new.keymat);
            seen.agree(new.spi, fingerprint)?;
            match installed.get(&new.spi) {
                Some(sa) if !works_alike(&sa.policy, &new.policy) => return Err(ApplyError::SpiConflict(new.spi)),
                Some(_) => {}
                None => added += 1,
            }
            // An SPI may be given to new keys once the old SA is gone; a key may not get a new SPI.
            if self.memories.iter().any(|memory| memory.fingerprint == fingerprint && memory.spi != new.spi) {
                return Err(ApplyError::KeyReused(new.spi));
            }
            seen.add(new.spi, fingerprint);
        }
        if self.entries.len() + added > MAX_SAS {
            return Err(ApplyError::TooMany);
        }
        Ok(())
    }
}

/// SPIs and keys, each with the other.
#[derive(Default)]
struct Seen {
    keys: HashMap<u32, Fingerprint>,
    spis: HashMap<Fingerprint, u32>,
}

impl Seen {
    fn add(&mut self, spi: u32, key: Fingerprint) {
        self.keys.insert(spi, key);
        self.spis.insert(key, spi);
    }

    /// Two SAs share both or neither.
    fn agree(&self, spi: u32, key: Fingerprint) -> Result<(), ApplyError> {
        if self.keys.get(&spi).is_some_and(|known| *known != key) {
            return Err(ApplyError::SpiConflict(spi));
        }
        if self.spis.get(&key).is_some_and(|known| *known != spi) {
            return Err(ApplyError::KeyReused(spi));
        }
        Ok(())
    }
}

fn works_alike(a: &TrafficPolicy, b: &TrafficPolicy) -> bool {
    a.mode == b.mode && a.transform == b.transform && a.preservation == b.preservation
}

fn check_alone(new: &NewSa) -> Result<(), ApplyError> {
    if new.spi < 256 {
        return Err(ApplyError::ReservedSpi(new.spi));
    }
    let wanted = new.policy.transform.keymat_len();
    if Secret::len(&new.keymat) != wanted {
        return Err(ApplyError::Keymat(new.spi, new.keymat.len(), wanted));
    }
    if !are_sound(&(new.policy.source, new.policy.destination)) {
        return Err(ApplyError::Selectors(new.spi));
    }
    Ok(())
}

/// Are source and destination such that there can be packets from the one to the other?
#[must_use]
pub fn are_sound((source, destination): &(Selector, Selector)) -> bool {
    let any_source = source.prefix == 0 && source.address.is_unspecified();
    let one_version = any_source || source.address.is_ipv4() == destination.address.is_ipv4();
    one_version && has_sound_prefix(source) && has_sound_prefix(destination)
}

fn has_sound_prefix(selector: &Selector) -> bool {
    match selector.address {
        IpAddr::V4(_) => selector.prefix <= 32,
        IpAddr::V6(_) => selector.prefix <= 128,
    }
}

fn are_possible(ids: &SenderIds) -> bool {
    let fits = |id: &u32| u64::from(*id) < 1u64 << ids.bits;
    let distinct = || ids.ids.iter().collect::<BTreeSet<_>>().len() == ids.ids.len();
    (1..=32).contains(&ids.bits) && ids.ids.len() <= MAX_SENDER_IDS && ids.ids.iter().all(fits) && distinct()
}
