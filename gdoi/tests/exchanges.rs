//! Whole runs between a key server and members, each exchange as it should be.
#![allow(clippy::unwrap_used)]

mod support;

use std::sync::Arc;
use std::time::Duration;

use gdoi::{Phase1Doi, Phase1Options};
use keyferry_crypto::{Aead, AesCtr, BlockCipher, Hash, Integrity, KeGroup, Secret, SeededRandom, SigningKey};
use keyferry_model::epoch::{DataSa, Epoch};
use keyferry_model::id::{GroupId, Identity, Protocol};
use keyferry_model::key_server::KeyServers;
use keyferry_model::plan::{Deletion, RekeyReason, RekeyStep};
use keyferry_model::policy::{AckType, Authorization, EspMode, EspTransform};
use keyferry_model::rekey_sa::RekeySa;
use keyferry_model::settings::MemberAuth;
use keyferry_model::update::{MemberEvent, Removal};
use support::{Bench, GROUP, Setup, host, policy, secs, settings};

const REGISTERED: [MemberEvent; 2] = [MemberEvent::Connected, MemberEvent::Registered];

/// Main mode and GROUPKEY-PULL with each group and hash, over both versions of IP.
#[test]
fn members_register_with_every_group_and_hash() {
    let groups =
        [KeGroup::Modp2048, KeGroup::Modp3072, KeGroup::Modp4096, KeGroup::Ecp256, KeGroup::Ecp384, KeGroup::Ecp521];
    for (i, ke) in groups.into_iter().enumerate() {
        for hash in [Hash::Sha256, Hash::Sha384, Hash::Sha512] {
            let setup = Setup { ke, hash, v6: i % 2 == 1, ..Setup::default() };
            let mut bench = Bench::new(setup);
            bench.add(10);
            bench.settle();
            assert_eq!(bench.nodes[&10].events, REGISTERED);
            assert_eq!(bench.log.len(), 11, "six messages of main mode, INITIAL-CONTACT, four of the registration");
            assert_eq!(bench.server.counters().registered, 1);
        }
    }
}

#[test]
fn a_member_gets_policy_keys_and_sender_ids() {
    let transforms = [
        (EspTransform::Aead(Aead::Aes256Gcm16), EspMode::Tunnel, Some(vec![0, 1])),
        (EspTransform::Gmac(Aead::Aes128Gcm16), EspMode::Tunnel, Some(vec![0, 1])),
        (EspTransform::CbcHmac(BlockCipher::Aes256Cbc, Integrity::HmacSha256_128), EspMode::Transport, None),
        (EspTransform::CtrHmac(AesCtr::Aes192Ctr, Integrity::HmacSha384_192), EspMode::Tunnel, Some(vec![0, 1])),
        (EspTransform::NullHmac(Integrity::HmacSha512_256), EspMode::Transport, None),
    ];
    for (transform, mode, ids) in transforms {
        for v6 in [false, true] {
            let setup = Setup { transform, mode, v6, ..Setup::default() };
            let mut bench = Bench::new(setup);
            bench.add(10);
            bench.settle();
            let node = &bench.nodes[&10];
            let [update] = node.updates.as_slice() else { panic!("one update") };
            let [sa] = update.install.as_slice() else { panic!("one SA") };
            assert_eq!(*sa.policy, *policy(setup).traffic[0]);
            assert_eq!(sa.keymat.len(), transform.keymat_len());
            assert_eq!(sa.lifetime, secs(3600));
            assert_eq!(update.remove, Removal::All);
            assert_eq!((update.activation_delay, update.deactivation_delay), (secs(0), secs(15)));
            assert_eq!(update.sender_ids.as_ref().map(|s| (s.bits, s.ids.clone())), ids.clone().map(|i| (12, i)));
            assert_eq!(node.listens.len(), 1);
            assert_eq!(node.member.status().state, "registered");
        }
    }
}

#[test]
fn groups_are_found_by_every_kind_of_identity() {
    let setup = Setup::default();
    let mut bench = Bench::new(setup);
    let names = [
        "1234",
        "239.192.0.1",
        "ff15::1",
        "fqdn:floor.example",
        "user:floor@example",
        "key-id:0102030405",
        "key-id:01",
    ];
    for (n, group) in (10u8..).zip(names) {
        bench.add_with(n, support_with_group(setup, n, group));
        bench.settle();
        assert_eq!(bench.nodes[&n].events, REGISTERED, "{group}");
    }
}

