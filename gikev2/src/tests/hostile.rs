//! Every truncation and every changed octet of every message of a run: nothing panics, nothing is believed, and the run
//! goes on as if nothing had been.

use std::time::Duration;

use keyferry_crypto::KeGroup;
use keyferry_model::drive::Via;
use keyferry_model::plan::RekeyReason;
use keyferry_model::policy::RekeyAuthentication;
use keyferry_model::update::MemberEvent;

use keyferry_wire::{ChainWriter, Decode, Encode, Header};
use proptest::prelude::*;

use super::support::*;
use crate::wire::auth::Auth;
use crate::wire::delete::Delete;
use crate::wire::gsa::Gsa;
use crate::wire::id::Id;
use crate::wire::kd::Kd;
use crate::wire::ke::Ke;
use crate::wire::message::{AuthRequest, GroupKeys, Payloads};
use crate::wire::nonce::Nonce;
use crate::wire::notify::Notify;
use crate::wire::rules;
use crate::wire::sa::Sa;
use crate::wire::testing::Rebind;
use crate::wire::ts::TrafficSelector;

fn lenient() -> crate::ServerConfig {
    let mut config = config();
    // All those variants come from one address.
    config.half_open_per_address = usize::MAX;
    config.half_open = usize::MAX;
    config.cookie_threshold = usize::MAX;
    config.unprotected_answers_per_second = 0;
    config
}

/// Registration, new keys for the IKE SA, another registration over it, its end, a rekey, leaving.
fn whole_run(world: &mut World, member_asks: bool) {
    let settings = world.settings(1);
    let at = world.add(settings);
    if member_asks {
        world.hosts[at].member.set_ike_options(brief());
    }
    world.start(at);
    world.pass(Duration::from_secs(19));
    assert_eq!(world.server.counters().rekeyed, 1);
    assert_eq!(world.hosts[at].member.status().ike_rekeys, 1);
    world.start(at);
    world.run();
    assert_eq!(world.hosts[at].events.last(), Some(&MemberEvent::Registered));
    assert_eq!(world.server.counters().registered, 2);
    world.pass(Duration::from_secs(50));
    assert_eq!(world.hosts[at].events.last(), Some(&MemberEvent::Disconnected));
    for round in 0..2 {
        world.rekey(RekeyReason::Operator, &[]);
        assert_eq!(world.hosts[at].events.last(), Some(&MemberEvent::Rekeyed { counter: round }));
        assert!(world.has_newest(at));
    }
    let status = world.hosts[at].member.status();
    assert_eq!((status.rekeys, status.registrations), (2, 2));
    world.leave(at);
    world.run();
    assert_eq!(world.hosts[at].events.last(), Some(&MemberEvent::Left));
}

/// New keys after 16 to 18 s, and again; who is idle goes after 30 s.
fn brief() -> crate::IkeOptions {
    crate::IkeOptions { lifetime: Duration::from_secs(20), fragment_size: 400, ..Default::default() }
}

fn tampered(implicit: bool, use_cbc: bool) {
    let make = || {
        let mut group = policy(false);
        let rekey = group.gikev2.as_mut().unwrap();
        let mut config = lenient();
        if implicit {
            rekey.authentication = RekeyAuthentication::Implicit;
        }
        if !use_cbc {
            config.ike = brief();
        }
        if use_cbc {
            config.ike.fragment_size = 300;
            rekey.protection = cbc();
            config.preferences.protections = vec![cbc()];
        }
        World::with(group, config, 3)
    };
    let mut calm = make();
    whole_run(&mut calm, use_cbc);
    let mut world = make();
    world.tamper = true;
    whole_run(&mut world, use_cbc);
    assert_eq!(world.hosts[0].events, calm.hosts[0].events);
    assert_eq!(world.server.counters().left, 1);
    let counters = world.server.counters();
    assert!(counters.unauthenticated > 900, "{counters:?}");
}

#[test]
fn nothing_tampered_with_is_believed_with_gcm_and_signatures() {
    tampered(false, false);
}

#[test]
fn nothing_tampered_with_is_believed_with_cbc_and_implicit() {
    tampered(true, true);
}

