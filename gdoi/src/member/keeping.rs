//! A phase 1 SA that is kept after the registration: is the key server alive, and is it time for the next SA?
//!
//! The next SA is made while the present one is in use, and takes its place when it stands.

use std::time::Duration;

use keyferry_model::time::Deadline;
use keyferry_model::update::{MemberCtx, MemberEvent};

use super::{Member, Phase, Repeats, Session, below};
use crate::dpd::Probe;
use crate::wire::registry::NotifyType;

/// The most time before the end of an SA at which its successor is begun.
const MAX_HEADSTART: Duration = Duration::from_secs(600);

impl Session {
    /// Sets the time for a successor: well before the end, spread so that not all members come at once.
    pub(super) fn plan_successor(&mut self, ctx: &mut MemberCtx<'_>) {
        let left = self.expires.saturating_sub(ctx.now.mono);
        let span = (left / 10).min(MAX_HEADSTART);
        self.renew = self.expires.saturating_sub(span + below(span, ctx.rng)).max(ctx.now.mono);
    }
}

impl Member {
    /// Does what is due about an SA that is kept.
    pub(super) fn expire_kept(&mut self, ctx: &mut MemberCtx<'_>) {
        self.expire_successor(ctx);
        let Phase::Resting(Some(session)) = &mut self.phase else { return };
        if !self.options.keep {
            return;
        }
        if session.expires <= ctx.now.mono {
            tracing::debug!("phase 1 has run out");
            self.phase = Phase::Resting(None);
            self.wake_all(ctx.now.mono);
        } else if session.renew <= ctx.now.mono && self.successor.is_none() {
            self.begin_successor(ctx);
        } else {
            self.probe(ctx);
        }
    }

    /// Asks a silent key server whether it is alive (RFC 3706).
    fn probe(&mut self, ctx: &mut MemberCtx<'_>) {
        let Phase::Resting(Some(session)) = &mut self.phase else { return };
        let Some(dpd) = self.options.dpd.filter(|_| session.extensions.dpd) else { return };
        match session.liveness.probe(&dpd, ctx.now.mono) {
            Probe::Wait => {}
            Probe::Ask(number) => {
                if let Some(question) = session.status(NotifyType::R_U_THERE, &number.to_be_bytes(), ctx.rng) {
                    session.liveness.ask(&dpd, ctx.now.mono, question.clone());
                    ctx.send(self.transmit(question));
                }
            }
            Probe::Again(question) => ctx.send(self.transmit(question)),
            Probe::Dead => {
                self.successor = None;
                self.failed(ctx, None, None, MemberEvent::Unanswered);
            }
        }
    }

    fn begin_successor(&mut self, ctx: &mut MemberCtx<'_>) {
        let Some(initiator) = self.initiator(ctx.rng) else { return };
        tracing::debug!("phase 1 is renewed");
        let repeats = Repeats::start(&self.settings, ctx.now.mono, ctx.rng);
        initiator.messages(0).into_iter().for_each(|m| ctx.send(self.transmit(m)));
        self.successor = Some((Box::new(initiator), repeats));
    }

    fn expire_successor(&mut self, ctx: &mut MemberCtx<'_>) {
        let (mono, tries) = (ctx.now.mono, self.settings.tries);
        let Some((initiator, repeats)) = &mut self.successor else { return };
        let mut messages = initiator.release(mono, ctx.rng);
        if repeats.at <= mono {
            if repeats.sent >= tries {
                return self.successor_failed(ctx);
            }
            repeats.next(mono, ctx.rng);
            messages.extend(initiator.messages(repeats.sent));
        }
        messages.into_iter().for_each(|m| ctx.send(self.transmit(m)));
    }

    /// Tries again later, while the present SA lasts.
    pub(super) fn successor_failed(&mut self, ctx: &mut MemberCtx<'_>) {
        tracing::info!("phase 1 could not be renewed");
        self.successor = None;
        let again = self.retry_at(ctx);
        if let Phase::Resting(Some(session)) = &mut self.phase {
            session.renew = again;
        }
    }

    /// The next SA takes the place of the present one, which is deleted.
    pub(super) fn succeed(&mut self, ctx: &mut MemberCtx<'_>, session: Session) {
        let Phase::Resting(present) = &mut self.phase else { return };
        let old = present.replace(Box::new(session));
        let delete = old.and_then(|old| old.sa.notice(old.sa.delete(), ctx.rng).ok());
        delete.into_iter().for_each(|d| ctx.send(self.transmit(d)));
    }

    /// When [`expire_kept`](Self::expire_kept) is wanted next.
    pub(super) fn kept_due(&self) -> Option<Deadline> {
        let deadline = |at, reason| Some(Deadline { at, reason });
        let successor = self.successor.as_ref().and_then(|(initiator, repeats)| {
            let due = initiator.due().map_or(repeats.at, |at| at.min(repeats.at));
            deadline(due, "next phase 1")
        });
        let Phase::Resting(Some(session)) = &self.phase else { return successor };
        if !self.options.keep {
            return successor;
        }
        let probe = self.options.dpd.filter(|_| session.extensions.dpd).map(|dpd| session.liveness.due(&dpd));
        let renew = if self.successor.is_some() { session.expires } else { session.renew.min(session.expires) };
        let kept = Deadline::earlier(probe.and_then(|at| deadline(at, "silence")), deadline(renew, "end of phase 1"));
        Deadline::earlier(successor, kept)
    }
}
