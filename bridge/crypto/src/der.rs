//! Distinguished Encoding Rules (X.690, section 10), as far as keys and certificates need them: read without recursion,
//! copies, or trust in lengths.

use crate::CryptoError;

/// Octets that are not the DER they ought to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Malformed;

impl From<Malformed> for CryptoError {
    fn from(_: Malformed) -> Self {
        CryptoError::SignatureKey("not plain DER")
    }
}

/// Tags.
pub(crate) mod tag {
    pub(crate) const BOOLEAN: u8 = 0x01;
    pub(crate) const INTEGER: u8 = 0x02;
    pub(crate) const BIT_STRING: u8 = 0x03;
    pub(crate) const OCTET_STRING: u8 = 0x04;
    pub(crate) const NULL: u8 = 0x05;
    pub(crate) const OID: u8 = 0x06;
    pub(crate) const ENUMERATED: u8 = 0x0a;
    pub(crate) const UTF8_STRING: u8 = 0x0c;
    pub(crate) const PRINTABLE_STRING: u8 = 0x13;
    pub(crate) const TELETEX_STRING: u8 = 0x14;
    pub(crate) const IA5_STRING: u8 = 0x16;
    pub(crate) const UTC_TIME: u8 = 0x17;
    pub(crate) const GENERALIZED_TIME: u8 = 0x18;
    pub(crate) const UNIVERSAL_STRING: u8 = 0x1c;
    pub(crate) const BMP_STRING: u8 = 0x1e;
    pub(crate) const SEQUENCE: u8 = 0x30;
    pub(crate) const SET: u8 = 0x31;

    /// A context-specific tag of a primitive value.
    pub(crate) const fn primitive(n: u8) -> u8 {
        0x80 | n
    }

    /// A context-specific tag of a constructed value.
    pub(crate) const fn constructed(n: u8) -> u8 {
        0xa0 | n
    }
}

/// A value with its tag.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Value<'a> {
    pub(crate) tag: u8,
    pub(crate) body: &'a [u8],
    /// Tag, length and body.
    pub(crate) whole: &'a [u8],
}

/// Reads values one after the other.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) fn new(octets: &'a [u8]) -> Self {
        Self(octets)
    }

    pub(crate) fn is_empty(self) -> bool {
        self.0.is_empty()
    }

    /// The next value, of any tag with a number below 31.
    pub(crate) fn value(&mut self) -> Result<Value<'a>, Malformed> {
        let all = self.0;
        let (&tag, rest) = all.split_first().ok_or(Malformed)?;
        let (&first, rest) = rest.split_first().ok_or(Malformed)?;
        let (len, rest) = match first {
            0..=0x7f => (usize::from(first), rest),
            0x81..=0x84 => {
                let (octets, rest) = rest.split_at_checked(usize::from(first & 0x7f)).ok_or(Malformed)?;
                let len = octets.iter().fold(0u32, |n, o| n << 8 | u32::from(*o));
                // The shortest form is the only one.
                if octets.first() == Some(&0) || len < 0x80 {
                    return Err(Malformed);
                }
                (usize::try_from(len).map_err(|_| Malformed)?, rest)
            }
            _ => return Err(Malformed),
        };
        let (body, rest) = rest.split_at_checked(len).ok_or(Malformed)?;
        if tag & 0x1f == 0x1f {
            return Err(Malformed);
        }
        self.0 = rest;
        Ok(Value { tag, body, whole: &all[..all.len() - rest.len()] })
    }

    /// The next value if it has this tag.
    pub(crate) fn optional(&mut self, tag: u8) -> Result<Option<Value<'a>>, Malformed> {
        if self.0.first() == Some(&tag) { self.value().map(Some) } else { Ok(None) }
    }

    /// The body of the next value, which must have this tag.
    pub(crate) fn expect(&mut self, tag: u8) -> Result<&'a [u8], Malformed> {
        self.optional(tag)?.map(|v| v.body).ok_or(Malformed)
    }

    /// The values of a SEQUENCE.
    pub(crate) fn sequence(&mut self) -> Result<Reader<'a>, Malformed> {
        self.expect(tag::SEQUENCE).map(Reader)
    }

    /// A SEQUENCE with its tag and length.
    pub(crate) fn whole_sequence(&mut self) -> Result<&'a [u8], Malformed> {
        self.optional(tag::SEQUENCE)?.map(|v| v.whole).ok_or(Malformed)
    }

    /// The octets of an INTEGER, two's complement, as few as there can be.
    pub(crate) fn integer(&mut self) -> Result<&'a [u8], Malformed> {
        match self.expect(tag::INTEGER)? {
            [] => Err(Malformed),
            [0, second, ..] if second & 0x80 == 0 => Err(Malformed),
            [0xff, second, ..] if second & 0x80 != 0 => Err(Malformed),
            octets => Ok(octets),
        }
    }

    /// The octets of an INTEGER that is not negative, without a zero in front; empty for zero.
    pub(crate) fn unsigned(&mut self) -> Result<&'a [u8], Malformed> {
        match self.integer()? {
            [0, rest @ ..] => Ok(rest),
            [first, ..] if first & 0x80 != 0 => Err(Malformed),
            octets => Ok(octets),
        }
    }

    /// A BOOLEAN.
    pub(crate) fn boolean(&mut self) -> Result<bool, Malformed> {
        match self.expect(tag::BOOLEAN)? {
            [0] => Ok(false),
            [0xff] => Ok(true),
            _ => Err(Malformed),
        }
    }

    /// A BOOLEAN that is FALSE when absent.
    pub(crate) fn flag(&mut self) -> Result<bool, Malformed> {
        if self.0.first() == Some(&tag::BOOLEAN) { self.boolean() } else { Ok(false) }
    }

    /// A BIT STRING of whole octets.
    pub(crate) fn octet_bits(&mut self) -> Result<&'a [u8], Malformed> {
        match self.expect(tag::BIT_STRING)? {
            [0, octets @ ..] => Ok(octets),
            _ => Err(Malformed),
        }
    }

    /// Nothing may follow.
    pub(crate) fn end(self) -> Result<(), Malformed> {
        if self.0.is_empty() { Ok(()) } else { Err(Malformed) }
    }
}

