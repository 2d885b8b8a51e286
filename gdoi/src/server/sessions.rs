//! Phase 1 SAs of authenticated members: registrations under them, and their end.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use keyferry_crypto::{Hash, Random, Secret};
use keyferry_model::admission::{Issued, JoinRequest, Refusal};
use keyferry_model::credentials::Credentials;
use keyferry_model::drive::{Ctx, Datagram, Transmit};
use keyferry_model::id::{Identity, Protocol};
use keyferry_model::reading::Readings;
use keyferry_wire::Header;

use super::{Server, Timer};
use crate::dpd::{Dpd, Liveness};
use crate::member::NAT_PORT;
use crate::message::Payloads;
use crate::phase1::extensions::Extensions;
use crate::phase1::ike_sa::IkeSa;
use crate::phase1::nat::Nat;
use crate::phase1::responder::{Completed, Path, Proven};
use crate::policy::algorithms::{cipher_strength, strength};
use crate::pull::server::{Confirmed, Exchange, ExpectConfirm, Request, State, Told};
use crate::reject::Reject;
use crate::wire::registry::{Doi, NotifyType, payload};

/// Registrations and Deletes at most under one SA. Each uses up a message ID for the SA's life, lest it be replayed;
/// a member that needs more begins a new SA.
const MAX_IDS: usize = 256;

/// What follows an answer.
enum Next {
    /// Message 3.
    Expects(State),
    /// Nothing: this was told, if it was no refusal.
    Done(Option<Issued>),
}

/// A phase 1 SA with a member.
#[derive(Debug)]
pub(super) struct Session {
    sa: IkeSa,
    identity: Identity,
    /// How it has proved that.
    by: Proven,
    /// How the member talks to us: its address is that of phase 1, its port that of the newest message that is no copy.
    path: Path,
    extensions: Extensions,
    nat: Nat,
    /// How the member reads phase 1, other than we do.
    seen: Readings,
    liveness: Liveness,
    /// Hash of the message that proved the member, and message 6 of main mode.
    auth: (Vec<u8>, Option<Vec<u8>>),
    pulls: BTreeMap<u32, Exchange>,
    /// Message IDs that registrations and Deletes have used.
    ids: BTreeSet<u32>,
    used: Duration,
    expires: Duration,
}

impl Session {
    pub(super) fn new(completed: Completed, lifetime: Duration, ctx: &mut Ctx<'_>) -> Self {
        let mono = ctx.now.mono;
        Self {
            sa: completed.sa,
            identity: completed.identity,
            by: completed.by,
            path: completed.path,
            extensions: completed.extensions,
            nat: completed.nat,
            seen: completed.seen,
            liveness: Liveness::new(mono, ctx.rng),
            auth: (completed.request, completed.answer),
            pulls: BTreeMap::new(),
            ids: BTreeSet::new(),
            used: mono,
            expires: mono + lifetime,
        }
    }

    pub(super) fn sa(&self) -> &IkeSa {
        &self.sa
    }

    pub(super) fn cookies(&self) -> &[u8; 16] {
        self.sa.cookies()
    }

