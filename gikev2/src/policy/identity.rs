//! Identities of peers and groups in ID payloads (RFC 7296 section 3.5, RFC 9838 section 4.2).

use std::borrow::Cow;
use std::net::{Ipv4Addr, Ipv6Addr};

use keyferry_crypto::x509::DistinguishedName;
use keyferry_model::id::{GroupId, Identity};

use crate::wire::id::Id;
use crate::wire::registry::IdType;

/// The ID payload for an identity.
pub(crate) fn identity_to_wire(identity: &Identity) -> Id<'_> {
    let (kind, data): (_, Cow<'_, [u8]>) = match identity {
        Identity::Ipv4(a) => (IdType::IPV4_ADDR, Cow::Owned(a.octets().to_vec())),
        Identity::Ipv6(a) => (IdType::IPV6_ADDR, Cow::Owned(a.octets().to_vec())),
        Identity::Fqdn(n) => (IdType::FQDN, Cow::Borrowed(n.as_bytes())),
        Identity::UserFqdn(n) => (IdType::RFC822_ADDR, Cow::Borrowed(n.as_bytes())),
        Identity::Dn(n) => (IdType::DER_ASN1_DN, Cow::Borrowed(n.der())),
        Identity::KeyId(k) => (IdType::KEY_ID, Cow::Borrowed(k)),
    };
    Id { kind, data }
}

/// The identity in an ID payload; `None` for types and data we do not know.
pub(crate) fn identity_from_wire(id: &Id<'_>) -> Option<Identity> {
    match id.kind {
        IdType::IPV4_ADDR => <[u8; 4]>::try_from(id.data.as_ref()).ok().map(|a| Identity::Ipv4(Ipv4Addr::from(a))),
        IdType::IPV6_ADDR => <[u8; 16]>::try_from(id.data.as_ref()).ok().map(|a| Identity::Ipv6(Ipv6Addr::from(a))),
        IdType::FQDN => name(&id.data).map(Identity::Fqdn),
        IdType::RFC822_ADDR => name(&id.data).map(Identity::UserFqdn),
        IdType::DER_ASN1_DN => DistinguishedName::from_der(&id.data).ok().map(Identity::Dn),
        IdType::KEY_ID => (!id.data.is_empty()).then(|| Identity::KeyId(id.data.to_vec())),
        _ => None,
    }
}

/// The IDg payload for a group; `None` for an identity that IKEv2 has no type for (RFC 8052's ID_OID).
pub(crate) fn group_to_wire(group: &GroupId) -> Option<Id<'_>> {
    let (kind, data): (_, Cow<'_, [u8]>) = match group {
        GroupId::Number(n) => (IdType::KEY_ID, Cow::Owned(n.to_be_bytes().to_vec())),
        GroupId::Ipv4(a) => (IdType::IPV4_ADDR, Cow::Owned(a.octets().to_vec())),
        GroupId::Ipv6(a) => (IdType::IPV6_ADDR, Cow::Owned(a.octets().to_vec())),
        GroupId::Fqdn(n) => (IdType::FQDN, Cow::Borrowed(n.as_bytes())),
        GroupId::UserFqdn(n) => (IdType::RFC822_ADDR, Cow::Borrowed(n.as_bytes())),
        GroupId::KeyId(k) => (IdType::KEY_ID, Cow::Borrowed(k)),
        GroupId::Oid(_) => return None,
    };
    Some(Id { kind, data })
}

/// The group that an IDg payload names; `None` for types and data we do not know.
pub(crate) fn group_from_wire(id: &Id<'_>) -> Option<GroupId> {
    match id.kind {
        IdType::KEY_ID => (!id.data.is_empty()).then(|| GroupId::from_key_id(&id.data)),
        IdType::IPV4_ADDR => <[u8; 4]>::try_from(id.data.as_ref()).ok().map(|a| GroupId::Ipv4(Ipv4Addr::from(a))),
        IdType::IPV6_ADDR => <[u8; 16]>::try_from(id.data.as_ref()).ok().map(|a| GroupId::Ipv6(Ipv6Addr::from(a))),
        IdType::FQDN => name(&id.data).map(GroupId::Fqdn),
        IdType::RFC822_ADDR => user(&id.data).map(GroupId::UserFqdn),
        _ => None,
    }
}

/// A user at a host.
fn user(data: &[u8]) -> Option<String> {
    name(data).filter(|n| n.contains('@'))
}

/// A name: text of at most 255 octets without control characters.
fn name(data: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(data).ok()?;
    let sound = !text.is_empty() && text.len() <= 255 && !text.chars().any(char::is_control);
    sound.then(|| text.to_owned())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn identities_survive_their_payload() {
        for text in ["10.0.0.1", "2001:db8::1", "fqdn:gm1.example", "user:a@b.example", "key-id:0102"] {
            let identity: Identity = text.parse().unwrap();
            assert_eq!(identity_from_wire(&identity_to_wire(&identity)), Some(identity));
        }
        for text in ["1234", "10.0.0.1", "2001:db8::1", "fqdn:g.example", "user:g@b.example", "key-id:010203"] {
            let group: GroupId = text.parse().unwrap();
            assert_eq!(group_to_wire(&group).and_then(|id| group_from_wire(&id)), Some(group));
        }
    }

    #[test]
    fn strange_identities_are_nobody() {
        let id = |kind, data: &'static [u8]| Id { kind, data: Cow::Borrowed(data) };
        assert_eq!(identity_from_wire(&id(IdType::IPV4_ADDR, &[1, 2, 3])), None);
        assert_eq!(identity_from_wire(&id(IdType::FQDN, b"a\nb")), None);
        assert_eq!(identity_from_wire(&id(IdType::FQDN, &[0xff])), None);
        assert_eq!(identity_from_wire(&id(IdType(9), b"x")), None);
        assert_eq!(group_from_wire(&id(IdType::RFC822_ADDR, b"nobody")), None);
    }
}
