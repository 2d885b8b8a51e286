//! The key server's part: may the member join, and what is it told?

use std::borrow::Cow;
use std::net::SocketAddr;
use std::sync::Arc;

use keyferry_crypto::{CryptoError, Secret};
use keyferry_model::admission::{Admission, Gikev2Join, Issued, JoinRequest, Refusal};
use keyferry_model::drive::Ctx;
use keyferry_model::holder::Holder;
use keyferry_model::id::{Identity, Protocol};
use keyferry_model::plan::InBandTo;
use keyferry_model::policy::{EspMode, GroupPolicy, RekeyAuthentication};
use keyferry_model::rekey_sa::RekeySa;
use keyferry_wire::{ChainWriter, Encode};

use super::carried::{Carried, Groups};
use crate::policy::identity::group_from_wire;
use crate::policy::{sag, to_wire};
use crate::rekey::in_band;
use crate::wire::gsa::{Gsa, GwPolicy};
use crate::wire::kd::{GroupBag, Kd, MemberBag};
use crate::wire::message::Registration;
use crate::wire::notify::Notify;
use crate::wire::registry::{NotifyType, PayloadKind, ProtocolId};

/// What became of a registration.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// The member has policy and keys.
    Registered {
        policy: Arc<GroupPolicy>,
        /// The Rekey SA, if it got that.
        rekey: Option<Arc<RekeySa>>,
        /// What the IKE SA carries from now on.
        carried: Carried,
        /// Names the registration when its answer is repeated.
        issued: Issued,
    },
    /// It may not, and was told so.
    Refused,
    /// It left this group, if there is one.
    Left(Option<String>),
}

impl Outcome {
    /// What was told, if it was keys.
    pub(crate) fn issued(&self) -> Option<Issued> {
        match self {
            Outcome::Registered { issued, .. } => Some(issued.clone()),
            Outcome::Refused | Outcome::Left(_) => None,
        }
    }
}

/// The member that asks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asking<'a> {
    pub(crate) identity: &'a Identity,
    /// Who holds the certificate that it proved itself by.
    pub(crate) holder: Option<&'a Holder>,
    pub(crate) address: SocketAddr,
    /// Is it reached through a NAT, from our port for that?
    pub(crate) marked: bool,
    /// GSK_w of the IKE SA; `None` if no key wrap algorithm was negotiated.
    pub(crate) default: Option<&'a Secret>,
    /// The IKE SA is to get new keys first.
    pub(crate) early: bool,
    /// Fragments were agreed on.
    pub(crate) fragments: bool,
    /// What the IKE SA carries so far.
    pub(crate) groups: &'a Groups,
}

/// Answers a registration: puts policy and keys, or a notify, behind what is in `chain`. Whatever the model recorded is
/// flushed ahead of the answer.
pub(crate) fn answer(
    ctx: &mut Ctx<'_>,
    asking: Asking<'_>,
    request: &Registration<'_>,
    chain: &mut ChainWriter,
) -> Outcome {
    if request.leaving.is_some() {
        let group = group_from_wire(&request.group);
        let left = group.as_ref().is_some_and(|g| ctx.model.leave(g, asking.identity, Protocol::Gikev2, ctx.now));
        ctx.flush();
        tracing::info!(member = %asking.identity, was_member = left, "member left its group");
        return Outcome::Left(group.and_then(|g| ctx.model.name_of(&g).map(str::to_owned)));
    }
    match admit(ctx, asking, request) {
        Ok((admission, default)) => {
            ctx.flush();
            match tell(&admission, request, asking.address, default, ctx.now.wall) {
                Ok(parts) => {
                    parts.push(chain);
                    let options = admission.offer.policy.gikev2.as_ref().map(|g| g.options).unwrap_or_default();
                    if options.ack && request.acks && !admission.in_band {
                        super::announce_acks(chain);
                    }
                    tracing::info!(group = %admission.offer.policy.name, member = %asking.identity, "member registered");
                    let (registration, issued) = (admission.registration, admission.issued(asking.identity));
                    Outcome::Registered {
                        policy: Arc::clone(&admission.offer.policy),
                        rekey: (!admission.in_band).then(|| Arc::clone(&admission.offer.rekey)),
                        carried: Carried {
                            to: InBandTo { identity: asking.identity.clone(), registration },
                            in_band: admission.in_band,
                            keep: options.keep_ike_sa,
                        },
                        issued,
                    }
                }
                Err(error) => {
                    tracing::error!(group = %admission.offer.policy.name, %error, "keys could not be wrapped");
                    refuse(chain, NotifyType::REGISTRATION_FAILED)
                }
            }
        }
        Err(kind) => {
            // An attempt may have been noted, say that sender IDs ran out.
            ctx.flush();
            tracing::debug!(member = %asking.identity, ?kind, "registration refused");
            refuse(chain, kind)
        }
    }
}

