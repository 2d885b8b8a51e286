//! Fragments on their way in and out (see [`crate::fragments`]).

use keyferry_model::drive::{Datagram, Transmit};
use keyferry_model::update::{MemberCtx, MemberOutput};
use keyferry_wire::Header;

use super::{Member, Phase};
use crate::fragments;
use crate::phase1::extensions::Extensions;
use crate::reject::Reject;

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
        if !self.peer_of(header).fragmentation {
            return Err(Reject::Unauthenticated("a fragment of nothing we know"));
        }
        let from = dgram.from.ip();
        let mut verdict = Ok(());
        for message in self.fragments.add(header, from, &fragment, ctx.now.mono) {
            verdict = self.take(ctx, &Datagram { bytes: &message, ..*dgram });
            if verdict.is_ok() {
                self.fragments.taken(header, from, fragment.id);
                break;
            }
        }
        verdict
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

    /// What the key server can do, under the cookies of a message.
    fn peer_of(&self, header: &Header) -> Extensions {
        let cookies = header.spi_pair();
        let session = match &self.phase {
            Phase::Registering(r) => Some(&r.session),
            Phase::Resting(session, _) => session.as_deref(),
            Phase::Idle | Phase::Connecting(..) => None,
        };
        let session = session.filter(|s| *s.sa.cookies() == cookies).map(|s| s.extensions);
        let initiator = match (&self.phase, &self.successor) {
            (Phase::Connecting(initiator, _), _) | (_, Some((initiator, _))) => Some(initiator),
            (Phase::Idle | Phase::Registering(_) | Phase::Resting(..), None) => None,
        };
        session.or_else(|| initiator.and_then(|i| i.extensions(&cookies))).unwrap_or_default()
    }
}
