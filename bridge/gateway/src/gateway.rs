//! The gateway: both endpoints, the model, and the rekeys on their way.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use gdoi::{Dpd, NAT_PORT};
use gikev2::{ConnectionLimits, IkeOptions};
use keyferry_crypto::{JobDone, Random, Secret};
use keyferry_model::Model;
use keyferry_model::credentials::Credentials;
use keyferry_model::drive::{ConnectionId, Ctx, Datagram, JobId, Outbox, Output, Via};
use keyferry_model::id::{Identity, Protocol};
use keyferry_model::plan::{RekeyPlan, RekeyReason};
use keyferry_model::policy::{GroupPolicy, RekeyTransport};
use keyferry_model::rekey_sa::transport;
use keyferry_model::settings::Ike2Settings;
use keyferry_model::store::RecordError;
use keyferry_model::time::{Deadline, Now};
use keyferry_model::view::{GroupView, MemberView, RekeyView};
use keyferry_wire::Frame;
use serde::{Deserialize, Serialize};

use crate::demux::{Route, classify};
use crate::outgoing::{Message, Outgoing, Receivers, Unsigned};

/// What a gateway is configured with.
#[derive(Clone, Debug)]
pub struct GatewaySettings {
    /// Who may authenticate.
    pub credentials: Arc<Credentials>,
    /// The groups it serves.
    pub groups: Vec<GroupPolicy>,
    /// Who it says it is; `None` is the address it was reached at.
    pub identity: Option<Identity>,
    /// An IKE SA without traffic is closed after this time; members keep their keys.
    pub idle_ike_sa: Duration,
    /// Take aggressive mode of IKEv1.
    pub aggressive: bool,
    /// Take 3DES, SHA-1 and groups 2, 5 and 24 in phase 1 of IKEv1.
    pub danger_weak_phase1: bool,
    /// The longest life of GDOI's phase 1 SAs.
    pub phase1_lifetime: Duration,
    /// When silent members with a phase 1 SA are asked whether they are alive; `None` never asks.
    pub dpd: Option<Dpd>,
    /// How IKE SAs of G-IKEv2 are kept.
    pub ike: IkeOptions,
    /// Algorithms of IKEv2.
    pub ike2: Ike2Settings,
    /// How many TCP connections are taken.
    pub connections: ConnectionLimits,
    /// GDOI's unicast messages are cut up where an IP packet would be longer, for peers that take fragments.
    pub fragment_size: usize,
}

/// A store that this gateway cannot start from. Nothing has been written.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// A group's record.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// A rekey message that was on its way.
    #[error("record {0}: {1}")]
    Outgoing(String, serde_json::Error),
}

/// Why a command was not carried out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    /// No group of that name.
    #[error("there is no group {0:?} here")]
    UnknownGroup(String),
    /// The group has no such member, present or past.
    #[error("group {0:?} has never seen a member {1}")]
    UnknownMember(String, Identity),
    /// There is nowhere to send members.
    #[error("[gateway.redirect] names no other gateway")]
    NowhereElse,
    /// Only evicted members can be readmitted.
    #[error("{1} is not an evicted member of group {0:?}")]
    NotEvicted(String, Identity),
}

/// What an operator may have deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Delete {
    /// The traffic keys: new ones are used at once.
    Teks,
    /// The rekey SAs: members register anew.
    Kek,
    /// Everything: members register anew.
    All,
}

/// What became of a new configuration: names of groups.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reloaded {
    /// Groups that were not there before.
    pub added: Vec<String>,
    /// Groups whose members are told something new.
    pub changed: Vec<String>,
    /// Groups that are not there any more.
    pub removed: Vec<String>,
    /// Keys of the configuration whose changes wait for the next start.
    #[serde(default)]
    pub later: Vec<String>,
}

/// The two protocols.
struct Endpoints {
    gdoi: gdoi::Server,
    gikev2: gikev2::Server,
}

/// A dual-protocol key server. One task owns it; there are no locks inside.
pub struct Gateway {
    model: Model,
    endpoints: Endpoints,
    outgoing: Outgoing,
    out: Outbox,
    /// Whose jobs are out.
    jobs: BTreeMap<JobId, Protocol>,
    /// Datagrams that belong to no protocol.
    nowhere: u64,
}

