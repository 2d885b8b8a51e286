//! GDOI.
pub mod wire;
mod identity;
mod message;
mod phase1;
mod policy;
mod reject;
