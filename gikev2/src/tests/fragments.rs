//! Messages in fragments (RFC 7383), both ways and in every exchange after IKE_SA_INIT.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use keyferry_crypto::{KeGroup, Random, SeededRandom};
use keyferry_model::drive::Via;
use keyferry_model::settings::AdditionalKe;
use keyferry_model::update::MemberEvent;
use keyferry_wire::{ChainWriter, Header};

use super::followup::exchanges;
use super::forger::{Forger, first_request};
use super::support::*;
use crate::IkeOptions;
use crate::ike_sa::Preferences;
use crate::ike_sa::sa::Direction;
use crate::wire::registry::{ExchangeType, PayloadKind};
use crate::wire::sk::{Fragment, datagrams};

/// Headers of IPv6, UDP, and a marker.
const HEADERS: usize = 52;

fn world(size: usize, seed: u64) -> (World, usize) {
    let mut config = config();
    config.idle = Duration::from_secs(3600);
    config.ike = IkeOptions { fragment_size: size, ..IkeOptions::default() };
    let ike = config.ike;
    let mut world = World::with(policy(false), config, seed);
    let settings = world.settings(1);
    let at = world.add(settings);
    world.hosts[at].member.set_ike_options(ike);
    (world, at)
}

fn is_fragment(p: &Packet) -> bool {
    p.bytes[16] == PayloadKind::SKF.0
}

/// Fragments in packets of one direction of an exchange.
fn fragments(world: &World, exchange: ExchangeType, response: bool) -> usize {
    let all = world.seen.iter().filter(|p| p.exchange() == exchange.0 && p.is_response() == response);
    all.filter(|p| is_fragment(p)).count()
}

#[test]
fn long_messages_are_cut_up_and_short_ones_are_not() {
    let (mut world, at) = world(300, 1);
    world.start(at);
    world.run();
    assert_eq!(world.hosts[at].events, [MemberEvent::Connected, MemberEvent::Registered]);
    assert!(world.has_newest(at));
    world.start(at);
    world.run();
    assert_eq!(world.server.counters().registered, 2);
    for exchange in [ExchangeType::GSA_AUTH, ExchangeType::GSA_REGISTRATION] {
        for response in [false, true] {
            assert!(fragments(&world, exchange, response) > 1, "{exchange:?} {response}");
        }
    }
    world.leave(at);
    world.run();
    assert_eq!(world.hosts[at].events.last(), Some(&MemberEvent::Left));
    let protected = world.seen.iter().filter(|p| p.exchange() != ExchangeType::IKE_SA_INIT.0);
    assert!(protected.clone().all(|p| p.bytes.len() <= 300 - HEADERS));
    // A Delete and its answer are whole.
    assert_eq!(fragments(&world, ExchangeType::INFORMATIONAL, false), 0);
    // Where packets may be long nothing is cut up.
    let (mut world, at) = self::world(1280, 1);
    world.start(at);
    world.run();
    assert!(world.has_newest(at) && !world.seen.iter().any(is_fragment));
}

/// Every datagram is lost once; each repeat is bitwise what was sent before, all fragments of it.
#[test]
fn lost_fragments_are_repeated_as_they_were() {
    let (mut world, at) = world(300, 2);
    let mut lost = BTreeSet::new();
    world.fate = Box::new(move |p| if lost.insert(p.bytes.clone()) { 0 } else { 1 });
    world.start(at);
    world.pass(Duration::from_secs(20));
    assert_eq!(world.hosts[at].events, [MemberEvent::Connected, MemberEvent::Registered]);
    assert_eq!(world.server.counters().registered, 1);
    let mut sets = BTreeMap::<(bool, u16), BTreeSet<Vec<u8>>>::new();
    for p in world.seen.iter().filter(|p| is_fragment(p)) {
        let fragment = Fragment::of(&p.bytes).unwrap();
        sets.entry((p.is_response(), fragment.number)).or_default().insert(p.bytes.clone());
    }
    assert!(sets.len() > 4 && sets.values().all(|octets| octets.len() == 1));
}

