//! IKE SAs that go on from a ticket (RFC 5723), and who tries with one that is not his.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use keyferry_crypto::{KeyPair, Secret, SeededRandom};
use keyferry_model::credentials::{Credentials, Peer, Proof, Trust};
use keyferry_model::drive::Via;
use keyferry_model::plan::RekeyReason;
use keyferry_model::reading::Readings;
use keyferry_model::settings::{Ike2Settings, Ppk, Transport};
use keyferry_model::update::MemberEvent;
use keyferry_wire::{ChainWriter, Decode, Encode, Header};

use super::pki;
use super::support::*;
use crate::ike_sa::Preferences;
use crate::ike_sa::init::{ResumeParts, header, refusal, resume_request};
use crate::ike_sa::rekey::Proposed;
use crate::ike_sa::sa::Direction;
use crate::wire::message::Payloads;
use crate::wire::notify::Notify;
use crate::wire::registry::{ExchangeType, NotifyType, PayloadKind};
use crate::wire::ticket::TicketGrant;
use crate::{IkeOptions, Server, ServerConfig};

fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// A key server that gives tickets for an hour.
fn giving() -> ServerConfig {
    let mut config = config();
    config.ticket_lifetime = Some(secs(3600));
    config.idle = secs(24 * 3600);
    config
}

fn server(world: &World, config: ServerConfig) -> Server {
    let mut server = Server::new(config);
    server.load_tickets(&world.store).unwrap();
    server
}

/// The key server starts again over its store: its IKE SAs are gone.
fn restart(world: &mut World, config: ServerConfig) {
    world.server = server(world, config);
}

/// A registered member that resumes.
fn world_with(config: ServerConfig, seed: u64) -> (World, usize) {
    let mut world = World::with(policy(false), config.clone(), seed);
    restart(&mut world, config);
    let mut settings = world.settings(1);
    settings.ike2.resume = true;
    let at = world.add(settings);
    world.start(at);
    world.run();
    assert_eq!(world.hosts[at].events, [MemberEvent::Connected, MemberEvent::Registered]);
    (world, at)
}

fn world() -> (World, usize) {
    world_with(giving(), 1)
}

/// The member wants something of its key server, and has time to find out that the IKE SA is lost.
fn register_again(world: &mut World, at: usize) {
    world.on_member(at, false, |m, ctx| m.reregister(ctx));
    world.pass(secs(60));
}

fn registered(world: &World, at: usize) -> usize {
    world.hosts[at].events.iter().filter(|e| **e == MemberEvent::Registered).count()
}

fn count(world: &World, exchange: ExchangeType) -> usize {
    world.seen.iter().filter(|p| p.exchange() == exchange.0 && !p.is_response()).count()
}

fn resumed(world: &World) -> (u64, u64, u64) {
    let counters = world.server.counters();
    (counters.resumed, counters.tickets_refused, counters.initiations)
}

/// The last request that showed a ticket.
fn shown(world: &World) -> Packet {
    let shows = |p: &&Packet| p.exchange() == ExchangeType::IKE_SESSION_RESUME.0 && !p.is_response();
    world.seen.iter().rfind(shows).unwrap().clone()
}

/// The ticket in it.
fn ticket_in(packet: &Packet) -> Vec<u8> {
    let (header, body) = Header::decode(&packet.bytes).unwrap();
    let payloads = Payloads::parse(header.next, body, &[]).unwrap();
    payloads.notify(NotifyType::TICKET_OPAQUE).unwrap().data.to_vec()
}

/// Somebody shows a ticket; the answer's notify, if it is none but that, or `None` if it is taken.
fn shows(world: &mut World, ticket: &[u8], seed: u8) -> Option<NotifyType> {
    let from: SocketAddr = SocketAddr::new(address(false, 9), 848);
    let parts =
        ResumeParts { spi_i: [seed; 8], nonce: &[seed; 32], ticket, path: (from, world.gateway), abilities: &[] };
    let bytes = resume_request(&parts, None);
    let to = world.gateway;
    world.deliver(Packet { from, to, via: Via::Udp, bytes, tainted: false });
    let answer = world.wire.pop_back().expect("an answer");
    let (header, body) = Header::decode(&answer.bytes).unwrap();
    let payloads = Payloads::parse(header.next, body, &[]).unwrap();
    match payloads.body(PayloadKind::NONCE) {
        Some(_) => None,
        None => Some(payloads.notifies[0].kind),
    }
}

