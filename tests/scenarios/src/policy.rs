//! Policies and settings for the bench: short lifetimes, small groups.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use keyferry_crypto::{
    Aead, BlockCipher, Hash, Integrity, KeGroup, Secret, SignatureAlgorithm, SignatureScheme, SigningKey,
};
use keyferry_model::credentials::{Credentials, Peer, Proof};
use keyferry_model::id::{GroupId, Identity};
use keyferry_model::key_server::KeyServers;
use keyferry_model::oid::OidName;
use keyferry_model::policy::{
    AckType, AddressPreservation, Authorization, EspMode, EspTransform, GdoiRekey, Gikev2Options, Gikev2Rekey,
    GroupPolicy, KekManagement, RekeyAuthentication, RekeyProtection, RekeyTransport, Retransmit, Selector,
    SequenceNumbers, TrafficPolicy,
};
use keyferry_model::reading::Readings;
use keyferry_model::settings::{
    AdditionalKe, GdoiSettings, Gikev2Settings, Ike2Settings, MemberAuth, MemberSettings, Phase1Settings,
    TrafficSettings,
};
use keyferry_model::stream::{StreamAuthentication, StreamEncryption, StreamPolicy, StreamProtection};

/// The group's number.
pub const GROUP: u32 = 1234;
/// Its name.
pub const NAME: &str = "trading-floor";

/// Addresses of one run: all IPv4 or all IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// 10.84.0.0/24 and 239.192.0.0/16.
    V4,
    /// fd84::/64 and ff15::/16.
    V6,
}

impl Family {
    /// Address of host `n`; the gateway is host 1.
    #[must_use]
    pub fn host(self, n: u8) -> IpAddr {
        match self {
            Family::V4 => IpAddr::from([10, 84, 0, n]),
            Family::V6 => IpAddr::from([0xfd84, 0, 0, 0, 0, 0, 0, u16::from(n)]),
        }
    }

    /// The gateway's address and port.
    #[must_use]
    pub fn gateway(self) -> SocketAddr {
        SocketAddr::new(self.host(1), 848)
    }

    /// Where the group's traffic goes.
    #[must_use]
    pub fn traffic(self) -> IpAddr {
        match self {
            Family::V4 => IpAddr::from([239, 192, 0, 1]),
            Family::V6 => IpAddr::from([0xff15, 0, 0, 0, 0, 0, 0xc000, 1]),
        }
    }

    /// Where rekeys of GDOI (0) and G-IKEv2 (1) go.
    #[must_use]
    pub fn rekey(self, which: u8) -> SocketAddr {
        let ip = match self {
            Family::V4 => IpAddr::from([239, 192, 84, which]),
            Family::V6 => IpAddr::from([0xff15, 0, 0, 0, 0, 0, 0x84, u16::from(which)]),
        };
        SocketAddr::new(ip, 848)
    }

    /// A large network from where one peer may come: whoever forges these addresses gets as far as an exchange.
    #[must_use]
    pub fn elsewhere(self) -> Selector {
        let (address, prefix) = match self {
            Family::V4 => (IpAddr::from([10, 128, 0, 0]), 9),
            Family::V6 => (IpAddr::from([0xfd85, 0, 0, 0, 0, 0, 0, 0]), 16),
        };
        Selector { address, prefix, protocol: 0, port: 0 }
    }

    fn any(self) -> Selector {
        let address = match self {
            Family::V4 => IpAddr::from([0; 4]),
            Family::V6 => IpAddr::from([0u16; 8]),
        };
        Selector { address, prefix: 0, protocol: 0, port: 0 }
    }
}

