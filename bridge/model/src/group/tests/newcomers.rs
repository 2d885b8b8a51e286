//! Backward and forward access control of whole groups: who knows the keys of which epoch, with all it ever got.

use std::collections::BTreeSet;

use keyferry_crypto::Random;

use super::*;
use crate::admission::Gikev2Join;
use crate::plan::{InBandTo, RekeyStep};

fn guarded(scope: BackwardScope, capacity: u32) -> GroupPolicy {
    let backward_access = Some(BackwardAccess { scope, gathering: Duration::from_secs(5) });
    let mut guarded = GroupPolicy { backward_access, capacity, ..policy(32) };
    let options = &mut guarded.gikev2.as_mut().unwrap().options;
    (options.in_band, options.ack) = (InBand::Senders, true);
    if scope == BackwardScope::Full {
        guarded.gdoi.as_mut().unwrap().ack = Some(AckType::Lkh(Hash::Sha256));
    }
    guarded
}

/// All that somebody ever got, and what can be opened with it.
#[derive(Clone, Default)]
struct Knows {
    sas: BTreeMap<[u8; 16], Vec<u8>>,
    /// Keys of the trees, by protocol and handle.
    nodes: BTreeMap<(Protocol, u32), Vec<u8>>,
    epochs: BTreeSet<u64>,
}

impl Knows {
    fn registers(&mut self, protocol: Protocol, admission: &crate::admission::Admission) {
        let offer = &admission.offer;
        if !admission.in_band {
            self.sas.insert(offer.rekey.spi, offer.rekey.keymat.expose().to_vec());
        }
        self.epochs.extend(offer.epochs.iter().map(|e| e.number));
        self.nodes.extend(admission.path.iter().map(|k| ((protocol, k.handle), k.key.expose().to_vec())));
    }

    fn reads(&mut self, step: &RekeyStep) {
        if !self.sas.get(&step.over.spi).is_some_and(|k| step.over.keymat.ct_eq(k)) {
            return;
        }
        self.epochs.extend(step.new_epoch.iter().map(|e| e.number));
        let Some(new) = &step.new_rekey else { return };
        let opens = match &new.tree {
            None => true,
            Some(tree) => {
                let has = |nodes: &BTreeMap<_, Vec<u8>>, key: &crate::lkh::NodeKey| {
                    nodes.get(&(step.protocol, key.handle)).is_some_and(|k| key.key.ct_eq(k))
                };
                for wrap in &tree.wraps {
                    if has(&self.nodes, &wrap.under) {
                        self.nodes.insert((step.protocol, wrap.key.handle), wrap.key.key.expose().to_vec());
                    }
                }
                tree.tops.iter().any(|top| has(&self.nodes, top))
            }
        };
        if opens {
            self.sas.insert(new.sa.spi, new.sa.keymat.expose().to_vec());
        }
    }
}

#[derive(Clone, Default)]
struct Person {
    /// With the messages that came after each key.
    knows: Knows,
    /// The epochs of which it was a member.
    allowed: BTreeSet<u64>,
    /// Its registration, if it is rekeyed in band.
    in_band: Option<InBandTo>,
}

struct World {
    bench: Bench,
    people: BTreeMap<u32, Person>,
    /// Every message there ever was.
    sent: Vec<Arc<RekeyStep>>,
}

fn identity(n: u32) -> Identity {
    Identity::Ipv4(std::net::Ipv4Addr::from(0x0a00_0000 + n))
}

impl World {
    fn new(policy: GroupPolicy) -> Self {
        Self { bench: Bench::with(policy), people: BTreeMap::new(), sent: Vec::new() }
    }

    fn newest(&self) -> u64 {
        self.bench.model.group("g").unwrap().epochs.last().unwrap().number
    }

    fn is_active(&self, n: u32) -> bool {
        let member = self.bench.model.group("g").unwrap().member(&identity(n));
        member.is_some_and(|m| m.state == MemberState::Active)
    }

    fn join(&mut self, n: u32, protocol: Protocol) -> Result<(), Refusal> {
        self.join_as(n, protocol, None)
    }

