//! Session resumption, responder's side (RFC 5723): tickets for those who ask, and IKE SAs that go on from them without public-key
//! work.
//!
//! A ticket is believed only while what it says still holds: the peer's credentials stand behind its identity, its
//! postquantum preshared key is the same, the algorithms are still taken, and no group has evicted it. Otherwise the peer is told
//! TICKET_NACK, and proves itself anew.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use keyferry_crypto::x509::Certificate;
use keyferry_crypto::{Hash, Prf, Secret};
use keyferry_model::credentials::{Credentials, Ours};
use keyferry_model::drive::{Ctx, Datagram};
use keyferry_model::holder::Holder;
use keyferry_model::id::Identity;
use keyferry_wire::{Decode, Encode, Header};

use super::auth::{Claim, Evidence, ExpectAuth, FAILED, Peer};
use super::established::{By, Who};
use super::intermediate::Intermediate;
use super::ppk::PpkUse;
use super::redirect::Willing;
use super::tickets::{Content, Proven, Serial, Tickets};
use super::{Entry, Path, Server, ServerConfig, Spi, State};
use crate::ike_sa::auth::{SignedOctets, resumed_mac};
use crate::ike_sa::init::{NONCE_LEN, nat_found, refusal, resume_response};
use crate::ike_sa::sa::IkeSa;
use crate::ike_sa::signature::{Announced, Padding};
use crate::ike_sa::{Role, Skeyseed, Suite};
use crate::policy::identity::identity_from_wire;
use crate::reject::Reject;
use crate::wire::id::Id;
use crate::wire::message::Resume;
use crate::wire::notify::Notify;
use crate::wire::registry::{AuthMethod, ExchangeType, NotifyType, PayloadKind};
use crate::wire::sa::Sa;
use crate::wire::ticket::TicketGrant;

/// What of an IKE SA's making tickets tell, beside who the peer is.
#[derive(Clone, Debug, Default)]
pub(super) struct Origin {
    /// Bodies of IDi and IDr.
    pub(super) ids: (Vec<u8>, Vec<u8>),
    /// PPK_ID of the postquantum preshared key in its keys.
    pub(super) ppk: Option<Vec<u8>>,
}

/// A ticket over an IKE SA in use is replaced no sooner than after this time: each that was replaced is remembered, durably, and
/// too many are the end of everybody's.
const REPLACED_AFTER: Duration = Duration::from_secs(30);

/// A ticket that a peer has.
#[derive(Clone, Copy, Debug)]
pub(super) struct Granted {
    serial: Serial,
    /// By the wall clock.
    expires: Duration,
    /// When it was given, or shown.
    at: Duration,
}

/// What a half-open SA is that goes on from a ticket.
pub(super) struct Resumed {
    who: Who,
    ours: Ours,
    pub(super) origin: Origin,
    ticket: Granted,
    /// Our SPI and the peer's, of the SA that the ticket was made for.
    spis: ([u8; 8], [u8; 8]),
}

/// Secrets of the peer's, told apart from anything else that SK_d is used for.
fn mac(prf: Prf, derive: &Secret, what: &[u8], secret: &Secret) -> Vec<u8> {
    prf.compute(derive.expose(), &[b"Keyferry ticket ", what, secret.expose()]).expose().to_vec()
}

/// Names the anchors that certificates are held against.
fn anchors(credentials: &Credentials) -> Vec<u8> {
    let anchors = credentials.trust().map_or(&[][..], |trust| trust.store.anchors());
    let mut digests: Vec<Vec<u8>> = anchors.iter().map(|anchor| Hash::Sha256.digest(&[anchor.der()])).collect();
    digests.sort_unstable();
    Hash::Sha256.digest(&[&digests.concat()])
}

/// The ticket in an IKE_SESSION_RESUME request that was taken up.
fn shown(request: &[u8]) -> Option<Vec<u8>> {
    let (header, body) = Header::decode(request).ok()?;
    Some(Resume::request(header.next, body).ok()?.ticket)
}

