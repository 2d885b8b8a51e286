//! Groups with IEC 61850 streams.

use super::*;

/// A group for GDOI alone, with one line of traffic or none, and two streams.
fn substation(traffic: bool) -> GroupPolicy {
    let stream = |n: u8, authentication, encryption| {
        Arc::new(StreamPolicy {
            name: format!("1.2.840.10070.61850.8.1.2#0404efc000{n:02x}").parse().unwrap(),
            protection: StreamProtection::new(authentication, encryption).unwrap(),
            many_senders: false,
            delivery_assurance: n == 1,
        })
    };
    let mut group = GroupPolicy { gikev2: None, activation_delay: Duration::from_secs(30), ..policy(8) };
    group.deactivation_delay = Duration::from_secs(60);
    if !traffic {
        group.traffic.clear();
    }
    group.streams = vec![
        stream(1, StreamAuthentication::HmacSha256_128, StreamEncryption::AesCbc128),
        stream(2, StreamAuthentication::None, StreamEncryption::AesGcm256),
    ];
    group
}

#[test]
fn streams_have_keys_of_their_own_in_each_epoch_and_keep_them() {
    let mut b = Bench::with(substation(true));
    b.join(1, Protocol::Gdoi).unwrap();
    let keys = |b: &Bench| {
        let epoch = &b.model.group("g").unwrap().epochs[0];
        epoch.streams.iter().map(|sa| (sa.spi, sa.keymat.expose().to_vec())).collect::<Vec<_>>()
    };
    let before = keys(&b);
    assert_eq!(before.iter().map(|(_, k)| k.len()).collect::<Vec<_>>(), [48, 36]);
    b.crash();
    assert_eq!(keys(&b), before);

    let plan = b.rekey(RekeyReason::Operator, &[]);
    let step = &plan.steps[0];
    assert_eq!(step.streams.delete, before.iter().map(|(spi, _)| *spi).collect::<Vec<_>>());
    assert!(matches!(&step.delete, Deletion::Spis(spis) if spis.len() == 1), "the line of traffic is deleted apart");
    let group = b.model.group("g").unwrap();
    assert_eq!(group.epochs[0].streams[0].keymat.expose(), before[0].1, "a retiring epoch keeps its keys");
    let mut spis: Vec<u32> = group.epochs.iter().flat_map(|e| [e.spis(), e.stream_spis()].concat()).collect();
    assert_eq!(group.view(b.now()).epochs[1].spis.len(), 3);
    spis.sort_unstable();
    spis.dedup();
    assert_eq!(spis.len(), 6, "keys are told by their SPI alone");
}

#[test]
fn a_group_may_have_streams_alone() {
    let mut b = Bench::with(substation(false));
    assert_eq!(b.join(1, Protocol::Gdoi), Ok(vec![]), "single senders need no sender IDs");
    let offer = b.model.offer(&GroupId::Number(7), &member(1), None, Protocol::Gdoi, b.now()).unwrap();
    assert_eq!((offer.epochs[0].sas.len(), offer.epochs[0].streams.len()), (0, 2));
    let step = &b.rekey(RekeyReason::Eviction, &[]).steps[0];
    assert!(step.delete == Deletion::Spis(vec![]) && step.streams.delete.len() == 2);
}

#[test]
fn several_senders_of_a_counter_mode_get_sender_ids() {
    let mut group = substation(false);
    let many = StreamPolicy { many_senders: true, ..(*group.streams[1]).clone() };
    group.streams[1] = Arc::new(many);
    let mut b = Bench::with(group);
    assert_eq!(b.join(1, Protocol::Gdoi), Ok(vec![0]));
}

#[test]
fn changed_streams_keep_their_keys_until_a_rekey_brings_others() {
    let mut b = Bench::with(substation(true));
    b.join(1, Protocol::Gdoi).unwrap();
    let mut other = substation(true);
    other.streams.swap(0, 1);
    let mut renamed = substation(true);
    let name = "1.2.3".parse().unwrap();
    renamed.streams[0] = Arc::new(StreamPolicy { name, ..(*renamed.streams[0]).clone() });
    for changed in [other, renamed, GroupPolicy { streams: Vec::new(), ..substation(true) }] {
        let now = b.now();
        let mut model = Model::load(vec![changed.clone()], &b.store, now, &mut b.rng).unwrap();
        assert_eq!(model.expire(now), [("g".to_owned(), RekeyReason::Policy)]);
        let plan = model.rekey("g", RekeyReason::Policy, &[], now, &mut b.rng).unwrap();
        let epochs = &model.group("g").unwrap().epochs;
        let lines = |n: usize| epochs[n].streams.iter().map(|sa| (*sa.policy).clone()).collect::<Vec<_>>();
        let of = |p: &GroupPolicy| p.streams.iter().map(|s| (**s).clone()).collect::<Vec<_>>();
        assert_eq!((lines(0), lines(1)), (of(&substation(true)), of(&changed)));
        assert_eq!(plan.steps[0].streams.delete, epochs[0].stream_spis());
    }
}

