//! Policies that change, while the group runs and between two runs.

use super::*;
use crate::plan::{RekeyPlan, RekeyStep};

fn line(last: u8, transform: EspTransform) -> Arc<TrafficPolicy> {
    let base = policy(8);
    let destination = Selector { address: [239, 192, 0, last].into(), ..base.traffic[0].destination };
    Arc::new(TrafficPolicy { destination, transform, ..(*base.traffic[0]).clone() })
}

const GCM: EspTransform = EspTransform::Aead(Aead::Aes128Gcm16);

/// Goes on under another policy, by a restart or without one, and plans what is due then, and why.
fn change(b: &mut Bench, to: &GroupPolicy, restart: bool) -> Option<(RekeyReason, Arc<RekeyPlan>)> {
    b.policy = to.clone();
    let now = b.now();
    if restart {
        b.crash();
    } else {
        b.model.change(vec![to.clone()], now, &mut b.rng).unwrap();
    }
    b.commit();
    let due = b.model.expire(now);
    let (_, reason) = due.first()?;
    let reason = *reason;
    assert_eq!(b.join(9, Protocol::Gdoi), Err(Refusal::Stale), "nobody is told the new policy with the old keys");
    let plan = b.rekey(reason, &[]);
    let now = b.now();
    assert!(b.model.expire(now).is_empty(), "it is told once");
    Some((reason, plan))
}

fn of(plan: &RekeyPlan, protocol: Protocol) -> Vec<&RekeyStep> {
    plan.steps.iter().map(|s| &**s).filter(|s| s.protocol == protocol).collect()
}

pub(super) fn running() -> Bench {
    let mut b = Bench::new(8);
    for n in 1..=3 {
        b.join(n, Protocol::Gdoi).unwrap();
    }
    b.join(4, Protocol::Gikev2).unwrap();
    b
}

#[test]
fn lines_that_change_come_with_a_new_epoch_and_old_ones_go_after_the_delay() {
    for restart in [false, true] {
        let mut b = running();
        let lines = vec![line(1, EspTransform::Aead(Aead::Aes256Gcm16)), line(2, GCM)];
        let to = GroupPolicy { traffic: lines.clone(), tek_lifetime: Duration::from_secs(1800), ..policy(8) };
        let old = b.model.group("g").unwrap().epochs[0].spis();
        let (reason, plan) = change(&mut b, &to, restart).unwrap();
        assert_eq!(reason, RekeyReason::Policy);
        for protocol in Protocol::ALL {
            let [step] = of(&plan, protocol)[..] else { panic!("one message each") };
            assert!(step.new_rekey.is_none());
            assert_eq!(step.delete, Deletion::Spis(old.clone()));
            let epoch = step.new_epoch.as_ref().unwrap();
            assert!(epoch.sas.iter().map(|sa| &*sa.policy).eq(lines.iter().map(|l| &**l)));
            assert_eq!(epoch.expires - epoch.activates, to.tek_lifetime);
        }
        // Both epochs are told, each with its own lines, also after a restart.
        b.crash();
        let offer = b.model.offer(&GroupId::Number(7), &member(9), None, Protocol::Gdoi, b.now()).unwrap();
        let told: Vec<usize> = offer.epochs.iter().map(|e| e.sas.len()).collect();
        assert_eq!(told, [1, 2]);
        assert_eq!(offer.epochs[0].sas[0].policy, policy(8).traffic[0]);
        assert_eq!(offer.epochs[0].spis(), old);
        b.wall += 30;
        let now = b.now();
        b.model.expire(now);
        assert_eq!(b.model.group("g").unwrap().epochs.len(), 1);
    }
}

/// What a new policy replaces lives on for the deactivation delay, counted from the last copy, and no longer than it would have:
/// for members, for whoever registers meanwhile, and after a restart.
#[test]
fn a_new_policy_shortens_the_life_of_what_it_replaces() {
    for (passed, left) in [(0, 24), (3000, 24), (3590, 10)] {
        for restart in [false, true] {
            let mut b = running();
            b.wall += passed;
            let to = GroupPolicy { traffic: vec![line(2, GCM)], ..policy(8) };
            let (_, plan) = change(&mut b, &to, restart).unwrap();
            let told = plan.steps.iter().all(|s| s.deactivation_delay == to.deactivation_delay);
            assert!(told && plan.steps.len() == 2, "{passed}");
            let lives = |b: &Bench| {
                let offer = b.model.offer(&GroupId::Number(7), &member(9), None, Protocol::Gdoi, b.now()).unwrap();
                offer.epochs.iter().map(|e| e.remaining(b.now().wall).as_secs()).collect::<Vec<_>>()
            };
            assert_eq!(lives(&b)[0], left);
            b.crash();
            b.wall += left - 1;
            assert_eq!(lives(&b)[0], 1);
            b.wall += 1;
            let now = b.now();
            b.model.expire(now);
            assert_eq!(lives(&b).len(), 1);
        }
    }
}