fn support_with_group(setup: Setup, n: u8, group: &str) -> keyferry_model::settings::MemberSettings {
    let mut s = settings(setup, n);
    s.group = group.parse::<GroupId>().unwrap();
    s
}

#[test]
fn an_unknown_group_and_a_member_that_is_not_listed_are_refused() {
    let setup = Setup::default();
    let mut bench = Bench::new(setup);
    bench.add_with(10, support_with_group(setup, 10, "77"));
    bench.settle();
    let refused = MemberEvent::Refused("INVALID-ID-INFORMATION".into());
    assert_eq!(bench.nodes[&10].events, [MemberEvent::Connected, refused.clone()]);
    // It tries again, over the same phase 1.
    bench.run(secs(21));
    assert_eq!(bench.nodes[&10].count(|e| *e == refused), 2);
    assert_eq!(bench.server.counters().established, 1);

    let mut closed = policy(setup);
    closed.authorization = Authorization::Listed(vec![Identity::from_ip(host(false, 11).ip())]);
    let mut bench = Bench::with_policy(setup, closed, |_| {});
    bench.add(10);
    bench.add(11);
    bench.settle();
    assert_eq!(bench.nodes[&10].events, [MemberEvent::Connected, refused]);
    assert_eq!(bench.nodes[&11].events, REGISTERED);
}

#[test]
fn a_wrong_pre_shared_key_leads_nowhere() {
    let setup = Setup::default();
    let mut bench = Bench::new(setup);
    let mut wrong = settings(setup, 10);
    wrong.auth = MemberAuth::Psk(support::psk(99));
    bench.add_with(10, wrong);
    bench.run(secs(60));
    assert!(bench.nodes[&10].events.iter().all(|e| *e == MemberEvent::Unanswered));
    assert_eq!(bench.server.counters().established, 0);
    assert!(bench.server.counters().unauthenticated > 0);
}

#[test]
fn an_identity_that_is_not_the_keys_is_refused_by_a_protected_notice() {
    let setup = Setup::default();
    let mut bench = Bench::new(setup);
    let mut other = settings(setup, 10);
    other.identity = "fqdn:somebody.example".parse().unwrap();
    bench.add_with(10, other);
    bench.settle();
    assert_eq!(bench.nodes[&10].events, [MemberEvent::Refused("INVALID-ID-INFORMATION".into())]);

    let mut expects = settings(setup, 11);
    expects.key_servers = KeyServers::one(expects.gateway(), Some("fqdn:another.example".parse().unwrap()));
    bench.add_with(11, expects);
    bench.run(secs(30));
    assert!(bench.nodes[&11].events.iter().all(|e| *e == MemberEvent::Unanswered));
}

#[test]
fn who_has_no_key_or_offers_nothing_common_is_told_in_clear_but_seldom() {
    let setup = Setup::default();
    let mut bench = Bench::with_policy(setup, policy(setup), |c| c.groups = vec![KeGroup::Modp2048]);
    bench.add(10);
    bench.run(secs(60));
    assert_eq!(bench.nodes[&10].events[0], MemberEvent::Refused("NO-PROPOSAL-CHOSEN".into()));
    let mut flood = bench.log.first().unwrap().clone();
    flood.from = "10.99.0.1:848".parse().unwrap();
    bench.clock += secs(2);
    let before = bench.server.counters().notices;
    for i in 0..100 {
        flood.bytes[0] = i;
        bench.deliver(&flood);
    }
    assert_eq!(bench.server.counters().notices - before, 10);
}

