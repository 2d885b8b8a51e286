//! Main mode and aggressive mode as responder, from the first message to the SA.
//!
//! ```text
//!  main mode      | message 1      | message 3        | job done         | message 5
//!  ---------------+----------------+------------------+------------------+------------------------------
//!  (none)         | answer, new    | -                | -                | -
//!  HalfOpen       | same answer    | rival AwaitKeys  | -                | -
//!   + AwaitKeys   | same answer    | nothing (repeat) | message 4        | -
//!   + ExpectProof | same answer    | same answer      | -                | hash: message 6, an IkeSa;
//!                 |                |                  |                  | signature: check AwaitCheck
//!    + AwaitCheck | same answer    | same answer      | AwaitSignature   | nothing (repeat), another check
//!    + AwaitSign. | same answer    | same answer      | message 6, IkeSa | nothing
//!
//!  aggressive     | message 1      | job done                         | message 3
//!  ---------------+----------------+----------------------------------+------------------------------
//!  (none)         | AwaitKeys      | -                                | -
//!   + AwaitKeys   | nothing        | hash: message 2; else AwaitOwn   | -
//!   + AwaitOwn    | nothing        | message 2                        | -
//!   + ExpectProof | same answer    | -                                | hash: an IkeSa; signature: AwaitCheck
//!    + AwaitCheck | same answer    | an IkeSa                         | nothing (repeat), another check
//! ```
//!
//! Up to [`MAX_RIVALS`] rivals live in one half-open exchange, and as many checks.

mod open;
mod proof;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use keyferry_crypto::{Job, JobDone, Random, Secret, SignatureForm};
use keyferry_model::credentials::{Credentials, OwnCertificate};
use keyferry_model::drive::{Datagram, JobId, Outbox, Transmit, Via};
use keyferry_model::id::Identity;
use keyferry_model::reading::Readings;
use keyferry_wire::{Decode, Header, RawPayload, chain};

use super::auth::{self, Own, Wanted};
use super::extensions::Extensions;
use super::ike_sa::IkeSa;
use super::keymat::{Basis, Transcript};
use super::method::{Method, Way};
use super::nat::{Nat, Place};
use super::suite::{Accepted, Suite};
use super::{HOLD, MAX_RIVALS};
use crate::identity;
use crate::message::{self, Payloads};
use crate::reject::Reject;
use crate::wire::nonce::Nonce;
use crate::wire::opaque::Ke;
use crate::wire::registry::{exchange, payload};
use crate::wire::rules::{self, MAIN_KE};
use proof::Check;
pub(crate) use proof::{Completed, Found, Impostor, Peers, Proven, ToCheck, Verified};

/// Where a message came from and how, so where its answer goes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Path {
    pub(crate) from: SocketAddr,
    pub(crate) to: SocketAddr,
    marker: bool,
}

impl Path {
    pub(crate) fn of(dgram: &Datagram<'_>) -> Self {
        Self { from: dgram.from, to: dgram.to, marker: dgram.via.is_marked_udp() }
    }

    pub(crate) fn reply(&self, bytes: Vec<u8>) -> Transmit {
        Transmit { from: Some(self.to), to: self.from, via: Via::udp(self.marker), bytes }
    }
}

const NO_WAY: &str = "our key signs in no way that IKEv1 knows";

/// What a responder goes by.
#[derive(Clone, Copy)]
pub(crate) struct Rules<'a> {
    pub(crate) accepted: &'a Accepted,
    pub(crate) credentials: &'a Credentials,
    /// Who we are; `None` is the address a peer talks to, or with certificates the subject of ours.
    pub(crate) identity: Option<&'a Identity>,
    /// Makes a key for identities without one, so that who asks cannot tell.
    pub(crate) decoy: &'a Secret,
}

/// How the two sides of an exchange authenticate.
#[derive(Clone, Debug)]
enum Means {
    Psk(Arc<Secret>),
    Certificate(Arc<OwnCertificate>),
}

impl Means {
    fn basis(&self) -> Basis<'_> {
        match self {
            Means::Psk(psk) => Basis::PreShared(psk),
            Means::Certificate(_) => Basis::Signatures,
        }
    }
}

