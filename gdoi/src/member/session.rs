//! A member's dealings with its key server: phase 1, registration, notices.

use std::collections::BTreeSet;
use std::time::Duration;

use keyferry_crypto::{Hash, Random};
use keyferry_model::drive::Datagram;
use keyferry_model::update::{GroupUpdate, MemberCtx, MemberEvent, MemberOutput, Removal, StreamUpdate};
use keyferry_wire::Header;

use super::{Goal, Member, Membership, Message3, Phase, Registering, Repeats, Session, about, below};
use crate::dpd::{Liveness, Question};
use crate::keylog;
use crate::message::Payloads;
use crate::notice::Notice;
use crate::phase1::initiator::{Config, Established, Initiator, Postponed};
use crate::phase1::suite::Accepted;
use crate::pull::member::{Pull, Registration, Step};
use crate::push::member::Group;
use crate::reject::Reject;
use crate::wire::delete::Delete;
use crate::wire::registry::{Doi, NotifyType, exchange, flag, payload, protocol};

/// How often a key server may make us begin a registration again.
const MAX_RESTARTS: u8 = 3;

/// Repeats over an SA that may be gone on the other side.
const STALE_TRIES: u8 = 2;

/// A member that has got no traffic keys waits so long for a push that brings some, at most twice as long.
const AWAIT_KEYS: Duration = Duration::from_secs(90);

/// Members register anew over so long a time, which ends as long before keys do; shorter for keys that live for less than 20
/// minutes.
const RENEWAL_SPAN: Duration = Duration::from_secs(60);

/// Notices remembered against replay: more than a key server gives that refuses to no end.
const MAX_NOTICES: usize = 512;

impl Session {
    /// A notice that does something must not come twice. Where too many would have to be remembered, the SA is not used for
    /// another registration. Questions and answers of DPD have numbers of their own.
    fn replayed(&mut self, header: &Header, notice: &Notice) -> Result<(), Reject> {
        if notice.error.is_none() && notice.lifetime.is_none() && notice.phase1.is_empty() {
            return Ok(());
        }
        if self.notices.len() == MAX_NOTICES {
            self.expires = Duration::ZERO;
            return Err(Reject::Replayed);
        }
        if self.notices.insert(header.message_id) { Ok(()) } else { Err(Reject::Replayed) }
    }

    /// What DPD wants to be sent (RFC 3706).
    fn asked(&mut self, ctx: &mut MemberCtx<'_>, notice: &Notice) -> Result<Option<Vec<u8>>, Reject> {
        if let Some(number) = notice.here {
            self.liveness.answered(number, ctx.now.mono);
        }
        let Some(number) = notice.are_you_there else { return Ok(None) };
        match self.liveness.asked(number) {
            Question::New => self.liveness.hear(ctx.now.mono),
            Question::Again => {}
            Question::Stale => return Err(Reject::Replayed),
        }
        Ok(self.status(NotifyType::R_U_THERE_ACK, &number.to_be_bytes(), ctx.rng))
    }

    /// A status notification protected by this SA.
    pub(super) fn status(&self, kind: NotifyType, data: &[u8], rng: &mut dyn Random) -> Option<Vec<u8>> {
        self.sa.notice(Payloads::new().with(payload::NOTIFICATION, &self.sa.status(kind, data)), rng).ok()
    }
}

impl Member {
    /// Goes on towards the goal, over the phase 1 SA if there is one.
    pub(super) fn pursue(&mut self, ctx: &mut MemberCtx<'_>) {
        self.successor = None;
        let session = match std::mem::replace(&mut self.phase, Phase::Idle) {
            Phase::Resting(session) => session.map(|s| *s),
            Phase::Registering(r) => Some(r.session),
            Phase::Idle | Phase::Connecting(..) => None,
        };
        let session = session.filter(|s| s.expires > ctx.now.mono);
        match (self.goal, session) {
            (Goal::Leave, Some(session)) => self.say_goodbye(ctx, &session),
            (Goal::Leave, None) if self.groups.iter().all(|m| m.group.is_none()) => self.gone(ctx),
            (Goal::Register, Some(session)) => self.register_next(ctx, session, true),
            (Goal::Connect, Some(session)) => self.phase = Phase::Resting(Some(Box::new(session))),
            (Goal::Register | Goal::Connect | Goal::Leave, None) => self.connect(ctx),
        }
    }

