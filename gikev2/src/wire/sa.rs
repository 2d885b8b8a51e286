//! Security Association payload: SA of IKE_SA_INIT and SAg of a registration (RFC 7296 section 3.3, RFC 9838
//! sections 4.3 and 4.4.2.1).

use std::borrow::Cow;

use keyferry_wire::{Attribute, AttributeValue, Decode, Encode, Parsed, attributes, put_long, put_short};
use nom::bytes::complete::take;
use nom::number::complete::{be_u8, be_u16};

use super::registry::{ProtocolId, TransformType, transform_attribute};
use super::{fail, fits, malformed};

/// A list of proposals.
///
/// ```text
///  +-----------+----------+--------------------------+
///  |  Last (2) | RESERVED |     Proposal Length      |  Last: 2 = more follow, 0 = last
///  +-----------+----------+-----------+--------------+
///  | Proposal# | Protocol | SPI Size  | # Transforms |
///  +-----------+----------+-----------+--------------+
///  ~ SPI, then transforms                            ~
///  +-------------------------------------------------+
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sa<'a> {
    /// In the order of preference.
    pub proposals: Vec<Proposal<'a>>,
}

/// One proposal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proposal<'a> {
    /// Proposal number; in SAg, proposals of one number belong together.
    pub number: u8,
    /// Protocol.
    pub protocol: ProtocolId,
    /// SPI, empty in IKE_SA_INIT and SAg.
    pub spi: Cow<'a, [u8]>,
    /// Transforms; alternatives where several are of one type.
    pub transforms: Vec<Transform<'a>>,
}

/// One transform.
///
/// ```text
///  +-----------+----------+--------------------------+
///  |  Last (3) | RESERVED |     Transform Length     |  Last: 3 = more follow, 0 = last
///  +-----------+----------+--------------------------+
///  |   Type    | RESERVED |       Transform ID       |
///  +-----------+----------+--------------------------+
///  ~ attributes                                      ~
///  +-------------------------------------------------+
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transform<'a> {
    /// Transform type.
    pub kind: TransformType,
    /// Transform ID within the type.
    pub id: u16,
    /// Key Length in bits.
    pub key_bits: Option<u16>,
    /// Signature Algorithm Identifier: a DER AlgorithmIdentifier.
    pub algorithm: Option<Cow<'a, [u8]>>,
    /// It carries an attribute we do not know, so it must not be chosen (RFC 7296 section 3.3.6). Never encoded.
    pub foreign: bool,
}

impl<'a> Transform<'a> {
    /// A transform without attributes.
    #[must_use]
    pub fn new(kind: TransformType, id: u16) -> Self {
        Self { kind, id, key_bits: None, algorithm: None, foreign: false }
    }

    /// A transform with a key length in bits.
    #[must_use]
    pub fn with_key(kind: TransformType, id: u16, key_bits: u16) -> Self {
        Self { key_bits: Some(key_bits), ..Self::new(kind, id) }
    }

    /// Decodes one transform and says whether it claims to be the last.
    pub(crate) fn decode_one(input: &'a [u8]) -> Parsed<'a, (bool, Self)> {
        let (rest, last) = be_u8(input)?;
        let (rest, _reserved) = be_u8(rest)?;
        let (rest, length) = be_u16(rest)?;
        if !matches!(last, 0 | 3) || length < 8 {
            return fail(input);
        }
        let (after, body) = take(length - 4)(rest)?;
        let (body, kind) = be_u8(body)?;
        let (body, _reserved) = be_u8(body)?;
        let (body, id) = be_u16(body)?;
        let mut transform = Self::new(TransformType(kind), id);
        for attribute in attributes(body).map_err(|_| malformed(body))? {
            if !transform.take_attribute(&attribute) {
                return fail(body);
            }
        }
        Ok((after, (last == 0, transform)))
    }

    /// `false` for an attribute that is malformed or repeated.
    fn take_attribute(&mut self, attribute: &Attribute<'a>) -> bool {
        match (attribute.kind, attribute.value) {
            (transform_attribute::KEY_LENGTH, AttributeValue::Short(bits)) => self.key_bits.replace(bits).is_none(),
            (transform_attribute::SIGNATURE_ALGORITHM, AttributeValue::Long(der)) => {
                self.algorithm.replace(Cow::Borrowed(der)).is_none()
            }
            (transform_attribute::KEY_LENGTH | transform_attribute::SIGNATURE_ALGORITHM, _) => false,
            (_, AttributeValue::Short(_) | AttributeValue::Long(_)) => {
                self.foreign = true;
                true
            }
        }
    }

    pub(crate) fn encode_one(&self, last: bool, out: &mut Vec<u8>) {
        let start = out.len();
        out.extend([if last { 0 } else { 3 }, 0, 0, 0, self.kind.0, 0]);
        out.extend(self.id.to_be_bytes());
        if let Some(bits) = self.key_bits {
            put_short(out, transform_attribute::KEY_LENGTH, bits);
        }
        if let Some(der) = &self.algorithm {
            put_long(out, transform_attribute::SIGNATURE_ALGORITHM, der);
        }
        fits(out, start, start + 2);
    }
}

impl<'a> Decode<'a> for Sa<'a> {
    fn decode(input: &'a [u8]) -> Parsed<'a, Self> {
        let mut proposals = Vec::new();
        let mut rest = input;
        loop {
            let (after, (last, proposal)) = Proposal::decode_one(rest)?;
            proposals.push(proposal);
            rest = after;
            if last {
                return Ok((rest, Self { proposals }));
            }
        }
    }
}

impl Encode for Sa<'_> {
    fn encode(&self, out: &mut Vec<u8>) {
        for (i, proposal) in self.proposals.iter().enumerate() {
            proposal.encode_one(i + 1 == self.proposals.len(), out);
        }
    }
}

