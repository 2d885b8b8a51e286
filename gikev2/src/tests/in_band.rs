//! Members that are rekeyed over their IKE SAs (RFC 9838 section 2.4.2).

use std::time::Duration;

use keyferry_crypto::Secret;
use keyferry_model::drive::{Datagram, Via};
use keyferry_model::id::Identity;
use keyferry_model::plan::RekeyReason;
use keyferry_model::policy::*;
use keyferry_model::update::MemberEvent;
use keyferry_model::view::{MemberState, MemberView, RekeyView};
use keyferry_wire::{ChainWriter, Encode, Header};

use super::support::*;
use crate::IkeOptions;
use crate::ike_sa::sa::Direction;
use crate::policy::to_wire;
use crate::wire::gsa::Gsa;
use crate::wire::kd::{GroupBag, Kd, MemberBag};
use crate::wire::notify::Notify;
use crate::wire::registry::{ExchangeType, NotifyType, PayloadKind, ProtocolId};

fn group(in_band: InBand) -> GroupPolicy {
    let mut group = policy(false);
    group.gikev2.as_mut().unwrap().options.in_band = in_band;
    group
}

fn world(in_band: InBand) -> World {
    World::new(group(in_band))
}

/// A member that only receives.
fn receiver(world: &mut World, n: u8) -> usize {
    let mut settings = world.settings(n);
    settings.sender_ids = 0;
    let at = world.add(settings);
    world.start(at);
    world.run();
    assert!(world.hosts[at].events.contains(&MemberEvent::Registered));
    at
}

fn view(world: &World, who: &Identity) -> MemberView {
    world.model.group("g").unwrap().member_views().into_iter().find(|m| m.identity == *who).unwrap()
}

fn ledger(world: &World) -> RekeyView {
    world.model.group("g").unwrap().rekey_views().pop().unwrap()
}

/// So many requests and responses of GSA_INBAND_REKEY, and messages of GSA_REKEY.
fn sent(world: &World) -> (usize, usize, usize) {
    let of = |exchange: ExchangeType, response| {
        world.seen.iter().filter(|p| p.exchange() == exchange.0 && p.is_response() == response).count()
    };
    let in_band = ExchangeType::GSA_INBAND_REKEY;
    (of(in_band, false), of(in_band, true), of(ExchangeType::GSA_REKEY, false))
}

/// No Rekey SA, no tree keys, no lifetimes; each rekey is two exchanges, and the answer to the first counts (reading 18, 14).
#[test]
fn a_group_may_be_rekeyed_in_band_alone() {
    let mut world = world(InBand::Everybody);
    let (a, b) = (world.join(1), receiver(&mut world, 2));
    assert!(world.hosts[a].listens.is_empty() && world.hosts[a].member.status().rekey_spi.is_none());
    assert_eq!(world.hosts[a].sender_ids.as_ref().unwrap().ids, [0]);
    for round in 1..=3 {
        world.pass(Duration::from_secs(40));
        world.rekey(RekeyReason::Operator, &[]);
        assert!(world.has_newest(a) && world.has_newest(b));
        assert_eq!(world.hosts[a].delays, (Duration::ZERO, Duration::from_secs(10)), "as it was told before");
        assert_eq!(world.hosts[a].sas.len(), 1, "replaced SAs are deleted");
        assert_eq!(sent(&world), (4 * round, 4 * round, 0));
        let entry = ledger(&world);
        assert_eq!((entry.expected, entry.acknowledged, entry.missing.len()), (2, 2, 0));
    }
    assert_eq!(world.hosts[a].sas, world.hosts[b].sas);
    assert!(view(&world, &identity(1)).in_band);
    assert_eq!(view(&world, &identity(1)).acknowledged, 3);
}

