use std::time::Duration;

use keyferry_crypto::{Aead, Secret};
use keyferry_model::flows::Flow;
use keyferry_model::policy::{
    AddressPreservation, EspMode, EspTransform, SaDirection, Selector, SequenceNumbers, TrafficPolicy,
};
use keyferry_model::update::{MemberEvent, NewSa, Removal};

use tokio::sync::mpsc::UnboundedReceiver;

use super::*;
use crate::member::guard::Finished;
use crate::member::plane::tests::{Bench, FIRST, TAKES, deletion, rekey};

pub(in crate::member) const NOW: Now = Now { mono: Duration::from_secs(50), wall: Duration::from_secs(1_000_000) };

pub(in crate::member) fn selector(address: [u8; 4], prefix: u8) -> Selector {
    Selector { address: address.into(), prefix, protocol: 0, port: 0 }
}

/// An SA for traffic to each of these networks.
pub(in crate::member) fn update(destinations: &[([u8; 4], u8)]) -> GroupUpdate {
    let sa = |(spi, (address, prefix)): (u32, &([u8; 4], u8))| NewSa {
        spi,
        policy: Arc::new(TrafficPolicy {
            source: selector([0; 4], 0),
            destination: selector(*address, *prefix),
            mode: EspMode::Tunnel,
            transform: EspTransform::Aead(Aead::Aes128Gcm16),
            sequence: SequenceNumbers::Unspecified,
            replay_window: 0,
            preservation: AddressPreservation::Both,
            only_sender: None,
            lifetime_octets: None,
        }),
        keymat: Secret::new(vec![7; 20]),
        lifetime: Duration::from_secs(60),
        direction: SaDirection::Symmetric,
    };
    GroupUpdate {
        install: (0x1001..).zip(destinations).map(sa).collect(),
        remove: Removal::All,
        sender_ids: None,
        activation_delay: Duration::ZERO,
        deactivation_delay: Duration::ZERO,
    }
}

/// A group with a data plane, or one without, which refuses all SAs that reach it, and says how many.
pub(in crate::member) fn group(plane: Option<Plane>) -> Joined {
    let streams = StreamKeys::new(None, "7".to_owned(), false);
    Joined {
        id: GroupId::Number(7),
        plane,
        streams,
        accept: Flows::default(),
        replay_window: 64,
        problem: None,
        waits: None,
        behind: VecDeque::new(),
        registered: false,
    }
}

/// What becomes of an update that need not wait.
async fn outcome(joined: &mut Joined, update: GroupUpdate) -> Outcome {
    joined.update(Protocol::Gdoi, update, NOW).await.unwrap().outcome
}

/// RFC 5374 section 4.1.3.5: what is none of the key server's business reaches no data plane, and the reason is told.
#[tokio::test]
async fn policies_outside_of_accept_traffic_reach_no_data_plane() {
    let (ours, theirs, other) = (([239, 192, 0, 1], 32), ([10, 2, 0, 0], 16), ([10, 3, 0, 0], 16));
    let mut joined = group(None);
    let problem = outcome(&mut joined, update(&[theirs, other])).await.unwrap().unwrap();
    assert!(problem.contains("2 kinds of traffic that accept_traffic does not name"), "{problem}");
    assert!(problem.contains("0.0.0.0/0 to 10.2.0.0/16"), "{problem}");
    let refused = outcome(&mut joined, update(&[theirs, ours, other])).await.unwrap_err();
    assert!(refused.contains("protects traffic, 1 SAs,"), "{refused}");
    joined.accept = Flows(vec![Flow::to([10, 2, 0, 0].into(), 16)]);
    let refused = outcome(&mut joined, update(&[theirs])).await.unwrap_err();
    assert!(refused.contains("protects traffic, 1 SAs,"), "{refused}");
    let problem = outcome(&mut joined, update(&[ours])).await.unwrap().unwrap();
    assert!(problem.contains("0.0.0.0/0 to 239.192.0.1/32"), "{problem}");
}

#[test]
fn windows_have_the_size_that_the_member_wants_where_there_are_any() {
    let mut update = update(&[([239, 192, 0, 1], 32), ([239, 192, 0, 2], 32)]);
    let one = Arc::make_mut(&mut update.install[1].policy);
    (one.sequence, one.replay_window) = (SequenceNumbers::Sequential, 64);
    size_windows(&mut update, 1_024);
    let of = |at: usize| (update.install[at].policy.sequence, update.install[at].policy.replay_window);
    assert_eq!((of(0), of(1)), ((SequenceNumbers::Unspecified, 0), (SequenceNumbers::Sequential, 1_024)));
}

