//! SA KEK payload.

use keyferry_wire::{Attribute, Decode, Encode, Parsed};
use nom::Parser;
use nom::branch::alt;
use nom::bytes::complete::take;
use nom::number::complete::{be_u8, be_u32};

use super::endpoint::Endpoint;
use super::{all_attributes, put_attributes, refuse};

/// SA KEK payload (RFC 6407 section 5.3): policy of the rekey SA.
///
/// ```text
///  0                   1                   2                   3
///  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// !    Protocol   !  SRC ID Type  !         SRC ID Port           !
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// !SRC ID Data Len!          SRC Identification Data              ~
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// ! DST ID Type   !         DST ID Port           !DST ID Data Len!
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// ~                    DST Identification Data                    ~
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// ~                        SPI (16 octets)                        ~
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// !                           RESERVED2                           !
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// ~                        KEK Attributes                         ~
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Sak<'a> {
    /// IP protocol of the GROUPKEY-PUSH, so UDP.
    pub protocol: u8,
    /// Who sends it.
    pub source: Endpoint<'a>,
    /// Where it is sent to.
    pub destination: Endpoint<'a>,
    /// Cookie pair of the rekey SA.
    pub spi: [u8; 16],
    /// Attributes, see [`kek_attribute`](super::registry::kek_attribute).
    pub attributes: Vec<Attribute<'a>>,
}

impl<'a> Sak<'a> {
    fn parse(input: &'a [u8], with_protocol: bool) -> Parsed<'a, Self> {
        let (left, (protocol, source)) = (be_u8, Endpoint::source).parse(input)?;
        let (left, destination) = Endpoint::destination(left, with_protocol)?;
        let (left, (spi, _reserved, attributes)) = (take(16usize), be_u32, all_attributes).parse(left)?;
        let Ok(spi) = <[u8; 16]>::try_from(spi) else { return refuse(input) };
        Ok((left, Self { protocol, source, destination, spi, attributes }))
    }
}

impl<'a> Decode<'a> for Sak<'a> {
    fn decode(input: &'a [u8]) -> Parsed<'a, Self> {
        alt((|i| Self::parse(i, false), |i| Self::parse(i, true))).parse(input)
    }
}

impl Encode for Sak<'_> {
    fn encode(&self, out: &mut Vec<u8>) {
        out.push(self.protocol);
        self.source.put(out);
        self.destination.put(out);
        out.extend_from_slice(&self.spi);
        out.extend_from_slice(&[0; 4]);
        put_attributes(out, &self.attributes);
    }
}

#[cfg(test)]
mod tests {
    use keyferry_wire::AttributeValue;

    use super::*;
    use crate::wire::check::{canonical, round_trip};
    use crate::wire::registry::IdType;

    fn sample() -> Sak<'static> {
        Sak {
            protocol: 17,
            source: Endpoint::new(IdType::IPV4_ADDR, 848, &[10, 0, 0, 1]),
            destination: Endpoint::new(IdType::IPV4_ADDR, 848, &[239, 192, 0, 9]),
            spi: [7; 16],
            attributes: vec![Attribute { kind: 2, value: AttributeValue::Short(3) }],
        }
    }

    #[test]
    fn sa_kek_payloads_round_trip() {
        round_trip(&sample(), &mut Vec::new());
        let six = Sak { destination: Endpoint::new(IdType::IPV6_ADDR, 848, &[0xff; 16]), ..sample() };
        let octets = six.to_vec();
        assert_eq!(canonical::<Sak<'_>>(&octets), six);
    }

    #[test]
    fn a_destination_with_a_protocol_octet_is_taken_too() {
        let destination = Endpoint { protocol: Some(17), ..sample().destination };
        round_trip(&Sak { destination, ..sample() }, &mut Vec::new());
    }

    #[test]
    fn a_cut_spi_is_refused() {
        let octets = sample().to_vec();
        assert!(Sak::exact(&octets[..octets.len() - 9]).is_err());
    }
}
