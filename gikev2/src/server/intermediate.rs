//! IKE_INTERMEDIATE, responder's side: additional key exchanges before the peer says who it is (RFC 9242; RFC 9370
//! section 2.2.2).
//!
//! Requests are protected by the keys there are, so they come from whoever sent IKE_SA_INIT. There are as many as were
//! negotiated, each is answered once, and the half-open SA gets no more time for them.

use std::borrow::Cow;
use std::collections::VecDeque;

use keyferry_crypto::{CryptoError, Job, KeGroup, Secret};
use keyferry_model::drive::{Ctx, Datagram};
use keyferry_wire::{ChainWriter, Encode, Header};

use super::auth::ExpectAuth;
use super::{Entry, Path, Server, Spi, State};
use crate::algorithms::ke_number;
use crate::ike_sa::init::header;
use crate::ike_sa::int_auth::{IntAuth, Plain};
use crate::ike_sa::sa::{Direction, IkeSa};
use crate::ike_sa::window::{Answers, Incoming};
use crate::ike_sa::{Role, Skeyseed, Suite};
use crate::keylog::KeyLog;
use crate::reject::Reject;
use crate::wire::ke::Ke;
use crate::wire::message::Payloads;
use crate::wire::notify::Notify;
use crate::wire::registry::{ExchangeType, NotifyType, PayloadKind, flags};
use crate::wire::rules;
use crate::wire::sk::{Opened, SealError};

/// What takes place between IKE_SA_INIT and AUTH.
pub(super) struct Intermediate {
    /// Key exchanges to come.
    more: VecDeque<KeGroup>,
    /// The request whose key exchange is being computed.
    pending: Option<Pending>,
    answers: Answers,
    int_auth: IntAuth,
}

struct Pending {
    path: Path,
    request: Vec<u8>,
    opened: Opened,
}

/// A request that cannot be answered as it wishes.
enum Refusal {
    /// It ends the SA.
    Fatal(Reject),
    /// It was meant for another response to IKE_SA_INIT than ours: a forged one, which the peer will find out.
    NotOurs,
}

