//! What registrations and rekeys in band tell, and what members ask: messages as they are built, read again.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use keyferry_crypto::Secret;
use keyferry_model::id::GroupId;
use keyferry_model::plan::RekeyReason;
use keyferry_model::policy::*;
use keyferry_model::update::MemberEvent;
use keyferry_wire::ChainWriter;

use super::support::*;
use crate::policy::sag;
use crate::registration::grant::evaluate;
use crate::registration::request::{join, leave};
use crate::rekey::in_band;
use crate::wire::gsa::Gsa;
use crate::wire::message::{GroupKeys, Payloads, Registration};
use crate::wire::registry::{ExchangeType, NotifyType, ProtocolId, TransformType, sn};
use crate::wire::rules;

fn built(chain: ChainWriter) -> (u8, Vec<u8>) {
    chain.finish().unwrap()
}

/// RFC 9838 sections 2.3.1, 2.3.3, 4.5.4 and 4.7.4: SAg with the key wrap algorithms and no SPIs, and how many sender IDs are wanted.
#[test]
fn members_say_what_they_can_do_and_whether_they_send() {
    let world = World::new(policy(false));
    for wanted in [0, 1, 9] {
        let mut settings = world.settings(1);
        settings.sender_ids = wanted;
        let mut chain = ChainWriter::new();
        join(&settings, &settings.group, &mut chain);
        let (first, body) = built(chain);
        let asked = Registration::request(first, &body).unwrap();
        assert_eq!(asked.sender, Some(wanted).filter(|n| *n > 0));
        let sag = asked.transforms.unwrap();
        assert!(sag.proposals.iter().all(|p| p.spi.is_empty()));
        assert_eq!(sag::understood(&sag).wrap_key_lens, [16, 24, 32]);
        assert!(asked.leaving.is_none() && !asked.acks);
        let notify = Payloads::parse(first, &body, rules::REGISTRATION_REQUEST).unwrap();
        let count = notify.notify(NotifyType::GROUP_SENDER).map(|n| (n.protocol, n.spi.len(), n.data.to_vec()));
        let told = (ProtocolId::NONE, 0, wanted.to_be_bytes().to_vec());
        assert_eq!(count, Some(told).filter(|_| wanted > 0));
    }
    let mut chain = ChainWriter::new();
    leave(&GroupId::Number(GROUP), NotifyType::REGISTRATION_FAILED, &mut chain);
    let (first, body) = built(chain);
    assert_eq!(Registration::request(first, &body).unwrap().leaving, Some(NotifyType::REGISTRATION_FAILED));
}

/// RFC 9838 section 2.3.3: SPIs in SAg, of whatever size, mean nothing.
#[test]
fn spis_in_sag_are_not_looked_at() {
    let group = policy(false);
    let mut told = sag::capabilities();
    for (at, p) in told.proposals.iter_mut().enumerate() {
        p.spi = vec![0xff; 4 + at].into();
    }
    assert!(sag::suits(&told, &group, true));
    assert_eq!(sag::understood(&told), sag::understood(&sag::capabilities()));
}

/// The answer to a member's registration.
fn registration(world: &mut World, sender: bool) -> (u8, Vec<u8>) {
    registration_and_key(world, sender).0
}

/// Likewise, and the key that its keys are under.
fn registration_and_key(world: &mut World, sender: bool) -> ((u8, Vec<u8>), Secret) {
    let mut settings = world.settings(1);
    settings.sender_ids = u32::from(sender);
    settings.gikev2.ack = true;
    let mut chain = ChainWriter::new();
    join(&settings, &settings.group, &mut chain);
    let (body, first, key) = world.answer(1, chain);
    ((first, body), key)
}

fn with(options: Gikev2Options) -> World {
    let mut group = policy(false);
    group.gikev2.as_mut().unwrap().options = options;
    World::new(group)
}

fn read<'a>((first, body): &'a (u8, Vec<u8>)) -> GroupKeys<'a> {
    GroupKeys::of(&Payloads::parse(*first, body, rules::REGISTRATION_RESPONSE).unwrap()).unwrap()
}

fn next_spis(gsa: &Gsa<'_>) -> usize {
    gsa.sas.iter().map(|sa| sa.next_spis.len()).sum()
}

