//! Phase 1 in all its kinds: main and aggressive mode, pre-shared keys and signatures, and what is refused.
#![allow(clippy::unwrap_used)]

mod support;

use std::sync::Arc;

use gdoi::ServerConfig;
use keyferry_crypto::x509::DistinguishedName;
use keyferry_crypto::{Aead, BlockCipher, Hash, KeGroup};
use keyferry_model::credentials::{Credentials, Peer, Proof};
use keyferry_model::id::Identity;
use keyferry_model::key_server::KeyServers;
use keyferry_model::policy::{EspTransform, Selector};
use keyferry_model::reading::Readings;
use keyferry_model::settings::{MemberAuth, MemberSettings, Phase1Exchange};
use keyferry_model::update::MemberEvent;
use support::pki::{self, KINDS, certified, certify, own, with_certificate};
use support::{Bench, Packet, Setup, host, policy, psk, secs, settings};

const REGISTERED: [MemberEvent; 2] = [MemberEvent::Connected, MemberEvent::Registered];

const EXCHANGES: [Phase1Exchange; 2] = [Phase1Exchange::Main, Phase1Exchange::Aggressive];

fn bench(change: impl Fn(&mut ServerConfig)) -> Bench {
    let setup = Setup::default();
    Bench::with_policy(setup, policy(setup), |config| {
        config.aggressive = true;
        change(config);
    })
}

fn register(mut bench: Bench, settings: MemberSettings) -> Bench {
    bench.add_with(10, settings);
    bench.settle();
    bench
}

/// Runs until a member that is refused or gets no answer has given up once.
fn outcome(bench: Bench, settings: MemberSettings) -> (Bench, Vec<MemberEvent>) {
    let mut bench = register(bench, settings);
    bench.run(secs(45));
    let events = bench.nodes[&10].events.clone();
    (bench, events)
}

#[test]
fn pre_shared_keys_in_both_exchanges_with_each_cipher() {
    for exchange in EXCHANGES {
        for cipher in [BlockCipher::Aes128Cbc, BlockCipher::Aes192Cbc, BlockCipher::Aes256Cbc] {
            for (ke, hash) in
                [(KeGroup::Ecp256, Hash::Sha256), (KeGroup::Modp2048, Hash::Sha384), (KeGroup::Ecp521, Hash::Sha512)]
            {
                let mut own = settings(Setup { ke, hash, ..Setup::default() }, 10);
                own.phase1.exchange = exchange;
                own.phase1.ciphers = vec![cipher];
                let bench = register(bench(|_| {}), own);
                assert_eq!(bench.nodes[&10].events, REGISTERED, "{exchange:?} {cipher:?} {ke:?} {hash:?}");
            }
        }
    }
}

#[test]
fn signatures_of_each_kind_in_both_exchanges() {
    for exchange in EXCHANGES {
        for kind in KINDS {
            for hash in [Hash::Sha256, Hash::Sha384, Hash::Sha512] {
                let gateway = format!("gateway-{kind}");
                let bench = bench(|c| certify(c, &[&gateway], vec![certified(None, None)]));
                let mut own = with_certificate(Setup { hash, ..Setup::default() }, &format!("gm10-{kind}"));
                own.phase1.exchange = exchange;
                let bench = register(bench, own);
                assert_eq!(bench.nodes[&10].events, REGISTERED, "{exchange:?} {kind} {hash:?}");
            }
        }
    }
}

/// A certificate of one kind, and a key server that has only others: nothing is chosen.
#[test]
fn a_method_without_a_certificate_of_its_kind_does_not_fit() {
    let bench = bench(|c| certify(c, &["gateway-p384"], vec![certified(None, None)]));
    let (bench, events) = outcome(bench, with_certificate(Setup::default(), "gm10-p256"));
    assert_eq!(events[0], MemberEvent::Refused("NO-PROPOSAL-CHOSEN".into()));
    assert_eq!(bench.server.counters().established, 0);
}

