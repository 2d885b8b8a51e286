//! Phase 1 of IKEv1 beyond what everybody should do: aggressive mode, weak algorithms, and the profile that forbids both.

use keyferry_crypto::{Hash, KeGroup, KeyKind};
use keyferry_model::reading::{Reading, Readings};
use keyferry_model::settings::{MemberAuth, Phase1Exchange, Phase1Settings};

use super::document::KeyPath;
use super::section::Section;
use super::values::{HASHES, KE_GROUPS, PHASE1_CIPHERS, WEAK_HASHES, WEAK_KE_GROUPS, WEAK_PHASE1_CIPHERS};

/// Name of the profile of IEC 62351-9.
const IEC: &str = "iec-62351-9";

/// What a key server takes in phase 1 beyond the usual.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GatewayPhase1 {
    /// Aggressive mode.
    pub aggressive: bool,
    /// 3DES, SHA-1, groups 2, 5 and 24.
    pub danger_weak: bool,
}

/// What a member offers in phase 1, and in IKE_SA_INIT.
#[derive(Debug)]
pub(super) struct MemberPhase1 {
    pub(super) settings: Phase1Settings,
    pub(super) ke_groups: Vec<KeGroup>,
    pub(super) hashes: Vec<Hash>,
}

pub(super) fn gateway(section: &mut Section<'_>, dangers: &[KeyPath]) -> GatewayPhase1 {
    let forbids = profile(section, dangers);
    let phase1 = GatewayPhase1 {
        aggressive: section.flag("aggressive", false),
        danger_weak: section.flag("danger_weak_phase1", false),
    };
    if phase1.aggressive && forbids {
        forbidden(section, "aggressive");
    } else if phase1.aggressive {
        let what = "whoever listens sees identities, and may guess pre-shared keys by trying";
        section.warning("aggressive", what, "remove it when the last device uses main mode");
    }
    phase1
}

pub(super) fn member(section: &mut Section<'_>, dangers: &[KeyPath]) -> MemberPhase1 {
    let forbids = profile(section, dangers);
    let exchanges = [("main", Phase1Exchange::Main), ("aggressive", Phase1Exchange::Aggressive)];
    let exchange = section.choice("exchange", &exchanges, Phase1Exchange::Main);
    if exchange == Phase1Exchange::Aggressive && forbids {
        forbidden(section, "exchange");
    }
    let danger_weak = section.flag("danger_weak_phase1", false);
    let groups = [KeGroup::Ecp256, KeGroup::Modp2048];
    let hashes = [Hash::Sha256, Hash::Sha384];
    let usual = Phase1Settings::default();
    let sends = sends(section, &Reading::SENT_BY_MEMBER);
    if sends.has(Reading::Message3Clear) && exchange == Phase1Exchange::Main {
        let what = "message-3-clear is about aggressive mode";
        section.error("sends", what, "add exchange = \"aggressive\", or remove it");
    }
    let danger = (danger_weak, "danger_weak_phase1");
    let ciphers = named(section, "phase1_ciphers", (PHASE1_CIPHERS, WEAK_PHASE1_CIPHERS), danger, &usual.ciphers);
    MemberPhase1 {
        settings: Phase1Settings { exchange, ciphers, danger_weak, sends },
        ke_groups: named(section, "ke_groups", (KE_GROUPS, WEAK_KE_GROUPS), danger, &groups),
        hashes: named(section, "hashes", (HASHES, WEAK_HASHES), danger, &hashes),
    }
}

/// In which readings a key server writes phase 1 to a peer.
pub(super) fn peer_sends(section: &mut Section<'_>, certified: bool) -> Readings {
    let sends = sends(section, &Reading::SENT_TO_PEER);
    let of_signatures = sends.iter().find(|r| !certified && (OF_RSA.contains(r) || OF_ECDSA.contains(r)));
    if let Some(reading) = of_signatures {
        let what = format!("{reading} is about signatures, and this peer has a pre-shared key");
        section.error("sends", what, "remove it, or add auth = \"certificate\"");
    }
    sends
}

