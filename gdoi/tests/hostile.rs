//! Networks that lose, repeat and reorder, and attackers that change what they see.
#![allow(clippy::unwrap_used)]

mod support;

use keyferry_crypto::{BlockCipher, Hash, KeGroup, Random, SeededRandom};
use keyferry_model::plan::RekeyReason;
use keyferry_model::policy::AckType;
use keyferry_model::update::MemberEvent;
use support::{Bench, GROUP, Packet, Setup, host, policy, secs};

/// A lossy network: some packets are lost, some come twice, some later than those behind them.
fn rough(seed: u64) -> impl FnMut(&Packet) -> Vec<Packet> {
    let mut rng = SeededRandom::new(seed);
    let mut held: Vec<Packet> = Vec::new();
    move |packet| {
        let mut arriving = match rng.below(10) {
            0..=2 => Vec::new(),
            3 | 4 => vec![packet.clone(), packet.clone()],
            5 => {
                held.push(packet.clone());
                Vec::new()
            }
            _ => vec![packet.clone()],
        };
        if held.len() > 3 {
            arriving.append(&mut held);
        }
        arriving
    }
}

#[test]
fn rough_networks_delay_but_do_not_break_anything() {
    for seed in 0..20 {
        let setup = Setup { v6: seed % 2 == 0, ..Setup::default() };
        let mut bench = Bench::new(setup);
        let mut net = rough(seed);
        for n in 10..14 {
            bench.add(n);
        }
        // Long enough for three attempts.
        bench.run_through(secs(200), &mut net);
        for (n, node) in &bench.nodes {
            assert!(node.count(|e| *e == MemberEvent::Registered) >= 1, "seed {seed}, member {n}: {:?}", node.events);
        }
        // Ten copies, then everybody has it, or asked anew.
        let (_, messages) = bench.plan(RekeyReason::Operator, &[]);
        for _ in 0..10 {
            bench.send_pushes(&messages);
            bench.run_through(secs(2), &mut net);
        }
        for (n, node) in &bench.nodes {
            assert!(node.count(|e| matches!(e, MemberEvent::Rekeyed { .. })) <= 1);
            assert_eq!(node.member.status().last_counter, 1, "seed {seed}, member {n}");
        }
        let views = bench.model.group(GROUP).unwrap().rekey_views();
        assert!(views[0].acknowledged <= 4);
    }
}

fn alterations(bytes: &[u8]) -> Vec<Vec<u8>> {
    let cut = (0..bytes.len()).map(|n| bytes[..n].to_vec());
    let changed = (0..bytes.len()).flat_map(|at| {
        [0x01u8, 0x80, 0xff].into_iter().map(move |mask| {
            let mut b = bytes.to_vec();
            b[at] ^= mask;
            b
        })
    });
    // A cut datagram whose header says so gets further.
    let fitted = (28..bytes.len()).map(|n| {
        let mut b = bytes[..n].to_vec();
        b[24..28].copy_from_slice(&u32::try_from(n).unwrap().to_be_bytes());
        b
    });
    cut.chain(changed).chain(fitted).collect()
}

/// Before each message its receiver gets every truncation and three changes of every octet of it. The run ends as if
/// nothing had happened, and nobody does much for it.
#[test]
fn altered_messages_change_nothing() {
    let setups = [
        Setup::default(),
        Setup {
            v6: true,
            ke: KeGroup::Modp2048,
            hash: Hash::Sha384,
            kek: BlockCipher::Aes256Cbc,
            ack: Some(AckType::Lkh(Hash::Sha512)),
            unicast: true,
            ..Setup::default()
        },
    ];
    for setup in setups {
        let mut bench = Bench::new(setup);
        // Opening messages are another matter: each alteration opens an exchange of its own.
        let mut attack = |packet: &Packet| {
            let opens = packet.bytes[8..16] == [0; 8];
            let altered = if opens { Vec::new() } else { alterations(&packet.bytes) };
            let mut all: Vec<Packet> = altered.into_iter().map(|bytes| Packet { bytes, ..packet.clone() }).collect();
            all.push(packet.clone());
            all
        };
        for n in [10, 11] {
            bench.add(n);
            bench.run_through(secs(10), &mut attack);
        }
        let (_, messages) = bench.plan(RekeyReason::Operator, &[]);
        bench.send_pushes(&messages);
        bench.run_through(secs(10), &mut attack);
        let (_, messages) = bench.plan(RekeyReason::Eviction, &[11]);
        bench.send_pushes(&messages);
        bench.run_through(secs(5), &mut attack);
        let node = &bench.nodes[&10];
        assert_eq!(node.count(|e| *e == MemberEvent::Registered), 1);
        assert_eq!(node.count(|e| matches!(e, MemberEvent::Refused(_) | MemberEvent::Unanswered)), 0);
        assert_eq!(node.count(|e| matches!(e, MemberEvent::Rekeyed { .. })), 3);
        assert_eq!(node.member.status().last_counter, 1);
        // By unicast, nobody tells an evicted member anything.
        let told = usize::from(!setup.unicast);
        assert_eq!(bench.nodes[&11].count(|e| *e == MemberEvent::Excluded), told);
        let counters = bench.server.counters();
        assert_eq!((counters.registered, counters.refused), (2, 0));
        assert_eq!(counters.acknowledged, 3);
        let views = bench.model.group(GROUP).unwrap().rekey_views();
        assert!(views.iter().all(|v| v.missing.is_empty()), "{views:?}");
    }
}

