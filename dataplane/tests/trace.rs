//! Looking at single packets, and asking what would become of some.
#![allow(clippy::unwrap_used)]

mod support;

use std::sync::Arc;
use std::time::Duration;

use dataplane::{
    Explanation, Flow, FlowFilter, FlowPadding, Frame, LocalPolicy, Rule, RuleAction, Sizes, Tap, TracedStatus, Way,
};
use keyferry_model::policy::{AddressPreservation, EspMode, SequenceNumbers};
use keyferry_model::tunnel::Tunnel;
use support::*;

const GROUP: &str = "239.192.0.1";
const GROUP6: &str = "ff15::1";

/// Has a member's packets looked at.
fn tap(member: &mut Member, filter: FlowFilter, room: usize) -> Arc<Tap> {
    let tap = Arc::new(Tap::new(filter, room, Box::new(|| Duration::from_micros(17))));
    member.sad.set_tap(Some(Arc::clone(&tap)));
    tap
}

fn taken(tap: &Tap) -> Vec<TracedStatus> {
    let taken = tap.take();
    assert_eq!(taken.missed, 0);
    taken.packets.into_iter().map(TracedStatus::from).collect()
}

fn results(packets: &[TracedStatus]) -> Vec<(&str, Option<&str>)> {
    packets.iter().map(|packet| (packet.result, packet.reason)).collect()
}

#[test]
fn a_packet_is_followed_from_its_sender_to_its_receiver() {
    for mode in MODES {
        for (transform, group, iv_len) in [(GCM, GROUP, 8), (CBC, GROUP6, 16)] {
            let mut policy = policy(transform, mode, group);
            (policy.sequence, policy.replay_window) = (SequenceNumbers::Sequential, 64);
            let (mut alice, mut bob) = (Member::with(0x1000, &policy, 0xabc), Member::with(0x1000, &policy, 2));
            let (sent, came) = (tap(&mut alice, FlowFilter::default(), 9), tap(&mut bob, FlowFilter::default(), 9));
            let plain = udp(1, group, b"secret");
            let sealed = alice.seal(&plain).unwrap();
            assert_eq!(bob.open(&sealed).unwrap(), plain);
            assert!(bob.open(&sealed).is_err());

            let out = taken(&sent);
            assert_eq!(results(&out), [("sealed", None)]);
            let esp = esp_at(&sealed);
            let hex = |octets: &[u8]| octets.iter().map(|o| format!("{o:02x}")).collect::<String>();
            let expected = TracedStatus {
                at_micros: 17,
                direction: "out",
                result: "sealed",
                reason: None,
                source: dataplane::packet::Headers::parse(&plain).unwrap().source,
                destination: group.parse().unwrap(),
                protocol: 17,
                ports: Some((5000, 5001)),
                octets_before: plain.len(),
                octets_after: Some(sealed.len()),
                policy: out[0].policy.clone(),
                spi: Some("0x00001000".to_owned()),
                sequence: Some(1),
                iv: Some(hex(&sealed[esp + 8..esp + 8 + iv_len])),
                sender_id: (iv_len == 8).then_some(0xabc),
            };
            assert_eq!(out, std::slice::from_ref(&expected));
            assert!(out[0].policy.as_ref().is_some_and(|policy| policy.destination.starts_with(group)));

            let back = taken(&came);
            assert_eq!(results(&back), [("opened", None), ("dropped", Some("InStateSeqError"))]);
            let opened = TracedStatus {
                direction: "in",
                result: "opened",
                octets_before: sealed.len(),
                octets_after: Some(plain.len()),
                ..expected.clone()
            };
            assert_eq!(back[0], opened);
            // What was not opened is the protected packet still.
            assert_eq!((back[1].protocol, back[1].ports, back[1].sequence), (50, None, Some(1)));
            assert_eq!((back[1].octets_before, back[1].octets_after), (sealed.len(), None));
            assert!(taken(&came).is_empty(), "a packet is taken out once");
            // Nothing of what is in a packet is in what is said of it.
            let said = serde_json::to_string(&back).unwrap();
            assert!(!said.contains("secret") && !said.contains(&hex(b"secret")), "{said}");
        }
    }
}

