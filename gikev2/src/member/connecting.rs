//! From nothing to an IKE SA, initiator's side (RFC 7296 sections 1.2, 2.4, 2.6, 2.7 and 2.15).

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use keyferry_crypto::{CryptoError, KeGroup, KeyPair, Secret};
use keyferry_model::redirect::GatewayName;
use keyferry_model::settings::{MemberSettings, OneSide, Ppk};
use keyferry_model::time::Now;
use keyferry_wire::{ChainWriter, Encode, Header};

use super::Step;
use super::candidate::{Asked, Candidate, Failure, Means, name};
use super::resume::{Ticket, wish_for_ticket};
use crate::algorithms::ke_number;
use crate::ike_sa::auth::{SignedOctets, shared_key_mac};
use crate::ike_sa::certificates::{self, Wanted};
use crate::ike_sa::init::{NONCE_LEN, Nat, Parts, nat_found, request};
use crate::ike_sa::int_auth::IntAuth;
use crate::ike_sa::keymat::stir;
use crate::ike_sa::reassembly::MAX_OCTETS;
use crate::ike_sa::sa::{Direction, IkeSa};
use crate::ike_sa::signature::{Announced, announcement};
use crate::ike_sa::window::{Backoff, Due, Repeating, digest_of};
use crate::ike_sa::{Preferences, Role, Skeyseed};
use crate::keylog::KeyLog;
use crate::policy::gateway::redirected_from;
use crate::policy::identity::identity_to_wire;
use crate::registration::request::join;
use crate::reject::Reject;
use crate::wire::auth::Auth;
use crate::wire::message::{Init, Payloads};
use crate::wire::notify::Notify;
use crate::wire::registry::{AuthMethod, ExchangeType, NotifyType, PayloadKind};
use crate::wire::rules;
use crate::wire::sa::Sa;
use crate::wire::sk::Opened;

/// Responses followed side by side. The oldest are kept, so that who comes later than the key server does not push it out;
/// the last place is the newest one's, so that who comes earlier does not keep it out.
const CANDIDATES: usize = 4;
/// Sets of keys under which something is asked in one attempt.
const KEY_SETS: usize = 1024;
/// How far apart the IVs of different requests under the same keys are, in bits.
const IV_SHIFT: u32 = 40;
const TOO_LONG: Reject = Reject::Misbehaved("request too long");
/// Key pairs made for one attempt: one for the group we guessed, one for the group wanted, some for what others forge.
const KEY_PAIRS: u8 = 8;
/// Message ID of the first request after IKE_SA_INIT.
pub(super) const FIRST_ID: u32 = 1;

/// An IKE SA in the making.
pub(super) struct Connecting {
    spi_i: [u8; 8],
    pub(super) nonce_i: Vec<u8>,
    offer: Sa<'static>,
    preferences: Preferences,
    pair: KeyPair,
    pub(super) cookie: Option<Vec<u8>>,
    request: Repeating,
    /// Amendments after the first of their kind. They wait for the next repeat: of two contradicting ones the first may be
    /// forged, and the answer to the request as it stands may be on its way.
    later: (Option<Vec<u8>>, Option<KeGroup>),
    key_pairs: u8,
    /// An unprotected refusal, in words: it may be forged, so it only shortens the wait.
    refused: Option<String>,
    pub(super) candidates: Vec<Candidate>,
    /// Key pairs of additional key exchanges, one for each method.
    pub(super) pairs: BTreeMap<KeGroup, KeyPair>,
    /// What was asked under the keys of candidates, present and past.
    pub(super) asked: Vec<Asked>,
    /// What it goes on from, by IKE_SESSION_RESUME in the place of IKE_SA_INIT.
    pub(super) ticket: Option<Ticket>,
}

/// What an IKE_SA_INIT response led to.
pub(super) enum Next {
    /// Send this.
    Send(Vec<u8>),
    /// Turn to another key server.
    Elsewhere(GatewayName),
    /// Nothing.
    Wait,
}

