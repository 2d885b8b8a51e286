//! What works on several packets side by side, in lanes: a processor has room for more than one packet's work, whose steps wait
//! for each other.

#[cfg(target_arch = "x86_64")]
mod avx512;
pub(super) mod cbc;
mod hash;
pub(super) mod hmac;
#[cfg(not(target_arch = "x86_64"))]
mod none;

#[cfg(target_arch = "x86_64")]
use avx512::Lanes;
#[cfg(not(target_arch = "x86_64"))]
use none::Lanes;
