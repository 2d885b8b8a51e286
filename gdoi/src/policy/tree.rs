//! Key trees (LKH): what a member is given at registration, what a push brings those who stay, and how they follow.
//!
//! A key is an IV of a block, then the key itself. In an update array the IV stands in clear and the key behind it is
//! encrypted with CBC under the key of the entry before, with that IV (RFC 6407 section 5.6.3.2 leaves this open).

use std::collections::{BTreeMap, BTreeSet};

use keyferry_crypto::{BlockCipher, CryptoError, Secret};
use keyferry_model::lkh::{NodeKey, TreeUpdate};
use keyferry_model::reading::Reading;
use keyferry_model::rekey_sa::RekeySa;
use keyferry_wire::Encode;

use crate::policy::algorithms::kek_algorithm;
use crate::wire::lkh::{DownloadArray, LkhKey, UpdateArray, encode_update};

/// LKH ID of the root, whose key is the KEK.
const ROOT: u16 = 1;

/// From here on LKH IDs tell the height of a node and the low bits of where it is there.
const HIGH: u32 = 0x8000;

/// LKH ID of a node. 16 bits do not number all nodes of a large tree, but they tell those of one path apart, and the handle, which
/// no two keys of a tree share, says which node it is.
fn lkh_id(key: &NodeKey) -> u16 {
    let near = key.node + u32::from(ROOT) + 1;
    let id =
        if near < HIGH { near } else { HIGH | (key.height() & 0x1f) << 10 | key.node >> (key.height() + 1) & 0x3ff };
    u16::try_from(id).expect("numbers below 2^16 either way")
}

/// Type of the keys of a tree: KEK_ALGORITHM of the cipher.
fn kind(cipher: BlockCipher) -> u8 {
    u8::try_from(kek_algorithm(cipher)).expect("the registry has few")
}

/// A key on its way into an array.
struct Entry<'a> {
    id: u16,
    handle: u32,
    key: &'a [u8],
}

impl<'a> Entry<'a> {
    fn node(key: &'a NodeKey) -> Self {
        Self { id: lkh_id(key), handle: key.handle, key: key.key.expose() }
    }

    /// The root. Its handle comes from the SPI, which is fresh for each KEK.
    fn root(sa: &'a RekeySa) -> Self {
        let mut handle = [0; 4];
        handle.copy_from_slice(&sa.spi[..4]);
        Self { id: ROOT, handle: u32::from_be_bytes(handle), key: sa.keymat.expose() }
    }

    fn with_data<'d>(&self, cipher: BlockCipher, data: &'d [u8]) -> LkhKey<'d> {
        LkhKey { id: self.id, kind: kind(cipher), created: 0, expires: 0, handle: self.handle, data }
    }
}

/// LKH_DOWNLOAD_ARRAY: the member's path, leaf first, then the KEK.
pub(crate) fn download(path: &[NodeKey], sa: &RekeySa, cipher: BlockCipher) -> Secret {
    let entries: Vec<Entry<'_>> = path.iter().map(Entry::node).chain(std::iter::once(Entry::root(sa))).collect();
    let array = DownloadArray { keys: entries.iter().map(|e| e.with_data(cipher, e.key)).collect() };
    let mut out = Vec::with_capacity(4 + entries.iter().map(|e| 16 + e.key.len()).sum::<usize>());
    array.encode(&mut out);
    Secret::new(out)
}

/// LKH_UPDATE_ARRAYs: one from each key that members have and that wraps a new one, up to the new KEK. Arrays share their ends,
/// so each key is encrypted once for each of the two keys that wrap it.
pub(crate) fn updates(tree: &TreeUpdate, sa: &RekeySa, cipher: BlockCipher) -> Result<Vec<Vec<u8>>, CryptoError> {
    let root = Entry::root(sa);
    let is_new: BTreeSet<u32> = tree.wraps.iter().map(|w| w.key.handle).collect();
    // By the handle of the key that wraps: the entry that follows it in an array, and the handle of that entry.
    let mut steps: BTreeMap<u32, (Vec<u8>, u32)> = BTreeMap::new();
    for w in &tree.wraps {
        steps.insert(w.under.handle, (wrapped(&Entry::node(&w.key), &w.under, cipher)?, w.key.handle));
    }
    let mut ends: BTreeMap<u32, Vec<u8>> = BTreeMap::new();
    for top in &tree.tops {
        ends.insert(top.handle, wrapped(&root, top, cipher)?);
    }
    let starts = tree.wraps.iter().map(|w| &w.under).chain(&tree.tops).filter(|k| !is_new.contains(&k.handle));
    Ok(starts.map(|start| update(start, &steps, &ends)).collect())
}

