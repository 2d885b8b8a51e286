//! Notification payload.

use keyferry_wire::{Decode, Encode, Parsed};
use nom::Parser;
use nom::bytes::complete::take;
use nom::combinator::rest;
use nom::number::complete::{be_u8, be_u16, be_u32};

use super::registry::{Doi, NotifyType};

/// Notification payload (RFC 2408 section 3.14).
///
/// ```text
///  0                   1                   2                   3
///  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// !              Domain of Interpretation  (DOI)                  !
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// !  Protocol-ID  !   SPI Size    !      Notify Message Type      !
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// ~                Security Parameter Index (SPI)                 ~
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// ~                       Notification Data                       ~
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Notification<'a> {
    /// Domain of interpretation.
    pub doi: Doi,
    /// Protocol.
    pub protocol: u8,
    /// Type.
    pub kind: NotifyType,
    /// SPI, at most 255 octets; a cookie pair for ISAKMP.
    pub spi: &'a [u8],
    /// Data.
    pub data: &'a [u8],
}

impl<'a> Decode<'a> for Notification<'a> {
    fn decode(input: &'a [u8]) -> Parsed<'a, Self> {
        let (left, (doi, protocol, spi_len, kind)) = (be_u32, be_u8, be_u8, be_u16).parse(input)?;
        let (left, (spi, data)) = (take(spi_len), rest).parse(left)?;
        Ok((left, Self { doi: Doi(doi), protocol, kind: NotifyType(kind), spi, data }))
    }
}

impl Encode for Notification<'_> {
    fn encode(&self, out: &mut Vec<u8>) {
        let spi = &self.spi[..self.spi.len().min(255)];
        out.extend_from_slice(&self.doi.0.to_be_bytes());
        out.extend([self.protocol, u8::try_from(spi.len()).unwrap_or(u8::MAX)]);
        out.extend_from_slice(&self.kind.0.to_be_bytes());
        out.extend_from_slice(spi);
        out.extend_from_slice(self.data);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::check::{canonical, round_trip};

    #[test]
    fn notifications_round_trip() {
        let n = Notification {
            doi: Doi::GDOI,
            protocol: 1,
            kind: NotifyType::INVALID_ID_INFORMATION,
            spi: &[5; 16],
            data: b"why",
        };
        round_trip(&n, &mut Vec::new());
        let n: Notification<'_> = canonical(&[0, 0, 0, 1, 1, 2, 0x60, 2, 8, 9]);
        assert_eq!((n.spi, n.kind.is_error()), (&[8, 9][..], false));
        assert!(Notification::exact(&[0, 0, 0, 1, 1, 3, 0, 14, 8, 9]).is_err());
    }
}
