//! Policies of one sender and tunnels that do not preserve all addresses, told and taken (RFC 6407 section 5.5.1.1).
#![allow(clippy::unwrap_used)]

mod support;

use std::sync::Arc;

use keyferry_crypto::SeededRandom;
use keyferry_model::id::Identity;
use keyferry_model::plan::RekeyReason;
use keyferry_model::policy::{AddressPreservation, GroupPolicy, SaDirection, SequenceNumbers, TrafficPolicy};
use keyferry_model::settings::{MemberSettings, TrafficSettings};
use keyferry_model::update::MemberEvent;
use support::{Bench, Setup, host, policy, secs, settings};

/// The first line is sent by member 10 alone, the second by everybody.
fn one_way(setup: Setup) -> GroupPolicy {
    let mut group = policy(setup);
    let all = group.traffic[0].clone();
    let mut one = TrafficPolicy::clone(&all);
    one.destination.address = if setup.v6 { "ff15::2" } else { "239.192.0.2" }.parse().unwrap();
    one.only_sender = Some(Identity::from_ip(host(setup.v6, 10).ip()));
    group.traffic = vec![Arc::new(one), all];
    group
}

fn directions(bench: &Bench, n: u8) -> Vec<SaDirection> {
    bench.nodes[&n].updates.last().unwrap().install.iter().map(|sa| sa.direction).collect()
}

#[test]
fn members_learn_which_way_and_pushes_do_not_change_it() {
    use SaDirection::{ReceiverOnly, SenderOnly, Symmetric};
    for v6 in [false, true] {
        let setup = Setup { v6, ..Setup::default() };
        let mut bench = Bench::with_policy(setup, one_way(setup), |_| {});
        (10..13).for_each(|n| bench.add(n));
        bench.settle();
        let expected = |n| [if n == 10 { SenderOnly } else { ReceiverOnly }, Symmetric];
        for n in 10..13 {
            assert_eq!(directions(&bench, n), expected(n), "at the registration");
        }
        bench.rekey(RekeyReason::Operator, &[]);
        bench.run(secs(10));
        for n in 10..13 {
            assert_eq!(bench.nodes[&n].count(|e| matches!(e, MemberEvent::Rekeyed { .. })), 1);
            assert_eq!(directions(&bench, n), expected(n), "after a push");
            let policy = &bench.nodes[&n].updates.last().unwrap().install[0].policy;
            assert_eq!((policy.sequence, policy.replay_window), (SequenceNumbers::Sequential, 64));
        }
    }
}

#[test]
fn who_only_receives_gets_no_sender_ids() {
    let mut group = one_way(Setup::default());
    group.traffic.truncate(1);
    let mut bench = Bench::with_policy(Setup::default(), group, |_| {});
    (10..12).for_each(|n| bench.add(n));
    bench.settle();
    let ids = |n: u8| bench.nodes[&n].updates[0].sender_ids.as_ref().map_or(0, |ids| ids.ids.len());
    assert_eq!((ids(10), ids(11)), (2, 0));
    assert_eq!(bench.nodes[&11].count(|e| *e == MemberEvent::Registered), 1, "it joins all the same");
}

/// Nothing but a registration tells who sends, so another sender is told by a reset.
#[test]
fn another_sender_makes_everybody_register_anew() {
    let mut bench = Bench::with_policy(Setup::default(), one_way(Setup::default()), |_| {});
    (10..12).for_each(|n| bench.add(n));
    bench.settle();
    for sender in [Some(Identity::from_ip(host(false, 11).ip())), None] {
        let mut changed = bench.model.group(support::GROUP).unwrap().policy().as_ref().clone();
        let line = TrafficPolicy { only_sender: sender.clone(), ..(*changed.traffic[0]).clone() };
        changed.traffic[0] = Arc::new(line);
        let (now, mut rng) = (bench.now(), SeededRandom::new(3));
        bench.model.change(vec![changed], now, &mut rng).unwrap();
        let due: Vec<RekeyReason> = bench.model.expire(now).into_iter().map(|(_, reason)| reason).collect();
        assert_eq!(due, [RekeyReason::Reset]);
        bench.rekey(RekeyReason::Reset, &[]);
        bench.run(secs(60));
        let expected = |n| match &sender {
            None => SaDirection::Symmetric,
            Some(_) if n == 11 => SaDirection::SenderOnly,
            Some(_) => SaDirection::ReceiverOnly,
        };
        for n in 10..12 {
            assert_eq!(directions(&bench, n)[0], expected(n));
        }
    }
}

#[test]
fn tunnels_preserve_what_the_key_server_says_or_are_refused() {
    let setup = Setup::default();
    for preservation in [
        AddressPreservation::None,
        AddressPreservation::Source,
        AddressPreservation::Destination,
        AddressPreservation::Both,
    ] {
        let mut group = policy(setup);
        group.traffic = vec![Arc::new(TrafficPolicy { preservation, ..(*group.traffic[0]).clone() })];
        let mut bench = Bench::with_policy(setup, group, |_| {});
        let traffic =
            TrafficSettings { tunnel_destination: Some([239, 255, 0, 1].into()), ..TrafficSettings::default() };
        bench.add_with(10, MemberSettings { traffic, ..settings(setup, 10) });
        bench.add(11);
        bench.settle();
        assert_eq!(bench.nodes[&10].updates[0].install[0].policy.preservation, preservation);
        let told = bench.nodes[&11].count(|e| matches!(e, MemberEvent::Refused(why) if why.contains("preserve")));
        assert_eq!(told, usize::from(!preservation.keeps_destination()), "{preservation:?}");
        assert_eq!(bench.nodes[&11].updates.len(), 1 - told);
    }
}
