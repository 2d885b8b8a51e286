//! Each payload of GDOI: what is taken means the same after encoding.

use gdoi::wire::{cert, delete, gap, group_sa, id, kd, lkh, nonce, notification, opaque, proposal, sa, sak, sat, seq};
use keyferry_wire::{Decode, Encode};

macro_rules! survives {
    ($kind:ty, $octets:expr) => {
        if let Ok(value) = <$kind>::exact($octets) {
            let again = value.to_vec();
            let back = <$kind>::exact(&again).expect("what was encoded decodes");
            assert_eq!(back, value, "and means the same");
            assert_eq!(back.to_vec(), again);
        }
    };
}

/// Number of payloads.
pub const KINDS: u8 = 20;

/// The first octet says which payload, the others are its body.
pub fn target(data: &[u8]) {
    let Some((kind, body)) = data.split_first() else { return };
    match kind % KINDS {
        0 => survives!(seq::Seq, body),
        1 => survives!(delete::Delete<'_>, body),
        2 => survives!(gap::Gap<'_>, body),
        3 => group_sa(body),
        4 => survives!(id::Id<'_>, body),
        5 => survives!(kd::Kd<'_>, body),
        6 => survives!(lkh::DownloadArray<'_>, body),
        7 => survives!(lkh::UpdateArray<'_>, body),
        8 => survives!(notification::Notification<'_>, body),
        9 => survives!(nonce::Nonce<'_>, body),
        10 => survives!(opaque::Ke<'_>, body),
        11 => survives!(proposal::Proposal<'_>, body),
        12 => survives!(sa::Sa<'_>, body),
        13 => survives!(sat::Sat<'_>, body),
        14 => survives!(opaque::Hash<'_>, body),
        15 => survives!(opaque::Sig<'_>, body),
        16 => survives!(opaque::VendorId<'_>, body),
        18 => survives!(cert::Cert<'_>, body),
        19 => survives!(cert::CertRequest<'_>, body),
        _ => sak(body),
    }
}

/// What stands in the reserved octets of an SA KEK, which old senders used, may decide how its destination is read; so
/// octets made from it may read in the other way.
fn sak(body: &[u8]) {
    if let Ok(sak) = sak::Sak::exact(body) {
        assert!(sak::Sak::exact(&sak.to_vec()).is_ok());
    }
}

/// All but an SA KEK means the same.
fn group_sa(body: &[u8]) {
    let Ok(value) = group_sa::GroupSa::exact(body) else { return };
    let again = value.to_vec();
    let back = group_sa::GroupSa::exact(&again).expect("what was encoded decodes");
    let without = |sa: &group_sa::GroupSa<'_>| group_sa::GroupSa { sak: None, ..sa.clone() }.to_vec();
    assert_eq!(without(&back), without(&value));
    assert_eq!(back.sak.is_some(), value.sak.is_some());
}
