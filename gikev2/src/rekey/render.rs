//! The key server's part: a step of a rekey plan as one message.

use std::borrow::Cow;

use keyferry_crypto::{CryptoError, Random, Secret};
use keyferry_model::lkh::TreeUpdate;
use keyferry_model::plan::{Deletion, NewRekeySa, RekeyStep};
use keyferry_model::policy::{EspMode, GroupPolicy, RekeyAuthentication};
use keyferry_model::rekey_sa::RekeySa;
use keyferry_model::store::SecretRecord;
use keyferry_wire::{ChainWriter, Encode};

use super::signature::value_len;
use super::unsigned::{HEADER_ALONE, Signing, Unsigned};
use crate::ike_sa::init::header;
use crate::ike_sa::options::datagram_limit;
use crate::policy::to_wire;
use crate::wire::auth::{Auth, SignatureData};
use crate::wire::delete::Delete;
use crate::wire::gsa::{Gsa, GwPolicy};
use crate::wire::kd::{GroupBag, Kd, MemberBag};
use crate::wire::notify::Notify;
use crate::wire::registry::{AuthMethod, ExchangeType, NotifyType, PayloadKind, ProtocolId};
use crate::wire::sk::SealError;

/// Why a rekey message cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum RenderError {
    /// The group serves no G-IKEv2.
    #[error("the group does not serve G-IKEv2")]
    NotServed,
    /// A key or signature failed.
    #[error(transparent)]
    Crypto(#[from] CryptoError),
    /// The message does not fit into one datagram.
    #[error(transparent)]
    Seal(#[from] SealError),
    /// A payload is longer than its length field can say.
    #[error("a payload is too long")]
    TooLong,
    /// What was stored of it is none of ours, or the signature is not the one that it is for.
    #[error("not what was prepared")]
    NotPrepared,
}

/// A message with more octets of payloads goes whole: in fragments it would be more than members put together.
const MOST_IN_FRAGMENTS: usize = 48 * 1024;

/// Renders one step of a plan into one message, encrypted and authenticated, without marker, for who can wait for its signature:
/// [`prepare`], sign, and [`Unsigned::finish`]. Repeats must be copies of this one (RFC 9838 section 2.4.1.3): rendering again
/// gives other octets.
///
/// # Errors
/// The group serves no G-IKEv2, or the message cannot be made.
pub fn render(
    policy: &GroupPolicy,
    step: &RekeyStep,
    fragment_size: Option<usize>,
    rng: &mut dyn Random,
) -> Result<Vec<u8>, RenderError> {
    let unsigned = prepare(policy, step, fragment_size, rng)?;
    let value = unsigned.to_sign()?.map(|message| message.sign()).transpose()?;
    unsigned.finish(value.as_deref(), rng)
}

/// Makes the message of one step of a plan but for its signature and encryption.
///
/// Where an IP packet would be longer than `fragment_size` it will be in fragments.
///
/// # Errors
/// The group serves no G-IKEv2, or the message cannot be made.
pub fn prepare(
    policy: &GroupPolicy,
    step: &RekeyStep,
    fragment_size: Option<usize>,
    rng: &mut dyn Random,
) -> Result<Unsigned, RenderError> {
    let rekey = step.policy.gikev2.as_ref().ok_or(RenderError::NotServed)?;
    let (spi_i, spi_r) = halves(&step.over.spi);
    let header = header(ExchangeType::GSA_REKEY, spi_i, spi_r, 0, step.counter);
    let mut payloads: Vec<(PayloadKind, Vec<u8>)> = Vec::new();
    if matches!(step.delete, Deletion::Spis(_) | Deletion::DataSas) {
        keys(policy, step, &mut payloads)?;
    }
    let all = |protocol, spi_len: u8| {
        let all = Delete { protocol, spi_len, spis: Cow::Owned(vec![0; usize::from(spi_len)]) };
        (PayloadKind::DELETE, all.to_vec())
    };
    if matches!(step.delete, Deletion::DataSas | Deletion::Everything) {
        payloads.push(all(ProtocolId::ESP, 4));
    }
    if matches!(step.delete, Deletion::RekeySa | Deletion::Everything) {
        payloads.push(all(ProtocolId::GIKE_UPDATE, 16));
    }
    let signing = match &rekey.authentication {
        RekeyAuthentication::Implicit => None,
        RekeyAuthentication::Signature(signer, algorithm) => {
            let (len, identifier) = (value_len(signer), algorithm.to_der());
            let data = SignatureData { algorithm: &identifier, value: &vec![0; len] }.to_vec();
            let auth = Auth { method: AuthMethod::DIGITAL_SIGNATURE, data: Cow::Owned(data) };
            payloads.push((PayloadKind::AUTH, auth.to_vec()));
            Some(Signing::new(signer, *algorithm, len))
        }
    };
    let (first, inner) = finish(&payloads)?;
    let (e, a) = rekey.protection.key_lens();
    let keymat = step.over.keymat.expose().get(..e + a).ok_or(CryptoError::Length("keying material"))?;
    Ok(Unsigned {
        header: header.octets(HEADER_ALONE).to_vec(),
        first,
        limit: fragment_size.filter(|_| inner.len() <= MOST_IN_FRAGMENTS).map(datagram_limit),
        inner: SecretRecord::of(&inner),
        signing,
        protection: rekey.protection,
        keymat: SecretRecord::of(&Secret::copy_from(keymat)),
        // Message ID and number of the fragment make the IV unique under these keys; random octets before them are for the day
        // they would not.
        unique: rng.u64() << 48 | u64::from(step.counter) << 16,
    })
}

fn halves(spi: &[u8; 16]) -> ([u8; 8], [u8; 8]) {
    let (mut i, mut r) = ([0; 8], [0; 8]);
    i.copy_from_slice(&spi[..8]);
    r.copy_from_slice(&spi[8..]);
    (i, r)
}

fn finish(payloads: &[(PayloadKind, Vec<u8>)]) -> Result<(u8, Secret), RenderError> {
    let mut chain = ChainWriter::new();
    payloads.iter().for_each(|(kind, body)| chain.push(kind.0, body));
    let (first, inner) = chain.finish().map_err(|_| RenderError::TooLong)?;
    Ok((first, Secret::new(inner)))
}

/// GSA, KD, USE_TRANSPORT_MODE and the Delete of replaced data SAs.
fn keys(policy: &GroupPolicy, step: &RekeyStep, payloads: &mut Vec<(PayloadKind, Vec<u8>)>) -> Result<(), RenderError> {
    let default = to_wire::rekey_wrap_key(&step.policy, &step.over).ok_or(RenderError::NotServed)?;
    let (mut sas, mut groups) = (Vec::new(), Vec::new());
    let mut member = None;
    if let Some(NewRekeySa { sa, made_under, tree }) = &step.new_rekey {
        let lifetime = sa.remaining(step.counted_from);
        sas.push(to_wire::rekey_policy(made_under, sa, lifetime, None).ok_or(RenderError::NotServed)?);
        groups.push(rekey_bag(sa, tree.as_ref(), &default)?);
        member = member_bag(tree.as_ref(), fresh_auth_key(made_under, &step.policy)?)?;
    }
    if let Some(epoch) = &step.new_epoch {
        for sa in &epoch.sas {
            sas.push(to_wire::data_policy(sa, Some(epoch.remaining(step.counted_from))));
            groups.push(to_wire::data_bag(sa, &default)?);
        }
    }
    if !sas.is_empty() {
        let group_wide = GwPolicy {
            activation_delay: Some(to_wire::delay(step.activation_delay)),
            deactivation_delay: Some(to_wire::delay(step.deactivation_delay)),
            sender_id_bits: None,
        };
        payloads.push((PayloadKind::GSA, Gsa { sas, group_wide: Some(group_wide) }.to_vec()));
        payloads.push((PayloadKind::KD, Kd { groups, member }.to_vec()));
    }
    if policy.mode() == EspMode::Transport && step.new_epoch.is_some() {
        let notify = Notify::bare(NotifyType::USE_TRANSPORT_MODE);
        payloads.push((PayloadKind::NOTIFY, notify.to_vec()));
    }
    if let Deletion::Spis(spis) = &step.delete
        && !spis.is_empty()
    {
        payloads.push((PayloadKind::DELETE, Delete::esp(spis).to_vec()));
    }
    Ok(())
}

/// Keys of a new Rekey SA: once under the present GSK_w, or once under each top of the tree.
fn rekey_bag<'a>(sa: &'a RekeySa, tree: Option<&TreeUpdate>, default: &Secret) -> Result<GroupBag<'a>, CryptoError> {
    let sa_keys = match tree {
        None => vec![to_wire::wrapped(0, &sa.keymat, 0, default)?],
        Some(tree) => tree
            .tops
            .iter()
            .map(|top| to_wire::wrapped(0, &sa.keymat, top.handle, &top.key))
            .collect::<Result<_, _>>()?,
    };
    Ok(GroupBag { protocol: ProtocolId::GIKE_UPDATE, spi: Cow::Borrowed(&sa.spi), sa_keys })
}

