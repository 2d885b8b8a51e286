//! IKE_FOLLOWUP_KE (RFC 9370 section 2.2.4): new keys of an IKE SA by several key exchanges, asked for by either end, by both at
//! once, with loss, in fragments, beside rekeys in band, and after a postquantum preshared key.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use keyferry_crypto::{Job, KeGroup, Random, Secret, SeededRandom};
use keyferry_model::plan::RekeyReason;
use keyferry_model::policy::{GroupPolicy, InBand};
use keyferry_model::settings::{AdditionalKe, Ppk};
use keyferry_model::update::MemberEvent;

use super::support::*;
use crate::IkeOptions;
use crate::ike_sa::window::Backoff;
use crate::wire::registry::{ExchangeType, PayloadKind};

const HOUR: Duration = Duration::from_secs(3600);
const REKEY: u8 = ExchangeType::CREATE_CHILD_SA.0;
const FOLLOW_UP: u8 = ExchangeType::IKE_FOLLOWUP_KE.0;
const INFORMATIONAL: u8 = ExchangeType::INFORMATIONAL.0;

pub(super) fn exchanges(methods: &[KeGroup]) -> Vec<AdditionalKe> {
    methods.iter().map(|m| AdditionalKe { methods: vec![*m], required: false }).collect()
}

/// Who wants new keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Wish {
    pub(super) server: bool,
    pub(super) member: bool,
}

pub(super) const NOBODY: Wish = Wish { server: false, member: false };

/// New keys each thousand seconds, and nothing is cut up.
fn usual() -> IkeOptions {
    IkeOptions { lifetime: Duration::from_secs(1000), fragment_size: 65_535, ..IkeOptions::default() }
}

/// A group in which nothing happens for two days.
fn quiet() -> GroupPolicy {
    GroupPolicy { tek_lifetime: 48 * HOUR, kek_lifetime: 48 * HOUR, ..policy(false) }
}

/// A member and a key server with these additional key exchanges, registered.
pub(super) fn kept(wish: Wish, methods: &[KeGroup], seed: u64) -> (World, usize) {
    kept_with(quiet(), wish, methods, usual(), seed)
}

fn kept_with(policy: GroupPolicy, wish: Wish, methods: &[KeGroup], ike: IkeOptions, seed: u64) -> (World, usize) {
    let lifetime = |wants| if wants { ike.lifetime } else { 24 * HOUR };
    let mut config = config();
    config.idle = 24 * HOUR;
    config.backoff = Backoff { first: Duration::from_millis(500), tries: 7 };
    config.ike = IkeOptions { lifetime: lifetime(wish.server), ..ike };
    config.preferences.additional = exchanges(methods);
    let mut world = World::with(policy, config, seed);
    let mut settings = world.settings(1);
    settings.tries = 7;
    settings.ike2.additional = exchanges(methods);
    let at = world.add(settings);
    world.hosts[at].member.set_ike_options(IkeOptions { lifetime: lifetime(wish.member), ..ike });
    world.start(at);
    world.run();
    assert_eq!(world.hosts[at].events.last(), Some(&MemberEvent::Registered));
    world.seen.clear();
    (world, at)
}

/// Another registration over the present SA, whose GSK_w both ends must have.
pub(super) fn registers_again(world: &mut World, at: usize) {
    let before = (world.server.counters().registered, world.server.counters().initiations);
    world.hosts[at].sas.clear();
    world.start(at);
    world.run();
    assert_eq!((world.server.counters().registered, world.server.counters().initiations), (before.0 + 1, before.1));
    assert_eq!(world.hosts[at].events.last(), Some(&MemberEvent::Registered));
    assert!(world.has_newest(at));
}

pub(super) fn methods(world: &mut World) -> Vec<KeGroup> {
    world.server.sa_for_test().unwrap().suite.further().collect()
}

/// Exchanges of requests and answers, in their order.
fn seen(world: &World) -> Vec<u8> {
    world.seen.iter().map(Packet::exchange).collect()
}

