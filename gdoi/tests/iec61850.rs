//! Devices of a substation and their key server: IEC 61850 streams (RFC 8052) registered for by OID, rekeyed, acknowledged.
#![allow(clippy::unwrap_used)]

mod support;

use std::sync::Arc;

use keyferry_crypto::{Aead, BlockCipher, SeededRandom};
use keyferry_model::id::Protocol;
use keyferry_model::plan::{Deletion, RekeyReason, RekeyStep};
use keyferry_model::policy::{EspTransform, GroupPolicy};
use keyferry_model::settings::MemberSettings;
use keyferry_model::stream::{StreamAuthentication, StreamEncryption, StreamPolicy, StreamProtection, StreamStep};
use keyferry_model::update::{MemberEvent, NewStream, Removal};
use support::{Bench, GROUP, Setup, host, policy, secs, settings};

const NAME: &str = "oid:1.2.840.10070.61850.8.1.2#0404efc00001";

fn stream(n: u8, authentication: StreamAuthentication, encryption: StreamEncryption) -> Arc<StreamPolicy> {
    Arc::new(StreamPolicy {
        name: format!("1.2.840.10070.61850.8.1.2#0404efc000{n:02x}").parse().unwrap(),
        protection: StreamProtection::new(authentication, encryption).unwrap(),
        many_senders: false,
        delivery_assurance: n == 1,
    })
}

/// Two streams, and no traffic unless `traffic`.
fn substation(setup: Setup, traffic: bool) -> GroupPolicy {
    let mut group = policy(setup);
    group.ids.push(NAME.parse().unwrap());
    group.streams = vec![
        stream(1, StreamAuthentication::HmacSha256_128, StreamEncryption::AesCbc128),
        stream(2, StreamAuthentication::None, StreamEncryption::AesGcm256),
    ];
    (group.activation_delay, group.deactivation_delay) = (secs(60), secs(120));
    if !traffic {
        group.traffic.clear();
    }
    group
}

fn ied(setup: Setup, n: u8) -> MemberSettings {
    MemberSettings { group: NAME.parse().unwrap(), ..settings(setup, n) }
}

fn bench(setup: Setup, traffic: bool, devices: std::ops::Range<u8>) -> Bench {
    let mut bench = Bench::with_policy(setup, substation(setup, traffic), |_| {});
    for n in devices {
        bench.add_with(n, ied(setup, n));
    }
    bench.settle();
    bench
}

/// SPIs and keys of the key server's newest epoch.
fn newest(bench: &Bench) -> Vec<(u32, Vec<u8>)> {
    let now = bench.now();
    let identity = keyferry_model::id::Identity::from_ip(host(false, 99).ip());
    let offer = bench.model.offer(&NAME.parse().unwrap(), &identity, None, Protocol::Gdoi, now).unwrap();
    let epoch = offer.epochs.last().unwrap();
    epoch.streams.iter().map(|sa| (sa.spi, sa.keymat.expose().to_vec())).collect()
}

fn keys(streams: &[NewStream]) -> Vec<(u32, Vec<u8>)> {
    streams.iter().map(|s| (s.spi, s.keymat.expose().to_vec())).collect()
}

fn rekeyed(bench: &Bench, n: u8) -> usize {
    bench.nodes[&n].count(|e| matches!(e, MemberEvent::Rekeyed { .. }))
}

