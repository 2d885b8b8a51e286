//! A gateway and its members on one virtual network and one virtual clock.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use dataplane::{Frame, IvSource, Sad};
use keyferry_crypto::{Job, JobDone, Random, Secret, SeededRandom};
use keyferry_gateway::{Gateway, GatewaySettings, IkeOptions, Reloaded};
use keyferry_model::drive::{Datagram, JobId, Output, Transmit, Via};
use keyferry_model::id::Protocol;
use keyferry_model::policy::GroupPolicy;
use keyferry_model::settings::{Ike2Settings, MemberSettings};
use keyferry_model::store::StoreOp;
use keyferry_model::time::Now;
use keyferry_model::update::{GroupUpdate, MemberCtx, MemberEvent, MemberOutput, StreamUpdate};
use keyferry_wire::{NON_ESP_MARKER, split_marker};

use crate::net::{Nat, Net};
use crate::policy::{self, Variant};

/// A member's endpoint, of either protocol.
enum Machine {
    Gdoi(Box<gdoi::Member>),
    Gikev2(Box<gikev2::Member>),
}

impl Machine {
    fn new(protocol: Protocol, settings: MemberSettings) -> Self {
        match protocol {
            Protocol::Gdoi => Machine::Gdoi(Box::new(gdoi::Member::new(settings))),
            Protocol::Gikev2 => Machine::Gikev2(Box::new(gikev2::Member::new(settings))),
        }
    }

    fn drive(&mut self, ctx: &mut MemberCtx<'_>, what: Input<'_>) {
        match (self, what) {
            (Machine::Gdoi(m), Input::Start) => m.start(ctx),
            (Machine::Gdoi(m), Input::Datagram(d)) => m.receive(ctx, d),
            (Machine::Gdoi(m), Input::Expire) => m.expire(ctx),
            (Machine::Gdoi(m), Input::Leave) => m.leave(ctx),
            (Machine::Gdoi(m), Input::Renew) => m.reregister(ctx),
            (Machine::Gikev2(m), Input::Start) => m.start(ctx),
            (Machine::Gikev2(m), Input::Datagram(d)) => m.receive(ctx, d),
            (Machine::Gikev2(m), Input::Expire) => m.expire(ctx),
            (Machine::Gikev2(m), Input::Leave) => m.leave(ctx),
            (Machine::Gikev2(m), Input::Renew) => m.reregister(ctx),
        }
    }

    fn deadline(&self) -> Option<Duration> {
        match self {
            Machine::Gdoi(m) => m.deadline(),
            Machine::Gikev2(m) => m.deadline(),
        }
        .map(|d| d.at)
    }
}

enum Input<'a> {
    Start,
    Datagram(Datagram<'a>),
    Expire,
    Leave,
    Renew,
}

/// A member: endpoint, data plane, and what it was told.
pub struct Node {
    /// Its number, which is the last part of its address.
    pub n: u8,
    /// Its data plane.
    pub sad: Sad,
    /// Keys of IEC 61850 streams, as they came.
    pub streams: Vec<StreamUpdate>,
    /// Everything that happened to it, with the time.
    pub events: Vec<(Duration, MemberEvent)>,
    /// Is it cut off the network?
    pub unplugged: bool,
    machine: Machine,
    /// The endpoint of the protocol it is moving away from, which still gets its rekeys.
    former: Option<Machine>,
    listens: BTreeSet<SocketAddr>,
    rng: SeededRandom,
    ivs: IvSource,
}