/// RFC 5723 sections 4.3 and 5.
#[test]
fn a_lost_ike_sa_goes_on_from_a_ticket() {
    let (mut world, at) = world();
    for times in 1..=3 {
        restart(&mut world, giving());
        register_again(&mut world, at);
        assert_eq!(resumed(&world), (1, 0, 0), "no public-key work");
        assert_eq!(registered(&world, at), 1 + times);
        assert_eq!(world.hosts[at].member.status().resumed, u64::try_from(times).unwrap());
        assert_eq!(count(&world, ExchangeType::IKE_SA_INIT), 1);
        assert_eq!(count(&world, ExchangeType::IKE_SESSION_RESUME), times);
        assert!(world.has_newest(at));
        // What it is for: keys under the new SA, and rekeys.
        world.rekey(RekeyReason::Operator, &[]);
        assert!(world.has_newest(at));
        let answer = world.seen.iter().rfind(|p| p.exchange() == ExchangeType::IKE_SESSION_RESUME.0).unwrap();
        assert!(answer.is_response() && answer.bytes[8..16] != [0; 8]);
    }
}

/// RFC 5723 section 4.3.4: the old IKE SA goes without a word.
#[test]
fn the_ike_sa_that_there_still_is_goes() {
    let (mut world, at) = world();
    let (mut back, before) = (false, world.seen.len());
    world.fate = Box::new(move |p| {
        back |= p.exchange() == ExchangeType::IKE_SESSION_RESUME.0;
        usize::from(back)
    });
    register_again(&mut world, at);
    assert_eq!((resumed(&world).0, world.server.established(), registered(&world, at)), (1, 1, 2));
    let told = |p: &Packet| p.from == world.gateway && p.exchange() == ExchangeType::INFORMATIONAL.0;
    assert!(!world.seen[before..].iter().any(told), "silently");
}

#[test]
fn nothing_tampered_with_resumes_anything_else() {
    let (mut world, at) = world();
    let mut config = giving();
    (config.cookie_threshold, config.half_open_per_address) = (100_000, 100_000);
    restart(&mut world, config);
    world.tamper = true;
    register_again(&mut world, at);
    assert_eq!((registered(&world, at), world.server.established()), (2, 1));
    assert_eq!(world.hosts[at].member.status().resumed, 1);
}

#[test]
fn loss_and_repetition_are_survived() {
    for lost in 0..4 {
        let (mut world, at) = world();
        restart(&mut world, giving());
        let mut seen = 0;
        world.fate = Box::new(move |p| {
            let of_resumption = [ExchangeType::IKE_SESSION_RESUME.0, ExchangeType::IKE_AUTH.0].contains(&p.exchange());
            seen += usize::from(of_resumption);
            if of_resumption && seen == lost + 1 { 0 } else { 2 }
        });
        register_again(&mut world, at);
        assert_eq!((registered(&world, at), resumed(&world)), (2, (1, 0, 0)), "{lost}");
    }
}

/// RFC 5723 section 4.3.1, and 9.8 after a restart.
#[test]
fn a_ticket_is_taken_once() {
    let (mut world, at) = world();
    restart(&mut world, giving());
    register_again(&mut world, at);
    let ticket = ticket_in(&shown(&world));
    assert_eq!(shows(&mut world, &ticket, 3), Some(NotifyType::TICKET_NACK));
    world.deliver(shown(&world));
    assert!(world.wire.is_empty(), "what was answered long ago is not answered again");
    restart(&mut world, giving());
    assert_eq!(shows(&mut world, &ticket, 4), Some(NotifyType::TICKET_NACK));
    assert_eq!(world.server.established(), 0);
}

