//! GSA policies as the member understands them. Nothing is taken that it could not keep.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use keyferry_crypto::SignatureAlgorithm;
use keyferry_model::policy::{AddressPreservation, EspMode, SequenceNumbers, TrafficPolicy};

use super::{UDP, from_ranges};
use crate::algorithms::{KeyWrap, Protection, esp_from, protection_from};
use crate::reject::Reject;
use crate::wire::gsa::SaPolicy;
use crate::wire::registry::{NotifyType, ProtocolId, TransformType, gcauth, sn};
use crate::wire::sa::Transform;
use crate::wire::ts::TrafficSelector;

/// No key lives longer, whatever is told; the same where nothing is told.
const LONGEST_LIFE: Duration = Duration::from_secs(366 * 86_400);

/// Packets of a replay window, where sequence numbers allow one.
const REPLAY_WINDOW: u32 = 64;

/// SPIs of SAs to come that are remembered.
const NEXT_SPIS: usize = 8;

/// Not a policy for us.
const UNACCEPTABLE: Reject = Reject::Unacceptable(NotifyType::NO_PROPOSAL_CHOSEN);

/// Policy of a Rekey SA.
#[derive(Debug)]
pub(crate) struct RekeyPolicy {
    pub(crate) spi: [u8; 16],
    pub(crate) protection: Protection,
    pub(crate) key_wrap: KeyWrap,
    /// Where rekeys go, if it is a multicast address.
    pub(crate) destination: Option<SocketAddr>,
    pub(crate) lifetime: Duration,
    pub(crate) initial_message_id: u32,
    /// SPIs that its successor may have.
    pub(crate) next_spis: Vec<[u8; 16]>,
    pub(crate) authentication: Option<GroupAuthentication>,
}

/// How GSA_REKEY messages are authenticated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum GroupAuthentication {
    Implicit,
    Signature(SignatureAlgorithm),
}

/// Policy of a data SA.
#[derive(Debug)]
pub(crate) struct DataPolicy {
    pub(crate) spi: u32,
    pub(crate) policy: Arc<TrafficPolicy>,
    pub(crate) lifetime: Duration,
}

/// Understands the policy of a Rekey SA.
pub(crate) fn rekey_policy(p: &SaPolicy<'_>) -> Result<RekeyPolicy, Reject> {
    let allowed = [TransformType::ENCR, TransformType::INTEG, TransformType::KWA, TransformType::GCAUTH];
    known_only(p, &allowed)?;
    Ok(RekeyPolicy {
        spi: <[u8; 16]>::try_from(p.spi.as_ref()).map_err(|_| UNACCEPTABLE)?,
        protection: protection_from(p.transforms.iter()).ok_or(UNACCEPTABLE)?,
        key_wrap: one(p, TransformType::KWA)?.and_then(KeyWrap::from_transform).ok_or(UNACCEPTABLE)?,
        destination: rekey_destination(&p.destination)?,
        lifetime: lifetime(p)?,
        initial_message_id: p.initial_message_id.unwrap_or(0),
        next_spis: p
            .next_spis
            .iter()
            .take(NEXT_SPIS)
            .filter_map(|spi| <[u8; 16]>::try_from(spi.as_ref()).ok())
            .collect(),
        authentication: one(p, TransformType::GCAUTH)?.map(group_authentication).transpose()?,
    })
}

fn group_authentication(t: &Transform<'_>) -> Result<GroupAuthentication, Reject> {
    match (t.id, &t.algorithm) {
        (gcauth::IMPLICIT, None) => Ok(GroupAuthentication::Implicit),
        (gcauth::DIGITAL_SIGNATURE, Some(der)) => SignatureAlgorithm::from_der(der)
            .filter(|algorithm| !algorithm.is_weak())
            .map(GroupAuthentication::Signature)
            .ok_or(UNACCEPTABLE),
        _ => Err(UNACCEPTABLE),
    }
}

