//! Certificate and Certificate Request payloads (RFC 7296 sections 3.6 and 3.7).

use std::borrow::Cow;

use keyferry_wire::{Decode, Encode, Parsed};
use nom::combinator::rest;
use nom::number::complete::be_u8;

use super::registry::CertEncoding;

/// A certificate, or what else the encoding says. Only [`CertEncoding::X509_SIGNATURE`] is made use of: a URL is never
/// followed, and revocation lists are read from files.
///
/// ```text
///  +-----------+-----------------------------------------+
///  | Encoding  | Certificate Data                        ~
///  +-----------+-----------------------------------------+
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cert<'a> {
    /// Encoding.
    pub encoding: CertEncoding,
    /// For X.509 one certificate in DER.
    pub data: Cow<'a, [u8]>,
}

/// A wish for certificates.
///
/// ```text
///  +-----------+-----------------------------------------+
///  | Encoding  | Certification Authority                 ~
///  +-----------+-----------------------------------------+
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertRequest<'a> {
    /// Encoding wanted.
    pub encoding: CertEncoding,
    /// For X.509 the SHA-1 of the SubjectPublicKeyInfo of each CA that is trusted, one after the other.
    pub authorities: Cow<'a, [u8]>,
}

impl CertRequest<'_> {
    /// Octets of the name of an authority.
    pub const AUTHORITY: usize = 20;
}

impl<'a> Decode<'a> for Cert<'a> {
    fn decode(input: &'a [u8]) -> Parsed<'a, Self> {
        let (input, encoding) = be_u8(input)?;
        let (input, data) = rest(input)?;
        Ok((input, Self { encoding: CertEncoding(encoding), data: Cow::Borrowed(data) }))
    }
}

impl Encode for Cert<'_> {
    fn encode(&self, out: &mut Vec<u8>) {
        out.push(self.encoding.0);
        out.extend_from_slice(&self.data);
    }
}

impl<'a> Decode<'a> for CertRequest<'a> {
    fn decode(input: &'a [u8]) -> Parsed<'a, Self> {
        let (input, encoding) = be_u8(input)?;
        let (input, authorities) = rest(input)?;
        Ok((input, Self { encoding: CertEncoding(encoding), authorities: Cow::Borrowed(authorities) }))
    }
}

impl Encode for CertRequest<'_> {
    fn encode(&self, out: &mut Vec<u8>) {
        out.push(self.encoding.0);
        out.extend_from_slice(&self.authorities);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::testing::{bytes_round_trip, value_round_trip};

    #[test]
    fn round_trips() {
        value_round_trip(&Cert { encoding: CertEncoding::X509_SIGNATURE, data: Cow::Borrowed(&[0x30, 0]) });
        value_round_trip(&CertRequest { encoding: CertEncoding::X509_SIGNATURE, authorities: Cow::Owned(vec![7; 40]) });
        bytes_round_trip::<Cert<'_>>("0c 0102030405");
        bytes_round_trip::<CertRequest<'_>>("04");
        assert!(Cert::exact(&[]).is_err() && CertRequest::exact(&[]).is_err());
    }
}
