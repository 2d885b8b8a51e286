//! From payloads to the model: what a member takes from its key server, which it does not trust with its memory.
//!
//! Every algorithm must be known, every key have its length, every count its bound. Attributes that we do not know are
//! refused, as RFC 6407 sections 5.3.2 and 5.4 want.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use keyferry_crypto::{BlockCipher, Secret, SignatureScheme, VerifyingKey};
use keyferry_model::policy::{AckType, EspMode, EspTransform, SequenceNumbers, TrafficPolicy};
use keyferry_model::update::{NewSa, SenderIds};
use keyferry_wire::{Attribute, AttributeValue, Decode};

use super::{algorithms, selectors};
use crate::reject::Reject;
use crate::wire::gap::Gap;
use crate::wire::group_sa::GroupSa;
use crate::wire::kd::{Kd, KeyPacket};
use crate::wire::lkh::{DownloadArray, UpdateArray};
use crate::wire::registry::{
    Doi, KeyPacketType, NotifyType, esp, esp_attribute, gap_attribute, kek, kek_attribute, key_attribute, phase1,
};
use crate::wire::sak::Sak;
use crate::wire::sat::{EspTek, Sat};

/// Sender IDs taken at most.
const MAX_SENDER_IDS: usize = 1024;

/// Lifetime of a data SA that does not tell one (RFC 2407 section 4.5).
const DEFAULT_LIFETIME: Duration = Duration::from_secs(28_800);

/// No lifetime is longer than this.
const MAX_LIFETIME: Duration = Duration::from_secs(366 * 86_400);

/// Window for an SA that only one sender uses; GDOI tells none.
const REPLAY_WINDOW: u32 = 64;

fn refused(what: &'static str) -> Reject {
    Reject::Unacceptable(what, NotifyType(13))
}

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

/// The value of each attribute of a list, by class; each may stand once.
fn values<'a>(attributes: &[Attribute<'a>]) -> Result<BTreeMap<u16, Attribute<'a>>, Reject> {
    let mut map = BTreeMap::new();
    for a in attributes {
        if map.insert(a.kind, *a).is_some() {
            return Err(refused("an attribute twice"));
        }
    }
    Ok(map)
}

fn take_u32(map: &mut BTreeMap<u16, Attribute<'_>>, kind: u16) -> Result<Option<u32>, Reject> {
    match map.remove(&kind) {
        Some(a) => a.as_u32().map(Some).ok_or(refused("value of an attribute")),
        None => Ok(None),
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

/// Where the KEK of a new rekey SA comes from.
pub(crate) enum KekSource<'a> {
    /// The key itself, IV in front.
    Key(&'a [u8]),
    /// A member's path of the tree.
    Path(DownloadArray<'a>),
    /// Changes of the tree.
    Changes(Vec<UpdateArray<'a>>),
}

impl std::fmt::Debug for KekSource<'_> {
    /// Without keys.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            KekSource::Key(key) => write!(f, "Key({} octets)", key.len()),
            KekSource::Path(path) => write!(f, "Path({} keys)", path.keys.len()),
            KekSource::Changes(arrays) => write!(f, "Changes({} arrays)", arrays.len()),
        }
    }
}

/// Keys of a rekey SA as a KD payload brings them.
#[derive(Debug)]
pub(crate) struct RekeyKeys<'a> {
    pub(crate) spi: &'a [u8],
    pub(crate) kek: KekSource<'a>,
    pub(crate) signature_key: Option<&'a [u8]>,
}

/// What a KD payload brings.
#[derive(Debug, Default)]
pub(crate) struct Download<'a> {
    teks: BTreeMap<u32, Tek<'a>>,
    pub(crate) rekey: Option<RekeyKeys<'a>>,
    pub(crate) sender_ids: Option<SenderIds>,
}

struct Tek<'a> {
    encryption: &'a [u8],
    integrity: &'a [u8],
}

impl std::fmt::Debug for Tek<'_> {
    /// Without keys.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Tek({} and {} octets)", self.encryption.len(), self.integrity.len())
    }
}

fn octets<'a>(a: Attribute<'a>) -> Result<&'a [u8], Reject> {
    match a.value {
        AttributeValue::Long(v) => Ok(v),
        AttributeValue::Short(_) => Err(refused("a key of two octets")),
    }
}

impl<'a> Download<'a> {
    /// Sorts the packets of a KD payload. Of each kind but TEKs there may be one.
    pub(crate) fn read(kd: &Kd<'a>) -> Result<Self, Reject> {
        let mut download = Self::default();
        for packet in &kd.packets {
            match packet.kind {
                KeyPacketType::TEK => download.tek(packet)?,
                KeyPacketType::KEK | KeyPacketType::LKH if download.rekey.is_none() => {
                    let keys = if packet.kind == KeyPacketType::KEK { kek_packet(packet) } else { lkh_packet(packet) };
                    download.rekey = Some(keys?);
                }
                KeyPacketType::SID if download.sender_ids.is_none() => {
                    download.sender_ids = Some(sender_ids(packet)?);
                }
                _ => return Err(refused("a key packet of an unknown or repeated type")),
            }
        }
        Ok(download)
    }

