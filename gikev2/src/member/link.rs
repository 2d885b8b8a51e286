//! An IKE SA in use, initiator's side.

use std::time::Duration;

use keyferry_wire::ChainWriter;

use super::Step;
use crate::ike_sa::sa::{Direction, IkeSa};
use crate::ike_sa::window::{Answers, Backoff, Due, Repeating, Requests};
use crate::wire::registry::ExchangeType;
use crate::wire::sk::SealError;

/// What our pending request is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// Policy and keys.
    Register,
    /// The policy did not suit: the key server is to forget us.
    Decline,
    /// Leaving the group.
    Leave,
    /// The end of the IKE SA.
    Delete,
    /// Is anybody there?
    Liveness,
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
}

impl Up {
    /// Our next request has message ID 2, the key server's first one 0.
    pub(super) fn new(sa: IkeSa, now: Duration) -> Self {
        let (answers, requests) = (Answers::starting_at(0), Requests::starting_at(2));
        Self { sa, answers, requests, purpose: Purpose::Liveness, heard: now, doubted: None }
    }

    pub(super) fn due_at(&self, liveness: Option<Duration>) -> Option<Duration> {
        match &self.requests.pending {
            Some((_, message)) => Some(message.due_at()),
            None => liveness.map(|after| self.heard + after),
        }
    }

    /// A request, remembered until it is answered.
    pub(super) fn request(
        &mut self,
        purpose: Purpose,
        chain: ChainWriter,
        backoff: Backoff,
        step: &mut Step<'_>,
    ) -> Result<Vec<u8>, SealError> {
        let exchange = match purpose {
            Purpose::Register | Purpose::Decline | Purpose::Leave => ExchangeType::GSA_REGISTRATION,
            Purpose::Delete | Purpose::Liveness => ExchangeType::INFORMATIONAL,
        };
        let id = self.requests.next_id().ok_or(SealError::TooLong)?;
        let bytes = self.sa.seal(exchange, Direction::Request, id, chain, step.rng)?;
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
