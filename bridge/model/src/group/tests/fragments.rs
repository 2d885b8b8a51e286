//! When GSA_REKEY may go in fragments.

use super::*;
use crate::admission::Gikev2Join;

fn bench(in_band: InBand, size: Option<usize>) -> Bench {
    let mut policy = policy(8);
    let options = Gikev2Options { in_band, fragment_size: size, ..Gikev2Options::default() };
    policy.gikev2.as_mut().unwrap().options = options;
    Bench::with(policy)
}

fn join(b: &mut Bench, n: u8, sender: bool, fragments: bool) {
    let identity = member(n);
    let asked = Gikev2Join { fragments, ..Gikev2Join::default() };
    let request = JoinRequest {
        identity: &identity,
        holder: None,
        protocol: Protocol::Gikev2,
        address: SocketAddr::from(([10, 0, 0, n], 848)),
        sender_ids: sender.then_some(1),
        gikev2: Some(&asked),
    };
    let now = b.now();
    b.model.admit(&GroupId::Number(7), request, None, now, &mut b.rng).unwrap();
    b.commit();
}

fn size(b: &mut Bench, reason: RekeyReason, evict: &[Identity]) -> Option<usize> {
    b.rekey(reason, evict).fragment_size
}

#[test]
fn all_who_listen_must_take_fragments() {
    let mut b = bench(InBand::Nobody, Some(576));
    let ordinary = |b: &mut Bench| size(b, RekeyReason::Operator, &[]);
    join(&mut b, 1, true, true);
    // GDOI is told otherwise.
    b.join(2, Protocol::Gdoi).unwrap();
    assert_eq!(ordinary(&mut b), Some(576));
    join(&mut b, 3, true, false);
    assert_eq!(ordinary(&mut b), None);
    // It is known after a crash, and until the member comes over another IKE SA.
    b.crash();
    assert_eq!(ordinary(&mut b), None);
    join(&mut b, 3, true, true);
    assert_eq!(ordinary(&mut b), Some(576));
    join(&mut b, 3, true, false);
    b.join(3, Protocol::Gdoi).unwrap();
    assert_eq!(ordinary(&mut b), Some(576), "it has moved");
    b.crash();
    assert_eq!(ordinary(&mut b), Some(576));
    join(&mut b, 4, true, false);
    let now = b.now();
    assert!(b.model.leave(&GroupId::Number(7), &member(4), Protocol::Gikev2, now));
    assert_eq!(ordinary(&mut b), Some(576), "it has left");
    let mut whole = bench(InBand::Nobody, None);
    join(&mut whole, 1, true, true);
    assert_eq!(ordinary(&mut whole), None);
}

/// Who is evicted need not read what excludes it; who is dismissed by a message is to read that.
#[test]
fn who_is_to_read_a_message_counts() {
    let mut b = bench(InBand::Nobody, Some(576));
    join(&mut b, 1, true, true);
    join(&mut b, 2, true, false);
    assert_eq!(size(&mut b, RekeyReason::Eviction, &[member(2)]), Some(576));
    join(&mut b, 3, true, false);
    assert_eq!(size(&mut b, RekeyReason::Reset, &[]), None);
    // Nobody is left.
    assert_eq!(size(&mut b, RekeyReason::Operator, &[]), Some(576));
}

/// Members that are rekeyed in band follow no GSA_REKEY.
#[test]
fn members_in_band_do_not_count() {
    let mut b = bench(InBand::Senders, Some(576));
    join(&mut b, 1, true, false);
    join(&mut b, 2, false, true);
    assert_eq!(size(&mut b, RekeyReason::Operator, &[]), Some(576));
    join(&mut b, 1, false, false);
    assert_eq!(size(&mut b, RekeyReason::Operator, &[]), None);
}
