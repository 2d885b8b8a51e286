//! The member's own policy: rules in front of the group's lines, and traffic for which there are no keys.
#![allow(clippy::unwrap_used)]

mod support;

use std::net::IpAddr;

use dataplane::{DropReason, Frame, IvSource, LocalPolicy, Rule, RuleAction, Sad, Sealed, Way, WithoutKeys};
use keyferry_crypto::SeededRandom;
use keyferry_model::policy::{EspMode, SaDirection, Selector, TrafficPolicy};
use proptest::prelude::*;
use support::*;

const GROUP: &str = "239.192.0.1";
const OTHER: &str = "239.192.0.2";

fn rule(action: RuleAction, destination: &str, prefix: u8) -> Rule {
    Rule { source: side("0.0.0.0", 0), destination: side(destination, prefix), action, way: Way::Both }
}

fn member(rules: &[Rule], without_keys: WithoutKeys) -> Member {
    let mut member = Member::new(1);
    member.sad.set_local_policy(LocalPolicy { rules: rules.to_vec(), without_keys });
    member
}

fn register(member: &mut Member, groups: &[&str], at_millis: u64) {
    let policies = groups.iter().map(|group| policy(GCM, EspMode::Tunnel, group));
    let sas = (1_000..).zip(policies).map(|(spi, policy)| new_sa(spi, &policy, spi.into())).collect();
    member.sad.apply(registration(sas, ids(&[1])), at(at_millis)).unwrap();
}

#[derive(Debug, PartialEq, Eq)]
enum Sent {
    Protected,
    Clear,
    Dropped(DropReason),
}

/// What becomes of a packet. One that passes in clear is as it was.
fn send(member: &mut Member, packet: &[u8]) -> Sent {
    let mut frame = Frame::holding(packet);
    match member.sad.snapshot().seal(&mut frame, &mut member.ivs) {
        Ok(Sealed::CLEAR) => {
            assert_eq!(frame.packet(), packet);
            Sent::Clear
        }
        Ok(_) => {
            assert_eq!(frame.packet()[9], 50);
            Sent::Protected
        }
        Err(reason) => Sent::Dropped(reason),
    }
}

fn to(member: &mut Member, group: &str) -> Sent {
    send(member, &udp(1, group, b"x"))
}

const NO_POLICY: Sent = Sent::Dropped(DropReason::OutNoPols);
const BLOCKED: Sent = Sent::Dropped(DropReason::OutPolBlock);

#[test]
fn a_bypass_is_for_what_the_group_does_not_protect() {
    let mut member = member(&[rule(RuleAction::Bypass, "239.192.0.0", 16)], WithoutKeys::Drop);
    assert_eq!(to(&mut member, OTHER), NO_POLICY, "nobody knows yet what the group protects");
    register(&mut member, &[GROUP], 0);
    assert_eq!(to(&mut member, GROUP), Sent::Protected);
    assert_eq!(to(&mut member, OTHER), Sent::Clear);
    assert_eq!(to(&mut member, "239.200.0.1"), NO_POLICY);
    let status = member.sad.status();
    assert_eq!((status.rules[0].packets, status.rules[0].octets), (1, udp(1, OTHER, b"x").len() as u64));
    assert_eq!((status.rules[0].action, status.clear_without_keys, status.drops["OutNoPols"]), ("bypass", 0, 2));
}

/// What the group protects stays what it protects when the keys are gone, whatever took them.
#[test]
fn a_bypass_does_not_take_over_when_keys_end() {
    for ends in ["exclusion", "lifetime", "removal"] {
        let mut member = member(&[rule(RuleAction::Bypass, "239.192.0.0", 16)], WithoutKeys::Drop);
        register(&mut member, &[GROUP], 0);
        match ends {
            "exclusion" => member.sad.flush(),
            "lifetime" => member.sad.expire(at(3_600_000)),
            _ => member.sad.apply(rekey(vec![], &[1_000], 0, 0), at(10)).unwrap(),
        }
        assert!(member.sad.status().sas.is_empty());
        assert_eq!(to(&mut member, GROUP), NO_POLICY, "{ends}");
        assert_eq!(to(&mut member, OTHER), Sent::Clear, "{ends}");
    }
}

