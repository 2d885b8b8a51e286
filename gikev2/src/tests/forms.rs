//! What messages look like: what is sent, and what of others' forms is taken or passed over (RFC 7296 sections 2, 2.5, 3.1 and
//! 3.2; RFC 6023 section 4).

use std::time::Duration;

use keyferry_crypto::Aead;
use keyferry_model::drive::Via;
use keyferry_model::update::MemberEvent;
use keyferry_wire::{ChainWriter, Encode, Header, RawPayload, chain};

use super::faults::kept;
use super::support::*;
use crate::IkeOptions;
use crate::algorithms::Protection;
use crate::ike_sa::sa::Direction;
use crate::wire::message::Payloads;
use crate::wire::registry::{ExchangeType, NotifyType, PayloadKind, ProtocolId, flags};
use crate::wire::sk::SkKeys;

/// V of IKEv1's making, and what is reserved.
const OTHER_FLAGS: u8 = !(flags::INITIATOR | flags::RESPONSE);

/// A first request that is not delivered yet.
fn first_request(world: &mut World) -> (usize, Packet) {
    let settings = world.settings(1);
    let at = world.add(settings);
    world.start(at);
    (at, world.wire.pop_front().unwrap())
}

/// The message with other payloads.
fn rebuilt(packet: &Packet, change: impl FnOnce(&mut Vec<(u8, Vec<u8>)>)) -> Packet {
    let (header, body) = Header::decode(&packet.bytes).unwrap();
    let mut payloads = chain(header.next, body).unwrap().iter().map(|p| (p.kind, p.body.to_vec())).collect();
    change(&mut payloads);
    let mut writer = ChainWriter::new();
    payloads.iter().for_each(|(kind, body)| writer.push(*kind, body));
    let (next, body) = writer.finish().unwrap();
    Packet { bytes: Header { next, ..header }.encode(&body), ..packet.clone() }
}

/// The exchange and the first payload of what the key server answers.
fn drawn(world: &mut World, packet: Packet) -> Option<(u8, u8)> {
    world.deliver(packet);
    world.wire.pop_front().map(|p| (p.exchange(), p.bytes[16]))
}

const ACCEPTED: Option<(u8, u8)> = Some((ExchangeType::IKE_SA_INIT.0, PayloadKind::SA.0));

/// A whole run: versions, flags, SPIs and message IDs as they must be, and nothing reserved or critical in what is not encrypted.
#[test]
fn what_is_sent_has_the_form_of_ikev2() {
    let mut world = World::new(policy(false));
    let settings = world.settings(1);
    let at = world.add(settings);
    let lifetime = Duration::from_secs(20);
    world.hosts[at].member.set_ike_options(IkeOptions { lifetime, ..IkeOptions::default() });
    world.start(at);
    world.pass(Duration::from_secs(60));
    assert_eq!(world.hosts[at].events.last(), Some(&MemberEvent::Disconnected));
    assert_eq!(world.server.counters().rekeyed, 1);
    for packet in &world.seen {
        let (header, body) = Header::decode(&packet.bytes).unwrap();
        assert_eq!((header.major, header.minor, header.flags & OTHER_FLAGS), (2, 0, 0));
        // The member asked for both IKE SAs.
        let from_member = packet.from != world.gateway;
        assert_eq!(header.flags & flags::INITIATOR != 0, from_member);
        assert_ne!(header.spi_i, [0; 8]);
        let init = header.exchange == ExchangeType::IKE_SA_INIT.0;
        assert_eq!(header.spi_r == [0; 8], init && from_member);
        let raw: Vec<RawPayload<'_>> = match init {
            true => chain(header.next, body).unwrap(),
            false => keyferry_wire::chain_until(header.next, body, &[PayloadKind::SK.0]).unwrap(),
        };
        assert!(raw.iter().all(|p| p.flags == 0));
        assert!(init || raw.len() == 1, "nothing beside the Encrypted payload");
        if !init {
            continue;
        }
        assert_eq!(header.message_id, 0);
        let payloads = Payloads::parse(header.next, body, &[]).unwrap();
        for kind in [NotifyType::NAT_DETECTION_SOURCE_IP, NotifyType::NAT_DETECTION_DESTINATION_IP] {
            assert_eq!(payloads.notify(kind).map(|n| n.data.len()), Some(20));
        }
        let childless = payloads.notify(NotifyType::CHILDLESS_IKEV2_SUPPORTED);
        let told = childless.map(|n| (n.protocol, n.spi.len(), n.data.len()));
        assert_eq!(told, Some((ProtocolId::IKE, 0, 0)).filter(|_| !from_member));
        let sa: crate::wire::sa::Sa<'_> = payloads.get(PayloadKind::SA).unwrap().unwrap();
        assert_eq!(sa.to_vec(), payloads.body(PayloadKind::SA).unwrap(), "nothing reserved is set");
    }
    // Requests of an end count up from 0 with each IKE SA (section 2.2).
    let mut ids = std::collections::BTreeMap::<_, Vec<u32>>::new();
    for packet in world.seen.iter().filter(|p| !p.is_response()) {
        let (header, _) = Header::decode(&packet.bytes).unwrap();
        ids.entry((header.spi_i, packet.from)).or_default().push(header.message_id);
    }
    assert!(ids.values().all(|ids| ids.iter().copied().eq(0..u32::try_from(ids.len()).unwrap())), "{ids:?}");
}

