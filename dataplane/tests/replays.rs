//! Replays in groups of many senders: whose window a packet counts in, how many there are, and what becomes of those for whom there
//! is none left.
#![allow(clippy::unwrap_used)]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use dataplane::{BURST, DropReason, Frame, WINDOWS_OCTETS};
use keyferry_model::policy::{AddressPreservation, EspMode, EspTransform, SequenceNumbers, TrafficPolicy};
use keyferry_model::tunnel::Tunnel;
use proptest::prelude::*;
use support::*;

const GROUP: &str = "239.192.0.1";

fn protected(transform: EspTransform, mode: EspMode, window: u32) -> TrafficPolicy {
    TrafficPolicy { sequence: SequenceNumbers::Sequential, replay_window: window, ..policy(transform, mode, GROUP) }
}

/// A packet from a host of 10.0.0.0/8.
fn from(host: u32, number: u64) -> Vec<u8> {
    let mut packet = numbered(0, GROUP, number);
    packet[12..16].copy_from_slice(&(10 << 24 | host).to_be_bytes());
    finish4(&mut packet);
    packet
}

fn windows(member: &Member) -> usize {
    member.sad.status().sas[0].replay_senders.unwrap()
}

/// A fleet that shares keys of CBC, each site with hosts of its own.
#[test]
fn tens_of_thousands_of_sources_have_windows_of_their_own() {
    for mode in MODES {
        let policy = protected(CBC, mode, 1_024);
        let (mut alice, bob) = (Member::with(0x1001, &policy, 1), Member::with(0x1001, &policy, 2));
        let hosts: Vec<u32> = (0..20_000).map(|n| n * 3).collect();
        let packets: Vec<Vec<u8>> = hosts.iter().map(|host| alice.seal(&from(*host, 1)).unwrap()).collect();
        assert!(packets.iter().all(|packet| bob.open(packet).is_ok()));
        assert_eq!(windows(&bob), hosts.len());
        assert!(packets.iter().all(|packet| bob.open(packet) == Err(DropReason::InStateSeqError)));
        assert_eq!(bob.drops(DropReason::InTooManySenders), 0);
    }
}

/// Behind a member there may be a whole network; somebody in it may make up addresses.
#[test]
fn a_member_has_few_windows_however_many_hosts_are_behind_it() {
    let policy = protected(GCM, EspMode::Tunnel, 64);
    let (mut alice, bob) = (Member::with(0x1001, &policy, 1), Member::with(0x1001, &policy, 2));
    let packets: Vec<Vec<u8>> = (0..5_000).map(|host| alice.seal(&from(host, 1)).unwrap()).collect();
    assert!(packets.iter().all(|packet| bob.open(packet).is_ok()));
    assert_eq!(windows(&bob), 24);
    assert!(packets.iter().all(|packet| bob.open(packet) == Err(DropReason::InStateSeqError)));
}

/// Nobody outside sees which host a packet came from, and all take one way.
#[test]
fn a_gateway_with_an_address_of_its_own_has_one_window() {
    let policy = TrafficPolicy { preservation: AddressPreservation::None, ..protected(GCM, EspMode::Tunnel, 64) };
    let gateway = |own: &str, id| {
        let mut member = Member::new(u64::from(id));
        let tunnel = Tunnel { local: own.parse().ok(), remote: "239.255.0.1".parse().ok() };
        member.sad.set_tunnel(tunnel);
        member.sad.apply(registration(vec![new_sa(0x1001, &policy, 7)], ids(&[id])), at(0)).unwrap();
        member
    };
    let (mut alice, bob) = (gateway("192.0.2.1", 1), gateway("192.0.2.2", 2));
    let mut before = None;
    for host in 0..1_000 {
        let sealed = alice.seal(&from(host, 1)).unwrap();
        assert!(bob.open(&sealed).is_ok());
        assert_eq!(bob.open(&sealed), Err(DropReason::InStateSeqError));
        if let Some(mut replayed) = before.replace(sealed) {
            replayed[12..16].copy_from_slice(&host.to_be_bytes());
            finish4(&mut replayed);
            assert_eq!(bob.open(&replayed), Err(DropReason::InStateSeqError), "whatever its outer source is");
        }
    }
    assert_eq!(windows(&bob), 1);
}