/// What an IKE_AUTH or GSA_AUTH response led to.
pub(super) enum Outcome {
    /// The key server is who it should be.
    Up {
        sa: Box<IkeSa>,
        /// Message ID of our next request.
        next_id: u32,
        /// The first thing to ask for is new keys.
        renew: bool,
        nat: Nat,
        /// The payloads, to be read again for policy and keys.
        opened: Opened,
        exchange: ExchangeType,
    },
    /// It refused, or is somebody else; nothing else to hope for.
    Failed(String),
    /// This response failed, others are still followed.
    Wait,
}

/// What the member needs of itself for a request.
pub(super) struct Wish<'a> {
    pub(super) settings: &'a MemberSettings,
    /// Register right away, by GSA_AUTH.
    pub(super) register: bool,
    pub(super) backoff: Backoff,
    /// The same of the first message.
    pub(super) first: Backoff,
    /// Our address and the key server's.
    pub(super) path: (SocketAddr, SocketAddr),
    /// Nothing is repeated: it goes over TCP.
    pub(super) reliable: bool,
    /// The most octets of a datagram, where the key server takes fragments.
    pub(super) limit: usize,
    /// May we be sent to another key server?
    pub(super) follows: bool,
    /// The one that sent us here.
    pub(super) redirected_from: Option<IpAddr>,
}

impl Wish<'_> {
    /// Do we register by GSA_AUTH? Not where no key wrap algorithm was chosen, nor where new keys for the IKE SA come first.
    fn registers(&self, key_wrap: bool, takes_ppk: bool) -> bool {
        let renew = takes_ppk && self.settings.ike2.ppks.first().is_some_and(|ppk| ppk.rekey);
        self.register && key_wrap && !renew
    }
}

impl Connecting {
    /// Begins: draws SPI, nonce and key pair.
    pub(super) fn begin(
        wish: &Wish<'_>,
        preferences: &Preferences,
        ticket: Option<Ticket>,
        step: &mut Step<'_>,
    ) -> Result<Self, CryptoError> {
        let mut spi_i = [0; 8];
        // Not four zero octets in front, which read as a non-ESP marker.
        while spi_i[..4] == [0; 4] {
            step.rng.fill(&mut spi_i);
        }
        let mut nonce_i = vec![0; NONCE_LEN];
        step.rng.fill(&mut nonce_i);
        let group = preferences.groups.first().copied().unwrap_or(KeGroup::X25519);
        let pair = KeyPair::generate(group, step.rng)?;
        // Without the wish to register a key wrap algorithm is of no use, and a plain IKEv2 peer does not know it.
        let offer = preferences.initial_proposals(!wish.settings.connect_only);
        let backoff = if ticket.is_some() { Ticket::backoff(wish.first) } else { wish.first };
        let mut connecting = Self {
            spi_i,
            nonce_i,
            offer,
            preferences: preferences.clone(),
            pair,
            cookie: None,
            request: Repeating::new(Vec::new(), backoff, step.now.mono, step.rng),
            later: (None, None),
            key_pairs: KEY_PAIRS,
            refused: None,
            candidates: Vec::new(),
            pairs: BTreeMap::new(),
            asked: Vec::new(),
            ticket,
        };
        connecting.renew_request(wish);
        Ok(connecting)
    }

    pub(super) fn spi_i(&self) -> [u8; 8] {
        self.spi_i
    }

    /// Does the way to whoever has this SPI lead through a NAT, by what its response said?
    pub(super) fn nat_to(&self, spi_r: [u8; 8]) -> Option<Nat> {
        self.candidates.iter().find(|c| c.sa.spi_r == spi_r).map(|c| c.nat)
    }

    /// The IKE_SA_INIT request as it stands.
    pub(super) fn init_request(&self) -> Vec<u8> {
        self.request.bytes.clone()
    }

