//! The owner of the gateway: takes what waits, makes it durable, sends.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use keyferry_crypto::JobDone;
use keyferry_gateway::{Gateway, Reloaded};
use keyferry_model::credentials::Trust;
use keyferry_model::drive::{JobId, Output, Transmit};
use keyferry_model::time::Now;
use tokio::sync::{mpsc, oneshot};

use super::connections::Connections;
use super::jobs::{Finished, Jobs};
use super::reload::{Fresh, Reloading};
use crate::control::{
    Call, DatagramCounters, Drained, GatewayStatus, GroupMember, IkeSas, RekeyStarted, Reply, Request,
};
use crate::metrics;
use crate::random::{Clock, OsRandom};
use crate::store::{Store, StoreError};
use crate::tcp::Event;
use crate::udp::{Received, Udp};

/// Most datagrams that one commit waits for.
const BATCH: usize = 512;

/// Longest sleep: the wall clock, by which keys live, may be set meanwhile.
const LONGEST_SLEEP: Duration = Duration::from_secs(5);

/// Shortest time between two looks at the timers.
const SHORTEST_SLEEP: Duration = Duration::from_millis(1);

pub(super) struct Round {
    gateway: Gateway,
    /// Away only while a commit is on.
    store: Option<Store>,
    clock: Clock,
    sockets: Vec<Arc<Udp>>,
    connections: Connections,
    jobs: Jobs,
    overrun: Arc<AtomicU64>,
    unsent: u64,
    last_expire: Duration,
    replies: Vec<(oneshot::Sender<Reply>, Reply)>,
    reloading: Reloading,
}

impl Round {
    pub(super) fn new(
        gateway: Gateway,
        store: Store,
        clock: Clock,
        (sockets, connections): (Vec<Arc<Udp>>, Connections),
        jobs: Jobs,
        overrun: Arc<AtomicU64>,
        reloading: Reloading,
    ) -> Self {
        let store = Some(store);
        let (unsent, last_expire, replies) = (0, Duration::ZERO, Vec::new());
        Self { gateway, store, clock, sockets, connections, jobs, overrun, unsent, last_expire, replies, reloading }
    }

    pub(super) fn listen(&self) -> Vec<std::net::SocketAddr> {
        self.sockets.iter().map(|s| s.local()).collect()
    }

    pub(super) fn listen_tcp(&self) -> &[std::net::SocketAddr] {
        self.connections.listen()
    }

    /// Holds certificates against another trust store from now on.
    pub(super) fn set_trust(&mut self, trust: Trust) {
        self.gateway.set_credentials(self.reloading.set_trust(trust));
    }

    /// Takes a datagram and those that wait behind it.
    pub(super) fn datagrams(&mut self, first: Received, queue: &mut mpsc::Receiver<Received>) {
        let mut next = Some(first);
        for _ in 0..BATCH {
            let Some(Received { from, to, bytes }) = next else { break };
            self.gateway.receive(self.clock.now(), &mut OsRandom, from, to, &bytes);
            next = queue.try_recv().ok();
        }
        if let Some(Received { from, to, bytes }) = next {
            self.gateway.receive(self.clock.now(), &mut OsRandom, from, to, &bytes);
        }
    }

    /// Takes what became of a connection, or came over it, and what waits behind it.
    pub(super) fn streams(&mut self, first: Event, queue: &mut mpsc::Receiver<Event>) {
        let mut next = Some(first);
        for _ in 0..=BATCH {
            let Some(event) = next else { break };
            self.connections.take(event, &mut self.gateway, self.clock.now());
            next = queue.try_recv().ok();
        }
        if let Some(event) = next {
            self.connections.take(event, &mut self.gateway, self.clock.now());
        }
    }

    /// Takes the result of a job and those that wait behind it.
    pub(super) fn complete(&mut self, id: JobId, done: JobDone, queue: &mut mpsc::UnboundedReceiver<Finished>) {
        self.gateway.complete(self.clock.now(), &mut OsRandom, id, done);
        while let Ok((id, done)) = queue.try_recv() {
            self.gateway.complete(self.clock.now(), &mut OsRandom, id, done);
        }
    }

    /// Does what is due.
    pub(super) fn expire(&mut self) {
        let now = self.clock.now();
        self.last_expire = now.mono;
        self.gateway.expire(now, &mut OsRandom);
    }

    /// Sleeps until something is due.
    pub(super) async fn sleep(&self) {
        let now = self.clock.now();
        let at = self.gateway.deadline(now).map_or(Duration::MAX, |d| d.at);
        let at = at.clamp(self.last_expire + SHORTEST_SLEEP, now.mono + LONGEST_SLEEP);
        tokio::time::sleep_until(self.clock.instant(at).into()).await;
    }

    /// Carries out a request; its reply waits until what it caused is durable.
    pub(super) fn call(&mut self, call: Call) {
        let now = self.clock.now();
        let rng = &mut OsRandom;
        let started = |rekey| RekeyStarted { rekey };
        let reply = match call.request {
            Request::Status => Reply::of(&self.status(now)),
            Request::Metrics => Reply::of(&metrics::gateway(&self.status(now))),
            Request::Members { group } => self
                .gateway
                .members(group.as_deref())
                .map(|all| all.into_iter().map(|(group, member)| GroupMember { group, member }).collect::<Vec<_>>())
                .into(),
            Request::Rekeys { group } => self.gateway.rekeys(&group).into(),
            Request::Rekey { group, delete: None } => self.gateway.rekey(now, rng, &group).map(started).into(),
            Request::Rekey { group, delete: Some(what) } => {
                self.gateway.delete(now, rng, &group, what).map(started).into()
            }
            Request::Reload => self.reload().into(),
            Request::Evict { group, member } => self.gateway.evict(now, rng, &group, &member).map(started).into(),
            Request::Drain { begin } => self.gateway.drain(now, rng, begin).map(|told| Drained { told }).into(),
            Request::Readmit { group, member } => self.gateway.readmit(&group, &member).into(),
            Request::Move { .. }
            | Request::Leave
            | Request::TraceStart { .. }
            | Request::TraceRead { .. }
            | Request::TraceStop { .. }
            | Request::KeyLog { .. }
            | Request::Explain { .. } => {
                Reply::Error("this is a gateway; members do that (--socket names a member's socket)".to_owned())
            }
        };
        self.replies.push((call.reply, reply));
    }