impl Gateway {
    /// Starts over the records of a store; all of them, none at the first start.
    ///
    /// # Errors
    /// A record that cannot be used.
    pub fn new(
        settings: GatewaySettings,
        records: Vec<(String, Secret)>,
        now: Now,
        rng: &mut dyn Random,
    ) -> Result<Self, LoadError> {
        let records: BTreeMap<String, Secret> = records.into_iter().collect();
        let model = Model::load(settings.groups, &records, now, rng)?;
        let left = Outgoing::load(&records, now).map_err(|(key, e)| LoadError::Outgoing(key, e))?;
        let mut gdoi = gdoi::ServerConfig::new(Arc::clone(&settings.credentials));
        gdoi.identity = settings.identity.clone();
        gdoi.aggressive = settings.aggressive;
        gdoi.danger_weak = settings.danger_weak_phase1;
        gdoi.idle = settings.idle_ike_sa;
        gdoi.sa_lifetime = settings.phase1_lifetime;
        gdoi.dpd = settings.dpd;
        gdoi.fragment_size = settings.fragment_size;
        let mut gikev2 = gikev2::ServerConfig::new(settings.credentials);
        gikev2.identity = settings.identity;
        gikev2.idle = settings.idle_ike_sa;
        gikev2.ike = settings.ike;
        gikev2.preferences = gikev2::ike_sa::Preferences::configured(&settings.ike2);
        gikev2.ppks = settings.ike2.ppks;
        gikev2.redirect = settings.ike2.redirect;
        gikev2.connections = settings.connections;
        gikev2.ticket_lifetime = settings.ike2.ticket_lifetime;
        let mut gikev2 = gikev2::Server::new(gikev2);
        gikev2.load_tickets(&records)?;
        let mut gateway = Self {
            model,
            endpoints: Endpoints { gdoi: gdoi::Server::new(gdoi), gikev2 },
            outgoing: left.outgoing,
            out: Outbox::default(),
            jobs: BTreeMap::new(),
            nowhere: 0,
        };
        for group in &left.overdue {
            tracing::warn!(%group, "a rekey was delayed by a restart; another follows");
            gateway.model.hasten(group);
        }
        gateway.out.persist(left.ops);
        gateway.flush();
        gateway.outgoing.sign(now, &mut gateway.out);
        Ok(gateway)
    }

    /// Writes keys for Wireshark from now on. Whoever reads them reads everything.
    pub fn set_key_log(&mut self, gdoi: Box<dyn gdoi::KeyLog + Send>, gikev2: Box<dyn gikev2::KeyLog + Send>) {
        self.endpoints.gdoi.set_key_log(gdoi);
        self.endpoints.gikev2.set_key_log(gikev2);
    }

    /// Goes by other credentials from now on. Phase 1 SAs that these do not back any more are forgotten, and such IKE
    /// SAs deleted.
    pub fn set_credentials(&mut self, credentials: Arc<Credentials>) {
        self.endpoints.gdoi.set_credentials(&mut self.out, Arc::clone(&credentials));
        self.endpoints.gikev2.set_credentials(credentials);
    }

    /// Takes IKE SAs of G-IKEv2 with other algorithms and postquantum preshared keys from now on; those that stand go on.
    pub fn set_ike2(&mut self, settings: &Ike2Settings) {
        self.endpoints.gikev2.set_ike2(settings);
    }

    /// A datagram, as it was on the wire.
    pub fn receive(&mut self, now: Now, rng: &mut dyn Random, from: SocketAddr, to: SocketAddr, bytes: &[u8]) {
        let (marker, bytes, route) = classify(bytes);
        let datagram = Datagram { from, to, via: Via::udp(marker), bytes };
        // What has no marker at the port of NAT traversal is ESP (RFC 3948 section 2.2).
        let route = if to.port() == NAT_PORT && !marker && route != Route::Keepalive { Route::Nowhere } else { route };
        match route {
            Route::Keepalive => {}
            Route::Gdoi => self.drive(Protocol::Gdoi, now, rng, |this, ctx| this.gdoi.receive(ctx, datagram)),
            Route::Gikev2 => self.drive(Protocol::Gikev2, now, rng, |this, ctx| this.gikev2.receive(ctx, datagram)),
            Route::Nowhere => {
                self.nowhere += 1;
                tracing::debug!(%from, len = bytes.len(), "datagram belongs to no protocol");
            }
        }
    }

    /// Somebody has opened a TCP connection (RFC 9329). What comes over it is taken only from now on.
    pub fn connected(&mut self, now: Now, rng: &mut dyn Random, id: ConnectionId, from: SocketAddr) {
        self.drive(Protocol::Gikev2, now, rng, |this, ctx| this.gikev2.connected(ctx, id, from));
    }

