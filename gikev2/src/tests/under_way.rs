//! Requests under way: one at a time in each direction (RFC 7296 section 2.3), and what ends an IKE SA meanwhile.

use std::time::Duration;

use keyferry_crypto::{CryptoError, Job, JobDone};
use keyferry_model::drive::Via;
use keyferry_model::plan::RekeyReason;
use keyferry_model::policy::{GroupPolicy, InBand};
use keyferry_model::update::MemberEvent;
use keyferry_wire::{ChainWriter, Encode, Header};

use super::support::*;
use crate::IkeOptions;
use crate::ike_sa::Preferences;
use crate::ike_sa::sa::Direction;
use crate::wire::ke::Ke;
use crate::wire::message::Payloads;
use crate::wire::nonce::Nonce;
use crate::wire::registry::{ExchangeType, NotifyType, PayloadKind};

/// A group that is rekeyed in band, at a key server that wants new keys for IKE SAs after a quarter of an hour.
fn world() -> (World, usize) {
    let mut config = config();
    config.ike.lifetime = Duration::from_secs(1000);
    let mut world = World::with(in_band(), config, 5);
    let at = world.join(1);
    (world, at)
}

fn in_band() -> GroupPolicy {
    let mut group = policy(false);
    group.gikev2.as_mut().unwrap().options.in_band = InBand::Everybody;
    group
}

/// Requests of one end in an exchange.
fn requests(world: &World, exchange: ExchangeType, of_server: bool) -> usize {
    let all = world.seen.iter().filter(|p| p.exchange() == exchange.0 && !p.is_response());
    all.filter(|p| (p.from == world.gateway) == of_server).count()
}

/// Delivers what is on the wire, but for one message of an exchange, which is kept back.
fn keep_back(world: &mut World, exchange: ExchangeType, response: bool) -> Packet {
    let at = world.wire.iter().position(|p| p.exchange() == exchange.0 && p.is_response() == response).unwrap();
    world.wire.remove(at).unwrap()
}

/// Leaving is asked for anew over the SA that took the other's place. The answer to the first comes late: neither is something
/// else asked meanwhile, nor has the member left twice.
#[test]
fn a_member_leaves_once_and_asks_one_thing_at_a_time() {
    let (mut world, at) = world();
    world.hold_jobs = true;
    world.pass(Duration::from_secs(901));
    world.leave(at);
    let first = keep_back(&mut world, ExchangeType::GSA_REGISTRATION, false);
    // New keys; the Delete of the SA that goes does not arrive, a rekey over the new one does.
    world.fate = Box::new(|p| usize::from(p.exchange() != ExchangeType::INFORMATIONAL.0));
    world.run_jobs();
    world.run();
    let plan = world.plan_steps(RekeyReason::Operator, &[]);
    world.on_server(false, |s, ctx| s.rekey_in_band(ctx, &plan));
    let rekey = world.wire.pop_front().unwrap();
    world.deliver(rekey);
    let second = keep_back(&mut world, ExchangeType::GSA_REGISTRATION, false);
    world.run();
    world.seen.clear();
    world.deliver(first);
    world.run();
    assert_eq!(requests(&world, ExchangeType::INFORMATIONAL, false), 0, "another request is under way");
    world.fate = Box::new(|_| 1);
    world.deliver(second);
    world.run();
    assert_eq!(requests(&world, ExchangeType::INFORMATIONAL, false), 1, "and then the SA is deleted");
    let left = world.hosts[at].events.iter().filter(|e| **e == MemberEvent::Left).count();
    assert_eq!(left, 1, "{:?}", world.hosts[at].events);
    assert_eq!(world.hosts[at].member.status().state, "idle");
    // Nobody answers the Delete of the first SA any more.
    world.pass(Duration::from_secs(120));
    assert_eq!(world.server.established(), 0);
}

/// New keys that could not be made end the IKE SA, but not before a rekey that is under way is answered.
#[test]
fn keys_that_fail_do_not_overtake_a_rekey_in_band() {
    let (mut world, at) = world();
    world.hold_jobs = true;
    world.pass(Duration::from_secs(901));
    let (id, job) = world.held.pop().unwrap();
    world.on_server(false, |s, ctx| s.complete(ctx, id, job.run()));
    world.run();
    let (id, job) = world.held.pop().unwrap();
    assert!(matches!(job, Job::Agree { .. }));
    world.seen.clear();
    world.fate = Box::new(|p| usize::from(p.exchange() != ExchangeType::GSA_INBAND_REKEY.0));
    world.rekey(RekeyReason::Operator, &[]);
    world.fate = Box::new(|_| 1);
    let failed = JobDone::Agree(Err(CryptoError::BadPublicValue));
    world.on_server(false, |s, ctx| s.complete(ctx, id, failed));
    world.run();
    assert_eq!(requests(&world, ExchangeType::INFORMATIONAL, true), 0, "one request at a time");
    world.pass(Duration::from_secs(2));
    assert!(requests(&world, ExchangeType::GSA_INBAND_REKEY, true) >= 2, "it is repeated");
    let ledger = world.model.group("g").unwrap().rekey_views().pop().unwrap();
    assert_eq!((ledger.expected, ledger.acknowledged), (1, 1));
    assert_eq!(requests(&world, ExchangeType::INFORMATIONAL, true), 1, "then the SA goes");
    assert_eq!((world.server.established(), world.server.counters().lost), (0, 1));
    // The member has an SA that the key server knows nothing of, and finds out.
    world.hold_jobs = false;
    world.pass(Duration::from_secs(180));
    assert!(world.hosts[at].events.contains(&MemberEvent::Excluded));
    assert_eq!(world.hosts[at].events.last(), Some(&MemberEvent::Registered));
}

