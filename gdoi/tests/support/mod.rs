//! A key server and members in memory, on a virtual clock.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used)]

pub mod pki;

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use gdoi::{Member, Server, ServerConfig};
use keyferry_crypto::{
    Aead, BlockCipher, Hash, Job, KeGroup, KeyKind, Secret, SeededRandom, SignatureScheme, SigningKey,
};
use keyferry_model::Model;
use keyferry_model::credentials::{Credentials, Peer, Proof};
use keyferry_model::drive::{Ctx, Datagram, JobId, Outbox, Output, Via};
use keyferry_model::id::{GroupId, Identity, Protocol};
use keyferry_model::key_server::KeyServers;
use keyferry_model::plan::{RekeyPlan, RekeyReason};
use keyferry_model::policy::{
    AckType, AddressPreservation, Authorization, EspMode, EspTransform, GdoiRekey, GroupPolicy, KekManagement,
    RekeyTransport, Retransmit, Selector, SequenceNumbers, TrafficPolicy,
};
use keyferry_model::reading::Readings;
use keyferry_model::settings::{
    GdoiSettings, Gikev2Settings, Ike2Settings, MemberAuth, MemberSettings, Phase1Settings, TrafficSettings,
};
use keyferry_model::time::Now;
use keyferry_model::update::{GroupUpdate, MemberCtx, MemberEvent, MemberOutput, StreamUpdate};
use keyferry_wire::{NON_ESP_MARKER, split_marker};

pub const GROUP: &str = "floor";

pub fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

pub fn signer(kind: KeyKind) -> Arc<SigningKey> {
    static RSA: OnceLock<Arc<SigningKey>> = OnceLock::new();
    match kind {
        KeyKind::Rsa => Arc::clone(RSA.get_or_init(|| Arc::new(SigningKey::generate_rsa(2048).unwrap()))),
        KeyKind::Ed25519 | KeyKind::Ed448 => panic!("GDOI has no such keys"),
        KeyKind::EcP256 | KeyKind::EcP384 | KeyKind::EcP521 => Arc::new(SigningKey::generate_ec(kind).unwrap()),
    }
}

/// Addresses: the server is host 1, members are 10 and up.
pub fn host(v6: bool, n: u8) -> SocketAddr {
    let text = if v6 { format!("[fd84::{n:x}]:848") } else { format!("10.84.0.{n}:848") };
    text.parse().unwrap()
}

#[derive(Clone, Copy)]
pub struct Setup {
    pub v6: bool,
    pub ke: KeGroup,
    pub hash: Hash,
    pub transform: EspTransform,
    pub mode: EspMode,
    pub unicast: bool,
    pub ack: Option<AckType>,
    pub kek: BlockCipher,
    pub sends: Readings,
    pub scheme: SignatureScheme,
    pub management: KekManagement,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            v6: false,
            ke: KeGroup::Ecp256,
            hash: Hash::Sha256,
            transform: EspTransform::Aead(Aead::Aes128Gcm16),
            mode: EspMode::Tunnel,
            unicast: false,
            ack: Some(AckType::Kek(Hash::Sha256)),
            kek: BlockCipher::Aes128Cbc,
            sends: Readings::NONE,
            scheme: SignatureScheme::RsaPkcs1Sha256,
            management: KekManagement::Lkh,
        }
    }
}

