//! Fragment payload.

use keyferry_wire::{Decode, Encode, Parsed};
use nom::Parser;
use nom::combinator::rest;
use nom::number::complete::{be_u8, be_u16};

use super::refuse;

/// Fragment payload of IKEv1, type 132, as vendors have it (MS-IKEE section 2.2.3.1): a piece of a whole message, header
/// and all. It stands alone in a message that is not encrypted.
///
/// ```text
///  0                   1                   2                   3
///  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// !          Fragment ID          !    Number     !     Flags     !
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// ~                         Fragment Data                         ~
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fragment<'a> {
    /// The same for all fragments of a message.
    pub id: u16,
    /// From 1.
    pub number: u8,
    /// Is this the last one?
    pub last: bool,
    /// At least one octet.
    pub data: &'a [u8],
}

/// LAST_FRAGMENT. The other flags are ignored.
const LAST: u8 = 1;

impl Fragment<'_> {
    /// Octets in front of the data, the generic header included.
    pub const OVERHEAD: usize = 8;
}

impl<'a> Decode<'a> for Fragment<'a> {
    fn decode(input: &'a [u8]) -> Parsed<'a, Self> {
        let (left, (id, number, flags, data)) = (be_u16, be_u8, be_u8, rest).parse(input)?;
        if number == 0 || data.is_empty() {
            return refuse(input);
        }
        Ok((left, Self { id, number, last: flags & LAST != 0, data }))
    }
}

impl Encode for Fragment<'_> {
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.id.to_be_bytes());
        out.extend([self.number, u8::from(self.last)]);
        out.extend_from_slice(self.data);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::check::{canonical, round_trip};

    #[test]
    fn fragments_round_trip() {
        round_trip(&Fragment { id: 0x0102, number: 3, last: false, data: b"data" }, &mut Vec::new());
        let f: Fragment<'_> = canonical(&[0, 1, 2, 1, 9, 9]);
        assert_eq!((f.id, f.number, f.last, f.data), (1, 2, true, &[9, 9][..]));
        assert!(Fragment::exact(&[0, 1, 0, 1, 9]).is_err(), "numbers start at 1");
        assert!(Fragment::exact(&[0, 1, 1, 1]).is_err(), "no data");
    }
}
