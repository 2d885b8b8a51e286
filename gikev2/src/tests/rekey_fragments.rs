//! GSA_REKEY in fragments (RFC 9838 section 2.4.1.2).

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use keyferry_crypto::{Random, SeededRandom};
use keyferry_model::drive::Via;
use keyferry_model::plan::RekeyReason;
use keyferry_model::policy::{GroupPolicy, RekeyAuthentication};
use keyferry_model::update::MemberEvent;
use keyferry_wire::Header;

use super::support::*;
use crate::rekey;
use crate::wire::registry::{ExchangeType, PayloadKind};
use crate::wire::sk::{Fragment, SkKeys, datagrams};

/// The longest IP packet, and the datagram that fits in it.
const PACKET: usize = 300;
const DATAGRAM: usize = PACKET - 52;

fn group() -> GroupPolicy {
    let mut group = policy(false);
    group.gikev2.as_mut().unwrap().options.fragment_size = Some(PACKET);
    group
}

/// Datagrams of GSA_REKEY that were sent.
fn rekeys(world: &World) -> Vec<Vec<u8>> {
    let of = world.seen.iter().filter(|p| p.exchange() == ExchangeType::GSA_REKEY.0);
    of.map(|p| p.bytes.clone()).collect()
}

/// The datagrams of the next rekey, which nobody has got yet.
fn next(world: &mut World) -> Vec<Vec<u8>> {
    let message = world.plan(RekeyReason::Operator, &[]).remove(0);
    let parts: Vec<_> = datagrams(&message).into_iter().map(<[u8]>::to_vec).collect();
    assert!(parts.len() >= 3, "{} fragments", parts.len());
    parts
}

/// The keys of the present Rekey SA, which every member has.
fn keys(world: &World) -> SkKeys {
    let sa = world.rekey_sa();
    let (e, a) = gcm().key_lens();
    SkKeys::new(gcm(), &sa.keymat.expose()[..e], &sa.keymat.expose()[e..e + a]).unwrap()
}

/// A message that some member makes, like this one but with these octets inside, in about so many fragments.
fn forged(world: &mut World, like: &[u8], message_id: u32, len: usize, limit: usize) -> Vec<Vec<u8>> {
    let (header, _) = Header::decode(like).unwrap();
    let header = Header { message_id, ..header };
    let unique = world.rng.u64();
    let (message, _) =
        keys(world).seal_within(limit, &header, PayloadKind::GSA.0, &vec![7; len], unique, &mut world.rng).unwrap();
    datagrams(&message).into_iter().map(<[u8]>::to_vec).collect()
}

#[test]
fn long_rekeys_go_in_fragments_and_are_followed() {
    for (implicit, use_cbc) in [(false, false), (true, false), (false, true), (true, true)] {
        let mut group = group();
        let options = group.gikev2.as_mut().unwrap();
        // What nobody signs is shorter.
        options.options.fragment_size = Some(if implicit { 160 } else { PACKET });
        if implicit {
            options.authentication = RekeyAuthentication::Implicit;
        }
        if use_cbc {
            options.protection = cbc();
            options.wrap_key_len = 32;
        }
        let mut world = World::new(group);
        let all: Vec<usize> = (1..=3).map(|n| world.join(n)).collect();
        for _ in 0..3 {
            world.rekey(RekeyReason::Operator, &[]);
            assert!(all.iter().all(|at| world.has_newest(*at)));
        }
        // Both messages of an exclusion.
        world.rekey(RekeyReason::Eviction, &[identity(2)]);
        assert!(world.has_newest(all[0]) && world.has_newest(all[2]) && !world.has_newest(all[1]));
        assert_eq!(world.hosts[all[1]].events.last(), Some(&MemberEvent::Excluded));
        let sent = rekeys(&world);
        let limit = if implicit { 64 + 28 + 8 + 80 } else { DATAGRAM };
        assert!(sent.len() >= 10 && sent.iter().all(|d| Fragment::of(d).is_some() && d.len() <= limit));
        assert_eq!(world.hosts[all[0]].member.status().rejected, 0);
        // No two have the same IV.
        let ivs: BTreeSet<_> = sent.iter().map(|d| d[36..44].to_vec()).collect();
        assert_eq!(ivs.len(), sent.len());
    }
}

/// Each kind of signature covers the message as if it had never been cut up (reading 5).
#[test]
fn the_signature_is_that_of_the_whole_message() {
    for authentication in signatures() {
        let mut group = group();
        let options = group.gikev2.as_mut().unwrap();
        (options.authentication, options.options.fragment_size) = (authentication, Some(160));
        let mut world = World::new(group);
        let at = world.join(1);
        for _ in 0..3 {
            world.rekey(RekeyReason::Operator, &[]);
            assert!(world.has_newest(at));
        }
        assert!(rekeys(&world).len() >= 6);
    }
}

