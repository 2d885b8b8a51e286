//! Whole groups on virtual time: roll-over, eviction, nonces, replays, coming back.
#![allow(clippy::unwrap_used)]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use dataplane::{ApplyError, DropReason};
use keyferry_crypto::{Random, SeededRandom};
use keyferry_model::policy::{EspMode, SequenceNumbers, TrafficPolicy};
use keyferry_model::update::{GroupUpdate, Removal};
use proptest::prelude::*;
use support::*;

const GROUP: &str = "239.192.0.1";

fn protected(transform: keyferry_model::policy::EspTransform, window: u32) -> TrafficPolicy {
    let mut policy = policy(transform, EspMode::Tunnel, GROUP);
    (policy.sequence, policy.replay_window) = (SequenceNumbers::Sequential, window);
    policy
}

fn spi_of(packet: &[u8]) -> u32 {
    u32::from_be_bytes(packet[20..24].try_into().unwrap())
}

/// Three members send every 5 ms. Rekeys reach them with up to 300 ms of difference, packets take up to 200 ms and
/// overtake each other. Activation is 500 ms and deactivation 1,500 ms after an announcement arrives.
#[test]
fn roll_over_under_continuous_traffic_loses_nothing() {
    let policy = policy(GCM, EspMode::Tunnel, GROUP);
    let mut rng = SeededRandom::new(42);
    let mut members: Vec<Member> = (0..3).map(|n| Member::with(1_000, &policy, n)).collect();
    let mut flying: BTreeMap<(u64, u64), (usize, Vec<u8>)> = BTreeMap::new();
    let mut rekeys: BTreeMap<(u64, usize), u32> = BTreeMap::new();
    let (mut sent, mut received, mut numbers) = (0, 0, 0);
    let mut used: Vec<BTreeSet<u32>> = vec![BTreeSet::new(); 3];
    for now in (0..20_000).step_by(5) {
        if now % 5_000 == 2_500 {
            let spi = 1_000 + u32::try_from(now / 5_000).unwrap() + 1;
            for member in 0..3 {
                rekeys.insert((now + rng.below(300), member), spi);
            }
        }
        while let Some(entry) = rekeys.first_entry().filter(|e| e.key().0 <= now) {
            let ((_, member), spi) = entry.remove_entry();
            let update = rekey(vec![new_sa(spi, &policy, u64::from(spi))], &[spi - 1], 500, 1_500);
            members[member].sad.apply(update, at(now)).unwrap();
        }
        for member in &mut members {
            if member.sad.deadline().is_some_and(|d| d.at <= at(now).mono) {
                member.sad.expire(at(now));
            }
        }
        for (from, member) in members.iter_mut().enumerate() {
            numbers += 1;
            let packet = member.seal(&numbered(u8::try_from(from).unwrap(), GROUP, numbers)).unwrap();
            used[from].insert(spi_of(&packet));
            sent += 2;
            flying.insert((now + rng.below(200), numbers), (from, packet));
        }
        while let Some(entry) = flying.first_entry().filter(|e| e.key().0 <= now) {
            let ((_, number), (from, packet)) = entry.remove_entry();
            for (to, member) in members.iter().enumerate().filter(|(to, _)| *to != from) {
                let plain = member.open(&packet).unwrap_or_else(|reason| panic!("lost at {to}, {now} ms: {reason:?}"));
                assert_eq!(number_of(&plain), number);
                received += 1;
            }
        }
    }
    received += 2 * flying.len();
    assert_eq!(sent, received);
    assert!(used.iter().all(|spis| *spis == BTreeSet::from([1_000, 1_001, 1_002, 1_003, 1_004])));
    assert!(members.iter().all(|member| member.sad.status().sas.len() == 1));
}

