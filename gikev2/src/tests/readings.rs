//! What the text leaves open, and what a key server must not do: messages composed by hand under a group's real keys.

use std::borrow::Cow;
use std::time::Duration;

use keyferry_crypto::{Secret, SignatureScheme};
use keyferry_model::plan::RekeyReason;
use keyferry_model::policy::RekeyAuthentication;
use keyferry_model::update::{GroupUpdate, MemberEvent};
use keyferry_wire::{ChainWriter, Encode, Header};

use super::support::*;
use crate::ike_sa::init::header;
use crate::policy::identity::group_to_wire;
use crate::policy::to_wire;
use crate::registration::grant::evaluate;
use crate::reject::Reject;
use crate::rekey::receive::Rekey;
use crate::rekey::signature::chunk_a;
use crate::wire::auth::{Auth, SignatureData};
use crate::wire::delete::Delete;
use crate::wire::gsa::{Gsa, GwPolicy, SaPolicy};
use crate::wire::kd::{GroupBag, Kd, MemberBag};
use crate::wire::message::{GroupKeys, Payloads};
use crate::wire::notify::Notify;
use crate::wire::registry::{AuthMethod, ExchangeType, NotifyType, PayloadKind, ProtocolId, flags};
use crate::wire::rules;
use crate::wire::sk::SkKeys;

/// How the signed octets are read (reading 1), and what may be wrong with a signature.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Zeroed {
    Value,
    ValueAbsent,
    Data,
    /// As `Value`, and then one bit of the signature is changed.
    Altered,
    /// As `Value`, by another algorithm than the group's.
    OtherAlgorithm,
    /// As `Value`, under another authentication method.
    OtherMethod,
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
fn compose(world: &mut World, payloads: Vec<Payload>, bits: u8, signed: Option<Zeroed>) -> Vec<u8> {
    numbered(world, 0, payloads, bits, signed)
}

