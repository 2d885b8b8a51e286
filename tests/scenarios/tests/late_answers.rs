//! Members whose answers to their registrations are lost, and that get them only when they are older than a rekey.
#![allow(clippy::unwrap_used)]

use std::net::SocketAddr;
use std::time::Duration;

use keyferry_gateway::Delete;
use keyferry_model::id::{Identity, Protocol};
use keyferry_model::policy::{BackwardAccess, BackwardScope, GroupPolicy, KekManagement, RekeyTransport, Retransmit};
use keyferry_model::update::MemberEvent;
use keyferry_scenarios::fleet::Fleet;
use keyferry_scenarios::net::Nat;
use keyferry_scenarios::policy::{self, NAME, Variant};

const OLD: [u8; 4] = [11, 12, 21, 22];
const NEW: [(u8, Protocol); 2] = [(14, Protocol::Gdoi), (24, Protocol::Gikev2)];

fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

fn variants() -> [Variant; 4] {
    let plain = Variant { no_acks: true, ..Variant::default() };
    [
        Variant::default(),
        plain,
        Variant { management: KekManagement::None, ..Variant::default() },
        Variant { no_acks: true, ..Variant::other() },
    ]
}

fn registered(fleet: &Fleet) -> u64 {
    let (gdoi, gikev2, _) = fleet.gateway.as_ref().unwrap().counters();
    gdoi.registered + gikev2.registered
}

fn repeated(fleet: &Fleet) -> u64 {
    let (gdoi, gikev2, _) = fleet.gateway.as_ref().unwrap().counters();
    gdoi.repeated + gikev2.repeated
}

fn assembled(seed: u64, variant: Variant, policy: GroupPolicy) -> Fleet {
    let mut fleet = Fleet::with_policy(seed, variant, policy);
    fleet.join(OLD[..2].iter().copied(), Protocol::Gdoi);
    fleet.join(OLD[2..].iter().copied(), Protocol::Gikev2);
    fleet.run(secs(40));
    fleet.all_hear(&OLD).unwrap();
    fleet
}

/// Members join, and nothing reaches them from when they have been answered with keys.
fn join_unanswered(fleet: &mut Fleet, members: &[(u8, Protocol)]) {
    for (n, protocol) in members {
        let before = registered(fleet);
        fleet.join([*n], *protocol);
        let done = (0..1000).any(|_| {
            fleet.run(Duration::from_millis(1));
            registered(fleet) > before
        });
        assert!(done, "{n} registers");
        fleet.deaf.insert(*n);
    }
}

/// The newest request of a member, as whoever sees it may replay it: from where, and what.
fn request(fleet: &Fleet, n: u8) -> (SocketAddr, Vec<u8>) {
    let last = fleet.net.log.iter().rev().find(|p| fleet.number_of(p.from.ip()) == Some(n)).unwrap();
    (last.from, last.bytes.clone())
}

/// What was sent to a member alone since then.
fn to_member(fleet: &Fleet, n: u8, since: usize) -> usize {
    fleet.net.log[since..].iter().filter(|p| fleet.number_of(p.to.ip()) == Some(n)).count()
}

/// The answer comes when all copies of the rekey are gone, and tells keys that are in use no more.
#[test]
fn who_gets_an_answer_older_than_a_rekey_gets_that_too() {
    for (seed, variant) in (0..).zip(variants()) {
        let guarded = |scope| Some(BackwardAccess { scope, gathering: secs(2) });
        for backward_access in [None, guarded(BackwardScope::Data), guarded(BackwardScope::Full)] {
            let policy = GroupPolicy { backward_access, ..policy::group(variant) };
            let mut fleet = assembled(seed, variant, policy);
            let all: Vec<u8> = OLD.into_iter().chain(NEW.map(|(n, _)| n)).collect();
            join_unanswered(&mut fleet, &NEW);
            fleet.command(|g, now, rng| g.rekey(now, rng, NAME)).unwrap();
            fleet.run(secs(9));
            fleet.deaf.clear();
            fleet.run(secs(20));
            // They hear everybody from when they have the answer, and are heard as soon as everybody uses what they use.
            fleet.all_hear(&all).unwrap_or_else(|e| panic!("{variant:?} {backward_access:?}: {e}"));
            for (n, _) in NEW {
                assert_eq!(fleet.count(n, |e| *e == MemberEvent::Registered), 1);
            }
        }
    }
}

/// An eviction is two messages under two rekey SAs, and there may be another rekey behind it.
#[test]
fn all_rekeys_that_it_missed_come_in_their_order() {
    for (seed, variant) in (0..).zip(variants()) {
        let mut fleet = assembled(seed, variant, policy::group(variant));
        join_unanswered(&mut fleet, &NEW);
        // Where nobody can be left out, the others register anew and these with them.
        let evicted = if variant.management == KekManagement::None { 22 } else { 12 };
        let member = Identity::from_ip(variant.family.host(evicted));
        fleet.command(|g, now, rng| g.evict(now, rng, NAME, &member)).unwrap();
        fleet.run(secs(1));
        fleet.command(|g, now, rng| g.rekey(now, rng, NAME)).unwrap();
        fleet.run(secs(9));
        fleet.deaf.clear();
        fleet.run(secs(60));
        let all: Vec<u8> = [11, 12, 21, 22, 14, 24].into_iter().filter(|n| *n != evicted).collect();
        fleet.all_hear(&all).unwrap_or_else(|e| panic!("{variant:?}: {e}"));
    }
}