/// Hosts have multicast trees of their own: what one has sent comes when another's is thousands of numbers ahead.
#[test]
fn hosts_behind_a_member_may_be_heard_at_different_times() {
    for transform in [GCM, CBC] {
        let policy = protected(transform, EspMode::Tunnel, 64);
        let (mut alice, bob) = (Member::with(0x1001, &policy, 1), Member::with(0x1001, &policy, 2));
        let packets: Vec<Vec<u8>> = (0..2_000).map(|n| alice.seal(&from(1 + n % 2, u64::from(n))).unwrap()).collect();
        let (slow, fast): (Vec<_>, Vec<_>) = packets.iter().enumerate().partition(|(n, _)| n % 2 == 0);
        for (n, packet) in fast.into_iter().chain(slow) {
            assert!(bob.open(packet).is_ok(), "{n}");
        }
        assert!(packets.iter().all(|packet| bob.open(packet) == Err(DropReason::InStateSeqError)));
    }
}

/// IDs one after the other, and IDs side by side, each with numbers from one, as encryption modules have them.
#[test]
fn a_member_may_have_several_sender_ids() {
    for mode in MODES {
        let policy = protected(GCM, mode, 64);
        let bob = Member::with(0x1001, &policy, 2);
        let mut alice = Member::with(0x1001, &policy, 1);
        let mut first: Vec<Vec<u8>> = (0..100).map(|n| alice.seal(&from(1, n)).unwrap()).collect();
        alice.sad.apply(registration(vec![new_sa(0x1001, &policy, 7)], ids(&[5, 6])), at(10)).unwrap();
        first.extend((0..100).map(|n| alice.seal(&from(1, n)).unwrap()));
        let mut module = Member::with(0x1001, &policy, 9);
        let second: Vec<Vec<u8>> = (0..200).map(|n| module.seal(&from(1, n)).unwrap()).collect();
        for (one, other) in first.iter().zip(&second) {
            assert!(bob.open(one).is_ok() && bob.open(other).is_ok());
        }
        for packet in first.iter().chain(&second) {
            assert_eq!(bob.open(packet), Err(DropReason::InStateSeqError));
        }
        assert_eq!(windows(&bob), 3);
    }
}

/// It has forgotten its numbers, and comes back under a new ID: all that its hosts send is heard, and nothing of before.
#[test]
fn a_restart_is_no_replay_and_makes_none_possible() {
    for mode in MODES {
        let policy = protected(GCM, mode, 1_024);
        let bob = Member::with(0x1001, &policy, 2);
        let mut seen = Vec::new();
        for id in 10..15 {
            let mut alice = Member::with(0x1001, &policy, id);
            let packets: Vec<Vec<u8>> = (0..300).map(|n| alice.seal(&from(n % 50, 1)).unwrap()).collect();
            assert!(packets.iter().all(|packet| bob.open(packet).is_ok()));
            seen.extend(packets);
            assert!(seen.iter().all(|packet| bob.open(packet) == Err(DropReason::InStateSeqError)));
        }
    }
}

/// Without sender IDs nothing in transport mode says who a packet is from. Each window still takes an attacker a packet, and
/// there are many.
#[test]
fn replays_from_made_up_sources_do_not_soon_keep_senders_out() {
    let policy = protected(CBC, EspMode::Transport, 64);
    let (mut alice, bob) = (Member::with(0x1001, &policy, 1), Member::with(0x1001, &policy, 2));
    let sealed = alice.seal(&from(1, 1)).unwrap();
    assert!(bob.open(&sealed).is_ok());
    for host in 100..5_100u32 {
        let mut moved = sealed.clone();
        moved[12..16].copy_from_slice(&(10 << 24 | host).to_be_bytes());
        finish4(&mut moved);
        let _ = bob.open(&moved);
        assert_eq!(bob.open(&moved), Err(DropReason::InStateSeqError), "not twice from one");
    }
    assert!(windows(&bob) <= 5_001, "a packet makes one window");
    assert_eq!(bob.open(&sealed), Err(DropReason::InStateSeqError));
    let newcomers = (2..50).map(|host| alice.seal(&from(host, 1)).unwrap());
    assert!(newcomers.map(|packet| bob.open(&packet)).all(|opened| opened.is_ok()));
}

