//! The key server's endpoint: IKE SAs as responder, and what members ask over them.
//!
//! ```text
//!  state         input                          next          output
//!  -             IKE_SA_INIT, no cookie needed  AwaitKe       Job
//!  -             IKE_SA_INIT under load         -             N(COOKIE)
//!  -             IKE_SA_INIT, wrong KE group    -             N(INVALID_KE_PAYLOAD)
//!  -             IKE_SA_INIT, no proposal       -             N(NO_PROPOSAL_CHOSEN)
//!  -             IKE_SA_INIT, sent elsewhere    -             N(REDIRECT)
//!  AwaitKe       job done                       ExpectAuth    IKE_SA_INIT response
//!  AwaitKe       job failed                     -             (silence)
//!  -             IKE_SESSION_RESUME, good       ExpectAuth    IKE_SESSION_RESUME response
//!  -             IKE_SESSION_RESUME, bad        -             N(TICKET_NACK)
//!  ExpectAuth    IKE_SA_INIT repeated           ExpectAuth    the same response
//!  ExpectAuth    IKE_INTERMEDIATE               ExpectAuth    Job, then the response under the old keys
//!  ExpectAuth    IKE_INTERMEDIATE repeated      ExpectAuth    the same response
//!  ExpectAuth    IKE_INTERMEDIATE, bad          Closed        N(INVALID_SYNTAX)
//!  ExpectAuth    IKE_AUTH or GSA_AUTH, good     Established   IDr, AUTH, [GSA, KD] or [N]
//!  ExpectAuth    IKE_AUTH or GSA_AUTH, bad      Closed        N(AUTHENTICATION_FAILED)
//!  ExpectAuth    the same, signed               AwaitProof    Job (check)
//!  ExpectAuth    the same, too many of a source ExpectAuth    -
//!  ExpectAuth    the same, good; we are to sign AwaitProof    Job (sign)
//!  AwaitProof    checked, good; we are to sign  AwaitProof    Job (sign)
//!  AwaitProof    checked, good; or signed       Established   IDr, [CERT,] AUTH, [GSA, KD] or [N]
//!  AwaitProof    checked, bad                   Closed        N(AUTHENTICATION_FAILED)
//!  AwaitProof    job not done                   ExpectAuth    -
//!  AwaitProof    anything received              AwaitProof    -
//!  Established   GSA_REGISTRATION               Established   GSA, KD or N
//!  Established   INFORMATIONAL with Delete      Closed        empty response
//!  Established   CREATE_CHILD_SA, new keys      Established   Job, then a second SA and SA, Nr, KEr
//!  Established   the same, with more to follow  Established   Job, then SA, Nr, KEr, N(ADDITIONAL_KEY_EXCHANGE)
//!  Established   IKE_FOLLOWUP_KE, awaited       Established   Job, then KEr(n), and a second SA if it was the last
//!  Established   IKE_FOLLOWUP_KE, not awaited   Established   N(STATE_NOT_FOUND)
//!  Established   CREATE_CHILD_SA, a Child SA    Established   N(NO_ADDITIONAL_SAS)
//!  Established   time for new keys              Established   Job, then CREATE_CHILD_SA request
//!  Established   answer, with more to follow    Established   Jobs, then IKE_FOLLOWUP_KE request
//!  Established   a rekey, member in band        Established   GSA_INBAND_REKEY
//!  Established   the gateway is drained         Established   INFORMATIONAL with N(REDIRECT)
//!  Established   idle and not kept, or replaced Established   INFORMATIONAL with Delete
//!  Established   answer to that Delete, or none -
//!  Established   any request repeated           Established   the same response
//!  Closed        last request repeated          Closed        the same response
//!  any           its time is up                 -
//! ```
//!
//! What does not verify changes nothing: it is counted, and at most answered within a small budget.

mod acks;
mod auth;
mod config;
mod connections;
mod established;
mod in_band;
mod init;
mod intermediate;
mod limits;
mod ppk;
mod proof;
mod redirect;
mod rekeying;
mod resume;
mod tickets;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use keyferry_crypto::{JobDone, Secret};
use keyferry_model::drive::{Ctx, Datagram, JobId, Outbox, Transmit, Via};
use keyferry_model::id::Protocol;
use keyferry_model::plan::RekeyPlan;
use keyferry_model::store::RecordError;
use keyferry_model::time::Deadline;
use keyferry_model::work::WorkBudget;
use keyferry_wire::Header;