/// What varies between runs.
#[derive(Clone, Copy, Debug)]
pub struct Variant {
    /// IP version.
    pub family: Family,
    /// Encapsulation.
    pub mode: EspMode,
    /// Protection of traffic.
    pub transform: EspTransform,
    /// Are rekeys sent by multicast, or to each member?
    pub multicast: bool,
    /// Does G-IKEv2 sign its rekeys?
    pub signed: bool,
    /// Protection of the G-IKEv2 Rekey SA.
    pub protection: RekeyProtection,
    /// Key exchange group that members offer.
    pub ke: KeGroup,
    /// Hash or PRF that members offer.
    pub hash: Hash,
    /// Acknowledgements of GDOI.
    pub ack: AckType,
    /// Does GDOI ask for none?
    pub no_acks: bool,
    /// How GDOI excludes members.
    pub management: KekManagement,
    /// Width of sender IDs.
    pub sender_id_bits: u8,
    /// Is it a group of IEC 61850 streams, for GDOI alone and asked for by OID?
    pub substation: bool,
    /// IKE SAs of G-IKEv2 are made with ML-KEM-768 after the first key exchange, and live so long.
    pub hybrid: Option<Duration>,
}

impl Default for Variant {
    fn default() -> Self {
        Self {
            family: Family::V4,
            mode: EspMode::Tunnel,
            transform: EspTransform::Aead(Aead::Aes128Gcm16),
            multicast: true,
            signed: true,
            protection: RekeyProtection::Aead(Aead::Aes256Gcm16),
            ke: KeGroup::Ecp256,
            hash: Hash::Sha256,
            ack: AckType::Kek(Hash::Sha256),
            no_acks: false,
            management: KekManagement::Lkh,
            sender_id_bits: 8,
            substation: false,
            hybrid: None,
        }
    }
}

impl Variant {
    /// How either end makes IKE SAs of G-IKEv2.
    #[must_use]
    pub fn ike2(&self) -> Ike2Settings {
        let kem = self.hybrid.map(|_| AdditionalKe { methods: vec![KeGroup::MlKem768], required: true });
        Ike2Settings { additional: kem.into_iter().collect(), ..Ike2Settings::default() }
    }

    /// Everything the other way: IPv6, transport, CBC with HMAC, unicast, implicit.
    #[must_use]
    pub fn other() -> Self {
        Self {
            family: Family::V6,
            mode: EspMode::Transport,
            transform: EspTransform::CbcHmac(BlockCipher::Aes256Cbc, Integrity::HmacSha256_128),
            multicast: false,
            signed: false,
            protection: RekeyProtection::CbcHmac(BlockCipher::Aes128Cbc, Integrity::HmacSha256_128),
            ke: KeGroup::Modp2048,
            hash: Hash::Sha384,
            ack: AckType::Lkh(Hash::Sha512),
            no_acks: false,
            management: KekManagement::Lkh,
            sender_id_bits: 8,
            substation: false,
            hybrid: None,
        }
    }
}

fn signer() -> Arc<SigningKey> {
    static KEY: OnceLock<Arc<SigningKey>> = OnceLock::new();
    Arc::clone(KEY.get_or_init(|| Arc::new(SigningKey::generate_rsa(2048).expect("OpenSSL makes RSA keys"))))
}

/// The OID of GOOSE over UDP multicast, with an address behind it.
fn stream_name(last: u8) -> OidName {
    format!("1.2.840.10070.61850.8.1.2#0404efc000{last:02x}").parse().expect("an OID and DER")
}

/// The group of a substation: one stream that wants delivery assurance, and one that does not.
fn substation(v: Variant) -> GroupPolicy {
    let stream = |last, authentication, encryption, delivery_assurance| {
        let protection = StreamProtection::new(authentication, encryption).expect("they go together");
        Arc::new(StreamPolicy { name: stream_name(last), protection, many_senders: false, delivery_assurance })
    };
    let authentication = StreamAuthentication::HmacSha256_128;
    GroupPolicy {
        ids: vec![GroupId::Oid(stream_name(1))],
        traffic: Vec::new(),
        streams: vec![
            stream(1, authentication, StreamEncryption::AesCbc128, true),
            stream(2, StreamAuthentication::None, StreamEncryption::AesGcm256, false),
        ],
        activation_delay: Duration::from_secs(60),
        deactivation_delay: Duration::from_secs(90),
        gikev2: None,
        ..group(Variant { substation: false, ..v })
    }
}