    /// Amends the request. Its timers run on, so that nobody can keep us asking for ever.
    fn renew_request(&mut self, wish: &Wish<'_>) {
        if let Some(ticket) = &self.ticket {
            self.request.bytes = self.resume_request(wish, ticket);
            return;
        }
        let intermediate =
            Some(NotifyType::INTERMEDIATE_EXCHANGE_SUPPORTED).filter(|_| !self.preferences.additional.is_empty());
        let ppk = Some(NotifyType::USE_PPK).filter(|_| !wish.settings.ike2.ppks.is_empty());
        let redirect = Some(NotifyType::REDIRECT_SUPPORTED).filter(|_| wish.follows);
        let fragments = Some(NotifyType::IKEV2_FRAGMENTATION_SUPPORTED);
        let abilities: Vec<NotifyType> = fragments.into_iter().chain(intermediate).chain(ppk).chain(redirect).collect();
        let parts = Parts {
            spi_i: self.spi_i,
            spi_r: [0; 8],
            sa: &self.offer,
            ke_method: ke_number(self.pair.group()),
            public: self.pair.public(),
            nonce: &self.nonce_i,
            path: wish.path,
            abilities: &abilities,
            announcement: Some(announcement()),
            certificates: None,
            redirected_from: wish.redirected_from.map(redirected_from),
        };
        self.request.bytes = request(&parts, self.cookie.as_deref());
    }

    pub(super) fn due_at(&self) -> Option<Duration> {
        match self.candidates.is_empty() {
            true => Some(self.request.due_at()),
            false => self.candidates.iter().filter_map(|c| self.asked.get(c.asked)?.due_at()).min(),
        }
    }

    /// Messages to repeat; an error, in words, when there is nothing left to wait for.
    pub(super) fn expire(&mut self, wish: &Wish<'_>, step: &mut Step<'_>) -> Result<Vec<Vec<u8>>, Option<String>> {
        let now = step.now.mono;
        if self.candidates.is_empty() {
            return match self.request.expire(now, step.rng) {
                Due::Wait => Ok(Vec::new()),
                Due::Repeat if self.amend_late(wish, step) || !wish.reliable => Ok(vec![self.init_request()]),
                Due::Repeat => Ok(Vec::new()),
                Due::GiveUp => Err(self.refused.take()),
            };
        }
        // What nobody is followed for any more is kept, and not repeated.
        let mut followed: Vec<usize> = self.candidates.iter().map(|c| c.asked).collect();
        followed.sort_unstable();
        followed.dedup();
        let mut repeats = Vec::new();
        for at in followed {
            repeats.extend(self.asked.get_mut(at).and_then(|a| a.expire(now, step.rng)));
        }
        let asked = &self.asked;
        self.candidates.retain(|c| asked.get(c.asked).is_some_and(Asked::is_pending));
        let repeated = !repeats.is_empty();
        if wish.reliable {
            repeats.clear();
        }
        if repeated && self.amend_late(wish, step) {
            // Perhaps none of those that we follow is the key server, and it waits for this.
            repeats.push(self.init_request());
        }
        if self.candidates.is_empty() { Err(None) } else { Ok(repeats) }
    }

    /// Messages that wait for an answer.
    pub(super) fn unanswered(&self) -> Vec<Vec<u8>> {
        if self.candidates.is_empty() {
            return vec![self.init_request()];
        }
        let followed = |at: usize| self.candidates.iter().any(|c| c.asked == at);
        let asked = self.asked.iter().enumerate().filter(|(at, _)| followed(*at));
        asked.filter_map(|(_, asked)| asked.message.as_ref()).map(|message| message.bytes.clone()).collect()
    }

    /// A refusal, if nobody is followed who did not refuse.
    pub(super) fn take_refusal(&mut self) -> Option<String> {
        self.refused.take_if(|_| self.candidates.is_empty())
    }

