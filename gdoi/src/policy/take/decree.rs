//! The SA payload: policies that a key server decrees.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use keyferry_crypto::{BlockCipher, SignatureScheme};
use keyferry_model::policy::{AckType, EspMode, EspTransform, SequenceNumbers, TrafficPolicy};
use keyferry_wire::Attribute;

use super::{refused, take_u32, values};
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
pub(super) const MAX_LIFETIME: Duration = Duration::from_secs(366 * 86_400);

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
}

/// What an SA payload says.
#[derive(Clone, Debug, Default)]
pub(crate) struct Decree {
    pub(crate) rekey: Option<RekeyPolicy>,
    pub(crate) activation_delay: Duration,
    pub(crate) deactivation_delay: Duration,
    pub(crate) data: Vec<DataPolicy>,
}

impl Decree {
    /// Reads an SA payload. `sender` says whether we want to send: an SA for receivers only is none for us then.
    pub(crate) fn read(sa: &GroupSa<'_>, sender: bool) -> Result<Self, Reject> {
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
        let rekey = sa.sak.as_ref().map(rekey_policy).transpose()?;
        let data = sa.sats.iter().map(|s| data_policy(s, sender)).collect::<Result<Vec<_>, _>>()?;
        let mixed = data.windows(2).any(|w| w[0].policy.mode != w[1].policy.mode);
        let repeated = (1..data.len()).any(|i| data[..i].iter().any(|d| d.spi == data[i].spi));
        if mixed || repeated {
            return Err(refused(if mixed { "transport and tunnel mode mixed" } else { "an SPI twice" }));
        }
        Ok(Self { rekey, activation_delay, deactivation_delay, data })
    }

    /// Does any data SA need sender IDs?
    pub(crate) fn needs_sender_ids(&self) -> bool {
        self.data.iter().any(|d| d.policy.transform.is_counter_mode())
    }
}

fn rekey_policy(sak: &Sak<'_>) -> Result<RekeyPolicy, Reject> {
    let mut map = values(&sak.attributes)?;
    let management = take_u32(&mut map, kek_attribute::MANAGEMENT)?;
    if management.is_some_and(|m| m != u32::from(kek::LKH)) {
        return Err(refused("KEK management algorithm"));
    }
    if take_u32(&mut map, kek_attribute::ALGORITHM)? != Some(u32::from(kek::AES)) {
        return Err(refused("KEK algorithm"));
    }
    let bits = take_u32(&mut map, kek_attribute::KEY_LENGTH)?.ok_or(refused("no KEK key length"))?;
    let cipher = algorithms::cipher_of_bits(bits).ok_or(refused("KEK key length"))?;
    let lifetime = take_u32(&mut map, kek_attribute::LIFETIME)?.map(|s| sane(u64::from(s))).transpose()?;
    let algorithm = take_u32(&mut map, kek_attribute::SIG_ALGORITHM)?.ok_or(refused("no signature algorithm"))?;
    let hash = take_u32(&mut map, kek_attribute::SIG_HASH)?.ok_or(refused("no signature hash"))?;
    let scheme = algorithms::signature_scheme(algorithm, hash).ok_or(refused("signature algorithm"))?;
    // The key itself says how long it is.
    take_u32(&mut map, kek_attribute::SIG_KEY_LENGTH)?;
    // A type that we cannot answer with is no reason to stay away (RFC 8263 section 4).
    let ack = take_u32(&mut map, kek_attribute::ACK_REQUESTED)?.and_then(algorithms::ack_type);
    if !map.is_empty() {
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

fn data_policy(sat: &Sat<'_>, sender: bool) -> Result<DataPolicy, Reject> {
    let tek = match sat {
        Sat::Esp(tek) => tek,
        Sat::Other { .. } => return Err(refused("protocol of a data SA")),
    };
    if tek.spi < 256 {
        return Err(refused("SPI of a data SA"));
    }
    let lifetime = data_lifetime(&tek.attributes)?;
    let life = |a: &&Attribute<'_>| !matches!(a.kind, esp_attribute::LIFE_TYPE | esp_attribute::LIFE_DURATION);
    let others: Vec<Attribute<'_>> = tek.attributes.iter().filter(life).copied().collect();
    let mut map = values(&others)?;
    map.remove(&esp_attribute::GROUP);
    let mode = take_u32(&mut map, esp_attribute::ENCAPSULATION)?;
    let preservation = take_u32(&mut map, esp_attribute::ADDRESS_PRESERVATION)?;
    let mode = match mode {
        Some(m) if m == u32::from(esp::TRANSPORT) => EspMode::Transport,
        // Preserving both is the default (RFC 6407 section 5.5.1.1.1), and the only tunnel mode here.
        Some(m) if m == u32::from(esp::TUNNEL) => match preservation {
            None => EspMode::Tunnel,
            Some(p) if p == u32::from(esp::SOURCE_AND_DESTINATION) => EspMode::Tunnel,
            Some(_) => return Err(refused("tunnel mode without address preservation")),
        },
        Some(_) | None => return Err(refused("encapsulation mode")),
    };
    match take_u32(&mut map, esp_attribute::DIRECTION)?.unwrap_or(esp::SYMMETRIC.into()) {
        d if d == u32::from(esp::SYMMETRIC) => {}
        d if d == u32::from(esp::RECEIVER_ONLY) && !sender => {}
        _ => return Err(refused("SA direction")),
    }
    let authentication = take_u32(&mut map, esp_attribute::AUTHENTICATION)?;
    let bits = take_u32(&mut map, esp_attribute::KEY_LENGTH)?;
    let transform = algorithms::esp_transform(tek.transform, bits, authentication).ok_or(refused("ESP transform"))?;
    if !map.is_empty() {
        return Err(refused("an unknown attribute of a data SA"));
    }
    let policy = Arc::new(traffic(tek, mode, transform).ok_or(refused("selectors of a data SA"))?);
    Ok(DataPolicy { spi: tek.spi, policy, lifetime })
}

fn traffic(tek: &EspTek<'_>, mode: EspMode, transform: EspTransform) -> Option<TrafficPolicy> {
    let destination = selectors::selector(&tek.destination, tek.protocol, None)?;
    let source = selectors::selector(&tek.source, tek.protocol, Some(destination.address))?;
    if source.address.is_ipv4() != destination.address.is_ipv4() {
        return None;
    }
    let single = source.range().0 == source.range().1;
    let (sequence, replay_window) =
        if single { (SequenceNumbers::Sequential, REPLAY_WINDOW) } else { (SequenceNumbers::Unspecified, 0) };
    Some(TrafficPolicy { source, destination, mode, transform, sequence, replay_window })
}

/// Lifetime in seconds; lifetimes in octets are not kept (RFC 2407 section 4.5: a duration follows its type).
fn data_lifetime(attributes: &[Attribute<'_>]) -> Result<Duration, Reject> {
    let (mut kind, mut lifetime) = (None, DEFAULT_LIFETIME);
    for a in attributes {
        match a.kind {
            esp_attribute::LIFE_TYPE => kind = a.as_u32(),
            esp_attribute::LIFE_DURATION => match kind.take() {
                Some(k) if k == u32::from(phase1::SECONDS) => {
                    lifetime = sane(a.as_u64().ok_or(refused("lifetime"))?)?;
                }
                Some(k) if k == u32::from(phase1::KILOBYTES) => {}
                Some(_) | None => return Err(refused("life type")),
            },
            _ => {}
        }
    }
    Ok(lifetime)
}
