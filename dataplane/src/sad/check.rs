//! What an update must be before anything of it is applied.

use std::collections::BTreeSet;

use keyferry_model::policy::EspMode;

use super::{
    ApplyError, Fingerprint, GroupUpdate, IpAddr, MAX_SAS, NewSa, Sad, Secret, Selector, SenderIds, TrafficPolicy,
};

/// Sender IDs that one member can have.
const MAX_SENDER_IDS: usize = 4_096;

impl Sad {
    /// Checks an update without changing anything.
    pub(super) fn check(&self, update: &GroupUpdate) -> Result<(), ApplyError> {
        if update.sender_ids.as_ref().is_some_and(|ids| !are_possible(ids)) {
            return Err(ApplyError::SenderIds);
        }
        let mut earlier: Vec<(u32, Fingerprint)> = Vec::new();
        let mut added = 0;
        for new in &update.install {
            check_alone(new)?;
            let preserved = new.policy.preservation;
            if new.policy.mode == EspMode::Tunnel && !self.tunnel.suffices(preserved, &new.policy.destination) {
                return Err(ApplyError::Tunnel(new.spi));
            }
            let fingerprint = Fingerprint::of(&new.keymat);
            added += usize::from(!self.check_against_installed(new, fingerprint)?);
            for (spi, other) in &earlier {
                same_or_different(new.spi, fingerprint, *spi, *other)?;
            }
            earlier.push((new.spi, fingerprint));
        }
        if self.entries.len() + added > MAX_SAS {
            return Err(ApplyError::TooMany);
        }
        Ok(())
    }

    /// True when the SA is there already.
    fn check_against_installed(&self, new: &NewSa, fingerprint: Fingerprint) -> Result<bool, ApplyError> {
        let mut known = false;
        for entry in &self.entries {
            let sa = &entry.sa;
            if same_or_different(new.spi, fingerprint, sa.spi, sa.fingerprint)? {
                if !works_alike(&sa.policy, &new.policy) {
                    return Err(ApplyError::SpiConflict(new.spi));
                }
                known = true;
            }
        }
        for memory in &self.memories {
            // An SPI may be given to new keys once the old SA is gone; a key may not get a new SPI.
            if memory.fingerprint == fingerprint && memory.spi != new.spi {
                return Err(ApplyError::KeyReused(new.spi));
            }
        }
        Ok(known)
    }
}

/// True for the same SA, false for unrelated ones; an error when they share only the SPI or only the keys.
fn same_or_different(spi: u32, key: Fingerprint, other_spi: u32, other_key: Fingerprint) -> Result<bool, ApplyError> {
    match (spi == other_spi, key == other_key) {
        (true, true) => Ok(true),
        (false, false) => Ok(false),
        (true, false) => Err(ApplyError::SpiConflict(spi)),
        (false, true) => Err(ApplyError::KeyReused(spi)),
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
    let (source, destination) = (&new.policy.source, &new.policy.destination);
    let any_source = source.prefix == 0 && source.address.is_unspecified();
    let one_version = any_source || source.address.is_ipv4() == destination.address.is_ipv4();
    if !one_version || !has_sound_prefix(source) || !has_sound_prefix(destination) {
        return Err(ApplyError::Selectors(new.spi));
    }
    Ok(())
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