#[test]
fn senders_wait_for_activation_and_receivers_do_not() {
    let policy = policy(GCM, EspMode::Tunnel, GROUP);
    let (mut alice, mut bob) = (Member::with(1_000, &policy, 1), Member::with(1_000, &policy, 2));
    let update = || rekey(vec![new_sa(1_001, &policy, 8)], &[1_000], 1_000, 3_000);
    alice.sad.apply(update(), at(100)).unwrap();
    bob.sad.apply(update(), at(100)).unwrap();
    let old = alice.seal(&udp(1, GROUP, b"x")).unwrap();
    assert_eq!(spi_of(&old), 1_000);
    assert_eq!(alice.sad.deadline().map(|d| (d.at, d.reason)), Some((at(1_100).mono, "data SA activates")));

    alice.sad.expire(at(1_099));
    assert_eq!(spi_of(&alice.seal(&udp(1, GROUP, b"x")).unwrap()), 1_000);
    alice.sad.expire(at(1_100));
    let new = alice.seal(&udp(1, GROUP, b"x")).unwrap();
    assert_eq!(spi_of(&new), 1_001);
    assert!(bob.open(&new).is_ok() && bob.open(&old).is_ok(), "both are received in between");

    bob.sad.expire(at(3_099));
    assert!(bob.open(&old).is_ok());
    bob.sad.expire(at(3_100));
    assert_eq!(bob.open(&old), Err(DropReason::InNoStates));
    assert!(bob.open(&new).is_ok());
    assert_eq!(spi_of(&bob.seal(&udp(2, GROUP, b"x")).unwrap()), 1_001);
}

#[test]
fn a_new_sa_is_used_before_its_time_only_when_there_is_no_other() {
    let policy = policy(GCM, EspMode::Tunnel, GROUP);
    let mut alice = Member::new(1);
    let mut update = registration(vec![new_sa(1_000, &policy, 1), new_sa(1_001, &policy, 2)], ids(&[1]));
    update.activation_delay = Duration::from_secs(5);
    alice.sad.apply(update, at(0)).unwrap();
    assert_eq!(spi_of(&alice.seal(&udp(1, GROUP, b"x")).unwrap()), 1_000, "the older of two that wait");
    alice.sad.expire(at(5_000));
    assert_eq!(spi_of(&alice.seal(&udp(1, GROUP, b"x")).unwrap()), 1_001);
    // Removed without a successor: used until it leaves, then nothing is sent, least of all in clear.
    alice.sad.apply(rekey(vec![], &[1_000, 1_001], 0, 2_000), at(6_000)).unwrap();
    assert_eq!(spi_of(&alice.seal(&udp(1, GROUP, b"x")).unwrap()), 1_001);
    alice.sad.expire(at(8_000));
    assert_eq!(alice.seal(&udp(1, GROUP, b"x")), Err(DropReason::OutNoPols));
    assert_eq!(alice.sad.deadline(), None);
}

#[test]
fn a_replaced_policy_gives_way_to_one_with_other_selectors() {
    let general = policy(GCM, EspMode::Tunnel, GROUP);
    let mut narrow = general.clone();
    narrow.source = side("10.0.0.0", 24);
    let mut alice = Member::with(1_000, &general, 1);
    alice.sad.apply(rekey(vec![new_sa(1_001, &narrow, 2)], &[1_000], 1_000, 3_000), at(0)).unwrap();
    assert_eq!(spi_of(&alice.seal(&udp(1, GROUP, b"x")).unwrap()), 1_000);
    alice.sad.expire(at(1_000));
    assert_eq!(spi_of(&alice.seal(&udp(1, GROUP, b"x")).unwrap()), 1_001);
}

#[test]
fn the_first_matching_line_of_the_policy_decides() {
    let general = policy(GCM, EspMode::Tunnel, GROUP);
    let mut narrow = general.clone();
    narrow.destination.port = 5_001;
    narrow.destination.protocol = 17;
    let mut alice = Member::new(1);
    let update = registration(vec![new_sa(1_000, &narrow, 1), new_sa(1_001, &general, 2)], ids(&[1]));
    alice.sad.apply(update, at(0)).unwrap();
    assert_eq!(spi_of(&alice.seal(&udp(1, GROUP, b"x")).unwrap()), 1_000);
    // Rekeying the general line alone does not put it in front.
    alice.sad.apply(rekey(vec![new_sa(1_002, &general, 3)], &[1_001], 0, 0), at(1)).unwrap();
    assert_eq!(spi_of(&alice.seal(&udp(1, GROUP, b"x")).unwrap()), 1_000);
    let update = registration(vec![new_sa(1_002, &general, 3), new_sa(1_000, &narrow, 1)], None);
    alice.sad.apply(update, at(2)).unwrap();
    assert_eq!(spi_of(&alice.seal(&udp(1, GROUP, b"x")).unwrap()), 1_002);
}

