//! Known answers: packets that another implementation sealed. Published vectors are tested in `src/transform.rs`.
#![allow(clippy::unwrap_used)]

#[path = "support/names.rs"]
mod names;
mod support;

use std::sync::Arc;
use std::time::Duration;

use keyferry_crypto::Secret;
use keyferry_model::policy::{EspMode, SaDirection};
use keyferry_model::update::NewSa;
use support::*;

/// `vectors/scapy.txt`, written by `tests/interop/esp_scapy.py --vectors`.
#[test]
fn packets_sealed_by_scapy_open() {
    let mut seen = 0;
    for line in include_str!("vectors/scapy.txt").lines().filter(|line| !line.starts_with('#')) {
        let fields: Vec<&str> = line.split(' ').collect();
        let [name, mode, spi, keymat, plain, sealed] = fields[..] else { panic!("malformed line: {line}") };
        let (plain, sealed) = (hex::decode(plain).unwrap(), hex::decode(sealed).unwrap());
        let group = if plain[0] >> 4 == 4 { "239.192.0.1" } else { "ff15::1" };
        let mode = if mode == "tunnel" { EspMode::Tunnel } else { EspMode::Transport };
        let new = NewSa {
            spi: u32::from_str_radix(spi, 16).unwrap(),
            policy: Arc::new(policy(names::transform(name).unwrap(), mode, group)),
            keymat: Secret::new(hex::decode(keymat).unwrap()),
            lifetime: Duration::from_secs(60),
            direction: SaDirection::Symmetric,
        };
        let mut member = Member::new(1);
        member.sad.apply(registration(vec![new], None), at(0)).unwrap();
        assert_eq!(member.open(&sealed).unwrap(), plain, "{line}");
        seen += 1;
    }
    assert_eq!(seen, 140);
}
