//! New keys for an IKE SA: by either end, by both at once, with loss, and what may be asked and is refused.

use std::time::Duration;

use keyferry_crypto::{KeGroup, Random, SeededRandom};
use keyferry_model::drive::Via;
use keyferry_model::update::MemberEvent;
use keyferry_wire::{ChainWriter, Encode};

use super::support::*;
use crate::IkeOptions;
use crate::algorithms::KeyWrap;
use crate::ike_sa::Preferences;
use crate::ike_sa::sa::Direction;
use crate::wire::message::Payloads;
use crate::wire::notify::Notify;
use crate::wire::registry::{ExchangeType, NotifyType, PayloadKind, ProtocolId};

const HOUR: Duration = Duration::from_secs(3600);

/// Who wants new keys every thousand seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Wish {
    server: bool,
    member: bool,
}

fn kept(wish: Wish, seed: u64) -> (World, usize) {
    let mut config = config();
    config.idle = 24 * HOUR;
    config.backoff.tries = 7;
    config.ike.lifetime = if wish.server { Duration::from_secs(1000) } else { 24 * HOUR };
    let mut group = policy(false);
    // Nothing else is to happen meanwhile.
    group.tek_lifetime = 48 * HOUR;
    group.kek_lifetime = 48 * HOUR;
    let mut world = World::with(group, config, seed);
    let mut settings = world.settings(1);
    settings.tries = 7;
    let at = world.add(settings);
    let lifetime = if wish.member { Duration::from_secs(1000) } else { 24 * HOUR };
    world.hosts[at].member.set_ike_options(IkeOptions { lifetime, ..IkeOptions::default() });
    world.start(at);
    world.run();
    (world, at)
}

/// Another registration over the present SA, whose GSK_w both ends must have.
fn registers_again(world: &mut World, at: usize) {
    let before = (world.server.counters().registered, world.server.counters().initiations);
    world.hosts[at].sas.clear();
    world.start(at);
    world.run();
    assert_eq!((world.server.counters().registered, world.server.counters().initiations), (before.0 + 1, before.1));
    assert_eq!(world.hosts[at].events.last(), Some(&MemberEvent::Registered));
    assert!(world.has_newest(at));
}

fn count(world: &World, exchange: ExchangeType, from_server: bool) -> usize {
    let requests = world.seen.iter().filter(|p| p.exchange() == exchange.0 && !p.is_response());
    requests.filter(|p| (p.from == world.gateway) == from_server).count()
}

#[test]
fn either_end_gets_new_keys() {
    for server in [true, false] {
        let (mut world, at) = kept(Wish { server, member: !server }, 5);
        let (keys, mine) = (Lines::default(), Lines::default());
        world.server.set_key_log(Box::new(keys.clone()));
        world.hosts[at].member.set_key_log(Box::new(mine.clone()));
        for round in 1..=3 {
            world.pass(Duration::from_secs(900));
            assert_eq!(world.server.counters().rekeyed, round);
            assert_eq!(world.hosts[at].member.status().ike_rekeys, round);
            assert_eq!(world.server.established(), 1);
            registers_again(&mut world, at);
        }
        // Who asked deleted the replaced ones, and nobody else anything.
        assert_eq!(count(&world, ExchangeType::CREATE_CHILD_SA, server), 3);
        assert_eq!(count(&world, ExchangeType::INFORMATIONAL, server), 3);
        assert_eq!(count(&world, ExchangeType::CREATE_CHILD_SA, !server), 0);
        assert_eq!(count(&world, ExchangeType::INFORMATIONAL, !server), 0);
        assert!(!world.hosts[at].events.contains(&MemberEvent::Disconnected));
        assert_eq!((world.server.counters().deleted, world.server.counters().dead_peers), (0, 0));
        // The ends agree about keys.
        assert!(keys.0.lock().unwrap().len() >= 3);
        assert_eq!(*keys.0.lock().unwrap(), *mine.0.lock().unwrap());
    }
}

