//! What a member is configured with, whichever protocol it speaks.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use keyferry_crypto::x509::{Certificate, DistinguishedName};
use keyferry_crypto::{BlockCipher, Hash, KeGroup, Secret};

use crate::credentials::{OwnCertificate, Trust, names};
use crate::flows::Flows;
use crate::id::{GroupId, Identity};
use crate::key_server::KeyServers;
use crate::policy::RekeyProtection;
use crate::reading::Readings;
use crate::redirect::{Following, Redirect};
use crate::tunnel::Tunnel;

/// Settings of a group member.
#[derive(Clone, Debug)]
pub struct MemberSettings {
    /// The key servers.
    pub key_servers: KeyServers,
    /// Our address and port, as the socket is bound.
    pub local: SocketAddr,
    /// The group to join.
    pub group: GroupId,
    /// Who we are.
    pub identity: Identity,
    /// How we and the key server prove who we are.
    pub auth: MemberAuth,
    /// What is particular to IKEv1.
    pub phase1: Phase1Settings,
    /// Sender IDs wanted; zero joins as a receiver only.
    pub sender_ids: u32,
    /// Key exchange groups offered, best first.
    pub ke_groups: Vec<KeGroup>,
    /// Hash of phase 1 (GDOI) or PRF (G-IKEv2), best first.
    pub hashes: Vec<Hash>,
    /// Put a non-ESP marker in front of what we send (for peers that insist on it).
    pub marker: bool,
    /// First retransmission after this long; each later one waits twice as long, with jitter.
    pub retransmit: Duration,
    /// Retransmissions before an exchange is given up.
    pub tries: u8,
    /// Wait at least this long, and at most twice as long, before registering again after a failure of all key servers, or an
    /// exclusion; after more failures without a success up to eight times as long.
    pub retry: Duration,
    /// Send acknowledgements with up to this much jitter; at most 5 s (RFC 8263 section 6).
    pub ack_jitter: Duration,
    /// Establish the phase 1 or IKE SA only (IKEv2: by IKE_AUTH without a child), and do not register.
    pub connect_only: bool,
    /// What is taken from a key server of GDOI beyond the usual.
    pub gdoi: GdoiSettings,
    /// What the key server may decide about traffic.
    pub traffic: TrafficSettings,
    /// What is particular to IKEv2.
    pub ike2: Ike2Settings,
    /// What is offered to a key server of G-IKEv2 beyond the usual.
    pub gikev2: Gikev2Settings,
}

/// What a key server may decide about a member's traffic.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TrafficSettings {
    /// Where packets go in tunnels that do not preserve their destination. Without it there are no such tunnels.
    pub tunnel_destination: Option<IpAddr>,
    /// The traffic that it may decide about at all; what it says of other traffic is left out,
    /// and with G-IKEv2 a group of nothing else is declined.
    pub accept: Flows,
}

/// What is offered and taken in IKEv2, by a member or a gateway. Empty lists are the usual.
#[derive(Clone, Debug, Default)]
pub struct Ike2Settings {
    /// Encryption and integrity of IKE SAs, best first.
    pub protections: Vec<RekeyProtection>,
    /// PRFs by their hashes, best first; for a member before those of [`MemberSettings::hashes`].
    pub prfs: Vec<Hash>,
    /// Key exchange groups, best first; for a member before those of [`MemberSettings::ke_groups`].
    pub groups: Vec<KeGroup>,
    /// Key exchanges after the first (RFC 9370).
    pub additional: Vec<AdditionalKe>,
    /// Postquantum preshared keys; a member uses the first.
    pub ppks: Vec<Ppk>,
    /// Sign with SHA-1, and take such signatures, where a peer knows nothing of RFC 7427.
    pub danger_sha1_signatures: bool,
    /// The longest life of a gateway's tickets, by which IKE SAs are resumed (RFC 5723); `None` gives none.
    pub ticket_lifetime: Option<Duration>,
    /// A member asks for tickets, and resumes a lost IKE SA by one.
    pub resume: bool,
    /// Where a gateway sends members, if it does.
    pub redirect: Option<Redirect>,
    /// How a member follows when it is sent elsewhere; `None` does not.
    pub follows: Option<Following>,
}