pub fn policy(setup: Setup) -> GroupPolicy {
    let any = if setup.v6 { "::" } else { "0.0.0.0" }.parse().unwrap();
    let group = if setup.v6 { "ff15::1" } else { "239.192.0.1" }.parse().unwrap();
    let rekey: SocketAddr = if setup.v6 { "[ff15::84]:848" } else { "239.192.84.1:848" }.parse().unwrap();
    let line = TrafficPolicy {
        source: Selector { address: any, prefix: 0, protocol: 0, port: 0 },
        destination: Selector { address: group, prefix: if setup.v6 { 128 } else { 32 }, protocol: 0, port: 0 },
        mode: setup.mode,
        transform: setup.transform,
        sequence: SequenceNumbers::Unspecified,
        replay_window: 0,
        preservation: AddressPreservation::Both,
        only_sender: None,
        lifetime_octets: None,
    };
    GroupPolicy {
        name: GROUP.into(),
        ids: vec![
            GroupId::Number(1234),
            "239.192.0.1".parse().unwrap(),
            "ff15::1".parse().unwrap(),
            "fqdn:floor.example".parse().unwrap(),
            "key-id:0102030405".parse().unwrap(),
            "key-id:01".parse().unwrap(),
            "user:floor@example".parse().unwrap(),
        ],
        traffic: vec![Arc::new(line)],
        streams: Vec::new(),
        tek_lifetime: secs(3600),
        kek_lifetime: secs(86_400),
        rekey_margin: secs(300),
        rekey_when_asked: None,
        activation_delay: secs(5),
        deactivation_delay: secs(15),
        sender_id_bits: 12,
        sender_ids_per_member: 4,
        capacity: 16,
        retransmit: Retransmit { copies: 2, interval: secs(2) },
        ack_patience: secs(20),
        ack_resend: false,
        backward_access: None,
        evict_after_misses: None,
        authorization: Authorization::Authenticated,
        gdoi: Some(GdoiRekey {
            cipher: setup.kek,
            transport: if setup.unicast { RekeyTransport::Unicast } else { RekeyTransport::Multicast(rekey) },
            signer: signer(setup.scheme.kind()),
            scheme: setup.scheme,
            ack: setup.ack,
            sends: setup.sends,
            management: setup.management,
        }),
        gikev2: None,
    }
}

pub fn psk(n: u8) -> Arc<Secret> {
    Arc::new(Secret::new(vec![n; 24]))
}

pub fn settings(setup: Setup, n: u8) -> MemberSettings {
    MemberSettings {
        key_servers: KeyServers::one(host(setup.v6, 1), Some(Identity::from_ip(host(setup.v6, 1).ip()))),
        local: host(setup.v6, n),
        group: GroupId::Number(1234),
        identity: Identity::from_ip(host(setup.v6, n).ip()),
        auth: MemberAuth::Psk(psk(n)),
        phase1: Phase1Settings::default(),
        sender_ids: 2,
        ke_groups: vec![setup.ke],
        hashes: vec![setup.hash],
        marker: false,
        retransmit: Duration::from_millis(500),
        tries: 5,
        retry: secs(10),
        ack_jitter: Duration::from_millis(300),
        connect_only: false,
        ike2: Ike2Settings::default(),
        gdoi: GdoiSettings {
            danger_weak_rekey: setup.kek.is_weak() || setup.scheme.is_weak(),
            ..GdoiSettings::default()
        },
        traffic: TrafficSettings::default(),
        gikev2: Gikev2Settings::default(),
    }
}

pub struct Node {
    pub member: Member,
    pub rng: SeededRandom,
    pub events: Vec<MemberEvent>,
    pub updates: Vec<GroupUpdate>,
    pub streams: Vec<StreamUpdate>,
    pub listens: Vec<SocketAddr>,
    pub flushed: usize,
    /// What was said of further groups.
    pub further: Vec<(usize, MemberOutput)>,
}

impl Node {
    pub fn count(&self, what: impl Fn(&MemberEvent) -> bool) -> usize {
        self.events.iter().filter(|e| what(e)).count()
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    pub from: SocketAddr,
    pub to: SocketAddr,
    pub bytes: Vec<u8>,
}

/// With a non-ESP marker in front, if there is to be one.
fn on_wire(marker: bool, bytes: Vec<u8>) -> Vec<u8> {
    if marker { [&NON_ESP_MARKER[..], &bytes].concat() } else { bytes }
}

pub struct Bench {
    pub setup: Setup,
    pub model: Model,
    pub server: Server,
    pub out: Outbox,
    pub rng: SeededRandom,
    pub nodes: BTreeMap<u8, Node>,
    pub clock: Duration,
    pub wire: VecDeque<Packet>,
    pub log: Vec<Packet>,
    /// Bytes that go to the store.
    pub persisted: usize,
    /// Keep the server's jobs instead of doing them at once.
    pub hold_jobs: bool,
    pub held: Vec<(JobId, Job)>,
}

impl Bench {
    pub fn new(setup: Setup) -> Self {
        Self::with_policy(setup, policy(setup), |_| {})
    }

