//! Who holds a certificate, whichever of its names they show.

use keyferry_crypto::Hash;
use keyferry_crypto::x509::{AltName, Certificate};
use serde::{Deserialize, Serialize};

use crate::id::Identity;

/// What tells the holder of a certificate who shows another of its names, or has had it renewed.
///
/// The key stays when a CA writes other names beside it; the subject stays when a certificate is renewed with another key,
/// and a CA gives it to one holder only (RFC 5280 section 4.1.2.6). Issuer and serial number tell a certificate apart, but
/// not from the one that replaces it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// The subject, if there is one.
    pub subject: Option<Identity>,
    /// The alternative names that can be identities.
    pub names: Vec<Identity>,
    /// SHA-256 of the SubjectPublicKeyInfo, hexadecimal.
    pub key: String,
}

/// What two certificates of one holder have in common.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Mark {
    Key(String),
    Name(Identity),
}

impl Holder {
    /// The holder of a certificate.
    #[must_use]
    pub fn of(certificate: &Certificate) -> Self {
        let digest = Hash::Sha256.digest(&[certificate.public_key().spki()]);
        let alternative = certificate.names().iter().filter_map(|name| match name {
            AltName::Ip(ip) => Some(Identity::from_ip(*ip)),
            AltName::Dns(name) => Some(Identity::Fqdn(name.clone())),
            AltName::Email(name) => Some(Identity::UserFqdn(name.clone())),
            AltName::Dn(_) => None,
        });
        let subject = Identity::Dn(certificate.subject().clone());
        Self {
            subject: Some(subject).filter(|_| !certificate.subject().is_empty()).filter(has_text),
            names: alternative.filter(has_text).collect(),
            key: digest.iter().map(|octet| format!("{octet:02x}")).collect(),
        }
    }

    /// Every identity that the certificate names.
    pub(crate) fn all_names(&self) -> impl Iterator<Item = &Identity> {
        self.subject.iter().chain(&self.names)
    }

    /// What other certificates of this holder have, too: the key or the subject. Who has no subject is known by its other
    /// names.
    pub(crate) fn marks(&self) -> impl Iterator<Item = Mark> {
        let names = if self.subject.is_some() { &[][..] } else { &self.names[..] };
        let named = self.subject.iter().chain(names).cloned().map(Mark::Name);
        std::iter::once(Mark::Key(self.key.clone())).chain(named)
    }
}

/// Can it be stored? A name that no identity can have as its text is none that a member shows.
fn has_text(name: &Identity) -> bool {
    name.to_string().parse::<Identity>().is_ok_and(|read| read == *name)
}
