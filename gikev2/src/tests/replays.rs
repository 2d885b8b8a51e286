//! Whole runs in which each message that was ever delivered comes again at every later time, comes back to its sender, and comes
//! in a form too long for anything: at every state of both ends, those in which a job is under way among them, nothing follows
//! from that but repeated answers.

use std::time::Duration;

use keyferry_model::drive::Via;
use keyferry_model::plan::RekeyReason;
use keyferry_model::policy::InBand;
use keyferry_model::settings::{AdditionalKe, MemberSettings};
use keyferry_model::update::MemberEvent;
use keyferry_wire::Header;

use super::pki;
use super::support::*;
use crate::wire::registry::ExchangeType;
use crate::{IkeOptions, ServerConfig};

/// The longest UDP datagram.
const LONGEST: usize = 65_507;

/// What is done to a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Abuse {
    None,
    /// Every message so far again, as it was.
    Replay,
    /// The same from an address of nobody.
    ReplayFromElsewhere,
    /// Back to who sent it, as if the other had.
    Reflect,
    /// With noise behind it, as long as a datagram can be.
    Oversize,
    /// While a job is under way, the message that began it, truncated and altered in each octet.
    Tamper,
}

const ALL: [Abuse; 5] = [Abuse::Replay, Abuse::ReplayFromElsewhere, Abuse::Reflect, Abuse::Oversize, Abuse::Tamper];

/// A world, and what has been delivered in it.
struct Run {
    world: World,
    abuse: Abuse,
    delivered: Vec<Packet>,
}

impl Run {
    fn new(mut world: World, abuse: Abuse) -> Self {
        world.hold_jobs = true;
        Self { world, abuse, delivered: Vec::new() }
    }

    /// The messages that an abuse makes of those that have been delivered.
    fn abused(&self) -> Vec<Packet> {
        let changed = |mut p: Packet| {
            p.tainted = true;
            match self.abuse {
                Abuse::None | Abuse::Replay | Abuse::Tamper => {}
                Abuse::ReplayFromElsewhere => p.from = "10.0.0.99:848".parse().unwrap(),
                Abuse::Reflect => (p.from, p.to) = (p.to, p.from),
                Abuse::Oversize => {
                    p.bytes.resize(LONGEST, 0x5a);
                    p.bytes[24..28].copy_from_slice(&u32::try_from(LONGEST).unwrap().to_be_bytes());
                }
            }
            p
        };
        match (self.abuse, self.delivered.last()) {
            (Abuse::None, _) | (_, None) => Vec::new(),
            // Another first message is another SA in the making.
            (Abuse::Tamper, Some(last))
                if self.world.held.is_empty() || last.exchange() == ExchangeType::IKE_SA_INIT.0 =>
            {
                Vec::new()
            }
            (Abuse::Tamper, Some(last)) => {
                variants(&last.bytes).into_iter().map(|bytes| changed(Packet { bytes, ..last.clone() })).collect()
            }
            _ => self.delivered.iter().cloned().map(changed).collect(),
        }
    }

    /// Delivers what the abuse makes. What is drawn by that goes to where it came from, and is not looked at.
    fn suffer(&mut self) {
        for p in self.abused() {
            self.world.deliver(p);
        }
        self.world.wire.retain(|p| !p.tainted);
    }

    /// Delivers what is on the wire and does the jobs that come of it, each of them after what the abuse makes.
    fn run(&mut self) {
        loop {
            if let Some(next) = self.world.wire.pop_front() {
                self.suffer();
                self.world.deliver(next.clone());
                self.delivered.push(next);
            } else if self.world.held.is_empty() {
                return;
            } else {
                self.suffer();
                let (id, job) = self.world.held.remove(0);
                let done = job.run();
                self.world.on_server(false, |s, ctx| s.complete(ctx, id, done));
            }
        }
    }

    /// Lets time pass in steps of a second.
    fn pass(&mut self, seconds: u64) {
        for _ in 0..seconds {
            self.run();
            let to = self.world.now.mono + Duration::from_secs(1);
            self.world.jump(to);
            self.world.on_server(false, |s, ctx| s.expire(ctx));
            for at in 0..self.world.hosts.len() {
                self.world.on_member(at, false, |m, ctx| m.expire(ctx));
            }
        }
        self.run();
    }

    /// What came of it.
    fn came(&self) -> Came {
        let (c, host) = (self.world.server.counters(), &self.world.hosts[0]);
        let status = host.member.status();
        let counted = [
            c.established,
            c.rekeyed,
            c.deleted,
            c.registered,
            c.refused,
            c.left,
            c.lost,
            c.dead_peers,
            c.authentication_failed,
            self.world.server.established() as u64,
            status.registrations,
            status.rekeys,
            status.ike_rekeys,
        ];
        (host.events.clone(), host.sas.len(), counted.to_vec())
    }
}

/// Events of the member, how many data SAs it has, and what both ends count of what verified.
type Came = (Vec<MemberEvent>, usize, Vec<u64>);

