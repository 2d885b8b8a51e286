//! IKE_AUTH and GSA_AUTH, responder's side (RFC 7296 section 2.15, RFC 6023, RFC 9838 section 2.3.1).

use keyferry_crypto::Secret;
use keyferry_model::drive::{Ctx, Datagram, Outbox};
use keyferry_model::id::Identity;
use keyferry_wire::{ChainWriter, Encode, Header};

use super::established::Established;
use super::in_band::LineId;
use super::intermediate::Intermediate;
use super::rekeying::Rekeying;
use super::{Entry, Path, Server, ServerConfig, Spi, State};
use crate::ike_sa::auth::{SignedOctets, shared_key_mac};
use crate::ike_sa::sa::{Direction, IkeSa};
use crate::policy::identity::{identity_from_wire, identity_to_wire};
use crate::registration::carried::Groups;
use crate::registration::serve::{Asking, Outcome, answer};
use crate::reject::Reject;
use crate::rekey::rekey_sa_line;
use crate::wire::auth::Auth;
use crate::wire::message::AuthRequest;
use crate::wire::notify::Notify;
use crate::wire::registry::{AuthMethod, ExchangeType, NotifyType, PayloadKind, flags};

/// Keys are there; the peer has yet to say who it is.
pub(super) struct ExpectAuth {
    pub(super) sa: IkeSa,
    /// SK_pi, SK_pr.
    pub(super) proof: (Secret, Secret),
    /// Ni, Nr.
    pub(super) nonces: (Vec<u8>, Vec<u8>),
    pub(super) init_request: Vec<u8>,
    pub(super) init_response: Vec<u8>,
    pub(super) behind_nat: bool,
    /// What comes before AUTH.
    pub(super) intermediate: Intermediate,
}

/// A peer whose AUTH was right. Only [`ExpectAuth::verify`] makes one.
struct Verified<'m> {
    identity: Identity,
    psk: std::sync::Arc<Secret>,
    request: AuthRequest<'m>,
}

impl Server {
    pub(super) fn auth_request(&mut self, ctx: &mut Ctx<'_>, dgram: &Datagram<'_>, header: &Header) {
        let spi = header.spi_r;
        let Some(State::ExpectAuth(state)) = self.sas.get(&spi).map(|e| &e.state) else { return };
        let exchange = ExchangeType(header.exchange);
        let fits = matches!(exchange, ExchangeType::IKE_AUTH | ExchangeType::GSA_AUTH)
            && state.intermediate.is_over()
            && header.message_id == state.intermediate.next_id()
            && header.flags & flags::RESPONSE == 0;
        if !fits {
            self.counters.unexpected += 1;
            return;
        }
        let opened = match state.sa.open(dgram.bytes) {
            Ok(opened) => opened,
            Err(reject) => return self.drop_unauthenticated(dgram, &reject),
        };
        // From here on it is the peer that sent IKE_SA_INIT, whoever that is.
        match state.verify(&self.config, exchange, opened.first, opened.inner.expose()) {
            Ok(verified) => self.establish(ctx, dgram, spi, verified),
            Err(reject) => self.refuse_auth(ctx, dgram, spi, exchange, &reject),
        }
    }

    /// Tells the peer why there will be no IKE SA, protected by its keys, and drops it (RFC 7296 section 2.21.2).
    fn refuse_auth(
        &mut self,
        ctx: &mut Ctx<'_>,
        dgram: &Datagram<'_>,
        spi: Spi,
        exchange: ExchangeType,
        reject: &Reject,
    ) {
        self.counters.authentication_failed += 1;
        tracing::debug!(peer = %dgram.from, %reject, "peer refused");
        let Some(State::ExpectAuth(state)) = self.sas.get_mut(&spi).map(|e| &mut e.state) else { return };
        let notify = reject.notify().unwrap_or(Notify::bare(NotifyType::AUTHENTICATION_FAILED));
        let mut chain = ChainWriter::new();
        chain.push(PayloadKind::NOTIFY.0, &notify.to_vec());
        let message_id = state.intermediate.next_id();
        match state.sa.seal(exchange, Direction::Response, message_id, chain, ctx.rng) {
            Ok(response) => self.close(ctx, spi, dgram, response),
            Err(_) => self.remove(ctx.out, spi),
        }
    }

    fn establish(&mut self, ctx: &mut Ctx<'_>, dgram: &Datagram<'_>, spi: Spi, verified: Verified<'_>) {
        let Some(Entry { path, digest, state: State::ExpectAuth(state) }) = self.sas.remove(&spi) else { return };
        self.half_open.leave(path.peer.ip());
        if verified.request.payloads.notify(NotifyType::INITIAL_CONTACT).is_some() {
            self.forget_others(ctx.out, &verified.identity);
        }
        let behind_nat = state.behind_nat;
        let identity = verified.identity.clone();
        let own = self.config.identity.clone().unwrap_or(Identity::from_ip(dgram.to.ip()));
        let rekeying = Rekeying::new(self.config.ike.lifetime, ctx.now.mono, ctx.rng);
        let (mut established, outcome) = match state.advance(ctx, dgram, &own, verified, rekeying) {
            Ok((established, response, outcome)) => {
                ctx.out.send(dgram.reply(response));
                (established, outcome)
            }
            Err(error) => {
                tracing::error!(%error, "answer could not be sealed");
                self.inits.remove(&digest);
                self.timers.disarm(&spi);
                return;
            }
        };
        self.counters.established += 1;
        self.counters.behind_nat += u64::from(behind_nat);
        tracing::info!(peer = %path.peer, %identity, behind_nat, "IKE SA established");
        let line = self.lines.begin(spi);
        established.line = line;
        let path = Path::of(dgram);
        self.sas.insert(spi, Entry { path, digest, state: State::Established(Box::new(established)) });
        self.rearm(spi);
        if let Some(outcome) = outcome {
            self.count(line, outcome);
        }
    }

