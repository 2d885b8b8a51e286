//! IKE_AUTH and GSA_AUTH, responder's side (RFC 7296 section 2.15, RFC 6023, RFC 9838 section 2.3.1).
//!
//! Signatures are checked and made elsewhere; what follows from a job's result is in `proof`. Nobody is told why its
//! authentication failed.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use keyferry_crypto::{KeyKind, PeerCheck, Secret};
use keyferry_model::credentials::{Ours, OwnCertificate};
use keyferry_model::drive::{Ctx, Datagram};
use keyferry_model::id::Identity;
use keyferry_model::redirect::GatewayName;
use keyferry_wire::{ChainWriter, Encode, Header};

use super::established::{By, Established, Who};
use super::in_band::LineId;
use super::intermediate::Intermediate;
use super::limits::source;
use super::ppk::PpkUse;
use super::redirect::Willing;
use super::rekeying::Rekeying;
use super::resume::{Origin, Resumed, grant};
use super::{Entry, Path, Server, ServerConfig, Spi, State};
use crate::ike_sa::auth::{SignedOctets, resumed_mac, shared_key_mac};
use crate::ike_sa::certificates;
use crate::ike_sa::sa::{Direction, IkeSa};
use crate::ike_sa::signature::{Announced, Padding, Signed, Way};
use crate::policy::gateway::redirect;
use crate::policy::identity::{identity_from_wire, identity_to_wire};
use crate::registration::carried::Groups;
use crate::registration::serve::{Asking, Outcome, answer};
use crate::reject::Reject;
use crate::rekey::rekey_sa_line;
use crate::wire::auth::Auth;
use crate::wire::message::AuthRequest;
use crate::wire::notify::Notify;
use crate::wire::registry::{AuthMethod, ExchangeType, NotifyType, PayloadKind, flags};
use crate::wire::sk::{Opened, SealError};

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
    /// Whether a postquantum preshared key is in the keys.
    pub(super) ppk: PpkUse,
    /// Its PPK_ID, if it is.
    pub(super) ppk_id: Option<Vec<u8>>,
    /// What the peer said of the signatures it takes.
    pub(super) announced: Announced,
    /// It may be sent to another gateway.
    pub(super) willing: Option<Willing>,
    /// It goes on from a ticket.
    pub(super) resumed: Option<Box<Resumed>>,
}

/// An IKE_AUTH or GSA_AUTH request that the keys have opened: it is of the peer that sent IKE_SA_INIT, whoever that is.
pub(super) struct Claim {
    pub(super) path: Path,
    pub(super) exchange: ExchangeType,
    opened: Opened,
    /// The datagram.
    pub(super) request: Vec<u8>,
}

/// A peer that is who it says it is.
pub(super) struct Peer {
    pub(super) who: Who,
    /// How we prove ourselves to it.
    pub(super) ours: Ours,
    /// The padding of its signature, which ours has, too.
    pub(super) padding: Padding,
    /// The kind of its key, if it has signed.
    pub(super) kind: Option<KeyKind>,
}

/// What a request for authentication turned out to be.
enum Examined {
    /// AUTH is right.
    Proven(Peer),
    /// A signature, which is to be checked.
    Signed(Identity, Padding, Box<PeerCheck>),
}

/// What we prove ourselves with.
pub(super) enum Evidence {
    Psk(Arc<Secret>),
    Signature {
        own: Arc<OwnCertificate>,
        way: Way,
        value: Vec<u8>,
    },
    /// The keys that a ticket led to.
    Resumed,
}

