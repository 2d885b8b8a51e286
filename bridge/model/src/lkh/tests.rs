use std::collections::BTreeMap;

use keyferry_crypto::SeededRandom;
use proptest::prelude::*;

use super::*;

/// A member that knows nothing but what it was given: keys by handle.
#[derive(Default)]
struct Knows(BTreeMap<u32, Vec<u8>>);

impl Knows {
    fn learn(&mut self, update: &TreeUpdate) {
        for wrap in &update.wraps {
            if self.0.get(&wrap.under.handle).is_some_and(|k| wrap.under.key.ct_eq(k)) {
                self.0.insert(wrap.key.handle, wrap.key.key.expose().to_vec());
            }
        }
    }

    fn opens(&self, update: &TreeUpdate) -> bool {
        update.tops.iter().any(|t| self.0.contains_key(&t.handle))
    }
}

#[test]
fn a_full_tree_takes_nobody_and_a_freed_leaf_is_given_again_with_a_new_key() {
    let mut rng = SeededRandom::new(1);
    let mut tree = KeyTree::new(4, 16);
    let leaves: Vec<u32> = (0..4).map(|_| tree.join(&mut rng).unwrap()).collect();
    assert_eq!(leaves, [4, 5, 6, 7]);
    assert!(tree.join(&mut rng).is_none());
    let before = tree.path(5)[0].handle;
    tree.evict(&[5], &mut rng);
    assert!(tree.path(5).is_empty());
    assert_eq!(tree.join(&mut rng), Some(5));
    assert_ne!(tree.path(5)[0].handle, before);
}

#[test]
fn evicting_one_of_many_costs_the_logarithm() {
    let mut rng = SeededRandom::new(2);
    let mut tree = KeyTree::new(1024, 16);
    let leaves: Vec<u32> = (0..1024).map(|_| tree.join(&mut rng).unwrap()).collect();
    let update = tree.evict(&leaves[500..501], &mut rng);
    assert_eq!(update.tops.len(), 2);
    assert_eq!(update.wraps.len(), 1 + 2 * 8);
}

#[test]
fn a_tree_survives_the_store() {
    let mut rng = SeededRandom::new(3);
    let mut tree = KeyTree::new(8, 16);
    for _ in 0..5 {
        tree.join(&mut rng).unwrap();
    }
    tree.evict(&[9], &mut rng);
    let records: Vec<_> = tree.take_changes().into_iter().filter_map(|(n, r)| r.map(|r| (n, r))).collect();
    let back = KeyTree::restore(8, 16, tree.next_handle(), records).unwrap();
    for leaf in 8..16 {
        let (a, b) = (tree.path(leaf), back.path(leaf));
        assert_eq!(a.len(), b.len());
        assert!(a.iter().zip(&b).all(|(a, b)| a.handle == b.handle && a.key.ct_eq(b.key.expose())));
    }
    assert_eq!(back.members(), 4);
}

proptest! {
    /// Members come and go at random: whoever is in the tree always gets the new key, whoever has left never does,
    /// not even with everything it ever saw.
    #[test]
    fn only_those_who_stay_can_follow(seed in any::<u64>(), steps in prop::collection::vec((any::<bool>(), 0usize..16), 1..60)) {
        let mut rng = SeededRandom::new(seed);
        let mut tree = KeyTree::new(16, 16);
        let mut present: BTreeMap<u32, Knows> = BTreeMap::new();
        let mut gone: Vec<Knows> = Vec::new();
        for (join, pick) in steps {
            if join {
                let Some(leaf) = tree.join(&mut rng) else { continue };
                let keys = tree.path(leaf).iter().map(|k| (k.handle, k.key.expose().to_vec())).collect();
                present.insert(leaf, Knows(keys));
                continue;
            }
            let Some(leaf) = present.keys().nth(pick).copied() else { continue };
            gone.extend(present.remove(&leaf));
            let update = tree.evict(&[leaf], &mut rng);
            for member in present.values_mut().chain(gone.iter_mut()) {
                member.learn(&update);
            }
            prop_assert!(present.values().all(|m| m.opens(&update)));
            prop_assert!(gone.iter().all(|m| !m.opens(&update)));
            prop_assert_eq!(tree.members(), present.len());
        }
    }
}
