//! Groups whose policy changes, whose keys are deleted, and whose members fall silent.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use keyferry_crypto::{Aead, BlockCipher, Hash};
use keyferry_gateway::Delete;
use keyferry_model::id::{Identity, Protocol};
use keyferry_model::policy::{AckType, EspTransform, GdoiRekey, GroupPolicy, KekManagement, TrafficPolicy};
use keyferry_model::update::MemberEvent;
use keyferry_model::view::{GroupView, MemberState, MemberView, RekeyView};
use keyferry_scenarios::fleet::Fleet;
use keyferry_scenarios::net::Weather;
use keyferry_scenarios::policy::{self, NAME, Variant};

const GDOI: [u8; 3] = [11, 12, 13];
const GIKEV2: [u8; 3] = [21, 22, 23];
const ALL: [u8; 6] = [11, 12, 13, 21, 22, 23];

fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

fn assembled(seed: u64, variant: Variant, policy: GroupPolicy, weather: Weather) -> Fleet {
    let mut fleet = Fleet::with_policy(seed, variant, policy);
    fleet.net.weather = weather;
    fleet.join(GDOI, Protocol::Gdoi);
    fleet.join(GIKEV2, Protocol::Gikev2);
    fleet.run(secs(if weather.loss == 0 { 10 } else { 120 }));
    fleet.all_hear(&ALL).unwrap();
    fleet
}

fn fair(seed: u64, variant: Variant, policy: GroupPolicy) -> Fleet {
    assembled(seed, variant, policy, Weather::default())
}

fn identity(n: u8) -> Identity {
    Identity::from_ip(Variant::default().family.host(n))
}

fn run_hearing(fleet: &mut Fleet, members: &[u8], time: u64) {
    for _ in 0..time * 2 {
        fleet.run(Duration::from_millis(500));
        fleet.all_hear(members).unwrap();
    }
}

fn registrations(fleet: &Fleet) -> [usize; 6] {
    ALL.map(|n| fleet.count(n, |e| *e == MemberEvent::Registered))
}

fn group(fleet: &Fleet) -> GroupView {
    fleet.gateway.as_ref().unwrap().groups(fleet.now()).remove(0)
}

fn last_rekey(fleet: &Fleet) -> RekeyView {
    fleet.gateway.as_ref().unwrap().rekeys(NAME).unwrap().pop().unwrap()
}

fn view(fleet: &Fleet, n: u8) -> MemberView {
    let members = fleet.gateway.as_ref().unwrap().members(None).unwrap();
    members.into_iter().map(|(_, m)| m).find(|m| m.identity == identity(n)).unwrap()
}

fn rekey(fleet: &mut Fleet) -> u64 {
    fleet.command(|g, now, rng| g.rekey(now, rng, NAME)).unwrap()
}

/// The policy with another transform, one more line, and other lifetimes.
fn other_lines(base: &GroupPolicy) -> GroupPolicy {
    let line = (*base.traffic[0]).clone();
    let strong = TrafficPolicy { transform: EspTransform::Aead(Aead::Aes256Gcm16), ..line.clone() };
    let mut other = TrafficPolicy { destination: line.destination, ..line };
    other.destination.address = "239.192.0.9".parse().unwrap();
    GroupPolicy { traffic: vec![Arc::new(strong), Arc::new(other)], tek_lifetime: secs(1800), ..base.clone() }
}

#[test]
fn a_policy_changes_under_traffic_without_loss() {
    for restart in [false, true] {
        for variant in [Variant::default(), Variant { multicast: false, ..Variant::default() }] {
            let mut fleet = fair(1, variant, policy::group(variant));
            let before = group(&fleet).epochs[0].spis.clone();
            // There and back again.
            for to in [other_lines(&policy::group(variant)), policy::group(variant)] {
                fleet.policy = to.clone();
                if restart {
                    fleet.kill();
                    run_hearing(&mut fleet, &ALL, 3);
                    fleet.boot();
                } else {
                    assert_eq!(fleet.reload().changed, [NAME]);
                }
                run_hearing(&mut fleet, &ALL, 40);
                let epochs = group(&fleet).epochs;
                assert_eq!(epochs.iter().map(|e| e.spis.len()).collect::<Vec<_>>(), [to.traffic.len()]);
                assert!(epochs[0].spis.iter().all(|spi| !before.contains(spi)));
                assert!(epochs[0].remaining <= to.tek_lifetime.as_secs());
                assert_eq!(last_rekey(&fleet).acknowledged, 3);
            }
            assert_eq!(registrations(&fleet), [1; 6], "nobody had to register anew");
            // Nothing is left to be told.
            assert!(fleet.reload().changed.is_empty());
        }
    }
}

