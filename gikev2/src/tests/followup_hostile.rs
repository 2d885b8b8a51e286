//! IKE_FOLLOWUP_KE with an end that does not keep to it, in either role: its messages are made by hand, under the keys of the
//! member or of the key server that it stands in for.

use std::borrow::Cow;
use std::time::Duration;

use keyferry_crypto::{KeGroup, KeyPair, Random, Secret, SeededRandom};
use keyferry_model::drive::Via;
use keyferry_model::update::MemberEvent;
use keyferry_wire::{ChainWriter, Encode, Header};

use super::followup::{NOBODY, Wish, exchanges, kept, registers_again};
use super::support::*;
use crate::algorithms::ke_number;
use crate::ike_sa::Preferences;
use crate::ike_sa::followup::{Answering, Following};
use crate::ike_sa::rekey::{Proposed, Request};
use crate::ike_sa::sa::{Direction, IkeSa};
use crate::wire::ke::Ke;
use crate::wire::message::{ChildRequest, Payloads};
use crate::wire::notify::Notify;
use crate::wire::registry::{ExchangeType, NotifyType, PayloadKind, ke};
use crate::wire::rules;
use crate::wire::sk::Opened;

const METHODS: [KeGroup; 2] = [KeGroup::MlKem512, KeGroup::Ecp256];
const FOLLOW_UP: ExchangeType = ExchangeType::IKE_FOLLOWUP_KE;

/// Talks to the key server in the member's place, or to the member in the key server's.
struct Puppet {
    world: World,
    at: usize,
    to_server: bool,
    /// Message ID of the next request.
    id: u32,
    rng: SeededRandom,
}

impl Puppet {
    fn new(to_server: bool, wish: Wish) -> Self {
        let (world, at) = kept(wish, &METHODS, 3);
        // IKE_SA_INIT, IKE_INTERMEDIATE twice, GSA_AUTH.
        Self { world, at, to_server, id: if to_server { 4 } else { 0 }, rng: SeededRandom::new(77) }
    }

    fn preferences() -> Preferences {
        Preferences { additional: exchanges(&METHODS), ..Preferences::default() }
    }

    fn sa(&mut self) -> &mut IkeSa {
        let Self { world, at, to_server, .. } = self;
        if *to_server { world.hosts[*at].member.sa_for_test() } else { world.server.sa_for_test() }.unwrap()
    }

    fn send(&mut self, exchange: ExchangeType, direction: Direction, id: u32, chain: ChainWriter) {
        let mut rng = SeededRandom::new(self.rng.u64());
        let bytes = self.sa().seal(exchange, direction, id, chain, &mut rng).unwrap();
        let (member, gateway) = (self.world.hosts[self.at].address, self.world.gateway);
        let (from, to) = if self.to_server { (member, gateway) } else { (gateway, member) };
        // Whom we stand in for hears nothing.
        self.world.fate = Box::new(|_| 0);
        self.world.seen.clear();
        self.world.deliver(Packet { from, to, via: Via::Udp, bytes, tainted: false });
        self.world.fate = Box::new(|_| 1);
    }

    /// What the other end answers.
    fn ask(&mut self, exchange: ExchangeType, chain: ChainWriter) -> Opened {
        self.send(exchange, Direction::Request, self.id, chain);
        self.id += 1;
        let answer = self.world.seen.iter().find(|p| p.is_response()).unwrap().bytes.clone();
        self.sa().open(&answer).unwrap()
    }

    fn error(&mut self, exchange: ExchangeType, chain: ChainWriter) -> Option<NotifyType> {
        let opened = self.ask(exchange, chain);
        Payloads::parse(opened.first, opened.inner.expose(), &[]).unwrap().error()
    }

    /// After CREATE_CHILD_SA, and what comes next.
    fn begun(&mut self) -> (Following, KeyPair) {
        let suite = self.sa().suite;
        let proposed = Proposed::draw(&Self::preferences(), &suite, None, [9; 8], &mut self.rng);
        let pair = KeyPair::generate(proposed.group, &mut self.rng).unwrap();
        let opened = self.ask(ExchangeType::CREATE_CHILD_SA, proposed.chain(pair.public()));
        let payloads = Payloads::parse(opened.first, opened.inner.expose(), rules::CHILD_RESPONSE).unwrap();
        let accepted = proposed.accept(&Self::preferences(), payloads).unwrap();
        let mut following = Following::new(proposed, accepted);
        let shared = pair.agree(following.first_public()).unwrap();
        let method = following.agreed(shared).unwrap();
        (following, KeyPair::generate(method, &mut self.rng).unwrap())
    }