/// The host's own stack cuts datagrams that are larger than the TUN device takes. What is protected by its port is not sent in clear
/// by its later fragments, which show none.
#[test]
fn later_fragments_of_what_the_group_protects_do_not_pass_in_clear() {
    let fragment4 = |group: &str| {
        let mut packet = udp(1, group, &[7; 64]);
        packet[6..8].copy_from_slice(&[0, 100]);
        finish4(&mut packet);
        packet
    };
    let mut member = member(&[rule(RuleAction::Bypass, "239.192.0.0", 16)], WithoutKeys::Drop);
    let mut policy = policy(GCM, EspMode::Tunnel, GROUP);
    policy.destination = Selector { protocol: 17, port: 5_001, ..policy.destination };
    member.sad.apply(registration(vec![new_sa(1_000, &policy, 1)], ids(&[1])), at(0)).unwrap();
    assert_eq!(send(&mut member, &fragment4(GROUP)), NO_POLICY);
    assert_eq!(send(&mut member, &fragment4(OTHER)), Sent::Clear);
    let mut icmp = fragment4(GROUP);
    icmp[9] = 1;
    finish4(&mut icmp);
    assert_eq!(send(&mut member, &icmp), Sent::Clear, "another protocol");

    // The Fragment header's next header is that of the first header of the fragmentable part, here destination options.
    let fragment6 = |group: &str| {
        let mut packet = udp(1, group, &[7; 64]);
        packet[6] = 44;
        packet[40..48].copy_from_slice(&[60, 0, 1, 0, 0, 0, 0, 9]);
        packet
    };
    let (group, other) = ("ff15::1", "ff15::2");
    let any6 =
        Rule { source: side("::", 0), destination: side("ff15::", 64), action: RuleAction::Bypass, way: Way::Both };
    let mut member = self::member(&[any6], WithoutKeys::Drop);
    let mut policy = self::policy(GCM, EspMode::Tunnel, group);
    policy.destination = Selector { protocol: 17, ..policy.destination };
    member.sad.apply(registration(vec![new_sa(1_000, &policy, 1)], ids(&[1])), at(0)).unwrap();
    assert_eq!(send(&mut member, &fragment6(group)), NO_POLICY);
    assert_eq!(send(&mut member, &fragment6(other)), Sent::Clear);
}

/// A registration says anew what the group protects; so does a rekey, as far as it removes SAs and brings others.
#[test]
fn what_the_group_protects_is_what_its_latest_policy_names() {
    let mut member = member(&[rule(RuleAction::Bypass, "239.192.0.0", 16)], WithoutKeys::Drop);
    register(&mut member, &[GROUP, "239.192.0.3"], 0);
    let other = policy(GCM, EspMode::Tunnel, OTHER);
    member.sad.apply(rekey(vec![new_sa(2_000, &other, 9)], &[1_000], 0, 500), at(10)).unwrap();
    assert_eq!(member.sad.deadline().unwrap().at.as_millis(), 510);
    member.sad.expire(at(509));
    assert_eq!((to(&mut member, GROUP), to(&mut member, OTHER)), (Sent::Protected, Sent::Protected));
    member.sad.expire(at(510));
    assert_eq!((to(&mut member, GROUP), to(&mut member, "239.192.0.3")), (Sent::Clear, Sent::Protected));
    register(&mut member, &["239.192.0.3"], 600);
    assert_eq!((to(&mut member, GROUP), to(&mut member, OTHER)), (Sent::Clear, Sent::Clear));
}