/// RFC 5723 section 9.1: the ticket is not enough, and whoever tries takes nothing from its owner.
#[test]
fn who_steals_a_ticket_gets_nowhere() {
    let (mut world, at) = world();
    restart(&mut world, giving());
    world.on_member(at, false, |m, ctx| m.reregister(ctx));
    while count(&world, ExchangeType::IKE_SESSION_RESUME) == 0 {
        world.wire.clear();
        world.pass(secs(1));
    }
    let ticket = ticket_in(&shown(&world));
    for seed in 1..20 {
        // Taken, or spent already by its owner.
        let _ = shows(&mut world, &ticket, seed);
    }
    world.pass(secs(60));
    assert_eq!((registered(&world, at), world.server.established()), (2, 1));
    assert_eq!(world.server.counters().resumed, 1);
}

#[test]
fn what_is_no_ticket_of_ours_is_refused() {
    let (mut world, _) = world();
    let (mut other, elsewhere) = world_with(giving(), 2);
    restart(&mut other, giving());
    register_again(&mut other, elsewhere);
    // A good one, of the other gateway.
    let foreign = ticket_in(&shown(&other));
    for (seed, ticket) in [foreign, vec![1; 200], vec![1], vec![0; 20_000]].iter().enumerate() {
        let seed = u8::try_from(seed).unwrap() + 1;
        assert_eq!(shows(&mut world, ticket, seed), Some(NotifyType::TICKET_NACK));
    }
    assert_eq!(world.server.counters().tickets_refused, 4);
    // And what is no request at all draws nothing.
    let from = SocketAddr::new(address(false, 9), 848);
    let bare = |chain: ChainWriter| {
        let (first, body) = chain.finish().unwrap();
        Header { next: first, ..header(ExchangeType::IKE_SESSION_RESUME, [1; 8], [0; 8], 8, 0) }.encode(&body)
    };
    let mut without_nonce = ChainWriter::new();
    without_nonce.push(PayloadKind::NOTIFY.0, &Notify::new(NotifyType::TICKET_OPAQUE, vec![1; 40]).to_vec());
    let mut without_ticket = ChainWriter::new();
    without_ticket.push(PayloadKind::NONCE.0, &[1; 32]);
    for bytes in [bare(without_nonce), bare(without_ticket)] {
        world.deliver(Packet { from, to: world.gateway, via: Via::Udp, bytes, tainted: false });
        assert!(world.wire.is_empty());
    }
}

/// RFC 5723 section 4.3.2: TICKET_NACK, and silence of those that know nothing of tickets.
#[test]
fn the_whole_exchange_follows_where_a_ticket_is_not_taken() {
    for knows in [true, false] {
        let (mut world, at) = world();
        let mut other = giving();
        if !knows {
            other.ticket_lifetime = None;
        }
        // Its store is gone.
        world.server = Server::new(other);
        world.server.load_tickets(&Default::default()).unwrap();
        register_again(&mut world, at);
        assert_eq!((registered(&world, at), resumed(&world).0), (2, 0));
        assert_eq!(count(&world, ExchangeType::IKE_SA_INIT), 2);
        assert_eq!(resumed(&world).1, if knows { world.server.counters().tickets_refused } else { 0 });
        assert!(!world.hosts[at].events.iter().any(|e| matches!(e, MemberEvent::Refused(_))));
    }
}

/// A refusal that nothing protects does not keep the key server from taking the ticket.
#[test]
fn a_forged_refusal_refuses_nothing() {
    let (mut world, at) = world();
    restart(&mut world, giving());
    world.on_member(at, false, |m, ctx| m.reregister(ctx));
    while !world.wire.iter().any(|p| p.exchange() == ExchangeType::IKE_SESSION_RESUME.0) {
        world.run();
        let due = world.hosts[at].member.deadline().unwrap().at;
        world.jump(due);
        world.on_member(at, false, |m, ctx| m.expire(ctx));
    }
    let request = world.wire.pop_front().unwrap();
    let (header, _) = Header::decode(&request.bytes).unwrap();
    let bytes = refusal(&header, &Notify::bare(NotifyType::TICKET_NACK));
    world.deliver(Packet { from: request.to, to: request.from, bytes, ..request.clone() });
    world.deliver(request);
    world.run();
    assert_eq!((world.hosts[at].member.status().resumed, resumed(&world)), (1, (1, 0, 0)));
}

