//! Logical Key Hierarchy (RFC 2627 section 5.4): a binary tree of keys, one for each protocol of a group.
//!
//! ```text
//!                 1          the rekey SA's own keys (not kept here)
//!            +----+----+
//!            2         3     inner nodes: known to every member below
//!          +-+-+     +-+-+
//!          4   5     6   7   leaves: known to one member each
//! ```
//!
//! Node `n` has the children `2n` and `2n + 1`; the leaves of a tree for `c` members are `c .. 2c`. A node has a key only
//! while a member is below it. Each key has a handle of its own, never used again in this tree: GDOI's Key Handle, and
//! G-IKEv2's Key ID. Evicting k members changes the keys on their paths and wraps each under the keys of the children
//! that still have members: O(k log c) wraps.

use std::collections::{BTreeMap, BTreeSet};

use keyferry_crypto::{Random, Secret};
use serde::{Deserialize, Serialize};

use crate::store::SecretRecord;

/// The most leaves a tree may have: GDOI's LKH ID has 16 bits (RFC 6407 section 5.6.3.1).
pub const MAX_CAPACITY: u32 = 1 << 15;

/// A key at a node.
#[derive(Debug)]
pub struct NodeKey {
    /// Position in the tree; GDOI's LKH ID.
    pub node: u32,
    /// Names this key; never zero, never used twice. GDOI's Key Handle, G-IKEv2's Key ID.
    pub handle: u32,
    /// The key (for GDOI with its IV in front).
    pub key: Secret,
}

impl NodeKey {
    fn duplicate(&self) -> Self {
        Self { node: self.node, handle: self.handle, key: self.key.duplicate() }
    }
}

/// A fresh key of a node, wrapped under the key of one of its children.
#[derive(Debug)]
pub struct Wrap {
    /// The new key.
    pub key: NodeKey,
    /// The child whose key wraps it: an unchanged key, or one that stands as `key` in an earlier wrap.
    pub under: NodeKey,
}

/// What those who stay must learn after an eviction.
#[derive(Debug)]
pub struct TreeUpdate {
    /// New keys, deepest first: a key that another wrap relies on comes before it.
    pub wraps: Vec<Wrap>,
    /// Keys of the nodes below the root (one or two), under each of which the new rekey SA's keys are wrapped.
    /// Empty when nobody is left.
    pub tops: Vec<NodeKey>,
}

/// The tree of one protocol.
#[derive(Debug)]
pub struct KeyTree {
    capacity: u32,
    key_len: usize,
    next_handle: u32,
    nodes: BTreeMap<u32, NodeKey>,
    dirty: BTreeSet<u32>,
}

impl KeyTree {
    /// An empty tree for `capacity` members (rounded up to a power of two, 2 to [`MAX_CAPACITY`]) with keys of
    /// `key_len` octets.
    #[must_use]
    pub fn new(capacity: u32, key_len: usize) -> Self {
        let capacity = capacity.clamp(2, MAX_CAPACITY).next_power_of_two();
        Self { capacity, key_len, next_handle: 1, nodes: BTreeMap::new(), dirty: BTreeSet::new() }
    }

    /// Members in the tree.
    #[must_use]
    pub fn members(&self) -> usize {
        self.nodes.range(self.capacity..).count()
    }

