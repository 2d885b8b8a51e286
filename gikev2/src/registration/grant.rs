//! The member's part: policy and keys that a key server sent, checked before anything is made of them.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use keyferry_crypto::{Secret, SignatureAlgorithm, VerifyingKey, keywrap};
use keyferry_model::flows::Flows;
use keyferry_model::policy::{EspMode, SaDirection};
use keyferry_model::update::{GroupUpdate, NewSa, Removal, SenderIds};

use super::working_path::WorkingPath;
use crate::keylog::{KeyLog, TABLE, rekey_line};
use crate::policy::from_wire::{self, GroupAuthentication};
use crate::reject::Reject;
use crate::rekey::group::{Authentication, Group, RekeySa};
use crate::wire::gsa::{Gsa, SaPolicy};
use crate::wire::kd::{GroupBag, Kd, MemberBag};
use crate::wire::message::GroupKeys;
use crate::wire::registry::{NotifyType, ProtocolId};

/// Data SAs of one group, at most.
const MOST_SAS: usize = 1024;

/// Not a policy for us.
const UNACCEPTABLE: Reject = Reject::Unacceptable(NotifyType::NO_PROPOSAL_CHOSEN);

/// What a registration gave.
pub(crate) struct Grant {
    /// The group as we know it from now on.
    pub(crate) group: Group,
    /// For the data plane.
    pub(crate) update: GroupUpdate,
    /// Where rekeys go, if that is a multicast address.
    pub(crate) listen: Option<SocketAddr>,
}

impl Grant {
    /// Refuses a group of which nothing is traffic that the key server may decide about (RFC 5374 section 4.1.3.5); of others
    /// the rest is taken.
    pub(crate) fn within(self, accept: &Flows) -> Result<Self, Reject> {
        if accept.hold_nothing_of(&self.update) { Err(Reject::NothingAccepted) } else { Ok(self) }
    }
}

/// Checks a registration's answer. `default` is GSK_w of the IKE SA; `wanted` is how many sender IDs we asked for.
pub(crate) fn evaluate(
    keys: &GroupKeys<'_>,
    default: &Secret,
    wanted: u32,
    now: Duration,
    log: Option<&mut (dyn KeyLog + Send)>,
) -> Result<Grant, Reject> {
    let gsa = keys.gsa.as_ref().ok_or(Reject::Malformed("no policy"))?;
    let mode = if keys.transport_mode { EspMode::Transport } else { EspMode::Tunnel };
    let member = keys.kd.as_ref().and_then(|kd| kd.member.as_ref());
    // Without a Rekey SA new keys come in band.
    let told = rekey_policy_of(Some(gsa))?.map(|p| rekey_sa(p, keys, member, default, now, log)).transpose()?;
    // None at all are to follow in a rekey: a newcomer may not have those in use.
    let install = data_sas(keys, mode, default)?;
    let counter_mode = install.iter().any(|sa| sa.policy.transform.is_counter_mode());
    let bits = gsa.group_wide.and_then(|gw| gw.sender_id_bits);
    let given = install.is_empty() && bits.is_some();
    let sender_ids = match wanted > 0 && (counter_mode || given) {
        true => Some(sender_ids(bits, member, wanted)?),
        false => None,
    };
    let (activation_delay, deactivation_delay) = delays(Some(gsa));
    let (rekey, path, authentication, listen) = match told {
        Some(RekeyTold { sa, path, authentication, listen }) => (Some(sa), path, authentication, listen),
        None => (None, WorkingPath::default(), Authentication::Implicit, None),
    };
    let mut group = Group::new(rekey, path, authentication, mode, sender_ids.is_some());
    group.deactivation_delay = deactivation_delay;
    group.acks = keys.acks;
    group.note(&install, &Removal::All, now);
    let update = GroupUpdate { install, remove: Removal::All, sender_ids, activation_delay, deactivation_delay };
    Ok(Grant { group, update, listen })
}

/// A Rekey SA, and what goes with it.
struct RekeyTold {
    sa: RekeySa,
    path: WorkingPath,
    authentication: Authentication,
    listen: Option<SocketAddr>,
}