/// RFC 5723 section 4.3.1: MUST NOT present a ticket that has expired; and a key server takes none.
#[test]
fn a_ticket_has_its_time() {
    let (mut world, at) = world();
    restart(&mut world, giving());
    register_again(&mut world, at);
    let mut never = giving();
    never.ticket_lifetime = None;
    world.server = Server::new(never);
    // It asks for another one when a quarter of the time is left, and this key server has none.
    world.pass(secs(3700));
    let before = count(&world, ExchangeType::IKE_SESSION_RESUME);
    restart(&mut world, giving());
    register_again(&mut world, at);
    assert_eq!(count(&world, ExchangeType::IKE_SESSION_RESUME), before);
    assert!(registered(&world, at) >= 3);
}

#[test]
fn a_ticket_is_renewed_in_its_time() {
    let (mut world, at) = world();
    world.pass(secs(3600 * 5));
    let before = registered(&world, at);
    restart(&mut world, giving());
    register_again(&mut world, at);
    assert_eq!(resumed(&world), (1, 0, 0));
    assert!(registered(&world, at) > before);
}

/// RFC 5723 section 6.2: the ticket goes with its IKE SA, whoever deletes that.
#[test]
fn a_deleted_ike_sa_is_not_resumed() {
    let mut brief = giving();
    brief.idle = secs(30);
    let (mut world, at) = world_with(brief.clone(), 1);
    world.pass(secs(60));
    assert_eq!(world.server.established(), 0);
    let spent = world.store.keys().filter(|key| key.starts_with("ikev2/spent-ticket/")).count();
    assert_eq!(spent, 1, "the key server does not take it any more either");
    register_again(&mut world, at);
    assert_eq!(count(&world, ExchangeType::IKE_SESSION_RESUME), 0);
    assert_eq!(registered(&world, at), 2);
    world.on_member(at, false, |m, ctx| m.disconnect(ctx));
    world.start(at);
    world.pass(secs(10));
    assert_eq!(count(&world, ExchangeType::IKE_SESSION_RESUME), 0);
}

/// RFC 5723 section 6.2: new keys make it void; another one is asked for.
#[test]
fn new_keys_of_the_ike_sa_bring_another_ticket() {
    for by_member in [true, false] {
        let (mut config, lifetime) = (giving(), secs(1000));
        if !by_member {
            config.ike.lifetime = lifetime;
        }
        let (mut world, at) = world_with(config.clone(), 1);
        if by_member {
            world.hosts[at].member.set_ike_options(IkeOptions { lifetime, ..IkeOptions::default() });
            world.on_member(at, false, |m, ctx| m.disconnect(ctx));
            world.start(at);
        }
        world.pass(secs(1100));
        assert!(world.server.counters().rekeyed > 0);
        let before = registered(&world, at);
        restart(&mut world, config);
        register_again(&mut world, at);
        assert_eq!((resumed(&world), registered(&world, at)), ((1, 0, 0), before + 1), "{by_member}");
    }
}

#[test]
fn who_was_evicted_resumes_nothing() {
    let (mut world, at) = world();
    world.rekey(RekeyReason::Eviction, &[identity(1)]);
    restart(&mut world, giving());
    register_again(&mut world, at);
    assert_eq!((resumed(&world).0, registered(&world, at)), (0, 1));
    assert!(resumed(&world).1 > 0, "it showed its ticket");
    assert!(world.hosts[at].events.contains(&MemberEvent::Refused("AUTHORIZATION_FAILED".into())));
}