/// The key that signs from the new Rekey SA on, if it is another than before (RFC 9838 section 2.4.1, reading 25).
fn fresh_auth_key(made_under: &GroupPolicy, present: &GroupPolicy) -> Result<Option<Vec<u8>>, CryptoError> {
    let key = |p: &GroupPolicy| match p.gikev2.as_ref().map(|g| &g.authentication) {
        Some(RekeyAuthentication::Signature(key, algorithm)) => algorithm.spki_to_der(key).map(Some),
        Some(RekeyAuthentication::Implicit) | None => Ok(None),
    };
    let (fresh, present) = (key(made_under)?, key(present)?);
    Ok(fresh.filter(|fresh| present.as_ref() != Some(fresh)))
}

/// The tree's changed keys and the key that signs, if either is told (reading 6).
fn member_bag(tree: Option<&TreeUpdate>, auth_key: Option<Vec<u8>>) -> Result<Option<MemberBag<'static>>, CryptoError> {
    if tree.is_none() && auth_key.is_none() {
        return Ok(None);
    }
    let wraps = tree.into_iter().flat_map(|t| &t.wraps);
    let wrap_keys = wraps
        .map(|w| to_wire::wrapped(w.key.handle, &w.key.key, w.under.handle, &w.under.key))
        .collect::<Result<_, _>>()?;
    Ok(Some(MemberBag { wrap_keys, auth_key: auth_key.map(Cow::Owned), sender_ids: Vec::new() }))
}
