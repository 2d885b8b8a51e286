//! GDOI (RFC 6407, RFC 8263) over IKEv1 (RFC 2407 to 2409): key server and group member, without I/O.
//!
//! ```text
//!  member                                            key server
//!  main mode, 6 messages            <------------->  phase 1 SA                       exchange 2
//!  GROUPKEY-PULL, 4 messages        <------------->  policy, then keys                exchange 32
//!                                   <-------------   GROUPKEY-PUSH: new keys          exchange 33
//!  GROUPKEY-PUSH-ACK                 ------------->  into the ledger                  exchange 35
//! ```
//!
//! [`Server`] and [`Member`] are driven with datagrams and time and put out what is to be done, see
//! `keyferry_model::drive` and `keyferry_model::update`. The group itself (members, keys, rekeys) lives in the model;
//! [`push::render`] turns one step of its rekey plans into a message. `policy` is the only place that knows both the
//! model's words and the payloads' numbers; [`wire`] knows syntax alone.

mod dpd;
mod fragments;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod identity;
mod keylog;
mod member;
mod message;
mod notice;
mod phase1;
mod policy;
mod pull;
pub mod push;
mod reject;
mod server;
pub mod wire;

pub use dpd::Dpd;
pub use keylog::KeyLog;
pub use member::{GroupStatus, Member, MemberStatus, NAT_PORT, Phase1Options};
pub use message::SealError;
pub use phase1::suite::Phase1Doi;
pub use policy::algorithms::can_tell;
pub use policy::size::Sizes;
pub use policy::tell::TellError;
pub use server::{Counters, Server, ServerConfig};
