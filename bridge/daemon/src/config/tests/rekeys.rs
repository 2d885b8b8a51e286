//! How groups are rekeyed.

use super::*;

/// Rekeys come before members would register anew with a twentieth of a lifetime left, or an hour of a long one.
#[test]
fn the_margin_of_rekeys_grows_with_the_lifetime() {
    let of = |keys: &str| {
        let text = GATEWAY.replace("id = 1234", &format!("id = 1234\n{keys}"));
        gateway_of(&text).unwrap().config.groups[0].base().rekey_margin.as_secs()
    };
    let margins = ["", "tek_lifetime = \"10m\"", "tek_lifetime = \"8h\"", "tek_lifetime = \"1d\""].map(of);
    assert_eq!(margins, [360, 300, 2880, 7200]);
    assert_eq!(of("rekey_margin = \"4m\""), 240, "an operator knows better");
}

/// A margin that is shorter than what members wait for is taken, with a word: where it stands, and what would do.
#[test]
fn short_margins_of_rekeys_draw_a_warning() {
    let warnings = |keys: &str| {
        let text = GATEWAY.replace("id = 1234", &format!("id = 1234\n{keys}"));
        let of = |w: &Problem| w.key.contains("rekey_margin") && w.line.is_some();
        gateway_of(&text).unwrap().warnings.iter().filter(|w| of(w)).map(ToString::to_string).collect::<Vec<_>>()
    };
    for keys in [
        "",
        "tek_lifetime = \"8h\"",
        "rekey_margin = \"4m\"",
        "tek_lifetime = \"10m\"\nrekey_margin = \"2m\"",
        "tek_lifetime = \"1d\"\nkek_lifetime = \"1d\"\nrekey_margin = \"62m\"",
    ] {
        assert_eq!(warnings(keys), [""; 0], "{keys}");
    }
    for (keys, least) in [
        ("rekey_margin = \"2m\"", "more than 3m"),
        ("tek_lifetime = \"8h\"\nrekey_margin = \"20m\"", "more than 24m"),
        ("tek_lifetime = \"10m\"\nrekey_margin = \"1m\"", "more than 1m"),
        ("tek_lifetime = \"1d\"\nkek_lifetime = \"1d\"\nrekey_margin = \"1h\"", "more than 1h"),
    ] {
        let all = warnings(keys);
        assert_eq!(all.len(), 1, "{keys}");
        for word in ["warning: group[0].rekey_margin", "register anew", least, "or remove it"] {
            assert!(all[0].contains(word), "{word:?} in {}", all[0]);
        }
    }
}

#[test]
fn times_must_go_together() {
    let with = |key: &str, words: &[&str]| one_problem("id = 1234", &format!("id = 1234\n{key}"), key, words);
    with("deactivation_delay = \"10s\"", &["not longer than activation_delay", "more than 10s"]);
    with("rekey_margin = \"1h\"", &["not shorter than tek_lifetime"]);
    with("rekey_margin = \"10s\"", &["not longer than activation_delay", "expire"]);
    with("kek_lifetime = \"30m\"", &["shorter than tek_lifetime"]);
    with("retransmit_interval = \"5s\"", &["senders have switched"]);
}

#[test]
fn newcomers_may_be_kept_from_what_was_before() {
    let with = |keys: &str| gateway_of(&GATEWAY.replace("id = 1234", &format!("id = 1234\n{keys}")));
    let of = |keys: &str| with(keys).unwrap().config.groups[0].base().backward_access;
    assert_eq!(of(""), None);
    assert_eq!(of("backward_access_control = \"none\""), None);
    let gathering = Duration::from_secs(5);
    let data = Some(BackwardAccess { scope: BackwardScope::Data, gathering });
    assert_eq!(of("backward_access_control = \"data\""), data);
    let gathering = Duration::from_secs(20);
    let full = Some(BackwardAccess { scope: BackwardScope::Full, gathering });
    assert_eq!(of("backward_access_control = \"full\"\njoin_gathering = \"20s\""), full);
    assert!(with("backward_access_control = \"all\"").is_err());
    assert!(with("backward_access_control = \"full\"\njoin_gathering = \"61s\"").is_err());
    let alone = with("join_gathering = \"20s\"").unwrap().warnings;
    assert!(alone.iter().any(|w| w.to_string().contains("of no use")), "{alone:?}");
    let warned = with("backward_access_control = \"full\"\njoin_gathering = \"20s\"").unwrap().warnings;
    assert!(!warned.iter().any(|w| w.to_string().contains("of no use")), "{warned:?}");
}

