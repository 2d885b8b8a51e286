//! The virtual network: one key server, some members, a queue of packets, a clock that jumps.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use keyferry_crypto::{
    Aead, BlockCipher, Hash, Integrity, Job, KeGroup, KeyKind, Secret, SeededRandom, SignatureAlgorithm, SigningKey,
};
use keyferry_model::Model;
use keyferry_model::credentials::{Credentials, Peer, Proof};
use keyferry_model::drive::{ConnectionId, Ctx, Datagram, JobId, Outbox, Output, Transmit, Via};
use keyferry_model::id::{GroupId, Identity, Protocol};
use keyferry_model::key_server::KeyServers;
use keyferry_model::plan::{RekeyPlan, RekeyReason};
use keyferry_model::policy::*;
use keyferry_model::reading::Readings;
use keyferry_model::rekey_sa::RekeySa;
use keyferry_model::settings::{
    GdoiSettings, Gikev2Settings, Ike2Settings, MemberAuth, MemberSettings, Phase1Settings, TrafficSettings,
};
use keyferry_model::store::StoreOp;
use keyferry_model::time::Now;
use keyferry_model::update::{MemberCtx, MemberEvent, MemberOutput, Removal, SenderIds};
use keyferry_wire::ChainWriter;

use crate::registration::carried::Groups;
use crate::registration::serve::{Asking, Outcome, answer};
use crate::wire::message::Registration;
use crate::{KeyLog, Member, Server, ServerConfig, rekey};

pub(super) const PSK: &[u8] = b"a secret shared by two";
pub(super) const GROUP: u32 = 1234;

pub(super) fn signer() -> Arc<SigningKey> {
    static KEY: OnceLock<Arc<SigningKey>> = OnceLock::new();
    Arc::clone(KEY.get_or_init(|| Arc::new(SigningKey::generate_rsa(2048).unwrap())))
}

pub(super) fn signed() -> RekeyAuthentication {
    RekeyAuthentication::Signature(signer(), SignatureAlgorithm::RsaPkcs1(Hash::Sha256))
}

/// A key for each algorithm but RSA with PKCS #1.
pub(super) fn signatures() -> Vec<RekeyAuthentication> {
    use SignatureAlgorithm::{Ecdsa, Ed448, Ed25519, RsaPss};
    let ec = |kind, hash| (Arc::new(SigningKey::generate_ec(kind).unwrap()), Ecdsa(hash));
    let edwards = |kind, algorithm| (Arc::new(SigningKey::generate_edwards(kind).unwrap()), algorithm);
    let all = [
        ec(KeyKind::EcP256, Hash::Sha256),
        ec(KeyKind::EcP384, Hash::Sha384),
        ec(KeyKind::EcP521, Hash::Sha512),
        edwards(KeyKind::Ed25519, Ed25519),
        edwards(KeyKind::Ed448, Ed448),
        (signer(), RsaPss(Hash::Sha256)),
        (signer(), RsaPss(Hash::Sha512)),
    ];
    all.into_iter().map(|(key, algorithm)| RekeyAuthentication::Signature(key, algorithm)).collect()
}

pub(super) fn gcm() -> RekeyProtection {
    RekeyProtection::Aead(Aead::Aes128Gcm16)
}

pub(super) fn cbc() -> RekeyProtection {
    RekeyProtection::CbcHmac(BlockCipher::Aes256Cbc, Integrity::HmacSha256_128)
}

pub(super) fn selector(address: &str, prefix: u8) -> Selector {
    Selector { address: address.parse().unwrap(), prefix, protocol: 0, port: 0 }
}

