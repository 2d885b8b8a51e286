//! Several registrations over one phase 1 SA, at the level of single messages.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use keyferry_crypto::{BlockCipher, Hash, KeGroup, Secret, SeededRandom};
use keyferry_model::Model;
use keyferry_model::credentials::{Credentials, Peer, Proof};
use keyferry_model::drive::{Ctx, Datagram, Outbox, Output, Via};
use keyferry_model::id::{GroupId, Identity, Protocol};
use keyferry_model::policy::AckType;
use keyferry_model::reading::Readings;
use keyferry_model::settings::{MemberAuth, Phase1Exchange};
use keyferry_model::time::Now;
use keyferry_wire::Header;

use super::acks::tests::policy;
use super::{Server, ServerConfig};
use crate::phase1::extensions::Extensions;
use crate::phase1::ike_sa::IkeSa;
use crate::phase1::initiator::{Config, Initiator};
use crate::phase1::suite::{Accepted, Phase1Doi};
use crate::policy::take::Taking;
use crate::pull::member::{Pull, Step};

mod sent;

const NOW: Now = Now { mono: Duration::from_secs(1), wall: Duration::from_secs(1_000_000) };

const TAKING: Taking = Taking {
    sender: true,
    weak: false,
    unknown_kek_attributes: false,
    registering: true,
    tunnel: keyferry_model::tunnel::Tunnel { local: None, remote: None },
};

fn server_at() -> SocketAddr {
    SocketAddr::from(([10, 0, 0, 9], 848))
}

fn member(n: u8) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, n], 848))
}

fn group(n: u32) -> GroupId {
    GroupId::Number(100 + n)
}

/// A key server with the groups 100, 101 and 102.
struct Bench {
    model: Model,
    server: Server,
    rng: SeededRandom,
    /// Jobs that were handed out.
    jobs: usize,
}

impl Bench {
    fn new() -> Self {
        let mut rng = SeededRandom::new(5);
        let groups = (0..3).map(|n| {
            let mut policy = policy(AckType::Kek(Hash::Sha256));
            policy.name = format!("g{n}");
            policy.ids = vec![group(n)];
            policy
        });
        let model = Model::load(groups.collect(), &BTreeMap::new(), NOW, &mut rng).unwrap();
        let psk = |n: u8| Proof::Psk(Arc::new(Secret::new(vec![n; 20])));
        let peer = |n| Peer {
            identity: Some(Identity::from_ip(member(n).ip())),
            address: None,
            proof: psk(n),
            sends: Readings::NONE,
        };
        let config = ServerConfig::new(Arc::new(Credentials::new((1..=3).map(peer).collect())));
        Self { model, server: Server::new(config), rng, jobs: 0 }
    }

    /// What the server answers.
    fn send(&mut self, from: SocketAddr, bytes: &[u8]) -> Vec<Vec<u8>> {
        let mut out = Outbox::default();
        let mut ctx = Ctx { now: NOW, model: &mut self.model, rng: &mut self.rng, out: &mut out };
        self.server.receive(&mut ctx, Datagram { from, to: server_at(), via: Via::Udp, bytes });
        let mut answers = Vec::new();
        while let Some(output) = out.poll() {
            match output {
                Output::Send(t) if t.to == from => answers.push(t.bytes),
                Output::Send(_) | Output::Persist(_) | Output::Cancel(_) | Output::Close(_) => {}
                Output::Job(id, job) => {
                    let done = job.run();
                    self.jobs += 1;
                    let mut ctx = Ctx { now: NOW, model: &mut self.model, rng: &mut self.rng, out: &mut out };
                    self.server.complete(&mut ctx, id, done);
                }
            }
        }
        answers
    }