/// RFC 6407 section 7.1.2 holds for the keys of streams, too.
#[test]
fn a_phase_1_weaker_than_the_keys_of_a_stream_is_refused() {
    let (none, hmac) = (StreamAuthentication::None, StreamAuthentication::HmacSha256);
    let protections = [
        (none, StreamEncryption::AesGcm256, false),
        (hmac, StreamEncryption::AesCbc256, false),
        (StreamAuthentication::AesGmac256, StreamEncryption::None, false),
        (none, StreamEncryption::AesGcm128, true),
        (hmac, StreamEncryption::None, true),
    ];
    for (authentication, encryption, fits) in protections {
        for (cipher, strong) in [(BlockCipher::Aes128Cbc, false), (BlockCipher::Aes256Cbc, true)] {
            let mut group = substation(Setup::default(), false);
            group.streams = vec![stream(1, authentication, encryption)];
            let mut bench = Bench::with_policy(Setup::default(), group, |_| {});
            let mut device = ied(Setup::default(), 10);
            device.phase1.ciphers = vec![cipher];
            bench.add_with(10, device);
            bench.settle();
            let registered = bench.nodes[&10].count(|e| *e == MemberEvent::Registered) == 1;
            assert_eq!(registered, fits || strong, "{authentication:?} {encryption:?} {cipher:?}");
        }
    }
}

#[test]
fn a_device_registers_by_oid_is_rekeyed_acknowledges_and_is_evicted() {
    let mut bench = bench(Setup::default(), false, 10..13);
    let first = newest(&bench);
    for node in bench.nodes.values() {
        assert_eq!(node.count(|e| *e == MemberEvent::Registered), 1, "{:?}", node.events);
        let [update] = node.streams.as_slice() else { panic!("one update") };
        assert_eq!((keys(&update.install), &update.remove), (first.clone(), &Removal::All));
        assert!(update.sender_ids.is_none(), "each stream has one sender");
        let [hmac, gcm] = update.install.as_slice() else { panic!("two streams") };
        assert_eq!(format!("oid:{}", hmac.name), NAME);
        assert_eq!(hmac.protection.authentication(), StreamAuthentication::HmacSha256_128);
        assert_eq!(gcm.protection.encryption(), StreamEncryption::AesGcm256);
        assert_eq!((hmac.lifetime, hmac.activation_delay, hmac.delivered), (Some(secs(3600)), secs(0), None));
    }

    bench.rekey(RekeyReason::Operator, &[]);
    bench.run(secs(2));
    let second = newest(&bench);
    assert!(first.iter().all(|old| second.iter().all(|new| new.0 != old.0 && new.1 != old.1)));
    for node in bench.nodes.values() {
        let update = node.streams.last().unwrap();
        assert_eq!(keys(&update.install), second);
        assert_eq!(update.remove, Removal::Spis(first.iter().map(|(spi, _)| *spi).collect()));
        assert_eq!((update.install[0].activation_delay, update.deactivation_delay), (secs(60), secs(120)));
        assert_eq!(node.count(|e| matches!(e, MemberEvent::Acknowledged { .. })), 1);
    }
    let last = bench.model.group(GROUP).unwrap().rekey_views().pop().unwrap();
    assert_eq!((last.expected, last.acknowledged), (3, 3));

    bench.rekey(RekeyReason::Eviction, &[12]);
    bench.run(secs(2));
    let third = newest(&bench);
    for (n, node) in &bench.nodes {
        let has = node.streams.iter().any(|u| keys(&u.install) == third);
        assert_eq!(has, *n != 12, "device {n}");
    }
    assert_eq!(bench.nodes[&12].flushed, 1);
    bench.run(secs(60));
    assert!(bench.nodes[&12].count(|e| matches!(e, MemberEvent::Refused(_))) >= 1);
    assert!(bench.nodes[&12].streams.iter().all(|u| keys(&u.install) != third));
}

#[test]
fn streams_stand_beside_ipsec_in_one_group() {
    let mut bench = bench(Setup::default(), true, 10..11);
    bench.rekey(RekeyReason::Operator, &[]);
    bench.run(secs(2));
    let node = &bench.nodes[&10];
    assert_eq!((node.updates.len(), node.streams.len()), (2, 2));
    let (data, streams) = (&node.updates[1], &node.streams[1]);
    assert_eq!((data.install.len(), streams.install.len()), (1, 2));
    // What is deleted goes where it belongs.
    assert_eq!(data.remove, Removal::Spis(vec![node.updates[0].install[0].spi]));
    assert_eq!(streams.remove, Removal::Spis(node.streams[0].install.iter().map(|s| s.spi).collect()));
}