pub use config::{ConnectionLimits, Counters, ServerConfig};

use crate::ike_sa::cookie::Cookies;
use crate::ike_sa::init::refusal;
use crate::ike_sa::options::NAT_PORT;
use crate::ike_sa::reassembly::{MAX_EARLY_OCTETS, MAX_OCTETS};
use crate::keylog::{KeyLog, TABLE, rekey_sa_line};
use crate::reject::Reject;
use crate::wire::notify::Notify;
use crate::wire::registry::{ExchangeType, NotifyType, PayloadKind, flags};
use crate::wire::sk::{Fragment, datagrams, first_datagram};
use auth::ExpectAuth;
use connections::Connections;
use established::Established;
use in_band::Lines;
use init::AwaitKe;
use limits::{Budget, EarlyFragments, EarlyRequests, HalfOpen, Timers};
use proof::AwaitProof;
use tickets::Tickets;

/// Our SPI names an IKE SA.
type Spi = [u8; 8];

/// A G-IKEv2 key server endpoint.
pub struct Server {
    config: ServerConfig,
    counters: Counters,
    cookies: Cookies,
    half_open: HalfOpen,
    early_fragments: EarlyFragments,
    early_requests: EarlyRequests,
    budget: Budget,
    work: WorkBudget,
    sas: BTreeMap<Spi, Entry>,
    /// How many of them are closed.
    closed: usize,
    /// IKE_SA_INIT requests that were taken up, by the digest of address and octets.
    inits: BTreeMap<Vec<u8>, Spi>,
    jobs: BTreeMap<JobId, Spi>,
    timers: Timers,
    lines: Lines,
    /// Members are sent elsewhere.
    drained: bool,
    connections: Connections,
    /// Makes and reads tickets, if there are any.
    tickets: Option<Tickets>,
    key_log: Option<Box<dyn KeyLog + Send>>,
}

/// An IKE SA in the making, in use or closing.
struct Entry {
    /// Where the peer is, and which of our addresses it uses: as of its newest request that verified.
    path: Path,
    /// Names its IKE_SA_INIT request.
    digest: Vec<u8>,
    state: State,
}

/// Where datagrams of an IKE SA go.
#[derive(Clone, Copy, Debug)]
struct Path {
    peer: SocketAddr,
    local: SocketAddr,
    via: Via,
}

impl Path {
    fn of(dgram: &Datagram<'_>) -> Self {
        Self { peer: dgram.from, local: dgram.to, via: dgram.via }
    }

    /// Does it lead through a NAT, by our port for that, or might it?
    fn is_encapsulated(&self) -> bool {
        self.via.is_marked_udp() && self.local.port() == NAT_PORT
    }

    fn transmit(&self, bytes: Vec<u8>) -> Transmit {
        Transmit { from: Some(self.local), to: self.peer, via: self.via, bytes }
    }
}

enum State {
    AwaitKe(Box<AwaitKe>),
    ExpectAuth(Box<ExpectAuth>),
    AwaitProof(Box<AwaitProof>),
    Established(Box<Established>),
    Closed(Closed),
}

impl State {
    /// Octets of requests that it keeps before its peer has proved who it is.
    fn early_octets(&self) -> usize {
        match self {
            State::AwaitKe(s) => s.request.len(),
            State::ExpectAuth(s) => s.early_octets(),
            State::AwaitProof(s) => s.early_octets(),
            State::Established(_) | State::Closed(_) => 0,
        }
    }
}

/// An SA that is gone; its last answer is repeated until the peer has had time to get it.
struct Closed {
    peer_spi: [u8; 8],
    request: Vec<u8>,
    response: Vec<u8>,
}

