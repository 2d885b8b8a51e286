//! The life of phase 1 SAs: Dead Peer Detection, INITIAL-CONTACT, Deletes, lifetimes and renewal.
#![allow(clippy::unwrap_used)]

mod support;

use std::net::SocketAddr;

use gdoi::{Dpd, Phase1Options};
use keyferry_model::id::Identity;
use keyferry_model::key_server::{KeyServer, KeyServers};
use keyferry_model::plan::RekeyReason;
use keyferry_model::update::MemberEvent;
use support::{Bench, GROUP, Packet, Setup, host, policy, secs, settings};

const INFORMATIONAL: u8 = 5;

fn keeping() -> Phase1Options {
    Phase1Options { keep: true, ..Phase1Options::default() }
}

fn add_keeping(bench: &mut Bench, n: u8, options: Phase1Options) {
    let settings = settings(bench.setup, n);
    bench.add_with(n, settings);
    bench.wire.clear();
    bench.log.clear();
    bench.member(n, |m, ctx| {
        m.set_phase1(options);
        m.start(ctx);
    });
    bench.settle();
}

fn notices(bench: &Bench, n: u8, to_server: bool) -> Vec<Packet> {
    let member = host(bench.setup.v6, n);
    let way = |p: &&Packet| if to_server { p.from == member } else { p.to == member };
    bench.log.iter().filter(|p| p.bytes[18] == INFORMATIONAL).filter(way).cloned().collect()
}

fn members(bench: &Bench) -> u32 {
    bench.model.group(GROUP).unwrap().view(bench.now()).gdoi_members.try_into().unwrap()
}

/// HDR*, HASH, N(R-U-THERE) after each silence, from the key server, and HDR*, HASH, N(R-U-THERE-ACK).
#[test]
fn a_key_server_asks_silent_members_and_forgets_the_phase_1_of_dead_ones() {
    let setup = Setup::default();
    let mut bench = Bench::with_policy(setup, policy(setup), |c| {
        c.dpd = Some(Dpd { interval: secs(20), retry: secs(2), tries: 3 });
    });
    bench.add(10);
    bench.add(11);
    bench.run(secs(110));
    assert_eq!(notices(&bench, 10, false).len(), 5, "every 20 s");
    assert_eq!(notices(&bench, 10, true).len(), 6, "INITIAL-CONTACT, and an answer to each");
    assert_eq!((bench.server.counters().closed, bench.server.counters().dead), (0, 0));

    bench.nodes.remove(&11);
    bench.run(secs(40));
    assert_eq!((bench.server.counters().closed, bench.server.counters().dead), (1, 1));
    assert_eq!(members(&bench), 2, "registrations and keys stay");
    let asked = notices(&bench, 11, false);
    let last: Vec<&Packet> = asked.iter().rev().take(3).collect();
    assert!(last.iter().all(|p| p.bytes == last[0].bytes), "repeats are bitwise identical");
}

#[test]
fn a_member_keeps_phase_1_by_asking_and_registers_anew_when_the_key_server_is_dead() {
    let mut bench = Bench::new(Setup::default());
    add_keeping(&mut bench, 10, keeping());
    bench.run(secs(1000));
    let asked = notices(&bench, 10, true).len() - 1;
    assert_eq!(asked, 33, "every 30 s");
    assert_eq!(bench.nodes[&10].events, [MemberEvent::Connected, MemberEvent::Registered]);
    assert_eq!(bench.server.counters().closed, 0, "though it idles for longer than the server's 300 s");

    bench.run_through(secs(120), &mut |_| Vec::new());
    assert_eq!(bench.nodes[&10].events[2..3], [MemberEvent::Unanswered]);
    bench.run(secs(120));
    let node = &bench.nodes[&10];
    assert_eq!(node.events.last(), Some(&MemberEvent::Registered));
    assert_eq!(node.flushed, 0, "the keys are good all the time");
}

