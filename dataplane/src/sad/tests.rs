//! Running out of numbers, which only a test inside can bring about.
#![allow(clippy::unwrap_used)]

use keyferry_crypto::{Aead, BlockCipher, Integrity, SeededRandom};
use keyferry_model::policy::{EspMode, EspTransform, SaDirection};

use super::*;
use crate::drops::DropReason;
use crate::frame::Frame;
use crate::iv::IvSource;
use crate::local::{Rule, RuleAction, Verdict, Way};
use crate::packet::Headers;
use crate::testing::{self, any};

const NOW: Now = Now { mono: Duration::from_secs(1), wall: Duration::from_secs(1) };
const PACKET: [u8; 20] = [0x45, 0, 0, 20, 0, 0, 0, 0, 9, 17, 0, 0, 10, 0, 0, 1, 239, 192, 0, 1];

fn new_sa(spi: u32, transform: EspTransform) -> NewSa {
    let policy = testing::policy(any(), any(), EspMode::Tunnel, transform);
    let keymat = Secret::random(transform.keymat_len(), &mut SeededRandom::new(spi.into()));
    NewSa {
        spi,
        policy: Arc::new(policy),
        keymat,
        lifetime: Duration::from_secs(60),
        direction: SaDirection::Symmetric,
    }
}

fn update(install: Vec<NewSa>, ids: Option<&[u32]>, activation: u64) -> GroupUpdate {
    GroupUpdate {
        install,
        remove: Removal::Spis(Vec::new()),
        sender_ids: ids.map(|ids| SenderIds { bits: 16, ids: ids.to_vec() }),
        activation_delay: Duration::from_secs(activation),
        deactivation_delay: Duration::ZERO,
    }
}

fn seal(sad: &Sad) -> Result<(u32, u32), DropReason> {
    let mut ivs = IvSource::new(&mut SeededRandom::new(1));
    sad.snapshot().seal(&mut Frame::holding(&PACKET), &mut ivs).map(|sealed| (sealed.spi, sealed.sequence))
}

/// What a key server has named is protected, whether its keys could be used or not, until it names other policies.
#[test]
fn refused_lines_are_protected_until_the_policy_is_another() {
    let line = |address: &str, prefix| (any(), testing::side(address, prefix));
    let rule = crate::local::Rule {
        source: any(),
        destination: testing::side("239.192.0.0", 16),
        action: crate::local::RuleAction::Bypass,
        way: crate::local::Way::Both,
    };
    let mut sad = Sad::new();
    sad.set_local_policy(LocalPolicy { rules: vec![rule], ..LocalPolicy::default() });
    sad.hold(&[line("239.192.0.1", 33)]);
    assert_eq!(seal(&sad), Err(DropReason::OutNoPols), "what cannot be tells nothing");
    sad.hold(&[line("239.192.0.1", 32), line("239.192.0.1", 33), line("239.192.0.1", 32)]);
    assert_eq!(sad.named()[..], [line("239.192.0.1", 32)], "once, and nothing that cannot be");
    assert_eq!(seal(&sad), Err(DropReason::OutNoPols));
    let transform = EspTransform::CbcHmac(BlockCipher::Aes128Cbc, Integrity::HmacSha256_128);
    let mut next = new_sa(0x1001, transform);
    next.policy = Arc::new(testing::policy(any(), testing::side("239.192.0.2", 32), EspMode::Tunnel, transform));
    let delay = Duration::from_secs(5);
    let anew = GroupUpdate { remove: Removal::All, deactivation_delay: delay, ..update(vec![next], None, 0) };
    sad.apply(anew, NOW).unwrap();
    assert_eq!((seal(&sad), sad.deadline().unwrap().at), (Err(DropReason::OutNoPols), NOW.mono + delay));
    sad.expire(Now { mono: NOW.mono + delay, ..NOW });
    assert_eq!(seal(&sad), Ok((0, 0)), "in clear, as the rule says");
    assert_eq!(sad.named()[..], [line("239.192.0.2", 32)]);
    // Whoever has chosen to send in clear without keys has chosen so here, too.
    let mut open = Sad::new();
    open.set_local_policy(LocalPolicy {
        rules: Vec::new(),
        without_keys: WithoutKeys::Clear(vec![line("239.192.0.1", 32)]),
    });
    open.hold(&[line("239.192.0.9", 32)]);
    assert_eq!((seal(&open), open.named().len()), (Ok((0, 0)), 1));
}

