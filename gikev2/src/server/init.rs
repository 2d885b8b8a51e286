//! IKE_SA_INIT, responder's side (RFC 7296 sections 1.2, 2.6 and 2.7).
//!
//! Refusals of a sound request need no budget: they are shorter than what they answer, and members wait for them.

use std::net::SocketAddr;

use keyferry_crypto::{Job, JobDone, Secret};
use keyferry_model::drive::{Ctx, Datagram};
use keyferry_wire::Header;

use super::auth::ExpectAuth;
use super::intermediate::Intermediate;
use super::ppk::PpkUse;
use super::redirect::Willing;
use super::{Entry, Path, Server, Spi, State};
use crate::algorithms::ke_number;
use crate::ike_sa::certificates;
use crate::ike_sa::init::{NONCE_LEN, Parts, nat_found, refusal, response};
use crate::ike_sa::sa::IkeSa;
use crate::ike_sa::signature::{Announced, announcement};
use crate::ike_sa::suite::Choice;
use crate::ike_sa::window::digest_of;
use crate::ike_sa::{Role, Skeyseed};
use crate::reject::Reject;
use crate::wire::message::{Init, Payloads};
use crate::wire::notify::Notify;
use crate::wire::registry::{NotifyType, flags};
use crate::wire::sa::Sa;

/// A request was taken up; the key exchange is being computed.
pub(super) struct AwaitKe {
    pub(super) spi_i: [u8; 8],
    choice: Choice,
    nonce_i: Vec<u8>,
    pub(super) request: Vec<u8>,
    behind_nat: bool,
    /// The most octets of a datagram, if the peer takes fragments.
    limit: Option<usize>,
    announced: Announced,
    ppk: PpkUse,
    willing: Option<Willing>,
}

/// Names a request by its sender and its octets. Another request with the same SPI is another SA: nobody can keep an
/// initiator out by being faster than it (RFC 7296 section 2.1).
pub(super) fn digest(from: SocketAddr, request: &[u8]) -> Vec<u8> {
    digest_of(&[from.to_string().as_bytes(), &[0], request].concat())
}

impl Server {
    /// Is it a request that an IKE SA may begin with? Names it; `None` for one that was answered before, or must not come
    /// this way.
    pub(super) fn begins(
        &mut self,
        ctx: &mut Ctx<'_>,
        dgram: &Datagram<'_>,
        header: &Header,
    ) -> Result<Option<Vec<u8>>, Reject> {
        if header.flags & flags::INITIATOR == 0 || header.message_id != 0 || header.spi_i == [0; 8] {
            return Err(Reject::Malformed("not a first request"));
        }
        let digest = digest(dgram.from, dgram.bytes);
        if let Some(spi) = self.inits.get(&digest) {
            self.repeat_init(ctx, dgram, *spi);
            return Ok(None);
        }
        if self.connections.is_taken(dgram.via) {
            self.counters.unexpected += 1;
            return Ok(None);
        }
        Ok(Some(digest))
    }

    /// Answers a first request that demands what we do not know. Whoever sends garbage hears nothing (reading 28).
    pub(super) fn understood<T>(
        &mut self,
        ctx: &mut Ctx<'_>,
        dgram: &Datagram<'_>,
        header: &Header,
        read: Result<T, Reject>,
    ) -> Result<T, Reject> {
        if let Err(reject @ Reject::UnsupportedCritical(_)) = &read {
            let notify = reject.notify().unwrap_or(Notify::bare(NotifyType::INVALID_SYNTAX));
            self.answer_unprotected(ctx, dgram, header, &notify);
        }
        read
    }

    pub(super) fn init_request(
        &mut self,
        ctx: &mut Ctx<'_>,
        dgram: &Datagram<'_>,
        header: &Header,
    ) -> Result<(), Reject> {
        self.counters.initiations += 1;
        let Some(digest) = self.begins(ctx, dgram, header)? else { return Ok(()) };
        let read = Init::request(header.next, &dgram.bytes[Header::LEN..]);
        let init = self.understood(ctx, dgram, header, read)?;
        let (payloads, nonce) = (&init.payloads, init.nonce.0.as_ref());
        if self.redirect_init(ctx, dgram, header, payloads, nonce)
            || !self.has_room(ctx, dgram, header, payloads, nonce)
        {
            return Ok(());
        }
        let intermediate = init.payloads.notify(NotifyType::INTERMEDIATE_EXCHANGE_SUPPORTED).is_some();
        let Some(choice) = self.config.preferences.choose_initial(&init.sa, intermediate) else {
            self.counters.no_proposal += 1;
            ctx.out.send(dgram.reply(refusal(header, &Notify::bare(NotifyType::NO_PROPOSAL_CHOSEN))));
            return Ok(());
        };
        let wanted = ke_number(choice.suite.group);
        if init.ke.method != wanted {
            self.counters.groups_demanded += 1;
            let notify = Notify::new(NotifyType::INVALID_KE_PAYLOAD, wanted.to_be_bytes().to_vec());
            ctx.out.send(dgram.reply(refusal(header, &notify)));
            return Ok(());
        }
        if init.ke.data.len() != choice.suite.group.public_len() {
            return Err(Reject::Malformed("a public value of the wrong length"));
        }
        let announced = Announced::read(&init.payloads)?;
        self.take_up(ctx, dgram, header, &init, (choice, announced), digest);
        Ok(())
    }

