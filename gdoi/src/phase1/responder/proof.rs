//! Message 5 of main mode and 3 of aggressive mode: what proves the peer, and what comes of it.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use keyferry_crypto::{Hash, Job, JobDone, PeerCheck, Random, ct_eq};
use keyferry_model::credentials::Credentials;
use keyferry_model::drive::{Datagram, JobId, Outbox};
use keyferry_model::holder::Holder;
use keyferry_model::id::Identity;
use keyferry_model::reading::{Reading, Readings};
use keyferry_model::time::Now;
use keyferry_wire::{Header, RawPayload, chain};

use super::{ExpectProof, HalfOpen, Means, NO_WAY, Path, Progress, Stage};
use crate::message::{Iv, Payloads, SealError};
use crate::phase1::MAX_RIVALS;
use crate::phase1::auth::{self, Evidence, Own};
use crate::phase1::extensions::Extensions;
use crate::phase1::ike_sa::{IkeSa, notice_in_clear};
use crate::phase1::method::{Method, ways};
use crate::phase1::nat::Nat;
use crate::reject::Reject;
use crate::wire::registry::{Doi, NotifyType, exchange, flag, payload};
use crate::wire::rules::{self, AGGRESSIVE_3, MAIN_HASH, MAIN_SIG};

/// Who a peer claims to be in a message, and where that message came from.
#[derive(Clone, Debug)]
struct Claim {
    /// Number of the rival.
    rival: u32,
    /// Hash of the datagram, to know its repeats.
    request: Vec<u8>,
    /// Last block of its ciphertext.
    last_block: Iv,
    path: Path,
    /// Translators on the way.
    nat: Nat,
    identity: Result<Identity, Reject>,
    initial_contact: bool,
    /// In which readings we answer who claims that.
    sends: Readings,
    /// In which ones the peer writes.
    seen: Readings,
}

/// What is known of peers beforehand.
pub(crate) struct Peers<'a> {
    pub(crate) credentials: &'a Credentials,
    /// In which readings one was seen to write before.
    pub(crate) seen: &'a dyn Fn(&Identity) -> Readings,
}

/// A signature that is to be checked.
#[derive(Debug)]
pub(crate) struct ToCheck {
    claim: Claim,
    /// The readings that each of the ways to sign is of.
    ways: Vec<Readings>,
    work: Box<PeerCheck>,
}

impl ToCheck {
    /// Number of the rival whose keys the message is encrypted with.
    pub(super) fn rival(&self) -> u32 {
        self.claim.rival
    }
}

/// The check of a signature, or what follows it.
#[derive(Debug)]
pub(super) struct Check {
    job: JobId,
    stage: Awaits,
}

#[derive(Debug)]
enum Awaits {
    /// Signature and certificate of the peer are being checked; what each of the ways to sign says of the peer.
    Check(Claim, Vec<Readings>),
    /// The peer has proved itself. Our own signature for message 6 is being made.
    Signature(Box<Verified>),
}

impl Check {
    fn claim(&self) -> &Claim {
        match &self.stage {
            Awaits::Check(claim, _) => claim,
            Awaits::Signature(verified) => &verified.claim,
        }
    }

    /// Number of the rival whose keys the message is encrypted with.
    pub(super) fn rival(&self) -> u32 {
        self.claim().rival
    }

    pub(super) fn job(&self) -> JobId {
        self.job
    }
}

/// What an authentication message turned out to be.
pub(crate) enum Found {
    /// Its hash is right.
    Proven(Box<Verified>),
    /// Its signature is to be [checked](HalfOpen::begin_check).
    Signed(Box<ToCheck>),
    /// The same, but too many were checked already: to be [held](HalfOpen::hold_check).
    TooMany(Box<ToCheck>),
    /// It is being checked.
    Repeat,
}