    /// Takes an IKE_SA_INIT response, which nothing protects.
    pub(super) fn init_response(
        &mut self,
        wish: &Wish<'_>,
        header: &Header,
        datagram: &[u8],
        step: &mut Step<'_>,
        log: Option<&mut (dyn KeyLog + Send)>,
    ) -> Result<Next, Reject> {
        if header.message_id != 0 || header.flags & crate::wire::registry::flags::INITIATOR != 0 {
            return Err(Reject::Malformed("not a first response"));
        }
        if header.exchange != self.first_exchange().0 {
            return Err(Reject::Malformed("the answer to another exchange"));
        }
        let (rules, first) = match self.resumes() {
            true => (rules::RESUME_RESPONSE, PayloadKind::NONCE),
            false => (rules::INIT_RESPONSE, PayloadKind::SA),
        };
        let payloads = Payloads::parse(header.next, &datagram[Header::LEN..], rules)?;
        if payloads.body(first).is_none() {
            return self.amend(wish, &payloads, step);
        }
        if header.spi_r == [0; 8] {
            return Err(Reject::Malformed("a responder's SPI is not zero"));
        }
        let digest = digest_of(datagram);
        if self.candidates.iter().any(|c| digest_of(&c.response) == digest) {
            return Ok(Next::Wait);
        }
        match self.resumes() {
            true => self.follow_resumed(wish, header, datagram, &payloads, step, log),
            false => self.follow(wish, header, datagram, Init::of(payloads)?, step, log),
        }
    }

    /// A response without SA: a cookie to return, a group to use, or a refusal.
    fn amend(&mut self, wish: &Wish<'_>, payloads: &Payloads<'_>, step: &mut Step<'_>) -> Result<Next, Reject> {
        if let Some(cookie) = payloads.notify(NotifyType::COOKIE) {
            if cookie.data.is_empty() || cookie.data.len() > 64 {
                return Err(Reject::Malformed("a cookie has 1 to 64 octets"));
            }
            if self.cookie.is_some() || !self.candidates.is_empty() {
                self.later.0 = Some(cookie.data.to_vec());
                return Ok(Next::Wait);
            }
            self.cookie = Some(cookie.data.to_vec());
        } else if self.resumes() && payloads.notify(NotifyType::TICKET_NACK).is_some() {
            // It may be forged: whoever takes the ticket is waited for a little longer.
            self.refuse("the key server does not take the ticket".to_owned());
            return Ok(Next::Wait);
        } else if let Some(notify) = payloads.notify(NotifyType::INVALID_KE_PAYLOAD) {
            let wanted = <[u8; 2]>::try_from(notify.data.as_ref()).map(u16::from_be_bytes);
            let wanted = wanted.map_err(|_| Reject::Malformed("INVALID_KE_PAYLOAD has two octets of data"))?;
            let group = self.preferences.groups.iter().copied().find(|g| ke_number(*g) == wanted);
            let group = group.ok_or(Reject::Unacceptable(NotifyType::NO_PROPOSAL_CHOSEN))?;
            if group == self.pair.group() || self.key_pairs < KEY_PAIRS || !self.candidates.is_empty() {
                self.later.1 = Some(group);
                return Ok(Next::Wait);
            }
            self.change_group(group, step)?;
        } else if let Some(to) = self.redirect(payloads)? {
            return Ok(Next::Elsewhere(to));
        } else {
            if let Some(error) = payloads.error() {
                self.refuse(format!("{error:?}"));
            }
            return Ok(Next::Wait);
        }
        self.renew_request(wish);
        Ok(Next::Send(self.init_request()))
    }

    /// Somebody says no: wait until the next repeat would be due, and no longer.
    pub(super) fn refuse(&mut self, why: String) {
        self.refused = Some(why);
        self.request.last_chance();
    }

    /// A new key pair. The offer stays what it was, and a key server with preferences insists on the best group in
    /// it, so nobody can talk us down (RFC 7296 sections 1.2 and 2.7).
    fn change_group(&mut self, group: KeGroup, step: &mut Step<'_>) -> Result<(), Reject> {
        self.key_pairs = self.key_pairs.checked_sub(1).ok_or(Reject::Misbehaved("too many groups"))?;
        self.pair = KeyPair::generate(group, step.rng).map_err(|_| Reject::Misbehaved("key pair"))?;
        Ok(())
    }