#[test]
fn running_out_of_ivs_is_told_in_time_and_new_sender_ids_help() {
    let mut sad = Sad::new();
    let gcm = EspTransform::Aead(Aead::Aes256Gcm16);
    sad.apply(update(vec![new_sa(1_000, gcm)], Some(&[1]), 0), NOW).unwrap();
    assert!(seal(&sad).is_ok() && !sad.needs_rekey());
    let numbers = |sad: &Sad| Arc::clone(&sad.entries[0].sa.state);
    numbers(&sad).numbers.skip_to(2, 2);
    assert!(sad.needs_rekey() && sad.status().sas[0].needs_rekey);
    assert!(seal(&sad).is_ok() && seal(&sad).is_ok());
    assert_eq!(seal(&sad), Err(DropReason::OutIvExhausted));
    assert!(sad.needs_rekey());
    sad.apply(update(vec![], Some(&[2]), 0), NOW).unwrap();
    assert_eq!(seal(&sad), Ok((1_000, 4)));
    assert!(!sad.needs_rekey());
}

#[test]
fn sequence_numbers_end_an_sa_and_its_successor_steps_in_early() {
    let mut sad = Sad::new();
    let cbc = EspTransform::CbcHmac(BlockCipher::Aes128Cbc, Integrity::HmacSha256_128);
    sad.apply(update(vec![new_sa(1_000, cbc)], None, 0), NOW).unwrap();
    sad.entries[0].sa.state.numbers.skip_to(u32::MAX.into(), 1);
    assert!(sad.needs_rekey());
    assert_eq!(seal(&sad), Ok((1_000, u32::MAX)));
    assert_eq!(seal(&sad), Err(DropReason::OutStateSeqError));
    assert_eq!(seal(&sad), Err(DropReason::OutStateSeqError), "it does not wrap");
    // Its successor waits for activation, but there is no other that could send.
    sad.apply(update(vec![new_sa(1_001, cbc)], None, 30), NOW).unwrap();
    assert_eq!(seal(&sad), Ok((1_001, 1)));
    assert_eq!(sad.status().drops["OutStateSeqError"], 2);
}

#[test]
fn a_burst_in_which_numbers_run_out_goes_on_with_the_next_ids_and_then_the_next_sa() {
    let mut sad = Sad::new();
    let gcm = EspTransform::Aead(Aead::Aes128Gcm16);
    sad.apply(update(vec![new_sa(1_000, gcm)], Some(&[1, 2]), 0), NOW).unwrap();
    sad.entries[0].sa.state.numbers.skip_to(u64::from(u32::MAX) - 3, 2);
    sad.apply(update(vec![new_sa(1_001, gcm)], None, 30), NOW).unwrap();
    let mut frames = vec![Frame::holding(&PACKET); 9];
    frames[4] = Frame::holding(b"noise");
    let mut fates = Vec::new();
    sad.snapshot().seal_burst(&mut frames, &mut IvSource::new(&mut SeededRandom::new(1)), &mut fates);
    let fates: Vec<_> = fates.into_iter().map(|fate| fate.map(|sealed| (sealed.spi, sealed.sequence))).collect();
    let last = u32::MAX;
    let old = [last - 3, last - 2, last - 1].map(|sequence| Ok((1_000, sequence)));
    assert_eq!(fates[..3], old);
    assert_eq!(
        fates[3..],
        [
            Ok((1_000, last)),
            Err(DropReason::OutHdrError),
            Ok((1_001, 1)),
            Ok((1_001, 2)),
            Ok((1_001, 3)),
            Ok((1_001, 4))
        ]
    );
    // The IV stands behind outer header, SPI and number: two of the first sender ID, then the second's.
    let ivs: Vec<&[u8]> = frames.iter().map(|frame| frame.packet().get(28..36).unwrap_or_default()).collect();
    assert_eq!(ivs[1][..2], [0, 1]);
    assert_eq!(ivs[2], [0, 2, 0, 0, 0, 0, 0, 1]);
    assert_eq!(ivs[3], [0, 2, 0, 0, 0, 0, 0, 2]);
    let counted = |at: usize| sad.entries[at].sa.state.drops.get(DropReason::OutStateSeqError);
    assert_eq!((counted(0), counted(1)), (0, 0), "nothing was dropped for want of numbers");
}

#[test]
fn what_is_remembered_of_sas_is_bounded_and_ends_soon_after_their_lifetime() {
    let mut sad = Sad::new();
    let gcm = EspTransform::Aead(Aead::Aes128Gcm16);
    for spi in 1_000..1_000 + 2 * u32::try_from(MAX_MEMORIES).unwrap() {
        sad.apply(update(vec![new_sa(spi, gcm)], Some(&[1]), 0), NOW).unwrap();
        sad.flush();
    }
    assert_eq!(sad.memories.len(), MAX_MEMORIES);
    // A key that is remembered gets no second SPI.
    let mut renamed = new_sa(1_511, gcm);
    renamed.spi = 9_999;
    assert!(matches!(sad.apply(update(vec![renamed], None, 0), NOW), Err(ApplyError::KeyReused(9_999))));
    let after = Duration::from_secs(61) + MEMORY;
    sad.expire(Now { mono: after - Duration::from_millis(1), ..NOW });
    assert_eq!(sad.memories.len(), MAX_MEMORIES);
    sad.expire(Now { mono: after, ..NOW });
    assert!(sad.memories.is_empty());
}

