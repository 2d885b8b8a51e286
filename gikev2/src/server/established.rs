//! An IKE SA in use, key server's side (RFC 7296 sections 1.4 and 2.4; RFC 9838 section 2.3.2).

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use keyferry_crypto::Secret;
use keyferry_crypto::x509::Certificate;
use keyferry_model::admission::Issued;
use keyferry_model::credentials::Credentials;
use keyferry_model::drive::{Ctx, Datagram};
use keyferry_model::holder::Holder;
use keyferry_model::id::{Identity, Protocol};
use keyferry_model::settings::Ike2Settings;
use keyferry_wire::{ChainWriter, Encode, Header};

use super::in_band::LineId;
use super::redirect::Leaving;
use super::rekeying::Rekeying;
use super::resume::{Granted, Origin};
use super::{Entry, Path, Server, ServerConfig, Spi, State};
use crate::ike_sa::Preferences;
use crate::ike_sa::rekey::no_child;
use crate::ike_sa::sa::{Direction, IkeSa};
use crate::ike_sa::window::{Answers, Due, Incoming, Repeating, Requests};
use crate::registration::serve::{Asking, answer};
use crate::reject::Reject;
use crate::wire::delete::Delete;
use crate::wire::message::{ChildRequest, Init, Payloads, Registration};
use crate::wire::notify::Notify;
use crate::wire::registry::{ExchangeType, NotifyType, PayloadKind, ProtocolId, flags};
use crate::wire::rules;
use crate::wire::sk::{Opened, SealError};

/// A peer that has proved itself.
#[derive(Clone, Debug)]
pub(super) struct Who {
    pub(super) identity: Identity,
    pub(super) by: By,
    /// When that is good no more.
    pub(super) ends: Option<Duration>,
}

/// How a peer has proved itself.
#[derive(Clone, Debug)]
pub(super) enum By {
    Psk(Arc<Secret>),
    Certificate(Certificate, Arc<Holder>),
}

impl Who {
    /// Who holds the certificate, if there was one.
    pub(super) fn holder(&self) -> Option<&Holder> {
        match &self.by {
            By::Psk(_) => None,
            By::Certificate(_, holder) => Some(holder),
        }
    }

    /// Do other credentials still stand behind it, at this address? What cannot be told without public-key work is asked
    /// anew: where an anchor is gone, everybody that has a certificate.
    fn is_backed(&self, from: IpAddr, former: &Credentials, new: &Credentials) -> bool {
        match &self.by {
            By::Psk(psk) => new.ikev2_psk(&self.identity).is_some_and(|(own, _)| own.ct_eq(psk.expose())),
            By::Certificate(certificate, _) => {
                let anchors = |c: &'_ Credentials| c.trust().map_or(Vec::new(), |t| t.store.anchors().to_vec());
                let kept = anchors(new);
                anchors(former).iter().all(|anchor| kept.contains(anchor))
                    && !new.trust().is_some_and(|trust| trust.store.is_listed(certificate, &trust.ocsp))
                    && new.ikev2_certificate(from, &self.identity, certificate).is_some()
            }
        }
    }
}

/// An IKE SA with an authenticated peer.
pub(super) struct Established {
    pub(super) sa: IkeSa,
    pub(super) who: Who,
    pub(super) answers: Answers,
    /// The last request that was answered with keys, by its message ID, and what was told.
    pub(super) issued: Option<(u32, Issued)>,
    pub(super) requests: Requests,
    /// The request that may say that we have not proved ourselves: the one after AUTH (RFC 7296 section 2.21.2).
    verdict: Option<u32>,
    /// What our pending request is for.
    pub(super) purpose: Purpose,
    /// When the peer last sent something that verified.
    pub(super) heard: Duration,
    /// When it last asked for something.
    pub(super) active: Duration,
    pub(super) rekeying: Rekeying,
    /// The line of SAs that it belongs to.
    pub(super) line: LineId,
    /// It is not closed for being idle.
    pub(super) kept: bool,
    /// Whether the peer goes to another gateway.
    pub(super) leaving: Leaving,
    /// What tickets say of how it was made.
    pub(super) origin: Origin,
    /// The ticket that the peer has for it.
    pub(super) ticket: Option<Granted>,
}

