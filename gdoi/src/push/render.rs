//! One step of a rekey plan as one GROUPKEY-PUSH message.

use keyferry_crypto::{CryptoError, Random, Secret};
use keyferry_model::plan::RekeyStep;
use keyferry_model::policy::{GdoiRekey, GroupPolicy};

use crate::message::{self, Iv, Payloads, SealError};
use crate::policy::tell::{KdParts, SaParts, TellError};
use crate::policy::tree::secret_part;
use crate::wire::delete::Delete;
use crate::wire::registry::{Doi, exchange, flag, payload, protocol};
use crate::wire::seq::Seq;

/// What stands in front of everything that is signed (RFC 6407 section 4).
pub(crate) const SIGNED_PREFIX: &[u8] = b"rekey";

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
}

/// Renders one step into one GROUPKEY-PUSH: encrypted under the step's rekey SA and signed, without a non-ESP marker.
/// GDOI's encryption and signature draw no randomness here, so the same step always gives the same octets.
///
/// # Errors
/// [`RenderError`]; nothing but an unfit policy or a message longer than a datagram brings one about.
pub fn render(policy: &GroupPolicy, step: &RekeyStep, _rng: &mut dyn Random) -> Result<Vec<u8>, RenderError> {
    let gdoi = policy.gdoi.as_ref().ok_or(TellError::NotServed)?;
    let payloads = payloads(policy, gdoi, step)?;
    #[cfg(feature = "fuzzing")]
    let payloads = crate::fuzzing::tampered(exchange::PUSH, payloads);
    let keymat = step.over.keymat.expose();
    let iv = Iv::front(gdoi.cipher, keymat).ok_or(CryptoError::Length("the KEK"))?;

    let chain = payloads.chain(payload::SIG)?;
    let signature_len = gdoi.signer.signature_len();
    let total = message::sealed_len(gdoi.cipher, chain.len() + 4 + signature_len);
    let header = message::header(&step.over.spi, exchange::PUSH, flag::ENCRYPTED, 0, payloads.first());
    let octets = header.octets(u32::try_from(total).map_err(|_| SealError::TooLong)?);
    let signature = gdoi.signer.sign(gdoi.scheme, &[SIGNED_PREFIX, &octets, chain.expose()])?;
    let length = u16::try_from(4 + signature.len()).map_err(|_| SealError::TooLong)?;
    let mut signed = Vec::with_capacity(chain.len() + 4 + signature.len());
    signed.extend_from_slice(chain.expose());
    signed.extend([0, 0]);
    signed.extend_from_slice(&length.to_be_bytes());
    signed.extend_from_slice(&signature);
    let (datagram, _) =
        message::seal(gdoi.cipher, secret_part(gdoi.cipher, keymat), &iv, &header, &Secret::new(signed))?;
    Ok(datagram)
}

fn payloads(policy: &GroupPolicy, gdoi: &GdoiRekey, step: &RekeyStep) -> Result<Payloads, RenderError> {
    let mut payloads = Payloads::new().with(payload::SEQ, &Seq(step.counter));
    if step.delete_all {
        // Zeros of full size stand for all (RFC 6407 section 5.9); the KEK's Delete comes last.
        payloads = payloads
            .with(payload::DELETE, &Delete::new(Doi::GDOI, protocol::ESP, 4, &[0; 4]))
            .with(payload::DELETE, &Delete::new(Doi::GDOI, protocol::KEK, 16, &[0; 16]));
    } else if !step.delete.is_empty() {
        let spis: Vec<u8> = step.delete.iter().flat_map(|spi| spi.to_be_bytes()).collect();
        payloads = payloads.with(payload::DELETE, &Delete::new(Doi::GDOI, protocol::ESP, 4, &spis));
    }
    let (mut sa, mut kd) = (SaParts::default(), KdParts::default());
    if let Some(new) = &step.new_rekey {
        sa.rekey_in_push(&new.sa, policy, step.planned)?;
        match &new.tree {
            Some(update) => kd.rekey_by_tree(&new.sa, gdoi, update)?,
            None => kd.rekey(&new.sa, gdoi)?,
        }
    }
    if step.new_rekey.is_some() || step.new_epoch.is_some() {
        sa.delays(step.activation_delay, step.deactivation_delay);
    }
    if let Some(epoch) = &step.new_epoch {
        sa.epoch(epoch, step.planned);
        kd.epoch(epoch);
    }
    // A message that only deletes has neither (RFC 6407 section 5.9).
    if !sa.is_empty() {
        payloads = payloads.with_body(payload::SA, sa.body());
    }
    if !kd.is_empty() {
        payloads = payloads.with_body(payload::KD, kd.body());
    }
    Ok(payloads)
}
