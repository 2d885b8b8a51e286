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
use crate::frame::Frame;
use crate::iv::IvSource;
use crate::nonce::Ticket;
use crate::packet::esp::{EspPacket, TRAILER_LEN, padding_len, write_trailer};
use crate::packet::{Headers, IpVersion, ipv4, ipv6, protocol, udp_len};
use crate::sa::Sa;
use crate::sad::Sealed;
use crate::sizes::FlowPadding;
use crate::transform::Job;

/// A burst of plain packets.
pub(crate) struct Outbound<'b> {
    pub(crate) frames: &'b mut [Frame],
    /// Headers of each that can be a member.
    pub(crate) headers: &'b [Headers],
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

impl Outbound<'_> {
    fn refuse(&mut self, members: Members, sa: &Sa, reason: DropReason) {
        for at in members.iter() {
            self.fates[at] = Err(reason);
            sa.state.drops.count(reason);
        }
    }
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
    let plan = Plan::new(sa, headers, packet, bounds)?;
    sa.state.numbers.are_left(sa.is_counter_mode())?;
    Ok(headers.total + plan.front + plan.back)
}

/// Seals packets by one SA and returns those that it has no numbers or octets for.
///
/// Numbers are taken last, after everything that can fail without the cipher. When they are used up a packet is
/// unchanged.
fn seal_by(sa: &Sa, members: Members, burst: &mut Outbound<'_>) -> Members {
    if sa.is_revoked() {
        burst.refuse(members, sa, DropReason::OutStateExpired);
        return Members::default();
    }
    let (mut left, mut spent) = (members, Members::default());
    // Of those that are left, in order.
    let mut plans: ArrayVec<Plan, BURST> = ArrayVec::new();
    for at in members.iter() {
        let plan = Plan::new(sa, &burst.headers[at], burst.frames[at].packet(), burst.bounds);
        let planned = plan.and_then(|plan| {
            plan.room_in(&burst.frames[at])?;
            let fits = sa.spend(plan.covered(sa));
            if fits {
                plans.push(plan);
            }
            Ok(fits)
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
            Err(reason) => burst.refuse(one, sa, reason),
        }
        left = left.without(one);
    }
    let mut plans = plans.iter();
    while !left.is_empty() {
        match sa.state.numbers.take(sa.is_counter_mode(), left.len()) {
            Ok(ticket) => {
                let now = left.take(ticket.count);
                run(sa, now, ticket, &mut plans, burst);
                left = left.without(now);
            }
            Err(reason @ (DropReason::OutStateSeqError | DropReason::OutIvExhausted)) => {
                left.iter().for_each(|at| burst.fates[at] = Err(reason));
                return left.with(spent);
            }
            Err(reason) => {
                burst.refuse(left, sa, reason);
                break;
            }
        }
    }
    spent
}

/// Seals packets that there is room for, as planned, and for which numbers were taken.
fn run(sa: &Sa, members: Members, ticket: Ticket, plans: &mut std::slice::Iter<'_, Plan>, burst: &mut Outbound<'_>) {
    let mut jobs: ArrayVec<Job<'_>, BURST> = ArrayVec::new();
    let mut octets = 0;
    let packets = members.of(burst.frames.iter_mut().zip(burst.headers));
    jobs.extend(packets.zip(plans).filter_map(|((frame, headers), plan)| {
        let esp = plan.lay_out(sa, frame, headers)?;
        octets += headers.total;
        Some(Job::new(esp, None))
    }));
    for (number, job) in (0u32..).zip(&mut jobs) {
        if let Some(mut esp) = EspPacket::new(&mut *job.esp) {
            esp.set_header(sa.spi, ticket.sequence + number);
        }
        job.iv = ticket.iv.map(|iv| iv + u64::from(number));
    }
    sa.transform.seal(&mut jobs, burst.ivs);

    let mut packets = 0;
    for ((job, at), number) in jobs.iter().zip(members.iter()).zip(0u32..) {
        burst.fates[at] = if job.done {
            packets += 1;
            Ok(Sealed { spi: sa.spi, sequence: ticket.sequence + number })
        } else {
            octets -= burst.headers[at].total;
            sa.state.drops.count(DropReason::OutStateProtoError);
            Err(DropReason::OutStateProtoError)
        };
    }
    sa.state.sealed.count(packets, octets);
}

/// Does the payload of transport mode say itself how long it is, and fill the packet? UDP alone does.
fn tells_length(headers: &Headers, packet: &[u8]) -> bool {
    headers.split_protocol == protocol::UDP
        && packet.get(headers.split..headers.total).is_some_and(|payload| udp_len(payload) == Some(payload.len()))
}

/// The longest plain packet with such headers that, protected, has at most `mtu` octets.
pub(crate) fn room(sa: &Sa, headers: &Headers, mtu: usize) -> Option<usize> {
    let (outside, inside) = match sa.policy.mode {
        EspMode::Transport => (headers.split, headers.split),
        EspMode::Tunnel => (headers.version.header_len(), 0),
    };
    let body = mtu.checked_sub(outside + sa.layout.body() + sa.layout.icv)?;
    Some(inside + (body & !(sa.layout.block - 1)).checked_sub(TRAILER_LEN)?)
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
    /// Octets of traffic flow padding behind it.
    flow: usize,
    next_header: u8,
}

impl Plan {
    /// Octets that the cipher works on.
    fn covered(&self, sa: &Sa) -> usize {
        self.payload + self.back - sa.layout.icv
    }

    /// Can a frame hold the protected packet?
    fn room_in(&self, frame: &Frame) -> Result<(), DropReason> {
        if frame.can_grow(self.front, self.back) { Ok(()) } else { Err(DropReason::OutBundleGenError) }
    }

    /// Writes what stands around the payload, but for SPI and numbers, and returns the ESP packet. `None` if the frame has no
    /// room, which [`Plan::room_in`] tells before.
    #[inline]
    fn lay_out<'f>(&self, sa: &Sa, frame: &'f mut Frame, headers: &Headers) -> Option<&'f mut [u8]> {
        let packet = frame.wrap(headers.total, self.front, self.back)?;
        match (self.mode, headers.version) {
            (EspMode::Tunnel, IpVersion::V4) => {
                let inner = packet.get(self.front..).and_then(|p| p.first_chunk()).copied()?;
                ipv4::write_outer(packet, &inner, sa.outer(), protocol::ESP);
            }
            (EspMode::Tunnel, IpVersion::V6) => self.write_outer_v6(sa, packet)?,
            (EspMode::Transport, version) => self.move_header(packet, headers, version),
        }
        let esp = packet.get_mut(self.esp_at..)?;
        let behind = esp.get_mut(sa.layout.body() + self.payload..)?;
        if self.flow > 0 {
            // What a frame held before is nobody's to read, and SAs without encryption show it.
            behind.get_mut(..self.flow)?.fill(0);
        }
        let padding = self.back.checked_sub(self.flow + TRAILER_LEN + sa.layout.icv)?;
        write_trailer(behind.get_mut(self.flow..)?, padding, self.next_header)?;
        Some(esp)
    }

    #[inline(never)]
    fn write_outer_v6(&self, sa: &Sa, packet: &mut [u8]) -> Option<()> {
        let inner = packet.get(self.front..).and_then(|p| p.first_chunk()).copied()?;
        ipv6::write_outer(packet, &inner, sa.outer(), protocol::ESP);
        Some(())
    }

    /// Moves the packet's own header in front of the SPI, for transport mode.
    #[inline(never)]
    fn move_header(&self, packet: &mut [u8], headers: &Headers, version: IpVersion) {
        packet.copy_within(self.front..self.front + self.esp_at, 0);
        match version {
            IpVersion::V4 => ipv4::rewrite(packet, headers.split, protocol::ESP),
            IpVersion::V6 => ipv6::rewrite(packet, headers.split_named_at, protocol::ESP),
        }
    }

    #[inline]
    fn new(sa: &Sa, headers: &Headers, packet: &[u8], bounds: Bounds) -> Result<Self, DropReason> {
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
        let padding = padding_len(payload, sa.layout.block);
        let mut back = padding + TRAILER_LEN + sa.layout.icv;
        let limit = match headers.version {
            IpVersion::V4 => ipv4::MAX_TOTAL,
            IpVersion::V6 => ipv6::MAX_TOTAL,
        };
        let len = headers.total + front + back;
        if len > bounds.limit.min(limit) {
            return Err(if len > bounds.limit { DropReason::OutTooBig } else { DropReason::OutBundleGenError });
        }
        let mut flow = 0;
        if !matches!(sa.sizes.padding, FlowPadding::None) && (mode == EspMode::Tunnel || tells_length(headers, packet))
        {
            let more = sa.sizes.padding.target(len, bounds.mtu.min(limit)) - len;
            // Whole blocks, the first of which takes the place of the padding for the cipher.
            let blocks = more & !(sa.layout.block - 1);
            flow = if blocks > 0 { padding + blocks } else { 0 };
            back += blocks;
        }
        Ok(Self { mode, front, back, esp_at, payload, flow, next_header })
    }
}

// The room that a frame keeps is enough for every transform.
const _: () = assert!(crate::frame::HEADROOM >= ipv6::HEADER_LEN + crate::packet::esp::HEADER_LEN + 16);
const _: () = assert!(crate::frame::TAILROOM >= 15 + TRAILER_LEN + crate::transform::MAX_ICV);
