//! Intel's multi-buffer library for IPsec, as far as the data plane uses it: AES-GCM, ChaCha20-Poly1305, AES-CBC, AES-CTR
//! and HMAC over bursts of ESP packets.
//!
//! This crate is the one place of the workspace with unsafe code: what C can be given wrongly, its safe face refuses. It
//! compares no tags; that is up to the caller, in constant time. The library has no say about nonces either.
//!
//! Empty unless built with the feature `linked`, which needs the library (Debian: `libipsec-mb-dev`) and an x86-64
//! processor.

#[cfg(feature = "linked")]
mod ffi;
#[cfg(feature = "linked")]
mod keys;
#[cfg(feature = "linked")]
mod manager;
#[cfg(feature = "linked")]
mod packet;
#[cfg(all(test, feature = "linked"))]
mod tests;

#[cfg(feature = "linked")]
pub use keys::{AesKey, ChaChaKey, GcmKey, Hash, HmacKey, Mode};
#[cfg(feature = "linked")]
pub use manager::{Direction, Manager};
#[cfg(feature = "linked")]
pub use packet::{MAX_ICV, MAX_LEN, Packet};
