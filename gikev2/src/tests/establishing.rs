//! IKE_SA_INIT, IKE_AUTH, and what may go wrong there.

use std::time::Duration;

use keyferry_crypto::{Aead, BlockCipher, Hash, Integrity, KeGroup, Prf, Secret};
use keyferry_model::drive::Via;
use keyferry_model::id::Identity;
use keyferry_model::key_server::KeyServers;
use keyferry_model::plan::RekeyReason;
use keyferry_model::update::MemberEvent;
use keyferry_wire::Header;

use super::support::*;
use crate::algorithms::{KeyWrap, Protection};
use crate::wire::registry::{ExchangeType, flags};

const HASHES: [Hash; 3] = [Hash::Sha256, Hash::Sha384, Hash::Sha512];

fn protections() -> Vec<Protection> {
    let separate = [
        Protection::CbcHmac(BlockCipher::Aes128Cbc, Integrity::HmacSha256_128),
        Protection::CbcHmac(BlockCipher::Aes256Cbc, Integrity::HmacSha256_128),
        Protection::CbcHmac(BlockCipher::Aes256Cbc, Integrity::HmacSha512_256),
    ];
    Aead::ALL.map(Protection::Aead).into_iter().chain(separate).collect()
}

/// Every protection, of the IKE SA and of rekeys, every PRF, every group, every key wrap algorithm.
#[test]
fn every_suite_registers() {
    let groups: Vec<KeGroup> = KeGroup::ALL.into_iter().filter(|g| !g.is_weak()).collect();
    for (i, protection) in protections().into_iter().enumerate() {
        let strength = match protection {
            Protection::Aead(a) => a.key_len(),
            Protection::CbcHmac(c, _) => c.key_len(),
        };
        let mut config = config();
        config.preferences.protections = vec![protection];
        config.preferences.key_wraps = vec![KeyWrap::from_key_len(strength).unwrap()];
        config.preferences.groups = vec![groups[i % groups.len()]];
        let mut policy = policy(i % 2 == 1);
        policy.gikev2.as_mut().unwrap().protection = protection;
        let mut world = World::with(policy, config, 7);
        let mut settings = world.settings(1);
        settings.hashes = vec![HASHES[i % HASHES.len()]];
        settings.ike2.groups = vec![groups[i % groups.len()]];
        settings.ike2.protections = vec![protection];
        let at = world.add(settings);
        let (server, member) = (Lines::default(), Lines::default());
        world.server.set_key_log(Box::new(server.clone()));
        world.hosts[at].member.set_key_log(Box::new(member.clone()));
        world.start(at);
        world.run();
        assert_eq!(world.hosts[at].events, [MemberEvent::Connected, MemberEvent::Registered], "{protection:?}");
        assert!(world.has_newest(at));
        // Both ends have the same keys, of the IKE SA and of the Rekey SA.
        let lines = server.0.lock().unwrap().clone();
        assert_eq!(lines, *member.0.lock().unwrap());
        let shown = protection != Protection::Aead(Aead::ChaCha20Poly1305);
        assert_eq!(lines.len(), if shown { 2 } else { 0 });
        world.rekey(RekeyReason::Operator, &[]);
        assert_eq!(world.hosts[at].events.last(), Some(&MemberEvent::Rekeyed { counter: 0 }), "{protection:?}");
        assert!(world.has_newest(at));
    }
}

#[test]
fn the_server_demands_the_group_it_takes() {
    let mut config = config();
    config.preferences.groups = vec![KeGroup::Ecp384];
    let mut world = World::with(policy(false), config, 1);
    let mut settings = world.settings(1);
    settings.ke_groups = vec![KeGroup::X25519, KeGroup::Ecp384];
    let at = world.add(settings);
    world.start(at);
    world.run();
    assert_eq!(world.hosts[at].events.last(), Some(&MemberEvent::Registered));
    assert_eq!(world.server.counters().groups_demanded, 1);
    // IKE_SA_INIT twice, GSA_AUTH once.
    assert_eq!(world.seen.len(), 6);
}

