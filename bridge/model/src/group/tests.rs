mod streams;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use keyferry_crypto::{Aead, BlockCipher, Hash, Secret, SeededRandom, SignatureAlgorithm, SignatureScheme, SigningKey};
use proptest::prelude::*;

use crate::Model;
use crate::admission::{Admission, JoinRequest, Refusal};
use crate::id::{GroupId, Identity, Protocol};
use crate::plan::{Deletion, RekeyReason};
use crate::policy::*;
use crate::store::StoreOp;
use crate::stream::{StreamAuthentication, StreamEncryption, StreamPolicy, StreamProtection};
use crate::time::Now;
use crate::view::MemberState;

mod absence;
mod asked;
mod change;
mod fragments;
mod holders;
mod in_band;
mod newcomers;
mod silence;

fn signer() -> Arc<SigningKey> {
    static KEY: OnceLock<Arc<SigningKey>> = OnceLock::new();
    Arc::clone(KEY.get_or_init(|| Arc::new(SigningKey::generate_rsa(2048).unwrap())))
}

fn policy(sender_id_bits: u8) -> GroupPolicy {
    let any = Selector { address: "0.0.0.0".parse().unwrap(), prefix: 0, protocol: 0, port: 0 };
    let to = Selector { address: "239.192.0.1".parse().unwrap(), prefix: 32, protocol: 0, port: 0 };
    GroupPolicy {
        name: "g".into(),
        ids: vec![GroupId::Number(7)],
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
        activation_delay: Duration::from_secs(10),
        deactivation_delay: Duration::from_secs(20),
        sender_id_bits,
        sender_ids_per_member: 4,
        capacity: 8,
        retransmit: Retransmit { copies: 2, interval: Duration::from_secs(2) },
        ack_patience: Duration::from_secs(10),
        ack_resend: false,
        backward_access: None,
        evict_after_misses: None,
        authorization: Authorization::Authenticated,
        gdoi: Some(GdoiRekey {
            cipher: BlockCipher::Aes128Cbc,
            transport: RekeyTransport::Unicast,
            signer: signer(),
            scheme: SignatureScheme::RsaPkcs1Sha256,
            ack: Some(AckType::Kek(Hash::Sha256)),
            sends: crate::reading::Readings::NONE,
            management: KekManagement::Lkh,
        }),
        gikev2: Some(Gikev2Rekey {
            protection: RekeyProtection::Aead(Aead::Aes128Gcm16),
            wrap_key_len: 16,
            transport: RekeyTransport::Unicast,
            authentication: RekeyAuthentication::Implicit,
            options: Gikev2Options::default(),
        }),
    }
}

/// A model over a store in memory.
struct Bench {
    model: Model,
    store: BTreeMap<String, Secret>,
    rng: SeededRandom,
    wall: u64,
    policy: GroupPolicy,
}

impl Bench {
    fn new(bits: u8) -> Self {
        Self::with(policy(bits))
    }

    fn with(policy: GroupPolicy) -> Self {
        let mut rng = SeededRandom::new(7);
        let now = Now { mono: Duration::ZERO, wall: Duration::from_secs(1_000_000) };
        let model = Model::load(vec![policy.clone()], &BTreeMap::new(), now, &mut rng).unwrap();
        let mut bench = Self { model, store: BTreeMap::new(), rng, wall: 1_000_000, policy };
        bench.commit();
        bench
    }

    fn now(&self) -> Now {
        Now { mono: Duration::from_secs(self.wall - 1_000_000), wall: Duration::from_secs(self.wall) }
    }

    fn commit(&mut self) {
        for op in self.model.take_store_ops() {
            match op {
                StoreOp::Put(k, v) => {
                    self.store.insert(k, v);
                }
                StoreOp::Delete(k) => {
                    self.store.remove(&k);
                }
            }
        }
    }

    /// The machine dies; what was not committed is lost.
    fn crash(&mut self) {
        let now = self.now();
        self.model = Model::load(vec![self.policy.clone()], &self.store, now, &mut self.rng).unwrap();
    }

    fn join(&mut self, n: u8, protocol: Protocol) -> Result<Vec<u32>, Refusal> {
        self.join_as(&member(n), n, protocol)
    }