#[test]
fn disorder_and_repetition_do_no_harm() {
    for seed in 0..10 {
        let (mut world, at) = world(300, seed);
        world.fate = Box::new(|_| 2);
        world.start(at);
        let mut dice = SeededRandom::new(seed);
        while !world.wire.is_empty() {
            let n = usize::try_from(dice.below(world.wire.len() as u64)).unwrap();
            let packet = world.wire.remove(n).unwrap();
            world.deliver(packet);
        }
        assert_eq!(world.hosts[at].events, [MemberEvent::Connected, MemberEvent::Registered]);
        assert_eq!(world.server.counters().registered, 1);
    }
}

/// RFC 7383 section 2.6.1: of a request that was answered the first fragment draws the answer again, no other does.
#[test]
fn the_first_fragment_of_a_repeat_draws_the_answer() {
    let (mut world, at) = world(300, 3);
    world.start(at);
    world.run();
    world.start(at);
    world.run();
    for exchange in [ExchangeType::GSA_REGISTRATION] {
        let sent: Vec<Packet> = world.seen.iter().filter(|p| p.exchange() == exchange.0).cloned().collect();
        let (answers, requests): (Vec<Packet>, Vec<Packet>) = sent.into_iter().partition(Packet::is_response);
        for request in requests {
            world.seen.clear();
            world.deliver(request.clone());
            let drawn: Vec<_> = world.seen.iter().map(|p| p.bytes.clone()).collect();
            match Fragment::of(&request.bytes).unwrap().number {
                1 => assert_eq!(drawn, answers.iter().map(|p| p.bytes.clone()).collect::<Vec<_>>()),
                _ => assert!(drawn.is_empty()),
            }
        }
    }
    assert_eq!(world.server.counters().registered, 2);
}

/// Replaced keys take fragments as well.
#[test]
fn an_sa_with_new_keys_takes_fragments() {
    let (mut world, at) = world(300, 4);
    let ike = IkeOptions { lifetime: Duration::from_secs(100), fragment_size: 300, ..IkeOptions::default() };
    world.hosts[at].member.set_ike_options(ike);
    world.start(at);
    world.pass(Duration::from_secs(95));
    assert_eq!(world.server.counters().rekeyed, 1);
    world.seen.clear();
    world.start(at);
    world.run();
    assert!(fragments(&world, ExchangeType::GSA_REGISTRATION, true) > 1);
    assert!(world.has_newest(at));
}

/// So do key exchanges before AUTH, which cover what was sent as if it had never been cut up (RFC 9242 section 3.3.2).
#[test]
fn long_public_values_are_cut_up() {
    let mut config = config();
    config.ike = IkeOptions { fragment_size: 576, ..IkeOptions::default() };
    let ike = config.ike;
    let kem = || vec![AdditionalKe { methods: vec![KeGroup::MlKem1024], required: true }];
    config.preferences.additional = kem();
    let mut world = World::with(policy(false), config, 1);
    let mut settings = world.settings(1);
    settings.ike2.additional = kem();
    let at = world.add(settings);
    world.hosts[at].member.set_ike_options(ike);
    // Each datagram comes twice, and each first one is lost.
    let mut lost = BTreeSet::new();
    world.fate = Box::new(move |p| if lost.insert(p.bytes.clone()) { 0 } else { 2 });
    world.start(at);
    world.pass(Duration::from_secs(20));
    assert_eq!(world.hosts[at].events, [MemberEvent::Connected, MemberEvent::Registered]);
    for response in [false, true] {
        assert!(fragments(&world, ExchangeType::IKE_INTERMEDIATE, response) >= 4);
    }
}

/// Who did not announce them is sent none, and sends none.
#[test]
fn fragments_need_an_announcement() {
    let (mut world, at) = world(300, 5);
    world.start(at);
    world.run();
    world.server.sa_for_test().unwrap().set_limit(None);
    world.seen.clear();
    world.start(at);
    world.run();
    assert!(fragments(&world, ExchangeType::GSA_REGISTRATION, false) > 1);
    assert!(!world.seen.iter().any(Packet::is_response), "nobody put them together");
    assert_eq!(world.server.counters().registered, 1);
}