    /// Message 1 of main mode.
    fn begin(&mut self, n: u8) -> (Initiator, Vec<u8>) {
        let accepted = Accepted {
            ciphers: vec![BlockCipher::Aes128Cbc],
            hashes: vec![Hash::Sha256],
            groups: vec![KeGroup::Ecp256],
            weak: false,
        };
        let identity = Identity::from_ip(member(n).ip());
        let auth = MemberAuth::Psk(Arc::new(Secret::new(vec![n; 20])));
        let config = Config {
            exchange: Phase1Exchange::Main,
            accepted: &accepted,
            identity: &identity,
            peer: None,
            auth: &auth,
            lifetime: Duration::from_secs(86_400),
            doi: Phase1Doi::Gdoi,
            sends: Readings::NONE,
            seen: Readings::NONE,
            extensions: Extensions::default(),
            path: (member(n), server_at()),
            floated: (member(n), server_at()),
        };
        let initiator = Initiator::new(&config, &mut self.rng).unwrap();
        let message = initiator.messages(0).remove(0);
        (initiator, message)
    }

    /// Main mode.
    fn connect(&mut self, n: u8) -> IkeSa {
        let (mut initiator, mut message) = self.begin(n);
        let mut rng = SeededRandom::new(u64::from(n));
        for _ in 0..2 {
            let answer = self.send(member(n), &message).remove(0);
            let (header, body) = Header::decode(&answer).unwrap();
            message = initiator.clear(&header, body, NOW.mono, &mut rng).unwrap().unwrap();
        }
        let answer = self.send(member(n), &message).remove(0);
        let (header, body) = Header::decode(&answer).unwrap();
        let Ok(peer) = initiator.verify(&header, body, NOW) else { panic!("message 6 proves the server") };
        initiator.advance(peer).sa
    }

    fn members(&self, group: &str) -> usize {
        self.model.group(group).unwrap().view(NOW).gdoi_members
    }
}

/// Takes message 2 or 4; true when the registration is complete.
fn take(sa: &IkeSa, pull: &mut Pull, answer: &[u8]) -> bool {
    let (header, body) = Header::decode(answer).unwrap();
    match pull.verify(sa, &header, body, TAKING, &|_| None).unwrap().unwrap() {
        Step::Policy(policy) => {
            pull.confirm(sa, *policy, 1).unwrap();
            false
        }
        Step::Keys(_) => true,
    }
}

/// Three registrations for three groups, their messages mixed, each request sent twice and each first answer lost.
#[test]
fn registrations_for_several_groups_run_side_by_side() {
    let mut bench = Bench::new();
    let sa = bench.connect(1);
    let mut rng = SeededRandom::new(77);
    let mut pulls: Vec<Pull> = (0..3).map(|n| Pull::start(&sa, &group(n), &mut rng).unwrap()).collect();
    for stage in 0..2 {
        for order in [[2, 0, 1], [1, 2, 0]] {
            let mut answers = BTreeMap::new();
            for n in order {
                answers.insert(n, bench.send(member(1), pulls[n].message()).remove(0));
            }
            if order == [2, 0, 1] {
                // Lost. Their repeats must be the same octets.
                continue;
            }
            for (n, answer) in answers {
                assert!(
                    bench.send(member(1), pulls[n].message()) == std::slice::from_ref(&answer),
                    "bitwise identical"
                );
                assert_eq!(take(&sa, &mut pulls[n], &answer), stage == 1);
            }
        }
    }
    assert_eq!(["g0", "g1", "g2"].map(|g| bench.members(g)), [1, 1, 1]);
    let counters = bench.server.counters();
    assert_eq!((counters.established, counters.registered, counters.refused), (1, 3, 0));
    assert_eq!(counters.repeated, 12, "each of six requests came three times");
}

