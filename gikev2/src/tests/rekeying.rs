//! GSA_REKEY, from the plan to the members.

use std::sync::Arc;
use std::time::Duration;

use keyferry_crypto::{BlockCipher, Hash, Integrity, SignatureAlgorithm, SigningKey};
use keyferry_model::drive::Via;
use keyferry_model::epoch::Epoch;
use keyferry_model::id::Protocol;
use keyferry_model::plan::{Deletion, RekeyReason, RekeyStep};
use keyferry_model::policy::{
    Authorization, BackwardAccess, BackwardScope, EspTransform, GroupPolicy, RekeyAuthentication, TrafficPolicy,
};
use keyferry_model::update::MemberEvent;
use keyferry_wire::Header;

use super::support::*;
use crate::reject::Reject;
use crate::rekey;
use crate::rekey::receive::Rekey;
use crate::wire::registry::{ExchangeType, flags};

fn world(implicit: bool, use_cbc: bool, v6: bool) -> World {
    let mut group = policy(v6);
    let rekey = group.gikev2.as_mut().unwrap();
    if implicit {
        rekey.authentication = RekeyAuthentication::Implicit;
    }
    if use_cbc {
        rekey.protection = cbc();
        rekey.wrap_key_len = 32;
    }
    World::new(group)
}

#[test]
fn members_follow_rekeys() {
    for (implicit, use_cbc, v6) in
        [(false, false, false), (true, false, true), (false, true, true), (true, true, false)]
    {
        let mut world = world(implicit, use_cbc, v6);
        let (a, b) = (world.join(1), world.join(2));
        world.pass(Duration::from_secs(60));
        for round in 0..3 {
            world.rekey(RekeyReason::Operator, &[]);
            assert!(world.has_newest(a) && world.has_newest(b));
            let events = &world.hosts[a].events;
            assert_eq!(events.last(), Some(&MemberEvent::Rekeyed { counter: round }));
            world.pass(Duration::from_secs(20));
        }
        assert_eq!(world.hosts[a].delays, (Duration::from_secs(5), Duration::from_secs(10)));
        assert_eq!(world.hosts[a].sas, world.hosts[b].sas);
        assert_eq!(world.hosts[a].sas.len(), 1, "replaced SAs are deleted");
        assert_eq!(world.server.counters().registered, 2);
    }
}

/// ECDSA values are DER, whose length is not always the same; the length that is signed is that of the value (reading 2).
#[test]
fn rekeys_are_followed_however_they_are_signed() {
    for authentication in signatures() {
        let mut group = policy(false);
        group.gikev2.as_mut().unwrap().authentication = authentication;
        let mut world = World::new(group);
        let (a, b) = (world.join(1), world.join(2));
        for _ in 0..6 {
            world.rekey(RekeyReason::Operator, &[]);
            assert!(world.has_newest(a) && world.has_newest(b));
        }
        world.rekey(RekeyReason::Eviction, &[identity(2)]);
        assert!(world.has_newest(a) && !world.has_newest(b));
        assert_eq!(world.hosts[a].member.status().rejected, 0);
    }
}

/// The signature may come from elsewhere, and one that is not what was asked for makes no message.
#[test]
fn a_message_is_signed_elsewhere() {
    for authentication in signatures() {
        let mut group = policy(false);
        group.gikev2.as_mut().unwrap().authentication = authentication;
        let mut world = World::new(group);
        let at = world.join(1);
        let plan = world.plan_steps(RekeyReason::Operator, &[]);
        let unsigned = rekey::prepare(&plan.policy, &plan.steps[0], None, &mut world.rng).unwrap();
        let value = unsigned.to_sign().unwrap().unwrap().sign().unwrap();
        for wrong in [None, Some(&[][..]), Some(&value[1..])] {
            assert!(unsigned.finish(wrong, &mut world.rng).is_err());
        }
        let message = unsigned.finish(Some(&value), &mut world.rng).unwrap();
        world.multicast(&message);
        assert!(world.has_newest(at));
    }
    let mut world = self::world(true, false, false);
    let at = world.join(1);
    let plan = world.plan_steps(RekeyReason::Operator, &[]);
    let unsigned = rekey::prepare(&plan.policy, &plan.steps[0], None, &mut world.rng).unwrap();
    assert!(unsigned.to_sign().unwrap().is_none() && unsigned.finish(Some(&[1]), &mut world.rng).is_err());
    let message = unsigned.finish(None, &mut world.rng).unwrap();
    world.multicast(&message);
    assert!(world.has_newest(at));
}

