//! An IKE SA in use, responder's side (RFC 7296 sections 1.4 and 2.4; RFC 9838 section 2.3.2).

use std::time::Duration;

use keyferry_model::drive::{Ctx, Datagram};
use keyferry_model::id::Identity;
use keyferry_wire::{ChainWriter, Encode, Header};

use super::{Entry, Path, Server, ServerConfig, Spi, State};
use crate::ike_sa::sa::{Direction, IkeSa};
use crate::ike_sa::window::{Answers, Due, Incoming, Repeating, Requests};
use crate::registration::serve::{Asking, answer};
use crate::reject::Reject;
use crate::wire::delete::Delete;
use crate::wire::message::{Payloads, Registration};
use crate::wire::notify::Notify;
use crate::wire::registry::{ExchangeType, NotifyType, PayloadKind, ProtocolId, flags};
use crate::wire::rules;
use crate::wire::sk::{Opened, SealError};

/// An IKE SA with an authenticated peer.
pub(super) struct Established {
    pub(super) sa: IkeSa,
    pub(super) identity: Identity,
    answers: Answers,
    requests: Requests,
    /// Our pending request deletes the SA.
    deleting: bool,
    /// When the peer last sent something that verified.
    heard: Duration,
    /// When it last asked for something.
    active: Duration,
}

/// What a request asks for, once it is understood.
enum Asked<'m> {
    /// Nothing but an answer: liveness, or a notify we have no use for.
    Nothing,
    /// The end of the SA.
    Delete,
    /// A Child SA or new keys for the IKE SA.
    ChildSa,
    /// A group.
    Group(Registration<'m>),
}

impl Established {
    pub(super) fn new(sa: IkeSa, identity: Identity, request: &[u8], response: Vec<u8>, now: Duration) -> Self {
        let mut answers = Answers::starting_at(1);
        answers.answered(request, response);
        Self { sa, identity, answers, requests: Requests::starting_at(0), deleting: false, heard: now, active: now }
    }

    /// When something is due: a repeat of our request, a liveness check, or the end of patience.
    pub(super) fn due(&self, config: &ServerConfig) -> Duration {
        match &self.requests.pending {
            Some((_, message)) => message.due_at(),
            None => {
                let idle = self.active + config.idle;
                config.liveness.map_or(idle, |after| idle.min(self.heard + after))
            }
        }
    }

    fn understand<'m>(exchange: ExchangeType, opened: &'m Opened) -> Result<Asked<'m>, Reject> {
        let (first, inner) = (opened.first, opened.inner.expose());
        match exchange {
            ExchangeType::INFORMATIONAL => {
                let payloads = Payloads::parse(first, inner, rules::INFORMATIONAL)?;
                let deletes: Vec<Delete<'_>> = payloads.all(PayloadKind::DELETE)?;
                let ends = deletes.iter().any(|d| d.protocol == ProtocolId::IKE);
                Ok(if ends { Asked::Delete } else { Asked::Nothing })
            }
            ExchangeType::CREATE_CHILD_SA => {
                Payloads::parse(first, inner, &[])?;
                Ok(Asked::ChildSa)
            }
            ExchangeType::GSA_REGISTRATION => Registration::request(first, inner).map(Asked::Group),
            _ => Err(Reject::Misbehaved("an exchange that has no place here")),
        }
    }
}

impl Server {
    pub(super) fn established_message(&mut self, ctx: &mut Ctx<'_>, dgram: &Datagram<'_>, header: &Header) {
        if header.flags & flags::RESPONSE == 0 {
            self.established_request(ctx, dgram, header);
        } else {
            self.established_response(ctx, dgram, header);
        }
    }

