//! A member as the key server knows it.

use std::net::SocketAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::capabilities::Capabilities;
use crate::holder::Holder;
use crate::id::{Identity, Protocol};
use crate::reading::Readings;
use crate::view::{MemberState, MemberView};

/// Registrations that one member may make within [`BURST_TIME`].
const BURST: u32 = 8;
const BURST_TIME: Duration = Duration::from_secs(60);

/// A member of a group, present or past. Stored as it is.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Member {
    pub(crate) identity: Identity,
    /// Who holds the certificate that it last proved itself by, if it ever did.
    #[serde(default)]
    pub(crate) holder: Option<Holder>,
    pub(crate) protocol: Protocol,
    pub(crate) history: Vec<Protocol>,
    pub(crate) state: MemberState,
    pub(crate) address: SocketAddr,
    /// Is it reached through a translator, with a non-ESP marker?
    #[serde(default)]
    pub(crate) marked: bool,
    /// How it was seen to read phase 1 of IKEv1, other than we do.
    #[serde(default)]
    pub(crate) readings: Readings,
    /// Its leaf in the key tree of `protocol`, if it has one.
    pub(crate) leaf: Option<u32>,
    pub(crate) registrations: u64,
    /// The rekey that comes after its registration: this and later ones it is to acknowledge.
    pub(crate) since: u64,
    /// The rekey that ended its membership by deleting what it had, which it may acknowledge still.
    pub(crate) until: Option<u64>,
    /// Has it acknowledged anything by its leaf key since it got that? One that cannot is not evicted for that (RFC 8263
    /// section 6).
    pub(crate) answers: bool,
    /// Registrations since `burst_since`, see [`too_often`].
    pub(crate) burst: u32,
    pub(crate) burst_since: Duration,
    /// It may have traffic keys of this epoch and later ones; of no earlier ones, for it was no member then.
    #[serde(default)]
    pub(crate) first_epoch: u64,
    pub(crate) sender_ids: Vec<u32>,
    /// Is it rekeyed over the IKE SA it registered by?
    #[serde(default)]
    pub(crate) in_band: bool,
    /// Does it acknowledge GSA_REKEY?
    #[serde(default)]
    pub(crate) acks: bool,
    /// Does it take fragments of GSA_REKEY?
    #[serde(default)]
    pub(crate) fragments: bool,
    /// What it said that it can do (G-IKEv2).
    #[serde(default)]
    pub(crate) capabilities: Option<Capabilities>,
    pub(crate) acknowledged: u64,
    pub(crate) missed: u64,
    pub(crate) latency: Option<Duration>,
}

impl Member {
    pub(crate) fn is_active(&self, protocol: Protocol) -> bool {
        self.state == MemberState::Active && self.protocol == protocol
    }

    /// May it acknowledge rekeys of this protocol?
    pub(crate) fn listens(&self, protocol: Protocol) -> bool {
        self.protocol == protocol && (self.state == MemberState::Active || self.until.is_some())
    }

    /// Does it follow rekey messages, and has it a key of its own to acknowledge them by?
    pub(crate) fn can_prove(&self) -> bool {
        let acks = match self.protocol {
            Protocol::Gdoi => true,
            Protocol::Gikev2 => self.acks,
        };
        !self.in_band && self.leaf.is_some() && acks
    }

    /// Does it follow messages that it takes whole alone?
    pub(crate) fn needs_whole(&self) -> bool {
        self.is_active(Protocol::Gikev2) && !self.in_band && !self.fragments
    }

    /// Registrations lately, see [`too_often`].
    pub(crate) fn lately(&self, wall: Duration) -> u32 {
        if wall < self.burst_since + BURST_TIME { self.burst } else { 0 }
    }

    /// Notes a registration.
    pub(crate) fn registered_at(&mut self, wall: Duration) {
        if wall >= self.burst_since + BURST_TIME {
            (self.burst, self.burst_since) = (0, wall);
        }
        self.burst += 1;
        self.registrations += 1;
    }

    pub(crate) fn view(&self) -> MemberView {
        MemberView {
            identity: self.identity.clone(),
            holder: self.holder.clone(),
            protocol: self.protocol,
            history: self.history.clone(),
            state: self.state,
            address: self.address,
            readings: self.readings,
            registrations: self.registrations,
            sender_ids: self.sender_ids.clone(),
            in_band: self.in_band,
            fragments: self.fragments,
            capabilities: self.capabilities.clone(),
            acknowledged: self.acknowledged,
            missed: self.missed,
            latency_ms: self.latency.map(millis),
        }
    }
}

/// Have these, which are one member under several names, registered more often lately than any sound member does? Each time
/// costs sender IDs, and when those run out everybody must register anew.
pub(crate) fn too_often<'a>(members: impl Iterator<Item = &'a Member>, wall: Duration) -> bool {
    members.map(|m| m.lately(wall)).fold(0, u32::saturating_add) >= BURST
}

/// Whole milliseconds of a duration.
pub(crate) fn millis(d: Duration) -> u64 {
    u64::try_from(d.as_millis()).unwrap_or(u64::MAX)
}
