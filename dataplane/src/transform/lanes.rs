//! What works on several packets side by side, in lanes: a processor has room for more than one packet's work, whose steps wait
//! for each other.

pub(super) mod cbc;
pub(super) mod hmac;
mod sha2;
