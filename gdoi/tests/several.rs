//! Several groups over one phase 1 SA (RFC 6407 section 3): registered for, rekeyed, refused and left.
#![allow(clippy::unwrap_used)]

mod support;

use std::collections::BTreeMap;
use std::sync::Arc;

use gdoi::Member;
use keyferry_crypto::SeededRandom;
use keyferry_model::Model;
use keyferry_model::id::{GroupId, Identity, Protocol};
use keyferry_model::plan::RekeyReason;
use keyferry_model::policy::{GroupPolicy, RekeyTransport, TrafficPolicy};
use keyferry_model::stream::{StreamAuthentication, StreamEncryption, StreamPolicy, StreamProtection};
use keyferry_model::update::{MemberEvent, MemberOutput, Removal};
use keyferry_model::view::MemberState;
use support::{Bench, GROUP, Setup, host, policy, secs, settings};

const STREAMS: &str = "oid:1.2.840.10070.61850.8.1.2#0404efc00001";

/// Another group of the same key server: `n` stands in its number, its addresses, and where its pushes go.
fn group(n: u8) -> GroupPolicy {
    let mut group = policy(Setup::default());
    group.name = format!("group-{n}");
    group.ids = vec![GroupId::Number(n.into())];
    let mut line = TrafficPolicy::clone(&group.traffic[0]);
    line.destination.address = [239, 192, n, 1].into();
    group.traffic = vec![Arc::new(line)];
    if let Some(gdoi) = &mut group.gdoi {
        gdoi.transport = RekeyTransport::Multicast(format!("239.192.84.{n}:848").parse().unwrap());
    }
    group
}

/// A group of streams alone.
fn bay(n: u8) -> GroupPolicy {
    let mut bay = group(n);
    bay.ids = vec![STREAMS.parse().unwrap()];
    bay.traffic.clear();
    bay.streams = vec![Arc::new(StreamPolicy {
        name: STREAMS.strip_prefix("oid:").unwrap().parse().unwrap(),
        protection: StreamProtection::new(StreamAuthentication::None, StreamEncryption::AesGcm128).unwrap(),
        many_senders: false,
        delivery_assurance: false,
    })];
    bay
}

/// A key server of three groups, and member 10 that asks for those named besides the first.
fn bench(further: &[GroupId]) -> Bench {
    let mut bench = Bench::new(Setup::default());
    let (now, mut rng) = (bench.now(), SeededRandom::new(1));
    let groups = vec![policy(Setup::default()), group(2), bay(3)];
    bench.model = Model::load(groups, &BTreeMap::new(), now, &mut rng).unwrap();
    let mut member = Member::new(settings(Setup::default(), 10));
    further.iter().for_each(|id| member.add_group(id.clone()));
    bench.add_with(10, settings(Setup::default(), 10));
    bench.wire.clear();
    bench.log.clear();
    bench.nodes.get_mut(&10).unwrap().member = member;
    bench.member(10, Member::start);
    bench.settle();
    bench
}

fn both() -> [GroupId; 2] {
    [GroupId::Number(2), STREAMS.parse().unwrap()]
}

/// Messages that begin an exchange of phase 1.
fn phase_1s(bench: &Bench) -> usize {
    bench.log.iter().filter(|p| p.bytes[8..16] == [0; 8]).count()
}

fn events(bench: &Bench, at: usize) -> Vec<MemberEvent> {
    let of = |(group, output): &(usize, MemberOutput)| {
        let MemberOutput::Event(event) = output else { return None };
        (*group == at).then(|| event.clone())
    };
    bench.nodes[&10].further.iter().filter_map(of).collect()
}

fn state(bench: &Bench, group: &str) -> Option<MemberState> {
    let members = bench.model.group(group).unwrap().member_views();
    members.iter().find(|m| m.identity == Identity::from_ip(host(false, 10).ip())).map(|m| m.state)
}

#[test]
fn several_groups_are_registered_for_over_one_phase_1_sa() {
    let bench = bench(&both());
    let node = &bench.nodes[&10];
    assert_eq!(phase_1s(&bench), 1);
    assert_eq!(node.count(|e| *e == MemberEvent::Registered), 1);
    assert_eq!((events(&bench, 1), events(&bench, 2)), (vec![MemberEvent::Registered], vec![MemberEvent::Registered]));
    let [update] = node.updates.as_slice() else { panic!("one update of the first group") };
    assert_eq!(update.install[0].policy.destination.address.to_string(), "239.192.0.1");
    let second = node.further.iter().find_map(|(at, output)| {
        let MemberOutput::Update(update) = output else { return None };
        (*at == 1).then_some(update)
    });
    let second = second.unwrap();
    assert_eq!(second.install[0].policy.destination.address.to_string(), "239.192.2.1");
    assert_eq!(second.remove, Removal::All, "of that group");
    let streams = |(at, output): &&(usize, MemberOutput)| matches!((at, output), (2, MemberOutput::Streams(s)) if s.install.len() == 1);
    assert_eq!(node.further.iter().filter(streams).count(), 1);
    assert!(node.streams.is_empty(), "the first group has none");
    let status = node.member.status();
    assert_eq!((status.state, status.registrations, status.groups.len()), ("registered", 3, 3));
    assert!(status.groups.iter().all(|g| g.registered && g.registrations == 1));
    for group in [GROUP, "group-2", "group-3"] {
        assert_eq!(state(&bench, group), Some(MemberState::Active), "{group}");
    }
}

