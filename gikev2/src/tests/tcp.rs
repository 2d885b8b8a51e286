//! IKE SAs over TCP (RFC 9329).

use std::time::Duration;

use keyferry_model::drive::{ConnectionId, Via};
use keyferry_model::plan::RekeyReason;
use keyferry_model::policy::InBand;
use keyferry_model::settings::Transport;
use keyferry_model::update::MemberEvent;

use super::support::*;
use crate::IkeOptions;
use crate::wire::registry::{ExchangeType, PayloadKind};

const PORT: u16 = 4500;
const HOUR: Duration = Duration::from_secs(3600);

/// A member that has not started, and a network that carries TCP.
fn world(in_band: bool, transport: Transport) -> (World, usize) {
    let mut config = config();
    config.idle = HOUR;
    let mut group = policy(false);
    if in_band {
        group.gikev2.as_mut().unwrap().options.in_band = InBand::Everybody;
    }
    let mut world = World::with(group, config, 7);
    world.tcp_port = Some(PORT);
    let mut settings = world.settings(1);
    settings.gikev2.transport = transport;
    let at = world.add(settings);
    (world, at)
}

/// The same, registered.
fn registered(in_band: bool) -> (World, usize) {
    let (mut world, at) = world(in_band, Transport::Tcp(PORT));
    world.start(at);
    world.run();
    assert_eq!(world.hosts[at].events, [MemberEvent::Connected, MemberEvent::Registered]);
    (world, at)
}

fn connection(world: &World) -> ConnectionId {
    assert_eq!(world.connections.len(), 1);
    *world.connections.keys().next().unwrap()
}

fn count(world: &World, exchange: ExchangeType) -> usize {
    world.seen.iter().filter(|p| p.exchange() == exchange.0).count()
}

fn refused(events: &[MemberEvent]) -> bool {
    events.iter().any(|e| matches!(e, MemberEvent::Refused(_)))
}

#[test]
fn a_member_registers_over_tcp_and_multicast_rekeys_come_by_udp() {
    let (mut world, at) = registered(false);
    assert!(world.seen.iter().all(|p| p.via.is_tcp()), "everything of the IKE SA");
    assert!(world.hosts[at].member.status().over_tcp && !world.hosts[at].member.status().behind_nat);
    assert_eq!(world.server.counters().behind_nat, 0);
    world.rekey(RekeyReason::Operator, &[]);
    assert!(world.has_newest(at));
    assert!(world.seen.iter().filter(|p| p.exchange() == ExchangeType::GSA_REKEY.0).all(|p| p.via == Via::Udp));
    // A Delete is answered before the connection goes, and nothing is left of it.
    world.leave(at);
    world.run();
    assert_eq!(world.hosts[at].events.last(), Some(&MemberEvent::Left));
    assert!(world.connections.is_empty() && world.server.established() == 0);
    assert_eq!(world.server.counters().deleted, 1);
}

#[test]
fn rekeys_in_band_come_over_the_connection() {
    let (mut world, at) = registered(true);
    world.rekey(RekeyReason::Operator, &[]);
    assert!(world.has_newest(at));
    let in_band = || world.seen.iter().filter(|p| p.exchange() == ExchangeType::GSA_INBAND_REKEY.0);
    assert!(in_band().count() > 0 && in_band().all(|p| p.via.is_tcp()));
}

/// Nobody notices at the key server; what it says into the broken connection it says again over the new one.
#[test]
fn a_broken_connection_is_opened_again_and_the_ike_sa_goes_on() {
    let (mut world, at) = registered(true);
    let first = connection(&world);
    world.cut(first);
    world.rekey(RekeyReason::Operator, &[]);
    assert!(!world.has_newest(at));
    world.pass(Duration::from_secs(3));
    assert_ne!(connection(&world), first);
    assert!(world.has_newest(at));
    assert_eq!((world.server.established(), world.server.counters().established), (1, 1));
    assert_eq!(world.hosts[at].events.iter().filter(|e| **e == MemberEvent::Connected).count(), 1);
    // New keys of the IKE SA go the same way, and everything is told where it is.
    world.rekey(RekeyReason::Operator, &[]);
    assert!(world.has_newest(at));
}

