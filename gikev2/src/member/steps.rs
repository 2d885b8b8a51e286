//! What a member does with answers, requests and timers, on its way to its goal.

use std::time::Duration;

use keyferry_model::drive::{Datagram, Via};
use keyferry_model::redirect::GatewayName;
use keyferry_model::settings::{MemberSettings, Transport};
use keyferry_model::update::{MemberCtx, MemberEvent, MemberOutput};
use keyferry_wire::{ChainWriter, Encode, Header};

use super::connecting::{Connecting, Next, Outcome, Wish};
use super::link::{Purpose, Renewal, Sas, Spi, Up};
use super::redirect::Redirects;
use super::tcp::Tcp;
use super::{Goal, Link, Member, Step, send};
use crate::ike_sa::IkeOptions;
use crate::ike_sa::life::Life;
use crate::ike_sa::reassembly::MAX_OCTETS;
use crate::ike_sa::rekey::no_child;
use crate::ike_sa::sa::Direction;
use crate::ike_sa::window::{Backoff, Incoming};
use crate::policy::gateway::redirected;
use crate::policy::identity::group_to_wire;
use crate::registration::grant::{Grant, evaluate};
use crate::registration::request::{join, leave};
use crate::reject::Reject;
use crate::rekey::group::Group;
use crate::wire::delete::Delete;
use crate::wire::message::{ChildRequest, GroupKeys, Init, Payloads};
use crate::wire::notify::Notify;
use crate::wire::registry::{ExchangeType, NotifyType, PayloadKind, ProtocolId, flags};
use crate::wire::rules;
use crate::wire::sk::{Fragment, Opened, first_datagram};

/// How the key server is asked when somebody says that it does not know our IKE SA: a restart is found out in a quarter of a
/// minute, and lost messages are not yet taken for one.
const DOUBT: Backoff = Backoff { first: Duration::from_secs(1), tries: 3 };

/// IKE_SA_INIT is repeated so often over UDP, where TCP may be tried afterwards.
const TRIES_BEFORE_TCP: u8 = 3;

/// That is not believed again so soon.
const DOUBT_PAUSE: Duration = Duration::from_secs(60);

impl Member {
    /// Takes the next step to the goal, if nothing is pending.
    pub(super) fn pursue(&mut self, ctx: &mut MemberCtx<'_>) {
        if self.retry_at.is_some() {
            return;
        }
        match (self.goal, &self.link) {
            (_, Link::Dialing | Link::Connecting(_)) => {}
            (Goal::Rest, _) => {
                if !self.pursue_ticket(ctx) {
                    self.pursue_further(ctx);
                }
            }
            (_, Link::Down) => self.connect(ctx),
            // An SA that was replaced is asked nothing more.
            (Goal::Connect | Goal::Register | Goal::Leave, Link::Up(sas))
                if !sas.current.requests.is_idle() || sas.current.made.heir().is_some() => {}
            (Goal::Connect | Goal::Register, Link::Up(sas)) if sas.current.renewal != Renewal::None => {
                // The key server may be at it.
                if sas.current.awaited.is_none() {
                    self.renew_first(ctx);
                }
            }
            (Goal::Connect, Link::Up(_)) => {
                self.goal = Goal::Rest;
                self.pursue_further(ctx);
            }
            (Goal::Register, Link::Up(_)) => {
                let mut chain = ChainWriter::new();
                join(&self.settings, &self.settings.group, &mut chain);
                (self.outdated, self.overtaken) = (Vec::new(), false);
                self.ask(ctx, Purpose::Register, chain);
            }
            (Goal::Leave, Link::Up(_)) => {
                if self.leave_further(ctx) {
                    return;
                }
                let mut chain = ChainWriter::new();
                leave(&self.settings.group, NotifyType::REGISTRATION_FAILED, &mut chain);
                self.ask(ctx, Purpose::Leave, chain);
            }
        }
    }