    pub(super) fn initiator(&self, rng: &mut dyn Random) -> Option<Initiator> {
        let accepted = Accepted {
            ciphers: self.settings.phase1.ciphers.clone(),
            hashes: self.settings.hashes.clone(),
            groups: self.settings.ke_groups.clone(),
            weak: self.settings.phase1.danger_weak,
        };
        let config = Config {
            exchange: self.settings.phase1.exchange,
            accepted: &accepted,
            identity: &self.settings.identity,
            peer: self.settings.gateway_identity(),
            auth: &self.settings.auth,
            lifetime: self.options.lifetime,
            doi: self.options.doi,
            sends: self.settings.phase1.sends,
            seen: self.seen,
            extensions: self.extensions(),
            path: (self.settings.local, self.settings.gateway()),
            floated: self.floated(),
        };
        Initiator::new(&config, rng)
    }

    fn connect(&mut self, ctx: &mut MemberCtx<'_>) {
        let Some(initiator) = self.initiator(ctx.rng) else {
            let event = MemberEvent::Refused("nothing that is configured can be offered in IKEv1".into());
            return self.failed(ctx, None, None, event);
        };
        let repeats = Repeats::start(&self.settings, ctx.now.mono, ctx.rng);
        for message in initiator.messages(0) {
            ctx.send(self.transmit(message));
        }
        tracing::debug!(gateway = %self.settings.gateway(), "phase 1 begins");
        self.phase = Phase::Connecting(Box::new(initiator), repeats);
    }

    pub(super) fn phase1(
        &mut self,
        ctx: &mut MemberCtx<'_>,
        header: &Header,
        body: &[u8],
        dgram: &Datagram<'_>,
    ) -> Result<(), Reject> {
        let (initiator, repeats) = match (&mut self.phase, &mut self.successor) {
            (Phase::Connecting(initiator, repeats), _) | (_, Some((initiator, repeats))) => (initiator, repeats),
            (Phase::Idle | Phase::Registering(_) | Phase::Resting(_), None) => return self.phase1_again(ctx, dgram),
        };
        let same = header.spi_i == *initiator.cookie() && header.exchange == initiator.exchange();
        if !same || header.message_id != 0 {
            return Err(Reject::Unauthenticated("no such exchange"));
        }
        let verified = if header.exchange == exchange::AGGRESSIVE {
            initiator.verify_aggressive(header, body, ctx.now)
        } else if header.flags & flag::ENCRYPTED == 0 {
            let stage = initiator.stage();
            if let Some(next) = initiator.clear(header, body, ctx.now.mono, ctx.rng)? {
                // Whoever makes rivals gets no more time by them.
                if initiator.stage() > stage {
                    *repeats = Repeats::start(&self.settings, ctx.now.mono, ctx.rng);
                }
                ctx.send(self.transmit(next));
            }
            return Ok(());
        } else {
            initiator.verify(header, body, ctx.now)
        };
        let peer = verified.map_err(|rejected| {
            initiator.note(rejected.cost, dgram, ctx.now.mono);
            rejected.why
        })?;
        let renewed = self.successor.take();
        let succeeds = renewed.is_some();
        let initiator = match renewed {
            Some((initiator, _)) => initiator,
            None => match std::mem::replace(&mut self.phase, Phase::Idle) {
                Phase::Connecting(initiator, _) => initiator,
                Phase::Idle | Phase::Registering(_) | Phase::Resting(_) => unreachable!("it was just looked at"),
            },
        };
        let done = initiator.advance(peer);
        self.note_nat(ctx, header.spi_pair(), done.nat);
        self.established(ctx, done, dgram, succeeds);
        Ok(())
    }

