//! Why a message is not acted upon, and what the peer is told.

use keyferry_wire::DecodeError;

use crate::wire::notify::Notify;
use crate::wire::registry::{NotifyType, PayloadKind};

/// A message that is refused. None of these changes the state of an exchange that goes on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Reject {
    /// It breaks the format.
    #[error("malformed: {0}")]
    Malformed(&'static str),
    /// It bears a critical payload that we do not understand.
    #[error("critical payload {0:?} is not understood")]
    UnsupportedCritical(PayloadKind),
    /// Its origin could not be verified.
    #[error("unauthenticated: {0}")]
    Unauthenticated(&'static str),
    /// It is understood, and cannot be done.
    #[error("unacceptable: {0:?}")]
    Unacceptable(NotifyType),
    /// A group of nothing but traffic that is none of the key server's business.
    #[error("the group protects nothing that accept_traffic names")]
    NothingAccepted,
    /// An authenticated peer broke the protocol, or sent what makes no sense.
    #[error("misbehaved: {0}")]
    Misbehaved(&'static str),
}

impl From<DecodeError> for Reject {
    fn from(e: DecodeError) -> Self {
        Reject::Malformed(e.what)
    }
}

impl Reject {
    /// What a peer that is entitled to an answer is told; `None` is silence.
    #[must_use]
    pub fn notify(&self) -> Option<Notify<'static>> {
        match self {
            Reject::Malformed(_) | Reject::Misbehaved(_) => Some(Notify::bare(NotifyType::INVALID_SYNTAX)),
            Reject::UnsupportedCritical(kind) => {
                Some(Notify::new(NotifyType::UNSUPPORTED_CRITICAL_PAYLOAD, vec![kind.0]))
            }
            Reject::Unacceptable(kind) => Some(Notify::bare(*kind)),
            Reject::NothingAccepted => Some(Notify::bare(NotifyType::NO_PROPOSAL_CHOSEN)),
            Reject::Unauthenticated(_) => None,
        }
    }
}
