//! Acknowledgements of GSA_REKEY: our own extension (docs/extensions.md).

use std::time::Duration;

use keyferry_model::plan::RekeyReason;
use keyferry_model::update::MemberEvent;
use keyferry_model::view::RekeyView;

use super::support::*;
use crate::wire::registry::ExchangeType;

fn world(wanted: bool) -> World {
    let mut group = policy(false);
    group.gikev2.as_mut().unwrap().options.ack = wanted;
    World::new(group)
}

fn join(world: &mut World, n: u8, able: bool, jitter: u64) -> usize {
    let mut settings = world.settings(n);
    settings.gikev2.ack = able;
    settings.ack_jitter = Duration::from_secs(jitter);
    let at = world.add(settings);
    world.start(at);
    world.run();
    assert!(world.hosts[at].events.contains(&MemberEvent::Registered));
    at
}

fn acks(world: &World) -> Vec<Packet> {
    world.seen.iter().filter(|p| p.exchange() == ExchangeType::REKEY_ACK.0).cloned().collect()
}

fn ledger(world: &World) -> RekeyView {
    world.model.group("g").unwrap().rekey_views().pop().unwrap()
}

/// Nothing is sent unless both sides said so.
#[test]
fn both_sides_must_want_it() {
    for (wanted, able) in [(false, false), (false, true), (true, false)] {
        let mut world = world(wanted);
        let at = join(&mut world, 1, able, 0);
        world.rekey(RekeyReason::Operator, &[]);
        assert!(world.has_newest(at) && acks(&world).is_empty());
        assert_eq!((ledger(&world).expected, world.hosts[at].member.status().acknowledged), (0, 0));
    }
}

#[test]
fn members_acknowledge_by_their_own_keys() {
    let mut world = world(true);
    let all: Vec<usize> = (1..=4).map(|n| join(&mut world, n, n != 4, 0)).collect();
    for round in 1..=2 {
        world.rekey(RekeyReason::Operator, &[]);
        let entry = ledger(&world);
        assert_eq!((entry.expected, entry.acknowledged), (3, 3));
        assert!(all.iter().all(|at| world.has_newest(*at)));
        assert_eq!(world.server.counters().acks, 3 * round);
    }
    // The one that is excluded has nothing to acknowledge; of the two messages the second counts.
    world.rekey(RekeyReason::Eviction, &[identity(2)]);
    let entry = ledger(&world);
    assert_eq!((entry.expected, entry.acknowledged, entry.missing.len()), (2, 2, 0));
    assert_eq!(world.server.counters().unauthenticated, 0);
}

/// Copies of a rekey draw acknowledgements again, for the first may be lost; who is known to have it costs nothing.
#[test]
fn copies_are_acknowledged_and_repeats_cost_no_cryptography() {
    let mut world = world(true);
    let at = join(&mut world, 1, true, 0);
    let mut first = true;
    world.fate = Box::new(move |p| {
        let lost = p.exchange() == ExchangeType::REKEY_ACK.0 && std::mem::take(&mut first);
        usize::from(!lost)
    });
    let message = world.plan(RekeyReason::Operator, &[]).remove(0);
    world.multicast(&message);
    assert_eq!(ledger(&world).acknowledged, 0);
    for _ in 0..3 {
        world.multicast(&message);
    }
    assert_eq!(ledger(&world).acknowledged, 1);
    let counters = world.server.counters();
    assert_eq!((counters.acks, counters.acks_repeated), (1, 2));
    assert_eq!(world.hosts[at].member.status().acknowledged, 4);
}

#[test]
fn acknowledgements_are_spread_over_time() {
    let mut world = world(true);
    for n in 1..=8 {
        join(&mut world, n, true, 2);
    }
    world.rekey(RekeyReason::Operator, &[]);
    assert!(acks(&world).len() < 4);
    world.pass(Duration::from_secs(1));
    let early = acks(&world).len();
    assert!((1..8).contains(&early), "{early}");
    world.pass(Duration::from_secs(1));
    assert_eq!((acks(&world).len(), ledger(&world).acknowledged), (8, 8));
}

/// Nobody acknowledges for another, and what is tampered with draws nothing and changes nothing.
#[test]
fn forged_acknowledgements_are_dropped_in_silence() {
    let mut world = world(true);
    join(&mut world, 1, true, 0);
    join(&mut world, 2, true, 0);
    world.fate = Box::new(|p| usize::from(p.exchange() != ExchangeType::REKEY_ACK.0));
    world.rekey(RekeyReason::Operator, &[]);
    world.fate = Box::new(|_| 1);
    let [first, second] = <[Packet; 2]>::try_from(acks(&world)).unwrap();
    let before = world.seen.len();
    for bytes in variants(&first.bytes) {
        world.deliver(Packet { bytes, ..first.clone() });
    }
    // From another address its sender is not known, and another member's is not taken for it.
    world.deliver(Packet { from: second.from, ..first.clone() });
    assert_eq!((ledger(&world).acknowledged, world.seen.len()), (0, before));
    world.deliver(first);
    world.deliver(second);
    assert_eq!((ledger(&world).acknowledged, world.seen.len()), (2, before));
}

/// Somebody between the two sees acknowledgements of the last rekey, and cannot use them for the next.
#[test]
fn an_acknowledgement_is_of_one_message() {
    let mut world = world(true);
    join(&mut world, 1, true, 0);
    world.rekey(RekeyReason::Operator, &[]);
    let old = acks(&world).remove(0);
    world.fate = Box::new(|p| usize::from(p.exchange() != ExchangeType::REKEY_ACK.0));
    world.rekey(RekeyReason::Operator, &[]);
    world.fate = Box::new(|_| 1);
    world.deliver(old.clone());
    let mut moved = old;
    moved.bytes[23] = 1;
    world.deliver(moved);
    assert_eq!(ledger(&world).acknowledged, 0);
    assert_eq!(world.server.counters().unauthenticated, 1);
}

/// Whoever replays the newest rekey draws no more acknowledgements than repeats can need, whatever else is between them, and
/// the next message is acknowledged again.
#[test]
fn replays_draw_no_crowd_of_acknowledgements() {
    let mut world = world(true);
    let at = join(&mut world, 1, true, 0);
    for round in 1..=2 {
        let message = world.plan(RekeyReason::Operator, &[]).remove(0);
        for _ in 0..20 {
            world.multicast(&message);
        }
        assert_eq!(acks(&world).len(), 4 * round);
        let status = world.hosts[at].member.status();
        assert_eq!((status.acknowledged, status.copies), (4 * round as u64, 19 * round as u64));
    }
    assert_eq!(world.server.counters().acks, 2);
}

/// Copies within the time that an acknowledgement waits cost none of those that may come later.
#[test]
fn copies_that_come_at_once_are_one() {
    let mut world = world(true);
    join(&mut world, 1, true, 2);
    let message = world.plan(RekeyReason::Operator, &[]).remove(0);
    for round in 1..=6 {
        for _ in 0..5 {
            world.multicast(&message);
        }
        world.pass(Duration::from_secs(2));
        assert_eq!(acks(&world).len(), round.min(4));
    }
}