    fn established(&mut self, ctx: &mut MemberCtx<'_>, done: Established, dgram: &Datagram<'_>, succeeds: bool) {
        if !dgram.to.ip().is_unspecified() && !dgram.to.ip().is_multicast() {
            self.own = dgram.to.ip();
        }
        if let Some(log) = &mut self.key_log {
            log.log(keylog::TABLE, &done.sa.key_log_line());
        }
        tracing::info!(gateway = %self.settings.gateway(), identity = %done.identity, "phase 1 stands");
        if !done.seen.without(self.seen).is_empty() {
            tracing::debug!(readings = %done.seen, "the key server reads phase 1 in another way");
        }
        self.seen = done.seen;
        if let Some(message3) = &done.message3 {
            ctx.send(self.transmit(message3.clone()));
        }
        let answers = Hash::Sha256.digest(&[dgram.bytes]);
        let mut session = Session {
            expires: ctx.now.mono + done.lifetime,
            renew: ctx.now.mono + done.lifetime,
            sa: done.sa,
            extensions: done.extensions,
            liveness: Liveness::new(ctx.now.mono, ctx.rng),
            notices: BTreeSet::new(),
            message3: done.message3.map(|bytes| Message3 { bytes, answers }),
        };
        session.plan_successor(ctx);
        if succeeds {
            return self.succeed(ctx, session);
        }
        ctx.event(MemberEvent::Connected);
        if self.contacted.insert(self.settings.key_servers.place()) {
            let first = session.status(NotifyType::INITIAL_CONTACT, &[], ctx.rng);
            first.into_iter().for_each(|n| ctx.send(self.transmit(n)));
        }
        match self.goal {
            Goal::Register => self.register_next(ctx, session, false),
            Goal::Connect => {
                self.settings.key_servers.worked();
                self.groups.iter_mut().for_each(|m| m.wake = None);
                self.phase = Phase::Resting(Some(Box::new(session)));
            }
            Goal::Leave => self.say_goodbye(ctx, &session),
        }
    }

    /// Message 2 of aggressive mode comes again: message 3 was lost, as long as nothing shows that it was not.
    fn phase1_again(&mut self, ctx: &mut MemberCtx<'_>, dgram: &Datagram<'_>) -> Result<(), Reject> {
        let session = match &mut self.phase {
            Phase::Registering(r) => &mut r.session,
            Phase::Resting(Some(session)) => session,
            Phase::Idle | Phase::Connecting(..) | Phase::Resting(None) => return Err(Reject::Replayed),
        };
        let answers = Hash::Sha256.digest(&[dgram.bytes]);
        let message3 = session.message3.as_ref().filter(|m| m.answers == answers).ok_or(Reject::Replayed)?;
        let bytes = message3.bytes.clone();
        ctx.send(self.transmit(bytes));
        Ok(())
    }

    /// Registers for the first group whose time has come; rests if there is none.
    fn register_next(&mut self, ctx: &mut MemberCtx<'_>, session: Session, stale: bool) {
        match self.groups.iter().position(|m| m.is_due(ctx.now.mono)) {
            Some(at) => self.register(ctx, session, at, 0, stale),
            None => self.phase = Phase::Resting(Some(Box::new(session))),
        }
    }

    fn register(&mut self, ctx: &mut MemberCtx<'_>, session: Session, at: usize, restarts: u8, stale: bool) {
        let Ok(pull) = Pull::start(&session.sa, &self.groups[at].id, ctx.rng) else {
            let event = MemberEvent::Refused("the group's identity is too long".into());
            return self.failed(ctx, Some(session), Some(at), event);
        };
        ctx.send(self.transmit(pull.message().to_vec()));
        let repeats = Repeats::start(&self.settings, ctx.now.mono, ctx.rng);
        self.phase = Phase::Registering(Box::new(Registering { session, at, pull, repeats, restarts, stale }));
    }

    pub(super) fn pull(&mut self, ctx: &mut MemberCtx<'_>, header: &Header, body: &[u8]) -> Result<(), Reject> {
        let taking = self.taking(true);
        let Phase::Registering(r) = &mut self.phase else { return Err(Reject::Replayed) };
        if header.spi_pair() != *r.session.sa.cookies() {
            return Err(Reject::Unauthenticated("no such exchange"));
        }
        let group = self.groups[r.at].group.as_ref();
        let last_seq = |spi: &[u8; 16]| group.and_then(|g| g.last_seq(spi));
        let step = r.pull.verify(&r.session.sa, header, body, taking, &last_seq)?;
        r.session.message3 = None;
        match step {
            Ok(Step::Policy(policy)) => {
                let confirmed = r.pull.confirm(&r.session.sa, *policy, self.settings.sender_ids);
                if confirmed.is_err() {
                    self.unacceptable(ctx, "message 3 cannot be made");
                    return Ok(());
                }
                r.stale = false;
                r.repeats = Repeats::start(&self.settings, ctx.now.mono, ctx.rng);
                let message = r.pull.message().to_vec();
                ctx.send(self.transmit(message));
            }
            Ok(Step::Keys(registration)) => self.registered(ctx, *registration),
            Err(reject) => self.unacceptable(ctx, &reject.to_string()),
        }
        Ok(())
    }

