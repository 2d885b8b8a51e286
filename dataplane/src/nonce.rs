//! Sequence numbers and IVs of the packets that this member sends under one key.
//!
//! A counter mode lives by one rule: no (key, IV) twice. An IV is eight octets, the sender ID on the left and a counter
//! on the right (RFC 6054 section 3). The key server gives an ID to one member only; here, no IV below an ID is taken
//! twice, whichever IDs come, in whichever width, and however often the same ID comes again.

use std::sync::{Mutex, MutexGuard, PoisonError};

use keyferry_model::update::SenderIds;

use crate::drops::DropReason;

/// Sequence numbers are 32 bits and never wrap (RFC 4303 section 3.3.3).
const LAST_SEQUENCE: u64 = u32::MAX as u64;

/// Numbers for packets, the whole of them for one SA.
#[derive(Debug)]
pub(crate) struct Numbers(Mutex<State>);

#[derive(Debug)]
struct State {
    /// The next sequence number; begins with 1.
    sequence: u64,
    /// IVs of the current sender IDs, used one span after the other.
    spans: Vec<Span>,
    current: usize,
    /// IVs taken under earlier sender IDs, first and last.
    taken: Vec<(u64, u64)>,
    total_ivs: u128,
    left_ivs: u128,
}

/// The IVs of one sender ID.
#[derive(Clone, Copy, Debug)]
struct Span {
    /// The first to use; `None` when all had been used before.
    begin: Option<u64>,
    last: u64,
    /// The next to use; `None` when all are used.
    next: Option<u64>,
}

/// A run of numbers for one or more packets, each used once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ticket {
    /// Sequence number of the first packet.
    pub(crate) sequence: u32,
    /// IV of the first packet, in counter modes.
    pub(crate) iv: Option<u64>,
    /// Packets it is good for: at least one, at most as many as asked for.
    pub(crate) count: u32,
}

impl Numbers {
    pub(crate) fn new() -> Self {
        Self(Mutex::new(State {
            sequence: 1,
            spans: Vec::new(),
            current: 0,
            taken: Vec::new(),
            total_ivs: 0,
            left_ivs: 0,
        }))
    }

    /// Replaces the sender IDs. IVs that were taken before, under whichever ID, stay taken.
    pub(crate) fn set_sender_ids(&self, ids: Option<&SenderIds>) {
        self.lock().set_sender_ids(ids);
    }

    /// Takes numbers for up to `count` packets.
    pub(crate) fn take(&self, counter_mode: bool, count: u32) -> Result<Ticket, DropReason> {
        self.lock().take(counter_mode, count.max(1))
    }

    /// Could a packet have numbers?
    pub(crate) fn are_left(&self, counter_mode: bool) -> Result<(), DropReason> {
        let state = self.lock();
        let has_ivs = || state.spans.iter().skip(state.current).any(|span| span.next.is_some());
        match counter_mode {
            _ if state.sequence > LAST_SEQUENCE => Err(DropReason::OutStateSeqError),
            true if state.spans.is_empty() => Err(DropReason::OutNoSenderId),
            true if !has_ivs() => Err(DropReason::OutIvExhausted),
            true | false => Ok(()),
        }
    }

    /// Highest sequence number used, and whether it is time for new keys: an eighth of the sequence numbers or IVs is
    /// left.
    pub(crate) fn used(&self, counter_mode: bool) -> (u32, bool) {
        let state = self.lock();
        let used = state.sequence - 1;
        let few_numbers = LAST_SEQUENCE - used < LAST_SEQUENCE / 8;
        let few_ivs = counter_mode && !state.spans.is_empty() && state.left_ivs <= state.total_ivs / 8;
        (u32::try_from(used).unwrap_or(u32::MAX), few_numbers || few_ivs)
    }

