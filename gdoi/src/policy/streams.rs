//! IEC 61850 streams (RFC 8052): what the key server tells of them, and what a member takes.

use std::time::Duration;

use keyferry_crypto::Secret;
use keyferry_model::epoch::Epoch;
use keyferry_model::oid::OidName;
use keyferry_model::stream::{
    DeliveryReport, StreamAuthentication as Authentication, StreamEncryption as Encryption, StreamProtection, StreamSa,
};
use keyferry_model::update::NewStream;
use keyferry_wire::{Attribute, AttributeValue, Encode};

use super::take::{Download, MAX_LIFETIME, refused, take_u32, values};
use crate::reject::Reject;
use crate::wire::iec61850::StreamTek;
use crate::wire::kd::KeyPacket;
use crate::wire::registry::{KeyPacketType, iec61850, key_attribute, stream_attribute};
use crate::wire::sat::Sat;

const AUTHENTICATIONS: [(Authentication, u16); 5] = [
    (Authentication::None, iec61850::AUTH_NONE),
    (Authentication::HmacSha256_128, iec61850::HMAC_SHA256_128),
    (Authentication::HmacSha256, iec61850::HMAC_SHA256),
    (Authentication::AesGmac128, iec61850::AES_GMAC_128),
    (Authentication::AesGmac256, iec61850::AES_GMAC_256),
];

const ENCRYPTIONS: [(Encryption, u16); 5] = [
    (Encryption::None, iec61850::ENC_NONE),
    (Encryption::AesCbc128, iec61850::AES_CBC_128),
    (Encryption::AesCbc256, iec61850::AES_CBC_256),
    (Encryption::AesGcm128, iec61850::AES_GCM_128),
    (Encryption::AesGcm256, iec61850::AES_GCM_256),
];

fn number<T: Copy + PartialEq>(table: &[(T, u16)], value: T) -> u16 {
    table.iter().find(|(v, _)| *v == value).map_or(0, |(_, n)| *n)
}

/// The protection of a pair of numbers; `None` for one that is not known, or that RFC 8052 section 3 forbids.
///
/// Appendix A of the RFC numbers authentication from 0, its section 4 and IANA from 1. The numbers are IANA's; 0 for no
/// authentication beside a cipher that brings its own is as the appendix has it, and can mean nothing else.
fn protection(authentication: u16, encryption: u16) -> Option<StreamProtection> {
    let encryption = ENCRYPTIONS.iter().find(|(_, n)| *n == encryption).map(|(e, _)| *e)?;
    if authentication == 0 && encryption.authenticates() {
        tracing::debug!("key server numbers authentication as the appendix of RFC 8052 does");
        return StreamProtection::new(Authentication::None, encryption);
    }
    let authentication = AUTHENTICATIONS.iter().find(|(_, n)| *n == authentication).map(|(a, _)| *a)?;
    StreamProtection::new(authentication, encryption)
}

/// What a stream's SA TEK says of the time beside the keys.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Telling {
    /// Lifetimes are told as what remains from here, wall clock.
    pub(crate) wall: Duration,
    /// The time until it is used.
    pub(crate) wait: Duration,
    /// Does GAP tell of a delay, which streams that are used already must not take for theirs?
    pub(crate) delayed: bool,
    /// Per cent of the members that have the keys, where it is told.
    pub(crate) delivered: Option<u8>,
}

/// An SA TEK for each stream of an epoch. What is not used yet says when it will be (SA_ATD); of that alone, and where the
/// policy wants it, it says how far it has come (SA_KDA).
pub(crate) fn sats(epoch: &Epoch, telling: Telling) -> impl Iterator<Item = Vec<u8>> {
    epoch.streams.iter().map(move |sa| sat(sa, epoch, telling))
}

/// The streams whose delivery is reported.
pub(crate) fn reported(report: &DeliveryReport) -> impl Iterator<Item = &StreamSa> {
    report.epoch.streams.iter().filter(|sa| sa.policy.delivery_assurance)
}