#[test]
fn weak_algorithms_want_the_switch_on_both_sides() {
    let weak = [
        (KeGroup::Ecp256, Hash::Sha1, BlockCipher::Aes128Cbc),
        (KeGroup::Ecp256, Hash::Sha256, BlockCipher::TripleDesCbc),
        (KeGroup::Modp1024, Hash::Sha256, BlockCipher::Aes128Cbc),
        (KeGroup::Modp1536, Hash::Sha256, BlockCipher::Aes128Cbc),
        (KeGroup::Modp2048s256, Hash::Sha256, BlockCipher::Aes128Cbc),
        (KeGroup::Modp1024, Hash::Sha1, BlockCipher::TripleDesCbc),
    ];
    for (ke, hash, cipher) in weak {
        for (server, member) in [(false, true), (true, false), (true, true)] {
            for exchange in EXCHANGES {
                let mut own = settings(Setup { ke, hash, ..Setup::default() }, 10);
                own.phase1.ciphers = vec![cipher];
                own.phase1.danger_weak = member;
                own.phase1.exchange = exchange;
                own.connect_only = true;
                let bench = register(bench(|c| c.danger_weak = server), own);
                let connected = bench.nodes[&10].count(|e| *e == MemberEvent::Connected) == 1;
                assert_eq!(connected, server && member, "{ke:?} {hash:?} {cipher:?} {exchange:?} {server} {member}");
                assert_eq!(bench.server.counters().established, u64::from(connected));
            }
        }
    }
}

/// RFC 6407 section 7.1.2: keys are not carried by a phase 1 that is weaker than they are.
#[test]
fn a_registration_over_a_phase_1_weaker_than_its_keys_is_refused() {
    let strong = Setup { transform: EspTransform::Aead(Aead::Aes256Gcm16), ..Setup::default() };
    for (cipher, fits) in
        [(BlockCipher::Aes256Cbc, true), (BlockCipher::Aes192Cbc, false), (BlockCipher::TripleDesCbc, false)]
    {
        let bench = Bench::with_policy(strong, policy(strong), |c| c.danger_weak = true);
        let mut own = settings(strong, 10);
        own.phase1.ciphers = vec![cipher];
        own.phase1.danger_weak = true;
        let bench = register(bench, own);
        assert_eq!(bench.nodes[&10].events.contains(&MemberEvent::Registered), fits, "{cipher:?}");
        assert_eq!(bench.server.counters().established, 1);
        assert_eq!(bench.server.counters().refused, u64::from(!fits));
    }
    // Triple DES has keys of 24 octets, but it is no match for AES-128.
    let mut own = settings(Setup::default(), 10);
    own.phase1.ciphers = vec![BlockCipher::TripleDesCbc];
    own.phase1.danger_weak = true;
    let bench = register(bench(|c| c.danger_weak = true), own);
    assert_eq!(bench.server.counters().refused, 1);
}

/// The identities that a certificate names, and no other.
#[test]
fn an_identity_must_be_one_that_the_certificate_names() {
    let identities = [
        ("10.84.0.10", true),
        ("fqdn:gm10.example", true),
        ("fqdn:GM10.Example", true),
        ("user:gm10@example.org", true),
        ("dn:CN=gm10,O=Example", true),
        ("10.84.0.11", false),
        ("fqdn:gm11.example", false),
        ("fqdn:gm10", false),
        ("user:gm11@example.org", false),
        ("dn:CN=gm11,O=Example", false),
        ("key-id:00ff10", false),
    ];
    for exchange in EXCHANGES {
        for (identity, good) in identities {
            let bench = bench(|c| certify(c, &["gateway-p256"], vec![certified(None, None)]));
            let mut own = with_certificate(Setup::default(), "gm10-p256");
            own.identity = identity.parse().unwrap();
            own.phase1.exchange = exchange;
            let bench = register(bench, own);
            assert_eq!(bench.server.counters().registered == 1, good, "{exchange:?} {identity}");
            assert_eq!(bench.server.counters().established == 1, good, "{exchange:?} {identity}");
        }
    }
}

