//! Extensions of certificates (RFC 5280, section 4.2).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::certificate::AltName;
use super::{CertificateError, DistinguishedName};
use crate::der::{self, Malformed, Reader, tag};

/// Object identifiers below id-ce, 2.5.29.
pub(super) mod oid {
    pub(crate) const SUBJECT_KEY_ID: &[u8] = b"\x55\x1d\x0e";
    pub(crate) const KEY_USAGE: &[u8] = b"\x55\x1d\x0f";
    pub(crate) const SUBJECT_ALT_NAME: &[u8] = b"\x55\x1d\x11";
    pub(crate) const BASIC_CONSTRAINTS: &[u8] = b"\x55\x1d\x13";
    pub(crate) const DELTA_CRL: &[u8] = b"\x55\x1d\x1b";
    pub(crate) const ISSUING_DISTRIBUTION_POINT: &[u8] = b"\x55\x1d\x1c";
    pub(crate) const CERTIFICATE_ISSUER: &[u8] = b"\x55\x1d\x1d";
    pub(crate) const NAME_CONSTRAINTS: &[u8] = b"\x55\x1d\x1e";
    pub(crate) const DISTRIBUTION_POINTS: &[u8] = b"\x55\x1d\x1f";
    pub(crate) const CERTIFICATE_POLICIES: &[u8] = b"\x55\x1d\x20";
    pub(crate) const EXTENDED_KEY_USAGE: &[u8] = b"\x55\x1d\x25";
}

/// Uses of a key for IKE (RFC 4945, section 5.1.3.12): anyExtendedKeyUsage, id-kp-ipsecIKE, and those that older CAs mean by
/// it: iKEIntermediate, id-kp-ipsecEndSystem, id-kp-ipsecTunnel and id-kp-ipsecUser.
const IKE_USES: [&[u8]; 6] = [
    b"\x55\x1d\x25\x00",
    b"\x2b\x06\x01\x05\x05\x07\x03\x11",
    b"\x2b\x06\x01\x05\x05\x08\x02\x02",
    b"\x2b\x06\x01\x05\x05\x07\x03\x05",
    b"\x2b\x06\x01\x05\x05\x07\x03\x06",
    b"\x2b\x06\x01\x05\x05\x07\x03\x07",
];

/// id-kp-OCSPSigning.
const OCSP_SIGNING: &[u8] = b"\x2b\x06\x01\x05\x05\x07\x03\x09";

/// What a certificate says beyond its fields.
#[derive(Debug, Default)]
pub(super) struct Extensions {
    pub(super) names: Vec<AltName>,
    /// Of a CA: how many other CAs may stand between it and the end of the chain.
    pub(super) ca: Option<Option<u32>>,
    pub(super) key_usage: Option<KeyUsage>,
    pub(super) extended: Option<ExtendedUsage>,
    /// Names of the distribution points of revocation lists about the certificate, in DER.
    pub(super) distribution_points: Vec<Vec<u8>>,
    /// A critical one, or one that restricts what is issued, that is not understood here.
    pub(super) unknown: bool,
}

/// Bits of the first two octets of keyUsage (section 4.2.1.3).
#[derive(Clone, Copy, Debug)]
pub(super) struct KeyUsage(u8);

impl KeyUsage {
    /// digitalSignature or nonRepudiation (RFC 4945, section 5.1.3.2).
    pub(super) fn signs(self) -> bool {
        self.0 & 0xc0 != 0
    }

    /// keyCertSign.
    pub(super) fn signs_certificates(self) -> bool {
        self.0 & 0x04 != 0
    }

    /// cRLSign.
    pub(super) fn signs_crls(self) -> bool {
        self.0 & 0x02 != 0
    }
}

/// What extKeyUsage allows of what matters here.
#[derive(Clone, Copy, Debug)]
pub(super) struct ExtendedUsage {
    pub(super) ike: bool,
    pub(super) ocsp: bool,
}

/// One extension.
pub(super) struct Extension<'a> {
    pub(super) oid: &'a [u8],
    pub(super) critical: bool,
    pub(super) value: &'a [u8],
}

