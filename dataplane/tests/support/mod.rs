//! Members, policies and packets for the tests.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used)]

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use dataplane::packet::ipv4::checksum;
use dataplane::{DropReason, Frame, IvSource, Sad};
use keyferry_crypto::{Aead, AesCtr, BlockCipher, Integrity, Secret, SeededRandom};
use keyferry_model::policy::{EspMode, EspTransform, SaDirection, TrafficPolicy};
use keyferry_model::time::Now;
use keyferry_model::update::{GroupUpdate, NewSa, Removal, SenderIds};

pub(crate) mod reassembly;
/// What the tests of the crate's modules have, too.
#[path = "../../src/testing.rs"]
mod testing;

pub(crate) use testing::side;

pub const GCM: EspTransform = EspTransform::Aead(Aead::Aes128Gcm16);
pub const CBC: EspTransform = EspTransform::CbcHmac(BlockCipher::Aes256Cbc, Integrity::HmacSha256_128);
pub const MODES: [EspMode; 2] = [EspMode::Transport, EspMode::Tunnel];

/// Every transform that the model can name.
pub fn transforms() -> Vec<EspTransform> {
    let mut all: Vec<_> = Aead::ALL.into_iter().map(EspTransform::Aead).collect();
    all.extend([Aead::Aes128Gcm16, Aead::Aes192Gcm16, Aead::Aes256Gcm16].map(EspTransform::Gmac));
    for mac in Integrity::ALL {
        let ciphers = [BlockCipher::Aes128Cbc, BlockCipher::Aes192Cbc, BlockCipher::Aes256Cbc];
        all.extend(ciphers.map(|cipher| EspTransform::CbcHmac(cipher, mac)));
        all.extend(AesCtr::ALL.map(|cipher| EspTransform::CtrHmac(cipher, mac)));
        all.push(EspTransform::NullHmac(mac));
    }
    all
}

pub fn at(millis: u64) -> Now {
    Now {
        mono: Duration::from_millis(millis),
        wall: Duration::from_secs(1_700_000_000) + Duration::from_millis(millis),
    }
}

/// Any sender to a group, without replay protection.
pub fn policy(transform: EspTransform, mode: EspMode, group: &str) -> TrafficPolicy {
    let v4 = group.parse::<IpAddr>().unwrap().is_ipv4();
    let (source, destination) = (side(if v4 { "0.0.0.0" } else { "::" }, 0), side(group, if v4 { 32 } else { 128 }));
    testing::policy(source, destination, mode, transform)
}

pub fn keymat(policy: &TrafficPolicy, seed: u64) -> Secret {
    Secret::random(policy.transform.keymat_len(), &mut SeededRandom::new(seed))
}

pub fn new_sa(spi: u32, policy: &TrafficPolicy, seed: u64) -> NewSa {
    NewSa {
        spi,
        policy: Arc::new(policy.clone()),
        keymat: keymat(policy, seed),
        lifetime: Duration::from_secs(3_600),
        direction: SaDirection::Symmetric,
    }
}

pub fn ids(ids: &[u32]) -> Option<SenderIds> {
    Some(SenderIds { bits: 16, ids: ids.to_vec() })
}

/// A first registration: usable at once.
pub fn registration(install: Vec<NewSa>, sender_ids: Option<SenderIds>) -> GroupUpdate {
    GroupUpdate {
        install,
        remove: Removal::All,
        sender_ids,
        activation_delay: Duration::ZERO,
        deactivation_delay: Duration::ZERO,
    }
}

/// A rekey with delays in milliseconds.
pub fn rekey(install: Vec<NewSa>, remove: &[u32], activation: u64, deactivation: u64) -> GroupUpdate {
    GroupUpdate {
        install,
        remove: Removal::Spis(remove.to_vec()),
        sender_ids: None,
        activation_delay: Duration::from_millis(activation),
        deactivation_delay: Duration::from_millis(deactivation),
    }
}

pub struct Member {
    pub sad: Sad,
    pub ivs: IvSource,
}

impl Member {
    pub fn new(seed: u64) -> Self {
        Self { sad: Sad::new(), ivs: IvSource::new(&mut SeededRandom::new(seed)) }
    }

