//! Signature algorithms as an AlgorithmIdentifier names them: in certificates (RFC 5280, section 4.1.1.2) and in IKEv2's
//! AUTH (RFC 7427).

use std::borrow::Cow;

use super::{KeyKind, SignatureScheme};
use crate::Hash;
use crate::der::{self, Malformed, Reader, tag};

/// A signature algorithm with its hash. ECDSA goes with any curve, and its values are DER.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum SignatureAlgorithm {
    /// RSASSA-PKCS1-v1_5 (RFC 8017, section 8.2).
    RsaPkcs1(Hash),
    /// RSASSA-PSS (RFC 8017, section 8.1) with MGF1 by the same hash and a salt as long as its output.
    RsaPss(Hash),
    /// ECDSA.
    Ecdsa(Hash),
    /// Ed25519 (RFC 8032), which hashes for itself.
    Ed25519,
    /// Ed448.
    Ed448,
}

impl SignatureAlgorithm {
    /// The hash of what is signed; `None` where the algorithm takes the octets as they are (the "identity" of RFC 8420).
    #[must_use]
    pub const fn hash(self) -> Option<Hash> {
        match self {
            Self::RsaPkcs1(hash) | Self::RsaPss(hash) | Self::Ecdsa(hash) => Some(hash),
            Self::Ed25519 | Self::Ed448 => None,
        }
    }

    /// Is it so weak that only a configuration which says so may allow it?
    #[must_use]
    pub fn is_weak(self) -> bool {
        self.hash() == Some(Hash::Sha1)
    }

    /// Does a key of this kind make such signatures?
    #[must_use]
    pub const fn is_for(self, kind: KeyKind) -> bool {
        match self {
            Self::RsaPkcs1(_) | Self::RsaPss(_) => matches!(kind, KeyKind::Rsa),
            Self::Ecdsa(_) => matches!(kind, KeyKind::EcP256 | KeyKind::EcP384 | KeyKind::EcP521),
            Self::Ed25519 => matches!(kind, KeyKind::Ed25519),
            Self::Ed448 => matches!(kind, KeyKind::Ed448),
        }
    }

    /// The DER AlgorithmIdentifier in the form that the algorithm prefers (RFC 7427, appendix A; RFC 8420, appendix A).
    #[must_use]
    pub fn to_der(self) -> Cow<'static, [u8]> {
        let scheme = match self {
            Self::RsaPkcs1(Hash::Sha1) => SignatureScheme::RsaPkcs1Sha1,
            Self::RsaPkcs1(Hash::Sha256) => SignatureScheme::RsaPkcs1Sha256,
            Self::RsaPkcs1(Hash::Sha384) => SignatureScheme::RsaPkcs1Sha384,
            Self::RsaPkcs1(Hash::Sha512) => SignatureScheme::RsaPkcs1Sha512,
            Self::Ecdsa(Hash::Sha256) => SignatureScheme::EcdsaP256Sha256,
            Self::Ecdsa(Hash::Sha384) => SignatureScheme::EcdsaP384Sha384,
            Self::Ecdsa(Hash::Sha512) => SignatureScheme::EcdsaP521Sha512,
            // SEQUENCE { OID 1.2.840.10045.4.1 }
            Self::Ecdsa(Hash::Sha1) => return Cow::Borrowed(b"\x30\x09\x06\x07\x2a\x86\x48\xce\x3d\x04\x01"),
            Self::RsaPss(hash) => return Cow::Owned(pss_to_der(hash)),
            // SEQUENCE { OID 1.3.101.112 } and 1.3.101.113
            Self::Ed25519 => return Cow::Borrowed(b"\x30\x05\x06\x03\x2b\x65\x70"),
            Self::Ed448 => return Cow::Borrowed(b"\x30\x05\x06\x03\x2b\x65\x71"),
        };
        Cow::Borrowed(scheme.algorithm_identifier())
    }

    /// The algorithm that exactly one DER AlgorithmIdentifier names, if it is one of these. PKCS #1 and hashes may
    /// have their NULL left out (RFC 4055), and PSS may name its trailer; hash, mask and salt of PSS must be said, and must
    /// fit together.
    #[must_use]
    pub fn from_der(octets: &[u8]) -> Option<Self> {
        let mut fields = der::only_sequence(octets).ok()?;
        let oid = fields.expect(tag::OID).ok()?;
        let algorithm = match oid {
            RSASSA_PSS => Self::RsaPss(pss(&mut fields).ok()?),
            [0x2b, 0x65, 0x70] => Self::Ed25519,
            [0x2b, 0x65, 0x71] => Self::Ed448,
            [prefix @ .., last] if prefix == PKCS_1 => {
                let hash = PKCS_1_HASHES.into_iter().find(|(number, _)| number == last)?.1;
                null(&mut fields).ok()?;
                Self::RsaPkcs1(hash)
            }
            b"\x2a\x86\x48\xce\x3d\x04\x01" => Self::Ecdsa(Hash::Sha1),
            b"\x2a\x86\x48\xce\x3d\x04\x03\x02" => Self::Ecdsa(Hash::Sha256),
            b"\x2a\x86\x48\xce\x3d\x04\x03\x03" => Self::Ecdsa(Hash::Sha384),
            b"\x2a\x86\x48\xce\x3d\x04\x03\x04" => Self::Ecdsa(Hash::Sha512),
            _ => return None,
        };
        fields.end().ok()?;
        Some(algorithm)
    }
}

