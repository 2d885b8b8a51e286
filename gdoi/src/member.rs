//! A group member's endpoint.
//!
//! ```text
//!  Idle --start--> Connecting --phase 1 stands--> Registering --keys--> Resting
//!                   ^  |                            |    ^                |
//!                   |  +--- no answer, refused -----+    |                | keys run out,
//!                   |        Resting, later again        +---- phase 1 ---+ or retry is due
//!                   +------------------------------------------ none -----+
//! ```
//!
//! Pushes are taken in every state once the member is registered. What the key server sends is checked as if it were an
//! attacker's: a forged datagram changes nothing, a genuine one never more than it may.

mod keeping;
mod nat;
mod options;
mod pushes;
mod session;
mod transport;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use keyferry_crypto::Random;
use keyferry_model::credentials::Trust;
use keyferry_model::drive::{Datagram, Transmit};
use keyferry_model::id::GroupId;
use keyferry_model::key_server::KeyServers;
use keyferry_model::reading::Readings;
use keyferry_model::settings::MemberSettings;
use keyferry_model::time::Deadline;
use keyferry_model::update::{MemberCtx, MemberEvent, MemberOutput};
use keyferry_wire::Header;
use serde::Serialize;

use crate::dpd::Liveness;
use crate::fragments::Reassembly;
use crate::keylog::{self, KeyLog};
use crate::message;
use crate::phase1::extensions::Extensions;
use crate::phase1::ike_sa::IkeSa;
use crate::phase1::initiator::Initiator;
use crate::policy::take::Taking;
use crate::pull::member::Pull;
use crate::push::member::Group;
use crate::reject::Reject;
use crate::wire::registry::{exchange, payload};
use nat::Traversal;

pub use options::{NAT_PORT, Phase1Options};

/// A member's endpoint. It does no I/O: drive it with datagrams and time, and carry out what it puts out.
pub struct Member {
    settings: MemberSettings,
    goal: Goal,
    phase: Phase,
    /// The phase 1 that is to take the place of the present one.
    successor: Option<(Box<Initiator>, Repeats)>,
    /// The groups it joins, at least one.
    groups: Vec<Membership>,
    /// Our address as the key server reaches it.
    own: IpAddr,
    /// Key servers, by their place in the list, with which there has been a phase 1 SA since we exist.
    contacted: BTreeSet<usize>,
    acks: Vec<PendingAck>,
    nat: Traversal,
    /// How the key server was seen to read phase 1, other than we do.
    seen: Readings,
    fragments: Reassembly,
    status: MemberStatus,
    options: Phase1Options,
    key_log: Option<Box<dyn KeyLog + Send>>,
}

/// What phase 1 is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Goal {
    Register,
    Connect,
    Leave,
}

enum Phase {
    /// Not started, or gone.
    Idle,
    /// Phase 1 is under way.
    Connecting(Box<Initiator>, Repeats),
    /// A GROUPKEY-PULL is under way.
    Registering(Box<Registering>),
    /// Nothing is under way, until the time of a membership has come.
    Resting(Option<Box<Session>>),
}

/// A group that the member joins. All of them are registered for over one phase 1 SA, one after the other.
struct Membership {
    id: GroupId,
    group: Option<Group>,
    /// When it is registered for, or anew; monotonic. What has come stays until the registration succeeds or fails.
    wake: Option<Duration>,
    registrations: u64,
    rekeys: u64,
}

impl Membership {
    fn new(id: GroupId) -> Self {
        Self { id, group: None, wake: None, registrations: 0, rekeys: 0 }
    }

    fn is_due(&self, mono: Duration) -> bool {
        self.wake.is_some_and(|at| at <= mono)
    }

    fn status(&self) -> GroupStatus {
        let newest = self.group.as_ref().and_then(Group::newest);
        GroupStatus {
            group: self.id.to_string(),
            registered: self.group.is_some(),
            rekey_spi: newest.map(|(spi, _)| spi.iter().map(|b| format!("{b:02x}")).collect()),
            last_counter: newest.map_or(0, |(_, seq)| seq),
            registrations: self.registrations,
            rekeys: self.rekeys,
        }
    }
}

/// A phase 1 SA.
struct Session {
    sa: IkeSa,
    expires: Duration,
    /// When a successor is begun, if it is kept.
    renew: Duration,
    /// What both sides can do.
    extensions: Extensions,
    liveness: Liveness,
    /// Message IDs of notices that did something.
    notices: BTreeSet<u32>,
    /// Message 3 of aggressive mode, until the key server has shown that it has it.
    message3: Option<Message3>,
}

