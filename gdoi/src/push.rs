//! GROUPKEY-PUSH and its acknowledgement, exchanges 33 and 35 (RFC 6407 section 4, RFC 8263).
//!
//! ```text
//!  key server                                        member
//!  HDR*, SEQ, [D,] SA, KD, SIG   --- multicast -->
//!                                <--                 HDR, HASH, SEQ, ID
//! ```
//!
//! The cookie pair is the SPI of the rekey SA; the KEK encrypts, the key server's signature authenticates, SEQ only grows.

pub(crate) mod ack;
pub(crate) mod content;
mod envelope;
pub(crate) mod member;
mod render;
pub(crate) mod roles;
mod streams;
mod unsigned;

pub use render::{RenderError, prepare, render};
pub use unsigned::Unsigned;

#[cfg(test)]
mod tests;
