//! What the tests of this engine are about.
#![allow(clippy::unwrap_used)]

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use keyferry_crypto::{BlockCipher, Integrity, Secret};
use keyferry_model::policy::{EspMode, EspTransform, SaDirection, TrafficPolicy};
use keyferry_model::time::Now;
use keyferry_model::tunnel::Tunnel;
use keyferry_model::update::{GroupUpdate, NewSa, Removal};

use super::plan::{Ground, Label};
use crate::testing;
pub(super) use crate::testing::{any, side};

pub(super) const CBC: EspTransform = EspTransform::CbcHmac(BlockCipher::Aes128Cbc, Integrity::HmacSha256_128);
pub(super) const GROUP: &str = "239.192.0.1";

pub(super) fn at(millis: u64) -> Now {
    Now { mono: Duration::from_millis(millis), wall: Duration::from_secs(1_700_000_000) }
}

pub(super) fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// From anybody to a group, without a replay window: what the kernel does well.
pub(super) fn policy(group: &str, mode: EspMode) -> TrafficPolicy {
    testing::policy(any(), side(group, if ip(group).is_ipv4() { 32 } else { 128 }), mode, CBC)
}

pub(super) fn sa(spi: u32, policy: &TrafficPolicy, direction: SaDirection) -> NewSa {
    let keymat = spi.to_be_bytes().repeat(12);
    NewSa {
        spi,
        policy: Arc::new(policy.clone()),
        keymat: Secret::new(keymat),
        lifetime: Duration::from_secs(3_600),
        direction,
    }
}

pub(super) fn update(install: Vec<NewSa>, remove: &[u32]) -> GroupUpdate {
    GroupUpdate {
        install,
        remove: Removal::Spis(remove.to_vec()),
        sender_ids: None,
        activation_delay: Duration::from_secs(2),
        deactivation_delay: Duration::from_secs(5),
    }
}

pub(super) fn ground(networks: &[(&str, u8)]) -> Ground {
    let networks: Vec<(IpAddr, u8)> = networks.iter().map(|(address, prefix)| (ip(address), *prefix)).collect();
    Ground::new(Label::of("kf0"), Tunnel::default(), &networks)
}
