//! Members of G-IKEv2 behind NATs that give their mappings other ports while the group is at work (RFC 7296 section 2.23).
#![allow(clippy::unwrap_used)]

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use gikev2::{IkeOptions, NAT_PORT};
use keyferry_model::id::{Identity, Protocol};
use keyferry_model::policy::InBand;
use keyferry_model::update::MemberEvent;
use keyferry_model::view::MemberView;
use keyferry_scenarios::fleet::{Fleet, alterations};
use keyferry_scenarios::net::{Nat, Packet, Weather};
use keyferry_scenarios::policy::{self, NAME, Variant};

/// Two behind a NAT each, one that is not, and one of GDOI.
const INSIDE: [u8; 2] = [12, 13];
const ALL: [u8; 4] = [2, 12, 13, 14];
const IKE_SA_INIT: u8 = 34;

fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

fn outside(n: u8) -> IpAddr {
    IpAddr::from([203, 0, 113, n])
}

/// A group whose members ask each 30 s whether the gateway lives.
fn assembled(seed: u64, variant: Variant, in_band: InBand, lifetime: Duration) -> Fleet {
    let ike = IkeOptions { liveness: Some(secs(30)), lifetime, ..IkeOptions::default() };
    assembled_with(seed, variant, in_band, ike)
}

fn assembled_with(seed: u64, variant: Variant, in_band: InBand, ike: IkeOptions) -> Fleet {
    let mut policy = policy::group(variant);
    policy.gikev2.as_mut().unwrap().options.in_band = in_band;
    policy.gikev2.as_mut().unwrap().options.keep_ike_sa = true;
    let mut fleet = Fleet::with_policy(seed, variant, policy);
    fleet.member_ike = ike;
    fleet.nats = INSIDE.into_iter().map(|n| (n, Nat::new(outside(n)))).collect();
    fleet.join([2], Protocol::Gdoi);
    fleet.join([12, 13, 14], Protocol::Gikev2);
    fleet.run(secs(60));
    fleet
}

fn day() -> Duration {
    secs(86_400)
}

fn view(fleet: &Fleet, n: u8) -> MemberView {
    let identity = Identity::from_ip(Variant::default().family.host(n));
    let members = fleet.gateway.as_ref().unwrap().members(Some(NAME)).unwrap();
    members.into_iter().map(|(_, view)| view).find(|view| view.identity == identity).unwrap()
}

fn forget(fleet: &mut Fleet) {
    fleet.nats.values_mut().for_each(Nat::forget);
}

fn rekey(fleet: &mut Fleet) {
    fleet.command(|g, now, rng| g.rekey(now, rng, NAME)).unwrap();
}

/// Who has acknowledged the newest rekey, in band or as GDOI does.
fn acknowledged(fleet: &Fleet, n: u8) -> bool {
    let identity = Identity::from_ip(Variant::default().family.host(n));
    let newest = fleet.gateway.as_ref().unwrap().rekeys(NAME).unwrap().pop().unwrap();
    newest.acks.iter().any(|a| a.identity == identity)
}

/// None has lost its IKE SA, or begun another.
fn kept_their_sas(fleet: &Fleet) {
    for n in [12, 13, 14] {
        assert_eq!(fleet.count(n, |e| *e == MemberEvent::Connected), 1, "{n}");
        assert_eq!(fleet.count(n, |e| *e == MemberEvent::Registered), 1, "{n}");
    }
}

fn of(fleet: &Fleet, n: u8) -> Vec<Packet> {
    fleet.net.log.iter().filter(|p| p.from.ip() == outside(n) || p.to.ip() == outside(n)).cloned().collect()
}

/// IKE_SA_INIT at 848, and all that follows at 4500, in both directions.
#[test]
fn everything_goes_through_the_nat() {
    let mut fleet = assembled(1, Variant::default(), InBand::Everybody, day());
    for _ in 0..3 {
        rekey(&mut fleet);
        fleet.run(secs(45));
        fleet.all_hear(&ALL).unwrap();
        assert!(ALL.into_iter().all(|n| acknowledged(&fleet, n)));
    }
    kept_their_sas(&fleet);
    for n in INSIDE {
        assert_eq!(view(&fleet, n).address.ip(), outside(n));
        for p in of(&fleet, n) {
            let own = if p.from.ip() == outside(n) { p.to } else { p.from };
            let first = p.bytes.get(18) == Some(&IKE_SA_INIT);
            assert_eq!(own.port(), if first { 848 } else { NAT_PORT }, "{p:?}");
            assert!(first || p.bytes == [0xff] || p.bytes.starts_with(&[0; 4]), "{p:?}");
        }
    }
}

