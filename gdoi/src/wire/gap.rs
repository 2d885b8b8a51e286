//! Group Associated Policy payload.

use keyferry_wire::{Attribute, Decode, Encode, Parsed};

use super::{all_attributes, put_attributes};

/// Group Associated Policy payload (RFC 6407 section 5.4): delays from the key server, a request for sender IDs from a
/// member.
///
/// ```text
///  0                   1                   2                   3
///  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// ~               Group Associated Policy Attributes              ~
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Gap<'a> {
    /// Attributes, see [`gap_attribute`](super::registry::gap_attribute).
    pub attributes: Vec<Attribute<'a>>,
}

impl<'a> Decode<'a> for Gap<'a> {
    fn decode(input: &'a [u8]) -> Parsed<'a, Self> {
        let (left, attributes) = all_attributes(input)?;
        Ok((left, Self { attributes }))
    }
}

impl Encode for Gap<'_> {
    fn encode(&self, out: &mut Vec<u8>) {
        put_attributes(out, &self.attributes);
    }
}

#[cfg(test)]
mod tests {
    use keyferry_wire::AttributeValue;

    use super::*;
    use crate::wire::check::{canonical, round_trip};

    #[test]
    fn gap_payloads_round_trip() {
        let attributes = vec![Attribute { kind: 3, value: AttributeValue::Short(2) }];
        round_trip(&Gap { attributes }, &mut Vec::new());
        canonical::<Gap<'_>>(&[0x80, 1, 0, 5, 0, 2, 0, 4, 0, 0, 0, 30]);
        assert!(Gap::exact(&[0, 1, 0, 5, 0]).is_err());
    }
}