#[test]
fn without_the_wish_to_keep_phase_1_nobody_is_asked() {
    let mut bench = Bench::new(Setup::default());
    bench.add(10);
    bench.run(secs(299));
    assert_eq!(notices(&bench, 10, true).len(), 1, "INITIAL-CONTACT");
    assert_eq!(notices(&bench, 10, false).len(), 0);
}

/// The answer to R-U-THERE gets lost: the same question again is answered again, and a copy of it does no more.
#[test]
fn questions_are_answered_again_but_not_for_ever() {
    let mut bench = Bench::new(Setup::default());
    add_keeping(&mut bench, 10, keeping());
    let mut lost = 2;
    bench.run_through(secs(40), &mut |p| {
        if p.to == host(false, 10) && p.bytes[18] == INFORMATIONAL && lost > 0 {
            lost -= 1;
            return Vec::new();
        }
        vec![p.clone()]
    });
    assert_eq!(bench.nodes[&10].count(|e| *e == MemberEvent::Unanswered), 0);
    let question = notices(&bench, 10, true)[1].clone();
    let before = notices(&bench, 10, false).len();
    for _ in 0..100 {
        bench.deliver(&question);
    }
    assert_eq!(before, 3, "two were lost");
    assert_eq!(notices(&bench, 10, false).len() - before, 5, "eight answers to one question");
    bench.run(secs(60));
    // It is old now.
    let before = notices(&bench, 10, false).len();
    bench.deliver(&question);
    assert_eq!(notices(&bench, 10, false).len(), before);
}

/// Whoever copies a question from another port gets the answer sent to where the member was.
#[test]
fn a_copied_question_does_not_move_the_member() {
    let mut bench = Bench::new(Setup::default());
    add_keeping(&mut bench, 10, keeping());
    bench.run(secs(31));
    let mut question = notices(&bench, 10, true)[1].clone();
    question.from.set_port(9999);
    bench.log.clear();
    bench.deliver(&question);
    assert_eq!(bench.log.len(), 1);
    assert_eq!(bench.log[0].to, host(false, 10));
}

/// Main mode over again while the present SA is in use, then a Delete of the old one.
#[test]
fn a_kept_phase_1_is_renewed_before_it_ends() {
    let options = Phase1Options { lifetime: secs(900), ..keeping() };
    let mut bench = Bench::new(Setup::default());
    add_keeping(&mut bench, 10, options);
    bench.run(secs(3000));
    let counters = bench.server.counters();
    assert_eq!(counters.established, 4);
    assert_eq!(counters.closed, 3, "the old one each time");
    assert_eq!(counters.registered, 1);
    assert_eq!(bench.nodes[&10].events, [MemberEvent::Connected, MemberEvent::Registered]);
}

/// N(RESPONDER-LIFETIME) behind message 6.
#[test]
fn a_shorter_life_is_told_and_honoured() {
    let setup = Setup::default();
    let mut bench = Bench::with_policy(setup, policy(setup), |c| c.sa_lifetime = secs(900));
    add_keeping(&mut bench, 10, keeping());
    assert_eq!(notices(&bench, 10, false).len(), 1);
    bench.run(secs(1700));
    assert_eq!(bench.server.counters().established, 3);
    assert_eq!(bench.nodes[&10].count(|e| *e == MemberEvent::Disconnected), 0, "it was ahead of the server each time");

    let mut bench = Bench::with_policy(setup, policy(setup), |c| c.sa_lifetime = secs(9000));
    add_keeping(&mut bench, 10, Phase1Options { lifetime: secs(900), ..keeping() });
    assert_eq!(notices(&bench, 10, false).len(), 0, "the member's own is shorter");
}

/// The renewal fails while the key server is away, and the SA runs out: the member connects anew.
#[test]
fn an_sa_that_could_not_be_renewed_is_replaced() {
    let options = Phase1Options { lifetime: secs(900), dpd: None, ..keeping() };
    let setup = Setup::default();
    let mut bench = Bench::with_policy(setup, policy(setup), |c| c.idle = secs(10_000));
    add_keeping(&mut bench, 10, options);
    bench.run(secs(600));
    bench.run_through(secs(290), &mut |_| Vec::new());
    bench.run(secs(200));
    let node = &bench.nodes[&10];
    assert_eq!(node.events.last(), Some(&MemberEvent::Registered));
    assert_eq!(bench.server.counters().established, 2);
}

