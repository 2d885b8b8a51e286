//! Messages of phase 1, and the jobs that come of them.

use std::net::IpAddr;
use std::time::Duration;

use keyferry_crypto::JobDone;
use keyferry_model::drive::{Ctx, Datagram, JobId, Outbox};
use keyferry_wire::Header;

use super::half_open::source;
use super::sessions::Session;
use super::{Server, Timer};
use crate::keylog;
use crate::message::Payloads;
use crate::phase1::ike_sa::notice_in_clear;
use crate::phase1::responder::{
    Found, HalfOpen, Impostor, KeStep, Path, PeerKe, Peers, Progress, Rules, ToCheck, Verified,
};
use crate::reject::Reject;
use crate::wire::notification::Notification;
use crate::wire::registry::{Doi, NotifyType, exchange, flag, payload, phase1};

/// Public-key work that has to wait.
enum Held {
    Keys(PeerKe),
    Check(Box<ToCheck>),
}

impl Server {
    /// A message of main mode or aggressive mode.
    pub(super) fn phase1(
        &mut self,
        ctx: &mut Ctx<'_>,
        header: &Header,
        body: &[u8],
        dgram: &Datagram<'_>,
    ) -> Result<(), Reject> {
        if header.message_id != 0 {
            return Err(Reject::Unauthenticated("message ID in phase 1"));
        }
        if header.spi_r == [0; 8] {
            return self.first_message(ctx, header, body, dgram);
        }
        if let Some(session) = self.sessions.get(&header.spi_pair()) {
            if let Some(answer) = session.repeat_of_auth(dgram) {
                self.counters.repeated += 1;
                ctx.out.send(dgram.reply(answer.to_vec()));
                return Ok(());
            }
            return Err(Reject::Replayed);
        }
        let half = self.half_open.get(&header.spi_r).ok_or(Reject::Unauthenticated("no such exchange"))?;
        let same = half.cookies() == &header.spi_pair() && half.exchange() == header.exchange;
        if !same || half.peer() != dgram.from.ip() {
            return Err(Reject::Unauthenticated("no such exchange"));
        }
        if header.flags & flag::ENCRYPTED != 0 || half.exchange() == exchange::AGGRESSIVE {
            return self.proof(ctx, header, body, dgram);
        }
        match half.ke(header, dgram, body, &self.config.credentials)? {
            KeStep::Repeat(answer) => {
                self.counters.repeated += 1;
                ctx.out.send(dgram.reply(answer));
            }
            KeStep::Nothing => self.counters.repeated += 1,
            KeStep::New(peer) if self.may_work(dgram.from.ip(), ctx.now.mono) => {
                self.exchange_keys(ctx, header.spi_r, peer);
            }
            KeStep::New(peer) | KeStep::TooMany(peer) => self.hold(ctx, header.spi_r, Held::Keys(peer)),
        }
        Ok(())
    }

    fn first_message(
        &mut self,
        ctx: &mut Ctx<'_>,
        header: &Header,
        body: &[u8],
        dgram: &Datagram<'_>,
    ) -> Result<(), Reject> {
        if header.flags & flag::ENCRYPTED != 0 {
            return Err(Reject::Unauthenticated("encrypted first message"));
        }
        if let Some(half) = self.half_open.repeated(header, dgram) {
            self.counters.repeated += 1;
            if let Some(answer) = half.answer(ctx.now.mono) {
                ctx.out.send(dgram.reply(answer.to_vec()));
            }
            return Ok(());
        }
        let (mut half, peer) = match self.open(ctx, header, body, dgram) {
            Ok(opened) => opened,
            Err(reject) => {
                if let Reject::Unacceptable(_, kind) = reject {
                    self.notify_in_clear(ctx, header, dgram, kind);
                }
                return Err(reject);
            }
        };
        if let Some(oldest) = self.half_open.displaced_by(dgram.from.ip()) {
            self.counters.half_open_refused += 1;
            self.drop_half_open(ctx, &oldest);
        }
        half.begun = ctx.now.mono;
        half.expires = ctx.now.mono + self.config.exchange_timeout;
        if let Some(answer) = half.answer(ctx.now.mono) {
            ctx.out.send(dgram.reply(answer.to_vec()));
        }
        let due = half.due();
        let cookie = self.half_open.insert(half);
        self.timers.insert((due, Timer::HalfOpen(cookie)));
        if let Some(peer) = peer {
            self.exchange_keys(ctx, cookie, peer);
        }
        Ok(())
    }