/// A ticket for a peer, or TICKET_NACK; and how it is named.
pub(super) fn grant(
    tickets: &mut Tickets,
    config: &ServerConfig,
    ctx: &mut Ctx<'_>,
    (sa, who, origin): (&IkeSa, &Who, &Origin),
) -> (Notify<'static>, Option<Granted>) {
    let (prf, derive, now) = (sa.suite.prf, sa.derive(), ctx.now);
    let left = who.ends.map(|ends| ends.saturating_sub(now.mono));
    let lifetime = [tickets.lifetime(), config.ike.lifetime].into_iter().chain(left).min().unwrap_or_default();
    let proven = match &who.by {
        By::Psk(psk) => Proven::Psk(mac(prf, derive, b"psk", psk)),
        By::Certificate(certificate, _) => {
            Proven::Certificate(certificate.der().to_vec(), anchors(&config.credentials))
        }
    };
    let ppk = origin.ppk.as_ref().map(|id| {
        let ppk = config.ppks.iter().find(|ppk| ppk.id == *id && ppk.is_for(&who.identity))?;
        Some((id.clone(), mac(prf, derive, b"ppk", &ppk.key)))
    });
    let seconds = u32::try_from(lifetime.as_secs()).unwrap_or(u32::MAX);
    let expires = now.wall + Duration::from_secs(seconds.into());
    // With a postquantum preshared key that is none any more there is no ticket.
    let sealed = ppk.map_or(Some(None), |known| known.map(Some)).filter(|_| seconds > 0).and_then(|ppk| {
        let content = Content {
            expires,
            ends: left.map(|left| now.wall + left),
            ids: origin.ids.clone(),
            proven,
            ppk,
            sa: sa.suite.to_sa().to_vec(),
            derive: derive.duplicate(),
            spis: (sa.own_spi(), sa.peer_spi()),
        };
        tickets.seal(&content, now.wall, ctx.rng, ctx.out)
    });
    match sealed {
        Some((ticket, serial)) => {
            let grant = TicketGrant { lifetime: seconds, ticket: ticket.into() };
            (Notify::new(NotifyType::TICKET_LT_OPAQUE, grant.to_vec()), Some(Granted { serial, expires, at: now.mono }))
        }
        None => (Notify::bare(NotifyType::TICKET_NACK), None),
    }
}

impl Server {
    /// IKE_SESSION_RESUME, in the place of IKE_SA_INIT (RFC 5723 section 4.3.2).
    pub(super) fn resume_request(
        &mut self,
        ctx: &mut Ctx<'_>,
        dgram: &Datagram<'_>,
        header: &Header,
    ) -> Result<(), Reject> {
        if self.tickets.is_none() {
            self.counters.unexpected += 1;
            return Ok(());
        }
        let Some(digest) = self.begins(ctx, dgram, header)? else { return Ok(()) };
        let read = Resume::request(header.next, &dgram.bytes[Header::LEN..]);
        let request = self.understood(ctx, dgram, header, read)?;
        let (payloads, nonce) = (&request.payloads, request.nonce.0.as_ref());
        if self.redirect_init(ctx, dgram, header, payloads, nonce)
            || !self.has_room(ctx, dgram, header, payloads, nonce)
        {
            return Ok(());
        }
        let recalled = self.recall(ctx, &request.ticket, dgram.from.ip());
        let Some((resumed, suite, derive)) = recalled else {
            self.counters.tickets_refused += 1;
            ctx.out.send(dgram.reply(refusal(header, &Notify::bare(NotifyType::TICKET_NACK))));
            return Ok(());
        };
        let announced = Announced::read(payloads)?;
        let behind_nat = nat_found(payloads, &header.spi_i, &[0; 8], (dgram.from, dgram.to)).is_there();
        let spi = self.fresh_spi(ctx);
        let mut nonce_r = vec![0; NONCE_LEN];
        ctx.rng.fill(&mut nonce_r);
        let keys = Skeyseed::resume(suite, &derive, nonce, &nonce_r).expand(&header.spi_i, &spi);
        let log = self.key_log.as_deref_mut().map(|l| l as _);
        let made = IkeSa::new(Role::Responder, suite, header.spi_i, spi, keys, ctx.rng, log);
        let Ok((mut sa, proof)) = made else {
            tracing::error!("keys of an IKE SA could not be made");
            return Ok(());
        };
        let fragments = payloads.notify(NotifyType::IKEV2_FRAGMENTATION_SUPPORTED);
        sa.set_limit(fragments.map(|_| self.config.ike.limit(dgram.via)));
        let abilities: Vec<NotifyType> = fragments.map(|n| n.kind).into_iter().collect();
        let path = Path::of(dgram);
        let response = resume_response((header.spi_i, spi), &nonce_r, (path.local, path.peer), &abilities);
        let state = ExpectAuth {
            sa,
            proof,
            nonces: (nonce.to_vec(), nonce_r),
            init_request: dgram.bytes.to_vec(),
            init_response: response.clone(),
            behind_nat,
            intermediate: Intermediate::none(),
            ppk: PpkUse::NotAnnounced,
            ppk_id: None,
            announced,
            willing: Willing::read(payloads),
            resumed: Some(Box::new(resumed)),
        };
        let entry = Entry { path, digest: digest.clone(), state: State::ExpectAuth(Box::new(state)) };
        self.half_open.enter(dgram.from.ip());
        self.connections.begin(dgram.via, spi, self.config.half_open_timeout);
        self.sas.insert(spi, entry);
        self.note_early(spi);
        self.inits.insert(digest, spi);
        self.arm(spi, ctx.now.mono + self.config.half_open_timeout);
        ctx.out.send(dgram.reply(response));
        Ok(())
    }

