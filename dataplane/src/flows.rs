//! Headers of a burst's packets, flow by flow.
//!
//! Packets of one flow differ in nothing that is looked at but their length. So headers are read, and what they lead to is found,
//! once for each flow of a burst; of further packets only [`Flow`] and length are read.

use std::ptr;

use arrayvec::ArrayVec;

use crate::burst::{BURST, Fate, Members};
use crate::packet::{Flow, Headers};

/// The packets of a burst, and what was found for them: policy lines or SAs.
pub(crate) struct Flows<'s, T> {
    entries: ArrayVec<Entry<'s, T>, BURST>,
    packets: ArrayVec<Packet, BURST>,
    /// The flow of the packet before, and its entry.
    last: Option<(Flow, u8)>,
    /// Entries by a hash of their flow. Where two have the same, it is the later one's, and packets of the other begin anew.
    table: [u8; BURST],
}

/// Packets that have the same headers.
pub(crate) struct Entry<'s, T> {
    /// Of the first packet. The others may have another length.
    pub(crate) headers: Headers,
    /// What was found for them, if anything was.
    pub(crate) found: Option<&'s T>,
    /// `None` if it has this packet alone.
    flow: Option<Flow>,
    members: Members,
}

#[derive(Clone, Copy)]
struct Packet {
    entry: u8,
    /// Octets, as its header says.
    total: usize,
}

impl<'s, T> Flows<'s, T> {
    pub(crate) fn new() -> Self {
        Self { entries: ArrayVec::new(), packets: ArrayVec::new(), last: None, table: [0; BURST] }
    }

    /// Adds a packet, if others of its flow are there.
    #[inline]
    pub(crate) fn goes_on(&mut self, packet: Option<(Flow, usize)>) -> bool {
        let Some((flow, total)) = packet else { return false };
        let entry = match self.last {
            Some((last, entry)) if flow == last => entry,
            _ => {
                let entry = self.table[slot(flow)];
                if self.entries.get(usize::from(entry)).is_none_or(|entry| entry.flow != Some(flow)) {
                    return false;
                }
                self.last = Some((flow, entry));
                entry
            }
        };
        self.add(Packet { entry, total });
        true
    }

    /// Adds a packet that has no entry yet. `find` reads its headers, and finds something for it; it is given the entry before.
    pub(crate) fn begin(
        &mut self,
        flow: Option<Flow>,
        find: impl FnOnce(&mut Headers, Option<&Entry<'s, T>>) -> Fate<Option<&'s T>>,
    ) -> Fate<()> {
        let Ok(at) = u8::try_from(self.entries.len()) else { return Ok(()) };
        self.entries.push(Entry { headers: Headers::NONE, found: None, flow: None, members: Members::default() });
        let (entry, before) = match &mut self.entries[..] {
            [.., before, entry] => (entry, Some(&*before)),
            [entry] => (entry, None),
            [] => return Ok(()),
        };
        let found = find(&mut entry.headers, before);
        entry.found = found.ok().flatten();
        entry.flow = flow.filter(|_| found.is_ok());
        self.last = entry.flow.map(|flow| (flow, at));
        if let Some(flow) = entry.flow {
            self.table[slot(flow)] = at;
        }
        let total = entry.headers.total;
        self.add(Packet { entry: at, total });
        found.map(|_| ())
    }

    #[inline]
    fn add(&mut self, packet: Packet) {
        let at = self.packets.len();
        self.packets.push(packet);
        let members = &mut self.entries[usize::from(packet.entry)].members;
        *members = members.with(Members::only(at));
    }

    /// Octets of a packet, as its header says.
    #[inline]
    pub(crate) fn total(&self, at: usize) -> usize {
        self.packets[at].total
    }

    /// A packet's headers.
    pub(crate) fn headers(&self, at: usize) -> Headers {
        Headers { total: self.total(at), ..self.entry(at).headers }
    }

    /// What was found for a packet.
    pub(crate) fn found(&self, at: usize) -> Option<&'s T> {
        self.entry(at).found
    }

    /// What was found, and for which packets.
    #[inline]
    pub(crate) fn groups(&self) -> impl Iterator<Item = (&'s T, Members)> {
        let mut left = Members::which(self.entries.len(), |at| self.entries[at].found.is_some());
        std::iter::from_fn(move || {
            let found = self.entries[left.first()?].found?;
            let mut members = Members::default();
            for at in left.iter() {
                if self.entries[at].found.is_some_and(|other| ptr::eq(other, found)) {
                    left.remove(at);
                    members = members.with(self.entries[at].members);
                }
            }
            Some((found, members))
        })
    }

    /// Packets in order, as many together as come one after the other and have the same headers.
    #[inline]
    pub(crate) fn runs_of(&self, packets: Members) -> impl Iterator<Item = (&Entry<'s, T>, Members)> {
        let mut left = packets;
        std::iter::from_fn(move || {
            let entry = self.entry(left.first()?);
            let run = left.before(left.without(entry.members));
            left = left.without(run);
            Some((entry, run))
        })
    }

