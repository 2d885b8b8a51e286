//! What REDIRECT and REDIRECTED_FROM carry (RFC 5685 sections 9.2 and 9.3).

use std::borrow::Cow;

use keyferry_wire::{Decode, Encode, Parsed};
use nom::bytes::complete::take;
use nom::combinator::rest;
use nom::number::complete::be_u8;

use super::fail;
use super::registry::GatewayIdType;

/// A gateway's identity.
///
/// ```text
///  +---------------+---------------+
///  | GW Ident Type |  GW Ident Len |
///  +---------------+---------------+
///  ~ identity                      ~
///  +-------------------------------+
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GatewayId<'a> {
    /// Its form.
    pub kind: GatewayIdType,
    /// An address, or a name without a terminator: as in an Identification payload (RFC 7296 section 3.5).
    pub data: Cow<'a, [u8]>,
}

/// Data of REDIRECT.
///
/// ```text
///  +-------------------------------+
///  ~ identity of the new gateway   ~
///  +-------------------------------+
///  ~ nonce data                    ~
///  +-------------------------------+
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redirect<'a> {
    /// The new gateway.
    pub to: GatewayId<'a>,
    /// Ni, in a response to IKE_SA_INIT; elsewhere empty.
    pub nonce: Cow<'a, [u8]>,
}

/// The lengths that a nonce has (RFC 7296 section 3.9).
const NONCE: std::ops::RangeInclusive<usize> = 16..=256;

impl<'a> Decode<'a> for GatewayId<'a> {
    fn decode(input: &'a [u8]) -> Parsed<'a, Self> {
        let (input, kind) = be_u8(input)?;
        let (input, len) = be_u8(input)?;
        let (input, data) = take(len)(input)?;
        Ok((input, Self { kind: GatewayIdType(kind), data: Cow::Borrowed(data) }))
    }
}

impl Encode for GatewayId<'_> {
    fn encode(&self, out: &mut Vec<u8>) {
        out.push(self.kind.0);
        out.push(u8::try_from(self.data.len()).expect("names of hosts have at most 253 octets"));
        out.extend_from_slice(&self.data);
    }
}

impl<'a> Decode<'a> for Redirect<'a> {
    fn decode(input: &'a [u8]) -> Parsed<'a, Self> {
        let (input, to) = GatewayId::decode(input)?;
        let (input, nonce) = rest(input)?;
        if !nonce.is_empty() && !NONCE.contains(&nonce.len()) {
            return fail(nonce);
        }
        Ok((input, Self { to, nonce: Cow::Borrowed(nonce) }))
    }
}

impl Encode for Redirect<'_> {
    fn encode(&self, out: &mut Vec<u8>) {
        self.to.encode(out);
        out.extend_from_slice(&self.nonce);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::testing::{bytes_round_trip, value_round_trip};

    #[test]
    fn round_trips() {
        let to = GatewayId { kind: GatewayIdType::IPV4, data: vec![192, 0, 2, 1].into() };
        value_round_trip(&to);
        value_round_trip(&Redirect { to: to.clone(), nonce: vec![7; 32].into() });
        value_round_trip(&Redirect { to, nonce: Cow::Borrowed(&[]) });
        bytes_round_trip::<GatewayId<'_>>("0104c0000201");
        bytes_round_trip::<Redirect<'_>>("0303 6162 63 000102030405060708090a0b0c0d0e0f");
        bytes_round_trip::<Redirect<'_>>("0210 20010db8000000000000000000000001");
    }

    #[test]
    fn lengths_are_held() {
        assert!(GatewayId::exact(&[1, 4, 192, 0, 2]).is_err());
        assert!(GatewayId::exact(&[1, 4, 192, 0, 2, 1, 0]).is_err(), "no more than an identity");
        let with = |nonce: usize| [&[1, 4, 192, 0, 2, 1][..], &vec![0; nonce]].concat();
        for nonce in [1, 15, 257] {
            assert!(Redirect::exact(&with(nonce)).is_err(), "{nonce}");
        }
        for nonce in [0, 16, 256] {
            assert!(Redirect::exact(&with(nonce)).is_ok(), "{nonce}");
        }
    }
}