    fn registered(&mut self, ctx: &mut MemberCtx<'_>, mut registration: Registration) {
        let Phase::Registering(r) = &self.phase else { return };
        let at = r.at;
        // Pushes are told apart by the SPI of their KEK alone.
        let spi = registration.rekey.as_ref().map(|rekey| rekey.policy.spi);
        let is_known = |m: &Membership| m.group.as_ref().zip(spi).is_some_and(|(g, spi)| g.knows(&spi));
        if self.groups.iter().enumerate().any(|(other, m)| other != at && is_known(m)) {
            return self.unacceptable(ctx, "the KEK of another group");
        }
        let Phase::Registering(r) = std::mem::replace(&mut self.phase, Phase::Idle) else { return };
        let (kept, membership) = (ctx.out.len(), &mut self.groups[at]);
        let had_streams = membership.group.as_ref().is_some_and(Group::has_streams);
        let (group, overtaken) = Group::register(&mut registration, membership.group.take(), ctx.now);
        if let Some(destination) = group.destination() {
            ctx.out.push(MemberOutput::Listen(destination));
        }
        membership.group = Some(group);
        membership.registrations += 1;
        tracing::info!(group = %membership.id, "registered");
        self.log_kek(at);
        // Beside what a newer push has brought, the rest is good for as long as it is used.
        let remove = if overtaken { Removal::Spis(Vec::new()) } else { Removal::All };
        let none_told = registration.streams.is_empty() && registration.data.is_empty();
        if had_streams || !registration.streams.is_empty() || none_told {
            ctx.out.push(MemberOutput::Streams(StreamUpdate {
                install: registration.streams,
                remove: remove.clone(),
                deactivation_delay: registration.deactivation_delay,
                sender_ids: registration.sender_ids.clone(),
            }));
        }
        ctx.out.push(MemberOutput::Update(GroupUpdate {
            install: registration.data,
            remove,
            sender_ids: registration.sender_ids,
            activation_delay: registration.activation_delay,
            deactivation_delay: registration.deactivation_delay,
        }));
        self.settings.key_servers.worked();
        self.status.registrations += 1;
        ctx.event(MemberEvent::Registered);
        about(ctx, kept, at);
        self.plan_renewal(ctx, at);
        self.register_next(ctx, r.session, false);
    }

    /// Is a group being registered for, or phase 1 begun to do so?
    pub(super) fn is_under_way(&self, mono: Duration, at: usize) -> bool {
        match &self.phase {
            Phase::Registering(r) => r.at == at,
            Phase::Connecting(..) => self.groups[at].is_due(mono),
            Phase::Idle | Phase::Resting(_) => false,
        }
    }

    /// Sets the time to register anew: before what we have runs out, spread so that not all members come at once, and not at
    /// once again if it has run out already. Key servers replace a KEK 200 s before it ends, or earlier, and send that more
    /// than once: only who has got none of it asks.
    pub(super) fn plan_renewal(&mut self, ctx: &mut MemberCtx<'_>, at: usize) {
        // A registration plans the next itself.
        if self.is_under_way(ctx.now.mono, at) {
            return;
        }
        if self.groups[at].group.as_ref().is_some_and(Group::awaits_keys) {
            self.groups[at].wake = Some(ctx.now.mono + AWAIT_KEYS + below(AWAIT_KEYS, ctx.rng));
            return;
        }
        let runs_out = self.groups[at].group.as_ref().and_then(|g| g.runs_out(ctx.now));
        self.groups[at].wake = runs_out.map(|(at, lifetime)| {
            let span = (lifetime / 20).min(RENEWAL_SPAN).max(self.settings.retransmit * 4).min(lifetime / 3);
            let pause = self.settings.retry.min(lifetime / 3);
            at.saturating_sub(span + below(span, ctx.rng)).max(ctx.now.mono + pause)
        });
    }

    /// The key server's policy is not acceptable: phase 1 is torn down with a Delete (RFC 6407 section 3.3).
    fn unacceptable(&mut self, ctx: &mut MemberCtx<'_>, why: &str) {
        let mut at = None;
        if let Phase::Registering(r) = &self.phase {
            at = Some(r.at);
            let delete = r.session.sa.notice(r.session.sa.delete(), ctx.rng);
            delete.into_iter().for_each(|d| ctx.send(self.transmit(d)));
        }
        self.failed(ctx, None, at, MemberEvent::Refused(why.to_owned()));
    }

