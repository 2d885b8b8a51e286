//! Additional key exchanges, in both roles: IKE_INTERMEDIATE (RFC 9242) with ML-KEM (RFC 9370).

use std::borrow::Cow;
use std::net::SocketAddr;
use std::time::Duration;

use keyferry_crypto::{KeGroup, KeyPair, Random, Secret, SeededRandom};
use keyferry_model::drive::Via;
use keyferry_model::settings::AdditionalKe;
use keyferry_model::update::MemberEvent;
use keyferry_wire::{ChainWriter, Encode, Header};

use super::support::*;
use crate::algorithms::ke_number;
use crate::ike_sa::init::{Parts, request};
use crate::ike_sa::sa::{Direction, IkeSa};
use crate::ike_sa::{Preferences, Role, Skeyseed};
use crate::wire::ke::Ke;
use crate::wire::message::{Init, Payloads};
use crate::wire::notify::Notify;
use crate::wire::registry::{ExchangeType, NotifyType, PayloadKind, TransformType, ke};
use crate::wire::rules;

fn exchanges(methods: &[&[KeGroup]], required: bool) -> Vec<AdditionalKe> {
    methods.iter().map(|m| AdditionalKe { methods: m.to_vec(), required }).collect()
}

/// A server and a member, each with its additional key exchanges.
fn world(server: Vec<AdditionalKe>, member: Vec<AdditionalKe>) -> (World, usize) {
    let mut config = config();
    config.preferences.additional = server;
    // Nothing is cut up.
    config.ike.fragment_size = 65_535;
    let ike = config.ike;
    let mut world = World::with(policy(false), config, 9);
    let mut settings = world.settings(1);
    settings.ike2.additional = member;
    let at = world.add(settings);
    world.hosts[at].member.set_ike_options(ike);
    (world, at)
}

/// Exchange types on the wire, requests and responses, in their order.
fn seen(world: &World) -> Vec<u8> {
    world.seen.iter().map(Packet::exchange).collect()
}

const REGISTERED: [MemberEvent; 2] = [MemberEvent::Connected, MemberEvent::Registered];

/// HDR, SAi1, KEi, Ni, N(INTERMEDIATE_EXCHANGE_SUPPORTED); HDR, SK{KEi(1)}; HDR, SK{KEi(2)}; HDR, SK{IDi, AUTH, ...}
#[test]
fn every_method_runs_after_the_first_and_keys_follow_each() {
    let methods = KeGroup::ALL.into_iter().filter(|g| !g.is_weak() && *g != KeGroup::X25519);
    for method in methods {
        let both = || exchanges(&[&[method], &[KeGroup::Ecp256, KeGroup::Brainpool256]], true);
        let (mut world, at) = world(both(), both());
        let (server, member) = (Lines::default(), Lines::default());
        world.server.set_key_log(Box::new(server.clone()));
        world.hosts[at].member.set_key_log(Box::new(member.clone()));
        world.start(at);
        world.run();
        assert_eq!(world.hosts[at].events, REGISTERED, "{method:?}");
        assert_eq!(seen(&world), [34, 34, 43, 43, 43, 43, 39, 39], "{method:?}");
        // Keys of three generations, and of the Rekey SA: both ends have the same, and no two are alike.
        let lines = server.0.lock().unwrap().clone();
        assert_eq!(lines, *member.0.lock().unwrap());
        assert_eq!(lines.len(), 4);
        assert!(lines.iter().all(|line| lines.iter().filter(|other| *other == line).count() == 1));
        assert!(world.has_newest(at));
    }
}

