//! New keys for the IKE SA, asked for by either end (RFC 7296 sections 2.8.2, 2.18 and 2.25.2; RFC 9370 section 2.2.4).
//!
//! What the member wants of its key server waits while the SA is being replaced, and then goes over the new one.

use std::time::Duration;

use keyferry_crypto::{CryptoError, KeGroup, KeyPair, Secret};
use keyferry_model::drive::Datagram;
use keyferry_model::update::MemberCtx;
use keyferry_wire::ChainWriter;

use super::link::{Attempt, Awaited, Purpose, Spi, Up};
use super::{Link, Member, send};
use crate::ike_sa::followup::{self, Answering, Failure, Following};
use crate::ike_sa::life::Life;
use crate::ike_sa::rekey::{Declined, Heir, Proposed, Request};
use crate::wire::message::{Init, Payloads};
use crate::wire::notify::Notify;
use crate::wire::registry::NotifyType;
use crate::wire::rules;
use crate::wire::sk::Opened;

/// An SA that the key server should delete, and does not, is deleted after this time: longer than anybody repeats a
/// request whose answer is lost.
const PATIENCE: Duration = Duration::from_secs(180);
/// The SA in use, one in its place by each end, and one that is about to go.
const MOST: usize = 4;

impl Member {
    /// An SA in use.
    pub(super) fn up(&mut self, spi: Spi) -> Option<&mut Up> {
        match &mut self.link {
            Link::Up(sas) => sas.get_mut(spi),
            Link::Down | Link::Dialing | Link::Connecting(_) => None,
        }
    }

    /// Asks for new keys.
    pub(super) fn begin_rekey(&mut self, ctx: &mut MemberCtx<'_>, spi: Spi, group: Option<KeGroup>) {
        let mut fresh = [0; 8];
        while fresh[..4] == [0; 4] {
            ctx.rng.fill(&mut fresh);
        }
        let Link::Up(sas) = &mut self.link else { return };
        let Some(up) = sas.get_mut(spi) else { return };
        up.life.rest();
        if up.made.heir().is_some() || !up.is_settled() {
            return;
        }
        if !up.requests.is_idle() {
            return up.life.try_later(ctx.now.mono, ctx.rng);
        }
        let proposed = Proposed::draw(&self.preferences, &up.sa.suite, group, fresh, ctx.rng);
        match KeyPair::generate(proposed.group, ctx.rng) {
            Ok(pair) => {
                let chain = proposed.chain(pair.public());
                up.attempt = Some(Attempt::Asked(proposed, pair));
                self.ask_over(ctx, spi, Purpose::Rekey, chain);
            }
            Err(error) => {
                tracing::error!(%error, "no key pair");
                up.life.try_later(ctx.now.mono, ctx.rng);
            }
        }
    }

    /// The key server's answer to that.
    pub(super) fn rekey_answered(&mut self, ctx: &mut MemberCtx<'_>, spi: Spi, opened: &Opened) {
        let now = ctx.now.mono;
        let Link::Up(sas) = &mut self.link else { return };
        let Some(up) = sas.get_mut(spi) else { return };
        let asked = up.attempt.take_if(|attempt| matches!(attempt, Attempt::Asked(..)));
        let Some(Attempt::Asked(proposed, pair)) = asked else { return };
        let accepted = Payloads::parse(opened.first, opened.inner.expose(), rules::CHILD_RESPONSE)
            .map_err(|reject| Declined::Never(reject.to_string()))
            .and_then(|payloads| proposed.accept(&self.preferences, payloads));
        match accepted {
            Ok(accepted) => {
                let following = Following::new(proposed, accepted);
                let made = up.made.theirs.as_ref().map(|made| made.lowest.as_slice());
                let theirs = up.awaited.as_ref().map(|awaited| awaited.answering.lowest()).or(made);
                match theirs.map(|theirs| following.lowest() < theirs) {
                    // Where no SA has been made there is none to delete, either (RFC 9370 section 2.2.4).
                    Some(true) if following.is_series() => return self.settle(ctx, spi),
                    Some(false) => up.awaited = None,
                    Some(true) | None => {}
                }
                let peer = following.first_public().to_vec();
                self.agree(ctx, spi, following, &pair, &peer);
            }
            Err(Declined::Group(group)) if up.made.theirs.is_none() && up.awaited.is_none() => {
                return self.begin_rekey(ctx, spi, Some(group));
            }
            Err(declined) => {
                tracing::debug!(?declined, "no new keys for the IKE SA");
                if matches!(declined, Declined::Later | Declined::Group(_)) {
                    up.life.try_later(now, ctx.rng);
                }
            }
        }
        self.settle(ctx, spi);
    }

