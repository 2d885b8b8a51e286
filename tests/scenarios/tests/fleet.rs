//! Whole fleets of both protocols: registration, rekeys, restart, moving, eviction, in any weather.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use keyferry_crypto::Aead;
use keyferry_gateway::Delete;
use keyferry_model::id::{Identity, Protocol};
use keyferry_model::policy::{EspMode, EspTransform};
use keyferry_model::update::MemberEvent;
use keyferry_model::view::MemberState;
use keyferry_scenarios::fleet::Fleet;
use keyferry_scenarios::net::Weather;
use keyferry_scenarios::policy::{Family, NAME, Variant};

const GDOI: [u8; 3] = [11, 12, 13];
const GIKEV2: [u8; 3] = [21, 22, 23];
const ALL: [u8; 6] = [11, 12, 13, 21, 22, 23];

fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

fn assembled(seed: u64, variant: Variant, weather: Weather) -> Fleet {
    let mut fleet = Fleet::new(seed, variant);
    fleet.net.weather = weather;
    fleet.join(GDOI, Protocol::Gdoi);
    fleet.join(GIKEV2, Protocol::Gikev2);
    fleet.run(secs(if weather.loss == 0 { 10 } else { 120 }));
    fleet.all_hear(&ALL).unwrap();
    fleet
}

fn rekey(fleet: &mut Fleet) -> u64 {
    fleet.command(|g, now, rng| g.rekey(now, rng, NAME)).unwrap()
}

fn identity(v: Variant, n: u8) -> Identity {
    Identity::from_ip(v.family.host(n))
}

/// Lets time pass in small steps and checks at each that everybody hears everybody.
fn run_hearing(fleet: &mut Fleet, members: &[u8], time: u64) {
    for _ in 0..time * 2 {
        fleet.run(Duration::from_millis(500));
        fleet.all_hear(members).unwrap();
    }
}

fn variants() -> [Variant; 4] {
    let transport = Variant {
        mode: EspMode::Transport,
        transform: EspTransform::Aead(Aead::Aes256Gcm16),
        multicast: false,
        ..Variant::default()
    };
    let v6 = Variant { family: Family::V6, ke: keyferry_crypto::KeGroup::Ecp384, ..Variant::default() };
    [Variant::default(), transport, v6, Variant::other()]
}

#[test]
fn old_and_new_members_talk_through_rekeys() {
    for (i, variant) in variants().into_iter().enumerate() {
        let mut fleet = assembled(i as u64, variant, Weather::default());
        for _ in 0..3 {
            let id = rekey(&mut fleet);
            run_hearing(&mut fleet, &ALL, 35);
            let rekeys = fleet.gateway.as_ref().unwrap().rekeys(NAME).unwrap();
            let last = rekeys.last().unwrap();
            assert_eq!((last.id, last.expected, last.acknowledged), (id, 3, 3), "{variant:?}");
        }
        let group = &fleet.gateway.as_ref().unwrap().groups(fleet.now())[0];
        assert_eq!(group.epochs.iter().map(|e| e.number).collect::<Vec<_>>(), [4]);
        for n in ALL {
            assert_eq!(fleet.count(n, |e| *e == MemberEvent::Registered), 1);
        }
    }
}

#[test]
fn bad_weather_delays_but_loses_nobody() {
    for seed in 0..6 {
        let weather = Weather { loss: 250, repeat: 200, jitter: Duration::from_millis(400) };
        let mut fleet = assembled(seed, Variant::default(), weather);
        for _ in 0..3 {
            rekey(&mut fleet);
            fleet.run(secs(40));
        }
        // Four copies at a quarter lost each: a member misses a rekey once in 256. Whoever did registers anew in time.
        fleet.net.weather = Weather::default();
        fleet.run(secs(4000));
        fleet.all_hear(&ALL).unwrap();
    }
}