/// How a peer has proved who it is.
#[derive(Clone, Debug)]
pub(crate) enum Proven {
    /// By the pre-shared key of this address.
    KeyOfAddress(IpAddr),
    /// By the pre-shared key of its identity at this address.
    KeyOfIdentityAt(IpAddr),
    /// By a certificate of this holder.
    Certificate(Arc<Holder>),
}

impl Proven {
    /// Who holds the certificate, if there was one.
    pub(crate) fn holder(&self) -> Option<&Holder> {
        match self {
            Proven::Certificate(holder) => Some(holder),
            Proven::KeyOfAddress(_) | Proven::KeyOfIdentityAt(_) => None,
        }
    }
}

/// Proof that the peer is who it says it is, and may be.
#[derive(Debug)]
pub(crate) struct Verified {
    claim: Claim,
    identity: Identity,
    by: Proven,
    /// Our own signature, where message 6 wants one.
    signature: Option<Vec<u8>>,
    /// Until when the peer's certificate holds, by the wall clock.
    until: Option<Duration>,
}

/// A peer that proved itself, but may not be what it says it is.
#[derive(Debug)]
pub(crate) struct Impostor {
    pub(crate) why: Reject,
    /// A notice that tells it, protected by the new keys.
    pub(crate) notice: Option<Vec<u8>>,
}

/// What comes of phase 1.
#[derive(Debug)]
pub(crate) struct Completed {
    pub(crate) sa: IkeSa,
    pub(crate) identity: Identity,
    /// How it has proved that.
    pub(crate) by: Proven,
    pub(crate) lifetime: Option<Duration>,
    /// What both sides can do.
    pub(crate) extensions: Extensions,
    /// Does the peer say that it has no other SA with us (RFC 2407 section 4.6.3.3)?
    pub(crate) initial_contact: bool,
    /// Until when the peer's certificate holds, by the wall clock.
    pub(crate) until: Option<Duration>,
    pub(crate) path: Path,
    /// Translators on the way.
    pub(crate) nat: Nat,
    /// In which readings the peer writes, other than we do.
    pub(crate) seen: Readings,
    /// Hash of the message that proved the peer.
    pub(crate) request: Vec<u8>,
    /// Message 6 of main mode.
    pub(crate) answer: Option<Vec<u8>>,
}

/// A message that is to prove a peer.
struct Proof<'a> {
    header: &'a Header,
    body: &'a [u8],
    /// Hash of the datagram.
    request: Vec<u8>,
    path: Path,
}

/// What the examination of a message for one rival gives.
enum Examined {
    Hash(Claim),
    Signature(Box<ToCheck>),
}

impl HalfOpen {
    /// Does this message prove one of the rivals, and may that peer call itself so? With a signature that is for
    /// a job to say.
    pub(crate) fn verify(
        &self,
        header: &Header,
        body: &[u8],
        dgram: &Datagram<'_>,
        peers: &Peers<'_>,
        now: Now,
        rng: &mut dyn Random,
    ) -> Result<Found, Impostor> {
        let proof = Proof { header, body, request: Hash::Sha256.digest(&[dgram.bytes]), path: Path::of(dgram) };
        let signing = |c: &Check| matches!(c.stage, Awaits::Signature(_));
        if self.checks.iter().any(|c| c.claim().request == proof.request || signing(c)) {
            return Ok(Found::Repeat);
        }
        let mut why = Reject::Unauthenticated("proof before keys");
        for (rival, expect) in self.expecting() {
            match self.examine((rival, expect), &proof, peers, now) {
                Ok(Examined::Signature(check)) if self.checked < MAX_RIVALS => return Ok(Found::Signed(check)),
                Ok(Examined::Signature(check)) => return Ok(Found::TooMany(check)),
                Ok(Examined::Hash(claim)) => {
                    return match claim.identity.clone().and_then(|id| self.allowed(id, peers.credentials)) {
                        Ok(identity) => {
                            let by = self.key_of();
                            Ok(Found::Proven(Box::new(Verified { claim, identity, by, signature: None, until: None })))
                        }
                        Err(why) => Err(impostor(&expect.keyed.sa, &claim, why, rng)),
                    };
                }
                Err(e) => why = e,
            }
        }
        Err(Impostor { why, notice: None })
    }

