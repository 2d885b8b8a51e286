//! How IKE SAs are kept, at either end.

use std::time::Duration;

use keyferry_model::drive::Via;
use keyferry_wire::MAX_FRAMED;

/// How IKE SAs are kept, at either end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IkeOptions {
    /// The longest life of the keys of an IKE SA; well before its end new ones are negotiated (RFC 7296 section 2.8).
    pub lifetime: Duration,
    /// A peer that is silent for so long is asked whether it lives (RFC 7296 section 2.4); `None` never asks.
    pub liveness: Option<Duration>,
    /// The longest IP packet before a message is cut up, for peers that take fragments (RFC 7383).
    pub fragment_size: usize,
    /// Where there is a NAT a member goes on from this port to [`NAT_PORT`]; `None` stays where it is.
    pub nat_port: Option<u16>,
    /// A member behind a NAT keeps its mapping alive by a packet after so long.
    pub nat_keepalive: Duration,
}

/// The port of a key server for IKE through NATs (RFC 7296 section 2.23).
pub const NAT_PORT: u16 = 4500;

/// Headers of IPv6 and UDP, and a non-ESP marker.
const HEADERS: usize = 40 + 8 + 4;

impl IkeOptions {
    /// The most octets of a message that need not be cut up. In a stream that is done only with what is too long for a
    /// frame (RFC 9329 section 7.5).
    pub(crate) fn limit(&self, via: Via) -> usize {
        match via {
            Via::Tcp(_) => MAX_FRAMED,
            Via::Udp | Via::MarkedUdp => datagram_limit(self.fragment_size),
        }
    }
}

/// The most octets of a datagram in an IP packet of this size.
pub(crate) fn datagram_limit(packet: usize) -> usize {
    packet.saturating_sub(HEADERS)
}

impl Default for IkeOptions {
    /// New keys within 8 hours; nobody is asked; packets of at most 1280 octets; through NATs by
    /// port 4500, with a packet each 20 seconds.
    fn default() -> Self {
        Self {
            lifetime: Duration::from_secs(8 * 3600),
            liveness: None,
            fragment_size: 1280,
            nat_port: Some(NAT_PORT),
            nat_keepalive: Duration::from_secs(20),
        }
    }
}