/// Keys that others take the place of withdraw nothing, and what is named again in the meantime stays.
#[test]
fn what_is_withdrawn_can_be_named_again() {
    let mut member = member(&[rule(RuleAction::Bypass, "239.192.0.0", 16)], WithoutKeys::Drop);
    register(&mut member, &[GROUP, OTHER], 0);
    let [group, other] = [GROUP, OTHER].map(|group| policy(GCM, EspMode::Tunnel, group));
    // A second SA for the same line, which stays when the first one goes.
    member.sad.apply(rekey(vec![new_sa(2_000, &group, 9)], &[], 0, 500), at(10)).unwrap();
    member.sad.apply(rekey(vec![new_sa(2_001, &other, 10)], &[1_000, 1_001], 0, 500), at(20)).unwrap();
    member.sad.expire(at(600));
    assert_eq!((to(&mut member, GROUP), to(&mut member, OTHER)), (Sent::Protected, Sent::Protected));
    member.sad.apply(rekey(vec![new_sa(2_002, &other, 11)], &[2_000, 2_001], 0, 500), at(700)).unwrap();
    member.sad.apply(rekey(vec![new_sa(2_003, &group, 12)], &[], 0, 500), at(800)).unwrap();
    member.sad.flush();
    member.sad.expire(at(100_000));
    assert_eq!((to(&mut member, GROUP), to(&mut member, OTHER)), (NO_POLICY, NO_POLICY));
}

#[test]
fn only_a_rule_that_says_so_takes_traffic_from_the_group() {
    let mut member = member(&[rule(RuleAction::BypassProtected, GROUP, 32)], WithoutKeys::Drop);
    assert_eq!(to(&mut member, GROUP), Sent::Clear, "even before the first registration");
    register(&mut member, &[GROUP, OTHER], 0);
    assert_eq!((to(&mut member, GROUP), to(&mut member, OTHER)), (Sent::Clear, Sent::Protected));
}

#[test]
fn the_first_rule_that_matches_decides() {
    let rules = [
        rule(RuleAction::Discard, "239.192.7.7", 32),
        rule(RuleAction::Bypass, "239.192.7.0", 24),
        rule(RuleAction::Discard, "239.192.0.0", 16),
    ];
    let mut member = member(&rules, WithoutKeys::Drop);
    register(&mut member, &["239.192.7.1", "239.192.8.1"], 0);
    assert_eq!(to(&mut member, "239.192.7.7"), BLOCKED);
    assert_eq!(to(&mut member, "239.192.7.8"), Sent::Clear);
    assert_eq!(
        to(&mut member, "239.192.7.1"),
        Sent::Protected,
        "a bypass yields to the group, not to a rule behind it"
    );
    assert_eq!(to(&mut member, "239.192.8.1"), BLOCKED, "a discard does not");
    let packets: Vec<u64> = member.sad.status().rules.iter().map(|rule| rule.packets).collect();
    assert_eq!(packets, [1, 1, 1]);
    assert_eq!(member.sad.status().drops["OutPolBlock"], 2);
}

#[test]
fn a_discard_holds_for_what_was_opened_too_unless_it_says_which_way() {
    let policy = policy(GCM, EspMode::Tunnel, GROUP);
    for (way, out, inward) in [(Way::Both, true, true), (Way::Out, true, false), (Way::In, false, true)] {
        let rules = [Rule { way, ..rule(RuleAction::Discard, GROUP, 32) }];
        let mut member = member(&rules, WithoutKeys::Drop);
        let mut peer = Member::with(1_000, &policy, 2);
        member.sad.apply(registration(vec![new_sa(1_000, &policy, 7)], ids(&[1])), at(0)).unwrap();
        assert_eq!(to(&mut member, GROUP), if out { BLOCKED } else { Sent::Protected });
        let sealed = peer.seal(&udp(2, GROUP, b"x")).unwrap();
        assert_eq!(member.open(&sealed).err(), inward.then_some(DropReason::InPolBlock));
        assert_eq!(member.sad.status().drops["InPolBlock"], u64::from(inward));
    }
}