/// A peer that is configured anew proves itself anew.
#[test]
fn other_credentials_void_tickets() {
    let (mut world, at) = world();
    let other = Proof::Psk(Arc::new(Secret::copy_from(b"another secret of the two")));
    let peer = Peer { identity: Some(identity(1)), address: None, proof: other, sends: Readings::NONE };
    for peers in [vec![peer], Vec::new()] {
        let mut config = giving();
        config.credentials = Arc::new(Credentials::new(peers));
        restart(&mut world, config);
        world.on_member(at, false, |m, ctx| m.reregister(ctx));
        world.pass(secs(30));
        assert_eq!((resumed(&world).0, registered(&world, at)), (0, 1));
    }
    assert_eq!(count(&world, ExchangeType::IKE_SESSION_RESUME), 1);
}

/// A ticket was good when it was shown; what has changed since then counts when its owner proves that it is his.
#[test]
fn what_changes_between_a_ticket_and_auth_counts() {
    type Change = fn(&mut World);
    let changes: [(Change, bool); 4] = [
        (|_| {}, true),
        (|w| w.server.set_credentials(Arc::new(Credentials::new(Vec::new()))), false),
        (|w| w.server.set_ike2(&Ike2Settings { ppks: vec![ppk(1, true, false)], ..Ike2Settings::default() }), false),
        (|w| w.rekey(RekeyReason::Eviction, &[identity(1)]), false),
    ];
    for (n, (change, good)) in changes.into_iter().enumerate() {
        let (mut world, at) = world();
        restart(&mut world, giving());
        world.fate = Box::new(|p| usize::from(p.exchange() != ExchangeType::IKE_AUTH.0));
        world.on_member(at, false, |m, ctx| m.reregister(ctx));
        while count(&world, ExchangeType::IKE_AUTH) == 0 {
            world.pass(Duration::from_millis(100));
        }
        change(&mut world);
        let asks = |p: &&Packet| p.exchange() == ExchangeType::IKE_AUTH.0;
        let auth = world.seen.iter().find(asks).unwrap().clone();
        world.deliver(auth);
        assert_eq!((world.server.established(), resumed(&world).0), (usize::from(good), u64::from(good)), "{n}");
        assert_eq!(world.server.counters().authentication_failed, u64::from(!good), "{n}");
    }
}

/// RFC 7296 section 2.6, for IKE_SESSION_RESUME too.
#[test]
fn under_load_a_cookie_is_wanted() {
    let (mut world, at) = world();
    let mut config = giving();
    config.cookie_threshold = 0;
    restart(&mut world, config);
    register_again(&mut world, at);
    assert_eq!((registered(&world, at), resumed(&world)), (2, (1, 0, 0)));
    assert_eq!(world.server.counters().cookies_demanded, 1);
}

fn ppk(key: u8, required: bool, rekey: bool) -> Ppk {
    Ppk { id: vec![2, 7], key: Arc::new(Secret::new(vec![key; 32])), required, identities: None, rekey }
}

/// RFC 8784: the keys of a resumed IKE SA come from SK_d, which the PPK is in.
#[test]
fn a_postquantum_preshared_key_stays_what_it_was() {
    // Of the key server after the restart: its keys, and whether it takes the ticket.
    let after = [(vec![ppk(1, true, false)], true), (vec![ppk(2, true, false)], false), (Vec::new(), false)];
    for (ppks, takes) in after {
        for rekey in [false, true] {
            let mut config = giving();
            config.ppks = vec![ppk(1, true, rekey)];
            let mut world = World::with(policy(false), config.clone(), 1);
            restart(&mut world, config);
            let mut settings = world.settings(1);
            settings.ike2.resume = true;
            settings.ike2.ppks = vec![ppk(1, false, rekey)];
            let at = world.add(settings);
            world.start(at);
            world.run();
            assert_eq!(registered(&world, at), 1);
            let mut config = giving();
            config.ppks.clone_from(&ppks);
            restart(&mut world, config);
            register_again(&mut world, at);
            assert_eq!(resumed(&world).0, u64::from(takes), "{rekey}");
            assert_eq!(resumed(&world).1 > 0, !takes);
        }
    }
    // One that has become necessary.
    let (mut world, at) = world();
    let mut config = giving();
    config.ppks = vec![ppk(1, true, false)];
    restart(&mut world, config);
    world.on_member(at, false, |m, ctx| m.reregister(ctx));
    world.pass(secs(30));
    assert_eq!((resumed(&world).0, registered(&world, at)), (0, 1));
}

