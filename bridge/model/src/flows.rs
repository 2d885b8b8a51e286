//! Which traffic a member lets its key server decide about (RFC 5374 sections 4.1.3.4 and 4.1.3.5).
//!
//! A key server that has been taken over could otherwise lead any traffic of its members into tunnels under its keys.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use crate::policy::{Selector, TrafficPolicy};
use crate::update::GroupUpdate;

/// Traffic from a network to a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    /// Senders; `None` is any.
    pub source: Option<Selector>,
    /// Receivers.
    pub destination: Selector,
}

impl Flow {
    /// From anybody to a network.
    #[must_use]
    pub fn to(address: IpAddr, prefix: u8) -> Self {
        Self { source: None, destination: Selector { address, prefix, protocol: 0, port: 0 } }
    }

    /// Does it hold all of what a policy is about?
    fn holds(&self, policy: &TrafficPolicy) -> bool {
        let within = |outer: &Selector, inner: &Selector| {
            let (first, last) = inner.range();
            outer.contains(first) && outer.contains(last)
        };
        within(&self.destination, &policy.destination) && self.source.is_none_or(|s| within(&s, &policy.source))
    }
}

/// The traffic that a key server may decide about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flows(pub Vec<Flow>);

impl Flows {
    /// Multicast of both IP versions.
    #[must_use]
    pub fn multicast() -> [Flow; 2] {
        let v4 = Flow::to(Ipv4Addr::new(224, 0, 0, 0).into(), 4);
        [v4, Flow::to(Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0).into(), 8)]
    }

    fn holds(&self, policy: &TrafficPolicy) -> bool {
        self.0.iter().any(|flow| flow.holds(policy))
    }

    /// Takes out of an update what is none of the key server's business, and tells what that was.
    pub fn confine(&self, update: &mut GroupUpdate) -> Vec<Arc<TrafficPolicy>> {
        let mut declined: Vec<Arc<TrafficPolicy>> =
            update.install.extract_if(.., |sa| !self.holds(&sa.policy)).map(|sa| sa.policy).collect();
        declined.dedup();
        declined
    }

    /// Does an update protect traffic, and none of it is the key server's business?
    #[must_use]
    pub fn hold_nothing_of(&self, update: &GroupUpdate) -> bool {
        !update.install.is_empty() && !update.install.iter().any(|sa| self.holds(&sa.policy))
    }
}

impl Default for Flows {
    /// Multicast alone.
    fn default() -> Self {
        Self(Self::multicast().to_vec())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::time::Duration;

    use keyferry_crypto::{Aead, Secret};

    use super::*;
    use crate::policy::{AddressPreservation, EspMode, EspTransform, SaDirection, SequenceNumbers};
    use crate::update::{NewSa, Removal};

    fn selector(text: &str) -> Selector {
        let (address, prefix) = text.split_once('/').unwrap();
        Selector { address: address.parse().unwrap(), prefix: prefix.parse().unwrap(), protocol: 0, port: 0 }
    }

    /// Is traffic between these networks taken?
    fn takes(flows: &Flows, source: &str, destination: &str) -> bool {
        let policy = TrafficPolicy {
            source: selector(source),
            destination: selector(destination),
            mode: EspMode::Tunnel,
            transform: EspTransform::Aead(Aead::Aes128Gcm16),
            sequence: SequenceNumbers::Unspecified,
            replay_window: 0,
            preservation: AddressPreservation::Both,
            only_sender: None,
            lifetime_octets: None,
        };
        let sa = NewSa {
            spi: 0x1001,
            policy: Arc::new(policy),
            keymat: Secret::new(vec![7; 20]),
            lifetime: Duration::from_secs(60),
            direction: SaDirection::Symmetric,
        };
        let mut update = GroupUpdate {
            install: vec![sa],
            remove: Removal::All,
            sender_ids: None,
            activation_delay: Duration::ZERO,
            deactivation_delay: Duration::ZERO,
        };
        let declined = flows.confine(&mut update);
        assert_eq!(declined.len() + update.install.len(), 1);
        declined.is_empty()
    }

    #[test]
    fn a_key_server_decides_about_multicast_alone_unless_told() {
        let flows = Flows::default();
        for (destination, taken) in [
            ("239.192.0.1/32", true),
            ("224.0.0.0/4", true),
            ("ff15::1/128", true),
            ("ff00::/8", true),
            ("192.0.0.0/2", false),
            ("0.0.0.0/0", false),
            ("10.0.0.0/8", false),
            ("240.0.0.0/4", false),
            ("::/0", false),
            ("fe00::/7", false),
        ] {
            let any = if destination.contains(':') { "::/0" } else { "0.0.0.0/0" };
            assert_eq!(takes(&flows, any, destination), taken, "{destination}");
        }
    }

    #[test]
    fn both_sides_must_lie_within_one_flow() {
        let flow = |source, destination| Flow { source: Some(selector(source)), destination: selector(destination) };
        let flows = Flows(vec![flow("10.1.0.0/16", "10.2.0.0/16"), flow("10.3.0.0/16", "239.0.0.0/8")]);
        assert!(takes(&flows, "10.1.7.0/24", "10.2.0.0/16"));
        assert!(takes(&flows, "10.3.0.1/32", "239.192.0.1/32"));
        assert!(!takes(&flows, "10.1.0.0/16", "239.192.0.1/32"), "half of one and half of another");
        assert!(!takes(&flows, "0.0.0.0/0", "10.2.0.0/16"), "any sender is more than was allowed");
        assert!(!takes(&flows, "10.0.0.0/15", "10.2.0.0/16"));
        assert!(!takes(&flows, "10.1.0.0/16", "10.2.0.0/15"));
        assert!(!takes(&Flows(Vec::new()), "10.1.0.0/16", "10.2.0.0/16"));
    }
}