    /// Asks for new keys before anything else; where the key server has refused them there is nothing to be had over this SA.
    fn renew_first(&mut self, ctx: &mut MemberCtx<'_>) {
        let Link::Up(sas) = &mut self.link else { return };
        let current = &mut sas.current;
        let spi = current.sa.own_spi();
        if std::mem::replace(&mut current.renewal, Renewal::Asked) == Renewal::Due {
            return self.begin_rekey(ctx, spi, None);
        }
        self.close(ctx);
        self.fail(ctx, Some("the key server gives the IKE SA no new keys".to_owned()));
    }

    fn connect(&mut self, ctx: &mut MemberCtx<'_>) {
        (self.outdated, self.overtaken) = (Vec::new(), false);
        if self.goal != Goal::Connect && group_to_wire(&self.settings.group).is_none() {
            return self.fail(ctx, Some(format!("G-IKEv2 cannot ask for the group {}", self.settings.group)));
        }
        if self.choose_transport(ctx) {
            self.link = Link::Dialing;
            return self.dial(ctx);
        }
        self.begin(ctx);
    }

    /// Begins with IKE_SA_INIT, over what was chosen.
    pub(super) fn begin(&mut self, ctx: &mut MemberCtx<'_>) {
        let ticket = self.use_ticket(ctx.now.mono);
        let wish = wish(&self.settings, &self.ike, self.goal, (&self.redirects, ctx.now.mono), &self.tcp);
        let mut step = Step { now: ctx.now, rng: &mut *ctx.rng };
        match Connecting::begin(&wish, &self.preferences, ticket, &mut step) {
            Ok(connecting) => {
                send(ctx, self.transmit(connecting.init_request()));
                self.link = Link::Connecting(Box::new(connecting));
            }
            Err(error) => {
                tracing::error!(%error, "no key pair");
                self.link = Link::Down;
                self.fail(ctx, Some(error.to_string()));
            }
        }
    }

    /// Sends a request over the IKE SA.
    pub(super) fn ask(&mut self, ctx: &mut MemberCtx<'_>, purpose: Purpose, chain: ChainWriter) {
        if let Link::Up(sas) = &self.link {
            let spi = sas.current.sa.own_spi();
            self.ask_over(ctx, spi, purpose, chain);
        }
    }

    /// Sends a request over one of the IKE SAs.
    pub(super) fn ask_over(&mut self, ctx: &mut MemberCtx<'_>, spi: Spi, purpose: Purpose, chain: ChainWriter) {
        self.ask_by(self.backoff(), ctx, spi, purpose, chain);
    }

    fn ask_by(&mut self, backoff: Backoff, ctx: &mut MemberCtx<'_>, spi: Spi, purpose: Purpose, chain: ChainWriter) {
        // One at a time (RFC 7296 section 2.3): what is out already may be the same, over an SA that took another's place.
        let Some(up) = self.up(spi).filter(|up| up.requests.is_idle()) else { return };
        let mut step = Step { now: ctx.now, rng: &mut *ctx.rng };
        match up.request(purpose, chain, backoff, &mut step) {
            Ok(bytes) => send(ctx, self.transmit(bytes)),
            Err(error) => {
                // Its message IDs are used up: another IKE SA has new ones.
                tracing::debug!(%error, "IKE SA is used up");
                self.down(ctx);
                self.pursue(ctx);
            }
        }
    }

    /// The way to the goal is blocked: say so, and try again later.
    pub(super) fn fail(&mut self, ctx: &mut MemberCtx<'_>, refused: Option<String>) {
        ctx.event(match refused {
            Some(why) => MemberEvent::Refused(why),
            None => MemberEvent::Unanswered,
        });
        match self.goal {
            Goal::Leave => self.left(ctx),
            Goal::Rest => {}
            Goal::Connect | Goal::Register => self.turn_to_next(ctx),
        }
    }

    /// Tries again later, with the next key server if there are several.
    fn turn_to_next(&mut self, ctx: &mut MemberCtx<'_>) {
        if self.settings.key_servers.has_others() {
            self.close(ctx);
            self.down(ctx);
        }
        self.redirects.from = None;
        let wait = self.settings.key_servers.failed(self.settings.retry, ctx.rng);
        self.retry_at = Some(ctx.now.mono + wait);
    }

