//! IKE SAs in use, member's side.

use std::time::Duration;

use keyferry_crypto::KeyPair;
use keyferry_wire::{ChainWriter, Header};

use super::Step;
use crate::ike_sa::followup::{Answering, Following};
use crate::ike_sa::life::Life;
use crate::ike_sa::rekey::{Proposed, Succession};
use crate::ike_sa::sa::{Direction, IkeSa};
use crate::ike_sa::window::{Answers, Backoff, Due, Repeating, Requests};
use crate::wire::registry::ExchangeType;
use crate::wire::sk::SealError;

/// Our SPI names an IKE SA.
pub(super) type Spi = [u8; 8];

/// What our pending request is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// Policy and keys.
    Register,
    /// The same of a further group.
    RegisterFurther(usize),
    /// Leaving a further group.
    LeaveFurther,
    /// The policy did not suit: the key server is to forget us.
    Decline,
    /// The same of a further group.
    DeclineFurther(usize),
    /// Leaving the group.
    Leave,
    /// The end of the IKE SA.
    Delete,
    /// Is anybody there?
    Liveness,
    /// New keys for the IKE SA.
    Rekey,
    /// Another key exchange for these.
    FollowUp,
    /// A ticket.
    Ticket,
}

impl Purpose {
    pub(super) fn exchange(self) -> ExchangeType {
        match self {
            Purpose::Register
            | Purpose::RegisterFurther(_)
            | Purpose::LeaveFurther
            | Purpose::Decline
            | Purpose::DeclineFurther(_)
            | Purpose::Leave => ExchangeType::GSA_REGISTRATION,
            Purpose::Delete | Purpose::Liveness | Purpose::Ticket => ExchangeType::INFORMATIONAL,
            Purpose::Rekey => ExchangeType::CREATE_CHILD_SA,
            Purpose::FollowUp => ExchangeType::IKE_FOLLOWUP_KE,
        }
    }
}

/// New keys that are wanted before a registration (RFC 8784 section 6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Renewal {
    /// None.
    None,
    /// To be asked for.
    Due,
    /// Asked for.
    Asked,
}

/// What we have asked for new keys, and is not answered yet.
pub(super) enum Attempt {
    /// CREATE_CHILD_SA.
    Asked(Proposed, KeyPair),
    /// IKE_FOLLOWUP_KE.
    Following(Following, KeyPair),
}

/// New keys that the key server wants, whose next key exchange is awaited.
pub(super) struct Awaited {
    pub(super) answering: Answering,
    pub(super) until: Duration,
}

/// An IKE SA with the key server.
pub(super) struct Up {
    pub(super) sa: IkeSa,
    pub(super) answers: Answers,
    pub(super) requests: Requests,
    pub(super) purpose: Purpose,
    /// When the key server last sent something that verified.
    pub(super) heard: Duration,
    /// When somebody last said that the key server does not know this IKE SA.
    pub(super) doubted: Option<Duration>,
    pub(super) life: Life,
    pub(super) attempt: Option<Attempt>,
    pub(super) awaited: Option<Awaited>,
    /// The SAs that were made in its place.
    pub(super) made: Succession,
    /// Another SA has taken its place: it is deleted then.
    pub(super) doomed: Option<Duration>,
    /// Does anything else wait until it has new keys?
    pub(super) renewal: Renewal,
}

impl Up {
    /// Our next request has the message ID after that of AUTH, the key server's first one 0.
    pub(super) fn new(sa: IkeSa, next_id: u32, renewal: Renewal, life: Life, now: Duration) -> Self {
        Self { requests: Requests::starting_at(next_id), renewal, ..Self::fresh(sa, life, now) }
    }

    /// Over an SA that replaces another, both ends begin with message ID 0 (RFC 7296 section 2.18).
    pub(super) fn fresh(sa: IkeSa, life: Life, now: Duration) -> Self {
        Self {
            sa,
            answers: Answers::starting_at(0),
            requests: Requests::starting_at(0),
            purpose: Purpose::Liveness,
            heard: now,
            doubted: None,
            life,
            attempt: None,
            awaited: None,
            made: Succession::default(),
            doomed: None,
            renewal: Renewal::None,
        }
    }

