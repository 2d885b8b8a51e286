//! The KD payload: keys that a key server sends down.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use keyferry_crypto::x509::Certificate;
use keyferry_crypto::{Secret, SignatureScheme, VerifyingKey};
use keyferry_model::policy::EspTransform;
use keyferry_model::reading::{Reading, Readings};
use keyferry_model::update::{NewSa, NewStream, SenderIds};
use keyferry_wire::{Attribute, AttributeValue, Decode};

use super::{DataPolicy, Decree, refused, values};
use crate::reject::Reject;
use crate::wire::kd::{Kd, KeyPacket};
use crate::wire::lkh::{DownloadArray, UpdateArray};
use crate::wire::registry::{KeyPacketType, key_attribute};

/// Sender IDs taken at most.
pub(super) const MAX_SENDER_IDS: usize = 1024;

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
    /// In which readings it came.
    pub(crate) readings: Readings,
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
        let encryption = map.remove(&key_attribute::TEK_ALGORITHM_KEY).map(octets).transpose()?.unwrap_or_default();
        let integrity = map.remove(&key_attribute::TEK_INTEGRITY_KEY).map(octets).transpose()?.unwrap_or_default();
        if !map.is_empty() {
            return Err(refused("an unknown attribute of a TEK"));
        }
        if encryption.is_empty() && integrity.is_empty() {
            return Err(refused("a TEK without a key"));
        }
        let tek = Tek { encryption, integrity };
        match self.teks.insert(u32::from_be_bytes(spi), tek) {
            None => Ok(()),
            Some(_) => Err(refused("a TEK twice")),
        }
    }

    /// The encryption and the authentication key of a data SA.
    pub(crate) fn tek_keys(&self, spi: u32) -> Option<(&'a [u8], &'a [u8])> {
        self.teks.get(&spi).map(|tek| (tek.encryption, tek.integrity))
    }

    /// The streams of a decree with their keys, in its order. Its delay is for the newest SA of each.
    pub(crate) fn streams(&self, decree: &Decree) -> Result<Vec<NewStream>, Reject> {
        let mut later = BTreeSet::new();
        let delays: Vec<Duration> = decree
            .streams
            .iter()
            .rev()
            .map(|s| if later.insert(&s.name) { decree.activation_delay } else { Duration::ZERO })
            .collect();
        decree.streams.iter().zip(delays.into_iter().rev()).map(|(s, delay)| s.with_keys(self, delay)).collect()
    }

    /// The data SAs of a decree with their keys, in its order. Each must have keys of the right length.
    pub(crate) fn data_sas(&mut self, decree: &Decree) -> Result<Vec<NewSa>, Reject> {
        let apart = |d: &DataPolicy| {
            matches!(d.policy.transform, EspTransform::Gmac(_))
                && self.teks.get(&d.spi).is_some_and(|tek| tek.encryption.is_empty())
        };
        self.readings.add_if(decree.data.iter().any(apart), Reading::GmacIntegrityKey);
        decree
            .data
            .iter()
            .map(|d| {
                let tek = self.teks.get(&d.spi).ok_or(refused("a data SA without keys"))?;
                let transform = d.policy.transform;
                let encryption = match transform {
                    // RFC 6407 section 5.6.1.2 names GMAC's key among those of integrity.
                    EspTransform::Gmac(_) if tek.encryption.is_empty() => 0,
                    EspTransform::Aead(_)
                    | EspTransform::Gmac(_)
                    | EspTransform::CbcHmac(..)
                    | EspTransform::CtrHmac(..)
                    | EspTransform::NullHmac(_) => transform.encryption_len(),
                };
                if (tek.encryption.len(), tek.integrity.len()) != (encryption, transform.keymat_len() - encryption) {
                    return Err(refused("length of a data SA's keys"));
                }
                let keymat = Secret::new([tek.encryption, tek.integrity].concat());
                Ok(NewSa {
                    spi: d.spi,
                    policy: Arc::clone(&d.policy),
                    keymat,
                    lifetime: d.lifetime,
                    direction: d.direction,
                })
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

/// The key that checks pushes, in any form that is safe to take, for this scheme alone; and the form, if it is not ours.
pub(crate) fn signature_key(octets: &[u8], scheme: SignatureScheme) -> Result<(Arc<VerifyingKey>, Readings), Reject> {
    let kind = scheme.kind();
    let (key, form) = if let Ok(key) = VerifyingKey::from_spki(octets) {
        (Arc::new(key), Readings::NONE)
    } else if let Ok(key) = VerifyingKey::from_pkcs1_der(octets) {
        (Arc::new(key), Readings::from_iter([Reading::SigKeyPkcs1]))
    } else if let Ok(key) = VerifyingKey::from_ec_point(kind, octets) {
        (Arc::new(key), Readings::from_iter([Reading::SigKeyPoint]))
    } else if let Ok(certificate) = Certificate::from_der(octets) {
        // It stands in a message that the key server has authenticated, so nobody else needs to vouch for it.
        (certificate.public_key(), Readings::from_iter([Reading::SigKeyCertificate]))
    } else {
        return Err(refused("signature key"));
    };
    if key.kind() != kind {
        return Err(refused("a signature key of another kind than the algorithm"));
    }
    Ok((key, form))
}
