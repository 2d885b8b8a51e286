use std::os::unix::fs::{MetadataExt, symlink};

use keyferry_model::stream::{StreamAuthentication, StreamEncryption, StreamProtection};
use serde_json::{Value, json};

use super::*;

const NOW: Now = Now { mono: Duration::from_secs(50), wall: Duration::from_secs(1_000_000) };

fn after(seconds: u64) -> Now {
    let more = Duration::from_secs(seconds);
    Now { mono: NOW.mono + more, wall: NOW.wall + more }
}

fn stream(spi: u32, authentication: StreamAuthentication, encryption: StreamEncryption) -> NewStream {
    let protection = StreamProtection::new(authentication, encryption).unwrap();
    let (e, a) = protection.key_lens();
    NewStream {
        spi,
        name: "1.2.840.10070.61850.8.1.2#0404e9fc0001".parse().unwrap(),
        protection,
        keymat: Secret::new((0..u8::try_from(e + a).unwrap()).collect()),
        lifetime: Some(Duration::from_secs(600)),
        activation_delay: Duration::from_secs(10),
        delivered: None,
    }
}

fn gcm(spi: u32) -> NewStream {
    stream(spi, StreamAuthentication::None, StreamEncryption::AesGcm128)
}

fn update(install: Vec<NewStream>, remove: Removal) -> StreamUpdate {
    StreamUpdate { install, remove, deactivation_delay: Duration::from_secs(30), sender_ids: None }
}

fn keys(directory: &Path) -> (StreamKeys, PathBuf) {
    let path = directory.join("streams.json");
    (StreamKeys::new(Some(path.clone()), "oid:1.2.3".to_owned(), false), path)
}

