//! Pushes and registrations that overtake each other, Deletes, and policies that a member cannot take.
#![allow(clippy::unwrap_used)]

mod support;

use std::sync::Arc;

use keyferry_crypto::{Hash, SeededRandom};
use keyferry_model::plan::{Deletion, RekeyReason, RekeyStep};
use keyferry_model::policy::{AckType, EspMode};
use keyferry_model::update::{MemberEvent, Removal};
use support::{Bench, GROUP, Packet, Setup, host, policy, secs};

fn registered(bench: &Bench) -> usize {
    bench.nodes[&10].count(|e| *e == MemberEvent::Registered)
}

/// The push that changes the KEK is lost, the member registers anew, and then the push comes after all: it is
/// acknowledged, and changes nothing.
#[test]
fn a_push_that_a_registration_has_overtaken_is_only_acknowledged() {
    for reason in [RekeyReason::Lifetime, RekeyReason::Eviction] {
        let setup = Setup { ack: Some(AckType::Lkh(Hash::Sha256)), ..Setup::default() };
        let mut short = policy(setup);
        short.kek_lifetime = secs(700);
        let mut bench = Bench::with_policy(setup, short, |_| {});
        bench.add(10);
        bench.add(11);
        bench.settle();
        bench.run(secs(150));
        let evicted: &[u8] = if reason == RekeyReason::Eviction { &[11] } else { &[] };
        let (plan, messages) = bench.plan(reason, evicted);
        bench.nodes.remove(&11);
        bench.member(10, |m, ctx| m.start(ctx));
        bench.settle();
        assert_eq!(registered(&bench), 2);
        let (updates, events) = (bench.nodes[&10].updates.len(), bench.nodes[&10].events.len());
        let status = bench.nodes[&10].member.status();
        bench.send_pushes(&messages[..1]);
        bench.run(secs(5));
        let node = &bench.nodes[&10];
        let counter = plan.steps[0].counter;
        assert!(node.events[events..].contains(&MemberEvent::Acknowledged { counter }), "{:?}", node.events);
        assert_eq!(node.count(|e| matches!(e, MemberEvent::Refused(_) | MemberEvent::Excluded)), 0, "{reason:?}");
        assert_eq!(node.updates.len(), updates, "{reason:?}");
        assert_eq!(node.member.status().rekey_spi, status.rekey_spi);
        assert_eq!(node.count(|e| matches!(e, MemberEvent::Rekeyed { .. })), 0);
        bench.run(secs(60));
        assert_eq!(registered(&bench), 2, "no need to register");
        assert_eq!(bench.server.counters().ack_failed, 0);
    }
}

/// So is a push that has deleted everything before the member registered anew.
#[test]
fn an_overtaken_reset_does_not_throw_a_member_out() {
    let mut bench = Bench::new(Setup::default());
    bench.add(10);
    bench.settle();
    let (_, messages) = bench.plan(RekeyReason::Reset, &[]);
    bench.member(10, |m, ctx| m.start(ctx));
    bench.settle();
    bench.send_pushes(&messages);
    bench.run(secs(5));
    let node = &bench.nodes[&10];
    assert_eq!((node.flushed, node.count(|e| *e == MemberEvent::Excluded)), (0, 0));
    assert_eq!(registered(&bench), 2);
}

/// A push overtakes message 4 of a registration: the number told is stale, and so are the keys, beside which the newer
/// ones stay.
#[test]
fn a_registration_that_a_push_has_overtaken_takes_nothing_back() {
    let mut bench = Bench::new(Setup::default());
    bench.add(10);
    bench.settle();
    let (_, early) = bench.plan(RekeyReason::Operator, &[]);
    bench.member(10, |m, ctx| m.start(ctx));
    let (mut answers, mut message4) = (0, None);
    let mut net = |packet: &Packet| {
        if packet.bytes[18] == 32 && packet.from == host(false, 1) {
            answers += 1;
            if answers == 2 {
                message4 = Some(packet.clone());
                return Vec::new();
            }
        }
        vec![packet.clone()]
    };
    bench.settle_through(&mut net);
    let plan = bench.rekey(RekeyReason::Operator, &[]);
    bench.settle();
    assert_eq!(bench.nodes[&10].member.status().last_counter, 2);
    bench.deliver(&message4.unwrap());
    bench.settle();
    assert_eq!(registered(&bench), 2);
    assert_eq!(bench.nodes[&10].member.status().last_counter, 2, "the stale number is ignored");
    let update = bench.nodes[&10].updates.last().unwrap();
    let newest = plan.steps[0].new_epoch.as_ref().unwrap().sas[0].spi;
    assert!(update.install.iter().all(|sa| sa.spi != newest));
    assert_eq!(update.remove, Removal::Spis(Vec::new()), "the newer SA stays");
    let updates = bench.nodes[&10].updates.len();
    bench.send_pushes(&early);
    bench.run(secs(2));
    assert_eq!(bench.nodes[&10].updates.len(), updates);
}