    fn established_request(&mut self, ctx: &mut Ctx<'_>, dgram: &Datagram<'_>, header: &Header) {
        let spi = header.spi_r;
        let Some(State::Established(state)) = self.sas.get(&spi).map(|e| &e.state) else { return };
        match state.answers.classify(header.message_id, dgram.bytes) {
            Incoming::New => {}
            Incoming::Repeat(response) => {
                self.counters.repeated += 1;
                return ctx.out.send(dgram.reply(response.to_vec()));
            }
            Incoming::Stale => {
                self.counters.unexpected += 1;
                return;
            }
        }
        let opened = match state.sa.open(dgram.bytes) {
            Ok(opened) => opened,
            Err(reject) => return self.drop_unauthenticated(dgram, &reject),
        };
        let exchange = ExchangeType(header.exchange);
        match Established::understand(exchange, &opened) {
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
        let Some(State::Established(state)) = self.sas.get_mut(&spi).map(|e| &mut e.state) else { return };
        let mut chain = ChainWriter::new();
        let (mut ends, mut outcome) = (false, None);
        match asked {
            Asked::Nothing => {}
            Asked::Delete => ends = true,
            Asked::ChildSa => {
                chain.push(PayloadKind::NOTIFY.0, &Notify::bare(NotifyType::NO_ADDITIONAL_SAS).to_vec());
            }
            Asked::Group(registration) => {
                let default = state.sa.key_wrap().map(|(_, key)| key);
                let asking = Asking { identity: &state.identity, address: dgram.from, default };
                outcome = Some(answer(ctx, asking, &registration, &mut chain));
            }
        }
        let response = state.sa.seal(exchange, Direction::Response, message_id, chain, ctx.rng);
        if let Some(outcome) = &outcome {
            self.count(outcome);
        }
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
        let Some(State::Established(state)) = self.sas.get_mut(&spi).map(|e| &mut e.state) else { return };
        tracing::debug!(member = %state.identity, %reject, "request refused");
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
                tracing::error!(member = %state.identity, %error, "answer could not be sealed");
                return self.remove(ctx.out, spi);
            }
        };
        if ends {
            tracing::info!(member = %state.identity, "IKE SA deleted by the peer");
            self.counters.deleted += 1;
            return self.close(ctx, spi, dgram, response);
        }
        state.answers.answered(dgram.bytes, response.clone());
        // The newest request says where its sender is reached (RFC 7296 section 2.23). It verified, and is no repeat.
        *path = Path::of(dgram);
        (state.heard, state.active) = (ctx.now.mono, ctx.now.mono);
        let due = state.due(&self.config);
        ctx.out.send(dgram.reply(response));
        self.arm(spi, due);
    }

    fn established_response(&mut self, ctx: &mut Ctx<'_>, dgram: &Datagram<'_>, header: &Header) {
        let spi = header.spi_r;
        let Some(State::Established(state)) = self.sas.get_mut(&spi).map(|e| &mut e.state) else { return };
        if !state.requests.awaits(header.message_id) {
            self.counters.unexpected += 1;
            return;
        }
        if let Err(reject) = state.sa.open(dgram.bytes) {
            return self.drop_unauthenticated(dgram, &reject);
        }
        state.requests.answered();
        state.heard = ctx.now.mono;
        if state.deleting {
            self.counters.deleted += 1;
            tracing::info!(member = %state.identity, "IKE SA deleted");
            return self.remove(ctx.out, spi);
        }
        let due = state.due(&self.config);
        self.arm(spi, due);
    }

    /// Repeats what is unanswered, asks a silent peer whether it lives, deletes an idle SA.
    pub(super) fn established_due(&mut self, ctx: &mut Ctx<'_>, spi: Spi) {
        let now = ctx.now.mono;
        let Some(Entry { path, state: State::Established(state), .. }) = self.sas.get_mut(&spi) else { return };
        let path = *path;
        if let Some((_, message)) = &mut state.requests.pending {
            match message.expire(now, ctx.rng) {
                Due::Wait => {}
                Due::Repeat => ctx.out.send(path.transmit(message.bytes.clone())),
                Due::GiveUp => {
                    self.counters.dead_peers += 1;
                    tracing::info!(member = %state.identity, peer = %path.peer, "peer does not answer: IKE SA dropped");
                    return self.remove(ctx.out, spi);
                }
            }
        } else {
            let idle = now >= state.active + self.config.idle;
            match state.request(idle, &self.config, ctx) {
                Ok(bytes) => ctx.out.send(path.transmit(bytes)),
                Err(_) => return self.remove(ctx.out, spi),
            }
        }
        let due = state.due(&self.config);
        self.arm(spi, due);
    }
}

impl Established {
    /// An INFORMATIONAL request: a Delete, or nothing but the question.
    fn request(&mut self, delete: bool, config: &ServerConfig, ctx: &mut Ctx<'_>) -> Result<Vec<u8>, SealError> {
        let id = self.requests.next_id().ok_or(SealError::TooLong)?;
        let mut chain = ChainWriter::new();
        if delete {
            chain.push(PayloadKind::DELETE.0, &Delete::ike().to_vec());
        }
        let bytes = self.sa.seal(ExchangeType::INFORMATIONAL, Direction::Request, id, chain, ctx.rng)?;
        self.requests.sent(Repeating::new(bytes.clone(), config.backoff, ctx.now.mono, ctx.rng));
        self.deleting = delete;
        Ok(bytes)
    }
}