#[test]
fn without_keys_protected_traffic_passes_in_clear_only_where_that_was_chosen() {
    let expected = vec![(side("0.0.0.0", 0), side("239.192.0.0", 16))];
    let mut open = member(&[], WithoutKeys::Clear(expected));
    let mut closed = member(&[], WithoutKeys::Drop);
    assert_eq!((to(&mut open, GROUP), to(&mut closed, GROUP)), (Sent::Clear, NO_POLICY));
    assert_eq!(to(&mut open, "239.200.0.1"), NO_POLICY, "nobody expects that to be protected");
    for member in [&mut open, &mut closed] {
        register(member, &[GROUP], 0);
        assert_eq!((to(member, GROUP), to(member, OTHER)), (Sent::Protected, NO_POLICY));
        member.sad.flush();
    }
    assert_eq!((to(&mut open, GROUP), to(&mut closed, GROUP)), (Sent::Clear, NO_POLICY));
    assert_eq!(to(&mut open, OTHER), NO_POLICY, "the group has said that it does not protect that");
    assert_eq!(open.sad.status().clear_without_keys, 2);
    register(&mut open, &[GROUP], 10);
    assert_eq!(to(&mut open, GROUP), Sent::Protected);
    open.sad.expire(at(3_700_000));
    assert_eq!(to(&mut open, GROUP), Sent::Clear, "their lifetime is over");
}

/// Having keys that one may not send under is not having none.
#[test]
fn who_may_not_send_does_not_send_in_clear_either() {
    let policy = policy(GCM, EspMode::Tunnel, GROUP);
    let clear = || WithoutKeys::Clear(vec![(side("0.0.0.0", 0), side(GROUP, 32))]);
    let mut receiver = member(&[], clear());
    let mut one_way = new_sa(1_000, &policy, 7);
    one_way.direction = SaDirection::ReceiverOnly;
    receiver.sad.apply(registration(vec![one_way], None), at(0)).unwrap();
    assert_eq!(to(&mut receiver, GROUP), NO_POLICY);

    let mut nameless = member(&[], clear());
    nameless.sad.apply(registration(vec![new_sa(1_000, &policy, 7)], None), at(0)).unwrap();
    assert_eq!(to(&mut nameless, GROUP), Sent::Dropped(DropReason::OutNoSenderId));

    let mut silent = Member { sad: Sad::receive_only(), ivs: IvSource::new(&mut SeededRandom::new(1)) };
    silent.sad.set_local_policy(LocalPolicy { rules: Vec::new(), without_keys: clear() });
    assert_eq!(to(&mut silent, GROUP), NO_POLICY);
}

#[test]
fn what_is_no_packet_passes_no_rule() {
    let mut member = member(&[rule(RuleAction::BypassProtected, "0.0.0.0", 0)], WithoutKeys::Drop);
    assert_eq!(send(&mut member, b"noise"), Sent::Dropped(DropReason::OutHdrError));
    // Octets behind the packet are not sent.
    let packet = udp(1, GROUP, b"x");
    let mut frame = Frame::holding(&[&packet[..], b"secret"].concat());
    assert_eq!(member.sad.snapshot().seal(&mut frame, &mut member.ivs), Ok(Sealed::CLEAR));
    assert_eq!(frame.packet(), packet);
}

