//! Certificates with several names, and several certificates of one holder.

use super::*;
use crate::holder::Holder;
use crate::view::MemberView;

fn name(text: &str) -> Identity {
    text.parse().unwrap()
}

/// The holder of a certificate.
fn holder(subject: Option<&str>, names: &[&str], key: &str) -> Holder {
    Holder { subject: subject.map(name), names: names.iter().map(|n| name(n)).collect(), key: key.to_owned() }
}

fn gm1() -> Holder {
    holder(Some("dn:CN=gm1,O=Example"), &["10.0.0.1", "fqdn:gm1.example.net"], "aa")
}

fn register(b: &mut Bench, identity: &str, holder: &Holder, protocol: Protocol) -> Result<Admission, Refusal> {
    let identity = name(identity);
    let address = SocketAddr::from(([10, 0, 0, 1], 848));
    let request =
        JoinRequest { identity: &identity, holder: Some(holder), protocol, address, sender_ids: Some(1), gikev2: None };
    let now = b.now();
    let offered = b.model.offer(&GroupId::Number(7), &identity, Some(holder), protocol, now).map(drop);
    let admission = b.model.admit(&GroupId::Number(7), request, None, now, &mut b.rng);
    b.commit();
    // An offer already says who is out, so that nobody else learns the policy.
    assert_eq!(offered == Err(Refusal::NotAuthorized), matches!(admission, Err(Refusal::NotAuthorized)));
    admission
}

fn view(b: &Bench, identity: &str) -> MemberView {
    let views = b.model.group("g").unwrap().member_views();
    views.into_iter().find(|m| m.identity == name(identity)).unwrap()
}

#[test]
fn who_is_evicted_stays_out_under_every_name_of_its_certificates() {
    let mut b = Bench::new(8);
    register(&mut b, "10.0.0.1", &gm1(), Protocol::Gdoi).unwrap();
    b.rekey(RekeyReason::Eviction, &[member(1)]);
    let renewed = holder(Some("dn:cn=GM1, o=example"), &["fqdn:other.example.net"], "bb");
    let renamed = holder(Some("dn:CN=gm2,O=Example"), &["fqdn:gm2.example.net"], "aa");
    let named = holder(Some("dn:CN=gm3,O=Example"), &["10.0.0.1", "fqdn:gm3.example.net"], "cc");
    let back = [
        ("10.0.0.1", gm1()),
        ("fqdn:gm1.example.net", gm1()),
        ("dn:CN=gm1,O=Example", gm1()),
        ("fqdn:other.example.net", renewed),
        ("fqdn:gm2.example.net", renamed),
        ("fqdn:gm3.example.net", named),
    ];
    for _ in 0..2 {
        for protocol in Protocol::ALL {
            for (identity, holder) in &back {
                let answer = register(&mut b, identity, holder, protocol);
                assert_eq!(answer.unwrap_err(), Refusal::NotAuthorized, "{identity}");
            }
        }
        b.crash();
    }
    // Others are not touched by it.
    let other = holder(Some("dn:CN=gm4,O=Example"), &["fqdn:gm4.example.net"], "dd");
    register(&mut b, "fqdn:gm4.example.net", &other, Protocol::Gdoi).unwrap();
    assert!(b.model.readmit("g", &member(1)));
    for (identity, holder) in &back {
        register(&mut b, identity, holder, Protocol::Gdoi).unwrap();
    }
}

/// Whoever has no subject is known by its other names.
#[test]
fn without_a_subject_the_other_names_tell() {
    let mut b = Bench::new(8);
    register(&mut b, "fqdn:a.example", &holder(None, &["fqdn:a.example", "fqdn:b.example"], "aa"), Protocol::Gdoi)
        .unwrap();
    b.rekey(RekeyReason::Eviction, &[name("fqdn:a.example")]);
    let renewed = holder(None, &["fqdn:b.example", "fqdn:c.example"], "bb");
    assert_eq!(register(&mut b, "fqdn:c.example", &renewed, Protocol::Gdoi).unwrap_err(), Refusal::NotAuthorized);
    let other = holder(None, &["fqdn:d.example"], "cc");
    register(&mut b, "fqdn:d.example", &other, Protocol::Gdoi).unwrap();
}

/// A CA that gives one subject to several would have them all thrown out with one: who was there with a key of its own stays.
#[test]
fn members_that_share_a_subject_stay_when_one_is_evicted() {
    let mut b = Bench::new(8);
    let all = [
        ("10.0.0.1", holder(Some("dn:O=Example"), &["10.0.0.1"], "aa")),
        ("10.0.0.2", holder(Some("dn:O=Example"), &["10.0.0.2"], "bb")),
        ("10.0.0.3", holder(Some("dn:O=Example"), &["10.0.0.3"], "cc")),
    ];
    for (identity, holder) in &all[..2] {
        register(&mut b, identity, holder, Protocol::Gdoi).unwrap();
    }
    b.rekey(RekeyReason::Eviction, &[member(1)]);
    assert_eq!(view(&b, "10.0.0.2").state, MemberState::Active);
    let mut again = |at: usize| register(&mut b, all[at].0, &all[at].1, Protocol::Gdoi).map(drop);
    assert_eq!([again(0), again(1), again(2)], [Err(Refusal::NotAuthorized), Ok(()), Err(Refusal::NotAuthorized)]);
}