    fn join_as(&mut self, identity: &Identity, n: u8, protocol: Protocol) -> Result<Vec<u32>, Refusal> {
        let address = SocketAddr::from(([10, 0, 0, n], 848));
        let request = JoinRequest { identity, holder: None, protocol, address, sender_ids: Some(1), gikev2: None };
        let now = self.now();
        let admission = self.model.admit(&GroupId::Number(7), request, None, now, &mut self.rng);
        self.commit();
        admission.map(|a| {
            assert_ne!(a.path.is_empty(), self.policy.has_tree(protocol));
            a.sender_ids
        })
    }

    fn rekey(&mut self, reason: RekeyReason, evict: &[Identity]) -> Arc<crate::plan::RekeyPlan> {
        let now = self.now();
        let plan = self.model.rekey("g", reason, evict, now, &mut self.rng).unwrap();
        self.commit();
        plan
    }
}

fn member(n: u8) -> Identity {
    Identity::Ipv4([10, 0, 0, n].into())
}

#[test]
fn one_plan_serves_both_protocols() {
    let mut b = Bench::new(8);
    b.join(1, Protocol::Gdoi).unwrap();
    b.join(2, Protocol::Gikev2).unwrap();
    let old = b.model.group("g").unwrap().epochs[0].spis();
    let plan = b.rekey(RekeyReason::Operator, &[]);
    let [gdoi, gikev2] = &plan.steps[..] else { panic!("one message each") };
    assert_eq!((gdoi.protocol, gdoi.counter), (Protocol::Gdoi, 1));
    assert_eq!((gikev2.protocol, gikev2.counter), (Protocol::Gikev2, 0));
    assert!(Arc::ptr_eq(gdoi.new_epoch.as_ref().unwrap(), gikev2.new_epoch.as_ref().unwrap()));
    assert_eq!(gdoi.delete, Deletion::Spis(old));
    let next = b.rekey(RekeyReason::Operator, &[]);
    assert_eq!((next.steps[0].counter, next.steps[1].counter), (2, 1));
}

#[test]
fn a_protocol_nobody_speaks_gets_no_message() {
    let mut b = Bench::new(8);
    b.join(1, Protocol::Gikev2).unwrap();
    let plan = b.rekey(RekeyReason::Operator, &[]);
    assert!(plan.steps.iter().all(|s| s.protocol == Protocol::Gikev2));
}

#[test]
fn eviction_takes_two_messages_and_the_first_brings_no_traffic_keys() {
    let mut b = Bench::new(8);
    for n in 1..=3 {
        b.join(n, Protocol::Gdoi).unwrap();
    }
    b.join(4, Protocol::Gikev2).unwrap();
    let plan = b.rekey(RekeyReason::Eviction, &[member(2)]);
    let gdoi: Vec<_> = plan.steps.iter().filter(|s| s.protocol == Protocol::Gdoi).collect();
    assert_eq!(gdoi.len(), 2);
    assert!(gdoi[0].new_epoch.is_none() && gdoi[0].delete == Deletion::Spis(vec![]));
    let new = gdoi[0].new_rekey.as_ref().unwrap();
    assert!(new.tree.is_some());
    assert_eq!((gdoi[1].over.spi, gdoi[1].counter), (new.sa.spi, 1));
    assert!(gdoi[1].new_epoch.is_some());
    assert!(plan.steps.iter().any(|s| s.protocol == Protocol::Gikev2 && s.new_rekey.is_none()));
    assert_eq!(b.join(2, Protocol::Gdoi), Err(Refusal::NotAuthorized));
    assert_eq!(b.join(2, Protocol::Gikev2), Err(Refusal::NotAuthorized));
    b.crash();
    assert_eq!(b.join(2, Protocol::Gikev2), Err(Refusal::NotAuthorized));
    assert!(b.model.readmit("g", &member(2)));
    assert!(b.join(2, Protocol::Gikev2).is_ok());
}

/// A name in upper and lower case is one member (RFC 5280 section 7.1), before and after a crash.
#[test]
fn a_member_is_evicted_however_its_name_is_written() {
    let name = |text: &str| text.parse::<Identity>().unwrap();
    for [one, two, three] in [
        ["dn:CN=gm1,O=Example", "dn:cn=GM1, o=example", "dn:CN=Gm1,O=EXAMPLE"],
        ["fqdn:gm1.example.net", "GM1.example.net", "fqdn:gm1.Example.Net"],
        ["user:gm1@example.net", "gm1@Example.net", "user:gm1@EXAMPLE.NET"],
    ] {
        let mut b = Bench::new(8);
        b.join_as(&name(one), 1, Protocol::Gdoi).unwrap();
        let plan = b.rekey(RekeyReason::Eviction, &[name(two)]);
        assert!(plan.steps.iter().all(|s| s.protocol == Protocol::Gdoi));
        for _ in 0..2 {
            for text in [one, two, three] {
                assert_eq!(b.join_as(&name(text), 1, Protocol::Gdoi), Err(Refusal::NotAuthorized), "{text}");
            }
            b.crash();
        }
        assert_eq!(b.store.keys().filter(|key| key.contains("/member/")).count(), 1);
    }
    // The local part of a mailbox has a case.
    assert_ne!(name("gm1@example.net"), name("GM1@example.net"));
}