#[test]
fn a_new_kek_algorithm_is_told_without_loss() {
    for restart in [false, true] {
        let variant = Variant::default();
        let mut fleet = fair(2, variant, policy::group(variant));
        let base = policy::group(variant);
        let gdoi = base.gdoi.clone().map(|g| GdoiRekey { cipher: BlockCipher::Aes128Cbc, ..g });
        fleet.policy = GroupPolicy { gdoi, ..base };
        if restart {
            fleet.kill();
            fleet.boot();
        } else {
            fleet.reload();
        }
        run_hearing(&mut fleet, &ALL, 40);
        rekey(&mut fleet);
        run_hearing(&mut fleet, &ALL, 40);
        assert_eq!(last_rekey(&fleet).acknowledged, 3);
        assert_eq!(registrations(&fleet), [1; 6]);
        // The keys of the old tree do not fit the new cipher: an eviction sends those who have no other to register.
        fleet.command(|g, now, rng| g.evict(now, rng, NAME, &identity(12))).unwrap();
        fleet.run(secs(40));
        let rest = [11, 13, 21, 22, 23];
        fleet.all_hear(&rest).unwrap();
        assert!(rest.iter().all(|n| !fleet.talk(*n).unwrap().contains(&12)));
    }
}

#[test]
fn a_policy_change_survives_bad_weather() {
    for seed in 0..4 {
        let weather = Weather { loss: 250, repeat: 200, jitter: Duration::from_millis(400) };
        let mut fleet = assembled(seed, Variant::default(), policy::group(Variant::default()), weather);
        fleet.policy = other_lines(&policy::group(Variant::default()));
        fleet.reload();
        fleet.run(secs(40));
        fleet.net.weather = Weather::default();
        fleet.run(secs(4000));
        fleet.all_hear(&ALL).unwrap();
    }
}

/// Whatever the margin, the KEK is replaced 200 s before it expires, and nobody notices.
#[test]
fn the_kek_rolls_over_200_seconds_before_its_end() {
    let variant = Variant::default();
    let life = secs(1900);
    let policy =
        GroupPolicy { tek_lifetime: life, kek_lifetime: life, rekey_margin: secs(20), ..policy::group(variant) };
    let mut fleet = fair(3, variant, policy);
    let keks = |fleet: &Fleet| group(fleet).rekey_sas.into_iter().map(|r| r.spi).collect::<Vec<_>>();
    let before = keks(&fleet);
    fleet.run(life - secs(10 + 201));
    assert_eq!(keks(&fleet), before);
    run_hearing(&mut fleet, &ALL, 30);
    assert!(keks(&fleet).iter().all(|spi| !before.contains(spi)));
    assert_eq!(last_rekey(&fleet).acknowledged, 3);
    run_hearing(&mut fleet, &ALL, 300);
    assert_eq!(registrations(&fleet), [1; 6]);
}

/// Members that know no LKH: whoever is evicted is told like the others that everything is deleted, and is refused afterwards.
#[test]
fn without_a_tree_an_evicted_member_stays_out_and_the_others_come_back() {
    for multicast in [true, false] {
        let variant = Variant { management: KekManagement::None, multicast, ..Variant::default() };
        let mut fleet = fair(4, variant, policy::group(variant));
        rekey(&mut fleet);
        run_hearing(&mut fleet, &ALL, 40);
        fleet.command(|g, now, rng| g.evict(now, rng, NAME, &identity(12))).unwrap();
        // Members of the other protocol do not notice.
        run_hearing(&mut fleet, &GIKEV2, 11);
        fleet.run(secs(20));
        let rest = [11, 13, 21, 22, 23];
        fleet.all_hear(&rest).unwrap();
        for from in rest {
            assert!(!fleet.talk(from).unwrap().contains(&12));
        }
        fleet.run(secs(4000));
        fleet.all_hear(&rest).unwrap();
        assert!(rest.iter().all(|n| !fleet.talk(*n).unwrap().contains(&12)));
        assert!(fleet.count(12, |e| matches!(e, MemberEvent::Refused(_))) > 0);
        assert_eq!(view(&fleet, 12).state, MemberState::Evicted);
        assert_eq!(GIKEV2.map(|n| fleet.count(n, |e| *e == MemberEvent::Registered)), [1; 3]);
    }
}

