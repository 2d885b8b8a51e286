//! Genuine messages in the wrong place, and far too long ones, at every state of both roles.
#![allow(clippy::unwrap_used)]

mod support;

use keyferry_model::plan::RekeyReason;
use keyferry_model::policy::AckType;
use keyferry_model::settings::{MemberSettings, Phase1Exchange, Phase1Settings};
use keyferry_model::update::MemberEvent;
use support::{Bench, GROUP, Packet, Setup, host, secs};

/// The most octets of a UDP datagram, IPv4's headers taken off.
const LONGEST: usize = 65_507;
/// GROUPKEY-PUSH, and its acknowledgement.
const PUSH: u8 = 33;
const PUSH_ACK: u8 = 35;
/// Octets of an ISAKMP header.
const HEADER: usize = 28;
/// Payload type.
const VENDOR_ID: u8 = 13;

/// What goes wrong in front of each message.
type Abuse<'a> = &'a dyn Fn(&Packet, usize, &[Packet]) -> Vec<Vec<u8>>;

fn opens(packet: &Packet) -> bool {
    packet.bytes[8..16] == [0; 8]
}

/// Two members register one after the other, are rekeyed, and one is evicted. In front of each message, its receiver gets
/// what `abuse` makes of it, of its number and of all messages before it. Returns all genuine messages.
fn run(setup: Setup, abuse: Abuse<'_>) -> (Bench, Vec<Packet>) {
    let mut bench = Bench::new(setup);
    let mut genuine: Vec<Packet> = Vec::new();
    let mut net = |packet: &Packet| {
        let mut all: Vec<Packet> = Vec::new();
        // Whoever alters NAT-D payloads, which nothing protects, gets keepalives of one octet.
        if packet.bytes.len() < HEADER {
            return vec![packet.clone()];
        }
        // Whoever sends a copy of a first message opens an exchange, as anybody may.
        if !opens(packet) {
            let bytes = abuse(packet, genuine.len(), &genuine);
            all.extend(bytes.into_iter().map(|bytes| Packet { bytes, ..packet.clone() }));
        }
        genuine.push(packet.clone());
        all.push(packet.clone());
        all
    };
    for n in [10, 11] {
        bench.add(n);
        bench.run_through(secs(10), &mut net);
    }
    for (reason, evict) in [(RekeyReason::Operator, [].as_slice()), (RekeyReason::Eviction, &[11])] {
        bench.rekey(reason, evict);
        bench.run_through(secs(10), &mut net);
    }
    (bench, genuine)
}

/// It ended as if nothing had happened.
fn undisturbed(bench: &Bench) {
    for n in [10, 11] {
        let node = &bench.nodes[&n];
        assert_eq!(node.count(|e| *e == MemberEvent::Registered), 1, "{:?}", node.events);
        assert_eq!(node.count(|e| matches!(e, MemberEvent::Refused(_) | MemberEvent::Unanswered)), 0);
    }
    assert_eq!(bench.nodes[&10].count(|e| matches!(e, MemberEvent::Rekeyed { .. })), 3);
    assert_eq!(bench.nodes[&10].member.status().last_counter, 1);
    let counters = bench.server.counters();
    assert_eq!((counters.registered, counters.refused, counters.acknowledged), (2, 0, 3));
    let views = bench.model.group(GROUP).unwrap().rekey_views();
    assert!(views.iter().all(|v| v.missing.is_empty()), "{views:?}");
}

fn setups() -> [Setup; 2] {
    let lkh = Some(AckType::Lkh(keyferry_crypto::Hash::Sha512));
    [Setup::default(), Setup { v6: true, ack: lkh, ..Setup::default() }]
}

fn with_length(mut bytes: Vec<u8>) -> Vec<u8> {
    let len = u32::try_from(bytes.len()).unwrap();
    bytes[24..28].copy_from_slice(&len.to_be_bytes());
    bytes
}

/// All that came before comes once more, whoever it was for.
#[test]
fn replays_at_every_state_change_nothing() {
    for setup in setups() {
        let (bench, _) =
            run(setup, &|_, _, before| before.iter().filter(|p| !opens(p)).map(|p| p.bytes.clone()).collect());
        undisturbed(&bench);
    }
}

/// Messages of other exchanges and sessions, their cookies and message IDs changed to those of the one under way.
#[test]
fn messages_of_other_sessions_change_nothing() {
    for setup in setups() {
        let (bench, _) = run(setup, &|packet, _, before| {
            let moved = before.iter().flat_map(|old| {
                // With the exchange type of either.
                [old.bytes[18], packet.bytes[18]].map(|exchange| {
                    let mut bytes = old.bytes.clone();
                    bytes[..16].copy_from_slice(&packet.bytes[..16]);
                    bytes[18] = exchange;
                    bytes[20..24].copy_from_slice(&packet.bytes[20..24]);
                    bytes
                })
            });
            // The same message again is a repeat, which is answered: see the test of replays.
            moved.filter(|bytes| *bytes != packet.bytes).collect()
        });
        undisturbed(&bench);
    }
}

