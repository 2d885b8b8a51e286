//! Lifetimes in octets: told in time, and never gone beyond.
#![allow(clippy::unwrap_used)]

mod support;

use std::num::NonZeroU32;
use std::time::Duration;

use dataplane::{DropReason, Dummies, Fate, Frame, Sealed};
use keyferry_model::policy::{AddressPreservation, EspMode, SequenceNumbers, TrafficPolicy};
use keyferry_model::tunnel::Tunnel;
use proptest::prelude::*;
use support::*;

const GROUP: &str = "239.192.0.1";

fn limited(octets: u64) -> TrafficPolicy {
    TrafficPolicy { lifetime_octets: Some(octets), ..policy(GCM, EspMode::Tunnel, GROUP) }
}

/// Octets that the cipher works on for a packet of this length: padded to four, with the trailer.
fn covered(packet: &[u8]) -> u64 {
    (packet.len() + 2).next_multiple_of(4) as u64
}

fn used(member: &Member) -> u64 {
    member.sad.status().sas[0].lifetime_used.unwrap()
}

fn burst(member: &mut Member, packets: &[Vec<u8>]) -> Vec<Fate<Sealed>> {
    let mut frames: Vec<Frame> = packets.iter().map(|packet| Frame::holding(packet)).collect();
    let mut fates = Vec::new();
    member.sad.snapshot().seal_burst(&mut frames, &mut member.ivs, &mut fates);
    fates
}

#[test]
fn an_sa_asks_for_a_successor_in_time_and_stops_at_its_end() {
    let packet = udp(1, GROUP, &[7; 100]);
    let each = covered(&packet);
    let mut member = Member::with(1_000, &limited(16 * each), 1);
    for number in 1..=16 {
        assert!(member.seal(&packet).is_ok());
        assert_eq!((used(&member), member.sad.needs_rekey()), (number * each, number >= 14));
    }
    assert_eq!(member.seal(&packet), Err(DropReason::OutStateExpired));
    let status = member.sad.status();
    assert_eq!((status.drops["OutStateExpired"], status.sas[0].needs_rekey), (1, true));
    // The other limit is still there.
    assert_eq!(status.sas[0].lifetime_octets, Some(16 * each));
    member.sad.expire(at(3_600_000));
    assert_eq!(member.seal(&packet), Err(DropReason::OutNoPols));
}

#[test]
fn time_ends_an_sa_that_has_octets_left() {
    let mut member = Member::with(1_000, &limited(1 << 30), 1);
    member.sad.expire(at(3_599_999));
    assert!(member.seal(&udp(1, GROUP, b"x")).is_ok());
    member.sad.expire(at(3_600_000));
    assert_eq!(member.seal(&udp(1, GROUP, b"x")), Err(DropReason::OutNoPols));
}

/// Otherwise a member that may not send would use up the octets that it has to receive by.
#[test]
fn what_gets_no_number_uses_no_octets() {
    let packet = udp(2, GROUP, &[7; 100]);
    let each = covered(&packet);
    let mut member = Member::new(1);
    member.sad.apply(registration(vec![new_sa(1_000, &limited(4 * each), 7)], None), at(0)).unwrap();
    for sealed in burst(&mut member, &vec![packet.clone(); 10]) {
        assert_eq!(sealed, Err(DropReason::OutNoSenderId));
    }
    let mut dummies = Dummies::new(NonZeroU32::new(10).unwrap());
    for seconds in 0..10 {
        let send = |_: &[Frame]| panic!("without a number");
        dummies.fill(&member.sad.snapshot(), &mut member.ivs, Duration::from_secs(seconds), send);
    }
    assert_eq!(used(&member), 0);
    let mut peer = Member::with(1_000, &policy(GCM, EspMode::Tunnel, GROUP), 2);
    assert_eq!(member.open(&peer.seal(&packet).unwrap()).unwrap(), packet);
}

/// Both ways count together, and what is not authentic, or does not belong to the SA, does not count.
#[test]
fn what_is_opened_counts_and_what_is_forged_does_not() {
    let packet = udp(2, GROUP, &[7; 100]);
    let each = covered(&packet);
    let mut peer = Member::with(1_000, &policy(GCM, EspMode::Tunnel, GROUP), 2);
    let mut member = Member::with(1_000, &limited(10 * each), 1);
    for _ in 0..4 {
        member.seal(&packet).unwrap();
        let sealed = peer.seal(&packet).unwrap();
        assert_eq!(member.open(&sealed).unwrap(), packet);
        let mut forged = sealed.clone();
        *forged.last_mut().unwrap() ^= 1;
        for _ in 0..100 {
            assert_eq!(member.open(&forged), Err(DropReason::InStateProtoError));
        }
    }
    assert_eq!((used(&member), member.sad.needs_rekey()), (8 * each, false));
    for _ in 0..2 {
        member.open(&peer.seal(&packet).unwrap()).unwrap();
    }
    assert!(member.sad.needs_rekey(), "a member that only receives asks, too");
    assert_eq!(member.open(&peer.seal(&packet).unwrap()), Err(DropReason::InStateExpired));
    assert_eq!(member.seal(&packet), Err(DropReason::OutStateExpired));
    assert_eq!(member.sad.status().drops["InStateExpired"], 1);
}