pub(super) const FAILED: Reject = Reject::Unacceptable(NotifyType::AUTHENTICATION_FAILED);

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
            // Whoever sent IKE_SA_INIT made it, and made it wrong.
            Err(reject @ Reject::Misbehaved(_)) => return self.refuse_early(ctx, dgram, spi, exchange, &reject),
            Err(reject) => return self.drop_unauthenticated(dgram, &reject),
        };
        let claim = Claim { path: Path::of(dgram), exchange, opened, request: dgram.bytes.to_vec() };
        if state.resumed.is_some() {
            return self.resumed_auth(ctx, spi, claim);
        }
        let Some(State::ExpectAuth(state)) = self.sas.get_mut(&spi).map(|e| &mut e.state) else { return };
        let examined = claim.read().and_then(|request| {
            state.take_ppk(&self.config.ppks, &request)?;
            state.examine(&self.config, (&claim, &request), ctx.now.wall)
        });
        match examined {
            Ok(Examined::Proven(peer)) => self.prove(ctx, spi, claim, peer),
            // Whoever gets here has received at its address, and proved nothing else.
            Ok(Examined::Signed(..)) if !self.may_check(dgram.from.ip(), claim.octets(), ctx.now.mono) => {
                self.counters.checks_withheld += 1;
            }
            Ok(Examined::Signed(identity, padding, check)) => {
                self.begin_check(ctx, spi, claim, (identity, padding), check);
            }
            Err(reject) => self.refuse_auth(ctx, spi, claim, &reject),
        }
    }

    /// May another signature be checked for this source, and its request be kept meanwhile?
    fn may_check(&mut self, from: IpAddr, octets: usize, mono: Duration) -> bool {
        self.early_requests.have_room(octets) && self.work.draw(source(from), self.config.checks_per_address, mono)
    }

    /// Tells the peer that there will be no IKE SA, protected by its keys, and drops it (RFC 7296 section 2.21.2).
    pub(super) fn refuse_auth(&mut self, ctx: &mut Ctx<'_>, spi: Spi, claim: Claim, reject: &Reject) {
        self.counters.authentication_failed += 1;
        tracing::debug!(peer = %claim.path.peer, %reject, "peer refused");
        let Some(State::ExpectAuth(state)) = self.sas.get_mut(&spi).map(|e| &mut e.state) else { return };
        let notify = reject.notify().unwrap_or(Notify::bare(NotifyType::AUTHENTICATION_FAILED));
        let mut chain = ChainWriter::new();
        chain.push(PayloadKind::NOTIFY.0, &notify.to_vec());
        let message_id = state.intermediate.next_id();
        match state.sa.seal(claim.exchange, Direction::Response, message_id, chain, ctx.rng) {
            Ok(response) => self.end(ctx, spi, claim.path, claim.request, response),
            Err(_) => self.remove(ctx.out, spi),
        }
    }

    /// The peer is who it says it is: answers it.
    pub(super) fn establish(&mut self, ctx: &mut Ctx<'_>, spi: Spi, claim: Claim, peer: Peer, evidence: &Evidence) {
        let Some(Entry { path, digest, state: State::ExpectAuth(state) }) = self.sas.remove(&spi) else { return };
        self.connections.release(path.via, spi);
        self.half_open.leave(path.peer.ip());
        self.early_fragments.forget(&spi);
        self.early_requests.forget(&spi);
        let (behind_nat, willing) = (state.behind_nat, state.willing);
        let identity = peer.who.identity.clone();
        let elsewhere = self.elsewhere(willing, &identity);
        let (id_r, origin) = match &state.resumed {
            Some(resumed) => {
                self.succeed(ctx, resumed);
                (resumed.origin.ids.1.clone(), resumed.origin.clone())
            }
            None => {
                let id_r = own_id(&self.config, &claim, evidence);
                let ids = (claim.id_i().unwrap_or_default(), id_r.clone());
                (id_r, Origin { ids, ppk: state.ppk_id.clone() })
            }
        };
        let mut granted = None;
        let answered = claim.read().map_err(Answered::Unreadable).and_then(|request| {
            if request.payloads.notify(NotifyType::INITIAL_CONTACT).is_some() {
                self.forget_others(ctx, &identity);
            }
            let wished = request.payloads.notify(NotifyType::TICKET_REQUEST).is_some();
            let ticket = self.tickets.as_mut().filter(|_| wished).map(|tickets| match &elsewhere {
                Some(_) => Notify::bare(NotifyType::TICKET_NACK),
                None => {
                    let (notify, named) = grant(tickets, &self.config, ctx, (&state.sa, &peer.who, &origin));
                    granted = named;
                    notify
                }
            });
            let rekeying = Rekeying::new(self.config.ike.lifetime, ctx.now.mono, ctx.rng);
            let asked = (&claim, &request, elsewhere.as_ref(), ticket);
            state.advance(ctx, asked, &id_r, peer, evidence, rekeying).map_err(Answered::TooLong)
        });
        let (mut established, response, outcome) = match answered {
            Ok(answered) => answered,
            Err(error) => {
                tracing::error!(%error, "answer could not be made");
                self.inits.remove(&digest);
                self.timers.disarm(&spi);
                return;
            }
        };
        ctx.out.send(claim.path.transmit(response));
        self.counters.established += 1;
        self.counters.behind_nat += u64::from(behind_nat);
        tracing::info!(peer = %path.peer, %identity, behind_nat, "IKE SA established");
        self.connections.carry(claim.path.via, spi);
        let line = self.lines.begin(identity.clone(), spi);
        established.line = line;
        established.leaving.willing = willing;
        (established.origin, established.ticket) = (origin, granted);
        self.sas.insert(spi, Entry { path: claim.path, digest, state: State::Established(Box::new(established)) });
        if let Some(to) = elsewhere {
            tracing::info!(member = %identity, %to, "member sent elsewhere");
            self.counters.redirected += 1;
            self.sent_elsewhere(spi, ctx.now.mono);
        }
        self.rearm(spi);
        if let Some(outcome) = outcome {
            self.count(line, outcome);
        }
    }

    /// The peer says that it has no other IKE SA with us: those there are have no peer any more (RFC 7296 section 2.4).
    fn forget_others(&mut self, ctx: &mut Ctx<'_>, identity: &Identity) {
        for spi in self.lines.spis_of(identity) {
            self.revoke(ctx, spi);
            self.remove(ctx.out, spi);
        }
    }

    pub(super) fn count(&mut self, line: LineId, outcome: Outcome) {
        match outcome {
            Outcome::Registered { policy, rekey, carried, issued: _ } => {
                self.counters.registered += 1;
                if let (Some(log), Some(sa)) = (&mut self.key_log, rekey)
                    && let Some(line) = rekey_sa_line(&policy, &sa)
                {
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

/// Why an authenticated peer got no answer.
#[derive(Debug, thiserror::Error)]
enum Answered {
    #[error(transparent)]
    Unreadable(Reject),
    #[error(transparent)]
    TooLong(SealError),
}

/// The body of our ID payload: who we are, by default the address that the peer talks to, or the subject of a certificate that
/// does not name it.
pub(super) fn own_id(config: &ServerConfig, claim: &Claim, evidence: &Evidence) -> Vec<u8> {
    let address = Identity::from_ip(claim.path.local.ip());
    let own = match (&config.identity, evidence) {
        (Some(identity), _) => identity.clone(),
        (None, Evidence::Psk(_) | Evidence::Resumed) => address,
        (None, Evidence::Signature { own, .. }) => own.identity(address),
    };
    identity_to_wire(&own).to_vec()
}

impl Claim {
    /// The body of IDi.
    fn id_i(&self) -> Option<Vec<u8>> {
        self.read().ok().map(|request| request.id_i_body.to_vec())
    }

    /// Octets that it keeps: as it came, and opened.
    pub(super) fn octets(&self) -> usize {
        self.request.len() + self.opened.inner.len()
    }

    /// The request, read.
    pub(super) fn read(&self) -> Result<AuthRequest<'_>, Reject> {
        match self.exchange {
            ExchangeType::GSA_AUTH => AuthRequest::group(self.opened.first, self.opened.inner.expose()),
            _ => AuthRequest::ike(self.opened.first, self.opened.inner.expose()),
        }
    }
}

impl ExpectAuth {
    /// Octets of requests that it keeps.
    pub(super) fn early_octets(&self) -> usize {
        self.init_request.len() + self.intermediate.pending_octets()
    }

    /// Who is it, and is its AUTH right?
    fn examine(
        &self,
        config: &ServerConfig,
        (claim, request): (&Claim, &AuthRequest<'_>),
        wall: Duration,
    ) -> Result<Examined, Reject> {
        let identity = identity_from_wire(&request.id_i).ok_or(FAILED)?;
        let int_auth = &self.intermediate.octets();
        let (message, nonce) = (&self.init_request, &self.nonces.1);
        let signed = SignedOctets { message, nonce, id: request.id_i_body, int_auth };
        let (prf, auth) = (self.sa.suite.prf, self.auth_of(request));
        if auth.method == AuthMethod::SHARED_KEY {
            let (psk, ours) = config.credentials.ikev2_psk(&identity).ok_or(FAILED)?;
            if !shared_key_mac(prf, psk, &self.proof.0, signed).ct_eq(&auth.data) {
                return Err(FAILED);
            }
            let who = Who { identity, by: By::Psk(Arc::clone(psk)), ends: None };
            return Ok(Examined::Proven(Peer { who, ours, padding: Padding::default(), kind: None }));
        }
        let here = config.credentials.takes_ikev2_certificates_from(claim.path.peer.ip());
        let trust = config.credentials.trust().filter(|_| here).ok_or(FAILED)?;
        let signature = Signed::read(&auth, &self.announced, config.credentials.takes_sha1_signatures())?;
        let shown = certificates::shown(&request.payloads)?;
        let check = certificates::check(trust, wall, &shown, &signature, &signed.octets(prf, &self.proof.0));
        Ok(Examined::Signed(identity, signature.padding(), Box::new(check)))
    }

    /// What we sign, if we do.
    pub(super) fn own_octets(&self, id_r: &[u8]) -> Secret {
        self.own_signed(id_r, &self.intermediate.octets()).octets(self.sa.suite.prf, &self.proof.1)
    }

    fn own_signed<'a>(&'a self, id_r: &'a [u8], int_auth: &'a [u8]) -> SignedOctets<'a> {
        SignedOctets { message: &self.init_response, nonce: &self.nonces.0, id: id_r, int_auth }
    }

    /// Answers with our own identity and AUTH, and with policy and keys if a group was asked for; or with another gateway in their
    /// place (RFC 5685 section 6).
    fn advance(
        mut self: Box<Self>,
        ctx: &mut Ctx<'_>,
        (claim, request, elsewhere, ticket): (&Claim, &AuthRequest<'_>, Option<&GatewayName>, Option<Notify<'static>>),
        id_r: &[u8],
        peer: Peer,
        evidence: &Evidence,
        rekeying: Rekeying,
    ) -> Result<(Established, Vec<u8>, Option<Outcome>), SealError> {
        let mut chain = ChainWriter::new();
        chain.push(PayloadKind::ID_R.0, id_r);
        let auth = match evidence {
            Evidence::Psk(psk) => {
                let int_auth = self.intermediate.octets();
                let mac = shared_key_mac(self.sa.suite.prf, psk, &self.proof.1, self.own_signed(id_r, &int_auth));
                Auth { method: AuthMethod::SHARED_KEY, data: mac.expose().to_vec().into() }
            }
            Evidence::Signature { own, way, value } => {
                certificates::put(own, &mut chain);
                way.auth(value)
            }
            Evidence::Resumed => {
                let mac = resumed_mac(self.sa.suite.prf, &self.proof.1, self.own_signed(id_r, &[]));
                Auth { method: AuthMethod::SHARED_KEY, data: mac.expose().to_vec().into() }
            }
        };
        chain.push(PayloadKind::AUTH.0, &auth.to_vec());
        if self.ppk == PpkUse::Stirred {
            chain.push(PayloadKind::NOTIFY.0, &Notify::bare(NotifyType::PPK_IDENTITY).to_vec());
        }
        if let Some(ticket) = ticket {
            chain.push(PayloadKind::NOTIFY.0, &ticket.to_vec());
        }
        let outcome = match (elsewhere, &request.registration) {
            (Some(to), _) => {
                chain.push(PayloadKind::NOTIFY.0, &redirect(to, &[]).to_vec());
                None
            }
            (None, Some(registration)) => {
                let default = self.sa.key_wrap().map(|(_, key)| key);
                let asking = Asking {
                    identity: &peer.who.identity,
                    holder: peer.who.holder(),
                    address: claim.path.peer,
                    marked: claim.path.is_encapsulated(),
                    default,
                    early: self.sa.is_early(),
                    fragments: self.sa.limit().is_some(),
                    groups: &Groups::default(),
                };
                Some(answer(ctx, asking, registration, &mut chain))
            }
            (None, None) => {
                if request.child {
                    // The IKE SA stands; there is no Child SA to be had here (RFC 7296 section 1.3.1).
                    chain.push(PayloadKind::NOTIFY.0, &Notify::bare(NotifyType::NO_ADDITIONAL_SAS).to_vec());
                }
                None
            }
        };
        let message_id = self.intermediate.next_id();
        let response = self.sa.seal(claim.exchange, Direction::Response, message_id, chain, ctx.rng)?;
        let answers = self.intermediate.answered(&claim.request, response.clone());
        let mut established = Established::new(self.sa, peer.who, answers, rekeying, ctx.now.mono);
        established.issued = outcome.as_ref().and_then(Outcome::issued).map(|issued| (message_id, issued));
        Ok((established, response, outcome))
    }
}