fn refuse(chain: &mut ChainWriter, kind: NotifyType) -> Outcome {
    chain.push(PayloadKind::NOTIFY.0, &Notify::bare(kind).to_vec());
    Outcome::Refused
}

fn admit<'a>(
    ctx: &mut Ctx<'_>,
    asking: Asking<'a>,
    request: &Registration<'_>,
) -> Result<(Admission, &'a Secret), NotifyType> {
    if asking.early {
        return Err(NotifyType::AUTHORIZATION_FAILED);
    }
    let group = group_from_wire(&request.group).ok_or(NotifyType::INVALID_GROUP_ID)?;
    let offer =
        ctx.model.offer(&group, asking.identity, asking.holder, Protocol::Gikev2, ctx.now).map_err(notify_of)?;
    // Keys can only be sent wrapped (RFC 9838 section 4.5.4), and not under weaker ones (section 3.1).
    let strong = |key: &&Secret| key.len() >= sag::strength(&offer.policy);
    let default = asking.default.filter(strong).ok_or(NotifyType::NO_PROPOSAL_CHOSEN)?;
    let in_band = offer.policy.gikev2.as_ref().is_some_and(|g| g.options.in_band.covers(request.sender.is_some()));
    if request.transforms.as_ref().is_some_and(|s| !sag::suits(s, &offer.policy, !in_band)) {
        return Err(NotifyType::NO_PROPOSAL_CHOSEN);
    }
    if asking.groups.has_another_in_band(&offer.policy.name) {
        return Err(NotifyType::REGISTRATION_FAILED);
    }
    let asked = Gikev2Join {
        capabilities: request.transforms.as_ref().map(sag::understood),
        acks: request.acks,
        shared: asking.groups.has_others(&offer.policy.name),
        fragments: asking.fragments,
    };
    let join = JoinRequest {
        identity: asking.identity,
        holder: asking.holder,
        protocol: Protocol::Gikev2,
        address: asking.address,
        sender_ids: request.sender,
        gikev2: Some(&asked),
    };
    let admission = ctx.model.admit(&group, join, None, ctx.now, ctx.rng).map_err(notify_of)?;
    ctx.model.reach(asking.identity, Protocol::Gikev2, asking.address, asking.marked);
    Ok((admission, default))
}

/// AUTHORIZATION_FAILED is about the member, REGISTRATION_FAILED about the group.
fn notify_of(refusal: Refusal) -> NotifyType {
    match refusal {
        Refusal::UnknownGroup | Refusal::ProtocolNotServed => NotifyType::INVALID_GROUP_ID,
        Refusal::NotAuthorized | Refusal::TooOften => NotifyType::AUTHORIZATION_FAILED,
        Refusal::Full | Refusal::SharedIkeSa | Refusal::SenderIdsExhausted | Refusal::Stale => {
            NotifyType::REGISTRATION_FAILED
        }
    }
}

/// GSA, KD and USE_TRANSPORT_MODE.
struct Parts {
    gsa: Vec<u8>,
    /// Empty without keys: a newcomer that is rekeyed in band may have to wait for all of them.
    kd: Vec<u8>,
    transport_mode: bool,
}

impl Parts {
    fn push(&self, chain: &mut ChainWriter) {
        chain.push(PayloadKind::GSA.0, &self.gsa);
        if !self.kd.is_empty() {
            chain.push(PayloadKind::KD.0, &self.kd);
        }
        if self.transport_mode {
            chain.push(PayloadKind::NOTIFY.0, &Notify::bare(NotifyType::USE_TRANSPORT_MODE).to_vec());
        }
    }
}

