//! A bench for whole fleets: one gateway, members of both protocols, a network that loses, repeats and reorders, and a
//! clock that jumps from event to event. Everything comes of one seed, so a failure can be run again.

pub mod fleet;
pub mod net;
pub mod policy;