    /// As a sender, which is rekeyed in band where it speaks G-IKEv2.
    fn join_in_band(&mut self, n: u32) -> Result<(), Refusal> {
        self.join_as(n, Protocol::Gikev2, Some(1))
    }

    fn join_as(&mut self, n: u32, protocol: Protocol, sender_ids: Option<u32>) -> Result<(), Refusal> {
        let address = SocketAddr::new(std::net::Ipv4Addr::from(0x0a00_0000 + n).into(), 848);
        let (identity, now) = (identity(n), self.bench.now());
        let asked = Gikev2Join { acks: n.is_multiple_of(2), ..Gikev2Join::default() };
        let gikev2 = Some(&asked).filter(|_| protocol == Protocol::Gikev2);
        let request = JoinRequest { identity: &identity, protocol, address, sender_ids, holder: None, gikev2 };
        let admission = self.bench.model.admit(&GroupId::Number(7), request, None, now, &mut self.bench.rng);
        self.bench.commit();
        let admission = admission?;
        let used = |e: &u64| self.people.values().any(|p| p.knows.epochs.contains(e));
        let fresh: BTreeSet<u64> = admission.offer.epochs.iter().map(|e| e.number).filter(|e| !used(e)).collect();
        let person = self.people.entry(n).or_default();
        person.allowed.extend(fresh);
        person.knows.registers(protocol, &admission);
        assert_eq!(admission.in_band, sender_ids.is_some());
        let to = InBandTo { identity, registration: admission.registration };
        person.in_band = Some(to).filter(|_| admission.in_band);
        Ok(())
    }

    /// Everybody gets the messages, members or not.
    fn rekey(&mut self, reason: RekeyReason, evict: &[u32]) {
        let evict: Vec<Identity> = evict.iter().map(|n| identity(*n)).collect();
        let before: BTreeSet<u32> = self.people.keys().copied().filter(|n| self.is_active(*n)).collect();
        let plan = self.bench.rekey(reason, &evict);
        let newest = self.newest();
        // Counters tell who is to acknowledge it as well as a look at every member.
        let group = self.bench.model.group("g").unwrap();
        let entry = group.ledger.entries.get(&plan.id).unwrap();
        assert_eq!(entry.expected, group.members.iter().filter(|m| entry.expects(m)).count(), "{reason:?}");
        let here: Vec<u32> = before.iter().copied().filter(|n| !evict.contains(&identity(*n))).collect();
        for n in &here {
            self.people.get_mut(n).unwrap().allowed.insert(newest);
        }
        for person in self.people.values_mut() {
            plan.steps.iter().for_each(|step| person.knows.reads(step));
            // Over an IKE SA only its member reads.
            let told = plan.in_band.iter().filter(|s| person.in_band.as_ref().is_some_and(|to| s.members.contains(to)));
            person.knows.epochs.extend(told.filter_map(|s| s.epoch.as_ref()).map(|e| e.number));
        }
        self.sent.extend(plan.steps.iter().map(Arc::clone));
        for n in here.into_iter().filter(|n| self.is_active(*n)) {
            assert!(self.people[&n].knows.epochs.contains(&newest), "{n} was left behind by {reason:?}");
        }
    }

    fn pass(&mut self, secs: u64) {
        self.bench.wall += secs;
        let now = self.bench.now();
        for (_, reason) in self.bench.model.expire(now) {
            self.rekey(reason, &[]);
        }
    }

    fn leave(&mut self, n: u32) {
        let now = self.bench.now();
        for protocol in Protocol::ALL {
            self.bench.model.leave(&GroupId::Number(7), &identity(n), protocol, now);
        }
        self.bench.commit();
    }

    /// Its IKE SA is gone.
    fn lose(&mut self, n: u32) {
        let Some(to) = self.people.get(&n).and_then(|p| p.in_band.clone()) else { return };
        let now = self.bench.now();
        self.bench.model.lose("g", &to, now);
        self.bench.commit();
    }

