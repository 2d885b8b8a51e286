//! The owner of a member's machines: feeds them, and carries out what they want.

use std::time::Duration;

use dataplane::engine::Userspace;
use keyferry_crypto::Hash;
use keyferry_model::credentials::Trust;
use keyferry_model::drive::Datagram;
use keyferry_model::id::{Identity, Protocol};
use keyferry_model::key_server::KeyServers;
use keyferry_model::settings::{Ike2Settings, MemberAuth, MemberSettings};
use keyferry_model::time::Deadline;
use keyferry_model::update::{GroupUpdate, MemberEvent, MemberOutput};
use keyferry_wire::{major_version, split_marker};
use tokio::sync::{mpsc, oneshot};

use super::listening::Listening;
use super::machine::Machine;
use super::network::Routes;
use super::stream_keys::StreamKeys;
use crate::config::MemberConfig;
use crate::control::{Call, MemberCounters, MemberStatus, Reply, Request};
use crate::keylog::FileKeyLog;
use crate::random::{Clock, OsRandom};
use crate::udp::Received;

/// Longest sleep.
const LONGEST_SLEEP: Duration = Duration::from_secs(5);

/// Shortest time between two looks at the timers.
const SHORTEST_SLEEP: Duration = Duration::from_millis(1);

/// How long a move may take before the member stays where it is.
const MOVE_PATIENCE: Duration = Duration::from_secs(60);

/// How long the key server may take to confirm that a member leaves.
const LEAVE_PATIENCE: Duration = Duration::from_secs(3);

/// Between two registrations for want of sequence numbers or IVs: where new keys are needed they take a rekey.
const ASK_ANEW: Duration = Duration::from_secs(300);

/// What a runner is made of.
pub(super) struct Parts {
    pub(super) config: MemberConfig,
    pub(super) identity: Identity,
    pub(super) clock: Clock,
    pub(super) engine: Userspace,
    pub(super) routes: Routes,
    pub(super) listening: Listening,
    pub(super) key_log: Option<FileKeyLog>,
}

/// Which machine made an output. The two never speak the same protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Who {
    Present,
    Next,
}

/// A move to the other protocol that is under way.
struct Move {
    machine: Machine,
    reply: oneshot::Sender<Reply>,
    until: Duration,
}

pub(super) struct Runner {
    parts: Parts,
    present: Machine,
    next: Option<Move>,
    streams: StreamKeys,
    /// Who asked the member to leave.
    leaving: Vec<oneshot::Sender<Reply>>,
    registered: bool,
    /// When a registration was last asked for because sequence numbers or IVs run out.
    asked_anew: Option<Duration>,
    counters: MemberCounters,
    last_error: Option<String>,
    last_expire: Duration,
}

impl Runner {
    pub(super) fn new(parts: Parts) -> Self {
        let present = machine(&parts, parts.config.protocol, 0);
        let config = &parts.config;
        let streams =
            StreamKeys::new(config.stream_keys.clone(), config.group.to_string(), config.danger_unprotected_streams);
        Self {
            streams,
            parts,
            present,
            next: None,
            leaving: Vec::new(),
            registered: false,
            asked_anew: None,
            counters: MemberCounters::default(),
            last_error: None,
            last_expire: Duration::ZERO,
        }
    }

    /// Begins to register.
    pub(super) async fn start(&mut self) {
        let outputs = self.present.start(self.parts.clock.now(), &mut OsRandom);
        self.carry_out(self.present.protocol(), outputs).await;
    }

    /// A datagram goes to the machine of its protocol.
    pub(super) async fn receive(&mut self, received: &Received) {
        let (marker, bytes) = split_marker(&received.bytes);
        // What has no marker on the way through a translator is ESP (RFC 3948 section 2.2).
        if !marker && self.parts.listening.is_nat_port(received.to.port()) {
            return;
        }
        let protocol = match major_version(bytes) {
            Some(1) => Protocol::Gdoi,
            Some(2) => Protocol::Gikev2,
            Some(_) | None => return,
        };
        let datagram = Datagram { from: received.from, to: received.to, marker, bytes };
        let now = self.parts.clock.now();
        if self.present.protocol() == protocol {
            let outputs = self.present.receive(now, &mut OsRandom, datagram);
            self.carry_out(self.present.protocol(), outputs).await;
        } else if let Some(next) = self.next.as_mut().filter(|n| n.machine.protocol() == protocol) {
            let outputs = next.machine.receive(now, &mut OsRandom, datagram);
            self.carry_out(protocol, outputs).await;
        }
    }

