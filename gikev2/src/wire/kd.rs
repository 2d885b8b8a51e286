//! Key Download payload (RFC 9838 section 4.5).

use std::borrow::Cow;

use keyferry_wire::{AttributeValue, Decode, Encode, Parsed, attributes, put_long};
use nom::bytes::complete::take;
use nom::combinator::rest;
use nom::number::complete::be_u32;

use super::gsa::substructure;
use super::registry::{ProtocolId, bag_attribute};
use super::{fail, fits, malformed};

/// Keys, by SA and for the member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kd<'a> {
    /// Group key bags, in the order sent.
    pub groups: Vec<GroupBag<'a>>,
    /// Member key bag.
    pub member: Option<MemberBag<'a>>,
}

/// Keys of one SA.
///
/// ```text
///  +-----------+-----------+---------------------------+
///  | Protocol  | SPI Size  |         Length            |
///  +-----------+-----------+---------------------------+
///  ~ SPI, then attributes                              ~
///  +---------------------------------------------------+
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupBag<'a> {
    /// GIKE_UPDATE, ESP or AH.
    pub protocol: ProtocolId,
    /// SPI, of the protocol's length.
    pub spi: Cow<'a, [u8]>,
    /// SA_KEY: the same keying material under different keys; at least one.
    pub sa_keys: Vec<WrappedKey<'a>>,
}

/// Keys and values for the member.
///
/// ```text
///  +-----------+-----------+---------------------------+
///  |     0     | RESERVED  |         Length            |
///  +-----------+-----------+---------------------------+
///  ~ attributes                                        ~
///  +---------------------------------------------------+
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemberBag<'a> {
    /// WRAP_KEY.
    pub wrap_keys: Vec<WrappedKey<'a>>,
    /// AUTH_KEY: a SubjectPublicKeyInfo.
    pub auth_key: Option<Cow<'a, [u8]>>,
    /// GM_SENDER_ID, big endian, 1 to 8 octets each.
    pub sender_ids: Vec<Cow<'a, [u8]>>,
}

/// A key under another key.
///
/// ```text
///  +---------------------------------------------------+
///  |                      Key ID                       |  0: keying material of an SA
///  +---------------------------------------------------+
///  |                      KWK ID                       |  0: wrapped under the default KWK
///  +---------------------------------------------------+
///  ~ Encrypted Key                                     ~
///  +---------------------------------------------------+
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WrappedKey<'a> {
    /// The key inside.
    pub key_id: u32,
    /// The key around it.
    pub kwk_id: u32,
    /// What the key wrap algorithm made of it.
    pub encrypted: Cow<'a, [u8]>,
}

impl<'a> Decode<'a> for WrappedKey<'a> {
    fn decode(input: &'a [u8]) -> Parsed<'a, Self> {
        let (input, key_id) = be_u32(input)?;
        let (input, kwk_id) = be_u32(input)?;
        let (input, encrypted) = rest(input)?;
        Ok((input, Self { key_id, kwk_id, encrypted: Cow::Borrowed(encrypted) }))
    }
}

impl Encode for WrappedKey<'_> {
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend(self.key_id.to_be_bytes());
        out.extend(self.kwk_id.to_be_bytes());
        out.extend_from_slice(&self.encrypted);
    }
}

impl<'a> Decode<'a> for Kd<'a> {
    fn decode(input: &'a [u8]) -> Parsed<'a, Self> {
        let mut kd = Self { groups: Vec::new(), member: None };
        let mut rest = input;
        while !rest.is_empty() {
            let (after, (protocol, second, body)) = substructure(rest)?;
            if protocol == ProtocolId::NONE {
                if kd.member.replace(MemberBag::decode_body(body)?).is_some() {
                    return fail(rest);
                }
            } else {
                kd.groups.push(GroupBag::decode_body(protocol, second, body)?);
            }
            rest = after;
        }
        Ok((rest, kd))
    }
}

impl Encode for Kd<'_> {
    fn encode(&self, out: &mut Vec<u8>) {
        self.groups.iter().for_each(|bag| bag.encode_one(out));
        if let Some(bag) = &self.member {
            bag.encode_one(out);
        }
    }
}

type Inner<'a, T> = Result<T, nom::Err<nom::error::Error<&'a [u8]>>>;