    /// A key exchange that goes on with a series; the next one, if there is one.
    fn goes_on(&mut self, following: &mut Following, pair: &KeyPair) -> Option<KeyPair> {
        let chain = following.chain(pair.group(), pair.public());
        let opened = self.ask(FOLLOW_UP, chain);
        let peer = following.accept(&opened).unwrap();
        let next = following.agreed(pair.agree(&peer).unwrap());
        next.map(|method| KeyPair::generate(method, &mut self.rng).unwrap())
    }

    /// SAs that the end we talk to has got in the place of the first.
    fn made(&self) -> u64 {
        match self.to_server {
            true => self.world.server.counters().rekeyed,
            false => self.world.hosts[self.at].member.status().ike_rekeys,
        }
    }

    fn is_over(&mut self) -> bool {
        match self.to_server {
            true => self.world.server.established() == 0,
            false => self.world.hosts[self.at].member.sa_for_test().is_none(),
        }
    }

    /// Lets the other end ask for new keys: its request.
    fn asked(&mut self) -> (u32, Opened) {
        self.world.pass_quietly(Duration::from_secs(901));
        match self.to_server {
            true => self.world.on_server(false, |s, ctx| s.expire(ctx)),
            false => self.world.on_member(self.at, false, |m, ctx| m.expire(ctx)),
        }
        let request = self.world.wire.pop_front().unwrap().bytes;
        self.open(&request)
    }

    fn open(&mut self, bytes: &[u8]) -> (u32, Opened) {
        let id = Header::decode(bytes).unwrap().0.message_id;
        (id, self.sa().open(bytes).unwrap())
    }

    /// The answer to that which is due, and what it goes on with.
    fn due(&mut self, opened: &Opened) -> (Answering, ChainWriter) {
        let ChildRequest::Rekey(init) = ChildRequest::of(opened.first, opened.inner.expose()).unwrap() else {
            panic!()
        };
        let suite = self.sa().suite;
        let request = Request::of(&init, &Self::preferences(), &suite, &mut self.rng).unwrap();
        let mut answering = Answering::new(request, [8; 8]);
        let (method, peer) = answering.first();
        let chain = self.computed(&mut answering, method, &peer);
        (answering, chain)
    }

    fn computed(&mut self, answering: &mut Answering, method: KeGroup, peer: &[u8]) -> ChainWriter {
        let seed = Secret::random(method.seed_len(), &mut self.rng);
        let (public, shared) = method.answer(seed.expose(), peer).unwrap();
        answering.answer(method, (&public, shared), &mut self.rng)
    }

    /// Answers, and takes what the other end sends then.
    fn answer(&mut self, exchange: ExchangeType, id: u32, chain: ChainWriter) -> Option<(ExchangeType, u32, Opened)> {
        self.send(exchange, Direction::Response, id, chain);
        let bytes = self.world.seen.iter().find(|p| !p.is_response())?.bytes.clone();
        let (id, opened) = self.open(&bytes);
        Some((ExchangeType(bytes[18]), id, opened))
    }

    /// The other end's first IKE_FOLLOWUP_KE request.
    fn followed_up(&mut self) -> (Answering, u32, Opened) {
        let (id, opened) = self.asked();
        let (answering, chain) = self.due(&opened);
        let (exchange, id, opened) = self.answer(ExchangeType::CREATE_CHILD_SA, id, chain).unwrap();
        assert_eq!(exchange, FOLLOW_UP);
        (answering, id, opened)
    }
}

fn payloads(ke: Option<(u16, &[u8])>, notify: Option<Notify<'_>>) -> ChainWriter {
    let mut chain = ChainWriter::new();
    if let Some((method, data)) = ke {
        chain.push(PayloadKind::KE.0, &Ke { method, data: Cow::Borrowed(data) }.to_vec());
    }
    if let Some(notify) = notify {
        chain.push(PayloadKind::NOTIFY.0, &notify.to_vec());
    }
    chain
}

fn link(data: &[u8]) -> Option<Notify<'_>> {
    Some(Notify::new(NotifyType::ADDITIONAL_KEY_EXCHANGE, data))
}

