//! `[[group]]`: traffic, lifetimes, and how each protocol's side is rekeyed.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use keyferry_crypto::{Aead, BlockCipher, Hash, KeyKind, SignatureAlgorithm, SignatureScheme, SigningKey};
use keyferry_model::id::{GroupId, Identity, Protocol};
use keyferry_model::lkh::MAX_MEMBERS;
use keyferry_model::policy::{
    AckType, AddressPreservation, Authorization, BackwardAccess, BackwardScope, EspMode, EspTransform, GdoiRekey,
    Gikev2Options, Gikev2Rekey, GroupPolicy, InBand, KekManagement, RekeyAuthentication, RekeyProtection,
    RekeyTransport, Retransmit, SequenceNumbers, TrafficPolicy,
};
use keyferry_model::reading::{Reading, Readings};

use super::checks;
use super::life;
use super::phase1;
use super::rules;
use super::section::Section;
use super::streams;
use super::values::{
    ACKS, KEK_CIPHERS, Octets, PROTECTIONS, PUSH_SIGNATURES, REKEY_SIGNATURES, RekeyTarget, TRANSFORMS,
    WEAK_PROTECTIONS, WEAK_TRANSFORMS, WRAPS,
};

/// A group as configured: everything of its policy but the keys that sign its rekeys.
#[derive(Debug)]
pub struct GroupPlan {
    policy: GroupPolicy,
    /// GDOI side, if served.
    pub gdoi: Option<GdoiPlan>,
    /// G-IKEv2 side, if served.
    pub gikev2: Option<Gikev2Plan>,
}

/// GDOI side of a group.
#[derive(Clone, Debug)]
pub struct GdoiPlan {
    /// KEK cipher.
    pub cipher: BlockCipher,
    /// Signature of pushes.
    pub scheme: SignatureScheme,
    /// Where pushes go.
    pub transport: RekeyTransport,
    /// Acknowledgement asked for.
    pub ack: Option<AckType>,
    /// How members are excluded.
    pub management: KekManagement,
    /// Readings of RFC 6407 to send in place of the usual ones.
    pub sends: Readings,
}

/// G-IKEv2 side of a group.
#[derive(Clone, Debug)]
pub struct Gikev2Plan {
    /// Protection of the Encrypted payload.
    pub protection: RekeyProtection,
    /// Octets of the key wrap key.
    pub wrap_key_len: usize,
    /// Where GSA_REKEY goes.
    pub transport: RekeyTransport,
    /// What is done beyond GSA_REKEY.
    pub options: Gikev2Options,
    /// How the gateway signs. Without it whoever has the group's key is believed.
    pub signature: Option<(SignatureAlgorithm, KeyKind)>,
    /// Which of several keys signs.
    pub signing_key: u32,
}

/// A key that signs the rekeys of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Signer {
    /// The protocol.
    pub protocol: Protocol,
    /// What is made by it.
    pub kind: KeyKind,
    /// Counts up when the key is changed.
    pub number: u32,
}

impl GdoiPlan {
    /// The key that signs.
    fn signer(&self) -> Signer {
        Signer { protocol: Protocol::Gdoi, kind: self.scheme.kind(), number: 1 }
    }
}

impl Gikev2Plan {
    /// The key that signs, if one does.
    fn signer(&self) -> Option<Signer> {
        let (_, kind) = self.signature?;
        Some(Signer { protocol: Protocol::Gikev2, kind, number: self.signing_key })
    }
}

impl GroupPlan {
    /// Name of the group.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.policy.name
    }

    /// The policy without the protocols' sides.
    #[must_use]
    pub fn base(&self) -> &GroupPolicy {
        &self.policy
    }

    /// The keys that sign rekeys.
    #[must_use]
    pub fn signers(&self) -> Vec<Signer> {
        let gdoi = self.gdoi.as_ref().map(GdoiPlan::signer);
        gdoi.into_iter().chain(self.gikev2.as_ref().and_then(Gikev2Plan::signer)).collect()
    }

    /// The whole policy, with the signing key of each protocol in [`signers`](Self::signers).
    ///
    /// # Errors
    /// Whatever `signer` returns.
    pub fn policy<E>(&self, mut signer: impl FnMut(Signer) -> Result<Arc<SigningKey>, E>) -> Result<GroupPolicy, E> {
        let mut policy = self.policy.clone();
        if let Some(g) = &self.gdoi {
            policy.gdoi = Some(GdoiRekey {
                cipher: g.cipher,
                transport: g.transport,
                signer: signer(g.signer())?,
                scheme: g.scheme,
                ack: g.ack,
                management: g.management,
                sends: g.sends,
            });
        }
        if let Some(g) = &self.gikev2 {
            let authentication = match g.signature.zip(g.signer()) {
                Some(((algorithm, _), key)) => RekeyAuthentication::Signature(signer(key)?, algorithm),
                None => RekeyAuthentication::Implicit,
            };
            policy.gikev2 = Some(Gikev2Rekey {
                protection: g.protection,
                wrap_key_len: g.wrap_key_len,
                transport: g.transport,
                authentication,
                options: g.options,
            });
        }
        Ok(policy)
    }
}

