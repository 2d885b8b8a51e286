//! Phase 1: IKEv1 main mode with a pre-shared key (RFC 2409 section 5.4), and the SA it makes.
//!
//! ```text
//!  member (initiator)                    key server (responder)
//!  HDR, SA                       -->
//!                                <--     HDR, SA
//!  HDR, KE, Ni                   -->
//!                                <--     HDR, KE, Nr          (key exchange as a job)
//!  HDR*, IDii, HASH_I            -->
//!                                <--     HDR*, IDir, HASH_R
//! ```
//!
//! The first four messages are not authenticated by anything. Whoever sees them can forge rivals, so both sides follow
//! up to [`MAX_RIVALS`] different continuations side by side until a hash proves one of them. Of further ones only the
//! latest is kept, and followed [`HOLD`] later in place of the oldest: a flood costs a few key exchanges a second, and
//! the true message still gets its turn.

pub(crate) mod auth;
pub(crate) mod extensions;
pub(crate) mod ike_sa;
pub(crate) mod initiator;
pub(crate) mod keymat;
pub(crate) mod responder;
pub(crate) mod suite;

use std::time::Duration;

/// How long a continuation too many waits.
pub(crate) const HOLD: Duration = Duration::from_millis(250);

/// How many contradicting continuations of an unauthenticated exchange are followed.
pub(crate) const MAX_RIVALS: usize = 4;