    /// Closes the IKE SA without waiting for an answer.
    pub(super) fn close(&mut self, ctx: &mut MemberCtx<'_>) {
        self.forget_ticket();
        if let Link::Up(sas) = &self.link
            && sas.current.requests.is_idle()
        {
            self.ask(ctx, Purpose::Delete, deletion());
        }
        self.link = Link::Down;
    }

    /// Closes the IKE SA and stays in the group: for a member that ends, or goes on by another protocol. Nothing is
    /// awaited; a key server that misses the Delete drops the SA when it has been idle.
    pub fn disconnect(&mut self, ctx: &mut MemberCtx<'_>) {
        self.goal = Goal::Rest;
        self.retry_at = None;
        self.renew_at = None;
        self.wake_further(None);
        self.close(ctx);
        self.tidy(ctx);
    }

    fn left(&mut self, ctx: &mut MemberCtx<'_>) {
        self.goal = Goal::Rest;
        self.group = None;
        self.renew_at = None;
        ctx.event(MemberEvent::Left);
    }

    pub(super) fn connecting_due(&mut self, ctx: &mut MemberCtx<'_>) {
        let Link::Connecting(connecting) = &mut self.link else { return };
        let mut step = Step { now: ctx.now, rng: &mut *ctx.rng };
        let wish = wish(&self.settings, &self.ike, self.goal, (&self.redirects, ctx.now.mono), &self.tcp);
        match connecting.expire(&wish, &mut step) {
            Ok(repeats) => repeats.into_iter().for_each(|bytes| send(ctx, self.transmit(bytes))),
            Err(refused) => {
                if !matches!(&self.link, Link::Connecting(connecting) if connecting.resumes())
                    && refused.is_none()
                    && self.turns_to_tcp()
                {
                    self.link = Link::Down;
                    tracing::info!(gateway = %self.settings.gateway(), "no answer over UDP: TCP is tried");
                    return self.connect(ctx);
                }
                self.not_connected(ctx, refused);
            }
        }
    }

    /// Nothing came of an attempt. If it was to go on from a ticket the whole exchange follows (RFC 5723 section 4.3.2).
    fn not_connected(&mut self, ctx: &mut MemberCtx<'_>, refused: Option<String>) {
        let resumed = matches!(&self.link, Link::Connecting(connecting) if connecting.resumes());
        self.link = Link::Down;
        match resumed {
            true => {
                tracing::debug!(?refused, "the IKE SA is not resumed");
                self.pursue(ctx);
            }
            false => self.fail(ctx, refused),
        }
    }

    pub(super) fn up_due(&mut self, ctx: &mut MemberCtx<'_>) {
        let Link::Up(sas) = &self.link else { return };
        for spi in sas.due(self.liveness(), ctx.now.mono) {
            self.sa_due(ctx, spi);
        }
    }

    fn sa_due(&mut self, ctx: &mut MemberCtx<'_>, spi: Spi) {
        let (now, liveness) = (ctx.now.mono, self.liveness());
        self.forget_awaited(ctx, spi);
        let Some(up) = self.up(spi) else { return };
        if !up.requests.is_idle() {
            let mut step = Step { now: ctx.now, rng: &mut *ctx.rng };
            return match up.expire(&mut step) {
                // What is lost in a connection is lost with it (RFC 9329 section 6.2).
                Ok(Some(_)) if self.tcp.is_on() => {}
                Ok(Some(bytes)) => send(ctx, self.transmit(bytes)),
                Ok(None) => {}
                // The key server has lost this IKE SA, or is gone; what we wanted may go over a new one.
                Err(_) => self.ended(ctx, spi),
            };
        }
        if let Some(doomed) = up.doomed {
            if doomed <= now {
                if let Some(heir) = self.heir(spi) {
                    self.move_to(ctx, heir);
                }
                self.ask_over(ctx, spi, Purpose::Delete, deletion());
            }
            return;
        }
        if up.life.has_ended(now) {
            tracing::info!("the IKE SA has run its time");
            self.close(ctx);
            self.down(ctx);
            ctx.event(MemberEvent::Disconnected);
            return self.pursue(ctx);
        }
        if up.life.wants_rekey(now) {
            self.begin_rekey(ctx, spi, None);
        } else if liveness.is_some_and(|after| up.heard + after <= now) {
            self.ask_over(ctx, spi, Purpose::Liveness, ChainWriter::new());
        }
    }

