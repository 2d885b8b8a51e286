//! The group member's endpoint: an IKE SA as initiator, registration, and the rekeys that follow.
//!
//! ```text
//!  link          input                             next          output
//!  Down          wish to connect or register       Connecting    IKE_SA_INIT request
//!  Down          the same, over TCP                Dialing       Dial
//!  Dialing       connected                         Connecting    IKE_SA_INIT request
//!  Dialing       no connection                     Down          Unanswered; again after a delay
//!  Connecting    no answer over UDP, TCP allowed   Dialing       Dial
//!  Connecting    N(COOKIE), N(INVALID_KE_PAYLOAD)  Connecting    IKE_SA_INIT request, amended
//!  Connecting    IKE_SESSION_RESUME response       Connecting    IKE_AUTH request
//!  Connecting    N(TICKET_NACK), or no answer      Connecting    IKE_SA_INIT request, if a ticket was shown
//!  Connecting    N(REDIRECT)                       Connecting    IKE_SA_INIT request, to the key server it names
//!  Connecting    IKE_SA_INIT response              Connecting    IKE_INTERMEDIATE, IKE_AUTH or GSA_AUTH request
//!  Connecting    IKE_INTERMEDIATE response         Connecting    IKE_INTERMEDIATE, IKE_AUTH or GSA_AUTH request
//!  Connecting    IKE_AUTH or GSA_AUTH response     Up            Connected, [Update, Listen, Registered | Refused]
//!  Connecting    the same with N(REDIRECT)         Connecting    Delete; IKE_SA_INIT request, to the one it names
//!  Connecting    refused, or no answer             Down          Refused | Unanswered; again after a delay
//!  Up            wish to register, to leave        Up            GSA_REGISTRATION request
//!  Up            GSA_REGISTRATION response         Up            Update, Listen, Registered | Refused | Left
//!  Up            a ticket is wanted                Up            INFORMATIONAL with N(TICKET_REQUEST)
//!  Up            time for new keys                 Up            CREATE_CHILD_SA request
//!  Up            CREATE_CHILD_SA response          Up            a second SA; Delete of the replaced one
//!  Up            the same, with more to follow     Up            IKE_FOLLOWUP_KE request
//!  Up            IKE_FOLLOWUP_KE response          Up            IKE_FOLLOWUP_KE request | as after CREATE_CHILD_SA
//!  Up            CREATE_CHILD_SA request           Up            a second SA; SA, Nr, KEr
//!  Up            the same, with more to follow     Up            SA, Nr, KEr, N(ADDITIONAL_KEY_EXCHANGE)
//!  Up            IKE_FOLLOWUP_KE request           Up            KEr(n), a second SA if it was the last | N(STATE_NOT_FOUND)
//!  Up            INFORMATIONAL with N(REDIRECT)    Down          empty response, Delete, Disconnected; soon to the one it names
//!  Up            INFORMATIONAL with Delete         Up | Down     empty response, [Disconnected]
//!  Up            N(INVALID_IKE_SPI), unprotected   Up            the pending request again, soon, or a question
//!  Up            no answer                         Down          [Disconnected]
//!
//!  group         GSA_REKEY, verified               the same      Update, [Listen,] Rekeyed
//!  group         GSA_INBAND_REKEY                  the same      Update, Rekeyed; empty response
//!  group         excluded by one of them           none          Flush, Excluded; registers after a delay
//!  group         in band, and the IKE SA is gone   none          the same
//!  group         keys about to end                 the same      registers anew
//! ```
//!
//! The group outlives the IKE SA: a key server that closes it, or restarts, changes nothing. Before a response verifies
//! nothing is given up for it: several IKE_SA_INIT responses are followed side by side until one of them leads to a
//! protected answer (RFC 7296 section 2.4).

mod candidate;
mod connecting;
mod further;
mod intermediate;
mod link;
mod nat;
mod redirect;
mod rekeyed;
mod rekeying;
mod resume;
mod steps;
mod tcp;