/// A group with the identities that may join, for checks against the peers.
pub(crate) struct GroupEntry<'a> {
    pub(crate) plan: GroupPlan,
    pub(crate) section: Section<'a>,
}

const PRESERVATIONS: &[(&str, AddressPreservation)] = &[
    ("both", AddressPreservation::Both),
    ("source", AddressPreservation::Source),
    ("destination", AddressPreservation::Destination),
    ("none", AddressPreservation::None),
];

const IN_BAND: &[(&str, InBand)] =
    &[("nobody", InBand::Nobody), ("senders", InBand::Senders), ("everybody", InBand::Everybody)];

const MANAGEMENTS: &[(&str, KekManagement)] = &[("lkh", KekManagement::Lkh), ("none", KekManagement::None)];

const BACKWARD_SCOPES: &[(&str, Option<BackwardScope>)] =
    &[("none", None), ("data", Some(BackwardScope::Data)), ("full", Some(BackwardScope::Full))];

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(86_400);

pub(super) fn read_all<'a>(root: &mut Section<'a>) -> Vec<GroupEntry<'a>> {
    let mut names = BTreeSet::new();
    let mut ids = BTreeSet::new();
    let mut groups = Vec::new();
    for mut section in root.sections("group") {
        let plan = read(&mut section);
        section.report_unknown();
        if !plan.policy.name.is_empty() && !names.insert(plan.policy.name.clone()) {
            section.error("name", "another group has that name", "give each group a name of its own");
        }
        for id in &plan.policy.ids {
            if !ids.insert(id.clone()) {
                section.error(
                    "id",
                    format!("group identity {id} is given twice"),
                    "members could not tell the groups apart: change one",
                );
            }
        }
        groups.push(GroupEntry { plan, section });
    }
    groups
}

fn read(section: &mut Section<'_>) -> GroupPlan {
    let name = section.required_text("name", "branches").unwrap_or_default();
    checks::group_name(section, &name);
    let ids: Vec<GroupId> = match section.has("id") {
        true => section.parsed_list("id", "1234").unwrap_or_default(),
        false => {
            section.ignore("id");
            section.error_here("id is missing", "add id = 1234, the group number that members are configured with");
            Vec::new()
        }
    };
    let authorization = authorization(section);
    let streams = streams::read(section);
    let traffic = traffic(section, !streams.is_empty());
    let tek_lifetime = section.duration("tek_lifetime", 10 * SECOND..=30 * DAY, 60 * MINUTE);
    let policy = GroupPolicy {
        name,
        ids,
        tek_lifetime,
        kek_lifetime: section.duration("kek_lifetime", 10 * SECOND..=30 * DAY, DAY),
        rekey_margin: section.duration("rekey_margin", SECOND..=DAY, default_margin(tek_lifetime)),
        rekey_when_asked: rekey_when_asked(section, &traffic),
        activation_delay: section.duration("activation_delay", Duration::ZERO..=60 * MINUTE, 10 * SECOND),
        deactivation_delay: section.duration("deactivation_delay", SECOND..=60 * MINUTE, 30 * SECOND),
        sender_id_bits: u8::try_from(section.number("sender_id_bits", 8..=32, 16)).unwrap_or(16),
        sender_ids_per_member: section.number("sender_ids_per_member", 1..=1024, 4),
        capacity: section.number("capacity", 1..=MAX_MEMBERS, 1024),
        retransmit: Retransmit {
            copies: u8::try_from(section.number("retransmit_copies", 0..=10, 2)).unwrap_or(0),
            interval: section.duration("retransmit_interval", Duration::from_millis(10)..=MINUTE, 2 * SECOND),
        },
        // RFC 8263 section 6 wants 10 s at least.
        ack_patience: section.duration("ack_patience", 10 * SECOND..=60 * MINUTE, 30 * SECOND),
        ack_resend: section.flag("ack_resend", false),
        evict_after_misses: Some(section.number("evict_after_misses", 0..=1000, 0)).filter(|n| *n > 0),
        authorization,
        backward_access: backward_access(section),
        traffic,
        streams,
        gdoi: None,
        gikev2: None,
    };
    let gdoi = section.section("gdoi").map(gdoi);
    let gikev2 = section.section("gikev2").map(gikev2);
    let plan = GroupPlan { policy, gdoi, gikev2 };
    checks::group(section, &plan);
    plan
}

