//! A rekey as the model decides it, before either protocol puts it into messages.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::epoch::Epoch;
use crate::id::{Identity, Protocol};
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
    /// Newcomers wait for keys that nobody used before them.
    Joining,
    /// A member asked for newer keys by registering again.
    Asked,
    /// The policy has changed.
    Policy,
    /// An operator had all traffic keys deleted: the new ones are used at once.
    DeleteTeks,
    /// An operator had the rekey SAs deleted: all register anew.
    DeleteKek,
    /// Sender IDs ran out, or an operator asked for it: everything is deleted, all register anew.
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
    /// GSA_REKEY goes in fragments where an IP packet would be longer; `None` sends it whole.
    pub fragment_size: Option<usize>,
    /// What members are told over their IKE SAs, if there are any that are rekeyed so.
    pub in_band: Option<Arc<InBandStep>>,
}

impl RekeyPlan {
    /// The newest epoch that somebody is told by this.
    pub(crate) fn told_epoch(&self) -> Option<u64> {
        let in_band = self.in_band.iter().filter(|s| !s.members.is_empty()).filter_map(|s| s.epoch.as_ref());
        self.steps.iter().filter_map(|s| s.new_epoch.as_ref()).chain(in_band).map(|e| e.number).max()
    }
}

/// What members of G-IKEv2 are told by GSA_INBAND_REKEY (RFC 9838 section 2.4.2).
#[derive(Debug)]
pub struct InBandStep {
    /// Who gets the new epoch.
    pub members: Vec<InBandTo>,
    /// Who is told that everything is deleted.
    pub excluded: Vec<InBandTo>,
    /// A new epoch, if there is one.
    pub epoch: Option<Arc<Epoch>>,
    /// Data SAs to delete.
    pub delete: Deletion,
    /// ATD.
    pub activation_delay: Duration,
    /// DTD.
    pub deactivation_delay: Duration,
}

/// A member over one of its registrations, and so over one IKE SA.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InBandTo {
    /// Who.
    pub identity: Identity,
    /// Its registrations when it made this one.
    pub registration: u64,
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
    /// The policy under which that SA was made: how it protects, who signs, and where its messages go.
    pub policy: Arc<GroupPolicy>,
    /// GDOI SEQ or G-IKEv2 message ID of this message; used once.
    pub counter: u32,
    /// A new rekey SA, if it brings one.
    pub new_rekey: Option<NewRekeySa>,
    /// A new epoch, if it brings one.
    pub new_epoch: Option<Arc<Epoch>>,
    /// What members are to delete.
    pub delete: Deletion,
    /// ATD told to members.
    pub activation_delay: Duration,
    /// DTD told to members.
    pub deactivation_delay: Duration,
    /// Lifetimes are told as what remains from here (wall clock): from the last copy of the message, so that none tells too long.
    pub counted_from: Duration,
    /// What it does about IEC 61850 streams.
    pub streams: StreamStep,
}

/// What a rekey message deletes (RFC 6407 section 5.9, RFC 9838 section 2.4.3).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Deletion {
    /// These data SAs, after the deactivation delay; possibly none.
    Spis(Vec<u32>),
    /// All data SAs but those of the new epoch.
    DataSas,
    /// The rekey SA: nothing follows it, and members register anew.
    RekeySa,
    /// All data SAs and the rekey SA.
    Everything,
}

/// A rekey SA that replaces another.
#[derive(Debug)]
pub struct NewRekeySa {
    /// The new SA. Its counter is 0: GDOI's first SEQ under it is 1, G-IKEv2's first message ID is 0.
    pub sa: Arc<RekeySa>,
    /// The policy under which it was made.
    pub made_under: Arc<GroupPolicy>,
    /// How its keys are wrapped so that excluded members cannot learn them; `None` protects them by the message alone
    /// (GDOI KEK packet, G-IKEv2 GSK_w).
    pub tree: Option<TreeUpdate>,
}
