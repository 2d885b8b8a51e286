//! Each payload of G-IKEv2: what is taken means the same after encoding.

use gikev2::wire::{auth, cert, delete, gsa, id, kd, ke, nonce, notify, sa, ts, vendor};
use keyferry_wire::{Decode, Encode};

macro_rules! survives {
    ($kind:ty, $octets:expr) => {
        if let Ok(value) = <$kind>::exact($octets) {
            let again = value.to_vec();
            let back = <$kind>::exact(&again).expect("what was encoded decodes");
            // Compared as octets: what a transform says beyond our knowledge is noted, but not kept.
            assert_eq!(back.to_vec(), again, "and means the same");
        }
    };
}

/// Number of payloads.
pub const KINDS: u8 = 15;

/// The first octet says which payload, the others are its body.
pub fn target(data: &[u8]) {
    let Some((kind, body)) = data.split_first() else { return };
    match kind % KINDS {
        0 => survives!(auth::Auth<'_>, body),
        1 => survives!(auth::SignatureData<'_>, body),
        2 => survives!(delete::Delete<'_>, body),
        3 => survives!(gsa::Gsa<'_>, body),
        4 => survives!(id::Id<'_>, body),
        5 => survives!(kd::Kd<'_>, body),
        6 => survives!(kd::WrappedKey<'_>, body),
        7 => survives!(ke::Ke<'_>, body),
        8 => survives!(nonce::Nonce<'_>, body),
        9 => survives!(notify::Notify<'_>, body),
        10 => survives!(sa::Sa<'_>, body),
        11 => survives!(ts::TrafficSelector, body),
        12 => survives!(vendor::VendorId<'_>, body),
        13 => survives!(cert::Cert<'_>, body),
        _ => survives!(cert::CertRequest<'_>, body),
    }
}
