//! A policy of a hundred lines: messages far longer than a frame, and all of it arrives.
#![allow(clippy::unwrap_used)]

mod support;

use std::sync::Arc;

use gdoi::Sizes;
use keyferry_crypto::{Aead, BlockCipher, Integrity};
use keyferry_model::plan::RekeyReason;
use keyferry_model::policy::{EspTransform, GroupPolicy, Selector, TrafficPolicy};
use keyferry_model::reading::{Reading, Readings};
use keyferry_model::update::{MemberEvent, Removal};
use support::{Bench, Setup, policy, secs};

const LINES: u16 = 100;

fn large(setup: Setup) -> GroupPolicy {
    let mut large = policy(setup);
    let line = Arc::clone(&large.traffic[0]);
    large.traffic = (0..LINES)
        .map(|n| {
            let destination = Selector { protocol: 17, port: 5000 + n, ..line.destination };
            let source = Selector { protocol: 17, ..line.source };
            Arc::new(TrafficPolicy { destination, source, ..TrafficPolicy::clone(&line) })
        })
        .collect();
    large
}

/// Registration, traffic keys, a new KEK with traffic keys, eviction: each message is within the size that is computed when
/// a configuration is read, and one that is planned once has the same octets however often it is sent.
#[test]
fn a_hundred_lines_are_told_rekeyed_and_deleted() {
    let gcm = EspTransform::Aead(Aead::Aes256Gcm16);
    let cbc = EspTransform::CbcHmac(BlockCipher::Aes256Cbc, Integrity::HmacSha512_256);
    let other: Readings = [Reading::AttributesBehindSa, Reading::DstIdProt].into_iter().collect();
    for (transform, v6, sends) in [(gcm, false, Readings::NONE), (cbc, true, Readings::NONE), (gcm, false, other)] {
        let setup = Setup { transform, v6, sends, kek: BlockCipher::Aes256Cbc, ..Setup::default() };
        let mut short = large(setup);
        short.kek_lifetime = secs(3700);
        let sizes = Sizes::of(&short, setup.kek, setup.scheme, sends);
        let mut bench = Bench::with_policy(setup, short, |c| c.fragment_size = usize::from(u16::MAX));
        for n in 10..13 {
            bench.add(n);
        }
        bench.settle();
        let told = bench.nodes[&10].updates[0].install.iter().map(|sa| sa.policy.destination.port).collect::<Vec<_>>();
        assert_eq!(told, (5000..5000 + LINES).collect::<Vec<_>>());
        let pull = bench.log.iter().filter(|p| p.bytes[18] == 32).map(|p| p.bytes.len()).max().unwrap();
        assert!((1500..=sizes.pull).contains(&pull), "{pull} of {sizes:?}");

        for (round, reason) in
            [RekeyReason::Operator, RekeyReason::Operator, RekeyReason::Lifetime].into_iter().enumerate()
        {
            let old: Vec<u32> = bench.nodes[&10].updates.last().unwrap().install.iter().map(|sa| sa.spi).collect();
            if reason == RekeyReason::Lifetime {
                bench.run(secs(3200));
            }
            let (plan, messages) = bench.plan(reason, &[]);
            assert_eq!(plan.steps[0].new_rekey.is_some(), reason == RekeyReason::Lifetime);
            assert!((1500..=sizes.push).contains(&messages[0].len()), "{} of {sizes:?}", messages[0].len());
            let again =
                gdoi::push::render(&plan.policy, &plan.steps[0], &mut keyferry_crypto::SeededRandom::new(9)).unwrap();
            assert_eq!(again, messages[0], "bitwise the same");
            bench.send_pushes(&messages);
            bench.run(secs(2));
            let node = &bench.nodes[&10];
            let update = node.updates.last().unwrap();
            assert_eq!(update.install.len(), usize::from(LINES), "round {round}");
            assert_eq!(update.remove, Removal::Spis(old));
        }
        bench.rekey(RekeyReason::Eviction, &[12]);
        bench.run(secs(2));
        let node = &bench.nodes[&10];
        assert_eq!(node.updates.last().unwrap().install.len(), usize::from(LINES));
        assert_eq!(node.count(|e| matches!(e, MemberEvent::Refused(_) | MemberEvent::Unanswered)), 0);
    }
}

/// Who registers while many epochs live is told the newest of them, and never more than a datagram holds.
#[test]
fn a_member_that_comes_late_is_told_the_newest_epochs() {
    let setup = Setup::default();
    let mut bench = Bench::with_policy(setup, large(setup), |_| {});
    bench.add(10);
    bench.settle();
    let plans: Vec<_> = (0..9).map(|_| bench.plan(RekeyReason::Operator, &[]).0).collect();
    bench.add(11);
    bench.settle();
    let node = &bench.nodes[&11];
    assert_eq!(node.events, [MemberEvent::Connected, MemberEvent::Registered]);
    let install = &node.updates[0].install;
    assert_eq!(install.len(), 3 * usize::from(LINES));
    let newest = plans.last().unwrap().steps[0].new_epoch.as_ref().unwrap().sas.last().unwrap().spi;
    assert_eq!(install.last().unwrap().spi, newest);
}
