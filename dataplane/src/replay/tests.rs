//! Many senders, and few windows.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use super::*;

fn windows(width: u32) -> Windows {
    Windows::new(width, &Secret::new(vec![7; 20]))
}

fn source(n: u32) -> Sender {
    Sender::source(Ipv4Addr::from_bits(n).into())
}

fn id(id: u32) -> Sender {
    Sender::id(id, Strand::ONLY)
}

#[test]
fn a_full_table_lets_nobody_new_in() {
    let windows = windows(4_096);
    let most = u32::try_from(windows.most()).unwrap();
    for n in 0..most {
        assert!(!windows.have_run_out());
        assert_eq!(windows.visit().mark(source(n), 1), Verdict::Fresh);
    }
    assert!(windows.have_run_out());
    assert!(!windows.have_run_out(), "it is told once");
    assert_eq!(windows.visit().mark(source(most), 1), Verdict::Full);
    assert_eq!(windows.visit().check(source(most), 1), Verdict::Full);
    // Those that have a window keep it.
    for n in 0..most {
        assert_eq!(windows.visit().check(source(n), 1), Verdict::Replayed);
        assert_eq!(windows.visit().mark(source(n), 1), Verdict::Replayed);
        assert_eq!(windows.visit().mark(source(n), 2), Verdict::Fresh);
    }
    assert_eq!(windows.senders(), windows.most());
}

#[test]
fn there_is_room_for_the_largest_fleets() {
    for (width, most) in [(64, 233_016), (1_024, 131_072), (4_096, 52_428)] {
        assert_eq!(windows(width).most(), most, "{width}");
    }
}

/// What is counted for a window is no less than what it takes.
#[test]
fn windows_take_no_more_memory_than_they_may() {
    for width in [64, 1_024] {
        let windows = windows(width);
        for n in 0..u32::try_from(windows.most()).unwrap() {
            assert_eq!(windows.visit().mark(source(n), 1), Verdict::Fresh);
        }
        let mut octets = size_of_val(&*windows.shards);
        for shard in &windows.shards {
            let shard = shard.lock().unwrap();
            octets += shard.allocation_size() + shard.len() * (16 + words_of(width) * 8);
            // None is large, so none takes long to grow, and none is held by many.
            assert!(shard.len() < 2 * windows.most() / SHARDS, "{}", shard.len());
        }
        assert!(octets <= WINDOWS_OCTETS, "{octets} octets");
        assert!(octets > WINDOWS_OCTETS / 2, "{octets} octets");
    }
}

#[test]
fn what_another_engine_has_taken_is_taken() {
    for floor in [0u32, 1, 63, 64, 100, 127, 128, 5_000] {
        let windows = windows(64);
        windows.raise(floor);
        let sender = source(1);
        assert_eq!(windows.visit().check(sender, floor), Verdict::Replayed);
        assert_eq!(windows.visit().mark(sender, floor), Verdict::Replayed);
        assert_eq!(windows.senders(), 0);
        // From the middle outwards: all above is fresh once, all below never.
        assert_eq!(windows.visit().mark(sender, floor + 40), Verdict::Fresh);
        for sequence in floor.saturating_sub(70)..floor + 100 {
            let fresh = sequence > floor && sequence != floor + 40;
            let verdict = if fresh { Verdict::Fresh } else { Verdict::Replayed };
            assert_eq!(windows.visit().mark(sender, sequence), verdict, "{sequence} above {floor}");
            assert_eq!(windows.visit().check(sender, sequence), Verdict::Replayed);
        }
    }
}

