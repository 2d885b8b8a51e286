//! What a push deletes and brings, in every combination and order; numbers near their end.

use std::time::Duration;

use keyferry_model::reading::Readings;
use keyferry_model::time::Now;
use keyferry_model::update::Removal;
use keyferry_wire::{Decode, Encode, Header};

use super::key_server::{KeyServer, NOW, TAKING, delete, give, kd, long, sa, seq, short};
use crate::push::member::Verdict;
use crate::reject::Reject;
use crate::wire::kd::{Kd, KeyPacket};
use crate::wire::registry::{Doi, KeyPacketType, key_attribute, payload};

const ALL_TEKS: (u8, u8, &[u8]) = (1, 4, &[0; 4]);
const ALL_KEKS: (u8, u8, &[u8]) = (0, 16, &[0; 16]);

fn all(what: (u8, u8, &[u8])) -> super::key_server::Body {
    delete(Doi::GDOI, what.0, what.1, what.2)
}

#[test]
fn everything_is_deleted_in_either_order() {
    let server = KeyServer::usual(3);
    for deletes in [[ALL_TEKS, ALL_KEKS], [ALL_KEKS, ALL_TEKS]] {
        let mut member = server.member(0);
        let push = server.push(&[seq(1), all(deletes[0]), all(deletes[1])], Readings::NONE);
        let applied = give(&mut member, &push).unwrap();
        assert!(applied.excluded && applied.ack.is_some(), "an ACK also after a Delete");
        assert_eq!(applied.update.unwrap().remove, Removal::All);
        assert_eq!(member.newest(), None);
    }
}

/// Deletes stand in front of the SA payload and concern what was there before it.
#[test]
fn a_new_kek_survives_the_delete_of_all_before_it() {
    let (old, new) = (KeyServer::usual(3), KeyServer::usual(4));
    let spki = new.signer.public_spki();
    for by_spi in [false, true] {
        let mut member = old.member(0);
        let gone = if by_spi { delete(Doi::GDOI, 0, 16, &old.spi) } else { all(ALL_KEKS) };
        let payloads = [
            seq(1),
            all(ALL_TEKS),
            gone,
            sa(Some(&new), Some(20), &[0x1002]),
            kd(Some((&new, Some(&spki))), &[0x1002]),
        ];
        let applied = give(&mut member, &old.push(&payloads, Readings::NONE)).unwrap();
        assert!(!applied.excluded);
        let update = applied.update.unwrap();
        assert_eq!((update.install.len(), update.remove), (1, Removal::All));
        assert_eq!(member.newest(), Some((&new.spi, 0)));
        // The deleted one goes after DTD.
        assert!(member.knows(&old.spi));
        member.expire(NOW.mono + Duration::from_secs(21));
        assert!(!member.knows(&old.spi) && member.knows(&new.spi));
    }
}

/// A KEK alone, then traffic keys under it: how members are excluded (RFC 6407 section 7.4.1).
#[test]
fn a_push_may_bring_a_new_kek_only() {
    let (old, new) = (KeyServer::usual(3), KeyServer::usual(4));
    let spki = new.signer.public_spki();
    let mut member = old.member(0);
    let push = old.push(&[seq(1), sa(Some(&new), None, &[]), kd(Some((&new, Some(&spki))), &[])], Readings::NONE);
    let applied = give(&mut member, &push).unwrap();
    assert!(applied.update.is_none() && !applied.excluded);
    let push = new.push(&[seq(1), sa(None, None, &[0x1002]), kd(None, &[0x1002])], Readings::NONE);
    assert_eq!(give(&mut member, &push).unwrap().update.unwrap().install[0].spi, 0x1002);
}

/// The old KEK still opens pushes during DTD, and not afterwards.
#[test]
fn the_old_kek_is_good_until_dtd_has_passed() {
    let (old, new) = (KeyServer::usual(3), KeyServer::usual(4));
    let spki = new.signer.public_spki();
    let mut member = old.member(0);
    let bring = [seq(1), sa(Some(&new), Some(30), &[]), kd(Some((&new, Some(&spki))), &[])];
    give(&mut member, &old.push(&bring, Readings::NONE)).unwrap();
    let late = |n: u32| old.push(&[seq(n), sa(None, None, &[0x1000 + n]), kd(None, &[0x1000 + n])], Readings::NONE);
    member.expire(NOW.mono + Duration::from_secs(29));
    assert!(give(&mut member, &late(2)).is_ok());
    member.expire(NOW.mono + Duration::from_secs(31));
    assert!(matches!(give(&mut member, &late(3)), Err(Reject::Unauthenticated(_))));
}