/// The values of exactly one SEQUENCE.
pub(crate) fn only_sequence(octets: &[u8]) -> Result<Reader<'_>, Malformed> {
    let mut reader = Reader::new(octets);
    let inner = reader.sequence()?;
    reader.end()?;
    Ok(inner)
}

/// A value of our own.
pub(crate) fn encode(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let len: usize = parts.iter().map(|p| p.len()).sum();
    let mut out = Vec::with_capacity(len + 6);
    out.push(tag);
    let octets = len.to_be_bytes();
    let short = &octets[octets.iter().take_while(|o| **o == 0).count()..];
    match short {
        [] => out.push(0),
        [one] if *one < 0x80 => out.push(*one),
        more => {
            out.push(0x80 | u8::try_from(more.len()).unwrap_or(0x7f));
            out.extend_from_slice(more);
        }
    }
    parts.iter().for_each(|p| out.extend_from_slice(p));
    out
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn what_is_encoded_reads_back() {
        for len in [0, 1, 127, 128, 255, 256, 65_535, 65_536] {
            let octets = encode(tag::OCTET_STRING, &[&vec![7; len]]);
            let mut reader = Reader::new(&octets);
            let value = reader.value().unwrap();
            assert_eq!((value.tag, value.body.len(), value.whole.len()), (4, len, octets.len()));
            assert!(reader.is_empty());
            for cut in [0, 1, octets.len() - 1] {
                assert!(Reader::new(&octets[..cut.min(octets.len() - 1)]).value().is_err());
            }
        }
    }

    #[test]
    fn other_forms_are_refused() {
        let refused = |octets: &[u8]| Reader::new(octets).value().is_err();
        assert!(refused(&[4, 0x80, 0, 0]), "indefinite");
        assert!(refused(&[4, 0x81, 1, 0]), "longer than needed");
        assert!(refused(&[4, 0x82, 0, 0x80]), "a zero in front");
        assert!(refused(&[4, 0x84, 0xff, 0xff, 0xff, 0xff]), "beyond the end");
        assert!(refused(&[4, 0x85, 0, 0, 0, 0, 1, 0]), "too long");
        assert!(refused(&[0x1f, 1, 0]), "a tag of several octets");
        let integer = |octets: &[u8]| Reader::new(octets).unsigned().map(<[u8]>::to_vec);
        assert_eq!(integer(&[2, 2, 0, 0x80]), Ok(vec![0x80]));
        assert_eq!(integer(&[2, 1, 0]), Ok(vec![]));
        for bad in [&[2, 0][..], &[2, 2, 0, 1], &[2, 1, 0x80], &[2, 2, 0xff, 0x80], &[4, 1, 1]] {
            assert!(integer(bad).is_err());
        }
        assert!(Reader::new(&[1, 1, 1]).boolean().is_err());
        assert!(Reader::new(&[3, 2, 1, 0]).octet_bits().is_err());
        assert!(only_sequence(&[0x30, 0, 0]).is_err());
    }
}
