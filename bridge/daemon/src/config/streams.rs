//! `[[group.stream]]`: IEC 61850 streams (RFC 8052), and what they want of the rest of their group.

use std::sync::Arc;

use keyferry_model::id::GroupId;
use keyferry_model::oid::{Oid, OidName};
use keyferry_model::stream::{StreamAuthentication, StreamEncryption, StreamPolicy, StreamProtection};

use super::group::GroupPlan;
use super::section::Section;

const EXAMPLE: &str = "1.2.840.10070.61850.8.1.2";

pub(super) fn read(group: &mut Section<'_>) -> Vec<Arc<StreamPolicy>> {
    let streams: Vec<StreamPolicy> = group.sections("stream").into_iter().filter_map(stream).collect();
    for (i, stream) in streams.iter().enumerate() {
        if streams[..i].iter().any(|s| s.name == stream.name) {
            group.error("stream", format!("{} stands there twice", stream.name), "remove one of the two");
        }
    }
    streams.into_iter().map(Arc::new).collect()
}

fn stream(mut section: Section<'_>) -> Option<StreamPolicy> {
    let oid: Option<Oid> = section.required("oid", EXAMPLE);
    let payload =
        section.text("selector").map(|hex| format!("{}#{hex}", oid.as_ref().map_or("1.2".into(), Oid::to_string)));
    let name = match payload {
        Some(text) => section.parse::<OidName>("selector", &text, "0404effc0001"),
        None => oid.clone().map(|oid| OidName { oid, payload: Vec::new() }),
    };
    if name.as_ref().is_some_and(|n| !n.is_der()) {
        section.error("selector", "is no value in DER", "write its octets with tag and length, as \"0404effc0001\"");
    }
    let protection = protection(&mut section);
    let many_senders = section.choice("senders", &[("one", false), ("many", true)], false);
    let delivery_assurance = section.flag("delivery_assurance", false);
    section.finish();
    Some(StreamPolicy { name: oid.and(name)?, protection: protection?, many_senders, delivery_assurance })
}

/// What is not said is none; with neither said it is the best there is.
fn protection(section: &mut Section<'_>) -> Option<StreamProtection> {
    let neither = !section.has("authentication") && !section.has("encryption");
    let cipher = if neither { StreamEncryption::AesGcm256 } else { StreamEncryption::None };
    let authentication = section.choice("authentication", StreamAuthentication::ALL, StreamAuthentication::None);
    let encryption = section.choice("encryption", StreamEncryption::ALL, cipher);
    let danger = section.flag("danger_unprotected", false);
    let protection = StreamProtection::new(authentication, encryption);
    match protection {
        None if encryption.authenticates() => section.error(
            "authentication",
            format!("{} authenticates already", encryption.name()),
            "remove authentication, or encrypt with aes-128-cbc or aes-256-cbc",
        ),
        None => section.error(
            "encryption",
            format!("nothing authenticates what {} encrypts", encryption.name()),
            "add authentication = \"hmac-sha256-128\", or encrypt with aes-256-gcm",
        ),
        Some(p) if p.is_none() && !danger => section.error_here(
            "nothing protects the stream",
            "add authentication = \"hmac-sha256-128\", or danger_unprotected = true while devices are moved",
        ),
        Some(p) if p.is_none() => {
            section.warning(
                "danger_unprotected",
                "whoever reaches the network can forge messages",
                "protect the stream",
            );
        }
        Some(_) => {}
    }
    protection
}

/// Octets of the longest key that a stream depends on; an HMAC's is longer than its strength.
pub(super) fn strength(protection: StreamProtection) -> usize {
    let authentication = match protection.authentication() {
        StreamAuthentication::HmacSha256 | StreamAuthentication::HmacSha256_128 => 16,
        other @ (StreamAuthentication::None | StreamAuthentication::AesGmac128 | StreamAuthentication::AesGmac256) => {
            other.key_len()
        }
    };
    protection.encryption().key_len().max(authentication)
}

/// What must hold between a group's streams, its identities and the protocols that serve it.
pub(super) fn check(section: &Section<'_>, plan: &GroupPlan) {
    let p = plan.base();
    let oids: Vec<&OidName> =
        p.ids.iter().filter_map(|id| if let GroupId::Oid(name) = id { Some(name) } else { None }).collect();
    if oids.iter().any(|name| !name.is_der()) {
        section.error(
            "id",
            "what stands behind the # of an OID is no value in DER",
            "write its octets with tag and length",
        );
    }
    if plan.gikev2.is_some() {
        let what = "an OID names a group to GDOI alone (RFC 8052)";
        if !oids.is_empty() && oids.len() == p.ids.len() {
            section.error(
                "id",
                format!("{what}: no G-IKEv2 member can ask for this one"),
                "add a number beside it, or remove [group.gikev2]",
            );
        } else if !oids.is_empty() {
            section.warning("id", what, "configure G-IKEv2 members with one of the other identities");
        }
        if !p.streams.is_empty() {
            section.error(
                "gikev2",
                "G-IKEv2 cannot tell IEC 61850 streams, and half a policy is none",
                "remove [group.gikev2], or give the streams a group of their own",
            );
        }
    }
    if p.streams.iter().any(|s| s.delivery_assurance) {
        assurance(section, plan);
    }
}

/// Delivery is known by acknowledgements, and only worth telling before senders switch.
fn assurance(section: &Section<'_>, plan: &GroupPlan) {
    let p = plan.base();
    if plan.gdoi.as_ref().is_some_and(|g| g.ack.is_none()) {
        let what = "delivery_assurance needs acknowledgements";
        section.error("gdoi", what, "ask for them: ack = \"kek-sha256\" in [group.gdoi]");
    }
    if p.ack_patience >= p.activation_delay {
        let what = "is not shorter than activation_delay: delivery_assurance would be told when senders have switched";
        section.error("ack_patience", what, format!("less than {}", humantime::format_duration(p.activation_delay)));
    }
}