/// HDR*, SEQ, D, SA, KD, SIG: a new epoch by multicast and by unicast, acknowledged in all four types.
#[test]
fn pushes_bring_new_keys_and_are_acknowledged() {
    let types = [
        Some(AckType::Kek(Hash::Sha256)),
        Some(AckType::Lkh(Hash::Sha256)),
        Some(AckType::Kek(Hash::Sha512)),
        Some(AckType::Lkh(Hash::Sha512)),
        None,
    ];
    for (i, ack) in types.into_iter().enumerate() {
        let kek = if i % 2 == 0 { BlockCipher::Aes128Cbc } else { BlockCipher::Aes256Cbc };
        let setup = Setup { ack, unicast: i % 2 == 0, v6: i > 1, kek, ..Setup::default() };
        let mut bench = Bench::new(setup);
        for n in 10..13 {
            bench.add(n);
        }
        bench.settle();
        for round in 1..=3u32 {
            let old = bench.nodes[&10].updates.last().unwrap().install[0].spi;
            let plan = bench.rekey(RekeyReason::Operator, &[]);
            bench.run(secs(2));
            for node in bench.nodes.values() {
                let update = node.updates.last().unwrap();
                assert_eq!(update.install[0].spi, plan.steps[0].new_epoch.as_ref().unwrap().sas[0].spi);
                assert_eq!(update.remove, Removal::Spis(vec![old]));
                assert_eq!((update.activation_delay, update.deactivation_delay), (secs(5), secs(15)));
                assert_eq!(node.member.status().last_counter, round);
                assert_eq!(node.count(|e| *e == MemberEvent::Rekeyed { counter: round }), 1);
                let acknowledged = node.count(|e| *e == MemberEvent::Acknowledged { counter: round });
                assert_eq!(acknowledged, usize::from(ack.is_some()));
            }
            let acknowledged = if ack.is_some() { u64::from(round) * 3 } else { 0 };
            assert_eq!(bench.server.counters().acknowledged, acknowledged);
            assert_eq!(bench.server.counters().ack_failed, 0);
        }
    }
}

/// A new KEK by a KEK packet (lifetime), then by the key tree (eviction), the second push under the new KEK.
#[test]
fn the_kek_changes_and_an_evicted_member_is_left_behind() {
    let setup = Setup { ack: Some(AckType::Lkh(Hash::Sha256)), ..Setup::default() };
    let mut short = policy(setup);
    short.kek_lifetime = secs(700);
    let mut bench = Bench::with_policy(setup, short, |_| {});
    for n in 10..16 {
        bench.add(n);
    }
    bench.settle();
    let spi = |bench: &Bench, n: u8| bench.nodes[&n].member.status().rekey_spi;
    let first = spi(&bench, 10);
    bench.run(secs(150));
    bench.rekey(RekeyReason::Lifetime, &[]);
    bench.run(secs(2));
    let second = spi(&bench, 10);
    assert_ne!(first, second);

    let before: Vec<usize> = bench.nodes.values().map(|n| n.updates.len()).collect();
    let plan = bench.rekey(RekeyReason::Eviction, &[12]);
    assert_eq!(plan.steps.len(), 2);
    bench.run(secs(2));
    let third = spi(&bench, 10);
    assert_ne!(second, third);
    for (i, (n, node)) in bench.nodes.iter().enumerate() {
        if *n == 12 {
            assert_eq!(node.updates.len(), before[i], "no new keys");
            assert_eq!((node.flushed, node.count(|e| *e == MemberEvent::Excluded)), (1, 1));
        } else {
            assert_eq!(node.updates.len(), before[i] + 1);
            assert_eq!(node.member.status().rekey_spi, third);
            assert_eq!(node.member.status().last_counter, 1, "SEQ starts at 1 under a new KEK");
        }
    }
    let views = bench.model.group(GROUP).unwrap().rekey_views();
    let last = views.last().unwrap();
    assert_eq!((last.expected, last.acknowledged), (5, 5));

    // The evicted one asks again and again, and is refused.
    bench.run(secs(60));
    assert!(bench.nodes[&12].count(|e| matches!(e, MemberEvent::Refused(_))) >= 2);
    // The next rekey finds everybody else.
    bench.rekey(RekeyReason::Operator, &[]);
    bench.run(secs(2));
    for (n, node) in &bench.nodes {
        assert_eq!(node.member.status().last_counter == 2, *n != 12);
    }
}

#[test]
fn a_reset_deletes_everything_and_all_register_anew() {
    let mut bench = Bench::new(Setup::default());
    for n in 10..13 {
        bench.add(n);
    }
    bench.settle();
    bench.rekey(RekeyReason::Reset, &[]);
    bench.settle();
    for node in bench.nodes.values() {
        assert_eq!((node.flushed, node.count(|e| *e == MemberEvent::Excluded)), (1, 1));
    }
    bench.run(secs(30));
    for node in bench.nodes.values() {
        assert_eq!(node.count(|e| *e == MemberEvent::Registered), 2);
    }
}