#[test]
fn acknowledgements_are_asked_for_as_they_can_be_given() {
    let with = |key: &str, at: &str, words: &[&str]| one_problem("id = 1234", &format!("id = 1234\n{key}"), at, words);
    with("ack_patience = \"9s\"", "ack_patience", &["10s"]);
    let text = GATEWAY.replace("[group.gdoi]", "[group.gdoi]\nack = \"none\"");
    assert_ne!(text, GATEWAY);
    for key in ["ack_resend = true", "evict_after_misses = 3"] {
        let text = text.replace("id = 1234", &format!("id = 1234\n{key}"));
        let Problems(problems) = gateway_of(&text).map(|c| c.config).unwrap_err();
        assert!(problems.len() == 1 && problems[0].to_string().contains("nobody is asked"), "{problems:?}");
    }
    let late = GATEWAY.replace("id = 1234", "id = 1234\nack_resend = true\nack_patience = \"6m\"");
    assert!(gateway_of(&late).is_err());
    let resent = gateway_of(&GATEWAY.replace("id = 1234", "id = 1234\nack_resend = true")).unwrap();
    assert!(resent.warnings.iter().any(|w| w.to_string().contains("at least 40s")), "{:?}", resent.warnings);
    // By the KEK anybody can answer for anybody.
    with("evict_after_misses = 3", "evict_after_misses", &["in the name of others", "lkh-sha256"]);
    let by_leaf = GATEWAY.replace("[group.gdoi]", "[group.gdoi]\nack = \"lkh-sha512\"");
    let kept = gateway_of(&by_leaf.replace("id = 1234", "id = 1234\nevict_after_misses = 3")).unwrap().config;
    assert_eq!(kept.groups[0].base().evict_after_misses, Some(3));
}

#[test]
fn members_without_a_tree_acknowledge_by_the_kek() {
    let with = |keys: &str| gateway_of(&GATEWAY.replace("[group.gdoi]", &format!("[group.gdoi]\n{keys}")));
    let policy = with("management = \"none\"").unwrap().config;
    assert_eq!(policy.groups[0].gdoi.as_ref().unwrap().management, KekManagement::None);
    let Problems(problems) = with("management = \"none\"\nack = \"lkh-sha256\"").map(|c| c.config).unwrap_err();
    assert!(problems[0].to_string().contains("no leaf key"), "{problems:?}");
}

#[test]
fn rekeys_of_gikev2_are_signed_as_configured() {
    let with = |lines: &str| gateway_of(&GATEWAY.replace("[group.gikev2]\n", &format!("[group.gikev2]\n{lines}\n")));
    for (name, kind) in
        [("rsa-pss-sha2-384", KeyKind::Rsa), ("ecdsa-p256", KeyKind::EcP256), ("ed25519", KeyKind::Ed25519)]
    {
        let config = with(&format!("signature = \"{name}\"\nsigning_key = 3")).unwrap().config;
        let [.., signer] = config.groups[0].signers()[..] else { panic!("G-IKEv2 signs") };
        assert_eq!(signer, Signer { protocol: Protocol::Gikev2, kind, number: 3 });
    }
    // Signatures are what there is unless somebody says otherwise (RFC 9838 section 2.4.1).
    let usual = with("").unwrap().config;
    let [.., signer] = usual.groups[0].signers()[..] else { panic!("G-IKEv2 signs") };
    assert_eq!(signer, Signer { protocol: Protocol::Gikev2, kind: KeyKind::Rsa, number: 1 });
    let problems = with("authentication = \"implicit\"\nsignature = \"ecdsa-p256\"").unwrap_err();
    assert!(problems.to_string().contains("nothing is signed"), "{problems}");
    assert_eq!(with("authentication = \"implicit\"").unwrap().config.groups[0].signers().len(), 1);
}