#[test]
fn as_many_as_there_are_transform_types() {
    let seven = || {
        let methods: [&[KeGroup]; 7] = [
            &[KeGroup::MlKem512],
            &[KeGroup::MlKem768],
            &[KeGroup::MlKem1024],
            &[KeGroup::Ecp256],
            &[KeGroup::Ecp384],
            &[KeGroup::X448],
            &[KeGroup::Brainpool256],
        ];
        exchanges(&methods, true)
    };
    let (mut world, at) = world(seven(), seven());
    world.start(at);
    world.run();
    assert_eq!(world.hosts[at].events, REGISTERED);
    assert_eq!(seen(&world).iter().filter(|e| **e == ExchangeType::IKE_INTERMEDIATE.0).count(), 14);
}

/// ML-KEM in the place of the first key exchange.
#[test]
fn ml_kem_alone() {
    for method in [KeGroup::MlKem512, KeGroup::MlKem768, KeGroup::MlKem1024] {
        let mut config = config();
        config.preferences.groups = vec![method];
        let mut world = World::with(policy(false), config, 3);
        let mut settings = world.settings(1);
        settings.ike2.groups = vec![KeGroup::X25519, method];
        let at = world.add(settings);
        world.start(at);
        world.run();
        assert_eq!(world.hosts[at].events, REGISTERED);
        assert_eq!(world.server.counters().groups_demanded, 1);
    }
}

#[test]
fn sides_that_differ_go_without_or_not_at_all() {
    let kem = |required| exchanges(&[&[KeGroup::MlKem768]], required);
    for (server, member, expected) in [
        (kem(false), Vec::new(), Some(false)),
        (Vec::new(), kem(false), Some(false)),
        (kem(false), kem(false), Some(true)),
        (kem(true), Vec::new(), None),
        (Vec::new(), kem(true), None),
        (exchanges(&[&[KeGroup::MlKem1024]], false), kem(true), None),
    ] {
        let (mut world, at) = world(server, member);
        world.start(at);
        world.run();
        let registered = world.hosts[at].events.last() == Some(&MemberEvent::Registered);
        let ran = seen(&world).contains(&ExchangeType::IKE_INTERMEDIATE.0);
        assert_eq!(registered.then_some(ran), expected);
        if !registered {
            world.pass(Duration::from_secs(3));
            assert_eq!(world.hosts[at].events, [MemberEvent::Refused("NO_PROPOSAL_CHOSEN".to_owned())]);
        }
    }
}

/// Messages lost and repeated: each request is answered once, repeats draw the same octets.
#[test]
fn loss_and_repetition_are_survived() {
    let kem = || exchanges(&[&[KeGroup::MlKem768], &[KeGroup::MlKem512]], true);
    let mut repeated = 0;
    for seed in 0..12 {
        let (mut world, at) = world(kem(), kem());
        let mut rng = SeededRandom::new(seed);
        world.fate = Box::new(move |_| [0, 1, 1, 2, 2][usize::try_from(rng.below(5)).unwrap()]);
        world.start(at);
        world.pass(Duration::from_secs(60));
        assert!(world.hosts[at].events.contains(&MemberEvent::Registered), "seed {seed}: {:?}", world.hosts[at].events);
        repeated += world.server.counters().repeated;
        assert_eq!(world.server.counters().authentication_failed, 0);
    }
    assert!(repeated > 0);
}

fn requests(world: &World, exchange: ExchangeType) -> usize {
    world.seen.iter().filter(|p| p.exchange() == exchange.0 && !p.is_response()).count()
}

/// A member that offers ML-KEM-768 and ML-KEM-1024, and the key server's IKE_SA_INIT response, which chose the former and is not
/// delivered yet.
fn answered() -> (World, usize, Packet) {
    let both = exchanges(&[&[KeGroup::MlKem768, KeGroup::MlKem1024]], true);
    let (mut world, at) = world(both.clone(), both);
    world.start(at);
    let request = world.wire.pop_front().unwrap();
    world.deliver(request);
    let response = world.wire.pop_front().unwrap();
    (world, at, response)
}

