//! What each end answers to requests that are wrong, and what it makes of answers that say so (RFC 7296 sections 2.5, 2.16,
//! 2.21.2, 2.21.3 and 3.10.1).

use std::time::Duration;

use keyferry_crypto::{Aead, SeededRandom};
use keyferry_model::drive::Via;
use keyferry_model::policy::InBand;
use keyferry_model::update::MemberEvent;
use keyferry_wire::{ChainWriter, Encode, Header};

use super::forger::{Forger, badly_padded, first_request};
use super::support::*;
use crate::IkeOptions;
use crate::ike_sa::Preferences;
use crate::ike_sa::sa::{Direction, IkeSa};
use crate::policy::identity::{group_to_wire, identity_to_wire};
use crate::wire::message::Payloads;
use crate::wire::notify::Notify;
use crate::wire::registry::{AuthMethod, ExchangeType, NotifyType, PayloadKind, ProtocolId, flags};

const HOUR: Duration = Duration::from_secs(3600);
/// One that no document has defined.
const UNKNOWN_ERROR: NotifyType = NotifyType(8000);
const UNKNOWN_STATUS: NotifyType = NotifyType(40_900);
const UNKNOWN_PAYLOAD: u8 = 200;

/// A registered member whose IKE SA stays.
pub(super) fn kept(in_band: InBand) -> (World, usize) {
    let mut config = config();
    config.idle = 24 * HOUR;
    let mut group = policy(false);
    group.gikev2.as_mut().unwrap().options.in_band = in_band;
    let mut world = World::with(group, config, 1);
    let at = world.join(1);
    (world, at)
}

/// The IKE SA as the one who asks the other has it.
fn sa_of(world: &mut World, at: usize, server: bool) -> &mut IkeSa {
    match server {
        true => world.server.sa_for_test().unwrap(),
        false => world.hosts[at].member.sa_for_test().unwrap(),
    }
}

/// The ID of the next request: GSA_AUTH had 1, and the key server has asked nothing yet.
fn first_id(of_server: bool) -> u32 {
    if of_server { 2 } else { 0 }
}

/// Delivers a message of one end to the other, and nothing that comes of it.
fn bring(world: &mut World, at: usize, to_server: bool, bytes: Vec<u8>) -> Option<Vec<u8>> {
    let (member, before) = (world.hosts[at].address, world.seen.len());
    let (from, to) = if to_server { (member, world.gateway) } else { (world.gateway, member) };
    world.fate = Box::new(|_| 0);
    world.deliver(Packet { from, to, via: Via::Udp, bytes, tainted: false });
    world.fate = Box::new(|_| 1);
    assert!(world.seen.len() <= before + 1);
    world.seen.get(before).map(|p| p.bytes.clone())
}

fn seal(
    world: &mut World,
    at: usize,
    by_server: bool,
    (exchange, direction, id): (ExchangeType, Direction, u32),
    chain: ChainWriter,
) -> Vec<u8> {
    let mut rng = SeededRandom::new(77);
    sa_of(world, at, by_server).seal(exchange, direction, id, chain, &mut rng).unwrap()
}

/// Kinds of the payloads of an answer, and its notifies.
type Answer = (Vec<PayloadKind>, Vec<(NotifyType, Vec<u8>)>);

/// What an answer says; the asking end's keys open it.
fn read(world: &mut World, at: usize, of_server: bool, bytes: &[u8]) -> Answer {
    let opened = sa_of(world, at, !of_server).open(bytes).unwrap();
    let raw = keyferry_wire::chain(opened.first, opened.inner.expose()).unwrap();
    let payloads = Payloads::parse(opened.first, opened.inner.expose(), &[]).unwrap();
    let notifies = payloads.notifies.iter().map(|n| (n.kind, n.data.to_vec())).collect();
    (raw.iter().map(|p| PayloadKind(p.kind)).collect(), notifies)
}

