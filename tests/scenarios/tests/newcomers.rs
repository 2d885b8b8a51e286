//! Backward access control in whole fleets: newcomers, lone or many at once, in any weather, over crashes of the gateway.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use keyferry_model::id::Protocol;
use keyferry_model::policy::{BackwardAccess, BackwardScope, GroupPolicy, KekManagement, Retransmit};
use keyferry_model::update::MemberEvent;
use keyferry_scenarios::fleet::Fleet;
use keyferry_scenarios::net::Weather;
use keyferry_scenarios::policy::{self, NAME, Variant};

const OLD: [u8; 4] = [11, 12, 21, 22];
const NEW: [(u8, Protocol); 2] = [(14, Protocol::Gdoi), (24, Protocol::Gikev2)];

fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

fn guarded(variant: Variant, scope: BackwardScope) -> GroupPolicy {
    let backward_access = Some(BackwardAccess { scope, gathering: secs(5) });
    GroupPolicy { backward_access, ..policy::group(variant) }
}

fn variants() -> [Variant; 3] {
    [Variant::default(), Variant { management: KekManagement::None, ..Variant::default() }, Variant::other()]
}

/// Members of both protocols that have been rekeyed since they came. In bad weather that takes its time, but far less than a
/// lifetime of the keys: who gives a registration up begins anew, and who gets an answer that is older than a rekey gets that, too.
fn assembled(seed: u64, variant: Variant, policy: GroupPolicy, weather: Weather) -> Fleet {
    let mut fleet = Fleet::with_policy(seed, variant, policy);
    fleet.net.weather = weather;
    let calm = weather.loss == 0;
    let gather = |fleet: &mut Fleet, calm_seconds: u64| {
        fleet.run(secs(if calm { calm_seconds } else { 300 }));
        fleet.all_hear(&OLD).unwrap();
    };
    fleet.join(OLD[..2].iter().copied(), Protocol::Gdoi);
    fleet.join(OLD[2..].iter().copied(), Protocol::Gikev2);
    gather(&mut fleet, 30);
    fleet.command(|g, now, rng| g.rekey(now, rng, NAME)).unwrap();
    gather(&mut fleet, 40);
    fleet
}

fn rekeys(fleet: &Fleet) -> u64 {
    fleet.gateway.as_ref().unwrap().groups(fleet.now())[0].rekeys
}

/// The rekey SA that somebody who joins now gets, as the gateway shows it when it has become that of all.
fn spi(fleet: &Fleet, protocol: Protocol) -> String {
    let group = &fleet.gateway.as_ref().unwrap().groups(fleet.now())[0];
    group.rekey_sas.iter().find(|sa| sa.protocol == protocol).unwrap().spi.clone()
}

#[test]
fn a_newcomer_hears_nothing_of_before_and_everything_after() {
    for (seed, variant) in (0..).zip(variants()) {
        for scope in [BackwardScope::Data, BackwardScope::Full] {
            for (n, protocol) in NEW {
                let mut fleet = assembled(seed, variant, guarded(variant, scope), Weather::default());
                let before: Vec<_> = OLD.iter().map(|from| (fleet.seal(*from).unwrap().0, *from)).collect();
                let (planned, under) = (rekeys(&fleet), spi(&fleet, protocol));
                fleet.join([n], protocol);
                for half_seconds in 0..90 {
                    fleet.run(Duration::from_millis(500));
                    // The roll-over costs nobody a packet, and the newcomer does not understand what was said before it.
                    fleet.all_hear(&OLD).unwrap();
                    for (packet, from) in &before {
                        let heard = fleet.open(packet, *from);
                        assert!(!heard.contains(&n), "{variant:?} {scope:?}: {n} opens what {from} sent before it");
                    }
                    if half_seconds == 5 {
                        assert_eq!(fleet.count(n, |e| *e == MemberEvent::Registered), 1);
                        assert!(fleet.talk(n).is_err(), "it has no keys yet");
                    }
                }
                fleet.all_hear(&[11, 12, 21, 22, n]).unwrap();
                assert_eq!(rekeys(&fleet), planned + 1, "one rekey lets it in");
                assert_eq!(fleet.count(n, |e| *e == MemberEvent::Registered), 1);
                assert!(OLD.iter().all(|n| fleet.count(*n, |e| *e == MemberEvent::Registered) == 1));
                // Under the rekey SA of the newcomer nothing was sent before, if that is asked for.
                assert_eq!(spi(&fleet, protocol) != under, scope == BackwardScope::Full, "{variant:?} {scope:?}");
            }
        }
    }
}

