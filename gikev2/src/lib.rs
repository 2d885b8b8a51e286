//! G-IKEv2 (RFC 9838) over IKEv2 (RFC 7296), both roles, without I/O.
//!
//! ```text
//!  GM (Member)                                             GCKS (Server)
//!  HDR, SAi1, KEi, Ni                            -->                        IKE_SA_INIT
//!                                                <--  HDR, SAr1, KEr, Nr
//!  HDR, SK{KEi(n)}                              -->                        IKE_INTERMEDIATE, for each
//!                                                <--  HDR, SK{KEr(n)}       additional key exchange
//!  HDR, SK{IDi, AUTH, IDg, SAg, N(GROUP_SENDER)} -->                        GSA_AUTH
//!                                                <--  HDR, SK{IDr, AUTH, GSA, KD}
//!  HDR, SK{IDg, SAg, N(GROUP_SENDER)}            -->                        GSA_REGISTRATION
//!                                                <--  HDR, SK{GSA, KD}
//!                                                <--  HDR, SK{D}            INFORMATIONAL: the IKE SA goes
//!  HDR, SK{}                                     -->
//!                                  (to all, multicast)
//!                                                <--  HDR, SK{GSA, KD, AUTH}  GSA_REKEY
//! ```
//!
//! - [`wire`]: payloads, and the rules which message has which.
//! - [`ike_sa`]: negotiation, keys, AUTH, cookies, the window of one request.
//! - `registration` and [`rekey`]: what the key server answers and the member makes of it; [`rekey::render`] puts a step
//!   of a rekey plan into a message.
//! - [`Server`] and [`Member`]: the two roles as machines that are driven by `receive`, `complete`, `expire` and
//!   `deadline`. Time and randomness are passed in; outputs are values.
//!
//! Also used: RFC 5282 and RFC 7634 (combined modes in the Encrypted payload), RFC 9242 and RFC 9370 (IKE_INTERMEDIATE,
//! IKE_FOLLOWUP_KE, more key exchanges), RFC 8784 (postquantum preshared keys), RFC 5649 (key wrap), RFC 5903 and RFC 8031 (groups), RFC 6023
//! (IKE SAs without a Child SA), RFC 7427 (signatures), RFC 6054 (sender IDs).

pub mod algorithms;
pub mod ike_sa;
pub mod keylog;
mod member;
mod policy;
mod registration;
pub mod reject;
pub mod rekey;
mod server;
pub mod wire;

pub use ike_sa::{IkeOptions, NAT_PORT};
pub use keylog::KeyLog;
pub use member::{FurtherStatus, Member, MemberStatus};
pub use server::{ConnectionLimits, Counters, Server, ServerConfig};

#[cfg(test)]
mod tests;