    fn due_at(&self, liveness: Option<Duration>) -> Duration {
        let patience = self.awaited.as_ref().map_or(Duration::MAX, |awaited| awaited.until);
        if let Some((_, message)) = &self.requests.pending {
            return message.due_at().min(patience);
        }
        if let Some(doomed) = self.doomed {
            return doomed;
        }
        let life = self.life.due_at().min(patience);
        liveness.map_or(life, |after| life.min(self.heard + after))
    }

    /// Is nothing under way by which it would get new keys?
    pub(super) fn is_settled(&self) -> bool {
        self.attempt.is_none() && self.awaited.is_none()
    }

    /// Is our pending request the one that deletes it?
    pub(super) fn is_closing(&self) -> bool {
        self.doomed.is_some() || self.purpose == Purpose::Delete && !self.requests.is_idle()
    }

    /// A request, remembered until it is answered.
    pub(super) fn request(
        &mut self,
        purpose: Purpose,
        chain: ChainWriter,
        backoff: Backoff,
        step: &mut Step<'_>,
    ) -> Result<Vec<u8>, SealError> {
        let id = self.requests.next_id().ok_or(SealError::TooLong)?;
        let bytes = self.sa.seal(purpose.exchange(), Direction::Request, id, chain, step.rng)?;
        self.requests.sent(Repeating::new(bytes.clone(), backoff, step.now.mono, step.rng));
        self.purpose = purpose;
        Ok(bytes)
    }

    /// A pending request's repeat, if it is due; an error when there is no hope left.
    pub(super) fn expire(&mut self, step: &mut Step<'_>) -> Result<Option<Vec<u8>>, Purpose> {
        let Some((_, message)) = &mut self.requests.pending else { return Ok(None) };
        match message.expire(step.now.mono, step.rng) {
            Due::Wait => Ok(None),
            Due::Repeat => Ok(Some(message.bytes.clone())),
            Due::GiveUp => Err(self.purpose),
        }
    }
}

/// The IKE SA in use; and while it gets new keys, those before and after it.
pub(super) struct Sas {
    pub(super) current: Box<Up>,
    others: Vec<Up>,
}

impl Sas {
    pub(super) fn new(current: Up) -> Self {
        Self { current: Box::new(current), others: Vec::new() }
    }

    fn all(&self) -> impl Iterator<Item = &Up> {
        std::iter::once(&*self.current).chain(&self.others)
    }

    /// Requests that wait for their answers.
    pub(super) fn unanswered(&self) -> Vec<Vec<u8>> {
        self.all().filter_map(|up| up.requests.pending.as_ref()).map(|(_, message)| message.bytes.clone()).collect()
    }

    pub(super) fn len(&self) -> usize {
        1 + self.others.len()
    }

    /// The SA that a message belongs to.
    pub(super) fn named_by(&self, header: &Header) -> Option<Spi> {
        self.all().map(|up| &up.sa).find(|sa| sa.is_named_by(header)).map(IkeSa::own_spi)
    }

    pub(super) fn get(&self, spi: Spi) -> Option<&Up> {
        self.all().find(|up| up.sa.own_spi() == spi)
    }

    pub(super) fn get_mut(&mut self, spi: Spi) -> Option<&mut Up> {
        std::iter::once(&mut *self.current).chain(&mut self.others).find(|up| up.sa.own_spi() == spi)
    }

    pub(super) fn is_current(&self, spi: Spi) -> bool {
        self.current.sa.own_spi() == spi
    }

    pub(super) fn push(&mut self, up: Up) {
        self.others.push(up);
    }

    /// Uses another SA from now on, and keeps the present one beside it. Says whether there is such a one.
    pub(super) fn promote(&mut self, spi: Spi) -> bool {
        let found = self.others.iter_mut().find(|up| up.sa.own_spi() == spi);
        found.map(|up| std::mem::swap(&mut *self.current, up)).is_some()
    }

    /// Forgets one of those that are not in use.
    pub(super) fn forget(&mut self, spi: Spi) {
        self.others.retain(|up| up.sa.own_spi() != spi);
    }

    pub(super) fn due_at(&self, liveness: Option<Duration>) -> Option<Duration> {
        self.all().map(|up| up.due_at(liveness)).min()
    }

    /// Those that something is due for.
    pub(super) fn due(&self, liveness: Option<Duration>, now: Duration) -> Vec<Spi> {
        self.all().filter(|up| up.due_at(liveness) <= now).map(|up| up.sa.own_spi()).collect()
    }
}
