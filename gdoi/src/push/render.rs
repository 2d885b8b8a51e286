//! One step of a rekey plan as one GROUPKEY-PUSH message.

use keyferry_crypto::{CryptoError, Random};
use keyferry_model::plan::{Deletion, RekeyStep};
use keyferry_model::policy::GroupPolicy;
use keyferry_model::reading::{Reading, Readings};

use super::unsigned::Unsigned;
use crate::message::{self, Payloads, SealError};
use crate::policy::streams::Telling;
use crate::policy::tell::{KdParts, SaParts, TellError};
use crate::wire::delete::Delete;
use crate::wire::registry::{Doi, exchange, flag, payload, protocol};
use crate::wire::seq::Seq;

/// A message that cannot be rendered.
#[derive(Debug, thiserror::Error)]
pub enum RenderError {
    /// The policy has no form in GDOI.
    #[error(transparent)]
    Policy(#[from] TellError),
    /// The message does not fit, or cannot be encrypted.
    #[error(transparent)]
    Seal(#[from] SealError),
    /// It cannot be signed, or a key is unusable.
    #[error(transparent)]
    Crypto(#[from] CryptoError),
    /// What was stored of it is none of ours.
    #[error("not what was prepared")]
    NotPrepared,
}

/// Renders one step into one GROUPKEY-PUSH: encrypted under the step's rekey SA and signed, without a non-ESP marker, for who can
/// wait for its signature: [`prepare`], sign, and [`Unsigned::finish`]. RSA draws no randomness, so the same step always gives the
/// same octets; with ECDSA each rendering is another message, and copies are those of one.
///
/// # Errors
/// [`RenderError`]; nothing but an unfit policy or a message longer than a datagram brings one about.
pub fn render(policy: &GroupPolicy, step: &RekeyStep, _rng: &mut dyn Random) -> Result<Vec<u8>, RenderError> {
    let unsigned = prepare(policy, step)?;
    let signature = unsigned.to_sign()?.sign()?;
    unsigned.finish(&signature)
}

/// Makes the message of one step but for its signature and encryption.
///
/// # Errors
/// [`RenderError`].
pub fn prepare(policy: &GroupPolicy, step: &RekeyStep) -> Result<Unsigned, RenderError> {
    let gdoi = step.policy.gdoi.as_ref().ok_or(TellError::NotServed)?;
    // What is sent now is what counts, also under a rekey SA from before; a signature's reading fits its own kind of key.
    let present = policy.gdoi.as_ref().filter(|g| g.scheme.kind() == gdoi.scheme.kind());
    let sends = present.map_or(gdoi.sends, |g| g.sends);
    let payloads = payloads(policy, sends, step)?;
    #[cfg(feature = "fuzzing")]
    let payloads = crate::fuzzing::tampered(exchange::PUSH, payloads);
    let header = message::header(&step.over.spi, exchange::PUSH, flag::ENCRYPTED, 0, payloads.first());
    let chain = payloads.chain(payload::SIG)?;
    Ok(Unsigned::new(gdoi, &step.over.keymat, sends, &header, &chain))
}

fn payloads(policy: &GroupPolicy, sends: Readings, step: &RekeyStep) -> Result<Payloads, RenderError> {
    let mut payloads = Payloads::new().with(payload::SEQ, &Seq(step.counter));
    let esp = if sends.has(Reading::IpsecDeletes) { protocol::IPSEC_ESP } else { protocol::ESP };
    // Zeros of full size stand for all (RFC 6407 section 5.9); the KEK's Delete comes last.
    let (teks, streams) = match &step.delete {
        Deletion::Spis(spis) => (spis.clone(), step.streams.delete.clone()),
        Deletion::DataSas | Deletion::Everything => {
            let streams = !policy.streams.is_empty() || !step.policy.streams.is_empty();
            (vec![0], if streams { vec![0] } else { Vec::new() })
        }
        Deletion::RekeySa => (Vec::new(), Vec::new()),
    };
    for (protocol, spis) in [(esp, teks), (protocol::IEC_61850, streams)] {
        let spis: Vec<u8> = spis.iter().flat_map(|spi| spi.to_be_bytes()).collect();
        if !spis.is_empty() {
            payloads = payloads.with(payload::DELETE, &Delete::new(Doi::GDOI, protocol, 4, &spis));
        }
    }
    if matches!(step.delete, Deletion::RekeySa | Deletion::Everything) {
        payloads = payloads.with(payload::DELETE, &Delete::new(Doi::GDOI, protocol::KEK, 16, &[0; 16]));
    }
    let (mut sa, mut kd) = (SaParts::new(sends), KdParts::default());
    if let Some(new) = &step.new_rekey {
        let gdoi = new.made_under.gdoi.as_ref().ok_or(TellError::NotServed)?;
        sa.rekey_in_push(&new.sa, &new.made_under, step.counted_from)?;
        match &new.tree {
            Some(update) => kd.rekey_by_tree(&new.sa, gdoi, update)?,
            None => kd.rekey(&new.sa, gdoi)?,
        }
    }
    if step.new_rekey.is_some() || step.new_epoch.is_some() {
        sa.delays(step.activation_delay, step.deactivation_delay);
    }
    if let Some(epoch) = &step.new_epoch {
        // When it is sent nobody has it yet.
        let (wall, wait) = (step.counted_from, step.activation_delay);
        sa.epoch(epoch, Telling { wall, wait, delayed: true, delivered: None }, None);
        kd.epoch(epoch);
    }
    if let Some(report) = &step.streams.report {
        sa.report(report, step.counted_from, step.activation_delay);
        kd.report(report);
    }
    // A message that only deletes has neither (RFC 6407 section 5.9).
    Ok(kd.append_to(sa.append_to(payloads)))
}
