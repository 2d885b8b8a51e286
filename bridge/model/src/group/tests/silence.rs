//! Members that say nothing, know no key tree, or are to forget what they know.

use super::*;

fn without_tree() -> GroupPolicy {
    let mut p = policy(8);
    p.gdoi = p.gdoi.map(|g| GdoiRekey { management: KekManagement::None, ..g });
    p
}

/// What is to be kept from a member that has the KEK cannot be told under it.
#[test]
fn without_a_tree_an_eviction_makes_the_rest_register_anew() {
    let mut b = Bench::with(without_tree());
    for n in 1..=3 {
        b.join(n, Protocol::Gdoi).unwrap();
    }
    b.join(4, Protocol::Gikev2).unwrap();
    let plan = b.rekey(RekeyReason::Operator, &[]);
    assert!(plan.steps.iter().all(|s| s.new_rekey.is_none()), "an ordinary rekey is as ever");
    let before = b.model.group("g").unwrap().side(Protocol::Gdoi).unwrap().current.spi;
    let plan = b.rekey(RekeyReason::Eviction, &[member(2)]);
    let [gdoi, gikev2] = &plan.steps[..] else { panic!("one message each") };
    assert_eq!((gdoi.protocol, &gdoi.delete), (Protocol::Gdoi, &Deletion::Everything));
    assert!(gdoi.new_epoch.is_none() && gdoi.new_rekey.is_none());
    assert!(gikev2.new_epoch.is_some() && gikev2.new_rekey.is_none(), "nobody was evicted there");
    assert_ne!(b.model.group("g").unwrap().side(Protocol::Gdoi).unwrap().current.spi, before);
    b.crash();
    assert_eq!(b.join(2, Protocol::Gdoi), Err(Refusal::NotAuthorized));
    b.join(1, Protocol::Gdoi).unwrap();
    b.join(3, Protocol::Gdoi).unwrap();
    // The evicted one is out: nothing more is to be done for it.
    let plan = b.rekey(RekeyReason::Eviction, &[]);
    assert!(plan.steps.iter().all(|s| s.new_epoch.is_some()));
}

/// A member that has moved still has the KEK of before. That matters when it is evicted, and not earlier.
#[test]
fn without_a_tree_who_moved_and_is_evicted_is_left_behind_there_too() {
    let mut b = Bench::with(without_tree());
    for n in 1..=3 {
        b.join(n, Protocol::Gdoi).unwrap();
    }
    b.join(2, Protocol::Gikev2).unwrap();
    b.join(4, Protocol::Gikev2).unwrap();
    b.crash();
    let plan = b.rekey(RekeyReason::Eviction, &[member(4)]);
    assert!(plan.steps.iter().all(|s| s.delete != Deletion::Everything));
    b.crash();
    let plan = b.rekey(RekeyReason::Eviction, &[member(2)]);
    assert!(plan.steps.iter().any(|s| s.protocol == Protocol::Gdoi && s.delete == Deletion::Everything));
    // A member that leaves is excluded as one that is evicted.
    b.join(1, Protocol::Gdoi).unwrap();
    b.join(3, Protocol::Gdoi).unwrap();
    let now = b.now();
    assert!(b.model.leave(&GroupId::Number(7), &member(1), Protocol::Gdoi, now));
    let plan = b.rekey(RekeyReason::Eviction, &[]);
    assert!(plan.steps.iter().any(|s| s.delete == Deletion::Everything));
}

#[test]
fn the_kek_is_replaced_200_seconds_before_it_expires_whatever_the_margin() {
    let short = GroupPolicy { rekey_margin: Duration::from_secs(20), ..policy(8) };
    let mut b = Bench::with(GroupPolicy { tek_lifetime: short.kek_lifetime, ..short.clone() });
    b.join(1, Protocol::Gdoi).unwrap();
    b.wall += 86_400 - 201;
    let now = b.now();
    assert!(b.model.expire(now).is_empty());
    b.wall += 1;
    let now = b.now();
    assert_eq!(b.model.expire(now), [("g".to_owned(), RekeyReason::Lifetime)]);
    let plan = b.rekey(RekeyReason::Lifetime, &[]);
    assert!(plan.steps[0].new_rekey.is_some());
    // A life of less than twice that is halved.
    let kek_lifetime = Duration::from_secs(300);
    let p = GroupPolicy { kek_lifetime, tek_lifetime: kek_lifetime, ..short };
    assert_eq!(p.kek_margin(), Duration::from_secs(150));
}

