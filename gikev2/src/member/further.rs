//! Further groups of a member, for which it registers over the same IKE SA (RFC 9838 section 2.3.2).
//!
//! Each has its own time to register, its own Rekey SAs, and what comes out about it is [`MemberOutput::Of`] it. One that is
//! refused waits alone. None is rekeyed in band: GSA_INBAND_REKEY does not say which group it is for (reading 32).

use std::time::Duration;

use keyferry_model::drive::Datagram;
use keyferry_model::id::GroupId;
use keyferry_model::update::{MemberCtx, MemberEvent, MemberOutput};
use keyferry_wire::{ChainWriter, Header};
use serde::Serialize;

use super::link::{Purpose, Spi};
use super::{Goal, Link, Member};
use crate::policy::identity::group_to_wire;
use crate::registration::grant::{Grant, evaluate};
use crate::registration::request::{join, leave};
use crate::reject::Reject;
use crate::rekey::group::Group;
use crate::rekey::receive::Rekey;
use crate::wire::message::{GroupKeys, Payloads};
use crate::wire::registry::NotifyType;
use crate::wire::rules;
use crate::wire::sk::Opened;

/// A further group.
pub(super) struct Further {
    pub(super) id: GroupId,
    group: Option<Group>,
    /// When to register for it.
    wake: Option<Duration>,
    /// Rekey SAs that were replaced or deleted since the pending registration was asked for.
    outdated: Vec<[u8; 16]>,
    status: FurtherStatus,
}

/// A further group at a glance.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct FurtherStatus {
    /// Its identity.
    pub group: String,
    /// Are there keys?
    pub registered: bool,
    /// Registrations so far.
    pub registrations: u64,
    /// Rekey messages taken.
    pub rekeys: u64,
}

/// Queues something about a further group.
fn about(ctx: &mut MemberCtx<'_>, at: usize, output: MemberOutput) {
    ctx.out.push(MemberOutput::Of(at + 1, Box::new(output)));
}

impl Member {
    /// Joins a further group, over the same IKE SA. What comes out about it is [`MemberOutput::Of`] it.
    pub fn add_group(&mut self, id: GroupId) {
        let status = FurtherStatus { group: id.to_string(), ..FurtherStatus::default() };
        self.further.push(Further { id, group: None, wake: None, outdated: Vec::new(), status });
    }

    /// All further groups are to be registered for at this time, or not at all.
    pub(super) fn wake_further(&mut self, at: Option<Duration>) {
        self.further.iter_mut().for_each(|f| f.wake = at);
    }

    pub(super) fn further_status(&self) -> Vec<FurtherStatus> {
        let of = |f: &Further| FurtherStatus { registered: f.group.is_some(), ..f.status.clone() };
        self.further.iter().map(of).collect()
    }

    /// Can something be asked for a further group?
    fn is_free(&self) -> bool {
        let idle = match &self.link {
            Link::Down => true,
            Link::Dialing | Link::Connecting(_) => false,
            Link::Up(sas) => sas.current.requests.is_idle() && sas.current.made.heir().is_none(),
        };
        idle && self.goal == Goal::Rest && self.retry_at.is_none()
    }

    pub(super) fn further_due(&self) -> Option<Duration> {
        let wake = self.further.iter().filter_map(|f| f.wake).min().filter(|_| self.is_free());
        let expiry = self.further.iter().filter_map(|f| f.group.as_ref()?.next_expiry()).min();
        [wake, expiry].into_iter().flatten().min()
    }

    pub(super) fn expire_further(&mut self, ctx: &mut MemberCtx<'_>) {
        let now = ctx.now.mono;
        for f in &mut self.further {
            if let Some(group) = &mut f.group {
                group.expire(now);
                if group.is_over() {
                    tracing::info!(group = %f.id, "the group's keys have ended");
                    (f.group, f.wake) = (None, Some(now));
                }
            }
        }
        if self.further.iter().any(|f| f.wake.is_some_and(|at| at <= now)) && self.is_free() {
            self.pursue(ctx);
        }
    }

    /// Registers for the next further group whose time has come.
    pub(super) fn pursue_further(&mut self, ctx: &mut MemberCtx<'_>) {
        let due = |f: &Further| f.wake.is_some_and(|wake| wake <= ctx.now.mono);
        let Some(at) = self.further.iter().position(due).filter(|_| self.is_free()) else { return };
        if group_to_wire(&self.further[at].id).is_none() {
            // Nothing that waiting would change.
            self.further[at].wake = None;
            let why = format!("G-IKEv2 cannot ask for the group {}", self.further[at].id);
            about(ctx, at, MemberOutput::Event(MemberEvent::Refused(why)));
            return self.pursue_further(ctx);
        }
        if matches!(self.link, Link::Down) {
            self.goal = Goal::Connect;
            return self.pursue(ctx);
        }
        let mut chain = ChainWriter::new();
        join(&self.settings, &self.further[at].id, &mut chain);
        // It stays due until there is an answer, whatever becomes of the IKE SA.
        self.further[at].outdated.clear();
        self.ask(ctx, Purpose::RegisterFurther(at), chain);
    }