#[test]
fn repeats_of_a_push_are_acknowledged_again_but_not_for_ever() {
    let mut bench = Bench::new(Setup::default());
    bench.add(10);
    bench.settle();
    let (_, messages) = bench.plan(RekeyReason::Operator, &[]);
    for _ in 0..10 {
        bench.send_pushes(&messages);
        bench.run(secs(1));
    }
    let node = &bench.nodes[&10];
    assert_eq!(node.count(|e| matches!(e, MemberEvent::Rekeyed { .. })), 1);
    assert_eq!(node.count(|e| matches!(e, MemberEvent::Acknowledged { .. })), 1);
    assert_eq!(node.updates.len(), 2);
    assert_eq!(node.member.status().acks_sent, 4, "once, and three times more");
    assert_eq!(bench.server.counters().acknowledged, 1);
    assert_eq!(bench.server.counters().repeated, 3);
}

#[test]
fn an_old_push_is_not_taken() {
    let mut bench = Bench::new(Setup::default());
    bench.add(10);
    bench.settle();
    let (_, first) = bench.plan(RekeyReason::Operator, &[]);
    let (_, second) = bench.plan(RekeyReason::Operator, &[]);
    bench.send_pushes(&second);
    bench.send_pushes(&first);
    bench.run(secs(2));
    let node = &bench.nodes[&10];
    assert_eq!(node.events[2..], [MemberEvent::Rekeyed { counter: 2 }, MemberEvent::Acknowledged { counter: 2 }]);
    // And who registers afterwards does not take what came before, though the number is the one it was told.
    bench.add(11);
    bench.settle();
    bench.send_pushes(&second);
    bench.run(secs(2));
    assert_eq!(bench.nodes[&11].events, REGISTERED);
}

/// There are key servers that tell the lowest acceptable number instead of the last one used: a push with that number is
/// taken, once, if it brings what the member does not have.
#[test]
fn a_push_with_the_number_told_is_taken_if_it_is_new() {
    let mut bench = Bench::new(Setup::default());
    bench.add(10);
    bench.settle();
    let (plan, _) = bench.plan(RekeyReason::Operator, &[]);
    let step = &plan.steps[0];
    let same = |delete: Deletion| RekeyStep {
        protocol: step.protocol,
        over: Arc::clone(&step.over),
        counter: 0,
        new_rekey: None,
        new_epoch: step.new_epoch.clone(),
        delete,
        activation_delay: step.activation_delay,
        deactivation_delay: step.deactivation_delay,
        streams: keyferry_model::stream::StreamStep::default(),
        counted_from: step.counted_from,
        policy: Arc::clone(&step.policy),
    };
    let mut rng = SeededRandom::new(1);
    let first = gdoi::push::render(&plan.policy, &same(step.delete.clone()), &mut rng).unwrap();
    let second = gdoi::push::render(&plan.policy, &same(Deletion::Spis(vec![9999])), &mut rng).unwrap();
    bench.send_pushes(&[first, second]);
    bench.run(secs(2));
    assert_eq!(bench.nodes[&10].count(|e| matches!(e, MemberEvent::Rekeyed { .. })), 1);
}

#[test]
fn phase_1_may_be_proposed_under_the_ipsec_doi() {
    let mut bench = Bench::new(Setup::default());
    bench.add(10);
    bench.wire.clear();
    bench.member(10, |m, ctx| {
        m.set_phase1(Phase1Options { doi: Phase1Doi::Ipsec, ..Phase1Options::default() });
        m.start(ctx);
    });
    bench.settle();
    assert_eq!(bench.nodes[&10].events, REGISTERED);
    let sa = |i: usize| bench.log[i].bytes[32..40].to_vec();
    assert_eq!((sa(1), sa(2)), (vec![0, 0, 0, 1, 0, 0, 0, 1], vec![0, 0, 0, 1, 0, 0, 0, 1]));
}

