//! New keys for an IKE SA in use, asked for by either end (RFC 7296 sections 2.8.2, 2.18 and 2.25.2).
//!
//! ```text
//!  our attempt   event                             next        output
//!  -             time is up                        KeyPair     Job
//!  KeyPair       job done                          Asked       CREATE_CHILD_SA request
//!  KeyPair       the peer asks                     -
//!  Asked         response                          Agreeing    Job
//!  Asked         TEMPORARY_FAILURE                 -           later again
//!  Asked         INVALID_KE_PAYLOAD                KeyPair     Job
//!  Agreeing      job done                          -           a new SA; Delete of the one that goes
//!
//!  the peer's    event                             next        output
//!  -             request                           being done  Job
//!  -             request, while the SA is closed   -           N(TEMPORARY_FAILURE)
//!  being done    job done                          -           a new SA, response
//!  being done    an unacceptable public value      Closed      N(INVALID_SYNTAX)
//! ```
//!
//! Both may go on at once; when neither does any more, nonces decide which of the new SAs stays.

use std::time::Duration;

use keyferry_crypto::{CryptoError, Job, JobDone, KeGroup, KeyPair, Random, Secret};
use keyferry_model::drive::{Ctx, Datagram, JobId};
use keyferry_wire::{ChainWriter, Encode};

use super::established::{Established, Purpose};
use super::{Entry, Path, Server, Spi, State};
use crate::ike_sa::life::Life;
use crate::ike_sa::rekey::{Accepted, Declined, Heir, Proposed, Request, Succession};
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
    /// The peer's request that is being worked on.
    theirs: Option<Theirs>,
    made: Succession,
    /// Another SA has taken its place: it is deleted then.
    pub(super) doomed: Option<Duration>,
    /// The SA in whose place this one was made.
    predecessor: Option<Spi>,
}

/// A request of the peer.
struct Theirs {
    message_id: u32,
    /// Its octets.
    message: Vec<u8>,
    request: Request,
}

/// An attempt of ours.
#[derive(Default)]
enum Attempt {
    #[default]
    None,
    KeyPair(JobId, Proposed),
    Asked(Proposed, Box<KeyPair>),
    Agreeing(Proposed, Accepted),
}

impl Rekeying {
    pub(super) fn new(lifetime: Duration, now: Duration, rng: &mut dyn Random) -> Self {
        Self {
            life: Life::new(lifetime, now, rng),
            ours: Attempt::None,
            theirs: None,
            made: Succession::default(),
            doomed: None,
            predecessor: None,
        }
    }