/// Understands the policy of a data SA.
pub(crate) fn data_policy(p: &SaPolicy<'_>, mode: EspMode) -> Result<DataPolicy, Reject> {
    if p.protocol != ProtocolId::ESP {
        return Err(UNACCEPTABLE);
    }
    known_only(p, &[TransformType::ENCR, TransformType::INTEG, TransformType::SN])?;
    let spi = <[u8; 4]>::try_from(p.spi.as_ref()).map(u32::from_be_bytes).map_err(|_| UNACCEPTABLE)?;
    if spi < 256 || p.initial_message_id.is_some() {
        return Err(UNACCEPTABLE);
    }
    let transform = esp_from(&p.transforms).ok_or(UNACCEPTABLE)?;
    let sequence = match one(p, TransformType::SN)?.map(|t| t.id) {
        Some(sn::SEQUENTIAL_32) => SequenceNumbers::Sequential,
        Some(sn::UNSPECIFIED_32) => SequenceNumbers::Unspecified,
        _ => return Err(UNACCEPTABLE),
    };
    let replay_window = match sequence {
        SequenceNumbers::Sequential => REPLAY_WINDOW,
        SequenceNumbers::Unspecified => 0,
    };
    let source = from_ranges(&p.source).ok_or(UNACCEPTABLE)?;
    let destination = from_ranges(&p.destination).ok_or(UNACCEPTABLE)?;
    if source.address.is_ipv4() != destination.address.is_ipv4() {
        return Err(UNACCEPTABLE);
    }
    let policy = Arc::new(TrafficPolicy {
        source,
        destination,
        mode,
        transform,
        sequence,
        replay_window,
        preservation: AddressPreservation::Both,
        only_sender: None,
        lifetime_octets: None,
    });
    Ok(DataPolicy { spi, policy, lifetime: lifetime(p)? })
}

/// Of each transform type at most one, of the types allowed, with no attribute we do not know.
fn known_only(p: &SaPolicy<'_>, allowed: &[TransformType]) -> Result<(), Reject> {
    let sound = p.transforms.iter().all(|t| allowed.contains(&t.kind) && !t.foreign);
    let single = allowed.iter().all(|kind| p.of(*kind).count() <= 1);
    if sound && single { Ok(()) } else { Err(UNACCEPTABLE) }
}

fn one<'p, 'w>(p: &'p SaPolicy<'w>, kind: TransformType) -> Result<Option<&'p Transform<'w>>, Reject> {
    let mut all = p.of(kind);
    match (all.next(), all.next()) {
        (first, None) => Ok(first),
        (_, Some(_)) => Err(UNACCEPTABLE),
    }
}

fn lifetime(p: &SaPolicy<'_>) -> Result<Duration, Reject> {
    match p.lifetime {
        Some(0) => Err(UNACCEPTABLE),
        Some(seconds) => Ok(Duration::from_secs(u64::from(seconds)).min(LONGEST_LIFE)),
        None => Ok(LONGEST_LIFE),
    }
}