/// The last message of aggressive mode. Nobody acknowledges it, so it goes again with what is sent next, and when the message
/// that it answers comes again.
struct Message3 {
    bytes: Vec<u8>,
    /// Hash of message 2.
    answers: Vec<u8>,
}

struct Registering {
    session: Session,
    /// The place of its group.
    at: usize,
    pull: Pull,
    repeats: Repeats,
    /// How often the key server made us begin again.
    restarts: u8,
    /// Has nothing come through this SA lately? Then it may be gone on the other side.
    stale: bool,
}

/// The longest wait between two repeats.
const MAX_INTERVAL: Duration = Duration::from_secs(64);

/// Retransmission: each wait is twice the one before, with jitter.
#[derive(Clone, Copy, Debug)]
struct Repeats {
    sent: u8,
    interval: Duration,
    at: Duration,
}

impl Repeats {
    fn start(settings: &MemberSettings, mono: Duration, rng: &mut dyn Random) -> Self {
        Self { sent: 0, interval: settings.retransmit, at: mono + jitter(settings.retransmit, rng) }
    }

    fn next(&mut self, mono: Duration, rng: &mut dyn Random) {
        self.sent = self.sent.saturating_add(1);
        self.interval = self.interval.saturating_mul(2).min(MAX_INTERVAL);
        self.at = mono + jitter(self.interval, rng);
    }
}

/// Says of the outputs behind the first `kept` that they are about a group, unless it is the first. Messages are about none.
fn about(ctx: &mut MemberCtx<'_>, kept: usize, at: usize) {
    for output in ctx.out.split_off(if at == 0 { ctx.out.len() } else { kept }) {
        ctx.out.push(match output {
            MemberOutput::Send(_)
            | MemberOutput::Listen(_)
            | MemberOutput::Dial { .. }
            | MemberOutput::HangUp(_)
            | MemberOutput::Of(..) => output,
            MemberOutput::Update(_) | MemberOutput::Streams(_) | MemberOutput::Flush | MemberOutput::Event(_) => {
                MemberOutput::Of(at, Box::new(output))
            }
        });
    }
}

/// Up to a quarter more.
fn jitter(d: Duration, rng: &mut dyn Random) -> Duration {
    d + below(d / 4, rng)
}

fn below(d: Duration, rng: &mut dyn Random) -> Duration {
    Duration::from_millis(rng.below(u64::try_from(d.as_millis()).unwrap_or(u64::MAX)))
}

struct PendingAck {
    at: Duration,
    /// The place of its group.
    group: usize,
    /// SEQ of the push, unless this is a repeat.
    counter: Option<u32>,
    transmit: Transmit,
}

/// A member at a glance.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct MemberStatus {
    /// What it is doing: `idle`, `connecting`, `registering`, `registered`, `connected`, `waiting`.
    pub state: &'static str,
    /// SPI of the newest rekey SA, in hexadecimal.
    pub rekey_spi: Option<String>,
    /// Last SEQ taken under it, or told at registration.
    pub last_counter: u32,
    /// Registrations so far.
    pub registrations: u64,
    /// Pushes taken.
    pub rekeys: u64,
    /// Acknowledgements sent, repeats included.
    pub acks_sent: u64,
    /// Datagrams that were not taken.
    pub rejected: u64,
    /// A translator stands in front of the member.
    pub behind_nat: bool,
    /// In which ways the key server was seen to read RFC 6407 and phase 1 other than we do.
    pub readings: Readings,
    /// Each of its groups.
    pub groups: Vec<GroupStatus>,
}

/// A group of a member at a glance.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct GroupStatus {
    /// Its identity.
    pub group: String,
    /// Are there keys of it?
    pub registered: bool,
    /// SPI of the newest rekey SA, in hexadecimal.
    pub rekey_spi: Option<String>,
    /// Last SEQ taken under it, or told at registration.
    pub last_counter: u32,
    /// Registrations so far.
    pub registrations: u64,
    /// Pushes taken.
    pub rekeys: u64,
}

impl Member {
    /// A member that does nothing yet.
    #[must_use]
    pub fn new(settings: MemberSettings) -> Self {
        Self {
            goal: if settings.connect_only { Goal::Connect } else { Goal::Register },
            own: settings.local.ip(),
            groups: vec![Membership::new(settings.group.clone())],
            settings,
            phase: Phase::Idle,
            successor: None,
            contacted: BTreeSet::new(),
            acks: Vec::new(),
            nat: Traversal::default(),
            seen: Readings::NONE,
            fragments: Reassembly::default(),
            status: MemberStatus::default(),
            options: Phase1Options::default(),
            key_log: None,
        }
    }