/// Whether a member that registers again has the group rekeyed. Where members count octets they have no other way to ask.
fn rekey_when_asked(section: &mut Section<'_>, traffic: &[Arc<TrafficPolicy>]) -> Option<Duration> {
    let counted = traffic.iter().any(|line| line.lifetime_octets.is_some());
    let default = if counted { 5 * MINUTE } else { Duration::ZERO };
    let age = section.duration("rekey_when_asked", Duration::ZERO..=DAY, default);
    if counted && age.is_zero() {
        let what = "leaves members without keys that have used up lifetime_octets, until the next rekey";
        section.warning("rekey_when_asked", what, "a time, or remove it for \"5m\"");
    }
    Some(age).filter(|age| !age.is_zero())
}

/// What newcomers must not read, and how long they gather.
fn backward_access(section: &mut Section<'_>) -> Option<BackwardAccess> {
    let scope = section.choice("backward_access_control", BACKWARD_SCOPES, None);
    // Members without traffic keys ask again after a while, so that it must not take long.
    let gathering = section.duration("join_gathering", Duration::ZERO..=MINUTE, 5 * SECOND);
    scope.map(|scope| BackwardAccess { scope, gathering })
}

/// `members = "any"`, or a list.
fn authorization(section: &mut Section<'_>) -> Authorization {
    match section.texts("members") {
        None => Authorization::Authenticated,
        Some(texts) if texts.iter().any(|t| t == "any") => Authorization::Authenticated,
        Some(texts) => {
            let listed: Vec<Identity> = texts.iter().filter_map(|t| section.parse("members", t, "10.0.0.1")).collect();
            if texts.is_empty() {
                section.error("members", "nobody may join", "list identities, or write members = \"any\"");
            }
            Authorization::Listed(listed)
        }
    }
}

fn traffic(group: &mut Section<'_>, streams: bool) -> Vec<Arc<TrafficPolicy>> {
    let (lines, gikev2) = (group.sections("traffic"), group.has("gikev2"));
    if lines.is_empty() && !streams {
        group.error(
            "traffic",
            "the group protects nothing",
            "add [[group.traffic]] with destination = \"239.192.0.1\", or a [[group.stream]]",
        );
    }
    let lines: Vec<TrafficPolicy> = lines.into_iter().filter_map(|line| traffic_line(line, gikev2)).collect();
    if lines.windows(2).any(|w| w[0].mode != w[1].mode) {
        group.error("traffic", "transport and tunnel mode are mixed", "give all lines of a group one mode");
    }
    for (i, line) in lines.iter().enumerate() {
        if lines[..i].iter().any(|l| l.source == line.source && l.destination == line.destination) {
            group.error("traffic", format!("line {i} repeats one before it"), "remove one of the two");
        }
    }
    lines.into_iter().map(Arc::new).collect()
}

const DEFAULT_TRANSFORM: EspTransform = EspTransform::Aead(Aead::Aes256Gcm16);

fn traffic_line(mut section: Section<'_>, gikev2: bool) -> Option<TrafficPolicy> {
    let selectors = rules::selectors(&mut section);
    let mode =
        section.choice("mode", &[("tunnel", EspMode::Tunnel), ("transport", EspMode::Transport)], EspMode::Tunnel);
    let transform = transform(&mut section);
    let replay_window = section.number("replay_window", 0..=4096, 0);
    let preservation = section.choice("preserve", PRESERVATIONS, AddressPreservation::Both);
    let only_sender = section.parsed::<Identity>("only_sender", "10.0.0.1");
    let lifetime_octets = lifetime_octets(&mut section, gikev2, replay_window);
    if mode == EspMode::Transport && preservation != AddressPreservation::Both {
        section.error("preserve", "transport mode puts no header in front", "remove it, or write mode = \"tunnel\"");
    }
    // RFC 9838 section 2.3.4: tunnel mode preserves both addresses, and nothing says which way an SA goes.
    for (key, told) in [("preserve", preservation == AddressPreservation::Both), ("only_sender", only_sender.is_none())]
    {
        if gikev2 && !told {
            let remedy = "remove it, or move the line to a group without [group.gikev2]";
            section.error(key, "G-IKEv2 cannot tell it, and the group serves G-IKEv2", remedy);
        }
    }
    // Where the destination is missing, a misspelt key is the likeliest reason.
    section.finish();
    let (source, destination) = selectors?;
    Some(TrafficPolicy {
        source,
        destination,
        mode,
        transform,
        sequence: if replay_window > 0 { SequenceNumbers::Sequential } else { SequenceNumbers::Unspecified },
        replay_window,
        preservation,
        only_sender,
        lifetime_octets,
    })
}