/// Whole where it fits, where nothing is said of fragments, and where one who is to read it takes none.
#[test]
fn rekeys_go_whole_unless_all_who_listen_take_fragments() {
    for (size, able, fragments) in
        [(None, true, false), (Some(PACKET), true, true), (Some(PACKET), false, false), (Some(1280), true, false)]
    {
        let mut group = group();
        group.gikev2.as_mut().unwrap().options.fragment_size = size;
        let mut world = World::new(group);
        let at = world.join(1);
        if !able {
            // It registers over an IKE SA for which fragments were not agreed on.
            world.server.sa_for_test().unwrap().set_limit(None);
            world.start(at);
            world.run();
            assert_eq!(world.server.counters().registered, 2);
        }
        let other = world.join(2);
        let told = |world: &World| {
            world.model.group("g").unwrap().member_views().iter().map(|m| m.fragments).collect::<Vec<_>>()
        };
        assert_eq!(told(&world), [able, true]);
        world.rekey(RekeyReason::Operator, &[]);
        assert!(world.has_newest(at) && world.has_newest(other));
        assert!(rekeys(&world).iter().all(|d| Fragment::of(d).is_some() == fragments), "{size:?} {able}");
        // Who is excluded need not read what excludes it.
        world.seen.clear();
        world.rekey(RekeyReason::Eviction, &[identity(1)]);
        assert!(world.has_newest(other));
        assert!(rekeys(&world).iter().all(|d| Fragment::of(d).is_some() == (size == Some(PACKET))));
    }
}

/// A message that would be more than members put together goes whole.
#[test]
fn what_is_too_long_for_fragments_goes_whole() {
    let mut group = group();
    let line = Arc::clone(&group.traffic[0]);
    group.traffic = (0..500_u16)
        .map(|n| {
            let mut line = (*line).clone();
            (line.destination.protocol, line.destination.port) = (17, 1000 + n);
            Arc::new(line)
        })
        .collect();
    let mut world = World::new(group);
    let at = world.join(1);
    world.rekey(RekeyReason::Operator, &[]);
    let sent = rekeys(&world);
    assert!(sent.len() == 1 && sent[0].len() > 48 * 1024, "{} of {}", sent.len(), sent[0].len());
    assert!(world.has_newest(at));
}

/// Of each copy something is lost; together they are whole, in whatever order they come.
#[test]
fn copies_complete_each_other() {
    for seed in 0..50 {
        let mut world = World::with(group(), config(), seed);
        let at = world.join(1);
        let parts = next(&mut world);
        let mut dice = SeededRandom::new(seed);
        let mut any = |n: usize| usize::try_from(dice.below(n as u64)).unwrap();
        // Two copies without one fragment each, never the same.
        let lost = any(parts.len());
        let lost = [lost, (lost + 1 + any(parts.len() - 1)) % parts.len()];
        let mut all = Vec::new();
        for lost in lost {
            let mut copy: Vec<_> = parts.iter().enumerate().filter(|(n, _)| *n != lost).map(|(_, part)| part).collect();
            while !copy.is_empty() {
                all.push(copy.swap_remove(any(copy.len())));
            }
        }
        for datagram in &all[..parts.len() - 1] {
            world.multicast(datagram);
        }
        assert!(!world.has_newest(at), "seed {seed}");
        for datagram in &all[parts.len() - 1..] {
            world.multicast(datagram);
        }
        assert!(world.has_newest(at), "seed {seed}");
        let status = world.hosts[at].member.status();
        assert_eq!((status.rekeys, status.rejected), (1, 0));
    }
}

/// Everything comes twice and in any order, two rekeys at a time.
#[test]
fn disorder_and_repetition_do_no_harm() {
    for seed in 0..50 {
        let mut world = World::with(group(), config(), seed);
        let at = world.join(1);
        let [first, second] = [next(&mut world), next(&mut world)];
        let mut all: Vec<_> = [first.clone(), second, first].concat();
        let mut dice = SeededRandom::new(seed);
        while !all.is_empty() {
            let datagram = all.swap_remove(usize::try_from(dice.below(all.len() as u64)).unwrap());
            world.multicast(&datagram);
        }
        assert!(world.has_newest(at), "seed {seed}");
        assert!((1..=2).contains(&world.hosts[at].member.status().rekeys));
    }
}