/// id-RSASSA-PSS and id-mgf1 (RFC 4055).
const RSASSA_PSS: &[u8] = b"\x2a\x86\x48\x86\xf7\x0d\x01\x01\x0a";
const MGF1: &[u8] = b"\x2a\x86\x48\x86\xf7\x0d\x01\x01\x08";

/// 1.2.840.113549.1.1, and what follows for each hash.
const PKCS_1: &[u8] = b"\x2a\x86\x48\x86\xf7\x0d\x01\x01";
const PKCS_1_HASHES: [(u8, Hash); 4] = [(5, Hash::Sha1), (11, Hash::Sha256), (12, Hash::Sha384), (13, Hash::Sha512)];

/// Hashes that PSS is taken with. SHA-1, its default, is none of them.
const PSS_HASHES: [(&[u8], Hash); 3] = [
    (b"\x60\x86\x48\x01\x65\x03\x04\x02\x01", Hash::Sha256),
    (b"\x60\x86\x48\x01\x65\x03\x04\x02\x02", Hash::Sha384),
    (b"\x60\x86\x48\x01\x65\x03\x04\x02\x03", Hash::Sha512),
];

/// RSASSA-PSS-params ::= SEQUENCE { hashAlgorithm [0], maskGenAlgorithm [1], saltLength [2] INTEGER,
/// trailerField [3] INTEGER DEFAULT 1 } (RFC 4055, section 3.1).
fn pss(fields: &mut Reader<'_>) -> Result<Hash, Malformed> {
    let mut params = fields.sequence()?;
    let hash = hash(der::only_sequence(params.expect(tag::constructed(0))?)?)?;
    let mut mask = der::only_sequence(params.expect(tag::constructed(1))?)?;
    let by = if mask.expect(tag::OID)? == MGF1 { hash_of(&mut mask)? } else { return Err(Malformed) };
    mask.end()?;
    let salt = number(params.expect(tag::constructed(2))?)?;
    // DER leaves the default out, and RFC 7427 writes it all the same.
    let trailer = params.optional(tag::constructed(3))?.map_or(Ok(1), |trailer| number(trailer.body))?;
    params.end()?;
    if by == hash && usize::from(salt) == hash.len() && trailer == 1 { Ok(hash) } else { Err(Malformed) }
}

fn hash_of(fields: &mut Reader<'_>) -> Result<Hash, Malformed> {
    hash(fields.sequence()?)
}

/// The hash of an AlgorithmIdentifier; its NULL may be left out (RFC 4055, section 2.1).
fn hash(mut fields: Reader<'_>) -> Result<Hash, Malformed> {
    let oid = fields.expect(tag::OID)?;
    null(&mut fields)?;
    fields.end()?;
    PSS_HASHES.into_iter().find(|(name, _)| *name == oid).map(|(_, hash)| hash).ok_or(Malformed)
}

/// A NULL, or nothing.
fn null(fields: &mut Reader<'_>) -> Result<(), Malformed> {
    match fields.optional(tag::NULL)? {
        Some(null) if !null.body.is_empty() => Err(Malformed),
        Some(_) | None => Ok(()),
    }
}

/// Exactly one small INTEGER.
fn number(octets: &[u8]) -> Result<u8, Malformed> {
    let mut reader = Reader::new(octets);
    let number = match reader.unsigned()? {
        [one] => *one,
        _ => return Err(Malformed),
    };
    reader.end()?;
    Ok(number)
}

/// As in RFC 7427, appendix A.4.3.
fn pss_to_der(hash: Hash) -> Vec<u8> {
    const NULL: &[u8] = &[tag::NULL, 0];
    let (oid, salt): (&[u8], u8) = match hash {
        Hash::Sha1 => (b"\x2b\x0e\x03\x02\x1a", 20),
        Hash::Sha256 => (PSS_HASHES[0].0, 32),
        Hash::Sha384 => (PSS_HASHES[1].0, 48),
        Hash::Sha512 => (PSS_HASHES[2].0, 64),
    };
    let identifier =
        |oid: &[u8], parameters: &[u8]| der::encode(tag::SEQUENCE, &[&der::encode(tag::OID, &[oid]), parameters]);
    let field = |n: u8, value: &[u8]| der::encode(tag::constructed(n), &[value]);
    let digest = identifier(oid, NULL);
    let params = [
        field(0, &digest),
        field(1, &identifier(MGF1, &digest)),
        field(2, &[tag::INTEGER, 1, salt]),
        field(3, &[tag::INTEGER, 1, 1]),
    ];
    identifier(RSASSA_PSS, &der::encode(tag::SEQUENCE, &params.each_ref().map(Vec::as_slice)))
}
