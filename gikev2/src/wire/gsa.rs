//! Group Security Association payload (RFC 9838 section 4.4).

use std::borrow::Cow;

use keyferry_wire::{Attribute, AttributeValue, Decode, Encode, Parsed, attributes, put_long, put_short};
use nom::bytes::complete::take;
use nom::number::complete::{be_u8, be_u16};

use super::registry::{ProtocolId, gsa_attribute, gw_attribute};
use super::sa::Transform;
use super::ts::TrafficSelector;
use super::{fail, fits, malformed};

/// The group's policies. At most one is of a Rekey SA, at most one is group-wide.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gsa<'a> {
    /// Policies of SAs, in the order sent.
    pub sas: Vec<SaPolicy<'a>>,
    /// Group-wide policy.
    pub group_wide: Option<GwPolicy>,
}

/// Policy of one SA.
///
/// ```text
///  +-----------+-----------+---------------------------+
///  | Protocol  | SPI Size  |         Length            |
///  +-----------+-----------+---------------------------+
///  ~ SPI                                               ~
///  +---------------------------------------------------+
///  ~ Source Traffic Selector                           ~
///  +---------------------------------------------------+
///  ~ Destination Traffic Selector                      ~
///  +---------------------------------------------------+
///  ~ Transforms (the last says so), then attributes    ~
///  +---------------------------------------------------+
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SaPolicy<'a> {
    /// GIKE_UPDATE, ESP or AH.
    pub protocol: ProtocolId,
    /// SPI, of the protocol's length.
    pub spi: Cow<'a, [u8]>,
    /// Senders.
    pub source: TrafficSelector,
    /// Receivers.
    pub destination: TrafficSelector,
    /// Transforms, one of a type.
    pub transforms: Vec<Transform<'a>>,
    /// GSA_KEY_LIFETIME, seconds.
    pub lifetime: Option<u32>,
    /// GSA_INITIAL_MESSAGE_ID.
    pub initial_message_id: Option<u32>,
    /// GSA_NEXT_SPI, any number of them.
    pub next_spis: Vec<Cow<'a, [u8]>>,
}

/// Policy that belongs to no SA.
///
/// ```text
///  +-----------+-----------+---------------------------+
///  |     0     | RESERVED  |         Length            |
///  +-----------+-----------+---------------------------+
///  ~ attributes                                        ~
///  +---------------------------------------------------+
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GwPolicy {
    /// GWP_ATD, seconds.
    pub activation_delay: Option<u16>,
    /// GWP_DTD, seconds.
    pub deactivation_delay: Option<u16>,
    /// GWP_SENDER_ID_BITS.
    pub sender_id_bits: Option<u16>,
}

impl<'a> Decode<'a> for Gsa<'a> {
    fn decode(input: &'a [u8]) -> Parsed<'a, Self> {
        let mut gsa = Self { sas: Vec::new(), group_wide: None };
        let mut rest = input;
        while !rest.is_empty() {
            let (after, (protocol, second, body)) = substructure(rest)?;
            if protocol == ProtocolId::NONE {
                if gsa.group_wide.replace(GwPolicy::decode_body(body)?).is_some() {
                    return fail(rest);
                }
            } else {
                gsa.sas.push(SaPolicy::decode_body(protocol, second, body)?);
            }
            rest = after;
        }
        if gsa.sas.is_empty() && gsa.group_wide.is_none() {
            return fail(input);
        }
        Ok((rest, gsa))
    }
}

impl Encode for Gsa<'_> {
    fn encode(&self, out: &mut Vec<u8>) {
        self.sas.iter().for_each(|sa| sa.encode_one(out));
        if let Some(gw) = &self.group_wide {
            gw.encode_one(out);
        }
    }
}

/// Protocol, second octet (SPI size or reserved) and body of a substructure of GSA and KD alike.
pub(crate) fn substructure(input: &[u8]) -> Parsed<'_, (ProtocolId, u8, &[u8])> {
    let (rest, protocol) = be_u8(input)?;
    let (rest, second) = be_u8(rest)?;
    let (rest, length) = be_u16(rest)?;
    if length < 4 {
        return fail(input);
    }
    let (rest, body) = take(length - 4)(rest)?;
    Ok((rest, (ProtocolId(protocol), second, body)))
}

type Inner<'a, T> = Result<T, nom::Err<nom::error::Error<&'a [u8]>>>;