use std::time::Duration;

use keyferry_crypto::{Prf, Random};
use keyferry_model::credentials::Trust;
use keyferry_model::drive::{Datagram, Transmit};
use keyferry_model::key_server::KeyServers;
use keyferry_model::settings::MemberSettings;
use keyferry_model::time::{Deadline, Now};
use keyferry_model::update::{MemberCtx, MemberEvent, MemberOutput};
use keyferry_wire::Header;
use serde::Serialize;

use crate::ike_sa::window::Backoff;
use crate::ike_sa::{IkeOptions, Preferences};
use crate::keylog::KeyLog;
use crate::rekey::group::Group;
use crate::wire::registry::{ExchangeType, PayloadKind, flags};
use crate::wire::sk::datagrams;
use connecting::Connecting;
use further::Further;
pub use further::FurtherStatus;
use link::Sas;
use nat::Traversal;
use redirect::Redirects;
use resume::Ticket;
use steps::is_doubt;
use tcp::Tcp;

/// A G-IKEv2 group member's endpoint.
pub struct Member {
    settings: MemberSettings,
    preferences: Preferences,
    link: Link,
    goal: Goal,
    group: Option<Group>,
    further: Vec<Further>,
    /// Not before this time, after a failure or an exclusion.
    retry_at: Option<Duration>,
    /// When to register anew though nothing has happened.
    renew_at: Option<Duration>,
    ike: IkeOptions,
    nat: Traversal,
    redirects: Redirects,
    tcp: Tcp,
    /// For the IKE SA in use, or that was in use.
    ticket: Option<Ticket>,
    ticket_wanted: bool,
    /// Body of IDr of the IKE SA in use.
    id_r: Vec<u8>,
    /// Rekey SAs that a rekey replaced or deleted since the pending registration was asked for: an answer that brings one
    /// is older than that rekey.
    outdated: Vec<[u8; 16]>,
    /// A rekey in band came since then: an answer that is rekeyed in band, too, may be older than that.
    overtaken: bool,
    /// The last answer to a registration was such a one.
    stale: bool,
    /// The Delete that ended the last IKE SA, and our answer, in case it got lost.
    farewell: Option<(Vec<u8>, Vec<u8>)>,
    /// Acknowledgements that are sent at a time of their own.
    acks: Vec<(Duration, Vec<u8>)>,
    status: MemberStatus,
    key_log: Option<Box<dyn KeyLog + Send>>,
}

/// The IKE SA.
enum Link {
    Down,
    /// A TCP connection comes first.
    Dialing,
    Connecting(Box<Connecting>),
    Up(Sas),
}

/// What the member is about to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Goal {
    /// Nothing: it is where it wants to be.
    Rest,
    /// Establish an IKE SA.
    Connect,
    /// Register.
    Register,
    /// Leave the group.
    Leave,
}

/// A member at a glance.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct MemberStatus {
    /// What it is doing: `idle`, `connecting`, `registering`, `registered`, `connected`, `waiting`.
    pub state: &'static str,
    /// SPI of the newest Rekey SA, hexadecimal.
    pub rekey_spi: Option<String>,
    /// Message ID of the last rekey under it.
    pub last_counter: Option<u32>,
    /// Registrations so far.
    pub registrations: u64,
    /// Rekey messages taken.
    pub rekeys: u64,
    /// Copies of rekey messages that were already known.
    pub copies: u64,
    /// Rekeys that were noticed to have been missed.
    pub missed: u64,
    /// Rekey messages acknowledged, copies included.
    pub acknowledged: u64,
    /// Is it rekeyed in band?
    pub in_band: bool,
    /// Groups besides the first.
    pub further: Vec<FurtherStatus>,
    /// Times that the IKE SA got new keys.
    pub ike_rekeys: u64,
    /// IKE SAs that went on from a ticket.
    pub resumed: u64,
    /// Times that it was sent to another key server and went there.
    pub redirects: u64,
    /// Messages that did not verify or made no sense.
    pub rejected: u64,
    /// A NAT stands between member and key server.
    pub behind_nat: bool,
    /// The IKE SA goes over TCP.
    pub over_tcp: bool,
}