/// The whole bench.
pub struct Fleet {
    /// The network.
    pub net: Net,
    /// The gateway; `None` while it is down.
    pub gateway: Option<Gateway>,
    /// What the gateway has made durable.
    pub store: BTreeMap<String, Secret>,
    /// The members, by number.
    pub nodes: BTreeMap<u8, Node>,
    /// Members that nothing reaches; what they send goes out.
    pub deaf: BTreeSet<u8>,
    /// NATs in front of members, by number. Multicasts pass them.
    pub nats: BTreeMap<u8, Nat>,
    /// How members that join keep their IKE SAs.
    pub member_ike: IkeOptions,
    /// In front of each message of an exchange, deliver every truncation of it, and it with each octet changed by each of
    /// these masks; of several copies in front of the first.
    pub tamper: Vec<u8>,
    tampered: BTreeSet<(SocketAddr, Vec<u8>)>,
    /// Datagrams that tampering drew from the gateway.
    pub drawn: usize,
    /// Keep signatures of rekeys from being made: they gather in `held`.
    pub hold_signatures: bool,
    /// Signatures that are not made yet.
    pub held: Vec<(JobId, Job)>,
    /// What the group is configured with, when the gateway starts or reads its configuration again.
    pub policy: GroupPolicy,
    /// The gateway gives tickets of this lifetime when it starts, and members that join from then on resume by them.
    pub tickets: Option<Duration>,
    variant: Variant,
    clock: Duration,
    rng: SeededRandom,
}

/// The wall clock at the start of every run.
const EPOCH: Duration = Duration::from_secs(1_800_000_000);

impl Fleet {
    /// A running gateway without members.
    #[must_use]
    pub fn new(seed: u64, variant: Variant) -> Self {
        Self::with_policy(seed, variant, policy::group(variant))
    }

    /// The same with another policy of the group.
    #[must_use]
    pub fn with_policy(seed: u64, variant: Variant, policy: GroupPolicy) -> Self {
        let mut fleet = Self {
            net: Net::new(seed.wrapping_mul(31).wrapping_add(1)),
            gateway: None,
            store: BTreeMap::new(),
            nodes: BTreeMap::new(),
            deaf: BTreeSet::new(),
            nats: BTreeMap::new(),
            member_ike: IkeOptions::default(),
            tamper: Vec::new(),
            tampered: BTreeSet::new(),
            drawn: 0,
            hold_signatures: false,
            held: Vec::new(),
            policy,
            tickets: None,
            variant,
            clock: Duration::from_secs(1),
            rng: SeededRandom::new(seed),
        };
        fleet.boot();
        fleet
    }

    /// The present.
    #[must_use]
    pub fn now(&self) -> Now {
        Now { mono: self.clock, wall: EPOCH + self.clock }
    }

    /// Starts the gateway over its store.
    ///
    /// # Panics
    /// If it does not start.
    pub fn boot(&mut self) {
        let settings = GatewaySettings {
            credentials: policy::credentials(self.variant.family),
            groups: vec![self.policy.clone()],
            identity: None,
            idle_ike_sa: Duration::from_secs(30),
            aggressive: false,
            danger_weak_phase1: false,
            phase1_lifetime: Duration::from_secs(86_400),
            dpd: None,
            fragment_size: 1280,
            ike: self
                .variant
                .hybrid
                .map_or_else(IkeOptions::default, |lifetime| IkeOptions { lifetime, ..IkeOptions::default() }),
            ike2: Ike2Settings { ticket_lifetime: self.tickets, ..self.variant.ike2() },
            connections: Default::default(),
        };
        let records = self.store.iter().map(|(k, v)| (k.clone(), v.duplicate())).collect();
        let now = self.now();
        let gateway = Gateway::new(settings, records, now, &mut self.rng).expect("the gateway starts over its store");
        self.gateway = Some(gateway);
        self.drain_gateway(None);
    }

    /// The gateway reads its configuration again.
    ///
    /// # Panics
    /// If the gateway is down, or cannot read the records of a group that comes back.
    pub fn reload(&mut self) -> Reloaded {
        let (groups, credentials) = (vec![self.policy.clone()], policy::credentials(self.variant.family));
        self.command(|g, now, rng| g.reload(now, rng, groups, credentials)).expect("records are sound")
    }

    /// Kills the gateway: whatever was not durable is lost.
    pub fn kill(&mut self) {
        self.gateway = None;
        self.held.clear();
    }