#[test]
fn pushes_of_each_group_are_told_apart_and_acknowledged() {
    let mut bench = bench(&both());
    let (now, mut rng) = (bench.now(), SeededRandom::new(9));
    for (at, name) in [(1, "group-2"), (2, "group-3")] {
        let plan = bench.model.rekey(name, RekeyReason::Operator, &[], now, &mut rng).unwrap();
        for step in plan.steps.iter() {
            let bytes = gdoi::push::render(&plan.policy, step, &mut rng).unwrap();
            let to = format!("239.192.84.{}:848", at + 1).parse().unwrap();
            bench.wire.push_back(support::Packet { from: host(false, 1), to, bytes });
        }
        bench.run(secs(2));
        let rekeyed = |e: &&MemberEvent| matches!(e, MemberEvent::Rekeyed { .. });
        assert_eq!(events(&bench, at).iter().filter(rekeyed).count(), 1, "{name}");
        let acknowledged = |e: &&MemberEvent| matches!(e, MemberEvent::Acknowledged { .. });
        assert_eq!(events(&bench, at).iter().filter(acknowledged).count(), 1, "{name}");
        let ledger = bench.model.group(name).unwrap().rekey_views();
        assert_eq!(ledger.last().unwrap().acknowledged, 1);
    }
    assert_eq!(bench.nodes[&10].count(|e| matches!(e, MemberEvent::Rekeyed { .. })), 0, "nothing of the first");
    let rekeys: Vec<u64> = bench.nodes[&10].member.status().groups.iter().map(|g| g.rekeys).collect();
    assert_eq!(rekeys, [0, 1, 1]);
}

#[test]
fn a_group_that_is_refused_keeps_nobody_from_the_others() {
    let mut bench = bench(&[GroupId::Number(99), GroupId::Number(2)]);
    assert!(matches!(events(&bench, 1).as_slice(), [MemberEvent::Refused(_)]), "{:?}", events(&bench, 1));
    assert_eq!(events(&bench, 2), [MemberEvent::Registered]);
    assert_eq!(bench.nodes[&10].count(|e| *e == MemberEvent::Registered), 1);
    bench.run(secs(60));
    assert!(events(&bench, 1).len() > 1, "it asks again");
    assert_eq!((events(&bench, 2).len(), phase_1s(&bench)), (1, 1), "and disturbs nobody by it");
}

/// Its KEK's SPI would not tell any more whose pushes they are.
#[test]
fn a_kek_that_another_group_has_is_not_taken() {
    // Two names of one group.
    let mut bench = bench(&["239.192.0.1".parse().unwrap(), GroupId::Number(2)]);
    assert_eq!(events(&bench, 1), [MemberEvent::Refused("the KEK of another group".to_owned())]);
    let given = |(at, output): &(usize, MemberOutput)| *at == 1 && !matches!(output, MemberOutput::Event(_));
    assert!(!bench.nodes[&10].further.iter().any(given), "neither keys nor anything to listen to");
    bench.run(secs(2));
    let groups = bench.nodes[&10].member.status().groups;
    assert_eq!(groups.iter().map(|g| g.registered).collect::<Vec<_>>(), [true, false, true]);
    let (now, mut rng) = (bench.now(), SeededRandom::new(9));
    let plan = bench.model.rekey(GROUP, RekeyReason::Operator, &[], now, &mut rng).unwrap();
    let bytes = gdoi::push::render(&plan.policy, plan.steps.first().unwrap(), &mut rng).unwrap();
    let to = "239.192.84.1:848".parse().unwrap();
    bench.wire.push_back(support::Packet { from: host(false, 1), to, bytes });
    bench.run(secs(2));
    let rekeys: Vec<u64> = bench.nodes[&10].member.status().groups.iter().map(|g| g.rekeys).collect();
    assert_eq!(rekeys, [1, 0, 0], "the first goes on");
}

#[test]
fn every_group_is_renewed_in_time_and_left_at_the_end() {
    let mut bench = bench(&both());
    bench.run(secs(3700));
    let groups = bench.nodes[&10].member.status().groups;
    assert!(groups.iter().all(|g| g.registered && g.registrations >= 2), "{groups:?}");
    bench.member(10, Member::leave);
    bench.run(secs(10));
    assert_eq!(bench.nodes[&10].count(|e| *e == MemberEvent::Left), 1);
    for group in [GROUP, "group-2", "group-3"] {
        assert_eq!(state(&bench, group), Some(MemberState::Left), "{group}");
    }
    assert_eq!(
        bench.model.group(GROUP).unwrap().member_views().iter().filter(|m| m.protocol == Protocol::Gdoi).count(),
        1
    );
}
