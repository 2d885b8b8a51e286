//! Policies of a group: what its traffic looks like, how it is protected, how members are rekeyed.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use keyferry_crypto::{Aead, AesCtr, BlockCipher, Hash, Integrity, SignatureAlgorithm, SignatureScheme, SigningKey};
use serde::{Deserialize, Serialize};

use crate::id::{GroupId, Identity, Protocol};
use crate::reading::Readings;
use crate::stream::StreamPolicy;

/// A rekey SA is replaced this long before it expires, unless it lives for less than twice as long.
const LEAST_KEK_MARGIN: Duration = Duration::from_secs(200);

/// How ESP protects packets (RFC 4106, RFC 4309, RFC 7634; RFC 3602 with RFC 4868).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum EspTransform {
    /// Combined mode; keying material is the key followed by its salt.
    Aead(Aead),
    /// Cipher then MAC; keying material is the cipher's key followed by the MAC's.
    CbcHmac(BlockCipher, Integrity),
    /// Authentication alone by the MAC of a combined mode (RFC 4543): packets stay readable. Keying material is the key
    /// followed by a salt of four octets.
    Gmac(Aead),
    /// AES in counter mode, then MAC; keying material is the cipher's key, its nonce, and the MAC's key (RFC 3686 section 5.1).
    CtrHmac(AesCtr, Integrity),
    /// Authentication alone by an HMAC (RFC 2410): packets stay readable. Keying material is the MAC's key.
    NullHmac(Integrity),
}

impl EspTransform {
    /// Octets of keying material, in the order of RFC 7296 section 2.17: encryption (with salt), then integrity.
    #[must_use]
    pub fn keymat_len(self) -> usize {
        match self {
            EspTransform::Aead(a) | EspTransform::Gmac(a) => a.key_len() + a.salt_len(),
            EspTransform::CbcHmac(c, i) => c.key_len() + i.key_len(),
            EspTransform::CtrHmac(c, i) => c.key_len() + AesCtr::NONCE + i.key_len(),
            EspTransform::NullHmac(i) => i.key_len(),
        }
    }

    /// Octets of keying material that belong to the cipher, salt and nonce included; the rest is the MAC's.
    #[must_use]
    pub fn encryption_len(self) -> usize {
        match self {
            EspTransform::Aead(_) | EspTransform::Gmac(_) => self.keymat_len(),
            EspTransform::CbcHmac(_, i) | EspTransform::CtrHmac(_, i) | EspTransform::NullHmac(i) => {
                self.keymat_len() - i.key_len()
            }
        }
    }

    /// Is it so weak that only a configuration which says so may choose it?
    #[must_use]
    pub fn is_weak(self) -> bool {
        match self {
            EspTransform::Aead(a) | EspTransform::Gmac(a) => a.is_weak(),
            EspTransform::CbcHmac(c, i) => c.is_weak() || i.is_weak(),
            EspTransform::CtrHmac(_, i) | EspTransform::NullHmac(i) => i.is_weak(),
        }
    }

    /// Does it need a nonce that never repeats under one key (so sender IDs, RFC 6054)?
    #[must_use]
    pub fn is_counter_mode(self) -> bool {
        matches!(self, EspTransform::Aead(_) | EspTransform::Gmac(_) | EspTransform::CtrHmac(..))
    }
}

/// ESP encapsulation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum EspMode {
    /// The IP header stays, its payload is protected.
    Transport,
    /// The whole packet is protected; which of its addresses the outer header repeats, [`AddressPreservation`] says.
    Tunnel,
}

/// Which addresses of a packet the outer header of tunnel mode repeats (RFC 5374 section 3.1, RFC 6407 section
/// 5.5.1.1.1). In place of the others stand those of the two ends of the tunnel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum AddressPreservation {
    /// Neither.
    None,
    /// The source alone.
    Source,
    /// The destination alone.
    Destination,
    /// Source and destination.
    #[default]
    Both,
}

impl AddressPreservation {
    /// Does the outer header repeat the source?
    #[must_use]
    pub fn keeps_source(self) -> bool {
        matches!(self, AddressPreservation::Source | AddressPreservation::Both)
    }

    /// Does the outer header repeat the destination?
    #[must_use]
    pub fn keeps_destination(self) -> bool {
        matches!(self, AddressPreservation::Destination | AddressPreservation::Both)
    }
}

