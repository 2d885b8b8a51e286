//! What somebody on the path, or who knows an address, might try; and what loss and delay do to answers.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use keyferry_crypto::{Aead, KeGroup};
use keyferry_model::flows::{Flow, Flows};
use keyferry_model::plan::RekeyReason;
use keyferry_model::policy::{EspTransform, GroupPolicy, TrafficPolicy};
use keyferry_model::update::MemberEvent;
use keyferry_model::view::MemberState;
use keyferry_wire::{Decode, Header, chain};

use super::support::*;
use crate::algorithms::KeyWrap;
use crate::ike_sa::init::refusal;
use crate::wire::ke::Ke;
use crate::wire::notify::Notify;
use crate::wire::registry::{ExchangeType, NotifyType, PayloadKind, TransformType, ke};

/// The first request and the key server's answer, which is not delivered yet.
fn answered(world: &mut World) -> (usize, Packet, Packet) {
    let settings = world.settings(1);
    let at = world.add(settings);
    world.start(at);
    let request = world.wire.pop_front().unwrap();
    world.deliver(request.clone());
    let response = world.wire.pop_front().unwrap();
    assert_eq!(response.exchange(), ExchangeType::IKE_SA_INIT.0);
    (at, request, response)
}

/// The last notify, N(CHILDLESS_IKEV2_SUPPORTED), becomes one that nobody knows.
fn without_childless(response: &Packet) -> Packet {
    let mut bytes = response.bytes.clone();
    *bytes.last_mut().unwrap() ^= 0x40;
    Packet { bytes, ..response.clone() }
}

/// Another key wrap algorithm, out of those that were offered.
fn with_other_key_wrap(response: &Packet) -> Packet {
    let mut bytes = response.bytes.clone();
    let transform = [0, 0, 0, 8, TransformType::KWA.0, 0, 0, 3];
    let at = bytes.windows(8).position(|w| w == transform).unwrap();
    bytes[at + 7] = 2;
    Packet { bytes, ..response.clone() }
}

fn forged(request: &Packet, notify: &Notify<'_>) -> Packet {
    let (header, _) = Header::decode(&request.bytes).unwrap();
    let bytes = refusal(&header, notify);
    Packet { from: request.to, to: request.from, bytes, ..request.clone() }
}

/// No two different messages of one direction and one pair of SPIs have one IV. SPIs stand for keys here: a response that
/// keeps its SPI keeps its keys.
fn assert_no_iv_repeats(world: &World) {
    let mut seen: BTreeMap<(Vec<u8>, u8, Vec<u8>), Vec<u8>> = BTreeMap::new();
    let sealed = |p: &&Packet| p.bytes[16] == PayloadKind::SK.0 && p.exchange() != ExchangeType::GSA_REKEY.0;
    for p in world.seen.iter().filter(sealed) {
        let key = (p.bytes[..16].to_vec(), p.bytes[19] & 8, p.bytes[32..40].to_vec());
        let first = seen.entry(key).or_insert_with(|| p.bytes.clone());
        assert_eq!(*first, p.bytes, "one IV, two messages");
    }
}

fn requests(world: &World, exchange: ExchangeType) -> usize {
    world.seen.iter().filter(|p| p.exchange() == exchange.0 && !p.is_response()).count()
}

/// A response, a forged cookie that would change what AUTH covers, the response with one octet changed.
#[test]
fn responses_with_equal_keys_never_share_an_iv() {
    for change in [without_childless, with_other_key_wrap] {
        for genuine_first in [true, false] {
            let mut world = World::new(policy(false));
            let (at, request, genuine) = answered(&mut world);
            let changed = change(&genuine);
            let (first, second) = if genuine_first { (genuine, changed) } else { (changed, genuine) };
            world.deliver(first);
            let auth = world.wire.pop_front().unwrap();
            assert_eq!(auth.exchange(), ExchangeType::GSA_AUTH.0);
            assert_ne!(auth.bytes[32..40], [0; 8], "the first IV is drawn");
            world.deliver(forged(&request, &Notify::new(NotifyType::COOKIE, vec![1; 8])));
            assert!(world.wire.is_empty(), "a cookie waits while a response is followed");
            world.deliver(second);
            world.wire.push_back(auth);
            world.run();
            assert_eq!(world.hosts[at].events, [MemberEvent::Connected, MemberEvent::Registered]);
            world.pass(Duration::from_secs(60));
            world.leave(at);
            world.run();
            assert_no_iv_repeats(&world);
        }
    }
}