    /// Nobody has the keys of an epoch that it was no member of; with `recordings` not even with all messages of all time.
    fn check(&self, recordings: bool) {
        for (n, person) in &self.people {
            let mut knows = person.knows.clone();
            let mut size = 0;
            // What is learned late may open what came early.
            while recordings && size < knows.sas.len() + knows.nodes.len() {
                size = knows.sas.len() + knows.nodes.len();
                self.sent.iter().for_each(|step| knows.reads(step));
            }
            let strange: Vec<_> = knows.epochs.difference(&person.allowed).collect();
            assert!(strange.is_empty(), "{n} reads {strange:?} and may read {:?}", person.allowed);
        }
    }
}

/// Members of both protocols come, go, move and come back at random, the gateway crashes, keys are deleted, everything starts over.
fn turmoil(scope: BackwardScope, seed: u64, rounds: u32, crowd: u32) -> World {
    let mut world = World::new(guarded(scope, 4 * crowd));
    let mut rng = SeededRandom::new(seed);
    let mut some = |most: u32| u32::try_from(rng.below(u64::from(most))).unwrap();
    let mut fresh = 0;
    for _ in 0..rounds {
        let protocol = Protocol::ALL[some(2) as usize];
        match some(17) {
            0..=6 => {
                for _ in 0..=some(crowd) {
                    // New ones, and sometimes one that was there before: it returns, moves, or only registers again.
                    let n = if some(4) == 0 { some(fresh + 1) } else { fresh };
                    fresh += u32::from(n == fresh);
                    let in_band = protocol == Protocol::Gikev2 && some(3) == 0;
                    let joined = if in_band { world.join_in_band(n) } else { world.join(n, protocol) };
                    assert_ne!(joined, Err(Refusal::Stale));
                }
            }
            7 | 8 => (0..some(crowd)).for_each(|_| world.leave(some(fresh + 1))),
            9 => {
                let gone: Vec<u32> = (0..some(crowd)).map(|_| some(fresh + 1)).collect();
                world.rekey(RekeyReason::Eviction, &gone);
            }
            10 => world.rekey(RekeyReason::Operator, &[]),
            11 if some(4) == 0 => world.rekey(RekeyReason::DeleteKek, &[]),
            12 if some(4) == 0 => world.rekey(RekeyReason::Reset, &[]),
            13 => world.bench.crash(),
            14 => (0..some(crowd)).for_each(|_| world.lose(some(fresh + 1))),
            _ => world.pass(u64::from(1 + some(8))),
        }
    }
    world
}

#[test]
fn thousands_come_and_go_and_nobody_reads_what_was_before_or_after_him() {
    let world = turmoil(BackwardScope::Full, 1, 300, 90);
    world.check(true);
    assert!(world.people.len() > 2000, "{}", world.people.len());
    assert!(world.sent.len() > 150, "{}", world.sent.len());
}

/// Without recordings the keys in use are kept from newcomers, with them they are not: that takes the other scope.
#[test]
fn without_recordings_nobody_reads_what_was_before() {
    let world = turmoil(BackwardScope::Data, 2, 250, 20);
    world.check(false);
    let found = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| world.check(true)));
    assert!(found.is_err(), "what the check is for is there to be found");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn nobody_reads_what_was_before_or_after_him(seed in any::<u64>()) {
        turmoil(BackwardScope::Full, seed, 60, 4).check(true);
    }
}

