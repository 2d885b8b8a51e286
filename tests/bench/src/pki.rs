//! An authority and its certificates, made for one run, and the bare work that signatures cost.

use std::net::IpAddr;
use std::sync::Arc;

use anyhow::{Context, Result};
use keyferry_crypto::SigningKey;
use keyferry_crypto::x509::{Certificate, Revocation, TrustStore};
use keyferry_model::credentials::{OwnCertificate, Trust};
use openssl::asn1::Asn1Time;
use openssl::bn::BigNum;
use openssl::ec::{EcGroup, EcKey};
use openssl::ecdsa::EcdsaSig;
use openssl::error::ErrorStack;
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::{PKey, Private};
use openssl::rsa::{Padding, Rsa};
use openssl::x509::extension::{BasicConstraints, KeyUsage, SubjectAlternativeName};
use openssl::x509::{X509, X509Builder, X509NameBuilder};

/// A kind of signature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Rsa2048,
    EcdsaP256,
}

impl Kind {
    fn generate(self) -> Result<PKey<Private>, ErrorStack> {
        match self {
            Kind::Rsa2048 => PKey::from_rsa(Rsa::generate(2048)?),
            Kind::EcdsaP256 => PKey::from_ec_key(EcKey::generate(&*EcGroup::from_curve_name(Nid::X9_62_PRIME256V1)?)?),
        }
    }
}

/// An authority, and a key for the bare work. Whoever it certifies has a key of its own: by its key a member is known.
pub(crate) struct Pki {
    kind: Kind,
    authority: X509,
    authority_key: PKey<Private>,
    key: PKey<Private>,
}

/// Certificates are good from this moment, Unix time, for a long time.
const BEGINS: i64 = 1_700_000_000;
const ENDS: i64 = 2_100_000_000;

impl Pki {
    pub(crate) fn new(kind: Kind) -> Result<Self> {
        let authority_key = kind.generate()?;
        let authority = certificate("authority", None, &authority_key, None, &authority_key)?;
        Ok(Self { kind, authority, authority_key, key: kind.generate()? })
    }

    /// A key, and a certificate for it that names an address.
    pub(crate) fn own(&self, ip: IpAddr) -> Result<OwnCertificate> {
        let key = self.kind.generate()?;
        let name = format!("host {ip}");
        let der = certificate(&name, Some(ip), &key, Some(&self.authority), &self.authority_key)?.to_der()?;
        let certificate = Certificate::from_der(&der).context("a certificate of our own making")?;
        let key = SigningKey::from_pem(&key.private_key_to_pem_pkcs8()?).context("a key of our own making")?;
        Ok(OwnCertificate { chain: vec![certificate], key: Arc::new(key) })
    }

    pub(crate) fn trust(&self) -> Result<Trust> {
        let anchor = Certificate::from_der(&self.authority.to_der()?).context("an authority of our own making")?;
        let store = TrustStore::new(vec![anchor], Vec::new(), Revocation::IfKnown);
        Ok(Trust { store: Arc::new(store), ocsp: Arc::new([]) })
    }

    /// The bare work of one exchange, with a peer's signature and certificate.
    pub(crate) fn floor(&self) -> Result<Signatures> {
        Ok(match self.kind {
            Kind::Rsa2048 => {
                let (own, authority) = (self.key.rsa()?, self.authority_key.rsa()?);
                let (signature, issued) = (rsa_sign(&own)?, rsa_sign(&authority)?);
                Signatures::Rsa { own, signature, authority, issued }
            }
            Kind::EcdsaP256 => {
                let (own, authority) = (self.key.ec_key()?, self.authority_key.ec_key()?);
                let (signature, issued) = (EcdsaSig::sign(&HASH, &own)?, EcdsaSig::sign(&HASH, &authority)?);
                Signatures::Ecdsa { own, signature, authority, issued }
            }
        })
    }
}

/// One signature, one verification, and the verification of the signature on the peer's certificate; keys and certificate
/// are at hand.
pub(crate) enum Signatures {
    Rsa { own: Rsa<Private>, signature: Vec<u8>, authority: Rsa<Private>, issued: Vec<u8> },
    Ecdsa { own: EcKey<Private>, signature: EcdsaSig, authority: EcKey<Private>, issued: EcdsaSig },
}

const HASH: [u8; 32] = [7; 32];

impl Signatures {
    /// Once; whether everything was right.
    pub(crate) fn run(&self) -> Result<bool, ErrorStack> {
        match self {
            Signatures::Rsa { own, signature, authority, issued } => {
                let signed = rsa_sign(own)?;
                Ok(!signed.is_empty() && rsa_verify(own, signature)? && rsa_verify(authority, issued)?)
            }
            Signatures::Ecdsa { own, signature, authority, issued } => {
                EcdsaSig::sign(&HASH, own)?;
                Ok(signature.verify(&HASH, own)? && issued.verify(&HASH, authority)?)
            }
        }
    }
}

fn rsa_sign(key: &Rsa<Private>) -> Result<Vec<u8>, ErrorStack> {
    let mut signature = vec![0; key.size() as usize];
    key.private_encrypt(&HASH, &mut signature, Padding::PKCS1)?;
    Ok(signature)
}

fn rsa_verify(key: &Rsa<Private>, signature: &[u8]) -> Result<bool, ErrorStack> {
    let mut octets = vec![0; key.size() as usize];
    let len = key.public_decrypt(signature, &mut octets, Padding::PKCS1)?;
    Ok(octets[..len] == HASH)
}

fn certificate(
    name: &str,
    ip: Option<IpAddr>,
    key: &PKey<Private>,
    issuer: Option<&X509>,
    issuer_key: &PKey<Private>,
) -> Result<X509, ErrorStack> {
    let mut subject = X509NameBuilder::new()?;
    subject.append_entry_by_nid(Nid::COMMONNAME, name)?;
    let subject = subject.build();
    let mut builder = X509Builder::new()?;
    builder.set_version(2)?;
    let serial = BigNum::from_slice(name.as_bytes())?.to_asn1_integer()?;
    builder.set_serial_number(&serial)?;
    builder.set_subject_name(&subject)?;
    builder.set_issuer_name(issuer.map_or(&*subject, |i| i.subject_name()))?;
    builder.set_not_before(&*Asn1Time::from_unix(BEGINS)?)?;
    builder.set_not_after(&*Asn1Time::from_unix(ENDS)?)?;
    builder.set_pubkey(key)?;
    let mut usage = KeyUsage::new();
    usage.critical();
    if let Some(ip) = ip {
        builder.append_extension(usage.digital_signature().build()?)?;
        let names = SubjectAlternativeName::new()
            .ip(&ip.to_string())
            .build(&builder.x509v3_context(issuer.map(|i| &**i), None))?;
        builder.append_extension(names)?;
    } else {
        builder.append_extension(BasicConstraints::new().critical().ca().build()?)?;
        builder.append_extension(usage.key_cert_sign().crl_sign().build()?)?;
    }
    builder.sign(issuer_key, MessageDigest::sha256())?;
    Ok(builder.build())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn signatures_of_both_kinds_are_right() {
        for kind in [Kind::Rsa2048, Kind::EcdsaP256] {
            let pki = Pki::new(kind).unwrap();
            assert!(pki.floor().unwrap().run().unwrap());
            let own = pki.own(IpAddr::from([10, 0, 0, 2])).unwrap();
            let wall = std::time::Duration::from_secs(1_800_000_000);
            pki.trust().unwrap().store.check(&own.chain[0], &[], wall, &[]).unwrap();
        }
    }
}