    /// Reads message 1. What it says may be forged throughout; in aggressive mode it costs a key exchange, and with
    /// signatures one of those, so there it is taken only so often from one source, and altogether.
    fn open(
        &mut self,
        ctx: &mut Ctx<'_>,
        header: &Header,
        body: &[u8],
        dgram: &Datagram<'_>,
    ) -> Result<(HalfOpen, Option<PeerKe>), Reject> {
        let rules = Rules {
            accepted: &self.accepted,
            credentials: &self.config.credentials,
            identity: self.config.identity.as_ref(),
            decoy: self.decoy.get_or_insert_with(|| keyferry_crypto::Secret::random(32, ctx.rng)),
        };
        if header.exchange == exchange::MAIN_MODE {
            return Ok((HalfOpen::open(header, dgram, body, rules, ctx.rng)?, None));
        }
        let (half, peer) = HalfOpen::open_aggressive(header, dgram, body, rules, ctx.rng)?;
        let window = Duration::from_secs(1);
        if ctx.now.mono >= self.aggressive.0 + window {
            self.aggressive = (ctx.now.mono, 0);
        }
        let hasty = self.half_open.hasty(dgram.from.ip(), ctx.now.mono) >= self.config.aggressive_per_source;
        if hasty || self.aggressive.1 >= self.config.aggressive_per_second {
            self.counters.half_open_refused += 1;
            return Err(Reject::Unauthenticated("too many exchanges of aggressive mode"));
        }
        self.aggressive.1 += 1;
        Ok((half, Some(peer)))
    }

    /// May more public-key work be done for a source that has proved nothing yet?
    fn may_work(&mut self, from: IpAddr, mono: Duration) -> bool {
        self.budget.draw(source(from), self.config.work_per_source, mono)
    }

    /// Keeps what has to wait for its turn.
    fn hold(&mut self, ctx: &Ctx<'_>, cookie: [u8; 8], held: Held) {
        let Some(half) = self.half_open.get_mut(&cookie) else { return };
        match held {
            Held::Keys(peer) => half.hold(peer, ctx.now.mono),
            Held::Check(check) => half.hold_check(*check, ctx.now.mono),
        }
        self.timers.insert((half.due(), Timer::HalfOpen(cookie)));
    }

    fn exchange_keys(&mut self, ctx: &mut Ctx<'_>, cookie: [u8; 8], peer: PeerKe) {
        let Some(half) = self.half_open.get_mut(&cookie) else { return };
        let (job, displaced) = half.begin(peer, ctx.out, ctx.rng);
        self.jobs.insert(job, cookie);
        self.give_up(ctx.out, displaced);
    }

    fn begin_check(&mut self, ctx: &mut Ctx<'_>, cookie: [u8; 8], check: ToCheck) {
        let Some(half) = self.half_open.get_mut(&cookie) else { return };
        let job = half.begin_check(check, ctx.out);
        self.jobs.insert(job, cookie);
    }

    /// Message 5 of main mode, or 3 of aggressive mode.
    fn proof(&mut self, ctx: &mut Ctx<'_>, header: &Header, body: &[u8], dgram: &Datagram<'_>) -> Result<(), Reject> {
        let half = self.half_open.get(&header.spi_r).ok_or(Reject::Unauthenticated("no such exchange"))?;
        let peers = Peers { credentials: &self.config.credentials, seen: &|member| ctx.model.readings(member) };
        match half.verify(header, body, dgram, &peers, ctx.now, ctx.rng) {
            Ok(Found::Proven(peer)) => self.establish(ctx, header.spi_r, *peer),
            Ok(Found::Signed(check)) if self.may_work(dgram.from.ip(), ctx.now.mono) => {
                self.begin_check(ctx, header.spi_r, *check);
                Ok(())
            }
            Ok(Found::Signed(check) | Found::TooMany(check)) => {
                self.hold(ctx, header.spi_r, Held::Check(check));
                Ok(())
            }
            Ok(Found::Repeat) => {
                self.counters.repeated += 1;
                Ok(())
            }
            Err(impostor) => {
                let why = impostor.why;
                self.refuse_peer(ctx, Path::of(dgram), impostor);
                Err(why)
            }
        }
    }

    /// A job of phase 1 is done.
    pub(super) fn phase1_done(&mut self, ctx: &mut Ctx<'_>, job: JobId, done: JobDone) {
        let Some(cookie) = self.jobs.remove(&job) else { return };
        let Some(half) = self.half_open.get_mut(&cookie) else { return };
        match half.complete(job, done, &self.config.credentials, ctx.out, ctx.rng) {
            Progress::Send(transmit) => ctx.out.send(transmit),
            Progress::Job(next) => {
                self.jobs.insert(next, cookie);
            }
            Progress::Proven(peer) => {
                if let Err(reject) = self.establish(ctx, cookie, *peer) {
                    tracing::debug!(%reject, "phase 1 came to nothing");
                }
            }
            Progress::Refused(path, impostor) => {
                self.counters.unacceptable += 1;
                self.refuse_peer(ctx, path, impostor);
            }
            Progress::Nothing(why) => {
                self.counters.unauthenticated += 1;
                tracing::debug!(?job, why, "phase 1 does not go on");
            }
        }
    }