    pub fn with_policy(setup: Setup, policy: GroupPolicy, change: impl Fn(&mut ServerConfig)) -> Self {
        let mut rng = SeededRandom::new(7);
        let clock = secs(100);
        let now = Now { mono: clock, wall: secs(1_800_000_000) + clock };
        let peers = (10..30).map(|n| Peer {
            identity: Some(Identity::from_ip(host(setup.v6, n).ip())),
            address: None,
            proof: Proof::Psk(psk(n)),
            sends: Readings::NONE,
        });
        let credentials = Arc::new(Credentials::new(peers.collect()));
        let mut config = ServerConfig::new(credentials);
        change(&mut config);
        Self {
            setup,
            model: Model::load(vec![policy], &BTreeMap::new(), now, &mut rng).unwrap(),
            server: Server::new(config),
            out: Outbox::default(),
            rng,
            nodes: BTreeMap::new(),
            clock,
            wire: VecDeque::new(),
            log: Vec::new(),
            persisted: 0,
            hold_jobs: false,
            held: Vec::new(),
        }
    }

    pub fn now(&self) -> Now {
        Now { mono: self.clock, wall: secs(1_800_000_000) + self.clock }
    }

    pub fn add(&mut self, n: u8) {
        let settings = settings(self.setup, n);
        self.add_with(n, settings);
    }

    pub fn add_with(&mut self, n: u8, settings: MemberSettings) {
        let node = Node {
            member: Member::new(settings),
            rng: SeededRandom::new(u64::from(n) + 1000),
            events: Vec::new(),
            updates: Vec::new(),
            streams: Vec::new(),
            listens: Vec::new(),
            flushed: 0,
            further: Vec::new(),
        };
        self.nodes.insert(n, node);
        self.member(n, |m, ctx| m.start(ctx));
    }