#[test]
fn no_copy_tells_a_lifetime_that_is_too_long() {
    let mut b = Bench::new(8);
    b.join(1, Protocol::Gdoi).unwrap();
    let plan = b.rekey(RekeyReason::Operator, &[]);
    let step = &plan.steps[0];
    let last_copy = b.now().wall + Duration::from_secs(4);
    assert_eq!(step.counted_from, last_copy);
    let epoch = step.new_epoch.as_ref().unwrap();
    assert_eq!(last_copy + epoch.remaining(step.counted_from), epoch.expires);
}

/// One rekey, and `answering` acknowledge it. The time to do so passes.
fn rekey(b: &mut Bench, answering: &[u8]) -> Vec<(String, u64, Vec<SocketAddr>)> {
    let plan = b.rekey(RekeyReason::Operator, &[]);
    let step = plan.steps.iter().rfind(|s| s.protocol == Protocol::Gdoi).unwrap();
    for n in answering {
        let now = b.now();
        assert!(b.model.acknowledge(Protocol::Gdoi, &step.over.spi, step.counter, &member(*n), now));
    }
    b.commit();
    b.crash();
    b.wall += 10;
    let now = b.now();
    b.model.expire(now);
    b.commit();
    let resends = b.model.take_resends().into_iter();
    resends.map(|(group, id, protocol, to)| (assert_eq!(protocol, Protocol::Gdoi), (group, id, to)).1).collect()
}

/// Acknowledgements by leaf keys, and eviction of who stops giving them.
fn proven(misses: u32) -> GroupPolicy {
    let mut p = GroupPolicy { ack_resend: true, evict_after_misses: Some(misses), ..policy(8) };
    p.gdoi = p.gdoi.map(|g| GdoiRekey { ack: Some(AckType::Lkh(Hash::Sha256)), ..g });
    p
}

fn states(b: &Bench) -> Vec<(MemberState, u64)> {
    b.model.group("g").unwrap().member_views().iter().map(|m| (m.state, m.missed)).collect()
}

/// Who stops acknowledging is evicted; who never did is not (RFC 8263 section 6).
#[test]
fn who_falls_silent_is_asked_again_and_then_evicted() {
    let mut b = Bench::with(proven(2));
    for n in 1..=3 {
        b.join(n, Protocol::Gdoi).unwrap();
    }
    b.join(4, Protocol::Gikev2).unwrap();
    use MemberState::{Active, Evicted};
    let address = |n| SocketAddr::from(([10, 0, 0, n], 848));
    assert_eq!(rekey(&mut b, &[1, 2]), [("g".to_owned(), 1, vec![address(3)])]);
    assert_eq!(rekey(&mut b, &[1]), [("g".to_owned(), 2, vec![address(2), address(3)])]);
    assert_eq!(states(&b), [(Active, 0), (Active, 1), (Active, 2), (Active, 0)]);
    // The second miss in a row of one that did answer; one that registers anew meanwhile begins anew.
    assert_eq!(rekey(&mut b, &[1]), [("g".to_owned(), 3, vec![address(3)])], "an evicted one is sent nothing");
    assert_eq!(states(&b), [(Active, 0), (Evicted, 2), (Active, 3), (Active, 0)]);
    let now = b.now();
    assert_eq!(b.model.expire(now), [("g".to_owned(), RekeyReason::Eviction)]);
    let plan = b.rekey(RekeyReason::Eviction, &[]);
    assert!(plan.steps[0].new_rekey.as_ref().unwrap().tree.is_some());
    assert_eq!(b.join(2, Protocol::Gdoi), Err(Refusal::NotAuthorized));
    b.join(1, Protocol::Gdoi).unwrap();
    for _ in 0..3 {
        rekey(&mut b, &[]);
    }
    assert_eq!(states(&b)[0], (Active, 3), "it has not acknowledged anything since it registered");
}

#[test]
fn a_late_acknowledgement_makes_good_a_miss() {
    let mut b = Bench::with(GroupPolicy { evict_after_misses: Some(2), ..policy(8) });
    b.join(1, Protocol::Gdoi).unwrap();
    let plan = b.rekey(RekeyReason::Operator, &[]);
    let (spi, counter) = (plan.steps[0].over.spi, plan.steps[0].counter);
    b.wall += 12;
    let now = b.now();
    b.model.expire(now);
    assert_eq!(b.model.group("g").unwrap().rekey_views()[0].missing, [member(1)]);
    assert!(b.model.acknowledge(Protocol::Gdoi, &spi, counter, &member(1), now));
    let view = b.model.group("g").unwrap().rekey_views().remove(0);
    assert_eq!((view.missing.len(), view.acknowledged, states(&b)[0].1), (0, 1, 0));
}