fn rekey_sa(
    policy: &SaPolicy<'_>,
    keys: &GroupKeys<'_>,
    member: Option<&MemberBag<'_>>,
    default: &Secret,
    now: Duration,
    log: Option<&mut (dyn KeyLog + Send)>,
) -> Result<RekeyTold, Reject> {
    let policy = from_wire::rekey_policy(policy)?;
    let authentication = authentication(policy.authentication, member)?;
    let bag = bag_of(keys.kd.as_ref(), ProtocolId::GIKE_UPDATE, &policy.spi)?;
    if bag.sa_keys.len() != 1 {
        return Err(Reject::Misbehaved("a registration has one SA_KEY for the Rekey SA"));
    }
    let wraps = member.map(|bag| bag.wrap_keys.as_slice()).unwrap_or_default();
    let found = WorkingPath::default().unwrap(&bag.sa_keys, wraps, default);
    let found = found.ok_or(Reject::Misbehaved("no key path to the Rekey SA"))?;
    if let Some(log) = log
        && let Some(line) = rekey_line(policy.protection, &policy.spi, &found.keymat)
    {
        log.log(TABLE, &line);
    }
    let sa = RekeySa::new(&policy, &found.keymat, now)?;
    Ok(RekeyTold { sa, path: found.path.unwrap_or_default(), authentication, listen: policy.destination })
}

/// The policy of the Rekey SA; of several, none is taken.
pub(crate) fn rekey_policy_of<'g, 'w>(gsa: Option<&'g Gsa<'w>>) -> Result<Option<&'g SaPolicy<'w>>, Reject> {
    let mut all = gsa.into_iter().flat_map(|g| &g.sas).filter(|p| p.protocol == ProtocolId::GIKE_UPDATE);
    match (all.next(), all.next()) {
        (first, None) => Ok(first),
        (_, Some(_)) => Err(Reject::Misbehaved("more than one Rekey SA")),
    }
}

/// The key bag of an SA.
pub(crate) fn bag_of<'k, 'w>(
    kd: Option<&'k Kd<'w>>,
    protocol: ProtocolId,
    spi: &[u8],
) -> Result<&'k GroupBag<'w>, Reject> {
    let mut bags = kd.into_iter().flat_map(|kd| &kd.groups).filter(|b| b.protocol == protocol && *b.spi == *spi);
    match (bags.next(), bags.next()) {
        (Some(bag), None) => Ok(bag),
        _ => Err(Reject::Misbehaved("not one key bag for an SA")),
    }
}

/// All data SAs with their keys, which are under the default key wrap key `default`.
pub(crate) fn data_sas(keys: &GroupKeys<'_>, mode: EspMode, default: &Secret) -> Result<Vec<NewSa>, Reject> {
    let policies = keys.gsa.iter().flat_map(|gsa| &gsa.sas).filter(|p| p.protocol != ProtocolId::GIKE_UPDATE);
    let mut spis = BTreeSet::new();
    let mut sas = Vec::new();
    for policy in policies {
        let data = from_wire::data_policy(policy, mode)?;
        if !spis.insert(data.spi) || sas.len() == MOST_SAS {
            return Err(Reject::Misbehaved("too many data SAs, or one SPI twice"));
        }
        let bag = bag_of(keys.kd.as_ref(), ProtocolId::ESP, &policy.spi)?;
        let wrapped = bag.sa_keys.first().ok_or(Reject::Misbehaved("no SA_KEY"))?;
        let keymat = keywrap::unwrap(default.expose(), &wrapped.encrypted)
            .map_err(|_| Reject::Misbehaved("an SA_KEY does not unwrap"))?;
        if keymat.len() != data.policy.transform.keymat_len() {
            return Err(Reject::Misbehaved("keying material of a data SA has the wrong length"));
        }
        sas.push(NewSa {
            spi: data.spi,
            policy: data.policy,
            keymat,
            lifetime: data.lifetime,
            direction: SaDirection::Symmetric,
        });
    }
    Ok(sas)
}

/// ATD and DTD; none told is none (RFC 9838 section 4.4.3.1.1).
pub(crate) fn delays(gsa: Option<&Gsa<'_>>) -> (Duration, Duration) {
    let gw = gsa.and_then(|g| g.group_wide).unwrap_or_default();
    let seconds = |s: Option<u16>| Duration::from_secs(u64::from(s.unwrap_or(0)));
    (seconds(gw.activation_delay), seconds(gw.deactivation_delay))
}