/// A new AUTH_KEY comes in a message that the old key signs, and holds for what follows, also when members are excluded by the
/// same rekey (RFC 9838 section 2.4.1, readings 6 and 25).
#[test]
fn another_signing_key_is_told_in_a_rekey() {
    for evict in [false, true] {
        let mut world = world(false, false, false);
        let (a, b) = (world.join(1), world.join(2));
        let mut to = world.policy.clone();
        let fresh = Arc::new(SigningKey::generate_rsa(2048).unwrap());
        to.gikev2.as_mut().unwrap().authentication =
            RekeyAuthentication::Signature(fresh, SignatureAlgorithm::RsaPkcs1(Hash::Sha256));
        if evict {
            to.authorization = Authorization::Listed(vec![identity(1), identity(3)]);
        }
        world.change(to);
        assert!(world.has_newest(a));
        assert_eq!(world.has_newest(b), !evict);
        let late = world.join(3);
        world.rekey(RekeyReason::Operator, &[]);
        assert!(world.has_newest(a) && world.has_newest(late));
        assert_eq!(world.hosts[a].member.status().rejected, 0);
        assert!(!world.hosts[a].events.contains(&MemberEvent::Excluded));
    }
}

/// Everybody is taken to the Rekey SA of the newcomers by a message that changes nothing else: the new key comes in the one
/// after it, which the old key signs (reading 25).
#[test]
fn another_signing_key_is_told_after_newcomers_are_introduced() {
    let mut group = policy(false);
    group.backward_access = Some(BackwardAccess { scope: BackwardScope::Full, gathering: Duration::from_secs(5) });
    let mut world = World::new(group);
    let a = world.join(1);
    world.rekey(RekeyReason::Operator, &[]);
    let b = world.join(2);
    let mut to = world.policy.clone();
    let fresh = Arc::new(SigningKey::generate_rsa(2048).unwrap());
    to.gikev2.as_mut().unwrap().authentication =
        RekeyAuthentication::Signature(fresh, SignatureAlgorithm::RsaPkcs1(Hash::Sha256));
    world.change(to);
    for _ in 0..2 {
        assert!(world.has_newest(a) && world.has_newest(b));
        assert_eq!(world.hosts[a].member.status().rejected, 0);
        world.rekey(RekeyReason::Operator, &[]);
    }
    assert!(world.hosts[a].member.status().rekeys > world.hosts[b].member.status().rekeys, "one was introduced");
}

/// A message under a Rekey SA that was promised shows that the one which brought it is lost (RFC 9838 section 4.4.2.2.3).
#[test]
fn a_missed_rekey_is_noticed_by_the_spi_that_was_promised() {
    for next_spis in [false, true] {
        let mut group = policy(false);
        group.gikev2.as_mut().unwrap().options.next_spis = next_spis;
        let mut world = World::new(group);
        let (a, b) = (world.join(1), world.join(2));
        let mut to = world.policy.clone();
        to.kek_lifetime = Duration::from_secs(7200);
        let (spi, data) = (world.rekey_sa().next_spi, world.newest_spis());
        assert_eq!(spi.is_some(), next_spis);
        // One of the two does not get what brings the new Rekey SA.
        let deaf = world.hosts[b].listens.clone();
        world.hosts[b].listens.clear();
        world.change(to);
        world.hosts[b].listens = deaf;
        assert_eq!(spi == Some(world.rekey_sa().spi), next_spis, "it is what was promised");
        assert!(world.newest_spis().is_disjoint(&data));
        world.rekey(RekeyReason::Operator, &[]);
        assert!(world.has_newest(a) && !world.has_newest(b));
        world.pass(Duration::from_secs(20));
        assert_eq!(world.has_newest(b), next_spis);
        assert_eq!(world.hosts[b].member.status().missed, u64::from(next_spis));
    }
}

