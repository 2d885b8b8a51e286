//! Rekeys, as a member takes and acknowledges them.

use std::time::Duration;

use keyferry_model::drive::Datagram;
use keyferry_model::update::{MemberCtx, MemberEvent, MemberOutput};
use keyferry_wire::Header;

use super::link::Spi;
use super::{Goal, Link, Member, send};
use crate::reject::Reject;
use crate::rekey::receive::{Change, Rekey};
use crate::wire::message::Payloads;
use crate::wire::registry::NotifyType;

/// Who is rekeyed over its IKE SA asks after so long a silence whether the key server lives: later than that asks us.
const IN_BAND_LIVENESS: Duration = Duration::from_secs(90);
/// And so behind a NAT: what it asks says where it is reached, should the NAT have forgotten it, before the key server gives up.
const IN_BAND_LIVENESS_BEHIND_NAT: Duration = Duration::from_secs(20);

/// Acknowledgements that wait at one time.
const ACKS: usize = 8;

impl Member {
    pub(super) fn liveness(&self) -> Option<Duration> {
        let in_band = self.group.as_ref().is_some_and(|g| g.in_band);
        let silence = if self.nat.is_behind() { IN_BAND_LIVENESS_BEHIND_NAT } else { IN_BAND_LIVENESS };
        self.ike.liveness.or(in_band.then_some(silence))
    }

    pub(super) fn rekey(&mut self, ctx: &mut MemberCtx<'_>, dgram: &Datagram<'_>, header: &Header) {
        let now = ctx.now.mono;
        let Some(group) = self.group.as_mut().filter(|g| g.listens_to(header)) else {
            if self.rekey_further(ctx, dgram, header) {
                return;
            }
            // Another group's, or one under keys that we do not have.
            tracing::debug!(from = %dgram.from, "rekey under no Rekey SA of ours");
            return self.perhaps_missed(ctx, header);
        };
        let log = self.key_log.as_deref_mut().map(|l| l as _);
        match group.take(header, dgram.bytes, self.settings.sender_ids > 0, now, log) {
            Ok(None) => {}
            Ok(Some(Rekey::Copy)) => {
                self.status.copies += 1;
                self.acknowledge(ctx, header);
            }
            Ok(Some(Rekey::Excluded)) => self.excluded(ctx),
            Ok(Some(Rekey::New(change))) => {
                self.take_change(ctx, *change);
                self.acknowledge(ctx, header);
                self.pursue(ctx);
            }
            Err(reject) => {
                tracing::debug!(from = %dgram.from, %reject, "rekey dropped");
                self.status.rejected += 1;
            }
        }
    }

    /// A message under an SPI that was to come, which only members have been told: the rekey that brought it is lost, so we
    /// register anew, at a random time (RFC 9838 section 4.4.2.2.3).
    fn perhaps_missed(&mut self, ctx: &mut MemberCtx<'_>, header: &Header) {
        let promised = self.group.as_mut().is_some_and(|g| g.was_promised(&header.spi_pair()));
        if promised && self.goal == Goal::Rest {
            tracing::info!("a rekey was missed: registering anew");
            self.status.missed += 1;
            self.reregister(ctx);
        }
    }

    /// A rekey over an IKE SA; the response to it is our acknowledgement.
    pub(super) fn rekey_in_band(
        &mut self,
        ctx: &mut MemberCtx<'_>,
        spi: Spi,
        message_id: u32,
        payloads: &Payloads<'_>,
    ) -> Result<(), Reject> {
        let Link::Up(sas) = &self.link else { return Ok(()) };
        let default = sas.get(spi).and_then(|up| up.sa.key_wrap());
        let (_, default) = default.ok_or(Reject::Misbehaved("no key wrap algorithm"))?;
        self.overtaken = true;
        let group = self.group.as_ref().ok_or(Reject::Unacceptable(NotifyType::INVALID_GROUP_ID))?;
        let sender = self.settings.sender_ids > 0;
        let log = self.key_log.as_deref_mut().map(|l| l as _);
        match group.verify_in_band(message_id, payloads, default, sender, ctx.now.mono, log)? {
            Rekey::New(change) => self.take_change(ctx, *change),
            Rekey::Excluded => self.excluded(ctx),
            // Messages over an IKE SA are known by their message IDs.
            Rekey::Copy => {}
        }
        Ok(())
    }

    fn take_change(&mut self, ctx: &mut MemberCtx<'_>, change: Change) {
        let Some(group) = &mut self.group else { return };
        let (counter, listen, anew) = (change.counter, change.listen, change.needs_sender_ids);
        if self.goal == Goal::Register {
            self.outdated.extend(group.outdated_by(&change));
        }
        if let Some(update) = group.apply(change, ctx.now.mono) {
            ctx.out.push(MemberOutput::Update(update));
        }
        self.renew_at = group.renew_at(ctx.now.mono, ctx.rng);
        if let Some(listen) = listen {
            ctx.out.push(MemberOutput::Listen(listen));
        }
        self.status.rekeys += 1;
        ctx.event(MemberEvent::Rekeyed { counter });
        if anew {
            self.goal = Goal::Register;
        }
    }

    /// Acknowledges a message that has verified, if the key server wants that, at a random time: all members got it at once.
    fn acknowledge(&mut self, ctx: &mut MemberCtx<'_>, header: &Header) {
        let Some(ack) = self.group.as_ref().and_then(|g| g.acknowledgement(header)) else { return };
        if self.queue_ack(ctx, ack)
            && let Some(group) = &mut self.group
        {
            group.acknowledged(header);
        }
    }

    /// Says whether it is not one that waits already, and has room.
    pub(super) fn queue_ack(&mut self, ctx: &mut MemberCtx<'_>, bytes: Vec<u8>) -> bool {
        if self.acks.len() == ACKS || self.acks.iter().any(|(_, waiting)| *waiting == bytes) {
            return false;
        }
        let most = u64::try_from(self.settings.ack_jitter.as_micros()).unwrap_or(u64::MAX - 1);
        let at = ctx.now.mono + Duration::from_micros(ctx.rng.below(most.saturating_add(1)));
        self.acks.push((at, bytes));
        self.send_acks(ctx);
        true
    }

    /// Sends acknowledgements whose time has come.
    pub(super) fn send_acks(&mut self, ctx: &mut MemberCtx<'_>) {
        let now = ctx.now.mono;
        let (due, later): (Vec<_>, _) = std::mem::take(&mut self.acks).into_iter().partition(|(at, _)| *at <= now);
        self.acks = later;
        for (_, bytes) in due {
            self.status.acknowledged += 1;
            if let Ok((header, _)) = Header::decode(&bytes) {
                ctx.event(MemberEvent::Acknowledged { counter: header.message_id });
            }
            send(ctx, self.transmit(bytes));
        }
    }
}
