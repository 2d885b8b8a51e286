//! Members that ask for newer keys by registering again.

use super::*;

fn with(rekey_when_asked: Option<u64>) -> Bench {
    Bench::with(GroupPolicy { rekey_when_asked: rekey_when_asked.map(Duration::from_secs), ..policy(16) })
}

fn due(bench: &mut Bench) -> Option<RekeyReason> {
    let now = bench.now();
    bench.model.expire(now).into_iter().map(|(_, reason)| reason).next()
}

#[test]
fn who_registers_again_asks_for_newer_keys_unless_these_are_new() {
    for protocol in Protocol::ALL {
        let mut b = with(Some(60));
        b.join(1, protocol).unwrap();
        b.wall += 59;
        b.join(1, protocol).unwrap();
        b.wall += 30;
        assert_eq!(due(&mut b), None, "keys of less than a minute");
        b.join(2, protocol).unwrap();
        b.wall += 30;
        assert_eq!(due(&mut b), None, "a newcomer asks for nothing");
        b.join(2, protocol).unwrap();
        b.join(1, protocol).unwrap();
        assert_eq!(due(&mut b), None, "others may ask too");
        b.wall += 5;
        assert_eq!(due(&mut b), Some(RekeyReason::Asked));
        b.rekey(RekeyReason::Asked, &[]);
        assert_eq!(due(&mut b), None);
        b.join(1, protocol).unwrap();
        b.wall += 20;
        assert_eq!(due(&mut b), None, "once in a minute");
    }
}

#[test]
fn what_was_asked_for_is_remembered_after_a_crash() {
    let mut b = with(Some(60));
    b.join(1, Protocol::Gikev2).unwrap();
    b.wall += 60;
    b.join(1, Protocol::Gikev2).unwrap();
    b.crash();
    b.wall += 5;
    assert_eq!(due(&mut b), Some(RekeyReason::Asked));
}

#[test]
fn without_the_policy_members_get_the_keys_that_there_are() {
    let mut b = with(None);
    b.join(1, Protocol::Gdoi).unwrap();
    b.wall += 1_000;
    b.join(1, Protocol::Gdoi).unwrap();
    b.wall += 100;
    assert_eq!(due(&mut b), None);
}

/// Keys that senders do not use yet cannot be used up, however early one may ask.
#[test]
fn keys_that_wait_for_activation_are_not_replaced() {
    let mut b = with(Some(1));
    b.join(1, Protocol::Gdoi).unwrap();
    b.wall += 10;
    b.rekey(RekeyReason::Operator, &[]);
    b.wall += 9;
    b.join(1, Protocol::Gdoi).unwrap();
    b.wall += 5;
    assert_eq!(due(&mut b), None);
}