#[test]
fn members_register_anew_before_their_keys_run_out() {
    let setup = Setup::default();
    let mut bench = Bench::new(setup);
    bench.add(10);
    // One to two minutes before: key servers are to rekey 200 s before, so whoever has got that does not ask.
    bench.run(secs(3479));
    assert_eq!(bench.nodes[&10].count(|e| *e == MemberEvent::Registered), 1);
    bench.run(secs(62));
    let node = &bench.nodes[&10];
    assert_eq!(node.count(|e| *e == MemberEvent::Registered), 2);
    // Phase 1 was idle and has been deleted meanwhile, which the member was told.
    assert_eq!(node.count(|e| *e == MemberEvent::Disconnected), 1);
    assert_eq!(node.count(|e| *e == MemberEvent::Connected), 2);
    assert_eq!(bench.server.counters().closed, 1);
}

#[test]
fn a_server_that_forgot_phase_1_is_asked_anew() {
    let setup = Setup::default();
    let mut bench = Bench::with_policy(setup, policy(setup), |c| c.idle = secs(100_000));
    bench.add(10);
    bench.settle();
    let fresh = Bench::with_policy(setup, policy(setup), |_| {});
    bench.server = fresh.server;
    bench.run(secs(3545));
    let node = &bench.nodes[&10];
    assert_eq!(node.count(|e| *e == MemberEvent::Registered), 2);
    assert_eq!(node.count(|e| *e == MemberEvent::Unanswered), 0);
}

#[test]
fn a_member_leaves() {
    let mut bench = Bench::new(Setup::default());
    bench.add(10);
    bench.add(11);
    bench.settle();
    bench.member(10, |m, ctx| m.leave(ctx));
    bench.settle();
    assert_eq!(bench.nodes[&10].events.last(), Some(&MemberEvent::Left));
    assert_eq!(bench.server.counters().left, 1);
    let active = bench.model.group(GROUP).unwrap().view(bench.now()).gdoi_members;
    assert_eq!(active, 1);
    assert_eq!(bench.nodes[&10].member.deadline(), None);
    // Even when phase 1 is long gone.
    bench.run(secs(1000));
    bench.member(11, |m, ctx| m.leave(ctx));
    bench.settle();
    assert_eq!(bench.server.counters().left, 2);
    assert_eq!(bench.nodes[&11].events.last(), Some(&MemberEvent::Left));
}

#[test]
fn a_member_may_only_connect() {
    let setup = Setup::default();
    let mut bench = Bench::new(setup);
    let mut only = settings(setup, 10);
    only.connect_only = true;
    bench.add_with(10, only);
    bench.run(secs(100));
    assert_eq!(bench.nodes[&10].events, [MemberEvent::Connected]);
    assert_eq!(bench.nodes[&10].member.status().state, "connected");
}

/// Keys change between message 2 and message 3: the member is made to begin again, and gets the new ones.
#[test]
fn keys_that_change_in_the_middle_of_a_registration_are_told_anew() {
    let mut bench = Bench::new(Setup::default());
    bench.add(10);
    bench.settle();
    bench.add(11);
    let mut pulls = 0;
    while let Some(packet) = bench.wire.pop_front() {
        if packet.bytes[18] == 32 && packet.to == host(false, 1) {
            pulls += 1;
            if pulls == 2 {
                bench.plan(RekeyReason::Operator, &[]);
            }
        }
        bench.deliver(&packet);
    }
    assert_eq!(bench.nodes[&11].events, REGISTERED);
    assert_eq!(bench.nodes[&11].member.status().last_counter, 1);
    assert_eq!(bench.nodes[&11].updates[0].install.len(), 2, "the replaced epoch and the new one");
    assert_eq!((bench.server.counters().refused, bench.server.counters().registered), (1, 2));
}

#[test]
fn acknowledgements_come_within_their_jitter_and_from_the_members_own_address() {
    let mut bench = Bench::new(Setup::default());
    bench.add(10);
    bench.settle();
    bench.rekey(RekeyReason::Operator, &[]);
    bench.run(Duration::from_millis(300));
    let ack = bench.log.iter().find(|p| p.bytes[18] == 35).unwrap();
    assert_eq!((ack.from, ack.to), (host(false, 10), host(false, 1)));
}

