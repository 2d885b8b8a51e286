//! Lines of traffic that go one way, and tunnels that do not preserve all addresses.

use keyferry_model::policy::AddressPreservation;

use super::*;

/// A group of GDOI alone.
fn gdoi_alone() -> String {
    GATEWAY.replacen("[group.gikev2]\nrekey = \"unicast\"\n", "", 1)
}

fn with(text: &str, more: &str) -> String {
    text.replacen("protocol = \"udp\"\n", &format!("protocol = \"udp\"\n{more}"), 1)
}

#[test]
fn a_line_has_a_preservation_and_may_have_one_sender() {
    for (name, preservation) in [
        ("both", AddressPreservation::Both),
        ("source", AddressPreservation::Source),
        ("destination", AddressPreservation::Destination),
        ("none", AddressPreservation::None),
    ] {
        let text = with(&gdoi_alone(), &format!("preserve = \"{name}\"\nonly_sender = \"10.0.0.1\"\n"));
        let config = gateway_of(&text).unwrap().config;
        let line = &config.groups[0].base().traffic[0];
        assert_eq!((line.preservation, &line.only_sender), (preservation, &Some("10.0.0.1".parse().unwrap())));
    }
    let config = gateway_of(GATEWAY).unwrap().config;
    let line = &config.groups[0].base().traffic[0];
    assert_eq!((line.preservation, &line.only_sender), (AddressPreservation::Both, &None));
}

/// What G-IKEv2 cannot tell is refused where it stands, and never told to half of the members.
#[test]
fn gikev2_is_not_offered_what_it_cannot_tell() {
    for (more, key) in [("preserve = \"destination\"\n", "preserve"), ("only_sender = \"10.0.0.1\"\n", "only_sender")] {
        let text = with(GATEWAY, more);
        let Problems(problems) = gateway_of(&text).map(|c| c.config).unwrap_err();
        assert_eq!(problems.len(), 1, "{problems:#?}");
        let line = text.lines().position(|l| l.starts_with(key)).map(|l| l + 1);
        assert_eq!(problems[0].line, line);
        let shown = problems[0].to_string();
        assert!(shown.contains("G-IKEv2 cannot tell") && shown.contains("without [group.gikev2]"), "{shown}");
        assert!(gateway_of(&with(&gdoi_alone(), more)).is_ok());
    }
}

#[test]
fn a_lifetime_in_octets_has_a_unit() {
    let of = |text: &str| with(&gdoi_alone(), &format!("replay_window = 64\nlifetime_octets = {text}\n"));
    for (text, octets) in
        [("\"1MB\"", 1_000_000), ("\"10 GB\"", 10_000_000_000), ("\"4096GiB\"", 0), ("\"3TiB\"", 3 << 40)]
    {
        let config = gateway_of(&of(text)).map(|c| (c.config.groups[0].base().traffic[0].lifetime_octets, c.warnings));
        match config {
            Ok((found, warnings)) => assert_eq!((found, warnings.len()), (Some(octets), 0), "{text} {warnings:#?}"),
            Err(Problems(problems)) => assert!(octets == 0 && problems[0].to_string().contains("from 1MB to 4TB")),
        }
    }
    for (text, words) in [
        ("\"10\"", "its unit is none of"),
        ("\"GB\"", "does not begin with a whole number"),
        ("\"10kB\"", "its unit is none of"),
        ("\"999999999999TB\"", "more than can be counted"),
        ("\"999kiB\"", "its unit"),
        ("\"0MB\"", "out of bounds"),
    ] {
        let Problems(problems) = gateway_of(&of(text)).map(|c| c.config).unwrap_err();
        assert_eq!(problems.len(), 1, "{problems:#?}");
        let line = of(text).lines().position(|l| l.starts_with("lifetime_octets")).map(|l| l + 1);
        assert!(problems[0].line == line && problems[0].to_string().contains(words), "{}", problems[0]);
    }
}

/// Half of a group's members counting is better than none, so it is not refused, but it is told.
#[test]
fn who_does_not_count_octets_and_who_can_use_them_up_is_told() {
    let checked = gateway_of(&with(GATEWAY, "lifetime_octets = \"10GB\"\n")).unwrap();
    let warnings: Vec<String> =
        checked.warnings.iter().filter(|w| w.key.ends_with("lifetime_octets")).map(ToString::to_string).collect();
    assert_eq!(warnings.len(), 2, "{warnings:#?}");
    assert!(warnings[0].contains("only members that come by GDOI") && warnings[1].contains("replay window"));
}

/// Who counts octets can only ask by registering again.
#[test]
fn members_that_register_again_are_heard_where_they_count_octets() {
    let of = |line: &str, group: &str| {
        let text = with(&gdoi_alone(), line).replacen("id = 1234\n", &format!("id = 1234\n{group}"), 1);
        let checked = gateway_of(&text).unwrap();
        (checked.config.groups[0].base().rekey_when_asked, checked.warnings)
    };
    let counts = "replay_window = 64\nlifetime_octets = \"10GB\"\n";
    assert_eq!(of("", "").0, None);
    assert_eq!(of(counts, "").0, Some(Duration::from_secs(300)));
    assert_eq!(of("", "rekey_when_asked = \"2m\"\n").0, Some(Duration::from_secs(120)));
    let (never, warnings) = of(counts, "rekey_when_asked = \"0s\"\n");
    assert!(
        never.is_none() && warnings.len() == 1 && warnings[0].to_string().contains("until the next rekey"),
        "{warnings:#?}"
    );
}

