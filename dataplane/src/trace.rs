//! A look at single packets: what becomes of those of one flow, step by step, without what is in them.
//!
//! ```text
//!  seal_burst, open_burst --matching packets--> [Tap: bounded] --take--> whoever asked
//! ```
//!
//! A [`Tap`] is part of a snapshot, so while nobody asks there is nothing on the path but its absence. What finds no room in
//! it is counted and not kept: however much comes, as much is kept as its owner takes out.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arrayvec::ArrayVec;
use keyferry_model::policy::{EspMode, Selector, TrafficPolicy};
use serde::Serialize;

use crate::burst::Fate;
use crate::drops::DropReason;
use crate::flows::Flows;
use crate::frame::Frame;
use crate::packet::esp::{EspPacket, HEADER_LEN};
use crate::packet::{Headers, protocol};
use crate::sa::Sa;
use crate::sad::Sealed;
use crate::status::PolicyStatus;

/// Longest IV there is.
const MAX_IV: usize = 16;

/// Packets that are asked for. What is left out matches everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FlowFilter {
    /// Where they come from: addresses and prefix; protocol and port are not looked at.
    pub source: Option<Selector>,
    /// Where they go, likewise.
    pub destination: Option<Selector>,
    /// Upper protocol; 0 is any.
    pub protocol: u8,
    /// Destination port; 0 is any.
    pub port: u16,
    /// SPI of the protected packet; one that does not get that far has none.
    pub spi: Option<u32>,
}

impl FlowFilter {
    fn takes_addresses(&self, source: IpAddr, destination: IpAddr) -> bool {
        self.source.is_none_or(|s| s.contains(source)) && self.destination.is_none_or(|d| d.contains(destination))
    }

    /// Is a plain packet one of them? A port that a fragment hides matches only "any".
    fn takes(&self, packet: &Headers) -> bool {
        self.takes_addresses(packet.source, packet.destination)
            && (self.protocol == 0 || self.protocol == packet.upper)
            && (self.port == 0 || packet.ports.is_some_and(|(_, to)| to == self.port))
    }

    fn takes_spi(&self, spi: Option<u32>) -> bool {
        self.spi.is_none() || self.spi == spi
    }
}

/// A packet, and what the data plane did with it.
#[derive(Clone, Debug)]
pub struct Traced {
    /// When, by the tap's clock.
    pub at: Duration,
    /// Was it to be sent?
    pub outbound: bool,
    /// Source: of the plain packet; of the protected one where it was not opened.
    pub source: IpAddr,
    /// Destination, likewise.
    pub destination: IpAddr,
    /// Upper protocol, likewise.
    pub protocol: u8,
    /// Ports, if there are any.
    pub ports: Option<(u16, u16)>,
    /// Octets as it came.
    pub octets_before: usize,
    /// Octets as it went; `None` if it was dropped.
    pub octets_after: Option<usize>,
    /// The policy that it falls under, or that its SA is of.
    pub policy: Option<Arc<TrafficPolicy>>,
    /// SPI of the protected packet.
    pub spi: Option<u32>,
    /// Its sequence number.
    pub sequence: Option<u32>,
    /// Its IV.
    pub iv: ArrayVec<u8, MAX_IV>,
    /// Sender ID in the IV, where IVs have one and its width is known.
    pub sender_id: Option<u32>,
    /// Why it was dropped.
    pub dropped: Option<DropReason>,
}

/// Takes note of packets. Workers write into it, its owner takes out.
pub struct Tap {
    filter: FlowFilter,
    clock: Box<dyn Fn() -> Duration + Send + Sync>,
    room: usize,
    seen: Mutex<Seen>,
}

#[derive(Default)]
struct Seen {
    packets: VecDeque<Traced>,
    missed: u64,
}

/// What came since the last time.
#[derive(Debug, Default)]
pub struct Taken {
    /// Packets, oldest first.
    pub packets: Vec<Traced>,
    /// Further ones that there was no room for.
    pub missed: u64,
}

impl Tap {
    /// A tap that keeps up to `room` packets until they are taken out, with their times by this clock.
    #[must_use]
    pub fn new(filter: FlowFilter, room: usize, clock: Box<dyn Fn() -> Duration + Send + Sync>) -> Self {
        Self { filter, clock, room, seen: Mutex::default() }
    }

