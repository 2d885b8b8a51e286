//! GSA_REKEY in fragments (RFC 9838 section 2.4.1.2): over a network that loses many, across a restart, and to each member.

use std::collections::BTreeSet;
use std::time::Duration;

use keyferry_model::id::{Identity, Protocol};
use keyferry_model::policy::GroupPolicy;
use keyferry_model::update::MemberEvent;
use keyferry_scenarios::fleet::Fleet;
use keyferry_scenarios::net::{Packet, Weather};
use keyferry_scenarios::policy::{self, NAME, Variant};
use keyferry_wire::split_marker;

const OLD: [u8; 2] = [11, 12];
const NEW: [u8; 4] = [21, 22, 23, 24];

/// The longest IP packet of GSA_REKEY, and the datagram in it.
const PACKET: usize = 300;
const DATAGRAM: usize = PACKET - 52;

fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

fn group(variant: Variant) -> GroupPolicy {
    let mut group = policy::group(variant);
    let options = &mut group.gikev2.as_mut().expect("the group serves G-IKEv2").options;
    (options.fragment_size, options.ack) = (Some(PACKET), true);
    group
}

fn assembled(seed: u64, variant: Variant, policy: GroupPolicy) -> Fleet {
    let mut fleet = Fleet::with_policy(seed, variant, policy);
    fleet.join(OLD, Protocol::Gdoi);
    fleet.join(NEW, Protocol::Gikev2);
    fleet.run(secs(10));
    fleet.all_hear(&[11, 12, 21, 22, 23, 24]).expect("all are in");
    fleet
}

fn rekey(fleet: &mut Fleet) {
    fleet.command(|g, now, rng| g.rekey(now, rng, NAME)).expect("the group is there");
}

/// Is it a fragment (payload 53) of a GSA_REKEY (exchange 41)?
fn is_fragment(packet: &Packet) -> bool {
    let (_, message) = split_marker(&packet.bytes);
    message.len() > 28 && (message[16], message[18]) == (53, 41)
}

fn fragments(fleet: &Fleet) -> Vec<&Packet> {
    fleet.net.log.iter().filter(|p| is_fragment(p)).collect()
}

fn followed(fleet: &Fleet, n: u8) -> usize {
    fleet.count(n, |e| matches!(e, MemberEvent::Rekeyed { .. }))
}

/// Of each message several fragments, of which a quarter gets lost: copies complete each other, and who misses a rekey for all
/// that registers anew in time.
#[test]
fn a_quarter_lost_delays_but_loses_nobody() {
    let (mut rekeys, mut taken) = (0, 0);
    for seed in 0..6 {
        let variant = Variant::default();
        let mut fleet = assembled(seed, variant, group(variant));
        fleet.net.weather = Weather { loss: 250, repeat: 200, jitter: Duration::from_millis(400) };
        for _ in 0..4 {
            rekey(&mut fleet);
            fleet.run(secs(40));
        }
        rekeys += 4 * NEW.len();
        taken += NEW.iter().map(|n| followed(&fleet, *n)).sum::<usize>();
        let evicted = Identity::from_ip(variant.family.host(22));
        fleet.command(|g, now, rng| g.evict(now, rng, NAME, &evicted)).expect("a member");
        fleet.run(secs(40));
        fleet.net.weather = Weather::default();
        let rest = [11, 12, 21, 23, 24];
        fleet.run(secs(4000));
        fleet.all_hear(&rest).unwrap_or_else(|deaf| panic!("seed {seed}: {deaf}"));
        for from in rest {
            assert!(!fleet.talk(from).expect("a sender").contains(&22), "seed {seed}");
        }
        let sent = fragments(&fleet);
        assert!(sent.len() > 100 && sent.iter().all(|p| p.bytes.len() <= DATAGRAM));
    }
    assert!(taken * 100 >= rekeys * 90, "{taken} of {rekeys} rekeys were followed");
}

/// What is sent after a restart completes what was received before it: all copies are the same octets.
#[test]
fn copies_are_the_same_after_a_restart() {
    let variant = Variant::default();
    let mut fleet = assembled(1, variant, group(variant));
    let before = fleet.net.log.len();
    // Each member loses something of the first copy.
    fleet.net.weather.loss = 600;
    rekey(&mut fleet);
    fleet.run(secs(1));
    let first: BTreeSet<Vec<u8>> = fragments(&fleet).iter().map(|p| p.bytes.clone()).collect();
    assert!(first.len() >= 3, "{}", first.len());
    fleet.kill();
    fleet.run(secs(1));
    fleet.net.weather.loss = 0;
    fleet.boot();
    fleet.run(secs(20));
    let log = fleet.net.log.split_off(before);
    let all: BTreeSet<Vec<u8>> = log.iter().filter(|p| is_fragment(p)).map(|p| p.bytes.clone()).collect();
    assert_eq!(all, first);
    for n in NEW {
        assert_eq!(followed(&fleet, n), 1, "member {n}");
        assert_eq!(fleet.count(n, |e| *e == MemberEvent::Registered), 1);
    }
    fleet.all_hear(&[11, 12, 21, 22, 23, 24]).expect("all followed");
}

/// To each member alone, and once more to those who have missed it.
#[test]
fn each_member_is_sent_all_fragments() {
    let variant = Variant { multicast: false, ..Variant::default() };
    let mut policy = group(variant);
    (policy.retransmit.copies, policy.ack_resend) = (0, true);
    (policy.activation_delay, policy.deactivation_delay) = (secs(30), secs(60));
    let mut fleet = Fleet::with_policy(3, variant, policy);
    fleet.join(NEW, Protocol::Gikev2);
    fleet.run(secs(10));
    fleet.nodes.get_mut(&22).expect("a member").unplugged = true;
    rekey(&mut fleet);
    fleet.run(secs(10));
    let to = |fleet: &Fleet, n| fragments(fleet).iter().filter(|p| p.to.ip() == variant.family.host(n)).count();
    let each = to(&fleet, 21);
    assert!(each >= 3 && NEW.iter().all(|n| to(&fleet, *n) == each));
    assert_eq!(NEW.map(|n| followed(&fleet, n)), [1, 0, 1, 1]);
    fleet.nodes.get_mut(&22).expect("a member").unplugged = false;
    fleet.run(secs(20));
    assert_eq!(NEW.map(|n| to(&fleet, n)), [each, 2 * each, each, each]);
    assert_eq!(NEW.map(|n| followed(&fleet, n)), [1; 4]);
    fleet.all_hear(&NEW).expect("all followed");
}