    /// Leaves only so many sequence numbers and IVs; those between are never used.
    #[cfg(feature = "skip-numbers")]
    pub(crate) fn leave(&self, sequence_numbers: u32, ivs: u32) {
        let mut state = self.lock();
        state.sequence = state.sequence.max(LAST_SEQUENCE + 1 - u64::from(sequence_numbers));
        state.current = state.spans.len().saturating_sub(1);
        if let Some(span) = state.spans.last_mut() {
            let first = span.last.saturating_sub(u64::from(ivs)).saturating_add(1);
            span.next = span.next.map(|next| next.max(first)).filter(|next| *next <= span.last);
        }
        state.left_ivs = state.spans.last().map_or(0, Span::left);
    }

    /// Somebody else has used the numbers up to this one.
    pub(crate) fn reach(&self, sequence: u32) {
        let mut state = self.lock();
        state.sequence = state.sequence.max(u64::from(sequence) + 1);
    }

    #[cfg(test)]
    pub(crate) fn skip_to(&self, sequence: u64, left_of_span: u64) {
        let mut state = self.lock();
        state.sequence = sequence;
        let current = state.current;
        if let Some(span) = state.spans.get_mut(current) {
            span.next = Some(span.last - (left_of_span - 1));
        }
        state.left_ivs = u128::from(left_of_span);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // No operation under the lock panics half way, so a poisoned state is a whole one.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn set_sender_ids(&mut self, ids: Option<&SenderIds>) {
        self.taken.extend(self.spans.drain(..).filter_map(|span| span.taken()));
        self.taken.sort_unstable();
        self.taken.dedup();
        self.current = 0;
        if let Some(ids) = ids {
            self.spans = ids.ids.iter().map(|id| Span::of(*id, ids.bits, &self.taken)).collect();
        }
        self.left_ivs = self.spans.iter().map(Span::left).sum();
        self.total_ivs = self.left_ivs;
    }

    fn take(&mut self, counter_mode: bool, count: u32) -> Result<Ticket, DropReason> {
        let left = (LAST_SEQUENCE + 1).saturating_sub(self.sequence);
        let mut count = count.min(u32::try_from(left).unwrap_or(u32::MAX));
        if count == 0 {
            return Err(DropReason::OutStateSeqError);
        }
        let iv = if counter_mode {
            let (iv, granted) = self.take_ivs(count)?;
            count = granted;
            Some(iv)
        } else {
            None
        };
        let sequence = u32::try_from(self.sequence).map_err(|_| DropReason::OutStateSeqError)?;
        self.sequence += u64::from(count);
        Ok(Ticket { sequence, iv, count })
    }

    fn take_ivs(&mut self, count: u32) -> Result<(u64, u32), DropReason> {
        if self.spans.is_empty() {
            return Err(DropReason::OutNoSenderId);
        }
        while let Some(span) = self.spans.get_mut(self.current) {
            if let Some(first) = span.next {
                let granted = span.last.saturating_sub(first).saturating_add(1).min(u64::from(count));
                span.next = first.checked_add(granted).filter(|next| *next <= span.last);
                self.left_ivs = self.left_ivs.saturating_sub(u128::from(granted));
                return Ok((first, u32::try_from(granted).unwrap_or(count)));
            }
            self.current += 1;
        }
        Err(DropReason::OutIvExhausted)
    }
}

impl Span {
    /// The IVs of a sender ID behind all of them that are in `taken`. The counter begins with 1, as in RFC 6054
    /// appendix B.
    fn of(id: u32, bits: u8, taken: &[(u64, u64)]) -> Self {
        let counter_bits = 64 - u32::from(bits.clamp(1, 32));
        let first = u64::from(id) << counter_bits;
        let last = first | ((1 << counter_bits) - 1);
        let behind = taken.iter().filter(|(from, to)| *from <= last && *to >= first).map(|(_, to)| *to).max();
        let next = match behind {
            Some(to) => to.checked_add(1).filter(|next| *next <= last),
            None => Some(first + 1),
        };
        Self { begin: next, last, next }
    }

