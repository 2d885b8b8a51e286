//! Notices of authenticated members: Deletes, INITIAL-CONTACT, Dead Peer Detection.

use keyferry_model::drive::{Ctx, Datagram};
use keyferry_model::id::Protocol;
use keyferry_wire::Header;

use super::Server;
use super::sessions::is_encapsulated;
use crate::dpd::{Probe, Question};
use crate::notice::{Notice, lifetime_data};
use crate::reject::Reject;
use crate::wire::registry::NotifyType;

impl Server {
    /// Informational exchange (RFC 2409 section 5.7). In clear it means nothing.
    pub(super) fn notice(
        &mut self,
        ctx: &mut Ctx<'_>,
        header: &Header,
        body: &[u8],
        dgram: &Datagram<'_>,
    ) -> Result<(), Reject> {
        let cookies = header.spi_pair();
        let session = self.sessions.get_mut(&cookies).filter(|s| s.comes_from(dgram));
        let session = session.ok_or(Reject::Unauthenticated("no such SA"))?;
        let notice = Notice::open(session.sa(), header, body)?;
        tracing::debug!(member = %session.identity(), from = %dgram.from, ?notice, "notice");
        let closes = notice.phase1.contains(&cookies);
        // What changes something beyond this SA must not come twice. Nothing comes twice under an SA that is gone.
        let lasting = notice.initial_contact || !notice.keks.is_empty() || notice.phase1.iter().any(|c| *c != cookies);
        if lasting && !closes {
            session.use_id(header.message_id)?;
        }
        if lasting {
            self.note_use(ctx, dgram, &cookies);
        }
        self.asked(ctx, dgram, &cookies, &notice)?;
        self.leaves(ctx, &cookies, &notice.keks);
        if notice.initial_contact {
            self.initial_contact(&cookies);
        }
        for other in &notice.phase1 {
            self.delete(&cookies, other);
        }
        Ok(())
    }

    /// R-U-THERE is answered, R-U-THERE-ACK noted (RFC 3706). The answer to a question that came before goes where the
    /// first one went: this one may be somebody's copy.
    fn asked(
        &mut self,
        ctx: &mut Ctx<'_>,
        dgram: &Datagram<'_>,
        cookies: &[u8; 16],
        notice: &Notice,
    ) -> Result<(), Reject> {
        if let Some(number) = notice.are_you_there {
            match self.sessions.get_mut(cookies).map(|s| s.liveness().asked(number)) {
                Some(Question::New) => self.note_use(ctx, dgram, cookies),
                Some(Question::Again) => self.counters.repeated += 1,
                Some(Question::Stale) | None => return Err(Reject::Replayed),
            }
            let Some(session) = self.sessions.get(cookies) else { return Ok(()) };
            let answer = session.status(NotifyType::R_U_THERE_ACK, &number.to_be_bytes(), ctx.rng);
            answer.into_iter().for_each(|answer| ctx.out.send(answer));
        }
        if let Some(session) = self.sessions.get_mut(cookies)
            && let Some(number) = notice.here
            && session.liveness().answered(number, ctx.now.mono)
        {
            session.note_path(dgram);
        }
        Ok(())
    }

    /// A message that is authentic and no copy: that is where the member is now, also for its groups.
    fn note_use(&mut self, ctx: &mut Ctx<'_>, dgram: &Datagram<'_>, cookies: &[u8; 16]) {
        let Some(session) = self.sessions.get_mut(cookies) else { return };
        session.note_use(dgram, ctx.now.mono);
        if session.nat().is_there() {
            ctx.model.reach(session.identity(), Protocol::Gdoi, dgram.from, is_encapsulated(dgram));
            ctx.flush();
        }
    }

    /// The member deletes its rekey SA: it leaves the group.
    fn leaves(&mut self, ctx: &mut Ctx<'_>, cookies: &[u8; 16], keks: &[[u8; 16]]) {
        let Some(identity) = self.sessions.get(cookies).map(|s| s.identity().clone()) else { return };
        for spi in keks {
            let group = ctx.model.rekey_sa(Protocol::Gdoi, spi).and_then(|sa| sa.policy.ids.first().cloned());
            // Only a member by this protocol leaves; one that has moved on is not disturbed.
            if group.is_some_and(|g| ctx.model.leave(&g, &identity, Protocol::Gdoi, ctx.now)) {
                self.counters.left += 1;
                ctx.flush();
            }
        }
    }

    /// The member has no SA but this one: those before it, of its identity and address, are useless (RFC 2407 section
    /// 4.6.3.3). Its registrations stay: it may hold the keys still.
    pub(super) fn initial_contact(&mut self, cookies: &[u8; 16]) {
        for older in self.sessions.before(cookies) {
            self.close(&older);
        }
    }

    /// Under one SA a member deletes that one or another of its own.
    fn delete(&mut self, under: &[u8; 16], cookies: &[u8; 16]) {
        let identity = |c| self.sessions.get(c).map(super::sessions::Session::identity);
        if identity(under).is_some() && identity(under) == identity(cookies) {
            self.close(cookies);
        }
    }

    /// An SA is gone on the other side.
    fn close(&mut self, cookies: &[u8; 16]) {
        if let Some(session) = self.sessions.remove(cookies) {
            tracing::debug!(member = %session.identity(), "phase 1 is gone");
            self.counters.closed += 1;
        }
    }

    /// Says that the SA lives shorter than was proposed (RFC 2407 section 4.6.3.1).
    pub(super) fn tell_lifetime(&mut self, ctx: &mut Ctx<'_>, cookies: &[u8; 16]) {
        let Some(session) = self.sessions.get(cookies) else { return };
        let data = lifetime_data(self.config.sa_lifetime);
        let told = session.status(NotifyType::RESPONDER_LIFETIME, &data, ctx.rng);
        told.into_iter().for_each(|told| ctx.out.send(told));
    }

    /// Asks a silent member whether it is alive; `false` if it is not. Its registrations and keys stay in any case.
    pub(super) fn probe(&mut self, ctx: &mut Ctx<'_>, cookies: &[u8; 16]) -> bool {
        let Some(dpd) = self.config.dpd else { return true };
        let Some(session) = self.sessions.get_mut(cookies).filter(|s| s.extensions().dpd) else { return true };
        match session.liveness().probe(&dpd, ctx.now.mono) {
            Probe::Wait => {}
            Probe::Ask(number) => {
                if let Some(question) = session.status(NotifyType::R_U_THERE, &number.to_be_bytes(), ctx.rng) {
                    session.liveness().ask(&dpd, ctx.now.mono, question.bytes.clone());
                    ctx.out.send(question);
                }
            }
            Probe::Again(question) => ctx.out.send(session.path().reply(question)),
            Probe::Dead => {
                tracing::info!(member = %session.identity(), "does not answer: its phase 1 is dropped");
                self.counters.dead += 1;
                self.close(cookies);
                return false;
            }
        }
        true
    }
}
