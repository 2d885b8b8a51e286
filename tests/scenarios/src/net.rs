//! The virtual network.

use std::collections::{BTreeMap, BinaryHeap};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use keyferry_crypto::{Random, SeededRandom};

/// How unreliable the network is.
#[derive(Clone, Copy, Debug, Default)]
pub struct Weather {
    /// Datagrams lost, per thousand.
    pub loss: u64,
    /// Datagrams that arrive twice, per thousand.
    pub repeat: u64,
    /// The most a datagram is late; different delays reorder.
    pub jitter: Duration,
}

/// A datagram on its way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// When it arrives.
    pub at: Duration,
    order: u64,
    /// Sender.
    pub from: SocketAddr,
    /// Receiver, possibly multicast.
    pub to: SocketAddr,
    /// Octets as on the wire, marker included.
    pub bytes: Vec<u8>,
}

impl Ord for Packet {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        // The heap's top is the one that arrives first.
        (other.at, other.order).cmp(&(self.at, self.order))
    }
}

impl PartialOrd for Packet {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

/// Datagrams in flight, and a record of all that were sent.
pub struct Net {
    /// How unreliable it is; may be changed while it runs.
    pub weather: Weather,
    /// Every datagram ever sent, before the weather.
    pub log: Vec<Packet>,
    flying: BinaryHeap<Packet>,
    rng: SeededRandom,
    order: u64,
}

/// The least time a datagram takes.
const LATENCY: Duration = Duration::from_millis(2);

impl Net {
    /// A quiet network with fair weather.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self {
            weather: Weather::default(),
            log: Vec::new(),
            flying: BinaryHeap::new(),
            rng: SeededRandom::new(seed),
            order: 0,
        }
    }

    /// Sends a datagram to one receiver; a multicast is sent once for each, so that each has luck of its own.
    pub fn send(&mut self, now: Duration, from: SocketAddr, to: SocketAddr, bytes: &[u8]) {
        let copies = 1 + u64::from(self.rng.below(1000) < self.weather.repeat);
        for _ in 0..copies {
            self.order += 1;
            let jitter = u64::try_from(self.weather.jitter.as_micros()).unwrap_or(u64::MAX);
            let late = Duration::from_micros(self.rng.below(jitter.saturating_add(1)));
            let packet = Packet { at: now + LATENCY + late, order: self.order, from, to, bytes: bytes.to_vec() };
            self.log.push(packet.clone());
            if self.rng.below(1000) >= self.weather.loss {
                self.flying.push(packet);
            }
        }
    }

    /// When the next datagram arrives.
    #[must_use]
    pub fn next_at(&self) -> Option<Duration> {
        self.flying.peek().map(|p| p.at)
    }

    /// Takes the next datagram if it has arrived by now.
    pub fn arrive(&mut self, now: Duration) -> Option<Packet> {
        self.flying.peek().filter(|p| p.at <= now)?;
        self.flying.pop()
    }
}

/// A NAT: each address and port inside has a port of its own outside.
pub struct Nat {
    /// Its address outside.
    pub outside: IpAddr,
    mappings: BTreeMap<u16, SocketAddr>,
    next: u16,
}

impl Nat {
    /// A NAT without mappings.
    #[must_use]
    pub fn new(outside: IpAddr) -> Self {
        Self { outside, mappings: BTreeMap::new(), next: 20_000 }
    }

    /// Forgets all mappings; what comes next gets others.
    pub fn forget(&mut self) {
        self.mappings.clear();
    }

    /// Who the sender of a datagram is outside.
    pub fn outward(&mut self, inside: SocketAddr) -> SocketAddr {
        let known = self.mappings.iter().find(|(_, known)| **known == inside).map(|(port, _)| *port);
        let port = known.unwrap_or_else(|| {
            self.next += 1;
            self.mappings.insert(self.next, inside);
            self.next
        });
        SocketAddr::new(self.outside, port)
    }

    /// Where a datagram to a port outside goes, if anywhere.
    #[must_use]
    pub fn inward(&self, port: u16) -> Option<SocketAddr> {
        self.mappings.get(&port).copied()
    }
}
