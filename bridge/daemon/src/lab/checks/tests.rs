#![allow(clippy::unwrap_used)]

use keyferry_model::plan::RekeyReason;
use keyferry_model::reading::Readings;
use keyferry_model::view::{AckView, RekeySaView};

use super::*;

fn identity(n: u16) -> Identity {
    format!("gm{n}.lab.example").parse().unwrap()
}

fn member(n: u16, protocol: Protocol) -> MemberView {
    MemberView {
        identity: identity(n),
        holder: None,
        protocol,
        history: Vec::new(),
        state: MemberState::Active,
        address: format!("10.84.0.{}:848", 10 + n).parse().unwrap(),
        readings: Readings::NONE,
        registrations: 1,
        sender_ids: vec![u32::from(n)],
        in_band: false,
        fragments: false,
        capabilities: None,
        acknowledged: 0,
        missed: 0,
        latency_ms: None,
    }
}

fn group(epochs: &[u64]) -> GroupView {
    let epoch = |n: &u64| EpochView {
        number: *n,
        spis: vec![format!("{:#010x}", 0x1000 + n)],
        active: true,
        replaced: false,
        remaining: 60,
    };
    GroupView {
        name: "lab".into(),
        ids: vec!["8400".parse().unwrap()],
        gdoi_members: 1,
        gikev2_members: 1,
        epochs: epochs.iter().map(epoch).collect(),
        rekey_sas: vec![RekeySaView { protocol: Protocol::Gdoi, spi: "aa".into(), sent: 3, remaining: 60 }],
        next_sender_id: 5,
        sender_ids_left: 60,
        rekeys: 3,
        next_rekey_in: 60,
        last_rekey: None,
        common: None,
    }
}

fn holding(n: u16, spis: &[u32]) -> Holding {
    Holding { name: format!("gm{n}"), opened: spis.iter().map(|spi| (*spi, 7)).collect(), registrations: 1 }
}

fn delivery(received: u64, missing: u64) -> Delivery {
    let count = Count { received, missing, first_missing: (missing > 0).then_some(7) };
    Delivery { sender: "gm1".into(), receiver: "gm2".into(), count }
}

fn expected(n: u16, protocol: Protocol) -> Expected {
    Expected { name: format!("gm{n}"), identity: identity(n), protocol }
}

#[test]
fn registration_can_fail() {
    let all = [expected(1, Protocol::Gdoi), expected(2, Protocol::Gikev2)];
    let views = [member(1, Protocol::Gdoi), member(2, Protocol::Gikev2)];
    assert!(registered(&all, &views).ok);
    assert!(!registered(&all, &views[..1]).ok);
    assert!(!registered(&all[..1], &views).ok, "a stranger");
    assert!(!registered(&all, &[member(1, Protocol::Gikev2), views[1].clone()]).ok, "the wrong protocol");
    let mut gone = views;
    gone[0].state = MemberState::Left;
    assert!(!registered(&all, &gone).ok);
}

#[test]
fn a_single_lost_packet_is_a_failure() {
    assert!(lossless("x", &[delivery(10, 0), delivery(10, 0)]).ok);
    let check = lossless("x", &[delivery(10, 0), delivery(9, 1)]);
    assert!(!check.ok);
    assert_eq!(check.detail, "gm2 lost 1 of 10 from gm1 (first number 7)");
    assert!(!lossless("x", &[]).ok, "no traffic is no success");
    let many = vec![delivery(0, 1); 9];
    assert!(lossless("x", &many).detail.ends_with("and 6 pairs more"));
}

#[test]
fn a_packet_received_twice_is_noticed() {
    assert!(unrepeated(&[("gm1".into(), 0)]).ok);
    assert!(!unrepeated(&[("gm1".into(), 0), ("gm2".into(), 1)]).ok);
}

#[test]
fn a_member_without_the_new_keys_is_noticed() {
    let (before, after) = (group(&[1]), group(&[1, 2]));
    assert!(rekeyed("r", &before, &after, &[holding(1, &[0x1001, 0x1002])]).ok);
    assert!(!rekeyed("r", &before, &after, &[holding(1, &[0x1002]), holding(2, &[0x1001])]).ok);
    assert!(!rekeyed("r", &before, &before, &[holding(1, &[0x1001])]).ok, "no new epoch");
}

#[test]
fn a_missing_acknowledgement_is_noticed() {
    let ack = |n| AckView { identity: identity(n), protocol: Protocol::Gdoi, latency_ms: 12 };
    let rekey = RekeyView {
        id: 1,
        reason: RekeyReason::Operator,
        at: 0,
        epoch: Some(2),
        expected: 2,
        acknowledged: 2,
        missing: Vec::new(),
        acks: vec![ack(1), ack(2)],
    };
    let all = vec![identity(1), identity(2)];
    let check = acknowledged(&[(rekey.clone(), all.clone())]);
    assert!(check.ok);
    assert_eq!(check.detail, "2 acknowledgements of 1 rekeys, the latest after 12 ms");
    let half = RekeyView { acks: vec![ack(1)], ..rekey };
    assert!(!acknowledged(&[(half.clone(), all)]).ok);
    assert!(!acknowledged(&[(half, Vec::new())]).ok, "nothing expected is no success");
    assert!(!acknowledged(&[]).ok);
}

