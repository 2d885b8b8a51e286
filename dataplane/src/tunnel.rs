//! What the outer header of a tunnel bears that is not the inner packet's (RFC 5374 section 3.1).

use std::net::IpAddr;

use keyferry_model::policy::AddressPreservation;
use keyferry_model::tunnel::Tunnel;

/// Addresses of an outer header; `None` repeats the inner one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Outer {
    pub(crate) source: Option<IpAddr>,
    pub(crate) destination: Option<IpAddr>,
}

impl Outer {
    pub(crate) fn of(preserved: AddressPreservation, tunnel: Tunnel) -> Self {
        Self {
            source: tunnel.local.filter(|_| !preserved.keeps_source()),
            destination: tunnel.remote.filter(|_| !preserved.keeps_destination()),
        }
    }
}
