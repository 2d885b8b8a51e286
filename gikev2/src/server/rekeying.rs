//! New keys for an IKE SA in use, asked for by either end (RFC 7296 sections 2.8.2, 2.18 and 2.25.2; RFC 9370 section 2.2.4).
//!
//! ```text
//!  our attempt   event                             next        output
//!  -             time is up                        KeyPair     Job
//!  KeyPair       job done                          Asked       CREATE_CHILD_SA request
//!  KeyPair       the peer asks                     -
//!  Asked         response                          Agreeing    Job
//!  Asked         response, its nonce loses         -           (no more, if another key exchange would follow)
//!  Asked         TEMPORARY_FAILURE                 -           later again
//!  Asked         INVALID_KE_PAYLOAD                KeyPair     Job
//!  Agreeing      job done, another one follows     NextPair    Job
//!  NextPair      job done                          Ready
//!  Ready         no other request is unanswered    Following   IKE_FOLLOWUP_KE request
//!  Following     response                          Agreeing    Job
//!  Following     STATE_NOT_FOUND, TEMPORARY_FAILURE -          later again
//!  Agreeing      job done, that was the last one   -           a new SA; Delete of the one that goes
//!
//!  the peer's    event                             next        output
//!  -, Awaited    CREATE_CHILD_SA request           Computing   Job
//!  -             the same, while the SA is closed, or ours is followed up
//!                                                  -           N(TEMPORARY_FAILURE)
//!  Computing     job done, another one follows     Awaited     response
//!  Awaited       IKE_FOLLOWUP_KE request           Computing   Job
//!  Awaited       no request in time, its nonce loses -
//!  -             IKE_FOLLOWUP_KE request           -           N(STATE_NOT_FOUND)
//!  Computing     job done, that was the last one   -           a new SA, response
//!  Computing     an unacceptable public value      Closed      N(INVALID_SYNTAX)
//! ```
//!
//! Both may go on at once; when neither does any more, nonces decide which of the new SAs stays.

use std::time::Duration;

use keyferry_crypto::{CryptoError, Job, JobDone, KeGroup, KeyPair, Random, Secret};
use keyferry_model::drive::{Ctx, Datagram, JobId};
use keyferry_wire::{ChainWriter, Encode};

use super::established::{Established, Purpose};
use super::resume::{Granted, grant};
use super::{Entry, Path, Server, Spi, State};
use crate::ike_sa::followup::{self, Answering, Failure, Following};
use crate::ike_sa::life::Life;
use crate::ike_sa::rekey::{Declined, Heir, Proposed, Request, Succession};
use crate::ike_sa::sa::{Direction, IkeSa};
use crate::wire::message::{Init, Payloads};
use crate::wire::notify::Notify;
use crate::wire::registry::{ExchangeType, NotifyType, PayloadKind};
use crate::wire::rules;
use crate::wire::sk::Opened;

/// An SA that the peer should delete, and does not, is deleted after this time: longer than anybody repeats a
/// request whose answer is lost.
const PATIENCE: Duration = Duration::from_secs(180);

/// Where an IKE SA stands in getting new keys.
pub(super) struct Rekeying {
    pub(super) life: Life,
    ours: Attempt,
    theirs: Option<Theirs>,
    /// With the new SA the peer wants a ticket.
    wants_ticket: bool,
    made: Succession,
    /// Another SA has taken its place: it is deleted then.
    pub(super) doomed: Option<Duration>,
    /// The SA in whose place this one was made.
    predecessor: Option<Spi>,
}

/// An attempt of ours.
#[derive(Default)]
enum Attempt {
    #[default]
    None,
    KeyPair(JobId, Proposed),
    Asked(Proposed, Box<KeyPair>),
    Agreeing(Box<Following>),
    NextPair(Box<Following>),
    Ready(Box<Following>, Box<KeyPair>),
    Following(Box<Following>, Box<KeyPair>),
}

/// An attempt of the peer's.
enum Theirs {
    Computing(Computing),
    /// Its next request is awaited until then.
    Awaited(Box<Answering>, Duration),
}

/// A request of the peer whose key exchange is being computed.
struct Computing {
    exchange: ExchangeType,
    message_id: u32,
    request: Vec<u8>,
    method: KeGroup,
    answering: Box<Answering>,
}

