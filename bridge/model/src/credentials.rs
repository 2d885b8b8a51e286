//! Who is who: pre-shared keys, and certificates of peers and our own.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use keyferry_crypto::x509::{AltName, Certificate, DistinguishedName, OcspAnswer, TrustStore};
use keyferry_crypto::{KeyKind, Secret, SigningKey};

use crate::id::Identity;
use crate::policy::Selector;
use crate::reading::Readings;

/// One peer that may authenticate, or many alike.
#[derive(Clone, Debug)]
pub struct Peer {
    /// The identity it must show. `None` stands for many: with a pre-shared key for everybody who is the address that it
    /// comes from, with certificates for everybody whom a certificate names.
    pub identity: Option<Identity>,
    /// Where it comes from. IKEv1 main mode finds the pre-shared key by it (RFC 2409 section 5.4).
    pub address: Option<Selector>,
    /// How it proves itself.
    pub proof: Proof,
    /// Readings of phase 1 of IKEv1 that are sent to it in place of the usual ones.
    pub sends: Readings,
}

/// How a peer proves itself, and we to it: in the same way where nothing else is said.
#[derive(Clone, Debug)]
pub enum Proof {
    /// By a pre-shared key.
    Psk(Arc<Secret>),
    /// By a pre-shared key, and we by certificate. Only IKEv2 can do that (RFC 7296 section 2.15).
    PskForCertificate(Arc<Secret>),
    /// By a certificate that the trust store is satisfied with.
    Certificate {
        /// The subject that it must have. Then the peer may show the identity even if the certificate does not name it, as
        /// no certificate names a key ID.
        subject: Option<DistinguishedName>,
    },
    /// By a certificate, and we by a pre-shared key. Only IKEv2 can do that.
    CertificateForPsk {
        /// As above.
        subject: Option<DistinguishedName>,
        /// The key.
        psk: Arc<Secret>,
    },
}

/// How we prove ourselves to a peer of IKEv2.
#[derive(Clone, Debug)]
pub enum Ours {
    /// By a pre-shared key.
    Psk(Arc<Secret>),
    /// By a certificate.
    Certificate,
}

/// A certificate of our own.
#[derive(Clone, Debug)]
pub struct OwnCertificate {
    /// The certificate, then those of its issuers, up to an anchor of the peers.
    pub chain: Vec<Certificate>,
    /// Its private key.
    pub key: Arc<SigningKey>,
}

impl AsRef<OwnCertificate> for OwnCertificate {
    fn as_ref(&self) -> &OwnCertificate {
        self
    }
}

impl OwnCertificate {
    /// The certificate itself; there is one in every chain that the configuration lets through.
    #[must_use]
    pub fn leaf(&self) -> Option<&Certificate> {
        self.chain.first()
    }

    /// Who we are with it, unless that is configured: the address we are talked to, if the certificate names it, else its
    /// subject.
    #[must_use]
    pub fn identity(&self, address: Identity) -> Identity {
        match self.leaf() {
            Some(leaf) if !names(leaf, &address) => Identity::Dn(leaf.subject().clone()),
            Some(_) | None => address,
        }
    }
}

/// What certificates of peers are held against.
#[derive(Clone, Debug)]
pub struct Trust {
    /// Anchors and revocation lists.
    pub store: Arc<TrustStore>,
    /// Answers of OCSP responders.
    pub ocsp: Arc<[OcspAnswer]>,
}

/// All peers, and what we have to show.
#[derive(Clone, Debug, Default)]
pub struct Credentials {
    peers: Vec<Peer>,
    /// The first peer of each identity.
    by_identity: BTreeMap<Identity, usize>,
    /// Peers with pre-shared keys by where they come from: length of the prefix ([`OWN_ADDRESS`] for those that their
    /// identity says it of), network.
    by_place: BTreeMap<(u8, IpAddr), Vec<usize>>,
    /// The lengths that occur there.
    prefixes: BTreeSet<u8>,
    /// Peers with certificates: those of an identity, and those for whoever is not listed.
    certified: BTreeMap<Identity, Vec<usize>>,
    certified_unlisted: Vec<usize>,
    /// Are other readings than the usual ones sent to any of them?
    peculiar: bool,
    own: Vec<Arc<OwnCertificate>>,
    trust: Option<Trust>,
    danger_sha1_signatures: bool,
}

/// Stands for the length of a prefix where a peer's identity is its address. It is longer than any.
const OWN_ADDRESS: u8 = u8::MAX;

/// The network of this length that an address is in.
fn network(ip: IpAddr, prefix: u8) -> IpAddr {
    Selector { address: ip, prefix, protocol: 0, port: 0 }.range().0
}

