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
