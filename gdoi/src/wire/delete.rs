//! Delete payload.

use keyferry_wire::{Decode, Encode, Parsed};
use nom::Parser;
use nom::bytes::complete::take;
use nom::number::complete::{be_u8, be_u16, be_u32};

use super::refuse;
use super::registry::Doi;

/// Delete payload (RFC 2408 section 3.15, RFC 6407 section 5.9). It bears exactly as many SPIs as it says.
///
/// ```text
///  0                   1                   2                   3
///  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// !              Domain of Interpretation  (DOI)                  !
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// !  Protocol-Id  !   SPI Size    !           # of SPIs           !
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// ~               Security Parameter Index(es) (SPI)              ~
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Delete<'a> {
    /// Domain of interpretation.
    pub doi: Doi,
    /// Protocol, see [`registry::protocol`](super::registry::protocol).
    pub protocol: u8,
    spi_len: u8,
    spis: &'a [u8],
}

impl<'a> Delete<'a> {
    /// A Delete of SPIs of `spi_len` octets, one after the other in `spis`.
    ///
    /// # Panics
    /// When `spis` does not hold whole SPIs, or more than 65,535.
    #[must_use]
    pub fn new(doi: Doi, protocol: u8, spi_len: u8, spis: &'a [u8]) -> Self {
        assert!(spi_len > 0 && spis.len().is_multiple_of(usize::from(spi_len)), "whole SPIs");
        assert!(spis.len() / usize::from(spi_len) <= usize::from(u16::MAX), "their number has 16 bits");
        Self { doi, protocol, spi_len, spis }
    }

    /// The SPIs. At least one.
    pub fn spis(&self) -> impl Iterator<Item = &'a [u8]> {
        self.spis.chunks_exact(usize::from(self.spi_len))
    }
}

impl<'a> Decode<'a> for Delete<'a> {
    fn decode(input: &'a [u8]) -> Parsed<'a, Self> {
        let (left, (doi, protocol, spi_len, count)) = (be_u32, be_u8, be_u8, be_u16).parse(input)?;
        if spi_len == 0 || count == 0 {
            return refuse(input);
        }
        let (left, spis) = take(usize::from(spi_len) * usize::from(count))(left)?;
        Ok((left, Self { doi: Doi(doi), protocol, spi_len, spis }))
    }
}

impl Encode for Delete<'_> {
    fn encode(&self, out: &mut Vec<u8>) {
        let count = u16::try_from(self.spis.len() / usize::from(self.spi_len)).unwrap_or(u16::MAX);
        out.extend_from_slice(&self.doi.0.to_be_bytes());
        out.extend([self.protocol, self.spi_len]);
        out.extend_from_slice(&count.to_be_bytes());
        out.extend_from_slice(self.spis);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::check::{canonical, round_trip};

    #[test]
    fn deletes_round_trip() {
        round_trip(&Delete::new(Doi::GDOI, 1, 4, &[1, 2, 3, 4, 5, 6, 7, 8]), &mut Vec::new());
        let d: Delete<'_> = canonical(&[0, 0, 0, 2, 0, 2, 0, 2, 1, 2, 3, 4]);
        assert_eq!(d.spis().collect::<Vec<_>>(), [&[1, 2], &[3, 4]]);
    }

    #[test]
    fn a_count_that_does_not_fit_the_octets_is_refused() {
        assert!(Delete::exact(&[0, 0, 0, 2, 0, 8, 0, 1, 1, 2, 3]).is_err());
        assert!(Delete::exact(&[0, 0, 0, 2, 0, 1, 0, 1, 1, 2]).is_err());
        assert!(Delete::exact(&[0, 0, 0, 2, 0, 0, 0, 9]).is_err());
    }
}
