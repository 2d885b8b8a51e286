//! What the kernel would do unsafely or not at all, and so is refused before anything of an update is taken.

use std::net::IpAddr;

use keyferry_model::policy::{EspMode, SaDirection, Selector, SequenceNumbers, TrafficPolicy};

use super::algorithms;
use super::message::{Scope, unspecified};

/// What an engine wants of SAs.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rules {
    /// The member does not send.
    pub(super) receive_only: bool,
    /// Refuse also what the kernel does safely, but not as the RFCs want it.
    pub(super) strict: bool,
}

/// Says why an SA is not for the kernel, if so. What comes by it comes to so many addresses.
pub(super) fn refusal(
    policy: &TrafficPolicy,
    direction: SaDirection,
    addresses: usize,
    rules: Rules,
) -> Option<&'static str> {
    let sends = direction.sends() && !rules.receive_only;
    let keeps_source = policy.mode == EspMode::Tunnel && policy.preservation.keeps_source();
    if single(&policy.destination).is_none_or(|ip| !ip.is_multicast()) {
        // It finds states by one address. Traffic to others than groups would need routes into a device after a change.
        return Some("its destination is not one multicast address");
    }
    if algorithms::of(policy.transform).is_none() {
        return Some("the kernel has no such transform");
    }
    if scope_of(policy).is_none() {
        return Some("its selectors name two protocols");
    }
    if sends && policy.transform.is_counter_mode() {
        // The IV is the sequence number XOR a random constant: members, and this one after a restart, could repeat each other's.
        return Some("the kernel puts no sender ID into IVs (RFC 6054), so it must not send by a counter mode");
    }
    if sends && keeps_source && single(&policy.source).is_none() {
        return Some("its tunnel preserves the source, and the kernel's has one source only");
    }
    if policy.lifetime_octets.is_some() {
        return Some("its lifetime is one in octets, too");
    }
    let window = policy.sequence == SequenceNumbers::Sequential && policy.replay_window > 0;
    if direction.receives() && window && single(&policy.source).is_none() {
        return Some("it wants a replay window for each sender, and the kernel has one for all");
    }
    if direction.receives() && window && addresses > 1 {
        // What was taken at one address would be taken again at the other: nothing authenticates the outer header.
        return Some("its tunnel ends at two addresses, and the kernel has a replay window for each of them");
    }
    if direction.receives() && keeps_source && rules.strict {
        return Some(
            "the kernel does not compare the source outside of a tunnel with that inside (RFC 5374 section 5.2)",
        );
    }
    None
}

/// Which packets a policy is about, if any can be.
pub(super) fn scope_of(policy: &TrafficPolicy) -> Option<Scope> {
    let (source, destination) = (&policy.source, &policy.destination);
    let protocol = match (source.protocol, destination.protocol) {
        (0, protocol) | (protocol, 0) => protocol,
        (one, other) if one == other => one,
        (_, _) => return None,
    };
    let any = source.prefix == 0 && source.address.is_unspecified();
    let from = if any { unspecified(destination.address) } else { source.address };
    let port = |port: u16| (port > 0).then_some(port);
    Some(Scope {
        source: (from, source.prefix),
        destination: (destination.address, destination.prefix),
        protocol,
        ports: (port(source.port), port(destination.port)),
    })
}

