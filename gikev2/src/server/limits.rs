//! What keeps a crowd from exhausting the server: counts of half-open SAs, a budget of answers, one queue of timers.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use super::Spi;
use crate::ike_sa::reassembly::MAX_EARLY_OCTETS;

/// Half-open SAs, in all and by source.
#[derive(Debug, Default)]
pub(super) struct HalfOpen {
    total: usize,
    by_source: BTreeMap<IpAddr, usize>,
}

impl HalfOpen {
    pub(super) fn total(&self) -> usize {
        self.total
    }

    pub(super) fn of(&self, ip: IpAddr) -> usize {
        self.by_source.get(&source(ip)).copied().unwrap_or(0)
    }

    pub(super) fn enter(&mut self, ip: IpAddr) {
        self.total += 1;
        *self.by_source.entry(source(ip)).or_default() += 1;
    }

    pub(super) fn leave(&mut self, ip: IpAddr) {
        self.total = self.total.saturating_sub(1);
        let key = source(ip);
        if let Some(count) = self.by_source.get_mut(&key) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.by_source.remove(&key);
            }
        }
    }
}

/// One customer has one IPv4 address, or a /64.
pub(super) fn source(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(_) => ip,
        IpAddr::V6(a) => IpAddr::V6(Ipv6Addr::from(u128::from(a) & !u128::from(u64::MAX))),
    }
}

/// Octets of fragments that half-open SAs hold, for whom nobody has vouched: not more than so many in all.
#[derive(Debug)]
pub(super) struct EarlyFragments {
    most: usize,
    octets: usize,
    /// In the order in which SAs began to hold some.
    queue: BTreeMap<u64, Spi>,
    of: BTreeMap<Spi, (u64, usize)>,
    next: u64,
}

impl EarlyFragments {
    pub(super) fn new(most: usize) -> Self {
        Self { most, octets: 0, queue: BTreeMap::new(), of: BTreeMap::new(), next: 0 }
    }

    /// An SA holds so many from now on.
    pub(super) fn note(&mut self, spi: Spi, octets: usize) {
        let since = self.forget(&spi);
        if octets == 0 {
            return;
        }
        let place = since.unwrap_or(self.next);
        self.next += u64::from(since.is_none());
        self.octets += octets;
        self.queue.insert(place, spi);
        self.of.insert(spi, (place, octets));
    }

    /// It holds none any more.
    pub(super) fn forget(&mut self, spi: &Spi) -> Option<u64> {
        let (place, octets) = self.of.remove(spi)?;
        self.octets -= octets;
        self.queue.remove(&place);
        Some(place)
    }

    /// Whose are to be thrown away: those that have waited longest, until there is room.
    pub(super) fn take_excess(&mut self) -> Option<Spi> {
        let (_, spi) = self.queue.first_key_value().filter(|_| self.octets > self.most)?;
        let spi = *spi;
        self.forget(&spi);
        Some(spi)
    }

    #[cfg(test)]
    pub(super) fn octets(&self) -> usize {
        self.octets
    }
}

/// Octets of requests that half-open SAs keep: of the first one, and of one that is being worked upon.
#[derive(Debug)]
pub(super) struct EarlyRequests {
    most: usize,
    octets: usize,
    of: BTreeMap<Spi, usize>,
}

impl EarlyRequests {
    pub(super) fn new(most: usize) -> Self {
        Self { most, octets: 0, of: BTreeMap::new() }
    }

    /// May so many more be kept? Those that are longer than usual get no more than half of the room.
    pub(super) fn have_room(&self, octets: usize) -> bool {
        let most = if octets > MAX_EARLY_OCTETS { self.most / 2 } else { self.most };
        self.octets + octets <= most
    }

    /// An SA keeps so many from now on.
    pub(super) fn note(&mut self, spi: Spi, octets: usize) {
        self.forget(&spi);
        if octets > 0 {
            self.octets += octets;
            self.of.insert(spi, octets);
        }
    }

    /// It keeps none any more.
    pub(super) fn forget(&mut self, spi: &Spi) {
        self.octets -= self.of.remove(spi).unwrap_or(0);
    }

    #[cfg(test)]
    pub(super) fn octets(&self) -> usize {
        self.octets
    }
}

/// So many answers in a second.
#[derive(Debug)]
pub(super) struct Budget {
    per_second: u32,
    second: u64,
    spent: u32,
}

