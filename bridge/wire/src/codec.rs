//! Values from octets and back.

use nom::Parser;
use nom::combinator::all_consuming;

/// Octets that cannot be understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what} at octet {at}")]
pub struct DecodeError {
    /// Offset of the trouble from the start of what was decoded.
    pub at: usize,
    /// What is wrong.
    pub what: &'static str,
}

impl DecodeError {
    /// An error at an offset.
    #[must_use]
    pub fn new(at: usize, what: &'static str) -> Self {
        Self { at, what }
    }

    /// The same error seen from a structure that begins `by` octets earlier.
    #[must_use]
    pub fn shifted(self, by: usize) -> Self {
        Self { at: self.at + by, ..self }
    }
}

/// What a parser built of nom's `complete` combinators returns.
pub type Parsed<'a, T> = nom::IResult<&'a [u8], T>;

/// A value that can be read from octets.
pub trait Decode<'a>: Sized {
    /// Reads a value from the front.
    ///
    /// # Errors
    /// nom's error, which knows where it stopped.
    fn decode(input: &'a [u8]) -> Parsed<'a, Self>;

    /// Reads a value that takes up all the octets.
    ///
    /// # Errors
    /// Where the octets stop making sense, or go on after the value.
    fn exact(input: &'a [u8]) -> Result<Self, DecodeError> {
        match all_consuming(Self::decode).parse(input) {
            Ok((_, value)) => Ok(value),
            Err(nom::Err::Incomplete(_)) => Err(DecodeError::new(input.len(), "truncated")),
            Err(nom::Err::Error(e) | nom::Err::Failure(e)) => {
                let what = if e.code == nom::error::ErrorKind::Eof { "wrong length" } else { "malformed" };
                Err(DecodeError::new(input.len().saturating_sub(e.input.len()), what))
            }
        }
    }
}

/// A value that can be written as octets.
pub trait Encode {
    /// Appends the octets.
    fn encode(&self, out: &mut Vec<u8>);

    /// The octets alone.
    fn to_vec(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.encode(&mut out);
        out
    }
}
