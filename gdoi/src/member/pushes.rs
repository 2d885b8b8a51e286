//! What a member does about pushes.

use std::net::SocketAddr;
use std::time::Duration;

use keyferry_model::drive::{Datagram, Transmit};
use keyferry_model::update::{MemberCtx, MemberEvent, MemberOutput};
use keyferry_wire::Header;

use super::{Goal, Member, Membership, PendingAck, about, below};
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
        let spi = header.spi_pair();
        let of = |m: &Membership| m.group.as_ref().is_some_and(|g| g.knows(&spi));
        let at = self.groups.iter().position(of).ok_or(Reject::Unauthenticated("no such rekey SA"))?;
        let group = self.groups[at].group.as_mut().ok_or(Reject::Unauthenticated("no such rekey SA"))?;
        let kept = ctx.out.len();
        let push = match group.verify(header, dgram.bytes)? {
            Verdict::Push(push) => push,
            Verdict::Repeat(ack) => {
                ack.into_iter().for_each(|ack| self.acknowledge(ctx, dgram, at, None, ack));
                return Ok(());
            }
        };
        match group.apply(&push, dgram.bytes, taking, self.own, ctx.now) {
            Ok(applied) => self.applied(ctx, dgram, at, applied),
            Err(Reject::Replayed) => return Err(Reject::Replayed),
            Err(reject) => {
                // Authentic, but not to be followed: the present keys run out, so ask anew.
                tracing::warn!(%reject, "push cannot be followed");
                ctx.event(MemberEvent::Refused(reject.to_string()));
                self.register_soon(ctx, at);
            }
        }
        about(ctx, kept, at);
        Ok(())
    }

    fn applied(&mut self, ctx: &mut MemberCtx<'_>, dgram: &Datagram<'_>, at: usize, applied: Applied) {
        if applied.superseded {
            tracing::debug!(seq = applied.seq, "push of before the registration");
            applied.ack.into_iter().for_each(|ack| self.acknowledge(ctx, dgram, at, Some(applied.seq), ack));
            return;
        }
        self.status.rekeys += 1;
        self.groups[at].rekeys += 1;
        tracing::info!(seq = applied.seq, excluded = applied.excluded, "push taken");
        if let Some(destination) = applied.listen {
            ctx.out.push(MemberOutput::Listen(destination));
        }
        if applied.excluded && !applied.keeps_data {
            self.drop_group(ctx, at);
            ctx.event(MemberEvent::Excluded);
            self.register_soon(ctx, at);
        } else {
            self.log_kek(at);
            if let Some(update) = applied.update {
                ctx.out.push(MemberOutput::Update(update));
            }
            if let Some(streams) = applied.streams {
                ctx.out.push(MemberOutput::Streams(streams));
            }
            ctx.event(MemberEvent::Rekeyed { counter: applied.seq });
            if applied.excluded {
                self.groups[at].group = None;
                self.register_soon(ctx, at);
            } else {
                self.plan_renewal(ctx, at);
            }
        }
        if let Some(ack) = applied.ack {
            self.acknowledge(ctx, dgram, at, Some(applied.seq), ack);
        }
    }

    /// Sends an acknowledgement as if it were a reply to the push (RFC 8263 section 3), after some jitter, so that not all
    /// members answer at once; behind a translator by the way by which we are known.
    fn acknowledge(
        &mut self,
        ctx: &mut MemberCtx<'_>,
        dgram: &Datagram<'_>,
        group: usize,
        counter: Option<u32>,
        ack: Vec<u8>,
    ) {
        let from = SocketAddr::new(self.own, dgram.to.port());
        let reply = Transmit { from: Some(from), ..dgram.reply(ack) };
        let transmit = self.through_mapping(reply);
        let wait = below(self.settings.ack_jitter.min(MAX_JITTER), ctx.rng);
        if self.acks.len() < MAX_PENDING {
            self.acks.push(PendingAck { at: ctx.now.mono + wait, group, counter, transmit });
        }
        self.send_acks_until(ctx, ctx.now.mono);
    }

    /// Registers after the retry delay, unless that is under way.
    fn register_soon(&mut self, ctx: &mut MemberCtx<'_>, at: usize) {
        let soon = self.retry_at(ctx);
        if self.goal == Goal::Register && !self.is_under_way(ctx.now.mono, at) {
            self.groups[at].wake = Some(soon);
        }
    }
}