#[test]
fn gikev2_is_not_served_half_a_policy() {
    let group = GroupPolicy { gikev2: policy(8).gikev2, ..substation(true) };
    let mut b = Bench::with(group);
    assert_eq!(b.join(1, Protocol::Gikev2), Err(Refusal::ProtocolNotServed));
    assert!(b.join(1, Protocol::Gdoi).is_ok());
}

fn acknowledge(b: &mut Bench, plan: &crate::plan::RekeyPlan, n: u8) {
    let (spi, counter) = (plan.steps[0].over.spi, plan.steps[0].counter);
    let now = b.now();
    assert!(b.model.acknowledge(Protocol::Gdoi, &spi, counter, &member(n), now));
    b.commit();
}

#[test]
fn delivery_is_reported_once_when_all_have_answered() {
    let mut b = Bench::with(substation(true));
    for n in 1..=4 {
        b.join(n, Protocol::Gdoi).unwrap();
    }
    let offer = |b: &Bench| b.model.offer(&GroupId::Number(7), &member(9), None, Protocol::Gdoi, b.now()).unwrap();
    assert_eq!(offer(&b).delivered, None, "of an epoch that is used nobody has to know");
    let plan = b.rekey(RekeyReason::Operator, &[]);
    assert!(plan.steps[0].streams.report.is_none(), "nobody has the keys before they are sent");
    assert_eq!(offer(&b).delivered, Some(0));
    for n in 1..=3 {
        acknowledge(&mut b, &plan, n);
    }
    assert_eq!(offer(&b).delivered, Some(75));
    let now = b.now();
    assert!(b.model.expire(now).is_empty(), "one has time to answer yet");
    acknowledge(&mut b, &plan, 4);
    b.crash();
    let now = b.now();
    assert_eq!(b.model.deadline(now).unwrap().at, now.mono);
    assert_eq!(b.model.expire(now), [("g".to_owned(), RekeyReason::Assurance)]);

    let report = b.rekey(RekeyReason::Assurance, &[]);
    let [step] = report.steps.as_slice() else { panic!("one message") };
    assert_eq!(step.counter, plan.steps[0].counter + 1);
    assert!(step.new_epoch.is_none() && step.delete == Deletion::Spis(vec![]) && step.streams.delete.is_empty());
    let told = step.streams.report.as_ref().unwrap();
    assert_eq!((told.epoch.number, told.delivered), (2, 100));
    // The report is acknowledged like any push, and that is not reported again.
    for n in 1..=4 {
        acknowledge(&mut b, &report, n);
    }
    b.crash();
    let now = b.now();
    assert!(b.model.expire(now).is_empty());
}

#[test]
fn who_does_not_answer_in_time_counts_as_missing_and_who_registers_does_not() {
    let mut b = Bench::with(substation(false));
    b.join(1, Protocol::Gdoi).unwrap();
    b.join(2, Protocol::Gdoi).unwrap();
    let plan = b.rekey(RekeyReason::Operator, &[]);
    acknowledge(&mut b, &plan, 1);
    b.join(3, Protocol::Gdoi).unwrap();
    b.wall += 10;
    let now = b.now();
    assert_eq!(b.model.expire(now), [("g".to_owned(), RekeyReason::Assurance)]);
    assert_eq!(b.rekey(RekeyReason::Assurance, &[]).steps[0].streams.report.as_ref().unwrap().delivered, 66);
}

#[test]
fn nothing_is_reported_of_an_epoch_that_is_used_or_that_nobody_asked_about() {
    let mut b = Bench::with(substation(false));
    b.join(1, Protocol::Gdoi).unwrap();
    b.rekey(RekeyReason::Operator, &[]);
    b.wall += 30;
    let now = b.now();
    assert!(b.model.expire(now).is_empty());
    assert!(b.rekey(RekeyReason::Assurance, &[]).steps.is_empty());

    let mut group = substation(false);
    group.streams.remove(0);
    let mut b = Bench::with(group);
    b.join(1, Protocol::Gdoi).unwrap();
    let plan = b.rekey(RekeyReason::Operator, &[]);
    acknowledge(&mut b, &plan, 1);
    let now = b.now();
    assert!(b.model.expire(now).is_empty());
}
