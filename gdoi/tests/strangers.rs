//! Genuine messages that come from elsewhere, or once more after a long time; floods in a member's name; headers that
//! RFC 2408 does not know.
#![allow(clippy::unwrap_used)]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use gdoi::{Server, ServerConfig};
use keyferry_crypto::Hash;
use keyferry_model::credentials::{Credentials, Peer, Proof};
use keyferry_model::id::{Identity, Protocol};
use keyferry_model::plan::RekeyReason;
use keyferry_model::policy::{AckType, Selector};
use keyferry_model::reading::Readings;
use keyferry_model::settings::{MemberAuth, MemberSettings};
use keyferry_model::update::MemberEvent;
use support::{Bench, GROUP, Packet, Setup, host, policy, psk, secs, settings};

const PULL: u8 = 32;

fn stranger() -> SocketAddr {
    "10.99.0.1:848".parse().unwrap()
}

fn to_server(packet: &Packet) -> bool {
    packet.to == host(false, 1)
}

/// A copy of each message of a member arrives first, from another address: nothing is sent there, neither at once nor by
/// unicast pushes later, and the group has the member where it is.
#[test]
fn what_a_member_sends_counts_from_its_own_address_alone() {
    let mut bench = Bench::new(Setup { unicast: true, ..Setup::default() });
    bench.add(10);
    let mut copies = |packet: &Packet| {
        let elsewhere = Packet { from: stranger(), ..packet.clone() };
        let opens = packet.bytes[8..16] == [0; 8];
        if to_server(packet) && !opens { vec![elsewhere, packet.clone()] } else { vec![packet.clone()] }
    };
    bench.run_through(secs(5), &mut copies);
    assert_eq!(bench.nodes[&10].count(|e| *e == MemberEvent::Registered), 1);
    assert_eq!(bench.model.addresses(GROUP, Protocol::Gdoi), [host(false, 10)]);
    // Nor do repeats of what was answered draw anything.
    for packet in bench.log.clone().iter().filter(|p| to_server(p) && p.bytes[8..16] != [0; 8]) {
        bench.deliver(&Packet { from: stranger(), ..packet.clone() });
    }
    // A goodbye from elsewhere is none.
    let before = bench.log.len();
    bench.member(10, |m, ctx| m.leave(ctx));
    let goodbye = bench.log[before].clone();
    bench.wire.clear();
    bench.deliver(&Packet { from: stranger(), ..goodbye });
    assert_eq!(bench.server.counters().left, 0);
    assert!(bench.log.iter().all(|p| p.to != stranger()), "nothing goes to a stranger");
}

/// The server forgets the answers of a registration after a while, but not that its message ID was used: message 1 draws
/// nothing any more and does not keep phase 1 alive.
#[test]
fn an_old_first_message_of_a_registration_does_nothing() {
    let mut bench = Bench::new(Setup::default());
    bench.add(10);
    bench.settle();
    let first = bench.log.iter().find(|p| p.bytes[18] == PULL).unwrap().clone();
    for _ in 0..7 {
        bench.run(secs(40));
        let before = bench.log.len();
        bench.deliver(&first);
        bench.deliver(&Packet { from: stranger(), ..first.clone() });
        assert_eq!(bench.log.len(), before, "no answer");
    }
    assert_eq!(bench.server.counters().closed, 0);
    bench.run(secs(30));
    assert_eq!(bench.server.counters().closed, 1, "idle since the registration");
    let delete = bench.log.last().unwrap();
    assert_eq!(delete.to, host(false, 10), "told to the member, not to who repeated it last");
}

/// Message IDs of registrations are remembered for as long as the SA lives, so an SA has only so many.
#[test]
fn a_phase_1_sa_takes_a_bounded_number_of_registrations() {
    let setup = Setup::default();
    let mut bench = Bench::new(setup);
    let mut lost = settings(setup, 10);
    lost.group = "77".parse().unwrap();
    bench.add_with(10, lost);
    let mut steps = 0;
    while bench.server.counters().established < 2 {
        bench.run(secs(60));
        steps += 1;
        assert!(steps < 1000, "{:?}", bench.server.counters());
    }
    assert_eq!(
        bench.server.counters().refused,
        256,
        "one message ID is INITIAL-CONTACT's; the last one under a new SA"
    );
}

