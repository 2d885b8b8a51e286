//! Object identifiers as names of groups and of IEC 61850 streams (RFC 8052 section 2.1).

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::id::{IdError, parse_hex};

/// Tag of an OBJECT IDENTIFIER (X.690 section 8.19).
const TAG: u8 = 0x06;

/// The most octets of an encoded OID: its length has one octet on the wire.
const MAX_DER: usize = 255;

/// The most octets that an OID-specific payload may have. GDOI's length has two octets; no selector needs that many.
pub const MAX_PAYLOAD: usize = 512;

/// How deep values of DER may be nested.
const MAX_DEPTH: u8 = 8;

/// An object identifier, kept as its contents octets (X.690 section 8.19): in their only DER form, each arc of at most
/// 128 bits.
///
/// Text form: decimal arcs with dots, `1.2.840.10070`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Oid(Vec<u8>);

impl Oid {
    /// Takes an OID in DER, with tag and length and nothing behind; `None` for any other encoding.
    #[must_use]
    pub fn from_der(der: &[u8]) -> Option<Self> {
        let contents = match der {
            [TAG, length, contents @ ..] if *length < 0x80 && contents.len() == usize::from(*length) => contents,
            // From 128 on, and only then, the length has an octet of its own (X.690 section 10.1).
            [TAG, 0x81, length, contents @ ..] if *length >= 0x80 && contents.len() == usize::from(*length) => contents,
            _ => return None,
        };
        (der.len() <= MAX_DER).then(|| Self(contents.to_vec())).filter(|oid| arcs(&oid.0).is_some())
    }

    /// The encoding in DER, with tag and length; at most 255 octets.
    #[must_use]
    pub fn to_der(&self) -> Vec<u8> {
        let length = u8::try_from(self.0.len()).unwrap_or(u8::MAX);
        let long = [TAG, 0x81, length];
        let head: &[u8] = if length < 0x80 { &[TAG, length] } else { &long };
        [head, &self.0].concat()
    }
}

/// The arcs that contents octets stand for; `None` if they are not DER, or an arc has more than 128 bits.
fn arcs(contents: &[u8]) -> Option<Vec<u128>> {
    let (mut arcs, mut arc, mut begun) = (Vec::new(), 0u128, false);
    for octet in contents {
        // A leading 0x80 would be padding (X.690 section 8.19.2).
        if (!begun && *octet == 0x80) || arc >> 121 != 0 {
            return None;
        }
        arc = arc << 7 | u128::from(octet & 0x7f);
        begun = octet & 0x80 != 0;
        if !begun {
            arcs.push(std::mem::take(&mut arc));
        }
    }
    // The first two arcs stand in one number (X.690 section 8.19.4).
    let both = *arcs.first().filter(|_| !begun)?;
    let first = (both / 40).min(2);
    arcs[0] = both - first * 40;
    arcs.insert(0, first);
    Some(arcs)
}

/// Appends a number in base 128, most significant digit first.
fn put_arc(out: &mut Vec<u8>, arc: u128) {
    let digits = (128 - arc.leading_zeros()).div_ceil(7).max(1);
    for digit in (0..digits).rev() {
        let low = u8::try_from(arc >> (7 * digit) & 0x7f).unwrap_or(0);
        out.push(if digit > 0 { low | 0x80 } else { low });
    }
}

impl fmt::Display for Oid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, arc) in arcs(&self.0).unwrap_or_default().iter().enumerate() {
            write!(f, "{}{arc}", if i == 0 { "" } else { "." })?;
        }
        Ok(())
    }
}

impl fmt::Debug for Oid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Oid({self})")
    }
}

impl FromStr for Oid {
    type Err = IdError;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        const HELP: IdError = IdError("an OID is written as 1.2.840.10070: two to many decimal numbers with dots");
        let arcs = s.split('.').map(number).collect::<Option<Vec<u128>>>().ok_or(HELP)?;
        let [first, second, rest @ ..] = arcs.as_slice() else { return Err(HELP) };
        if *first > 2 || (*first < 2 && *second > 39) {
            return Err(IdError("an OID begins with 0, 1 or 2, and below 0 and 1 there are 40 arcs"));
        }
        let mut contents = Vec::new();
        put_arc(&mut contents, second.checked_add(first * 40).ok_or(HELP)?);
        rest.iter().for_each(|arc| put_arc(&mut contents, *arc));
        let oid = Self(contents);
        if oid.0.len() + 3 > MAX_DER {
            return Err(IdError("the OID is too long"));
        }
        Ok(oid)
    }
}