/// The key server takes messages over both, and speaks over the one it heard last (RFC 9329 section 6.1).
#[test]
fn the_newest_connection_with_a_message_that_verifies_counts() {
    let (mut world, at) = registered(true);
    let (first, end) = (connection(&world), world.connections.values().next().unwrap().1);
    // A stranger repeats over a connection of his own what he has seen: nothing follows.
    let stranger = ConnectionId(99);
    let seen = world.seen.clone();
    world.on_server(false, |s, ctx| s.connected(ctx, stranger, end));
    world.connections.insert(stranger, (at, end));
    let requests = seen.into_iter().filter(|p| !p.is_response());
    for packet in requests {
        world.deliver(Packet { via: Via::Tcp(stranger), ..packet });
    }
    world.wire.clear();
    world.rekey(RekeyReason::Operator, &[]);
    assert!(world.has_newest(at), "over the member's own connection");
    assert!(
        world
            .seen
            .iter()
            .filter(|p| p.exchange() == ExchangeType::GSA_INBAND_REKEY.0)
            .all(|p| p.via == Via::Tcp(first))
    );
}

#[test]
fn ike_sas_get_new_keys_over_tcp() {
    let (mut world, at) = world(true, Transport::Tcp(PORT));
    let lifetime = Duration::from_secs(1000);
    world.hosts[at].member.set_ike_options(IkeOptions { lifetime, ..IkeOptions::default() });
    world.start(at);
    world.pass(Duration::from_secs(950));
    assert!(world.hosts[at].member.status().ike_rekeys > 0 && world.server.established() == 1);
    assert!(world.seen.iter().all(|p| p.via.is_tcp()));
    let first = connection(&world);
    world.cut(first);
    world.rekey(RekeyReason::Operator, &[]);
    world.pass(Duration::from_secs(3));
    assert!(world.has_newest(at));
}

/// UDP goes first, with a few repeats; then a new IKE_SA_INIT over TCP (RFC 9329 section 5.1).
#[test]
fn where_udp_is_kept_away_a_member_turns_to_tcp() {
    let (mut world, at) = world(false, Transport::UdpThenTcp(PORT));
    world.fate = Box::new(|p| usize::from(p.via.is_tcp()));
    world.start(at);
    world.pass(Duration::from_secs(20));
    assert_eq!(world.hosts[at].events, [MemberEvent::Connected, MemberEvent::Registered]);
    let over_udp: Vec<_> = world.seen.iter().filter(|p| !p.via.is_tcp()).collect();
    assert_eq!(over_udp.len(), 4, "IKE_SA_INIT and three repeats");
    let over_tcp = world.seen.iter().find(|p| p.via.is_tcp()).unwrap();
    assert_ne!(over_tcp.bytes[..8], over_udp[0].bytes[..8], "another SPI");
    assert!(!world.hosts[at].member.status().behind_nat, "NAT detection by the addresses of the connection");
}

#[test]
fn udp_that_works_is_kept_to() {
    let (mut world, at) = world(false, Transport::UdpThenTcp(PORT));
    world.start(at);
    world.run();
    assert!(world.has_newest(at) && world.seen.iter().all(|p| !p.via.is_tcp()));
}

/// Neither way: the member says so, waits, and begins with UDP again.
#[test]
fn where_nothing_gets_through_a_member_tries_again_later() {
    for transport in [Transport::Tcp(PORT), Transport::UdpThenTcp(PORT)] {
        let (mut world, at) = world(false, transport);
        world.tcp_port = None;
        world.fate = Box::new(|_| 0);
        world.start(at);
        world.pass(Duration::from_secs(15));
        assert_eq!(world.hosts[at].events.first(), Some(&MemberEvent::Unanswered), "{transport:?}");
        world.tcp_port = Some(PORT);
        world.fate = Box::new(|_| 1);
        world.pass(Duration::from_secs(60));
        assert!(world.has_newest(at), "{transport:?}");
        assert_eq!(world.hosts[at].member.status().over_tcp, transport == Transport::Tcp(PORT));
    }
}

/// A connection that stands and carries nothing: no repeats, and an end (RFC 9329 section 6.2).
#[test]
fn nothing_is_repeated_over_tcp() {
    let (mut world, at) = registered(true);
    world.fate = Box::new(|_| 0);
    let before = world.seen.len();
    world.start(at);
    world.rekey(RekeyReason::Operator, &[]);
    world.pass(Duration::from_secs(10));
    assert_eq!(world.seen.len() - before, 2, "one request of each end");
    world.pass(Duration::from_secs(120));
    assert_eq!((world.server.established(), world.server.counters().dead_peers), (0, 1));
    assert!(world.hosts[at].events.contains(&MemberEvent::Disconnected));
}

