//! What no single key can be wrong about: keys that do not go together.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use keyferry_crypto::KeyKind;
use keyferry_model::id::Identity;
use keyferry_model::policy::{AckType, Authorization, GroupPolicy, InBand, KekManagement, RekeyTransport, Selector};
use keyferry_model::reading::Reading;

use super::certificates::Certificates;
use super::gateway::{GatewayConfig, RekeySending};
use super::group::{GdoiPlan, GroupEntry, GroupPlan};
use super::section::{Section, did_you_mean};
use super::streams;
use super::values::{Network, protection_strength, transform_strength};
use keyferry_model::credentials::{Peer, Proof};

/// Longest name of a group, in octets.
const MAX_NAME: usize = 64;

pub(super) fn listen(section: &Section<'_>, key: &str, listen: &[SocketAddr]) {
    if listen.is_empty() && section.named_key(key) {
        section.error(key, "nothing is listened to", "add an address, or remove the key for what is usual");
    }
    for (i, address) in listen.iter().enumerate() {
        if listen[..i].contains(address) {
            section.error(key, format!("{address} stands there twice"), "remove one of the two");
        }
        if address.ip().is_multicast() {
            section.error(key, format!("{address} is a multicast address"), "listen to addresses of this machine");
        }
    }
}

pub(super) fn rekey_sending(section: &Section<'_>, rekey: &RekeySending) {
    let v4 = rekey.source.iter().filter(|ip| ip.is_ipv4()).count();
    if v4 > 1 || rekey.source.len() - v4 > 1 {
        section.error(
            "rekey_source",
            "there are several addresses of one family",
            "keep one IPv4 and one IPv6 address",
        );
    }
    if rekey.source.iter().any(|ip| ip.is_multicast() || ip.is_unspecified()) {
        section.error("rekey_source", "is no address to send from", "write an address of this machine");
    }
    // Linux takes names of up to 15 octets.
    if rekey.interface.as_ref().is_some_and(|i| i.is_empty() || i.len() > 15) {
        section.error("rekey_interface", "is no name of an interface", "write one as ip link shows it");
    }
}

/// Names are part of record keys and of commands.
pub(super) fn group_name(section: &Section<'_>, name: &str) {
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if !name.is_empty() && (name.len() > MAX_NAME || !name.chars().all(good)) {
        section.error(
            "name",
            format!("{name:?} cannot name a group"),
            "use up to 64 letters, digits, '-', '_' and '.'",
        );
    }
}

pub(super) fn traffic(section: &Section<'_>, source: Network, destination: Network) {
    if source.address.is_ipv4() != destination.address.is_ipv4() {
        section.error("source", "source and destination are of different families", "use IPv4 or IPv6 for both");
    }
    if source.address.is_multicast() {
        section.error("source", "a multicast address sends nothing", "write the network of the senders");
    }
}

