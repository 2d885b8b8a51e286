//! Why a datagram is not taken.

use keyferry_wire::DecodeError;

use crate::wire::registry::NotifyType;

/// Why a message is not taken. Nothing has changed by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reject {
    /// It is not what the RFCs describe.
    Malformed(DecodeError),
    /// Its hash or signature is wrong, or it belongs to nothing we know.
    Unauthenticated(&'static str),
    /// It is well-formed and perhaps authentic, but asks for what we do not do.
    Unacceptable(&'static str, NotifyType),
    /// It was seen before, or is older than one that was.
    Replayed,
}

impl From<DecodeError> for Reject {
    fn from(e: DecodeError) -> Self {
        Reject::Malformed(e)
    }
}

impl std::fmt::Display for Reject {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Reject::Malformed(e) => write!(f, "malformed: {e}"),
            Reject::Unauthenticated(what) => write!(f, "not authentic: {what}"),
            Reject::Unacceptable(what, notify) => write!(f, "not acceptable: {what} ({})", notify.name()),
            Reject::Replayed => f.write_str("replayed"),
        }
    }
}