#[test]
fn a_restart_goes_on_where_it_was() {
    let mut fleet = assembled(1, Variant::default(), Weather::default());
    rekey(&mut fleet);
    run_hearing(&mut fleet, &ALL, 30);
    let before = fleet.gateway.as_ref().unwrap().groups(fleet.now())[0].clone();
    fleet.kill();
    run_hearing(&mut fleet, &ALL, 20);
    fleet.boot();
    let after = fleet.gateway.as_ref().unwrap().groups(fleet.now())[0].clone();
    assert_eq!(after.epochs[0].spis, before.epochs[0].spis);
    assert_eq!(after.next_sender_id, before.next_sender_id);
    assert_eq!((after.gdoi_members, after.gikev2_members), (3, 3));
    for (a, b) in after.rekey_sas.iter().zip(&before.rekey_sas) {
        assert_eq!((&a.spi, a.sent), (&b.spi, b.sent));
    }
    rekey(&mut fleet);
    run_hearing(&mut fleet, &ALL, 30);
    fleet.run(secs(300));
    for n in ALL {
        assert_eq!(fleet.count(n, |e| *e == MemberEvent::Registered), 1, "member {n} had no reason to register anew");
    }
}

/// The gateway restarts and has members register anew, over IKE SAs that it has lost: it says so, and they need not wait until
/// their requests have been repeated for two minutes.
#[test]
fn members_of_gikev2_find_out_in_seconds_that_the_gateway_has_restarted() {
    let weather = Weather { loss: 100, repeat: 100, jitter: Duration::from_millis(200) };
    for (seed, weather) in [Weather::default(), weather].into_iter().enumerate() {
        let mut fleet = Fleet::new(seed as u64, Variant::default());
        fleet.join(GIKEV2, Protocol::Gikev2);
        fleet.run(secs(5));
        fleet.kill();
        fleet.run(secs(5));
        fleet.net.weather = weather;
        fleet.boot();
        fleet.command(|g, now, rng| g.delete(now, rng, NAME, Delete::All)).unwrap();
        fleet.run(secs(60));
        for n in GIKEV2 {
            let times = fleet.count(n, |e| *e == MemberEvent::Registered);
            assert_eq!(times, 2, "member {n}: {:?}", fleet.nodes[&n].events);
        }
        fleet.all_hear(&GIKEV2).unwrap();
    }
}

/// The gateway dies after each single output of a rekey in turn: nobody is cut off, and it never sends what it has not stored.
#[test]
fn a_crash_within_a_rekey_loses_nobody() {
    for outputs in 0..16 {
        let mut fleet = assembled(2, Variant::default(), Weather::default());
        let member = identity(Variant::default(), 13);
        fleet.command_only(|g, now, rng| g.evict(now, rng, NAME, &member)).unwrap();
        fleet.kill_after(outputs);
        fleet.run(secs(3));
        fleet.boot();
        if outputs == 0 {
            // Nothing was durable: the eviction never happened and is asked for again.
            fleet.command(|g, now, rng| g.evict(now, rng, NAME, &member)).unwrap();
        }
        let rest = [11, 12, 21, 22, 23];
        run_hearing(&mut fleet, &rest, 40);
        for from in rest {
            assert!(!fleet.talk(from).unwrap().contains(&13), "killed after {outputs} outputs");
        }
    }
}

#[test]
fn an_evicted_member_opens_nothing_afterwards_and_stays_out() {
    for (i, variant) in variants().into_iter().enumerate() {
        for (n, protocol) in [(12, Protocol::Gdoi), (22, Protocol::Gikev2)] {
            let mut fleet = assembled(i as u64, variant, Weather::default());
            let member = identity(variant, n);
            fleet.command(|g, now, rng| g.evict(now, rng, NAME, &member)).unwrap();
            let rest: Vec<u8> = ALL.into_iter().filter(|m| *m != n).collect();
            run_hearing(&mut fleet, &rest, 11);
            // Senders have switched. The evicted one still has all it ever had, and gets every datagram.
            for from in &rest {
                assert!(!fleet.talk(*from).unwrap().contains(&n), "{variant:?}: {n} still hears {from}");
            }
            fleet.run(secs(4000));
            fleet.all_hear(&rest).unwrap();
            for from in &rest {
                assert!(!fleet.talk(*from).unwrap().contains(&n));
            }
            assert!(fleet.count(n, |e| matches!(e, MemberEvent::Refused(_))) > 0, "{protocol}: it tried to come back");
            let members = fleet.gateway.as_ref().unwrap().members(None).unwrap();
            let (_, view) = members.iter().find(|(_, m)| m.identity == member).unwrap();
            assert_eq!(view.state, MemberState::Evicted);
        }
    }
}

