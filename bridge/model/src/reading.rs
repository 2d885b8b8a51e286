//! Readings of RFC 6407, and of what it stands on, that differ from ours.
//!
//! Where its text can be read in two ways, deployed devices have each made their choice. Keyferry sends one reading and
//! takes all that are safe. A reading has a name: it is logged when a peer is seen to follow it, remembered for that
//! peer, and written into a group's configuration where devices need it to be sent.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A reading other than the one that is sent by default. `docs/COMPLIANCE.md` has the questions they answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
#[repr(u8)]
pub enum Reading {
    /// SEQ stands in message 2 of a GROUPKEY-PULL, not in message 4 (section 5.7 against Figure 2).
    SeqInMessage2,
    /// SA KEK, GAP and SA TEK stand behind the SA payload, not inside it (section 5.2.1).
    AttributesBehindSa,
    /// The destination of SA KEK and SA TEK has the octet "DST ID Prot" (text of sections 5.3 and 5.5.1).
    DstIdProt,
    /// Lifetimes are TV, two octets, where they fit (RFC 2409 appendix A).
    ShortLifetimes,
    /// SA KEK of a GROUPKEY-PULL has no KEK_MANAGEMENT_ALGORITHM (section 5.3).
    NoKekManagement,
    /// A Delete names ESP by the number of RFC 2407 (section 5.9).
    IpsecDeletes,
    /// Pushes are encrypted with an IV of zeros (section 5.6.2.1).
    ZeroIv,
    /// The IV of a push stands in front of its ciphertext.
    PrefixedIv,
    /// The IV of a push is the last block of the one before.
    ChainedIv,
    /// The push that brings a new KEK has SEQ 1 (section 4.3).
    SeqOneWithKek,
    /// SIG covers "rekey" with a NUL behind it (section 4).
    SigNul,
    /// SIG covers a header whose length counts no padding.
    SigUnpaddedLength,
    /// SIG covers a header without the encryption flag.
    SigClearFlags,
    /// SIG signs the hash of a hash.
    SigHashedTwice,
    /// SIG is an RSA signature without DigestInfo (section 5.3.6.1).
    SigRaw,
    /// SIG_ALGORITHM_KEY is an RSAPublicKey of PKCS #1 (section 5.6.2.2).
    SigKeyPkcs1,
    /// SIG_ALGORITHM_KEY is a certificate.
    SigKeyCertificate,
    /// SIG_ALGORITHM_KEY is a point of the curve.
    SigKeyPoint,
    /// A new KEK comes without SIG_ALGORITHM_KEY; the old one goes on (section 5.6.2).
    SigKeyKept,
    /// In an LKH_UPDATE_ARRAY a key's IV is encrypted with it, under the IV of the key before (section 5.6.3.2).
    LkhEncryptedIv,
    /// In an LKH_UPDATE_ARRAY keys are encrypted under the IV of the key before.
    LkhParentIv,
    /// AES-GMAC's key and salt stand in TEK_INTEGRITY_KEY (section 5.6.1.2).
    GmacIntegrityKey,
    /// The SA payload of phase 1 bears DOI GDOI, though the peer has proposed another (section 2.1).
    Phase1DoiGdoi,
    /// It bears DOI ISAKMP (RFC 2408 section 3.4).
    Phase1DoiIsakmp,
    /// It bears DOI IPsec, and situation "identity only" (RFC 2407 section 4.2).
    Phase1DoiIpsec,
    /// Identities of phase 1 say UDP, and no port (RFC 2407 section 4.6.2).
    IdUdp,
    /// Identities of phase 1 say UDP and port 500.
    IdUdp500,
    /// Identities of phase 1 say UDP and port 848.
    IdUdp848,
    /// Message 3 of aggressive mode is not encrypted (RFC 2409 section 5).
    Message3Clear,
    /// RSA signatures of phase 1 have a DigestInfo (RFC 2409 section 5.1).
    RsaDigestInfo,
    /// What ECDSA signs in phase 1 is made by the HMAC of the negotiated hash, not of the curve's (RFC 4754 section 4).
    EcdsaNegotiatedHash,
    /// ECDSA signs the hash of a hash in phase 1.
    EcdsaHashedTwice,
    /// A notice in place of message 6 is not protected (RFC 2409 section 5.7).
    NoticeClear,
}