fn numbered(
    world: &mut World,
    message_id: u32,
    mut payloads: Vec<Payload>,
    bits: u8,
    signed: Option<Zeroed>,
) -> Vec<u8> {
    let sa = world.rekey_sa();
    let (mut spi_i, mut spi_r) = ([0; 8], [0; 8]);
    spi_i.copy_from_slice(&sa.spi[..8]);
    spi_r.copy_from_slice(&sa.spi[8..]);
    let header = header(ExchangeType::GSA_REKEY, spi_i, spi_r, bits, message_id);
    if let Some(reading) = signed {
        let scheme = match reading {
            Zeroed::OtherAlgorithm => SignatureScheme::RsaPkcs1Sha384,
            Zeroed::Value | Zeroed::ValueAbsent | Zeroed::Data | Zeroed::Altered | Zeroed::OtherMethod => {
                SignatureScheme::RsaPkcs1Sha256
            }
        };
        let method = if reading == Zeroed::OtherMethod { AuthMethod::RSA } else { AuthMethod::DIGITAL_SIGNATURE };
        let len = signer().signature_len();
        let auth = |value: &[u8]| {
            let data = SignatureData { algorithm: scheme.algorithm_identifier(), value }.to_vec();
            Auth { method, data: Cow::Owned(data) }.to_vec()
        };
        payloads.push((PayloadKind::AUTH, auth(&vec![0; len])));
        let (first, mut inner) = chain(&payloads);
        let a = chunk_a(&header, first, 0, inner.len());
        let data_len = 1 + scheme.algorithm_identifier().len() + len;
        match reading {
            Zeroed::Value | Zeroed::Altered | Zeroed::OtherAlgorithm | Zeroed::OtherMethod => {}
            Zeroed::ValueAbsent => inner.truncate(inner.len() - len),
            Zeroed::Data => {
                let at = inner.len() - data_len;
                inner[at..].fill(0);
            }
        }
        let mut value = signer().sign(scheme, &[&a, &inner]).unwrap();
        value[len / 2] ^= u8::from(reading == Zeroed::Altered);
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

/// The ICV is right in all of these.
#[test]
fn a_signature_that_is_not_the_groups_is_refused() {
    let (mut world, at) = world(false);
    for (wrong, why) in [
        (Zeroed::Altered, "wrong signature"),
        (Zeroed::OtherAlgorithm, "not the group's signature algorithm"),
        (Zeroed::OtherMethod, "not a digital signature"),
    ] {
        let message = compose(&mut world, vec![all(ProtocolId::ESP, 4, &[0; 4])], 0, Some(wrong));
        assert_eq!(verdict(&world, at, &message).err(), Some(Reject::Unauthenticated(why)));
    }
}

/// RFC 7296 section 2.5, for a payload that is not understood.
#[test]
fn a_critical_payload_that_is_unknown_is_refused() {
    let (mut world, at) = world(true);
    let sa = world.rekey_sa();
    let (mut spi_i, mut spi_r) = ([0; 8], [0; 8]);
    spi_i.copy_from_slice(&sa.spi[..8]);
    spi_r.copy_from_slice(&sa.spi[8..]);
    let header = header(ExchangeType::GSA_REKEY, spi_i, spi_r, 0, 0);
    let keys = SkKeys::new(gcm(), &sa.keymat.expose()[..20], &[]).unwrap();
    for critical in [false, true] {
        let mut chain = ChainWriter::new();
        let (kind, delete) = all(ProtocolId::ESP, 4, &[0; 4]);
        chain.push(kind.0, &delete);
        match critical {
            true => chain.push_critical(200, &[1]),
            false => chain.push(200, &[1]),
        }
        let (first, inner) = chain.finish().unwrap();
        let message = keys.seal(&header, first, &inner, 0x77, &mut world.rng).unwrap();
        match verdict(&world, at, &message) {
            Ok(verdict) => assert!(!critical && matches!(verdict, Rekey::New(_))),
            Err(reject) => {
                assert!(critical);
                assert_eq!(reject, Reject::UnsupportedCritical(PayloadKind(200)));
                assert_eq!(reject.notify().unwrap().data.as_ref(), [200]);
            }
        }
    }
    // One that is known may be marked (RFC 7296 section 3.2).
    let mut chain = ChainWriter::new();
    let (kind, delete) = all(ProtocolId::ESP, 4, &[0; 4]);
    chain.push_critical(kind.0, &delete);
    let (first, inner) = chain.finish().unwrap();
    let message = keys.seal(&header, first, &inner, 0x77, &mut world.rng).unwrap();
    assert!(matches!(verdict(&world, at, &message), Ok(Rekey::New(_))));
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
    // A new Rekey SA with a word on how to authenticate, be it the same as before.
    let group = world.policy.clone();
    let payloads = fresh_rekey(&world, |rekey, _| rekey.transforms.extend(to_wire::gcauth_transform(&group)));
    let message = compose(&mut world, payloads, 0, None);
    assert_eq!(verdict(&world, at, &message).err(), Some(Reject::Misbehaved("the authentication method changes")));
    let payloads = fresh_rekey(&world, |_, _| {});
    let message = compose(&mut world, payloads, 0, None);
    assert!(matches!(verdict(&world, at, &message), Ok(Rekey::New(_))), "without it all is well");
}

const FRESH_SPI: [u8; 16] = [0x5a; 16];

/// GSA and KD that bring a new Rekey SA under GSK_w of the present one, changed by `change`.
fn fresh_rekey(world: &World, change: impl FnOnce(&mut SaPolicy<'_>, &mut Kd<'_>)) -> Vec<Payload> {
    let sa = world.rekey_sa();
    let group = &world.policy;
    let mut rekey = to_wire::rekey_policy(group, &sa, sa.remaining(world.now.wall), None).unwrap();
    rekey.spi = Cow::Borrowed(&FRESH_SPI);
    let default = to_wire::rekey_wrap_key(group, &sa).unwrap();
    let key = to_wire::wrapped(0, &Secret::new(vec![3; 36]), 0, &default).unwrap();
    let bag = GroupBag { protocol: ProtocolId::GIKE_UPDATE, spi: Cow::Borrowed(&FRESH_SPI), sa_keys: vec![key] };
    let mut kd = Kd { groups: vec![bag], member: None };
    change(&mut rekey, &mut kd);
    let group_wide = GwPolicy { activation_delay: None, deactivation_delay: Some(7), sender_id_bits: None };
    let gsa = Gsa { sas: vec![rekey], group_wide: Some(group_wide) };
    vec![(PayloadKind::GSA, gsa.to_vec()), (PayloadKind::KD, kd.to_vec())]
}

/// What a member makes of a new Rekey SA.
fn take_fresh(world: &mut World, at: usize, payloads: Vec<Payload>) {
    let message = compose(world, payloads, 0, None);
    world.multicast(&message);
    let spi: String = FRESH_SPI.iter().map(|b| format!("{b:02x}")).collect();
    assert_eq!(world.hosts[at].member.status().rekey_spi, Some(spi));
}

/// The Delete of the Rekey SA that the same message replaces says what happens anyway (reading 18).
#[test]
fn a_replaced_rekey_sa_may_be_deleted_in_the_same_message() {
    for delete_first in [false, true] {
        let (mut world, at) = world(true);
        let old = world.rekey_sa().spi;
        let keys = world.hosts[at].sas.clone();
        let mut payloads = fresh_rekey(&world, |_, _| {});
        let delete = all(ProtocolId::GIKE_UPDATE, 16, &old);
        payloads.insert(if delete_first { 0 } else { 2 }, delete);
        take_fresh(&mut world, at, payloads);
        assert_eq!(world.hosts[at].events.last(), Some(&MemberEvent::Rekeyed { counter: 0 }));
        assert_eq!(world.hosts[at].sas, keys);
        // The old one goes after the delay, as ever.
        assert_eq!(world.hosts[at].member.group_for_test().rekey_sas.len(), 2);
        world.pass(Duration::from_secs(8));
        assert_eq!(world.hosts[at].member.group_for_test().rekey_sas.len(), 1);
    }
    // A Delete of the old one alone, or of everything, still is the end.
    let (mut world, at) = world(true);
    let mut payloads = fresh_rekey(&world, |_, _| {});
    payloads.push(all(ProtocolId::GIKE_UPDATE, 16, &[0; 16]));
    let message = compose(&mut world, payloads, 0, None);
    assert!(matches!(verdict(&world, at, &message), Ok(Rekey::Excluded)));
}

/// Reading 15: a message ID that is told with a new Rekey SA is honoured, and none told means 0.
#[test]
fn a_first_message_id_may_be_told_in_a_rekey() {
    for told in [None, Some(5)] {
        let (mut world, at) = world(true);
        let payloads = fresh_rekey(&world, |rekey, _| rekey.initial_message_id = told);
        take_fresh(&mut world, at, payloads);
        assert_eq!(world.hosts[at].member.group_for_test().current().unwrap().expected, u64::from(told.unwrap_or(0)));
    }
}

/// Reading 26: a key path that ends at GSK_w replaces the working path.
#[test]
fn a_key_path_may_end_at_the_rekey_sa_itself() {
    let (mut world, at) = world(true);
    assert_ne!(world.hosts[at].member.group_for_test().path.len(), 2);
    let default = to_wire::rekey_wrap_key(&world.policy, &world.rekey_sa()).unwrap();
    let payloads = fresh_rekey(&world, |_, kd| {
        let (low, high) = (Secret::new(vec![8; 16]), Secret::new(vec![9; 16]));
        let low_wrap = to_wire::wrapped(777, &low, 0, &default).unwrap();
        let high_wrap = to_wire::wrapped(778, &high, 777, &low).unwrap();
        kd.member = Some(MemberBag { wrap_keys: vec![high_wrap, low_wrap], ..MemberBag::default() });
        kd.groups[0].sa_keys = vec![to_wire::wrapped(0, &Secret::new(vec![3; 36]), 778, &high).unwrap()];
    });
    take_fresh(&mut world, at, payloads);
    assert_eq!(world.hosts[at].member.group_for_test().path.len(), 2);
}

/// What a registration of member `n` gives, with this GROUP_SENDER.
fn registration(world: &mut World, n: u8, sender: Option<u32>) -> GroupUpdate {
    let settings = world.settings(n);
    let mut request = ChainWriter::new();
    request.push(PayloadKind::ID_G.0, &group_to_wire(&settings.group).unwrap().to_vec());
    if let Some(count) = sender {
        let count = Notify::new(NotifyType::GROUP_SENDER, count.to_be_bytes().to_vec());
        request.push(PayloadKind::NOTIFY.0, &count.to_vec());
    }
    let (inner, first, default) = world.answer(n, request);
    let payloads = Payloads::parse(first, &inner, rules::REGISTRATION_RESPONSE).unwrap();
    let keys = GroupKeys::of(&payloads).unwrap();
    evaluate(&keys, &default, u32::from(sender.is_some()), world.now.mono, None).unwrap().update
}

/// Reading 11: who will send and asks for no sender ID gets one.
#[test]
fn a_sender_that_asks_for_none_gets_one_id() {
    let mut world = World::new(policy(false));
    assert_eq!(registration(&mut world, 1, Some(0)).sender_ids.unwrap().ids, [0]);
    assert_eq!(registration(&mut world, 2, Some(1)).sender_ids.unwrap().ids, [1]);
    // And who will not send gets none (table 2).
    assert_eq!(registration(&mut world, 3, None).sender_ids, None);
}

/// Reading 34: a member that joins late is told what remains.
#[test]
fn a_late_member_is_told_what_remains() {
    let mut world = World::new(policy(false));
    let early = registration(&mut world, 1, Some(1)).install[0].lifetime;
    assert_eq!(early, Duration::from_secs(3600));
    world.pass(Duration::from_secs(600));
    assert_eq!(registration(&mut world, 2, Some(1)).install[0].lifetime, Duration::from_secs(3000));
    let at = world.join(3);
    let end = world.hosts[at].member.group_for_test().current().unwrap().expires;
    assert_eq!(end, world.now.mono + Duration::from_secs(86_400 - 600));
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

/// RFC 9838 section 8.2.4: after the last message ID of a Rekey SA nothing new can come over it, and that one but once.
#[test]
fn message_ids_of_a_rekey_sa_do_not_come_round() {
    let (mut world, at) = world(false);
    let last = numbered(&mut world, u32::MAX, vec![all(ProtocolId::ESP, 4, &[0; 4])], 0, Some(Zeroed::Value));
    let first = compose(&mut world, vec![all(ProtocolId::ESP, 4, &[0; 4])], 0, Some(Zeroed::Value));
    for (copies, rejected) in [(0, 1), (1, 2), (2, 3)] {
        world.multicast(&last);
        world.multicast(&first);
        let status = world.hosts[at].member.status();
        assert_eq!((status.rekeys, status.copies, status.rejected), (1, copies, rejected));
        assert_eq!(status.last_counter, Some(u32::MAX));
    }
}
