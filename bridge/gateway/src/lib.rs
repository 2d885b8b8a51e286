//! One key server endpoint over both protocols, without I/O.
//!
//! ```text
//!  datagram -> demux -+- major version 1 -> gdoi::Server ---+
//!                     |                                     +-> Model -> RekeyPlan
//!                     +- major version 2 -> gikev2::Server -+               |
//!                                                                           v
//!  Output (persist, send, job) <------------ copies of rekey messages <- render per protocol
//! ```
//!
//! The daemon drives it with four verbs: [`Gateway::receive`], [`Gateway::complete`], [`Gateway::expire`] and
//! [`Gateway::poll`], and sleeps until [`Gateway::deadline`]. Outputs are carried out in order: what is to be made
//! durable is durable before anything behind it is sent.

mod demux;
mod gateway;
mod late;
mod outgoing;

pub use demux::{Route, classify};
pub use gateway::{CommandError, Delete, Gateway, GatewaySettings, LoadError, Reloaded};
pub use gdoi::Dpd;
pub use gikev2::{ConnectionLimits, IkeOptions};
