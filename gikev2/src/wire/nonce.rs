//! Nonce payload (RFC 7296 section 3.9).

use std::borrow::Cow;

use keyferry_wire::{Decode, Encode, Parsed};
use nom::combinator::rest;

use super::fail;

/// Fresh random octets, 16 to 256 of them, with no structure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nonce<'a>(pub Cow<'a, [u8]>);

impl<'a> Decode<'a> for Nonce<'a> {
    fn decode(input: &'a [u8]) -> Parsed<'a, Self> {
        if !(16..=256).contains(&input.len()) {
            return fail(input);
        }
        let (input, data) = rest(input)?;
        Ok((input, Self(Cow::Borrowed(data))))
    }
}

impl Encode for Nonce<'_> {
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::testing::{bytes_round_trip, value_round_trip};

    #[test]
    fn round_trips() {
        value_round_trip(&Nonce(Cow::Owned(vec![3; 32])));
        bytes_round_trip::<Nonce<'_>>("000102030405060708090a0b0c0d0e0f");
        assert!(Nonce::exact(&[0; 15]).is_err());
        assert!(Nonce::exact(&[0; 257]).is_err());
    }
}