/// Off unless both sides want it.
#[test]
fn who_does_not_ask_gets_no_ticket() {
    for (gives, asks) in [(true, false), (false, true)] {
        let mut config = giving();
        if !gives {
            config.ticket_lifetime = None;
        }
        let mut world = World::with(policy(false), config.clone(), 1);
        restart(&mut world, config.clone());
        let mut settings = world.settings(1);
        settings.ike2.resume = asks;
        let at = world.add(settings);
        world.start(at);
        world.run();
        assert!(world.store.keys().all(|key| !key.starts_with("ikev2/")));
        restart(&mut world, config);
        register_again(&mut world, at);
        assert_eq!((count(&world, ExchangeType::IKE_SESSION_RESUME), registered(&world, at)), (0, 2));
    }
}

/// RFC 5723 section 4.3.3: as long as IKE_AUTH is missing there is nothing but a half-open SA, for a while.
#[test]
fn a_half_open_resumption_is_forgotten() {
    let (mut world, at) = world();
    restart(&mut world, giving());
    world.fate = Box::new(|p| usize::from(p.exchange() != ExchangeType::IKE_AUTH.0));
    register_again(&mut world, at);
    world.pass(secs(60));
    assert!(count(&world, ExchangeType::IKE_AUTH) > 1);
    assert!(world.server.counters().half_open_expired > 0);
    assert_eq!((resumed(&world).0, registered(&world, at)), (0, 2), "the whole exchange follows");
}

/// RFC 5723 section 4.1: TICKET_ACK puts the ticket off; who says so again and again is not asked again and again.
#[test]
fn a_ticket_that_is_put_off_is_not_asked_for_at_once() {
    let (mut world, at) = world();
    // Another ticket is wanted when a quarter of the time is left.
    world.jump(world.now.mono + secs(2701));
    world.on_member(at, false, |m, ctx| m.expire(ctx));
    let asks = |p: &Packet| p.exchange() == ExchangeType::INFORMATIONAL.0;
    let request = world.wire.iter().find(|p| asks(p)).expect("it asks").clone();
    world.wire.clear();
    let (header, _) = Header::decode(&request.bytes).unwrap();
    let mut chain = ChainWriter::new();
    chain.push(PayloadKind::NOTIFY.0, &Notify::bare(NotifyType::TICKET_ACK).to_vec());
    let (exchange, mut rng) = (ExchangeType::INFORMATIONAL, SeededRandom::new(7));
    let sa = world.server.sa_for_test().unwrap();
    let bytes = sa.seal(exchange, Direction::Response, header.message_id, chain, &mut rng).unwrap();
    world.deliver(Packet { from: request.to, to: request.from, bytes, ..request });
    assert!(!world.wire.iter().any(asks));
}

/// What the key server says when it is asked for a ticket over the IKE SA.
fn asks_for_a_ticket(world: &mut World, at: usize, id: u32) -> Notify<'static> {
    let mut chain = ChainWriter::new();
    chain.push(PayloadKind::NOTIFY.0, &Notify::bare(NotifyType::TICKET_REQUEST).to_vec());
    over_sa(world, at, (ExchangeType::INFORMATIONAL, id), chain).expect("it says something")
}

/// The last notify, if there is any, of the answer to a request over the IKE SA.
fn over_sa(
    world: &mut World,
    at: usize,
    (exchange, id): (ExchangeType, u32),
    chain: ChainWriter,
) -> Option<Notify<'static>> {
    let (from, to) = (world.hosts[at].address, world.gateway);
    let mut rng = SeededRandom::new(id.into());
    let sa = world.hosts[at].member.sa_for_test().unwrap();
    let bytes = sa.seal(exchange, Direction::Request, id, chain, &mut rng).unwrap();
    world.deliver(Packet { from, to, via: Via::Udp, bytes, tainted: false });
    let answer = world.wire.pop_back().expect("an answer");
    let opened = world.hosts[at].member.sa_for_test().unwrap().open(&answer.bytes).unwrap();
    let payloads = Payloads::parse(opened.first, opened.inner.expose(), &[]).unwrap();
    payloads.notifies.last().map(|last| Notify::new(last.kind, last.data.to_vec()))
}