#[test]
fn the_first_waits_for_nothing_and_the_others_share_one_rekey() {
    for scope in [BackwardScope::Data, BackwardScope::Full] {
        let mut world = World::new(guarded(scope, 64));
        world.join(1, Protocol::Gdoi).unwrap();
        assert_eq!(world.people[&1].knows.epochs, BTreeSet::from([1]), "nobody had these keys");
        assert!(world.bench.model.expire(world.bench.now()).is_empty());
        // Now there is something to be read under both rekey SAs.
        world.join(30, Protocol::Gikev2).unwrap();
        world.pass(5);
        world.sent.clear();
        for n in 2..30 {
            world.join(n, Protocol::ALL[n as usize % 2]).unwrap();
            assert!(world.people[&n].knows.epochs.is_empty());
        }
        world.pass(4);
        assert!(world.sent.is_empty(), "others may come yet");
        // The gateway dies meanwhile.
        world.bench.crash();
        world.join(2, Protocol::Gdoi).unwrap();
        assert!(world.people[&2].knows.epochs.is_empty(), "who asks again gets the same answer");
        world.pass(1);
        assert!((1..31).all(|n| world.people[&n].knows.epochs.contains(&3)));
        let of = |p| world.sent.iter().filter(|s| s.protocol == p).collect::<Vec<_>>();
        let messages = if scope == BackwardScope::Full { 2 } else { 1 };
        assert_eq!(Protocol::ALL.map(|p| of(p).len()), [messages; 2]);
        let last = of(Protocol::Gdoi)[messages - 1];
        assert_eq!(last.delete, Deletion::Spis(world.bench.model.group("g").unwrap().epochs[1].spis()));
        assert_eq!(world.bench.model.group("g").unwrap().rekey_views()[0].reason, RekeyReason::Joining);
        world.pass(3);
        assert_eq!(world.sent.len(), 2 * messages, "and that is all");
        world.check(scope == BackwardScope::Full);
    }
}

/// The offer that a newcomer was made does not hold any more when another got the keys in between.
#[test]
fn of_two_first_members_one_is_the_first() {
    let mut world = World::new(guarded(BackwardScope::Full, 8));
    let now = world.bench.now();
    let offer = world.bench.model.offer(&GroupId::Number(7), &identity(2), None, Protocol::Gdoi, now).unwrap();
    assert_eq!(offer.epochs.len(), 1);
    world.join(1, Protocol::Gdoi).unwrap();
    let (who, address) = (identity(2), SocketAddr::from(([10, 0, 0, 2], 848)));
    let request =
        JoinRequest { identity: &who, protocol: Protocol::Gdoi, address, sender_ids: None, holder: None, gikev2: None };
    let late = world.bench.model.admit(&GroupId::Number(7), request, Some(offer.generation), now, &mut world.bench.rng);
    assert!(matches!(late, Err(Refusal::Stale)));
    let again = world.bench.model.offer(&GroupId::Number(7), &identity(2), None, Protocol::Gdoi, now).unwrap();
    assert!(again.epochs.is_empty());
    assert_eq!(again.rekey.spi, offer.rekey.spi, "nothing was sent under it");
}

/// Keys that were told over an IKE SA alone are in use as well, and whoever gets no rekey SA needs none under which nothing was
/// sent.
#[test]
fn keys_told_in_band_are_in_use_and_nothing_else_is_kept_from_who_is_told_so() {
    for scope in [BackwardScope::Data, BackwardScope::Full] {
        let mut world = World::new(guarded(scope, 8));
        world.join_in_band(1).unwrap();
        assert_eq!(world.people[&1].knows.epochs, BTreeSet::from([1]), "nobody had these keys");
        world.rekey(RekeyReason::Operator, &[]);
        assert!(world.sent.is_empty() && world.people[&1].knows.epochs.contains(&2));
        // One for each way to learn of keys.
        world.join_in_band(2).unwrap();
        let side = |w: &World| w.bench.model.group("g").unwrap().side(Protocol::Gikev2).unwrap().current.spi;
        let spi = side(&world);
        world.join(3, Protocol::Gikev2).unwrap();
        world.join(4, Protocol::Gdoi).unwrap();
        assert!((2..5).all(|n| world.people[&n].knows.epochs.is_empty()));
        world.pass(5);
        assert!((1..5).all(|n| world.people[&n].knows.epochs.contains(&3)));
        assert_eq!(side(&world), spi, "nothing was sent under it before");
        assert_eq!(world.sent.len(), 2);
        // Now there is; yet a newcomer that has no use for a rekey SA has none introduced.
        world.join_in_band(5).unwrap();
        world.pass(5);
        assert_eq!((side(&world), world.sent.len()), (spi, 4));
        assert!((1..6).all(|n| world.people[&n].knows.epochs.contains(&4)));
        world.check(true);
    }
}

