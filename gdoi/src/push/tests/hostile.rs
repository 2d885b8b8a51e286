//! A key server that is an attacker: it has every key, and sends whatever it likes, signed and encrypted as it should be.

use keyferry_crypto::{BlockCipher, SignatureScheme};
use keyferry_model::reading::Readings;
use keyferry_wire::{Attribute, AttributeValue, Encode, chain};
use proptest::prelude::*;

use super::key_server::{Body, KeyServer, delete, give, kd, sa, sak, sat, seq};
use crate::message::Payloads;
use crate::push::member::{Applied, Group};
use crate::reject::Reject;
use crate::wire::gap::Gap;
use crate::wire::group_sa::encode_parts;
use crate::wire::kd::{Kd, KeyPacket};
use crate::wire::registry::{Doi, KeyPacketType, payload};
use crate::wire::sak::Sak;
use crate::wire::sat::{EspTek, Sat};

fn attacker(n: u8) -> KeyServer {
    KeyServer::new(n, BlockCipher::Aes128Cbc, SignatureScheme::EcdsaP256Sha256)
}

/// What must hold whatever came.
fn is_sound(member: &Group, outcome: &Result<Applied, Reject>) {
    assert!(member.held() <= 4, "rekey SAs are bounded");
    let Ok(applied) = outcome else { return };
    for sa in applied.update.iter().flat_map(|u| &u.install) {
        assert_eq!(sa.keymat.len(), sa.policy.transform.keymat_len());
        assert!(sa.spi >= 256 && !sa.lifetime.is_zero());
        assert_eq!(sa.policy.source.address.is_ipv4(), sa.policy.destination.address.is_ipv4());
    }
}

fn genuine(new: &KeyServer) -> Vec<Body> {
    let spki = new.signer.public_spki();
    vec![
        seq(1),
        delete(Doi::GDOI, 1, 4, &[0, 0, 0x10, 1, 0, 0, 0x10, 9]),
        delete(Doi::GDOI, 0, 16, &[9; 16]),
        sa(Some(new), Some(5), &[0x1002, 0x1003]),
        kd(Some((new, Some(&spki))), &[0x1002, 0x1003]),
    ]
}

/// Every octet of a genuine push is changed in several ways and the whole signed anew. What the member does not take
/// leaves it as it was; what it takes is sound.
#[test]
fn every_octet_of_a_push_may_be_a_lie() {
    let (old, new) = (attacker(3), attacker(4));
    let payloads = genuine(&new)
        .into_iter()
        .fold(Payloads::new(), |p, (kind, body)| p.with_body(kind, keyferry_crypto::Secret::copy_from(&body)));
    let plain = payloads.chain(payload::SIG).unwrap().expose().to_vec();
    let (mut taken, mut refused) = (0, 0);
    for at in 0..plain.len() {
        for value in [plain[at] ^ 1, plain[at] ^ 0x80, plain[at].wrapping_add(4), 0, 0xff] {
            let mut lie = plain.clone();
            lie[at] = value;
            let mut member = old.member(0);
            let outcome = give(&mut member, &old.push_octets(payload::SEQ, &lie));
            is_sound(&member, &outcome);
            match outcome {
                Ok(_) => taken += 1,
                Err(_) => {
                    refused += 1;
                    assert_eq!(member.newest().map(|(spi, _)| *spi), Some(old.spi), "octet {at}");
                    assert!(!member.knows(&new.spi), "octet {at}");
                }
            }
        }
    }
    assert!(taken > 100 && refused > 1000, "{taken} taken, {refused} refused");
}

/// So is each payload missing, twice, empty, or cut.
#[test]
fn payloads_may_be_missing_repeated_or_cut() {
    let (old, new) = (attacker(3), attacker(4));
    let all = genuine(&new);
    for at in 0..all.len() {
        let mut missing = all.clone();
        missing.remove(at);
        let mut twice = all.clone();
        twice.insert(at, all[at].clone());
        let cuts = (0..all[at].1.len()).map(|len| {
            let mut cut = all.clone();
            cut[at].1.truncate(len);
            cut
        });
        for payloads in cuts.chain([missing, twice]) {
            let mut member = old.member(0);
            let outcome = give(&mut member, &old.push(&payloads, Readings::NONE));
            is_sound(&member, &outcome);
            if outcome.is_err() {
                assert!(!member.knows(&new.spi));
            }
        }
    }
}

fn any_attribute() -> impl Strategy<Value = (u16, Option<u16>, Vec<u8>)> {
    let small = prop_oneof![4 => 0u16..16, 1 => any::<u16>()];
    let value = prop_oneof![4 => 0u16..6, 2 => prop::sample::select(vec![128u16, 192, 256]), 1 => any::<u16>()];
    (small, prop::option::weighted(0.6, value), prop::collection::vec(any::<u8>(), 0..40))
}

fn attribute((kind, short, octets): &(u16, Option<u16>, Vec<u8>)) -> Attribute<'_> {
    let value = short.map_or(AttributeValue::Long(octets), AttributeValue::Short);
    Attribute { kind: kind & 0x7fff, value }
}