impl Rekeying {
    pub(super) fn new(lifetime: Duration, now: Duration, rng: &mut dyn Random) -> Self {
        Self {
            life: Life::new(lifetime, now, rng),
            ours: Attempt::None,
            theirs: None,
            wants_ticket: false,
            made: Succession::default(),
            doomed: None,
            predecessor: None,
        }
    }

    pub(super) fn due_at(&self) -> Duration {
        self.life.due_at()
    }

    /// When the peer has had its time to go on.
    pub(super) fn patience(&self) -> Duration {
        match &self.theirs {
            Some(Theirs::Awaited(_, until)) => *until,
            Some(Theirs::Computing(_)) | None => Duration::MAX,
        }
    }

    /// Our attempt, once CREATE_CHILD_SA has been answered.
    fn following(&self) -> Option<&Following> {
        match &self.ours {
            Attempt::Agreeing(f) | Attempt::NextPair(f) | Attempt::Ready(f, _) | Attempt::Following(f, _) => Some(f),
            Attempt::None | Attempt::KeyPair(..) | Attempt::Asked(..) => None,
        }
    }

    /// The lower nonce of the peer's attempt.
    fn lowest_of_theirs(&self) -> Option<&[u8]> {
        match &self.theirs {
            Some(Theirs::Awaited(answering, _)) => Some(answering.lowest()),
            Some(Theirs::Computing(computing)) => Some(computing.answering.lowest()),
            None => self.made.theirs.as_ref().map(|made| made.lowest.as_slice()),
        }
    }

    /// The lower nonce of our attempt, once CREATE_CHILD_SA has been answered.
    fn lowest_of_ours(&self) -> Option<&[u8]> {
        let made = self.made.ours.as_ref().map(|made| made.lowest.as_slice());
        self.following().map(Following::lowest).or(made)
    }

    /// Is an exchange under way, or has one been done?
    fn is_begun(&self) -> bool {
        !matches!(self.ours, Attempt::None) || self.theirs.is_some() || self.made.heir().is_some()
    }
}

