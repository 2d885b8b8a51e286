//! Several groups over one IKE SA (RFC 9838 section 2.3.2): registered for, rekeyed, refused and left.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use keyferry_crypto::{Hash, SignatureAlgorithm};
use keyferry_model::Model;
use keyferry_model::id::{GroupId, Protocol};
use keyferry_model::plan::RekeyReason;
use keyferry_model::policy::*;
use keyferry_model::update::{MemberEvent, MemberOutput};
use keyferry_model::view::MemberState;

use super::support::*;
use crate::rekey;
use crate::wire::registry::ExchangeType;
use crate::wire::sk::Fragment;

fn other() -> GroupPolicy {
    let mut other = policy(false);
    (other.name, other.ids) = ("h".into(), vec![GroupId::Number(2)]);
    let mut line = TrafficPolicy::clone(&other.traffic[0]);
    line.destination.address = [239, 192, 0, 9].into();
    other.traffic = vec![Arc::new(line)];
    other.gikev2.as_mut().unwrap().transport = RekeyTransport::Multicast("239.192.0.10:848".parse().unwrap());
    other
}

/// A key server of two groups, and a member of the first that asks for these besides.
fn world(first: GroupPolicy, second: GroupPolicy, further: &[u32]) -> (World, usize) {
    let mut world = World::new(first.clone());
    world.model = Model::load(vec![first, second], &BTreeMap::new(), world.now, &mut world.rng).unwrap();
    let _ = world.model.take_store_ops();
    let settings = world.settings(1);
    let at = world.add(settings);
    further.iter().for_each(|n| world.hosts[at].member.add_group(GroupId::Number(*n)));
    world.start(at);
    world.run();
    (world, at)
}

fn events(world: &World, at: usize, group: usize) -> Vec<MemberEvent> {
    let of = |(n, output): &(usize, MemberOutput)| {
        let MemberOutput::Event(event) = output else { return None };
        (*n == group).then(|| event.clone())
    };
    world.hosts[at].further.iter().filter_map(of).collect()
}

/// SPIs that a further group has installed, newest last.
fn spis(world: &World, at: usize) -> Vec<u32> {
    let of = |(_, output): &(usize, MemberOutput)| {
        let MemberOutput::Update(update) = output else { return Vec::new() };
        update.install.iter().map(|sa| sa.spi).collect()
    };
    world.hosts[at].further.iter().flat_map(of).collect()
}

fn rekey_other(world: &mut World, reason: RekeyReason) {
    let plan = world.model.rekey("h", reason, &[], world.now, &mut world.rng).unwrap();
    let _ = world.model.take_store_ops();
    for step in plan.steps.iter().filter(|s| s.protocol == Protocol::Gikev2) {
        let message = rekey::render(&plan.policy, step, plan.fragment_size, &mut world.rng).unwrap();
        let present = std::mem::replace(&mut world.policy, other());
        world.multicast(&message);
        world.policy = present;
    }
}

fn states(world: &World) -> [Option<MemberState>; 2] {
    ["g", "h"].map(|name| world.model.group(name).unwrap().member_views().first().map(|m| m.state))
}

#[test]
fn groups_are_joined_over_one_ike_sa_and_rekeyed_apart() {
    let (mut world, at) = world(policy(false), other(), &[2]);
    assert_eq!(states(&world), [Some(MemberState::Active); 2]);
    assert_eq!((world.server.counters().established, world.server.counters().registered), (1, 2));
    assert_eq!(events(&world, at, 1), [MemberEvent::Registered]);
    assert!(world.hosts[at].listens.contains(&"239.192.0.10:848".parse().unwrap()));
    let (first, second) = (world.hosts[at].sas.clone(), spis(&world, at));
    assert!(second.len() == 1 && !first.contains_key(&second[0]));
    world.pass(Duration::from_secs(60));
    rekey_other(&mut world, RekeyReason::Operator);
    assert_eq!(events(&world, at, 1), [MemberEvent::Registered, MemberEvent::Rekeyed { counter: 0 }]);
    assert_eq!(spis(&world, at).len(), 2);
    assert_eq!(world.hosts[at].sas, first, "the first group is left alone");
    world.rekey(RekeyReason::Operator, &[]);
    assert!(world.has_newest(at) && spis(&world, at).len() == 2);
    let status = world.hosts[at].member.status();
    assert_eq!((status.further[0].registered, status.further[0].rekeys, status.rejected), (true, 1, 0));
}