/// The wish to leave comes between two responses with the same keys: GSA_AUTH has been asked, and IKE_AUTH is not.
#[test]
fn a_change_of_mind_makes_no_second_request_under_the_same_keys() {
    let mut world = World::new(policy(false));
    let (at, _, genuine) = answered(&mut world);
    world.deliver(genuine.clone());
    world.leave(at);
    let mut changed = genuine.clone();
    // The reserved octet of the SA payload.
    changed.bytes[29] ^= 1;
    world.deliver(changed);
    assert_eq!(requests(&world, ExchangeType::IKE_AUTH), 0);
    world.run();
    assert_no_iv_repeats(&world);
    assert_eq!(world.hosts[at].events.last(), Some(&MemberEvent::Left));
}

/// A candidate whose answer failed is gone; its keys are not used for another request.
#[test]
fn keys_of_a_failed_candidate_are_not_used_again() {
    let mut world = World::new(policy(false));
    let mut settings = world.settings(1);
    settings.auth = keyferry_model::settings::MemberAuth::Psk(std::sync::Arc::new(keyferry_crypto::Secret::copy_from(
        b"something else",
    )));
    let at = world.add(settings);
    world.start(at);
    let request = world.wire.pop_front().unwrap();
    world.deliver(request.clone());
    let genuine = world.wire.pop_front().unwrap();
    // Another key server's answer keeps the attempt alive.
    let other = other_answer(&request, 50);
    world.deliver(other);
    world.wire.clear();
    world.deliver(genuine.clone());
    world.run();
    let before = world.seen.len();
    world.deliver(without_childless(&genuine));
    world.run();
    assert_eq!(world.seen.len(), before);
    assert_no_iv_repeats(&world);
    assert!(world.hosts[at].events.is_empty());
}

/// What a stranger who saw the request would answer.
fn other_answer(request: &Packet, seed: u64) -> Packet {
    let mut stranger = World::with(policy(false), config(), seed);
    stranger.deliver(request.clone());
    stranger.wire.pop_front().unwrap()
}

#[test]
fn forged_responses_do_not_push_the_true_one_out() {
    let mut world = World::new(policy(false));
    let (at, request, genuine) = answered(&mut world);
    world.deliver(genuine);
    let auth = world.wire.pop_front().unwrap();
    for seed in 50..60 {
        world.deliver(other_answer(&request, seed));
    }
    world.wire.clear();
    world.wire.push_back(auth);
    world.run();
    assert_eq!(world.hosts[at].events, [MemberEvent::Connected, MemberEvent::Registered]);
    // Nor do those that come before it keep it out.
    let mut world = World::new(policy(false));
    let (at, request, genuine) = answered(&mut world);
    for seed in 50..60 {
        world.deliver(other_answer(&request, seed));
    }
    world.deliver(genuine);
    world.run();
    assert_eq!(world.hosts[at].events, [MemberEvent::Connected, MemberEvent::Registered]);
    assert_no_iv_repeats(&world);
}

/// A response whose place was taken comes again: it is followed again, by the request that was sent before.
#[test]
fn a_response_that_was_pushed_out_may_come_again() {
    let mut world = World::new(policy(false));
    let (at, request, genuine) = answered(&mut world);
    for seed in 50..54 {
        world.deliver(other_answer(&request, seed));
    }
    world.deliver(genuine.clone());
    world.deliver(other_answer(&request, 54));
    world.wire.clear();
    let mut again = without_childless(&genuine);
    world.deliver(again.clone());
    again.bytes = genuine.bytes;
    world.deliver(again);
    world.pass(Duration::from_secs(1));
    assert_eq!(world.hosts[at].events, [MemberEvent::Connected, MemberEvent::Registered]);
    assert_no_iv_repeats(&world);
}

/// A forged response first, then the key server demands a cookie: it is returned at the next repeat.
#[test]
fn a_forged_response_does_not_keep_a_cookie_from_being_returned() {
    let mut config = config();
    config.cookie_threshold = 0;
    let mut world = World::with(policy(false), config, 1);
    let settings = world.settings(1);
    let at = world.add(settings);
    world.start(at);
    let request = world.wire.front().unwrap().clone();
    world.deliver(other_answer(&request, 50));
    world.run();
    assert_eq!(world.server.counters().cookies_demanded, 1);
    world.pass(Duration::from_secs(3));
    assert_eq!(world.hosts[at].events, [MemberEvent::Connected, MemberEvent::Registered]);
    assert_no_iv_repeats(&world);
}

