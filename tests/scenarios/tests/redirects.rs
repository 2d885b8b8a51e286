//! A gateway that is emptied before maintenance: its G-IKEv2 members go to another one (RFC 5685).
#![allow(clippy::unwrap_used)]

use std::net::SocketAddr;
use std::time::Duration;

use keyferry_crypto::SeededRandom;
use keyferry_gateway::{CommandError, Gateway, GatewaySettings};
use keyferry_model::drive::{Datagram, Output, Transmit};
use keyferry_model::id::Identity;
use keyferry_model::key_server::{KeyServer, KeyServers};
use keyferry_model::redirect::{Following, GatewayName, Redirect, RedirectWhen};
use keyferry_model::settings::Ike2Settings;
use keyferry_model::time::Now;
use keyferry_model::update::{MemberCtx, MemberEvent, MemberOutput};
use keyferry_scenarios::policy::{self, NAME, Variant};

/// Two gateways, each with a store of its own, and a member that knows both.
struct World {
    clock: Duration,
    rng: SeededRandom,
    gateways: Vec<(SocketAddr, Gateway)>,
    member: gikev2::Member,
    local: SocketAddr,
    events: Vec<MemberEvent>,
}

impl World {
    fn new() -> Self {
        let (variant, mut rng) = (Variant::default(), SeededRandom::new(1));
        let mut settings = policy::member(variant, 21);
        let first = settings.gateway();
        let second = SocketAddr::new([10, 0, 9, 9].into(), first.port());
        let server = |address: SocketAddr| KeyServer { address, identity: Some(Identity::from_ip(address.ip())) };
        settings.key_servers = KeyServers::new(vec![server(first)]).with_reserve(vec![server(second)]);
        settings.ike2.follows = Some(Following::default());
        let clock = Duration::from_secs(5);
        let redirect = Redirect {
            to: vec![GatewayName::Address(second.ip())],
            when: RedirectWhen::Command,
            above: 1,
            members: Vec::new(),
            patience: Duration::from_secs(60),
        };
        let gateways = [(first, Some(redirect)), (second, None)].map(|(address, redirect)| {
            let settings = GatewaySettings {
                credentials: policy::credentials(variant.family),
                groups: vec![policy::group(variant)],
                identity: None,
                idle_ike_sa: Duration::from_secs(3600),
                aggressive: false,
                danger_weak_phase1: false,
                phase1_lifetime: Duration::from_secs(86_400),
                dpd: None,
                fragment_size: 1280,
                ike: Default::default(),
                ike2: Ike2Settings { redirect, ..Default::default() },
                connections: Default::default(),
            };
            (address, Gateway::new(settings, Vec::new(), now(clock), &mut rng).unwrap())
        });
        let local = settings.local;
        let member = gikev2::Member::new(settings);
        Self { clock, rng, gateways: gateways.into(), member, local, events: Vec::new() }
    }

    /// What gateways have to say; their jobs are done at once.
    fn gateways_say(&mut self) -> Vec<(SocketAddr, Transmit)> {
        let mut sent = Vec::new();
        for (address, gateway) in &mut self.gateways {
            while let Some(output) = gateway.poll() {
                match output {
                    Output::Send(transmit) => sent.push((*address, transmit)),
                    Output::Job(id, job) => gateway.complete(now(self.clock), &mut self.rng, id, job.run()),
                    Output::Persist(_) | Output::Cancel(_) | Output::Close(_) => {}
                }
            }
        }
        sent
    }

    fn on_member(&mut self, f: impl FnOnce(&mut gikev2::Member, &mut MemberCtx<'_>)) {
        let mut out = Vec::new();
        f(&mut self.member, &mut MemberCtx { now: now(self.clock), rng: &mut self.rng, out: &mut out });
        for output in out {
            match output {
                MemberOutput::Send(t) => {
                    let to = self.gateways.iter_mut().find(|(address, _)| *address == t.to);
                    let (_, gateway) = to.expect("the member asks nobody but its key servers");
                    gateway.receive(now(self.clock), &mut self.rng, self.local, t.to, &t.bytes);
                }
                MemberOutput::Event(event) => self.events.push(event),
                MemberOutput::Update(_)
                | MemberOutput::Streams(_)
                | MemberOutput::Flush
                | MemberOutput::Listen(_)
                | MemberOutput::Dial { .. }
                | MemberOutput::HangUp(_)
                | MemberOutput::Of(..) => {}
            }
        }
        self.deliver();
    }

    fn deliver(&mut self) {
        loop {
            let sent = self.gateways_say();
            if sent.is_empty() {
                return;
            }
            let local = self.local;
            for (from, transmit) in sent.into_iter().filter(|(_, t)| t.to == local) {
                let bytes = transmit.bytes;
                let dgram = Datagram { from, to: transmit.to, via: transmit.via, bytes: &bytes };
                self.on_member(|m, ctx| m.receive(ctx, dgram));
            }
        }
    }

    fn pass(&mut self, seconds: u64) {
        for _ in 0..seconds * 10 {
            self.clock += Duration::from_millis(100);
            for (_, gateway) in &mut self.gateways {
                gateway.expire(now(self.clock), &mut self.rng);
            }
            self.deliver();
            self.on_member(gikev2::Member::expire);
        }
    }

    fn members(&self, gateway: usize) -> usize {
        self.gateways[gateway].1.members(Some(NAME)).unwrap().len()
    }
}

fn now(clock: Duration) -> Now {
    Now { mono: clock, wall: Duration::from_secs(1_800_000_000) + clock }
}

#[test]
fn a_drained_gateway_loses_its_members_to_another() {
    let mut world = World::new();
    world.on_member(|m, ctx| m.start(ctx));
    world.pass(1);
    assert_eq!(world.events, [MemberEvent::Connected, MemberEvent::Registered]);
    assert_eq!((world.members(0), world.members(1)), (1, 0));
    let (at, rng) = (now(world.clock), &mut world.rng);
    assert_eq!(world.gateways[1].1.drain(at, rng, true), Err(CommandError::NowhereElse));
    assert_eq!(world.gateways[0].1.drain(at, rng, true), Ok(1));
    assert!(world.gateways[0].1.is_drained() && !world.gateways[1].1.is_drained());
    world.pass(20);
    assert_eq!(world.members(1), 1, "{:?}", world.events);
    assert_eq!(world.member.key_servers().present().address, world.gateways[1].0);
    assert_eq!(world.events.iter().filter(|e| **e == MemberEvent::Registered).count(), 2);
    assert_eq!(world.gateways[0].1.counters().1.redirected, 1);
}
