//! `/proc/net/xfrm_stat`: why the kernel dropped packets, those of everybody in the network namespace.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Seek};

use crate::drops::{DropCounters, DropReason};

/// Reasons that the data plane of this process has no like of.
const OTHERS: [&str; 18] = [
    "InIptfsError",
    "InNoPols",
    "InPolBlock",
    "InPolError",
    "InStateDirError",
    "InStateExpired",
    "InTmplMismatch",
    "AcquireError",
    "FwdHdrError",
    "OutBundleCheckError",
    "OutNoQueueSpace",
    "OutNoStates",
    "OutPolBlock",
    "OutPolDead",
    "OutPolError",
    "OutStateDirError",
    "OutStateInvalid",
    "OutStateModeError",
];

/// The counters, from the engine's start on.
pub(super) struct HostCounters {
    /// That of the network namespace in which it was opened.
    file: Option<File>,
    before: BTreeMap<&'static str, u64>,
}

impl HostCounters {
    /// Begins to count. A kernel without these counters counts nothing.
    pub(super) fn open() -> Self {
        let mut counters = Self { file: File::open("/proc/thread-self/net/xfrm_stat").ok(), before: BTreeMap::new() };
        counters.before = counters.read().unwrap_or_default();
        counters
    }

    /// Tells those that the data plane has too, and gives the others as far as they have counted anything.
    pub(super) fn tell(&mut self, drops: &DropCounters) -> BTreeMap<&'static str, u64> {
        let Ok(mut now) = self.read() else { return BTreeMap::new() };
        for (name, n) in &mut now {
            *n = n.saturating_sub(self.before.get(name).copied().unwrap_or(0));
        }
        for reason in DropReason::ALL {
            if let Some(n) = now.remove(reason.name()) {
                drops.set(reason, n);
            }
        }
        now.retain(|_, n| *n > 0);
        now
    }

    fn read(&mut self) -> io::Result<BTreeMap<&'static str, u64>> {
        let Some(file) = &mut self.file else { return Ok(BTreeMap::new()) };
        file.rewind()?;
        let mut text = String::new();
        file.read_to_string(&mut text)?;
        Ok(parse(&text))
    }
}

fn parse(text: &str) -> BTreeMap<&'static str, u64> {
    let known = |name: &str| {
        let ours = DropReason::ALL.into_iter().map(DropReason::name);
        ours.chain(OTHERS).find(|known| *known == name)
    };
    let line = |line: &str| {
        let (name, n) = line.split_once(char::is_whitespace)?;
        Some((known(name.strip_prefix("Xfrm")?)?, n.trim().parse().ok()?))
    };
    text.lines().filter_map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_by_name() {
        let text = "XfrmInNoStates          \t3\nXfrmInPolBlock\t7\nXfrmOfTheFuture 1\nnonsense\nXfrmOutError\tmany\n";
        assert_eq!(parse(text), BTreeMap::from([("InNoStates", 3), ("InPolBlock", 7)]));
    }
}