/// The answer to a registration is lost, a rekey passes, the answer comes again: it is older than what we have.
#[test]
fn a_stale_answer_takes_no_newer_keys_away() {
    for evict in [false, true] {
        let mut world = World::new(policy(false));
        let at = world.join(1);
        world.join(2);
        world.pass(Duration::from_secs(10));
        world.fate = Box::new(|p| usize::from(!(p.exchange() == 40 && p.is_response())));
        world.start(at);
        world.run();
        world.fate = Box::new(|_| 1);
        match evict {
            // The Rekey SA is replaced.
            true => world.rekey(RekeyReason::Eviction, &[identity(2)]),
            // Its message ID goes on.
            false => world.rekey(RekeyReason::Operator, &[]),
        }
        assert!(world.has_newest(at));
        let before = world.server.counters().registered;
        let spi = world.hosts[at].member.status().rekey_spi;
        world.pass(Duration::from_secs(1));
        // The cached answer was dropped, and another registration brought a fresh one.
        assert_eq!(world.server.counters().registered, before + 1);
        assert!(world.has_newest(at), "evict {evict}");
        let status = world.hosts[at].member.status();
        assert_eq!((status.rekey_spi, status.registrations), (spi, 2));
        assert_eq!(world.hosts[at].events.last(), Some(&MemberEvent::Registered));
    }
}

/// Even after the replaced Rekey SA is forgotten.
#[test]
fn a_very_late_answer_is_stale_too() {
    let mut group = policy(false);
    group.deactivation_delay = Duration::from_millis(100);
    let mut world = World::new(group);
    let at = world.join(1);
    world.join(2);
    world.pass(Duration::from_secs(10));
    world.fate = Box::new(|p| usize::from(!(p.exchange() == 40 && p.is_response())));
    world.start(at);
    world.run();
    world.rekey(RekeyReason::Eviction, &[identity(2)]);
    world.pass(Duration::from_secs(3));
    world.fate = Box::new(|_| 1);
    let spi = world.hosts[at].member.status().rekey_spi;
    world.pass(Duration::from_secs(3));
    assert!(world.has_newest(at));
    assert_eq!(world.hosts[at].member.status().rekey_spi, spi);
}

/// RFC 6023 section 3: a childless IKE_AUTH only goes to whoever announced that it takes one.
#[test]
fn a_childless_request_needs_an_announcement() {
    // To connect only.
    let mut world = World::new(policy(false));
    let mut settings = world.settings(1);
    settings.connect_only = true;
    let at = world.add(settings);
    world.start(at);
    let request = world.wire.pop_front().unwrap();
    world.deliver(request);
    let response = world.wire.pop_front().unwrap();
    world.deliver(without_childless(&response));
    assert_eq!(requests(&world, ExchangeType::IKE_AUTH), 0);
    // The true one may still come.
    world.deliver(response);
    world.run();
    assert_eq!(world.hosts[at].events, [MemberEvent::Connected]);
    // To leave.
    world.pass(Duration::from_secs(40));
    world.hosts.clear();
    let at = world.join(2);
    world.pass(Duration::from_secs(40));
    world.leave(at);
    let request = world.wire.pop_front().unwrap();
    world.deliver(request);
    let response = world.wire.pop_front().unwrap();
    let before = requests(&world, ExchangeType::IKE_AUTH);
    world.fate = Box::new(|_| 0);
    world.deliver(without_childless(&response));
    world.pass(Duration::from_secs(60));
    assert_eq!(requests(&world, ExchangeType::IKE_AUTH), before);
    let refused = MemberEvent::Refused("the key server takes no IKE SAs without a Child SA".to_owned());
    assert!(world.hosts[at].events.ends_with(&[refused, MemberEvent::Left]), "{:?}", world.hosts[at].events);
}

/// Who follows a member to another port by what it last sent: the Delete of the idle SA arrives.
#[test]
fn the_server_sends_to_where_the_newest_request_came_from() {
    // GSA_AUTH already comes from another port.
    let mut world = World::new(policy(false));
    let (at, _, response) = answered(&mut world);
    world.hosts[at].address.set_port(4500);
    world.deliver(Packet { to: world.hosts[at].address, ..response });
    world.pass(Duration::from_secs(40));
    let events = [MemberEvent::Connected, MemberEvent::Registered, MemberEvent::Disconnected];
    assert_eq!(world.hosts[at].events, events);
    // A later request does.
    let mut world = World::new(policy(false));
    let at = world.join(1);
    world.hosts[at].address.set_port(4500);
    world.start(at);
    world.pass(Duration::from_secs(40));
    assert_eq!(world.hosts[at].events.last(), Some(&MemberEvent::Disconnected));
    // What is only repeated, from wherever, changes nothing.
    let mut world = World::new(policy(false));
    let at = world.join(1);
    let auth = world.seen.iter().find(|p| p.exchange() == 39 && !p.is_response()).unwrap().clone();
    world.deliver(Packet { from: "10.0.0.66:848".parse().unwrap(), ..auth });
    world.pass(Duration::from_secs(40));
    assert_eq!(world.hosts[at].events.last(), Some(&MemberEvent::Disconnected));
}