    /// Writes keys for Wireshark from now on.
    pub fn set_key_log(&mut self, log: Box<dyn KeyLog + Send>) {
        self.key_log = Some(log);
    }

    /// Holds the key server's certificate against another trust store from the next time on; without effect where it proves
    /// itself by a pre-shared key.
    pub fn set_trust(&mut self, trust: Trust) {
        self.settings.auth.set_trust(trust);
    }

    /// Makes phase 1 otherwise than by default from the next time on.
    pub fn set_phase1(&mut self, options: Phase1Options) {
        self.options = options;
    }

    /// Joins a further group, over the same phase 1 SA. What comes out about it is [`MemberOutput::Of`] it.
    pub fn add_group(&mut self, group: GroupId) {
        self.groups.push(Membership::new(group));
    }

    /// Connects to the key server and registers.
    pub fn start(&mut self, ctx: &mut MemberCtx<'_>) {
        self.goal = if self.settings.connect_only { Goal::Connect } else { Goal::Register };
        if self.goal == Goal::Register {
            self.wake_all(ctx.now.mono);
        }
        self.pursue(ctx);
    }

    /// Takes a datagram, unicast or multicast.
    pub fn receive(&mut self, ctx: &mut MemberCtx<'_>, dgram: Datagram<'_>) {
        let kept = ctx.out.len();
        if let Err(reject) = self.take(ctx, &dgram) {
            self.status.rejected += 1;
            tracing::debug!(from = %dgram.from, %reject, "datagram not taken");
        }
        self.cut_up(ctx, kept);
    }

    fn take(&mut self, ctx: &mut MemberCtx<'_>, dgram: &Datagram<'_>) -> Result<(), Reject> {
        let (header, body) = Header::decode(dgram.bytes)?;
        message::check_header(&header)?;
        if header.exchange == exchange::PUSH {
            return self.push(ctx, &header, dgram);
        }
        if dgram.from.ip() != self.settings.gateway().ip() {
            return Err(Reject::Unauthenticated("not from the key server"));
        }
        if header.next == payload::FRAGMENT {
            return self.fragment(ctx, &header, body, dgram);
        }
        match header.exchange {
            exchange::MAIN_MODE | exchange::AGGRESSIVE => self.phase1(ctx, &header, body, dgram),
            exchange::INFORMATIONAL => self.notice(ctx, &header, body),
            exchange::PULL => self.pull(ctx, &header, body),
            _ => Err(Reject::Unauthenticated("exchange type")),
        }
    }

    /// Does what is due.
    pub fn expire(&mut self, ctx: &mut MemberCtx<'_>) {
        let (mono, kept) = (ctx.now.mono, ctx.out.len());
        self.send_acks_until(ctx, mono);
        self.keep_mapping(ctx);
        self.groups.iter_mut().filter_map(|m| m.group.as_mut()).for_each(|group| group.expire(mono));
        self.expire_session(ctx);
        self.cut_up(ctx, kept);
    }

    fn send_acks_until(&mut self, ctx: &mut MemberCtx<'_>, until: Duration) {
        for ack in self.acks.extract_if(.., |a| a.at <= until).collect::<Vec<_>>() {
            self.status.acks_sent += 1;
            ctx.send(ack.transmit);
            let kept = ctx.out.len();
            if let Some(counter) = ack.counter {
                ctx.event(MemberEvent::Acknowledged { counter });
            }
            about(ctx, kept, ack.group);
        }
    }

    /// When [`expire`](Self::expire) is wanted next.
    #[must_use]
    pub fn deadline(&self) -> Option<Deadline> {
        let deadline = |at: Option<Duration>, reason| at.map(|at| Deadline { at, reason });
        let phase = match &self.phase {
            Phase::Idle => None,
            Phase::Connecting(initiator, repeats) => Deadline::earlier(
                deadline(initiator.due(), "key exchange in doubt"),
                deadline(Some(repeats.at), "phase 1 repeat"),
            ),
            Phase::Registering(r) => deadline(Some(r.repeats.at), "GROUPKEY-PULL repeat"),
            Phase::Resting(_) => deadline(self.groups.iter().filter_map(|m| m.wake).min(), "registration"),
        };
        let acks = deadline(self.acks.iter().map(|a| a.at).min(), "acknowledgement");
        let due = self.groups.iter().filter_map(|m| m.group.as_ref().and_then(Group::due)).min();
        let group = deadline(due, "rekey SA expires");
        [acks, group, self.kept_due(), self.mapping_due()].into_iter().fold(phase, Deadline::earlier)
    }

