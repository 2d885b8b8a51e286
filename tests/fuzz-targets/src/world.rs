//! A GDOI key server and members in memory, on a virtual clock, that fuzzers can get between.

use std::cell::Cell;
use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use dataplane::Sad;
use gdoi::fuzzing::Tables;
use gdoi::{Member, Server, ServerConfig};
use keyferry_crypto::SeededRandom;
use keyferry_model::Model;
use keyferry_model::drive::{Ctx, Datagram, Outbox, Output, Via};
use keyferry_model::id::{Identity, Protocol};
use keyferry_model::plan::RekeyReason;
use keyferry_model::policy::{GroupPolicy, RekeyTransport};
use keyferry_model::settings::{MemberSettings, Phase1Exchange, Phase1Settings};
use keyferry_model::time::Now;
use keyferry_model::update::{MemberCtx, MemberEvent, MemberOutput};
use keyferry_scenarios::policy::{self, Family, Variant};

/// A datagram on its way: the member's address and port, and its octets.
pub(crate) type Packet = (SocketAddr, Vec<u8>);

/// Tables small enough for a script to fill.
pub(crate) const HALF_OPEN: usize = 8;
pub(crate) const HALF_OPEN_PER_SOURCE: usize = 4;
pub(crate) const SAS: usize = 8;

const EPOCH: Duration = Duration::from_secs(1_800_000_000);

pub(crate) struct Node {
    pub(crate) member: Member,
    pub(crate) sad: Sad,
    pub(crate) registered: u32,
    listens: Vec<SocketAddr>,
    rng: SeededRandom,
}

pub(crate) struct World {
    variant: Variant,
    model: Model,
    server: Server,
    out: Outbox,
    rng: SeededRandom,
    clock: Duration,
    joined: u64,
    pub(crate) nodes: BTreeMap<u8, Node>,
    /// Not delivered yet.
    pub(crate) to_server: VecDeque<Packet>,
    /// Not delivered yet; the second address is where the key server sent it.
    pub(crate) to_members: VecDeque<(u8, SocketAddr, Vec<u8>)>,
    /// What members have sent.
    pub(crate) log: Vec<Packet>,
    /// Is it the key server that is at work?
    pub(crate) serving: Rc<Cell<bool>>,
}

/// Address of member `n`.
pub(crate) fn address(n: u8) -> SocketAddr {
    SocketAddr::new(Family::V4.host(n), 848)
}

fn identity(n: u8) -> Identity {
    Identity::from_ip(Family::V4.host(n))
}

impl World {
    pub(crate) fn new(variant: Variant) -> Self {
        let clock = Duration::from_secs(1);
        let now = Now { mono: clock, wall: EPOCH + clock };
        let mut rng = SeededRandom::new(1);
        let group = GroupPolicy { gikev2: None, ..policy::group(variant) };
        let model = Model::load(vec![group], &BTreeMap::new(), now, &mut rng).expect("an empty store is sound");
        let mut config = ServerConfig::new(policy::credentials(Family::V4));
        config.half_open = HALF_OPEN;
        config.half_open_per_source = HALF_OPEN_PER_SOURCE;
        config.sas = SAS;
        config.pulls = 2;
        config.aggressive = true;
        Self {
            variant,
            model,
            server: Server::new(config),
            out: Outbox::default(),
            rng,
            clock,
            joined: 0,
            nodes: BTreeMap::new(),
            to_server: VecDeque::new(),
            to_members: VecDeque::new(),
            log: Vec::new(),
            serving: Rc::default(),
        }
    }

    pub(crate) fn now(&self) -> Now {
        Now { mono: self.clock, wall: EPOCH + self.clock }
    }

    pub(crate) fn tables(&self) -> Tables {
        Tables::of(&self.server)
    }