    /// Is there room for another half-open SA? Under load only initiators that return a cookie are let in.
    pub(super) fn has_room(
        &mut self,
        ctx: &mut Ctx<'_>,
        dgram: &Datagram<'_>,
        header: &Header,
        payloads: &Payloads<'_>,
        nonce: &[u8],
    ) -> bool {
        let now = ctx.now.mono;
        // The source's share is for those it belongs to: whoever only writes its address gets half of it.
        // Whoever has a connection has received at its address (RFC 9329 section 6.3).
        let crowded = !dgram.via.is_tcp()
            && (self.half_open.total() >= self.config.cookie_threshold
                || self.half_open.of(dgram.from.ip()) >= self.config.half_open_per_address.div_ceil(2));
        if crowded {
            let cookie = payloads.notify(NotifyType::COOKIE).map(|n| n.data.as_ref());
            let good = cookie.is_some_and(|c| self.cookies.check(now, c, dgram.from, &header.spi_i, nonce));
            if !good {
                self.counters.cookies_demanded += 1;
                let cookie = self.cookies.make(now, ctx.rng, dgram.from, &header.spi_i, nonce);
                let notify = Notify::new(NotifyType::COOKIE, cookie);
                ctx.out.send(dgram.reply(refusal(header, &notify)));
                return false;
            }
        }
        let room = self.half_open.total() < self.config.half_open
            && self.half_open.of(dgram.from.ip()) < self.config.half_open_per_address
            && self.early_requests.have_room(dgram.bytes.len())
            && self.has_room_for_sa();
        if !room {
            self.counters.half_open_refused += 1;
        }
        room
    }

    fn take_up(
        &mut self,
        ctx: &mut Ctx<'_>,
        dgram: &Datagram<'_>,
        header: &Header,
        init: &Init<'_>,
        (choice, announced): (Choice, Announced),
        digest: Vec<u8>,
    ) {
        let spi = self.fresh_spi(ctx);
        let group = choice.suite.group;
        let private = Secret::random(group.seed_len(), ctx.rng);
        let job = ctx.out.job(Job::KeyExchange { group, private, peer: init.ke.data.to_vec() });
        let behind_nat = nat_found(&init.payloads, &header.spi_i, &[0; 8], (dgram.from, dgram.to)).is_there();
        let fragments = init.payloads.notify(NotifyType::IKEV2_FRAGMENTATION_SUPPORTED);
        let state = AwaitKe {
            spi_i: header.spi_i,
            choice,
            nonce_i: init.nonce.0.to_vec(),
            request: dgram.bytes.to_vec(),
            behind_nat,
            limit: fragments.map(|_| self.config.ike.limit(dgram.via)),
            announced,
            willing: Willing::read(&init.payloads),
            ppk: PpkUse::of(init.payloads.notify(NotifyType::USE_PPK).is_some(), &self.config.ppks),
        };
        let entry = Entry { path: Path::of(dgram), digest: digest.clone(), state: State::AwaitKe(Box::new(state)) };
        self.half_open.enter(dgram.from.ip());
        self.connections.begin(dgram.via, spi, self.config.half_open_timeout);
        self.sas.insert(spi, entry);
        self.note_early(spi);
        self.inits.insert(digest, spi);
        self.jobs.insert(job, spi);
        self.arm(spi, ctx.now.mono + self.config.half_open_timeout);
    }

    /// Neither zero nor in use; and never four zero octets in front, which read as a non-ESP marker.
    pub(super) fn fresh_spi(&self, ctx: &mut Ctx<'_>) -> Spi {
        loop {
            let mut spi = [0; 8];
            ctx.rng.fill(&mut spi);
            if spi[..4] != [0; 4] && !self.sas.contains_key(&spi) {
                return spi;
            }
        }
    }