/// A list of peers restricts who may authenticate, and a subject stands in for names that the certificate has not.
#[test]
fn listed_peers_are_what_the_list_says() {
    let listed = |peers: Vec<Peer>, identity: &str, name: &str| {
        let bench = bench(|c| certify(c, &["gateway-p256"], peers.clone()));
        let mut own = with_certificate(Setup::default(), name);
        own.identity = identity.parse().unwrap();
        register(bench, own).server.counters().established == 1
    };
    let (fqdn, subject) = ("fqdn:gm10.example", "CN=gm10,O=Example");
    assert!(listed(vec![certified(Some(fqdn), None)], fqdn, "gm10-p256"));
    assert!(!listed(vec![certified(Some(fqdn), None)], "10.84.0.10", "gm10-p256"));
    assert!(!listed(vec![certified(Some(fqdn), None)], fqdn, "gm11-p256"));
    assert!(listed(vec![certified(Some("key-id:0a"), Some(subject))], "key-id:0a", "gm10-p256"));
    assert!(!listed(vec![certified(Some("key-id:0a"), Some(subject))], "key-id:0a", "gm11-p256"));
    assert!(!listed(vec![certified(Some("key-id:0a"), None)], "key-id:0a", "gm10-p256"));
    // Whoever is listed with a subject is not one of the many.
    let both = vec![certified(Some(fqdn), Some("CN=other,O=Example")), certified(None, None)];
    assert!(!listed(both.clone(), fqdn, "gm10-p256"));
    assert!(listed(both, "10.84.0.10", "gm10-p256"));
    assert!(!listed(Vec::new(), fqdn, "gm10-p256"));
}

#[test]
fn certificates_that_are_not_trusted_are_refused_by_both_sides() {
    for exchange in EXCHANGES {
        for name in ["expired-p256", "stranger-p256"] {
            let bench = bench(|c| certify(c, &["gateway-p256"], vec![certified(None, None)]));
            let mut own = with_certificate(Setup::default(), name);
            own.phase1.exchange = exchange;
            let (bench, events) = outcome(bench, own);
            assert_eq!(bench.server.counters().established, 0, "{exchange:?} {name}");
            // Certificates may have been altered on the way, so nothing is said about them.
            let silence = events.contains(&MemberEvent::Unanswered);
            assert!(exchange == Phase1Exchange::Aggressive || silence, "{name}: {events:?}");
        }
        let bench = bench(|c| certify(c, &["other-gateway-p256"], vec![certified(None, None)]));
        let mut own = with_certificate(Setup::default(), "gm10-p256");
        own.phase1.exchange = exchange;
        let (bench, events) = outcome(bench, own);
        assert!(!events.contains(&MemberEvent::Connected), "{exchange:?}: {events:?}");
        assert!(exchange == Phase1Exchange::Main || bench.server.counters().established == 0);
    }
}

/// The key server must be who it is expected to be, and its certificate must say so.
#[test]
fn another_member_is_not_taken_for_the_key_server() {
    let with = |name: &str, identity: Option<&str>, subject: Option<&str>| {
        let bench = bench(|c| {
            certify(c, &[name], vec![certified(None, None)]);
            c.identity = Some("10.84.0.1".parse().unwrap());
        });
        let mut own = with_certificate(Setup::default(), "gm10-p256");
        own.key_servers = KeyServers::one(own.gateway(), identity.map(|i| i.parse().unwrap()));
        if let (MemberAuth::Certificate(auth), Some(subject)) = (&mut own.auth, subject) {
            auth.gateway_subject = Some(DistinguishedName::parse(subject).unwrap());
        }
        register(bench, own).nodes[&10].events.contains(&MemberEvent::Registered)
    };
    assert!(with("gateway-p256", Some("10.84.0.1"), None));
    assert!(with("gateway-p256", None, None));
    assert!(!with("gateway-p256", Some("fqdn:gateway.example"), None), "it calls itself by its address");
    assert!(!with("gm11-p256", Some("10.84.0.1"), None), "a member's certificate does not name the key server");
    assert!(!with("gm11-p256", None, None));
    assert!(with("gateway-p256", None, Some("CN=gateway,O=Example")));
    assert!(!with("gm11-p256", None, Some("CN=gateway,O=Example")));
}

/// Of two certificates the one goes out that the peer asks for: the one that its anchor has issued.
#[test]
fn requests_for_certificates_are_honoured() {
    for exchange in EXCHANGES {
        let bench = bench(|c| certify(c, &["other-gateway-p256", "gateway-p256"], vec![certified(None, None)]));
        let mut own = with_certificate(Setup::default(), "gm10-p256");
        own.phase1.exchange = exchange;
        let bench = register(bench, own);
        assert_eq!(bench.nodes[&10].events, REGISTERED, "{exchange:?}");
    }
}

