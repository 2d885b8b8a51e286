//! Headers of a burst's packets, run by run.
//!
//! Packets come in runs of one flow, and those of a run differ in nothing that is looked at but their length. So headers are
//! read, and what they lead to is found, once for each run; of its further packets only [`Flow`] and length are read.

use std::ptr;

use arrayvec::ArrayVec;

use crate::burst::{BURST, Fate, Members};
use crate::packet::{Flow, Headers};

/// The packets of a burst, and what was found for them: policy lines or SAs.
pub(crate) struct Runs<'s, T> {
    runs: ArrayVec<Run<'s, T>, BURST>,
    /// Of each packet, the length that its header gives.
    totals: ArrayVec<usize, BURST>,
    /// Of the last run, if it can go on.
    flow: Option<Flow>,
}

/// Packets in a row that have the same headers.
pub(crate) struct Run<'s, T> {
    /// Of the first packet. The others may have another length.
    pub(crate) headers: Headers,
    /// What was found for them, if anything was.
    pub(crate) found: Option<&'s T>,
    began: usize,
}

impl<'s, T> Runs<'s, T> {
    pub(crate) fn new() -> Self {
        Self { runs: ArrayVec::new(), totals: ArrayVec::new(), flow: None }
    }

    /// Adds a packet, if it is one of the last run.
    #[inline]
    pub(crate) fn goes_on(&mut self, packet: Option<(Flow, usize)>) -> bool {
        match (packet, self.flow) {
            (Some((flow, total)), Some(last)) if flow == last => {
                self.totals.push(total);
                true
            }
            _ => false,
        }
    }

    /// Adds a packet that begins a run. `find` reads its headers, and finds something for it; it is given the run before.
    pub(crate) fn begin(
        &mut self,
        flow: Option<Flow>,
        find: impl FnOnce(&mut Headers, Option<&Run<'s, T>>) -> Fate<Option<&'s T>>,
    ) -> Fate<()> {
        self.runs.push(Run { headers: Headers::NONE, found: None, began: self.totals.len() });
        let (run, before) = match &mut self.runs[..] {
            [.., before, run] => (run, Some(&*before)),
            [run] => (run, None),
            [] => return Ok(()),
        };
        let found = find(&mut run.headers, before);
        run.found = found.ok().flatten();
        self.totals.push(run.headers.total);
        self.flow = flow.filter(|_| found.is_ok());
        found.map(|_| ())
    }

    /// Octets of a packet, as its header says.
    #[inline]
    pub(crate) fn total(&self, at: usize) -> usize {
        self.totals[at]
    }

    /// A packet's headers.
    pub(crate) fn headers(&self, at: usize) -> Headers {
        Headers { total: self.totals[at], ..self.run(at).headers }
    }

    /// What was found for a packet.
    pub(crate) fn found(&self, at: usize) -> Option<&'s T> {
        self.run(at).found
    }

    /// What was found, and for which packets.
    #[inline]
    pub(crate) fn groups(&self) -> impl Iterator<Item = (&'s T, Members)> {
        let mut left = Members::which(self.runs.len(), |run| self.runs[run].found.is_some());
        std::iter::from_fn(move || {
            let found = self.runs[left.first()?].found?;
            let mut members = Members::default();
            for run in left.iter() {
                if self.runs[run].found.is_some_and(|other| ptr::eq(other, found)) {
                    left.remove(run);
                    members = members.with(self.members(run));
                }
            }
            Some((found, members))
        })
    }

    /// The runs that packets belong to, each with those of them that are its own.
    #[inline]
    pub(crate) fn of(&self, packets: Members) -> impl Iterator<Item = (&Run<'s, T>, Members)> {
        let mut run = 0;
        let mut left = packets;
        std::iter::from_fn(move || {
            let first = left.first()?;
            run += self.runs[run..].iter().skip(1).take_while(|next| next.began <= first).count();
            let part = left.and(self.members(run));
            left = left.without(part);
            Some((&self.runs[run], part))
        })
    }

    fn run(&self, at: usize) -> &Run<'s, T> {
        &self.runs[self.runs.partition_point(|run| run.began <= at).saturating_sub(1)]
    }

    /// The packets of a run.
    #[inline]
    fn members(&self, run: usize) -> Members {
        Members::between(self.runs[run].began, self.runs.get(run + 1).map_or(self.totals.len(), |next| next.began))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
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
    fn packets_are_told_apart_by_run_and_by_what_was_found() {
        let things = ["one", "two"];
        // One run of each of two hosts for which the same is found, nothing found, unsound, something else; then one alone.
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
            (packet(1, 30), Ok(Some(&things[0]))),
        ];
        let mut runs = Runs::new();
        let mut began = Vec::new();
        for (at, (packet, found)) in packets.iter().enumerate() {
            let flow = Flow::of(packet);
            if !runs.goes_on(flow) {
                began.push(at);
                let begun = runs.begin(flow.map(|(flow, _)| flow), |headers, before| {
                    assert_eq!(before.is_none(), at == 0);
                    headers.read(packet).unwrap();
                    *found
                });
                assert_eq!(begun, found.map(|_| ()));
            }
        }
        // What is not sound begins a run each time.
        assert_eq!(began, [0, 2, 3, 5, 6, 7, 9]);
        for (at, (packet, found)) in packets.iter().enumerate() {
            assert_eq!(runs.headers(at), Headers::parse(packet).unwrap());
            assert_eq!((runs.total(at), runs.found(at)), (packet.len(), found.ok().flatten()));
        }
        let places = |members: Members| members.iter().collect::<Vec<_>>();
        let groups: Vec<_> = runs.groups().map(|(found, members)| (*found, places(members))).collect();
        assert_eq!(groups, [("one", vec![0, 1, 2, 9]), ("two", vec![7, 8])]);
        let some = Members::which(10, |at| !matches!(at, 0 | 3 | 7));
        let parts: Vec<_> = runs.of(some).map(|(run, part)| (run.began, places(part))).collect();
        let expected =
            [(0, vec![1]), (2, vec![2]), (3, vec![4]), (5, vec![5]), (6, vec![6]), (7, vec![8]), (9, vec![9])];
        assert_eq!(parts, expected);
    }
}
