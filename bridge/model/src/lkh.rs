//! Logical Key Hierarchy (RFC 2627 section 5.4): a binary tree of keys, one for each protocol of a group.
//!
//! ```text
//!                    3             the rekey SA's own keys (not kept here)
//!              +-----+-----+
//!              1           5       inner nodes: known to the members below
//!           +--+--+     +--+--+
//!           0     2     4     6    leaves: known to one member each
//! ```
//!
//! Leaf `i` is node `2i`; a node of height `h` ends in `h` ones. So nodes keep their numbers when the tree gets a new root,
//! which it does whenever its leaves are used up: it is as high as its members need, up to [`MAX_MEMBERS`].
//!
//! Evicting members changes the keys on their paths and wraps each new key under the keys of the children that still have
//! members: O(k log n) wraps for k of n members. A member that joins must not learn a key that has wrapped others before, for
//! with it and a record of that time it could read what was before it. It gets the keys of its path up to the first such one;
//! that one and those above are *partial*, not known to all below, and are changed with the next eviction.
//!
//! Each key has a handle of its own, never used again in this tree: GDOI's Key Handle, and G-IKEv2's Key ID.

mod shape;

use std::collections::{BTreeMap, BTreeSet};

use keyferry_crypto::{Random, Secret};
use serde::{Deserialize, Serialize};

use crate::store::SecretRecord;
use shape::{children, height, leaf_node, parent, root};

/// The most members a tree may have.
pub const MAX_MEMBERS: u32 = 1 << 20;

/// The highest tree. It has more leaves than members, so that leaves need not be given again while that costs much.
const MAX_HEIGHT: u32 = 22;

/// Leaves of members that are gone are given again so often between two evictions. Each makes the next eviction longer by its
/// path, while leaves in sequence share theirs.
const MAX_SCATTERED: u32 = 32;

/// A key at a node.
#[derive(Debug)]
pub struct NodeKey {
    /// Position in the tree, which tells nodes of one path apart by its [`height`](NodeKey::height).
    pub node: u32,
    /// Names this key; never zero, never used twice. GDOI's Key Handle, G-IKEv2's Key ID.
    pub handle: u32,
    /// The key (for GDOI with its IV in front).
    pub key: Secret,
}

