//! Outbound: a plain packet becomes an ESP packet (RFC 4303 section 3.3).
//!
//! Transport mode: `IP | payload` becomes `IP | ESP | payload`; tunnel mode: `IP | payload` becomes `IP | ESP | IP |
//! payload`, the outer header with the inner addresses or, where those are not preserved, the tunnel's. The payload stays where it is in memory; headers move in front
//! of it. Traffic flow padding comes behind the payload, in front of the trailer.

use std::sync::Arc;

use arrayvec::ArrayVec;
use keyferry_model::policy::EspMode;

use crate::burst::{BURST, Fate, Members};
use crate::drops::DropReason;
use crate::flows::Flows;
use crate::frame::Frame;
use crate::iv::IvSource;
use crate::nonce::Ticket;
use crate::packet::esp::{EspPacket, TRAILER_LEN, padding_len, write_trailer};
use crate::packet::{Headers, IpVersion, ipv4, ipv6, protocol, udp_len};
use crate::sa::Sa;
use crate::sad::{Line, Sealed};
use crate::sizes::FlowPadding;
use crate::transform::{Job, Layout};
use crate::tunnel::Outer;

/// A burst of plain packets.
pub(crate) struct Outbound<'b> {
    pub(crate) frames: &'b mut [Frame],
    pub(crate) flows: &'b Flows<'b, Line>,
    pub(crate) fates: &'b mut [Fate<Sealed>],
    pub(crate) ivs: &'b mut IvSource,
    pub(crate) bounds: Bounds,
}

/// How large protected packets may become.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// Larger ones are not made.
    pub(crate) limit: usize,
    /// What the link takes: no packet is padded beyond.
    pub(crate) mtu: usize,
}

/// Seals packets by the SAs of one policy line. Only an SA that has run out of numbers or octets gives way to its successor, which
/// receivers have by now.
pub(crate) fn seal(candidates: &[Arc<Sa>], members: Members, burst: &mut Outbound<'_>) {
    let mut left = members;
    for sa in candidates {
        left = seal_by(sa, left, burst);
        if left.is_empty() {
            return;
        }
    }
    // Their fates say what the last SA has run out of.
    if let Some(sa) = candidates.last() {
        left.iter().filter_map(|at| burst.fates[at].err()).for_each(|reason| sa.state.drops.count(reason));
    }
}

/// What would become of a packet by an SA: octets of the protected one, or why there is none. It takes no numbers.
pub(crate) fn would_seal(sa: &Sa, headers: &Headers, packet: &[u8], bounds: Bounds) -> Result<usize, DropReason> {
    if sa.is_revoked() || sa.is_spent() {
        return Err(DropReason::OutStateExpired);
    }
    let shape = Shape::new(sa, headers, bounds);
    let plan = shape.plan(headers.total, || packet)?;
    sa.state.numbers.are_left(sa.is_counter_mode())?;
    Ok(headers.total + shape.front + plan.back)
}

/// Seals packets by one SA and returns those that it has no numbers or octets for.
///
/// Numbers are taken last, after everything that can fail without the cipher. When they are used up a packet is
/// unchanged.
fn seal_by(sa: &Sa, members: Members, burst: &mut Outbound<'_>) -> Members {
    if sa.is_revoked() {
        refuse(members, sa, DropReason::OutStateExpired, burst.fates);
        return Members::default();
    }
    // No octet is used for a packet that gets no number.
    if let Err(reason) = sa.state.numbers.are_left(sa.is_counter_mode()) {
        return without_numbers(members, sa, reason, burst.fates);
    }
    let (mut left, mut spent) = (members, Members::default());
    let flows = burst.flows;
    for (entry, run) in flows.runs_of(members) {
        let shape = Shape::new(sa, &entry.headers, burst.bounds);
        for at in run.iter() {
            let frame = &burst.frames[at];
            let planned = shape.plan(flows.total(at), || frame.packet()).and_then(|plan| {
                if frame.can_grow(shape.front, plan.back) {
                    Ok(sa.spend(plan.covered(sa)))
                } else {
                    Err(DropReason::OutBundleGenError)
                }
            });
            let one = Members::only(at);
            match planned {
                Ok(true) => continue,
                Ok(false) => {
                    burst.fates[at] = Err(DropReason::OutStateExpired);
                    spent = spent.with(one);
                }
                // What is too large may be of use in parts, and parts together.
                Err(reason) if reason.is_open() => burst.fates[at] = Err(reason),
                Err(reason) => refuse(one, sa, reason, burst.fates),
            }
            left = left.without(one);
        }
    }
    while !left.is_empty() {
        match sa.state.numbers.take(sa.is_counter_mode(), left.len()) {
            Ok(ticket) => {
                let now = left.take(ticket.count);
                seal_with(ticket, sa, now, burst);
                left = left.without(now);
            }
            Err(reason) => return without_numbers(left, sa, reason, burst.fates).with(spent),
        }
    }
    spent
}

