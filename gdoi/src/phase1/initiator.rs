//! Main mode as initiator, from the first message to the SA, and what it shares with aggressive mode.
//!
//! ```text
//!  state          | message 2             | message 4              | message 6
//!  ---------------+-----------------------+------------------------+-------------
//!  Initiator      | send 3, branch        | -                      | -
//!   + branch      | nothing (repeat)      | send 5, proof          | -
//!     + proof     | nothing (repeat)      | nothing (repeat)       | an IkeSa
//!
//!  aggressive     | an IkeSa, send 3      | -                      | -
//! ```
//!
//! At most [`MAX_RIVALS`] branches without a proof may live side by side, and as many proofs in all branches.

mod aggressive;
mod peer;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use keyferry_crypto::{Hash, KeGroup, KeyPair, Random, Secret};
use keyferry_model::id::Identity;
use keyferry_model::reading::Readings;
use keyferry_model::settings::{CertificateAuth, MemberAuth, Phase1Exchange};
use keyferry_model::time::Now;
use keyferry_wire::{Decode, Header, RawPayload, chain};

use super::auth;
use super::extensions::Extensions;
use super::ike_sa::IkeSa;
use super::keymat::{Transcript, cookie};
use super::method::Method;
use super::nat::{Nat, Place};
use super::responder::read_ke;
use super::suite::{self, Accepted, Phase1Doi, Suite};
use super::{HOLD, MAX_RIVALS};
use crate::identity;
use crate::message::{self, Iv, Payloads, SealError};
use crate::notice::Notice;
use crate::reject::Reject;
use crate::wire::nonce::Nonce;
use crate::wire::notification::Notification;
use crate::wire::opaque::Ke;
use crate::wire::registry::{NotifyType, exchange, flag, payload};
use crate::wire::rules::{self, MAIN_HASH, MAIN_KE, MAIN_SA, MAIN_SIG, NOTICE_CLEAR};
use crate::wire::sa::Sa;
use aggressive::Done;
use peer::Budget;
use peer::Cost;
pub(crate) use peer::{Postponed, Rejected};

/// What an initiator is configured with.
pub(crate) struct Config<'a> {
    pub(crate) exchange: Phase1Exchange,
    pub(crate) accepted: &'a Accepted,
    pub(crate) identity: &'a Identity,
    pub(crate) peer: Option<&'a Identity>,
    pub(crate) auth: &'a MemberAuth,
    pub(crate) lifetime: Duration,
    pub(crate) doi: Phase1Doi,
    /// In which readings we write.
    pub(crate) sends: Readings,
    /// In which ones the key server was seen to write before.
    pub(crate) seen: Readings,
    /// What we announce.
    pub(crate) extensions: Extensions,
    /// Where we are, and where the key server is.
    pub(crate) path: (SocketAddr, SocketAddr),
    /// The same once a translator is found.
    pub(crate) floated: (SocketAddr, SocketAddr),
}

/// How both sides prove who they are: IKEv1 has no method for each in its own way.
#[derive(Clone, Debug)]
enum Auth {
    Psk(Arc<Secret>),
    Certificate(Box<CertificateAuth>),
}

impl Auth {
    fn of(auth: &MemberAuth) -> Option<Self> {
        match auth {
            MemberAuth::Psk(psk) => Some(Auth::Psk(Arc::clone(psk))),
            MemberAuth::Certificate(auth) => Some(Auth::Certificate(auth.clone())),
            MemberAuth::Mixed(_) => None,
        }
    }

    fn method(&self) -> Method {
        match self {
            Auth::Psk(_) => Method::PreSharedKey,
            Auth::Certificate(auth) => Method::Signature(auth.own.key.kind()),
        }
    }
}