#[test]
fn there_is_a_limit_to_sas() {
    let mut sad = Sad::new();
    let gcm = EspTransform::Aead(Aead::Aes128Gcm16);
    let count = u32::try_from(MAX_SAS).unwrap();
    let all = (0..count).map(|n| new_sa(1_000 + n, gcm)).collect();
    sad.apply(update(all, None, 0), NOW).unwrap();
    assert!(matches!(sad.apply(update(vec![new_sa(1, gcm)], None, 0), NOW), Err(ApplyError::ReservedSpi(1))));
    assert!(matches!(sad.apply(update(vec![new_sa(999_999, gcm)], None, 0), NOW), Err(ApplyError::TooMany)));
    sad.apply(update(vec![new_sa(1_000, gcm)], None, 0), NOW).unwrap();
}

#[test]
fn an_old_sa_that_a_registration_brings_again_does_not_take_over_from_a_newer_one() {
    let mut sad = Sad::new();
    let gcm = EspTransform::Aead(Aead::Aes128Gcm16);
    sad.apply(update(vec![new_sa(1_001, gcm)], Some(&[1]), 0), NOW).unwrap();
    let all =
        GroupUpdate { remove: Removal::All, ..update(vec![new_sa(1_000, gcm), new_sa(1_001, gcm)], Some(&[2]), 0) };
    sad.apply(all, NOW).unwrap();
    assert_eq!(seal(&sad), Ok((1_001, 1)));
    let spis: Vec<String> = sad.status().sas.into_iter().map(|sa| sa.spi).collect();
    assert_eq!(spis, ["0x000003e8", "0x000003e9"], "but it is there to receive");
    sad.apply(update(vec![new_sa(1_002, gcm)], None, 0), NOW).unwrap();
    assert_eq!(seal(&sad), Ok((1_002, 1)));
}

/// What another engine's SAD knows of the group comes to this member's own rules, and these go on counting.
#[test]
fn a_sad_that_takes_anothers_place_inherits_the_local_policy() {
    let rule = |action| Rule { source: any(), destination: any(), action, way: Way::Out };
    let decides = |sad: &Sad| sad.snapshot().decides(&Headers::parse(&PACKET).unwrap());
    let gcm = EspTransform::Aead(Aead::Aes128Gcm16);
    for (action, alone, behind) in [
        (RuleAction::Discard, Verdict::Discard, Verdict::Discard),
        // Nobody knows what the group protects, then that it is this.
        (RuleAction::Bypass, Verdict::Group, Verdict::Group),
        (RuleAction::BypassProtected, Verdict::Clear, Verdict::Clear),
    ] {
        let (mut own, mut other) = (Sad::new(), Sad::new());
        own.set_local_policy(LocalPolicy { rules: vec![rule(action)], without_keys: WithoutKeys::Drop });
        assert_eq!(decides(&own), alone);
        let counted = u64::from(alone != Verdict::Group);
        let _ = seal(&own);
        other.apply(update(vec![new_sa(1_000, gcm)], Some(&[1]), 0), NOW).unwrap();
        assert_eq!(decides(&other), Verdict::Group);
        other.inherit_local_policy(&own);
        assert_eq!((decides(&other), other.status().rules[0].packets), (behind, counted), "{action:?}");
        other.flush();
        assert_eq!(decides(&other), behind, "without keys it is the same");
    }
    // What is sent in clear for want of keys is what the group protects, and until it is known what the member expects.
    let (mut own, mut other) = (Sad::new(), Sad::new());
    own.set_local_policy(LocalPolicy { rules: Vec::new(), without_keys: WithoutKeys::Clear(vec![(any(), any())]) });
    other.inherit_local_policy(&own);
    assert_eq!(decides(&other), Verdict::Clear);
    other.apply(update(vec![new_sa(1_000, gcm)], Some(&[1]), 0), NOW).unwrap();
    let mut third = Sad::new();
    third.set_local_policy(LocalPolicy { rules: Vec::new(), without_keys: WithoutKeys::Clear(Vec::new()) });
    other.inherit_local_policy(&third);
    assert_eq!(decides(&other), Verdict::Group);
    other.flush();
    assert_eq!(decides(&other), Verdict::Clear, "the group has said so");
}