/// What was promised to who is excluded is not used: it could make others believe that they missed something.
#[test]
fn spis_that_an_excluded_member_knows_are_not_used() {
    let mut group = policy(false);
    group.gikev2.as_mut().unwrap().options.next_spis = true;
    let mut world = World::new(group);
    let a = world.join(1);
    world.join(2);
    let promised = world.rekey_sa().next_spi;
    world.rekey(RekeyReason::Eviction, &[identity(2)]);
    assert!(world.has_newest(a) && promised != Some(world.rekey_sa().spi));
}

#[test]
fn an_evicted_member_cannot_follow_and_the_others_can() {
    for implicit in [false, true] {
        let mut world = world(implicit, false, false);
        let all: Vec<usize> = (1..=6).map(|n| world.join(n)).collect();
        world.pass(Duration::from_secs(60));
        world.rekey(RekeyReason::Eviction, &[identity(3)]);
        for at in &all {
            let evicted = *at == all[2];
            assert_eq!(world.has_newest(*at), !evicted, "member {at}");
            assert_eq!(world.hosts[*at].events.contains(&MemberEvent::Excluded), evicted);
        }
        assert!(world.hosts[all[2]].sas.is_empty());
        // It asks again after a while, and is refused.
        world.pass(Duration::from_secs(15));
        assert!(world.hosts[all[2]].events.contains(&MemberEvent::Refused("AUTHORIZATION_FAILED".into())));
        // Another one; and the rest follow an ordinary rekey after that.
        world.rekey(RekeyReason::Eviction, &[identity(5), identity(6)]);
        world.rekey(RekeyReason::Operator, &[]);
        for (n, at) in all.iter().enumerate() {
            assert_eq!(world.has_newest(*at), ![2, 4, 5].contains(&n), "member {n}");
        }
        // A newcomer has the keys of the changed tree, and follows the next eviction.
        let late = world.join(7);
        world.rekey(RekeyReason::Eviction, &[identity(1)]);
        assert!(world.has_newest(late) && world.has_newest(all[1]) && !world.has_newest(all[0]));
    }
}

/// Keys of the second message are out of reach for the evicted member even if it keeps all it has ever seen.
#[test]
fn the_tree_gives_an_evicted_member_no_path() {
    let mut world = world(true, false, false);
    world.join(1);
    let evicted = world.join(2);
    let messages = world.plan(RekeyReason::Eviction, &[identity(2)]);
    assert_eq!(messages.len(), 2);
    world.multicast(&messages[1]);
    assert!(!world.has_newest(evicted));
    world.multicast(&messages[0]);
    assert_eq!(world.hosts[evicted].events.last(), Some(&MemberEvent::Excluded));
    world.multicast(&messages[1]);
    assert!(!world.has_newest(evicted));
}

#[test]
fn copies_are_counted_and_old_messages_refused() {
    let mut world = world(false, false, false);
    let at = world.join(1);
    let first = world.plan(RekeyReason::Operator, &[]).remove(0);
    let second = world.plan(RekeyReason::Operator, &[]).remove(0);
    world.multicast(&first);
    world.multicast(&first);
    world.multicast(&first);
    let status = world.hosts[at].member.status();
    assert_eq!((status.rekeys, status.copies, status.rejected, status.last_counter), (1, 2, 0, Some(0)));
    world.multicast(&second);
    let keys = world.hosts[at].sas.clone();
    world.multicast(&first);
    let status = world.hosts[at].member.status();
    assert_eq!((status.rekeys, status.copies, status.rejected, status.last_counter), (2, 2, 1, Some(1)));
    assert_eq!(world.hosts[at].sas, keys);
}