    pub(super) fn identity(&self) -> &Identity {
        &self.identity
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn address(&self) -> IpAddr {
        self.path.from.ip()
    }

    pub(super) fn nat(&self) -> Nat {
        self.nat
    }

    pub(super) fn extensions(&self) -> Extensions {
        self.extensions
    }

    pub(super) fn liveness(&mut self) -> &mut Liveness {
        &mut self.liveness
    }

    /// Do new credentials still let the member in by the key that it has proved itself with? Certificates are checked anew:
    /// new credentials bring new revocation lists, so the member has to show its own again.
    pub(super) fn is_backed(&self, former: &Credentials, new: &Credentials) -> bool {
        let same = |a: Option<&Arc<Secret>>, b: Option<&Arc<Secret>>| match (a, b) {
            (Some(a), Some(b)) => a.ct_eq(b.expose()),
            (None, _) | (_, None) => false,
        };
        let who = &self.identity;
        match self.by {
            Proven::KeyOfAddress(ip) => {
                new.allows(ip, who) && same(former.psk_for_address(ip), new.psk_for_address(ip))
            }
            Proven::KeyOfIdentityAt(ip) => same(former.psk_for_identity_at(who, ip), new.psk_for_identity_at(who, ip)),
            Proven::Certificate(_) => false,
        }
    }

    /// When it was used last.
    pub(super) fn used(&self) -> Duration {
        self.used
    }

    /// Message 6, if this is message 5 again.
    pub(super) fn repeat_of_auth(&self, dgram: &Datagram<'_>) -> Option<&[u8]> {
        let repeated = self.is_at(dgram) && Hash::Sha256.digest(&[dgram.bytes]) == self.auth.0;
        self.auth.1.as_deref().filter(|_| repeated)
    }

    /// Is this from the address where the member was last? The hashes do not cover it, so a copy of what the member sent may
    /// come from anywhere.
    pub(super) fn is_at(&self, dgram: &Datagram<'_>) -> bool {
        self.path.from.ip() == dgram.from.ip()
    }

    /// May this be the member's? The port may change, and behind a translator the address (RFC 3947 section 4): a message
    /// that is authentic and no copy then says where the member is.
    pub(super) fn comes_from(&self, dgram: &Datagram<'_>) -> bool {
        self.nat.theirs || self.is_at(dgram)
    }

    /// May a new exchange use this message ID?
    fn is_fresh(&self, message_id: u32) -> Result<(), Reject> {
        if self.ids.contains(&message_id) {
            return Err(Reject::Replayed);
        }
        if self.ids.len() >= MAX_IDS {
            return Err(Reject::Unacceptable("message IDs of an SA are used up", NotifyType::INVALID_ID_INFORMATION));
        }
        Ok(())
    }

    /// Uses a message ID up.
    pub(super) fn use_id(&mut self, message_id: u32) -> Result<(), Reject> {
        self.is_fresh(message_id)?;
        self.ids.insert(message_id);
        Ok(())
    }

    /// The member has used the SA with a message that is no copy: that is where it is now.
    pub(super) fn note_use(&mut self, dgram: &Datagram<'_>, mono: Duration) {
        self.used = mono;
        self.note_path(dgram);
        self.liveness.hear(mono);
    }

    pub(super) fn note_path(&mut self, dgram: &Datagram<'_>) {
        self.path = Path::of(dgram);
    }

    fn ends(&self, idle: Duration) -> Duration {
        self.expires.min(self.used + idle)
    }

    /// When something is to be done about it next.
    fn due(&self, idle: Duration, dpd: Option<Dpd>) -> Duration {
        let pulls = self.pulls.values().map(|p| p.expires);
        let probe = dpd.filter(|_| self.extensions.dpd).map(|dpd| self.liveness.due(&dpd));
        pulls.chain(probe).fold(self.ends(idle), Duration::min)
    }

    /// A status notification protected by this SA, on its way to the member.
    pub(super) fn status(&self, kind: NotifyType, data: &[u8], rng: &mut dyn Random) -> Option<Transmit> {
        let payloads = Payloads::new().with(payload::NOTIFICATION, &self.sa.status(kind, data));
        self.sa.notice(payloads, rng).ok().map(|bytes| self.path.reply(bytes))
    }

    /// A notification protected by this SA.
    fn refusal(&self, kind: NotifyType, rng: &mut dyn Random) -> Option<Vec<u8>> {
        self.sa.notice(self.sa.notification(kind, Doi::GDOI), rng).ok()
    }
}

impl Server {
    /// Enters an SA. Where there are too many, an old one goes.
    pub(super) fn enter(&mut self, session: Session) {
        let displaced = self.sessions.displaced_by(&session.identity, self.config.sas);
        if displaced.and_then(|cookies| self.sessions.remove(&cookies)).is_some() {
            self.counters.closed += 1;
        }
        let due = session.due(self.config.idle, self.config.dpd);
        self.timers.insert((due, Timer::Session(*session.cookies())));
        self.sessions.insert(session);
    }

    pub(super) fn expire_session(&mut self, ctx: &mut Ctx<'_>, cookies: [u8; 16]) {
        let mono = ctx.now.mono;
        if !self.probe(ctx, &cookies) {
            return;
        }
        let Some(session) = self.sessions.get_mut(&cookies) else { return };
        let pending = |p: &&Exchange| p.expires <= mono && matches!(p.state, State::ExpectConfirm(_));
        self.counters.timed_out += u64::try_from(session.pulls.values().filter(pending).count()).unwrap_or(0);
        session.pulls.retain(|_, p| p.expires > mono);
        if session.ends(self.config.idle) > mono {
            let due = session.due(self.config.idle, self.config.dpd);
            self.timers.insert((due, Timer::Session(cookies)));
        } else if let Some(session) = self.sessions.remove(&cookies) {
            tracing::debug!(member = %session.identity, "phase 1 ends");
            self.counters.closed += 1;
            if let Ok(notice) = session.sa.notice(session.sa.delete(), ctx.rng) {
                ctx.out.send(session.path.reply(notice));
            }
        }
    }

