//! Readings of RFC 6407 other than ours: what a key server can be told to send, members take, notice and remember.
#![allow(clippy::unwrap_used)]

mod support;

use keyferry_crypto::{BlockCipher, Hash, SignatureScheme};
use keyferry_model::plan::RekeyReason;
use keyferry_model::policy::AckType;
use keyferry_model::reading::{Reading, Readings};
use keyferry_model::update::MemberEvent;
use support::{Bench, Setup, secs};

/// Registration, new traffic keys, a new KEK by the key tree, everything deleted. Returns what a member has noticed.
fn run(sends: Readings, scheme: SignatureScheme, kek: BlockCipher) -> Vec<Reading> {
    let setup = Setup { sends, scheme, kek, ack: Some(AckType::Lkh(Hash::Sha256)), ..Setup::default() };
    let mut bench = Bench::new(setup);
    for n in 10..14 {
        bench.add(n);
    }
    bench.settle();
    bench.rekey(RekeyReason::Operator, &[]);
    bench.run(secs(2));
    bench.rekey(RekeyReason::Eviction, &[13]);
    bench.run(secs(2));
    bench.rekey(RekeyReason::Operator, &[]);
    bench.run(secs(2));
    let node = &bench.nodes[&10];
    assert_eq!(node.count(|e| *e == MemberEvent::Registered), 1, "{sends} {:?}", node.events);
    assert_eq!(node.count(|e| matches!(e, MemberEvent::Rekeyed { .. })), 4, "{sends} {:?}", node.events);
    assert_eq!(node.count(|e| matches!(e, MemberEvent::Refused(_))), 0, "{sends} {:?}", node.events);
    assert_eq!(bench.server.counters().ack_failed, 0, "{sends}");
    let seen = node.member.status().readings.iter().collect();
    bench.rekey(RekeyReason::Reset, &[]);
    bench.run(secs(30));
    assert_eq!(bench.nodes[&10].count(|e| *e == MemberEvent::Excluded), 1, "{sends}");
    assert_eq!(bench.nodes[&10].count(|e| *e == MemberEvent::Registered), 2, "{sends}");
    seen
}

#[test]
fn each_reading_that_can_be_sent_is_taken_noticed_and_remembered() {
    let (scheme, kek) = (SignatureScheme::RsaPkcs1Sha256, BlockCipher::Aes128Cbc);
    assert_eq!(run(Readings::NONE, scheme, kek), []);
    for reading in Reading::SENT {
        assert_eq!(run(Readings::from_iter([reading]), scheme, kek), [reading]);
    }
}

#[test]
fn readings_may_be_sent_together_with_every_kek_and_signature() {
    let all: Readings =
        Reading::SENT.into_iter().filter(|r| !matches!(r, Reading::SigRaw | Reading::SigHashedTwice)).collect();
    for (scheme, kek) in [
        (SignatureScheme::RsaPkcs1Sha1, BlockCipher::TripleDesCbc),
        (SignatureScheme::RsaPkcs1Sha384, BlockCipher::Aes128Cbc),
        (SignatureScheme::RsaPkcs1Sha512, BlockCipher::Aes192Cbc),
        (SignatureScheme::EcdsaP256Sha256, BlockCipher::Aes256Cbc),
        (SignatureScheme::EcdsaP384Sha384, BlockCipher::Aes192Cbc),
        (SignatureScheme::EcdsaP521Sha512, BlockCipher::Aes256Cbc),
    ] {
        assert_eq!(run(Readings::NONE, scheme, kek), [], "{scheme:?} {kek:?}");
        let seen: Readings = run(all, scheme, kek).into_iter().collect();
        assert_eq!(seen, all, "{scheme:?} {kek:?}");
    }
}

/// Pushes follow what is configured now, as PULLs do, under the rekey SA there is. That needs no rekey.
#[test]
fn readings_that_change_are_those_of_the_next_push() {
    let mut bench = Bench::new(Setup::default());
    bench.add(10);
    bench.settle();
    let mut policy = (**bench.model.group(support::GROUP).unwrap().policy()).clone();
    let sends = Readings::from_iter([Reading::ZeroIv, Reading::IpsecDeletes, Reading::SigRaw]);
    policy.gdoi.as_mut().unwrap().sends = sends;
    let now = bench.now();
    assert!(bench.model.change(vec![policy], now, &mut bench.rng).unwrap().is_empty());
    let plan = bench.rekey(RekeyReason::Operator, &[]);
    assert!(plan.steps[0].new_rekey.is_none());
    bench.run(secs(2));
    let node = &bench.nodes[&10];
    assert_eq!(node.member.status().readings, sends);
    assert_eq!(node.count(|e| matches!(e, MemberEvent::Rekeyed { .. })), 1);
}

/// A key of another kind comes with a reading that the one before cannot sign in.
#[test]
fn readings_of_signatures_wait_for_the_key_they_are_for() {
    let before = Setup { scheme: SignatureScheme::EcdsaP256Sha256, ..Setup::default() };
    let mut bench = Bench::new(before);
    bench.add(10);
    bench.settle();
    let after = Setup {
        scheme: SignatureScheme::RsaPkcs1Sha256,
        sends: Readings::from_iter([Reading::SigRaw]),
        ..Setup::default()
    };
    let now = bench.now();
    assert_eq!(bench.model.change(vec![support::policy(after)], now, &mut bench.rng).unwrap(), [support::GROUP]);
    for seen in [vec![], vec![Reading::SigRaw]] {
        bench.rekey(RekeyReason::Policy, &[]);
        bench.run(secs(2));
        assert_eq!(bench.nodes[&10].member.status().readings, Readings::from(seen));
    }
}

/// 3DES and SHA-1 protect rekeys only of a member that allows it.
#[test]
fn weak_rekeys_are_refused_unless_the_member_allows_them() {
    for (scheme, kek) in [
        (SignatureScheme::RsaPkcs1Sha1, BlockCipher::Aes128Cbc),
        (SignatureScheme::RsaPkcs1Sha256, BlockCipher::TripleDesCbc),
    ] {
        let setup = Setup { scheme, kek, ..Setup::default() };
        let mut bench = Bench::new(setup);
        let mut strict = support::settings(setup, 10);
        strict.gdoi.danger_weak_rekey = false;
        bench.add_with(10, strict);
        bench.settle();
        let node = &bench.nodes[&10];
        assert_eq!(node.count(|e| matches!(e, MemberEvent::Refused(why) if why.contains("3DES or SHA-1"))), 1);
        assert!(node.updates.is_empty());
    }
}