    /// Does what is due.
    pub(super) async fn expire(&mut self) {
        let now = self.parts.clock.now();
        self.last_expire = now.mono;
        self.parts.engine.expire(now);
        self.streams.expire(now);
        let outputs = self.present.expire(now, &mut OsRandom);
        self.carry_out(self.present.protocol(), outputs).await;
        if let Some(next) = &mut self.next {
            let (protocol, outputs) = (next.machine.protocol(), next.machine.expire(now, &mut OsRandom));
            self.carry_out(protocol, outputs).await;
        }
        if self.next.as_ref().is_some_and(|n| n.until <= now.mono) {
            self.move_failed("the key server did not register the member in time").await;
        }
        let short = self.parts.engine.needs_rekey();
        if short && self.asked_anew.is_none_or(|at| at + ASK_ANEW <= now.mono) {
            tracing::warn!("sequence numbers or IVs are running out: the member registers anew");
            self.asked_anew = Some(now.mono);
            let outputs = self.present.reregister(now, &mut OsRandom);
            self.carry_out(self.present.protocol(), outputs).await;
        }
    }

    /// Holds the key server's certificate against another trust store from the next time on.
    pub(super) fn set_trust(&mut self, trust: &Trust) {
        if let MemberAuth::Certificate(auth) = &mut self.parts.config.auth {
            auth.trust = trust.clone();
        }
        self.present.set_trust(trust);
        if let Some(next) = &mut self.next {
            next.machine.set_trust(trust);
        }
    }

    /// Sleeps until something is due.
    pub(super) async fn sleep(&self) {
        let now = self.parts.clock.now();
        let next = self.next.as_ref().map(|n| {
            let give_up = Deadline { at: n.until, reason: "a move takes too long" };
            Deadline::earlier(n.machine.deadline(), Some(give_up)).unwrap_or(give_up)
        });
        let due = Deadline::earlier(self.present.deadline(), self.parts.engine.deadline());
        let due = Deadline::earlier(due, self.streams.deadline(now));
        let at = Deadline::earlier(due, next).map_or(Duration::MAX, |d| d.at);
        let at = at.clamp(self.last_expire + SHORTEST_SLEEP, now.mono + LONGEST_SLEEP);
        tokio::time::sleep_until(self.parts.clock.instant(at).into()).await;
    }

    /// Carries out a request.
    pub(super) async fn call(&mut self, call: Call) {
        match call.request {
            Request::Status => drop(call.reply.send(Reply::of(&self.status()))),
            Request::Move { to } => self.begin_move(to, call.reply).await,
            Request::Leave => self.begin_leave(call.reply).await,
            Request::Members { .. }
            | Request::Rekeys { .. }
            | Request::Rekey { .. }
            | Request::Reload
            | Request::Evict { .. }
            | Request::Readmit { .. } => {
                let why = "this is a member; gateways do that (--socket names a gateway's socket)";
                drop(call.reply.send(Reply::Error(why.to_owned())));
            }
        }
    }

    /// Ends: leaves the group if configured so, tells the key server, and takes the data plane down.
    pub(super) async fn end(mut self, datagrams: &mut mpsc::Receiver<Received>) {
        let now = self.parts.clock.now();
        if let Some(next) = self.next.take() {
            drop(next.reply.send(Reply::Error("the member ends".to_owned())));
        }
        if self.parts.config.leave_on_exit && self.registered {
            let (reply, mut left) = oneshot::channel();
            self.begin_leave(reply).await;
            let patience = tokio::time::sleep(LEAVE_PATIENCE);
            tokio::pin!(patience);
            loop {
                tokio::select! {
                    _ = &mut left => break,
                    () = &mut patience => break,
                    Some(datagram) = datagrams.recv() => self.receive(&datagram).await,
                    () = self.sleep() => self.expire().await,
                }
            }
        } else {
            for output in self.present.disconnect(now, &mut OsRandom) {
                if let MemberOutput::Send(transmit) = output {
                    self.parts.listening.send(&transmit).await;
                }
            }
        }
        self.streams.end();
        self.parts.engine.stop();
    }