/// The address of a selector that has only one.
pub(super) fn single(selector: &Selector) -> Option<IpAddr> {
    let (first, last) = selector.range();
    (first == last).then_some(first)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use keyferry_crypto::{Aead, AesCtr, BlockCipher, Integrity};
    use keyferry_model::policy::{AddressPreservation, EspTransform};

    use super::super::testing::{self, side};
    use super::*;

    /// What the kernel does well: CBC from anybody to a group, transport mode, no window.
    fn policy() -> TrafficPolicy {
        testing::policy(testing::GROUP, EspMode::Transport)
    }

    const LAX: Rules = Rules { receive_only: false, strict: false };
    const STRICT: Rules = Rules { receive_only: false, strict: true };
    const RECEIVER: Rules = Rules { receive_only: true, strict: true };

    fn symmetric(policy: &TrafficPolicy, rules: Rules) -> Option<&'static str> {
        refused(policy, SaDirection::Symmetric, rules)
    }

    /// Where what is received comes to one address.
    fn refused(policy: &TrafficPolicy, direction: SaDirection, rules: Rules) -> Option<&'static str> {
        refusal(policy, direction, 1, rules)
    }

    #[test]
    fn counter_modes_are_received_and_never_sent() {
        assert_eq!(symmetric(&policy(), STRICT), None);
        for transform in [
            EspTransform::Aead(Aead::Aes128Gcm16),
            EspTransform::Aead(Aead::Aes256Ccm16),
            EspTransform::Aead(Aead::ChaCha20Poly1305),
            EspTransform::Gmac(Aead::Aes128Gcm16),
            EspTransform::CtrHmac(AesCtr::Aes256Ctr, Integrity::HmacSha512_256),
        ] {
            // Even one sender: after a restart it has the same key and another constant.
            let policy = TrafficPolicy { transform, source: side("10.0.0.1", 32), ..policy() };
            assert!(symmetric(&policy, LAX).unwrap().contains("sender ID"), "{transform:?}");
            assert!(refused(&policy, SaDirection::SenderOnly, LAX).is_some());
            assert_eq!(refused(&policy, SaDirection::ReceiverOnly, LAX), None);
            assert_eq!(symmetric(&policy, RECEIVER), None);
        }
    }

    #[test]
    fn destinations_are_single_groups() {
        for (address, prefix, why) in [("239.192.0.0", 16, true), ("10.0.0.1", 32, true), ("ff15::1", 128, false)] {
            let policy = TrafficPolicy { destination: side(address, prefix), ..policy() };
            assert_eq!(symmetric(&policy, LAX).is_some(), why, "{address}");
        }
    }

    #[test]
    fn tunnels_have_one_source() {
        let tunnel = TrafficPolicy { mode: EspMode::Tunnel, ..policy() };
        assert!(symmetric(&tunnel, LAX).unwrap().contains("one source only"));
        assert_eq!(refused(&tunnel, SaDirection::ReceiverOnly, LAX), None);
        assert!(refused(&tunnel, SaDirection::ReceiverOnly, STRICT).unwrap().contains("RFC 5374"));
        let one = TrafficPolicy { source: side("10.0.0.1", 32), ..tunnel.clone() };
        assert_eq!(symmetric(&one, LAX), None);
        assert_eq!(refused(&one, SaDirection::SenderOnly, STRICT), None);
        let ours = TrafficPolicy { preservation: AddressPreservation::Destination, ..tunnel };
        assert_eq!(symmetric(&ours, STRICT), None);
    }

    #[test]
    fn a_window_is_for_one_sender() {
        let many = TrafficPolicy { sequence: SequenceNumbers::Sequential, replay_window: 128, ..policy() };
        assert!(symmetric(&many, LAX).unwrap().contains("replay window"));
        assert_eq!(refused(&many, SaDirection::SenderOnly, LAX), None);
        let one = TrafficPolicy { source: side("10.0.0.1", 32), ..many.clone() };
        assert_eq!(symmetric(&one, LAX), None);
        let none = TrafficPolicy { replay_window: 0, ..many };
        assert_eq!(symmetric(&none, LAX), None);
    }

    #[test]
    fn a_window_is_for_one_address() {
        let window = TrafficPolicy {
            sequence: SequenceNumbers::Sequential,
            replay_window: 128,
            source: side("10.0.0.1", 32),
            mode: EspMode::Tunnel,
            preservation: AddressPreservation::None,
            ..policy()
        };
        let two = |policy: &TrafficPolicy, direction| refusal(policy, direction, 2, LAX);
        for direction in [SaDirection::Symmetric, SaDirection::ReceiverOnly] {
            assert_eq!(refused(&window, direction, LAX), None);
            assert!(two(&window, direction).unwrap().contains("two addresses"), "{direction:?}");
        }
        assert_eq!(two(&window, SaDirection::SenderOnly), None);
        let none = TrafficPolicy { replay_window: 0, ..window };
        assert_eq!(two(&none, SaDirection::Symmetric), None);
    }

    #[test]
    fn what_the_kernel_has_no_name_for_is_refused() {
        let with = |transform| symmetric(&TrafficPolicy { transform, ..policy() }, RECEIVER);
        assert!(with(EspTransform::CbcHmac(BlockCipher::TripleDesCbc, Integrity::HmacSha1_96)).is_some());
        assert!(with(EspTransform::Gmac(Aead::ChaCha20Poly1305)).is_some());
        assert_eq!(with(EspTransform::NullHmac(Integrity::HmacSha384_192)), None);
        let octets = TrafficPolicy { lifetime_octets: Some(1 << 30), ..policy() };
        assert!(symmetric(&octets, RECEIVER).unwrap().contains("octets"));
        let mut two = policy();
        (two.source.protocol, two.destination.protocol) = (6, 17);
        assert!(symmetric(&two, LAX).unwrap().contains("two protocols"));
        two.source.protocol = 17;
        assert_eq!(symmetric(&two, LAX), None);
        assert_eq!(scope_of(&two).unwrap().protocol, 17);
    }
}