    /// There is no IKE SA any more, and nobody wished so.
    pub(super) fn lost(&mut self, ctx: &mut MemberCtx<'_>) {
        let Link::Up(sas) = &self.link else { return };
        let wished = sas.current.purpose == Purpose::Delete && !sas.current.requests.is_idle();
        self.down(ctx);
        if !wished {
            ctx.event(MemberEvent::Disconnected);
        }
        self.pursue(ctx);
    }

    pub(super) fn connecting_response(&mut self, ctx: &mut MemberCtx<'_>, dgram: &Datagram<'_>, header: &Header) {
        let Link::Connecting(connecting) = &mut self.link else { return };
        let resumed = connecting.resumes();
        let mut wish = wish(&self.settings, &self.ike, self.goal, (&self.redirects, ctx.now.mono), &self.tcp);
        if wish.path.0.ip().is_unspecified() {
            // Where the response came to is our address.
            wish.path.0.set_ip(dgram.to.ip());
        }
        let mut step = Step { now: ctx.now, rng: &mut *ctx.rng };
        let mut elsewhere = None;
        let result = match ExchangeType(header.exchange) {
            ExchangeType::IKE_SA_INIT | ExchangeType::IKE_SESSION_RESUME
                if dgram.from.ip() == self.settings.gateway().ip() =>
            {
                let log = self.key_log.as_deref_mut().map(|l| l as _);
                connecting.init_response(&wish, header, dgram.bytes, &mut step, log).map(|next| match next {
                    Next::Send(bytes) => {
                        send(ctx, self.transmit(bytes));
                        Outcome::Wait
                    }
                    Next::Elsewhere(to) => {
                        elsewhere = Some(to);
                        Outcome::Wait
                    }
                    Next::Wait => Outcome::Wait,
                })
            }
            ExchangeType::IKE_INTERMEDIATE => {
                let log = self.key_log.as_deref_mut().map(|l| l as _);
                let taken = connecting.intermediate_response(&wish, header, dgram.bytes, &mut step, log);
                taken.map(|(requests, outcome)| {
                    requests.into_iter().for_each(|bytes| send(ctx, self.transmit(bytes)));
                    outcome
                })
            }
            ExchangeType::IKE_AUTH | ExchangeType::GSA_AUTH => {
                let taken = connecting.auth_response(&self.settings, header, dgram.bytes, &mut step);
                taken.map(|(told, outcome)| {
                    told.into_iter().for_each(|bytes| send(ctx, self.transmit(bytes)));
                    outcome
                })
            }
            _ => Err(Reject::Malformed("not an exchange that makes an IKE SA")),
        };
        match result {
            Ok(Outcome::Wait) => {}
            Ok(Outcome::Failed(why)) => self.not_connected(ctx, Some(why)),
            Ok(Outcome::Up { sa, next_id, renew, nat, opened, exchange }) => {
                self.note_nat(ctx.now.mono, nat);
                self.redirects.from = None;
                tracing::info!(gateway = %self.settings.gateway(), "IKE SA established");
                self.status.resumed += u64::from(resumed);
                let spi = sa.own_spi();
                let life = Life::new(self.ike.lifetime, ctx.now.mono, ctx.rng);
                let renewal = if renew { Renewal::Due } else { Renewal::None };
                self.link = Link::Up(Sas::new(Up::new(*sa, next_id, renewal, life, ctx.now.mono)));
                if self.settings.connect_only {
                    self.settings.key_servers.worked();
                }
                self.note_ticket_of(ctx.now.mono, spi, &opened);
                ctx.event(MemberEvent::Connected);
                if self.redirected_after_auth(ctx, &opened) {
                    return;
                }
                if exchange == ExchangeType::GSA_AUTH {
                    self.registration_response(ctx, spi, &opened, rules::AUTH_RESPONSE);
                }
                self.pursue(ctx);
            }
            Err(reject) => self.reject(dgram, &reject),
        }
        if let Some(to) = elsewhere {
            self.redirected_at_once(ctx, &to);
        }
        // Over TCP nothing better is to come after a refusal (RFC 9329 section 6.4).
        if self.tcp.is_on()
            && let Link::Connecting(connecting) = &mut self.link
            && let Some(why) = connecting.take_refusal()
        {
            self.not_connected(ctx, Some(why));
        }
    }

