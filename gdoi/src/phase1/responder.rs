//! Main mode as responder, from the first message to the SA.
//!
//! ```text
//!  state          | message 1      | message 3        | job done     | message 5
//!  ---------------+----------------+------------------+--------------+------------------------------
//!  (none)         | answer, new    | -                | -            | -
//!  HalfOpen       | same answer    | rival AwaitKeys  | -            | -
//!   + AwaitKeys   | same answer    | nothing (repeat) | answer       | -
//!   + ExpectAuth  | same answer    | same answer      | -            | answer, becomes an IkeSa
//! ```
//!
//! Up to [`MAX_RIVALS`] rivals live in one half-open exchange.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use keyferry_crypto::{Job, JobDone, Random, Secret, ct_eq};
use keyferry_model::credentials::Credentials;
use keyferry_model::drive::{Datagram, JobId, Transmit};
use keyferry_model::id::Identity;
use keyferry_wire::{Decode, Header, chain};

use super::auth::{self, Claim};
use super::extensions::Extensions;
use super::ike_sa::IkeSa;
use super::keymat::{Transcript, cookie};
use super::suite::{self, Accepted, Suite};
use super::{HOLD, MAX_RIVALS};
use crate::message::{self, Iv, Payloads, SealError};
use crate::reject::Reject;
use crate::wire::nonce::Nonce;
use crate::wire::opaque::Ke;
use crate::wire::registry::{NotifyType, exchange, payload};
use crate::wire::rules::{self, MAIN_KE, MAIN_SA};
use crate::wire::sa::Sa;

/// Where a message came from and how, so where its answer goes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Path {
    pub(crate) from: SocketAddr,
    pub(crate) to: SocketAddr,
    marker: bool,
}

impl Path {
    pub(crate) fn of(dgram: &Datagram<'_>) -> Self {
        Self { from: dgram.from, to: dgram.to, marker: dgram.marker }
    }

    pub(crate) fn reply(&self, bytes: Vec<u8>) -> Transmit {
        Transmit { from: Some(self.to), to: self.from, marker: self.marker, bytes }
    }
}

/// A phase 1 that has not been authenticated yet.
#[derive(Debug)]
pub(crate) struct HalfOpen {
    cookies: [u8; 16],
    suite: Suite,
    lifetime: Option<Duration>,
    extensions: Extensions,
    sa_i: Vec<u8>,
    psk: Arc<Secret>,
    peer: IpAddr,
    /// Message 1 as it came, to know its repeats.
    request: Vec<u8>,
    answer: Vec<u8>,
    rivals: Vec<Rival>,
    /// The latest continuation too many, and when it is followed.
    held: Option<(PeerKe, Duration)>,
    /// When it is given up.
    pub(crate) expires: Duration,
}

/// Public value and nonce of a message 3, and where it came from.
#[derive(Debug)]
pub(crate) struct PeerKe {
    ke: Vec<u8>,
    nonce: Vec<u8>,
    path: Path,
}

/// One continuation: a public value and nonce that somebody sent in message 3, and our nonce for it.
#[derive(Debug)]
struct Rival {
    peer: PeerKe,
    nonce_r: Vec<u8>,
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    /// The key exchange is being computed.
    AwaitKeys(JobId),
    /// Message 4 is out.
    ExpectAuth(Box<ExpectAuth>),
    /// The public value was no good.
    Failed,
}

#[derive(Debug)]
struct ExpectAuth {
    ke_r: Vec<u8>,
    sa: IkeSa,
    answer: Vec<u8>,
}

/// What to do about message 3.
pub(crate) enum KeStep {
    /// Send this answer again.
    Repeat(Vec<u8>),
    /// A new continuation: its [`job`](HalfOpen::job) must be done first.
    New(PeerKe),
    /// A continuation too many, to be [held](HalfOpen::hold).
    TooMany(PeerKe),
    /// Nothing: its job is under way, or it failed.
    Nothing,
}

/// Proof that the hash of message 5 was right.
#[derive(Debug)]
pub(crate) struct Verified {
    rival: usize,
    last_block: Iv,
    identity: Identity,
    initial_contact: bool,
}