fn spent(world: &World) -> usize {
    world.store.keys().filter(|key| key.starts_with("ikev2/spent-ticket/")).count()
}

/// A member fills no store by wishes, and spends nobody else's ticket.
#[test]
fn tickets_are_not_replaced_at_once() {
    let (mut world, at) = world();
    for id in 2..20 {
        assert_eq!(asks_for_a_ticket(&mut world, at, id).kind, NotifyType::TICKET_NACK);
    }
    assert_eq!(spent(&world), 0, "it keeps the one that it has");
    world.pass_quietly(secs(30));
    assert_eq!(asks_for_a_ticket(&mut world, at, 20).kind, NotifyType::TICKET_LT_OPAQUE);
    assert_eq!(asks_for_a_ticket(&mut world, at, 21).kind, NotifyType::TICKET_NACK);
    assert_eq!(spent(&world), 1);
}

const PORT: u16 = 4500;

/// A registered member that resumes, over TCP.
fn world_over_tcp() -> (World, usize) {
    let mut world = World::with(policy(false), giving(), 1);
    restart(&mut world, giving());
    world.tcp_port = Some(PORT);
    let mut settings = world.settings(1);
    settings.ike2.resume = true;
    settings.gikev2.transport = Transport::Tcp(PORT);
    let at = world.add(settings);
    world.start(at);
    world.run();
    (world, at)
}

/// The key server starts again, and its connections are gone.
fn restart_with_connections(world: &mut World, server: Server) {
    world.server = server;
    for id in world.connections.keys().copied().collect::<Vec<_>>() {
        world.cut(id);
    }
}

/// RFC 9329 section 6.1: what goes on from a ticket shares no connection with another IKE SA either, be that only in the making,
/// and has the same time for its AUTH.
#[test]
fn a_resumption_has_a_connection_of_its_own() {
    for proven in [true, false] {
        let (mut world, at) = world_over_tcp();
        let server = server(&world, giving());
        restart_with_connections(&mut world, server);
        world.fate = Box::new(move |p| usize::from(proven || p.exchange() != ExchangeType::IKE_AUTH.0));
        while count(&world, ExchangeType::IKE_AUTH) == 0 {
            world.pass(Duration::from_millis(100));
        }
        assert_eq!(resumed(&world), (u64::from(proven), 0, 0));
        let mut another = shown(&world);
        another.bytes[0] ^= 1;
        let before = (world.seen.len(), world.server.counters().unexpected);
        world.deliver(another);
        assert_eq!((world.seen.len(), world.server.counters().unexpected), (before.0, before.1 + 1), "{proven}");
        world.pass_quietly(secs(20));
        world.on_server(false, |s, ctx| s.expire(ctx));
        world.run();
        assert_eq!(world.connections.len(), 1);
        assert!(world.hosts[at].member.status().over_tcp);
    }
}

/// RFC 9329 section 6.4 has a refusal believed at once; that of a ticket is no refusal of the whole exchange.
#[test]
fn the_whole_exchange_follows_at_once_over_tcp() {
    let (mut world, at) = world_over_tcp();
    let mut other = Server::new(giving());
    other.load_tickets(&Default::default()).unwrap();
    restart_with_connections(&mut world, other);
    while resumed(&world).1 == 0 {
        world.pass(Duration::from_millis(100));
    }
    world.run();
    assert_eq!((world.server.established(), resumed(&world)), (1, (0, 1, 1)));
    assert!(!world.hosts[at].events.iter().any(|e| matches!(e, MemberEvent::Refused(_))));
}

