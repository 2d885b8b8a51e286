//! Who holds a certificate is one member, whichever of its names it shows and however often it is renewed.
#![allow(clippy::unwrap_used)]

mod support;

use keyferry_model::credentials::Peer;
use keyferry_model::id::Identity;
use keyferry_model::plan::RekeyReason;
use keyferry_model::settings::Phase1Exchange;
use keyferry_model::update::MemberEvent;
use keyferry_model::view::{MemberState, MemberView};
use support::pki::{certified, certify, with_certificate};
use support::{Bench, GROUP, Setup, policy, secs};

const NAMES: [&str; 4] = ["10.84.0.10", "fqdn:gm10.example", "user:gm10@example.org", "dn:CN=gm10,O=Example"];

/// SHA-256 of the key of `gm10-p256.pem`, by: openssl x509 -noout -pubkey, openssl pkey -pubin -outform DER, sha256sum.
const KEY: &str = "86caf85e6b27bae57bac2844b9b3f81d5222a085114d2f41a65dbc2d9e100e0a";

const EXCHANGES: [Phase1Exchange; 2] = [Phase1Exchange::Main, Phase1Exchange::Aggressive];

fn bench() -> Bench {
    let everybody: Vec<Peer> = vec![certified(None, None)];
    Bench::with_policy(Setup::default(), policy(Setup::default()), |config| {
        config.aggressive = true;
        certify(config, &["gateway-p256", "gateway-p384"], everybody.clone());
    })
}

/// A member starts anew with this certificate and name: was it registered?
fn registers(bench: &mut Bench, certificate: &str, name: &str, exchange: Phase1Exchange) -> bool {
    let mut own = with_certificate(Setup::default(), certificate);
    own.identity = name.parse().unwrap();
    own.phase1.exchange = exchange;
    bench.add_with(10, own);
    bench.settle();
    // Without this it would be refused for its haste.
    bench.run(secs(30));
    let node = bench.nodes.remove(&10).unwrap();
    assert!(node.events.contains(&MemberEvent::Connected), "{certificate} {name}: {:?}", node.events);
    node.events.contains(&MemberEvent::Registered)
}

fn views(bench: &Bench) -> Vec<MemberView> {
    bench.model.group(GROUP).unwrap().member_views()
}

#[test]
fn who_is_evicted_comes_back_under_no_name_of_its_certificate() {
    for exchange in EXCHANGES {
        for first in NAMES {
            let mut bench = bench();
            assert!(registers(&mut bench, "gm10-p256", first, exchange));
            let evicted: Identity = first.parse().unwrap();
            let now = bench.now();
            bench
                .model
                .rekey(GROUP, RekeyReason::Eviction, std::slice::from_ref(&evicted), now, &mut bench.rng)
                .unwrap();
            for name in NAMES {
                // The second is the first with another key: a certificate that was renewed.
                for certificate in ["gm10-p256", "gm10-p384"] {
                    assert!(!registers(&mut bench, certificate, name, exchange), "{first} {certificate} {name}");
                }
            }
            assert!(registers(&mut bench, "gm11-p256", "fqdn:gm11.example", exchange));
            assert!(bench.model.readmit(GROUP, &evicted));
            assert!(registers(&mut bench, "gm10-p384", "fqdn:gm10.example", exchange));
        }
    }
}

#[test]
fn one_certificate_has_one_place_and_the_operator_sees_whose_it_is() {
    for exchange in EXCHANGES {
        let mut bench = bench();
        for name in NAMES {
            assert!(registers(&mut bench, "gm10-p256", name, exchange), "{name}");
            let (active, left): (Vec<_>, Vec<_>) =
                views(&bench).into_iter().partition(|m| m.state == MemberState::Active);
            assert_eq!(active.iter().map(|m| m.identity.to_string()).collect::<Vec<_>>(), [name]);
            assert!(left.iter().all(|m| m.state == MemberState::Left && m.holder == active[0].holder));
        }
        let holder = views(&bench)[0].holder.clone().unwrap();
        assert_eq!(holder.subject.map(|s| s.to_string()).as_deref(), Some(NAMES[3]));
        assert_eq!(holder.names.iter().map(Identity::to_string).collect::<Vec<_>>(), &NAMES[..3]);
        assert_eq!(holder.key, KEY);
    }
}