fn changed(response: &Packet, transform: [u8; 8], id: u16) -> Packet {
    let mut bytes = response.bytes.clone();
    let at = bytes.windows(8).position(|w| w == transform).unwrap();
    bytes[at + 6..at + 8].copy_from_slice(&id.to_be_bytes());
    Packet { bytes, ..response.clone() }
}

/// Somebody on the path answers faster than the key server, with another method: both are tried under the same keys, with
/// different IVs, and the key server waits for its own.
#[test]
fn a_forged_choice_of_method_keeps_nobody_out() {
    for forged_first in [true, false] {
        let (mut world, at, genuine) = answered();
        let addke = [3, 0, 0, 8, TransformType::ADDKE1.0, 0, 0, 36];
        let forged = changed(&genuine, addke, ke::ML_KEM_1024);
        let (first, second) = if forged_first { (forged, genuine) } else { (genuine, forged) };
        world.deliver(first);
        world.deliver(second);
        world.run();
        world.pass(Duration::from_secs(3));
        assert_eq!(world.hosts[at].events, REGISTERED);
        let sealed: Vec<&Packet> = world
            .seen
            .iter()
            .filter(|p| p.exchange() == ExchangeType::IKE_INTERMEDIATE.0 && !p.is_response())
            .collect();
        let mut ivs: Vec<(&[u8], &[u8])> = sealed.iter().map(|p| (&p.bytes[32..40], &p.bytes[..])).collect();
        ivs.sort_unstable();
        ivs.dedup();
        assert_eq!(ivs.len(), 2);
        assert_ne!(ivs[0].0, ivs[1].0, "one IV, two messages");
    }
}

/// A forged response with the same keys has been followed through the additional key exchange when the genuine one comes: AUTH is
/// tried for both, and nothing is asked twice.
#[test]
fn a_response_that_comes_late_catches_up() {
    let (mut world, at, genuine) = answered();
    let wrap = [0, 0, 0, 8, TransformType::KWA.0, 0, 0, 3];
    world.deliver(changed(&genuine, wrap, 2));
    let intermediate = world.wire.pop_front().unwrap();
    assert_eq!(intermediate.exchange(), ExchangeType::IKE_INTERMEDIATE.0);
    world.deliver(intermediate);
    let response = world.wire.pop_front().unwrap();
    world.deliver(response);
    world.deliver(genuine);
    world.run();
    assert_eq!(world.hosts[at].events, REGISTERED);
    assert_eq!((requests(&world, ExchangeType::IKE_INTERMEDIATE), requests(&world, ExchangeType::GSA_AUTH)), (1, 1));
}

/// Repeats of a request whose key exchange is being computed start no second one, and the half-open SA gets no more time.
#[test]
fn requests_repeated_meanwhile_are_computed_once() {
    let kem = || exchanges(&[&[KeGroup::MlKem768]], true);
    let (mut world, at) = world(kem(), kem());
    world.start(at);
    for _ in 0..2 {
        let packet = world.wire.pop_front().unwrap();
        world.deliver(packet);
    }
    world.hold_jobs = true;
    let intermediate = world.wire.pop_front().unwrap();
    for _ in 0..3 {
        world.deliver(intermediate.clone());
    }
    assert_eq!(world.held.len(), 1);
    world.run_jobs();
    let response = world.wire.pop_front().unwrap();
    assert!(world.wire.is_empty());
    world.deliver(intermediate);
    assert_eq!(world.wire.pop_front().unwrap().bytes, response.bytes, "the same answer");
    world.deliver(response);
    world.run();
    assert_eq!(world.hosts[at].events, REGISTERED);
}

/// An initiator whose messages are made by hand.
struct Peer {
    world: World,
    address: SocketAddr,
    sa: IkeSa,
    rng: SeededRandom,
}