#[test]
fn without_a_configured_identity_the_certificate_says_who_we_are() {
    let (address, subject) =
        (host(false, 1).ip(), Identity::Dn(DistinguishedName::parse("CN=gm11,O=Example").unwrap()));
    assert_eq!(own("gateway-p256").identity(Identity::from_ip(address)), Identity::from_ip(address));
    assert_eq!(own("gm11-p256").identity(Identity::from_ip(address)), subject);
}

#[test]
fn aggressive_mode_is_off_unless_configured() {
    let mut own = settings(Setup::default(), 10);
    own.phase1.exchange = Phase1Exchange::Aggressive;
    let (bench, events) = outcome(Bench::new(Setup::default()), own);
    assert_eq!(events[0], MemberEvent::Unanswered);
    assert!(bench.log.iter().all(|p| p.to == host(false, 1)), "no answer at all");
}

#[test]
fn aggressive_mode_finds_keys_by_identity_and_main_mode_by_address() {
    let peer = |identity: &str, address: Option<&str>, key: u8| Peer {
        identity: Some(identity.parse().unwrap()),
        address: address.map(|a| Selector { address: a.parse().unwrap(), prefix: 24, protocol: 0, port: 0 }),
        proof: Proof::Psk(psk(key)),
        sends: Readings::NONE,
    };
    let peers = vec![
        peer("fqdn:gm10.example", None, 1),
        peer("fqdn:gm11.example", Some("10.84.0.0"), 2),
        peer("fqdn:gm12.example", Some("192.0.2.0"), 3),
    ];
    let established = |identity: &str, key: u8, exchange| {
        let bench = bench(|c| c.credentials = Arc::new(Credentials::new(peers.clone())));
        let mut own = settings(Setup::default(), 10);
        own.identity = identity.parse().unwrap();
        own.auth = MemberAuth::Psk(psk(key));
        own.phase1.exchange = exchange;
        register(bench, own).server.counters().established == 1
    };
    let (main, aggressive) = (Phase1Exchange::Main, Phase1Exchange::Aggressive);
    assert!(established("fqdn:gm10.example", 1, aggressive));
    assert!(!established("fqdn:gm10.example", 2, aggressive));
    assert!(established("fqdn:gm11.example", 2, aggressive));
    assert!(established("fqdn:gm11.example", 2, main));
    assert!(!established("fqdn:gm10.example", 1, main), "nothing says where it is");
    assert!(!established("fqdn:gm12.example", 3, aggressive), "it comes from elsewhere");
    assert!(!established("fqdn:gm13.example", 1, aggressive));
}

/// A key for a whole network: whoever has it is its own address and nobody else.
#[test]
fn a_key_for_a_network_is_good_for_the_address_that_it_comes_from() {
    let net = Selector { address: "10.84.0.0".parse().unwrap(), prefix: 24, protocol: 0, port: 0 };
    let many = Peer { identity: None, address: Some(net), proof: Proof::Psk(psk(7)), sends: Readings::NONE };
    let named = |identity: &str, key| Peer {
        identity: Some(identity.parse().unwrap()),
        address: None,
        proof: Proof::Psk(psk(key)),
        sends: Readings::NONE,
    };
    for exchange in EXCHANGES {
        let established = |identity: &str, more: Vec<Peer>| {
            let peers = std::iter::once(many.clone()).chain(more).collect();
            let credentials = Arc::new(Credentials::new(peers));
            let bench = bench(|c| c.credentials = Arc::clone(&credentials));
            let mut own = settings(Setup::default(), 10);
            own.identity = identity.parse().unwrap();
            own.auth = MemberAuth::Psk(psk(7));
            own.phase1.exchange = exchange;
            register(bench, own).server.counters().established == 1
        };
        assert!(established("10.84.0.10", Vec::new()), "{exchange:?}");
        assert!(!established("10.84.0.11", Vec::new()), "{exchange:?}");
        assert!(!established("fqdn:gm10.example", Vec::new()), "{exchange:?}");
        assert!(!established("10.84.0.10", vec![named("10.84.0.10", 8)]), "{exchange:?}: it has a key of its own");
        assert!(!established("fqdn:gm11.example", vec![named("fqdn:gm11.example", 8)]), "{exchange:?}");
    }
}