    /// The peer says that it has no other IKE SA with us: those there are have no peer any more (RFC 7296 section 2.4).
    fn forget_others(&mut self, out: &mut Outbox, identity: &Identity) {
        let same = |e: &Entry| matches!(&e.state, State::Established(s) if s.identity == *identity);
        let others: Vec<Spi> = self.sas.iter().filter(|(_, e)| same(e)).map(|(spi, _)| *spi).collect();
        others.into_iter().for_each(|spi| self.remove(out, spi));
    }

    pub(super) fn count(&mut self, line: LineId, outcome: Outcome) {
        match outcome {
            Outcome::Registered { policy, rekey, carried } => {
                self.counters.registered += 1;
                let logged = rekey.and_then(|sa| rekey_sa_line(&policy, &sa));
                if let (Some(log), Some(line)) = (&mut self.key_log, logged) {
                    log.log(crate::keylog::TABLE, &line);
                }
                self.note_carried(line, &policy.name, carried);
            }
            Outcome::Refused => self.counters.refused += 1,
            Outcome::Left(group) => {
                self.counters.left += 1;
                group.into_iter().for_each(|group| self.forget_carried(line, &group));
            }
        }
    }
}

impl ExpectAuth {
    /// Who is it, and is its AUTH right?
    fn verify<'m>(
        &self,
        config: &ServerConfig,
        exchange: ExchangeType,
        first: u8,
        inner: &'m [u8],
    ) -> Result<Verified<'m>, Reject> {
        const FAILED: Reject = Reject::Unacceptable(NotifyType::AUTHENTICATION_FAILED);
        let request = match exchange {
            ExchangeType::GSA_AUTH => AuthRequest::group(first, inner)?,
            _ => AuthRequest::ike(first, inner)?,
        };
        let identity = identity_from_wire(&request.id_i).ok_or(FAILED)?;
        if request.auth.method != AuthMethod::SHARED_KEY {
            return Err(FAILED);
        }
        let psk = config.credentials.psk_for_identity(&identity).ok_or(FAILED)?;
        let int_auth = &self.intermediate.octets();
        let (message, nonce) = (&self.init_request, &self.nonces.1);
        let signed = SignedOctets { message, nonce, id: request.id_i_body, int_auth };
        let expected = shared_key_mac(self.sa.suite.prf, psk, &self.proof.0, signed);
        if !expected.ct_eq(&request.auth.data) {
            return Err(FAILED);
        }
        Ok(Verified { identity, psk: std::sync::Arc::clone(psk), request })
    }

    /// Answers with our own identity and AUTH, and with policy and keys if a group was asked for.
    fn advance(
        self,
        ctx: &mut Ctx<'_>,
        dgram: &Datagram<'_>,
        own: &Identity,
        peer: Verified<'_>,
        rekeying: Rekeying,
    ) -> Result<(Established, Vec<u8>, Option<Outcome>), crate::wire::sk::SealError> {
        let Self { mut sa, proof, nonces, init_response, intermediate, .. } = self;
        let id = identity_to_wire(own).to_vec();
        let int_auth = &intermediate.octets();
        let signed = SignedOctets { message: &init_response, nonce: &nonces.0, id: &id, int_auth };
        let mac = shared_key_mac(sa.suite.prf, &peer.psk, &proof.1, signed);
        let auth = Auth { method: AuthMethod::SHARED_KEY, data: mac.expose().into() };
        let mut chain = ChainWriter::new();
        chain.push(PayloadKind::ID_R.0, &id);
        chain.push(PayloadKind::AUTH.0, &auth.to_vec());
        let (exchange, outcome) = match &peer.request.registration {
            Some(registration) => {
                let default = sa.key_wrap().map(|(_, key)| key);
                let groups = &Groups::default();
                let asking = Asking { identity: &peer.identity, address: dgram.from, default, groups };
                (ExchangeType::GSA_AUTH, Some(answer(ctx, asking, registration, &mut chain)))
            }
            None => {
                if peer.request.child {
                    // The IKE SA stands; there is no Child SA to be had here (RFC 7296 section 1.3.1).
                    chain.push(PayloadKind::NOTIFY.0, &Notify::bare(NotifyType::NO_ADDITIONAL_SAS).to_vec());
                }
                (ExchangeType::IKE_AUTH, None)
            }
        };
        let response = sa.seal(exchange, Direction::Response, intermediate.next_id(), chain, ctx.rng)?;
        let answers = intermediate.answered(dgram.bytes, response.clone());
        let established = Established::new(sa, peer.identity, answers, rekeying, ctx.now.mono);
        Ok((established, response, outcome))
    }
}
