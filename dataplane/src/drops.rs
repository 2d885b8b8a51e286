//! Why packets are dropped, counted reason by reason.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

/// Reasons, named as in `/proc/net/xfrm_stat` where the kernel has the like.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum DropReason {
    /// Inbound: no sound IP packet, no ESP in it, or a fragment.
    InHdrError,
    /// Inbound: the packet is longer than the buffer it was read into.
    InBufferError,
    /// Inbound: the kernel dropped it, for the engine had not read what came before and the socket's buffer was full.
    InQueueFull,
    /// Inbound: no SA with this SPI and destination.
    InNoStates,
    /// Inbound: too short for the SA's IV, trailer and ICV, or not a whole number of blocks.
    InStateInvalid,
    /// Inbound: authentic or not looked at any more, for the SA's lifetime in octets is used up.
    InStateExpired,
    /// Inbound: the number was seen before, is behind the window, or is zero.
    InStateSeqError,
    /// Inbound: authentic, but no window is left to protect one more sender.
    InTooManySenders,
    /// Inbound: the ICV is wrong.
    InStateProtoError,
    /// Inbound: authentic, but the padding is not 1, 2, 3 and so on.
    InPaddingError,
    /// Inbound: authentic, but what is inside does not fit the SA's mode or its outer addresses.
    InStateModeError,
    /// Inbound: authentic, but outside of the SA's selectors.
    InStateMismatch,
    /// Inbound: authentic, but marked on its way for a congestion that the packet inside cannot tell of (RFC 6040 section 4.2).
    InCongested,
    /// Inbound: a local rule discards the packet that was inside.
    InPolBlock,
    /// Inbound: an authentic dummy packet, dropped as it should be.
    InDummy,
    /// Inbound: the plain packet could not be handed on.
    InError,
    /// Outbound: no sound IP packet.
    OutHdrError,
    /// Outbound: no policy matches, and no local rule lets it pass in clear.
    OutNoPols,
    /// Outbound: a local rule discards it.
    OutPolBlock,
    /// Outbound: a fragment cannot be protected in transport mode (RFC 4303 section 3.3.4), and the others did not come.
    OutFragment,
    /// Outbound: the protected packet would be longer than any can be.
    OutBundleGenError,
    /// Outbound: the link does not take a packet of the protected one's size, and it is not to be fragmented.
    OutTooBig,
    /// Outbound: a counter-mode SA, and this member has no sender ID.
    OutNoSenderId,
    /// Outbound: the sender IDs' IV space is used up.
    OutIvExhausted,
    /// Outbound: the sequence numbers are used up.
    OutStateSeqError,
    /// Outbound: the SA was removed while the packet was on its way, or its lifetime in octets is used up.
    OutStateExpired,
    /// Outbound: the cipher refused, which it does not.
    OutStateProtoError,
    /// Outbound: the network did not take the protected packet.
    OutError,
}

impl DropReason {
    /// All reasons, in order.
    pub const ALL: [DropReason; 28] = [
        DropReason::InHdrError,
        DropReason::InBufferError,
        DropReason::InQueueFull,
        DropReason::InNoStates,
        DropReason::InStateInvalid,
        DropReason::InStateExpired,
        DropReason::InStateSeqError,
        DropReason::InTooManySenders,
        DropReason::InStateProtoError,
        DropReason::InPaddingError,
        DropReason::InStateModeError,
        DropReason::InStateMismatch,
        DropReason::InCongested,
        DropReason::InPolBlock,
        DropReason::InDummy,
        DropReason::InError,
        DropReason::OutHdrError,
        DropReason::OutNoPols,
        DropReason::OutPolBlock,
        DropReason::OutFragment,
        DropReason::OutBundleGenError,
        DropReason::OutTooBig,
        DropReason::OutNoSenderId,
        DropReason::OutIvExhausted,
        DropReason::OutStateSeqError,
        DropReason::OutStateExpired,
        DropReason::OutStateProtoError,
        DropReason::OutError,
    ];

