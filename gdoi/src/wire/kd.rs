//! Key Download payload.

use keyferry_crypto::Secret;
use keyferry_wire::{Attribute, AttributeValue, Decode, Encode, Parsed, attributes};
use nom::Parser;
use nom::bytes::complete::take;
use nom::number::complete::{be_u8, be_u16};

use super::registry::KeyPacketType;
use super::{put_attributes, refuse, with_length};

/// The most key packets taken in one payload.
const MAX_PACKETS: u16 = 1024;

/// Key Download payload (RFC 6407 section 5.6), with exactly as many key packets as it says.
///
/// ```text
///  0                   1                   2                   3
///  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// ! Number of Key Packets         !            RESERVED2          !
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// ~                         Key Packets                           ~
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// ```
#[derive(Clone, PartialEq)]
pub struct Kd<'a> {
    /// Key packets.
    pub packets: Vec<KeyPacket<'a>>,
}

/// A key packet.
///
/// ```text
///  0                   1                   2                   3
///  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// !   KD Type     !   RESERVED    !            KD Length          !
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// !    SPI Size   !                   SPI (variable)              ~
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// ~                    Key Packet Attributes                      ~
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// ```
#[derive(Clone, PartialEq)]
pub struct KeyPacket<'a> {
    /// Type.
    pub kind: KeyPacketType,
    /// SPI of the SA that the keys are for; none for sender IDs.
    pub spi: &'a [u8],
    /// Attributes, see [`key_attribute`](super::registry::key_attribute).
    pub attributes: Vec<Attribute<'a>>,
}

impl std::fmt::Debug for Kd<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(&self.packets).finish()
    }
}

impl std::fmt::Debug for KeyPacket<'_> {
    /// Without the attributes, which are keys.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KeyPacket").field("kind", &self.kind).field("spi", &self.spi).finish_non_exhaustive()
    }
}

impl<'a> Decode<'a> for Kd<'a> {
    fn decode(input: &'a [u8]) -> Parsed<'a, Self> {
        let (mut left, (count, _reserved)) = (be_u16, be_u16).parse(input)?;
        if count > MAX_PACKETS {
            return refuse(input);
        }
        let mut packets = Vec::new();
        for _ in 0..count {
            let (after, packet) = key_packet(left)?;
            packets.push(packet);
            left = after;
        }
        Ok((left, Self { packets }))
    }
}

fn key_packet(input: &[u8]) -> Parsed<'_, KeyPacket<'_>> {
    let (left, (kind, _reserved, length)) = (be_u8, be_u8, be_u16).parse(input)?;
    let Some(length) = length.checked_sub(4) else { return refuse(input) };
    let (left, body) = take(length)(left)?;
    let (body, spi_len) = be_u8(body)?;
    let (body, spi) = take(spi_len)(body)?;
    match attributes(body) {
        Ok(attributes) => Ok((left, KeyPacket { kind: KeyPacketType(kind), spi, attributes })),
        Err(_) => refuse(body),
    }
}

impl Encode for KeyPacket<'_> {
    fn encode(&self, out: &mut Vec<u8>) {
        let spi = &self.spi[..self.spi.len().min(255)];
        // Room for keys, so that they are not left behind by a reallocation.
        let room = |a: &Attribute<'_>| match a.value {
            AttributeValue::Short(_) => 4,
            AttributeValue::Long(v) => 4 + v.len(),
        };
        out.reserve(5 + spi.len() + self.attributes.iter().map(room).sum::<usize>());
        with_length(out, 2, |out| {
            out.extend([self.kind.0, 0, 0, 0, u8::try_from(spi.len()).unwrap_or(u8::MAX)]);
            out.extend_from_slice(spi);
            put_attributes(out, &self.attributes);
        });
    }
}

impl Encode for Kd<'_> {
    fn encode(&self, out: &mut Vec<u8>) {
        let packets: Vec<Secret> = self.packets.iter().map(|p| Secret::new(p.to_vec())).collect();
        encode_packets(&packets, out);
    }
}

/// Appends the body of a KD payload with these packets.
pub fn encode_packets(packets: &[Secret], out: &mut Vec<u8>) {
    out.reserve(4 + packets.iter().map(Secret::len).sum::<usize>());
    out.extend_from_slice(&u16::try_from(packets.len()).unwrap_or(u16::MAX).to_be_bytes());
    out.extend_from_slice(&[0, 0]);
    for packet in packets {
        out.extend_from_slice(packet.expose());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::check::{canonical, round_trip};

    #[test]
    fn key_downloads_round_trip() {
        let tek = KeyPacket {
            kind: KeyPacketType::TEK,
            spi: &[0, 0, 0x10, 1],
            attributes: vec![Attribute { kind: 1, value: AttributeValue::Long(&[5; 20]) }],
        };
        let sid = KeyPacket {
            kind: KeyPacketType::SID,
            spi: &[],
            attributes: vec![
                Attribute { kind: 1, value: AttributeValue::Short(8) },
                Attribute { kind: 2, value: AttributeValue::Long(&[3]) },
            ],
        };
        round_trip(&Kd { packets: vec![tek, sid] }, &mut Vec::new());
        round_trip(&Kd { packets: Vec::new() }, &mut Vec::new());
        canonical::<Kd<'_>>(&[0, 1, 0, 0, 1, 0, 0, 14, 4, 1, 2, 3, 4, 0, 1, 0, 1, 9]);
    }

    #[test]
    fn packets_must_be_as_many_and_as_long_as_said() {
        assert!(Kd::exact(&[0, 2, 0, 0, 4, 0, 0, 5, 0]).is_err());
        assert!(Kd::exact(&[0, 1, 0, 0, 4, 0, 0, 4]).is_err());
        assert!(Kd::exact(&[0, 1, 0, 0, 4, 0, 0, 3, 0]).is_err());
        assert!(Kd::exact(&[0, 1, 0, 0, 4, 0, 0, 6, 9, 0]).is_err());
        assert!(Kd::exact(&[0xff, 0xff, 0, 0]).is_err());
    }

    #[test]
    fn keys_are_not_printed() {
        let attributes = vec![Attribute { kind: 1, value: AttributeValue::Long(&[0xab; 16]) }];
        let kd = Kd { packets: vec![KeyPacket { kind: KeyPacketType::KEK, spi: &[1; 16], attributes }] };
        assert!(!format!("{kd:?}").contains("171"));
    }
}