fn requests(world: &World, exchange: u8, from_server: bool) -> usize {
    let all = world.seen.iter().filter(|p| p.exchange() == exchange && !p.is_response());
    all.filter(|p| (p.from == world.gateway) == from_server).count()
}

#[test]
fn either_end_follows_up() {
    let all: [&[KeGroup]; 4] = [
        &[KeGroup::MlKem768],
        &[KeGroup::MlKem1024, KeGroup::Ecp384],
        &[KeGroup::MlKem512, KeGroup::MlKem768, KeGroup::Brainpool256],
        &[KeGroup::Ecp256],
    ];
    for server in [true, false] {
        for exchanges in all {
            let (mut world, at) = kept(Wish { server, member: !server }, exchanges, 5);
            let (keys, mine) = (Lines::default(), Lines::default());
            world.server.set_key_log(Box::new(keys.clone()));
            world.hosts[at].member.set_key_log(Box::new(mine.clone()));
            for round in 1..=2 {
                world.seen.clear();
                world.pass(Duration::from_secs(900));
                let mut expected = vec![REKEY; 2];
                expected.extend(vec![FOLLOW_UP; 2 * exchanges.len()]);
                expected.extend([INFORMATIONAL; 2]);
                assert_eq!(seen(&world), expected);
                assert_eq!(requests(&world, FOLLOW_UP, server), exchanges.len());
                assert_eq!((world.server.counters().rekeyed, world.server.established()), (round, 1));
                assert_eq!(world.hosts[at].member.status().ike_rekeys, round);
                assert_eq!(methods(&mut world), exchanges, "as strong as before");
                registers_again(&mut world, at);
            }
            assert!(!world.hosts[at].events.contains(&MemberEvent::Disconnected));
            assert_eq!((world.server.counters().deleted, world.server.counters().dead_peers), (0, 0));
            // The ends agree about keys.
            assert!(keys.0.lock().unwrap().len() >= 2);
            assert_eq!(*keys.0.lock().unwrap(), *mine.0.lock().unwrap());
        }
    }
}

/// The new SA begins with the last answer, and not before: until then the key server has one.
#[test]
fn there_is_no_new_sa_before_the_last_answer() {
    let exchanges = [KeGroup::MlKem512, KeGroup::Ecp256];
    for server in [true, false] {
        let (mut world, at) = kept(Wish { server, member: !server }, &exchanges, 5);
        let (mut answers, mut established) = (0, Vec::new());
        world.pass_quietly(Duration::from_secs(901));
        world.on_server(false, |s, ctx| s.expire(ctx));
        world.on_member(at, false, |m, ctx| m.expire(ctx));
        while answers < 3 {
            let packet = world.wire.pop_front().unwrap();
            answers += usize::from(packet.is_response());
            established.push((world.server.counters().rekeyed, world.hosts[at].member.status().ike_rekeys));
            world.deliver(packet);
        }
        // Who answers has it with its last answer, who asked when that arrives.
        let mut before = vec![(0, 0); 5];
        before.push(if server { (0, 1) } else { (1, 0) });
        assert_eq!(established, before);
        world.run();
        assert_eq!((world.server.counters().rekeyed, world.hosts[at].member.status().ike_rekeys), (1, 1));
        registers_again(&mut world, at);
    }
}

