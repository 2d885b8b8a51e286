//! Fragments of a message are kept until all are there (RFC 7383 section 2.6).

use std::collections::BTreeMap;
use std::time::Duration;

use crate::reject::Reject;
use crate::wire::sk::Fragment;

/// The most octets of a message in fragments.
pub(crate) const MAX_OCTETS: usize = 65_536;
/// The same from somebody who has not proved who it is: some long certificates, or the largest public value.
pub(crate) const MAX_EARLY_OCTETS: usize = 24_576;
/// The most fragments of a message.
pub(crate) const MAX_FRAGMENTS: u16 = 192;
/// Fragments are kept for this time at most.
const PATIENCE: Duration = Duration::from_secs(60);

/// Fragments of one message of the peer.
#[derive(Debug, Default)]
pub(crate) struct Reassembly {
    message_id: u32,
    total: u16,
    since: Duration,
    octets: usize,
    parts: BTreeMap<u16, Vec<u8>>,
}

impl Reassembly {
    /// Takes a fragment once `verify` says that it is the peer's, of a message that may have so many octets. Returns the message
    /// when it is whole: its datagrams one after the other.
    pub(crate) fn take(
        &mut self,
        (message_id, fragment): (u32, Fragment),
        datagram: &[u8],
        most: usize,
        now: Duration,
        verify: impl FnOnce() -> Result<(), Reject>,
    ) -> Result<Option<Vec<u8>>, Reject> {
        if fragment.total > MAX_FRAGMENTS {
            return Err(Reject::Misbehaved("too many fragments"));
        }
        let fresh = self.parts.is_empty() || self.message_id != message_id || now > self.since + PATIENCE;
        if !fresh && (fragment.total < self.total || self.total == fragment.total && self.has(fragment.number)) {
            return Err(Reject::Malformed("a fragment that was there already, or of an older set"));
        }
        verify()?;
        if fresh || fragment.total > self.total {
            // Cut up anew, and smaller; or another message.
            *self = Self { message_id, total: fragment.total, since: now, ..Self::default() };
        }
        if self.octets + datagram.len() > most {
            *self = Self::default();
            return Err(Reject::Misbehaved("too long for a message"));
        }
        self.octets += datagram.len();
        self.parts.insert(fragment.number, datagram.to_vec());
        if self.parts.len() < usize::from(self.total) {
            return Ok(None);
        }
        let whole = std::mem::take(self).parts.into_values().flatten().collect();
        Ok(Some(whole))
    }

    /// Octets that wait for their rest.
    pub(crate) fn octets(&self) -> usize {
        self.octets
    }

    fn has(&self, number: u16) -> bool {
        self.parts.contains_key(&number)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const OK: fn() -> Result<(), Reject> = || Ok(());
    const NOW: Duration = Duration::from_secs(9);

    fn part(number: u16, total: u16) -> (u32, Fragment) {
        (7, Fragment { number, total })
    }

    #[test]
    fn a_message_is_whole_in_any_order() {
        let mut r = Reassembly::default();
        assert_eq!(r.take(part(3, 3), b"c", MAX_OCTETS, NOW, OK).unwrap(), None);
        assert_eq!(r.take(part(1, 3), b"a", MAX_OCTETS, NOW, OK).unwrap(), None);
        assert!(r.take(part(1, 3), b"x", MAX_OCTETS, NOW, OK).is_err(), "once is enough");
        assert!(r.take(part(2, 3), b"x", MAX_OCTETS, NOW, || Err(Reject::Unauthenticated("no"))).is_err());
        assert_eq!(r.take(part(2, 3), b"b", MAX_OCTETS, NOW, OK).unwrap().unwrap(), b"abc");
        assert!(r.parts.is_empty());
    }

    /// A set cut up smaller replaces the one before, one cut up larger is stale.
    #[test]
    fn the_larger_total_counts() {
        let mut r = Reassembly::default();
        r.take(part(1, 2), b"a", MAX_OCTETS, NOW, OK).unwrap();
        assert!(r.take(part(1, 3), b"x", MAX_OCTETS, NOW, || Err(Reject::Unauthenticated("no"))).is_err());
        assert_eq!(r.total, 2, "nothing that does not verify");
        r.take(part(1, 3), b"A", MAX_OCTETS, NOW, OK).unwrap();
        assert!(r.take(part(2, 2), b"b", MAX_OCTETS, NOW, OK).is_err());
        r.take(part(2, 3), b"B", MAX_OCTETS, NOW, OK).unwrap();
        assert_eq!(r.take(part(3, 3), b"C", MAX_OCTETS, NOW, OK).unwrap().unwrap(), b"ABC");
    }

    #[test]
    fn neither_octets_nor_fragments_nor_time_are_without_end() {
        let mut r = Reassembly::default();
        assert!(r.take(part(1, 65_535), b"a", MAX_OCTETS, NOW, OK).is_err());
        for number in 1..=64 {
            r.take(part(number, 192), &[0; 1024], MAX_OCTETS, NOW, OK).unwrap();
        }
        assert!(r.take(part(65, 192), &[0; 1024], MAX_OCTETS, NOW, OK).is_err());
        assert!(r.parts.is_empty());
        // What is late belongs to nothing.
        r.take(part(1, 2), b"a", MAX_OCTETS, NOW, OK).unwrap();
        assert_eq!(r.take(part(2, 2), b"b", MAX_OCTETS, NOW + PATIENCE * 2, OK).unwrap(), None);
        // Nor what belongs to another message.
        assert_eq!(r.take((8, Fragment { number: 1, total: 2 }), b"a", MAX_OCTETS, NOW, OK).unwrap(), None);
        assert_eq!(r.parts.len(), 1);
    }
}
