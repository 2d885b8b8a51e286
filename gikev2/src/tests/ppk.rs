//! Postquantum preshared keys (RFC 8784), in both roles.

use std::sync::Arc;
use std::time::Duration;

use keyferry_crypto::{KeGroup, Secret};
use keyferry_model::id::Identity;
use keyferry_model::settings::{Ike2Settings, Ppk};
use keyferry_model::update::MemberEvent;
use keyferry_wire::{ChainWriter, Encode};

use super::support::*;
use crate::ike_sa::sa::Direction;
use crate::ike_sa::window::Backoff;
use crate::policy::identity::identity_to_wire;
use crate::wire::auth::Auth;
use crate::wire::registry::{AuthMethod, ExchangeType, PayloadKind};

fn ppk(id: &[u8], key: &[u8], required: bool) -> Ppk {
    let key = Arc::new(Secret::copy_from(key));
    Ppk { id: [&[2], id].concat(), key, required, identities: None, rekey: false }
}

fn only_for(identity: Identity, ppk: Ppk) -> Ppk {
    Ppk { identities: Some(vec![identity]), ..ppk }
}

fn world(server: Vec<Ppk>, member: Vec<Ppk>) -> (World, usize) {
    let mut config = config();
    config.ppks = server;
    config.backoff = Backoff { first: Duration::from_secs(1), tries: 2 };
    let mut world = World::with(policy(false), config, 5);
    let mut settings = world.settings(1);
    settings.ike2.ppks = member;
    let at = world.add(settings);
    (world, at)
}

fn exchanges(world: &World) -> Vec<u8> {
    world.seen.iter().filter(|p| !p.is_response()).map(Packet::exchange).collect()
}

/// Does a member register, and are both ends' keys the same then? A second registration over the IKE SA uses what SK_d gives.
fn registers(server: Vec<Ppk>, member: Vec<Ppk>) -> bool {
    let (mut world, at) = world(server, member);
    world.start(at);
    world.run();
    world.pass(Duration::from_secs(3));
    if world.hosts[at].events.last() != Some(&MemberEvent::Registered) {
        assert!(!world.hosts[at].events.contains(&MemberEvent::Registered), "{:?}", world.hosts[at].events);
        assert_eq!(world.server.counters().registered, 0);
        return false;
    }
    assert!(world.has_newest(at));
    world.start(at);
    world.run();
    assert_eq!(world.server.counters().registered, 2);
    true
}

/// Table 1 of RFC 8784 section 3, and what the initiator says to it.
#[test]
fn who_registers_with_which_keys() {
    let (a, b) = ((b"a", b"the key of a, which is long enough"), (b"b", b"the key of b, which is long enough"));
    let of = |(id, key): (&[u8; 1], &[u8; 34]), required| ppk(id, key, required);
    let none = Vec::new;
    let (may, must) = (|which| vec![of(which, false)], |which| vec![of(which, true)]);
    // Both have it: used, whoever insists.
    for server in [may(a), must(a)] {
        for member in [may(a), must(a)] {
            assert!(registers(server.clone(), member));
        }
    }
    // Another key under the same name.
    assert!(!registers(may(a), vec![ppk(b"a", b"something else, but as long as it!", true)]));
    assert!(!registers(may(a), vec![ppk(b"a", b"something else, but as long as it!", false)]));
    // One side has none, or another one.
    assert!(registers(none(), may(a)));
    assert!(registers(may(a), none()));
    assert!(registers(may(a), may(b)), "NO_PPK_AUTH");
    assert!(!registers(none(), must(a)));
    assert!(!registers(must(a), none()));
    assert!(!registers(may(a), must(b)));
    assert!(!registers(must(a), may(b)));
    // One of several, and of those that are this member's.
    assert!(registers([may(b), must(a)].concat(), must(a)));
    let mine = |ppk| only_for(identity(1), ppk);
    let theirs = |ppk| only_for(identity(2), ppk);
    assert!(registers(vec![mine(of(a, true))], must(a)));
    assert!(!registers(vec![theirs(of(a, true))], must(a)));
    assert!(registers(vec![theirs(of(a, true))], may(a)), "required of another");
    assert!(registers(vec![theirs(of(a, true))], none()));
}

