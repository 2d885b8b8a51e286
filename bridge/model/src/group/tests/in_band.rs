//! Members that are rekeyed in band, and what members of G-IKEv2 say of themselves.

use super::*;
use crate::admission::Gikev2Join;
use crate::capabilities::Capabilities;
use crate::plan::InBandTo;

fn bench(in_band: InBand, ack: bool) -> Bench {
    let mut policy = policy(8);
    policy.gdoi = None;
    policy.gikev2.as_mut().unwrap().options = Gikev2Options { in_band, ack, ..Gikev2Options::default() };
    Bench::with(policy)
}

fn join(b: &mut Bench, n: u8, sender: bool, asked: &Gikev2Join) -> Result<Admission, Refusal> {
    let identity = member(n);
    let address = SocketAddr::from(([10, 0, 0, n], 848));
    let request = JoinRequest {
        identity: &identity,
        holder: None,
        protocol: Protocol::Gikev2,
        address,
        sender_ids: sender.then_some(1),
        gikev2: Some(asked),
    };
    let now = b.now();
    let admission = b.model.admit(&GroupId::Number(7), request, None, now, &mut b.rng);
    b.commit();
    admission
}

fn state(b: &Bench, n: u8) -> MemberState {
    let views = b.model.group("g").unwrap().member_views();
    views.into_iter().find(|m| m.identity == member(n)).unwrap().state
}

/// GSA_INBAND_REKEY names no group (reading 32).
#[test]
fn an_ike_sa_that_carries_others_is_not_for_rekeys_in_band() {
    let shared = Gikev2Join { shared: true, ..Gikev2Join::default() };
    let mut b = bench(InBand::Everybody, false);
    assert_eq!(join(&mut b, 1, true, &shared).unwrap_err(), Refusal::SharedIkeSa);
    let mut b = bench(InBand::Senders, false);
    let admission = join(&mut b, 1, true, &shared).unwrap();
    assert!(!admission.in_band && !admission.path.is_empty(), "it follows GSA_REKEY as others do");
    assert!(join(&mut b, 2, true, &Gikev2Join::default()).unwrap().in_band);
}

#[test]
fn members_in_band_have_no_leaf_and_excluding_them_changes_no_rekey_sa() {
    let mut b = bench(InBand::Senders, false);
    let own = Gikev2Join::default();
    let admission = join(&mut b, 1, true, &own).unwrap();
    assert!(admission.in_band && admission.path.is_empty());
    let plan = b.rekey(RekeyReason::Operator, &[]);
    assert!(plan.steps.is_empty(), "nobody listens to GSA_REKEY");
    let to = InBandTo { identity: member(1), registration: 1 };
    let step = plan.in_band.as_ref().unwrap();
    assert_eq!((step.members.as_slice(), step.excluded.len()), (&[to.clone()][..], 0));
    assert!(step.epoch.is_some() && matches!(&step.delete, Deletion::Spis(spis) if spis.len() == 1));
    // An answer counts once, and only over the registration that it belongs to.
    let now = b.now();
    assert!(!b.model.acknowledge_in_band("g", plan.id, &InBandTo { registration: 2, ..to.clone() }, now));
    assert!(b.model.acknowledge_in_band("g", plan.id, &to, now));
    assert!(!b.model.acknowledge_in_band("g", plan.id, &to, now));
    join(&mut b, 2, false, &own).unwrap();
    let plan = b.rekey(RekeyReason::Eviction, &[member(1)]);
    let step = plan.in_band.as_ref().unwrap();
    assert_eq!((step.members.len(), step.excluded.as_slice()), (0, &[to][..]));
    assert!(plan.steps.len() == 1 && plan.steps[0].new_rekey.is_none());
    assert_eq!(join(&mut b, 1, true, &own).unwrap_err(), Refusal::NotAuthorized);
}

#[test]
fn who_loses_its_ike_sa_is_a_member_no_more() {
    let mut b = bench(InBand::Everybody, false);
    let own = Gikev2Join::default();
    join(&mut b, 1, false, &own).unwrap();
    let first = InBandTo { identity: member(1), registration: 1 };
    join(&mut b, 1, false, &own).unwrap();
    let now = b.now();
    assert!(!b.model.lose("g", &first, now), "it has another by now");
    assert_eq!(state(&b, 1), MemberState::Active);
    assert!(b.model.lose("g", &InBandTo { registration: 2, ..first }, now));
    assert_eq!(state(&b, 1), MemberState::Left);
    // No IKE SA outlives the process.
    join(&mut b, 1, false, &own).unwrap();
    join(&mut b, 2, false, &own).unwrap();
    b.crash();
    assert_eq!([state(&b, 1), state(&b, 2)], [MemberState::Left; 2]);
    assert!(b.rekey(RekeyReason::Operator, &[]).in_band.is_none());
}

#[test]
fn acknowledgements_of_gsa_rekey_are_awaited_of_who_gives_them() {
    let mut b = bench(InBand::Senders, true);
    let acks = Gikev2Join { acks: true, ..Gikev2Join::default() };
    join(&mut b, 1, false, &acks).unwrap();
    join(&mut b, 2, false, &Gikev2Join::default()).unwrap();
    join(&mut b, 3, true, &Gikev2Join::default()).unwrap();
    let plan = b.rekey(RekeyReason::Operator, &[]);
    let views = b.model.group("g").unwrap().rekey_views();
    assert_eq!((views[0].expected, views[0].missing.as_slice()), (2, &[member(1), member(3)][..]));
    let step = &plan.steps[0];
    let now = b.now();
    for n in 1..=2 {
        let of = |b: &Bench| b.model.awaits_ack(Protocol::Gikev2, &step.over.spi, step.counter, &member(n));
        assert_eq!(of(&b), n == 1);
        assert_eq!(b.model.acknowledge(Protocol::Gikev2, &step.over.spi, step.counter, &member(n), now), n == 1);
        assert!(!of(&b));
    }
    let at = b.model.members_at(Protocol::Gikev2, &step.over.spi, [10, 0, 0, 1].into());
    assert!(at.len() == 1 && at[0].leaf.is_some() && at[0].leaf_id.is_some());
}

/// What all can do is known when all have said so, and is forgotten by nobody but a member that says less.
#[test]
fn the_day_when_all_can_do_better_is_seen() {
    let mut b = bench(InBand::Nobody, false);
    let gcm = |aead| EspTransform::Aead(aead);
    let old = Capabilities { traffic: vec![gcm(Aead::Aes128Gcm16)], signed: true, ..Capabilities::default() };
    let new = Capabilities { traffic: vec![gcm(Aead::Aes128Gcm16), gcm(Aead::Aes256Gcm16)], ..old.clone() };
    let says = |c: &Capabilities| Gikev2Join { capabilities: Some(c.clone()), ..Gikev2Join::default() };
    let common = |b: &Bench| b.model.group("g").unwrap().view(b.now()).common;
    assert_eq!(common(&b), None);
    join(&mut b, 1, false, &says(&new)).unwrap();
    join(&mut b, 2, false, &says(&old)).unwrap();
    assert_eq!(common(&b), Some(old));
    b.crash();
    join(&mut b, 2, false, &says(&new)).unwrap();
    assert_eq!(common(&b), Some(new));
    join(&mut b, 3, false, &Gikev2Join::default()).unwrap();
    assert_eq!(common(&b), None, "one has not said");
}