impl Reading {
    /// All, in the order of their declaration.
    pub const ALL: [Self; 33] = [
        Self::SeqInMessage2,
        Self::AttributesBehindSa,
        Self::DstIdProt,
        Self::ShortLifetimes,
        Self::NoKekManagement,
        Self::IpsecDeletes,
        Self::ZeroIv,
        Self::PrefixedIv,
        Self::ChainedIv,
        Self::SeqOneWithKek,
        Self::SigNul,
        Self::SigUnpaddedLength,
        Self::SigClearFlags,
        Self::SigHashedTwice,
        Self::SigRaw,
        Self::SigKeyPkcs1,
        Self::SigKeyCertificate,
        Self::SigKeyPoint,
        Self::SigKeyKept,
        Self::LkhEncryptedIv,
        Self::LkhParentIv,
        Self::GmacIntegrityKey,
        Self::Phase1DoiGdoi,
        Self::Phase1DoiIsakmp,
        Self::Phase1DoiIpsec,
        Self::IdUdp,
        Self::IdUdp500,
        Self::IdUdp848,
        Self::Message3Clear,
        Self::RsaDigestInfo,
        Self::EcdsaNegotiatedHash,
        Self::EcdsaHashedTwice,
        Self::NoticeClear,
    ];

    /// Those of registrations and pushes that a key server can be told to send to a group; the others are only taken.
    pub const SENT: [Self; 12] = [
        Self::SeqInMessage2,
        Self::AttributesBehindSa,
        Self::DstIdProt,
        Self::ShortLifetimes,
        Self::NoKekManagement,
        Self::IpsecDeletes,
        Self::ZeroIv,
        Self::SigNul,
        Self::SigUnpaddedLength,
        Self::SigClearFlags,
        Self::SigHashedTwice,
        Self::SigRaw,
    ];

    /// Those of phase 1 that a key server can be told to send to a peer.
    pub const SENT_TO_PEER: [Self; 10] = [
        Self::Phase1DoiGdoi,
        Self::Phase1DoiIsakmp,
        Self::Phase1DoiIpsec,
        Self::IdUdp,
        Self::IdUdp500,
        Self::IdUdp848,
        Self::RsaDigestInfo,
        Self::EcdsaNegotiatedHash,
        Self::EcdsaHashedTwice,
        Self::NoticeClear,
    ];

    /// Those of phase 1 that a member can be told to send; under which DOI it proposes phase 1 is told apart.
    pub const SENT_BY_MEMBER: [Self; 7] = [
        Self::IdUdp,
        Self::IdUdp500,
        Self::IdUdp848,
        Self::Message3Clear,
        Self::RsaDigestInfo,
        Self::EcdsaNegotiatedHash,
        Self::EcdsaHashedTwice,
    ];

    /// Those of which one at most can be sent: what stands in one place.
    pub const EXCLUSIVE: [&'static [Self]; 3] = [
        &[Self::Phase1DoiGdoi, Self::Phase1DoiIsakmp, Self::Phase1DoiIpsec],
        &[Self::IdUdp, Self::IdUdp500, Self::IdUdp848],
        &[Self::SigRaw, Self::SigHashedTwice],
    ];

    /// Its name, in configurations and logs.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::SeqInMessage2 => "seq-in-message-2",
            Self::AttributesBehindSa => "attributes-behind-sa",
            Self::DstIdProt => "dst-id-prot",
            Self::ShortLifetimes => "short-lifetimes",
            Self::NoKekManagement => "no-kek-management",
            Self::IpsecDeletes => "ipsec-deletes",
            Self::ZeroIv => "zero-iv",
            Self::PrefixedIv => "prefixed-iv",
            Self::ChainedIv => "chained-iv",
            Self::SeqOneWithKek => "seq-one-with-kek",
            Self::SigNul => "sig-nul",
            Self::SigUnpaddedLength => "sig-unpadded-length",
            Self::SigClearFlags => "sig-clear-flags",
            Self::SigHashedTwice => "sig-hashed-twice",
            Self::SigRaw => "sig-raw",
            Self::SigKeyPkcs1 => "sig-key-pkcs1",
            Self::SigKeyCertificate => "sig-key-certificate",
            Self::SigKeyPoint => "sig-key-point",
            Self::SigKeyKept => "sig-key-kept",
            Self::LkhEncryptedIv => "lkh-encrypted-iv",
            Self::LkhParentIv => "lkh-parent-iv",
            Self::GmacIntegrityKey => "gmac-integrity-key",
            Self::Phase1DoiGdoi => "phase-1-doi-gdoi",
            Self::Phase1DoiIsakmp => "phase-1-doi-isakmp",
            Self::Phase1DoiIpsec => "phase-1-doi-ipsec",
            Self::IdUdp => "id-udp",
            Self::IdUdp500 => "id-udp-500",
            Self::IdUdp848 => "id-udp-848",
            Self::Message3Clear => "message-3-clear",
            Self::RsaDigestInfo => "rsa-digest-info",
            Self::EcdsaNegotiatedHash => "ecdsa-negotiated-hash",
            Self::EcdsaHashedTwice => "ecdsa-hashed-twice",
            Self::NoticeClear => "notice-clear",
        }
    }

    fn bit(self) -> u64 {
        1 << self as u8
    }
}