    /// What a ticket says, if it is to be believed.
    fn recall(&self, ctx: &Ctx<'_>, ticket: &[u8], from: IpAddr) -> Option<(Resumed, Suite, Secret)> {
        let (content, serial) = self.tickets.as_ref()?.open(ticket, ctx.now.wall)?;
        let suite = self.config.preferences.recall(&Sa::exact(&content.sa).ok()?)?;
        let identity = identity_from_wire(&Id::exact(&content.ids.0).ok()?)?;
        let (by, ours) = self.still_proven(&content, &suite, &identity, from)?;
        if !self.still_stirred(&content, &suite, &identity) {
            return None;
        }
        let ends = match content.ends {
            Some(ends) => Some(ctx.now.mono + ends.checked_sub(ctx.now.wall).filter(|left| !left.is_zero())?),
            None => None,
        };
        let who = Who { identity, by, ends };
        if ctx.model.is_evicted(&who.identity, who.holder()) {
            tracing::debug!(member = %who.identity, "the ticket of an evicted member");
            return None;
        }
        let Content { expires, ids, ppk, spis, derive, .. } = content;
        let origin = Origin { ids, ppk: ppk.map(|(id, _)| id) };
        let ticket = Granted { serial, expires, at: ctx.now.mono };
        Some((Resumed { who, ours, origin, ticket, spis }, suite, derive))
    }

    /// Do the credentials there are now stand behind the peer?
    fn still_proven(&self, content: &Content, suite: &Suite, identity: &Identity, from: IpAddr) -> Option<(By, Ours)> {
        let credentials = &self.config.credentials;
        match &content.proven {
            Proven::Psk(known) => {
                let (psk, ours) = credentials.ikev2_psk(identity)?;
                let same = keyferry_crypto::ct_eq(&mac(suite.prf, &content.derive, b"psk", psk), known);
                same.then(|| (By::Psk(Arc::clone(psk)), ours))
            }
            Proven::Certificate(der, held_against) => {
                let certificate = Certificate::from_der(der).ok()?;
                let listed = credentials.trust().is_none_or(|trust| trust.store.is_listed(&certificate, &trust.ocsp));
                if listed || anchors(credentials) != *held_against {
                    return None;
                }
                let ours = credentials.ikev2_certificate(from, identity, &certificate)?;
                let holder = Arc::new(Holder::of(&certificate));
                Some((By::Certificate(certificate, holder), ours))
            }
        }
    }

    /// Is its postquantum preshared key still what it was, and is there one if there must be?
    fn still_stirred(&self, content: &Content, suite: &Suite, identity: &Identity) -> bool {
        let mut theirs = self.config.ppks.iter().filter(|ppk| ppk.is_for(identity));
        match &content.ppk {
            None => theirs.all(|ppk| !ppk.required),
            Some((id, known)) => theirs.any(|ppk| {
                ppk.id == *id && keyferry_crypto::ct_eq(&mac(suite.prf, &content.derive, b"ppk", &ppk.key), known)
            }),
        }
    }