/// A phase 1 under way.
pub(crate) struct Initiator {
    exchange: u8,
    cookie: [u8; 8],
    offered: Vec<Suite>,
    sa_i: Vec<u8>,
    nonce_i: Vec<u8>,
    id_i: Vec<u8>,
    peer: Option<Identity>,
    auth: Auth,
    lifetime: Duration,
    doi: Phase1Doi,
    sends: Readings,
    seen: Readings,
    ours: Extensions,
    path: (SocketAddr, SocketAddr),
    floated: (SocketAddr, SocketAddr),
    message1: Vec<u8>,
    pairs: Vec<Arc<KeyPair>>,
    branches: Vec<Branch>,
    /// The latest message 2 too many, and when it is followed.
    held_choice: Option<(Choice, Duration)>,
    /// The latest message 4 too many, and when it is followed.
    held: Option<(Header, Vec<u8>, Duration)>,
    /// Checks of signatures, and in aggressive mode key exchanges, that may still be done.
    budget: Budget,
    postponed: Vec<Postponed>,
    hint: Option<NotifyType>,
}

impl std::fmt::Debug for Initiator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Initiator").field("branches", &self.branches).finish_non_exhaustive()
    }
}

/// What a message 2 says.
#[derive(Clone, Copy)]
struct Choice {
    cookies: [u8; 16],
    suite: Suite,
    lifetime: Option<Duration>,
    extensions: Extensions,
    /// In which readings it is written.
    seen: Readings,
}

impl Choice {
    /// Can this be the public value of a message 4 that follows it?
    fn leads_to(&self, header: &Header, ke: &Ke<'_>) -> bool {
        self.cookies == header.spi_pair() && self.suite.group.public_len() == ke.0.len()
    }
}

/// One message 2 that somebody sent.
struct Branch {
    choice: Choice,
    pair: Arc<KeyPair>,
    message3: Vec<u8>,
    proofs: Vec<ExpectProof>,
}

impl std::fmt::Debug for Branch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Branch")
            .field("suite", &self.choice.suite)
            .field("proofs", &self.proofs.len())
            .finish_non_exhaustive()
    }
}

/// One message 4 that somebody sent on top of it.
struct ExpectProof {
    ke_r: Vec<u8>,
    nonce_r: Vec<u8>,
    sa: IkeSa,
    nat: Nat,
    message5: Vec<u8>,
}

/// Proof that the peer is who it must be.
#[derive(Debug)]
pub(crate) struct Verified {
    at: At,
    /// Who the peer is.
    identity: Identity,
    /// In which readings it writes, other than we do.
    seen: Readings,
}

#[derive(Debug)]
enum At {
    Main { branch: usize, proof: usize, last_block: Iv },
    Aggressive(Box<Done>),
}

/// What comes of phase 1.
#[derive(Debug)]
pub(crate) struct Established {
    pub(crate) sa: IkeSa,
    pub(crate) lifetime: Duration,
    /// Who the peer is.
    pub(crate) identity: Identity,
    /// What both sides can do.
    pub(crate) extensions: Extensions,
    /// Translators on the way.
    pub(crate) nat: Nat,
    /// In which readings the peer writes, other than we do.
    pub(crate) seen: Readings,
    /// Message 3 of aggressive mode, which nobody acknowledges.
    pub(crate) message3: Option<Vec<u8>>,
}

impl Initiator {
    /// Begins; `None` when nothing that is configured can be offered.
    pub(crate) fn new(config: &Config<'_>, rng: &mut dyn Random) -> Option<Self> {
        let auth = Auth::of(config.auth)?;
        let method = auth.method();
        method.number()?;
        let mut offered = config.accepted.suites(method);
        let first = offered.first()?.group;
        let exchange = match config.exchange {
            Phase1Exchange::Main => exchange::MAIN_MODE,
            Phase1Exchange::Aggressive => {
                // Our public value goes with the offer, so all of it is of one group.
                offered.retain(|s| s.group == first);
                exchange::AGGRESSIVE
            }
        };
        let cookie = cookie(rng);
        let sa_i = suite::offer(&offered, config.lifetime, config.doi);
        let mut nonce_i = vec![0; Nonce::OWN_LEN];
        rng.fill(&mut nonce_i);
        let mut initiator = Self {
            exchange,
            cookie,
            offered,
            sa_i,
            nonce_i,
            id_i: identity::in_phase1(config.identity, auth::id_port(config.sends, config.extensions.nat_traversal)),
            peer: config.peer.cloned(),
            auth,
            lifetime: config.lifetime,
            doi: config.doi,
            sends: config.sends,
            seen: config.seen,
            ours: config.extensions,
            path: config.path,
            floated: config.floated,
            message1: Vec::new(),
            pairs: Vec::new(),
            branches: Vec::new(),
            held_choice: None,
            held: None,
            budget: Budget::default(),
            postponed: Vec::new(),
            hint: None,
        };
        let mut payloads = Payloads::new().with_body(payload::SA, Secret::copy_from(&initiator.sa_i));
        if exchange == exchange::AGGRESSIVE {
            payloads = initiator.hello(payloads, first, rng)?;
        }
        payloads = config.extensions.announce(payloads);
        let mut cookies = [0; 16];
        cookies[..8].copy_from_slice(&cookie);
        let header = message::header(&cookies, exchange, 0, 0, payload::SA);
        initiator.message1 = message::clear(&header, &payloads).ok()?;
        Some(initiator)
    }