/// No IKE SA outlives the gateway, so whoever was rekeyed over one is a newcomer to it: what comes with the next rekey it gets.
#[test]
fn who_was_rekeyed_in_band_is_a_newcomer_when_it_returns() {
    for crash in [false, true] {
        let mut world = World::new(guarded(BackwardScope::Full, 8));
        world.join_in_band(1).unwrap();
        world.rekey(RekeyReason::Operator, &[]);
        if crash {
            world.bench.crash();
        } else {
            world.lose(1);
        }
        world.rekey(RekeyReason::Operator, &[]);
        assert_eq!(world.people[&1].knows.epochs, BTreeSet::from([1, 2]));
        world.join_in_band(2).unwrap();
        world.join_in_band(1).unwrap();
        assert_eq!(world.people[&2].knows.epochs, BTreeSet::from([3]), "told to nobody");
        assert_eq!(world.people[&1].knows.epochs, BTreeSet::from([1, 2]));
        world.pass(5);
        assert!([1, 2].iter().all(|n| world.people[n].knows.epochs.contains(&4)));
        world.check(true);
    }
}

/// Who followed the rekey messages before it became a sender can read them still, until a rekey excludes its leaf.
#[test]
fn who_loses_its_ike_sa_is_kept_from_what_it_listened_to_before() {
    for (protocol, crash) in [(Protocol::Gdoi, false), (Protocol::Gikev2, false), (Protocol::Gikev2, true)] {
        let mut world = World::new(guarded(BackwardScope::Full, 8));
        world.join(1, protocol).unwrap();
        world.join(2, protocol).unwrap();
        world.pass(5);
        world.join_in_band(1).unwrap();
        if crash {
            world.bench.crash();
        } else {
            world.lose(1);
        }
        world.rekey(RekeyReason::Lifetime, &[]);
        let newest = world.newest();
        assert!(world.people[&2].knows.epochs.contains(&newest));
        assert!(!world.people[&1].knows.epochs.contains(&newest), "{protocol} {crash}");
        world.check(true);
    }
}

/// A group that begins to guard what was before, by a reload or a restart, has no keys of which it does not know whether
/// somebody was told them.
#[test]
fn a_group_that_begins_to_hide_its_past_takes_what_is_there_for_known() {
    for restart in [false, true] {
        let mut world = World::new(GroupPolicy { backward_access: None, ..guarded(BackwardScope::Full, 8) });
        world.join(1, Protocol::Gdoi).unwrap();
        world.rekey(RekeyReason::Operator, &[]);
        let to = guarded(BackwardScope::Full, 8);
        world.bench.policy = to.clone();
        if restart {
            world.bench.crash();
        } else {
            let now = world.bench.now();
            world.bench.model.change(vec![to], now, &mut world.bench.rng).unwrap();
        }
        world.join(2, Protocol::Gdoi).unwrap();
        assert!(world.people[&2].knows.epochs.is_empty());
        world.pass(5);
        assert!([1, 2].iter().all(|n| world.people[n].knows.epochs.contains(&3)));
        world.check(true);
    }
}

/// Records of a version that noted nothing of this.
#[test]
fn an_older_store_is_taken_for_one_whose_keys_are_known() {
    let mut bench = Bench::with(guarded(BackwardScope::Full, 8));
    let state = bench.store.get("group/g/state").unwrap();
    let mut value: serde_json::Value = serde_json::from_slice(state.expose()).unwrap();
    let fields = value.as_object_mut().unwrap();
    fields.remove("told_epoch").unwrap();
    fields.remove("newcomers_due").unwrap();
    for side in fields["sides"].as_object_mut().unwrap().values_mut() {
        side.as_object_mut().unwrap().remove("carried").unwrap();
        side.as_object_mut().unwrap().remove("next").unwrap();
    }
    bench.store.insert("group/g/state".into(), Secret::new(serde_json::to_vec(&value).unwrap()));
    bench.crash();
    let offer = bench.model.offer(&GroupId::Number(7), &member(1), None, Protocol::Gikev2, bench.now()).unwrap();
    assert!(offer.epochs.is_empty());
    assert_ne!(offer.rekey.spi, bench.model.group("g").unwrap().side(Protocol::Gikev2).unwrap().current.spi);
}
