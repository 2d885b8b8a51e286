//! Messages in fragments: both roles against each other, and what somebody on the path may add.
#![allow(clippy::unwrap_used)]

mod support;

use gdoi::Phase1Options;
use keyferry_model::update::MemberEvent;
use support::{Bench, Packet, Setup, host, policy, secs, settings};

const FRAGMENT: u8 = 132;

/// A group whose policy is long: its keys do not fit into one packet.
fn long(setup: Setup) -> Bench {
    let mut long = policy(setup);
    let line = std::sync::Arc::clone(&long.traffic[0]);
    long.traffic = (0..30u8)
        .map(|n| {
            let mut line = (*line).clone();
            line.destination.address = format!("239.192.1.{n}").parse().unwrap();
            std::sync::Arc::new(line)
        })
        .collect();
    Bench::with_policy(setup, long, |c| c.fragment_size = 600)
}

fn registered(bench: &Bench) -> usize {
    bench.nodes[&10].count(|e| *e == MemberEvent::Registered)
}

fn is_fragment(p: &Packet) -> bool {
    p.bytes[16] == FRAGMENT
}

#[test]
fn a_long_policy_and_its_keys_come_in_fragments() {
    let mut bench = long(Setup::default());
    bench.add(10);
    bench.settle();
    assert_eq!(registered(&bench), 1);
    assert_eq!(bench.nodes[&10].updates[0].install.len(), 30);
    let cut: Vec<&Packet> = bench.log.iter().filter(|p| is_fragment(p)).collect();
    assert!(cut.len() >= 6, "{}", cut.len());
    assert!(cut.iter().all(|p| p.from == host(false, 1) && p.bytes.len() + 28 <= 600));
    assert!(bench.log.iter().all(|p| p.bytes.len() + 28 <= 600), "nothing is longer");
}

/// Each fragment is lost once, or comes twice, or late: repeats of the request bring the same fragments again.
#[test]
fn loss_and_disorder_are_made_up_for() {
    let mut bench = long(Setup::default());
    bench.add(10);
    let mut n = 0;
    let mut held: Option<Packet> = None;
    bench.run_through(secs(60), &mut |p| {
        if !is_fragment(p) {
            return vec![p.clone()];
        }
        n += 1;
        match n % 5 {
            0 => Vec::new(),
            1 => {
                let late = held.replace(p.clone());
                late.into_iter().collect()
            }
            2 => vec![p.clone(), p.clone()],
            _ => held.take().into_iter().chain([p.clone()]).collect(),
        }
    });
    assert_eq!(registered(&bench), 1);
}

/// For each true fragment somebody sends others, with other data, another number, or as the last one, from the same address.
#[test]
fn forged_fragments_do_not_keep_a_member_out() {
    for before in [true, false] {
        let mut bench = long(Setup::default());
        bench.add(10);
        bench.run_through(secs(60), &mut |p| {
            if !is_fragment(p) {
                return vec![p.clone()];
            }
            let change = |at: usize, to: u8| {
                let mut copy = p.clone();
                copy.bytes[at] ^= to;
                copy
            };
            let mut all = vec![change(60, 0xff), change(34, 0x40), change(32, 1)];
            all.insert(if before { 3 } else { 0 }, p.clone());
            all
        });
        assert_eq!(registered(&bench), 1, "{before}");
    }
}

/// Fragments that come when all is said: copies, garbage under the ID of the message, and the message itself.
#[test]
fn fragments_after_the_message_change_nothing() {
    let mut bench = long(Setup::default());
    bench.add(10);
    bench.settle();
    let (log, events) = (bench.log.clone(), bench.nodes[&10].events.clone());
    for p in log.iter().filter(|p| is_fragment(p)) {
        bench.deliver(p);
        let mut garbage = p.clone();
        *garbage.bytes.last_mut().unwrap() ^= 1;
        bench.deliver(&garbage);
    }
    assert_eq!((&bench.nodes[&10].events, bench.log.len()), (&events, log.len()));
    bench.member(10, |m, ctx| m.start(ctx));
    bench.settle();
    assert_eq!(registered(&bench), 2);
}

/// The other way: a member that is told to cut up so small that its own messages do not fit, were they that long. Both
/// announce, so a fragmented message of the member is taken by the key server, one of a stranger is not.
#[test]
fn a_key_server_takes_the_fragments_of_peers_it_knows_only() {
    let mut bench = Bench::new(Setup::default());
    bench.add(10);
    // Cuts every message of the member that is encrypted in two, as a peer may.
    let halves = |p: &Packet| -> Vec<Packet> {
        if p.from != host(false, 10) || p.bytes[19] & 1 == 0 {
            return vec![p.clone()];
        }
        let middle = p.bytes.len() / 2;
        let envelope = |number: u8, data: &[u8]| {
            let mut bytes = p.bytes[..16].to_vec();
            bytes.extend([FRAGMENT, 0x10, p.bytes[18], 0, 0, 0, 0, 0]);
            bytes.extend(u32::try_from(36 + data.len()).unwrap().to_be_bytes());
            bytes.extend([0, 0]);
            bytes.extend(u16::try_from(8 + data.len()).unwrap().to_be_bytes());
            bytes.extend([0, 1, number, number - 1]);
            bytes.extend_from_slice(data);
            Packet { bytes, ..p.clone() }
        };
        vec![envelope(2, &p.bytes[middle..]), envelope(1, &p.bytes[..middle])]
    };
    let mut cut = Vec::new();
    bench.settle_through(&mut |p| {
        let halves = halves(p);
        cut.extend(halves.clone());
        halves
    });
    assert_eq!(registered(&bench), 1);
    let cut: Vec<Packet> = cut.into_iter().filter(is_fragment).collect();
    assert_eq!(cut.len(), 8, "message 5, INITIAL-CONTACT, two of the registration");

    let before = *bench.server.counters();
    for p in &cut {
        let mut elsewhere = p.clone();
        elsewhere.from = "10.84.0.99:848".parse().unwrap();
        bench.deliver(&elsewhere);
        let mut unknown = p.clone();
        unknown.bytes[9] ^= 1;
        bench.deliver(&unknown);
    }
    let after = bench.server.counters();
    assert_eq!(after.unauthenticated - before.unauthenticated, 16);
    assert_eq!(bench.log.iter().filter(|p| p.to.ip().to_string() == "10.84.0.99").count(), 0);
}

/// Without the Vendor ID in the first message, in either direction, nothing is cut up.
#[test]
fn peers_that_announce_no_fragments_get_none() {
    for to_server in [true, false] {
        let mut bench = long(Setup::default());
        bench.add_with(10, settings(Setup::default(), 10));
        bench.member(10, |m, _| m.set_phase1(Phase1Options::default()));
        bench.settle_through(&mut |p| {
            let first = p.bytes[18] == 2 && p.bytes[16] == 1 && (p.to == host(false, 1)) == to_server;
            let mut p = p.clone();
            if first {
                let at = p.bytes.windows(4).position(|w| w == [0x40, 0x48, 0xb7, 0xd5]).unwrap();
                p.bytes[at] = 0;
            }
            vec![p]
        });
        // Where the member alone does not know, it refuses the fragments.
        assert_eq!(registered(&bench), usize::from(to_server));
        assert_eq!(bench.log.iter().any(is_fragment), !to_server);
    }
}
