//! Fragments on their way in and out (see [`crate::fragments`]).

use keyferry_model::drive::{Ctx, Datagram, Transmit};
use keyferry_wire::Header;

use super::Server;
use crate::fragments;
use crate::phase1::extensions::Extensions;
use crate::reject::Reject;

impl Server {
    /// Takes a fragment, of a peer that has announced fragments, and the message that may be whole by it.
    pub(super) fn fragment(
        &mut self,
        ctx: &mut Ctx<'_>,
        header: &Header,
        body: &[u8],
        dgram: &Datagram<'_>,
    ) -> Result<(), Reject> {
        let fragment = fragments::read(header, body)?;
        let from = dgram.from.ip();
        let cookies = header.spi_pair();
        let session = self.sessions.get(&cookies).filter(|s| s.comes_from(dgram)).map(|s| s.extensions());
        let half = || self.half_open.get(&header.spi_r).filter(|h| *h.cookies() == cookies && h.peer() == from);
        let announced = session.or_else(|| half().map(|h| h.extensions()));
        if !announced.is_some_and(|a| a.fragmentation) {
            return Err(Reject::Unauthenticated("a fragment of nothing we know"));
        }
        let wholes = self.fragments.add(header, from, &fragment, ctx.now.mono);
        if fragments::take_first(wholes, dgram, |whole| self.take(ctx, whole))? {
            self.fragments.taken(header, from, fragment.id);
        }
        Ok(())
    }

    /// Cuts up what was queued behind the first `kept` outputs and is too long, for peers that take fragments.
    pub(super) fn cut_up(&self, ctx: &mut Ctx<'_>, kept: usize) {
        let size = self.config.fragment_size;
        ctx.out.split_sends(kept, |transmit| {
            // Most are short.
            if transmit.bytes.len() > fragments::MIN_SIZE / 2 && self.peer_of(&transmit).fragmentation {
                fragments::split(transmit, size)
            } else {
                vec![transmit]
            }
        });
    }

    /// What the peer can do that a message goes to, by its cookies.
    fn peer_of(&self, transmit: &Transmit) -> Extensions {
        let Ok((header, _)) = Header::decode(&transmit.bytes) else { return Extensions::default() };
        let session = self.sessions.get(&header.spi_pair()).map(|s| s.extensions());
        let half = || self.half_open.get(&header.spi_r).map(|h| h.extensions());
        session.or_else(half).unwrap_or_default()
    }
}