#[test]
fn one_certificate_has_one_place_whatever_it_calls_itself() {
    let mut b = Bench::new(8);
    let first = register(&mut b, "10.0.0.1", &gm1(), Protocol::Gdoi).unwrap();
    let second = register(&mut b, "fqdn:gm1.example.net", &gm1(), Protocol::Gdoi).unwrap();
    assert!(first.leaf().unwrap().ct_eq(second.leaf().unwrap().expose()), "the leaf goes along");
    assert_ne!(first.sender_ids, second.sender_ids);
    assert_eq!(
        (view(&b, "10.0.0.1").state, view(&b, "fqdn:gm1.example.net").state),
        (MemberState::Left, MemberState::Active)
    );
    let side = |b: &Bench| b.model.group("g").unwrap().side(Protocol::Gdoi).unwrap().tree.members();
    assert_eq!((b.model.group("g").unwrap().members.count(Protocol::Gdoi), side(&b)), (1, 1));
    b.crash();
    assert_eq!((b.model.group("g").unwrap().members.count(Protocol::Gdoi), side(&b)), (1, 1));
    // The other protocol has a leaf of its own; the former goes with the next change of its rekey SA.
    register(&mut b, "dn:CN=gm1,O=Example", &gm1(), Protocol::Gikev2).unwrap();
    let group = b.model.group("g").unwrap();
    assert_eq!(Protocol::ALL.map(|p| group.members.count(p)), [0, 1]);
    assert_eq!(group.side(Protocol::Gdoi).unwrap().stale.len(), 1);
    // Evicted under a name it no longer goes by, it is out altogether.
    b.rekey(RekeyReason::Eviction, &[member(1)]);
    let group = b.model.group("g").unwrap();
    assert_eq!(Protocol::ALL.map(|p| (group.members.count(p), group.side(p).unwrap().tree.members())), [(0, 0); 2]);
    assert_eq!(view(&b, "dn:CN=gm1,O=Example").state, MemberState::Evicted);
    assert!(b.model.readmit("g", &name("10.0.0.1")));
    register(&mut b, "dn:CN=gm1,O=Example", &gm1(), Protocol::Gikev2).unwrap();
}

#[test]
fn a_full_group_lets_a_member_take_another_name() {
    let mut b = Bench::new(8);
    for n in 2..=8 {
        b.join(n, Protocol::Gdoi).unwrap();
    }
    register(&mut b, "10.0.0.1", &gm1(), Protocol::Gdoi).unwrap();
    assert_eq!(b.join(9, Protocol::Gdoi), Err(Refusal::Full));
    register(&mut b, "fqdn:gm1.example.net", &gm1(), Protocol::Gdoi).unwrap();
    assert_eq!(b.join(9, Protocol::Gdoi), Err(Refusal::Full));
}

/// Who lists both names wants both places; an eviction is of the key all the same.
#[test]
fn names_that_the_group_lists_are_places_of_their_own() {
    let mut policy = policy(8);
    policy.authorization = Authorization::Listed(vec![member(1), name("fqdn:gm1.example.net")]);
    let mut b = Bench::with(policy);
    register(&mut b, "10.0.0.1", &gm1(), Protocol::Gdoi).unwrap();
    register(&mut b, "fqdn:gm1.example.net", &gm1(), Protocol::Gdoi).unwrap();
    assert_eq!(b.model.group("g").unwrap().members.count(Protocol::Gdoi), 2);
    b.rekey(RekeyReason::Eviction, &[member(1)]);
    assert_eq!(b.model.group("g").unwrap().members.count(Protocol::Gdoi), 0);
}

#[test]
fn registrations_under_several_names_count_together() {
    let mut b = Bench::new(16);
    let names = ["10.0.0.1", "fqdn:gm1.example.net", "dn:CN=gm1,O=Example"];
    let answers: Vec<_> = (0..9).map(|n| register(&mut b, names[n % 3], &gm1(), Protocol::Gdoi).map(drop)).collect();
    assert!(answers[..8].iter().all(Result::is_ok));
    assert_eq!(answers[8], Err(Refusal::TooOften));
}

/// Records of members from before holders were kept.
#[test]
fn stored_members_without_holders_load() {
    let mut b = Bench::new(8);
    b.join(1, Protocol::Gdoi).unwrap();
    let record = b.store.get_mut("group/g/member/10.0.0.1").unwrap();
    let mut json: serde_json::Value = serde_json::from_slice(record.expose()).unwrap();
    assert!(json.as_object_mut().unwrap().remove("holder").is_some());
    *record = Secret::new(serde_json::to_vec(&json).unwrap());
    b.crash();
    assert_eq!(view(&b, "10.0.0.1").holder, None);
    register(&mut b, "10.0.0.1", &gm1(), Protocol::Gdoi).unwrap();
    b.crash();
    assert_eq!(view(&b, "10.0.0.1").holder, Some(gm1()));
}