/// Message IDs begin again, and the ends may have changed places (RFC 7296 sections 1.3.2 and 2.18).
#[test]
fn who_asked_is_the_initiator_of_the_new_sa() {
    let (mut world, at) = kept(Wish { server: true, member: false }, 5);
    world.pass(Duration::from_secs(900));
    world.seen.clear();
    world.start(at);
    world.run();
    let (request, response) = (&world.seen[0], &world.seen[1]);
    let header = |p: &Packet| keyferry_wire::Header::decode(&p.bytes).unwrap().0;
    assert_eq!((header(request).flags, header(request).message_id), (0, 0));
    assert_eq!((header(response).flags, header(response).message_id), (0x28, 0));
}

/// Every outcome of the nonces, every loss of one of the first messages.
#[test]
fn both_at_once_leave_one_sa() {
    let mut kept_server = 0;
    for seed in 0..40 {
        let (mut world, at) = kept(Wish { server: true, member: true }, seed);
        let lost = usize::try_from(seed / 4).unwrap();
        let start = world.now.mono;
        world.jump(start + Duration::from_secs(901));
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
        kept_server +=
            u32::from(world.server.sa_for_test().unwrap().own_spi() == world.server.sa_for_test().unwrap().spi_i);
        registers_again(&mut world, at);
    }
    assert!((5..=35).contains(&kept_server), "{kept_server}");
}

#[test]
fn new_keys_come_through_loss() {
    for seed in 0..12 {
        let (mut world, at) = kept(Wish { server: seed % 3 != 0, member: seed % 3 != 1 }, seed);
        let mut dice = SeededRandom::new(seed);
        // Two in five are lost, but not the same message three times in a row.
        let mut lost = std::collections::BTreeMap::<Vec<u8>, u32>::new();
        world.fate = Box::new(move |p| {
            let before = lost.entry(p.bytes.clone()).or_default();
            let arrives = dice.below(10) >= 4 || *before == 2;
            *before = if arrives { 0 } else { *before + 1 };
            usize::from(arrives)
        });
        world.pass(Duration::from_secs(4000));
        world.fate = Box::new(|_| 1);
        world.pass(Duration::from_secs(60));
        assert!(world.server.counters().rekeyed >= 3, "seed {seed}: {:?}", world.server.counters());
        assert_eq!((world.server.established(), world.server.counters().established), (1, 1));
        registers_again(&mut world, at);
    }
}

/// A request under way when the key server asks for new keys is answered over the old SA, or asked again over the new one.
#[test]
fn a_registration_under_way_is_not_lost() {
    for heard in [true, false] {
        let (mut world, at) = kept(Wish { server: true, member: false }, 3);
        let start = world.now.mono;
        world.jump(start + Duration::from_secs(901));
        world.fate = Box::new(move |p| usize::from(heard || p.exchange() != ExchangeType::GSA_REGISTRATION.0));
        world.start(at);
        world.on_server(false, |s, ctx| s.expire(ctx));
        world.run();
        world.fate = Box::new(|_| 1);
        world.pass(Duration::from_secs(5));
        let counters = world.server.counters();
        assert_eq!((counters.registered, counters.rekeyed, counters.established), (2, 1, 1));
        assert_eq!(world.hosts[at].events.last(), Some(&MemberEvent::Registered));
    }
}

/// INVALID_KE_PAYLOAD: each end likes another group best, and the one that is asked says so (RFC 7296 section 1.3).
#[test]
fn the_group_of_new_keys_is_negotiated() {
    let mut config = config();
    config.idle = 24 * HOUR;
    config.ike.lifetime = Duration::from_secs(1000);
    config.preferences = Preferences { groups: vec![KeGroup::X25519, KeGroup::Ecp256], ..Preferences::default() };
    let mut world = World::with(policy(false), config, 1);
    let mut settings = world.settings(1);
    settings.ke_groups = vec![KeGroup::Ecp256, KeGroup::X25519];
    let at = world.add(settings);
    world.start(at);
    world.pass(Duration::from_secs(910));
    assert_eq!(world.server.counters().rekeyed, 1);
    assert_eq!(count(&world, ExchangeType::CREATE_CHILD_SA, true), 2);
    assert_eq!(world.server.sa_for_test().unwrap().suite.group, KeGroup::Ecp256);
    registers_again(&mut world, at);
}

