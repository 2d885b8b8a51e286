use std::time::Duration;

use keyferry_crypto::{Aead, Secret};
use keyferry_model::flows::Flow;
use keyferry_model::policy::{
    AddressPreservation, EspMode, EspTransform, SaDirection, Selector, SequenceNumbers, TrafficPolicy,
};
use keyferry_model::update::{NewSa, Removal};

use super::*;

const NOW: Now = Now { mono: Duration::from_secs(50), wall: Duration::from_secs(1_000_000) };

fn selector(address: [u8; 4], prefix: u8) -> Selector {
    Selector { address: address.into(), prefix, protocol: 0, port: 0 }
}

/// An SA for traffic to each of these networks.
fn update(destinations: &[([u8; 4], u8)]) -> GroupUpdate {
    let sa = |(spi, (address, prefix)): (u32, &([u8; 4], u8))| NewSa {
        spi,
        policy: Arc::new(TrafficPolicy {
            source: selector([0; 4], 0),
            destination: selector(*address, *prefix),
            mode: EspMode::Tunnel,
            transform: EspTransform::Aead(Aead::Aes128Gcm16),
            sequence: SequenceNumbers::Unspecified,
            replay_window: 0,
            preservation: AddressPreservation::Both,
            only_sender: None,
            lifetime_octets: None,
        }),
        keymat: Secret::new(vec![7; 20]),
        lifetime: Duration::from_secs(60),
        direction: SaDirection::Symmetric,
    };
    GroupUpdate {
        install: (0x1001..).zip(destinations).map(sa).collect(),
        remove: Removal::All,
        sender_ids: None,
        activation_delay: Duration::ZERO,
        deactivation_delay: Duration::ZERO,
    }
}

/// A group without a TUN device refuses all SAs that reach it, and says how many.
fn group(accept: Flows) -> Joined {
    let streams = StreamKeys::new(None, "7".to_owned(), false);
    Joined { id: GroupId::Number(7), plane: None, streams, accept, replay_window: 64, problem: None, registered: false }
}

/// RFC 5374 section 4.1.3.5: what is none of the key server's business reaches no data plane, and the reason is told.
#[tokio::test]
async fn policies_outside_of_accept_traffic_reach_no_data_plane() {
    let (ours, theirs, other) = (([239, 192, 0, 1], 32), ([10, 2, 0, 0], 16), ([10, 3, 0, 0], 16));
    let mut joined = group(Flows::default());
    let problem = joined.update(update(&[theirs, other]), NOW).await.unwrap().unwrap();
    assert!(problem.contains("2 kinds of traffic that accept_traffic does not name"), "{problem}");
    assert!(problem.contains("0.0.0.0/0 to 10.2.0.0/16"), "{problem}");
    let refused = joined.update(update(&[theirs, ours, other]), NOW).await.unwrap_err();
    assert!(refused.contains("protects traffic, 1 SAs,"), "{refused}");
    let mut joined = group(Flows(vec![Flow::to([10, 2, 0, 0].into(), 16)]));
    let refused = joined.update(update(&[theirs]), NOW).await.unwrap_err();
    assert!(refused.contains("protects traffic, 1 SAs,"), "{refused}");
    let problem = joined.update(update(&[ours]), NOW).await.unwrap().unwrap();
    assert!(problem.contains("0.0.0.0/0 to 239.192.0.1/32"), "{problem}");
}

#[test]
fn windows_have_the_size_that_the_member_wants_where_there_are_any() {
    let mut update = update(&[([239, 192, 0, 1], 32), ([239, 192, 0, 2], 32)]);
    let one = Arc::make_mut(&mut update.install[1].policy);
    (one.sequence, one.replay_window) = (SequenceNumbers::Sequential, 64);
    size_windows(&mut update, 1_024);
    let of = |at: usize| (update.install[at].policy.sequence, update.install[at].policy.replay_window);
    assert_eq!((of(0), of(1)), ((SequenceNumbers::Unspecified, 0), (SequenceNumbers::Sequential, 1_024)));
}
