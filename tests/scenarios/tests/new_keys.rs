//! IKE SAs that get new keys by several key exchanges, while groups are rekeyed over them.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use keyferry_model::id::Protocol;
use keyferry_model::policy::InBand;
use keyferry_model::update::MemberEvent;
use keyferry_scenarios::fleet::Fleet;
use keyferry_scenarios::net::Weather;
use keyferry_scenarios::policy::{self, NAME, Variant};

const OLD: [u8; 2] = [2, 3];
const NEW: [u8; 3] = [12, 13, 14];
const LIFETIME: Duration = Duration::from_secs(600);

/// ML-KEM-768 in fragments, in fair weather and foul: for two hours everybody hears everybody, nobody registers twice or loses
/// its IKE SA.
#[test]
fn members_in_band_are_members_through_new_keys() {
    let foul = Weather { loss: 100, repeat: 100, jitter: Duration::from_millis(200) };
    for (seed, weather) in [(1, Weather::default()), (2, foul)] {
        let variant = Variant { hybrid: Some(LIFETIME), ..Variant::default() };
        let mut policy = policy::group(variant);
        policy.gikev2.as_mut().unwrap().options.in_band = InBand::Everybody;
        let mut fleet = Fleet::with_policy(seed, variant, policy);
        fleet.join(OLD, Protocol::Gdoi);
        fleet.join(NEW, Protocol::Gikev2);
        fleet.run(Duration::from_secs(60));
        fleet.net.weather = weather;
        for _ in 0..12 {
            fleet.command(|g, now, rng| g.rekey(now, rng, NAME)).unwrap();
            fleet.run(LIFETIME);
        }
        fleet.net.weather = Weather::default();
        fleet.command(|g, now, rng| g.rekey(now, rng, NAME)).unwrap();
        fleet.run(Duration::from_secs(60));
        fleet.all_hear(&[OLD.as_slice(), NEW.as_slice()].concat()).unwrap();
        let gateway = fleet.gateway.as_ref().unwrap();
        let counters = gateway.counters().1;
        assert!(counters.rekeyed >= 12 * 3, "{counters:?}");
        assert_eq!((counters.established, counters.dead_peers, counters.lost), (3, 0, 0));
        for n in NEW {
            assert_eq!(fleet.count(n, |e| *e == MemberEvent::Registered), 1, "{n}");
            assert_eq!(fleet.count(n, |e| [MemberEvent::Disconnected, MemberEvent::Excluded].contains(e)), 0, "{n}");
        }
    }
}
