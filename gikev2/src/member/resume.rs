//! Session resumption, initiator's side (RFC 5723): a ticket for the IKE SA in use, and another SA by it when that one is lost.
//!
//! The ticket goes with its IKE SA: when either side deletes that, or it gets new keys. It is used once; where the key server does
//! not take it, or says nothing, the whole exchange follows. Nothing that proves nothing decides that an SA is lost (section 9.4).

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

use keyferry_crypto::Secret;
use keyferry_model::settings::MemberSettings;
use keyferry_model::update::MemberCtx;
use keyferry_wire::{ChainWriter, Decode, Encode, Header};

use super::candidate::{Candidate, Failure, name, unproven};
use super::connecting::{Connecting, FIRST_ID, Next, Wish};
use super::link::{Purpose, Spi};
use super::{Link, Member, Step};
use crate::ike_sa::auth::{SignedOctets, resumed_mac};
use crate::ike_sa::certificates::Wanted;
use crate::ike_sa::init::{ResumeParts, resume_request};
use crate::ike_sa::int_auth::IntAuth;
use crate::ike_sa::sa::IkeSa;
use crate::ike_sa::signature::Announced;
use crate::ike_sa::window::Backoff;
use crate::ike_sa::{Role, Skeyseed, Suite};
use crate::keylog::KeyLog;
use crate::policy::identity::identity_to_wire;
use crate::reject::Reject;
use crate::wire::auth::Auth;
use crate::wire::message::Payloads;
use crate::wire::nonce::Nonce;
use crate::wire::notify::Notify;
use crate::wire::registry::{AuthMethod, ExchangeType, NotifyType, PayloadKind};
use crate::wire::rules;
use crate::wire::sk::Opened;
use crate::wire::ticket::TicketGrant;

/// Repeats of a wish to resume before the whole exchange follows.
const TRIES: u8 = 2;

/// A ticket for a shorter time is not replaced before it expires.
const WORTH_RENEWING: Duration = Duration::from_secs(60);

/// What an IKE SA can be resumed with.
pub(super) struct Ticket {
    pub(super) opaque: Vec<u8>,
    /// When it expires.
    until: Duration,
    /// When to ask for another one.
    renew_at: Option<Duration>,
    /// Who made it.
    gateway: SocketAddr,
    suite: Suite,
    /// SK_d.
    derive: Secret,
    /// Body of IDr.
    id_r: Vec<u8>,
}

/// The wish for a ticket (RFC 5723 section 4.1).
pub(super) fn wish_for_ticket(chain: &mut ChainWriter) {
    chain.push(PayloadKind::NOTIFY.0, &Notify::bare(NotifyType::TICKET_REQUEST).to_vec());
}

impl Ticket {
    /// How long a key server that says nothing is asked.
    pub(super) fn backoff(backoff: Backoff) -> Backoff {
        Backoff { tries: backoff.tries.min(TRIES), ..backoff }
    }
}

impl Member {
    /// An IKE SA stands, by an answer that told IDr.
    pub(super) fn note_ticket_of(&mut self, now: Duration, spi: Spi, opened: &Opened) {
        let payloads = Payloads::parse(opened.first, opened.inner.expose(), &[]);
        let Ok(payloads) = payloads else { return };
        self.id_r = payloads.body(PayloadKind::ID_R).unwrap_or_default().to_vec();
        // Not in this answer, but in one of its own: that is asked for once.
        self.ticket_wanted = self.settings.ike2.resume && payloads.notify(NotifyType::TICKET_ACK).is_some();
        self.take_ticket(now, spi, opened);
    }

