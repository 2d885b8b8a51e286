//! The key server's endpoint.
//!
//! ```text
//!  phase 1    -> half-open table -> (jobs) -> SA table
//!  PULL       -> SA table -> Model::offer, Model::admit
//!  PUSH-ACK   -> Model::rekey_sa, Model::members_at, Model::acknowledge
//!  notices    -> SA table (Delete, INITIAL-CONTACT, DPD), Model::leave
//! ```
//!
//! Pushes are not sent from here: the gateway renders them with [`push::render`](crate::push::render).

mod acks;
mod half_open;
mod notices;
mod phase1;
mod sessions;
mod table;
mod transport;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use keyferry_crypto::{BlockCipher, Hash, JobDone, KeGroup, Secret};
use keyferry_model::credentials::Credentials;
use keyferry_model::drive::{Ctx, Datagram, JobId, Outbox};
use keyferry_model::id::Identity;
use keyferry_model::time::Deadline;
use keyferry_model::work::WorkBudget;
use keyferry_wire::Header;

use crate::dpd::Dpd;
use crate::fragments::Reassembly;
use crate::keylog::KeyLog;
use crate::message;
use crate::phase1::responder::HalfOpen;
use crate::phase1::suite::Accepted;
use crate::reject::Reject;
use crate::wire::registry::{exchange, payload};
use acks::Acks;
use half_open::HalfOpens;
use table::Sessions;

/// What a key server takes and how much of it.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    /// Peers, our certificates, and what certificates of peers are held against.
    pub credentials: Arc<Credentials>,
    /// Our identity; `None` is the address a peer talks to, or the subject of our certificate where that does not name it.
    pub identity: Option<Identity>,
    /// Key exchange groups taken in phase 1.
    pub groups: Vec<KeGroup>,
    /// Hashes taken in phase 1.
    pub hashes: Vec<Hash>,
    /// Ciphers taken in phase 1.
    pub ciphers: Vec<BlockCipher>,
    /// Take what is weak, too, where the lists name it: 3DES, SHA-1, groups 2, 5 and 24.
    pub danger_weak: bool,
    /// Take aggressive mode.
    pub aggressive: bool,
    /// Exchanges of aggressive mode begun within a second from one source, at most. Each costs a key exchange, and with
    /// signatures one of those, before anything is proved.
    pub aggressive_per_source: usize,
    /// The same, altogether.
    pub aggressive_per_second: u32,
    /// Phase 1 exchanges under way at once.
    pub half_open: usize,
    /// The same from one source: an IPv4 address, or the /64 of an IPv6 address. Anybody can forge a member's address, so
    /// this is how many forgeries the member's own message 1 survives until its message 3 is here.
    pub half_open_per_source: usize,
    /// Key exchanges and checks of signatures begun within a second for one source, at most; what is beyond waits for its
    /// turn. A few hundred members behind one address come within their patience.
    pub work_per_source: u32,
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
    /// Messages of phase 1 and under it are cut up where an IP packet would be longer than this, for peers that take
    /// fragments. At least 576.
    pub fragment_size: usize,
    /// Notices to unauthenticated peers per second, at most.
    pub notices_per_second: u32,
}

impl ServerConfig {
    /// Sound defaults: main mode; groups 14, 15, 16, 19, 20 and 21, SHA-256 to SHA-512 (as HMAC), AES-CBC. The lists name
    /// also what is weak, for [`danger_weak`](Self::danger_weak).
    #[must_use]
    pub fn new(credentials: Arc<Credentials>) -> Self {
        Self {
            credentials,
            identity: None,
            groups: vec![
                KeGroup::Ecp256,
                KeGroup::Ecp384,
                KeGroup::Ecp521,
                KeGroup::Modp2048,
                KeGroup::Modp3072,
                KeGroup::Modp4096,
                KeGroup::Modp2048s256,
                KeGroup::Modp1536,
                KeGroup::Modp1024,
            ],
            hashes: vec![Hash::Sha256, Hash::Sha384, Hash::Sha512, Hash::Sha1],
            ciphers: vec![
                BlockCipher::Aes256Cbc,
                BlockCipher::Aes192Cbc,
                BlockCipher::Aes128Cbc,
                BlockCipher::TripleDesCbc,
            ],
            danger_weak: false,
            aggressive: false,
            aggressive_per_source: 5,
            aggressive_per_second: 100,
            half_open: 4096,
            half_open_per_source: 512,
            work_per_source: 40,
            sas: 65_536,
            pulls: 8,
            exchange_timeout: Duration::from_secs(30),
            sa_lifetime: Duration::from_secs(86_400),
            idle: Duration::from_secs(300),
            dpd: None,
            fragment_size: 1280,
            notices_per_second: 10,
        }
    }

