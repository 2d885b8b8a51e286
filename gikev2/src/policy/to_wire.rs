//! The model's policy and keys as GSA and KD payloads (RFC 9838 sections 4.4 and 4.5).

use std::borrow::Cow;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use keyferry_crypto::{CryptoError, Secret, keywrap};
use keyferry_model::epoch::DataSa;
use keyferry_model::policy::{
    EspTransform, GroupPolicy, RekeyAuthentication, RekeyTransport, SequenceNumbers, TrafficPolicy,
};
use keyferry_model::rekey_sa::RekeySa;

use super::{UDP, any_udp, to_ranges};
use crate::algorithms::{
    KeyWrap, aead_transform, cbc_transform, ctr_transform, gmac_transform, integ_transform, null_transform,
    protection_transforms,
};
use crate::wire::gsa::SaPolicy;
use crate::wire::kd::{GroupBag, WrappedKey};
use crate::wire::registry::{ProtocolId, TransformType, gcauth, sn};
use crate::wire::sa::Transform;
use crate::wire::ts::TrafficSelector;

/// Transforms of a data SA, in the order of their types.
pub(crate) fn esp_transforms(line: &TrafficPolicy) -> Vec<Transform<'static>> {
    let mut transforms = match line.transform {
        EspTransform::Aead(a) => vec![aead_transform(a)],
        EspTransform::Gmac(a) => vec![gmac_transform(a)],
        EspTransform::CbcHmac(c, i) => vec![cbc_transform(c), integ_transform(i)],
        EspTransform::CtrHmac(c, i) => vec![ctr_transform(c), integ_transform(i)],
        EspTransform::NullHmac(i) => vec![null_transform(), integ_transform(i)],
    };
    let numbers = match line.sequence {
        SequenceNumbers::Sequential => sn::SEQUENTIAL_32,
        SequenceNumbers::Unspecified => sn::UNSPECIFIED_32,
    };
    transforms.push(Transform::new(TransformType::SN, numbers));
    transforms
}

/// Transforms of the Rekey SA without GCAUTH; `None` if the group serves no G-IKEv2.
pub(crate) fn rekey_transforms(policy: &GroupPolicy) -> Option<Vec<Transform<'static>>> {
    let rekey = policy.gikev2.as_ref()?;
    let mut transforms = protection_transforms(rekey.protection);
    transforms.push(KeyWrap::from_key_len(rekey.wrap_key_len)?.transform());
    Some(transforms)
}

/// The GCAUTH transform, which only registrations tell (RFC 9838 section 4.4.2.1.1).
pub(crate) fn gcauth_transform(policy: &GroupPolicy) -> Option<Transform<'static>> {
    Some(match &policy.gikev2.as_ref()?.authentication {
        RekeyAuthentication::Implicit => Transform::new(TransformType::GCAUTH, gcauth::IMPLICIT),
        RekeyAuthentication::Signature(_, algorithm) => Transform {
            algorithm: Some(algorithm.to_der()),
            ..Transform::new(TransformType::GCAUTH, gcauth::DIGITAL_SIGNATURE)
        },
    })
}

/// Policy of the Rekey SA. `member` is where a registering member is reached when rekeys are unicast.
pub(crate) fn rekey_policy<'a>(
    policy: &GroupPolicy,
    sa: &'a RekeySa,
    lifetime: Duration,
    member: Option<SocketAddr>,
) -> Option<SaPolicy<'a>> {
    let rekey = policy.gikev2.as_ref()?;
    let destination = match (rekey.transport, member) {
        (RekeyTransport::Multicast(to), _) | (RekeyTransport::Unicast, Some(to)) => {
            TrafficSelector { protocol: UDP, ports: (to.port(), to.port()), first: to.ip(), last: to.ip() }
        }
        (RekeyTransport::Unicast, None) => {
            any_udp(policy.traffic.first().map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |t| t.source.address))
        }
    };
    Some(SaPolicy {
        protocol: ProtocolId::GIKE_UPDATE,
        spi: Cow::Borrowed(&sa.spi),
        // The gateway may have several addresses and change its port behind a NAT: a wildcard (RFC 9838 section 4.4.2).
        source: any_udp(destination.first),
        destination,
        transforms: rekey_transforms(policy)?,
        lifetime: Some(seconds(lifetime)),
        initial_message_id: None,
        next_spis: sa.next_spi.iter().map(|spi| Cow::Borrowed(&spi[..])).collect(),
    })
}

/// Policy of a data SA.
pub(crate) fn data_policy(sa: &DataSa, lifetime: Option<Duration>) -> SaPolicy<'static> {
    SaPolicy {
        protocol: ProtocolId::ESP,
        spi: Cow::Owned(sa.spi.to_be_bytes().to_vec()),
        source: to_ranges(&sa.policy.source),
        destination: to_ranges(&sa.policy.destination),
        transforms: esp_transforms(&sa.policy),
        lifetime: lifetime.map(seconds),
        initial_message_id: None,
        next_spis: sa.next_spi.iter().map(|spi| Cow::Owned(spi.to_be_bytes().to_vec())).collect(),
    }
}

/// The same for a member that is rekeyed in band: it is told no SPIs of SAs to come (RFC 9838 section 4.4.2.2.3).
pub(crate) fn data_policy_in_band(sa: &DataSa, lifetime: Option<Duration>) -> SaPolicy<'static> {
    SaPolicy { next_spis: Vec::new(), ..data_policy(sa, lifetime) }
}

/// Keys of a data SA, under the default key wrap key of the SA that carries them.
pub(crate) fn data_bag(sa: &DataSa, default: &Secret) -> Result<GroupBag<'static>, CryptoError> {
    let key = wrapped(0, &sa.keymat, 0, default)?;
    Ok(GroupBag { protocol: ProtocolId::ESP, spi: Cow::Owned(sa.spi.to_be_bytes().to_vec()), sa_keys: vec![key] })
}

/// A key under another one.
pub(crate) fn wrapped(
    key_id: u32,
    key: &Secret,
    kwk_id: u32,
    under: &Secret,
) -> Result<WrappedKey<'static>, CryptoError> {
    let encrypted = Cow::Owned(keywrap::wrap(under.expose(), key.expose())?);
    Ok(WrappedKey { key_id, kwk_id, encrypted })
}

/// GSK_w of a Rekey SA: the end of its keying material (RFC 9838 section 3.4).
pub(crate) fn rekey_wrap_key(policy: &GroupPolicy, sa: &RekeySa) -> Option<Secret> {
    let rekey = policy.gikev2.as_ref()?;
    let at = sa.keymat.len().checked_sub(rekey.wrap_key_len)?;
    Some(Secret::copy_from(&sa.keymat.expose()[at..]))
}

/// A delay in whole seconds, rounded up so that nobody is early.
pub(crate) fn delay(d: Duration) -> u16 {
    let whole = d.as_secs() + u64::from(d.subsec_nanos() > 0);
    u16::try_from(whole).unwrap_or(u16::MAX)
}

/// A lifetime in whole seconds, at least one: a zero would say that the keys must not be used.
fn seconds(d: Duration) -> u32 {
    u32::try_from(d.as_secs()).unwrap_or(u32::MAX).max(1)
}