/// An SA that is kept is of use as long as the peer lives: one that is silent for so long is asked.
const KEPT_LIVENESS: Duration = Duration::from_secs(60);

/// What an initiator may say of our AUTH, and what then ends the IKE SA without a Delete (RFC 7296 section 2.21.2).
const FATAL: [NotifyType; 3] =
    [NotifyType::AUTHENTICATION_FAILED, NotifyType::INVALID_SYNTAX, NotifyType::UNSUPPORTED_CRITICAL_PAYLOAD];

/// What a request of ours is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// Is anybody there?
    Liveness,
    /// The end of the SA.
    Delete,
    /// New keys for the SA.
    Rekey,
    /// Another key exchange for these.
    FollowUp,
    /// A rekey of a group.
    InBand,
    /// Another gateway is to serve the peer.
    Redirect,
}

/// What a request asks for, once it is understood.
enum Asked<'m> {
    /// Nothing but an answer: liveness, or a notify we have no use for.
    Nothing,
    /// The end of the SA.
    Delete,
    /// A ticket.
    Ticket,
    /// New keys for the IKE SA.
    Rekey(Init<'m>),
    /// Another key exchange for these.
    FollowUp(Payloads<'m>),
    /// Something that is not to be had here, and this says so.
    Refused(Notify<'m>),
    /// A group.
    Group(Registration<'m>),
}

impl Established {
    /// `answers` are those of the exchanges that made the SA.
    pub(super) fn new(sa: IkeSa, who: Who, answers: Answers, rekeying: Rekeying, now: Duration) -> Self {
        Self { verdict: Some(answers.expected()), answers, ..Self::fresh(sa, who, rekeying, now) }
    }

    /// Over an SA that replaces another, both ends begin with message ID 0 (RFC 7296 section 2.18).
    pub(super) fn fresh(sa: IkeSa, who: Who, rekeying: Rekeying, now: Duration) -> Self {
        let (answers, requests) = (Answers::starting_at(0), Requests::starting_at(0));
        Self {
            sa,
            who,
            answers,
            issued: None,
            requests,
            verdict: None,
            purpose: Purpose::Liveness,
            heard: now,
            active: now,
            rekeying,
            line: 0,
            kept: false,
            leaving: Leaving::default(),
            origin: Origin::default(),
            ticket: None,
        }
    }

    /// When something is due: a repeat of our request, a liveness check, new keys, or the end of patience.
    pub(super) fn due(&self, config: &ServerConfig) -> Duration {
        let patience = self.rekeying.patience();
        if let Some((_, message)) = &self.requests.pending {
            return message.due_at().min(patience);
        }
        if let Some(doomed) = self.rekeying.doomed {
            return doomed;
        }
        let over = self.over(config).min(self.rekeying.due_at()).min(patience);
        let over = self.leaving.tell_at.map_or(over, |at| over.min(at));
        self.liveness(config).map_or(over, |after| over.min(self.heard + after))
    }

    /// Is it about to be deleted?
    pub(super) fn is_closing(&self) -> bool {
        self.rekeying.doomed.is_some() || self.purpose == Purpose::Delete && !self.requests.is_idle()
    }

    /// When the peer is to begin anew: it asks for nothing any more, or is not known to be who it was.
    fn over(&self, config: &ServerConfig) -> Duration {
        let idle = if self.kept { Duration::MAX } else { self.active + config.idle };
        [self.who.ends, self.leaving.until].into_iter().flatten().fold(idle, Duration::min)
    }

    /// After which silence the peer is asked whether it lives.
    fn liveness(&self, config: &ServerConfig) -> Option<Duration> {
        config.ike.liveness.or(self.kept.then_some(KEPT_LIVENESS))
    }

    fn understand<'m>(&self, exchange: ExchangeType, opened: &'m Opened) -> Result<Asked<'m>, Reject> {
        let (first, inner) = (opened.first, opened.inner.expose());
        match exchange {
            ExchangeType::INFORMATIONAL => {
                let payloads = Payloads::parse(first, inner, rules::INFORMATIONAL)?;
                let deletes: Vec<Delete<'_>> = payloads.all(PayloadKind::DELETE)?;
                let failed = self.verdict == Some(opened.header.message_id)
                    && FATAL.iter().any(|kind| payloads.notify(*kind).is_some());
                let ends = failed || deletes.iter().any(|d| d.protocol == ProtocolId::IKE);
                let ticket = payloads.notify(NotifyType::TICKET_REQUEST).is_some();
                Ok(match (ends, ticket) {
                    (true, _) => Asked::Delete,
                    (false, true) => Asked::Ticket,
                    (false, false) => Asked::Nothing,
                })
            }
            ExchangeType::CREATE_CHILD_SA => Ok(match ChildRequest::of(first, inner)? {
                ChildRequest::Rekey(init) => Asked::Rekey(init),
                ChildRequest::Child(replaced) => Asked::Refused(no_child(replaced)),
            }),
            ExchangeType::IKE_FOLLOWUP_KE => Payloads::parse(first, inner, rules::FOLLOWUP_KE).map(Asked::FollowUp),
            ExchangeType::GSA_REGISTRATION => Registration::request(first, inner).map(Asked::Group),
            _ => Err(Reject::Misbehaved("an exchange that has no place here")),
        }
    }
}

impl Server {
    /// Goes by other credentials from now on. Peers that these do not stand behind any more have their IKE SA deleted, and may
    /// prove themselves anew.
    pub fn set_credentials(&mut self, credentials: Arc<Credentials>) {
        let former = std::mem::replace(&mut self.config.credentials, credentials);
        let new = &self.config.credentials;
        for (spi, entry) in &mut self.sas {
            if let State::Established(state) = &mut entry.state
                && !state.who.is_backed(entry.path.peer.ip(), &former, new)
            {
                tracing::info!(member = %state.who.identity, "credentials withdrawn: its IKE SA ends");
                state.who.ends = Some(Duration::ZERO);
                self.timers.arm(*spi, Duration::ZERO);
            }
        }
    }

    /// Goes by other algorithms and postquantum preshared keys from now on. IKE SAs that stand are not touched: what is asked over
    /// them, new keys too, goes by the new ones.
    pub fn set_ike2(&mut self, settings: &Ike2Settings) {
        self.config.preferences = Preferences::configured(settings);
        self.config.ppks.clone_from(&settings.ppks);
    }

    pub(super) fn established_message(&mut self, ctx: &mut Ctx<'_>, dgram: &Datagram<'_>, header: &Header, spi: Spi) {
        if header.flags & flags::RESPONSE == 0 {
            self.established_request(ctx, dgram, header, spi);
        } else {
            self.established_response(ctx, dgram, header, spi);
        }
    }

    fn established_request(&mut self, ctx: &mut Ctx<'_>, dgram: &Datagram<'_>, header: &Header, spi: Spi) {
        let Some(Entry { path, state: State::Established(state), .. }) = self.sas.get(&spi) else { return };
        match state.answers.classify(header.message_id, dgram.bytes) {
            Incoming::New => {}
            Incoming::Repeat(response) => {
                let (peer, response) = (path.peer, response.to_vec());
                if let Some((_, issued)) = state.issued.as_ref().filter(|(id, _)| *id == header.message_id)
                    && dgram.from == peer
                {
                    ctx.model.repeated(Protocol::Gikev2, issued);
                }
                return self.answer_again(ctx, dgram, peer, response);
            }
            Incoming::Stale => {
                self.counters.unexpected += 1;
                return;
            }
        }
        let exchange = ExchangeType(header.exchange);
        let opened = match state.sa.open(dgram.bytes) {
            Ok(opened) => opened,
            Err(reject @ Reject::Misbehaved(_)) => {
                return self.refuse_request(ctx, dgram, spi, exchange, header.message_id, &reject);
            }
            Err(reject) => return self.drop_unauthenticated(dgram, &reject),
        };
        match state.understand(exchange, &opened) {
            Ok(asked) => self.carry_out(ctx, dgram, spi, exchange, header.message_id, asked),
            Err(reject) => self.refuse_request(ctx, dgram, spi, exchange, header.message_id, &reject),
        }
    }

    fn carry_out(
        &mut self,
        ctx: &mut Ctx<'_>,
        dgram: &Datagram<'_>,
        spi: Spi,
        exchange: ExchangeType,
        message_id: u32,
        asked: Asked<'_>,
    ) {
        let mut chain = ChainWriter::new();
        let (mut ends, mut outcome) = (false, None);
        match asked {
            Asked::Nothing => {}
            Asked::Delete => ends = true,
            Asked::Ticket => {
                if let Some(notify) = self.grant_over(ctx, spi) {
                    chain.push(PayloadKind::NOTIFY.0, &notify.to_vec());
                }
            }
            Asked::Rekey(init) => match self.peer_rekeys(ctx, dgram, spi, message_id, &init) {
                Some(refusal) => chain.push(PayloadKind::NOTIFY.0, &refusal.to_vec()),
                // The answer comes when the key exchange is done.
                None => return,
            },
            Asked::FollowUp(payloads) => match self.peer_follows_up(ctx, dgram, spi, message_id, &payloads) {
                Some(refusal) => {
                    ends = refusal.kind == NotifyType::INVALID_SYNTAX;
                    chain.push(PayloadKind::NOTIFY.0, &refusal.to_vec());
                }
                None => return,
            },
            Asked::Refused(notify) => chain.push(PayloadKind::NOTIFY.0, &notify.to_vec()),
            Asked::Group(registration) => {
                let Some(State::Established(state)) = self.sas.get(&spi).map(|e| &e.state) else { return };
                let default = state.sa.key_wrap().map(|(_, key)| key);
                let asking = Asking {
                    identity: &state.who.identity,
                    holder: state.who.holder(),
                    address: dgram.from,
                    marked: Path::of(dgram).is_encapsulated(),
                    default,
                    early: state.sa.is_early(),
                    fragments: state.sa.limit().is_some(),
                    groups: self.lines.groups(state.line),
                };
                outcome = Some((state.line, answer(ctx, asking, &registration, &mut chain)));
            }
        }
        let issued = outcome.as_ref().and_then(|(_, outcome)| outcome.issued());
        if let Some((line, outcome)) = outcome {
            self.count(line, outcome);
        }
        let Some(state) = self.in_use(&spi) else { return };
        state.issued = issued.map(|issued| (message_id, issued));
        let response = state.sa.seal(exchange, Direction::Response, message_id, chain, ctx.rng);
        self.respond(ctx, dgram, spi, response, ends);
    }

    /// Refuses what breaks the protocol. INVALID_SYNTAX is the end of the SA on both sides (RFC 7296 section 2.21.3).
    fn refuse_request(
        &mut self,
        ctx: &mut Ctx<'_>,
        dgram: &Datagram<'_>,
        spi: Spi,
        exchange: ExchangeType,
        message_id: u32,
        reject: &Reject,
    ) {
        self.counters.malformed += 1;
        let Some(state) = self.in_use(&spi) else { return };
        tracing::debug!(member = %state.who.identity, %reject, "request refused");
        let notify = reject.notify().unwrap_or(Notify::bare(NotifyType::INVALID_SYNTAX));
        let ends = notify.kind == NotifyType::INVALID_SYNTAX;
        let mut chain = ChainWriter::new();
        chain.push(PayloadKind::NOTIFY.0, &notify.to_vec());
        let response = state.sa.seal(exchange, Direction::Response, message_id, chain, ctx.rng);
        self.respond(ctx, dgram, spi, response, ends);
    }

    fn respond(
        &mut self,
        ctx: &mut Ctx<'_>,
        dgram: &Datagram<'_>,
        spi: Spi,
        response: Result<Vec<u8>, SealError>,
        ends: bool,
    ) {
        let Some(Entry { path, state: State::Established(state), .. }) = self.sas.get_mut(&spi) else { return };
        let response = match response {
            Ok(response) => response,
            Err(error) => {
                tracing::error!(member = %state.who.identity, %error, "answer could not be sealed");
                return self.remove(ctx.out, spi);
            }
        };
        if ends {
            match state.rekeying.doomed {
                None => {
                    tracing::info!(member = %state.who.identity, "IKE SA deleted by the peer");
                    self.counters.deleted += 1;
                }
                Some(_) => tracing::debug!(member = %state.who.identity, "replaced IKE SA deleted by the peer"),
            }
            self.revoke(ctx, spi);
            return self.close(ctx, spi, dgram, response);
        }
        state.answers.answered(dgram.bytes, response.clone());
        // The newest request says where its sender is reached (RFC 7296 section 2.23). It verified, and is no repeat.
        if path.peer != dgram.from {
            ctx.model.reach(&state.who.identity, Protocol::Gikev2, dgram.from, Path::of(dgram).is_encapsulated());
            ctx.flush();
        }
        (state.heard, state.active) = (ctx.now.mono, ctx.now.mono);
        let due = state.due(&self.config);
        ctx.out.send(dgram.reply(response));
        self.follow(ctx, spi, Path::of(dgram));
        self.arm(spi, due);
    }

    fn established_response(&mut self, ctx: &mut Ctx<'_>, dgram: &Datagram<'_>, header: &Header, spi: Spi) {
        let Some(State::Established(state)) = self.sas.get_mut(&spi).map(|e| &mut e.state) else { return };
        if !state.requests.awaits(header.message_id) || header.exchange != state.purpose.exchange().0 {
            self.counters.unexpected += 1;
            return;
        }
        let opened = match state.sa.open(dgram.bytes) {
            Ok(opened) => opened,
            Err(reject) => return self.drop_unauthenticated(dgram, &reject),
        };
        state.requests.answered();
        state.heard = ctx.now.mono;
        let (line, purpose) = (state.line, state.purpose);
        if dgram.via.is_tcp() {
            self.follow(ctx, spi, Path::of(dgram));
        }
        let Some(State::Established(state)) = self.sas.get(&spi).map(|e| &e.state) else { return };
        match purpose {
            Purpose::Delete => {
                if state.rekeying.doomed.is_none() {
                    self.counters.deleted += 1;
                    tracing::info!(member = %state.who.identity, "IKE SA deleted");
                }
                return self.remove(ctx.out, spi);
            }
            Purpose::Rekey => self.rekey_answered(ctx, spi, &opened),
            Purpose::FollowUp => self.follow_up_answered(ctx, spi, &opened),
            Purpose::InBand => self.in_band_answered(ctx, line, &opened),
            Purpose::Redirect => self.sent_elsewhere(spi, ctx.now.mono),
            Purpose::Liveness => {}
        }
        let syntax = Payloads::parse(opened.first, opened.inner.expose(), &[])
            .is_ok_and(|p| p.notify(NotifyType::INVALID_SYNTAX).is_some());
        if syntax && let Some(state) = self.in_use(&spi) {
            // The peer has given this IKE SA up (RFC 7296 section 2.21.3).
            tracing::info!(member = %state.who.identity, "IKE SA given up by the peer");
            self.counters.deleted += 1;
            self.remove(ctx.out, spi);
        }
        self.follow_up(ctx, spi);
        self.feed(ctx, line);
        self.rearm(spi);
    }

    /// Repeats what is unanswered, asks a silent peer whether it lives, asks for new keys, deletes an SA that is idle or has
    /// run its time.
    pub(super) fn established_due(&mut self, ctx: &mut Ctx<'_>, spi: Spi) {
        let now = ctx.now.mono;
        self.forget_awaited(ctx, spi);
        let Some(Entry { path, state: State::Established(state), .. }) = self.sas.get_mut(&spi) else { return };
        let path = *path;
        if let Some((_, message)) = &mut state.requests.pending {
            match message.expire(now, ctx.rng) {
                Due::Wait => {}
                // What is lost in a connection is lost with it (RFC 9329 section 6.2).
                Due::Repeat if path.via.is_tcp() => {}
                Due::Repeat => ctx.out.send(path.transmit(message.bytes.clone())),
                Due::GiveUp => {
                    if state.rekeying.doomed.is_none() {
                        self.counters.dead_peers += 1;
                        tracing::info!(member = %state.who.identity, peer = %path.peer, "peer does not answer: IKE SA dropped");
                    }
                    return self.remove(ctx.out, spi);
                }
            }
            return self.rearm(spi);
        }
        let rekeying = &state.rekeying;
        let ends = match rekeying.doomed {
            Some(at) => now >= at,
            None => now >= state.over(&self.config) || rekeying.life.has_ended(now),
        };
        let goes = state.leaving.tell_at.is_some_and(|at| at <= now);
        let silent = state.liveness(&self.config).is_some_and(|after| now >= state.heard + after);
        let line = state.line;
        if ends {
            self.inform(ctx, spi, true);
        } else if rekeying.doomed.is_none() && goes {
            self.send_elsewhere(ctx, spi);
        } else if rekeying.doomed.is_none() && rekeying.life.wants_rekey(now) {
            self.begin_rekey(ctx, spi);
        } else if rekeying.doomed.is_none() && silent {
            self.inform(ctx, spi, false);
        }
        self.feed(ctx, line);
        self.rearm(spi);
    }

    /// An INFORMATIONAL request: a Delete, or nothing but the question.
    pub(super) fn inform(&mut self, ctx: &mut Ctx<'_>, spi: Spi, delete: bool) {
        let mut chain = ChainWriter::new();
        if delete {
            self.revoke(ctx, spi);
            chain.push(PayloadKind::DELETE.0, &Delete::ike().to_vec());
        }
        self.ask(ctx, spi, if delete { Purpose::Delete } else { Purpose::Liveness }, chain);
    }

    /// A request of ours. An SA over which none can be sent any more is dropped.
    pub(super) fn ask(&mut self, ctx: &mut Ctx<'_>, spi: Spi, purpose: Purpose, chain: ChainWriter) {
        let Some(Entry { path, state: State::Established(state), .. }) = self.sas.get_mut(&spi) else { return };
        let bytes = state.requests.next_id().ok_or(SealError::TooLong).and_then(|id| {
            let bytes = state.sa.seal(purpose.exchange(), Direction::Request, id, chain, ctx.rng)?;
            state.requests.sent(Repeating::new(bytes.clone(), self.config.backoff, ctx.now.mono, ctx.rng));
            state.purpose = purpose;
            Ok(bytes)
        });
        match bytes {
            Ok(bytes) => ctx.out.send(path.transmit(bytes)),
            Err(_) => self.remove(ctx.out, spi),
        }
    }

    /// An SA in use.
    pub(super) fn in_use(&mut self, spi: &Spi) -> Option<&mut Established> {
        match self.sas.get_mut(spi).map(|e| &mut e.state) {
            Some(State::Established(state)) => Some(state),
            Some(State::AwaitKe(_) | State::ExpectAuth(_) | State::AwaitProof(_) | State::Closed(_)) | None => None,
        }
    }

    /// Sets the timer of an SA in use.
    pub(super) fn rearm(&mut self, spi: Spi) {
        if let Some(State::Established(state)) = self.sas.get(&spi).map(|e| &e.state) {
            let due = state.due(&self.config);
            self.arm(spi, due);
        }
    }
}

impl Purpose {
    fn exchange(self) -> ExchangeType {
        match self {
            Purpose::Liveness | Purpose::Delete | Purpose::Redirect => ExchangeType::INFORMATIONAL,
            Purpose::Rekey => ExchangeType::CREATE_CHILD_SA,
            Purpose::FollowUp => ExchangeType::IKE_FOLLOWUP_KE,
            Purpose::InBand => ExchangeType::GSA_INBAND_REKEY,
        }
    }
}
