//! Readings of phase 1 other than ours: what either side can be told to send, the other takes, notices and remembers.
#![allow(clippy::unwrap_used)]

mod support;

use std::sync::Arc;

use gdoi::{Phase1Doi, Phase1Options, ServerConfig};
use keyferry_crypto::Hash;
use keyferry_model::credentials::{Credentials, Peer, Proof};
use keyferry_model::id::Identity;
use keyferry_model::policy::Selector;
use keyferry_model::reading::{Reading, Readings};
use keyferry_model::settings::{MemberSettings, Phase1Exchange};
use keyferry_model::update::MemberEvent;
use support::pki::{certify, with_certificate};
use support::{Bench, GROUP, Setup, host, policy, psk, secs, settings};

const EXCHANGES: [Phase1Exchange; 2] = [Phase1Exchange::Main, Phase1Exchange::Aggressive];

/// By which means a reading can be seen.
fn kinds(reading: Reading) -> &'static [&'static str] {
    let of_signatures: [(_, &[_]); 3] = [
        (Reading::RsaDigestInfo, &["rsa"]),
        (Reading::EcdsaNegotiatedHash, &["p256"]),
        (Reading::EcdsaHashedTwice, &["p256", "p384", "p521"]),
    ];
    of_signatures.into_iter().find(|(r, _)| *r == reading).map_or(&["psk", "rsa", "p256"], |(_, kinds)| kinds)
}

/// Member 10 alone, at its address.
fn peer(kind: &str, sends: Readings) -> Peer {
    let ip = host(false, 10).ip();
    let proof = if kind == "psk" { Proof::Psk(psk(10)) } else { Proof::Certificate { subject: None } };
    let address = Some(Selector { address: ip, prefix: 32, protocol: 0, port: 0 });
    Peer { identity: Some(Identity::from_ip(ip)), address, proof, sends }
}

fn bench(kind: &str, sends: Readings) -> Bench {
    let setup = Setup::default();
    Bench::with_policy(setup, policy(setup), |c: &mut ServerConfig| {
        c.aggressive = true;
        if kind == "psk" {
            c.credentials = Arc::new(Credentials::new(vec![peer(kind, sends)]));
        } else {
            certify(c, &[&format!("gateway-{kind}")], vec![peer(kind, sends)]);
        }
    })
}

/// The negotiated hash is none of those that the curves have.
fn member(kind: &str, exchange: Phase1Exchange, sends: Readings) -> MemberSettings {
    let hash = if kind == "p384" { Hash::Sha256 } else { Hash::Sha384 };
    let setup = Setup { hash, ..Setup::default() };
    let mut own = if kind == "psk" { settings(setup, 10) } else { with_certificate(setup, &format!("gm10-{kind}")) };
    (own.phase1.exchange, own.phase1.sends) = (exchange, sends);
    own
}

fn start(bench: &mut Bench, settings: MemberSettings, options: Phase1Options) {
    bench.add_with(10, settings);
    bench.wire.clear();
    bench.log.clear();
    bench.member(10, |m, ctx| {
        m.set_phase1(options);
        m.start(ctx);
    });
    bench.settle();
}

/// What the two have noticed of each other: the key server of the member, the member of the key server.
fn seen(bench: &Bench) -> (Readings, Readings) {
    let node = &bench.nodes[&10];
    assert_eq!(node.count(|e| *e == MemberEvent::Registered), 1, "{:?}", node.events);
    let views = bench.model.group(GROUP).unwrap().member_views();
    (views[0].readings, node.member.status().readings)
}

/// No translators are looked for, so that ports of identities may stand in them.
fn options(doi: Phase1Doi) -> Phase1Options {
    Phase1Options { doi, nat_port: None, ..Phase1Options::default() }
}