    pub(super) fn pull(
        &mut self,
        ctx: &mut Ctx<'_>,
        header: &Header,
        body: &[u8],
        dgram: &Datagram<'_>,
    ) -> Result<(), Reject> {
        let cookies = header.spi_pair();
        let session = self.sessions.get(&cookies).filter(|s| s.comes_from(dgram));
        let session = session.ok_or(Reject::Unauthenticated("no such SA"))?;
        let exchange = session.pulls.get(&header.message_id);
        if let Some((answer, issued)) = exchange.and_then(|e| e.repeat(dgram.bytes)) {
            if !session.is_at(dgram) {
                return Err(Reject::Replayed);
            }
            self.counters.repeated += 1;
            ctx.out.send(dgram.reply(answer.to_vec()));
            if let Some(issued) = issued {
                ctx.model.repeated(Protocol::Gdoi, issued);
            }
            return Ok(());
        }
        match exchange.map(|e| &e.state) {
            None if header.message_id == 0 => Err(Reject::Unauthenticated("message ID of a registration")),
            None => {
                session.is_fresh(header.message_id)?;
                let request = Request::verify(&session.sa, header, body)?;
                self.requested(ctx, header, dgram, request)
            }
            Some(State::ExpectConfirm(expect)) => match expect.verify(&session.sa, header, body)? {
                Ok(confirmed) => self.confirmed(ctx, header, dgram, &confirmed),
                Err(reject) => {
                    if let Reject::Unacceptable(_, kind) = reject {
                        self.refuse(ctx, header, dgram, kind);
                    }
                    Err(reject)
                }
            },
            Some(State::Done) => Err(Reject::Replayed),
        }
    }

    /// Message 1: tell the policy, or refuse. The model is asked, not changed (RFC 6407 section 3.2).
    fn requested(
        &mut self,
        ctx: &mut Ctx<'_>,
        header: &Header,
        dgram: &Datagram<'_>,
        request: Request,
    ) -> Result<(), Reject> {
        let Some(session) = self.sessions.get_mut(&header.spi_pair()) else { return Ok(()) };
        let pending = session.pulls.values().filter(|p| matches!(p.state, State::ExpectConfirm(_))).count();
        if pending >= self.config.pulls {
            return Err(Reject::Unacceptable("too many registrations at once", NotifyType::INVALID_ID_INFORMATION));
        }
        let offer = match request.group.clone() {
            Some(group) => {
                let offer = ctx.model.offer(&group, &session.identity, session.by.holder(), Protocol::Gdoi, ctx.now);
                offer.map(|offer| (group, offer))
            }
            None => Err(Refusal::UnknownGroup),
        };
        let (group, offer) = match offer {
            Ok(found) => found,
            Err(refusal) => {
                tracing::info!(member = %session.identity, group = ?request.group, %refusal, "registration refused");
                self.refuse(ctx, header, dgram, NotifyType::INVALID_ID_INFORMATION);
                return Ok(());
            }
        };
        let (cipher, needed) = (session.sa.keys().suite.cipher, strength(&offer.policy));
        if cipher_strength(cipher) < needed {
            tracing::info!(member = %session.identity, %group, ?cipher, needed_bits = needed * 8,
                "registration refused: phase 1 is weaker than the keys it would carry");
            self.refuse(ctx, header, dgram, NotifyType::INVALID_ID_INFORMATION);
            return Ok(());
        }
        let (member, path) = (&session.identity, Path::of(dgram));
        let told = Told { group, offer: &offer, member, path, wall: ctx.now.wall };
        let answer = request.answer(&session.sa, header.message_id, told, ctx.rng);
        match answer {
            Ok((answer, expect)) => {
                let state = State::ExpectConfirm(Box::new(expect));
                self.remember(ctx, header, dgram, &answer, Next::Expects(state));
                ctx.out.send(dgram.reply(answer));
            }
            Err(error) => {
                tracing::error!(group = %offer.policy.name, %error, "policy cannot be told");
                self.refuse(ctx, header, dgram, NotifyType::INVALID_ID_INFORMATION);
            }
        }
        Ok(())
    }

