//! What the text leaves open, and what a key server must not do: messages composed by hand under a group's real keys.

use std::borrow::Cow;

use keyferry_crypto::SignatureScheme;
use keyferry_model::plan::RekeyReason;
use keyferry_model::policy::RekeyAuthentication;
use keyferry_wire::{ChainWriter, Encode, Header};

use super::support::*;
use crate::ike_sa::init::header;
use crate::policy::to_wire;
use crate::reject::Reject;
use crate::rekey::receive::Rekey;
use crate::rekey::signature::chunk_a;
use crate::wire::auth::{Auth, SignatureData};
use crate::wire::delete::Delete;
use crate::wire::gsa::Gsa;
use crate::wire::kd::{Kd, MemberBag};
use crate::wire::registry::{AuthMethod, ExchangeType, PayloadKind, ProtocolId, flags};
use crate::wire::sk::SkKeys;

/// How the signed octets are read (reading 1).
#[derive(Clone, Copy)]
enum Zeroed {
    Value,
    ValueAbsent,
    Data,
}

type Payload = (PayloadKind, Vec<u8>);

fn all(protocol: ProtocolId, spi_len: u8, spis: &[u8]) -> Payload {
    (PayloadKind::DELETE, Delete { protocol, spi_len, spis: Cow::Borrowed(spis) }.to_vec())
}

fn chain(payloads: &[Payload]) -> (u8, Vec<u8>) {
    let mut chain = ChainWriter::new();
    payloads.iter().for_each(|(kind, body)| chain.push(kind.0, body));
    chain.finish().unwrap()
}

/// A message under the group's present Rekey SA, signed by one of the readings if at all.
fn compose(world: &mut World, mut payloads: Vec<Payload>, bits: u8, signed: Option<Zeroed>) -> Vec<u8> {
    let sa = world.rekey_sa();
    let (mut spi_i, mut spi_r) = ([0; 8], [0; 8]);
    spi_i.copy_from_slice(&sa.spi[..8]);
    spi_r.copy_from_slice(&sa.spi[8..]);
    let header = header(ExchangeType::GSA_REKEY, spi_i, spi_r, bits, 0);
    if let Some(reading) = signed {
        let scheme = SignatureScheme::RsaPkcs1Sha256;
        let len = signer().signature_len();
        let auth = |value: &[u8]| {
            let data = SignatureData { algorithm: scheme.algorithm_identifier(), value }.to_vec();
            Auth { method: AuthMethod::DIGITAL_SIGNATURE, data: Cow::Owned(data) }.to_vec()
        };
        payloads.push((PayloadKind::AUTH, auth(&vec![0; len])));
        let (first, mut inner) = chain(&payloads);
        let a = chunk_a(&header, first, 0, inner.len());
        let data_len = 1 + scheme.algorithm_identifier().len() + len;
        match reading {
            Zeroed::Value => {}
            Zeroed::ValueAbsent => inner.truncate(inner.len() - len),
            Zeroed::Data => {
                let at = inner.len() - data_len;
                inner[at..].fill(0);
            }
        }
        let value = signer().sign(scheme, &[&a, &inner]).unwrap();
        payloads.pop();
        payloads.push((PayloadKind::AUTH, auth(&value)));
    }
    let (first, inner) = chain(&payloads);
    let keys = SkKeys::new(gcm(), &sa.keymat.expose()[..20], &[]).unwrap();
    keys.seal(&header, first, &inner, 0x77, &mut world.rng).unwrap()
}

fn world(implicit: bool) -> (World, usize) {
    let mut group = policy(false);
    if implicit {
        group.gikev2.as_mut().unwrap().authentication = RekeyAuthentication::Implicit;
    }
    let mut world = World::new(group);
    let at = world.join(1);
    (world, at)
}

fn verdict(world: &World, at: usize, message: &[u8]) -> Result<Rekey, Reject> {
    let (header, _) = Header::decode(message).unwrap();
    world.hosts[at].member.group_for_test().verify(&header, message, true, world.now.mono, None)
}

#[test]
fn a_signature_may_be_read_in_three_ways() {
    let (mut world, at) = world(false);
    for reading in [Zeroed::Value, Zeroed::ValueAbsent, Zeroed::Data] {
        let message = compose(&mut world, vec![all(ProtocolId::ESP, 4, &[0; 4])], 0, Some(reading));
        assert!(matches!(verdict(&world, at, &message), Ok(Rekey::New(_))));
    }
    let message = compose(&mut world, vec![all(ProtocolId::ESP, 4, &[0; 4])], 0, None);
    assert_eq!(verdict(&world, at, &message).err(), Some(Reject::Unauthenticated("not signed")));
}

