//! What AUTH covers of IKE_INTERMEDIATE (RFC 9242 section 3.3.2).
//!
//! ```text
//!  IntAuth_in = prf(SK_pi(n), IntAuth_i(n-1) | A | P)     A: IKE header and header of the Encrypted payload, P: what is inside
//!  IntAuth    = IntAuth_iN | IntAuth_rN | message ID of the first AUTH
//! ```
//!
//! Lengths in A are those of a message that has neither IV nor padding nor ICV, so whether it was sent in fragments makes no
//! difference.

use keyferry_crypto::{Prf, Secret};
use keyferry_wire::Header;

use crate::wire::registry::PayloadKind;
use crate::wire::sk::{Opened, PAYLOAD_HEADER};

/// A message of IKE_INTERMEDIATE before its encryption.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plain<'a> {
    /// IKE header.
    pub(crate) header: Header,
    /// Critical bit and reserved bits of the Encrypted payload.
    pub(crate) flags: u8,
    /// Kind of the first payload inside.
    pub(crate) first: u8,
    /// The payloads inside.
    pub(crate) inner: &'a [u8],
}

impl<'a> From<&'a Opened> for Plain<'a> {
    fn from(opened: &'a Opened) -> Self {
        Self { header: opened.header, flags: opened.flags, first: opened.first, inner: opened.inner.expose() }
    }
}

impl Plain<'_> {
    /// A: both headers with their lengths adjusted.
    fn headers(&self) -> Vec<u8> {
        let payload = PAYLOAD_HEADER + self.inner.len();
        let header = Header { next: PayloadKind::SK.0, ..self.header };
        // What came in a message fits into its length fields without what was around it.
        let total = u32::try_from(Header::LEN + payload).unwrap_or(u32::MAX);
        let mut octets = header.octets(total).to_vec();
        octets.extend([self.first, self.flags]);
        octets.extend(u16::try_from(payload).unwrap_or(u16::MAX).to_be_bytes());
        octets
    }
}

/// The sum of the exchanges so far. Without any it is empty, and AUTH is that of RFC 7296.
#[derive(Debug, Default)]
pub(crate) struct IntAuth(Option<(Secret, Secret)>);

impl IntAuth {
    /// The same with one more exchange, under SK_pi and SK_pr as they were when it began.
    pub(crate) fn then(&self, prf: Prf, proof: &(Secret, Secret), request: Plain<'_>, response: Plain<'_>) -> Self {
        let none = Secret::new(Vec::new());
        let (i, r) = self.0.as_ref().map_or((&none, &none), |(i, r)| (i, r));
        let next = |key: &Secret, last: &Secret, plain: Plain<'_>| {
            prf.compute(key.expose(), &[last.expose(), &plain.headers(), plain.inner])
        };
        Self(Some((next(&proof.0, i, request), next(&proof.1, r, response))))
    }

    /// What stands at the end of the signed octets of both sides; `auth_id` is the message ID of the first message with AUTH.
    pub(crate) fn octets(&self, auth_id: u32) -> Vec<u8> {
        match &self.0 {
            None => Vec::new(),
            Some((i, r)) => [i.expose(), r.expose(), &auth_id.to_be_bytes()].concat(),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn header(flags: u8, message_id: u32) -> Header {
        Header { spi_i: [1; 8], spi_r: [2; 8], next: 53, major: 2, minor: 0, exchange: 43, flags, message_id }
    }

    fn plain(header: Header, inner: &[u8]) -> Plain<'_> {
        Plain { header, flags: 0, first: 34, inner }
    }

    /// Computed with Python's `hmac` and `struct` by the formulas of RFC 9242 section 3.3.2: two exchanges, whose inner payloads
    /// are 300 octets of aa, 20 of bb, 5 of cc and none; SK_pi is 32 octets of 07 then 17, SK_pr of 08 then 18.
    #[test]
    fn the_sum_is_that_computed_elsewhere() {
        let prf = Prf::HmacSha256;
        let proof = |i, r| (Secret::new(vec![i; 32]), Secret::new(vec![r; 32]));
        let (a, b, c) = ([0xaa; 300], [0xbb; 20], [0xcc; 5]);
        let first = IntAuth::default().then(prf, &proof(7, 8), plain(header(8, 1), &a), plain(header(0x20, 1), &b));
        let last = Plain { first: 0, ..plain(header(0x20, 2), &[]) };
        let second = first.then(prf, &proof(0x17, 0x18), plain(header(8, 2), &c), last);
        let expected = [
            "fe423119213c25aff238735af08265686b63aa2da5d19f12f5ab673ce876e57f",
            "018b14a34ea563d7df13094dfb791fb642bbe127df979c102d5d6118fe6defa6",
            "00000002",
        ];
        assert_eq!(hex::encode(first.octets(2)), expected.concat());
        let expected = [
            "3386b6de71007b5786a800b3c144a4ddbfb13df6e0c2a0c0cff2d9eaf3872dbe",
            "4ce310aed3c6fe845a2730c02bdafa26dc486cfc647b29efc7dc3f0396fe91a2",
            "00000003",
        ];
        assert_eq!(hex::encode(second.octets(3)), expected.concat());
        assert_eq!(IntAuth::default().octets(1), Vec::<u8>::new());
    }
}