    /// A fragment of a message over one of the IKE SAs: the message, when it is whole or only repeated.
    pub(super) fn fragment(
        &mut self,
        now: Duration,
        dgram: &Datagram<'_>,
        header: &Header,
        spi: Spi,
    ) -> Option<Vec<u8>> {
        let up = self.up(spi)?;
        let fragment = Fragment::of(dgram.bytes)?;
        let awaited = match header.flags & flags::RESPONSE != 0 {
            true => up.requests.awaits(header.message_id),
            false => up.answers.expects(header.message_id),
        };
        if !awaited {
            // The first fragment of a request that was answered draws the answer again.
            return (fragment.number == 1).then(|| dgram.bytes.to_vec());
        }
        match up.sa.take_fragment(dgram.bytes, MAX_OCTETS, now) {
            Ok(whole) => whole,
            Err(reject) => {
                self.reject(dgram, &reject);
                None
            }
        }
    }

    fn reject(&mut self, dgram: &Datagram<'_>, reject: &Reject) {
        self.status.rejected += 1;
        tracing::debug!(from = %dgram.from, %reject, "message dropped");
    }

    /// Policy and keys, or a refusal: in a GSA_AUTH or GSA_REGISTRATION response.
    fn registration_response(&mut self, ctx: &mut MemberCtx<'_>, spi: Spi, opened: &Opened, rules: &[rules::Rule]) {
        if self.goal == Goal::Leave {
            return;
        }
        let Link::Up(sas) = &self.link else { return };
        let Some(up) = sas.get(spi) else { return };
        let wanted = self.settings.sender_ids;
        let log = self.key_log.as_deref_mut().map(|l| l as _);
        let result = Payloads::parse(opened.first, opened.inner.expose(), rules).and_then(|payloads| {
            if let Some(error) = payloads.error() {
                return Ok(Err(error));
            }
            let (_, default) = up.sa.key_wrap().ok_or(Reject::Misbehaved("no key wrap algorithm"))?;
            let keys = GroupKeys::of(&payloads)?;
            let grant = evaluate(&keys, default, wanted, ctx.now.mono, log)?;
            grant.within(&self.settings.traffic.accept).map(Ok)
        });
        match result {
            Ok(Ok(grant)) => self.registered(ctx, grant),
            Ok(Err(error)) => self.fail(ctx, Some(format!("{error:?}"))),
            Err(reject) => {
                tracing::warn!(%reject, "the group's policy cannot be followed");
                self.fail(ctx, Some(reject.to_string()));
                self.decline(ctx, Purpose::Decline);
            }
        }
    }

    /// Tells the key server that a group's policy does not suit us.
    pub(super) fn decline(&mut self, ctx: &mut MemberCtx<'_>, purpose: Purpose) {
        let further = if let Purpose::DeclineFurther(at) = purpose { self.further.get(at) } else { None };
        let group = further.map_or(&self.settings.group, |f| &f.id);
        let mut chain = ChainWriter::new();
        leave(group, NotifyType::NO_PROPOSAL_CHOSEN, &mut chain);
        self.ask(ctx, purpose, chain);
    }

    /// Everything known of the group before is replaced, unless the answer is older than a rekey that came meanwhile
    /// (RFC 9838 section 2.3.3): then we ask again, at once if it is the first time.
    fn registered(&mut self, ctx: &mut MemberCtx<'_>, grant: Grant) {
        let Grant { group, update, listen } = grant;
        if self.is_stale(&group) {
            tracing::debug!("the answer to a registration is older than a rekey: dropped");
            if std::mem::replace(&mut self.stale, true) {
                self.retry_later(ctx);
            }
            return;
        }
        self.stale = false;
        self.renew_at = group.renew_at(ctx.now.mono, ctx.rng);
        self.group = Some(group);
        self.goal = Goal::Rest;
        self.status.registrations += 1;
        self.settings.key_servers.worked();
        ctx.out.push(MemberOutput::Update(update));
        if let Some(listen) = listen {
            ctx.out.push(MemberOutput::Listen(listen));
        }
        ctx.event(MemberEvent::Registered);
    }