    /// Takes up what had to wait for the next repeat; says whether there was anything.
    fn amend_late(&mut self, wish: &Wish<'_>, step: &mut Step<'_>) -> bool {
        let (cookie, group) = std::mem::take(&mut self.later);
        if cookie.is_none() && group.is_none() {
            return false;
        }
        self.cookie = cookie.or(self.cookie.take());
        if let Some(group) = group.filter(|g| *g != self.pair.group())
            && let Err(reject) = self.change_group(group, step)
        {
            tracing::debug!(%reject, "group kept");
        }
        self.renew_request(wish);
        true
    }

    /// Makes keys with a response and asks over them, once for each set of keys: another response with the same ones (they
    /// come from a part of it only) may be what AUTH covers, but it leads to no second message under them.
    fn follow(
        &mut self,
        wish: &Wish<'_>,
        header: &Header,
        datagram: &[u8],
        init: Init<'_>,
        step: &mut Step<'_>,
        mut log: Option<&mut (dyn KeyLog + Send)>,
    ) -> Result<Next, Reject> {
        let suite = self.preferences.accept(&self.offer, &init.sa)?;
        if suite.group != self.pair.group() || init.ke.method != ke_number(suite.group) {
            return Err(Reject::Misbehaved("another key exchange group than ours"));
        }
        let more = suite.additional.into_iter().flatten().collect();
        let intermediate = init.payloads.notify(NotifyType::INTERMEDIATE_EXCHANGE_SUPPORTED).is_some();
        if suite.additional.iter().any(Option::is_some) && !intermediate {
            return Err(Reject::Misbehaved("additional key exchanges without IKE_INTERMEDIATE"));
        }
        let ppk = wish.settings.ike2.ppks.first();
        let takes_ppk = init.payloads.notify(NotifyType::USE_PPK).is_some();
        if ppk.is_some_and(|ppk| ppk.required) && !takes_ppk {
            // The announcement may have been taken out on the way: others are still waited for.
            self.refuse("the key server uses no postquantum preshared key".to_owned());
            return Err(Reject::Misbehaved("no announcement of a postquantum preshared key"));
        }
        let register = wish.registers(suite.key_wrap.is_some(), takes_ppk);
        if !register && init.payloads.notify(NotifyType::CHILDLESS_IKEV2_SUPPORTED).is_none() {
            // RFC 6023 section 3. The announcement may have been taken out on the way: others are still waited for.
            self.refuse("the key server takes no IKE SAs without a Child SA".to_owned());
            return Err(Reject::Misbehaved("no announcement that IKE_AUTH may be childless"));
        }
        let shared = self.pair.agree(&init.ke.data).map_err(|_| Reject::Misbehaved("an unacceptable public value"))?;
        let keys = Skeyseed::derive(suite, &self.nonce_i, &init.nonce.0, &shared).expand(&self.spi_i, &header.spi_r);
        let name = name(&keys);
        let to = log.as_mut().map(|l| &mut **l as _);
        let (mut sa, proof) = IkeSa::new(Role::Initiator, suite, self.spi_i, header.spi_r, keys, step.rng, to)
            .map_err(|_| Reject::Misbehaved("keys of an IKE SA"))?;
        sa.set_limit(init.payloads.notify(NotifyType::IKEV2_FRAGMENTATION_SUPPORTED).map(|_| wish.limit));
        let nat = self.nat_of(wish, &init.payloads, &header.spi_r);
        let candidate = Candidate {
            sa,
            proof,
            response: datagram.to_vec(),
            nonce_r: init.nonce.0.to_vec(),
            nat,
            announced: Announced::read(&init.payloads)?,
            wanted: Wanted::read(&init.payloads).unwrap_or_default(),
            takes_ppk,
            keys: name,
            more,
            int_auth: IntAuth::default(),
            message_id: FIRST_ID,
            asked: 0,
        };
        self.ask(wish, candidate, step, log)
    }

