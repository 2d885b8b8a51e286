//! Notify payload (RFC 7296 section 3.10, RFC 9838 section 4.7).

use std::borrow::Cow;

use keyferry_wire::{Decode, Encode, Parsed};
use nom::bytes::complete::take;
use nom::combinator::rest;
use nom::number::complete::{be_u8, be_u16};

use super::registry::{NotifyType, ProtocolId};

/// An error or a status.
///
/// ```text
///  +-----------+-----------+---------------------------+
///  | Protocol  | SPI Size  |   Notify Message Type     |
///  +-----------+-----------+---------------------------+
///  ~ SPI, then Notification Data                       ~
///  +---------------------------------------------------+
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notify<'a> {
    /// Protocol of the SPI.
    pub protocol: ProtocolId,
    /// SPI, mostly empty.
    pub spi: Cow<'a, [u8]>,
    /// What it is about.
    pub kind: NotifyType,
    /// Data, in the type's form.
    pub data: Cow<'a, [u8]>,
}

impl<'a> Notify<'a> {
    /// A notification about no SA in particular.
    #[must_use]
    pub fn new(kind: NotifyType, data: impl Into<Cow<'a, [u8]>>) -> Self {
        Self { protocol: ProtocolId::NONE, spi: Cow::Borrowed(&[]), kind, data: data.into() }
    }

    /// A notification without data.
    #[must_use]
    pub fn bare(kind: NotifyType) -> Self {
        Self::new(kind, Vec::new())
    }
}

impl<'a> Decode<'a> for Notify<'a> {
    fn decode(input: &'a [u8]) -> Parsed<'a, Self> {
        let (input, protocol) = be_u8(input)?;
        let (input, spi_len) = be_u8(input)?;
        let (input, kind) = be_u16(input)?;
        let (input, spi) = take(spi_len)(input)?;
        let (input, data) = rest(input)?;
        let notify = Self {
            protocol: ProtocolId(protocol),
            spi: Cow::Borrowed(spi),
            kind: NotifyType(kind),
            data: Cow::Borrowed(data),
        };
        Ok((input, notify))
    }
}

impl Encode for Notify<'_> {
    fn encode(&self, out: &mut Vec<u8>) {
        out.push(self.protocol.0);
        out.push(u8::try_from(self.spi.len()).expect("SPIs have at most 16 octets"));
        out.extend(self.kind.0.to_be_bytes());
        out.extend_from_slice(&self.spi);
        out.extend_from_slice(&self.data);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::testing::{bytes_round_trip, value_round_trip};

    #[test]
    fn round_trips() {
        value_round_trip(&Notify::new(NotifyType::GROUP_SENDER, vec![0, 0, 0, 2]));
        bytes_round_trip::<Notify<'_>>("0304000b 01020304 ff");
        assert!(Notify::exact(&[0, 4, 0, 1, 1]).is_err());
    }
}
