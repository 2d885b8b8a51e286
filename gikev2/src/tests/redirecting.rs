//! Members that are sent to another key server (RFC 5685).

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use keyferry_model::drive::Via;
use keyferry_model::id::Identity;
use keyferry_model::key_server::{KeyServer, KeyServers};
use keyferry_model::redirect::{Following, GatewayName, Redirect, RedirectWhen};
use keyferry_model::settings::MemberSettings;
use keyferry_model::update::MemberEvent;
use keyferry_wire::{ChainWriter, Encode, Header};

use super::support::*;
use crate::ike_sa::init::refusal;
use crate::ike_sa::sa::Direction;
use crate::policy::gateway::{redirect, who_redirected};
use crate::wire::message::Payloads;
use crate::wire::notify::Notify;
use crate::wire::registry::{ExchangeType, NotifyType, PayloadKind};
use crate::{Server, ServerConfig};

fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

fn other() -> SocketAddr {
    SocketAddr::new(address(false, 253), 848)
}

fn to(name: GatewayName, when: RedirectWhen) -> Redirect {
    Redirect { to: vec![name], when, above: 100, members: Vec::new(), patience: secs(60) }
}

/// Sends members to the other one.
fn sends(when: RedirectWhen) -> ServerConfig {
    let mut config = config();
    config.redirect = Some(to(GatewayName::Address(other().ip()), when));
    config
}

/// Two key servers, of which the first sends members away.
fn world(first: ServerConfig, second: ServerConfig) -> World {
    let mut world = World::with(policy(false), first, 1);
    world.other = Some((other(), Server::new(second)));
    world
}

/// A member that knows both and follows.
fn settings(world: &World, n: u8) -> MemberSettings {
    let server = |address: SocketAddr| KeyServer { address, identity: Some(Identity::from_ip(address.ip())) };
    let mut settings = world.settings(n);
    settings.key_servers = KeyServers::new(vec![server(world.gateway), server(other())]);
    settings.ike2.follows = Some(Following::default());
    settings
}

fn add(world: &mut World, n: u8) -> usize {
    let settings = settings(world, n);
    world.add(settings)
}

fn started(world: &mut World) -> usize {
    let at = add(world, 1);
    world.start(at);
    world.run();
    at
}

fn present(world: &World, at: usize) -> SocketAddr {
    world.hosts[at].member.key_servers().present().address
}

fn registered(world: &World, at: usize) -> usize {
    world.hosts[at].events.iter().filter(|e| **e == MemberEvent::Registered).count()
}

/// What was sent to somebody, of one exchange.
fn sent(world: &World, receiver: IpAddr, exchange: ExchangeType) -> Vec<Packet> {
    world.seen.iter().filter(|p| p.to.ip() == receiver && p.exchange() == exchange.0).cloned().collect()
}

