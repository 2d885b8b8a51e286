//! Main mode as initiator, from the first message to the SA.
//!
//! ```text
//!  state          | message 2             | message 4              | message 6
//!  ---------------+-----------------------+------------------------+-------------
//!  Initiator      | send 3, branch        | -                      | -
//!   + branch      | nothing (repeat)      | send 5, auth           | -
//!     + auth      | nothing (repeat)      | nothing (repeat)       | an IkeSa
//! ```
//!
//! Several branches, and several auths in each, may live side by side, at most [`MAX_RIVALS`].

use std::sync::Arc;
use std::time::Duration;

use keyferry_crypto::{BlockCipher, Hash, KeGroup, KeyPair, Random, Secret, ct_eq};
use keyferry_model::id::Identity;
use keyferry_wire::{Decode, Header, chain};

use super::auth::{self, Claim};
use super::extensions::Extensions;
use super::ike_sa::IkeSa;
use super::keymat::{Transcript, cookie};
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
use crate::wire::rules::{self, MAIN_SA, NOTICE_CLEAR};
use crate::wire::sa::Sa;

/// What an initiator is configured with.
pub(crate) struct Config<'a> {
    pub(crate) groups: &'a [KeGroup],
    pub(crate) hashes: &'a [Hash],
    pub(crate) identity: &'a Identity,
    pub(crate) peer: Option<&'a Identity>,
    pub(crate) psk: &'a Arc<Secret>,
    pub(crate) lifetime: Duration,
    pub(crate) doi: Phase1Doi,
}

/// A main mode under way.
pub(crate) struct Initiator {
    cookie: [u8; 8],
    offered: Vec<Suite>,
    sa_i: Vec<u8>,
    nonce_i: Vec<u8>,
    id_i: Vec<u8>,
    peer: Option<Identity>,
    psk: Arc<Secret>,
    lifetime: Duration,
    message1: Vec<u8>,
    pairs: Vec<Arc<KeyPair>>,
    branches: Vec<Branch>,
    /// The latest message 4 too many, and when it is followed.
    held: Option<(Header, Vec<u8>, Duration)>,
    hint: Option<NotifyType>,
}

impl std::fmt::Debug for Initiator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Initiator").field("branches", &self.branches).finish_non_exhaustive()
    }
}

/// One message 2 that somebody sent.
struct Branch {
    cookies: [u8; 16],
    suite: Suite,
    lifetime: Option<Duration>,
    extensions: Extensions,
    pair: Arc<KeyPair>,
    message3: Vec<u8>,
    auths: Vec<ExpectAuth>,
}

impl std::fmt::Debug for Branch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Branch").field("suite", &self.suite).field("auths", &self.auths.len()).finish_non_exhaustive()
    }
}

/// One message 4 that somebody sent on top of it.
struct ExpectAuth {
    ke_r: Vec<u8>,
    nonce_r: Vec<u8>,
    sa: IkeSa,
    message5: Vec<u8>,
}

/// Proof that the hash of message 6 was right.
#[derive(Debug)]
pub(crate) struct Verified {
    branch: usize,
    auth: usize,
    last_block: Iv,
    /// Who the peer is.
    pub(crate) identity: Identity,
}

impl Initiator {
    /// Begins; `None` when nothing that is configured can be offered.
    pub(crate) fn new(config: &Config<'_>, rng: &mut dyn Random) -> Option<Self> {
        let accepted = Accepted {
            ciphers: vec![BlockCipher::Aes256Cbc, BlockCipher::Aes128Cbc],
            hashes: config.hashes.to_vec(),
            groups: config.groups.to_vec(),
        };
        let offered = accepted.suites();
        if offered.is_empty() {
            return None;
        }
        let cookie = cookie(rng);
        let sa_i = suite::offer(&offered, config.lifetime, config.doi);
        let mut nonce_i = vec![0; Nonce::OWN_LEN];
        rng.fill(&mut nonce_i);
        let payloads = Extensions::OURS.announce(Payloads::new().with_body(payload::SA, Secret::copy_from(&sa_i)));
        let mut cookies = [0; 16];
        cookies[..8].copy_from_slice(&cookie);
        let header = message::header(&cookies, exchange::MAIN_MODE, 0, 0, payload::SA);
        Some(Self {
            cookie,
            offered,
            sa_i,
            nonce_i,
            id_i: identity::of_identity(config.identity),
            peer: config.peer.cloned(),
            psk: Arc::clone(config.psk),
            lifetime: config.lifetime,
            message1: message::clear(&header, &payloads).ok()?,
            pairs: Vec::new(),
            branches: Vec::new(),
            held: None,
            hint: None,
        })
    }