impl<'a> Proposal<'a> {
    /// The transforms of one type.
    pub fn of(&self, kind: TransformType) -> impl Iterator<Item = &Transform<'a>> {
        self.transforms.iter().filter(move |t| t.kind == kind)
    }

    fn decode_one(input: &'a [u8]) -> Parsed<'a, (bool, Self)> {
        let (rest, last) = be_u8(input)?;
        let (rest, _reserved) = be_u8(rest)?;
        let (rest, length) = be_u16(rest)?;
        if !matches!(last, 0 | 2) || length < 8 {
            return fail(input);
        }
        let (after, body) = take(length - 4)(rest)?;
        let (body, number) = be_u8(body)?;
        let (body, protocol) = be_u8(body)?;
        let (body, spi_len) = be_u8(body)?;
        let (body, count) = be_u8(body)?;
        let (mut body, spi) = take(spi_len)(body)?;
        let mut transforms = Vec::new();
        for n in 1..=count {
            let (rest, (last, transform)) = Transform::decode_one(body)?;
            if last != (n == count) {
                return fail(body);
            }
            transforms.push(transform);
            body = rest;
        }
        if !body.is_empty() {
            return fail(body);
        }
        let proposal = Self { number, protocol: ProtocolId(protocol), spi: Cow::Borrowed(spi), transforms };
        Ok((after, (last == 0, proposal)))
    }

    fn encode_one(&self, last: bool, out: &mut Vec<u8>) {
        let start = out.len();
        let spi_len = u8::try_from(self.spi.len()).expect("SPIs have at most 16 octets");
        let count = u8::try_from(self.transforms.len()).expect("a proposal of ours has few transforms");
        out.extend([if last { 0 } else { 2 }, 0, 0, 0, self.number, self.protocol.0, spi_len, count]);
        out.extend_from_slice(&self.spi);
        for (i, transform) in self.transforms.iter().enumerate() {
            transform.encode_one(i + 1 == self.transforms.len(), out);
        }
        fits(out, start, start + 2);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::wire::registry::{encr, gcauth, ke, kwa, prf};
    use crate::wire::testing::{bytes_round_trip, value_round_trip};

    fn sample() -> Sa<'static> {
        Sa {
            proposals: vec![
                Proposal {
                    number: 1,
                    protocol: ProtocolId::IKE,
                    spi: Cow::Borrowed(&[]),
                    transforms: vec![
                        Transform::with_key(TransformType::ENCR, encr::AES_GCM_16, 128),
                        Transform::new(TransformType::PRF, prf::HMAC_SHA2_256),
                        Transform::new(TransformType::KE, ke::CURVE25519),
                        Transform::new(TransformType::KWA, kwa::KW_5649_128),
                    ],
                },
                Proposal {
                    number: 2,
                    protocol: ProtocolId::GIKE_UPDATE,
                    spi: Cow::Borrowed(&[1, 2, 3, 4]),
                    transforms: vec![Transform {
                        algorithm: Some(Cow::Borrowed(&[0x30, 0x00])),
                        ..Transform::new(TransformType::GCAUTH, gcauth::DIGITAL_SIGNATURE)
                    }],
                },
            ],
        }
    }

    #[test]
    fn round_trips() {
        value_round_trip(&sample());
        // One proposal with ENCR_AES_GCM_16 (128) and PRF_HMAC_SHA2_256, written by hand from RFC 7296 section 3.3.
        bytes_round_trip::<Sa<'_>>("0000001c01010002 0300000c01000014800e0080 0000000802000005");
    }

    #[test]
    fn broken_lists_are_refused() {
        for broken in [
            "",
            // Claims that another proposal follows.
            "0200001c01010002 0300000c01000014800e0080 0000000802000005",
            // Two transforms announced, the first says it is the last.
            "0000001c01010002 0000000c01000014800e0080 0000000802000005",
            // One transform announced, two there.
            "0000001c01010001 0300000c01000014800e0080 0000000802000005",
            // Something behind the proposal.
            "0000001c01010002 0300000c01000014800e0080 0000000802000005 00",
            // Key Length twice.
            "0000001801010001 0000001001000014800e0080800e0080",
            // Key Length with a long value.
            "0000001601010001 0000000e01000014000e00020080",
        ] {
            let bytes = hex::decode(broken.replace(' ', "")).unwrap();
            assert!(Sa::exact(&bytes).is_err(), "{broken}");
        }
    }

    #[test]
    fn an_unknown_attribute_is_marked() {
        let bytes = hex::decode("0000001401010001 0000000c01000014 80ff0080".replace(' ', "")).unwrap();
        assert!(Sa::exact(&bytes).unwrap().proposals[0].transforms[0].foreign);
    }
}