/// In bursts of 40, across flows: fates are those of the packets one by one.
#[test]
fn bursts_are_decided_packet_by_packet() {
    let rules = [rule(RuleAction::Discard, "239.192.0.3", 32), rule(RuleAction::Bypass, "239.192.0.0", 24)];
    let (mut together, mut alone) = (member(&rules, WithoutKeys::Drop), member(&rules, WithoutKeys::Drop));
    for member in [&mut together, &mut alone] {
        register(member, &[GROUP], 0);
    }
    let packets: Vec<Vec<u8>> = (0..40).map(|n| udp(1, &format!("239.192.{}.{}", n / 30, n % 5), b"x")).collect();
    let mut frames: Vec<Frame> = packets.iter().map(|packet| Frame::holding(packet)).collect();
    let mut fates = Vec::new();
    together.sad.snapshot().seal_burst(&mut frames, &mut together.ivs, &mut fates);
    let mut counts = [0; 3];
    for (packet, fate) in packets.iter().zip(fates) {
        let (expected, at) = match send(&mut alone, packet) {
            Sent::Protected => (true, 0),
            Sent::Clear => (true, 1),
            Sent::Dropped(_) => (false, 2),
        };
        assert_eq!((fate.is_ok(), fate == Ok(Sealed::CLEAR)), (expected, at == 1));
        counts[at] += 1;
    }
    assert!(counts.iter().all(|count| *count > 3), "{counts:?}");
    assert_eq!(together.sad.status().rules, alone.sad.status().rules);
}

#[derive(Clone, Debug)]
enum Step {
    Register(Vec<TrafficPolicy>),
    Rekey(Vec<TrafficPolicy>),
    Flush,
    Wait(u64),
}

fn network() -> impl Strategy<Value = Selector> {
    (0u8..4, prop_oneof![Just(32u8), Just(31), Just(30), Just(16)], prop_oneof![Just(0u8), Just(17), Just(6)]).prop_map(
        |(host, prefix, protocol)| {
            let (address, _) = side(&format!("239.192.0.{host}"), prefix).range();
            Selector { address, prefix, protocol, port: 0 }
        },
    )
}

fn lines() -> impl Strategy<Value = Vec<TrafficPolicy>> {
    let line = network().prop_map(|destination| {
        let source = Selector { protocol: destination.protocol, ..side("0.0.0.0", 0) };
        TrafficPolicy { source, destination, ..policy(CBC, EspMode::Tunnel, GROUP) }
    });
    proptest::collection::vec(line, 1..4)
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        2 => lines().prop_map(Step::Register),
        2 => lines().prop_map(Step::Rekey),
        1 => Just(Step::Flush),
        2 => (0u64..4_000_000).prop_map(Step::Wait),
    ];
    proptest::collection::vec(step, 0..10)
}

fn rules() -> impl Strategy<Value = Vec<Rule>> {
    let action = prop_oneof![Just(RuleAction::Discard), Just(RuleAction::Bypass), Just(RuleAction::BypassProtected)];
    let way = prop_oneof![Just(Way::Out), Just(Way::In), Just(Way::Both)];
    let rule = (network(), action, way).prop_map(|(destination, action, way)| {
        let source = Selector { protocol: destination.protocol, ..side("0.0.0.0", 0) };
        Rule { source, destination, action, way }
    });
    proptest::collection::vec(rule, 0..4)
}

fn holds(selector: &Selector, destination: IpAddr) -> bool {
    selector.contains(destination) && matches!(selector.protocol, 0 | 17)
}

/// What the group has told, in a few words: lines, and when those end that are withdrawn; SAs by SPI, their ends, and whether they leave.
#[derive(Default)]
struct ToldSoFar {
    lines: Vec<((Selector, Selector), Option<u64>)>,
    sas: Vec<(u32, (Selector, Selector), u64, bool)>,
}

impl ToldSoFar {
    fn expire(&mut self, now: u64) {
        self.lines.retain(|(_, until)| until.is_none_or(|until| until > now));
        self.sas.retain(|(_, _, ends, _)| *ends > now);
    }