/// Whoever asks for an identity without a key cannot tell: the answer has the same form and size.
#[test]
fn aggressive_mode_does_not_tell_which_identities_there_are() {
    let answer = |identity: &str| {
        let mut own = settings(Setup::default(), 10);
        own.identity = identity.parse().unwrap();
        own.phase1.exchange = Phase1Exchange::Aggressive;
        let bench = register(bench(|_| {}), own);
        bench.log.iter().find(|p| p.to == host(false, 10)).unwrap().bytes.len()
    };
    assert_eq!(answer("10.84.0.10"), answer("10.84.0.99"));
}

/// Everybody can make a key server of aggressive mode do public-key work: it does only so much, and repeats its large answer
/// only so often.
#[test]
fn aggressive_mode_is_bounded() {
    let mut own = settings(Setup::default(), 10);
    own.phase1.exchange = Phase1Exchange::Aggressive;
    let mut bench = register(bench(|c| c.aggressive_per_second = 20), own);
    let first = bench.log[0].clone();
    let answers = |bench: &Bench| bench.log.iter().filter(|p| p.from == host(false, 1) && p.bytes[18] == 4).count();
    let before = answers(&bench);
    bench.run(secs(2));
    for i in 0..1000u32 {
        let mut packet = first.clone();
        packet.bytes[..4].copy_from_slice(&(i + 1).to_be_bytes());
        bench.deliver(&packet);
    }
    assert_eq!(answers(&bench) - before, 5, "from one source");
    bench.run(secs(2));
    let before = answers(&bench);
    for i in 0..1000u32 {
        let mut packet = first.clone();
        packet.bytes[..4].copy_from_slice(&(0x1_0000 + i).to_be_bytes());
        let [_, _, high, low] = i.to_be_bytes();
        packet.from.set_ip(std::net::Ipv4Addr::new(192, 0, 2 + high, low).into());
        bench.deliver(&packet);
    }
    assert_eq!(answers(&bench) - before, 20, "from everywhere");
    bench.run(secs(40));
    let before = answers(&bench);
    let mut again = first.clone();
    again.bytes[..4].copy_from_slice(&[9; 4]);
    for _ in 0..300 {
        bench.deliver(&again);
        bench.run(std::time::Duration::from_millis(100));
    }
    let repeated = answers(&bench) - before;
    assert!((4..=9).contains(&repeated), "{repeated} answers to repeats within 30 s");
}

/// The last message of aggressive mode has no answer: it goes along with what follows until that is answered.
#[test]
fn a_lost_third_message_of_aggressive_mode_is_made_up_for() {
    for lost in 1..4 {
        let mut own = settings(Setup::default(), 10);
        own.phase1.exchange = Phase1Exchange::Aggressive;
        let mut bench = bench(|_| {});
        bench.add_with(10, own);
        let mut left = lost;
        bench.run_through(secs(20), &mut |packet: &Packet| {
            let third = packet.bytes[18] == 4 && packet.bytes[8..16] != [0; 8] && packet.to == host(false, 1);
            if third && left > 0 {
                left -= 1;
                return Vec::new();
            }
            vec![packet.clone()]
        });
        assert_eq!(bench.nodes[&10].events, REGISTERED, "{lost} lost");
        assert_eq!(bench.server.counters().established, 1);
    }
}

