//! Chains of payloads behind generic payload headers (RFC 2408 section 3.2, RFC 7296 section 3.2).

use nom::Parser;
use nom::number::complete::{be_u8, be_u16};

use crate::codec::DecodeError;

/// The most payloads a chain may have; a push of hundreds of policies has fewer.
pub const MAX_PAYLOADS: usize = 1024;

/// Octets of a generic payload header.
const HEADER_LEN: usize = 4;

/// A payload whose body is not yet understood.
///
/// ```text
/// +---------------+---------------+-------------------------------+
/// | next payload  |     flags     | length, these octets included |
/// +---------------+---------------+-------------------------------+
/// |                             body                              |
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RawPayload<'a> {
    /// What it is, as the payload before it said.
    pub kind: u8,
    /// What the next one is; for an Encrypted payload the first one inside.
    pub next: u8,
    /// Second octet: the critical bit of IKEv2 (0x80), otherwise reserved.
    pub flags: u8,
    /// What stands behind the generic header.
    pub body: &'a [u8],
    /// Offset of the generic header from the start of the chain.
    pub at: usize,
}

impl RawPayload<'_> {
    /// The payload as on the wire, generic header included, for what is hashed or signed.
    #[must_use]
    pub fn to_octets(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(HEADER_LEN + self.body.len());
        put(&mut out, self.next, self.flags, self.body);
        out
    }
}

/// Walks a chain; its last payload ends where the octets end.
///
/// # Errors
/// Where a payload does not fit, or octets are left over.
pub fn chain(first: u8, bytes: &[u8]) -> Result<Vec<RawPayload<'_>>, DecodeError> {
    chain_until(first, bytes, &[])
}

/// Walks a chain that may be followed by padding (RFC 2409 appendix B); returns what is left over.
///
/// # Errors
/// Where a payload does not fit.
pub fn chain_with_tail(first: u8, bytes: &[u8]) -> Result<(Vec<RawPayload<'_>>, &[u8]), DecodeError> {
    walk(first, bytes, &[])
}

/// Walks a chain that ends with the first payload of one of these kinds, whose `next` names what is inside of it
/// (RFC 7296 section 3.14), or at 0.
///
/// # Errors
/// Where a payload does not fit, or octets are left over.
pub fn chain_until<'a>(first: u8, bytes: &'a [u8], last: &[u8]) -> Result<Vec<RawPayload<'a>>, DecodeError> {
    let (payloads, tail) = walk(first, bytes, last)?;
    if tail.is_empty() {
        Ok(payloads)
    } else {
        Err(DecodeError::new(bytes.len() - tail.len(), "octets after the last payload"))
    }
}

fn walk<'a>(first: u8, bytes: &'a [u8], last: &[u8]) -> Result<(Vec<RawPayload<'a>>, &'a [u8]), DecodeError> {
    let mut payloads = Vec::new();
    let mut rest = bytes;
    let mut kind = first;
    while kind != 0 {
        let at = bytes.len() - rest.len();
        if payloads.len() == MAX_PAYLOADS {
            return Err(DecodeError::new(at, "too many payloads"));
        }
        let mut header = (be_u8::<_, nom::error::Error<&[u8]>>, be_u8, be_u16);
        let (behind, (next, flags, length)) =
            header.parse(rest).map_err(|_| DecodeError::new(at, "truncated payload header"))?;
        let len = usize::from(length)
            .checked_sub(HEADER_LEN)
            .filter(|len| *len <= behind.len())
            .ok_or(DecodeError::new(at + 2, "payload length does not fit"))?;
        let (body, behind) = behind.split_at(len);
        payloads.push(RawPayload { kind, next, flags, body, at });
        rest = behind;
        kind = if last.contains(&kind) { 0 } else { next };
    }
    Ok((payloads, rest))
}

fn put(out: &mut Vec<u8>, next: u8, flags: u8, body: &[u8]) {
    out.push(next);
    out.push(flags);
    // `ChainWriter::finish` has refused longer bodies.
    out.extend(u16::try_from(HEADER_LEN + body.len()).unwrap_or(u16::MAX).to_be_bytes());
    out.extend(body);
}