/// The link that a series waits for, out of the request that would be right.
fn right_link(following: &Following) -> Vec<u8> {
    let (first, body) = following.chain(KeGroup::Ecp256, &[0; 64]).finish().unwrap();
    let payloads = Payloads::parse(first, &body, &[]).unwrap();
    payloads.notify(NotifyType::ADDITIONAL_KEY_EXCHANGE).unwrap().data.to_vec()
}

fn value(method: KeGroup) -> Vec<u8> {
    KeyPair::generate(method, &mut SeededRandom::new(5)).unwrap().public().to_vec()
}

/// STATE_NOT_FOUND is not fatal, and what is awaited is awaited still.
#[test]
fn what_goes_on_with_nothing_is_told_so() {
    for to_server in [true, false] {
        let mut puppet = Puppet::new(to_server, NOBODY);
        let (method, kem) = (ke::ML_KEM_512, value(KeGroup::MlKem512));
        let strays = || {
            let of = |notify| payloads(Some((method, &kem)), notify);
            [of(None), of(link(&[])), of(link(&[7; 8])), of(link(&[7; 300])), payloads(None, None)]
        };
        for stray in strays() {
            assert_eq!(puppet.error(FOLLOW_UP, stray), Some(NotifyType::STATE_NOT_FOUND));
        }
        let (mut following, pair) = puppet.begun();
        let first = right_link(&following);
        for stray in strays() {
            assert_eq!(puppet.error(FOLLOW_UP, stray), Some(NotifyType::STATE_NOT_FOUND));
        }
        let next = puppet.goes_on(&mut following, &pair).unwrap();
        // A link is good once.
        assert_ne!(right_link(&following), first);
        let again = payloads(Some((method, &kem)), link(&first));
        assert_eq!(puppet.error(FOLLOW_UP, again), Some(NotifyType::STATE_NOT_FOUND));
        assert_eq!(puppet.made(), 0);
        assert!(puppet.goes_on(&mut following, &next).is_none());
        assert_eq!(puppet.made(), 1);
        let more = payloads(Some((ke_number(KeGroup::Ecp256), next.public())), link(&first));
        assert_eq!(puppet.error(FOLLOW_UP, more), Some(NotifyType::STATE_NOT_FOUND));
        assert!(!puppet.is_over());
    }
}

/// Nobody is waited for for ever, and a new beginning is the end of what was begun before.
#[test]
fn what_was_begun_is_forgotten() {
    for to_server in [true, false] {
        for late in [false, true] {
            let mut puppet = Puppet::new(to_server, NOBODY);
            let (mut following, pair) = puppet.begun();
            puppet.world.pass_quietly(Duration::from_secs(if late { 20 } else { 19 }));
            puppet.world.on_server(false, |s, ctx| s.expire(ctx));
            let at = puppet.at;
            puppet.world.on_member(at, false, |m, ctx| m.expire(ctx));
            match late {
                false => assert!(puppet.goes_on(&mut following, &pair).is_some()),
                true => {
                    let chain = following.chain(pair.group(), pair.public());
                    assert_eq!(puppet.error(FOLLOW_UP, chain), Some(NotifyType::STATE_NOT_FOUND));
                    registers_again_later(&mut puppet);
                }
            }
        }
        let mut puppet = Puppet::new(to_server, NOBODY);
        let (old, old_pair) = puppet.begun();
        let (mut following, pair) = puppet.begun();
        let chain = old.chain(old_pair.group(), old_pair.public());
        assert_eq!(puppet.error(FOLLOW_UP, chain), Some(NotifyType::STATE_NOT_FOUND));
        let next = puppet.goes_on(&mut following, &pair).unwrap();
        assert!(puppet.goes_on(&mut following, &next).is_none());
        assert_eq!(puppet.made(), 1);
    }
}

/// The end that we stood in for has not noticed anything, so far as its message IDs allow.
fn registers_again_later(puppet: &mut Puppet) {
    if !puppet.to_server {
        registers_again(&mut puppet.world, puppet.at);
    }
}