/// Who has missed a rekey gets it once more when its time to acknowledge has passed.
#[test]
fn who_missed_a_rekey_is_sent_it_once_more() {
    for multicast in [true, false] {
        let variant = Variant { multicast, ..Variant::default() };
        // It switches as long after the message as others did, who must understand it until then.
        let policy = GroupPolicy { ack_resend: true, deactivation_delay: secs(30), ..policy::group(variant) };
        let mut fleet = fair(5, variant, policy);
        fleet.nodes.get_mut(&12).unwrap().unplugged = true;
        let id = rekey(&mut fleet);
        fleet.run(secs(8));
        fleet.nodes.get_mut(&12).unwrap().unplugged = false;
        fleet.run(secs(10));
        let last = last_rekey(&fleet);
        assert_eq!((last.id, last.expected, last.acknowledged), (id, 3, 3));
        fleet.all_hear(&ALL).unwrap();
        run_hearing(&mut fleet, &ALL, 30);
        assert_eq!(registrations(&fleet), [1; 6]);
        assert_eq!(view(&fleet, 12).missed, 0);
    }
}

#[test]
fn who_stops_acknowledging_is_evicted() {
    let variant = Variant { ack: AckType::Lkh(Hash::Sha256), ..Variant::default() };
    let mut fleet = fair(6, variant, GroupPolicy { evict_after_misses: Some(2), ..policy::group(variant) });
    rekey(&mut fleet);
    fleet.run(secs(40));
    fleet.nodes.get_mut(&12).unwrap().unplugged = true;
    for misses in 1..=2 {
        assert_eq!(view(&fleet, 12).state, MemberState::Active);
        rekey(&mut fleet);
        // The gateway dies meanwhile.
        fleet.run(secs(5));
        fleet.kill();
        fleet.boot();
        fleet.run(secs(35));
        assert!(view(&fleet, 12).missed >= misses);
    }
    assert_eq!(view(&fleet, 12).state, MemberState::Evicted);
    let rest = [11, 13, 21, 22, 23];
    run_hearing(&mut fleet, &rest, 20);
    fleet.nodes.get_mut(&12).unwrap().unplugged = false;
    fleet.run(secs(60));
    assert!(rest.iter().all(|n| !fleet.talk(*n).unwrap().contains(&12)));
    assert_eq!(ALL.map(|n| view(&fleet, n).missed > 0), [false, true, false, false, false, false]);
}

/// A gateway that dies between planning a rekey and sending it, and comes back late: what it sends then tells no lifetime that
/// is too long by much, or is followed at once by a rekey that does not.
#[test]
fn a_rekey_that_a_restart_delays_is_followed_by_another() {
    for (down, old_is_sent) in [(3, true), (100, true), (600, false)] {
        let variant = Variant::default();
        let mut fleet = fair(7, variant, policy::group(variant));
        rekey(&mut fleet);
        fleet.run(secs(40));
        let id = fleet.command_only(|g, now, rng| g.evict(now, rng, NAME, &identity(12))).unwrap();
        // Durable, and not sent.
        fleet.kill_after(1);
        let sent = fleet.net.log.len();
        fleet.run(secs(down));
        fleet.boot();
        let stored: Vec<&String> = fleet.store.keys().filter(|k| k.contains(&format!("{id:020}"))).collect();
        assert_eq!(!stored.is_empty(), old_is_sent, "after {down} s");
        fleet.run(secs(40));
        let rekeys = fleet.gateway.as_ref().unwrap().rekeys(NAME).unwrap();
        assert_eq!(rekeys.last().unwrap().id, if down == 3 { id } else { id + 1 });
        assert!(fleet.net.log.len() > sent);
        let rest = [11, 13, 21, 22, 23];
        if old_is_sent {
            fleet.all_hear(&rest).unwrap();
        }
        // Whom it did not reach registers anew before its keys run out.
        fleet.run(secs(3600));
        fleet.all_hear(&rest).unwrap();
        assert!(rest.iter().all(|n| !fleet.talk(*n).unwrap().contains(&12)));
    }
}