    /// Is it not yet said whether such a packet is dropped? [`Oversize`](crate::Oversize) decides.
    pub(crate) fn is_open(self) -> bool {
        matches!(self, DropReason::OutTooBig | DropReason::OutFragment)
    }

    /// Name in status reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            DropReason::InHdrError => "InHdrError",
            DropReason::InBufferError => "InBufferError",
            DropReason::InQueueFull => "InQueueFull",
            DropReason::InNoStates => "InNoStates",
            DropReason::InStateInvalid => "InStateInvalid",
            DropReason::InStateExpired => "InStateExpired",
            DropReason::InStateSeqError => "InStateSeqError",
            DropReason::InTooManySenders => "InTooManySenders",
            DropReason::InStateProtoError => "InStateProtoError",
            DropReason::InPaddingError => "InPaddingError",
            DropReason::InStateModeError => "InStateModeError",
            DropReason::InStateMismatch => "InStateMismatch",
            DropReason::InCongested => "InCongested",
            DropReason::InPolBlock => "InPolBlock",
            DropReason::InDummy => "InDummy",
            DropReason::InError => "InError",
            DropReason::OutHdrError => "OutHdrError",
            DropReason::OutNoPols => "OutNoPols",
            DropReason::OutPolBlock => "OutPolBlock",
            DropReason::OutFragment => "OutFragment",
            DropReason::OutBundleGenError => "OutBundleGenError",
            DropReason::OutTooBig => "OutTooBig",
            DropReason::OutNoSenderId => "OutNoSenderId",
            DropReason::OutIvExhausted => "OutIvExhausted",
            DropReason::OutStateSeqError => "OutStateSeqError",
            DropReason::OutStateExpired => "OutStateExpired",
            DropReason::OutStateProtoError => "OutStateProtoError",
            DropReason::OutError => "OutError",
        }
    }
}

impl DropReason {
    /// What it means, in a few words.
    #[must_use]
    pub fn meaning(self) -> &'static str {
        match self {
            DropReason::InHdrError => "no sound IP packet, no ESP, or a fragment",
            DropReason::InBufferError => "longer than the buffer",
            DropReason::InQueueFull => "more came than could be opened",
            DropReason::InNoStates => "no SA with this SPI and destination",
            DropReason::InStateInvalid => "too short, or not whole blocks",
            DropReason::InStateExpired => "the octets of the SA are used up",
            DropReason::InStateSeqError => "seen before, or behind the window",
            DropReason::InTooManySenders => "no window left for one more sender",
            DropReason::InStateProtoError => "not authentic: the ICV is wrong",
            DropReason::InPaddingError => "authentic, with wrong padding",
            DropReason::InStateModeError => "authentic, but not of the SA's mode",
            DropReason::InStateMismatch => "authentic, outside of the selectors",
            DropReason::InCongested => "congestion it cannot tell of",
            DropReason::InPolBlock => "a rule discards what was inside",
            DropReason::InDummy => "a dummy, dropped as it should be",
            DropReason::InError => "the TUN device did not take it",
            DropReason::OutHdrError => "no sound IP packet",
            DropReason::OutNoPols => "no policy, or no keys of it",
            DropReason::OutPolBlock => "a local rule discards it",
            DropReason::OutFragment => "a fragment without the others",
            DropReason::OutBundleGenError => "too long when protected",
            DropReason::OutTooBig => "too large for the link",
            DropReason::OutNoSenderId => "this member has no sender ID",
            DropReason::OutIvExhausted => "the IVs are used up",
            DropReason::OutStateSeqError => "the sequence numbers are used up",
            DropReason::OutStateExpired => "SA removed, or its octets used up",
            DropReason::OutStateProtoError => "the cipher refused",
            DropReason::OutError => "the network did not take it",
        }
    }
}

/// A counter for each reason.
#[derive(Debug, Default)]
pub(crate) struct DropCounters([AtomicU64; DropReason::ALL.len()]);