#[test]
fn a_member_that_is_not_rekeyed_in_band_is_noticed() {
    let ack = |n, protocol| AckView { identity: identity(n), protocol, latency_ms: 12 };
    let rekey = |acks| RekeyView {
        id: 1,
        reason: RekeyReason::Eviction,
        at: 0,
        epoch: Some(2),
        expected: 2,
        acknowledged: 1,
        missing: Vec::new(),
        acks,
    };
    let moved = MemberView { in_band: true, ..member(1, Protocol::Gikev2) };
    let answered = rekey(vec![ack(2, Protocol::Gdoi), ack(1, Protocol::Gikev2)]);
    assert!(in_band(Some(&moved), &[&answered]).ok);
    assert!(!in_band(Some(&member(1, Protocol::Gikev2)), &[&answered]).ok);
    assert!(!in_band(Some(&moved), &[&answered, &rekey(vec![ack(2, Protocol::Gikev2)])]).ok);
    assert!(!in_band(Some(&moved), &[&rekey(vec![ack(1, Protocol::Gdoi)])]).ok, "that was before it moved");
    assert!(!in_band(Some(&moved), &[]).ok);
    assert!(!in_band(None, &[&answered]).ok);
}

fn snapshot() -> Snapshot {
    Snapshot { group: group(&[3]), members: vec![member(1, Protocol::Gdoi)], holdings: vec![holding(1, &[0x1003])] }
}

#[test]
fn lost_state_is_noticed_after_a_restart() {
    let before = snapshot();
    assert!(kept_keys(&before, &snapshot()).ok);
    assert!(kept_members(&before, &snapshot()).ok);

    let mut fresh = snapshot();
    fresh.group.epochs[0].spis = vec!["0x00000001".into()];
    assert!(!kept_keys(&before, &fresh).ok);
    let mut fresh = snapshot();
    fresh.group.rekey_sas[0].sent = 2;
    assert!(!kept_keys(&before, &fresh).ok);
    let mut fresh = snapshot();
    fresh.group.next_sender_id = 4;
    assert!(!kept_keys(&before, &fresh).ok);

    let mut fresh = snapshot();
    fresh.members.clear();
    assert!(!kept_members(&before, &fresh).ok);
    let mut again = snapshot();
    again.members[0].registrations = 2;
    assert!(!kept_members(&before, &again).ok);
    let mut again = snapshot();
    again.holdings[0].registrations = 2;
    assert!(!kept_members(&before, &again).ok);
}

#[test]
fn a_sender_id_of_two_members_is_noticed() {
    let seen = Seen { esp: 9, ..Seen::default() };
    let given = |second: u32| vec![("gm1".to_owned(), vec![1, 2]), ("gm2".to_owned(), vec![second])];
    assert!(sender_ids(&given(3), &seen).ok);
    assert!(!sender_ids(&given(2), &seen).ok);
    assert!(!sender_ids(&given(3), &Seen { repeated_nonces: 1, ..seen.clone() }).ok);
    let sources = vec!["10.84.0.11".parse().unwrap(), "10.84.0.12".parse().unwrap()];
    assert!(!sender_ids(&given(3), &Seen { senders: [((1, 1), sources)].into(), ..seen }).ok);
}

#[test]
fn a_member_that_did_not_move_is_noticed() {
    let before = member(1, Protocol::Gdoi);
    let after = MemberView { history: vec![Protocol::Gdoi], registrations: 2, ..member(1, Protocol::Gikev2) };
    assert!(moved(Some(&before), Some(&after)).ok);
    assert!(!moved(Some(&before), Some(&before)).ok);
    assert!(!moved(Some(&before), Some(&MemberView { registrations: 1, ..after.clone() })).ok);
    assert!(!moved(Some(&before), Some(&MemberView { history: Vec::new(), ..after.clone() })).ok);
    assert!(!moved(Some(&before), Some(&MemberView { state: MemberState::Left, ..after.clone() })).ok);
    assert!(!moved(Some(&before), None).ok);
    assert!(left(Some(&MemberView { state: MemberState::Left, ..after.clone() })).ok);
    assert!(!left(Some(&after)).ok);
    assert!(!left(None).ok);
}

#[test]
fn opened_packets_are_counted_over_changing_keys() {
    let before = Holding { opened: [(1, 10), (2, 5)].into(), ..Holding::default() };
    let after = Holding { opened: [(2, 8), (3, 1)].into(), ..Holding::default() };
    assert_eq!(after.opened_since(&before), 4);
}

#[test]
fn an_evicted_member_that_hears_or_is_heard_is_noticed() {
    assert!(shut_out(Leak { received: 0, opened: 0, sent: 100 }).ok);
    assert!(!shut_out(Leak { received: 1, opened: 0, sent: 100 }).ok);
    assert!(!shut_out(Leak { received: 0, opened: 1, sent: 100 }).ok);
    assert!(!shut_out(Leak::default()).ok, "nothing sent shows nothing");
    assert!(ignored(5, &[delivery(0, 5)]).ok);
    assert!(!ignored(5, &[delivery(1, 4)]).ok);
    assert!(!ignored(0, &[]).ok);
}

#[test]
fn cleartext_and_foreign_keys_are_noticed_on_the_wire() {
    let seen = Seen { esp: 4, spis: [(0x1001, 4)].into(), ..Seen::default() };
    let epochs = BTreeMap::from([(1, BTreeSet::from([0x1001]))]);
    assert!(wire(&seen, &epochs).ok);
    assert!(!wire(&Seen { clear: 1, ..seen.clone() }, &epochs).ok);
    assert!(!wire(&Seen::default(), &epochs).ok);
    assert!(!wire(&seen, &BTreeMap::new()).ok);
}