/// What one end answers to a request of the other.
fn ask(world: &mut World, at: usize, of_server: bool, exchange: ExchangeType, id: u32, chain: ChainWriter) -> Answer {
    let bytes = seal(world, at, !of_server, (exchange, Direction::Request, id), chain);
    let answer = bring(world, at, of_server, bytes).unwrap();
    read(world, at, of_server, &answer)
}

fn lives(world: &mut World, at: usize, server: bool) -> bool {
    match server {
        true => world.server.established() == 1,
        false => world.hosts[at].member.sa_for_test().is_some(),
    }
}

/// Kind and body of a payload.
type Part<'a> = (u8, &'a [u8]);

fn with(payloads: &[Part<'_>]) -> ChainWriter {
    let mut chain = ChainWriter::new();
    payloads.iter().for_each(|(kind, body)| chain.push(*kind, body));
    chain
}

fn notify(kind: NotifyType) -> Vec<u8> {
    Notify::bare(kind).to_vec()
}

const SYNTAX: NotifyType = NotifyType::INVALID_SYNTAX;

/// RFC 7296 section 2.21.3: each is answered, INVALID_SYNTAX where it breaks the format, and that ends the SA; so do exchanges that have
/// no place here, and an Encrypted payload inside of one (section 3.1).
#[test]
fn what_breaks_the_format_is_answered_and_ends_the_sa() {
    let sealed = [0; 40];
    for of_server in [true, false] {
        let misplaced = if of_server { ExchangeType::GSA_INBAND_REKEY } else { ExchangeType::GSA_REGISTRATION };
        let cases: [(ExchangeType, Vec<Part<'_>>); 7] = [
            (ExchangeType::INFORMATIONAL, vec![(PayloadKind::NOTIFY.0, &[0])]),
            (ExchangeType::INFORMATIONAL, vec![(PayloadKind::DELETE.0, &[1, 8, 0, 9])]),
            (ExchangeType::INFORMATIONAL, vec![(PayloadKind::SK.0, &sealed)]),
            (ExchangeType::CREATE_CHILD_SA, vec![]),
            (ExchangeType::IKE_AUTH, vec![]),
            (misplaced, vec![]),
            (ExchangeType(99), vec![]),
        ];
        for (exchange, payloads) in cases {
            let (mut world, at) = kept(InBand::Nobody);
            let bytes =
                seal(&mut world, at, !of_server, (exchange, Direction::Request, first_id(of_server)), with(&payloads));
            let answer = bring(&mut world, at, of_server, bytes.clone()).unwrap();
            assert_eq!(read(&mut world, at, of_server, &answer).1, [(SYNTAX, vec![])], "{exchange:?} {of_server}");
            assert!(!lives(&mut world, at, of_server), "{exchange:?} {of_server}");
            // A repeat draws the same answer.
            assert_eq!(bring(&mut world, at, of_server, bytes), Some(answer));
        }
    }
}

/// RFC 7296 section 2.5: an unknown payload is named and refused if it is critical, and skipped if not; the bit means nothing for
/// one that is known. None of it ends the SA.
#[test]
fn payloads_that_are_unknown_are_skipped_unless_critical() {
    for of_server in [true, false] {
        let (mut world, at) = kept(InBand::Nobody);
        let id = first_id(of_server);
        let mut critical = ChainWriter::new();
        critical.push_critical(UNKNOWN_PAYLOAD, &[1]);
        let refused = vec![(NotifyType::UNSUPPORTED_CRITICAL_PAYLOAD, vec![UNKNOWN_PAYLOAD])];
        assert_eq!(ask(&mut world, at, of_server, ExchangeType::INFORMATIONAL, id, critical).1, refused);
        let skipped = with(&[(UNKNOWN_PAYLOAD, &[1])]);
        assert_eq!(ask(&mut world, at, of_server, ExchangeType::INFORMATIONAL, id + 1, skipped), (vec![], vec![]));
        let mut known = ChainWriter::new();
        known.push_critical(PayloadKind::NOTIFY.0, &notify(UNKNOWN_STATUS));
        known.push_critical(PayloadKind::EAP.0, &[1, 2]);
        assert_eq!(ask(&mut world, at, of_server, ExchangeType::INFORMATIONAL, id + 2, known), (vec![], vec![]));
        assert!(lives(&mut world, at, of_server));
    }
}

/// The ICV is right, so the peer made it; and no number of padding octets is that large (RFC 7296 section 2.21.3).
#[test]
fn padding_that_cannot_be_is_answered() {
    for of_server in [true, false] {
        let lines = Lines::default();
        let mut config = config();
        config.idle = 24 * HOUR;
        config.preferences.protections.retain(|p| *p == crate::algorithms::Protection::Aead(Aead::Aes256Gcm16));
        let mut world = World::with(policy(false), config, 1);
        world.server.set_key_log(Box::new(lines.clone()));
        let at = world.join(1);
        let line = lines.0.lock().unwrap()[0].clone();
        // SPIs, SK_ei, SK_er, cipher, SK_ai, SK_ar, integrity.
        let field = line.split(',').nth(if of_server { 2 } else { 3 }).unwrap().to_owned();
        let sk_e = hex::decode(field).unwrap();
        let good = seal(
            &mut world,
            at,
            !of_server,
            (ExchangeType::INFORMATIONAL, Direction::Request, first_id(of_server)),
            ChainWriter::new(),
        );
        let answer = bring(&mut world, at, of_server, badly_padded(&sk_e, &good)).unwrap();
        assert_eq!(read(&mut world, at, of_server, &answer).1, [(SYNTAX, vec![])]);
        assert!(!lives(&mut world, at, of_server));
    }
}

/// The same before anybody has proved itself: the keys are those of whoever sent IKE_SA_INIT (RFC 7296 section 2.21.2).
#[test]
fn padding_that_cannot_be_is_answered_before_authentication() {
    for exchange in [ExchangeType::IKE_AUTH, ExchangeType::GSA_AUTH, ExchangeType::IKE_INTERMEDIATE] {
        let lines = Lines::default();
        let mut config = config();
        config.preferences.protections.retain(|p| *p == crate::algorithms::Protection::Aead(Aead::Aes256Gcm16));
        let mut world = World::with(policy(false), config, 1);
        world.server.set_key_log(Box::new(lines.clone()));
        let mut forger = Forger::new(&mut world);
        let sk_e = hex::decode(lines.0.lock().unwrap()[0].split(',').nth(2).unwrap()).unwrap();
        let good = forger.empty(&mut world, exchange);
        let bad = Packet { bytes: badly_padded(&sk_e, &good.bytes), ..good.clone() };
        for times in 1..=2 {
            world.deliver(bad.clone());
            let answer = world.wire.pop_front().expect("an answer, again if it is repeated");
            assert_eq!(forger.error_in(&answer), Some(SYNTAX), "{exchange:?}");
            assert_eq!(world.server.counters().malformed, 1);
            assert_eq!(world.server.counters().repeated, times - 1);
        }
        // Nothing is left to ask.
        world.deliver(good);
        assert!(world.wire.is_empty());
    }
}

/// The answer could not say which of them was chosen (RFC 7296 section 3.3.1).
#[test]
fn two_proposals_of_one_number_are_no_offer() {
    for (numbers, malformed) in [([1, 2], 0), ([1, 1], 1), ([7, 7], 1)] {
        let mut world = World::new(policy(false));
        let mut offer = Preferences::default().proposals(true);
        assert_eq!(offer.proposals.len(), 2);
        offer.proposals.iter_mut().zip(numbers).for_each(|(p, number)| p.number = number);
        let request = first_request(&mut world, 1, &offer, 0);
        world.deliver(request);
        assert_eq!((world.server.counters().malformed, world.wire.is_empty()), (malformed, malformed == 1));
    }
}

/// RFC 7296 section 2.21.3: INVALID_SYNTAX ends the SA at whoever is told, too.
#[test]
fn who_is_told_that_its_request_broke_the_format_gives_the_sa_up() {
    for by_server in [true, false] {
        let mut config = config();
        config.idle = 24 * HOUR;
        let liveness = Some(Duration::from_secs(10));
        if by_server {
            config.ike.liveness = liveness;
        }
        let mut world = World::with(policy(false), config, 1);
        let settings = world.settings(1);
        let at = world.add(settings);
        if !by_server {
            world.hosts[at].member.set_ike_options(IkeOptions { liveness, ..IkeOptions::default() });
        }
        world.start(at);
        world.run();
        // The question is lost.
        world.fate = Box::new(|_| 0);
        world.pass(Duration::from_millis(10_100));
        let id = if by_server { 0 } else { 2 };
        let parts = (ExchangeType::INFORMATIONAL, Direction::Response, id);
        let other = seal(&mut world, at, !by_server, parts, with(&[(PayloadKind::NOTIFY.0, &notify(UNKNOWN_ERROR))]));
        let ends = seal(&mut world, at, !by_server, parts, with(&[(PayloadKind::NOTIFY.0, &notify(SYNTAX))]));
        assert!(lives(&mut world, at, by_server));
        bring(&mut world, at, by_server, ends);
        assert!(!lives(&mut world, at, by_server), "{by_server}");
        assert_eq!(bring(&mut world, at, by_server, other), None);
    }
}

/// The same of a rekey in band: the member is one no more (RFC 9838 section 2.3.3).
#[test]
fn a_member_that_cannot_read_a_rekey_in_band_is_lost() {
    let (mut world, at) = kept(InBand::Everybody);
    world.fate = Box::new(|_| 0);
    world.rekey(keyferry_model::plan::RekeyReason::Operator, &[]);
    let parts = (ExchangeType::GSA_INBAND_REKEY, Direction::Response, 0);
    let answer = seal(&mut world, at, false, parts, with(&[(PayloadKind::NOTIFY.0, &notify(SYNTAX))]));
    bring(&mut world, at, true, answer);
    assert_eq!((world.server.established(), world.server.counters().lost), (0, 1));
}

/// RFC 7296 section 2.21.2: whoever could not verify us says so right after AUTH, and deletes nothing.
#[test]
fn a_peer_that_could_not_authenticate_us_ends_the_sa() {
    let failed = || with(&[(PayloadKind::NOTIFY.0, &notify(NotifyType::AUTHENTICATION_FAILED))]);
    let (mut world, at) = kept(InBand::Nobody);
    assert_eq!(ask(&mut world, at, true, ExchangeType::INFORMATIONAL, 2, failed()), (vec![], vec![]));
    assert_eq!(world.server.established(), 0);
    // Later it means nothing.
    let (mut world, at) = kept(InBand::Nobody);
    assert_eq!(ask(&mut world, at, true, ExchangeType::INFORMATIONAL, 2, ChainWriter::new()), (vec![], vec![]));
    assert_eq!(ask(&mut world, at, true, ExchangeType::INFORMATIONAL, 3, failed()), (vec![], vec![]));
    assert_eq!(world.server.established(), 1);
}

/// RFC 7296 section 2.16: an initiator without AUTH wants EAP, and there is none.
#[test]
fn who_wants_eap_is_told_that_authentication_failed() {
    let mut world = World::new(policy(false));
    let mut forger = Forger::new(&mut world);
    let id = identity_to_wire(&identity(1)).to_vec();
    let answer = forger.ask(&mut world, with(&[(PayloadKind::ID_I.0, &id)]));
    assert_eq!((answer.error, answer.method), (Some(NotifyType::AUTHENTICATION_FAILED), None));
    assert_eq!(world.server.established(), 0);
}

/// RFC 6023 section 3, RFC 7296 section 1.3.1: an IKE_AUTH with a Child SA is answered as such, and the IKE SA stands.
#[test]
fn a_child_sa_in_the_first_exchange_is_refused_alone() {
    let mut world = World::new(policy(false));
    let mut forger = Forger::new(&mut world);
    let auth = forger.shared(PSK);
    let offer = Preferences::default().proposals(false).to_vec();
    let more = [(PayloadKind::SA, offer), (PayloadKind::TS_I, vec![0; 8]), (PayloadKind::TS_R, vec![0; 8])];
    let request = forger.request_with(&[], auth, &more);
    let answer = forger.ask(&mut world, request);
    assert_eq!((answer.error, answer.method), (Some(NotifyType::NO_ADDITIONAL_SAS), Some(AuthMethod::SHARED_KEY)));
    assert_eq!(world.server.established(), 1);
}

/// RFC 7296 section 3.10.1; IPCOMP_SUPPORTED: RFC 9838 section 2.3.3. In any order (RFC 7296 section 2.5).
#[test]
fn notifies_that_a_request_has_no_use_for_are_ignored() {
    const IPCOMP_SUPPORTED: NotifyType = NotifyType(16_387);
    let (mut world, at) = kept(InBand::Nobody);
    let group = group_to_wire(&keyferry_model::id::GroupId::Number(GROUP)).unwrap().to_vec();
    let ipcomp = Notify::new(IPCOMP_SUPPORTED, vec![0, 0, 2]).to_vec();
    let sag = crate::policy::sag::capabilities().to_vec();
    let sender = Notify::new(NotifyType::GROUP_SENDER, vec![0, 0, 0, 1]).to_vec();
    let payloads: [Part<'_>; 7] = [
        (PayloadKind::NOTIFY.0, &sender),
        (PayloadKind::NOTIFY.0, &notify(UNKNOWN_ERROR)),
        (PayloadKind::VENDOR_ID.0, b"somebody"),
        (PayloadKind::NOTIFY.0, &ipcomp),
        (PayloadKind::SA.0, &sag),
        (PayloadKind::NOTIFY.0, &notify(UNKNOWN_STATUS)),
        (PayloadKind::ID_G.0, &group),
    ];
    let (kinds, notifies) = ask(&mut world, at, true, ExchangeType::GSA_REGISTRATION, 2, with(&payloads));
    assert_eq!((&kinds[..], &notifies[..]), (&[PayloadKind::GSA, PayloadKind::KD][..], &[][..]));
    assert_eq!(world.server.counters().registered, 2);
}

/// RFC 9838 sections 4.7.1 to 4.7.3: what stands in a group's error besides its number means nothing.
#[test]
fn errors_of_groups_are_known_by_their_number_alone() {
    for kind in [NotifyType::REGISTRATION_FAILED, NotifyType::NO_PROPOSAL_CHOSEN] {
        let (mut world, at) = kept(InBand::Nobody);
        let group = group_to_wire(&keyferry_model::id::GroupId::Number(GROUP)).unwrap().to_vec();
        let more = Notify { protocol: ProtocolId::ESP, spi: vec![1, 2, 3, 4].into(), ..Notify::new(kind, vec![9; 5]) };
        let chain = with(&[(PayloadKind::ID_G.0, &group), (PayloadKind::NOTIFY.0, &more.to_vec())]);
        assert_eq!(ask(&mut world, at, true, ExchangeType::GSA_REGISTRATION, 2, chain), (vec![], vec![]));
        assert_eq!(world.server.counters().left, 1);
    }
    for kind in [NotifyType::REGISTRATION_FAILED, NotifyType::INVALID_GROUP_ID, NotifyType::AUTHORIZATION_FAILED] {
        let (mut world, at) = kept(InBand::Nobody);
        world.fate = Box::new(|_| 0);
        world.start(at);
        let more = Notify { protocol: ProtocolId::ESP, spi: vec![1, 2, 3, 4].into(), ..Notify::new(kind, vec![9; 5]) };
        let parts = (ExchangeType::GSA_REGISTRATION, Direction::Response, 2);
        let answer = seal(&mut world, at, true, parts, with(&[(PayloadKind::NOTIFY.0, &more.to_vec())]));
        bring(&mut world, at, false, answer);
        assert_eq!(world.hosts[at].events.last(), Some(&MemberEvent::Refused(format!("{kind:?}"))));
    }
}

/// RFC 7296 section 3.10.1: an error that nobody knows is a failure; an unknown status is nothing. RFC 9838 section 4.4.1: and without a
/// policy there is no registration.
#[test]
fn an_answer_with_an_unknown_error_or_without_a_policy_is_a_refusal() {
    for (kind, why) in [(UNKNOWN_ERROR, "NotifyType(8000)"), (UNKNOWN_STATUS, "malformed: no policy")] {
        let (mut world, at) = kept(InBand::Nobody);
        let spis = world.hosts[at].sas.clone();
        world.fate = Box::new(|_| 0);
        world.start(at);
        let parts = (ExchangeType::GSA_REGISTRATION, Direction::Response, 2);
        let answer = seal(&mut world, at, true, parts, with(&[(PayloadKind::NOTIFY.0, &notify(kind))]));
        bring(&mut world, at, false, answer);
        assert_eq!(world.hosts[at].events.last(), Some(&MemberEvent::Refused(why.to_owned())));
        assert_eq!(world.hosts[at].sas, spis, "what it had stays");
    }
}

/// RFC 7296 section 2.3: each end answers while a request of its own is unanswered, and sends no other one meanwhile.
#[test]
fn requests_are_answered_while_others_wait() {
    for of_server in [true, false] {
        let mut config = config();
        config.idle = 24 * HOUR;
        let liveness = Some(Duration::from_secs(10));
        if of_server {
            config.ike.liveness = liveness;
        }
        let mut world = World::with(policy(false), config, 1);
        let settings = world.settings(1);
        let at = world.add(settings);
        if !of_server {
            world.hosts[at].member.set_ike_options(IkeOptions { liveness, ..IkeOptions::default() });
        }
        world.start(at);
        world.run();
        world.fate = Box::new(|_| 0);
        let before = world.seen.len();
        world.pass(Duration::from_millis(10_100));
        let asked = |p: &Packet| p.exchange() == ExchangeType::INFORMATIONAL.0 && !p.is_response();
        assert!(world.seen[before..].iter().all(asked) && world.seen.len() > before);
        let id = first_id(of_server);
        assert_eq!(
            ask(&mut world, at, of_server, ExchangeType::INFORMATIONAL, id, ChainWriter::new()),
            (vec![], vec![])
        );
        // The member's wish waits for its turn.
        let before = world.seen.len();
        world.fate = Box::new(|_| 0);
        if !of_server {
            world.start(at);
            assert_eq!(world.seen.len(), before);
        }
        assert!(lives(&mut world, at, of_server));
    }
}

/// RFC 7296 section 3.1: a message with the wrong R flag or of the wrong end is none of the exchange, whatever its keys: nothing is done, and
/// nothing protected is answered.
#[test]
fn flags_that_contradict_the_exchange_do_nothing() {
    for of_server in [true, false] {
        let (mut world, at) = kept(InBand::Nobody);
        let id = first_id(of_server);
        let parts = (ExchangeType::INFORMATIONAL, Direction::Request, id);
        let good = seal(&mut world, at, !of_server, parts, ChainWriter::new());
        let mut drawn = Vec::new();
        for bit in [flags::RESPONSE, flags::INITIATOR] {
            let mut bytes = good.clone();
            bytes[19] ^= bit;
            drawn.push(bring(&mut world, at, of_server, bytes));
        }
        // A response that nobody waits for, under the right keys.
        let response = seal(&mut world, at, !of_server, (parts.0, Direction::Response, id), ChainWriter::new());
        drawn.push(bring(&mut world, at, of_server, response));
        // Its own message comes back to who made it.
        drawn.push(bring(&mut world, at, !of_server, good.clone()));
        // The other end's SPI is none that the key server knows (section 2.21.4).
        let unknown = [0, 0, 0, 8, 0, 0, 0, 4];
        assert!(drawn.into_iter().flatten().all(|bytes| bytes[16] == PayloadKind::NOTIFY.0 && bytes[28..] == unknown));
        assert!(bring(&mut world, at, of_server, good).is_some());
        let (header, _) = Header::decode(&world.seen.last().unwrap().bytes).unwrap();
        assert_eq!(header.flags & flags::INITIATOR == 0, of_server);
        assert_eq!(header.flags & flags::RESPONSE, flags::RESPONSE);
    }
}