/// A group with one line of traffic, AES-GCM, signed multicast rekeys.
pub(super) fn policy(v6: bool) -> GroupPolicy {
    let (any, to, rekeys) = match v6 {
        false => (selector("0.0.0.0", 0), selector("239.192.0.1", 32), "239.192.0.2:848"),
        true => (selector("::", 0), selector("ff15::1", 128), "[ff15::2]:848"),
    };
    GroupPolicy {
        name: "g".into(),
        ids: vec![GroupId::Number(GROUP)],
        streams: Vec::new(),
        traffic: vec![Arc::new(TrafficPolicy {
            source: any,
            destination: to,
            mode: EspMode::Tunnel,
            transform: EspTransform::Aead(Aead::Aes128Gcm16),
            sequence: SequenceNumbers::Unspecified,
            replay_window: 0,
            preservation: AddressPreservation::Both,
            only_sender: None,
            lifetime_octets: None,
        })],
        tek_lifetime: Duration::from_secs(3600),
        kek_lifetime: Duration::from_secs(86_400),
        rekey_margin: Duration::from_secs(300),
        rekey_when_asked: None,
        activation_delay: Duration::from_secs(5),
        deactivation_delay: Duration::from_secs(10),
        sender_id_bits: 16,
        sender_ids_per_member: 4,
        capacity: 8,
        retransmit: Retransmit { copies: 2, interval: Duration::from_secs(1) },
        ack_patience: Duration::from_secs(10),
        ack_resend: false,
        backward_access: None,
        evict_after_misses: None,
        authorization: Authorization::Authenticated,
        gdoi: None,
        gikev2: Some(Gikev2Rekey {
            protection: gcm(),
            wrap_key_len: 16,
            transport: RekeyTransport::Multicast(rekeys.parse().unwrap()),
            authentication: signed(),
            options: Gikev2Options::default(),
        }),
    }
}

#[derive(Clone, Debug)]
pub(super) struct Packet {
    pub(super) from: SocketAddr,
    pub(super) to: SocketAddr,
    pub(super) via: Via,
    pub(super) bytes: Vec<u8>,
    /// It follows from a message that was tampered with.
    pub(super) tainted: bool,
}

impl Packet {
    pub(super) fn exchange(&self) -> u8 {
        self.bytes.get(18).copied().unwrap_or(0)
    }

    pub(super) fn is_response(&self) -> bool {
        self.bytes.get(19).is_some_and(|f| f & 0x20 != 0)
    }
}

/// A member with what its daemon would keep.
pub(super) struct Host {
    pub(super) member: Member,
    pub(super) address: SocketAddr,
    pub(super) events: Vec<MemberEvent>,
    /// Data SAs by SPI.
    pub(super) sas: BTreeMap<u32, Vec<u8>>,
    pub(super) policies: Vec<Arc<TrafficPolicy>>,
    pub(super) listens: BTreeSet<SocketAddr>,
    pub(super) sender_ids: Option<SenderIds>,
    pub(super) delays: (Duration, Duration),
    /// What came out about further groups.
    pub(super) further: Vec<(usize, MemberOutput)>,
}

/// A NAT: each address and port inside has a port outside.
pub(super) struct Nat {
    pub(super) outside: IpAddr,
    ports: BTreeMap<u16, SocketAddr>,
    next: u16,
}

impl Nat {
    pub(super) fn new() -> Self {
        Self { outside: IpAddr::from([203, 0, 113, 1]), ports: BTreeMap::new(), next: 20_000 }
    }

    /// It forgets its mappings.
    pub(super) fn forget(&mut self) {
        self.ports.clear();
    }

    fn translate(&mut self, mut p: Packet, gateway: IpAddr) -> Option<Packet> {
        if p.to.ip() == gateway {
            let known = self.ports.iter().find(|(_, inside)| **inside == p.from).map(|(port, _)| *port);
            let port = known.unwrap_or_else(|| {
                self.next += 1;
                self.ports.insert(self.next, p.from);
                self.next
            });
            p.from = SocketAddr::new(self.outside, port);
        } else if p.to.ip() == self.outside {
            p.to = *self.ports.get(&p.to.port())?;
        }
        Some(p)
    }
}

/// What befalls a packet: how many copies arrive.
type Fate = Box<dyn FnMut(&Packet) -> usize>;