/// What is not the key exchange that was negotiated is the end of the IKE SA, at each step.
#[test]
fn what_is_no_key_exchange_ends_the_sa() {
    let (kem, ec) = (value(KeGroup::MlKem512), value(KeGroup::Ecp256));
    let (kem_number, ec_number) = (ke::ML_KEM_512, ke_number(KeGroup::Ecp256));
    let first: [Option<(u16, &[u8])>; 5] = [
        None,
        Some((ec_number, &ec)),
        Some((kem_number, &kem[1..])),
        Some((kem_number, &[])),
        Some((kem_number, &[0xff; 800])),
    ];
    let second: [Option<(u16, &[u8])>; 4] =
        [None, Some((kem_number, &kem)), Some((ec_number, &ec[1..])), Some((ec_number, &[1; 64]))];
    for to_server in [true, false] {
        for (step, said) in first.iter().map(|s| (1, s)).chain(second.iter().map(|s| (2, s))) {
            let mut puppet = Puppet::new(to_server, NOBODY);
            let (mut following, pair) = puppet.begun();
            if step == 2 {
                puppet.goes_on(&mut following, &pair).unwrap();
            }
            let chain = payloads(*said, link(&right_link(&following)));
            assert_eq!(puppet.error(FOLLOW_UP, chain), Some(NotifyType::INVALID_SYNTAX), "{step} {said:?}");
            assert!(puppet.is_over() && puppet.made() == 0, "{step} {said:?}");
        }
        // Nor does it take a bad value in CREATE_CHILD_SA.
        let mut puppet = Puppet::new(to_server, NOBODY);
        let suite = puppet.sa().suite;
        let proposed = Proposed::draw(&Puppet::preferences(), &suite, None, [9; 8], &mut puppet.rng);
        let chain = proposed.chain(&[0; 32]);
        assert_eq!(puppet.error(ExchangeType::CREATE_CHILD_SA, chain), Some(NotifyType::INVALID_SYNTAX));
        assert!(puppet.is_over());
    }
}

/// A payload that must be understood is named, and the series goes on.
#[test]
fn a_critical_payload_is_refused() {
    for to_server in [true, false] {
        let mut puppet = Puppet::new(to_server, NOBODY);
        let (mut following, pair) = puppet.begun();
        let mut chain = following.chain(pair.group(), pair.public());
        chain.push_critical(200, &[1, 2]);
        assert_eq!(puppet.error(FOLLOW_UP, chain), Some(NotifyType::UNSUPPORTED_CRITICAL_PAYLOAD));
        assert!(puppet.goes_on(&mut following, &pair).is_some());
    }
}

/// Who had two additional key exchanges gets no new keys with fewer.
#[test]
fn new_keys_are_as_strong_as_those_before() {
    for to_server in [true, false] {
        for fewer in [&[][..], &[KeGroup::MlKem512], &[KeGroup::Ecp256], &[KeGroup::MlKem768, KeGroup::Ecp256]] {
            let mut puppet = Puppet::new(to_server, NOBODY);
            let weaker = Preferences { additional: exchanges(fewer), ..Preferences::default() };
            let mut suite = puppet.sa().suite;
            suite.additional = Default::default();
            let proposed = Proposed::draw(&weaker, &suite, None, [9; 8], &mut puppet.rng);
            let pair = KeyPair::generate(proposed.group, &mut puppet.rng).unwrap();
            let error = puppet.error(ExchangeType::CREATE_CHILD_SA, proposed.chain(pair.public()));
            assert_eq!(error, Some(NotifyType::NO_PROPOSAL_CHOSEN), "{fewer:?}");
            assert!(!puppet.is_over());
        }
    }
}

/// A key server that has room for two IKE SAs, and a member with one of them.
fn room_for_two() -> (World, usize) {
    let mut config = config();
    (config.sas, config.idle) = (2, Duration::from_secs(3600));
    config.preferences.additional = exchanges(&METHODS);
    let mut world = World::with(policy(false), config, 3);
    let mut settings = world.settings(1);
    settings.ike2.additional = exchanges(&METHODS);
    let at = world.add(settings);
    world.start(at);
    world.run();
    (world, at)
}