    /// The key server's answer to another key exchange.
    pub(super) fn follow_up_answered(&mut self, ctx: &mut MemberCtx<'_>, spi: Spi, opened: &Opened) {
        let now = ctx.now.mono;
        let Some(up) = self.up(spi) else { return };
        let asked = up.attempt.take_if(|attempt| matches!(attempt, Attempt::Following(..)));
        let Some(Attempt::Following(mut following, pair)) = asked else { return };
        match following.accept(opened) {
            Ok(peer) => self.agree(ctx, spi, following, &pair, &peer),
            Err(failure) => {
                tracing::debug!(%failure, "no new keys for the IKE SA");
                match failure {
                    Failure::Forgotten => up.life.forgotten(now, ctx.rng),
                    Failure::Later => up.life.try_later(now, ctx.rng),
                    // It goes when its time is up.
                    Failure::Refused(_) => {}
                    Failure::Ended | Failure::Broken(_) => return self.lost(ctx),
                }
            }
        }
        self.settle(ctx, spi);
    }

    /// A key exchange of ours is done: goes on with the next one, or takes a new SA into use.
    fn agree(&mut self, ctx: &mut MemberCtx<'_>, spi: Spi, mut following: Following, pair: &KeyPair, peer: &[u8]) {
        let (now, lifetime) = (ctx.now.mono, self.ike.lifetime);
        let Link::Up(sas) = &mut self.link else { return };
        let Some(up) = sas.get_mut(spi) else { return };
        let log = self.key_log.as_deref_mut().map(|l| l as _);
        let made = match pair.agree(peer).map(|shared| following.agreed(shared)) {
            Ok(Some(method)) => match KeyPair::generate(method, ctx.rng) {
                Ok(pair) => {
                    let chain = following.chain(method, pair.public());
                    up.attempt = Some(Attempt::Following(following, pair));
                    return self.ask_over(ctx, spi, Purpose::FollowUp, chain);
                }
                Err(error) => {
                    tracing::error!(%error, "no key pair");
                    return up.life.try_later(now, ctx.rng);
                }
            },
            Ok(None) => following.finish(&up.sa, ctx.rng, log),
            Err(error) => Err(error),
        };
        match made {
            Ok((sa, made)) => {
                up.made.ours = Some(made);
                sas.push(Up::fresh(sa, Life::new(lifetime, now, ctx.rng), now));
                self.status.ike_rekeys += 1;
                tracing::info!("IKE SA has new keys");
            }
            // The key server may have an SA now that we have no keys for; it goes with this one.
            Err(error) => {
                tracing::debug!(%error, "new keys of the IKE SA could not be made");
                self.lost(ctx);
            }
        }
    }