/// In which directions a member installs a data SA (RFC 5374 section 4.1.1, RFC 6407 section 5.5.1.1.2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum SaDirection {
    /// Outbound alone: it sends.
    SenderOnly,
    /// Inbound alone: it receives.
    ReceiverOnly,
    /// Both ways.
    #[default]
    Symmetric,
}

impl SaDirection {
    /// May packets be protected by the SA?
    #[must_use]
    pub fn sends(self) -> bool {
        self != SaDirection::ReceiverOnly
    }

    /// May packets that are protected by it be taken?
    #[must_use]
    pub fn receives(self) -> bool {
        self != SaDirection::SenderOnly
    }
}

/// Meaning of ESP's sequence numbers in a group SA (RFC 9838 section 4.4.2.1.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum SequenceNumbers {
    /// One sender (or windows told apart by sender): replay protection is possible.
    Sequential,
    /// Several senders share the SA: numbers are not unique and protect nothing.
    Unspecified,
}

/// Addresses, protocol and port of one side of a traffic policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Selector {
    /// Network address; host bits are zero.
    pub address: IpAddr,
    /// Length of the network prefix in bits.
    pub prefix: u8,
    /// IP protocol number; zero is any.
    pub protocol: u8,
    /// Port; zero is any.
    pub port: u16,
}

impl Selector {
    /// Does an address of a packet fall into the network?
    #[must_use]
    pub fn contains(&self, ip: IpAddr) -> bool {
        match (self.address, ip) {
            (IpAddr::V4(net), IpAddr::V4(ip)) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(self.prefix.min(32))).unwrap_or(0);
                u32::from(net) & mask == u32::from(ip) & mask
            }
            (IpAddr::V6(net), IpAddr::V6(ip)) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(self.prefix.min(128))).unwrap_or(0);
                u128::from(net) & mask == u128::from(ip) & mask
            }
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => false,
        }
    }

    /// First and last address of the network.
    #[must_use]
    pub fn range(&self) -> (IpAddr, IpAddr) {
        match self.address {
            IpAddr::V4(a) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(self.prefix.min(32))).unwrap_or(0);
                let first = u32::from(a) & mask;
                (IpAddr::V4(first.into()), IpAddr::V4((first | !mask).into()))
            }
            IpAddr::V6(a) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(self.prefix.min(128))).unwrap_or(0);
                let first = u128::from(a) & mask;
                (IpAddr::V6(first.into()), IpAddr::V6((first | !mask).into()))
            }
        }
    }
}

/// One line of a group's traffic policy: one data SA per epoch comes of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrafficPolicy {
    /// Senders; an all-zero address with prefix 0 is any.
    pub source: Selector,
    /// Receivers, a multicast address as a rule.
    pub destination: Selector,
    /// Encapsulation; the same for all lines of a group.
    pub mode: EspMode,
    /// Protection.
    pub transform: EspTransform,
    /// What the sequence numbers mean.
    pub sequence: SequenceNumbers,
    /// Replay window in packets, per sender; zero is none.
    pub replay_window: u32,
    /// Which addresses tunnel mode preserves.
    #[serde(default)]
    pub preservation: AddressPreservation,
    /// The one member that sends; the others only receive. `None` lets all members do both.
    #[serde(default)]
    pub only_sender: Option<Identity>,
    /// Octets that may be protected by one SA, padding included, sent and received together (RFC 4301 section 4.4.2.1); each
    /// member counts those that it sees. `None` is no limit.
    #[serde(default)]
    pub lifetime_octets: Option<u64>,
}

impl TrafficPolicy {
    /// In which directions this member installs the SAs of the line.
    #[must_use]
    pub fn direction_of(&self, member: &Identity) -> SaDirection {
        match &self.only_sender {
            None => SaDirection::Symmetric,
            Some(sender) if sender == member => SaDirection::SenderOnly,
            Some(_) => SaDirection::ReceiverOnly,
        }
    }

    /// Does this member need sender IDs for the line?
    #[must_use]
    pub fn wants_sender_ids_of(&self, member: &Identity) -> bool {
        self.transform.is_counter_mode() && self.direction_of(member).sends()
    }
}