impl Budget {
    pub(super) fn new(per_second: u32) -> Self {
        Self { per_second, second: 0, spent: 0 }
    }

    pub(super) fn spend(&mut self, now: Duration) -> bool {
        if now.as_secs() != self.second {
            self.second = now.as_secs();
            self.spent = 0;
        }
        let may = self.spent < self.per_second;
        self.spent += u32::from(may);
        may
    }
}

/// One timer for each SA.
#[derive(Debug, Default)]
pub(super) struct Timers {
    queue: BTreeSet<(Duration, Spi)>,
    of: BTreeMap<Spi, Duration>,
}

impl Timers {
    pub(super) fn arm(&mut self, spi: Spi, at: Duration) {
        self.disarm(&spi);
        self.of.insert(spi, at);
        self.queue.insert((at, spi));
    }

    pub(super) fn disarm(&mut self, spi: &Spi) {
        if let Some(at) = self.of.remove(spi) {
            self.queue.remove(&(at, *spi));
        }
    }

    pub(super) fn next(&self) -> Option<Duration> {
        self.queue.first().map(|(at, _)| *at)
    }

    pub(super) fn take_due(&mut self, now: Duration) -> Option<Spi> {
        let (_, spi) = *self.queue.first().filter(|(at, _)| *at <= now)?;
        self.disarm(&spi);
        Some(spi)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn half_open_sas_are_counted_by_source() {
        let mut half_open = HalfOpen::default();
        half_open.enter("2001:db8::1".parse().unwrap());
        half_open.enter("2001:db8::2".parse().unwrap());
        half_open.enter("10.0.0.1".parse().unwrap());
        assert_eq!(half_open.of("2001:db8::3".parse().unwrap()), 2);
        assert_eq!((half_open.of("10.0.0.2".parse().unwrap()), half_open.total()), (0, 3));
        half_open.leave("2001:db8::1".parse().unwrap());
        assert_eq!((half_open.of("2001:db8::3".parse().unwrap()), half_open.total()), (1, 2));
    }

    #[test]
    fn fragments_that_wait_longest_go_first() {
        let mut fragments = EarlyFragments::new(100);
        fragments.note([1; 8], 40);
        fragments.note([2; 8], 40);
        fragments.note([1; 8], 60);
        assert_eq!(fragments.take_excess(), None);
        fragments.note([3; 8], 1);
        assert_eq!((fragments.take_excess(), fragments.take_excess(), fragments.octets()), (Some([1; 8]), None, 41));
        fragments.note([2; 8], 0);
        fragments.note([4; 8], 99);
        assert_eq!((fragments.take_excess(), fragments.octets()), (None, 100));
        fragments.forget(&[3; 8]);
        fragments.forget(&[4; 8]);
        assert!(fragments.octets() == 0 && fragments.queue.is_empty() && fragments.of.is_empty());
    }

    #[test]
    fn requests_are_kept_while_there_is_room() {
        let mut requests = EarlyRequests::new(100);
        requests.note([1; 8], 60);
        requests.note([2; 8], 30);
        assert!(requests.have_room(10) && !requests.have_room(11));
        requests.note([1; 8], 90);
        assert!(!requests.have_room(0), "who is in grows beyond");
        requests.note([1; 8], 0);
        requests.forget(&[3; 8]);
        assert_eq!(requests.octets(), 30);
        requests.forget(&[2; 8]);
        assert!(requests.octets() == 0 && requests.of.is_empty());
    }

    #[test]
    fn a_budget_lasts_a_second() {
        let mut budget = Budget::new(2);
        let now = Duration::from_millis(5100);
        assert_eq!([budget.spend(now), budget.spend(now), budget.spend(now)], [true, true, false]);
        assert!(budget.spend(now + Duration::from_secs(1)));
    }

    #[test]
    fn timers_come_in_their_order() {
        let mut timers = Timers::default();
        let s = Duration::from_secs;
        timers.arm([1; 8], s(5));
        timers.arm([2; 8], s(3));
        timers.arm([1; 8], s(2));
        assert_eq!(timers.next(), Some(s(2)));
        assert_eq!(timers.take_due(s(1)), None);
        assert_eq!(timers.take_due(s(9)), Some([1; 8]));
        assert_eq!(timers.take_due(s(9)), Some([2; 8]));
        assert_eq!(timers.take_due(s(9)), None);
    }
}
