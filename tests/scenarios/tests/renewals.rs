//! Rekeys come before members would register anew.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use keyferry_model::id::Protocol;
use keyferry_model::policy::GroupPolicy;
use keyferry_model::update::MemberEvent;
use keyferry_scenarios::fleet::Fleet;
use keyferry_scenarios::policy::{self, Variant};

const ALL: [u8; 4] = [11, 12, 21, 22];
const HOUR: Duration = Duration::from_secs(3600);

/// Whole lives of traffic keys and rekey SAs, with the margins that they have unless an operator says otherwise: nobody
/// registers twice.
#[test]
fn nobody_registers_anew_while_rekeys_come() {
    let lives = [(HOUR, 24 * HOUR, Duration::from_secs(360)), (24 * HOUR, 72 * HOUR, 2 * HOUR)];
    for (seed, (tek_lifetime, kek_lifetime, rekey_margin)) in (0..).zip(lives) {
        let variant = Variant::default();
        let policy = GroupPolicy { tek_lifetime, kek_lifetime, rekey_margin, ..policy::group(variant) };
        let mut fleet = Fleet::with_policy(seed, variant, policy);
        fleet.join(ALL[..2].iter().copied(), Protocol::Gdoi);
        fleet.join(ALL[2..].iter().copied(), Protocol::Gikev2);
        fleet.run(kek_lifetime + 2 * HOUR);
        fleet.all_hear(&ALL).unwrap();
        for n in ALL {
            assert_eq!(fleet.count(n, |e| *e == MemberEvent::Registered), 1, "{n} of {tek_lifetime:?}");
        }
    }
}

/// The rekey SA is replaced 200 s before it ends, whatever the margin of traffic keys is: that is soon enough for members.
#[test]
fn a_rekey_sa_that_is_replaced_200_seconds_before_its_end_is_replaced_in_time() {
    let variant = Variant::default();
    let (tek_lifetime, kek_lifetime) = (24 * HOUR, 24 * HOUR);
    let rekey_margin = Duration::from_secs(150);
    let policy = GroupPolicy { tek_lifetime, kek_lifetime, rekey_margin, ..policy::group(variant) };
    let mut fleet = Fleet::with_policy(5, variant, policy);
    fleet.join(ALL[..2].iter().copied(), Protocol::Gdoi);
    fleet.join(ALL[2..].iter().copied(), Protocol::Gikev2);
    fleet.run(HOUR);
    let spis = |fleet: &Fleet| {
        let sas = &fleet.gateway.as_ref().unwrap().groups(fleet.now())[0].rekey_sas;
        sas.iter().map(|sa| sa.spi.clone()).collect::<Vec<_>>()
    };
    let before = spis(&fleet);
    fleet.run(kek_lifetime - HOUR - Duration::from_secs(210));
    assert_eq!(spis(&fleet), before);
    fleet.run(Duration::from_secs(300));
    assert!(spis(&fleet).iter().zip(&before).all(|(new, old)| new != old));
    for n in ALL {
        assert_eq!(fleet.count(n, |e| *e == MemberEvent::Registered), 1, "{n}");
    }
}
