//! Registrations: what members get, why they are refused, how they leave.

use std::sync::Arc;
use std::time::Duration;

use keyferry_crypto::{Aead, AesCtr, BlockCipher, Integrity};
use keyferry_model::id::GroupId;
use keyferry_model::plan::RekeyReason;
use keyferry_model::policy::*;
use keyferry_model::update::MemberEvent;
use keyferry_model::view::MemberState;

use super::support::*;
use crate::wire::registry::ExchangeType;

fn refused(kind: &str) -> MemberEvent {
    MemberEvent::Refused(kind.to_owned())
}

#[test]
fn a_sender_gets_policy_keys_and_ids() {
    let mut world = World::new(policy(false));
    let at = world.join(1);
    let host = &world.hosts[at];
    let line = &policy(false).traffic[0];
    assert_eq!(host.policies, [Arc::clone(line)]);
    assert_eq!(host.sender_ids.as_ref().unwrap().ids, [0]);
    assert_eq!(host.sender_ids.as_ref().unwrap().bits, 16);
    assert_eq!(host.delays, (Duration::ZERO, Duration::from_secs(10)));
    assert!(host.listens.contains(&"239.192.0.2:848".parse().unwrap()));
    assert!(world.persisted > 0, "sender IDs are durable before they are told");
    assert_eq!(host.sas.values().next().unwrap().len(), 20);
    assert_eq!(host.member.status().state, "registered");
}

#[test]
fn a_receiver_gets_no_ids() {
    let mut world = World::new(policy(true));
    let mut settings = world.settings(1);
    settings.sender_ids = 0;
    let at = world.add(settings);
    world.start(at);
    world.run();
    assert_eq!(world.hosts[at].sender_ids, None);
    assert!(world.has_newest(at));
}

/// Widths of sender IDs, to the widest that leaves a counter of 32 bits in an IV of eight octets (RFC 6054 section 3).
#[test]
fn sender_ids_have_the_width_of_the_policy() {
    for bits in [8, 12, 16, 24, 32] {
        let mut group = policy(false);
        group.sender_id_bits = bits;
        let mut world = World::new(group);
        let (a, b) = (world.join(1), world.join(2));
        for (at, id) in [(a, 0), (b, 1)] {
            let ids = world.hosts[at].sender_ids.as_ref().unwrap();
            assert_eq!((ids.bits, ids.ids.as_slice()), (bits, &[id][..]));
        }
    }
}

#[test]
fn several_ids_may_be_asked_for() {
    let mut world = World::new(policy(false));
    let mut settings = world.settings(1);
    settings.sender_ids = 9;
    let at = world.add(settings);
    world.start(at);
    world.run();
    // The policy gives four at a time.
    assert_eq!(world.hosts[at].sender_ids.as_ref().unwrap().ids, [0, 1, 2, 3]);
}

#[test]
fn transport_mode_cbc_and_implicit_authentication() {
    let mut group = policy(false);
    group.traffic = [("239.192.0.1", 17, 5000), ("239.192.0.9", 0, 0)]
        .map(|(to, protocol, port)| {
            let destination = Selector { address: to.parse().unwrap(), prefix: 32, protocol, port };
            Arc::new(TrafficPolicy {
                destination,
                mode: EspMode::Transport,
                transform: EspTransform::CbcHmac(BlockCipher::Aes128Cbc, Integrity::HmacSha256_128),
                sequence: SequenceNumbers::Sequential,
                replay_window: 64,
                ..(*group.traffic[0]).clone()
            })
        })
        .to_vec();
    let lines = group.traffic.clone();
    let rekey = group.gikev2.as_mut().unwrap();
    rekey.protection = cbc();
    rekey.wrap_key_len = 32;
    rekey.authentication = RekeyAuthentication::Implicit;
    let mut world = World::new(group);
    let at = world.join(1);
    assert_eq!(world.hosts[at].policies, lines);
    assert_eq!(world.hosts[at].sender_ids, None, "CBC needs none");
    assert!(world.has_newest(at));
}

/// Counter mode with its sender IDs, and authentication alone without.
#[test]
fn counter_mode_and_null_with_hmac_are_told() {
    for (transform, ids) in [
        (EspTransform::CtrHmac(AesCtr::Aes256Ctr, Integrity::HmacSha512_256), true),
        (EspTransform::CtrHmac(AesCtr::Aes128Ctr, Integrity::HmacSha1_96), true),
        (EspTransform::NullHmac(Integrity::HmacSha256_128), false),
    ] {
        let mut group = policy(false);
        group.traffic = vec![Arc::new(TrafficPolicy { transform, ..(*group.traffic[0]).clone() })];
        let lines = group.traffic.clone();
        let mut world = World::new(group);
        let at = world.join(1);
        assert_eq!(world.hosts[at].policies, lines);
        assert_eq!(world.hosts[at].sender_ids.is_some(), ids, "{transform:?}");
        assert!(world.has_newest(at));
    }
}

