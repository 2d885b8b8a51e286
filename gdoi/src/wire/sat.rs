//! SA TEK payload.

use keyferry_wire::{Attribute, Decode, Encode, Parsed};
use nom::Parser;
use nom::branch::alt;
use nom::combinator::rest;
use nom::number::complete::{be_u8, be_u32};

use super::endpoint::Endpoint;
use super::iec61850::StreamTek;
use super::registry::protocol;
use super::{all_attributes, put_attributes};

/// SA TEK payload (RFC 6407 section 5.5): policy of one data SA.
///
/// ```text
///  0                   1                   2                   3
///  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// ! Protocol-ID   !       TEK Protocol-Specific Payload           ~
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// ```
#[derive(Clone, Debug, PartialEq)]
pub enum Sat<'a> {
    /// GDOI_PROTO_IPSEC_ESP.
    Esp(EspTek<'a>),
    /// GDOI_PROTO_IPSEC_AH, whose policy has the same form.
    Ah(EspTek<'a>),
    /// GDOI_PROTO_IEC_61850 (RFC 8052 section 2.2).
    Iec61850(StreamTek<'a>),
    /// Any other protocol.
    Other {
        /// Its number.
        protocol: u8,
        /// What follows the number.
        body: &'a [u8],
    },
}

/// Policy of an ESP or AH SA (RFC 6407 section 5.5.1).
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
/// ! Transform ID  !                 SPI (4 octets)                ~
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// ~                    RFC 2407 SA Attributes                     ~
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct EspTek<'a> {
    /// IP protocol of the traffic; zero is any.
    pub protocol: u8,
    /// Senders.
    pub source: Endpoint<'a>,
    /// Receivers.
    pub destination: Endpoint<'a>,
    /// ESP or AH transform.
    pub transform: u8,
    /// SPI.
    pub spi: u32,
    /// Attributes, see [`esp_attribute`](super::registry::esp_attribute).
    pub attributes: Vec<Attribute<'a>>,
}

impl<'a> EspTek<'a> {
    fn parse(input: &'a [u8], with_protocol: bool) -> Parsed<'a, Self> {
        let (left, (protocol, source)) = (be_u8, Endpoint::source).parse(input)?;
        let (left, destination) = Endpoint::destination(left, with_protocol)?;
        let (left, (transform, spi, attributes)) = (be_u8, be_u32, all_attributes).parse(left)?;
        Ok((left, Self { protocol, source, destination, transform, spi, attributes }))
    }
}

impl<'a> Decode<'a> for Sat<'a> {
    fn decode(input: &'a [u8]) -> Parsed<'a, Self> {
        let (left, number) = be_u8(input)?;
        let tek = |left| alt((|i| EspTek::parse(i, false), |i| EspTek::parse(i, true))).parse(left);
        match number {
            protocol::ESP => return tek(left).map(|(left, tek)| (left, Sat::Esp(tek))),
            protocol::AH => return tek(left).map(|(left, tek)| (left, Sat::Ah(tek))),
            protocol::IEC_61850 => {
                return StreamTek::decode(left).map(|(left, tek)| (left, Sat::Iec61850(tek)));
            }
            _ => {}
        }
        let (left, body) = rest(left)?;
        Ok((left, Sat::Other { protocol: number, body }))
    }
}

impl Encode for Sat<'_> {
    fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Sat::Esp(tek) | Sat::Ah(tek) => {
                out.extend([if matches!(self, Sat::Esp(_)) { protocol::ESP } else { protocol::AH }, tek.protocol]);
                tek.source.put(out);
                tek.destination.put(out);
                out.push(tek.transform);
                out.extend_from_slice(&tek.spi.to_be_bytes());
                put_attributes(out, &tek.attributes);
            }
            Sat::Iec61850(tek) => {
                out.push(protocol::IEC_61850);
                tek.encode(out);
            }
            Sat::Other { protocol, body } => {
                out.push(*protocol);
                out.extend_from_slice(body);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use keyferry_wire::AttributeValue;

    use super::*;
    use crate::wire::check::{canonical, round_trip};
    use crate::wire::registry::IdType;

    fn sample() -> EspTek<'static> {
        EspTek {
            protocol: 0,
            source: Endpoint::new(IdType::IPV4_ADDR_SUBNET, 0, &[0; 8]),
            destination: Endpoint::new(IdType::IPV4_ADDR, 0, &[239, 192, 0, 1]),
            transform: 20,
            spi: 0x1001,
            attributes: vec![
                Attribute { kind: 6, value: AttributeValue::Short(128) },
                Attribute { kind: 2, value: AttributeValue::Long(&[0, 0, 14, 16]) },
            ],
        }
    }

    #[test]
    fn sa_tek_payloads_round_trip() {
        round_trip(&Sat::Esp(sample()), &mut Vec::new());
        round_trip(&Sat::Ah(sample()), &mut Vec::new());
        round_trip(&Sat::Other { protocol: 9, body: &[1, 2, 3] }, &mut Vec::new());
        let destination = Endpoint { protocol: Some(17), ..sample().destination };
        round_trip(&Sat::Esp(EspTek { destination, ..sample() }), &mut Vec::new());
        let octets = Sat::Esp(sample()).to_vec();
        canonical::<Sat<'_>>(&octets);
    }

    #[test]
    fn any_source_may_have_any_length_but_must_be_zero() {
        for len in [0, 3, 4, 8] {
            let zeros = [0; 8];
            let source = Endpoint::new(IdType::IPV4_ADDR, 0, &zeros[..len]);
            round_trip(&Sat::Esp(EspTek { source, ..sample() }), &mut Vec::new());
        }
        let source = Endpoint::new(IdType::IPV4_ADDR, 0, &[10, 0, 0]);
        assert!(Sat::exact(&Sat::Esp(EspTek { source, ..sample() }).to_vec()).is_err());
    }
}