/// A member that starts anew says so; its older SAs go, its registration and those of others stay.
#[test]
fn initial_contact_ends_the_older_sas_of_the_same_member() {
    let mut bench = Bench::new(Setup::default());
    bench.add(10);
    bench.add(11);
    bench.settle();
    bench.add(10);
    bench.settle();
    assert_eq!((bench.server.counters().established, bench.server.counters().closed), (3, 1));
    assert_eq!(members(&bench), 2);
    // It came under the newest SA: its copy ends nothing.
    let again = notices(&bench, 10, true).last().unwrap().clone();
    for _ in 0..10 {
        bench.deliver(&again);
    }
    assert_eq!(bench.server.counters().closed, 1);
    assert_eq!(bench.server.counters().repeated, 10);
    // A renewed phase 1 is no first contact.
    bench.run(secs(3500));
    assert_eq!(notices(&bench, 10, true).len(), 2, "one from each start");
}

/// Deletes, INITIAL-CONTACT and questions in clear, and encrypted ones under other keys.
#[test]
fn notices_that_prove_nothing_do_nothing() {
    let mut bench = Bench::new(Setup::default());
    bench.add(10);
    bench.settle();
    let pull = bench.log.iter().find(|p| p.bytes[18] == 32).unwrap().clone();
    let cookies = pull.bytes[..16].to_vec();
    let status = |kind: u16, data: &[u8]| {
        let mut n = vec![0, 0, 0, 1, 1, 16];
        n.extend(kind.to_be_bytes());
        n.extend_from_slice(&cookies);
        n.extend_from_slice(data);
        (11u8, n)
    };
    let delete = [&[0, 0, 0, 1, 1, 16, 0, 1][..], &cookies].concat();
    let payloads = [
        status(24_578, &[]),
        status(36_136, &[0, 0, 0, 1]),
        status(24_576, &[0x80, 11, 0, 1, 0x80, 12, 0, 1]),
        status(18, &[]),
        (12, delete),
    ];
    bench.log.clear();
    for (kind, body) in payloads {
        for encrypted in [0u8, 1] {
            let length = u16::try_from(4 + body.len()).unwrap();
            let mut bytes = cookies.clone();
            bytes.extend([kind, 0x10, INFORMATIONAL, encrypted, 0, 0, 0, 9]);
            bytes.extend((28 + u32::from(length)).to_be_bytes());
            bytes.extend([0, 0]);
            bytes.extend(length.to_be_bytes());
            bytes.extend_from_slice(&body);
            for (from, to) in [(pull.from, pull.to), (pull.to, pull.from)] {
                bench.deliver(&Packet { from, to, bytes: bytes.clone() });
            }
        }
    }
    assert!(bench.log.is_empty(), "not a word");
    assert_eq!(bench.server.counters().closed, 0);
    let node = &bench.nodes[&10];
    assert_eq!(node.events, [MemberEvent::Connected, MemberEvent::Registered]);
    // Phase 1 is as it was.
    bench.member(10, |m, ctx| m.start(ctx));
    bench.settle();
    assert_eq!(bench.server.counters().established, 1);
    assert_eq!(bench.server.counters().registered, 2);
}

/// Both ends of a phase 1 delete it, each in its turn, and the other side goes on.
#[test]
fn deletes_are_heard_on_both_sides() {
    let mut bench = Bench::new(Setup::default());
    bench.add(10);
    bench.settle();
    bench.member(10, |m, ctx| m.disconnect(ctx));
    bench.settle();
    assert_eq!(bench.server.counters().closed, 1);
    bench.member(10, |m, ctx| m.start(ctx));
    bench.run(secs(301));
    assert_eq!(bench.server.counters().closed, 2);
    assert_eq!(bench.nodes[&10].count(|e| *e == MemberEvent::Disconnected), 1);
}