    pub(super) fn repeat_init(&mut self, ctx: &mut Ctx<'_>, dgram: &Datagram<'_>, spi: Spi) {
        self.counters.repeated += 1;
        let state = match self.sas.get(&spi).map(|e| &e.state) {
            Some(State::ExpectAuth(state)) => state,
            Some(State::AwaitProof(waiting)) => &waiting.expect,
            Some(State::AwaitKe(_) | State::Established(_) | State::Closed(_)) | None => return,
        };
        ctx.out.send(dgram.reply(state.init_response.clone()));
    }

    pub(super) fn key_exchange_done(&mut self, ctx: &mut Ctx<'_>, spi: Spi, done: JobDone) {
        // This side asks for nothing else.
        let JobDone::KeyExchange(result) = done else { return };
        let Some(Entry { path, state: State::AwaitKe(state), .. }) = self.sas.get(&spi) else {
            return self.additional_done(ctx, spi, result);
        };
        let (public, shared) = match result {
            Ok(both) => both,
            Err(error) => {
                self.counters.key_exchange_failed += 1;
                tracing::debug!(peer = %path.peer, %error, "key exchange failed");
                return self.remove(ctx.out, spi);
            }
        };
        let path = *path;
        let log = self.key_log.as_deref_mut().map(|l| l as _);
        // Whoever has to show a certificate is told which.
        let credentials = &self.config.credentials;
        let trust = credentials.trust().filter(|_| credentials.takes_ikev2_certificates_from(path.peer.ip()));
        let certificates = trust.and_then(certificates::request);
        match state.advance(ctx, spi, path, (&public, &shared), certificates, log) {
            Ok(next) => {
                ctx.out.send(path.transmit(next.init_response.clone()));
                if let Some(entry) = self.sas.get_mut(&spi) {
                    entry.state = State::ExpectAuth(Box::new(next));
                }
            }
            Err(error) => {
                tracing::error!(%error, "keys of an IKE SA could not be made");
                self.remove(ctx.out, spi);
            }
        }
    }
}

impl AwaitKe {
    fn advance(
        &self,
        ctx: &mut Ctx<'_>,
        spi_r: Spi,
        path: Path,
        (public, shared): (&[u8], &Secret),
        certificates: Option<Vec<u8>>,
        log: Option<&mut (dyn crate::keylog::KeyLog + Send)>,
    ) -> Result<ExpectAuth, keyferry_crypto::CryptoError> {
        let mut nonce_r = vec![0; NONCE_LEN];
        ctx.rng.fill(&mut nonce_r);
        let suite = self.choice.suite;
        let keys = Skeyseed::derive(suite, &self.nonce_i, &nonce_r, shared).expand(&self.spi_i, &spi_r);
        let (mut sa, proof) = IkeSa::new(Role::Responder, suite, self.spi_i, spi_r, keys, ctx.rng, log)?;
        sa.set_limit(self.limit);
        let answer = Sa { proposals: vec![self.choice.proposal.clone()] };
        let intermediate = Intermediate::new(&suite);
        // A responder takes fragments where the initiator does (RFC 7383 section 2.3).
        let fragments = self.limit.map(|_| NotifyType::IKEV2_FRAGMENTATION_SUPPORTED);
        let more = Some(NotifyType::INTERMEDIATE_EXCHANGE_SUPPORTED).filter(|_| !intermediate.is_over());
        let ppk = Some(NotifyType::USE_PPK).filter(|_| self.ppk == PpkUse::Announced);
        let abilities: Vec<NotifyType> = fragments.into_iter().chain(more).chain(ppk).collect();
        let init_response = response(&Parts {
            spi_i: self.spi_i,
            spi_r,
            sa: &answer,
            ke_method: ke_number(suite.group),
            public,
            nonce: &nonce_r,
            path: (path.local, path.peer),
            abilities: &abilities,
            announcement: self.announced.knows_digital_signatures().then(announcement),
            certificates,
            redirected_from: None,
        });
        let nonces = (self.nonce_i.clone(), nonce_r);
        Ok(ExpectAuth {
            sa,
            proof,
            nonces,
            init_request: self.request.clone(),
            init_response,
            behind_nat: self.behind_nat,
            intermediate,
            ppk: self.ppk,
            ppk_id: None,
            announced: self.announced.clone(),
            willing: self.willing,
            resumed: None,
        })
    }
}
