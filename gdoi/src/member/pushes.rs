//! What a member does about pushes.

use std::net::SocketAddr;
use std::time::Duration;

use keyferry_model::drive::{Datagram, Transmit};
use keyferry_model::update::{MemberCtx, MemberEvent, MemberOutput};
use keyferry_wire::Header;

use super::{Goal, Member, PendingAck, Phase, below};
use crate::push::member::{Applied, Verdict};
use crate::reject::Reject;

/// No acknowledgement is delayed longer (RFC 8263 section 6).
const MAX_JITTER: Duration = Duration::from_secs(5);

/// Acknowledgements waiting at most.
const MAX_PENDING: usize = 16;

impl Member {
    pub(super) fn push(
        &mut self,
        ctx: &mut MemberCtx<'_>,
        header: &Header,
        dgram: &Datagram<'_>,
    ) -> Result<(), Reject> {
        let taking = self.taking(false);
        let group = self.group.as_mut().ok_or(Reject::Unauthenticated("no such rekey SA"))?;
        let push = match group.verify(header, dgram.bytes)? {
            Verdict::Push(push) => push,
            Verdict::Repeat(ack) => {
                ack.into_iter().for_each(|ack| self.acknowledge(ctx, dgram, None, ack));
                return Ok(());
            }
        };
        match group.apply(&push, dgram.bytes, taking, self.own, ctx.now) {
            Ok(applied) => self.applied(ctx, dgram, applied),
            Err(Reject::Replayed) => return Err(Reject::Replayed),
            Err(reject) => {
                // Authentic, but not to be followed: the present keys run out, so ask anew.
                tracing::warn!(%reject, "push cannot be followed");
                ctx.event(MemberEvent::Refused(reject.to_string()));
                self.register_soon(ctx);
            }
        }
        Ok(())
    }

    fn applied(&mut self, ctx: &mut MemberCtx<'_>, dgram: &Datagram<'_>, applied: Applied) {
        if applied.superseded {
            tracing::debug!(seq = applied.seq, "push of before the registration");
            applied.ack.into_iter().for_each(|ack| self.acknowledge(ctx, dgram, Some(applied.seq), ack));
            return;
        }
        self.status.rekeys += 1;
        tracing::info!(seq = applied.seq, excluded = applied.excluded, "push taken");
        if let Some(destination) = applied.listen {
            ctx.out.push(MemberOutput::Listen(destination));
        }
        if applied.excluded && !applied.keeps_data {
            self.drop_group(ctx);
            ctx.event(MemberEvent::Excluded);
            self.register_soon(ctx);
        } else {
            self.log_kek();
            if let Some(update) = applied.update {
                ctx.out.push(MemberOutput::Update(update));
            }
            if let Some(streams) = applied.streams {
                ctx.out.push(MemberOutput::Streams(streams));
            }
            ctx.event(MemberEvent::Rekeyed { counter: applied.seq });
            if applied.excluded {
                self.group = None;
                self.register_soon(ctx);
            } else {
                self.plan_renewal(ctx);
            }
        }
        if let Some(ack) = applied.ack {
            self.acknowledge(ctx, dgram, Some(applied.seq), ack);
        }
    }

    /// Sends an acknowledgement as if it were a reply to the push (RFC 8263 section 3), after some jitter, so that not all
    /// members answer at once; behind a translator by the way by which we are known.
    fn acknowledge(&mut self, ctx: &mut MemberCtx<'_>, dgram: &Datagram<'_>, counter: Option<u32>, ack: Vec<u8>) {
        let from = SocketAddr::new(self.own, dgram.to.port());
        let reply = Transmit { from: Some(from), ..dgram.reply(ack) };
        let transmit = self.through_mapping(reply);
        let wait = below(self.settings.ack_jitter.min(MAX_JITTER), ctx.rng);
        if self.acks.len() < MAX_PENDING {
            self.acks.push(PendingAck { at: ctx.now.mono + wait, counter, transmit });
        }
        self.send_acks_until(ctx, ctx.now.mono);
    }

    /// Registers after the retry delay, unless that is under way.
    fn register_soon(&mut self, ctx: &mut MemberCtx<'_>) {
        let at = self.retry_at(ctx);
        match &mut self.phase {
            Phase::Resting(_, wake) if self.goal == Goal::Register => *wake = Some(at),
            Phase::Idle | Phase::Connecting(..) | Phase::Registering(_) | Phase::Resting(..) => {}
        }
    }
}