impl fmt::Display for Reading {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Reading {
    type Err = &'static str;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|r| r.name() == s).ok_or("it is no reading that has a name")
    }
}

impl From<Reading> for String {
    fn from(reading: Reading) -> Self {
        reading.name().to_owned()
    }
}

impl TryFrom<String> for Reading {
    type Error = &'static str;

    fn try_from(name: String) -> Result<Self, Self::Error> {
        name.parse()
    }
}

/// A set of readings. It is written as a list of names.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(into = "Vec<Reading>", from = "Vec<Reading>")]
pub struct Readings(u64);

impl Readings {
    /// None: everything as we send it by default.
    pub const NONE: Self = Self(0);

    /// Is it in the set?
    #[must_use]
    pub fn has(self, reading: Reading) -> bool {
        self.0 & reading.bit() != 0
    }

    /// Adds one.
    pub fn add(&mut self, reading: Reading) {
        self.0 |= reading.bit();
    }

    /// Adds one where it was seen.
    pub fn add_if(&mut self, seen: bool, reading: Reading) {
        if seen {
            self.add(reading);
        }
    }

    /// Those of either set.
    #[must_use]
    pub fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Those of both sets.
    #[must_use]
    pub fn intersection(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// Those that the other set does not have.
    #[must_use]
    pub fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// Is the set empty?
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The readings, in the order of their declaration.
    pub fn iter(self) -> impl Iterator<Item = Reading> {
        Reading::ALL.into_iter().filter(move |r| self.has(*r))
    }
}

impl FromIterator<Reading> for Readings {
    fn from_iter<I: IntoIterator<Item = Reading>>(readings: I) -> Self {
        let mut set = Self::NONE;
        readings.into_iter().for_each(|r| set.add(r));
        set
    }
}

impl From<Readings> for Vec<Reading> {
    fn from(set: Readings) -> Self {
        set.iter().collect()
    }
}

impl From<Vec<Reading>> for Readings {
    fn from(list: Vec<Reading>) -> Self {
        list.into_iter().collect()
    }
}

impl fmt::Debug for Readings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

impl fmt::Display for Readings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, reading) in self.iter().enumerate() {
            write!(f, "{}{reading}", if i > 0 { " " } else { "" })?;
        }
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn readings_have_names_and_bits_of_their_own() {
        let mut all = Readings::NONE;
        for reading in Reading::ALL {
            assert!(!all.has(reading), "{reading}");
            all.add(reading);
            assert_eq!(reading.name().parse(), Ok(reading));
        }
        assert_eq!(all.iter().collect::<Vec<_>>(), Reading::ALL);
        assert!("seq".parse::<Reading>().is_err());
        let sent: Readings = Reading::SENT.into_iter().collect();
        assert!(sent.without(all).is_empty() && !all.without(sent).is_empty());
        let phase1: Readings = Reading::SENT_TO_PEER.into_iter().chain(Reading::SENT_BY_MEMBER).collect();
        assert!(phase1.intersection(sent).is_empty());
        let few: Readings = [Reading::SigNul, Reading::ZeroIv].into_iter().collect();
        assert_eq!(few.to_string(), "zero-iv sig-nul");
    }

    /// Everywhere by the same names: in records, in what operators are shown, in configurations.
    #[test]
    fn readings_are_written_by_their_names() {
        let set: Readings = [Reading::SeqInMessage2, Reading::IdUdp848].into_iter().collect();
        let text = serde_json::to_string(&set).unwrap();
        assert_eq!(text, r#"["seq-in-message-2","id-udp-848"]"#);
        assert_eq!(serde_json::from_str::<Readings>(&text).unwrap(), set);
        assert!(serde_json::from_str::<Readings>(r#"["seq-in-message2"]"#).is_err());
    }
}