#[test]
fn series_come_through_loss_and_reordering() {
    let mut repeated = 0;
    for seed in 0..12 {
        let wish = Wish { server: seed % 3 != 0, member: seed % 3 != 1 };
        let (mut world, at) = kept(wish, &[KeGroup::MlKem512, KeGroup::Ecp256], seed);
        let mut dice = SeededRandom::new(seed);
        // A third is lost, but not the same message twice in a row; some come twice.
        let mut lost = BTreeMap::<Vec<u8>, bool>::new();
        world.fate = Box::new(move |p| {
            let before = lost.entry(p.bytes.clone()).or_default();
            let copies = [0, 0, 1, 1, 1, 2][usize::try_from(dice.below(6)).unwrap()];
            *before = copies == 0 && !*before;
            if *before { 0 } else { copies.max(1) }
        });
        for _ in 0..40 {
            world.pass(Duration::from_secs(100));
            // What waits is turned round.
            world.wire.make_contiguous().reverse();
        }
        world.fate = Box::new(|_| 1);
        world.pass(Duration::from_secs(60));
        assert!(world.server.counters().rekeyed >= 3, "seed {seed}: {:?}", world.server.counters());
        assert_eq!((world.server.established(), world.server.counters().established), (1, 1));
        assert_eq!(methods(&mut world).len(), 2);
        repeated += world.server.counters().repeated;
        registers_again(&mut world, at);
    }
    assert!(repeated > 0);
}

/// Every outcome of the nonces, every loss of one of the first messages: one SA stays, and where nothing is lost the end whose
/// attempt had the lowest nonce asks for no other key exchange (RFC 9370 section 2.2.4, RFC 7296 section 2.8.1).
#[test]
fn both_at_once_leave_one_sa() {
    let mut of_server = 0;
    for seed in 0..48 {
        let (mut world, at) = kept(Wish { server: true, member: true }, &[KeGroup::MlKem512, KeGroup::Ecp256], seed);
        let lost = usize::try_from(seed / 4).unwrap();
        world.pass_quietly(Duration::from_secs(901));
        let mut n = 0;
        world.fate = Box::new(move |_| {
            n += 1;
            usize::from(n != lost)
        });
        world.on_server(false, |s, ctx| s.expire(ctx));
        world.on_member(at, false, |m, ctx| m.expire(ctx));
        world.pass(Duration::from_secs(600));
        world.fate = Box::new(|_| 1);
        assert_eq!(world.server.established(), 1, "seed {seed}");
        assert!(!world.hosts[at].events.contains(&MemberEvent::Disconnected));
        assert_eq!(world.server.counters().dead_peers, 0);
        let (server, member) = (requests(&world, FOLLOW_UP, true), requests(&world, FOLLOW_UP, false));
        let sa = world.server.sa_for_test().unwrap();
        let by_server = sa.own_spi() == sa.spi_i;
        of_server += u32::from(by_server);
        if lost == 0 {
            assert_eq!((server, member), if by_server { (2, 0) } else { (0, 2) });
            assert_eq!((world.server.counters().rekeyed, requests(&world, INFORMATIONAL, !by_server)), (1, 0));
        }
        registers_again(&mut world, at);
    }
    assert!((8..=40).contains(&of_server), "{of_server}");
}

/// A wish for new keys that comes when ours is being followed up: TEMPORARY_FAILURE, and who asked lets it be.
#[test]
fn a_late_wish_is_put_off() {
    for server in [true, false] {
        let (mut world, at) = kept(Wish { server: true, member: true }, &[KeGroup::MlKem512, KeGroup::Ecp256], 3);
        world.pass_quietly(Duration::from_secs(901));
        // The wish of the other end is under way for long.
        match server {
            true => world.on_member(at, false, |m, ctx| m.expire(ctx)),
            false => world.on_server(false, |s, ctx| s.expire(ctx)),
        }
        let late = world.wire.pop_front().unwrap();
        match server {
            true => world.on_server(false, |s, ctx| s.expire(ctx)),
            false => world.on_member(at, false, |m, ctx| m.expire(ctx)),
        }
        for _ in 0..2 {
            let packet = world.wire.pop_front().unwrap();
            world.deliver(packet);
        }
        assert_eq!(world.wire[0].exchange(), FOLLOW_UP);
        world.deliver(late);
        assert_eq!(world.wire.len(), 2, "an answer without a job");
        world.run();
        assert_eq!((world.server.counters().rekeyed, world.server.established()), (1, 1));
        assert_eq!((requests(&world, FOLLOW_UP, server), requests(&world, FOLLOW_UP, !server)), (2, 0));
        let sa = world.server.sa_for_test().unwrap();
        assert_eq!(sa.own_spi() == sa.spi_i, server);
        registers_again(&mut world, at);
    }
}