#[test]
fn nothing_in_common_is_refused() {
    let mut config = config();
    config.preferences.prfs = vec![Prf::HmacSha512];
    let mut world = World::with(policy(false), config, 1);
    let settings = world.settings(1);
    let at = world.add(settings);
    world.start(at);
    world.run();
    assert!(world.hosts[at].events.is_empty(), "an unprotected refusal is not believed at once");
    world.pass(Duration::from_secs(2));
    assert_eq!(world.hosts[at].events, [MemberEvent::Refused("NO_PROPOSAL_CHOSEN".into())]);
    assert!(world.server.counters().no_proposal >= 1);
    assert_eq!(world.server.deadline(), None, "nothing is kept");
}

/// A forged refusal, then the real answer.
#[test]
fn a_forged_refusal_changes_nothing() {
    let mut world = World::new(policy(false));
    let settings = world.settings(1);
    let at = world.add(settings);
    world.start(at);
    let request = world.wire.front().unwrap().clone();
    let (header, _) = Header::decode(&request.bytes).unwrap();
    let notify = crate::wire::notify::Notify::bare(crate::wire::registry::NotifyType::NO_PROPOSAL_CHOSEN);
    let forged = crate::ike_sa::init::refusal(&header, &notify);
    world.deliver(Packet { from: request.to, to: request.from, bytes: forged, ..request });
    world.run();
    assert_eq!(world.hosts[at].events, [MemberEvent::Connected, MemberEvent::Registered]);
}

#[test]
fn under_load_a_cookie_is_demanded() {
    for v6 in [false, true] {
        let mut config = config();
        config.cookie_threshold = 0;
        let mut world = World::with(policy(v6), config, 1);
        world.join(1);
        assert_eq!(world.server.counters().cookies_demanded, 1);
        assert_eq!(world.seen.len(), 6);
    }
}

/// A cookie and another group: the cookie is returned again with the second request.
#[test]
fn a_cookie_survives_a_change_of_group() {
    let mut config = config();
    config.cookie_threshold = 0;
    config.preferences.groups = vec![KeGroup::Ecp256];
    let mut world = World::with(policy(false), config, 1);
    let mut settings = world.settings(1);
    settings.ke_groups = vec![KeGroup::X25519, KeGroup::Ecp256];
    let at = world.add(settings);
    world.start(at);
    world.run();
    assert_eq!(world.hosts[at].events.last(), Some(&MemberEvent::Registered));
    let counters = world.server.counters();
    assert_eq!((counters.cookies_demanded, counters.groups_demanded), (1, 1));
}

#[test]
fn half_open_sas_are_limited_and_expire() {
    let mut config = config();
    config.half_open_per_address = 4;
    let mut world = World::with(policy(false), config, 1);
    // Cookies arrive, public values do not.
    world.fate = Box::new(|p| usize::from(!p.is_response() || p.bytes.len() < 100));
    for n in 1..=6 {
        let mut settings = world.settings(n);
        settings.local = "10.0.0.1:848".parse().unwrap();
        let at = world.add(settings);
        world.start(at);
    }
    world.run();
    // Two came in as they were, two with a cookie, and two found no room.
    let counters = world.server.counters();
    assert_eq!((counters.cookies_demanded, counters.half_open_refused), (4, 2));
    world.hosts.clear();
    world.pass(Duration::from_secs(60));
    assert_eq!(world.server.counters().half_open_expired, 4);
    assert_eq!(world.server.deadline(), None);
}

#[test]
fn a_wrong_key_is_refused_and_tried_again_later() {
    let mut world = World::new(policy(false));
    let mut settings = world.settings(1);
    settings.auth =
        keyferry_model::settings::MemberAuth::Psk(std::sync::Arc::new(Secret::copy_from(b"something else")));
    let at = world.add(settings);
    world.start(at);
    world.run();
    assert_eq!(world.hosts[at].events, [MemberEvent::Refused("AUTHENTICATION_FAILED".into())]);
    assert_eq!(world.server.established(), 0);
    // Between one and two times the delay of 5 s.
    world.pass(Duration::from_millis(4900));
    assert_eq!(world.hosts[at].events.len(), 1);
    world.pass(Duration::from_secs(6));
    assert!(world.hosts[at].events.len() > 1);
}