#[test]
fn lifetimes_end_sas() {
    let policy = policy(GCM, EspMode::Tunnel, GROUP);
    let (mut alice, bob) = (Member::with(1_000, &policy, 1), Member::with(1_000, &policy, 2));
    assert_eq!(alice.sad.deadline().map(|d| (d.at, d.reason)), Some((at(3_600_000).mono, "data SA expires")));
    alice.sad.expire(at(3_600_000));
    assert_eq!(alice.seal(&udp(1, GROUP, b"x")), Err(DropReason::OutNoPols));
    assert_eq!(bob.sad.status().sas[0].remaining, 3_600);
}

#[test]
fn an_sa_whose_time_is_over_can_come_again() {
    let policy = policy(GCM, EspMode::Tunnel, GROUP);
    let mut alice = Member::with(1_000, &policy, 1);
    alice.sad.apply(registration(vec![new_sa(1_000, &policy, 7)], ids(&[2])), at(3_600_000)).unwrap();
    assert_eq!(alice.sad.status().sas[0].remaining, 3_600);
    assert!(alice.seal(&udp(1, GROUP, b"x")).is_ok());
}

/// A key server whose clock is a little behind tells it once more: no number is used, and no packet opened, a second time.
#[test]
fn an_sa_that_comes_again_soon_after_its_end_goes_on_where_it_was() {
    let policy = protected(GCM, 64);
    let (mut alice, mut bob) = (Member::with(1_000, &policy, 1), Member::with(1_000, &policy, 2));
    let before = alice.seal(&udp(1, GROUP, b"x")).unwrap();
    let theirs = bob.seal(&udp(2, GROUP, b"x")).unwrap();
    assert!(alice.open(&theirs).is_ok());
    alice.sad.expire(at(3_600_000));
    assert!(alice.sad.status().sas.is_empty());
    alice.sad.apply(registration(vec![new_sa(1_000, &policy, 7)], ids(&[1])), at(3_601_000)).unwrap();
    assert_eq!(alice.open(&theirs), Err(DropReason::InStateSeqError));
    let after = alice.seal(&udp(1, GROUP, b"x")).unwrap();
    assert_ne!(before[24..36], after[24..36], "number and IV");
}

#[test]
fn an_evicted_member_opens_nothing_sent_afterwards() {
    let policy = policy(GCM, EspMode::Tunnel, GROUP);
    let mut members: Vec<Member> = (0..3).map(|n| Member::with(1_000, &policy, n)).collect();
    for member in &mut members[..2] {
        member.sad.apply(rekey(vec![new_sa(1_001, &policy, 99)], &[1_000], 0, 0), at(1)).unwrap();
    }
    let sealed = members[0].seal(&udp(1, GROUP, b"secret")).unwrap();
    assert!(members[1].open(&sealed).is_ok());
    assert_eq!(members[2].open(&sealed), Err(DropReason::InNoStates));
    // Nor under its old keys, whatever SPI it reads.
    let mut renamed = sealed;
    renamed[20..24].copy_from_slice(&1_000u32.to_be_bytes());
    assert_eq!(members[2].open(&renamed), Err(DropReason::InStateProtoError));
    // And what it sends under them nobody takes.
    let forged = members[2].seal(&udp(3, GROUP, b"lie")).unwrap();
    assert_eq!(members[1].open(&forged), Err(DropReason::InNoStates));
}

#[test]
fn flush_ends_everything_at_once_even_for_an_old_snapshot() {
    let policy = policy(CBC, EspMode::Tunnel, GROUP);
    let (mut alice, mut bob) = (Member::with(1_000, &policy, 1), Member::with(1_000, &policy, 2));
    let sealed = bob.seal(&udp(2, GROUP, b"x")).unwrap();
    let held = alice.sad.snapshot();
    alice.sad.flush();
    let mut frame = dataplane::Frame::holding(&udp(1, GROUP, b"x"));
    assert_eq!(held.seal(&mut frame, &mut alice.ivs), Err(DropReason::OutStateExpired));
    let mut frame = dataplane::Frame::holding(&sealed);
    assert_eq!(held.open(&mut frame), Err(DropReason::InNoStates));
    assert_eq!(alice.seal(&udp(1, GROUP, b"x")), Err(DropReason::OutNoPols));
    assert!(alice.sad.status().sas.is_empty() && alice.sad.status().sender_ids.is_empty());
    assert_eq!(alice.drops(DropReason::OutNoPols), 1);
}

