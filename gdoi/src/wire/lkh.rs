//! Arrays of keys of a key tree, inside LKH key packets.

use keyferry_wire::{Decode, Encode, Parsed};
use nom::Parser;
use nom::bytes::complete::take;
use nom::number::complete::{be_u8, be_u16, be_u32};

use super::refuse;

/// The version of the format (RFC 6407 section 5.6.3.1).
const VERSION: u8 = 1;

/// The most keys taken in one array: as many as a tree of 2^64 members has above each other.
const MAX_KEYS: u16 = 64;

/// A key at a node (RFC 6407 section 5.6.3.1).
///
/// ```text
///  0                   1                   2                   3
///  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// !             LKH ID            !    Key Type   !    RESERVED   !
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// !                        Key Creation Date                      !
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// !                       Key Expiration Date                     !
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// !                           Key Handle                          !
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// ~                            Key Data                           ~
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// ```
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct LkhKey<'a> {
    /// Node.
    pub id: u16,
    /// Algorithm, as KEK_ALGORITHM has them.
    pub kind: u8,
    /// When the key was made, seconds since 1970; zero says nothing.
    pub created: u32,
    /// When it ends; zero is never.
    pub expires: u32,
    /// Names this key of the node.
    pub handle: u32,
    /// IV and key; in an update array the key is encrypted.
    pub data: &'a [u8],
}

const KEY_HEAD: usize = 16;

impl std::fmt::Debug for LkhKey<'_> {
    /// Without the key.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LkhKey").field("id", &self.id).field("handle", &self.handle).finish_non_exhaustive()
    }
}

impl Encode for LkhKey<'_> {
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.id.to_be_bytes());
        out.extend([self.kind, 0]);
        for n in [self.created, self.expires, self.handle] {
            out.extend_from_slice(&n.to_be_bytes());
        }
        out.extend_from_slice(self.data);
    }
}

/// Takes `count` keys that fill the rest. Key data bears no length; all keys of an array are of one algorithm, so
/// each has an equal share.
fn keys(input: &[u8], count: u16) -> Parsed<'_, Vec<LkhKey<'_>>> {
    let n = usize::from(count);
    if !(1..=MAX_KEYS).contains(&count) || !input.len().is_multiple_of(n) || input.len() / n <= KEY_HEAD {
        return refuse(input);
    }
    let data_len = input.len() / n - KEY_HEAD;
    let mut left = input;
    let mut list = Vec::with_capacity(n);
    for _ in 0..n {
        let (after, (id, kind, _reserved, created, expires, handle, data)) =
            (be_u16, be_u8, be_u8, be_u32, be_u32, be_u32, take(data_len)).parse(left)?;
        list.push(LkhKey { id, kind, created, expires, handle, data });
        left = after;
    }
    Ok((left, list))
}

fn array_head(input: &[u8]) -> Parsed<'_, u16> {
    let (left, (version, count, _reserved)) = (be_u8, be_u16, be_u8).parse(input)?;
    if version == VERSION { Ok((left, count)) } else { refuse(input) }
}

fn put_array_head(out: &mut Vec<u8>, keys: usize) {
    let count = u16::try_from(keys).unwrap_or(u16::MAX);
    out.push(VERSION);
    out.extend_from_slice(&count.to_be_bytes());
    out.push(0);
}

/// LKH_DOWNLOAD_ARRAY (RFC 6407 section 5.6.3.1): a member's keys from its leaf up to the group's KEK.
///
/// ```text
///  0                   1                   2                   3
///  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// !  LKH Version  !          # of LKH Keys        !  RESERVED     !
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// ~                             LKH Keys                          ~
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct DownloadArray<'a> {
    /// Keys, leaf first, KEK last; at least one.
    pub keys: Vec<LkhKey<'a>>,
}

impl<'a> Decode<'a> for DownloadArray<'a> {
    fn decode(input: &'a [u8]) -> Parsed<'a, Self> {
        let (left, count) = array_head(input)?;
        let (left, keys) = keys(left, count)?;
        Ok((left, Self { keys }))
    }
}

impl Encode for DownloadArray<'_> {
    fn encode(&self, out: &mut Vec<u8>) {
        put_array_head(out, self.keys.len());
        self.keys.iter().for_each(|k| k.encode(out));
    }
}

/// LKH_UPDATE_ARRAY (RFC 6407 section 5.6.3.2): new keys from a node up to the new KEK, each encrypted under the one
/// before it, the first under a key that receivers have.
///
/// ```text
///  0                   1                   2                   3
///  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// !  LKH Version  !          # of LKH Keys        !  RESERVED     !
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// !            LKH ID             !           RESERVED2           !
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// !                           Key Handle                          !
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// ~                            LKH Keys                           ~
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct UpdateArray<'a> {
    /// Node whose key encrypts the first key.
    pub id: u16,
    /// Which of its keys.
    pub handle: u32,
    /// Keys, KEK last; at least one.
    pub keys: Vec<LkhKey<'a>>,
}

impl<'a> Decode<'a> for UpdateArray<'a> {
    fn decode(input: &'a [u8]) -> Parsed<'a, Self> {
        let (left, (count, id, _reserved, handle)) = (array_head, be_u16, be_u16, be_u32).parse(input)?;
        let (left, keys) = keys(left, count)?;
        Ok((left, Self { id, handle, keys }))
    }
}

impl Encode for UpdateArray<'_> {
    fn encode(&self, out: &mut Vec<u8>) {
        put_update_head(out, self.id, self.handle, self.keys.len());
        self.keys.iter().for_each(|k| k.encode(out));
    }
}

fn put_update_head(out: &mut Vec<u8>, id: u16, handle: u32, keys: usize) {
    put_array_head(out, keys);
    out.extend_from_slice(&id.to_be_bytes());
    out.extend_from_slice(&[0, 0]);
    out.extend_from_slice(&handle.to_be_bytes());
}

/// An LKH_UPDATE_ARRAY of keys that are encoded already.
#[must_use]
pub fn encode_update(id: u16, handle: u32, keys: &[&[u8]]) -> Vec<u8> {
    let mut out = Vec::with_capacity(12 + keys.iter().map(|k| k.len()).sum::<usize>());
    put_update_head(&mut out, id, handle, keys.len());
    keys.iter().for_each(|k| out.extend_from_slice(k));
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::check::{canonical, round_trip};

    fn key(id: u16) -> LkhKey<'static> {
        LkhKey { id, kind: 3, created: 1, expires: 2, handle: 77, data: &[4; 32] }
    }

    #[test]
    fn key_arrays_round_trip() {
        round_trip(&DownloadArray { keys: vec![key(4), key(2), key(1)] }, &mut Vec::new());
        let update = UpdateArray { id: 5, handle: 9, keys: vec![key(2), key(1)] };
        round_trip(&update, &mut Vec::new());
        canonical::<UpdateArray<'_>>(&update.to_vec());
        canonical::<DownloadArray<'_>>(&DownloadArray { keys: vec![key(3)] }.to_vec());
        assert_eq!(encode_update(5, 9, &[&key(2).to_vec(), &key(1).to_vec()]), update.to_vec());
    }

    #[test]
    fn counts_must_fit_the_octets() {
        let mut octets = DownloadArray { keys: vec![key(4), key(2)] }.to_vec();
        octets.push(0);
        assert!(DownloadArray::exact(&octets).is_err());
        assert!(DownloadArray::exact(&[1, 0, 0, 0]).is_err());
        assert!(DownloadArray::exact(&[1, 0xff, 0xff, 0]).is_err());
        assert!(DownloadArray::exact(&[2, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]).is_err());
    }
}