/// Fragments are of the group whose Rekey SA they come under.
#[test]
fn rekeys_of_a_further_group_come_in_fragments() {
    let mut second = other();
    second.gikev2.as_mut().unwrap().options.fragment_size = Some(300);
    let (mut world, at) = world(policy(false), second, &[2]);
    let sent = world.seen.len();
    for _ in 0..2 {
        rekey_other(&mut world, RekeyReason::Operator);
    }
    let fragments = world.seen[sent..].iter().filter(|p| Fragment::of(&p.bytes).is_some()).count();
    assert!(fragments >= 6, "{fragments}");
    let status = world.hosts[at].member.status();
    assert_eq!((status.further[0].rekeys, status.rekeys, status.rejected), (2, 0, 0));
    // A copy, and nonsense.
    let first =
        world.seen[sent..].iter().rfind(|p| Fragment::of(&p.bytes).is_some_and(|f| f.number == 1)).unwrap().clone();
    world.deliver(first.clone());
    for bytes in variants(&first.bytes) {
        world.deliver(Packet { bytes, ..first.clone() });
    }
    let status = world.hosts[at].member.status();
    assert_eq!((status.further[0].rekeys, status.copies), (2, 1));
}

/// Excluded from one group, it stays in the other, and registers anew over another IKE SA: there is none any more.
#[test]
fn a_group_that_is_reset_is_registered_for_anew() {
    let (mut world, at) = world(policy(false), other(), &[2]);
    world.pass(Duration::from_secs(60));
    rekey_other(&mut world, RekeyReason::Reset);
    assert!(matches!(events(&world, at, 1)[..], [MemberEvent::Registered, MemberEvent::Excluded]));
    assert!(world.has_newest(at));
    world.pass(Duration::from_secs(15));
    assert_eq!(events(&world, at, 1).last(), Some(&MemberEvent::Registered));
    let counters = world.server.counters();
    assert_eq!((counters.established, counters.registered), (2, 3), "the first group was not asked for again");
}

#[test]
fn a_group_that_is_refused_waits_alone() {
    let mut second = other();
    second.authorization = Authorization::Listed(vec![identity(9)]);
    let (mut world, at) = world(policy(false), second, &[7, 2]);
    let refused = |why: &str| MemberEvent::Refused(why.into());
    assert_eq!(events(&world, at, 1), [refused("INVALID_GROUP_ID")]);
    assert_eq!(events(&world, at, 2), [refused("AUTHORIZATION_FAILED")]);
    assert!(world.has_newest(at));
    world.pass(Duration::from_secs(11));
    assert_eq!((events(&world, at, 1).len(), events(&world, at, 2).len()), (2, 2));
    assert_eq!(world.hosts[at].member.status().registrations, 1);
}

/// An OID names a group to GDOI alone.
#[test]
fn a_group_without_a_name_in_ikev2_is_not_asked_for() {
    let mut world = World::new(policy(false));
    let settings = world.settings(1);
    let at = world.add(settings);
    world.hosts[at].member.add_group("oid:1.2.840.10070.61850.8.1.2".parse().unwrap());
    world.start(at);
    world.run();
    world.pass(Duration::from_secs(20));
    assert!(matches!(events(&world, at, 1)[..], [MemberEvent::Refused(_)]));
    assert_eq!((world.server.counters().registered, world.server.counters().malformed), (1, 0));
}

#[test]
fn all_groups_are_left() {
    let (mut world, at) = world(policy(false), other(), &[2]);
    world.leave(at);
    world.run();
    assert_eq!(states(&world), [Some(MemberState::Left); 2]);
    assert_eq!(events(&world, at, 1).last(), Some(&MemberEvent::Left));
    assert_eq!(world.hosts[at].events.last(), Some(&MemberEvent::Left));
    world.pass(Duration::from_secs(60));
    assert_eq!(states(&world), [Some(MemberState::Left); 2]);
}

/// GSA_INBAND_REKEY names no group: an IKE SA over which one is rekeyed carries no other (reading 32).
#[test]
fn what_is_rekeyed_in_band_has_the_ike_sa_for_itself() {
    let in_band = |mut group: GroupPolicy| {
        group.gikev2.as_mut().unwrap().options.in_band = InBand::Everybody;
        group
    };
    let refused = [MemberEvent::Refused("REGISTRATION_FAILED".into())];
    for (first, second) in [(in_band(policy(false)), other()), (policy(false), in_band(other()))] {
        let (world, at) = world(first, second, &[2]);
        assert_eq!(events(&world, at, 1), refused);
        assert!(world.has_newest(at));
    }
}

