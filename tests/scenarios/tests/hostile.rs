//! Anybody may send anything: whole runs under tampering, forgery and floods.
#![allow(clippy::unwrap_used)]

use std::net::SocketAddr;
use std::time::Duration;

use keyferry_crypto::{Random, SeededRandom};
use keyferry_model::id::Protocol;
use keyferry_model::update::MemberEvent;
use keyferry_scenarios::fleet::{Fleet, alterations, opens_exchange};
use keyferry_scenarios::net::Packet;
use keyferry_scenarios::policy::{NAME, Variant};

const BOTH: [(u8, Protocol); 2] = [(11, Protocol::Gdoi), (21, Protocol::Gikev2)];
/// Each bit, and all.
const EVERY_BIT: [u8; 9] = [0x01, 0x02, 0x04, 0x08, 0x10, 0x20, 0x40, 0x80, 0xff];
/// The lowest bit, the highest, and all.
const FEW: [u8; 3] = [0x01, 0x80, 0xff];
const ALL: [u8; 2] = [11, 21];

fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

fn whole_run(fleet: &mut Fleet) {
    for (n, protocol) in BOTH {
        fleet.join([n], protocol);
        fleet.run(secs(20));
    }
    fleet.all_hear(&ALL).unwrap();
    rekeys_still_work(fleet);
}

fn rekeys_still_work(fleet: &mut Fleet) {
    fleet.command(|g, now, rng| g.rekey(now, rng, NAME)).unwrap();
    fleet.run(secs(40));
    fleet.all_hear(&ALL).unwrap();
    let rekeys = fleet.gateway.as_ref().unwrap().rekeys(NAME).unwrap();
    assert_eq!(rekeys.last().map(|r| (r.expected, r.acknowledged)), Some((1, 1)));
}

fn first_messages(fleet: &Fleet) -> Vec<Packet> {
    let first: Vec<Packet> = fleet.net.log.iter().filter(|p| opens_exchange(&p.bytes)).cloned().collect();
    assert!(first.len() >= 2, "one of each protocol");
    first
}

/// Before each message of an exchange, its receiver gets every truncation and every change of one octet of it. The run ends as
/// if nothing had happened.
#[test]
fn altered_messages_change_nothing() {
    for (variant, masks) in [(Variant::default(), EVERY_BIT.to_vec()), (Variant::other(), FEW.to_vec())] {
        let mut fleet = Fleet::new(1, variant);
        fleet.tamper = masks;
        whole_run(&mut fleet);
        for n in ALL {
            assert_eq!(fleet.count(n, |e| *e == MemberEvent::Registered), 1);
            assert_eq!(fleet.count(n, |e| matches!(e, MemberEvent::Rekeyed { .. })), 1);
            assert_eq!(fleet.count(n, |e| matches!(e, MemberEvent::Refused(_) | MemberEvent::Unanswered)), 0);
        }
        // Copies of message 3 with other NAT-D payloads, which nothing protects, are repeats of it and answered as such: else
        // whoever alters one first would keep the genuine one from its answer.
        assert!(fleet.drawn < 1000, "{} answers drawn from the gateway", fleet.drawn);
    }
}

/// What anybody can send without having been answered before: altered first messages, from many addresses. Registered
/// members and rekeys do not notice, and afterwards newcomers are let in.
#[test]
fn altered_first_messages_keep_nobody_out() {
    let variant = Variant::default();
    let mut fleet = Fleet::new(2, variant);
    whole_run(&mut fleet);
    let first = first_messages(&fleet);
    let mut rng = SeededRandom::new(9);
    for packet in first {
        for bytes in alterations(&packet.bytes, &FEW) {
            let host = u8::try_from(30 + rng.below(200)).unwrap();
            let from = SocketAddr::new(variant.family.host(host), 848);
            fleet.deliver(from, packet.to, &bytes);
        }
    }
    rekeys_still_work(&mut fleet);
    fleet.run(secs(120));
    fleet.join([12], Protocol::Gdoi);
    fleet.join([22], Protocol::Gikev2);
    fleet.run(secs(60));
    fleet.all_hear(&[11, 12, 21, 22]).unwrap();
}

/// Each message of a run comes again later, to gateway and members: nothing is installed, counted or answered anew.
#[test]
fn what_is_replayed_changes_nothing() {
    let variant = Variant::default();
    let mut fleet = Fleet::new(3, variant);
    whole_run(&mut fleet);
    let events = |fleet: &Fleet| ALL.map(|n| fleet.nodes[&n].events.len());
    let sas = |fleet: &Fleet| ALL.map(|n| fleet.nodes[&n].sad.status().sas.len());
    let members = |fleet: &Fleet| {
        let views = fleet.gateway.as_ref().unwrap().members(None).unwrap();
        views.iter().map(|(_, m)| (m.registrations, m.acknowledged, m.sender_ids.clone())).collect::<Vec<_>>()
    };
    let before = (events(&fleet), sas(&fleet), members(&fleet));
    for packet in fleet.net.log.clone() {
        fleet.deliver(packet.from, packet.to, &packet.bytes);
    }
    fleet.run(secs(60));
    assert_eq!((events(&fleet), sas(&fleet), members(&fleet)), before);
    fleet.all_hear(&ALL).unwrap();
}

/// Random octets in the shape of messages.
#[test]
fn noise_is_survived() {
    let variant = Variant::default();
    let mut fleet = Fleet::new(4, variant);
    whole_run(&mut fleet);
    let mut rng = SeededRandom::new(5);
    let from = SocketAddr::new(variant.family.host(66), 848);
    for i in 0..20_000u32 {
        let len = usize::try_from(rng.below(200)).unwrap();
        let mut bytes = vec![0; len];
        rng.fill(&mut bytes);
        if i % 2 == 0 && len >= 28 {
            // A sound header, so that what is behind it is looked at.
            bytes[17] = if i % 4 == 0 { 0x10 } else { 0x20 };
            bytes[18] = [2, 5, 32, 33, 34, 35, 37, 39, 40, 41][usize::try_from(rng.below(10)).unwrap()];
            bytes[24..28].copy_from_slice(&u32::try_from(len).unwrap().to_be_bytes());
        }
        let to = match i % 3 {
            0 => variant.family.gateway(),
            1 => SocketAddr::new(variant.family.host(11), 848),
            _ => SocketAddr::new(variant.family.host(21), 848),
        };
        fleet.deliver(from, to, &bytes);
    }
    rekeys_still_work(&mut fleet);
}

/// Ten thousand half-open exchanges from as many addresses: registered members and rekeys do not notice.
#[test]
fn a_flood_of_half_open_exchanges_leaves_rekeys_alone() {
    let variant = Variant::default();
    let mut fleet = Fleet::new(6, variant);
    whole_run(&mut fleet);
    let first = first_messages(&fleet);
    let mut rng = SeededRandom::new(7);
    for i in 0..10_000u32 {
        let packet = &first[usize::try_from(i).unwrap() % first.len()];
        let mut bytes = packet.bytes.clone();
        rng.fill(&mut bytes[..8]);
        bytes[0] |= 1;
        let from =
            SocketAddr::from(([172, 16, u8::try_from(i >> 8).unwrap_or(0), u8::try_from(i & 0xff).unwrap()], 848));
        fleet.deliver(from, packet.to, &bytes);
    }
    rekeys_still_work(&mut fleet);
}