/// RFC 7296 sections 2.5 and 3.1: the minor version, V and what is reserved, in headers and in payloads.
#[test]
fn what_is_reserved_is_ignored() {
    let mut world = World::new(policy(false));
    let (_, request) = first_request(&mut world);
    let mut bytes = request.bytes.clone();
    bytes[17] |= 0x0f;
    bytes[19] |= OTHER_FLAGS;
    // Each payload's header, then SA, Proposal and Transform, KE, and all notifies' critical bits.
    let (header, body) = Header::decode(&request.bytes).unwrap();
    for p in chain(header.next, body).unwrap() {
        let at = Header::LEN + p.at;
        bytes[at + 1] |= 0xff;
        match PayloadKind(p.kind) {
            PayloadKind::SA => (bytes[at + 5], bytes[at + 13]) = (0xff, 0xff),
            PayloadKind::KE => (bytes[at + 6], bytes[at + 7]) = (0xff, 0xff),
            _ => {}
        }
    }
    assert_ne!(bytes, request.bytes);
    assert_eq!(drawn(&mut world, Packet { bytes, ..request }), ACCEPTED);
}

/// The same of protected messages, at both ends.
#[test]
fn what_is_reserved_in_protected_messages_is_ignored() {
    for of_server in [true, false] {
        let lines = Lines::default();
        let mut config = config();
        config.preferences.protections.retain(|p| *p == Protection::Aead(Aead::Aes256Gcm16));
        let mut world = World::with(policy(false), config, 1);
        world.server.set_key_log(Box::new(lines.clone()));
        let at = world.join(1);
        let line = lines.0.lock().unwrap()[0].clone();
        let sk_e = hex::decode(line.split(',').nth(if of_server { 2 } else { 3 }).unwrap()).unwrap();
        let keys = SkKeys::new(Protection::Aead(Aead::Aes256Gcm16), &sk_e, &[]).unwrap();
        let sa = world.server.sa_for_test().unwrap();
        let (bits, message_id) = if of_server { (flags::INITIATOR, 2) } else { (0, 0) };
        let exchange = ExchangeType::INFORMATIONAL;
        let plain = crate::ike_sa::init::header(exchange, sa.spi_i, sa.spi_r, bits | OTHER_FLAGS, message_id);
        let header = Header { minor: 9, ..plain };
        let bytes = keys.seal(&header, 0, &[], 0x77, &mut world.rng).unwrap();
        let (from, to) = match of_server {
            true => (world.hosts[at].address, world.gateway),
            false => (world.gateway, world.hosts[at].address),
        };
        world.deliver(Packet { from, to, via: Via::Udp, bytes, tainted: false });
        let answer = world.wire.pop_front().unwrap();
        assert_eq!((answer.to, answer.exchange(), answer.is_response()), (from, exchange.0, true));
    }
}