    async fn begin_move(&mut self, to: Protocol, reply: oneshot::Sender<Reply>) {
        let refusal = match (&self.next, self.present.protocol() == to) {
            (Some(next), _) => Some(format!("a move to {} is under way", next.machine.protocol())),
            (None, true) => Some(format!("the member speaks {to} already")),
            (None, false) => None,
        };
        if let Some(why) = refusal {
            drop(reply.send(Reply::Error(why)));
            return;
        }
        tracing::info!(from = %self.present.protocol(), %to, "member moves");
        let now = self.parts.clock.now();
        let mut machine = machine(&self.parts, to, self.present.key_servers().place());
        let outputs = machine.start(now, &mut OsRandom);
        self.next = Some(Move { machine, reply, until: now.mono + MOVE_PATIENCE });
        self.carry_out(to, outputs).await;
    }

    /// The other protocol's machine takes over. The old one closes its SA and says nothing to the group: a fresh
    /// registration replaces it at the key server.
    async fn complete_move(&mut self) {
        let Some(Move { machine, reply, .. }) = self.next.take() else { return };
        let mut old = std::mem::replace(&mut self.present, machine);
        self.counters.moves += 1;
        self.registered = true;
        tracing::info!(from = %old.protocol(), to = %self.present.protocol(), "member has moved");
        for output in old.disconnect(self.parts.clock.now(), &mut OsRandom) {
            if let MemberOutput::Send(transmit) = output {
                self.parts.listening.send(&transmit).await;
            }
        }
        drop(reply.send(Reply::of(&self.present.protocol())));
    }

    async fn move_failed(&mut self, why: &str) {
        let Some(mut failed) = self.next.take() else { return };
        let to = failed.machine.protocol();
        let why = format!("the move to {to} failed, the member stays with {}: {why}", self.present.protocol());
        tracing::warn!("{why}");
        for output in failed.machine.disconnect(self.parts.clock.now(), &mut OsRandom) {
            if let MemberOutput::Send(transmit) = output {
                self.parts.listening.send(&transmit).await;
            }
        }
        self.last_error = Some(why.clone());
        drop(failed.reply.send(Reply::Error(why)));
    }

    async fn begin_leave(&mut self, reply: oneshot::Sender<Reply>) {
        self.move_failed("the member leaves the group").await;
        self.leaving.push(reply);
        let outputs = self.present.leave(self.parts.clock.now(), &mut OsRandom);
        self.carry_out(self.present.protocol(), outputs).await;
    }

    /// Carries out what the machine of a protocol wants.
    async fn carry_out(&mut self, protocol: Protocol, outputs: Vec<MemberOutput>) {
        for output in outputs {
            // An output before this one may have completed the move, or ended it.
            let who = if self.present.protocol() == protocol {
                Who::Present
            } else if self.next.is_some() {
                Who::Next
            } else {
                return;
            };
            match output {
                MemberOutput::Send(transmit) => self.parts.listening.send(&transmit).await,
                MemberOutput::Update(update) => self.update(who, update).await,
                // The present protocol's keys are in use still; a machine on its way in has none to lose.
                MemberOutput::Flush if who == Who::Next => {}
                MemberOutput::Flush => {
                    self.parts.engine.flush();
                    self.streams.flush(self.parts.clock.now());
                }
                MemberOutput::Streams(update) => self.streams.apply(update, self.parts.clock.now()),
                MemberOutput::Listen(address) => self.parts.listening.listen(address),
                MemberOutput::Event(event) => self.event(who, protocol, event).await,
            }
        }
    }

    /// New keys: what they protect is routed into the TUN device first, so that nothing of it leaves in clear.
    async fn update(&mut self, who: Who, update: GroupUpdate) {
        if self.parts.config.routes {
            for sa in &update.install {
                let destination = sa.policy.destination;
                if let Err(error) = self.parts.routes.add(destination.address, destination.prefix).await {
                    tracing::error!("{error:#}");
                    self.last_error = Some(format!("{error:#}"));
                }
            }
        }
        if let Err(error) = self.parts.engine.apply(update, self.parts.clock.now()) {
            let why = format!("the data plane refuses the group's keys: {error}");
            if who == Who::Next {
                self.move_failed(&why).await;
            } else {
                tracing::error!("{why}");
                self.last_error = Some(why);
            }
        }
    }