/// Each octet of each message, altered, before the message itself: nothing comes of it.
#[test]
fn altered_messages_of_every_kind_of_phase_1_change_nothing() {
    for exchange in EXCHANGES {
        for kind in ["psk", "p256", "rsa"] {
            let gateway = format!("gateway-{kind}");
            let mut bench = bench(|c| {
                if kind != "psk" {
                    certify(c, &[&gateway], vec![certified(None, None)]);
                }
            });
            let mut own = match kind {
                "psk" => settings(Setup::default(), 10),
                _ => with_certificate(Setup::default(), &format!("gm10-{kind}")),
            };
            own.phase1.exchange = exchange;
            own.tries = 20;
            bench.add_with(10, own);
            bench.run_through(secs(60), &mut |packet: &Packet| {
                let phase1 = matches!(packet.bytes[18], 2 | 4) && packet.bytes[8..16] != [0; 8];
                let altered = |at: usize| {
                    let mut bytes = packet.bytes.clone();
                    bytes[at] ^= 0x41;
                    Packet { bytes, ..packet.clone() }
                };
                let octets = if phase1 { 0..packet.bytes.len() } else { 0..0 };
                // RSA takes its time.
                let step = if kind == "rsa" { 7 } else { 1 };
                octets.step_by(step).map(altered).chain([packet.clone()]).collect()
            });
            let node = &bench.nodes[&10];
            assert_eq!(node.count(|e| *e == MemberEvent::Registered), 1, "{exchange:?} {kind}: {:?}", node.events);
            assert_eq!(node.count(|e| matches!(e, MemberEvent::Refused(_) | MemberEvent::Unanswered)), 0);
            assert_eq!(bench.server.counters().registered, 1, "{exchange:?} {kind}");
        }
    }
}

/// All of a run again, some time later: no exchange is begun by anything but first messages, nobody is registered twice.
#[test]
fn replays_of_phase_1_change_nothing() {
    for exchange in EXCHANGES {
        let mut bench = bench(|c| certify(c, &["gateway-p256"], vec![certified(None, None)]));
        let mut own = with_certificate(Setup::default(), "gm10-p256");
        own.phase1.exchange = exchange;
        bench.add_with(10, own);
        bench.settle();
        bench.run(secs(3));
        for packet in bench.log.clone() {
            bench.deliver(&packet);
        }
        bench.run(secs(60));
        assert_eq!(bench.nodes[&10].events, REGISTERED, "{exchange:?}");
        assert_eq!(bench.server.counters().established, 1);
        assert_eq!(bench.server.counters().registered, 1);
    }
}

#[test]
fn new_credentials_hold_from_the_next_phase_1_on() {
    let mut bench = bench(|c| certify(c, &["gateway-p256"], vec![certified(None, None)]));
    let untrusting = Credentials::new(vec![certified(None, None)])
        .with_own(vec![own("gateway-p256")])
        .with_trust(pki::trust("other-root"));
    bench.server.set_credentials(&mut bench.out, Arc::new(untrusting));
    let (bench, events) = outcome(bench, with_certificate(Setup::default(), "gm10-p256"));
    assert_eq!(bench.server.counters().established, 0);
    assert!(!events.contains(&MemberEvent::Connected), "{events:?}");
}

/// The key is found with message 1 and the identity with message 5: who proves the key of before must not be let in by that
/// of now.
#[test]
fn a_key_that_is_replaced_during_an_exchange_proves_nothing() {
    let with = |key: u8| {
        let peer = Peer {
            identity: settings(Setup::default(), 10).identity.into(),
            address: None,
            proof: Proof::Psk(psk(key)),
            sends: Readings::NONE,
        };
        Arc::new(Credentials::new(vec![peer]))
    };
    for (now, established) in [(10, 1), (11, 0)] {
        let mut bench = bench(|c| c.credentials = with(10));
        bench.add(10);
        let mut sent = 0;
        while let Some(packet) = bench.wire.pop_front() {
            sent += usize::from(packet.from == host(false, 10));
            if sent == 3 {
                bench.server.set_credentials(&mut bench.out, with(now));
            }
            bench.deliver(&packet);
        }
        assert_eq!(bench.server.counters().established, established, "key {now}");
    }
}

