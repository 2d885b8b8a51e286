//! What the outer header of a tunnel bears that is not the inner packet's (RFC 5374 section 3.1).

use std::net::IpAddr;

use keyferry_model::policy::AddressPreservation;
use keyferry_model::tunnel::Tunnel;

use crate::sizes::DontFragment;

/// Addresses of an outer header, where `None` repeats the inner one, and its DF bit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Outer {
    pub(crate) source: Option<IpAddr>,
    pub(crate) destination: Option<IpAddr>,
    pub(crate) dont_fragment: DontFragment,
}

impl Outer {
    pub(crate) fn of(preserved: AddressPreservation, tunnel: Tunnel, dont_fragment: DontFragment) -> Self {
        Self {
            source: tunnel.local.filter(|_| !preserved.keeps_source()),
            destination: tunnel.remote.filter(|_| !preserved.keeps_destination()),
            dont_fragment,
        }
    }
}