impl Credentials {
    /// Collects peers. Of several with one identity the first counts.
    #[must_use]
    pub fn new(peers: Vec<Peer>) -> Self {
        let mut by_identity = BTreeMap::new();
        let mut by_place: BTreeMap<(u8, IpAddr), Vec<usize>> = BTreeMap::new();
        let mut certified: BTreeMap<Identity, Vec<usize>> = BTreeMap::new();
        let mut certified_unlisted = Vec::new();
        for (at, peer) in peers.iter().enumerate() {
            if let Some(identity) = &peer.identity {
                by_identity.entry(identity.clone()).or_insert(at);
            }
            if psk(peer).is_none() {
                match &peer.identity {
                    Some(identity) => certified.entry(identity.clone()).or_default().push(at),
                    None => certified_unlisted.push(at),
                }
            }
            let place = match (peer.address, &peer.identity) {
                (Some(net), _) => Some((net.prefix, network(net.address, net.prefix))),
                // An identity that is an address says where the peer is.
                (None, Some(identity)) => identity.ip().map(|ip| (OWN_ADDRESS, ip)),
                (None, None) => None,
            };
            if let Some(place) = place.filter(|_| psk(peer).is_some()) {
                by_place.entry(place).or_default().push(at);
            }
        }
        let prefixes = by_place.keys().map(|(prefix, _)| *prefix).collect();
        let peculiar = peers.iter().any(|p| !p.sends.is_empty());
        let (own, trust, danger_sha1_signatures) = (Vec::new(), None, false);
        Self {
            peers,
            by_identity,
            by_place,
            prefixes,
            certified,
            certified_unlisted,
            peculiar,
            own,
            trust,
            danger_sha1_signatures,
        }
    }

    /// The same with certificates of our own, best first.
    #[must_use]
    pub fn with_own(self, own: Vec<OwnCertificate>) -> Self {
        Self { own: own.into_iter().map(Arc::new).collect(), ..self }
    }

    /// The same with another trust store, as after its files have changed.
    #[must_use]
    pub fn with_trust(self, trust: Trust) -> Self {
        Self { trust: Some(trust), ..self }
    }

    /// The same, with signatures by SHA-1 for peers of IKEv2 that know nothing of RFC 7427.
    #[must_use]
    pub fn with_danger_sha1_signatures(self, danger: bool) -> Self {
        Self { danger_sha1_signatures: danger, ..self }
    }

    /// Are signatures by SHA-1 made for, and taken from, peers of IKEv2 that know nothing of RFC 7427?
    #[must_use]
    pub fn takes_sha1_signatures(&self) -> bool {
        self.danger_sha1_signatures
    }

    /// The peers.
    #[must_use]
    pub fn peers(&self) -> &[Peer] {
        &self.peers
    }

    /// What certificates are held against; `None` takes no certificates.
    #[must_use]
    pub fn trust(&self) -> Option<&Trust> {
        self.trust.as_ref()
    }

    /// Our certificates, best first.
    pub fn all_own(&self) -> impl Iterator<Item = &Arc<OwnCertificate>> {
        self.own.iter()
    }

    /// Our certificates with keys of this kind, best first.
    pub fn own(&self, kind: KeyKind) -> impl Iterator<Item = &Arc<OwnCertificate>> {
        self.own.iter().filter(move |own| own.key.kind() == kind)
    }

    /// The pre-shared key for main mode with this address: that of the longest matching prefix.
    #[must_use]
    pub fn psk_for_address(&self, ip: IpAddr) -> Option<&Arc<Secret>> {
        self.at(ip).next().map(|(_, psk)| psk)
    }

    /// May a peer that authenticated from this address with the key of [`psk_for_address`](Self::psk_for_address)
    /// call itself so? Only if a peer of that identity, at that address, has that same key; and where the key is for many,
    /// if it is its address and has no key of its own.
    #[must_use]
    pub fn allows(&self, ip: IpAddr, identity: &Identity) -> bool {
        let Some(psk) = self.psk_for_address(ip) else { return false };
        let named = self.named(identity).is_some();
        self.at(ip).any(|(p, key)| {
            let is = match &p.identity {
                Some(own) => own == identity,
                None => !named && identity.ip() == Some(ip),
            };
            is && key.ct_eq(psk.expose())
        })
    }

    /// The pre-shared key by which a peer of IKEv2 with this identity proves itself, and how we do to it.
    #[must_use]
    pub fn ikev2_psk(&self, identity: &Identity) -> Option<(&Arc<Secret>, Ours)> {
        match &self.named(identity)?.proof {
            Proof::Psk(psk) => Some((psk, Ours::Psk(Arc::clone(psk)))),
            Proof::PskForCertificate(psk) => Some((psk, Ours::Certificate)),
            Proof::Certificate { .. } | Proof::CertificateForPsk { .. } => None,
        }
    }

