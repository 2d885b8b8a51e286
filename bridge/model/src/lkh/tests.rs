use std::collections::BTreeMap;

use keyferry_crypto::SeededRandom;
use proptest::prelude::*;

use super::*;

/// A member, present or past, that keeps every key it ever learned, and reads every update ever sent with them.
#[derive(Default)]
struct Knows {
    keys: BTreeMap<u32, Vec<u8>>,
    /// Updates whose rekey SA it could learn.
    opened: BTreeSet<usize>,
}

impl Knows {
    fn of(tree: &KeyTree, leaf: u32) -> Self {
        let keys = tree.path(leaf).iter().map(|k| (k.handle, k.key.expose().to_vec())).collect();
        Self { keys, opened: BTreeSet::new() }
    }

    fn has(&self, key: &NodeKey) -> bool {
        self.keys.get(&key.handle).is_some_and(|k| key.key.ct_eq(k))
    }

    fn learn(&mut self, number: usize, update: &TreeUpdate) {
        for wrap in &update.wraps {
            if self.keys.contains_key(&wrap.under.handle) {
                self.keys.insert(wrap.key.handle, wrap.key.key.expose().to_vec());
            }
        }
        if update.tops.iter().any(|t| self.has(t)) {
            self.opened.insert(number);
        }
    }
}

fn full(members: u32, seed: u64) -> (KeyTree, Vec<u32>, SeededRandom) {
    let mut rng = SeededRandom::new(seed);
    let mut tree = KeyTree::new(members, 16);
    let leaves = (0..members).map(|_| tree.join(&mut rng).unwrap()).collect();
    (tree, leaves, rng)
}

fn stored(tree: &mut KeyTree, store: &mut BTreeMap<u32, Option<NodeRecord>>) -> usize {
    let changes = tree.take_changes();
    let count = changes.len();
    store.extend(changes);
    count
}

fn restored(tree: &KeyTree, store: &BTreeMap<u32, Option<NodeRecord>>) -> KeyTree {
    let copy = |r: &NodeRecord| {
        let text = serde_json::to_vec(r).unwrap();
        serde_json::from_slice(&text).unwrap()
    };
    let records = store.iter().filter_map(|(n, r)| r.as_ref().map(|r| (*n, copy(r)))).collect();
    KeyTree::restore(tree.capacity, tree.key_len, tree.next_handle(), tree.fresh_from(), records).unwrap()
}

#[test]
fn a_full_tree_takes_nobody_and_a_freed_leaf_is_given_again_with_a_new_key() {
    let (mut tree, leaves, mut rng) = full(4, 1);
    assert_eq!(leaves, [0, 1, 2, 3]);
    assert!(tree.is_full() && tree.join(&mut rng).is_none());
    let before = tree.path(1)[0].handle;
    tree.evict(&[1], &mut rng);
    assert!(tree.path(1).is_empty() && tree.leaf(1).is_none());
    assert_eq!(tree.join(&mut rng), Some(1));
    assert_ne!(tree.path(1)[0].handle, before);
}

#[test]
fn evicting_one_of_many_costs_the_logarithm() {
    let (mut tree, leaves, mut rng) = full(100_000, 2);
    // The tree has grown since it was empty: the first eviction completes its left edge.
    let update = tree.evict(&[17], &mut rng);
    assert_eq!(update.tops.len(), 2);
    assert!(update.wraps.len() <= 4 * 17, "{}", update.wraps.len());
    tree.take_changes();
    let update = tree.evict(&leaves[50_000..50_001], &mut rng);
    assert_eq!((update.tops.len(), update.wraps.len()), (2, 1 + 2 * 15));
    assert_eq!(tree.take_changes().len(), 1 + 16, "records: a leaf that is gone, and the keys above it");
    tree.join(&mut rng).unwrap();
    assert!(tree.take_changes().len() <= 17);
}

