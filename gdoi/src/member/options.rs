//! How a member makes phase 1, and what it does with it afterwards.

use std::time::Duration;

use crate::dpd::Dpd;
use crate::phase1::suite::Phase1Doi;

/// Where IKE goes on behind a translator (RFC 3947 section 4).
pub const NAT_PORT: u16 = 4500;

/// How a member makes and keeps phase 1.
#[derive(Clone, Debug)]
pub struct Phase1Options {
    /// Under which domain of interpretation it is proposed.
    pub doi: Phase1Doi,
    /// The lifetime that is proposed.
    pub lifetime: Duration,
    /// Keep it after the registration: watch whether the key server is alive, and renew it before it ends. Otherwise it is
    /// left to end by itself, and the next registration makes another.
    pub keep: bool,
    /// When a silent key server that speaks DPD is asked whether it is alive, while phase 1 is kept; `None` never asks.
    pub dpd: Option<Dpd>,
    /// Messages of phase 1 and under it are cut up where an IP packet would be longer than this, for a key server that takes
    /// fragments. At least 576.
    pub fragment_size: usize,
    /// The local port with which a member goes on that finds a translator on the way (RFC 3947); `None` looks for none.
    pub nat_port: Option<u16>,
    /// How often the translator's mapping is kept alive (RFC 3948 section 4).
    pub nat_keepalive: Duration,
}

impl Default for Phase1Options {
    fn default() -> Self {
        Self {
            doi: Phase1Doi::default(),
            lifetime: Duration::from_secs(86_400),
            keep: false,
            dpd: Some(Dpd::every(Duration::from_secs(30))),
            fragment_size: 1280,
            nat_port: Some(NAT_PORT),
            nat_keepalive: Duration::from_secs(20),
        }
    }
}
