//! What a second thread that seals or opens brings where a core is free for it.
//!
//! Load, sealing, opening and receiving on two cores leave none free. So the threads are held back until the queues of the
//! TUN device, or the sockets that receive, are full; then nothing but they runs. What they seal goes to the network, where nobody takes it;
//! what they open goes to the host, where nobody waits for it.

use std::num::NonZeroU8;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use dataplane::engine::EngineConfig;
use dataplane::engine::userspace::{Passage, Workers};
use dataplane::{DropReason, Fate, Frame, IvSource, Sad, Sealed, Snapshot};
use keyferry_model::policy::EspTransform;
use serde::Serialize;

use super::load::{Flow, Handing, Sender, now};
use super::net::{Net, WIRE};
use super::ours::{GROUP, MTU, SOURCE, START, TUN, attach, join, update};
use crate::Size;

/// Packets that a queue of a TUN device holds.
const QUEUE: u32 = 16_384;
/// Packets that are sent to each receiving socket, fewer than it holds.
const RECEIVED: u32 = 4_096;
/// Packets of so many flows, which the kernel divides among the queues. No thread gets two of one flow in a burst, which it would hand to
/// the host as one.
const FLOWS: u32 = 256;

/// What the threads do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Work {
    Sealing,
    Opening,
}

impl Work {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Sealing => "sealing",
            Self::Opening => "opening",
        }
    }
}

/// Packets per second that one and two threads seal and send, or receive and open.
#[derive(Debug, Serialize)]
pub(crate) struct Queues {
    pub(crate) transform: &'static str,
    pub(crate) octets: usize,
    pub(crate) work: Work,
    pub(crate) one: f64,
    pub(crate) two: f64,
    /// The goal is 1.7 at least.
    pub(crate) ratio: f64,
    pub(crate) meets_goal: bool,
}

pub(super) fn measure(
    name: &'static str,
    transform: EspTransform,
    octets: usize,
    work: Work,
    size: Size,
) -> Result<Queues> {
    let mut best = [0.0f64; 2];
    for _ in 0..size.pick(1, 12) {
        for (best, threads) in best.iter_mut().zip([NonZeroU8::MIN, NonZeroU8::MIN.saturating_add(1)]) {
            let rate = match work {
                Work::Sealing => seal(transform, octets, threads)?,
                Work::Opening => open(transform, octets, threads)?,
            };
            *best = best.max(rate);
        }
    }
    let [one, two] = best;
    let ratio = two / one;
    Ok(Queues { transform: name, octets, work, one, two, ratio, meets_goal: ratio >= 1.7 })
}

/// Packets per second that so many threads seal.
fn seal(transform: EspTransform, octets: usize, threads: NonZeroU8) -> Result<f64> {
    let net = Net::new()?;
    // Short of what the queues hold, so that they may be filled unevenly.
    let packets = u64::from(QUEUE) * u64::from(threads.get()) * 3 / 4;
    let gate = Arc::new(Gate::new(snapshot(transform, 1)?, packets * 3 / 4));
    let workers = net.from.within(|| start(threads, NonZeroU8::MIN, &gate))?;
    gate.run(workers, || {
        attach(&net.from, 1)?;
        net.from.ip(&format!("link set {TUN} txqueuelen {QUEUE}"))?;
        net.from.within(|| Sender::new(flow(octets), Some(TUN))?.burst(packets))
    })
}

/// Packets per second that so many threads open.
fn open(transform: EspTransform, octets: usize, threads: NonZeroU8) -> Result<f64> {
    let net = Net::new()?;
    // The sockets' shares are not quite even.
    let packets = u64::from(RECEIVED) * u64::from(threads.get());
    let gate = Arc::new(Gate::new(snapshot(transform, 2)?, packets * 3 / 4));
    let sealing = Arc::new(Gate::new(snapshot(transform, 1)?, packets));
    sealing.open();
    let from = net.from.within(|| start(NonZeroU8::MIN, NonZeroU8::MIN, &sealing))?;
    let workers = net.to.within(|| start(NonZeroU8::MIN, threads, &gate))?;
    let _joined = join(&net.to)?;
    gate.run(workers, || {
        attach(&net.from, 1)?;
        attach(&net.to, 2)?;
        net.from.ip(&format!("link set {TUN} txqueuelen {QUEUE}"))?;
        net.from.within(|| Sender::new(flow(octets), Some(TUN))?.burst(packets))?;
        sealing.wait()?;
        // When the last have left, all of them are in the receiver's sockets.
        drop(from);
        Ok(())
    })
}

fn start(queues: NonZeroU8, receivers: NonZeroU8, passage: &Arc<impl Passage>) -> Result<Workers> {
    let mut config = EngineConfig::new(TUN, WIRE, MTU);
    (config.queues, config.receivers) = (queues, receivers);
    Ok(Workers::start(&config, Arc::clone(passage))?)
}

fn snapshot(transform: EspTransform, sender_id: u32) -> Result<Arc<Snapshot>> {
    let mut sad = Sad::new();
    sad.apply(update(transform, sender_id), START)?;
    Ok(sad.snapshot())
}

fn flow(octets: usize) -> Flow {
    Flow { octets, senders: FLOWS, source: SOURCE, destination: GROUP, handing: Handing::Singly }
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

    /// Fills the queues of threads that it holds back, lets these run and gives their rate.
    fn run(&self, workers: Workers, fill: impl FnOnce() -> Result<()>) -> Result<f64> {
        let filled = fill();
        // Threads are not to wait for ever, whatever happened.
        self.open();
        let rate = filled.and_then(|()| self.wait());
        drop(workers);
        rate
    }

    /// Waits until as many packets have passed as shall, and gives their rate.
    fn wait(&self) -> Result<f64> {
        let ended = (0..5_000).find_map(|_| {
            thread::sleep(Duration::from_millis(2));
            self.rate.get().copied()
        });
        ended.context("the threads do not come to an end")
    }

    fn count(&self, burst: usize, opened: Duration) {
        let burst = burst as u64;
        let packets = self.packets.fetch_add(burst, Ordering::Relaxed) + burst;
        if packets >= self.goal {
            self.rate.get_or_init(|| packets as f64 / (now() - opened).as_secs_f64());
        }
    }
}

impl Passage for Gate {
    fn outbound(&self, frames: &mut [Frame], ivs: &mut IvSource, fates: &mut Vec<Fate<Sealed>>) {
        let opened = *self.opened.wait();
        self.snapshot.seal_burst(frames, ivs, fates);
        self.count(frames.len(), opened);
    }

    fn inbound(&self, frames: &mut [Frame], fates: &mut Vec<Fate<u32>>) {
        let opened = *self.opened.wait();
        self.snapshot.open_burst(frames, fates);
        self.count(fates.iter().filter(|fate| fate.is_ok()).count(), opened);
    }

    fn count_drops(&self, reason: DropReason, packets: usize) {
        self.snapshot.count_drops(reason, packets);
    }
}