#[derive(Debug, thiserror::Error)]
enum AnswerError {
    #[error(transparent)]
    Crypto(#[from] CryptoError),
    #[error(transparent)]
    Seal(#[from] SealError),
    #[error("the payloads do not fit into one message")]
    TooLong,
}

impl Pending {
    /// Octets that it keeps: as it came, and opened.
    fn octets(&self) -> usize {
        self.request.len() + self.opened.inner.len()
    }
}

impl Intermediate {
    /// Octets of the request that is being worked upon.
    pub(super) fn pending_octets(&self) -> usize {
        self.pending.as_ref().map_or(0, Pending::octets)
    }

    pub(super) fn new(suite: &Suite) -> Self {
        let more = suite.additional.into_iter().flatten().collect();
        Self { more, pending: None, answers: Answers::starting_at(1), int_auth: IntAuth::default() }
    }

    /// None, where IKE_SESSION_RESUME came in the place of IKE_SA_INIT.
    pub(super) fn none() -> Self {
        Self { more: VecDeque::new(), pending: None, answers: Answers::starting_at(1), int_auth: IntAuth::default() }
    }

    /// Have all taken place?
    pub(super) fn is_over(&self) -> bool {
        self.more.is_empty()
    }

    /// Message ID of the next request.
    pub(super) fn next_id(&self) -> u32 {
        self.answers.expected()
    }

    /// What AUTH covers of them.
    pub(super) fn octets(&self) -> Vec<u8> {
        self.int_auth.octets(self.next_id())
    }

    /// The answers so far, with that to AUTH.
    pub(super) fn answered(self, request: &[u8], response: Vec<u8>) -> Answers {
        let mut answers = self.answers;
        answers.answered(request, response);
        answers
    }

    /// The peer's public value for the next key exchange.
    fn next_exchange(&self, opened: &Opened) -> Result<(KeGroup, Vec<u8>), Refusal> {
        let payloads =
            Payloads::parse(opened.first, opened.inner.expose(), rules::INTERMEDIATE).map_err(Refusal::Fatal)?;
        let said: Option<Ke<'_>> = payloads.get(PayloadKind::KE).map_err(Refusal::Fatal)?;
        let said = said.ok_or(Refusal::Fatal(Reject::Malformed("no key exchange")))?;
        let group = *self.more.front().ok_or(Refusal::Fatal(Reject::Malformed("one exchange too many")))?;
        if said.method != ke_number(group) {
            return Err(Refusal::NotOurs);
        }
        if said.data.len() != group.public_len() {
            return Err(Refusal::Fatal(Reject::Malformed("a public value of the wrong length")));
        }
        Ok((group, said.data.to_vec()))
    }
}

impl Server {
    pub(super) fn intermediate_request(&mut self, ctx: &mut Ctx<'_>, dgram: &Datagram<'_>, header: &Header) {
        let spi = header.spi_r;
        let Some(Entry { path, state: State::ExpectAuth(state), .. }) = self.sas.get_mut(&spi) else { return };
        match state.intermediate.answers.classify(header.message_id, dgram.bytes) {
            Incoming::New if header.flags & flags::RESPONSE == 0 && state.intermediate.pending.is_none() => {}
            Incoming::Repeat(response) => {
                let (peer, response) = (path.peer, response.to_vec());
                return self.answer_again(ctx, dgram, peer, response);
            }
            Incoming::New | Incoming::Stale => {
                self.counters.unexpected += 1;
                return;
            }
        }
        let exchange = ExchangeType::IKE_INTERMEDIATE;
        let opened = match state.sa.open(dgram.bytes) {
            Ok(opened) => opened,
            Err(reject @ Reject::Misbehaved(_)) => return self.refuse_early(ctx, dgram, spi, exchange, &reject),
            Err(reject) => return self.drop_unauthenticated(dgram, &reject),
        };
        let pending = Pending { path: Path::of(dgram), request: dgram.bytes.to_vec(), opened };
        match state.intermediate.next_exchange(&pending.opened) {
            Ok(_) if !self.early_requests.have_room(pending.octets()) => self.counters.unexpected += 1,
            Ok((group, peer)) => {
                let private = Secret::random(group.seed_len(), ctx.rng);
                let job = ctx.out.job(Job::KeyExchange { group, private, peer });
                state.intermediate.pending = Some(pending);
                self.jobs.insert(job, spi);
                self.note_early(spi);
            }
            Err(Refusal::NotOurs) => self.counters.unexpected += 1,
            Err(Refusal::Fatal(reject)) => self.refuse_early(ctx, dgram, spi, exchange, &reject),
        }
    }

    /// Takes the result of an additional key exchange.
    pub(super) fn additional_done(
        &mut self,
        ctx: &mut Ctx<'_>,
        spi: Spi,
        result: Result<(Vec<u8>, Secret), CryptoError>,
    ) {
        let Some(Entry { state: State::ExpectAuth(state), .. }) = self.sas.get_mut(&spi) else { return };
        let Some(pending) = state.intermediate.pending.take() else { return };
        self.early_requests.note(spi, state.early_octets());
        let Pending { path, request, .. } = &pending;
        let (public, shared) = match result {
            Ok(both) => both,
            Err(error) => {
                self.counters.key_exchange_failed += 1;
                tracing::debug!(peer = %path.peer, %error, "additional key exchange failed");
                let dgram = Datagram { from: path.peer, to: path.local, via: path.via, bytes: request };
                let reject = Reject::Malformed("an unacceptable public value");
                return self.refuse_early(ctx, &dgram, spi, ExchangeType::IKE_INTERMEDIATE, &reject);
            }
        };
        let log = self.key_log.as_deref_mut().map(|l| l as _);
        match state.exchange(ctx, &pending, &public, &shared, log) {
            Ok(response) => {
                ctx.out.send(path.transmit(response.clone()));
                state.intermediate.answers.answered(request, response);
                state.intermediate.more.pop_front();
                // Copies that came meanwhile went with the former keys.
                self.early_fragments.forget(&spi);
            }
            Err(error) => {
                tracing::error!(%error, "an additional key exchange could not be answered");
                self.remove(ctx.out, spi);
            }
        }
    }

    /// Says that the SA will not come to be, for its peer breaks the format, protected by its keys, and drops it (RFC 9242
    /// section 3.4, RFC 7296 section 2.21.2).
    pub(super) fn refuse_early(
        &mut self,
        ctx: &mut Ctx<'_>,
        dgram: &Datagram<'_>,
        spi: Spi,
        exchange: ExchangeType,
        reject: &Reject,
    ) {
        self.counters.malformed += 1;
        tracing::debug!(peer = %dgram.from, %reject, "peer refused");
        let Some(State::ExpectAuth(state)) = self.sas.get_mut(&spi).map(|e| &mut e.state) else { return };
        let notify = reject.notify().unwrap_or(Notify::bare(NotifyType::INVALID_SYNTAX));
        let mut chain = ChainWriter::new();
        chain.push(PayloadKind::NOTIFY.0, &notify.to_vec());
        let message_id = state.intermediate.next_id();
        match state.sa.seal(exchange, Direction::Response, message_id, chain, ctx.rng) {
            Ok(response) => self.close(ctx, spi, dgram, response),
            Err(_) => self.remove(ctx.out, spi),
        }
    }
}

impl ExpectAuth {
    /// Answers under the keys there are, and goes on with new ones.
    fn exchange(
        &mut self,
        ctx: &mut Ctx<'_>,
        pending: &Pending,
        public: &[u8],
        shared: &Secret,
        log: Option<&mut (dyn KeyLog + Send)>,
    ) -> Result<Vec<u8>, AnswerError> {
        let (suite, spi_i, spi_r) = (self.sa.suite, self.sa.spi_i, self.sa.spi_r);
        let message_id = self.intermediate.next_id();
        let exchange = ExchangeType::IKE_INTERMEDIATE;
        let ke =
            Ke { method: self.intermediate.more.front().map_or(0, |g| ke_number(*g)), data: Cow::Borrowed(public) };
        let chain = || {
            let mut chain = ChainWriter::new();
            chain.push(PayloadKind::KE.0, &ke.to_vec());
            chain
        };
        let (first, inner) = chain().finish().map_err(|_| AnswerError::TooLong)?;
        let header = header(exchange, spi_i, spi_r, flags::RESPONSE, message_id);
        let response = Plain { header, flags: 0, first, inner: &inner };
        let int_auth = self.intermediate.int_auth.then(suite.prf, &self.proof, (&pending.opened).into(), response);
        let sealed = self.sa.seal(exchange, Direction::Response, message_id, chain(), ctx.rng)?;
        let (nonce_i, nonce_r) = (&self.nonces.0, &self.nonces.1);
        let seed = Skeyseed::rekey(suite.prf, self.sa.derive(), suite, nonce_i, nonce_r, shared);
        let keys = seed.expand(&spi_i, &spi_r);
        let (mut sa, proof) = IkeSa::new(Role::Responder, suite, spi_i, spi_r, keys, ctx.rng, log)?;
        sa.set_limit(self.sa.limit());
        (self.sa, self.proof, self.intermediate.int_auth) = (sa, proof, int_auth);
        Ok(sealed)
    }
}