/// What a member's readings must have in common with its key, and with its looking for translators.
pub(super) fn check_member_sends(section: &Section<'_>, sends: Readings, auth: &MemberAuth, nat_traversal: bool) {
    let kind = match auth {
        // IKEv1 knows no mixture.
        MemberAuth::Psk(_) | MemberAuth::Mixed(_) => None,
        MemberAuth::Certificate(certificate) => Some(certificate.own.key.kind()),
    };
    let rsa = kind == Some(KeyKind::Rsa);
    let unfit = |r: &Reading| (OF_RSA.contains(r) && !rsa) || (OF_ECDSA.contains(r) && (rsa || kind.is_none()));
    if let Some(reading) = sends.iter().find(unfit) {
        let key = if OF_RSA.contains(&reading) { "RSA" } else { "ECDSA" };
        let what = format!("{reading} is about {key} signatures, which this member does not make");
        section.error("sends", what, format!("remove it, or name a certificate with a key for {key}"));
    }
    let ports = [Reading::IdUdp500, Reading::IdUdp848];
    if let Some(reading) = sends.iter().find(|r| nat_traversal && ports.contains(r)) {
        let what = format!("{reading} cannot be sent where translators are looked for (RFC 3947 section 4)");
        section.error("sends", what, "add nat_traversal = false, or use id-udp");
    }
}

const OF_RSA: [Reading; 1] = [Reading::RsaDigestInfo];

const OF_ECDSA: [Reading; 2] = [Reading::EcdsaNegotiatedHash, Reading::EcdsaHashedTwice];

/// Readings to send, by name.
pub(super) fn sends(section: &mut Section<'_>, known: &[Reading]) -> Readings {
    let names: Vec<(&str, Reading)> = known.iter().map(|r| (r.name(), *r)).collect();
    let texts = section.texts("sends").unwrap_or_default();
    let sends: Readings = texts.iter().filter_map(|text| section.named("sends", text, &names)).collect();
    for place in Reading::EXCLUSIVE {
        let named: Vec<&str> = place.iter().filter(|r| sends.has(**r)).map(|r| r.name()).collect();
        if named.len() > 1 {
            let what = format!("{} exclude each other", named.join(" and "));
            section.error("sends", what, "keep one of them");
        }
    }
    sends
}

/// Is there a profile? Then nothing that says danger may stand anywhere.
fn profile(section: &mut Section<'_>, dangers: &[KeyPath]) -> bool {
    let given = section.choice("profile", &[(IEC, true)], false);
    for path in dangers.iter().filter(|_| given) {
        section.error_at(path, format!("is forbidden by profile = \"{IEC}\""), "remove it, or the profile");
    }
    given
}

fn forbidden(section: &Section<'_>, key: &str) {
    let what = format!("aggressive mode is forbidden by profile = \"{IEC}\"");
    section.error(key, what, "remove it, for main mode, or remove the profile");
}

/// Names and what they stand for.
pub(super) type Names<'a, T> = &'a [(&'a str, T)];

/// A list of names, best first. Weak ones are known only to those who ask for danger by the key of that name.
pub(super) fn named<T: Copy + PartialEq>(
    section: &mut Section<'_>,
    key: &'static str,
    (good, weak): (Names<'_, T>, Names<'_, T>),
    (danger, switch): (bool, &str),
    default: &[T],
) -> Vec<T> {
    let Some(texts) = section.texts(key) else { return default.to_vec() };
    let known = [good, if danger { weak } else { &[] }].concat();
    let mut values = Vec::new();
    for text in &texts {
        let value = if !danger && weak.iter().any(|(name, _)| name == text) {
            let what = format!("{text:?} is refused: it is too weak");
            section.error(key, what, format!("choose another, or set {switch} = true"));
            None
        } else {
            section.named(key, text, &known)
        };
        values.extend(value.filter(|v| !values.contains(v)));
    }
    if texts.is_empty() {
        section.error(key, "is empty", "remove it for the defaults");
    }
    values
}