impl<'a> GroupBag<'a> {
    fn decode_body(protocol: ProtocolId, spi_len: u8, body: &'a [u8]) -> Inner<'a, Self> {
        if protocol.group_spi_len() != Some(usize::from(spi_len)) {
            return Err(malformed(body));
        }
        let (rest, spi) = take(spi_len)(body)?;
        let mut bag = Self { protocol, spi: Cow::Borrowed(spi), sa_keys: Vec::new() };
        for attribute in attributes(rest).map_err(|_| malformed(rest))? {
            if attribute.kind != bag_attribute::SA_KEY {
                continue;
            }
            match attribute.value {
                AttributeValue::Long(v) => bag.sa_keys.push(WrappedKey::exact(v).map_err(|_| malformed(rest))?),
                AttributeValue::Short(_) => return Err(malformed(rest)),
            }
        }
        // SA keys have Key ID 0, and a Data-Security SA exactly one, under the default KWK (RFC 9838 section 4.5.2.1).
        let sound = match protocol {
            ProtocolId::GIKE_UPDATE => !bag.sa_keys.is_empty(),
            _ => bag.sa_keys.len() == 1 && bag.sa_keys.iter().all(|k| k.kwk_id == 0),
        };
        if !sound || bag.sa_keys.iter().any(|k| k.key_id != 0) {
            return Err(malformed(body));
        }
        Ok(bag)
    }

    fn encode_one(&self, out: &mut Vec<u8>) {
        let start = out.len();
        let spi_len = u8::try_from(self.spi.len()).expect("SPIs have at most 16 octets");
        out.extend([self.protocol.0, spi_len, 0, 0]);
        out.extend_from_slice(&self.spi);
        for key in &self.sa_keys {
            put_long(out, bag_attribute::SA_KEY, &key.to_vec());
        }
        fits(out, start, start + 2);
    }
}

impl<'a> MemberBag<'a> {
    fn decode_body(body: &'a [u8]) -> Inner<'a, Self> {
        let mut bag = Self::default();
        for attribute in attributes(body).map_err(|_| malformed(body))? {
            let known = matches!(
                attribute.kind,
                bag_attribute::WRAP_KEY | bag_attribute::AUTH_KEY | bag_attribute::GM_SENDER_ID
            );
            let value = match attribute.value {
                AttributeValue::Long(v) => v,
                AttributeValue::Short(_) if known => return Err(malformed(body)),
                AttributeValue::Short(_) => continue,
            };
            match attribute.kind {
                bag_attribute::WRAP_KEY => {
                    let key = WrappedKey::exact(value).map_err(|_| malformed(body))?;
                    if key.key_id == 0 {
                        return Err(malformed(body));
                    }
                    bag.wrap_keys.push(key);
                }
                bag_attribute::AUTH_KEY if bag.auth_key.is_some() => return Err(malformed(body)),
                bag_attribute::AUTH_KEY => bag.auth_key = Some(Cow::Borrowed(value)),
                bag_attribute::GM_SENDER_ID => {
                    if !(1..=8).contains(&value.len()) {
                        return Err(malformed(body));
                    }
                    bag.sender_ids.push(Cow::Borrowed(value));
                }
                _ => {}
            }
        }
        Ok(bag)
    }

    fn encode_one(&self, out: &mut Vec<u8>) {
        let start = out.len();
        out.extend([0, 0, 0, 0]);
        for key in &self.wrap_keys {
            put_long(out, bag_attribute::WRAP_KEY, &key.to_vec());
        }
        if let Some(spki) = &self.auth_key {
            put_long(out, bag_attribute::AUTH_KEY, spki);
        }
        for id in &self.sender_ids {
            put_long(out, bag_attribute::GM_SENDER_ID, id);
        }
        fits(out, start, start + 2);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::wire::testing::{bytes_round_trip, value_round_trip};

    fn wrapped(key_id: u32, kwk_id: u32) -> WrappedKey<'static> {
        WrappedKey { key_id, kwk_id, encrypted: Cow::Owned(vec![0xab; 24]) }
    }

    #[test]
    fn round_trips() {
        value_round_trip(&Kd {
            groups: vec![
                GroupBag {
                    protocol: ProtocolId::GIKE_UPDATE,
                    spi: Cow::Owned(vec![1; 16]),
                    sa_keys: vec![wrapped(0, 1), wrapped(0, 15)],
                },
                GroupBag { protocol: ProtocolId::ESP, spi: Cow::Owned(vec![1; 4]), sa_keys: vec![wrapped(0, 0)] },
            ],
            member: Some(MemberBag {
                wrap_keys: vec![wrapped(3, 0), wrapped(1, 3)],
                auth_key: Some(Cow::Borrowed(&[0x30, 0])),
                sender_ids: vec![Cow::Borrowed(&[0, 0, 0, 5])],
            }),
        });
        // SPI 01020304 with one SA_KEY of eight octets; a member bag with GM_SENDER_ID 7.
        bytes_round_trip::<Kd<'_>>(
            "0304001c 01020304 00010010 00000000 00000000 aabbccddeeff0011 0000000c 00030004 00000007",
        );
    }

    #[test]
    fn rules_of_key_ids_are_kept() {
        for broken in [
            // No SA_KEY.
            "03040008 01020304",
            // SA_KEY with a Key ID.
            "03040014 01020304 00010008 00000001 00000000",
            // SA_KEY of ESP under an intermediate key.
            "03040014 01020304 00010008 00000000 00000001",
            // Two of them.
            "03040020 01020304 00010008 00000000 00000000 00010008 00000000 00000000",
            // WRAP_KEY with Key ID 0.
            "00000010 00010008 00000000 00000000",
            // A sender ID of nine octets.
            "00000011 00030009 000000000000000001",
            // AUTH_KEY twice.
            "0000000c 00020000 00020000",
        ] {
            let bytes = hex::decode(broken.replace(' ', "")).unwrap();
            assert!(Kd::exact(&bytes).is_err(), "{broken}");
        }
    }
}
