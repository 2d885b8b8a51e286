//! An OID with its OID-specific payload, inside ID_OID and inside the SA TEK of IEC 61850.

use keyferry_model::oid::{MAX_PAYLOAD, Oid, OidName};
use keyferry_wire::Parsed;
use nom::Parser;
use nom::bytes::complete::take;
use nom::multi::length_data;
use nom::number::complete::{be_u8, be_u16};

use super::refuse;

/// Takes an OID with its payload (RFC 8052 section 2.1). The OID must be DER, tag and length included.
///
/// ```text
///  0                   1                   2                   3
///  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// !  OID Length   !                       OID                     ~
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// !  OID-Specific Payload Length  !     OID-Specific Payload      ~
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// ```
pub(crate) fn oid_name(input: &[u8]) -> Parsed<'_, OidName> {
    let (left, (der, length)) = (length_data(be_u8), be_u16).parse(input)?;
    let Some(oid) = Oid::from_der(der) else { return refuse(input) };
    if usize::from(length) > MAX_PAYLOAD {
        return refuse(left);
    }
    let (left, payload) = take(length)(left)?;
    Ok((left, OidName { oid, payload: payload.to_vec() }))
}

/// Appends an OID with its payload, of which there are at most 512 octets.
pub(crate) fn put_oid_name(out: &mut Vec<u8>, name: &OidName) {
    let der = name.oid.to_der();
    out.push(u8::try_from(der.len()).unwrap_or(u8::MAX));
    out.extend_from_slice(&der);
    out.extend_from_slice(&u16::try_from(name.payload.len()).unwrap_or(u16::MAX).to_be_bytes());
    out.extend_from_slice(&name.payload);
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn lengths_must_fit() {
        let mut octets = Vec::new();
        put_oid_name(&mut octets, &"1.2.840#0500".parse().unwrap());
        assert_eq!(octets, [5, 6, 3, 0x2a, 0x86, 0x48, 0, 2, 5, 0]);
        assert_eq!(oid_name(&octets).unwrap(), (&[][..], "1.2.840#0500".parse().unwrap()));
        for end in 0..octets.len() {
            assert!(oid_name(&octets[..end]).is_err(), "{end} octets");
        }
        for (at, value) in [(0, 4), (0, 6), (1, 5), (2, 2), (6, 2), (7, 3)] {
            let mut changed = octets.clone();
            changed[at] = value;
            assert!(oid_name(&changed).is_err(), "{value} at {at}");
        }
        let long = [&octets[..6], &[2, 1], &[0; 513]].concat();
        assert!(oid_name(&long).is_err(), "a payload that nobody needs");
    }
}