    async fn event(&mut self, who: Who, protocol: Protocol, event: MemberEvent) {
        let moving = who == Who::Next;
        match event {
            MemberEvent::Connected => tracing::info!(%protocol, "the key server is authenticated"),
            MemberEvent::Registered => {
                self.counters.registrations += 1;
                self.registered = true;
                self.last_error = None;
                tracing::info!(%protocol, "registered");
                if moving {
                    self.complete_move().await;
                }
            }
            MemberEvent::Rekeyed { counter } => {
                self.counters.rekeys += 1;
                tracing::info!(%protocol, counter, "rekeyed");
            }
            MemberEvent::Acknowledged { counter } => {
                self.counters.acknowledgements += 1;
                tracing::debug!(%protocol, counter, "rekey acknowledged");
            }
            MemberEvent::Disconnected => tracing::debug!(%protocol, "the registration SA is closed; the keys stay"),
            MemberEvent::Excluded => {
                self.counters.exclusions += 1;
                tracing::warn!(%protocol, "the key server has excluded this member, or reset the group");
                if moving {
                    self.move_failed("the key server excluded the member").await;
                } else {
                    self.registered = false;
                }
            }
            MemberEvent::Refused(why) => {
                self.counters.refusals += 1;
                tracing::warn!(%protocol, %why, "the key server refuses");
                self.failed(moving, why).await;
            }
            MemberEvent::Unanswered => {
                self.counters.unanswered += 1;
                let next = self.present.key_servers().present().address;
                let why = match self.parts.config.gateways.as_slice() {
                    [one] => format!("the key server {} does not answer", one.address),
                    _ => format!("the key server does not answer, the next is {next}"),
                };
                tracing::warn!(%protocol, "{why}");
                self.failed(moving, why).await;
            }
            MemberEvent::Left => {
                tracing::info!(%protocol, "left the group");
                self.registered = false;
                self.parts.engine.flush();
                self.streams.flush(self.parts.clock.now());
                for reply in self.leaving.drain(..) {
                    drop(reply.send(Reply::of(&true)));
                }
            }
        }
    }

    async fn failed(&mut self, moving: bool, why: String) {
        if moving {
            self.move_failed(&why).await;
        } else {
            self.last_error = Some(why);
        }
    }

    fn status(&self) -> MemberStatus {
        let (state, machine) = self.present.status();
        let config = &self.parts.config;
        MemberStatus {
            role: "member".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            uptime: self.parts.clock.now().mono.as_secs(),
            protocol: self.present.protocol(),
            moving_to: self.next.as_ref().map(|n| n.machine.protocol()),
            state,
            registered: self.registered,
            identity: self.parts.identity.clone(),
            group: config.group.clone(),
            local: self.parts.listening.local(),
            gateway: self.present.key_servers().present().address,
            gateways: config.gateways.iter().map(|g| g.address).collect(),
            listening: self.parts.listening.groups(),
            overrun: self.parts.listening.overrun(),
            counters: self.counters,
            last_error: self.last_error.clone().or_else(|| self.streams.problem().map(str::to_owned)),
            machine,
            streams: self.streams.status(self.parts.clock.now()),
            dataplane: serde_json::to_value(self.parts.engine.status()).unwrap_or_default(),
        }
    }
}

/// A machine for one of the protocols, as configured, that begins with the key server at this place.
fn machine(parts: &Parts, protocol: Protocol, key_server: usize) -> Machine {
    let config = &parts.config;
    let mut key_servers = KeyServers::new(config.gateways.clone());
    key_servers.turn_to(key_server);
    // What is weak is for IKEv1 alone.
    let strong = protocol == Protocol::Gikev2;
    let ke_groups = config.ke_groups.iter().copied().filter(|g| !(strong && g.is_weak()));
    let hashes = config.hashes.iter().copied().filter(|h| !(strong && *h == Hash::Sha1));
    let settings = MemberSettings {
        key_servers,
        local: parts.listening.local(),
        group: config.group.clone(),
        identity: parts.identity.clone(),
        auth: config.auth.clone(),
        phase1: config.phase1.clone(),
        sender_ids: config.sender_ids,
        ke_groups: ke_groups.collect(),
        hashes: hashes.collect(),
        marker: config.marker,
        retransmit: config.retransmit,
        tries: config.tries,
        retry: config.retry,
        ack_jitter: config.ack_jitter,
        connect_only: config.connect_only,
        gdoi: config.gdoi,
        ike2: Ike2Settings::default(),
        traffic: config.traffic.clone(),
    };
    Machine::new(protocol, settings, (config.life.clone(), config.ike), parts.key_log.as_ref())
}
