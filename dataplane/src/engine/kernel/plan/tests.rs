//! What the kernel is to have, on virtual time and without one.

use keyferry_model::update::{GroupUpdate, Removal};

use super::*;
use crate::engine::kernel::testing::{GROUP, at, ground, ip, policy, sa, side, update};
use crate::sad::Flow;

/// What becomes of a packet.
fn becomes(
    policies: &Policies,
    direction: Direction,
    from: &str,
    to: &str,
    protocol: u8,
    ports: (u16, u16),
) -> Option<Action> {
    let flow = Flow { source: ip(from), destination: ip(to), protocol, ports: Some(ports), octets: 100 };
    decides(policies, direction, &flow.headers().unwrap()).map(|policy| policy.action)
}

fn udp_out(policies: &Policies) -> Option<Action> {
    becomes(policies, Direction::Out, "10.0.0.1", GROUP, 17, (4_000, 5_000))
}

fn sends_by(policies: &Policies) -> Option<u32> {
    match udp_out(policies)? {
        Action::Protect(template) => Some(template.spi),
        Action::Block => None,
        Action::Pass => panic!("it leaves in clear"),
    }
}

#[test]
fn nothing_leaves_or_comes_in_clear_before_there_are_keys_but_what_the_network_needs() {
    let mut ground = ground(&[("239.192.0.0", 16), ("ff15::", 16)]);
    ground.clear.insert("239.192.1.1:848".parse().unwrap());
    ground.clear.insert("224.9.9.9:848".parse().unwrap());
    let policies = ground.policies(&Sad::new());
    for direction in [Direction::In, Direction::Out] {
        let decides = |from, to, protocol, ports| becomes(&policies, direction, from, to, protocol, ports);
        assert_eq!(decides("10.0.0.1", GROUP, 17, (1, 2)), Some(Action::Block));
        assert_eq!(decides("fd00::1", "ff15::1", 17, (1, 2)), Some(Action::Block));
        assert_eq!(decides("10.0.0.1", "224.0.0.5", 89, (0, 0)), None, "others are none of its business");
        // IGMP reports of version 2 and queries go to the group itself; so do those of MLD.
        assert_eq!(decides("10.0.0.1", GROUP, 2, (0, 0)), Some(Action::Pass));
        assert_eq!(decides("fe80::1", "ff15::1", 58, (131, 0)), Some(Action::Pass));
        assert_eq!(decides("fe80::1", "ff15::1", 58, (128, 0)), Some(Action::Block), "no echo request");
    }
    // Rekeys come in clear, to their own port.
    assert_eq!(becomes(&policies, Direction::In, "10.0.0.9", "239.192.1.1", 17, (848, 848)), Some(Action::Pass));
    assert_eq!(becomes(&policies, Direction::In, "10.0.0.9", "239.192.1.1", 17, (848, 849)), Some(Action::Block));
    assert_eq!(becomes(&policies, Direction::Out, "10.0.0.9", "239.192.1.1", 17, (848, 848)), Some(Action::Block));
    assert!(policies.keys().all(|(_, scope)| scope.destination.0 != ip("224.9.9.9")), "it is not blocked anyway");
}

#[test]
fn senders_wait_for_activation_and_what_has_gone_is_blocked() {
    let (mut sad, ground) = (Sad::new(), ground(&[]));
    let policy = policy(GROUP, EspMode::Transport);
    assert_eq!(udp_out(&ground.policies(&sad)), None);
    let mut there = Policies::new();
    // Every step on the way leaves the group's traffic either blocked or protected.
    let mut settle = |sad: &Sad, ground: &Ground, guarded: bool| {
        let wanted = ground.policies(sad);
        for step in steps(&there, &wanted) {
            match step {
                Step::Add(key, policy) => assert!(there.insert(key, policy).is_none()),
                Step::Replace(key, policy) => assert!(there.insert(key, policy).is_some()),
                Step::Remove(key) => assert!(there.remove(&key).is_some()),
            }
            assert!(!guarded || udp_out(&there).is_some_and(|action| action != Action::Pass));
        }
        assert_eq!(there, wanted);
        sends_by(&there)
    };
    sad.apply(update(vec![sa(0x1001, &policy, SaDirection::Symmetric)], &[]), at(0)).unwrap();
    assert_eq!(settle(&sad, &ground, false), Some(0x1001), "there is no other");
    sad.apply(update(vec![sa(0x1002, &policy, SaDirection::Symmetric)], &[0x1001]), at(10_000)).unwrap();
    assert_eq!(settle(&sad, &ground, true), Some(0x1001));
    assert_eq!(sad.installed().count(), 2, "received by both");
    sad.expire(at(11_999));
    assert_eq!(settle(&sad, &ground, true), Some(0x1001));
    sad.expire(at(12_000));
    assert_eq!(settle(&sad, &ground, true), Some(0x1002));
    sad.expire(at(15_000));
    assert_eq!(settle(&sad, &ground, true), Some(0x1002));
    assert_eq!(sad.installed().count(), 1);
    let inbound = becomes(&ground.policies(&sad), Direction::In, "10.0.0.2", GROUP, 17, (1, 2));
    let template = Template { mode: EspMode::Transport, spi: 0, reqid: ground.label.reqid, outer: None };
    assert_eq!(inbound, Some(Action::Protect(template)), "clear packets of others have no place");
    sad.flush();
    assert_eq!(settle(&sad, &ground, true), None);
    assert_eq!(becomes(&ground.policies(&sad), Direction::In, "10.0.0.2", GROUP, 17, (1, 2)), Some(Action::Block));
}