    /// The pre-shared key of an identity that comes from this address (aggressive mode): its own, else one for many at the
    /// address that it is.
    #[must_use]
    pub fn psk_for_identity_at(&self, identity: &Identity, ip: IpAddr) -> Option<&Arc<Secret>> {
        if let Some(peer) = self.named(identity) {
            return psk(peer).filter(|_| peer.address.is_none_or(|net| net.contains(ip)));
        }
        self.psk_for_address(ip).filter(|_| self.allows(ip, identity))
    }

    /// In which readings phase 1 is sent to who comes from this address, and calls itself so if it has said it already: what
    /// the list says of that identity, else of those at the address, or of everybody.
    #[must_use]
    pub fn sends_to(&self, ip: IpAddr, identity: Option<&Identity>) -> Readings {
        if !self.peculiar {
            return Readings::NONE;
        }
        let named = identity.and_then(|identity| self.named(identity));
        let keyed = || self.at(ip).next().map(|(peer, _)| peer);
        let certified = |p: &&Peer| psk(p).is_none() && p.address.map_or(p.identity.is_none(), |net| net.contains(ip));
        let peer = named.or_else(keyed).or_else(|| self.peers.iter().find(certified));
        peer.map_or(Readings::NONE, |peer| peer.sends)
    }

    /// Has any peer a pre-shared key?
    #[must_use]
    pub fn has_psk(&self) -> bool {
        self.peers.iter().any(|p| psk(p).is_some())
    }

    /// May any peer at this address authenticate by certificate?
    #[must_use]
    pub fn takes_certificates_from(&self, ip: IpAddr) -> bool {
        self.trust.is_some() && self.any_certified(ip).any(|certified| certified.psk.is_none())
    }

    /// May any peer of IKEv2 at this address authenticate by certificate?
    #[must_use]
    pub fn takes_ikev2_certificates_from(&self, ip: IpAddr) -> bool {
        self.trust.is_some() && self.any_certified(ip).next().is_some()
    }

    /// May a peer that authenticated from this address with this certificate call itself so?
    #[must_use]
    pub fn allows_certificate(&self, ip: IpAddr, identity: &Identity, certificate: &Certificate) -> bool {
        self.allowed(ip, identity, certificate).any(|certified| certified.psk.is_none())
    }

    /// May a peer of IKEv2 that authenticated from this address with this certificate call itself so? Then this is how we
    /// prove ourselves to it.
    #[must_use]
    pub fn ikev2_certificate(&self, ip: IpAddr, identity: &Identity, certificate: &Certificate) -> Option<Ours> {
        let ours = |certified: Certified<'_>| match certified.psk {
            Some(psk) => Ours::Psk(Arc::clone(psk)),
            None => Ours::Certificate,
        };
        self.allowed(ip, identity, certificate).next().map(ours)
    }

    fn allowed<'a>(
        &'a self,
        ip: IpAddr,
        identity: &'a Identity,
        certificate: &'a Certificate,
    ) -> impl Iterator<Item = Certified<'a>> {
        // Who is listed is what the list says, and not one of many.
        let all = match self.named(identity) {
            Some(_) => self.certified.get(identity).map_or(&[][..], Vec::as_slice),
            None => &self.certified_unlisted,
        };
        self.certified(all, ip).filter(move |Certified { identity: own, subject, .. }| match subject {
            Some(subject) => *subject == certificate.subject() && (own.is_some() || names(certificate, identity)),
            None => names(certificate, identity),
        })
    }

    /// Every peer with a certificate that may be at this address; those for many come first.
    fn any_certified(&self, ip: IpAddr) -> impl Iterator<Item = Certified<'_>> {
        let listed = self.certified.values().flat_map(move |all| self.certified(all, ip));
        self.certified(&self.certified_unlisted, ip).chain(listed)
    }

    /// Those of these peers that may be at this address.
    fn certified<'a>(&'a self, of: &'a [usize], ip: IpAddr) -> impl Iterator<Item = Certified<'a>> {
        let peers = of.iter().filter_map(|at| self.peers.get(*at));
        peers.filter(move |p| p.address.is_none_or(|net| net.contains(ip))).filter_map(|p| {
            let (subject, psk) = match &p.proof {
                Proof::Certificate { subject } => (subject, None),
                Proof::CertificateForPsk { subject, psk } => (subject, Some(psk)),
                Proof::Psk(_) | Proof::PskForCertificate(_) => return None,
            };
            Some(Certified { identity: p.identity.as_ref(), subject: subject.as_ref(), psk })
        })
    }

    fn named(&self, identity: &Identity) -> Option<&Peer> {
        self.by_identity.get(identity).and_then(|at| self.peers.get(*at))
    }

    /// Peers with pre-shared keys that may be at this address, those of the longest prefix first.
    fn at(&self, ip: IpAddr) -> impl Iterator<Item = (&Peer, &Arc<Secret>)> {
        let place = move |prefix: &u8| match *prefix {
            OWN_ADDRESS => (OWN_ADDRESS, ip),
            prefix => (prefix, network(ip, prefix)),
        };
        let there = self.prefixes.iter().rev().filter_map(move |prefix| self.by_place.get(&place(prefix)));
        there.flatten().filter_map(|at| self.peers.get(*at)).filter_map(|p| psk(p).map(|psk| (p, psk)))
    }
}