/// Where the same message comes whole and in fragments, what is first complete counts, and the rest is a copy.
#[test]
fn whole_messages_and_fragments_mix() {
    for whole_first in [true, false] {
        let mut world = World::new(group());
        let at = world.join(1);
        let plan = world.plan_steps(RekeyReason::Operator, &[]);
        let mut render = |size| rekey::render(&plan.policy, &plan.steps[0], size, &mut world.rng).unwrap();
        let (whole, cut) = (render(None), render(Some(PACKET)));
        let parts = datagrams(&cut);
        assert!(Fragment::of(&whole).is_none() && parts.len() >= 3);
        if whole_first {
            world.multicast(parts[0]);
            world.multicast(&whole);
            assert!(world.has_newest(at));
            parts.iter().for_each(|part| world.multicast(part));
        } else {
            world.multicast(&cut);
            assert!(world.has_newest(at));
            world.multicast(&whole);
        }
        let status = world.hosts[at].member.status();
        assert_eq!((status.rekeys, status.copies, status.rejected), (1, 1, 0));
        // And the next in fragments after one that was whole.
        world.rekey(RekeyReason::Operator, &[]);
        assert!(world.has_newest(at));
    }
}

/// The first fragment of a copy stands for it, and draws an acknowledgement again.
#[test]
fn rekeys_in_fragments_are_acknowledged_as_others() {
    let mut group = group();
    group.gikev2.as_mut().unwrap().options.ack = true;
    let mut world = World::new(group);
    for n in 1..=3 {
        let mut settings = world.settings(n);
        settings.gikev2.ack = true;
        let at = world.add(settings);
        world.start(at);
        world.run();
    }
    let acks = |world: &World| world.seen.iter().filter(|p| p.exchange() == ExchangeType::REKEY_ACK.0).count();
    let parts = next(&mut world);
    parts[..parts.len() - 1].iter().for_each(|part| world.multicast(part));
    assert_eq!(acks(&world), 0, "nobody has it yet");
    world.multicast(parts.last().unwrap());
    let entry = |world: &World| world.model.group("g").unwrap().rekey_views().pop().unwrap();
    assert_eq!((acks(&world), entry(&world).acknowledged), (3, 3));
    parts.iter().for_each(|part| world.multicast(part));
    assert_eq!(acks(&world), 6, "a copy draws one each");
    world.rekey(RekeyReason::Eviction, &[identity(2)]);
    assert_eq!((entry(&world).expected, entry(&world).acknowledged), (2, 2));
}

/// Fragments of the second message of an exclusion are of no use before the first is whole; the next copy brings both.
#[test]
fn the_two_messages_of_an_exclusion_keep_their_order() {
    let mut world = World::new(group());
    let (at, gone) = (world.join(1), world.join(2));
    let messages = world.plan(RekeyReason::Eviction, &[identity(2)]);
    let [first, second] = [&messages[0], &messages[1]].map(|m| datagrams(m));
    first[1..].iter().chain(&second).for_each(|d| world.multicast(d));
    assert!(!world.has_newest(at));
    first.iter().chain(&second).for_each(|d| world.multicast(d));
    assert!(world.has_newest(at) && !world.has_newest(gone));
    // What goes on under the replaced Rekey SA is a copy still.
    first.iter().for_each(|d| world.multicast(d));
    assert_eq!(world.hosts[at].member.status().rejected, 0);
}

/// Changed in any octet, cut anywhere, before, between and after its fellows: nothing changes.
#[test]
fn tampering_changes_nothing_at_any_time() {
    let mut group = group();
    let options = group.gikev2.as_mut().unwrap();
    // Short ones, and few.
    (options.authentication, options.options.fragment_size) = (RekeyAuthentication::Implicit, Some(160));
    let mut world = World::new(group);
    let at = world.join(1);
    let parts = next(&mut world);
    let before = world.hosts[at].sas.clone();
    for (n, part) in parts.iter().enumerate() {
        for bytes in variants(part) {
            world.send_to_all(&bytes);
        }
        assert_eq!((&world.hosts[at].sas, world.hosts[at].member.status().rekeys), (&before, 0));
        if n + 1 < parts.len() {
            world.multicast(part);
        }
    }
    world.multicast(parts.last().unwrap());
    assert!(world.has_newest(at));
    let keys = world.hosts[at].sas.clone();
    for part in &parts {
        for bytes in variants(part) {
            world.send_to_all(&bytes);
        }
    }
    assert_eq!((&world.hosts[at].sas, world.hosts[at].member.status().rekeys), (&keys, 1));
    world.rekey(RekeyReason::Operator, &[]);
    assert!(world.has_newest(at));
}