/// RFC 9329 section 6.4.
#[test]
fn a_refusal_over_tcp_is_believed_at_once() {
    let (mut world, at) = world(false, Transport::Tcp(PORT));
    let mut settings = world.settings(2);
    settings.gikev2.transport = Transport::Tcp(PORT);
    settings.ke_groups = vec![keyferry_crypto::KeGroup::Modp2048s256];
    let other = world.add(settings);
    world.start(at);
    world.start(other);
    world.run();
    assert!(world.has_newest(at));
    assert!(refused(&world.hosts[other].events), "{:?}", world.hosts[other].events);
    assert_eq!(world.connections.len(), 1, "the other's connection is closed");
}

/// An IKE SA stays with the transport it began with (RFC 9329 section 5).
#[test]
fn udp_messages_are_none_of_an_sa_over_tcp_and_the_other_way_round() {
    for over_tcp in [true, false] {
        let (mut world, at) = world(false, if over_tcp { Transport::Tcp(PORT) } else { Transport::Udp });
        world.start(at);
        world.run();
        let stranger = ConnectionId(5);
        let own = world.hosts[at].address;
        world.connections.insert(stranger, (at, own));
        world.on_server(false, |s, ctx| s.connected(ctx, stranger, own));
        // The next request is taken off the way it goes, and put onto the other.
        world.fate = Box::new(|_| 0);
        world.start(at);
        let mut packet = world.seen.last().unwrap().clone();
        let before = (world.server.counters().unexpected, world.seen.len());
        packet.via = if over_tcp { Via::Udp } else { Via::Tcp(stranger) };
        world.deliver(packet);
        assert_eq!((world.server.counters().unexpected, world.seen.len()), (before.0 + 1, before.1));
    }
}

#[test]
fn connections_over_which_nobody_proves_itself_are_closed() {
    let (mut world, at) = world(false, Transport::Tcp(PORT));
    let from = world.hosts[at].address;
    world.on_server(false, |s, ctx| s.connected(ctx, ConnectionId(1), from));
    world.connections.insert(ConnectionId(1), (at, from));
    world.pass(Duration::from_secs(9));
    assert_eq!(world.connections.len(), 1);
    world.pass(Duration::from_secs(2));
    assert!(world.connections.is_empty());
    // One with an IKE SA in the making has the time of that.
    world.fate = Box::new(|p| usize::from(p.exchange() == ExchangeType::IKE_SA_INIT.0));
    world.start(at);
    world.run();
    world.pass_quietly(Duration::from_secs(25));
    world.on_server(false, |s, ctx| s.expire(ctx));
    world.run();
    assert_eq!(world.connections.len(), 1);
    world.pass_quietly(Duration::from_secs(20));
    world.on_server(false, |s, ctx| s.expire(ctx));
    world.run();
    assert!(world.connections.is_empty());
    assert_eq!(world.server.counters().connections_closed, 2);
}

#[test]
fn the_oldest_unproven_connection_gives_way_and_proven_ones_stay() {
    let (mut world, at) = registered(false);
    let own = connection(&world);
    world.on_server(false, |s, _| s.limit_connections_for_test(4, 2));
    let open = |world: &mut World, n: u8| {
        let id = ConnectionId(n.into());
        world.connections.insert(id, (at, (address(false, 100 + n / 2), 1000).into()));
        world.on_server(false, |s, ctx| s.connected(ctx, id, (address(false, 100 + n / 2), 1000).into()));
        world.run();
        world.pass(Duration::from_millis(10));
    };
    for n in 2..=7 {
        open(&mut world, n);
    }
    let left: Vec<u64> = world.connections.keys().map(|id| id.0).filter(|id| *id != own.0).collect();
    assert_eq!(left, [5, 6, 7]);
    assert!(world.connections.contains_key(&own));
    // Two of one address, and no more.
    world.connections.insert(ConnectionId(8), (at, (address(false, 103), 1000).into()));
    world.on_server(false, |s, ctx| s.connected(ctx, ConnectionId(8), (address(false, 103), 1000).into()));
    world.run();
    assert!(!world.connections.contains_key(&ConnectionId(8)) && world.connections.len() == 4);
    assert_eq!(world.server.counters().connections_refused, 4);
}