impl<'a> SaPolicy<'a> {
    /// The transforms of one type.
    pub fn of(&self, kind: super::registry::TransformType) -> impl Iterator<Item = &Transform<'a>> {
        self.transforms.iter().filter(move |t| t.kind == kind)
    }

    fn decode_body(protocol: ProtocolId, spi_len: u8, body: &'a [u8]) -> Inner<'a, Self> {
        if protocol.group_spi_len() != Some(usize::from(spi_len)) {
            return Err(malformed(body));
        }
        let (rest, spi) = take(spi_len)(body)?;
        let (rest, source) = TrafficSelector::decode(rest)?;
        let (mut rest, destination) = TrafficSelector::decode(rest)?;
        let mut transforms = Vec::new();
        loop {
            let (after, (last, transform)) = Transform::decode_one(rest)?;
            transforms.push(transform);
            rest = after;
            if last {
                break;
            }
        }
        let mut policy = Self {
            protocol,
            spi: Cow::Borrowed(spi),
            source,
            destination,
            transforms,
            lifetime: None,
            initial_message_id: None,
            next_spis: Vec::new(),
        };
        for attribute in attributes(rest).map_err(|_| malformed(rest))? {
            if !policy.take_attribute(&attribute) {
                return Err(malformed(rest));
            }
        }
        Ok(policy)
    }

    /// `false` for a known attribute that is malformed or repeated.
    fn take_attribute(&mut self, attribute: &Attribute<'a>) -> bool {
        let four = |value: AttributeValue<'a>| match value {
            AttributeValue::Long(v) => <[u8; 4]>::try_from(v).ok().map(u32::from_be_bytes),
            AttributeValue::Short(_) => None,
        };
        match attribute.kind {
            gsa_attribute::KEY_LIFETIME => {
                four(attribute.value).is_some_and(|seconds| self.lifetime.replace(seconds).is_none())
            }
            gsa_attribute::INITIAL_MESSAGE_ID => {
                four(attribute.value).is_some_and(|id| self.initial_message_id.replace(id).is_none())
            }
            gsa_attribute::NEXT_SPI => match attribute.value {
                AttributeValue::Long(spi) if spi.len() == self.spi.len() => {
                    self.next_spis.push(Cow::Borrowed(spi));
                    true
                }
                AttributeValue::Long(_) | AttributeValue::Short(_) => false,
            },
            _ => true,
        }
    }

    fn encode_one(&self, out: &mut Vec<u8>) {
        let start = out.len();
        let spi_len = u8::try_from(self.spi.len()).expect("SPIs have at most 16 octets");
        out.extend([self.protocol.0, spi_len, 0, 0]);
        out.extend_from_slice(&self.spi);
        self.source.encode(out);
        self.destination.encode(out);
        for (i, transform) in self.transforms.iter().enumerate() {
            transform.encode_one(i + 1 == self.transforms.len(), out);
        }
        if let Some(seconds) = self.lifetime {
            put_long(out, gsa_attribute::KEY_LIFETIME, &seconds.to_be_bytes());
        }
        if let Some(id) = self.initial_message_id {
            put_long(out, gsa_attribute::INITIAL_MESSAGE_ID, &id.to_be_bytes());
        }
        for spi in &self.next_spis {
            put_long(out, gsa_attribute::NEXT_SPI, spi);
        }
        fits(out, start, start + 2);
    }
}