/// A payload's body is longer than its length field can say (65,531 octets).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a payload is longer than 65,531 octets")]
pub struct ChainTooLong;

/// Builds a chain.
#[derive(Debug, Default)]
pub struct ChainWriter {
    payloads: Vec<(u8, u8, Vec<u8>)>,
}

impl ChainWriter {
    /// An empty chain.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends a payload.
    pub fn push(&mut self, kind: u8, body: &[u8]) {
        self.payloads.push((kind, 0, body.to_vec()));
    }

    /// Appends a payload with IKEv2's critical bit.
    pub fn push_critical(&mut self, kind: u8, body: &[u8]) {
        self.payloads.push((kind, 0x80, body.to_vec()));
    }

    /// Kind of the first payload; 0 when there is none.
    #[must_use]
    pub fn first_kind(&self) -> u8 {
        self.payloads.first().map_or(0, |p| p.0)
    }

    /// The chain: kind of the first payload, and the octets.
    ///
    /// # Errors
    /// A body that is too long for its length field.
    pub fn finish(self) -> Result<(u8, Vec<u8>), ChainTooLong> {
        self.finish_with_next(0)
    }

    /// The same for a chain whose last payload names what follows elsewhere (an Encrypted payload's `next`).
    ///
    /// # Errors
    /// A body that is too long for its length field.
    pub fn finish_with_next(self, last_next: u8) -> Result<(u8, Vec<u8>), ChainTooLong> {
        let first = self.first_kind();
        let mut out = Vec::with_capacity(self.payloads.iter().map(|p| HEADER_LEN + p.2.len()).sum());
        let mut following = self.payloads.iter().skip(1).map(|p| p.0);
        for (_, flags, body) in &self.payloads {
            if u16::try_from(HEADER_LEN + body.len()).is_err() {
                return Err(ChainTooLong);
            }
            put(&mut out, following.next().unwrap_or(last_next), *flags, body);
        }
        Ok((first, out))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn round_trip() {
        let mut w = ChainWriter::new();
        w.push(33, b"abc");
        w.push_critical(40, b"");
        w.push(43, &[0; 300]);
        let (first, bytes) = w.finish().unwrap();
        let payloads = chain(first, &bytes).unwrap();
        assert_eq!(payloads.iter().map(|p| (p.kind, p.flags)).collect::<Vec<_>>(), [(33, 0), (40, 0x80), (43, 0)]);
        assert_eq!(payloads.iter().flat_map(RawPayload::to_octets).collect::<Vec<_>>(), bytes);
        for len in 1..bytes.len() {
            assert!(chain(first, &bytes[..len]).is_err());
        }
    }

    #[test]
    fn an_empty_chain_has_no_octets() {
        assert_eq!(ChainWriter::new().finish().unwrap(), (0, vec![]));
        assert!(chain(0, &[]).unwrap().is_empty());
        assert!(chain(0, &[1]).is_err());
        assert_eq!(chain_with_tail(0, &[1]).unwrap().1, [1]);
    }

    #[test]
    fn an_encrypted_payload_ends_the_chain() {
        let mut w = ChainWriter::new();
        w.push(46, b"sealed");
        let (first, bytes) = w.finish_with_next(35).unwrap();
        let payloads = chain_until(first, &bytes, &[46]).unwrap();
        assert_eq!((payloads.len(), payloads[0].next), (1, 35));
        assert!(chain(first, &bytes).is_err());
    }

    #[test]
    fn what_is_too_long_is_refused() {
        let mut w = ChainWriter::new();
        w.push(1, &vec![0; 65_532]);
        assert_eq!(w.finish(), Err(ChainTooLong));
        let endless: Vec<u8> = [1, 0, 0, 4].repeat(MAX_PAYLOADS + 1);
        assert_eq!(chain(1, &endless).unwrap_err().what, "too many payloads");
    }

    proptest! {
        #[test]
        fn any_octets_are_survived_and_accepted_ones_are_canonical(first in any::<u8>(), bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(payloads) = chain(first, &bytes) {
                prop_assert_eq!(payloads.iter().flat_map(RawPayload::to_octets).collect::<Vec<_>>(), bytes);
            }
        }
    }
}