/// What must hold within a group.
pub(super) fn group(section: &Section<'_>, plan: &GroupPlan) {
    let p = plan.base();
    let text = |d| humantime::format_duration(d).to_string();
    if p.deactivation_delay <= p.activation_delay {
        let what = "is not longer than activation_delay: receivers would drop keys that senders still use";
        section.error("deactivation_delay", what, format!("more than {}", text(p.activation_delay)));
    }
    if p.rekey_margin >= p.tek_lifetime {
        let what = "is not shorter than tek_lifetime: the group would rekey without pause";
        section.error("rekey_margin", what, format!("less than {}", text(p.tek_lifetime)));
    }
    if p.rekey_margin >= p.kek_lifetime {
        let what = "is not shorter than kek_lifetime: the group would rekey without pause";
        section.error("rekey_margin", what, format!("less than {}", text(p.kek_lifetime)));
    }
    if p.rekey_margin <= p.activation_delay {
        let what = "is not longer than activation_delay: keys would expire before senders have switched";
        section.error("rekey_margin", what, format!("more than {}", text(p.activation_delay)));
    }
    if p.kek_lifetime < p.tek_lifetime {
        let what = "is shorter than tek_lifetime: members could not be told of new traffic keys";
        section.error("kek_lifetime", what, format!("at least {}", text(p.tek_lifetime)));
    }
    let last_copy = p.retransmit.interval * u32::from(p.retransmit.copies);
    if p.retransmit.copies > 0 && last_copy >= p.activation_delay {
        let what =
            format!("the last copy of a rekey comes {} after the first, when senders have switched", text(last_copy));
        section.error("retransmit_interval", what, "fewer or faster copies, or a longer activation_delay");
    }
    margin(section, p);
    acknowledgements(section, plan);
    if p.backward_access.is_none() && section.named_key("join_gathering") {
        let what = "is of no use: newcomers get the keys there are, and wait for nothing";
        section.warning("join_gathering", what, "add backward_access_control = \"data\" or \"full\"");
    }
    let room = 1u64 << p.sender_id_bits;
    let wanted = u64::from(p.capacity) * u64::from(p.sender_ids_per_member);
    if p.needs_sender_ids() && room < wanted {
        let what = format!(
            "{} bits are {room} sender IDs, but {} members with {} each need {wanted}",
            p.sender_id_bits, p.capacity, p.sender_ids_per_member
        );
        section.error("sender_id_bits", what, "more bits, a smaller capacity, or a mode that is no counter mode");
    }
    sides(section, plan);
}

/// Are members told of new keys, whatever copy of a rekey reaches them, before they register anew for want of them?
fn margin(section: &Section<'_>, p: &GroupPolicy) {
    const OURS: Duration = Duration::from_secs(120);
    const OTHERS: Duration = Duration::from_secs(3600);
    let copies = p.retransmit.interval * u32::from(p.retransmit.copies);
    let last = if p.ack_resend { copies.max(p.ack_patience) } else { copies };
    let early = (p.tek_lifetime / 20).min(OTHERS).max((p.tek_lifetime / 10).min(OURS));
    let bad = p.rekey_margin <= p.activation_delay || p.rekey_margin >= p.tek_lifetime;
    if section.named_key("rekey_margin") && !bad && p.rekey_margin <= early + last {
        let text = |d| humantime::format_duration(d).to_string();
        let what = format!(
            "is short: members register anew {} before keys end, and the last copy of a rekey comes {} after the first",
            text(early),
            text(last)
        );
        section.warning("rekey_margin", what, format!("more than {}, or remove it", text(early + last)));
    }
}

fn acknowledgements(section: &Section<'_>, plan: &GroupPlan) {
    let p = plan.base();
    let gikev2 = plan.gikev2.as_ref().is_some_and(|g| g.options.ack || g.options.in_band != InBand::Nobody);
    let asks = gikev2 || plan.gdoi.as_ref().is_some_and(|g| g.ack.is_some());
    let resend = ("ack_resend", p.ack_resend, "kek-sha256");
    for (key, set, ack) in [resend, ("evict_after_misses", p.evict_after_misses.is_some(), "lkh-sha256")] {
        if set && !asks {
            let what = "nobody is asked to acknowledge anything";
            section.error(key, what, format!("add ack = \"{ack}\" to [group.gdoi], or remove the key"));
        }
    }
    if p.evict_after_misses.is_some() && plan.gdoi.as_ref().is_some_and(|g| matches!(g.ack, Some(AckType::Kek(_)))) {
        // RFC 8263 section 7.1.
        let what = "with the KEK every member can acknowledge in the name of others, so nothing shows who is silent";
        section.error("evict_after_misses", what, "add ack = \"lkh-sha256\" to [group.gdoi], or remove the key");
    }
    if !asks || !p.ack_resend {
        return;
    }
    if p.ack_patience >= p.rekey_margin {
        let what = "with ack_resend a rekey may be sent once more when its keys are about to be replaced again";
        section.error("ack_patience", what, "a shorter time than rekey_margin");
    }
    if p.deactivation_delay < p.ack_patience + p.activation_delay {
        let least = humantime::format_duration(p.ack_patience + p.activation_delay).to_string();
        let what = "a member that gets a rekey after ack_patience still sends with keys that the others have dropped";
        section.warning("deactivation_delay", what, format!("at least {least}"));
    }
}

