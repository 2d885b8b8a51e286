//! Who follows which rekey, over whole lives of groups: joins, departures, evictions and rekeys in any order, along the key
//! tree as G-IKEv2 renders it (RFC 9838 sections 3.2, 3.3 and appendix A).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use keyferry_crypto::{Random, SeededRandom};
use keyferry_model::plan::RekeyReason;
use keyferry_model::policy::RekeyAuthentication;

use super::support::*;

/// Members that may be in the group at one time: each has a pre-shared key.
const MOST: u8 = 9;

/// What one run did, so that no run passes by doing nothing.
#[derive(Default)]
struct Done {
    joins: usize,
    excluded: usize,
    rekeys: usize,
}

/// The first message of an exclusion is kept from who is excluded: it goes on with what it knew, and hears everything that
/// follows, as somebody would who ignores what he is told.
fn exclude(world: &mut World, gone: &[usize], evict: &[keyferry_model::id::Identity]) {
    let plan = world.plan_steps(RekeyReason::Eviction, evict);
    for step in 0..plan.steps.len() {
        let message = world.render(&plan, step);
        let ears: Vec<_> = gone.iter().map(|at| world.hosts[*at].listens.clone()).collect();
        if step == 0 {
            gone.iter().for_each(|at| world.hosts[*at].listens.clear());
        }
        world.multicast(&message);
        for (at, heard) in gone.iter().zip(ears) {
            world.hosts[*at].listens = heard;
        }
    }
}

fn live(seed: u64) -> Done {
    let mut group = policy(false);
    // Signatures would only take time.
    group.gikev2.as_mut().unwrap().authentication = RekeyAuthentication::Implicit;
    group.capacity = u32::from(MOST);
    let mut world = World::with(group, config(), seed);
    let mut rng = SeededRandom::new(seed ^ 0x5eed);
    let mut done = Done::default();
    // Present members by their numbers, and hosts that were members, which listen on.
    let mut present: BTreeMap<u8, usize> = BTreeMap::new();
    let mut former: BTreeSet<usize> = BTreeSet::new();
    for _ in 0..30 {
        match rng.below(5) {
            0 | 1 => {
                let free: Vec<u8> = (1..=MOST).filter(|n| !present.contains_key(n)).collect();
                if let Some(n) = free.get(usize::try_from(rng.below(9)).unwrap() % free.len().max(1)).copied() {
                    world.model.readmit("g", &identity(n));
                    let _ = world.model.take_store_ops();
                    present.insert(n, world.join(n));
                    done.joins += 1;
                }
            }
            2 => {
                world.rekey(RekeyReason::Operator, &[]);
                done.rekeys += 1;
            }
            _ => {
                let numbers: Vec<u8> = present.keys().copied().filter(|_| rng.below(3) == 0).collect();
                let gone: Vec<usize> = numbers.iter().filter_map(|n| present.remove(n)).collect();
                let names: Vec<_> = numbers.iter().map(|n| identity(*n)).collect();
                done.excluded += gone.len();
                exclude(&mut world, &gone, &names);
                former.extend(gone);
            }
        }
        for (n, at) in &present {
            assert!(world.has_newest(*at), "seed {seed}: member {n} cannot follow");
        }
        world.rekey(RekeyReason::Operator, &[]);
        for at in &former {
            assert!(!world.has_newest(*at), "seed {seed}: a former member follows still");
        }
        // Not so often that registrations come too fast.
        world.pass_quietly(Duration::from_secs(20));
    }
    done
}

#[test]
fn members_follow_and_former_ones_do_not_whatever_happens() {
    let mut all = Done::default();
    for seed in 1..=12 {
        let done = live(seed);
        all.joins += done.joins;
        all.excluded += done.excluded;
        all.rekeys += done.rekeys;
    }
    assert!(all.joins > 60 && all.excluded > 40 && all.rekeys > 40, "{} {} {}", all.joins, all.excluded, all.rekeys);
}