impl Member {
    /// A member at rest.
    #[must_use]
    pub fn new(settings: MemberSettings) -> Self {
        let mut preferences = Preferences::configured(&settings.ike2);
        if !settings.ke_groups.is_empty() && settings.ike2.groups.is_empty() {
            preferences.groups.clone_from(&settings.ke_groups);
        }
        if !settings.hashes.is_empty() && settings.ike2.prfs.is_empty() {
            preferences.prfs = settings.hashes.iter().map(|h| Prf::from_hash(*h)).collect();
        }
        Self {
            settings,
            preferences,
            link: Link::Down,
            goal: Goal::Rest,
            group: None,
            further: Vec::new(),
            retry_at: None,
            renew_at: None,
            ike: IkeOptions::default(),
            nat: Traversal::default(),
            redirects: Redirects::default(),
            tcp: Tcp::default(),
            ticket: None,
            ticket_wanted: false,
            id_r: Vec::new(),
            outdated: Vec::new(),
            overtaken: false,
            stale: false,
            farewell: None,
            acks: Vec::new(),
            status: MemberStatus::default(),
            key_log: None,
        }
    }

    /// Writes keys for Wireshark from now on.
    pub fn set_key_log(&mut self, log: Box<dyn KeyLog + Send>) {
        self.key_log = Some(log);
    }

    /// Keeps IKE SAs in this way from now on. A key server that does not answer when it is asked whether it lives loses the
    /// IKE SA; the keys stay.
    pub fn set_ike_options(&mut self, options: IkeOptions) {
        self.ike = options;
    }

    /// Holds the key server's certificate against another trust store from the next time on; without effect where it proves
    /// itself by a pre-shared key.
    pub fn set_trust(&mut self, trust: Trust) {
        self.forget_ticket();
        self.settings.auth.set_trust(trust);
    }

    /// Connects and registers.
    pub fn start(&mut self, ctx: &mut MemberCtx<'_>) {
        self.goal = if self.settings.connect_only { Goal::Connect } else { Goal::Register };
        self.retry_at = None;
        self.wake_further(Some(ctx.now.mono).filter(|_| !self.settings.connect_only));
        self.pursue(ctx);
    }

    /// Tells the key server that we leave; then [`MemberEvent::Left`]. The data SAs are the caller's to remove, who may
    /// want them until another protocol has brought new ones.
    pub fn leave(&mut self, ctx: &mut MemberCtx<'_>) {
        self.retry_at = None;
        self.renew_at = None;
        self.wake_further(None);
        if self.group.is_none()
            && self.further_status().iter().all(|f| !f.registered)
            && matches!(self.link, Link::Down)
        {
            self.goal = Goal::Rest;
            return ctx.event(MemberEvent::Left);
        }
        self.goal = Goal::Leave;
        self.pursue(ctx);
        self.tidy(ctx);
    }

    /// Registers anew soon, though the keys are good: sequence numbers or IVs run out (RFC 9838 section 3.3).
    pub fn reregister(&mut self, ctx: &mut MemberCtx<'_>) {
        if self.group.is_some() && self.goal == Goal::Rest {
            let millis = u64::try_from(self.settings.retry.as_millis()).unwrap_or(u64::MAX);
            let soon = ctx.now.mono + Duration::from_millis(ctx.rng.below(millis));
            self.renew_at = Some(self.renew_at.map_or(soon, |at| at.min(soon)));
        }
    }

    /// The key servers, and which of them is in use.
    #[must_use]
    pub fn key_servers(&self) -> &KeyServers {
        &self.settings.key_servers
    }

