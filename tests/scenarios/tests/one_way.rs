//! A group whose traffic one member sends, through rekeys, a crash, and a change of the sender (RFC 6407 section 5.5.1.1.2).
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use dataplane::DropReason;
use keyferry_model::id::{Identity, Protocol};
use keyferry_model::policy::{AddressPreservation, GroupPolicy, TrafficPolicy};
use keyferry_model::update::MemberEvent;
use keyferry_scenarios::fleet::Fleet;
use keyferry_scenarios::policy::{Family, NAME, Variant, group};

const MEMBERS: [u8; 4] = [11, 12, 13, 14];

fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// A group of GDOI alone, sent by `sender`, in tunnels from each member's own address.
fn sent_by(variant: Variant, sender: u8) -> GroupPolicy {
    let mut policy = group(variant);
    policy.gikev2 = None;
    let line = TrafficPolicy::clone(&policy.traffic[0]);
    let only_sender = Some(Identity::from_ip(variant.family.host(sender)));
    let preservation = match line.mode {
        keyferry_model::policy::EspMode::Tunnel => AddressPreservation::Destination,
        keyferry_model::policy::EspMode::Transport => AddressPreservation::Both,
    };
    policy.traffic[0] = Arc::new(TrafficPolicy { only_sender, preservation, ..line });
    policy
}

#[track_caller]
fn only(fleet: &mut Fleet, sender: u8) {
    let others: BTreeSet<u8> = MEMBERS.into_iter().filter(|n| *n != sender).collect();
    assert_eq!(fleet.talk(sender), Ok(others.clone()));
    for n in others {
        assert_eq!(fleet.talk(n), Err(DropReason::OutNoPols), "{n}");
    }
}

#[test]
fn one_member_sends_and_nobody_else_until_the_operator_says_so() {
    for variant in [Variant::default(), Variant { family: Family::V6, ..Variant::other() }] {
        let mut fleet = Fleet::with_policy(5374, variant, sent_by(variant, 11));
        fleet.join(MEMBERS, Protocol::Gdoi);
        fleet.run(secs(10));
        only(&mut fleet, 11);
        fleet.command(|g, now, rng| g.rekey(now, rng, NAME)).unwrap();
        fleet.run(secs(30));
        for n in MEMBERS {
            assert_eq!(fleet.count(n, |e| matches!(e, MemberEvent::Rekeyed { .. })), 1);
        }
        only(&mut fleet, 11);
        fleet.kill();
        fleet.boot();
        fleet.command(|g, now, rng| g.rekey(now, rng, NAME)).unwrap();
        fleet.run(secs(30));
        only(&mut fleet, 11);

        fleet.policy = sent_by(variant, 12);
        fleet.reload();
        fleet.run(secs(60));
        for n in MEMBERS {
            assert_eq!(fleet.count(n, |e| *e == MemberEvent::Registered), 2, "{n} is told anew");
        }
        only(&mut fleet, 12);
    }
}