    /// Message 3: the member is alive. Now it is admitted.
    fn confirmed(
        &mut self,
        ctx: &mut Ctx<'_>,
        header: &Header,
        dgram: &Datagram<'_>,
        confirmed: &Confirmed,
    ) -> Result<(), Reject> {
        let Some(session) = self.sessions.get_mut(&header.spi_pair()) else { return Ok(()) };
        let Some(expect) = session.pulls.get(&header.message_id).and_then(expected) else { return Ok(()) };
        let request = JoinRequest {
            identity: &session.identity,
            holder: session.by.holder(),
            protocol: Protocol::Gdoi,
            address: dgram.from,
            sender_ids: Some(confirmed.sender_ids),
            gikev2: None,
        };
        let admitted = ctx.model.admit(&expect.group, request, Some(expect.generation), ctx.now, ctx.rng);
        if admitted.is_ok() && session.nat.is_there() {
            ctx.model.reach(&session.identity, Protocol::Gdoi, dgram.from, is_encapsulated(dgram));
        }
        if admitted.is_ok() {
            ctx.model.note_readings(&session.identity, session.seen);
        }
        // Durable before anything that depends on it leaves; a refusal may have changed something too.
        ctx.flush();
        let answer = match admitted {
            Ok(admission) => match expect.answer(&session.sa, header.message_id, confirmed, &admission) {
                Ok(answer) => Ok((answer, admission.issued(&session.identity))),
                Err(error) => {
                    tracing::error!(member = %session.identity, %error, "keys cannot be told");
                    Err(NotifyType::INVALID_ID_INFORMATION)
                }
            },
            Err(Refusal::Stale) => Err(NotifyType::INVALID_SPI),
            Err(refusal) => {
                tracing::info!(member = %session.identity, group = %expect.group, %refusal, "registration refused");
                Err(NotifyType::INVALID_ID_INFORMATION)
            }
        };
        match answer {
            Ok((answer, issued)) => {
                self.counters.registered += 1;
                self.remember(ctx, header, dgram, &answer, Next::Done(Some(issued)));
                ctx.out.send(dgram.reply(answer));
            }
            Err(kind) => self.refuse(ctx, header, dgram, kind),
        }
        Ok(())
    }

    /// Ends a registration with a notice, which a repeat of the request gets again.
    fn refuse(&mut self, ctx: &mut Ctx<'_>, header: &Header, dgram: &Datagram<'_>, kind: NotifyType) {
        self.counters.refused += 1;
        let Some(session) = self.sessions.get(&header.spi_pair()) else { return };
        if let Some(notice) = session.refusal(kind, ctx.rng) {
            self.remember(ctx, header, dgram, &notice, Next::Done(None));
            ctx.out.send(dgram.reply(notice));
        }
    }

    /// Remembers what a request was answered with.
    fn remember(&mut self, ctx: &Ctx<'_>, header: &Header, dgram: &Datagram<'_>, answer: &[u8], next: Next) {
        let Some(session) = self.sessions.get_mut(&header.spi_pair()) else { return };
        let expires = ctx.now.mono + self.config.exchange_timeout;
        session.note_use(dgram, ctx.now.mono);
        session.ids.insert(header.message_id);
        let (state, issued) = match next {
            Next::Expects(state) => (state, None),
            Next::Done(issued) => (State::Done, issued),
        };
        match session.pulls.get_mut(&header.message_id) {
            Some(exchange) => {
                exchange.finish(dgram.bytes, answer.to_vec(), issued);
                exchange.expires = expires;
            }
            None => {
                let exchange = Exchange::new(dgram.bytes, answer.to_vec(), state, expires);
                session.pulls.insert(header.message_id, exchange);
            }
        }
        // Bound what one member can make us remember.
        while session.pulls.len() > self.config.pulls * 2 {
            let oldest = session.pulls.iter().min_by_key(|(_, e)| e.expires).map(|(id, _)| *id);
            oldest.and_then(|id| session.pulls.remove(&id));
        }
        self.timers.insert((expires, Timer::Session(header.spi_pair())));
    }
}

/// Has it come through a translator, to the port for that (RFC 3947 section 4)?
pub(super) fn is_encapsulated(dgram: &Datagram<'_>) -> bool {
    dgram.via.is_marked_udp() && dgram.to.port() == NAT_PORT
}

fn expected(exchange: &Exchange) -> Option<&ExpectConfirm> {
    match &exchange.state {
        State::ExpectConfirm(expect) => Some(expect),
        State::Done => None,
    }
}