#[test]
fn who_registers_between_announcement_and_use_waits_as_the_others_do() {
    let mut bench = bench(Setup::default(), false, 10..11);
    bench.rekey(RekeyReason::Operator, &[]);
    bench.run(secs(20));
    bench.add_with(11, ied(bench.setup, 11));
    bench.settle();
    let update = &bench.nodes[&11].streams[0];
    let told: Vec<_> = update.install.iter().map(|s| s.activation_delay).collect();
    assert_eq!(told, [secs(0), secs(0), secs(40), secs(40)], "the old epoch, then the new one");
    // The one that was asked has acknowledged; of the stream that wants it, this is told.
    let delivered: Vec<_> = update.install.iter().map(|s| s.delivered).collect();
    assert_eq!(delivered, [None, None, Some(100), None]);
    assert_eq!(update.install[0].lifetime, Some(secs(124 - 20)), "what is left of replaced keys");
}

#[test]
fn publishers_are_told_how_far_new_keys_have_come() {
    let mut bench = bench(Setup::default(), false, 10..14);
    let (_, messages) = bench.plan(RekeyReason::Operator, &[]);
    bench.send_pushes(&messages);
    // One device never hears of it.
    let deaf = host(false, 13);
    let heard = bench.nodes[&13].listens.clone();
    bench.nodes.get_mut(&13).unwrap().listens.clear();
    bench.run_through(secs(2), &mut |p| if p.to == deaf { vec![] } else { vec![p.clone()] });
    bench.nodes.get_mut(&13).unwrap().listens = heard;
    let update = bench.nodes[&10].streams.last().unwrap();
    assert_eq!(update.install[0].delivered, None, "nothing is known when keys are sent");
    let now = bench.now();
    assert!(bench.model.expire(now).is_empty());

    // The time to answer passes.
    bench.run(secs(18));
    let now = bench.now();
    assert_eq!(bench.model.expire(now), [(GROUP.to_owned(), RekeyReason::Assurance)]);
    bench.rekey(RekeyReason::Assurance, &[]);
    bench.run(secs(2));
    for (n, node) in &bench.nodes {
        let update = node.streams.last().unwrap();
        let [stream] = update.install.as_slice() else { panic!("the stream that is reported, alone") };
        assert_eq!((stream.delivered, stream.activation_delay), (Some(75), secs(40)), "device {n}");
        assert_eq!(stream.spi, newest(&bench)[0].0);
        assert_eq!(update.remove, Removal::Spis(vec![]));
    }
    assert_eq!(rekeyed(&bench, 13), 1, "the report brings the keys to who missed them");
    let now = bench.now();
    assert!(bench.model.expire(now).is_empty(), "once is enough");
}

#[test]
fn a_reset_takes_streams_away_too() {
    let mut bench = bench(Setup::default(), false, 10..12);
    bench.rekey(RekeyReason::Reset, &[]);
    bench.settle();
    assert!(bench.nodes.values().all(|n| n.flushed == 1));
    bench.run(secs(30));
    let fresh = newest(&bench);
    assert!(bench.nodes.values().all(|n| keys(&n.streams.last().unwrap().install) == fresh));
}

#[test]
fn devices_register_anew_before_the_keys_of_a_stream_run_out() {
    let setup = Setup::default();
    let group = GroupPolicy { tek_lifetime: secs(600), ..substation(setup, false) };
    let mut bench = Bench::with_policy(setup, group, |_| {});
    bench.add_with(10, ied(setup, 10));
    bench.run(secs(599));
    assert!(bench.nodes[&10].count(|e| *e == MemberEvent::Registered) > 1);
}

