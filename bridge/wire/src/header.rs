//! The header of every IKE message.

use nom::Parser;
use nom::bytes::complete::take;
use nom::number::complete::{be_u8, be_u32};

use crate::codec::{Decode, DecodeError, Parsed};

/// Four zero octets that tell IKE from ESP on a port that carries both (RFC 3948 section 2.2).
pub const NON_ESP_MARKER: [u8; 4] = [0; 4];

/// Takes a non-ESP marker off, and says whether there was one. No IKE message begins with four zero octets: the SPI of the
/// initiator is never zero, and ours never begin so.
#[must_use]
pub fn split_marker(datagram: &[u8]) -> (bool, &[u8]) {
    match datagram.strip_prefix(&NON_ESP_MARKER) {
        Some(rest) => (true, rest),
        None => (false, datagram),
    }
}

/// The major version of a message, without looking at anything else: it stands at the same place in both generations.
#[must_use]
pub fn major_version(message: &[u8]) -> Option<u8> {
    message.get(17).map(|version| version >> 4)
}

/// ISAKMP header (RFC 2408 section 3.1), IKEv2 header (RFC 7296 section 3.1).
///
/// ```text
///  0                   1                   2                   3
///  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
/// +---------------------------------------------------------------+
/// |             initiator's cookie or SPI (8 octets)              |
/// +---------------------------------------------------------------+
/// |             responder's cookie or SPI (8 octets)              |
/// +---------------+-------+-------+---------------+---------------+
/// | next payload  | major | minor | exchange type |     flags     |
/// +---------------+-------+-------+---------------+---------------+
/// |                          message ID                           |
/// +---------------------------------------------------------------+
/// |                 length, header included                       |
/// +---------------------------------------------------------------+
/// ```
///
/// The length is computed, never kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Initiator's cookie (IKEv1) or SPI (IKEv2); first half of a rekey SA's SPI.
    pub spi_i: [u8; 8],
    /// Responder's cookie or SPI; second half of a rekey SA's SPI.
    pub spi_r: [u8; 8],
    /// Kind of the first payload.
    pub next: u8,
    /// Major version.
    pub major: u8,
    /// Minor version.
    pub minor: u8,
    /// Exchange type.
    pub exchange: u8,
    /// Flags.
    pub flags: u8,
    /// Message ID.
    pub message_id: u32,
}

impl Header {
    /// Octets of a header.
    pub const LEN: usize = 28;

    /// Both cookies or SPIs.
    #[must_use]
    pub fn spi_pair(&self) -> [u8; 16] {
        let mut pair = [0; 16];
        pair[..8].copy_from_slice(&self.spi_i);
        pair[8..].copy_from_slice(&self.spi_r);
        pair
    }

    /// Splits a datagram into header and body.
    ///
    /// # Errors
    /// Shorter than a header, or a length field that is not the datagram's length.
    pub fn decode(datagram: &[u8]) -> Result<(Self, &[u8]), DecodeError> {
        let (body, (header, length)) =
            WithLength::decode(datagram).map(|(b, h)| (b, (h.0, h.1))).map_err(|_| DecodeError::new(0, "no header"))?;
        if usize::try_from(length).ok() != Some(datagram.len()) {
            return Err(DecodeError::new(24, "length is not the datagram's"));
        }
        Ok((header, body))
    }

    /// The header with the length that goes with this body, and the body.
    #[must_use]
    pub fn encode(&self, body: &[u8]) -> Vec<u8> {
        let total = Self::LEN + body.len();
        let mut out = Vec::with_capacity(total);
        // A UDP datagram is far below 4 GiB; a longer body saturates and no peer takes it.
        out.extend(self.octets(u32::try_from(total).unwrap_or(u32::MAX)));
        out.extend(body);
        out
    }

    /// The header with a length field of the caller's choice, for what is signed or authenticated.
    #[must_use]
    pub fn octets(&self, total_len: u32) -> [u8; Self::LEN] {
        let mut out = [0; Self::LEN];
        out[..8].copy_from_slice(&self.spi_i);
        out[8..16].copy_from_slice(&self.spi_r);
        out[16] = self.next;
        out[17] = self.major << 4 | self.minor & 0x0f;
        out[18] = self.exchange;
        out[19] = self.flags;
        out[20..24].copy_from_slice(&self.message_id.to_be_bytes());
        out[24..].copy_from_slice(&total_len.to_be_bytes());
        out
    }
}

struct WithLength(Header, u32);

impl<'a> Decode<'a> for WithLength {
    fn decode(input: &'a [u8]) -> Parsed<'a, Self> {
        let (rest, (i, r, next, version, exchange, flags, message_id, length)) =
            (take(8usize), take(8usize), be_u8, be_u8, be_u8, be_u8, be_u32, be_u32).parse(input)?;
        let half = |s: &[u8]| <[u8; 8]>::try_from(s).unwrap_or_default();
        let header = Header {
            spi_i: half(i),
            spi_r: half(r),
            next,
            major: version >> 4,
            minor: version & 0x0f,
            exchange,
            flags,
            message_id,
        };
        Ok((rest, Self(header, length)))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const HEADER: Header = Header {
        spi_i: [1, 2, 3, 4, 5, 6, 7, 8],
        spi_r: [9; 8],
        next: 33,
        major: 2,
        minor: 0,
        exchange: 34,
        flags: 8,
        message_id: 0x0102_0304,
    };

    #[test]
    fn round_trip() {
        let bytes = HEADER.encode(b"body");
        assert_eq!(bytes.len(), 32);
        assert_eq!(bytes[24..28], [0, 0, 0, 32]);
        let (header, body) = Header::decode(&bytes).unwrap();
        assert_eq!((header, body), (HEADER, &b"body"[..]));
        assert_eq!((major_version(&bytes), major_version(&bytes[..17])), (Some(2), None));
        assert_eq!(header.encode(body), bytes);
    }

    #[test]
    fn every_truncation_and_extension_is_refused() {
        let mut bytes = HEADER.encode(b"body");
        for len in 0..bytes.len() {
            assert!(Header::decode(&bytes[..len]).is_err());
        }
        bytes.push(0);
        assert!(Header::decode(&bytes).is_err());
    }

    #[test]
    fn a_marker_is_four_zero_octets() {
        assert_eq!(split_marker(&[0, 0, 0, 0, 5]), (true, &[5][..]));
        assert_eq!(split_marker(&[0, 0, 0, 5]), (false, &[0, 0, 0, 5][..]));
        assert_eq!(split_marker(&[0, 0, 0]), (false, &[0, 0, 0][..]));
    }
}