/// A crowd fills the key server while a series is under way.
#[test]
fn a_full_key_server_says_so() {
    let (world, at) = room_for_two();
    let mut puppet = Puppet { world, at, to_server: true, id: 4, rng: SeededRandom::new(77) };
    let (following, pair) = puppet.begun();
    let other = puppet.world.join(2);
    let chain = following.chain(pair.group(), pair.public());
    assert_eq!(puppet.error(FOLLOW_UP, chain), Some(NotifyType::NO_ADDITIONAL_SAS));
    assert_eq!((puppet.world.server.established(), puppet.made()), (2, 0));
    // One that is gone, and kept only to repeat its last answer, takes no room.
    puppet.world.on_member(other, false, |m, ctx| m.disconnect(ctx));
    puppet.world.run();
    let (following, pair) = puppet.begun();
    let chain = following.chain(pair.group(), pair.public());
    assert_ne!(puppet.error(FOLLOW_UP, chain), Some(NotifyType::NO_ADDITIONAL_SAS));
}

/// Whatever the answerer calls the next exchange comes back as it is; a superfluous link after the last is passed over.
#[test]
fn links_are_sent_back_as_they_are() {
    for to_server in [true, false] {
        for name in [vec![], vec![1], vec![0xee; 700]] {
            let mut puppet = Puppet::new(to_server, Wish { server: to_server, member: !to_server });
            let (mut answering, id, opened) = puppet.followed_up();
            let parsed = Payloads::parse(opened.first, opened.inner.expose(), rules::FOLLOWUP_KE).unwrap();
            let (method, peer) = answering.next(&parsed).unwrap();
            let chain = puppet.computed(&mut answering, method, &peer);
            let public = public_of(chain);
            let chain = payloads(Some((ke::ML_KEM_512, &public)), link(&name));
            let (exchange, id, opened) = puppet.answer(FOLLOW_UP, id, chain).unwrap();
            assert_eq!(exchange, FOLLOW_UP);
            let parsed = Payloads::parse(opened.first, opened.inner.expose(), rules::FOLLOWUP_KE).unwrap();
            assert_eq!(parsed.notify(NotifyType::ADDITIONAL_KEY_EXCHANGE).unwrap().data.as_ref(), name);
            let said: Ke<'_> = parsed.get(PayloadKind::KE).unwrap().unwrap();
            assert_eq!(said.method, ke_number(KeGroup::Ecp256));
            let chain = puppet.computed(&mut answering, KeGroup::Ecp256, &said.data);
            let chain = payloads(Some((said.method, &public_of(chain))), link(b"more"));
            let (exchange, ..) = puppet.answer(FOLLOW_UP, id, chain).unwrap();
            assert_eq!((exchange, puppet.made()), (ExchangeType::INFORMATIONAL, 1), "the end of the old SA");
        }
    }
}

fn public_of(chain: ChainWriter) -> Vec<u8> {
    let (first, body) = chain.finish().unwrap();
    let said: Ke<'_> = Payloads::parse(first, &body, &[]).unwrap().get(PayloadKind::KE).unwrap().unwrap();
    said.data.to_vec()
}

/// What becomes of a series that is answered badly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Then {
    /// Another attempt after a while.
    Later,
    /// The SA goes on, without new keys.
    GoesOn,
    /// The SA is deleted, or given up.
    Over,
}