/// What the policy names no more is blocked until its roll-over is over. What was configured is blocked for good.
#[test]
fn what_the_policy_names_no_more_passes_when_its_roll_over_is_over() {
    let (mut sad, ground) = (Sad::new(), ground(&[("239.200.0.0", 16)]));
    let [before, after] = ["239.192.0.1", "239.200.0.1"].map(|group| policy(group, EspMode::Transport));
    let to = |sad: &Sad, group| becomes(&ground.policies(sad), Direction::Out, "10.0.0.1", group, 17, (1, 2));
    sad.apply(update(vec![sa(0x1001, &before, SaDirection::Symmetric)], &[]), at(0)).unwrap();
    sad.apply(update(vec![sa(0x1002, &after, SaDirection::Symmetric)], &[0x1001]), at(10_000)).unwrap();
    sad.expire(at(14_999));
    assert!(matches!(to(&sad, GROUP), Some(Action::Protect(_))), "others may not know yet");
    sad.expire(at(15_000));
    assert_eq!(to(&sad, GROUP), None);
    // The next policy ends by itself: there is none that names something else.
    sad.expire(at(5_000_000));
    assert_eq!((sad.installed().count(), to(&sad, "239.200.0.1")), (0, Some(Action::Block)));
    sad.apply(update(vec![sa(0x1003, &before, SaDirection::Symmetric)], &[]), at(5_000_001)).unwrap();
    sad.apply(GroupUpdate { remove: Removal::All, ..update(vec![], &[]) }, at(5_000_002)).unwrap();
    sad.expire(at(6_000_000));
    assert_eq!((sad.installed().count(), to(&sad, GROUP)), (0, Some(Action::Block)), "nothing has come in its place");
    let anew = update(vec![sa(0x1004, &after, SaDirection::Symmetric)], &[]);
    sad.apply(GroupUpdate { remove: Removal::All, ..anew }, at(6_000_001)).unwrap();
    sad.expire(at(6_005_001));
    assert_eq!(to(&sad, GROUP), None);
    sad.apply(update(vec![sa(0x1005, &before, SaDirection::Symmetric)], &[0x1004]), at(6_006_000)).unwrap();
    sad.expire(at(6_100_000));
    assert_eq!(to(&sad, "239.200.0.1"), Some(Action::Block), "the member itself wants it so");
}

#[test]
fn numbers_that_are_used_up_turn_senders_to_the_next_key() {
    let (mut sad, ground) = (Sad::new(), ground(&[]));
    let policy = policy(GROUP, EspMode::Transport);
    sad.apply(update(vec![sa(0x1001, &policy, SaDirection::Symmetric)], &[]), at(0)).unwrap();
    sad.apply(update(vec![sa(0x1002, &policy, SaDirection::Symmetric)], &[]), at(3_000)).unwrap();
    assert_eq!(sends_by(&ground.policies(&sad)), Some(0x1001));
    let (first, _) = sad.installed().next().unwrap();
    first.state.numbers.reach(u32::MAX - 1);
    assert_eq!(sends_by(&ground.policies(&sad)), Some(0x1001));
    assert!(!sad.needs_rekey(), "the next are there");
    first.state.numbers.reach(u32::MAX);
    assert_eq!(sends_by(&ground.policies(&sad)), Some(0x1002));
}