impl Server {
    /// An endpoint without SAs.
    #[must_use]
    pub fn new(config: ServerConfig) -> Self {
        Self {
            half_open: HalfOpen::default(),
            early_fragments: EarlyFragments::new(config.half_open_fragments),
            early_requests: EarlyRequests::new(config.half_open_requests),
            budget: Budget::new(config.unprotected_answers_per_second),
            work: WorkBudget::default(),
            config,
            counters: Counters::default(),
            cookies: Cookies::default(),
            sas: BTreeMap::new(),
            closed: 0,
            inits: BTreeMap::new(),
            jobs: BTreeMap::new(),
            timers: Timers::default(),
            lines: Lines::default(),
            drained: false,
            connections: Connections::default(),
            tickets: None,
            key_log: None,
        }
    }

    /// Writes keys for Wireshark from now on.
    pub fn set_key_log(&mut self, log: Box<dyn KeyLog + Send>) {
        self.key_log = Some(log);
    }

    /// Writes the keys that GSA_REKEY messages of a plan are protected with.
    pub fn log_rekey(&mut self, plan: &RekeyPlan) {
        let Some(log) = &mut self.key_log else { return };
        for step in plan.steps.iter().filter(|s| s.protocol == Protocol::Gikev2) {
            if let Some(line) = rekey_sa_line(&step.policy, &step.over) {
                log.log(TABLE, &line);
            }
        }
    }

    /// Gives tickets to members that ask for them, and takes them, with the keys and the spent ones of a store; where the
    /// configuration says so.
    ///
    /// # Errors
    /// A record that cannot be used.
    pub fn load_tickets(&mut self, records: &BTreeMap<String, Secret>) -> Result<(), RecordError> {
        if let Some(lifetime) = self.config.ticket_lifetime {
            self.tickets = Some(Tickets::load(lifetime, self.config.ike.lifetime, records)?);
        }
        Ok(())
    }

    /// What was received and what became of it.
    #[must_use]
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// IKE SAs in use.
    #[must_use]
    pub fn established(&self) -> usize {
        self.sas.values().filter(|e| matches!(e.state, State::Established(_))).count()
    }

    /// Is there room for another IKE SA? Closed ones take none.
    fn has_room_for_sa(&self) -> bool {
        self.sas.len() - self.closed < self.config.sas
    }

    /// When [`expire`](Self::expire) is wanted next.
    #[must_use]
    pub fn deadline(&self) -> Option<Deadline> {
        let timers = self.timers.next().map(|at| Deadline { at, reason: "IKE SA timers" });
        let connection = self.connections.next().map(|at| Deadline { at, reason: "end of a connection" });
        Deadline::earlier(timers, connection)
    }

    /// Takes a datagram, or a message out of a connection.
    pub fn receive(&mut self, ctx: &mut Ctx<'_>, dgram: Datagram<'_>) {
        let before = ctx.out.len();
        let rejected = self.counters.rejected();
        self.take(ctx, dgram);
        self.report_lost(ctx);
        cut_up(ctx.out, before);
        if let Some(id) = dgram.via.connection() {
            let rejected = self.counters.rejected() > rejected;
            self.judge(ctx, id, rejected);
        }
    }

    fn take(&mut self, ctx: &mut Ctx<'_>, dgram: Datagram<'_>) {
        self.counters.received += 1;
        let header = match Header::decode(dgram.bytes) {
            Ok((header, _)) => header,
            Err(error) => return self.drop_malformed(&dgram, &error.into()),
        };
        let response = header.flags & flags::RESPONSE != 0;
        if header.spi_r == [0; 8] && dgram.bytes.len() > MAX_EARLY_OCTETS {
            // A copy of it is kept until its sender has proved itself.
            return self.drop_malformed(&dgram, &Reject::Malformed("too long for a first request"));
        }
        if header.major != 2 {
            // A peer that could speak more is told what we speak (RFC 7296 section 2.5).
            if header.major > 2 && !response {
                self.answer_unprotected(ctx, &dgram, &header, &Notify::new(NotifyType::INVALID_MAJOR_VERSION, vec![2]));
            }
            self.counters.malformed += 1;
            return;
        }
        if ExchangeType(header.exchange) == ExchangeType::GSA_REKEY {
            // Our own, or another key server's: nothing for this end.
            self.counters.not_for_us += 1;
            return;
        }
        if ExchangeType(header.exchange) == ExchangeType::REKEY_ACK {
            return self.rekey_acknowledged(ctx, &dgram, &header);
        }
        if ExchangeType(header.exchange) == ExchangeType::IKE_SA_INIT && header.spi_r == [0; 8] && !response {
            return match self.init_request(ctx, &dgram, &header) {
                Ok(()) => {}
                Err(reject) => self.drop_malformed(&dgram, &reject),
            };
        }
        if ExchangeType(header.exchange) == ExchangeType::IKE_SESSION_RESUME && header.spi_r == [0; 8] && !response {
            return match self.resume_request(ctx, &dgram, &header) {
                Ok(()) => {}
                Err(reject) => self.drop_malformed(&dgram, &reject),
            };
        }
        // The end that asked for the SA names it first: the member, or we if its keys were our wish.
        let from_initiator = header.flags & flags::INITIATOR != 0;
        let (peer, own) = if from_initiator { (header.spi_i, header.spi_r) } else { (header.spi_r, header.spi_i) };
        match self.sas.get(&own) {
            Some(entry) if entry.peer_spi() == peer => self.protected(ctx, &dgram, &header, own),
            _ => {
                self.counters.unknown_spi += 1;
                if !response && header.spi_r != [0; 8] {
                    self.answer_unprotected(ctx, &dgram, &header, &Notify::bare(NotifyType::INVALID_IKE_SPI));
                }
            }
        }
    }

