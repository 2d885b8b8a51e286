//! New keys for the IKE SA, asked for by either end (RFC 7296 sections 2.8.2, 2.18 and 2.25.2).
//!
//! What the member wants of its key server waits while the SA is being replaced, and then goes over the new one.

use std::time::Duration;

use keyferry_crypto::{CryptoError, KeGroup, KeyPair, Secret};
use keyferry_model::drive::Datagram;
use keyferry_model::update::MemberCtx;
use keyferry_wire::ChainWriter;

use super::link::{Purpose, Spi, Up};
use super::{Link, Member, send};
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
            Link::Down | Link::Connecting(_) => None,
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
        if up.made.heir().is_some() || up.proposed.is_some() {
            return;
        }
        if !up.requests.is_idle() {
            return up.life.try_later(ctx.now.mono, ctx.rng);
        }
        let proposed = Proposed::draw(&self.preferences, &up.sa.suite, group, fresh, ctx.rng);
        match KeyPair::generate(proposed.group, ctx.rng) {
            Ok(pair) => {
                let chain = proposed.chain(pair.public());
                up.proposed = Some((proposed, pair));
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
        let (now, lifetime) = (ctx.now.mono, self.ike.lifetime);
        let Link::Up(sas) = &mut self.link else { return };
        let Some(up) = sas.get_mut(spi) else { return };
        let Some((proposed, pair)) = up.proposed.take() else { return };
        let accepted = Payloads::parse(opened.first, opened.inner.expose(), rules::CHILD_RESPONSE)
            .map_err(|reject| Declined::Never(reject.to_string()))
            .and_then(|payloads| proposed.accept(&self.preferences, payloads));
        let log = self.key_log.as_deref_mut().map(|l| l as _);
        let made = match &accepted {
            Ok(accepted) => pair
                .agree(&accepted.public)
                .and_then(|shared| proposed.finish(&up.sa, accepted, &shared, ctx.rng, log))
                .map_err(|error| Declined::Never(error.to_string())),
            Err(Declined::Group(group)) if up.made.theirs.is_none() => {
                let group = *group;
                return self.begin_rekey(ctx, spi, Some(group));
            }
            Err(declined) => {
                if matches!(declined, Declined::Later | Declined::Group(_)) {
                    up.life.try_later(now, ctx.rng);
                }
                Err(Declined::Later)
            }
        };
        if let Err(declined) = &accepted {
            tracing::debug!(?declined, "no new keys for the IKE SA");
        }
        match made {
            Ok((sa, made)) => {
                up.made.ours = Some(made);
                sas.push(Up::fresh(sa, Life::new(lifetime, now, ctx.rng), now));
                self.status.ike_rekeys += 1;
                tracing::info!("IKE SA has new keys");
            }
            // The key server has an SA now that we have no keys for; it goes with this one.
            Err(Declined::Never(why)) => {
                tracing::debug!(why, "new keys of the IKE SA could not be made");
                return self.lost(ctx);
            }
            Err(Declined::Later | Declined::Group(_)) => {}
        }
        self.settle(ctx, spi);
    }

    /// The key server asks for new keys: what to answer.
    pub(super) fn peer_rekeys(
        &mut self,
        ctx: &mut MemberCtx<'_>,
        spi: Spi,
        init: &Init<'_>,
    ) -> Result<ChainWriter, Notify<'static>> {
        let (now, lifetime) = (ctx.now.mono, self.ike.lifetime);
        let later = || Notify::bare(NotifyType::TEMPORARY_FAILURE);
        let Link::Up(sas) = &mut self.link else { return Err(later()) };
        let full = sas.len() >= MOST;
        let up = sas.get_mut(spi).ok_or_else(later)?;
        if full || up.is_closing() || up.made.heir().is_some() {
            return Err(later());
        }
        let request = Request::of(init, &self.preferences, &up.sa.suite)?;
        let mut fresh = [0; 8];
        while fresh[..4] == [0; 4] {
            ctx.rng.fill(&mut fresh);
        }
        let log = self.key_log.as_deref_mut().map(|l| l as _);
        let seed = Secret::random(request.group().seed_len(), ctx.rng);
        let made = request
            .group()
            .answer(seed.expose(), &request.public)
            .and_then(|(public, shared)| request.answer(&up.sa, fresh, (&public, &shared), ctx.rng, log));
        let (chain, sa, made) = made.map_err(|error| {
            let theirs = matches!(error, CryptoError::BadPublicValue);
            if theirs { Notify::bare(NotifyType::INVALID_SYNTAX) } else { later() }
        })?;
        up.made.theirs = Some(made);
        sas.push(Up::fresh(sa, Life::new(lifetime, now, ctx.rng), now));
        self.status.ike_rekeys += 1;
        tracing::info!("IKE SA has new keys");
        Ok(chain)
    }

    /// Once no exchange is under way: one of the SAs stays, and we delete those that are ours to delete.
    pub(super) fn settle(&mut self, ctx: &mut MemberCtx<'_>, spi: Spi) {
        let now = ctx.now.mono;
        let Some(up) = self.up(spi).filter(|up| up.proposed.is_none()) else { return };
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
        let Link::Up(sas) = &self.link else { return };
        // While our own wish is unanswered nobody knows which one that will be.
        if sas.current.proposed.is_none() && self.heir(sas.current.sa.own_spi()) == Some(spi) {
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
