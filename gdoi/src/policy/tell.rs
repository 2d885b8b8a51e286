//! From the model to payloads: what the key server tells.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use keyferry_crypto::{BlockCipher, CryptoError, Secret};
use keyferry_model::admission::{Admission, Offer};
use keyferry_model::epoch::{DataSa, Epoch};
use keyferry_model::id::Identity;
use keyferry_model::lkh::TreeUpdate;
use keyferry_model::policy::{EspMode, GdoiRekey, GroupPolicy, KekManagement, RekeyTransport, SaDirection};
use keyferry_model::reading::{Reading, Readings};
use keyferry_model::rekey_sa::RekeySa;
use keyferry_model::stream::DeliveryReport;
use keyferry_wire::{Attribute, AttributeValue, Encode};

use super::selectors::{Named, unspecified};
use super::streams::{self, Telling};
use super::take::KILOBYTE;
use super::{algorithms, tree};
use crate::message::Payloads;
use crate::wire::endpoint::Endpoint;
use crate::wire::gap::Gap;
use crate::wire::group_sa::encode_parts;
use crate::wire::kd::{KeyPacket, encode_packets};
use crate::wire::registry::{
    Doi, KeyPacketType, esp, esp_attribute, gap_attribute, kek, kek_attribute, key_attribute, payload, phase1,
};
use crate::wire::sak::Sak;
use crate::wire::sat::{EspTek, Sat};

/// UDP, which carries pushes.
const UDP: u8 = 17;

/// Data SAs told at a registration, unless two epochs are more.
const MAX_TOLD_SAS: usize = 300;

/// Epochs told at a registration in any case.
const MIN_TOLD_EPOCHS: usize = 2;

/// A policy that GDOI cannot tell.
#[derive(Debug, thiserror::Error)]
pub enum TellError {
    /// The group does not serve GDOI.
    #[error("the group does not serve GDOI")]
    NotServed,
    /// RFC 8263 has no acknowledgement with this hash.
    #[error("GDOI has no acknowledgement with this hash")]
    AckType,
    /// A sender ID has more bits than the group's policy says.
    #[error("a sender ID does not fit its bits")]
    SenderId,
    /// A key cannot be used.
    #[error(transparent)]
    Crypto(#[from] CryptoError),
}

fn short(kind: u16, v: u16) -> Attribute<'static> {
    Attribute { kind, value: AttributeValue::Short(v) }
}

fn long(kind: u16, v: &[u8]) -> Attribute<'_> {
    Attribute { kind, value: AttributeValue::Long(v) }
}

/// Whole seconds, rounded up, for delays.
fn delay(d: Duration) -> u16 {
    u16::try_from(d.as_millis().div_ceil(1000)).unwrap_or(u16::MAX)
}

/// Whole seconds, rounded down but not to zero, for lifetimes.
fn lifetime(d: Duration) -> [u8; 4] {
    u32::try_from(d.as_secs()).unwrap_or(u32::MAX).max(1).to_be_bytes()
}

/// Whole kilobytes, rounded down but not to zero, for lifetimes in octets.
fn kilobytes(octets: u64) -> [u8; 4] {
    u32::try_from(octets / KILOBYTE).unwrap_or(u32::MAX).max(1).to_be_bytes()
}

/// A lifetime: TLV of four octets, or TV where that is what devices want and it fits.
fn life(kind: u16, left: &[u8; 4], sends: Readings) -> Attribute<'_> {
    match left {
        [0, 0, hi, lo] if sends.has(Reading::ShortLifetimes) => short(kind, u16::from_be_bytes([*hi, *lo])),
        _ => long(kind, left),
    }
}

/// A destination with or without the octet that only the text of RFC 6407 has.
fn destination(named: &Named, protocol: u8, sends: Readings) -> Endpoint<'_> {
    Endpoint { protocol: sends.has(Reading::DstIdProt).then_some(protocol), ..named.endpoint() }
}

/// Parts of an SA payload: attribute payloads by type and body.
#[derive(Debug)]
pub(crate) struct SaParts {
    parts: Vec<(u8, Vec<u8>)>,
    sends: Readings,
}

impl SaParts {
    pub(crate) fn new(sends: Readings) -> Self {
        Self { parts: Vec::new(), sends }
    }