/// RFC 9838 section 3.1: what wraps keys is not weakened by new keys of the IKE SA, nor given up.
#[test]
fn new_keys_wrap_as_strongly_as_those_before() {
    for of_server in [true, false] {
        let (mut world, at) = kept(Wish { server: false, member: false }, 1);
        let first = if of_server { 2 } else { 0 };
        let preferences = Preferences { key_wraps: vec![KeyWrap::Aes128], ..Preferences::default() };
        for (n, offer) in [preferences.proposals(false), preferences.proposals(true)].into_iter().enumerate() {
            let mut offer = offer;
            offer.proposals.iter_mut().for_each(|p| p.spi = vec![0x42; 8].into());
            let mut payloads = rekey_payloads();
            payloads[0].1 = offer.to_vec();
            let answer = asked(&mut world, at, of_server, first + u32::try_from(n).unwrap(), &payloads);
            assert_eq!(answer, [Notify::bare(NotifyType::NO_PROPOSAL_CHOSEN)]);
        }
    }
}

/// What one end answers to a request of the other, composed by hand.
fn asked(
    world: &mut World,
    at: usize,
    of_server: bool,
    message_id: u32,
    payloads: &[(PayloadKind, Vec<u8>)],
) -> Vec<Notify<'static>> {
    let mut chain = ChainWriter::new();
    payloads.iter().for_each(|(kind, body)| chain.push(kind.0, body));
    let mut rng = SeededRandom::new(77);
    let member = world.hosts[at].address;
    let sa = match of_server {
        true => world.hosts[at].member.sa_for_test().unwrap(),
        false => world.server.sa_for_test().unwrap(),
    };
    let bytes = sa.seal(ExchangeType::CREATE_CHILD_SA, Direction::Request, message_id, chain, &mut rng).unwrap();
    let (from, to) = if of_server { (member, world.gateway) } else { (world.gateway, member) };
    world.fate = Box::new(|_| 0);
    world.deliver(Packet { from, to, via: Via::Udp, bytes, tainted: false });
    world.fate = Box::new(|_| 1);
    let answer = world.seen.last().unwrap().bytes.clone();
    let sa = match of_server {
        true => world.hosts[at].member.sa_for_test().unwrap(),
        false => world.server.sa_for_test().unwrap(),
    };
    let opened = sa.open(&answer).unwrap();
    let payloads = Payloads::parse(opened.first, opened.inner.expose(), &[]).unwrap();
    payloads
        .notifies
        .iter()
        .map(|n| Notify { data: n.data.to_vec().into(), spi: n.spi.to_vec().into(), ..*n })
        .collect()
}

fn rekey_payloads() -> Vec<(PayloadKind, Vec<u8>)> {
    let preferences = Preferences::default();
    let mut offer = preferences.proposals(true);
    offer.proposals.iter_mut().for_each(|p| p.spi = vec![0x42; 8].into());
    let ke = crate::wire::ke::Ke { method: 31, data: vec![9; 32].into() };
    let nonce = crate::wire::nonce::Nonce(vec![7; 32].into());
    vec![(PayloadKind::SA, offer.to_vec()), (PayloadKind::NONCE, nonce.to_vec()), (PayloadKind::KE, ke.to_vec())]
}

/// RFC 7296 sections 1.3.1 and 2.25: there are no Child SAs to be had or replaced, and the IKE SA lives on.
#[test]
fn child_sas_are_refused_cleanly() {
    for of_server in [true, false] {
        let (mut world, at) = kept(Wish { server: false, member: false }, 1);
        let first = if of_server { 2 } else { 0 };
        let mut payloads = rekey_payloads();
        payloads.push((PayloadKind::TS_I, vec![0; 8]));
        payloads.push((PayloadKind::TS_R, vec![0; 8]));
        assert_eq!(asked(&mut world, at, of_server, first, &payloads), [Notify::bare(NotifyType::NO_ADDITIONAL_SAS)]);
        let replaced =
            Notify { protocol: ProtocolId::ESP, spi: vec![1, 2, 3, 4].into(), ..Notify::bare(NotifyType::REKEY_SA) };
        payloads.push((PayloadKind::NOTIFY, replaced.to_vec()));
        let missing = Notify { kind: NotifyType::CHILD_SA_NOT_FOUND, ..replaced };
        assert_eq!(asked(&mut world, at, of_server, first + 1, &payloads), [missing]);
        assert_eq!(world.server.established(), 1);
    }
}

