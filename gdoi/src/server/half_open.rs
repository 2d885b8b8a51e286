//! Phase 1 exchanges under way: the table and its limits.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use keyferry_model::drive::Datagram;
use keyferry_wire::Header;

use crate::phase1::responder::HalfOpen;
use crate::wire::registry::exchange;

/// Phase 1 exchanges by our cookie. The oldest make room for newcomers, so that a flood keeps nobody out for long. Those
/// whose peer has answered are spared for as long as there are others: who forges its address does not see our cookie.
/// Where all have answered, the source that holds most gives one up, so that a few cannot keep all others out.
#[derive(Debug)]
pub(super) struct HalfOpens {
    by_cookie: BTreeMap<[u8; 8], HalfOpen>,
    /// Cookies of each source, oldest first.
    by_source: BTreeMap<IpAddr, VecDeque<[u8; 8]>>,
    /// How many each source has, since when its oldest runs, and the source: last who is to give one up first.
    by_holding: BTreeSet<(usize, Reverse<Duration>, IpAddr)>,
    /// Address, its cookie, ours: where to look for the exchange that a message 1 began.
    by_peer: BTreeSet<(IpAddr, [u8; 8], [u8; 8])>,
    /// All cookies that have not been answered by message 3 when they were entered, oldest first.
    in_order: VecDeque<[u8; 8]>,
    limit: usize,
    limit_per_source: usize,
}

/// Limits count addresses of IPv4, and networks of 64 bits of IPv6, where a single host has as many addresses as it likes.
pub(super) fn source(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(_) => ip,
        IpAddr::V6(a) => IpAddr::V6(Ipv6Addr::from(u128::from(a) & (u128::MAX << 64))),
    }
}

/// The peer's cookie and ours.
fn cookies_of(half: &HalfOpen) -> ([u8; 8], [u8; 8]) {
    let (mut theirs, mut ours) = ([0; 8], [0; 8]);
    theirs.copy_from_slice(&half.cookies()[..8]);
    ours.copy_from_slice(&half.cookies()[8..]);
    (theirs, ours)
}

impl HalfOpens {
    pub(super) fn new(limit: usize, limit_per_source: usize) -> Self {
        Self {
            by_cookie: BTreeMap::new(),
            by_source: BTreeMap::new(),
            by_holding: BTreeSet::new(),
            by_peer: BTreeSet::new(),
            in_order: VecDeque::new(),
            limit,
            limit_per_source,
        }
    }

    #[cfg(feature = "fuzzing")]
    pub(super) fn len(&self) -> usize {
        self.by_cookie.len()
    }

    pub(super) fn get(&self, cookie: &[u8; 8]) -> Option<&HalfOpen> {
        self.by_cookie.get(cookie)
    }

    pub(super) fn get_mut(&mut self, cookie: &[u8; 8]) -> Option<&mut HalfOpen> {
        self.by_cookie.get_mut(cookie)
    }

    pub(super) fn all_mut(&mut self) -> impl Iterator<Item = &mut HalfOpen> {
        self.by_cookie.values_mut()
    }

    /// The exchange that this message 1 began.
    pub(super) fn repeated(&mut self, header: &Header, dgram: &Datagram<'_>) -> Option<&mut HalfOpen> {
        let of = |ours| (dgram.from.ip(), header.spi_i, ours);
        let mut cookies = self.by_peer.range(of([0; 8])..=of([0xff; 8])).map(|(.., ours)| *ours);
        let repeated = |ours: &[u8; 8]| self.by_cookie.get(ours).is_some_and(|h| h.is_repeat(dgram));
        let ours = cookies.find(repeated)?;
        self.by_cookie.get_mut(&ours)
    }

    /// How many exchanges of aggressive mode this source has begun within a second.
    pub(super) fn hasty(&self, ip: IpAddr, mono: Duration) -> usize {
        let newest_first = self.by_source.get(&source(ip)).into_iter().flatten().rev();
        let live = newest_first.filter_map(|c| self.by_cookie.get(c));
        let lately = live.take_while(|h| h.begun + Duration::from_secs(1) > mono);
        lately.filter(|h| h.exchange() == exchange::AGGRESSIVE).count()
    }

    /// Who must go for a newcomer from this address: the source's own oldest, or the oldest of all; first of those that
    /// have not shown that they get our answers. Where all have, the oldest of the source that holds most. In a full table
    /// half the limit per source holds, lest those who fill it put others out that have only begun.
    pub(super) fn displaced_by(&mut self, ip: IpAddr) -> Option<[u8; 8]> {
        let full = self.by_cookie.len() >= self.limit;
        let limit = if full { self.limit_per_source.div_ceil(2) } else { self.limit_per_source };
        if let Some(own) = self.by_source.get(&source(ip)).filter(|own| own.len() >= limit) {
            let silent = own.iter().find(|c| self.by_cookie.get(*c).is_some_and(|h| !h.is_answered()));
            return silent.or(own.front()).copied();
        }
        if !full {
            return None;
        }
        while let Some(cookie) = self.in_order.pop_front() {
            if self.by_cookie.get(&cookie).is_some_and(|h| !h.is_answered()) {
                return Some(cookie);
            }
        }
        let (.., most) = self.by_holding.last()?;
        self.by_source.get(most).and_then(|own| own.front()).copied()
    }

    /// What a source holds, as it is ranked.
    fn holding(&self, source: IpAddr) -> Option<(usize, Reverse<Duration>, IpAddr)> {
        let own = self.by_source.get(&source)?;
        let oldest = self.by_cookie.get(own.front()?)?;
        Some((own.len(), Reverse(oldest.begun), source))
    }

    pub(super) fn insert(&mut self, half: HalfOpen) -> [u8; 8] {
        let (theirs, cookie) = cookies_of(&half);
        let source = source(half.peer());
        if let Some(before) = self.holding(source) {
            self.by_holding.remove(&before);
        }
        self.by_peer.insert((half.peer(), theirs, cookie));
        self.by_source.entry(source).or_default().push_back(cookie);
        self.in_order.push_back(cookie);
        // Entries of exchanges that ended stay in the queue until they come up; don't let them pile up.
        if self.in_order.len() > 2 * self.limit.max(16) {
            let live = &self.by_cookie;
            self.in_order.retain(|c| live.contains_key(c) || *c == cookie);
        }
        self.by_cookie.insert(cookie, half);
        self.by_holding.extend(self.holding(source));
        cookie
    }

    pub(super) fn remove(&mut self, cookie: &[u8; 8]) -> Option<HalfOpen> {
        let source = source(self.by_cookie.get(cookie)?.peer());
        if let Some(before) = self.holding(source) {
            self.by_holding.remove(&before);
        }
        let half = self.by_cookie.remove(cookie)?;
        self.by_peer.remove(&(half.peer(), cookies_of(&half).0, *cookie));
        if let Some(own) = self.by_source.get_mut(&source) {
            own.retain(|c| c != cookie);
            if own.is_empty() {
                self.by_source.remove(&source);
            }
        }
        self.by_holding.extend(self.holding(source));
        Some(half)
    }
}
