//! GSA_INBAND_REKEY: what a member is told over the IKE SA it registered by (RFC 9838 section 2.4.2).
//!
//! ```text
//!  GM                                       GCKS
//!       <-- HDR, SK{GSA, KD, [N(USE_TRANSPORT_MODE)]}
//!  HDR, SK{} -->                                          the acknowledgement
//!       <-- HDR, SK{D}                                    what the new SAs replace (reading 18)
//!  HDR, SK{} -->
//! ```
//!
//! Keys are wrapped under GSK_w of the IKE SA. There is no Rekey SA, no tree, and nothing to sign.

use std::borrow::Cow;
use std::time::Duration;

use keyferry_crypto::{CryptoError, Secret};
use keyferry_model::epoch::Epoch;
use keyferry_model::plan::{Deletion, InBandStep};
use keyferry_model::policy::{EspMode, GroupPolicy, InBand};
use keyferry_wire::{ChainWriter, Encode};

use crate::policy::to_wire;
use crate::wire::delete::Delete;
use crate::wire::gsa::{Gsa, GwPolicy};
use crate::wire::kd::Kd;
use crate::wire::notify::Notify;
use crate::wire::registry::{NotifyType, PayloadKind, ProtocolId};

/// Are members that are rekeyed in band told lifetimes? Where the group has a Rekey SA, for others (reading 14).
pub(crate) fn tells_lifetimes(policy: &GroupPolicy) -> bool {
    policy.gikev2.as_ref().is_some_and(|g| g.options.in_band != InBand::Everybody)
}

/// The messages that tell a member what a rekey is for it, in their order.
pub(crate) fn told(
    policy: &GroupPolicy,
    step: &InBandStep,
    default: &Secret,
    wall: Duration,
) -> Result<Vec<ChainWriter>, CryptoError> {
    let mut messages = Vec::new();
    if let Some(epoch) = &step.epoch {
        messages.push(keys(policy, step, epoch, default, wall)?);
    }
    match (&step.delete, messages.last_mut()) {
        (Deletion::Spis(spis), _) if spis.is_empty() => {}
        (Deletion::Spis(spis), _) => messages.push(deletes(&[Delete::esp(spis)])),
        // At once, which only GWP_DTD beside it can say.
        (_, Some(keys)) => keys.push(PayloadKind::DELETE.0, &all(ProtocolId::ESP, 4).to_vec()),
        (_, None) => messages.push(deletes(&[all(ProtocolId::ESP, 4)])),
    }
    Ok(messages)
}

/// Everything is deleted: the member is one no more (RFC 9838 section 2.4.3, reading 13).
pub(crate) fn everything() -> ChainWriter {
    deletes(&[all(ProtocolId::ESP, 4), all(ProtocolId::GIKE_UPDATE, 16)])
}

fn all(protocol: ProtocolId, spi_len: u8) -> Delete<'static> {
    Delete { protocol, spi_len, spis: Cow::Owned(vec![0; usize::from(spi_len)]) }
}

fn deletes(deletes: &[Delete<'_>]) -> ChainWriter {
    let mut chain = ChainWriter::new();
    deletes.iter().for_each(|d| chain.push(PayloadKind::DELETE.0, &d.to_vec()));
    chain
}

fn keys(
    policy: &GroupPolicy,
    step: &InBandStep,
    epoch: &Epoch,
    default: &Secret,
    wall: Duration,
) -> Result<ChainWriter, CryptoError> {
    let lifetime = Some(epoch.remaining(wall)).filter(|_| tells_lifetimes(policy));
    let sas = epoch.sas.iter().map(|sa| to_wire::data_policy_in_band(sa, lifetime)).collect();
    let groups = epoch.sas.iter().map(|sa| to_wire::data_bag(sa, default)).collect::<Result<_, _>>()?;
    let group_wide = GwPolicy {
        activation_delay: Some(to_wire::delay(step.activation_delay)),
        deactivation_delay: Some(to_wire::delay(step.deactivation_delay)),
        sender_id_bits: None,
    };
    let mut chain = ChainWriter::new();
    chain.push(PayloadKind::GSA.0, &Gsa { sas, group_wide: Some(group_wide) }.to_vec());
    chain.push(PayloadKind::KD.0, &Kd { groups, member: None }.to_vec());
    if policy.mode() == EspMode::Transport {
        chain.push(PayloadKind::NOTIFY.0, &Notify::bare(NotifyType::USE_TRANSPORT_MODE).to_vec());
    }
    Ok(chain)
}
