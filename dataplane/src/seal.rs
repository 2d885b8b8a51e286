//! Outbound: a plain packet becomes an ESP packet (RFC 4303 section 3.3).
//!
//! Transport mode: `IP | payload` becomes `IP | ESP | payload`; tunnel mode: `IP | payload` becomes `IP | ESP | IP |
//! payload`, the outer header with the inner addresses or, where those are not preserved, the tunnel's. The payload stays where it is in memory; headers move in front
//! of it.

use keyferry_model::policy::EspMode;

use crate::drops::DropReason;
use crate::frame::Frame;
use crate::iv::IvSource;
use crate::packet::esp::{EspPacket, TRAILER_LEN, padding_len, write_trailer};
use crate::packet::{Headers, IpVersion, ipv4, ipv6, protocol};
use crate::sa::Sa;

/// Seals the packet in `frame`, whose headers are `headers`, and returns its sequence number.
///
/// Numbers are taken last, after everything that can fail without the cipher. When they are used up the packet is
/// unchanged.
pub(crate) fn seal(sa: &Sa, frame: &mut Frame, headers: &Headers, ivs: &mut IvSource) -> Result<u32, DropReason> {
    if sa.is_revoked() {
        return Err(DropReason::OutStateExpired);
    }
    let plan = Plan::new(sa, headers)?;
    let ticket = sa.state.numbers.take(sa.is_counter_mode(), 1)?;

    frame.narrow(0, headers.total);
    frame.grow(plan.front, plan.back).ok_or(DropReason::OutBundleGenError)?;
    let packet = frame.packet_mut();
    match (plan.mode, headers.version) {
        (EspMode::Transport, version) => {
            packet.copy_within(plan.front..plan.front + plan.esp_at, 0);
            match version {
                IpVersion::V4 => ipv4::rewrite(packet, headers.split, protocol::ESP),
                IpVersion::V6 => ipv6::rewrite(packet, headers.split_named_at, protocol::ESP),
            }
        }
        (EspMode::Tunnel, IpVersion::V4) => {
            if let Some(inner) = packet.get(plan.front..).and_then(|p| p.first_chunk()).copied() {
                ipv4::write_outer(packet, &inner, sa.outer(), protocol::ESP);
            }
        }
        (EspMode::Tunnel, IpVersion::V6) => {
            if let Some(inner) = packet.get(plan.front..).and_then(|p| p.first_chunk()).copied() {
                ipv6::write_outer(packet, &inner, sa.outer(), protocol::ESP);
            }
        }
    }
    let esp = &mut packet[plan.esp_at..];
    let trailer_at = sa.layout.body() + plan.payload;
    let icv_at = esp.len() - sa.layout.icv;
    write_trailer(&mut esp[trailer_at..icv_at], plan.next_header);
    EspPacket::new(&mut *esp).ok_or(DropReason::OutBundleGenError)?.set_header(sa.spi, ticket.sequence);
    sa.keys.seal(esp, ticket.iv, ivs).map_err(|_| DropReason::OutStateProtoError)?;
    sa.state.sealed.count(headers.total);
    Ok(ticket.sequence)
}

/// Where everything goes, in octets.
struct Plan {
    mode: EspMode,
    /// Added in front of the packet.
    front: usize,
    /// Added behind it.
    back: usize,
    /// Where the SPI will stand.
    esp_at: usize,
    /// What ESP protects, without its trailer.
    payload: usize,
    next_header: u8,
}

impl Plan {
    fn new(sa: &Sa, headers: &Headers) -> Result<Self, DropReason> {
        let mode = sa.policy.mode;
        let (outer, esp_at, payload, next_header) = match mode {
            EspMode::Transport if headers.fragment => return Err(DropReason::OutFragment),
            EspMode::Transport => (0, headers.split, headers.total - headers.split, headers.split_protocol),
            EspMode::Tunnel => {
                let outer = headers.version.header_len();
                (outer, outer, headers.total, headers.version.as_protocol())
            }
        };
        let front = outer + sa.layout.body();
        let back = padding_len(payload, sa.layout.block) + TRAILER_LEN + sa.layout.icv;
        let limit = match headers.version {
            IpVersion::V4 => ipv4::MAX_TOTAL,
            IpVersion::V6 => ipv6::MAX_TOTAL,
        };
        if headers.total + front + back > limit {
            return Err(DropReason::OutBundleGenError);
        }
        Ok(Self { mode, front, back, esp_at, payload, next_header })
    }
}

// The room that a frame keeps is enough for every transform.
const _: () = assert!(crate::frame::HEADROOM >= ipv6::HEADER_LEN + crate::packet::esp::HEADER_LEN + 16);
const _: () = assert!(crate::frame::TAILROOM >= 15 + TRAILER_LEN + crate::keys::MAX_ICV);
