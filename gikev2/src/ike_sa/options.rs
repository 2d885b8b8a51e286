//! How IKE SAs are kept, at either end.

use std::time::Duration;

/// How IKE SAs are kept, at either end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IkeOptions {
    /// The longest life of the keys of an IKE SA; well before its end new ones are negotiated (RFC 7296 section 2.8).
    pub lifetime: Duration,
    /// A peer that is silent for so long is asked whether it lives (RFC 7296 section 2.4); `None` never asks.
    pub liveness: Option<Duration>,
}

impl Default for IkeOptions {
    /// New keys within 8 hours; nobody is asked.
    fn default() -> Self {
        Self { lifetime: Duration::from_secs(8 * 3600), liveness: None }
    }
}
