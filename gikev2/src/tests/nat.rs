//! NAT detection and what follows from it (RFC 7296 section 2.23): port 4500, mappings kept alive, addresses that change.

use std::time::Duration;

use keyferry_model::policy::RekeyTransport;
use keyferry_model::update::MemberEvent;
use keyferry_wire::Header;

use super::support::*;
use crate::wire::registry::ExchangeType;
use crate::{IkeOptions, NAT_PORT};

const REGISTERED: [MemberEvent; 2] = [MemberEvent::Connected, MemberEvent::Registered];

fn world(nat: bool) -> (World, usize) {
    let mut config = config();
    config.idle = Duration::from_secs(3600);
    let mut world = World::with(policy(false), config, 1);
    world.nat = nat.then(Nat::new);
    let settings = world.settings(1);
    let at = world.add(settings);
    (world, at)
}

fn is_keepalive(p: &Packet) -> bool {
    p.bytes == [0xff]
}

/// IKE_SA_INIT at 848; what follows at 4500, with a marker, at both ends.
#[test]
fn an_sa_moves_to_4500_where_there_is_a_nat() {
    let (mut world, at) = world(true);
    world.start(at);
    world.run();
    assert_eq!(world.hosts[at].events, REGISTERED);
    assert!(world.hosts[at].member.status().behind_nat);
    assert_eq!(world.server.counters().behind_nat, 1);
    world.start(at);
    world.run();
    world.leave(at);
    world.run();
    assert_eq!(world.hosts[at].events.last(), Some(&MemberEvent::Left));
    for p in &world.seen {
        let first = p.exchange() == ExchangeType::IKE_SA_INIT.0;
        let port = |a: std::net::SocketAddr| if first { 848 } else { NAT_PORT } == a.port();
        let own = if p.is_response() { p.from } else { p.to };
        assert!(port(own) && p.via.is_marked_udp() != first, "{p:?}");
        assert!(p.is_response() || port(p.from), "{p:?}");
    }
}

#[test]
fn without_a_nat_nothing_moves() {
    let (mut world, at) = world(false);
    world.start(at);
    world.pass(Duration::from_secs(100));
    assert_eq!(world.hosts[at].events, REGISTERED);
    assert!(world.seen.iter().all(|p| p.to.port() == 848 && !p.via.is_marked_udp() && !is_keepalive(p)));
}

/// By configuration a member stays where it is, and the key server answers there.
#[test]
fn a_member_may_stay_at_its_port() {
    let (mut world, at) = world(true);
    world.hosts[at].member.set_ike_options(IkeOptions { nat_port: None, ..IkeOptions::default() });
    world.start(at);
    world.pass(Duration::from_secs(100));
    assert_eq!(world.hosts[at].events, REGISTERED);
    assert!(world.seen.iter().all(|p| p.from.port() != NAT_PORT && !is_keepalive(p)));
}

/// One octet each 20 s, from the port of the mapping, for as long as there is something to hear.
#[test]
fn a_mapping_is_kept_alive() {
    let (mut world, at) = world(true);
    world.start(at);
    world.pass(Duration::from_secs(101));
    let kept: Vec<&Packet> = world.seen.iter().filter(|p| is_keepalive(p)).collect();
    assert_eq!(kept.len(), 5);
    assert!(kept.iter().all(|p| p.from.port() == NAT_PORT && p.to.port() == NAT_PORT && !p.via.is_marked_udp()));
    world.leave(at);
    world.pass(Duration::from_secs(1));
    world.seen.clear();
    world.pass(Duration::from_secs(100));
    assert!(!world.seen.iter().any(is_keepalive));
}

/// New keys do not change the port.
#[test]
fn an_sa_with_new_keys_stays_at_4500() {
    let (mut world, at) = world(true);
    let ike = IkeOptions { lifetime: Duration::from_secs(100), ..IkeOptions::default() };
    world.hosts[at].member.set_ike_options(ike);
    world.start(at);
    world.pass(Duration::from_secs(95));
    assert_eq!(world.server.counters().rekeyed, 1);
    world.seen.clear();
    world.start(at);
    world.run();
    assert!(!world.seen.is_empty() && world.seen.iter().all(|p| p.via.is_marked_udp()));
    assert!(world.has_newest(at));
}

/// The NAT forgets, and takes another port: the next request that verifies tells it, repeats and forgeries tell nothing.
#[test]
fn the_newest_request_says_where_a_member_is() {
    let (mut world, at) = world(true);
    let mut group = world.policy.clone();
    group.gikev2.as_mut().unwrap().transport = RekeyTransport::Unicast;
    let mut config = config();
    config.idle = Duration::from_secs(600);
    world.server = crate::Server::new(config);
    world.start(at);
    world.run();
    let address = |world: &World| world.model.group("g").unwrap().member_views()[0].address;
    let before = address(&world);
    let auth = world.seen.iter().find(|p| p.exchange() == ExchangeType::GSA_AUTH.0).unwrap().clone();
    world.nat.as_mut().unwrap().forget();
    // A repeat of what was answered, and one octet changed in what was not yet sent.
    world.deliver(auth.clone());
    let mut forged = auth;
    let (header, _) = Header::decode(&forged.bytes).unwrap();
    forged.bytes[20..24].copy_from_slice(&(header.message_id + 1).to_be_bytes());
    world.deliver(forged);
    assert_eq!(address(&world), before);
    // A registration from there.
    world.start(at);
    world.run();
    let after = address(&world);
    assert!(after != before && after.ip() == before.ip());
    // The end of the idle SA finds its way.
    world.pass(Duration::from_secs(700));
    assert_eq!(world.hosts[at].events.last(), Some(&MemberEvent::Disconnected));
    assert_eq!(world.server.counters().dead_peers, 0);
}

/// A liveness check of the member is enough to be found again, also by rekeys that go to it alone.
#[test]
fn any_request_tells_the_address() {
    let (mut world, at) = world(true);
    let ike = IkeOptions { liveness: Some(Duration::from_secs(30)), ..IkeOptions::default() };
    world.hosts[at].member.set_ike_options(ike);
    world.start(at);
    world.run();
    let before = world.model.group("g").unwrap().member_views()[0].address;
    world.nat.as_mut().unwrap().forget();
    world.pass(Duration::from_secs(40));
    let after = world.model.group("g").unwrap().member_views()[0].address;
    assert_ne!(before, after);
    let marked = world.model.marked_addresses("g", keyferry_model::id::Protocol::Gikev2);
    assert_eq!(marked.into_iter().collect::<Vec<_>>(), [after]);
}

/// A socket that is bound to no address in particular gets to know its address by what comes there.
#[test]
fn a_member_that_was_told_no_address_finds_nats() {
    for there in [true, false] {
        let (mut world, at) = world(there);
        let mut settings = world.settings(2);
        let own = settings.local;
        settings.local.set_ip([0, 0, 0, 0].into());
        world.hosts.remove(at);
        let at = world.add(settings);
        world.hosts[at].address = own;
        world.start(at);
        world.pass(Duration::from_secs(30));
        assert_eq!(world.hosts[at].events, REGISTERED);
        assert_eq!(world.hosts[at].member.status().behind_nat, there);
        let auth = world.seen.iter().find(|p| p.exchange() == ExchangeType::GSA_AUTH.0).unwrap();
        assert_eq!((auth.to.port() == NAT_PORT, auth.via.is_marked_udp()), (there, there));
        assert_eq!(world.seen.iter().any(is_keepalive), there);
    }
}
