//! What a second sealing thread brings where a core is free for it.
//!
//! Load, sealing, opening and receiving on two cores leave none free. So the sealing threads are held back until the queues of the
//! TUN device are full; then nothing but they runs. What they seal goes to the network, where nobody takes it.

use std::num::NonZeroU8;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::Duration;

use anyhow::{Result, ensure};
use dataplane::engine::EngineConfig;
use dataplane::engine::userspace::{Passage, Workers};
use dataplane::{DropReason, Fate, Frame, IvSource, Sad, Sealed, Snapshot};
use keyferry_model::policy::EspTransform;
use serde::Serialize;

use super::load::{Flow, Handing, Sender, now};
use super::net::{Net, WIRE};
use super::ours::{GROUP, MTU, SOURCE, START, TUN, attach, update};
use crate::Size;

/// Packets that a queue holds.
const QUEUE: u32 = 16_384;
/// Packets of so many flows, which the kernel divides among the queues.
const FLOWS: u32 = 64;

/// Packets per second that one and two threads seal and send.
#[derive(Debug, Serialize)]
pub(crate) struct Queues {
    pub(crate) transform: &'static str,
    pub(crate) octets: usize,
    pub(crate) one: f64,
    pub(crate) two: f64,
    /// The goal is 1.7 at least.
    pub(crate) ratio: f64,
    pub(crate) meets_goal: bool,
}

pub(super) fn measure(name: &'static str, transform: EspTransform, octets: usize, size: Size) -> Result<Queues> {
    let mut best = [0.0f64; 2];
    for _ in 0..size.pick(1, 12) {
        for (best, queues) in best.iter_mut().zip([NonZeroU8::MIN, NonZeroU8::MIN.saturating_add(1)]) {
            *best = best.max(run(transform, octets, queues)?);
        }
    }
    let [one, two] = best;
    let ratio = two / one;
    Ok(Queues { transform: name, octets, one, two, ratio, meets_goal: ratio >= 1.7 })
}

/// Packets per second.
fn run(transform: EspTransform, octets: usize, queues: NonZeroU8) -> Result<f64> {
    let net = Net::new()?;
    let mut sad = Sad::new();
    sad.apply(update(transform, 1), START)?;
    // Short of what the queues hold, so that they may be filled unevenly.
    let packets = u64::from(QUEUE) * u64::from(queues.get()) * 3 / 4;
    let gate = Arc::new(Gate::new(sad.snapshot(), packets * 3 / 4));
    let workers = net.from.within(|| {
        let mut config = EngineConfig::new(TUN, WIRE, MTU);
        config.queues = queues;
        Ok(Workers::start(&config, Arc::clone(&gate))?)
    })?;
    let filled = (|| {
        attach(&net.from, 1)?;
        net.from.ip(&format!("link set {TUN} txqueuelen {QUEUE}"))?;
        let flow = Flow { octets, senders: FLOWS, source: SOURCE, destination: GROUP, handing: Handing::Singly };
        net.from.within(|| Sender::new(flow, Some(TUN))?.burst(packets))
    })();
    // Threads are not to wait for ever, whatever happened.
    gate.open();
    filled?;
    let ended = (0..5_000).find_map(|_| {
        thread::sleep(Duration::from_millis(2));
        gate.rate.get().copied()
    });
    drop(workers);
    ensure!(ended.is_some(), "the sealing threads do not come to an end");
    Ok(ended.unwrap_or_default())
}

/// Holds all back until it is opened, and takes the time from then on until so many packets are sealed that no queue is
/// empty yet.
struct Gate {
    snapshot: Arc<Snapshot>,
    goal: u64,
    opened: OnceLock<Duration>,
    packets: AtomicU64,
    rate: OnceLock<f64>,
}

impl Gate {
    fn new(snapshot: Arc<Snapshot>, goal: u64) -> Self {
        Self { snapshot, goal, opened: OnceLock::new(), packets: AtomicU64::new(0), rate: OnceLock::new() }
    }

    fn open(&self) {
        self.opened.get_or_init(now);
    }
}

impl Passage for Gate {
    fn outbound(&self, frames: &mut [Frame], ivs: &mut IvSource, fates: &mut Vec<Fate<Sealed>>) {
        let opened = *self.opened.wait();
        self.snapshot.seal_burst(frames, ivs, fates);
        let burst = frames.len() as u64;
        let packets = self.packets.fetch_add(burst, Ordering::Relaxed) + burst;
        if packets >= self.goal {
            self.rate.get_or_init(|| packets as f64 / (now() - opened).as_secs_f64());
        }
    }

    fn inbound(&self, frames: &mut [Frame], fates: &mut Vec<Fate<u32>>) {
        self.snapshot.open_burst(frames, fates);
    }

    fn count_drop(&self, reason: DropReason) {
        self.snapshot.count_drop(reason);
    }
}
