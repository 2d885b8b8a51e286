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
        b.model.change(vec![to.clone()], now, &mut b.rng);
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
        let request = JoinRequest { identity: &member(n), protocol, address, sender_ids: None };
        group.admit(request, None, now, &mut rng).unwrap();
    }
    group.sides.remove(&Protocol::Gdoi);
    group.align_sides(now, &mut rng);
    assert!(group.sides.contains_key(&Protocol::Gdoi));
    assert_eq!(Protocol::ALL.map(|p| group.active(p).count()), [0, 1]);
}
