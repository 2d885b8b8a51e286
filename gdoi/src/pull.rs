//! GROUPKEY-PULL, exchange 32 (RFC 6407 section 3): how a member registers.
//!
//! ```text
//!  member                            key server
//!  HDR*, HASH(1), Ni, ID      -->                      ID names the group
//!                             <--    HDR*, HASH(2), Nr, SA
//!  HDR*, HASH(3) [, GAP]      -->                      GAP asks for sender IDs
//!                             <--    HDR*, HASH(4), SEQ, KD
//! ```
//!
//! Only message 3 proves that the member is alive, so the model hears of it only then (section 3.2). The IVs are chained
//! from message to message as in Quick Mode. Both roles answer a repeat with the same octets.

pub(crate) mod member;
pub(crate) mod server;

#[cfg(test)]
mod tests;