    /// A member with one SA.
    pub fn with(spi: u32, policy: &TrafficPolicy, id: u32) -> Self {
        let mut member = Self::new(u64::from(id));
        member.sad.apply(registration(vec![new_sa(spi, policy, 7)], ids(&[id])), at(0)).unwrap();
        member
    }

    pub fn seal(&mut self, packet: &[u8]) -> Result<Vec<u8>, DropReason> {
        let mut frame = Frame::holding(packet);
        self.sad.snapshot().seal(&mut frame, &mut self.ivs)?;
        Ok(frame.packet().to_vec())
    }

    pub fn open(&self, packet: &[u8]) -> Result<Vec<u8>, DropReason> {
        let mut frame = Frame::holding(packet);
        self.sad.snapshot().open(&mut frame)?;
        Ok(frame.packet().to_vec())
    }

    /// Seals several packets at once.
    pub fn seal_all(&mut self, packets: &[Vec<u8>]) -> Vec<Result<Vec<u8>, DropReason>> {
        let mut frames: Vec<Frame> = packets.iter().map(|packet| Frame::holding(packet)).collect();
        let mut fates = Vec::new();
        self.sad.snapshot().seal_burst(&mut frames, &mut self.ivs, &mut fates);
        frames.iter().zip(fates).map(|(frame, fate)| fate.map(|_| frame.packet().to_vec())).collect()
    }

    /// Opens several packets at once.
    pub fn open_all(&self, packets: &[Vec<u8>]) -> Vec<Result<Vec<u8>, DropReason>> {
        let mut frames: Vec<Frame> = packets.iter().map(|packet| Frame::holding(packet)).collect();
        let mut fates = Vec::new();
        self.sad.snapshot().open_burst(&mut frames, &mut fates);
        frames.iter().zip(fates).map(|(frame, fate)| fate.map(|_| frame.packet().to_vec())).collect()
    }

    pub fn drops(&self, reason: DropReason) -> u64 {
        self.sad.status().drops[reason.name()]
    }
}

/// Writes length and checksum of an IPv4 packet.
pub fn finish4(packet: &mut [u8]) {
    let header_len = usize::from(packet[0] & 0x0f) * 4;
    let total = u16::try_from(packet.len()).unwrap();
    packet[2..4].copy_from_slice(&total.to_be_bytes());
    packet[10..12].fill(0);
    let sum = checksum(&packet[..header_len]);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
}

fn datagram(ports: (u16, u16), payload: &[u8]) -> Vec<u8> {
    let mut udp = Vec::new();
    udp.extend(ports.0.to_be_bytes());
    udp.extend(ports.1.to_be_bytes());
    udp.extend(u16::try_from(payload.len() + 8).unwrap().to_be_bytes());
    udp.extend([0, 0]);
    udp.extend(payload);
    udp
}

/// A UDP packet from 10.0.0.`host` (or fd00::`host`) to a group; ports 5000 and 5001, TTL 17, DF set.
pub fn udp(host: u8, group: &str, payload: &[u8]) -> Vec<u8> {
    match group.parse().unwrap() {
        IpAddr::V4(group) => {
            let mut packet = vec![0x45, 0xb8, 0, 0, 0x12, 0x34, 0x40, 0, 17, 17, 0, 0, 10, 0, 0, host];
            packet.extend(group.octets());
            packet.extend(datagram((5000, 5001), payload));
            finish4(&mut packet);
            packet
        }
        IpAddr::V6(group) => {
            let mut packet = vec![0x6b, 0x80, 0, 0, 0, 0, 17, 17, 0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, host];
            packet.extend(group.octets());
            let udp = datagram((5000, 5001), payload);
            packet[4..6].copy_from_slice(&u16::try_from(udp.len()).unwrap().to_be_bytes());
            packet.extend(udp);
            packet
        }
    }
}

/// Where the ESP header of a protected packet without options stands.
pub fn esp_at(packet: &[u8]) -> usize {
    if packet[0] >> 4 == 4 { 20 } else { 40 }
}

/// Number of the payload octets put by [`numbered`].
pub fn number_of(packet: &[u8]) -> u64 {
    u64::from_be_bytes(packet[packet.len() - 8..].try_into().unwrap())
}

/// A packet that carries a number.
pub fn numbered(host: u8, group: &str, number: u64) -> Vec<u8> {
    udp(host, group, &number.to_be_bytes())
}