    /// A member at a glance.
    #[must_use]
    pub fn status(&self) -> MemberStatus {
        let current = self.group.as_ref().and_then(Group::current);
        let state = match &self.link {
            Link::Down | Link::Up(_) | Link::Dialing | Link::Connecting(_) if self.group.is_some() => "registered",
            Link::Down | Link::Up(_) if self.retry_at.is_some() => "waiting",
            Link::Dialing | Link::Connecting(_) => "connecting",
            Link::Up(_) if self.goal == Goal::Register => "registering",
            Link::Up(_) => "connected",
            Link::Down => "idle",
        };
        MemberStatus {
            state,
            rekey_spi: current.map(|sa| sa.spi.iter().map(|b| format!("{b:02x}")).collect()),
            last_counter: current.and_then(|sa| sa.expected.checked_sub(1)).and_then(|last| u32::try_from(last).ok()),
            over_tcp: self.tcp.is_on() && !matches!(self.link, Link::Down),
            in_band: self.group.as_ref().is_some_and(|g| g.in_band),
            further: self.further_status(),
            ..self.status.clone()
        }
    }

    /// When [`expire`](Self::expire) is wanted next.
    #[must_use]
    pub fn deadline(&self) -> Option<Deadline> {
        let link = match &self.link {
            Link::Down | Link::Dialing => None,
            Link::Connecting(c) => c.due_at(),
            Link::Up(sas) => sas.due_at(self.liveness()),
        };
        let due = [
            (link, "retransmission"),
            (self.retry_at, "another try"),
            (self.renew_at, "registration before keys end"),
            (self.group.as_ref().and_then(Group::next_expiry), "end of a Rekey SA"),
            (self.further_due(), "a further group"),
            (self.acks.iter().map(|(at, _)| *at).min(), "acknowledgement"),
            (self.nat.due_at(), "NAT keepalive"),
            (self.tcp.due_at(), "TCP connection"),
            (self.ticket_due(), "another ticket"),
        ];
        due.into_iter().map(|(at, reason)| at.map(|at| Deadline { at, reason })).fold(None, Deadline::earlier)
    }

    /// Takes a datagram, unicast or multicast, or a message out of a connection.
    pub fn receive(&mut self, ctx: &mut MemberCtx<'_>, dgram: Datagram<'_>) {
        self.take(ctx, dgram);
        self.tidy(ctx);
    }

    fn take(&mut self, ctx: &mut MemberCtx<'_>, dgram: Datagram<'_>) {
        let (header, body) = match Header::decode(dgram.bytes) {
            Ok((header, body)) if header.major == 2 => (header, body),
            Ok(_) | Err(_) => {
                self.status.rejected += 1;
                return;
            }
        };
        if ExchangeType(header.exchange) == ExchangeType::GSA_REKEY && !dgram.via.is_tcp() {
            return self.rekey(ctx, &dgram, &header);
        }
        // An SA stays with TCP, or with UDP, for its life (RFC 9329 section 5).
        if self.tcp.carrier() != dgram.via.connection() || self.tcp.is_on() != dgram.via.is_tcp() {
            self.status.rejected += 1;
            return;
        }
        if self.answer_again(ctx, &dgram) {
            return;
        }
        let response = header.flags & flags::RESPONSE != 0;
        let whole;
        let mut dgram = dgram;
        if header.next == PayloadKind::SKF.0 {
            let now = ctx.now.mono;
            let message = match &mut self.link {
                Link::Connecting(c) if c.spi_i() == header.spi_i => c.fragment(&header, dgram.bytes, now),
                Link::Up(sas) => sas.named_by(&header).and_then(|spi| self.fragment(now, &dgram, &header, spi)),
                Link::Down | Link::Dialing | Link::Connecting(_) => None,
            };
            let Some(message) = message else { return };
            whole = message;
            dgram.bytes = &whole;
        }
        match &self.link {
            Link::Connecting(c) if c.spi_i() == header.spi_i && response => {
                return self.connecting_response(ctx, &dgram, &header);
            }
            Link::Up(sas) => {
                if let Some(spi) = sas.named_by(&header) {
                    if is_doubt(&header, body) {
                        return self.doubt(ctx, &dgram, spi);
                    }
                    return match response {
                        true => self.response(ctx, &dgram, &header, spi),
                        false => self.request(ctx, &dgram, &header, spi),
                    };
                }
            }
            Link::Down | Link::Dialing | Link::Connecting(_) => {}
        }
        tracing::debug!(from = %dgram.from, "message to no SA of ours");
        self.status.rejected += 1;
    }