/// Who has begun a series and is cut off for longer than the other end waits hears STATE_NOT_FOUND, begins anew and gets its keys.
#[test]
fn a_series_that_was_forgotten_begins_anew() {
    for server in [true, false] {
        let (mut world, at) = kept(Wish { server, member: !server }, &[KeGroup::MlKem512, KeGroup::Ecp256], 3);
        let start = world.now.mono;
        let cut = |p: &Packet| usize::from(p.exchange() != FOLLOW_UP);
        world.fate = Box::new(cut);
        // Its time comes; then half a minute without an answer.
        while world.server.counters().rekeyed == 0 && requests(&world, REKEY, server) == 0 {
            world.pass(Duration::from_secs(1));
            assert!(world.now.mono < start + HOUR);
        }
        world.pass(Duration::from_secs(24));
        assert!(requests(&world, FOLLOW_UP, server) >= 4);
        world.fate = Box::new(|_| 1);
        world.pass(Duration::from_secs(90));
        assert_eq!(requests(&world, REKEY, server), 2, "once more");
        assert_eq!((world.server.counters().rekeyed, world.server.established()), (1, 1));
        assert_eq!(world.server.counters().dead_peers, 0);
        registers_again(&mut world, at);
    }
}

/// An end that forgets again and again is out of step: the SA is deleted, and not asked about for ever.
#[test]
fn who_forgets_again_and_again_is_given_up() {
    for server in [true, false] {
        let ike = IkeOptions { lifetime: 3 * HOUR, ..usual() };
        let (mut world, _) = kept_with(quiet(), Wish { server, member: !server }, &[KeGroup::MlKem512], ike, 3);
        let mut copies = BTreeMap::<Vec<u8>, u32>::new();
        // The seventh copy of a request arrives, after more than 20 seconds.
        world.fate = Box::new(move |p| {
            let n = copies.entry(p.bytes.clone()).or_default();
            *n += 1;
            usize::from(p.exchange() != FOLLOW_UP || p.is_response() || *n >= 7)
        });
        world.pass(3 * HOUR - Duration::from_secs(60));
        assert_eq!(requests(&world, REKEY, server), 4);
        assert_eq!((world.server.counters().rekeyed, world.server.counters().dead_peers), (0, 0));
        assert_eq!(requests(&world, INFORMATIONAL, server), 1, "a Delete");
    }
}

/// An end that gave way to one that never went on asks again.
#[test]
fn who_gave_way_in_vain_asks_again() {
    for seed in 0..8 {
        let (mut world, at) = kept(Wish { server: true, member: true }, &[KeGroup::MlKem512], seed);
        world.pass_quietly(Duration::from_secs(901));
        world.on_server(false, |s, ctx| s.expire(ctx));
        world.on_member(at, false, |m, ctx| m.expire(ctx));
        // Nothing that follows arrives before both have lost track.
        world.fate = Box::new(|p| usize::from(p.exchange() != FOLLOW_UP));
        world.pass(Duration::from_secs(25));
        world.fate = Box::new(|_| 1);
        world.pass(Duration::from_secs(120));
        assert_eq!((world.server.counters().rekeyed, world.server.established()), (1, 1), "seed {seed}");
        registers_again(&mut world, at);
    }
}