/// A peer that authenticates by certificate.
struct Certified<'a> {
    identity: Option<&'a Identity>,
    subject: Option<&'a DistinguishedName>,
    /// The key by which we prove ourselves to it, if not by certificate.
    psk: Option<&'a Arc<Secret>>,
}

/// The pre-shared key by which a peer and we prove ourselves.
fn psk(peer: &Peer) -> Option<&Arc<Secret>> {
    match &peer.proof {
        Proof::Psk(psk) => Some(psk),
        Proof::PskForCertificate(_) | Proof::Certificate { .. } | Proof::CertificateForPsk { .. } => None,
    }
}

/// Does a certificate name this identity (RFC 4945 section 3.1)? A DN must be its subject, everything else one of its
/// alternative names. No certificate names a key ID.
#[must_use]
pub fn names(certificate: &Certificate, identity: &Identity) -> bool {
    let alternative = |is: &dyn Fn(&AltName) -> bool| certificate.names().iter().any(is);
    match identity {
        Identity::Ipv4(_) | Identity::Ipv6(_) => {
            alternative(&|name| matches!(name, AltName::Ip(ip) if identity.ip() == Some(*ip)))
        }
        Identity::Fqdn(fqdn) => {
            alternative(&|name| matches!(name, AltName::Dns(dns) if dns.eq_ignore_ascii_case(fqdn)))
        }
        Identity::UserFqdn(user) => {
            alternative(&|name| matches!(name, AltName::Email(email) if same_mailbox(email, user)))
        }
        // Who has no subject has no DN: otherwise all of them would share one.
        Identity::Dn(dn) => !dn.is_empty() && certificate.subject() == dn,
        Identity::KeyId(_) => false,
    }
}

/// The host of a mailbox has no case, its local part has (RFC 5280 section 7.5).
fn same_mailbox(a: &str, b: &str) -> bool {
    match (a.rsplit_once('@'), b.rsplit_once('@')) {
        (Some((local_a, host_a)), Some((local_b, host_b))) => local_a == local_b && host_a.eq_ignore_ascii_case(host_b),
        _ => false,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::reading::Reading;

    /// Before a peer has said who it is, its address has to do; afterwards the list says it of its identity.
    #[test]
    fn readings_are_found_by_identity_and_before_that_by_address() {
        let peer = |identity: Option<&str>, net: Option<&str>, psk: bool, sends: Option<Reading>| Peer {
            identity: identity.map(|i| i.parse().unwrap()),
            address: net.map(|n| Selector { address: n.parse().unwrap(), prefix: 24, protocol: 0, port: 0 }),
            proof: if psk {
                Proof::Psk(Arc::new(Secret::new(vec![7; 20])))
            } else {
                Proof::Certificate { subject: None }
            },
            sends: sends.into_iter().collect(),
        };
        let (a, b, c, d) = (Reading::IdUdp, Reading::IdUdp500, Reading::IdUdp848, Reading::RsaDigestInfo);
        let list = vec![
            peer(Some("10.0.0.1"), None, true, Some(a)),
            peer(Some("10.0.0.2"), None, true, None),
            peer(Some("fqdn:gm.example"), None, false, Some(b)),
            peer(Some("fqdn:there.example"), Some("10.1.0.0"), false, Some(c)),
            peer(None, None, false, Some(d)),
        ];
        let credentials = Credentials::new(list);
        for (ip, identity, expected) in [
            ("10.0.0.1", None, Some(a)),
            ("10.0.0.1", Some("10.0.0.1"), Some(a)),
            ("10.0.0.2", None, None),
            ("10.0.0.9", Some("fqdn:gm.example"), Some(b)),
            ("10.1.0.9", None, Some(c)),
            ("10.0.0.9", None, Some(d)),
            ("10.0.0.9", Some("fqdn:unknown.example"), Some(d)),
        ] {
            let identity: Option<Identity> = identity.map(|i| i.parse().unwrap());
            let sends = credentials.sends_to(ip.parse().unwrap(), identity.as_ref());
            assert_eq!(sends, expected.into_iter().collect(), "{ip} {identity:?}");
        }
    }
}
