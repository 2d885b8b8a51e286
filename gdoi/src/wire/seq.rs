//! Sequence Number payload.

use keyferry_wire::{Decode, Encode, Parsed};
use nom::Parser;
use nom::combinator::map;
use nom::number::complete::be_u32;

/// Sequence Number payload (RFC 6407 section 5.7): the last used one in a GROUPKEY-PULL, the message's own in a
/// GROUPKEY-PUSH and its acknowledgement.
///
/// ```text
///  0                   1                   2                   3
///  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// !                        Sequence Number                        !
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seq(pub u32);

impl<'a> Decode<'a> for Seq {
    fn decode(input: &'a [u8]) -> Parsed<'a, Self> {
        map(be_u32, Seq).parse(input)
    }
}

impl Encode for Seq {
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.0.to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::check::{canonical, round_trip};

    #[test]
    fn sequence_numbers_round_trip() {
        round_trip(&Seq(0x0102_0304), &mut Vec::new());
        assert_eq!(canonical::<Seq>(&[0, 0, 0, 7]), Seq(7));
        assert!(Seq::exact(&[0; 5]).is_err());
    }
}
