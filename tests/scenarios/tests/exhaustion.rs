//! Sequence numbers, IVs and octets that run out: members ask in time, go on under new keys or IDs, never use a nonce twice,
//! and stop where nothing new comes.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use dataplane::DropReason;
use keyferry_crypto::{BlockCipher, Integrity};
use keyferry_model::id::Protocol;
use keyferry_model::policy::{EspTransform, GroupPolicy, TrafficPolicy};
use keyferry_model::update::MemberEvent;
use keyferry_scenarios::fleet::Fleet;
use keyferry_scenarios::policy::{self, Variant};

const ALL: [u8; 4] = [11, 12, 21, 22];
const CBC: EspTransform = EspTransform::CbcHmac(BlockCipher::Aes256Cbc, Integrity::HmacSha256_128);

/// Between two registrations for want of numbers, as the daemon has it.
const ASK_ANEW: u64 = 300;

fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// A fleet with two members of each protocol, whose gateway rekeys when one asks.
fn fleet(seed: u64, variant: Variant, lifetime_octets: Option<u64>) -> Fleet {
    let policy = policy::group(variant);
    let line = TrafficPolicy { lifetime_octets, ..(*policy.traffic[0]).clone() };
    let policy = GroupPolicy {
        traffic: vec![Arc::new(line)],
        rekey_when_asked: Some(secs(60)),
        tek_lifetime: secs(86_400),
        kek_lifetime: secs(4 * 86_400),
        ..policy
    };
    let mut fleet = Fleet::with_policy(seed, variant, policy);
    fleet.join(ALL[..2].iter().copied(), Protocol::Gdoi);
    fleet.join(ALL[2..].iter().copied(), Protocol::Gikev2);
    fleet.run(secs(30));
    fleet.all_hear(&ALL).unwrap();
    fleet
}

/// What everybody has sent, as somebody on the wire sees it: SPI, and sequence number and source, or IV.
#[derive(Default)]
struct Seen {
    ivs: BTreeSet<(u32, Vec<u8>)>,
    numbers: BTreeSet<(u32, u8, Vec<u8>)>,
    asked: BTreeMap<u8, u64>,
    dropped: BTreeMap<u8, BTreeSet<DropReason>>,
    spis: BTreeSet<u32>,
    /// All whom it was meant for heard each packet.
    lost: usize,
}

/// Members send in turn, one packet each in a second, and whose data plane says so registers anew.
fn talk(fleet: &mut Fleet, senders: &[u8], seconds: u64, counter_mode: bool, seen: &mut Seen) {
    for _ in 0..seconds {
        fleet.run(secs(1));
        let now = fleet.now().mono.as_secs();
        for n in senders {
            match fleet.seal(*n) {
                Ok((packet, spi)) => {
                    let esp = &packet[20..];
                    seen.spis.insert(spi);
                    assert!(seen.numbers.insert((spi, *n, esp[4..8].to_vec())), "{n} repeats a number");
                    if counter_mode {
                        assert!(seen.ivs.insert((spi, esp[8..16].to_vec())), "{n} repeats a nonce");
                    }
                    let heard = fleet.open(&packet, *n);
                    seen.lost += ALL.len() - 1 - heard.len();
                }
                Err(reason) => drop(seen.dropped.entry(*n).or_default().insert(reason)),
            }
        }
        for n in ALL {
            let asked = seen.asked.get(&n).is_some_and(|at| at + ASK_ANEW > now);
            if !fleet.nodes[&n].sad.needs_rekey() {
                seen.asked.remove(&n);
            } else if !asked {
                seen.asked.insert(n, now);
                fleet.renew(n);
            }
        }
    }
}

fn registrations(fleet: &Fleet, n: u8) -> usize {
    fleet.count(n, |e| *e == MemberEvent::Registered)
}

/// Members of GDOI count octets and ask; all get the new keys, and nothing is lost from one lifetime to the next.
#[test]
fn octets_run_out_and_the_group_gets_new_keys_in_time() {
    for (seed, counter_mode) in [(1, true), (2, false)] {
        let variant = if counter_mode { Variant::default() } else { Variant { transform: CBC, ..Variant::default() } };
        // So many packets of four senders that the last eighth lasts for the 30 s or so that a rekey takes.
        let each = if counter_mode { 36 } else { 48 };
        let mut fleet = fleet(seed, variant, Some(1_600 * each));
        let told: Vec<_> = ALL.iter().map(|n| fleet.nodes[n].sad.status().sas[0].lifetime_octets).collect();
        let some = told[0].unwrap();
        assert!(some <= 1_600 * each && 1_600 * each - some < 1_024, "whole kilobytes");
        assert_eq!(told, [Some(some), Some(some), None, None], "G-IKEv2 has no words for it");
        let mut seen = Seen::default();
        talk(&mut fleet, &ALL, 1_500, counter_mode, &mut seen);
        assert!(seen.spis.len() >= 4, "{:?}", seen.spis);
        assert!(seen.dropped.is_empty(), "{:?}", seen.dropped);
        assert_eq!(seen.lost, 0);
        assert!(ALL[2..].iter().all(|n| registrations(&fleet, *n) == 1), "who does not count does not ask");
        fleet.all_hear(&ALL).unwrap();
    }
}