    /// Takes the result of a job; one it does not know is ignored.
    pub fn complete(&mut self, ctx: &mut Ctx<'_>, job: JobId, done: JobDone) {
        let before = ctx.out.len();
        self.take_result(ctx, job, done);
        cut_up(ctx.out, before);
    }

    fn take_result(&mut self, ctx: &mut Ctx<'_>, job: JobId, done: JobDone) {
        let Some(spi) = self.jobs.remove(&job) else { return };
        match self.sas.get(&spi).map(|e| &e.state) {
            Some(State::AwaitKe(_) | State::ExpectAuth(_)) => self.key_exchange_done(ctx, spi, done),
            Some(State::AwaitProof(_)) => self.proof_done(ctx, spi, done),
            Some(State::Established(_)) => self.rekey_job_done(ctx, spi, done),
            Some(State::Closed(_)) | None => {}
        }
        self.report_lost(ctx);
    }

    /// Does what is due.
    pub fn expire(&mut self, ctx: &mut Ctx<'_>) {
        let before = ctx.out.len();
        while let Some(spi) = self.timers.take_due(ctx.now.mono) {
            match self.sas.get(&spi).map(|e| &e.state) {
                Some(State::Established(_)) => self.established_due(ctx, spi),
                Some(State::AwaitKe(_) | State::ExpectAuth(_) | State::AwaitProof(_)) => {
                    self.counters.half_open_expired += 1;
                    self.remove(ctx.out, spi);
                }
                Some(State::Closed(_)) => self.remove(ctx.out, spi),
                None => {}
            }
        }
        self.expire_connections(ctx);
        self.report_lost(ctx);
        cut_up(ctx.out, before);
    }

    /// A message to an SA we know, its SPIs say.
    fn protected(&mut self, ctx: &mut Ctx<'_>, dgram: &Datagram<'_>, header: &Header, spi: Spi) {
        // An SA stays with TCP, or with UDP, for its life (RFC 9329 section 5).
        if self.sas.get(&spi).is_some_and(|e| e.path.via.is_tcp() != dgram.via.is_tcp()) {
            self.counters.unexpected += 1;
            return;
        }
        let whole;
        let mut dgram = dgram;
        let assembled;
        if header.next == PayloadKind::SKF.0 {
            let Some(message) = self.fragment(ctx.now.mono, dgram, header, spi) else { return };
            whole = message;
            assembled = Datagram { bytes: &whole, ..*dgram };
            dgram = &assembled;
        }
        let Some(entry) = self.sas.get(&spi) else { return };
        match &entry.state {
            State::AwaitKe(_) => self.counters.unexpected += 1,
            State::ExpectAuth(_) if ExchangeType(header.exchange) == ExchangeType::IKE_INTERMEDIATE => {
                self.intermediate_request(ctx, dgram, header);
            }
            State::ExpectAuth(_) => self.auth_request(ctx, dgram, header),
            State::AwaitProof(waiting) if waiting.is_of(dgram.bytes) => self.counters.repeated += 1,
            State::AwaitProof(_) => self.counters.unexpected += 1,
            State::Established(_) => self.established_message(ctx, dgram, header, spi),
            State::Closed(closed) if closed.request == dgram.bytes => {
                let (peer, response) = (entry.path.peer, closed.response.clone());
                self.answer_again(ctx, dgram, peer, response);
            }
            State::Closed(_) => self.counters.unexpected += 1,
        }
    }

