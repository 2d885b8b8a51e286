//! Identities and groups of the model, and the Identification payload.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use keyferry_crypto::x509::DistinguishedName;
use keyferry_model::id::{GroupId, Identity};
use keyferry_wire::Encode;

use crate::wire::id::Id;
use crate::wire::oid::{oid_name, put_oid_name};
use crate::wire::registry::IdType;

/// The longest name taken.
const MAX_NAME: usize = 255;

/// Octets of the longest distinguished name taken.
const MAX_DN: usize = 1024;

/// The body of an Identification payload.
pub(crate) fn of_identity(identity: &Identity) -> Vec<u8> {
    match identity {
        Identity::Ipv4(a) => Id::new(IdType::IPV4_ADDR, &a.octets()).to_vec(),
        Identity::Ipv6(a) => Id::new(IdType::IPV6_ADDR, &a.octets()).to_vec(),
        Identity::Fqdn(n) => Id::new(IdType::FQDN, n.as_bytes()).to_vec(),
        Identity::UserFqdn(n) => Id::new(IdType::USER_FQDN, n.as_bytes()).to_vec(),
        Identity::Dn(n) => Id::new(IdType::DER_ASN1_DN, n.der()).to_vec(),
        Identity::KeyId(k) => Id::new(IdType::KEY_ID, k).to_vec(),
    }
}

/// The same for phase 1, with protocol and port (RFC 2407 section 4.6.2).
pub(crate) fn in_phase1(identity: &Identity, (protocol, port): (u8, u16)) -> Vec<u8> {
    let mut body = of_identity(identity);
    // In front of them stands the type.
    body[1] = protocol;
    body[2..4].copy_from_slice(&port.to_be_bytes());
    body
}

/// The identity in a payload; `None` for a type or form that we do not know.
pub(crate) fn to_identity(id: &Id<'_>) -> Option<Identity> {
    match id.kind {
        IdType::IPV4_ADDR | IdType::IPV6_ADDR => address(id.data).map(Identity::from_ip),
        IdType::FQDN => name(id.data).map(Identity::Fqdn),
        IdType::USER_FQDN => name(id.data).filter(|n| n.contains('@')).map(Identity::UserFqdn),
        IdType::DER_ASN1_DN if id.data.len() <= MAX_DN => DistinguishedName::from_der(id.data).ok().map(Identity::Dn),
        IdType::KEY_ID if (1..=MAX_NAME).contains(&id.data.len()) => Some(Identity::KeyId(id.data.to_vec())),
        _ => None,
    }
}

/// The body of an Identification payload that asks for a group.
pub(crate) fn of_group(group: &GroupId) -> Vec<u8> {
    match group {
        GroupId::Number(n) => Id::new(IdType::KEY_ID, &n.to_be_bytes()).to_vec(),
        GroupId::Ipv4(a) => Id::new(IdType::IPV4_ADDR, &a.octets()).to_vec(),
        GroupId::Ipv6(a) => Id::new(IdType::IPV6_ADDR, &a.octets()).to_vec(),
        GroupId::Fqdn(n) => Id::new(IdType::FQDN, n.as_bytes()).to_vec(),
        GroupId::UserFqdn(n) => Id::new(IdType::USER_FQDN, n.as_bytes()).to_vec(),
        GroupId::KeyId(k) => Id::new(IdType::KEY_ID, k).to_vec(),
        GroupId::Oid(name) => {
            let mut data = Vec::new();
            put_oid_name(&mut data, name);
            Id::new(IdType::OID, &data).to_vec()
        }
    }
}

/// The group that a payload asks for.
pub(crate) fn to_group(id: &Id<'_>) -> Option<GroupId> {
    match id.kind {
        IdType::IPV4_ADDR | IdType::IPV6_ADDR => address(id.data).map(|ip| match ip {
            IpAddr::V4(a) => GroupId::Ipv4(a),
            IpAddr::V6(a) => GroupId::Ipv6(a),
        }),
        IdType::FQDN => name(id.data).map(GroupId::Fqdn),
        IdType::USER_FQDN => name(id.data).filter(|n| n.contains('@')).map(GroupId::UserFqdn),
        IdType::KEY_ID if (1..=MAX_NAME).contains(&id.data.len()) => Some(GroupId::from_key_id(id.data)),
        IdType::OID => match oid_name(id.data) {
            Ok(([], name)) => Some(GroupId::Oid(name)),
            Ok(_) | Err(_) => None,
        },
        _ => None,
    }
}

/// An address of four or sixteen octets.
pub(crate) fn address(data: &[u8]) -> Option<IpAddr> {
    if let Ok(octets) = <[u8; 4]>::try_from(data) {
        return Some(IpAddr::V4(Ipv4Addr::from(octets)));
    }
    <[u8; 16]>::try_from(data).ok().map(|octets| IpAddr::V6(Ipv6Addr::from(octets)))
}

/// Printable text without spaces, so that it can stand in logs as it is.
fn name(data: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(data).ok()?;
    let sound = (1..=MAX_NAME).contains(&text.len()) && text.chars().all(|c| c.is_ascii_graphic());
    sound.then(|| text.to_owned())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use keyferry_wire::Decode;

    use super::*;

    #[test]
    fn identities_and_groups_survive_the_wire() {
        for text in
            ["10.1.2.3", "2001:db8::1", "fqdn:gm.example", "user:a@b.example", "dn:CN=gm1,O=Example", "key-id:00ff10"]
        {
            let identity: Identity = text.parse().unwrap();
            let body = of_identity(&identity);
            assert_eq!(to_identity(&Id::exact(&body).unwrap()), Some(identity));
        }
        for text in [
            "1234",
            "239.192.0.1",
            "ff15::1",
            "fqdn:group.example",
            "user:floor@example",
            "key-id:0102",
            "oid:1.2.3",
            "oid:1.2.3#0500",
        ] {
            let group: GroupId = text.parse().unwrap();
            let body = of_group(&group);
            assert_eq!(to_group(&Id::exact(&body).unwrap()), Some(group));
        }
    }

    #[test]
    fn the_group_of_rfc_8052_appendix_a() {
        let body = of_group(&"oid:1.2.840.10070.61850.8.1.2#0404e9fc0001".parse().unwrap());
        let expected = hex::decode("0d0000000d060b2a8648ce5683e31a08010200060404e9fc0001").unwrap();
        assert_eq!(body, expected);
        for end in 4..expected.len() {
            assert_eq!(to_group(&Id::exact(&expected[..end]).unwrap()), None, "{end} octets");
        }
        let more = [&expected[..], &[0]].concat();
        assert_eq!(to_group(&Id::exact(&more).unwrap()), None);
    }

    #[test]
    fn names_with_control_characters_are_refused() {
        assert_eq!(to_identity(&Id::new(IdType::FQDN, b"a\nb")), None);
        assert_eq!(to_identity(&Id::new(IdType::FQDN, b"")), None);
        assert_eq!(to_identity(&Id::new(IdType::USER_FQDN, b"nobody")), None);
    }
}