/// Without the key nobody learns the group's keys from what was recorded, though it breaks the key exchange: the default key wrap
/// key comes from the stirred SK_d.
#[test]
fn the_key_wrap_key_depends_on_it() {
    let key = b"the key of a, which is long enough";
    let wrap = |server: Vec<Ppk>, member: Vec<Ppk>| {
        let (mut world, at) = world(server, member);
        world.start(at);
        world.run();
        assert_eq!(world.hosts[at].events.last(), Some(&MemberEvent::Registered));
        let sa = world.server.sa_for_test().unwrap();
        let (derive, wrap) = (sa.derive().duplicate(), sa.key_wrap().unwrap().1.duplicate());
        (derive, wrap)
    };
    let plain = wrap(Vec::new(), Vec::new());
    let one = || vec![ppk(b"a", key, true)];
    let stirred = wrap(one(), one());
    assert!(!plain.0.ct_eq(stirred.0.expose()) && !plain.1.ct_eq(stirred.1.expose()));
}

/// IKE_SA_INIT, IKE_AUTH, CREATE_CHILD_SA, then the Delete of the first SA, and only then what the group's keys come by.
#[test]
fn new_keys_come_before_a_registration_where_that_is_wanted() {
    let key = b"the key of a, which is long enough";
    let (mut world, at) = world(vec![ppk(b"a", key, true)], vec![Ppk { rekey: true, ..ppk(b"a", key, true) }]);
    world.start(at);
    world.run();
    assert_eq!(world.hosts[at].events, [MemberEvent::Connected, MemberEvent::Registered]);
    let sent: Vec<u8> = exchanges(&world);
    let place = |exchange: ExchangeType| sent.iter().position(|e| *e == exchange.0);
    assert_eq!(place(ExchangeType::GSA_AUTH), None);
    assert_eq!(sent[..3], [34, 35, 36], "{sent:?}");
    assert!(place(ExchangeType::GSA_REGISTRATION) > place(ExchangeType::CREATE_CHILD_SA), "{sent:?}");
    let register = world.seen.iter().find(|p| p.exchange() == ExchangeType::GSA_REGISTRATION.0).unwrap();
    assert_ne!(register.bytes[..16], world.seen.iter().find(|p| p.exchange() == 35).unwrap().bytes[..16], "another SA");
    assert!(world.has_newest(at));
    // Where the key server uses none there is no reason to: one round trip less.
    let optional = Ppk { rekey: true, ..ppk(b"a", key, false) };
    let (mut world, at) = self::world(Vec::new(), vec![optional]);
    world.start(at);
    world.run();
    assert_eq!(world.hosts[at].events.last(), Some(&MemberEvent::Registered));
    assert_eq!(exchanges(&world), [34, 39]);
}

/// A key server may insist on them: by GSA_AUTH there is nothing to be had, nor by GSA_REGISTRATION over the first SA.
#[test]
fn a_key_server_may_insist_on_new_keys_first() {
    let key = b"the key of a, which is long enough";
    let insists = || vec![Ppk { rekey: true, ..ppk(b"a", key, true) }];
    let (mut world, at) = world(insists(), insists());
    world.start(at);
    world.run();
    assert_eq!(world.hosts[at].events, [MemberEvent::Connected, MemberEvent::Registered]);
    let (mut world, at) = self::world(insists(), vec![ppk(b"a", key, true)]);
    world.start(at);
    world.run();
    let refused = || MemberEvent::Refused("AUTHORIZATION_FAILED".to_owned());
    assert_eq!(world.hosts[at].events, [MemberEvent::Connected, refused()]);
    world.pass(Duration::from_secs(12));
    assert!(exchanges(&world).contains(&ExchangeType::GSA_REGISTRATION.0));
    assert!(world.hosts[at].events[1..].iter().all(|e| *e == refused()), "{:?}", world.hosts[at].events);
    assert_eq!(world.server.counters().registered, 0);
}

/// A key server that gives no new keys gives no others, either.
#[test]
fn without_new_keys_there_is_no_registration() {
    let key = b"the key of a, which is long enough";
    let (mut world, at) = world(vec![ppk(b"a", key, true)], vec![Ppk { rekey: true, ..ppk(b"a", key, true) }]);
    world.fate = Box::new(|p: &Packet| usize::from(p.exchange() != ExchangeType::CREATE_CHILD_SA.0));
    world.start(at);
    world.pass(Duration::from_secs(20));
    assert!(world.hosts[at].events.contains(&MemberEvent::Connected));
    assert!(!world.hosts[at].events.contains(&MemberEvent::Registered));
    assert_eq!(world.server.counters().registered, 0);
    assert!(!exchanges(&world).contains(&ExchangeType::GSA_REGISTRATION.0));
}

