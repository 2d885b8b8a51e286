//! The key server's endpoint.
//!
//! ```text
//!  main mode  -> half-open table -> (job) -> SA table
//!  PULL       -> SA table -> Model::offer, Model::admit
//!  PUSH-ACK   -> Model::rekey_sa, Model::members_at, Model::acknowledge
//!  notices    -> SA table (Delete, INITIAL-CONTACT, DPD), Model::leave
//! ```
//!
//! Pushes are not sent from here: the gateway renders them with [`push::render`](crate::push::render).

mod acks;
mod half_open;
mod notices;
mod sessions;
mod table;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use keyferry_crypto::{BlockCipher, Hash, JobDone, KeGroup};
use keyferry_model::credentials::Credentials;
use keyferry_model::drive::{Ctx, Datagram, JobId};
use keyferry_model::id::Identity;
use keyferry_model::time::Deadline;
use keyferry_wire::Header;

use crate::dpd::Dpd;
use crate::keylog::KeyLog;
use crate::message;
use crate::phase1::suite::Accepted;
use crate::reject::Reject;
use crate::wire::registry::exchange;
use acks::Acks;
use half_open::HalfOpens;
use table::Sessions;

/// What a key server takes and how much of it.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    /// Peers and their pre-shared keys.
    pub credentials: Arc<Credentials>,
    /// Our identity; `None` is the address a peer talks to.
    pub identity: Option<Identity>,
    /// Key exchange groups taken in phase 1.
    pub groups: Vec<KeGroup>,
    /// Hashes taken in phase 1.
    pub hashes: Vec<Hash>,
    /// Ciphers taken in phase 1.
    pub ciphers: Vec<BlockCipher>,
    /// Phase 1 exchanges under way at once.
    pub half_open: usize,
    /// The same from one source: an IPv4 address, or the /64 of an IPv6 address. Anybody can forge a member's address, so
    /// this is how many forgeries the member's own message 1 survives until its message 3 is here.
    pub half_open_per_source: usize,
    /// Phase 1 SAs at once.
    pub sas: usize,
    /// Registrations under way at once over one phase 1 SA.
    pub pulls: usize,
    /// An exchange that takes longer is forgotten.
    pub exchange_timeout: Duration,
    /// The longest life of a phase 1 SA.
    pub sa_lifetime: Duration,
    /// A phase 1 SA that is not used for so long is deleted.
    pub idle: Duration,
    /// When a silent member that speaks DPD is asked whether it is alive; `None` never asks.
    pub dpd: Option<Dpd>,
    /// Notices to unauthenticated peers per second, at most.
    pub notices_per_second: u32,
}

impl ServerConfig {
    /// Sound defaults: groups 14, 19 and 20, SHA-1 to SHA-512 (as HMAC), AES-CBC with 128 and 256 bits.
    #[must_use]
    pub fn new(credentials: Arc<Credentials>) -> Self {
        Self {
            credentials,
            identity: None,
            groups: vec![KeGroup::Ecp256, KeGroup::Ecp384, KeGroup::Modp2048],
            hashes: vec![Hash::Sha256, Hash::Sha384, Hash::Sha512, Hash::Sha1],
            ciphers: vec![BlockCipher::Aes256Cbc, BlockCipher::Aes128Cbc],
            half_open: 4096,
            half_open_per_source: 512,
            sas: 65_536,
            pulls: 8,
            exchange_timeout: Duration::from_secs(30),
            sa_lifetime: Duration::from_secs(86_400),
            idle: Duration::from_secs(300),
            dpd: None,
            notices_per_second: 10,
        }
    }

    fn accepted(&self) -> Accepted {
        Accepted { ciphers: self.ciphers.clone(), hashes: self.hashes.clone(), groups: self.groups.clone() }
    }
}

/// What came in and what became of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Counters {
    /// Datagrams.
    pub received: u64,
    /// Not what the RFCs describe.
    pub malformed: u64,
    /// Wrong hash, or belonging to nothing we know.
    pub unauthenticated: u64,
    /// Asking for what is not done here.
    pub unacceptable: u64,
    /// Repeats; requests among them were answered as before.
    pub repeated: u64,
    /// Phase 1 exchanges not begun, or given up early, for want of room.
    pub half_open_refused: u64,
    /// Exchanges that took too long.
    pub timed_out: u64,
    /// Phase 1 SAs made.
    pub established: u64,
    /// Phase 1 SAs dropped: idle, expired, deleted by the peer, or for want of room.
    pub closed: u64,
    /// Of those closed, the ones whose member no longer answered.
    pub dead: u64,
    /// Registrations.
    pub registered: u64,
    /// Registrations refused.
    pub refused: u64,
    /// Members that said they leave.
    pub left: u64,
    /// Acknowledgements verified and counted.
    pub acknowledged: u64,
    /// Acknowledgements not expected, malformed, or wrong.
    pub ack_failed: u64,
    /// Acknowledgements from another address than the one they name.
    pub ack_elsewhere: u64,
    /// Notices sent to peers that were not authenticated.
    pub notices: u64,
}

/// What a timer is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Timer {
    HalfOpen([u8; 8]),
    Session([u8; 16]),
}