#[test]
fn what_gikev2_does_beyond_multicast_is_configured() {
    let with = |lines: &str| gateway_of(&GATEWAY.replace("[group.gikev2]\n", &format!("[group.gikev2]\n{lines}\n")));
    let options = |lines: &str| with(lines).unwrap().config.groups[0].gikev2.as_ref().unwrap().options;
    let usual = Gikev2Options { next_spis: true, fragment_size: Some(1280), ..Gikev2Options::default() };
    assert_eq!(options(""), usual);
    let all = "in_band = \"senders\"\nkeep_ike_sa = true\nack = true\nnext_spis = false\nfragment_size = 576";
    let expected = Gikev2Options {
        in_band: InBand::Senders,
        keep_ike_sa: true,
        ack: true,
        next_spis: false,
        fragment_size: Some(576),
    };
    assert_eq!(options(all), expected);
    assert_eq!(options("in_band = \"everybody\"").in_band, InBand::Everybody);
    assert!(with("in_band = \"some\"").unwrap_err().to_string().contains("in_band"));
    assert!(with("fragment_size = 575").unwrap_err().to_string().contains("from 576 to 65535"));
}

#[test]
fn pushes_are_signed_as_configured() {
    let with = |lines: &str| gateway_of(&GATEWAY.replace("[group.gdoi]\n", &format!("[group.gdoi]\n{lines}\n")));
    for (name, kind) in [
        ("rsa-sha2-512", KeyKind::Rsa),
        ("ecdsa-p256", KeyKind::EcP256),
        ("ecdsa-p384", KeyKind::EcP384),
        ("ecdsa-p521", KeyKind::EcP521),
    ] {
        let config = with(&format!("signature = \"{name}\"")).unwrap().config;
        assert_eq!(config.groups[0].signers()[0], Signer { protocol: Protocol::Gdoi, kind, number: 1 });
    }
    let weak = "signature = \"rsa-sha1\"\ncipher = \"3des-cbc\"\ndanger_weak_rekey = true";
    let config = with(weak).unwrap().config;
    let plan = config.groups[0].gdoi.as_ref().unwrap();
    assert!(plan.cipher.is_weak() && plan.scheme.is_weak());
}

#[test]
fn weak_rekeys_need_to_be_allowed() {
    let gdoi = |line: &str| format!("[group.gdoi]\n{line}");
    one_problem(
        "[group.gdoi]",
        &gdoi("signature = \"rsa-sha1\""),
        "signature",
        &["SHA-1 is weak", "danger_weak_rekey"],
    );
    one_problem("[group.gdoi]", &gdoi("cipher = \"3des-cbc\""), "cipher", &["3DES is weak", "danger_weak_rekey"]);
}

/// A policy that no datagram holds is found when it is loaded, with the name of the group and the size.
#[test]
fn a_policy_that_does_not_fit_a_datagram_is_an_error() {
    let lines = |n: usize| -> String {
        (0..n).map(|i| format!("[[group.traffic]]\ndestination = \"239.193.{}.{}\"\n\n", i / 256, i % 256)).collect()
    };
    let text = |n| GATEWAY.replace("[group.gdoi]", &format!("{}[group.gdoi]", lines(n)));
    assert!(gateway_of(&text(100)).is_ok());
    let Problems(problems) = gateway_of(&text(1500)).map(|c| c.config).unwrap_err();
    let shown = problems[0].to_string();
    assert_eq!(problems.len(), 1, "{problems:#?}");
    for word in ["\"branches\"", "1501 lines", "GROUPKEY-PUSH", "octets", "65507"] {
        assert!(shown.contains(word), "{shown}");
    }
}