/// Says of packets that there are no numbers for them, and returns those that another SA may have some for.
fn without_numbers(members: Members, sa: &Sa, reason: DropReason, fates: &mut [Fate<Sealed>]) -> Members {
    if matches!(reason, DropReason::OutStateSeqError | DropReason::OutIvExhausted) {
        members.iter().for_each(|at| fates[at] = Err(reason));
        return members;
    }
    refuse(members, sa, reason, fates);
    Members::default()
}

/// Seals packets that there is room for, and for which numbers were taken.
fn seal_with(ticket: Ticket, sa: &Sa, members: Members, burst: &mut Outbound<'_>) {
    let Outbound { frames, flows, fates, ivs, bounds } = burst;
    let mut jobs: ArrayVec<Job<'_>, BURST> = ArrayVec::new();
    let (mut given, mut octets) = (Members::default(), 0);
    let mut frames = members.of(frames.iter_mut());
    let mut number = 0;
    for (entry, run) in flows.runs_of(members) {
        let (shape, outer) = (Shape::new(sa, &entry.headers, *bounds), Outside::new(sa, &entry.headers));
        for (at, frame) in run.iter().zip(&mut frames) {
            let (total, sequence) = (flows.total(at), ticket.sequence + number);
            if let Some(esp) = shape.lay_out(&outer, total, frame)
                && let Some(mut header) = EspPacket::new(&mut *esp)
            {
                header.set_header(sa.spi, sequence);
                jobs.push(Job::new(esp, ticket.iv.map(|iv| iv + u64::from(number))));
                given = given.with(Members::only(at));
                octets += total;
            }
            fates[at] = Ok(Sealed { spi: sa.spi, sequence });
            number += 1;
        }
    }
    sa.transform.seal(&mut jobs, ivs);

    let mut failed = members.without(given);
    for (job, at) in jobs.iter().zip(given.iter()) {
        if !job.done {
            octets -= flows.total(at);
            failed = failed.with(Members::only(at));
        }
    }
    sa.state.sealed.count((members.len() - failed.len()) as usize, octets);
    refuse(failed, sa, DropReason::OutStateProtoError, fates);
}

fn refuse(members: Members, sa: &Sa, reason: DropReason, fates: &mut [Fate<Sealed>]) {
    for at in members.iter() {
        fates[at] = Err(reason);
        sa.state.drops.count(reason);
    }
}

/// Does the payload of transport mode say itself how long it is, and fill the packet? UDP alone does.
fn tells_length(headers: &Headers, packet: &[u8], total: usize) -> bool {
    headers.split_protocol == protocol::UDP
        && packet.get(headers.split..total).is_some_and(|payload| udp_len(payload) == Some(payload.len()))
}

/// The longest plain packet with such headers that, protected, has at most `mtu` octets.
pub(crate) fn room(sa: &Sa, headers: &Headers, mtu: usize) -> Option<usize> {
    let (outside, inside) = match sa.policy.mode {
        EspMode::Transport => (headers.split, headers.split),
        EspMode::Tunnel => (headers.version.header_len(), 0),
    };
    let body = mtu.checked_sub(outside + sa.layout.around())?;
    Some(inside + (body & !(sa.layout.block - 1)).checked_sub(TRAILER_LEN)?)
}

/// Where everything goes in packets of one flow, in octets.
struct Shape<'h> {
    headers: &'h Headers,
    /// Is this a fragment that cannot be protected?
    part: bool,
    /// Added in front of a packet.
    front: usize,
    /// Where the SPI will stand.
    esp_at: usize,
    /// Of the packet, what stays in front of it.
    split: usize,
    next_header: u8,
    layout: Layout,
    /// The longest protected packet there may be.
    most: usize,
    bounds: Bounds,
    flow_padding: Option<&'h FlowPadding>,
}

/// What differs from packet to packet.
struct Plan {
    /// What ESP protects, without its trailer.
    payload: usize,
    /// Octets of traffic flow padding behind it.
    flow: usize,
    /// Octets of padding behind both.
    padding: usize,
    /// All that is added behind the packet.
    back: usize,
}

impl Plan {
    /// Octets that the cipher works on.
    fn covered(&self, sa: &Sa) -> usize {
        self.payload + self.back - sa.layout.icv
    }
}

impl<'h> Shape<'h> {
    #[inline]
    fn new(sa: &'h Sa, headers: &'h Headers, bounds: Bounds) -> Self {
        let (transport, layout) = (sa.policy.mode == EspMode::Transport, sa.layout);
        let (outer, split, next_header) = match sa.policy.mode {
            EspMode::Transport => (0, headers.split, headers.split_protocol),
            EspMode::Tunnel => (headers.version.header_len(), 0, headers.version.as_protocol()),
        };
        let longest = match headers.version {
            IpVersion::V4 => ipv4::MAX_TOTAL,
            IpVersion::V6 => ipv6::MAX_TOTAL,
        };
        Self {
            headers,
            part: transport && headers.fragment,
            front: outer + layout.body(),
            esp_at: outer + split,
            split,
            next_header,
            layout,
            most: longest.min(bounds.limit),
            bounds,
            flow_padding: Some(&sa.sizes.padding).filter(|padding| **padding != FlowPadding::None),
        }
    }