#[test]
fn refusals_are_told_apart() {
    // No such group.
    let mut world = World::new(policy(false));
    let mut settings = world.settings(1);
    settings.group = GroupId::Number(99);
    let at = world.add(settings);
    world.start(at);
    world.run();
    assert_eq!(world.hosts[at].events, [MemberEvent::Connected, refused("INVALID_GROUP_ID")]);
    // The IKE SA lives on, and the next attempt goes over it.
    assert_eq!(world.server.established(), 1);
    world.pass(Duration::from_secs(11));
    assert_eq!(world.server.counters().established, 1);
    assert!(world.hosts[at].events.len() > 2);

    // A group that only GDOI can ask for.
    let mut world = World::new(policy(false));
    let mut settings = world.settings(1);
    settings.group = "oid:1.2.840.10070.61850.8.1.2".parse().unwrap();
    let at = world.add(settings);
    world.start(at);
    world.run();
    let why = "G-IKEv2 cannot ask for the group oid:1.2.840.10070.61850.8.1.2";
    assert_eq!((&world.hosts[at].events[..], world.server.established()), (&[refused(why)][..], 0));

    // Not authorized.
    let mut group = policy(false);
    group.authorization = Authorization::Listed(vec![identity(2)]);
    let mut world = World::new(group);
    let settings = world.settings(1);
    let at = world.add(settings);
    world.start(at);
    world.run();
    assert_eq!(world.hosts[at].events, [MemberEvent::Connected, refused("AUTHORIZATION_FAILED")]);

    // Full.
    let mut group = policy(false);
    group.capacity = 2;
    let mut world = World::new(group);
    world.join(1);
    world.join(2);
    let settings = world.settings(3);
    let at = world.add(settings);
    world.start(at);
    world.run();
    assert_eq!(world.hosts[at].events, [MemberEvent::Connected, refused("REGISTRATION_FAILED")]);

    // Served to nobody by this protocol.
    let mut group = policy(false);
    group.gikev2 = None;
    let mut world = World::new(group);
    let settings = world.settings(1);
    let at = world.add(settings);
    world.start(at);
    world.run();
    assert_eq!(world.hosts[at].events, [MemberEvent::Connected, refused("INVALID_GROUP_ID")]);
    assert_eq!(world.server.counters().refused, 1);
}

#[test]
fn another_registration_over_the_same_sa_brings_fresh_ids() {
    let mut world = World::new(policy(false));
    let at = world.join(1);
    let keys = world.hosts[at].sas.clone();
    world.start(at);
    world.run();
    assert_eq!(world.server.counters().established, 1);
    assert_eq!(world.server.counters().registered, 2);
    assert_eq!(world.hosts[at].sender_ids.as_ref().unwrap().ids, [1]);
    assert_eq!(world.hosts[at].sas, keys);
    let exchanges: Vec<u8> = world.seen.iter().map(|p| p.exchange()).collect();
    assert_eq!(exchanges, [34, 34, 39, 39, 40, 40]);
}

#[test]
fn the_key_server_closes_the_idle_sa_and_the_member_keeps_its_keys() {
    let mut world = World::new(policy(false));
    let at = world.join(1);
    world.pass(Duration::from_secs(29));
    assert_eq!(world.server.established(), 1);
    // The answer to the Delete gets lost once: the Delete is repeated, and answered again.
    let mut lost = false;
    world.fate = Box::new(move |p| {
        let first = p.exchange() == ExchangeType::INFORMATIONAL.0 && p.is_response() && !lost;
        lost |= first;
        usize::from(!first)
    });
    world.pass(Duration::from_secs(10));
    assert_eq!((world.server.established(), world.server.counters().deleted), (0, 1));
    let events = &world.hosts[at].events;
    assert_eq!(*events, [MemberEvent::Connected, MemberEvent::Registered, MemberEvent::Disconnected]);
    assert!(world.has_newest(at));
}

fn state(world: &World, n: u8) -> MemberState {
    let views = world.model.group("g").unwrap().member_views();
    views.into_iter().find(|m| m.identity == identity(n)).unwrap().state
}

#[test]
fn leaving_over_the_sa_there_is() {
    let mut world = World::new(policy(false));
    let at = world.join(1);
    world.leave(at);
    world.run();
    assert_eq!(world.hosts[at].events.last(), Some(&MemberEvent::Left));
    assert_eq!(state(&world, 1), MemberState::Left);
    assert_eq!((world.server.counters().left, world.server.established()), (1, 0));
    assert_eq!(world.hosts[at].member.status().state, "idle");
}

#[test]
fn disconnecting_keeps_the_group() {
    let mut world = World::new(policy(false));
    let at = world.join(1);
    world.on_member(at, false, |m, ctx| m.disconnect(ctx));
    world.run();
    assert_eq!((world.server.established(), world.server.counters().deleted), (0, 1));
    assert_eq!(state(&world, 1), MemberState::Active);
    assert_eq!(world.hosts[at].events.last(), Some(&MemberEvent::Registered));
    world.rekey(RekeyReason::Operator, &[]);
    assert!(world.has_newest(at));
}

