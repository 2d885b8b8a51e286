//! Puts fragments together, for tests: as RFC 791 and RFC 8200 say, and strictly. Whatever overlaps, is missing or differs is
//! refused by a panic.

use std::collections::BTreeMap;

/// The packet that IPv4 fragments are of, in any order. Its header is the first fragment's.
pub(crate) fn v4(fragments: &[Vec<u8>]) -> Vec<u8> {
    let mut parts = BTreeMap::new();
    let mut header = Vec::new();
    for fragment in fragments {
        let header_len = usize::from(fragment[0] & 0x0f) * 4;
        assert_eq!(usize::from(u16::from_be_bytes([fragment[2], fragment[3]])), fragment.len());
        assert_eq!(sum(&fragment[..header_len]), 0xffff, "checksum");
        assert_eq!((&fragment[4..6], &fragment[8..10], &fragment[12..20]), {
            let first = &fragments[0];
            (&first[4..6], &first[8..10], &first[12..20])
        });
        let word = u16::from_be_bytes([fragment[6], fragment[7]]);
        let (offset, more) = (usize::from(word & 0x1fff) * 8, word & 0x2000 != 0);
        assert_eq!(word & 0x4000, 0, "a fragment bears DF");
        if offset == 0 {
            header = fragment[..header_len].to_vec();
        }
        assert!(parts.insert(offset, (fragment[header_len..].to_vec(), more)).is_none(), "one place twice");
    }
    let mut packet = header;
    let header_len = packet.len();
    packet.extend(join(parts));
    let total = u16::try_from(packet.len()).expect("a packet");
    packet[2..4].copy_from_slice(&total.to_be_bytes());
    packet[6..8].fill(0);
    packet[10..12].fill(0);
    let sum = !sum(&packet[..header_len]);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    packet
}

/// The packet that IPv6 fragments are of, in any order, whose Fragment header stands at `at` and is named at `named_at`.
pub(crate) fn v6(fragments: &[Vec<u8>], at: usize, named_at: usize) -> Vec<u8> {
    let mut parts = BTreeMap::new();
    let first = &fragments[0];
    for fragment in fragments {
        assert_eq!(usize::from(u16::from_be_bytes([fragment[4], fragment[5]])) + 40, fragment.len());
        assert_eq!((&fragment[..4], &fragment[6..at + 2]), (&first[..4], &first[6..at + 2]));
        assert_eq!((fragment[named_at], fragment[at + 1], &fragment[at + 4..at + 8]), (44, 0, &first[at + 4..at + 8]));
        let word = u16::from_be_bytes([fragment[at + 2], fragment[at + 3]]);
        assert_eq!(word & 6, 0);
        let part = (fragment[at + 8..].to_vec(), word & 1 != 0);
        assert!(parts.insert(usize::from(word & 0xfff8), part).is_none(), "one place twice");
    }
    let mut packet = first[..at].to_vec();
    packet[named_at] = first[at];
    packet.extend(join(parts));
    let payload = u16::try_from(packet.len() - 40).expect("a packet");
    packet[4..6].copy_from_slice(&payload.to_be_bytes());
    packet
}

fn join(parts: BTreeMap<usize, (Vec<u8>, bool)>) -> Vec<u8> {
    let last = parts.len() - 1;
    let mut whole = Vec::new();
    for (number, (offset, (part, more))) in parts.into_iter().enumerate() {
        assert_eq!(offset, whole.len(), "a hole or an overlap");
        assert_eq!(more, number != last);
        assert!(!more || part.len() % 8 == 0);
        whole.extend(part);
    }
    whole
}

fn sum(header: &[u8]) -> u16 {
    header.chunks(2).fold(0, |sum, pair| {
        let (added, carried) = sum.overflowing_add(u16::from_be_bytes([pair[0], pair[1]]));
        added + u16::from(carried)
    })
}