    fn expecting(&self) -> impl Iterator<Item = (usize, &ExpectProof)> {
        self.rivals.iter().enumerate().filter_map(|(i, r)| match &r.stage {
            Stage::ExpectProof(e) => Some((i, &**e)),
            Stage::AwaitKeys(_) | Stage::AwaitOwn(..) | Stage::Failed => None,
        })
    }

    /// Reads the message with the keys of a rival, and checks its hash if it has one.
    fn examine(
        &self,
        (rival, expect): (usize, &ExpectProof),
        proof: &Proof<'_>,
        peers: &Peers<'_>,
        now: Now,
    ) -> Result<Examined, Reject> {
        // With the wrong key it is noise, so whatever is wrong means "not authentic".
        const NOISE: Reject = Reject::Unauthenticated("message does not decrypt");
        let (sa, Proof { header, body, .. }) = (&expect.keyed.sa, proof);
        let plain;
        let (payloads, last_block) = if header.flags & flag::ENCRYPTED != 0 {
            plain = sa.open_phase1(header, body)?;
            (plain.parts().map_err(|_| NOISE)?.payloads, plain.last_block)
        } else {
            (chain(header.next, body)?, sa.keys().iv)
        };
        let form = match (self.exchange, self.suite.method) {
            (exchange::MAIN_MODE, Method::PreSharedKey) => &MAIN_HASH,
            (exchange::MAIN_MODE, Method::Signature(_)) => &MAIN_SIG,
            _ => &AGGRESSIVE_3,
        };
        form.check(&payloads).map_err(|_| NOISE)?;
        let id = self.id_i.as_deref().or_else(|| rules::body(&payloads, payload::ID)).ok_or(NOISE)?;
        let hash_i = |hmac| self.transcript(rival, &expect.keyed.ke_r).hash_i(sa.keys(), id, hmac);
        let identity = auth::identity(id);
        let mut seen = self.seen.union(auth::id_readings(id));
        seen.add_if(header.flags & flag::ENCRYPTED == 0, Reading::Message3Clear);
        let claim = Claim {
            rival: self.rivals[rival].number,
            request: proof.request.clone(),
            last_block,
            path: proof.path,
            nat: self.translators(rival, &proof.path, &payloads),
            // In aggressive mode message 2 has told in which.
            sends: match &identity {
                Ok(identity) if self.exchange == exchange::MAIN_MODE => {
                    peers.credentials.sends_to(self.peer, Some(identity))
                }
                Ok(_) | Err(_) => self.sends,
            },
            seen,
            identity,
            initial_contact: auth::initial_contact(&payloads) && header.flags & flag::ENCRYPTED != 0,
        };
        match Evidence::read(&payloads, self.suite.method)? {
            Evidence::Hash(hash) => {
                if !ct_eq(hash_i(self.suite.hash).expose(), hash) {
                    return Err(Reject::Unauthenticated("HASH_I"));
                }
                Ok(Examined::Hash(claim))
            }
            Evidence::Signature { signature, certificates } => {
                let trust = peers.credentials.trust().ok_or(Reject::Unauthenticated("no trust in certificates"))?;
                let Method::Signature(kind) = self.suite.method else { return Err(NOISE) };
                let before = claim.identity.as_ref().map_or(Readings::NONE, peers.seen);
                let ways = ways(self.suite, kind, before);
                let hashes = ways.iter().map(|(_, way)| (way.how, hash_i(way.hmac))).collect();
                let work = Box::new(auth::check(trust, now.wall, kind, &certificates, hashes, signature));
                let ways = ways.into_iter().map(|(readings, _)| readings).collect();
                Ok(Examined::Signature(Box::new(ToCheck { claim, ways, work })))
            }
        }
    }

