//! Why packets are dropped, counted reason by reason.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

/// Reasons, named as in `/proc/net/xfrm_stat` where the kernel has the like.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(usize)]
pub enum DropReason {
    /// Inbound: no sound IP packet, no ESP in it, or a fragment.
    InHdrError,
    /// Inbound: the packet is longer than the buffer it was read into.
    InBufferError,
    /// Inbound: no SA with this SPI and destination.
    InNoStates,
    /// Inbound: too short for the SA's IV, trailer and ICV, or not a whole number of blocks.
    InStateInvalid,
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
    /// Inbound: an authentic dummy packet, dropped as it should be.
    InDummy,
    /// Inbound: the plain packet could not be handed on.
    InError,
    /// Outbound: no sound IP packet.
    OutHdrError,
    /// Outbound: no policy matches. Nothing ever leaves in clear.
    OutNoPols,
    /// Outbound: a fragment cannot be protected in transport mode (RFC 4303 section 3.3.4).
    OutFragment,
    /// Outbound: the protected packet would be too long.
    OutBundleGenError,
    /// Outbound: a counter-mode SA, and this member has no sender ID.
    OutNoSenderId,
    /// Outbound: the sender IDs' IV space is used up.
    OutIvExhausted,
    /// Outbound: the sequence numbers are used up.
    OutStateSeqError,
    /// Outbound: the SA was removed while the packet was on its way.
    OutStateExpired,
    /// Outbound: the cipher refused, which it does not.
    OutStateProtoError,
    /// Outbound: the network did not take the protected packet.
    OutError,
}

impl DropReason {
    /// All reasons, in order.
    pub const ALL: [DropReason; 22] = [
        DropReason::InHdrError,
        DropReason::InBufferError,
        DropReason::InNoStates,
        DropReason::InStateInvalid,
        DropReason::InStateSeqError,
        DropReason::InTooManySenders,
        DropReason::InStateProtoError,
        DropReason::InPaddingError,
        DropReason::InStateModeError,
        DropReason::InStateMismatch,
        DropReason::InDummy,
        DropReason::InError,
        DropReason::OutHdrError,
        DropReason::OutNoPols,
        DropReason::OutFragment,
        DropReason::OutBundleGenError,
        DropReason::OutNoSenderId,
        DropReason::OutIvExhausted,
        DropReason::OutStateSeqError,
        DropReason::OutStateExpired,
        DropReason::OutStateProtoError,
        DropReason::OutError,
    ];

    /// Name in status reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            DropReason::InHdrError => "InHdrError",
            DropReason::InBufferError => "InBufferError",
            DropReason::InNoStates => "InNoStates",
            DropReason::InStateInvalid => "InStateInvalid",
            DropReason::InStateSeqError => "InStateSeqError",
            DropReason::InTooManySenders => "InTooManySenders",
            DropReason::InStateProtoError => "InStateProtoError",
            DropReason::InPaddingError => "InPaddingError",
            DropReason::InStateModeError => "InStateModeError",
            DropReason::InStateMismatch => "InStateMismatch",
            DropReason::InDummy => "InDummy",
            DropReason::InError => "InError",
            DropReason::OutHdrError => "OutHdrError",
            DropReason::OutNoPols => "OutNoPols",
            DropReason::OutFragment => "OutFragment",
            DropReason::OutBundleGenError => "OutBundleGenError",
            DropReason::OutNoSenderId => "OutNoSenderId",
            DropReason::OutIvExhausted => "OutIvExhausted",
            DropReason::OutStateSeqError => "OutStateSeqError",
            DropReason::OutStateExpired => "OutStateExpired",
            DropReason::OutStateProtoError => "OutStateProtoError",
            DropReason::OutError => "OutError",
        }
    }
}

/// A counter for each reason.
#[derive(Debug, Default)]
pub(crate) struct DropCounters([AtomicU64; DropReason::ALL.len()]);

impl DropCounters {
    /// Counts one packet.
    pub(crate) fn count(&self, reason: DropReason) {
        self.0[reason as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Packets dropped for a reason.
    pub(crate) fn get(&self, reason: DropReason) -> u64 {
        self.0[reason as usize].load(Ordering::Relaxed)
    }

    /// All counters by name, zeros included.
    pub(crate) fn by_name(&self) -> BTreeMap<&'static str, u64> {
        DropReason::ALL.into_iter().map(|reason| (reason.name(), self.get(reason))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_has_its_own_counter() {
        let counters = DropCounters::default();
        for (at, reason) in DropReason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, at);
            counters.count(reason);
        }
        assert_eq!(counters.by_name().len(), DropReason::ALL.len());
        assert!(counters.by_name().values().all(|n| *n == 1));
    }
}