/// How GDOI rekeys: KEK, signature, acknowledgement (RFC 6407 section 5.3, RFC 8263).
#[derive(Clone, Debug)]
pub struct GdoiRekey {
    /// KEK cipher.
    pub cipher: BlockCipher,
    /// Where pushes go.
    pub transport: RekeyTransport,
    /// Key that signs pushes.
    pub signer: Arc<SigningKey>,
    /// Signature of pushes.
    pub scheme: SignatureScheme,
    /// Acknowledgement asked for, if any.
    pub ack: Option<AckType>,
    /// Readings of RFC 6407 that are sent in place of the usual ones, for devices that need them.
    pub sends: Readings,
    /// How members are excluded.
    pub management: KekManagement,
}

/// KEK_MANAGEMENT_ALGORITHM (RFC 6407 section 5.3.1): how a new KEK is kept from members that are excluded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum KekManagement {
    /// Along a key tree.
    #[default]
    Lkh,
    /// Not at all, for members that know no LKH: everything is deleted, and those who stay register anew.
    None,
}

/// How G-IKEv2 rekeys: Rekey SA and authentication (RFC 9838 sections 2.4.1 and 4.4.2.1).
#[derive(Clone, Debug)]
pub struct Gikev2Rekey {
    /// Protection of the Encrypted payload.
    pub protection: RekeyProtection,
    /// Octets of the key wrap key: 16, 24 or 32 (KW_5649_128, _192, _256).
    pub wrap_key_len: usize,
    /// Where GSA_REKEY goes.
    pub transport: RekeyTransport,
    /// How GSA_REKEY is authenticated.
    pub authentication: RekeyAuthentication,
    /// What is done beyond GSA_REKEY.
    pub options: Gikev2Options,
}

/// What a G-IKEv2 key server does beyond sending GSA_REKEY. None of it is part of a Rekey SA.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Gikev2Options {
    /// Who is rekeyed over the IKE SA it registered by (RFC 9838 section 2.4.2).
    pub in_band: InBand,
    /// Keep the IKE SA of every member after its registration. Those of members that are rekeyed in band are kept anyway.
    pub keep_ike_sa: bool,
    /// Ask members that can for acknowledgements of GSA_REKEY.
    pub ack: bool,
    /// Tell the SPIs of the SAs that come next (GSA_NEXT_SPI), so that members notice when they have missed a rekey.
    pub next_spis: bool,
    /// GSA_REKEY goes in fragments where an IP packet would be longer, if all who are to read it take fragments (RFC 9838
    /// section 2.4.1.2); `None` never cuts it up.
    pub fragment_size: Option<usize>,
}

/// Which members are rekeyed by GSA_INBAND_REKEY. They have no Rekey SA; the others follow GSA_REKEY.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum InBand {
    /// None.
    #[default]
    Nobody,
    /// Those that send.
    Senders,
    /// All: the group has no Rekey SA that anybody knew.
    Everybody,
}

impl InBand {
    /// Is a member rekeyed in band, by whether it sends?
    #[must_use]
    pub fn covers(self, sender: bool) -> bool {
        match self {
            InBand::Nobody => false,
            InBand::Senders => sender,
            InBand::Everybody => true,
        }
    }
}

/// Encryption (and integrity) of a G-IKEv2 Rekey SA.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RekeyProtection {
    /// A combined mode (RFC 5282, RFC 7634).
    Aead(Aead),
    /// CBC and HMAC.
    CbcHmac(BlockCipher, Integrity),
}

impl RekeyProtection {
    /// Octets of GSK_e (with salt) and of GSK_a (RFC 9838 section 3.4).
    #[must_use]
    pub fn key_lens(self) -> (usize, usize) {
        match self {
            RekeyProtection::Aead(a) => (a.key_len() + a.salt_len(), 0),
            RekeyProtection::CbcHmac(c, i) => (c.key_len(), i.key_len()),
        }
    }
}

/// GCAUTH transform (RFC 9838 section 4.4.2.1.1).
#[derive(Clone, Debug)]
pub enum RekeyAuthentication {
    /// Whoever has the KEK is believed.
    Implicit,
    /// The key server signs.
    Signature(Arc<SigningKey>, SignatureAlgorithm),
}

/// Where rekey messages go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RekeyTransport {
    /// One multicast address and port for all.
    Multicast(SocketAddr),
    /// A copy to each member, at the address and port that registered.
    Unicast,
}

/// Types of RFC 8263 section 2: which key the acknowledgement key is derived from, and the hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum AckType {
    /// REKEY_ACK_KEK_*: from the KEK that protected the push.
    Kek(Hash),
    /// REKEY_ACK_LKH_*: from the member's own leaf key.
    Lkh(Hash),
}