/// The next request tells where the member is; rekeys in band find it there, over the same IKE SA.
#[test]
fn rekeys_in_band_follow_a_mapping_that_changes() {
    let mut fleet = assembled(2, Variant::default(), InBand::Everybody, day());
    for _ in 0..5 {
        let before = INSIDE.map(|n| view(&fleet, n).address);
        forget(&mut fleet);
        fleet.run(secs(40));
        let after = INSIDE.map(|n| view(&fleet, n).address);
        assert!(before.iter().zip(after).all(|(before, after)| before.ip() == after.ip() && *before != after));
        rekey(&mut fleet);
        fleet.run(secs(45));
        fleet.all_hear(&ALL).unwrap();
        assert!(ALL.into_iter().all(|n| acknowledged(&fleet, n)));
    }
    kept_their_sas(&fleet);
}

/// A request of the gateway's is on its way to a mapping that is gone: its repeats go where the member has been heard since.
#[test]
fn a_rekey_that_is_under_way_finds_the_member_again() {
    let mut fleet = assembled(3, Variant::default(), InBand::Everybody, day());
    forget(&mut fleet);
    rekey(&mut fleet);
    fleet.run(secs(1));
    assert!(INSIDE.into_iter().all(|n| !acknowledged(&fleet, n)), "nothing passes yet");
    fleet.run(secs(60));
    fleet.all_hear(&ALL).unwrap();
    assert!(INSIDE.into_iter().all(|n| acknowledged(&fleet, n)));
    kept_their_sas(&fleet);
}

/// Also where nobody has configured that the gateway be asked whether it lives: who is rekeyed in band behind a NAT asks before the
/// gateway gives up.
#[test]
fn a_rekey_finds_members_that_ask_by_themselves() {
    let mut fleet = assembled_with(7, Variant::default(), InBand::Everybody, IkeOptions::default());
    for _ in 0..4 {
        forget(&mut fleet);
        rekey(&mut fleet);
        fleet.run(secs(70));
        fleet.all_hear(&ALL).unwrap();
        assert!(ALL.into_iter().all(|n| acknowledged(&fleet, n)));
        fleet.run(secs(37));
    }
    kept_their_sas(&fleet);
}

/// Copies of GSA_REKEY that go to each member alone follow, too.
#[test]
fn copies_of_rekeys_follow_a_mapping_that_changes() {
    let variant = Variant { multicast: false, ..Variant::default() };
    let mut fleet = assembled(4, variant, InBand::Nobody, day());
    rekey(&mut fleet);
    fleet.run(secs(45));
    fleet.all_hear(&ALL).unwrap();
    forget(&mut fleet);
    fleet.run(secs(40));
    rekey(&mut fleet);
    fleet.run(secs(45));
    fleet.all_hear(&ALL).unwrap();
    kept_their_sas(&fleet);
}

/// What does not verify, and what was heard before, moves nobody: neither keepalives nor repeats nor forgeries.
#[test]
fn only_new_messages_that_verify_move_a_member() {
    let mut fleet = assembled(5, Variant::default(), InBand::Everybody, day());
    rekey(&mut fleet);
    fleet.run(secs(100));
    let before = INSIDE.map(|n| view(&fleet, n).address);
    let attacker = SocketAddr::from(([198, 51, 100, 66], 4500));
    for n in INSIDE {
        for p in of(&fleet, n).into_iter().filter(|p| p.from.ip() == outside(n)) {
            fleet.deliver(attacker, p.to, &p.bytes);
            if p.bytes.len() > 28 {
                for bytes in alterations(&p.bytes, &[0x01, 0xff]) {
                    fleet.deliver(attacker, p.to, &bytes);
                }
            }
        }
        fleet.deliver(attacker, SocketAddr::new(gateway(), NAT_PORT), &[0xff]);
    }
    assert_eq!(INSIDE.map(|n| view(&fleet, n).address), before);
    fleet.net.log.clear();
    rekey(&mut fleet);
    fleet.run(secs(45));
    fleet.all_hear(&ALL).unwrap();
    assert!(ALL.into_iter().all(|n| acknowledged(&fleet, n)));
    assert!(fleet.net.log.iter().all(|p| p.to != attacker), "nothing goes to whoever repeats");
    kept_their_sas(&fleet);
}

fn gateway() -> IpAddr {
    Variant::default().family.gateway().ip()
}

/// New keys of IKE SAs, rekeys in band, and mappings that last for a minute, in bad weather.
#[test]
fn a_restless_nat_and_bad_weather_lose_nobody_for_good() {
    let mut fleet = assembled(6, Variant::default(), InBand::Everybody, secs(300));
    fleet.net.weather = Weather { loss: 150, repeat: 50, jitter: Duration::from_millis(200) };
    for round in 0..20 {
        forget(&mut fleet);
        if round % 4 == 0 {
            rekey(&mut fleet);
        }
        fleet.run(secs(70));
    }
    fleet.net.weather = Weather::default();
    fleet.run(secs(120));
    rekey(&mut fleet);
    fleet.run(secs(60));
    fleet.all_hear(&ALL).unwrap();
    assert!(ALL.into_iter().all(|n| acknowledged(&fleet, n)));
}