    /// The key server asks for new keys: what to answer.
    pub(super) fn peer_rekeys(
        &mut self,
        ctx: &mut MemberCtx<'_>,
        spi: Spi,
        init: &Init<'_>,
    ) -> Result<ChainWriter, Notify<'static>> {
        let Link::Up(sas) = &mut self.link else { return Err(later()) };
        let full = sas.len() >= MOST;
        let up = sas.get_mut(spi).ok_or_else(later)?;
        let followed_up = matches!(up.attempt, Some(Attempt::Following(..)));
        if full || up.is_closing() || up.made.heir().is_some() || followed_up {
            return Err(later());
        }
        let request = Request::of(init, &self.preferences, &up.sa.suite, ctx.rng)?;
        let mut fresh = [0; 8];
        while fresh[..4] == [0; 4] {
            ctx.rng.fill(&mut fresh);
        }
        let answering = Answering::new(request, fresh);
        let (method, peer) = answering.first();
        self.answer(ctx, spi, answering, method, &peer)
    }

    /// The key server goes on with another key exchange: what to answer.
    pub(super) fn peer_follows_up(
        &mut self,
        ctx: &mut MemberCtx<'_>,
        spi: Spi,
        payloads: &Payloads<'_>,
    ) -> Result<ChainWriter, Notify<'static>> {
        let up = self.up(spi).ok_or_else(later)?;
        let awaited = up.awaited.as_ref().ok_or_else(followup::not_found)?;
        let (method, peer) = awaited.answering.next(payloads)?;
        let Some(Awaited { answering, .. }) = up.awaited.take().filter(|_| !up.is_closing()) else {
            return Err(later());
        };
        self.answer(ctx, spi, answering, method, &peer)
    }

    /// Computes a key exchange of the key server's; after the last one there is a new SA.
    fn answer(
        &mut self,
        ctx: &mut MemberCtx<'_>,
        spi: Spi,
        mut answering: Answering,
        method: KeGroup,
        peer: &[u8],
    ) -> Result<ChainWriter, Notify<'static>> {
        let (now, lifetime) = (ctx.now.mono, self.ike.lifetime);
        let Link::Up(sas) = &mut self.link else { return Err(later()) };
        let up = sas.get_mut(spi).ok_or_else(later)?;
        let seed = Secret::random(method.seed_len(), ctx.rng);
        let (public, shared) = method.answer(seed.expose(), peer).map_err(|error| {
            up.life.resume(now, ctx.rng);
            let theirs = matches!(error, CryptoError::BadPublicValue);
            if theirs { Notify::bare(NotifyType::INVALID_SYNTAX) } else { later() }
        })?;
        let chain = answering.answer(method, (&public, shared), ctx.rng);
        if !answering.is_done() {
            // Who knows already that it loses awaits nothing more.
            let loses = up.made.ours.as_ref().is_some_and(|ours| answering.lowest() < ours.lowest.as_slice());
            up.awaited = (!loses).then_some(Awaited { answering, until: now + followup::PATIENCE });
            return Ok(chain);
        }
        let log = self.key_log.as_deref_mut().map(|l| l as _);
        let (sa, made) = answering.finish(&up.sa, ctx.rng, log).map_err(|_| later())?;
        up.made.theirs = Some(made);
        sas.push(Up::fresh(sa, Life::new(lifetime, now, ctx.rng), now));
        self.status.ike_rekeys += 1;
        tracing::info!("IKE SA has new keys");
        Ok(chain)
    }

    /// A key server that has begun a series and does not go on: what there is of it is forgotten.
    pub(super) fn forget_awaited(&mut self, ctx: &mut MemberCtx<'_>, spi: Spi) {
        let now = ctx.now.mono;
        let Some(up) = self.up(spi) else { return };
        if up.awaited.take_if(|awaited| awaited.until <= now).is_some() {
            tracing::debug!("new keys of the IKE SA are not followed up");
            up.life.resume(now, ctx.rng);
            self.settle(ctx, spi);
            self.pursue(ctx);
        }
    }

    /// Once no exchange is under way: one of the SAs stays, and we delete those that are ours to delete.
    pub(super) fn settle(&mut self, ctx: &mut MemberCtx<'_>, spi: Spi) {
        let now = ctx.now.mono;
        let Some(up) = self.up(spi).filter(|up| up.is_settled()) else { return };
        let (deleted, other) = match up.made.heir() {
            None => return,
            Some(Heir::Ours { kept, other }) => {
                self.move_to(ctx, kept);
                (now, other.map(|spi| (spi, now + PATIENCE)))
            }
            // Its first message says that the key server is ready, or the end of the old one.
            Some(Heir::Theirs { other, .. }) => (now + PATIENCE, other.map(|spi| (spi, now))),
        };
        for (spi, at) in [(spi, deleted)].into_iter().chain(other) {
            if let Some(up) = self.up(spi) {
                up.doomed.get_or_insert(at);
                if at <= now && up.requests.is_idle() {
                    self.ask_over(ctx, spi, Purpose::Delete, super::steps::deletion());
                }
            }
        }
        self.pursue(ctx);
    }

    /// The SA that takes the place of this one, if there is one.
    pub(super) fn heir(&self, spi: Spi) -> Option<Spi> {
        let Link::Up(sas) = &self.link else { return None };
        let heir = sas.get(spi)?.made.heir()?;
        let (Heir::Ours { kept, .. } | Heir::Theirs { kept, .. }) = heir;
        sas.get(kept).map(|_| kept)
    }

    /// Uses another SA from now on. What was asked over the old one and not answered is asked again.
    pub(super) fn move_to(&mut self, ctx: &mut MemberCtx<'_>, spi: Spi) {
        let Link::Up(sas) = &mut self.link else { return };
        let pending = Some(sas.current.purpose).filter(|_| !sas.current.requests.is_idle());
        if sas.is_current(spi) || !sas.promote(spi) {
            return;
        }
        self.renew_ticket();
        if let Some(declining @ (Purpose::Decline | Purpose::DeclineFurther(_))) = pending {
            self.decline(ctx, declining);
        }
        self.pursue(ctx);
    }

    /// A message over an SA verified: if it is the one that takes the place of the one in use, the key server is ready.
    pub(super) fn heard_over(&mut self, ctx: &mut MemberCtx<'_>, spi: Spi) {
        if let Some(up) = self.up(spi) {
            up.heard = ctx.now.mono;
        }
        self.tcp.worked();
        let Link::Up(sas) = &self.link else { return };
        // While our own wish is unanswered nobody knows which one that will be.
        if sas.current.is_settled() && self.heir(sas.current.sa.own_spi()) == Some(spi) {
            self.move_to(ctx, spi);
        }
    }

    /// An SA has ended: another one takes its place, or there is none any more.
    pub(super) fn ended(&mut self, ctx: &mut MemberCtx<'_>, spi: Spi) {
        let Link::Up(sas) = &self.link else { return };
        if sas.is_current(spi) {
            match self.heir(spi) {
                Some(heir) => self.move_to(ctx, heir),
                None => return self.lost(ctx),
            }
        }
        if let Link::Up(sas) = &mut self.link {
            sas.forget(spi);
        }
    }

    /// A repeated request draws the same answer again, over whichever SA it came.
    pub(super) fn answer_again(&mut self, ctx: &mut MemberCtx<'_>, dgram: &Datagram<'_>) -> bool {
        match &self.farewell {
            Some((request, response)) if request == dgram.bytes => {
                send(ctx, dgram.reply(response.clone()));
                true
            }
            Some(_) | None => false,
        }
    }
}

fn later() -> Notify<'static> {
    Notify::bare(NotifyType::TEMPORARY_FAILURE)
}