#[test]
fn only_the_flow_that_was_asked_for_is_looked_at() {
    let policies = [policy(GCM, EspMode::Tunnel, GROUP), policy(GCM, EspMode::Tunnel, "239.192.0.2")];
    let both = |id| {
        let mut member = Member::new(u64::from(id));
        let install = policies.iter().zip(0x1000..).map(|(policy, spi)| new_sa(spi, policy, spi.into())).collect();
        member.sad.apply(registration(install, ids(&[id])), at(0)).unwrap();
        member
    };
    let (mut alice, mut bob) = (both(1), both(2));
    let packets = [udp(1, GROUP, b"a"), udp(9, GROUP, b"b"), udp(1, "239.192.0.2", b"c"), udp(1, "239.192.0.3", b"d")];
    let mut seen = |filter: FlowFilter| {
        let (sent, came) = (tap(&mut alice, filter.clone(), 9), tap(&mut bob, filter, 9));
        let wire: Vec<_> = alice.seal_all(&packets).into_iter().flatten().collect();
        bob.open_all(&wire);
        (results(&taken(&sent)).len(), results(&taken(&came)).len())
    };
    let any = FlowFilter::default;
    assert_eq!(seen(any()), (4, 3));
    assert_eq!(seen(FlowFilter { source: Some(side("10.0.0.1", 32)), ..any() }), (3, 2));
    assert_eq!(seen(FlowFilter { destination: Some(side(GROUP, 32)), ..any() }), (2, 2));
    assert_eq!(
        seen(FlowFilter { destination: Some(side("239.192.0.0", 24)), protocol: 17, port: 5001, ..any() }),
        (4, 3)
    );
    assert_eq!(seen(FlowFilter { protocol: 6, ..any() }), (0, 0));
    assert_eq!(seen(FlowFilter { port: 5000, ..any() }), (0, 0), "it is the source port");
    assert_eq!(seen(FlowFilter { spi: Some(0x1001), ..any() }), (1, 1));
    assert_eq!(seen(FlowFilter { source: Some(side("::", 0)), ..any() }), (0, 0));
}

#[test]
fn what_is_dropped_is_shown_with_its_reason() {
    let policy = policy(GCM, EspMode::Tunnel, GROUP);
    let (mut alice, mut bob) = (Member::with(0x1000, &policy, 1), Member::with(0x1000, &policy, 2));
    let mut idless = Member::new(3);
    idless.sad.apply(registration(vec![new_sa(0x1000, &policy, 7)], None), at(0)).unwrap();
    let filter = FlowFilter { destination: Some(side(GROUP, 32)), port: 5001, ..FlowFilter::default() };
    let (sent, came) = (tap(&mut idless, filter.clone(), 9), tap(&mut bob, filter, 9));
    assert!(idless.seal(&udp(1, GROUP, b"x")).is_err());
    let out = taken(&sent);
    assert_eq!(results(&out), [("dropped", Some("OutNoSenderId"))]);
    assert_eq!((out[0].spi.as_ref(), out[0].octets_after), (None, None));
    assert!(out[0].policy.is_some());

    let mut forged = alice.seal(&udp(1, GROUP, b"x")).unwrap();
    *forged.last_mut().unwrap() ^= 1;
    assert!(bob.open(&forged).is_err());
    let mut unknown = forged.clone();
    unknown[20..24].copy_from_slice(&0x4711u32.to_be_bytes());
    assert!(bob.open(&unknown).is_err());
    assert!(bob.open(&unknown[..10]).is_err(), "which belongs to no flow");
    assert!(bob.open(&udp(1, GROUP, b"no ESP")).is_err());
    let back = taken(&came);
    assert_eq!(results(&back), [("dropped", Some("InStateProtoError")), ("dropped", Some("InNoStates"))]);
    assert_eq!(back[1].spi.as_deref(), Some("0x00004711"));
    assert_eq!((back[0].sender_id, back[1].sender_id), (Some(1), None));
}

#[test]
fn what_the_link_does_not_take_is_no_drop_yet() {
    let mut alice = Member::with(0x1000, &policy(GCM, EspMode::Tunnel, GROUP), 1);
    let sent = tap(&mut alice, FlowFilter::default(), 9);
    alice.sad.snapshot().set_link_mtu(100);
    assert!(alice.seal(&udp(1, GROUP, &[0; 50])).is_err());
    assert_eq!(results(&taken(&sent)), [("too-big", Some("OutTooBig"))]);
    let told = alice.sad.snapshot().explain(&flow(GROUP, 78)).unwrap();
    assert_eq!((told.dropped, told.tried[0].refused), (Some("OutTooBig"), Some("OutTooBig")));
    assert_eq!(alice.sad.snapshot().explain(&flow(GROUP, 40)).unwrap().dropped, None);
}