/// What four octets of kilobytes can tell.
const MAX_LIFETIME_OCTETS: u64 = u32::MAX as u64 * 1024;

/// How much may be protected by one SA. Each member counts for itself.
fn lifetime_octets(section: &mut Section<'_>, gikev2: bool, replay_window: u32) -> Option<u64> {
    const KEY: &str = "lifetime_octets";
    let Octets(octets) = section.parsed(KEY, "100GB")?;
    if !(1_000_000..=MAX_LIFETIME_OCTETS).contains(&octets) {
        section.error(KEY, "is out of bounds", "from 1MB to 4TB");
        return None;
    }
    if gikev2 {
        let what = "G-IKEv2 cannot tell it: only members that come by GDOI will count";
        section.warning(KEY, what, "choose tek_lifetime so that it suffices alone");
    }
    if replay_window == 0 {
        let what = "without a replay window whoever repeats packets uses it up";
        section.warning(KEY, what, "add replay_window where there is one sender, or remove it");
    }
    Some(octets)
}

/// Weak ones only for who says so.
fn transform(section: &mut Section<'_>) -> EspTransform {
    let weak = section.flag("danger_weak_transform", false);
    let chosen = section.text("transform");
    if let Some(name) = chosen.as_ref().filter(|name| !weak && WEAK_TRANSFORMS.iter().any(|(weak, _)| weak == *name)) {
        let remedy = "choose another, or set danger_weak_transform = true";
        section.error("transform", format!("{name:?} is refused: it is too weak"), remedy);
        return DEFAULT_TRANSFORM;
    }
    let known = [TRANSFORMS, WEAK_TRANSFORMS].concat();
    let known = if weak { &known[..] } else { TRANSFORMS };
    chosen.and_then(|name| section.named("transform", &name, known)).unwrap_or(DEFAULT_TRANSFORM)
}

fn target(section: &mut Section<'_>) -> RekeyTransport {
    section.parsed::<RekeyTarget>("rekey", "239.192.1.1:848").map_or(RekeyTransport::Unicast, |t| t.0)
}

fn gdoi(mut section: Section<'_>) -> GdoiPlan {
    let weak = section.flag("danger_weak_rekey", false);
    let plan = GdoiPlan {
        cipher: section.choice("cipher", KEK_CIPHERS, BlockCipher::Aes256Cbc),
        scheme: section.choice("signature", PUSH_SIGNATURES, SignatureScheme::RsaPkcs1Sha256),
        transport: target(&mut section),
        ack: section.choice("ack", ACKS, Some(AckType::Kek(Hash::Sha256))),
        management: section.choice("management", MANAGEMENTS, KekManagement::Lkh),
        sends: phase1::sends(&mut section, &Reading::SENT),
    };
    checks::push(&section, &plan, weak);
    section.finish();
    plan
}

fn gikev2(mut section: Section<'_>) -> Gikev2Plan {
    let signed = section.choice("authentication", &[("signature", true), ("implicit", false)], true);
    if !signed && (section.has("signature") || section.has("signing_key")) {
        let what = "nothing is signed with authentication = \"implicit\"";
        section.error("authentication", what, "remove signature and signing_key, or write \"signature\"");
    }
    let rsa = (SignatureAlgorithm::RsaPkcs1(Hash::Sha256), KeyKind::Rsa);
    let signature = section.choice("signature", REKEY_SIGNATURES, rsa);
    let weak = section.flag("danger_weak_rekey", false);
    let protections = [PROTECTIONS, if weak { WEAK_PROTECTIONS } else { &[] }].concat();
    let plan = Gikev2Plan {
        protection: section.choice("protection", &protections, RekeyProtection::Aead(Aead::Aes256Gcm16)),
        wrap_key_len: section.choice("wrap", WRAPS, 32),
        transport: target(&mut section),
        options: Gikev2Options {
            in_band: section.choice("in_band", IN_BAND, InBand::Nobody),
            keep_ike_sa: section.flag("keep_ike_sa", false),
            ack: section.flag("ack", false),
            next_spis: section.flag("next_spis", true),
            fragment_size: Some(life::fragment_size(&mut section)),
        },
        signature: signed.then_some(signature),
        signing_key: section.number("signing_key", 1..=1_000_000, 1),
    };
    section.finish();
    plan
}

/// Members of other makers may register anew as early as with a twentieth of a lifetime left, or an hour of a long one: a rekey
/// comes as long before.
fn default_margin(tek_lifetime: Duration) -> Duration {
    (tek_lifetime / 10).clamp(5 * MINUTE, 120 * MINUTE)
}