    /// What came over a TCP connection between these addresses.
    pub fn receive_frame(
        &mut self,
        now: Now,
        rng: &mut dyn Random,
        (id, from, to): (ConnectionId, SocketAddr, SocketAddr),
        frame: &Frame,
    ) {
        let via = Via::Tcp(id);
        match frame {
            Frame::Keepalive => {}
            Frame::Ike(bytes) if matches!(classify(bytes), (false, _, Route::Gikev2)) => {
                let datagram = Datagram { from, to, via, bytes };
                self.drive(Protocol::Gikev2, now, rng, |this, ctx| this.gikev2.receive(ctx, datagram));
            }
            // ESP, for which there is no SA here: group data never goes over TCP. Or GDOI, which RFC 9329 is not about.
            Frame::Ike(_) | Frame::Foreign => {
                self.nowhere += 1;
                tracing::debug!(%from, "no message of G-IKEv2 in a connection");
                self.drive(Protocol::Gikev2, now, rng, |this, ctx| this.gikev2.stray(ctx, id));
            }
        }
    }

    /// A TCP connection is closed, by the peer or for want of anything else. IKE SAs stay.
    pub fn disconnected(&mut self, id: ConnectionId) {
        self.endpoints.gikev2.disconnected(id);
    }

    /// The result of a job that was handed out.
    pub fn complete(&mut self, now: Now, rng: &mut dyn Random, job: JobId, done: JobDone) {
        if self.outgoing.awaits(job) {
            self.outgoing.signed(now, rng, job, done, &mut self.out);
            return self.outgoing.expire(now, &mut self.out);
        }
        match self.jobs.remove(&job) {
            Some(Protocol::Gdoi) => {
                self.drive(Protocol::Gdoi, now, rng, |this, ctx| this.gdoi.complete(ctx, job, done))
            }
            Some(Protocol::Gikev2) => {
                self.drive(Protocol::Gikev2, now, rng, |this, ctx| this.gikev2.complete(ctx, job, done));
            }
            None => tracing::debug!(?job, "result of a job that nobody waits for"),
        }
    }

    /// Does what is due: timers of exchanges, rekeys, copies of rekey messages.
    pub fn expire(&mut self, now: Now, rng: &mut dyn Random) {
        self.drive(Protocol::Gdoi, now, rng, |this, ctx| this.gdoi.expire(ctx));
        self.drive(Protocol::Gikev2, now, rng, |this, ctx| this.gikev2.expire(ctx));
        let due = self.model.expire(now);
        for (group, rekey, protocol, members) in self.model.take_resends() {
            self.outgoing.resend(&group, rekey, protocol, &members, &mut self.out);
        }
        for (group, reason) in due {
            self.plan(now, rng, &group, reason, &[]);
        }
        self.flush();
        self.outgoing.expire(now, &mut self.out);
    }

    /// The next thing to do for the daemon.
    pub fn poll(&mut self) -> Option<Output> {
        let output = self.out.poll();
        if let Some(Output::Cancel(job)) = &output {
            self.jobs.remove(job);
        }
        output
    }

    /// When [`expire`](Self::expire) is wanted next.
    #[must_use]
    pub fn deadline(&self, now: Now) -> Option<Deadline> {
        [self.endpoints.gikev2.deadline(), self.model.deadline(now), self.outgoing.deadline()]
            .into_iter()
            .fold(self.endpoints.gdoi.deadline(), Deadline::earlier)
    }

    /// Rekeys a group now; returns the number of the rekey.
    ///
    /// # Errors
    /// No such group.
    pub fn rekey(&mut self, now: Now, rng: &mut dyn Random, group: &str) -> Result<u64, CommandError> {
        self.command(now, rng, group, RekeyReason::Operator, &[])
    }

    /// Deletes keys of a group; returns the number of the rekey that does.
    ///
    /// # Errors
    /// No such group.
    pub fn delete(&mut self, now: Now, rng: &mut dyn Random, group: &str, what: Delete) -> Result<u64, CommandError> {
        let reason = match what {
            Delete::Teks => RekeyReason::DeleteTeks,
            Delete::Kek => RekeyReason::DeleteKek,
            Delete::All => RekeyReason::Reset,
        };
        self.command(now, rng, group, reason, &[])
    }