/// A phase 1 that has not been authenticated yet.
#[derive(Debug)]
pub(crate) struct HalfOpen {
    exchange: u8,
    cookies: [u8; 16],
    suite: Suite,
    lifetime: Option<Duration>,
    extensions: Extensions,
    sa_i: Vec<u8>,
    means: Means,
    peer: IpAddr,
    /// Body of the peer's ID payload, where message 1 has it.
    id_i: Option<Vec<u8>>,
    /// Who we are to it.
    own: Identity,
    /// In which readings we write, as far as message 1 says who the peer is.
    sends: Readings,
    /// In which ones message 1 was written.
    seen: Readings,
    /// Message 1 as it came, to know its repeats.
    request: Vec<u8>,
    /// Message 2 of main mode; for aggressive mode the body of its SA payload.
    answer: Vec<u8>,
    rivals: Vec<Rival>,
    /// Rivals begun so far, by which they are numbered.
    begun_rivals: u32,
    checks: Vec<Check>,
    /// Checks begun so far.
    checked: usize,
    /// The latest continuation too many, and for each rival its latest check too many.
    held: (Option<PeerKe>, Vec<ToCheck>),
    /// When what is held gets its turn.
    release_at: Option<Duration>,
    /// How often repeats of message 1 were answered in aggressive mode, and when one is again.
    repeats: (u32, Duration),
    /// When it began, and when it is given up.
    pub(crate) begun: Duration,
    pub(crate) expires: Duration,
}

/// Public value and nonce of the peer, and where they came from.
#[derive(Debug)]
pub(crate) struct PeerKe {
    ke: Vec<u8>,
    nonce: Vec<u8>,
    path: Path,
    /// Translators, as far as message 3 of main mode has said.
    nat: Nat,
    /// Our certificate, as the peer wants it.
    own: Option<Arc<OwnCertificate>>,
    /// Does the peer want to see it?
    wants: bool,
}

/// One continuation: a public value and nonce that somebody sent, and our nonce for it.
#[derive(Debug)]
struct Rival {
    number: u32,
    peer: PeerKe,
    nonce_r: Vec<u8>,
    stage: Stage,
}

impl Rival {
    /// The job under way.
    fn job(&self) -> Option<JobId> {
        match self.stage {
            Stage::AwaitKeys(job) | Stage::AwaitOwn(job, _) => Some(job),
            Stage::ExpectProof(_) | Stage::Failed => None,
        }
    }
}

#[derive(Debug)]
enum Stage {
    /// The key exchange is being computed.
    AwaitKeys(JobId),
    /// Our signature for message 2 of aggressive mode is being made.
    AwaitOwn(JobId, Box<Keyed>),
    /// Message 4, or 2 of aggressive mode, is out.
    ExpectProof(Box<ExpectProof>),
    /// The public value was no good.
    Failed,
}

/// Keys are there.
#[derive(Debug)]
struct Keyed {
    ke_r: Vec<u8>,
    sa: IkeSa,
}

#[derive(Debug)]
struct ExpectProof {
    keyed: Keyed,
    answer: Vec<u8>,
}

/// What to do about message 3 of main mode.
pub(crate) enum KeStep {
    /// Send this answer again.
    Repeat(Vec<u8>),
    /// A new continuation, to be [begun](HalfOpen::begin).
    New(PeerKe),
    /// A continuation too many, to be [held](HalfOpen::hold).
    TooMany(PeerKe),
    /// Nothing: its job is under way, or it failed.
    Nothing,
}

/// What comes of a job that is done.
#[derive(Debug)]
pub(crate) enum Progress {
    /// Send this.
    Send(Transmit),
    /// Another job is under way.
    Job(JobId),
    /// The peer has proved itself.
    Proven(Box<Verified>),
    /// The peer has proved itself, and may not be what it says it is.
    Refused(Path, Impostor),
    /// Nothing.
    Nothing(&'static str),
}

impl HalfOpen {
    pub(crate) fn cookies(&self) -> &[u8; 16] {
        &self.cookies
    }

    /// What both sides can do.
    pub(crate) fn extensions(&self) -> Extensions {
        self.extensions
    }

    pub(crate) fn peer(&self) -> IpAddr {
        self.peer
    }

    /// The exchange type of its messages.
    pub(crate) fn exchange(&self) -> u8 {
        self.exchange
    }

    /// Is this datagram a repeat of message 1?
    pub(crate) fn is_repeat(&self, dgram: &Datagram<'_>) -> bool {
        self.peer == dgram.from.ip() && self.request == dgram.bytes
    }

