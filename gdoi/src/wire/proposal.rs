//! Proposal and Transform payloads.

use keyferry_wire::{Attribute, Decode, Encode, Parsed};
use nom::Parser;
use nom::bytes::complete::take;
use nom::number::complete::{be_u8, be_u16};

use super::registry::payload;
use super::{all_attributes, put_attributes, refuse, substructure, with_length};

/// Proposal payload (RFC 2408 section 3.5), with as many transforms as it says.
///
/// ```text
///  0                   1                   2                   3
///  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// !  Proposal #   !  Protocol-Id  !    SPI Size   !# of Transforms!
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// ~                        SPI (variable)                         ~
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// ~                          Transforms                           ~
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Proposal<'a> {
    /// Number; the same for proposals that belong together.
    pub number: u8,
    /// Protocol.
    pub protocol: u8,
    /// SPI, at most 255 octets; has no meaning in phase 1.
    pub spi: &'a [u8],
    /// Transforms, best first, at most 255.
    pub transforms: Vec<Transform<'a>>,
}

impl<'a> Decode<'a> for Proposal<'a> {
    fn decode(input: &'a [u8]) -> Parsed<'a, Self> {
        let (left, (number, protocol, spi_len, count)) = (be_u8, be_u8, be_u8, be_u8).parse(input)?;
        let (mut left, spi) = take(spi_len)(left)?;
        let mut transforms = Vec::with_capacity(usize::from(count));
        for i in 1..=count {
            let (after, (next, body)) = substructure(left)?;
            let expected = if i == count { 0 } else { payload::TRANSFORM };
            let (rest, transform) = Transform::decode(body)?;
            if next != expected || !rest.is_empty() {
                return refuse(left);
            }
            transforms.push(transform);
            left = after;
        }
        Ok((left, Self { number, protocol, spi, transforms }))
    }
}

impl Encode for Proposal<'_> {
    fn encode(&self, out: &mut Vec<u8>) {
        let count = u8::try_from(self.transforms.len()).unwrap_or(u8::MAX);
        let spi_len = u8::try_from(self.spi.len()).unwrap_or(u8::MAX);
        out.extend([self.number, self.protocol, spi_len, count]);
        out.extend_from_slice(self.spi);
        for (i, transform) in self.transforms.iter().enumerate() {
            let last = i + 1 == self.transforms.len();
            with_length(out, 2, |out| {
                out.extend([if last { 0 } else { payload::TRANSFORM }, 0, 0, 0]);
                transform.encode(out);
            });
        }
    }
}

/// Transform payload (RFC 2408 section 3.6).
///
/// ```text
///  0                   1                   2                   3
///  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// !  Transform #  !  Transform-Id !           RESERVED2           !
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// ~                        SA Attributes                          ~
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Transform<'a> {
    /// Number within the proposal.
    pub number: u8,
    /// Transform ID.
    pub id: u8,
    /// Attributes.
    pub attributes: Vec<Attribute<'a>>,
}

impl<'a> Decode<'a> for Transform<'a> {
    fn decode(input: &'a [u8]) -> Parsed<'a, Self> {
        let (left, (number, id, _reserved, attributes)) = (be_u8, be_u8, be_u16, all_attributes).parse(input)?;
        Ok((left, Self { number, id, attributes }))
    }
}

impl Encode for Transform<'_> {
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend([self.number, self.id, 0, 0]);
        put_attributes(out, &self.attributes);
    }
}

#[cfg(test)]
mod tests {
    use keyferry_wire::AttributeValue;

    use super::*;
    use crate::wire::check::{canonical, round_trip};

    #[test]
    fn proposals_round_trip() {
        let transform = |number| Transform {
            number,
            id: 1,
            attributes: vec![
                Attribute { kind: 1, value: AttributeValue::Short(7) },
                Attribute { kind: 12, value: AttributeValue::Long(&[0, 1, 0x51, 0x80]) },
            ],
        };
        round_trip(&transform(3), &mut Vec::new());
        let p = Proposal { number: 1, protocol: 1, spi: &[], transforms: vec![transform(1), transform(2)] };
        round_trip(&p, &mut Vec::new());
        round_trip(&Proposal { spi: &[1; 8], transforms: Vec::new(), ..p }, &mut Vec::new());
        canonical::<Proposal<'_>>(&[1, 1, 0, 1, 0, 0, 0, 12, 1, 1, 0, 0, 0x80, 1, 0, 7]);
    }

    #[test]
    fn transforms_must_be_as_many_as_said_and_chained() {
        assert!(Proposal::exact(&[1, 1, 0, 2, 0, 0, 0, 12, 1, 1, 0, 0, 0x80, 1, 0, 7]).is_err());
        assert!(Proposal::exact(&[1, 1, 0, 1, 3, 0, 0, 12, 1, 1, 0, 0, 0x80, 1, 0, 7]).is_err());
        assert!(Proposal::exact(&[1, 1, 0, 1, 0, 0, 0, 3, 1, 1, 0, 0]).is_err());
        assert!(Proposal::exact(&[1, 1, 0, 0, 9]).is_err());
    }
}