fn tell(
    admission: &Admission,
    request: &Registration<'_>,
    member: SocketAddr,
    default: &Secret,
    wall: std::time::Duration,
) -> Result<Parts, CryptoError> {
    let offer = &admission.offer;
    let policy = &offer.policy;
    let mut sas = Vec::new();
    let remaining = offer.rekey.remaining(wall);
    let rekey = to_wire::rekey_policy(policy, &offer.rekey, remaining, Some(member)).filter(|_| !admission.in_band);
    if let Some(mut rekey) = rekey {
        rekey.transforms.extend(to_wire::gcauth_transform(policy));
        rekey.initial_message_id = Some(offer.next_message_id()).filter(|id| *id != 0);
        sas.push(rekey);
    }
    let mut groups = Vec::new();
    if !admission.in_band {
        groups.push(rekey_bag(admission, default)?);
    }
    let lifetimes = in_band::tells_lifetimes(policy) || !admission.in_band;
    let newest = offer.epochs.last().map(|epoch| epoch.number);
    for epoch in &offer.epochs {
        // What has been replaced is deleted by a rekey that went before: only this tells when it goes.
        let replaced = newest != Some(epoch.number);
        for sa in &epoch.sas {
            let lifetime = Some(epoch.remaining(wall)).filter(|_| lifetimes || replaced);
            sas.push(match admission.in_band {
                false => to_wire::data_policy(sa, lifetime),
                true => to_wire::data_policy_in_band(sa, lifetime),
            });
            groups.push(to_wire::data_bag(sa, default)?);
        }
    }
    let senders = request.sender.is_some() && policy.needs_sender_ids();
    let group_wide = GwPolicy {
        activation_delay: Some(to_wire::delay(offer.activation_delay)),
        deactivation_delay: Some(to_wire::delay(offer.deactivation_delay)),
        sender_id_bits: senders.then_some(u16::from(policy.sender_id_bits)),
    };
    let kd = Kd { groups, member: Some(member_bag(admission, default)?).filter(|bag| *bag != MemberBag::default()) };
    Ok(Parts {
        gsa: Gsa { sas, group_wide: Some(group_wide) }.to_vec(),
        kd: kd.to_vec(),
        transport_mode: policy.mode() == EspMode::Transport,
    })
}

/// Keys of the Rekey SA, under the topmost key of the member's path (RFC 9838 appendix A.2).
fn rekey_bag<'a>(admission: &'a Admission, default: &Secret) -> Result<GroupBag<'a>, CryptoError> {
    let sa = &admission.offer.rekey;
    let key = match admission.path.last() {
        Some(top) => to_wire::wrapped(0, &sa.keymat, top.handle, &top.key)?,
        None => to_wire::wrapped(0, &sa.keymat, 0, default)?,
    };
    Ok(GroupBag { protocol: ProtocolId::GIKE_UPDATE, spi: Cow::Borrowed(&sa.spi), sa_keys: vec![key] })
}

/// The member's path, the key that verifies rekeys, and its sender IDs.
fn member_bag(admission: &Admission, default: &Secret) -> Result<MemberBag<'static>, CryptoError> {
    let mut wrap_keys = Vec::with_capacity(admission.path.len());
    let mut under = (0, default);
    for node in &admission.path {
        wrap_keys.push(to_wire::wrapped(node.handle, &node.key, under.0, under.1)?);
        under = (node.handle, &node.key);
    }
    let signed = admission.offer.policy.gikev2.as_ref().filter(|_| !admission.in_band);
    let auth_key = match signed.map(|g| &g.authentication) {
        Some(RekeyAuthentication::Signature(key, algorithm)) => Some(Cow::Owned(algorithm.spki_to_der(key)?)),
        Some(RekeyAuthentication::Implicit) | None => None,
    };
    let sender_ids = admission.sender_ids.iter().map(|id| Cow::Owned(id.to_be_bytes().to_vec())).collect();
    Ok(MemberBag { wrap_keys, auth_key, sender_ids })
}