    /// Message 2, for message 1 or a repeat of it. In aggressive mode it is larger than message 1 and goes to an address
    /// that may be forged, so it is there ever more seldom.
    pub(crate) fn answer(&mut self, mono: Duration) -> Option<&[u8]> {
        if self.exchange == exchange::MAIN_MODE {
            return Some(&self.answer);
        }
        let answer = self.rivals.iter().find_map(|r| match &r.stage {
            Stage::ExpectProof(e) => Some(e.answer.as_slice()),
            Stage::AwaitKeys(_) | Stage::AwaitOwn(..) | Stage::Failed => None,
        });
        let (times, quiet_until) = self.repeats;
        if answer.is_none() || mono < quiet_until {
            return None;
        }
        self.repeats = (times.saturating_add(1), mono + HOLD * 2u32.saturating_pow(times.min(8)));
        answer
    }

    /// Has the peer shown that it receives what we send to its address, and sent what can lead on?
    pub(crate) fn is_answered(&self) -> bool {
        match self.exchange {
            exchange::MAIN_MODE => {
                self.held.0.is_some() || self.rivals.iter().any(|r| !matches!(r.stage, Stage::Failed))
            }
            _ => !self.checks.is_empty(),
        }
    }

    /// Jobs under way.
    pub(crate) fn jobs(&self) -> impl Iterator<Item = JobId> {
        self.rivals.iter().filter_map(Rival::job).chain(self.checks.iter().map(Check::job))
    }

    /// Message 3 of main mode.
    pub(crate) fn ke(
        &self,
        header: &Header,
        dgram: &Datagram<'_>,
        body: &[u8],
        credentials: &Credentials,
    ) -> Result<KeStep, Reject> {
        let payloads = chain(header.next, body)?;
        MAIN_KE.check(&payloads)?;
        let (ke, nonce) = read_ke(&payloads)?;
        if ke.0.len() != self.suite.group.public_len() {
            return Err(Reject::Unauthenticated("length of the public value"));
        }
        let known = self.rivals.iter().find(|r| r.peer.ke == ke.0 && r.peer.nonce == nonce.0);
        if let Some(rival) = known {
            return Ok(match &rival.stage {
                Stage::ExpectProof(e) => KeStep::Repeat(e.answer.clone()),
                Stage::AwaitKeys(_) | Stage::AwaitOwn(..) | Stage::Failed => KeStep::Nothing,
            });
        }
        let wanted = Wanted::read(&payloads)?;
        let peer = PeerKe {
            ke: ke.0.to_vec(),
            nonce: nonce.0.to_vec(),
            path: Path::of(dgram),
            nat: self.place(&Path::of(dgram)).and_then(|place| place.find(&payloads)).unwrap_or_default(),
            own: self.certificate(&wanted, credentials),
            wants: true,
        };
        Ok(if self.rivals.len() < MAX_RIVALS { KeStep::New(peer) } else { KeStep::TooMany(peer) })
    }

    /// Where we are and where the peer is, if both look for translators.
    fn place(&self, path: &Path) -> Option<Place<'_>> {
        let place = Place { hash: self.suite.hash, cookies: &self.cookies, own: path.to, peer: path.from };
        self.extensions.nat_traversal.then_some(place)
    }

    /// The certificate to show to a peer that wants it so.
    fn certificate(&self, wanted: &Wanted, credentials: &Credentials) -> Option<Arc<OwnCertificate>> {
        match self.suite.method {
            Method::Signature(kind) => wanted.choose(credentials.own(kind)).cloned(),
            Method::PreSharedKey => None,
        }
    }

    /// Begins a continuation with its key exchange. The oldest one makes room; returned are the job, and those that nobody
    /// waits for any more.
    pub(crate) fn begin(&mut self, peer: PeerKe, out: &mut Outbox, rng: &mut dyn Random) -> (JobId, Vec<JobId>) {
        self.held.0.take_if(|held| held.ke == peer.ke && held.nonce == peer.nonce);
        let private = Secret::random(self.suite.group.seed_len(), rng);
        let job = out.job(Job::KeyExchange { group: self.suite.group, private, peer: peer.ke.clone() });
        let mut nonce_r = vec![0; Nonce::OWN_LEN];
        rng.fill(&mut nonce_r);
        let displaced = if self.rivals.len() == MAX_RIVALS { self.displace() } else { Vec::new() };
        self.begun_rivals += 1;
        self.rivals.push(Rival { number: self.begun_rivals, peer, nonce_r, stage: Stage::AwaitKeys(job) });
        (job, displaced)
    }

