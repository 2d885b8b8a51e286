//! A rekey as the model decides it, before either protocol puts it into messages.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::epoch::Epoch;
use crate::id::Protocol;
use crate::lkh::TreeUpdate;
use crate::policy::GroupPolicy;
use crate::rekey_sa::RekeySa;
use crate::stream::StreamStep;

/// Why a rekey happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RekeyReason {
    /// Keys are about to expire.
    Lifetime,
    /// An operator asked for it.
    Operator,
    /// Members were evicted or left.
    Eviction,
    /// Sender IDs ran out: everything is deleted, all register anew.
    Reset,
    /// Nothing changes: publishers are told how many members have the newest keys.
    Assurance,
}

/// Who is to learn which key, what starts and ends when. One plan serves both protocols.
#[derive(Clone, Debug)]
pub struct RekeyPlan {
    /// Counts up within a group.
    pub id: u64,
    /// Why.
    pub reason: RekeyReason,
    /// The group's policy at that time.
    pub policy: Arc<GroupPolicy>,
    /// Messages, in the order in which they are sent.
    pub steps: Vec<Arc<RekeyStep>>,
}

/// One rekey message of one protocol: GROUPKEY-PUSH or GSA_REKEY.
///
/// Excluding members takes two (RFC 9838 section 3.2.1): the first brings the new rekey SA wrapped for those who stay,
/// the second, under the new rekey SA, the traffic keys.
#[derive(Debug)]
pub struct RekeyStep {
    /// The protocol that renders it.
    pub protocol: Protocol,
    /// The rekey SA that protects it.
    pub over: Arc<RekeySa>,
    /// GDOI SEQ or G-IKEv2 message ID of this message; used once.
    pub counter: u32,
    /// A new rekey SA, if it brings one.
    pub new_rekey: Option<NewRekeySa>,
    /// A new epoch, if it brings one.
    pub new_epoch: Option<Arc<Epoch>>,
    /// Data SAs to delete after the deactivation delay.
    pub delete: Vec<u32>,
    /// Delete all data SAs and the rekey SA; members register anew.
    pub delete_all: bool,
    /// ATD told to members.
    pub activation_delay: Duration,
    /// DTD told to members.
    pub deactivation_delay: Duration,
    /// When the plan was made (wall clock): lifetimes are told as what remains from here.
    pub planned: Duration,
    /// What it does about IEC 61850 streams.
    pub streams: StreamStep,
}

/// A rekey SA that replaces another.
#[derive(Debug)]
pub struct NewRekeySa {
    /// The new SA. Its counter is 0: GDOI's first SEQ under it is 1, G-IKEv2's first message ID is 0.
    pub sa: Arc<RekeySa>,
    /// How its keys are wrapped so that excluded members cannot learn them; `None` protects them by the message alone
    /// (GDOI KEK packet, G-IKEv2 GSK_w).
    pub tree: Option<TreeUpdate>,
}
