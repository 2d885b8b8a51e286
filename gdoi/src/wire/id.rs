//! Identification payload.

use keyferry_wire::{Decode, Encode, Parsed};
use nom::Parser;
use nom::combinator::rest;
use nom::number::complete::{be_u8, be_u16};

use super::refuse;
use super::registry::IdType;

/// Identification payload (RFC 2407 section 4.6.2, RFC 6407 section 5.1). Data of a type with a fixed length has it.
///
/// ```text
///  0                   1                   2                   3
///  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// !    ID Type    !  Protocol ID  !             Port              !
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// ~                     Identification Data                       ~
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Id<'a> {
    /// Type.
    pub kind: IdType,
    /// IP protocol; zero from us.
    pub protocol: u8,
    /// Port; zero from us.
    pub port: u16,
    /// Data.
    pub data: &'a [u8],
}

impl<'a> Id<'a> {
    /// As we send it, with protocol and port zero.
    #[must_use]
    pub fn new(kind: IdType, data: &'a [u8]) -> Self {
        Self { kind, protocol: 0, port: 0, data }
    }

    /// Are protocol and port those of phase 1 as anybody sends them? RFC 2407 section 4.6.2 allows zero or UDP/500;
    /// GDOI's port 848 and UDP without a port are seen as well.
    #[must_use]
    pub fn fits_phase1(&self) -> bool {
        matches!((self.protocol, self.port), (0, 0) | (17, 0 | 500 | 848))
    }
}

impl<'a> Decode<'a> for Id<'a> {
    fn decode(input: &'a [u8]) -> Parsed<'a, Self> {
        let (left, (kind, protocol, port, data)) = (be_u8, be_u8, be_u16, rest).parse(input)?;
        let kind = IdType(kind);
        if kind.fixed_len().is_some_and(|len| len != data.len()) {
            return refuse(input);
        }
        Ok((left, Self { kind, protocol, port, data }))
    }
}

impl Encode for Id<'_> {
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&[self.kind.0, self.protocol]);
        out.extend_from_slice(&self.port.to_be_bytes());
        out.extend_from_slice(self.data);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::check::{canonical, round_trip};

    #[test]
    fn identities_round_trip() {
        round_trip(&Id::new(IdType::KEY_ID, &[0, 0, 4, 0xd2]), &mut Vec::new());
        round_trip(&Id { kind: IdType::FQDN, protocol: 17, port: 848, data: b"gm.example" }, &mut Vec::new());
        let id: Id<'_> = canonical(&[1, 17, 1, 0xf4, 10, 0, 0, 1]);
        assert!(id.fits_phase1());
        assert!(!Id { port: 4501, ..id }.fits_phase1());
    }

    #[test]
    fn an_address_of_the_wrong_length_is_refused() {
        assert!(Id::exact(&[1, 0, 0, 0, 10, 0, 0]).is_err());
        assert!(Id::exact(&[5, 0, 0, 0, 10, 0, 0, 1]).is_err());
    }
}