#[test]
fn what_a_key_server_sends_to_a_peer_is_taken_and_noticed() {
    for reading in Reading::SENT_TO_PEER.into_iter().filter(|r| *r != Reading::NoticeClear) {
        // A member that has proposed GDOI's DOI notices nothing where it is answered so.
        let (doi, proposed) = if reading == Reading::Phase1DoiGdoi {
            (Phase1Doi::Ipsec, Readings::from_iter([Reading::Phase1DoiIpsec]))
        } else {
            (Phase1Doi::Gdoi, Readings::NONE)
        };
        for exchange in EXCHANGES {
            for kind in kinds(reading) {
                let sends = Readings::from_iter([reading]);
                let mut bench = bench(kind, sends);
                start(&mut bench, member(kind, exchange, Readings::NONE), options(doi));
                assert_eq!(seen(&bench), (proposed, sends), "{reading} {exchange:?} {kind}");
            }
        }
    }
}

#[test]
fn what_a_member_sends_is_taken_noticed_and_remembered() {
    for reading in Reading::SENT_BY_MEMBER {
        for exchange in EXCHANGES {
            if reading == Reading::Message3Clear && exchange == Phase1Exchange::Main {
                continue;
            }
            for kind in kinds(reading) {
                let sends = Readings::from_iter([reading]);
                let mut bench = bench(kind, Readings::NONE);
                start(&mut bench, member(kind, exchange, sends), options(Phase1Doi::Gdoi));
                assert_eq!(seen(&bench), (sends, Readings::NONE), "{reading} {exchange:?} {kind}");
                assert!(bench.model.readings(&Identity::from_ip(host(false, 10).ip())) == sends);
            }
        }
    }
}

#[test]
fn phase_1_is_proposed_under_each_doi() {
    let none = Readings::NONE;
    for (doi, noticed) in [
        (Phase1Doi::Gdoi, none),
        (Phase1Doi::Ipsec, Readings::from_iter([Reading::Phase1DoiIpsec])),
        (Phase1Doi::Isakmp, Readings::from_iter([Reading::Phase1DoiIsakmp])),
    ] {
        for exchange in EXCHANGES {
            let mut bench = bench("psk", none);
            start(&mut bench, member("psk", exchange, none), options(doi));
            assert_eq!(seen(&bench), (noticed, none), "{doi:?} {exchange:?}");
        }
    }
}

/// What a member does differently from one registration to the next is what is remembered.
#[test]
fn the_latest_registration_says_how_a_member_reads() {
    let mut bench = bench("rsa", Readings::NONE);
    let digest_info = Readings::from_iter([Reading::RsaDigestInfo]);
    for sends in [digest_info, Readings::NONE, digest_info] {
        start(&mut bench, member("rsa", Phase1Exchange::Main, sends), options(Phase1Doi::Gdoi));
        assert_eq!(seen(&bench).0, sends);
    }
}

/// RFC 3947 section 4: where both look for translators, the port of an identity is zero.
#[test]
fn identities_have_no_port_where_translators_are_looked_for() {
    let udp = Readings::from_iter([Reading::IdUdp]);
    let port = Readings::from_iter([Reading::IdUdp848]);
    for exchange in EXCHANGES {
        let mut bench = bench("psk", port);
        start(&mut bench, member("psk", exchange, port), Phase1Options::default());
        assert_eq!(seen(&bench), (udp, udp), "{exchange:?}");
    }
}

/// A peer that is not what it says is told so behind a hash, or in clear; that proves nothing, so the member goes on trying
/// until its time is up.
#[test]
fn a_refusal_in_place_of_message_6_may_come_in_clear() {
    let name = "INVALID-ID-INFORMATION";
    for (sends, protected) in [(Readings::NONE, true), (Readings::from_iter([Reading::NoticeClear]), false)] {
        let mut bench = bench("psk", sends);
        let mut own = member("psk", Phase1Exchange::Main, Readings::NONE);
        own.identity = "fqdn:somebody.example".parse().unwrap();
        start(&mut bench, own, options(Phase1Doi::Gdoi));
        let notice = bench.log.iter().find(|p| p.to == host(false, 10) && p.bytes[18] == 5).unwrap();
        assert_eq!(notice.bytes[19], u8::from(protected));
        assert_eq!(bench.nodes[&10].events.len(), usize::from(protected));
        bench.run(secs(60));
        assert_eq!(bench.nodes[&10].events[0], MemberEvent::Refused(name.into()), "{sends}");
        assert_eq!(bench.server.counters().established, 0);
    }
}
