//! `[[peer]]`: who may authenticate.

use keyferry_model::credentials::{Peer, Proof};
use keyferry_model::id::Identity;
use keyferry_model::policy::Selector;

use super::phase1;
use super::secrets;
use super::section::Section;
use super::values::{Network, Subject};

/// The peers, and whether they are all: one that is of no use is left out.
pub(super) fn read(root: &mut Section<'_>) -> (Vec<Peer>, bool) {
    let mut peers: Vec<Peer> = Vec::new();
    let sections = root.sections("peer");
    let count = sections.len();
    if count == 0 {
        root.error("peer", "nobody can authenticate", "add [[peer]] with identity and psk_file");
    }
    for mut section in sections {
        let certified = section.choice("auth", &[("psk", false), ("certificate", true)], false);
        // A network alone stands for everybody who is the address that it comes from, and without even that for everybody
        // whom a certificate names.
        let many = (section.has("address") || certified) && !section.has("identity");
        let network: Option<Network> = section.parsed("address", "10.0.0.0/24");
        let identity: Option<Identity> =
            if many { section.parsed("identity", "10.0.0.1") } else { section.required("identity", "10.0.0.1") };
        let address = network.map(|n| Selector { address: n.address, prefix: n.prefix, protocol: 0, port: 0 });
        let proof = proof(&mut section, certified);
        let sends = phase1::peer_sends(&mut section, certified);
        if identity.is_none() && matches!(proof, Some(Proof::PskForCertificate(_))) {
            let what = "is missing: G-IKEv2, which alone takes such a peer, finds its key by it";
            section.error("identity", what, "add identity = \"10.0.0.1\"");
        }
        let known = identity.is_some() || (many && (certified || network.is_some()));
        if let Some(proof) = proof.filter(|_| known) {
            let peer = Peer { identity, address, proof, sends };
            compare(&section, &peer, &peers);
            peers.push(peer);
        }
        section.finish();
    }
    let all = peers.len() == count;
    (peers, all && count > 0)
}

/// How a peer proves itself, and we to it: by certificate or by pre-shared key.
fn proof(section: &mut Section<'_>, certified: bool) -> Option<Proof> {
    let ours_certified = section.choice("gateway_auth", &[("psk", false), ("certificate", true)], certified);
    let given = section.has("subject");
    let subject = section.parsed::<Subject>("subject", "CN=gm1,O=Example,C=DE").map(|s| s.0);
    if !certified {
        if given {
            section.error("subject", "stands without auth = \"certificate\"", "add that, or remove subject");
        }
        let psk = secrets::psk(section);
        return psk.map(if ours_certified { Proof::PskForCertificate } else { Proof::Psk });
    }
    if !ours_certified {
        let psk = secrets::psk(section)?;
        return (subject.is_some() || !given).then_some(Proof::CertificateForPsk { subject, psk });
    }
    for key in ["psk", "psk_file", "danger_short_psk"] {
        if section.has(key) {
            section.error(key, "stands beside auth = \"certificate\"", "keep one of the two");
        }
        section.ignore(key);
    }
    (subject.is_some() || !given).then_some(Proof::Certificate { subject })
}

/// What a peer must not have in common with one before it.
fn compare(section: &Section<'_>, peer: &Peer, before: &[Peer]) {
    for (i, other) in before.iter().enumerate() {
        let mixed = if mixes(peer, other) {
            Some(format!("has a key for everybody in a network where peer[{i}] takes everybody's certificate"))
        } else if mixes(other, peer) {
            Some(format!("takes everybody's certificate in a network where peer[{i}] has a key for everybody"))
        } else {
            None
        };
        if let Some(what) = mixed {
            let remedy = "give each an address, of networks that do not overlap, or give the peers identities";
            section.error(if peer.address.is_some() { "address" } else { "auth" }, what, remedy);
        }
        if let Some(identity) = peer.identity.as_ref().filter(|_| other.identity == peer.identity) {
            let what = format!("peer[{i}] has the same identity {identity}");
            section.error("identity", what, "give each peer an identity of its own");
        } else if place(other).is_some_and(|p| Some(p) == place(peer)) && !same_key(peer, other) {
            let what = format!("peer[{i}] has the same address and another key");
            let remedy = "main mode finds the key by the address alone: use one key, or longer prefixes";
            section.error("address", what, remedy);
        }
    }
}

/// Has one a pre-shared key for everybody in a network in which the other takes everybody's certificate? Then who knows the key
/// passes for whom a certificate names, and who is evicted by the one comes back by the other.
fn mixes(key: &Peer, certificates: &Peer) -> bool {
    let kinds = matches!((&key.proof, &certificates.proof), (Proof::Psk(_), Proof::Certificate { .. }));
    let many = key.identity.is_none() && certificates.identity.is_none();
    let overlap = |(a, b): (Selector, Selector)| a.contains(b.address) || b.contains(a.address);
    kinds && many && key.address.zip(certificates.address).is_none_or(overlap)
}

fn same_key(a: &Peer, b: &Peer) -> bool {
    match (&a.proof, &b.proof) {
        (Proof::Psk(a), Proof::Psk(b)) => a.ct_eq(b.expose()),
        _ => true,
    }
}

/// Where main mode looks for a peer.
fn place(peer: &Peer) -> Option<(std::net::IpAddr, u8)> {
    match (peer.address, peer.identity.as_ref().and_then(Identity::ip)) {
        (Some(s), _) => Some((s.address, s.prefix)),
        (None, Some(ip)) => Some((ip, if ip.is_ipv4() { 32 } else { 128 })),
        (None, None) => None,
    }
}