/// The entry of a key in an update array, behind the entry of `under`.
fn wrapped(entry: &Entry<'_>, under: &NodeKey, cipher: BlockCipher) -> Result<Vec<u8>, CryptoError> {
    let mut data = entry.key.to_vec();
    // A key that is no whole number of blocks (AES-192) is filled up with zeros.
    data.resize(wrapped_len(cipher), 0);
    let (iv, key) = split_mut(cipher, &mut data)?;
    cipher.encrypt(secret_part(cipher, under.key.expose()), iv, key)?;
    Ok(entry.with_data(cipher, &data).to_vec())
}

fn update(start: &NodeKey, steps: &BTreeMap<u32, (Vec<u8>, u32)>, ends: &BTreeMap<u32, Vec<u8>>) -> Vec<u8> {
    let mut entries = Vec::new();
    let mut at = start.handle;
    while let Some((entry, next)) = steps.get(&at) {
        entries.push(entry.as_slice());
        at = *next;
    }
    entries.extend(ends.get(&at).map(Vec::as_slice));
    encode_update(lkh_id(start), start.handle, &entries)
}

fn split_mut(cipher: BlockCipher, data: &mut [u8]) -> Result<(&mut [u8], &mut [u8]), CryptoError> {
    data.split_at_mut_checked(cipher.block_len()).ok_or(CryptoError::Length("a key of the tree"))
}

/// A key without the IV in front.
pub(crate) fn secret_part(cipher: BlockCipher, key: &[u8]) -> &[u8] {
    key.get(cipher.block_len()..).unwrap_or_default()
}

/// Octets of a key with the IV in front.
pub(crate) fn keymat_len(cipher: BlockCipher) -> usize {
    cipher.block_len() + cipher.key_len()
}

/// The same in an update array, where the key is encrypted in whole blocks.
fn wrapped_len(cipher: BlockCipher) -> usize {
    cipher.block_len() + cipher.key_len().next_multiple_of(cipher.block_len())
}

/// A key of the tree as a member has it.
#[derive(Debug)]
pub(crate) struct TreeKey {
    id: u16,
    handle: u32,
    key: Secret,
}

impl TreeKey {
    fn duplicate(&self) -> Self {
        Self { id: self.id, handle: self.handle, key: self.key.duplicate() }
    }
}

/// A member's part of the tree: its leaf, the keys above it, and the KEK.
#[derive(Debug, Default)]
pub(crate) struct Tree(Vec<TreeKey>);

impl Tree {
    /// Reads what a registration brought; also returns the KEK with its IV. `None` if keys do not fit the KEK's cipher.
    pub(crate) fn learn(array: &DownloadArray<'_>, cipher: BlockCipher) -> Option<(Self, Secret)> {
        let fits = |k: &LkhKey<'_>| k.kind == kind(cipher) && k.data.len() == keymat_len(cipher);
        let (kek, _) = array.keys.split_last().filter(|_| array.keys.iter().all(fits))?;
        let own = |k: &LkhKey<'_>| TreeKey { id: k.id, handle: k.handle, key: Secret::copy_from(k.data) };
        Some((Self(array.keys.iter().map(own).collect()), Secret::copy_from(kek.data)))
    }

    /// The leaf's key with its IV, which only this member and the key server have. The KEK alone is no leaf.
    pub(crate) fn leaf(&self) -> Option<&Secret> {
        self.0.first().filter(|_| self.0.len() > 1).map(|k| &k.key)
    }

