//! The working key path: the tree keys a member knows, whatever tree the key server keeps (RFC 9838 section 3.3).

use std::collections::BTreeSet;

use keyferry_crypto::{Secret, keywrap};

use crate::wire::kd::WrappedKey;

/// Keys from deeper are never needed: a tree of a million members has paths of half that length.
const DEEPEST: usize = 40;

/// Keys a member has, the one nearest to the Rekey SA first, its own leaf last.
#[derive(Debug, Default)]
pub(crate) struct WorkingPath(Vec<(u32, Secret)>);

/// Keying material of an SA, and the path that led there.
#[derive(Debug)]
pub(crate) struct Unwrapped {
    pub(crate) keymat: Secret,
    /// The new working path, if it changes.
    pub(crate) path: Option<WorkingPath>,
}

/// Where a key path ended.
enum End {
    /// At the default key wrap key.
    Default,
    /// At this place of the working path.
    Known(usize),
}

/// A search for one key path.
struct Search<'a> {
    known: &'a WorkingPath,
    wraps: &'a [WrappedKey<'a>],
    default: &'a Secret,
    /// Keys that were looked for: each once, so a crafted message costs no more than its length.
    seen: BTreeSet<u32>,
}

impl WorkingPath {
    /// Number of keys.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// The member's own key, and what names it.
    pub(crate) fn own(&self) -> Option<(u32, &Secret)> {
        self.0.last().map(|(id, key)| (*id, key))
    }

    /// Finds the keying material that one of `sa_keys` holds: under the default key (KWK ID 0), a key of this path, or
    /// keys of `wraps` that lead to one of those. `None` means that the member is excluded.
    pub(crate) fn unwrap(
        &self,
        sa_keys: &[WrappedKey<'_>],
        wraps: &[WrappedKey<'_>],
        default: &Secret,
    ) -> Option<Unwrapped> {
        let mut search = Search { known: self, wraps, default, seen: BTreeSet::new() };
        sa_keys.iter().find_map(|sa_key| {
            let mut fresh = Vec::new();
            let (kwk, end) = search.find(sa_key.kwk_id, &mut fresh)?;
            let keymat = keywrap::unwrap(kwk.expose(), &sa_key.encrypted).ok()?;
            Some(Unwrapped { keymat, path: self.updated(fresh, &end) })
        })
    }

    /// The path with `fresh` keys, deepest first, in place of those above the end.
    fn updated(&self, fresh: Vec<(u32, Secret)>, end: &End) -> Option<WorkingPath> {
        if fresh.is_empty() {
            return None;
        }
        let mut keys: Vec<(u32, Secret)> = fresh.into_iter().rev().collect();
        if let End::Known(at) = end {
            keys.extend(self.0[*at..].iter().map(|(id, key)| (*id, key.duplicate())));
        }
        Some(WorkingPath(keys))
    }
}

impl Search<'_> {
    /// The key with this ID. Keys unwrapped on the way are appended to `fresh`, deepest first.
    fn find(&mut self, id: u32, fresh: &mut Vec<(u32, Secret)>) -> Option<(Secret, End)> {
        self.find_at(id, fresh, 0)
    }

    fn find_at(&mut self, id: u32, fresh: &mut Vec<(u32, Secret)>, depth: usize) -> Option<(Secret, End)> {
        if id == 0 {
            return Some((self.default.duplicate(), End::Default));
        }
        if let Some(at) = self.known.0.iter().position(|(known, _)| *known == id) {
            return Some((self.known.0[at].1.duplicate(), End::Known(at)));
        }
        if depth == DEEPEST || !self.seen.insert(id) {
            return None;
        }
        let wraps = self.wraps;
        for wrap in wraps.iter().filter(|w| w.key_id == id) {
            let before = fresh.len();
            if let Some((kwk, end)) = self.find_at(wrap.kwk_id, fresh, depth + 1) {
                let unwrapped = keywrap::unwrap(kwk.expose(), &wrap.encrypted).ok();
                if let Some(key) = unwrapped.filter(|k| matches!(k.len(), 16 | 24 | 32)) {
                    fresh.push((id, key.duplicate()));
                    return Some((key, end));
                }
            }
            fresh.truncate(before);
        }
        None
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::policy::to_wire::wrapped;

    fn key(n: u8) -> Secret {
        Secret::new(vec![n; 16])
    }

    fn wrap(id: u8, under: u8) -> WrappedKey<'static> {
        wrapped(u32::from(id), &key(id), u32::from(under), &key(under)).unwrap()
    }

    fn sa_key(n: u8, under: u8) -> WrappedKey<'static> {
        wrapped(0, &Secret::new(vec![n; 36]), u32::from(under), &key(under)).unwrap()
    }