#[test]
fn addresses_of_a_tunnel_that_hides_them_are_those_of_the_packet_inside() {
    let mut policy = policy(GCM, EspMode::Tunnel, GROUP);
    policy.preservation = AddressPreservation::None;
    let of = |id| {
        let mut member = Member::new(id);
        let ends = Tunnel { local: Some("192.0.2.1".parse().unwrap()), remote: Some("239.1.1.1".parse().unwrap()) };
        member.sad.set_tunnel(ends);
        member.sad.apply(registration(vec![new_sa(0x1000, &policy, 7)], ids(&[id as u32])), at(0)).unwrap();
        member
    };
    let (mut alice, mut bob) = (of(1), of(2));
    let filter = FlowFilter { destination: Some(side(GROUP, 32)), ..FlowFilter::default() };
    let came = tap(&mut bob, filter, 9);
    let sealed = alice.seal(&udp(1, GROUP, b"x")).unwrap();
    assert!(bob.open(&sealed).is_ok());
    let mut forged = sealed;
    *forged.last_mut().unwrap() ^= 1;
    assert!(bob.open(&forged).is_err());
    // Whose the second was nobody knows; by its SPI it can be asked for.
    assert_eq!(results(&taken(&came)), [("opened", None)]);
    let came = tap(&mut bob, FlowFilter { spi: Some(0x1000), ..FlowFilter::default() }, 9);
    assert!(bob.open(&forged).is_err());
    assert_eq!(results(&taken(&came)), [("dropped", Some("InStateProtoError"))]);
}

#[test]
fn a_tap_is_bounded_and_can_be_shut() {
    let policy = policy(GCM, EspMode::Tunnel, GROUP);
    let mut alice = Member::with(0x1000, &policy, 1);
    let sent = tap(&mut alice, FlowFilter::default(), 3);
    let packets: Vec<_> = (0..200).map(|n| numbered(1, GROUP, n)).collect();
    assert!(alice.seal_all(&packets).iter().all(Result::is_ok));
    let first = sent.take();
    assert_eq!((first.packets.len(), first.missed), (3, 197));
    assert_eq!(first.packets.iter().map(|p| p.sequence).collect::<Vec<_>>(), [Some(1), Some(2), Some(3)]);
    // What was taken out makes room.
    assert!(alice.seal(&packets[0]).is_ok());
    assert_eq!((sent.take().packets.len(), sent.take().missed), (1, 0));
    // It goes on through a rekey, and ends when it is shut.
    alice.sad.apply(rekey(vec![new_sa(0x1001, &policy, 8)], &[0x1000], 0, 0), at(10)).unwrap();
    assert!(alice.seal(&packets[0]).is_ok());
    assert_eq!(taken(&sent)[0].spi.as_deref(), Some("0x00001001"));
    alice.sad.set_tap(None);
    assert!(alice.seal(&packets[0]).is_ok());
    assert!(taken(&sent).is_empty());
    assert_eq!(Arc::strong_count(&sent), 1, "nobody holds it");
}

fn flow(destination: &str, octets: usize) -> Flow {
    let (source, destination) = ("10.0.0.1".parse().unwrap(), destination.parse().unwrap());
    Flow { source, destination, protocol: 17, ports: Some((5000, 5001)), octets }
}

#[test]
fn a_dry_run_says_what_then_happens() {
    for mode in MODES {
        let paddings = [FlowPadding::None, FlowPadding::Step(64.try_into().unwrap())];
        for (transform, padding) in transforms().into_iter().flat_map(|t| paddings.clone().map(|padding| (t, padding)))
        {
            let policy = policy(transform, mode, GROUP);
            let mut alice = Member::new(1);
            alice.sad.set_sizes(Sizes { padding, ..Sizes::default() });
            alice.sad.apply(registration(vec![new_sa(0x1000, &policy, 7)], ids(&[1])), at(0)).unwrap();
            let plain = udp(1, GROUP, b"thirteen plus");
            let before = alice.sad.status();
            let told = alice.sad.snapshot().explain(&flow(GROUP, plain.len())).unwrap();
            assert_eq!(alice.sad.status(), before, "nothing is taken or counted");
            // With room for padding.
            let mut frame = Frame::new(200);
            frame.space()[..plain.len()].copy_from_slice(&plain);
            frame.filled(plain.len());
            alice.sad.snapshot().seal(&mut frame, &mut alice.ivs).unwrap();
            assert_eq!((told.dropped, &told.opened_by[..]), (None, &["0x00001000".to_owned()][..]));
            assert_eq!(told.tried.len(), 1);
            assert_eq!((told.tried[0].octets, told.tried[0].refused), (Some(frame.packet().len()), None));
        }
    }
}

