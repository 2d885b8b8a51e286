//! A key server and its members in memory, in lock step: whatever the key server does is timed, the members are not.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use keyferry_crypto::{KeGroup, Secret};
use keyferry_model::Model;
use keyferry_model::credentials::{Credentials, Peer, Proof};
use keyferry_model::drive::{Ctx, Datagram, Outbox, Output, Transmit, Via};
use keyferry_model::id::{Identity, Protocol};
use keyferry_model::plan::{RekeyPlan, RekeyReason};
use keyferry_model::policy::GroupPolicy;
use keyferry_model::reading::Readings;
use keyferry_model::settings::{AdditionalKe, CertificateAuth, Ike2Settings, MemberAuth, MemberSettings};
use keyferry_model::time::Now;
use keyferry_model::update::{MemberCtx, MemberEvent, MemberOutput};
use keyferry_scenarios::policy::{self, Variant};

use crate::cpu;
use crate::endpoint::{Initiator, Responder};
use crate::pki::Pki;
use crate::random::OsRandom;

/// The wall clock at the start.
const EPOCH: Duration = Duration::from_secs(1_800_000_000);

/// Address of member `n`.
pub(crate) fn address(n: u32) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::from(0x0a80_0000 + n)), 848)
}

/// Identity of member `n`.
pub(crate) fn identity(n: u32) -> Identity {
    Identity::from_ip(address(n).ip())
}

/// Key exchanges that must follow the first, one method each.
fn additional(methods: &[KeGroup]) -> Vec<AdditionalKe> {
    methods.iter().map(|method| AdditionalKe { methods: vec![*method], required: true }).collect()
}

fn psk() -> Arc<Secret> {
    Arc::new(Secret::copy_from(b"correct horse battery staple"))
}

/// Peers with pre-shared keys.
fn known(peers: u32) -> impl Iterator<Item = Peer> {
    (0..peers).map(|n| Peer {
        identity: Some(identity(n)),
        address: None,
        proof: Proof::Psk(psk()),
        sends: Readings::NONE,
    })
}

/// The key server's side, without its sockets and its store.
pub(crate) struct KeyServer {
    pub(crate) model: Model,
    server: Responder,
    out: Outbox,
    clock: Duration,
}

impl KeyServer {
    /// A key server of one group that knows `peers` members.
    pub(crate) fn new(protocol: Protocol, policy: GroupPolicy, peers: u32) -> Result<Self> {
        Self::with_credentials(protocol, policy, Credentials::new(known(peers).collect()))
    }

    /// The same with a certificate of its own, for members with certificates of this authority.
    pub(crate) fn certified(protocol: Protocol, policy: GroupPolicy, peers: u32, pki: &Pki) -> Result<Self> {
        let anybody =
            Peer { identity: None, address: None, proof: Proof::Certificate { subject: None }, sends: Readings::NONE };
        let credentials = Credentials::new(known(peers).chain([anybody]).collect());
        // Members are not among those with pre-shared keys, who come from elsewhere.
        let own = pki.own(policy::Family::V4.gateway().ip())?;
        Self::with_credentials(protocol, policy, credentials.with_own(vec![own]).with_trust(pki.trust()?))
    }

    fn with_credentials(protocol: Protocol, policy: GroupPolicy, credentials: Credentials) -> Result<Self> {
        let clock = Duration::from_secs(1);
        let now = Now { mono: clock, wall: EPOCH + clock };
        let server = Responder::new(protocol, Arc::new(credentials));
        let model = Model::load(vec![policy], &BTreeMap::new(), now, &mut OsRandom)?;
        Ok(Self { model, server, out: Outbox::default(), clock })
    }

    pub(crate) fn now(&self) -> Now {
        Now { mono: self.clock, wall: EPOCH + self.clock }
    }

    /// Lets time pass, and does what is due by then.
    pub(crate) fn pass(&mut self, time: Duration) {
        self.clock += time;
        let now = self.now();
        let mut ctx = Ctx { now, model: &mut self.model, rng: &mut OsRandom, out: &mut self.out };
        self.server.expire(&mut ctx);
        self.model.expire(now);
        self.model.take_store_ops();
        while self.out.poll().is_some() {}
    }

    /// Takes datagrams one after the other, with all that comes of them: the CPU time that took, and the answers. Store
    /// operations are made but not written.
    pub(crate) fn receive(&mut self, datagrams: &[(SocketAddr, Vec<u8>)]) -> (Duration, Vec<Transmit>) {
        let to = policy::Family::V4.gateway();
        let now = self.now();
        cpu::of(|| {
            let mut answers = Vec::new();
            for (from, bytes) in datagrams {
                let mut ctx = Ctx { now, model: &mut self.model, rng: &mut OsRandom, out: &mut self.out };
                self.server.receive(&mut ctx, Datagram { from: *from, to, via: Via::Udp, bytes });
                while let Some(output) = self.out.poll() {
                    match output {
                        Output::Persist(ops) => drop(ops),
                        Output::Send(transmit) => answers.push(transmit),
                        // Jobs are done at once here.
                        Output::Cancel(_) | Output::Close(_) => {}
                        Output::Job(id, job) => {
                            let done = job.run();
                            let mut ctx = Ctx { now, model: &mut self.model, rng: &mut OsRandom, out: &mut self.out };
                            self.server.complete(&mut ctx, id, done);
                        }
                    }
                }
            }
            answers
        })
    }