fn step(bench: &Bench, delete: Deletion) -> RekeyStep {
    let now = bench.now();
    let offer = bench
        .model
        .offer(
            &support::policy(bench.setup).ids[0],
            &bench.model.group(GROUP).unwrap().member_views()[0].identity,
            None,
            keyferry_model::id::Protocol::Gdoi,
            now,
        )
        .unwrap();
    RekeyStep {
        protocol: keyferry_model::id::Protocol::Gdoi,
        over: Arc::clone(&offer.rekey),
        counter: 1,
        new_rekey: None,
        new_epoch: None,
        delete,
        activation_delay: secs(0),
        deactivation_delay: secs(0),
        streams: keyferry_model::stream::StreamStep::default(),
        counted_from: now.wall,
        policy: offer.policy,
    }
}

/// All data SAs are deleted, the rekey SA is not: the member stays, and follows the next push.
#[test]
fn without_data_sas_a_member_still_follows_pushes() {
    let mut bench = Bench::new(Setup::default());
    bench.add(10);
    bench.settle();
    let own = bench.nodes[&10].updates[0].install[0].spi;
    // All by the number that stands for all, or each by its own.
    for (i, delete) in [vec![0], vec![own]].into_iter().enumerate() {
        let mut only = step(&bench, Deletion::Spis(delete.clone()));
        only.counter = u32::try_from(i).unwrap() + 1;
        let push = gdoi::push::render(&policy(bench.setup), &only, &mut SeededRandom::new(1)).unwrap();
        bench.send_pushes(&[push]);
        bench.run(secs(2));
        let node = &bench.nodes[&10];
        assert_eq!((node.flushed, node.count(|e| *e == MemberEvent::Excluded)), (0, 0));
        let expected = if i == 0 { Removal::All } else { Removal::Spis(delete) };
        let last = node.updates.last().unwrap();
        assert_eq!((last.install.len(), &last.remove), (0, &expected));
        assert_eq!(node.member.status().state, "registered");
    }
    // Nothing runs out now but the rekey SA, after a day.
    bench.run(secs(7200));
    assert_eq!(registered(&bench), 1);
    // Deleting the rekey SA too is the end.
    let mut all = step(&bench, Deletion::Everything);
    all.counter = 3;
    let push = gdoi::push::render(&policy(bench.setup), &all, &mut SeededRandom::new(1)).unwrap();
    bench.send_pushes(&[push]);
    bench.settle();
    assert_eq!(bench.nodes[&10].flushed, 1);
}

/// A policy that the member does not take: it deletes phase 1, says why, and comes back later.
#[test]
fn an_unacceptable_policy_ends_in_a_delete_of_phase_1() {
    let setup = Setup::default();
    let mut mixed = policy(setup);
    let mut other = (*mixed.traffic[0]).clone();
    other.mode = EspMode::Transport;
    other.destination.address = "239.192.0.2".parse().unwrap();
    mixed.traffic.push(Arc::new(other));
    let mut bench = Bench::with_policy(setup, mixed, |_| {});
    bench.add(10);
    bench.settle();
    let node = &bench.nodes[&10];
    assert_eq!(node.count(|e| matches!(e, MemberEvent::Refused(_))), 1);
    assert!(node.updates.is_empty());
    assert_eq!(node.member.status().state, "waiting");
    let last = bench.log.last().unwrap();
    assert_eq!((last.bytes[18], last.from), (5, host(false, 10)), "an Informational exchange");
    assert_eq!((bench.server.counters().closed, bench.server.counters().registered), (1, 0));
    bench.run(secs(21));
    assert_eq!(bench.server.counters().established, 2);
}
