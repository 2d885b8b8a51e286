//! Keyferry: one key server for GDOI (RFC 6407) and G-IKEv2 (RFC 9838), and a member of either.
//!
//! This crate is where the clocks, sockets, files and devices are; everything it drives is without I/O:
//!
//! ```text
//!  cli --+-- serve ---- Gateway (one task) ---- store (durable before sent), udp, jobs, control
//!        +-- member --- gdoi::Member | gikev2::Member ---- udp, dataplane engine, network, control
//!        +-- lab ------ serve and member as processes in namespaces
//!        +-- status, members, rekey, evict, move ... ---- control::Client ---- control::Server of the above
//! ```

#![allow(clippy::disallowed_methods, reason = "the clocks that everything below is given are read here")]

pub mod cli;
pub mod config;
pub mod control;
mod keylog;
pub mod lab;
mod logging;
pub mod member;
mod metrics;
pub mod random;
pub mod serve;
pub mod store;
mod tcp;
mod trust;
mod udp;
