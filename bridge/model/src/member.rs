//! A member as the key server knows it.

use std::net::SocketAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::id::{Identity, Protocol};
use crate::view::{MemberState, MemberView};

/// A member of a group, present or past. Stored as it is.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Member {
    pub(crate) identity: Identity,
    pub(crate) protocol: Protocol,
    pub(crate) history: Vec<Protocol>,
    pub(crate) state: MemberState,
    pub(crate) address: SocketAddr,
    /// Its leaf in the key tree of `protocol`.
    pub(crate) leaf: u32,
    pub(crate) registrations: u64,
    pub(crate) registered: Duration,
    pub(crate) sender_ids: Vec<u32>,
    pub(crate) acknowledged: u64,
    pub(crate) missed: u64,
    pub(crate) latency: Option<Duration>,
}

impl Member {
    pub(crate) fn is_active(&self, protocol: Protocol) -> bool {
        self.state == MemberState::Active && self.protocol == protocol
    }

    pub(crate) fn view(&self) -> MemberView {
        MemberView {
            identity: self.identity.clone(),
            protocol: self.protocol,
            history: self.history.clone(),
            state: self.state,
            address: self.address,
            registrations: self.registrations,
            sender_ids: self.sender_ids.clone(),
            acknowledged: self.acknowledged,
            missed: self.missed,
            latency_ms: self.latency.map(millis),
        }
    }
}

/// Whole milliseconds of a duration.
pub(crate) fn millis(d: Duration) -> u64 {
    u64::try_from(d.as_millis()).unwrap_or(u64::MAX)
}