/// Rekeys to each member alone go where it registered from, also when it had not got the answer yet.
#[test]
fn it_is_the_same_where_rekeys_are_unicast() {
    let variant = Variant::default();
    let mut policy = policy::group(variant);
    policy.gdoi.as_mut().unwrap().transport = RekeyTransport::Unicast;
    let mut fleet = assembled(6, variant, policy);
    join_unanswered(&mut fleet, &NEW);
    fleet.command(|g, now, rng| g.rekey(now, rng, NAME)).unwrap();
    fleet.run(secs(9));
    fleet.deaf.clear();
    fleet.run(secs(20));
    fleet.all_hear(&[11, 12, 21, 22, 14, 24]).unwrap();
}

/// Through the port that the translator has given the member, which is where the answer goes.
#[test]
fn it_is_the_same_behind_a_nat() {
    let variant = Variant { no_acks: true, ..Variant::default() };
    let mut fleet = Fleet::new(9, variant);
    fleet.nats.insert(24, Nat::new([203, 0, 113, 24].into()));
    fleet.join(OLD[..2].iter().copied(), Protocol::Gdoi);
    fleet.join(OLD[2..].iter().copied(), Protocol::Gikev2);
    fleet.run(secs(40));
    join_unanswered(&mut fleet, &NEW[1..]);
    fleet.command(|g, now, rng| g.rekey(now, rng, NAME)).unwrap();
    fleet.run(secs(9));
    fleet.deaf.clear();
    fleet.run(secs(20));
    fleet.all_hear(&[11, 12, 21, 22, 24]).unwrap();
    assert_eq!(fleet.count(24, |e| *e == MemberEvent::Registered), 1);
}

/// Whoever replays a request draws its answer as before, and the member alone gets of a rekey no more than its copies a few
/// times, never more often than these come.
#[test]
fn replays_draw_few_copies_to_the_member_alone() {
    let variant = Variant { no_acks: true, ..Variant::default() };
    let retransmit = Retransmit { copies: 3, interval: Duration::from_millis(500) };
    for (n, protocol) in NEW {
        let mut fleet = assembled(7, variant, GroupPolicy { retransmit, ..policy::group(variant) });
        join_unanswered(&mut fleet, &[(n, protocol)]);
        let (from, request) = request(&fleet, n);
        fleet.deaf.clear();
        fleet.run(secs(3));
        // How many answers so many replays draw, and what else comes to the member meanwhile.
        let replay = |fleet: &mut Fleet, times: u32| {
            let (since, answers) = (fleet.net.log.len(), repeated(fleet));
            for _ in 0..times {
                fleet.deliver(from, variant.family.gateway(), &request);
                fleet.run(Duration::from_millis(100));
            }
            let answers = usize::try_from(repeated(fleet) - answers).unwrap();
            (answers, to_member(fleet, n, since) - answers)
        };
        // Nothing is newer than the answer: that alone is repeated.
        assert_eq!(replay(&mut fleet, 5), (5, 0), "{protocol}");
        fleet.command(|g, now, rng| g.rekey(now, rng, NAME)).unwrap();
        assert_eq!(replay(&mut fleet, 1), (1, 1), "{protocol}: the first copy at once");
        assert_eq!(replay(&mut fleet, 19), (19, 4), "{protocol}: then one each half second");
        let since = fleet.net.log.len();
        fleet.run(secs(4));
        assert_eq!(to_member(&fleet, n, since), 3, "{protocol}: one run from the last replay on");
        assert_eq!(replay(&mut fleet, 100), (100, 8), "{protocol}: four runs altogether");
        fleet.all_hear(&[11, 12, 21, 22, n]).unwrap();
    }
}

/// Keys that are deleted under way are none to keep.
#[test]
fn who_is_dismissed_meanwhile_learns_that_and_registers_anew() {
    for (seed, variant) in (0..).zip(variants()) {
        for what in [Delete::Teks, Delete::Kek, Delete::All] {
            let mut fleet = assembled(seed, variant, policy::group(variant));
            join_unanswered(&mut fleet, &NEW);
            fleet.command(|g, now, rng| g.delete(now, rng, NAME, what)).unwrap();
            fleet.run(secs(9));
            fleet.deaf.clear();
            fleet.run(secs(120));
            fleet.all_hear(&[11, 12, 21, 22, 14, 24]).unwrap_or_else(|e| panic!("{variant:?} {what:?}: {e}"));
        }
    }
}

/// What was evicted meanwhile draws its old answer, and nothing newer.
#[test]
fn an_evicted_member_draws_no_rekey() {
    for (n, protocol) in NEW {
        let variant = Variant { no_acks: true, ..Variant::default() };
        let mut fleet = assembled(8, variant, policy::group(variant));
        join_unanswered(&mut fleet, &[(n, protocol)]);
        let (from, request) = request(&fleet, n);
        let member = Identity::from_ip(variant.family.host(n));
        fleet.command(|g, now, rng| g.evict(now, rng, NAME, &member)).unwrap();
        let (since, answers) = (fleet.net.log.len(), repeated(&fleet));
        fleet.run(secs(1));
        fleet.deliver(from, variant.family.gateway(), &request);
        fleet.run(secs(4));
        assert!(repeated(&fleet) > answers);
        assert_eq!(to_member(&fleet, n, since) as u64, repeated(&fleet) - answers, "{protocol}");
    }
}