#[test]
fn strangers_and_impostors_fail() {
    // A member nobody knows.
    let mut world = World::new(policy(false));
    let mut settings = world.settings(1);
    settings.identity = Identity::Fqdn("mallory.example".into());
    let at = world.add(settings);
    world.start(at);
    world.run();
    assert_eq!(world.hosts[at].events, [MemberEvent::Refused("AUTHENTICATION_FAILED".into())]);
    // A key server that is not the one expected.
    let mut world = World::new(policy(false));
    let mut settings = world.settings(1);
    settings.key_servers = KeyServers::one(settings.gateway(), Some(Identity::Fqdn("ks.example".into())));
    let at = world.add(settings);
    world.start(at);
    world.run();
    assert_eq!(world.hosts[at].events, [MemberEvent::Refused("the key server is somebody else".into())]);
    assert_eq!((world.server.established(), world.server.counters().deleted), (0, 1), "it is told");
    assert!(world.hosts[at].sas.is_empty());
}

/// IKE_AUTH without a child (RFC 6023), then the idle end.
#[test]
fn connecting_only() {
    let mut world = World::new(policy(false));
    let mut settings = world.settings(1);
    settings.connect_only = true;
    let at = world.add(settings);
    world.start(at);
    world.run();
    assert_eq!(world.hosts[at].events, [MemberEvent::Connected]);
    assert_eq!(world.server.established(), 1);
    world.pass(Duration::from_secs(40));
    assert_eq!(world.hosts[at].events, [MemberEvent::Connected, MemberEvent::Disconnected]);
    assert_eq!((world.server.established(), world.server.counters().deleted), (0, 1));
}

#[test]
fn a_silent_gateway_is_asked_again_and_given_up() {
    let mut world = World::new(policy(false));
    world.fate = Box::new(|_| 0);
    let settings = world.settings(1);
    let at = world.add(settings);
    world.start(at);
    world.pass(Duration::from_secs(30));
    assert_eq!(world.hosts[at].events[0], MemberEvent::Unanswered);
    // The first attempt: one request and four bitwise identical repeats.
    assert!(world.seen[..5].iter().all(|p| p.bytes == world.seen[0].bytes));
    assert_ne!(world.seen[5].bytes, world.seen[0].bytes);
    world.fate = Box::new(|_| 1);
    world.pass(Duration::from_secs(30));
    assert_eq!(world.hosts[at].events.last(), Some(&MemberEvent::Registered));
}

/// Every packet is lost once, or comes three times.
#[test]
fn loss_and_repetition_are_survived() {
    let mut world = World::new(policy(false));
    let mut lost = std::collections::BTreeSet::new();
    world.fate = Box::new(move |p| if lost.insert(p.bytes.clone()) { 0 } else { 1 });
    let settings = world.settings(1);
    let at = world.add(settings);
    world.start(at);
    world.pass(Duration::from_secs(10));
    assert_eq!(world.hosts[at].events, [MemberEvent::Connected, MemberEvent::Registered]);
    assert_eq!(world.server.counters().registered, 1);

    let mut world = World::new(policy(false));
    world.fate = Box::new(|_| 3);
    world.join(1);
    assert_eq!((world.server.counters().registered, world.server.counters().established), (1, 1));
    // Repeated requests drew the same answer again.
    let answers: std::collections::BTreeSet<_> =
        world.seen.iter().filter(|p| p.is_response()).map(|p| p.bytes.clone()).collect();
    assert_eq!(answers.len(), 2);
}

#[test]
fn a_request_repeated_while_keys_are_computed_makes_no_second_sa() {
    let mut world = World::new(policy(false));
    world.hold_jobs = true;
    world.fate = Box::new(|_| 2);
    let settings = world.settings(1);
    let at = world.add(settings);
    world.start(at);
    world.run();
    assert_eq!((world.server.counters().repeated, world.seen.len()), (1, 1));
    world.run_jobs();
    world.run();
    assert_eq!(world.hosts[at].events.last(), Some(&MemberEvent::Registered));
}

