//! Data attributes (RFC 2408 section 3.3, RFC 7296 section 3.3.5).

use crate::codec::DecodeError;

/// The value of an attribute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttributeValue<'a> {
    /// TV: two octets in place of the length.
    Short(u16),
    /// TLV.
    Long(&'a [u8]),
}

/// An attribute.
///
/// ```text
/// +-+-----------------------------+-------------------------------+
/// |F|            type             |   value (F = 1) or length     |
/// +-+-----------------------------+-------------------------------+
/// |                     value (F = 0)                             |
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attribute<'a> {
    /// Type, 15 bits.
    pub kind: u16,
    /// Value.
    pub value: AttributeValue<'a>,
}

impl Attribute<'_> {
    /// The value as a number, in either form; `None` if it is empty or does not fit.
    #[must_use]
    pub fn as_u64(&self) -> Option<u64> {
        match self.value {
            AttributeValue::Short(v) => Some(u64::from(v)),
            AttributeValue::Long(v) if !v.is_empty() && v.len() <= 8 => {
                Some(v.iter().fold(0, |n, b| n << 8 | u64::from(*b)))
            }
            AttributeValue::Long(_) => None,
        }
    }

    /// The value as a number of at most 32 bits, in either form.
    #[must_use]
    pub fn as_u32(&self) -> Option<u32> {
        self.as_u64().and_then(|v| u32::try_from(v).ok())
    }
}

/// Reads attributes until the octets end.
///
/// # Errors
/// Where an attribute does not fit.
pub fn attributes(bytes: &[u8]) -> Result<Vec<Attribute<'_>>, DecodeError> {
    let mut found = Vec::new();
    let mut rest = bytes;
    while !rest.is_empty() {
        let at = bytes.len() - rest.len();
        let Some((head, behind)) = rest.split_first_chunk::<4>() else {
            return Err(DecodeError::new(at, "truncated attribute"));
        };
        let kind = u16::from_be_bytes([head[0], head[1]]);
        let second = u16::from_be_bytes([head[2], head[3]]);
        if kind & 0x8000 != 0 {
            found.push(Attribute { kind: kind & 0x7fff, value: AttributeValue::Short(second) });
            rest = behind;
        } else {
            let (value, behind) = behind
                .split_at_checked(usize::from(second))
                .ok_or(DecodeError::new(at + 2, "attribute length does not fit"))?;
            found.push(Attribute { kind, value: AttributeValue::Long(value) });
            rest = behind;
        }
    }
    Ok(found)
}

/// Appends a TV attribute.
pub fn put_short(out: &mut Vec<u8>, kind: u16, value: u16) {
    out.extend((kind | 0x8000).to_be_bytes());
    out.extend(value.to_be_bytes());
}

/// Appends a TLV attribute.
///
/// # Panics
/// If the value has more than 65,535 octets; ours are keys, numbers and public keys.
pub fn put_long(out: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let len = u16::try_from(value.len()).expect("attribute values are far below 64 KiB");
    out.extend((kind & 0x7fff).to_be_bytes());
    out.extend(len.to_be_bytes());
    out.extend(value);
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn round_trip() {
        let mut out = Vec::new();
        put_short(&mut out, 1, 7);
        put_long(&mut out, 12, &[0, 0, 0x0e, 0x10]);
        put_long(&mut out, 2, &[]);
        let found = attributes(&out).unwrap();
        assert_eq!(found[0], Attribute { kind: 1, value: AttributeValue::Short(7) });
        assert_eq!(found[1].as_u32(), Some(3600));
        assert_eq!(found[2].as_u32(), None);
        for len in [1, 2, 3, 5, 11] {
            assert!(attributes(&out[..len]).is_err());
        }
    }

    #[test]
    fn numbers_that_do_not_fit_are_none() {
        let long = Attribute { kind: 1, value: AttributeValue::Long(&[1, 0, 0, 0, 0]) };
        assert_eq!((long.as_u32(), long.as_u64()), (None, Some(1 << 32)));
        assert_eq!(Attribute { kind: 1, value: AttributeValue::Long(&[0; 9]) }.as_u64(), None);
    }

    proptest! {
        #[test]
        fn any_octets_are_survived_and_accepted_ones_are_canonical(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            if let Ok(found) = attributes(&bytes) {
                let mut out = Vec::new();
                for a in found {
                    match a.value {
                        AttributeValue::Short(v) => put_short(&mut out, a.kind, v),
                        AttributeValue::Long(v) => put_long(&mut out, a.kind, v),
                    }
                }
                prop_assert_eq!(out, bytes);
            }
        }
    }
}