#[test]
fn nothing_is_preserved_in_transport_mode() {
    let text = with(&gdoi_alone(), "mode = \"transport\"\npreserve = \"none\"\n");
    let Problems(problems) = gateway_of(&text).map(|c| c.config).unwrap_err();
    assert!(problems[0].to_string().contains("puts no header in front"), "{problems:#?}");
}

#[test]
fn the_other_end_of_a_members_tunnels_is_of_its_family() {
    let text = format!("{MEMBER}protocol = \"gdoi\"\ntunnel_destination = ");
    let config = member_of(&format!("{text}\"239.255.0.1\"\n")).unwrap().config;
    assert_eq!(config.traffic.tunnel_destination, Some([239, 255, 0, 1].into()));
    let Problems(problems) = member_of(&format!("{text}\"ff15::1\"\n")).map(|c| c.config).unwrap_err();
    assert!(problems[0].to_string().contains("not of the gateway's family"), "{problems:#?}");
}

#[test]
fn a_member_says_what_its_key_server_may_decide_about() {
    use keyferry_model::flows::{Flow, Flows};
    let accept = |list: &str| member_of(&format!("{MEMBER}accept_traffic = {list}\n")).map(|c| c.config.traffic.accept);
    assert_eq!(member_of(MEMBER).unwrap().config.traffic.accept, Flows::default());
    assert_eq!(accept("\"multicast\"").unwrap(), Flows::default());
    assert_eq!(accept("[\"10.2.0.0/16\"]").unwrap(), Flows(vec![Flow::to([10, 2, 0, 0].into(), 16)]));
    let both = accept("[\"multicast\", \"10.1.0.0/16 -> 10.2.0.0/16\"]").unwrap();
    assert_eq!(both.0.len(), 3);
    assert_eq!(both.0[2].source.map(|s| s.prefix), Some(16));
    for wrong in
        ["[\"10.2.0.1/16\"]", "[\"10.1.0.0/16 -> ff15::/16\"]", "[\"unicast\"]", "[\"10.1.0.0/16 <- 10.2.0.0/16\"]"]
    {
        assert!(accept(wrong).is_err(), "{wrong}");
    }
}

/// GDOI has no number for ChaCha20-Poly1305, and tells everything else.
#[test]
fn what_gdoi_cannot_tell_is_refused_where_it_serves() {
    use keyferry_crypto::Aead;
    use keyferry_model::policy::EspTransform;
    let chosen = |name: &str| format!("protocol = \"udp\"\ntransform = \"{name}\"");
    let what = ["GDOI has no number", "traffic line 1"];
    one_problem("protocol = \"udp\"", &chosen("chacha20-poly1305"), "[group.gdoi]", &what);
    let of = |text: &str| gateway_of(text).unwrap().config.groups[0].base().traffic[0].transform;
    let alone = GATEWAY.replace("[group.gdoi]\nrekey = \"239.192.1.1:848\"\n", "");
    let text = alone.replace("protocol = \"udp\"", &chosen("chacha20-poly1305"));
    assert_eq!(of(&text), EspTransform::Aead(Aead::ChaCha20Poly1305));
    for (name, aead) in [("aes-256-gcm-12", Aead::Aes256Gcm12), ("aes-128-ccm", Aead::Aes128Ccm16)] {
        assert_eq!(of(&GATEWAY.replace("protocol = \"udp\"", &chosen(name))), EspTransform::Aead(aead));
    }
}

/// Every name stands for a transform of its own, and weak ones want the word for it.
#[test]
fn every_transform_can_be_configured() {
    use crate::config::values::{TRANSFORMS, WEAK_TRANSFORMS};
    let alone = GATEWAY.replace("[group.gdoi]\nrekey = \"239.192.1.1:848\"\n", "");
    let chosen = |name: &str, more: &str| {
        alone.replace("protocol = \"udp\"", &format!("protocol = \"udp\"\ntransform = \"{name}\"\n{more}"))
    };
    let of = |text: &str| gateway_of(text).unwrap().config.groups[0].base().traffic[0].transform;
    for (name, transform) in TRANSFORMS {
        assert!(!transform.is_weak(), "{name}");
        assert_eq!(of(&chosen(name, "")), *transform);
    }
    for (name, transform) in WEAK_TRANSFORMS {
        assert!(transform.is_weak(), "{name}");
        assert_eq!(of(&chosen(name, "danger_weak_transform = true")), *transform);
        let Problems(problems) = gateway_of(&chosen(name, "")).map(|_| ()).unwrap_err();
        assert!(problems[0].to_string().contains("danger_weak_transform"), "{problems:#?}");
    }
    let all: Vec<_> = TRANSFORMS.iter().chain(WEAK_TRANSFORMS).map(|(_, transform)| transform).collect();
    assert_eq!((all.len(), TRANSFORMS.len()), (50, 37));
    assert!(all.iter().enumerate().all(|(at, transform)| !all[..at].contains(transform)));
}