/// Extensions ::= SEQUENCE SIZE (1..MAX) OF Extension; none twice.
pub(super) fn list(mut all: Reader<'_>) -> Result<Vec<Extension<'_>>, Malformed> {
    let mut found: Vec<Extension<'_>> = Vec::new();
    while !all.is_empty() {
        let mut fields = all.sequence()?;
        let oid = fields.expect(tag::OID)?;
        let critical = fields.flag()?;
        let value = fields.expect(tag::OCTET_STRING)?;
        fields.end()?;
        if found.iter().any(|e| e.oid == oid) {
            return Err(Malformed);
        }
        found.push(Extension { oid, critical, value });
    }
    Ok(found)
}

impl Extensions {
    pub(super) fn read(all: Reader<'_>) -> Result<Self, CertificateError> {
        let mut out = Self::default();
        for Extension { oid, critical, value } in list(all)? {
            match oid {
                oid::BASIC_CONSTRAINTS => out.ca = basic_constraints(value)?,
                oid::KEY_USAGE => out.key_usage = Some(key_usage(value)?),
                oid::EXTENDED_KEY_USAGE => out.extended = Some(extended(value)?),
                oid::SUBJECT_ALT_NAME => out.names = alternative_names(value)?,
                oid::DISTRIBUTION_POINTS => out.distribution_points = distribution_points(value)?,
                // Policies are not asked for, so any will do (RFC 5280 section 6.1: any-policy is acceptable).
                oid::CERTIFICATE_POLICIES | oid::SUBJECT_KEY_ID => {}
                // To pass over what a CA may not issue would be to widen its power.
                oid::NAME_CONSTRAINTS => out.unknown = true,
                _ => out.unknown |= critical,
            }
        }
        Ok(out)
    }
}

/// BasicConstraints ::= SEQUENCE { cA BOOLEAN DEFAULT FALSE, pathLenConstraint INTEGER (0..MAX) OPTIONAL }
fn basic_constraints(value: &[u8]) -> Result<Option<Option<u32>>, Malformed> {
    let mut fields = der::only_sequence(value)?;
    let ca = fields.flag()?;
    let path_len = if fields.is_empty() {
        None
    } else {
        // What does not fit is more than any chain has.
        let octets = fields.unsigned()?;
        Some(octets.iter().try_fold(0u32, |n, o| n.checked_mul(256)?.checked_add(u32::from(*o))).unwrap_or(u32::MAX))
    };
    fields.end()?;
    Ok(ca.then_some(path_len))
}

/// KeyUsage ::= BIT STRING
fn key_usage(value: &[u8]) -> Result<KeyUsage, Malformed> {
    let mut reader = Reader::new(value);
    let bits = reader.expect(tag::BIT_STRING)?;
    reader.end()?;
    match bits {
        [0..=7, first, ..] => Ok(KeyUsage(*first)),
        [0] => Ok(KeyUsage(0)),
        _ => Err(Malformed),
    }
}

/// ExtKeyUsageSyntax ::= SEQUENCE SIZE (1..MAX) OF KeyPurposeId
fn extended(value: &[u8]) -> Result<ExtendedUsage, Malformed> {
    let mut uses = der::only_sequence(value)?;
    let mut out = ExtendedUsage { ike: false, ocsp: false };
    while !uses.is_empty() {
        let oid = uses.expect(tag::OID)?;
        out.ike |= IKE_USES.contains(&oid);
        out.ocsp |= oid == OCSP_SIGNING;
    }
    Ok(out)
}

/// CRLDistributionPoints ::= SEQUENCE OF SEQUENCE { distributionPoint [0], reasons [1], cRLIssuer [2] }. A point for some
/// reasons, or with lists of another issuer, is none that a list here can have.
fn distribution_points(value: &[u8]) -> Result<Vec<Vec<u8>>, Malformed> {
    let mut points = der::only_sequence(value)?;
    let mut names = Vec::new();
    while !points.is_empty() {
        let mut fields = points.sequence()?;
        let point = fields.optional(tag::constructed(0))?;
        if let Some(point) = point.filter(|_| fields.is_empty()) {
            names.extend(point_names(point.body)?);
        }
    }
    Ok(names)
}

/// DistributionPointName ::= CHOICE { fullName [0] GeneralNames, nameRelativeToCRLIssuer [1] }: the full names, in DER.
pub(super) fn point_names(choice: &[u8]) -> Result<Vec<Vec<u8>>, Malformed> {
    let mut choice = Reader::new(choice);
    let Some(full) = choice.optional(tag::constructed(0))? else { return Ok(Vec::new()) };
    let (mut all, mut names) = (Reader::new(full.body), Vec::new());
    while !all.is_empty() {
        names.push(all.value()?.whole.to_vec());
    }
    choice.end()?;
    Ok(names)
}

/// GeneralNames; those of kinds that no IKE identity has are passed over (section 4.2.1.6).
fn alternative_names(value: &[u8]) -> Result<Vec<AltName>, CertificateError> {
    const EMAIL: u8 = tag::primitive(1);
    const DNS: u8 = tag::primitive(2);
    const DIRECTORY: u8 = tag::constructed(4);
    const IP: u8 = tag::primitive(7);
    let mut all = der::only_sequence(value)?;
    let mut names = Vec::new();
    while !all.is_empty() {
        let name = all.value()?;
        match name.tag {
            EMAIL => names.push(AltName::Email(visible(name.body)?)),
            DNS => names.push(AltName::Dns(visible(name.body)?)),
            DIRECTORY => names.push(AltName::Dn(DistinguishedName::read(name.body)?)),
            IP => names.push(AltName::Ip(address(name.body)?)),
            _ => {}
        }
    }
    Ok(names)
}

/// Visible ASCII alone: a name with a zero or a line break in it is an attack on whoever reads it.
fn visible(octets: &[u8]) -> Result<String, CertificateError> {
    if octets.is_empty() || !octets.iter().all(u8::is_ascii_graphic) {
        return Err(CertificateError::Malformed("an alternative name has characters that none has"));
    }
    Ok(octets.iter().copied().map(char::from).collect())
}

fn address(octets: &[u8]) -> Result<IpAddr, CertificateError> {
    if let Ok(v4) = <[u8; 4]>::try_from(octets) {
        return Ok(IpAddr::V4(Ipv4Addr::from(v4)));
    }
    let v6 = <[u8; 16]>::try_from(octets);
    v6.map(|v6| IpAddr::V6(Ipv6Addr::from(v6)))
        .map_err(|_| CertificateError::Malformed("an address has no length of one"))
}
