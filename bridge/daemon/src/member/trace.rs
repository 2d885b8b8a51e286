//! Looks at single packets of a member's data planes, for whoever asks over the control socket.
//!
//! A look ends when nobody reads what came of it: whoever asked may have gone.

use std::sync::Arc;
use std::time::Duration;

use dataplane::{Flow, FlowFilter, Tap, TracedStatus};
use keyferry_model::id::GroupId;
use keyferry_model::policy::Selector;
use keyferry_model::time::{Deadline, Now};

use super::joined::Joined;
use crate::control::{Explained, FlowOf, NOT_SHOWN, TraceFilter, TraceStarted, TracedPacket, TracedPackets};
use crate::random::Clock;

/// Packets of a group between two reads; further ones are counted.
const ROOM: usize = 100;

/// A trace that nobody reads ends after this time.
const LEASE: Duration = Duration::from_secs(5);

/// The trace that is on, if any is.
#[derive(Default)]
pub(super) struct Traces {
    last: u64,
    running: Option<Running>,
}

struct Running {
    taps: Vec<(GroupId, Arc<Tap>)>,
    read: Duration,
}

impl Traces {
    /// Begins to look at packets of one group, or of all.
    pub(super) fn start(
        &mut self,
        joined: &[Joined],
        group: Option<&GroupId>,
        filter: &TraceFilter,
        clock: Clock,
    ) -> Result<TraceStarted, String> {
        if self.running.is_some() {
            return Err("somebody else looks at packets of this member: one at a time".to_owned());
        }
        let filter = filter_of(filter)?;
        let (mut taps, mut without, mut in_kernel) = (Vec::new(), Vec::new(), false);
        for joined in chosen(joined, group)? {
            let time = Box::new(move || clock.now().wall);
            let tap = Arc::new(Tap::new(filter.clone(), ROOM, time));
            if joined.engine().is_some_and(|engine| engine.set_tap(Some(Arc::clone(&tap)))) {
                taps.push((joined.id().clone(), tap));
            } else {
                without.push(joined.id().clone());
                in_kernel |= joined.dataplane().is_some_and(|plane| plane.engine == "kernel");
            }
        }
        if taps.is_empty() {
            let why =
                if in_kernel { NOT_SHOWN } else { "nothing is protected here: there are streams alone, or keys only" };
            return Err(why.to_owned());
        }
        self.last += 1;
        let groups = taps.iter().map(|(group, _)| group.clone()).collect();
        tracing::info!(trace = self.last, ?groups, "packets are looked at");
        self.running = Some(Running { taps, read: clock.now().mono });
        Ok(TraceStarted { trace: self.last, groups, without })
    }

    /// What came since the last time.
    pub(super) fn read(&mut self, trace: u64, now: Now) -> Result<TracedPackets, String> {
        let running = self.running.as_mut().filter(|_| trace == self.last).ok_or("this trace has ended")?;
        running.read = now.mono;
        let mut missed = 0;
        let mut packets = Vec::new();
        for (group, tap) in &running.taps {
            let taken = tap.take();
            missed += taken.missed;
            packets.extend(taken.packets.into_iter().map(|packet| (packet.at, group, packet)));
        }
        packets.sort_by_key(|(at, ..)| *at);
        let told = |(_, group, packet): (Duration, &GroupId, _)| TracedPacket {
            group: group.clone(),
            packet: serde_json::to_value(TracedStatus::from(packet)).unwrap_or_default(),
        };
        Ok(TracedPackets { packets: packets.into_iter().map(told).collect(), missed })
    }

    /// Ends a trace.
    pub(super) fn stop(&mut self, joined: &[Joined], trace: u64) -> Result<bool, String> {
        if self.running.is_none() || trace != self.last {
            return Err("this trace has ended".to_owned());
        }
        self.end(joined);
        Ok(true)
    }

    /// Ends a trace that nobody reads.
    pub(super) fn expire(&mut self, joined: &[Joined], now: Now) {
        if self.deadline().is_some_and(|due| due.at <= now.mono) {
            self.end(joined);
        }
    }

    pub(super) fn deadline(&self) -> Option<Deadline> {
        let running = self.running.as_ref()?;
        Some(Deadline { at: running.read + LEASE, reason: "nobody reads a trace" })
    }

    fn end(&mut self, joined: &[Joined]) {
        if self.running.take().is_some() {
            joined.iter().filter_map(Joined::engine).for_each(|engine| {
                engine.set_tap(None);
            });
            tracing::info!(trace = self.last, "packets are looked at no more");
        }
    }
}

/// What would become of a packet, in one group or in each.
pub(super) fn explain(joined: &[Joined], group: Option<&GroupId>, flow: FlowOf) -> Result<Vec<Explained>, String> {
    let FlowOf { source, destination, protocol, ports, octets } = flow;
    if source.is_ipv4() != destination.is_ipv4() {
        return Err("source and destination are of different families".to_owned());
    }
    let flow = Flow { source, destination, protocol, ports, octets };
    let told = |joined: &Joined| {
        let explanation = joined.engine().and_then(|engine| engine.explain(&flow));
        let explanation = explanation.map(|told| serde_json::to_value(told).unwrap_or_default()).unwrap_or_default();
        Explained { group: joined.id().clone(), explanation }
    };
    Ok(chosen(joined, group)?.into_iter().map(told).collect())
}

/// One group, or all.
fn chosen<'j>(joined: &'j [Joined], group: Option<&GroupId>) -> Result<Vec<&'j Joined>, String> {
    let chosen: Vec<_> = joined.iter().filter(|joined| group.is_none_or(|group| joined.id() == group)).collect();
    match (chosen.is_empty(), group) {
        (true, Some(group)) => Err(format!("this member has no group {group}")),
        (true, None) | (false, _) => Ok(chosen),
    }
}

fn filter_of(filter: &TraceFilter) -> Result<FlowFilter, String> {
    let network = |network: Option<(std::net::IpAddr, u8)>| match network {
        Some((address, prefix)) if prefix > if address.is_ipv4() { 32 } else { 128 } => {
            Err(format!("/{prefix} is no prefix length"))
        }
        Some((address, prefix)) => Ok(Some(Selector { address, prefix, protocol: 0, port: 0 })),
        None => Ok(None),
    };
    Ok(FlowFilter {
        source: network(filter.source)?,
        destination: network(filter.destination)?,
        protocol: filter.protocol,
        port: filter.port,
        spi: filter.spi,
    })
}