#[test]
fn a_member_moves_and_comes_back_without_losing_a_packet() {
    let mut fleet = assembled(3, Variant::default(), Weather::default());
    for (protocol, registered) in [(Protocol::Gikev2, 2), (Protocol::Gdoi, 3)] {
        fleet.move_to(12, protocol);
        run_hearing(&mut fleet, &ALL, 5);
        assert_eq!(fleet.count(12, |e| *e == MemberEvent::Registered), registered);
        rekey(&mut fleet);
        run_hearing(&mut fleet, &ALL, 30);
    }
    let members = fleet.gateway.as_ref().unwrap().members(Some(NAME)).unwrap();
    let (_, view) = members.iter().find(|(_, m)| m.identity == identity(Variant::default(), 12)).unwrap();
    assert_eq!((view.protocol, &view.history[..]), (Protocol::Gdoi, &[Protocol::Gdoi, Protocol::Gikev2][..]));
}

#[test]
fn who_moved_and_is_evicted_follows_neither_protocol() {
    let mut fleet = assembled(4, Variant::default(), Weather::default());
    fleet.move_to(12, Protocol::Gikev2);
    fleet.run(secs(5));
    let member = identity(Variant::default(), 12);
    fleet.command(|g, now, rng| g.evict(now, rng, NAME, &member)).unwrap();
    fleet.run(secs(40));
    assert!(!fleet.talk(11).unwrap().contains(&12));
    fleet.all_hear(&[11, 13, 21, 22, 23]).unwrap();
}

#[test]
fn keys_roll_over_by_themselves_for_two_days() {
    let mut fleet =
        assembled(5, Variant::default(), Weather { loss: 50, repeat: 50, jitter: Duration::from_millis(50) });
    for _ in 0..96 {
        fleet.run(secs(1800));
        fleet.all_hear(&ALL).unwrap();
    }
    let group = &fleet.gateway.as_ref().unwrap().groups(fleet.now())[0];
    assert!(group.rekeys >= 48, "{} rekeys in two days of one-hour keys", group.rekeys);
}

#[test]
fn a_member_that_leaves_is_left_out() {
    for n in [12, 22] {
        let mut fleet = assembled(6, Variant::default(), Weather::default());
        fleet.leave(n);
        fleet.run(secs(60));
        assert_eq!(fleet.count(n, |e| *e == MemberEvent::Left), 1);
        let rest: Vec<u8> = ALL.into_iter().filter(|m| *m != n).collect();
        fleet.all_hear(&rest).unwrap();
        // Its data plane was not told to forget anything, and it still gets every rekey.
        for from in &rest {
            assert!(!fleet.talk(*from).unwrap().contains(&n), "{n} left and still hears {from}");
        }
    }
}

#[test]
fn exhausted_sender_ids_reset_the_group_and_all_come_back() {
    let variant = Variant { sender_id_bits: 3, ..Variant::default() };
    let mut fleet = assembled(7, variant, Weather::default());
    fleet.join([31, 32], Protocol::Gikev2);
    fleet.run(secs(10));
    let before = fleet.gateway.as_ref().unwrap().groups(fleet.now())[0].clone();
    assert_eq!(before.sender_ids_left, 0);
    let (old, _) = fleet.seal(11).unwrap();
    // A ninth ID is wanted: everything is deleted, and everybody registers anew under new keys.
    fleet.move_to(11, Protocol::Gikev2);
    fleet.run(secs(60));
    let after = fleet.gateway.as_ref().unwrap().groups(fleet.now())[0].clone();
    assert_ne!(after.epochs[0].spis, before.epochs[0].spis);
    assert_eq!(after.sender_ids_left, 0);
    fleet.all_hear(&[11, 12, 13, 21, 22, 23, 31, 32]).unwrap();
    assert!(fleet.open(&old, 11).is_empty(), "nobody keeps a key of before");
}
