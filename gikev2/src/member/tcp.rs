//! TCP, where UDP does not get through (RFC 9329). The member opens the connection, and opens it again when it breaks.
//!
//! ```text
//!  connection    input                          next        output
//!  none          an IKE SA wanted over TCP      opening     Dial
//!  none          the pause is over              opening     Dial
//!  opening       open                           open        IKE_SA_INIT; or what is unanswered, or an empty request
//!  opening       refused, or too slow           none        HangUp; an attempt at an IKE SA fails, an IKE SA waits
//!  open          broken                         none        -
//!  any           the IKE SA has ended           none        HangUp, behind what is still to be said
//! ```
//!
//! An IKE SA that began over TCP stays there, and waits for another connection as long as for an answer. Multicast rekeys
//! come by UDP nevertheless.

use std::net::SocketAddr;
use std::time::Duration;

use keyferry_model::drive::{ConnectionId, Transmit, Via};
use keyferry_model::settings::Transport;
use keyferry_model::update::{MemberCtx, MemberOutput};
use keyferry_wire::ChainWriter;

use super::link::Purpose;
use super::{Link, Member, send};

/// A connection has to stand within this time.
const PATIENCE: Duration = Duration::from_secs(10);
/// Pause before a broken connection is opened again; it doubles while that fails.
const PAUSE: Duration = Duration::from_secs(1);
/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// The member's connection to the key server.
#[derive(Debug, Default)]
pub(super) struct Tcp {
    /// The IKE SA, or the attempt at one, goes over TCP.
    on: bool,
    /// UDP got no answer: the next attempt goes over TCP.
    wanted: bool,
    connection: Option<Connection>,
    /// When to open it again.
    redial: Option<Duration>,
    pause: Duration,
}

#[derive(Debug)]
struct Connection {
    id: ConnectionId,
    state: State,
}

#[derive(Debug)]
enum State {
    /// It has to be open by then.
    Opening(Duration),
    Open {
        local: SocketAddr,
        gateway: SocketAddr,
    },
}

impl Tcp {
    /// Something came over it that verified.
    pub(super) fn worked(&mut self) {
        self.pause = PAUSE;
    }

    pub(super) fn is_on(&self) -> bool {
        self.on
    }

    /// The open connection.
    pub(super) fn carrier(&self) -> Option<ConnectionId> {
        self.ends().map(|(id, ..)| id)
    }

    /// The open connection, our end of it and the key server's.
    pub(super) fn ends(&self) -> Option<(ConnectionId, SocketAddr, SocketAddr)> {
        match self.connection.as_ref()? {
            Connection { id, state: State::Open { local, gateway } } => Some((*id, *local, *gateway)),
            Connection { state: State::Opening(_), .. } => None,
        }
    }

    pub(super) fn due_at(&self) -> Option<Duration> {
        match &self.connection {
            Some(Connection { state: State::Opening(until), .. }) => Some(*until),
            Some(Connection { state: State::Open { .. }, .. }) | None => self.redial,
        }
    }

    pub(super) fn transmit(&self, bytes: Vec<u8>) -> Option<Transmit> {
        self.ends().map(|(id, local, gateway)| Transmit { from: Some(local), to: gateway, via: Via::Tcp(id), bytes })
    }
}

impl Member {
    /// Chooses what the next attempt goes over; says whether it is TCP. Without knowing better UDP comes first (RFC 9329
    /// section 5.1).
    pub(super) fn choose_transport(&mut self, ctx: &mut MemberCtx<'_>) -> bool {
        self.hang_up(ctx);
        let wanted = std::mem::take(&mut self.tcp.wanted);
        self.tcp.on = match self.settings.gikev2.transport {
            Transport::Udp => false,
            Transport::Tcp(_) => true,
            Transport::UdpThenTcp(_) => wanted,
        };
        self.tcp.on
    }

    /// Nobody answers over UDP: is TCP to be tried?
    pub(super) fn turns_to_tcp(&mut self) -> bool {
        self.tcp.wanted = !self.tcp.on && matches!(self.settings.gikev2.transport, Transport::UdpThenTcp(_));
        self.tcp.wanted
    }