    /// Follows a push: the tree as it is afterwards, and the new KEK with its IV. `None` when no array begins with a key
    /// of ours: we are excluded.
    pub(crate) fn follow(&self, arrays: &[UpdateArray<'_>], cipher: BlockCipher) -> Option<Followed> {
        self.follow_in(None, arrays, cipher)
    }

    /// The same in each other reading. Which one is right only the next push shows, that opens under the KEK.
    pub(crate) fn follow_otherwise(&self, arrays: &[UpdateArray<'_>], cipher: BlockCipher) -> Vec<(Reading, Followed)> {
        let others = [Reading::LkhEncryptedIv, Reading::LkhParentIv];
        others.into_iter().filter_map(|r| Some((r, self.follow_in(Some(r), arrays, cipher)?))).collect()
    }

    fn follow_in(&self, reading: Option<Reading>, arrays: &[UpdateArray<'_>], cipher: BlockCipher) -> Option<Followed> {
        let ours = |a: &UpdateArray<'_>| self.0.iter().find(|k| k.id == a.id && k.handle == a.handle);
        let (array, start) = arrays.iter().find_map(|a| ours(a).map(|k| (a, k)))?;
        let mut tree = Self(self.0.iter().map(TreeKey::duplicate).collect());
        let mut under = start.key.duplicate();
        for entry in &array.keys {
            if entry.kind != kind(cipher) || entry.data.len() != wrapped_len(cipher) {
                return None;
            }
            under = unwrapped(reading, entry.data, &under, cipher)?;
            tree.0.retain(|k| k.id != entry.id);
            tree.0.push(TreeKey { id: entry.id, handle: entry.handle, key: under.duplicate() });
        }
        Some((tree, under))
    }
}

/// A tree as it is after a push, and the new KEK with its IV.
pub(crate) type Followed = (Tree, Secret);

/// A key of an update array, which stands behind the key `under`.
fn unwrapped(reading: Option<Reading>, data: &[u8], under: &Secret, cipher: BlockCipher) -> Option<Secret> {
    let mut data = data.to_vec();
    let (parent_iv, parent) = (under.expose().get(..cipher.block_len())?, secret_part(cipher, under.expose()));
    match reading {
        Some(Reading::LkhEncryptedIv) => cipher.decrypt(parent, parent_iv, &mut data).ok()?,
        Some(Reading::LkhParentIv) => cipher.decrypt(parent, parent_iv, split_mut(cipher, &mut data).ok()?.1).ok()?,
        Some(_) | None => {
            let (iv, key) = split_mut(cipher, &mut data).ok()?;
            cipher.decrypt(parent, iv, key).ok()?;
        }
    }
    let data = Secret::new(data);
    Some(Secret::copy_from(data.expose().get(..keymat_len(cipher))?))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::time::Duration;

    use keyferry_crypto::{Random, SeededRandom};
    use keyferry_model::lkh::KeyTree;
    use keyferry_wire::Decode;

    use super::*;

    const CIPHER: BlockCipher = BlockCipher::Aes128Cbc;

    fn rekey_sa(n: u8) -> RekeySa {
        RekeySa {
            spi: [n; 16],
            keymat: Secret::copy_from(&[n; 32]),
            created: Duration::ZERO,
            expires: Duration::from_secs(3600),
            next_spi: None,
        }
    }

    /// A member as its registration makes it.
    fn registered(tree: &KeyTree, leaf: u32, kek: u8) -> Tree {
        let octets = download(&tree.path(leaf), &rekey_sa(kek), CIPHER);
        let (member, keymat) = Tree::learn(&DownloadArray::exact(octets.expose()).unwrap(), CIPHER).unwrap();
        assert_eq!(keymat.expose(), [kek; 32]);
        let ids: BTreeSet<u16> = member.0.iter().map(|k| k.id).collect();
        assert_eq!(ids.len(), member.0.len(), "IDs tell the keys of a path apart");
        member
    }

    /// Members come and go, singly and in batches. Those who stay get each new KEK, and who is gone gets none of the later
    /// ones, nor who comes any of the earlier ones.
    #[test]
    fn those_who_stay_follow_and_the_excluded_do_not() {
        let mut rng = SeededRandom::new(11);
        let mut tree = KeyTree::new(1000, 32);
        let (mut present, mut gone): (Vec<(u32, Tree)>, Vec<Tree>) = (Vec::new(), Vec::new());
        let mut pushes: Vec<Vec<Vec<u8>>> = Vec::new();
        for round in 2u8..40 {
            for _ in 0..rng.below(12) + 1 {
                let leaf = tree.join(&mut rng).unwrap();
                let member = registered(&tree, leaf, round - 1);
                // A key of the path from before would open what was sent before.
                for arrays in &pushes {
                    let arrays: Vec<_> = arrays.iter().map(|a| UpdateArray::exact(a).unwrap()).collect();
                    assert!(member.follow(&arrays, CIPHER).is_none(), "round {round}");
                }
                present.push((leaf, member));
            }
            let mut evicted = Vec::new();
            for _ in 0..(rng.below(4) + u64::from(round % 2)).min(present.len() as u64) {
                let at = usize::try_from(rng.below(present.len() as u64)).unwrap();
                let (leaf, member) = present.swap_remove(at);
                evicted.push(leaf);
                gone.push(member);
            }
            let update = tree.evict(&evicted, &mut rng);
            let octets = updates(&update, &rekey_sa(round), CIPHER).unwrap();
            let arrays: Vec<_> = octets.iter().map(|a| UpdateArray::exact(a).unwrap()).collect();
            for (_, member) in &mut present {
                let (after, kek) = member.follow(&arrays, CIPHER).unwrap();
                assert_eq!(kek.expose(), [round; 32]);
                assert_eq!(after.leaf().unwrap().expose(), member.leaf().unwrap().expose());
                *member = after;
            }
            assert!(gone.iter().all(|member| member.follow(&arrays, CIPHER).is_none()));
            pushes.push(octets);
        }
        assert!(present.len() > 50 && gone.len() > 50);
    }

    /// In a large group two nodes may have one LKH ID, but not on one path, and the handle tells which is meant.
    #[test]
    fn evictions_of_a_large_group_fit_a_datagram_and_reach_the_right_members() {
        let mut rng = SeededRandom::new(12);
        let mut tree = KeyTree::new(100_000, 48);
        let leaves: Vec<u32> = (0..100_000).map(|_| tree.join(&mut rng).unwrap()).collect();
        let cipher = BlockCipher::Aes256Cbc;
        let sa = |n| RekeySa { keymat: Secret::copy_from(&[n; 48]), ..rekey_sa(n) };
        let mut members: Vec<Tree> = leaves
            .iter()
            .step_by(997)
            .map(|leaf| {
                let octets = download(&tree.path(*leaf), &sa(1), cipher);
                Tree::learn(&DownloadArray::exact(octets.expose()).unwrap(), cipher).unwrap().0
            })
            .collect();
        for (n, gone) in [(2, 50_001), (3, 2), (4, 99_998)] {
            let update = tree.evict(&leaves[gone..=gone], &mut rng);
            let arrays = updates(&update, &sa(n), cipher).unwrap();
            assert!(arrays.iter().map(Vec::len).sum::<usize>() < 32_768);
            let arrays: Vec<_> = arrays.iter().map(|a| UpdateArray::exact(a).unwrap()).collect();
            for member in &mut members {
                let (after, kek) = member.follow(&arrays, cipher).unwrap();
                assert_eq!(kek.expose(), [n; 48]);
                *member = after;
            }
        }
    }

    #[test]
    fn keys_of_a_wrong_size_are_refused() {
        let octets = download(&[], &rekey_sa(1), CIPHER);
        let array = DownloadArray::exact(octets.expose()).unwrap();
        assert!(Tree::learn(&array, BlockCipher::Aes256Cbc).is_none());
        assert!(Tree::learn(&array, CIPHER).unwrap().0.leaf().is_none());
    }
}