    /// First and last of those used.
    fn taken(&self) -> Option<(u64, u64)> {
        let begin = self.begin?;
        match self.next {
            Some(next) => (next > begin).then(|| (begin, next - 1)),
            None => Some((begin, self.last)),
        }
    }

    fn left(&self) -> u128 {
        self.next.map_or(0, |next| u128::from(self.last - next) + 1)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn ids(bits: u8, ids: &[u32]) -> SenderIds {
        SenderIds { bits, ids: ids.to_vec() }
    }

    #[test]
    fn the_example_of_rfc_6054() {
        let numbers = Numbers::new();
        assert_eq!(numbers.take(true, 1), Err(DropReason::OutNoSenderId));
        numbers.set_sender_ids(Some(&ids(8, &[1])));
        let ticket = numbers.take(true, 1).unwrap();
        assert_eq!((ticket.sequence, ticket.iv), (1, Some(0x0100_0000_0000_0001)));
        let ticket = numbers.take(true, 5).unwrap();
        assert_eq!((ticket.sequence, ticket.iv, ticket.count), (2, Some(0x0100_0000_0000_0002), 5));
    }

    #[test]
    fn ids_are_used_one_after_the_other_and_then_no_more() {
        let numbers = Numbers::new();
        numbers.set_sender_ids(Some(&ids(16, &[7, 0xffff])));
        numbers.skip_to(1, 2);
        assert_eq!(numbers.take(true, 9).unwrap().count, 2);
        assert_eq!(numbers.take(true, 1).unwrap().iv, Some(0xffff_0000_0000_0001));
        numbers.skip_to(4, 1);
        assert!(numbers.used(true).1);
        assert_eq!(numbers.take(true, 1).unwrap().iv, Some(u64::MAX));
        assert_eq!(numbers.take(true, 1), Err(DropReason::OutIvExhausted));
        // A fresh ID goes on, and the sequence numbers go on too.
        numbers.set_sender_ids(Some(&ids(16, &[8])));
        assert_eq!(numbers.take(true, 1).unwrap(), Ticket { sequence: 5, iv: Some(0x0008_0000_0000_0001), count: 1 });
    }

    #[test]
    fn sequence_numbers_stop_and_never_wrap() {
        let numbers = Numbers::new();
        assert!(!numbers.used(false).1);
        numbers.skip_to(u64::from(u32::MAX) - 1, 1);
        assert_eq!(numbers.take(false, 10).unwrap().count, 2);
        assert_eq!(numbers.take(false, 1), Err(DropReason::OutStateSeqError));
        assert_eq!(numbers.used(false), (u32::MAX, true));
    }

    #[test]
    fn the_same_id_given_again_goes_on_where_it_was() {
        let numbers = Numbers::new();
        numbers.set_sender_ids(Some(&ids(8, &[3])));
        let before = numbers.take(true, 4).unwrap().iv.unwrap();
        numbers.set_sender_ids(Some(&ids(8, &[4])));
        numbers.set_sender_ids(Some(&ids(8, &[3])));
        assert_eq!(numbers.take(true, 1).unwrap().iv, Some(before + 4));
    }

    proptest! {
        #[test]
        fn no_iv_is_taken_twice(steps in proptest::collection::vec(
            (prop_oneof![Just(1u8), Just(2), Just(8), Just(9), Just(16), Just(32)], 0u32..4, 1u32..50), 1..60)) {
            let numbers = Numbers::new();
            let mut seen = BTreeSet::new();
            let mut last_sequence = 0;
            for (bits, id, count) in steps {
                let id = if bits < 3 { id % (1 << bits) } else { id };
                numbers.set_sender_ids(Some(&ids(bits, &[id])));
                // Overlapping widths may leave nothing; that is refused, which is right.
                let Ok(ticket) = numbers.take(true, count) else { continue };
                prop_assert!(ticket.sequence > last_sequence);
                last_sequence = ticket.sequence + ticket.count - 1;
                for n in 0..u64::from(ticket.count) {
                    prop_assert!(seen.insert(ticket.iv.unwrap() + n));
                }
            }
        }
    }
}