    /// Gives up the oldest continuation, with what is to be checked by its keys. Returns the jobs that were under way for it.
    fn displace(&mut self) -> Vec<JobId> {
        let oldest = self.rivals.remove(0);
        self.held.1.retain(|held| held.rival() != oldest.number);
        let checks = self.checks.extract_if(.., |c| c.rival() == oldest.number);
        oldest.job().into_iter().chain(checks.map(|c| c.job())).collect()
    }

    /// Keeps a continuation for later; only the latest is kept.
    pub(crate) fn hold(&mut self, peer: PeerKe, mono: Duration) {
        self.held.0 = Some(peer);
        self.release_at.get_or_insert(mono + HOLD);
    }

    /// Keeps a check for later; of each rival only the latest is kept.
    pub(crate) fn hold_check(&mut self, check: ToCheck, mono: Duration) {
        self.held.1.retain(|held| held.rival() != check.rival());
        self.held.1.truncate(MAX_RIVALS - 1);
        self.held.1.push(check);
        self.release_at.get_or_insert(mono + HOLD);
    }

    /// What was kept, if its time has come.
    pub(crate) fn release(&mut self, mono: Duration) -> (Option<PeerKe>, Vec<ToCheck>) {
        match self.release_at.take_if(|at| *at <= mono) {
            Some(_) => std::mem::take(&mut self.held),
            None => (None, Vec::new()),
        }
    }

    /// When something is to be done about it next.
    pub(crate) fn due(&self) -> Duration {
        self.release_at.map_or(self.expires, |at| self.expires.min(at))
    }

    /// A job is done.
    pub(crate) fn complete(
        &mut self,
        job: JobId,
        done: JobDone,
        credentials: &Credentials,
        out: &mut Outbox,
        rng: &mut dyn Random,
    ) -> Progress {
        let rival = self.rivals.iter().position(|r| r.job() == Some(job));
        match (rival, done) {
            (Some(rival), JobDone::KeyExchange(Ok((ke_r, shared)))) => {
                self.keys(rival, ke_r, &shared, credentials, out)
            }
            (Some(rival), JobDone::Sign(Ok(signature))) => self.signed(rival, &signature, credentials),
            (Some(rival), _) => {
                self.rivals[rival].stage = Stage::Failed;
                Progress::Nothing("key exchange or signature came to nothing")
            }
            (None, done) => self.complete_check(job, done, credentials, out, rng),
        }
    }

    /// The key exchange of a rival is done: message 4, or message 2 of aggressive mode.
    fn keys(
        &mut self,
        rival: usize,
        ke_r: Vec<u8>,
        shared: &Secret,
        credentials: &Credentials,
        out: &mut Outbox,
    ) -> Progress {
        let sa = IkeSa::new(self.cookies, self.transcript(rival, &ke_r).keys(self.means.basis(), shared));
        let keyed = Keyed { ke_r, sa };
        if self.exchange == exchange::MAIN_MODE {
            let nonce = Nonce(&self.rivals[rival].nonce_r);
            let mut payloads = Payloads::new().with(payload::KE, &Ke(&keyed.ke_r)).with(payload::NONCE, &nonce);
            if let Some(trust) = self.trust(credentials) {
                payloads = auth::request_certificates(payloads, trust);
            }
            if let Some(place) = self.place(&self.rivals[rival].peer.path) {
                payloads = place.announce(payloads);
            }
            return self.answered(rival, keyed, &payloads);
        }
        match self.own_of(rival) {
            None => {
                let id = self.id_r(self.sends);
                let hash = self.transcript(rival, &keyed.ke_r).hash_r(keyed.sa.keys(), &id, self.suite.hash);
                let payloads = self.message2(rival, &keyed, &Own::Hash(&hash), credentials);
                self.answered(rival, keyed, &payloads)
            }
            Some(own) => match self.sign(rival, &keyed, own, self.sends) {
                Some(job) => {
                    let job = out.job(job);
                    self.rivals[rival].stage = Stage::AwaitOwn(job, Box::new(keyed));
                    Progress::Job(job)
                }
                None => {
                    self.rivals[rival].stage = Stage::Failed;
                    Progress::Nothing(NO_WAY)
                }
            },
        }
    }