#[test]
fn senders_may_be_rekeyed_in_band_and_receivers_by_multicast() {
    let mut world = world(InBand::Senders);
    let (sender, listener) = (world.join(1), receiver(&mut world, 2));
    world.rekey(RekeyReason::Operator, &[]);
    assert!(world.has_newest(sender) && world.has_newest(listener));
    assert_eq!(sent(&world), (2, 2, 1));
    assert!(view(&world, &identity(1)).in_band && !view(&world, &identity(2)).in_band);
    assert_eq!(ledger(&world).expected, 1, "nobody acknowledges a multicast here");
    // An evicted sender had no Rekey SA: the others need no other, only other traffic keys.
    world.rekey(RekeyReason::Eviction, &[identity(1)]);
    assert!(!world.has_newest(sender) && world.has_newest(listener));
    assert_eq!(world.hosts[sender].events.last(), Some(&MemberEvent::Excluded));
    assert_eq!(sent(&world), (3, 3, 2), "it is told that everything is deleted");
    // An evicted receiver had it, and is kept from the next by the tree.
    let sender = world.join(3);
    world.rekey(RekeyReason::Eviction, &[identity(2)]);
    assert!(world.has_newest(sender) && !world.has_newest(listener));
}

#[test]
fn a_member_that_becomes_a_sender_is_rekeyed_in_band_from_then_on() {
    let mut world = world(InBand::Senders);
    let listener = receiver(&mut world, 1);
    let sender = world.join(1);
    world.rekey(RekeyReason::Eviction, &[]);
    assert!(world.has_newest(sender), "its leaf is excluded, and it is told in band");
    assert!(!world.has_newest(listener));
}

/// Requests are repeated until they are answered, and taken once.
#[test]
fn lost_messages_are_repeated_and_repeats_change_nothing() {
    let mut world = world(InBand::Everybody);
    let at = world.join(1);
    let mut lost = 0;
    world.fate = Box::new(move |p| {
        let in_band = p.exchange() == ExchangeType::GSA_INBAND_REKEY.0;
        lost += usize::from(in_band);
        if in_band && lost < 5 { 0 } else { 2 }
    });
    world.rekey(RekeyReason::Operator, &[]);
    assert!(!world.has_newest(at));
    // A second rekey waits for the first.
    world.rekey(RekeyReason::Operator, &[]);
    world.pass(Duration::from_secs(40));
    assert!(world.has_newest(at));
    assert_eq!(world.hosts[at].sas.len(), 1);
    let status = world.hosts[at].member.status();
    assert_eq!((status.rekeys, status.rejected), (4, 0));
    let all = world.model.group("g").unwrap().rekey_views();
    assert!(all.iter().all(|r| r.acknowledged == 1), "{all:?}");
}

/// The key server asks whether members live, and who does not answer is one no more.
#[test]
fn kept_ike_sas_are_not_closed_when_idle_and_members_go_with_them() {
    let mut world = world(InBand::Everybody);
    let (a, b) = (world.join(1), world.join(2));
    world.pass(Duration::from_secs(600));
    assert_eq!(world.server.established(), 2);
    world.rekey(RekeyReason::Operator, &[]);
    assert!(world.has_newest(a) && world.has_newest(b));
    let gone = world.hosts[b].address;
    world.fate = Box::new(move |p| usize::from(p.to != gone && p.from != gone));
    world.pass(Duration::from_secs(300));
    assert_eq!(view(&world, &identity(2)).state, MemberState::Left);
    assert_eq!((world.server.established(), world.server.counters().lost), (1, 1));
    // The member has noticed, too, and has no keys that nobody replaces.
    assert!(world.hosts[b].sas.is_empty() && world.hosts[b].events.contains(&MemberEvent::Excluded));
    world.fate = Box::new(|_| 1);
    world.pass(Duration::from_secs(120));
    assert!(world.has_newest(b));
    assert_eq!(view(&world, &identity(2)).state, MemberState::Active);
}

#[test]
fn a_restarted_key_server_has_no_ike_sas_and_members_come_back() {
    let mut world = world(InBand::Everybody);
    let at = world.join(1);
    world.server = crate::Server::new(config());
    world.pass(Duration::from_secs(300));
    assert!(world.hosts[at].events.contains(&MemberEvent::Excluded));
    assert!(world.has_newest(at));
    world.rekey(RekeyReason::Operator, &[]);
    assert!(world.has_newest(at));
    assert_eq!(ledger(&world).acknowledged, 1);
}

/// Everything deleted: members register anew over the IKE SA that there is, after a random time.
#[test]
fn a_reset_is_told_in_band() {
    let mut world = world(InBand::Everybody);
    let (a, b) = (world.join(1), world.join(2));
    world.rekey(RekeyReason::Reset, &[]);
    for at in [a, b] {
        assert_eq!(world.hosts[at].events.last(), Some(&MemberEvent::Excluded));
        assert!(world.hosts[at].sas.is_empty());
    }
    world.pass(Duration::from_secs(15));
    assert!(world.has_newest(a) && world.has_newest(b));
    assert_eq!(world.server.counters().established, 2, "no other IKE SA is wanted");
    world.rekey(RekeyReason::DeleteTeks, &[]);
    assert!(world.has_newest(a) && world.has_newest(b));
    assert_eq!(world.hosts[a].delays, (Duration::ZERO, Duration::ZERO), "keys that are not trusted go at once");
}