/// A member that sends impossible, overlapping or endless fragments fills no memory, and may go on.
#[test]
fn hostile_fragments_are_dropped() {
    let (mut world, at) = world(300, 6);
    world.start(at);
    world.run();
    let (from, to) = (world.hosts[at].address, world.gateway);
    let mut rng = SeededRandom::new(8);
    let sa = world.hosts[at].member.sa_for_test().unwrap();
    sa.set_limit(Some(200));
    let mut messages = Vec::new();
    for len in [2_000, 4_000, 30_000, 60_000] {
        let mut chain = ChainWriter::new();
        chain.push(PayloadKind::VENDOR_ID.0, &vec![7; len]);
        let sealed = sa.seal(ExchangeType::INFORMATIONAL, Direction::Request, 2, chain, &mut rng).unwrap();
        messages.push(datagrams(&sealed).iter().map(|d| d.to_vec()).collect::<Vec<_>>());
    }
    let seen = world.seen.len();
    let send =
        |world: &mut World, bytes: Vec<u8>| world.deliver(Packet { from, to, via: Via::Udp, bytes, tainted: false });
    // All but the last of each: none becomes whole, and the larger sets are more than a message may have.
    for set in &messages {
        for bytes in &set[..set.len() - 1] {
            send(&mut world, bytes.clone());
        }
    }
    // The end of a set that was given up for a larger one.
    send(&mut world, messages[0].last().unwrap().clone());
    // Numbers that cannot be.
    for (number, total) in [(0_u16, 3_u16), (4, 3), (0, 0), (1, 65_535)] {
        let mut bytes = messages[0][0].clone();
        bytes[32..34].copy_from_slice(&number.to_be_bytes());
        bytes[34..36].copy_from_slice(&total.to_be_bytes());
        send(&mut world, bytes);
    }
    assert_eq!(world.seen.len(), seen, "nothing was answered");
    // The largest set that is not too large is put together still.
    send(&mut world, messages[1].last().unwrap().clone());
    let (header, _) = Header::decode(&world.seen.last().unwrap().bytes).unwrap();
    assert_eq!((world.seen.len(), header.message_id), (seen + 1, 2));
    assert_eq!(world.server.established(), 1);
}

/// Before anybody has proved who it is, fragments are taken only under the keys of IKE_SA_INIT.
#[test]
fn strangers_send_no_fragments() {
    let (mut world, at) = world(300, 7);
    world.start(at);
    let request = world.wire.pop_front().unwrap();
    world.deliver(request);
    let response = world.wire.pop_front().unwrap();
    let (header, _) = Header::decode(&response.bytes).unwrap();
    for number in 1..=50_u16 {
        let forged = Header { next: PayloadKind::SKF.0, exchange: 39, flags: 8, message_id: 1, ..header };
        let body = [&[35, 0, 0, 108][..], &number.to_be_bytes(), &[0, 50], &[9; 100]].concat();
        let bytes = forged.encode(&body);
        world.deliver(Packet { from: response.to, to: response.from, via: Via::Udp, bytes, tainted: false });
    }
    assert_eq!(world.server.counters().unauthenticated, 50);
    world.wire.push_back(response);
    world.run();
    assert_eq!(world.hosts[at].events, [MemberEvent::Connected, MemberEvent::Registered]);
}

/// Somebody who has not proved who it is gets room for a long certificate chain, and not for more.
#[test]
fn less_is_kept_before_authentication() {
    for (len, taken) in [(20_000, true), (30_000, false)] {
        let (mut world, _) = world(1280, 8);
        let mut forger = Forger::fragmenting(&mut world, "10.0.0.77:848");
        for packet in forger.fragments(&mut world, len) {
            world.deliver(packet);
        }
        // A request without an identity is refused once it is whole.
        assert_eq!(world.server.counters().authentication_failed, u64::from(taken), "{len}");
        assert_eq!(world.wire.is_empty(), !taken);
    }
}