    /// The exchange type of its messages.
    pub(crate) fn exchange(&self) -> u8 {
        self.exchange
    }

    /// Our cookie.
    pub(crate) fn cookie(&self) -> &[u8; 8] {
        &self.cookie
    }

    /// What the responder with these cookies has announced, and we have.
    pub(crate) fn extensions(&self, cookies: &[u8; 16]) -> Option<Extensions> {
        self.branches.iter().find(|b| b.choice.cookies == *cookies).map(|b| b.choice.extensions)
    }

    /// An error that somebody claimed in clear. It proves nothing, but may explain why the exchange failed.
    pub(crate) fn hint(&self) -> Option<NotifyType> {
        self.hint
    }

    /// What to send, for the `attempt`th time from 0: the latest messages, and later on the ones before too, lest a
    /// forged answer to one of them keep the true one away.
    pub(crate) fn messages(&self, attempt: u8) -> Vec<Vec<u8>> {
        let ones = std::slice::from_ref(&self.message1).iter();
        let threes = self.branches.iter().map(|b| &b.message3);
        let fives = self.branches.iter().flat_map(|b| b.proofs.iter().map(|p| &p.message5));
        let stages = [fives.cloned().collect::<Vec<_>>(), threes.cloned().collect(), ones.cloned().collect()];
        let latest = stages.into_iter().filter(|s| !s.is_empty());
        if attempt < 2 { latest.take(1).flatten().collect() } else { latest.flatten().collect() }
    }

    /// Message 2 or 4. Returns what to send next.
    pub(crate) fn clear(
        &mut self,
        header: &Header,
        body: &[u8],
        mono: Duration,
        rng: &mut dyn Random,
    ) -> Result<Option<Vec<u8>>, Reject> {
        if header.flags & flag::ENCRYPTED != 0 || header.message_id != 0 {
            return Err(Reject::Unauthenticated("not a message of this state"));
        }
        if header.next == payload::SA {
            self.chosen(header, body, mono, rng)
        } else {
            self.exchanged(header, body, mono)
        }
    }

    /// How far the exchange has come by what anybody may have sent: 1 with a message 2, 2 with a message 4.
    pub(crate) fn stage(&self) -> u8 {
        match self.branches.as_slice() {
            [] => 0,
            branches if branches.iter().all(|b| b.proofs.is_empty()) => 1,
            _ => 2,
        }
    }

    fn chosen(
        &mut self,
        header: &Header,
        body: &[u8],
        mono: Duration,
        rng: &mut dyn Random,
    ) -> Result<Option<Vec<u8>>, Reject> {
        let payloads = chain(header.next, body)?;
        MAIN_SA.check(&payloads)?;
        let choice = self.choice(header, &payloads)?;
        if self.unproven() < MAX_RIVALS {
            return self.branch(choice, rng).map(Some);
        }
        if self.knows(&choice) {
            return Err(Reject::Replayed);
        }
        let at = self.held_choice.as_ref().map_or(mono + HOLD, |(_, at)| *at);
        self.held_choice = Some((choice, at));
        Ok(None)
    }