/// Only message 3 proves that a member is there now: after message 1 the group is as it was.
#[test]
fn the_first_message_of_a_registration_changes_nothing_in_the_group() {
    let mut bench = Bench::new(Setup::default());
    bench.add(10);
    bench.settle();
    bench.add(11);
    while let Some(packet) = bench.wire.pop_front() {
        if to_server(&packet) && packet.bytes[18] == PULL {
            let state = |b: &Bench| {
                let group = b.model.group(GROUP).unwrap();
                format!("{:?} {:?} {:?}", group.view(b.now()), group.member_views(), group.rekey_views())
            };
            let (before, persisted) = (state(&bench), bench.persisted);
            bench.deliver(&packet);
            assert_eq!(state(&bench), before);
            assert!(bench.model.take_store_ops().is_empty());
            assert_eq!(bench.persisted, persisted);
            return;
        }
        bench.deliver(&packet);
    }
    panic!("no registration");
}

/// First messages with a member's address keep coming while it connects.
#[test]
fn a_flood_of_first_messages_in_its_name_does_not_keep_a_member_out() {
    // With the usual limit, and with one that each pause between two of the member's messages exhausts for itself.
    for (limit, forged) in [(None, 400u32), (Some(32), 30)] {
        let setup = Setup::default();
        let mut bench = Bench::with_policy(setup, policy(setup), |c| {
            c.half_open_per_source = limit.unwrap_or(c.half_open_per_source);
        });
        bench.add(10);
        let first = bench.log[0].clone();
        let mut n = 0u32;
        let mut flood = |packet: &Packet| {
            if !to_server(packet) {
                return vec![packet.clone()];
            }
            let mut all: Vec<Packet> = (0..forged)
                .map(|_| {
                    n += 1;
                    let mut copy = first.clone();
                    copy.bytes[..4].copy_from_slice(&n.to_be_bytes());
                    copy
                })
                .collect();
            all.push(packet.clone());
            all
        };
        bench.settle_through(&mut flood);
        assert_eq!(bench.nodes[&10].count(|e| *e == MemberEvent::Registered), 1, "{limit:?}");
        assert_eq!(bench.log.iter().filter(|p| p.from == host(false, 10)).count(), 6, "without a repeat");
    }
}

/// Messages 1 and 3 of main mode, as a member of number 10 sends them.
fn opening(bench: &mut Bench) -> [Packet; 2] {
    bench.add(10);
    bench.settle();
    let own: Vec<Packet> = bench.log.iter().filter(|p| p.from == host(false, 10)).take(2).cloned().collect();
    own.try_into().unwrap()
}

/// Opens an exchange of main mode from this address with the messages 1 and 3 of another, and leaves it there. Is message 3
/// answered at once?
fn answered(bench: &mut Bench, from: SocketAddr, cookie: u32, [first, third]: &[Packet; 2]) -> bool {
    let mut opening = Packet { from, ..first.clone() };
    opening.bytes[..4].copy_from_slice(&cookie.to_be_bytes());
    bench.deliver(&opening);
    let answer = bench.wire.pop_back().unwrap();
    let mut going_on = Packet { from, ..third.clone() };
    going_on.bytes[..16].copy_from_slice(&answer.bytes[..16]);
    bench.deliver(&going_on);
    let at_once = bench.wire.back().is_some_and(|p| p.to == from);
    if at_once {
        bench.wire.pop_back();
    }
    at_once
}

/// Eight addresses fill the table with exchanges that have got as far as message 4, and keep at it while a member comes.
#[test]
fn a_table_full_of_answered_exchanges_keeps_nobody_out() {
    let setup = Setup::default();
    let mut bench = Bench::with_policy(setup, policy(setup), |c| {
        (c.half_open, c.half_open_per_source) = (64, 8);
    });
    let own = opening(&mut bench);
    let mut cookie = 0;
    let mut fill = |bench: &mut Bench| {
        for n in 11..19 {
            cookie += 1;
            answered(bench, host(false, n), cookie, &own);
        }
    };
    for _ in 0..8 {
        fill(&mut bench);
    }
    assert_eq!(bench.server.counters().half_open_refused, 0, "full, and none displaced yet");
    bench.add(20);
    while let Some(packet) = bench.wire.pop_front() {
        bench.deliver(&packet);
        fill(&mut bench);
    }
    assert_eq!(bench.nodes[&20].count(|e| *e == MemberEvent::Registered), 1);
    assert_eq!(bench.log.iter().filter(|p| p.from == host(false, 20)).count(), 6, "without a repeat");
}