/// A member that starts anew and anew, and whose INITIAL-CONTACT gets lost, takes no room from others.
#[test]
fn one_member_has_a_bounded_number_of_sas() {
    let mut bench = Bench::new(Setup::default());
    bench.add(11);
    bench.settle();
    for _ in 0..12 {
        bench.add(10);
        bench.settle_through(&mut |p| if p.bytes[18] == INFORMATIONAL { Vec::new() } else { vec![p.clone()] });
    }
    assert_eq!((bench.server.counters().established, bench.server.counters().closed), (13, 4));
}

/// Two key servers, of which the first is dead: the member passes on to the second, stays with it, and when that one is away
/// too goes round, ever more slowly, with its keys in hand.
#[test]
fn a_member_goes_along_its_list_of_key_servers() {
    let setup = Setup::default();
    let mut bench = Bench::new(setup);
    let mut listed = settings(setup, 10);
    let (dead, alive) = (host(false, 2), host(false, 1));
    let server = |address: SocketAddr| KeyServer { address, identity: Some(Identity::from_ip(address.ip())) };
    listed.key_servers = KeyServers::new(vec![server(dead), server(alive)]);
    bench.add_with(10, listed);
    bench.run(secs(60));
    let registered = |b: &Bench| b.nodes[&10].count(|e| *e == MemberEvent::Registered);
    assert_eq!((registered(&bench), bench.nodes[&10].count(|e| *e == MemberEvent::Unanswered)), (1, 1));
    assert_eq!(bench.nodes[&10].member.key_servers().place(), 1);

    bench.log.clear();
    bench.run(secs(3485));
    assert_eq!(registered(&bench), 2, "again, before the keys run out");
    assert!(bench.log.iter().all(|p| p.to != dead), "it stays with the one that works");

    // Both are away now.
    bench.rekey(RekeyReason::Operator, &[]);
    bench.run(secs(2));
    bench.member(10, |m, ctx| m.start(ctx));
    let mut asked = Vec::new();
    bench.run_through(secs(1500), &mut |p| {
        asked.push(p.to);
        Vec::new()
    });
    asked.dedup();
    assert!(asked.len() >= 6 && asked[0] == alive, "{asked:?}");
    assert_eq!(bench.nodes[&10].flushed, 0);
    bench.run(secs(400));
    assert_eq!(registered(&bench), 3);
}

/// What one key server refuses another may grant.
#[test]
fn a_refusal_sends_a_member_to_the_next_key_server() {
    let setup = Setup::default();
    let mut bench = Bench::new(setup);
    let mut listed = settings(setup, 10);
    let one = KeyServer { address: host(false, 1), identity: None };
    listed.key_servers = KeyServers::new(vec![one.clone(), KeyServer { address: host(false, 2), identity: None }]);
    listed.group = "77".parse().unwrap();
    bench.add_with(10, listed);
    bench.settle();
    assert_eq!(bench.nodes[&10].count(|e| matches!(e, MemberEvent::Refused(_))), 1);
    assert_eq!(bench.server.counters().closed, 1, "it has said goodbye");
    bench.run(secs(3));
    assert_eq!(bench.log.last().unwrap().to, host(false, 2));
}

/// The data plane is short of IVs: the member registers anew although its keys are good (RFC 6407 section 5.6.4.3), and gets
/// other sender IDs.
#[test]
fn a_member_short_of_ivs_gets_new_sender_ids() {
    let mut bench = Bench::new(Setup::default());
    bench.add(10);
    bench.run(secs(100));
    bench.member(10, |m, ctx| m.reregister(ctx));
    bench.run(secs(10));
    let node = &bench.nodes[&10];
    assert_eq!(node.count(|e| *e == MemberEvent::Registered), 2);
    let ids: Vec<u32> = node.updates.iter().flat_map(|u| u.sender_ids.clone().unwrap().ids).collect();
    assert_eq!(ids, [0, 1, 2, 3]);
    assert_eq!(node.flushed, 0);
}