    /// Hands the gateway the result of a signature that was held.
    pub fn hand_back(&mut self, (id, done): (JobId, JobDone)) {
        self.command(|g, now, rng| g.complete(now, rng, id, done));
    }

    /// Kills the gateway in the middle of carrying out the outputs of a command: after `outputs` of them.
    pub fn kill_after(&mut self, outputs: usize) {
        self.drain_gateway(Some(outputs));
        self.kill();
    }

    /// Adds members and starts them.
    pub fn join(&mut self, members: impl IntoIterator<Item = u8>, protocol: Protocol) {
        for n in members {
            let mut settings = policy::member(self.variant, n);
            settings.ike2.resume = self.tickets.is_some();
            let mut sad = Sad::new();
            sad.set_tunnel(settings.tunnel());
            let mut machine = Machine::new(protocol, settings);
            if let Machine::Gikev2(member) = &mut machine {
                member.set_ike_options(self.member_ike);
            }
            let mut rng = SeededRandom::new(self.rng.u64());
            let ivs = IvSource::new(&mut rng);
            let node = Node {
                n,
                sad,
                streams: Vec::new(),
                events: Vec::new(),
                unplugged: false,
                machine,
                former: None,
                listens: BTreeSet::new(),
                rng,
                ivs,
            };
            self.nodes.insert(n, node);
            self.drive(n, Input::Start);
        }
    }

    /// A member changes its protocol and keeps what it has until the new registration stands.
    pub fn move_to(&mut self, n: u8, protocol: Protocol) {
        let machine = Machine::new(protocol, policy::member(self.variant, n));
        let Some(node) = self.nodes.get_mut(&n) else { return };
        node.former = Some(std::mem::replace(&mut node.machine, machine));
        self.drive(n, Input::Start);
    }

    /// A member leaves.
    pub fn leave(&mut self, n: u8) {
        self.drive(n, Input::Leave);
    }

    /// A member registers anew, as one does whose data plane needs a rekey.
    pub fn renew(&mut self, n: u8) {
        self.drive(n, Input::Renew);
    }

    /// Gives the gateway a command and carries out what comes of it.
    ///
    /// # Panics
    /// If the gateway is down.
    pub fn command<T>(&mut self, f: impl FnOnce(&mut Gateway, Now, &mut dyn Random) -> T) -> T {
        let result = self.command_only(f);
        self.drain_gateway(None);
        result
    }

    /// Gives the gateway a command and leaves its outputs where they are.
    ///
    /// # Panics
    /// If the gateway is down.
    pub fn command_only<T>(&mut self, f: impl FnOnce(&mut Gateway, Now, &mut dyn Random) -> T) -> T {
        let now = self.now();
        f(self.gateway.as_mut().expect("the gateway is up"), now, &mut self.rng)
    }

    /// Lets time pass, event by event.
    pub fn run(&mut self, time: Duration) {
        let end = self.clock + time;
        while let Some(at) = self.next_event().filter(|at| *at <= end) {
            self.clock = self.clock.max(at);
            self.step();
        }
        self.clock = end;
    }

    /// Lets a member send one packet and says who could open it.
    pub fn talk(&mut self, from: u8) -> Result<BTreeSet<u8>, dataplane::DropReason> {
        let (packet, _) = self.seal(from)?;
        Ok(self.open(&packet, from))
    }

    /// Lets a member seal one packet: the ESP packet and its SPI.
    ///
    /// # Errors
    /// Why it may not send.
    ///
    /// # Panics
    /// If there is no such member.
    pub fn seal(&mut self, from: u8) -> Result<(Vec<u8>, u32), dataplane::DropReason> {
        let plain = udp(self.variant.family.host(from), self.variant.family.traffic(), b"tick");
        let now = self.now();
        let node = self.nodes.get_mut(&from).expect("a member of that number");
        node.sad.expire(now);
        let mut frame = Frame::holding(&plain);
        let sealed = node.sad.snapshot().seal(&mut frame, &mut node.ivs)?;
        Ok((frame.packet().to_vec(), sealed.spi))
    }

