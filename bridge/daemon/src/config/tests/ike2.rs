//! `[ike2]`: algorithms of IKEv2.

use keyferry_crypto::{Aead, Hash, KeGroup};
use keyferry_model::policy::RekeyProtection;
use keyferry_model::settings::{AdditionalKe, Ike2Settings};

use super::*;

fn gateway_ike2(text: &str) -> Result<Ike2Settings, String> {
    gateway_of(&format!("{GATEWAY}[ike2]\n{text}\n")).map(|c| c.config.ike2).map_err(|p| p.to_string())
}

fn member_ike2(text: &str) -> Result<Ike2Settings, String> {
    member_of(&format!("{MEMBER}[ike2]\n{text}\n")).map(|c| c.config.ike2).map_err(|p| p.to_string())
}

#[test]
fn a_gateway_takes_ml_kem_and_a_member_offers_what_it_is_told() {
    let usual =
        [AdditionalKe { methods: vec![KeGroup::MlKem768, KeGroup::MlKem1024, KeGroup::MlKem512], required: false }];
    assert_eq!(gateway_of(GATEWAY).unwrap().config.ike2.additional, usual);
    assert_eq!(member_of(MEMBER).unwrap().config.ike2.additional, []);
    let required = gateway_ike2("additional_required = true").unwrap();
    assert!(required.additional[0].required);
    let text = "encryption = [\"chacha20-poly1305\", \"aes-256-ccm\"]\nprf = [\"sha2-512\"]\n\
        key_exchange = [\"x448\", \"brainpool-512\"]\n\
        additional_key_exchange = [\"ml-kem-1024 / ml-kem-768\", \"ecp-521\"]";
    for told in [member_ike2(text).unwrap(), gateway_ike2(text).unwrap()] {
        let aeads = [Aead::ChaCha20Poly1305, Aead::Aes256Ccm16].map(RekeyProtection::Aead);
        assert_eq!(told.protections, aeads);
        assert_eq!(told.prfs, [Hash::Sha512]);
        assert_eq!(told.groups, [KeGroup::X448, KeGroup::Brainpool512]);
        let methods: Vec<Vec<KeGroup>> = told.additional.into_iter().map(|a| a.methods).collect();
        assert_eq!(methods, [vec![KeGroup::MlKem1024, KeGroup::MlKem768], vec![KeGroup::Ecp521]]);
    }
    assert_eq!(gateway_ike2("additional_key_exchange = []").unwrap().additional, []);
}

#[test]
fn weak_algorithms_are_for_those_who_say_danger() {
    let weak = "encryption = [\"aes-128-gcm-8\"]\nprf = [\"sha1\"]\nkey_exchange = [\"modp-2048-256\"]";
    let refused = member_ike2(weak).unwrap_err();
    assert_eq!(refused.matches("set danger_weak_ike2 = true").count(), 3, "{refused}");
    let taken = member_ike2(&format!("danger_weak_ike2 = true\n{weak}")).unwrap();
    assert_eq!(taken.protections, [RekeyProtection::Aead(Aead::Aes128Gcm8)]);
    assert_eq!((taken.prfs, taken.groups), (vec![Hash::Sha1], vec![KeGroup::Modp2048s256]));
    assert!(member_ike2("danger_weak_ike2 = true\nkey_exchange = [\"modp-1024\"]").is_err());
    for danger in [false, true] {
        let told = member_ike2(&format!("danger_sha1_signatures = {danger}")).unwrap();
        assert_eq!(told.danger_sha1_signatures, danger);
    }
}

#[test]
fn what_makes_no_sense_is_said() {
    for (text, what) in [
        ("additional_key_exchange = [\"ml-kem\"]", "ml-kem"),
        (
            "additional_key_exchange = [\"x25519\", \"x448\", \"ecp-256\", \"ecp-384\", \"ecp-521\", \"modp-2048\", \"modp-3072\", \"modp-4096\"]",
            "more than 7",
        ),
        ("additional_key_exchange = []\nadditional_required = true", "none to require"),
        ("encryption = []", "is empty"),
        ("cipher = \"aes\"", "cipher"),
    ] {
        let problems = gateway_ike2(text).unwrap_err();
        assert!(problems.contains(what), "{problems}");
    }
}

#[test]
fn postquantum_preshared_keys() {
    let key = "psk = \"a key of thirty-two octets, no less\"";
    let config = gateway_of(&format!(
        "{GATEWAY}[[ppk]]\nid = \"a\"\n{key}\n[[ppk]]\nid = \"b\"\n{key}\nrequired = true\nidentities = [\"10.0.0.1\"]\n"
    ));
    let ppks = config.unwrap().config.ike2.ppks;
    assert_eq!((&ppks[0].id[..], ppks[0].required, ppks[0].identities.is_none()), (&b"\x02a"[..], false, true));
    let (first, second): (Identity, Identity) = ("10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap());
    assert!(ppks[1].required && ppks[1].is_for(&first) && !ppks[1].is_for(&second));
    let one = |more: &str| member_of(&format!("{MEMBER}[[ppk]]\nid = \"a\"\n{key}\n{more}\n"));
    let ppks = one("rekey = true").unwrap().config.ike2.ppks;
    assert_eq!((ppks.len(), ppks[0].required, ppks[0].rekey), (1, true, true));
    assert!(!one("required = false").unwrap().config.ike2.ppks[0].required);
    for (more, what) in [
        ("identities = [\"10.0.0.1\"]", "identities"),
        (&*format!("[[ppk]]\nid = \"b\"\n{key}"), "a member uses one"),
        ("[[ppk]]\nid = \"b\"", "a pre-shared key is missing"),
    ] {
        let problems = one(more).map(|c| c.config).unwrap_err().to_string();
        assert!(problems.contains(what), "{problems}");
    }
    let short = member_of(&format!("{MEMBER}[[ppk]]\nid = \"a\"\npsk = \"twenty octets, or so.\"\n")).unwrap();
    assert!(short.warnings.iter().any(|w| w.to_string().contains("less than 32 octets")), "{:?}", short.warnings);
}
