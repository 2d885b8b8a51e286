//! Payloads of ISAKMP (RFC 2408), its use by IKEv1 (RFC 2407, RFC 2409) and GDOI (RFC 6407): syntax only.
//!
//! A file per payload. Each type is the payload's body, without the generic header, which `keyferry_wire::chain` takes
//! off. Lengths are computed, never stored; unknown numbers survive decoding. What a value means is decided in
//! `policy` and in the state machines.

pub mod cert;
pub mod delete;
pub mod endpoint;
pub mod fragment;
pub mod gap;
pub mod group_sa;
pub mod id;
pub mod iec61850;
pub mod kd;
pub mod lkh;
pub mod nonce;
pub mod notification;
pub(crate) mod oid;
pub mod opaque;
pub mod proposal;
pub mod registry;
pub mod rules;
pub mod sa;
pub mod sak;
pub mod sat;
pub mod seq;

use keyferry_wire::{Attribute, AttributeValue, Parsed, attributes, put_long, put_short};
use nom::Parser;
use nom::bytes::complete::take;
use nom::error::{Error, ErrorKind};
use nom::number::complete::{be_u8, be_u16};

/// The error of a value that has the right form but may not stand here.
fn refuse<T>(input: &[u8]) -> Parsed<'_, T> {
    Err(nom::Err::Error(Error::new(input, ErrorKind::Verify)))
}

/// Takes one structure with a generic header (RFC 2408 section 3.2): the type of the next one, and the body.
fn substructure(input: &[u8]) -> Parsed<'_, (u8, &[u8])> {
    let (left, (next, _reserved, length)) = (be_u8, be_u8, be_u16).parse(input)?;
    let Some(length) = length.checked_sub(4) else { return refuse(input) };
    let (left, body) = take(length)(left)?;
    Ok((left, (next, body)))
}

/// Takes all that is left as data attributes (RFC 2408 section 3.3).
fn all_attributes(input: &[u8]) -> Parsed<'_, Vec<Attribute<'_>>> {
    match attributes(input) {
        Ok(list) => Ok((&input[input.len()..], list)),
        Err(_) => refuse(input),
    }
}

fn put_attributes(out: &mut Vec<u8>, list: &[Attribute<'_>]) {
    for attribute in list {
        match attribute.value {
            AttributeValue::Short(v) => put_short(out, attribute.kind, v),
            AttributeValue::Long(v) => put_long(out, attribute.kind, v),
        }
    }
}

/// Appends a length-prefixed structure: `write` fills it in, and the two octets at `at` from its start get its length.
///
/// A structure that outgrows 65,535 octets gets the length 0xffff, which no receiver takes for valid; the payload
/// around it is refused by `ChainWriter` for its size before that matters.
fn with_length(out: &mut Vec<u8>, at: usize, write: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    write(out);
    let length = u16::try_from(out.len() - start).unwrap_or(u16::MAX);
    out[start + at..start + at + 2].copy_from_slice(&length.to_be_bytes());
}

#[cfg(test)]
pub(crate) mod check {
    use keyferry_wire::{Decode, Encode};

    /// Value to octets to value, and those octets again.
    pub(crate) fn round_trip<'a, T>(value: &T, octets: &'a mut Vec<u8>)
    where
        T: Decode<'a> + Encode + PartialEq + std::fmt::Debug,
    {
        *octets = value.to_vec();
        let octets: &'a [u8] = octets;
        let back = T::exact(octets).expect("what was encoded decodes");
        assert_eq!(&back, value);
        assert_eq!(back.to_vec(), octets);
    }

    /// Canonical octets to value to those octets; every truncation and every octet more is refused or differs.
    pub(crate) fn canonical<'a, T>(octets: &'a [u8]) -> T
    where
        T: Decode<'a> + Encode + PartialEq + std::fmt::Debug,
    {
        let value = T::exact(octets).expect("canonical octets decode");
        assert_eq!(value.to_vec(), octets);
        for end in 0..octets.len() {
            if let Ok(shorter) = T::exact(&octets[..end]) {
                assert_ne!(shorter, value);
            }
        }
        value
    }
}

#[cfg(test)]
mod tests {
    use keyferry_wire::{Decode, Encode};
    use proptest::prelude::*;

    use super::*;

    /// What is taken means the same after encoding; what is not is refused without harm.
    macro_rules! survives {
        ($octets:expr, $($kind:ty),*) => {
            $(if let Ok(value) = <$kind>::exact($octets) {
                let again = value.to_vec();
                prop_assert!(<$kind>::exact(&again).is_ok_and(|v| v.to_vec() == again), stringify!($kind));
            })*
        };
    }

    proptest! {
        #[test]
        fn any_octets_are_survived(octets in prop::collection::vec(prop_oneof![4 => Just(0u8), 4 => 0u8..20, 2 => any::<u8>()], 0..160)) {
            survives!(&octets, seq::Seq, cert::Cert<'_>, cert::CertRequest<'_>, delete::Delete<'_>, gap::Gap<'_>, group_sa::GroupSa<'_>, id::Id<'_>, kd::Kd<'_>,
                lkh::DownloadArray<'_>, lkh::UpdateArray<'_>, notification::Notification<'_>, nonce::Nonce<'_>,
                iec61850::StreamTek<'_>,
                fragment::Fragment<'_>, opaque::Ke<'_>, proposal::Proposal<'_>, sa::Sa<'_>, sat::Sat<'_>);
            // What stands in the reserved octets of an SA KEK, which old senders used, may decide how its destination is
            // read; so octets made from it may read in the other way.
            if let Ok(sak) = sak::Sak::exact(&octets) {
                let again = sak.to_vec();
                prop_assert!(sak::Sak::exact(&again).is_ok());
            }
        }
    }
}