    fn accepted(&self) -> Accepted {
        Accepted {
            ciphers: self.ciphers.clone(),
            hashes: self.hashes.clone(),
            groups: self.groups.clone(),
            weak: self.danger_weak,
        }
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
    budget: WorkBudget,
    sessions: Sessions,
    /// When something is due, and for what. Each half-open exchange and each session has at least one entry that comes
    /// no later than its own time; entries of things gone or put off are looked at and dropped.
    timers: BTreeSet<(Duration, Timer)>,
    jobs: BTreeMap<JobId, [u8; 8]>,
    acks: Acks,
    /// Exchanges of aggressive mode begun since the moment told.
    aggressive: (Duration, u32),
    /// Makes keys for identities that have none, so that who asks cannot tell.
    decoy: Option<Secret>,
    fragments: Reassembly,
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
            budget: WorkBudget::default(),
            sessions: Sessions::default(),
            timers: BTreeSet::new(),
            jobs: BTreeMap::new(),
            acks: Acks::default(),
            aggressive: (Duration::ZERO, 0),
            decoy: None,
            fragments: Reassembly::default(),
            notices: (Duration::ZERO, 0),
            counters: Counters::default(),
            key_log: None,
        }
    }

    /// Writes keys for Wireshark from now on.
    pub fn set_key_log(&mut self, log: Box<dyn KeyLog + Send>) {
        self.key_log = Some(log);
    }

    /// Goes by other credentials from now on. SAs that these do not back any more are forgotten; who may still authenticate
    /// makes a new one for its next registration. So are checks under way of who authenticates: they may be against what has
    /// been withdrawn.
    pub fn set_credentials(&mut self, out: &mut Outbox, credentials: Arc<Credentials>) {
        let checks: Vec<JobId> = self.half_open.all_mut().flat_map(HalfOpen::forget_checks).collect();
        self.give_up(out, checks);
        let former = std::mem::replace(&mut self.config.credentials, credentials);
        for cookies in self.sessions.without_backing(&former, &self.config.credentials) {
            self.counters.closed += 1;
            self.sessions.remove(&cookies);
        }
    }

    /// Takes a datagram.
    pub fn receive(&mut self, ctx: &mut Ctx<'_>, dgram: Datagram<'_>) {
        self.counters.received += 1;
        let kept = ctx.out.len();
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
        self.cut_up(ctx, kept);
    }

    fn take(&mut self, ctx: &mut Ctx<'_>, dgram: &Datagram<'_>) -> Result<(), Reject> {
        let (header, body) = Header::decode(dgram.bytes)?;
        message::check_header(&header)?;
        if header.spi_i == [0; 8] {
            return Err(Reject::Unauthenticated("cookie"));
        }
        if header.next == payload::FRAGMENT {
            return self.fragment(ctx, &header, body, dgram);
        }
        match header.exchange {
            exchange::MAIN_MODE => self.phase1(ctx, &header, body, dgram),
            exchange::AGGRESSIVE if self.config.aggressive => self.phase1(ctx, &header, body, dgram),
            exchange::INFORMATIONAL => self.notice(ctx, &header, body, dgram),
            exchange::PULL => self.pull(ctx, &header, body, dgram),
            exchange::PUSH_ACK => self.ack(ctx, &header, body, dgram),
            _ => Err(Reject::Unauthenticated("exchange type")),
        }
    }

    /// Takes the result of a job back. Jobs that are not ours, or no longer wanted, are ignored.
    pub fn complete(&mut self, ctx: &mut Ctx<'_>, job: JobId, done: JobDone) {
        let kept = ctx.out.len();
        self.phase1_done(ctx, job, done);
        self.cut_up(ctx, kept);
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

    /// Phase 1 SAs in use.
    #[must_use]
    pub fn established(&self) -> usize {
        self.sessions.len()
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
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
