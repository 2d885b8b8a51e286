//! One attribute of a name: a type and a value.

use std::fmt;

use crate::der::{self, Malformed, Reader, tag};

/// Names of attribute types and their object identifiers: RFC 4514 section 3, RFC 4519, and PKCS #9's that routers use. The
/// first name of a type is the one that is written.
const TYPES: &[(&str, &[u8])] = &[
    ("CN", b"\x55\x04\x03"),
    ("SN", b"\x55\x04\x04"),
    ("serialNumber", b"\x55\x04\x05"),
    ("C", b"\x55\x04\x06"),
    ("L", b"\x55\x04\x07"),
    ("ST", b"\x55\x04\x08"),
    ("STREET", b"\x55\x04\x09"),
    ("O", b"\x55\x04\x0a"),
    ("OU", b"\x55\x04\x0b"),
    ("title", b"\x55\x04\x0c"),
    ("givenName", b"\x55\x04\x2a"),
    ("GN", b"\x55\x04\x2a"),
    ("initials", b"\x55\x04\x2b"),
    ("dnQualifier", b"\x55\x04\x2e"),
    ("DC", b"\x09\x92\x26\x89\x93\xf2\x2c\x64\x01\x19"),
    ("UID", b"\x09\x92\x26\x89\x93\xf2\x2c\x64\x01\x01"),
    ("emailAddress", b"\x2a\x86\x48\x86\xf7\x0d\x01\x09\x01"),
    ("E", b"\x2a\x86\x48\x86\xf7\x0d\x01\x09\x01"),
    ("unstructuredName", b"\x2a\x86\x48\x86\xf7\x0d\x01\x09\x02"),
    ("unstructuredAddress", b"\x2a\x86\x48\x86\xf7\x0d\x01\x09\x08"),
];

pub(super) struct Attribute {
    oid: Vec<u8>,
    value: AttributeValue,
}

enum AttributeValue {
    /// Text of any string type, with the tag it has or is to have.
    Text(u8, String),
    /// DER of anything else.
    Other(Vec<u8>),
}

impl Attribute {
    /// An attribute from text; `kind` is a name of [`TYPES`] or a dotted object identifier.
    pub(super) fn of_text(kind: &str, value: String) -> Result<Self, &'static str> {
        let oid = oid(kind)?;
        let tag = match kind.to_ascii_lowercase().as_str() {
            "c" | "serialnumber" | "dnqualifier" => tag::PRINTABLE_STRING,
            "dc" | "e" | "emailaddress" => tag::IA5_STRING,
            _ => tag::UTF8_STRING,
        };
        let tag = if value.is_ascii() { tag } else { tag::UTF8_STRING };
        Ok(Self { oid, value: AttributeValue::Text(tag, value) })
    }

    /// An attribute whose value is DER.
    pub(super) fn of_der(kind: &str, octets: &[u8]) -> Result<Self, &'static str> {
        let mut reader = Reader::new(octets);
        let value = reader.value().and_then(|v| reader.end().map(|()| v));
        let value = value.and_then(AttributeValue::read).map_err(|_| "the octets behind # are not one DER value")?;
        Ok(Self { oid: oid(kind)?, value })
    }

    /// AttributeTypeAndValue ::= SEQUENCE { type OBJECT IDENTIFIER, value ANY }
    pub(super) fn read(mut fields: Reader<'_>) -> Result<Self, Malformed> {
        let oid = fields.expect(tag::OID)?.to_vec();
        arcs(&oid).ok_or(Malformed)?;
        let value = AttributeValue::read(fields.value()?)?;
        fields.end()?;
        Ok(Self { oid, value })
    }

    pub(super) fn to_der(&self) -> Vec<u8> {
        let value = match &self.value {
            AttributeValue::Text(tag, text) => der::encode(*tag, &[&encoded(*tag, text)]),
            AttributeValue::Other(octets) => octets.clone(),
        };
        der::encode(tag::SEQUENCE, &[&der::encode(tag::OID, &[&self.oid]), &value])
    }

    /// The attribute in one form for all that are equal. Unicode's compatible forms of one character stay different: no CA
    /// writes a name in two.
    pub(super) fn plain(&self) -> Self {
        let value = match &self.value {
            AttributeValue::Text(_, text) => {
                let words: Vec<&str> = text.split_whitespace().collect();
                AttributeValue::Text(tag::UTF8_STRING, words.join(" ").to_lowercase())
            }
            AttributeValue::Other(octets) => AttributeValue::Other(octets.clone()),
        };
        Self { oid: self.oid.clone(), value }
    }

    /// What is compared.
    pub(super) fn canonical(&self) -> Vec<u8> {
        self.plain().to_der()
    }

    /// Type, `=`, value (RFC 4514 section 2.4).
    pub(super) fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match TYPES.iter().find(|(_, oid)| *oid == self.oid) {
            Some((name, _)) => f.write_str(name)?,
            None => f.write_str(&dotted(&self.oid))?,
        }
        match &self.value {
            AttributeValue::Text(_, text) => {
                f.write_str("=")?;
                super::text::escape(f, text)
            }
            AttributeValue::Other(octets) => {
                f.write_str("=#")?;
                octets.iter().try_for_each(|o| write!(f, "{o:02x}"))
            }
        }
    }
}