/// The second message overtakes the first: the first is then too old, and nothing is lost by it.
#[test]
fn a_lost_or_overtaken_message_does_no_harm() {
    let mut world = world(false, false, false);
    let at = world.join(1);
    let first = world.plan(RekeyReason::Operator, &[]).remove(0);
    let second = world.plan(RekeyReason::Operator, &[]).remove(0);
    world.multicast(&second);
    assert!(world.has_newest(at));
    world.multicast(&first);
    assert!(world.has_newest(at));
    assert_eq!(world.hosts[at].member.status().rejected, 1);
}

#[test]
fn a_replaced_rekey_sa_goes_after_the_delay() {
    let mut world = world(false, false, false);
    let (at, _) = (world.join(1), world.join(2));
    let messages = world.plan(RekeyReason::Eviction, &[identity(2)]);
    messages.iter().for_each(|m| world.multicast(m));
    // A late copy of the message that replaced the Rekey SA is known.
    world.multicast(&messages[0]);
    assert_eq!(world.hosts[at].member.status().copies, 1);
    world.pass(Duration::from_secs(11));
    world.multicast(&messages[0]);
    let status = world.hosts[at].member.status();
    assert_eq!((status.copies, status.rekeys), (1, 2));
}

/// Without a delay the replaced Rekey SA is gone at once, and late copies of the message that replaced it are passed over
/// (reading 30).
#[test]
fn late_copies_are_no_errors_where_there_is_no_delay() {
    let mut group = policy(false);
    group.deactivation_delay = Duration::ZERO;
    let mut world = World::new(group);
    let (at, _) = (world.join(1), world.join(2));
    let messages = world.plan(RekeyReason::Eviction, &[identity(2)]);
    messages.iter().for_each(|m| world.multicast(m));
    world.multicast(&messages[0]);
    let status = world.hosts[at].member.status();
    assert_eq!((status.copies, status.rekeys, status.rejected, status.missed), (0, 2, 0, 0));
    assert!(world.has_newest(at));
}

/// Whoever was evicted knows the replaced Rekey SA's keys; without signatures it could speak as the key server.
#[test]
fn a_replaced_rekey_sa_brings_nothing_new_without_signatures() {
    for implicit in [true, false] {
        let mut world = world(implicit, false, false);
        let at = world.join(1);
        world.join(2);
        let plan = world.plan_steps(RekeyReason::Eviction, &[identity(2)]);
        let (old, renewal) = (Arc::clone(&plan.steps[0].over), world.render(&plan, 0));
        world.multicast(&renewal);
        let step = RekeyStep { over: old, counter: 7, ..traffic_keys(&mut world, &plan.policy) };
        let forged = rekey::render(&plan.policy, &step, None, &mut world.rng).unwrap();
        let (header, _) = Header::decode(&forged).unwrap();
        let group = world.hosts[at].member.group_for_test();
        assert!(group.listens_to(&header));
        match group.verify(&header, &forged, true, world.now.mono, None) {
            Err(reject) => assert!(implicit && matches!(reject, Reject::Unauthenticated(_))),
            // Signed, it can only be the key server's.
            Ok(verdict) => assert!(!implicit && matches!(verdict, Rekey::New(_))),
        }
    }
}

/// A step that brings a fresh epoch of this policy.
fn traffic_keys(world: &mut World, policy: &GroupPolicy) -> RekeyStep {
    let wall = world.now.wall;
    let epoch = Epoch::generate(99, policy, wall, wall, &|_| false, &mut world.rng);
    RekeyStep {
        protocol: Protocol::Gikev2,
        over: world.rekey_sa(),
        policy: Arc::new(policy.clone()),
        counter: 0,
        new_rekey: None,
        new_epoch: Some(Arc::new(epoch)),
        delete: Deletion::Spis(Vec::new()),
        activation_delay: Duration::ZERO,
        deactivation_delay: Duration::ZERO,
        streams: keyferry_model::stream::StreamStep::default(),
        counted_from: wall,
    }
}

