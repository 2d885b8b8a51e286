//! The owner of a member's machines: feeds them, and carries out what they want.

use std::path::Path;
use std::time::Duration;

use keyferry_crypto::Hash;
use keyferry_model::credentials::Trust;
use keyferry_model::drive::{Datagram, Transmit, Via};
use keyferry_model::id::{GroupId, Identity, Protocol};
use keyferry_model::key_server::KeyServers;
use keyferry_model::settings::MemberSettings;
use keyferry_model::time::Deadline;
use keyferry_model::update::{MemberEvent, MemberOutput};
use keyferry_wire::{Frame, major_version, split_marker};
use tokio::sync::{mpsc, oneshot};

use super::connections::Connections;
use super::guard::Finished;
use super::joined::{Joined, Updated};
use super::key_logging::KeyLogging;
use super::listening::Listening;
use super::machine::Machine;
use super::trace::{self, Traces};
use crate::config::MemberConfig;
use crate::control::{Call, MemberCounters, MemberStatus, Reply, Request};
use crate::keylog::FileKeyLog;
use crate::metrics;
use crate::random::{Clock, OsRandom};
use crate::tcp::Event;
use crate::udp::Received;

mod moving;

use moving::Move;

/// Longest sleep.
const LONGEST_SLEEP: Duration = Duration::from_secs(5);

/// Shortest time between two looks at the timers.
const SHORTEST_SLEEP: Duration = Duration::from_millis(1);

/// How long the key server may take to confirm that a member leaves.
const LEAVE_PATIENCE: Duration = Duration::from_secs(3);

/// Between two registrations for want of sequence numbers, IVs or octets that have brought none: where new keys are needed they
/// take a rekey.
const ASK_ANEW: Duration = Duration::from_secs(300);

/// What a runner is made of.
pub(super) struct Parts {
    pub(super) config: MemberConfig,
    pub(super) identity: Identity,
    pub(super) clock: Clock,
    /// The groups, in the configuration's order.
    pub(super) joined: Vec<Joined>,
    pub(super) listening: Listening,
    pub(super) connections: Connections,
    pub(super) key_log: Option<FileKeyLog>,
}

/// Which machine made an output. The two never speak the same protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Who {
    Present,
    Next,
}

pub(super) struct Runner {
    parts: Parts,
    present: Machine,
    next: Option<Move>,
    /// Who asked the member to leave.
    leaving: Vec<oneshot::Sender<Reply>>,
    /// When a registration was last asked for because sequence numbers, IVs or octets run out, as they do still.
    asked_anew: Option<Duration>,
    /// When the member last fell back to the other protocol, or tried to.
    fell_back: Option<Duration>,
    counters: MemberCounters,
    last_error: Option<String>,
    traces: Traces,
    key_logging: KeyLogging,
    last_expire: Duration,
}

