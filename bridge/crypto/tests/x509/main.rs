//! Certificates from the outside: chains made by OpenSSL, OCSP answers made by Python's cryptography, and hostile ones.
#![allow(clippy::unwrap_used)]

mod chains;
mod hostile;
mod peer;
mod revocation;

use std::time::Duration;

use keyferry_crypto::x509::{Certificate, CertificateError, DistinguishedName, Fault};
use openssl::asn1::{Asn1Integer, Asn1Object, Asn1OctetString, Asn1Time};
use openssl::bn::BigNum;
use openssl::ec::{EcGroup, EcKey};
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::{PKey, Private};
use openssl::x509::extension::{BasicConstraints, KeyUsage};
use openssl::x509::{X509, X509Builder, X509Extension, X509Name};

const NOW: i64 = 1_800_000_000;
const DAY: i64 = 86_400;

fn at(seconds: i64) -> Duration {
    Duration::from_secs(u64::try_from(seconds).unwrap())
}

fn now() -> Duration {
    at(NOW)
}

fn ec(nid: Nid) -> PKey<Private> {
    PKey::from_ec_key(EcKey::generate(&EcGroup::from_curve_name(nid).unwrap()).unwrap()).unwrap()
}

/// Somebody with a name and a key.
struct Party {
    name: String,
    key: PKey<Private>,
}

impl Party {
    fn new(name: &str) -> Self {
        Self { name: format!("CN={name},O=Example"), key: ec(Nid::X9_62_PRIME256V1) }
    }

    fn x509_name(&self) -> X509Name {
        X509Name::from_der(DistinguishedName::parse(&self.name).unwrap().der()).unwrap()
    }

    /// A certificate for somebody, valid around [`NOW`], with whatever else it is to have.
    fn issues(&self, whom: &Party, more: impl FnOnce(&mut X509Builder)) -> Certificate {
        self.signs(whom, MessageDigest::sha256(), more)
    }

    fn signs(&self, whom: &Party, digest: MessageDigest, more: impl FnOnce(&mut X509Builder)) -> Certificate {
        let mut builder = X509::builder().unwrap();
        builder.set_version(2).unwrap();
        builder.set_serial_number(&serial(&whom.name)).unwrap();
        builder.set_subject_name(&whom.x509_name()).unwrap();
        builder.set_issuer_name(&self.x509_name()).unwrap();
        builder.set_pubkey(&whom.key).unwrap();
        valid(&mut builder, NOW - 10 * DAY, NOW + 10 * DAY);
        more(&mut builder);
        builder.sign(&self.key, digest).unwrap();
        Certificate::from_der(&builder.build().to_der().unwrap()).unwrap()
    }

    /// A certificate for a CA below.
    fn appoints(&self, whom: &Party) -> Certificate {
        self.issues(whom, ca)
    }
}

/// A serial number that follows from the name.
fn serial(name: &str) -> Asn1Integer {
    BigNum::from_slice(name.as_bytes()).unwrap().to_asn1_integer().unwrap()
}

fn valid(builder: &mut X509Builder, from: i64, to: i64) {
    builder.set_not_before(&Asn1Time::from_unix(from).unwrap()).unwrap();
    builder.set_not_after(&Asn1Time::from_unix(to).unwrap()).unwrap();
}

fn ca(builder: &mut X509Builder) {
    builder.append_extension(BasicConstraints::new().critical().ca().build().unwrap()).unwrap();
    let usage = KeyUsage::new().critical().key_cert_sign().crl_sign().build().unwrap();
    builder.append_extension(usage).unwrap();
}

/// Any extension.
fn extension(kind: &str, critical: bool, value: &[u8]) -> X509Extension {
    let (kind, value) = (Asn1Object::from_str(kind).unwrap(), Asn1OctetString::new_from_bytes(value).unwrap());
    X509Extension::new_from_der(&kind, critical, &value).unwrap()
}

fn plain(_: &mut X509Builder) {}

/// The fault of a chain.
fn fault(result: Result<(), CertificateError>) -> Option<Fault> {
    match result {
        Ok(()) => None,
        Err(CertificateError::Chain { fault, .. }) => Some(fault),
        Err(other) => panic!("{other}"),
    }
}