    /// What is known of translators with the message that is to prove a rival. In aggressive mode it is the first to say
    /// where the peer sees itself, and it has gone to port 4500 already if message 2 has shown it one (RFC 3947 section 4).
    fn translators(&self, rival: usize, path: &Path, payloads: &[RawPayload<'_>]) -> Nat {
        if self.exchange == exchange::MAIN_MODE {
            return self.rivals[rival].peer.nat;
        }
        self.place(path).and_then(|place| place.find(payloads)).unwrap_or_default()
    }

    /// May who has the pre-shared key call itself so?
    fn allowed(&self, identity: Identity, credentials: &Credentials) -> Result<Identity, Reject> {
        let Means::Psk(psk) = &self.means else { return Err(NOT_ALLOWED) };
        let allowed = match self.exchange {
            // The key may have been changed since message 1.
            exchange::MAIN_MODE => {
                let same = credentials.psk_for_address(self.peer).is_some_and(|own| own.ct_eq(psk.expose()));
                same && credentials.allows(self.peer, &identity)
            }
            _ => credentials.psk_for_identity_at(&identity, self.peer).is_some_and(|own| own.ct_eq(psk.expose())),
        };
        if allowed { Ok(identity) } else { Err(NOT_ALLOWED) }
    }

    /// By what the pre-shared key was found.
    fn key_of(&self) -> Proven {
        match self.exchange {
            exchange::MAIN_MODE => Proven::KeyOfAddress(self.peer),
            _ => Proven::KeyOfIdentityAt(self.peer),
        }
    }

    /// Begins the check of a signature.
    pub(crate) fn begin_check(&mut self, check: ToCheck, out: &mut Outbox) -> JobId {
        self.held.1.retain(|held| held.claim.request != check.claim.request);
        let job = out.job(Job::CheckPeer(check.work));
        self.checked = self.checked.saturating_add(1);
        self.checks.push(Check { job, stage: Awaits::Check(check.claim, check.ways) });
        job
    }

    /// Other credentials hold from now on: what is checked against those of before proves nothing. Returns the jobs that were
    /// under way; the peer repeats its proof.
    pub(crate) fn forget_checks(&mut self) -> Vec<JobId> {
        self.held.1.clear();
        self.checked -= self.checks.len();
        self.checks.drain(..).map(|check| check.job()).collect()
    }

    /// A job of a check is done.
    pub(super) fn complete_check(
        &mut self,
        job: JobId,
        done: JobDone,
        credentials: &Credentials,
        out: &mut Outbox,
        rng: &mut dyn Random,
    ) -> Progress {
        let Some(at) = self.checks.iter().position(|c| c.job() == job) else {
            return Progress::Nothing("a job that nobody waits for");
        };
        let check = self.checks.swap_remove(at);
        let rival = self.rivals.iter().position(|r| r.number == check.rival());
        let Some((rival, expect)) = rival.and_then(|i| self.expecting().find(|(at, _)| *at == i)) else {
            return Progress::Nothing("a continuation that made room for another");
        };
        match (done, check.stage) {
            (JobDone::CheckPeer(Ok(peer)), Awaits::Check(mut claim, ways)) => {
                claim.seen = claim.seen.union(ways.get(peer.reading).copied().unwrap_or_default());
                let identity = match claim.identity.clone() {
                    Ok(id) if credentials.allows_certificate(self.peer, &id, &peer.certificate) => Ok(id),
                    Ok(_) => Err(NOT_ALLOWED),
                    Err(why) => Err(why),
                };
                let identity = match identity {
                    Ok(identity) => identity,
                    Err(why) => return Progress::Refused(claim.path, impostor(&expect.keyed.sa, &claim, why, rng)),
                };
                let by = Proven::Certificate(Arc::new(Holder::of(&peer.certificate)));
                let until = Some(peer.certificate.not_after());
                let verified = Box::new(Verified { claim, identity, by, signature: None, until });
                let Some(own) = self.own_of(rival).filter(|_| self.exchange == exchange::MAIN_MODE) else {
                    return Progress::Proven(verified);
                };
                let Some(job) = self.sign(rival, &expect.keyed, own, verified.claim.sends) else {
                    return Progress::Nothing(NO_WAY);
                };
                let job = out.job(job);
                self.checks.push(Check { job, stage: Awaits::Signature(verified) });
                Progress::Job(job)
            }
            (JobDone::Sign(Ok(signature)), Awaits::Signature(verified)) => {
                Progress::Proven(Box::new(Verified { signature: Some(signature), ..*verified }))
            }
            // Neither hash nor signature covers certificates: somebody on the way may have altered them, so the peer is not
            // told, lest it give up.
            (JobDone::CheckPeer(Err(error)), Awaits::Check(claim, _)) => {
                tracing::debug!(peer = %claim.path.from, %error, "signature or certificate");
                Progress::Nothing("no signature by a certificate that is trusted")
            }
            (_, _) => Progress::Nothing("our signature could not be made"),
        }
    }

    /// Ends phase 1: message 6 of main mode, and the SA.
    pub(crate) fn advance(mut self, peer: Verified) -> Result<Completed, SealError> {
        const PROVEN: &str = "only a rival that waits for its proof is verified";
        let proven = self.expecting().find(|(i, _)| self.rivals[*i].number == peer.claim.rival);
        let (rival, expect) = proven.expect(PROVEN);
        let message6 = (self.exchange == exchange::MAIN_MODE).then(|| {
            let id = self.id_r(peer.claim.sends);
            let payloads = auth::id_payload(Payloads::new(), &id);
            match &peer.signature {
                Some(signature) => {
                    let chain = self.own_of(rival).map(|own| &**own);
                    Own::Signature { signature, chain }.put(payloads)
                }
                None => {
                    let transcript = self.transcript(rival, &expect.keyed.ke_r);
                    Own::Hash(&transcript.hash_r(expect.keyed.sa.keys(), &id, self.suite.hash)).put(payloads)
                }
            }
        });
        let Stage::ExpectProof(expect) = self.rivals.swap_remove(rival).stage else { unreachable!("{PROVEN}") };
        let mut sa = expect.keyed.sa;
        let mut last_block = peer.claim.last_block;
        let mut answer = None;
        if let Some(payloads) = message6 {
            let sealed = sa.seal_phase1(exchange::MAIN_MODE, &last_block, &payloads)?;
            last_block = sealed.1;
            answer = Some(sealed.0);
        }
        sa.chain_to(last_block);
        Ok(Completed {
            sa,
            identity: peer.identity,
            by: peer.by,
            lifetime: self.lifetime,
            extensions: self.extensions,
            initial_contact: peer.claim.initial_contact,
            until: peer.until,
            path: peer.claim.path,
            nat: peer.claim.nat,
            seen: peer.claim.seen,
            request: peer.claim.request,
            answer,
        })
    }
}

const NOT_ALLOWED: Reject = Reject::Unacceptable("identity", NotifyType::INVALID_ID_INFORMATION);

/// Tells a peer that it may not be what it says it is.
fn impostor(sa: &IkeSa, claim: &Claim, why: Reject, rng: &mut dyn Random) -> Impostor {
    let kind = match why {
        Reject::Unacceptable(_, kind) => kind,
        Reject::Malformed(_) | Reject::Unauthenticated(_) | Reject::Replayed => NotifyType::INVALID_ID_INFORMATION,
    };
    let refusal = sa.notification(kind, Doi::GDOI);
    let notice = match claim.sends.has(Reading::NoticeClear) {
        true => notice_in_clear(sa.cookies(), &refusal, rng),
        false => sa.notice_after(&claim.last_block, refusal, rng),
    };
    let notice = notice.ok();
    Impostor { why, notice }
}