/// Room for half-open SAs of first messages that are replayed when they are not remembered any more.
fn roomy(mut config: ServerConfig) -> ServerConfig {
    (config.half_open, config.half_open_per_address, config.cookie_threshold) = (usize::MAX, usize::MAX, usize::MAX);
    (config.checks_per_address, config.unprotected_answers_per_second) = (u32::MAX, 0);
    config
}

/// Registration, new keys for the IKE SA, another registration, rekeys, the end of the IKE SA, leaving.
fn multicast(abuse: Abuse) -> Came {
    let mut config = roomy(config());
    config.ike.lifetime = Duration::from_secs(20);
    let mut run = Run::new(World::with(policy(false), config, 4), abuse);
    let settings = run.world.settings(1);
    let at = run.world.add(settings);
    run.world.start(at);
    run.pass(19);
    run.world.start(at);
    run.run();
    for _ in 0..2 {
        let bytes = run.world.plan(RekeyReason::Operator, &[]).remove(0);
        let (from, to) = (run.world.gateway, run.world.hosts[at].listens.first().copied().unwrap());
        run.world.wire.push_back(Packet { from, to, via: Via::Udp, bytes, tainted: false });
        run.run();
    }
    run.pass(31);
    run.world.leave(at);
    run.pass(3);
    run.came()
}

/// Additional key exchanges, rekeys in band, new keys of the IKE SA by the member, a reset, coming back, leaving.
fn in_band(abuse: Abuse) -> Came {
    let mut group = policy(false);
    group.gikev2.as_mut().unwrap().options.in_band = InBand::Everybody;
    let kem = || vec![AdditionalKe { methods: vec![keyferry_crypto::KeGroup::MlKem512], required: true }];
    let mut config = roomy(config());
    config.preferences.additional = kem();
    let mut run = Run::new(World::with(group, config, 5), abuse);
    let mut settings = run.world.settings(1);
    settings.ike2.additional = kem();
    let at = run.world.add(settings);
    let lifetime = Duration::from_secs(20);
    run.world.hosts[at].member.set_ike_options(IkeOptions { lifetime, fragment_size: 500, ..IkeOptions::default() });
    run.world.start(at);
    run.run();
    for (reason, seconds) in [(RekeyReason::Operator, 19), (RekeyReason::Operator, 1), (RekeyReason::Reset, 12)] {
        let plan = run.world.plan_steps(reason, &[]);
        run.world.on_server(false, |s, ctx| s.rekey_in_band(ctx, &plan));
        run.pass(seconds);
    }
    run.world.leave(at);
    run.pass(2);
    run.came()
}

/// Both ends prove themselves by certificate: the check of the member's signature and our own are jobs.
fn certified(abuse: Abuse) -> Came {
    let config = pki::config(&["gateway-ed25519"], vec![pki::certified(None, None)]);
    let mut run = Run::new(World::with(policy(false), roomy(config), 7), abuse);
    let settings = run.world.settings(1);
    let at = run.world.add(MemberSettings { auth: pki::auth(pki::own("gm1-ed25519")), ..settings });
    run.world.start(at);
    run.run();
    run.pass(31);
    run.world.leave(at);
    run.pass(2);
    run.came()
}

fn is_survived(whole: impl Fn(Abuse) -> Came) {
    let calm = whole(Abuse::None);
    assert!(calm.0.contains(&MemberEvent::Registered) && calm.0.last() == Some(&MemberEvent::Left), "{calm:?}");
    for abuse in ALL {
        assert_eq!(whole(abuse), calm, "{abuse:?}");
    }
}

#[test]
fn a_run_with_multicast_rekeys_survives_replays_reflections_and_excess() {
    is_survived(multicast);
}

#[test]
fn a_run_in_band_survives_replays_reflections_and_excess() {
    is_survived(in_band);
}

#[test]
fn a_run_with_certificates_survives_replays_reflections_and_excess() {
    is_survived(certified);
}

/// While a key exchange is being computed, the SPI of the answer is known to nobody: the rest draws nothing.
#[test]
fn what_comes_while_a_job_runs_draws_nothing() {
    let mut world = World::with(policy(false), roomy(config()), 6);
    let settings = world.settings(1);
    let at = world.add(settings);
    world.hold_jobs = true;
    world.start(at);
    let request = world.wire.pop_front().unwrap();
    world.deliver(request.clone());
    assert_eq!(world.held.len(), 1);
    let (header, body) = Header::decode(&request.bytes).unwrap();
    world.deliver(request.clone());
    world.deliver(Packet { from: request.to, to: request.from, ..request.clone() });
    // To an SPI that nobody was told, in every exchange.
    for exchange in 34..=43 {
        let other = Header { exchange, spi_r: [1; 8], message_id: 1, ..header };
        world.deliver(Packet { bytes: other.encode(body), tainted: true, ..request.clone() });
    }
    assert_eq!(world.held.len(), 1);
    assert!(world.wire.iter().all(|p| p.tainted && p.bytes.len() == 36), "INVALID_IKE_SPI alone");
    world.wire.clear();
    world.run_jobs();
    world.run();
    assert_eq!(world.hosts[at].events, [MemberEvent::Connected, MemberEvent::Registered]);
}
