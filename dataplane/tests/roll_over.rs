//! Roll-overs under load, whatever the delays: nothing is lost, and nothing old is accepted after its delay.
#![allow(clippy::unwrap_used)]

mod support;

use std::collections::{BTreeMap, BTreeSet};

use dataplane::DropReason;
use keyferry_crypto::{Random, SeededRandom};
use keyferry_model::policy::{EspMode, SequenceNumbers, TrafficPolicy};
use proptest::prelude::*;
use support::*;

const GROUP: &str = "239.192.0.1";
const STEP: u64 = 20;

/// Milliseconds that things take.
#[derive(Clone, Copy, Debug)]
struct Times {
    /// Most by which rekeys reach members apart.
    apart: u64,
    /// Most that a packet takes.
    flight: u64,
    activation: u64,
    /// Beyond what senders of the old keys and their packets need.
    spare: u64,
    between: u64,
}

impl Times {
    /// Whoever has the rekey last goes on with the old keys for so long, and its packets take a while.
    fn deactivation(self) -> u64 {
        self.activation + self.apart + self.flight + self.spare
    }
}

fn times() -> impl Strategy<Value = Times> {
    (0u64..400, 0u64..300, 0u64..500, 0u64..200, 100u64..2_000).prop_map(|(apart, flight, more, spare, pause)| {
        // A sender must not use keys that others do not have yet.
        let activation = apart + more;
        let between = activation.max(apart) + pause;
        Times { apart, flight, activation, spare, between }
    })
}

fn spi_of(packet: &[u8]) -> u32 {
    u32::from_be_bytes(packet[20..24].try_into().unwrap())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn a_roll_over_under_load_loses_nothing_and_accepts_nothing_old(times in times(), seed in any::<u64>(), window in any::<bool>()) {
        let mut policy: TrafficPolicy = policy(if window { GCM } else { CBC }, EspMode::Tunnel, GROUP);
        if window {
            (policy.sequence, policy.replay_window) = (SequenceNumbers::Sequential, 1_024);
        }
        let mut rng = SeededRandom::new(seed);
        let mut members: Vec<Member> = (0..3).map(|n| Member::with(1_000, &policy, n)).collect();
        let mut flying: BTreeMap<(u64, u64), (usize, Vec<u8>)> = BTreeMap::new();
        let mut rekeys: BTreeMap<(u64, usize), u32> = BTreeMap::new();
        // When a member has to have dropped an SA.
        let mut ends: BTreeMap<(usize, u32), u64> = BTreeMap::new();
        let mut old: Vec<(usize, Vec<u8>)> = Vec::new();
        let mut numbers = 0;
        let announced = (1..=3).map(|n| (n, u64::from(n) * times.between)).collect::<Vec<(u32, u64)>>();
        for (n, at) in &announced {
            for member in 0..3 {
                rekeys.insert((at + rng.below(times.apart + 1), member), 1_000 + n);
            }
        }
        let last = 4 * times.between + times.deactivation() + times.flight + times.apart;
        for now in (0..last).step_by(usize::try_from(STEP).unwrap()) {
            while let Some(entry) = rekeys.first_entry().filter(|e| e.key().0 <= now) {
                let ((_, member), spi) = entry.remove_entry();
                let install = vec![new_sa(spi, &policy, u64::from(spi))];
                let update = rekey(install, &[spi - 1], times.activation, times.deactivation() + 2 * STEP);
                members[member].sad.apply(update, at(now)).unwrap();
                ends.insert((member, spi - 1), now + times.deactivation() + 2 * STEP);
            }
            members.iter_mut().for_each(|member| member.sad.expire(at(now)));
            for (from, member) in members.iter_mut().enumerate() {
                numbers += 1;
                let packet = member.seal(&numbered(u8::try_from(from).unwrap(), GROUP, numbers)).unwrap();
                if numbers % 7 == 0 {
                    old.push((from, packet.clone()));
                }
                flying.insert((now + rng.below(times.flight + 1), numbers), (from, packet));
            }
            while let Some(entry) = flying.first_entry().filter(|e| e.key().0 <= now) {
                let ((_, number), (from, packet)) = entry.remove_entry();
                for (to, member) in members.iter().enumerate().filter(|(to, _)| *to != from) {
                    match member.open(&packet) {
                        Ok(plain) => prop_assert_eq!(number_of(&plain), number),
                        Err(reason) => prop_assert!(false, "lost at {}, {} ms, {:?}: {:?}", to, now, times, reason),
                    }
                }
            }
            for (from, packet) in &old {
                for (to, member) in members.iter().enumerate().filter(|(to, _)| to != from) {
                    if ends.get(&(to, spi_of(packet))).is_some_and(|end| *end <= now) {
                        prop_assert_eq!(member.open(packet), Err(DropReason::InNoStates));
                    }
                }
            }
        }
        let spis: BTreeSet<u32> = old.iter().map(|(_, packet)| spi_of(packet)).collect();
        prop_assert!(spis.len() > 1, "{:?}", spis);
        prop_assert!(members.iter().all(|member| member.sad.status().sas.len() == 1));
    }
}
