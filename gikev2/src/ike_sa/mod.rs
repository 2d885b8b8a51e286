//! The IKE SA: what both roles need to establish and to keep one (RFC 7296).

pub(crate) mod auth;
pub(crate) mod certificates;
pub(crate) mod cookie;
pub(crate) mod followup;
pub(crate) mod init;
pub(crate) mod int_auth;
pub(crate) mod keymat;
pub(crate) mod life;
pub(crate) mod options;
pub(crate) mod reassembly;
pub(crate) mod rekey;
pub(crate) mod sa;
pub(crate) mod signature;
pub(crate) mod suite;
pub(crate) mod window;

pub use keymat::{IkeKeys, Skeyseed};
pub use options::{IkeOptions, NAT_PORT};
pub use suite::{Choice, Preferences, Suite};
pub use window::Backoff;

/// Which end of an IKE SA we are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// We sent the first IKE_SA_INIT request.
    Initiator,
    /// We answered it.
    Responder,
}