    /// Leaves a further group that it is in; `false` if there is none.
    pub(super) fn leave_further(&mut self, ctx: &mut MemberCtx<'_>) -> bool {
        let Some(at) = self.further.iter().position(|f| f.group.is_some()) else { return false };
        let mut chain = ChainWriter::new();
        leave(&self.further[at].id, NotifyType::REGISTRATION_FAILED, &mut chain);
        self.further[at].group = None;
        about(ctx, at, MemberOutput::Event(MemberEvent::Left));
        self.ask(ctx, Purpose::LeaveFurther, chain);
        true
    }

    /// The answer to a registration for a further group.
    pub(super) fn further_response(&mut self, ctx: &mut MemberCtx<'_>, spi: Spi, at: usize, opened: &Opened) {
        if self.goal == Goal::Leave {
            return;
        }
        let Link::Up(sas) = &self.link else { return };
        let Some((_, default)) = sas.get(spi).and_then(|up| up.sa.key_wrap()) else { return };
        let log = self.key_log.as_deref_mut().map(|l| l as _);
        let payloads = Payloads::parse(opened.first, opened.inner.expose(), rules::REGISTRATION_RESPONSE);
        let result = payloads.and_then(|payloads| {
            if let Some(error) = payloads.error() {
                return Ok(Err(error));
            }
            let grant = evaluate(&GroupKeys::of(&payloads)?, default, self.settings.sender_ids, ctx.now.mono, log)?;
            match grant.group.in_band {
                true => Err(Reject::Misbehaved("in band over an IKE SA that carries other groups")),
                false => grant.within(&self.settings.traffic.accept).map(Ok),
            }
        });
        match result {
            Ok(Ok(grant)) => self.further_registered(ctx, at, grant),
            Ok(Err(error)) => self.further_refused(ctx, at, format!("{error:?}")),
            Err(reject) => {
                tracing::warn!(group = %self.further[at].id, %reject, "the group's policy cannot be followed");
                self.further_refused(ctx, at, reject.to_string());
                self.decline(ctx, Purpose::DeclineFurther(at));
            }
        }
    }

    fn further_registered(&mut self, ctx: &mut MemberCtx<'_>, at: usize, grant: Grant) {
        let Grant { group, update, listen } = grant;
        let later = self.later(ctx);
        let f = &mut self.further[at];
        let known = f.group.iter().flat_map(|g| &g.rekey_sas);
        let past = known.into_iter().any(|old| group.rekey_sas.iter().any(|new| new.is_before(old)));
        if past || group.rekey_sas.iter().any(|new| f.outdated.contains(&new.spi)) {
            tracing::debug!(group = %f.id, "the answer to a registration is older than a rekey: dropped");
            f.wake = Some(later);
            return;
        }
        f.wake = group.renew_at(ctx.now.mono, ctx.rng);
        f.group = Some(group);
        f.status.registrations += 1;
        about(ctx, at, MemberOutput::Update(update));
        ctx.out.extend(listen.map(MemberOutput::Listen));
        about(ctx, at, MemberOutput::Event(MemberEvent::Registered));
    }

    fn further_refused(&mut self, ctx: &mut MemberCtx<'_>, at: usize, why: String) {
        self.further[at].wake = Some(self.later(ctx));
        about(ctx, at, MemberOutput::Event(MemberEvent::Refused(why)));
    }

    /// A rekey of a further group, if it is one of those.
    pub(super) fn rekey_further(&mut self, ctx: &mut MemberCtx<'_>, dgram: &Datagram<'_>, header: &Header) -> bool {
        let listens = |f: &Further| f.group.as_ref().is_some_and(|g| g.listens_to(header));
        let Some(at) = self.further.iter().position(listens) else { return false };
        let (now, later, sender) = (ctx.now.mono, self.later(ctx), self.settings.sender_ids > 0);
        let log = self.key_log.as_deref_mut().map(|l| l as _);
        let f = &mut self.further[at];
        let Some(group) = &mut f.group else { return false };
        match group.take(header, dgram.bytes, sender, now, log) {
            Ok(None) => return true,
            Ok(Some(Rekey::Copy)) => self.status.copies += 1,
            Ok(Some(Rekey::Excluded)) => {
                f.outdated.extend(group.rekey_sas.iter().map(|sa| sa.spi));
                f.group = None;
                f.wake = Some(later);
                about(ctx, at, MemberOutput::Flush);
                about(ctx, at, MemberOutput::Event(MemberEvent::Excluded));
                return true;
            }
            Ok(Some(Rekey::New(change))) => {
                let (counter, listen, anew) = (change.counter, change.listen, change.needs_sender_ids);
                f.outdated.extend(group.outdated_by(&change));
                let update = group.apply(*change, now);
                f.wake = if anew { Some(now) } else { group.renew_at(ctx.now.mono, ctx.rng) };
                f.status.rekeys += 1;
                if let Some(update) = update {
                    about(ctx, at, MemberOutput::Update(update));
                }
                ctx.out.extend(listen.map(MemberOutput::Listen));
                about(ctx, at, MemberOutput::Event(MemberEvent::Rekeyed { counter }));
            }
            Err(reject) => {
                tracing::debug!(from = %dgram.from, %reject, "rekey dropped");
                self.status.rejected += 1;
                return true;
            }
        }
        let ack = self.further[at].group.as_ref().and_then(|g| g.acknowledgement(header));
        if ack.is_some_and(|ack| self.queue_ack(ctx, ack))
            && let Some(group) = &mut self.further[at].group
        {
            group.acknowledged(header);
        }
        self.pursue(ctx);
        true
    }
}
