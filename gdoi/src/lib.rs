//! GDOI.
pub mod wire;