/// The group's policy.
#[must_use]
pub fn group(v: Variant) -> GroupPolicy {
    if v.substation {
        return substation(v);
    }
    let to =
        |which| if v.multicast { RekeyTransport::Multicast(v.family.rekey(which)) } else { RekeyTransport::Unicast };
    let host_bits = if v.family == Family::V4 { 32 } else { 128 };
    GroupPolicy {
        name: NAME.into(),
        ids: vec![GroupId::Number(GROUP)],
        streams: Vec::new(),
        traffic: vec![Arc::new(TrafficPolicy {
            source: v.family.any(),
            destination: Selector { address: v.family.traffic(), prefix: host_bits, protocol: 0, port: 0 },
            mode: v.mode,
            transform: v.transform,
            sequence: SequenceNumbers::Unspecified,
            replay_window: 0,
            preservation: AddressPreservation::Both,
            only_sender: None,
            lifetime_octets: None,
        })],
        tek_lifetime: Duration::from_secs(3600),
        kek_lifetime: Duration::from_secs(86_400),
        rekey_margin: Duration::from_secs(300),
        rekey_when_asked: None,
        activation_delay: Duration::from_secs(10),
        deactivation_delay: Duration::from_secs(20),
        sender_id_bits: v.sender_id_bits,
        sender_ids_per_member: 4,
        capacity: 64,
        retransmit: Retransmit { copies: 3, interval: Duration::from_secs(2) },
        ack_patience: Duration::from_secs(15),
        ack_resend: false,
        backward_access: None,
        evict_after_misses: None,
        authorization: Authorization::Authenticated,
        gdoi: Some(GdoiRekey {
            cipher: BlockCipher::Aes256Cbc,
            transport: to(0),
            signer: signer(),
            scheme: SignatureScheme::RsaPkcs1Sha256,
            ack: Some(v.ack).filter(|_| !v.no_acks),
            sends: Readings::NONE,
            management: v.management,
        }),
        gikev2: Some(Gikev2Rekey {
            protection: v.protection,
            wrap_key_len: 32,
            transport: to(1),
            authentication: if v.signed {
                RekeyAuthentication::Signature(signer(), SignatureAlgorithm::RsaPkcs1(Hash::Sha256))
            } else {
                RekeyAuthentication::Implicit
            },
            options: Gikev2Options::default(),
        }),
    }
}

/// Pre-shared key of host `n`.
#[must_use]
pub fn psk(n: u8) -> Arc<Secret> {
    Arc::new(Secret::new(format!("pre-shared key of host {n}").into_bytes()))
}

/// Credentials of hosts 2 to 250, and of one that may come from anywhere in [`Family::elsewhere`].
#[must_use]
pub fn credentials(family: Family) -> Arc<Credentials> {
    let peer = |n| Peer {
        identity: Some(Identity::from_ip(family.host(n))),
        address: None,
        proof: Proof::Psk(psk(n)),
        sends: Readings::NONE,
    };
    let wanderer = Peer {
        identity: Some(Identity::Fqdn("wanderer.example".into())),
        address: Some(family.elsewhere()),
        proof: Proof::Psk(psk(251)),
        sends: Readings::NONE,
    };
    Arc::new(Credentials::new((2..=250).map(peer).chain([wanderer]).collect()))
}

/// Settings of member `n`.
#[must_use]
pub fn member(v: Variant, n: u8) -> MemberSettings {
    MemberSettings {
        key_servers: KeyServers::one(v.family.gateway(), None),
        local: SocketAddr::new(v.family.host(n), 848),
        group: if v.substation { GroupId::Oid(stream_name(1)) } else { GroupId::Number(GROUP) },
        identity: Identity::from_ip(v.family.host(n)),
        auth: MemberAuth::Psk(psk(n)),
        phase1: Phase1Settings::default(),
        sender_ids: 1,
        ke_groups: vec![v.ke],
        hashes: vec![v.hash],
        marker: false,
        retransmit: Duration::from_secs(1),
        tries: 6,
        retry: Duration::from_secs(3),
        ack_jitter: Duration::from_secs(2),
        connect_only: false,
        gdoi: GdoiSettings::default(),
        traffic: TrafficSettings::default(),
        ike2: v.ike2(),
        gikev2: Gikev2Settings { ack: true, ..Default::default() },
    }
}