impl DropCounters {
    /// Counts one packet.
    pub(crate) fn count(&self, reason: DropReason) {
        self.count_drops(reason, 1);
    }

    /// Counts so many packets.
    pub(crate) fn count_drops(&self, reason: DropReason, packets: usize) {
        self.0[reason as usize].fetch_add(packets as u64, Ordering::Relaxed);
    }

    /// Says what somebody else has counted.
    pub(crate) fn set(&self, reason: DropReason, packets: u64) {
        self.0[reason as usize].store(packets, Ordering::Relaxed);
    }

    /// Packets dropped for a reason.
    pub(crate) fn get(&self, reason: DropReason) -> u64 {
        self.0[reason as usize].load(Ordering::Relaxed)
    }

    /// All counters by name, zeros included.
    pub(crate) fn by_name(&self) -> BTreeMap<&'static str, u64> {
        DropReason::ALL.into_iter().map(|reason| (reason.name(), self.get(reason))).collect()
    }

    /// Those that have counted anything, by name.
    pub(crate) fn counted(&self) -> BTreeMap<&'static str, u64> {
        let mut all = self.by_name();
        all.retain(|_, packets| *packets > 0);
        all
    }

    /// Adds what others have counted.
    pub(crate) fn add(&self, others: &Self) {
        for (counter, other) in self.0.iter().zip(&others.0) {
            counter.fetch_add(other.load(Ordering::Relaxed), Ordering::Relaxed);
        }
    }

    /// What is left of these counters without what others have counted of it. Both may go on counting meanwhile.
    pub(crate) fn without(&self, others: &Self) -> Self {
        let left = Self::default();
        for ((counter, all), other) in left.0.iter().zip(&self.0).zip(&others.0) {
            counter.store(all.load(Ordering::Relaxed).saturating_sub(other.load(Ordering::Relaxed)), Ordering::Relaxed);
        }
        left
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::engine::kernel::COUNTERS;

    #[test]
    fn each_reason_has_its_own_counter() {
        let counters = DropCounters::default();
        for (at, reason) in DropReason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, at);
            assert!((1..=42).contains(&reason.meaning().len()), "{reason:?}");
            counters.count(reason);
        }
        assert_eq!(counters.by_name().len(), DropReason::ALL.len());
        assert!(counters.by_name().values().all(|n| *n == 1));
    }

    #[test]
    fn the_manual_has_each_reason_and_what_to_do_about_it() {
        let reasons = DropReason::ALL.into_iter().map(|reason| (reason.name(), reason.meaning()));
        assert!(reasons.eq(manual("\n### Reasons\n")), "docs/operation.md");
        assert!(COUNTERS.into_iter().eq(manual("\n### Reasons of the kernel's ESP\n")), "docs/operation.md");
    }

    /// Names and meanings from a section's table.
    fn manual(heading: &str) -> Vec<(&'static str, &'static str)> {
        let (_, text) = include_str!("../../docs/operation.md").split_once(heading).unwrap();
        let section = text.split("\n#").next().unwrap_or(text);
        let rows = section.lines().filter_map(|line| line.strip_prefix("| `")?.strip_suffix(" |")?.split_once("` | "));
        let row = |(name, rest): (&'static str, &'static str)| {
            let (meaning, what_to_do) = rest.split_once(" | ").unwrap();
            assert!(what_to_do.ends_with('.'), "{name}");
            (name, meaning)
        };
        rows.map(row).collect()
    }

    #[test]
    fn counters_are_added_and_taken_apart() {
        let (all, some) = (DropCounters::default(), DropCounters::default());
        all.count(DropReason::InDummy);
        some.count(DropReason::InDummy);
        all.count(DropReason::OutNoPols);
        assert_eq!(all.without(&some).counted(), [("OutNoPols", 1)].into());
        all.add(&some);
        assert_eq!(all.counted(), [("InDummy", 2), ("OutNoPols", 1)].into());
        assert_eq!(some.without(&all).counted(), BTreeMap::new());
    }
}