    /// Which members, except the sender, can open an ESP packet.
    pub fn open(&mut self, packet: &[u8], from: u8) -> BTreeSet<u8> {
        let now = self.now();
        let plain = udp(self.variant.family.host(from), self.variant.family.traffic(), b"tick");
        let others = self.nodes.values_mut().filter(|node| node.n != from);
        let able = others.filter_map(|node| {
            node.sad.expire(now);
            let mut frame = Frame::holding(packet);
            node.sad.snapshot().open(&mut frame).ok()?;
            assert_eq!(payload(frame.packet()), payload(&plain), "the packet came out as it went in");
            Some(node.n)
        });
        able.collect()
    }

    /// Can each of these members hear each other of them?
    ///
    /// # Errors
    /// The first pair that cannot.
    pub fn all_hear(&mut self, members: &[u8]) -> Result<(), String> {
        let all: BTreeSet<u8> = members.iter().copied().collect();
        for from in members {
            let heard = self.talk(*from).map_err(|e| format!("{from} cannot send: {e:?}"))?;
            let deaf: Vec<u8> = all.iter().filter(|n| **n != *from && !heard.contains(n)).copied().collect();
            if !deaf.is_empty() {
                return Err(format!("at {:?}: {deaf:?} cannot hear {from}", self.clock));
            }
        }
        Ok(())
    }

    /// How often something happened to a member.
    #[must_use]
    pub fn count(&self, n: u8, what: impl Fn(&MemberEvent) -> bool) -> usize {
        self.nodes.get(&n).map_or(0, |node| node.events.iter().filter(|(_, e)| what(e)).count())
    }

    fn next_event(&self) -> Option<Duration> {
        let now = self.now();
        let machines = self.nodes.values().flat_map(|n| std::iter::once(&n.machine).chain(&n.former));
        let gateway = self.gateway.as_ref().and_then(|g| g.deadline(now)).map(|d| d.at);
        machines.filter_map(Machine::deadline).chain(gateway).chain(self.net.next_at()).min()
    }

    fn step(&mut self) {
        while let Some(packet) = self.net.arrive(self.clock) {
            let mut fresh = || self.tampered.insert((packet.to, packet.bytes.clone()));
            if !self.tamper.is_empty() && !opens_exchange(&packet.bytes) && fresh() {
                let before = self.net.log.len();
                let masks = self.tamper.clone();
                for bytes in alterations(&packet.bytes, &masks) {
                    self.deliver(packet.from, packet.to, &bytes);
                }
                if packet.to == self.variant.family.gateway() {
                    self.drawn += self.net.log.len() - before;
                }
            }
            self.deliver(packet.from, packet.to, &packet.bytes);
        }
        let now = self.now();
        if self.gateway.as_ref().and_then(|g| g.deadline(now)).is_some_and(|d| d.at <= self.clock) {
            self.command(|g, now, rng| g.expire(now, rng));
        }
        let due = |m: &Machine, clock| m.deadline().is_some_and(|at| at <= clock);
        let clock = self.clock;
        let wanting = |n: &Node| due(&n.machine, clock) || n.former.as_ref().is_some_and(|m| due(m, clock));
        let numbers: Vec<u8> = self.nodes.values().filter(|n| wanting(n)).map(|n| n.n).collect();
        for n in numbers {
            self.drive(n, Input::Expire);
        }
    }