/// A decimal number as an arc is written: no sign, no leading zeros.
fn number(text: &str) -> Option<u128> {
    let plain = text.bytes().all(|b| b.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    text.parse().ok().filter(|_| plain)
}

/// An OID together with its OID-specific payload, which selects among what the OID stands for: the multicast address of a
/// stream, for instance (RFC 8052 sections 2.1 and 2.2.1). Payloads are compared by their octets.
///
/// Text form: the OID, and the payload behind `#` in hexadecimal: `1.2.840.10070#0a0b`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct OidName {
    /// The OID.
    pub oid: Oid,
    /// What stands behind it; empty if the OID says it all.
    pub payload: Vec<u8>,
}

impl OidName {
    /// Is the payload absent or one whole value in DER, as RFC 8052 wants it?
    #[must_use]
    pub fn is_der(&self) -> bool {
        self.payload.is_empty() || der_value(&self.payload, MAX_DEPTH).is_some_and(<[u8]>::is_empty)
    }
}

impl From<OidName> for String {
    fn from(name: OidName) -> String {
        name.to_string()
    }
}

impl TryFrom<String> for OidName {
    type Error = IdError;

    fn try_from(s: String) -> Result<Self, Self::Error> {
        s.parse()
    }
}

impl fmt::Display for OidName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.oid)?;
        if !self.payload.is_empty() {
            f.write_str("#")?;
        }
        self.payload.iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

impl fmt::Debug for OidName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "OidName({self})")
    }
}

impl FromStr for OidName {
    type Err = IdError;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        const HELP: IdError = IdError("behind the # of an OID stand the octets of its payload in hexadecimal");
        let (oid, payload) = s.split_once('#').map_or((s, None), |(oid, payload)| (oid, Some(payload)));
        let payload = match payload {
            Some(hex) => parse_hex(hex).filter(|p| !p.is_empty()).ok_or(HELP)?,
            None => Vec::new(),
        };
        if payload.len() > MAX_PAYLOAD {
            return Err(IdError("the payload of an OID has at most 512 octets"));
        }
        Ok(Self { oid: oid.parse()?, payload })
    }
}

