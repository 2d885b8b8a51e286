//! Fragments on their way in and out (see [`crate::fragments`]).

use keyferry_model::drive::{Datagram, Transmit};
use keyferry_model::update::{MemberCtx, MemberOutput};
use keyferry_wire::Header;

use super::{Member, Phase};
use crate::fragments;
use crate::phase1::extensions::Extensions;
use crate::phase1::initiator::Initiator;
use crate::reject::Reject;
use crate::wire::registry::exchange;

impl Member {
    /// Takes a fragment of the key server's, if it has announced fragments, and the message that may be whole by it.
    pub(super) fn fragment(
        &mut self,
        ctx: &mut MemberCtx<'_>,
        header: &Header,
        body: &[u8],
        dgram: &Datagram<'_>,
    ) -> Result<(), Reject> {
        let fragment = fragments::read(header, body)?;
        if !self.peer_of(header).fragmentation && !self.awaits_first_answer(header) {
            return Err(Reject::Unauthenticated("a fragment of nothing we know"));
        }
        let from = dgram.from.ip();
        let wholes = self.fragments.add(header, from, &fragment, ctx.now.mono);
        if fragments::take_first(wholes, dgram, |whole| self.take(ctx, whole))? {
            self.fragments.taken(header, from, fragment.id);
        }
        Ok(())
    }

    /// Cuts up what was queued behind the first `kept` outputs and is too long, if the key server takes fragments.
    pub(super) fn cut_up(&self, ctx: &mut MemberCtx<'_>, kept: usize) {
        if ctx.out[kept..].iter().all(|o| !matches!(o, MemberOutput::Send(t) if self.is_long(t))) {
            return;
        }
        for output in ctx.out.split_off(kept) {
            let MemberOutput::Send(transmit) = output else {
                ctx.out.push(output);
                continue;
            };
            if self.is_long(&transmit) {
                let cut = fragments::split(transmit, self.options.fragment_size);
                ctx.out.extend(cut.into_iter().map(MemberOutput::Send));
            } else {
                ctx.out.push(MemberOutput::Send(transmit));
            }
        }
    }

    fn is_long(&self, transmit: &Transmit) -> bool {
        transmit.bytes.len() > fragments::MIN_SIZE / 2
            && Header::decode(&transmit.bytes).is_ok_and(|(header, _)| self.peer_of(&header).fragmentation)
    }

    /// Is this under the cookie of an aggressive mode that we began? Its message 2 may come in fragments, for message 1 has
    /// announced that we take them, and it is that message which says what the key server can do.
    fn awaits_first_answer(&self, header: &Header) -> bool {
        let begun = |i: &Initiator| i.exchange() == exchange::AGGRESSIVE && *i.cookie() == header.spi_i;
        self.connecting().is_some_and(begun)
    }

    /// The phase 1 that is under way.
    fn connecting(&self) -> Option<&Initiator> {
        match (&self.phase, &self.successor) {
            (Phase::Connecting(initiator, _), _) | (_, Some((initiator, _))) => Some(initiator),
            (Phase::Idle | Phase::Registering(_) | Phase::Resting(_), None) => None,
        }
    }

    /// What the key server can do, under the cookies of a message.
    fn peer_of(&self, header: &Header) -> Extensions {
        let cookies = header.spi_pair();
        let session = match &self.phase {
            Phase::Registering(r) => Some(&r.session),
            Phase::Resting(session) => session.as_deref(),
            Phase::Idle | Phase::Connecting(..) => None,
        };
        let session = session.filter(|s| *s.sa.cookies() == cookies).map(|s| s.extensions);
        session.or_else(|| self.connecting().and_then(|i| i.extensions(&cookies))).unwrap_or_default()
    }
}