/// A few such messages are no reason (RFC 9329 section 6.1).
#[test]
fn a_connection_of_nothing_but_nonsense_is_closed_and_the_ike_sa_stays() {
    let (mut world, at) = registered(true);
    let first = connection(&world);
    let packet = world.seen.iter().rev().find(|p| p.to.port() == PORT).unwrap().clone();
    for n in 0..16 {
        assert_eq!(world.connections.contains_key(&first), n < 16);
        if n % 2 == 0 {
            world.on_server(false, |s, ctx| s.stray(ctx, first));
        } else {
            let mut bytes = packet.bytes.clone();
            bytes[0] ^= 1;
            world.fate = Box::new(|_| 0);
            world.deliver(Packet { bytes, ..packet.clone() });
        }
        world.run();
    }
    assert!(!world.connections.contains_key(&first));
    world.fate = Box::new(|_| 1);
    world.pass(Duration::from_secs(3));
    world.rekey(RekeyReason::Operator, &[]);
    assert!(world.has_newest(at) && connection(&world) != first && world.server.established() == 1);
}

/// RFC 9329 section 6.1.
#[test]
fn two_ike_sas_do_not_share_a_connection() {
    let (mut world, at) = registered(false);
    let first = connection(&world);
    let mut init = world.seen[0].clone();
    init.bytes[0] ^= 1;
    let before = (world.seen.len(), world.server.counters().unexpected);
    world.deliver(init.clone());
    assert_eq!((world.seen.len(), world.server.counters().unexpected), (before.0, before.1 + 1));
    // Once the first is gone, another may be made; after a while without, the connection is closed.
    let packet = |p: &&Packet| p.exchange() == ExchangeType::INFORMATIONAL.0 && !p.is_response();
    world.fate = Box::new(|p| usize::from(p.to.port() == PORT));
    world.on_member(at, false, |m, ctx| m.disconnect(ctx));
    let delete = world.seen.iter().rev().find(packet).unwrap().clone();
    world.connections.insert(first, (at, delete.from));
    world.deliver(delete);
    assert_eq!((world.server.established(), world.server.counters().deleted), (0, 1));
    let before = world.seen.len();
    world.deliver(init);
    assert_eq!(world.seen.len(), before + 1, "answered");
}

/// However long a connection was in use, whoever begins anew over it has time for that.
#[test]
fn a_connection_that_was_in_use_can_be_used_again() {
    let (mut world, at) = registered(false);
    let first = connection(&world);
    let mut init = world.seen[0].clone();
    init.bytes[0] ^= 1;
    world.pass(Duration::from_secs(600));
    let end = world.connections[&first];
    world.seen.clear();
    world.on_member(at, false, |m, ctx| m.disconnect(ctx));
    let delete = world.seen.first().unwrap().clone();
    world.wire.clear();
    world.connections.insert(first, end);
    world.deliver(delete);
    assert_eq!(world.server.counters().deleted, 1);
    world.deliver(init);
    world.pass_quietly(Duration::from_secs(25));
    world.on_server(false, |s, ctx| s.expire(ctx));
    assert_eq!(world.server.counters().connections_closed, 0);
    world.pass_quietly(Duration::from_secs(20));
    world.on_server(false, |s, ctx| s.expire(ctx));
    assert_eq!(world.server.counters().connections_closed, 1, "once");
}

/// RFC 9329 sections 6.3 and 7.5.
#[test]
fn neither_cookies_nor_fragments_go_over_tcp() {
    let mut config = config();
    config.cookie_threshold = 0;
    config.ike = IkeOptions { fragment_size: 300, ..IkeOptions::default() };
    let ike = config.ike;
    let mut world = World::with(policy(false), config, 1);
    world.tcp_port = Some(PORT);
    let mut settings = world.settings(1);
    settings.gikev2.transport = Transport::Tcp(PORT);
    let at = world.add(settings);
    world.hosts[at].member.set_ike_options(ike);
    world.start(at);
    world.run();
    assert!(world.has_newest(at));
    assert_eq!((world.server.counters().cookies_demanded, count(&world, ExchangeType::IKE_SA_INIT)), (0, 2));
    assert!(world.seen.iter().all(|p| p.bytes[16] != PayloadKind::SKF.0));
    assert!(world.seen.iter().any(|p| p.bytes.len() > 300));
}