#[test]
fn what_members_need_not_know_is_changed_without_a_rekey() {
    for restart in [false, true] {
        let mut b = running();
        let to = GroupPolicy {
            ids: vec![GroupId::Number(7), GroupId::Number(8)],
            capacity: 4,
            rekey_margin: Duration::from_secs(400),
            retransmit: Retransmit { copies: 0, interval: Duration::from_secs(1) },
            ..policy(8)
        };
        assert!(change(&mut b, &to, restart).is_none());
        assert_eq!(b.join(8, Protocol::Gdoi).map(|ids| ids.len()), Ok(1));
        assert_eq!(b.join(9, Protocol::Gdoi), Err(Refusal::Full));
        let now = b.now();
        assert!(b.model.offer(&GroupId::Number(8), &member(9), None, Protocol::Gikev2, now).is_ok());
    }
}

/// The message that brings a KEK of another cipher, signed by another key, is protected and signed as members know it.
#[test]
fn a_new_kek_algorithm_and_signing_key_are_told_under_the_old_ones() {
    for restart in [false, true] {
        let mut b = running();
        let mut to = policy(8);
        let key = Arc::new(SigningKey::generate_rsa(2048).unwrap());
        to.gdoi = to.gdoi.map(|g| GdoiRekey { cipher: BlockCipher::Aes256Cbc, signer: Arc::clone(&key), ..g });
        let (reason, plan) = change(&mut b, &to, restart).unwrap();
        assert_eq!(reason, RekeyReason::Policy);
        let [step] = of(&plan, Protocol::Gdoi)[..] else { panic!("one message") };
        let old = step.policy.gdoi.as_ref().unwrap();
        assert_eq!(old.cipher, BlockCipher::Aes128Cbc);
        assert_eq!(old.signer.public_spki(), signer().public_spki());
        assert_eq!(step.over.keymat.len(), 32);
        let new = step.new_rekey.as_ref().unwrap();
        assert_eq!((new.sa.keymat.len(), new.tree.is_none()), (48, true));
        assert!(of(&plan, Protocol::Gikev2).iter().all(|s| s.new_rekey.is_none()));
        b.crash();
        // Keys of the old tree do not fit. Until members have registered anew, an eviction excludes those without a leaf.
        b.join(2, Protocol::Gdoi).unwrap();
        let plan = b.rekey(RekeyReason::Eviction, &[member(3)]);
        let steps = of(&plan, Protocol::Gdoi);
        assert_eq!(steps[0].policy.gdoi.as_ref().unwrap().signer.public_spki(), key.public_spki());
        let tree = steps[0].new_rekey.as_ref().unwrap().tree.as_ref().unwrap();
        assert_eq!(tree.tops.iter().map(|t| t.key.len()).collect::<Vec<_>>(), [48]);
    }
}

/// Somebody who moved has the old KEK still. With a tree that is given up it must not be forgotten that he is to be excluded.
#[test]
fn a_new_kek_algorithm_is_not_told_to_who_should_be_excluded() {
    for restart in [false, true] {
        let mut b = running();
        b.join(2, Protocol::Gikev2).unwrap();
        let mut to = policy(8);
        to.gdoi = to.gdoi.map(|g| GdoiRekey { cipher: BlockCipher::Aes256Cbc, ..g });
        let (_, plan) = change(&mut b, &to, restart).unwrap();
        let [step] = of(&plan, Protocol::Gdoi)[..] else { panic!("one message") };
        assert_eq!(step.delete, Deletion::Everything);
        let plan = b.rekey(RekeyReason::Eviction, &[member(2)]);
        assert!(of(&plan, Protocol::Gikev2)[0].new_rekey.as_ref().unwrap().tree.is_some());
    }
}

#[test]
fn a_kek_lifetime_is_told_with_a_new_kek() {
    let mut b = running();
    let to = GroupPolicy { kek_lifetime: Duration::from_secs(7200), ..policy(8) };
    let (_, plan) = change(&mut b, &to, true).unwrap();
    for step in &plan.steps {
        let new = step.new_rekey.as_ref().unwrap();
        assert_eq!(new.sa.expires - new.sa.created, to.kek_lifetime);
    }
}