#[test]
fn when_windows_run_out_further_senders_wait_for_new_keys() {
    let policy = protected(CBC, EspMode::Tunnel, 4_096);
    let (mut alice, mut bob) = (Member::with(0x1001, &policy, 1), Member::with(0x1001, &policy, 2));
    let mut first = None;
    for host in 0.. {
        let sealed = alice.seal(&from(host, 1)).unwrap();
        match bob.open(&sealed) {
            Ok(_) => first = first.or(Some(sealed)),
            Err(reason) => {
                assert_eq!(reason, DropReason::InTooManySenders);
                break;
            }
        }
    }
    let most = windows(&bob);
    // Half a KiB for what was seen, and what belongs to it.
    assert!((WINDOWS_OCTETS / 1_024..WINDOWS_OCTETS / 512).contains(&most), "{most}");
    assert_eq!(bob.drops(DropReason::InTooManySenders), 1);
    // Nothing that was seen is forgotten for it, and who was heard still is.
    assert_eq!(bob.open(&first.unwrap()), Err(DropReason::InStateSeqError));
    assert!(bob.open(&alice.seal(&from(1, 2)).unwrap()).is_ok());
    bob.sad.expire(at(10));
    assert_eq!(windows(&bob), most);

    let update = || rekey(vec![new_sa(0x1002, &policy, 8)], &[0x1001], 0, 0);
    alice.sad.apply(update(), at(20)).unwrap();
    bob.sad.apply(update(), at(20)).unwrap();
    assert_eq!(windows(&bob), 0);
    assert!(bob.open(&alice.seal(&from(1 << 22, 1)).unwrap()).is_ok());
}

/// Two threads are given the same packets, of many senders, in bursts: between them each packet opens once.
#[test]
fn two_threads_open_a_packet_once() {
    for (transform, mode) in [(GCM, EspMode::Tunnel), (GCM, EspMode::Transport), (CBC, EspMode::Tunnel)] {
        let policy = protected(transform, mode, 4_096);
        let (mut alice, bob) = (Member::with(0x1001, &policy, 1), Member::with(0x1001, &policy, 2));
        let packets: Vec<Vec<u8>> = (0..4_000).map(|n| alice.seal(&from(n % 150, 1)).unwrap()).collect();
        let opened: Vec<AtomicU32> = packets.iter().map(|_| AtomicU32::new(0)).collect();
        let snapshot = bob.sad.snapshot();
        let open = |backwards: bool| {
            let mut bursts: Vec<_> = packets.chunks(BURST).zip(opened.chunks(BURST)).collect();
            if backwards {
                bursts.reverse();
            }
            let mut fates = Vec::new();
            for (packets, opened) in bursts {
                let mut frames: Vec<Frame> = packets.iter().map(|packet| Frame::holding(packet)).collect();
                snapshot.open_burst(&mut frames, &mut fates);
                for (fate, opened) in fates.iter().zip(opened) {
                    assert!(fate.is_ok() || *fate == Err(DropReason::InStateSeqError));
                    opened.fetch_add(u32::from(fate.is_ok()), Ordering::Relaxed);
                }
            }
        };
        thread::scope(|scope| {
            for backwards in [false, false, true] {
                scope.spawn(move || open(backwards));
            }
        });
        assert!(opened.iter().all(|opened| opened.load(Ordering::Relaxed) == 1), "{transform:?}, {mode:?}");
    }
}

proptest! {
    /// Three members send for several hosts each. In whatever order and however often their packets come, each is taken at most once,
    /// and none is refused that was not seen and is within the window behind the highest of its member's numbers.
    #[test]
    fn each_number_of_each_sender_is_accepted_at_most_once(
        (transform, mode) in (prop_oneof![Just(GCM), Just(CBC)], prop_oneof![Just(EspMode::Tunnel), Just(EspMode::Transport)]),
        order in proptest::collection::vec((0..3usize, 0..150usize), 1..400),
    ) {
        let policy = protected(transform, mode, 64);
        let bob = Member::with(0x1001, &policy, 9);
        let mut packets: BTreeMap<(usize, usize), Vec<u8>> = BTreeMap::new();
        for member in 0..3 {
            let mut alice = Member::with(0x1001, &policy, member);
            for number in 0..150 {
                let host = member * 10 + number % 4;
                packets.insert((member as usize, number as usize), alice.seal(&from(host, 1)).unwrap());
            }
        }
        let (mut taken, mut tops) = (BTreeSet::new(), [0; 3]);
        for (member, number) in order {
            let seen = taken.contains(&(member, number));
            let is_near = number + 64 > tops[member];
            match bob.open(&packets[&(member, number)]) {
                Ok(_) => {
                    prop_assert!(!seen);
                    taken.insert((member, number));
                    tops[member] = tops[member].max(number);
                }
                Err(reason) => prop_assert!((seen || !is_near) && reason == DropReason::InStateSeqError),
            }
        }
    }
}
