//! Floods of half-open exchanges at scale, of either protocol, from addresses whose owners might well begin one.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::time::Duration;

use keyferry_crypto::{Random, SeededRandom};
use keyferry_model::id::Protocol;
use keyferry_model::update::MemberEvent;
use keyferry_scenarios::fleet::{Fleet, opens_exchange};
use keyferry_scenarios::net::Packet;
use keyferry_scenarios::policy::{Family, NAME, Variant};

const MEMBERS: [u8; 4] = [11, 12, 21, 22];
const FLOOD: u32 = 100_000;
/// In one burst; a tenth of a second lies between two.
const BURST: u32 = 1000;

fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

fn protocol(n: u8) -> Protocol {
    if n < 20 { Protocol::Gdoi } else { Protocol::Gikev2 }
}

fn registered(fleet: &Fleet, n: u8) -> usize {
    fleet.count(n, |e| *e == MemberEvent::Registered)
}

/// The `i`th of the addresses that a peer with a prefix may come from.
fn forged(i: u32) -> SocketAddr {
    SocketAddr::new(IpAddr::from((0x0a80_0001 + i).to_be_bytes()), 848)
}

/// A fleet whose members are all there, and the first message that one of them sent in an exchange of this version.
fn fleet_and_first(seed: u64, version: u8) -> (Fleet, Vec<u8>) {
    let variant = Variant { sender_id_bits: 16, ..Variant::default() };
    let mut fleet = Fleet::new(seed, variant);
    for n in MEMBERS {
        fleet.join([n], protocol(n));
    }
    fleet.run(secs(20));
    let genuine = |p: &&Packet| opens_exchange(&p.bytes) && p.bytes[17] == version;
    let first = fleet.net.log.iter().find(genuine).unwrap().bytes.clone();
    fleet.net.log.clear();
    (fleet, first)
}

/// Sends a first message under other SPIs in the names of many.
fn forge(fleet: &mut Fleet, first: &[u8], numbers: Range<u32>, rng: &mut SeededRandom) {
    for number in numbers {
        let mut bytes = first.to_vec();
        rng.fill(&mut bytes[..8]);
        bytes[0] |= 1;
        fleet.deliver(forged(number), Family::V4.gateway(), &bytes);
    }
}

/// 100,000 main modes from as many addresses, 10,000 a second, each as genuine as a first message can be. Meanwhile a rekey
/// reaches everybody and is acknowledged, and newcomers of both protocols get in.
#[test]
fn a_hundred_thousand_half_open_main_modes_leave_everybody_alone() {
    let (mut fleet, first) = fleet_and_first(8, 0x10);
    let mut rng = SeededRandom::new(7);
    let mut newcomers = Vec::new();
    for burst in 0..FLOOD / BURST {
        forge(&mut fleet, &first, burst * BURST..(burst + 1) * BURST, &mut rng);
        if burst % 20 == 5 {
            for n in [31 + u8::try_from(burst / 20).unwrap(), 41 + u8::try_from(burst / 20).unwrap()] {
                fleet.join([n], if n < 40 { Protocol::Gdoi } else { Protocol::Gikev2 });
                newcomers.push(n);
            }
        }
        if burst == 50 {
            fleet.command(|g, now, rng| g.rekey(now, rng, NAME)).unwrap();
        }
        fleet.run(Duration::from_millis(100));
    }
    // Every one of them was taken for genuine: it has an answer.
    let to_forged = |p: &&Packet| Family::V4.elsewhere().contains(p.to.ip());
    let answers: Vec<&Packet> = fleet.net.log.iter().filter(to_forged).collect();
    let answered: BTreeSet<SocketAddr> = answers.iter().map(|p| p.to).collect();
    assert_eq!(answered.len(), FLOOD as usize);
    // No address draws more than message 2, nor a longer one than it sent.
    assert_eq!(answers.len(), FLOOD as usize);
    assert!(answers.iter().all(|p| p.bytes.len() <= first.len()));

    fleet.run(secs(40));
    for n in MEMBERS {
        assert_eq!(registered(&fleet, n), 1, "{n}: {:?}", fleet.nodes[&n].events);
        assert_eq!(fleet.count(n, |e| matches!(e, MemberEvent::Rekeyed { .. })), 1);
    }
    for n in &newcomers {
        assert_eq!(registered(&fleet, *n), 1, "{n}: {:?}", fleet.nodes[n].events);
    }
    let rekeys = fleet.gateway.as_ref().unwrap().rekeys(NAME).unwrap();
    let last = rekeys.last().unwrap();
    assert!(last.expected >= 2 && last.acknowledged == last.expected, "{last:?}");
    let all: Vec<u8> = MEMBERS.into_iter().chain(newcomers).collect();
    fleet.all_hear(&all).unwrap();
}

/// 50,000 IKE_SA_INIT requests from as many addresses, 5,000 a second: soon each but a few is only asked for a cookie, which is
/// shorter than what it answers. Meanwhile a rekey reaches everybody, and newcomers return their
/// cookies and get in.
#[test]
fn spoofed_first_messages_of_ikev2_bring_on_cookies_and_leave_everybody_alone() {
    const FLOOD: u32 = 50_000;
    const BURST: u32 = 500;
    let (mut fleet, first) = fleet_and_first(9, 0x20);
    let mut rng = SeededRandom::new(7);
    let mut newcomers = Vec::new();
    for burst in 0..FLOOD / BURST {
        forge(&mut fleet, &first, burst * BURST..(burst + 1) * BURST, &mut rng);
        if burst % 20 == 5 {
            let n = 41 + u8::try_from(burst / 20).unwrap();
            fleet.join([n], Protocol::Gikev2);
            newcomers.push(n);
        }
        if burst == 50 {
            fleet.command(|g, now, rng| g.rekey(now, rng, NAME)).unwrap();
        }
        fleet.run(Duration::from_millis(100));
    }
    let counters = fleet.gateway.as_ref().unwrap().counters().1.clone();
    assert!(counters.cookies_demanded > u64::from(FLOOD) * 9 / 10, "{counters:?}");
    assert_eq!(counters.half_open_refused, 0, "nobody that returns its cookie is turned away");
    // Nobody draws more than one answer, and none is longer than what it answers but for those that were taken for genuine.
    let to_forged = |p: &&Packet| Family::V4.elsewhere().contains(p.to.ip());
    let answers: Vec<&Packet> = fleet.net.log.iter().filter(to_forged).collect();
    assert!(answers.len() <= FLOOD as usize);
    let longer = answers.iter().filter(|p| p.bytes.len() > 100).count();
    assert!(longer < (FLOOD / 10) as usize, "{longer}");

    fleet.run(secs(40));
    for n in MEMBERS {
        assert_eq!(registered(&fleet, n), 1, "{n}: {:?}", fleet.nodes[&n].events);
        assert_eq!(fleet.count(n, |e| matches!(e, MemberEvent::Rekeyed { .. })), 1);
    }
    for n in &newcomers {
        assert_eq!(registered(&fleet, *n), 1, "{n}: {:?}", fleet.nodes[n].events);
    }
    let all: Vec<u8> = MEMBERS.into_iter().chain(newcomers).collect();
    fleet.all_hear(&all).unwrap();
    // When it is over the half-open SAs go, and nobody is asked for a cookie any more.
    fleet.join([51], Protocol::Gikev2);
    fleet.run(secs(5));
    assert_eq!(registered(&fleet, 51), 1);
    let after = fleet.gateway.as_ref().unwrap().counters().1.clone();
    assert_eq!(after.cookies_demanded, counters.cookies_demanded, "{after:?}");
}