/// RFC 9838 table 2: what members that follow GSA_REKEY are told, and table 3: those that are rekeyed in band.
#[test]
fn attributes_are_those_of_the_tables() {
    for (in_band, sender) in
        [(InBand::Nobody, true), (InBand::Nobody, false), (InBand::Senders, true), (InBand::Everybody, false)]
    {
        let mut world = with(Gikev2Options { in_band, ack: true, next_spis: true, ..Gikev2Options::default() });
        let told = registration(&mut world, sender);
        let keys = read(&told);
        let (gsa, kd) = (keys.gsa.as_ref().unwrap(), keys.kd.as_ref().unwrap());
        let rekey: Vec<_> = gsa.sas.iter().filter(|sa| sa.protocol == ProtocolId::GIKE_UPDATE).collect();
        let member = kd.member.clone().unwrap_or_default();
        let multicast = !in_band.covers(sender);
        assert_eq!((rekey.len(), next_spis(gsa)), if multicast { (1, 2) } else { (0, 0) }, "{in_band:?}");
        assert_eq!((!member.wrap_keys.is_empty(), member.auth_key.is_some()), (multicast, multicast));
        assert_eq!(keys.acks, multicast);
        assert_eq!(kd.groups.len(), gsa.sas.len());
        let lifetimes = gsa.sas.iter().filter(|sa| sa.lifetime.is_some()).count();
        assert_eq!(lifetimes, if in_band == InBand::Everybody { 0 } else { gsa.sas.len() });
        // The first message ID is zero, and not told.
        assert!(gsa.sas.iter().all(|sa| sa.initial_message_id.is_none()));
        assert_eq!(member.sender_ids.len(), usize::from(sender));
        assert_eq!(gsa.group_wide.unwrap().sender_id_bits.is_some(), sender);
    }
}

#[test]
fn rekeys_in_band_tell_keys_and_nothing_of_registrations() {
    let options = Gikev2Options { in_band: InBand::Senders, next_spis: true, ..Gikev2Options::default() };
    let mut world = with(options);
    registration(&mut world, true);
    let plan = world.plan_steps(RekeyReason::Operator, &[]);
    let step = plan.in_band.as_ref().unwrap();
    let default = Secret::new(vec![7; 32]);
    let messages = in_band::told(&plan.policy, step, &default, world.now.wall).unwrap();
    assert_eq!(messages.len(), 2, "keys, then what they replace (reading 18)");
    let messages: Vec<_> = messages.into_iter().map(built).collect();
    let parse = |at: usize| {
        let (first, body): &(u8, Vec<u8>) = &messages[at];
        GroupKeys::of(&Payloads::parse(*first, body, rules::INBAND_REKEY).unwrap()).unwrap()
    };
    let (keys, delete) = (parse(0), parse(1));
    let gsa = keys.gsa.as_ref().unwrap();
    assert!(gsa.sas.len() == 1 && gsa.sas[0].protocol == ProtocolId::ESP && next_spis(gsa) == 0);
    assert_eq!(gsa.group_wide.unwrap().sender_id_bits, None);
    assert!(keys.kd.as_ref().unwrap().member.is_none() && keys.deletes.is_empty());
    assert!(delete.gsa.is_none() && delete.kd.is_none() && delete.deletes.len() == 1);
}

/// RFC 9838 section 2.4.1.4: a Rekey SA that nobody replaces is reason enough to ask for another.
#[test]
fn a_rekey_sa_about_to_expire_is_asked_for_in_time() {
    let mut group = policy(false);
    group.kek_lifetime = Duration::from_secs(900);
    let mut world = World::new(group);
    let at = world.join(1);
    world.pass(Duration::from_secs(800));
    assert_eq!(world.hosts[at].member.status().registrations, 1);
    world.pass(Duration::from_secs(99));
    assert!(world.hosts[at].member.status().registrations > 1);
}

/// RFC 9838 section 2.3.3: what a registration brings takes the place of all that was known.
#[test]
fn a_registration_replaces_what_was_known() {
    let mut world = World::new(policy(false));
    let at = world.join(1);
    let old = world.hosts[at].sas.clone();
    world.rekey(RekeyReason::Operator, &[]);
    world.hosts[at].listens.clear();
    world.plan(RekeyReason::DeleteTeks, &[]);
    // Until what was replaced is told to nobody any more.
    world.pass(Duration::from_secs(30));
    world.model.expire(world.now);
    let _ = world.model.take_store_ops();
    world.start(at);
    world.run();
    assert_eq!(world.hosts[at].events.last(), Some(&MemberEvent::Registered));
    assert!(world.has_newest(at));
    assert!(world.hosts[at].sas.keys().all(|spi| world.live_spis().contains(spi) && !old.contains_key(spi)));
}