fn read(path: &Path) -> Value {
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

fn spis(path: &Path) -> Vec<u64> {
    read(path)["streams"].as_array().unwrap().iter().map(|s| s["spi"].as_u64().unwrap()).collect()
}

#[test]
fn keys_are_handed_on_in_a_file_for_this_user_alone() {
    let directory = tempfile::tempdir().unwrap();
    let (mut keys, path) = keys(directory.path());
    let hmac = stream(7, StreamAuthentication::HmacSha256_128, StreamEncryption::AesCbc128);
    let sender_ids = Some(SenderIds { bits: 12, ids: vec![3] });
    let forever = NewStream { lifetime: None, delivered: Some(80), ..gcm(8) };
    keys.apply(StreamUpdate { sender_ids, ..update(vec![hmac, forever], Removal::All) }, NOW);
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
    let hex = |from: u8, to: u8| (from..to).map(|b| format!("{b:02x}")).collect::<String>();
    let expected = json!({
        "version": 1,
        "group": "oid:1.2.3",
        "written": 1_000_000,
        "sender_ids": { "bits": 12, "ids": [3] },
        "streams": [
            {
                "oid": "1.2.840.10070.61850.8.1.2", "payload": "0404e9fc0001", "spi": 7,
                "encryption": "aes-128-cbc", "encryption_key": hex(0, 16), "encryption_salt": "",
                "authentication": "hmac-sha256-128", "authentication_key": hex(16, 48), "authentication_salt": "",
                "not_before": 1_000_010, "not_after": 1_000_600, "delivered_percent": null,
            },
            {
                "oid": "1.2.840.10070.61850.8.1.2", "payload": "0404e9fc0001", "spi": 8,
                "encryption": "aes-128-gcm", "encryption_key": hex(0, 16), "encryption_salt": hex(16, 20),
                "authentication": "none", "authentication_key": "", "authentication_salt": "",
                "not_before": 1_000_010, "not_after": null, "delivered_percent": 80,
            },
        ],
    });
    assert_eq!(read(&path), expected);
    assert!(keys.problem().is_none());
    let [waiting, forever] = keys.status(after(9)).try_into().unwrap();
    assert_eq!((waiting.spi.as_str(), waiting.active, waiting.remaining), ("0x00000007", false, Some(591)));
    assert_eq!((forever.delivered, forever.remaining), (Some(80), None));
    assert!(keys.status(after(10))[0].active);
    keys.end();
    assert!(!path.exists());
}

#[test]
fn times_are_whole_seconds_and_never_too_early() {
    let directory = tempfile::tempdir().unwrap();
    let (mut keys, path) = keys(directory.path());
    let late = Now { wall: NOW.wall + Duration::from_millis(300), ..NOW };
    let used = NewStream { activation_delay: Duration::ZERO, ..gcm(1) };
    keys.apply(update(vec![used, gcm(2)], Removal::All), late);
    let of = |i: usize, field: &str| read(&path)["streams"][i][field].as_u64().unwrap();
    assert_eq!((of(0, "not_before"), of(1, "not_before")), (1_000_000, 1_000_011));
    assert_eq!(of(0, "not_after"), 1_000_600);
}

#[test]
fn replaced_keys_go_after_their_delay() {
    let directory = tempfile::tempdir().unwrap();
    let (mut keys, path) = keys(directory.path());
    keys.apply(update(vec![gcm(1)], Removal::All), NOW);
    keys.apply(update(vec![gcm(2)], Removal::Spis(vec![1])), after(100));
    assert_eq!(spis(&path), [1, 2]);
    assert_eq!(read(&path)["streams"][0]["not_after"], 1_000_130);
    assert_eq!(keys.deadline(after(100)).unwrap().at, after(130).mono);
    keys.expire(after(129));
    assert_eq!(spis(&path), [1, 2]);
    keys.expire(after(130));
    assert_eq!(spis(&path), [2]);
    // Told again, with the delivery that is known meanwhile: one stream still, and not_before counts from now.
    keys.apply(update(vec![NewStream { delivered: Some(50), ..gcm(2) }], Removal::Spis(vec![])), after(131));
    assert_eq!((spis(&path), &read(&path)["streams"][0]["delivered_percent"]), (vec![2], &json!(50)));
    // A registration replaces all that it does not tell.
    keys.apply(update(vec![gcm(3)], Removal::All), after(140));
    keys.expire(after(170));
    assert_eq!(spis(&path), [3]);
    keys.flush(after(171));
    assert_eq!(spis(&path), [0u64; 0]);
}

#[test]
fn without_a_consumer_the_member_says_so() {
    let mut keys = StreamKeys::new(None, "7".to_owned(), false);
    keys.apply(update(vec![gcm(1)], Removal::All), NOW);
    assert!(keys.problem().unwrap().contains("set stream_keys"));
    assert!(keys.held.is_empty() && keys.deadline(NOW).is_none());
}

#[test]
fn streams_without_protection_are_left_out_unless_wanted() {
    let directory = tempfile::tempdir().unwrap();
    let (mut keys, path) = keys(directory.path());
    let bare = || stream(1, StreamAuthentication::None, StreamEncryption::None);
    keys.apply(update(vec![bare(), gcm(2)], Removal::All), NOW);
    assert_eq!(spis(&path), [2]);
    assert!(keys.problem().unwrap().contains("danger_unprotected_streams"));
    keys.unprotected = true;
    keys.apply(update(vec![bare(), gcm(2)], Removal::All), NOW);
    assert_eq!(spis(&path), [1, 2]);
    assert!(keys.problem().is_none());
}

#[test]
fn a_file_that_is_in_the_way_is_neither_followed_nor_opened_up() {
    let directory = tempfile::tempdir().unwrap();
    let (mut keys, path) = keys(directory.path());
    let victim = directory.path().join("victim");
    fs::write(&victim, "untouched").unwrap();
    symlink(&victim, directory.path().join("streams.json.new")).unwrap();
    symlink(&victim, &path).unwrap();
    keys.apply(update(vec![gcm(1)], Removal::All), NOW);
    assert_eq!(fs::read_to_string(&victim).unwrap(), "untouched");
    assert!(fs::symlink_metadata(&path).unwrap().is_file());
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
}

#[test]
fn a_place_that_cannot_be_written_is_reported() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("missing/streams.json");
    let mut keys = StreamKeys::new(Some(path), "7".to_owned(), false);
    keys.apply(update(vec![gcm(1)], Removal::All), NOW);
    assert!(keys.problem().unwrap().contains("cannot be handed on"));
}