    /// Does it bring a Rekey SA that has been replaced, or tell a message ID that has passed? Without a Rekey SA nothing in it
    /// tells whether it is older than a rekey.
    fn is_stale(&self, group: &Group) -> bool {
        if group.in_band && self.overtaken {
            return true;
        }
        let known = || self.group.iter().flat_map(|g| &g.rekey_sas);
        group.rekey_sas.iter().any(|new| self.outdated.contains(&new.spi) || known().any(|old| new.is_before(old)))
    }

    /// A response over an IKE SA.
    pub(super) fn response(&mut self, ctx: &mut MemberCtx<'_>, dgram: &Datagram<'_>, header: &Header, spi: Spi) {
        let Some(up) = self.up(spi) else { return };
        if !up.requests.awaits(header.message_id) || header.exchange != up.purpose.exchange().0 {
            return;
        }
        let opened = match up.sa.open(dgram.bytes) {
            Ok(opened) => opened,
            Err(reject) => return self.reject(dgram, &reject),
        };
        up.requests.answered();
        let purpose = up.purpose;
        self.heard_over(ctx, spi);
        let syntax = Payloads::parse(opened.first, opened.inner.expose(), &[])
            .is_ok_and(|p| p.notify(NotifyType::INVALID_SYNTAX).is_some());
        match purpose {
            Purpose::Register => self.registration_response(ctx, spi, &opened, rules::REGISTRATION_RESPONSE),
            Purpose::RegisterFurther(at) => self.further_response(ctx, spi, at, &opened),
            Purpose::Leave => {
                // Asked again over the SA that took the other's place it is answered twice.
                if self.goal == Goal::Leave {
                    self.left(ctx);
                }
                self.ask(ctx, Purpose::Delete, deletion());
            }
            Purpose::Delete => return self.deleted(ctx, spi),
            Purpose::Rekey if !syntax => self.rekey_answered(ctx, spi, &opened),
            Purpose::FollowUp if !syntax => self.follow_up_answered(ctx, spi, &opened),
            Purpose::Ticket if !syntax => self.take_ticket(ctx.now.mono, spi, &opened),
            Purpose::Rekey
            | Purpose::FollowUp
            | Purpose::Ticket
            | Purpose::Decline
            | Purpose::DeclineFurther(_)
            | Purpose::Liveness
            | Purpose::LeaveFurther => {}
        }
        if syntax {
            // The key server has given this IKE SA up (RFC 7296 section 2.21.3).
            self.deleted(ctx, spi);
        }
        self.pursue(ctx);
    }

    /// Somebody says, and proves nothing, that the key server does not know our IKE SA (RFC 7296 section 2.21.4). That ends
    /// nothing; but it may have restarted, so whether it answers is found out sooner than otherwise. Once in a while, so that
    /// who forges such messages draws no crowd of ours.
    pub(super) fn doubt(&mut self, ctx: &mut MemberCtx<'_>, dgram: &Datagram<'_>, spi: Spi) {
        self.status.rejected += 1;
        let now = ctx.now.mono;
        let backoff = Backoff { first: DOUBT.first.min(self.settings.retransmit), tries: DOUBT.tries };
        if dgram.from.ip() != self.settings.gateway().ip() {
            return;
        }
        let Some(up) = self.up(spi) else { return };
        if up.doubted.is_some_and(|at| now < at + DOUBT_PAUSE) {
            return;
        }
        tracing::debug!(from = %dgram.from, "the key server may have lost the IKE SA");
        up.doubted = Some(now);
        match &mut up.requests.pending {
            Some((_, message)) => message.hasten(backoff, now, ctx.rng),
            None => self.ask_by(backoff, ctx, spi, Purpose::Liveness, ChainWriter::new()),
        }
    }