/// A postquantum preshared key (RFC 8784).
#[derive(Clone, Debug)]
pub struct Ppk {
    /// PPK_ID, whose first octet is its type (RFC 8784 section 5.1).
    pub id: Vec<u8>,
    /// The key.
    pub key: Arc<Secret>,
    /// No IKE SA without it.
    pub required: bool,
    /// At a gateway: whose it is; `None` is everybody's.
    pub identities: Option<Vec<Identity>>,
    /// The IKE SA gets new keys at once, before there are those of a group, so that nothing but identities is sent under keys
    /// that the first key exchange alone protects: a member asks for them first, a gateway refuses registrations before.
    pub rekey: bool,
}

impl Ppk {
    /// Is it one of this peer's?
    #[must_use]
    pub fn is_for(&self, identity: &Identity) -> bool {
        self.identities.as_ref().is_none_or(|all| all.contains(identity))
    }
}

/// A key exchange after the first (RFC 9370 section 2.2.1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdditionalKe {
    /// Methods, best first.
    pub methods: Vec<KeGroup>,
    /// No IKE SA without it.
    pub required: bool,
}

/// As many key exchanges may follow the first as there are transform types for them (RFC 9370 section 2.2.1).
pub const MAX_ADDITIONAL_KE: usize = 7;

/// What a member offers to a key server of G-IKEv2 beyond the usual.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Gikev2Settings {
    /// Acknowledge GSA_REKEY to a key server that wants it: an extension of our own.
    pub ack: bool,
    /// What IKE SAs go over.
    pub transport: Transport,
}

/// What a member's IKE SAs go over, with the key servers' TCP port where it may be TCP (RFC 9329).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Transport {
    /// UDP.
    #[default]
    Udp,
    /// TCP.
    Tcp(u16),
    /// UDP, and TCP where a key server does not answer over it.
    UdpThenTcp(u16),
}

/// What a member takes from a key server of GDOI beyond the usual.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GdoiSettings {
    /// Rekey SAs with 3DES or SHA-1.
    pub danger_weak_rekey: bool,
    /// SA KEKs with attributes that are not known; they are ignored.
    pub accept_unknown_kek_attributes: bool,
}

/// How a member and its key server prove who they are.
#[derive(Clone, Debug)]
pub enum MemberAuth {
    /// By a pre-shared key.
    Psk(Arc<Secret>),
    /// By certificates.
    Certificate(Box<CertificateAuth>),
    /// We by a pre-shared key and the key server by certificate, or the other way round. Only IKEv2 can do that (RFC 7296
    /// section 2.15).
    Mixed(Box<MixedAuth>),
}

/// How a member and its key server prove who they are, each in its own way.
#[derive(Clone, Debug)]
pub enum MixedAuth {
    /// We by a pre-shared key.
    PskForCertificate {
        /// The key.
        psk: Arc<Secret>,
        /// Anchors and revocation.
        trust: Trust,
        /// As in [`CertificateAuth`].
        gateway_subject: Option<DistinguishedName>,
    },
    /// We by certificate.
    CertificateForPsk {
        /// Our certificate.
        own: OwnCertificate,
        /// Others of ours, as in [`CertificateAuth`].
        others: Vec<OwnCertificate>,
        /// The key.
        psk: Arc<Secret>,
    },
}

/// One side's way to prove who it is.
#[derive(Clone, Copy, Debug)]
pub enum OneSide<'a, C> {
    /// By a pre-shared key.
    Psk(&'a Arc<Secret>),
    /// By a certificate: ours, or what the key server's is held against.
    Certificate(C),
}

/// What a key server's certificate is held against.
#[derive(Clone, Copy, Debug)]
pub struct GatewayCertificate<'a> {
    /// Anchors and revocation.
    pub trust: &'a Trust,
    /// The subject that it must have.
    pub subject: Option<&'a DistinguishedName>,
}

