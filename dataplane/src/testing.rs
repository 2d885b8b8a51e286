//! Policies for the tests of this crate's modules.
#![allow(clippy::unwrap_used)]

use keyferry_model::policy::{AddressPreservation, EspMode, EspTransform, Selector, SequenceNumbers, TrafficPolicy};

/// A network, whatever the protocol and port.
pub(crate) fn side(address: &str, prefix: u8) -> Selector {
    Selector { address: address.parse().unwrap(), prefix, protocol: 0, port: 0 }
}

/// Any address of IPv4.
pub(crate) fn any() -> Selector {
    side("0.0.0.0", 0)
}

/// A line of a group's policy without replay protection, whose tunnel preserves both addresses.
pub(crate) fn policy(source: Selector, destination: Selector, mode: EspMode, transform: EspTransform) -> TrafficPolicy {
    TrafficPolicy {
        source,
        destination,
        mode,
        transform,
        sequence: SequenceNumbers::Unspecified,
        replay_window: 0,
        preservation: AddressPreservation::Both,
        only_sender: None,
        lifetime_octets: None,
    }
}