    /// Our cookie.
    pub(crate) fn cookie(&self) -> &[u8; 8] {
        &self.cookie
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
        let fives = self.branches.iter().flat_map(|b| b.auths.iter().map(|a| &a.message5));
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
        if header.next == payload::SA { self.chosen(header, body, rng) } else { self.exchanged(header, body, mono) }
    }

    fn chosen(&mut self, header: &Header, body: &[u8], rng: &mut dyn Random) -> Result<Option<Vec<u8>>, Reject> {
        let payloads = chain(header.next, body)?;
        MAIN_SA.check(&payloads)?;
        let sa = Sa::exact(rules::body(&payloads, payload::SA).unwrap_or_default())?;
        let refused = |what| Reject::Unacceptable(what, NotifyType::NO_PROPOSAL_CHOSEN);
        if !suite::fits(&sa) {
            return Err(refused("DOI or situation of phase 1"));
        }
        let (suite, lifetime) = suite::chosen(&sa, &self.offered).ok_or(refused("not what was offered"))?;
        let cookies = header.spi_pair();
        if cookies[8..] == [0; 8] {
            return Err(Reject::Unauthenticated("no responder cookie"));
        }
        if self.branches.iter().any(|b| b.cookies == cookies && b.suite == suite) {
            return Err(Reject::Replayed);
        }
        let extensions = Extensions::read(&payloads).and(Extensions::OURS);
        let pair = self.pair(suite.group, rng).ok_or(refused("the key exchange failed"))?;
        if self.branches.len() == MAX_RIVALS {
            let oldest = self.branches.iter().position(|b| b.auths.is_empty()).unwrap_or(0);
            self.branches.remove(oldest);
        }
        let payloads =
            Payloads::new().with(payload::KE, &Ke(pair.public())).with(payload::NONCE, &Nonce(&self.nonce_i));
        let header = message::header(&cookies, exchange::MAIN_MODE, 0, 0, payload::KE);
        let message3 = message::clear(&header, &payloads).map_err(|_| refused("the key exchange failed"))?;
        let (message3, sent) = (message3.clone(), message3);
        self.branches.push(Branch { cookies, suite, lifetime, extensions, pair, message3, auths: Vec::new() });
        Ok(Some(sent))
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
        let (ke, nonce) = read_ke(header, body)?;
        let fits = |b: &&Branch| b.cookies == header.spi_pair() && b.suite.group.public_len() == ke.0.len();
        if !self.branches.iter().any(|b| fits(&b)) {
            return Err(Reject::Unauthenticated("no such exchange"));
        }
        let mut auths = self.branches.iter().filter(fits).flat_map(|b| &b.auths);
        if auths.any(|a| a.ke_r == ke.0 && a.nonce_r == nonce.0) {
            return Err(Reject::Replayed);
        }
        if self.branches.iter().map(|b| b.auths.len()).sum::<usize>() < MAX_RIVALS {
            return self.follow(header, body);
        }
        let at = self.held.as_ref().map_or(mono + HOLD, |(.., at)| *at);
        self.held = Some((*header, body.to_vec(), at));
        Ok(None)
    }

    /// When a message 4 that was held wants its turn.
    pub(crate) fn due(&self) -> Option<Duration> {
        self.held.as_ref().map(|(.., at)| *at)
    }

    /// Follows the message 4 that was held, in place of the oldest. Returns what to send.
    pub(crate) fn release(&mut self, mono: Duration) -> Option<Vec<u8>> {
        let (header, body, _) = self.held.take_if(|(.., at)| *at <= mono)?;
        let message5 = self.follow(&header, &body).ok().flatten();
        if message5.is_some() {
            let oldest = self.branches.iter_mut().find(|b| !b.auths.is_empty());
            oldest.map(|b| b.auths.remove(0));
        }
        message5
    }