/// First messages in a member's name fill half of its address's share; then a cookie is demanded, which they cannot
/// return.
#[test]
fn forged_first_messages_keep_no_member_out() {
    for v6 in [false, true] {
        let mut world = World::new(policy(v6));
        let settings = world.settings(1);
        let at = world.add(settings);
        world.start(at);
        let request = world.wire.pop_front().unwrap();
        for n in 0..60_u8 {
            let mut p = request.clone();
            p.bytes[0] = p.bytes[0].wrapping_add(n + 1);
            if v6 {
                p.from.set_ip(address(true, n + 100));
            }
            world.deliver(p);
        }
        world.wire.clear();
        assert_eq!(world.server.counters().half_open_refused, 0);
        world.deliver(request);
        world.run();
        assert_eq!(world.hosts[at].events, [MemberEvent::Connected, MemberEvent::Registered]);
    }
}

/// The group of the last first message.
fn last_group(world: &World) -> u16 {
    let init = |p: &&Packet| p.exchange() == ExchangeType::IKE_SA_INIT.0 && !p.is_response();
    let last = world.seen.iter().rfind(init).unwrap();
    let (header, body) = Header::decode(&last.bytes).unwrap();
    let payloads = chain(header.next, body).unwrap();
    Ke::exact(payloads.iter().find(|p| p.kind == PayloadKind::KE.0).unwrap().body).unwrap().method
}

/// A forged INVALID_KE_PAYLOAD talks nobody down: the key server insists on the group it likes best of those offered, and
/// one that was not offered is not taken (RFC 7296 sections 1.2 and 2.7).
#[test]
fn nobody_is_talked_into_a_weaker_group() {
    for (wanted, first) in [(ke::MODP_2048, ke::MODP_2048), (ke::ECP_384, ke::CURVE25519)] {
        let mut world = World::new(policy(false));
        let mut settings = world.settings(1);
        settings.ke_groups = vec![KeGroup::X25519, KeGroup::Modp2048];
        let at = world.add(settings);
        world.start(at);
        let request = world.wire.pop_front().unwrap();
        let notify = Notify::new(NotifyType::INVALID_KE_PAYLOAD, wanted.to_be_bytes().to_vec());
        world.deliver(forged(&request, &notify));
        assert_eq!(last_group(&world), first);
        world.deliver(request);
        world.pass(Duration::from_secs(3));
        assert_eq!(world.hosts[at].events, [MemberEvent::Connected, MemberEvent::Registered]);
        assert_eq!(last_group(&world), ke::CURVE25519);
    }
}

/// RFC 9838 section 3.1: keys are not wrapped under weaker ones.
#[test]
fn keys_are_not_wrapped_under_weaker_ones() {
    for (wrap, enough) in [(KeyWrap::Aes128, false), (KeyWrap::Aes192, false), (KeyWrap::Aes256, true)] {
        let mut group = policy(false);
        let line = TrafficPolicy { transform: EspTransform::Aead(Aead::Aes256Gcm16), ..(*group.traffic[0]).clone() };
        group.traffic = vec![line.into()];
        let mut config = config();
        config.preferences.key_wraps = vec![wrap];
        let mut world = World::with(group, config, 1);
        let settings = world.settings(1);
        let at = world.add(settings);
        world.start(at);
        world.run();
        let last = match enough {
            true => MemberEvent::Registered,
            false => MemberEvent::Refused("NO_PROPOSAL_CHOSEN".to_owned()),
        };
        assert_eq!(world.hosts[at].events, [MemberEvent::Connected, last]);
    }
}