/// G-IKEv2 tells at registrations alone how rekeys are authenticated.
#[test]
fn another_authentication_of_rekeys_makes_gikev2_members_register_anew() {
    for restart in [false, true] {
        let mut b = running();
        let mut to = policy(8);
        let authentication = RekeyAuthentication::Signature(signer(), SignatureAlgorithm::RsaPkcs1(Hash::Sha256));
        to.gikev2 = to.gikev2.map(|g| Gikev2Rekey { authentication, ..g });
        let (_, plan) = change(&mut b, &to, restart).unwrap();
        let [step] = of(&plan, Protocol::Gikev2)[..] else { panic!("one message") };
        assert_eq!(step.delete, Deletion::Everything);
        assert!(matches!(step.policy.gikev2.as_ref().unwrap().authentication, RekeyAuthentication::Implicit));
        assert!(of(&plan, Protocol::Gdoi)[0].new_rekey.is_none());
        let views = b.model.group("g").unwrap().member_views();
        let left = views.iter().filter(|m| m.state == MemberState::Left).map(|m| m.identity.clone());
        assert_eq!(left.collect::<Vec<_>>(), [member(4)]);
        b.join(4, Protocol::Gikev2).unwrap();
    }
}

/// Another key of the same kind is told in a rekey, which the old one signs.
#[test]
fn another_signing_key_is_told_under_the_old_one() {
    for restart in [false, true] {
        let mut b = running();
        let mut to = policy(8);
        let old = RekeyAuthentication::Signature(signer(), SignatureAlgorithm::RsaPkcs1(Hash::Sha256));
        to.gikev2 = to.gikev2.map(|g| Gikev2Rekey { authentication: old, ..g });
        change(&mut b, &to, false).unwrap();
        b.join(4, Protocol::Gikev2).unwrap();
        let fresh = Arc::new(SigningKey::generate_rsa(2048).unwrap());
        let authentication =
            RekeyAuthentication::Signature(Arc::clone(&fresh), SignatureAlgorithm::RsaPkcs1(Hash::Sha256));
        to.gikev2 = to.gikev2.map(|g| Gikev2Rekey { authentication, ..g });
        let (_, plan) = change(&mut b, &to, restart).unwrap();
        let [step] = of(&plan, Protocol::Gikev2)[..] else { panic!("one message") };
        let key = |p: &GroupPolicy| match &p.gikev2.as_ref().unwrap().authentication {
            RekeyAuthentication::Signature(key, _) => key.public_spki(),
            RekeyAuthentication::Implicit => panic!("signed"),
        };
        assert_eq!(key(&step.policy), signer().public_spki());
        assert_eq!(key(&plan.policy), fresh.public_spki());
        assert!(step.new_rekey.is_some() && step.new_epoch.is_some());
        let plan = b.rekey(RekeyReason::Operator, &[]);
        assert_eq!(key(&of(&plan, Protocol::Gikev2)[0].policy), fresh.public_spki());
    }
}

#[test]
fn a_protocol_comes_and_goes_while_the_group_runs() {
    let mut b = running();
    let without = GroupPolicy { gdoi: None, ..policy(8) };
    let (_, plan) = change_without_joining(&mut b, &without);
    let [step] = of(&plan, Protocol::Gdoi)[..] else { panic!("one message") };
    assert_eq!(step.delete, Deletion::Everything);
    assert_eq!(b.join(1, Protocol::Gdoi), Err(Refusal::ProtocolNotServed));
    assert!(!b.store.keys().any(|k| k.contains("tree/gdoi")), "no key of the tree stays behind");
    b.crash();
    let (_, plan) = change_without_joining(&mut b, &policy(8));
    assert!(of(&plan, Protocol::Gdoi).is_empty());
    b.join(1, Protocol::Gdoi).unwrap();
    b.crash();
    b.join(2, Protocol::Gdoi).unwrap();
}

fn change_without_joining(b: &mut Bench, to: &GroupPolicy) -> (RekeyReason, Arc<RekeyPlan>) {
    b.policy = to.clone();
    let now = b.now();
    b.model.change(vec![to.clone()], now, &mut b.rng).unwrap();
    let (_, reason) = b.model.expire(now)[0];
    (reason, b.rekey(reason, &[]))
}

/// An ID of another width is not unique among those there are.
#[test]
fn another_width_of_sender_ids_resets_the_group() {
    for restart in [false, true] {
        let mut b = running();
        let (reason, plan) = change(&mut b, &policy(12), restart).unwrap();
        assert_eq!(reason, RekeyReason::Reset);
        assert!(plan.steps.iter().all(|s| s.delete == Deletion::Everything));
        assert_eq!(b.join(1, Protocol::Gdoi), Ok(vec![0]));
    }
}

