//! Phase 1 exchanges under way: the table, its limits, and the messages of main mode.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, Ipv6Addr};

use keyferry_model::drive::{Ctx, Datagram};
use keyferry_wire::Header;

use super::sessions::Session;
use super::{Server, Timer};
use crate::identity;
use crate::keylog;
use crate::message::{self, Payloads};
use crate::phase1::responder::{HalfOpen, KeStep, PeerKe};
use crate::reject::Reject;
use crate::wire::notification::Notification;
use crate::wire::registry::{Doi, NotifyType, exchange, flag, payload, phase1};

/// Phase 1 exchanges by our cookie. The oldest make room for newcomers, so that a flood keeps nobody out for long. Those
/// whose peer has answered are spared for as long as there are others: who forges its address does not see our cookie.
#[derive(Debug)]
pub(super) struct HalfOpens {
    by_cookie: BTreeMap<[u8; 8], HalfOpen>,
    /// Cookies of each source, oldest first.
    by_source: BTreeMap<IpAddr, VecDeque<[u8; 8]>>,
    /// Address, its cookie, ours: where to look for the exchange that a message 1 began.
    by_peer: BTreeSet<(IpAddr, [u8; 8], [u8; 8])>,
    /// All cookies that have not been answered by message 3 when they were entered, oldest first.
    in_order: VecDeque<[u8; 8]>,
    limit: usize,
    limit_per_source: usize,
}

/// Limits count addresses of IPv4, and networks of 64 bits of IPv6, where a single host has as many addresses as it likes.
fn source(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(_) => ip,
        IpAddr::V6(a) => IpAddr::V6(Ipv6Addr::from(u128::from(a) & (u128::MAX << 64))),
    }
}

/// The peer's cookie and ours.
fn cookies_of(half: &HalfOpen) -> ([u8; 8], [u8; 8]) {
    let (mut theirs, mut ours) = ([0; 8], [0; 8]);
    theirs.copy_from_slice(&half.cookies()[..8]);
    ours.copy_from_slice(&half.cookies()[8..]);
    (theirs, ours)
}

impl HalfOpens {
    pub(super) fn new(limit: usize, limit_per_source: usize) -> Self {
        Self {
            by_cookie: BTreeMap::new(),
            by_source: BTreeMap::new(),
            by_peer: BTreeSet::new(),
            in_order: VecDeque::new(),
            limit,
            limit_per_source,
        }
    }

    #[cfg(feature = "fuzzing")]
    pub(super) fn len(&self) -> usize {
        self.by_cookie.len()
    }

    pub(super) fn get(&self, cookie: &[u8; 8]) -> Option<&HalfOpen> {
        self.by_cookie.get(cookie)
    }

    pub(super) fn get_mut(&mut self, cookie: &[u8; 8]) -> Option<&mut HalfOpen> {
        self.by_cookie.get_mut(cookie)
    }

    /// The exchange that this message 1 began.
    fn repeated(&self, header: &Header, dgram: &Datagram<'_>) -> Option<&HalfOpen> {
        let of = |ours| (dgram.from.ip(), header.spi_i, ours);
        let cookies = self.by_peer.range(of([0; 8])..=of([0xff; 8]));
        cookies.filter_map(|(.., ours)| self.by_cookie.get(ours)).find(|h| h.is_repeat(dgram))
    }

    /// Who must go for a newcomer from this address: the source's own oldest, or the oldest of all; first of those that
    /// have not shown that they get our answers. `Err` when there is no room at all.
    fn displaced_by(&mut self, ip: IpAddr) -> Result<Option<[u8; 8]>, ()> {
        if let Some(own) = self.by_source.get(&source(ip)).filter(|own| own.len() >= self.limit_per_source) {
            let silent = own.iter().find(|c| self.by_cookie.get(*c).is_some_and(|h| !h.is_answered()));
            return silent.or(own.front()).copied().map(Some).ok_or(());
        }
        if self.by_cookie.len() < self.limit {
            return Ok(None);
        }
        while let Some(cookie) = self.in_order.pop_front() {
            if self.by_cookie.get(&cookie).is_some_and(|h| !h.is_answered()) {
                return Ok(Some(cookie));
            }
        }
        Err(())
    }

    fn insert(&mut self, half: HalfOpen) -> [u8; 8] {
        let (theirs, cookie) = cookies_of(&half);
        self.by_peer.insert((half.peer(), theirs, cookie));
        self.by_source.entry(source(half.peer())).or_default().push_back(cookie);
        self.in_order.push_back(cookie);
        // Entries of exchanges that ended stay in the queue until they come up; don't let them pile up.
        if self.in_order.len() > 2 * self.limit.max(16) {
            let live = &self.by_cookie;
            self.in_order.retain(|c| live.contains_key(c) || *c == cookie);
        }
        self.by_cookie.insert(cookie, half);
        cookie
    }

    pub(super) fn remove(&mut self, cookie: &[u8; 8]) -> Option<HalfOpen> {
        let half = self.by_cookie.remove(cookie)?;
        self.by_peer.remove(&(half.peer(), cookies_of(&half).0, *cookie));
        let source = source(half.peer());
        if let Some(own) = self.by_source.get_mut(&source) {
            own.retain(|c| c != cookie);
            if own.is_empty() {
                self.by_source.remove(&source);
            }
        }
        Some(half)
    }
}

