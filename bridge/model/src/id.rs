//! Who and what: identities of members and groups, and the two protocols.

use std::borrow::Cow;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use keyferry_crypto::x509::DistinguishedName;
use serde::{Deserialize, Serialize};

use crate::oid::OidName;

/// Which of the two protocols a member speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// RFC 6407 over IKEv1.
    Gdoi,
    /// RFC 9838 over IKEv2.
    Gikev2,
}

impl Protocol {
    /// Both, in the order in which a rekey serves them.
    pub const ALL: [Protocol; 2] = [Protocol::Gdoi, Protocol::Gikev2];

    /// The name used in configuration and output.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Protocol::Gdoi => "gdoi",
            Protocol::Gikev2 => "gikev2",
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Protocol {
    type Err = IdError;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        match s {
            "gdoi" => Ok(Protocol::Gdoi),
            "gikev2" => Ok(Protocol::Gikev2),
            _ => Err(IdError("protocol is \"gdoi\" or \"gikev2\"")),
        }
    }
}

/// A text that names no identity; the message says what is expected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct IdError(pub &'static str);

/// An authenticated identity (RFC 2407 section 4.6.2, RFC 7296 section 3.5).
///
/// Text form: an address is itself, `fqdn:NAME`, `user:NAME@HOST`, `dn:CN=NAME,O=NAME`, `key-id:HEX`; a bare name with a
/// dot and no `@` is an FQDN, with `@` a user FQDN.
///
/// Names of hosts have no case, and distinguished names are compared as RFC 5280 section 7.1 says, so that nobody who is
/// evicted comes back under another spelling.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum Identity {
    /// ID_IPV4_ADDR.
    Ipv4(Ipv4Addr),
    /// ID_IPV6_ADDR.
    Ipv6(Ipv6Addr),
    /// ID_FQDN.
    Fqdn(String),
    /// ID_USER_FQDN, ID_RFC822_ADDR.
    UserFqdn(String),
    /// ID_DER_ASN1_DN.
    Dn(DistinguishedName),
    /// ID_KEY_ID, opaque octets.
    KeyId(Vec<u8>),
}

impl Identity {
    /// The identity that is an address.
    #[must_use]
    pub fn from_ip(ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(a) => Identity::Ipv4(a),
            IpAddr::V6(a) => Identity::Ipv6(a),
        }
    }

    /// The address, if the identity is one.
    #[must_use]
    pub fn ip(&self) -> Option<IpAddr> {
        match self {
            Identity::Ipv4(a) => Some(IpAddr::V4(*a)),
            Identity::Ipv6(a) => Some(IpAddr::V6(*a)),
            Identity::Fqdn(_) | Identity::UserFqdn(_) | Identity::Dn(_) | Identity::KeyId(_) => None,
        }
    }

    /// The text under which a store keeps what belongs to it: the same for all identities that are equal, as names that are
    /// written in upper or lower case.
    pub(crate) fn record_key(&self) -> String {
        match self {
            Identity::Dn(name) => Identity::Dn(name.canonical()).to_string(),
            Identity::Fqdn(name) => Identity::Fqdn(folded(name, 0).into_owned()).to_string(),
            Identity::UserFqdn(name) => Identity::UserFqdn(folded(name, host(name)).into_owned()).to_string(),
            Identity::Ipv4(_) | Identity::Ipv6(_) | Identity::KeyId(_) => self.to_string(),
        }
    }

    /// What is compared: a number for the kind, and octets.
    fn compared(&self) -> (u8, Cow<'_, [u8]>) {
        let octets = |text| match text {
            Cow::Borrowed(text) => Cow::Borrowed(str::as_bytes(text)),
            Cow::Owned(text) => Cow::Owned(String::into_bytes(text)),
        };
        match self {
            Identity::Ipv4(a) => (0, Cow::Owned(a.octets().to_vec())),
            Identity::Ipv6(a) => (1, Cow::Owned(a.octets().to_vec())),
            Identity::Fqdn(name) => (2, octets(folded(name, 0))),
            Identity::UserFqdn(name) => (3, octets(folded(name, host(name)))),
            Identity::Dn(name) => (4, Cow::Borrowed(name.compared())),
            Identity::KeyId(k) => (5, Cow::Borrowed(k)),
        }
    }
}