#[test]
fn a_dry_run_says_why_not() {
    let told = |member: &Member, flow: &Flow| -> Explanation { member.sad.snapshot().explain(flow).unwrap() };
    let mut selective = policy(GCM, EspMode::Tunnel, GROUP);
    (selective.destination.protocol, selective.destination.port) = (17, 5001);
    let alice = Member::with(0x1000, &selective, 1);
    assert_eq!(told(&alice, &flow(GROUP, 100)).dropped, None);
    for other in [
        flow("239.192.0.2", 100),
        Flow { ports: Some((5001, 5000)), ..flow(GROUP, 100) },
        Flow { protocol: 6, ..flow(GROUP, 100) },
    ] {
        let told = told(&alice, &other);
        assert_eq!((told.policy, told.dropped, told.opened_by.len()), (None, Some("OutNoPols"), 0), "{other:?}");
    }
    let long = told(&alice, &flow(GROUP, 65_500));
    assert_eq!((long.dropped, long.tried[0].refused), (Some("OutBundleGenError"), Some("OutBundleGenError")));
    assert_eq!(alice.sad.snapshot().explain(&flow("ff15::1", 100)), None, "there is no such packet");

    let mut idless = Member::new(3);
    idless.sad.apply(registration(vec![new_sa(0x1000, &selective, 7)], None), at(0)).unwrap();
    let without = told(&idless, &flow(GROUP, 100));
    assert_eq!((without.dropped, without.opened_by.len()), (Some("OutNoSenderId"), 1));
    idless.sad.flush();
    assert_eq!(told(&idless, &flow(GROUP, 100)).dropped, Some("OutNoPols"));
}

#[test]
fn a_dry_run_knows_the_local_rules() {
    let mut alice = Member::new(1);
    let rule = |action, group| Rule { action, way: Way::Out, source: side("0.0.0.0", 0), destination: side(group, 32) };
    let rules = vec![rule(RuleAction::Discard, "239.192.0.9"), rule(RuleAction::BypassProtected, "239.192.0.8")];
    alice.sad.set_local_policy(LocalPolicy { rules, ..LocalPolicy::default() });
    let told = |group| {
        let told = alice.sad.snapshot().explain(&flow(group, 100)).unwrap();
        (told.clear, told.dropped)
    };
    assert_eq!(told("239.192.0.9"), (false, Some("OutPolBlock")));
    assert_eq!(told("239.192.0.8"), (true, None));
    assert_eq!(told(GROUP), (false, Some("OutNoPols")));
    assert!(alice.sad.status().rules.iter().all(|rule| rule.packets == 0), "nothing is counted");
}

#[test]
fn a_dry_run_knows_who_sends_through_a_roll_over() {
    let policy = policy(GCM, EspMode::Tunnel, GROUP);
    let mut alice = Member::with(0x1000, &policy, 1);
    alice.sad.apply(rekey(vec![new_sa(0x1001, &policy, 8)], &[0x1000], 1_000, 2_000), at(0)).unwrap();
    let by = |alice: &Member| {
        let told = alice.sad.snapshot().explain(&flow(GROUP, 100)).unwrap();
        (told.tried[0].spi.clone(), told.opened_by.join(" "))
    };
    assert_eq!(by(&alice), ("0x00001000".to_owned(), "0x00001000 0x00001001".to_owned()));
    alice.sad.expire(at(1_000));
    assert_eq!(by(&alice), ("0x00001001".to_owned(), "0x00001000 0x00001001".to_owned()));
    alice.sad.expire(at(2_000));
    assert_eq!(by(&alice), ("0x00001001".to_owned(), "0x00001001".to_owned()));
}