#[test]
fn who_leaves_is_told_nothing_more() {
    let mut world = world(InBand::Everybody);
    let (a, b) = (world.join(1), world.join(2));
    world.leave(a);
    world.run();
    assert_eq!(world.hosts[a].events.last(), Some(&MemberEvent::Left));
    world.rekey(RekeyReason::Eviction, &[]);
    assert!(!world.has_newest(a) && world.has_newest(b));
    assert_eq!(ledger(&world).expected, 1);
}

/// The IKE SA gets new keys, and what it carries goes along.
#[test]
fn rekeys_go_on_over_an_ike_sa_that_replaced_another() {
    let mut world = world(InBand::Everybody);
    let at = world.join(1);
    for hours in [7, 7, 7] {
        world.pass(Duration::from_secs(hours * 3600));
        world.rekey(RekeyReason::Operator, &[]);
        assert!(world.has_newest(at));
    }
    assert!(world.server.counters().rekeyed >= 2, "{:?}", world.server.counters());
    assert_eq!(view(&world, &identity(1)).acknowledged, 3);
    assert_eq!(world.hosts[at].member.status().registrations, 1);
}

/// A policy may keep the IKE SAs of members that follow GSA_REKEY.
#[test]
fn ike_sas_are_kept_or_closed_by_policy() {
    for keep_ike_sa in [false, true] {
        let mut group = policy(false);
        group.gikev2.as_mut().unwrap().options.keep_ike_sa = keep_ike_sa;
        let mut world = World::new(group);
        let at = world.join(1);
        world.pass(Duration::from_secs(200));
        assert_eq!(world.server.established(), usize::from(keep_ike_sa));
        world.rekey(RekeyReason::Operator, &[]);
        assert!(world.has_newest(at));
        assert_eq!(sent(&world), (0, 0, 1));
    }
}

/// A request of the key server over the only IKE SA, with these payloads; what the member answers is an error, or nothing.
fn asked(world: &mut World, at: usize, id: u32, payloads: &[(PayloadKind, Vec<u8>)]) -> Option<NotifyType> {
    let mut chain = ChainWriter::new();
    payloads.iter().for_each(|(kind, body)| chain.push(kind.0, body));
    let sa = world.server.sa_for_test().unwrap();
    let bytes = sa.seal(ExchangeType::GSA_INBAND_REKEY, Direction::Request, id, chain, &mut world.rng).unwrap();
    let (from, to) = (world.gateway, world.hosts[at].address);
    world.on_member(at, false, |m, ctx| m.receive(ctx, Datagram { from, to, via: Via::Udp, bytes: &bytes }));
    let answer = world.wire.pop_back().unwrap();
    let opened = world.server.sa_for_test().unwrap().open(&answer.bytes).unwrap();
    crate::wire::message::Payloads::parse(opened.first, opened.inner.expose(), &[]).unwrap().error()
}

