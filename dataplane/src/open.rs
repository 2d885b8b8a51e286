//! Inbound: an ESP packet becomes a plain packet (RFC 4303 section 3.4, RFC 4301 section 5.2).
//!
//! The order is: find the SA, look at the window, authenticate, mark the window, decapsulate, compare with the selectors.
//! Nothing that a packet says changes any state before it is authenticated.

use std::net::IpAddr;

use keyferry_model::policy::EspMode;

use crate::drops::DropReason;
use crate::frame::Frame;
use crate::packet::esp::{EspPacket, HEADER_LEN, TRAILER_LEN, read_trailer};
use crate::packet::{Headers, IpVersion, ipv4, ipv6, protocol};
use crate::replay::Verdict;
use crate::sa::Sa;

/// Looks at the outer headers and finds the SPI. The frame is cut to the length that the IP header gives.
pub(crate) fn find_esp(frame: &mut Frame) -> Result<(Headers, u32), DropReason> {
    let headers = Headers::parse(frame.packet()).map_err(|_| DropReason::InHdrError)?;
    // Fragments are put together before they come here (RFC 4303 section 3.4.1).
    if headers.upper != protocol::ESP || headers.fragment {
        return Err(DropReason::InHdrError);
    }
    frame.narrow(0, headers.total);
    let esp = frame.packet().get(headers.upper_at..).and_then(EspPacket::new).ok_or(DropReason::InHdrError)?;
    Ok((headers, esp.spi()))
}

/// Opens the ESP packet in `frame` with its SA.
pub(crate) fn open(sa: &Sa, frame: &mut Frame, outer: &Headers) -> Result<(), DropReason> {
    let layout = sa.layout;
    let esp_at = outer.upper_at;
    let esp = frame.packet_mut().get_mut(esp_at..).ok_or(DropReason::InHdrError)?;
    let body_len = esp.len().checked_sub(layout.body() + layout.icv).ok_or(DropReason::InStateInvalid)?;
    // Blocks are checked for CBC only: senders that do not align to four octets in a counter mode harm nobody.
    let whole = sa.is_counter_mode() || body_len.is_multiple_of(layout.block);
    if body_len < TRAILER_LEN || !whole {
        return Err(DropReason::InStateInvalid);
    }

    let sequence = EspPacket::new(&*esp).ok_or(DropReason::InHdrError)?.sequence();
    let iv =
        if sa.is_counter_mode() { esp.get(HEADER_LEN..).and_then(|b| b.first_chunk::<8>()).copied() } else { None };
    let sender = sa.state.sender(outer.source, iv);
    if let Some(windows) = &sa.state.windows {
        accept(windows.check(sender, sequence))?;
    }
    sa.keys.open(esp).map_err(|_| DropReason::InStateProtoError)?;
    if let Some(windows) = &sa.state.windows {
        accept(windows.mark(sender, sequence))?;
    }

    let plain = esp.get(layout.body()..layout.body() + body_len).ok_or(DropReason::InStateInvalid)?;
    let (payload, next_header) = read_trailer(plain).ok_or(DropReason::InPaddingError)?;
    if next_header == protocol::NONE {
        return Err(DropReason::InDummy);
    }
    match sa.policy.mode {
        EspMode::Tunnel => leave_tunnel(frame, outer, esp_at + layout.body(), payload, next_header)?,
        EspMode::Transport => leave_transport(frame, outer, layout.body(), payload, next_header),
    }
    let inner = Headers::parse(frame.packet()).map_err(|_| DropReason::InStateModeError)?;
    if !sa.covers(&inner) {
        return Err(DropReason::InStateMismatch);
    }
    sa.state.opened.count(frame.packet().len());
    Ok(())
}

fn accept(verdict: Verdict) -> Result<(), DropReason> {
    match verdict {
        Verdict::Fresh => Ok(()),
        Verdict::Replayed => Err(DropReason::InStateSeqError),
        Verdict::Full => Err(DropReason::InTooManySenders),
    }
}

/// Leaves only the inner packet in the frame. Octets behind it are traffic flow padding (RFC 4303 section 2.7).
fn leave_tunnel(
    frame: &mut Frame,
    outer: &Headers,
    at: usize,
    payload: usize,
    next_header: u8,
) -> Result<(), DropReason> {
    let congested = outer_ecn(frame.packet(), outer) == CONGESTED;
    frame.narrow(at, payload);
    let inner = Headers::parse(frame.packet()).map_err(|_| DropReason::InStateModeError)?;
    let preserved = addresses(&inner) == addresses(outer);
    if next_header != outer.version.as_protocol() || inner.version != outer.version || !preserved {
        return Err(DropReason::InStateModeError);
    }
    frame.narrow(0, inner.total);
    if congested {
        mark_congested(frame.packet_mut(), &inner);
    }
    Ok(())
}

/// Moves the IP header to the payload and names the protocol that follows it.
fn leave_transport(frame: &mut Frame, outer: &Headers, body: usize, payload: usize, next_header: u8) {
    let esp_at = outer.upper_at;
    frame.packet_mut().copy_within(..esp_at, body);
    frame.narrow(body, esp_at + payload);
    match outer.version {
        IpVersion::V4 => ipv4::rewrite(frame.packet_mut(), esp_at, next_header),
        IpVersion::V6 => ipv6::rewrite(frame.packet_mut(), outer.upper_named_at, next_header),
    }
}

const CONGESTED: u8 = 0x03;

fn outer_ecn(packet: &[u8], headers: &Headers) -> u8 {
    match headers.version {
        IpVersion::V4 => ipv4::ecn(packet),
        IpVersion::V6 => ipv6::ecn(packet),
    }
}

/// An inner packet that knows about congestion notification learns of the outer one's mark (RFC 4301 section 5.1.2.1, note 6).
fn mark_congested(packet: &mut [u8], inner: &Headers) {
    if matches!(outer_ecn(packet, inner), 1 | 2) {
        match inner.version {
            IpVersion::V4 => ipv4::set_congested(packet, inner.split),
            IpVersion::V6 => ipv6::set_congested(packet),
        }
    }
}

fn addresses(headers: &Headers) -> (IpAddr, IpAddr) {
    (headers.source, headers.destination)
}
