//! Key Exchange payload (RFC 7296 section 3.4).

use std::borrow::Cow;

use keyferry_wire::{Decode, Encode, Parsed};
use nom::combinator::rest;
use nom::number::complete::be_u16;

/// A public value.
///
/// ```text
///  +--------------------------+--------------------------+
///  |  Key Exchange Method     |        RESERVED          |
///  +--------------------------+--------------------------+
///  ~ Key Exchange Data                                   ~
///  +-----------------------------------------------------+
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ke<'a> {
    /// Key exchange method.
    pub method: u16,
    /// Public value, in the method's form.
    pub data: Cow<'a, [u8]>,
}

impl<'a> Decode<'a> for Ke<'a> {
    fn decode(input: &'a [u8]) -> Parsed<'a, Self> {
        let (input, method) = be_u16(input)?;
        let (input, _reserved) = be_u16(input)?;
        let (input, data) = rest(input)?;
        Ok((input, Self { method, data: Cow::Borrowed(data) }))
    }
}

impl Encode for Ke<'_> {
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend(self.method.to_be_bytes());
        out.extend([0, 0]);
        out.extend_from_slice(&self.data);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::testing::{bytes_round_trip, value_round_trip};

    #[test]
    fn round_trips() {
        value_round_trip(&Ke { method: 31, data: Cow::Owned(vec![7; 32]) });
        bytes_round_trip::<Ke<'_>>("001f0000 aabbcc");
        assert!(Ke::exact(&[0, 31, 0]).is_err());
    }
}
