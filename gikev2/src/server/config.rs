//! What a key server endpoint is configured with, and what it counts.

use std::sync::Arc;
use std::time::Duration;

use keyferry_model::credentials::Credentials;
use keyferry_model::id::Identity;
use keyferry_model::redirect::Redirect;
use keyferry_model::settings::Ppk;
use serde::{Deserialize, Serialize};

use crate::ike_sa::window::Backoff;
use crate::ike_sa::{IkeOptions, Preferences};

/// Settings of a [`Server`](super::Server).
#[derive(Clone, Debug)]
pub struct ServerConfig {
    /// Who may authenticate.
    pub credentials: Arc<Credentials>,
    /// Who we say we are; `None` is the address we were reached at.
    pub identity: Option<Identity>,
    /// Algorithms we accept, best first.
    pub preferences: Preferences,
    /// Postquantum preshared keys (RFC 8784).
    pub ppks: Vec<Ppk>,
    /// The longest life of a ticket by which an IKE SA is resumed (RFC 5723); `None` gives and takes none.
    pub ticket_lifetime: Option<Duration>,
    /// Where members are sent, and when.
    pub redirect: Option<Redirect>,
    /// Above so many half-open SAs initiators must return a cookie first (RFC 7296 section 2.6).
    pub cookie_threshold: usize,
    /// Half-open SAs at one time; and closed ones whose last answer is kept.
    pub half_open: usize,
    /// Half-open SAs at one time of one address (of one /64 network with IPv6); from half of it on, initiators there must
    /// return a cookie first.
    pub half_open_per_address: usize,
    /// Octets of fragments that all half-open SAs hold together; those that have waited longest for their rest go first.
    pub half_open_fragments: usize,
    /// Octets of requests that all half-open SAs keep together; while there are more nothing is taken up that would be kept.
    pub half_open_requests: usize,
    /// Checks of signatures begun within a second for one address (one /64 network with IPv6), at most; who is beyond asks again.
    pub checks_per_address: u32,
    /// A half-open SA is forgotten after this time.
    pub half_open_timeout: Duration,
    /// IKE SAs at one time, closed ones not counted.
    pub sas: usize,
    /// How many TCP connections are taken.
    pub connections: ConnectionLimits,
    /// An IKE SA without traffic is deleted after this time.
    pub idle: Duration,
    /// How IKE SAs are kept. Asking whether a peer lives is only useful below `idle`.
    pub ike: IkeOptions,
    /// Repeats of our own requests.
    pub backoff: Backoff,
    /// The last answer of a closed SA is kept for this time.
    pub linger: Duration,
    /// Answers to messages that are not protected, in one second.
    pub unprotected_answers_per_second: u32,
}

/// TCP connections at one time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionLimits {
    /// In all; when there are more, the oldest over which nobody has proved itself gives way.
    pub total: usize,
    /// Of one address (of one /64 network with IPv6).
    pub per_address: usize,
}

impl Default for ConnectionLimits {
    /// 4096, and 64 of one address.
    fn default() -> Self {
        Self { total: 4096, per_address: 64 }
    }
}

impl ServerConfig {
    /// Sound defaults.
    #[must_use]
    pub fn new(credentials: Arc<Credentials>) -> Self {
        Self {
            credentials,
            identity: None,
            preferences: Preferences::default(),
            ppks: Vec::new(),
            ticket_lifetime: None,
            redirect: None,
            cookie_threshold: 100,
            half_open: 10_000,
            half_open_per_address: 50,
            half_open_fragments: 16 << 20,
            half_open_requests: 64 << 20,
            checks_per_address: 40,
            half_open_timeout: Duration::from_secs(30),
            sas: 100_000,
            connections: ConnectionLimits::default(),
            idle: Duration::from_secs(30),
            ike: IkeOptions::default(),
            backoff: Backoff { first: Duration::from_secs(1), tries: 5 },
            linger: Duration::from_secs(10),
            unprotected_answers_per_second: 20,
        }
    }
}

impl Counters {
    /// Messages that nothing could be made of.
    pub(super) fn rejected(&self) -> u64 {
        self.malformed + self.not_for_us + self.unknown_spi + self.unauthenticated + self.unexpected
    }
}

/// What was received and what became of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    /// Datagrams.
    pub received: u64,
    /// Not an IKEv2 message, or breaking its format.
    pub malformed: u64,
    /// GSA_REKEY messages, which are for members.
    pub not_for_us: u64,
    /// SPIs that name no SA here.
    pub unknown_spi: u64,
    /// A wrong ICV or message ID, or flags that contradict the SPIs.
    pub unauthenticated: u64,
    /// Understood, but not at this time.
    pub unexpected: u64,
    /// Requests repeated, and answered again.
    pub repeated: u64,
    /// IKE_SA_INIT requests.
    pub initiations: u64,
    /// Initiators asked for a cookie.
    pub cookies_demanded: u64,
    /// Initiators asked for another key exchange group.
    pub groups_demanded: u64,
    /// IKE_SA_INIT requests without an acceptable proposal.
    pub no_proposal: u64,
    /// IKE SAs that went on from a ticket.
    pub resumed: u64,
    /// Tickets that were not taken.
    pub tickets_refused: u64,
    /// Members sent to other gateways.
    pub redirected: u64,
    /// IKE_SA_INIT requests refused because too many SAs are half-open, or keep too much, or there are too many SAs.
    pub half_open_refused: u64,
    /// Half-open SAs that came to nothing.
    pub half_open_expired: u64,
    /// Public values that were not acceptable.
    pub key_exchange_failed: u64,
    /// Checks of signatures put off, for there were too many of one address, or too much waited for others.
    pub checks_withheld: u64,
    /// Peers that did not authenticate.
    pub authentication_failed: u64,
    /// IKE SAs established.
    pub established: u64,
    /// Of these, with a NAT on the way.
    pub behind_nat: u64,
    /// IKE SAs that were made in the place of others, with new keys.
    pub rekeyed: u64,
    /// IKE SAs deleted, by either side.
    pub deleted: u64,
    /// IKE SAs whose peer did not answer.
    pub dead_peers: u64,
    /// Registrations.
    pub registered: u64,
    /// Registrations refused.
    pub refused: u64,
    /// Members that left.
    pub left: u64,
    /// Members that were rekeyed in band and lost their IKE SA.
    pub lost: u64,
    /// Acknowledgements of GSA_REKEY.
    pub acks: u64,
    /// Those that say nothing new.
    pub acks_repeated: u64,
    /// Those that are of nobody known.
    pub acks_unknown: u64,
    /// Answers to unprotected messages withheld, for there were too many.
    pub answers_withheld: u64,
    /// TCP connections opened by peers.
    pub connections: u64,
    /// Of these, closed because there were too many.
    pub connections_refused: u64,
    /// Of these, closed because nobody proved itself over them, nothing could be made of them, or they were not used any more.
    pub connections_closed: u64,
}