    /// Where a response says that NATs are. Of one in front of us we know nothing while we do not know our address.
    pub(super) fn nat_of(&self, wish: &Wish<'_>, payloads: &Payloads<'_>, spi_r: &[u8; 8]) -> Nat {
        let (local, gateway) = wish.path;
        let nat = nat_found(payloads, &self.spi_i, spi_r, (gateway, local));
        Nat { receiver: nat.receiver && !local.ip().is_unspecified(), ..nat }
    }

    /// Asks over a candidate's keys, unless that was done, and follows it from now on. Where an additional key exchange was done
    /// already for another one with the same keys it takes part in what came of it.
    pub(super) fn ask(
        &mut self,
        wish: &Wish<'_>,
        mut candidate: Candidate,
        step: &mut Step<'_>,
        mut log: Option<&mut (dyn KeyLog + Send)>,
    ) -> Result<Next, Reject> {
        let (at, next) = loop {
            let method = candidate.more.front().copied();
            let known = self.asked.iter().position(|a| a.keys == candidate.keys && a.method == method);
            match known.and_then(|at| Some((at, self.asked.get(at)?))) {
                Some((at, asked)) if asked.is_pending() => {
                    candidate.sa.continue_at(asked.next_iv);
                    break (at, Next::Wait);
                }
                Some((_, asked)) if asked.answer.is_some() => {
                    let log = log.as_mut().map(|l| &mut **l as _);
                    candidate = candidate.advance(&self.nonce_i, asked, step.rng, log)?;
                }
                Some(_) => return Err(Reject::Misbehaved("keys that were given up")),
                None if self.asked.len() == KEY_SETS => {
                    return Err(Reject::Unauthenticated("one set of keys too many"));
                }
                None => {
                    let bytes = self.request_under(wish, &mut candidate, method, step)?;
                    break (self.asked.len() - 1, Next::Send(bytes));
                }
            }
        };
        candidate.asked = at;
        self.candidates.truncate(CANDIDATES - 1);
        self.candidates.push(candidate);
        Ok(next)
    }

    /// A request under a candidate's keys: the next key exchange, or AUTH.
    fn request_under(
        &mut self,
        wish: &Wish<'_>,
        candidate: &mut Candidate,
        method: Option<KeGroup>,
        step: &mut Step<'_>,
    ) -> Result<Vec<u8>, Reject> {
        // Others under the same keys count from elsewhere.
        let mut others = self.asked.iter().filter(|a| a.keys == candidate.keys);
        if let Some(first) = others.next() {
            let place = u64::try_from(1 + others.count()).unwrap_or(u64::MAX);
            candidate.sa.continue_at(first.next_iv.wrapping_add(place << IV_SHIFT));
        }
        // What follows IKE_SESSION_RESUME is IKE_AUTH (RFC 5723 section 4.3.3).
        let register = !self.resumes() && wish.registers(candidate.sa.suite.key_wrap.is_some(), candidate.takes_ppk);
        let (exchange, chain, inner) = match method {
            Some(method) => {
                let inner = self.key_exchange(method, step)?.finish().map_err(|_| TOO_LONG)?;
                (ExchangeType::IKE_INTERMEDIATE, self.key_exchange(method, step)?, inner)
            }
            None => {
                let exchange = if register { ExchangeType::GSA_AUTH } else { ExchangeType::IKE_AUTH };
                let chain = match &self.ticket {
                    Some(ticket) => Ok(self.resumed_auth_request(wish.settings, candidate, ticket)),
                    None => self.auth_request(wish.settings, candidate, register),
                };
                let chain = match chain {
                    Ok(chain) => chain,
                    Err(reject) => {
                        // What it was told may have been altered on the way: others are still waited for.
                        self.refuse(reject.to_string());
                        return Err(reject);
                    }
                };
                (exchange, chain, (0, Vec::new()))
            }
        };
        let message_id = candidate.message_id;
        let bytes =
            candidate.sa.seal(exchange, Direction::Request, message_id, chain, step.rng).map_err(|_| TOO_LONG)?;
        self.asked.push(Asked {
            keys: candidate.keys.clone(),
            exchange,
            message_id,
            method,
            inner,
            answer: None,
            next_iv: candidate.sa.next_iv(),
            message: Some(Repeating::new(bytes.clone(), wish.backoff, step.now.mono, step.rng)),
        });
        Ok(bytes)
    }

