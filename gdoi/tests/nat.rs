//! NAT traversal: members behind a translator, key servers behind one, and translators that change their minds.
#![allow(clippy::unwrap_used)]

mod support;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use gdoi::{NAT_PORT, Phase1Options};
use keyferry_model::credentials::{Credentials, Peer, Proof};
use keyferry_model::id::{Identity, Protocol};
use keyferry_model::key_server::KeyServers;
use keyferry_model::plan::RekeyReason;
use keyferry_model::policy::Selector;
use keyferry_model::reading::Readings;
use keyferry_model::settings::{MemberSettings, Phase1Exchange};
use keyferry_model::update::MemberEvent;
use support::pki::{certified, certify, with_certificate};
use support::{Bench, GROUP, Packet, Setup, host, policy, psk, secs, settings};

/// A translator in front of member 10, with one address; a port inside becomes that port plus `shift` outside.
#[derive(Clone, Copy)]
struct Translator {
    outside: IpAddr,
    shift: u16,
}

impl Translator {
    fn new(last: u8, shift: u16) -> Self {
        Self { outside: IpAddr::from([198, 51, 100, last]), shift }
    }

    fn outside(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.outside, port + self.shift)
    }

    fn pass(&self, packet: &Packet) -> Vec<Packet> {
        let inside = host(false, 10).ip();
        if packet.from.ip() == inside {
            return vec![Packet { from: self.outside(packet.from.port()), ..packet.clone() }];
        }
        if packet.to.ip() == self.outside {
            let port = packet.to.port() - self.shift;
            return vec![Packet { to: SocketAddr::new(inside, port), ..packet.clone() }];
        }
        // What goes to the member's own address, or an address of the translator's past, is lost.
        if packet.to.ip() == inside || packet.to.ip().to_string().starts_with("198.51.100.") {
            return Vec::new();
        }
        vec![packet.clone()]
    }
}

fn bench(setup: Setup) -> Bench {
    Bench::with_policy(setup, policy(setup), |c| {
        c.aggressive = true;
        let net = Selector { address: "198.51.100.0".parse().unwrap(), prefix: 24, protocol: 0, port: 0 };
        let identity = Identity::from_ip(host(false, 10).ip());
        c.credentials = Arc::new(Credentials::new(vec![Peer {
            identity: Some(identity),
            address: Some(net),
            proof: Proof::Psk(psk(10)),
            sends: Readings::NONE,
        }]));
    })
}

fn bench_without_translator() -> Bench {
    let setup = Setup::default();
    Bench::with_policy(setup, policy(setup), |c| c.aggressive = true)
}

const EXCHANGES: [Phase1Exchange; 2] = [Phase1Exchange::Main, Phase1Exchange::Aggressive];

/// What a member sends in clear of the exchange.
fn in_clear(exchange: Phase1Exchange) -> usize {
    match exchange {
        Phase1Exchange::Main => 2,
        Phase1Exchange::Aggressive => 1,
    }
}

fn begins_with(exchange: Phase1Exchange) -> MemberSettings {
    let mut settings = settings(Setup::default(), 10);
    settings.phase1.exchange = exchange;
    settings
}

fn start(bench: &mut Bench, options: Phase1Options, nat: Translator) {
    start_with(bench, settings(bench.setup, 10), options, nat);
}

fn start_with(bench: &mut Bench, settings: MemberSettings, options: Phase1Options, nat: Translator) {
    bench.add_with(10, settings);
    bench.wire.clear();
    bench.log.clear();
    bench.member(10, |m, ctx| {
        m.set_phase1(options);
        m.start(ctx);
    });
    bench.settle_through(&mut |p| nat.pass(p));
}

fn registered(bench: &Bench) -> usize {
    bench.nodes[&10].count(|e| *e == MemberEvent::Registered)
}

fn sent(bench: &Bench) -> Vec<&Packet> {
    bench.log.iter().filter(|p| p.from.ip() == host(false, 10).ip()).collect()
}