    pub fn member(&mut self, n: u8, f: impl FnOnce(&mut Member, &mut MemberCtx<'_>)) {
        let now = self.now();
        let Some(node) = self.nodes.get_mut(&n) else { return };
        let mut out = Vec::new();
        f(&mut node.member, &mut MemberCtx { now, rng: &mut node.rng, out: &mut out });
        for output in out {
            match output {
                MemberOutput::Send(t) => {
                    let from = t.from.unwrap();
                    let packet = Packet { from, to: t.to, bytes: on_wire(t.via.is_marked_udp(), t.bytes) };
                    self.log.push(packet.clone());
                    self.wire.push_back(packet);
                }
                MemberOutput::Update(update) => node.updates.push(update),
                MemberOutput::Streams(update) => node.streams.push(update),
                MemberOutput::Flush => node.flushed += 1,
                MemberOutput::Listen(at) => node.listens.push(at),
                MemberOutput::Event(event) => node.events.push(event),
                MemberOutput::Dial { .. } | MemberOutput::HangUp(_) => panic!("GDOI speaks UDP"),
                MemberOutput::Of(at, output) => node.further.push((at, *output)),
            }
        }
    }

    pub fn serve(&mut self, f: impl FnOnce(&mut Server, &mut Ctx<'_>)) {
        let now = self.now();
        let mut ctx = Ctx { now, model: &mut self.model, rng: &mut self.rng, out: &mut self.out };
        f(&mut self.server, &mut ctx);
        self.drain();
    }

    fn drain(&mut self) {
        while let Some(output) = self.out.poll() {
            match output {
                Output::Persist(ops) => self.persisted += ops.len(),
                Output::Send(t) => {
                    let packet =
                        Packet { from: t.from.unwrap(), to: t.to, bytes: on_wire(t.via.is_marked_udp(), t.bytes) };
                    self.log.push(packet.clone());
                    self.wire.push_back(packet);
                }
                Output::Cancel(id) => self.held.retain(|(held, _)| *held != id),
                Output::Close(_) => {}
                Output::Job(id, job) if self.hold_jobs => self.held.push((id, job)),
                Output::Job(id, job) => {
                    let done = job.run();
                    let now = self.now();
                    let mut ctx = Ctx { now, model: &mut self.model, rng: &mut self.rng, out: &mut self.out };
                    self.server.complete(&mut ctx, id, done);
                }
            }
        }
    }

    pub fn deliver(&mut self, packet: &Packet) {
        let (marker, bytes) = split_marker(&packet.bytes);
        let datagram = Datagram { from: packet.from, to: packet.to, via: Via::udp(marker), bytes };
        if packet.to.ip() == host(self.setup.v6, 1).ip() {
            self.serve(|server, ctx| server.receive(ctx, datagram));
            return;
        }
        let numbers: Vec<u8> = self.nodes.keys().copied().collect();
        for n in numbers {
            let mine = self.nodes[&n].listens.contains(&packet.to) || packet.to.ip() == host(self.setup.v6, n).ip();
            if mine {
                self.member(n, |m, ctx| m.receive(ctx, datagram));
            }
        }
    }

    /// Delivers everything at once, through `net`: what it returns arrives in place of a packet.
    pub fn settle_through(&mut self, net: &mut dyn FnMut(&Packet) -> Vec<Packet>) {
        while let Some(packet) = self.wire.pop_front() {
            for packet in net(&packet) {
                self.deliver(&packet);
            }
        }
    }

    pub fn settle(&mut self) {
        self.settle_through(&mut |p| vec![p.clone()]);
    }

    fn next(&self) -> Option<Duration> {
        let members = self.nodes.values().filter_map(|n| n.member.deadline());
        members.chain(self.server.deadline()).map(|d| d.at).min()
    }

    /// Lets time pass, from one deadline to the next.
    pub fn run_through(&mut self, span: Duration, net: &mut dyn FnMut(&Packet) -> Vec<Packet>) {
        let end = self.clock + span;
        self.settle_through(net);
        for step in 0.. {
            assert!(step < 100_000, "the machines never rest");
            let Some(at) = self.next().filter(|at| *at <= end) else { break };
            self.clock = self.clock.max(at);
            self.serve(|server, ctx| server.expire(ctx));
            let numbers: Vec<u8> = self.nodes.keys().copied().collect();
            for n in numbers {
                self.member(n, |m, ctx| m.expire(ctx));
            }
            self.settle_through(net);
        }
        self.clock = end;
    }

    pub fn run(&mut self, span: Duration) {
        self.run_through(span, &mut |p| vec![p.clone()]);
    }

    /// Plans a rekey and renders its messages.
    pub fn plan(&mut self, reason: RekeyReason, evict: &[u8]) -> (Arc<RekeyPlan>, Vec<Vec<u8>>) {
        let evict: Vec<Identity> = evict.iter().map(|n| Identity::from_ip(host(self.setup.v6, *n).ip())).collect();
        let now = self.now();
        let plan = self.model.rekey(GROUP, reason, &evict, now, &mut self.rng).unwrap();
        let messages = plan.steps.iter().map(|s| gdoi::push::render(&plan.policy, s, &mut self.rng).unwrap()).collect();
        (plan, messages)
    }

    /// Puts pushes on the wire, to where they go.
    pub fn send_pushes(&mut self, messages: &[Vec<u8>]) {
        let from = host(self.setup.v6, 1);
        let gdoi = self.model.group(GROUP).unwrap().policy().gdoi.clone().unwrap();
        let to = match gdoi.transport {
            RekeyTransport::Multicast(to) => vec![to],
            RekeyTransport::Unicast => self.model.addresses(GROUP, Protocol::Gdoi),
        };
        for bytes in messages {
            for to in &to {
                let packet = Packet { from, to: *to, bytes: bytes.clone() };
                self.log.push(packet.clone());
                self.wire.push_back(packet);
            }
        }
    }

    pub fn rekey(&mut self, reason: RekeyReason, evict: &[u8]) -> Arc<RekeyPlan> {
        let (plan, messages) = self.plan(reason, evict);
        self.send_pushes(&messages);
        plan
    }
}