    /// Is there no leaf left?
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.members() >= self.capacity as usize
    }

    /// Gives a new member the lowest free leaf, with a fresh key; `None` when the tree is full.
    pub fn join(&mut self, rng: &mut dyn Random) -> Option<u32> {
        let leaf = (self.capacity..self.capacity * 2).find(|n| !self.nodes.contains_key(n))?;
        let mut node = leaf;
        while node > 1 {
            if !self.nodes.contains_key(&node) {
                self.renew(node, rng);
            }
            node /= 2;
        }
        Some(leaf)
    }

    /// A member's keys, leaf first, up to the node below the root. Empty for a leaf nobody has.
    #[must_use]
    pub fn path(&self, leaf: u32) -> Vec<NodeKey> {
        let mut path = Vec::new();
        let mut node = leaf;
        while node > 1 {
            match self.nodes.get(&node) {
                Some(k) => path.push(k.duplicate()),
                None => return Vec::new(),
            }
            node /= 2;
        }
        path
    }

    /// A member's own key, without those above it.
    #[must_use]
    pub fn leaf(&self, leaf: u32) -> Option<NodeKey> {
        self.nodes.get(&leaf).filter(|_| leaf >= self.capacity).map(NodeKey::duplicate)
    }

    /// Takes members out and changes every key they knew.
    pub fn evict(&mut self, leaves: &[u32], rng: &mut dyn Random) -> TreeUpdate {
        let mut changed = BTreeSet::new();
        for &leaf in leaves {
            if leaf < self.capacity || self.nodes.remove(&leaf).is_none() {
                continue;
            }
            self.dirty.insert(leaf);
            let mut node = leaf / 2;
            while node > 1 {
                changed.insert(node);
                node /= 2;
            }
        }
        let mut wraps = Vec::new();
        // Highest number first is deepest first, so children are renewed before their parents.
        for &node in changed.iter().rev() {
            let children = [node * 2, node * 2 + 1].into_iter().filter(|c| self.nodes.contains_key(c));
            let children: Vec<u32> = children.collect();
            if children.is_empty() {
                self.nodes.remove(&node);
                self.dirty.insert(node);
                continue;
            }
            self.renew(node, rng);
            for child in children {
                if let (Some(key), Some(under)) = (self.nodes.get(&node), self.nodes.get(&child)) {
                    wraps.push(Wrap { key: key.duplicate(), under: under.duplicate() });
                }
            }
        }
        TreeUpdate { wraps, tops: [2, 3].iter().filter_map(|n| self.nodes.get(n)).map(NodeKey::duplicate).collect() }
    }

    fn renew(&mut self, node: u32, rng: &mut dyn Random) {
        let handle = self.next_handle;
        // 2^32 handles outlast 4 billion key changes; a tree that got there is full of old ones and must not wrap.
        self.next_handle = self.next_handle.checked_add(1).expect("fewer than 2^32 keys in a tree's life");
        self.nodes.insert(node, NodeKey { node, handle, key: Secret::random(self.key_len, rng) });
        self.dirty.insert(node);
    }

    /// Nodes changed since the last call, with what is to be stored; `None` for a node that is gone.
    pub(crate) fn take_changes(&mut self) -> Vec<(u32, Option<NodeRecord>)> {
        std::mem::take(&mut self.dirty)
            .into_iter()
            .map(|n| (n, self.nodes.get(&n).map(|k| NodeRecord { handle: k.handle, key: SecretRecord::of(&k.key) })))
            .collect()
    }

    pub(crate) fn next_handle(&self) -> u32 {
        self.next_handle
    }

    /// Rebuilds a tree. `None` when a record does not fit: another capacity or key length, or a handle from the future.
    pub(crate) fn restore(
        capacity: u32,
        key_len: usize,
        next_handle: u32,
        records: impl IntoIterator<Item = (u32, NodeRecord)>,
    ) -> Option<Self> {
        let mut tree = Self::new(capacity, key_len);
        tree.next_handle = next_handle;
        for (node, r) in records {
            let key = r.key.into_secret();
            if node < 2 || node >= tree.capacity * 2 || key.len() != key_len || r.handle >= next_handle || r.handle == 0
            {
                return None;
            }
            tree.nodes.insert(node, NodeKey { node, handle: r.handle, key });
        }
        let whole = tree.nodes.keys().all(|n| *n < 4 || tree.nodes.contains_key(&(n / 2)));
        whole.then_some(tree)
    }
}

/// A node as it is stored.
#[derive(Serialize, Deserialize)]
pub(crate) struct NodeRecord {
    handle: u32,
    key: SecretRecord,
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