    /// Takes out what there is.
    pub fn take(&self) -> Taken {
        let mut seen = self.seen();
        Taken { packets: seen.packets.drain(..).collect(), missed: std::mem::take(&mut seen.missed) }
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        // Nothing panics half way under the lock.
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps a packet, or counts it; what is costly to say is said only of those kept.
    fn keep(&self, packet: impl FnOnce(Duration) -> Traced) {
        let mut seen = self.seen();
        if seen.packets.len() < self.room {
            let packet = packet((self.clock)());
            seen.packets.push_back(packet);
        } else {
            seen.missed += 1;
        }
    }

    /// A plain packet, and what became of it by one of these SAs.
    pub(crate) fn outbound(&self, plain: &Headers, sealed: &Frame, fate: Fate<Sealed>, candidates: &[Arc<Sa>]) {
        let done = fate.ok().filter(|done| done.spi != 0);
        if !self.filter.takes(plain) || !self.filter.takes_spi(done.map(|done| done.spi)) {
            return;
        }
        let sa = match done {
            Some(done) => candidates.iter().find(|sa| sa.spi == done.spi),
            None => candidates.first(),
        };
        let iv = done.zip(sa).map(|(_, sa)| iv_of(sa, sealed.packet(), esp_at(sa, plain))).unwrap_or_default();
        self.keep(|at| Traced {
            octets_after: fate.is_ok().then(|| sealed.packet().len()),
            policy: sa.map(|sa| Arc::clone(&sa.policy)),
            spi: done.map(|done| done.spi),
            sequence: done.map(|done| done.sequence),
            sender_id: sa.and_then(|sa| sender_id(sa, &iv)),
            iv,
            dropped: fate.err(),
            ..Traced::of(plain, at, true)
        });
    }

    /// Protected packets before they are opened: afterwards it is too late to ask what they were.
    pub(crate) fn arrivals<'s>(&self, frames: &[Frame], flows: &Flows<'s, Sa>) -> Vec<Arrival<'s>> {
        let arrival = |(at, frame): (usize, &Frame)| Arrival::of(frame.packet(), flows.headers(at), flows.found(at));
        frames.iter().enumerate().map(arrival).collect()
    }

    /// What became of them.
    pub(crate) fn inbound(&self, arrivals: Vec<Arrival<'_>>, frames: &[Frame], fates: &[Fate<u32>]) {
        for ((arrival, frame), fate) in arrivals.into_iter().zip(frames).zip(fates) {
            // Of what is no sound packet nobody can say whose it is.
            if *fate == Err(DropReason::InHdrError) {
                continue;
            }
            let plain = fate.ok().and_then(|_| Headers::parse(frame.packet()).ok());
            let takes = match &plain {
                Some(plain) => self.filter.takes(plain),
                None => self.filter.takes_addresses(arrival.outer.source, arrival.outer.destination),
            };
            if !takes || !self.filter.takes_spi(arrival.spi) {
                continue;
            }
            self.keep(|at| Traced {
                octets_before: arrival.outer.total,
                octets_after: plain.as_ref().map(|plain| plain.total),
                policy: arrival.sa.map(|sa| Arc::clone(&sa.policy)),
                spi: arrival.spi,
                sequence: arrival.sequence,
                sender_id: arrival.sa.and_then(|sa| sender_id(sa, &arrival.iv)),
                iv: arrival.iv,
                dropped: fate.err(),
                ..Traced::of(plain.as_ref().unwrap_or(&arrival.outer), at, false)
            });
        }
    }
}

impl Traced {
    /// What headers say.
    fn of(headers: &Headers, at: Duration, outbound: bool) -> Self {
        Self {
            at,
            outbound,
            source: headers.source,
            destination: headers.destination,
            protocol: headers.upper,
            ports: headers.ports,
            octets_before: headers.total,
            octets_after: None,
            policy: None,
            spi: None,
            sequence: None,
            iv: ArrayVec::new(),
            sender_id: None,
            dropped: None,
        }
    }
}

