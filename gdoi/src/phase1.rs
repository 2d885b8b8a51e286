//! Phase 1 of IKEv1 (RFC 2409 section 5), and the SA it makes. Peers prove who they are by a pre-shared key (section 5.4) or by
//! signatures with certificates (section 5.1, RFC 4754).
//!
//! ```text
//!  member (initiator)                    key server (responder)
//!  main mode
//!  HDR, SA                       -->
//!                                <--     HDR, SA
//!  HDR, KE, Ni [, CERTREQ]       -->
//!                                <--     HDR, KE, Nr [, CERTREQ]      (key exchange as a job)
//!  HDR*, IDii, HASH_I            -->
//!    or IDii, CERT, SIG_I
//!                                <--     HDR*, IDir, HASH_R           (check and signature as jobs)
//!                                          or IDir, CERT, SIG_R
//!
//!  aggressive mode, only where it is configured
//!  HDR, SA, KE, Ni, IDii         -->
//!                                <--     HDR, SA, KE, Nr, IDir, HASH_R    (key exchange and signature as jobs)
//!                                          or SA, KE, Nr, IDir, CERT, SIG_R
//!  HDR*, HASH_I                  -->
//!    or CERT, SIG_I                                                       (check as a job)
//! ```
//!
//! The messages in clear are not authenticated by anything. Whoever sees them can forge rivals, so both sides follow
//! up to [`MAX_RIVALS`] different continuations side by side until a hash or signature proves one of them. Of further
//! ones only the latest is kept, and followed [`HOLD`] later in place of the oldest: a flood costs a few key exchanges a
//! second, and the true message still gets its turn. With signatures that cannot be told from altered ones before they are
//! checked it is the same.

pub(crate) mod auth;
pub(crate) mod extensions;
pub(crate) mod ike_sa;
pub(crate) mod initiator;
pub(crate) mod keymat;
pub(crate) mod method;
pub(crate) mod nat;
pub(crate) mod responder;
pub(crate) mod suite;

use std::time::Duration;

/// How long a continuation too many waits.
pub(crate) const HOLD: Duration = Duration::from_millis(250);

/// How many contradicting continuations of an unauthenticated exchange are followed.
pub(crate) const MAX_RIVALS: usize = 4;