pub(super) struct World {
    pub(super) now: Now,
    pub(super) rng: SeededRandom,
    pub(super) model: Model,
    pub(super) server: Server,
    pub(super) hosts: Vec<Host>,
    pub(super) gateway: SocketAddr,
    /// Another key server of the same groups.
    pub(super) other: Option<(SocketAddr, Server)>,
    pub(super) wire: VecDeque<Packet>,
    /// Everything that was put on the wire.
    pub(super) seen: Vec<Packet>,
    pub(super) fate: Fate,
    /// Tamper with each packet before it is delivered.
    pub(super) tamper: bool,
    /// A NAT in front of all members, if there is one.
    pub(super) nat: Option<Nat>,
    /// Open TCP connections: the host, and its end.
    pub(super) connections: BTreeMap<ConnectionId, (usize, SocketAddr)>,
    /// Those that one end has closed behind what it sent last.
    hung_up: Vec<ConnectionId>,
    /// Those being opened, with the port they are to.
    pub(super) dials: VecDeque<(usize, ConnectionId, u16)>,
    /// At this port a key server takes connections, unless somebody keeps TCP away.
    pub(super) tcp_port: Option<u16>,
    pub(super) persisted: usize,
    /// What the key server has made durable.
    pub(super) store: BTreeMap<String, Secret>,
    out: Outbox,
    pub(super) held: Vec<(JobId, Job)>,
    /// Do not run jobs yet.
    pub(super) hold_jobs: bool,
    pub(super) policy: GroupPolicy,
}

pub(super) fn identity(n: u8) -> Identity {
    Identity::Fqdn(format!("gm{n}.example"))
}

pub(super) fn config() -> ServerConfig {
    let psk = Arc::new(Secret::copy_from(PSK));
    let peer = |n| Peer {
        identity: Some(identity(n)),
        address: None,
        proof: Proof::Psk(Arc::clone(&psk)),
        sends: Readings::NONE,
    };
    ServerConfig::new(Arc::new(Credentials::new((1..=9).map(peer).collect())))
}

impl World {
    /// What member `n` is answered when it registers with these payloads: GSA and KD, the kind of the first payload, and
    /// the key that keys are wrapped under.
    pub(super) fn answer(&mut self, n: u8, request: ChainWriter) -> (Vec<u8>, u8, Secret) {
        let settings = self.settings(n);
        let (first, request) = request.finish().unwrap();
        let request = Registration::request(first, &request).unwrap();
        let default = Secret::new(vec![5; 32]);
        let mut out = Outbox::default();
        let mut ctx = Ctx { now: self.now, model: &mut self.model, rng: &mut self.rng, out: &mut out };
        let asking = Asking {
            identity: &settings.identity,
            holder: None,
            address: settings.local,
            marked: false,
            default: Some(&default),
            early: false,
            fragments: true,
            groups: &Groups::default(),
        };
        let mut chain = ChainWriter::new();
        assert!(matches!(answer(&mut ctx, asking, &request, &mut chain), Outcome::Registered { .. }));
        let (first, inner) = chain.finish().unwrap();
        (inner, first, default)
    }

    pub(super) fn new(policy: GroupPolicy) -> Self {
        Self::with(policy, config(), 1)
    }

    pub(super) fn with(policy: GroupPolicy, config: ServerConfig, seed: u64) -> Self {
        let mut rng = SeededRandom::new(seed);
        let now = Now { mono: Duration::from_secs(1000), wall: Duration::from_secs(1_700_000_000) };
        let mut model = Model::load(vec![policy.clone()], &BTreeMap::new(), now, &mut rng).unwrap();
        let _ = model.take_store_ops();
        let v6 = policy.traffic[0].source.address.is_ipv6();
        Self {
            now,
            rng,
            model,
            server: Server::new(config),
            hosts: Vec::new(),
            gateway: SocketAddr::new(address(v6, 254), 848),
            other: None,
            wire: VecDeque::new(),
            seen: Vec::new(),
            fate: Box::new(|_| 1),
            tamper: false,
            nat: None,
            connections: BTreeMap::new(),
            hung_up: Vec::new(),
            dials: VecDeque::new(),
            tcp_port: None,
            persisted: 0,
            store: BTreeMap::new(),
            out: Outbox::default(),
            held: Vec::new(),
            hold_jobs: false,
            policy,
        }
    }

