//! Distinguished names (RFC 5280, section 4.1.2.4) and their text (RFC 4514).

mod attribute;
mod text;

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use crate::der::{self, Malformed, Reader, tag};
use attribute::Attribute;

/// A distinguished name.
///
/// Two are equal if their attributes are, whatever types of string they have and whether in upper or lower case; white
/// space at the ends is left out, and several spaces are one (RFC 5280, section 7.1).
#[derive(Clone)]
pub struct DistinguishedName(Arc<Inner>);

struct Inner {
    der: Vec<u8>,
    canonical: Vec<u8>,
    /// Outermost first, as in the encoding.
    rdns: Vec<Vec<Attribute>>,
}

/// A name that cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct NameError(&'static str);

impl DistinguishedName {
    /// Reads text such as `CN=gm1,O=Example,C=DE` (RFC 4514): the innermost part first, that is, in the opposite order of
    /// the encoding.
    ///
    /// # Errors
    /// What is wrong with the text.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        let mut rdns = text::parse(text).map_err(NameError)?;
        rdns.reverse();
        Ok(Self::encode(rdns))
    }

    fn encode(rdns: Vec<Vec<Attribute>>) -> Self {
        let encoded: Vec<Vec<u8>> = rdns
            .iter()
            .map(|rdn| {
                let mut attributes: Vec<Vec<u8>> = rdn.iter().map(Attribute::to_der).collect();
                // DER sorts the members of a SET OF.
                attributes.sort();
                der::encode(tag::SET, &attributes.iter().map(Vec::as_slice).collect::<Vec<_>>())
            })
            .collect();
        let octets = der::encode(tag::SEQUENCE, &encoded.iter().map(Vec::as_slice).collect::<Vec<_>>());
        Self::new(octets, rdns)
    }

    /// The one among all names that equal this one whose text they share, so that it can be a key.
    #[must_use]
    pub fn canonical(&self) -> Self {
        let rdn = |rdn: &Vec<Attribute>| {
            let mut attributes: Vec<Attribute> = rdn.iter().map(Attribute::plain).collect();
            attributes.sort_by_cached_key(Attribute::canonical);
            attributes
        };
        Self::encode(self.0.rdns.iter().map(rdn).collect())
    }

    /// Reads a DER Name.
    ///
    /// # Errors
    /// It is none.
    pub fn from_der(octets: &[u8]) -> Result<Self, NameError> {
        Self::read(octets).map_err(|_| NameError("no DER Name"))
    }

    pub(super) fn read(octets: &[u8]) -> Result<Self, Malformed> {
        let mut outer = der::only_sequence(octets)?;
        let mut rdns = Vec::new();
        while !outer.is_empty() {
            let mut set = Reader::new(outer.expect(tag::SET)?);
            let mut rdn = Vec::new();
            while !set.is_empty() {
                rdn.push(Attribute::read(set.sequence()?)?);
            }
            if rdn.is_empty() {
                return Err(Malformed);
            }
            rdns.push(rdn);
        }
        Ok(Self::new(octets.to_vec(), rdns))
    }

    fn new(der: Vec<u8>, rdns: Vec<Vec<Attribute>>) -> Self {
        let mut canonical = Vec::new();
        for rdn in &rdns {
            let mut attributes: Vec<Vec<u8>> = rdn.iter().map(Attribute::canonical).collect();
            attributes.sort();
            canonical.extend(der::encode(tag::SET, &attributes.iter().map(Vec::as_slice).collect::<Vec<_>>()));
        }
        Self(Arc::new(Inner { der, canonical, rdns }))
    }

    /// The DER encoding: as it was read, or as the text is written best.
    #[must_use]
    pub fn der(&self) -> &[u8] {
        &self.0.der
    }

    /// What is compared: the same octets for equal names, and for no others.
    #[must_use]
    pub fn compared(&self) -> &[u8] {
        &self.0.canonical
    }

    /// Is it the name without parts?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.rdns.is_empty()
    }
}

impl PartialEq for DistinguishedName {
    fn eq(&self, other: &Self) -> bool {
        self.0.canonical == other.0.canonical
    }
}

impl Eq for DistinguishedName {}

impl PartialOrd for DistinguishedName {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for DistinguishedName {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.canonical.cmp(&other.0.canonical)
    }
}

impl Hash for DistinguishedName {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.canonical.hash(state);
    }
}

/// As [`DistinguishedName::parse`] reads it; whatever the name says, printable characters alone.
impl fmt::Display for DistinguishedName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, rdn) in self.0.rdns.iter().rev().enumerate() {
            f.write_str(if i > 0 { "," } else { "" })?;
            for (j, attribute) in rdn.iter().enumerate() {
                f.write_str(if j > 0 { "+" } else { "" })?;
                attribute.fmt(f)?;
            }
        }
        Ok(())
    }
}

impl fmt::Debug for DistinguishedName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DistinguishedName({self})")
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