/// The same for COOKIE and INVALID_KE_PAYLOAD, which nothing protects.
#[test]
fn tampered_cookies_and_groups_only_cost_time() {
    let mut config = lenient();
    config.cookie_threshold = 0;
    config.preferences.groups = vec![KeGroup::Ecp256];
    let mut world = World::with(policy(false), config, 3);
    world.tamper = true;
    let mut settings = world.settings(1);
    settings.ke_groups = vec![KeGroup::X25519, KeGroup::Ecp256];
    let at = world.add(settings);
    world.start(at);
    world.pass(Duration::from_secs(30));
    assert!(world.hosts[at].events.contains(&MemberEvent::Registered), "{:?}", world.hosts[at].events);
    assert_eq!(world.server.counters().registered, 1);
}

/// What a hostile key server may say: every variant of a decrypted answer is either refused or harmless.
#[test]
fn every_variant_of_policy_and_keys_is_survived() {
    use crate::registration::grant::evaluate;
    let (inner, first, default) = captured_answer();
    let read = |bytes: &[u8]| {
        let payloads = Payloads::parse(first, bytes, rules::REGISTRATION_RESPONSE)?;
        let keys = GroupKeys::of(&payloads)?;
        evaluate(&keys, &default, 1, Duration::from_secs(1), None).map(|grant| grant.update)
    };
    let good = read(&inner).unwrap();
    for bytes in variants(&inner) {
        if let Ok(update) = read(&bytes) {
            // Keys cannot be changed unnoticed: they are wrapped.
            for sa in &update.install {
                assert!(good.install.iter().any(|g| g.keymat.ct_eq(sa.keymat.expose())));
                assert!(sa.spi >= 256 && !sa.lifetime.is_zero());
            }
        }
    }
}

proptest! {
    /// Noise never panics any parser, and what parses is written back to something that parses the same.
    #[test]
    fn noise_is_survived(bytes in proptest::collection::vec(any::<u8>(), 0..200), first in 33_u8..54) {
        fn stable<T: Rebind>(bytes: &[u8]) {
            if let Ok(value) = T::parse(bytes) {
                let again = value.to_vec();
                assert_eq!(format!("{:?}", T::parse(&again).unwrap()).len(), format!("{value:?}").len());
            }
        }
        stable::<Auth<'_>>(&bytes);
        stable::<Delete<'_>>(&bytes);
        stable::<Id<'_>>(&bytes);
        stable::<Ke<'_>>(&bytes);
        stable::<Nonce<'_>>(&bytes);
        stable::<Notify<'_>>(&bytes);
        stable::<TrafficSelector>(&bytes);
        let _ = (Sa::exact(&bytes), Gsa::exact(&bytes), Kd::exact(&bytes));
        let _ = Payloads::parse(first, &bytes, rules::REKEY).and_then(|p| GroupKeys::of(&p));
        let _ = AuthRequest::group(first, &bytes);
    }

    /// Noise behind a sound header draws nothing from a key server but small answers, and leaves nothing behind.
    #[test]
    fn noise_leaves_no_state(
        bytes in proptest::collection::vec(any::<u8>(), 0..300),
        exchange in 34_u8..45,
        bits in any::<u8>(),
        next in 0_u8..55,
    ) {
        let mut world = World::new(policy(false));
        let header = Header {
            spi_i: [1; 8], spi_r: [0; 8], next, major: 2, minor: 0, exchange, flags: bits, message_id: 0,
        };
        let from = "10.0.0.5:848".parse().unwrap();
        world.deliver(Packet { from, to: world.gateway, via: Via::Udp, bytes: header.encode(&bytes), tainted: false });
        prop_assert_eq!(world.server.deadline(), None);
        prop_assert!(world.seen.iter().all(|p| p.bytes.len() < 64));
    }
}

/// GSA and KD as a key server would send them, and the key they are wrapped under.
fn captured_answer() -> (Vec<u8>, u8, keyferry_crypto::Secret) {
    use crate::registration::request::join;
    let mut world = World::new(policy(false));
    let settings = world.settings(1);
    let mut request = ChainWriter::new();
    join(&settings, &settings.group, &mut request);
    world.answer(1, request)
}
