//! A member's own rules about traffic.

use dataplane::{RuleAction, Way};

use super::*;

fn with(rules: &str) -> String {
    format!("{MEMBER}{rules}")
}

/// Exactly one problem: at the line that begins with `at`, and told by all of `words`.
#[track_caller]
fn wrong(rules: &str, at: &str, words: &[&str]) {
    let text = with(rules);
    let Problems(problems) = member_of(&text).map(|c| c.config).unwrap_err();
    assert_eq!(problems.len(), 1, "{problems:#?}");
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(
        problems[0].line,
        lines.iter().rposition(|line| line.starts_with(at)).map(|line| line + 1),
        "{problems:#?}"
    );
    let shown = problems[0].to_string();
    assert!(words.iter().all(|word| shown.contains(word)), "{shown}");
}

const TWO: &str = r#"
[[member.rule]]
action = "discard"
destination = "239.192.7.0/24"
source = "10.0.0.0/8"
protocol = "udp"
port = 5004
direction = "out"

[[member.rule]]
action = "bypass"
destination = "239.192.0.0/16"
"#;

#[test]
fn rules_are_kept_in_their_order() {
    let config = member_of(&with(TWO)).unwrap().config;
    let [first, second] = config.groups[0].rules[..] else { panic!("{:?}", config.groups[0].rules) };
    assert_eq!((first.action, first.way), (RuleAction::Discard, Way::Out));
    assert_eq!((first.source.prefix, first.destination.prefix), (8, 24));
    assert_eq!((first.destination.protocol, first.source.port, first.destination.port), (17, 0, 5004));
    assert_eq!((second.action, second.way), (RuleAction::Bypass, Way::Both));
    assert!(!config.groups[0].danger_clear_without_keys);
    assert_eq!(config.groups[0].engine, EngineChoice::Userspace, "which is the one that knows rules");
}

#[test]
fn each_group_has_rules_of_its_own() {
    let further = "\n[[member.further]]\ngroup = 77\n[[member.further.rule]]\naction = \"discard\"\ndestination = \"ff15::/16\"\n";
    let config = member_of(&with(further)).unwrap().config;
    assert_eq!((config.groups[0].rules.len(), config.groups[1].rules.len()), (0, 1));
    assert_eq!(config.groups[0].engine, EngineChoice::Auto);
}

#[test]
fn traffic_is_taken_from_the_group_only_by_a_key_that_says_danger() {
    let config = member_of(&with(&format!("{TWO}danger_unprotect = true\n"))).unwrap().config;
    assert_eq!(config.groups[0].rules[1].action, RuleAction::BypassProtected);
    let discard = TWO.replacen("port = 5004", "port = 5004\ndanger_unprotect = true", 1);
    wrong(&discard, "danger_unprotect", &["the rule discards it"]);
    let iec = with("protocol = \"gdoi\"\nprofile = \"iec-62351-9\"\n") + TWO + "danger_unprotect = true\n";
    let Problems(problems) = member_of(&iec).map(|c| c.config).unwrap_err();
    assert!(problems.iter().any(|p| p.to_string().contains("forbidden by profile")), "{problems:#?}");
}

#[test]
fn what_makes_no_sense_is_told_where_it_stands() {
    wrong(&TWO.replacen("\"bypass\"", "\"protect\"", 1), "action", &["\"protect\"", "bypass, discard"]);
    wrong(&TWO.replacen("action = \"bypass\"\n", "", 1), "[[member.rule]]", &["action is missing"]);
    wrong(&TWO.replacen("protocol = \"udp\"\n", "", 1), "port", &["no ports"]);
    wrong(&format!("{TWO}direction = \"in\"\n"), "direction", &["through the TUN device"]);
    wrong(&format!("{TWO}source = \"fd00::/8\"\n"), "source", &["different families"]);
    wrong(&format!("{TWO}prot = \"udp\"\n"), "prot", &["no such key", "protocol"]);
    let streams = "protocol = \"gdoi\"\nstreams_only = true\nstream_keys = \"keys.json\"\n";
    let one = "[[member.rule]]\naction = \"discard\"\ndestination = \"239.192.9.0/24\"\n";
    wrong(&format!("{streams}{one}"), "[[member.rule]]", &["streams_only"]);
}

#[test]
fn a_rule_behind_one_that_is_about_all_of_it_is_of_no_use() {
    let hidden = "\n[[member.rule]]\naction = \"discard\"\ndestination = \"239.192.9.0/24\"\n";
    wrong(&format!("{TWO}{hidden}"), "destination", &["rule 2", "comes first"]);
    let other_port = TWO.replacen("port = 5004", "port = 5005", 1).replacen(
        "action = \"bypass\"\ndestination = \"239.192.0.0/16\"\n",
        "",
        1,
    );
    let three =
        TWO.replacen("[[member.rule]]\naction = \"bypass\"", &format!("{}\naction = \"bypass\"", other_port.trim()), 1);
    assert_eq!(member_of(&with(&three)).unwrap().config.groups[0].rules.len(), 3);
}

#[test]
fn fail_open_is_a_danger_that_is_told() {
    let checked = member_of(&with("danger_clear_without_keys = true\n")).unwrap();
    assert!(checked.config.groups[0].danger_clear_without_keys);
    assert!(
        checked.warnings.iter().any(|p| p.to_string().contains("danger_clear_without_keys")),
        "{:#?}",
        checked.warnings
    );
}
