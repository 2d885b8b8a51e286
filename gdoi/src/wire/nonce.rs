//! Nonce payload.

use keyferry_wire::{Decode, Encode, Parsed};

use super::refuse;

/// Nonce payload (RFC 2408 section 3.13): 8 to 256 octets (RFC 2409 section 5). GDOI allows 8 to 128
/// (RFC 6407 section 5.8), which [`Nonce::fits_gdoi`] tells.
///
/// ```text
///  0                   1                   2                   3
///  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// ~                          Nonce Data                           ~
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Nonce<'a>(pub &'a [u8]);

impl Nonce<'_> {
    /// Octets of the nonces we draw.
    pub const OWN_LEN: usize = 32;

    /// May it stand in a GROUPKEY-PULL?
    #[must_use]
    pub fn fits_gdoi(&self) -> bool {
        self.0.len() <= 128
    }
}

impl<'a> Decode<'a> for Nonce<'a> {
    fn decode(input: &'a [u8]) -> Parsed<'a, Self> {
        if !(8..=256).contains(&input.len()) {
            return refuse(input);
        }
        Ok((&input[input.len()..], Self(input)))
    }
}

impl Encode for Nonce<'_> {
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::check::{canonical, round_trip};

    #[test]
    fn nonces_round_trip_within_their_bounds() {
        round_trip(&Nonce(&[9; 32]), &mut Vec::new());
        canonical::<Nonce<'_>>(&[1; 8]);
        assert!(Nonce::exact(&[1; 7]).is_err());
        assert!(Nonce::exact(&[1; 257]).is_err());
        assert!(Nonce(&[0; 128]).fits_gdoi() && !Nonce(&[0; 129]).fits_gdoi());
    }
}