/// Where the name of the host begins in that of a user at it; the local part has a case (RFC 5280 section 7.5).
fn host(name: &str) -> usize {
    name.rfind('@').unwrap_or(0)
}

/// A name in lower case from an octet on.
fn folded(name: &str, from: usize) -> Cow<'_, str> {
    if !name[from..].bytes().any(|b| b.is_ascii_uppercase()) {
        return Cow::Borrowed(name);
    }
    Cow::Owned(name[..from].to_owned() + &name[from..].to_ascii_lowercase())
}

impl PartialEq for Identity {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Identity {}

impl PartialOrd for Identity {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Identity {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        match (self, other) {
            // The common case, without copies.
            (Identity::Ipv4(a), Identity::Ipv4(b)) => a.cmp(b),
            (Identity::Ipv6(a), Identity::Ipv6(b)) => a.cmp(b),
            _ => self.compared().cmp(&other.compared()),
        }
    }
}

impl Hash for Identity {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.compared().hash(state);
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Identity::Ipv4(a) => write!(f, "{a}"),
            Identity::Ipv6(a) => write!(f, "{a}"),
            Identity::Fqdn(n) => write!(f, "fqdn:{}", n.escape_default()),
            Identity::UserFqdn(n) => write!(f, "user:{}", n.escape_default()),
            Identity::Dn(n) => write!(f, "dn:{n}"),
            Identity::KeyId(k) => write_hex(f, k),
        }
    }
}

impl From<Identity> for String {
    fn from(id: Identity) -> String {
        id.to_string()
    }
}

impl TryFrom<String> for Identity {
    type Error = IdError;

    fn try_from(s: String) -> Result<Self, Self::Error> {
        s.parse()
    }
}

impl FromStr for Identity {
    type Err = IdError;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        const HELP: IdError =
            IdError("an identity is an address, fqdn:NAME, user:NAME@HOST, dn:CN=NAME,... or key-id:HEX");
        if let Ok(ip) = s.parse::<IpAddr>() {
            return Ok(Identity::from_ip(ip));
        }
        match s.split_once(':') {
            Some(("fqdn", n)) if !n.is_empty() => Ok(Identity::Fqdn(n.to_owned())),
            Some(("user", n)) if n.contains('@') => Ok(Identity::UserFqdn(n.to_owned())),
            Some(("dn", n)) => DistinguishedName::parse(n).map(Identity::Dn).map_err(|_| HELP),
            Some(("key-id", h)) => parse_hex(h).filter(|k| !k.is_empty()).map(Identity::KeyId).ok_or(HELP),
            Some(_) => Err(HELP),
            None if s.contains('@') => Ok(Identity::UserFqdn(s.to_owned())),
            None if s.contains('.') => Ok(Identity::Fqdn(s.to_owned())),
            None => Err(HELP),
        }
    }
}

/// What a member asks for when it wants to join a group (RFC 6407 section 5.1, RFC 9838 section 4.2).
///
/// Text form: decimal digits are a number (ID_KEY_ID of four octets), an address is itself, `fqdn:NAME`,
/// `user:NAME@HOST`, `key-id:HEX`, `oid:1.2.3` or `oid:1.2.3#HEX`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum GroupId {
    /// A group number, on the wire an ID_KEY_ID of four octets.
    Number(u32),
    /// ID_IPV4_ADDR.
    Ipv4(Ipv4Addr),
    /// ID_IPV6_ADDR.
    Ipv6(Ipv6Addr),
    /// ID_FQDN.
    Fqdn(String),
    /// ID_USER_FQDN, ID_RFC822_ADDR.
    UserFqdn(String),
    /// ID_KEY_ID of any other length.
    KeyId(Vec<u8>),
    /// ID_OID (RFC 8052 section 2.1), which GDOI alone has.
    Oid(OidName),
}

impl GroupId {
    /// The group identity that an ID_KEY_ID of these octets stands for.
    #[must_use]
    pub fn from_key_id(octets: &[u8]) -> Self {
        match <[u8; 4]>::try_from(octets) {
            Ok(n) => GroupId::Number(u32::from_be_bytes(n)),
            Err(_) => GroupId::KeyId(octets.to_vec()),
        }
    }
}

