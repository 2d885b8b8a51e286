//! The SA payload: policies that a key server decrees.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use keyferry_crypto::{BlockCipher, SignatureScheme};
use keyferry_model::policy::{
    AckType, AddressPreservation, EspMode, EspTransform, SaDirection, SequenceNumbers, TrafficPolicy,
};
use keyferry_model::reading::{Reading, Readings};
use keyferry_wire::{Attribute, AttributeValue, RawPayload};

use super::{Taking, refused, take_u32, values};
use crate::policy::streams::StreamDecree;
use crate::policy::{algorithms, selectors};
use crate::reject::Reject;
use crate::wire::gap::Gap;
use crate::wire::group_sa::GroupSa;
use crate::wire::registry::{Doi, esp, esp_attribute, gap_attribute, kek, kek_attribute, phase1};
use crate::wire::sak::Sak;
use crate::wire::sat::{EspTek, Sat};

/// Lifetime of a data SA that does not tell one (RFC 2407 section 4.5).
pub(super) const DEFAULT_LIFETIME: Duration = Duration::from_secs(28_800);

/// No lifetime is longer than this.
pub(crate) const MAX_LIFETIME: Duration = Duration::from_secs(366 * 86_400);

/// Octets of a kilobyte, in which lifetimes are told.
pub(crate) const KILOBYTE: u64 = 1024;

/// Window for an SA that only one sender uses; GDOI tells none.
pub(super) const REPLAY_WINDOW: u32 = 64;

/// Policy of a rekey SA.
#[derive(Clone, Debug)]
pub(crate) struct RekeyPolicy {
    pub(crate) spi: [u8; 16],
    pub(crate) cipher: BlockCipher,
    pub(crate) scheme: SignatureScheme,
    pub(crate) lifetime: Option<Duration>,
    pub(crate) ack: Option<AckType>,
    /// Where pushes go, where it is told.
    pub(crate) destination: Option<SocketAddr>,
}

/// Policy of a data SA.
#[derive(Clone, Debug)]
pub(crate) struct DataPolicy {
    pub(crate) spi: u32,
    pub(crate) policy: Arc<TrafficPolicy>,
    pub(crate) lifetime: Duration,
    pub(crate) direction: SaDirection,
}

/// What an SA payload says.
#[derive(Clone, Debug, Default)]
pub(crate) struct Decree {
    pub(crate) rekey: Option<RekeyPolicy>,
    pub(crate) activation_delay: Duration,
    pub(crate) deactivation_delay: Duration,
    pub(crate) data: Vec<DataPolicy>,
    /// In which readings it was told.
    pub(crate) readings: Readings,
    /// IEC 61850 streams.
    pub(crate) streams: Vec<StreamDecree>,
}