/// Strangers who repeat what they have heard end no SA that has a window: not with packets whose sender only the inside tells,
/// and not with dummies, which nobody's window keeps out.
#[test]
fn what_is_repeated_does_not_count() {
    let policy = TrafficPolicy {
        sequence: SequenceNumbers::Sequential,
        replay_window: 64,
        preservation: AddressPreservation::None,
        ..limited(1 << 20)
    };
    let gateway = |id: u32, local: &str| {
        let mut gateway = Member::new(id.into());
        gateway.sad.set_tunnel(Tunnel { local: local.parse().ok(), remote: "239.255.0.1".parse().ok() });
        gateway.sad.apply(registration(vec![new_sa(1_000, &policy, 7)], ids(&[id])), at(0)).unwrap();
        gateway
    };
    let (mut peer, member) = (gateway(1, "192.0.2.1"), gateway(2, "192.0.2.2"));
    let packet = udp(1, GROUP, &[7; 100]);
    let sealed = peer.seal(&packet).unwrap();
    assert_eq!(member.open(&sealed).unwrap(), packet);
    (0..100).for_each(|_| assert_eq!(member.open(&sealed), Err(DropReason::InStateSeqError)));
    assert_eq!(used(&member), covered(&packet));

    let (mut dummies, mut sent) = (Dummies::new(NonZeroU32::MIN), Vec::new());
    for seconds in 0..2 {
        let take = |burst: &[Frame]| sent.extend(burst.iter().map(|frame| frame.packet().to_vec()));
        dummies.fill(&peer.sad.snapshot(), &mut peer.ivs, Duration::from_secs(seconds), take);
    }
    assert_eq!(sent.len(), 1);
    (0..100).for_each(|_| assert_eq!(member.open(&sent[0]), Err(DropReason::InDummy)));
    assert_eq!(used(&member), covered(&packet));
}

/// An authentic packet that is longer than what is left is refused as well.
#[test]
fn nothing_is_opened_beyond_the_end() {
    let (short, long) = (udp(2, GROUP, b"x"), udp(2, GROUP, &[7; 1_000]));
    let mut peer = Member::with(1_000, &policy(GCM, EspMode::Tunnel, GROUP), 2);
    let member = Member::with(1_000, &limited(covered(&long) + covered(&short)), 1);
    assert!(member.open(&peer.seal(&long).unwrap()).is_ok());
    assert_eq!(member.open(&peer.seal(&long).unwrap()), Err(DropReason::InStateExpired));
    assert!(member.open(&peer.seal(&short).unwrap()).is_ok());
}

#[test]
fn a_successor_takes_over_within_a_burst_and_before_its_time() {
    let packet = udp(1, GROUP, &[7; 100]);
    let policy = limited(3 * covered(&packet));
    let mut member = Member::with(1_000, &policy, 1);
    member.sad.apply(rekey(vec![new_sa(1_001, &policy, 8)], &[1_000], 30_000, 60_000), at(10)).unwrap();
    assert!(!member.sad.needs_rekey());
    let spis: Vec<_> = burst(&mut member, &vec![packet; 8]).into_iter().map(|fate| fate.map(|s| s.spi)).collect();
    let (old, new, end) = (Ok(1_000), Ok(1_001), Err(DropReason::OutStateExpired));
    assert_eq!(spis, [old, old, old, new, new, new, end, end]);
    assert!(member.sad.needs_rekey());
}

/// The same keys again, after an exclusion or by a registration, bring no octets back.
#[test]
fn used_octets_stay_used_when_an_sa_comes_back() {
    let packet = udp(1, GROUP, &[7; 100]);
    let policy = limited(2 * covered(&packet));
    let mut member = Member::with(1_000, &policy, 1);
    member.seal(&packet).unwrap();
    let again = || registration(vec![new_sa(1_000, &policy, 7)], ids(&[2]));
    member.sad.apply(again(), at(10)).unwrap();
    member.sad.flush();
    member.sad.apply(again(), at(20)).unwrap();
    assert!(member.seal(&packet).is_ok());
    assert_eq!(member.seal(&packet), Err(DropReason::OutStateExpired));
    member.sad.flush();
    member.sad.apply(again(), at(30)).unwrap();
    assert_eq!(member.seal(&packet), Err(DropReason::OutStateExpired));
}

proptest! {
    /// Whatever comes in whatever order, what was protected and opened under an SA is never more than its lifetime.
    #[test]
    fn no_more_octets_than_the_lifetime_pass(
        limit in 0u64..20_000,
        steps in proptest::collection::vec((any::<bool>(), 1usize..70, 0usize..600, any::<bool>()), 1..12),
    ) {
        let mut peer = Member::with(1_000, &policy(GCM, EspMode::Tunnel, GROUP), 2);
        let mut member = Member::with(1_000, &limited(limit), 1);
        let mut passed = 0;
        for (out, count, len, away) in steps {
            let packet = udp(1, GROUP, &vec![7; len]);
            let done = if out {
                burst(&mut member, &vec![packet.clone(); count]).into_iter().filter(Result::is_ok).count()
            } else {
                let packet = udp(2, GROUP, &vec![7; len]);
                (0..count).filter(|_| member.open(&peer.seal(&packet).unwrap()).is_ok()).count()
            };
            passed += done as u64 * covered(&packet);
            prop_assert!(passed <= limit);
            prop_assert!(done == count || passed + covered(&packet) > limit, "what fits passes");
            prop_assert_eq!(used(&member), passed);
            if away {
                member.sad.flush();
                member.sad.apply(registration(vec![new_sa(1_000, &limited(limit), 7)], ids(&[3])), at(1)).unwrap();
            }
        }
    }
}
