//! Going on at port 4500 behind a translator (RFC 3947 section 4), and keeping its mapping alive (RFC 3948 section 4).

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

use keyferry_model::drive::{Transmit, Via};
use keyferry_model::time::Deadline;
use keyferry_model::update::MemberCtx;
use keyferry_wire::Header;

use super::{Member, NAT_PORT, Phase};
use crate::phase1::extensions::Extensions;
use crate::phase1::nat::Nat;
use crate::wire::registry::flag;

/// Phase 1 SAs whose port is remembered: the one in use, and those that end.
const KEPT: usize = 4;

/// The octet that keeps a mapping alive.
const KEEPALIVE: u8 = 0xff;

/// What is known of translators.
#[derive(Debug, Default)]
pub(super) struct Traversal {
    /// Cookies of SAs that have gone to port 4500.
    floated: VecDeque<[u8; 16]>,
    /// Where the mapping of a translator in front of us leads, and when it is wanted alive next.
    mapping: Option<(SocketAddr, Duration)>,
}

impl Traversal {
    pub(super) fn is_ours(&self) -> bool {
        self.mapping.is_some()
    }
}

impl Member {
    /// What we announce in phase 1.
    pub(super) fn extensions(&self) -> Extensions {
        // Whoever does not know its own address finds a translator everywhere.
        let known = self.options.nat_port.is_some() && !self.settings.local.ip().is_unspecified();
        Extensions { nat_traversal: known, ..Extensions::OURS }
    }

    /// Where phase 1 goes on behind a translator.
    pub(super) fn floated(&self) -> (SocketAddr, SocketAddr) {
        let own = SocketAddr::new(self.settings.local.ip(), self.options.nat_port.unwrap_or(NAT_PORT));
        (own, SocketAddr::new(self.settings.gateway().ip(), NAT_PORT))
    }

    /// A phase 1 stands: what its messages said of translators is true.
    pub(super) fn note_nat(&mut self, ctx: &mut MemberCtx<'_>, cookies: [u8; 16], nat: Nat) {
        if nat.is_there() {
            tracing::info!(ours = nat.ours, theirs = nat.theirs, "a translator is on the way");
            if self.nat.floated.len() == KEPT {
                self.nat.floated.pop_front();
            }
            self.nat.floated.push_back(cookies);
        }
        let (_, to) = self.floated();
        self.nat.mapping = nat.ours.then_some((to, ctx.now.mono + self.options.nat_keepalive));
    }

    /// A message on its way to the key server: at port 4500 and marked if it is encrypted and phase 1 has gone there.
    pub(super) fn transmit(&self, bytes: Vec<u8>) -> Transmit {
        let (floats, marker) = (self.floats(&bytes), self.settings.marker);
        let (from, to) = if floats { self.floated() } else { (self.settings.local, self.settings.gateway()) };
        Transmit { from: Some(from), to, via: Via::udp(floats || marker), bytes }
    }

    /// An answer to a push takes the mapping of a translator in front of us: by it the key server knows who we are.
    pub(super) fn through_mapping(&self, reply: Transmit) -> Transmit {
        let mapping = self.nat.mapping.zip(self.options.nat_port);
        match mapping.filter(|((to, _), _)| to.ip() == reply.to.ip()) {
            Some(((to, _), port)) => {
                let from = Some(SocketAddr::new(self.own, port));
                Transmit { from, to, via: Via::MarkedUdp, ..reply }
            }
            None => reply,
        }
    }

    fn floats(&self, bytes: &[u8]) -> bool {
        let Ok((header, _)) = Header::decode(bytes) else { return false };
        let cookies = header.spi_pair();
        let initiator = match (&self.phase, &self.successor) {
            (Phase::Connecting(initiator, _), _) | (_, Some((initiator, _))) => Some(initiator),
            (Phase::Idle | Phase::Registering(_) | Phase::Resting(_), None) => None,
        };
        let floats = || initiator.is_some_and(|i| i.nat(&cookies).is_there());
        header.flags & flag::ENCRYPTED != 0 && (self.nat.floated.contains(&cookies) || floats())
    }

    /// Keeps the mapping alive for as long as the key server may have something to say: while there is a group, or phase 1.
    pub(super) fn keep_mapping(&mut self, ctx: &mut MemberCtx<'_>) {
        let wanted =
            self.groups.iter().any(|m| m.group.is_some()) || !matches!(self.phase, Phase::Idle | Phase::Resting(None));
        let Some((to, due)) = &mut self.nat.mapping else { return };
        if !wanted {
            self.nat.mapping = None;
        } else if *due <= ctx.now.mono {
            *due = ctx.now.mono + self.options.nat_keepalive;
            let from = self.options.nat_port.map(|port| SocketAddr::new(self.settings.local.ip(), port));
            ctx.send(Transmit { from, to: *to, via: Via::Udp, bytes: vec![KEEPALIVE] });
        }
    }

    /// When [`keep_mapping`](Self::keep_mapping) is wanted next.
    pub(super) fn mapping_due(&self) -> Option<Deadline> {
        self.nat.mapping.map(|(_, at)| Deadline { at, reason: "NAT keepalive" })
    }
}