/// RFC 7296 section 2.18: no new keys without a key exchange; and an SPI that is none, or a zero one, names no SA.
#[test]
fn senseless_wishes_for_new_keys_are_refused() {
    for of_server in [true, false] {
        let first = if of_server { 2 } else { 0 };
        for (n, spi) in [vec![], vec![0; 8], vec![1; 4], vec![1; 16]].into_iter().enumerate() {
            let (mut world, at) = kept(Wish { server: false, member: false }, n as u64);
            let mut payloads = rekey_payloads();
            let mut offer = Preferences::default().proposals(true);
            offer.proposals.iter_mut().for_each(|p| p.spi = spi.clone().into());
            payloads[0].1 = offer.to_vec();
            let answer = asked(&mut world, at, of_server, first, &payloads);
            assert_eq!(answer, [Notify::bare(NotifyType::NO_PROPOSAL_CHOSEN)]);
            assert_eq!(world.server.established(), 1);
        }
        // Another group than the one that is wanted.
        let (mut world, at) = kept(Wish { server: false, member: false }, 1);
        let mut payloads = rekey_payloads();
        payloads[2].1 = crate::wire::ke::Ke { method: 19, data: vec![9; 64].into() }.to_vec();
        let wanted = Notify::new(NotifyType::INVALID_KE_PAYLOAD, vec![0, 31]);
        assert_eq!(asked(&mut world, at, of_server, first, &payloads), [wanted]);
        // No KE at all: the message breaks the format, which is the end of the SA.
        payloads.truncate(2);
        let answer = asked(&mut world, at, of_server, first + 1, &payloads);
        assert_eq!(answer, [Notify::bare(NotifyType::INVALID_SYNTAX)]);
    }
}

/// RFC 7296 section 2.25.2: an SA that has been replaced is not replaced again; nor does anybody get many of them.
#[test]
fn an_sa_that_was_replaced_gets_no_other_keys() {
    for of_server in [true, false] {
        let (mut world, at) = kept(Wish { server: false, member: false }, 1);
        let first = if of_server { 2 } else { 0 };
        assert_eq!(asked(&mut world, at, of_server, first, &rekey_payloads()), []);
        for n in 1..5 {
            let answer = asked(&mut world, at, of_server, first + n, &rekey_payloads());
            assert_eq!(answer, [Notify::bare(NotifyType::TEMPORARY_FAILURE)]);
        }
    }
}

/// RFC 7296 section 2.8: an SA that gets no new keys is closed when its time is up.
#[test]
fn without_new_keys_the_sa_ends() {
    // The key server has room for no other SA.
    let mut config = config();
    (config.idle, config.sas) = (24 * HOUR, 1);
    let mut world = World::with(policy(false), config, 1);
    let settings = world.settings(1);
    let at = world.add(settings);
    let lifetime = Duration::from_secs(1000);
    world.hosts[at].member.set_ike_options(IkeOptions { lifetime, ..IkeOptions::default() });
    world.start(at);
    world.pass(Duration::from_secs(990));
    assert_eq!((count(&world, ExchangeType::CREATE_CHILD_SA, false), world.server.counters().rekeyed), (1, 0));
    assert_eq!(world.server.established(), 1);
    world.pass(Duration::from_secs(20));
    assert_eq!(world.server.established(), 0);
    assert_eq!(world.hosts[at].events.last(), Some(&MemberEvent::Disconnected));
    // A member that does not even answer is gone.
    let (mut world, _) = kept(Wish { server: true, member: false }, 1);
    world.fate = Box::new(|p| usize::from(p.exchange() != ExchangeType::CREATE_CHILD_SA.0));
    world.pass(3 * HOUR);
    assert_eq!((world.server.established(), world.server.counters().dead_peers), (0, 1));
}