    /// Goes on with other groups and peers. Members of groups that have changed are told by a rekey, those of groups that
    /// are no longer configured that everything is deleted. What happens elsewhere than in groups and peers is not changed.
    ///
    /// # Errors
    /// A record of a group that comes back cannot be used. Nothing is changed.
    pub fn reload(
        &mut self,
        now: Now,
        rng: &mut dyn Random,
        groups: Vec<GroupPolicy>,
        credentials: Arc<Credentials>,
    ) -> Result<Reloaded, RecordError> {
        let before: Vec<String> = self.model.groups().map(|g| g.policy().name.clone()).collect();
        let wanted = |name: &String| groups.iter().any(|g| g.name == *name);
        let added: Vec<String> = groups.iter().map(|g| g.name.clone()).filter(|n| !before.contains(n)).collect();
        let removed: Vec<String> = before.iter().filter(|n| !wanted(n)).cloned().collect();
        let mut changed = self.model.change(groups, now, rng)?;
        changed.retain(|name| !added.contains(name));
        self.endpoints.gdoi.set_credentials(&mut self.out, Arc::clone(&credentials));
        self.endpoints.gikev2.set_credentials(credentials);
        for name in &removed {
            self.plan(now, rng, name, RekeyReason::Reset, &[]);
            self.model.remove(name);
        }
        self.expire(now, rng);
        Ok(Reloaded { added, changed, removed, later: Vec::new() })
    }

    /// Evicts a member: the rest is rekeyed so that it can follow no more, and it may not come back.
    ///
    /// # Errors
    /// No such group or member.
    pub fn evict(
        &mut self,
        now: Now,
        rng: &mut dyn Random,
        group: &str,
        member: &Identity,
    ) -> Result<u64, CommandError> {
        if self.model.group(group).is_some() && !self.model.knows(group, member) {
            return Err(CommandError::UnknownMember(group.to_owned(), member.clone()));
        }
        self.command(now, rng, group, RekeyReason::Eviction, std::slice::from_ref(member))
    }

    /// Lets an evicted member register again.
    ///
    /// # Errors
    /// No such group, or the member is not evicted.
    pub fn readmit(&mut self, group: &str, member: &Identity) -> Result<(), CommandError> {
        if self.model.group(group).is_none() {
            return Err(CommandError::UnknownGroup(group.to_owned()));
        }
        if !self.model.readmit(group, member) {
            return Err(CommandError::NotEvicted(group.to_owned(), member.clone()));
        }
        self.flush();
        Ok(())
    }

    /// Sends the members of G-IKEv2 that can be sent to other gateways there from now on, or no more; how many of those with an
    /// IKE SA are told.
    ///
    /// # Errors
    /// No other gateway is configured.
    pub fn drain(&mut self, now: Now, rng: &mut dyn Random, begin: bool) -> Result<usize, CommandError> {
        let mut told = None;
        self.drive(Protocol::Gikev2, now, rng, |this, ctx| told = this.gikev2.drain(ctx, begin));
        told.ok_or(CommandError::NowhereElse)
    }

    /// Are members sent to other gateways, whoever they are?
    #[must_use]
    pub fn is_drained(&self) -> bool {
        self.endpoints.gikev2.is_drained()
    }

    /// The groups at a glance.
    #[must_use]
    pub fn groups(&self, now: Now) -> Vec<GroupView> {
        self.model.groups().map(|g| g.view(now)).collect()
    }

    /// Members of one group or of all, with the name of their group.
    ///
    /// # Errors
    /// No such group.
    pub fn members(&self, group: Option<&str>) -> Result<Vec<(String, MemberView)>, CommandError> {
        if let Some(name) = group.filter(|name| self.model.group(name).is_none()) {
            return Err(CommandError::UnknownGroup(name.to_owned()));
        }
        let groups = self.model.groups().filter(|g| group.is_none_or(|name| g.policy().name == name));
        Ok(groups.flat_map(|g| g.member_views().into_iter().map(|m| (g.policy().name.clone(), m))).collect())
    }

    /// The last rekeys of a group, oldest first.
    ///
    /// # Errors
    /// No such group.
    pub fn rekeys(&self, group: &str) -> Result<Vec<RekeyView>, CommandError> {
        let found = self.model.group(group).ok_or_else(|| CommandError::UnknownGroup(group.to_owned()))?;
        Ok(found.rekey_views())
    }

    /// Phase 1 SAs of GDOI, and IKE SAs of G-IKEv2.
    #[must_use]
    pub fn ike_sas(&self) -> (usize, usize) {
        (self.endpoints.gdoi.established(), self.endpoints.gikev2.established())
    }

    /// Rekeys of one protocol that could not be told, or not whole, since the start: members must register anew.
    #[must_use]
    pub fn rekeys_unmade(&self) -> u64 {
        self.outgoing.unmade
    }