#[test]
fn who_moved_is_excluded_from_the_old_protocol_when_it_is_evicted_from_the_new() {
    let mut b = Bench::new(8);
    b.join(1, Protocol::Gdoi).unwrap();
    b.join(2, Protocol::Gdoi).unwrap();
    b.join(1, Protocol::Gikev2).unwrap();
    let plan = b.rekey(RekeyReason::Eviction, &[member(1)]);
    assert!(plan.steps.iter().any(|s| s.protocol == Protocol::Gdoi && s.new_rekey.is_some()));
    // Nobody is left on the G-IKEv2 side: its rekey SA changes without a message.
    assert!(plan.steps.iter().all(|s| s.protocol == Protocol::Gdoi));
}

#[test]
fn acknowledgements_are_counted_once_and_survive_a_crash() {
    let mut b = Bench::new(8);
    b.join(1, Protocol::Gdoi).unwrap();
    b.join(2, Protocol::Gdoi).unwrap();
    b.join(3, Protocol::Gikev2).unwrap();
    let plan = b.rekey(RekeyReason::Operator, &[]);
    let (spi, counter) = (plan.steps[0].over.spi, plan.steps[0].counter);
    b.wall += 3;
    let now = b.now();
    assert!(b.model.acknowledge(Protocol::Gdoi, &spi, counter, &member(1), now));
    assert!(!b.model.acknowledge(Protocol::Gdoi, &spi, counter, &member(1), now));
    assert!(!b.model.acknowledge(Protocol::Gdoi, &spi, counter, &member(3), now));
    assert!(!b.model.acknowledge(Protocol::Gdoi, &spi, counter + 1, &member(2), now));
    b.commit();
    b.crash();
    let now = b.now();
    assert!(!b.model.acknowledge(Protocol::Gdoi, &spi, counter, &member(1), now));
    b.wall += 10;
    let now = b.now();
    assert!(b.model.expire(now).is_empty());
    let view = &b.model.group("g").unwrap().rekey_views()[0];
    assert_eq!((view.expected, view.acknowledged), (2, 1));
    assert_eq!(view.missing, [member(2)]);
    assert_eq!(view.acks[0].latency_ms, 3000);
    let members = b.model.group("g").unwrap().member_views();
    assert_eq!(members.iter().map(|m| m.missed).collect::<Vec<_>>(), [0, 1, 0]);
}

#[test]
fn keys_are_replaced_in_time_and_old_epochs_go() {
    let mut b = Bench::new(8);
    b.join(1, Protocol::Gdoi).unwrap();
    b.wall += 3299;
    let now = b.now();
    assert!(b.model.expire(now).is_empty());
    b.wall += 1;
    let now = b.now();
    assert_eq!(b.model.expire(now), [("g".to_owned(), RekeyReason::Lifetime)]);
    b.rekey(RekeyReason::Lifetime, &[]);
    assert_eq!(b.model.group("g").unwrap().epochs.len(), 2);
    let late = b.model.offer(&GroupId::Number(7), &member(9), None, Protocol::Gdoi, b.now()).unwrap();
    assert_eq!(late.activation_delay, Duration::from_secs(10));
    // The old epoch is told with the life it has left, so a late member drops it without being told.
    assert_eq!(late.epochs[0].remaining(b.now().wall), Duration::from_secs(24));
    b.wall += 24;
    let now = b.now();
    assert!(b.model.expire(now).is_empty());
    assert_eq!(b.model.group("g").unwrap().epochs.len(), 1);
}