#[test]
fn coming_back_goes_on_where_it_was() {
    let policy = protected(GCM, 64);
    let (mut alice, mut bob) = (Member::with(1_000, &policy, 1), Member::with(1_000, &policy, 2));
    let first = alice.seal(&udp(1, GROUP, b"x")).unwrap();
    let theirs = bob.seal(&udp(2, GROUP, b"x")).unwrap();
    assert!(bob.open(&first).is_ok() && alice.open(&theirs).is_ok());

    // A registration over the other protocol tells the same SA and a new sender ID.
    alice.sad.apply(registration(vec![new_sa(1_000, &policy, 7)], ids(&[5])), at(10)).unwrap();
    assert_eq!(alice.open(&theirs), Err(DropReason::InStateSeqError), "windows are kept");
    let second = alice.seal(&udp(1, GROUP, b"x")).unwrap();
    assert_eq!((&second[24..28], &second[28..36]), (&[0, 0, 0, 2][..], &[0, 5, 0, 0, 0, 0, 0, 1][..]));
    assert!(bob.open(&second).is_ok());

    // The same, through a flush, and even with the ID it had before.
    alice.sad.flush();
    alice.sad.apply(registration(vec![new_sa(1_000, &policy, 7)], ids(&[1])), at(20)).unwrap();
    assert_eq!(alice.open(&theirs), Err(DropReason::InStateSeqError));
    let third = alice.seal(&udp(1, GROUP, b"x")).unwrap();
    assert_eq!((&third[24..28], &third[28..36]), (&[0, 0, 0, 3][..], &[0, 1, 0, 0, 0, 0, 0, 2][..]));
    assert!(bob.open(&third).is_ok());
}

#[test]
fn a_member_that_lost_its_memory_is_heard_under_its_new_sender_id() {
    let policy = protected(GCM, 64);
    let (mut alice, bob) = (Member::with(1_000, &policy, 1), Member::with(1_000, &policy, 2));
    for _ in 0..500 {
        let sealed = alice.seal(&udp(1, GROUP, b"x")).unwrap();
        assert!(bob.open(&sealed).is_ok());
    }
    let mut alice = Member::with(1_000, &policy, 3);
    let sealed = alice.seal(&udp(1, GROUP, b"x")).unwrap();
    assert!(bob.open(&sealed).is_ok());
    assert_eq!(bob.open(&sealed), Err(DropReason::InStateSeqError));
    assert_eq!(bob.sad.status().sas[0].replay_senders, Some(2));
}

#[test]
fn a_removal_under_way_is_not_undone_by_a_registration() {
    let policy = policy(GCM, EspMode::Tunnel, GROUP);
    let mut alice = Member::with(1_000, &policy, 1);
    alice.sad.apply(rekey(vec![new_sa(1_001, &policy, 8)], &[1_000], 0, 2_000), at(0)).unwrap();
    let update = registration(vec![new_sa(1_000, &policy, 7), new_sa(1_001, &policy, 8)], ids(&[2]));
    alice.sad.apply(update, at(1_000)).unwrap();
    assert_eq!(alice.sad.status().sas.len(), 2);
    alice.sad.expire(at(2_000));
    assert_eq!(alice.sad.status().sas.len(), 1);
}

#[test]
fn a_removal_told_twice_counts_from_the_first_time() {
    let policy = policy(GCM, EspMode::Tunnel, GROUP);
    let mut alice = Member::with(1_000, &policy, 1);
    alice.sad.apply(rekey(vec![new_sa(1_001, &policy, 8)], &[1_000], 500, 2_000), at(0)).unwrap();
    alice.sad.apply(rekey(vec![], &[1_000], 500, 2_000), at(1_500)).unwrap();
    alice.sad.expire(at(2_000));
    assert_eq!(alice.sad.status().sas.len(), 1);
}