/// Who may join.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Authorization {
    /// Everybody who authenticates.
    Authenticated,
    /// These identities.
    Listed(Vec<Identity>),
}

/// Backward access control (RFC 6407 section 7.4.2): who joins learns no key that was in use before.
///
/// A newcomer gets no traffic keys when it registers, but those of a rekey that follows soon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackwardAccess {
    /// From what newcomers are kept.
    pub scope: BackwardScope,
    /// So long newcomers gather from the first one on, before one rekey lets them all in.
    pub gathering: Duration,
}

/// From what newcomers are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BackwardScope {
    /// From the traffic keys in use. The rekey SA they get is that of the others: who has recorded earlier rekeys can read them.
    Data,
    /// From earlier rekeys as well: they get a rekey SA under which nothing was sent.
    Full,
}

/// Everything an operator decides about a group.
#[derive(Clone, Debug)]
pub struct GroupPolicy {
    /// Name for people, unique on a gateway.
    pub name: String,
    /// Identities under which members ask for it; at least one.
    pub ids: Vec<GroupId>,
    /// Traffic policy lines, all of one mode; at least one, or a stream.
    pub traffic: Vec<Arc<TrafficPolicy>>,
    /// IEC 61850 streams (RFC 8052), which G-IKEv2 cannot tell: a group that has any serves GDOI alone.
    pub streams: Vec<Arc<StreamPolicy>>,
    /// Lifetime of an epoch's keys.
    pub tek_lifetime: Duration,
    /// Lifetime of a rekey SA.
    pub kek_lifetime: Duration,
    /// How long before keys expire their replacement is announced.
    pub rekey_margin: Duration,
    /// A member that registers again where it is a member already asks for newer keys, as one does whose sequence numbers or
    /// octets run out (RFC 9838 section 2.4.1): the group is rekeyed then, unless its newest keys are younger than this. `None`
    /// gives the keys that there are.
    pub rekey_when_asked: Option<Duration>,
    /// Senders switch this long after an announcement (ATD, RFC 5374 section 4.2.1).
    pub activation_delay: Duration,
    /// Receivers keep replaced SAs this long (DTD); longer than the activation delay.
    pub deactivation_delay: Duration,
    /// Bits of a sender ID in the IV (RFC 6054 section 3): 8, 12, 16 or up to 32.
    pub sender_id_bits: u8,
    /// At most this many sender IDs for one registration.
    pub sender_ids_per_member: u32,
    /// The most members of each protocol, [`MAX_MEMBERS`](crate::lkh::MAX_MEMBERS) at most.
    pub capacity: u32,
    /// Copies of a rekey message after the first, and the time between them.
    pub retransmit: Retransmit,
    /// When a member that has not acknowledged counts as having missed a rekey.
    pub ack_patience: Duration,
    /// Send a rekey once more, to them alone, to the members that have missed it.
    pub ack_resend: bool,
    /// Evict a member that has missed so many rekeys in a row, if it has acknowledged any since it registered.
    pub evict_after_misses: Option<u32>,
    /// Who may join.
    pub authorization: Authorization,
    /// What newcomers must not read; `None` gives them the keys there are.
    pub backward_access: Option<BackwardAccess>,
    /// GDOI side; `None` does not serve GDOI.
    pub gdoi: Option<GdoiRekey>,
    /// G-IKEv2 side; `None` does not serve G-IKEv2.
    pub gikev2: Option<Gikev2Rekey>,
}

impl GroupPolicy {
    /// Does any traffic line or stream need sender IDs?
    #[must_use]
    pub fn needs_sender_ids(&self) -> bool {
        self.traffic.iter().any(|t| t.transform.is_counter_mode()) || self.streams.iter().any(|s| s.needs_sender_ids())
    }

    /// Does this member, if it wants to send, need sender IDs?
    #[must_use]
    pub fn needs_sender_ids_of(&self, member: &Identity) -> bool {
        self.traffic.iter().any(|t| t.wants_sender_ids_of(member)) || self.streams.iter().any(|s| s.needs_sender_ids())
    }

    /// Must newcomers not read rekeys of before them?
    pub(crate) fn hides_rekeys(&self) -> bool {
        self.backward_access.is_some_and(|b| b.scope == BackwardScope::Full)
    }