#[test]
fn numbers_do_not_wrap() {
    let server = KeyServer::usual(3);
    let mut member = server.member(u32::MAX - 1);
    let data = |n: u32| server.push(&[seq(n), sa(None, None, &[0x1002]), kd(None, &[0x1002])], Readings::NONE);
    assert!(give(&mut member, &data(u32::MAX)).is_ok());
    for n in [0, 1, 2, u32::MAX - 1] {
        assert!(matches!(give(&mut member, &data(n)), Err(Reject::Replayed)), "{n}");
    }
    let mut member = server.member(0);
    assert!(matches!(give(&mut member, &server.push(&[seq(0), all(ALL_TEKS)], Readings::NONE)), Err(Reject::Replayed)));
}

/// Cookie pair, form, number, signature (RFC 6407 section 7.3.5): each is looked at before what is dearer.
#[test]
fn checks_come_in_their_order() {
    let server = KeyServer::usual(3);
    let mut member = server.member(5);
    let mut verify = |bytes: &[u8]| member.verify(&Header::decode(bytes).unwrap().0, bytes);
    let payloads = |n| [seq(n), sa(None, None, &[0x1002]), kd(None, &[0x1002])];
    let mut forged = server.push(&payloads(6), Readings::NONE);
    // Another signature under the right KEK.
    let liar = KeyServer { signer: super::key_server::signer(keyferry_crypto::KeyKind::EcP256), ..server.clone() };
    let liar = KeyServer { scheme: keyferry_crypto::SignatureScheme::EcdsaP256Sha256, ..liar };
    let old = liar.push(&payloads(4), Readings::NONE);
    assert!(matches!(verify(&old), Err(Reject::Replayed)), "the number comes before the signature");
    let new = liar.push(&payloads(6), Readings::NONE);
    assert!(matches!(verify(&new), Err(Reject::Unauthenticated("signature of a push"))));
    let garbled = server.push(&[sa(None, None, &[0x1002]), seq(6), kd(None, &[0x1002])], Readings::NONE);
    assert!(matches!(verify(&garbled), Err(Reject::Unauthenticated("push does not decrypt"))));
    forged[0] ^= 1;
    assert!(matches!(verify(&forged), Err(Reject::Unauthenticated("no such rekey SA"))));
    assert!(matches!(verify(&server.push(&payloads(6), Readings::NONE)), Ok(Verdict::Push(_))));
}

#[test]
fn the_newest_of_two_keks_decides_what_runs_out() {
    let (old, new) = (KeyServer::usual(3), KeyServer::usual(4));
    let spki = new.signer.public_spki();
    let mut member = old.member(0);
    let later = Now { mono: NOW.mono + Duration::from_secs(80_000), ..NOW };
    let push = old.push(&[seq(1), sa(Some(&new), None, &[]), kd(Some((&new, Some(&spki))), &[])], Readings::NONE);
    let Verdict::Push(verified) = member.verify(&Header::decode(&push).unwrap().0, &push).unwrap() else {
        panic!("no new push")
    };
    member.apply(&verified, &push, TAKING, "10.84.0.11".parse().unwrap(), later).unwrap();
    let (at, lifetime) = member.runs_out(later).unwrap();
    assert_eq!((at, lifetime), (later.mono + Duration::from_secs(86_400), Duration::from_secs(86_400)));
}

/// Sender IDs are one member's and a push is everybody's: two that took the same would use nonces twice (RFC 6407 sections 5.6.4
/// and 5.7). What is not processed is not acknowledged (RFC 8263 section 4), however often it comes.
#[test]
fn a_push_with_sender_ids_is_refused_and_not_acknowledged() {
    let server = KeyServer::usual(3);
    let attributes = vec![short(key_attribute::SID_BITS, 8), long(key_attribute::SID_VALUE, &[3])];
    let ids = KeyPacket { kind: KeyPacketType::SID, spi: &[], attributes };
    let (_, keys) = kd(None, &[0x1002]);
    let mut packets = Kd::exact(&keys).unwrap().packets;
    packets.push(ids);
    let payloads = [seq(1), sa(None, None, &[0x1002]), (payload::KD, Kd { packets }.to_vec())];
    let push = server.push(&payloads, Readings::NONE);
    let mut member = server.member(0);
    assert!(matches!(give(&mut member, &push), Err(Reject::Unacceptable(..))));
    let again = member.verify(&Header::decode(&push).unwrap().0, &push);
    assert!(matches!(again, Ok(Verdict::Repeat(None))), "{again:?}");
    // The next one is taken.
    let sound = server.push(&[seq(2), sa(None, None, &[0x1002]), kd(None, &[0x1002])], Readings::NONE);
    assert!(give(&mut member, &sound).unwrap().ack.is_some());
}