type AnyAttributes = Vec<(u16, Option<u16>, Vec<u8>)>;

fn any_attributes() -> impl Strategy<Value = AnyAttributes> {
    prop::collection::vec(any_attribute(), 0..5)
}

/// The good attributes, some left out, some others added.
fn spoiled<'a>(good: &[Attribute<'a>], keep: u16, more: &'a AnyAttributes) -> Vec<Attribute<'a>> {
    let kept = good.iter().enumerate().filter(|(i, _)| keep & (1 << i) != 0).map(|(_, a)| *a);
    kept.chain(more.iter().map(attribute)).collect()
}

/// Mostly all ones, so that most of what is good stays.
fn mask() -> impl Strategy<Value = u16> {
    prop_oneof![3 => Just(0xffffu16), 1 => any::<u16>()]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Pushes with well-formed payloads that say what they like, one after the other: bounded memory, nothing unsound, and
    /// the member still follows a genuine one under any KEK that it has left.
    #[test]
    fn any_policy_and_any_keys_are_survived(
        rounds in prop::collection::vec(
            (
                (any::<bool>(), mask(), any_attributes(), 0u8..4),
                prop::collection::vec((mask(), any_attributes(), 0x0ff0u32..0x1010, 0u8..24), 0..4),
                prop::collection::vec((0u8..6, prop::collection::vec(any::<u8>(), 0..17), mask(), any_attributes()), 0..5),
                prop::collection::vec((0u32..3, 0u8..5, 1u8..17, prop::collection::vec(any::<u8>(), 0..3)), 0..3),
                prop::option::of(any_attributes()),
            ),
            1..8,
        )
    ) {
        let old = attacker(3);
        let mut member = old.member(0);
        for (n, ((kek, keep, more, spi), teks, packets, deletes, gap)) in rounds.iter().enumerate() {
            let new = attacker(0x40 | *spi);
            let mut parts = Vec::new();
            if *kek {
                let good = sak(&new);
                let attributes = spoiled(&good.attributes, *keep, more);
                parts.push((payload::SAK, Sak { attributes, ..good.clone() }.to_vec()));
            }
            if let Some(attributes) = gap {
                parts.push((payload::GAP, Gap { attributes: attributes.iter().map(attribute).collect() }.to_vec()));
            }
            for (keep, more, spi, transform) in teks {
                let Sat::Esp(good) = sat(*spi) else { unreachable!("it is made so") };
                let attributes = spoiled(&good.attributes, *keep, more);
                let transform = if *transform < 20 { good.transform } else { *transform };
                parts.push((payload::SAT, Sat::Esp(EspTek { attributes, transform, ..good.clone() }).to_vec()));
            }
            let spki = new.signer.public_spki();
            let (_, good_kd) = kd(kek.then_some((&new, Some(spki.as_slice()))), &teks.iter().map(|t| t.2).collect::<Vec<_>>());
            let good_kd = <Kd<'_> as keyferry_wire::Decode>::exact(&good_kd).unwrap();
            let mut all: Vec<KeyPacket<'_>> = good_kd.packets.clone();
            for (kind, spi, keep, more) in packets {
                let good = all.first().map(|p| p.attributes.clone()).unwrap_or_default();
                let attributes = spoiled(&good, *keep, more);
                all.push(KeyPacket { kind: KeyPacketType(*kind), spi, attributes });
            }
            let mut payloads = vec![seq(u32::try_from(n).unwrap() + 1)];
            for (doi, protocol, size, octets) in deletes {
                let spis: Vec<u8> = octets.iter().flat_map(|b| vec![*b; usize::from(*size)]).collect();
                if !spis.is_empty() {
                    payloads.push(delete(Doi(*doi), *protocol, *size, &spis));
                }
            }
            payloads.push((payload::SA, encode_parts(Doi::GDOI, 0, &parts, n % 2 == 0)));
            if n % 2 != 0 {
                payloads.extend(parts.clone());
            }
            payloads.push((payload::KD, Kd { packets: all }.to_vec()));
            let outcome = give(&mut member, &old.push(&payloads, Readings::NONE));
            is_sound(&member, &outcome);
        }
        if member.knows(&old.spi) {
            let last = [seq(1000), sa(None, None, &[0x2000]), kd(None, &[0x2000])];
            let applied = give(&mut member, &old.push(&last, Readings::NONE));
            prop_assert!(applied.is_ok());
        }
    }

    /// Any octets at all where payloads should be.
    #[test]
    fn any_octets_in_a_push_are_survived(first in any::<u8>(), octets in prop::collection::vec(any::<u8>(), 0..200)) {
        let old = attacker(3);
        let mut member = old.member(0);
        let outcome = give(&mut member, &old.push_octets(first, &octets));
        prop_assert!(outcome.is_err() || chain(first, &octets).is_ok());
        is_sound(&member, &outcome);
    }
}