/// Loss of any message, and PPK together with an additional key exchange.
#[test]
fn it_goes_with_ml_kem_and_loss() {
    use keyferry_crypto::{Random, SeededRandom};
    use keyferry_model::settings::AdditionalKe;
    let key = b"the key of a, which is long enough";
    let kem = || vec![AdditionalKe { methods: vec![KeGroup::MlKem768], required: true }];
    for seed in 0..6 {
        let mut config = config();
        config.ppks = vec![ppk(b"a", key, true)];
        config.preferences.additional = kem();
        let mut world = World::with(policy(false), config, 5);
        let mut settings = world.settings(1);
        settings.ike2.ppks = vec![ppk(b"a", key, true)];
        settings.ike2.additional = kem();
        let at = world.add(settings);
        let mut rng = SeededRandom::new(seed);
        world.fate = Box::new(move |_| [0, 1, 1, 2][usize::try_from(rng.below(4)).unwrap()]);
        world.start(at);
        world.pass(Duration::from_secs(60));
        assert!(world.hosts[at].events.contains(&MemberEvent::Registered), "{seed}: {:?}", world.hosts[at].events);
        assert_eq!(world.server.counters().authentication_failed, 0);
    }
}

/// RFC 8784 section 3: without PPK_IDENTITY in the answer a member that insists fails, and tells the key server so, which forgets
/// the SA (RFC 7296 section 2.21.2). Here somebody with the key server's keys answers in its place.
#[test]
fn a_key_server_that_does_not_use_it_is_told() {
    let key = b"the key of a, which is long enough";
    let (mut world, at) = world(vec![ppk(b"a", key, true)], vec![ppk(b"a", key, true)]);
    world.start(at);
    for _ in 0..3 {
        let packet = world.wire.pop_front().unwrap();
        world.deliver(packet);
    }
    let mut answer = world.wire.pop_front().unwrap();
    assert_eq!((world.server.established(), answer.exchange()), (1, ExchangeType::GSA_AUTH.0));
    let mut chain = ChainWriter::new();
    let auth = Auth { method: AuthMethod::SHARED_KEY, data: vec![7; 32].into() };
    chain.push(PayloadKind::ID_R.0, &identity_to_wire(&Identity::from_ip(world.gateway.ip())).to_vec());
    chain.push(PayloadKind::AUTH.0, &auth.to_vec());
    let sa = world.server.sa_for_test().unwrap();
    answer.bytes = sa.seal(ExchangeType::GSA_AUTH, Direction::Response, 1, chain, &mut world.rng).unwrap();
    world.deliver(answer);
    world.run();
    let why = "the key server does not use the postquantum preshared key";
    assert_eq!(world.hosts[at].events, [MemberEvent::Refused(why.to_owned())]);
    assert_eq!((world.server.established(), world.server.counters().deleted), (0, 1));
    assert_eq!(exchanges(&world)[2..], [ExchangeType::INFORMATIONAL.0], "once");
}

/// Keys and algorithms may change while a key server runs: for whoever comes then, and not for IKE SAs that stand.
#[test]
fn new_settings_count_for_new_exchanges() {
    let key = b"the key of a, which is long enough";
    let (mut world, at) = world(Vec::new(), Vec::new());
    world.start(at);
    world.run();
    assert_eq!(world.hosts[at].events.last(), Some(&MemberEvent::Registered));
    let ppks = vec![ppk(b"a", key, true)];
    world.server.set_ike2(&Ike2Settings { ppks: ppks.clone(), ..Ike2Settings::default() });
    let comes = |world: &mut World, n: u8, ppks: &[Ppk]| {
        let mut settings = world.settings(n);
        settings.ike2.ppks = ppks.to_vec();
        let at = world.add(settings);
        world.start(at);
        world.run();
        world.pass(Duration::from_secs(3));
        world.hosts[at].events.last() == Some(&MemberEvent::Registered)
    };
    assert!(!comes(&mut world, 2, &[]) && comes(&mut world, 3, &ppks));
    world.start(at);
    world.run();
    assert_eq!(world.server.counters().registered, 3, "over the IKE SA that stands");
    world.server.set_ike2(&Ike2Settings { groups: vec![KeGroup::Ecp384], ..Ike2Settings::default() });
    assert!(!comes(&mut world, 4, &[]), "members here offer Curve25519 alone");
    world.server.set_ike2(&Ike2Settings::default());
    assert!(comes(&mut world, 5, &[]));
}