/// A policy that the member cannot follow: it says so, and the key server forgets it (RFC 9838 sections 2.3.1, 2.3.2).
#[test]
fn an_unacceptable_policy_is_declined() {
    let mut group = policy(false);
    let mut line = (*group.traffic[0]).clone();
    // From IPv4 to IPv6.
    line.destination = policy(true).traffic[0].destination;
    group.traffic = vec![line.into()];
    let mut world = World::new(group);
    let settings = world.settings(1);
    let at = world.add(settings);
    world.start(at);
    world.run();
    let why = MemberEvent::Refused("unacceptable: NO_PROPOSAL_CHOSEN".to_owned());
    assert_eq!(world.hosts[at].events, [MemberEvent::Connected, why]);
    assert!(world.hosts[at].sas.is_empty());
    assert_eq!(requests(&world, ExchangeType::GSA_REGISTRATION), 1);
    assert_eq!((world.server.counters().registered, world.server.counters().left), (1, 1));
    let views = world.model.group("g").unwrap().member_views();
    assert_eq!(views.iter().find(|m| m.identity == identity(1)).unwrap().state, MemberState::Left);
}

/// RFC 5374 section 4.1.3.5: a group of nothing but traffic that is none of the key server's business is declined likewise;
/// where a part is, the group is joined for that.
#[test]
fn a_group_of_nothing_but_traffic_that_is_not_accepted_is_declined() {
    let ours = policy(false).traffic.remove(0);
    let mut theirs = (*ours).clone();
    theirs.destination = selector("10.2.0.0", 16);
    let theirs = Arc::new(theirs);
    let tunnels = || Flows(vec![Flow::to([10, 2, 0, 0].into(), 16)]);
    for (traffic, accept, taken) in [
        (vec![Arc::clone(&theirs)], Flows::default(), false),
        (vec![Arc::clone(&theirs), Arc::clone(&ours)], Flows::default(), true),
        (vec![theirs], tunnels(), true),
        (vec![ours], tunnels(), false),
    ] {
        let mut world = World::new(GroupPolicy { traffic, ..policy(false) });
        let mut settings = world.settings(1);
        settings.traffic.accept = accept;
        let at = world.add(settings);
        world.start(at);
        world.run();
        let (last, state) = match taken {
            true => (MemberEvent::Registered, MemberState::Active),
            false => (
                MemberEvent::Refused("the group protects nothing that accept_traffic names".to_owned()),
                MemberState::Left,
            ),
        };
        assert_eq!(world.hosts[at].events, [MemberEvent::Connected, last]);
        assert_eq!(world.hosts[at].sas.is_empty(), !taken);
        let views = world.model.group("g").unwrap().member_views();
        assert_eq!(views.iter().find(|m| m.identity == identity(1)).unwrap().state, state);
    }
}

/// RFC 7296 section 2.5: an unknown payload is skipped, unless it says that it must not be.
#[test]
fn unknown_payloads_of_a_first_message_are_skipped_unless_critical() {
    for critical in [false, true] {
        let mut world = World::new(policy(false));
        let settings = world.settings(1);
        let at = world.add(settings);
        world.start(at);
        let request = world.wire.pop_front().unwrap();
        let (mut header, body) = Header::decode(&request.bytes).unwrap();
        let unknown = [header.next, if critical { 0x80 } else { 0 }, 0, 5, 9];
        header.next = 200;
        let bytes = header.encode(&[&unknown, body].concat());
        world.deliver(Packet { bytes, ..request });
        let answer = world.wire.pop_front().unwrap();
        let (header, body) = Header::decode(&answer.bytes).unwrap();
        match critical {
            false => assert_eq!(header.next, PayloadKind::SA.0),
            true => assert_eq!((header.next, body), (PayloadKind::NOTIFY.0, &[0, 0, 0, 9, 0, 0, 0, 1, 200][..])),
        }
    }
}

/// Whoever has seen a request can send it again in anybody's name, and its answer may be long: elsewhere than to the member go
/// but as many as to requests that nothing protects.
#[test]
fn repeats_in_other_names_are_answered_within_a_budget() {
    let mut config = config();
    config.unprotected_answers_per_second = 3;
    let mut world = World::with(policy(false), config, 1);
    let at = world.join(1);
    let asked = |p: &&Packet| p.exchange() == ExchangeType::GSA_AUTH.0 && !p.is_response();
    let request = world.seen.iter().find(asked).unwrap().clone();
    let answers = |world: &World, to| {
        let answer = |p: &&Packet| p.exchange() == ExchangeType::GSA_AUTH.0 && p.is_response() && p.to == to;
        world.seen.iter().filter(answer).count()
    };
    let victim = "10.0.0.99:848".parse().unwrap();
    for _ in 0..10 {
        world.deliver(Packet { from: victim, ..request.clone() });
        world.deliver(request.clone());
    }
    assert_eq!((answers(&world, victim), answers(&world, world.hosts[at].address)), (3, 11));
    assert_eq!(world.server.counters().answers_withheld, 7);
}
