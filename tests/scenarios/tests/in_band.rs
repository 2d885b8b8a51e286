//! Groups whose senders, or all of whose members, are rekeyed over their IKE SAs, beside members of GDOI.

use std::time::Duration;

use keyferry_model::id::{Identity, Protocol};
use keyferry_model::policy::InBand;
use keyferry_model::update::MemberEvent;
use keyferry_model::view::RekeyView;
use keyferry_scenarios::fleet::Fleet;
use keyferry_scenarios::net::Weather;
use keyferry_scenarios::policy::{self, NAME, Variant};

const OLD: [u8; 3] = [2, 3, 4];
const NEW: [u8; 3] = [12, 13, 14];

fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

fn assembled(seed: u64, in_band: InBand, weather: Weather) -> Fleet {
    let variant = Variant::default();
    let mut policy = policy::group(variant);
    policy.gikev2.as_mut().expect("the group serves G-IKEv2").options.in_band = in_band;
    let mut fleet = Fleet::with_policy(seed, variant, policy);
    fleet.net.weather = weather;
    fleet.join(OLD, Protocol::Gdoi);
    fleet.join(NEW, Protocol::Gikev2);
    fleet.run(secs(60));
    fleet
}

fn rekey(fleet: &mut Fleet) -> RekeyView {
    fleet.command(|g, now, rng| g.rekey(now, rng, NAME)).expect("the group is there");
    fleet.run(secs(45));
    fleet.command(|g, _, _| g.rekeys(NAME)).expect("the group is there").pop().expect("a rekey")
}

fn everybody() -> Vec<u8> {
    OLD.into_iter().chain(NEW).collect()
}

#[test]
fn members_in_band_talk_to_all_others_through_rekeys() {
    for in_band in [InBand::Senders, InBand::Everybody] {
        let mut fleet = assembled(3, in_band, Weather::default());
        fleet.all_hear(&everybody()).unwrap();
        for _ in 0..3 {
            fleet.command(|g, now, rng| g.rekey(now, rng, NAME)).expect("the group is there");
            // Through the activation delay and the deactivation delay.
            for _ in 0..90 {
                fleet.run(Duration::from_millis(500));
                fleet.all_hear(&everybody()).unwrap();
            }
            let entry = fleet.command(|g, _, _| g.rekeys(NAME)).expect("the group is there").pop().expect("a rekey");
            let acked =
                |n: u8| entry.acks.iter().any(|a| a.identity == Identity::from_ip(Variant::default().family.host(n)));
            assert!(NEW.into_iter().all(acked), "the answers are evidence: {entry:?}");
        }
    }
}

#[test]
fn bad_weather_delays_rekeys_in_band_and_loses_nobody() {
    let weather = Weather { loss: 200, repeat: 100, jitter: Duration::from_millis(300) };
    let mut fleet = assembled(8, InBand::Senders, weather);
    fleet.run(secs(120));
    for _ in 0..4 {
        fleet.command(|g, now, rng| g.rekey(now, rng, NAME)).expect("the group is there");
        fleet.run(secs(200));
    }
    fleet.net.weather = Weather::default();
    fleet.run(secs(300));
    fleet.all_hear(&NEW).unwrap();
}

#[test]
fn a_restart_ends_ike_sas_and_members_in_band_come_back() {
    let mut fleet = assembled(5, InBand::Everybody, Weather::default());
    rekey(&mut fleet);
    fleet.kill();
    fleet.run(secs(5));
    fleet.boot();
    fleet.run(secs(240));
    for n in NEW {
        assert!(fleet.count(n, |e| matches!(e, MemberEvent::Excluded)) > 0, "{n} has lost its IKE SA");
    }
    fleet.all_hear(&everybody()).unwrap();
    rekey(&mut fleet);
    fleet.all_hear(&everybody()).unwrap();
}

#[test]
fn an_evicted_sender_opens_nothing_afterwards() {
    let mut fleet = assembled(6, InBand::Senders, Weather::default());
    let gone = Identity::from_ip(Variant::default().family.host(12));
    fleet.command(|g, now, rng| g.evict(now, rng, NAME, &gone)).expect("it is a member");
    fleet.run(secs(45));
    let (packet, _) = fleet.seal(13).expect("a member sends");
    let heard = fleet.open(&packet, 13);
    assert!(!heard.contains(&12) && heard.contains(&14) && heard.contains(&2), "{heard:?}");
    fleet.run(secs(120));
    assert!(fleet.count(12, |e| matches!(e, MemberEvent::Refused(_))) > 0);
}

#[test]
fn those_who_stay_talk_through_an_eviction() {
    for in_band in [InBand::Senders, InBand::Everybody] {
        let mut fleet = assembled(9, in_band, Weather::default());
        let gone = Identity::from_ip(Variant::default().family.host(12));
        fleet.command(|g, now, rng| g.evict(now, rng, NAME, &gone)).expect("it is a member");
        for _ in 0..90 {
            fleet.run(Duration::from_millis(500));
            fleet.all_hear(&[2, 3, 4, 13, 14]).unwrap();
        }
    }
}

/// Whoever registers while replaced keys still drain gets those, too, for as long as all others have them, and no longer: not
/// beyond the next rekey, after which it would send under them.
#[test]
fn keys_that_drain_at_a_registration_go_when_they_go_elsewhere() {
    for in_band in [InBand::Nobody, InBand::Senders, InBand::Everybody] {
        let mut fleet = assembled(10, in_band, Weather::default());
        fleet.command(|g, now, rng| g.rekey(now, rng, NAME)).expect("the group is there");
        fleet.run(secs(5));
        fleet.join([15], Protocol::Gikev2);
        fleet.run(secs(2));
        let all = [2, 3, 4, 12, 13, 14, 15];
        let sas = |fleet: &Fleet, n: u8| fleet.nodes[&n].sad.status().sas.len();
        fleet.all_hear(&all).unwrap();
        assert_eq!(sas(&fleet, 15), 2, "{in_band:?}");
        fleet.run(secs(40));
        fleet.all_hear(&all).unwrap();
        assert!(all.into_iter().all(|n| sas(&fleet, n) == 1), "{in_band:?}");
        fleet.command(|g, now, rng| g.rekey(now, rng, NAME)).expect("the group is there");
        for _ in 0..80 {
            fleet.run(Duration::from_millis(500));
            fleet.all_hear(&all).unwrap();
        }
    }
}