    /// Rests, and tries again later, with the next key server if there are several. Of several groups one may have failed
    /// alone: then the others are gone on with.
    pub(super) fn failed(
        &mut self,
        ctx: &mut MemberCtx<'_>,
        session: Option<Session>,
        alone: Option<usize>,
        event: MemberEvent,
    ) {
        if self.goal == Goal::Leave {
            return self.gone(ctx);
        }
        tracing::info!(gateway = %self.settings.gateway(), ?event, "registration failed");
        let kept = ctx.out.len();
        ctx.event(event);
        if let Some(at) = alone.filter(|_| self.groups.len() > 1) {
            about(ctx, kept, at);
            self.groups[at].wake = Some(self.retry_at(ctx));
            match session {
                Some(session) => self.register_next(ctx, session, false),
                None => self.phase = Phase::Resting(None),
            }
            return;
        }
        let session = session.and_then(|session| {
            if !self.settings.key_servers.has_others() {
                return Some(Box::new(session));
            }
            let delete = session.sa.notice(session.sa.delete(), ctx.rng);
            delete.into_iter().for_each(|d| ctx.send(self.transmit(d)));
            None
        });
        let wake = self.failover_at(ctx);
        self.phase = Phase::Resting(session);
        if self.groups.iter().any(|m| m.is_due(ctx.now.mono)) {
            self.put_off(ctx.now.mono, wake);
        } else {
            self.wake_all(wake);
        }
    }

    pub(super) fn notice(&mut self, ctx: &mut MemberCtx<'_>, header: &Header, body: &[u8]) -> Result<(), Reject> {
        if let Some((initiator, _)) = self.successor.as_mut().filter(|(i, _)| header.spi_i == *i.cookie()) {
            if initiator.notice(header, body)?.is_some() {
                self.successor_failed(ctx);
            }
            return Ok(());
        }
        let session = match &mut self.phase {
            Phase::Connecting(initiator, _) => {
                if header.spi_i != *initiator.cookie() {
                    return Err(Reject::Unauthenticated("no such exchange"));
                }
                if let Some(why) = initiator.notice(header, body)? {
                    self.failed(ctx, None, None, MemberEvent::Refused(why.name().to_owned()));
                }
                return Ok(());
            }
            Phase::Registering(r) => &mut r.session,
            Phase::Resting(Some(session)) => session,
            Phase::Idle | Phase::Resting(None) => return Err(Reject::Unauthenticated("no such SA")),
        };
        if header.spi_pair() != *session.sa.cookies() {
            return Err(Reject::Unauthenticated("no such SA"));
        }
        let notice = Notice::open(&session.sa, header, body)?;
        session.replayed(header, &notice)?;
        let answer = session.asked(ctx, &notice)?;
        // Never longer than what we have agreed to.
        let lifetime = notice.lifetime.map(|l| ctx.now.mono.saturating_add(l));
        if let Some(at) = lifetime.filter(|at| *at < session.expires) {
            session.expires = at;
            session.plan_successor(ctx);
        }
        let closes = notice.phase1.contains(session.sa.cookies());
        answer.into_iter().for_each(|a| ctx.send(self.transmit(a)));
        if closes {
            self.closed(ctx);
        } else if let Some(error) = notice.error {
            self.refused(ctx, error);
        }
        Ok(())
    }

    /// The key server refuses something. INVALID-SPI in a registration says that keys changed in the middle of it.
    fn refused(&mut self, ctx: &mut MemberCtx<'_>, error: NotifyType) {
        match std::mem::replace(&mut self.phase, Phase::Idle) {
            Phase::Registering(r) if error == NotifyType::INVALID_SPI && r.restarts < MAX_RESTARTS => {
                self.register(ctx, r.session, r.at, r.restarts + 1, false);
            }
            Phase::Registering(r) => {
                self.failed(ctx, Some(r.session), Some(r.at), MemberEvent::Refused(error.name().to_owned()));
            }
            other @ (Phase::Idle | Phase::Connecting(..) | Phase::Resting(_)) => self.phase = other,
        }
    }

    /// The key server closed phase 1; the group's keys stay.
    fn closed(&mut self, ctx: &mut MemberCtx<'_>) {
        ctx.event(MemberEvent::Disconnected);
        match self.phase {
            Phase::Resting(_) if self.options.keep => {
                let again = self.retry_at(ctx);
                self.wake_all(again);
            }
            Phase::Registering(_) => {
                let again = self.retry_at(ctx);
                self.put_off(ctx.now.mono, again);
            }
            Phase::Resting(_) | Phase::Connecting(..) | Phase::Idle => {}
        }
        self.phase = Phase::Resting(None);
    }