/// Everybody who has the KEK could have made it, for anybody (RFC 8263 section 7.1).
#[test]
fn an_acknowledgement_by_the_kek_makes_nobody_evictable() {
    let mut b = Bench::with(GroupPolicy { evict_after_misses: Some(1), ..policy(8) });
    b.join(1, Protocol::Gdoi).unwrap();
    rekey(&mut b, &[1]);
    rekey(&mut b, &[]);
    rekey(&mut b, &[]);
    assert_eq!(states(&b), [(MemberState::Active, 2)]);
}

/// A tree of other keys takes every leaf, so nobody can prove anything before it has registered anew.
#[test]
fn who_has_lost_its_leaf_with_the_tree_misses_nothing() {
    let mut b = Bench::with(proven(1));
    for n in 1..=2 {
        b.join(n, Protocol::Gdoi).unwrap();
    }
    rekey(&mut b, &[1, 2]);
    b.policy.gdoi = b.policy.gdoi.take().map(|g| GdoiRekey { cipher: BlockCipher::Aes256Cbc, ..g });
    let now = b.now();
    b.model.change(vec![b.policy.clone()], now, &mut b.rng).unwrap();
    assert!(rekey(&mut b, &[]).is_empty());
    assert!(rekey(&mut b, &[]).is_empty());
    assert_eq!(states(&b), [(MemberState::Active, 0); 2]);
    let views = b.model.group("g").unwrap().rekey_views();
    assert_eq!(views.iter().map(|v| (v.expected, v.missing.len())).collect::<Vec<_>>(), [(2, 0), (0, 0), (0, 0)]);
    // With a leaf it is asked again, and has to answer once before silence counts.
    b.join(1, Protocol::Gdoi).unwrap();
    assert_eq!(rekey(&mut b, &[]).len(), 1);
    assert_eq!(states(&b), [(MemberState::Active, 1), (MemberState::Active, 0)]);
    rekey(&mut b, &[1]);
    rekey(&mut b, &[]);
    assert_eq!(states(&b), [(MemberState::Evicted, 1), (MemberState::Active, 0)]);
}

/// While the key server was down nobody could acknowledge anything.
#[test]
fn an_outage_is_not_counted_as_silence() {
    let mut b = Bench::with(proven(1));
    b.join(1, Protocol::Gdoi).unwrap();
    rekey(&mut b, &[1]);
    let plan = b.rekey(RekeyReason::Operator, &[]);
    b.wall += 600;
    b.crash();
    let now = b.now();
    b.model.expire(now);
    assert_eq!(states(&b), [(MemberState::Active, 0)], "it has its time from now on");
    b.wall += 9;
    let now = b.now();
    assert!(b.model.group("g").unwrap().wake_at(now) > now.wall);
    let step = &plan.steps[0];
    assert!(b.model.acknowledge(Protocol::Gdoi, &step.over.spi, step.counter, &member(1), now));
    b.wall += 1;
    let now = b.now();
    b.model.expire(now);
    assert_eq!(states(&b), [(MemberState::Active, 0)]);
    // Down for a while and silent then: that counts.
    b.rekey(RekeyReason::Operator, &[]);
    b.wall += 600;
    b.crash();
    b.wall += 10;
    let now = b.now();
    b.model.expire(now);
    assert_eq!(states(&b), [(MemberState::Evicted, 1)]);
}

/// A Delete of the KEK brings no traffic keys: who was to be excluded has those there are until others come.
#[test]
fn who_left_is_excluded_after_a_delete_of_the_kek_too() {
    for late in [false, true] {
        let mut b = Bench::new(8);
        for n in 1..=3 {
            b.join(n, Protocol::Gikev2).unwrap();
        }
        let leave = |b: &mut Bench| {
            let now = b.now();
            assert!(b.model.leave(&GroupId::Number(7), &member(1), Protocol::Gikev2, now));
            b.commit();
        };
        if !late {
            leave(&mut b);
        }
        let plan = b.rekey(RekeyReason::DeleteKek, &[]);
        assert!(plan.steps.iter().all(|s| s.new_epoch.is_none()));
        if late {
            b.crash();
            leave(&mut b);
            let now = b.now();
            assert!(!b.model.leave(&GroupId::Number(7), &member(1), Protocol::Gikev2, now), "once");
        }
        b.join(2, Protocol::Gikev2).unwrap();
        b.crash();
        b.wall += 5;
        let now = b.now();
        assert_eq!(b.model.expire(now), [("g".to_owned(), RekeyReason::Eviction)]);
        let plan = b.rekey(RekeyReason::Eviction, &[]);
        assert!(plan.steps[0].new_epoch.is_some());
        let now = b.now();
        assert!(b.model.expire(now).is_empty());
        // Others came: who has not come back has nothing of worth any more.
        assert!(!b.model.leave(&GroupId::Number(7), &member(3), Protocol::Gikev2, now));
    }
}