impl Server {
    pub(super) fn main_mode(
        &mut self,
        ctx: &mut Ctx<'_>,
        header: &Header,
        body: &[u8],
        dgram: &Datagram<'_>,
    ) -> Result<(), Reject> {
        if header.message_id != 0 {
            return Err(Reject::Unauthenticated("message ID in main mode"));
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
        if half.cookies() != &header.spi_pair() || half.peer() != dgram.from.ip() {
            return Err(Reject::Unauthenticated("no such exchange"));
        }
        if header.flags & flag::ENCRYPTED != 0 {
            return self.auth(ctx, header, body, dgram);
        }
        match half.ke(header, dgram, body)? {
            KeStep::Repeat(answer) => {
                self.counters.repeated += 1;
                ctx.out.send(dgram.reply(answer));
            }
            KeStep::Nothing => self.counters.repeated += 1,
            KeStep::New(peer) => self.exchange_keys(ctx, header.spi_r, peer),
            KeStep::TooMany(peer) => {
                if let Some(half) = self.half_open.get_mut(&header.spi_r) {
                    half.hold(peer, ctx.now.mono);
                    self.timers.insert((half.due(), Timer::HalfOpen(header.spi_r)));
                }
            }
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
            ctx.out.send(dgram.reply(half.answer().to_vec()));
            return Ok(());
        }
        let opened = HalfOpen::open(header, dgram, body, &self.accepted, &self.config.credentials, ctx.rng);
        let mut half = match opened {
            Ok(half) => half,
            Err(reject) => {
                if let Reject::Unacceptable(_, kind) = reject {
                    self.notify_in_clear(ctx, header, dgram, kind);
                }
                return Err(reject);
            }
        };
        match self.half_open.displaced_by(dgram.from.ip()) {
            Ok(None) => {}
            Ok(Some(oldest)) => {
                self.counters.half_open_refused += 1;
                self.drop_half_open(&oldest);
            }
            Err(()) => {
                self.counters.half_open_refused += 1;
                return Ok(());
            }
        }
        half.expires = ctx.now.mono + self.config.exchange_timeout;
        ctx.out.send(dgram.reply(half.answer().to_vec()));
        let due = half.due();
        let cookie = self.half_open.insert(half);
        self.timers.insert((due, Timer::HalfOpen(cookie)));
        Ok(())
    }

    fn exchange_keys(&mut self, ctx: &mut Ctx<'_>, cookie: [u8; 8], peer: PeerKe) {
        let Some(half) = self.half_open.get_mut(&cookie) else { return };
        let job = ctx.out.job(half.job(&peer, ctx.rng));
        half.await_keys(peer, job, ctx.rng);
        self.jobs.insert(job, cookie);
    }

    fn auth(&mut self, ctx: &mut Ctx<'_>, header: &Header, body: &[u8], dgram: &Datagram<'_>) -> Result<(), Reject> {
        let half = self.half_open.get(&header.spi_r).ok_or(Reject::Unauthenticated("no such exchange"))?;
        let peer = match half.verify(header, body, &self.config.credentials, ctx.rng) {
            Ok(peer) => peer,
            Err(impostor) => {
                if let Some(notice) = impostor.notice {
                    tracing::info!(peer = %dgram.from, why = %impostor.why, "peer refused in phase 1");
                    ctx.out.send(dgram.reply(notice));
                }
                return Err(impostor.why);
            }
        };
        let id = identity::of_identity(&self.identity(dgram.to.ip()));
        let Some(half) = self.drop_half_open(&header.spi_r) else { return Ok(()) };
        let Ok(completed) = half.advance(peer, &id) else {
            return Err(Reject::Unacceptable("message 6 cannot be made", NotifyType::INVALID_ID_INFORMATION));
        };
        if let Some(log) = &mut self.key_log {
            log.log(keylog::TABLE, &completed.sa.key_log_line());
        }
        ctx.out.send(dgram.reply(completed.answer.clone()));
        let lifetime = completed.lifetime.map_or(self.config.sa_lifetime, |l| l.min(self.config.sa_lifetime));
        let shorter = completed.lifetime.is_none_or(|l| l > lifetime);
        let initial_contact = completed.initial_contact;
        tracing::info!(peer = %dgram.from, identity = %completed.identity, "phase 1 stands");
        self.counters.established += 1;
        let cookies = header.spi_pair();
        self.enter(Session::new(completed, dgram, lifetime, ctx));
        if initial_contact {
            self.initial_contact(&cookies);
        }
        if shorter {
            self.tell_lifetime(ctx, &cookies);
        }
        Ok(())
    }

    /// Drops an exchange and forgets its jobs.
    fn drop_half_open(&mut self, cookie: &[u8; 8]) -> Option<HalfOpen> {
        let half = self.half_open.remove(cookie)?;
        for job in half.jobs() {
            self.jobs.remove(&job);
        }
        Some(half)
    }

    pub(super) fn expire_half_open(&mut self, ctx: &mut Ctx<'_>, cookie: [u8; 8]) {
        let mono = ctx.now.mono;
        let Some(half) = self.half_open.get_mut(&cookie) else { return };
        if half.expires <= mono {
            self.counters.timed_out += 1;
            self.drop_half_open(&cookie);
            return;
        }
        let released = half.release(mono);
        self.timers.insert((half.due(), Timer::HalfOpen(cookie)));
        if let Some(peer) = released {
            self.exchange_keys(ctx, cookie, peer);
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
        let id = ctx.rng.u32().max(1);
        let header = message::header(&cookies, exchange::INFORMATIONAL, 0, id, payload::NOTIFICATION);
        if let Ok(notice) = message::clear(&header, &payloads) {
            ctx.out.send(dgram.reply(notice));
        }
    }
}