    /// What the answer to a wish for a ticket says.
    pub(super) fn take_ticket(&mut self, now: Duration, spi: Spi, opened: &Opened) {
        if !self.settings.ike2.resume {
            return;
        }
        let Ok(payloads) = Payloads::parse(opened.first, opened.inner.expose(), &[]) else { return };
        let grant = payloads.notify(NotifyType::TICKET_LT_OPAQUE).map(|n| TicketGrant::exact(&n.data));
        let Some(Ok(TicketGrant { lifetime, ticket })) = grant else { return };
        let gateway = self.settings.gateway();
        let Link::Up(sas) = &self.link else { return };
        let Some(up) = sas.get(spi).filter(|_| lifetime > 0) else { return };
        let lifetime = Duration::from_secs(lifetime.into());
        self.ticket = Some(Ticket {
            opaque: ticket.into_owned(),
            until: now.saturating_add(lifetime),
            renew_at: (lifetime >= WORTH_RENEWING).then(|| now.saturating_add(lifetime / 4 * 3)),
            gateway,
            suite: up.sa.suite,
            derive: up.sa.derive().duplicate(),
            id_r: self.id_r.clone(),
        });
    }

    /// The IKE SA is deleted: so is its ticket.
    pub(super) fn forget_ticket(&mut self) {
        (self.ticket, self.ticket_wanted) = (None, false);
    }

    /// The IKE SA has new keys: its ticket is void, and another one is asked for if there was one.
    pub(super) fn renew_ticket(&mut self) {
        self.ticket_wanted = self.ticket.take().is_some();
    }

    pub(super) fn ticket_due(&self) -> Option<Duration> {
        let current = matches!(self.link, Link::Up(_));
        self.ticket.as_ref().filter(|_| current).and_then(|ticket| ticket.renew_at)
    }

    /// A ticket that will not be good for long is replaced.
    pub(super) fn expire_ticket(&mut self, ctx: &mut MemberCtx<'_>) {
        if self.ticket_due().is_some_and(|at| at <= ctx.now.mono) {
            if let Some(ticket) = &mut self.ticket {
                ticket.renew_at = None;
            }
            self.ticket_wanted = true;
            self.pursue(ctx);
        }
    }

    /// Asks for a ticket, when there is nothing else to do over the IKE SA; says whether it does.
    pub(super) fn pursue_ticket(&mut self, ctx: &mut MemberCtx<'_>) -> bool {
        let Link::Up(sas) = &self.link else { return false };
        if !self.ticket_wanted || !sas.current.requests.is_idle() || sas.current.made.heir().is_some() {
            return false;
        }
        self.ticket_wanted = false;
        let mut chain = ChainWriter::new();
        wish_for_ticket(&mut chain);
        self.ask(ctx, Purpose::Ticket, chain);
        true
    }

    /// The ticket, if it can be used with the present key server. It is gone then.
    pub(super) fn use_ticket(&mut self, now: Duration) -> Option<Ticket> {
        self.ticket_wanted = false;
        let gateway = self.settings.gateway();
        self.ticket.take().filter(|ticket| now < ticket.until && ticket.gateway == gateway)
    }
}

impl Connecting {
    /// The exchange that it begins with.
    pub(super) fn first_exchange(&self) -> ExchangeType {
        if self.resumes() { ExchangeType::IKE_SESSION_RESUME } else { ExchangeType::IKE_SA_INIT }
    }

    /// The request that shows a ticket.
    pub(super) fn resume_request(&self, wish: &Wish<'_>, ticket: &Ticket) -> Vec<u8> {
        let redirect = Some(NotifyType::REDIRECT_SUPPORTED).filter(|_| wish.follows);
        let abilities: Vec<NotifyType> =
            std::iter::once(NotifyType::IKEV2_FRAGMENTATION_SUPPORTED).chain(redirect).collect();
        let parts = ResumeParts {
            spi_i: self.spi_i(),
            nonce: &self.nonce_i,
            ticket: &ticket.opaque,
            path: wish.path,
            abilities: &abilities,
        };
        resume_request(&parts, self.cookie.as_deref())
    }

    /// Does it go on from a ticket?
    pub(super) fn resumes(&self) -> bool {
        self.ticket.is_some()
    }