/// Whoever opens many exchanges at once has its key exchanges computed one second's share after the other; another source
/// does not wait for that.
#[test]
fn public_key_work_for_one_source_is_bounded() {
    const KE: u8 = 4;
    let mut bench = Bench::new(Setup::default());
    let own = opening(&mut bench);
    bench.run(secs(1));
    let [greedy, modest] = [host(false, 11), host(false, 12)];
    let at_once = (1..=100).filter(|n| answered(&mut bench, greedy, *n, &own)).count();
    assert_eq!(at_once, 40);
    assert!(answered(&mut bench, modest, 101, &own));
    let done = |b: &Bench| b.log.iter().filter(|p| p.to == greedy && p.bytes[16] == KE).count();
    for (after, all) in [(1, 80), (2, 100)] {
        bench.run(secs(1));
        assert_eq!(done(&bench), all, "after {after} s");
    }
}

/// Two hundred members behind one address start at one moment: all are there within a minute.
#[test]
fn a_fleet_behind_one_address_comes_in() {
    let setup = Setup::default();
    let nat: SocketAddr = "192.0.2.1:0".parse().unwrap();
    let peers = (10..210).map(|n| Peer {
        identity: Some(Identity::from_ip(host(false, n).ip())),
        address: Some(Selector { address: nat.ip(), prefix: 32, protocol: 0, port: 0 }),
        proof: Proof::Psk(psk(10)),
        sends: Readings::NONE,
    });
    let credentials = Arc::new(Credentials::new(peers.collect()));
    let mut large = policy(setup);
    large.capacity = 512;
    let mut bench = Bench::with_policy(setup, large, |c| {
        c.credentials = Arc::clone(&credentials);
        // With certificates there would be twice as much to do for each.
        c.work_per_source /= 2;
    });
    for n in 10..210 {
        bench.add_with(n, MemberSettings { auth: MemberAuth::Psk(psk(10)), ..settings(setup, n) });
    }
    let mut translate = |packet: &Packet| {
        let mut packet = packet.clone();
        let port = |n: u8| 10_000 + u16::from(n);
        if let Some(n) = (10..210).find(|n| host(false, *n).ip() == packet.from.ip()) {
            packet.from = SocketAddr::new(nat.ip(), port(n));
        }
        if packet.to.ip() == nat.ip() {
            packet.to = host(false, u8::try_from(packet.to.port() - port(0)).unwrap());
        }
        vec![packet]
    };
    bench.run_through(secs(60), &mut translate);
    assert_eq!(bench.server.counters().registered, 200, "{:?}", bench.server.counters());
}

/// A minor version above ours, and flags that RFC 2408 does not define or that make no sense here.
#[test]
fn headers_are_checked() {
    type Change = fn(&mut [u8]);
    let changes: [(&str, Change, bool); 4] = [
        ("minor version", |b| b[17] = 0x11, false),
        ("a reserved flag", |b| b[19] |= 0x40, false),
        ("authentication only", |b| b[19] |= 0x04, false),
        ("commit", |b| b[19] |= 0x02, true),
    ];
    for (what, change, taken) in changes {
        for exchange in [2, PULL] {
            for from_member in [true, false] {
                let mut bench = Bench::new(Setup::default());
                bench.add(10);
                let mut net = |packet: &Packet| {
                    let mut packet = packet.clone();
                    if packet.bytes[18] == exchange && to_server(&packet) == from_member {
                        change(&mut packet.bytes);
                    }
                    vec![packet]
                };
                bench.settle_through(&mut net);
                let registered = bench.nodes[&10].count(|e| *e == MemberEvent::Registered);
                assert_eq!(registered, usize::from(taken), "{what}, exchange {exchange}");
            }
        }
    }
    for change in [|b: &mut [u8]| b[17] = 0x11, |b: &mut [u8]| b[19] = 0x03] {
        let mut bench = Bench::new(Setup::default());
        bench.add(10);
        bench.settle();
        bench.rekey(RekeyReason::Operator, &[]);
        let mut net = |packet: &Packet| {
            let mut packet = packet.clone();
            if packet.bytes[18] == 33 || packet.bytes[18] == 35 {
                change(&mut packet.bytes);
            }
            vec![packet]
        };
        bench.run_through(secs(2), &mut net);
        assert_eq!(bench.nodes[&10].count(|e| matches!(e, MemberEvent::Rekeyed { .. })), 0);
    }
}