    /// What was received and what became of it: GDOI's counters, G-IKEv2's, and datagrams of neither.
    #[must_use]
    pub fn counters(&self) -> (&gdoi::Counters, &gikev2::Counters, u64) {
        (self.endpoints.gdoi.counters(), self.endpoints.gikev2.counters(), self.nowhere)
    }

    /// Lets an endpoint take a step, notes its jobs, and queues what it changed in the model.
    fn drive(
        &mut self,
        protocol: Protocol,
        now: Now,
        rng: &mut dyn Random,
        step: impl FnOnce(&mut Endpoints, &mut Ctx<'_>),
    ) {
        let before = self.out.last_job().0;
        let mut ctx = Ctx { now, model: &mut self.model, rng, out: &mut self.out };
        step(&mut self.endpoints, &mut ctx);
        let jobs = before + 1..=self.out.last_job().0;
        self.jobs.extend(jobs.map(|id| (JobId(id), protocol)));
        for member in self.model.take_late() {
            self.outgoing.send_to_late(member, now);
        }
        self.flush();
    }

    fn command(
        &mut self,
        now: Now,
        rng: &mut dyn Random,
        group: &str,
        reason: RekeyReason,
        evict: &[Identity],
    ) -> Result<u64, CommandError> {
        let id = self.plan(now, rng, group, reason, evict);
        self.outgoing.expire(now, &mut self.out);
        id.ok_or_else(|| CommandError::UnknownGroup(group.to_owned()))
    }

    /// Plans a rekey, renders it for both protocols, and queues the copies behind what must be durable first.
    fn plan(
        &mut self,
        now: Now,
        rng: &mut dyn Random,
        group: &str,
        reason: RekeyReason,
        evict: &[Identity],
    ) -> Option<u64> {
        // A reset tells members whom it no longer counts as such.
        let marked = Protocol::ALL.map(|p| self.model.marked_addresses(group, p));
        let plan = self.model.rekey(group, reason, evict, now, rng)?;
        self.endpoints.gikev2.log_rekey(&plan);
        let mut ops = self.model.take_store_ops();
        for (protocol, marked) in Protocol::ALL.into_iter().zip(marked) {
            let messages = prepare(&plan, protocol, rng);
            let wanted = plan.steps.iter().filter(|s| s.protocol == protocol).count();
            self.outgoing.unmade += u64::from(messages.len() < wanted);
            let unicast = messages.iter().any(|m| m.multicast.is_none());
            let members = if unicast { self.model.receivers(group, protocol, plan.id) } else { Vec::new() };
            if !messages.is_empty() {
                let receivers = Receivers { members, marked: marked.into_iter().collect() };
                ops.push(self.outgoing.add((&plan.policy, plan.id, protocol), messages, receivers, now));
            }
        }
        self.out.persist(ops);
        self.outgoing.sign(now, &mut self.out);
        self.drive(Protocol::Gikev2, now, rng, |this, ctx| this.gikev2.rekey_in_band(ctx, &plan));
        Some(plan.id)
    }

    fn flush(&mut self) {
        let ops = self.model.take_store_ops();
        self.out.persist(ops);
    }
}

/// The messages of one protocol, in their order, but for their signatures. If one cannot be made, those behind it would not be
/// understood.
fn prepare(plan: &RekeyPlan, protocol: Protocol, rng: &mut dyn Random) -> Vec<Message> {
    let mut messages = Vec::new();
    for step in plan.steps.iter().filter(|s| s.protocol == protocol) {
        let unsigned = match protocol {
            Protocol::Gdoi => gdoi::push::prepare(&plan.policy, step).map(Unsigned::from).map_err(|e| e.to_string()),
            Protocol::Gikev2 => gikev2::rekey::prepare(&plan.policy, step, plan.fragment_size, rng)
                .map(Unsigned::from)
                .map_err(|e| e.to_string()),
        };
        let multicast = match transport(protocol, &step.policy) {
            Some(RekeyTransport::Multicast(to)) => Some(to),
            Some(RekeyTransport::Unicast) | None => None,
        };
        match unsigned.and_then(|unsigned| Message::new(unsigned, multicast, rng)) {
            Ok(message) => messages.push(message),
            Err(error) => {
                tracing::error!(group = %plan.policy.name, rekey = plan.id, %protocol, %error,
                    "rekey message could not be made: members must register anew");
                break;
            }
        }
    }
    messages
}
