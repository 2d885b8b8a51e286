//! `[ike2]` and `[[ppk]]`: algorithms and postquantum preshared keys of IKEv2, of a gateway and of a member.

use keyferry_crypto::KeGroup;
use keyferry_model::settings::{AdditionalKe, Ike2Settings, MAX_ADDITIONAL_KE, Ppk};

use super::phase1::named;
use super::secrets;
use super::section::Section;
use super::values::{HASHES, IKE2_METHODS, PROTECTIONS, WEAK_HASHES, WEAK_IKE2_METHODS, WEAK_PROTECTIONS};

/// What the usual additional key exchange is at a gateway, which members may ask for.
const USUAL: &[KeGroup] = &[KeGroup::MlKem768, KeGroup::MlKem1024, KeGroup::MlKem512];

/// Octets of a key that a quantum computer cannot search for.
const PPK_LEN: usize = 32;

/// A gateway takes ML-KEM after the first key exchange from members that offer it.
pub(super) fn gateway(root: &mut Section<'_>) -> Ike2Settings {
    let usual = vec![AdditionalKe { methods: USUAL.to_vec(), required: false }];
    let ppks = root.sections("ppk").into_iter().filter_map(|section| ppk(section, true)).collect();
    Ike2Settings { ppks, ..read(root, usual) }
}

/// A member offers what it is told to.
pub(super) fn member(root: &mut Section<'_>) -> Ike2Settings {
    let ppks: Vec<Ppk> = root.sections("ppk").into_iter().filter_map(|section| ppk(section, false)).collect();
    if ppks.len() > 1 {
        root.error("ppk", "a member uses one", "remove the others");
    }
    Ike2Settings { ppks, ..read(root, Vec::new()) }
}

fn read(root: &mut Section<'_>, usual: Vec<AdditionalKe>) -> Ike2Settings {
    let Some(mut section) = root.section("ike2") else {
        return Ike2Settings { additional: usual, ..Ike2Settings::default() };
    };
    let danger = (section.flag("danger_weak_ike2", false), "danger_weak_ike2");
    let protections = named(&mut section, "encryption", (PROTECTIONS, WEAK_PROTECTIONS), danger, &[]);
    let prfs = named(&mut section, "prf", (HASHES, WEAK_HASHES), danger, &[]);
    let groups = named(&mut section, "key_exchange", (IKE2_METHODS, WEAK_IKE2_METHODS), danger, &[]);
    let required = section.flag("additional_required", false);
    let additional = match section.texts("additional_key_exchange") {
        None => usual.into_iter().map(|a| AdditionalKe { required, ..a }).collect(),
        Some(texts) => texts.iter().filter_map(|text| exchange(&section, text, required)).collect(),
    };
    let danger_sha1_signatures = section.flag("danger_sha1_signatures", false);
    let settings =
        Ike2Settings { protections, prfs, groups, additional, danger_sha1_signatures, ..Ike2Settings::default() };
    if settings.additional.len() > MAX_ADDITIONAL_KE {
        let what = format!("there are more than {MAX_ADDITIONAL_KE}");
        section.error("additional_key_exchange", what, "remove some");
    }
    if required && settings.additional.is_empty() {
        section.error(
            "additional_required",
            "there is none to require",
            "add additional_key_exchange = [\"ml-kem-768\"]",
        );
    }
    section.finish();
    settings
}

/// One postquantum preshared key.
fn ppk(mut section: Section<'_>, gateway: bool) -> Option<Ppk> {
    let id = section.required_text("id", "member-1");
    let key = secrets::psk(&mut section);
    if key.as_ref().is_some_and(|key| key.len() < PPK_LEN) {
        // RFC 8784 section 6: half of the bits are lost to a search by a quantum computer.
        section.warning("id", "its key has less than 32 octets", "make one with: openssl rand -hex 32");
    }
    let required = section.flag("required", !gateway);
    let identities = if gateway { section.parsed_list("identities", "10.0.0.1") } else { None };
    let rekey = section.flag("rekey", false);
    section.finish();
    // PPK_ID_FIXED (RFC 8784 section 5.1).
    let id = [&[2], id?.as_bytes()].concat();
    Some(Ppk { id, key: key?, required, identities, rekey })
}

/// One additional key exchange: methods with slashes between them, best first.
fn exchange(section: &Section<'_>, text: &str, required: bool) -> Option<AdditionalKe> {
    let methods: Vec<KeGroup> =
        text.split('/').filter_map(|m| section.named("additional_key_exchange", m.trim(), IKE2_METHODS)).collect();
    (!methods.is_empty()).then_some(AdditionalKe { methods, required })
}
