//! What a member is configured with, whichever protocol it speaks.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use keyferry_crypto::{Hash, KeGroup, Secret};

use crate::id::{GroupId, Identity};

/// Settings of a group member.
#[derive(Clone, Debug)]
pub struct MemberSettings {
    /// The key server.
    pub gateway: SocketAddr,
    /// Our address and port, as the socket is bound.
    pub local: SocketAddr,
    /// The group to join.
    pub group: GroupId,
    /// Who we are.
    pub identity: Identity,
    /// Who the key server must be; `None` takes whoever has the pre-shared key.
    pub gateway_identity: Option<Identity>,
    /// Pre-shared key.
    pub psk: Arc<Secret>,
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
    /// Wait at least this long, and at most twice as long, before registering again after a failure or an exclusion.
    pub retry: Duration,
    /// Send acknowledgements with up to this much jitter; at most 5 s (RFC 8263 section 6).
    pub ack_jitter: Duration,
    /// Establish the phase 1 or IKE SA only (IKEv2: by IKE_AUTH without a child), and do not register.
    pub connect_only: bool,
    /// What is taken from a key server of GDOI beyond the usual.
    pub gdoi: GdoiSettings,
}

/// What a member takes from a key server of GDOI beyond the usual.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GdoiSettings {
    /// Rekey SAs with 3DES or SHA-1.
    pub danger_weak_rekey: bool,
    /// SA KEKs with attributes that are not known; they are ignored.
    pub accept_unknown_kek_attributes: bool,
}