#[test]
fn a_rekey_sa_near_its_end_is_replaced_under_itself() {
    let mut b = Bench::new(8);
    b.join(1, Protocol::Gdoi).unwrap();
    b.wall += 86_400 - 300;
    let now = b.now();
    assert_eq!(b.model.expire(now).len(), 1);
    let plan = b.rekey(RekeyReason::Lifetime, &[]);
    let step = &plan.steps[0];
    let new = step.new_rekey.as_ref().unwrap();
    assert!(new.tree.is_none() && step.new_epoch.is_some());
    assert!(b.model.rekey_sa(Protocol::Gdoi, &step.over.spi).is_some());
    assert!(b.model.rekey_sa(Protocol::Gdoi, &new.sa.spi).is_some());
    b.wall += 31;
    let now = b.now();
    b.model.expire(now);
    assert!(b.model.rekey_sa(Protocol::Gdoi, &step.over.spi).is_none());
}

#[test]
fn exhausted_sender_ids_reset_the_group_under_new_keys() {
    let mut b = Bench::new(1);
    assert_eq!(b.join(1, Protocol::Gdoi), Ok(vec![0]));
    assert_eq!(b.join(2, Protocol::Gikev2), Ok(vec![1]));
    let before = b.model.group("g").unwrap().epochs[0].spis();
    assert_eq!(b.join(3, Protocol::Gikev2), Err(Refusal::Full), "a reset would not make room for a third");
    assert_eq!(b.join(2, Protocol::Gikev2), Err(Refusal::SenderIdsExhausted));
    b.crash();
    let now = b.now();
    assert_eq!(b.model.expire(now), [("g".to_owned(), RekeyReason::Reset)]);
    let plan = b.rekey(RekeyReason::Reset, &[]);
    assert!(plan.steps.len() == 2 && plan.steps.iter().all(|s| s.delete == Deletion::Everything));
    let group = b.model.group("g").unwrap();
    assert_eq!(group.epochs.len(), 1);
    assert_ne!(group.epochs[0].spis(), before);
    assert!(group.member_views().iter().all(|m| m.state == MemberState::Left));
    assert_eq!(b.join(2, Protocol::Gikev2), Ok(vec![0]));
}

#[test]
fn a_store_without_its_sender_ids_is_refused() {
    let mut b = Bench::new(8);
    b.join(1, Protocol::Gdoi).unwrap();
    b.store.remove("group/g/sender-ids");
    let now = b.now();
    let error = Model::load(vec![policy(8)], &b.store, now, &mut b.rng).unwrap_err();
    assert_eq!(error.key, "group/g/sender-ids");
}

#[test]
fn a_member_that_leaves_is_excluded_soon() {
    let mut b = Bench::new(8);
    b.join(1, Protocol::Gikev2).unwrap();
    b.join(2, Protocol::Gikev2).unwrap();
    let now = b.now();
    assert!(!b.model.leave(&GroupId::Number(7), &member(1), Protocol::Gdoi, now));
    assert!(b.model.leave(&GroupId::Number(7), &member(1), Protocol::Gikev2, now));
    b.commit();
    b.crash();
    b.wall += 5;
    let now = b.now();
    assert_eq!(b.model.expire(now), [("g".to_owned(), RekeyReason::Eviction)]);
    let plan = b.rekey(RekeyReason::Eviction, &[]);
    assert!(plan.steps[0].new_rekey.as_ref().unwrap().tree.is_some());
    let now = b.now();
    assert!(b.model.expire(now).is_empty());
}

#[test]
fn a_rekey_for_any_reason_excludes_who_left_before() {
    for reason in [RekeyReason::Operator, RekeyReason::Lifetime] {
        let mut b = Bench::new(8);
        b.join(1, Protocol::Gikev2).unwrap();
        b.join(2, Protocol::Gikev2).unwrap();
        let now = b.now();
        assert!(b.model.leave(&GroupId::Number(7), &member(1), Protocol::Gikev2, now));
        b.commit();
        let plan = b.rekey(reason, &[]);
        assert!(plan.steps[0].new_rekey.as_ref().unwrap().tree.is_some());
        b.wall += 10;
        let now = b.now();
        assert!(b.model.expire(now).is_empty(), "the exclusion is done");
    }
}

#[test]
fn a_protocol_given_up_and_taken_up_again_starts_over() {
    let mut b = Bench::new(8);
    for n in 1..=3 {
        b.join(n, Protocol::Gikev2).unwrap();
    }
    let start = |b: &mut Bench, policy| {
        let now = b.now();
        b.model = Model::load(vec![policy], &b.store, now, &mut b.rng).unwrap();
        b.commit();
    };
    start(&mut b, GroupPolicy { gikev2: None, ..policy(8) });
    b.rekey(RekeyReason::Operator, &[]);
    start(&mut b, policy(8));
    assert!(b.model.group("g").unwrap().member_views().iter().all(|m| m.state == MemberState::Left));
    b.join(1, Protocol::Gikev2).unwrap();
    b.crash();
    b.join(2, Protocol::Gikev2).unwrap();
    b.crash();
}

