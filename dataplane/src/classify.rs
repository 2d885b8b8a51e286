//! Finds the first of many policy lines that matches a packet (RFC 4301 section 4.4.1), in a time that does not grow
//! with their number.
//!
//! Lines are kept in one table for each pair of prefix lengths that occurs, under their networks. A packet is looked up
//! in each table by its own addresses, cut to those lengths; the lowest line found wins. A policy of a thousand
//! lines has a handful of pairs.

use std::net::IpAddr;

use hashbrown::HashTable;
use keyferry_model::policy::Selector;

use crate::packet::{Headers, IpVersion};
use crate::selector;

/// Ordered lines, ready for look-ups.
pub(crate) struct Classifier {
    /// By the first line in each.
    tables: Box<[Table]>,
}

/// Lines whose networks have the same lengths.
struct Table {
    version: IpVersion,
    source_prefix: u8,
    destination_prefix: u8,
    first: usize,
    networks: HashTable<Networks>,
}

/// Lines about the same two networks, in order.
struct Networks {
    pair: (u128, u128),
    lines: Vec<Line>,
}

struct Line {
    at: usize,
    source: Selector,
    destination: Selector,
}

impl Classifier {
    /// Prepares lines: source and destination of each, in the order in which they are tried.
    pub(crate) fn new(lines: impl IntoIterator<Item = (Selector, Selector)>) -> Self {
        let mut tables: Vec<Table> = Vec::new();
        for (at, (source, destination)) in lines.into_iter().enumerate() {
            let version = version_of(destination.address);
            // A source of length zero stands for senders of either version.
            let shape = (version, source.prefix, destination.prefix);
            let known = tables.iter_mut().position(|table| table.shape() == shape);
            let table = match known {
                Some(known) => &mut tables[known],
                None => {
                    let (version, source_prefix, destination_prefix) = shape;
                    let networks = HashTable::new();
                    tables.push(Table { version, source_prefix, destination_prefix, first: at, networks });
                    let last = tables.len() - 1;
                    &mut tables[last]
                }
            };
            let pair = table.pair(source.address, destination.address);
            table
                .networks
                .entry(hash(pair), |networks| networks.pair == pair, |networks| hash(networks.pair))
                .or_insert_with(|| Networks { pair, lines: Vec::new() })
                .into_mut()
                .lines
                .push(Line { at, source, destination });
        }
        Self { tables: tables.into() }
    }

    /// The number of the first line that matches.
    pub(crate) fn find(&self, packet: &Headers) -> Option<usize> {
        let mut best = None;
        for table in &self.tables {
            if best.is_some_and(|best| best < table.first) {
                break;
            }
            if table.version != packet.version {
                continue;
            }
            let pair = table.pair(packet.source, packet.destination);
            let Some(networks) = table.networks.find(hash(pair), |networks| networks.pair == pair) else { continue };
            let covers = |line: &&Line| selector::admits(&line.source, &line.destination, packet);
            if let Some(line) = networks.lines.iter().find(covers)
                && best.is_none_or(|best| line.at < best)
            {
                best = Some(line.at);
            }
        }
        best
    }
}

impl Table {
    fn shape(&self) -> (IpVersion, u8, u8) {
        (self.version, self.source_prefix, self.destination_prefix)
    }

    fn pair(&self, source: IpAddr, destination: IpAddr) -> (u128, u128) {
        (network(source, self.source_prefix), network(destination, self.destination_prefix))
    }
}

fn version_of(ip: IpAddr) -> IpVersion {
    if ip.is_ipv4() { IpVersion::V4 } else { IpVersion::V6 }
}

/// The leftmost bits of an address, as a number.
fn network(ip: IpAddr, prefix: u8) -> u128 {
    let bits = match ip {
        IpAddr::V4(ip) => u128::from(u32::from(ip)) << 96,
        IpAddr::V6(ip) => u128::from(ip),
    };
    bits & u128::MAX.checked_shl(128 - u32::from(prefix.min(128))).unwrap_or(0)
}

/// Networks come from the policy and are not an attacker's to choose, so a plain mixture does.
fn hash((source, destination): (u128, u128)) -> u64 {
    const ODD: u64 = 0x9e37_79b9_7f4a_7c15;
    let halves = [source >> 64, source, destination >> 64, destination];
    halves.into_iter().fold(0, |hash: u64, half| {
        #[allow(clippy::cast_possible_truncation)]
        let mixed = (hash ^ half as u64).wrapping_mul(ODD);
        mixed ^ (mixed >> 32)
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use proptest::prelude::*;

    use super::*;

    fn side(v4: bool) -> impl Strategy<Value = Selector> {
        (0u8..4, 0u8..=32, prop_oneof![Just(0u8), Just(17)], 0u16..3).prop_map(move |(host, prefix, protocol, port)| {
            let address = address(v4, host);
            let prefix = if v4 { prefix } else { prefix * 4 };
            // A network's host bits are zero, as the model has them.
            let (address, _) = Selector { address, prefix, protocol, port }.range();
            Selector { address, prefix, protocol, port }
        })
    }

    fn address(v4: bool, host: u8) -> IpAddr {
        if v4 {
            Ipv4Addr::new(10 + (host & 1), 0, host, host).into()
        } else {
            Ipv6Addr::new(0xfd00 + u16::from(host & 1), 0, 0, 0, u16::from(host), 0, 0, u16::from(host)).into()
        }
    }

    fn lines() -> impl Strategy<Value = Vec<(Selector, Selector)>> {
        let anybody = Selector { address: Ipv4Addr::UNSPECIFIED.into(), prefix: 0, protocol: 0, port: 0 };
        let line = any::<bool>().prop_flat_map(move |v4| (prop_oneof![3 => side(v4), 1 => Just(anybody)], side(v4)));
        proptest::collection::vec(line, 0..40)
    }

    fn packet(v4: bool, source: u8, destination: u8, ports: (u16, u16), upper: u8) -> Headers {
        Headers {
            version: if v4 { IpVersion::V4 } else { IpVersion::V6 },
            source: address(v4, source),
            destination: address(v4, destination),
            total: 0,
            split: 0,
            split_named_at: 0,
            split_protocol: upper,
            upper_at: 0,
            upper_named_at: 0,
            upper,
            ports: (upper == 17).then_some(ports),
            fragment: false,
        }
    }

    proptest! {
        #[test]
        fn it_agrees_with_a_walk_through_all_lines(lines in lines(), seeds in proptest::collection::vec(any::<u32>(), 20)) {
            let classifier = Classifier::new(lines.iter().copied());
            for seed in seeds {
                let [a, b, c, d] = seed.to_be_bytes();
                let ports = (u16::from(c % 3), u16::from(d % 3));
                let packet = packet(a & 1 == 1, (a >> 1) % 4, b % 4, ports, if d & 4 == 4 { 17 } else { 6 });
                let walked = lines.iter().position(|(source, destination)| selector::covers(source, destination, &packet));
                prop_assert_eq!(classifier.find(&packet), walked);
            }
        }
    }
}
