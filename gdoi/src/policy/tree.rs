//! Key trees (LKH): what a member is given at registration, what a push brings those who stay, and how they follow.
//!
//! A key is an IV of a block, then the key itself. In an update array the IV stands in clear and the key behind it is
//! encrypted with CBC under the key of the entry before, with that IV (RFC 6407 section 5.6.3.2 leaves this open).

use std::collections::BTreeMap;

use keyferry_crypto::{BlockCipher, CryptoError, Secret};
use keyferry_model::lkh::{NodeKey, TreeUpdate};
use keyferry_model::rekey_sa::RekeySa;
use keyferry_wire::Encode;

use crate::message::BLOCK;
use crate::wire::lkh::{DownloadArray, LkhKey, UpdateArray};
use crate::wire::registry::kek;

/// LKH ID of the root, whose key is the KEK.
const ROOT: u16 = 1;

/// KEK_ALG_AES as a key's type.
const AES: u8 = kek::AES as u8;

/// A key on its way into an array.
struct Entry<'a> {
    id: u16,
    handle: u32,
    key: &'a [u8],
}

impl<'a> Entry<'a> {
    fn node(key: &'a NodeKey) -> Self {
        // A tree has fewer than 2^16 nodes (`lkh::MAX_CAPACITY`).
        let id = u16::try_from(key.node).expect("LKH IDs have 16 bits, and trees keep to that");
        Self { id, handle: key.handle, key: key.key.expose() }
    }

    /// The root. Its handle comes from the SPI, which is fresh for each KEK.
    fn root(sa: &'a RekeySa) -> Self {
        let mut handle = [0; 4];
        handle.copy_from_slice(&sa.spi[..4]);
        Self { id: ROOT, handle: u32::from_be_bytes(handle), key: sa.keymat.expose() }
    }

    fn with_data<'d>(&self, data: &'d [u8]) -> LkhKey<'d> {
        LkhKey { id: self.id, kind: AES, created: 0, expires: 0, handle: self.handle, data }
    }
}

/// LKH_DOWNLOAD_ARRAY: the member's path, leaf first, then the KEK.
pub(crate) fn download(path: &[NodeKey], sa: &RekeySa) -> Secret {
    let entries: Vec<Entry<'_>> = path.iter().map(Entry::node).chain(std::iter::once(Entry::root(sa))).collect();
    let array = DownloadArray { keys: entries.iter().map(|e| e.with_data(e.key)).collect() };
    let mut out = Vec::with_capacity(4 + entries.iter().map(|e| 16 + e.key.len()).sum::<usize>());
    array.encode(&mut out);
    Secret::new(out)
}

/// LKH_UPDATE_ARRAYs: one from each key that members have and that wraps a new one, up to the new KEK.
pub(crate) fn updates(tree: &TreeUpdate, sa: &RekeySa, cipher: BlockCipher) -> Result<Vec<Vec<u8>>, CryptoError> {
    let parents: BTreeMap<u32, &NodeKey> = tree.wraps.iter().map(|w| (w.under.handle, &w.key)).collect();
    let is_new = |key: &NodeKey| tree.wraps.iter().any(|w| w.key.handle == key.handle);
    let starts = tree.wraps.iter().map(|w| &w.under).chain(&tree.tops).filter(|k| !is_new(k));
    let mut arrays = Vec::new();
    for start in starts {
        let mut entries = Vec::new();
        let mut at = start.handle;
        while let Some(parent) = parents.get(&at) {
            entries.push(Entry::node(parent));
            at = parent.handle;
        }
        entries.push(Entry::root(sa));
        arrays.push(update(&Entry::node(start), &entries, cipher)?);
    }
    Ok(arrays)
}

