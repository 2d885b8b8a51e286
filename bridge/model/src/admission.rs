//! Joining: what a member asks, what it gets, why it may be refused.

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use keyferry_crypto::Secret;

use crate::capabilities::Capabilities;
use crate::epoch::Epoch;
use crate::holder::Holder;
use crate::id::{Identity, Protocol};
use crate::lkh::NodeKey;
use crate::policy::GroupPolicy;
use crate::rekey_sa::RekeySa;

/// What a member that may join is told about, before anything is recorded or allocated for it.
///
/// GDOI tells policy (message 2) before it hands out keys (message 4); the generation ties the two together.
#[derive(Clone, Debug)]
pub struct Offer {
    /// Changes whenever keys or policy do.
    pub generation: u64,
    /// The group's policy.
    pub policy: Arc<GroupPolicy>,
    /// Live epochs, oldest first.
    pub epochs: Vec<Arc<Epoch>>,
    /// Per cent of the members that have the newest epoch, where streams want that told.
    pub delivered: Option<u8>,
    /// ATD to tell: what remains until the newest epoch is used, or the policy's when there is only one.
    pub activation_delay: Duration,
    /// DTD to tell.
    pub deactivation_delay: Duration,
    /// The protocol's rekey SA.
    pub rekey: Arc<RekeySa>,
    /// The last counter used under it: GDOI SEQ; for G-IKEv2 the next message ID. See [`Offer::next_message_id`].
    pub counter: u32,
}

impl Offer {
    /// The message ID that the next GSA_REKEY will bear (GSA_INITIAL_MESSAGE_ID).
    #[must_use]
    pub fn next_message_id(&self) -> u32 {
        self.counter
    }

    /// The SEQ that a GDOI member is told at registration: the last one used.
    #[must_use]
    pub fn last_seq(&self) -> u32 {
        self.counter
    }
}

/// A request to join, from an authenticated member.
#[derive(Clone, Copy, Debug)]
pub struct JoinRequest<'a> {
    /// Who.
    pub identity: &'a Identity,
    /// Who holds the certificate that it proved itself by, if that is how it did.
    pub holder: Option<&'a Holder>,
    /// By which protocol.
    pub protocol: Protocol,
    /// From where; unicast rekeys go there and acknowledgements come from there.
    pub address: SocketAddr,
    /// Sender IDs wanted; `None` is a receiver, `Some(0)` a sender content with one.
    pub sender_ids: Option<u32>,
    /// What is particular to G-IKEv2.
    pub gikev2: Option<&'a Gikev2Join>,
}

/// What a G-IKEv2 member says of itself when it joins, and what its IKE SA is like.
#[derive(Clone, Debug, Default)]
pub struct Gikev2Join {
    /// What it can do, if it says so.
    pub capabilities: Option<Capabilities>,
    /// It acknowledges GSA_REKEY if it is asked to.
    pub acks: bool,
    /// The IKE SA carries other groups.
    pub shared: bool,
    /// Fragments were agreed on when the IKE SA was made (RFC 7383).
    pub fragments: bool,
}

/// What a member got. The model has recorded it; flush the store before sending.
#[derive(Debug)]
pub struct Admission {
    /// Policy, epochs and rekey SA.
    pub offer: Offer,
    /// The member's keys in the protocol's tree: leaf first, up to the node below the root.
    pub path: Vec<NodeKey>,
    /// Sender IDs, never given to anybody before under the present keys. Empty for a receiver or without counter modes.
    pub sender_ids: Vec<u32>,
    /// It is rekeyed in band, so it gets neither the Rekey SA nor keys of the tree.
    pub in_band: bool,
    /// Its registrations so far: tells this one from those before and after it.
    pub registration: u64,
}

/// One registration of a member that was answered with policy and keys. An answer that is sent again is known by it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issued {
    /// Name of the group.
    pub group: String,
    /// Who.
    pub identity: Identity,
    /// Its registrations when it made this one.
    pub registration: u64,
}

/// A member that may have been told keys by an answer that is older than a rekey.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LateMember {
    /// Name of the group.
    pub group: String,
    /// Its protocol.
    pub protocol: Protocol,
    /// Who.
    pub identity: Identity,
    /// Where it is reached.
    pub address: SocketAddr,
    /// Is that through a translator, with a non-ESP marker?
    pub marked: bool,
    /// The rekeys that its answer did not tell and that are for it: after it was made, up to one that ended its membership.
    pub rekeys: RangeInclusive<u64>,
}

impl Admission {
    /// What was answered, to this member.
    #[must_use]
    pub fn issued(&self, identity: &Identity) -> Issued {
        let group = self.offer.policy.name.clone();
        Issued { group, identity: identity.clone(), registration: self.registration }
    }

    /// The leaf key, which only this member has.
    #[must_use]
    pub fn leaf(&self) -> Option<&Secret> {
        self.path.first().map(|n| &n.key)
    }
}

/// Why a member may not join.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No such group here.
    #[error("no such group")]
    UnknownGroup,
    /// The group does not serve this protocol.
    #[error("the group does not serve this protocol")]
    ProtocolNotServed,
    /// The member is not authorized, or was evicted.
    #[error("not authorized")]
    NotAuthorized,
    /// The member registers again and again.
    #[error("registered too often")]
    TooOften,
    /// The group is rekeyed in band, and the IKE SA carries another one.
    #[error("the group wants an IKE SA of its own")]
    SharedIkeSa,
    /// The key tree is full.
    #[error("the group is full")]
    Full,
    /// Sender IDs ran out; the group is about to be reset.
    #[error("sender IDs are exhausted")]
    SenderIdsExhausted,
    /// Keys changed between offer and admission.
    #[error("the group's keys changed meanwhile")]
    Stale,
}