    fn follow(&mut self, header: &Header, body: &[u8]) -> Result<Option<Vec<u8>>, Reject> {
        let (ke, nonce) = read_ke(header, body)?;
        let mut verdict = Err(Reject::Unauthenticated("no such exchange"));
        for i in 0..self.branches.len() {
            let branch = &self.branches[i];
            if branch.cookies != header.spi_pair() || ke.0.len() != branch.suite.group.public_len() {
                continue;
            }
            let auth = self.prove(branch, ke.0, nonce.0);
            verdict = auth.map_err(|_| Reject::Unauthenticated("public value")).map(|auth| {
                let message5 = auth.message5.clone();
                self.branches[i].auths.push(auth);
                Some(message5)
            });
        }
        verdict
    }

    fn prove(&self, branch: &Branch, ke_r: &[u8], nonce_r: &[u8]) -> Result<ExpectAuth, SealError> {
        let shared = branch.pair.agree(ke_r)?;
        let transcript = self.transcript(branch, ke_r, nonce_r);
        let mut sa = IkeSa::new(branch.cookies, transcript.keys(&self.psk, &shared));
        let hash = transcript.hash_i(sa.keys(), &self.id_i);
        let (message5, last_block) = sa.seal_main(&sa.keys().iv, &auth::payloads(&self.id_i, &hash))?;
        sa.chain_to(last_block);
        Ok(ExpectAuth { ke_r: ke_r.to_vec(), nonce_r: nonce_r.to_vec(), sa, message5 })
    }

    fn transcript<'a>(&'a self, branch: &'a Branch, ke_r: &'a [u8], nonce_r: &'a [u8]) -> Transcript<'a> {
        Transcript {
            suite: branch.suite,
            cookies: &branch.cookies,
            sa_i: &self.sa_i,
            ke_i: branch.pair.public(),
            ke_r,
            nonce_i: &self.nonce_i,
            nonce_r,
        }
    }

    /// Message 6: does its hash prove the peer, and is it who it must be?
    pub(crate) fn verify(&self, header: &Header, body: &[u8]) -> Result<Verified, Reject> {
        let mut why = Reject::Unauthenticated("no such exchange");
        for (b, branch) in self.branches.iter().enumerate().filter(|(_, b)| b.cookies == header.spi_pair()) {
            for (a, auth) in branch.auths.iter().enumerate() {
                match self.check(branch, auth, header, body) {
                    Ok((last_block, identity)) => return Ok(Verified { branch: b, auth: a, last_block, identity }),
                    Err(e) => why = e,
                }
            }
        }
        Err(why)
    }

    fn check(
        &self,
        branch: &Branch,
        auth: &ExpectAuth,
        header: &Header,
        body: &[u8],
    ) -> Result<(Iv, Identity), Reject> {
        let plain = auth.sa.open_main(header, body)?;
        let claim = Claim::read(&plain)?;
        let hash = self.transcript(branch, &auth.ke_r, &auth.nonce_r).hash_r(auth.sa.keys(), claim.id);
        if !ct_eq(hash.expose(), claim.hash) {
            return Err(Reject::Unauthenticated("HASH_R"));
        }
        let identity = claim.identity()?;
        if self.peer.as_ref().is_some_and(|expected| *expected != identity) {
            return Err(Reject::Unacceptable("identity of the key server", NotifyType::INVALID_ID_INFORMATION));
        }
        Ok((plain.last_block, identity))
    }

    /// Ends main mode: the SA, its lifetime, and what both sides can do.
    pub(crate) fn advance(mut self, peer: &Verified) -> (IkeSa, Duration, Extensions) {
        let mut branch = self.branches.swap_remove(peer.branch);
        let mut sa = branch.auths.swap_remove(peer.auth).sa;
        sa.chain_to(peer.last_block);
        (sa, branch.lifetime.map_or(self.lifetime, |l| l.min(self.lifetime)), branch.extensions)
    }

    /// A notice instead of message 6. In clear it leaves only a hint; with a valid hash it is the peer's refusal.
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
        for branch in self.branches.iter().filter(|b| b.cookies == header.spi_pair()) {
            for auth in &branch.auths {
                match Notice::open(&auth.sa, header, body) {
                    Ok(notice) => return Ok(notice.error),
                    Err(e) => why = e,
                }
            }
        }
        Err(why)
    }
}