    /// Installs SAs for these lines, `last` the highest SPI, and removes one that was there, a second from now.
    fn rekey(&mut self, lines: &[TrafficPolicy], last: u32, removes: Option<u32>, now: u64) {
        self.expire(now);
        let named: Vec<_> = lines.iter().map(|line| (line.source, line.destination)).collect();
        let mut gives_way = None;
        for (_, line, ends, leaves) in self.sas.iter_mut().filter(|(spi, ..)| Some(*spi) == removes) {
            (gives_way, *ends, *leaves) = (Some(*line), (*ends).min(now + 1_000), true);
        }
        let gives_way = gives_way.filter(|line| !self.sas.iter().any(|(_, other, _, leaves)| other == line && !leaves));
        self.lines.retain(|(line, _)| !named.contains(line));
        for (_, until) in self.lines.iter_mut().filter(|(line, _)| Some(*line) == gives_way) {
            until.get_or_insert(now + 1_000);
        }
        self.lines.extend(named.iter().map(|line| (*line, None)));
        let first = last + 1 - u32::try_from(named.len()).unwrap();
        self.sas.extend((first..).zip(named).map(|(spi, line)| (spi, line, now + 3_600_000, false)));
    }
}

proptest! {
    /// Whatever happens to the keys: what the group has said that it protects leaves in clear only if the first rule
    /// about it says so by name, or fail-open was chosen and there is no SA for it; and nothing that a rule discards leaves.
    #[test]
    fn nothing_protected_leaves_in_clear_unless_a_rule_says_so(rules in rules(), open in any::<bool>(), steps in steps()) {
        let without_keys = if open { WithoutKeys::Clear(Vec::new()) } else { WithoutKeys::Drop };
        let mut member = member(&rules, without_keys);
        let (mut told, mut now, mut spi) = (ToldSoFar::default(), 0, 1_000);
        for step in steps {
            let mut sas = |lines: &[TrafficPolicy]| {
                let mut seen = Vec::new();
                lines.iter().map(|line| {
                    spi += 1;
                    seen.push(line.destination);
                    new_sa(spi, line, spi.into())
                }).collect::<Vec<_>>()
            };
            match step {
                Step::Register(lines) => {
                    member.sad.apply(registration(sas(&lines), None), at(now)).unwrap();
                    // Without delays nothing of before is left.
                    told = ToldSoFar::default();
                    told.rekey(&lines, spi, None, now);
                }
                Step::Rekey(lines) => {
                    member.sad.apply(rekey(sas(&lines), &[spi - 1], 500, 1_000), at(now)).unwrap();
                    told.rekey(&lines, spi, Some(spi - 1), now);
                }
                Step::Flush => {
                    member.sad.flush();
                    told.sas.clear();
                }
                Step::Wait(millis) => {
                    now += millis;
                    member.sad.expire(at(now));
                    told.expire(now);
                }
            }
            for host in 0..4 {
                let group = format!("239.192.0.{host}");
                let ip: IpAddr = group.parse().unwrap();
                let first = rules.iter().find(|rule| rule.way != Way::In && holds(&rule.destination, ip));
                let is_told = told.lines.iter().any(|(line, _)| holds(&line.1, ip));
                let sent = to(&mut member, &group);
                match first.map(|rule| rule.action) {
                    Some(RuleAction::Discard) => prop_assert_eq!(sent, BLOCKED),
                    Some(RuleAction::BypassProtected) => prop_assert_eq!(sent, Sent::Clear),
                    Some(RuleAction::Bypass) if !is_told => {
                        prop_assert_eq!(sent, if told.lines.is_empty() { NO_POLICY } else { Sent::Clear });
                    }
                    Some(RuleAction::Bypass) | None if sent == Sent::Clear => {
                        prop_assert!(is_told && open, "{:?}", member.sad.status());
                        let has_keys = member.sad.status().sas.iter().any(|sa| sa.sending && {
                            let mut words = sa.destination.split(' ');
                            let network = words.next().unwrap();
                            let (address, prefix) = network.split_once('/').unwrap();
                            words.next().is_none_or(|protocol| protocol == "udp") && side(address, prefix.parse().unwrap()).contains(ip)
                        });
                        prop_assert!(!has_keys);
                    }
                    Some(RuleAction::Bypass) | None => {}
                }
            }
        }
    }
}
