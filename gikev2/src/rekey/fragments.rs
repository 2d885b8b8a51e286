//! Fragments of GSA_REKEY under one Rekey SA, until a message is whole (RFC 9838 section 2.4.1.2, RFC 7383 section 2.6).
//!
//! Copies of a message are bitwise the same, so they complete each other. That a fragment verifies says only that some member
//! made it: the signature is that of the whole message. So what contradicts is kept side by side within bounds, and each message
//! that it makes is tried: nobody keeps a message from others by being the first to send a fragment of that number. For the
//! same reason sets of another total do not replace each other: a total that grows tells a sender that probes the path
//! (RFC 7383 section 2.5.2), which nobody does who gets no answers.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::ike_sa::reassembly::{MAX_FRAGMENTS, MAX_OCTETS};
use crate::reject::Reject;
use crate::wire::sk::Fragment;

/// The most sets.
const MAX_SETS: usize = 8;
/// The most octets in all sets.
const MAX_ALL: usize = 4 * MAX_OCTETS;
/// The most fragments of one number in a set.
const MAX_RIVALS: usize = 4;
/// The most messages that one fragment completes.
const MAX_MESSAGES: usize = 16;
/// A set to which nothing comes for so long is given up: copies follow each other within a minute.
const PATIENCE: Duration = Duration::from_secs(120);

/// Fragments of some messages.
#[derive(Debug, Default)]
pub(crate) struct Fragments {
    /// By message ID and total.
    sets: BTreeMap<(u32, u16), Set>,
    /// Counts up with each fragment that is kept.
    clock: u64,
}

/// Fragments that say that they are of one message.
#[derive(Debug, Default)]
struct Set {
    /// By number; newest last.
    parts: BTreeMap<u16, Vec<Vec<u8>>>,
    /// When the last one came: by time, and by order.
    touched: (Duration, u64),
}

impl Set {
    fn octets(&self) -> usize {
        self.parts.values().flatten().map(Vec::len).sum()
    }

    /// The messages that there are with this fragment, if any is whole: newest first, and few.
    fn messages(&self, Fragment { number, total }: Fragment, datagram: &[u8]) -> Vec<Vec<u8>> {
        let mut messages = vec![Vec::<&[u8]>::new()];
        for at in 1..=total {
            let rivals = self.parts.get(&at).map(Vec::as_slice).unwrap_or_default();
            let choices: Vec<&[u8]> =
                if at == number { vec![datagram] } else { rivals.iter().rev().map(Vec::as_slice).collect() };
            let longer = messages.iter().flat_map(|m| choices.iter().map(|c| [m.as_slice(), &[*c]].concat()));
            messages = longer.take(MAX_MESSAGES).collect();
        }
        messages.into_iter().map(|m| m.concat()).filter(|m| m.len() <= MAX_OCTETS).collect()
    }
}

impl Fragments {
    /// Takes a fragment once `verify` says that a member made it. Returns the messages that it completes: their datagrams one
    /// after the other. What was completed before is completed again by a copy of the first fragment: the key that it was
    /// signed by may have come meanwhile.
    pub(crate) fn take(
        &mut self,
        (message_id, fragment): (u32, Fragment),
        datagram: &[u8],
        now: Duration,
        verify: impl FnOnce() -> Result<(), Reject>,
    ) -> Result<Vec<Vec<u8>>, Reject> {
        if fragment.total > MAX_FRAGMENTS || datagram.len() > MAX_OCTETS {
            return Err(Reject::Misbehaved("too many fragments, or too long ones"));
        }
        self.expire(now);
        let key = (message_id, fragment.total);
        if let Some(set) = self.sets.get(&key)
            && set.parts.get(&fragment.number).is_some_and(|r| r.iter().any(|known| known == datagram))
        {
            return Ok(if fragment.number == 1 { set.messages(fragment, datagram) } else { Vec::new() });
        }
        verify()?;
        self.clock += 1;
        let set = self.sets.entry(key).or_default();
        let rivals = set.parts.entry(fragment.number).or_default();
        if rivals.len() == MAX_RIVALS {
            rivals.remove(0);
        }
        rivals.push(datagram.to_vec());
        set.touched = (now, self.clock);
        let messages = set.messages(fragment, datagram);
        self.make_room();
        Ok(messages)
    }

    /// Forgets messages whose time is past.
    pub(crate) fn forget_before(&mut self, expected: u64) {
        self.sets.retain(|(id, _), _| u64::from(*id) >= expected);
    }

    /// Gives sets up to which nothing has come for long.
    pub(crate) fn expire(&mut self, now: Duration) {
        self.sets.retain(|_, set| now < set.touched.0 + PATIENCE);
    }

    /// When the next set is given up.
    pub(crate) fn next_expiry(&self) -> Option<Duration> {
        self.sets.values().map(|set| set.touched.0 + PATIENCE).min()
    }

    /// Gives up the sets to which nothing has come for the longest, while there is too much.
    fn make_room(&mut self) {
        while self.sets.len() > MAX_SETS || self.octets() > MAX_ALL {
            let oldest = self.sets.iter().min_by_key(|(_, set)| set.touched.1).map(|(key, _)| *key);
            let Some(oldest) = oldest else { return };
            self.sets.remove(&oldest);
        }
    }