    /// A fragment of a message to an SA we know: the message, when it is whole or only repeated.
    fn fragment(&mut self, now: Duration, dgram: &Datagram<'_>, header: &Header, spi: Spi) -> Option<Vec<u8>> {
        let fragment = Fragment::of(dgram.bytes);
        let repeats = || fragment.filter(|f| f.number == 1).map(|_| dgram.bytes.to_vec());
        let response = header.flags & flags::RESPONSE != 0;
        let (sa, early) = match &mut self.sas.get_mut(&spi)?.state {
            State::ExpectAuth(state) if !response && state.intermediate.next_id() == header.message_id => {
                (&mut state.sa, true)
            }
            State::Established(state) if response && state.requests.awaits(header.message_id) => (&mut state.sa, false),
            State::Established(state) if !response && state.answers.expects(header.message_id) => {
                (&mut state.sa, false)
            }
            // The first fragment of a request that was answered draws the answer again (RFC 7383 section 2.6.1).
            State::ExpectAuth(_) | State::AwaitProof(_) | State::Established(_) | State::Closed(_) if !response => {
                return repeats();
            }
            State::AwaitKe(_)
            | State::ExpectAuth(_)
            | State::AwaitProof(_)
            | State::Established(_)
            | State::Closed(_) => {
                self.counters.unexpected += 1;
                return None;
            }
        };
        let taken = sa.take_fragment(dgram.bytes, if early { MAX_EARLY_OCTETS } else { MAX_OCTETS }, now);
        if early {
            self.early_fragments.note(spi, sa.fragments());
            self.drop_excess_fragments();
        }
        match taken {
            Ok(message) => message,
            Err(reject) => {
                self.drop_unauthenticated(dgram, &reject);
                None
            }
        }
    }

    /// Answers a repeated request. Whoever has seen one can send it again in anybody's name, so an answer that goes elsewhere
    /// than to where the peer is comes out of the budget.
    fn answer_again(&mut self, ctx: &mut Ctx<'_>, dgram: &Datagram<'_>, peer: SocketAddr, response: Vec<u8>) {
        self.counters.repeated += 1;
        if dgram.from == peer || self.budget.spend(ctx.now.mono) {
            ctx.out.send(dgram.reply(response));
        } else {
            self.counters.answers_withheld += 1;
        }
    }

    /// Keeps what half-open SAs hold of fragments within bounds.
    fn drop_excess_fragments(&mut self) {
        while let Some(spi) = self.early_fragments.take_excess() {
            if let Some(State::ExpectAuth(state)) = self.sas.get_mut(&spi).map(|e| &mut e.state) {
                state.sa.drop_fragments();
            }
        }
    }

    /// Notes what a half-open SA keeps of requests.
    fn note_early(&mut self, spi: Spi) {
        let octets = self.sas.get(&spi).map_or(0, |entry| entry.state.early_octets());
        self.early_requests.note(spi, octets);
    }

    /// Answers what is not protected, within a budget, so that nobody makes us shout at others (RFC 7296 section 2.21.4).
    fn answer_unprotected(&mut self, ctx: &mut Ctx<'_>, dgram: &Datagram<'_>, header: &Header, notify: &Notify<'_>) {
        if self.budget.spend(ctx.now.mono) {
            ctx.out.send(dgram.reply(refusal(header, notify)));
        } else {
            self.counters.answers_withheld += 1;
        }
    }

    fn drop_malformed(&mut self, dgram: &Datagram<'_>, reject: &Reject) {
        self.counters.malformed += 1;
        tracing::debug!(from = %dgram.from, %reject, "message dropped");
    }

    /// A message that names an SA and does not verify: a forgery, or damaged on the way.
    fn drop_unauthenticated(&mut self, dgram: &Datagram<'_>, reject: &Reject) {
        self.counters.unauthenticated += 1;
        tracing::debug!(from = %dgram.from, %reject, "message dropped");
    }

