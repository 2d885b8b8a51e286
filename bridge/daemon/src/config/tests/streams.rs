//! Groups with IEC 61850 streams.

use keyferry_model::stream::{StreamAuthentication, StreamEncryption};

use super::*;

pub(super) const SUBSTATION: &str = r#"
[gateway]
listen = ["192.0.2.1:848"]

[[group]]
name = "bay-7"
id = ["oid:1.2.840.10070.61850.8.1.2#0404effc0001", 7]
activation_delay = "40s"
deactivation_delay = "60s"

[[group.stream]]
oid = "1.2.840.10070.61850.8.1.2"
selector = "0404effc0001"

[[group.stream]]
oid = "1.2.840.10070.61850.8.1.2"
selector = "0404effc0002"
authentication = "hmac-sha256-128"
delivery_assurance = true

[group.gdoi]

[[peer]]
identity = "10.0.0.1"
psk = "a key of more than sixteen octets"
"#;

#[track_caller]
fn wrong(from: &str, to: &str, at: &str, words: &str) {
    assert!(SUBSTATION.contains(from), "{from} is not there");
    let text = SUBSTATION.replacen(from, to, 1);
    let Problems(problems) = gateway_of(&text).map(|c| c.config).unwrap_err();
    assert_eq!(problems.len(), 1, "{problems:#?}");
    let line = text.lines().position(|l| l.contains(at)).map(|l| l + 1);
    assert_eq!(problems[0].line, line, "{}", problems[0]);
    assert!(problems[0].to_string().contains(words), "{}", problems[0]);
}

#[test]
fn a_group_of_streams_is_understood() {
    let Checked { config, warnings } = gateway_of(SUBSTATION).unwrap();
    assert!(warnings.is_empty(), "{warnings:?}");
    let policy = config.groups[0].base();
    assert!(policy.traffic.is_empty());
    assert_eq!(policy.ids[0].to_string(), "oid:1.2.840.10070.61850.8.1.2#0404effc0001");
    let [first, second] = policy.streams.as_slice() else { panic!("two streams") };
    assert_eq!(first.name.to_string(), "1.2.840.10070.61850.8.1.2#0404effc0001");
    assert_eq!(first.protection.encryption(), StreamEncryption::AesGcm256);
    assert_eq!(first.protection.authentication(), StreamAuthentication::None);
    assert!(!first.many_senders && !first.delivery_assurance && second.delivery_assurance);
    assert_eq!(second.protection.encryption(), StreamEncryption::None);
    assert_eq!(second.protection.authentication(), StreamAuthentication::HmacSha256_128);
}

#[test]
fn gikev2_is_not_offered_streams() {
    let side = "[group.gdoi]\n\n[group.gikev2]\n";
    // The identity by number is one that G-IKEv2 members can ask for; the streams are what does not go.
    let text = SUBSTATION.replacen("[group.gdoi]\n", side, 1);
    let Problems(problems) = gateway_of(&text).map(|c| c.config).unwrap_err();
    let shown: Vec<String> = problems.iter().map(ToString::to_string).collect();
    let line = text.lines().position(|l| l.contains("[group.gikev2]")).unwrap() + 1;
    assert!(
        shown.iter().any(|p| p.contains("cannot tell IEC 61850 streams") && p.contains(&format!(":{line}:"))),
        "{shown:?}"
    );
    assert_eq!(problems.iter().filter(|p| p.severity == Severity::Error).count(), 1, "{shown:?}");
}

#[test]
fn gikev2_members_cannot_ask_by_oid() {
    let ids = |id: &str| GATEWAY.replacen("id = 1234", &format!("id = {id}"), 1);
    let Problems(problems) = gateway_of(&ids("\"oid:1.2.3\"")).map(|c| c.config).unwrap_err();
    assert_eq!((problems.len(), problems[0].line), (1, Some(8)));
    assert!(problems[0].to_string().contains("no G-IKEv2 member can ask for this one"), "{}", problems[0]);
    let warnings = gateway_of(&ids("[1234, \"oid:1.2.3\"]")).unwrap().warnings;
    assert!(warnings.iter().any(|w| w.line == Some(8) && w.to_string().contains("GDOI alone")), "{warnings:?}");

    let asking = MEMBER.replacen("group = 1234", "group = \"oid:1.2.3\"", 1);
    let shown = member_of(&asking).map(|c| c.config).unwrap_err().to_string();
    assert!(shown.contains("GDOI alone"), "{shown}");
    let gdoi = format!("{asking}protocol = \"gdoi\"\nstream_keys = \"streams.json\"\n");
    assert!(member_of(&gdoi).unwrap().config.groups[0].stream_keys.as_ref().unwrap().ends_with("streams.json"));
    let late = format!("{MEMBER}stream_keys = \"streams.json\"\n");
    assert!(member_of(&late).map(|c| c.config).unwrap_err().to_string().contains("come by GDOI alone"));
    let nobody = format!("{MEMBER}danger_unprotected_streams = true\n");
    assert!(member_of(&nobody).map(|c| c.config).unwrap_err().to_string().contains("nobody to hand streams to"));
}