/// Each key exchange of the key server's is a job, whoever asks; a request that is repeated meanwhile starts none, and draws
/// the same octets afterwards.
#[test]
fn key_exchanges_of_the_key_server_are_jobs() {
    let (mut world, at) = kept(Wish { server: false, member: true }, &[KeGroup::MlKem512, KeGroup::Ecp256], 3);
    world.pass_quietly(Duration::from_secs(901));
    world.on_member(at, false, |m, ctx| m.expire(ctx));
    for n in 0..3 {
        world.hold_jobs = true;
        let request = world.wire.pop_front().unwrap();
        for _ in 0..3 {
            world.deliver(request.clone());
        }
        assert!(matches!(world.held.as_slice(), [(_, Job::KeyExchange { .. })]), "{n}");
        world.run_jobs();
        let response = world.wire.pop_front().unwrap();
        world.deliver(request);
        assert_eq!(world.wire.pop_front().unwrap().bytes, response.bytes);
        world.deliver(response);
    }
    let (mut world, _) = kept(Wish { server: true, member: false }, &[KeGroup::MlKem512, KeGroup::Ecp256], 3);
    world.pass_quietly(Duration::from_secs(901));
    world.hold_jobs = true;
    world.on_server(false, |s, ctx| s.expire(ctx));
    let mut kinds = String::new();
    while !world.held.is_empty() {
        let (id, job) = world.held.remove(0);
        kinds.push(match &job {
            Job::KeyPair { .. } => 'p',
            Job::Agree { .. } => 'a',
            Job::KeyExchange { .. } | Job::CheckPeer(_) | Job::Sign { .. } | Job::SignMessage(_) => '?',
        });
        world.on_server(false, |s, ctx| s.complete(ctx, id, job.run()));
        world.run();
    }
    assert_eq!((kinds.as_str(), world.server.counters().rekeyed), ("papapa", 1));
}

/// ML-KEM's values in fragments, those of the series and those of IKE_INTERMEDIATE alike (RFC 7383).
#[test]
fn large_values_are_cut_up() {
    for server in [true, false] {
        let ike = IkeOptions { fragment_size: 576, ..usual() };
        let wish = Wish { server, member: !server };
        let (mut world, at) = kept_with(quiet(), wish, &[KeGroup::MlKem1024], ike, 2);
        world.pass(Duration::from_secs(901));
        let parts: Vec<&Packet> = world.seen.iter().filter(|p| p.exchange() == FOLLOW_UP).collect();
        assert!(parts.len() >= 8 && parts.iter().all(|p| p.bytes[16] == PayloadKind::SKF.0 && p.bytes.len() <= 524));
        assert_eq!(world.server.counters().rekeyed, 1);
        registers_again(&mut world, at);
    }
}

/// A rekey of the group goes over the old SA while the key server's next key pair is being made, and does not wait for it.
#[test]
fn rekeys_in_band_do_not_wait_for_key_exchanges() {
    for server in [true, false] {
        let mut group = quiet();
        group.gikev2.as_mut().unwrap().options.in_band = InBand::Everybody;
        let wish = Wish { server, member: !server };
        let exchanges = [KeGroup::MlKem512, KeGroup::Ecp256];
        // Nobody asks whether the other lives.
        let ike = IkeOptions { liveness: Some(HOUR), ..usual() };
        let (mut world, at) = kept_with(group, wish, &exchanges, ike, 3);
        world.pass_quietly(Duration::from_secs(901));
        world.on_server(false, |s, ctx| s.expire(ctx));
        world.on_member(at, false, |m, ctx| m.expire(ctx));
        let mut rounds = 0;
        while world.server.counters().rekeyed == 0 {
            world.hold_jobs = true;
            let packet = world.wire.pop_front();
            packet.into_iter().for_each(|p| world.deliver(p));
            let before = world.server.counters().rekeyed;
            world.rekey(RekeyReason::Operator, &[]);
            assert!(world.has_newest(at), "round {rounds}, {before} new keys");
            world.run_jobs();
            rounds += 1;
            assert!(rounds < 20, "{:?} {:?} {:?}", seen(&world), world.server.counters(), world.hosts[at].events);
        }
        world.run();
        assert_eq!((world.server.established(), world.server.counters().lost), (1, 0));
        assert!(rounds >= 3 && !world.hosts[at].events.contains(&MemberEvent::Excluded));
        world.rekey(RekeyReason::Operator, &[]);
        assert!(world.has_newest(at));
        assert_eq!(methods(&mut world), exchanges);
    }
}

