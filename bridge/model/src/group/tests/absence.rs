//! Groups and protocols that go and come back, by a restart or while the gateway runs.

use super::change::running;
use super::*;

/// Goes on with these groups, by a restart or without one, and plans what is due then.
fn turn(b: &mut Bench, to: &GroupPolicy, restart: bool) {
    b.policy = to.clone();
    let now = b.now();
    if restart {
        b.crash();
    } else {
        b.model.change(vec![to.clone()], now, &mut b.rng).unwrap();
    }
    b.commit();
    for (_, reason) in b.model.expire(now) {
        b.rekey(reason, &[]);
    }
}

/// Members of a time before have no leaves in the new tree, so that who takes those is not taken for them.
#[test]
fn a_protocol_that_goes_and_comes_back_has_no_members_of_before() {
    for (off, on) in [(false, false), (false, true), (true, false), (true, true)] {
        let mut b = running();
        turn(&mut b, &GroupPolicy { gdoi: None, ..policy(8) }, off);
        assert_eq!(b.model.group("g").unwrap().active(Protocol::Gdoi).count(), 0, "{off} {on}");
        turn(&mut b, &policy(8), on);
        assert_eq!(b.model.group("g").unwrap().active(Protocol::Gdoi).count(), 0, "{off} {on}");
        b.join(5, Protocol::Gdoi).unwrap();
        b.join(6, Protocol::Gdoi).unwrap();
        b.rekey(RekeyReason::Eviction, &[member(1)]);
        for _ in 0..2 {
            let group = b.model.group("g").unwrap();
            let side = group.side(Protocol::Gdoi).unwrap();
            assert_eq!(side.tree.members(), 2, "{off} {on}");
            assert!(group.active(Protocol::Gdoi).all(|m| side.leaf_key(m).is_some()), "{off} {on}");
            b.crash();
        }
        assert_eq!(b.join(1, Protocol::Gdoi), Err(Refusal::NotAuthorized));
    }
}

/// A side that a rekey starts has no members, whoever is taken for one.
#[test]
fn a_side_that_starts_dismisses_who_was_there_before() {
    let (now, mut rng) = (Bench::new(8).now(), SeededRandom::new(5));
    let mut group = super::super::Group::create(Arc::new(policy(8)), now, &mut rng);
    for (n, protocol) in [(1, Protocol::Gdoi), (2, Protocol::Gikev2)] {
        let address = SocketAddr::from(([10, 0, 0, n], 848));
        let request =
            JoinRequest { identity: &member(n), holder: None, protocol, address, sender_ids: None, gikev2: None };
        group.admit(request, None, now, &mut rng).unwrap();
    }
    group.sides.remove(&Protocol::Gdoi);
    group.align_sides(now, &mut rng);
    assert!(group.sides.contains_key(&Protocol::Gdoi));
    assert_eq!(Protocol::ALL.map(|p| group.active(p).count()), [0, 1]);
}

/// A run without the group.
fn start_without(b: &mut Bench) {
    let now = b.now();
    b.model = Model::load(Vec::new(), &b.store, now, &mut b.rng).unwrap();
    b.commit();
    assert!(b.model.group("g").is_none());
}

/// The group is as it was before and after another restart: nothing is given twice, and the evicted stay out.
fn goes_on(b: &mut Bench, first_id: u32) {
    for n in 0..2 {
        for protocol in Protocol::ALL {
            assert_eq!(b.join(3, protocol), Err(Refusal::NotAuthorized));
        }
        let free = u8::try_from(5 + n).unwrap();
        assert_eq!(b.join(free, Protocol::Gdoi), Ok(vec![first_id + n]));
        let group = b.model.group("g").unwrap();
        let side = group.side(Protocol::Gdoi).unwrap();
        assert_eq!(side.tree.members(), group.active(Protocol::Gdoi).count());
        assert!(group.active(Protocol::Gdoi).all(|m| side.leaf_key(m).is_some()));
        b.crash();
    }
    b.rekey(RekeyReason::Eviction, &[member(5)]);
    b.crash();
    let group = b.model.group("g").unwrap();
    assert!(group.active(Protocol::Gdoi).any(|m| m.identity == member(6)));
    assert!(group.rekey_views().iter().all(|r| r.acknowledged == 0), "nobody acknowledged anything");
}

#[test]
fn a_group_taken_out_between_two_runs_comes_back_by_reload_as_it_was() {
    for capacity in [8, 7] {
        let mut b = running();
        b.rekey(RekeyReason::Eviction, &[member(3)]);
        let spis = b.model.group("g").unwrap().epochs.last().unwrap().spis();
        start_without(&mut b);
        turn(&mut b, &GroupPolicy { capacity, ..policy(8) }, false);
        let group = b.model.group("g").unwrap();
        assert_eq!(group.epochs.last().unwrap().spis(), spis);
        assert_eq!(group.active(Protocol::Gdoi).count(), 2);
        goes_on(&mut b, 4);
    }
}

#[test]
fn a_group_taken_out_and_put_back_by_two_reloads_goes_on() {
    for (restart, lifetime) in [(false, 3600), (false, 1800), (true, 3600), (true, 1800)] {
        let mut b = running();
        b.rekey(RekeyReason::Eviction, &[member(3)]);
        let last = b.rekey(RekeyReason::Reset, &[]).id;
        b.model.remove("g");
        b.commit();
        assert!(b.model.group("g").is_none());
        assert_eq!(b.join(1, Protocol::Gdoi), Err(Refusal::UnknownGroup));
        if restart {
            start_without(&mut b);
        }
        turn(&mut b, &GroupPolicy { tek_lifetime: Duration::from_secs(lifetime), ..policy(8) }, false);
        let group = b.model.group("g").unwrap();
        assert!(group.epochs.last().unwrap().number > 2 && group.next_rekey > last);
        assert_eq!(Protocol::ALL.map(|p| group.active(p).count()), [0, 0]);
        goes_on(&mut b, 0);
    }
}

/// What cannot be read is not begun anew: who was evicted would be welcome again.
#[test]
fn a_group_whose_records_cannot_be_read_does_not_come_back() {
    let mut b = running();
    start_without(&mut b);
    b.store.insert("group/g/sender-ids".into(), Secret::new(b"{}".to_vec()));
    start_without(&mut b);
    let now = b.now();
    let error = b.model.change(vec![policy(8)], now, &mut b.rng).unwrap_err();
    assert_eq!(error.key, "group/g/sender-ids");
    assert!(b.model.group("g").is_none() && b.model.take_store_ops().is_empty());
}