    fn ids(path: &WorkingPath) -> Vec<u32> {
        path.0.iter().map(|(id, _)| *id).collect()
    }

    /// The tree of RFC 9838 appendix A.2: leaves 7 to 14, inner nodes 1 to 6. The default key is key 0.
    fn registered(path: [u8; 3]) -> WorkingPath {
        let [top, middle, leaf] = path;
        let wraps = [wrap(top, middle), wrap(middle, leaf), wrap(leaf, 0)];
        let found = WorkingPath::default().unwrap(&[sa_key(101, top)], &wraps, &key(0)).unwrap();
        assert_eq!(found.keymat.expose()[0], 101);
        found.path.unwrap()
    }

    #[test]
    fn a_registration_gives_the_whole_path() {
        assert_eq!(ids(&registered([1, 3, 7])), [1, 3, 7]);
    }

    #[test]
    fn an_exclusion_works_as_in_appendix_a4() {
        // F (12) is excluded: 2 becomes 15, 5 becomes 16.
        let sa_keys = [sa_key(103, 1), sa_key(103, 15)];
        let wraps = [wrap(15, 6), wrap(15, 16), wrap(16, 11)];
        let default = key(200);
        let after = |path: WorkingPath| path.unwrap(&sa_keys, &wraps, &default);
        assert!(after(registered([1, 3, 7])).unwrap().path.is_none());
        assert_eq!(ids(&after(registered([2, 6, 13])).unwrap().path.unwrap()), [15, 6, 13]);
        assert_eq!(ids(&after(registered([2, 5, 11])).unwrap().path.unwrap()), [15, 16, 11]);
        assert!(after(registered([2, 5, 12])).is_none());
    }

    /// Tree keys have the length of a key wrap key, whichever the IKE SA's own is (reading 8).
    #[test]
    fn tree_keys_have_the_length_of_a_key_wrap_key() {
        for (len, taken) in [(16, true), (24, true), (32, true), (17, false), (8, false), (40, false)] {
            let tree_key = Secret::new(vec![5; len]);
            let wraps = [wrapped(5, &tree_key, 0, &key(0)).unwrap()];
            // What cannot be a key wrap key wraps nothing: the keying material is under another one that is known.
            let under = if taken { &tree_key } else { &key(5) };
            let found = WorkingPath::default().unwrap(&[wrapped(0, &key(9), 5, under).unwrap()], &wraps, &key(0));
            assert_eq!(found.is_some(), taken, "{len}");
        }
    }

    #[test]
    fn a_simple_rekey_changes_no_path() {
        let found = registered([1, 3, 7]).unwrap(&[sa_key(102, 0)], &[], &key(0)).unwrap();
        assert!(found.path.is_none());
    }

    #[test]
    fn circles_and_lies_lead_nowhere() {
        let path = registered([1, 3, 7]);
        let circle = [wrap(20, 21), wrap(21, 20)];
        assert!(path.unwrap(&[sa_key(1, 20)], &circle, &key(0)).is_none());
        // Says it is under key 3, and is not.
        let mut lie = wrap(20, 9);
        lie.kwk_id = 3;
        assert!(path.unwrap(&[sa_key(1, 20)], &[lie.clone()], &key(0)).is_none());
        // A second way to the same key is tried.
        assert_eq!(path.unwrap(&[sa_key(1, 20)], &[lie, wrap(20, 7)], &key(0)).unwrap().path.unwrap().len(), 2);
    }
}
