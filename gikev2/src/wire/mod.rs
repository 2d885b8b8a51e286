//! Payloads of IKEv2 and G-IKEv2: a file per payload, its diagram above the struct.
//!
//! Decoding borrows, checks every length and refuses what is left over; encoding computes every length. Conversions to
//! the group model are in `policy`, never here.

pub mod auth;
pub mod cert;
pub mod delete;
pub mod gsa;
pub mod id;
pub mod kd;
pub mod ke;
pub mod message;
pub mod nonce;
pub mod notify;
pub mod redirect;
pub mod registry;
pub mod rekey_ack;
pub mod rules;
pub mod sa;
pub mod sk;
pub mod ticket;
pub mod ts;
pub mod vendor;

use keyferry_wire::Parsed;
use nom::error::{Error, ErrorKind};

/// The nom error for input that breaks a rule.
pub(crate) fn malformed(at: &[u8]) -> nom::Err<Error<&[u8]>> {
    nom::Err::Error(Error::new(at, ErrorKind::Verify))
}

/// Refuses input that breaks a rule.
pub(crate) fn fail<T>(at: &[u8]) -> Parsed<'_, T> {
    Err(malformed(at))
}

/// Puts the length of what begins at `start` into the two octets at `field`.
pub(crate) fn fits(out: &mut [u8], start: usize, field: usize) {
    // Structures are built from bounded parts; a payload that exceeds 65,535 octets is refused by the chain writer, and
    // the saturated length inside it never leaves.
    let len = u16::try_from(out.len() - start).unwrap_or(u16::MAX);
    out[field..field + 2].copy_from_slice(&len.to_be_bytes());
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(crate) mod testing {
    use std::fmt::Debug;

    use keyferry_wire::{Decode, Encode};

    /// Value to bytes to the same value; every truncation is an error.
    pub(crate) fn value_round_trip<T>(value: &T)
    where
        T: Encode + PartialEq + Debug,
        T: Rebind,
    {
        let bytes = value.to_vec();
        let again = T::parse(&bytes).unwrap();
        assert_eq!(format!("{again:?}"), format!("{value:?}"));
        for n in 0..bytes.len() {
            let _ = T::parse(&bytes[..n]);
        }
    }

    /// Canonical bytes to a value to those bytes.
    pub(crate) fn bytes_round_trip<T: Rebind>(hex_bytes: &str) {
        let bytes = hex::decode(hex_bytes.replace([' ', '\n'], "")).unwrap();
        let value = T::parse(&bytes).unwrap();
        assert_eq!(hex::encode(value.to_vec()), hex::encode(&bytes));
    }

    /// Types that decode with any lifetime.
    pub(crate) trait Rebind {
        type Of<'b>: Decode<'b> + Encode + Debug;
        fn parse(bytes: &[u8]) -> Result<Self::Of<'_>, keyferry_wire::DecodeError> {
            Self::Of::exact(bytes)
        }
    }

    macro_rules! rebind {
        ($($path:ident),*) => { $(impl Rebind for $path<'_> { type Of<'b> = $path<'b>; })* };
    }

    use super::{
        auth::Auth, cert::Cert, cert::CertRequest, delete::Delete, gsa::Gsa, id::Id, kd::Kd, ke::Ke, nonce::Nonce,
        notify::Notify, redirect::GatewayId, redirect::Redirect, sa::Sa, ticket::TicketGrant, vendor::VendorId,
    };
    rebind!(
        Auth,
        Cert,
        CertRequest,
        Delete,
        Gsa,
        Id,
        Kd,
        Ke,
        Nonce,
        Notify,
        GatewayId,
        Redirect,
        Sa,
        TicketGrant,
        VendorId
    );
    impl Rebind for super::ts::TrafficSelector {
        type Of<'b> = super::ts::TrafficSelector;
    }
}