/// Three members share one address of a translator: each acknowledgement counts for the member that sent it.
#[test]
fn acknowledgements_of_members_behind_one_address_are_told_apart() {
    for ack in [AckType::Kek(Hash::Sha256), AckType::Lkh(Hash::Sha256)] {
        let setup = Setup { ack: Some(ack), ..Setup::default() };
        let mut bench = Bench::new(setup);
        let nat: SocketAddr = "192.0.2.1:0".parse().unwrap();
        let identity = |n: u8| Identity::from_ip(host(false, n).ip());
        let peers = (10..13).map(|n| Peer {
            identity: Some(identity(n)),
            address: Some(Selector { address: nat.ip(), prefix: 32, protocol: 0, port: 0 }),
            proof: Proof::Psk(psk(10)),
            sends: Readings::NONE,
        });
        bench.server = Server::new(ServerConfig::new(Arc::new(Credentials::new(peers.collect()))));
        for n in 10..13 {
            let mut own = settings(setup, n);
            own.auth = MemberAuth::Psk(psk(10));
            bench.add_with(n, own);
        }
        // Outside, member n has port 10000 + n for 848, and 20000 + n for 4500.
        let ports = [(848, 10_000), (gdoi::NAT_PORT, 20_000)];
        let inside: BTreeMap<SocketAddr, SocketAddr> = (10..13)
            .flat_map(|n| ports.map(|(port, base)| (n, port, base + u16::from(n))))
            .map(|(n, port, out)| (SocketAddr::new(nat.ip(), out), SocketAddr::new(host(false, n).ip(), port)))
            .collect();
        let mut translate = |packet: &Packet| {
            let mut packet = packet.clone();
            if let Some((out, _)) = inside.iter().find(|(_, own)| **own == packet.from) {
                packet.from = *out;
            }
            packet.to = *inside.get(&packet.to).unwrap_or(&packet.to);
            vec![packet]
        };
        bench.run_through(secs(2), &mut translate);
        let (_, messages) = bench.plan(RekeyReason::Operator, &[]);
        // One of them misses the push.
        bench.nodes.remove(&11);
        bench.send_pushes(&messages);
        bench.run_through(secs(2), &mut translate);
        assert_eq!(bench.server.counters().acknowledged, 2, "{ack:?}");
        let views = bench.model.group(GROUP).unwrap().rekey_views();
        let last = views.last().unwrap();
        assert_eq!((last.expected, last.acknowledged), (3, 2));
        assert_eq!(last.missing, [identity(11)], "{ack:?}");
    }
}

/// Messages 2 that are forged without end give a member no more time to wait for the true ones: it gives up, and tries again
/// later, or with another key server.
#[test]
fn forged_choices_do_not_keep_a_member_connecting() {
    let mut bench = Bench::new(Setup::default());
    bench.add(10);
    let first = bench.wire.pop_front().unwrap();
    bench.deliver(&first);
    let mut forged = bench.wire.pop_front().unwrap();
    // Without forgeries it gives up after 40 seconds at the latest.
    for n in 1..=9u64 {
        forged.bytes[8..16].copy_from_slice(&n.to_be_bytes());
        bench.deliver(&forged);
        bench.run_through(secs(5), &mut |_| Vec::new());
    }
    assert_eq!(bench.nodes[&10].events, [MemberEvent::Unanswered]);
}

/// A continuation that makes room for another gives up the work that waits for it: no more of it is out than there are
/// continuations.
#[test]
fn jobs_of_displaced_continuations_are_given_up() {
    let mut bench = Bench::new(Setup::default());
    let [first, third] = opening(&mut bench);
    bench.hold_jobs = true;
    let from = host(false, 11);
    bench.deliver(&Packet { from, ..first });
    let answer = bench.wire.pop_back().unwrap();
    let mut forged = Packet { from, ..third };
    forged.bytes[..16].copy_from_slice(&answer.bytes[..16]);
    let mut jobs = BTreeSet::new();
    for n in 0..12u8 {
        // An octet of the nonce, behind the header and a public value of P-256.
        forged.bytes[28 + 68 + 4] = n;
        bench.deliver(&forged);
        bench.run(Duration::from_millis(500));
        jobs.extend(bench.held.iter().map(|(id, _)| *id));
        assert_eq!(bench.held.len(), usize::from(n + 1).min(4), "{n}");
    }
    assert_eq!(jobs.len(), 12, "each has had its turn");
    bench.run(secs(60));
    assert_eq!(bench.held.len(), 0);
}

/// A newcomer puts an old exchange out, and with it the work that waits for it.
#[test]
fn jobs_of_displaced_exchanges_are_given_up() {
    let setup = Setup::default();
    let mut bench = Bench::with_policy(setup, policy(setup), |c| c.half_open = 4);
    let own = opening(&mut bench);
    bench.hold_jobs = true;
    for n in 11..29 {
        answered(&mut bench, host(false, n), n.into(), &own);
    }
    assert_eq!(bench.server.counters().half_open_refused, 14);
    assert_eq!(bench.held.len(), 4, "jobs of those that are left");
    bench.run(secs(60));
    assert_eq!(bench.held.len(), 0, "and none once they have timed out");
}
