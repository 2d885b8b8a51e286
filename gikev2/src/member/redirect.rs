//! Following a key server that sends us to another one (RFC 5685).
//!
//! Only to key servers that our configuration names, each with the identity that it says: a redirect changes nothing but which of
//! them is in use. Whoever forges one in the answer to IKE_SA_INIT, which takes our nonce, gains no more than that we ask
//! another of our own key servers, and only a few times.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::time::Duration;

use keyferry_model::redirect::{Following, GatewayName};
use keyferry_model::update::{MemberCtx, MemberEvent};

use super::connecting::Connecting;
use super::link::Spi;
use super::{Goal, Link, Member};
use crate::policy::gateway::redirected;
use crate::reject::Reject;
use crate::wire::message::Payloads;
use crate::wire::sk::Opened;

/// Members that are sent elsewhere in one moment do not all ask there in one moment: at most this part of `retry` later.
const SPREAD: u32 = 4;

/// Redirects that were followed.
#[derive(Debug, Default)]
pub(super) struct Redirects {
    /// When, the oldest first, as far back as counts.
    past: VecDeque<Duration>,
    /// The key server that sent us to the present one; told to that one when we first turn to it.
    pub(super) from: Option<IpAddr>,
}

impl Redirects {
    /// May another one be followed (RFC 5685 section 7)?
    pub(super) fn may_follow(&self, following: Option<Following>, now: Duration) -> bool {
        let Some(Following { most, period }) = following else { return false };
        self.past.iter().filter(|at| now < at.saturating_add(period)).count() < most
    }

    fn followed(&mut self, from: IpAddr, following: Following, now: Duration) {
        self.past.push_back(now);
        while self.past.len() > following.most {
            self.past.pop_front();
        }
        self.from = Some(from);
    }
}

impl Member {
    /// Turns to the key server that a redirect names, if we know it and have not been sent about too often.
    fn turn_to(&mut self, to: &GatewayName, now: Duration) -> bool {
        let following = self.settings.ike2.follows;
        let place = self.settings.key_servers.named(to);
        let (Some(following), Some(place)) = (following.filter(|f| self.redirects.may_follow(Some(*f), now)), place)
        else {
            tracing::debug!(%to, "not followed");
            return false;
        };
        let from = self.settings.gateway().ip();
        self.redirects.followed(from, following, now);
        self.settings.key_servers.turn_to(place);
        self.status.redirects += 1;
        tracing::info!(%from, to = %self.settings.gateway(), "sent to another key server");
        true
    }

    /// The answer to IKE_SA_INIT sends us elsewhere.
    pub(super) fn redirected_at_once(&mut self, ctx: &mut MemberCtx<'_>, to: &GatewayName) {
        if self.turn_to(to, ctx.now.mono) {
            self.link = Link::Down;
            self.pursue(ctx);
        } else if let Link::Connecting(connecting) = &mut self.link {
            connecting.refuse(format!("the key server sends us to {to}"));
        }
    }

    /// The answer to our AUTH, which has verified, may send us elsewhere; says whether it does. The IKE SA goes then.
    pub(super) fn redirected_after_auth(&mut self, ctx: &mut MemberCtx<'_>, opened: &Opened) -> bool {
        match sent_to(opened) {
            Ok(None) => return false,
            Ok(Some(to)) => {
                self.close(ctx);
                if self.turn_to(&to, ctx.now.mono) {
                    self.pursue(ctx);
                } else {
                    self.fail(ctx, Some(format!("the key server sends us to {to}")));
                }
            }
            Err(reject) => {
                self.close(ctx);
                self.fail(ctx, Some(reject.to_string()));
            }
        }
        true
    }

    /// A request over the IKE SA sent us elsewhere, and was answered.
    pub(super) fn redirected_later(&mut self, ctx: &mut MemberCtx<'_>, spi: Spi, to: &GatewayName) {
        let current = matches!(&self.link, Link::Up(sas) if sas.is_current(spi));
        // Whoever leaves needs nobody else.
        if !current || self.goal == Goal::Leave {
            return;
        }
        let present = self.settings.key_servers.place();
        if !self.turn_to(to, ctx.now.mono) {
            return;
        }
        let next = self.settings.key_servers.place();
        // The Delete is for the one that we leave.
        self.settings.key_servers.turn_to(present);
        self.close(ctx);
        self.settings.key_servers.turn_to(next);
        self.down(ctx);
        ctx.event(MemberEvent::Disconnected);
        self.goal = if self.settings.connect_only { Goal::Connect } else { Goal::Register };
        if !self.settings.connect_only {
            self.wake_further(Some(ctx.now.mono));
        }
        let spread = u64::try_from((self.settings.retry / SPREAD).as_micros()).unwrap_or(u64::MAX - 1);
        self.retry_at = Some(ctx.now.mono + Duration::from_micros(ctx.rng.below(spread + 1)));
    }
}

impl Connecting {
    /// An answer to IKE_SA_INIT that sends us elsewhere: only with our nonce, and not when another one is believed.
    pub(super) fn redirect(&self, payloads: &Payloads<'_>) -> Result<Option<GatewayName>, Reject> {
        let to = redirected(payloads, &self.nonce_i)?;
        Ok(to.filter(|_| self.candidates.is_empty()))
    }
}

/// Where a protected message sends us: without a nonce (RFC 5685 section 9.2).
fn sent_to(opened: &Opened) -> Result<Option<GatewayName>, Reject> {
    redirected(&Payloads::parse(opened.first, opened.inner.expose(), &[])?, &[])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 5685 section 7.
    #[test]
    fn redirects_are_followed_a_few_times() {
        let (following, s) = (Following::default(), Duration::from_secs);
        let mut redirects = Redirects::default();
        assert!(!redirects.may_follow(None, s(0)));
        for n in 0..5 {
            assert!(redirects.may_follow(Some(following), s(n)));
            redirects.followed(IpAddr::from([10, 0, 0, 1]), following, s(n));
        }
        assert!(!redirects.may_follow(Some(following), s(299)));
        assert!(redirects.may_follow(Some(following), s(300)), "the first of them counts no more");
        redirects.followed(IpAddr::from([10, 0, 0, 1]), following, s(300));
        assert!(!redirects.may_follow(Some(following), s(300)));
        assert_eq!(redirects.past.len(), 5);
    }
}