/// Rekeys of G-IKEv2 can say that SAs are of transport mode, and nothing of tunnel mode.
#[test]
fn members_who_cannot_be_told_of_tunnel_mode_register_anew() {
    let of_mode = |mode| {
        let lines = policy(8).traffic.iter().map(|line| Arc::new(TrafficPolicy { mode, ..(**line).clone() })).collect();
        GroupPolicy { traffic: lines, ..policy(8) }
    };
    for restart in [false, true] {
        let mut b = running();
        let (reason, _) = change(&mut b, &of_mode(EspMode::Transport), restart).unwrap();
        assert_eq!(reason, RekeyReason::Policy, "a rekey says so");
        let (reason, plan) = change(&mut b, &of_mode(EspMode::Tunnel), restart).unwrap();
        assert_eq!(reason, RekeyReason::Reset);
        assert!(plan.steps.iter().all(|s| s.delete == Deletion::Everything));
        // Pushes of GDOI have the mode with each SA.
        let gdoi = |mode| GroupPolicy { gikev2: None, ..of_mode(mode) };
        change(&mut b, &gdoi(EspMode::Transport), restart).unwrap();
        let (reason, _) = change(&mut b, &gdoi(EspMode::Tunnel), restart).unwrap();
        assert_eq!(reason, RekeyReason::Policy);
    }
}

/// The width that is told is the width by which IDs are given, also where there is nobody to be told of the change.
#[test]
fn another_width_of_sender_ids_resets_a_group_without_members() {
    for (restart, dismissed) in [(false, false), (true, false), (false, true), (true, true)] {
        let mut b = Bench::new(16);
        if dismissed {
            for n in 1..=3 {
                b.join(n, Protocol::Gdoi).unwrap();
            }
            b.rekey(RekeyReason::DeleteKek, &[]);
            assert_eq!(b.model.group("g").unwrap().active(Protocol::Gdoi).count(), 0);
        }
        let before = b.model.group("g").unwrap().epochs[0].spis();
        let (reason, plan) = change(&mut b, &policy(8), restart).unwrap();
        assert_eq!(reason, RekeyReason::Reset);
        assert!(plan.steps.is_empty(), "there is nobody to be told");
        let group = b.model.group("g").unwrap();
        assert_eq!(group.sender_ids.bits(), 8);
        assert!(group.epochs.len() == 1 && group.epochs[0].spis() != before);
        assert_eq!(b.join(1, Protocol::Gdoi), Ok(vec![0]));
        b.crash();
        assert_eq!(b.join(2, Protocol::Gikev2), Ok(vec![1]));
    }
}

/// IDs of one width are never given to who is told another.
#[test]
fn sender_ids_of_another_width_are_not_given() {
    let mut b = Bench::new(8);
    let now = b.now();
    let mut group = super::super::Group::create(Arc::new(policy(16)), now, &mut b.rng);
    group.policy = Arc::new(policy(8));
    let identity = member(1);
    let address = SocketAddr::from(([10, 0, 0, 1], 848));
    let mut admit = |group: &mut super::super::Group, sender_ids| {
        let request = JoinRequest {
            identity: &identity,
            holder: None,
            protocol: Protocol::Gdoi,
            address,
            sender_ids,
            gikev2: None,
        };
        group.admit(request, None, now, &mut b.rng).map(|a| a.sender_ids)
    };
    assert_eq!(admit(&mut group, Some(1)), Err(Refusal::Stale));
    assert_eq!(group.sender_ids.next(), 0, "nothing is taken");
    assert_eq!(admit(&mut group, None), Ok(Vec::new()), "receivers have none");
}

#[test]
fn who_may_not_join_any_more_is_excluded_and_may_come_back_when_listed() {
    let mut b = running();
    let listed = |list: &[u8]| GroupPolicy {
        authorization: Authorization::Listed(list.iter().map(|n| member(*n)).collect()),
        ..policy(8)
    };
    let (reason, plan) = change_without_joining(&mut b, &listed(&[1, 2, 4]));
    assert_eq!(reason, RekeyReason::Policy);
    assert!(of(&plan, Protocol::Gdoi)[0].new_rekey.as_ref().unwrap().tree.is_some());
    assert_eq!(b.join(3, Protocol::Gdoi), Err(Refusal::NotAuthorized));
    let now = b.now();
    assert!(b.model.change(vec![listed(&[1, 2, 3, 4])], now, &mut b.rng).unwrap().is_empty());
    b.join(3, Protocol::Gdoi).unwrap();
}