    /// `IDi, [CERT,] N(INITIAL_CONTACT), [CERTREQ,] [IDr,] AUTH, [N(PPK_IDENTITY), [N(NO_PPK_AUTH),]]`, and the group if we
    /// register.
    fn auth_request(
        &self,
        settings: &MemberSettings,
        candidate: &Candidate,
        register: bool,
    ) -> Result<ChainWriter, Reject> {
        let id = identity_to_wire(&settings.identity).to_vec();
        let mut chain = ChainWriter::new();
        chain.push(PayloadKind::ID_I.0, &id);
        let means = candidate.means(settings)?;
        if let Means::Signature(own, _) = means {
            certificates::put(own, &mut chain);
        }
        chain.push(PayloadKind::NOTIFY.0, &Notify::bare(NotifyType::INITIAL_CONTACT).to_vec());
        if let OneSide::Certificate(expected) = settings.auth.gateway()
            && let Some(request) = certificates::request(expected.trust)
        {
            chain.push(PayloadKind::CERTREQ.0, &request);
        }
        if let Some(gateway) = settings.gateway_identity() {
            chain.push(PayloadKind::ID_R.0, &identity_to_wire(gateway).to_vec());
        }
        let plain = &candidate.proof.0;
        match candidate.ppk(settings) {
            None => chain.push(PayloadKind::AUTH.0, &self.own_auth(means, candidate, &id, plain)?.to_vec()),
            Some(ppk) => {
                let stirred = stir(candidate.sa.suite.prf, &ppk.key, plain);
                chain.push(PayloadKind::AUTH.0, &self.own_auth(means, candidate, &id, &stirred)?.to_vec());
                let which = Notify::new(NotifyType::PPK_IDENTITY, ppk.id.as_slice());
                chain.push(PayloadKind::NOTIFY.0, &which.to_vec());
                if !ppk.required {
                    let auth = self.own_auth(means, candidate, &id, plain)?;
                    let instead = Notify::new(NotifyType::NO_PPK_AUTH, auth.data);
                    chain.push(PayloadKind::NOTIFY.0, &instead.to_vec());
                }
            }
        }
        if settings.ike2.resume {
            wish_for_ticket(&mut chain);
        }
        if register {
            join(settings, &settings.group, &mut chain);
        }
        Ok(chain)
    }