/// A message of one registration in place of another's, under the same SA: by its message ID, or with another's put in.
#[test]
fn messages_of_one_registration_mean_nothing_in_another() {
    let mut bench = Bench::new();
    let sa = bench.connect(1);
    let mut rng = SeededRandom::new(78);
    let mut pulls: Vec<Pull> = (0..2).map(|n| Pull::start(&sa, &group(n), &mut rng).unwrap()).collect();
    let answers: Vec<Vec<u8>> = pulls.iter().map(|p| bench.send(member(1), p.message()).remove(0)).collect();
    // The member takes no answer of the other exchange.
    for (n, other) in [(0, 1), (1, 0)] {
        let mut crossed = answers[other].clone();
        let (header, body) = Header::decode(&crossed).unwrap();
        assert!(pulls[n].verify(&sa, &header, body, TAKING, &|_| None).is_err());
        crossed[20..24].copy_from_slice(&answers[n][20..24]);
        let (header, body) = Header::decode(&crossed).unwrap();
        assert!(pulls[n].verify(&sa, &header, body, TAKING, &|_| None).is_err());
    }
    for (pull, answer) in pulls.iter_mut().zip(&answers) {
        assert!(!take(&sa, pull, answer));
    }
    // Nor does the server take message 3 of the other one.
    let third: Vec<Vec<u8>> = pulls.iter().map(|p| p.message().to_vec()).collect();
    let mut crossed = third[0].clone();
    crossed[20..24].copy_from_slice(&third[1][20..24]);
    assert!(bench.send(member(1), &crossed).is_empty());
    assert_eq!(bench.server.counters().registered, 0);
    for (pull, message) in pulls.iter_mut().zip(&third) {
        let answer = bench.send(member(1), message).remove(0);
        assert!(take(&sa, pull, &answer));
    }
    assert_eq!(bench.server.counters().registered, 2);
}

/// What was sent under one SA comes again under another: of the same member, of another member, from another address.
#[test]
fn messages_of_one_sa_mean_nothing_under_another() {
    let mut bench = Bench::new();
    let (first, second) = (bench.connect(1), bench.connect(1));
    let others = bench.connect(2);
    let mut rng = SeededRandom::new(79);
    let mut pull = Pull::start(&first, &group(0), &mut rng).unwrap();
    let message = pull.message().to_vec();
    for (sa, from) in [(&second, member(1)), (&others, member(2))] {
        let mut crossed = message.clone();
        crossed[..16].copy_from_slice(sa.cookies());
        assert!(bench.send(from, &crossed).is_empty());
    }
    assert!(bench.send(member(3), &message).is_empty(), "from an address that the SA is not with");
    let answer = bench.send(member(1), &message).remove(0);
    assert!(!take(&first, &mut pull, &answer));
    let answer = bench.send(member(1), pull.message()).remove(0);
    assert!(take(&first, &mut pull, &answer));
    assert_eq!(bench.server.counters().registered, 1);

    // Under the same SA, the same message ID begins nothing new, whatever it asks for.
    let mut again = Pull::start(&first, &group(1), &mut SeededRandom::new(79)).unwrap();
    assert_eq!(again.message()[20..24], message[20..24]);
    assert!(bench.send(member(1), again.message()).is_empty());
    again = Pull::start(&first, &group(1), &mut rng).unwrap();
    assert_eq!(bench.send(member(1), again.message()).len(), 1);
}

/// More registrations at once than one SA may have are refused, and those under way go on.
#[test]
fn registrations_at_once_are_bounded() {
    let mut bench = Bench::new();
    let sa = bench.connect(1);
    let mut rng = SeededRandom::new(80);
    let most = ServerConfig::new(Arc::new(Credentials::default())).pulls;
    let mut pulls: Vec<Pull> = (0..most + 3).map(|_| Pull::start(&sa, &group(0), &mut rng).unwrap()).collect();
    let answers: Vec<_> = pulls.iter().map(|p| bench.send(member(1), p.message())).collect();
    assert_eq!(answers.iter().filter(|a| !a.is_empty()).count(), most);
    assert!(!take(&sa, &mut pulls[0], &answers[0][0]));
    let answer = bench.send(member(1), pulls[0].message()).remove(0);
    assert!(take(&sa, &mut pulls[0], &answer));
    assert_eq!(bench.model.addresses("g0", Protocol::Gdoi), [member(1)]);
}