    /// Plans a rekey and makes the store operations for it.
    pub(crate) fn plan(&mut self, reason: RekeyReason, evict: &[Identity]) -> Result<Arc<RekeyPlan>> {
        let now = self.now();
        let plan = self.model.rekey(policy::NAME, reason, evict, now, &mut OsRandom).context("the group is there")?;
        drop(self.model.take_store_ops());
        Ok(plan)
    }

    pub(crate) fn acknowledged(&self) -> u64 {
        self.server.acknowledged()
    }
}

/// Members that do the same at the same time.
pub(crate) struct Members {
    members: BTreeMap<SocketAddr, (Initiator, bool)>,
}

impl Members {
    /// With pre-shared keys.
    pub(crate) fn new(protocol: Protocol, numbers: Range<u32>, ke: &[KeGroup], variant: Variant) -> Self {
        Self::with_auth(protocol, numbers.map(|n| (n, MemberAuth::Psk(psk()))), ke, variant)
    }

    /// With certificates.
    pub(crate) fn certified(
        protocol: Protocol,
        numbers: Range<u32>,
        ke: &[KeGroup],
        variant: Variant,
        pki: &Pki,
    ) -> Result<Self> {
        let auth = |n| -> Result<(u32, MemberAuth)> {
            let (own, trust) = (pki.own(address(n).ip())?, pki.trust()?);
            Ok((
                n,
                MemberAuth::Certificate(Box::new(CertificateAuth {
                    own,
                    others: Vec::new(),
                    trust,
                    gateway_subject: None,
                })),
            ))
        };
        Ok(Self::with_auth(protocol, numbers.map(auth).collect::<Result<Vec<_>>>()?, ke, variant))
    }

    fn with_auth(
        protocol: Protocol,
        auths: impl IntoIterator<Item = (u32, MemberAuth)>,
        ke: &[KeGroup],
        variant: Variant,
    ) -> Self {
        let (first, more) = ke.split_at(ke.len().min(1));
        let members = auths.into_iter().map(|(n, auth)| {
            let settings = MemberSettings {
                local: address(n),
                identity: identity(n),
                auth,
                ke_groups: first.to_vec(),
                ike2: Ike2Settings { additional: additional(more), ..Ike2Settings::default() },
                ack_jitter: Duration::ZERO,
                ..policy::member(variant, 2)
            };
            (address(n), (Initiator::new(protocol, settings), false))
        });
        Self { members: members.collect() }
    }

    /// Registers all; the CPU time of the key server.
    pub(crate) fn register(&mut self, server: &mut KeyServer) -> Result<Duration> {
        let now = server.now();
        let mut datagrams = self.all(now, |m, ctx| m.start(ctx));
        let mut spent = Duration::ZERO;
        while !datagrams.is_empty() {
            let (time, answers) = server.receive(&datagrams);
            spent += time;
            datagrams.clear();
            for answer in answers {
                let Some((member, registered)) = self.members.get_mut(&answer.to) else { continue };
                let datagram =
                    Datagram { from: policy::Family::V4.gateway(), to: answer.to, via: Via::Udp, bytes: &answer.bytes };
                datagrams.extend(step(answer.to, member, registered, now, |m, ctx| m.receive(ctx, datagram)));
            }
        }
        ensure!(self.members.values().all(|(_, registered)| *registered), "a member did not register");
        Ok(spent)
    }

    /// All take a push; their acknowledgements.
    pub(crate) fn acknowledge(&mut self, push: &[u8], now: Now) -> Vec<(SocketAddr, Vec<u8>)> {
        let to = policy::Family::V4.rekey(0);
        let datagram = Datagram { from: policy::Family::V4.gateway(), to, via: Via::Udp, bytes: push };
        let mut acks = self.all(now, |m, ctx| m.receive(ctx, datagram));
        acks.extend(self.all(now, |m, ctx| m.expire(ctx)));
        acks
    }

    fn all(
        &mut self,
        now: Now,
        mut input: impl FnMut(&mut Initiator, &mut MemberCtx<'_>),
    ) -> Vec<(SocketAddr, Vec<u8>)> {
        let members = self.members.iter_mut();
        members.flat_map(|(from, (member, registered))| step(*from, member, registered, now, &mut input)).collect()
    }
}

fn step(
    from: SocketAddr,
    member: &mut Initiator,
    registered: &mut bool,
    now: Now,
    input: impl FnOnce(&mut Initiator, &mut MemberCtx<'_>),
) -> Vec<(SocketAddr, Vec<u8>)> {
    let mut out = Vec::new();
    input(member, &mut MemberCtx { now, rng: &mut OsRandom, out: &mut out });
    let mut datagrams = Vec::new();
    for output in out {
        match output {
            MemberOutput::Send(transmit) => datagrams.push((from, transmit.bytes)),
            MemberOutput::Event(event) => *registered |= event == MemberEvent::Registered,
            MemberOutput::Update(_)
            | MemberOutput::Streams(_)
            | MemberOutput::Flush
            | MemberOutput::Listen(_)
            | MemberOutput::Dial { .. }
            | MemberOutput::HangUp(_)
            | MemberOutput::Of(..) => {}
        }
    }
    datagrams
}