/// RFC 7296 section 2.5.
#[test]
fn payloads_may_stand_in_any_order() {
    let mut world = World::new(policy(false));
    let (at, request) = first_request(&mut world);
    assert_eq!(drawn(&mut world, rebuilt(&request, |all| all.reverse())), ACCEPTED);
    let mut world = World::new(policy(false));
    let _ = first_request(&mut world);
    world.deliver(request);
    let response = world.wire.pop_front().unwrap();
    world.deliver(rebuilt(&response, |all| all.reverse()));
    assert_eq!(world.wire.pop_front().map(|p| p.exchange()), Some(ExchangeType::GSA_AUTH.0));
    assert!(world.hosts[at].events.is_empty());
}

/// RFC 7296 section 2: 1280 octets must and 3000 should be taken; so is what a datagram can hold, but of first requests, which
/// anybody sends and which are kept for a while.
#[test]
fn long_messages_are_taken() {
    for len in [1280, 3000, 20_000, 60_000] {
        let mut world = World::new(policy(false));
        let (_, request) = first_request(&mut world);
        let longer = rebuilt(&request, |all| all.push((PayloadKind::VENDOR_ID.0, vec![7; len])));
        let malformed = u64::from(len == 60_000);
        assert_eq!(drawn(&mut world, longer), if malformed == 0 { ACCEPTED } else { None });
        assert_eq!(world.server.counters().malformed, malformed);
        let (mut world, at) = kept(keyferry_model::policy::InBand::Nobody);
        let mut long = ChainWriter::new();
        long.push(PayloadKind::VENDOR_ID.0, &vec![7; len]);
        let sa = world.hosts[at].member.sa_for_test().unwrap();
        sa.set_limit(None);
        let bytes = sa.seal(ExchangeType::INFORMATIONAL, Direction::Request, 2, long, &mut world.rng).unwrap();
        assert!(bytes.len() > len);
        let (from, to) = (world.hosts[at].address, world.gateway);
        world.deliver(Packet { from, to, via: Via::Udp, bytes, tainted: false });
        assert_eq!(world.wire.pop_front().map(|p| p.exchange()), Some(ExchangeType::INFORMATIONAL.0));
    }
}

/// Reading 28: what is no first message draws nothing, and nothing is kept of it.
#[test]
fn malformed_first_messages_draw_nothing() {
    let mut world = World::new(policy(false));
    let (_, request) = first_request(&mut world);
    let (header, body) = Header::decode(&request.bytes).unwrap();
    let mut wrong: Vec<Packet> = Vec::new();
    // Truncated, with a header that says so.
    for len in 0..body.len() {
        wrong.push(Packet { bytes: header.encode(&body[..len]), ..request.clone() });
    }
    wrong.push(Packet { bytes: header.encode(&[body, &[0]].concat()), ..request.clone() });
    for other in [
        Header { message_id: 1, ..header },
        Header { spi_i: [0; 8], ..header },
        Header { flags: 0, ..header },
        Header { flags: header.flags | flags::RESPONSE, ..header },
        Header { next: PayloadKind::NONE.0, ..header },
    ] {
        wrong.push(Packet { bytes: other.encode(body), ..request.clone() });
    }
    let kinds = [PayloadKind::SA.0, PayloadKind::KE.0, PayloadKind::NONCE.0];
    for kind in kinds {
        wrong.push(rebuilt(&request, |all| all.retain(|(k, _)| *k != kind)));
        wrong.push(rebuilt(&request, |all| all.extend(all.clone().into_iter().filter(|(k, _)| *k == kind))));
        wrong.push(rebuilt(&request, |all| {
            let short = |body: &Vec<u8>| if kind == PayloadKind::NONCE.0 { 15 } else { body.len() - 1 };
            all.iter_mut().filter(|(k, _)| *k == kind).for_each(|(_, body)| body.truncate(short(body)));
        }));
    }
    wrong.push(rebuilt(&request, |all| all.push((PayloadKind::NOTIFY.0, vec![1]))));
    wrong.push(rebuilt(&request, |all| all.push((PayloadKind::SK.0, vec![1; 60]))));
    wrong.push(rebuilt(&request, |all| all.extend(vec![(PayloadKind::NOTIFY.0, vec![0, 0, 156, 64]); 33])));
    for (n, packet) in wrong.into_iter().enumerate() {
        assert_eq!(drawn(&mut world, packet), None, "{n}");
        assert_eq!(world.server.deadline(), None, "{n}");
    }
    assert_eq!(drawn(&mut world, request), ACCEPTED);
}