impl AttributeValue {
    fn read(value: der::Value<'_>) -> Result<Self, Malformed> {
        let text = match value.tag {
            tag::UTF8_STRING => String::from_utf8(value.body.to_vec()).map_err(|_| Malformed)?,
            tag::PRINTABLE_STRING | tag::IA5_STRING if value.body.is_ascii() => {
                value.body.iter().copied().map(char::from).collect()
            }
            // What CAs mean by it is Latin-1.
            tag::TELETEX_STRING => value.body.iter().copied().map(char::from).collect(),
            tag::BMP_STRING => characters::<2>(value.body)?,
            tag::UNIVERSAL_STRING => characters::<4>(value.body)?,
            tag::PRINTABLE_STRING | tag::IA5_STRING => return Err(Malformed),
            _ => return Ok(Self::Other(value.whole.to_vec())),
        };
        Ok(Self::Text(value.tag, text))
    }
}

/// Characters of so many octets each.
fn characters<const N: usize>(octets: &[u8]) -> Result<String, Malformed> {
    let (chunks, rest) = octets.as_chunks::<N>();
    if !rest.is_empty() {
        return Err(Malformed);
    }
    chunks.iter().map(|c| char::from_u32(c.iter().fold(0, |n, o| n << 8 | u32::from(*o))).ok_or(Malformed)).collect()
}

fn encoded(tag: u8, text: &str) -> Vec<u8> {
    let code = |c: char| u32::from(c).to_be_bytes();
    match tag {
        tag::BMP_STRING => text.chars().flat_map(|c| code(c)[2..].to_vec()).collect(),
        tag::UNIVERSAL_STRING => text.chars().flat_map(code).collect(),
        tag::TELETEX_STRING => text.chars().map(|c| code(c)[3]).collect(),
        _ => text.as_bytes().to_vec(),
    }
}

fn oid(kind: &str) -> Result<Vec<u8>, &'static str> {
    if let Some((_, oid)) = TYPES.iter().find(|(name, _)| name.eq_ignore_ascii_case(kind)) {
        return Ok(oid.to_vec());
    }
    const UNKNOWN: &str = "an attribute type is neither known nor a dotted object identifier";
    let arcs: Option<Vec<u64>> = kind.split('.').map(|arc| arc.parse().ok()).collect();
    let arcs = arcs.ok_or(UNKNOWN)?;
    let [first @ 0..=2, second, rest @ ..] = arcs.as_slice() else { return Err(UNKNOWN) };
    // The first two arcs are one number; below 0 and 1 there are 40 each.
    let root = (first * 40).checked_add(*second).filter(|_| *first == 2 || *second < 40).ok_or(UNKNOWN)?;
    let mut octets = Vec::new();
    for arc in std::iter::once(root).chain(rest.iter().copied()) {
        let groups = (u64::BITS - arc.leading_zeros()).div_ceil(7).max(1);
        octets.extend((0..groups).rev().map(|g| {
            let low = (arc >> (7 * g) & 0x7f).to_le_bytes()[0];
            if g > 0 { low | 0x80 } else { low }
        }));
    }
    Ok(octets)
}

/// The numbers of an object identifier, the first two of them still one; `None` if they are not in their shortest form, or
/// one has more than 64 bits, as none that was ever given out.
fn arcs(oid: &[u8]) -> Option<Vec<u64>> {
    let mut arcs = Vec::new();
    let mut arc: Option<u64> = None;
    for octet in oid {
        if arc.is_none() && *octet == 0x80 {
            return None;
        }
        let so_far = arc.unwrap_or(0);
        let next = so_far.checked_mul(128)? | u64::from(octet & 0x7f);
        arc = if octet & 0x80 == 0 {
            arcs.push(next);
            None
        } else {
            Some(next)
        };
    }
    (arc.is_none() && !arcs.is_empty()).then_some(arcs)
}

fn dotted(oid: &[u8]) -> String {
    let arcs = arcs(oid).unwrap_or_default();
    let first = arcs.first().copied().unwrap_or(0);
    let root = (first / 40).min(2);
    let rest = arcs.iter().skip(1).copied();
    [root, first - root * 40].into_iter().chain(rest).map(|a| a.to_string()).collect::<Vec<_>>().join(".")
}