/// An exchange that is given up before its keys are there needs them no more.
#[test]
fn jobs_of_half_open_sas_are_given_up_with_them() {
    let mut world = World::new(policy(false));
    world.hold_jobs = true;
    for n in 1..=2 {
        let settings = world.settings(n);
        let at = world.add(settings);
        world.start(at);
    }
    world.run();
    assert_eq!(world.held.len(), 2);
    world.hosts.clear();
    world.pass(Duration::from_secs(60));
    assert_eq!((world.server.counters().half_open_expired, world.held.len()), (2, 0));
}

#[test]
fn unknown_spis_and_versions_are_answered_within_a_budget() {
    let mut config = config();
    config.unprotected_answers_per_second = 3;
    let mut world = World::with(policy(false), config, 1);
    let from = "10.0.0.9:848".parse().unwrap();
    for n in 0..10_u8 {
        let major = if n == 0 { 3 } else { 2 };
        let header = Header {
            spi_i: [n + 1; 8],
            spi_r: [7; 8],
            next: 46,
            major,
            minor: 0,
            exchange: ExchangeType::INFORMATIONAL.0,
            flags: flags::INITIATOR,
            message_id: 4,
        };
        let bytes = header.encode(&[0, 0, 0, 4]);
        world.deliver(Packet { from, to: world.gateway, via: Via::udp(n == 1), bytes, tainted: false });
    }
    assert_eq!(world.seen.len(), 3);
    assert_eq!(world.server.counters().answers_withheld, 7);
    let (header, body) = Header::decode(&world.seen[0].bytes).unwrap();
    assert_eq!((header.major, header.flags & flags::RESPONSE, header.message_id), (2, flags::RESPONSE, 4));
    assert_eq!(body, [0, 0, 0, 9, 0, 0, 0, 5, 2]);
    let (header, body) = Header::decode(&world.seen[1].bytes).unwrap();
    assert_eq!((header.spi_i, header.spi_r), ([2; 8], [7; 8]));
    assert_eq!(body, [0, 0, 0, 8, 0, 0, 0, 4]);
    assert!(world.seen[1].via.is_marked_udp(), "the marker is echoed");
    // Responses draw nothing, or two ends would shout at each other.
    let mut response = header;
    response.spi_i = [0x55; 8];
    world.pass(Duration::from_secs(2));
    let before = world.seen.len();
    let bytes = response.encode(&[0, 0, 0, 4]);
    world.deliver(Packet { from, to: world.gateway, via: Via::Udp, bytes, tainted: false });
    assert_eq!(world.seen.len(), before);
}

#[test]
fn a_silent_key_server_is_asked_whether_it_lives() {
    let mut config = config();
    config.idle = Duration::from_secs(3600);
    let mut world = World::with(policy(false), config, 1);
    let at = world.join(1);
    world.hosts[at]
        .member
        .set_ike_options(crate::IkeOptions { liveness: Some(Duration::from_secs(10)), ..Default::default() });
    world.pass(Duration::from_secs(35));
    let asked = world.seen.iter().filter(|p| p.exchange() == ExchangeType::INFORMATIONAL.0 && !p.is_response());
    assert_eq!(asked.count(), 3);
    assert_eq!(world.hosts[at].events.last(), Some(&MemberEvent::Registered));
    // The key server dies: the IKE SA goes, the keys stay, and nothing is registered anew.
    world.fate = Box::new(|_| 0);
    world.pass(Duration::from_secs(60));
    assert_eq!(world.hosts[at].events.last(), Some(&MemberEvent::Disconnected));
    assert!(world.has_newest(at));
    assert_eq!(world.hosts[at].member.status().state, "registered");
}

#[test]
fn a_silent_member_is_asked_whether_it_lives() {
    let mut config = config();
    config.idle = Duration::from_secs(3600);
    config.ike.liveness = Some(Duration::from_secs(10));
    let mut world = World::with(policy(false), config, 1);
    world.join(1);
    world.pass(Duration::from_secs(25));
    assert_eq!(world.server.established(), 1);
    world.fate = Box::new(|_| 0);
    world.pass(Duration::from_secs(200));
    assert_eq!((world.server.established(), world.server.counters().dead_peers), (0, 1));
}
