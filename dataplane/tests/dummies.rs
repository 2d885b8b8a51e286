//! Dummy packets: how many, how they look, and that nobody takes them for anything else.
#![allow(clippy::unwrap_used)]

mod support;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::num::{NonZeroU16, NonZeroU32};
use std::time::Duration;

use dataplane::packet::{Headers, protocol};
use dataplane::{DropReason, Dummies, FlowPadding, Sizes};
use keyferry_model::policy::{AddressPreservation, EspMode, SaDirection, SequenceNumbers, TrafficPolicy};
use keyferry_model::tunnel::Tunnel;
use keyferry_model::update::NewSa;
use support::*;

const GROUPS: [&str; 2] = ["239.192.0.1", "ff15::1"];
const OWN: [&str; 2] = ["10.0.0.1", "fd00::1"];
const MTU: u32 = 1_400;

fn dummies(rate: u32) -> Dummies {
    Dummies::new(NonZeroU32::new(rate).unwrap())
}

/// A member with an address, one SA and a way to pad.
fn member(policy: &TrafficPolicy, padding: FlowPadding) -> Member {
    let mut member = Member::new(1);
    let local = OWN[usize::from(policy.destination.address.is_ipv6())].parse().ok();
    member.sad.set_tunnel(Tunnel { local, remote: None });
    member.sad.set_sizes(Sizes { padding, ..Sizes::default() });
    member.sad.apply(registration(vec![new_sa(0x1001, policy, 7)], ids(&[1])), at(0)).unwrap();
    member.sad.snapshot().set_link_mtu(MTU);
    member
}

/// The dummies that are sent at a time, in milliseconds.
fn fill(dummies: &mut Dummies, member: &mut Member, at: u64) -> Vec<Vec<u8>> {
    let mut sent = Vec::new();
    dummies.fill(&member.sad.snapshot(), &mut member.ivs, Duration::from_millis(at), |burst| {
        sent.extend(burst.iter().map(|frame| frame.packet().to_vec()));
    });
    sent
}

#[test]
fn silence_is_filled_at_the_rate() {
    let policy = policy(GCM, EspMode::Tunnel, GROUPS[0]);
    let (mut member, mut dummies) = (member(&policy, FlowPadding::None), dummies(100));
    assert_eq!(dummies.deadline(), None);
    let mut times = Vec::new();
    for ms in 0..=1_000 {
        let sent = fill(&mut dummies, &mut member, ms).len();
        assert!(sent <= 1);
        times.extend((sent == 1).then_some(ms));
    }
    assert!(times.iter().copied().eq((10..=1_000).step_by(10)), "{times:?}");
    assert_eq!(dummies.deadline(), Some(Duration::from_millis(1_010)));
    assert_eq!(member.sad.status().sas[0].dummies_sent, 100);
    assert_eq!(member.sad.status().sas[0].packets_sealed, 0, "they are no real packets");
    // After a long pause not all is made up for.
    assert_eq!(fill(&mut dummies, &mut member, 60_000).len(), 64);
}

#[test]
fn none_is_made_by_an_sa_that_was_taken_away_in_between() {
    let policy = policy(GCM, EspMode::Tunnel, GROUPS[0]);
    let (mut member, mut dummies) = (member(&policy, FlowPadding::None), dummies(100));
    assert!(fill(&mut dummies, &mut member, 0).is_empty());
    assert_eq!(fill(&mut dummies, &mut member, 10).len(), 1);
    let held = member.sad.snapshot();
    member.sad.flush();
    dummies.fill(&held, &mut member.ivs, Duration::from_millis(20), |_| panic!("its keys are to be used no more"));
}

#[test]
fn real_packets_take_the_place_of_dummies() {
    let policy = policy(GCM, EspMode::Tunnel, GROUPS[0]);
    for (every, expected) in [(20, 50), (40, 75), (10, 0), (5, 0)] {
        let (mut member, mut dummies) = (member(&policy, FlowPadding::None), dummies(100));
        fill(&mut dummies, &mut member, 0);
        let mut sent = 0;
        for ms in 1..=1_000 {
            if ms % every == 0 {
                member.seal(&udp(1, GROUPS[0], b"real")).unwrap();
            }
            sent += fill(&mut dummies, &mut member, ms).len();
        }
        assert_eq!(sent, expected, "a packet every {every} ms");
    }
    // Many at once do not excuse the silence behind them.
    let (mut member, mut dummies) = (member(&policy, FlowPadding::None), dummies(100));
    fill(&mut dummies, &mut member, 0);
    for _ in 0..1_000 {
        member.seal(&udp(1, GROUPS[0], b"real")).unwrap();
    }
    let sent: usize = (1..=1_000).map(|ms| fill(&mut dummies, &mut member, ms).len()).sum();
    assert_eq!(sent, 99);
}

