//! Members of several groups.

use dataplane::engine::Wire;

use super::*;
use crate::config::GuardChoice;

const SEVERAL: &str = r#"
[member]
gateway = "192.0.2.1"
group = 1234
protocol = "gdoi"
psk = "0x000102030405060708090a0b0c0d0e0f"

[[member.further]]
group = 77
protect = ["239.192.0.0/16"]

[[member.further]]
group = "oid:1.2.840.10070.61850.8.1.2#0404effc0001"
streams_only = true
stream_keys = "bay-7.json"
"#;

#[track_caller]
fn wrong(from: &str, to: &str, words: &str) {
    assert!(SEVERAL.contains(from), "{from} is not there");
    let text = SEVERAL.replacen(from, to, 1);
    let Problems(problems) = member_of(&text).map(|c| c.config).unwrap_err();
    assert!(problems.iter().any(|p| p.line.is_some() && p.to_string().contains(words)), "{problems:#?}");
}

#[test]
fn a_member_may_have_several_groups_each_with_a_device_of_its_own_or_none() {
    let config = member_of(SEVERAL).unwrap().config;
    let shown: Vec<(String, Option<&str>)> =
        config.groups.iter().map(|g| (g.id.to_string(), g.tun.as_deref())).collect();
    let oid = "oid:1.2.840.10070.61850.8.1.2#0404effc0001".to_owned();
    assert_eq!(shown, [("1234".to_owned(), Some("kf0")), ("77".to_owned(), Some("kf1")), (oid, None)]);
    assert_eq!(config.groups[1].protect.len(), 1);
    assert!(config.groups[2].stream_keys.as_ref().unwrap().ends_with("bay-7.json"));
}

#[test]
fn a_member_of_streams_alone_has_no_device() {
    let text = format!("{MEMBER}protocol = \"gdoi\"\nstreams_only = true\nstream_keys = \"keys.json\"\n");
    let config = member_of(&text).unwrap().config;
    assert_eq!((config.groups.len(), config.groups[0].tun.as_deref()), (1, None));
}

#[test]
fn all_devices_have_as_many_queues() {
    assert_eq!(member_of(SEVERAL).unwrap().config.queues.get(), 1);
    let text = SEVERAL.replacen("group = 1234", "group = 1234\nqueues = 4", 1);
    assert_eq!(member_of(&text).unwrap().config.queues.get(), 4);
    wrong("group = 1234", "group = 1234\nqueues = 0", "queues");
    wrong("group = 1234", "group = 1234\nqueues = 9", "queues");
}

#[test]
fn a_group_names_its_engine_or_has_that_of_the_member() {
    let engines =
        |text: &str| -> Vec<EngineChoice> { member_of(text).unwrap().config.groups.iter().map(|g| g.engine).collect() };
    assert_eq!(engines(SEVERAL), [EngineChoice::Auto; 3]);
    let text = SEVERAL.replacen("group = 77", "group = 77\nengine = \"userspace\"", 1);
    let text = text.replacen("group = 1234", "group = 1234\nengine = \"none\"", 1);
    assert_eq!(engines(&text), [EngineChoice::None, EngineChoice::Userspace, EngineChoice::None]);
    wrong("group = 77", "group = 77\nengine = \"hardware\"", "not known here");
    // Whoever says how a device is to be wants one.
    let device = |key: &str| engines(&SEVERAL.replacen("group = 1234", &format!("group = 1234\n{key}"), 1));
    for key in ["mtu = 1400", "queues = 2", "routes = false", "routes = true"] {
        assert_eq!(device(key), [EngineChoice::Userspace; 3], "{key}");
    }
    assert_eq!(device("tun = \"kf7\""), [EngineChoice::Userspace, EngineChoice::Auto, EngineChoice::Auto]);
    assert_eq!(device("engine = \"kernel\"\ntun = \"kf7\""), [EngineChoice::Kernel; 3]);
    wrong("group = 1234", "group = 1234\nengine = \"kernel\"\nmtu = 1400", "there are none");
    assert_eq!(device("danger_clear_without_keys = true")[0], EngineChoice::Userspace);
    wrong("group = 1234", "group = 1234\nengine = \"kernel\"\ndanger_clear_without_keys = true", "user-space engine");
    // What is about traffic is of no use without an engine for it.
    wrong("group = 77", "group = 77\nengine = \"none\"", "the engine is \"none\"");
    wrong("streams_only = true", "streams_only = true\nengine = \"userspace\"", "streams_only takes none");
    for key in [
        "mtu = 1400",
        "queues = 2",
        "wire = \"raw\"",
        "tun_offloads = false",
        "receive_threads = 2",
        "routes = false",
        "tun = \"kf0\"",
        "join = [\"239.192.0.1\"]",
    ] {
        assert!(member_of(&format!("{MEMBER}engine = \"none\"\n")).is_ok());
        assert!(member_of(&format!("{MEMBER}engine = \"none\"\n{key}\n")).is_err(), "{key}");
    }
}

#[test]
fn the_ways_to_the_wire_may_be_chosen() {
    let usual = member_of(SEVERAL).unwrap().config;
    assert_eq!((usual.receive_threads.get(), usual.wire), (1, Wire::Auto));
    assert!(usual.tun_offloads);
    let text = "group = 1234\nreceive_threads = 8\nwire = \"raw\"\ntun_offloads = false";
    let text = SEVERAL.replacen("group = 1234", text, 1);
    let chosen = member_of(&text).unwrap().config;
    assert_eq!((chosen.receive_threads.get(), chosen.wire, chosen.tun_offloads), (8, Wire::Raw, false));
    let early = member_of(&SEVERAL.replacen("group = 1234", "group = 1234\nwire = \"link\"", 1)).unwrap().config;
    assert_eq!(early.wire, Wire::Link);
    wrong("group = 1234", "group = 1234\nreceive_threads = 9", "receive_threads");
    wrong("group = 1234", "group = 1234\nwire = \"ring\"", "wire");
}

#[test]
fn a_packet_filter_may_be_required_or_left_to_the_owner() {
    let guard = |text: &str| member_of(&SEVERAL.replacen("group = 1234", text, 1)).unwrap().config.guard;
    assert_eq!(guard("group = 1234"), GuardChoice::Auto);
    assert_eq!(guard("group = 1234\nguard = \"required\""), GuardChoice::Required);
    assert_eq!(guard("group = 1234\nguard = \"off\""), GuardChoice::Off);
    wrong("group = 1234", "group = 1234\nguard = \"on\"", "guard");
}

#[test]
fn groups_of_a_member_must_go_together() {
    // The streams among them come by GDOI alone.
    wrong("protocol = \"gdoi\"", "protocol = \"gikev2\"", "GDOI");
    wrong("group = 77", "group = 1234", "is joined already");
    wrong("group = 77", "group = 77\ntun = \"kf0\"", "another group's device");
    wrong("group = 77", "group = 77\ntun = \"a/b\"", "no name of an interface");
    wrong("group = 77", "group = 77\nstream_keys = \"bay-7.json\"", "another group's file");
    wrong("stream_keys = \"bay-7.json\"\n", "", "nobody to hand streams to");
    wrong("streams_only = true", "streams_only = true\ntun = \"kf7\"", "streams_only takes none");
    wrong("streams_only = true", "streams_only = true\njoin = [\"239.192.0.1\"]", "streams_only takes none");
    wrong("group = 77\n", "", "group");
    wrong("group = 77", "group = 77\nsender_ids = 3", "sender_ids");
}