/// RFC 9838 section 4.5.4: keying material of data SAs and of the Rekey SA is told wrapped, to whoever reads the payloads.
#[test]
fn keys_are_never_told_unwrapped() {
    for in_band in [InBand::Nobody, InBand::Everybody] {
        let mut world = with(Gikev2Options { in_band, ..Gikev2Options::default() });
        let (told, key) = registration_and_key(&mut world, true);
        let grant = evaluate(&read(&told), &key, 1, world.now.mono, None).unwrap();
        let mut keys: Vec<Vec<u8>> = grant.update.install.iter().map(|sa| sa.keymat.expose().to_vec()).collect();
        assert_eq!(keys.len(), 1);
        if in_band == InBand::Nobody {
            keys.push(world.rekey_sa().keymat.expose().to_vec());
        }
        for key in keys {
            assert!(key.len() >= 20 && told.1.windows(8).all(|part| !key.windows(8).any(|secret| secret == part)));
        }
    }
}

/// RFC 9838 section 4.4.2: rekeys may come from any address and port of a key server that has several.
#[test]
fn rekeys_come_from_anywhere() {
    let mut world = World::new(policy(false));
    let told = registration(&mut world, false);
    let keys = read(&told);
    let gsa = keys.gsa.as_ref().unwrap();
    let rekey = gsa.sas.iter().find(|sa| sa.protocol == ProtocolId::GIKE_UPDATE).unwrap();
    let (source, to) = (&rekey.source, &rekey.destination);
    assert_eq!((source.first.to_string(), source.last.to_string()), ("0.0.0.0".into(), "255.255.255.255".into()));
    assert_eq!((source.protocol, source.ports), (17, (0, 65_535)));
    assert_eq!((to.first, to.last, to.protocol, to.ports), ([239, 192, 0, 2].into(), to.first, 17, (848, 848)));
    // And so a member takes them, wherever they come from.
    let at = world.join(1);
    world.gateway = SocketAddr::new([10, 9, 9, 9].into(), 4242);
    world.rekey(RekeyReason::Operator, &[]);
    assert!(world.has_newest(at));
}

/// RFC 9838 section 4.4.2.1.3: numbers of one sender are sequential, those of several are not specified.
#[test]
fn sequence_numbers_say_whether_replays_can_be_told() {
    for (sequence, id) in
        [(SequenceNumbers::Sequential, sn::SEQUENTIAL_32), (SequenceNumbers::Unspecified, sn::UNSPECIFIED_32)]
    {
        let mut group = policy(false);
        let line = TrafficPolicy { sequence, ..(*group.traffic[0]).clone() };
        group.traffic = vec![Arc::new(line)];
        let mut world = World::new(group);
        let told = registration(&mut world, true);
        let keys = read(&told);
        let data = keys.gsa.as_ref().unwrap().sas.iter().find(|sa| sa.protocol == ProtocolId::ESP).unwrap();
        let numbers: Vec<u16> = data.transforms.iter().filter(|t| t.kind == TransformType::SN).map(|t| t.id).collect();
        assert_eq!(numbers, [id]);
        let at = world.join(1);
        let taken = &world.hosts[at].policies[0];
        assert_eq!((taken.sequence, taken.replay_window > 0), (sequence, sequence == SequenceNumbers::Sequential));
    }
}

/// RFC 9838 section 2.3.3: the Rekey SA is inbound only. Nothing that a member sends names it but acknowledgements, which it does
/// not protect; and SAs of several senders are for both ways, for who sends as well.
#[test]
fn members_send_nothing_over_the_rekey_sa() {
    let mut world = with(Gikev2Options { ack: true, ..Gikev2Options::default() });
    let mut settings = world.settings(1);
    settings.gikev2.ack = true;
    let at = world.add(settings);
    world.start(at);
    world.run();
    let spis = world.rekey_sa().spi;
    world.rekey(RekeyReason::Operator, &[]);
    world.rekey(RekeyReason::Operator, &[]);
    world.leave(at);
    world.pass(Duration::from_secs(20));
    let own = world.hosts[at].address;
    let sent: Vec<&Packet> = world.seen.iter().filter(|p| p.from == own && p.bytes[..16] == spis).collect();
    assert!(!sent.is_empty() && sent.iter().all(|p| p.exchange() == ExchangeType::REKEY_ACK.0));
}

/// RFC 9838 section 2.3.3 has SAs for one way alone: where several send under the same, who sends hears the others.
#[test]
fn sas_of_several_senders_are_for_both_ways() {
    for sender in [true, false] {
        let mut world = World::new(policy(false));
        let (told, key) = registration_and_key(&mut world, sender);
        let wanted = u32::from(sender);
        let grant = evaluate(&read(&told), &key, wanted, world.now.mono, None).unwrap();
        let ways: Vec<SaDirection> = grant.update.install.iter().map(|sa| sa.direction).collect();
        assert_eq!(ways, [SaDirection::Symmetric]);
    }
}