#[test]
fn senders_do_not_share_a_window_and_strangers_move_none() {
    let policy = protected(CBC, 64);
    let mut senders: Vec<Member> = (0..3).map(|n| Member::with(1_000, &policy, n)).collect();
    let bob = Member::with(1_000, &policy, 9);
    let packets: Vec<Vec<u8>> = (0..3u8)
        .flat_map(|n| (0..100).map(move |i| (n, i)))
        .map(|(n, i)| senders[usize::from(n)].seal(&numbered(n, GROUP, i)).unwrap())
        .collect();
    // A forged number far ahead is not authentic, and changes nothing.
    let mut ahead = packets[0].clone();
    ahead[24..28].copy_from_slice(&u32::MAX.to_be_bytes());
    assert_eq!(bob.open(&ahead), Err(DropReason::InStateProtoError));
    assert_eq!(bob.sad.status().sas[0].replay_senders, Some(0));
    for packet in &packets {
        assert!(bob.open(packet).is_ok());
    }
    for packet in &packets {
        assert_eq!(bob.open(packet), Err(DropReason::InStateSeqError));
    }
    assert_eq!(bob.sad.status().sas[0].replay_senders, Some(3));
    // Without replay protection the same packet passes again: the policy says that numbers mean nothing.
    let open = support::policy(CBC, EspMode::Tunnel, GROUP);
    let carol = Member::with(1_000, &open, 8);
    assert!(carol.open(&packets[0]).is_ok() && carol.open(&packets[0]).is_ok());
}

/// Nothing authenticates the source in transport mode, but the sender ID is a part of the nonce.
#[test]
fn in_transport_mode_no_other_source_makes_a_packet_fresh() {
    let policy = TrafficPolicy { mode: EspMode::Transport, ..protected(GCM, 64) };
    let (mut alice, bob) = (Member::with(1_000, &policy, 1), Member::with(1_000, &policy, 2));
    let sealed = alice.seal(&udp(1, GROUP, b"x")).unwrap();
    assert!(bob.open(&sealed).is_ok());
    for host in 2..=255 {
        let mut moved = sealed.clone();
        moved[15] = host;
        finish4(&mut moved);
        assert_eq!(bob.open(&moved), Err(DropReason::InStateSeqError), "from {host}");
    }
    assert_eq!(bob.sad.status().sas[0].replay_senders, Some(1));
    let mut anew = Member::with(1_000, &policy, 3);
    assert!(bob.open(&anew.seal(&udp(1, GROUP, b"x")).unwrap()).is_ok());
}

#[test]
fn updates_that_cannot_be_are_refused_whole() {
    let policy = policy(GCM, EspMode::Tunnel, GROUP);
    let mut alice = Member::with(1_000, &policy, 1);
    let mut try_one = |new, sender_ids| {
        let update =
            GroupUpdate { sender_ids, remove: Removal::All, ..rekey(vec![new_sa(2_000, &policy, 50), new], &[], 0, 0) };
        let error = alice.sad.apply(update, at(1)).unwrap_err();
        assert_eq!(alice.sad.status().sas.len(), 1);
        assert_eq!(alice.sad.status().sender_ids, [1]);
        error
    };
    assert!(matches!(try_one(new_sa(255, &policy, 1), None), ApplyError::ReservedSpi(255)));
    assert!(matches!(try_one(new_sa(1_000, &policy, 1), None), ApplyError::SpiConflict(1_000)));
    assert!(matches!(try_one(new_sa(2_000, &policy, 1), None), ApplyError::SpiConflict(2_000)));
    assert!(matches!(try_one(new_sa(1_001, &policy, 7), None), ApplyError::KeyReused(1_001)));
    let mut transport = policy.clone();
    transport.mode = EspMode::Transport;
    assert!(matches!(try_one(new_sa(1_000, &transport, 7), None), ApplyError::SpiConflict(1_000)));
    let mut short = new_sa(1_001, &policy, 1);
    short.keymat = keymat(&support::policy(CBC, EspMode::Tunnel, GROUP), 1);
    assert!(matches!(try_one(short, None), ApplyError::Keymat(1_001, 64, 20)));
    let mut mixed = policy.clone();
    mixed.source = side("fd00::", 16);
    assert!(matches!(try_one(new_sa(1_001, &mixed, 1), None), ApplyError::Selectors(1_001)));
    for (bits, list) in [(0, vec![0]), (33, vec![1]), (8, vec![256]), (8, vec![1, 1])] {
        let sender_ids = Some(keyferry_model::update::SenderIds { bits, ids: list });
        assert!(matches!(try_one(new_sa(1_001, &policy, 1), sender_ids), ApplyError::SenderIds));
    }
}

