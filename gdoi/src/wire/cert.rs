//! Certificate and Certificate Request payloads.

use keyferry_wire::{Decode, Encode, Parsed};
use nom::Parser;
use nom::combinator::rest;
use nom::number::complete::be_u8;

use super::refuse;
use super::registry::CertEncoding;

/// Certificate payload (RFC 2408 section 3.9), with at least one octet of data.
///
/// ```text
///  0                   1                   2                   3
///  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// ! Cert Encoding !                                               !
/// +-+-+-+-+-+-+-+-+                                               !
/// ~                       Certificate Data                        ~
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cert<'a> {
    /// Encoding.
    pub encoding: CertEncoding,
    /// The certificate, or what else the encoding says.
    pub data: &'a [u8],
}

impl<'a> Decode<'a> for Cert<'a> {
    fn decode(input: &'a [u8]) -> Parsed<'a, Self> {
        let (left, (encoding, data)) = (be_u8, rest).parse(input)?;
        if data.is_empty() {
            return refuse(input);
        }
        Ok((left, Self { encoding: CertEncoding(encoding), data }))
    }
}

impl Encode for Cert<'_> {
    fn encode(&self, out: &mut Vec<u8>) {
        out.push(self.encoding.0);
        out.extend_from_slice(self.data);
    }
}

/// Certificate Request payload (RFC 2408 section 3.10). Without an authority any is good.
///
/// ```text
///  0                   1                   2                   3
///  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// !  Cert. Type   !                                               !
/// +-+-+-+-+-+-+-+-+                                               !
/// ~                    Certificate Authority                      ~
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CertRequest<'a> {
    /// Encoding wanted.
    pub encoding: CertEncoding,
    /// For X.509 the DER of the issuer's name.
    pub authority: &'a [u8],
}

impl<'a> Decode<'a> for CertRequest<'a> {
    fn decode(input: &'a [u8]) -> Parsed<'a, Self> {
        let (left, (encoding, authority)) = (be_u8, rest).parse(input)?;
        Ok((left, Self { encoding: CertEncoding(encoding), authority }))
    }
}

impl Encode for CertRequest<'_> {
    fn encode(&self, out: &mut Vec<u8>) {
        out.push(self.encoding.0);
        out.extend_from_slice(self.authority);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::check::{canonical, round_trip};

    #[test]
    fn certificates_and_requests_round_trip() {
        round_trip(&Cert { encoding: CertEncoding::X509_SIGNATURE, data: &[0x30, 0] }, &mut Vec::new());
        round_trip(&CertRequest { encoding: CertEncoding::X509_SIGNATURE, authority: &[] }, &mut Vec::new());
        let cert: Cert<'_> = canonical(&[7, 1, 2, 3]);
        assert_eq!((cert.encoding, cert.data), (CertEncoding::CRL, &[1, 2, 3][..]));
        canonical::<CertRequest<'_>>(&[4, 0x30, 0]);
    }

    #[test]
    fn a_certificate_has_data_and_both_have_an_encoding() {
        assert!(Cert::exact(&[4]).is_err());
        assert!(Cert::exact(&[]).is_err() && CertRequest::exact(&[]).is_err());
    }
}