impl GwPolicy {
    fn decode_body(body: &[u8]) -> Inner<'_, Self> {
        let mut gw = Self::default();
        for attribute in attributes(body).map_err(|_| malformed(body))? {
            let slot = match attribute.kind {
                gw_attribute::ATD => &mut gw.activation_delay,
                gw_attribute::DTD => &mut gw.deactivation_delay,
                gw_attribute::SENDER_ID_BITS => &mut gw.sender_id_bits,
                _ => continue,
            };
            match attribute.value {
                AttributeValue::Short(v) if slot.is_none() => *slot = Some(v),
                AttributeValue::Short(_) | AttributeValue::Long(_) => return Err(malformed(body)),
            }
        }
        Ok(gw)
    }

    fn encode_one(&self, out: &mut Vec<u8>) {
        let start = out.len();
        out.extend([0, 0, 0, 0]);
        for (kind, value) in [
            (gw_attribute::ATD, self.activation_delay),
            (gw_attribute::DTD, self.deactivation_delay),
            (gw_attribute::SENDER_ID_BITS, self.sender_id_bits),
        ] {
            if let Some(value) = value {
                put_short(out, kind, value);
            }
        }
        fits(out, start, start + 2);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::wire::registry::{TransformType, encr, kwa};
    use crate::wire::testing::{bytes_round_trip, value_round_trip};

    fn any() -> TrafficSelector {
        let (first, last) = ("0.0.0.0".parse().unwrap(), "255.255.255.255".parse().unwrap());
        TrafficSelector { protocol: 0, ports: (0, u16::MAX), first, last }
    }

    fn sample() -> Gsa<'static> {
        Gsa {
            sas: vec![
                SaPolicy {
                    protocol: ProtocolId::GIKE_UPDATE,
                    spi: Cow::Owned(vec![7; 16]),
                    source: any(),
                    destination: any(),
                    transforms: vec![
                        Transform::with_key(TransformType::ENCR, encr::AES_GCM_16, 128),
                        Transform::new(TransformType::KWA, kwa::KW_5649_128),
                    ],
                    lifetime: Some(3600),
                    initial_message_id: Some(3),
                    next_spis: vec![Cow::Owned(vec![8; 16])],
                },
                SaPolicy {
                    protocol: ProtocolId::ESP,
                    spi: Cow::Owned(vec![1, 2, 3, 4]),
                    source: any(),
                    destination: any(),
                    transforms: vec![Transform::new(TransformType::SN, 2)],
                    lifetime: None,
                    initial_message_id: None,
                    next_spis: Vec::new(),
                },
            ],
            group_wide: Some(GwPolicy {
                activation_delay: Some(5),
                deactivation_delay: Some(9),
                sender_id_bits: Some(16),
            }),
        }
    }

    impl SaPolicy<'_> {
        fn to_wire(&self) -> Vec<u8> {
            let mut out = Vec::new();
            self.encode_one(&mut out);
            out
        }
    }

    #[test]
    fn round_trips() {
        value_round_trip(&sample());
        // ESP, SPI 01020304, any to 239.0.0.1, ENCR_AES_GCM_16 (128) and SN 2, lifetime 60 s; ATD 5.
        bytes_round_trip::<Gsa<'_>>(
            "03040044 01020304 07000010 0000ffff 00000000 ffffffff 07000010 0000ffff ef000001 ef000001 \
             0300000c 01000014 800e0080 00000008 05000002 00010004 0000003c 00000008 80010005",
        );
    }

    #[test]
    fn broken_policies_are_refused() {
        let good = sample().to_vec();
        for n in 1..good.len() {
            // A cut inside a substructure is an error; between two of them it is another, shorter payload.
            if let Ok(part) = Gsa::exact(&good[..n]) {
                assert_eq!(part.to_vec(), &good[..n]);
            }
        }
        assert!(Gsa::exact(&[]).is_err());
        // An ESP SPI of 16 octets.
        let mut wrong = good.clone();
        wrong[0] = 3;
        assert!(Gsa::exact(&wrong).is_err());
        // Two group-wide policies.
        assert!(Gsa::exact(&[0, 0, 0, 4, 0, 0, 0, 4]).is_err());
    }

    /// RFC 9838 section 4.4.2.2: lifetime and first message ID come once, and have four octets; SPIs to come may be several.
    #[test]
    fn single_attributes_come_once() {
        let with = |extra: &[u8]| {
            let mut policy = sample().sas.remove(1).to_wire();
            policy.extend_from_slice(extra);
            let len = u16::try_from(policy.len()).unwrap();
            policy[2..4].copy_from_slice(&len.to_be_bytes());
            Gsa::exact(&policy).is_ok()
        };
        let (lifetime, first, next) = ([0, 1, 0, 4, 0, 0, 0, 9], [0, 2, 0, 4, 0, 0, 0, 9], [0, 3, 0, 4, 1, 2, 3, 4]);
        for once in [lifetime, first] {
            assert!(with(&once));
            assert!(!with(&[once, once].concat()));
            assert!(!with(&[once[0] | 0x80, once[1], 0, 9]), "not in two octets");
            assert!(!with(&[once[0], once[1], 0, 2, 0, 9]));
        }
        assert!(with(&[next, next].concat()));
        assert!(!with(&[0, 3, 0, 2, 1, 2]), "an SPI of another length");
        assert!(with(&[0, 99, 0, 1, 7]), "what nobody knows");
    }
}