    /// Delivers a datagram at once, as if it had arrived from that address.
    pub fn deliver(&mut self, from: SocketAddr, to: SocketAddr, bytes: &[u8]) {
        let gateway = self.variant.family.gateway();
        if to == gateway || to == SocketAddr::new(gateway.ip(), gikev2::NAT_PORT) {
            if self.gateway.is_some() {
                self.command(|g, now, rng| g.receive(now, rng, from, to, bytes));
            }
            return;
        }
        let outside = self.nats.values().find(|nat| nat.outside == to.ip());
        let Some(to) = outside.map_or(Some(to), |nat| nat.inward(to.port())) else { return };
        // Multicasts were sent once per receiver; the number of the receiver stands in place of the port.
        let Some(n) = self.receiver(to).filter(|n| !self.deaf.contains(n)) else { return };
        let real = if to.ip().is_multicast() { SocketAddr::new(to.ip(), 848) } else { to };
        let (marker, bytes) = split_marker(bytes);
        self.drive(n, Input::Datagram(Datagram { from, to: real, via: Via::udp(marker), bytes }));
    }

    fn receiver(&self, to: SocketAddr) -> Option<u8> {
        if to.ip().is_multicast() {
            return u8::try_from(to.port()).ok().filter(|n| self.nodes.contains_key(n));
        }
        self.number_of(to.ip())
    }

    /// Whose address this is.
    #[must_use]
    pub fn number_of(&self, ip: IpAddr) -> Option<u8> {
        self.nodes.keys().copied().find(|n| self.variant.family.host(*n) == ip)
    }

    fn drive(&mut self, n: u8, input: Input<'_>) {
        let now = self.now();
        let Some(node) = self.nodes.get_mut(&n).filter(|node| !node.unplugged) else { return };
        let mut old = Vec::new();
        if let Some(former) = &mut node.former {
            let mut ctx = MemberCtx { now, rng: &mut node.rng, out: &mut old };
            match &input {
                Input::Datagram(d) => former.drive(&mut ctx, Input::Datagram(*d)),
                Input::Expire => former.drive(&mut ctx, Input::Expire),
                Input::Start | Input::Leave | Input::Renew => {}
            }
        }
        let mut new = Vec::new();
        let mut ctx = MemberCtx { now, rng: &mut node.rng, out: &mut new };
        node.machine.drive(&mut ctx, input);
        self.carry_out(n, old);
        self.carry_out(n, new);
    }

    fn carry_out(&mut self, n: u8, outputs: Vec<MemberOutput>) {
        let now = self.now();
        let local = SocketAddr::new(self.variant.family.host(n), 848);
        for output in outputs {
            let Some(node) = self.nodes.get_mut(&n) else { return };
            match output {
                MemberOutput::Send(t) => {
                    let bytes = on_wire(&t);
                    let from = t.from.unwrap_or(local);
                    let from = self.nats.get_mut(&n).map_or(from, |nat| nat.outward(from));
                    self.net.send(self.clock, from, t.to, &bytes);
                }
                MemberOutput::Update(update) => apply(node, update, now),
                MemberOutput::Streams(update) => node.streams.push(update),
                MemberOutput::Flush => node.sad.flush(),
                MemberOutput::Of(..) => panic!("members have one group here"),
                MemberOutput::Dial { .. } | MemberOutput::HangUp(_) => panic!("members speak UDP here"),
                MemberOutput::Listen(group) => {
                    node.listens.insert(group);
                }
                MemberOutput::Event(event) => {
                    if event == MemberEvent::Registered {
                        node.former = None;
                    }
                    node.events.push((self.clock, event));
                }
            }
        }
    }

