//! A gateway that starts again, and members that go on with it by tickets (RFC 5723).
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use keyferry_model::id::{Identity, Protocol};
use keyferry_model::policy::InBand;
use keyferry_model::update::MemberEvent;
use keyferry_scenarios::fleet::Fleet;
use keyferry_scenarios::policy::{self, NAME, Variant};

const MEMBERS: [u8; 3] = [12, 13, 14];

fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

fn identity(n: u8) -> Identity {
    policy::member(Variant::default(), n).identity
}

/// Members of G-IKEv2 that are rekeyed in band, so that their IKE SAs are kept; with tickets for an hour.
fn assembled() -> Fleet {
    let variant = Variant::default();
    let mut policy = policy::group(variant);
    policy.gikev2.as_mut().unwrap().options.in_band = InBand::Everybody;
    let mut fleet = Fleet::with_policy(5, variant, policy);
    fleet.tickets = Some(secs(3600));
    fleet.kill();
    fleet.boot();
    fleet.join(MEMBERS, Protocol::Gikev2);
    fleet.run(secs(30));
    fleet
}

/// IKE SAs that went on from a ticket, tickets that were not taken, and IKE_SA_INIT requests, since the last start.
fn resumed(fleet: &Fleet) -> (u64, u64, u64) {
    let counters = fleet.gateway.as_ref().unwrap().counters().1;
    (counters.resumed, counters.tickets_refused, counters.initiations)
}

#[test]
fn members_go_on_by_tickets_after_a_restart() {
    let mut fleet = assembled();
    for times in 1..=2 {
        fleet.kill();
        fleet.boot();
        fleet.run(secs(300));
        assert_eq!(resumed(&fleet), (3, 0, 0), "{times}");
        for n in MEMBERS {
            assert_eq!(fleet.count(n, |e| *e == MemberEvent::Registered), 1 + times);
        }
        fleet.all_hear(&MEMBERS).unwrap();
    }
}

#[test]
fn who_is_evicted_does_not_go_on_by_a_ticket() {
    let mut fleet = assembled();
    fleet.kill();
    fleet.boot();
    fleet.command(|g, now, rng| g.evict(now, rng, NAME, &identity(13))).unwrap();
    fleet.run(secs(300));
    let (resumed, refused, _) = resumed(&fleet);
    assert_eq!(resumed, 2);
    assert!(refused > 0, "it showed its ticket");
    assert_eq!(fleet.count(13, |e| *e == MemberEvent::Registered), 1);
    fleet.all_hear(&[12, 14]).unwrap();
}