    /// A member begins; one that is there begins anew, with nothing.
    pub(crate) fn join(&mut self, n: u8, exchange: Phase1Exchange) {
        let settings = policy::member(self.variant, n);
        let settings = MemberSettings { phase1: Phase1Settings { exchange, ..settings.phase1.clone() }, ..settings };
        // Another one each time, or a member that begins anew would repeat itself.
        self.joined += 1;
        let seed = u64::from(n) << 32 | self.joined;
        let node = Node {
            member: Member::new(settings),
            sad: Sad::new(),
            registered: 0,
            listens: Vec::new(),
            rng: SeededRandom::new(seed),
        };
        self.nodes.insert(n, node);
        self.drive(n, Member::start);
    }

    pub(crate) fn leave(&mut self, n: u8) {
        self.drive(n, Member::leave);
    }

    /// One step of a member; how many datagrams it sent.
    pub(crate) fn drive(&mut self, n: u8, step: impl FnOnce(&mut Member, &mut MemberCtx<'_>)) -> usize {
        let now = self.now();
        let Some(node) = self.nodes.get_mut(&n) else { return 0 };
        let mut out = Vec::new();
        step(&mut node.member, &mut MemberCtx { now, rng: &mut node.rng, out: &mut out });
        let mut sent = 0;
        for output in out {
            match output {
                MemberOutput::Send(transmit) => {
                    sent += 1;
                    self.log.push((address(n), transmit.bytes.clone()));
                    self.to_server.push_back((address(n), transmit.bytes));
                }
                MemberOutput::Update(update) => {
                    // What a hostile key server says may be beyond the data plane; it must not upset it.
                    let _ = node.sad.apply(update, now);
                }
                MemberOutput::Streams(update) => {
                    for stream in update.install {
                        let (encryption, authentication) = stream.protection.key_lens();
                        assert_eq!(stream.keymat.len(), encryption + authentication, "keys of a stream");
                    }
                }
                MemberOutput::Flush => node.sad.flush(),
                MemberOutput::Listen(at) => node.listens.push(at),
                MemberOutput::Of(..) => panic!("members have one group here"),
                MemberOutput::Dial { .. } | MemberOutput::HangUp(_) => panic!("members speak UDP here"),
                MemberOutput::Event(event) => node.registered += u32::from(event == MemberEvent::Registered),
            }
        }
        sent
    }

    /// Gives the key server a datagram; how many it sent.
    pub(crate) fn serve(&mut self, from: SocketAddr, bytes: &[u8]) -> usize {
        let datagram = Datagram { from, to: Family::V4.gateway(), via: Via::Udp, bytes };
        self.step(|server, ctx| server.receive(ctx, datagram))
    }

    /// Gives a member a datagram; how many it sent.
    pub(crate) fn deliver(&mut self, n: u8, to: SocketAddr, bytes: &[u8]) -> usize {
        let datagram = Datagram { from: Family::V4.gateway(), to, via: Via::Udp, bytes };
        self.drive(n, |member, ctx| member.receive(ctx, datagram))
    }

    fn step(&mut self, step: impl FnOnce(&mut Server, &mut Ctx<'_>)) -> usize {
        let now = self.now();
        let mut ctx = Ctx { now, model: &mut self.model, rng: &mut self.rng, out: &mut self.out };
        self.serving.set(true);
        step(&mut self.server, &mut ctx);
        let mut sent = 0;
        while let Some(output) = self.out.poll() {
            match output {
                // Jobs are done at once here.
                Output::Persist(_) | Output::Cancel(_) | Output::Close(_) => {}
                Output::Send(transmit) => {
                    sent += 1;
                    self.transmit(transmit.to, &transmit.bytes);
                }
                Output::Job(id, job) => {
                    let done = job.run();
                    let mut ctx = Ctx { now, model: &mut self.model, rng: &mut self.rng, out: &mut self.out };
                    self.server.complete(&mut ctx, id, done);
                }
            }
        }
        self.serving.set(false);
        sent
    }

    fn transmit(&mut self, to: SocketAddr, bytes: &[u8]) {
        let at = |n: &u8, node: &Node| {
            if to.ip().is_multicast() { node.listens.contains(&to) } else { address(*n).ip() == to.ip() }
        };
        let receivers: Vec<u8> = self.nodes.iter().filter(|(n, node)| at(n, node)).map(|(n, _)| *n).collect();
        self.to_members.extend(receivers.into_iter().map(|n| (n, to, bytes.to_vec())));
    }

    /// Rekeys the group and sends the messages once.
    pub(crate) fn rekey(&mut self, reason: RekeyReason, evict: &[u8]) {
        let evict: Vec<Identity> = evict.iter().map(|n| identity(*n)).collect();
        let now = self.now();
        let Some(plan) = self.model.rekey(policy::NAME, reason, &evict, now, &mut self.rng) else { return };
        let to = match plan.policy.gdoi.as_ref().map(|g| g.transport) {
            Some(RekeyTransport::Multicast(to)) => vec![to],
            Some(RekeyTransport::Unicast) => self.model.addresses(policy::NAME, Protocol::Gdoi),
            None => Vec::new(),
        };
        self.serving.set(true);
        for step in &plan.steps {
            // Too long, once a fuzzer has had its hands on it.
            let Ok(bytes) = gdoi::push::render(&plan.policy, step, &mut self.rng) else { continue };
            to.iter().for_each(|to| self.transmit(*to, &bytes));
        }
        self.serving.set(false);
        drop(self.model.take_store_ops());
    }

    /// Delivers everything until nothing is left, at most `limit` datagrams; is nothing left?
    pub(crate) fn settle(&mut self, limit: usize) -> bool {
        for _ in 0..limit {
            if let Some((from, bytes)) = self.to_server.pop_front() {
                self.serve(from, &bytes);
            } else if let Some((n, to, bytes)) = self.to_members.pop_front() {
                self.deliver(n, to, &bytes);
            } else {
                return true;
            }
        }
        false
    }

    /// Jumps ahead, and lets everybody do what is due.
    pub(crate) fn pass(&mut self, time: Duration) {
        self.clock += time;
        let now = self.now();
        self.step(|server, ctx| server.expire(ctx));
        for (_, reason) in self.model.expire(now) {
            self.rekey(reason, &[]);
        }
        let due = |node: &Node| node.member.deadline().is_some_and(|d| d.at <= now.mono);
        let due: Vec<u8> = self.nodes.iter().filter(|(_, node)| due(node)).map(|(n, _)| *n).collect();
        for n in due {
            self.drive(n, Member::expire);
        }
    }

    /// The earliest deadline of all.
    fn next(&self) -> Option<Duration> {
        let members = self.nodes.values().filter_map(|n| n.member.deadline());
        let model = self.model.deadline(self.now());
        members.chain(self.server.deadline()).chain(model).map(|d| d.at).min()
    }

    /// Lets time pass from deadline to deadline, with everything delivered.
    pub(crate) fn run(&mut self, time: Duration) {
        let end = self.clock + time;
        assert!(self.settle(10_000), "datagrams beget datagrams");
        for steps in 0.. {
            assert!(steps < 10_000, "the machines never rest");
            let Some(at) = self.next().filter(|at| *at <= end) else { break };
            self.pass(at.saturating_sub(self.clock));
            assert!(self.settle(10_000), "datagrams beget datagrams");
        }
        self.clock = end;
    }

    /// Somebody new registers over a network without faults.
    pub(crate) fn newcomer_gets_in(&mut self, n: u8) {
        self.to_server.clear();
        self.to_members.clear();
        self.join(n, Phase1Exchange::Main);
        self.run(Duration::from_secs(60));
        let registered = self.nodes.get(&n).map_or(0, |node| node.registered);
        assert!(registered > 0, "the newcomer {n} did not get in");
    }
}