#[test]
fn senders_are_told_apart_by_all_that_they_have() {
    let windows = windows(64);
    let v6 = |n: u128| Sender::source(IpAddr::V6(Ipv6Addr::from_bits(n)));
    let strand = |wanted| {
        let mut strands = (0..).map(|n| Strand::of(Ipv4Addr::from_bits(n).into()));
        Sender::id(1, strands.find(|strand| strand.number() == wanted).unwrap())
    };
    let all = [
        [id(1), id(2), id(1 << 31), source(1), source(2)],
        [v6(1), v6(2), v6(1 << 32), v6(1 << 64), v6(1 << 96)],
        [strand(1), strand(2), strand(3), strand(4), strand(Strand::COUNT - 1)],
    ];
    for sender in all.as_flattened() {
        assert_eq!(windows.visit().mark(*sender, 900), Verdict::Fresh, "{sender:?}");
    }
    for sender in all.as_flattened() {
        assert_eq!(windows.visit().check(*sender, 900), Verdict::Replayed);
        assert_eq!(windows.visit().check(*sender, 0), Verdict::Replayed);
        assert_eq!(windows.visit().mark(*sender, 899), Verdict::Fresh);
    }
    assert_eq!(windows.senders(), 15);
}

/// Addresses that lie close together, as those of hosts do, have nearly equal parts of the strands and the tables.
#[test]
fn neighbours_are_spread_evenly() {
    let windows = windows(64);
    let (mut strands, mut shards) = ([0; Strand::COUNT as usize], [0; SHARDS]);
    for n in 0..24_000u32 {
        let ip = Ipv4Addr::from_bits(0x0a00_0000 + n);
        strands[usize::from(Strand::of(ip.into()).number())] += 1;
        shards[(windows.mixer.hash(Sender::source(ip.into())) >> 16) as usize % SHARDS] += 1;
    }
    assert!(strands.iter().all(|n| (500..2_000).contains(n)), "{strands:?}");
    assert!(shards.iter().all(|n| *n < 200), "{shards:?}");
}

/// Places follow from keys, so that nobody can find addresses whose places are the same.
#[test]
fn places_differ_from_sa_to_sa() {
    let [one, same, other] = [1, 1, 2].map(|key| Windows::new(64, &Secret::new(vec![key; 20])).mixer);
    let differ = |n: &u32| one.hash(source(*n)) >> 24 != other.hash(source(*n)) >> 24;
    assert!((0..1_000).all(|n| one.hash(source(n)) == same.hash(source(n))));
    assert!((0..1_000).filter(differ).count() > 900);
}

/// However threads come by, each number of each sender is fresh once, and each window is made once.
#[test]
fn of_two_threads_one_is_first() {
    const SENDERS: u32 = 500;
    const NUMBERS: u32 = 200;
    let windows = windows(4_096);
    let fresh: Vec<AtomicU32> = (0..SENDERS).map(|_| AtomicU32::new(0)).collect();
    let open = |backwards: bool| {
        for n in 0..NUMBERS {
            let sequence = if backwards { NUMBERS - n } else { n + 1 };
            let mut visit = windows.visit();
            for (sender, fresh) in (0..SENDERS).zip(&fresh) {
                let sender = if sender % 2 == 0 { id(sender) } else { source(sender) };
                if visit.check(sender, sequence) == Verdict::Fresh && visit.mark(sender, sequence) == Verdict::Fresh {
                    fresh.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
    };
    thread::scope(|scope| [false, false, true, true].map(|backwards| scope.spawn(move || open(backwards))).map(drop));
    assert!(fresh.iter().all(|fresh| fresh.load(Ordering::Relaxed) == NUMBERS));
    assert_eq!(windows.senders(), SENDERS as usize);
}

/// The last places go to whoever is first, and no more of them than there are.
#[test]
fn threads_do_not_share_out_more_windows_than_there_are() {
    let windows = windows(4_096);
    let most = u32::try_from(windows.most()).unwrap();
    let open = |first: u32| (first..most + 100).map(|n| windows.visit().mark(source(n), 1)).collect::<Vec<_>>();
    let [one, other] = thread::scope(|scope| {
        let (one, other) = (scope.spawn(|| open(0)), scope.spawn(|| open(0)));
        [one, other].map(|thread| thread.join().unwrap())
    });
    let verdicts = |wanted| one.iter().chain(&other).filter(|verdict| **verdict == wanted).count();
    assert_eq!((verdicts(Verdict::Fresh), windows.senders()), (windows.most(), windows.most()));
    assert_eq!(one.iter().zip(&other).filter(|both| *both == (&Verdict::Fresh, &Verdict::Fresh)).count(), 0);
}