    pub(super) fn settings(&self, n: u8) -> MemberSettings {
        MemberSettings {
            key_servers: KeyServers::one(self.gateway, Some(Identity::from_ip(self.gateway.ip()))),
            local: SocketAddr::new(address(self.gateway.is_ipv6(), n), 848),
            group: GroupId::Number(GROUP),
            identity: identity(n),
            auth: MemberAuth::Psk(Arc::new(Secret::copy_from(PSK))),
            phase1: Phase1Settings::default(),
            sender_ids: 1,
            ke_groups: vec![KeGroup::X25519],
            hashes: vec![Hash::Sha256],
            marker: false,
            retransmit: Duration::from_millis(500),
            tries: 4,
            retry: Duration::from_secs(5),
            ack_jitter: Duration::ZERO,
            connect_only: false,
            gdoi: GdoiSettings::default(),
            traffic: TrafficSettings::default(),
            ike2: Ike2Settings::default(),
            gikev2: Gikev2Settings::default(),
        }
    }

    pub(super) fn add(&mut self, settings: MemberSettings) -> usize {
        let address = settings.local;
        self.hosts.push(Host {
            member: Member::new(settings),
            address,
            events: Vec::new(),
            sas: BTreeMap::new(),
            policies: Vec::new(),
            listens: BTreeSet::new(),
            sender_ids: None,
            delays: (Duration::ZERO, Duration::ZERO),
            further: Vec::new(),
        });
        self.hosts.len() - 1
    }

    /// A member with the usual settings, registered.
    pub(super) fn join(&mut self, n: u8) -> usize {
        let settings = self.settings(n);
        let at = self.add(settings);
        self.start(at);
        self.run();
        assert!(self.hosts[at].events.contains(&MemberEvent::Registered), "{:?}", self.hosts[at].events);
        at
    }

