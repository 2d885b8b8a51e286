//! Each payload of G-IKEv2: what is taken means the same after encoding.

use gikev2::wire::rekey_ack::RekeyAck;
use gikev2::wire::{auth, cert, delete, gsa, id, kd, ke, nonce, notify, redirect, sa, ticket, ts, vendor};
use keyferry_crypto::Secret;
use keyferry_wire::{Decode, Encode, Header};

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

/// An acknowledgement of a rekey is a whole message, and its MAC is nobody's.
fn acknowledgement(datagram: &[u8]) {
    let Ok((header, _)) = Header::decode(datagram) else { return };
    if let Ok(ack) = RekeyAck::parse(&header, datagram) {
        assert!(!ack.is_of(&Secret::new(vec![0; 32])), "nobody has that key");
    }
}

/// Number of payloads.
pub const KINDS: u8 = 19;

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
        14 => survives!(cert::CertRequest<'_>, body),
        15 => acknowledgement(body),
        16 => survives!(redirect::GatewayId<'_>, body),
        17 => survives!(redirect::Redirect<'_>, body),
        _ => survives!(ticket::TicketGrant<'_>, body),
    }
}