#[test]
fn members_behind_one_address_are_told_apart() {
    let mut b = Bench::new(8);
    let address = |port| SocketAddr::from(([192, 0, 2, 1], port));
    for n in 1..=2 {
        let identity = member(n);
        let request = JoinRequest {
            identity: &identity,
            holder: None,
            protocol: Protocol::Gdoi,
            address: address(848 + u16::from(n)),
            sender_ids: None,
            gikev2: None,
        };
        let now = b.now();
        b.model.admit(&GroupId::Number(7), request, None, now, &mut b.rng).unwrap();
    }
    let spi = b.model.group("g").unwrap().side(Protocol::Gdoi).unwrap().current.spi;
    let found = b.model.members_at(Protocol::Gdoi, &spi, address(0).ip());
    assert_eq!(found.iter().map(|m| m.port).collect::<Vec<_>>(), [849, 850]);
    assert!(!found[0].leaf.unwrap().ct_eq(found[1].leaf.unwrap().expose()));
}

#[test]
fn a_member_that_registers_in_a_loop_does_not_use_up_the_sender_ids() {
    let mut b = Bench::new(8);
    for _ in 0..8 {
        b.join(1, Protocol::Gdoi).unwrap();
    }
    assert_eq!(b.join(1, Protocol::Gdoi), Err(Refusal::TooOften));
    assert_eq!(b.join(1, Protocol::Gikev2), Err(Refusal::TooOften));
    assert!(b.join(2, Protocol::Gdoi).is_ok());
    b.wall += 60;
    assert!(b.join(1, Protocol::Gdoi).is_ok());
}

proptest! {
    /// Whatever happens, in any order, with crashes between: no sender ID is given twice under one set of keys, and no
    /// counter of a rekey SA is used twice.
    #[test]
    fn nothing_repeats(steps in prop::collection::vec((0u8..7, 1u8..6), 1..80)) {
        let mut b = Bench::new(4);
        let mut ids: BTreeSet<u32> = BTreeSet::new();
        let mut counters = BTreeSet::new();
        for (what, n) in steps {
            let plan = match what {
                0 | 1 => {
                    let protocol = if what == 0 { Protocol::Gdoi } else { Protocol::Gikev2 };
                    match b.join(n, protocol) {
                        Ok(got) => {
                            for id in got {
                                prop_assert!(ids.insert(id), "sender ID {} twice", id);
                            }
                        }
                        Err(Refusal::SenderIdsExhausted | Refusal::NotAuthorized | Refusal::Full | Refusal::TooOften) => {}
                        Err(other) => prop_assert!(false, "{}", other),
                    }
                    None
                }
                2 => Some((RekeyReason::Operator, vec![])),
                3 => Some((RekeyReason::Eviction, vec![member(n)])),
                4 => {
                    b.crash();
                    None
                }
                5 => {
                    b.model.readmit("g", &member(n));
                    b.commit();
                    None
                }
                _ => {
                    b.wall += 40 * u64::from(n);
                    let now = b.now();
                    let due = b.model.expire(now).pop().map(|(_, reason)| (reason, vec![]));
                    b.commit();
                    due
                }
            };
            if let Some((reason, evict)) = plan {
                let plan = b.rekey(reason, &evict);
                if reason == RekeyReason::Reset {
                    ids.clear();
                }
                for s in &plan.steps {
                    prop_assert!(counters.insert((s.over.spi, s.counter)), "counter twice");
                }
            }
        }
    }
}

/// Long before numbers run out a rekey SA is replaced.
#[test]
fn a_rekey_sa_is_replaced_before_its_numbers_run_out() {
    let mut rng = SeededRandom::new(3);
    let now = Now { mono: Duration::ZERO, wall: Duration::from_secs(1_000_000) };
    for (sent, replaced) in [(1 << 31, true), ((1 << 31) - 1, false), (7, false)] {
        let mut group = super::Group::create(Arc::new(policy(8)), now, &mut rng);
        let first: Vec<[u8; 16]> = group.sides.values().map(|s| s.current.spi).collect();
        group.sides.values_mut().for_each(|s| s.sent = sent);
        group.rekey(RekeyReason::Operator, &[], now, &mut rng);
        for (side, first) in group.sides.values().zip(first) {
            assert_eq!(side.current.spi != first, replaced, "{sent}");
        }
    }
}