fn update(start: &Entry<'_>, entries: &[Entry<'_>], cipher: BlockCipher) -> Result<Vec<u8>, CryptoError> {
    let mut wrapped = Vec::with_capacity(entries.len());
    let mut under = start.key;
    for entry in entries {
        let mut data = entry.key.to_vec();
        let (iv, key) = split_mut(&mut data)?;
        cipher.encrypt(secret_part(under), &iv, key)?;
        wrapped.push(data);
        under = entry.key;
    }
    let keys = entries.iter().zip(&wrapped).map(|(e, data)| e.with_data(data)).collect();
    Ok(UpdateArray { id: start.id, handle: start.handle, keys }.to_vec())
}

fn split_mut(data: &mut [u8]) -> Result<([u8; BLOCK], &mut [u8]), CryptoError> {
    match data.split_first_chunk_mut::<BLOCK>() {
        Some((iv, key)) => Ok((*iv, key)),
        None => Err(CryptoError::Length("a key of the tree")),
    }
}

/// A key without the IV in front.
pub(crate) fn secret_part(key: &[u8]) -> &[u8] {
    key.get(BLOCK..).unwrap_or_default()
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
        let fits = |k: &LkhKey<'_>| k.kind == AES && k.data.len() == BLOCK + cipher.key_len();
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
    pub(crate) fn follow(&self, arrays: &[UpdateArray<'_>], cipher: BlockCipher) -> Option<(Self, Secret)> {
        let ours = |a: &UpdateArray<'_>| self.0.iter().find(|k| k.id == a.id && k.handle == a.handle);
        let (array, start) = arrays.iter().find_map(|a| ours(a).map(|k| (a, k)))?;
        let mut tree = Self(self.0.iter().map(TreeKey::duplicate).collect());
        let mut under = start.key.duplicate();
        for entry in &array.keys {
            if entry.kind != AES || entry.data.len() != BLOCK + cipher.key_len() {
                return None;
            }
            let mut data = entry.data.to_vec();
            let (iv, key) = split_mut(&mut data).ok()?;
            cipher.decrypt(secret_part(under.expose()), &iv, key).ok()?;
            under = Secret::new(data);
            tree.0.retain(|k| k.id != entry.id);
            tree.0.push(TreeKey { id: entry.id, handle: entry.handle, key: under.duplicate() });
        }
        Some((tree, under))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::time::Duration;

    use keyferry_crypto::SeededRandom;
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
        }
    }

    #[test]
    fn those_who_stay_follow_and_the_excluded_do_not() {
        let mut rng = SeededRandom::new(11);
        let mut tree = KeyTree::new(8, 32);
        let leaves: Vec<u32> = (0..6).map(|_| tree.join(&mut rng).unwrap()).collect();
        let mut members: Vec<Tree> = leaves
            .iter()
            .map(|leaf| {
                let octets = download(&tree.path(*leaf), &rekey_sa(1));
                let (member, kek) = Tree::learn(&DownloadArray::exact(octets.expose()).unwrap(), CIPHER).unwrap();
                assert_eq!(kek.expose(), [1; 32]);
                member
            })
            .collect();
        let gone = members.remove(2);
        for (round, evicted) in [(2u8, vec![leaves[2]]), (3, vec![])] {
            let update = tree.evict(&evicted, &mut rng);
            let arrays = updates(&update, &rekey_sa(round), CIPHER).unwrap();
            let arrays: Vec<_> = arrays.iter().map(|a| UpdateArray::exact(a).unwrap()).collect();
            for member in &mut members {
                let (after, kek) = member.follow(&arrays, CIPHER).unwrap();
                assert_eq!(kek.expose(), [round; 32]);
                assert_eq!(after.leaf().unwrap().expose(), member.leaf().unwrap().expose());
                *member = after;
            }
            assert!(gone.follow(&arrays, CIPHER).is_none());
        }
    }

    #[test]
    fn keys_of_a_wrong_size_are_refused() {
        let octets = download(&[], &rekey_sa(1));
        let array = DownloadArray::exact(octets.expose()).unwrap();
        assert!(Tree::learn(&array, BlockCipher::Aes256Cbc).is_none());
        assert!(Tree::learn(&array, CIPHER).unwrap().0.leaf().is_none());
    }
}