    /// Do members of this protocol have keys of a tree?
    #[must_use]
    pub fn has_tree(&self, protocol: Protocol) -> bool {
        match protocol {
            Protocol::Gdoi => self.gdoi.as_ref().is_some_and(|g| g.management == KekManagement::Lkh),
            Protocol::Gikev2 => self.gikev2.is_some(),
        }
    }

    /// Are SPIs of SAs to come told?
    pub(crate) fn tells_next_spis(&self) -> bool {
        self.gikev2.as_ref().is_some_and(|g| g.options.next_spis)
    }

    /// Is anybody asked to acknowledge rekeys?
    #[must_use]
    pub fn asks_acks(&self) -> bool {
        self.gdoi.as_ref().is_some_and(|g| g.ack.is_some()) || self.gikev2.as_ref().is_some_and(|g| g.options.ack)
    }

    /// The last time at which a message of a rekey may be sent, after its first copy.
    #[must_use]
    pub fn last_copy(&self) -> Duration {
        let copies = self.retransmit.interval * u32::from(self.retransmit.copies);
        if self.ack_resend && self.asks_acks() { copies.max(self.ack_patience) } else { copies }
    }

    /// How long before a rekey SA expires its replacement is announced: deployed members want 200 s at least.
    #[must_use]
    pub fn kek_margin(&self) -> Duration {
        self.rekey_margin.max(LEAST_KEK_MARGIN.min(self.kek_lifetime / 2))
    }

    /// The encapsulation, the same for all lines.
    #[must_use]
    pub fn mode(&self) -> EspMode {
        self.traffic.first().map_or(EspMode::Tunnel, |t| t.mode)
    }
}

/// Repeats of a rekey message, bitwise identical.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retransmit {
    /// Copies after the first.
    pub copies: u8,
    /// Time between two copies.
    pub interval: Duration,
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn selectors_know_their_range() {
        let s = Selector { address: "10.1.0.0".parse().unwrap(), prefix: 16, protocol: 0, port: 0 };
        assert!(s.contains("10.1.255.1".parse().unwrap()));
        assert!(!s.contains("10.2.0.1".parse().unwrap()));
        assert_eq!(s.range().1, "10.1.255.255".parse::<IpAddr>().unwrap());
        let any = Selector { address: "::".parse().unwrap(), prefix: 0, protocol: 0, port: 0 };
        assert!(any.contains("ff15::1".parse().unwrap()));
        assert!(!any.contains("10.0.0.1".parse().unwrap()));
    }

    /// Lines as they were stored before they had a preservation and a sender.
    #[test]
    fn lines_of_older_stores_are_read() {
        let side = r#"{"address":"239.192.0.1","prefix":32,"protocol":0,"port":0}"#;
        let text = format!(
            r#"{{"source":{side},"destination":{side},"mode":"Tunnel","transform":{{"Aead":"Aes128Gcm16"}},
                "sequence":"Unspecified","replay_window":0}}"#
        );
        let line: TrafficPolicy = serde_json::from_str(&text).unwrap();
        assert_eq!((line.preservation, &line.only_sender), (AddressPreservation::Both, &None));
        assert_eq!(line.direction_of(&Identity::from_ip([10, 0, 0, 1].into())), SaDirection::Symmetric);
        let again: TrafficPolicy = serde_json::from_str(&serde_json::to_string(&line).unwrap()).unwrap();
        assert_eq!(again, line);
    }

    #[test]
    fn one_sender_sends_and_the_others_receive() {
        let ip = |n| Identity::from_ip([10, 0, 0, n].into());
        let any = Selector { address: "0.0.0.0".parse().unwrap(), prefix: 0, protocol: 0, port: 0 };
        let line = TrafficPolicy {
            source: any,
            destination: any,
            mode: EspMode::Tunnel,
            transform: EspTransform::Aead(Aead::Aes128Gcm16),
            sequence: SequenceNumbers::Unspecified,
            replay_window: 0,
            preservation: AddressPreservation::Both,
            only_sender: Some(ip(1)),
            lifetime_octets: None,
        };
        assert_eq!(
            (line.direction_of(&ip(1)), line.direction_of(&ip(2))),
            (SaDirection::SenderOnly, SaDirection::ReceiverOnly)
        );
        assert!(line.wants_sender_ids_of(&ip(1)) && !line.wants_sender_ids_of(&ip(2)));
    }
}