#[test]
fn status_serializes_with_counters_by_name() {
    let policy = protected(GCM, 64);
    let mut alice = Member::with(0xabc, &policy, 1);
    alice.seal(&udp(1, GROUP, b"x")).unwrap();
    let status = serde_json::to_value(alice.sad.status()).unwrap();
    let sa = &status["sas"][0];
    assert_eq!((&sa["spi"], &sa["sending"], &sa["packets_sealed"]), (&"0x00000abc".into(), &true.into(), &1.into()));
    assert_eq!((&sa["octets_sealed"], &sa["mode"], &sa["remaining"]), (&29.into(), &"tunnel".into(), &3600.into()));
    assert_eq!((&status["drops"]["InStateSeqError"], &status["needs_rekey"]), (&0.into(), &false.into()));
}

#[test]
fn drops_are_told_apart_by_sa_through_a_roll_over() {
    let policy = protected(GCM, 64);
    let (mut alice, mut bob) = (Member::with(0x1000, &policy, 1), Member::with(0x1000, &policy, 2));
    let sealed = bob.seal(&udp(2, GROUP, b"x")).unwrap();
    assert!(alice.open(&sealed).is_ok());
    assert_eq!(alice.open(&sealed), Err(DropReason::InStateSeqError));
    assert_eq!(alice.seal(&udp(1, "239.255.0.9", b"x")), Err(DropReason::OutNoPols));
    let replayed: BTreeMap<_, _> = [("InStateSeqError", 1)].into();
    let status = alice.sad.status();
    assert_eq!((&status.sas[0].drops, &status.drops_without_sa), (&replayed, &[("OutNoPols", 1)].into()));
    assert!(status.drops_of_ended_sas.is_empty());

    // Removed before the end of its lifetime, it is remembered; if it comes back, so do its counters.
    alice.sad.apply(rekey(vec![new_sa(0x1001, &policy, 8)], &[0x1000], 0, 0), at(10)).unwrap();
    let status = alice.sad.status();
    assert_eq!((&status.sas[0].drops, &status.drops_of_ended_sas), (&BTreeMap::new(), &replayed));
    alice.sad.apply(rekey(vec![new_sa(0x1000, &policy, 7)], &[], 0, 0), at(20)).unwrap();
    let status = alice.sad.status();
    assert_eq!((&status.sas[1].drops, &status.drops_of_ended_sas), (&replayed, &BTreeMap::new()));

    // When its lifetime is over nothing of it is left but this.
    alice.sad.expire(at(4_000_000));
    let status = alice.sad.status();
    assert!(status.sas.is_empty());
    assert_eq!((&status.drops_of_ended_sas, status.drops["InStateSeqError"]), (&replayed, 1));
    assert_eq!(status.drops_without_sa, [("OutNoPols", 1)].into());
}

#[test]
fn drops_of_sas_that_are_forgotten_are_not_taken_for_those_of_none() {
    let policy = protected(GCM, 64);
    let (mut alice, mut bob) = (Member::with(0x1000, &policy, 1), Member::with(0x1000, &policy, 2));
    let sealed = bob.seal(&udp(2, GROUP, b"x")).unwrap();
    assert!(alice.open(&sealed).is_ok());
    assert_eq!(alice.open(&sealed), Err(DropReason::InStateSeqError));
    // More removals than are remembered: the first one's memory has to go.
    for spi in 0x1000..0x1200 {
        let next = new_sa(spi + 1, &policy, u64::from(spi));
        alice.sad.apply(rekey(vec![next], &[spi], 0, 0), at(u64::from(spi))).unwrap();
    }
    let status = alice.sad.status();
    assert_eq!(status.drops_of_ended_sas, [("InStateSeqError", 1)].into());
    assert!(status.drops_without_sa.is_empty());
}