/// Where new keys are to come before a registration (RFC 8784 section 6), all their key exchanges do.
#[test]
fn new_keys_after_a_ppk_are_followed_up_before_a_registration() {
    let ppk = || Ppk {
        id: vec![2, b'a'],
        key: Arc::new(Secret::copy_from(b"the key of a, which is long enough")),
        required: true,
        identities: None,
        rekey: true,
    };
    for seed in 0..6 {
        let mut config = config();
        config.idle = HOUR;
        (config.ppks, config.preferences.additional) = (vec![ppk()], exchanges(&[KeGroup::MlKem768]));
        let mut world = World::with(policy(false), config, 5);
        let mut settings = world.settings(1);
        (settings.ike2.ppks, settings.ike2.additional) = (vec![ppk()], exchanges(&[KeGroup::MlKem768]));
        let at = world.add(settings);
        let mut rng = SeededRandom::new(seed);
        // The first goes without loss.
        world.fate =
            Box::new(move |_| [0, 1, 1, 2][usize::try_from(rng.below(4)).unwrap()].max(usize::from(seed == 0)));
        world.start(at);
        world.pass(Duration::from_secs(60));
        assert_eq!(world.hosts[at].events, [MemberEvent::Connected, MemberEvent::Registered], "seed {seed}");
        assert!(world.has_newest(at));
        if seed == 0 {
            let mut order: Vec<u8> = world.seen.iter().filter(|p| !p.is_response()).map(Packet::exchange).collect();
            order.dedup();
            let registration = ExchangeType::GSA_REGISTRATION.0;
            let place = |exchange| order.iter().position(|e| *e == exchange).unwrap();
            assert!(place(REKEY) < place(FOLLOW_UP) && place(FOLLOW_UP) < place(registration), "{order:?}");
        }
    }
}

/// Who knows of no additional key exchanges goes on without.
#[test]
fn an_sa_without_additional_key_exchanges_gets_keys_without() {
    for (server, member) in [(&[KeGroup::MlKem512][..], &[][..]), (&[], &[KeGroup::MlKem512]), (&[], &[])] {
        for by_server in [true, false] {
            let mut config = config();
            config.idle = 24 * HOUR;
            config.preferences.additional = exchanges(server);
            let lifetime = Duration::from_secs(1000);
            if by_server {
                config.ike.lifetime = lifetime;
            }
            let mut world = World::with(policy(false), config, 3);
            let mut settings = world.settings(1);
            settings.ike2.additional = exchanges(member);
            let at = world.add(settings);
            if !by_server {
                world.hosts[at].member.set_ike_options(IkeOptions { lifetime, ..IkeOptions::default() });
            }
            world.start(at);
            world.pass(Duration::from_secs(905));
            assert_eq!(world.server.counters().rekeyed, 1);
            assert_eq!((requests(&world, FOLLOW_UP, true), requests(&world, FOLLOW_UP, false)), (0, 0));
            registers_again(&mut world, at);
        }
    }
}

/// Every changed octet and every truncation of a series.
#[test]
fn nothing_tampered_with_is_believed() {
    for server in [true, false] {
        let (mut world, at) = kept(Wish { server, member: !server }, &[KeGroup::Ecp256], 3);
        world.pass_quietly(Duration::from_secs(901));
        world.tamper = true;
        world.on_server(false, |s, ctx| s.expire(ctx));
        world.on_member(at, false, |m, ctx| m.expire(ctx));
        world.run();
        world.tamper = false;
        assert_eq!((world.server.counters().rekeyed, world.server.established()), (1, 1));
        assert!(world.server.counters().unauthenticated > 0);
        registers_again(&mut world, at);
    }
}