    /// Plans a packet of `total` octets.
    #[inline]
    fn plan<'p>(&self, total: usize, packet: impl FnOnce() -> &'p [u8]) -> Result<Plan, DropReason> {
        let (layout, payload) = (self.layout, total - self.split);
        let padding = padding_len(payload, layout.block);
        let back = padding + TRAILER_LEN + layout.icv;
        let len = total + self.front + back;
        if self.part {
            return Err(DropReason::OutFragment);
        }
        if len > self.most {
            let too_big = len > self.bounds.limit;
            return Err(if too_big { DropReason::OutTooBig } else { DropReason::OutBundleGenError });
        }
        // Whole blocks, the first of which takes the place of the padding for the cipher.
        let more = self.flow_padding.map_or(0, |padding| self.blocks(padding, len, total, packet()));
        let (flow, padding) = if more > 0 { (padding + more, 0) } else { (0, padding) };
        Ok(Plan { payload, flow, padding, back: back + more })
    }

    /// Octets, in whole blocks, by which a packet is made longer that would have `len`.
    #[inline(never)]
    fn blocks(&self, padding: &FlowPadding, len: usize, total: usize, packet: &[u8]) -> usize {
        if self.split > 0 && !tells_length(self.headers, packet, total) {
            return 0;
        }
        (padding.target(len, self.bounds.mtu.min(self.most)) - len) & !(self.layout.block - 1)
    }

    /// Writes what stands around the payload of a planned packet, but for SPI and numbers, and returns the ESP packet. `None` if
    /// the frame has no room.
    #[inline(never)]
    fn lay_out<'f>(&self, outside: &Outside, total: usize, frame: &'f mut Frame) -> Option<&'f mut [u8]> {
        let plan = self.plan(total, || frame.packet()).ok()?;
        let packet = frame.wrap(total, self.front, plan.back)?;
        let len = packet.len();
        match outside {
            Outside::V4(outer) => {
                let (front, inner) = packet.split_at_mut_checked(self.front)?;
                outer.write(front.first_chunk_mut()?, inner.first_chunk()?, len);
            }
            Outside::V6(outer) => write_outer_v6(packet, self.front, *outer)?,
            Outside::Own => self.move_header(packet),
        }
        let mut behind = packet.get_mut(self.front + total..)?;
        if plan.flow > 0 {
            // What a frame held before is nobody's to read, and SAs without encryption show it.
            let (flow, rest) = behind.split_at_mut_checked(plan.flow)?;
            flow.fill(0);
            behind = rest;
        }
        write_trailer(behind, plan.padding, self.next_header)?;
        packet.get_mut(self.esp_at..)
    }

    /// Moves the packet's own header in front of the SPI, for transport mode.
    #[inline(never)]
    fn move_header(&self, packet: &mut [u8]) {
        let headers = self.headers;
        packet.copy_within(self.front..self.front + self.split, 0);
        match headers.version {
            IpVersion::V4 => ipv4::rewrite(packet, headers.split, protocol::ESP),
            IpVersion::V6 => ipv6::rewrite(packet, headers.split_named_at, protocol::ESP),
        }
    }
}

/// What stands in front of the ESP packets of one flow.
enum Outside {
    V4(ipv4::OuterHeader),
    V6(Outer),
    /// The packet's own header.
    Own,
}

impl Outside {
    #[inline]
    fn new(sa: &Sa, headers: &Headers) -> Self {
        match (sa.policy.mode, headers.version) {
            (EspMode::Transport, _) => Outside::Own,
            (EspMode::Tunnel, IpVersion::V4) => {
                let header = ipv4::OuterHeader::new(headers.source, headers.destination, sa.outer(), protocol::ESP);
                Outside::V4(header)
            }
            (EspMode::Tunnel, IpVersion::V6) => Outside::V6(sa.outer()),
        }
    }
}

#[inline(never)]
fn write_outer_v6(packet: &mut [u8], front: usize, outer: Outer) -> Option<()> {
    let inner = packet.get(front..).and_then(|p| p.first_chunk()).copied()?;
    ipv6::write_outer(packet, &inner, outer, protocol::ESP);
    Some(())
}

// The room that a frame keeps is enough for every transform.
const _: () = assert!(crate::frame::HEADROOM >= ipv6::HEADER_LEN + crate::packet::esp::HEADER_LEN + 16);
const _: () = assert!(crate::frame::TAILROOM >= 15 + TRAILER_LEN + crate::transform::MAX_ICV);