/// A peer that proved itself, but may not be what it says it is.
#[derive(Debug)]
pub(crate) struct Impostor {
    pub(crate) why: Reject,
    /// A notice that tells it, protected by the new keys.
    pub(crate) notice: Option<Vec<u8>>,
}

/// What comes of main mode.
#[derive(Debug)]
pub(crate) struct Completed {
    pub(crate) sa: IkeSa,
    pub(crate) identity: Identity,
    pub(crate) lifetime: Option<Duration>,
    /// What both sides can do.
    pub(crate) extensions: Extensions,
    /// Does the peer say that it has no other SA with us (RFC 2407 section 4.6.3.3)?
    pub(crate) initial_contact: bool,
    /// Message 6.
    pub(crate) answer: Vec<u8>,
}

impl HalfOpen {
    /// Reads message 1 and chooses. Changes nothing but the random source.
    pub(crate) fn open(
        header: &Header,
        dgram: &Datagram<'_>,
        body: &[u8],
        accepted: &Accepted,
        credentials: &Credentials,
        rng: &mut dyn Random,
    ) -> Result<Self, Reject> {
        let payloads = chain(header.next, body)?;
        MAIN_SA.check(&payloads)?;
        let sa_i = rules::body(&payloads, payload::SA).unwrap_or_default();
        let sa = Sa::exact(sa_i)?;
        let refused = |what| Reject::Unacceptable(what, NotifyType::NO_PROPOSAL_CHOSEN);
        if !suite::fits(&sa) {
            return Err(refused("DOI or situation of phase 1"));
        }
        let choice = suite::choose(&sa, accepted).ok_or(refused("no transform of phase 1 fits"))?;
        let psk = credentials.psk_for_address(dgram.from.ip()).ok_or(refused("no pre-shared key for the address"))?;
        let mut cookies = header.spi_pair();
        cookies[8..].copy_from_slice(&cookie(rng));
        tracing::debug!(doi = sa.doi.0, situation = sa.situation, peer = %dgram.from, "phase 1 proposed");
        let extensions = Extensions::read(&payloads).and(Extensions::OURS);
        let answer = extensions.announce(Payloads::new().with_body(payload::SA, Secret::new(choice.answer)));
        let answer = message::clear(&message::header(&cookies, exchange::MAIN_MODE, 0, 0, payload::SA), &answer)
            .map_err(|_| refused("the chosen transform is too long"))?;
        Ok(Self {
            cookies,
            suite: choice.suite,
            lifetime: choice.lifetime,
            extensions,
            sa_i: sa_i.to_vec(),
            psk: Arc::clone(psk),
            peer: dgram.from.ip(),
            request: dgram.bytes.to_vec(),
            answer,
            rivals: Vec::new(),
            held: None,
            expires: Duration::ZERO,
        })
    }

    pub(crate) fn cookies(&self) -> &[u8; 16] {
        &self.cookies
    }

    pub(crate) fn peer(&self) -> IpAddr {
        self.peer
    }

    /// Is this datagram a repeat of message 1?
    pub(crate) fn is_repeat(&self, dgram: &Datagram<'_>) -> bool {
        self.peer == dgram.from.ip() && self.request == dgram.bytes
    }

    /// Message 2.
    pub(crate) fn answer(&self) -> &[u8] {
        &self.answer
    }

    /// Has the peer shown that it receives what we send to its address?
    pub(crate) fn is_answered(&self) -> bool {
        !self.rivals.is_empty()
    }

    /// Jobs under way.
    pub(crate) fn jobs(&self) -> impl Iterator<Item = JobId> {
        self.rivals.iter().filter_map(|r| match r.stage {
            Stage::AwaitKeys(id) => Some(id),
            Stage::ExpectAuth(_) | Stage::Failed => None,
        })
    }