#[test]
fn leaving_over_a_new_sa() {
    let mut world = World::new(policy(false));
    let at = world.join(1);
    world.pass(Duration::from_secs(40));
    assert_eq!(world.server.established(), 0);
    let before = world.seen.len();
    world.leave(at);
    world.run();
    assert_eq!(world.hosts[at].events.last(), Some(&MemberEvent::Left));
    assert_eq!(state(&world, 1), MemberState::Left);
    let exchanges: Vec<u8> = world.seen[before..].iter().map(|p| p.exchange()).collect();
    assert_eq!(exchanges, [34, 34, 35, 35, 40, 40, 37, 37]);
}

#[test]
fn leaving_without_a_key_server() {
    let mut world = World::new(policy(false));
    let at = world.join(1);
    world.fate = Box::new(|_| 0);
    world.leave(at);
    world.pass(Duration::from_secs(120));
    assert_eq!(world.hosts[at].events.last(), Some(&MemberEvent::Left));
    assert_eq!(world.hosts[at].member.deadline(), None);
}

/// The key server restarts without its IKE SAs: nothing happens until the member wants something, which then goes over a
/// new IKE SA.
#[test]
fn a_restarted_gateway_is_no_reason_to_register() {
    let mut world = World::new(policy(false));
    let at = world.join(1);
    world.server = crate::Server::new(config());
    world.pass(Duration::from_secs(100));
    assert_eq!(world.hosts[at].events.last(), Some(&MemberEvent::Registered));
    assert_eq!(world.server.counters().received, 0);
    world.start(at);
    world.pass(Duration::from_secs(60));
    assert!(world.server.counters().unknown_spi > 0);
    assert_eq!(world.server.counters().registered, 1);
    assert!(world.hosts[at].events.contains(&MemberEvent::Disconnected));
}

#[test]
fn keys_that_nobody_replaces_are_asked_for_in_time() {
    let mut group = policy(false);
    group.tek_lifetime = Duration::from_secs(600);
    let mut world = World::new(group);
    let at = world.join(1);
    world.pass(Duration::from_secs(565));
    assert_eq!(world.server.counters().registered, 1);
    world.pass(Duration::from_secs(30));
    assert_eq!(world.server.counters().registered, 2, "before the end, not at it");
    assert!(world.hosts[at].member.deadline().is_some());
}

#[test]
fn a_member_that_starts_again_replaces_its_former_sa() {
    let mut world = World::new(policy(false));
    world.join(1);
    world.hosts.clear();
    world.join(1);
    assert_eq!(world.server.established(), 1, "INITIAL_CONTACT");
    assert_eq!(world.server.counters().established, 2);
}

/// Members on both address families see their own family only in addresses, and the marker where they used it.
#[test]
fn a_marker_is_echoed() {
    let mut world = World::new(policy(true));
    let mut settings = world.settings(1);
    settings.marker = true;
    let at = world.add(settings);
    world.start(at);
    world.pass(Duration::from_secs(40));
    assert_eq!(world.hosts[at].events.last(), Some(&MemberEvent::Disconnected));
    assert!(world.seen.iter().all(|p| p.via.is_marked_udp()));
}

#[test]
fn a_member_that_cannot_do_the_policy_is_told_so() {
    use crate::policy::sag::{capabilities, suits};
    use crate::wire::registry::{ProtocolId, TransformType, encr};
    let group = policy(false);
    let all = capabilities();
    assert!(suits(&all, &group, true));
    // Without the cipher, the key wrap algorithm, or a proposal for the Rekey SA.
    let mut no_gcm = all.clone();
    no_gcm.proposals.iter_mut().for_each(|p| p.transforms.retain(|t| t.id != encr::AES_GCM_16));
    assert!(!suits(&no_gcm, &group, true));
    let mut no_wrap = all.clone();
    no_wrap.proposals.iter_mut().for_each(|p| p.transforms.retain(|t| t.kind != TransformType::KWA));
    assert!(!suits(&no_wrap, &group, true));
    let mut esp_only = all.clone();
    esp_only.proposals.retain(|p| p.protocol == ProtocolId::ESP);
    assert!(!suits(&esp_only, &group, true));
    assert!(suits(&esp_only, &group, false), "who is rekeyed in band gets no Rekey SA");
    // Proposals of different numbers do not go together.
    let mut apart = all.clone();
    apart.proposals[1].number = 2;
    assert!(!suits(&apart, &group, true));
    // Key length counts.
    let mut big = group.clone();
    let line = TrafficPolicy { transform: EspTransform::Aead(Aead::Aes256Gcm16), ..(*group.traffic[0]).clone() };
    big.traffic = vec![Arc::new(line)];
    let mut small = all;
    small.proposals.iter_mut().for_each(|p| p.transforms.retain(|t| t.key_bits != Some(256)));
    assert!(suits(&small, &group, true) && !suits(&small, &big, true));
}