/// What the test above looks for is there to be found.
#[test]
fn without_it_a_newcomer_hears_what_was_sent_under_the_present_keys() {
    let variant = Variant::default();
    let mut fleet = assembled(1, variant, policy::group(variant), Weather::default());
    let (packet, from) = (fleet.seal(11).unwrap().0, 11);
    fleet.join([14], Protocol::Gdoi);
    fleet.run(secs(3));
    assert!(fleet.open(&packet, from).contains(&14));
}

#[test]
fn a_fleet_that_starts_at_once_shares_a_few_rekeys() {
    for scope in [BackwardScope::Data, BackwardScope::Full] {
        let variant = Variant::default();
        let mut fleet = Fleet::with_policy(3, variant, guarded(variant, scope));
        fleet.join(10..40, Protocol::Gdoi);
        fleet.join(40..70, Protocol::Gikev2);
        fleet.run(secs(40));
        let all: Vec<u8> = (10..70).collect();
        fleet.all_hear(&all).unwrap();
        assert!(rekeys(&fleet) <= 2, "{} rekeys", rekeys(&fleet));
        assert!(all.iter().all(|n| fleet.count(*n, |e| *e == MemberEvent::Registered) == 1));
    }
}

/// A newcomer that misses the rekey asks again before long. There are so many copies that no rekey is lost altogether.
#[test]
fn bad_weather_keeps_no_newcomer_out() {
    for seed in 0..8 {
        let variant = if seed % 2 == 0 { Variant::default() } else { Variant::other() };
        let weather = Weather { loss: 250, repeat: 200, jitter: Duration::from_millis(400) };
        let retransmit = Retransmit { copies: 7, interval: secs(1) };
        let policy = GroupPolicy { retransmit, ..guarded(variant, BackwardScope::Full) };
        let mut fleet = assembled(seed, variant, policy, weather);
        for (n, protocol) in NEW {
            fleet.join([n], protocol);
        }
        fleet.run(secs(300));
        fleet.all_hear(&[11, 12, 21, 22, 14, 24]).unwrap();
    }
}

/// Nothing that a rekey would have brought reaches it: all copies are lost.
#[test]
fn who_misses_the_rekey_that_lets_it_in_asks_again() {
    for (n, protocol) in NEW {
        let variant = Variant::default();
        let mut fleet = assembled(4, variant, guarded(variant, BackwardScope::Full), Weather::default());
        fleet.join([n], protocol);
        fleet.run(secs(3));
        fleet.nodes.get_mut(&n).unwrap().unplugged = true;
        fleet.run(secs(30));
        fleet.nodes.get_mut(&n).unwrap().unplugged = false;
        assert!(fleet.talk(n).is_err());
        fleet.run(secs(200));
        assert_eq!(fleet.count(n, |e| *e == MemberEvent::Registered), 2);
        fleet.all_hear(&[11, 12, 21, 22, n]).unwrap();
    }
}

/// The gateway dies after each single output of the rekey that lets newcomers in, and while they wait for it.
#[test]
fn a_crash_keeps_no_newcomer_out_and_cuts_nobody_off() {
    for outputs in 0..10 {
        let variant = Variant::default();
        let mut fleet = assembled(5, variant, guarded(variant, BackwardScope::Full), Weather::default());
        let before: Vec<_> = OLD.iter().map(|from| (fleet.seal(*from).unwrap().0, *from)).collect();
        for (n, protocol) in NEW {
            fleet.join([n], protocol);
        }
        fleet.run(secs(3));
        if outputs > 0 {
            fleet.command_only(|g, now, rng| g.rekey(now, rng, NAME)).unwrap();
        }
        fleet.kill_after(outputs);
        fleet.run(secs(4));
        fleet.boot();
        for _ in 0..80 {
            fleet.run(Duration::from_millis(500));
            fleet.all_hear(&OLD).unwrap();
            for (packet, from) in &before {
                assert!(fleet.open(packet, *from).iter().all(|n| OLD.contains(n)));
            }
        }
        fleet.all_hear(&[11, 12, 21, 22, 14, 24]).unwrap();
    }
}

/// Who is evicted while newcomers wait is left out, and they are let in.
#[test]
fn an_eviction_while_newcomers_wait_does_both() {
    for (seed, variant) in (0..).zip(variants()) {
        let mut fleet = assembled(seed, variant, guarded(variant, BackwardScope::Full), Weather::default());
        for (n, protocol) in NEW {
            fleet.join([n], protocol);
        }
        fleet.run(secs(2));
        for n in [12, 22] {
            let member = keyferry_model::id::Identity::from_ip(variant.family.host(n));
            fleet.command(|g, now, rng| g.evict(now, rng, NAME, &member)).unwrap();
        }
        fleet.run(secs(120));
        fleet.all_hear(&[11, 21, 14, 24]).unwrap();
        for from in [11, 21, 14, 24] {
            let heard = fleet.talk(from).unwrap();
            assert!(!heard.contains(&12) && !heard.contains(&22), "{variant:?}");
        }
    }
}
