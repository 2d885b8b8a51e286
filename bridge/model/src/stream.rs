//! IEC 61850 streams: what GOOSE and Sampled Values are protected with (RFC 8052).
//!
//! A stream is to IEC 61850 what a line of traffic policy is to IPsec: each epoch has an SA with an SPI and keys for it.
//! Only GDOI can tell them.

use std::sync::Arc;

use keyferry_crypto::{Random, Secret};
use serde::{Deserialize, Serialize};

use crate::epoch::Epoch;
use crate::oid::OidName;

/// How messages of a stream are authenticated (RFC 8052 section 2.2.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum StreamAuthentication {
    /// Not at all, or by the cipher.
    None,
    /// HMAC-SHA-256, 128 bits of its output.
    HmacSha256_128,
    /// HMAC-SHA-256, its whole output.
    HmacSha256,
    /// AES-GMAC with a key of 128 bits.
    AesGmac128,
    /// AES-GMAC with a key of 256 bits.
    AesGmac256,
}

/// How messages of a stream are encrypted (RFC 8052 section 2.2.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum StreamEncryption {
    /// Not at all.
    None,
    /// AES-CBC with a key of 128 bits.
    AesCbc128,
    /// AES-CBC with a key of 256 bits.
    AesCbc256,
    /// AES-GCM with a key of 128 bits, which authenticates too.
    AesGcm128,
    /// AES-GCM with a key of 256 bits.
    AesGcm256,
}

/// Octets of a salt, which stands behind the key it belongs to (RFC 8052 section 2.3).
pub const SALT_LEN: usize = 4;

impl StreamAuthentication {
    /// All of them, by name.
    pub const ALL: &'static [(&'static str, Self)] = &[
        ("none", Self::None),
        ("hmac-sha256-128", Self::HmacSha256_128),
        ("hmac-sha256", Self::HmacSha256),
        ("aes-128-gmac", Self::AesGmac128),
        ("aes-256-gmac", Self::AesGmac256),
    ];

    /// Octets of the key, without a salt.
    #[must_use]
    pub fn key_len(self) -> usize {
        match self {
            Self::None => 0,
            Self::AesGmac128 => 16,
            Self::HmacSha256_128 | Self::HmacSha256 | Self::AesGmac256 => 32,
        }
    }

    /// Octets of the salt.
    #[must_use]
    pub fn salt_len(self) -> usize {
        if matches!(self, Self::AesGmac128 | Self::AesGmac256) { SALT_LEN } else { 0 }
    }

    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        name_of(Self::ALL, self)
    }
}

impl StreamEncryption {
    /// All of them, by name.
    pub const ALL: &'static [(&'static str, Self)] = &[
        ("none", Self::None),
        ("aes-128-cbc", Self::AesCbc128),
        ("aes-256-cbc", Self::AesCbc256),
        ("aes-128-gcm", Self::AesGcm128),
        ("aes-256-gcm", Self::AesGcm256),
    ];

    /// Octets of the key, without a salt.
    #[must_use]
    pub fn key_len(self) -> usize {
        match self {
            Self::None => 0,
            Self::AesCbc128 | Self::AesGcm128 => 16,
            Self::AesCbc256 | Self::AesGcm256 => 32,
        }
    }

    /// Octets of the salt.
    #[must_use]
    pub fn salt_len(self) -> usize {
        if self.authenticates() { SALT_LEN } else { 0 }
    }

    /// Does it authenticate what it encrypts?
    #[must_use]
    pub fn authenticates(self) -> bool {
        matches!(self, Self::AesGcm128 | Self::AesGcm256)
    }

    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        name_of(Self::ALL, self)
    }
}

