//! How long an IKE SA may live (RFC 7296 section 2.8).

use std::time::Duration;

use keyferry_crypto::Random;

/// Between two attempts to get new keys, at least; at most half as long again.
const PAUSE: Duration = Duration::from_secs(10);
/// A peer that says for so long that it can do nothing now is out of step (RFC 7296 section 2.25).
const PATIENCE: Duration = Duration::from_secs(300);
/// Attempts in whose midst the peer loses track, before it is given up (RFC 9370 section 2.2.4).
const FORGOTTEN: u8 = 4;

/// When an IKE SA is to be replaced, and when it must not be used any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Life {
    rekey_at: Option<Duration>,
    ends_at: Duration,
    /// Since when the peer puts us off.
    put_off: Option<Duration>,
    /// How often the peer lost track of an attempt.
    forgotten: u8,
}

impl Life {
    /// New keys are wanted when eight or nine tenths of the lifetime have passed: at a random time in between, so that two
    /// ends with one lifetime rarely ask at once.
    pub(crate) fn new(lifetime: Duration, now: Duration, rng: &mut dyn Random) -> Self {
        let tenth = lifetime / 10;
        let rekey_at = now.saturating_add(8 * tenth).saturating_add(random(tenth, rng));
        Self { rekey_at: Some(rekey_at), ends_at: now.saturating_add(lifetime), put_off: None, forgotten: 0 }
    }

    pub(crate) fn due_at(&self) -> Duration {
        self.rekey_at.map_or(self.ends_at, |at| at.min(self.ends_at))
    }

    pub(crate) fn wants_rekey(&self, now: Duration) -> bool {
        self.rekey_at.is_some_and(|at| at <= now)
    }

    pub(crate) fn has_ended(&self, now: Duration) -> bool {
        self.ends_at <= now
    }

    /// An attempt begins, or there is to be none any more.
    pub(crate) fn rest(&mut self) {
        self.rekey_at = None;
    }

    /// Tries again after a while. A peer that has put us off for minutes is given up.
    pub(crate) fn try_later(&mut self, now: Duration, rng: &mut dyn Random) {
        let since = *self.put_off.get_or_insert(now);
        match now < since.saturating_add(PATIENCE) {
            true => self.rekey_at = Some(now + PAUSE + random(PAUSE / 2, rng)),
            false => self.ends_at = now,
        }
    }

    /// The peer has lost track in the midst of an attempt: another one, but not for ever.
    pub(crate) fn forgotten(&mut self, now: Duration, rng: &mut dyn Random) {
        self.forgotten += 1;
        match self.forgotten < FORGOTTEN {
            true => self.try_later(now, rng),
            false => self.ends_at = now,
        }
    }

    /// An attempt of the peer's, which ours gave way to, came to nothing.
    pub(crate) fn resume(&mut self, now: Duration, rng: &mut dyn Random) {
        if self.rekey_at.is_none() && !self.has_ended(now) {
            self.try_later(now, rng);
        }
    }
}

fn random(most: Duration, rng: &mut dyn Random) -> Duration {
    let micros = u64::try_from(most.as_micros()).unwrap_or(u64::MAX - 1);
    Duration::from_micros(rng.below(micros.saturating_add(1)))
}

#[cfg(test)]
mod tests {
    use keyferry_crypto::SeededRandom;

    use super::*;

    #[test]
    fn new_keys_are_wanted_before_the_old_ones_end() {
        let (mut rng, s) = (SeededRandom::new(1), Duration::from_secs);
        let mut all = std::collections::BTreeSet::new();
        for _ in 0..50 {
            let life = Life::new(s(1000), s(5), &mut rng);
            assert!((s(805)..=s(905)).contains(&life.due_at()), "{life:?}");
            assert!(!life.wants_rekey(s(804)) && life.wants_rekey(s(905)));
            assert!(!life.has_ended(s(1004)) && life.has_ended(s(1005)));
            all.insert(life.due_at());
        }
        assert!(all.len() > 40, "not all at once");
        // No clock overflows.
        assert!(!Life::new(Duration::MAX, s(5), &mut rng).has_ended(s(6)));
    }

    /// RFC 7296 section 2.25: not at once again, and not for ever.
    #[test]
    fn a_peer_that_puts_us_off_is_asked_again_and_given_up() {
        let (mut rng, s) = (SeededRandom::new(1), Duration::from_secs);
        let mut life = Life::new(s(100_000), s(0), &mut rng);
        let (mut now, mut tries) = (s(90_000), 0);
        while !life.has_ended(now) {
            life.rest();
            life.try_later(now, &mut rng);
            assert!(!life.wants_rekey(now + s(9)));
            now = life.due_at();
            tries += 1;
        }
        assert!((20..=31).contains(&tries), "{tries}");
        assert!(now >= s(90_300) && now < s(90_330));
    }

    #[test]
    fn a_peer_that_loses_track_again_and_again_is_given_up() {
        let (mut rng, s) = (SeededRandom::new(1), Duration::from_secs);
        let mut life = Life::new(s(100_000), s(0), &mut rng);
        for n in 1..=4 {
            life.rest();
            life.forgotten(s(90_000), &mut rng);
            assert_eq!((life.has_ended(s(90_000)), life.wants_rekey(s(90_015))), (n == 4, n < 4));
            life.rest();
        }
    }

    #[test]
    fn an_attempt_that_gave_way_is_made_again() {
        let (mut rng, s) = (SeededRandom::new(1), Duration::from_secs);
        let mut life = Life::new(s(1000), s(0), &mut rng);
        let planned = life.due_at();
        life.resume(s(100), &mut rng);
        assert_eq!(life.due_at(), planned, "it was not our time");
        life.rest();
        life.resume(s(900), &mut rng);
        assert!(life.due_at() < s(916) && life.wants_rekey(s(915)));
        life.rest();
        life.resume(s(1000), &mut rng);
        assert!(life.has_ended(s(1000)) && !life.wants_rekey(s(2000)));
    }
}