impl Runner {
    pub(super) fn new(parts: Parts) -> Self {
        let present = machine(&parts, parts.config.protocol, 0);
        Self {
            parts,
            present,
            next: None,
            leaving: Vec::new(),
            asked_anew: None,
            fell_back: None,
            counters: MemberCounters::default(),
            last_error: None,
            traces: Traces::default(),
            key_logging: KeyLogging::default(),
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
        let datagram = Datagram { from: received.from, to: received.to, via: Via::udp(marker), bytes };
        let now = self.parts.clock.now();
        if self.present.protocol() == protocol {
            let outputs = self.present.receive(now, &mut OsRandom, datagram);
            self.carry_out(self.present.protocol(), outputs).await;
        } else if let Some(next) = self.next.as_mut().filter(|n| n.machine.protocol() == protocol) {
            let outputs = next.machine.receive(now, &mut OsRandom, datagram);
            self.carry_out(protocol, outputs).await;
        }
    }

    /// Something has become of a TCP connection, or come over it: the machine of G-IKEv2 is told.
    pub(super) async fn stream(&mut self, event: Event) {
        let now = self.parts.clock.now();
        let machine = match &mut self.next {
            Some(next) if next.machine.protocol() == Protocol::Gikev2 => &mut next.machine,
            Some(_) | None => &mut self.present,
        };
        let connections = &mut self.parts.connections;
        let outputs = match event {
            Event::Opened(connection) => {
                let id = connection.id;
                let Some(ends) = connections.opened(connection) else { return };
                machine.connected(now, &mut OsRandom, id, ends)
            }
            Event::Came(id, Frame::Ike(bytes)) if major_version(&bytes) == Some(2) => {
                let Some((local, peer)) = connections.ends(id) else { return };
                let datagram = Datagram { from: peer, to: local, via: Via::Tcp(id), bytes: &bytes };
                machine.receive(now, &mut OsRandom, datagram)
            }
            // Group data never goes over TCP.
            Event::Came(..) => return,
            Event::Closed(id) if connections.closed(id) => machine.disconnected(now, &mut OsRandom, id),
            Event::Closed(_) => return,
        };
        self.carry_out(Protocol::Gikev2, outputs).await;
    }

    /// Carries out what is left to do for a machine that ends.
    async fn part(&mut self, outputs: Vec<MemberOutput>) {
        for output in outputs {
            match output {
                MemberOutput::Send(transmit) => self.send(&transmit).await,
                MemberOutput::HangUp(id) => self.parts.connections.hang_up(id),
                MemberOutput::Update(_)
                | MemberOutput::Streams(_)
                | MemberOutput::Flush
                | MemberOutput::Listen(_)
                | MemberOutput::Dial { .. }
                | MemberOutput::Event(_)
                | MemberOutput::Of(..) => {}
            }
        }
    }

    async fn send(&mut self, transmit: &Transmit) {
        match transmit.via.connection() {
            Some(id) => self.parts.connections.send(id, transmit),
            None => self.parts.listening.send(transmit).await,
        }
    }

    /// Does what is due.
    pub(super) async fn expire(&mut self) {
        let now = self.parts.clock.now();
        self.last_expire = now.mono;
        for joined in &mut self.parts.joined {
            joined.expire(now).await;
        }
        self.traces.expire(&self.parts.joined, now);
        self.key_logging.expire(&self.parts.joined, now);
        let outputs = self.present.expire(now, &mut OsRandom);
        self.carry_out(self.present.protocol(), outputs).await;
        if let Some(next) = &mut self.next {
            let (protocol, outputs) = (next.machine.protocol(), next.machine.expire(now, &mut OsRandom));
            self.carry_out(protocol, outputs).await;
        }
        if self.next.as_ref().is_some_and(|n| n.until <= now.mono) {
            self.move_failed("the key server did not register the member in time").await;
        }
        self.fall_back(now).await;
        let short = self.parts.joined.iter().any(Joined::needs_keys);
        if !short {
            self.asked_anew = None;
        } else if self.asked_anew.is_none_or(|at| at + ASK_ANEW <= now.mono) {
            tracing::warn!(
                "numbers, IVs or octets are running out, or keys could not be used before: the member registers anew"
            );
            self.asked_anew = Some(now.mono);
            let outputs = self.present.reregister(now, &mut OsRandom);
            self.carry_out(self.present.protocol(), outputs).await;
        }
    }

    /// Holds the key server's certificate against another trust store from the next time on.
    pub(super) fn set_trust(&mut self, trust: &Trust) {
        self.parts.config.auth.set_trust(trust.clone());
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
        let joined = self.parts.joined.iter().map(|joined| joined.deadline(now));
        let due = joined.fold(self.present.deadline(), Deadline::earlier);
        let due = Deadline::earlier(due, self.traces.deadline());
        let due = Deadline::earlier(due, self.key_logging.deadline());
        let at = Deadline::earlier(due, next).map_or(Duration::MAX, |d| d.at);
        let at = at.clamp(self.last_expire + SHORTEST_SLEEP, now.mono + LONGEST_SLEEP);
        tokio::time::sleep_until(self.parts.clock.instant(at).into()).await;
    }

    /// Carries out a request.
    pub(super) async fn call(&mut self, call: Call) {
        match call.request {
            Request::Status => drop(call.reply.send(Reply::of(&self.status()))),
            Request::Metrics => drop(call.reply.send(Reply::of(&self.metrics()))),
            Request::Move { to } => self.begin_move(to, call.reply).await,
            Request::Leave => self.begin_leave(call.reply).await,
            Request::KeyLog { directory, seconds } => {
                drop(call.reply.send(self.key_log(directory.as_deref(), seconds).into()));
            }
            Request::TraceStart { group, filter } => {
                let started = self.traces.start(&self.parts.joined, group.as_ref(), &filter, self.parts.clock);
                drop(call.reply.send(started.into()));
            }
            Request::TraceRead { trace } => {
                drop(call.reply.send(self.traces.read(trace, self.parts.clock.now()).into()));
            }
            Request::TraceStop { trace } => {
                drop(call.reply.send(self.traces.stop(&self.parts.joined, trace).into()));
            }
            Request::Explain { group, flow } => {
                drop(call.reply.send(trace::explain(&self.parts.joined, group.as_ref(), flow).into()));
            }
            Request::Members { .. }
            | Request::Rekeys { .. }
            | Request::Rekey { .. }
            | Request::Reload
            | Request::Evict { .. }
            | Request::Drain { .. }
            | Request::Readmit { .. } => {
                let why = "this is a member; gateways do that (--socket names a gateway's socket)";
                drop(call.reply.send(Reply::Error(why.to_owned())));
            }
        }
    }

    /// Ends: leaves the group if configured so, tells the key server, and takes the data plane down.
    pub(super) async fn end(
        mut self,
        datagrams: &mut mpsc::Receiver<Received>,
        streams: &mut mpsc::Receiver<Event>,
        guards: &mut mpsc::UnboundedReceiver<Finished>,
    ) {
        let now = self.parts.clock.now();
        if let Some(next) = self.next.take() {
            drop(next.reply.send(Reply::Error("the member ends".to_owned())));
        }
        if self.parts.config.leave_on_exit && self.parts.joined.iter().any(|joined| joined.registered) {
            let (reply, mut left) = oneshot::channel();
            self.begin_leave(reply).await;
            let patience = tokio::time::sleep(LEAVE_PATIENCE);
            tokio::pin!(patience);
            loop {
                tokio::select! {
                    _ = &mut left => break,
                    () = &mut patience => break,
                    Some(datagram) = datagrams.recv() => self.receive(&datagram).await,
                    Some(event) = streams.recv() => self.stream(event).await,
                    Some(finished) = guards.recv() => self.guarded(finished).await,
                    () = self.sleep() => self.expire().await,
                }
            }
        } else {
            let outputs = self.present.disconnect(now, &mut OsRandom);
            self.part(outputs).await;
        }
        self.parts.connections.end(streams).await;
        futures::future::join_all(self.parts.joined.into_iter().map(Joined::end)).await;
    }

    async fn begin_leave(&mut self, reply: oneshot::Sender<Reply>) {
        self.move_failed("the member leaves the group").await;
        self.leaving.push(reply);
        let outputs = self.present.leave(self.parts.clock.now(), &mut OsRandom);
        self.carry_out(self.present.protocol(), outputs).await;
    }

    /// Carries out what the machine of a protocol wants. While keys wait for the guard, what is about them waits behind them: further keys, and
    /// what is told of them. Messages do not, and a flush waits for nothing.
    async fn carry_out(&mut self, protocol: Protocol, outputs: Vec<MemberOutput>) {
        for output in outputs {
            let (at, output) = if let MemberOutput::Of(at, output) = output { (at, *output) } else { (0, output) };
            let waits = self.parts.joined.get_mut(at).filter(|joined| joined.is_waiting());
            match (waits, output) {
                (Some(joined), output @ (MemberOutput::Update(_) | MemberOutput::Event(_))) => {
                    joined.queue(protocol, output, self.parts.clock.now());
                }
                (_, output) => self.carry_out_one(protocol, at, output).await,
            }
        }
        for at in 0..self.parts.joined.len() {
            self.catch_up(at).await;
        }
        self.complete_move().await;
    }

    /// Something of a group's guard has ended.
    pub(super) async fn guarded(&mut self, finished: Finished) {
        let Finished { group: at, news } = finished;
        let now = self.parts.clock.now();
        let Some(joined) = self.parts.joined.get_mut(at) else { return };
        if let Some(updated) = joined.take(news, now).await {
            self.updated(at, updated).await;
        }
        self.catch_up(at).await;
        self.complete_move().await;
    }

    /// What has come behind an update that is finished.
    async fn catch_up(&mut self, at: usize) {
        while let Some((protocol, output)) = self.parts.joined.get_mut(at).and_then(Joined::next_behind) {
            self.carry_out_one(protocol, at, output).await;
        }
    }

    /// Whose output it is. One before it may have completed the move, or ended it: then it is nobody's.
    fn who(&self, protocol: Protocol) -> Option<Who> {
        if self.present.protocol() == protocol { Some(Who::Present) } else { self.next.as_ref().map(|_| Who::Next) }
    }

    async fn carry_out_one(&mut self, protocol: Protocol, at: usize, output: MemberOutput) {
        let Some(who) = self.who(protocol) else { return };
        let has_moved = self.has_moved(at);
        let now = self.parts.clock.now();
        let Some(joined) = self.parts.joined.get_mut(at) else { return };
        match output {
            MemberOutput::Send(transmit) => self.send(&transmit).await,
            MemberOutput::Dial { id, from, to } => self.parts.connections.dial(id, from, to),
            MemberOutput::HangUp(id) => self.parts.connections.hang_up(id),
            MemberOutput::Update(update) => {
                if let Some(updated) = joined.update(protocol, update, now).await {
                    self.updated(at, updated).await;
                }
            }
            // The present protocol's keys are in use still; those of a machine on its way in may be waiting.
            MemberOutput::Flush if who == Who::Next && !has_moved => joined.forget(protocol).await,
            MemberOutput::Flush => joined.flush(Some(protocol), now).await,
            MemberOutput::Streams(update) => joined.apply_streams(update, now),
            MemberOutput::Listen(address) => {
                self.parts.joined.iter_mut().for_each(|joined| joined.leave_clear(address));
                self.parts.listening.listen(address);
            }
            MemberOutput::Event(event) => self.event(who, at, protocol, event).await,
            MemberOutput::Of(..) => {}
        }
    }

    /// What became of new keys of a group. What is wrong with them is so until others come.
    async fn updated(&mut self, at: usize, updated: Updated) {
        let Updated { protocol, brings_keys, outcome } = updated;
        let problem = match outcome {
            Ok(_) if !brings_keys => return,
            Err(why) if self.who(protocol) == Some(Who::Next) => return self.move_failed(&why).await,
            Err(why) => Some(why),
            Ok(problem) => problem,
        };
        if let Some(problem) = &problem {
            tracing::error!("{problem}");
        }
        self.parts.joined.get_mut(at).into_iter().for_each(|joined| joined.complain(problem.clone()));
    }

    fn set_registered(&mut self, at: usize, registered: bool) {
        self.parts.joined.get_mut(at).into_iter().for_each(|joined| joined.registered = registered);
    }

    async fn event(&mut self, who: Who, at: usize, protocol: Protocol, event: MemberEvent) {
        let group = self.parts.config.groups.get(at).map(|g| g.id.to_string()).unwrap_or_default();
        let moving = who == Who::Next;
        match event {
            MemberEvent::Connected => tracing::info!(%protocol, "the key server is authenticated"),
            MemberEvent::Registered => {
                self.counters.registrations += 1;
                self.set_registered(at, true);
                self.last_error = None;
                tracing::info!(%protocol, %group, "registered");
                if let Some(next) = self.next.as_mut().filter(|_| moving) {
                    next.registered.insert(at);
                    self.complete_move().await;
                }
            }
            MemberEvent::Rekeyed { counter } => {
                self.counters.rekeys += 1;
                tracing::info!(%protocol, %group, counter, "rekeyed");
            }
            MemberEvent::Acknowledged { counter } => {
                self.counters.acknowledgements += 1;
                tracing::debug!(%protocol, %group, counter, "rekey acknowledged");
            }
            MemberEvent::Disconnected => tracing::debug!(%protocol, "the registration SA is closed; the keys stay"),
            MemberEvent::Excluded => {
                self.counters.exclusions += 1;
                tracing::warn!(%protocol, %group, "the key server has excluded this member, or reset the group");
                if !moving || self.has_moved(at) {
                    self.set_registered(at, false);
                }
                if moving {
                    self.move_failed("the key server excluded the member").await;
                }
            }
            MemberEvent::Refused(why) => {
                self.counters.refusals += 1;
                tracing::warn!(%protocol, %group, %why, "the key server refuses");
                let why = if self.parts.joined.len() > 1 { format!("group {group}: {why}") } else { why };
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
                tracing::info!(%protocol, groups = self.parts.joined.len(), "left");
                let now = self.parts.clock.now();
                for joined in &mut self.parts.joined {
                    joined.registered = false;
                    joined.flush(None, now).await;
                }
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

    /// Logs keys of data SAs for a while, or no more.
    fn key_log(&mut self, directory: Option<&Path>, seconds: u64) -> Result<usize, String> {
        let (joined, now) = (&self.parts.joined, self.parts.clock.now());
        match (directory, &self.parts.config.key_log) {
            (_, Some(configured)) => Err(format!("keys go to {} by the configuration", configured.display())),
            (Some(directory), None) => self.key_logging.start(joined, directory, Duration::from_secs(seconds), now),
            (None, None) => self.key_logging.stop(joined),
        }
    }

    fn metrics(&self) -> String {
        let planes = self.parts.joined.iter().filter_map(|joined| Some((joined.id().to_string(), joined.dataplane()?)));
        metrics::member(&self.status(), &planes.collect::<Vec<_>>())
    }

    fn status(&self) -> MemberStatus {
        let (state, machine) = self.present.status();
        let (config, now) = (&self.parts.config, self.parts.clock.now());
        let problem = self.parts.joined.iter().find_map(Joined::problem);
        MemberStatus {
            role: "member".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            uptime: now.mono.as_secs(),
            protocol: self.present.protocol(),
            moving_to: self.next.as_ref().map(|n| n.machine.protocol()),
            state,
            registered: self.parts.joined.iter().all(|joined| joined.registered),
            identity: self.parts.identity.clone(),
            local: self.parts.listening.local(),
            gateway: self.present.key_servers().present().address,
            gateways: config.gateways.iter().map(|g| g.address).collect(),
            listening: self.parts.listening.groups(),
            overrun: self.parts.listening.overrun(),
            counters: self.counters,
            last_error: self.last_error.clone().or_else(|| problem.map(str::to_owned)),
            key_log: self.key_logging.status(now),
            machine,
            groups: self.parts.joined.iter().map(|joined| joined.status(now)).collect(),
        }
    }
}

/// A machine for one of the protocols, as configured, that begins with the key server at this place.
fn machine(parts: &Parts, protocol: Protocol, key_server: usize) -> Machine {
    let config = &parts.config;
    let mut key_servers = KeyServers::new(config.gateways.clone()).with_reserve(config.reserve.clone());
    key_servers.turn_to(key_server);
    // What is weak is for IKEv1 alone.
    let strong = protocol == Protocol::Gikev2;
    let ke_groups = config.ke_groups.iter().copied().filter(|g| !(strong && g.is_weak()));
    let hashes = config.hashes.iter().copied().filter(|h| !(strong && *h == Hash::Sha1));
    let ids: Vec<GroupId> = config.groups.iter().map(|g| g.id.clone()).collect();
    let (first, further) = ids.split_first().expect("a configuration names a group");
    let settings = MemberSettings {
        key_servers,
        local: parts.listening.local(),
        group: first.clone(),
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
        ike2: config.ike2.clone(),
        traffic: config.traffic.clone(),
        gikev2: config.gikev2,
    };
    Machine::new(protocol, settings, further, (config.life.clone(), config.ike), parts.key_log.as_ref())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