/// The SA TEK of one stream.
pub(crate) fn sat(sa: &StreamSa, epoch: &Epoch, telling: Telling) -> Vec<u8> {
    // Zero would be for ever.
    let lifetime = u32::try_from(epoch.remaining(telling.wall).as_secs()).unwrap_or(u32::MAX).max(1);
    let wait = telling.wait;
    let seconds = u32::try_from(wait.as_millis().div_ceil(1000)).unwrap_or(u32::MAX).to_be_bytes();
    let mut attributes = Vec::new();
    if telling.delayed || !wait.is_zero() {
        attributes.push(Attribute { kind: stream_attribute::ATD, value: AttributeValue::Long(&seconds) });
    }
    if !wait.is_zero() {
        let delivered = telling.delivered.filter(|_| sa.policy.delivery_assurance).map(u16::from);
        attributes
            .extend(delivered.map(|d| Attribute { kind: stream_attribute::KDA, value: AttributeValue::Short(d) }));
    }
    let protection = sa.policy.protection;
    let tek = StreamTek {
        name: sa.policy.name.clone(),
        spi: sa.spi,
        authentication: number(&AUTHENTICATIONS, protection.authentication()),
        encryption: number(&ENCRYPTIONS, protection.encryption()),
        lifetime,
        attributes,
    };
    Sat::Iec61850(tek).to_vec()
}

/// The key packet of a stream, as RFC 8052 section 2.3 wants it; none if there are no keys.
pub(crate) fn key_packet(sa: &StreamSa) -> Option<Secret> {
    let (encryption, authentication) = sa.keymat.expose().split_at_checked(sa.policy.protection.key_lens().0)?;
    let keys = [(key_attribute::TEK_INTEGRITY_KEY, authentication), (key_attribute::TEK_ALGORITHM_KEY, encryption)];
    let keys = keys.into_iter().filter(|(_, key)| !key.is_empty());
    let attributes: Vec<Attribute<'_>> =
        keys.map(|(kind, key)| Attribute { kind, value: AttributeValue::Long(key) }).collect();
    if attributes.is_empty() {
        return None;
    }
    let spi = sa.spi.to_be_bytes();
    Some(Secret::new(KeyPacket { kind: KeyPacketType::TEK, spi: &spi, attributes }.to_vec()))
}

/// Policy of a stream as a member reads it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct StreamDecree {
    pub(crate) spi: u32,
    pub(crate) name: OidName,
    pub(crate) protection: StreamProtection,
    /// `None` never ends.
    pub(crate) lifetime: Option<Duration>,
    /// SA_ATD.
    pub(crate) activation_delay: Option<Duration>,
    /// SA_KDA.
    pub(crate) delivered: Option<u8>,
}

impl StreamDecree {
    /// Reads an SA TEK.
    pub(crate) fn read(tek: &StreamTek<'_>) -> Result<Self, Reject> {
        // In a Delete zero stands for all.
        if tek.spi == 0 {
            return Err(refused("SPI of a stream"));
        }
        let protection = protection(tek.authentication, tek.encryption).ok_or(refused("protection of a stream"))?;
        let mut map = values(&tek.attributes)?;
        let delay = take_u32(&mut map, stream_attribute::ATD)?;
        let delivered = match take_u32(&mut map, stream_attribute::KDA)? {
            Some(percent) => Some(u8::try_from(percent).ok().filter(|p| *p <= 100).ok_or(refused("SA_KDA"))?),
            None => None,
        };
        if !map.is_empty() {
            return Err(refused("an unknown attribute of a stream"));
        }
        let lifetime = Duration::from_secs(tek.lifetime.into()).min(MAX_LIFETIME);
        Ok(Self {
            spi: tek.spi,
            name: tek.name.clone(),
            protection,
            lifetime: (!lifetime.is_zero()).then_some(lifetime),
            activation_delay: delay.map(|s| Duration::from_secs(s.into()).min(MAX_LIFETIME)),
            delivered,
        })
    }

    /// The stream with its keys. SA_ATD comes before `delay`, that of the whole message (RFC 8052 section 2.2.4.1).
    pub(crate) fn with_keys(&self, download: &Download<'_>, delay: Duration) -> Result<NewStream, Reject> {
        let (encryption, authentication) = download.tek_keys(self.spi).unwrap_or_default();
        if (encryption.len(), authentication.len()) != self.protection.key_lens() {
            return Err(refused("keys of a stream"));
        }
        Ok(NewStream {
            spi: self.spi,
            name: self.name.clone(),
            protection: self.protection,
            keymat: Secret::new([encryption, authentication].concat()),
            lifetime: self.lifetime,
            activation_delay: self.activation_delay.unwrap_or(delay),
            delivered: self.delivered,
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