#[test]
fn receivers_drop_them_without_another_trace() {
    for transform in transforms() {
        for mode in MODES {
            for (group, own) in GROUPS.into_iter().zip(OWN) {
                let mut policy = policy(transform, mode, group);
                (policy.sequence, policy.replay_window) = (SequenceNumbers::Sequential, 64);
                let (mut alice, mut dummies) = (member(&policy, FlowPadding::None), dummies(100));
                let bob = Member::with(0x1001, &policy, 2);
                fill(&mut dummies, &mut alice, 0);
                let mut numbers = BTreeSet::new();
                let mut ms = 0;
                for _ in 0..20 {
                    // A real packet, of the last round, takes the place of one.
                    ms += 20;
                    let sent = fill(&mut dummies, &mut alice, ms);
                    let headers = Headers::parse(&sent[0]).unwrap();
                    assert_eq!((headers.source, headers.destination), (own.parse().unwrap(), group.parse().unwrap()));
                    assert_eq!((headers.upper, headers.total), (protocol::ESP, sent[0].len()));
                    assert_eq!(bob.open(&sent[0]), Err(DropReason::InDummy), "{transform:?} {mode:?}");
                    let real = alice.seal(&udp(1, group, b"real")).unwrap();
                    assert!(bob.open(&real).is_ok());
                    for packet in [&sent[0], &real] {
                        let at = esp_at(packet);
                        let iv = transform.is_counter_mode().then(|| packet[at + 8..at + 16].to_vec());
                        assert!(numbers.insert((packet[at..at + 8].to_vec(), iv)), "a number twice");
                    }
                }
                let status = bob.sad.status();
                assert_eq!((status.sas[0].packets_opened, status.drops["InDummy"]), (20, 20));
                assert_eq!(status.drops.values().sum::<u64>(), 20);
            }
        }
    }
}

#[test]
fn they_have_the_lengths_that_packets_have() {
    for transform in transforms() {
        for group in GROUPS {
            let policy = policy(transform, EspMode::Tunnel, group);
            for (padding, kinds) in [
                (FlowPadding::Mtu, 1..=1),
                (FlowPadding::Step(NonZeroU16::new(256).unwrap()), 5..=6),
                (FlowPadding::Lengths([300, 700].into()), 3..=3),
                (FlowPadding::None, 30..=200),
            ] {
                let (mut member, mut dummies) = (member(&policy, padding.clone()), dummies(100));
                fill(&mut dummies, &mut member, 0);
                let sent = (1..=200).flat_map(|n| fill(&mut dummies, &mut member, n * 10));
                let made: BTreeSet<usize> = sent.map(|packet| packet.len()).collect();
                assert!(kinds.contains(&made.len()), "{transform:?} {padding:?} {made:?}");
                assert!(made.iter().all(|len| *len <= MTU as usize));
                if padding != FlowPadding::None {
                    let mut frame = dataplane::Frame::new(2_000);
                    for len in (60..1_200).step_by(7) {
                        let plain = udp(1, group, &vec![1; len - 48]);
                        frame.space()[..plain.len()].copy_from_slice(&plain);
                        frame.filled(plain.len());
                        member.sad.snapshot().seal(&mut frame, &mut member.ivs).unwrap();
                        assert!(made.contains(&frame.packet().len()), "{transform:?} {padding:?} {made:?}");
                    }
                }
            }
        }
    }
}

#[test]
fn there_are_none_where_nothing_may_be_sent_or_no_end_is_known() {
    let line = policy(GCM, EspMode::Tunnel, GROUPS[0]);
    let none = |member: &mut Member| {
        let mut dummies = dummies(100);
        assert!((0..100).all(|n| fill(&mut dummies, member, n * 10).is_empty()));
    };
    none(&mut Member::new(1));
    // No sender ID, a receiver, an SA that was flushed.
    let mut silent = Member::new(1);
    silent.sad.set_tunnel(Tunnel { local: OWN[0].parse().ok(), remote: None });
    silent.sad.apply(registration(vec![new_sa(0x1001, &line, 7)], None), at(0)).unwrap();
    none(&mut silent);
    let mut receiver = Member::new(1);
    let sa = NewSa { direction: SaDirection::ReceiverOnly, ..new_sa(0x1001, &line, 7) };
    receiver.sad.apply(registration(vec![sa], ids(&[1])), at(0)).unwrap();
    none(&mut receiver);
    let mut flushed = member(&line, FlowPadding::None);
    flushed.sad.flush();
    none(&mut flushed);
    // A network of receivers, and no address of our own in the group's IP version.
    let mut wide = line.clone();
    wide.destination = side("239.192.0.0", 16);
    none(&mut member(&wide, FlowPadding::None));
    let mut foreign = Member::new(1);
    foreign.sad.set_tunnel(Tunnel { local: OWN[1].parse().ok(), remote: None });
    foreign.sad.apply(registration(vec![new_sa(0x1001, &line, 7)], ids(&[1])), at(0)).unwrap();
    none(&mut foreign);
}

/// Where addresses are not preserved, dummies go where all packets go; where there is one sender, they are that one's.
#[test]
fn they_have_the_ends_that_packets_have() {
    let mut line = policy(GCM, EspMode::Tunnel, GROUPS[0]);
    line.source = side("10.0.0.77", 32);
    for (preservation, expected) in [
        (AddressPreservation::Both, ["10.0.0.77", GROUPS[0]]),
        (AddressPreservation::Source, ["10.0.0.77", "239.255.0.1"]),
        (AddressPreservation::Destination, [OWN[0], GROUPS[0]]),
        (AddressPreservation::None, [OWN[0], "239.255.0.1"]),
    ] {
        line.preservation = preservation;
        let mut member = Member::new(1);
        member.sad.set_tunnel(Tunnel { local: OWN[0].parse().ok(), remote: "239.255.0.1".parse().ok() });
        member.sad.apply(registration(vec![new_sa(0x1001, &line, 7)], ids(&[1])), at(0)).unwrap();
        let mut dummies = dummies(100);
        fill(&mut dummies, &mut member, 0);
        let sent = fill(&mut dummies, &mut member, 10).remove(0);
        let real = member.seal(&udp(77, GROUPS[0], b"real")).unwrap();
        for packet in [&sent, &real] {
            let headers = Headers::parse(packet).unwrap();
            assert_eq!([headers.source, headers.destination], expected.map(|ip| ip.parse::<IpAddr>().unwrap()));
        }
    }
}
