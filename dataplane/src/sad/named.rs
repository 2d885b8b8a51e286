//! What the group has said that it protects, which outlives the keys for it.
//!
//! ```text
//!   named by an update --> withdrawn: the policy names others now --> gone, when the roll-over is over
//! ```
//!
//! A registration names the whole policy: what it leaves out is withdrawn. A rekey may be about a part, so it withdraws only that whose SAs it
//! removes while it brings others. Keys that end by themselves, that are flushed, or that are deleted without others in their place withdraw
//! nothing: there is no other policy then.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use super::MAX_SAS;
use super::check::are_sound;
use crate::local::Selectors;

/// Lines of the policy by selectors, the latest first.
#[derive(Clone)]
pub(super) struct Named {
    lines: Vec<Line>,
    /// Has the group said anything? Otherwise the lines are what the local policy takes for it.
    is_told: bool,
    /// All selectors.
    list: Arc<[Selectors]>,
}

#[derive(Clone)]
struct Line {
    selectors: Selectors,
    /// It has been named alone: its keys are refused, or were another's.
    keyless: bool,
    /// Withdrawn, until this time.
    until: Option<Duration>,
}

impl Named {
    /// What the local policy takes for it.
    pub(super) fn expected(expected: Vec<Selectors>) -> Self {
        let list = expected.as_slice().into();
        let line = |selectors| Line { selectors, keyless: false, until: None };
        Self { lines: expected.into_iter().map(line).collect(), is_told: false, list }
    }

    /// An update names these lines, and withdraws others at a time.
    pub(super) fn tell(&mut self, order: &[Selectors], withdraws: impl Fn(&Selectors) -> bool, until: Duration) {
        let before = self.begin();
        let mut placed = HashSet::new();
        let named = order.iter().filter(|line| placed.insert(**line));
        self.lines = named.map(|line| Line { selectors: *line, keyless: false, until: None }).collect();
        for line in before.into_iter().filter(|line| !placed.contains(&line.selectors)) {
            let withdrawn = withdraws(&line.selectors).then_some(until);
            let until = line.until.into_iter().chain(withdrawn).min();
            self.lines.push(Line { until, ..line });
        }
        self.lines.truncate(2 * MAX_SAS);
        self.publish();
    }

    /// Somebody has named these lines, and there are no keys for them. What cannot be is left out.
    pub(super) fn hold(&mut self, lines: &[Selectors]) {
        let mut held: HashSet<Selectors> = lines.iter().filter(|line| are_sound(line)).copied().collect();
        if held.is_empty() {
            return;
        }
        self.lines = self.begin();
        for line in self.lines.iter_mut().filter(|line| held.remove(&line.selectors)) {
            line.until = None;
        }
        let fresh = lines.iter().filter(|line| held.remove(*line));
        let fresh: Vec<Line> = fresh.map(|line| Line { selectors: *line, keyless: true, until: None }).collect();
        self.lines.splice(0..0, fresh);
        self.lines.truncate(2 * MAX_SAS);
        self.publish();
    }

    /// What was withdrawn goes when its time has come.
    pub(super) fn expire(&mut self, clock: Duration) {
        let before = self.lines.len();
        self.lines.retain(|line| line.until.is_none_or(|until| until > clock));
        if self.lines.len() != before {
            self.publish();
        }
    }

    /// When [`Self::expire`] is wanted next.
    pub(super) fn deadline(&self) -> Option<Duration> {
        self.lines.iter().filter_map(|line| line.until).min()
    }

    pub(super) fn is_told(&self) -> bool {
        self.is_told
    }

    /// All of it.
    pub(super) fn list(&self) -> Arc<[Selectors]> {
        Arc::clone(&self.list)
    }

    /// Lines that have been named without keys.
    pub(super) fn keyless(&self) -> impl Iterator<Item = Selectors> {
        self.lines.iter().filter(|line| line.keyless).map(|line| line.selectors)
    }

    /// The lines there are, for others to take their place.
    fn begin(&mut self) -> Vec<Line> {
        if std::mem::replace(&mut self.is_told, true) { std::mem::take(&mut self.lines) } else { Vec::new() }
    }

    fn publish(&mut self) {
        self.list = self.lines.iter().map(|line| line.selectors).collect();
    }
}