    /// Registers anew soon, though the keys are good: sequence numbers or IVs run out (RFC 6407 section 5.6.4.3).
    pub fn reregister(&mut self, ctx: &mut MemberCtx<'_>) {
        let soon = ctx.now.mono + below(self.settings.retry, ctx.rng);
        if self.goal == Goal::Register && matches!(self.phase, Phase::Resting(_)) {
            for membership in self.groups.iter_mut().filter(|m| m.group.is_some()) {
                membership.wake = Some(membership.wake.map_or(soon, |at| at.min(soon)));
            }
        }
    }

    /// Everything is registered for, or anew, at this time.
    fn wake_all(&mut self, at: Duration) {
        self.groups.iter_mut().for_each(|m| m.wake = Some(at));
    }

    /// What was to be registered for by now is so at this time.
    fn put_off(&mut self, mono: Duration, at: Duration) {
        self.groups.iter_mut().filter(|m| m.is_due(mono)).for_each(|m| m.wake = Some(at));
    }

    /// The first group; there is always one.
    fn first(&self) -> &Membership {
        &self.groups[0]
    }

    /// The key servers, and which of them is in use.
    #[must_use]
    pub fn key_servers(&self) -> &KeyServers {
        &self.settings.key_servers
    }

    /// Leaves the group: tells the key server, as far as GDOI allows, by deleting the rekey SA and phase 1. The data SAs
    /// are left to whoever carries out [`MemberEvent::Left`].
    pub fn leave(&mut self, ctx: &mut MemberCtx<'_>) {
        self.goal = Goal::Leave;
        self.acks.clear();
        self.pursue(ctx);
    }

    /// The member at a glance.
    #[must_use]
    pub fn status(&self) -> MemberStatus {
        let state = match &self.phase {
            Phase::Idle => "idle",
            Phase::Connecting(..) => "connecting",
            Phase::Registering(_) => "registering",
            Phase::Resting(_) if self.groups.iter().all(|m| m.group.is_some()) => "registered",
            Phase::Resting(Some(_)) if self.groups.iter().all(|m| m.wake.is_none()) => "connected",
            Phase::Resting(_) => "waiting",
        };
        let first = self.first().status();
        MemberStatus {
            state,
            behind_nat: self.nat.is_ours(),
            rekey_spi: first.rekey_spi,
            last_counter: first.last_counter,
            readings: self.first().group.as_ref().map(Group::readings).unwrap_or_default().union(self.seen),
            groups: self.groups.iter().map(Membership::status).collect(),
            ..self.status.clone()
        }
    }

    /// The key server in use fails: when to turn to the next.
    fn failover_at(&mut self, ctx: &mut MemberCtx<'_>) -> Duration {
        let before = self.settings.gateway();
        let wait = self.settings.key_servers.failed(self.settings.retry, ctx.rng);
        if self.settings.key_servers.has_others() {
            tracing::info!(gateway = %before, next = %self.settings.gateway(), ?wait, "key server fails");
        }
        ctx.now.mono + wait
    }

    /// Some time between the retry delay and twice that.
    fn retry_at(&self, ctx: &mut MemberCtx<'_>) -> Duration {
        ctx.now.mono + self.settings.retry + below(self.settings.retry, ctx.rng)
    }

    /// What is taken from the key server.
    fn taking(&self, registering: bool) -> Taking {
        Taking {
            sender: self.settings.sender_ids > 0,
            weak: self.settings.gdoi.danger_weak_rekey,
            unknown_kek_attributes: self.settings.gdoi.accept_unknown_kek_attributes,
            registering,
            tunnel: self.settings.tunnel(),
        }
    }

    /// Logs the newest KEK, if somebody asked for keys.
    fn log_kek(&mut self, at: usize) {
        let line = self.groups[at].group.as_ref().and_then(Group::key_log_line);
        if let (Some(log), Some(line)) = (&mut self.key_log, line) {
            log.log(keylog::KEKS, &line);
        }
    }

    /// A group's keys are gone.
    fn drop_group(&mut self, ctx: &mut MemberCtx<'_>, at: usize) {
        self.groups[at].group = None;
        ctx.out.push(MemberOutput::Flush);
    }
}