impl Peer {
    /// After IKE_SA_INIT with ML-KEM-768 as additional key exchange, or without any.
    fn new(additional: Vec<AdditionalKe>) -> Self {
        let (mut world, _) = world(additional.clone(), Vec::new());
        let mut rng = SeededRandom::new(4);
        let preferences = Preferences { additional, ..Preferences::default() };
        let offer = preferences.initial_proposals(true);
        let pair = KeyPair::generate(KeGroup::X25519, &mut rng).unwrap();
        let address = SocketAddr::new(address(false, 66), 848);
        let parts = Parts {
            spi_i: [6; 8],
            spi_r: [0; 8],
            sa: &offer,
            ke_method: ke::CURVE25519,
            public: pair.public(),
            nonce: &[3; 32],
            path: (address, world.gateway),
            abilities: &[NotifyType::INTERMEDIATE_EXCHANGE_SUPPORTED],
            announcement: None,
            certificates: None,
            redirected_from: None,
        };
        let bytes = request(&parts, None);
        world.deliver(Packet { from: address, to: world.gateway, via: Via::Udp, bytes, tainted: false });
        let answer = world.wire.pop_front().unwrap();
        let (header, body) = Header::decode(&answer.bytes).unwrap();
        let init = Init::of(Payloads::parse(header.next, body, rules::INIT_RESPONSE).unwrap()).unwrap();
        let suite = preferences.accept(&offer, &init.sa).unwrap();
        let shared = pair.agree(&init.ke.data).unwrap();
        let keys = Skeyseed::derive(suite, &[3; 32], &init.nonce.0, &shared).expand(&[6; 8], &header.spi_r);
        let (sa, _) = IkeSa::new(Role::Initiator, suite, [6; 8], header.spi_r, keys, &mut rng, None).unwrap();
        Self { world, address, sa, rng }
    }

    /// The kind of the notify that a request draws; `None` if there is no answer, or one with a key exchange.
    fn ask(&mut self, exchange: ExchangeType, message_id: u32, chain: ChainWriter) -> Option<NotifyType> {
        let bytes = self.sa.seal(exchange, Direction::Request, message_id, chain, &mut self.rng).unwrap();
        let to = self.world.gateway;
        self.world.deliver(Packet { from: self.address, to, via: Via::Udp, bytes, tainted: false });
        let answer = self.world.wire.pop_front()?;
        let opened = self.sa.open(&answer.bytes).unwrap();
        let payloads = Payloads::parse(opened.first, opened.inner.expose(), rules::INTERMEDIATE).unwrap();
        payloads.error()
    }
}

fn key_exchange(method: u16, data: &[u8]) -> ChainWriter {
    let mut chain = ChainWriter::new();
    chain.push(PayloadKind::KE.0, &Ke { method, data: Cow::Borrowed(data) }.to_vec());
    chain
}

#[test]
fn what_is_no_additional_key_exchange_ends_the_half_open_sa() {
    let kem = || exchanges(&[&[KeGroup::MlKem768]], true);
    let good = KeyPair::generate(KeGroup::MlKem768, &mut SeededRandom::new(5)).unwrap();
    let number = ke_number(KeGroup::MlKem768);
    let critical = || {
        let mut chain = ChainWriter::new();
        chain.push_critical(200, &[1, 2]);
        chain
    };
    let notify = || {
        let mut chain = ChainWriter::new();
        chain.push(PayloadKind::NOTIFY.0, &Notify::bare(NotifyType::INITIAL_CONTACT).to_vec());
        chain
    };
    let cases: [(ChainWriter, NotifyType); 5] = [
        (key_exchange(number, &good.public()[1..]), NotifyType::INVALID_SYNTAX),
        (key_exchange(number, &[0xff; 1184]), NotifyType::INVALID_SYNTAX),
        (ChainWriter::new(), NotifyType::INVALID_SYNTAX),
        (notify(), NotifyType::INVALID_SYNTAX),
        (critical(), NotifyType::UNSUPPORTED_CRITICAL_PAYLOAD),
    ];
    for (chain, expected) in cases {
        let mut peer = Peer::new(kem());
        assert_eq!(peer.ask(ExchangeType::IKE_INTERMEDIATE, 1, chain), Some(expected));
        // It is gone: only that answer is kept for a while.
        assert_eq!(peer.ask(ExchangeType::IKE_INTERMEDIATE, 2, key_exchange(number, good.public())), None);
        peer.world.pass(Duration::from_secs(60));
        assert_eq!(peer.world.server.counters().established, 0);
    }
}

