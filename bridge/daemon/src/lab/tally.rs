//! Which packets of each sender arrived.

use std::collections::BTreeMap;

use super::talk::{Count, FromSender, Window};

/// Marks the lab's packets; searched for in clear on the wire.
pub(super) const MAGIC: &[u8; 16] = b"keyferry-lab-app";
/// Octets of a packet's UDP payload.
pub(super) const PAYLOAD: usize = 200;
/// Sequence numbers from here on are not believed: a bitmap of them would be 32 MiB.
const SEQUENCE_LIMIT: u64 = 1 << 28;

/// What a packet says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    /// Who sent it.
    pub sender: u16,
    /// Counts up from 0.
    pub sequence: u64,
    /// When, microseconds since the Unix epoch.
    pub sent_us: u64,
}

impl Stamp {
    /// A packet's payload: magic, sender, sequence number, time, then padding.
    pub(super) fn payload(&self) -> [u8; PAYLOAD] {
        let mut out = [0x5a; PAYLOAD];
        out[..16].copy_from_slice(MAGIC);
        out[16..18].copy_from_slice(&self.sender.to_be_bytes());
        out[18..26].copy_from_slice(&self.sequence.to_be_bytes());
        out[26..34].copy_from_slice(&self.sent_us.to_be_bytes());
        out
    }

    /// Reads a payload; `None` when it is not one of ours, whole and as it was sent.
    pub(super) fn parse(payload: &[u8]) -> Option<Self> {
        let payload: &[u8; PAYLOAD] = payload.try_into().ok()?;
        let (magic, rest) = payload.split_first_chunk::<16>()?;
        let (sender, rest) = rest.split_first_chunk::<2>()?;
        let (sequence, rest) = rest.split_first_chunk::<8>()?;
        let (sent_us, padding) = rest.split_first_chunk::<8>()?;
        let sequence = u64::from_be_bytes(*sequence);
        let sound = magic == MAGIC && sequence < SEQUENCE_LIMIT && padding.iter().all(|b| *b == 0x5a);
        sound.then(|| Self { sender: u16::from_be_bytes(*sender), sequence, sent_us: u64::from_be_bytes(*sent_us) })
    }
}

/// Everything that arrived.
#[derive(Debug, Default)]
pub(super) struct Tally {
    senders: BTreeMap<u16, Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    bitmap: Vec<u64>,
    end: u64,
    totals: FromSender,
    total_us: u64,
}

impl Tally {
    /// Notes an arrival.
    pub(super) fn note(&mut self, stamp: Stamp, now_us: u64) {
        let seen = self.senders.entry(stamp.sender).or_default();
        let (word, bit) = position(stamp.sequence);
        if seen.bitmap.len() <= word {
            seen.bitmap.resize(word + 1, 0);
        }
        if seen.bitmap[word] & bit != 0 {
            seen.totals.duplicates += 1;
            return;
        }
        seen.bitmap[word] |= bit;
        seen.totals.received += 1;
        seen.totals.reordered += u64::from(stamp.sequence < seen.end);
        seen.end = seen.end.max(stamp.sequence + 1);
        let under_way = now_us.saturating_sub(stamp.sent_us);
        seen.total_us += under_way;
        seen.totals.worst_us = seen.totals.worst_us.max(under_way);
    }

    /// How much of a window arrived.
    pub(super) fn count(&self, window: Window) -> Count {
        let to = window.to.min(SEQUENCE_LIMIT);
        let arrived = |sequence: u64| {
            let (word, bit) = position(sequence);
            self.senders.get(&window.sender).and_then(|s| s.bitmap.get(word)).is_some_and(|w| w & bit != 0)
        };
        let mut count = Count::default();
        for sequence in window.from..to {
            if arrived(sequence) {
                count.received += 1;
            } else {
                count.missing += 1;
                count.first_missing = count.first_missing.or(Some(sequence));
            }
        }
        count
    }

    /// Packets that arrived, each counted once.
    pub(super) fn received(&self) -> u64 {
        self.senders.values().map(|s| s.totals.received).sum()
    }

    /// Totals per sender.
    pub(super) fn senders(&self) -> Vec<FromSender> {
        let totals = |(sender, seen): (&u16, &Seen)| FromSender {
            sender: *sender,
            mean_us: seen.total_us.checked_div(seen.totals.received).unwrap_or(0),
            ..seen.totals
        };
        self.senders.iter().map(totals).collect()
    }
}

/// Index of a sequence number's word, and its bit there. Below [`SEQUENCE_LIMIT`], so it fits.
fn position(sequence: u64) -> (usize, u64) {
    ((sequence / 64) as usize, 1 << (sequence % 64))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn stamp(sender: u16, sequence: u64) -> Stamp {
        Stamp { sender, sequence, sent_us: 1_000 }
    }

    #[test]
    fn a_stamp_survives_its_packet() {
        let s = Stamp { sender: 7, sequence: 123_456_789, sent_us: u64::MAX };
        let payload = s.payload();
        assert_eq!(Stamp::parse(&payload), Some(s));
        assert_eq!(Stamp::parse(&payload[..PAYLOAD - 1]), None);
        for at in (0..16).chain([PAYLOAD - 1]) {
            let mut bad = payload;
            bad[at] ^= 1;
            assert_eq!(Stamp::parse(&bad), None, "octet {at}");
        }
        assert_eq!(Stamp::parse(&stamp(1, SEQUENCE_LIMIT).payload()), None);
    }

    #[test]
    fn losses_repeats_and_order_are_seen() {
        let mut tally = Tally::default();
        for sequence in [0, 1, 2, 5, 4, 4, 130] {
            tally.note(stamp(3, sequence), 3_000);
        }
        let window = |from, to| tally.count(Window { sender: 3, from, to });
        assert_eq!(window(0, 3), Count { received: 3, missing: 0, first_missing: None });
        assert_eq!(window(0, 6), Count { received: 5, missing: 1, first_missing: Some(3) });
        assert_eq!(window(6, 200), Count { received: 1, missing: 193, first_missing: Some(6) });
        assert_eq!(tally.count(Window { sender: 9, from: 0, to: 2 }).missing, 2);
        let totals = tally.senders()[0];
        assert_eq!((totals.received, totals.duplicates, totals.reordered), (6, 1, 1));
        assert_eq!((totals.mean_us, totals.worst_us), (2_000, 2_000));
        assert_eq!(tally.received(), 6);
    }
}
