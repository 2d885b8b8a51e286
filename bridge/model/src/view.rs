//! What operators are shown: plain values without secrets, the same for people, `--json` and dashboards.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::capabilities::Capabilities;
use crate::holder::Holder;
use crate::id::{GroupId, Identity, Protocol};
use crate::plan::RekeyReason;
use crate::reading::Readings;

/// A group at a glance.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct GroupView {
    /// Name.
    pub name: String,
    /// Identities members ask for.
    pub ids: Vec<GroupId>,
    /// Members registered by GDOI.
    pub gdoi_members: usize,
    /// Members registered by G-IKEv2.
    pub gikev2_members: usize,
    /// Live epochs, oldest first.
    pub epochs: Vec<EpochView>,
    /// Rekey SAs in use.
    pub rekey_sas: Vec<RekeySaView>,
    /// The sender ID that is given next.
    pub next_sender_id: u64,
    /// Sender IDs left.
    pub sender_ids_left: u64,
    /// Rekeys since the group was made.
    pub rekeys: u64,
    /// Seconds until the next rekey that comes by itself.
    pub next_rekey_in: u64,
    /// The last rekey that anybody was to acknowledge.
    #[serde(default)]
    pub last_rekey: Option<LastRekeyView>,
    /// What all members of G-IKEv2 can do, unless one has not said what.
    #[serde(default)]
    pub common: Option<Capabilities>,
}

/// How the last rekey went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastRekeyView {
    /// Counts up within the group.
    pub id: u64,
    /// Members that were asked to acknowledge.
    pub expected: usize,
    /// Members that did.
    pub acknowledged: usize,
    /// Members that have not, though the time to answer has passed; none before.
    pub missed: usize,
}

/// An epoch.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct EpochView {
    /// Number, counting from 1.
    pub number: u64,
    /// SPIs in hexadecimal with `0x`, one per line of the traffic policy and then per stream.
    pub spis: Vec<String>,
    /// Are senders using it?
    pub active: bool,
    /// Has a newer epoch replaced it?
    pub replaced: bool,
    /// Seconds left.
    pub remaining: u64,
}

/// A rekey SA.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RekeySaView {
    /// Protocol.
    pub protocol: Protocol,
    /// SPI in hexadecimal.
    pub spi: String,
    /// Messages sent under it.
    pub sent: u32,
    /// Seconds left.
    pub remaining: u64,
}

/// State of a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MemberState {
    /// Registered.
    Active,
    /// Left at its own wish.
    Left,
    /// Evicted by an operator or a policy; it may not come back until it is readmitted.
    Evicted,
}

/// A member.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct MemberView {
    /// Identity.
    pub identity: Identity,
    /// Who holds the certificate that it last proved itself by, if it ever did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub holder: Option<Holder>,
    /// Protocol of its last registration.
    pub protocol: Protocol,
    /// Protocols it has used before, oldest first.
    pub history: Vec<Protocol>,
    /// State.
    pub state: MemberState,
    /// Address of its last registration.
    pub address: SocketAddr,
    /// How it was seen to read phase 1 of IKEv1 at its last registration by GDOI, other than we do.
    #[serde(default)]
    pub readings: Readings,
    /// Registrations so far.
    pub registrations: u64,
    /// Sender IDs of its last registration.
    pub sender_ids: Vec<u32>,
    /// Is it rekeyed in band (G-IKEv2)?
    #[serde(default)]
    pub in_band: bool,
    /// Does it take rekeys in fragments (G-IKEv2)?
    #[serde(default)]
    pub fragments: bool,
    /// What it said that it can do, if it did (G-IKEv2).
    #[serde(default)]
    pub capabilities: Option<Capabilities>,
    /// Rekeys it acknowledged.
    pub acknowledged: u64,
    /// Rekeys in a row it has not acknowledged though asked to.
    pub missed: u64,
    /// Latency of its last acknowledgement, milliseconds.
    pub latency_ms: Option<u64>,
}

/// A rekey and what came back.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RekeyView {
    /// Counts up within the group.
    pub id: u64,
    /// Why.
    pub reason: RekeyReason,
    /// Seconds since the Unix epoch when it was sent.
    pub at: u64,
    /// The epoch it brought, if any.
    pub epoch: Option<u64>,
    /// Members that were asked to acknowledge.
    pub expected: usize,
    /// Members that did.
    pub acknowledged: usize,
    /// Who is missing.
    pub missing: Vec<Identity>,
    /// Acknowledgements in order of arrival.
    pub acks: Vec<AckView>,
}

/// An acknowledgement.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct AckView {
    /// Who.
    pub identity: Identity,
    /// By which protocol.
    pub protocol: Protocol,
    /// Milliseconds from the first copy of the message to its acknowledgement.
    pub latency_ms: u64,
}