    /// The SA payload of GROUPKEY-PULL message 2: the whole policy.
    pub(crate) fn of_offer(
        offer: &Offer,
        identity: &Identity,
        wall: Duration,
        server: SocketAddr,
        member: SocketAddr,
    ) -> Result<Self, TellError> {
        let gdoi = offer.policy.gdoi.as_ref().ok_or(TellError::NotServed)?;
        let destination = match gdoi.transport {
            RekeyTransport::Multicast(group) => group,
            RekeyTransport::Unicast => member,
        };
        let mut parts = Self::new(gdoi.sends);
        let management = !gdoi.sends.has(Reading::NoKekManagement);
        parts.rekey(&offer.rekey, gdoi, (server, destination), management, wall)?;
        parts.delays(offer.activation_delay, offer.deactivation_delay);
        let delayed = !offer.activation_delay.is_zero();
        for epoch in told(&offer.epochs) {
            let newest = offer.epochs.last().is_some_and(|e| e.number == epoch.number);
            let wait = epoch.activates.saturating_sub(wall);
            let telling = Telling { wall, wait, delayed, delivered: offer.delivered.filter(|_| newest) };
            parts.epoch(epoch, telling, Some(identity));
        }
        Ok(parts)
    }

    /// SA KEK in a push: addresses that a push to many does not know are left unspecified.
    pub(crate) fn rekey_in_push(
        &mut self,
        sa: &RekeySa,
        policy: &GroupPolicy,
        wall: Duration,
    ) -> Result<(), TellError> {
        let gdoi = policy.gdoi.as_ref().ok_or(TellError::NotServed)?;
        let none = |like| SocketAddr::new(unspecified(like), 0);
        let addresses = match gdoi.transport {
            RekeyTransport::Multicast(group) => (none(group.ip()), group),
            RekeyTransport::Unicast => {
                let any = none(policy.traffic.first().map_or([0; 4].into(), |t| t.destination.address));
                (any, any)
            }
        };
        self.rekey(sa, gdoi, addresses, true, wall)
    }

    fn rekey(
        &mut self,
        sa: &RekeySa,
        gdoi: &GdoiRekey,
        (from, to): (SocketAddr, SocketAddr),
        management: bool,
        wall: Duration,
    ) -> Result<(), TellError> {
        let left = lifetime(sa.remaining(wall));
        let sig_bits = u16::try_from(gdoi.signer.signature_len() * 8).unwrap_or(u16::MAX);
        let (algorithm, hash) = algorithms::signature_numbers(gdoi.scheme);
        let mut attributes = Vec::with_capacity(8);
        if management && gdoi.management == KekManagement::Lkh {
            attributes.push(short(kek_attribute::MANAGEMENT, kek::LKH));
        }
        attributes.push(short(kek_attribute::ALGORITHM, algorithms::kek_algorithm(gdoi.cipher)));
        attributes.extend(algorithms::cipher_bits(gdoi.cipher).map(|bits| short(kek_attribute::KEY_LENGTH, bits)));
        attributes.push(life(kek_attribute::LIFETIME, &left, self.sends));
        attributes.extend(hash.map(|hash| short(kek_attribute::SIG_HASH, hash)));
        attributes.push(short(kek_attribute::SIG_ALGORITHM, algorithm));
        attributes.push(short(kek_attribute::SIG_KEY_LENGTH, sig_bits));
        if let Some(ack) = gdoi.ack {
            let number = algorithms::ack_number(ack).ok_or(TellError::AckType)?;
            attributes.push(short(kek_attribute::ACK_REQUESTED, number));
        }
        let (source, to) = (Named::host(from), Named::host(to));
        let sak = Sak {
            protocol: UDP,
            source: source.endpoint(),
            destination: destination(&to, UDP, self.sends),
            spi: sa.spi,
            attributes,
        };
        self.parts.push((payload::SAK, sak.to_vec()));
        Ok(())
    }

    /// GAP with both delays.
    pub(crate) fn delays(&mut self, activation: Duration, deactivation: Duration) {
        let attributes =
            vec![short(gap_attribute::ATD, delay(activation)), short(gap_attribute::DTD, delay(deactivation))];
        self.parts.push((payload::GAP, Gap { attributes }.to_vec()));
    }

    /// An SA TEK for each SA of an epoch, with what remains of its life. What is told to all members at once is Symmetric,
    /// the only direction that has a meaning for all of them (RFC 6407 section 5.5.1.1.2).
    pub(crate) fn epoch(&mut self, epoch: &Epoch, telling: Telling, member: Option<&Identity>) {
        let left = lifetime(epoch.remaining(telling.wall));
        let sends = self.sends;
        let direction = |sa: &DataSa| member.map_or(SaDirection::Symmetric, |m| sa.policy.direction_of(m));
        self.parts.extend(epoch.sas.iter().map(|sa| (payload::SAT, sat(sa, &left, direction(sa), sends))));
        self.parts.extend(streams::sats(epoch, telling).map(|sat| (payload::SAT, sat)));
    }