#[test]
fn a_signature_has_no_place_under_implicit_authentication() {
    let (mut world, at) = world(true);
    let message = compose(&mut world, vec![all(ProtocolId::ESP, 4, &[0; 4])], 0, Some(Zeroed::Value));
    assert!(matches!(verdict(&world, at, &message), Err(Reject::Misbehaved(_))));
}

#[test]
fn the_initiator_flag_may_be_either_and_the_response_flag_may_not() {
    let (mut world, at) = world(false);
    let delete = || vec![all(ProtocolId::ESP, 4, &[0; 4])];
    let message = compose(&mut world, delete(), flags::INITIATOR, Some(Zeroed::Value));
    assert!(matches!(verdict(&world, at, &message), Ok(Rekey::New(_))));
    let message = compose(&mut world, delete(), flags::RESPONSE, Some(Zeroed::Value));
    assert!(verdict(&world, at, &message).is_err());
}

#[test]
fn everything_is_deleted_in_three_ways() {
    let (mut world, at) = world(true);
    for delete in [
        all(ProtocolId::GIKE_UPDATE, 16, &[0; 16]),
        all(ProtocolId::GIKE_UPDATE, 16, &[]),
        all(ProtocolId::GIKE_UPDATE, 0, &[]),
        all(ProtocolId::NONE, 0, &[]),
        all(ProtocolId::GIKE_UPDATE, 16, &world.rekey_sa().spi),
    ] {
        let message = compose(&mut world, vec![delete], 0, None);
        assert!(matches!(verdict(&world, at, &message), Ok(Rekey::Excluded)));
    }
    // Another Rekey SA's end is none of ours; AH there never was.
    for delete in [all(ProtocolId::GIKE_UPDATE, 16, &[9; 16]), all(ProtocolId::AH, 4, &[0; 4])] {
        let message = compose(&mut world, vec![delete], 0, None);
        assert!(matches!(verdict(&world, at, &message), Ok(Rekey::New(_))));
    }
}

#[test]
fn what_belongs_into_registrations_is_refused_in_rekeys() {
    let (mut world, at) = world(true);
    let kd = |bag| (PayloadKind::KD, Kd { groups: Vec::new(), member: Some(bag) }.to_vec());
    let ids = MemberBag { sender_ids: vec![Cow::Borrowed(&[0, 0, 0, 1])], ..MemberBag::default() };
    let message = compose(&mut world, vec![kd(ids)], 0, None);
    assert_eq!(verdict(&world, at, &message).err(), Some(Reject::Misbehaved("sender IDs in a rekey")));
    let key = MemberBag { auth_key: Some(Cow::Owned(signer().public_spki())), ..MemberBag::default() };
    let message = compose(&mut world, vec![kd(key)], 0, None);
    assert!(matches!(verdict(&world, at, &message), Err(Reject::Misbehaved(_))));
    // A new Rekey SA with another way to authenticate.
    let plan = world.plan_steps(RekeyReason::Eviction, &[]);
    let sa = plan.steps.iter().find_map(|s| s.new_rekey.as_ref()).map(|n| &n.sa);
    let sa = sa.cloned().unwrap_or_else(|| world.rekey_sa());
    let mut spi = sa.spi;
    spi[15] ^= 1;
    let mut rekey = to_wire::rekey_policy(&plan.policy, &sa, sa.remaining(world.now.wall), None).unwrap();
    rekey.spi = Cow::Borrowed(&spi);
    rekey.transforms.extend(to_wire::gcauth_transform(&plan.policy));
    let gsa = Gsa { sas: vec![rekey], group_wide: None }.to_vec();
    let message = compose(&mut world, vec![(PayloadKind::GSA, gsa)], 0, None);
    assert!(verdict(&world, at, &message).is_err());
}

/// A key that comes in a rekey verifies the messages after it (reading 25).
#[test]
fn another_signature_key_holds_for_what_follows() {
    let (mut world, at) = world(false);
    let other = keyferry_crypto::SigningKey::generate_rsa(2048).unwrap();
    let bag = MemberBag { auth_key: Some(Cow::Owned(other.public_spki())), ..MemberBag::default() };
    let kd = Kd { groups: Vec::new(), member: Some(bag) }.to_vec();
    let message = compose(&mut world, vec![(PayloadKind::KD, kd)], 0, Some(Zeroed::Value));
    world.multicast(&message);
    assert_eq!(world.hosts[at].member.status().rekeys, 1);
    // The old key is worth nothing now.
    let _ = world.plan(RekeyReason::Operator, &[]);
    let second = world.plan(RekeyReason::Operator, &[]).remove(0);
    world.multicast(&second);
    assert_eq!((world.hosts[at].member.status().rekeys, world.hosts[at].member.status().rejected), (1, 1));
}