#[test]
fn bad_answers_make_no_sa() {
    let (kem, ec) = (value(KeGroup::MlKem512), value(KeGroup::Ecp256));
    let error = |kind| payloads(None, Some(Notify::bare(kind)));
    let ciphertext = vec![5; 768];
    let cases = || {
        [
            (error(NotifyType::STATE_NOT_FOUND), Then::Later),
            (error(NotifyType::TEMPORARY_FAILURE), Then::Later),
            (error(NotifyType::NO_ADDITIONAL_SAS), Then::GoesOn),
            (error(NotifyType::INVALID_SYNTAX), Then::Over),
            (ChainWriter::new(), Then::Over),
            (payloads(None, link(b"next")), Then::Over),
            (payloads(Some((ke_number(KeGroup::Ecp256), &ec)), link(b"next")), Then::Over),
            (payloads(Some((ke::ML_KEM_512, &kem)), link(b"next")), Then::Over),
            (payloads(Some((ke::ML_KEM_512, &ciphertext[1..])), link(b"next")), Then::Over),
            // Nothing to go on with, though another key exchange is to follow.
            (payloads(Some((ke::ML_KEM_512, &ciphertext)), None), Then::Over),
        ]
    };
    for to_server in [true, false] {
        for (n, (chain, then)) in cases().into_iter().enumerate() {
            let mut puppet = Puppet::new(to_server, Wish { server: to_server, member: !to_server });
            let (_, id, _) = puppet.followed_up();
            let sent = puppet.answer_blindly(id, chain);
            assert_eq!(puppet.made(), 0, "{n}");
            let asks = |puppet: &mut Puppet| {
                puppet.world.seen.clear();
                puppet.world.fate = Box::new(|_| 0);
                puppet.world.pass(Duration::from_secs(16));
                puppet.world.seen.iter().any(|p| p.exchange() == ExchangeType::CREATE_CHILD_SA.0)
            };
            match then {
                Then::Later => assert!(sent.is_empty() && asks(&mut puppet), "{n}"),
                Then::GoesOn => assert!(sent.is_empty() && !asks(&mut puppet) && !puppet.is_over(), "{n}"),
                Then::Over if to_server => {
                    assert!(puppet.is_over() || sent == [ExchangeType::INFORMATIONAL.0], "{n} {sent:?}");
                }
                Then::Over => {
                    assert!(puppet.is_over() && sent != [FOLLOW_UP.0], "{n} {sent:?}");
                    let at = puppet.at;
                    let events = &puppet.world.hosts[at].events;
                    assert!(events.contains(&MemberEvent::Disconnected) || n == 3, "{n}");
                }
            }
        }
        // CREATE_CHILD_SA without a link: nothing can follow, and no SA comes of it.
        let mut puppet = Puppet::new(to_server, Wish { server: to_server, member: !to_server });
        let (id, opened) = puppet.asked();
        let (_, chain) = puppet.due(&opened);
        let (first, body) = chain.finish().unwrap();
        let parsed = Payloads::parse(first, &body, &[]).unwrap();
        let mut chain = ChainWriter::new();
        for kind in [PayloadKind::SA, PayloadKind::NONCE, PayloadKind::KE] {
            chain.push(kind.0, parsed.body(kind).unwrap());
        }
        assert!(puppet.answer(ExchangeType::CREATE_CHILD_SA, id, chain).is_none());
        assert!(puppet.made() == 0 && !puppet.is_over());
    }
}

impl Puppet {
    /// Answers an IKE_FOLLOWUP_KE request: which exchanges the other end begins then over this SA.
    fn answer_blindly(&mut self, id: u32, chain: ChainWriter) -> Vec<u8> {
        self.send(FOLLOW_UP, Direction::Response, id, chain);
        let init = ExchangeType::IKE_SA_INIT.0;
        self.world.seen.iter().map(Packet::exchange).filter(|e| *e != init).collect()
    }
}

/// A late or foreign answer is none: neither another exchange's nor another request's.
#[test]
fn answers_to_something_else_are_passed_over() {
    for to_server in [true, false] {
        let mut puppet = Puppet::new(to_server, Wish { server: to_server, member: !to_server });
        let (mut answering, id, opened) = puppet.followed_up();
        let gone = || payloads(None, Some(Notify::bare(NotifyType::STATE_NOT_FOUND)));
        puppet.send(ExchangeType::CREATE_CHILD_SA, Direction::Response, id, gone());
        puppet.send(FOLLOW_UP, Direction::Response, id - 1, gone());
        puppet.send(FOLLOW_UP, Direction::Response, id + 1, gone());
        let parsed = Payloads::parse(opened.first, opened.inner.expose(), rules::FOLLOWUP_KE).unwrap();
        let (method, peer) = answering.next(&parsed).unwrap();
        let chain = puppet.computed(&mut answering, method, &peer);
        let (exchange, ..) = puppet.answer(FOLLOW_UP, id, chain).unwrap();
        assert_eq!(exchange, FOLLOW_UP, "it goes on");
    }
}

/// SAs that are closed, and only kept to repeat their last answer, take no room from a series.
#[test]
fn closed_sas_leave_room_for_a_series() {
    let (mut world, at) = room_for_two();
    let other = world.join(2);
    world.on_member(other, false, |m, ctx| m.disconnect(ctx));
    world.run();
    assert_eq!(world.server.established(), 1);
    let mut puppet = Puppet { world, at, to_server: true, id: 4, rng: SeededRandom::new(77) };
    let (mut following, pair) = puppet.begun();
    let next = puppet.goes_on(&mut following, &pair).unwrap();
    assert!(puppet.goes_on(&mut following, &next).is_none());
    assert_eq!(puppet.made(), 1);
}