    /// The peer proves that it has the keys that the ticket led to (RFC 5723 section 4.3.3).
    pub(super) fn resumed_auth(&mut self, ctx: &mut Ctx<'_>, spi: Spi, claim: Claim) {
        let Some(State::ExpectAuth(state)) = self.sas.get(&spi).map(|e| &e.state) else { return };
        // Another one may have been faster with it, and what stood behind it may have gone since it was shown.
        let recalled = shown(&state.init_request).and_then(|ticket| self.recall(ctx, &ticket, claim.path.peer.ip()));
        let Some(State::ExpectAuth(state)) = self.sas.get_mut(&spi).map(|e| &mut e.state) else { return };
        let verified = recalled.ok_or(FAILED).and_then(|(resumed, ..)| {
            let peer = state.verify_resumed(&resumed, &claim)?;
            state.resumed = Some(Box::new(resumed));
            Ok(peer)
        });
        match verified {
            Ok(peer) => self.establish(ctx, spi, claim, peer, &Evidence::Resumed),
            Err(reject) => self.refuse_auth(ctx, spi, claim, &reject),
        }
    }

    /// An IKE SA takes the place of the one that its ticket was made for, which needs no farewell (section 4.3.4); the ticket is not
    /// taken again.
    pub(super) fn succeed(&mut self, ctx: &mut Ctx<'_>, resumed: &Resumed) {
        self.counters.resumed += 1;
        if let Some(tickets) = &mut self.tickets {
            tickets.spend(resumed.ticket.serial, resumed.ticket.expires, ctx.now.wall, ctx.out);
        }
        let (own, peer) = resumed.spis;
        let same = |e: &Entry| matches!(&e.state, State::Established(s) if s.who.identity == resumed.who.identity);
        if self.sas.get(&own).is_some_and(|e| e.peer_spi() == peer && same(e)) {
            self.remove(ctx.out, own);
        }
    }

    /// A ticket over an IKE SA in use, in the place of the one there is (section 4.1); nothing where there are no tickets.
    pub(super) fn grant_over(&mut self, ctx: &mut Ctx<'_>, spi: Spi) -> Option<Notify<'static>> {
        let held = self.in_use(&spi)?.ticket;
        if held.is_some_and(|ticket| ctx.now.mono < ticket.at + REPLACED_AFTER) {
            return Some(Notify::bare(NotifyType::TICKET_NACK));
        }
        self.revoke(ctx, spi);
        let Some(State::Established(state)) = self.sas.get_mut(&spi).map(|e| &mut e.state) else { return None };
        let tickets = self.tickets.as_mut()?;
        let (notify, granted) = grant(tickets, &self.config, ctx, (&state.sa, &state.who, &state.origin));
        state.ticket = granted;
        Some(notify)
    }

    /// The IKE SA ends, or gets new keys: its ticket goes with it (section 6.2).
    pub(super) fn revoke(&mut self, ctx: &mut Ctx<'_>, spi: Spi) {
        let Some(State::Established(state)) = self.sas.get_mut(&spi).map(|e| &mut e.state) else { return };
        if let (Some(Granted { serial, expires, .. }), Some(tickets)) = (state.ticket.take(), &mut self.tickets) {
            tickets.spend(serial, expires, ctx.now.wall, ctx.out);
        }
    }
}

impl ExpectAuth {
    fn verify_resumed(&self, resumed: &Resumed, claim: &Claim) -> Result<Peer, Reject> {
        let request = claim.read()?;
        let payloads = &request.payloads;
        let (id_i, id_r) = &resumed.origin.ids;
        let same = request.id_i_body == id_i && payloads.body(PayloadKind::ID_R).is_none_or(|asked| asked == id_r);
        // Nobody else is authenticated by this exchange.
        let alone = claim.exchange == ExchangeType::IKE_AUTH && payloads.body(PayloadKind::CERT).is_none();
        if !same || !alone || request.auth.method != AuthMethod::SHARED_KEY {
            return Err(FAILED);
        }
        let (message, nonce) = (&self.init_request, &self.nonces.1);
        let signed = SignedOctets { message, nonce, id: id_i, int_auth: &[] };
        if !resumed_mac(self.sa.suite.prf, &self.proof.0, signed).ct_eq(&request.auth.data) {
            return Err(FAILED);
        }
        let (who, ours) = (resumed.who.clone(), resumed.ours.clone());
        Ok(Peer { who, ours, padding: Padding::default(), kind: None })
    }
}
