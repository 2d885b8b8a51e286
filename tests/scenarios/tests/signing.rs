//! Signatures of rekeys are made elsewhere, when there is time: nothing is lost by it, and nothing goes in another order.

use std::collections::BTreeSet;
use std::time::Duration;

use keyferry_crypto::CryptoError;
use keyferry_crypto::JobDone;
use keyferry_model::drive::JobId;
use keyferry_model::id::{Identity, Protocol};
use keyferry_model::update::MemberEvent;
use keyferry_scenarios::fleet::Fleet;
use keyferry_scenarios::policy::{self, NAME, Variant};

const GDOI: [u8; 2] = [11, 12];
const GIKEV2: [u8; 2] = [21, 22];
const ALL: [u8; 4] = [11, 12, 21, 22];

fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// Members of both protocols, and signatures that wait from now on.
fn assembled(seed: u64) -> Fleet {
    let mut fleet = Fleet::new(seed, Variant::default());
    fleet.join(GDOI, Protocol::Gdoi);
    fleet.join(GIKEV2, Protocol::Gikev2);
    fleet.run(secs(10));
    fleet.all_hear(&ALL).expect("all are in");
    fleet.hold_signatures = true;
    fleet
}

fn rekey(fleet: &mut Fleet) {
    fleet.command(|g, now, rng| g.rekey(now, rng, NAME)).expect("the group is there");
}

fn evict(fleet: &mut Fleet, n: u8) {
    let member = Identity::from_ip(Variant::default().family.host(n));
    fleet.command(|g, now, rng| g.evict(now, rng, NAME, &member)).expect("a member");
}

/// Signatures, made.
fn made(fleet: &mut Fleet) -> Vec<(JobId, JobDone)> {
    std::mem::take(&mut fleet.held).into_iter().map(|(id, job)| (id, job.run())).collect()
}

/// Rekey messages on the wire, in their order, each once: those to a multicast address.
fn sent(fleet: &Fleet) -> Vec<Vec<u8>> {
    let mut seen = BTreeSet::new();
    let multicast = fleet.net.log.iter().filter(|p| p.to.ip().is_multicast());
    multicast.filter(|p| seen.insert(p.bytes.clone())).map(|p| p.bytes.clone()).collect()
}

fn followed(fleet: &Fleet) -> Vec<usize> {
    ALL.iter().map(|n| fleet.count(*n, |e| matches!(e, MemberEvent::Rekeyed { .. }))).collect()
}

/// SPI and number (SEQ is inside, so GDOI's are told by their order alone) of messages of G-IKEv2.
fn numbers(messages: &[Vec<u8>]) -> Vec<(Vec<u8>, [u8; 4])> {
    let gikev2 = messages.iter().filter(|m| m[17] >> 4 == 2);
    gikev2.map(|m| (m[..16].to_vec(), [m[20], m[21], m[22], m[23]])).collect()
}

#[test]
fn others_do_not_wait_for_a_signature() {
    let mut fleet = assembled(1);
    rekey(&mut fleet);
    assert_eq!(fleet.held.len(), 2, "one of each protocol");
    fleet.run(secs(5));
    assert!(sent(&fleet).is_empty());
    // Registrations go on meanwhile; and who comes then has the new keys.
    fleet.join([13], Protocol::Gdoi);
    fleet.join([23], Protocol::Gikev2);
    fleet.run(secs(2));
    for n in [13, 23] {
        assert_eq!(fleet.count(n, |e| *e == MemberEvent::Registered), 1);
    }
    made(&mut fleet).into_iter().for_each(|done| fleet.hand_back(done));
    fleet.run(secs(40));
    assert_eq!(followed(&fleet), [1; 4]);
    fleet.all_hear(&[11, 12, 13, 21, 22, 23]).expect("all followed");
}

/// Whatever the order in which they are signed.
#[test]
fn later_messages_never_overtake_earlier_ones() {
    for reverse in [false, true] {
        let mut fleet = assembled(2);
        evict(&mut fleet, 12);
        evict(&mut fleet, 22);
        rekey(&mut fleet);
        let mut done = made(&mut fleet);
        assert_eq!(done.len(), 8, "two for each protocol, but one where nobody is excluded");
        if reverse {
            done.reverse();
        }
        let mut before = Vec::new();
        for result in done {
            fleet.hand_back(result);
            let now = sent(&fleet);
            assert!(now.starts_with(&before));
            before = now;
        }
        assert_eq!(before.len(), 8);
        // Under each rekey SA the numbers grow, and the one that a message brings is used after it.
        let numbers = numbers(&before);
        assert!(numbers.windows(2).all(|w| w[0].0 != w[1].0 || w[0].1 < w[1].1), "{numbers:?}");
        fleet.run(secs(40));
        fleet.all_hear(&[11, 21]).expect("they followed");
        for from in [11, 21] {
            let heard = fleet.talk(from).expect("a sender");
            assert!(!heard.contains(&12) && !heard.contains(&22));
        }
        for n in [11, 21] {
            assert_eq!(
                fleet.count(n, |e| *e == MemberEvent::Registered),
                1,
                "member {n} had no reason to register anew"
            );
        }
    }
}

