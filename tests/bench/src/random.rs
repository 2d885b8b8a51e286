//! The operating system's randomness, as the daemon passes it in: drawing it is part of what is measured.

use keyferry_crypto::Random;

pub(crate) struct OsRandom;

impl Random for OsRandom {
    fn fill(&mut self, out: &mut [u8]) {
        getrandom::fill(out).expect("the operating system gives random octets");
    }
}
