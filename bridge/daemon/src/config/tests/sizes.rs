//! Sizes of protected packets.

use std::num::NonZeroU16;

use dataplane::{DontFragment, FlowPadding, Fragment, Sizes};

use super::*;

fn sizes(more: &str) -> (Sizes, Option<u16>) {
    let config = member_of(&format!("{MEMBER}{more}")).unwrap().config;
    (config.sizes, config.path_mtu)
}

#[track_caller]
fn wrong(more: &str, words: &str) {
    let Problems(problems) = member_of(&format!("{MEMBER}{more}")).map(|c| c.config).unwrap_err();
    assert!(problems.iter().any(|p| p.line.is_some() && p.to_string().contains(words)), "{problems:#?}");
}

#[test]
fn a_member_says_what_becomes_of_packets_that_are_too_large() {
    assert_eq!(sizes(""), (Sizes::default(), None));
    for (name, fragment) in [("before", Fragment::Before), ("after", Fragment::After), ("never", Fragment::Never)] {
        assert_eq!(sizes(&format!("fragment = \"{name}\"\n")).0.fragment, fragment);
    }
    for (name, df) in [("copy", DontFragment::Copy), ("clear", DontFragment::Clear), ("set", DontFragment::Set)] {
        assert_eq!(sizes(&format!("df = \"{name}\"\n")).0.dont_fragment, df);
    }
    assert_eq!(sizes("path_mtu = 1400\n").1, Some(1_400));
    wrong("fragment = \"inside\"\n", "inside");
    wrong("df = \"ignore\"\n", "ignore");
    wrong("path_mtu = 100\n", "path_mtu");
    wrong("fragment = \"after\"\ndf = \"set\"\n", "forbids");
}

#[test]
fn a_member_says_how_long_packets_are_made() {
    for (text, padding) in [
        ("none", FlowPadding::None),
        ("mtu", FlowPadding::Mtu),
        ("step 256", FlowPadding::Step(NonZeroU16::new(256).unwrap())),
        ("1400", FlowPadding::Lengths([1_400].into())),
        ("200 600 1400", FlowPadding::Lengths([200, 600, 1_400].into())),
    ] {
        assert_eq!(sizes(&format!("tfc = \"{text}\"\n")).0.padding, padding);
    }
    for text in ["", "step", "step 0", "step 10", "step 1 2", "600 200", "600 600", "70000", "200, 600", "all"] {
        wrong(&format!("tfc = \"{text}\"\n"), "tfc");
    }
}

#[test]
fn a_member_fills_its_silence_if_it_is_told_to() {
    let dummies = |more: &str| member_of(&format!("{MEMBER}{more}")).unwrap().config.dummies.map(|rate| rate.get());
    assert_eq!((dummies(""), dummies("dummies = 0\n"), dummies("dummies = 50\n")), (None, None, Some(50)));
    wrong("dummies = 10001\n", "dummies");
}

#[test]
fn a_member_says_how_wide_its_replay_windows_are() {
    let window = |more: &str| member_of(&format!("{MEMBER}{more}")).unwrap().config.replay_window;
    assert_eq!((window(""), window("replay_window = 64\n"), window("replay_window = 4096\n")), (64, 64, 4_096));
    wrong("replay_window = 0\n", "replay_window");
    wrong("replay_window = 4097\n", "replay_window");
}
