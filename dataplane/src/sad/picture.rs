//! The picture of the SAD that the threads which move packets look at.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::snapshot::{Line, Snapshot};
use super::{Entry, Sad};
use crate::local::{Local, Rules, Selectors, Told};
use crate::sa::Sa;

impl Sad {
    /// Makes a new one of the SAs as they are now.
    pub(super) fn publish(&mut self) {
        let mut sending: HashMap<Selectors, Vec<&Entry>> = HashMap::new();
        for entry in self.entries.iter().filter(|entry| entry.direction.sends() && !self.receives_only) {
            sending.entry(entry.selectors()).or_default().push(entry);
        }
        let of = |line: &Selectors| sending.get(line).map(|entries| self.line(entries));
        let mut lines: Vec<(Tier, Line)> = self.lines.iter().filter_map(of).collect();
        // Stable: within a tier the order of the policy stays.
        lines.sort_by_key(|(tier, _)| *tier);
        let inbound = self.inbound().map(|entry| Arc::clone(&entry.sa)).collect();
        let lines = lines.into_iter().map(|(_, line)| line).collect();
        let local = self.local.as_ref().map(|rules| self.local_picture(Arc::clone(rules)));
        let (drops, link) = (Arc::clone(&self.drops), Arc::clone(&self.link));
        let snapshot = Snapshot::new(lines, inbound, local, drops, link);
        self.snapshot = Arc::new(snapshot.with_tap(self.tap.clone()));
    }

    fn local_picture(&self, rules: Arc<Rules>) -> Local {
        let keyed: HashSet<Selectors> = self.entries.iter().map(Entry::selectors).collect();
        // Who only receives sends nothing, with keys or without.
        let keyless: HashSet<Selectors> = self.named.keyless().collect();
        let is_keyed = |line: &Selectors| self.receives_only || keyed.contains(line) || keyless.contains(line);
        Local { rules, told: Told::new(&self.named.list(), self.named.is_told(), is_keyed) }
    }

    /// The SAs of one line, oldest first, in the order in which a sender tries them: the newest active one, then those still
    /// to come.
    fn line(&self, entries: &[&Entry]) -> (Tier, Line) {
        let clock = self.clock;
        let newest = |demoted: bool| {
            entries.iter().rposition(|entry| entry.is_active(clock) && entry.is_demoted(clock) == demoted)
        };
        let (tier, first) = match (newest(false), newest(true)) {
            (Some(at), _) => (Tier::Active, Some(at)),
            (None, Some(at)) => (Tier::Leaving, Some(at)),
            (None, None) => (Tier::Coming, None),
        };
        let behind = first.map_or(0, |at| at + 1);
        let coming = entries.iter().skip(behind).filter(|entry| !entry.is_active(clock));
        let candidates: Box<[Arc<Sa>]> =
            first.and_then(|at| entries.get(at)).into_iter().chain(coming).map(|entry| Arc::clone(&entry.sa)).collect();
        (tier, Line { candidates })
    }
}

/// What a line's best SA is, best first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Tier {
    Active,
    Leaving,
    Coming,
}