/// RFC 7296 section 2.21.3: whoever says INVALID_SYNTAX has given the IKE SA up, whatever its sender's public value was like.
#[test]
fn a_public_value_that_cannot_be_ends_the_sa() {
    let (mut world, at) = world();
    let mut offer = Preferences::default().proposals(true);
    offer.proposals.iter_mut().for_each(|p| p.spi = vec![0x42; 8].into());
    let mut chain = ChainWriter::new();
    chain.push(PayloadKind::SA.0, &offer.to_vec());
    chain.push(PayloadKind::NONCE.0, &Nonce(vec![7; 32].into()).to_vec());
    chain.push(PayloadKind::KE.0, &Ke { method: 31, data: vec![0; 32].into() }.to_vec());
    let (from, to) = (world.hosts[at].address, world.gateway);
    let sa = world.hosts[at].member.sa_for_test().unwrap();
    let exchange = ExchangeType::CREATE_CHILD_SA;
    let bytes = sa.seal(exchange, Direction::Request, 2, chain, &mut world.rng).unwrap();
    world.seen.clear();
    world.fate = Box::new(|_| 0);
    for n in 1..=2 {
        world.deliver(Packet { from, to, via: Via::Udp, bytes: bytes.clone(), tainted: false });
        assert_eq!(world.seen.len(), n, "a repeat draws the answer again");
        let sa = world.hosts[at].member.sa_for_test().unwrap();
        let opened = sa.open(&world.seen[n - 1].bytes).unwrap();
        let payloads = Payloads::parse(opened.first, opened.inner.expose(), &[]).unwrap();
        assert!(payloads.notify(NotifyType::INVALID_SYNTAX).is_some());
        assert_eq!(world.server.established(), 0);
    }
    // Who was rekeyed over it is a member no more.
    assert_eq!(world.server.counters().lost, 1);
}

/// An answer that cannot be sent any more is the end of the IKE SA, and a group that is rekeyed over it goes along.
#[test]
fn a_group_in_band_goes_with_an_sa_that_nothing_can_be_sealed_over() {
    let (mut world, at) = world();
    let (from, to) = (world.gateway, world.hosts[at].address);
    let sa = world.server.sa_for_test().unwrap();
    let exchange = ExchangeType::INFORMATIONAL;
    let bytes = sa.seal(exchange, Direction::Request, 0, ChainWriter::new(), &mut world.rng).unwrap();
    assert_eq!(Header::decode(&bytes).unwrap().0.message_id, 0);
    world.hosts[at].member.sa_for_test().unwrap().fail_for_test();
    world.seen.clear();
    world.deliver(Packet { from, to, via: Via::Udp, bytes, tainted: false });
    assert!(world.hosts[at].sas.is_empty(), "its keys are deleted");
    let events = &world.hosts[at].events;
    assert_eq!(events[events.len() - 2..], [MemberEvent::Excluded, MemberEvent::Disconnected]);
    world.pass(Duration::from_secs(20));
    assert_eq!(world.hosts[at].events.last(), Some(&MemberEvent::Registered), "it asks to join again");
}

/// What is gone, and only kept to repeat its last answer, takes no other's place.
#[test]
fn closed_sas_take_no_room() {
    let mut config = config();
    (config.sas, config.linger) = (2, Duration::from_secs(10));
    config.idle = Duration::from_secs(7200);
    let mut world = World::with(policy(false), config, 5);
    let (a, b) = (world.join(1), world.join(2));
    world.on_member(b, false, |m, ctx| m.disconnect(ctx));
    world.run();
    assert_eq!(world.server.established(), 1);
    // New keys need room for a second SA for a moment.
    let ike = IkeOptions { lifetime: Duration::from_secs(5), ..IkeOptions::default() };
    world.hosts[a].member.set_ike_options(ike);
    world.on_member(a, false, |m, ctx| m.disconnect(ctx));
    world.run();
    world.start(a);
    world.run();
    assert_eq!((world.server.established(), world.server.counters().half_open_refused), (1, 0));
    world.pass(Duration::from_millis(4600));
    assert_eq!((world.server.established(), world.server.counters().rekeyed), (1, 1));
    world.start(b);
    world.run();
    assert_eq!((world.server.established(), world.server.counters().half_open_refused), (2, 0));
    // But those that are in use do.
    let settings = world.settings(3);
    let c = world.add(settings);
    world.start(c);
    world.run();
    assert_eq!((world.server.established(), world.server.counters().half_open_refused), (2, 1));
}

/// Nor are last answers kept without end.
#[test]
fn so_many_last_answers_are_kept() {
    let mut config = config();
    (config.half_open, config.linger) = (2, Duration::from_secs(10));
    let mut world = World::with(policy(false), config, 5);
    let mut answered = Vec::new();
    for n in 1..=3 {
        let at = world.join(n);
        world.on_member(at, false, |m, ctx| m.disconnect(ctx));
        let delete = world.wire.pop_front().unwrap();
        world.deliver(delete.clone());
        world.wire.clear();
        let before = world.server.counters().repeated;
        world.deliver(delete);
        world.wire.clear();
        answered.push(world.server.counters().repeated > before);
    }
    assert_eq!(answered, [true, true, false]);
    assert_eq!(world.server.established(), 0);
    world.pass(Duration::from_secs(11));
    let at = world.join(4);
    world.on_member(at, false, |m, ctx| m.disconnect(ctx));
    world.run();
    assert_eq!((world.server.established(), world.server.counters().deleted), (0, 4));
}