/// A multicast destination must be one address and one port (RFC 9838 section 4.4.2); a unicast one says nothing we do not
/// know, for rekeys then come to the socket that registered.
fn rekey_destination(ts: &TrafficSelector) -> Result<Option<SocketAddr>, Reject> {
    if ts.protocol != UDP && ts.protocol != 0 {
        return Err(UNACCEPTABLE);
    }
    if !ts.first.is_multicast() {
        return Ok(None);
    }
    if ts.first != ts.last || ts.ports.0 != ts.ports.1 || ts.ports.0 == 0 {
        return Err(UNACCEPTABLE);
    }
    Ok(Some(SocketAddr::new(ts.first, ts.ports.0)))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::borrow::Cow;

    use keyferry_crypto::Aead;

    use keyferry_crypto::Hash;

    use super::*;
    use crate::algorithms::aead_transform;

    fn esp() -> SaPolicy<'static> {
        let address = "239.0.0.1".parse().unwrap();
        let to = TrafficSelector { protocol: 0, ports: (0, u16::MAX), first: address, last: address };
        let numbers = Transform::new(TransformType::SN, sn::UNSPECIFIED_32);
        SaPolicy {
            protocol: ProtocolId::ESP,
            spi: Cow::Borrowed(&[1, 0, 0, 0]),
            source: to,
            destination: to,
            transforms: vec![aead_transform(Aead::Aes128Gcm16), numbers],
            lifetime: Some(60),
            initial_message_id: None,
            next_spis: Vec::new(),
        }
    }

    fn changed(change: impl FnOnce(&mut SaPolicy<'static>)) -> Result<DataPolicy, Reject> {
        let mut policy = esp();
        change(&mut policy);
        data_policy(&policy, EspMode::Tunnel)
    }

    /// RFC 9838 section 4.4.2.1.3: 64-bit numbers must not be used, and some must be named.
    #[test]
    fn sequence_numbers_of_64_bits_are_refused() {
        assert!(changed(|_| {}).is_ok());
        assert!(changed(|p| p.transforms[1].id = sn::SEQUENTIAL_32).is_ok());
        assert!(changed(|p| p.transforms[1].id = sn::PARTIAL_64).is_err());
        assert!(changed(|p| p.transforms[1].id = 3).is_err());
        assert!(changed(|p| p.transforms.truncate(1)).is_err());
    }

    /// RFC 9838 section 4.4.2.1.
    #[test]
    fn transforms_come_once_and_without_strange_attributes() {
        assert!(changed(|p| p.transforms.push(p.transforms[1].clone())).is_err());
        assert!(changed(|p| p.transforms.push(p.transforms[0].clone())).is_err());
        assert!(changed(|p| p.transforms[1].foreign = true).is_err());
        assert!(changed(|p| p.transforms.push(KeyWrap::Aes128.transform())).is_err());
    }

    /// RFC 9838 sections 2.7 and 4.4.2: AES-GCM with an implicit IV (30) stays away, and so does AH.
    #[test]
    fn implicit_ivs_and_ah_are_refused() {
        assert!(changed(|p| p.transforms[0].id = 30).is_err());
        assert!(changed(|p| p.protocol = ProtocolId::AH).is_err());
    }

    /// Reading 14: a lifetime that is not told is the longest we keep; none is none.
    #[test]
    fn a_lifetime_may_be_left_out() {
        assert_eq!(changed(|_| {}).unwrap().lifetime, Duration::from_secs(60));
        assert_eq!(changed(|p| p.lifetime = None).unwrap().lifetime, LONGEST_LIFE);
        assert_eq!(changed(|p| p.lifetime = Some(u32::MAX)).unwrap().lifetime, LONGEST_LIFE);
        assert!(changed(|p| p.lifetime = Some(0)).is_err());
    }

    /// What is named but weak is not taken.
    #[test]
    fn rekeys_are_signed_with_sha_2_or_by_what_hashes_for_itself() {
        use SignatureAlgorithm::{Ecdsa, Ed448, Ed25519, RsaPkcs1, RsaPss};
        for (algorithm, taken) in [
            (RsaPkcs1(Hash::Sha256), true),
            (RsaPkcs1(Hash::Sha1), false),
            (RsaPss(Hash::Sha512), true),
            (Ecdsa(Hash::Sha384), true),
            (Ecdsa(Hash::Sha1), false),
            (Ed25519, true),
            (Ed448, true),
        ] {
            let mut transform = Transform::new(TransformType::GCAUTH, gcauth::DIGITAL_SIGNATURE);
            transform.algorithm = Some(algorithm.to_der());
            assert_eq!(group_authentication(&transform).is_ok(), taken, "{algorithm:?}");
            transform.id = gcauth::IMPLICIT;
            assert!(group_authentication(&transform).is_err());
        }
    }
}