/// Fragments of a group that a host is in no more, or not yet, and at the key server.
#[test]
fn fragments_reach_those_who_have_no_use_for_them() {
    let mut world = World::new(group());
    let at = world.join(1);
    let (settings, parts) = (world.settings(2), next(&mut world));
    let stranger = world.add(settings);
    let to = *world.hosts[at].listens.first().unwrap();
    world.hosts[stranger].listens.insert(to);
    parts.iter().for_each(|part| world.multicast(part));
    assert!(world.has_newest(at) && world.hosts[stranger].sas.is_empty());
    let seen = world.seen.len();
    for part in &parts {
        let packet =
            Packet { from: world.gateway, to: world.gateway, via: Via::Udp, bytes: part.clone(), tainted: false };
        world.deliver(packet);
    }
    assert_eq!((world.seen.len(), world.server.counters().not_for_us), (seen, parts.len() as u64));
    let late = next(&mut world);
    world.leave(at);
    world.run();
    late.iter().for_each(|part| world.multicast(part));
    assert!(!world.has_newest(at));
}

/// Numbers that cannot be, and messages whose time is past.
#[test]
fn impossible_and_old_fragments_are_dropped() {
    let mut world = World::new(group());
    let at = world.join(1);
    let [first, second, third] = [next(&mut world), next(&mut world), next(&mut world)];
    for (number, total) in [(0_u16, 3_u16), (4, 3), (0, 0), (1, 0), (1, 65_535)] {
        let mut bytes = first[0].clone();
        bytes[32..34].copy_from_slice(&number.to_be_bytes());
        bytes[34..36].copy_from_slice(&total.to_be_bytes());
        world.multicast(&bytes);
    }
    assert_eq!(world.hosts[at].member.status().rejected, 5);
    // Begun, and then overtaken.
    world.multicast(&first[0]);
    second.iter().for_each(|part| world.multicast(part));
    let keys = world.hosts[at].sas.clone();
    first.iter().for_each(|part| world.multicast(part));
    let status = world.hosts[at].member.status();
    assert_eq!((status.rekeys, status.rejected), (1, 5 + first.len() as u64));
    assert_eq!((status.last_counter, &world.hosts[at].sas), (Some(1), &keys));
    third.iter().for_each(|part| world.multicast(part));
    assert!(world.has_newest(at));
}

/// Who has the group's keys can make fragments, but not the signature: it keeps no rekey from the others.
#[test]
fn members_that_forge_fragments_keep_nobody_out() {
    let mut world = World::new(group());
    let at = world.join(1);
    for round in 0..3_u32 {
        let parts = next(&mut world);
        let total = u16::try_from(parts.len()).unwrap();
        // One of each number in front of the genuine ones, of this total and of others, and of messages to come.
        let len = (DATAGRAM - 28 - 8 - 8 - 17) * parts.len() - 5;
        let same = forged(&mut world, &parts[0], round, len, DATAGRAM);
        assert_eq!(Fragment::of(&same[0]).unwrap().total, total);
        for set in [
            same.clone(),
            forged(&mut world, &parts[0], round, len * 2, DATAGRAM),
            forged(&mut world, &parts[0], round, len, DATAGRAM * 2),
            forged(&mut world, &parts[0], u32::MAX, len, DATAGRAM),
        ] {
            set[1..].iter().for_each(|part| world.multicast(part));
        }
        let before = world.hosts[at].member.status();
        for (genuine, rival) in parts.iter().zip(&same) {
            world.multicast(rival);
            world.multicast(genuine);
        }
        let status = world.hosts[at].member.status();
        assert!(world.has_newest(at), "round {round}");
        assert_eq!((status.rekeys, status.last_counter), (u64::from(round) + 1, Some(round)));
        assert!(status.rejected > before.rejected, "forgeries were tried");
    }
}

/// However much a member sends that never becomes whole, the next rekey is followed.
#[test]
fn endless_fragments_fill_no_memory() {
    let mut world = World::new(group());
    let at = world.join(1);
    let parts = next(&mut world);
    let spi = Header::decode(&parts[0]).unwrap().0.spi_pair();
    for message_id in 1..=40 {
        for (len, limit) in [(60_000, 1200), (40_000, 400)] {
            let set = forged(&mut world, &parts[0], message_id, len, limit);
            set[1..].iter().for_each(|part| world.multicast(part));
        }
    }
    let held =
        world.hosts[at].member.group_for_test().rekey_sas.iter().find(|sa| sa.spi == spi).unwrap().fragments.octets();
    assert!((100_000..=4 * 65_536).contains(&held), "{held}");
    parts.iter().for_each(|part| world.multicast(part));
    assert!(world.has_newest(at));
    // What is left of it goes with time.
    let late = next(&mut world);
    world.multicast(&late[0]);
    world.pass(Duration::from_secs(3000));
    let group = world.hosts[at].member.group_for_test();
    assert_eq!(group.rekey_sas.iter().map(|sa| sa.fragments.octets()).sum::<usize>(), 0);
}