    /// Takes the messages of phase 1 that there was no time for before.
    fn resume_phase1(&mut self, ctx: &mut MemberCtx<'_>) {
        let initiator = match (&mut self.phase, &mut self.successor) {
            (Phase::Connecting(initiator, _), _) | (_, Some((initiator, _))) => initiator,
            (Phase::Idle | Phase::Registering(_) | Phase::Resting(_), None) => return,
        };
        for Postponed { from, to, via, bytes, .. } in initiator.resume(ctx.now.mono) {
            self.receive(ctx, Datagram { from, to, via, bytes: &bytes });
        }
    }

    pub(super) fn expire_session(&mut self, ctx: &mut MemberCtx<'_>) {
        self.resume_phase1(ctx);
        self.expire_kept(ctx);
        let mono = ctx.now.mono;
        let tries = self.settings.tries;
        match &mut self.phase {
            Phase::Idle => {}
            Phase::Connecting(initiator, repeats) => {
                let mut messages = initiator.release(mono, ctx.rng);
                if repeats.at <= mono {
                    if repeats.sent >= tries {
                        let hint = initiator.hint().map(|n| MemberEvent::Refused(n.name().to_owned()));
                        return self.failed(ctx, None, None, hint.unwrap_or(MemberEvent::Unanswered));
                    }
                    repeats.next(mono, ctx.rng);
                    messages.extend(initiator.messages(repeats.sent));
                }
                messages.into_iter().for_each(|m| ctx.send(self.transmit(m)));
            }
            Phase::Registering(r) if r.repeats.at <= mono => {
                let tries = if r.stale { tries.min(STALE_TRIES) } else { tries };
                if r.repeats.sent < tries {
                    r.repeats.next(mono, ctx.rng);
                    let message3 = r.session.message3.as_ref().map(|m| m.bytes.clone());
                    let message = r.pull.message().to_vec();
                    message3.into_iter().chain([message]).for_each(|m| ctx.send(self.transmit(m)));
                } else if r.stale {
                    tracing::debug!("phase 1 seems to be gone on the other side");
                    self.phase = Phase::Idle;
                    self.connect(ctx);
                } else {
                    self.failed(ctx, None, None, MemberEvent::Unanswered);
                }
            }
            Phase::Registering(_) => {}
            Phase::Resting(_) => {
                if self.groups.iter().any(|m| m.is_due(mono)) {
                    self.pursue(ctx);
                }
            }
        }
    }

    /// Closes phase 1 and stays in the group: for a member that ends, or goes on by another protocol. Acknowledgements
    /// that wait for their time go at once.
    pub fn disconnect(&mut self, ctx: &mut MemberCtx<'_>) {
        self.send_acks_until(ctx, Duration::MAX);
        self.successor = None;
        let session = match std::mem::replace(&mut self.phase, Phase::Idle) {
            Phase::Resting(session) => session.map(|s| *s),
            Phase::Registering(r) => Some(r.session),
            Phase::Idle | Phase::Connecting(..) => None,
        };
        let delete = session.and_then(|s| s.sa.notice(s.sa.delete(), ctx.rng).ok());
        delete.into_iter().for_each(|d| ctx.send(self.transmit(d)));
    }

    /// Tells the key server that we delete our rekey SAs, and phase 1.
    fn say_goodbye(&mut self, ctx: &mut MemberCtx<'_>, session: &Session) {
        let mut payloads = session.sa.delete();
        for (spi, _) in self.groups.iter().filter_map(|m| m.group.as_ref().and_then(Group::newest)) {
            payloads = payloads.behind(payload::DELETE, &Delete::new(Doi::GDOI, protocol::KEK, 16, spi));
        }
        let goodbye = session.sa.notice(payloads, ctx.rng);
        goodbye.into_iter().for_each(|d| ctx.send(self.transmit(d)));
        self.gone(ctx);
    }

    fn gone(&mut self, ctx: &mut MemberCtx<'_>) {
        self.phase = Phase::Idle;
        self.groups.iter_mut().for_each(|m| (m.group, m.wake) = (None, None));
        tracing::info!(group = %self.settings.group, "left");
        ctx.event(MemberEvent::Left);
    }
}
