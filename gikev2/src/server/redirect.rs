//! Members are sent to other gateways (RFC 5685): newcomers in the answer to IKE_SA_INIT, which leaves nothing here; those that
//! have just authenticated in the answer to that; and those with an IKE SA by INFORMATIONAL, when the gateway is drained.
//!
//! Only who says that it can be sent elsewhere is, and nobody back to the gateway that it comes from.

use std::net::IpAddr;
use std::time::Duration;

use keyferry_model::drive::{Ctx, Datagram};
use keyferry_model::id::Identity;
use keyferry_model::redirect::{GatewayName, Redirect, RedirectWhen};
use keyferry_wire::{ChainWriter, Encode, Header};

use super::established::Purpose;
use super::{Server, Spi, State};
use crate::ike_sa::init::refusal;
use crate::policy::gateway::{redirect, who_redirected};
use crate::wire::message::Payloads;
use crate::wire::registry::{NotifyType, PayloadKind};

/// Between two members that are told: the other gateway takes them one after the other, too.
const PACE: Duration = Duration::from_millis(1);

/// A peer that may be sent elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Willing {
    /// The gateway that sent it here.
    from: Option<IpAddr>,
}

impl Willing {
    /// What an IKE_SA_INIT request says of it. Who was sent here by another gateway need not say it again.
    pub(super) fn read(payloads: &Payloads<'_>) -> Option<Self> {
        let says = |kind| payloads.notify(kind).is_some();
        let willing = says(NotifyType::REDIRECT_SUPPORTED) || says(NotifyType::REDIRECTED_FROM);
        willing.then(|| Self { from: who_redirected(payloads) })
    }
}

/// Where a peer with an IKE SA goes.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Leaving {
    /// May it be sent elsewhere?
    pub(super) willing: Option<Willing>,
    /// When to tell it.
    pub(super) tell_at: Option<Duration>,
    /// It was told, and its IKE SA is deleted then.
    pub(super) until: Option<Duration>,
}

/// One of several, the same for the same octets.
fn choose<'a>(redirect: &'a Redirect, willing: &Willing, by: &[u8]) -> Option<&'a GatewayName> {
    let back = |name: &&GatewayName| willing.from.is_some_and(|from| name.names(from, None));
    let others: Vec<&GatewayName> = redirect.to.iter().filter(|name| !back(name)).collect();
    let at = by.iter().fold(0, |sum: usize, octet| sum + usize::from(*octet)).checked_rem(others.len())?;
    others.get(at).copied()
}

impl Server {
    /// Sends all members elsewhere from now on, those with an IKE SA one after the other; or no more. How many will be told;
    /// `None` where no other gateway is configured.
    pub fn drain(&mut self, ctx: &mut Ctx<'_>, begin: bool) -> Option<usize> {
        self.config.redirect.as_ref()?;
        self.drained = begin;
        let mut told = 0_u32;
        let mut due = Vec::new();
        for (spi, entry) in &mut self.sas {
            let State::Established(state) = &mut entry.state else { continue };
            let goes = begin && state.leaving.willing.is_some() && state.leaving.until.is_none();
            let goes = goes && state.rekeying.doomed.is_none();
            state.leaving.tell_at = goes.then(|| ctx.now.mono + told * PACE);
            if goes {
                told += 1;
                due.push(*spi);
            }
        }
        due.into_iter().for_each(|spi| self.rearm(spi));
        usize::try_from(told).ok()
    }

    /// Are members sent elsewhere, whoever they are?
    #[must_use]
    pub fn is_drained(&self) -> bool {
        self.drained || self.config.redirect.as_ref().is_some_and(|r| r.when == RedirectWhen::Always)
    }

    /// Answers an IKE_SA_INIT request by sending the peer elsewhere, if that is what is to be done. Nothing is kept of it, and no
    /// more octets leave than came.
    pub(super) fn redirect_init(
        &mut self,
        ctx: &mut Ctx<'_>,
        dgram: &Datagram<'_>,
        header: &Header,
        payloads: &Payloads<'_>,
        nonce: &[u8],
    ) -> bool {
        let Some(willing) = Willing::read(payloads) else { return false };
        let Some(elsewhere) = &self.config.redirect else { return false };
        // Half-open SAs do not count, nor closed ones: anybody can make them.
        let in_use = self.sas.len() - self.half_open.total() - self.closed;
        let full = elsewhere.when == RedirectWhen::Full && in_use >= elsewhere.above;
        if !full && !self.is_drained() {
            return false;
        }
        let Some(to) = choose(elsewhere, &willing, nonce) else { return false };
        let answer = refusal(header, &redirect(to, nonce));
        if answer.len() > dgram.bytes.len() {
            return false;
        }
        tracing::debug!(peer = %dgram.from, %to, "newcomer sent elsewhere");
        self.counters.redirected += 1;
        ctx.out.send(dgram.reply(answer));
        true
    }

    /// Where a peer that has authenticated is sent in the answer.
    pub(super) fn elsewhere(&self, willing: Option<Willing>, identity: &Identity) -> Option<GatewayName> {
        let elsewhere = self.config.redirect.as_ref()?;
        let goes = self.is_drained() || elsewhere.members.contains(identity);
        choose(elsewhere, &willing.filter(|_| goes)?, identity.to_string().as_bytes()).cloned()
    }

    /// Tells a peer over its IKE SA. The nonce is for IKE_SA_INIT alone (RFC 5685 section 5).
    pub(super) fn send_elsewhere(&mut self, ctx: &mut Ctx<'_>, spi: Spi) {
        let Some(state) = self.in_use(&spi) else { return };
        state.leaving.tell_at = None;
        let (willing, identity) = (state.leaving.willing, state.who.identity.clone());
        let Some(to) = self.elsewhere(willing, &identity) else { return };
        tracing::info!(member = %identity, %to, "member sent elsewhere");
        self.counters.redirected += 1;
        let mut chain = ChainWriter::new();
        chain.push(PayloadKind::NOTIFY.0, &redirect(&to, &[]).to_vec());
        self.ask(ctx, spi, Purpose::Redirect, chain);
    }

    /// It knows, and has a while to settle there before its IKE SA goes.
    pub(super) fn sent_elsewhere(&mut self, spi: Spi, now: Duration) {
        let patience = self.config.redirect.as_ref().map(|r| r.patience);
        if let Some(state) = self.in_use(&spi) {
            state.leaving.until = patience.map(|patience| now + patience);
        }
    }
}