/// The key of tests/vectors/groupkey.py: DER of PKCS #1 in a PEM.
fn vector_signer(der: &[u8]) -> SigningKey {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in der.chunks(3) {
        let n = chunk.iter().fold(0u32, |n, b| n << 8 | u32::from(*b)) << (8 * (3 - chunk.len()));
        let sextets = (0..4).map(|i| usize::try_from(n >> (18 - 6 * i) & 63).unwrap());
        let chars = sextets.enumerate().map(|(i, s)| if i <= chunk.len() { char::from(ALPHABET[s]) } else { '=' });
        text.extend(chars);
        if text.len() % 65 == 64 {
            text.push('\n');
        }
    }
    let label = "RSA PRIVATE KEY";
    SigningKey::from_pem(format!("-----BEGIN {label}-----\n{text}\n-----END {label}-----\n").as_bytes()).unwrap()
}

#[test]
fn a_push_is_that_of_an_independent_computation() {
    let lines: Vec<Vec<u8>> = include_str!("vectors/push.txt").lines().map(|line| hex::decode(line).unwrap()).collect();
    let [private, spki, message] = lines.as_slice() else { panic!("three lines") };
    let signer = vector_signer(private);
    assert_eq!(signer.public_spki(), *spki);
    let mut policy = policy(Setup::default());
    let gdoi = policy.gdoi.as_mut().unwrap();
    gdoi.signer = Arc::new(signer);
    let over = RekeySa {
        spi: std::array::from_fn(|i| u8::try_from(i).unwrap() + 0x30),
        keymat: Secret::new([[0x41; 16], [0x42; 16]].concat()),
        created: secs(0),
        expires: secs(86_400),
        next_spi: None,
    };
    let traffic = Arc::clone(&policy.traffic[0]);
    let data = DataSa { spi: 0x1002, policy: traffic, keymat: Secret::copy_from(&[0x52; 20]), next_spi: None };
    let epoch = Epoch {
        number: 2,
        sas: vec![data],
        streams: Vec::new(),
        announced: secs(100),
        activates: secs(105),
        expires: secs(100 + 3600),
    };
    let step = RekeyStep {
        protocol: Protocol::Gdoi,
        over: Arc::new(over),
        policy: Arc::new(policy.clone()),
        counter: 5,
        new_rekey: None,
        new_epoch: Some(Arc::new(epoch)),
        delete: Deletion::Spis(vec![0x1001]),
        activation_delay: secs(5),
        deactivation_delay: secs(15),
        streams: keyferry_model::stream::StreamStep::default(),
        counted_from: secs(100),
    };
    let rendered = gdoi::push::render(&policy, &step, &mut SeededRandom::new(1)).unwrap();
    assert_eq!(hex::encode(rendered), hex::encode(message));
}

/// Who may not join cannot tell whether there is such a group: the answers have the same form, length and meaning, at the
/// same place of the exchange, also where the group does not serve GDOI or the member was evicted.
#[test]
fn an_unknown_group_and_a_refused_member_look_alike() {
    let setup = Setup::default();
    let answers = |change: &dyn Fn(&mut keyferry_model::policy::GroupPolicy), group: &str, evict: bool| {
        let mut policy = policy(setup);
        change(&mut policy);
        let mut bench = Bench::with_policy(setup, policy, |_| {});
        if evict {
            bench.add(10);
            bench.settle();
            bench.plan(RekeyReason::Eviction, &[10]);
            bench.log.clear();
        }
        bench.add_with(10, support_with_group(setup, 10, group));
        bench.settle();
        let refused = MemberEvent::Refused("INVALID-ID-INFORMATION".into());
        assert_eq!(bench.nodes[&10].events, [MemberEvent::Connected, refused]);
        let server = host(false, 1);
        bench.log.iter().filter(|p| p.from == server).map(|p| (p.bytes[18], p.bytes.len())).collect::<Vec<_>>()
    };
    let unknown = answers(&|_| {}, "77", false);
    assert_eq!(unknown.len(), 4, "three of main mode, one notice");
    let nobody = vec![Identity::from_ip(host(false, 99).ip())];
    assert_eq!(answers(&|p| p.authorization = Authorization::Listed(nobody.clone()), "1234", false), unknown);
    assert_eq!(answers(&|p| p.gdoi = None, "1234", false), unknown);
    assert_eq!(answers(&|_| {}, "1234", true), unknown);
    assert_eq!(answers(&|_| {}, "fqdn:nowhere.example", false), unknown);
    assert_eq!(answers(&|_| {}, "user:nobody@nowhere.example", false), unknown);
}