    /// Does what is due.
    pub fn expire(&mut self, ctx: &mut MemberCtx<'_>) {
        let now = ctx.now.mono;
        self.keep_mapping(ctx);
        self.tcp_due(ctx);
        match &self.link {
            Link::Down | Link::Dialing => {}
            Link::Connecting(_) => self.connecting_due(ctx),
            Link::Up(_) => self.up_due(ctx),
        }
        self.expire_ticket(ctx);
        self.send_acks(ctx);
        self.expire_further(ctx);
        if let Some(group) = &mut self.group {
            group.expire(now);
            if group.is_over() {
                // Whoever holds the data SAs knows when they end.
                tracing::info!("the group's keys have ended");
                self.group = None;
            }
        }
        if self.renew_at.is_some_and(|at| at <= now) {
            self.renew_at = None;
            if self.goal == Goal::Rest {
                tracing::info!("keys are about to end: registering anew");
                self.goal = Goal::Register;
                self.pursue(ctx);
            }
        }
        if self.retry_at.is_some_and(|at| at <= now) {
            self.retry_at = None;
            self.pursue(ctx);
        }
        self.tidy(ctx);
    }

    /// Verified: we are no member any more. Keys go at once, and we may ask again after a while
    /// (RFC 9838 section 2.4.3).
    fn excluded(&mut self, ctx: &mut MemberCtx<'_>) {
        if let Some(group) = self.group.take()
            && self.goal == Goal::Register
        {
            self.outdated.extend(group.rekey_sas.iter().map(|sa| sa.spi));
        }
        self.renew_at = None;
        ctx.out.push(MemberOutput::Flush);
        ctx.event(MemberEvent::Excluded);
        if self.goal != Goal::Leave {
            self.goal = Goal::Register;
            self.retry_later(ctx);
        }
    }

    /// Waits between one and two times the configured delay.
    fn retry_later(&mut self, ctx: &mut MemberCtx<'_>) {
        self.retry_at = Some(self.later(ctx));
    }

    fn later(&self, ctx: &mut MemberCtx<'_>) -> Duration {
        let retry = self.settings.retry;
        let micros = u64::try_from(retry.as_micros()).unwrap_or(u64::MAX - 1);
        ctx.now.mono + retry + Duration::from_micros(ctx.rng.below(micros.saturating_add(1)))
    }

    #[cfg(test)]
    #[allow(clippy::unwrap_used)]
    pub(crate) fn group_for_test(&self) -> &Group {
        self.group.as_ref().unwrap()
    }

    #[cfg(test)]
    pub(crate) fn sa_for_test(&mut self) -> Option<&mut crate::ike_sa::sa::IkeSa> {
        match &mut self.link {
            Link::Up(sas) => Some(&mut sas.current.sa),
            Link::Down | Link::Dialing | Link::Connecting(_) => None,
        }
    }

    fn backoff(&self) -> Backoff {
        Backoff { first: self.settings.retransmit, tries: self.settings.tries }
    }
}

/// Sends a message, in as many datagrams as it has. One that has no way will be asked for again when there is one.
fn send(ctx: &mut MemberCtx<'_>, message: impl Into<Option<Transmit>>) {
    let Some(message) = message.into() else { return };
    for datagram in datagrams(&message.bytes) {
        ctx.send(Transmit { bytes: datagram.to_vec(), ..message.clone() });
    }
}

/// Time and randomness of a step, apart from its outputs.
struct Step<'a> {
    now: Now,
    rng: &'a mut dyn Random,
}
