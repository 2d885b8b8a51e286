//! Which way the SAs of each policy go for this member.
//!
//! A registration tells it to each member (RFC 6407 section 5.5.1.1.2); a push is for all of them, so it cannot: a sender must
//! not become a receiver by it, nor a receiver a sender.

use std::sync::Arc;

use keyferry_model::policy::{SaDirection, Selector};
use keyferry_model::update::NewSa;

use crate::policy::take::one_sender;

/// The policies of which a registration said that they go one way.
#[derive(Debug, Default)]
pub(crate) struct Roles(Vec<(Selector, Selector, SaDirection)>);

impl Roles {
    pub(crate) fn of(data: &[NewSa]) -> Self {
        let mut roles = Self::default();
        // Of two SAs with the same selectors the later is the newer.
        for sa in data.iter().rev() {
            if roles.get(sa).is_none() {
                roles.0.push((sa.policy.source, sa.policy.destination, sa.direction));
            }
        }
        roles.0.retain(|(_, _, direction)| *direction != SaDirection::Symmetric);
        roles
    }

    fn get(&self, sa: &NewSa) -> Option<SaDirection> {
        let of = |(source, destination, _): &&(Selector, Selector, SaDirection)| {
            (source, destination) == (&sa.policy.source, &sa.policy.destination)
        };
        self.0.iter().find(of).map(|(_, _, direction)| *direction)
    }

    /// Holds SAs that a push brings to what the registration said.
    pub(crate) fn keep(&self, data: &mut [NewSa]) {
        for sa in data {
            if let Some(direction) = self.get(sa) {
                sa.direction = direction;
                one_sender(Arc::make_mut(&mut sa.policy));
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::time::Duration;

    use keyferry_crypto::{Aead, Secret};
    use keyferry_model::policy::{AddressPreservation, EspMode, EspTransform, SequenceNumbers, TrafficPolicy};

    use super::*;

    fn sa(group: &str, direction: SaDirection) -> NewSa {
        let selector = |ip: &str, prefix| Selector { address: ip.parse().unwrap(), prefix, protocol: 0, port: 0 };
        let policy = TrafficPolicy {
            source: selector("0.0.0.0", 0),
            destination: selector(group, 32),
            mode: EspMode::Tunnel,
            transform: EspTransform::Aead(Aead::Aes128Gcm16),
            sequence: SequenceNumbers::Unspecified,
            replay_window: 0,
            preservation: AddressPreservation::Both,
            only_sender: None,
            lifetime_octets: None,
        };
        let (keymat, lifetime) = (Secret::new(vec![7; 20]), Duration::from_secs(60));
        NewSa { spi: 0x1001, policy: Arc::new(policy), keymat, lifetime, direction }
    }

    #[test]
    fn what_a_registration_said_outlives_what_pushes_say() {
        use SaDirection::{ReceiverOnly, SenderOnly, Symmetric};
        let told = [
            sa("239.192.0.1", Symmetric),
            sa("239.192.0.1", ReceiverOnly),
            sa("239.192.0.2", SenderOnly),
            sa("239.192.0.3", ReceiverOnly),
            sa("239.192.0.3", Symmetric),
        ];
        let roles = Roles::of(&told);
        for (group, pushed, kept) in [
            ("239.192.0.1", Symmetric, ReceiverOnly),
            ("239.192.0.1", SenderOnly, ReceiverOnly),
            ("239.192.0.2", Symmetric, SenderOnly),
            ("239.192.0.2", ReceiverOnly, SenderOnly),
            ("239.192.0.3", Symmetric, Symmetric),
            ("239.192.0.3", ReceiverOnly, ReceiverOnly),
            ("239.192.0.4", Symmetric, Symmetric),
        ] {
            let mut install = [sa(group, pushed)];
            roles.keep(&mut install);
            assert_eq!(install[0].direction, kept, "{group} {pushed:?}");
            let windowed = install[0].policy.sequence == SequenceNumbers::Sequential;
            assert_eq!(windowed, roles.get(&install[0]).is_some(), "{group}");
        }
    }
}