/// Takes one value in DER, and what its constructed values hold; what is left behind it. `None` for what is not DER.
fn der_value(bytes: &[u8], depth: u8) -> Option<&[u8]> {
    let (tag, mut rest) = bytes.split_first()?;
    if tag & 0x1f == 0x1f {
        // Tag numbers from 31 on stand in octets of their own, and none begins with a zero digit (X.690 section 8.1.2.4).
        let end = rest.iter().position(|b| b & 0x80 == 0)?;
        let small = end == 0 && rest[0] < 0x1f;
        if rest[0] == 0x80 || small {
            return None;
        }
        rest = &rest[end + 1..];
    }
    let (length, rest) = rest.split_first()?;
    let (length, rest) = match *length {
        short @ ..=0x7f => (usize::from(short), rest),
        0x81 => rest.split_first().map(|(n, rest)| (usize::from(*n), rest)).filter(|(n, _)| *n >= 0x80)?,
        0x82 => {
            let (n, rest) = rest.split_first_chunk::<2>()?;
            let n = usize::from(u16::from_be_bytes(*n));
            if n < 0x100 {
                return None;
            }
            (n, rest)
        }
        // Indefinite, or longer than a payload may be.
        _ => return None,
    };
    let (mut contents, behind) = rest.split_at_checked(length)?;
    if tag & 0x20 != 0 {
        let depth = depth.checked_sub(1)?;
        while !contents.is_empty() {
            contents = der_value(contents, depth)?;
        }
    }
    Some(behind)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_oid_of_rfc_8052_appendix_a() {
        let der = hex("060b2a8648ce5683e31a080102");
        let oid: Oid = "1.2.840.10070.61850.8.1.2".parse().unwrap();
        assert_eq!((oid.to_der(), Oid::from_der(&der)), (der, Some(oid)));
    }

    #[test]
    fn only_der_is_taken() {
        let bad = [
            "",
            "06",
            "0600",
            "0601",
            "06012a00",
            "06022a",
            "0681012a",
            "07012a",
            "060180",
            "0602802a",
            "06022a80",
            "06032a8001",
            "0680",
        ];
        for der in bad {
            assert_eq!(Oid::from_der(&hex(der)), None, "{der}");
        }
        let mut wide = hex("06152a");
        wide.extend([0xff; 19]);
        wide.push(0x7f);
        assert_eq!(Oid::from_der(&wide), None, "an arc of more than 128 bits");
    }

    #[test]
    fn arcs_have_their_bounds() {
        for text in ["0.0", "0.39", "1.39.1", "2.999.3", "2.25.340282366920938463463374607431768211455"] {
            let oid: Oid = text.parse().unwrap();
            assert_eq!(oid.to_string(), text);
            assert_eq!(Oid::from_der(&oid.to_der()), Some(oid));
        }
        for text in ["", "1", "3.1", "0.40", "1.40.1", "1.2.", "1..2", "1.02", "1.+2", "1.-2", "1.2.x", "1.2 "] {
            assert!(text.parse::<Oid>().is_err(), "{text}");
        }
        assert!(format!("2.{}", u128::MAX).parse::<Oid>().is_err(), "the sum of both does not fit");
        assert!(format!("1.2{}", ".16384".repeat(84)).parse::<Oid>().is_err(), "more than 255 octets");
    }

    #[test]
    fn long_oids_have_a_length_of_two_octets() {
        let oid: Oid = format!("1.2{}", ".1".repeat(127)).parse().unwrap();
        let der = oid.to_der();
        assert_eq!((&der[..3], der.len()), (&[6, 0x81, 128][..], 131));
        assert_eq!(Oid::from_der(&der), Some(oid));
    }

    #[test]
    fn names_survive_their_text_form() {
        for text in ["1.2.840.10070.61850.8.1.2", "1.2.840.10070.61850.8.1.2#0404e9fc0001"] {
            let name: OidName = text.parse().unwrap();
            assert_eq!(name.to_string(), text);
            assert!(name.is_der());
        }
        assert!("1.2#".parse::<OidName>().is_err() && "1.2#0".parse::<OidName>().is_err());
        assert!(format!("1.2#{}", "00".repeat(MAX_PAYLOAD + 1)).parse::<OidName>().is_err());
    }

    #[test]
    fn payloads_are_der_or_they_are_not() {
        let der = |payload: &str| OidName { oid: "1.2".parse().unwrap(), payload: hex(payload) }.is_der();
        for good in ["", "0500", "3006040101040102", "bf1f020500", &format!("048180{}", "00".repeat(128))] {
            assert!(der(good), "{good}");
        }
        let deep = format!("{}0500", (1..=9).rev().map(|n| format!("30{:02x}", n * 2)).collect::<String>());
        let bad =
            ["05", "0501", "050000", "3080", "30030401", "04810100", "0482000100", "1f", "1f1e00", "9f8001", &deep];
        for bad in bad {
            assert!(!der(bad), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn what_is_taken_is_the_only_encoding(der in prop::collection::vec(prop_oneof![Just(6u8), Just(0x81), 0u8..8, any::<u8>()], 0..24)) {
            if let Some(oid) = Oid::from_der(&der) {
                prop_assert_eq!(&oid.to_der(), &der);
                prop_assert_eq!(oid.to_string().parse::<Oid>(), Ok(oid));
                let name = OidName { oid: "1.2".parse().unwrap(), payload: der };
                prop_assert!(name.is_der(), "an OID is a value in DER");
            }
        }

        #[test]
        fn any_payload_is_survived(payload in prop::collection::vec(prop_oneof![Just(0x30u8), Just(0x81), 0u8..8, any::<u8>()], 0..64)) {
            let mut name = OidName { oid: "1.2".parse().unwrap(), payload };
            if !name.payload.is_empty() && name.is_der() {
                name.payload.push(0);
                prop_assert!(!name.is_der(), "an octet behind a whole value");
            }
        }
    }

    fn hex(text: &str) -> Vec<u8> {
        parse_hex(text).unwrap()
    }
}