    /// Makes keys with an answer to IKE_SESSION_RESUME (RFC 5723 section 5.1), and asks over them.
    pub(super) fn follow_resumed(
        &mut self,
        wish: &Wish<'_>,
        header: &Header,
        datagram: &[u8],
        payloads: &Payloads<'_>,
        step: &mut Step<'_>,
        mut log: Option<&mut (dyn KeyLog + Send)>,
    ) -> Result<Next, Reject> {
        if header.spi_r == [0; 8] {
            return Err(Reject::Malformed("a responder's SPI is not zero"));
        }
        let nonce: Nonce<'_> = payloads.get(PayloadKind::NONCE)?.ok_or(Reject::Malformed("no nonce"))?;
        let ticket = self.ticket.as_ref().ok_or(Reject::Misbehaved("no ticket was shown"))?;
        let suite = ticket.suite;
        let seed = Skeyseed::resume(suite, &ticket.derive, &self.nonce_i, &nonce.0);
        let keys = seed.expand(&self.spi_i(), &header.spi_r);
        let name = name(&keys);
        let to = log.as_mut().map(|l| &mut **l as _);
        let (mut sa, proof) = IkeSa::new(Role::Initiator, suite, self.spi_i(), header.spi_r, keys, step.rng, to)
            .map_err(|_| Reject::Misbehaved("keys of an IKE SA"))?;
        sa.set_limit(payloads.notify(NotifyType::IKEV2_FRAGMENTATION_SUPPORTED).map(|_| wish.limit));
        let candidate = Candidate {
            sa,
            proof,
            response: datagram.to_vec(),
            nonce_r: nonce.0.to_vec(),
            nat: self.nat_of(wish, payloads, &header.spi_r),
            announced: Announced::read(payloads)?,
            takes_ppk: false,
            wanted: Wanted::default(),
            keys: name,
            more: VecDeque::new(),
            int_auth: IntAuth::default(),
            message_id: FIRST_ID,
            asked: 0,
        };
        self.ask(wish, candidate, step, log)
    }

    /// `IDi, N(INITIAL_CONTACT), IDr, AUTH, N(TICKET_REQUEST)`: no certificates (RFC 5723 section 4.3.3).
    pub(super) fn resumed_auth_request(
        &self,
        settings: &MemberSettings,
        candidate: &Candidate,
        ticket: &Ticket,
    ) -> ChainWriter {
        let id = identity_to_wire(&settings.identity).to_vec();
        let mut chain = ChainWriter::new();
        chain.push(PayloadKind::ID_I.0, &id);
        chain.push(PayloadKind::NOTIFY.0, &Notify::bare(NotifyType::INITIAL_CONTACT).to_vec());
        chain.push(PayloadKind::ID_R.0, &ticket.id_r);
        let request = self.init_request();
        let signed = SignedOctets { message: &request, nonce: &candidate.nonce_r, id: &id, int_auth: &[] };
        let mac = resumed_mac(candidate.sa.suite.prf, &candidate.proof.0, signed);
        let auth = Auth { method: AuthMethod::SHARED_KEY, data: mac.expose().to_vec().into() };
        chain.push(PayloadKind::AUTH.0, &auth.to_vec());
        wish_for_ticket(&mut chain);
        chain
    }
}

impl Candidate {
    /// Is it the key server that made the ticket?
    pub(super) fn verify_resumed(&self, ticket: &Ticket, nonce_i: &[u8], opened: &Opened) -> Result<(), Failure> {
        let said = |e: Reject| Failure::NoAnswer(e.to_string());
        let payloads = Payloads::parse(opened.first, opened.inner.expose(), rules::AUTH_RESPONSE).map_err(said)?;
        let auth: Option<Auth<'_>> = payloads.get(PayloadKind::AUTH).map_err(said)?;
        let (Some(id), Some(auth)) = (payloads.body(PayloadKind::ID_R), auth) else {
            return Err(match payloads.error() {
                Some(error) => Failure::NoAnswer(format!("{error:?}")),
                None => unproven("an answer without identity or AUTH"),
            });
        };
        let signed = SignedOctets { message: &self.response, nonce: nonce_i, id, int_auth: &[] };
        let mac = resumed_mac(self.sa.suite.prf, &self.proof.1, signed);
        let certified = payloads.body(PayloadKind::CERT).is_some();
        if id != ticket.id_r || certified || auth.method != AuthMethod::SHARED_KEY || !mac.ct_eq(&auth.data) {
            return Err(unproven("the key server did not authenticate"));
        }
        Ok(())
    }
}