    pub(crate) fn octets(&self) -> usize {
        self.sets.values().map(Set::octets).sum()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const OK: fn() -> Result<(), Reject> = || Ok(());
    const FORGED: fn() -> Result<(), Reject> = || Err(Reject::Unauthenticated("no"));
    const NOW: Duration = Duration::from_secs(9);

    fn part(id: u32, number: u16, total: u16) -> (u32, Fragment) {
        (id, Fragment { number, total })
    }

    #[test]
    fn a_message_is_whole_in_any_order() {
        let mut f = Fragments::default();
        assert!(f.take(part(7, 3, 3), b"c", NOW, OK).unwrap().is_empty());
        assert!(f.take(part(7, 1, 3), b"a", NOW, OK).unwrap().is_empty());
        assert!(f.take(part(7, 2, 3), b"x", NOW, FORGED).is_err());
        assert!(f.take(part(8, 1, 1), b"x", NOW, FORGED).is_err());
        assert_eq!((f.octets(), f.sets.len()), (2, 1), "nothing that does not verify");
        assert_eq!(f.take(part(7, 2, 3), b"b", NOW, OK).unwrap(), [b"abc"]);
        assert_eq!(f.take(part(8, 1, 1), b"A", NOW, OK).unwrap(), [b"A"]);
        f.forget_before(8);
        assert_eq!(f.octets(), 1);
    }

    /// It may not have verified for want of a key that comes by another message.
    #[test]
    fn a_copy_completes_a_message_again() {
        let mut f = Fragments::default();
        assert!(f.take(part(7, 1, 2), b"a", NOW, OK).unwrap().is_empty());
        assert!(f.take(part(7, 1, 2), b"a", NOW, FORGED).unwrap().is_empty());
        assert_eq!(f.take(part(7, 2, 2), b"b", NOW, OK).unwrap(), [b"ab"]);
        assert_eq!(f.take(part(7, 1, 2), b"a", NOW, FORGED).unwrap(), [b"ab"]);
        assert!(f.take(part(7, 2, 2), b"b", NOW, FORGED).unwrap().is_empty(), "once for each copy");
    }

    #[test]
    fn what_contradicts_is_tried_newest_first() {
        let mut f = Fragments::default();
        for (number, octets) in [(1, b"a"), (1, b"A"), (2, b"b")] {
            assert!(f.take(part(7, number, 3), octets, NOW, OK).unwrap().is_empty());
        }
        assert_eq!(f.take(part(7, 3, 3), b"c", NOW, OK).unwrap(), [b"Abc", b"abc"]);
        assert_eq!(f.take(part(7, 2, 3), b"B", NOW, OK).unwrap(), [b"ABc", b"aBc"]);
        // Another total is another message.
        assert!(f.take(part(7, 1, 2), b"x", NOW, OK).unwrap().is_empty());
        assert_eq!(f.take(part(7, 2, 2), b"y", NOW, OK).unwrap(), [b"xy"]);
    }

    #[test]
    fn what_is_old_is_given_up() {
        let mut f = Fragments::default();
        f.take(part(7, 1, 2), b"a", NOW, OK).unwrap();
        assert!(f.take(part(7, 2, 2), b"b", NOW + PATIENCE * 2, OK).unwrap().is_empty());
        f.expire(NOW + PATIENCE * 4);
        assert_eq!(f.octets(), 0);
        assert!(f.take(part(7, 1, MAX_FRAGMENTS + 1), b"a", NOW, OK).is_err());
    }

    proptest! {
        /// Copies with losses, in any order, among fragments of others: the message is there as soon as all of it came, and
        /// not before.
        #[test]
        fn messages_are_whole_when_all_of_them_came(
            total in 1..12_u16,
            came in prop::collection::vec((0..100_u16, any::<bool>()), 0..80),
        ) {
            let mut f = Fragments::default();
            let mut seen = std::collections::BTreeSet::new();
            let whole: Vec<u8> = (1..=total).flat_map(u16::to_be_bytes).collect();
            for (n, genuine) in came {
                let number = n % total + 1;
                let id = if genuine { 7 } else { 8 + u32::from(n % 5) };
                let messages = f.take(part(id, number, total), &number.to_be_bytes(), NOW, OK).unwrap();
                if genuine {
                    let fresh = seen.insert(number);
                    let all = seen.len() == usize::from(total);
                    let expected = if all && (fresh || number == 1) { vec![whole.clone()] } else { Vec::new() };
                    prop_assert_eq!(messages, expected);
                }
            }
        }

        /// Whatever comes, there are few sets, few octets, and few messages to try.
        #[test]
        fn nothing_is_without_end(
            came in prop::collection::vec((0..20_u32, 1..9_u16, 1..9_u16, any::<u8>(), 1..70_000_usize), 0..200),
        ) {
            let mut f = Fragments::default();
            for (id, number, total, octet, len) in came.into_iter().filter(|c| c.1 <= c.2) {
                if let Ok(messages) = f.take(part(id, number, total), &vec![octet; len], NOW, OK) {
                    prop_assert!(messages.len() <= MAX_MESSAGES);
                    prop_assert!(messages.iter().all(|m| m.len() <= MAX_OCTETS));
                }
                prop_assert!(f.sets.len() <= MAX_SETS && f.octets() <= MAX_ALL);
                prop_assert!(f.sets.values().flat_map(|s| s.parts.values()).all(|r| r.len() <= MAX_RIVALS));
            }
        }
    }
}