    fn entry(&self, at: usize) -> &Entry<'s, T> {
        &self.entries[usize::from(self.packets[at].entry)]
    }
}

/// Which flows share a place in the table is a sender's to choose, and costs no more than flows that are all different.
#[inline]
fn slot(flow: Flow) -> usize {
    (flow.hash() >> (u64::BITS - BURST.ilog2())) as usize & (BURST - 1)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::net::IpAddr;

    use proptest::prelude::*;

    use super::*;
    use crate::drops::DropReason;
    use crate::packet::protocol;

    /// A UDP packet of 10.0.0.`host`.
    fn packet(host: u8, total: u8) -> Vec<u8> {
        let mut packet = vec![0x45, 0, 0, total, 0, 0, 0, 0, 1, protocol::UDP, 0, 0, 10, 0, 0, host, 239, 192, 0, 1];
        packet.resize(usize::from(total), 0);
        packet
    }

    #[test]
    fn packets_are_told_apart_by_flow_and_by_what_was_found() {
        let things = ["one", "two"];
        // Two flows for which the same is found, one for which nothing is, unsound packets, something else, and the first again.
        let packets: Vec<(Vec<u8>, Fate<Option<&&str>>)> = vec![
            (packet(1, 30), Ok(Some(&things[0]))),
            (packet(1, 40), Ok(Some(&things[0]))),
            (packet(2, 30), Ok(Some(&things[0]))),
            (packet(3, 30), Ok(None)),
            (packet(3, 31), Ok(None)),
            (packet(4, 30), Err(DropReason::OutHdrError)),
            (packet(4, 30), Err(DropReason::OutHdrError)),
            (packet(5, 30), Ok(Some(&things[1]))),
            (packet(5, 99), Ok(Some(&things[1]))),
            (packet(1, 50), Ok(Some(&things[0]))),
        ];
        let mut flows = Flows::new();
        let mut began = Vec::new();
        for (at, (packet, found)) in packets.iter().enumerate() {
            let flow = Flow::of(packet);
            if !flows.goes_on(flow) {
                began.push(at);
                let begun = flows.begin(flow.map(|(flow, _)| flow), |headers, before| {
                    assert_eq!(before.is_none(), at == 0);
                    headers.read(packet).unwrap();
                    *found
                });
                assert_eq!(begun, found.map(|_| ()));
            }
        }
        // What is not sound begins anew each time.
        assert_eq!(began, [0, 2, 3, 5, 6, 7]);
        for (at, (packet, found)) in packets.iter().enumerate() {
            assert_eq!(flows.headers(at), Headers::parse(packet).unwrap());
            assert_eq!((flows.total(at), flows.found(at)), (packet.len(), found.ok().flatten()));
        }
        let places = |members: Members| members.iter().collect::<Vec<_>>();
        let groups: Vec<_> = flows.groups().map(|(found, members)| (*found, places(members))).collect();
        assert_eq!(groups, [("one", vec![0, 1, 2, 9]), ("two", vec![7, 8])]);
        let some = Members::which(10, |at| !matches!(at, 0 | 3 | 7));
        let runs: Vec<_> = flows.runs_of(some).map(|(entry, run)| (entry.headers.source, places(run))).collect();
        let host = |host: u8| IpAddr::from([10, 0, 0, host]);
        let expected =
            [(1, vec![1]), (2, vec![2]), (3, vec![4]), (4, vec![5]), (4, vec![6]), (5, vec![8]), (1, vec![9])];
        assert_eq!(runs, expected.map(|(last, places)| (host(last), places)));
    }

    proptest! {
        /// More flows than the table has room for, in any order.
        #[test]
        fn any_order_of_any_flows_is_read_right(hosts in proptest::collection::vec(any::<u8>(), 0..=BURST)) {
            let things: Vec<u8> = (0..=u8::MAX).collect();
            let mut flows = Flows::new();
            for host in &hosts {
                let packet = packet(*host, 30 + host % 20);
                let flow = Flow::of(&packet);
                if !flows.goes_on(flow) {
                    let find = |headers: &mut Headers, _: Option<&_>| {
                        headers.read(&packet).unwrap();
                        Ok(Some(&things[usize::from(*host)]))
                    };
                    flows.begin(flow.map(|(flow, _)| flow), find).unwrap();
                }
            }
            let mut seen = Members::default();
            for (found, members) in flows.groups() {
                prop_assert_eq!(seen.without(members), seen);
                seen = seen.with(members);
                prop_assert!(members.iter().all(|at| hosts[at] == *found));
            }
            prop_assert_eq!(seen, Members::which(hosts.len(), |_| true));
            let in_order: Vec<usize> = flows.runs_of(seen).flat_map(|(_, run)| run.iter()).collect();
            prop_assert_eq!(in_order, (0..hosts.len()).collect::<Vec<_>>());
            for (at, host) in hosts.iter().enumerate() {
                prop_assert_eq!(flows.headers(at), Headers::parse(&packet(*host, 30 + host % 20)).unwrap());
            }
        }
    }
}