#[test]
fn a_million_members_have_short_paths_and_evictions() {
    let (mut tree, leaves, mut rng) = full(1_000_000, 3);
    tree.evict(&leaves[5..6], &mut rng);
    let batch: Vec<u32> = leaves.iter().copied().skip(77_777).step_by(100_000).collect();
    let update = tree.evict(&batch, &mut rng);
    assert_eq!(tree.path(leaves[123_456]).len(), 20);
    assert!(update.wraps.len() <= batch.len() * 2 * 19);
    assert_eq!(tree.members(), 1_000_000 - 1 - batch.len());
}

#[test]
fn batches_keep_to_their_bound() {
    let (mut tree, leaves, mut rng) = full(10_000, 4);
    tree.evict(&[0], &mut rng);
    let gone: Vec<u32> = leaves.iter().copied().skip(3).step_by(37).collect();
    // One octet for each key that an array to the root holds.
    let cost = |depth| depth as usize + 1;
    let batches = tree.batches(&gone, 2000, cost);
    assert_eq!(batches.concat(), gone);
    assert!(batches.len() > 1);
    for batch in batches {
        let update = tree.evict(&batch, &mut rng);
        let is_new: BTreeSet<u32> = update.wraps.iter().map(|w| w.key.handle).collect();
        let depth = |key: &NodeKey| (tree.height - key.height()) as usize;
        let starts = update.wraps.iter().filter(|w| !is_new.contains(&w.under.handle));
        let octets = starts.map(|w| depth(&w.key) + 1).sum::<usize>() + update.tops.len();
        assert!(octets <= 2000, "{octets}");
    }
    assert_eq!(tree.batches(&gone[..1], 1, cost), [vec![gone[0]]], "one goes even where it costs more");
    assert!(tree.batches(&[], 1, cost).is_empty());
}

#[test]
fn a_tree_survives_the_store() {
    let (mut tree, _, mut rng) = full(50, 5);
    let mut store = BTreeMap::new();
    stored(&mut tree, &mut store);
    tree.evict(&[9, 10, 11, 49, 48], &mut rng);
    tree.join(&mut rng).unwrap();
    tree.join(&mut rng).unwrap();
    stored(&mut tree, &mut store);
    let back = restored(&tree, &store);
    for leaf in 0..50 {
        let (a, b) = (tree.path(leaf), back.path(leaf));
        assert_eq!(a.len(), b.len(), "{leaf}");
        assert!(a.iter().zip(&b).all(|(a, b)| a.handle == b.handle && a.key.ct_eq(b.key.expose())));
    }
    assert_eq!(back.members(), tree.members());
    assert_eq!(back.partial, tree.partial);
    // A record that promises more than the counters allow, or a key of another length, is refused.
    let record = |handle, len| NodeRecord { handle, key: SecretRecord::of(&Secret::new(vec![1; len])) };
    for bad in [record(tree.next_handle(), 16), record(0, 16), record(1, 15)] {
        assert!(KeyTree::restore(50, 16, tree.next_handle(), 1, BTreeMap::from([(4, bad)])).is_none());
    }
}

