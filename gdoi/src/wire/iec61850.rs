//! SA TEK payload of IEC 61850.

use keyferry_model::oid::OidName;
use keyferry_wire::{Attribute, Decode, Encode, Parsed};
use nom::Parser;
use nom::number::complete::{be_u16, be_u32};

use super::oid::{oid_name, put_oid_name};
use super::{all_attributes, put_attributes};

/// Policy of a stream: what follows GDOI_PROTO_IEC_61850 in an SA TEK payload (RFC 8052 section 2.2).
///
/// ```text
///  0                   1                   2                   3
///  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// !  OID Length   !                       OID                     ~
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// !  OID-Specific Payload Length  !     OID-Specific Payload      ~
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// !                              SPI                              !
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// !           Auth Alg            !            Enc Alg            !
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// !                    Remaining Lifetime Value                   !
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// !                      SA Data Attributes                       ~
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct StreamTek<'a> {
    /// Which messages are protected.
    pub name: OidName,
    /// SPI, which IEC 61850 calls a key ID.
    pub spi: u32,
    /// Authentication, see [`iec61850`](super::registry::iec61850).
    pub authentication: u16,
    /// Encryption.
    pub encryption: u16,
    /// Seconds until the keys expire; zero is never.
    pub lifetime: u32,
    /// Attributes, see [`stream_attribute`](super::registry::stream_attribute).
    pub attributes: Vec<Attribute<'a>>,
}

impl<'a> Decode<'a> for StreamTek<'a> {
    fn decode(input: &'a [u8]) -> Parsed<'a, Self> {
        let (left, (name, spi, authentication, encryption, lifetime, attributes)) =
            (oid_name, be_u32, be_u16, be_u16, be_u32, all_attributes).parse(input)?;
        Ok((left, Self { name, spi, authentication, encryption, lifetime, attributes }))
    }
}

impl Encode for StreamTek<'_> {
    fn encode(&self, out: &mut Vec<u8>) {
        put_oid_name(out, &self.name);
        out.extend_from_slice(&self.spi.to_be_bytes());
        out.extend_from_slice(&self.authentication.to_be_bytes());
        out.extend_from_slice(&self.encryption.to_be_bytes());
        out.extend_from_slice(&self.lifetime.to_be_bytes());
        put_attributes(out, &self.attributes);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use keyferry_wire::AttributeValue;

    use super::*;
    use crate::wire::check::{canonical, round_trip};
    use crate::wire::registry::{iec61850, stream_attribute};
    use crate::wire::sat::Sat;

    fn sample() -> StreamTek<'static> {
        StreamTek {
            name: "1.2.840.10070.61850.8.1.2#0404e9fc0001".parse().unwrap(),
            spi: 2,
            authentication: iec61850::AUTH_NONE,
            encryption: iec61850::AES_GCM_128,
            lifetime: 43_200,
            attributes: vec![
                Attribute { kind: stream_attribute::ATD, value: AttributeValue::Long(&[0, 0, 0x0c, 0xe4]) },
                Attribute { kind: stream_attribute::KDA, value: AttributeValue::Short(80) },
            ],
        }
    }

    #[test]
    fn sa_teks_of_streams_round_trip() {
        round_trip(&sample(), &mut Vec::new());
        round_trip(&Sat::Iec61850(sample()), &mut Vec::new());
        let name = "0.0".parse().unwrap();
        round_trip(&StreamTek { name, attributes: Vec::new(), ..sample() }, &mut Vec::new());
        canonical::<StreamTek<'_>>(&sample().to_vec());
    }

    #[test]
    fn every_truncation_is_refused_or_has_fewer_attributes() {
        let octets = sample().to_vec();
        let whole = octets.len() - 12;
        for end in 0..octets.len() {
            let taken = StreamTek::exact(&octets[..end]);
            assert_eq!(taken.is_ok(), end == whole || end == whole + 8, "{end} octets: {taken:?}");
        }
        let more = [&octets[..], &[0]].concat();
        assert!(StreamTek::exact(&more).is_err());
    }
}