/// Nor do many of them get much together: what waited longest for its rest is thrown away, and may be sent again.
#[test]
fn half_open_sas_share_what_room_there_is() {
    let mut config = config();
    config.half_open_fragments = 40_000;
    let mut world = World::with(policy(false), config, 9);
    let mut sets = Vec::new();
    for n in 1..=3 {
        let mut forger = Forger::fragmenting(&mut world, &format!("10.0.{n}.77:848"));
        sets.push(forger.fragments(&mut world, 15_000));
    }
    for set in &sets {
        for packet in &set[..set.len() - 1] {
            world.deliver(packet.clone());
        }
    }
    for (set, refused) in sets.iter().zip([0, 1, 2]) {
        world.deliver(set[set.len() - 1].clone());
        assert_eq!(world.server.counters().authentication_failed, refused);
    }
    for packet in &sets[0] {
        world.deliver(packet.clone());
    }
    assert_eq!(world.server.counters().authentication_failed, 3);
}

/// What half-open SAs hold goes with them.
#[test]
fn fragments_go_with_their_half_open_sa() {
    let mut config = config();
    config.half_open_fragments = 40_000;
    let mut world = World::with(policy(false), config, 10);
    for round in 0..6 {
        let mut forger = Forger::fragmenting(&mut world, "10.0.0.77:848");
        let set = forger.fragments(&mut world, 20_000);
        for packet in &set[..set.len() - 1] {
            world.deliver(packet.clone());
        }
        if round % 2 == 0 {
            world.pass(Duration::from_secs(31));
            assert_eq!(world.server.fragments_for_test(), 0);
        } else {
            assert!(world.server.fragments_for_test() > 19_000);
            world.deliver(set[set.len() - 1].clone());
            assert_eq!(world.server.fragments_for_test(), 0, "refused");
            world.wire.clear();
        }
    }
}

/// Nor are requests kept without end: no more than there is room for, and none of more than 24 KiB.
#[test]
fn first_requests_are_kept_within_bounds() {
    let mut config = config();
    config.half_open_requests = 52_000;
    let mut world = World::with(policy(false), config, 11);
    let offer = Preferences::default().proposals(true);
    for n in 1..=3 {
        let request = first_request(&mut world, n, &offer, 20_000);
        world.deliver(request);
    }
    assert_eq!((world.wire.len(), world.server.counters().half_open_refused), (2, 1));
    assert!((40_000..52_000).contains(&world.server.requests_for_test()));
    world.pass(Duration::from_secs(31));
    assert_eq!(world.server.requests_for_test(), 0);
    for (n, len, kept) in [(3, 24_600, false), (4, 24_600, false), (5, 20_000, true)] {
        let request = first_request(&mut world, n, &offer, len);
        world.deliver(request);
        assert_eq!(world.server.requests_for_test() > 0, kept, "{len} octets");
    }
    assert_eq!(world.server.counters().half_open_refused, 1, "there was room");
}

/// Those that are being worked upon count as well.
#[test]
fn requests_under_way_are_kept_within_bounds() {
    for (room, registered) in [(2000, 0), (10_000, 1)] {
        let mut config = config();
        (config.half_open_requests, config.preferences.additional) = (room, exchanges(&[KeGroup::MlKem768]));
        let mut world = World::with(policy(false), config, 12);
        let mut settings = world.settings(1);
        settings.ike2.additional = exchanges(&[KeGroup::MlKem768]);
        let at = world.add(settings);
        world.start(at);
        world.hold_jobs = true;
        world.run();
        let first = world.server.requests_for_test();
        assert!(first > 0);
        world.run_jobs();
        world.hold_jobs = true;
        world.run();
        assert_eq!(world.server.requests_for_test() > first + 2400, registered == 1);
        world.run_jobs();
        world.run();
        let counters = world.server.counters();
        assert_eq!((counters.registered, counters.unexpected), (registered, 1 - registered));
        world.pass(Duration::from_secs(60));
        assert!(world.server.requests_for_test() == 0 || registered == 0);
    }
}