    fn tek(&mut self, packet: &KeyPacket<'a>) -> Result<(), Reject> {
        let spi = <[u8; 4]>::try_from(packet.spi).map_err(|_| refused("SPI of a TEK"))?;
        let mut map = values(&packet.attributes)?;
        let key = map.remove(&key_attribute::TEK_ALGORITHM_KEY).ok_or(refused("a TEK without a key"))?;
        let integrity = map.remove(&key_attribute::TEK_INTEGRITY_KEY).map(octets).transpose()?.unwrap_or_default();
        if !map.is_empty() {
            return Err(refused("an unknown attribute of a TEK"));
        }
        let tek = Tek { encryption: octets(key)?, integrity };
        match self.teks.insert(u32::from_be_bytes(spi), tek) {
            None => Ok(()),
            Some(_) => Err(refused("a TEK twice")),
        }
    }

    /// The data SAs of a decree with their keys, in its order. Each must have keys of the right length.
    pub(crate) fn data_sas(&self, decree: &Decree) -> Result<Vec<NewSa>, Reject> {
        decree
            .data
            .iter()
            .map(|d| {
                let tek = self.teks.get(&d.spi).ok_or(refused("a data SA without keys"))?;
                let (encryption, integrity) = match d.policy.transform {
                    EspTransform::Aead(a) => (a.key_len() + 4, 0),
                    EspTransform::CbcHmac(c, i) => (c.key_len(), i.key_len()),
                };
                if (tek.encryption.len(), tek.integrity.len()) != (encryption, integrity) {
                    return Err(refused("length of a data SA's keys"));
                }
                let keymat = Secret::new([tek.encryption, tek.integrity].concat());
                Ok(NewSa { spi: d.spi, policy: Arc::clone(&d.policy), keymat, lifetime: d.lifetime })
            })
            .collect()
    }
}

fn kek_packet<'a>(packet: &KeyPacket<'a>) -> Result<RekeyKeys<'a>, Reject> {
    let mut map = values(&packet.attributes)?;
    let key = map.remove(&key_attribute::KEK_ALGORITHM_KEY).ok_or(refused("a KEK packet without a key"))?;
    let signature_key = map.remove(&key_attribute::KEK_SIG_KEY).map(octets).transpose()?;
    if !map.is_empty() {
        return Err(refused("an unknown attribute of a KEK"));
    }
    Ok(RekeyKeys { spi: packet.spi, kek: KekSource::Key(octets(key)?), signature_key })
}

fn lkh_packet<'a>(packet: &KeyPacket<'a>) -> Result<RekeyKeys<'a>, Reject> {
    let (mut path, mut changes, mut signature_key) = (None, Vec::new(), None);
    for a in &packet.attributes {
        let value = octets(*a)?;
        match a.kind {
            key_attribute::LKH_DOWNLOAD_ARRAY if path.is_none() => path = Some(DownloadArray::exact(value)?),
            key_attribute::LKH_UPDATE_ARRAY => changes.push(UpdateArray::exact(value)?),
            key_attribute::LKH_SIG_KEY if signature_key.is_none() => signature_key = Some(value),
            _ => return Err(refused("an unknown or repeated attribute of a key tree")),
        }
    }
    let kek = match path {
        Some(path) if changes.is_empty() => KekSource::Path(path),
        Some(_) => return Err(refused("a key tree both new and changed")),
        None => KekSource::Changes(changes),
    };
    Ok(RekeyKeys { spi: packet.spi, kek, signature_key })
}

fn sender_ids(packet: &KeyPacket<'_>) -> Result<SenderIds, Reject> {
    let (mut bits, mut ids) = (None, Vec::new());
    for a in &packet.attributes {
        match a.kind {
            key_attribute::SID_BITS if bits.is_none() => bits = a.as_u32(),
            key_attribute::SID_VALUE if ids.len() < MAX_SENDER_IDS => {
                ids.push(a.as_u32().ok_or(refused("value of a sender ID"))?);
            }
            _ => return Err(refused("an unknown attribute of sender IDs, or too many")),
        }
    }
    let bits = bits.and_then(|b| u8::try_from(b).ok()).filter(|b| (1..=32).contains(b));
    let bits = bits.ok_or(refused("bits of sender IDs"))?;
    if !packet.spi.is_empty() || ids.iter().any(|id| u64::from(*id) >> bits != 0) {
        return Err(refused("sender IDs"));
    }
    Ok(SenderIds { bits, ids })
}

/// The key that checks pushes, in any form that is safe to take.
pub(crate) fn signature_key(octets: &[u8]) -> Result<Arc<VerifyingKey>, Reject> {
    VerifyingKey::from_spki(octets).map(Arc::new).map_err(|_| refused("signature key"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
