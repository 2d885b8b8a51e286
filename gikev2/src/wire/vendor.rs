//! Vendor ID payload (RFC 7296 section 3.12).

use std::borrow::Cow;

use keyferry_wire::{Decode, Encode, Parsed};
use nom::combinator::rest;

/// Octets by which implementations know each other. Others than ours are skipped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VendorId<'a>(pub Cow<'a, [u8]>);

/// Our own: it stands in messages with numbers of the ranges for private use, which mean nothing without it.
pub const KEYFERRY: &[u8; 16] = b"Keyferry G-IKEv2";

impl VendorId<'static> {
    /// Our own.
    #[must_use]
    pub fn ours() -> Self {
        Self(Cow::Borrowed(KEYFERRY))
    }
}

impl<'a> Decode<'a> for VendorId<'a> {
    fn decode(input: &'a [u8]) -> Parsed<'a, Self> {
        let (input, data) = rest(input)?;
        Ok((input, Self(Cow::Borrowed(data))))
    }
}

impl Encode for VendorId<'_> {
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
        value_round_trip(&VendorId(Cow::Borrowed(b"somebody")));
        value_round_trip(&VendorId::ours());
        bytes_round_trip::<VendorId<'_>>("00ff");
    }
}
