//! What the gateway makes of a datagram's port and marker.
#![allow(clippy::unwrap_used)]

use std::net::SocketAddr;
use std::time::Duration;

use keyferry_crypto::SeededRandom;
use keyferry_gateway::{Gateway, GatewaySettings};
use keyferry_model::drive::{Datagram, Output};
use keyferry_model::time::Now;
use keyferry_model::update::{MemberCtx, MemberOutput};
use keyferry_scenarios::policy::{self, Variant};

const NOW: Now = Now { mono: Duration::from_secs(5), wall: Duration::from_secs(1_800_000_000) };

fn gateway(variant: Variant) -> Gateway {
    let settings = GatewaySettings {
        credentials: policy::credentials(variant.family),
        groups: vec![policy::group(variant)],
        identity: None,
        idle_ike_sa: Duration::from_secs(300),
        aggressive: false,
        danger_weak_phase1: false,
        phase1_lifetime: Duration::from_secs(86_400),
        dpd: None,
        fragment_size: 1280,
        ike: Default::default(),
        ike2: Default::default(),
        connections: Default::default(),
    };
    Gateway::new(settings, Vec::new(), NOW, &mut SeededRandom::new(1)).unwrap()
}

/// Message 1 of a member's phase 1.
fn first_message(variant: Variant) -> Vec<u8> {
    let mut member = gdoi::Member::new(policy::member(variant, 2));
    let mut out = Vec::new();
    member.start(&mut MemberCtx { now: NOW, rng: &mut SeededRandom::new(2), out: &mut out });
    let sent = out.into_iter().find_map(|o| if let MemberOutput::Send(t) = o { Some(t.bytes) } else { None });
    sent.unwrap()
}

/// RFC 3948 section 2.2: at 4500 four zero octets tell IKE from ESP. At 848 they may stand there.
#[test]
fn at_port_4500_only_what_has_a_marker_is_ike() {
    let variant = Variant::default();
    let message = first_message(variant);
    let marked = [&[0; 4][..], &message].concat();
    let server = variant.family.gateway().ip();
    let from = SocketAddr::new(variant.family.host(2), 848);
    for (port, bytes, answered, marker) in [
        (848, &message, true, false),
        (848, &marked, true, true),
        (4500, &marked, true, true),
        (4500, &message, false, false),
        (4500, &vec![0xff], false, false),
        (848, &vec![0xff], false, false),
    ] {
        let mut gateway = gateway(variant);
        while gateway.poll().is_some() {}
        gateway.receive(NOW, &mut SeededRandom::new(3), from, SocketAddr::new(server, port), bytes);
        let mut answers = Vec::new();
        while let Some(output) = gateway.poll() {
            if let Output::Send(t) = output {
                assert_eq!((t.from, t.to, t.via.is_marked_udp()), (Some(SocketAddr::new(server, port)), from, marker));
                answers.push(t);
            }
        }
        assert_eq!(!answers.is_empty(), answered, "port {port}, {} octets", bytes.len());
        let (gdoi, _, nowhere) = gateway.counters();
        assert_eq!(gdoi.received, u64::from(answered));
        assert_eq!(nowhere, u64::from(!answered && bytes.len() > 1), "a keepalive is nothing to count");
    }
}

/// A member behind a translator registered at port 4500: unicast rekeys leave from there, with a marker.
#[test]
fn unicast_rekeys_take_the_way_of_the_member() {
    let variant = Variant { multicast: false, ..Variant::default() };
    let mut gateway = gateway(variant);
    let mut member = gdoi::Member::new(policy::member(variant, 2));
    let inside = variant.family.host(2);
    // The translator keeps the address, which is what the key is found by, and changes ports.
    let shift = 20_000;
    let mut rng = SeededRandom::new(4);
    let mut outputs = Vec::new();
    member.start(&mut MemberCtx { now: NOW, rng: &mut rng, out: &mut outputs });
    let mut registered = false;
    while let Some(output) = (!outputs.is_empty()).then(|| outputs.remove(0)) {
        let MemberOutput::Send(t) = output else {
            registered |= matches!(output, MemberOutput::Update(_));
            continue;
        };
        let marker: &[u8] = if t.via.is_marked_udp() { &[0; 4] } else { &[] };
        let from = SocketAddr::new(inside, t.from.unwrap().port() + shift);
        gateway.receive(NOW, &mut rng, from, t.to, &[marker, &t.bytes].concat());
        while let Some(output) = gateway.poll() {
            match output {
                Output::Job(id, job) => gateway.complete(NOW, &mut rng, id, job.run()),
                Output::Send(t) => {
                    let to = SocketAddr::new(inside, t.to.port() - shift);
                    let dgram = Datagram { from: t.from.unwrap(), to, via: t.via, bytes: &t.bytes };
                    member.receive(&mut MemberCtx { now: NOW, rng: &mut rng, out: &mut outputs }, dgram);
                }
                Output::Persist(_) | Output::Cancel(_) | Output::Close(_) => {}
            }
        }
    }
    assert!(registered);
    let group = gateway.groups(NOW)[0].name.clone();
    gateway.rekey(NOW, &mut rng, &group).unwrap();
    let mut sent = Vec::new();
    while let Some(output) = gateway.poll() {
        match output {
            Output::Job(id, job) => gateway.complete(NOW, &mut rng, id, job.run()),
            Output::Send(t) => sent.push((t.from.map(|f| f.port()), t.to, t.via.is_marked_udp())),
            Output::Persist(_) | Output::Cancel(_) | Output::Close(_) => {}
        }
    }
    assert_eq!(sent, [(Some(4500), SocketAddr::new(inside, 4500 + shift), true)]);
}