    /// The key server has confirmed that an IKE SA is gone.
    fn deleted(&mut self, ctx: &mut MemberCtx<'_>, spi: Spi) {
        let Link::Up(sas) = &mut self.link else { return };
        match sas.is_current(spi) {
            true => {
                self.forget_ticket();
                self.down(ctx);
            }
            false => sas.forget(spi),
        }
        self.pursue(ctx);
    }

    /// There is no IKE SA any more. A group that was rekeyed over it is lost with it (RFC 9838 section 2.3.3).
    pub(super) fn down(&mut self, ctx: &mut MemberCtx<'_>) {
        self.link = Link::Down;
        if self.group.as_ref().is_some_and(|g| g.in_band) && self.goal != Goal::Leave {
            tracing::info!("the group went with the IKE SA");
            self.excluded(ctx);
        }
    }

    /// A request over an IKE SA.
    pub(super) fn request(&mut self, ctx: &mut MemberCtx<'_>, dgram: &Datagram<'_>, header: &Header, spi: Spi) {
        let Some(up) = self.up(spi) else { return };
        match up.answers.classify(header.message_id, dgram.bytes) {
            Incoming::New => {}
            Incoming::Repeat(response) => return send(ctx, dgram.reply(response.to_vec())),
            Incoming::Stale => return,
        }
        let opened = match up.sa.open(dgram.bytes) {
            Ok(opened) => Ok(opened),
            // The ICV is right: it is the key server's, and it is told.
            Err(reject @ Reject::Misbehaved(_)) => Err(reject),
            Err(reject) => return self.reject(dgram, &reject),
        };
        self.heard_over(ctx, spi);
        let exchange = ExchangeType(header.exchange);
        let mut elsewhere = None;
        let understood = opened.as_ref().map_err(Clone::clone).and_then(|opened| understand(exchange, opened));
        let (chain, ends) = match understood {
            Ok(Asked::Nothing) => (ChainWriter::new(), false),
            Ok(Asked::Delete) => (ChainWriter::new(), true),
            Ok(Asked::Refused(notify)) => (told(&notify), false),
            Ok(Asked::Elsewhere(to)) => {
                elsewhere = Some(to);
                (ChainWriter::new(), false)
            }
            Ok(Asked::Group(payloads)) => match self.rekey_in_band(ctx, spi, header.message_id, &payloads) {
                Ok(()) => (ChainWriter::new(), false),
                Err(reject) => {
                    tracing::warn!(%reject, "a rekey cannot be followed");
                    self.status.rejected += 1;
                    let notify = reject.notify().unwrap_or(Notify::bare(NotifyType::NO_PROPOSAL_CHOSEN));
                    (told(&notify), notify.kind == NotifyType::INVALID_SYNTAX)
                }
            },
            Ok(Asked::FollowUp(payloads)) => match self.peer_follows_up(ctx, spi, &payloads) {
                Ok(chain) => (chain, false),
                Err(notify) => (told(&notify), notify.kind == NotifyType::INVALID_SYNTAX),
            },
            Ok(Asked::Rekey(init)) => match self.peer_rekeys(ctx, spi, &init) {
                Ok(chain) => (chain, false),
                Err(notify) => (told(&notify), notify.kind == NotifyType::INVALID_SYNTAX),
            },
            Err(reject) => {
                tracing::debug!(%reject, "request refused");
                let notify = reject.notify().unwrap_or(Notify::bare(NotifyType::INVALID_SYNTAX));
                (told(&notify), notify.kind == NotifyType::INVALID_SYNTAX)
            }
        };
        let Some(up) = self.up(spi) else { return };
        let Ok(response) = up.sa.seal(exchange, Direction::Response, header.message_id, chain, ctx.rng) else {
            tracing::warn!("an answer could not be sealed: the IKE SA ends");
            return self.ended(ctx, spi);
        };
        up.answers.answered(dgram.bytes, response.clone());
        send(ctx, dgram.reply(response.clone()));
        if ends {
            self.farewell = Some((first_datagram(dgram.bytes).to_vec(), response));
            tracing::info!("IKE SA deleted by the key server");
            if self.heir(spi).is_none() && matches!(&self.link, Link::Up(sas) if sas.is_current(spi)) {
                self.forget_ticket();
            }
            self.ended(ctx, spi);
        } else {
            self.settle(ctx, spi);
        }
        if let Some(to) = elsewhere {
            self.redirected_later(ctx, spi, &to);
        }
    }
}