impl Decree {
    /// Reads the SA payload of a message, with its attribute payloads inside or behind.
    pub(crate) fn of_message(payloads: &[RawPayload<'_>], taking: Taking) -> Result<Self, Reject> {
        let mut decree = Self::read(&GroupSa::from_payloads(payloads)?, taking)?;
        decree.readings.add_if(GroupSa::stands_apart(payloads), Reading::AttributesBehindSa);
        Ok(decree)
    }

    /// Reads an SA payload.
    pub(in crate::policy) fn read(sa: &GroupSa<'_>, taking: Taking) -> Result<Self, Reject> {
        if !matches!(sa.doi, Doi::GDOI | Doi::IPSEC) {
            return Err(refused("DOI of the SA payload"));
        }
        if sa.sak.is_none() && sa.sats.is_empty() {
            // RFC 6407 section 5.2.1; at a registration it would mean that there is nothing any more.
            return Err(refused("an SA payload without SAs"));
        }
        let (activation_delay, deactivation_delay) = match &sa.gap {
            Some(gap) => delays(gap)?,
            None => (Duration::ZERO, Duration::ZERO),
        };
        let mut readings = Readings::NONE;
        let rekey = sa.sak.as_ref().map(|sak| rekey_policy(sak, taking, &mut readings)).transpose()?;
        let (mut data, mut streams) = (Vec::new(), Vec::new());
        for sat in &sa.sats {
            match sat {
                Sat::Esp(tek) => data.push(data_policy(tek, taking, &mut readings)?),
                Sat::Iec61850(tek) => streams.push(StreamDecree::read(tek)?),
                Sat::Ah(_) => return Err(refused("AH protects no group here, ESP does")),
                Sat::Other { .. } => return Err(refused("protocol of a data SA")),
            }
        }
        if data.windows(2).any(|w| w[0].policy.mode != w[1].policy.mode) {
            return Err(refused("transport and tunnel mode mixed"));
        }
        // Keys are told by their SPI alone, whatever they are for.
        let spis: BTreeSet<u32> = data.iter().map(|d| d.spi).chain(streams.iter().map(|s| s.spi)).collect();
        if spis.len() < data.len() + streams.len() {
            return Err(refused("an SPI twice"));
        }
        Ok(Self { rekey, activation_delay, deactivation_delay, data, streams, readings })
    }

    /// Is there a use for sender IDs? For streams nobody says whether several members send, and a newcomer may have to wait
    /// for its data SAs (RFC 6407 section 7.4.2): then one asks, and does without.
    pub(crate) fn uses_sender_ids(&self) -> bool {
        let none_told = self.data.is_empty() && self.streams.is_empty();
        none_told || self.needs_sender_ids() || self.streams.iter().any(|s| s.protection.is_counter_mode())
    }

    /// Does any data SA need sender IDs?
    pub(crate) fn needs_sender_ids(&self) -> bool {
        self.data.iter().any(|d| d.direction.sends() && d.policy.transform.is_counter_mode())
    }
}

fn rekey_policy(sak: &Sak<'_>, taking: Taking, readings: &mut Readings) -> Result<RekeyPolicy, Reject> {
    readings.add_if(sak.destination.protocol.is_some(), Reading::DstIdProt);
    readings.add_if(is_short(&sak.attributes, kek_attribute::LIFETIME), Reading::ShortLifetimes);
    let mut map = values(&sak.attributes)?;
    // In a GROUPKEY-PULL it is ignored (RFC 6407 section 5.3): what KD brings says whether there is a tree.
    let management = map.remove(&kek_attribute::MANAGEMENT);
    readings.add_if(taking.registering && management.is_none(), Reading::NoKekManagement);
    if !taking.registering && management.is_some_and(|m| m.as_u32() != Some(kek::LKH.into())) {
        return Err(refused("KEK management algorithm"));
    }
    let algorithm = take_u32(&mut map, kek_attribute::ALGORITHM)?.ok_or(refused("no KEK algorithm"))?;
    let bits = take_u32(&mut map, kek_attribute::KEY_LENGTH)?;
    let cipher = algorithms::kek_cipher(algorithm, bits).ok_or(refused("KEK algorithm or its key length"))?;
    let lifetime = take_u32(&mut map, kek_attribute::LIFETIME)?.map(|s| sane(u64::from(s))).transpose()?;
    let algorithm = take_u32(&mut map, kek_attribute::SIG_ALGORITHM)?.ok_or(refused("no signature algorithm"))?;
    let hash = take_u32(&mut map, kek_attribute::SIG_HASH)?;
    let scheme = algorithms::signature_scheme(algorithm, hash).ok_or(refused("signature algorithm or its hash"))?;
    if (cipher.is_weak() || scheme.is_weak()) && !taking.weak {
        return Err(refused("3DES or SHA-1 for rekeys, which are not allowed here"));
    }
    // The key itself says how long it is, and is checked for that.
    take_u32(&mut map, kek_attribute::SIG_KEY_LENGTH)?;
    // A type that we cannot answer with is no reason to stay away (RFC 8263 section 4).
    let ack = take_u32(&mut map, kek_attribute::ACK_REQUESTED)?.and_then(algorithms::ack_type);
    if !map.is_empty() && !taking.unknown_kek_attributes {
        return Err(refused("an unknown attribute of the KEK"));
    }
    if sak.spi[..8] == [0; 8] || sak.spi[8..] == [0; 8] {
        return Err(refused("SPI of the KEK"));
    }
    Ok(RekeyPolicy {
        spi: sak.spi,
        cipher,
        scheme,
        lifetime,
        ack,
        destination: selectors::destination(&sak.destination),
    })
}

fn sane(seconds: u64) -> Result<Duration, Reject> {
    if seconds == 0 {
        return Err(refused("a lifetime of zero"));
    }
    Ok(Duration::from_secs(seconds).min(MAX_LIFETIME))
}

fn delays(gap: &Gap<'_>) -> Result<(Duration, Duration), Reject> {
    let mut map = values(&gap.attributes)?;
    let atd = take_u32(&mut map, gap_attribute::ATD)?.unwrap_or(0);
    let dtd = take_u32(&mut map, gap_attribute::DTD)?.unwrap_or(0);
    if !map.is_empty() {
        return Err(refused("an unknown attribute of the group"));
    }
    Ok((Duration::from_secs(atd.into()), Duration::from_secs(dtd.into())))
}

/// Does an attribute come as TV?
fn is_short(attributes: &[Attribute<'_>], kind: u16) -> bool {
    attributes.iter().any(|a| a.kind == kind && matches!(a.value, AttributeValue::Short(_)))
}

fn data_policy(tek: &EspTek<'_>, taking: Taking, readings: &mut Readings) -> Result<DataPolicy, Reject> {
    if tek.spi < 256 {
        return Err(refused("SPI of a data SA"));
    }
    readings.add_if(tek.destination.protocol.is_some(), Reading::DstIdProt);
    readings.add_if(is_short(&tek.attributes, esp_attribute::LIFE_DURATION), Reading::ShortLifetimes);
    let (lifetime, lifetime_octets) = data_lifetimes(&tek.attributes)?;
    let life = |a: &&Attribute<'_>| !matches!(a.kind, esp_attribute::LIFE_TYPE | esp_attribute::LIFE_DURATION);
    let others: Vec<Attribute<'_>> = tek.attributes.iter().filter(life).copied().collect();
    let mut map = values(&others)?;
    map.remove(&esp_attribute::GROUP);
    let mode = take_u32(&mut map, esp_attribute::ENCAPSULATION)?;
    let preservation = take_u32(&mut map, esp_attribute::ADDRESS_PRESERVATION)?;
    let mode = match mode {
        Some(m) if m == u32::from(esp::TRANSPORT) => EspMode::Transport,
        Some(m) if m == u32::from(esp::TUNNEL) => EspMode::Tunnel,
        // RFC 3947 section 5.1, and the numbers of its drafts.
        Some(3 | 4 | 61_443 | 61_444) => return Err(refused("ESP within UDP, which has no place in a group")),
        Some(_) | None => return Err(refused("encapsulation mode")),
    };
    // Preserving both is the default (RFC 6407 section 5.5.1.1.1); in transport mode there is nothing to preserve.
    let preservation = match preservation.filter(|_| mode == EspMode::Tunnel) {
        None => AddressPreservation::Both,
        Some(number) => algorithms::preservation(number).ok_or(refused("address preservation"))?,
    };
    let direction = take_u32(&mut map, esp_attribute::DIRECTION)?.unwrap_or(esp::SYMMETRIC.into());
    let direction = algorithms::direction(direction).ok_or(refused("SA direction"))?;
    let authentication = take_u32(&mut map, esp_attribute::AUTHENTICATION)?;
    let bits = take_u32(&mut map, esp_attribute::KEY_LENGTH)?;
    let transform = algorithms::esp_transform(tek.transform, bits, authentication).ok_or(refused("ESP transform"))?;
    // Congestion is told on either way (RFC 3168 section 9.2), so a tunnel that allows it is as good.
    if take_u32(&mut map, esp_attribute::ECN_TUNNEL)?.is_some_and(|v| v != u32::from(esp::ECN_ALLOWED)) {
        return Err(refused("a tunnel without ECN"));
    }
    if map.contains_key(&esp_attribute::EXTENDED_SEQUENCE) {
        return Err(refused("extended sequence numbers, which several senders cannot share"));
    }
    if !map.is_empty() {
        return Err(refused("an unknown attribute of a data SA"));
    }
    let policy = traffic(tek, mode, transform).ok_or(refused("selectors of a data SA"))?;
    let mut policy = TrafficPolicy { preservation, lifetime_octets, ..policy };
    if direction != SaDirection::Symmetric {
        one_sender(&mut policy);
    }
    if mode == EspMode::Tunnel && !taking.tunnel.suffices(preservation, &policy.destination) {
        return Err(refused("a tunnel that does not preserve all addresses, without an address to put in their place"));
    }
    Ok(DataPolicy { spi: tek.spi, policy: Arc::new(policy), lifetime, direction })
}

/// An SA that one member sends under protects against replay (RFC 5374 appendix A.2); GDOI tells no window.
pub(crate) fn one_sender(policy: &mut TrafficPolicy) {
    (policy.sequence, policy.replay_window) = (SequenceNumbers::Sequential, REPLAY_WINDOW);
}

fn traffic(tek: &EspTek<'_>, mode: EspMode, transform: EspTransform) -> Option<TrafficPolicy> {
    let destination = selectors::selector(&tek.destination, tek.protocol, None)?;
    let source = selectors::selector(&tek.source, tek.protocol, Some(destination.address))?;
    if source.address.is_ipv4() != destination.address.is_ipv4() {
        return None;
    }
    let mut policy = TrafficPolicy {
        source,
        destination,
        mode,
        transform,
        sequence: SequenceNumbers::Unspecified,
        replay_window: 0,
        preservation: AddressPreservation::Both,
        only_sender: None,
        lifetime_octets: None,
    };
    if source.range().0 == source.range().1 {
        one_sender(&mut policy);
    }
    Some(policy)
}

/// Lifetime in time, and in octets if one is told (RFC 2407 section 4.5: a duration follows its type).
fn data_lifetimes(attributes: &[Attribute<'_>]) -> Result<(Duration, Option<u64>), Reject> {
    let (mut kind, mut lifetime, mut octets) = (None, DEFAULT_LIFETIME, None);
    for a in attributes {
        match a.kind {
            esp_attribute::LIFE_TYPE => kind = a.as_u32(),
            esp_attribute::LIFE_DURATION => match kind.take() {
                Some(k) if k == u32::from(phase1::SECONDS) => {
                    lifetime = sane(a.as_u64().ok_or(refused("lifetime"))?)?;
                }
                Some(k) if k == u32::from(phase1::KILOBYTES) => {
                    octets = Some(kilobytes(a.as_u64().ok_or(refused("lifetime"))?)?);
                }
                Some(_) | None => return Err(refused("life type")),
            },
            _ => {}
        }
    }
    Ok((lifetime, octets))
}

/// More than can be counted is as good as what can.
fn kilobytes(number: u64) -> Result<u64, Reject> {
    if number == 0 {
        return Err(refused("a lifetime of zero"));
    }
    Ok(number.saturating_mul(KILOBYTE))
}
