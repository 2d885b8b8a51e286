//! How large a group's messages can become, so that a configuration which no datagram holds is found before members are.

use std::sync::Arc;
use std::time::Duration;

use keyferry_crypto::{BlockCipher, KeyKind, Secret, SignatureScheme};
use keyferry_model::epoch::{DataSa, Epoch};
use keyferry_model::policy::GroupPolicy;
use keyferry_model::reading::Readings;
use keyferry_model::stream::StreamSa;

use super::streams::Telling;
use super::tell::{self, KdParts, SaParts};
use super::tree::keymat_len;
use crate::message::{self, Payloads};

/// Octets of the largest messages of a group, never less than what is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// Message 2 or 4 of a GROUPKEY-PULL.
    pub pull: usize,
    /// A GROUPKEY-PUSH that brings new keys for all traffic, and a new KEK.
    pub push: usize,
}

/// SA KEK with IPv6 addresses, GAP, SEQ, HASH, nonce and the heads of SA and KD payloads.
const OVERHEAD: usize = 512;

/// A member's path in the deepest key tree: 21 keys of 16 octets and an IV, a key and padding.
const PATH: usize = 21 * (16 + 16 + 32);

impl Sizes {
    /// What a datagram holds.
    pub const MOST: usize = message::MAX_DATAGRAM;

    /// The sizes of a group that is rekeyed so.
    #[must_use]
    pub fn of(policy: &GroupPolicy, cipher: BlockCipher, scheme: SignatureScheme, sends: Readings) -> Self {
        let one = {
            let sas = policy.traffic.iter().zip(256..).map(|(line, spi)| DataSa {
                spi,
                policy: Arc::clone(line),
                keymat: Secret::new(vec![0; line.transform.keymat_len()]),
                next_spi: None,
            });
            let streams = policy.streams.iter().zip(256..).map(|(stream, spi)| {
                let (encryption, authentication) = stream.protection.key_lens();
                let keymat = Secret::new(vec![0; encryption + authentication]);
                StreamSa { spi, policy: Arc::clone(stream), keymat }
            });
            // It is used later than it is told, which streams tell at some length.
            let (announced, activates, expires) = (Duration::ZERO, policy.tek_lifetime, policy.tek_lifetime * 2);
            let (sas, streams) = (sas.collect(), streams.collect());
            Epoch { number: 1, sas, streams, announced, activates, expires }
        };
        let mut sa = SaParts::new(sends);
        sa.epoch(
            &one,
            Telling { wall: Duration::ZERO, wait: one.activates, delayed: true, delivered: Some(100) },
            None,
        );
        let mut kd = KdParts::default();
        kd.epoch(&one);
        let (sats, teks) = (sa.append_to(Payloads::new()).octets(), kd.append_to(Payloads::new()).octets());
        // The largest RSA keys that are made here have 4096 bits.
        let signature = if scheme.kind() == KeyKind::Rsa { 512 } else { 132 };
        let public_key = signature + 64;
        let kek = 64 + keymat_len(cipher) + public_key;
        let lines = policy.traffic.len() + policy.streams.len();
        let deletes = 24 + 4 * lines;
        let epochs = tell::told_at_most(lines);
        let sender_ids = 16 + 8 * usize::try_from(policy.sender_ids_per_member).unwrap_or(usize::MAX / 16);
        Self {
            push: OVERHEAD + deletes + sats + teks + kek + signature,
            pull: OVERHEAD + (epochs * sats).max(epochs * teks + PATH + kek + sender_ids),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use keyferry_crypto::{Aead, Integrity};
    use keyferry_model::policy::{
        AddressPreservation, Authorization, EspMode, EspTransform, Retransmit, Selector, SequenceNumbers, TrafficPolicy,
    };

    use super::*;

    fn policy(lines: u16, transform: EspTransform) -> GroupPolicy {
        let selector =
            |address: [u8; 16], prefix| Selector { address: address.into(), prefix, protocol: 17, port: 5000 };
        let line = |n: u16| {
            let mut to = [0xff; 16];
            to[14..].copy_from_slice(&n.to_be_bytes());
            Arc::new(TrafficPolicy {
                source: selector([0; 16], 0),
                destination: selector(to, 128),
                mode: EspMode::Tunnel,
                transform,
                sequence: SequenceNumbers::Unspecified,
                replay_window: 0,
                preservation: AddressPreservation::Both,
                only_sender: None,
                lifetime_octets: None,
            })
        };
        GroupPolicy {
            name: "large".into(),
            ids: vec![],
            traffic: (0..lines).map(line).collect(),
            streams: Vec::new(),
            tek_lifetime: Duration::from_secs(3600),
            kek_lifetime: Duration::from_secs(86_400),
            rekey_margin: Duration::from_secs(300),
            rekey_when_asked: None,
            activation_delay: Duration::from_secs(10),
            deactivation_delay: Duration::from_secs(30),
            sender_id_bits: 16,
            sender_ids_per_member: 4,
            capacity: 1024,
            retransmit: Retransmit { copies: 0, interval: Duration::ZERO },
            ack_patience: Duration::from_secs(30),
            ack_resend: false,
            backward_access: None,
            evict_after_misses: None,
            authorization: Authorization::Authenticated,
            gdoi: None,
            gikev2: None,
        }
    }

    #[test]
    fn a_hundred_lines_fit_and_thousands_do_not() {
        let gcm = EspTransform::Aead(Aead::Aes256Gcm16);
        let cbc = EspTransform::CbcHmac(BlockCipher::Aes256Cbc, Integrity::HmacSha512_256);
        for transform in [gcm, cbc] {
            let of = |lines| {
                Sizes::of(
                    &policy(lines, transform),
                    BlockCipher::Aes256Cbc,
                    SignatureScheme::RsaPkcs1Sha256,
                    Readings::NONE,
                )
            };
            let hundred = of(100);
            assert!(hundred.push < Sizes::MOST / 2 && hundred.pull < Sizes::MOST, "{hundred:?}");
            let thousands = of(2000);
            assert!(thousands.push > Sizes::MOST && thousands.pull > Sizes::MOST, "{thousands:?}");
        }
    }
}