/// A member without sender IDs, for the policy had no counter mode, meets one in a rekey: it does not install it and
/// registers anew.
#[test]
fn a_sender_without_ids_registers_for_some() {
    let mut group = policy(false);
    let counter_mode = group.traffic.clone();
    let transform = EspTransform::CbcHmac(BlockCipher::Aes128Cbc, Integrity::HmacSha256_128);
    group.traffic = vec![Arc::new(TrafficPolicy { transform, ..(*group.traffic[0]).clone() })];
    let mut world = World::new(group.clone());
    let at = world.join(1);
    group.traffic = counter_mode;
    let step = traffic_keys(&mut world, &group);
    // The model counts the message, too.
    let _ = world.plan(RekeyReason::Operator, &[]);
    let message = rekey::render(&group, &step, None, &mut world.rng).unwrap();
    world.multicast(&message);
    let spi = step.new_epoch.unwrap().sas[0].spi;
    assert!(!world.hosts[at].sas.contains_key(&spi));
    assert_eq!(world.server.counters().registered, 2);
}

#[test]
fn deleting_everything_makes_members_register_anew() {
    let mut group = policy(false);
    group.sender_id_bits = 1;
    let mut world = World::new(group);
    let (a, b) = (world.join(1), world.join(2));
    world.pass(Duration::from_secs(60));
    let settings = world.settings(3);
    let c = world.add(settings);
    world.start(c);
    world.run();
    assert!(world.hosts[c].events.contains(&MemberEvent::Refused("REGISTRATION_FAILED".into())));
    world.rekey(RekeyReason::Reset, &[]);
    for at in [a, b] {
        assert_eq!(world.hosts[at].events.last(), Some(&MemberEvent::Excluded));
        assert!(world.hosts[at].sas.is_empty());
    }
    world.pass(Duration::from_secs(11));
    let registered = [a, b, c].iter().filter(|at| world.has_newest(**at)).count();
    assert_eq!(registered, 2, "two sender IDs, two senders");
}

#[test]
fn a_late_member_starts_at_the_message_id_it_was_told() {
    let mut world = world(false, false, false);
    world.join(1);
    let first = world.plan(RekeyReason::Operator, &[]).remove(0);
    world.multicast(&first);
    let late = world.join(2);
    world.multicast(&first);
    let status = world.hosts[late].member.status();
    assert_eq!((status.rekeys, status.last_counter), (0, Some(0)));
    // Both epochs are there: the replaced one until its end, too.
    assert_eq!(world.hosts[late].sas.len(), world.live_spis().len());
    world.rekey(RekeyReason::Operator, &[]);
    assert_eq!(world.hosts[late].events.last(), Some(&MemberEvent::Rekeyed { counter: 1 }));
}

#[test]
fn the_message_has_the_header_that_was_agreed() {
    let mut world = world(false, false, false);
    let at = world.join(1);
    let message = world.plan(RekeyReason::Operator, &[]).remove(0);
    let (header, _) = Header::decode(&message).unwrap();
    assert_eq!((header.major, header.minor, header.exchange, header.flags), (2, 0, 41, 0));
    assert_eq!(header.message_id, 0);
    let spi: String = header.spi_pair().iter().map(|b| format!("{b:02x}")).collect();
    assert_eq!(world.hosts[at].member.status().rekey_spi, Some(spi));
    // A response it is not.
    let mut response = header;
    response.flags = flags::RESPONSE;
    let group = world.hosts[at].member.group_for_test();
    assert!(group.verify(&response, &message, false, world.now.mono, None).is_err());
    assert!(matches!(group.verify(&header, &message, false, world.now.mono, None), Ok(Rekey::New(_))));
}

#[test]
fn the_server_ignores_rekeys_that_reach_it() {
    let mut world = world(false, false, false);
    world.join(1);
    let message = world.plan(RekeyReason::Operator, &[]).remove(0);
    let packet = Packet { from: world.gateway, to: world.gateway, via: Via::Udp, bytes: message, tainted: false };
    let before = world.seen.len();
    world.deliver(packet);
    assert_eq!((world.seen.len(), world.server.counters().not_for_us), (before, 1));
    assert_eq!(ExchangeType::GSA_REKEY.0, 41);
}
