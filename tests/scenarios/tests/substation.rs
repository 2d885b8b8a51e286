//! A substation: devices register for IEC 61850 streams by OID and follow the gateway through rekeys, a crash, an eviction.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use keyferry_model::id::{Identity, Protocol};
use keyferry_model::plan::RekeyReason;
use keyferry_model::update::MemberEvent;
use keyferry_scenarios::fleet::Fleet;
use keyferry_scenarios::policy::{Family, NAME, Variant};

const DEVICES: [u8; 4] = [11, 12, 13, 14];

fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// SPI, keys and told delivery of what a device learned last.
fn last(fleet: &Fleet, n: u8) -> Vec<(u32, Vec<u8>, Option<u8>)> {
    let update = fleet.nodes[&n].streams.last().unwrap();
    update.install.iter().map(|s| (s.spi, s.keymat.expose().to_vec(), s.delivered)).collect()
}

/// The keys that a device has ever had.
fn ever(fleet: &Fleet, n: u8) -> Vec<Vec<u8>> {
    let streams = fleet.nodes[&n].streams.iter().flat_map(|u| &u.install);
    streams.map(|s| s.keymat.expose().to_vec()).collect()
}

fn registered(variant: Variant) -> Fleet {
    let mut fleet = Fleet::new(61_850, variant);
    fleet.join(DEVICES, Protocol::Gdoi);
    fleet.run(secs(10));
    for n in DEVICES {
        assert_eq!(fleet.count(n, |e| *e == MemberEvent::Registered), 1, "{:?}", fleet.nodes[&n].events);
        assert_eq!((last(&fleet, n), last(&fleet, n).len()), (last(&fleet, 11), 2));
    }
    fleet
}

fn rekey(fleet: &mut Fleet) -> u64 {
    fleet.command(|g, now, rng| g.rekey(now, rng, NAME)).unwrap()
}

#[test]
fn devices_follow_rekeys_and_publishers_hear_how_far_they_have_come() {
    for variant in [
        Variant { substation: true, ..Variant::default() },
        Variant { substation: true, family: Family::V6, ..Variant::other() },
    ] {
        let mut fleet = registered(variant);
        let before = ever(&fleet, 11);
        let id = rekey(&mut fleet);
        // Everybody has acknowledged within the jitter; the report follows by itself, long before the new keys are used.
        fleet.run(secs(8));
        let rekeys = fleet.gateway.as_ref().unwrap().rekeys(NAME).unwrap();
        let (first, report) = (&rekeys[rekeys.len() - 2], &rekeys[rekeys.len() - 1]);
        assert_eq!((first.id, first.expected, first.acknowledged), (id, 4, 4), "{variant:?}");
        assert_eq!((report.reason, report.acknowledged), (RekeyReason::Assurance, 4));
        for n in DEVICES {
            let [(_, key, delivered)] = last(&fleet, n).try_into().unwrap();
            assert!(delivered == Some(100) && !before.contains(&key), "device {n}");
            assert_eq!(fleet.nodes[&n].streams.len(), 3);
        }
        fleet.run(secs(120));
        assert_eq!(fleet.gateway.as_ref().unwrap().rekeys(NAME).unwrap().len(), rekeys.len());
        assert_eq!(fleet.gateway.as_ref().unwrap().groups(fleet.now())[0].epochs.len(), 1, "old keys are gone");
    }
}

#[test]
fn a_device_that_hears_nothing_is_missing_in_the_report_and_a_crash_does_not_lose_it() {
    let mut fleet = registered(Variant { substation: true, ..Variant::default() });
    fleet.nodes.get_mut(&14).unwrap().unplugged = true;
    rekey(&mut fleet);
    fleet.run(secs(8));
    fleet.kill();
    fleet.run(secs(2));
    fleet.boot();
    // Nobody could answer meanwhile, so the time to do so has begun anew.
    fleet.run(secs(21));
    for n in [11, 12, 13] {
        let [(.., delivered)] = last(&fleet, n).try_into().unwrap();
        assert_eq!(delivered, Some(75), "device {n}");
    }
    assert_eq!(fleet.nodes[&14].streams.len(), 1);
}

#[test]
fn who_is_evicted_learns_no_later_keys() {
    let mut fleet = registered(Variant { substation: true, ..Variant::default() });
    let evicted = Identity::from_ip(Family::V4.host(13));
    fleet.command(|g, now, rng| g.evict(now, rng, NAME, &evicted)).unwrap();
    fleet.run(secs(30));
    rekey(&mut fleet);
    fleet.run(secs(30));
    assert_eq!(fleet.count(13, |e| *e == MemberEvent::Excluded), 1);
    assert!(fleet.count(13, |e| matches!(e, MemberEvent::Refused(_))) > 0, "it asks again, in vain");
    assert_eq!(ever(&fleet, 13).len(), 2, "what it registered for, and no more");
    for n in [11, 12, 14] {
        assert!(ever(&fleet, n).iter().skip(2).all(|key| !ever(&fleet, 13).contains(key)));
        assert_eq!(last(&fleet, n), last(&fleet, 11));
    }
}

#[test]
fn gikev2_members_are_turned_away_whole() {
    let mut fleet = Fleet::new(7, Variant { substation: true, ..Variant::default() });
    fleet.join([21], Protocol::Gikev2);
    fleet.run(secs(10));
    assert!(fleet.count(21, |e| matches!(e, MemberEvent::Refused(_))) > 0, "{:?}", fleet.nodes[&21].events);
    assert_eq!(fleet.count(21, |e| *e == MemberEvent::Registered), 0);
}
