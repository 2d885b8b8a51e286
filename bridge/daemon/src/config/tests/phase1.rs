//! Phase 1 of IKEv1: what is weak, aggressive mode, and the profile that forbids them.

use keyferry_crypto::{BlockCipher, Hash, KeGroup};
use keyferry_model::settings::Phase1Exchange;

use super::*;

const PROFILE: &str = "store = \"gateway.redb\"\nprofile = \"iec-62351-9\"\n";

#[test]
fn a_gateway_takes_main_mode_and_nothing_weak_unless_told() {
    let phase1 =
        |more: &str| gateway_of(&GATEWAY.replace("store =", &format!("{more}\nstore ="))).unwrap().config.phase1;
    assert_eq!(phase1(""), GatewayPhase1::default());
    let told = phase1("aggressive = true\ndanger_weak_phase1 = true");
    assert_eq!(told, GatewayPhase1 { aggressive: true, danger_weak: true });
    let warned = gateway_of(&GATEWAY.replace("store =", "aggressive = true\nstore =")).unwrap().warnings;
    assert!(warned[0].to_string().contains("guess pre-shared keys"), "{}", warned[0]);
}

#[test]
fn the_profile_of_iec_62351_9_forbids_what_is_weak_wherever_it_stands() {
    let store = "store = \"gateway.redb\"\n";
    assert!(gateway_of(&GATEWAY.replace(store, PROFILE)).is_ok());
    let forbidden = &["forbidden by profile = \"iec-62351-9\""];
    one_problem(store, &format!("{PROFILE}aggressive = true\n"), "aggressive", forbidden);
    one_problem(store, &format!("{PROFILE}danger_weak_phase1 = true\n"), "danger_weak_phase1", forbidden);
    let text = GATEWAY.replace(store, PROFILE).replace("psk = ", "danger_short_psk = true\npsk = ");
    let problems = gateway_of(&text).unwrap_err().to_string();
    assert!(problems.contains("peer[0].danger_short_psk: is forbidden by profile"), "{problems}");
    let unknown = gateway_of(&GATEWAY.replace(store, "store = \"x\"\nprofile = \"iec\"\n")).unwrap_err().to_string();
    assert!(unknown.contains("iec-62351-9"), "{unknown}");
    let member = |more: &str| member_of(&format!("{MEMBER}profile = \"iec-62351-9\"\n{more}\n"));
    assert!(member("exchange = \"main\"").is_ok());
    for more in ["exchange = \"aggressive\"", "danger_weak_phase1 = true", "danger_weak_rekey = true"] {
        let problems = member(more).unwrap_err().to_string();
        assert!(problems.contains(forbidden[0]), "{problems}");
    }
    assert!(member("danger_weak_phase1 = false").is_ok());
}

#[test]
fn a_member_offers_weak_algorithms_only_where_it_says_danger() {
    let usual = member_of(MEMBER).unwrap().config;
    assert_eq!(usual.phase1.exchange, Phase1Exchange::Main);
    assert_eq!(usual.phase1.ciphers, [BlockCipher::Aes256Cbc, BlockCipher::Aes128Cbc]);
    let weak = "ke_groups = [\"modp-1024\", \"ecp-521\"]\nhashes = [\"sha1\"]\nphase1_ciphers = [\"3des-cbc\"]\n";
    let Problems(problems) = member_of(&format!("{MEMBER}{weak}")).map(|c| c.config).unwrap_err();
    assert_eq!(problems.len(), 3, "{problems:#?}");
    assert!(problems.iter().all(|p| p.remedy.contains("danger_weak_phase1 = true")), "{problems:#?}");
    let weak = format!("{MEMBER}{weak}danger_weak_phase1 = true\nexchange = \"aggressive\"\n");
    let config = member_of(&weak).unwrap().config;
    assert_eq!(config.ke_groups, [KeGroup::Modp1024, KeGroup::Ecp521]);
    assert_eq!((config.hashes, config.phase1.ciphers), (vec![Hash::Sha1], vec![BlockCipher::TripleDesCbc]));
    assert_eq!(config.phase1.exchange, Phase1Exchange::Aggressive);
    assert!(config.phase1.danger_weak);
}

#[test]
fn a_network_alone_is_a_peer_with_a_key_for_everybody_in_it() {
    let text = GATEWAY.replace("identity = \"10.0.0.1\"", "address = \"10.0.0.0/24\"");
    let credentials = gateway_of(&text).unwrap().config.credentials;
    let ip = "10.0.0.7".parse().unwrap();
    assert!(credentials.allows(ip, &Identity::from_ip(ip)));
    assert!(!credentials.allows(ip, &"10.0.0.8".parse().unwrap()));
}

