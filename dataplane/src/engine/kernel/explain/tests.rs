//! Dry runs over plans, without a kernel.

use keyferry_model::policy::{EspMode, SaDirection, TrafficPolicy};

use super::super::plan::Ground;
use super::super::testing::{GROUP, at, ground, ip, policy, sa, side, update};
use super::*;
use crate::sad::ApplyError;

const NONE: BTreeSet<u32> = BTreeSet::new();

fn udp(destination: &str) -> Flow {
    let ports = Some((5_000, 5_001));
    Flow { source: ip("10.0.0.1"), destination: ip(destination), protocol: 17, ports, octets: 100 }
}

/// A SAD with one SA, which sends from the third second on, and what the kernel is given of it.
fn one(spi: u32, policy: &TrafficPolicy, direction: SaDirection) -> Result<(Sad, Ground), ApplyError> {
    let mut sad = Sad::new();
    sad.apply(update(vec![sa(spi, policy, direction)], &[]), at(0))?;
    sad.expire(at(2_000));
    Ok((sad, ground(&[(GROUP, 32)])))
}

#[test]
fn what_has_keys_is_sealed_by_the_state_that_the_policy_names() {
    for (mode, octets) in [(EspMode::Transport, 20 + 8 + 16 + 96 + 16), (EspMode::Tunnel, 20 + 8 + 16 + 112 + 16)] {
        let (sad, ground) = one(0x1001, &policy(GROUP, mode), SaDirection::Symmetric).unwrap();
        let policies = ground.policies(&sad);
        let told = explain(&udp(GROUP), &sad, &policies, &NONE).unwrap();
        let sealed = Tried { spi: "0x00001001".to_owned(), octets: Some(octets), refused: None };
        assert_eq!(told.tried, [sealed], "{mode:?}");
        assert_eq!((told.dropped, told.clear, told.why), (None, false, None));
        assert_eq!(told.policy.unwrap().destination, "239.192.0.1/32");
        assert_eq!(told.opened_by, ["0x00001001"]);
        // Whose state somebody else has removed has none to be sent by, and nothing opens it either.
        let told = explain(&udp(GROUP), &sad, &policies, &[0x1001].into()).unwrap();
        assert_eq!((told.dropped, told.tried[0].refused), (Some("OutNoStates"), Some("OutNoStates")));
        assert!(told.opened_by.is_empty());
    }
}

#[test]
fn it_goes_by_what_is_installed_and_not_by_what_is_wanted() {
    let (mut sad, ground) = one(0x1001, &policy(GROUP, EspMode::Transport), SaDirection::Symmetric).unwrap();
    let before = ground.policies(&sad);
    let roll_over = update(vec![sa(0x1002, &policy(GROUP, EspMode::Transport), SaDirection::Symmetric)], &[0x1001]);
    sad.apply(roll_over, at(2_000)).unwrap();
    sad.expire(at(4_000));
    let sends = |sad: &Sad, policies: &Policies| explain(&udp(GROUP), sad, policies, &NONE).unwrap();
    assert_eq!(sends(&sad, &before).tried[0].spi, "0x00001001");
    let told = sends(&sad, &ground.policies(&sad));
    assert_eq!(told.tried[0].spi, "0x00001002");
    assert_eq!(told.opened_by, ["0x00001001", "0x00001002"], "both until the deactivation delay is over");
    // The policy could not be replaced in time, and its state is gone.
    sad.expire(at(60_000));
    let told = sends(&sad, &before);
    assert_eq!((told.dropped, told.policy, told.tried), (Some("OutNoStates"), None, vec![]));
}

#[test]
fn what_has_no_keys_is_blocked_and_what_is_nobodys_leaves_as_it_is() {
    let (sad, ground) = (Sad::new(), ground(&[("239.192.0.0", 16)]));
    let policies = ground.policies(&sad);
    let told = explain(&udp(GROUP), &sad, &policies, &NONE).unwrap();
    assert_eq!((told.dropped, told.why), (Some("OutPolBlock"), Some("no line of the policy has keys for it")));
    let told = explain(&udp("224.0.0.5"), &sad, &policies, &NONE).unwrap();
    assert_eq!((told.clear, told.dropped, told.why), (true, None, Some("no policy of this group is about it")));
    let told = explain(&Flow { protocol: 2, ports: None, ..udp(GROUP) }, &sad, &policies, &NONE).unwrap();
    assert!(told.clear && told.why.unwrap().contains("IGMP"), "{told:?}");
    let foreign: Policies = policies.into_keys().map(|key| (key, UNKNOWN)).collect();
    let told = explain(&udp(GROUP), &sad, &foreign, &NONE).unwrap();
    assert!(!told.clear && told.dropped.is_none() && told.why.unwrap().contains("somebody else"), "{told:?}");
    let mixed = Flow { source: ip("fd00::1"), ..udp(GROUP) };
    assert_eq!(explain(&mixed, &sad, &foreign, &NONE), None, "of two IP versions");
}

#[test]
fn ways_and_selectors_are_looked_at() {
    let (sad, ground) = one(0x1001, &policy(GROUP, EspMode::Transport), SaDirection::ReceiverOnly).unwrap();
    let told = explain(&udp(GROUP), &sad, &ground.policies(&sad), &NONE).unwrap();
    assert_eq!((told.dropped, told.opened_by.len()), (Some("OutPolBlock"), 1));
    let (sad, ground) = one(0x1001, &policy(GROUP, EspMode::Transport), SaDirection::SenderOnly).unwrap();
    let told = explain(&udp(GROUP), &sad, &ground.policies(&sad), &NONE).unwrap();
    assert_eq!((told.dropped, told.tried.len(), told.opened_by.len()), (None, 1, 0));
    let mut narrow = policy(GROUP, EspMode::Transport);
    (narrow.source, narrow.destination.protocol, narrow.destination.port) = (side("10.0.0.1", 32), 17, 5_001);
    let (sad, ground) = one(0x1001, &narrow, SaDirection::Symmetric).unwrap();
    let outcome = |flow: &Flow| {
        let told = explain(flow, &sad, &ground.policies(&sad), &NONE).unwrap();
        (told.dropped, told.opened_by.len())
    };
    assert_eq!(outcome(&udp(GROUP)), (None, 1));
    for other in [
        Flow { source: ip("10.0.0.2"), ..udp(GROUP) },
        Flow { protocol: 6, ..udp(GROUP) },
        Flow { ports: Some((5_001, 5_000)), ..udp(GROUP) },
        Flow { ports: None, ..udp(GROUP) },
    ] {
        assert_eq!(outcome(&other), (Some("OutPolBlock"), 0), "{other:?}");
    }
}
