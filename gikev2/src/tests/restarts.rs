//! A key server that has lost its IKE SAs, and who only says so (RFC 7296 section 2.21.4).

use std::time::Duration;

use keyferry_model::update::MemberEvent;
use keyferry_wire::Header;

use super::support::*;
use crate::Server;
use crate::ike_sa::init::refusal;
use crate::wire::notify::Notify;
use crate::wire::registry::{ExchangeType, NotifyType};

fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// A world with a member that repeats its requests seldom and for long.
fn world() -> (World, usize) {
    let mut config = config();
    config.idle = secs(3600);
    let mut world = World::with(policy(false), config, 1);
    let mut settings = world.settings(1);
    (settings.retransmit, settings.tries) = (secs(2), 6);
    let at = world.add(settings);
    world.start(at);
    world.run();
    assert_eq!(world.hosts[at].events, [MemberEvent::Connected, MemberEvent::Registered]);
    (world, at)
}

/// What says that an SPI is unknown, to a message that the member has sent.
fn doubt(world: &World, at: usize) -> Packet {
    let sent = |p: &&Packet| p.from == world.hosts[at].address && p.exchange() != ExchangeType::IKE_SA_INIT.0;
    let last = world.seen.iter().rfind(sent).unwrap();
    let (header, _) = Header::decode(&last.bytes).unwrap();
    let bytes = refusal(&header, &Notify::bare(NotifyType::INVALID_IKE_SPI));
    Packet { from: last.to, to: last.from, bytes, ..last.clone() }
}

fn questions(world: &World) -> usize {
    world.seen.iter().filter(|p| p.exchange() == ExchangeType::INFORMATIONAL.0 && !p.is_response()).count()
}

#[test]
fn a_member_finds_out_soon_that_its_key_server_has_restarted() {
    for speaks in [true, false] {
        let (mut world, at) = world();
        let mut config = config();
        config.unprotected_answers_per_second = if speaks { 10 } else { 0 };
        world.server = Server::new(config);
        world.on_member(at, false, |m, ctx| m.reregister(ctx));
        world.pass(secs(10 + 25));
        let registered = world.hosts[at].events.iter().filter(|e| **e == MemberEvent::Registered).count();
        assert_eq!(registered, if speaks { 2 } else { 1 }, "{:?}", world.hosts[at].events);
        world.pass(secs(400));
        assert_eq!(world.server.counters().registered, 1);
        assert!(world.has_newest(at));
    }
}

/// Whoever sees the SPIs can say so, as often as he likes: the IKE SA stays, and few questions are asked.
#[test]
fn doubts_end_no_ike_sa_that_lives() {
    let (mut world, at) = world();
    let forged = doubt(&world, at);
    for _ in 0..100 {
        world.deliver(forged.clone());
        world.pass(secs(1));
    }
    assert_eq!(questions(&world), 2, "one a minute");
    assert_eq!(world.hosts[at].events, [MemberEvent::Connected, MemberEvent::Registered]);
    assert_eq!(world.server.established(), 1);
    // It serves a registration still, also one that is doubted while it waits.
    world.on_member(at, false, |m, ctx| m.reregister(ctx));
    let from_member = world.hosts[at].address;
    let mut lost = 2;
    world.fate = Box::new(move |p| {
        let loses = p.from == from_member && p.exchange() == ExchangeType::GSA_REGISTRATION.0 && lost > 0;
        lost -= usize::from(loses);
        usize::from(!loses)
    });
    for _ in 0..30 {
        let forged = doubt(&world, at);
        world.deliver(forged);
        world.pass(secs(1));
    }
    assert_eq!(world.hosts[at].events.last(), Some(&MemberEvent::Registered));
    assert_eq!((world.hosts[at].events.len(), world.server.established()), (3, 1));
}

#[test]
fn doubts_from_elsewhere_and_of_other_sas_are_nothing() {
    let (mut world, at) = world();
    let forged = doubt(&world, at);
    world.deliver(Packet { from: "10.0.0.77:848".parse().unwrap(), ..forged.clone() });
    for octet in [0, 8] {
        let mut other = forged.clone();
        other.bytes[octet] ^= 1;
        world.deliver(other);
    }
    let mut request = forged.clone();
    request.bytes[19] &= !0x20;
    world.deliver(request);
    world.pass(secs(5));
    assert_eq!(questions(&world), 0);
    world.deliver(forged);
    world.pass(secs(5));
    assert_eq!(questions(&world), 1);
}