/// Keys wait for the guard, and what is told of them waits behind them, in order. A flush takes what waits by its own protocol with it.
#[tokio::test]
async fn what_comes_behind_keys_that_wait_comes_when_they_are_in_use() {
    let mut joined = group(None);
    assert!(!joined.is_waiting());
    let waits = |protocol| Some(Waits { protocol, brings_keys: true, problem: None, void: false });
    joined.waits = waits(Protocol::Gikev2);
    joined.queue(Protocol::Gdoi, MemberOutput::Update(update(&[])), NOW);
    joined.queue(Protocol::Gikev2, MemberOutput::Update(update(&[])), NOW);
    joined.queue(Protocol::Gikev2, MemberOutput::Event(MemberEvent::Registered), NOW);
    assert!(joined.is_waiting() && joined.next_behind().is_none());
    joined.flush(Some(Protocol::Gdoi), NOW).await;
    assert!(joined.is_waiting() && joined.next_behind().is_none(), "another protocol's keys go on");
    joined.waits = None;
    assert!(matches!(joined.next_behind(), Some((Protocol::Gikev2, MemberOutput::Update(_)))));
    assert!(joined.is_waiting(), "what comes now comes behind");
    joined.waits = waits(Protocol::Gdoi);
    joined.queue(Protocol::Gikev2, MemberOutput::Update(update(&[])), NOW);
    joined.queue(Protocol::Gdoi, MemberOutput::Event(MemberEvent::Registered), NOW);
    joined.flush(None, NOW).await;
    assert!(joined.waits.as_ref().unwrap().void && joined.next_behind().is_none());
    joined.waits = None;
    // The machine that has registered goes on, the other one has gone.
    joined.forget(Protocol::Gdoi).await;
    let next = joined.next_behind();
    assert!(matches!(next, Some((Protocol::Gikev2, MemberOutput::Event(MemberEvent::Registered)))));
    assert!(joined.next_behind().is_none() && !joined.is_waiting());
}

/// What was to be protected is protected, also when its keys never came to their turn.
#[tokio::test]
async fn a_flush_remembers_what_keys_behind_an_update_were_for() {
    let mut bench = Bench::new(TAKES).await;
    let mut joined = group(Some(bench.plane));
    assert!(joined.update(Protocol::Gdoi, update(&[FIRST]), NOW).await.is_none());
    joined.queue(Protocol::Gdoi, MemberOutput::Update(rekey(&[])), NOW);
    joined.flush(None, NOW).await;
    let taken = async |joined: &mut Joined, news: &mut UnboundedReceiver<Finished>| {
        let news = news.recv().await.unwrap().news;
        joined.take(news, NOW).await.is_none()
    };
    assert!(taken(&mut joined, &mut bench.news).await && !joined.is_waiting(), "nobody is told of them");
    assert_eq!(joined.engine().unwrap().named().len(), 2);
    assert!(taken(&mut joined, &mut bench.news).await);
    let rules = std::fs::read_to_string(bench.place.path().join("rules")).unwrap();
    assert!(rules.contains("{ 239.192.0.1/32, 239.192.0.2/32 }"), "{rules}");
}

/// Neither do they stay until the update before has come to its end, nor does that bring them back.
#[tokio::test]
async fn keys_that_are_removed_go_ahead_of_an_update_that_waits_and_behind_it() {
    let mut bench = Bench::new(TAKES).await;
    let mut joined = group(Some(bench.plane));
    let sas = |joined: &Joined| joined.dataplane().unwrap().sad.sas.len();
    assert!(joined.update(Protocol::Gdoi, update(&[FIRST]), NOW).await.is_none());
    let finished = bench.news.recv().await.unwrap();
    assert!(joined.take(finished.news, NOW).await.is_some() && sas(&joined) == 1);
    assert!(joined.update(Protocol::Gdoi, rekey(&[]), NOW).await.is_none());
    joined.queue(Protocol::Gdoi, MemberOutput::Update(deletion(&[0x1001, 0x2001])), NOW);
    assert_eq!(sas(&joined), 0);
    let finished = bench.news.recv().await.unwrap();
    assert!(joined.take(finished.news, NOW).await.is_some() && sas(&joined) == 1);
    let Some((protocol, MemberOutput::Update(late))) = joined.next_behind() else { panic!("it comes in its turn") };
    assert_eq!(joined.update(protocol, late, NOW).await.unwrap().outcome, Ok(None));
    assert_eq!(sas(&joined), 0);
}