    pub(super) fn due_at(&self) -> Duration {
        self.life.due_at()
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
        let full = self.sas.len() >= self.config.sas;
        let Some(State::Established(state)) = self.sas.get(&spi).map(|e| &e.state) else { return None };
        // One that is being closed, or stands beside its predecessor still: nobody gets more than a few SAs.
        let old = state.rekeying.predecessor.and_then(|old| self.sas.get(&old));
        let beside = old.is_some_and(|e| matches!(e.state, State::Established(_)));
        let closing = state.rekeying.doomed.is_some() || state.purpose == Purpose::Delete && !state.requests.is_idle();
        if closing || beside {
            return Some(Notify::bare(NotifyType::TEMPORARY_FAILURE));
        }
        if full {
            return Some(Notify::bare(NotifyType::NO_ADDITIONAL_SAS));
        }
        let request = match Request::of(init, &self.config.preferences, &state.sa.suite) {
            Ok(request) => request,
            Err(refusal) => return Some(refusal),
        };
        let group = request.group();
        let private = Secret::random(group.seed_len(), ctx.rng);
        let job = ctx.out.job(Job::KeyExchange { group, private, peer: request.public.clone() });
        self.jobs.insert(job, spi);
        let Some(Entry { path, state: State::Established(state), .. }) = self.sas.get_mut(&spi) else { return None };
        *path = Path::of(dgram);
        // New keys alone are no reason to keep an SA that is of no use.
        state.heard = ctx.now.mono;
        state.answers.take_up(dgram.bytes);
        state.rekeying.theirs = Some(Theirs { message_id, message: dgram.bytes.to_vec(), request });
        if let Attempt::KeyPair(job, _) = state.rekeying.ours {
            state.rekeying.ours = Attempt::None;
            self.jobs.remove(&job);
            ctx.out.cancel(job);
        }
        None
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
            JobDone::KeyExchange(both) => self.peer_rekeyed(ctx, spi, both),
            JobDone::CheckPeer(_) | JobDone::Sign(_) => {}
        }
        self.rearm(spi);
    }

    fn key_pair_made(&mut self, ctx: &mut Ctx<'_>, spi: Spi, made: Result<Box<KeyPair>, CryptoError>) {
        let Some(state) = self.in_use(&spi) else { return };
        let Attempt::KeyPair(_, proposed) = std::mem::take(&mut state.rekeying.ours) else { return };
        match made {
            Ok(pair) if state.requests.is_idle() && state.rekeying.doomed.is_none() => {
                let chain = proposed.chain(pair.public());
                state.rekeying.ours = Attempt::Asked(proposed, pair);
                self.ask(ctx, spi, Purpose::Rekey, chain);
            }
            Ok(_) | Err(_) => state.rekeying.life.try_later(ctx.now.mono, ctx.rng),
        }
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
                let job = ctx.out.job(Job::Agree { pair, peer: accepted.public.clone() });
                state.rekeying.ours = Attempt::Agreeing(proposed, accepted);
                self.jobs.insert(job, spi);
            }
            Err(Declined::Group(group)) if state.rekeying.theirs.is_none() => self.attempt(ctx, spi, Some(group)),
            Err(declined) => {
                self.declined(ctx, spi, &declined);
                self.settle(ctx, spi);
            }
        }
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
        let Attempt::Agreeing(proposed, accepted) = std::mem::take(&mut state.rekeying.ours) else { return };
        let log = self.key_log.as_deref_mut().map(|l| l as _);
        let made = shared.and_then(|shared| proposed.finish(&state.sa, &accepted, &shared, ctx.rng, log));
        match made {
            Ok((sa, made)) => {
                let active = state.active;
                state.rekeying.made.ours = Some(made);
                self.install(ctx, spi, sa, active);
            }
            // The peer has an SA now that we have no keys for; it goes with this one, once what is under way is answered.
            Err(error) => {
                tracing::debug!(%error, "new keys of an IKE SA could not be made");
                state.rekeying.doomed.get_or_insert(ctx.now.mono);
                self.established_due(ctx, spi);
            }
        }
        self.settle(ctx, spi);
    }

    fn peer_rekeyed(&mut self, ctx: &mut Ctx<'_>, spi: Spi, both: Result<(Vec<u8>, Secret), CryptoError>) {
        let fresh = self.fresh_spi(ctx);
        let Some(Entry { path, state: State::Established(state), .. }) = self.sas.get_mut(&spi) else { return };
        let (path, active) = (*path, state.active);
        let Some(Theirs { message_id, message, request }) = state.rekeying.theirs.take() else { return };
        let log = self.key_log.as_deref_mut().map(|l| l as _);
        let made = both.and_then(|(public, shared)| request.answer(&state.sa, fresh, (&public, &shared), ctx.rng, log));
        let (chain, successor, ends) = match made {
            Ok((chain, sa, made)) => (chain, Some((sa, made)), false),
            Err(error) => {
                tracing::debug!(member = %state.who.identity, %error, "new keys of an IKE SA could not be made");
                let theirs = matches!(error, CryptoError::BadPublicValue);
                let kind = if theirs { NotifyType::INVALID_SYNTAX } else { NotifyType::TEMPORARY_FAILURE };
                let mut chain = ChainWriter::new();
                chain.push(PayloadKind::NOTIFY.0, &Notify::bare(kind).to_vec());
                (chain, None, theirs)
            }
        };
        let sealed = state.sa.seal(ExchangeType::CREATE_CHILD_SA, Direction::Response, message_id, chain, ctx.rng);
        let Ok(response) = sealed else { return self.remove(ctx.out, spi) };
        if ends {
            // Whoever says INVALID_SYNTAX has given the SA up (RFC 7296 section 2.21.3).
            self.counters.malformed += 1;
            return self.end(ctx, spi, path, message, response);
        }
        state.answers.answered_later(response.clone());
        // It takes messages over the new SA from now on (RFC 7296 section 2.8).
        if let Some((sa, made)) = successor {
            state.rekeying.made.theirs = Some(made);
            self.install(ctx, spi, sa, active);
        }
        ctx.out.send(path.transmit(response));
        self.settle(ctx, spi);
    }

    /// Takes a new SA into use beside the one that it replaces: all that belongs to the peer is its as well.
    fn install(&mut self, ctx: &mut Ctx<'_>, old: Spi, sa: IkeSa, active: Duration) {
        let Some(Entry { path, state: State::Established(state), .. }) = self.sas.get(&old) else { return };
        let mut rekeying = Rekeying::new(self.config.ike.lifetime, ctx.now.mono, ctx.rng);
        rekeying.predecessor = Some(old);
        let spi = sa.own_spi();
        let mut fresh = Established::fresh(sa, state.who.clone(), rekeying, ctx.now.mono);
        (fresh.active, fresh.line, fresh.kept) = (active, state.line, state.kept);
        self.lines.enter(state.line, spi);
        tracing::info!(member = %fresh.who.identity, "IKE SA has new keys");
        self.counters.rekeyed += 1;
        let entry = Entry { path: *path, digest: Vec::new(), state: State::Established(Box::new(fresh)) };
        self.sas.insert(spi, entry);
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
