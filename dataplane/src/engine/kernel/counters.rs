//! `/proc/net/xfrm_stat`: why the kernel dropped packets, those of everybody in the network namespace.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Seek};

use crate::drops::{DropCounters, DropReason};

/// All counters, and what they mean for what an engine installs. Some are named as reasons of the user-space engine, and
/// count other things.
pub const COUNTERS: [(&str, &str); 32] = [
    ("InError", "other errors"),
    ("InBufferError", "no memory"),
    ("InHdrError", "no sound header"),
    ("InNoStates", "no SA with this SPI and destination"),
    ("InStateProtoError", "not authentic, or not well formed"),
    ("InStateModeError", "not of the SA's mode"),
    ("InStateSeqError", "seen before, or behind the window"),
    ("InStateExpired", "the SA has just ended"),
    ("InStateMismatch", "authentic, outside of the selectors"),
    ("InStateInvalid", "the SA is being removed"),
    ("InStateDirError", "the SA is for the other direction"),
    ("InTmplMismatch", "in clear, or by another group's SA"),
    ("InNoPols", "no policy takes it"),
    ("InPolBlock", "in clear, and there are no keys"),
    ("InPolError", "a policy cannot be used"),
    ("InIptfsError", "a fault of IP-TFS"),
    ("OutError", "other errors"),
    ("OutBundleGenError", "no way to send by an SA"),
    ("OutBundleCheckError", "the way to send has just changed"),
    ("OutNoStates", "the policy's SA is gone"),
    ("OutStateProtoError", "the cipher refused"),
    ("OutStateModeError", "too large, or not of the SA's mode"),
    ("OutStateSeqError", "the sequence numbers are used up"),
    ("OutStateExpired", "the SA has just ended"),
    ("OutStateInvalid", "the SA is being removed"),
    ("OutStateDirError", "the SA is for the other direction"),
    ("OutPolBlock", "no keys to send by"),
    ("OutPolDead", "the policy has just been removed"),
    ("OutPolError", "a policy cannot be used"),
    ("OutNoQueueSpace", "a queue is full"),
    ("FwdHdrError", "forwarded, without a sound header"),
    ("AcquireError", "sent before there was an SA"),
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
    let known = |name: &str| COUNTERS.into_iter().map(|(known, _)| known).find(|known| *known == name);
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
    fn each_counter_is_there_once_and_told_in_a_few_words() {
        for (at, (name, meaning)) in COUNTERS.into_iter().enumerate() {
            assert!((1..=36).contains(&meaning.len()), "{name}");
            assert_eq!(COUNTERS.into_iter().position(|(other, _)| other == name), Some(at));
        }
    }

    #[test]
    fn lines_are_read_by_name() {
        let text = "XfrmInNoStates          \t3\nXfrmInPolBlock\t7\nXfrmOfTheFuture 1\nnonsense\nXfrmOutError\tmany\n";
        assert_eq!(parse(text), BTreeMap::from([("InNoStates", 3), ("InPolBlock", 7)]));
    }
}