/// Everybody sends all the time, through each way in which keys are replaced or deleted, and crashes between: no nonce is used
/// twice with one key.
#[test]
fn no_nonce_repeats_whatever_is_deleted() {
    let mut fleet = fair(8, Variant::default(), policy::group(Variant::default()));
    let mut nonces = BTreeSet::new();
    let mut sent = 0;
    let mut send = |fleet: &mut Fleet| {
        for n in ALL {
            for _ in 0..3 {
                // Between two registrations a member may have no keys.
                let Ok((packet, spi)) = fleet.seal(n) else { continue };
                // Behind the outer header and that of ESP.
                assert!(nonces.insert((spi, packet[28..36].to_vec())), "a nonce is used twice");
                sent += 1;
            }
        }
    };
    for round in 0..10 {
        match round {
            0 | 5 => drop(fleet.command(|g, now, rng| g.delete(now, rng, NAME, Delete::All))),
            1 => drop(fleet.command(|g, now, rng| g.delete(now, rng, NAME, Delete::Kek))),
            2 => drop(fleet.command(|g, now, rng| g.delete(now, rng, NAME, Delete::Teks))),
            3 => fleet.move_to(12, Protocol::Gikev2),
            4 => drop(rekey(&mut fleet)),
            6 => {
                fleet.policy.sender_id_bits = 12;
                fleet.reload();
            }
            7 => {
                fleet.command_only(|g, now, rng| g.delete(now, rng, NAME, Delete::All)).unwrap();
                fleet.kill_after(1);
                fleet.boot();
            }
            _ => fleet.move_to(12, Protocol::Gdoi),
        }
        // Until a G-IKEv2 member gives up an IKE SA that the gateway has forgotten.
        for step in 0..120 {
            if step == 2 && round % 2 == 0 {
                fleet.kill();
                fleet.boot();
            }
            send(&mut fleet);
            fleet.run(secs(2));
        }
        fleet.all_hear(&ALL).unwrap();
    }
    assert!(sent > 4000, "{sent}");
}

/// Deleted traffic keys are out of use at once; deleted rekey SAs leave GDOI's members their traffic.
#[test]
fn deletes_do_what_they_say() {
    let variant = Variant::default();
    let mut fleet = fair(9, variant, policy::group(variant));
    let (old, spi) = fleet.seal(11).unwrap();
    fleet.command(|g, now, rng| g.delete(now, rng, NAME, Delete::Teks)).unwrap();
    fleet.run(secs(1));
    fleet.all_hear(&ALL).unwrap();
    assert_ne!(fleet.seal(11).unwrap().1, spi);
    assert!(fleet.open(&old, 11).is_empty());
    fleet.run(secs(30));
    assert_eq!(registrations(&fleet), [1; 6]);
    let keks = |fleet: &Fleet| group(fleet).rekey_sas.into_iter().map(|r| r.spi).collect::<Vec<_>>();
    let before = keks(&fleet);
    fleet.command(|g, now, rng| g.delete(now, rng, NAME, Delete::Kek)).unwrap();
    run_hearing(&mut fleet, &GDOI, 30);
    fleet.all_hear(&ALL).unwrap();
    assert_eq!(registrations(&fleet), [2; 6]);
    assert!(keks(&fleet).iter().all(|spi| !before.contains(spi)));
    assert_eq!(last_rekey(&fleet).acknowledged, 3, "a Delete is acknowledged too");
    fleet.command(|g, now, rng| g.delete(now, rng, NAME, Delete::All)).unwrap();
    fleet.run(secs(30));
    fleet.all_hear(&ALL).unwrap();
    assert_eq!(registrations(&fleet), [3; 6]);
}

#[test]
fn a_group_that_is_configured_no_more_ends_for_its_members() {
    let variant = Variant::default();
    let mut fleet = fair(10, variant, policy::group(variant));
    let credentials = policy::credentials(variant.family);
    let reloaded = fleet.command(|g, now, rng| g.reload(now, rng, Vec::new(), credentials)).unwrap();
    assert_eq!(reloaded.removed, [NAME]);
    fleet.run(secs(20));
    for n in ALL {
        assert!(fleet.seal(n).is_err(), "{n} was told that everything is deleted");
    }
    // It comes back as it was, and nobody is known to be a member.
    let back = fleet.reload();
    assert_eq!((back.added, back.changed), (vec![NAME.to_owned()], vec![]));
    fleet.run(secs(200));
    fleet.all_hear(&ALL).unwrap();
    // Its records are those of one group still.
    fleet.kill();
    fleet.boot();
    fleet.run(secs(20));
    fleet.all_hear(&ALL).unwrap();
}