/// What belongs into registrations, keys that do not fit their policy, and a Rekey SA of which nobody said how it is
/// authenticated: an error is answered, and nothing changes.
#[test]
fn what_has_no_place_in_a_rekey_in_band_is_refused() {
    let kd = |groups: Vec<GroupBag<'_>>, member| (PayloadKind::KD, Kd { groups, member }.to_vec());
    for wrong in 0..5 {
        let mut world = world(InBand::Everybody);
        let at = world.join(1);
        let keys = world.hosts[at].sas.clone();
        let (policy, sa) = (world.policy.clone(), world.rekey_sa());
        let rekey = to_wire::rekey_policy(&policy, &sa, Duration::from_secs(60), None).unwrap();
        let gsa = |sas| (PayloadKind::GSA, Gsa { sas, group_wide: None }.to_vec());
        let data =
            world.model.offer(&policy.ids[0], &identity(9), None, keyferry_model::id::Protocol::Gikev2, world.now);
        let data = &data.unwrap().epochs[0].sas[0];
        let told = to_wire::data_policy(data, None);
        let strange = to_wire::data_bag(data, &Secret::new(vec![9; 32])).unwrap();
        let ids = MemberBag { sender_ids: vec![vec![1].into()], ..MemberBag::default() };
        let payloads = match wrong {
            0 => vec![gsa(vec![told]), kd(vec![strange], None)],
            1 => vec![gsa(vec![told])],
            2 => vec![kd(Vec::new(), Some(ids))],
            3 => vec![gsa(vec![rekey])],
            _ => vec![(PayloadKind::GSA, vec![1, 2, 3])],
        };
        let expected = if wrong == 3 { NotifyType::NO_PROPOSAL_CHOSEN } else { NotifyType::INVALID_SYNTAX };
        assert_eq!(asked(&mut world, at, 0, &payloads), Some(expected), "{wrong}");
        if wrong == 3 {
            assert_eq!(world.hosts[at].sas, keys);
        } else {
            // INVALID_SYNTAX ends the IKE SA (RFC 7296 section 2.21.3), and with it the membership.
            assert_eq!(world.hosts[at].events.last(), Some(&MemberEvent::Disconnected));
            assert!(world.hosts[at].sas.is_empty());
        }
    }
}

/// Without USE_TRANSPORT_MODE nothing changes (reading 17), and a Delete of everything is exclusion in each of its forms (13).
#[test]
fn deletes_in_band_are_taken_in_all_forms() {
    use crate::wire::delete::Delete;
    let all = |protocol, spi_len: u8, spis: &[u8]| {
        (PayloadKind::DELETE, Delete { protocol, spi_len, spis: spis.to_vec().into() }.to_vec())
    };
    for delete in [
        all(ProtocolId::GIKE_UPDATE, 16, &[0; 16]),
        all(ProtocolId::GIKE_UPDATE, 16, &[]),
        all(ProtocolId::NONE, 0, &[]),
    ] {
        let mut world = world(InBand::Everybody);
        let at = world.join(1);
        let notify = (PayloadKind::NOTIFY, Notify::bare(NotifyType::USE_TRANSPORT_MODE).to_vec());
        assert_eq!(asked(&mut world, at, 0, &[notify]), None);
        assert_eq!(world.hosts[at].sas.len(), 1);
        assert_eq!(asked(&mut world, at, 1, &[delete]), None);
        assert_eq!(world.hosts[at].events.last(), Some(&MemberEvent::Excluded));
        assert!(world.hosts[at].sas.is_empty());
    }
}

/// A newcomer that must not read what was before gets nothing but delays and sender IDs at first, and traffic keys with the
/// next rekey (RFC 6407 section 7.4.2); one to whom that never comes registers anew.
#[test]
fn newcomers_wait_for_keys_that_come_in_band() {
    let mut policy = group(InBand::Everybody);
    policy.backward_access = Some(BackwardAccess { scope: BackwardScope::Full, gathering: Duration::from_secs(5) });
    let mut world = World::new(policy);
    let first = world.join(1);
    assert!(world.has_newest(first), "nobody had these keys");
    let (sender, listener) = (world.join(2), receiver(&mut world, 3));
    for (at, sender_ids) in [(sender, Some(vec![1])), (listener, None)] {
        assert!(world.hosts[at].sas.is_empty());
        assert_eq!(world.hosts[at].sender_ids.as_ref().map(|s| s.ids.clone()), sender_ids);
    }
    world.rekey(RekeyReason::Joining, &[]);
    for at in [first, sender, listener] {
        assert!(world.has_newest(at));
    }
    assert_eq!(view(&world, &identity(2)).registrations, 1);
    let late = world.join(4);
    world.pass(Duration::from_secs(181));
    assert!(world.hosts[late].sas.is_empty());
    assert_eq!(view(&world, &identity(4)).registrations, 2);
}

