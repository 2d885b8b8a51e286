//! What would become of a packet, told without one.

use std::net::IpAddr;
use std::sync::Arc;

use serde::Serialize;

use super::snapshot::Snapshot;
use crate::drops::DropReason;
use crate::local::Verdict;
use crate::packet::{Headers, IpVersion, ipv6};
use crate::sa::Sa;
use crate::seal;
use crate::status::PolicyStatus;

/// A plain packet that somebody might send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    /// Source.
    pub source: IpAddr,
    /// Destination.
    pub destination: IpAddr,
    /// Upper protocol.
    pub protocol: u8,
    /// Source and destination port, of protocols that have them.
    pub ports: Option<(u16, u16)>,
    /// Octets of the whole packet.
    pub octets: usize,
}

impl Flow {
    /// The headers that such a packet has, without options and extensions.
    pub(crate) fn headers(&self) -> Option<Headers> {
        let version = match (self.source, self.destination) {
            (IpAddr::V4(_), IpAddr::V4(_)) => IpVersion::V4,
            (IpAddr::V6(_), IpAddr::V6(_)) => IpVersion::V6,
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => return None,
        };
        let behind = version.header_len();
        Some(Headers {
            version,
            source: self.source,
            destination: self.destination,
            total: self.octets.clamp(behind, ipv6::MAX_TOTAL),
            split: behind,
            split_protocol: self.protocol,
            upper_at: behind,
            upper: self.protocol,
            ports: self.ports,
            ..Headers::NONE
        })
    }
}

/// What would become of a packet: if this member sent it, and if it came from another.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Explanation {
    /// The policy that it falls under; `None` if there is none with keys to send by.
    pub policy: Option<PolicyStatus>,
    /// Whether it would be sent in clear.
    pub clear: bool,
    /// That policy's SAs in the order in which they are tried, up to the one that would take it.
    pub tried: Vec<Tried>,
    /// Why it would be dropped, if it would be.
    pub dropped: Option<&'static str>,
    /// What is behind that, where it is no SA; `None` if a reason says enough, and in clear if it is a local rule.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<&'static str>,
    /// SAs by which such a packet of another member would be opened: SPIs in hexadecimal, in order.
    pub opened_by: Vec<String>,
}

/// An SA that a packet would be sealed by, or why not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Tried {
    /// SPI in hexadecimal, `0x` and eight digits.
    pub spi: String,
    /// Octets of the protected packet, if it would be one.
    pub octets: Option<usize>,
    /// Why it would not.
    pub refused: Option<&'static str>,
}

impl Snapshot {
    /// What would become of a packet. No number is taken for it, and nothing is counted. `None` if there can be no such packet:
    /// its addresses are of two IP versions.
    #[must_use]
    pub fn explain(&self, flow: &Flow) -> Option<Explanation> {
        let headers = flow.headers()?;
        let packet = zeros(&headers);
        let verdict = self.decides(&headers);
        let candidates = if verdict == Verdict::Group { self.candidates(&headers) } else { &[] };
        let mut tried = Vec::new();
        let mut dropped = match verdict {
            Verdict::Group => Some(DropReason::OutNoPols),
            Verdict::Clear => None,
            Verdict::Discard => Some(DropReason::OutPolBlock),
        };
        for sa in candidates {
            let outcome = seal::would_seal(sa, &headers, &packet, self.bounds());
            tried.push(Tried { spi: spi(sa), octets: outcome.ok(), refused: outcome.err().map(DropReason::name) });
            dropped = outcome.err();
            // Only an SA that has run out of numbers or octets gives way to the next one.
            let spent = [DropReason::OutStateSeqError, DropReason::OutIvExhausted, DropReason::OutStateExpired];
            if !outcome.is_err_and(|reason| spent.contains(&reason)) {
                break;
            }
        }
        let mut opened_by: Vec<String> = self.receiving().filter(|sa| sa.covers(&headers)).map(spi).collect();
        opened_by.sort_unstable();
        let policy = candidates.first().map(|sa| PolicyStatus::of(&sa.policy));
        Some(Explanation {
            policy,
            clear: verdict == Verdict::Clear,
            tried,
            dropped: dropped.map(DropReason::name),
            why: None,
            opened_by,
        })
    }
}

/// Such a packet, empty but for the length that UDP gives: padding looks at it.
fn zeros(headers: &Headers) -> Vec<u8> {
    let mut packet = vec![0; headers.total];
    let length = u16::try_from(headers.total - headers.upper_at).unwrap_or(u16::MAX);
    if let Some(place) = packet.get_mut(headers.upper_at + 4..headers.upper_at + 6) {
        place.copy_from_slice(&length.to_be_bytes());
    }
    packet
}

/// An SPI as people are told it.
pub(crate) fn spi(sa: &Arc<Sa>) -> String {
    format!("{:#010x}", sa.spi)
}