/// A key server's endpoint for GDOI. It does no I/O.
pub struct Server {
    config: ServerConfig,
    accepted: Accepted,
    half_open: HalfOpens,
    sessions: Sessions,
    /// When something is due, and for what. Each half-open exchange and each session has at least one entry that comes
    /// no later than its own time; entries of things gone or put off are looked at and dropped.
    timers: BTreeSet<(Duration, Timer)>,
    jobs: BTreeMap<JobId, [u8; 8]>,
    acks: Acks,
    notices: (Duration, u32),
    counters: Counters,
    key_log: Option<Box<dyn KeyLog + Send>>,
}

impl Server {
    /// An endpoint without peers.
    #[must_use]
    pub fn new(config: ServerConfig) -> Self {
        Self {
            accepted: config.accepted(),
            half_open: HalfOpens::new(config.half_open, config.half_open_per_source),
            config,
            sessions: Sessions::default(),
            timers: BTreeSet::new(),
            jobs: BTreeMap::new(),
            acks: Acks::default(),
            notices: (Duration::ZERO, 0),
            counters: Counters::default(),
            key_log: None,
        }
    }

    /// Writes keys for Wireshark from now on.
    pub fn set_key_log(&mut self, log: Box<dyn KeyLog + Send>) {
        self.key_log = Some(log);
    }

    /// Takes a datagram.
    pub fn receive(&mut self, ctx: &mut Ctx<'_>, dgram: Datagram<'_>) {
        self.counters.received += 1;
        if let Err(reject) = self.take(ctx, &dgram) {
            let counter = match reject {
                Reject::Malformed(_) => &mut self.counters.malformed,
                Reject::Unauthenticated(_) => &mut self.counters.unauthenticated,
                Reject::Unacceptable(..) => &mut self.counters.unacceptable,
                Reject::Replayed => &mut self.counters.repeated,
            };
            *counter += 1;
            tracing::debug!(from = %dgram.from, %reject, "datagram not taken");
        }
    }

    fn take(&mut self, ctx: &mut Ctx<'_>, dgram: &Datagram<'_>) -> Result<(), Reject> {
        let (header, body) = Header::decode(dgram.bytes)?;
        message::check_header(&header)?;
        if header.spi_i == [0; 8] {
            return Err(Reject::Unauthenticated("cookie"));
        }
        match header.exchange {
            exchange::MAIN_MODE => self.main_mode(ctx, &header, body, dgram),
            exchange::INFORMATIONAL => self.notice(ctx, &header, body, dgram),
            exchange::PULL => self.pull(ctx, &header, body, dgram),
            exchange::PUSH_ACK => self.ack(ctx, &header, body, dgram),
            _ => Err(Reject::Unauthenticated("exchange type")),
        }
    }

    /// Takes the result of a job back. Jobs that are not ours, or no longer wanted, are ignored.
    pub fn complete(&mut self, ctx: &mut Ctx<'_>, job: JobId, done: JobDone) {
        let half = self.jobs.remove(&job).and_then(|cookie| self.half_open.get_mut(&cookie));
        match half.and_then(|half| half.complete(job, done)) {
            Some(transmit) => ctx.out.send(transmit),
            None => tracing::debug!(?job, "key exchange came to nothing"),
        }
    }

    /// Does what is due.
    pub fn expire(&mut self, ctx: &mut Ctx<'_>) {
        let mono = ctx.now.mono;
        while let Some((at, timer)) = self.timers.first().copied().filter(|(at, _)| *at <= mono) {
            self.timers.remove(&(at, timer));
            match timer {
                Timer::HalfOpen(cookie) => self.expire_half_open(ctx, cookie),
                Timer::Session(cookies) => self.expire_session(ctx, cookies),
            }
        }
    }

    /// When [`expire`](Self::expire) is wanted next.
    #[must_use]
    pub fn deadline(&self) -> Option<Deadline> {
        self.timers.first().map(|(at, timer)| Deadline {
            at: *at,
            reason: match timer {
                Timer::HalfOpen(_) => "phase 1 exchange",
                Timer::Session(_) => "phase 1 SA",
            },
        })
    }

    /// What came in and what became of it.
    #[must_use]
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// How full the tables are.
    #[cfg(feature = "fuzzing")]
    pub(crate) fn tables(&self) -> crate::fuzzing::Tables {
        crate::fuzzing::Tables {
            half_open: self.half_open.len(),
            sessions: self.sessions.len(),
            jobs: self.jobs.len(),
            timers: self.timers.len(),
            acks: self.acks.len(),
        }
    }

    /// May another notice go to somebody who is not authenticated?
    fn may_notify(&mut self, mono: Duration) -> bool {
        if mono >= self.notices.0 + Duration::from_secs(1) {
            self.notices = (mono, 0);
        }
        let may = self.notices.1 < self.config.notices_per_second;
        if may {
            self.notices.1 += 1;
            self.counters.notices += 1;
        }
        may
    }

    /// Who we are to somebody who talks to this address.
    fn identity(&self, to: IpAddr) -> Identity {
        self.config.identity.clone().unwrap_or_else(|| Identity::from_ip(to))
    }
}