#[test]
fn several_senders_of_a_counter_mode_get_sender_ids_of_their_own() {
    let setup = Setup::default();
    let mut group = substation(setup, false);
    let many = StreamPolicy { many_senders: true, ..(*group.streams[1]).clone() };
    group.streams[1] = Arc::new(many);
    let mut bench = Bench::with_policy(setup, group, |_| {});
    bench.add_with(10, ied(setup, 10));
    bench.add_with(11, MemberSettings { sender_ids: 1, ..ied(setup, 11) });
    bench.settle();
    let ids = |n: u8| bench.nodes[&n].streams[0].sender_ids.clone().unwrap();
    let mut all = [ids(10).ids, ids(11).ids].concat();
    all.sort_unstable();
    assert_eq!((ids(10).bits, all), (12, vec![0, 1, 2]));
}

#[test]
fn an_unknown_oid_is_an_unknown_group() {
    let setup = Setup::default();
    let mut bench = bench(setup, false, 10..10);
    for (n, group) in
        [(10, "oid:1.2.840.10070.61850.8.1.2#0404efc00002"), (11, "oid:1.2.840.10070.61850.8.1.2"), (12, "oid:1.2.3")]
    {
        bench.add_with(n, MemberSettings { group: group.parse().unwrap(), ..settings(setup, n) });
        bench.settle();
        let refused = MemberEvent::Refused("INVALID-ID-INFORMATION".into());
        assert_eq!(bench.nodes[&n].events, [MemberEvent::Connected, refused], "{group}");
    }
}

/// Protocol 3 of a Delete is that of streams in GDOI and of ESP in RFC 2407. Whichever is meant, what is named goes.
#[test]
fn deletes_under_either_number_take_what_they_name() {
    for traffic in [false, true] {
        let mut bench =
            bench(Setup { transform: EspTransform::Aead(Aead::Aes256Gcm16), ..Setup::default() }, traffic, 10..11);
        let (plan, _) = bench.plan(RekeyReason::Operator, &[]);
        let (old, step) = (bench.nodes[&10].streams[0].install[0].spi, &plan.steps[0]);
        // A data SA deleted as if it were a stream.
        let data = bench.nodes[&10].updates[0].install.first().map(|sa| sa.spi);
        let wrong = RekeyStep {
            protocol: step.protocol,
            over: Arc::clone(&step.over),
            counter: step.counter,
            new_rekey: None,
            new_epoch: step.new_epoch.clone(),
            delete: Deletion::Spis(Vec::new()),
            activation_delay: step.activation_delay,
            deactivation_delay: step.deactivation_delay,
            counted_from: step.counted_from,
            policy: Arc::clone(&step.policy),
            streams: StreamStep { delete: data.into_iter().chain([old]).collect(), report: None },
        };
        let message = gdoi::push::render(&plan.policy, &wrong, &mut SeededRandom::new(1)).unwrap();
        bench.send_pushes(&[message]);
        bench.run(secs(2));
        let node = &bench.nodes[&10];
        assert_eq!(node.streams[1].remove, Removal::Spis(vec![old]));
        if let Some(spi) = data {
            assert_eq!(node.updates[1].remove, Removal::Spis(vec![spi]));
        }
    }
}

/// A push cut short, or with any octet changed, brings no keys.
#[test]
fn nothing_is_taken_from_a_broken_push() {
    let mut bench = bench(Setup::default(), false, 10..11);
    let (_, messages) = bench.plan(RekeyReason::Operator, &[]);
    for end in 0..messages[0].len() {
        bench.send_pushes(&[messages[0][..end].to_vec()]);
        bench.settle();
    }
    for at in 28..messages[0].len() {
        let mut changed = messages[0].clone();
        changed[at] ^= 0x10;
        bench.send_pushes(&[changed]);
        bench.settle();
    }
    assert_eq!(bench.nodes[&10].streams.len(), 1);
    bench.send_pushes(&messages);
    bench.settle();
    assert_eq!(bench.nodes[&10].streams.len(), 2);
}
