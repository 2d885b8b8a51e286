//! Delete payload (RFC 7296 section 3.11, RFC 9838 section 4.6).

use std::borrow::Cow;

use keyferry_wire::{Decode, Encode, Parsed};
use nom::bytes::complete::take;
use nom::number::complete::{be_u8, be_u16};

use super::fail;
use super::registry::ProtocolId;

/// SAs that are gone.
///
/// ```text
///  +-----------+-----------+---------------------------+
///  | Protocol  | SPI Size  |      Number of SPIs       |
///  +-----------+-----------+---------------------------+
///  ~ SPIs                                              ~
///  +---------------------------------------------------+
/// ```
///
/// In G-IKEv2 a zero SPI means all SAs of the protocol, and protocol 0 the whole group SA (RFC 9838 section 2.4.3).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delete<'a> {
    /// Protocol.
    pub protocol: ProtocolId,
    /// Octets of each SPI.
    pub spi_len: u8,
    /// SPIs, one after the other.
    pub spis: Cow<'a, [u8]>,
}

impl<'a> Delete<'a> {
    /// Of the IKE SA itself, which names no SPI.
    #[must_use]
    pub fn ike() -> Self {
        Self { protocol: ProtocolId::IKE, spi_len: 0, spis: Cow::Borrowed(&[]) }
    }

    /// Of these ESP SAs.
    #[must_use]
    pub fn esp(spis: &[u32]) -> Self {
        let spis: Vec<u8> = spis.iter().flat_map(|s| s.to_be_bytes()).collect();
        Self { protocol: ProtocolId::ESP, spi_len: 4, spis: Cow::Owned(spis) }
    }

    /// The SPIs, each `spi_len` octets; none when the length is zero.
    pub fn each(&self) -> impl Iterator<Item = &[u8]> {
        self.spis.chunks_exact(usize::from(self.spi_len).max(1))
    }

    /// Does it mean all SAs of its protocol: a zero SPI, or none at all where G-IKEv2 expects one?
    #[must_use]
    pub fn is_all(&self) -> bool {
        self.each().next().is_none() || self.each().any(|spi| spi.iter().all(|b| *b == 0))
    }
}

impl<'a> Decode<'a> for Delete<'a> {
    fn decode(input: &'a [u8]) -> Parsed<'a, Self> {
        let (rest, protocol) = be_u8(input)?;
        let (rest, spi_len) = be_u8(rest)?;
        let (rest, count) = be_u16(rest)?;
        if spi_len == 0 && count > 0 {
            return fail(input);
        }
        let (rest, spis) = take(usize::from(spi_len) * usize::from(count))(rest)?;
        Ok((rest, Self { protocol: ProtocolId(protocol), spi_len, spis: Cow::Borrowed(spis) }))
    }
}

impl Encode for Delete<'_> {
    fn encode(&self, out: &mut Vec<u8>) {
        let count = if self.spi_len == 0 { 0 } else { self.spis.len() / usize::from(self.spi_len) };
        out.extend([self.protocol.0, self.spi_len]);
        out.extend(u16::try_from(count).expect("a payload holds fewer than 2^16 SPIs").to_be_bytes());
        out.extend_from_slice(&self.spis);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::wire::testing::{bytes_round_trip, value_round_trip};

    #[test]
    fn round_trips() {
        value_round_trip(&Delete::ike());
        value_round_trip(&Delete::esp(&[256, 257]));
        bytes_round_trip::<Delete<'_>>("03040001 00000000");
    }

    #[test]
    fn promises_must_be_kept() {
        assert!(Delete::exact(&[3, 4, 0, 2, 0, 0, 0, 1]).is_err());
        assert!(Delete::exact(&[3, 4, 0, 1, 0, 0, 0, 1, 9]).is_err());
        assert!(Delete::exact(&[1, 0, 0, 1]).is_err());
    }

    #[test]
    fn zero_means_all() {
        assert!(Delete::exact(&[3, 4, 0, 1, 0, 0, 0, 0]).unwrap().is_all());
        assert!(Delete::exact(&[0, 0, 0, 0]).unwrap().is_all());
        assert!(!Delete::esp(&[1]).is_all());
    }
}
