//! The identities inside SA KEK and SA TEK.

use keyferry_wire::Parsed;
use nom::Parser;
use nom::bytes::complete::take;
use nom::combinator::cond;
use nom::number::complete::{be_u8, be_u16};

use super::refuse;
use super::registry::IdType;

/// One side of an SA (RFC 6407 sections 5.3 and 5.5.1).
///
/// ```text
///  0                   1                   2                   3
///  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// !    ID Type    !            ID Port            !  ID Data Len  !
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// ~                     Identification Data                       ~
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// ```
///
/// The text of RFC 6407 has an octet "DST ID Prot" between type and port of the destination, its figures don't. We send
/// the figures' form and take both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Endpoint<'a> {
    /// Type of the identity.
    pub kind: IdType,
    /// The octet that only the text has.
    pub protocol: Option<u8>,
    /// Port; zero is any.
    pub port: u16,
    /// Identity, at most 255 octets.
    pub data: &'a [u8],
}

impl<'a> Endpoint<'a> {
    /// As we send it.
    #[must_use]
    pub fn new(kind: IdType, port: u16, data: &'a [u8]) -> Self {
        Self { kind, protocol: None, port, data }
    }

    /// Takes a source. Zeros of any length stand for any source.
    pub(super) fn source(input: &'a [u8]) -> Parsed<'a, Self> {
        let (left, endpoint) = Self::parse(input, false)?;
        let any = endpoint.data.iter().all(|b| *b == 0);
        if any || endpoint.has_its_length() { Ok((left, endpoint)) } else { refuse(input) }
    }

    /// Takes a destination, with or without the protocol octet.
    pub(super) fn destination(input: &'a [u8], with_protocol: bool) -> Parsed<'a, Self> {
        let (left, endpoint) = Self::parse(input, with_protocol)?;
        if endpoint.has_its_length() { Ok((left, endpoint)) } else { refuse(input) }
    }

    fn parse(input: &'a [u8], with_protocol: bool) -> Parsed<'a, Self> {
        let (left, (kind, protocol, port, len)) = (be_u8, cond(with_protocol, be_u8), be_u16, be_u8).parse(input)?;
        let (left, data) = take(len)(left)?;
        Ok((left, Self { kind: IdType(kind), protocol, port, data }))
    }

    fn has_its_length(&self) -> bool {
        self.kind.fixed_len().is_none_or(|len| len == self.data.len())
    }

    pub(super) fn put(&self, out: &mut Vec<u8>) {
        let data = &self.data[..self.data.len().min(255)];
        out.push(self.kind.0);
        out.extend(self.protocol);
        out.extend_from_slice(&self.port.to_be_bytes());
        out.push(u8::try_from(data.len()).unwrap_or(u8::MAX));
        out.extend_from_slice(data);
    }
}