/// What is going to be said later comes early. Pushes apart: of two genuine ones the later makes the earlier obsolete.
#[test]
fn messages_that_come_too_early_change_nothing() {
    for setup in setups() {
        let (bench, script) = run(setup, &|_, _, _| Vec::new());
        undisturbed(&bench);
        let (bench, _) = run(setup, &|packet, number, _| {
            let later = script.iter().skip(number + 1).filter(|p| p.to == packet.to);
            let later = later.filter(|p| !opens(p) && p.bytes[18] != PUSH);
            later.map(|p| p.bytes.clone()).collect()
        });
        undisturbed(&bench);
    }
}

/// As long as a datagram can be: the message with something behind it, many small payloads, ciphertext of nothing.
#[test]
fn the_longest_messages_change_nothing() {
    for setup in setups() {
        let (bench, _) = run(setup, &|packet, _, _| {
            let header = &packet.bytes[..28];
            let mut padded = packet.bytes.clone();
            padded.resize(LONGEST, 0);
            let undeclared = padded.clone();
            let mut many = header.to_vec();
            while many.len() + 4 <= LONGEST {
                // The same payload type after itself, without a body.
                many.extend([header[16], 0, 0, 4]);
            }
            let mut one = [header, &[0, 0, 0xff, 0xc3]].concat();
            one.resize(28 + 0xffc3, 0x5a);
            let mut clear = many.clone();
            clear[19] ^= 1;
            let mut encrypted = one.clone();
            encrypted[19] ^= 1;
            let mut aligned = packet.bytes.clone();
            aligned.resize(28 + (LONGEST - 28) / 16 * 16, 0xa5);
            let mut all: Vec<Vec<u8>> = [padded, many, one, clear, encrypted, aligned].map(with_length).into();
            all.push(undeclared);
            all
        });
        undisturbed(&bench);
    }
}

/// Somebody on the path sends an acknowledgement on from the address of another member, ahead of the genuine one: it counts
/// for neither, and the genuine one for its member.
#[test]
fn an_acknowledgement_from_another_members_address_counts_for_neither() {
    let mut bench = Bench::new(Setup::default());
    for n in [10, 11] {
        bench.add(n);
        bench.run(secs(10));
    }
    bench.rekey(RekeyReason::Operator, &[]);
    let mut net = |packet: &Packet| match packet.bytes[18] {
        PUSH_ACK if packet.from == host(false, 11) => {
            vec![Packet { from: host(false, 10), ..packet.clone() }, packet.clone()]
        }
        // The other member's own never arrives.
        PUSH_ACK => Vec::new(),
        _ => vec![packet.clone()],
    };
    bench.run_through(secs(10), &mut net);
    let views = bench.model.group(GROUP).unwrap().rekey_views();
    let missing: Vec<String> = views.last().unwrap().missing.iter().map(ToString::to_string).collect();
    assert_eq!(missing, [host(false, 10).ip().to_string()]);
    let counters = bench.server.counters();
    assert_eq!((counters.acknowledged, counters.ack_failed), (1, 1));
}

/// First messages are kept, so that long ones would fill the memory: padded by vendor IDs up to what a datagram holds, they
/// draw no answer and leave nothing behind. The genuine one is taken even so.
#[test]
fn long_first_messages_are_not_kept() {
    for aggressive in [false, true] {
        let setup = Setup::default();
        let mut bench = Bench::with_policy(setup, support::policy(setup), |config| config.aggressive = aggressive);
        let exchange = if aggressive { Phase1Exchange::Aggressive } else { Phase1Exchange::Main };
        let own = support::settings(setup, 10);
        bench.add_with(10, MemberSettings { phase1: Phase1Settings { exchange, ..own.phase1.clone() }, ..own });
        let first = bench.wire[0].clone();
        let mut long = first.bytes.clone();
        // Behind the SA payload, which comes first.
        let behind = 28 + usize::from(u16::from_be_bytes([long[30], long[31]]));
        let vendor = [&[long[28], 0, 0xf0, 0x00], vec![0x5a; 0xeffc].as_slice()].concat();
        long[28] = VENDOR_ID;
        long.splice(behind..behind, vendor);
        bench.deliver(&Packet { bytes: with_length(long), ..first });
        assert!(bench.wire.iter().all(|p| p.to != host(false, 10)), "no answer");
        assert_eq!((bench.server.deadline(), bench.server.counters().unauthenticated), (None, 1));
        bench.run(secs(10));
        assert_eq!(bench.nodes[&10].count(|e| *e == MemberEvent::Registered), 1);
    }
}