/// What must hold between a group's traffic and the protocols that serve it.
fn sides(section: &Section<'_>, plan: &GroupPlan) {
    if plan.gdoi.is_none() && plan.gikev2.is_none() {
        section.error_here("the group serves neither protocol", "add [group.gdoi], [group.gikev2] or both");
    }
    streams::check(section, plan);
    let traffic = plan.base().traffic.iter().map(|t| transform_strength(t.transform));
    let of_streams = plan.base().streams.iter().map(|s| streams::strength(s.protection));
    let needed = traffic.chain(of_streams).max().unwrap_or(0);
    let weaker = |key: &str, octets: usize| {
        if octets < needed {
            let (has, needs) = (octets * 8, needed * 8);
            let what = format!("keys of {has} bits would carry traffic keys of {needs} bits");
            section.error(key, what, format!("use {needs} bits there, or a transform of {has} bits"));
        }
    };
    if let Some(g) = &plan.gdoi {
        // Who allows 3DES has been told.
        if !g.cipher.is_weak() {
            weaker("gdoi", g.cipher.key_len());
        }
        sizes(section, plan.base(), g);
        if let Some(line) = plan.base().traffic.iter().position(|t| !gdoi::can_tell(t.transform)) {
            let what = format!("GDOI has no number for the transform of traffic line {}", line + 1);
            section.error("gdoi", what, "use another transform, or remove [group.gdoi]");
        }
    }
    if let Some(g) = &plan.gikev2 {
        weaker("gikev2", g.wrap_key_len.min(protection_strength(g.protection)));
    }
}

/// What must hold of a group's pushes.
pub(super) fn push(section: &Section<'_>, plan: &GdoiPlan, weak: bool) {
    if plan.cipher.is_weak() && !weak {
        section.error("cipher", "3DES is weak", "use aes-256-cbc, or allow it by danger_weak_rekey = true");
    }
    if plan.scheme.is_weak() && !weak {
        let remedy = "use rsa-sha2-256, or allow it by danger_weak_rekey = true";
        section.error("signature", "SHA-1 is weak", remedy);
    }
    if plan.management == KekManagement::None && matches!(plan.ack, Some(AckType::Lkh(_))) {
        let what = "members without LKH have no leaf key to acknowledge with";
        section.error("ack", what, "kek-sha256 or kek-sha512, or management = \"lkh\"");
    }
    if plan.sends.has(Reading::SigRaw) && plan.scheme.kind() != KeyKind::Rsa {
        section.error("sends", "sig-raw is for RSA", "remove it, or choose an RSA signature");
    }
}

/// No message of GDOI may be longer than a datagram.
fn sizes(section: &Section<'_>, base: &GroupPolicy, plan: &GdoiPlan) {
    let sizes = gdoi::Sizes::of(base, plan.cipher, plan.scheme, plan.sends);
    for (name, size) in [("GROUPKEY-PUSH", sizes.push), ("GROUPKEY-PULL", sizes.pull)] {
        if size > gdoi::Sizes::MOST {
            let what = format!(
                "group {:?} has {} lines: a {name} would have {size} octets, and a datagram holds {}",
                base.name,
                base.traffic.len(),
                gdoi::Sizes::MOST
            );
            return section.error("traffic", what, "cover more by each line, or make two groups of it");
        }
    }
}