    /// Our AUTH, by a SK_pi.
    fn own_auth(
        &self,
        means: Means<'_>,
        candidate: &Candidate,
        id: &[u8],
        proof: &Secret,
    ) -> Result<Auth<'static>, Reject> {
        let prf = candidate.sa.suite.prf;
        let int_auth = &candidate.int_auth.octets(candidate.message_id);
        let signed = SignedOctets { message: &self.request.bytes, nonce: &candidate.nonce_r, id, int_auth };
        match means {
            Means::Psk(psk) => {
                let mac = shared_key_mac(prf, psk, proof, signed);
                Ok(Auth { method: AuthMethod::SHARED_KEY, data: mac.expose().to_vec().into() })
            }
            Means::Signature(own, way) => {
                let value = own.key.sign_form(way.form, signed.octets(prf, proof).expose());
                let value = value.map_err(|_| Reject::Misbehaved("our signature could not be made"))?;
                Ok(way.auth(&value))
            }
        }
    }

    /// Takes a fragment of such a response; returns the response when it is whole.
    pub(super) fn fragment(&mut self, header: &Header, datagram: &[u8], now: Duration) -> Option<Vec<u8>> {
        let named = self.candidates.iter_mut().filter(|c| c.sa.is_named_by(header));
        let mut whole = None;
        for candidate in named {
            match candidate.sa.take_fragment(datagram, MAX_OCTETS, now) {
                Ok(message) => whole = message.or(whole),
                Err(reject) => tracing::debug!(%reject, "fragment dropped"),
            }
        }
        whole
    }

    /// Takes an IKE_AUTH or GSA_AUTH response: what it led to, and what to tell its sender if it is not the key server. What does
    /// not verify under a candidate's keys changes nothing.
    pub(super) fn auth_response(
        &mut self,
        settings: &MemberSettings,
        header: &Header,
        datagram: &[u8],
        step: &mut Step<'_>,
    ) -> Result<(Option<Vec<u8>>, Outcome), Reject> {
        let mut failed = None;
        let mut good = None;
        for (at, c) in self.candidates.iter().enumerate().filter(|(_, c)| c.sa.is_named_by(header)) {
            if !self.awaits(c, header) {
                continue;
            }
            match c.sa.open(datagram) {
                // Several responses may have led to these keys; AUTH covers one of them.
                Ok(opened) => match self.verify(settings, c, &opened, step.now) {
                    Ok(ppk) => {
                        good = Some((at, opened, ppk));
                        break;
                    }
                    Err(failure) => failed = Some((at, failure)),
                },
                Err(reject @ Reject::Malformed(_)) => return Err(reject),
                Err(_) => {}
            }
        }
        if let Some((at, opened, ppk)) = good {
            let mut c = self.candidates.swap_remove(at);
            if let Some(ppk) = ppk {
                c.sa.stir(&ppk.key, ppk.rekey);
            }
            let renew = ppk.is_some_and(|ppk| ppk.rekey);
            let exchange = ExchangeType(header.exchange);
            let next_id = c.message_id + 1;
            return Ok((None, Outcome::Up { sa: Box::new(c.sa), next_id, renew, nat: c.nat, opened, exchange }));
        }
        let (at, failure) = failed.ok_or(Reject::Unauthenticated("under no keys of ours"))?;
        let asked = self.candidates.get(at).map_or(0, |c| c.asked);
        Ok(match failure {
            Failure::NoAnswer(why) => (None, self.give_up(asked, why)),
            Failure::NoProof(why) => (self.failure(at, step), self.give_up(asked, why)),
        })
    }

    /// Tells whoever has answered that it did not authenticate, over keys that are not used again (RFC 7296 section 2.21.2, RFC
    /// 8784 section 3). No answer is awaited.
    fn failure(&mut self, at: usize, step: &mut Step<'_>) -> Option<Vec<u8>> {
        let candidate = self.candidates.get_mut(at)?;
        let mut chain = ChainWriter::new();
        chain.push(PayloadKind::NOTIFY.0, &Notify::bare(NotifyType::AUTHENTICATION_FAILED).to_vec());
        let (exchange, message_id) = (ExchangeType::INFORMATIONAL, candidate.message_id + 1);
        candidate.sa.seal(exchange, Direction::Request, message_id, chain, step.rng).ok()
    }

    /// Is the key server who it should be? With the PPK that it took, if any.
    fn verify<'s>(
        &self,
        settings: &'s MemberSettings,
        candidate: &Candidate,
        opened: &Opened,
        now: Now,
    ) -> Result<Option<&'s Ppk>, Failure> {
        match &self.ticket {
            Some(ticket) => candidate.verify_resumed(ticket, &self.nonce_i, opened).map(|()| None),
            None => candidate.verify(settings, &self.nonce_i, opened, now),
        }
    }

    /// Nothing comes of a request: those whose keys it was under are followed no more.
    pub(super) fn give_up(&mut self, at: usize, why: String) -> Outcome {
        if let Some(asked) = self.asked.get_mut(at) {
            asked.message = None;
        }
        self.candidates.retain(|c| c.asked != at);
        if self.candidates.is_empty() { Outcome::Failed(why) } else { Outcome::Wait }
    }

    /// Is it the answer to what was asked over a candidate's keys, by its header?
    pub(super) fn awaits(&self, candidate: &Candidate, header: &Header) -> bool {
        self.asked
            .get(candidate.asked)
            .is_some_and(|a| a.is_pending() && a.exchange.0 == header.exchange && a.message_id == header.message_id)
    }
}
