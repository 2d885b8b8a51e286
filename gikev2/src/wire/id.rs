//! Identification payloads IDi, IDr and IDg (RFC 7296 section 3.5, RFC 9838 section 4.2).

use std::borrow::Cow;

use keyferry_wire::{Decode, Encode, Parsed};
use nom::bytes::complete::take;
use nom::combinator::rest;
use nom::number::complete::be_u8;

use super::registry::IdType;

/// An identity.
///
/// ```text
///  +-----------+-----------------------------------------+
///  |  ID Type  |                RESERVED                 |
///  +-----------+-----------------------------------------+
///  ~ Identification Data                                 ~
///  +-----------------------------------------------------+
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Id<'a> {
    /// Type.
    pub kind: IdType,
    /// Data, in the type's form.
    pub data: Cow<'a, [u8]>,
}

impl<'a> Decode<'a> for Id<'a> {
    fn decode(input: &'a [u8]) -> Parsed<'a, Self> {
        let (input, kind) = be_u8(input)?;
        let (input, _reserved) = take(3usize)(input)?;
        let (input, data) = rest(input)?;
        Ok((input, Self { kind: IdType(kind), data: Cow::Borrowed(data) }))
    }
}

impl Encode for Id<'_> {
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend([self.kind.0, 0, 0, 0]);
        out.extend_from_slice(&self.data);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::testing::{bytes_round_trip, value_round_trip};

    #[test]
    fn round_trips() {
        value_round_trip(&Id { kind: IdType::FQDN, data: Cow::Borrowed(b"gm1.example") });
        bytes_round_trip::<Id<'_>>("01000000 0a000001");
        assert!(Id::exact(&[1, 0, 0]).is_err());
    }
}