#[test]
fn what_comes_at_the_wrong_time_draws_nothing() {
    let kem = || exchanges(&[&[KeGroup::MlKem768]], true);
    let good = KeyPair::generate(KeGroup::MlKem768, &mut SeededRandom::new(5)).unwrap();
    let number = ke_number(KeGroup::MlKem768);
    let mut peer = Peer::new(kem());
    // AUTH before the additional key exchange, a message ID too far, a method that was not chosen.
    assert_eq!(peer.ask(ExchangeType::GSA_AUTH, 1, ChainWriter::new()), None);
    assert_eq!(peer.ask(ExchangeType::IKE_AUTH, 1, ChainWriter::new()), None);
    assert_eq!(peer.ask(ExchangeType::IKE_INTERMEDIATE, 2, key_exchange(number, good.public())), None);
    assert_eq!(peer.ask(ExchangeType::IKE_INTERMEDIATE, 1, key_exchange(ke::ML_KEM_512, &[0; 800])), None);
    assert_eq!(peer.world.server.counters().unexpected, 4);
    assert!(peer.world.held.is_empty());
    // The right one is still taken.
    assert_eq!(peer.ask(ExchangeType::IKE_INTERMEDIATE, 1, key_exchange(number, good.public())), None);
    // One more than was negotiated is not under the keys there are now, and would not be taken if it were.
    assert_eq!(peer.ask(ExchangeType::IKE_INTERMEDIATE, 2, key_exchange(number, good.public())), None);
    assert_eq!(peer.world.server.counters().unauthenticated, 1);
    // Without any negotiated, the first is one too many.
    let mut peer = Peer::new(Vec::new());
    let answer = peer.ask(ExchangeType::IKE_INTERMEDIATE, 1, key_exchange(number, good.public()));
    assert_eq!(answer, Some(NotifyType::INVALID_SYNTAX));
}

/// Every changed octet and every truncation of IKE_INTERMEDIATE.
#[test]
fn nothing_tampered_with_is_believed() {
    let kem = || exchanges(&[&[KeGroup::MlKem512]], true);
    let (mut world, at) = world(kem(), kem());
    world.start(at);
    for _ in 0..2 {
        let packet = world.wire.pop_front().unwrap();
        world.deliver(packet);
    }
    for _ in 0..2 {
        let packet = world.wire.pop_front().unwrap();
        for bytes in variants(&packet.bytes) {
            world.deliver(Packet { bytes, tainted: true, ..packet.clone() });
        }
        world.deliver(packet);
    }
    world.run();
    assert_eq!(world.hosts[at].events, REGISTERED);
}

/// AUTH covers IKE_INTERMEDIATE: who is between both and changes something inside is found out, though the keys are right.
#[test]
fn auth_covers_what_was_exchanged() {
    let proof = || (Secret::new(vec![1; 32]), Secret::new(vec![2; 32]));
    let header = crate::ike_sa::init::header(ExchangeType::IKE_INTERMEDIATE, [1; 8], [2; 8], 0, 1);
    let plain = |inner| crate::ike_sa::int_auth::Plain { header, flags: 0, first: 34, inner };
    let sum = |request, response| {
        crate::ike_sa::int_auth::IntAuth::default()
            .then(keyferry_crypto::Prf::HmacSha256, &proof(), plain(request), plain(response))
            .octets(2)
    };
    assert_ne!(sum(b"one", b"two"), sum(b"one", b"twp"));
    assert_ne!(sum(b"one", b"two"), sum(b"onf", b"two"));
}