fn name_of<T: Copy + PartialEq>(names: &[(&'static str, T)], value: T) -> &'static str {
    names.iter().find(|(_, v)| *v == value).map_or("", |(name, _)| name)
}

/// Authentication and encryption of a stream, in a combination that is allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct StreamProtection {
    authentication: StreamAuthentication,
    encryption: StreamEncryption,
}

impl StreamProtection {
    /// `None` for encryption that nothing authenticates, which RFC 8052 sections 2.2.3 and 3 forbid, and for a second
    /// authentication beside a cipher that brings its own.
    #[must_use]
    pub fn new(authentication: StreamAuthentication, encryption: StreamEncryption) -> Option<Self> {
        let alone = authentication == StreamAuthentication::None;
        let fits = match encryption {
            StreamEncryption::None => true,
            StreamEncryption::AesCbc128 | StreamEncryption::AesCbc256 => !alone,
            StreamEncryption::AesGcm128 | StreamEncryption::AesGcm256 => alone,
        };
        fits.then_some(Self { authentication, encryption })
    }

    /// How messages are authenticated.
    #[must_use]
    pub fn authentication(self) -> StreamAuthentication {
        self.authentication
    }

    /// How messages are encrypted.
    #[must_use]
    pub fn encryption(self) -> StreamEncryption {
        self.encryption
    }

    /// Does it protect nothing? RFC 8052 section 3 does not recommend it.
    #[must_use]
    pub fn is_none(self) -> bool {
        self.authentication == StreamAuthentication::None && self.encryption == StreamEncryption::None
    }

    /// Does a key break when two senders use a nonce twice under it?
    #[must_use]
    pub fn is_counter_mode(self) -> bool {
        self.authentication.salt_len() + self.encryption.salt_len() > 0
    }

    /// Octets of the encryption key with its salt, and of the authentication key with its.
    #[must_use]
    pub fn key_lens(self) -> (usize, usize) {
        let (e, a) = (self.encryption, self.authentication);
        (e.key_len() + e.salt_len(), a.key_len() + a.salt_len())
    }
}

/// One stream of a group: one SA per epoch comes of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamPolicy {
    /// Which messages: the protocol by its OID, and as a rule the multicast address behind it.
    pub name: OidName,
    /// Protection.
    pub protection: StreamProtection,
    /// May several members send? Counter modes need sender IDs then.
    pub many_senders: bool,
    /// Are publishers told how many subscribers have the keys (SA_KDA, RFC 8052 section 2.2.4.2)?
    pub delivery_assurance: bool,
}

impl StreamPolicy {
    /// Do its senders need sender IDs?
    #[must_use]
    pub fn needs_sender_ids(&self) -> bool {
        self.many_senders && self.protection.is_counter_mode()
    }
}

/// The SA of a stream as the key server knows it.
#[derive(Debug)]
pub struct StreamSa {
    /// SPI, which IEC 61850 calls a key ID; unique within the group.
    pub spi: u32,
    /// The stream it protects.
    pub policy: Arc<StreamPolicy>,
    /// Keying material: encryption key with its salt, then authentication key with its salt.
    pub keymat: Secret,
}

impl StreamSa {
    pub(crate) fn generate(spi: u32, policy: &Arc<StreamPolicy>, rng: &mut dyn Random) -> Self {
        let (encryption, authentication) = policy.protection.key_lens();
        Self { spi, policy: Arc::clone(policy), keymat: Secret::random(encryption + authentication, rng) }
    }

    pub(crate) fn restore(spi: u32, policy: &Arc<StreamPolicy>, keymat: Secret) -> Option<Self> {
        let (encryption, authentication) = policy.protection.key_lens();
        (keymat.len() == encryption + authentication).then(|| Self { spi, policy: Arc::clone(policy), keymat })
    }

    pub(crate) fn duplicate(&self) -> Self {
        Self { spi: self.spi, policy: Arc::clone(&self.policy), keymat: self.keymat.duplicate() }
    }
}

/// What a rekey message does about streams beside what the epoch it brings says.
#[derive(Clone, Debug, Default)]
pub struct StreamStep {
    /// Stream SAs to delete after the deactivation delay.
    pub delete: Vec<u32>,
    /// How far an epoch has come.
    pub report: Option<DeliveryReport>,
}

/// How many members have the keys of an epoch that is not used yet.
#[derive(Clone, Debug)]
pub struct DeliveryReport {
    /// The epoch.
    pub epoch: Arc<Epoch>,
    /// Per cent of the members.
    pub delivered: u8,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_encrypted_without_authentication() {
        let mut allowed = 0;
        for (_, authentication) in StreamAuthentication::ALL {
            for (_, encryption) in StreamEncryption::ALL {
                let Some(protection) = StreamProtection::new(*authentication, *encryption) else { continue };
                allowed += 1;
                let encrypts = *encryption != StreamEncryption::None;
                let once = encryption.authenticates() != (*authentication != StreamAuthentication::None);
                assert!(!encrypts || once, "{protection:?}");
                assert_eq!(protection.is_none(), protection.key_lens() == (0, 0));
            }
        }
        assert_eq!(allowed, 5 + 2 * 4 + 2);
    }

    #[test]
    fn keys_are_as_long_as_rfc_8052_section_2_3_says() {
        let lens = |a, e| StreamProtection::new(a, e).map(StreamProtection::key_lens);
        use {StreamAuthentication as A, StreamEncryption as E};
        assert_eq!(lens(A::HmacSha256_128, E::AesCbc128), Some((16, 32)));
        assert_eq!(lens(A::HmacSha256, E::AesCbc256), Some((32, 32)));
        assert_eq!(lens(A::AesGmac128, E::None), Some((0, 20)));
        assert_eq!(lens(A::AesGmac256, E::None), Some((0, 36)));
        assert_eq!(lens(A::None, E::AesGcm128), Some((20, 0)));
        assert_eq!(lens(A::None, E::AesGcm256), Some((36, 0)));
    }
}
