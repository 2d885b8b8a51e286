//! What fuzzers need of the engines' inside. Not an interface: only there with the feature `fuzzing`, which nothing that is
//! shipped turns on.

use crate::engine::{kernel, userspace};

/// How many messages the kernel has told.
#[must_use]
pub fn told(octets: &[u8]) -> usize {
    kernel::told(octets)
}

/// The packets in what the host gives behind the header of a TUN device. `None` if it is not sound.
#[must_use]
pub fn read(header: [u8; 10], octets: &[u8]) -> Option<Vec<Vec<u8>>> {
    userspace::fuzzing::read(header, octets)
}

/// What the host has of packets that are written to a TUN device as one burst.
#[must_use]
pub fn written(packets: &[Vec<u8>]) -> Vec<Vec<u8>> {
    userspace::fuzzing::written(packets)
}