    /// Tells a peer that has proved itself that it may not be what it says it is.
    fn refuse_peer(&mut self, ctx: &mut Ctx<'_>, path: Path, impostor: Impostor) {
        if let Some(notice) = impostor.notice {
            tracing::debug!(peer = %path.from, why = %impostor.why, "peer refused in phase 1");
            ctx.out.send(path.reply(notice));
        }
    }

    fn establish(&mut self, ctx: &mut Ctx<'_>, cookie: [u8; 8], peer: Verified) -> Result<(), Reject> {
        let Some(half) = self.drop_half_open(ctx, &cookie) else { return Ok(()) };
        let Ok(completed) = half.advance(peer) else {
            return Err(Reject::Unacceptable("message 6 cannot be made", NotifyType::INVALID_ID_INFORMATION));
        };
        if let Some(log) = &mut self.key_log {
            log.log(keylog::TABLE, &completed.sa.key_log_line());
        }
        if let Some(answer) = &completed.answer {
            ctx.out.send(completed.path.reply(answer.clone()));
        }
        let mut lifetime = completed.lifetime.map_or(self.config.sa_lifetime, |l| l.min(self.config.sa_lifetime));
        if let Some(until) = completed.until {
            // What a certificate has opened closes with it.
            lifetime = lifetime.min(until.saturating_sub(ctx.now.wall));
        }
        let shorter = completed.lifetime.is_none_or(|l| l > lifetime);
        let initial_contact = completed.initial_contact;
        tracing::info!(peer = %completed.path.from, identity = %completed.identity, "phase 1 stands");
        if !completed.seen.is_empty() {
            tracing::debug!(member = %completed.identity, readings = %completed.seen, "it reads phase 1 in another way");
        }
        self.counters.established += 1;
        let cookies = *completed.sa.cookies();
        self.enter(Session::new(completed, lifetime, ctx));
        if initial_contact {
            self.initial_contact(&cookies);
        }
        if shorter {
            self.tell_lifetime(ctx, &cookies);
        }
        Ok(())
    }

    /// Drops an exchange and gives up its jobs.
    fn drop_half_open(&mut self, ctx: &mut Ctx<'_>, cookie: &[u8; 8]) -> Option<HalfOpen> {
        let half = self.half_open.remove(cookie)?;
        self.give_up(ctx.out, half.jobs());
        Some(half)
    }

    /// Nobody waits for these jobs any more.
    pub(super) fn give_up(&mut self, out: &mut Outbox, jobs: impl IntoIterator<Item = JobId>) {
        for job in jobs {
            if self.jobs.remove(&job).is_some() {
                out.cancel(job);
            }
        }
    }

    pub(super) fn expire_half_open(&mut self, ctx: &mut Ctx<'_>, cookie: [u8; 8]) {
        let mono = ctx.now.mono;
        let Some(half) = self.half_open.get_mut(&cookie) else { return };
        if half.expires <= mono {
            self.counters.timed_out += 1;
            self.drop_half_open(ctx, &cookie);
            return;
        }
        let from = half.peer();
        let (peer, checks) = half.release(mono);
        self.timers.insert((half.due(), Timer::HalfOpen(cookie)));
        if let Some(peer) = peer {
            if self.may_work(from, mono) {
                self.exchange_keys(ctx, cookie, peer);
            } else {
                self.hold(ctx, cookie, Held::Keys(peer));
            }
        }
        for check in checks {
            if self.may_work(from, mono) {
                self.begin_check(ctx, cookie, check);
            } else {
                self.hold(ctx, cookie, Held::Check(Box::new(check)));
            }
        }
    }

    /// A notice to somebody who is not authenticated: in clear, and seldom.
    fn notify_in_clear(&mut self, ctx: &mut Ctx<'_>, header: &Header, dgram: &Datagram<'_>, kind: NotifyType) {
        if !self.may_notify(ctx.now.mono) {
            return;
        }
        let cookies = header.spi_pair();
        let n = Notification { doi: Doi::GDOI, protocol: phase1::PROTO_ISAKMP, kind, spi: &cookies, data: &[] };
        let payloads = Payloads::new().with(payload::NOTIFICATION, &n);
        if let Ok(notice) = notice_in_clear(&cookies, &payloads, ctx.rng) {
            ctx.out.send(dgram.reply(notice));
        }
    }
}
