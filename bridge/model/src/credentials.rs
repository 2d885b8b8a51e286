//! Pre-shared keys: who is who.

use std::net::IpAddr;
use std::sync::Arc;

use keyferry_crypto::Secret;

use crate::id::Identity;
use crate::policy::Selector;

/// One peer that may authenticate.
#[derive(Clone, Debug)]
pub struct Peer {
    /// The identity it must show.
    pub identity: Identity,
    /// Where it comes from. IKEv1 main mode finds the key by it (RFC 2409 section 5.4); IKEv2 does not need it.
    pub address: Option<Selector>,
    /// The key.
    pub psk: Arc<Secret>,
}

/// All peers, and our own identity.
#[derive(Clone, Debug, Default)]
pub struct Credentials {
    peers: Vec<Peer>,
}

impl Credentials {
    /// Collects peers. Of several with one identity the first counts.
    #[must_use]
    pub fn new(peers: Vec<Peer>) -> Self {
        Self { peers }
    }

    /// The pre-shared key for main mode with this address: that of the longest matching prefix.
    #[must_use]
    pub fn psk_for_address(&self, ip: IpAddr) -> Option<&Arc<Secret>> {
        self.at(ip).max_by_key(|(prefix, _)| *prefix).map(|(_, p)| &p.psk)
    }

    /// May a peer that authenticated from this address with the key of [`psk_for_address`](Self::psk_for_address)
    /// call itself so? Only if a peer of that identity, at that address, has that same key.
    #[must_use]
    pub fn allows(&self, ip: IpAddr, identity: &Identity) -> bool {
        let Some(psk) = self.psk_for_address(ip) else { return false };
        self.at(ip).any(|(_, p)| p.identity == *identity && p.psk.ct_eq(psk.expose()))
    }

    /// The pre-shared key of an identity (IKEv2).
    #[must_use]
    pub fn psk_for_identity(&self, identity: &Identity) -> Option<&Arc<Secret>> {
        self.peers.iter().find(|p| p.identity == *identity).map(|p| &p.psk)
    }

    fn at(&self, ip: IpAddr) -> impl Iterator<Item = (u8, &Peer)> {
        self.peers.iter().filter_map(move |p| match p.address {
            Some(net) => net.contains(ip).then_some((net.prefix, p)),
            // An identity that is an address says where the peer is.
            None => (p.identity.ip() == Some(ip)).then_some((u8::MAX, p)),
        })
    }
}