/// What can happen to a member of the nonce test.
#[derive(Clone, Debug)]
enum Step {
    Send(usize, u8),
    Register(usize, u8, bool),
    Rekey(u8),
    Flush(usize),
    Restart(usize),
    Wait(u16),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => (0..4usize, 1..20u8).prop_map(|(m, n)| Step::Send(m, n)),
        2 => (0..4usize, 1..4u8, any::<bool>()).prop_map(|(m, n, old)| Step::Register(m, n, old)),
        1 => (0..3u8).prop_map(Step::Rekey),
        1 => (0..4usize).prop_map(Step::Flush),
        1 => (0..4usize).prop_map(Step::Restart),
        2 => (0..3_000u16).prop_map(Step::Wait),
    ];
    proptest::collection::vec(step, 1..80)
}

proptest! {
    /// Four members share the keys of a group whose key server gives each sender ID to one member, though a member may
    /// be given its own again as long as it runs. Whatever happens, no nonce is seen twice under one key.
    #[test]
    fn no_nonce_repeats_under_any_key(steps in steps()) {
        let mut policy = policy(GCM, EspMode::Transport, GROUP);
        // So that SAs end by that, too.
        policy.lifetime_octets = Some(1_000);
        let mut members: Vec<Member> = (0..4).map(Member::new).collect();
        let mut own: Vec<Vec<u32>> = vec![Vec::new(); 4];
        let (mut next_id, mut now) = (0u32, 0u64);
        let mut epochs: Vec<u32> = vec![1_000];
        let mut seen: BTreeSet<(u32, Vec<u8>)> = BTreeSet::new();
        for step in steps {
            match step {
                Step::Send(m, count) => for _ in 0..count {
                    if let Ok(sealed) = members[m].seal(&udp(u8::try_from(m).unwrap(), GROUP, b"x")) {
                        // The key is told by the SPI here.
                        prop_assert!(seen.insert((spi_of(&sealed), sealed[28..36].to_vec())), "nonce repeated");
                    }
                },
                Step::Register(m, count, again) => {
                    if !again || own[m].is_empty() {
                        own[m] = (next_id..next_id + u32::from(count)).collect();
                        next_id += u32::from(count);
                    }
                    let install = epochs.iter().map(|spi| new_sa(*spi, &policy, u64::from(*spi))).collect();
                    members[m].sad.apply(registration(install, ids(&own[m])), at(now)).unwrap();
                }
                Step::Rekey(missed_by) => {
                    let old = *epochs.last().unwrap();
                    epochs = vec![old, old + 1];
                    for (m, member) in members.iter_mut().enumerate() {
                        if m != usize::from(missed_by) {
                            let new = new_sa(old + 1, &policy, u64::from(old + 1));
                            member.sad.apply(rekey(vec![new], &[old], 500, 1_500), at(now)).unwrap();
                        }
                    }
                }
                Step::Flush(m) => members[m].sad.flush(),
                // It has forgotten all, and is never given an ID again that it had.
                Step::Restart(m) => {
                    members[m] = Member::new(u64::try_from(m).unwrap());
                    own[m].clear();
                }
                Step::Wait(millis) => {
                    now += u64::from(millis);
                    for member in &mut members {
                        member.sad.expire(at(now));
                    }
                }
            }
        }
    }

    /// In whatever order and however often packets come, each is taken at most once, and those within the window are.
    #[test]
    fn each_number_is_accepted_at_most_once(order in proptest::collection::vec(0..300usize, 1..600)) {
        let policy = protected(GCM, 64);
        let (mut alice, bob) = (Member::with(1_000, &policy, 1), Member::with(1_000, &policy, 2));
        let packets: Vec<Vec<u8>> = (0..300).map(|n| alice.seal(&numbered(1, GROUP, n)).unwrap()).collect();
        let mut taken = BTreeSet::new();
        for at in order {
            let fresh = !taken.contains(&at) && taken.last().is_none_or(|top| at > *top || top - at < 64);
            match bob.open(&packets[at]) {
                Ok(_) => prop_assert!(fresh && taken.insert(at)),
                Err(reason) => prop_assert!(!fresh && reason == DropReason::InStateSeqError),
            }
        }
    }
}