    /// Opens a connection.
    pub(super) fn dial(&mut self, ctx: &mut MemberCtx<'_>) {
        let (Transport::Tcp(port) | Transport::UdpThenTcp(port)) = self.settings.gikev2.transport else { return };
        let id = ConnectionId(ctx.rng.below(u64::MAX));
        let to = SocketAddr::new(self.settings.gateway().ip(), port);
        self.tcp.redial = None;
        self.tcp.connection = Some(Connection { id, state: State::Opening(ctx.now.mono + PATIENCE) });
        ctx.out.push(MemberOutput::Dial { id, from: self.settings.local.ip(), to });
    }

    /// The connection stands, between these addresses.
    pub fn connected(&mut self, ctx: &mut MemberCtx<'_>, id: ConnectionId, local: SocketAddr, gateway: SocketAddr) {
        let Some(connection) = self.tcp.connection.as_mut().filter(|c| c.id == id) else { return };
        connection.state = State::Open { local, gateway };
        let unanswered: Vec<Vec<u8>> = match &self.link {
            Link::Down => Vec::new(),
            Link::Dialing => {
                self.begin(ctx);
                return self.tidy(ctx);
            }
            Link::Connecting(connecting) => connecting.unanswered(),
            Link::Up(sas) => sas.unanswered(),
        };
        // What is unanswered is sent again over the new connection (RFC 9329 section 6.2); if there is nothing, an empty
        // request tells the key server where we are (section 6.1).
        if unanswered.is_empty() && matches!(self.link, Link::Up(_)) {
            self.ask(ctx, Purpose::Liveness, ChainWriter::new());
        }
        unanswered.into_iter().for_each(|bytes| send(ctx, self.tcp.transmit(bytes)));
        self.tidy(ctx);
    }

    /// The connection does not come to be, or is broken. The IKE SA stays.
    pub fn disconnected(&mut self, ctx: &mut MemberCtx<'_>, id: ConnectionId) {
        if self.tcp.connection.as_ref().is_some_and(|c| c.id == id) {
            self.tcp.connection = None;
            self.lost_connection(ctx);
            self.tidy(ctx);
        }
    }

    fn lost_connection(&mut self, ctx: &mut MemberCtx<'_>) {
        match &self.link {
            Link::Down => {}
            Link::Dialing => {
                tracing::debug!(gateway = %self.settings.gateway(), "no TCP connection to the key server");
                self.link = Link::Down;
                self.fail(ctx, None);
            }
            Link::Connecting(_) | Link::Up(_) => {
                tracing::debug!("the TCP connection to the key server is broken");
                let pause = self.tcp.pause.clamp(PAUSE, LONGEST_PAUSE);
                let jitter = u64::try_from(pause.as_micros()).unwrap_or(u64::MAX);
                self.tcp.redial = Some(ctx.now.mono + pause / 2 + Duration::from_micros(ctx.rng.below(jitter)));
                self.tcp.pause = pause * 2;
                // The patience with which its answer is awaited is that with a new connection as well.
                if matches!(&self.link, Link::Up(sas) if sas.unanswered().is_empty()) {
                    self.ask(ctx, Purpose::Liveness, ChainWriter::new());
                }
            }
        }
    }

    /// Opens the connection again, or gives up waiting for it.
    pub(super) fn tcp_due(&mut self, ctx: &mut MemberCtx<'_>) {
        if self.tcp.due_at().is_none_or(|at| at > ctx.now.mono) {
            return;
        }
        if self.tcp.connection.is_some() {
            self.hang_up(ctx);
            self.lost_connection(ctx);
        } else {
            self.dial(ctx);
        }
    }

    fn hang_up(&mut self, ctx: &mut MemberCtx<'_>) {
        self.tcp.redial = None;
        if let Some(connection) = self.tcp.connection.take() {
            ctx.out.push(MemberOutput::HangUp(connection.id));
        }
    }

    /// Without an IKE SA there is no connection (RFC 9329 section 6.1).
    pub(super) fn tidy(&mut self, ctx: &mut MemberCtx<'_>) {
        if matches!(self.link, Link::Down) {
            self.hang_up(ctx);
        }
    }
}