/// The key that verifies rekeys, out of an AUTH_KEY: one that the algorithm is for (reading 19).
pub(crate) fn verifying_key(spki: &[u8], algorithm: SignatureAlgorithm) -> Result<VerifyingKey, Reject> {
    algorithm.spki_from_der(spki).map_err(|_| UNACCEPTABLE)
}

fn authentication(told: Option<GroupAuthentication>, member: Option<&MemberBag<'_>>) -> Result<Authentication, Reject> {
    match (told, member.and_then(|bag| bag.auth_key.as_deref())) {
        (Some(GroupAuthentication::Implicit), None) => Ok(Authentication::Implicit),
        (Some(GroupAuthentication::Signature(algorithm)), Some(spki)) => {
            Ok(Authentication::Signature { algorithm, key: verifying_key(spki, algorithm)? })
        }
        (Some(GroupAuthentication::Implicit), Some(_)) => Err(Reject::Misbehaved("AUTH_KEY without signatures")),
        (Some(GroupAuthentication::Signature(_)), None) => Err(Reject::Misbehaved("signatures without AUTH_KEY")),
        (None, _) => Err(Reject::Misbehaved("a registration tells how rekeys are authenticated")),
    }
}

/// Our sender IDs: as many as we asked for at most, each within its bits (RFC 9838 section 2.5.2).
fn sender_ids(bits: Option<u16>, member: Option<&MemberBag<'_>>, wanted: u32) -> Result<SenderIds, Reject> {
    let bits = bits.and_then(|b| u8::try_from(b).ok()).filter(|b| (1..=32).contains(b));
    let bits = bits.ok_or(Reject::Misbehaved("no usable width of sender IDs"))?;
    let most = usize::try_from(wanted).unwrap_or(usize::MAX);
    let mut ids = Vec::new();
    for octets in member.into_iter().flat_map(|bag| &bag.sender_ids).take(most) {
        // Up to eight octets (reading 10), of which the value fits its bits.
        let id = octets.iter().fold(0_u64, |n, b| n << 8 | u64::from(*b));
        match u32::try_from(id) {
            Ok(id) if u64::from(id) < 1 << bits && !ids.contains(&id) => ids.push(id),
            _ => return Err(Reject::Misbehaved("a sender ID exceeds its bits, or comes twice")),
        }
    }
    if ids.is_empty() {
        return Err(Reject::Misbehaved("a sender without sender IDs"));
    }
    Ok(SenderIds { bits, ids })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::borrow::Cow;

    use super::*;

    fn told(bits: Option<u16>, ids: &[&'static [u8]], wanted: u32) -> Result<Vec<u32>, Reject> {
        let sender_ids = ids.iter().map(|id| Cow::Borrowed(*id)).collect();
        let member = MemberBag { sender_ids, ..MemberBag::default() };
        super::sender_ids(bits, Some(&member), wanted).map(|given| given.ids)
    }

    /// One to eight octets (reading 10); the value must fit its bits (RFC 9838 section 2.5.2).
    #[test]
    fn sender_ids_fit_their_bits() {
        assert_eq!(told(Some(4), &[&[0, 0, 0, 15], &[3]], 2).unwrap(), [15, 3]);
        assert_eq!(told(Some(32), &[&[0, 0, 0, 0, 255, 255, 255, 255]], 1).unwrap(), [u32::MAX]);
        assert!(told(Some(4), &[&[0, 0, 0, 16]], 1).is_err());
        assert!(told(Some(32), &[&[1, 0, 0, 0, 0]], 1).is_err());
        assert!(told(Some(4), &[&[7], &[0, 7]], 2).is_err(), "the same twice");
        // More than were asked for are not used; none at all is an error, and so are no or too many bits.
        assert_eq!(told(Some(4), &[&[7], &[255]], 1).unwrap(), [7]);
        assert!(told(Some(4), &[], 1).is_err());
        for bits in [None, Some(0), Some(33), Some(256)] {
            assert!(told(bits, &[&[0]], 1).is_err());
        }
    }

    /// No GWP_ATD or GWP_DTD means no delay (RFC 9838 section 4.4.3.1.1).
    #[test]
    fn delays_that_are_not_told_are_none() {
        assert_eq!(delays(None), (Duration::ZERO, Duration::ZERO));
    }
}
