//! The key servers of a member, and which of them it turns to.

use std::net::SocketAddr;
use std::time::Duration;

use keyferry_crypto::Random;

use crate::id::Identity;
use crate::redirect::GatewayName;

/// A key server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyServer {
    /// Where it is.
    pub address: SocketAddr,
    /// Who it must be; `None` takes whoever authenticates.
    pub identity: Option<Identity>,
}

/// Rounds of failures after which waits grow no longer.
const MAX_DOUBLINGS: u32 = 3;

/// Key servers in the order of the configuration. A member stays with the one that works; when it fails it turns to the next
/// one at once, and when all have failed it waits, longer each time, before it begins with the first again.
#[derive(Clone, Debug)]
pub struct KeyServers {
    /// Those that are tried in turn; behind them those that are turned to only when one of them says so.
    list: Vec<KeyServer>,
    /// How many are tried in turn.
    turns: usize,
    present: usize,
    /// Failures since something worked.
    failures: u32,
}

impl KeyServers {
    /// Begins with the first.
    ///
    /// # Panics
    /// When there is none.
    #[must_use]
    pub fn new(list: Vec<KeyServer>) -> Self {
        assert!(!list.is_empty(), "a member has a key server");
        Self { turns: list.len(), list, present: 0, failures: 0 }
    }

    /// Knows further ones, to which it goes only if another one sends it there.
    #[must_use]
    pub fn with_reserve(mut self, reserve: Vec<KeyServer>) -> Self {
        self.list.extend(reserve);
        self
    }

    /// Only this one.
    #[must_use]
    pub fn one(address: SocketAddr, identity: Option<Identity>) -> Self {
        Self::new(vec![KeyServer { address, identity }])
    }

    /// The one in use.
    #[must_use]
    pub fn present(&self) -> &KeyServer {
        &self.list[self.present]
    }

    /// Its place in the order.
    #[must_use]
    pub fn place(&self) -> usize {
        self.present
    }

    /// Turns to the one at this place, if there is one.
    pub fn turn_to(&mut self, place: usize) {
        if place < self.list.len() {
            self.present = place;
        }
    }

    /// The place of another one than the present, if it is known.
    #[must_use]
    pub fn named(&self, name: &GatewayName) -> Option<usize> {
        let other = |server: &KeyServer| server.address.ip() != self.present().address.ip();
        self.list.iter().position(|s| other(s) && name.names(s.address.ip(), s.identity.as_ref()))
    }

    /// Are there others to turn to?
    #[must_use]
    pub fn has_others(&self) -> bool {
        self.turns > 1 || self.present >= self.turns
    }

    /// Has each of them failed since something worked?
    #[must_use]
    pub fn all_failed(&self) -> bool {
        usize::try_from(self.failures).is_ok_and(|failures| failures >= self.turns)
    }

    /// The present one does what it is for.
    pub fn worked(&mut self) {
        self.failures = 0;
    }

    /// The present one does not: turns to the next, and says how long to wait before that. `retry` is the least pause after a
    /// whole round of failures.
    pub fn failed(&mut self, retry: Duration, rng: &mut dyn Random) -> Duration {
        let count = u32::try_from(self.turns).unwrap_or(u32::MAX);
        self.present = if self.present < self.turns { (self.present + 1) % self.turns } else { 0 };
        self.failures = self.failures.saturating_add(1);
        if !self.failures.is_multiple_of(count) {
            // Not all members of a dead key server in one moment.
            return below(retry / 4, rng);
        }
        let wait = retry.saturating_mul(1 << (self.failures / count - 1).min(MAX_DOUBLINGS));
        wait + below(wait, rng)
    }
}

fn below(d: Duration, rng: &mut dyn Random) -> Duration {
    Duration::from_micros(rng.below(u64::try_from(d.as_micros()).unwrap_or(u64::MAX)))
}

#[cfg(test)]
mod tests {
    use keyferry_crypto::SeededRandom;

    use super::*;

    fn servers(count: u16) -> KeyServers {
        let server = |n| KeyServer { address: SocketAddr::from(([10, 0, 0, 1], n)), identity: None };
        KeyServers::new((1..=count).map(server).collect())
    }

    #[test]
    fn servers_are_tried_in_order_with_a_pause_after_each_round() {
        let (retry, mut rng) = (Duration::from_secs(10), SeededRandom::new(1));
        let mut servers = servers(3);
        let mut waits = Vec::new();
        for round in 0..5 {
            for place in 0..3 {
                assert_eq!(servers.place(), place);
                assert_eq!(servers.all_failed(), round > 0);
                let wait = servers.failed(retry, &mut rng);
                if place < 2 {
                    assert!(wait < retry / 4);
                } else {
                    let least = retry * (1 << round.min(3));
                    assert!((least..2 * least).contains(&wait), "{round}: {wait:?}");
                    waits.push(wait);
                }
            }
        }
        assert_eq!(waits.len(), 5);
    }

    #[test]
    fn a_member_stays_with_the_one_that_works() {
        let (retry, mut rng) = (Duration::from_secs(10), SeededRandom::new(1));
        let mut servers = servers(2);
        servers.failed(retry, &mut rng);
        servers.worked();
        assert_eq!(servers.place(), 1);
        assert!(servers.failed(retry, &mut rng) < retry / 4, "the other one may work at once");
        assert_eq!(servers.place(), 0);
        assert!(servers.failed(retry, &mut rng) >= retry);
    }

    #[test]
    fn a_reserve_is_turned_to_by_name_alone() {
        let (retry, mut rng) = (Duration::from_secs(10), SeededRandom::new(1));
        let name = |n| GatewayName::Address([10, 0, 0, n].into());
        let spare = KeyServer { address: SocketAddr::from(([10, 0, 0, 7], 848)), identity: None };
        let mut servers = servers(1).with_reserve(vec![spare]);
        assert!(!servers.has_others());
        assert_eq!((servers.named(&name(7)), servers.named(&name(1)), servers.named(&name(8))), (Some(1), None, None));
        servers.failed(retry, &mut rng);
        assert_eq!(servers.place(), 0, "not in its turn");
        assert!(servers.all_failed());
        servers.turn_to(1);
        assert!(servers.has_others());
        servers.failed(retry, &mut rng);
        assert_eq!(servers.place(), 0, "back to those of the configuration");
    }

    #[test]
    fn a_single_one_is_asked_again_less_and_less_often() {
        let (retry, mut rng) = (Duration::from_secs(10), SeededRandom::new(1));
        let mut servers = servers(1);
        assert!(!servers.has_others());
        servers.turn_to(1);
        assert_eq!(servers.place(), 0);
        for doublings in [0, 1, 2, 3, 3] {
            let least = retry * (1 << doublings);
            assert!((least..2 * least).contains(&servers.failed(retry, &mut rng)));
        }
        servers.worked();
        assert!(servers.failed(retry, &mut rng) < 2 * retry);
    }
}