/// RFC 5723 section 4.3.3: no certificates, no signatures. What speaks against a certificate speaks against its tickets.
#[test]
fn certificates_are_not_shown_again_and_hold_still() {
    let peer = |subject| vec![pki::certified(None, subject)];
    let given = |peers| {
        let pki = pki::config(&["gateway-p256"], peers);
        ServerConfig { credentials: pki.credentials, ..giving() }
    };
    let trusting = |trust: Trust| {
        let mut config = given(peer(None));
        config.credentials = Arc::new(config.credentials.as_ref().clone().with_trust(trust));
        config
    };
    let certificate = pki::own("gm1-p256").chain[0].clone();
    let revoked = Trust { ocsp: Arc::new([pki::answered_revoked(&certificate)]), ..pki::trust("root") };
    for (n, (after, resumes)) in [
        (given(peer(None)), true),
        (given(peer(Some("CN=somebody else"))), false),
        (given(Vec::new()), false),
        (trusting(revoked), false),
        (trusting(pki::trust("other-root")), false),
        (giving(), false),
    ]
    .into_iter()
    .enumerate()
    {
        let config = given(peer(None));
        let mut world = World::with(policy(false), config.clone(), 1);
        restart(&mut world, config);
        let mut settings = world.settings(1);
        (settings.ike2.resume, settings.auth) = (true, pki::auth(pki::own("gm1-p256")));
        let at = world.add(settings);
        world.start(at);
        world.run();
        assert_eq!(registered(&world, at), 1);
        restart(&mut world, after);
        world.hold_jobs = resumes;
        world.on_member(at, false, |m, ctx| m.reregister(ctx));
        world.pass(secs(30));
        assert_eq!(resumed(&world).0, u64::from(resumes), "{n}");
        assert_eq!(resumed(&world).1, u64::from(!resumes), "{n}");
        if resumes {
            assert_eq!((registered(&world, at), world.held.len()), (2, 0), "nothing is signed, and nothing checked");
        }
    }
}

/// RFC 5723 section 5: a ticket is good no longer than what its owner had proved itself with.
#[test]
fn a_ticket_ends_with_the_certificate() {
    let pki = pki::config(&["gateway-p256"], vec![pki::certified(None, None)]);
    let config = ServerConfig { credentials: pki.credentials, ..giving() };
    let certificate = pki::own("gm1-p256").chain[0].clone();
    let mut world = World::with(policy(false), config.clone(), 1);
    world.now.wall = certificate.not_after() - secs(600);
    restart(&mut world, config);
    let mut settings = world.settings(1);
    settings.auth = pki::auth(pki::own("gm1-p256"));
    let at = world.add(settings);
    world.start(at);
    world.run();
    assert_eq!(registered(&world, at), 1);
    world.pass_quietly(secs(100));
    let notify = asks_for_a_ticket(&mut world, at, 2);
    let grant = TicketGrant::exact(&notify.data).unwrap();
    assert_eq!((notify.kind, grant.lifetime), (NotifyType::TICKET_LT_OPAQUE, 500));
}

/// RFC 5723 section 4.1: a peer may ask when it asks for new keys. The ticket is for the SA that has them, and voids the former.
#[test]
fn a_ticket_comes_with_new_keys_for_who_asks() {
    for gives in [true, false] {
        let (mut world, at) = world();
        let mut rng = SeededRandom::new(9);
        let suite = world.hosts[at].member.sa_for_test().unwrap().suite;
        let proposed = Proposed::draw(&Preferences::default(), &suite, None, [9; 8], &mut rng);
        let pair = KeyPair::generate(proposed.group, &mut rng).unwrap();
        let mut chain = proposed.chain(pair.public());
        if gives {
            chain.push(PayloadKind::NOTIFY.0, &Notify::bare(NotifyType::TICKET_REQUEST).to_vec());
        }
        let answer = over_sa(&mut world, at, (ExchangeType::CREATE_CHILD_SA, 2), chain);
        assert_eq!(answer.as_ref().map(|n| n.kind), gives.then_some(NotifyType::TICKET_LT_OPAQUE));
        assert_eq!((world.server.counters().rekeyed, spent(&world)), (1, 1));
        let Some(answer) = answer else { continue };
        let ticket = TicketGrant::exact(&answer.data).unwrap().ticket.to_vec();
        assert_eq!(shows(&mut world, &ticket, 3), None, "taken");
    }
}