impl MemberAuth {
    /// How we prove ourselves.
    #[must_use]
    pub fn ours(&self) -> OneSide<'_, &OwnCertificate> {
        match self {
            MemberAuth::Psk(psk) => OneSide::Psk(psk),
            MemberAuth::Certificate(auth) => OneSide::Certificate(&auth.own),
            MemberAuth::Mixed(mixed) => match &**mixed {
                MixedAuth::PskForCertificate { psk, .. } => OneSide::Psk(psk),
                MixedAuth::CertificateForPsk { own, .. } => OneSide::Certificate(own),
            },
        }
    }

    /// Our certificates, best first; none if we prove ourselves otherwise.
    pub fn all_own(&self) -> impl Iterator<Item = &OwnCertificate> {
        let (own, others) = match self {
            MemberAuth::Psk(_) => (None, &[][..]),
            MemberAuth::Certificate(auth) => (Some(&auth.own), auth.others.as_slice()),
            MemberAuth::Mixed(mixed) => match &**mixed {
                MixedAuth::PskForCertificate { .. } => (None, &[][..]),
                MixedAuth::CertificateForPsk { own, others, .. } => (Some(own), others.as_slice()),
            },
        };
        own.into_iter().chain(others)
    }

    /// How the key server proves itself.
    #[must_use]
    pub fn gateway(&self) -> OneSide<'_, GatewayCertificate<'_>> {
        match self {
            MemberAuth::Psk(psk) => OneSide::Psk(psk),
            MemberAuth::Certificate(auth) => OneSide::Certificate(auth.gateway()),
            MemberAuth::Mixed(mixed) => match &**mixed {
                MixedAuth::PskForCertificate { trust, gateway_subject, .. } => {
                    OneSide::Certificate(GatewayCertificate { trust, subject: gateway_subject.as_ref() })
                }
                MixedAuth::CertificateForPsk { psk, .. } => OneSide::Psk(psk),
            },
        }
    }

    /// Holds the key server's certificate against another trust store from now on, where it shows one.
    pub fn set_trust(&mut self, trust: Trust) {
        match self {
            MemberAuth::Certificate(auth) => auth.trust = trust,
            MemberAuth::Mixed(mixed) => {
                if let MixedAuth::PskForCertificate { trust: former, .. } = &mut **mixed {
                    *former = trust;
                }
            }
            MemberAuth::Psk(_) => {}
        }
    }
}

/// A member's certificate, and what it holds the key server's against.
#[derive(Clone, Debug)]
pub struct CertificateAuth {
    /// Our own; with GDOI the only one.
    pub own: OwnCertificate,
    /// Others of ours, for key servers of G-IKEv2 that ask for certificates of another authority or cannot check signatures of
    /// the first one's key.
    pub others: Vec<OwnCertificate>,
    /// Anchors and revocation.
    pub trust: Trust,
    /// The subject of the key server's certificate. Then it may show its identity even if the certificate does not name it.
    pub gateway_subject: Option<DistinguishedName>,
}

impl CertificateAuth {
    /// What the key server's certificate is held against.
    #[must_use]
    pub fn gateway(&self) -> GatewayCertificate<'_> {
        GatewayCertificate { trust: &self.trust, subject: self.gateway_subject.as_ref() }
    }
}

impl GatewayCertificate<'_> {
    /// May a key server with this certificate, which is trusted, call itself so?
    #[must_use]
    pub fn allows(&self, identity: &Identity, certificate: &Certificate) -> bool {
        match self.subject {
            Some(subject) => certificate.subject() == subject,
            None => names(certificate, identity),
        }
    }
}

/// Which exchange a member begins phase 1 of IKEv1 with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Phase1Exchange {
    /// Main mode.
    #[default]
    Main,
    /// Aggressive mode: identities in clear, and with a pre-shared key a hash that anybody may try to guess it by.
    Aggressive,
}

/// What is particular to IKEv1's phase 1 at a member.
#[derive(Clone, Debug)]
pub struct Phase1Settings {
    /// The exchange.
    pub exchange: Phase1Exchange,
    /// Ciphers offered, best first.
    pub ciphers: Vec<BlockCipher>,
    /// Offer also what is weak, where it is named: 3DES, SHA-1, groups 2, 5 and 24.
    pub danger_weak: bool,
    /// Readings that are sent in place of the usual ones.
    pub sends: Readings,
}

impl Default for Phase1Settings {
    /// Main mode, AES-256 and AES-128, nothing weak.
    fn default() -> Self {
        Self {
            exchange: Phase1Exchange::Main,
            ciphers: vec![BlockCipher::Aes256Cbc, BlockCipher::Aes128Cbc],
            danger_weak: false,
            sends: Readings::NONE,
        }
    }
}

impl MemberSettings {
    /// Where the key server in use is.
    #[must_use]
    pub fn gateway(&self) -> SocketAddr {
        self.key_servers.present().address
    }

    /// Our ends of tunnels that do not preserve all addresses.
    #[must_use]
    pub fn tunnel(&self) -> Tunnel {
        Tunnel { local: Some(self.local.ip()), remote: self.traffic.tunnel_destination }
    }

    /// Who it must be.
    #[must_use]
    pub fn gateway_identity(&self) -> Option<&Identity> {
        self.key_servers.present().identity.as_ref()
    }
}