    /// Our signature for message 2 of aggressive mode is made.
    fn signed(&mut self, rival: usize, signature: &[u8], credentials: &Credentials) -> Progress {
        match std::mem::replace(&mut self.rivals[rival].stage, Stage::Failed) {
            Stage::AwaitOwn(_, keyed) => {
                let own = self.own_of(rival).filter(|_| self.rivals[rival].peer.wants);
                let own = Own::Signature { signature, chain: own.map(|o| &**o) };
                let payloads = self.message2(rival, &keyed, &own, credentials);
                self.answered(rival, *keyed, &payloads)
            }
            Stage::AwaitKeys(_) | Stage::ExpectProof(_) | Stage::Failed => Progress::Nothing("signature for nothing"),
        }
    }

    /// Message 2 of aggressive mode: SA, KE, Nr, IDir, and our evidence.
    fn message2(&self, rival: usize, keyed: &Keyed, own: &Own<'_>, credentials: &Credentials) -> Payloads {
        let payloads = Payloads::new()
            .with_body(payload::SA, Secret::copy_from(&self.answer))
            .with(payload::KE, &Ke(&keyed.ke_r))
            .with(payload::NONCE, &Nonce(&self.rivals[rival].nonce_r));
        let payloads = own.put(auth::id_payload(payloads, &self.id_r(self.sends)));
        let payloads = self.extensions.announce(match self.trust(credentials) {
            Some(trust) => auth::request_certificates(payloads, trust),
            None => payloads,
        });
        match self.place(&self.rivals[rival].peer.path) {
            Some(place) => place.announce(payloads),
            None => payloads,
        }
    }

    /// Sends a rival its answer and waits for its proof.
    fn answered(&mut self, rival: usize, keyed: Keyed, payloads: &Payloads) -> Progress {
        let header = message::header(&self.cookies, self.exchange, 0, 0, payloads.first());
        let Ok(answer) = message::clear(&header, payloads) else {
            self.rivals[rival].stage = Stage::Failed;
            return Progress::Nothing("an answer too long");
        };
        let rival = &mut self.rivals[rival];
        let transmit = rival.peer.path.reply(answer.clone());
        rival.stage = Stage::ExpectProof(Box::new(ExpectProof { keyed, answer }));
        Progress::Send(transmit)
    }

    /// What certificates of the peer are held against, where it has to show one.
    fn trust<'a>(&self, credentials: &'a Credentials) -> Option<&'a keyferry_model::credentials::Trust> {
        credentials.trust().filter(|_| matches!(self.means, Means::Certificate(_)))
    }

    /// Our certificate for a rival; `None` with a pre-shared key.
    fn own_of(&self, rival: usize) -> Option<&Arc<OwnCertificate>> {
        match &self.means {
            Means::Psk(_) => None,
            Means::Certificate(first) => Some(self.rivals[rival].peer.own.as_ref().unwrap_or(first)),
        }
    }

    /// The work of signing HASH_R; `None` with a key that IKEv1 cannot sign by.
    fn sign(&self, rival: usize, keyed: &Keyed, own: &OwnCertificate, sends: Readings) -> Option<Job> {
        let way = Way::of(self.suite, own.key.kind(), sends)?;
        let octets = self.transcript(rival, &keyed.ke_r).hash_r(keyed.sa.keys(), &self.id_r(sends), way.hmac);
        Some(Job::Sign { key: Arc::clone(&own.key), how: SignatureForm::Digest(way.how), octets })
    }

    /// Body of our ID payload.
    fn id_r(&self, sends: Readings) -> Vec<u8> {
        identity::in_phase1(&self.own, auth::id_port(sends, self.extensions.nat_traversal))
    }

    fn transcript<'a>(&'a self, rival: usize, ke_r: &'a [u8]) -> Transcript<'a> {
        let r = &self.rivals[rival];
        Transcript {
            suite: self.suite,
            cookies: &self.cookies,
            sa_i: &self.sa_i,
            ke_i: &r.peer.ke,
            ke_r,
            nonce_i: &r.peer.nonce,
            nonce_r: &r.nonce_r,
        }
    }
}

/// Public value and nonce among the payloads of a message.
pub(crate) fn read_ke<'a>(payloads: &[RawPayload<'a>]) -> Result<(Ke<'a>, Nonce<'a>), Reject> {
    let ke = Ke::exact(rules::body(payloads, payload::KE).unwrap_or_default())?;
    let nonce = Nonce::exact(rules::body(payloads, payload::NONCE).unwrap_or_default())?;
    Ok((ke, nonce))
}