    pub(super) fn on_member(&mut self, at: usize, tainted: bool, f: impl FnOnce(&mut Member, &mut MemberCtx<'_>)) {
        let mut out = Vec::new();
        let mut ctx = MemberCtx { now: self.now, rng: &mut self.rng, out: &mut out };
        f(&mut self.hosts[at].member, &mut ctx);
        let host = &mut self.hosts[at];
        for output in out {
            match output {
                MemberOutput::Send(t) => {
                    let mut from = t.from.unwrap_or(host.address);
                    if from.ip().is_unspecified() {
                        from.set_ip(host.address.ip());
                    }
                    push(&mut self.wire, &mut self.seen, &mut self.fate, from, t, tainted);
                }
                MemberOutput::Update(update) => {
                    let fresh: BTreeMap<u32, Vec<u8>> =
                        update.install.iter().map(|sa| (sa.spi, sa.keymat.expose().to_vec())).collect();
                    match update.remove {
                        Removal::All => host.sas.clear(),
                        Removal::Spis(spis) => host.sas.retain(|spi, _| !spis.contains(spi)),
                    }
                    host.sas.extend(fresh);
                    host.policies.extend(update.install.into_iter().map(|sa| sa.policy));
                    host.sender_ids = update.sender_ids.or(host.sender_ids.take());
                    host.delays = (update.activation_delay, update.deactivation_delay);
                }
                MemberOutput::Of(at, output) => host.further.push((at, *output)),
                MemberOutput::Dial { id, to, .. } => self.dials.push_back((at, id, to.port())),
                MemberOutput::HangUp(id) => self.hung_up.push(id),
                MemberOutput::Streams(_) => panic!("G-IKEv2 cannot tell streams"),
                MemberOutput::Flush => host.sas.clear(),
                MemberOutput::Listen(to) => {
                    host.listens.insert(to);
                }
                MemberOutput::Event(e) => host.events.push(e),
            }
        }
    }

    pub(super) fn start(&mut self, at: usize) {
        self.on_member(at, false, |m, ctx| m.start(ctx));
    }

    pub(super) fn leave(&mut self, at: usize) {
        self.on_member(at, false, |m, ctx| m.leave(ctx));
    }

    pub(super) fn on_server(&mut self, tainted: bool, f: impl FnOnce(&mut Server, &mut Ctx<'_>)) {
        let mut ctx = Ctx { now: self.now, model: &mut self.model, rng: &mut self.rng, out: &mut self.out };
        f(&mut self.server, &mut ctx);
        self.drain(tainted);
    }

    /// Does something with the other key server in the place of the first.
    pub(super) fn on_other(&mut self, f: impl FnOnce(&mut Self)) {
        let swap = |w: &mut Self| {
            let Some((address, server)) = &mut w.other else { return };
            std::mem::swap(address, &mut w.gateway);
            std::mem::swap(server, &mut w.server);
        };
        swap(self);
        f(self);
        swap(self);
    }

    fn drain(&mut self, tainted: bool) {
        while let Some(output) = self.out.poll() {
            match output {
                Output::Persist(ops) => {
                    for op in ops {
                        match op {
                            StoreOp::Put(key, value) => drop(self.store.insert(key, value)),
                            StoreOp::Delete(key) => drop(self.store.remove(&key)),
                        }
                    }
                    self.persisted += 1;
                }
                Output::Send(t) => {
                    let from = t.from.unwrap_or(self.gateway);
                    push(&mut self.wire, &mut self.seen, &mut self.fate, from, t, tainted);
                }
                Output::Cancel(id) => self.held.retain(|(held, _)| *held != id),
                Output::Close(id) => self.hung_up.push(id),
                Output::Job(id, job) if self.hold_jobs => self.held.push((id, job)),
                Output::Job(id, job) => {
                    let mut ctx = Ctx { now: self.now, model: &mut self.model, rng: &mut self.rng, out: &mut self.out };
                    self.server.complete(&mut ctx, id, job.run());
                }
            }
        }
        assert!(self.model.take_store_ops().is_empty(), "the server flushes what it records");
    }

    pub(super) fn run_jobs(&mut self) {
        self.hold_jobs = false;
        for (id, job) in std::mem::take(&mut self.held) {
            self.on_server(false, |s, ctx| s.complete(ctx, id, job.run()));
        }
    }

    /// Delivers until nothing is on the wire.
    pub(super) fn run(&mut self) {
        let mut steps = 0;
        loop {
            steps += 1;
            assert!(steps < 100_000, "the network never comes to rest");
            if let Some((at, id, port)) = self.dials.pop_front() {
                self.dial(at, id, port);
                continue;
            }
            let Some(packet) = self.wire.pop_front() else {
                if self.hung_up.is_empty() {
                    break;
                }
                let closed = self.hung_up.remove(0);
                self.cut(closed);
                continue;
            };
            if self.tamper && !packet.tainted {
                for bytes in variants(&packet.bytes) {
                    self.deliver(Packet { bytes, tainted: true, ..packet.clone() });
                }
            }
            self.deliver(packet);
        }
    }

    fn dial(&mut self, at: usize, id: ConnectionId, port: u16) {
        if self.tcp_port != Some(port) {
            return self.on_member(at, false, |m, ctx| m.disconnected(ctx, id));
        }
        let ours = u16::try_from(self.seen.len()).unwrap() + 40_000;
        let local = SocketAddr::new(self.hosts[at].address.ip(), ours);
        let gateway = SocketAddr::new(self.gateway.ip(), port);
        self.connections.insert(id, (at, local));
        self.on_server(false, |s, ctx| s.connected(ctx, id, local));
        self.on_member(at, false, |m, ctx| m.connected(ctx, id, local, gateway));
    }

    /// A connection breaks, or is closed.
    pub(super) fn cut(&mut self, id: ConnectionId) {
        if let Some((at, _)) = self.connections.remove(&id) {
            self.wire.retain(|p| p.via != Via::Tcp(id));
            self.on_server(false, |s, _| s.disconnected(id));
            self.on_member(at, false, |m, ctx| m.disconnected(ctx, id));
        }
    }

    pub(super) fn deliver(&mut self, p: Packet) {
        if let Some(id) = p.via.connection() {
            let Some((at, end)) = self.connections.get(&id).copied() else { return };
            let dgram = Datagram { from: p.from, to: p.to, via: p.via, bytes: &p.bytes };
            return match p.to == end {
                true => self.on_member(at, p.tainted, |m, ctx| m.receive(ctx, dgram)),
                false => self.on_server(p.tainted, |s, ctx| s.receive(ctx, dgram)),
            };
        }
        let p = match &mut self.nat {
            Some(nat) => match nat.translate(p, self.gateway.ip()) {
                Some(p) => p,
                None => return,
            },
            None => p,
        };
        let dgram = Datagram { from: p.from, to: p.to, via: p.via, bytes: &p.bytes };
        if self.other.as_ref().is_some_and(|(address, _)| address.ip() == p.to.ip()) {
            return self.on_other(|w| w.on_server(p.tainted, |s, ctx| s.receive(ctx, dgram)));
        }
        if p.to.ip() == self.gateway.ip() {
            // A keepalive is the gateway's business.
            if p.bytes == [0xff] {
                return;
            }
            self.on_server(p.tainted, |s, ctx| s.receive(ctx, dgram));
            return;
        }
        for at in 0..self.hosts.len() {
            let own = self.hosts[at].address;
            let reached = own.ip() == p.to.ip() && [own.port(), crate::NAT_PORT].contains(&p.to.port());
            if reached || self.hosts[at].listens.contains(&p.to) {
                self.on_member(at, p.tainted, |m, ctx| m.receive(ctx, dgram));
            }
        }
    }

    /// Lets time pass, with all timers, and delivers what comes of it.
    pub(super) fn pass(&mut self, time: Duration) {
        let end = self.now.mono + time;
        loop {
            self.run();
            let members = self.hosts.iter().filter_map(|h| h.member.deadline());
            let other = self.other.as_ref().and_then(|(_, server)| server.deadline());
            let next = members.chain(self.server.deadline()).chain(other).map(|d| d.at).min();
            let Some(at) = next.filter(|at| *at <= end) else { break };
            self.jump(at.max(self.now.mono));
            self.on_server(false, |s, ctx| s.expire(ctx));
            self.on_other(|w| w.on_server(false, |s, ctx| s.expire(ctx)));
            for at in 0..self.hosts.len() {
                self.on_member(at, false, |m, ctx| m.expire(ctx));
            }
        }
        self.jump(end);
    }

    /// Lets time pass in which nobody does anything.
    pub(super) fn pass_quietly(&mut self, time: Duration) {
        self.jump(self.now.mono + time);
    }

    pub(super) fn jump(&mut self, to: Duration) {
        let by = to.saturating_sub(self.now.mono);
        self.now = Now { mono: self.now.mono + by, wall: self.now.wall + by };
    }

    /// Decides a rekey and renders its messages.
    pub(super) fn plan(&mut self, reason: RekeyReason, evict: &[Identity]) -> Vec<Vec<u8>> {
        let plan = self.plan_steps(reason, evict);
        let steps = plan.steps.iter().filter(|s| s.protocol == Protocol::Gikev2);
        steps.map(|s| rekey::render(&plan.policy, s, plan.fragment_size, &mut self.rng).unwrap()).collect()
    }

    pub(super) fn plan_steps(&mut self, reason: RekeyReason, evict: &[Identity]) -> Arc<RekeyPlan> {
        let plan = self.model.rekey("g", reason, evict, self.now, &mut self.rng).unwrap();
        let _ = self.model.take_store_ops();
        plan
    }

    pub(super) fn render(&mut self, plan: &RekeyPlan, step: usize) -> Vec<u8> {
        rekey::render(&plan.policy, &plan.steps[step], plan.fragment_size, &mut self.rng).unwrap()
    }

    /// The present Rekey SA.
    pub(super) fn rekey_sa(&self) -> Arc<RekeySa> {
        let offer = self.model.offer(&GroupId::Number(GROUP), &identity(9), None, Protocol::Gikev2, self.now);
        offer.unwrap().rekey
    }

    /// Goes on under another policy, and plans what tells members so, if anything does.
    pub(super) fn change(&mut self, policy: GroupPolicy) {
        self.policy = policy.clone();
        self.model.change(vec![policy], self.now, &mut self.rng).unwrap();
        let _ = self.model.take_store_ops();
        for (_, reason) in self.model.expire(self.now) {
            self.rekey(reason, &[]);
        }
    }

    /// Sends a rekey message to all, in as many datagrams as it has.
    pub(super) fn multicast(&mut self, bytes: &[u8]) {
        for datagram in rekey::datagrams(bytes) {
            self.send_to_all(datagram);
        }
    }

    /// Sends one datagram to all.
    pub(super) fn send_to_all(&mut self, datagram: &[u8]) {
        let Some(RekeyTransport::Multicast(to)) = self.policy.gikev2.as_ref().map(|g| g.transport) else { return };
        let t = Transmit { from: None, to, via: Via::Udp, bytes: datagram.to_vec() };
        push(&mut self.wire, &mut self.seen, &mut self.fate, self.gateway, t, false);
        self.run();
    }

    pub(super) fn rekey(&mut self, reason: RekeyReason, evict: &[Identity]) {
        let plan = self.plan_steps(reason, evict);
        for step in plan.steps.iter().filter(|s| s.protocol == Protocol::Gikev2) {
            let message = rekey::render(&plan.policy, step, plan.fragment_size, &mut self.rng).unwrap();
            self.multicast(&message);
        }
        self.on_server(false, |s, ctx| s.rekey_in_band(ctx, &plan));
        self.run();
    }

    /// SPIs of all live epochs.
    pub(super) fn live_spis(&self) -> BTreeSet<u32> {
        let views = self.model.group("g").unwrap().view(self.now).epochs;
        let spi = |s: &String| u32::from_str_radix(&s[2..], 16).unwrap();
        views.iter().flat_map(|e| e.spis.iter().map(spi)).collect()
    }

    /// SPIs of the newest epoch.
    pub(super) fn newest_spis(&self) -> BTreeSet<u32> {
        let views = self.model.group("g").unwrap().view(self.now).epochs;
        let spi = |s: &String| u32::from_str_radix(&s[2..], 16).unwrap();
        views.last().unwrap().spis.iter().map(spi).collect()
    }

    pub(super) fn has_newest(&self, at: usize) -> bool {
        self.newest_spis().iter().all(|spi| self.hosts[at].sas.contains_key(spi))
    }
}

fn push(
    wire: &mut VecDeque<Packet>,
    seen: &mut Vec<Packet>,
    fate: &mut Fate,
    from: SocketAddr,
    t: Transmit,
    tainted: bool,
) {
    let packet = Packet { from, to: t.to, via: t.via, bytes: t.bytes, tainted };
    seen.push(packet.clone());
    for _ in 0..fate(&packet) {
        wire.push_back(packet.clone());
    }
}

/// Every truncation, and every octet changed in two ways.
pub(super) fn variants(bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut all: Vec<Vec<u8>> = (0..bytes.len()).map(|n| bytes[..n].to_vec()).collect();
    for at in 0..bytes.len() {
        for flip in [0x01, 0xff] {
            let mut changed = bytes.to_vec();
            changed[at] ^= flip;
            all.push(changed);
        }
    }
    all
}

pub(super) fn address(v6: bool, n: u8) -> IpAddr {
    match v6 {
        false => IpAddr::from([10, 0, 0, n]),
        true => IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, u16::from(n)]),
    }
}

/// A key log that others may read.
#[derive(Clone, Default)]
pub(super) struct Lines(pub(super) Arc<Mutex<Vec<String>>>);

impl KeyLog for Lines {
    fn log(&mut self, table: &'static str, line: &str) {
        assert_eq!(table, "ikev2_decryption_table");
        self.0.lock().unwrap().push(line.to_owned());
    }
}