#[test]
fn who_only_receives_sends_nothing_and_the_other_way_round() {
    for (mut sad, direction) in [(Sad::receive_only(), SaDirection::Symmetric), (Sad::new(), SaDirection::ReceiverOnly)]
    {
        let ground = ground(&[]);
        sad.apply(update(vec![sa(0x1001, &policy(GROUP, EspMode::Transport), direction)], &[]), at(0)).unwrap();
        let policies = ground.policies(&sad);
        assert_eq!(udp_out(&policies), Some(Action::Block));
        let inbound = becomes(&policies, Direction::In, "10.0.0.2", GROUP, 17, (1, 2));
        assert!(matches!(inbound, Some(Action::Protect(_))), "{inbound:?}");
    }
    let (mut sad, ground) = (Sad::new(), ground(&[]));
    let only = sa(0x1001, &policy(GROUP, EspMode::Transport), SaDirection::SenderOnly);
    sad.apply(update(vec![only], &[]), at(0)).unwrap();
    let policies = ground.policies(&sad);
    // Its state has another request ID, so that no inbound policy ever takes what comes by it.
    assert!(
        matches!(udp_out(&policies), Some(Action::Protect(t)) if t.reqid == ground.label.sending && t.spi == 0x1001)
    );
    assert_eq!(becomes(&policies, Direction::In, "10.0.0.2", GROUP, 17, (1, 2)), Some(Action::Block));
    assert_ne!(ground.label.reqid, ground.label.sending);
    assert!(ground.label.is_ours(ground.label.sending) && !ground.label.is_ours(1));
    assert_ne!(Label::of("kf0"), Label::of("kf1"));
}

#[test]
fn tunnels_have_the_ends_that_their_policy_or_the_member_says() {
    let tunnel = Tunnel { local: Some(ip("10.0.0.1")), remote: Some(ip("239.255.0.1")) };
    let ground = Ground { tunnel, ..ground(&[]) };
    let mut policy = policy(GROUP, EspMode::Tunnel);
    let group = BTreeSet::from([ip(GROUP)]);
    assert_eq!(ground.addresses(&policy, SaDirection::Symmetric), group);
    assert_eq!(ground.outer_source(&policy), ip("0.0.0.0"), "who only receives does not care");
    policy.source = side("10.0.0.7", 32);
    assert_eq!(ground.outer_source(&policy), ip("10.0.0.7"));
    policy.preservation = AddressPreservation::Destination;
    assert_eq!(
        (ground.outer_source(&policy), ground.addresses(&policy, SaDirection::Symmetric)),
        (ip("10.0.0.1"), group)
    );
    policy.preservation = AddressPreservation::None;
    // To the common multicast address, where others' packets come too, and to ourselves.
    let both = BTreeSet::from([ip("239.255.0.1"), ip("10.0.0.1")]);
    assert_eq!(ground.addresses(&policy, SaDirection::Symmetric), both);
    assert_eq!(ground.addresses(&policy, SaDirection::ReceiverOnly), both);
    assert_eq!(ground.addresses(&policy, SaDirection::SenderOnly), BTreeSet::from([ip("239.255.0.1")]));
    let gateway = Ground { tunnel: Tunnel { remote: Some(ip("10.0.0.2")), ..tunnel }, ..self::ground(&[]) };
    assert_eq!(gateway.addresses(&policy, SaDirection::ReceiverOnly), BTreeSet::from([ip("10.0.0.1")]));
    let (mut sad, ground) = (Sad::new(), ground);
    sad.set_tunnel(tunnel);
    sad.apply(update(vec![sa(0x1001, &policy, SaDirection::Symmetric)], &[]), at(0)).unwrap();
    let policies = ground.policies(&sad);
    let action = becomes(&policies, Direction::Out, "10.0.0.7", GROUP, 17, (1, 2));
    let outer = Some((ip("10.0.0.1"), ip("239.255.0.1")));
    assert!(matches!(action, Some(Action::Protect(template)) if template.outer == outer), "{action:?}");
    // The line is about one source. What others send to the group is blocked.
    assert_eq!(udp_out(&policies), Some(Action::Block));
}

#[test]
fn lines_are_tried_in_the_order_of_the_policy() {
    let (mut sad, ground) = (Sad::new(), ground(&[]));
    let any = policy(GROUP, EspMode::Transport);
    let mut narrow = any.clone();
    narrow.source = side("10.0.0.0", 24);
    let both = vec![sa(0x1001, &narrow, SaDirection::Symmetric), sa(0x1002, &any, SaDirection::Symmetric)];
    sad.apply(update(both, &[]), at(0)).unwrap();
    assert_eq!(sends_by(&ground.policies(&sad)), Some(0x1001));
    let other = becomes(&ground.policies(&sad), Direction::Out, "10.7.0.1", GROUP, 17, (1, 2));
    assert!(matches!(other, Some(Action::Protect(template)) if template.spi == 0x1002));
    // A line without keys gives way to the next.
    sad.apply(update(vec![], &[0x1001]), at(10_000)).unwrap();
    sad.expire(at(20_000));
    assert_eq!(sends_by(&ground.policies(&sad)), Some(0x1002));
}