/// The same of one that is taken from the list, and of a policy that members were to be told.
#[test]
fn a_delete_of_the_kek_takes_the_place_of_no_change_of_the_policy() {
    let listed = |n: &[u8]| Authorization::Listed(n.iter().map(|n| member(*n)).collect());
    for late in [false, true] {
        let mut b = Bench::with(GroupPolicy { authorization: listed(&[1, 2]), ..policy(8) });
        for n in 1..=2 {
            b.join(n, Protocol::Gdoi).unwrap();
        }
        let to = GroupPolicy { authorization: listed(&[2]), ..policy(8) };
        let now = b.now();
        if late {
            b.rekey(RekeyReason::DeleteKek, &[]);
        }
        assert_eq!(b.model.change(vec![to.clone()], now, &mut b.rng).unwrap(), ["g"]);
        b.policy = to;
        if !late {
            b.rekey(RekeyReason::DeleteKek, &[]);
        }
        b.crash();
        assert_eq!(b.model.expire(now), [("g".to_owned(), RekeyReason::Policy)]);
        let before = b.model.group("g").unwrap().epochs.len();
        b.rekey(RekeyReason::Policy, &[]);
        assert_eq!(b.model.group("g").unwrap().epochs.len(), before + 1);
        assert!(b.model.expire(now).is_empty(), "it is done once");
        b.join(2, Protocol::Gdoi).unwrap();
        assert_eq!(b.join(1, Protocol::Gdoi), Err(Refusal::NotAuthorized));
    }
}

/// A Delete of the rekey SA is acknowledged under that SA, by members that are none any more (RFC 8263 sections 4 and 6).
#[test]
fn deletes_are_acknowledged_too() {
    for (reason, delete) in [(RekeyReason::Reset, Deletion::Everything), (RekeyReason::DeleteKek, Deletion::RekeySa)] {
        let mut b = Bench::new(8);
        for n in 1..=2 {
            b.join(n, Protocol::Gdoi).unwrap();
        }
        let plan = b.rekey(reason, &[]);
        let step = &plan.steps[0];
        assert_eq!((&step.delete, step.new_epoch.is_none()), (&delete, true));
        let now = b.now();
        let found = b.model.members_at(Protocol::Gdoi, &step.over.spi, [10, 0, 0, 1].into());
        assert!(found[0].leaf.is_some(), "its leaf still proves what it says");
        assert_eq!(b.model.receivers("g", Protocol::Gdoi, plan.id).len(), 2);
        assert!(b.model.acknowledge(Protocol::Gdoi, &step.over.spi, step.counter, &member(1), now));
        let view = &b.model.group("g").unwrap().rekey_views()[0];
        assert_eq!((view.expected, view.acknowledged, &view.missing[..]), (2, 1, &[member(2)][..]));
        b.wall += 11;
        let now = b.now();
        b.model.expire(now);
        assert!(b.model.rekey_sa(Protocol::Gdoi, &step.over.spi).is_none(), "it is kept for so long, and no longer");
        b.join(1, Protocol::Gdoi).unwrap();
        let plan = b.rekey(RekeyReason::Operator, &[]);
        assert_eq!(b.model.receivers("g", Protocol::Gdoi, plan.id).len(), 1);
    }
}

#[test]
fn deleted_traffic_keys_are_replaced_at_once() {
    let mut b = Bench::new(8);
    b.join(1, Protocol::Gdoi).unwrap();
    let old = b.model.group("g").unwrap().epochs[0].spis();
    let plan = b.rekey(RekeyReason::DeleteTeks, &[]);
    let step = &plan.steps[0];
    assert_eq!(step.delete, Deletion::DataSas);
    assert_eq!((step.activation_delay, step.deactivation_delay), (Duration::ZERO, Duration::ZERO));
    assert_ne!(step.new_epoch.as_ref().unwrap().spis(), old);
    b.wall += 5;
    let now = b.now();
    b.model.expire(now);
    assert_eq!(b.model.group("g").unwrap().epochs.len(), 1, "newcomers are not told of the deleted ones");
}