impl Server {
    /// The peer asks for new keys. Returns a refusal; an answer comes when the key exchange has been computed.
    pub(super) fn peer_rekeys(
        &mut self,
        ctx: &mut Ctx<'_>,
        dgram: &Datagram<'_>,
        spi: Spi,
        message_id: u32,
        init: &Init<'_>,
    ) -> Option<Notify<'static>> {
        let full = !self.has_room_for_sa();
        let Some(State::Established(state)) = self.sas.get(&spi).map(|e| &e.state) else { return None };
        // One that is being closed, or stands beside its predecessor still: nobody gets more than a few SAs.
        let old = state.rekeying.predecessor.and_then(|old| self.sas.get(&old));
        let beside = old.is_some_and(|e| matches!(e.state, State::Established(_)));
        let followed_up = state.rekeying.following().is_some_and(Following::is_series);
        if state.is_closing() || beside || followed_up || state.rekeying.made.theirs.is_some() {
            return Some(Notify::bare(NotifyType::TEMPORARY_FAILURE));
        }
        if full {
            return Some(Notify::bare(NotifyType::NO_ADDITIONAL_SAS));
        }
        let request = match Request::of(init, &self.config.preferences, &state.sa.suite, ctx.rng) {
            Ok(request) => request,
            Err(refusal) => return Some(refusal),
        };
        let answering = Box::new(Answering::new(request, self.fresh_spi(ctx)));
        let (method, peer) = answering.first();
        let exchange = ExchangeType::CREATE_CHILD_SA;
        let computing = Computing { exchange, message_id, request: dgram.bytes.to_vec(), method, answering };
        self.compute(ctx, dgram, spi, computing, peer);
        let state = self.in_use(&spi)?;
        state.rekeying.wants_ticket = init.payloads.notify(NotifyType::TICKET_REQUEST).is_some();
        if let Attempt::KeyPair(job, _) = state.rekeying.ours {
            state.rekeying.ours = Attempt::None;
            self.jobs.remove(&job);
            ctx.out.cancel(job);
        }
        None
    }

    /// The peer goes on with another key exchange. Returns a refusal; an answer comes when it has been computed.
    pub(super) fn peer_follows_up(
        &mut self,
        ctx: &mut Ctx<'_>,
        dgram: &Datagram<'_>,
        spi: Spi,
        message_id: u32,
        payloads: &Payloads<'_>,
    ) -> Option<Notify<'static>> {
        let full = !self.has_room_for_sa();
        let state = self.in_use(&spi)?;
        let closing = state.is_closing();
        let Some(Theirs::Awaited(answering, _)) = &state.rekeying.theirs else { return Some(followup::not_found()) };
        let (method, peer) = match answering.next(payloads) {
            Ok(both) => both,
            Err(refusal) => return Some(refusal),
        };
        let Some(Theirs::Awaited(answering, _)) = state.rekeying.theirs.take() else { return None };
        if closing || full {
            let kind = if full { NotifyType::NO_ADDITIONAL_SAS } else { NotifyType::TEMPORARY_FAILURE };
            // What we have made meanwhile stays alone.
            state.rekeying.life.resume(ctx.now.mono, ctx.rng);
            self.settle(ctx, spi);
            return Some(Notify::bare(kind));
        }
        let exchange = ExchangeType::IKE_FOLLOWUP_KE;
        let computing = Computing { exchange, message_id, request: dgram.bytes.to_vec(), method, answering };
        self.compute(ctx, dgram, spi, computing, peer);
        None
    }

    /// Has a key exchange of the peer's computed.
    fn compute(&mut self, ctx: &mut Ctx<'_>, dgram: &Datagram<'_>, spi: Spi, computing: Computing, peer: Vec<u8>) {
        let group = computing.method;
        let private = Secret::random(group.seed_len(), ctx.rng);
        self.jobs.insert(ctx.out.job(Job::KeyExchange { group, private, peer }), spi);
        let Some(state) = self.in_use(&spi) else { return };
        // New keys alone are no reason to keep an SA that is of no use.
        state.heard = ctx.now.mono;
        state.answers.take_up(dgram.bytes);
        state.rekeying.theirs = Some(Theirs::Computing(computing));
        self.follow(ctx, spi, Path::of(dgram));
    }

    /// A peer that has begun a series and does not go on: what there is of it is forgotten.
    pub(super) fn forget_awaited(&mut self, ctx: &mut Ctx<'_>, spi: Spi) {
        let now = ctx.now.mono;
        let Some(state) = self.in_use(&spi) else { return };
        if state.rekeying.patience() <= now {
            tracing::debug!(member = %state.who.identity, "new keys of an IKE SA are not followed up");
            state.rekeying.theirs = None;
            state.rekeying.life.resume(now, ctx.rng);
            self.settle(ctx, spi);
        }
    }

    /// Asks for new keys, if nothing is under way.
    pub(super) fn begin_rekey(&mut self, ctx: &mut Ctx<'_>, spi: Spi) {
        let Some(state) = self.in_use(&spi) else { return };
        state.rekeying.life.rest();
        if !state.rekeying.is_begun() {
            self.attempt(ctx, spi, None);
        }
    }

    fn attempt(&mut self, ctx: &mut Ctx<'_>, spi: Spi, group: Option<KeGroup>) {
        let fresh = self.fresh_spi(ctx);
        let Some(State::Established(state)) = self.sas.get_mut(&spi).map(|e| &mut e.state) else { return };
        let proposed = Proposed::draw(&self.config.preferences, &state.sa.suite, group, fresh, ctx.rng);
        let private = Secret::random(proposed.group.seed_len(), ctx.rng);
        let job = ctx.out.job(Job::KeyPair { group: proposed.group, private });
        state.rekeying.ours = Attempt::KeyPair(job, proposed);
        self.jobs.insert(job, spi);
    }

    /// Public-key work of an SA in use has been done.
    pub(super) fn rekey_job_done(&mut self, ctx: &mut Ctx<'_>, spi: Spi, done: JobDone) {
        match done {
            JobDone::KeyPair(made) => self.key_pair_made(ctx, spi, made),
            JobDone::Agree(shared) => self.agreed(ctx, spi, shared),
            JobDone::KeyExchange(both) => self.computed(ctx, spi, both),
            JobDone::CheckPeer(_) | JobDone::Sign(_) => {}
        }
        self.rearm(spi);
    }

    fn key_pair_made(&mut self, ctx: &mut Ctx<'_>, spi: Spi, made: Result<Box<KeyPair>, CryptoError>) {
        let Some(state) = self.in_use(&spi) else { return };
        let idle = state.requests.is_idle() && state.rekeying.doomed.is_none();
        match (std::mem::take(&mut state.rekeying.ours), made) {
            (Attempt::KeyPair(_, proposed), Ok(pair)) if idle => {
                let chain = proposed.chain(pair.public());
                state.rekeying.ours = Attempt::Asked(proposed, pair);
                self.ask(ctx, spi, Purpose::Rekey, chain);
            }
            (Attempt::NextPair(following), Ok(pair)) => {
                state.rekeying.ours = Attempt::Ready(following, pair);
                self.follow_up(ctx, spi);
            }
            (Attempt::KeyPair(..) | Attempt::NextPair(_), _) => {
                state.rekeying.life.try_later(ctx.now.mono, ctx.rng);
                self.settle(ctx, spi);
            }
            (other, _) => state.rekeying.ours = other,
        }
    }

    /// Goes on with another key exchange, unless another request of ours is to be answered first.
    pub(super) fn follow_up(&mut self, ctx: &mut Ctx<'_>, spi: Spi) {
        let Some(state) = self.in_use(&spi).filter(|state| state.requests.is_idle()) else { return };
        if !matches!(state.rekeying.ours, Attempt::Ready(..)) {
            return;
        }
        let Attempt::Ready(following, pair) = std::mem::take(&mut state.rekeying.ours) else { return };
        let chain = following.chain(pair.group(), pair.public());
        state.rekeying.ours = Attempt::Following(following, pair);
        self.ask(ctx, spi, Purpose::FollowUp, chain);
    }

    /// The peer's answer to our wish.
    pub(super) fn rekey_answered(&mut self, ctx: &mut Ctx<'_>, spi: Spi, opened: &Opened) {
        let Some(State::Established(state)) = self.sas.get_mut(&spi).map(|e| &mut e.state) else { return };
        let Attempt::Asked(proposed, pair) = std::mem::take(&mut state.rekeying.ours) else { return };
        let preferences = &self.config.preferences;
        let accepted = Payloads::parse(opened.first, opened.inner.expose(), rules::CHILD_RESPONSE)
            .map_err(|reject| Declined::Never(reject.to_string()))
            .and_then(|payloads| proposed.accept(preferences, payloads));
        match accepted {
            Ok(accepted) => {
                let following = Box::new(Following::new(proposed, accepted));
                let rekeying = &mut state.rekeying;
                match rekeying.lowest_of_theirs().map(|theirs| following.lowest() < theirs) {
                    // Where no SA has been made there is none to delete, either (RFC 9370 section 2.2.4).
                    Some(true) if following.is_series() => return self.settle(ctx, spi),
                    Some(false) => drop(rekeying.theirs.take_if(|theirs| matches!(theirs, Theirs::Awaited(..)))),
                    Some(true) | None => {}
                }
                let peer = following.first_public().to_vec();
                rekeying.ours = Attempt::Agreeing(following);
                self.jobs.insert(ctx.out.job(Job::Agree { pair, peer }), spi);
            }
            Err(Declined::Group(group)) if state.rekeying.theirs.is_none() => self.attempt(ctx, spi, Some(group)),
            Err(declined) => {
                self.declined(ctx, spi, &declined);
                self.settle(ctx, spi);
            }
        }
    }

    /// The peer's answer to another key exchange.
    pub(super) fn follow_up_answered(&mut self, ctx: &mut Ctx<'_>, spi: Spi, opened: &Opened) {
        let Some(State::Established(state)) = self.sas.get_mut(&spi).map(|e| &mut e.state) else { return };
        let Attempt::Following(mut following, pair) = std::mem::take(&mut state.rekeying.ours) else { return };
        let failure = match following.accept(opened) {
            Ok(peer) => {
                state.rekeying.ours = Attempt::Agreeing(following);
                self.jobs.insert(ctx.out.job(Job::Agree { pair, peer }), spi);
                return;
            }
            Err(failure) => failure,
        };
        tracing::debug!(member = %state.who.identity, %failure, "no new keys for the IKE SA");
        let (now, life) = (ctx.now.mono, &mut state.rekeying.life);
        match failure {
            Failure::Forgotten => life.forgotten(now, ctx.rng),
            Failure::Later => life.try_later(now, ctx.rng),
            // It goes when its time is up.
            Failure::Refused(_) => {}
            Failure::Ended => return self.remove(ctx.out, spi),
            Failure::Broken(_) => self.inform(ctx, spi, true),
        }
        self.settle(ctx, spi);
    }

    fn declined(&mut self, ctx: &mut Ctx<'_>, spi: Spi, declined: &Declined) {
        let Some(state) = self.in_use(&spi) else { return };
        tracing::debug!(member = %state.who.identity, ?declined, "no new keys for the IKE SA");
        match declined {
            Declined::Later | Declined::Group(_) => state.rekeying.life.try_later(ctx.now.mono, ctx.rng),
            // It goes when its time is up.
            Declined::Never(_) => {}
        }
    }

    fn agreed(&mut self, ctx: &mut Ctx<'_>, spi: Spi, shared: Result<Secret, CryptoError>) {
        let Some(State::Established(state)) = self.sas.get_mut(&spi).map(|e| &mut e.state) else { return };
        let Attempt::Agreeing(mut following) = std::mem::take(&mut state.rekeying.ours) else { return };
        let log = self.key_log.as_deref_mut().map(|l| l as _);
        let goes_on = following.goes_on();
        let made = match shared.map(|shared| following.agreed(shared)) {
            Ok(Some(group)) => {
                let private = Secret::random(group.seed_len(), ctx.rng);
                state.rekeying.ours = Attempt::NextPair(following);
                self.jobs.insert(ctx.out.job(Job::KeyPair { group, private }), spi);
                return;
            }
            Ok(None) => following.finish(&state.sa, ctx.rng, log),
            Err(error) => Err(error),
        };
        match made {
            Ok((sa, made)) => {
                let active = state.active;
                state.rekeying.made.ours = Some(made);
                self.install(ctx, spi, sa, active, None);
            }
            // Nothing has come of it at the peer yet.
            Err(CryptoError::NotDone) if goes_on => state.rekeying.life.try_later(ctx.now.mono, ctx.rng),
            // The peer has an SA now that we have no keys for; it goes with this one, once what is under way is answered.
            Err(error) => {
                tracing::debug!(%error, "new keys of an IKE SA could not be made");
                state.rekeying.doomed.get_or_insert(ctx.now.mono);
                self.established_due(ctx, spi);
            }
        }
        self.settle(ctx, spi);
    }

    /// The key exchange of a request of the peer's has been computed: the answer, and what comes of it.
    fn computed(&mut self, ctx: &mut Ctx<'_>, spi: Spi, both: Result<(Vec<u8>, Secret), CryptoError>) {
        let Some(Entry { path, state: State::Established(state), .. }) = self.sas.get_mut(&spi) else { return };
        let (path, active) = (*path, state.active);
        let theirs = state.rekeying.theirs.take_if(|theirs| matches!(theirs, Theirs::Computing(_)));
        let Some(Theirs::Computing(computing)) = theirs else { return };
        let Computing { exchange, message_id, request, method, mut answering } = computing;
        let log = self.key_log.as_deref_mut().map(|l| l as _);
        let answered = both.and_then(|(public, shared)| {
            let chain = answering.answer(method, (&public, shared), ctx.rng);
            let made = answering.is_done().then(|| answering.finish(&state.sa, ctx.rng, log)).transpose()?;
            Ok((chain, made))
        });
        let mut granted = None;
        let (chain, made, failed) = match answered {
            Ok((mut chain, made)) => {
                // Those keys are there only now, so it comes with the last answer (RFC 5723 section 4.1).
                let tickets = self.tickets.as_mut().filter(|_| state.rekeying.wants_ticket);
                if let (Some(tickets), Some((sa, _))) = (tickets, &made) {
                    let (notify, named) = grant(tickets, &self.config, ctx, (sa, &state.who, &state.origin));
                    chain.push(PayloadKind::NOTIFY.0, &notify.to_vec());
                    granted = named;
                }
                (chain, made, None)
            }
            Err(error) => {
                tracing::debug!(member = %state.who.identity, %error, "new keys of an IKE SA could not be made");
                let theirs = matches!(error, CryptoError::BadPublicValue);
                let kind = if theirs { NotifyType::INVALID_SYNTAX } else { NotifyType::TEMPORARY_FAILURE };
                let mut chain = ChainWriter::new();
                chain.push(PayloadKind::NOTIFY.0, &Notify::bare(kind).to_vec());
                (chain, None, Some(kind))
            }
        };
        let sealed = state.sa.seal(exchange, Direction::Response, message_id, chain, ctx.rng);
        let Ok(response) = sealed else { return self.remove(ctx.out, spi) };
        if failed == Some(NotifyType::INVALID_SYNTAX) {
            // Whoever says INVALID_SYNTAX has given the SA up (RFC 7296 section 2.21.3).
            self.counters.malformed += 1;
            return self.end(ctx, spi, path, request, response);
        }
        state.answers.answered_later(response.clone());
        match made {
            // It takes messages over the new SA from now on (RFC 7296 section 2.8).
            Some((sa, made)) => {
                state.rekeying.made.theirs = Some(made);
                self.install(ctx, spi, sa, active, granted);
            }
            // Who knows already that it loses awaits nothing more.
            None if failed.is_none() => {
                let loses = state.rekeying.lowest_of_ours().is_some_and(|ours| answering.lowest() < ours);
                let until = ctx.now.mono + followup::PATIENCE;
                state.rekeying.theirs = (!loses).then_some(Theirs::Awaited(answering, until));
            }
            None => state.rekeying.life.resume(ctx.now.mono, ctx.rng),
        }
        ctx.out.send(path.transmit(response));
        self.settle(ctx, spi);
    }

    /// Takes a new SA into use beside the one that it replaces: all that belongs to the peer is its as well.
    fn install(&mut self, ctx: &mut Ctx<'_>, old: Spi, sa: IkeSa, active: Duration, ticket: Option<Granted>) {
        let Some(Entry { path, state: State::Established(state), .. }) = self.sas.get(&old) else { return };
        let mut rekeying = Rekeying::new(self.config.ike.lifetime, ctx.now.mono, ctx.rng);
        rekeying.predecessor = Some(old);
        let spi = sa.own_spi();
        let mut fresh = Established::fresh(sa, state.who.clone(), rekeying, ctx.now.mono);
        (fresh.active, fresh.line, fresh.kept) = (active, state.line, state.kept);
        fresh.leaving = state.leaving;
        (fresh.origin, fresh.ticket) = (state.origin.clone(), ticket);
        self.lines.enter(state.line, spi);
        self.connections.carry(path.via, spi);
        tracing::info!(member = %fresh.who.identity, "IKE SA has new keys");
        self.counters.rekeyed += 1;
        let entry = Entry { path: *path, digest: Vec::new(), state: State::Established(Box::new(fresh)) };
        self.sas.insert(spi, entry);
        self.revoke(ctx, old);
        self.rearm(spi);
    }

    /// Once no exchange is under way: one of the SAs stays, and we delete those that are ours to delete.
    fn settle(&mut self, ctx: &mut Ctx<'_>, spi: Spi) {
        let now = ctx.now.mono;
        let Some(state) = self.in_use(&spi) else { return };
        if !matches!(state.rekeying.ours, Attempt::None) || state.rekeying.theirs.is_some() {
            return;
        }
        let (deleted, other) = match state.rekeying.made.heir() {
            None => return,
            Some(Heir::Ours { other, .. }) => (now, other.map(|spi| (spi, now + PATIENCE))),
            Some(Heir::Theirs { other, .. }) => (now + PATIENCE, other.map(|spi| (spi, now))),
        };
        for (spi, at) in [(spi, deleted)].into_iter().chain(other) {
            if let Some(state) = self.in_use(&spi) {
                state.rekeying.doomed.get_or_insert(at);
                self.established_due(ctx, spi);
            }
        }
    }
}
