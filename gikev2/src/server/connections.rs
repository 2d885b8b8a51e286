//! TCP connections of members (RFC 9329 section 6): which IKE SAs they carry, and when they are closed.
//!
//! ```text
//!  a connection        input                                    next      output
//!  -                   opened                                   unproven
//!  -                   opened, one too many                     unproven  Close of the oldest unproven one, or of itself
//!  unproven, proven    a first request, no IKE SA over it       the same
//!  unproven, proven    a first request, an IKE SA over it       the same  (silence)
//!  unproven            a peer has proved itself, or an IKE SA   proven
//!                      that there is goes on over it
//!  proven              its last IKE SA has gone, or goes on     unproven
//!                      over another one
//!  unproven            its time is up                           -         Close
//!  any                 too many messages of no use in a row     -         Close
//!  any                 closed by the peer                       -         the IKE SAs stay
//! ```
//!
//! Nobody learns anything from a connection but its address; whose it is, messages over it tell.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use keyferry_model::drive::{ConnectionId, Ctx, Via};

use super::limits::source;
use super::{Entry, Path, Server, ServerConfig, Spi, State};

/// Whoever connects has something to say within this time; an IKE SA in the making has its own time besides.
const SILENCE: Duration = Duration::from_secs(10);

/// Messages in a row that nothing can be made of, before a stream is held to be corrupted (RFC 9329 section 6.1).
const REJECTED: u32 = 16;

/// A connection.
struct Connection {
    source: IpAddr,
    /// Since when nobody has proved itself over it.
    unproven: Duration,
    /// The IKE SAs that go over it: one, or while it gets new keys those beside it.
    sas: BTreeSet<Spi>,
    /// It is closed then, unless somebody proves itself.
    until: Option<Duration>,
    rejected: u32,
}

/// All connections.
#[derive(Default)]
pub(super) struct Connections {
    open: BTreeMap<ConnectionId, Connection>,
    by_source: BTreeMap<IpAddr, usize>,
    due: BTreeSet<(Duration, ConnectionId)>,
    /// Those whose last IKE SA has gone, until they are given their time.
    left: BTreeSet<ConnectionId>,
}

impl Connections {
    /// One more; says which one has no room, perhaps this.
    fn open(&mut self, id: ConnectionId, from: IpAddr, now: Duration, config: &ServerConfig) -> Option<ConnectionId> {
        let source = source(from);
        if self.by_source.get(&source).is_some_and(|count| *count >= config.connections.per_address) {
            return Some(id);
        }
        let full = self.open.len() >= config.connections.total;
        let out = full.then(|| self.due.first().map_or(id, |(_, oldest)| *oldest));
        if out != Some(id) {
            let connection = Connection { source, unproven: now, sas: BTreeSet::new(), until: None, rejected: 0 };
            self.open.insert(id, connection);
            *self.by_source.entry(source).or_default() += 1;
            self.limit(id, Some(now + SILENCE));
        }
        out
    }

    /// It is there no more.
    fn close(&mut self, id: ConnectionId) {
        self.limit(id, None);
        self.left.remove(&id);
        let Some(connection) = self.open.remove(&id) else { return };
        if let Some(count) = self.by_source.get_mut(&connection.source) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.by_source.remove(&connection.source);
            }
        }
    }

    fn limit(&mut self, id: ConnectionId, until: Option<Duration>) {
        let Some(connection) = self.open.get_mut(&id) else { return };
        if let Some(former) = std::mem::replace(&mut connection.until, until) {
            self.due.remove(&(former, id));
        }
        self.due.extend(until.map(|at| (at, id)));
    }

    /// Does an IKE SA go over it, in the making or in use? Another one is not to share it (RFC 9329 section 6.1).
    pub(super) fn is_taken(&self, via: Via) -> bool {
        via.connection().and_then(|id| self.open.get(&id)).is_some_and(|c| !c.sas.is_empty())
    }

    /// An IKE SA is being made over it: it has as much time as that, once.
    pub(super) fn begin(&mut self, via: Via, spi: Spi, patience: Duration) {
        let Some(id) = via.connection() else { return };
        let Some(connection) = self.open.get_mut(&id) else { return };
        connection.sas.insert(spi);
        let most = connection.unproven + SILENCE + patience;
        if connection.until.is_some() {
            self.limit(id, Some(most));
        }
    }

    /// An IKE SA is in use over it.
    pub(super) fn carry(&mut self, via: Via, spi: Spi) {
        let Some(id) = via.connection() else { return };
        let Some(connection) = self.open.get_mut(&id) else { return };
        connection.sas.insert(spi);
        connection.rejected = 0;
        self.left.remove(&id);
        self.limit(id, None);
    }

    /// An IKE SA goes over it no more.
    pub(super) fn release(&mut self, via: Via, spi: Spi) {
        let Some(id) = via.connection() else { return };
        let Some(connection) = self.open.get_mut(&id) else { return };
        connection.sas.remove(&spi);
        if connection.sas.is_empty() {
            self.left.insert(id);
        }
    }

    /// Gives those that carry nothing any more a while to be used again. Who has proved itself has as much time then as at the
    /// beginning; nobody else gains any.
    fn linger(&mut self, now: Duration, patience: Duration) {
        let until = now + patience;
        for id in std::mem::take(&mut self.left) {
            let Some(connection) = self.open.get_mut(&id) else { continue };
            if connection.until.is_none() {
                connection.unproven = now;
            }
            let sooner = connection.until.map_or(until, |at| at.min(until));
            self.limit(id, Some(sooner));
        }
    }

    /// What came over it is of use, or is not; says whether that was once too often.
    fn note(&mut self, id: ConnectionId, rejected: bool) -> bool {
        let Some(connection) = self.open.get_mut(&id) else { return false };
        connection.rejected = if rejected { connection.rejected + 1 } else { 0 };
        connection.rejected >= REJECTED
    }

    pub(super) fn next(&self) -> Option<Duration> {
        self.due.first().map(|(at, _)| *at)
    }

    fn take_due(&mut self, now: Duration) -> Option<ConnectionId> {
        let (_, id) = *self.due.first().filter(|(at, _)| *at <= now)?;
        self.close(id);
        Some(id)
    }
}

