//! Going on at port 4500 where there is a NAT, and keeping its mapping alive (RFC 7296 section 2.23, RFC 3948 section 4).
//!
//! An IKE SA that begins at 848, or at 500, moves there with the message after IKE_SA_INIT, from a port of ours that is for
//! that; all its messages have a non-ESP marker then. So do those of the SAs that replace it.

use std::net::SocketAddr;
use std::time::Duration;

use keyferry_model::drive::{Transmit, Via};
use keyferry_model::update::MemberCtx;
use keyferry_wire::Header;

use super::{Link, Member};
use crate::ike_sa::init::Nat;
use crate::ike_sa::options::NAT_PORT;
use crate::wire::registry::ExchangeType;

/// The octet that keeps a mapping alive.
const KEEPALIVE: u8 = 0xff;

/// What is known of the NATs on the way.
#[derive(Debug, Default)]
pub(super) struct Traversal {
    /// The IKE SA in use has moved to port 4500.
    moved: bool,
    /// The mapping of a NAT in front of us is wanted alive next.
    mapping: Option<Duration>,
}

impl Traversal {
    pub(super) fn due_at(&self) -> Option<Duration> {
        self.mapping
    }

    /// Is a NAT in front of us?
    pub(super) fn is_behind(&self) -> bool {
        self.mapping.is_some()
    }
}

impl Member {
    /// An IKE SA stands: what its messages said of NATs is true.
    pub(super) fn note_nat(&mut self, now: Duration, nat: Nat) {
        self.status.behind_nat = nat.is_there();
        // A connection goes through NATs as it is (RFC 9329 section 6.5).
        self.nat.moved = nat.is_there() && self.ike.nat_port.is_some() && !self.tcp.is_on();
        self.nat.mapping = (self.nat.moved && nat.receiver).then(|| now.saturating_add(self.ike.nat_keepalive));
    }

    /// A message on its way to the key server; `None` while a connection for it is wanting.
    pub(super) fn transmit(&self, bytes: Vec<u8>) -> Option<Transmit> {
        if self.tcp.is_on() {
            return self.tcp.transmit(bytes);
        }
        Some(match self.ike.nat_port.filter(|_| self.moves(&bytes)) {
            Some(port) => self.through_nat(port, true, bytes),
            None => Transmit { from: None, to: self.settings.gateway(), via: Via::udp(self.settings.marker), bytes },
        })
    }

    fn through_nat(&self, port: u16, marker: bool, bytes: Vec<u8>) -> Transmit {
        let from = Some(SocketAddr::new(self.settings.local.ip(), port));
        Transmit { from, to: SocketAddr::new(self.settings.gateway().ip(), NAT_PORT), via: Via::udp(marker), bytes }
    }

    fn moves(&self, bytes: &[u8]) -> bool {
        let first = [ExchangeType::IKE_SA_INIT, ExchangeType::IKE_SESSION_RESUME];
        let Some(header) = bytes.first_chunk().and_then(header_of) else { return false };
        match &self.link {
            _ if first.contains(&ExchangeType(header.exchange)) => false,
            Link::Connecting(connecting) => connecting.nat_to(header.spi_r).map_or(self.nat.moved, Nat::is_there),
            Link::Up(_) | Link::Dialing | Link::Down => self.nat.moved,
        }
    }

    /// Keeps the mapping alive for as long as the key server may have something to say: while there is an IKE SA, or a group.
    pub(super) fn keep_mapping(&mut self, ctx: &mut MemberCtx<'_>) {
        let now = ctx.now.mono;
        let Some(port) = self.ike.nat_port.filter(|_| self.nat.mapping.is_some_and(|at| at <= now)) else { return };
        if self.group.is_none() && !matches!(self.link, Link::Up(_)) {
            self.nat.mapping = None;
            return;
        }
        self.nat.mapping = Some(now.saturating_add(self.ike.nat_keepalive));
        ctx.send(self.through_nat(port, false, vec![KEEPALIVE]));
    }
}

/// The header of a message that may be in several datagrams.
fn header_of(octets: &[u8; Header::LEN]) -> Option<Header> {
    let mut alone = *octets;
    alone[24..].copy_from_slice(&u32::try_from(Header::LEN).ok()?.to_be_bytes());
    Header::decode(&alone).ok().map(|(header, _)| header)
}
