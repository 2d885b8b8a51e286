//! G-IKEv2
pub mod algorithms;
pub mod ike_sa;
pub mod keylog;
pub mod reject;
pub mod wire;