fn goes_on_at_port_4500(mut bench: Bench, settings: MemberSettings) {
    let nat = Translator::new(1, 30_000);
    let clear = in_clear(settings.phase1.exchange);
    start_with(&mut bench, settings, Phase1Options::default(), nat);
    assert_eq!(registered(&bench), 1);
    let ports: Vec<(u16, u16, bool)> =
        sent(&bench).iter().map(|p| (p.from.port(), p.to.port(), p.bytes.starts_with(&[0; 4]))).collect();
    assert_eq!(ports[..clear], vec![(848, 848, false); clear]);
    assert_eq!(ports[clear..], [(NAT_PORT, NAT_PORT, true); 4], "the proof, INITIAL-CONTACT, the registration");
    assert!(bench.nodes[&10].member.status().behind_nat);
    assert_eq!(bench.model.addresses(GROUP, Protocol::Gdoi), [nat.outside(NAT_PORT)]);
    assert_eq!(bench.model.marked_addresses(GROUP, Protocol::Gdoi), [nat.outside(NAT_PORT)]);

    // One octet, every 20 s, from port 4500 to port 4500, for as long as the member is in the group.
    bench.log.clear();
    bench.run_through(secs(100), &mut |p| nat.pass(p));
    let octets: Vec<&Packet> = bench.log.iter().filter(|p| p.bytes == [0xff]).collect();
    assert_eq!(
        (octets.len(), octets[0].from.port(), octets[0].to),
        (5, NAT_PORT, SocketAddr::new(host(false, 1).ip(), NAT_PORT))
    );
    bench.member(10, |m, ctx| m.leave(ctx));
    bench.log.clear();
    bench.run_through(secs(100), &mut |p| nat.pass(p));
    assert!(bench.log.iter().all(|p| p.bytes != [0xff]));
}

/// RFC 3947 section 4: with message 5 of main mode, and with message 3 of aggressive mode.
#[test]
fn a_member_behind_a_translator_goes_on_at_port_4500() {
    for exchange in EXCHANGES {
        goes_on_at_port_4500(bench(Setup::default()), begins_with(exchange));
    }
}

#[test]
fn so_does_one_that_authenticates_by_certificate() {
    for exchange in EXCHANGES {
        let setup = Setup::default();
        let bench = Bench::with_policy(setup, policy(setup), |c| {
            c.aggressive = true;
            certify(c, &["gateway-p256"], vec![certified(None, None)]);
        });
        let mut settings = with_certificate(setup, "gm10-p256");
        settings.phase1.exchange = exchange;
        goes_on_at_port_4500(bench, settings);
    }
}

#[test]
fn without_a_translator_nothing_moves() {
    for exchange in EXCHANGES {
        let mut bench = bench_without_translator();
        bench.add_with(10, begins_with(exchange));
        bench.run(secs(100));
        assert_eq!(registered(&bench), 1);
        assert!(bench.log.iter().all(|p| p.from.port() == 848 && p.to.port() == 848));
        assert!(bench.model.marked_addresses(GROUP, Protocol::Gdoi).is_empty());
        assert!(!bench.nodes[&10].member.status().behind_nat);
    }
}

/// Who looks for none hears of none, and stays where it is behind one.
#[test]
fn who_looks_for_no_translator_stays_at_its_port() {
    for exchange in EXCHANGES {
        let (mut bench, nat) = (bench(Setup::default()), Translator::new(1, 30_000));
        let options = Phase1Options { nat_port: None, ..Phase1Options::default() };
        start_with(&mut bench, begins_with(exchange), options, nat);
        assert_eq!(registered(&bench), 1);
        assert!(sent(&bench).iter().all(|p| p.from.port() == 848 && p.to.port() == 848));
        assert!(bench.model.marked_addresses(GROUP, Protocol::Gdoi).is_empty());
    }
}

/// A translator that changes nothing but its own side: the key server has another address than it believes.
#[test]
fn a_key_server_behind_a_translator_is_reached_at_port_4500() {
    for exchange in EXCHANGES {
        let mut bench = bench_without_translator();
        let (public, private) = (host(false, 2).ip(), host(false, 1).ip());
        let mut far = begins_with(exchange);
        far.key_servers = KeyServers::one(SocketAddr::new(public, 848), None);
        let pass = |p: &Packet| {
            let mut p = p.clone();
            if p.to.ip() == public {
                p.to.set_ip(private);
            } else if p.from.ip() == private {
                p.from.set_ip(public);
            }
            p
        };
        bench.add_with(10, far);
        bench.member(10, |m, _| m.set_phase1(Phase1Options { keep: true, ..Phase1Options::default() }));
        bench.run_through(secs(20), &mut |p| vec![pass(p)]);
        assert_eq!(registered(&bench), 1);
        assert_eq!(sent(&bench)[in_clear(exchange)].to, SocketAddr::new(public, NAT_PORT));
        assert!(!bench.nodes[&10].member.status().behind_nat, "the translator is not in front of it");
        assert!(bench.log.iter().all(|p| p.bytes != [0xff]));

        // So the member is where it says, and what comes from elsewhere is nothing but a copy.
        let elsewhere = SocketAddr::from(([192, 0, 2, 66], NAT_PORT));
        bench.log.clear();
        bench.run_through(secs(40), &mut |p| {
            let p = pass(p);
            vec![if p.from.ip() == host(false, 10).ip() { Packet { from: elsewhere, ..p } } else { p }]
        });
        assert!(!sent(&bench).is_empty() && bench.log.iter().all(|p| p.to != elsewhere), "{exchange:?}");
    }
}