/// A whole run comes again: to the same server and members, and later.
#[test]
fn replayed_messages_change_nothing() {
    let mut bench = Bench::new(Setup::default());
    bench.add(10);
    bench.settle();
    bench.rekey(RekeyReason::Operator, &[]);
    bench.run(secs(2));
    let (events, counters) = (bench.nodes[&10].events.len(), *bench.server.counters());
    let members = bench.model.group(GROUP).unwrap().member_views();
    for packet in bench.log.clone() {
        bench.deliver(&packet);
    }
    bench.run(secs(60));
    assert_eq!(bench.nodes[&10].events.len(), events);
    let now = bench.server.counters();
    assert_eq!((now.registered, now.acknowledged, now.established), (1, 1, 1));
    assert_eq!((now.refused, now.ack_failed), (counters.refused, counters.ack_failed));
    assert_eq!(format!("{:?}", bench.model.group(GROUP).unwrap().member_views()), format!("{members:?}"));
}

/// First messages from everywhere: the table stays bounded, and newcomers get in even so.
#[test]
fn a_flood_of_first_messages_keeps_nobody_out() {
    let setup = Setup { v6: true, ..Setup::default() };
    let mut bench = Bench::with_policy(setup, policy(setup), |c| {
        c.half_open = 50;
        c.half_open_per_source = 5;
    });
    bench.add(10);
    bench.settle();
    let first = bench.log[0].clone();
    for i in 0..1000u32 {
        let mut packet = first.clone();
        packet.bytes[..4].copy_from_slice(&(i + 1).to_be_bytes());
        // All members live in one /64, so it is the limit of that source that counts.
        packet.from = host(true, 10 + u8::try_from(i % 20).unwrap());
        bench.deliver(&packet);
    }
    bench.wire.clear();
    assert_eq!(bench.server.counters().half_open_refused, 995);
    bench.add(11);
    bench.settle();
    assert_eq!(bench.nodes[&11].events.last(), Some(&MemberEvent::Registered));
    bench.run(secs(31));
    assert_eq!(bench.server.counters().timed_out, 4);
}

/// Noise in the shape of messages, to both sides.
#[test]
fn noise_is_survived() {
    let mut bench = Bench::new(Setup::default());
    bench.add(10);
    bench.settle();
    let events = bench.nodes[&10].events.len();
    let cookies: Vec<u8> = bench.log.last().unwrap().bytes[..16].to_vec();
    let mut rng = SeededRandom::new(3);
    for i in 0..20_000u32 {
        let len = 28 + usize::try_from(rng.below(16)).unwrap() * 16;
        let mut bytes = vec![0; len];
        rng.fill(&mut bytes);
        bytes[..16].copy_from_slice(&cookies);
        if i % 3 == 0 {
            rng.fill(&mut bytes[8..16]);
        }
        bytes[17] = 0x10;
        bytes[18] = [2, 5, 32, 33, 35][usize::try_from(rng.below(5)).unwrap()];
        bytes[19] &= 1;
        bytes[24..28].copy_from_slice(&u32::try_from(len).unwrap().to_be_bytes());
        let (a, b) = (host(false, 1), host(false, 10));
        bench.deliver(&Packet { from: a, to: b, bytes: bytes.clone() });
        bench.deliver(&Packet { from: b, to: a, bytes });
    }
    bench.run(secs(10));
    assert_eq!(bench.nodes[&10].events.len(), events);
    assert_eq!(bench.server.counters().registered, 1);
}

/// A member moves to the other protocol's hands while its goodbye is still under way: it is not thrown out.
#[test]
fn a_goodbye_that_comes_twice_or_late_is_harmless() {
    let mut bench = Bench::new(Setup::default());
    bench.add(10);
    bench.settle();
    let before = bench.log.len();
    bench.member(10, |m, ctx| m.leave(ctx));
    let goodbye = bench.log[before].clone();
    bench.settle();
    bench.add(10);
    bench.settle();
    bench.deliver(&goodbye);
    bench.settle();
    assert_eq!(bench.server.counters().left, 1);
    assert_eq!(bench.model.group(GROUP).unwrap().view(bench.now()).gdoi_members, 1);
}
