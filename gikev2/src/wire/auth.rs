//! Authentication payload (RFC 7296 section 3.8, RFC 7427 section 3).

use std::borrow::Cow;

use keyferry_wire::{Decode, Encode, Parsed};
use nom::bytes::complete::take;
use nom::combinator::rest;
use nom::number::complete::be_u8;

use super::registry::AuthMethod;

/// Proof of an identity or of a message's origin.
///
/// ```text
///  +-----------+-----------------------------------------+
///  |  Method   |                RESERVED                 |
///  +-----------+-----------------------------------------+
///  ~ Authentication Data                                 ~
///  +-----------------------------------------------------+
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Auth<'a> {
    /// How.
    pub method: AuthMethod,
    /// Proof, in the method's form.
    pub data: Cow<'a, [u8]>,
}

/// Authentication Data of method 14: the algorithm, then the signature.
///
/// ```text
///  +-----------+-----------------------------------------+
///  | ASN.1 len |  AlgorithmIdentifier (DER)              ~
///  +-----------+-----------------------------------------+
///  ~ Signature Value                                     ~
///  +-----------------------------------------------------+
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SignatureData<'a> {
    /// DER AlgorithmIdentifier.
    pub algorithm: &'a [u8],
    /// Signature value.
    pub value: &'a [u8],
}

impl<'a> Decode<'a> for Auth<'a> {
    fn decode(input: &'a [u8]) -> Parsed<'a, Self> {
        let (input, method) = be_u8(input)?;
        let (input, _reserved) = take(3usize)(input)?;
        let (input, data) = rest(input)?;
        Ok((input, Self { method: AuthMethod(method), data: Cow::Borrowed(data) }))
    }
}

impl Encode for Auth<'_> {
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend([self.method.0, 0, 0, 0]);
        out.extend_from_slice(&self.data);
    }
}

impl<'a> Decode<'a> for SignatureData<'a> {
    fn decode(input: &'a [u8]) -> Parsed<'a, Self> {
        let (input, len) = be_u8(input)?;
        let (input, algorithm) = take(len)(input)?;
        let (input, value) = rest(input)?;
        Ok((input, Self { algorithm, value }))
    }
}

impl Encode for SignatureData<'_> {
    fn encode(&self, out: &mut Vec<u8>) {
        // AlgorithmIdentifiers in use have 10 to 70 octets.
        out.push(u8::try_from(self.algorithm.len()).expect("an AlgorithmIdentifier has at most 255 octets"));
        out.extend_from_slice(self.algorithm);
        out.extend_from_slice(self.value);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::wire::testing::{bytes_round_trip, value_round_trip};

    #[test]
    fn round_trips() {
        value_round_trip(&Auth { method: AuthMethod::SHARED_KEY, data: Cow::Owned(vec![9; 32]) });
        bytes_round_trip::<Auth<'_>>("0e000000 02300001");
        let bytes = [2, 0x30, 0, 1];
        let data = SignatureData::exact(&bytes).unwrap();
        assert_eq!(data, SignatureData { algorithm: &[0x30, 0], value: &[1] });
        assert_eq!(data.to_vec(), bytes);
        assert!(SignatureData::exact(&[3, 0x30]).is_err());
    }
}
