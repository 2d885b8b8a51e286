//! `[[peer]]`: who may authenticate.

use keyferry_model::credentials::Peer;
use keyferry_model::id::Identity;
use keyferry_model::policy::Selector;

use super::secrets;
use super::section::Section;
use super::values::Network;

/// The peers, and whether they are all: one that is of no use is left out.
pub(super) fn read(root: &mut Section<'_>) -> (Vec<Peer>, bool) {
    let mut peers: Vec<Peer> = Vec::new();
    let sections = root.sections("peer");
    let count = sections.len();
    if count == 0 {
        root.error("peer", "nobody can authenticate", "add [[peer]] with identity and psk_file");
    }
    for mut section in sections {
        let identity: Option<Identity> = section.required("identity", "10.0.0.1");
        let network: Option<Network> = section.parsed("address", "10.0.0.0/24");
        let psk = secrets::psk(&mut section);
        if let (Some(identity), Some(psk)) = (identity, psk) {
            let address = network.map(|n| Selector { address: n.address, prefix: n.prefix, protocol: 0, port: 0 });
            let peer = Peer { identity, address, psk };
            compare(&section, &peer, &peers);
            peers.push(peer);
        }
        section.finish();
    }
    let all = peers.len() == count;
    (peers, all && count > 0)
}

/// What a peer must not have in common with one before it.
fn compare(section: &Section<'_>, peer: &Peer, before: &[Peer]) {
    for (i, other) in before.iter().enumerate() {
        if other.identity == peer.identity {
            let what = format!("peer[{i}] has the same identity {}", peer.identity);
            section.error("identity", what, "give each peer an identity of its own");
        } else if place(other).is_some_and(|p| Some(p) == place(peer)) && !other.psk.ct_eq(peer.psk.expose()) {
            let what = format!("peer[{i}] has the same address and another key");
            let remedy = "main mode finds the key by the address alone: use one key, or longer prefixes";
            section.error("address", what, remedy);
        }
    }
}

/// Where main mode looks for a peer.
fn place(peer: &Peer) -> Option<(std::net::IpAddr, u8)> {
    match (peer.address, peer.identity.ip()) {
        (Some(s), _) => Some((s.address, s.prefix)),
        (None, Some(ip)) => Some((ip, if ip.is_ipv4() { 32 } else { 128 })),
        (None, None) => None,
    }
}