/// A check that has begun under other credentials proves nothing, whether it is the peer's signature that is checked or our own
/// that is made for a peer that has been: not even if its result comes in. Who is still trusted proves itself once more.
#[test]
fn checks_that_have_begun_under_other_credentials_prove_nothing() {
    let with = |root: &str| {
        let credentials = Credentials::new(vec![certified(None, None)]).with_own(vec![own("gateway-p256")]);
        Arc::new(credentials.with_trust(pki::trust(root)))
    };
    for (exchange, jobs) in [(Phase1Exchange::Main, 3), (Phase1Exchange::Aggressive, 3)] {
        for at in 2..=jobs {
            for (root, established) in [("root", 1), ("other-root", 0)] {
                let mut bench = bench(|c| c.credentials = with("root"));
                let mut own = with_certificate(Setup::default(), "gm10-p256");
                own.phase1.exchange = exchange;
                bench.add_with(10, own);
                bench.hold_jobs = true;
                for n in 1..=at {
                    bench.settle();
                    let (id, job) = bench.held.remove(0);
                    if n == at {
                        bench.server.set_credentials(&mut bench.out, with(root));
                    }
                    bench.serve(|server, ctx| server.complete(ctx, id, job.run()));
                }
                bench.settle();
                let aggressive = exchange == Phase1Exchange::Aggressive;
                let own_signature_for_message_2 = aggressive && at == 2;
                assert_eq!(bench.server.counters().established, 0, "{exchange:?} {at} {root}");
                assert_eq!(bench.held.len(), usize::from(own_signature_for_message_2), "{exchange:?} {at} {root}");
                bench.hold_jobs = false;
                for (id, job) in std::mem::take(&mut bench.held) {
                    bench.serve(|server, ctx| server.complete(ctx, id, job.run()));
                }
                bench.run(secs(5));
                assert_eq!(bench.server.counters().established, established, "{exchange:?} {at} {root}");
            }
        }
    }
}

/// Whose key or certificate may have been withdrawn proves itself anew; whose key is the same goes on.
#[test]
fn what_new_credentials_do_not_back_ends() {
    let with = |keys: &[(u8, u8)]| {
        let peers = keys.iter().map(|(n, key)| Peer {
            identity: settings(Setup::default(), *n).identity.into(),
            address: None,
            proof: Proof::Psk(psk(*key)),
            sends: Readings::NONE,
        });
        Arc::new(Credentials::new(peers.collect()))
    };
    for exchange in EXCHANGES {
        for (new, closed) in [(with(&[(10, 10), (11, 11)]), 0), (with(&[(10, 10)]), 1), (with(&[(10, 7), (11, 7)]), 2)]
        {
            let mut bench = bench(|c| c.credentials = with(&[(10, 10), (11, 11)]));
            for n in [10, 11] {
                let mut own = settings(Setup::default(), n);
                own.phase1.exchange = exchange;
                bench.add_with(n, own);
            }
            bench.settle();
            assert_eq!(bench.server.counters().registered, 2);
            bench.server.set_credentials(&mut bench.out, new);
            assert_eq!(bench.server.counters().closed, closed, "{exchange:?}");
        }
        let mut bench = bench(|c| certify(c, &["gateway-p256"], vec![certified(None, None)]));
        let mut own = with_certificate(Setup::default(), "gm10-p256");
        own.phase1.exchange = exchange;
        bench.add_with(10, own);
        bench.settle();
        assert_eq!(bench.server.counters().established, 1);
        bench.server.set_credentials(&mut bench.out, with(&[(10, 10)]));
        assert_eq!(bench.server.counters().closed, 1, "{exchange:?}");
    }
}

/// The key of an address has let a member in: it is not enough that its identity has the same key still.
#[test]
fn a_member_is_backed_by_what_it_has_proved_itself_with() {
    let identity: Identity = "fqdn:gm10.example".parse().unwrap();
    let at = Selector { address: host(false, 10).ip(), prefix: 32, protocol: 0, port: 0 };
    let with = |address: Option<Selector>| {
        let peer =
            Peer { identity: Some(identity.clone()), address, proof: Proof::Psk(psk(10)), sends: Readings::NONE };
        Arc::new(Credentials::new(vec![peer]))
    };
    for (exchange, closed) in EXCHANGES.into_iter().zip([1, 0]) {
        let mut bench = bench(|c| c.credentials = with(Some(at)));
        let mut own = settings(Setup::default(), 10);
        own.identity = identity.clone();
        own.phase1.exchange = exchange;
        bench.add_with(10, own);
        bench.settle();
        assert_eq!(bench.server.counters().registered, 1, "{exchange:?}");
        bench.server.set_credentials(&mut bench.out, with(None));
        assert_eq!(bench.server.counters().closed, closed, "{exchange:?}");
    }
}