    /// Message 3.
    pub(crate) fn ke(&self, header: &Header, dgram: &Datagram<'_>, body: &[u8]) -> Result<KeStep, Reject> {
        let (ke, nonce) = read_ke(header, body)?;
        if ke.0.len() != self.suite.group.public_len() {
            return Err(Reject::Unauthenticated("length of the public value"));
        }
        let known = self.rivals.iter().find(|r| r.peer.ke == ke.0 && r.peer.nonce == nonce.0);
        let peer = || PeerKe { ke: ke.0.to_vec(), nonce: nonce.0.to_vec(), path: Path::of(dgram) };
        Ok(match known.map(|r| &r.stage) {
            Some(Stage::ExpectAuth(e)) => KeStep::Repeat(e.answer.clone()),
            Some(Stage::AwaitKeys(_) | Stage::Failed) => KeStep::Nothing,
            None if self.rivals.len() < MAX_RIVALS => KeStep::New(peer()),
            None => KeStep::TooMany(peer()),
        })
    }

    /// The key exchange of a continuation.
    pub(crate) fn job(&self, peer: &PeerKe, rng: &mut dyn Random) -> Job {
        let private = Secret::random(self.suite.group.seed_len(), rng);
        Job::KeyExchange { group: self.suite.group, private, peer: peer.ke.clone() }
    }

    /// Notes that the job of a continuation is under way. The oldest one makes room.
    pub(crate) fn await_keys(&mut self, peer: PeerKe, job: JobId, rng: &mut dyn Random) {
        let mut nonce_r = vec![0; Nonce::OWN_LEN];
        rng.fill(&mut nonce_r);
        if self.rivals.len() == MAX_RIVALS {
            self.rivals.remove(0);
        }
        self.rivals.push(Rival { peer, nonce_r, stage: Stage::AwaitKeys(job) });
    }

    /// Keeps a continuation for later; only the latest is kept.
    pub(crate) fn hold(&mut self, peer: PeerKe, mono: Duration) {
        let at = self.held.as_ref().map_or(mono + HOLD, |(_, at)| *at);
        self.held = Some((peer, at));
    }

    /// The continuation that was kept, if its time has come.
    pub(crate) fn release(&mut self, mono: Duration) -> Option<PeerKe> {
        self.held.take_if(|(_, at)| *at <= mono).map(|(peer, _)| peer)
    }

    /// When something is to be done about it next.
    pub(crate) fn due(&self) -> Duration {
        self.held.as_ref().map_or(self.expires, |(_, at)| self.expires.min(*at))
    }

    /// A job is done: message 4 and where it goes, unless the public value was no good.
    pub(crate) fn complete(&mut self, job: JobId, done: JobDone) -> Option<Transmit> {
        let rival = self.rivals.iter_mut().find(|r| matches!(r.stage, Stage::AwaitKeys(id) if id == job))?;
        rival.stage = Stage::Failed;
        let JobDone::KeyExchange(result) = done;
        let (ke_r, shared) = result.ok()?;
        let transcript = Transcript {
            suite: self.suite,
            cookies: &self.cookies,
            sa_i: &self.sa_i,
            ke_i: &rival.peer.ke,
            ke_r: &ke_r,
            nonce_i: &rival.peer.nonce,
            nonce_r: &rival.nonce_r,
        };
        let sa = IkeSa::new(self.cookies, transcript.keys(&self.psk, &shared));
        let payloads = Payloads::new().with(payload::KE, &Ke(&ke_r)).with(payload::NONCE, &Nonce(&rival.nonce_r));
        let header = message::header(&self.cookies, exchange::MAIN_MODE, 0, 0, payload::KE);
        let answer = message::clear(&header, &payloads).ok()?;
        let transmit = rival.peer.path.reply(answer.clone());
        rival.stage = Stage::ExpectAuth(Box::new(ExpectAuth { ke_r, sa, answer }));
        Some(transmit)
    }