    /// Ends an SA with a last answer, which is repeated for a while if the request is.
    fn close(&mut self, ctx: &mut Ctx<'_>, spi: Spi, dgram: &Datagram<'_>, response: Vec<u8>) {
        self.end(ctx, spi, Path::of(dgram), dgram.bytes.to_vec(), response);
    }

    /// The same for a request that was received earlier.
    fn end(&mut self, ctx: &mut Ctx<'_>, spi: Spi, path: Path, request: Vec<u8>, response: Vec<u8>) {
        let Some(entry) = self.sas.get_mut(&spi) else { return };
        let peer_spi = entry.peer_spi();
        if entry.is_half_open() {
            self.half_open.leave(entry.path.peer.ip());
            self.early_fragments.forget(&spi);
            self.early_requests.forget(&spi);
        }
        if let State::Established(state) = &entry.state {
            self.lines.leave(state.line, spi);
        }
        self.connections.release(entry.path.via, spi);
        ctx.out.send(path.transmit(response.clone()));
        entry.state = State::Closed(Closed { peer_spi, request: first_datagram(&request).to_vec(), response });
        self.closed += 1;
        if self.closed > self.config.half_open {
            // Last answers fill no memory: whoever misses this one hears no more of the SA.
            return self.remove(ctx.out, spi);
        }
        let linger = self.config.linger;
        self.timers.arm(spi, ctx.now.mono + linger);
    }

    /// Forgets an SA, and gives up the job that is under way for it.
    fn remove(&mut self, out: &mut Outbox, spi: Spi) {
        self.timers.disarm(&spi);
        if let Some(entry) = self.sas.remove(&spi) {
            if entry.is_half_open() {
                self.half_open.leave(entry.path.peer.ip());
                self.early_fragments.forget(&spi);
                self.early_requests.forget(&spi);
            }
            match &entry.state {
                State::Established(state) => self.lines.leave(state.line, spi),
                State::Closed(_) => self.closed -= 1,
                State::AwaitKe(_) | State::ExpectAuth(_) | State::AwaitProof(_) => {}
            }
            self.connections.release(entry.path.via, spi);
            self.inits.remove(&entry.digest);
        }
        self.jobs.retain(|job, owner| {
            let wanted = *owner != spi;
            if !wanted {
                out.cancel(*job);
            }
            wanted
        });
    }

    #[cfg(test)]
    pub(crate) fn fragments_for_test(&self) -> usize {
        self.early_fragments.octets()
    }

    #[cfg(test)]
    pub(crate) fn requests_for_test(&self) -> usize {
        self.early_requests.octets()
    }

    #[cfg(test)]
    pub(crate) fn sa_for_test(&mut self) -> Option<&mut crate::ike_sa::sa::IkeSa> {
        self.sas.values_mut().find_map(|e| match &mut e.state {
            State::Established(state) => Some(&mut state.sa),
            State::AwaitKe(_) | State::ExpectAuth(_) | State::AwaitProof(_) | State::Closed(_) => None,
        })
    }

    fn arm(&mut self, spi: Spi, at: Duration) {
        self.timers.arm(spi, at);
    }
}

/// Lets what was queued since then leave in as many datagrams as it has.
fn cut_up(out: &mut Outbox, before: usize) {
    out.split_sends(before, |message| {
        let parts = datagrams(&message.bytes);
        if parts.len() == 1 {
            return vec![message];
        }
        parts.iter().map(|part| Transmit { bytes: part.to_vec(), ..message.clone() }).collect()
    });
}

impl Entry {
    fn peer_spi(&self) -> [u8; 8] {
        match &self.state {
            State::AwaitKe(s) => s.spi_i,
            State::ExpectAuth(s) => s.sa.peer_spi(),
            State::AwaitProof(s) => s.expect.sa.peer_spi(),
            State::Established(s) => s.sa.peer_spi(),
            State::Closed(s) => s.peer_spi,
        }
    }

    fn is_half_open(&self) -> bool {
        matches!(self.state, State::AwaitKe(_) | State::ExpectAuth(_) | State::AwaitProof(_))
    }
}
