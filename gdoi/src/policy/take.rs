//! From payloads to the model: what a member takes from its key server, which it does not trust with its memory.
//!
//! Every algorithm must be known, every key have its length, every count its bound. Attributes that we do not know are
//! refused, as RFC 6407 sections 5.3.2 and 5.4 want.

mod decree;
mod download;

use std::collections::BTreeMap;

use keyferry_model::tunnel::Tunnel;
use keyferry_wire::Attribute;

pub(crate) use decree::one_sender;
pub(crate) use decree::{DataPolicy, Decree, KILOBYTE, MAX_LIFETIME, RekeyPolicy};
pub(crate) use download::{Download, KekSource, RekeyKeys, signature_key};

use crate::reject::Reject;
use crate::wire::registry::NotifyType;

/// What a member takes.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Taking {
    /// It wants to send.
    pub(crate) sender: bool,
    /// Rekey SAs with 3DES or SHA-1.
    pub(crate) weak: bool,
    /// Unknown attributes of an SA KEK.
    pub(crate) unknown_kek_attributes: bool,
    /// From a GROUPKEY-PULL, not from a push.
    pub(crate) registering: bool,
    /// Its ends of tunnels that do not preserve all addresses.
    pub(crate) tunnel: Tunnel,
}

pub(super) fn refused(what: &'static str) -> Reject {
    Reject::Unacceptable(what, NotifyType(13))
}

/// The value of each attribute of a list, by class; each may stand once.
pub(super) fn values<'a>(attributes: &[Attribute<'a>]) -> Result<BTreeMap<u16, Attribute<'a>>, Reject> {
    let mut map = BTreeMap::new();
    for a in attributes {
        if map.insert(a.kind, *a).is_some() {
            return Err(refused("an attribute twice"));
        }
    }
    Ok(map)
}

pub(super) fn take_u32(map: &mut BTreeMap<u16, Attribute<'_>>, kind: u16) -> Result<Option<u32>, Reject> {
    match map.remove(&kind) {
        Some(a) => a.as_u32().map(Some).ok_or(refused("value of an attribute")),
        None => Ok(None),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