#[test]
fn oids_and_selectors_must_be_what_they_are_called() {
    wrong("oid = \"1.2.840.10070.61850.8.1.2\"", "oid = \"3.1\"", "oid = \"3.1\"", "begins with 0, 1 or 2");
    wrong("oid = \"1.2.840.10070.61850.8.1.2\"\n", "", "[[group.stream]]", "oid is missing");
    wrong("selector = \"0404effc0001\"", "selector = \"0404effc00\"", "selector = \"0404effc00\"", "no value in DER");
    wrong("selector = \"0404effc0001\"", "selector = \"xyz\"", "selector = \"xyz\"", "hexadecimal");
    wrong("#0404effc0001", "#0404effc00", "id = ", "no value in DER");
    wrong("selector = \"0404effc0002\"", "selector = \"0404effc0001\"", "[[group.stream]]", "stands there twice");
}

#[test]
fn nothing_is_encrypted_without_authentication() {
    let authentication = "authentication = \"hmac-sha256-128\"";
    let cbc = "encryption = \"aes-128-cbc\"";
    wrong(authentication, cbc, cbc, "nothing authenticates what aes-128-cbc encrypts");
    let both = format!("{authentication}\nencryption = \"aes-128-gcm\"");
    wrong(authentication, &both, authentication, "authenticates already");
    let none = "authentication = \"none\"";
    let at = SUBSTATION.lines().enumerate().filter(|(_, l)| l.contains("[[group.stream]]")).nth(1).unwrap().0 + 1;
    let text = SUBSTATION.replacen(authentication, none, 1);
    let Problems(problems) = gateway_of(&text).map(|c| c.config).unwrap_err();
    assert_eq!((problems.len(), problems[0].line), (1, Some(at)));
    assert!(problems[0].to_string().contains("danger_unprotected"), "{}", problems[0]);
    let danger = SUBSTATION.replacen(authentication, &format!("{none}\ndanger_unprotected = true"), 1);
    let Checked { config, warnings } = gateway_of(&danger).unwrap();
    assert!(config.groups[0].base().streams[1].protection.is_none());
    assert!(warnings.iter().any(|w| w.to_string().contains("danger_unprotected")), "{warnings:?}");
}

#[test]
fn delivery_is_only_assured_where_it_can_be() {
    wrong("[group.gdoi]", "[group.gdoi]\nack = \"none\"", "[group.gdoi]", "needs acknowledgements");
    let slow = "activation_delay = \"20s\"";
    wrong("activation_delay = \"40s\"", slow, "[[group]]", "is not shorter than activation_delay");
}

#[test]
fn counter_modes_with_several_senders_need_room_for_their_ids() {
    let many = "selector = \"0404effc0001\"\nsenders = \"many\"";
    let narrow = SUBSTATION.replacen("name = \"bay-7\"", "name = \"bay-7\"\nsender_id_bits = 8", 1);
    assert!(gateway_of(&narrow).is_ok(), "one sender needs none");
    let both = narrow.replacen("selector = \"0404effc0001\"", many, 1);
    let shown = gateway_of(&both).map(|c| c.config).unwrap_err().to_string();
    assert!(shown.contains("8 bits are 256 sender IDs"), "{shown}");
}

#[test]
fn keys_of_streams_are_not_carried_by_weaker_ones() {
    wrong(
        "[group.gdoi]",
        "[group.gdoi]\ncipher = \"aes-128-cbc\"",
        "[group.gdoi]",
        "would carry traffic keys of 256 bits",
    );
}