/// A unicast push goes through the mapping, and so does its acknowledgement, which names the member's own address.
#[test]
fn unicast_pushes_and_their_acknowledgements_pass_the_translator() {
    let setup = Setup { unicast: true, ..Setup::default() };
    let (mut bench, nat) = (bench(setup), Translator::new(1, 30_000));
    start(&mut bench, Phase1Options::default(), nat);
    let (_, messages) = bench.plan(RekeyReason::Operator, &[]);
    let [to] = bench.model.marked_addresses(GROUP, Protocol::Gdoi)[..] else { panic!("one member") };
    let from = SocketAddr::new(host(false, 1).ip(), NAT_PORT);
    for bytes in messages {
        let bytes = [&[0; 4][..], &bytes].concat();
        bench.wire.push_back(Packet { from, to, bytes });
    }
    bench.run_through(secs(2), &mut |p| nat.pass(p));
    assert_eq!(bench.nodes[&10].count(|e| matches!(e, MemberEvent::Acknowledged { .. })), 1);
    let ack = bench.log.iter().find(|p| p.bytes.get(22) == Some(&35)).unwrap();
    assert_eq!((ack.from.port(), ack.to), (NAT_PORT, from));
    let counters = bench.server.counters();
    assert_eq!((counters.acknowledged, counters.ack_elsewhere, counters.ack_failed), (1, 1, 0));
}

/// The translator forgets its mapping and makes another, with another address. The next question of the member's says so; a
/// copy of one of its messages from elsewhere does not.
#[test]
fn the_newest_authentic_message_says_where_a_member_is() {
    EXCHANGES.into_iter().for_each(follow);
}

fn follow(exchange: Phase1Exchange) {
    let (mut bench, old) = (bench(Setup::default()), Translator::new(1, 30_000));
    start_with(&mut bench, begins_with(exchange), Phase1Options { keep: true, ..Phase1Options::default() }, old);
    bench.run_through(secs(40), &mut |p| old.pass(p));
    let new = Translator::new(2, 20_000);
    bench.run_through(secs(60), &mut |p| new.pass(p));
    assert_eq!(bench.model.marked_addresses(GROUP, Protocol::Gdoi), [new.outside(NAT_PORT)]);
    assert_eq!(bench.nodes[&10].events, [MemberEvent::Connected, MemberEvent::Registered]);

    // Everything the member has sent under protection, once more from elsewhere.
    let copies: Vec<Packet> = sent(&bench).into_iter().filter(|p| p.bytes.starts_with(&[0; 4])).cloned().collect();
    bench.log.clear();
    let thief = SocketAddr::from(([192, 0, 2, 66], NAT_PORT));
    for copy in copies {
        bench.deliver(&Packet { from: thief, ..copy });
    }
    assert!(bench.log.iter().all(|p| p.to != thief), "and no answer goes there");
    assert_eq!(bench.model.marked_addresses(GROUP, Protocol::Gdoi), [new.outside(NAT_PORT)]);
    bench.run_through(secs(60), &mut |p| new.pass(p));
    assert_eq!(bench.nodes[&10].events, [MemberEvent::Connected, MemberEvent::Registered]);
}

/// Where no translator was found, an authentic message from another address is nothing but a copy.
#[test]
fn without_a_translator_a_member_stays_where_it_is() {
    let mut bench = Bench::new(Setup::default());
    bench.add(10);
    bench.wire.clear();
    bench.log.clear();
    bench.member(10, |m, ctx| {
        m.set_phase1(Phase1Options { keep: true, ..Phase1Options::default() });
        m.start(ctx);
    });
    bench.settle();
    let elsewhere: SocketAddr = "192.0.2.66:848".parse().unwrap();
    bench.log.clear();
    bench.run_through(secs(40), &mut |p| {
        let mut p = p.clone();
        if p.from == host(false, 10) {
            p.from = elsewhere;
        }
        vec![p]
    });
    assert!(bench.log.iter().all(|p| p.to != elsewhere));
    assert_eq!(bench.model.addresses(GROUP, Protocol::Gdoi), [host(false, 10)]);
}

/// A member that has lost its state says so, and its translator has taken another address meanwhile: the SA of before is its own
/// all the same (RFC 3947 section 6).
#[test]
fn behind_a_translator_initial_contact_goes_by_the_identity() {
    for exchange in EXCHANGES {
        let mut bench = bench(Setup::default());
        start_with(&mut bench, begins_with(exchange), Phase1Options::default(), Translator::new(1, 1000));
        start_with(&mut bench, begins_with(exchange), Phase1Options::default(), Translator::new(2, 2000));
        let counters = bench.server.counters();
        assert_eq!((counters.established, counters.closed), (2, 1), "{exchange:?}");
    }
}