    /// Carries out the gateway's outputs, all or the first few.
    fn drain_gateway(&mut self, limit: Option<usize>) {
        for _ in 0..limit.unwrap_or(usize::MAX) {
            let Some(output) = self.gateway.as_mut().and_then(Gateway::poll) else { return };
            match output {
                Output::Persist(ops) => ops.into_iter().for_each(|op| match op {
                    StoreOp::Put(key, value) => drop(self.store.insert(key, value)),
                    StoreOp::Delete(key) => drop(self.store.remove(&key)),
                }),
                Output::Send(t) => {
                    let from = t.from.unwrap_or(self.variant.family.gateway());
                    let bytes = on_wire(&t);
                    for to in self.receivers(t.to) {
                        self.net.send(self.clock, from, to, &bytes);
                    }
                }
                Output::Cancel(id) => self.held.retain(|(held, _)| *held != id),
                Output::Job(id, job @ Job::SignMessage(_)) if self.hold_signatures => self.held.push((id, job)),
                Output::Close(_) => {}
                // Other jobs are done at once here.
                Output::Job(id, job) => {
                    let done = job.run();
                    let now = self.now();
                    if let Some(gateway) = &mut self.gateway {
                        gateway.complete(now, &mut self.rng, id, done);
                    }
                }
            }
        }
    }

    fn receivers(&self, to: SocketAddr) -> Vec<SocketAddr> {
        if !to.ip().is_multicast() {
            return vec![to];
        }
        let listening = self.nodes.values().filter(|n| n.listens.contains(&to));
        listening.map(|n| SocketAddr::new(to.ip(), u16::from(n.n))).collect()
    }
}

/// A datagram with its marker, if it has one.
fn on_wire(t: &Transmit) -> Vec<u8> {
    let marker: &[u8] = if t.via.is_marked_udp() { &NON_ESP_MARKER } else { &[] };
    [marker, &t.bytes].concat()
}

fn apply(node: &mut Node, update: GroupUpdate, now: Now) {
    if let Err(error) = node.sad.apply(update, now) {
        panic!("member {} cannot apply what the key server sent: {error}", node.n);
    }
}

/// The first message of an initiator, which anybody may send: its responder SPI is zero.
#[must_use]
pub fn opens_exchange(message: &[u8]) -> bool {
    message.get(8..16) == Some(&[0; 8])
}

/// Every truncation of a message, and the message with each single octet changed by each of the masks.
pub fn alterations<'a>(message: &'a [u8], masks: &'a [u8]) -> impl Iterator<Item = Vec<u8>> + 'a {
    let shorter = (0..message.len()).map(|len| message[..len].to_vec());
    let changed = (0..message.len()).flat_map(move |at| {
        masks.iter().map(move |mask| {
            let mut bytes = message.to_vec();
            bytes[at] ^= mask;
            bytes
        })
    });
    shorter.chain(changed)
}

/// A UDP packet in IPv4 or IPv6.
fn udp(from: IpAddr, to: IpAddr, data: &[u8]) -> Vec<u8> {
    let udp_len = u16::try_from(8 + data.len()).expect("short test data");
    let mut udp = [[0x13, 0x88, 0x13, 0x88].as_slice(), &udp_len.to_be_bytes(), &[0, 0], data].concat();
    match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let total = (20 + udp_len).to_be_bytes();
            let mut ip = vec![0x45, 0, total[0], total[1], 0, 1, 0, 0, 8, 17, 0, 0];
            ip.extend(from.octets());
            ip.extend(to.octets());
            let sum = ip.chunks(2).map(|w| u32::from(u16::from_be_bytes([w[0], w[1]]))).sum::<u32>();
            let folded = (sum & 0xffff) + (sum >> 16);
            let folded = (folded & 0xffff) + (folded >> 16);
            let checksum = !u16::try_from(folded).expect("folded to 16 bits");
            ip[10..12].copy_from_slice(&checksum.to_be_bytes());
            ip.extend(udp);
            ip
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            // Whoever opens the packet does not check UDP; any checksum but zero will do.
            udp[6] = 1;
            let len = udp_len.to_be_bytes();
            let mut ip = vec![0x60, 0, 0, 0, len[0], len[1], 17, 8];
            ip.extend(from.octets());
            ip.extend(to.octets());
            ip.extend(udp);
            ip
        }
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => panic!("one IP version per packet"),
    }
}

/// What is behind the IP header.
fn payload(packet: &[u8]) -> &[u8] {
    if packet[0] >> 4 == 4 { &packet[20..] } else { &packet[40..] }
}