/// A registration for a further group that is never answered is asked again, over another IKE SA.
#[test]
fn a_further_registration_without_an_answer_is_tried_again() {
    let mut world = World::new(policy(false));
    world.model = Model::load(vec![policy(false), other()], &BTreeMap::new(), world.now, &mut world.rng).unwrap();
    let _ = world.model.take_store_ops();
    let settings = world.settings(1);
    let at = world.add(settings);
    world.hosts[at].member.add_group(GroupId::Number(2));
    world.fate = Box::new(|p| usize::from(p.exchange() != ExchangeType::GSA_REGISTRATION.0));
    world.start(at);
    world.pass(Duration::from_secs(120));
    assert!(world.has_newest(at) && events(&world, at, 1).is_empty());
    world.fate = Box::new(|_| 1);
    world.pass(Duration::from_secs(120));
    assert_eq!(events(&world, at, 1), [MemberEvent::Registered]);
}

/// Declining a further group is no farewell to the first one, whatever becomes of the IKE SA meanwhile.
#[test]
fn a_further_group_is_declined_alone() {
    let mut second = other();
    let weak = SignatureAlgorithm::RsaPkcs1(Hash::Sha1);
    second.gikev2.as_mut().unwrap().authentication = RekeyAuthentication::Signature(signer(), weak);
    let mut config = config();
    (config.ike.lifetime, config.idle) = (Duration::from_secs(1000), Duration::from_secs(100_000));
    let mut world = World::with(policy(false), config, 1);
    world.model = Model::load(vec![policy(false), second], &BTreeMap::new(), world.now, &mut world.rng).unwrap();
    let _ = world.model.take_store_ops();
    let settings = world.settings(1);
    let at = world.add(settings);
    world.hosts[at].member.add_group(GroupId::Number(2));
    let mut registrations = 0;
    world.fate = Box::new(move |p| {
        let request = p.exchange() == ExchangeType::GSA_REGISTRATION.0 && !p.is_response();
        registrations += usize::from(request);
        usize::from(!request || registrations != 2)
    });
    world.start(at);
    world.run();
    assert_eq!(states(&world), [Some(MemberState::Active); 2], "the one that declines is lost");
    world.jump(world.now.mono + Duration::from_secs(901));
    world.on_server(false, |s, ctx| s.expire(ctx));
    world.run();
    assert_eq!(world.server.counters().rekeyed, 1);
    assert_eq!(states(&world), [Some(MemberState::Active), Some(MemberState::Left)]);
}

/// So is one of nothing but traffic that is none of the key server's business.
#[test]
fn a_further_group_of_traffic_that_is_not_accepted_is_declined() {
    let mut second = other();
    let line = TrafficPolicy { destination: selector("10.2.0.0", 16), ..(*second.traffic[0]).clone() };
    second.traffic = vec![Arc::new(line)];
    let (world, at) = world(policy(false), second, &[2]);
    assert_eq!(
        events(&world, at, 1),
        [MemberEvent::Refused("the group protects nothing that accept_traffic names".to_owned())]
    );
    assert!(spis(&world, at).is_empty());
    assert_eq!(states(&world), [Some(MemberState::Active), Some(MemberState::Left)]);
}

/// Replays of a further group's newest rekey draw no more acknowledgements than those of the first one's.
#[test]
fn replays_of_a_further_group_draw_no_crowd_of_acknowledgements() {
    let (mut first, mut second) = (policy(false), other());
    for group in [&mut first, &mut second] {
        group.gikev2.as_mut().unwrap().options.ack = true;
    }
    let mut world = World::new(first.clone());
    world.model = Model::load(vec![first, second], &BTreeMap::new(), world.now, &mut world.rng).unwrap();
    let _ = world.model.take_store_ops();
    let mut settings = world.settings(1);
    settings.gikev2.ack = true;
    let at = world.add(settings);
    world.hosts[at].member.add_group(GroupId::Number(2));
    world.start(at);
    world.run();
    rekey_other(&mut world, RekeyReason::Operator);
    let message = world.seen.iter().rfind(|p| p.exchange() == ExchangeType::GSA_REKEY.0).unwrap().clone();
    for _ in 0..20 {
        world.deliver(message.clone());
    }
    assert_eq!(world.seen.iter().filter(|p| p.exchange() == ExchangeType::REKEY_ACK.0).count(), 4);
    let status = world.hosts[at].member.status();
    assert_eq!((status.acknowledged, status.copies), (4, 20));
}