impl NodeKey {
    /// Levels above the leaves.
    #[must_use]
    pub fn height(&self) -> u32 {
        height(self.node)
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

#[derive(Debug)]
struct Key {
    handle: u32,
    key: Secret,
}

/// The tree of one protocol.
#[derive(Debug)]
pub struct KeyTree {
    capacity: u32,
    key_len: usize,
    height: u32,
    next_handle: u32,
    /// Keys with this handle or a higher one have wrapped nothing yet.
    fresh_from: u32,
    /// By node; as long as the leaves that were given so far need.
    nodes: Vec<Option<Key>>,
    /// The first leaf that was never given.
    next_leaf: u32,
    /// Leaves before that one that nobody has.
    free: BTreeSet<u32>,
    /// Of those, given again since the last eviction.
    scattered: u32,
    /// Nodes with members below that do not all know its key, or that has none. Those above such a node are too.
    partial: BTreeSet<u32>,
    dirty: BTreeSet<u32>,
}

impl KeyTree {
    /// An empty tree for at most `capacity` members ([`MAX_MEMBERS`] at most), with keys of `key_len` octets.
    #[must_use]
    pub fn new(capacity: u32, key_len: usize) -> Self {
        Self {
            capacity: capacity.clamp(1, MAX_MEMBERS),
            key_len,
            height: 1,
            next_handle: 1,
            fresh_from: 1,
            nodes: Vec::new(),
            next_leaf: 0,
            free: BTreeSet::new(),
            scattered: 0,
            partial: BTreeSet::new(),
            dirty: BTreeSet::new(),
        }
    }

    /// Takes everybody out, and goes on with keys of `key_len` octets: the tree as it was.
    pub(crate) fn restart(&mut self, key_len: usize) -> Self {
        let fresh = Self {
            next_handle: self.next_handle,
            fresh_from: self.next_handle,
            dirty: (0..).zip(&self.nodes).filter(|(_, k)| k.is_some()).map(|(n, _)| n).collect(),
            ..Self::new(self.capacity, key_len)
        };
        std::mem::replace(self, fresh)
    }

    /// How many members there may be from now on; more that are there stay.
    pub(crate) fn set_capacity(&mut self, capacity: u32) {
        self.capacity = capacity.clamp(1, MAX_MEMBERS);
    }

    /// Members in the tree.
    #[must_use]
    pub fn members(&self) -> usize {
        self.next_leaf as usize - self.free.len()
    }

    /// Octets of its keys.
    pub(crate) fn key_len(&self) -> usize {
        self.key_len
    }

    /// Is there no room left?
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.members() >= self.capacity as usize
    }

    /// Gives a new member a leaf with a fresh key; `None` when the tree is full.
    pub fn join(&mut self, rng: &mut dyn Random) -> Option<u32> {
        if self.is_full() {
            return None;
        }
        let at_end = self.next_leaf == 1 << MAX_HEIGHT;
        let again = self.free.first().copied().filter(|_| at_end || self.scattered < MAX_SCATTERED);
        let leaf = match again {
            Some(leaf) => {
                self.free.remove(&leaf);
                self.scattered += 1;
                leaf
            }
            None if at_end => return None,
            None => self.extend(),
        };
        let node = leaf_node(leaf);
        self.renew(node, rng);
        for above in self.above(node) {
            if self.partial.contains(&above) {
                break;
            }
            match self.get(above).map(|k| k.handle >= self.fresh_from) {
                None => self.renew(above, rng),
                Some(true) => {}
                Some(false) => {
                    self.make_partial(above);
                    break;
                }
            }
        }
        Some(leaf)
    }

    /// The next leaf that nobody had yet, under a new root if need be.
    fn extend(&mut self) -> u32 {
        if self.next_leaf == 1 << self.height {
            let old = root(self.height);
            self.height += 1;
            if self.members() > 0 {
                self.partial.insert(old);
            }
        }
        let leaf = self.next_leaf;
        self.next_leaf += 1;
        leaf
    }

    fn make_partial(&mut self, node: u32) {
        self.partial.insert(node);
        self.partial.extend(self.above(node));
    }

    /// A member's keys, leaf first, as far up as all members below know them. Empty for a leaf nobody has.
    #[must_use]
    pub fn path(&self, leaf: u32) -> Vec<NodeKey> {
        let node = leaf_node(leaf);
        let nodes = std::iter::once(node).chain(self.above(node));
        nodes.take_while(|n| !self.partial.contains(n)).map_while(|n| self.node_key(n)).collect()
    }

    /// A member's own key, without those above it.
    #[must_use]
    pub fn leaf(&self, leaf: u32) -> Option<&Secret> {
        self.get(leaf_node(leaf)).map(|k| &k.key)
    }

    /// What names that key.
    pub(crate) fn leaf_handle(&self, leaf: u32) -> Option<u32> {
        self.get(leaf_node(leaf)).map(|k| k.handle)
    }

    /// Takes members out and changes every key they knew, and every one that not all below know.
    pub fn evict(&mut self, leaves: &[u32], rng: &mut dyn Random) -> TreeUpdate {
        let mut changed: BTreeSet<(u32, u32)> =
            std::mem::take(&mut self.partial).into_iter().map(|n| (height(n), n)).collect();
        for &leaf in leaves {
            let node = leaf_node(leaf);
            if leaf >= self.next_leaf || self.nodes[node as usize].take().is_none() {
                continue;
            }
            self.free.insert(leaf);
            self.dirty.insert(node);
            changed.extend(self.above(node).map(|n| (height(n), n)));
        }
        let mut wraps = Vec::new();
        // Lowest first, so children are renewed before their parents.
        for (_, node) in changed {
            let below: Vec<NodeKey> = children(node).into_iter().filter_map(|c| self.node_key(c)).collect();
            if below.is_empty() {
                self.remove(node);
                continue;
            }
            self.renew(node, rng);
            wraps.extend(below.into_iter().filter_map(|under| Some(Wrap { key: self.node_key(node)?, under })));
        }
        self.fresh_from = self.next_handle;
        self.scattered = 0;
        let tops = children(root(self.height)).into_iter().filter_map(|n| self.node_key(n)).collect();
        TreeUpdate { wraps, tops }
    }

    /// Splits leaves to be evicted into batches whose updates keep to a bound: `cost` gives the octets that wrap the key of a
    /// node at this depth (the root's is 0) under one of its unchanged children. At least one leaf goes into each batch.
    #[must_use]
    pub fn batches(&self, leaves: &[u32], limit: usize, cost: impl Fn(u32) -> usize) -> Vec<Vec<u32>> {
        let sorted: BTreeSet<u32> = leaves.iter().copied().collect();
        let price = |node: u32| cost(self.height - height(node));
        let mut changed = self.partial.clone();
        // What is partial is changed once, with the first batch, and both of its children may be unchanged.
        let mut size = 2 * cost(0) + 2 * changed.iter().map(|n| price(*n)).sum::<usize>();
        let mut batches = vec![Vec::new()];
        for leaf in sorted {
            let path: Vec<u32> = self.above(leaf_node(leaf)).collect();
            let more = |changed: &BTreeSet<u32>| -> usize {
                path.iter().filter(|n| !changed.contains(n)).map(|n| price(*n)).sum()
            };
            if size + more(&changed) > limit && batches.last().is_some_and(|b| !b.is_empty()) {
                changed.clear();
                size = 2 * cost(0);
                batches.push(Vec::new());
            }
            size += more(&changed);
            changed.extend(&path);
            batches.last_mut().into_iter().for_each(|b| b.push(leaf));
        }
        batches.retain(|b| !b.is_empty());
        batches
    }

    /// The nodes between a node and the root.
    fn above(&self, node: u32) -> impl Iterator<Item = u32> + use<> {
        let root = root(self.height);
        std::iter::successors(Some(parent(node)), |n| Some(parent(*n))).take_while(move |n| *n != root)
    }

    fn get(&self, node: u32) -> Option<&Key> {
        self.nodes.get(node as usize)?.as_ref()
    }

    fn node_key(&self, node: u32) -> Option<NodeKey> {
        self.get(node).map(|k| NodeKey { node, handle: k.handle, key: k.key.duplicate() })
    }

    fn remove(&mut self, node: u32) {
        if self.nodes.get_mut(node as usize).and_then(Option::take).is_some() {
            self.dirty.insert(node);
        }
    }

    fn renew(&mut self, node: u32, rng: &mut dyn Random) {
        let handle = self.next_handle;
        // 2^32 handles outlast 4 billion key changes; a tree that got there is full of old ones and must not wrap.
        self.next_handle = self.next_handle.checked_add(1).expect("fewer than 2^32 keys in a tree's life");
        self.put(node, Key { handle, key: Secret::random(self.key_len, rng) });
        self.dirty.insert(node);
    }

    fn put(&mut self, node: u32, key: Key) {
        let at = node as usize;
        if at >= self.nodes.len() {
            self.nodes.resize_with(at + 1, || None);
        }
        self.nodes[at] = Some(key);
    }

    /// Nodes changed since the last call, with what is to be stored; `None` for a node that is gone.
    pub(crate) fn take_changes(&mut self) -> Vec<(u32, Option<NodeRecord>)> {
        let record = |k: &Key| NodeRecord { handle: k.handle, key: SecretRecord::of(&k.key) };
        std::mem::take(&mut self.dirty).into_iter().map(|n| (n, self.get(n).map(record))).collect()
    }

    pub(crate) fn next_handle(&self) -> u32 {
        self.next_handle
    }

    /// What is stored besides the nodes, whenever members are evicted.
    pub(crate) fn fresh_from(&self) -> u32 {
        self.fresh_from
    }

    /// Rebuilds a tree. `None` when a record does not fit: another key length, or a handle from the future.
    pub(crate) fn restore(
        capacity: u32,
        key_len: usize,
        next_handle: u32,
        fresh_from: u32,
        records: BTreeMap<u32, NodeRecord>,
    ) -> Option<Self> {
        let mut tree = Self::new(capacity, key_len);
        (tree.next_handle, tree.fresh_from) = (next_handle, fresh_from);
        for (node, r) in records {
            let key = r.key.into_secret();
            if node >= root(MAX_HEIGHT + 1) || key.len() != key_len || r.handle >= next_handle || r.handle == 0 {
                return None;
            }
            tree.put(node, Key { handle: r.handle, key });
        }
        tree.next_leaf = u32::try_from(tree.nodes.len().div_ceil(2)).ok()?;
        while 1 << tree.height < tree.next_leaf {
            tree.height += 1;
        }
        // The tree may have been higher. A key of where its root is now is not kept up to date from here on.
        for h in tree.height..=MAX_HEIGHT {
            tree.remove(root(h));
        }
        for leaf in 0..tree.next_leaf {
            let Some(handle) = tree.get(leaf_node(leaf)).map(|k| k.handle) else {
                tree.free.insert(leaf);
                continue;
            };
            let fresh = handle >= fresh_from;
            let first = tree.above(leaf_node(leaf)).find(|n| {
                let key = tree.get(*n);
                key.is_none_or(|k| fresh && k.handle < fresh_from)
            });
            first.into_iter().for_each(|n| tree.make_partial(n));
        }
        Some(tree)
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