/// Is it an answer without protection that says our SPI is unknown?
pub(super) fn is_doubt(header: &Header, body: &[u8]) -> bool {
    header.flags & flags::RESPONSE != 0
        && header.next == PayloadKind::NOTIFY.0
        && Payloads::parse(header.next, body, &[]).is_ok_and(|p| p.notify(NotifyType::INVALID_IKE_SPI).is_some())
}

/// What a request of the key server asks for.
enum Asked<'m> {
    /// Nothing but an answer.
    Nothing,
    /// The end of the IKE SA.
    Delete,
    /// New keys for it.
    Rekey(Init<'m>),
    /// Another key exchange for these.
    FollowUp(Payloads<'m>),
    /// Another key server is to serve us.
    Elsewhere(GatewayName),
    /// Something that is not to be had here, and this says so.
    Refused(Notify<'m>),
    /// New keys of the group.
    Group(Payloads<'m>),
}

fn told(notify: &Notify<'_>) -> ChainWriter {
    let mut chain = ChainWriter::new();
    chain.push(PayloadKind::NOTIFY.0, &notify.to_vec());
    chain
}

pub(super) fn deletion() -> ChainWriter {
    let mut chain = ChainWriter::new();
    chain.push(PayloadKind::DELETE.0, &Delete::ike().to_vec());
    chain
}

fn wish<'a>(
    settings: &'a MemberSettings,
    ike: &IkeOptions,
    goal: Goal,
    (redirects, now): (&Redirects, Duration),
    tcp: &Tcp,
) -> Wish<'a> {
    let backoff = Backoff { first: settings.retransmit, tries: settings.tries };
    let (via, path) = match tcp.ends() {
        Some((id, local, gateway)) => (Via::Tcp(id), (local, gateway)),
        None => (Via::Udp, (settings.local, settings.gateway())),
    };
    // TCP waits behind it, so UDP does not get all of the time (RFC 9329 section 5.1).
    let may_turn = !tcp.is_on() && matches!(settings.gikev2.transport, Transport::UdpThenTcp(_));
    let tries = if may_turn { backoff.tries.min(TRIES_BEFORE_TCP) } else { backoff.tries };
    Wish {
        settings,
        register: goal == Goal::Register,
        first: Backoff { tries, ..backoff },
        backoff,
        limit: ike.limit(via),
        path,
        reliable: tcp.is_on(),
        follows: redirects.may_follow(settings.ike2.follows, now),
        redirected_from: redirects.from,
    }
}

fn understand<'m>(exchange: ExchangeType, opened: &'m Opened) -> Result<Asked<'m>, Reject> {
    let (first, inner) = (opened.first, opened.inner.expose());
    match exchange {
        ExchangeType::INFORMATIONAL => {
            let payloads = Payloads::parse(first, inner, rules::INFORMATIONAL)?;
            let deletes: Vec<Delete<'_>> = payloads.all(PayloadKind::DELETE)?;
            let ends = deletes.iter().any(|d| d.protocol == ProtocolId::IKE);
            Ok(match redirected(&payloads, &[])? {
                _ if ends => Asked::Delete,
                Some(to) => Asked::Elsewhere(to),
                None => Asked::Nothing,
            })
        }
        ExchangeType::CREATE_CHILD_SA => Ok(match ChildRequest::of(first, inner)? {
            ChildRequest::Rekey(init) => Asked::Rekey(init),
            ChildRequest::Child(replaced) => Asked::Refused(no_child(replaced)),
        }),
        ExchangeType::IKE_FOLLOWUP_KE => Payloads::parse(first, inner, rules::FOLLOWUP_KE).map(Asked::FollowUp),
        ExchangeType::GSA_INBAND_REKEY => Payloads::parse(first, inner, rules::INBAND_REKEY).map(Asked::Group),
        _ => Err(Reject::Misbehaved("an exchange that has no place here")),
    }
}