impl fmt::Display for GroupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            GroupId::Number(n) => write!(f, "{n}"),
            GroupId::Ipv4(a) => write!(f, "{a}"),
            GroupId::Ipv6(a) => write!(f, "{a}"),
            GroupId::Fqdn(n) => write!(f, "fqdn:{}", n.escape_default()),
            GroupId::UserFqdn(n) => write!(f, "user:{}", n.escape_default()),
            GroupId::KeyId(k) => write_hex(f, k),
            GroupId::Oid(name) => write!(f, "oid:{name}"),
        }
    }
}

impl From<GroupId> for String {
    fn from(id: GroupId) -> String {
        id.to_string()
    }
}

impl TryFrom<String> for GroupId {
    type Error = IdError;

    fn try_from(s: String) -> Result<Self, Self::Error> {
        s.parse()
    }
}

impl FromStr for GroupId {
    type Err = IdError;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        const HELP: IdError =
            IdError("a group identity is a number, an address, fqdn:NAME, user:NAME@HOST, key-id:HEX or oid:OID#HEX");
        if let Ok(n) = s.parse::<u32>() {
            return Ok(GroupId::Number(n));
        }
        match s.parse::<IpAddr>() {
            Ok(IpAddr::V4(a)) => return Ok(GroupId::Ipv4(a)),
            Ok(IpAddr::V6(a)) => return Ok(GroupId::Ipv6(a)),
            Err(_) => {}
        }
        match s.split_once(':') {
            Some(("fqdn", n)) if !n.is_empty() => Ok(GroupId::Fqdn(n.to_owned())),
            Some(("user", n)) if n.contains('@') => Ok(GroupId::UserFqdn(n.to_owned())),
            Some(("key-id", h)) => parse_hex(h).filter(|k| !k.is_empty()).map(|k| GroupId::from_key_id(&k)).ok_or(HELP),
            Some(("oid", name)) => name.parse().map(GroupId::Oid),
            _ => Err(HELP),
        }
    }
}

fn write_hex(f: &mut fmt::Formatter<'_>, octets: &[u8]) -> fmt::Result {
    f.write_str("key-id:")?;
    octets.iter().try_for_each(|b| write!(f, "{b:02x}"))
}

pub(crate) fn parse_hex(s: &str) -> Option<Vec<u8>> {
    if !s.len().is_multiple_of(2) || !s.is_ascii() {
        return None;
    }
    (0..s.len()).step_by(2).map(|i| u8::from_str_radix(&s[i..i + 2], 16).ok()).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn identities_survive_their_text_form() {
        for text in
            ["10.1.2.3", "2001:db8::1", "fqdn:gm.example", "user:a@b.example", "dn:CN=gm1,O=Example", "key-id:00ff10"]
        {
            assert_eq!(text.parse::<Identity>().unwrap().to_string(), text);
        }
        assert_eq!("gm.example".parse::<Identity>().unwrap(), Identity::Fqdn("gm.example".into()));
        assert!("".parse::<Identity>().is_err());
        assert!("key-id:0".parse::<Identity>().is_err());
    }

    #[test]
    fn a_four_octet_key_id_is_a_number() {
        assert_eq!("1234".parse::<GroupId>().unwrap(), GroupId::Number(1234));
        assert_eq!("key-id:000004d2".parse::<GroupId>().unwrap(), GroupId::Number(1234));
        assert_eq!("key-id:04d2".parse::<GroupId>().unwrap(), GroupId::KeyId(vec![4, 0xd2]));
        assert_eq!("user:floor@example".parse::<GroupId>().unwrap(), GroupId::UserFqdn("floor@example".into()));
        assert!("user:floor".parse::<GroupId>().is_err());
    }

    #[test]
    fn groups_named_by_oid_survive_their_text_form() {
        for text in ["oid:1.2.840.10070.61850.8.1.2", "oid:1.2.840.10070.61850.8.1.2#0404e9fc0001"] {
            assert_eq!(text.parse::<GroupId>().unwrap().to_string(), text);
        }
        for text in ["oid:", "oid:1", "oid:1.2#", "oid:3.1", "OID:1.2"] {
            assert!(text.parse::<GroupId>().is_err(), "{text}");
        }
    }
}