/// With a key server that is away members of GDOI stop at the end of the octets, and go on when it is back.
#[test]
fn without_new_keys_members_stop_at_the_end_of_the_octets() {
    let mut fleet = fleet(3, Variant::default(), Some(600 * 36));
    fleet.kill();
    let mut seen = Seen::default();
    talk(&mut fleet, &ALL[..2], 400, true, &mut seen);
    let expected = BTreeSet::from([DropReason::OutStateExpired]);
    assert!(ALL[..2].iter().all(|n| seen.dropped[n] == expected), "{:?}", seen.dropped);
    let most = fleet.nodes[&11].sad.status().sas[0].lifetime_octets.unwrap();
    assert!(seen.numbers.len() as u64 * 36 <= most, "{} packets", seen.numbers.len());
    fleet.boot();
    seen.dropped.clear();
    talk(&mut fleet, &ALL[..2], 1_000, true, &mut seen);
    assert!(seen.spis.len() > 1);
    seen.dropped.clear();
    talk(&mut fleet, &ALL[..2], 20, true, &mut seen);
    assert!(seen.dropped.is_empty(), "{:?}", seen.dropped);
}

/// A registration brings fresh sender IDs, so the SA that there is goes on; with rekeys on demand new keys follow.
#[test]
fn a_sender_at_the_end_of_its_ivs_gets_new_ids() {
    for on_demand in [true, false] {
        let mut fleet = fleet(4, Variant::default(), None);
        fleet.policy.rekey_when_asked = Some(secs(60)).filter(|_| on_demand);
        fleet.reload();
        fleet.run(secs(60));
        let mut seen = Seen::default();
        talk(&mut fleet, &ALL, 10, true, &mut seen);
        for n in [11, 21] {
            fleet.nodes[&n].sad.leave_numbers(1_000_000_000, 40);
        }
        talk(&mut fleet, &ALL, 100, true, &mut seen);
        assert!(seen.dropped.is_empty(), "{:?}", seen.dropped);
        assert_eq!(seen.lost, 0);
        assert_eq!(seen.spis.len(), if on_demand { 2 } else { 1 });
        for (n, times) in [(11, 2), (12, 1), (21, 2), (22, 1)] {
            assert_eq!(registrations(&fleet, n), times, "{n}");
            assert!(!fleet.nodes[&n].sad.needs_rekey());
        }
    }
}

/// A registration brings no sequence numbers: the key server has to rekey, and does where it is told to.
#[test]
fn a_sender_at_the_end_of_its_sequence_numbers_gets_new_keys_on_demand_alone() {
    for (seed, counter_mode, on_demand) in [(5, true, true), (6, false, true), (7, true, false)] {
        let variant = if counter_mode { Variant::default() } else { Variant { transform: CBC, ..Variant::default() } };
        let mut fleet = fleet(seed, variant, None);
        fleet.policy.rekey_when_asked = Some(secs(60)).filter(|_| on_demand);
        fleet.reload();
        fleet.run(secs(60));
        let mut seen = Seen::default();
        for n in [12, 22] {
            fleet.nodes[&n].sad.leave_numbers(60, u32::MAX);
        }
        talk(&mut fleet, &ALL, 120, counter_mode, &mut seen);
        assert_eq!(seen.lost, 0);
        if on_demand {
            assert!(seen.dropped.is_empty(), "{:?}", seen.dropped);
            assert_eq!(seen.spis.len(), 2, "one rekey serves both");
        } else {
            let stopped = BTreeSet::from([DropReason::OutStateSeqError]);
            assert_eq!(seen.dropped, BTreeMap::from([(12, stopped.clone()), (22, stopped)]));
            // An operator's rekey helps, too.
            fleet.command(|g, now, rng| g.rekey(now, rng, policy::NAME)).unwrap();
            seen.dropped.clear();
            fleet.run(secs(30));
            talk(&mut fleet, &ALL, 20, counter_mode, &mut seen);
            assert!(seen.dropped.is_empty(), "{:?}", seen.dropped);
        }
    }
}