/// The plan is durable before it is signed; after the restart it is signed and sent.
#[test]
fn what_is_not_signed_is_signed_after_a_restart() {
    for signed in 0..=3 {
        let mut fleet = assembled(3);
        evict(&mut fleet, 12);
        let done = made(&mut fleet);
        assert_eq!(done.len(), 3);
        done.into_iter().take(signed).for_each(|done| fleet.hand_back(done));
        let before = sent(&fleet);
        fleet.kill();
        fleet.run(secs(1));
        fleet.boot();
        // What was signed before is not signed again, nor is anything sent in two forms.
        made(&mut fleet).into_iter().for_each(|done| fleet.hand_back(done));
        fleet.run(secs(40));
        let all = sent(&fleet);
        assert!(all.starts_with(&before) && all.len() == 3, "{signed}: {} then {}", before.len(), all.len());
        fleet.all_hear(&[11, 21, 22]).expect("they followed");
        assert!(!fleet.talk(11).expect("a sender").contains(&12));
        for n in [11, 21, 22] {
            assert_eq!(fleet.count(n, |e| *e == MemberEvent::Registered), 1);
        }
        // Nothing is left of it, keys least of all.
        assert!(fleet.store.keys().all(|key| !key.starts_with("outgoing/")));
    }
}

/// Where too many jobs wait they are asked for again.
#[test]
fn a_signature_that_there_was_no_time_for_is_made_later() {
    let mut fleet = assembled(4);
    rekey(&mut fleet);
    for _ in 0..3 {
        for (id, job) in std::mem::take(&mut fleet.held) {
            fleet.hand_back((id, job.not_done()));
        }
        assert!(fleet.held.is_empty());
        fleet.run(secs(2));
        assert_eq!(fleet.held.len(), 2);
    }
    assert!(sent(&fleet).is_empty());
    made(&mut fleet).into_iter().for_each(|done| fleet.hand_back(done));
    fleet.run(secs(20));
    assert_eq!(followed(&fleet), [1; 4]);
}

/// A message that cannot be signed takes those of its plan behind it along, and no others.
#[test]
fn a_signature_that_fails_ends_its_plan_alone() {
    let mut fleet = assembled(5);
    evict(&mut fleet, 12);
    rekey(&mut fleet);
    let held = std::mem::take(&mut fleet.held);
    let mut held: Vec<(JobId, JobDone)> = held.into_iter().map(|(id, job)| (id, job.run())).collect();
    // GDOI is told first: its first message of the eviction.
    held[0].1 = JobDone::Sign(Err(CryptoError::Length("signature")));
    let unmade = |fleet: &Fleet| fleet.gateway.as_ref().map(|g| g.rekeys_unmade());
    assert_eq!(unmade(&fleet), Some(0));
    held.into_iter().for_each(|done| fleet.hand_back(done));
    assert_eq!(unmade(&fleet), Some(1), "an operator sees it");
    fleet.run(secs(40));
    assert_eq!(followed(&fleet)[2..], [2, 2], "G-IKEv2 goes on");
    fleet.run(secs(4000));
    fleet.all_hear(&[11, 21, 22]).expect("who missed it has registered anew");
}

/// A group that goes tells its members so, also when the signature comes after it has gone.
#[test]
fn a_group_that_is_removed_is_deleted_at_its_members() {
    let mut fleet = assembled(6);
    let credentials = policy::credentials(Variant::default().family);
    fleet.command(|g, now, rng| g.reload(now, rng, Vec::new(), credentials)).expect("nothing to read");
    let done = made(&mut fleet);
    assert!(!done.is_empty() && sent(&fleet).is_empty());
    done.into_iter().for_each(|done| fleet.hand_back(done));
    fleet.run(secs(1));
    for n in ALL {
        assert_eq!(fleet.count(n, |e| *e == MemberEvent::Excluded), 1, "member {n}");
    }
}

/// Results that nobody waits for change nothing.
#[test]
fn late_results_are_dropped() {
    let mut fleet = assembled(7);
    rekey(&mut fleet);
    let done = made(&mut fleet);
    fleet.kill();
    fleet.boot();
    let (fresh, stale): (Vec<_>, Vec<_>) =
        (made(&mut fleet), done.into_iter().map(|(id, d)| (JobId(id.0 + 1000), d)).collect());
    stale.into_iter().for_each(|done| fleet.hand_back(done));
    assert!(sent(&fleet).is_empty());
    fresh.into_iter().for_each(|done| fleet.hand_back(done));
    fleet.run(secs(20));
    assert_eq!(followed(&fleet), [1; 4]);
}