    /// Reads the configuration again.
    fn reload(&mut self) -> Result<Reloaded, String> {
        let store = self.store.as_mut().ok_or_else(|| StoreError::Lost.to_string())?;
        let Fresh { groups, credentials, ike2, later } = self.reloading.read(store)?;
        let reloaded = self.gateway.reload(self.clock.now(), &mut OsRandom, groups, credentials);
        let reloaded = Reloaded { later, ..reloaded.map_err(|e| e.to_string())? };
        self.gateway.set_ike2(&ike2);
        if !reloaded.later.is_empty() {
            tracing::warn!(keys = ?reloaded.later, "changes take effect when the gateway is started again");
        }
        tracing::info!(added = ?reloaded.added, changed = ?reloaded.changed, removed = ?reloaded.removed,
            "configuration read again");
        Ok(reloaded)
    }

    /// The same, when nobody waits for an answer.
    pub(super) fn hangup(&mut self) {
        if let Err(problems) = self.reload() {
            tracing::error!(%problems, "configuration not taken; the old one stays");
        }
    }

    fn status(&self, now: Now) -> GatewayStatus {
        let (gdoi, gikev2, neither) = self.gateway.counters();
        let (phase1_sas, ike_sas) = self.gateway.ike_sas();
        GatewayStatus {
            role: "gateway".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            uptime: now.mono.as_secs(),
            listen: self.listen(),
            drained: self.gateway.is_drained(),
            rekeys_unmade: self.gateway.rekeys_unmade(),
            listen_tcp: self.listen_tcp().to_vec(),
            connections: self.connections.len(),
            ike_sas: IkeSas { gdoi: phase1_sas, gikev2: ike_sas },
            groups: self.gateway.groups(now),
            datagrams: DatagramCounters {
                gdoi: serde_json::to_value(gdoi).unwrap_or_default(),
                gikev2: serde_json::to_value(gikev2).unwrap_or_default(),
                neither,
                overrun: self.overrun.load(Ordering::Relaxed),
                unsent: self.unsent,
            },
        }
    }

    /// Carries out what the gateway wants done. What is to be durable is durable before anything is sent, and if it
    /// cannot be, nothing is.
    pub(super) async fn settle(&mut self) -> Result<(), StoreError> {
        loop {
            let refused = self.carry_out().await?;
            if refused.is_empty() {
                break;
            }
            for (id, done) in refused {
                self.gateway.complete(self.clock.now(), &mut OsRandom, id, done);
            }
        }
        for (to, reply) in self.replies.drain(..) {
            // Whoever asked may have gone.
            drop(to.send(reply));
        }
        Ok(())
    }

    /// Carries out what is queued; the jobs that found no room come back.
    async fn carry_out(&mut self) -> Result<Vec<Finished>, StoreError> {
        let mut ops = Vec::new();
        let mut rest = Vec::new();
        while let Some(output) = self.gateway.poll() {
            match output {
                // Earlier than asked for is as good: one commit serves all.
                Output::Persist(more) => ops.extend(more),
                Output::Send(_) | Output::Job(..) | Output::Cancel(_) | Output::Close(_) => rest.push(output),
            }
        }
        if !ops.is_empty() {
            // A store that got lost on the way is the end: nothing may be sent that is not durable.
            let mut store = self.store.take().ok_or(StoreError::Lost)?;
            let work = move || {
                let result = store.commit(&ops, &mut OsRandom);
                (store, result)
            };
            let (store, result) = tokio::task::spawn_blocking(work).await.map_err(|_| StoreError::Lost)?;
            self.store = Some(store);
            result?;
        }
        let mut refused = Vec::new();
        for output in rest {
            match output {
                Output::Send(transmit) => self.send(&transmit).await,
                Output::Job(id, job) => {
                    if let Err(done) = self.jobs.submit(id, job) {
                        tracing::debug!(?id, "too many jobs wait");
                        refused.push((id, done));
                    }
                }
                Output::Cancel(id) => self.jobs.cancel(id),
                Output::Close(id) => self.connections.close(id),
                Output::Persist(_) => {}
            }
        }
        Ok(refused)
    }

    async fn send(&mut self, transmit: &Transmit) {
        if let Some(id) = transmit.via.connection() {
            if !self.connections.send(id, transmit, &mut self.gateway) {
                self.unsent += 1;
            }
            return;
        }
        let Some(socket) = self.sockets.iter().find(|s| s.can_send(transmit)) else {
            self.unsent += 1;
            tracing::debug!(to = %transmit.to, from = ?transmit.from, "no socket can send there");
            return;
        };
        if let Err(error) = socket.send(transmit).await {
            self.unsent += 1;
            tracing::debug!(to = %transmit.to, %error, "not sent");
        }
    }
}