/// Thousands of members come and go, singly and in batches, over several restarts. Everybody keeps all it ever learned and
/// reads every update of all time with it: those who stay follow each, who is gone follows none after, and who came
/// later none before. Members that return under their old leaf or another are people who pool what they knew.
#[test]
fn thousands_come_and_go_and_nobody_reads_what_is_not_for_him() {
    let mut rng = SeededRandom::new(6);
    let mut tree = KeyTree::new(4096, 16);
    let mut store = BTreeMap::new();
    let mut updates: Vec<TreeUpdate> = Vec::new();
    // Leaf, what is known, the update it came before.
    let mut present: Vec<(u32, Knows, usize)> = Vec::new();
    // The same, with the update that excluded it.
    let mut gone: Vec<(Knows, usize, usize)> = Vec::new();
    for round in 0..40 {
        for _ in 0..rng.below(if round < 10 { 300 } else { 80 }) {
            let Some(leaf) = tree.join(&mut rng) else { break };
            present.push((leaf, Knows::of(&tree, leaf), updates.len()));
        }
        if round % 3 == 0 {
            stored(&mut tree, &mut store);
            tree = restored(&tree, &store);
        }
        let many = if round % 4 == 3 { 60 } else { 3 };
        let mut leaves = Vec::new();
        for _ in 0..(1 + rng.below(many)).min(present.len() as u64) {
            let at = usize::try_from(rng.below(present.len() as u64)).unwrap();
            let (leaf, knows, since) = present.swap_remove(at);
            leaves.push(leaf);
            gone.push((knows, since, updates.len()));
        }
        let update = tree.evict(&leaves, &mut rng);
        stored(&mut tree, &mut store);
        for (_, knows, _) in &mut present {
            knows.learn(updates.len(), &update);
            assert!(knows.opened.contains(&updates.len()), "round {round}");
        }
        updates.push(update);
    }
    assert!(present.len() + gone.len() > 2000, "{} and {}", present.len(), gone.len());
    for (knows, since, until) in present
        .iter_mut()
        .map(|(_, k, s)| (k, *s, updates.len()))
        .chain(gone.iter_mut().map(|(k, since, until)| (k, *since, *until)))
    {
        updates.iter().enumerate().for_each(|(n, u)| knows.learn(n, u));
        assert_eq!(knows.opened, (since..until).collect());
    }
}

proptest! {
    /// The same with few members and any order of steps; pairs of those who are never there at the same time pool what they know.
    #[test]
    fn only_those_who_are_there_can_follow(seed in any::<u64>(), steps in prop::collection::vec((0u8..5, 0usize..16), 1..60)) {
        let mut rng = SeededRandom::new(seed);
        let mut tree = KeyTree::new(16, 16);
        let mut store = BTreeMap::new();
        let mut updates: Vec<TreeUpdate> = Vec::new();
        let mut present: BTreeMap<u32, usize> = BTreeMap::new();
        let mut people: Vec<(Knows, usize, usize)> = Vec::new();
        for (what, pick) in steps {
            if what < 2 {
                let Some(leaf) = tree.join(&mut rng) else { continue };
                present.insert(leaf, people.len());
                people.push((Knows::of(&tree, leaf), updates.len(), usize::MAX));
            } else if what == 2 {
                stored(&mut tree, &mut store);
                tree = restored(&tree, &store);
            } else {
                let leaves: Vec<u32> = present.keys().copied().skip(pick).take(usize::from(what) - 2).collect();
                for leaf in &leaves {
                    people[present.remove(leaf).unwrap()].2 = updates.len();
                }
                let update = tree.evict(&leaves, &mut rng);
                for person in present.values() {
                    people[*person].0.learn(updates.len(), &update);
                }
                updates.push(update);
                prop_assert_eq!(tree.members(), present.len());
            }
        }
        for (knows, since, until) in &mut people {
            // Twice, lest what is learned late open what came early.
            for _ in 0..2 {
                updates.iter().enumerate().for_each(|(n, u)| knows.learn(n, u));
            }
            let there: BTreeSet<usize> = (*since..updates.len().min(*until)).collect();
            prop_assert_eq!(&knows.opened, &there);
        }
        for a in 0..people.len() {
            for b in a + 1..people.len() {
                if people[a].2 > people[b].1 {
                    continue;
                }
                let mut both = Knows::default();
                both.keys.extend(people[a].0.keys.clone());
                both.keys.extend(people[b].0.keys.clone());
                for _ in 0..2 {
                    updates.iter().enumerate().for_each(|(n, u)| both.learn(n, u));
                }
                let there: BTreeSet<usize> = people[a].0.opened.union(&people[b].0.opened).copied().collect();
                prop_assert_eq!(both.opened, there);
            }
        }
    }
}