/// A [`Traced`] packet for people and programs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TracedStatus {
    /// When, in microseconds by the tap's clock.
    pub at_micros: u64,
    /// `out` or `in`.
    pub direction: &'static str,
    /// What became of it: `sealed`, `opened`, `dropped`, `clear` where the local policy lets it pass as it is, or `too-big` if
    /// it is too large for the link: then it is dropped, or its parts follow.
    pub result: &'static str,
    /// Why it was dropped.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<&'static str>,
    /// Source: of the plain packet; of the protected one where it was not opened.
    pub source: IpAddr,
    /// Destination, likewise.
    pub destination: IpAddr,
    /// Upper protocol, likewise.
    pub protocol: u8,
    /// Source and destination port, if there are any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ports: Option<(u16, u16)>,
    /// Octets as it came.
    pub octets_before: usize,
    /// Octets as it went.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub octets_after: Option<usize>,
    /// The policy that it falls under, or that its SA is of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy: Option<PolicyStatus>,
    /// SPI in hexadecimal, `0x` and eight digits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub spi: Option<String>,
    /// Sequence number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sequence: Option<u32>,
    /// IV in hexadecimal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub iv: Option<String>,
    /// Sender ID in the IV.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sender_id: Option<u32>,
}

impl From<Traced> for TracedStatus {
    fn from(packet: Traced) -> Self {
        let result = match (packet.dropped, packet.outbound, packet.spi) {
            (Some(DropReason::OutTooBig), ..) => "too-big",
            (Some(_), ..) => "dropped",
            (None, true, Some(_)) => "sealed",
            (None, true, None) => "clear",
            (None, false, _) => "opened",
        };
        let iv = packet.iv.iter().map(|octet| format!("{octet:02x}")).collect::<String>();
        Self {
            at_micros: u64::try_from(packet.at.as_micros()).unwrap_or(u64::MAX),
            direction: if packet.outbound { "out" } else { "in" },
            result,
            reason: packet.dropped.map(DropReason::name),
            source: packet.source,
            destination: packet.destination,
            protocol: packet.protocol,
            ports: packet.ports,
            octets_before: packet.octets_before,
            octets_after: packet.octets_after,
            policy: packet.policy.as_deref().map(PolicyStatus::of),
            spi: packet.spi.map(|spi| format!("{spi:#010x}")),
            sequence: packet.sequence,
            iv: Some(iv).filter(|iv| !iv.is_empty()),
            sender_id: packet.sender_id,
        }
    }
}

/// A protected packet as it came.
pub(crate) struct Arrival<'s> {
    outer: Headers,
    sa: Option<&'s Sa>,
    spi: Option<u32>,
    sequence: Option<u32>,
    iv: ArrayVec<u8, MAX_IV>,
}

impl<'s> Arrival<'s> {
    fn of(packet: &[u8], outer: Headers, sa: Option<&'s Sa>) -> Self {
        let esp = packet.get(outer.upper_at..).filter(|_| outer.upper == protocol::ESP).and_then(EspPacket::new);
        let numbers = esp.map(|esp| (esp.spi(), esp.sequence()));
        let iv = sa.map(|sa| iv_of(sa, packet, outer.upper_at)).unwrap_or_default();
        Self { outer, sa, spi: numbers.map(|(spi, _)| spi), sequence: numbers.map(|(_, number)| number), iv }
    }
}

/// Where ESP begins in what was a plain packet.
fn esp_at(sa: &Sa, plain: &Headers) -> usize {
    match sa.policy.mode {
        EspMode::Transport => plain.split,
        EspMode::Tunnel => plain.version.header_len(),
    }
}

/// The IV, which stands in clear.
fn iv_of(sa: &Sa, packet: &[u8], esp_at: usize) -> ArrayVec<u8, MAX_IV> {
    let octets = packet.get(esp_at + HEADER_LEN..).and_then(|behind| behind.get(..sa.layout.iv)).unwrap_or_default();
    octets.iter().copied().take(MAX_IV).collect()
}

fn sender_id(sa: &Sa, iv: &[u8]) -> Option<u32> {
    sa.state.sender_id(*iv.first_chunk().filter(|_| sa.is_counter_mode())?)
}