/// What must hold between groups and the gateway's addresses.
pub(super) fn groups(root: &Section<'_>, groups: &[GroupEntry<'_>], config: &GatewayConfig) {
    if groups.is_empty() {
        root.error("group", "there is no group to serve", "add [[group]] with name, id and [[group.traffic]]");
    }
    for GroupEntry { plan, section } in groups {
        let transports = plan.gdoi.iter().map(|g| ("gdoi", g.transport));
        for (key, transport) in transports.chain(plan.gikev2.iter().map(|g| ("gikev2", g.transport))) {
            if let RekeyTransport::Multicast(to) = transport
                && !config.listen.iter().any(|l| l.is_ipv4() == to.is_ipv4())
            {
                let what = format!("rekeys go to {to}, but the gateway listens to no address of that family");
                section.error(key, what, "add one to listen in [gateway]");
            }
        }
        // With several senders numbers are not unique, and a G-IKEv2 member must be told so (RFC 9838 section 4.4.2.1.3).
        let single = |s: &Selector| s.prefix == if s.address.is_ipv4() { 32 } else { 128 };
        let many = plan.base().traffic.iter().any(|t| t.replay_window > 0 && !single(&t.source));
        if plan.gikev2.is_some() && many {
            let what = "a replay window for traffic of several senders cannot be told to G-IKEv2 members";
            section.error("traffic", what, "name the one sender as source, or remove replay_window");
        }
    }
}

/// What must hold between certificates and peers; `all` if none of them was left out.
pub(super) fn certificates(section: &Section<'_>, certificates: &Certificates, peers: &[Peer], all: bool) {
    let certified = peers.iter().any(is_certified);
    let ours = |p: &Peer| matches!(p.proof, Proof::Certificate { .. } | Proof::PskForCertificate(_));
    // Where nobody proves itself otherwise than we do, reading has said so.
    if peers.iter().any(is_mixed) && peers.iter().any(ours) && !section.named_key("certificate") {
        let what = "we are to prove ourselves to peers by certificate, and there is none";
        section.error("certificate", what, "add certificate = \"FILE\" and private_key = \"FILE\"");
    }
    if certified && !section.named_key("trust") {
        let what = "peers authenticate by certificate, and nobody's is trusted";
        section.error("trust", what, "add trust = [\"FILE\"], certificate = \"FILE\" and private_key = \"FILE\"");
    }
    if all && !certified && certificates.trust.is_some() {
        let what = "is of no use: no peer authenticates by certificate";
        section.warning("trust", what, "add auth = \"certificate\" to the peers that do");
    }
}

/// Does a peer prove itself in one way, and we to it in another?
pub(super) fn is_mixed(peer: &Peer) -> bool {
    matches!(peer.proof, Proof::PskForCertificate(_) | Proof::CertificateForPsk { .. })
}

/// Does a peer prove itself by certificate?
fn is_certified(peer: &Peer) -> bool {
    matches!(peer.proof, Proof::Certificate { .. } | Proof::CertificateForPsk { .. })
}

/// What must hold between groups and peers.
pub(super) fn members(groups: &[GroupEntry<'_>], peers: &[Peer]) {
    let identities: BTreeSet<String> =
        peers.iter().filter_map(|p| p.identity.as_ref().map(ToString::to_string)).collect();
    let many = peers.iter().any(|p| p.identity.is_none());
    let names: Vec<&str> = identities.iter().map(String::as_str).collect();
    // Certificates say who somebody is wherever they come from.
    let found = |p: &Peer| p.address.is_some() || p.identity.as_ref().and_then(Identity::ip).is_some();
    let addressed = peers.iter().any(|p| found(p) || matches!(p.proof, Proof::Certificate { .. }));
    for GroupEntry { plan, section } in groups {
        if let Authorization::Listed(listed) = &plan.base().authorization {
            for member in listed.iter().map(ToString::to_string).filter(|m| !many && !identities.contains(m)) {
                let what = format!("there is no peer {member}{}", did_you_mean(&member, &names));
                section.error("members", what, "add a [[peer]] with that identity");
            }
        }
        if plan.gdoi.is_some() && !addressed {
            let what = "no peer has an address, by which GDOI's main mode finds its key";
            section.warning("gdoi", what, "add address = \"NETWORK\" to the peers that use GDOI");
        }
    }
}
