//! What the lab and its applications say to each other: lines of JSON on the application's standard input and output.

use serde::{Deserialize, Serialize};

/// Told to an application; each is answered by one [`Reply`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "lowercase")]
pub(super) enum Order {
    /// Begin, or go on, sending. Answered by `Mark`.
    Start,
    /// Stop sending; nothing leaves after the answer, a `Mark`.
    Stop,
    /// Which packet comes next? Answered by `Mark`.
    Mark,
    /// How much of these windows arrived? Answered by `Counted`.
    Count {
        /// Windows of sequence numbers.
        windows: Vec<Window>,
    },
    /// Everything known. Answered by `Report`.
    Report,
}

/// What an application says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "lowercase")]
pub(super) enum Reply {
    /// Said once: the sockets are open.
    Ready,
    /// Said now and then, unasked.
    Tick {
        /// Packets sent.
        sent: u64,
        /// Packets received.
        received: u64,
    },
    /// Answer.
    Mark {
        /// Sequence number of the next packet to be sent.
        next: u64,
    },
    /// Answer, in the order of the question.
    Counted {
        /// Per window.
        counts: Vec<Count>,
    },
    /// Answer.
    Report(Report),
}

/// Sequence numbers of one sender, from `from` up to but not including `to`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Window {
    /// Sender's number.
    pub sender: u16,
    /// First sequence number.
    pub from: u64,
    /// First one not in the window.
    pub to: u64,
}

/// What came of a window.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Count {
    /// Packets that arrived.
    pub received: u64,
    /// Packets that did not.
    pub missing: u64,
    /// The first that did not.
    pub first_missing: Option<u64>,
}

/// An application's whole knowledge.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Report {
    /// Packets handed to the kernel.
    pub sent: u64,
    /// Packets the kernel refused to take; they bear no sequence number and are no loss.
    pub refused: u64,
    /// Packets that are none of ours.
    pub foreign: u64,
    /// What came from whom.
    pub senders: Vec<FromSender>,
}

/// Traffic from one sender.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct FromSender {
    /// Sender's number.
    pub sender: u16,
    /// Packets, each counted once.
    pub received: u64,
    /// Packets that had come before.
    pub duplicates: u64,
    /// Packets that came after a later one.
    pub reordered: u64,
    /// Mean time under way, microseconds.
    pub mean_us: u64,
    /// Longest time under way, microseconds.
    pub worst_us: u64,
}