    /// What message 2 has chosen.
    fn choice(&self, header: &Header, payloads: &[RawPayload<'_>]) -> Result<Choice, Reject> {
        let sa = Sa::exact(rules::body(payloads, payload::SA).unwrap_or_default())?;
        let refused = |what| Reject::Unacceptable(what, NotifyType::NO_PROPOSAL_CHOSEN);
        if !suite::fits(&sa) {
            return Err(refused("DOI or situation of phase 1"));
        }
        let (suite, lifetime) = suite::chosen(&sa, &self.offered).ok_or(refused("not what was offered"))?;
        let cookies = header.spi_pair();
        if cookies[8..] == [0; 8] {
            return Err(Reject::Unauthenticated("no responder cookie"));
        }
        let extensions = Extensions::read(payloads).and(self.ours);
        Ok(Choice { cookies, suite, lifetime, extensions, seen: suite::doi_seen(&sa, self.doi) })
    }

    fn unproven(&self) -> usize {
        self.branches.iter().filter(|b| b.proofs.is_empty()).count()
    }

    fn knows(&self, choice: &Choice) -> bool {
        self.branches.iter().any(|b| b.choice.cookies == choice.cookies && b.choice.suite == choice.suite)
    }

    /// Follows a message 2. Returns message 3.
    fn branch(&mut self, choice: Choice, rng: &mut dyn Random) -> Result<Vec<u8>, Reject> {
        if self.knows(&choice) {
            return Err(Reject::Replayed);
        }
        let failed = || Reject::Unacceptable("the key exchange failed", NotifyType::NO_PROPOSAL_CHOSEN);
        let Choice { cookies, suite, extensions, .. } = choice;
        let pair = self.pair(suite.group, rng).ok_or_else(failed)?;
        let mut payloads = self.ask_for_certificates(
            Payloads::new().with(payload::KE, &Ke(pair.public())).with(payload::NONCE, &Nonce(&self.nonce_i)),
        );
        if extensions.nat_traversal {
            payloads = place(self.path, suite.hash, &cookies).announce(payloads);
        }
        let header = message::header(&cookies, exchange::MAIN_MODE, 0, 0, payload::KE);
        let message3 = message::clear(&header, &payloads).map_err(|_| failed())?;
        let sent = message3.clone();
        self.branches.push(Branch { choice, pair, message3, proofs: Vec::new() });
        self.trim();
        Ok(sent)
    }

    /// Gives up the oldest branch without a proof, if there are too many of them.
    fn trim(&mut self) {
        if self.unproven() > MAX_RIVALS {
            let oldest = self.branches.iter().position(|b| b.proofs.is_empty());
            oldest.map(|at| self.branches.remove(at));
        }
    }

    /// Our key pair of a group: one for all branches.
    fn pair(&mut self, group: KeGroup, rng: &mut dyn Random) -> Option<Arc<KeyPair>> {
        if let Some(pair) = self.pairs.iter().find(|p| p.group() == group) {
            return Some(Arc::clone(pair));
        }
        let pair = Arc::new(KeyPair::generate(group, rng).ok()?);
        self.pairs.push(Arc::clone(&pair));
        Some(pair)
    }

    fn exchanged(&mut self, header: &Header, body: &[u8], mono: Duration) -> Result<Option<Vec<u8>>, Reject> {
        let payloads = chain(header.next, body)?;
        MAIN_KE.check(&payloads)?;
        let (ke, nonce) = read_ke(&payloads)?;
        let fits = |b: &&Branch| b.choice.leads_to(header, &ke);
        if !self.branches.iter().any(|b| fits(&b)) {
            return Err(Reject::Unauthenticated("no such exchange"));
        }
        let mut proofs = self.branches.iter().filter(fits).flat_map(|b| &b.proofs);
        if proofs.any(|a| a.ke_r == ke.0 && a.nonce_r == nonce.0) {
            return Err(Reject::Replayed);
        }
        if self.branches.iter().map(|b| b.proofs.len()).sum::<usize>() < MAX_RIVALS {
            return self.follow(header, body);
        }
        let at = self.held.as_ref().map_or(mono + HOLD, |(.., at)| *at);
        self.held = Some((*header, body.to_vec(), at));
        Ok(None)
    }

    /// When a message that was held wants its turn.
    pub(crate) fn due(&self) -> Option<Duration> {
        let choice = self.held_choice.as_ref().map(|(_, at)| *at);
        let held = self.held.as_ref().map(|(.., at)| *at);
        [choice, held, self.resumes()].into_iter().flatten().min()
    }

    /// Follows the messages that were held, in place of the oldest. Returns what to send.
    pub(crate) fn release(&mut self, mono: Duration, rng: &mut dyn Random) -> Vec<Vec<u8>> {
        let choice = self.held_choice.take_if(|(_, at)| *at <= mono);
        let message3 = choice.and_then(|(choice, _)| self.branch(choice, rng).ok());
        message3.into_iter().chain(self.release_proof(mono)).collect()
    }

    fn release_proof(&mut self, mono: Duration) -> Option<Vec<u8>> {
        let (header, body, _) = self.held.take_if(|(.., at)| *at <= mono)?;
        let message5 = self.follow(&header, &body).ok().flatten();
        if message5.is_some() {
            let oldest = self.branches.iter_mut().find(|b| !b.proofs.is_empty());
            oldest.map(|b| b.proofs.remove(0));
            self.trim();
        }
        message5
    }

    fn follow(&mut self, header: &Header, body: &[u8]) -> Result<Option<Vec<u8>>, Reject> {
        let payloads = chain(header.next, body)?;
        MAIN_KE.check(&payloads)?;
        let (ke, nonce) = read_ke(&payloads)?;
        let mut verdict = Err(Reject::Unauthenticated("no such exchange"));
        for i in 0..self.branches.len() {
            let branch = &self.branches[i];
            if !branch.choice.leads_to(header, &ke) {
                continue;
            }
            let Choice { cookies, suite, extensions, .. } = &branch.choice;
            let place = place(self.path, suite.hash, cookies);
            let nat = if extensions.nat_traversal { place.find(&payloads) } else { None };
            let proof = self.prove(branch, ke.0, nonce.0, nat.unwrap_or_default());
            verdict = proof.map_err(|_| Reject::Unauthenticated("public value")).map(|proof| {
                let message5 = proof.message5.clone();
                self.branches[i].proofs.push(proof);
                Some(message5)
            });
        }
        verdict
    }

    /// Translators on the way to the responder with these cookies, as far as its message 4 said.
    pub(crate) fn nat(&self, cookies: &[u8; 16]) -> Nat {
        let proofs = self.branches.iter().filter(|b| b.choice.cookies == *cookies).flat_map(|b| &b.proofs);
        proofs.map(|p| p.nat).find(|nat| nat.is_there()).unwrap_or_default()
    }

    fn prove(&self, branch: &Branch, ke_r: &[u8], nonce_r: &[u8], nat: Nat) -> Result<ExpectProof, SealError> {
        let shared = branch.pair.agree(ke_r)?;
        let transcript = self.transcript(branch, ke_r, nonce_r);
        let mut sa = IkeSa::new(branch.choice.cookies, transcript.keys(self.basis(), &shared));
        let payloads = self.evidence(auth::id_payload(Payloads::new(), &self.id_i), &transcript, sa.keys())?;
        let (message5, last_block) = sa.seal_phase1(exchange::MAIN_MODE, &sa.keys().iv, &payloads)?;
        sa.chain_to(last_block);
        Ok(ExpectProof { ke_r: ke_r.to_vec(), nonce_r: nonce_r.to_vec(), sa, nat, message5 })
    }

    fn transcript<'a>(&'a self, branch: &'a Branch, ke_r: &'a [u8], nonce_r: &'a [u8]) -> Transcript<'a> {
        Transcript {
            suite: branch.choice.suite,
            cookies: &branch.choice.cookies,
            sa_i: &self.sa_i,
            ke_i: branch.pair.public(),
            ke_r,
            nonce_i: &self.nonce_i,
            nonce_r,
        }
    }

    /// Message 6: does it prove the peer, and is it who it must be?
    pub(crate) fn verify(&self, header: &Header, body: &[u8], now: Now) -> Result<Verified, Rejected> {
        let mut why = Rejected::cheap(Reject::Unauthenticated("no such exchange"));
        for (b, branch) in self.branches.iter().enumerate().filter(|(_, b)| b.choice.cookies == header.spi_pair()) {
            for (a, proof) in branch.proofs.iter().enumerate() {
                match self.check(branch, proof, header, body, now) {
                    Ok((last_block, (identity, seen))) => {
                        let at = At::Main { branch: b, proof: a, last_block };
                        return Ok(Verified { at, identity, seen: seen.union(branch.choice.seen) });
                    }
                    Err(e) if matches!(e.cost, Cost::Postponed(_)) => return Err(e.of(b * MAX_RIVALS + a)),
                    Err(e) => why = e,
                }
            }
        }
        Err(why)
    }

    fn check(
        &self,
        branch: &Branch,
        proof: &ExpectProof,
        header: &Header,
        body: &[u8],
        now: Now,
    ) -> Result<(Iv, (Identity, Readings)), Rejected> {
        // With the wrong key it is noise, so whatever is wrong means "not authentic".
        const NOISE: Reject = Reject::Unauthenticated("message does not decrypt");
        let plain = proof.sa.open_phase1(header, body)?;
        let payloads = plain.parts().map_err(|_| NOISE)?.payloads;
        let form = if branch.choice.suite.method == Method::PreSharedKey { &MAIN_HASH } else { &MAIN_SIG };
        form.check(&payloads).map_err(|_| NOISE)?;
        let transcript = self.transcript(branch, &proof.ke_r, &proof.nonce_r);
        let peer = self.peer_of(&payloads, &transcript, proof.sa.keys(), now)?;
        Ok((plain.last_block, peer))
    }

    /// Ends phase 1.
    pub(crate) fn advance(mut self, peer: Verified) -> Established {
        match peer.at {
            At::Main { branch, proof, last_block } => {
                let mut branch = self.branches.swap_remove(branch);
                let ExpectProof { mut sa, nat, .. } = branch.proofs.swap_remove(proof);
                sa.chain_to(last_block);
                Established {
                    sa,
                    lifetime: branch.choice.lifetime.map_or(self.lifetime, |l| l.min(self.lifetime)),
                    identity: peer.identity,
                    extensions: branch.choice.extensions,
                    nat,
                    seen: peer.seen,
                    message3: None,
                }
            }
            At::Aggressive(done) => Established {
                sa: done.sa,
                lifetime: done.lifetime.map_or(self.lifetime, |l| l.min(self.lifetime)),
                identity: peer.identity,
                extensions: done.extensions,
                nat: done.nat,
                seen: peer.seen,
                message3: Some(done.message3),
            },
        }
    }

    /// A notice instead of message 6. With a valid hash it is the peer's refusal where the keys depend on a pre-shared key;
    /// anybody can make one where signatures authenticate, so that it leaves only a hint there, as in clear.
    pub(crate) fn notice(&mut self, header: &Header, body: &[u8]) -> Result<Option<NotifyType>, Reject> {
        if header.flags & flag::ENCRYPTED == 0 {
            let payloads = chain(header.next, body)?;
            NOTICE_CLEAR.check(&payloads)?;
            for body in rules::bodies(&payloads, payload::NOTIFICATION) {
                let kind = Notification::exact(body)?.kind;
                if kind.is_error() {
                    self.hint = Some(kind);
                }
            }
            return Ok(None);
        }
        let mut why = Reject::Unauthenticated("no such exchange");
        for branch in self.branches.iter().filter(|b| b.choice.cookies == header.spi_pair()) {
            for proof in &branch.proofs {
                match Notice::open(&proof.sa, header, body) {
                    Ok(notice) if branch.choice.suite.method == Method::PreSharedKey => return Ok(notice.error),
                    Ok(notice) => {
                        self.hint = notice.error.or(self.hint);
                        return Ok(None);
                    }
                    Err(e) => why = e,
                }
            }
        }
        Err(why)
    }
}

fn place(path: (SocketAddr, SocketAddr), hash: Hash, cookies: &[u8; 16]) -> Place<'_> {
    Place { hash, cookies, own: path.0, peer: path.1 }
}