/// A registration's answer that a rekey overtook tells of keys that are no longer the newest (RFC 9838 section 2.3.3): they are
/// asked for again, be it the first registration over this IKE SA or another one.
#[test]
fn an_answer_that_a_rekey_overtook_is_not_taken() {
    for anew in [false, true] {
        let mut world = world(InBand::Everybody);
        let at = world.join(1);
        let late = |p: &Packet| p.exchange() == ExchangeType::GSA_REGISTRATION.0 && p.is_response();
        world.fate = Box::new(move |p| usize::from(!late(p)));
        if anew {
            world.rekey(RekeyReason::Reset, &[]);
            let asked = |p: &Packet| p.exchange() == ExchangeType::GSA_REGISTRATION.0;
            while !world.seen.iter().any(asked) {
                world.pass(Duration::from_millis(100));
            }
        } else {
            world.start(at);
            world.run();
        }
        world.rekey(RekeyReason::Operator, &[]);
        world.fate = Box::new(|_| 1);
        world.pass(Duration::from_secs(20));
        assert!(world.has_newest(at), "anew: {anew}");
        let newest = world.newest_spis();
        world.rekey(RekeyReason::Operator, &[]);
        assert!(world.has_newest(at) && world.newest_spis() != newest);
    }
}

/// What is out over an IKE SA that goes is told over the one in its place, and at once.
#[test]
fn a_rekey_under_way_goes_on_over_the_next_ike_sa() {
    let mut world = world(InBand::Everybody);
    let settings = world.settings(1);
    let at = world.add(settings);
    let lifetime = Duration::from_secs(1000);
    world.hosts[at].member.set_ike_options(IkeOptions { lifetime, ..IkeOptions::default() });
    world.start(at);
    world.run();
    world.jump(world.now.mono + Duration::from_secs(901));
    world.fate = Box::new(|p| usize::from(p.exchange() != ExchangeType::GSA_INBAND_REKEY.0));
    world.rekey(RekeyReason::Operator, &[]);
    assert!(!world.has_newest(at));
    world.fate = Box::new(|_| 1);
    world.on_member(at, false, |m, ctx| m.expire(ctx));
    world.run();
    assert_eq!((world.server.counters().rekeyed, world.server.established()), (1, 1));
    assert!(world.has_newest(at));
}

/// Rekeys that waited for a member are nothing for it once it is evicted.
#[test]
fn who_is_evicted_gets_no_keys_that_waited() {
    let mut world = world(InBand::Everybody);
    let at = world.join(1);
    world.fate = Box::new(|p| usize::from(p.exchange() != ExchangeType::GSA_INBAND_REKEY.0));
    for _ in 0..3 {
        world.rekey(RekeyReason::Operator, &[]);
    }
    let known = world.newest_spis();
    world.rekey(RekeyReason::Eviction, &[identity(1)]);
    world.fate = Box::new(|_| 1);
    world.pass(Duration::from_secs(4));
    assert_eq!(world.hosts[at].events.last(), Some(&MemberEvent::Excluded));
    assert!(world.hosts[at].member.status().rekeys <= 2, "the one that was out, and what it replaces");
    assert!(known.iter().all(|spi| !world.hosts[at].sas.contains_key(spi)));
}

/// An IKE SA is not kept for somebody evicted, whatever it answers.
#[test]
fn who_refuses_its_eviction_is_evicted() {
    let mut world = world(InBand::Everybody);
    let at = world.join(1);
    world.fate = Box::new(|_| 0);
    world.rekey(RekeyReason::Eviction, &[identity(1)]);
    let told = world.seen.last().unwrap().clone();
    assert_eq!(told.exchange(), ExchangeType::GSA_INBAND_REKEY.0);
    let id = Header::decode(&told.bytes).unwrap().0.message_id;
    let mut chain = ChainWriter::new();
    chain.push(PayloadKind::NOTIFY.0, &Notify::bare(NotifyType::NO_PROPOSAL_CHOSEN).to_vec());
    let sa = world.hosts[at].member.sa_for_test().unwrap();
    let mut rng = keyferry_crypto::SeededRandom::new(7);
    let bytes = sa.seal(ExchangeType::GSA_INBAND_REKEY, Direction::Response, id, chain, &mut rng).unwrap();
    world.deliver(Packet { from: told.to, to: told.from, via: Via::Udp, bytes, tainted: false });
    world.jump(world.now.mono + config().idle);
    world.on_server(false, |s, ctx| s.expire(ctx));
    assert_eq!(world.seen.last().unwrap().exchange(), ExchangeType::INFORMATIONAL.0);
    world.pass(Duration::from_secs(55));
    world.fate = Box::new(|_| 1);
    assert_eq!(world.server.established(), 1, "the Delete is repeated");
    world.pass(Duration::from_secs(60));
    assert_eq!(world.server.established(), 0);
}