    /// The streams whose delivery is reported, again.
    pub(crate) fn report(&mut self, report: &DeliveryReport, wall: Duration, wait: Duration) {
        let telling = Telling { wall, wait, delayed: false, delivered: Some(report.delivered) };
        let sats = streams::reported(report).map(|sa| streams::sat(sa, &report.epoch, telling));
        self.parts.extend(sats.map(|sat| (payload::SAT, sat)));
    }

    /// Appends the SA payload, unless it says nothing.
    pub(crate) fn append_to(self, payloads: Payloads) -> Payloads {
        if self.parts.is_empty() {
            return payloads;
        }
        let behind = self.sends.has(Reading::AttributesBehindSa);
        let body = Secret::new(encode_parts(Doi::GDOI, 0, &self.parts, !behind));
        let payloads = payloads.with_body(payload::SA, body);
        if !behind {
            return payloads;
        }
        self.parts.into_iter().fold(payloads, |payloads, (kind, body)| payloads.with_body(kind, Secret::new(body)))
    }
}

/// The epochs told at a registration: all that live, but no more than one message holds. The newest is the one that will
/// be used, the one before it is the one in use; older ones have been replaced for a while.
pub(crate) fn told(epochs: &[Arc<Epoch>]) -> &[Arc<Epoch>] {
    let count = told_at_most(epochs.last().map_or(0, |e| e.sas.len() + e.streams.len()));
    &epochs[epochs.len().saturating_sub(count)..]
}

/// How many epochs are told at most, in a group with so many lines of traffic.
pub(super) fn told_at_most(lines: usize) -> usize {
    (MAX_TOLD_SAS / lines.max(1)).max(MIN_TOLD_EPOCHS)
}

fn sat(sa: &DataSa, left: &[u8; 4], direction: SaDirection, sends: Readings) -> Vec<u8> {
    let policy = &sa.policy;
    // A configuration with a transform that has no number is refused; 0 is reserved, and no member takes it.
    let numbers = algorithms::esp_numbers(policy.transform).unwrap_or_default();
    let mut attributes = Vec::with_capacity(9);
    attributes
        .extend([short(esp_attribute::LIFE_TYPE, phase1::SECONDS), life(esp_attribute::LIFE_DURATION, left, sends)]);
    let kilobytes = policy.lifetime_octets.map(kilobytes);
    if let Some(kilobytes) = &kilobytes {
        attributes.push(short(esp_attribute::LIFE_TYPE, phase1::KILOBYTES));
        attributes.push(life(esp_attribute::LIFE_DURATION, kilobytes, sends));
    }
    match policy.mode {
        EspMode::Transport => attributes.push(short(esp_attribute::ENCAPSULATION, esp::TRANSPORT)),
        EspMode::Tunnel => attributes.extend([
            short(esp_attribute::ENCAPSULATION, esp::TUNNEL),
            short(esp_attribute::ADDRESS_PRESERVATION, algorithms::preservation_number(policy.preservation)),
        ]),
    }
    attributes.extend(numbers.authentication.map(|n| short(esp_attribute::AUTHENTICATION, n)));
    attributes.extend(numbers.key_bits.map(|bits| short(esp_attribute::KEY_LENGTH, bits)));
    attributes.push(short(esp_attribute::DIRECTION, algorithms::direction_number(direction)));
    let (source, to) = (Named::selector(&policy.source), Named::selector(&policy.destination));
    let tek = EspTek {
        protocol: policy.destination.protocol.max(policy.source.protocol),
        source: source.endpoint(),
        destination: destination(&to, policy.destination.protocol, sends),
        transform: numbers.transform,
        spi: sa.spi,
        attributes,
    };
    Sat::Esp(tek).to_vec()
}

/// Key packets of a KD payload.
#[derive(Debug, Default)]
pub(crate) struct KdParts(Vec<Secret>);

impl KdParts {
    /// The KD payload of GROUPKEY-PULL message 4: all keys, and the member's own.
    pub(crate) fn of_admission(admission: &Admission) -> Result<Self, TellError> {
        let offer = &admission.offer;
        let gdoi = offer.policy.gdoi.as_ref().ok_or(TellError::NotServed)?;
        let mut parts = Self::default();
        if admission.path.is_empty() {
            parts.rekey(&offer.rekey, gdoi)?;
        } else {
            let array = tree::download(&admission.path, &offer.rekey, gdoi.cipher);
            let keys = vec![long(key_attribute::LKH_DOWNLOAD_ARRAY, array.expose())];
            parts.lkh(&offer.rekey, gdoi, keys)?;
        }
        for epoch in told(&offer.epochs) {
            parts.epoch(epoch);
        }
        parts.sender_ids(offer.policy.sender_id_bits, &admission.sender_ids)?;
        Ok(parts)
    }