impl Server {
    /// A member, or anybody else, has opened a connection.
    pub fn connected(&mut self, ctx: &mut Ctx<'_>, id: ConnectionId, from: SocketAddr) {
        self.counters.connections += 1;
        if let Some(out) = self.connections.open(id, from.ip(), ctx.now.mono, &self.config) {
            tracing::debug!(%from, connection = out.0, "too many connections");
            self.counters.connections_refused += 1;
            self.hang_up(ctx, out);
        }
    }

    /// A connection is there no more. IKE SAs outlive it (RFC 9329 section 6.1).
    pub fn disconnected(&mut self, id: ConnectionId) {
        self.connections.close(id);
    }

    /// Something came over a connection that is no IKE message of version 2: group data never goes over TCP, and GDOI
    /// neither.
    pub fn stray(&mut self, ctx: &mut Ctx<'_>, id: ConnectionId) {
        self.judge(ctx, id, true);
    }

    pub(super) fn judge(&mut self, ctx: &mut Ctx<'_>, id: ConnectionId, rejected: bool) {
        if self.connections.note(id, rejected) {
            tracing::debug!(connection = id.0, "nothing can be made of a connection any more");
            self.counters.connections_closed += 1;
            self.hang_up(ctx, id);
        }
    }

    fn hang_up(&mut self, ctx: &mut Ctx<'_>, id: ConnectionId) {
        self.connections.close(id);
        ctx.out.close(id);
    }

    #[cfg(test)]
    pub(crate) fn limit_connections_for_test(&mut self, total: usize, per_address: usize) {
        self.config.connections = super::ConnectionLimits { total, per_address };
    }

    /// Gives connections without an IKE SA their time.
    pub(super) fn linger_connections(&mut self, now: Duration) {
        self.connections.linger(now, self.config.linger);
    }

    /// Closes connections whose time is up.
    pub(super) fn expire_connections(&mut self, ctx: &mut Ctx<'_>) {
        while let Some(id) = self.connections.take_due(ctx.now.mono) {
            self.counters.connections_closed += 1;
            ctx.out.close(id);
        }
    }

    /// A message over an IKE SA has verified, and is no repeat: its sender is reached the way it came, and over another
    /// connection than before what is unanswered is sent again (RFC 9329 sections 6.1 and 6.2).
    pub(super) fn follow(&mut self, ctx: &mut Ctx<'_>, spi: Spi, path: Path) {
        let Some(Entry { path: former, state: State::Established(state), .. }) = self.sas.get_mut(&spi) else { return };
        let (former, line) = (std::mem::replace(former, path), state.line);
        if former.via == path.via || !path.via.is_tcp() {
            return;
        }
        for spi in self.lines.spis(line) {
            let Some(Entry { path: at, state: State::Established(state), .. }) = self.sas.get_mut(&spi) else {
                continue;
            };
            *at = path;
            self.connections.release(former.via, spi);
            self.connections.carry(path.via, spi);
            if let Some((_, message)) = &state.requests.pending {
                ctx.out.send(path.transmit(message.bytes.clone()));
            }
        }
    }
}