/// The notifies of a message that nothing protects.
fn with_payloads<T>(packet: &Packet, f: impl FnOnce(&Payloads<'_>) -> T) -> T {
    let (header, body) = Header::decode(&packet.bytes).unwrap();
    f(&Payloads::parse(header.next, body, &[]).unwrap())
}

/// RFC 5685 section 3.
#[test]
fn a_newcomer_is_sent_elsewhere_and_nothing_is_kept_of_it() {
    let mut world = world(sends(RedirectWhen::Always), config());
    let at = started(&mut world);
    assert_eq!(registered(&world, at), 1);
    assert_eq!(present(&world, at), other());
    let (here, counters) = (world.gateway.ip(), world.server.counters());
    assert_eq!((counters.redirected, counters.established, world.server.established()), (1, 0, 0));
    assert_eq!(world.server.deadline(), None, "it is stateless");
    let request = &sent(&world, here, ExchangeType::IKE_SA_INIT)[0];
    let answer = &sent(&world, world.hosts[at].address.ip(), ExchangeType::IKE_SA_INIT)[0];
    assert!(answer.bytes.len() <= request.bytes.len(), "it amplifies nothing");
    assert_eq!(answer.bytes[8..16], [0; 8], "there is no responder's SPI");
    assert!(with_payloads(request, |p| p.notify(NotifyType::REDIRECT_SUPPORTED).is_some()));
    let again = &sent(&world, other().ip(), ExchangeType::IKE_SA_INIT)[0];
    assert_eq!(with_payloads(again, who_redirected), Some(here), "it says who sent it");
    assert_ne!(again.bytes[..8], request.bytes[..8]);
    // That is over with the IKE SA: the next one is no consequence of it.
    world.other.as_mut().unwrap().1 = Server::new(config());
    world.on_member(at, false, |m, ctx| m.disconnect(ctx));
    world.start(at);
    world.run();
    assert_eq!(registered(&world, at), 2);
    let last = sent(&world, other().ip(), ExchangeType::IKE_SA_INIT).pop().unwrap();
    assert_eq!(with_payloads(&last, who_redirected), None);
}

/// RFC 5685 section 3: whoever did not say so is not sent elsewhere.
#[test]
fn who_does_not_follow_is_served() {
    let mut world = world(sends(RedirectWhen::Always), config());
    let mut settings = settings(&world, 1);
    settings.ike2.follows = None;
    let at = world.add(settings);
    world.start(at);
    world.run();
    assert_eq!((registered(&world, at), present(&world, at)), (1, world.gateway));
    world.on_server(false, |s, ctx| assert_eq!(s.drain(ctx, true), Some(0)));
    world.pass(secs(20));
    assert_eq!(world.server.counters().redirected, 0);
    assert_eq!(world.server.established(), 1);
}

#[test]
fn a_full_gateway_sends_newcomers_away() {
    let mut first = sends(RedirectWhen::Full);
    first.redirect.as_mut().unwrap().above = 1;
    let mut world = world(first, config());
    let served = add(&mut world, 1);
    world.start(served);
    world.run();
    let sent = add(&mut world, 2);
    world.start(sent);
    world.run();
    assert_eq!((present(&world, served), present(&world, sent)), (world.gateway, other()));
    assert_eq!((registered(&world, served), registered(&world, sent)), (1, 1));
    // One that is gone, and kept only to repeat its last answer, is none of them.
    world.on_member(served, false, |m, ctx| m.disconnect(ctx));
    world.run();
    let later = add(&mut world, 3);
    world.start(later);
    world.run();
    assert_eq!((present(&world, later), registered(&world, later)), (world.gateway, 1));
    // Half-open SAs, which anybody can make, fill nothing.
    let mut first = sends(RedirectWhen::Full);
    first.redirect.as_mut().unwrap().above = 1;
    let mut world = World::with(policy(false), first, 1);
    let at = add(&mut world, 1);
    world.start(at);
    let request = world.wire.pop_front().unwrap();
    for port in 1000..1020 {
        world.deliver(Packet { from: SocketAddr::new(address(false, 9), port), ..request.clone() });
    }
    world.deliver(request);
    assert_eq!(world.server.counters().redirected, 0);
}

/// RFC 5685 section 6; section 11 asks for it where it depends on the identity.
#[test]
fn members_are_sent_elsewhere_after_they_authenticated() {
    for register in [true, false] {
        let mut first = sends(RedirectWhen::Command);
        first.redirect.as_mut().unwrap().members = vec![identity(1)];
        let mut world = world(first, config());
        let mut settings = settings(&world, 1);
        settings.connect_only = !register;
        let at = world.add(settings);
        world.start(at);
        world.run();
        assert_eq!(present(&world, at), other());
        assert_eq!(registered(&world, at), usize::from(register));
        let counters = world.server.counters();
        assert_eq!((counters.redirected, counters.established, counters.registered), (1, 1, 0));
        // The member deletes that IKE SA.
        assert_eq!((counters.deleted, world.server.established()), (1, 0));
        let another = add(&mut world, 2);
        world.start(another);
        world.run();
        assert_eq!(present(&world, another), world.gateway, "nobody else is");
    }
}

/// RFC 5685 section 5.
#[test]
fn a_drained_gateway_sends_its_members_elsewhere() {
    let mut first = sends(RedirectWhen::Command);
    first.idle = secs(3600);
    let mut world = world(first, config());
    let at = started(&mut world);
    assert_eq!(present(&world, at), world.gateway);
    world.on_server(false, |s, ctx| assert_eq!(s.drain(ctx, true), Some(1)));
    assert!(world.server.is_drained());
    let keys = world.hosts[at].sas.clone();
    world.pass(secs(10));
    assert_eq!((present(&world, at), registered(&world, at)), (other(), 2));
    assert_eq!(world.hosts[at].sas, keys, "it lost none of its keys");
    assert_eq!((world.server.established(), world.server.counters().deleted), (0, 1));
    // Newcomers, too; until it is over.
    world.on_server(false, |s, ctx| assert_eq!(s.drain(ctx, false), Some(0)));
    let after = add(&mut world, 2);
    world.start(after);
    world.run();
    assert_eq!(present(&world, after), world.gateway);
}

/// RFC 5685 section 5: the gateway deletes what the member does not, after a while.
#[test]
fn who_stays_loses_its_ike_sa() {
    let mut first = sends(RedirectWhen::Command);
    first.idle = secs(3600);
    // It knows no such key server.
    first.redirect.as_mut().unwrap().to = vec![GatewayName::Address([10, 9, 9, 9].into())];
    let mut world = world(first, config());
    let at = started(&mut world);
    world.on_server(false, |s, ctx| assert_eq!(s.drain(ctx, true), Some(1)));
    world.pass(secs(59));
    assert_eq!((present(&world, at), world.server.established()), (world.gateway, 1));
    world.pass(secs(2));
    assert_eq!(world.server.established(), 0);
    assert_eq!(registered(&world, at), 1, "the keys are good");
    assert!(world.has_newest(at));
}

#[test]
fn a_gateway_is_named_in_any_form() {
    let identity = Identity::Fqdn("gw2.example".into());
    for name in ["10.0.0.253", "fqdn:GW2.example"] {
        let mut first = config();
        first.redirect = Some(to(name.parse().unwrap(), RedirectWhen::Always));
        let mut second = config();
        second.identity = Some(identity.clone());
        let mut world = world(first, second);
        let mut settings = settings(&world, 1);
        let spare = KeyServer { address: other(), identity: Some(identity.clone()) };
        settings.key_servers =
            KeyServers::one(world.gateway, Some(Identity::from_ip(world.gateway.ip()))).with_reserve(vec![spare]);
        let at = world.add(settings);
        world.start(at);
        world.run();
        assert_eq!((registered(&world, at), present(&world, at)), (1, other()), "{name}");
    }
}

/// RFC 5685 section 3: the new gateway proves itself as the configuration says of it.
#[test]
fn the_other_one_must_be_who_it_should_be() {
    let mut second = config();
    second.identity = Some(Identity::Fqdn("somebody.else".into()));
    let mut world = world(sends(RedirectWhen::Always), second);
    let at = started(&mut world);
    assert_eq!(registered(&world, at), 0);
    assert!(world.hosts[at].events.iter().any(|e| matches!(e, MemberEvent::Refused(_))));
}

#[test]
fn nobody_is_sent_to_a_stranger() {
    for name in ["10.9.9.9", "fqdn:gw9.example", "10.0.0.254"] {
        let mut first = config();
        first.redirect = Some(to(name.parse().unwrap(), RedirectWhen::Always));
        let mut world = world(first, config());
        let at = started(&mut world);
        assert_eq!((present(&world, at), registered(&world, at)), (world.gateway, 0), "{name}");
        assert_eq!(world.hosts[at].member.status().redirects, 0);
        assert!(world.seen.iter().all(|p| p.to.ip() != IpAddr::from([10, 9, 9, 9])));
        // It goes on with the others of its configuration, as after any refusal.
        world.pass(secs(10));
        assert_eq!((present(&world, at), registered(&world, at)), (other(), 1), "{name}");
    }
}

/// RFC 5685 section 7. Neither sends a member back to where it comes from, so it takes three to make a loop, or a forger.
#[test]
fn who_is_sent_back_is_served() {
    let mut second = config();
    second.redirect = Some(to(GatewayName::Address(address(false, 254)), RedirectWhen::Always));
    let mut world = world(sends(RedirectWhen::Always), second);
    let at = started(&mut world);
    assert_eq!((present(&world, at), registered(&world, at)), (other(), 1));
    assert_eq!(world.hosts[at].member.status().redirects, 1);
}

/// An answer that sends a member elsewhere, to an IKE_SA_INIT request of its.
fn forged(request: &Packet, to: IpAddr, nonce: Option<&[u8]>) -> Packet {
    let (header, _) = Header::decode(&request.bytes).unwrap();
    let own = with_payloads(request, |p| p.body(PayloadKind::NONCE).unwrap().to_vec());
    let bytes = refusal(&header, &redirect(&GatewayName::Address(to), nonce.unwrap_or(&own)));
    Packet { from: request.to, to: request.from, bytes, ..request.clone() }
}

/// RFC 5685 sections 3 and 7.
#[test]
fn a_forger_sends_a_member_about_only_so_often() {
    let mut world = world(config(), config());
    let at = add(&mut world, 1);
    world.start(at);
    for turn in 0..5 {
        let request = world.wire.pop_front().unwrap();
        world.wire.clear();
        // Without the nonce nobody does.
        world.deliver(forged(&request, if turn % 2 == 0 { other().ip() } else { world.gateway.ip() }, Some(&[1; 32])));
        world.deliver(forged(&request, if turn % 2 == 0 { other().ip() } else { world.gateway.ip() }, Some(&[])));
        assert_eq!(world.hosts[at].member.status().redirects, turn);
        let next = if request.to == other() { world.gateway } else { other() };
        world.deliver(forged(&request, next.ip(), None));
        assert_eq!(present(&world, at), next);
    }
    let request = world.wire.pop_front().unwrap();
    assert!(!with_payloads(&request, |p| p.notify(NotifyType::REDIRECT_SUPPORTED).is_some()), "it is enough");
    world.deliver(forged(&request, world.gateway.ip(), None));
    assert_eq!((present(&world, at), world.hosts[at].member.status().redirects), (other(), 5));
    // What the key server itself says still counts.
    world.deliver(request);
    world.run();
    assert_eq!((registered(&world, at), present(&world, at)), (1, other()));
}

#[test]
fn a_forged_redirect_comes_too_late_for_who_has_an_answer() {
    let mut world = world(config(), config());
    let at = add(&mut world, 1);
    world.start(at);
    let request = world.wire.pop_front().unwrap();
    world.deliver(request.clone());
    let answer = world.wire.pop_front().unwrap();
    world.deliver(answer);
    world.deliver(forged(&request, other().ip(), None));
    world.run();
    assert_eq!((registered(&world, at), present(&world, at)), (1, world.gateway));
}

/// RFC 5685 section 9.2: in a protected message there is no nonce; what cannot be a redirect moves nobody.
#[test]
fn a_protected_redirect_is_followed_only_if_it_is_sound() {
    let sound = redirect(&GatewayName::Address(other().ip()), &[]);
    let nonce = redirect(&GatewayName::Address(other().ip()), &[7; 32]);
    let data = |data: &[u8]| Notify::new(NotifyType::REDIRECT, data.to_vec());
    let broken = [nonce, data(&[]), data(&[1]), data(&[1, 4, 10]), data(&[9, 4, 10, 0, 0, 253]), data(&[3, 0])];
    for (notify, follows) in broken.into_iter().map(|n| (n, false)).chain([(sound, true)]) {
        let mut first = config();
        first.idle = secs(3600);
        let mut world = world(first, config());
        let at = started(&mut world);
        let mut chain = ChainWriter::new();
        chain.push(PayloadKind::NOTIFY.0, &notify.to_vec());
        let mut rng = keyferry_crypto::SeededRandom::new(5);
        let sa = world.server.sa_for_test().unwrap();
        let bytes = sa.seal(ExchangeType::INFORMATIONAL, Direction::Request, 0, chain, &mut rng).unwrap();
        let packet = Packet { from: world.gateway, to: world.hosts[at].address, via: Via::Udp, bytes, tainted: false };
        for bytes in variants(&packet.bytes) {
            world.deliver(Packet { bytes, tainted: true, ..packet.clone() });
        }
        assert_eq!(present(&world, at), world.gateway, "nobody else can send it anywhere");
        world.deliver(packet);
        world.pass(secs(10));
        assert_eq!(present(&world, at), if follows { other() } else { world.gateway }, "{notify:?}");
        assert_eq!(registered(&world, at), 1 + usize::from(follows));
    }
}

#[test]
fn a_member_that_leaves_is_not_sent_elsewhere() {
    let mut first = sends(RedirectWhen::Command);
    first.idle = secs(3600);
    let mut world = world(first, config());
    let at = started(&mut world);
    world.on_server(false, |s, ctx| assert_eq!(s.drain(ctx, true), Some(1)));
    world.leave(at);
    world.pass(secs(20));
    assert!(world.hosts[at].events.contains(&MemberEvent::Left));
    assert_eq!((present(&world, at), registered(&world, at)), (world.gateway, 1));
}

/// No octet more than came, whatever the other gateway is called.
#[test]
fn a_long_name_is_told_only_in_an_answer_to_a_long_request() {
    for (short, redirected) in [(false, 1), (true, 0)] {
        let mut first = config();
        first.redirect = Some(to(GatewayName::Fqdn("a".repeat(253)), RedirectWhen::Always));
        let mut world = World::with(policy(false), first, 1);
        let mut settings = settings(&world, 1);
        if short {
            settings.ike2.protections = vec![gcm()];
        }
        let at = world.add(settings);
        world.start(at);
        let request = world.wire.pop_front().unwrap();
        world.deliver(request.clone());
        let answer = world.wire.pop_front().unwrap();
        assert_eq!(world.server.counters().redirected, redirected, "{}", request.bytes.len());
        assert!(short || answer.bytes.len() <= request.bytes.len());
    }
}

/// RFC 5685 section 10: only the responder sends anybody elsewhere.
#[test]
fn a_member_sends_its_gateway_nowhere() {
    let mut first = sends(RedirectWhen::Command);
    first.idle = secs(3600);
    let mut world = world(first, config());
    let at = started(&mut world);
    let mut chain = ChainWriter::new();
    chain.push(PayloadKind::NOTIFY.0, &redirect(&GatewayName::Address(other().ip()), &[]).to_vec());
    let mut rng = keyferry_crypto::SeededRandom::new(5);
    let sa = world.hosts[at].member.sa_for_test().unwrap();
    let bytes = sa.seal(ExchangeType::INFORMATIONAL, Direction::Request, 2, chain, &mut rng).unwrap();
    let (from, to) = (world.hosts[at].address, world.gateway);
    world.deliver(Packet { from, to, via: Via::Udp, bytes, tainted: false });
    let answer = world.wire.pop_front().unwrap();
    let opened = world.hosts[at].member.sa_for_test().unwrap().open(&answer.bytes).unwrap();
    assert!(opened.inner.expose().is_empty(), "answered, and that is all");
    world.pass(secs(120));
    let counters = world.server.counters();
    assert_eq!((world.server.established(), counters.redirected, counters.malformed), (1, 0, 0));
    assert!(sent(&world, other().ip(), ExchangeType::INFORMATIONAL).is_empty());
}

/// RFC 5723 section 4.3.2 and RFC 5685: who shows a ticket is sent elsewhere as ever, before or after AUTH, and the ticket stays
/// with the gateway that made it.
#[test]
fn who_resumes_is_sent_elsewhere_too() {
    for after_auth in [false, true] {
        let mut first = config();
        (first.ticket_lifetime, first.idle) = (Some(secs(3600)), secs(24 * 3600));
        let again = |world: &mut World, config: ServerConfig| {
            world.server = Server::new(config);
            world.server.load_tickets(&world.store).unwrap();
        };
        let mut world = world(first.clone(), config());
        again(&mut world, first.clone());
        let mut settings = settings(&world, 1);
        settings.ike2.resume = true;
        let at = world.add(settings);
        world.start(at);
        world.run();
        let when = if after_auth { RedirectWhen::Command } else { RedirectWhen::Always };
        let mut redirect = to(GatewayName::Address(other().ip()), when);
        redirect.members = vec![identity(1)];
        first.redirect = Some(redirect);
        again(&mut world, first);
        let from = world.seen.len();
        world.on_member(at, false, |m, ctx| m.reregister(ctx));
        world.pass(secs(60));
        assert_eq!((present(&world, at), registered(&world, at)), (other(), 2), "{after_auth}");
        let counters = world.server.counters();
        assert_eq!((counters.redirected, counters.resumed), (1, u64::from(after_auth)));
        assert_eq!((world.server.established(), world.hosts[at].member.status().redirects), (0, 1));
        world.seen.drain(..from);
        assert_eq!(sent(&world, world.gateway.ip(), ExchangeType::IKE_SESSION_RESUME).len(), 1);
        assert!(sent(&world, other().ip(), ExchangeType::IKE_SESSION_RESUME).is_empty());
        let init = sent(&world, other().ip(), ExchangeType::IKE_SA_INIT);
        assert_eq!(with_payloads(&init[0], who_redirected), Some(world.gateway.ip()));
    }
}