    fn packet(&mut self, kind: KeyPacketType, spi: &[u8], attributes: Vec<Attribute<'_>>) {
        self.0.push(Secret::new(KeyPacket { kind, spi, attributes }.to_vec()));
    }

    /// The KEK alone: it protects itself by the message it stands in.
    pub(crate) fn rekey(&mut self, sa: &RekeySa, gdoi: &GdoiRekey) -> Result<(), TellError> {
        let spki = gdoi.signer.public_spki();
        let attributes =
            vec![long(key_attribute::KEK_ALGORITHM_KEY, sa.keymat.expose()), long(key_attribute::KEK_SIG_KEY, &spki)];
        self.packet(KeyPacketType::KEK, &sa.spi, attributes);
        Ok(())
    }

    /// The KEK wrapped for those who stay.
    pub(crate) fn rekey_by_tree(
        &mut self,
        sa: &RekeySa,
        gdoi: &GdoiRekey,
        update: &TreeUpdate,
    ) -> Result<(), TellError> {
        let cipher: BlockCipher = gdoi.cipher;
        let arrays = tree::updates(update, sa, cipher)?;
        let keys = arrays.iter().map(|a| long(key_attribute::LKH_UPDATE_ARRAY, a)).collect();
        self.lkh(sa, gdoi, keys)
    }

    fn lkh(&mut self, sa: &RekeySa, gdoi: &GdoiRekey, keys: Vec<Attribute<'_>>) -> Result<(), TellError> {
        let spki = gdoi.signer.public_spki();
        let mut keys = keys;
        keys.push(long(key_attribute::LKH_SIG_KEY, &spki));
        self.packet(KeyPacketType::LKH, &sa.spi, keys);
        Ok(())
    }

    /// The keys of an epoch.
    pub(crate) fn epoch(&mut self, epoch: &Epoch) {
        for sa in &epoch.sas {
            let keymat = sa.keymat.expose();
            // Key and salt together (RFC 4106 section 8.1, RFC 4543 section 3.2, RFC 3686 section 5.1).
            let (encryption, integrity) = keymat.split_at(sa.policy.transform.encryption_len().min(keymat.len()));
            let keys = [(key_attribute::TEK_ALGORITHM_KEY, encryption), (key_attribute::TEK_INTEGRITY_KEY, integrity)];
            let attributes = keys.into_iter().filter(|(_, key)| !key.is_empty()).map(|(kind, key)| long(kind, key));
            let attributes = attributes.collect();
            self.packet(KeyPacketType::TEK, &sa.spi.to_be_bytes(), attributes);
        }
        self.0.extend(epoch.streams.iter().filter_map(streams::key_packet));
    }

    /// The keys of the streams whose delivery is reported, for those that missed them.
    pub(crate) fn report(&mut self, report: &DeliveryReport) {
        self.0.extend(streams::reported(report).filter_map(streams::key_packet));
    }

    /// Sender IDs in the least octets that hold them.
    fn sender_ids(&mut self, bits: u8, ids: &[u32]) -> Result<(), TellError> {
        if ids.is_empty() {
            return Ok(());
        }
        if ids.iter().any(|id| u64::from(*id) >= 1 << bits.min(32)) {
            return Err(TellError::SenderId);
        }
        let skip = 4 - usize::from(bits.div_ceil(8)).min(4);
        let values: Vec<[u8; 4]> = ids.iter().map(|id| id.to_be_bytes()).collect();
        let mut attributes = vec![short(key_attribute::SID_BITS, bits.into())];
        attributes.extend(values.iter().map(|v| long(key_attribute::SID_VALUE, &v[skip..])));
        self.packet(KeyPacketType::SID, &[], attributes);
        Ok(())
    }

    /// Appends the KD payload, unless it brings nothing.
    pub(crate) fn append_to(self, payloads: Payloads) -> Payloads {
        if self.0.is_empty() {
            return payloads;
        }
        let mut out = Vec::new();
        encode_packets(&self.0, &mut out);
        payloads.with_body(payload::KD, Secret::new(out))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// What is cut off could make two IDs the same, and so two nonces.
    #[test]
    fn a_sender_id_that_does_not_fit_its_bits_is_not_told() {
        for (bits, id, fits) in
            [(8, 255, true), (8, 256, false), (12, 4095, true), (12, 4096, false), (32, u32::MAX, true)]
        {
            let mut parts = KdParts::default();
            let told = parts.sender_ids(bits, &[0, id]);
            assert_eq!(told.is_ok(), fits, "{id} in {bits} bits");
            assert_eq!(parts.0.len(), usize::from(fits));
        }
    }
}