/// Who is evicted with its certificate must not come back by a key that many have, nor the other way round.
#[test]
fn a_key_for_everybody_and_certificates_of_everybody_need_networks_of_their_own() {
    let mixed = |one: &str, two: &str| {
        let text = format!("{}[[peer]]\n{one}\n[[peer]]\n{two}\n", GATEWAY.split_once("[[peer]]").unwrap().0);
        let problems = gateway_of(&text).unwrap_err();
        problems.0.into_iter().map(|p| p.to_string()).filter(|p| p.contains("everybody")).collect::<Vec<_>>()
    };
    let key = |more: &str| format!("psk = \"a key of more than sixteen octets\"\n{more}");
    let certificates = |more: &str| format!("auth = \"certificate\"\n{more}");
    let (wide, narrow, apart) = ("address = \"10.0.0.0/8\"", "address = \"10.1.0.0/16\"", "address = \"10.2.0.0/16\"");
    for (a, b) in [(wide, ""), (wide, narrow), (narrow, wide), (narrow, narrow)] {
        let after = mixed(&key(a), &certificates(b));
        let before = mixed(&certificates(b), &key(a));
        assert!(
            after[0].contains(": peer[1].") && after[0].contains("where peer[0] has a key for everybody"),
            "{after:?}"
        );
        assert!(before[0].contains(": peer[1].") && before[0].contains("where peer[0] takes"), "{before:?}");
        assert!(after[0].contains("do not overlap") && (after.len(), before.len()) == (1, 1), "{after:?} {before:?}");
    }
    assert!(mixed(&key(narrow), &certificates(apart)).is_empty());
    assert!(mixed(&key("identity = \"10.0.0.1\""), &certificates("")).is_empty());
    assert!(mixed(&key(narrow), &certificates("identity = \"fqdn:gm1.example.net\"")).is_empty());
}

#[test]
fn readings_of_phase_1_are_named_for_each_peer() {
    let key = "psk = \"a key of more than sixteen octets\"\n";
    let sends = |line: &str| format!("{key}{line}\n");
    let told = gateway_of(&GATEWAY.replace(key, &sends("sends = [\"phase-1-doi-gdoi\", \"id-udp-848\"]"))).unwrap();
    assert_eq!(told.config.credentials.peers()[0].sends.to_string(), "phase-1-doi-gdoi id-udp-848");
    assert!(gateway_of(GATEWAY).unwrap().config.credentials.peers()[0].sends.is_empty());
    one_problem(key, &sends("sends = [\"id-upd\"]"), "sends", &["peer[0].sends", "did you mean \"id-udp\"?"]);
    one_problem(key, &sends("sends = [\"message-3-clear\"]"), "sends", &["message-3-clear", "notice-clear"]);
    one_problem(key, &sends("sends = [\"zero-iv\"]"), "sends", &["\"zero-iv\" is not known here"]);
    let both = &["id-udp and id-udp-500 exclude each other", "keep one of them"];
    one_problem(key, &sends("sends = [\"id-udp-500\", \"id-udp\"]"), "sends", both);
    let signature = &["rsa-digest-info is about signatures", "auth = \"certificate\""];
    one_problem(key, &sends("sends = [\"rsa-digest-info\"]"), "sends", signature);
}

#[test]
fn a_member_sends_readings_that_go_with_its_phase_1() {
    let member = |more: &str| member_of(&format!("{MEMBER}{more}\n")).map(|c| c.config);
    let config = member("sends = [\"id-udp\", \"message-3-clear\"]\nexchange = \"aggressive\"").unwrap();
    assert_eq!(config.phase1.sends.to_string(), "id-udp message-3-clear");
    assert!(member("sends = [\"id-udp-500\"]\nnat_traversal = false").is_ok());
    assert_eq!(member("phase1_doi = \"isakmp\"").unwrap().life.doi, gdoi::Phase1Doi::Isakmp);
    for (line, words) in [
        ("sends = [\"message-3-clear\"]", ["about aggressive mode", "exchange = \"aggressive\""]),
        ("sends = [\"id-udp-848\"]", ["RFC 3947 section 4", "nat_traversal = false"]),
        ("sends = [\"rsa-digest-info\"]", ["RSA signatures", "a key for RSA"]),
        ("sends = [\"ecdsa-hashed-twice\"]", ["ECDSA signatures", "a key for ECDSA"]),
        ("sends = [\"notice-clear\"]", ["\"notice-clear\" is not known here", "message-3-clear"]),
    ] {
        let Problems(problems) = member(line).unwrap_err();
        assert_eq!((problems.len(), problems[0].line), (1, Some(6)), "{problems:#?}");
        let shown = problems[0].to_string();
        assert!(shown.contains("member.sends") && words.iter().all(|w| shown.contains(w)), "{shown}");
    }
}