    /// Message 5: does its hash prove one of the rivals, and may that peer call itself so?
    pub(crate) fn verify(
        &self,
        header: &Header,
        body: &[u8],
        credentials: &Credentials,
        rng: &mut dyn Random,
    ) -> Result<Verified, Impostor> {
        let mut why = Reject::Unauthenticated("message 5 before message 3");
        for (rival, expect) in self.expecting() {
            match self.check(rival, expect, header, body) {
                Ok((last_block, initial_contact, claimed)) => {
                    let allowed = claimed.and_then(|identity| {
                        let refused = Reject::Unacceptable("identity", NotifyType::INVALID_ID_INFORMATION);
                        if credentials.allows(self.peer, &identity) { Ok(identity) } else { Err(refused) }
                    });
                    let verified = |identity| Verified { rival, last_block, identity, initial_contact };
                    return allowed.map(verified).map_err(|why| {
                        let payloads = expect
                            .sa
                            .notification(NotifyType::INVALID_ID_INFORMATION, crate::wire::registry::Doi::GDOI);
                        Impostor { why, notice: expect.sa.notice_after(&last_block, payloads, rng).ok() }
                    });
                }
                Err(e) => why = e,
            }
        }
        Err(Impostor { why, notice: None })
    }

    fn expecting(&self) -> impl Iterator<Item = (usize, &ExpectAuth)> {
        self.rivals.iter().enumerate().filter_map(|(i, r)| match &r.stage {
            Stage::ExpectAuth(e) => Some((i, &**e)),
            Stage::AwaitKeys(_) | Stage::Failed => None,
        })
    }

    /// Checks the hash of message 5; with the right one, says which identity it claims.
    fn check(
        &self,
        rival: usize,
        expect: &ExpectAuth,
        header: &Header,
        body: &[u8],
    ) -> Result<(Iv, bool, Result<Identity, Reject>), Reject> {
        let plain = expect.sa.open_main(header, body)?;
        let claim = Claim::read(&plain)?;
        let hash = self.transcript(rival, expect).hash_i(expect.sa.keys(), claim.id);
        if !ct_eq(hash.expose(), claim.hash) {
            return Err(Reject::Unauthenticated("HASH_I"));
        }
        Ok((plain.last_block, claim.initial_contact, claim.identity()))
    }

    fn transcript<'a>(&'a self, rival: usize, expect: &'a ExpectAuth) -> Transcript<'a> {
        let r = &self.rivals[rival];
        Transcript {
            suite: self.suite,
            cookies: &self.cookies,
            sa_i: &self.sa_i,
            ke_i: &r.peer.ke,
            ke_r: &expect.ke_r,
            nonce_i: &r.peer.nonce,
            nonce_r: &r.nonce_r,
        }
    }

    /// Ends main mode: message 6 and the SA. `id` is the body of our ID payload.
    pub(crate) fn advance(mut self, peer: Verified, id: &[u8]) -> Result<Completed, SealError> {
        let hash = match &self.rivals[peer.rival].stage {
            Stage::ExpectAuth(e) => self.transcript(peer.rival, e).hash_r(e.sa.keys(), id),
            Stage::AwaitKeys(_) | Stage::Failed => unreachable!("only a rival that expects message 5 is verified"),
        };
        let Stage::ExpectAuth(expect) = self.rivals.swap_remove(peer.rival).stage else {
            unreachable!("only a rival that expects message 5 is verified")
        };
        let mut sa = expect.sa;
        let (answer, last_block) = sa.seal_main(&peer.last_block, &auth::payloads(id, &hash))?;
        sa.chain_to(last_block);
        let Verified { identity, initial_contact, .. } = peer;
        let (lifetime, extensions) = (self.lifetime, self.extensions);
        Ok(Completed { sa, identity, lifetime, extensions, initial_contact, answer })
    }
}

/// Reads message 3 or 4.
pub(crate) fn read_ke<'a>(header: &Header, body: &'a [u8]) -> Result<(Ke<'a>, Nonce<'a>), Reject> {
    let payloads = chain(header.next, body)?;
    MAIN_KE.check(&payloads)?;
    let ke = Ke::exact(rules::body(&payloads, payload::KE).unwrap_or_default())?;
    let nonce = Nonce::exact(rules::body(&payloads, payload::NONCE).unwrap_or_default())?;
    Ok((ke, nonce))
}
